"""Characters that the vocabulary lacks are counted, and told where many texts have them."""

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from pipeline import (
    BertVectorizer,
    FineTunedBertClassifier,
    evaluate,
    load_reviews,
    write_report,
)
from pipeline.exceptions import ModelWarning, UnknownTokensWarning
from tests.conftest import build_model

FACES = ["a lovely film 😀", "a lovely film 😡", "a lovely film", "no 😀 no 😀"]
MANY = {
    "emoji": [f"what a day {face}" for face in "😀😡🎉"],
    "a script": ["좋아요", "정말 좋아요", "영화 좋아요"],
    "symbols": ["done ✔", "▶ play", "✅ ok"],
    "mathematics": ["∮ and ∑", "⨂", "let ⨁ be"],
}


@pytest.mark.parametrize("family", ["bert", "bert-cased", "electra", "distilbert", "xlm-roberta"])
@pytest.mark.filterwarnings("ignore::pipeline.exceptions.UnknownTokensWarning")
def test_they_are_counted_as_the_models_own_tokenizer_gives_them(
    family, model_folder, hugging_face
):
    oracle = hugging_face(model_folder(family))
    texts = [*FACES, "", "word 3 of 7", *MANY["a script"], "x" * 120]
    vectorizer = BertVectorizer(model_folder(family)).fit(texts)
    unknown = oracle.tokenizer.unk_token_id
    expected = [oracle.ids(text, 512).count(unknown) for text in texts]
    assert sum(map(bool, expected)) >= 4
    counted = vectorizer.count_tokens(texts)
    assert counted["n_unknown"].tolist() == expected
    total = int(counted["n_tokens"].sum())
    report = {
        "n_texts": len(texts),
        "texts_with_unknown": sum(map(bool, expected)),
        "n_tokens": total,
        "tokens_unknown": sum(expected),
        "share_unknown": pytest.approx(sum(expected) / total),
        "n_words": sum(len(text.split()) for text in texts),
        "pieces_per_word": pytest.approx(
            sum(len(oracle.ids(text, 512)) - 2 for text in texts)
            / sum(len(text.split()) for text in texts)
        ),
    }
    assert counted["n_words"].tolist() == [len(text.split()) for text in texts]
    assert vectorizer.unknown_report_ == report
    twice = BertVectorizer(model_folder(family))
    twice.fit_transform([*texts, *texts])  # equal texts are encoded once, and counted twice
    assert twice.unknown_report_["tokens_unknown"] == 2 * sum(expected)


@pytest.mark.filterwarnings("ignore::pipeline.exceptions.UnknownTokensWarning")  # it spells
def test_a_vocabulary_of_bytes_lacks_nothing(model_folder):
    texts = [text for texts in MANY.values() for text in texts]
    vectorizer = BertVectorizer(model_folder("roberta")).fit(texts)
    vectorizer.transform(texts)
    assert vectorizer.unknown_report_["tokens_unknown"] == 0
    assert vectorizer.count_tokens(texts)["n_unknown"].sum() == 0


SPELT = {
    "Hangul": ["이 영화는 정말 재미있었다", "배송이 너무 늦어요", "다시는 안 사요"],
    "Cyrillic": ["Это было ужасно.", "Очень хороший фильм!", "Никогда больше"],
    "Greek": ["Το φαγητό ήταν υπέροχο.", "Δεν μου άρεσε καθόλου", "Πολύ καλό"],  # noqa: RUF001
    "Arabic": ["الفيلم رائع جدا", "لم يعجبني أبدا", "سأشاهده مرة أخرى"],
}
READ = {
    "English": ["so good 😍 loved it!!", "café, naïve", "don’t — ever"],  # noqa: RUF001
    "German": ["Der Film war wunderschön", "Nie wieder, große Enttäuschung", "Übel"],
    "Chinese": ["这部电影真的很好看", "我不喜欢", "很好"],
    "tweets": [
        "@VirginAmerica thx for the quick reply 😀 landed in SFO an hour early!! #fly",
        "ok so the new season of this show is SO good 😂😂 can't stop watching it http://t.co/a1",
        "RT @you: Monday mornings... why do they even exist 🙄 #coffee #work",
        "Happy birthday to my best friend in the whole wide world ❤️🎉 love u lots xx",
    ],
    "code-mixed": ["yaar this movie बहुत boring hai", "love это place", "mot film tres bien"],
}


@pytest.mark.parametrize("script", SPELT)
def test_a_script_that_the_model_spells_out_is_named_with_a_model_for_it(script):
    vectorizer = BertVectorizer(layers=0)
    with pytest.warns(UnknownTokensWarning, match=rf"in {script} letters.*multilingual") as caught:
        vectorizer.fit(SPELT[script])
    assert len(caught) == 1
    vectorizer.transform(SPELT[script])  # of so few a service is not told
    vectorizer.fit([*SPELT[script], *("a plain text" for _ in range(20))])


@pytest.mark.parametrize("texts", READ.values(), ids=READ)
def test_what_the_model_reads_in_words_or_as_it_should_is_not_called_spelt(texts):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("error", message=".*letters.*")
        BertVectorizer(layers=0).fit(texts)


@pytest.mark.parametrize("texts", MANY.values(), ids=MANY)
def test_one_warning_tells_of_many_such_texts_in_every_call(texts):
    vectorizer = BertVectorizer(layers=0)
    calls = (
        vectorizer.fit,
        BertVectorizer(layers=0).fit_transform,
        lambda texts: vectorizer.transform(texts),
    )
    for call in calls:
        with pytest.warns(UnknownTokensWarning, match="More than 20% of the texts") as caught:
            call([*texts, "plain", *texts])
        assert len(caught) == 1
    vectorizer.transform(texts)  # a share of so few says little: a service sends one at a time


LACKED = {
    "CJK": ["这部电影真的很好看", "我不喜欢", "餐厅的服务员态度恶劣"],
    "Hiragana": ["この映画は本当に面白かった", "もう二度と買いません", "とても最高でした"],
    "Thai": ["หนังเรื่องนี้สนุกมาก", "ไม่ชอบเลย", "แย่มาก"],
}


@pytest.mark.parametrize("script", LACKED)
def test_a_script_whose_letters_the_vocabulary_lacks_is_named_with_a_model_for_it(script):
    with pytest.warns(
        UnknownTokensWarning, match=rf"{script} characters that.*multilingual"
    ) as told:
        BertVectorizer(layers=0).fit(LACKED[script])
    assert len(told) == 1
    with pytest.warns(UnknownTokensWarning, match="contain emoji or symbols .*by words"):
        BertVectorizer(layers=0).fit(["😀😡", "🎉🎉", "naïve 👍"])


def test_tweets_with_an_emoji_or_two_are_read_and_counted():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        vectorizer = BertVectorizer(layers=0).fit(READ["tweets"])
    assert vectorizer.unknown_report_["texts_with_unknown"] == 4


def test_a_language_that_is_spelt_out_has_many_pieces_to_a_word():
    korean = BertVectorizer(layers=0)
    with pytest.warns(UnknownTokensWarning):
        korean.fit(SPELT["Hangul"])
    english = BertVectorizer(layers=0).fit(load_reviews()[0]["text"][:200])
    assert 1 < english.unknown_report_["pieces_per_word"] < 1.5
    assert korean.unknown_report_["pieces_per_word"] > 4


def test_ordinary_english_gives_none():
    vectorizer = BertVectorizer(layers=0, cache=None)
    reviews = load_reviews()[0]["text"].tolist()
    odd = ["naïve café, “quoted” £5 … 20 °C", "Zoë: résumé™ • ½ price → now ★", "x" * 200]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        vectorizer.fit(reviews)
        vectorizer.fit([*odd, *reviews[:10]])
        vectorizer.fit([*["a plain film"] * 9, "a film 😀"])  # one in ten
    assert vectorizer.unknown_report_["texts_with_unknown"] == 1


def test_evaluate_scores_such_texts_beside_the_others(tiny_bert, tmp_path):
    texts = ["a film", "a day", "a lovely day 😀", "a film 😡"] * 3
    labels = [0, 1, 0, 1] * 3
    model = make_pipeline(BertVectorizer(tiny_bert), LogisticRegression())
    with pytest.warns(UnknownTokensWarning):
        model.fit(texts, labels)
    with pytest.warns(UnknownTokensWarning) as caught:
        scores = evaluate(model, texts, labels, n_bootstrap=0, n_map=0)
    assert len(caught) == 1
    right = np.ones(12, bool)
    right[[mistake["row"] for mistake in scores["mistakes"]]] = False
    some, none = (
        next(group for group in scores["slices"]["by unknown characters"] if group["value"] == v)
        for v in ("some", "none")
    )
    has = model[0].count_tokens(texts)["n_unknown"].to_numpy() > 0
    assert (some["n_texts"], none["n_texts"]) == (6, 6)
    assert some["accuracy"] == right[has].mean()
    assert none["accuracy"] == right[~has].mean()
    told = scores["unknown"]
    assert told == {**model[0].unknown_report_, "training": model[0].unknown_report_}
    assert (told["n_words"], told["tokens_unknown"]) == (33, 6)
    page = write_report(scores, tmp_path / "page.html").read_text(encoding="utf-8")
    assert f"in {told['pieces_per_word']:.2f} pieces, {told['pieces_per_word']:.2f} in" in page
    assert f"{told['share_unknown']:.1%} of the tokens are unknown" in page


def test_a_fine_tuned_model_tells_it_too(tiny_bert):
    model = FineTunedBertClassifier(tiny_bert, max_length=16, epochs=1, early_stopping=False)
    with pytest.warns(UnknownTokensWarning):
        model.fit(["a film 😀", "a day 😡", "a film", "a day"], [0, 1, 0, 1])
    with pytest.warns(UnknownTokensWarning):
        model.predict(["😀"] * 5)
    model.predict(["😀"])


# ---- where sentence-transformers would cut


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """Give a folder that names 16 of its 64 positions."""
    folder = build_model(tmp_path_factory.mktemp("short") / "model", "bert")
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 16}))
    return folder


def test_texts_that_sentence_transformers_would_cut_are_told_of_by_fit(short):
    longer = "film " * 20
    for method in ("fit", "fit_transform"):
        with pytest.warns(ModelWarning, match=r"longer than 16 tokens.*read up to 64.*=16 ") as w:
            getattr(BertVectorizer(short), method)(["film", longer])
        assert len(w) == 1
    fitted = BertVectorizer(short).fit(["film"])  # none is longer
    fitted.transform([longer])
    BertVectorizer(short, max_length=64).fit([longer])  # asked for
    with pytest.warns(UserWarning, match="longer than max_length=16"):
        BertVectorizer(short, max_length=16).fit([longer])


@pytest.mark.parametrize("content", ["{}", "[]", "no JSON", '{"max_seq_length": null}',
                                     '{"max_seq_length": 512}'])  # fmt: skip
def test_folders_that_say_nothing_of_use_are_read_without_a_word(content, short, tmp_path):
    folder = Path(shutil.copytree(short, tmp_path / "model"))
    (folder / "sentence_bert_config.json").write_text(content)
    BertVectorizer(folder).fit(["film " * 20])


def test_the_default_model_is_used_without_a_word():
    BertVectorizer(layers=0).fit(["film " * 400])  # its folder says 256
