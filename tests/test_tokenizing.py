"""TextTokenizer: ids are the model's own, cut by policies that a slow reference confirms."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from pipeline.bert.tokenizing import TextTokenizer
from pipeline.checkpoints.checkpoint import CheckpointError
from pipeline.texts import check_texts
from tests.conftest import FAMILIES, TEXTS

NASTY = [
    "",
    " ",
    "\t\n\r",
    "\x00",
    "a\x00b",
    "\u200b",
    "\ufeffbyte order mark",
    "\u202eright to left\u202c",
    "e\u0301 is \u00e9",
    "ﬁlm ﬃ Ⅷ ½",
    "İstanbul \u0131SPARTA ẞ ß",
    "東京は楽しい 한국어 ไทย العربية हिन्दी",
    "😀👩‍👩‍👧‍👦🏳️‍🌈🇫🇷",
    "\U0010ffff\ue000\ufffd\ufffe",
    "don't-stop'd e-mail's co\u00adop",
    "[CLS] [SEP] [MASK] [PAD] [UNK] <s> </s> <pad> <mask>",
    "👍🏽 👩🏿‍🚀 שָׁלוֹם مرحبا\u0640 Å A\u030a",
    "##ing ▁film Ġfilm",
    "film" * 60,
    "Z\u0351\u036b\u0343\u036a\u0302\u036b\u033d\u034f\u0334\u0319\u0324\u031e\u0349\u035a\u032f\u031e\u0320\u034dA",
    "\u3000wide　space\u00a0no-break\u2028line\u2029",
    "1,000.50 $5 http://a.b/c?d=e&f a_b @you #tag",
]


def tokenizer_json(folder):
    return Path(folder, "tokenizer.json").read_text(encoding="utf-8")


def own_ids(encodings):
    return [ids.tolist() for ids in encodings.input_ids]


@pytest.mark.parametrize("family", FAMILIES)
def test_ids_are_those_of_the_models_own_tokenizer(family, model_folder, hugging_face):
    tokenizer = TextTokenizer(tokenizer_json(model_folder(family)), 512, "error")
    texts = [*TEXTS, *NASTY]
    tokenized = tokenizer(texts)
    expected = [hugging_face(model_folder(family)).ids(text, 512) for text in texts]
    assert own_ids(tokenized) == expected
    assert own_ids(tokenizer.with_pieces(texts)[1]) == expected
    assert tokenized.owner.tolist() == list(range(len(texts)))
    assert tokenized.n_tokens.tolist() == [len(ids) for ids in expected]
    assert tokenized.n_lost.tolist() == [0] * len(texts)


@pytest.mark.parametrize("family", ["bert", "bert-cased", "roberta"])
@settings(
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=100,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(st.lists(st.text(st.characters(exclude_categories=())), min_size=1, max_size=3))
@example(["\ud83d\ude00 film", "\ude00", "a\ud83d"])
def test_any_text_gets_the_ids_of_transformers_or_is_refused_by_its_row(
    family, model_folder, hugging_face, texts
):
    folder = model_folder(family)
    repaired = check_texts(texts, on_invalid="coerce")
    assert [
        text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") for text in texts
    ] == repaired
    tokenized = TextTokenizer(tokenizer_json(folder), 512, "error")(repaired)
    assert own_ids(tokenized) == [hugging_face(folder).ids(text, 512) for text in repaired]
    if repaired != texts:
        row = next(i for i, text in enumerate(texts) if text != repaired[i])
        with pytest.raises(ValueError, match=rf"row {row} of X, a str, contains a lone surrogate"):
            check_texts(texts)


def test_a_word_of_a_million_characters_is_one_unknown_token(tiny_bert, hugging_face):
    word = "x" * 1_000_000
    tokenized = TextTokenizer(tokenizer_json(tiny_bert), 16, "head")([word])
    assert own_ids(tokenized) == [hugging_face(tiny_bert).ids(word, 16)]
    assert tokenized.n_tokens.tolist() == [3]


@pytest.mark.parametrize("truncation", ["head", "tail"])
def test_a_text_of_a_million_words_is_cut_to_the_ids_of_transformers_and_counted_whole(
    truncation, tiny_bert, hugging_face
):
    text = "a " * 999_999 + "film"
    tokenized = TextTokenizer(tokenizer_json(tiny_bert), 16, truncation)([text])
    near = text[:100] if truncation == "head" else text[-101:]
    expected = hugging_face(tiny_bert).ids(near, 512)
    kept = (
        [*expected[:15], expected[-1]] if truncation == "head" else [expected[0], *expected[-15:]]
    )
    assert own_ids(tokenized) == [kept]
    assert tokenized.n_lost.tolist() == [tokenized.n_tokens[0] - 16]
    assert tokenized.n_tokens[0] >= 1_000_002


MEMORY = """
import resource, sys
from pathlib import Path
from pipeline.bert.tokenizing import TextTokenizer

def peak():
    unit = 1024 if sys.platform == "linux" else 1 << 20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit

text = Path(sys.argv[1], "tokenizer.json").read_text(encoding="utf-8")
tokenizer = TextTokenizer(text, 16, "head")
tokenizer(["a film"])
before = peak()
tokenizer(["x" * 1_000_000])
word = peak()
tokenizer(["a " * 50_000 for _ in range(60)])
print(word - before, peak() - word)
"""


@pytest.mark.skipif(os.name == "nt", reason="no resource module")
def test_long_words_and_many_long_texts_need_little_memory(tiny_bert):
    top = Path(__file__).resolve().parent.parent
    run = subprocess.run(
        [sys.executable, "-c", MEMORY, tiny_bert],
        capture_output=True,
        text=True,
        check=True,
        cwd=top,
    )
    word, texts = map(float, run.stdout.split())  # MiB
    assert word < 150
    assert texts < 400  # their three million tokens take some 700 MiB when all are kept at once


# ---- truncation


def slow_select(n_tokens, capacity, truncation):
    """Decide token by token."""
    tokens = list(range(n_tokens))
    if len(tokens) <= capacity:
        return [tokens]
    if truncation == "window":
        windows, start = [], 0
        while True:
            windows.append(tokens[start : start + capacity])
            if start + capacity >= n_tokens:
                return windows
            start += capacity - capacity // 4
    while len(tokens) > capacity:
        tokens.pop({"head": len(tokens) - 1, "tail": 0, "head_tail": capacity // 4}[truncation])
    return [tokens]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("max_length", [3, 4, 6, 7, 10, 18])
def test_windows_and_head_are_those_of_transformers(max_length, family, model_folder, hugging_face):
    text = " ".join(TEXTS)
    capacity = max_length - 2
    hf = hugging_face(model_folder(family)).tokenizer
    windows = hf(
        text,
        truncation=True,
        max_length=max_length,
        stride=capacity // 4,
        return_overflowing_tokens=True,
    )["input_ids"]
    tokenizer = TextTokenizer(tokenizer_json(model_folder(family)), max_length, "window")
    tokenized = tokenizer(["film", text])
    assert own_ids(tokenized)[-len(windows) :] == windows
    n_of_first = len(tokenized.input_ids) - len(windows)
    assert tokenized.owner.tolist() == [0] * n_of_first + [1] * len(windows)
    assert tokenized.n_lost.tolist() == [0, 0]
    assert [index.tolist() for index in tokenizer.windows(50)] == slow_select(
        50, capacity, "window"
    )
    head = TextTokenizer(tokenizer_json(model_folder(family)), max_length, "head")
    assert own_ids(head([text])) == [hugging_face(model_folder(family)).ids(text, max_length)]


@pytest.mark.parametrize("truncation", ["head", "tail", "head_tail"])
def test_cut_texts_keep_their_ends_and_count_what_was_lost(truncation, tiny_bert, hugging_face):
    text = " ".join(TEXTS)
    start, *own, end = hugging_face(tiny_bert).ids(text, 512)
    tokenized = TextTokenizer(tokenizer_json(tiny_bert), 11, truncation)(["film", text])
    [kept] = slow_select(len(own), 9, truncation)
    assert own_ids(tokenized)[1] == [start, *(own[i] for i in kept), end]
    assert tokenized.n_tokens[1] == len(own) + 2
    assert tokenized.n_lost.tolist() == [0, len(own) - 9]


# ---- the state of tokenizer.json


def test_truncation_and_padding_in_tokenizer_json_are_ignored(tiny_bert):
    stored = json.loads(tokenizer_json(tiny_bert))
    assert stored["truncation"] is not None
    assert stored["padding"] is not None
    plain = json.dumps({**stored, "truncation": None, "padding": None})
    found = own_ids(TextTokenizer(tokenizer_json(tiny_bert), 64, "head")(TEXTS))
    assert found == own_ids(TextTokenizer(plain, 64, "head")(TEXTS))
    assert len(found[0]) > stored["truncation"]["max_length"]
    assert len({len(ids) for ids in found}) > 1


@pytest.mark.parametrize(
    "post_processor",
    [
        None,
        {
            "type": "TemplateProcessing",
            "single": [
                {"Sequence": {"id": "A", "type_id": 0}},
                {"SpecialToken": {"id": "[SEP]", "type_id": 0}},
            ],
            "pair": [
                {"Sequence": {"id": "A", "type_id": 0}},
                {"Sequence": {"id": "B", "type_id": 0}},
            ],
            "special_tokens": {"[SEP]": {"id": "[SEP]", "ids": [3], "tokens": ["[SEP]"]}},
        },
    ],
    ids=["nothing", "end-only"],
)
def test_a_tokenizer_that_puts_nothing_in_front_is_refused(post_processor, tiny_bert):
    stored = json.loads(tokenizer_json(tiny_bert))
    with pytest.raises(
        CheckpointError, match=r"does not put \[CLS\] in front of a text.*Save the tokenizer again"
    ):
        TextTokenizer(json.dumps({**stored, "post_processor": post_processor}), 64, "head")


@pytest.mark.parametrize(
    "text", ["", "{}", "not json", '{"version": "1.0", "model": {"type": "Unheard"}}']
)
def test_an_unreadable_tokenizer_is_refused_by_name(text):
    with pytest.raises(
        CheckpointError, match=r"tokenizer\.json cannot be read: .*Fetch the model again"
    ):
        TextTokenizer(text, 64, "head")


# ---- pieces and vocabulary


def test_pieces_are_of_the_whole_text_even_where_it_is_cut(tiny_bert, hugging_face):
    text = TEXTS[0]
    encodings, tokenized = TextTokenizer(tokenizer_json(tiny_bert), 6, "tail").with_pieces([text])
    assert encodings[0].ids == hugging_face(tiny_bert).ids(text)[1:-1]
    assert [text[a:b].lower() for a, b in encodings[0].offsets] == [
        token.removeprefix("##") for token in encodings[0].tokens
    ]
    assert tokenized.input_ids[0].tolist()[1:-1] == encodings[0].ids[-4:]


@pytest.mark.parametrize("family", FAMILIES)
def test_words_that_are_split_already_keep_the_ids_and_numbers_of_the_tokenizers_library(
    family, model_folder
):
    oracle = Tokenizer.from_str(tokenizer_json(model_folder(family)))
    oracle.no_truncation()
    oracle.no_padding()
    texts = [["Unbelievably", "don't", "\u200b", "film"], [], [""], ["soup"]]
    encodings, tokenized = TextTokenizer(
        tokenizer_json(model_folder(family)), 64, "head"
    ).with_pieces(texts)
    for words, encoding, ids in zip(texts, encodings, tokenized.input_ids, strict=True):
        expected = oracle.encode(words, is_pretokenized=True)
        assert ids.tolist() == expected.ids
        assert encoding.word_ids == [word for word in expected.word_ids if word is not None]
