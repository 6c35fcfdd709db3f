"""Models by hub id, from a fake hub, each test with a cache of its own."""

import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from filelock import FileLock

from pipeline import BertVectorizer
from pipeline.checkpoints import hub as hub_module
from pipeline.checkpoints.checkpoint import resolve
from tests.conftest import TEXTS
from tests.fake_hub import (
    COMMIT,
    LOGIN_PAGE,
    MODEL,
    NEEDED,
    SHORT,
    FakeHub,
    Fault,
    black_hole,
    copy_files,
    flip,
    processes,
    published_hash,
)

OLDER = ("config.json", "model.safetensors", "vocab.txt", "tokenizer_config.json")


def whole(source):
    """Say whether a model was found, and is the true one."""
    return source["revision"] == COMMIT and source["sha256"] == whole.sha256


@pytest.fixture(autouse=True)
def _truth(tiny_bert):
    whole.sha256 = resolve(tiny_bert).source["sha256"]


def blobs(storage):
    return sorted(path.name for path in storage.glob("blobs/*"))


def leftovers(storage):
    return list(storage.rglob("*incomplete*"))


# ---- in health


def test_a_fetched_model_gives_the_vectors_of_its_folder_and_is_recorded_by_its_commit(
    ask, hub, snapshot, tiny_bert
):
    assert ask(where=True).where is None
    found = ask()
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
    ask, hub, snapshot, tiny_bert, tmp_path
):
    hub.repositories[MODEL] = copy_files(
        tiny_bert, tmp_path / "served", *NEEDED, "tokenizer_config.json"
    )
    for name in ("vocab.txt", "pytorch_model.bin", "tf_model.h5", "README.md", "modeling.py"):
        (tmp_path / "served" / name).write_bytes(b"x" * 100)
    assert ask().source["kind"] == "hub"
    assert sorted(path.name for path in snapshot.iterdir()) == sorted(NEEDED)
    assert len(hub.requests) == 1 + 2 * len(NEEDED)  # HEAD and GET
    assert ask().source["kind"] == "hub"
    assert len(hub.requests) == 2 + 2 * len(NEEDED)


def test_what_was_fetched_without_a_revision_is_found_again_without_the_hub(ask, start, hub):
    expected = {**ask().source, "kind": "hub cache"}
    hub.requests.clear()
    assert ask(where=True).where == "hub cache"
    assert ask(local_files_only=True).source == expected
    offline = start(HF_HUB_OFFLINE=True)()
    assert offline.source == expected
    assert offline.warnings == []
    assert hub.requests == []
    hub.stop()
    assert ask().source == expected


def test_a_whole_cache_is_used_and_not_written_to(ask, hub, home, cached):
    before = {path: path.lstat().st_mtime_ns for path in home.rglob("*")}
    assert whole(ask(revision=COMMIT).source)
    assert hub.requests == []
    assert whole(ask().source)
    assert hub.requests == [f"GET /api/models/{MODEL}"]
    assert {path: path.lstat().st_mtime_ns for path in home.rglob("*")} == before


def test_the_hubs_own_library_reads_the_cache_that_was_written(ask, environment, snapshot):
    assert ask().source["kind"] == "hub"
    code = (
        "from huggingface_hub import scan_cache_dir, snapshot_download, try_to_load_from_cache\n"
        "info, = scan_cache_dir().repos\n"
        "print(info.repo_id, *info.refs, scan_cache_dir().warnings)\n"
        f"print(snapshot_download({MODEL!r}, local_files_only=True))\n"
        f"print(try_to_load_from_cache({MODEL!r}, 'model.safetensors'))"
    )
    told = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert told.splitlines() == [
        f"{MODEL} main []",
        str(snapshot),
        str(snapshot / "model.safetensors"),
    ]


def test_several_processes_fetch_a_file_once(environment, hub, storage):
    hub.faults["model.safetensors"] = Fault(pace=(1 << 16, 0.2))
    outputs = [process.communicate() for process in processes(3, environment)]
    assert [out.strip() for out, _ in outputs] == [COMMIT] * 3
    assert hub.requests.count(f"GET /{MODEL}/resolve/{COMMIT}/model.safetensors") == 1
    assert leftovers(storage) == []


def test_a_process_that_never_lets_go_of_a_file_is_not_waited_for_without_end(
    start, hub, home, storage, tiny_bert
):
    name = published_hash("config.json", Path(tiny_bert, "config.json").read_bytes())
    path = home / "hub" / ".locks" / storage.name / f"{name}.lock"
    path.parent.mkdir(parents=True)
    with FileLock(path):
        assert whole(start({"LOCK_TIMEOUT": 0.5})().source)


def test_a_new_commit_of_the_same_files_is_linked_and_not_fetched(ask, hub, cached, storage):
    cached.rename(cached.with_name("a" * 40))
    (storage / "refs" / "main").write_text("a" * 40)
    assert ask(local_files_only=True).source["revision"] == "a" * 40
    assert whole(ask().source)
    assert len(hub.requests) == 1
    assert ask(local_files_only=True).source["revision"] == COMMIT


def test_a_slow_line_is_not_given_up_while_the_file_grows(start, hub, tiny_bert):
    size = Path(tiny_bert, "model.safetensors").stat().st_size
    assert size < hub_module.CHUNK * 100
    hub.faults["model.safetensors"] = Fault(pace=(size // 60, 0.1))
    limits = {"STALL_TIMEOUT": 2.0, "ANSWER_TIMEOUT": 2.0, "METADATA_TIMEOUT": 2.0}
    assert whole(start(limits)().source)


# ---- nobody is asked


def test_nothing_cached_and_nobody_asked_says_so_and_sends_nothing(start, hub, home):
    online, offline = start(), start(HF_HUB_OFFLINE=True)
    for found in (online(local_files_only=True), offline()):
        assert f"Model '{MODEL}' was not found" in found.error
        assert f"not in the hub cache ({home}" in found.error
        assert "the hub was not asked (local_files_only=True or HF_HUB_OFFLINE)" in found.error
        assert f"`python run_pipeline.py fetch {MODEL} --to DIR`" in found.error
    error = online(revision=COMMIT, local_files_only=True).error
    assert f"at revision '{COMMIT}' was not found" in error
    assert f"`python run_pipeline.py fetch {MODEL} --revision {COMMIT} --to DIR`" in error
    assert hub.requests == []


# ---- an ill hub, nothing cached

API = "/api/models"
GATED = {"X-Error-Code": "GatedRepo"}
BUSY = {"Retry-After": "3600"}
ILL = {
    "401": (API, Fault(status=401), 1, "401 Unauthorized .*gated or private.*HF_TOKEN"),
    "403": (
        "config.json",
        Fault(status=403, headers=GATED),
        1,
        r"403 GatedRepo for config\.json: the model is gated .*Accept the .*conditions.*HF_TOKEN",
    ),
    "429": (API, Fault(status=429), 3, "429 Too Many Requests .*tried 3 times.*Try again later"),
    "429 for an hour": (API, Fault(status=429, headers=BUSY), 1, "asks to retry in 3600 s"),
    "503": (API, Fault(status=503), 3, "503 Service Unavailable .*tried 3 times"),
    "404 of a file": (
        "config.json",
        Fault(status=404, headers={"X-Error-Code": "EntryNotFound"}),
        1,
        r"404 EntryNotFound: it has no config\.json",
    ),
    "cut": (
        "model.safetensors",
        Fault(cut=True),
        None,
        r"broke while receiving model\.safetensors .*tried 3 times",
    ),
    "flipped bit": (
        "model.safetensors",
        Fault(flip=True),
        4,
        r"model\.safetensors has sha256 \w{64}, .*\w{64}, after two downloads",
    ),
    "flipped bit of a small file": (
        "config.json",
        Fault(flip=True),
        4,
        r"config\.json has git hash \w{40}, .*\w{40}, after two downloads",
    ),
    "too short": ("config.json", Fault(length=-9), 6, r"config\.json does not have the length"),
    "login page": (API, Fault(body=LOGIN_PAGE), 1, "an HTML page, perhaps .*connection"),
    "silent": (API, Fault(silent=True), 1, "did not answer in time"),
    "drip": (API, Fault(pace=(1, 0.05)), 1, "did not answer in time"),
    "drip of a file": (
        "model.safetensors",
        Fault(pace=(16, 0.05)),
        2,
        r"less than 1024 bytes per second of model\.safetensors",
    ),
    "standstill of a file": (
        "model.safetensors",
        Fault(pace=(50_000, 30)),
        None,
        r"did not answer in time \(request: model\.safetensors\)",
    ),
    "endless redirects": (
        "config.json",
        Fault(status=302, headers={"Location": "config.json"}),
        None,
        "TooManyRedirects",
    ),
}


@pytest.mark.parametrize(("name", "fault", "n_requests", "message"), ILL.values(), ids=ILL)
def test_an_ill_hub_is_given_up_in_time_with_one_message(
    name, fault, n_requests, message, start, hub, home, storage
):
    hub.faults[name] = Fault(**vars(fault))
    error = start(SHORT if fault.silent or fault.pace else {})().error
    assert re.search(message, error)
    reason = "the download failed: "
    advice = f"fetch {MODEL} --to DIR"
    parts = [MODEL, hub.url, str(home / "hub"), reason, advice, "model=DIR"]
    assert [part for part in parts if part not in error] == []
    assert "\n" not in error
    assert n_requests in (None, hub.asked_for(name))
    assert leftovers(storage) == []


@pytest.mark.parametrize(
    ("question", "message"),
    [
        (
            {"model": "acme/tiny-brt"},
            r"Model 'acme/tiny-brt' was not found.*404 RepoNotFound: .* no such model; .*spelling",
        ),
        (
            {"revision": "v9"},
            r"at revision 'v9' was not found.*404 RevisionNotFound: it has no such revision",
        ),
        (
            {"revision": "f" * 40},
            r"at revision 'f{40}' was not found.*RevisionNotFound",
        ),
        (
            {"revision": "../../main"},
            r"at revision '../../main' was not found.*RevisionNotFound",
        ),
    ],
)
def test_what_the_hub_does_not_have_is_refused_with_its_answer_and_the_way_out(
    question, message, ask, hub
):
    error = ask(**question).error
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
    found = start(SHORT, url=endpoint)()
    assert re.search(message, found.error)
    assert f"endpoint {endpoint}. Check the connection" in found.error


def test_a_black_hole_is_given_up_in_time(start):
    with black_hole() as url:
        error = start(SHORT, url=url)().error
    assert "did not answer in time" in error
    assert url in error


def test_weights_that_could_execute_code_are_not_even_fetched(ask, hub, tiny_bert, tmp_path):
    hub.repositories[MODEL] = copy_files(
        tiny_bert, tmp_path / "served", "config.json", "tokenizer.json"
    )
    (tmp_path / "served" / "pytorch_model.bin").write_bytes(b"pickled")
    error = ask().error
    assert f"'{MODEL}' has no model.safetensors on the hub" in error
    assert "only config.json, pytorch_model.bin, tokenizer.json" in error
    assert "can execute code when loaded and are never opened" in error
    assert not any("/resolve/" in request for request in hub.requests)


@pytest.mark.parametrize(
    "metadata",
    [{"sha": None}, {"sha": 7}, {"sha": "../../../etc"}, {"sha": "f" * 40}],
    ids=["none", "7", "path", "other"],
)
def test_an_answer_for_another_commit_is_none(metadata, ask, hub, storage):
    hub.metadata = metadata
    assert "not from a model hub (ValueError" in ask(revision=COMMIT).error
    assert not storage.exists()


def test_a_hash_that_is_none_names_no_file(ask, hub, home):
    hub.metadata = {
        "siblings": [
            {"rfilename": name, "size": "7", "blobId": "../../../../evil"} for name in NEEDED
        ]
    }
    assert whole(ask().source)  # verified by the hashes that the files' answers tell
    assert not list(home.parent.rglob("*evil*"))


# ---- an ill hub that gets well

WEIGHTS = "model.safetensors"
PASSING = {
    "429": (API, Fault(times=2, status=429, headers={"Retry-After": "0"}), 3),
    "503": (API, Fault(times=2, status=503), 3),
    "cut": (WEIGHTS, Fault(times=2, cut=True), 4),
    "flipped bit": (WEIGHTS, Fault(times=1, flip=True), 4),
    "login page": (WEIGHTS, Fault(times=1, body=LOGIN_PAGE), 4),
    "longer than sent": ("config.json", Fault(times=1, length=9), 3),
}


@pytest.mark.parametrize(("name", "fault", "n_requests"), PASSING.values(), ids=PASSING)
def test_a_hub_that_gets_well_delivers(name, fault, n_requests, ask, hub, storage):
    hub.faults[name] = Fault(**vars(fault))
    assert whole(ask().source)
    assert hub.asked_for(name) == n_requests
    assert len(blobs(storage)) == len(NEEDED)
    assert leftovers(storage) == []


def test_a_file_that_was_cut_is_continued_where_it_ended(ask, hub, tiny_bert):
    hub.faults[WEIGHTS] = Fault(times=1, cut=True)
    assert whole(ask().source)
    half = Path(tiny_bert, WEIGHTS).stat().st_size // 2
    (resumed,) = [headers["range"] for headers in hub.headers if "range" in headers]
    assert resumed == f"bytes={half - half % hub_module.CHUNK}-"


def test_who_is_told_to_come_back_soon_waits_as_long(ask, hub, monkeypatch):
    waits = []
    hub.faults[API] = Fault(times=1, status=429, headers={"Retry-After": "7"})
    monkeypatch.setattr("time.sleep", waits.append)
    assert whole(ask().source)
    assert waits == [7]


def test_a_proxy_that_keeps_files_back_is_waited_for_where_that_is_asked_for(start, hub):
    hub.faults["config.json"] = Fault(pace=(1 << 20, 1.3), pace_headers=True)
    error = start(SHORT)().error
    assert re.search(
        r"did not answer in time \(request: config\.json\).*scans files .*HF_HUB_DOWNLOAD_TIMEOUT",
        error,
    )
    assert whole(start(SHORT, HF_HUB_DOWNLOAD_TIMEOUT=20)().source)


@pytest.mark.parametrize(
    ("files", "name"),
    [(NEEDED, "tokenizer.json"), (NEEDED, "model.safetensors"), (OLDER, "tokenizer_config.json")],
)
def test_a_fetch_that_broke_off_is_never_taken_for_a_whole_model(
    files, name, ask, hub, snapshot, tiny_bert, tmp_path
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
    assert "the download failed" in ask(revision=COMMIT).error
    hub.faults.clear()
    ask(revision=COMMIT)
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
    found = start(SHORT)()
    assert whole(found.source)
    assert found.source["kind"] == "hub cache"
    (warning,) = found.warnings
    assert f"Using the cached copy of '{MODEL}', at commit {COMMIT}: " in warning
    assert message in warning
    assert len(hub.requests) == 1


def test_a_black_hole_holds_up_a_cached_branch_for_a_moment_and_a_cached_commit_not_at_all(
    start, cached, monkeypatch
):
    with black_hole() as url:
        branch = start(SHORT, url=url)()
        monkeypatch.setattr(hub_module, "ask", None)
        commit = start(SHORT, url=url)(revision=COMMIT)
    assert whole(branch.source)
    assert "did not answer in time" in branch.warnings[0]
    assert whole(commit.source)
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
    revision, damage, name, ask, hub, cached, tiny_bert
):
    damage((cached / name).resolve())
    error = ask(revision=revision, local_files_only=True).error
    expected = published_hash(name, Path(tiny_bert, name).read_bytes())
    assert re.search(rf"is damaged in the hub cache .*: {name} (has \w+ \w*|is missing)", error)
    assert expected in error
    assert damage is Path.unlink or re.search(
        rf"{name} has (sha256|git hash) (?!{expected})\w{{40,64}},", error
    )
    assert f"fetch {MODEL}" in error
    assert hub.requests == []
    found = ask(revision=revision)
    assert whole(found.source)
    assert found.source["kind"] == "hub"
    assert len(hub.requests) == 3
    assert (cached / name).read_bytes() == Path(tiny_bert, name).read_bytes()
    assert ask(revision=revision, local_files_only=True).source["kind"] == "hub cache"


def test_a_damaged_cache_is_not_used_where_the_hub_cannot_heal_it(ask, hub, cached):
    flip((cached / "model.safetensors").resolve())
    hub.faults["model.safetensors"] = Fault(status=503)
    error = ask(revision=COMMIT).error
    assert "is damaged in the hub cache" in error
    assert "the download failed: the hub answered 503" in error


def test_a_cache_without_links_is_used_and_healed_by_what_the_hub_says(start, hub, cached, storage):
    for name in NEEDED:
        body = (cached / name).read_bytes()
        (cached / name).unlink()
        (cached / name).write_bytes(body)
    shutil.rmtree(storage / "blobs")
    ask = start(HF_HUB_DISABLE_SYMLINKS=True)
    assert whole(ask(revision=COMMIT).source)
    assert hub.requests == []
    flip(cached / "model.safetensors")
    assert whole(ask().source)
    assert len(hub.requests) == 3
    assert not (cached / "model.safetensors").is_symlink()


def test_a_mirror_that_tells_no_hashes_is_verified_by_its_file_answers(ask, hub, snapshot):
    hub.metadata = {"siblings": [{"rfilename": name} for name in NEEDED]}
    hub.faults["model.safetensors"] = Fault(flip=True)
    assert re.search(r"model\.safetensors has sha256 \w{64}, .*after two downloads", ask().error)
    hub.faults["model.safetensors"] = Fault(
        headers={"ETag": '"5d41402abc4b2a76"', "X-Linked-Etag": ""}
    )
    assert "publishes no hash of model.safetensors to verify it" in ask().error
    hub.faults.clear()
    assert whole(ask().source)


# ---- another host


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_the_token_goes_to_the_hub_and_never_to_the_host_it_redirects_to(
    host, start, hub, tiny_bert
):
    with FakeHub({MODEL: Path(tiny_bert)}) as other:
        address = other.url.replace("127.0.0.1", host)
        hub.faults["model.safetensors"] = Fault(redirect=address)
        assert whole(start(token="hf_secret")().source)
        assert set(other.requests) == {f"GET /{MODEL}/resolve/{COMMIT}/model.safetensors"}
        assert [headers.get("authorization") for headers in other.headers] == [None]
        assert "hf_secret" not in str(other.headers)
    assert {headers.get("authorization") for headers in hub.headers} == {"Bearer hf_secret"}


def test_the_token_is_in_no_message(start, hub):
    hub.faults["config.json"] = Fault(status=403)
    assert "hf_secret" not in start(token="hf_secret")().error


# ---- the disk


def test_a_disk_with_too_little_room_is_not_filled(ask, storage, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=9000))
    error = ask().error
    assert re.search(r"cannot be written \(model\.safetensors needs 0 MB, 0 MB are free\)", error)
    assert "Free space there, or set HF_HOME" in error
    assert leftovers(storage) == []


def test_a_full_disk_is_called_one(environment, storage):
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))

    (process,) = processes(1, environment, preexec_fn=limit)
    error = process.communicate()[1].splitlines()[-1]
    assert "FetchError" in error
    assert "cannot be written (File too large)" in error
    assert "Free space there, or set HF_HOME" in error
    assert leftovers(storage) == []


def test_a_cache_folder_that_cannot_be_made_is_named(start, tmp_path):
    (tmp_path / "cache").write_text("a file where a folder is wanted")
    error = start(cache=tmp_path / "cache")().error
    assert re.search(r"models--acme--tiny-bert/.* cannot be written \(Not a directory\)", error)
    assert "set HF_HOME" in error


def test_what_another_host_sends_is_verified_too(ask, hub, tiny_bert):
    with FakeHub({MODEL: Path(tiny_bert)}) as other:
        hub.faults["model.safetensors"] = Fault(redirect=other.url)
        other.faults["model.safetensors"] = Fault(flip=True)
        assert re.search(r"model\.safetensors has sha256 .*, after two downloads", ask().error)
