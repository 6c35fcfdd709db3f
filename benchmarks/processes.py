"""The processes that a process has started, and the peak memory of each, from /proc: Linux only."""

import os
import threading
from pathlib import Path

_LOOK = 0.2  # seconds


def children(pid: int) -> list[int]:
    """Return the child processes of a process, whichever of its threads started them."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*"):
        try:
            found += map(int, (task / "children").read_text().split())
        except OSError:  # it has ended
            continue
    return found


def peak_mib(pid: int) -> int:
    """Return the peak memory of a process since its program was started; the mapped weights are in
    it. 0 where it has ended.
    """
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next(
        (int(line.split()[1]) // 1024 for line in status.splitlines() if line.startswith("VmHWM:")),
        0,
    )


class PeakOfWorkers(threading.Thread):
    """Looks at the processes that this one has started, and those that they have, until the context
    is left.
    """

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.mib = 0
        self._stop_it = threading.Event()

    def run(self) -> None:
        """Look, again and again."""
        while not self._stop_it.wait(_LOOK):
            workers = children(os.getpid())
            self.mib = max(
                [
                    self.mib,
                    *(peak_mib(pid) for worker in workers for pid in (worker, *children(worker))),
                ]
            )

    def __enter__(self) -> "PeakOfWorkers":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop_it.set()
        self.join()
