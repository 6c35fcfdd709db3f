"""Tiny random models of every family, built here: no test needs a network or a hub."""

import itertools
import json
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

# read when huggingface_hub is imported: nothing in this suite asks the hub
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"

import numpy as np
import pytest
import torch
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import CONFIG_MAPPING, MODEL_MAPPING, AutoModel, PreTrainedTokenizerFast
from transformers.utils import logging as hf_logging

from pipeline import clear_cache
from pipeline.bert.encoder import HuggingFaceEncoder
from pipeline.bert.packed import PackedEncoder
from tests.commands import (  # noqa: F401  (fixtures)
    artifact,
    data,
    few_reviews,
    fitted,
    light_artifact,
    run,
    write,
)
from tests.fake_hub import (  # noqa: F401  (fixtures)
    ask,
    cached,
    environment,
    home,
    hub,
    snapshot,
    start,
    storage,
)

hf_logging.disable_progress_bar()

# they start processes, servers or a browser, train models, or run long pages and searches
SLOW = (
    "test_answers test_artifact test_attacks test_cache_kill test_checkpoint_modules "
    "test_comparison test_concurrency test_cuda test_dask_executor "
    "test_dask_grid_search test_dask_scoring test_docs test_embedding_cache "
    "test_executors test_fault_loops test_fuzzing "
    "test_cli test_columns test_explanation test_failures test_finetuning test_fitting "
    "test_first_hour test_folds test_forks test_hub test_judging test_labelling test_layer_mix "
    "test_layer_scores test_linear test_machines test_object_storage test_occlusion test_processes "
    "test_readme test_several_labels test_stacking test_sums "
    "test_report_browser "
    "test_reporting test_saved_estimators test_sklearn_contract test_table test_walk test_word2vec"
).split()


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.stem in SLOW:
            item.add_marker(pytest.mark.slow)


def pytest_make_parametrize_id(val, argname):
    """Name bytes by their argument: those of an archive hold the time, and ids have to be equal."""
    return argname if isinstance(val, bytes) else None


CORPUS = [
    "A quiet, lovely film that stayed with me for days.",
    "Two hours of my life I want back!",
    "The soup was cold and the waiter did not care, but the terrace is beautiful.",
    "I love Paris in the spring, when it drizzles.",
    "Not a dull minute; don't miss it.",
    "Überraschend gut. 東京 は 楽しい. Très bien.",
]
TEXTS = [
    *CORPUS,
    "",
    "film",
    "A quiet, lovely film that stayed with me for days.",
    "unbelievably embeddable",
    "a " * 30,
]
FRESH_SEEDS = itertools.count(1000)  # for build_model: of a model that no other test has loaded
FAMILIES = ("bert", "bert-cased", "distilbert", "roberta", "xlm-roberta", "electra")
# run by transformers' own forward
OTHER_FAMILIES = (
    *("albert", "deberta", "deberta-v2", "ernie", "eurobert", "modernbert", "mpnet"),
    *("roberta-prelayernorm", "xlm-roberta-xl"),
)
_LIKE_ROBERTA = ("roberta", "xlm-roberta", "roberta-prelayernorm", "xlm-roberta-xl")
# of words and blanks: what a sentencepiece or byte-level tokenizer makes of a text
_UNIGRAM = ("xlm-roberta", "xlm-roberta-xl", "albert", "deberta-v2")
_BYTES = ("roberta", "roberta-prelayernorm", "deberta", "modernbert", "eurobert")


def _wordpiece(lowercase: bool) -> Tokenizer:
    normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    splitter = pre_tokenizers.BertPreTokenizer()
    # by hand, for a WordPieceTrainer orders its pieces differently in each process
    split = [splitter.pre_tokenize_str(normalizer.normalize_str(text)) for text in CORPUS]
    words = sorted({word for text in split for word, _ in text})
    letters = sorted(set("".join(words)))
    # the others are two pieces or more
    whole = [word if i % 2 else word[:-1] for i, word in enumerate(words) if len(word) > 3]
    pairs = Counter(word[i : i + 2] for word in words for i in range(1, len(word) - 1))
    frequent = sorted(pairs, key=lambda pair: (-pairs[pair], pair))
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces = [*specials, *letters, *(f"##{letter}" for letter in letters), *whole]
    pieces += [f"##{pair}" for pair in frequent]
    vocabulary = list(dict.fromkeys(pieces))[:160]
    tokenizer = Tokenizer(
        models.WordPiece({piece: i for i, piece in enumerate(vocabulary)}, unk_token="[UNK]")
    )
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = splitter
    tokenizer.add_special_tokens(specials)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")],
    )
    tokenizer.decoder = decoders.WordPiece()
    # what real tokenizer.json files carry, and what must never be used here
    tokenizer.enable_truncation(9)
    tokenizer.enable_padding(length=9, pad_id=0, pad_token="[PAD]")
    return tokenizer


def _roberta_like(byte_level: bool) -> Tokenizer:
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    if byte_level:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        trainer = trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=specials,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.decoder = decoders.ByteLevel()
    else:
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=150, special_tokens=specials, unk_token="<unk>", show_progress=False
        )
        tokenizer.decoder = decoders.Metaspace()
    tokenizer.train_from_iterator(CORPUS, trainer)
    if not byte_level:  # pieces of one score stand in another order in each process
        vocabulary = json.loads(tokenizer.to_str())["model"]["vocab"]
        scores = {piece: round(score, 3) for piece, score in vocabulary}
        rest = sorted({*scores} - {*specials}, key=lambda piece: (-scores[piece], piece))
        ordered = [(piece, scores[piece]) for piece in (*specials, *rest)]
        unknown = specials.index("<unk>")
        tokenizer.model = models.Unigram(ordered, unk_id=unknown, byte_fallback=False)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    return tokenizer


def build_model(
    folder: Path,
    family: str,
    *,
    seed: int = 0,
    n_layers: int = 3,
    max_positions: int = 64,
    **config: object,
) -> Path:
    """Write a random model of a family, with a tokenizer trained on `CORPUS`, as a model folder."""
    folder.mkdir(parents=True, exist_ok=True)
    model_type = family.removesuffix("-cased")
    if model_type in (*_UNIGRAM, *_BYTES):
        tokenizer = _roberta_like(byte_level=model_type in _BYTES)
        names = ("<s>", "</s>", "<pad>", "<unk>")
        values = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
    else:
        tokenizer = _wordpiece(lowercase=not family.endswith("-cased"))
        names = ("[CLS]", "[SEP]", "[PAD]", "[UNK]")
        values = {"pad_token_id": 0}
    # some count positions from padding_idx + 1; MPNet always from 2
    offset = 2 if model_type in (*_LIKE_ROBERTA, "mpnet") else 0
    values["max_position_embeddings"] = max_positions + offset
    if model_type == "mpnet":
        values |= {"pad_token_id": 1}
    if model_type == "distilbert":
        values |= {"dim": 32, "hidden_dim": 64, "n_heads": 4, "n_layers": n_layers}
    else:
        values |= {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4}
        values["num_hidden_layers"] = n_layers
    if model_type in ("electra", "albert"):
        values["embedding_size"] = 16
    if model_type in ("deberta", "deberta-v2"):  # as published
        values |= {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]}
    if model_type == "modernbert":  # a window narrower than the texts
        values |= {"local_attention": 8, "cls_token_id": 0, "sep_token_id": 2}
    if model_type == "eurobert":
        values |= {"num_key_value_heads": 4}
    tokenizer.save(str(folder / "tokenizer.json"))
    vocabulary = tokenizer.get_vocab_size()
    torch.manual_seed(seed)
    settings = CONFIG_MAPPING[model_type](
        vocab_size=vocabulary, initializer_range=0.3, **(values | config)
    )
    MODEL_MAPPING[type(settings)](settings).eval().save_pretrained(folder)
    keys = ("cls_token", "sep_token", "pad_token", "unk_token")
    about = dict(zip(keys, names, strict=True))
    if model_type in OTHER_FAMILIES:  # their own classes add tokens
        about["tokenizer_class"] = "PreTrainedTokenizerFast"
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
    return folder


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Give the folder of a tiny random model by family name; each is built once."""
    built: dict[str, str] = {}

    def get(family: str) -> str:
        if family not in built:
            built[family] = str(build_model(tmp_path_factory.mktemp("models") / family, family))
        return built[family]

    return get


@pytest.fixture(scope="session")
def tiny_bert(model_folder: Callable[[str], str]) -> str:
    """Give the folder of a random 3-layer BERT of width 32, uncased."""
    return model_folder("bert")


@pytest.fixture(autouse=True)
def _empty_cache() -> None:
    """Let no test find what another one has encoded."""
    clear_cache()


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """List how many texts go through an encoder, batch by batch, counted where they do."""
    counts: list[int] = []
    for kind in (PackedEncoder, HuggingFaceEncoder):

        def counted(self, batch, *arguments, pooled=kind.pooled):
            counts.append(len(batch.lengths))
            return pooled(self, batch, *arguments)

        monkeypatch.setattr(kind, "pooled", counted)
    return counts


def slow_varlen_attn(query, key, value, cu_q, cu_k, max_q, max_k, *, scale, num_splits):
    """Do what CUDA's kernel of this signature does, one text at a time on any device."""
    assert cu_q.dtype == cu_k.dtype == torch.int32
    assert (max_q, max_k) == (cu_q.diff().max(), cu_k.diff().max())
    out = []
    for i in range(len(cu_q) - 1):
        q = query[cu_q[i] : cu_q[i + 1]].transpose(0, 1)[None]
        k, v = (x[cu_k[i] : cu_k[i + 1]].transpose(0, 1)[None] for x in (key, value))
        own = torch.nn.functional.scaled_dot_product_attention(q, k, v, scale=scale)
        out.append(own[0].transpose(0, 1))
    return torch.cat(out)


class HuggingFace:
    """The outside oracle: transformers' own tokenizer and forward, one text at a time."""

    def __init__(self, folder: str) -> None:
        self.model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
        config = json.loads((Path(folder) / "tokenizer_config.json").read_text())
        self.tokenizer = PreTrainedTokenizerFast(
            tokenizer_file=str(Path(folder) / "tokenizer.json"),
            **{k: config[k] for k in ("cls_token", "sep_token", "pad_token", "unk_token")},
        )

    def ids(self, text: str, max_length: int = 64) -> list[int]:
        options = {"truncation": True, "max_length": max_length, "padding": False}
        return self.tokenizer(text, **options)["input_ids"]

    def hidden_states(self, text: str, max_length: int = 64) -> np.ndarray:
        """All layers of one text, shape (n_layers + 1, n_tokens, hidden_size)."""
        return self.hidden_states_of_ids(self.ids(text, max_length))

    def hidden_states_of_ids(self, ids: list[int]) -> np.ndarray:
        input_ids = torch.tensor([ids])
        with torch.inference_mode():
            output = self.model(
                input_ids=input_ids,
                attention_mask=torch.ones_like(input_ids),
                output_hidden_states=True,
            )
        return torch.stack(output.hidden_states)[:, 0].numpy()

    def sentence_vector(
        self, text: str, layer: int, pooling: str, max_length: int = 64
    ) -> np.ndarray:
        state = self.hidden_states(text, max_length)[layer]  # (n_tokens, hidden_size)
        return {"cls": state[0], "mean": state.mean(axis=0), "max": state.max(axis=0)}[pooling]


@pytest.fixture(scope="session")
def hugging_face() -> Callable[[str], HuggingFace]:
    """Give the oracle of a model folder."""
    loaded: dict[str, HuggingFace] = {}

    def get(folder: str) -> HuggingFace:
        if folder not in loaded:
            loaded[folder] = HuggingFace(folder)
        return loaded[folder]

    return get
