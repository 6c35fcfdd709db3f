"""What a process that has predicted does in its forked children.

Every child answers through a pipe; one that does not within `PATIENCE` seconds is killed and counts
as hung.
"""

import json
import multiprocessing
import os
import pickle
import select
import signal
import sqlite3
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline

from pipeline import BertVectorizer, cache_info, load_pipeline, save_pipeline, vector_store
from pipeline import embedding_cache as cache_module
from pipeline.bert import encoder as encoder_module
from pipeline.bert import linear as linear_module
from pipeline.bert.packed import PackedEncoder
from pipeline.vector_store import FolderStore

PATIENCE = 60
TEXTS = [
    f"{'a lovely' if i % 2 else 'a dull'} film number {i} " + "that goes on and on " * (i % 5)
    for i in range(256)
]
LABELS = ["positive" if i % 2 else "negative" for i in range(256)]


class Child:
    """A forked process that computes one answer."""

    def __init__(self, answer: Callable[[], Any]) -> None:
        self.reading, writing = os.pipe()
        self.process = os.fork()
        if self.process == 0:
            try:
                value = answer()
            except BaseException as error:
                value = f"{type(error).__name__}: {error}"
            with os.fdopen(writing, "wb") as pipe:
                pickle.dump(value, pipe)
            os._exit(0)
        os.close(writing)

    def get(self) -> Any:
        data = b""
        while select.select([self.reading], [], [], PATIENCE)[0]:
            more = os.read(self.reading, 1 << 20)
            if not more:
                os.waitpid(self.process, 0)
                return pickle.loads(data) if data else "died"
            data += more
        os.kill(self.process, signal.SIGKILL)
        os.waitpid(self.process, 0)
        return "hung"


class Holder(threading.Thread):
    """A thread that sits inside a lock until it is told to leave."""

    def __init__(self, lock: Any) -> None:
        super().__init__()
        self.lock, self.inside, self.leave = lock, threading.Event(), threading.Event()

    def run(self) -> None:
        with self.lock:
            self.inside.set()
            self.leave.wait(PATIENCE)

    def __enter__(self) -> None:
        self.start()
        assert self.inside.wait(PATIENCE)

    def __exit__(self, *_: object) -> None:
        self.leave.set()
        self.join()


def _tasks() -> list[int]:
    """List the threads of this process, also those that are about to end."""
    tasks = Path("/proc/self/task")
    return [int(task.name) for task in tasks.iterdir()] if tasks.is_dir() else []


def told(found: Any, expected: np.ndarray) -> str:
    if isinstance(found, str):
        return found
    return (
        "right"
        if found.shape == expected.shape and np.allclose(found, expected, atol=1e-5)
        else "wrong numbers"
    )


def pipeline_of(model: str) -> Pipeline:
    return make_pipeline(BertVectorizer(model, cache=None), LogisticRegression(max_iter=2000)).fit(
        TEXTS, LABELS
    )


def open_anew(path: Path) -> Pipeline:
    """Load a file with nothing in memory that could stand in for its weights."""
    encoder_module._loaded.clear()
    return load_pipeline(path)


def after_a_prediction(fitted: Pipeline, expected: np.ndarray, folder: Path) -> str:
    return told(Child(lambda: fitted.predict_proba(TEXTS)).get(), expected)


def while_another_thread_is_inside_a_forward_pass(
    fitted: Pipeline, expected: np.ndarray, folder: Path
) -> str:
    inside, stop = threading.Event(), threading.Event()
    pooled = PackedEncoder.pooled

    def announced(*arguments: Any) -> Any:
        inside.set()
        return pooled(*arguments)

    def work() -> None:
        while not stop.is_set():
            fitted.predict_proba(TEXTS)

    thread = threading.Thread(target=work)
    PackedEncoder.pooled = announced
    thread.start()
    try:
        found = []
        for _ in range(8):
            inside.clear()
            assert inside.wait(PATIENCE)
            found.append(told(Child(lambda: fitted.predict_proba(TEXTS)).get(), expected))
    finally:
        before = set(_tasks())
        stop.set()
        thread.join()
        PackedEncoder.pooled = pooled
        # a thread that ends still takes a lock of MKL, which a child would inherit
        until = time.monotonic() + PATIENCE
        while thread.native_id in before & set(_tasks()) and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(0.1)  # and OpenMP's helpers of that thread
    return " ".join(sorted(set(found)))


def while_another_thread_holds(lock: Any) -> Callable[[Pipeline, np.ndarray, Path], str]:
    def scenario(fitted: Pipeline, expected: np.ndarray, folder: Path) -> str:
        def answer() -> np.ndarray:
            fresh = load_pipeline(folder / "first.joblib").set_params(
                bertvectorizer__cache="memory"
            )
            fresh.predict_proba(TEXTS)
            cache_info()
            BertVectorizer(fitted[0].model).fit(TEXTS)  # hashes the files of the model
            return fresh.predict_proba(TEXTS)

        with Holder(lock):
            return told(Child(answer).get(), expected)

    return scenario


def while_a_thread_writes_to_the_cache(fitted: Pipeline, expected: np.ndarray, folder: Path) -> str:
    store = FolderStore(folder / "cache", "name")
    inside, forking = threading.Event(), threading.Event()
    key, vector, order = b"k" * 16, np.ones((1, 4), dtype=np.float32), []
    connect = sqlite3.connect

    def slow_connect(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection = connect(*arguments, **options)
        inside.set()
        forking.wait(PATIENCE)
        time.sleep(0.5)  # a fork that does not wait comes now
        return connection

    def write() -> None:
        store.put({key: vector})
        order.append("stored")

    # hooks before a fork run in reverse order: this one comes before that of the store, which waits
    # for the writer
    os.register_at_fork(before=lambda: (forking.set(), order.append("forking")))
    sqlite3.connect = slow_connect
    thread = threading.Thread(target=write)
    thread.start()
    assert inside.wait(PATIENCE)

    def answer() -> Any:
        sqlite3.connect = connect
        before = store.get([key])
        store.put({b"o" * 16: vector})
        after = store.get([key, b"o" * 16])
        return [len(before), len(after), [str(path) for path in vector_store._broken]]

    child = Child(answer)
    order.append("forked")
    thread.join()
    sqlite3.connect = connect
    found = child.get()
    return (
        "right"
        if found == [1, 2, []] and order.index("forking") < order.index("forked")
        else f"{found} {order}"
    )


def one_by_one(fitted: Pipeline) -> np.ndarray:
    return np.vstack(
        [fitted.predict_proba([text]) for text in TEXTS[:5]]
    )  # few rows: oneDNN lays out the weights


def while_a_thread_lays_out_weights(fitted: Pipeline, expected: np.ndarray, folder: Path) -> str:
    with Holder(linear_module._one_at_a_time):
        child = Child(lambda: one_by_one(open_anew(folder / "first.joblib")))
        return told(child.get(), expected[:5])


def under_multiprocessing(fitted: Pipeline, expected: np.ndarray, folder: Path) -> str:
    with multiprocessing.get_context("fork").Pool(2) as pool:
        halves = pool.map_async(fitted.predict_proba, [TEXTS[:128], TEXTS[128:]])
        return told(np.vstack(halves.get(PATIENCE)), expected)


def a_child_of_a_child(fitted: Pipeline, expected: np.ndarray, folder: Path) -> str:
    return told(Child(lambda: Child(lambda: fitted.predict_proba(TEXTS)).get()).get(), expected)


SCENARIOS: dict[str, Callable[[Pipeline, np.ndarray, Path], str]] = {
    "after a prediction": after_a_prediction,
    "while another thread is inside a forward pass": while_another_thread_is_inside_a_forward_pass,
    "while another thread loads a model": while_another_thread_holds(encoder_module._loaded_lock),
    "while another thread counts": while_another_thread_holds(cache_module._counts_lock),
    "while another thread is inside the memory cache": while_another_thread_holds(
        cache_module._memory._lock
    ),
    "while another thread writes to the folder cache": while_a_thread_writes_to_the_cache,
    "while another thread lays out weights for short texts": while_a_thread_lays_out_weights,
    "under multiprocessing": under_multiprocessing,
    "a child of a child": a_child_of_a_child,
}


def main(model: str, folder: Path) -> None:
    fitted = pipeline_of(model)
    expected = fitted.predict_proba(TEXTS)
    save_pipeline(fitted, folder / "first.joblib")
    for name, scenario in SCENARIOS.items():
        try:
            found = scenario(fitted, expected, folder)
        except Exception as error:
            found = f"{type(error).__name__}: {error}"
        sys.stdout.write(f"{json.dumps([name, found])}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
