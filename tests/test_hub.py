"""Models by hub id, from a fake hub: each test in a process and a cache of its own."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from filelock import FileLock

from pipeline import BertVectorizer
from pipeline.checkpoints.checkpoint import resolve
from tests.conftest import TEXTS
from tests.fake_hub import COMMIT, LOGIN_PAGE, FakeHub, Fault, black_hole, git_hash, published_hash

MODEL = "acme/tiny-bert"
NEEDED = ("config.json", "model.safetensors", "tokenizer.json")
OLDER = ("config.json", "model.safetensors", "vocab.txt", "tokenizer_config.json")
LIMITS = {"RETRY_WAIT": 0.05}
# For silent hubs: short, in the order of the true limits.
SHORT = {
    **LIMITS,
    "CACHED_TIMEOUT": 0.8,
    "ANSWER_TIMEOUT": 1.0,
    "METADATA_TIMEOUT": 1.5,
    "STALL_TIMEOUT": 0.7,
}
# huggingface_hub reads its environment on import, so another one needs another process
CHILD = """
import json, os, resource, shutil, sys, time, types, warnings
from pipeline.checkpoints import hub
from pipeline.checkpoints.checkpoint import CheckpointError, resolve, where

for name, value in json.loads(os.environ["LIMITS"]).items():
    assert type(getattr(hub, name)) is type(value)
    setattr(hub, name, value)
if "LARGEST_FILE" in os.environ:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(os.environ["LARGEST_FILE"]),) * 2)
if "FREE" in os.environ:
    shutil.disk_usage = lambda path: types.SimpleNamespace(free=int(os.environ["FREE"]))
for line in sys.stdin:
    question, start = json.loads(line), time.monotonic()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            if question.pop("where", False):
                answer = {"where": where(**question)}
            else:
                answer = {"source": resolve(**question).source}
        except CheckpointError as error:
            answer = {"error": str(error)}
        except Exception as error:
            answer = {"crash": f"{type(error).__name__}: {error}"}
    seconds = time.monotonic() - start
    answer |= {"seconds": seconds, "warnings": [str(w.message) for w in caught]}
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
def storage(home):
    """Give the folder in which the cache keeps `MODEL`."""
    return home / "hub" / f"models--{MODEL.replace('/', '--')}"


@pytest.fixture
def snapshot(storage):
    """Give the folder that the cache keeps of `MODEL` at `COMMIT`."""
    return storage / "snapshots" / COMMIT


@pytest.fixture
def cached(snapshot, storage, tiny_bert):
    """Put the model into the cache, as the hub's own library lays it out; give the snapshot."""
    for folder in (snapshot, storage / "blobs", storage / "refs"):
        folder.mkdir(parents=True)
    (storage / "refs" / "main").write_text(COMMIT)
    for name in NEEDED:
        body = Path(tiny_bert, name).read_bytes()
        (storage / "blobs" / published_hash(name, body)).write_bytes(body)
        (snapshot / name).symlink_to(f"../../blobs/{published_hash(name, body)}")
    return snapshot


@pytest.fixture
def start(hub, home):
    """Start a process that resolves models, and give the function that asks it.

    It answers with the model's `source` or `where`, with an `error`, or with a `crash`.
    """
    inherited = {
        k: v
        for k, v in os.environ.items()
        if not k.lower().endswith("_proxy") and not k.startswith("HF_")
    }
    own = {
        "HF_HOME": str(home),
        "HF_ENDPOINT": hub.url,
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "OMP_NUM_THREADS": "1",
    }
    started = []

    def start(limits=LIMITS, **environment):
        process = subprocess.Popen(
            [sys.executable, "-c", CHILD],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=inherited | own | environment | {"LIMITS": json.dumps(limits)},
            cwd=Path(__file__).parent.parent,
        )
        started.append(process)

        def tell(**question):
            process.stdin.write(json.dumps(question) + "\n")
            process.stdin.flush()

        def hear():
            return SimpleNamespace(**json.loads(process.stdout.readline()))

        def ask(**question):
            tell(**question)
            return hear()

        ask.tell, ask.hear = tell, hear
        return ask

    yield start
    for process in started:
        process.communicate(timeout=60)


def copy_files(source, target, *names):
    target.mkdir()
    for name in names:
        (target / name).write_bytes(Path(source, name).read_bytes())
    return target


def flip(path):
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def whole(source):
    """Say whether a model was found, and is the true one."""
    return source["revision"] == COMMIT and source["sha256"] == whole.sha256


@pytest.fixture(autouse=True)
def _truth(tiny_bert):
    whole.sha256 = resolve(tiny_bert).source["sha256"]


def blobs(storage):
    return sorted(path.name for path in storage.glob("blobs/*"))


# ---- in health


def test_a_fetched_model_gives_the_vectors_of_its_folder_and_is_recorded_by_its_commit(
    start, hub, snapshot, tiny_bert
):
    ask = start()
    assert ask(model=MODEL, where=True).where is None
    found = ask(model=MODEL)
    assert found.source == {
        "model": MODEL,
        "kind": "hub",
        "revision": COMMIT,
        "sha256": resolve(tiny_bert).source["sha256"],
    }
    assert found.warnings == []
    fetched = BertVectorizer(str(snapshot), layers="all").fit_transform(TEXTS)
    assert np.array_equal(fetched, BertVectorizer(tiny_bert, layers="all").fit_transform(TEXTS))


def test_one_question_and_one_request_per_needed_file_are_all(
    start, hub, snapshot, tiny_bert, tmp_path
):
    hub.repositories[MODEL] = copy_files(
        tiny_bert, tmp_path / "served", *NEEDED, "tokenizer_config.json"
    )
    for name in ("vocab.txt", "pytorch_model.bin", "tf_model.h5", "README.md", "modeling.py"):
        (tmp_path / "served" / name).write_bytes(b"x" * 100)
    ask = start()
    assert ask(model=MODEL).source["kind"] == "hub"
    assert sorted(path.name for path in snapshot.iterdir()) == sorted(NEEDED)
    assert len(hub.requests) == 1 + len(NEEDED)
    assert ask(model=MODEL).source["kind"] == "hub"
    assert len(hub.requests) == 2 + len(NEEDED)


def test_a_commit_that_is_cached_is_used_without_a_single_request(start, hub):
    ask = start()
    first = ask(model=MODEL, revision=COMMIT).source
    assert first["kind"] == "hub"
    hub.requests.clear()
    for local_files_only in (False, True):
        assert ask(model=MODEL, revision=COMMIT, local_files_only=local_files_only).source == {
            **first,
            "kind": "hub cache",
        }
    assert hub.requests == []


def test_what_was_fetched_without_a_revision_is_found_again_without_the_hub(start, hub):
    ask = start()
    expected = {**ask(model=MODEL).source, "kind": "hub cache"}
    hub.requests.clear()
    assert ask(model=MODEL, where=True).where == "hub cache"
    assert ask(model=MODEL, local_files_only=True).source == expected
    for offline in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        found = start(**{offline: "1"})(model=MODEL)
        assert found.source == expected
        assert found.warnings == []
    assert hub.requests == []
    hub.stop()
    assert ask(model=MODEL).source == expected


def test_a_whole_cache_is_used_and_not_written_to(start, hub, home, cached):
    before = {path: path.lstat().st_mtime_ns for path in home.rglob("*")}
    ask = start()
    assert whole(ask(model=MODEL, revision=COMMIT).source)
    assert hub.requests == []
    assert whole(ask(model=MODEL).source)
    assert hub.requests == [f"GET /api/models/{MODEL}"]
    assert {path: path.lstat().st_mtime_ns for path in home.rglob("*")} == before


def test_the_hubs_own_library_reads_the_cache_that_was_written(start, hub, home, snapshot):
    assert start()(model=MODEL).source["kind"] == "hub"
    code = (
        "from huggingface_hub import scan_cache_dir, snapshot_download, try_to_load_from_cache\n"
        "info, = scan_cache_dir().repos\n"
        "print(info.repo_id, *info.refs, scan_cache_dir().warnings)\n"
        f"print(snapshot_download({MODEL!r}, local_files_only=True))\n"
        f"print(try_to_load_from_cache({MODEL!r}, 'model.safetensors'))"
    )
    environment = {**os.environ, "HF_HOME": str(home)}
    told = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert told.splitlines() == [
        f"{MODEL} main []",
        str(snapshot),
        str(snapshot / "model.safetensors"),
    ]


def test_several_processes_fetch_a_file_once(start, hub, storage):
    hub.faults["model.safetensors"] = Fault(pace=(1 << 16, 0.2))
    asking = [start() for _ in range(3)]
    for ask in asking:
        ask.tell(model=MODEL)
    assert all(whole(ask.hear().source) for ask in asking)
    assert hub.asked_for("model.safetensors") == 1
    assert not [name for name in blobs(storage) if "incomplete" in name]


def test_a_process_that_never_lets_go_of_a_file_is_not_waited_for_without_end(
    start, hub, home, storage, tiny_bert
):
    name = published_hash("config.json", Path(tiny_bert, "config.json").read_bytes())
    path = home / "hub" / ".locks" / storage.name / f"{name}.lock"
    path.parent.mkdir(parents=True)
    with FileLock(path):
        found = start({**LIMITS, "LOCK_TIMEOUT": 0.5})(model=MODEL)
    assert whole(found.source)
    assert 0.5 <= found.seconds < 8


def test_a_new_commit_of_the_same_files_is_linked_and_not_fetched(start, hub, cached, storage):
    cached.rename(cached.with_name("a" * 40))
    (storage / "refs" / "main").write_text("a" * 40)
    ask = start()
    assert ask(model=MODEL, local_files_only=True).source["revision"] == "a" * 40
    assert whole(ask(model=MODEL).source)
    assert len(hub.requests) == 1
    assert ask(model=MODEL, local_files_only=True).source["revision"] == COMMIT


def test_a_slow_line_is_not_given_up_while_the_file_grows(start, hub, tiny_bert):
    size = Path(tiny_bert, "model.safetensors").stat().st_size
    hub.faults["model.safetensors"] = Fault(pace=(size // 20, 0.1))
    found = start(SHORT)(model=MODEL)
    assert whole(found.source)
    assert found.seconds > max(SHORT["METADATA_TIMEOUT"], 2 * SHORT["STALL_TIMEOUT"])


# ---- nobody is asked


def test_nothing_cached_and_nobody_asked_says_so_and_sends_nothing(start, hub, home):
    online, offline = start(), start(HF_HUB_OFFLINE="1")
    for found in (online(model=MODEL, local_files_only=True), offline(model=MODEL)):
        assert f"Model '{MODEL}' is not here" in found.error
        assert f"not in the hub cache ({home}" in found.error
        assert "the hub was not asked (local_files_only=True or HF_HUB_OFFLINE)" in found.error
        assert f"`python run_pipeline.py fetch {MODEL} --to DIR`" in found.error
        assert found.seconds < 3
    error = online(model=MODEL, revision=COMMIT, local_files_only=True).error
    assert f"at revision '{COMMIT}' is not here" in error
    assert f"`python run_pipeline.py fetch {MODEL} --revision {COMMIT} --to DIR`" in error
    assert hub.requests == []


# ---- an ill hub, nothing cached

ILL = {
    "401": (
        "/api/models",
        Fault(status=401),
        1,
        "401 Unauthorized .*gated or private and needs a token.*HF_TOKEN",
    ),
    "403 gated": (
        "config.json",
        Fault(status=403, headers={"X-Error-Code": "GatedRepo"}),
        1,
        r"403 GatedRepo for config\.json: the model is gated .*Accept the .*conditions.*HF_TOKEN",
    ),
    "429": (
        "/api/models",
        Fault(status=429),
        3,
        "429 Too Many Requests .*tried 3 times.*Try again later",
    ),
    "429 for an hour": (
        "/api/models",
        Fault(status=429, headers={"Retry-After": "3600"}),
        1,
        "429 .*asks to come back in 3600 s",
    ),
    "503": ("/api/models", Fault(status=503), 3, "503 Service Unavailable .*tried 3 times"),
    "503 of a file": (
        "tokenizer.json",
        Fault(status=503),
        3,
        r"503 .*tokenizer\.json, tried 3 times",
    ),
    "404 of a file": (
        "config.json",
        Fault(status=404, headers={"X-Error-Code": "EntryNotFound"}),
        1,
        r"404 EntryNotFound: it has no config\.json",
    ),
    "418": ("config.json", Fault(status=418), 1, r"418 I'm a Teapot for config\.json"),
    "cut": (
        "model.safetensors",
        Fault(cut=True),
        3,
        r"broke off in the middle of model\.safetensors .*tried 3 times",
    ),
    "cut answer": (
        "/api/models",
        Fault(cut=True),
        3,
        "broke off in the middle of its list of files .*tried 3 times",
    ),
    "flipped bit": (
        "model.safetensors",
        Fault(flip=True),
        2,
        r"model\.safetensors has sha256 \w{64}, .*\w{64}, fetched twice",
    ),
    "flipped bit of a small file": (
        "config.json",
        Fault(flip=True),
        2,
        r"config\.json has git hash \w{40}, .*\w{40}, fetched",
    ),
    "too short": (
        "config.json",
        Fault(length=-9),
        2,
        r"config\.json has git hash \w{40}, .*, fetched twice",
    ),
    "endless": (
        "config.json",
        Fault(body=b"x" * 50_000_000, length=50_000_000),
        2,
        r"config\.json has git hash",
    ),
    "login page": (
        "/api/models",
        Fault(body=LOGIN_PAGE),
        1,
        "an HTML page, as of a network that wants a login.*connection",
    ),
    "login page for a file": (
        "config.json",
        Fault(body=LOGIN_PAGE),
        2,
        "has git hash .*what came is an HTML page",
    ),
    "no JSON": ("/api/models", Fault(body=b"hello"), 1, "none of a model hub"),
    "other JSON": ("/api/models", Fault(body=b"{}"), 1, "none of a model hub"),
    "no object": ("/api/models", Fault(body=b"[1, 2]"), 1, "none of a model hub"),
    "silent": ("/api/models", Fault(silent=True), 1, "did not answer in time"),
    "silent for a file": (
        "model.safetensors",
        Fault(silent=True),
        1,
        r"did not answer in time \(asked for model\.safetensors\)",
    ),
    "drip": ("/api/models", Fault(pace=(1, 0.05)), 1, "did not answer in time"),
    "drip of headers": (
        "tokenizer.json",
        Fault(pace=(1, 0.05), pace_headers=True),
        1,
        "did not answer in time",
    ),
    "drip of a file": (
        "model.safetensors",
        Fault(pace=(1, 0.05)),
        1,
        r"less than 1024 bytes per second of model\.safetensors",
    ),
    "standstill of a file": (
        "model.safetensors",
        Fault(pace=(50_000, 3.0)),
        3,
        r"fell silent .*model\.safetensors.*tried 3 times",
    ),
    "endless redirects": (
        "config.json",
        Fault(status=302, headers={"Location": "config.json"}),
        21,
        "TooManyRedirects",
    ),
}


@pytest.mark.parametrize(("name", "fault", "n_requests", "message"), ILL.values(), ids=ILL)
def test_an_ill_hub_is_given_up_in_time_with_one_message(
    name, fault, n_requests, message, start, hub, home, storage
):
    hub.faults[name] = Fault(**vars(fault))
    found = start(SHORT if fault.silent or fault.pace else LIMITS)(model=MODEL)
    assert not hasattr(found, "crash"), found.crash
    assert re.search(message, found.error)
    parts = [
        MODEL,
        hub.url,
        str(home / "hub"),
        "the hub did not deliver it: ",
        f"fetch {MODEL} --to DIR",
        "model=DIR",
    ]
    assert [part for part in parts if part not in found.error] == []
    assert "\n" not in found.error
    assert found.seconds < 8
    assert hub.asked_for(name) == n_requests
    assert not [blob for blob in blobs(storage) if "incomplete" in blob]


@pytest.mark.parametrize(
    ("question", "message"),
    [
        (
            {"model": "acme/tiny-brt"},
            r"Model 'acme/tiny-brt' is not here.*404 RepoNotFound: .* no such model; .*spelling",
        ),
        (
            {"model": MODEL, "revision": "v9"},
            r"at revision 'v9' is not here.*404 RevisionNotFound: it has no such revision",
        ),
        (
            {"model": MODEL, "revision": "f" * 40},
            r"at revision 'f{40}' is not here.*RevisionNotFound",
        ),
        (
            {"model": MODEL, "revision": "../../main"},
            r"at revision '../../main' is not here.*RevisionNotFound",
        ),
    ],
)
def test_what_the_hub_does_not_have_is_refused_with_its_answer_and_the_way_out(
    question, message, start, hub
):
    error = start()(**question).error
    assert re.search(message, error)
    assert hub.url in error
    assert len(hub.requests) == 1


@pytest.mark.parametrize(
    ("endpoint", "message"),
    [
        ("http://127.0.0.1:9", "the hub cannot be reached .ConnectError"),
        (
            "http://nonexistent.invalid",
            "the hub cannot be reached .ConnectError|did not answer in time",
        ),
        ("ftp://127.0.0.1", "the hub cannot be reached .UnsupportedProtocol"),
    ],
)
def test_a_hub_that_is_not_there_is_named_at_once(endpoint, message, start):
    found = start(SHORT, HF_ENDPOINT=endpoint)(model=MODEL)
    assert re.search(message, found.error)
    assert f"endpoint {endpoint}. Check the connection" in found.error
    assert found.seconds < 5


def test_a_black_hole_is_given_up_in_time(start):
    with black_hole() as url:
        found = start(SHORT, HF_ENDPOINT=url)(model=MODEL)
    assert "did not answer in time" in found.error
    assert url in found.error
    assert found.seconds < 5


def test_weights_that_could_execute_code_are_not_even_fetched(start, hub, tiny_bert, tmp_path):
    hub.repositories[MODEL] = copy_files(
        tiny_bert, tmp_path / "served", "config.json", "tokenizer.json"
    )
    (tmp_path / "served" / "pytorch_model.bin").write_bytes(b"pickled")
    error = start()(model=MODEL).error
    assert f"'{MODEL}' has no model.safetensors on the hub" in error
    assert "only config.json, pytorch_model.bin, tokenizer.json" in error
    assert "can execute code when loaded and are never opened" in error
    assert not any("/resolve/" in request for request in hub.requests)


@pytest.mark.parametrize(
    "metadata",
    [{"sha": None}, {"sha": 7}, {"sha": "../../../etc"}, {"sha": "f" * 40}],
    ids=["none", "7", "path", "other"],
)
def test_an_answer_for_another_commit_is_none(metadata, start, hub, storage):
    hub.metadata = metadata
    assert "none of a model hub (ValueError: commit " in start()(model=MODEL, revision=COMMIT).error
    assert not storage.exists()


def test_a_hash_that_is_none_names_no_file(start, hub, home):
    hub.metadata = {
        "siblings": [
            {"rfilename": name, "size": "7", "blobId": "../../../../evil"} for name in NEEDED
        ]
    }
    assert whole(start()(model=MODEL).source)  # verified by the hashes that the files' answers tell
    assert not list(home.parent.rglob("*evil*"))


# ---- an ill hub that gets well

PASSING = {
    "429": ("/api/models", Fault(times=2, status=429, headers={"Retry-After": "0"}), 3),
    "503": ("/api/models", Fault(times=2, status=503), 3),
    "503 of a file": ("config.json", Fault(times=2, status=503), 3),
    "cut": ("model.safetensors", Fault(times=2, cut=True), 3),
    "cut answer": ("/api/models", Fault(times=2, cut=True), 3),
    "flipped bit": ("model.safetensors", Fault(times=1, flip=True), 2),
    "login page": ("model.safetensors", Fault(times=1, body=LOGIN_PAGE), 2),
    "standstill": ("model.safetensors", Fault(times=1, pace=(50_000, 3.0)), 2),
    "shorter than told": ("config.json", Fault(times=1, length=9), 1),
}


@pytest.mark.parametrize(("name", "fault", "n_requests"), PASSING.values(), ids=PASSING)
def test_a_hub_that_gets_well_delivers(name, fault, n_requests, start, hub, storage):
    hub.faults[name] = Fault(**vars(fault))
    found = start(SHORT if fault.pace else LIMITS)(model=MODEL)
    assert whole(found.source)
    assert hub.asked_for(name) == n_requests
    assert len(blobs(storage)) == len(NEEDED)


def test_a_file_that_was_cut_is_continued_where_it_ended(start, hub, tiny_bert):
    hub.faults["model.safetensors"] = Fault(times=2, cut=True)
    assert whole(start()(model=MODEL).source)
    size = Path(tiny_bert, "model.safetensors").stat().st_size
    ranges = [
        h.get("range")
        for r, h in zip(hub.requests, hub.headers, strict=True)
        if r.endswith("model.safetensors")
    ]
    half = size // 2
    assert ranges == [None, f"bytes={half}-", f"bytes={half + (size - half) // 2}-"]


def test_who_is_told_to_come_back_soon_waits_as_long(start, hub):
    hub.faults["config.json"] = Fault(times=1, status=429, headers={"Retry-After": "1"})
    found = start()(model=MODEL)
    assert whole(found.source)
    assert 1 <= found.seconds < 8


def test_a_proxy_that_keeps_files_back_is_waited_for_where_that_is_asked_for(start, hub):
    hub.faults["config.json"] = Fault(pace=(1 << 20, 1.3), pace_headers=True)
    error = start(SHORT)(model=MODEL).error
    assert re.search(
        r"did not answer in time \(asked for config\.json\).*scans files .*HF_HUB_DOWNLOAD_TIMEOUT",
        error,
    )
    assert whole(start(SHORT, HF_HUB_DOWNLOAD_TIMEOUT="10")(model=MODEL).source)


@pytest.mark.parametrize(
    ("files", "name"),
    [(NEEDED, "tokenizer.json"), (NEEDED, "model.safetensors"), (OLDER, "tokenizer_config.json")],
)
def test_a_fetch_that_broke_off_is_never_taken_for_a_whole_model(
    files, name, start, hub, snapshot, tiny_bert, tmp_path
):
    served = copy_files(
        tiny_bert, tmp_path / "served", "config.json", "model.safetensors", "tokenizer.json"
    )
    (served / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n")
    (served / "tokenizer_config.json").write_text(
        '{"do_lower_case": false}'
    )  # without it the ids would be others
    for file in served.iterdir():
        if file.name not in files:
            file.unlink()
    hub.repositories[MODEL] = served
    hub.faults[name] = Fault(status=403, body=b"no more today")
    ask = start()
    assert "the hub did not deliver it" in ask(model=MODEL, revision=COMMIT).error
    hub.faults.clear()
    ask(model=MODEL, revision=COMMIT)
    assert sorted(path.name for path in snapshot.iterdir()) == sorted(files)


# ---- an ill hub, and the model is in the cache


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (Fault(status=503), "503"),
        (Fault(status=404, headers={"X-Error-Code": "RepoNotFound"}), "no such model"),
        (Fault(body=LOGIN_PAGE), "HTML page"),
        (Fault(silent=True), "did not answer in time"),
        (Fault(pace=(1, 0.05)), "did not answer in time"),
    ],
    ids=["503", "404", "login page", "silent", "drip"],
)
def test_a_cached_branch_is_used_where_the_hub_fails_and_the_reason_is_told(
    fault, message, start, hub, cached
):
    hub.faults["/api/models"] = Fault(**vars(fault))
    found = start(SHORT)(model=MODEL)
    assert whole(found.source)
    assert found.source["kind"] == "hub cache"
    (warning,) = found.warnings
    assert f"Model '{MODEL}' is taken from the hub cache, at commit {COMMIT}: " in warning
    assert message in warning
    assert found.seconds < SHORT["CACHED_TIMEOUT"] + 3
    assert len(hub.requests) == 1


def test_a_black_hole_holds_up_a_cached_branch_for_a_moment_and_a_cached_commit_not_at_all(
    start, cached
):
    with black_hole() as url:
        ask = start(SHORT, HF_ENDPOINT=url)
        branch = ask(model=MODEL)
        commit = ask(model=MODEL, revision=COMMIT)
    assert whole(branch.source)
    assert whole(commit.source)
    assert SHORT["CACHED_TIMEOUT"] <= branch.seconds < SHORT["CACHED_TIMEOUT"] + 3
    assert commit.seconds < SHORT["CACHED_TIMEOUT"]
    assert commit.warnings == []


# ---- a damaged cache


def truncate(path):
    content = path.read_bytes()
    path.write_bytes(content[: min(1000, len(content) // 2)])


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
@pytest.mark.parametrize(
    "damage", [truncate, flip, Path.unlink], ids=["truncated", "flipped", "gone"]
)
@pytest.mark.parametrize("revision", [COMMIT, None], ids=["commit", "branch"])
def test_a_damaged_cache_is_refused_offline_and_healed_online(
    revision, damage, name, start, hub, cached, tiny_bert
):
    damage((cached / name).resolve())
    ask = start()
    error = ask(model=MODEL, revision=revision, local_files_only=True).error
    expected = published_hash(name, Path(tiny_bert, name).read_bytes())
    assert re.search(rf"is damaged in the hub cache .*: {name} (has \w+ \w*|is missing)", error)
    assert expected in error
    assert damage is Path.unlink or re.search(
        rf"{name} has (sha256|git hash) (?!{expected})\w{{40,64}},", error
    )
    assert f"fetch {MODEL}" in error
    assert hub.requests == []
    found = ask(model=MODEL, revision=revision)
    assert whole(found.source)
    assert found.source["kind"] == "hub"
    assert len(hub.requests) == 2
    assert (cached / name).read_bytes() == Path(tiny_bert, name).read_bytes()
    assert ask(model=MODEL, revision=revision, local_files_only=True).source["kind"] == "hub cache"


def test_a_damaged_cache_is_not_used_where_the_hub_cannot_heal_it(start, hub, cached):
    flip((cached / "model.safetensors").resolve())
    hub.faults["model.safetensors"] = Fault(status=503)
    error = start()(model=MODEL, revision=COMMIT).error
    assert "is damaged in the hub cache" in error
    assert "the hub did not deliver it: the hub answered 503" in error


def test_a_cache_without_links_is_used_and_healed_by_what_the_hub_says(start, hub, cached, storage):
    for name in NEEDED:
        body = (cached / name).read_bytes()
        (cached / name).unlink()
        (cached / name).write_bytes(body)
    shutil.rmtree(storage / "blobs")
    ask = start(HF_HUB_DISABLE_SYMLINKS="1")
    assert whole(ask(model=MODEL, revision=COMMIT).source)
    assert hub.requests == []
    flip(cached / "model.safetensors")
    assert whole(ask(model=MODEL).source)
    assert len(hub.requests) == 2
    assert not (cached / "model.safetensors").is_symlink()


def test_a_mirror_that_tells_no_hashes_is_verified_by_its_file_answers(start, hub, snapshot):
    hub.metadata = {"siblings": [{"rfilename": name} for name in NEEDED]}
    ask = start()
    hub.faults["model.safetensors"] = Fault(flip=True)
    assert re.search(
        r"model\.safetensors has sha256 \w{64}, .*fetched twice", ask(model=MODEL).error
    )
    hub.faults["model.safetensors"] = Fault(
        headers={"ETag": '"5d41402abc4b2a76"', "X-Linked-Etag": ""}
    )
    assert "names no hash of model.safetensors to verify it by" in ask(model=MODEL).error
    hub.faults.clear()
    assert whole(ask(model=MODEL).source)


# ---- another host


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_the_token_goes_to_the_hub_and_never_to_the_host_it_redirects_to(
    host, start, hub, tiny_bert
):
    with FakeHub({MODEL: Path(tiny_bert)}) as other:
        address = other.url.replace("127.0.0.1", host)
        hub.faults["model.safetensors"] = Fault(redirect=address)
        assert whole(start(HF_TOKEN="hf_secret")(model=MODEL).source)
        assert other.requests == [f"GET /{MODEL}/resolve/{COMMIT}/model.safetensors"]
        assert [headers.get("authorization") for headers in other.headers] == [None]
        assert "hf_secret" not in str(other.headers)
    assert {headers.get("authorization") for headers in hub.headers} == {"Bearer hf_secret"}


def test_what_another_host_sends_is_verified_too(start, hub, tiny_bert):
    with FakeHub({MODEL: Path(tiny_bert)}) as other:
        hub.faults["model.safetensors"] = Fault(redirect=other.url)
        other.faults["model.safetensors"] = Fault(flip=True)
        assert re.search(
            r"model\.safetensors has sha256 .*, fetched twice", start()(model=MODEL).error
        )


def test_the_token_is_in_no_message(start, hub):
    hub.faults["config.json"] = Fault(status=403)
    assert "hf_secret" not in start(HF_TOKEN="hf_secret")(model=MODEL).error


# ---- the disk


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"FREE": "9000"}, r"blobs cannot be written|model\.safetensors needs 0 MB, 0 MB are free"),
        ({"LARGEST_FILE": "60000"}, r"cannot be written \(File too large\)"),
    ],
    ids=["too little room", "room that runs out"],
)
def test_a_full_disk_is_called_one(environment, message, start, storage):
    found = start(**environment)(model=MODEL)
    assert not hasattr(found, "crash"), found.crash
    assert re.search(message, found.error)
    assert "Free space there, or set HF_HOME" in found.error
    assert not [name for name in blobs(storage) if "incomplete" in name]


def test_a_cache_folder_that_cannot_be_made_is_named(start, tmp_path):
    (tmp_path / "cache").write_text("a file where a folder is wanted")
    found = start(HF_HUB_CACHE=str(tmp_path / "cache"))(model=MODEL)
    assert not hasattr(found, "crash"), found.crash
    assert re.search(
        r"cache/models--acme--tiny-bert/.* cannot be written \(Not a directory\)", found.error
    )
    assert "set HF_HOME" in found.error


def test_the_imitation_names_files_as_git_does():
    assert (
        git_hash(b"hello\n") == "ce013625030ba8dba906f756967f9e9ca394464a"
    )  # echo hello | git hash-object --stdin
