"""A worker process: takes shards from standard input until that is closed."""

import os
import pickle
import queue
import signal
import struct
import sys
import threading
import traceback
from typing import Any, BinaryIO

_LENGTH = struct.Struct("!Q")


def send(file: BinaryIO, message: Any) -> None:
    """Write one message to a pipe."""
    content = pickle.dumps(message)
    file.write(_LENGTH.pack(len(content)) + content)
    file.flush()


def receive(file: BinaryIO) -> bytes | None:
    """Read the bytes of one message, still pickled; None where the other end is gone."""
    head = file.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack(head)
    content = file.read(length)
    return content if len(content) == length else None


def main() -> None:
    """Answer messages until the sender ends, or is killed."""
    # a Ctrl-C at the terminal goes to all processes; the driver handles it
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a model prints is no answer
    asked = sys.stdin.buffer
    tasks: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def listen() -> None:
        while (content := receive(asked)) is not None:
            tasks.put(content)
        os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
    send(answers, ("ready", None))
    while True:
        function, shard = pickle.loads(tasks.get())
        try:
            answer = ("outcome", function(shard))
        except Exception as error:
            answer = ("raised", _portable(error))
        send(answers, answer)


def _portable(error: Exception) -> Exception:
    """Make an exception picklable, with this process's traceback as a note."""
    told = traceback.format_exc()
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        error = RuntimeError(f"{type(error).__name__}: {error}")
    error.add_note(f"In a worker process:\n{told}")
    return error
