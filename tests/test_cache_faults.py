"""The cache when any one call fails, and in any order of what is done to it."""

import errno
import itertools
import os
import shutil
import sqlite3
import tempfile
import warnings
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from pipeline import BertVectorizer, cache_info, clear_cache, embedding_cache
from pipeline.exceptions import CacheWarning
from pipeline.vector_store import FolderStore, MemoryStore, clear_folder
from tests.fault_loops import faults, in_child, struck
from tests.soak import try_orders

TEXTS = [f"a film, number {i}" for i in range(12)]
FAULTS = {
    "a full disk": sqlite3.OperationalError("database or disk is full"),
    "a damaged page": sqlite3.DatabaseError("database disk image is malformed"),
    "no space": OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
}


class Faults:
    """Lets the n-th call to SQLite or to the file system fail, all told."""

    def __init__(self, monkeypatch, error):
        self.n_calls, self.fails_at = 0, None
        outer, connect = self, sqlite3.connect

        class Connection(sqlite3.Connection):
            def execute(self, *arguments):
                outer.call()
                return super().execute(*arguments)

            def executemany(self, *arguments):
                outer.call()
                return super().executemany(*arguments)

            def __exit__(self, *error):
                outer.call()  # instead of the commit
                return super().__exit__(*error)

        def connected(*arguments, **options):
            self.call()
            return connect(*arguments, factory=Connection, **options)

        self.error = error
        monkeypatch.setattr(sqlite3, "connect", connected)
        for name in ("mkdir", "replace", "unlink"):
            monkeypatch.setattr(os, name, partial(self.called, getattr(os, name)))

    def call(self):
        self.n_calls += 1
        if self.n_calls == self.fails_at:
            raise self.error

    def called(self, call, *arguments, **options):
        self.call()
        return call(*arguments, **options)

    def start(self, fails_at):
        self.n_calls, self.fails_at = 0, fails_at


def is_whole(folder):
    """Say whether each database of a folder is sound and no journal is left."""
    for path in folder.glob("*.sqlite"):
        connection = sqlite3.connect(path)
        sound = connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        connection.close()
        if not sound:
            return False
    return not list(folder.glob("*-journal"))


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name != "a full disk" else [])
        for name in FAULTS
    ],
)
def test_whichever_call_fails_the_vectors_are_right_and_the_next_run_goes_on(
    fault, tiny_bert, tmp_path, monkeypatch
):
    monkeypatch.setattr(embedding_cache, "CHUNK_TEXTS", 8)
    expected = BertVectorizer(tiny_bert, cache=None).fit_transform(TEXTS)
    BertVectorizer(tiny_bert, cache=tmp_path / "some").fit_transform(TEXTS[:3])
    faults, n_told = Faults(monkeypatch, FAULTS[fault]), 0
    for n in itertools.count(1):
        folder, moved = tmp_path / f"{n}", tmp_path / f"{n}, moved"
        shutil.copytree(tmp_path / "some", folder)
        vectorizer = BertVectorizer(tiny_bert, cache=folder)
        faults.start(n)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            rows = vectorizer.fit_transform(TEXTS)
        n_calls = faults.n_calls
        faults.start(None)
        assert np.abs(rows - expected).max() <= 1e-5
        assert [w.category for w in caught] in ([], [CacheWarning])
        assert all(str(folder) in str(w.message) for w in caught)
        n_told += len(caught)
        shutil.move(folder, moved)  # a folder of another name is that of a new process
        assert is_whole(moved)
        rows = BertVectorizer(tiny_bert, cache=moved).fit_transform(TEXTS)
        assert np.abs(rows - expected).max() <= 1e-5
        before = cache_info().texts_encoded
        BertVectorizer(tiny_bert, cache=moved).fit_transform(TEXTS)
        assert cache_info().texts_encoded == before
        if n_calls < n:  # a whole run without a fault
            break
    assert caught == []
    # a folder that is there need not be made: that call may fail without a word
    assert n - 5 <= n_told < n
    assert n_told > 20


def test_a_deletion_that_fails_is_told_and_the_next_one_clears_the_rest(
    tiny_bert, tmp_path, monkeypatch
):
    for length in (16, 32, 64):
        BertVectorizer(tiny_bert, cache=tmp_path, max_length=length).fit_transform(TEXTS)
    assert len(list(tmp_path.iterdir())) == 3
    faults = Faults(monkeypatch, FAULTS["no space"])
    faults.start(2)
    with pytest.raises(OSError, match="No space"):
        clear_cache(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    faults.start(None)
    clear_cache(tmp_path)
    assert list(tmp_path.iterdir()) == []


# ---- any order of what is done to a store


KEYS = [bytes([i]) * 16 for i in range(6)]
some_keys = st.lists(st.sampled_from(KEYS), unique=True)
widths = st.integers(1, 5)


def vector_of(key, width):
    """Give a vector that tells its key, of 1 to 3 layers."""
    return np.full((1 + key[0] % 3, width), key[0] + width / 8, dtype=np.float32)


class FolderMachine(RuleBasedStateMachine):
    """A folder against a dict, while rows and files are damaged."""

    @initialize()
    def start(self):
        self.folder = Path(tempfile.mkdtemp())
        self.rows, self.broken = {}, False
        self.reopen()

    @rule()
    def reopen(self):
        self.store = FolderStore(self.folder, "name")

    @rule(keys=some_keys, width=widths)
    def put(self, keys, width):
        new = {key: vector_of(key, width) for key in keys}
        self.store.put(new)
        if not self.broken:
            self.rows |= new

    @rule(keys=some_keys)
    def get(self, keys):
        found = self.store.get(keys)
        assert found.keys() == self.rows.keys() & set(keys)
        assert all(np.array_equal(found[key], self.rows[key]) for key in found)

    @rule(keys=some_keys, others=some_keys, width=widths)
    def put_beside_another_process(self, keys, others, width):
        with ThreadPoolExecutor(1) as threads:
            child = threads.submit(in_child, partial(self.put, others, width))
            self.put(keys, width)
            assert child.result()[0] == "done"
        if not self.broken:
            self.rows |= {key: vector_of(key, width) for key in others}

    @precondition(lambda self: not self.broken)
    @rule(keys=some_keys, width=widths, fault=faults(st.integers(1, 24)))
    def put_from_a_process_that_is_struck(self, keys, width, fault):
        in_child(partial(struck, self.folder, fault, partial(self.put, keys, width)))
        found = self.store.get(keys)
        is_there = {key: np.array_equal(found.get(key), vector_of(key, width)) for key in keys}
        if all(is_there.values()):  # else none of them: the invariant looks at the old rows
            self.rows |= found

    @precondition(lambda self: self.rows)
    @rule(data=st.data())
    def damage_a_row(self, data):
        key = data.draw(st.sampled_from(sorted(self.rows)))
        with sqlite3.connect(self.store.path) as connection:
            ((value,),) = connection.execute("SELECT v FROM e WHERE k = ?", (key,))
            place = data.draw(st.integers(0, len(value) - 1))
            wrong = bytes([*value[:place], value[place] ^ 1, *value[place + 1 :]])
            connection.execute("UPDATE e SET v = ? WHERE k = ?", (wrong, key))
        connection.close()
        del self.rows[key]

    @precondition(lambda self: not self.broken)
    @rule()
    def damage_the_file(self):
        self.store.path.write_bytes(b"no database at all" * 100)
        with pytest.warns(CacheWarning, match=str(self.store.path)) as told:
            assert self.store.get(KEYS) == {}
        assert len(told) == 1
        self.rows, self.broken = {}, True  # left alone until it is cleared

    @rule()
    def clear(self):
        clear_folder(self.folder)
        self.rows, self.broken = {}, False

    @invariant()
    def it_holds_what_the_dict_holds(self):
        self.get(KEYS)

    def teardown(self):
        clear_folder(self.folder)
        shutil.rmtree(self.folder)


class MemoryMachine(RuleBasedStateMachine):
    """A bounded store against the order in which its keys were used."""

    @initialize(bound=st.integers(0, 120))
    def start(self, bound):
        self.store, self.rows = MemoryStore(bound), OrderedDict()

    @rule(keys=some_keys, width=widths)
    def put(self, keys, width):
        new = {key: vector_of(key, width) for key in keys}
        self.store.put(new)
        for key, vector in new.items():
            if vector.nbytes <= self.store.max_bytes:
                self.rows.setdefault(key, vector)
        while sum(vector.nbytes for vector in self.rows.values()) > self.store.max_bytes:
            self.rows.popitem(last=False)

    @rule(keys=some_keys)
    def get(self, keys):
        found = self.store.get(keys)
        assert found.keys() == self.rows.keys() & set(keys)
        assert all(found[key] is self.rows[key] for key in found)
        for key in found:
            self.rows.move_to_end(key)

    @rule()
    def clear(self):
        self.store.clear()
        self.rows.clear()

    @invariant()
    def it_is_within_its_bound(self):
        assert self.store.current_bytes == sum(vector.nbytes for vector in self.rows.values())
        assert self.store.current_bytes <= self.store.max_bytes


@pytest.mark.parametrize("machine", [FolderMachine, MemoryMachine])
def test_any_order_of_what_is_done_to_a_store_agrees_with_a_dict(machine):
    try_orders(machine, few=30, many=2000, steps=20)
