"""The seeds of the fuzzer and what it found; `make fuzz` goes on from there."""

import io
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
from tests.fuzzing import FINDS, TARGETS

TOP = Path(__file__).resolve().parent.parent
# in a process of its own: what was found crashed Python, or took all memory and a day
RUN = """
import faulthandler, resource, sys, warnings
from tests.fuzzing import TARGETS, inputs_of
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


@pytest.mark.skipif(sys.platform == "win32", reason="no resource limits on this system")
def test_no_seed_and_no_earlier_finding_hangs_crashes_or_gets_past_the_readers():
    done = subprocess.run(
        [sys.executable, "-c", RUN, *TARGETS], cwd=TOP, capture_output=True, text=True, timeout=300
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert set(FINDS) <= set(TARGETS)


@pytest.mark.parametrize("packed", [zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
def test_a_skops_file_of_few_bytes_that_would_fill_the_memory_is_refused(packed, tmp_path):
    path = tmp_path / "m.skops"
    with zipfile.ZipFile(path, "w", packed) as archive:
        archive.writestr("schema.json", b'{"__class__": "list"' + b" " * (1 << 26) + b"}")
    for read in (inspect_pipeline, load_pipeline):
        with pytest.raises(ArtifactError, match="not a saved pipeline"):
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
