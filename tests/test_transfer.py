"""One transfer: timeouts, retries and messages."""

import threading
import time
from pathlib import Path

import pytest

from pipeline.checkpoints import hub as hub_module
from pipeline.checkpoints.hub import TransferError, ask, download
from tests.fake_hub import COMMIT, FakeHub, Fault, connect, git_hash, published_hash

MODEL = "acme/tiny-bert"
BODY = bytes(range(256)) * 4096  # a MiB


@pytest.fixture
def hub(tmp_path, monkeypatch):
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "config.json").write_bytes(b"{}")
    (tmp_path / "served" / "model.safetensors").write_bytes(BODY)
    with FakeHub({MODEL: tmp_path / "served"}) as server:
        connect(server.url, tmp_path / "cache", monkeypatch)
        for name, value in {
            "ANSWER_TIMEOUT": 0.6,
            "METADATA_TIMEOUT": 0.8,
            "STALL_TIMEOUT": 0.4,
            "RETRY_WAIT": 0.01,
        }.items():
            monkeypatch.setattr(hub_module, name, value)
        yield server


@pytest.fixture
def fetch(hub, tmp_path):
    """Give the function that downloads the weights, and says what has come."""

    def fetch(size=None):
        url = f"{hub.url}/{MODEL}/resolve/{COMMIT}/model.safetensors"
        named = download(url, tmp_path / "part", size or len(BODY))
        assert named == published_hash("model.safetensors", BODY)
        return (tmp_path / "part").read_bytes()

    return fetch


@pytest.fixture
def waits(monkeypatch):
    """List the pauses between tries, which are not made."""
    seconds = []
    monkeypatch.setattr(hub_module.time, "sleep", seconds.append)
    return seconds


def test_the_list_of_files_tells_the_commit_the_hashes_and_the_sizes(hub):
    listing = ask(MODEL, None, patient=True)
    assert listing.commit == COMMIT
    assert listing.files == {
        "config.json": (git_hash(b"{}"), 2),
        "model.safetensors": (published_hash("model.safetensors", BODY), len(BODY)),
    }
    assert ask(MODEL, COMMIT, patient=True) == listing
    assert hub.requests == [
        f"GET /api/models/{MODEL}",
        f"GET /api/models/{MODEL}/revision/{COMMIT}",
    ]


def test_where_the_model_is_here_the_hub_is_asked_once(hub, waits):
    hub.faults[hub.API] = Fault(status=503)
    with pytest.raises(
        TransferError, match=r"the hub answered 503 Service Unavailable for its list of files$"
    ):
        ask(MODEL, None, patient=False)
    with pytest.raises(
        TransferError, match=r"503 Service Unavailable for its list of files, tried 3 times$"
    ):
        ask(MODEL, None, patient=True)
    assert len(hub.requests) == 1 + 3
    assert waits == [0.01, 0.02]


def test_a_file_comes_whole(fetch):
    assert fetch() == BODY


def test_a_line_that_breaks_often_is_enough_while_the_file_grows(hub, fetch, waits, monkeypatch):
    monkeypatch.setattr(hub_module, "PROGRESS", 4096)
    hub.faults["model.safetensors"] = Fault(
        times=7, cut=True
    )  # each brings half of the rest: 512 kB, 256 kB, ... 8 kB
    assert fetch() == BODY
    assert len(hub.requests) == 8
    assert waits == [0.01] * 7


def test_a_line_that_brings_nearly_nothing_each_time_is_given_up(hub, fetch, waits):
    hub.faults["model.safetensors"] = Fault(cut=True)
    with pytest.raises(
        TransferError, match=r"broke off in the middle of model\.safetensors \(.*\), tried 3 times"
    ):
        fetch()
    assert len(hub.requests) == 3


def test_a_host_that_knows_no_ranges_starts_over(hub, fetch, waits):
    hub.faults["model.safetensors"] = Fault(times=1, cut=True)
    hub.ranges = False
    assert fetch() == BODY


@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=206, body=b"x" * 10, headers={"Content-Range": "bytes 5-14/20"}),
        Fault(status=416),
    ],
    ids=["another part", "no such part"],
)
def test_a_part_that_was_not_asked_for_is_not_taken(fault, hub, fetch, waits):
    hub.faults["safetensors"] = Fault(times=1, cut=True)
    hub.faults["model.safetensors"] = Fault(**{**vars(fault), "times": 1})
    assert fetch() == BODY
    assert len(hub.requests) == 3


def test_more_that_was_told_than_there_is_does_not_matter(hub, tmp_path):
    hub.faults["model.safetensors"] = Fault(length=9)
    assert (
        download(
            f"{hub.url}/{MODEL}/resolve/{COMMIT}/model.safetensors", tmp_path / "part", len(BODY)
        )
        is None
    )
    assert (tmp_path / "part").read_bytes() == BODY
    assert len(hub.requests) == 1


@pytest.mark.parametrize(("after", "expected"), [("0", 0), ("3", 3), ("10", 10)])
def test_a_wait_that_is_asked_for_is_kept(after, expected, hub, fetch, waits):
    hub.faults["model.safetensors"] = Fault(times=1, status=429, headers={"Retry-After": after})
    assert fetch() == BODY
    assert waits == [expected]


@pytest.mark.parametrize("after", ["11", "3600", "9" * 40])
def test_a_long_wait_is_told_instead_of_kept(after, hub, fetch, waits):
    hub.faults["model.safetensors"] = Fault(times=1, status=503, headers={"Retry-After": after})
    with pytest.raises(TransferError, match=f"503 .*asks to come back in {after} s$") as raised:
        fetch()
    assert raised.value.advice == "Try again later."
    assert waits == []


def test_a_date_to_come_back_at_is_no_number_of_seconds(hub, fetch, waits):
    hub.faults["model.safetensors"] = Fault(
        times=1, status=503, headers={"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}
    )
    assert fetch() == BODY
    assert waits == [0.01]


def test_more_than_was_promised_is_not_read(hub, fetch, tmp_path):
    assert len(fetch(size=1000)) <= 1 << 17
    assert (tmp_path / "part").stat().st_size > 1000


def test_a_disk_error_is_no_fault_of_the_hub(hub, tmp_path):
    with pytest.raises(IsADirectoryError):
        download(f"{hub.url}/{MODEL}/resolve/{COMMIT}/config.json", tmp_path, 2)


def test_what_is_answered_too_late_is_closed_unread():
    class Answer:
        closed = threading.Event()

        def close(self):
            self.closed.set()

    def late():
        time.sleep(0.1)
        return Answer()

    with pytest.raises(TimeoutError):
        hub_module._within(0.01, late)
    assert Answer.closed.wait(5)


def test_an_error_in_the_thread_is_the_callers():
    with pytest.raises(ZeroDivisionError):
        hub_module._within(5, lambda: 1 // 0)


def test_what_is_no_failure_of_a_transfer_is_not_taken_for_one(hub, monkeypatch):
    def broken(*_):
        raise RuntimeError("a mistake of ours")

    monkeypatch.setattr(hub_module, "_listing", broken)
    with pytest.raises(RuntimeError, match="a mistake of ours"):
        ask(MODEL, None, patient=True)


def test_a_token_that_is_kept_to_itself_is_not_sent(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    ask(MODEL, None, patient=True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_IMPLICIT_TOKEN", True)
    ask(MODEL, None, patient=True)
    assert [headers.get("authorization") for headers in hub.headers] == ["Bearer hf_secret", None]


def test_no_file_of_the_cache_is_touched(hub, fetch, tmp_path):
    fetch()
    ask(MODEL, None, patient=True)
    assert sorted(path.name for path in Path(tmp_path).iterdir()) == ["part", "served"]
