"""On a GPU: transformers' vectors, bounded memory, files that move between devices."""

import multiprocessing
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel

from pipeline import (
    BertVectorizer,
    FineTunedBertClassifier,
    TruncationWarning,
    load_pipeline,
    make_sentiment_pipeline,
    save_pipeline,
)
from pipeline.bert.encoder import HuggingFaceEncoder, choose_device, load_encoder
from pipeline.bert.packed import PackedEncoder, has_varlen
from pipeline.bert.pooling import TokenBatch
from pipeline.checkpoints.checkpoint import installed_folder, resolve
from pipeline.vectorizer import DEFAULT_MODEL
from tests.conftest import FAMILIES, TEXTS, build_model
from tests.forking import Child

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="no GPU: torch.cuda.is_available() is false"
)

TOP = Path(__file__).resolve().parent.parent
GPU = torch.device("cuda:0")
POOLINGS = ("cls", "mean", "max")
LABELS = ["positive" if i % 3 else "negative" for i in range(len(TEXTS))]
# precision -> largest difference from float32 on the GPU, least cosine; docs/performance.md
BOUNDS = {"float32": (1e-4, 0.99999), "float16": (0.02, 0.9999), "bfloat16": (0.15, 0.999)}
HANG = 120  # seconds after which a process counts as hung

needs_varlen = pytest.mark.skipif(
    torch.cuda.is_available() and not has_varlen(GPU, torch.float16, 8),
    reason="this GPU, or this torch, has no variable-length attention",
)


def is_close(found, expected, dtype):
    """Compare vectors along the last axis."""
    found, expected = (torch.as_tensor(x).double().cpu() for x in (found, expected))
    largest, cosine = BOUNDS[dtype]
    return (found - expected).abs().max() <= largest and torch.cosine_similarity(
        found, expected, dim=-1
    ).min() >= cosine


@pytest.fixture(scope="module")
def states_of(hugging_face):
    """Give all layers of a text by transformers on the GPU, (n_layers + 1, n_tokens, hidden)."""
    models = {}

    def get(folder, text, max_length=64):
        if folder not in models:
            models[folder] = AutoModel.from_pretrained(folder, dtype=torch.float32).eval().to(GPU)
        ids = torch.tensor([hugging_face(folder).ids(text, max_length)], device=GPU)
        with torch.inference_mode():
            output = models[folder](
                ids, attention_mask=torch.ones_like(ids), output_hidden_states=True
            )
        return torch.stack(output.hidden_states)[:, 0]

    return get


def pooled_one_by_one(states_of, folder, texts, max_length=64):
    """Slow and obvious, shape (n_texts, n_poolings, n_layers, hidden_size)."""
    rows = []
    for text in texts:
        states = states_of(folder, text, max_length)
        rows.append(torch.stack([states[:, 0], states.mean(1), states.amax(1)]))
    return torch.stack(rows).cpu()


def batch_of(oracle, texts):
    return TokenBatch([np.array(oracle.ids(text)) for text in texts])


# ---- which device, which encoder


@pytest.mark.parametrize("device", ["auto", "cuda", "cuda:0"])
def test_it_runs_on_the_first_gpu_in_half_precision_by_every_name(device, tiny_bert):
    assert choose_device(device) == (GPU, torch.float16)
    found = BertVectorizer(tiny_bert, device=device, cache=None).fit(TEXTS)
    assert found.runs_on() == ("cuda:0", "float16")
    assert np.array_equal(
        found.transform(TEXTS), BertVectorizer(tiny_bert, cache=None).fit_transform(TEXTS)
    )


def test_a_gpu_that_is_not_there_is_refused(tiny_bert):
    with pytest.raises(ValueError, match=r"device='cuda:99' is not available .* cuda:0.*cpu"):
        BertVectorizer(tiny_bert, device="cuda:99").fit(TEXTS)


@needs_varlen
def test_half_precision_is_packed_and_float32_is_run_by_transformers(tiny_bert):
    kinds = [
        type(load_encoder(resolve(tiny_bert), 3, device="cuda", dtype=dtype)) for dtype in BOUNDS
    ]
    assert kinds == [HuggingFaceEncoder, PackedEncoder, PackedEncoder]


# ---- the numbers


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_pooling_of_every_layer_is_hugging_faces_whatever_the_batch(
    family, dtype, model_folder, states_of
):
    folder = model_folder(family)
    expected = pooled_one_by_one(states_of, folder, TEXTS)
    for batch_tokens in (None, 20):
        vectorizer = BertVectorizer(
            folder,
            pooling=POOLINGS,
            layers="all",
            device="cuda",
            dtype=dtype,
            cache=None,
            batch_tokens=batch_tokens,
        )
        assert is_close(vectorizer.fit_transform(TEXTS).reshape(expected.shape), expected, dtype)


@pytest.mark.parametrize("dtype", BOUNDS)
def test_the_pooler_is_hugging_faces(dtype, tiny_bert, hugging_face):
    oracle = hugging_face(tiny_bert)
    with torch.inference_mode():
        expected = torch.cat(
            [oracle.model(torch.tensor([oracle.ids(text)])).pooler_output for text in TEXTS]
        )
    found = BertVectorizer(
        tiny_bert, pooling="pooler", device="cuda", dtype=dtype, cache=None
    ).fit_transform(TEXTS)
    assert is_close(found, expected, dtype)


@pytest.mark.parametrize("dtype", BOUNDS)
def test_the_default_model_on_texts_of_very_different_lengths(dtype, states_of):
    folder = installed_folder(DEFAULT_MODEL)
    if folder is None:
        pytest.skip("the default model is not installed")
    texts = [*TEXTS, "word " * 300, "A quiet, lovely film. " * 100]
    expected = pooled_one_by_one(states_of, str(folder), texts, 512)
    vectorizer = BertVectorizer(
        folder, pooling=POOLINGS, layers="all", device="cuda", dtype=dtype, cache=None
    )
    with pytest.warns(TruncationWarning, match="longer than max_length=512"):
        found = vectorizer.fit_transform(texts)
    assert is_close(found.reshape(expected.shape), expected, dtype)


@pytest.mark.parametrize("dtype", BOUNDS)
def test_token_states_are_hidden_states_of_every_token(dtype, tiny_bert, hugging_face, states_of):
    encoder = load_encoder(resolve(tiny_bert), 3, device="cuda", dtype=dtype)
    found = encoder.token_states(batch_of(hugging_face(tiny_bert), TEXTS), (3, 0))
    expected = torch.cat([states_of(tiny_bert, text)[[3, 0]].transpose(0, 1) for text in TEXTS])
    assert is_close(found, expected, dtype)


# ---- memory


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """Give the folder of a model whose activations can be seen in the GPU's memory."""
    sizes = {"hidden_size": 256, "intermediate_size": 2048}
    return str(build_model(tmp_path_factory.mktemp("models") / "wide", "bert", n_layers=2, **sizes))


def peak(folder, n_texts, batch_tokens):
    """Return the most bytes allocated while encoding, without the weights."""
    vectorizer = BertVectorizer(folder, device="cuda", cache=None, batch_tokens=batch_tokens).fit(
        ["warm"]
    )
    texts = [f"{'a film ' * 8}{i}" for i in range(n_texts)]
    vectorizer.transform(texts[:1])
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    vectorizer.transform(texts)
    return torch.cuda.max_memory_allocated() - before


def test_memory_goes_with_the_budget_of_a_batch_and_not_with_the_number_of_texts(wide):
    small, more_texts, larger_budget = (
        peak(wide, 2000, 4096),
        peak(wide, 8000, 4096),
        peak(wide, 8000, 32_768),
    )
    assert more_texts <= 1.1 * small
    assert larger_budget >= 4 * small


def test_where_memory_runs_out_smaller_batches_give_the_same(wide):
    vectorizer = BertVectorizer(wide, device="cuda", cache=None).fit(["warm"])
    texts = [f"{'a film ' * 8}{i}" for i in range(4000)]
    expected = vectorizer.transform(texts)
    torch.cuda.empty_cache()
    failed = torch.cuda.memory_stats()["num_ooms"]
    total = torch.cuda.get_device_properties(GPU).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 250 * 2**20) / total)
    try:
        found = vectorizer.transform(texts)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert torch.cuda.memory_stats()["num_ooms"] > failed
    assert is_close(found, expected, "float16")


# ---- other processes, other machines


def predict_elsewhere(path, **environment):
    """Return what a new process says of `TEXTS`, and where it ran."""
    code = (
        "import sys, numpy, warnings; warnings.simplefilter('ignore')\n"
        "from pipeline import load_pipeline\n"
        "from tests.conftest import TEXTS; model = load_pipeline(sys.argv[1])\n"
        "numpy.save(sys.argv[1] + '.npy', model.predict_proba(TEXTS)); print(*model[0].runs_on())"
    )
    run = [sys.executable, "-c", code, str(path)]
    done = subprocess.run(
        run, capture_output=True, text=True, cwd=TOP, env=os.environ | environment, timeout=HANG
    )
    assert done.returncode == 0, done.stderr
    return np.load(f"{path}.npy"), done.stdout.split()


def test_a_file_made_on_the_gpu_opens_on_a_machine_without_one(tiny_bert, tmp_path):
    model = make_sentiment_pipeline(model=tiny_bert, device="cuda").fit(TEXTS, LABELS)
    path = save_pipeline(model, tmp_path / "m.joblib")
    here = load_pipeline(path)
    assert here[0].runs_on() == ("cuda:0", "float16")
    assert np.abs(here.predict_proba(TEXTS) - model.predict_proba(TEXTS)).max() <= 1e-3
    found, where = predict_elsewhere(path, CUDA_VISIBLE_DEVICES="")
    assert where == ["cpu", "float32"]
    assert np.abs(found - model.predict_proba(TEXTS)).max() <= 0.02


def test_a_file_made_on_a_cpu_opens_on_the_gpu(tiny_bert, tmp_path):
    model = make_sentiment_pipeline(model=tiny_bert, device="cpu").fit(TEXTS, LABELS)
    path = save_pipeline(model, tmp_path / "m.joblib")
    moved = load_pipeline(path)
    assert moved[0].runs_on() == ("cpu", "float32")
    moved.set_params(bertvectorizer__device="cuda")
    assert moved[0].runs_on() == ("cuda:0", "float16")
    assert np.abs(moved.predict_proba(TEXTS) - model.predict_proba(TEXTS)).max() <= 0.02


def test_a_spawned_process_uses_the_gpu_and_a_forked_one_is_told_to_spawn(tiny_bert):
    model = make_sentiment_pipeline(model=tiny_bert, device="cuda").fit(TEXTS, LABELS)
    expected = model.predict_proba(TEXTS)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found = pool.apply_async(model.predict_proba, (TEXTS,)).get(HANG)
    assert np.abs(found - expected).max() <= 1e-3
    answer = Child(lambda: model.predict_proba(["a text that is in no cache"])).get()
    assert answer.startswith("RuntimeError: cuda:0 cannot be used in this process")
    assert "'spawn'" in answer


# ---- fine-tuning


def test_a_fine_tuned_classifier_learns_on_the_gpu_and_opens_on_the_cpu(tiny_bert, tmp_path):
    good = [
        "A quiet, lovely film.",
        "I love Paris",
        "beautiful terrace",
        "lovely days",
        "I love the film",
        "a beautiful spring",
    ]
    bad = [
        "Two hours I want back!",
        "The soup was cold",
        "the waiter did not care",
        "cold soup",
        "a dull minute",
        "cold terrace",
    ]
    parameters = {
        "epochs": 20,
        "batch_size": 8,
        "learning_rate": 3e-3,
        "head_learning_rate": 2e-2,
        "random_state": 0,
    }
    model = FineTunedBertClassifier(tiny_bert, max_length=None, device="cuda", **parameters)
    model.fit([*good, *bad] * 2, (["good"] * 6 + ["bad"] * 6) * 2)
    assert model.score([*good, *bad], ["good"] * 6 + ["bad"] * 6) == 1.0
    assert model.runs_on()[0] == "cuda:0"
    moved = pickle.loads(pickle.dumps(model)).set_params(device="cpu")
    assert np.abs(moved.predict_proba(TEXTS) - model.predict_proba(TEXTS)).max() <= 1e-3
