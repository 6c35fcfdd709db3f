"""The seeds of the fuzzer and what it found; `make fuzz` goes on from there."""

import io
import json
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OrdinalEncoder

from pipeline import inspect_pipeline, load_pipeline
from pipeline.exceptions import ArtifactError
from pipeline.saved.manifest import parts_of
from tests.fuzzing import TARGETS

TOP = Path(__file__).resolve().parent.parent
# in a process of its own: what was found crashed Python, or took all memory and a day
RUN = """
import faulthandler, resource, sys, warnings
from tests.fuzzing import TARGETS
from tests.test_fuzzing import inputs_of
warnings.simplefilter("ignore")
resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))
for name in sys.argv[1:]:
    for number, data in enumerate(inputs_of(name)):
        faulthandler.dump_traceback_later(30, exit=True)
        try:
            TARGETS[name].run(data)
        except BaseException as error:
            print(f"{name}, input {number}: {type(error).__name__}: {error}")
"""


# What was found, each with what was wrong before. Names of targets -> inputs.
_PAIRS = b"2\x86" * 40  # a tuple of twice the tuple before, 40 times: a terabyte, were it written
_LISTS = b"".join(b"](" + b"h%c" % (n - 1) * 50 + b"e\x94" for n in range(1, 16))
_PICKLES = [
    b"\x80\x04}N" + _PAIRS + b"Ns.",  # a key that takes a day to hash: SETITEM
    b"\x80\x04}(N" + _PAIRS + b"Nu.",  # SETITEMS
    b"\x80\x04(N" + _PAIRS + b"Nd.",  # DICT
    b"\x80\x04\x8f(N" + _PAIRS + b"\x90.",  # ADDITEMS
    b"\x80\x04(N" + _PAIRS + b"\x91.",  # FROZENSET
    b"\x80\x04}N" + b"\x85" * 300_000 + b"Ns.",  # one that needs more than the stack
    b"\x80\x04]\x94" + _LISTS + b".",  # an outline without end
    b"\x80\x04N" + _PAIRS + b"}b.",  # an error message without end
    b"\x80\x04}\x8b\x00\x08\x00\x00" + b"\x7f" * 2048 + b"Ns.",  # a number nobody can print
    b"\x80\x04cbuiltins\nset\ncbuiltins\nrange\n\x8a\x05\0\0\0\0\x01\x85R\x85R.",
    b"\x80\x04cbuiltins\nbytearray\n\x8a\x05\0\0\0\0\x7f\x85R.",
    b"\x80\x04cbuiltins\nset\n](N" + _PAIRS + b"e\x85R.",
    b"\x80\x04}\x8b\x00\x08\x00\x00" + b"\x7f" * 2048 + b"\x85Ns.",
    b"\x80\x04N" + _PAIRS + b")R.",  # a call of a value whose repr has no end
    b"\x80\x04cnumpy\ndtype\nN" + _PAIRS + b"\x85R.",
    # a state that no dtype has, at which numpy crashes
    b"\x80\x04cnumpy\ndtype\n\x8c\x02i8\x89\x88\x87R(K\x03\x8c\x01<NNNJ\xff\xff\xff\xff\x87K\0K\xfftb.",
]
_DEEP = b"[" * 200_000
FINDS: dict[str, list[bytes]] = {
    "joblib contents": _PICKLES,
    "allow-list": _PICKLES,
    "safetensors header": [
        b'\x38\0\0\0\0\0\0\0{"a":{"dtype":"F32","shape":[0,8],"data_offsets":[0,0]}}',
        *(
            len(header).to_bytes(8, "little") + header + b"\0" * 64
            for header in (
                _DEEP,
                b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,NaN]}}',
                b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[-4,0]}}',
                b'{"a":{"dtype":"F32","shape":[1.0],"data_offsets":[0,4]}}',
                b'{"a":{"dtype":"F32","shape":"","data_offsets":[0,4]}}',
                b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0.0,4]}}',
                b'{"a":{"dtype":["F32"],"shape":[1],"data_offsets":[0,4]}}',
                b'{"a":{"dtype":"F32","data_offsets":[0,4]}}',
            )
        ),
    ],
    "manifest JSON": [_DEEP],
    "tokenizer.json": [
        b'{"model": {"type": "Unigram", "unk_id": null, "vocab": [["a", 0.0]]},'
        b'"post_processor": {"type": "BertProcessing", "sep": ["a", 0], "cls": ["a", 0]}}'
    ],
    "JSON lines": [b"\1" + _DEEP],
}


def inputs_of(name: str) -> list[bytes]:
    """Return the seeds of a target, and what was found with it before."""
    return [*TARGETS[name].seeds(), *FINDS.get(name, [])]


@pytest.mark.skipif(sys.platform == "win32", reason="no resource limits on this system")
def test_no_seed_and_no_earlier_finding_hangs_crashes_or_gets_past_the_readers():
    done = subprocess.run(
        [sys.executable, "-c", RUN, *TARGETS], cwd=TOP, capture_output=True, text=True, timeout=300
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert set(FINDS) <= set(TARGETS)


def test_an_outline_is_short_however_often_a_file_holds_a_list_and_however_deep(tmp_path):
    path = tmp_path / "m.joblib"
    path.write_bytes(b"\x80\x04]\x94" + _LISTS + b".")
    assert len(json.dumps(inspect_pipeline(path)["contents"])) < 200_000  # it was 8 million


@pytest.mark.parametrize("packed", [zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
def test_a_skops_file_of_few_bytes_that_would_fill_the_memory_is_refused(packed, tmp_path):
    path = tmp_path / "m.skops"
    with zipfile.ZipFile(path, "w", packed) as archive:
        archive.writestr("schema.json", b'{"__class__": "list"' + b" " * (1 << 26) + b"}")
    for read in (inspect_pipeline, load_pipeline):
        with pytest.raises(ArtifactError, match=r"m\.skops is refused: it unpacks to 671\d+ bytes"):
            read(path)


def test_an_encrypted_skops_file_is_refused_by_its_name(tmp_path):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("schema.json", '{"__class__": "list"}')
    encrypted = bytearray(content.getvalue())
    for header, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        encrypted[encrypted.index(header) + flags] |= 1
    path = tmp_path / "m.skops"
    path.write_bytes(encrypted)
    with pytest.raises(ArtifactError, match=r"m\.skops is not a saved pipeline"):
        inspect_pipeline(path)


def test_the_parts_of_a_model_of_many_words_are_found_in_one_pass():
    model = make_pipeline(OrdinalEncoder())
    model.vocabulary_ = {f"word {i}": [i] for i in range(200_000)}
    start = time.process_time()
    assert sum(1 for _ in parts_of(model)) > 200_000
    assert time.process_time() - start < 5  # a list whose first item leaves would take a minute
