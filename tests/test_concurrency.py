"""Threads, forks, spawned and loky workers."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from joblib.externals.loky.process_executor import TerminatedWorkerError
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline

from pipeline import BertVectorizer, load_pipeline, make_sentiment_pipeline, save_pipeline
from pipeline.bert.encoder import choose_device
from tests.conftest import CORPUS, TEXTS, build_model
from tests.forking import SCENARIOS

TOP = Path(__file__).resolve().parent.parent
LABELS = ["positive" if i % 3 else "negative" for i in range(len(TEXTS))]
HANG = 120  # seconds after which a process counts as hung
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
needs_proc = pytest.mark.skipif(
    not Path("/proc/self/smaps").exists(), reason="no /proc on this system"
)


@pytest.fixture(scope="module")
def fitted(tiny_bert):
    return make_sentiment_pipeline(model=tiny_bert).fit(TEXTS, LABELS)


# ---- threads


@pytest.mark.filterwarnings("ignore::pipeline.TruncationWarning")
@pytest.mark.parametrize("family", ["bert", "roberta"], ids=["packed", "of transformers"])
def test_sixteen_threads_on_two_pipelines_of_different_length_give_the_bits_of_one(
    family, model_folder
):
    texts = [f"{text} {' '.join(CORPUS[i % 6 :])}" for i, text in enumerate(TEXTS)]
    pipelines = [
        make_pipeline(
            BertVectorizer(model_folder(family), max_length=n, cache=None), LogisticRegression()
        ).fit(texts, LABELS)
        for n in (7, 40)
    ]
    serial = [pipeline.predict_proba(texts) for pipeline in pipelines]
    assert not np.array_equal(*serial)
    start, found = threading.Barrier(16), []

    def predict(which):
        start.wait(HANG)
        for _ in range(10):
            found.append((which, pipelines[which].predict_proba(texts)))

    threads = [threading.Thread(target=predict, args=(i % 2,)) for i in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANG)
    assert len(found) == 160
    assert all(np.array_equal(rows, serial[which]) for which, rows in found)


# ---- forks


@pytest.fixture(scope="module")
def forked(tiny_bert, tmp_path_factory):
    """Give what every scenario of tests/forking.py came to; they share one process."""
    folder = tmp_path_factory.mktemp("forked")
    # a child that hangs would outlive its parent: in a group of its own it can be ended with it
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "tests.forking", tiny_bert, str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=TOP,
        env=os.environ | {"OMP_NUM_THREADS": "2"},
        start_new_session=True,
    )
    try:
        output, errors = process.communicate(timeout=5 * HANG)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, errors = process.communicate()
    return dict(json.loads(line) for line in output.splitlines()), errors


@needs_fork
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_forked_child_gives_the_right_numbers_and_does_not_hang(scenario, forked):
    answers, errors = forked
    assert answers.get(scenario, errors) == "right"


def test_a_spawned_process_gives_the_same_numbers(fitted):
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found = pool.apply_async(fitted.predict_proba, (TEXTS,)).get(HANG)
    assert np.allclose(found, fitted.predict_proba(TEXTS), atol=1e-5)


@pytest.mark.parametrize("device", ["auto", "cuda", "cuda:1"])
def test_cuda_in_a_child_forked_after_its_use_is_refused_with_the_start_methods_that_work(
    device, monkeypatch
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device(device)[0].type == "cuda"
    monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda: True)
    with pytest.raises(
        RuntimeError,
        match=r"cuda:\d cannot be used in this process, .*forked.*'spawn'.*loky.*device='cpu'",
    ):
        choose_device(device)
    assert choose_device("cpu")[0].type == "cpu"


@needs_proc
@pytest.mark.thorough
def test_whoever_predicts_while_the_file_is_replaced_gets_the_answers_of_what_it_opened():
    """`make soak` replaces it 200 times, before 16 threads and 4 processes."""
    command = ["-m", "tests.soak", "--times", "12", "--threads", "4", "--processes", "1"]
    ran = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, cwd=TOP, timeout=4 * HANG
    )
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout)
    assert (told["wrong"], told["replaced"]) == ([], 12)
    before, after = told["megabytes"]
    assert after < before + 50


# ---- loky: one copy of the weights


def files_behind_the_weights(pipeline):
    """Name the file that the weights are mapped from in this process."""
    pipeline.predict_proba(TEXTS)
    array = pipeline[0].__getstate__()["_checkpoint"]["weights"]
    while array is not None and not isinstance(array, np.memmap):
        array = array.base
    name = None if array is None else str(array.filename)
    mappings, dirty = [], []
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split(" ")[0]:
            mappings.append(line.split(maxsplit=5)[5] if len(line.split(maxsplit=5)) > 5 else "")
        elif line.startswith("Private_Dirty:") and mappings[-1] == name:
            dirty.append(int(line.split()[1]))
    return os.getpid(), name, dirty


@needs_proc
@pytest.mark.parametrize(
    "load",
    [
        load_pipeline,
        pytest.param(lambda path: joblib.load(path, mmap_mode="c"), marks=pytest.mark.thorough),
    ],
    ids=["load_pipeline", "joblib.load"],
)
def test_workers_map_the_weights_from_the_saved_file_and_copy_nothing(load, fitted, tmp_path):
    path = save_pipeline(fitted, tmp_path / "m.joblib")
    loaded = load(path)
    found = joblib.Parallel(n_jobs=2)(
        joblib.delayed(files_behind_the_weights)(loaded) for _ in range(4)
    )
    assert os.getpid() not in {process for process, _, _ in found}
    for _, name, dirty in found:
        assert name is not None, "the weights were copied to the worker"
        assert Path(name).parent == tmp_path
        assert dirty
        assert set(dirty) == {0}


def test_workers_never_predict_with_the_weights_of_a_file_that_took_the_place_of_the_loaded_one(
    fitted, tmp_path
):
    other = make_sentiment_pipeline(model=str(build_model(tmp_path / "other", "bert", seed=1))).fit(
        TEXTS, LABELS
    )
    loaded = load_pipeline(save_pipeline(fitted, tmp_path / "m.joblib"))
    save_pipeline(other, tmp_path / "m.joblib")
    try:
        found = joblib.Parallel(n_jobs=2)(
            joblib.delayed(loaded.predict_proba)(TEXTS) for _ in range(2)
        )
    except ValueError as error:
        assert "was replaced while it was open" in str(error)  # noqa: PT017
    else:
        assert all(np.allclose(rows, fitted.predict_proba(TEXTS), atol=1e-5) for rows in found)


def predict_and_list(pipeline, texts, folder):
    return pipeline.predict_proba(texts), sorted(str(path) for path in folder.rglob("*.pkl"))


def test_many_tasks_of_an_unsaved_pipeline_write_its_weights_at_most_once(fitted, tmp_path):
    states = [fitted[0].__getstate__()["_checkpoint"]["weights"] for _ in range(2)]
    assert states[0] is states[1]
    tasks = [TEXTS[i % 5 :] for i in range(12)]
    with joblib.parallel_config("loky", temp_folder=tmp_path, max_nbytes="1K"):
        found = joblib.Parallel(n_jobs=2, batch_size=1)(
            joblib.delayed(predict_and_list)(fitted, t, tmp_path) for t in tasks
        )
    # joblib writes every array above 1 kB that lies in memory: the coefficients of the classifier
    # are smaller
    assert len({name for _, names in found for name in names}) <= 1
    for texts, (rows, _) in zip(tasks, found, strict=True):
        assert np.allclose(rows, fitted.predict_proba(texts), atol=1e-5)


class Killed(TransformerMixin, BaseEstimator):
    """A step whose process is killed, as the kernel does where memory runs out."""

    def __sklearn_is_fitted__(self):
        return True

    def fit(self, X, y=None):
        os.kill(os.getpid(), signal.SIGKILL)

    def transform(self, X):
        return X


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
def test_a_worker_that_is_killed_in_cross_validation_is_an_error_and_never_a_missing_row(tiny_bert):
    model = make_pipeline(BertVectorizer(tiny_bert), Killed(), LogisticRegression())
    with pytest.raises(TerminatedWorkerError, match="terminated"):
        cross_val_predict(model, TEXTS, LABELS, cv=2, n_jobs=2)
