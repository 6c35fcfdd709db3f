"""Time a fresh process up to its first answer, and take its peak memory: ours beside
sentence-transformers.

    python -m benchmarks.cold_start [--rounds 7]

First answer: a saved sentiment pipeline labels one text; sentence-transformers encodes it, alone,
and with a LogisticRegression that labels it, which is the same job. Memory: 1,000 and 10,000
distinct short texts are encoded. Every run is a process of its own; the set-ups take turns, every
round begins with another one. A first run of each is discarded, so that the files are in the page
cache. Wall time is measured from outside, the end of the process included; the rest inside. Writes
results/cold_start.json.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.results_file import spread, write_result

TOP = Path(__file__).resolve().parent.parent
MIB = 2**20
PROGRAM = """
import json, resource, sys, time
files, model_folder, texts_file = sys.argv[1:]
start = time.perf_counter()
{imports}
imported = time.perf_counter()
{load}
loaded = time.perf_counter()
{use}
done = time.perf_counter()
unit = 1 if sys.platform == "darwin" else 1024
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
seconds = {{"import_s": imported - start, "load_s": loaded - imported, "first_s": done - loaded}}
print(json.dumps({{**seconds, "peak_rss": peak, "output_bytes": output.nbytes}}))
"""
IMPORT_ST = "from sentence_transformers import SentenceTransformer"
LOAD_ST = "model = SentenceTransformer(model_folder, device='cpu', local_files_only=True)"
TEXT = "['A quiet, lovely film.']"
READ_TEXTS = "texts = json.load(open(texts_file))"
# set-up -> the lines that import, load and use
FIRST_ANSWER = {
    "load_pipeline, predict": (
        "from pipeline import load_pipeline",
        "model = load_pipeline(files + '/pipeline.joblib')",
        f"output = model.predict({TEXT})",
    ),
    "joblib.load, predict": (
        "import joblib",
        "model = joblib.load(files + '/pipeline.joblib')",
        f"output = model.predict({TEXT})",
    ),
    "SentenceTransformer, encode": (IMPORT_ST, LOAD_ST, f"output = model.encode({TEXT})"),
    "SentenceTransformer, encode, LogisticRegression, predict": (
        f"{IMPORT_ST}\nimport joblib",
        f"{LOAD_ST}\nclassifier = joblib.load(files + '/classifier.joblib')",
        f"output = classifier.predict(model.encode({TEXT}))",
    ),
}
OURS, PEERS = list(FIRST_ANSWER)[:2], list(FIRST_ANSWER)[2:]
MEMORY = {
    "BertVectorizer, transform": (
        "from pipeline import BertVectorizer",
        f"{READ_TEXTS}\nmodel = BertVectorizer(model_folder, layers=-1, cache=None, "
        "device='cpu').fit(texts[:1])",
        "output = model.transform(texts)",
    ),
    "SentenceTransformer, encode": (
        IMPORT_ST,
        f"{READ_TEXTS}\n{LOAD_ST}",
        "output = model.encode(texts, show_progress_bar=False)",
    ),
}
MOST_MEMORY_ROUNDS = 3


def prepare(folder: str, n_reviews: int | None, counts: tuple[int, ...]) -> str:
    """Save what the processes load, and return the model's folder. In a process of its own, see
    `main`.
    """
    import joblib
    from sklearn.linear_model import LogisticRegression

    from benchmarks.workloads import generated, minilm
    from pipeline import BertVectorizer, load_reviews, make_sentiment_pipeline, save_pipeline

    train = load_reviews()[0].iloc[:n_reviews]
    save_pipeline(
        make_sentiment_pipeline(device="cpu").fit(train["text"], train["label"]),
        f"{folder}/pipeline.joblib",
    )
    vectorizer = BertVectorizer(normalize=True, device="cpu").fit(
        train["text"]
    )  # what sentence-transformers gives
    classifier = LogisticRegression(max_iter=2000).fit(
        vectorizer.transform(train["text"]), train["label"]
    )
    joblib.dump(classifier, f"{folder}/classifier.joblib")
    for n_texts in counts:
        Path(f"{folder}/{n_texts}.json").write_text(
            json.dumps(generated("short", n_texts, vectorizer))
        )
    return str(minilm())


def run(lines: tuple[str, str, str], *arguments: str) -> dict[str, float]:
    """Run one process and return what it printed, and its wall time."""
    imports, load, use = lines
    program = PROGRAM.format(imports=imports, load=load, use=use)
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=TOP,  # where `pipeline` is found
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    wall = time.perf_counter() - start
    if done.returncode:
        raise RuntimeError(f"{program}\n{done.stderr}")
    printed: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return {"wall_s": wall, **printed}


def take_turns(
    set_ups: dict[str, tuple[str, str, str]], rounds: int, *arguments: str
) -> dict[str, list[dict[str, float]]]:
    """Run every set-up once per round; each round begins with the next one, and round 0 is
    discarded.
    """
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in set_ups}
    names = list(set_ups)
    for number in range(rounds + 1):
        for name in names:
            found = run(set_ups[name], *arguments)
            if number:
                runs[name].append(found)
        names = names[1:] + names[:1]
    return runs


def first_answers(files: str, model_folder: str, rounds: int) -> list[dict[str, Any]]:
    """Measure the first answer of every set-up; ours also as a share of the peers' wall time."""
    runs = take_turns(FIRST_ANSWER, rounds, files, model_folder, "")
    wall = {name: [one["wall_s"] for one in found] for name, found in runs.items()}
    rows = []
    for name, found in runs.items():
        row: dict[str, Any] = {"part": "first answer", "set_up": name}
        row |= {
            key: spread([one[key] for one in found])
            for key in ("wall_s", "import_s", "load_s", "first_s")
        }
        row["peak_rss_mib"] = spread([one["peak_rss"] / MIB for one in found])
        if name in OURS:
            row["wall_over"] = {peer: median(wall[name]) / median(wall[peer]) for peer in PEERS}
            by_round = {
                peer: [a / b for a, b in zip(wall[name], wall[peer], strict=True)] for peer in PEERS
            }
            row["wall_over_by_round"] = {peer: spread(ratios) for peer, ratios in by_round.items()}
        rows.append(row)
    return rows


def memory(
    files: str, model_folder: str, rounds: int, counts: tuple[int, ...]
) -> list[dict[str, Any]]:
    """Measure the peak memory of encoding so many texts, without the array that comes out."""
    rows = []
    for n_texts in counts:
        for name, found in take_turns(
            MEMORY, rounds, files, model_folder, f"{files}/{n_texts}.json"
        ).items():
            row: dict[str, Any] = {
                "part": "memory",
                "set_up": name,
                "n_texts": n_texts,
                "repeats": rounds,
            }
            row["peak_rss_mib"] = spread([one["peak_rss"] / MIB for one in found])
            row["less_output_mib"] = spread(
                [(one["peak_rss"] - one["output_bytes"]) / MIB for one in found]
            )
            rows.append(row)
    return rows


def main() -> None:
    """Measure everything, print it and write the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--n-texts",
        type=int,
        help="a trial: so many reviews, memory of so many texts and of ten times as many",
    )
    arguments = parser.parse_args()
    rounds, n_texts = arguments.rounds, arguments.n_texts or 1000
    counts = (n_texts, 10 * n_texts)
    with tempfile.TemporaryDirectory() as files:
        # This process stays small and loads nothing: on Linux a child's peak counts that of the
        # process it was forked from.
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
            model_folder = process.submit(prepare, files, arguments.n_texts, counts).result()
        rows = first_answers(files, model_folder, rounds) + memory(
            files, model_folder, min(rounds, MOST_MEMORY_ROUNDS), counts
        )
    for row in rows:
        print(row)
    if not arguments.n_texts:
        write_result("cold_start", rows, repeats=rounds)


if __name__ == "__main__":
    main()
