"""Threads and processes predict from one artifact while it is replaced again and again.

    python -m tests.soak [--times 200] [--threads 16] [--processes 4]

Each opens the file, predicts for a while by what it has opened, and opens it anew. Every answer has
to be that of one of the models that were saved, the same for as long as it is open; and the memory
of the process in which the threads run must not grow. Prints a JSON object.
"""

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, run_state_machine_as_test
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from pipeline import BertVectorizer, load_pipeline, save_pipeline
from tests.conftest import CORPUS, build_model

LABELS = ["good", "bad", "bad", "good", "good", "good"]
MODELS = 3
LONG = os.environ.get("HYPOTHESIS_PROFILE") == "soak"  # machines try many orders, not a few
STARTS = 600  # seconds in which a process has to begin


def try_orders(machine: type[RuleBasedStateMachine], few: int, many: int, steps: int) -> None:
    """Run a state machine in so many orders of its steps; say how many steps it was, if many."""
    n_steps = 0

    class Counted(machine):
        @invariant()
        def it_counts(self) -> None:
            nonlocal n_steps
            n_steps += 1

    run_state_machine_as_test(
        Counted,
        settings=settings(
            max_examples=many if LONG else few,
            stateful_step_count=steps,
            deadline=None,
            derandomize=not LONG,
            suppress_health_check=list(HealthCheck),
        ),
    )
    if LONG:
        done = {"machine": machine.__name__, "orders": many, "steps": n_steps}
        sys.stdout.write(f"{json.dumps(done)}\n")


def resident() -> float:
    """Return the megabytes that this process holds and that no file backs."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("no /proc on this system")


def predict(path: Path, expected: list[np.ndarray], stop: Any, begun: Any, told: Any) -> None:
    """Open and predict until told to stop; report the number of answers, or what was wrong."""
    answers = opened = 0
    wrong = ""
    try:
        while not (wrong or (stop.is_set() and opened)):
            pipeline, opened = load_pipeline(path), opened + 1
            first = None
            for _ in range(3):
                found = pipeline.predict_proba(CORPUS)
                which = [i for i, of in enumerate(expected) if np.allclose(found, of, atol=1e-4)]
                first = which if first is None else first
                if not which or which != first:
                    wrong = f"an answer of {which} after one of {first}"
                answers += 1
            begun.set()
    except Exception as error:
        wrong = f"{type(error).__name__}: {error}"
    begun.set()
    told((answers, opened, wrong))


def soak(times: int, threads: int, processes: int) -> dict[str, Any]:
    """Replace an artifact so often, while so many threads and processes predict from it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.joblib")
        models = []
        for seed in range(MODELS):
            model = str(build_model(Path(folder, f"{seed}"), "bert", seed=seed))
            vectorizer = BertVectorizer(model, device="cpu", cache=None)
            models.append(make_pipeline(vectorizer, LogisticRegression()).fit(CORPUS, LABELS))
        expected = [model.predict_proba(CORPUS) for model in models]
        save_pipeline(models[0], path)
        found: list[tuple[int, int, str]] = []
        spawn = multiprocessing.get_context("spawn")
        queue, stop, ends = spawn.SimpleQueue(), threading.Event(), spawn.Event()
        workers: list[Any] = []
        for kind, n, (end, told) in (
            (spawn.Process, processes, (ends, queue.put)),
            (threading.Thread, threads, (stop, found.append)),
        ):
            for _ in range(n):
                begun = spawn.Event()
                worker = kind(target=predict, args=(path, expected, end, begun, told))
                worker.start()
                workers.append((worker, begun))
        for _, begun in workers:
            assert begun.wait(STARTS), "a worker that does not begin"
        held = []
        for number in range(times):
            save_pipeline(models[number % MODELS], path)
            held.append(resident())
            time.sleep(0.01)  # so that they get the processor too
        stop.set()
        ends.set()
        found += [queue.get() for _ in range(processes)]
        for worker, _ in workers:
            worker.join()
        half = len(held) // 2
    return {
        "replaced": times,
        "answers": sum(answers for answers, _, _ in found),
        "opened": sum(opened for _, opened, _ in found),
        "wrong": sorted({wrong for _, _, wrong in found if wrong}),
        "megabytes": [round(max(held[:half])), round(max(held[half:]))],
    }


def main() -> None:
    """Soak, and print what came of it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--times", type=int, default=200)
    parser.add_argument("--threads", type=int, default=16)
    parser.add_argument("--processes", type=int, default=4)
    options = parser.parse_args()
    sys.stdout.write(f"{json.dumps(soak(options.times, options.threads, options.processes))}\n")


if __name__ == "__main__":
    main()
