"""Steps for tests of scoring: a slow one, and one that kills its process."""

import os
import signal
import time

TRUSTED = ["tests.slow_and_deadly.slowly", "tests.slow_and_deadly.deadly"]


def slowly(texts):
    """Take 8 ms for a text."""
    time.sleep(0.008 * len(texts))
    return texts


def deadly(texts):
    """Kill the process at a certain text."""
    if any("movie number 123" in text for text in texts):
        os.kill(os.getpid(), signal.SIGKILL)
    return texts
