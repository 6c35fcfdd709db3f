"""The SQLite store: what was put comes back."""

import hashlib
import os
import shutil
import sqlite3
import stat
import threading
import time
import warnings
import zlib
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import BertVectorizer, cache_info, clear_cache, vector_store
from pipeline.exceptions import CacheWarning
from pipeline.vector_store import FolderStore, MemoryStore, clear_folder, text_key
from tests.conftest import TEXTS

KEY, OTHER = b"k" * 16, b"o" * 16
VECTOR = np.arange(12, dtype=np.float32).reshape(3, 4)


@pytest.mark.parametrize("kind", ["memory", "folder"])
def test_what_was_put_comes_back_in_its_shape_and_to_the_bit(kind, tmp_path):
    folder = tmp_path / "not there" / "yet"
    store = MemoryStore() if kind == "memory" else FolderStore(folder, "name")
    values = {
        os.urandom(16): np.random.default_rng(i).normal(size=(1 + i % 4, 8)).astype(np.float32)
        for i in range(1000)
    }
    values[KEY] = np.array([[np.inf, -0.0, np.nan, 1e-45]], dtype=np.float32)
    store.put(values)
    found = store.get([*values, OTHER])
    assert set(found) == set(values)
    assert all(
        found[key].tobytes() == value.tobytes() and found[key].shape == value.shape
        for key, value in values.items()
    )


@given(
    st.text(st.characters(exclude_categories=["Cs"])),
    st.text(st.characters(exclude_categories=["Cs"])),
)
def test_keys_are_equal_for_equal_texts_only(a, b):
    assert (text_key("n", "cls", a) == text_key("n", "cls", b)) == (a == b)
    assert text_key("n", "cls", a) != text_key("n", "mean", a)
    assert text_key("n", "cls", a) != text_key("m", "cls", a)


def test_a_file_keeps_its_name_and_layout_so_that_a_new_version_finds_old_vectors(tmp_path):
    name = "0123456789abcdef" + "more of the fingerprint"
    store, key = FolderStore(tmp_path, name), text_key(name, "cls", "a film")
    store.put({key: VECTOR.astype(">f8")})
    raw = VECTOR.astype("<f4").tobytes()
    with sqlite3.connect(tmp_path / "embeddings-0123456789abcdef.sqlite") as connection:
        assert connection.execute("SELECT k, width, v FROM e").fetchall() == [
            (
                hashlib.blake2b(f"{name}\0cls\0a film".encode(), digest_size=16).digest(),
                4,
                raw + zlib.crc32(raw).to_bytes(4, "little"),
            )
        ]
    connection.close()
    found = store.get([key])[key]
    assert found.dtype == np.float32
    assert np.array_equal(found, VECTOR)


@pytest.mark.parametrize("width", [0, -4, 5])
def test_a_row_whose_width_is_wrong_counts_as_missing(width, tmp_path):
    store = FolderStore(tmp_path, "name")
    store.put({KEY: VECTOR, OTHER: VECTOR})
    with sqlite3.connect(store.path) as connection:
        connection.execute("UPDATE e SET width = ? WHERE k = ?", (width, KEY))
    connection.close()
    assert set(store.get([KEY, OTHER])) == {OTHER}


def test_a_memory_store_keeps_a_vector_of_just_its_size_and_says_whether_it_overflowed():
    store = MemoryStore(VECTOR.nbytes)
    store.put({KEY: VECTOR})
    assert (set(store.get([KEY])), store.overflowed) == ({KEY}, False)
    store.put({OTHER: VECTOR})
    assert (set(store.get([KEY, OTHER])), store.overflowed) == ({OTHER}, True)
    store.clear()
    assert (store.get([OTHER]), store.current_bytes, store.overflowed) == ({}, 0, False)


def test_the_folder_is_for_its_owner_alone_and_holds_no_text(tmp_path, tiny_bert):
    BertVectorizer(tiny_bert, cache=tmp_path / "new").fit_transform(["a secret sentence"])
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700
    assert all(b"secret" not in path.read_bytes() for path in (tmp_path / "new").iterdir())


def test_a_row_whose_checksum_is_wrong_is_computed_again_and_mended(tmp_path, tiny_bert):
    first = BertVectorizer(tiny_bert, cache=tmp_path).fit_transform(TEXTS)
    (path,) = tmp_path.glob("*.sqlite")
    with sqlite3.connect(path) as connection:
        key, value = connection.execute("SELECT k, v FROM e LIMIT 1").fetchone()
        connection.execute(
            "UPDATE e SET v = ? WHERE k = ?", (bytes([value[0] ^ 1]) + value[1:], key)
        )
    connection.close()
    store = FolderStore(tmp_path, path.stem.removeprefix("embeddings-"))
    assert store.get([key]) == {}
    again = BertVectorizer(tiny_bert, cache=tmp_path, pooling=("cls", "mean", "max")).fit_transform(
        TEXTS
    )
    assert np.allclose(again[:, 32:64], first, atol=1e-5)
    assert set(store.get([key])) == {key}


def break_garbage(path):
    path.write_bytes(b"this is no database at all" * 100)


def break_truncated(path):
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def break_zeroed(path):
    data = bytearray(path.read_bytes())
    data[100 : len(data)] = bytes(len(data) - 100)
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("damage", [break_garbage, break_truncated, break_zeroed])
def test_a_corrupt_file_is_put_aside_with_one_warning_and_the_result_is_right(
    damage, tmp_path, tiny_bert
):
    expected = BertVectorizer(tiny_bert, cache=tmp_path).fit_transform(TEXTS)
    (path,) = tmp_path.glob("*.sqlite")
    for extra in tmp_path.glob("*.sqlite-*"):
        extra.unlink()
    damage(path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            assert np.allclose(
                BertVectorizer(tiny_bert, cache=tmp_path).fit_transform(TEXTS), expected, atol=1e-5
            )
    assert [w.category for w in caught] == [CacheWarning]
    assert "moved to" in str(caught[0].message)
    assert len(list(tmp_path.glob("*.corrupt-*"))) == 1
    clear_cache(tmp_path)  # as a new run
    clear_cache()
    BertVectorizer(tiny_bert, cache=tmp_path).fit_transform(TEXTS)
    BertVectorizer(tiny_bert, cache=tmp_path).fit_transform(TEXTS)
    assert cache_info().texts_encoded == len(set(TEXTS))


def assert_costs_one_warning(folder, model, match, texts=TEXTS):
    with pytest.warns(CacheWarning, match=match) as caught:
        rows = BertVectorizer(model, cache=folder).fit_transform(texts)
    assert len(caught) == 1
    assert np.allclose(rows, BertVectorizer(model, cache=None).fit_transform(texts), atol=1e-5)


def test_a_corrupt_file_that_cannot_be_moved_costs_one_warning_that_says_to_delete_it(
    tmp_path, tiny_bert, monkeypatch
):
    BertVectorizer(tiny_bert, cache=tmp_path).fit(TEXTS).transform(TEXTS)
    (path,) = tmp_path.glob("*.sqlite")
    break_garbage(path)
    monkeypatch.setattr(Path, "replace", Mock(side_effect=PermissionError))
    assert_costs_one_warning(tmp_path, tiny_bert, "could not be moved; delete it")
    assert path.exists()


def test_a_folder_that_cannot_be_made_costs_one_warning(tmp_path, tiny_bert):
    (tmp_path / "file").write_text("in the way")
    match = r"cannot be used \((NotADirectoryError|FileExistsError)"
    assert_costs_one_warning(tmp_path / "file" / "cache", tiny_bert, match)


def test_a_full_disk_costs_one_warning(tmp_path, tiny_bert, monkeypatch):
    connect = sqlite3.connect

    def small(*args, **kwargs):
        connection = connect(*args, **kwargs)
        connection.execute("PRAGMA page_size=16384")
        connection.execute("PRAGMA max_page_count=3")
        return connection

    monkeypatch.setattr(vector_store.sqlite3, "connect", small)
    many = [f"text number {i}" for i in range(300)]
    assert_costs_one_warning(tmp_path, tiny_bert, "full", many)


def test_a_file_that_may_only_be_read_costs_one_warning(tmp_path, tiny_bert, monkeypatch):
    BertVectorizer(tiny_bert, cache=tmp_path).fit_transform(["make the file"])
    connect = sqlite3.connect
    monkeypatch.setattr(
        vector_store.sqlite3,
        "connect",
        lambda path, **kwargs: connect(f"file:{path}?mode=ro", uri=True, **kwargs),
    )
    assert_costs_one_warning(tmp_path, tiny_bert, "readonly database")


def test_a_database_that_stays_locked_costs_one_warning(tmp_path, tiny_bert, monkeypatch):
    BertVectorizer(tiny_bert, cache=tmp_path).fit_transform(["make the file"])
    monkeypatch.setattr(vector_store, "BUSY_SECONDS", 0.05)
    (path,) = tmp_path.glob("*.sqlite")
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    start = time.monotonic()
    try:
        assert_costs_one_warning(tmp_path, tiny_bert, "locked")
    finally:
        holder.execute("ROLLBACK")
        holder.close()
    assert time.monotonic() - start < 4
    assert list(tmp_path.iterdir()) == [path]  # it is sound, so it stays


def test_a_file_that_another_process_keeps_in_wal_mode_is_waited_for(tmp_path):
    store = FolderStore(tmp_path, "name")
    store.put({KEY: VECTOR})
    holder = sqlite3.connect(store.path, check_same_thread=False)
    holder.execute("PRAGMA journal_mode=WAL")
    holder.execute("SELECT * FROM e").fetchall()
    release = threading.Timer(0.1, holder.close)
    release.start()
    try:
        assert set(store.get([KEY])) == {KEY}
    finally:
        release.join()


@pytest.mark.parametrize("what", ["the file", "the folder"])
def test_a_cache_that_was_deleted_meanwhile_is_made_anew(what, tmp_path, tiny_bert):
    folder = tmp_path / "cache"
    vectorizer = BertVectorizer(tiny_bert, cache=folder).fit(TEXTS)
    first = vectorizer.transform(TEXTS)
    if what == "the folder":
        shutil.rmtree(folder)
    else:
        for path in folder.iterdir():
            path.unlink()
    assert np.allclose(vectorizer.transform(TEXTS), first, atol=1e-5)
    clear_cache()
    assert np.allclose(vectorizer.transform(TEXTS), first, atol=1e-5)
    assert cache_info().texts_encoded == 0


def test_a_cache_of_an_older_version_in_wal_mode_is_read_and_taken_out_of_it(tmp_path):
    store = FolderStore(tmp_path, "name")
    store.put({KEY: VECTOR})
    connection = sqlite3.connect(store.path)
    assert connection.execute("PRAGMA journal_mode=WAL").fetchone() == ("wal",)
    rows = connection.execute("SELECT width, v FROM e").fetchall()
    with connection:  # in the log only, as a killed process leaves it
        connection.execute("INSERT INTO e VALUES (?, ?, ?)", (OTHER, *rows[0]))
    for path in tmp_path.iterdir():
        shutil.copy(path, tmp_path / path.name.replace("embeddings-name", "embeddings-old"))
    connection.close()
    old = FolderStore(tmp_path, "old")
    assert all(np.array_equal(vector, VECTOR) for vector in old.get([KEY, OTHER]).values())
    assert len(old.get([KEY, OTHER])) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "embeddings-name.sqlite",
        "embeddings-old.sqlite",
    ]
    check = sqlite3.connect(old.path)
    assert check.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    check.close()


def test_clearing_a_folder_leaves_other_files_alone(tmp_path):
    FolderStore(tmp_path, "name").put({KEY: VECTOR})
    (tmp_path / "mine.txt").write_text("keep")
    clear_folder(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
