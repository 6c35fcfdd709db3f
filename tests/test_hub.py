"""Models by hub id, against a loopback imitation of the hub: each test in a process and an empty cache of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from pipeline import BertVectorizer
from pipeline.bert.checkpoint import resolve
from tests.conftest import TEXTS
from tests.fake_hub import COMMIT, FakeHub

MODEL = "acme/tiny-bert"
# huggingface_hub reads its environment when it is imported, so another environment needs another process.
CHILD = """
import json, sys
from pipeline.bert.checkpoint import CheckpointError, resolve, where

for line in sys.stdin:
    question = json.loads(line)
    try:
        if question.pop("where", False):
            answer = {"where": where(**question)}
        else:
            answer = {"source": resolve(**question).source}
    except CheckpointError as error:
        answer = {"error": str(error)}
    except Exception as error:
        answer = {"crash": f"{type(error).__name__}: {error}"}
    print(json.dumps(answer), flush=True)
"""


@pytest.fixture
def hub(tiny_bert):
    with FakeHub({MODEL: Path(tiny_bert)}) as server:
        yield server


@pytest.fixture
def home(tmp_path):
    return tmp_path / "home"


@pytest.fixture
def snapshot(home):
    """Give the folder that the cache keeps of `MODEL`."""
    return home / "hub" / f"models--{MODEL.replace('/', '--')}" / "snapshots" / COMMIT


@pytest.fixture
def start(hub, home):
    """Start a process that resolves models, and give the function that asks it; all of them end with the test.

    It answers with what was found (`source`, `where`), what a user reads (`error`) or what got away (`crash`).
    """
    inherited = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy") and not k.startswith("HF_")}
    own = {"HF_HOME": str(home), "HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    started = []

    def start(**environment):
        process = subprocess.Popen(
            [sys.executable, "-c", CHILD],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=inherited | own | environment,
            cwd=Path(__file__).parent.parent,
        )
        started.append(process)

        def ask(**question):
            process.stdin.write(json.dumps(question) + "\n")
            process.stdin.flush()
            return SimpleNamespace(**json.loads(process.stdout.readline()))

        return ask

    yield start
    for process in started:
        process.communicate(timeout=60)


def copy_files(source, target, *names):
    target.mkdir()
    for name in names:
        (target / name).write_bytes(Path(source, name).read_bytes())
    return target


def test_a_fetched_model_gives_the_vectors_of_its_folder_and_is_recorded_by_its_commit(start, hub, snapshot, tiny_bert):
    ask = start()
    assert ask(model=MODEL, where=True).where is None
    source = ask(model=MODEL).source
    assert source == {"model": MODEL, "kind": "hub", "revision": COMMIT, "sha256": resolve(tiny_bert).source["sha256"]}
    assert any(request.endswith("/model.safetensors") for request in hub.requests)
    fetched = BertVectorizer(str(snapshot), layers="all").fit_transform(TEXTS)
    assert np.array_equal(fetched, BertVectorizer(tiny_bert, layers="all").fit_transform(TEXTS))


def test_only_the_files_that_are_read_are_fetched(start, hub, snapshot, tiny_bert, tmp_path):
    needed = ("config.json", "model.safetensors", "tokenizer.json")
    hub.repositories[MODEL] = copy_files(tiny_bert, tmp_path / "served", *needed)
    for name in ("pytorch_model.bin", "tf_model.h5", "README.md", "modeling.py"):
        (tmp_path / "served" / name).write_bytes(b"x" * 100)
    assert start()(model=MODEL).source["kind"] == "hub"
    assert sorted(path.name for path in snapshot.iterdir()) == sorted(needed)


def test_a_commit_that_is_cached_is_used_without_a_single_request(start, hub):
    ask = start()
    first = ask(model=MODEL, revision=COMMIT).source
    assert first["kind"] == "hub"
    hub.requests.clear()
    for local_files_only in (False, True):
        assert ask(model=MODEL, revision=COMMIT, local_files_only=local_files_only).source == {**first, "kind": "hub cache"}
    assert hub.requests == []


def test_what_was_fetched_without_a_revision_is_found_again_without_the_hub(start, hub):
    ask = start()
    expected = {**ask(model=MODEL).source, "kind": "hub cache"}
    hub.requests.clear()
    assert ask(model=MODEL, where=True).where == "hub cache"
    assert ask(model=MODEL, local_files_only=True).source == expected
    assert start(HF_HUB_OFFLINE="1")(model=MODEL).source == expected
    assert hub.requests == []
    hub.stop()
    assert ask(model=MODEL).source == expected


def test_nothing_cached_and_nobody_asked_says_so_and_sends_nothing(start, hub, home):
    online, offline = start(), start(HF_HUB_OFFLINE="1")
    for error in (online(model=MODEL, local_files_only=True).error, offline(model=MODEL).error):
        assert f"Model '{MODEL}' is not here" in error
        assert f"not in the hub cache ({home}" in error
        assert "the hub was not asked (local_files_only=True or HF_HUB_OFFLINE)" in error
        assert "give their folder as model=" in error
    assert f"at revision '{COMMIT}' is not here" in online(model=MODEL, revision=COMMIT, local_files_only=True).error
    assert hub.requests == []


def test_what_the_hub_does_not_have_is_refused_with_its_answer_and_the_way_out(start, hub):
    ask = start()
    unknown = ask(model="acme/tiny-brt").error
    assert "Model 'acme/tiny-brt' is not here" in unknown
    assert "404" in unknown
    assert hub.url in unknown
    assert "Check the spelling" in unknown
    other = ask(model=MODEL, revision="v9").error
    assert "at revision 'v9' is not here" in other
    assert "RevisionNotFound" in other
    hub.stop()
    down = ask(model=MODEL).error
    assert "the hub did not deliver it (" in down
    assert "Check the spelling and the connection" in down


def test_weights_that_could_execute_code_are_not_even_fetched(start, hub, tiny_bert, tmp_path):
    hub.repositories[MODEL] = copy_files(tiny_bert, tmp_path / "served", "config.json", "tokenizer.json")
    (tmp_path / "served" / "pytorch_model.bin").write_bytes(b"pickled")
    error = start()(model=MODEL).error
    assert f"'{MODEL}' has no model.safetensors on the hub, only config.json, pytorch_model.bin, tokenizer.json" in error
    assert "can execute code when loaded and are never opened" in error
    assert not any("/resolve/" in request for request in hub.requests)


def test_a_hub_that_answers_nonsense_is_a_hub_that_did_not_deliver(start, hub):
    ask = start()
    for answer in ((200, b"<html>Please log in to this network</html>"), (200, b"{}"), (403, b"")):
        hub.answers[f"/api/models/{MODEL}"] = answer
        found = ask(model=MODEL)
        assert not hasattr(found, "crash"), (answer, found.crash)
        assert "the hub did not deliver it" in found.error
        assert hub.url in found.error


NEEDED = ("config.json", "model.safetensors", "tokenizer.json")
OLDER = ("config.json", "model.safetensors", "vocab.txt", "tokenizer_config.json")


@pytest.mark.parametrize(
    ("files", "name"), [(NEEDED, "tokenizer.json"), (NEEDED, "model.safetensors"), (OLDER, "tokenizer_config.json")]
)
def test_a_fetch_that_broke_off_is_never_taken_for_a_whole_model(files, name, start, hub, snapshot, tiny_bert, tmp_path):
    served = copy_files(tiny_bert, tmp_path / "served", "config.json", "model.safetensors", "tokenizer.json")
    (served / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n")
    (served / "tokenizer_config.json").write_text('{"do_lower_case": false}')  # without it the ids would be others
    for file in served.iterdir():
        if file.name not in files:
            file.unlink()
    hub.repositories[MODEL] = served
    path = f"/{MODEL}/resolve/{COMMIT}/{name}"
    hub.answers[path] = (403, b"no more today")  # of the errors the one that is not tried again for half a minute
    ask = start()
    first = ask(model=MODEL, revision=COMMIT)
    assert "the hub did not deliver it" in getattr(first, "error", str(first))
    del hub.answers[path]
    ask(model=MODEL, revision=COMMIT)
    assert sorted(path.name for path in snapshot.iterdir()) == sorted(files)
