"""FrozenBert: each distinct text once, windows weighted, cuts counted, wrong choices refused."""

import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.bert.embedding import FrozenBert, run_batches
from pipeline.bert.encoder import load_encoder
from pipeline.checkpoints.checkpoint import CheckpointError, resolve
from tests.conftest import FAMILIES, TEXTS, build_model

TOLERANCE = 1e-5
LONG = f"{TEXTS[0]} {TEXTS[4]}"
SOME = ["film", LONG, "", "film", TEXTS[3], LONG]


def choose(folder, **choice):
    standard = {
        "layers": -1,
        "poolings": ("mean",),
        "max_length": None,
        "truncation": "head",
        "batch_tokens": 1000,
        "device": "auto",
        "dtype": "float32",
    }
    return FrozenBert.choose(resolve(str(folder)), **standard | choice)


@pytest.fixture(params=[True, False], ids=["packed", "hugging face"])
def either(request, monkeypatch, tiny_bert):
    """Make choices of the tiny model, run by either forward."""
    monkeypatch.setattr(
        "pipeline.bert.embedding.load_encoder", partial(load_encoder, packed=request.param)
    )
    return partial(choose, tiny_bert)


def pooled(state, pooling):
    return {"cls": state[0], "mean": state.mean(axis=0), "max": state.max(axis=0)}[pooling]


def slow_embed(oracle, text, poolings, layers, max_length):
    """Windows by transformers, one forward pass each, averaged by their numbers of tokens."""
    windows = oracle.tokenizer(
        text,
        truncation=True,
        max_length=max_length,
        stride=(max_length - 2) // 4,
        return_overflowing_tokens=True,
    )["input_ids"]
    states = [oracle.hidden_states_of_ids(ids) for ids in windows]
    total = sum(len(ids) for ids in windows)
    return np.array(
        [
            [
                sum(
                    len(ids) * pooled(s[layer], pooling)
                    for ids, s in zip(windows, states, strict=True)
                )
                / total
                for layer in layers
            ]
            for pooling in poolings
        ]
    )


# ---- the plan


def test_each_distinct_text_is_planned_once_in_the_order_of_first_sight(tiny_bert):
    plan = choose(tiny_bert).plan(SOME)
    assert plan.row_of.tolist() == [0, 1, 2, 0, 3, 1]
    assert plan.n_distinct == 4
    assert len(plan.tokenized.input_ids) == 4
    assert plan.encodings is None
    assert sorted(int(i) for batch in plan.batches for i in batch) == [0, 1, 2, 3]


def test_texts_that_differ_in_anything_are_distinct(tiny_bert):
    assert choose(tiny_bert).plan(["film", "Film", "film ", "fi\u200blm"]).n_distinct == 4


@pytest.mark.parametrize("activation", ["gelu", "silu"])  # the latter is not packed
def test_every_batch_keeps_the_budget_and_is_of_one_length_unless_packed(activation, tmp_path):
    folder = str(build_model(tmp_path / "model", "bert", hidden_act=activation))
    plan = choose(folder, max_length=10, truncation="window", batch_tokens=25).plan(TEXTS)
    for batch in plan.batches:
        lengths = [len(plan.tokenized.input_ids[i]) for i in batch]
        assert activation == "gelu" or len(set(lengths)) == 1
        assert sum(lengths) <= 25


def test_pieces_belong_to_the_distinct_texts(tiny_bert):
    plan = choose(tiny_bert).plan(["film", "soup", "film"], pieces=True)
    assert len(plan.encodings) == plan.n_distinct == 2
    split = choose(tiny_bert).plan([("the", "film"), ("soup",), ("the", "film")], pieces=True)
    assert split.row_of.tolist() == [0, 1, 0]
    assert [max(encoding.word_ids) for encoding in split.encodings] == [1, 0]


@pytest.mark.parametrize("pieces", [False, True])
def test_no_texts_make_an_empty_plan(pieces, tiny_bert):
    plan = choose(tiny_bert, truncation="window").plan([], pieces=pieces)
    assert plan.n_distinct == 0
    assert plan.batches == []
    assert plan.truncation_report() == {
        "n_texts": 0,
        "texts_cut": 0,
        "n_tokens": 0,
        "tokens_lost": 0,
        "share_lost": 0.0,
        "texts_in_windows": 0,
    }


# ---- the report


@pytest.mark.parametrize("max_length", [3, 6, 12, 64])
@pytest.mark.parametrize("truncation", ["head", "tail", "head_tail", "window"])
def test_the_report_is_what_counting_row_by_row_gives(
    truncation, max_length, hugging_face, tiny_bert
):
    texts = [*SOME, *TEXTS]
    cut = in_windows = n_tokens = lost = 0
    for text in texts:
        length = len(hugging_face(tiny_bert).ids(text, 512))
        n_tokens += length
        if length > max_length and truncation == "window":
            in_windows += 1
        elif length > max_length:
            cut += 1
            lost += length - max_length
    bert = choose(tiny_bert, max_length=max_length, truncation=truncation)
    assert bert.plan(texts).truncation_report() == {
        "n_texts": len(texts),
        "texts_cut": cut,
        "n_tokens": n_tokens,
        "tokens_lost": lost,
        "share_lost": pytest.approx(lost / n_tokens),
        "texts_in_windows": in_windows,
    }


# ---- vectors


@pytest.mark.parametrize(("max_length", "batch_tokens"), [(64, 1000), (10, 1000), (10, 1), (7, 30)])
def test_vectors_are_those_of_the_slow_windows_whatever_the_batches(
    max_length, batch_tokens, either, hugging_face, tiny_bert
):
    poolings, layers = ("max", "cls", "mean"), (3, 0, 2)
    bert = either(
        poolings=poolings,
        layers=layers,
        max_length=max_length,
        truncation="window",
        batch_tokens=batch_tokens,
    )
    found = bert.embed(bert.plan(SOME))
    expected = {
        text: slow_embed(hugging_face(tiny_bert), text, poolings, layers, max_length)
        for text in set(SOME)
    }
    assert found.dtype == np.float32
    assert found.shape == (len(SOME), 3, 3, 32)
    for row, text in zip(found, SOME, strict=True):
        assert np.abs(row - expected[text]).max() <= TOLERANCE


def test_the_pooler_of_a_text_in_windows_is_their_weighted_mean(either, hugging_face, tiny_bert):
    bert = either(poolings=("pooler",), max_length=10, truncation="window")
    plan = bert.plan([LONG])
    windows = plan.tokenized.input_ids
    assert len(windows) > 2
    with torch.inference_mode():
        model = hugging_face(tiny_bert).model
        of_each = [model(torch.from_numpy(ids)[None]).pooler_output[0].numpy() for ids in windows]
    expected = np.average(of_each, axis=0, weights=[len(ids) for ids in windows])
    assert np.abs(bert.embed(plan)[0, 0, 0] - expected).max() <= TOLERANCE


def test_duplicates_get_equal_rows_that_are_not_the_same_memory(either):
    bert = either()
    found = bert.embed(bert.plan(["film", "film"]))
    assert np.array_equal(found[0], found[1])
    found[0] = 0
    assert found[1].any()


@pytest.mark.parametrize("batch_tokens", [1, 30, 1000])
def test_on_batch_is_told_of_every_sequence(batch_tokens, either):
    bert = either(max_length=10, truncation="window", batch_tokens=batch_tokens)
    plan = bert.plan(SOME)
    sizes = []
    bert.embed(plan, sizes.append)
    assert sizes == [len(batch) for batch in plan.batches]
    assert sum(sizes) == len(plan.tokenized.input_ids) > plan.n_distinct


@pytest.mark.parametrize("max_length", [10, 64])
def test_token_vectors_are_the_hidden_states_of_every_sequence(
    max_length, either, hugging_face, tiny_bert
):
    bert = either(layers=(2, 0), max_length=max_length, truncation="window", batch_tokens=40)
    plan = bert.plan(SOME)
    found = bert.embed_tokens(plan)
    assert len(found) == len(plan.tokenized.input_ids)
    for ids, vectors in zip(plan.tokenized.input_ids, found, strict=True):
        states = hugging_face(tiny_bert).hidden_states_of_ids(ids.tolist())
        assert vectors.dtype == np.float32
        assert np.abs(vectors - np.stack([states[2], states[0]], axis=1)).max() <= TOLERANCE


# ---- choices


@pytest.mark.parametrize("family", FAMILIES)
def test_a_choice_is_resolved_against_the_model(family, model_folder):
    bert = choose(model_folder(family), layers=(-1, 0), poolings=("cls", "max"))
    assert (bert.n_layers, bert.hidden_size, bert.layers, bert.max_length) == (3, 32, (3, 0), 64)
    assert choose(model_folder(family), layers="all").layers == (0, 1, 2, 3)
    assert choose(model_folder(family), max_length=10).max_length == 10


@pytest.mark.parametrize("family", FAMILIES)
def test_a_plan_is_embedded_as_hugging_face_does_one_text_at_a_time(
    family, model_folder, hugging_face
):
    bert = choose(model_folder(family), layers=(2, 0), poolings=("cls", "mean", "max"))
    found = bert.embed(bert.plan(TEXTS[:4]))
    assert found.shape == (4, 3, 2, 32)
    for row, text in zip(found, TEXTS[:4], strict=True):
        states = hugging_face(model_folder(family)).hidden_states(text)[[2, 0]]
        expected = np.stack([states[:, 0], states.mean(axis=1), states.max(axis=1)])
        assert np.abs(row - expected).max() <= TOLERANCE


def test_an_empty_plan_gives_no_rows_and_loads_nothing(tiny_bert, monkeypatch):
    monkeypatch.setattr(
        "pipeline.bert.embedding.load_encoder", lambda *a, **k: pytest.fail("a model was loaded")
    )
    bert = choose(tiny_bert, layers="all", poolings=("cls", "mean"))
    found = bert.embed(bert.plan([]))
    assert found.shape == (0, 2, 4, 32)
    assert found.dtype == np.float32
    assert bert.embed_tokens(bert.plan([], pieces=True)) == []


def test_the_pooler_needs_no_layer_but_the_last(tiny_bert, hugging_face):
    bert = choose(tiny_bert, poolings=("pooler", "cls"))
    found = bert.embed(bert.plan(["film"]))
    assert found.shape == (1, 2, 1, 32)
    assert (
        np.abs(found[0, 1, 0] - hugging_face(tiny_bert).sentence_vector("film", 3, "cls")).max()
        <= TOLERANCE
    )


# ---- refusals


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"layers": 4}, r"asks for layer 4; this model has 3 layers.* to 3, or -4 to -1"),
        ({"layers": ()}, "layers is empty"),
        ({"layers": (0, -4)}, "names a layer twice"),
        (
            {"max_length": 65},
            r"max_length=65, but '.*bert' has positions for 64 tokens.*"
            "'window', 'head_tail' or 'tail'",
        ),
        (
            {"poolings": ("cls", "pooler"), "layers": (2,)},
            r"made for the last layer only; layers=\(2,\)\. Use layers=-1",
        ),
        ({"poolings": ("pooler",), "layers": "all"}, r"made for the last layer only; layers='all'"),
        ({"device": "cuda:99"}, "device='cuda:99' is not on this machine; there is .*cpu"),
        ({"device": "cpu", "dtype": "bfloat16"}, "dtype='bfloat16' needs an accelerator"),
    ],
)
def test_what_the_model_does_not_have_is_refused(choice, message, tiny_bert):
    with pytest.raises(ValueError, match=message):
        choose(tiny_bert, **choice)


@pytest.mark.parametrize("family", ["distilbert", "electra"])
def test_a_pooler_that_was_never_trained_is_refused(family, model_folder):
    with pytest.raises(
        ValueError, match=rf"needs a trained pooler, and '.*{family}' has none.*Use 'cls' or 'mean'"
    ):
        choose(model_folder(family), poolings=("pooler",))


@pytest.fixture
def mixed(tmp_path):
    """Give a model of 160 words with the tokenizer of one that has many more."""
    folder = build_model(tmp_path / "bert", "bert")
    other = build_model(tmp_path / "roberta", "roberta")
    shutil.copy(other / "tokenizer.json", folder / "tokenizer.json")
    return folder


def test_a_tokenizer_of_another_model_is_refused_with_both_sizes(mixed):
    largest = max(json.loads((mixed / "tokenizer.json").read_text())["model"]["vocab"].values())
    with pytest.raises(
        CheckpointError,
        match=rf"knows ids up to {largest}, the model's vocabulary has 160 rows.*different models",
    ):
        choose(mixed)


def add_token(folder, number):
    """Give the tokenizer one added token, in the place of a word where its id is taken."""
    stored = json.loads((folder / "tokenizer.json").read_text())
    stored["added_tokens"].append({**stored["added_tokens"][0], "id": number, "content": "<user>"})
    stored["model"]["vocab"] = {
        token: i for token, i in stored["model"]["vocab"].items() if i != number
    }
    (folder / "tokenizer.json").write_text(json.dumps(stored))


def test_one_token_more_than_the_vocabulary_has_is_refused_and_one_that_fits_is_not(
    tiny_bert, tmp_path
):
    fits, exceeds = (
        Path(shutil.copytree(tiny_bert, tmp_path / name)) for name in ("fits", "exceeds")
    )
    add_token(fits, 159)
    add_token(exceeds, 160)
    assert choose(fits).tokenizer.largest_id == 159
    with pytest.raises(
        CheckpointError, match="knows ids up to 160, the model's vocabulary has 160 rows"
    ):
        choose(exceeds)


def test_a_truncated_weights_file_is_refused_before_any_text_is_seen(tiny_bert, tmp_path):
    folder = Path(shutil.copytree(tiny_bert, tmp_path / "model"))
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-100])
    with pytest.raises(
        CheckpointError, match=r"cut short: \d+ bytes where \d+ are needed\. Fetch the model again"
    ):
        choose(folder)


# ---- batches


RNG = np.random.default_rng(0)
SEQUENCES = [RNG.integers(1, 100, size=n) for n in (12, 11, 9, 9, 9, 5, 4, 3, 1)]
BATCHES = [np.array([0, 1, 2]), np.array([3, 4, 5, 6]), np.array([7, 8])]


class SmallMemory:
    """An encoder whose memory holds ``room`` tokens; it sums the ids of each text."""

    device = torch.device("cpu")

    def __init__(self, room: int) -> None:
        self.room = room
        self.seen: list[int] = []
        self.workspaces = 0

    def workspace(self):
        self.workspaces += 1
        return self.workspaces

    def compute(self, batch, workspace):
        self.seen.append(len(batch.input_ids))
        if len(batch.input_ids) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return torch.tensor(
            [float(ids.sum()) for ids in np.split(batch.input_ids, batch.starts[1:-1])]
        )


def results(encoder):
    found = np.full(len(SEQUENCES), np.nan)
    order = []
    for positions, values in run_batches(encoder, SEQUENCES, BATCHES, encoder.compute):
        found[positions] = values
        order.extend(positions.tolist())
    assert order == list(range(len(SEQUENCES)))  # longest first, each once
    return found


EXPECTED = np.array([ids.sum() for ids in SEQUENCES])


def test_every_batch_is_run_once_with_one_workspace():
    encoder = SmallMemory(room=1000)
    assert np.array_equal(results(encoder), EXPECTED)
    assert encoder.seen == [32, 27, 4]
    assert encoder.workspaces == 1


@pytest.mark.parametrize("room", [12, 13, 20, 25, 31])
def test_where_memory_runs_out_the_budget_is_halved_and_nothing_is_lost(room):
    encoder = SmallMemory(room)
    assert np.array_equal(results(encoder), EXPECTED)
    assert encoder.workspaces > 1


def test_the_smaller_budget_is_kept_for_the_batches_that_follow():
    encoder = SmallMemory(room=24)
    assert np.array_equal(results(encoder), EXPECTED)
    # 32 tokens fail, so from then on 16: no later batch fails again
    assert [n for n in encoder.seen if n > 24] == [32]
    assert max(encoder.seen[1:]) <= 20


def test_a_text_that_does_not_fit_alone_is_an_error_with_a_cure():
    with pytest.raises(
        MemoryError,
        match=r"text of 12 tokens does not fit into the memory of cpu\. Use device='cpu', or a",
    ):
        results(SmallMemory(room=11))


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    def broken(batch, workspace):
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        list(run_batches(SmallMemory(1000), SEQUENCES, BATCHES, broken))


def test_inference_mode_does_not_leak_to_the_caller_between_batches(tiny_bert):
    encoder = load_encoder(resolve(tiny_bert), 1)
    compute = lambda batch, workspace: encoder.pooled(batch, ("mean",), (1,), workspace)  # noqa: E731
    for _ in run_batches(encoder, SEQUENCES, BATCHES, compute):
        assert not torch.is_inference_mode_enabled()
        assert torch.is_grad_enabled()
