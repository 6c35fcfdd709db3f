"""One transfer: timeouts, retries and messages."""

import threading

import pytest

from pipeline.checkpoints import hub as hub_module
from pipeline.checkpoints.hub import TransferError, ask, download
from tests.fake_hub import COMMIT, MODEL, FakeHub, Fault, connect

BODY = bytes(range(256)) * 4096  # a MiB


@pytest.fixture
def hub(tmp_path, monkeypatch):
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "config.json").write_bytes(b"{}")
    (tmp_path / "served" / "model.safetensors").write_bytes(BODY)
    with FakeHub({MODEL: tmp_path / "served"}) as server:
        connect(server.url, tmp_path / "cache", monkeypatch)
        yield server


@pytest.fixture
def fetch(hub, tmp_path):
    """Give a function that downloads the weights."""
    return lambda: download(MODEL, COMMIT, "model.safetensors", str(tmp_path / "part")).read_bytes()


@pytest.fixture
def waits(monkeypatch):
    """List the pauses between tries, which are not made."""
    seconds = []
    monkeypatch.setattr(hub_module.time, "sleep", seconds.append)
    return seconds


def test_a_line_that_breaks_often_is_enough_while_the_file_grows(hub, fetch, waits):
    hub.faults["model.safetensors"] = Fault(times=7, cut=True)  # each brings half of the rest
    assert fetch() == BODY
    assert hub.asked_for("model.safetensors") == 1 + 8  # HEAD and GETs


def test_a_host_that_knows_no_ranges_starts_over(hub, fetch, waits):
    hub.faults["model.safetensors"] = Fault(times=1, cut=True)
    hub.ranges = False
    assert fetch() == BODY


def test_a_date_to_come_back_at_is_no_number_of_seconds(hub, waits):
    date = {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}
    hub.faults[hub.API] = Fault(times=1, status=503, headers=date)
    assert ask(MODEL, None, patient=True).commit == COMMIT
    assert waits == [1.0]


def test_what_was_given_up_stops_when_more_comes(hub, fetch, monkeypatch):
    monkeypatch.setattr(hub_module, "STALL_TIMEOUT", 0.3)
    monkeypatch.setattr(hub_module, "CHUNK", 16)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", 0.3)
    hub.faults["model.safetensors"] = Fault(pace=(16, 0.1))
    with pytest.raises(TransferError, match="less than 1024 bytes per second"):
        fetch()
    for thread in threading.enumerate():
        if thread.name == "hub request":
            thread.join(10)
            assert not thread.is_alive()


def test_a_token_that_is_kept_to_itself_is_not_sent(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    ask(MODEL, None, patient=True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_IMPLICIT_TOKEN", True)
    ask(MODEL, None, patient=True)
    assert [headers.get("authorization") for headers in hub.headers] == ["Bearer hf_secret", None]
