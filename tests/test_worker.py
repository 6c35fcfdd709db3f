"""The worker's side of the pipes: messages, errors that travel, and an end with whoever sent."""

import io
import pickle
import subprocess
import sys

import pytest

from pipeline.scoring.executors import _START
from pipeline.scoring.shard import Shard
from pipeline.scoring.worker import _portable, receive, send


def test_messages_come_out_as_they_went_in_and_half_a_message_is_none():
    pipe = io.BytesIO()
    for message in ("a", ["b" * 100_000], None):
        send(pipe, message)
    whole = pipe.getvalue()
    pipe.seek(0)
    assert [pickle.loads(receive(pipe)) for _ in range(3)] == ["a", ["b" * 100_000], None]
    assert receive(pipe) is None
    for keep in (3, 9, len(whole) - 1):
        pipe = io.BytesIO(whole[:keep])
        while (found := receive(pipe)) is not None:
            pickle.loads(found)


class Stubborn(Exception):
    """Cannot be pickled and read again."""

    def __init__(self, a, b):
        super().__init__(f"{a} and {b}")


@pytest.mark.parametrize("error", [ValueError("row 3"), OSError(28, "full"), Stubborn(1, 2)])
def test_errors_arrive_with_the_traceback_of_where_they_were(error):
    try:
        raise error
    except Exception as raised:
        found = pickle.loads(pickle.dumps(_portable(raised)))
    assert str(error) in str(found)
    assert "test_worker.py" in found.__notes__[0]
    assert isinstance(found, type(error) if not isinstance(error, Stubborn) else RuntimeError)


def prints(shard):
    print("a model that talks", flush=True)  # noqa: T201
    return shard.index


def test_what_a_model_prints_is_no_answer_and_the_end_of_the_pipe_is_the_end():
    command = [sys.executable, "-c", _START, *sys.path]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as worker:
        send(worker.stdin, (prints, Shard(7, "p", 0, 1, 0)))
        answers = [pickle.loads(receive(worker.stdout)) for _ in range(2)]
        worker.stdin.close()
        assert worker.wait(20) == 0
        assert answers == [("ready", None), ("outcome", 7)]
        assert b"a model that talks" in worker.stderr.read()
