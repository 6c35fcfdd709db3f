"""Mutation score: change the code in one place, and see whether a test fails.

    python -m tests.mutation FILE ... [--patience 20] [--out mutants.json]

mutmut makes the mutants, in a copy of the project; those that mypy refuses are counted apart. Tests
are collected once, and a forked child per mutant runs those that reach the changed function,
the fastest first, until one fails. The wording of messages is not mutated: no test fixes it. Prints
a JSON object per file, and writes the mutants that lived as differences to `--out`.
"""

import argparse
import difflib
import fnmatch
import gc
import json
import os
import resource
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from contextlib import suppress
from functools import _lru_cache_wrapper, partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

TOP = Path(__file__).resolve().parent.parent
# those that a forked child can run: no server, no cluster, no thread of another library
TESTS = {
    "pipeline/texts.py": "texts labels several_labels sklearn_contract token_level",
    "pipeline/files.py": "files candidates isolate cli run_folder artifact cache_kill",
    "pipeline/vector_store.py": "vector_store files cache_faults embedding_cache cache_kill",
    "pipeline/bert/packed.py": "packed attention batching encoder encoding vectorizer embedding",
    "pipeline/saved/*.py": """
        allow_list allowed_names artifact attacks fuzzing inspect_command joblib_contents manifest
        old_artifacts opening outline probes signing skops_file versions""",
    "pipeline/scoring/*.py": """
        bad_rows choose_executor columns dask_client driver executors file_source isolate json_lines
        predictions progress run_folder score_shard scores several_labels signing source table
        worker_pool""",
}
# and those that need a process for each mutant: about a minute for one that lives
APART = {"pipeline/scoring/executors.py": "dask_executor processes executors"}
CONFIG = '\n[tool.mutmut]\nsource_paths = ["pipeline"]\n'
ORIGINAL = "_mutmut_orig"
GRACE = 5  # seconds more than twice those of the tests: then a mutant counts as endless
HANG = 300  # seconds
MEMORY = 8 << 30


# ---- mutants


def copy_project(to: Path) -> None:
    """Copy what git knows, as it stands."""
    names = subprocess.run(["git", "ls-files"], cwd=TOP, capture_output=True, text=True, check=True)
    for name in names.stdout.splitlines():
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(TOP / name, to / name)
    with (to / "pyproject.toml").open("a") as file:
        file.write(CONFIG)


def _is_prose(node: Any) -> bool:
    return type(node).__name__ == "SimpleString" and " " in node.value


def mutate(path: Path) -> dict[str, tuple[int, int]]:
    """Write all mutants of a file into it; return the first and last line of each function."""
    from mutmut.mutation import file_mutation

    def spared(operator: Any, node: Any) -> Any:
        return [] if _is_prose(node) else operator(node)

    operators = [(kind, partial(spared, own)) for kind, own in file_mutation.mutation_operators]
    with patch.object(file_mutation, "mutation_operators", operators):
        mutated = file_mutation.mutate_file_contents(str(path), path.read_text())
    path.write_text(mutated.code)
    spans = mutated.line_span_by_function_name
    return {name: (span.start, span.end) for name, span in spans.items()}


def refused_by_mypy(files: dict[str, dict[str, tuple[int, int]]]) -> set[tuple[str, str]]:
    """Return the mutants in which mypy finds an error that the function did not have."""
    command = [sys.executable, "-m", "mypy", "--output=json", "--cache-dir=.mypy", *files]
    printed = subprocess.run(command, capture_output=True, text=True).stdout
    owner = {
        (file, line): name
        for file, spans in files.items()
        for name, (first, last) in spans.items()
        for line in range(first, last + 1)
    }
    errors = defaultdict(set)
    for error in map(json.loads, printed.splitlines()):
        name = owner.get((error["file"], error["line"]))
        if name is not None and error["severity"] == "error":
            errors[error["file"], name].add((error["code"], error["message"].replace(name, "")))
    return {
        (file, name)
        for (file, name), found in errors.items()
        if not name.endswith(ORIGINAL) and found - errors.get((file, original(name)), set())
    }


def module_of(file: str) -> str:
    return file.removesuffix(".py").replace("/", ".")


def original(name: str) -> str:
    return name.partition("__mutmut_")[0] + "_" + ORIGINAL


def difference(file: str, spans: dict[str, tuple[int, int]], name: str) -> list[str]:
    """Return the lines that differ between a mutant and the code."""
    lines = Path(file).read_text().splitlines()
    before, after = (
        lines[first - 1 : last] for first, last in (spans[original(name)], spans[name])
    )
    changed = difflib.unified_diff(before[1:], after[1:], lineterm="", n=1)
    return [line for line in changed if not line.startswith(("---", "+++"))]


# ---- tests


class Run:
    """A pytest plugin: run all tests once, then those that reach a mutant, mutant by mutant."""

    def __init__(self, mutants: list[tuple[str, str]], patience: float) -> None:
        self.mutants, self.patience = mutants, patience
        self.failed = False
        self.seconds: dict[Any, float] = {}
        self.reached: dict[str, list[Any]] = defaultdict(list)
        self.outcomes: dict[tuple[str, str], str] = {}
        self.caches: list[Any] = []

    def pytest_collection(self) -> None:
        from hypothesis import Phase, settings  # pytest wants to import it first

        phases = [Phase.explicit, Phase.generate]  # to shrink takes long
        settings.register_profile("mutation", phases=phases, database=None)
        settings.load_profile("mutation")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.failed |= report.failed

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        found = [own for own in gc.get_objects() if type(own) is _lru_cache_wrapper]
        self.caches = [own for own in found if own.__module__.startswith("pipeline")]
        self.learn(session.items)
        self.drop_those_that_fail_in_a_child()
        gc.collect()
        gc.freeze()
        for number, (file, name) in enumerate(self.mutants):
            self.outcomes[file, name] = self.outcome(file, name)
            if number % 50 == 0:
                counts = Counter(self.outcomes.values())
                sys.stderr.write(f"{number} of {len(self.mutants)}: {dict(counts)}\n")
        return True

    def run(self, item: Any, next_item: Any) -> bool:
        """Run a test, with no cache of ours filled; return whether it passed."""
        for cache in self.caches:
            cache.cache_clear()
        self.failed = False
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=next_item)
        return not self.failed

    def learn(self, items: list[Any]) -> None:
        """Find out which functions each test reaches, and how long it takes."""
        from mutmut.state import state

        os.environ["MUTANT_UNDER_TEST"] = "stats"
        for item, following in zip(items, [*items[1:], items[0]], strict=True):
            state()._stats.clear()
            start = sum(os.times()[:4])  # of the processor, as others may use the machine too
            passed = self.run(item, following)  # the first again, so that what all share stays
            self.seconds[item] = sum(os.times()[:4]) - start
            if not passed:
                sys.stderr.write(f"left out, fails without a mutant: {item.nodeid}\n")
                continue
            for function in state()._stats:
                self.reached[function].append(item)
        os.environ["MUTANT_UNDER_TEST"] = ""
        for tests in self.reached.values():
            tests.sort(key=self.seconds.__getitem__)

    def drop_those_that_fail_in_a_child(self) -> None:
        waiting = sorted({item for tests in self.reached.values() for item in tests}, key=id)
        while waiting:
            with tempfile.NamedTemporaryFile() as told:
                seconds = sum(self.seconds[item] for item in waiting)
                self.in_child("", waiting, seconds, Path(told.name))
                n_passed = len(Path(told.name).read_text())
            if n_passed < len(waiting):
                bad = waiting[n_passed]
                sys.stderr.write(f"left out, fails in a child: {bad.nodeid}\n")
                for tests in self.reached.values():
                    if bad in tests:
                        tests.remove(bad)
            waiting = waiting[n_passed + 1 :]

    def outcome(self, file: str, name: str) -> str:
        module = module_of(file)
        tests: list[Any] = []
        seconds = 0.0
        for item in self.reached[f"{module}.{name.partition('__mutmut_')[0]}"]:
            if tests and seconds + self.seconds[item] > self.patience:
                break
            tests.append(item)
            seconds += self.seconds[item]
        if not tests:
            return "no tests"
        return self.in_child(f"{module}.{name}", tests, seconds)

    def in_child(
        self, mutant: str, tests: list[Any], seconds: float, told: Path | None = None
    ) -> str:
        """Run tests, which take so long, in a fork until one fails; say whether one did."""
        child = os.fork()
        if child == 0:
            try:
                os.setpgid(0, 0)
                os.environ["MUTANT_UNDER_TEST"] = mutant
                limit = int(2 * seconds) + GRACE
                resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + GRACE))
                resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
                for number in (1, 2):
                    os.dup2(os.open(os.devnull, os.O_WRONLY), number)
                for item, following in zip(tests, [*tests[1:], None], strict=True):
                    if not self.run(item, following):
                        os._exit(1)
                    if told is not None:
                        with told.open("a") as file:
                            file.write(".")
                os._exit(0)
            finally:
                os._exit(2)
        watched = os.pidfd_open(child)
        ended = select.select([watched], [], [], 10 * (seconds + GRACE))[0]
        os.close(watched)
        with suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if not ended or (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU):
            return "endless"
        return "lived" if status == 0 else "killed"


def outcome_apart(mutant: str, command: list[str]) -> str:
    """Run pytest for a mutant in a process of its own; say whether a test failed."""
    environment = {**os.environ, "MUTANT_UNDER_TEST": mutant}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    child = subprocess.Popen(command, env=environment, start_new_session=True, **quiet)
    try:
        return "lived" if child.wait(HANG) == 0 else "killed"
    except subprocess.TimeoutExpired:
        return "endless"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def tests_of(files: list[str]) -> list[str]:
    chosen = [
        names
        for pattern, names in TESTS.items()
        if any(fnmatch.fnmatch(file, pattern) for file in files)
    ]
    return " ".join(chosen).split()


def inside(files: list[str], tests: list[str], patience: float, again: list[str]) -> None:
    """Mutate and test in this folder, which is a copy."""
    spans = {file: mutate(Path(file)) for file in files}
    refused = refused_by_mypy(spans)
    mutants = [
        (file, name)
        for file in files
        for name in spans[file]
        if not name.endswith(ORIGINAL) and (not again or name in again)
    ]
    run = Run([own for own in mutants if own not in refused], patience)
    arguments = "-o addopts= -p no:cacheprovider -p no:terminal --basetemp tmp".split()
    paths = [f"tests/test_{name}.py" for name in dict.fromkeys(tests)]
    arguments += ["-m", "not thorough"]
    pytest.main([*arguments, *paths], plugins=[run])
    for file in APART.keys() & set(files):
        more = [f"tests/test_{test}.py" for test in APART[file].split()]
        command = [sys.executable, "-m", "pytest", "-x", *arguments, *more]
        if outcome_apart("", command) != "lived":
            raise RuntimeError(f"{', '.join(more)} fail without a mutant")
        for (of, name), outcome in run.outcomes.items():
            if of == file and outcome in ("lived", "no tests"):
                run.outcomes[of, name] = outcome_apart(f"{module_of(of)}.{name}", command)
                sys.stderr.write(f"{name} apart: {run.outcomes[of, name]}\n")
    found = []
    for file in files:
        own = {name: outcome for (f, name), outcome in run.outcomes.items() if f == file}
        n_refused = sum(f == file for f, _ in refused)
        counts = Counter(own.values())
        total = sum(counts.values())
        score = (counts["killed"] + counts["endless"]) / max(total, 1)
        result = {"file": file, "refused by mypy": n_refused, **counts, "score": round(score, 4)}
        sys.stdout.write(f"{json.dumps(result)}\n")
        for name, outcome in own.items():
            if outcome in ("lived", "no tests"):
                changed = difference(file, spans[file], name)
                found.append({"file": file, "mutant": name, "outcome": outcome, "diff": changed})
    Path("lived.json").write_text(json.dumps(found, indent=1))


def main() -> None:
    """Copy the project, and mutate and test there."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="+")
    parser.add_argument("--tests", nargs="+", help="such as texts, for tests/test_texts.py")
    parser.add_argument("--again", nargs="+", default=[], help="these mutants alone")
    parser.add_argument("--patience", type=float, default=20, help="seconds of tests per mutant")
    parser.add_argument("--out", default="mutants.json")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        tests = options.tests or tests_of(options.files)
        inside(options.files, tests, options.patience, options.again)
        return
    with tempfile.TemporaryDirectory() as folder:
        copy_project(Path(folder))
        command = [sys.executable, "-m", "tests.mutation", *sys.argv[1:], "--inside"]
        environment = {**os.environ, "PYTHONPATH": folder}
        subprocess.run(command, cwd=folder, env=environment, check=True)
        shutil.copy(Path(folder, "lived.json"), options.out)


if __name__ == "__main__":
    main()
