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
from tests.conftest import TEXTS, build_model

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


# ---- refusals


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
        match=rf"different models: .* has ids up to {largest}, .* vocabulary has 160 rows",
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
        CheckpointError, match="has ids up to 160, and the model's vocabulary has 160 rows"
    ):
        choose(exceeds)


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
        match=r"text of 12 tokens does not fit into the memory of cpu\. Use device='cpu', or",
    ):
        results(SmallMemory(room=11))


def test_inference_mode_does_not_leak_to_the_caller_between_batches(tiny_bert):
    encoder = load_encoder(resolve(tiny_bert), 1)
    compute = lambda batch, workspace: encoder.pooled(batch, ("mean",), (1,), workspace)  # noqa: E731
    for _ in run_batches(encoder, SEQUENCES, BATCHES, compute):
        assert not torch.is_inference_mode_enabled()
        assert torch.is_grad_enabled()
