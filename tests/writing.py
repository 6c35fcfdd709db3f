"""Writes to a folder cache and acknowledges every batch, until somebody kills it: run by test_cache_kill as processes."""

import sys
from pathlib import Path

import numpy as np

from pipeline.vector_store import FolderStore, text_key


def vector_of(key):
    """Compute the one right vector of a key, of a size that spans several pages."""
    return np.random.default_rng(int.from_bytes(key, "big")).normal(size=(7, 384)).astype(np.float32)


def batch_of(writer, number):
    """Give a batch of which half is the writer's own, half what the others write too."""
    texts = [f"{writer}, {number}, {i}" for i in range(16)] + [f"all, {number}, {i}" for i in range(16)]
    keys = [text_key("name", "cls", text) for text in texts]
    return {key: vector_of(key) for key in keys}


def texts_of(writer, number):
    return [f"{'a lovely' if i % 2 else 'a dull'} film, {writer} {number} {i}" for i in range(8)] + [f"shared {number}"]


def write_by_store(folder, writer):
    store = FolderStore(Path(folder), "name")

    def write(number):
        store.put(batch_of(writer, number))

    return write


def write_by_vectorizer(folder, writer, model):
    from pipeline import BertVectorizer  # here: the other writers need no torch, and start quickly

    vectorizer = BertVectorizer(model, cache=folder).fit(["film"])

    def write(number):
        vectorizer.transform(texts_of(writer, number))

    return write


if __name__ == "__main__":
    kind, folder, writer, *more = sys.argv[1:]
    write = {"store": write_by_store, "vectorizer": write_by_vectorizer}[kind](folder, int(writer), *more)
    for number in range(100_000):
        write(number)
        sys.stdout.write(f"{number}\n")
        sys.stdout.flush()
