"""Writes to a folder cache and acknowledges every batch, until somebody kills it."""

import os
import sys
from pathlib import Path

import numpy as np

from pipeline.vector_store import FolderStore, text_key


def vector_of(key):
    """Compute the one right vector of a key, of a size that spans several pages."""
    return (
        np.random.default_rng(int.from_bytes(key, "big")).normal(size=(7, 384)).astype(np.float32)
    )


def batch_of(writer, number):
    """Give a batch of which half is the writer's own, half what the others write too."""
    texts = [f"{writer}, {number}, {i}" for i in range(16)] + [
        f"all, {number}, {i}" for i in range(16)
    ]
    keys = [text_key("name", "cls", text) for text in texts]
    return {key: vector_of(key) for key in keys}


def open_at_once(folder, n_rounds, n_processes=6):
    """Let forked processes make one new file at the same moment, again and again."""
    failed = 0
    for number in range(n_rounds):
        starting, start = os.pipe()
        children = []
        for i in range(n_processes):
            child = os.fork()
            if child == 0:
                os.close(start)
                os.read(starting, 1)  # until the parent closes its end
                try:
                    store = FolderStore(Path(folder) / str(number), "name")
                    store.put(batch_of(i, number))
                    os._exit(
                        0
                        if store.get(list(batch_of(i, number))).keys() == batch_of(i, number).keys()
                        else 1
                    )
                except BaseException:
                    os._exit(2)
            children.append(child)
        os.close(starting)
        os.close(start)
        failed += sum(os.waitpid(child, 0)[1] != 0 for child in children)
    return failed


if __name__ == "__main__":
    kind, folder, number = sys.argv[1:]
    if kind == "race":
        sys.exit(min(open_at_once(folder, int(number)), 100))
    store = FolderStore(Path(folder), "name")
    for batch in range(100_000):
        store.put(batch_of(int(number), batch))
        sys.stdout.write(f"{batch}\n")
        sys.stdout.flush()
