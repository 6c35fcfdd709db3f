"""Coverage-guided fuzzing of all that reads the bytes of strangers.

    python -m tests.fuzzing [TARGET ...] [--seconds 60] [--corpus FOLDER]

Each target runs in a process of its own under atheris (libFuzzer), which `make fuzz` installs. A
finding is an error that is not ours or names no file, another answer than the oracle's, a call that
leaves the process, five seconds for one input, or 2 GB of memory. Prints a JSON object per target.
`tests/test_fuzzing.py` runs seeds and earlier findings through the targets, without atheris.
"""

import argparse
import csv
import inspect
import io
import itertools
import json
import pickle
import pickletools
import random
import re
import subprocess
import sys
import tempfile
import warnings
import zipfile
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import joblib
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors
from safetensors.numpy import save as save_safetensors
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from pipeline import csv_table, datasets, inspect_pipeline, load_pipeline, save_pipeline
from pipeline.bert import tokenizing, weights
from pipeline.checkpoints import checkpoint
from pipeline.exceptions import ArtifactError, CheckpointError
from pipeline.saved import allow_list, artifact, joblib_file, manifest, opening, skops_file
from pipeline.scoring import sources
from tests.conftest import _roberta_like, _wordpiece

TOP = Path(__file__).resolve().parent.parent
MEMORY = Path("/dev/shm")  # a disk would be the bottleneck
PATIENCE, MEGABYTES = 10, 2048  # seconds for one input, where others use the machine too
NAMES = """
os.system posix.system builtins.eval builtins.getattr builtins.set builtins.frozenset
builtins.bytearray builtins.range builtins.slice builtins.complex builtins.list builtins.object
collections.OrderedDict collections.defaultdict operator.itemgetter
numpy.ndarray numpy.dtype numpy.float64 numpy._core.multiarray._reconstruct
numpy._core.multiarray.scalar numpy._core.numeric._frombuffer
joblib.numpy_pickle.NumpyArrayWrapper scipy.sparse._csr.csr_matrix
scipy.stats._continuous_distns.norm_gen sklearn.utils.Bunch sklearn.pipeline.Pipeline
sklearn.linear_model._logistic.LogisticRegression sklearn.preprocessing._data.StandardScaler
sklearn.preprocessing._encoders.OneHotEncoder pipeline.vectorizer.BertVectorizer
""".split()
# events of a process that does more than to read
LEAVES = """
os.system os.exec os.fork os.posix_spawn os.spawn subprocess.Popen os.remove os.rename os.mkdir
os.rmdir os.chmod os.link os.symlink os.truncate shutil.rmtree socket.connect socket.bind
ctypes.dlopen
""".split()


class Finding(AssertionError):
    """What a target must never do."""


@cache
def folder() -> Path:
    return Path(tempfile.mkdtemp(dir=MEMORY if MEMORY.is_dir() else None))


def written(name: str, data: bytes) -> Path:
    path = folder() / name
    path.write_bytes(data)
    return path


def answer(call: Callable[[], Any], *ours: type[Exception], path: Path | None = None) -> Any:
    """Return what a call gives, or None for an error of one of these kinds that names the file."""
    try:
        return call()
    except Exception as error:
        if type(error) not in ours or (path is not None and str(path) not in str(error)):
            raise Finding(f"{type(error).__name__}: {error}") from error


# ---- targets


_left: list[str] = []
_watched = False


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if _watched and (
        event in LEAVES or (event == "open" and arguments[1] in ("w", "a", "x", "wb"))
    ):
        _left.append(f"{event}{arguments}")


_watching = cache(partial(sys.addaudithook, _watch))


def joblib_contents(data: bytes) -> joblib_file.Contents | None:
    path = written("m.joblib", data)
    contents = answer(lambda: joblib_file.read_contents(path), ArtifactError, path=path)
    if contents is not None:
        json.dumps(joblib_file.outline_of(contents.root))
    return contents


def allowed(data: bytes) -> None:
    if joblib_contents(data) is not None:  # else it is refused without more ado
        loaded("m.joblib", data)


def loaded(name: str, data: bytes) -> None:
    global _watched
    path = written(name, data)
    found = answer(lambda: inspect_pipeline(path), ArtifactError, path=path)
    json.dumps(found)
    _watching()
    _watched = True
    try:
        opened = answer(lambda: load_pipeline(path, verify="size"), ArtifactError, path=path)
    finally:
        _watched = False
    if _left:
        raise Finding(f"it leaves the process: {_left.pop()}")
    if opened is not None and (found is None or found["refused"]):
        raise Finding("load_pipeline opens what inspect_pipeline refuses or shows as refused")


def safetensors_header(data: bytes) -> None:
    array = np.frombuffer(data, dtype=np.uint8)
    theirs = None
    with suppress(safetensors.SafetensorError):
        theirs = safetensors.deserialize(data)

    def names() -> set[str]:
        table, _ = checkpoint.read_tensor_table(array, "a model")
        expected = {name: entry["shape"] for name, entry in table.items()}
        source = {"model": "a model", "sha256": {}}
        weights.read_tensors(checkpoint.Checkpoint("{}", "{}", array, source), "bert", expected)
        return set(table)

    ours = answer(names, CheckpointError)
    if None not in (ours, theirs) and {name for name, _ in theirs} != ours:
        raise Finding("it names other tensors than safetensors does")
    if ours is None and theirs and all(own["dtype"] in ("F32", "F16") for _, own in theirs):
        raise Finding("it refuses what safetensors reads")


@cache
def small_pipeline() -> tuple[Path, bytes]:
    """Save a pipeline that opens fast, and return its path and its manifest."""
    model = make_pipeline(TfidfVectorizer(), LogisticRegression())
    model.fit(["a lovely film", "a dull film"], ["good", "bad"])
    path = folder() / "small.joblib"
    save_pipeline(model, path)
    return path, manifest.manifest_path(path).read_bytes()


def manifest_json(data: bytes) -> None:
    path, _ = small_pipeline()
    manifest.manifest_path(path).write_bytes(data)
    if answer(lambda: manifest.Manifest.read(path), ArtifactError, path=path) is not None:
        for read in (load_pipeline, lambda path: json.dumps(inspect_pipeline(path))):
            answer(partial(read, path), ArtifactError, path=path)


def tokenizer_json(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    tokenizing.text_tokenizer.cache_clear()
    tokenizing._load_tokenizer.cache_clear()
    texts = ["a lovely film", "", "Überraschend 東京 \0"]
    answer(lambda: tokenizing.text_tokenizer(text, 16, "head")(texts), CheckpointError)


def first_byte(data: bytes) -> tuple[int, int, bytes]:
    """Let the first byte choose options; return it, rows per piece, and the other bytes."""
    first = data[0] if data else 0
    return first, first % 5 + 1, data[1:]


def read_in_pieces(table: csv_table.CsvTable, n_rows: int) -> list[Any]:
    with table:
        return list(itertools.chain.from_iterable(iter(lambda: table.read(n_rows), [])))


def scored(path: Path, n_rows: int) -> list[list[Any]]:
    """Return the rows that score_table sees."""
    pieces = sources.open_source(path, "text").rows(n_rows, mark=False)
    return [list(row.values()) for piece in pieces for row in piece.table.to_pylist()]


def in_memory(data: bytes) -> AbstractContextManager[Any]:
    """Let tables read these bytes, whatever their path."""
    return patch.object(csv_table, "open_binary", lambda _: io.BytesIO(data))


def csv_stream(data: bytes) -> None:
    """Compare with the csv module and, of what that writes, with pandas."""
    first, n_rows, data = first_byte(data)
    path = folder() / "in.csv"
    table = csv_table.CsvTable(path, columns=["text"])
    with in_memory(data):
        ours = answer(lambda: read_in_pieces(table, n_rows), ValueError, path=path)
    try:
        reader = csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True)
        header, *rows = filter(None, reader)
    except (ValueError, csv.Error):
        if ours is not None:
            raise Finding("it reads what the csv module refuses") from None
        return
    well_formed = "text" in header and len(set(header)) == len(header)
    if not well_formed or any(len(row) != len(header) for row in rows):
        if ours is not None:
            raise Finding(f"it reads {ours} of a table that is none")
    elif ours != rows and not any(re.match(magic, data) for magic, *_ in csv_table._MAGIC):
        raise Finding(f"it reads {ours}, the csv module {rows}")
    elif first < 8:
        as_pandas(header, rows, n_rows)


def as_pandas(header: list[str], rows: list[list[str]], n_rows: int) -> None:
    again = io.StringIO(newline="")
    csv.writer(again, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows([header, *rows])
    if "\0" in again.getvalue() or "\r" in again.getvalue():  # pandas reads these otherwise
        return
    path = written("again.csv", again.getvalue().encode())
    theirs = pd.read_csv(path, dtype=str, keep_default_na=False).to_numpy().tolist()
    if scored(path, n_rows) != theirs:
        raise Finding(f"it reads otherwise than pandas, which reads {theirs}")


def json_lines(data: bytes) -> None:
    """Compare with the json module."""
    first, n_rows, data = first_byte(data)
    path, rows = folder() / "in.jsonl", None
    table = csv_table.JsonLines(path)
    with in_memory(data):
        ours = answer(lambda: read_in_pieces(table, n_rows), ValueError, path=path)
    with suppress(ValueError, RecursionError):
        lines = io.TextIOWrapper(io.BytesIO(data), encoding="utf-8-sig", newline="")
        rows = [json.loads(line) for line in lines if line.strip()]
    if rows is not None and not all(isinstance(row, dict) for row in rows):
        rows = None
    if repr(ours) != repr(rows):  # NaN is not equal to itself
        raise Finding(f"it reads {ours}, the json module {rows}")
    if rows and first < 64:
        written(path.name, data)
        known = answer(lambda: scored(path, n_rows), ValueError, TypeError, path=path)
        if known is not None and len(known) != len(rows):
            raise Finding("a row is lost")


def parquet_source(data: bytes) -> None:
    path = written("in.parquet", data)

    def texts() -> list[Any]:
        pieces = sources.open_source(path, "text").rows(2, mark=False)
        return [piece.table.column("text").to_pylist() for piece in pieces]

    answer(texts, ValueError, TypeError, path=path)


# ---- mutations: what is well-formed but for one place comes further than random bytes


def mutate_pickle(data: bytes, choose: random.Random) -> bytes:
    """Leave out, repeat, move, replace or add instructions of a pickle."""
    places = []
    with suppress(Exception):
        for _, _, place in pickletools.genops(data):
            places.append(place)
    end = len(data.removesuffix(b"."))
    parts = [data[a:b] for a, b in zip(places, [*places[1:], end], strict=False)]
    if not parts:
        return b"\x80\x04" + _instruction(choose) + b"."
    for _ in range(choose.randint(1, 4)):
        place = choose.randrange(1, len(parts) + 1)
        kind = choose.randrange(5)
        if kind == 0 and place < len(parts):
            del parts[place]
        elif kind == 1:
            parts[place:place] = [choose.choice(parts)] * choose.choice([1, 1, 1, 2, 50])
        elif kind == 2 and place < len(parts):
            parts[place] = _instruction(choose)
        elif kind == 3:
            a = choose.randrange(1, len(parts) + 1)
            parts[place:place] = parts[a : a + choose.randint(1, 8)]
        else:
            parts.insert(place, _instruction(choose))
    return b"".join(parts) + b"."


OPCODES = [code for code in pickletools.opcodes if code.name not in ("STOP", "FRAME")]


def _instruction(choose: random.Random) -> bytes:
    """Make any instruction of a pickle, or the three that name a global."""
    if choose.random() < 0.25:
        module, _, name = choose.choice(NAMES).rpartition(".")
        return b"".join(b"\x8c" + bytes([len(x)]) + x.encode() for x in (module, name)) + b"\x93"
    code = choose.choice(OPCODES)
    head = code.code.encode("latin-1")
    if code.arg is None:
        return head
    if code.arg.n >= 0:
        value = choose.choice([0, 1, 2, 3, 255, 1 << 31, choose.randrange(1 << 16)])
        return head + (value % (1 << 8 * code.arg.n)).to_bytes(code.arg.n, "little")
    body = choose.choice([b"", b"a", b"\0" * 8, b"f8", b"O", b"-1", b"7" * 30, "é".encode()])
    if code.arg.n == pickletools.UP_TO_NEWLINE:
        module, _, name = choose.choice(NAMES).encode().rpartition(b".")
        lines = [module, name] if code.name in ("GLOBAL", "INST") else [choose.choice([body, b"1"])]
        return head + b"".join(line + b"\n" for line in lines)
    n_bytes = int(code.arg.name[-1])  # of the length before them: bytes8 has 8
    claimed = len(body) if choose.random() < 0.9 else choose.randrange(1 << 8 * n_bytes - 1)
    return head + claimed.to_bytes(n_bytes, "little") + body


VALUES = json.loads(
    '[null, true, 0, -1, 1099511627776, Infinity, NaN, 0.5, "", "a", "F32", [], {}, [[]], [0, 8]]'
)


def mutate_json(data: bytes, choose: random.Random) -> bytes:
    """Replace, leave out, repeat or nest a value of a JSON document."""
    try:
        root = [json.loads(data)]
    except (ValueError, RecursionError):
        return data[: choose.randrange(len(data) + 1)]
    inside = []
    waiting: list[Any] = [root]
    while waiting:
        part = waiting.pop()
        keys = list(part) if isinstance(part, dict) else range(len(part))
        inside += [(part, key) for key in keys]
        waiting += [part[key] for key in keys if isinstance(part[key], list | dict)]
    for _ in range(choose.randint(1, 3)):
        part, key = choose.choice(inside)
        other, from_ = choose.choice(inside)
        kind = choose.randrange(6)
        with suppress(KeyError, IndexError, RecursionError):
            if kind == 0:
                part[key] = choose.choice(VALUES)
            elif kind == 1 and isinstance(part, dict):
                del part[key]
            elif kind == 2:
                part[key] = [part[key]]
            elif kind == 3 and type(part[key]) is int:
                part[key] += choose.choice([-1, 1, 8, -8, 1 << 32, -part[key]])
            elif kind == 4 and isinstance(part[key], str):
                part[key] += choose.choice(["x", "\ud800", "0", " "])
            else:
                part[key] = json.loads(json.dumps(other[from_]))
    return json.dumps(root[0] if root else None).encode()


def mutate_safetensors(data: bytes, choose: random.Random) -> bytes:
    length = int.from_bytes(data[:8], "little")
    if not 0 < length < len(data):
        return data
    header = mutate_json(data[8 : 8 + length], choose)
    return len(header).to_bytes(8, "little") + header + data[8 + length :]


def mutate_skops(data: bytes, choose: random.Random) -> bytes:
    """Change the description in a .skops file, or the way in which it is packed."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
    except Exception:
        return data
    if "schema.json" in members:
        members["schema.json"] = mutate_json(members["schema.json"], choose)
    return zipped(members, choose.choice([zipfile.ZIP_STORED] * 2 + [zipfile.ZIP_DEFLATED]))


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def content_of(write: Callable[[io.BytesIO], Any]) -> bytes:
    file = io.BytesIO()
    write(file)
    return file.getvalue()


# ---- seeds


def pickles() -> list[bytes]:
    nested = np.array([np.array([1, "a"], dtype=object), None], dtype=object)
    values: list[Any] = [
        {"a": [1, 2.5, None, "x", b"y", (True,)], (1, "k"): {2, 3}, "f": frozenset({4})},
        [np.arange(3), np.array(["a", "bc"]), nested, np.float64(2), np.zeros(2, "i4,f8")],
        [OrderedDict(a=1), defaultdict(list, b=[2]), slice(3), range(4), 1j, bytearray(b"z")],
        LogisticRegression(C=2),
        make_pipeline(TfidfVectorizer(), LogisticRegression()),
    ]
    dumps = [
        partial(joblib.dump, own, protocol=protocol) for own in values for protocol in (2, 4, 5)
    ]
    damaged = b"\x80\x02(cos\nmkdir\nX\x01\x00\x00\x00xo."
    return [*map(content_of, dumps), small_pipeline()[0].read_bytes(), damaged]


def skops_files() -> list[bytes]:
    import skops.io

    fitted = LogisticRegression(C=3).fit([[0.0], [1.0]], ["no", "yes"])
    values = [fitted, make_pipeline(TfidfVectorizer(), fitted), {"a": [1, (2, {3})], "b": None}]
    content = '"content": [{"__class__": "str", "is_json": true, "content": "["}]'
    schema = f'{{"__class__": "list", "__module__": [], {content}}}'
    return [*map(skops.io.dumps, values), zipped({"schema.json": schema.encode()})]


def safetensors_files() -> list[bytes]:
    tensors = {"a": np.zeros((2, 3), np.float32), "b": np.ones(4, np.float16), "c": np.int64(1)}
    arrays = {name: np.asarray(value) for name, value in tensors.items()}
    return [save_safetensors(arrays), save_safetensors({"d": arrays["a"]}, {"format": "pt"})]


def manifests() -> list[bytes]:
    values = json.loads(small_pipeline()[1])
    replacing = {**values, "sha256": "0", "replaces": values}
    wrong = [
        {"versions": []},
        {"versions": {"torch": 2.13}},
        {"size": "1665"},
        {"probes": {}},
        {"probes": {**values["probes"], "method": "set_params"}},
        {"probes": {**values["probes"], "tolerance": "much"}},
        {"replaces": {"format_version": 2}},
        {"replaces": []},
    ]
    damaged = [json.dumps({**values, **part}).encode() for part in wrong]
    return [small_pipeline()[1], json.dumps(replacing).encode(), b"{}", b"[]", *damaged]


def tokenizers() -> list[bytes]:
    kinds = (_wordpiece(True), _roberta_like(byte_level=True), _roberta_like(byte_level=False))
    return [kind.to_str().encode() for kind in kinds]


CSV_FILES = [
    b'\1id,text\n1,"two\nlines, ""quoted"""\n\n2,\n3,NA\n4,"""\n"\n',
    b"\0\xef\xbb\xbftext\r\na\r\nb\rc\r\n",
    b"\2text,label\na,b\nc\n",
    b'\3text\n"a',
]
JSON_FILES = [
    b'\1{"text": "a", "n": 1}\n\n{"text": "b", "n": 2.5, "l": [1, {"x": null}]}\n',
    b'\0{"text": "\\ud800", "n": true}\n{"text": null}\n',
]


def parquet_files() -> list[bytes]:
    no_utf8 = pa.array([b"\xff"]).cast(pa.string(), safe=False)
    tables = (
        pa.table({"text": no_utf8}),
        pa.table({"text": ["a"]}).replace_schema_metadata({"pandas": "{"}),
        pa.table({"text": ["a", None, "b"], "n": [1, 2, 3]}),
        pa.table({"text": pa.array(["a", "b"]).dictionary_encode(), "l": [[1], [2]]}),
        pa.Table.from_pandas(pd.DataFrame({"text": ["x"]}, index=pd.Index([7], name="i"))),
    )
    return [content_of(partial(pq.write_table, table)) for table in tables]


class Target(NamedTuple):
    """What reads bytes and raises `Finding`, what it starts from, and how these are changed."""

    run: Callable[[bytes], Any]
    seeds: Callable[[], list[bytes]]
    mutate: Callable[[bytes, random.Random], bytes] | None = None


TARGETS = {
    "joblib contents": Target(joblib_contents, pickles, mutate_pickle),
    "allow-list": Target(allowed, pickles, mutate_pickle),
    "skops zip": Target(partial(loaded, "m.skops"), skops_files, mutate_skops),
    "safetensors header": Target(safetensors_header, safetensors_files, mutate_safetensors),
    "manifest JSON": Target(manifest_json, manifests, mutate_json),
    "tokenizer.json": Target(tokenizer_json, tokenizers, mutate_json),
    "CSV stream": Target(csv_stream, CSV_FILES.copy),
    "JSON lines": Target(json_lines, JSON_FILES.copy),
    "Parquet source": Target(parquet_source, parquet_files),
}


# ---- the fuzzer


def instrument() -> None:
    """Count the branches of our modules, and of the unpickler that they stand on."""
    import atheris

    ours = (allow_list, artifact, joblib_file, manifest, opening, skops_file)
    readers = (checkpoint, csv_table, datasets, sources, tokenizing, weights)
    for module in (*ours, *readers, pickle):
        for value in list(vars(module).values()):
            for function in list(vars(value).values()) if isinstance(value, type) else [value]:
                if inspect.isfunction(function) and function.__module__ == module.__name__:
                    atheris.instrument_func(inspect.unwrap(function))


def fuzz(name: str, options: list[str]) -> None:
    """Fuzz one target in this process, until libFuzzer ends it."""
    import atheris

    target = TARGETS[name]
    for data in target.seeds():  # what is imported and saved once is no call of the target
        target.run(data)
    instrument()
    warnings.simplefilter("ignore")

    def mutated(data: bytes, max_size: int, seed: int) -> bytes:
        choose = random.Random(seed)
        if target.mutate is None or choose.random() < 0.4:
            return bytes(atheris.Mutate(data, max_size))
        return target.mutate(data, choose)[:max_size]

    atheris.Setup([name, *options], target.run, custom_mutator=mutated)
    atheris.Fuzz()


def run(name: str, seconds: int, corpus: Path) -> dict[str, Any]:
    """Fuzz one target for so long in a process of its own."""
    mine = corpus / name.replace(" ", "-")
    mine.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(TARGETS[name].seeds()):  # the finds are slow, most of them
        (mine / f"seed-{number}").write_bytes(data)
    limits = f"-max_total_time={seconds} -timeout={PATIENCE} -rss_limit_mb={MEGABYTES}"
    options = [*limits.split(), "-max_len=8192", "-print_final_stats=1", str(mine)]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tests.fuzzing", name, "--alone"),
            *(*options, f"-artifact_prefix={mine}-"),
        ],
        cwd=TOP,
        capture_output=True,
        text=True,
        errors="replace",
    )
    executed = re.findall(r"number_of_executed_units: (\d+)|^#(\d+)", done.stderr, re.MULTILINE)
    found = {"target": name, "executions": int("".join(executed[-1])) if executed else 0}
    if done.returncode:
        found["finding"] = done.stderr[-3000:]
    return found


def main() -> None:
    """Fuzz the targets one after another."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("targets", nargs="*", default=list(TARGETS))
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--corpus", help="a folder that keeps what was learned")
    options = parser.parse_args()
    corpus = Path(options.corpus or tempfile.mkdtemp())
    corpus.mkdir(exist_ok=True)
    found = []
    for name in options.targets:
        found.append(run(name, options.seconds, corpus))
        sys.stdout.write(f"{json.dumps(found[-1])}\n")
        sys.stdout.flush()
    sys.exit(sum("finding" in one for one in found))


if __name__ == "__main__":
    if "--alone" in sys.argv:
        fuzz(sys.argv[1], sys.argv[3:])
    else:
        main()
