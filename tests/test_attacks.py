"""A gallery of attacks: each does its harm to a naive reader, and none to this package.

Kinds that were published, by idea. A naive reader runs in a process of its own, with little memory
and time, in the folder of the file; the harm is that a folder ``harm`` is made there, or its death
by memory, time or a stray address.
"""

import contextlib
import io
import json
import lzma
import os
import pickle
import shutil
import stat
import struct
import subprocess
import sys
import warnings
import zipfile
import zlib
from pathlib import Path

import joblib
import numpy as np
import pytest
import skops
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.preprocessing import FunctionTransformer

from pipeline import ArtifactError, BertVectorizer, CheckpointError, inspect_pipeline, load_pipeline
from tests.test_allow_list import KERNEL, bytes_called, named, pickled, reduced, text

NAIVE = r'''
import copyreg, io, json, os, pathlib, pickle, resource, signal, stat, sys, warnings, zipfile
import joblib, numpy as np, skops.io
from sklearn.gaussian_process.kernels import RBF
warnings.simplefilter("ignore")
copyreg.add_extension("os", "mkdir", 240)
MiB = 1 << 20

def skops_load(path):
    return skops.io.load(path, trusted=skops.io.get_untrusted_types(file=path))

def unzip(path):
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            target = os.path.join(os.path.dirname(path), "unpacked", entry.filename)
            os.makedirs(os.path.dirname(target), exist_ok=True)
            if stat.S_ISLNK(entry.external_attr >> 16):
                os.symlink(archive.read(entry).decode(), target)
            else:
                open(target, "wb").write(archive.read(entry))

def scan_first(path):
    with zipfile.ZipFile(path) as archive:
        assert b"mkdir" not in archive.open(archive.infolist()[0]).read()
    skops_load(path)

def by_persistent_id(path):
    class Reader(pickle.Unpickler):
        def persistent_load(self, name):
            return Reader.find_class(self, *name.rsplit(".", 1))
    Reader(open(path, "rb")).load()

def every_pickle(path):
    with open(path, "rb") as file:
        while file.peek(1):
            pickle.load(file)

def tensors(path):
    data = open(os.path.join(path, "model.safetensors"), "rb").read()
    length = int.from_bytes(data[:8], "little")
    header = bytearray(length)
    header[:] = data[8 : 8 + length]
    read = {name: data[slice(*(8 + length + n for n in entry["data_offsets"]))]
            for name, entry in json.loads(header).items() if name != "__metadata__"}
    os.mkdir("harm")  # they go on to the model

def remote_code(path):
    from transformers import AutoConfig
    AutoConfig.from_pretrained(path, trust_remote_code=True)

def tokens(path):
    from tokenizers import Tokenizer
    Tokenizer.from_file(os.path.join(path, "tokenizer.json")).encode("a" * 40 + "!")

READERS = {
    "joblib": joblib.load,
    "mapped": lambda path: repr(joblib.load(path, mmap_mode="c")),
    "diag": lambda path: RBF.diag("harm") if joblib.load(path) else 0,
    "transform": lambda path: joblib.load(path).transform(["harm"]),
    "program": lambda path: joblib.load(path).transform(f"import os; os.mkdir({'harm'!r})"),
    "numpy": lambda path: np.load(path, allow_pickle=True),
    "torch": lambda path: pickle.loads(zipfile.ZipFile(path).read("archive/data.pkl")),
    "read zip": lambda path: zipfile.ZipFile(path).read("schema.json"),
    "skops": skops_load, "skops program": lambda path: skops_load(path).transform(
        f"import os; os.mkdir({'harm'!r})"),
    **{f.__name__: f for f in (unzip, scan_first, by_persistent_id, every_pickle, tensors,
                               remote_code, tokens)},
}

def run(name, reader, path):
    """Let a naive reader open a file in a child, and say what became of it."""
    child = os.fork()
    if child == 0:
        os.chdir(os.path.dirname(path))
        sys.path.insert(0, os.getcwd())
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        if "GiB" in name:
            resource.setrlimit(resource.RLIMIT_AS, (used + 96 * MiB,) * 2)
        resource.setrlimit(resource.RLIMIT_CPU, (2, 2) if "forever" in name else (20, 20))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        for stream in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
        try:
            READERS[reader](path)
            os._exit(0)
        except MemoryError:
            os._exit(77)
        except BaseException as error:
            os._exit(77 if "memory" in str(error).lower() or "retry-limit" in str(error) else 1)
    status = os.waitpid(child, 0)[1]
    return ("a folder" if os.path.isdir(os.path.join(os.path.dirname(path), "harm")) else
            "death" if os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 77 else "none")

print(json.dumps({name: run(name, reader, path) for name, reader, path in json.load(sys.stdin)}))
'''

# ---- pickles


HARM, PROGRAM = text("harm"), text("import os; os.mkdir('harm')")
COMMAND = b"](" + text("mkdir") + HARM + b"e"
MKDIR, CALL_HARM = named("os.mkdir"), HARM + b"\x85R"
MODULE, POPEN = reduced("importlib.import_module", text("os")), named("subprocess.Popen")
PARTIAL_OF_MKDIR = b"(" + MKDIR + HARM + b"\x85}}t"
MEMO = text("os") + b"\x94" + text("mkdir") + b"\x9400" + named("math.sqrt") + b"0h\x00h\x01\x93"
INSIDE = pickled(reduced("os.mkdir", HARM))
PICKLES = {
    "reduce: os.mkdir": reduced("os.mkdir", HARM),
    "reduce: os.system": reduced("posix.system", text("mkdir harm")),
    "reduce: subprocess": reduced("subprocess.call", COMMAND),
    "eval": reduced("builtins.eval", text("__import__('os').mkdir('harm')")),
    "exec": reduced("builtins.exec", PROGRAM),
    "a module inside a module": text("shutil") + text("os.mkdir") + b"\x93" + CALL_HARM,
    "globals of an allowed method": text("sklearn.pipeline")
    + text("Pipeline.__init__.__builtins__.get") + b"\x93" + text("exec") + b"\x85R" + PROGRAM
    + b"\x85R",
    "getattr of an imported module": named("builtins.getattr") + MODULE + text("mkdir") + b"\x86R"
    + CALL_HARM,
    "attrgetter": reduced("operator.attrgetter", text("mkdir")) + MODULE + b"\x85R" + CALL_HARM,
    "methodcaller": reduced("operator.methodcaller", text("mkdir"), HARM) + MODULE + b"\x85R",
    "partial": reduced("functools.partial", MKDIR, HARM) + b")R",
    "the state of a partial": reduced("functools.partial", named("builtins.print"))
    + PARTIAL_OF_MKDIR + b"b)R",
    "map, drained by a list": reduced(
        "builtins.list", reduced("builtins.map", MKDIR, b"]" + HARM + b"a")
    ),
    "the class itself is changed": named(KERNEL) + b"N}" + text("diag") + MKDIR + b"s\x86b",
    "an extension code": pickle.EXT1 + b"\xf0" + CALL_HARM,
    "a persistent id": text("os.mkdir") + pickle.BINPERSID + CALL_HARM,
    "copyreg rebuilds it": reduced("copyreg._reconstructor", POPEN, POPEN, COMMAND),
    "names from the memo": MEMO + CALL_HARM,
    "INST, of protocol 0": b"(" + HARM + b"ios\nmkdir\n",
    "OBJ, of protocol 1": b"(" + MKDIR + HARM + b"o",
    "NEWOBJ_EX": named("subprocess.Popen") + b")}\x920" + reduced("os.mkdir", HARM),
    "a pickle inside a pickle": reduced(
        "pickle.loads", pickle.BINBYTES + struct.pack("<I", len(INSIDE)) + INSIDE
    ),
    "a name found by pkgutil": reduced("pkgutil.resolve_name", text("os:mkdir")) + CALL_HARM,
    "a program for timeit": reduced("timeit.main", b"](" + text("-n1") + PROGRAM + b"e"),
    "a program for a profiler": reduced("cProfile.run", PROGRAM),
    "a program for numpy's tests": reduced("numpy.testing.runstring", PROGRAM, b"}"),
    "a program for pydoc": reduced("pydoc.locate", text("own_step.Step")),
    "a module that lies beside it": named("own_step.Step") + b")\x81",
    "a class whose state does it": named("own_state.Step") + b")\x81K\x01b",
    "a class whose metaclass does it": named("own_kind.Step") + b")\x81",
    "tuples as keys, forever": b"})" + b"2\x86" * 64 + b"Ns",
}  # fmt: skip
OTHER_READERS = {
    "the class itself is changed": "diag",
    "a persistent id": "by_persistent_id",
}
MODULES = {  # beside each file
    "own_step.py": "import os\nos.mkdir('harm')\nclass Step: pass",
    "own_state.py": "import os\nclass Step:\n  __setstate__ = lambda *_: os.mkdir('harm')",
    "own_kind.py": "import os\nclass Kind(type):\n  def __init__(*_): os.mkdir('harm')\n"
    "class Step(metaclass=Kind): pass",
}


class Payload:
    """Makes a folder when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("harm",)


def in_memory(write, *values, **options):
    file = io.BytesIO()
    write(*[file if value is ... else value for value in values], **options)
    return file.getvalue()


def claimed():
    """Return a joblib file whose array claims 4 GiB."""
    content = in_memory(joblib.dump, np.zeros((3, 4), "u1"), ...)
    shape, claim = b"K\x03K\x04\x86", b"J" + struct.pack("<i", 1 << 30) + b"K\x04\x86"
    at = content.index(pickle.FRAME) + 1
    length = int.from_bytes(content[at : at + 8], "little") + len(claim) - len(shape)
    content = content[:at] + struct.pack("<Q", length) + content[at + 8 :]
    return content.replace(shape, claim)


def packed(packer):
    """Return a value of a quarter of a GiB of zeros, packed."""
    bomb = packer.compress(b"\x80\x04" + pickle.BINBYTES8 + struct.pack("<Q", 1 << 28))
    return bomb + b"".join(packer.compress(bytes(1 << 20)) for _ in range(256)) + packer.flush()


def zipped(*entries):
    file = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        warnings.simplefilter("ignore")  # of one name twice
        for name, content in entries:
            archive.writestr(name, content)
    return file.getvalue()


OBJECTS = np.array([Payload(), None], dtype=object)
FILES = {  # name -> content, naive reader
    "the text protocol": (b"cos\nmkdir\n(S'harm'\ntR.", "joblib"),
    "a second pickle after the end": (pickled(b"N") + INSIDE, "every_pickle"),
    "an object array in a joblib file": (in_memory(joblib.dump, {"a": OBJECTS}, ...), "joblib"),
    "an object array in an npy file": (in_memory(np.save, ..., OBJECTS), "numpy"),
    "a function that is exec": (in_memory(joblib.dump, FunctionTransformer(exec), ...), "program"),
    "an analyzer that is os.mkdir": (
        in_memory(joblib.dump, HashingVectorizer(analyzer=os.mkdir), ...),
        "transform",
    ),
    "an array that claims 4 GiB": (claimed(), "joblib"),
    "zlib: a quarter of a GiB of zeros": (packed(zlib.compressobj(1)), "joblib"),
    "gzip: a quarter of a GiB of zeros": (packed(zlib.compressobj(1, wbits=31)), "joblib"),
    "xz: a quarter of a GiB of zeros": (packed(lzma.LZMACompressor(preset=0)), "joblib"),
    "a checkpoint of torch": (zipped(("archive/data.pkl", INSIDE)), "torch"),
}

# ---- skops


def node(name, loader, **more):
    module, _, kind = name.rpartition(".")
    return {"__class__": kind, "__module__": module, "__loader__": loader, **more}


def plain(value):
    return node("builtins.str", "JsonNode", content=json.dumps(value), is_json=True)


def a_tuple(*items):
    return node("builtins.tuple", "TupleNode", content=list(items))


def a_dict(kind="builtins.dict", **items):
    keys = [node("builtins.str", "TypeNode") for _ in items]
    types = node("builtins.list", "ListNode", content=keys)
    return node(kind, "DictNode", content=items, key_types=types)


def call(name, *arguments):
    return node(name, "ConstructorFromReduceNode", content=a_tuple(*arguments))


def method(owner, name):
    """Return an attribute of a module, by way of a method."""
    return node("os.path", "MethodNode", content={"func": name, "obj": owner})


def schema(root):
    return ("schema.json", json.dumps({**root, "protocol": 2, "_skops_version": skops.__version__}))


def drained(function, argument):
    return call("builtins.list", call("builtins.map", function, a_tuple(argument)))


OS = method(node("os.path", "TypeNode"), "os")
INTERFACE = a_dict(shape=a_tuple(plain(1 << 40)), typestr=plain("|u1"), version=plain(3),
                   data=a_tuple(plain(4096), plain(False)))  # fmt: skip
LIAR = node(KERNEL, "ObjectNode", content=a_dict(__array_interface__=INTERFACE))
PAIRS = call("collections.OrderedDict", a_tuple(a_tuple(plain("__array_interface__"), INTERFACE)))
METHODCALLER = node(
    "operator.methodcaller", "OperatorFuncNode", attrs=a_tuple(plain("mkdir"), plain("harm"))
)
TRANSFORMER = "sklearn.preprocessing._function_transformer.FunctionTransformer"
SCHEMAS = {
    "skops: a call": call("os.mkdir", plain("harm")),
    "skops: a list that is a call": node(
        "subprocess.call", "ListNode", content=[plain("mkdir"), plain("harm")]
    ),
    "skops: a method of a module": drained(method(OS, "mkdir"), plain("harm")),
    "skops: a function of operator": drained(METHODCALLER, OS),
    "skops: a partial": drained(
        node("functools.partial", "PartialNode", content={
            "func": method(OS, "mkdir"), "args": a_tuple(plain("harm")), "kwds": a_dict(),
            "namespace": a_dict()}),
        plain(511),
    ),
    "skops: an address, by reduce": call("numpy.sum", LIAR),
    "skops: an address, by a list": node("numpy.hstack", "ListNode", content=[LIAR, LIAR]),
    "skops: an address, by a set": node("numpy.sum", "SetNode", content=[LIAR]),
    "skops: an address, in a Bunch": call(
        "numpy.sum", a_dict("sklearn.utils._bunch.Bunch", __array_interface__=INTERFACE)
    ),
    "skops: an address, by pairs": call("numpy.sum", node(KERNEL, "ObjectNode", content=PAIRS)),
    "skops: an address, by a number used twice": a_tuple(
        PAIRS | {"__id__": 5},
        call("numpy.sum", node(KERNEL, "ObjectNode", content=a_dict() | {"__id__": 5})),
    ),
    "skops: an address, in an array": node(
        "numpy.ndarray", "NdArrayNode", type="json", content=[LIAR, LIAR],
        shape=a_tuple(plain(1), plain(2)),
    ),
}  # fmt: skip
HONEST, EVIL = schema(a_tuple(plain(1))), schema(SCHEMAS["skops: a call"])
LINK = zipfile.ZipInfo("away")
LINK.external_attr = (stat.S_IFLNK | 0o777) << 16
FILES |= {name: (zipped(schema(root)), "skops") for name, root in SCHEMAS.items()}
FILES |= {
    "zip: a way out of the folder": (zipped(HONEST, ("../harm/x", "")), "unzip"),
    "zip: a link out of the folder": (zipped(HONEST, (LINK, ".."), ("away/harm/x", "")), "unzip"),
    "zip: two entries of one name": (zipped(HONEST, EVIL), "scan_first"),
    "zip: a quarter of a GiB of blanks": (zipped(("schema.json", b" " * (1 << 28))), "read zip"),
}
FILES |= {
    name: (pickled(code), OTHER_READERS.get(name, "joblib")) for name, code in PICKLES.items()
}


# ---- models


def model_folders(tiny_bert, folder):
    """Write models, and yield each by name, with its naive reader."""
    whole = (Path(tiny_bert) / "model.safetensors").read_bytes()
    length = int.from_bytes(whole[:8], "little")
    header, data = json.loads(whole[8 : 8 + length]), whole[8 + length :]
    header.pop("__metadata__", None)
    (first, one), (_, other), *_ = header.items()
    begin, end = one["data_offsets"]
    n = len(data)
    changed = {
        "over those of another": {first: {**one, "data_offsets": other["data_offsets"]}},
        "after the end": {first: {**one, "data_offsets": [n, n + end - begin]}},
        "before the start": {first: {**one, "data_offsets": [begin - end, 0]}},
        "too few for its shape": {first: {**one, "shape": [2, *one["shape"]]}},
        "of negative sizes": {first: {**one, "shape": [-n for n in one["shape"]]}},
        "that do not begin at the start": {
            name: {**entry, "data_offsets": [8 + at for at in entry["data_offsets"]]}
            for name, entry in header.items()
        },
    }
    headers = {
        f"safetensors: bytes {name}": json.dumps({**header, **change}).encode()
        for name, change in changed.items()
    }
    twice = json.dumps(header)[:-1] + f", {json.dumps(first)}: {json.dumps(one)}}}"
    headers["safetensors: a name twice"] = twice.encode()

    def copied(name):
        target = folder / name.replace(":", "") / "model"
        shutil.copytree(tiny_bert, target)
        return target

    for name, text_of_it in headers.items():
        target = copied(name)
        size = struct.pack("<Q", len(text_of_it))
        (target / "model.safetensors").write_bytes(size + text_of_it + data + bytes(8))
        yield name, (target, "tensors")
    target = copied("safetensors: a header of many GiB")
    (target / "model.safetensors").write_bytes(struct.pack("<Q", 1 << 40) + whole[8:])
    yield "safetensors: a header of many GiB", (target, "tensors")
    target = copied("code of its own")
    own = {"model_type": "own", "auto_map": {"AutoConfig": "own_step.Config"}}
    (target / "config.json").write_text(json.dumps(own))
    (target / "own_step.py").write_text(MODULES["own_step.py"])
    yield "code of its own", (target, "remote_code")
    target = copied("a regular expression, forever")
    values = json.loads((target / "tokenizer.json").read_text())
    values["pre_tokenizer"] = {"type": "Split", "pattern": {"Regex": "(a+)+$"},
                               "behavior": "Isolated", "invert": False}  # fmt: skip
    (target / "tokenizer.json").write_text(json.dumps(values))
    yield "a regular expression, forever", (target, "tokens")


def naive_readers(attacks):
    """Let a naive reader open each file in a sandbox; return what harm was done."""
    asked = [(name, reader, str(path)) for name, (path, reader) in attacks.items()]
    done = subprocess.run(
        [sys.executable, "-c", NAIVE], input=json.dumps(asked), capture_output=True, text=True,
        check=True, timeout=120,
    )  # fmt: skip
    return json.loads(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="the sandbox needs Linux")
def test_what_harms_a_naive_reader_is_refused_and_shown(tiny_bert, tmp_path, monkeypatch):
    attacks = {}
    for n, (name, (content, reader)) in enumerate(FILES.items()):
        path = tmp_path / str(n) / "m.joblib"
        path.parent.mkdir()
        path.write_bytes(content)
        for module, code in MODULES.items():
            path.with_name(module).write_text(code)
        attacks[name] = path, reader
    bytes_called([("a", "O")], tmp_path / "m.joblib")
    attacks["bytes that are taken for pointers"] = tmp_path / "m.joblib", "mapped"
    attacks |= dict(model_folders(tiny_bert, tmp_path))
    assert len(attacks) > 60
    for name, (path, _) in attacks.items():
        monkeypatch.chdir(path.parent)
        monkeypatch.syspath_prepend(str(path.parent))
        if path.is_dir():
            model = BertVectorizer(str(path))
            with pytest.raises(CheckpointError):
                pytest.fail(f"{name} opened: {model.fit_transform(['a' * 40 + '!', 'a'])}")
        else:
            with pytest.raises(ArtifactError):
                pytest.fail(f"{name} opened: {load_pipeline(path)}")
            with contextlib.suppress(ArtifactError):  # which says what is wrong
                found = inspect_pipeline(path)
                assert found["refused"] or found["problems"], name
        assert not (path.parent / "harm").exists(), name
    harm = naive_readers(attacks)
    assert [name for name in attacks if harm[name] == "none"] == []
