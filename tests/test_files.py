"""Where a path points, for everybody who takes one; how files are told from others."""

import errno
import hashlib
import importlib.util
import os
import re
import shutil
import sys
import zipfile
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import fsspec
import pandas as pd
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from pipeline import (
    BertVectorizer,
    inspect_pipeline,
    load_pipeline,
    read_table,
    save_pipeline,
    score_table,
    write_report,
)
from pipeline.datasets import write_table
from pipeline.exceptions import StorageError
from pipeline.files import (
    check_writable,
    connect,
    fetched,
    file_identity,
    file_moment,
    file_size,
    flush_to_disk,
    lock,
    open_binary,
    program,
    refuse_folder,
    remove,
    temporary_for,
    where,
    with_ending,
    write_text,
)
from pipeline.vectorizer import DEFAULT_MODEL
from tests.reporting import quick_scores


def test_addresses_of_fsspec_are_read_and_told_apart():
    memory = fsspec.filesystem("memory")
    memory.pipe("/in/a.parquet", b"10")
    with open_binary("memory://in/a.parquet") as file:
        assert file.read() == b"10"
    assert file_size("memory://in/a.parquet") == 2
    before = file_identity("memory://in/a.parquet")
    assert before == file_identity("memory://in/a.parquet")
    memory.pipe("/in/a.parquet", b"11")
    assert file_identity("memory://in/a.parquet") != before


def test_a_file_is_known_by_its_contents_alone_and_a_write_is_noticed(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"text\na\n")
    identity, moment = file_identity(str(path)), file_moment(str(path))
    assert identity == {"size": 7, "sha256": hashlib.sha256(b"text\na\n").hexdigest()}
    os.utime(path, (1, 1))
    assert file_identity(str(path)) == identity
    later = file_moment(str(path))
    assert later != moment
    path.write_bytes(b"text\nab\n")
    os.utime(path, (1, 1))
    assert file_moment(str(path)) not in (moment, later)


class OfAStore:
    """A path of universal_pathlib in a store: no os.PathLike, str() is the address."""

    protocol = "s3"

    def __str__(self):
        return "s3://bucket/m.joblib"


class OfThisMachine(os.PathLike):
    """A path object of another library, whose str() is no path."""

    def __fspath__(self):
        return "~/m.joblib"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("~/m.joblib", "{home}/m.joblib"),
        (Path("~/m.joblib"), "{home}/m.joblib"),
        (OfThisMachine(), "{home}/m.joblib"),
        ("a/~/m.joblib", "a/~/m.joblib"),
        ("file:///a%20b/m.joblib", "/a b/m.joblib"),
        ("file://localhost/a/m.joblib", "/a/m.joblib"),
        (Path("file:///a/m.joblib"), "/a/m.joblib"),
        ("file://a/m.joblib", "a/m.joblib"),
        (r"C:\x\m.joblib", r"C:\x\m.joblib"),
        ("C:/x/m.joblib", "C:/x/m.joblib"),
        ("a: b/m.joblib", "a: b/m.joblib"),
        ("./s3:/bucket", "s3:/bucket"),
        ("notes/s3://bucket", "notes/s3:/bucket"),
    ],
)
def test_a_path_of_this_machine_is_a_path(path, expected, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert where(path) == Path(expected.format(home=tmp_path))


@pytest.mark.parametrize(
    "path",
    [
        "s3://bucket/m.joblib",
        "abfs://a@b.dfs.core.windows.net/m",
        "simplecache::s3://b/m",
        "memory://m",
        "foo://m/",
        "s3://",
    ],
)
def test_an_address_stays_as_it_was_written(path):
    assert where(path) == path
    assert where(OfAStore()) == "s3://bucket/m.joblib"


@pytest.mark.parametrize(
    "path", [Path("s3://bucket/a b.joblib"), "s3:/bucket/a b.joblib", r"s3:\bucket\a b.joblib"]
)
def test_an_address_that_lost_a_slash_is_refused_with_the_whole_one(path):
    with pytest.raises(
        ValueError,
        match=rf"^{re.escape(str(path))} is .* lost a slash.* str: 's3://bucket/a b\.joblib'",
    ):
        where(path)


@pytest.mark.parametrize("path", [3, None, b"m.joblib", ["m.joblib"]])
def test_what_is_no_path_is_refused(path):
    with pytest.raises(
        TypeError,
        match=rf"^{re.escape(repr(path))} is a {type(path).__name__}; expected .* str or a Path",
    ):
        where(path)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (Path("a.b/m.joblib"), Path("a.b/m.html")),
        (Path("a.b/m"), Path("a.b/m.html")),
        ("s3://a.b/m.joblib", "s3://a.b/m.html"),
        ("s3://a.b/m", "s3://a.b/m.html"),
    ],
)
def test_a_file_beside_another_has_its_name_with_another_ending(path, expected):
    assert with_ending(path, ".html") == expected


@pytest.mark.parametrize(
    ("called", "expected"),
    [
        ("/lib/pipeline/__main__.py", "python -m pipeline"),
        ("/lib/other/__main__.py", "python run_pipeline.py"),
        ("/lib/pipeline/other.py", "python run_pipeline.py"),
        ("run_pipeline.py", "python run_pipeline.py"),
        ("/bin/bert-vectorizer", "bert-vectorizer"),
        ("/bin/bert-vectorizer.exe", "bert-vectorizer"),
    ],
)
def test_a_message_names_the_command_as_it_was_called(called, expected, monkeypatch):
    monkeypatch.setattr(sys, "argv", [called, "fetch"])
    assert program() == expected


def test_where_the_package_is_installed_the_command_is_the_one_on_the_path(monkeypatch, tmp_path):
    monkeypatch.setattr("pipeline.files.__file__", str(tmp_path / "pipeline" / "files.py"))
    monkeypatch.setattr(sys, "argv", ["server.py"])
    assert program() == "bert-vectorizer"


@pytest.mark.parametrize(
    ("address", "error", "message"),
    [
        (
            "foo://b/m.joblib",
            ValueError,
            "is not an address that fsspec knows: Protocol not known: foo",
        ),
        ("gs://b/m.joblib", ImportError, "cannot be opened: .*gcsfs"),
        ("abfs://b/m.joblib", ImportError, "cannot be opened: .*adlfs"),
    ],
)
def test_a_store_that_cannot_be_opened_is_named_with_what_to_install(address, error, message):
    if error is ImportError and importlib.util.find_spec(message[-5:]):
        pytest.skip(f"{message[-5:]} is installed")
    for use in (
        connect,
        load_pipeline,
        read_table,
        lambda path: write_report({}, path.replace(".joblib", ".html")),
    ):
        with pytest.raises(
            error, match=rf"^{address.removesuffix('joblib')}(joblib|html) {message}"
        ):
            use(address)


@pytest.fixture
def memory():
    """Give the store behind memory:// addresses, with one file in it."""
    system = fsspec.filesystem("memory")
    if system.exists("/store"):
        system.rm("/store", recursive=True)
    system.pipe("/store/a.csv", b"text\n")
    return system


def write(address):
    write_text(address, "")


@pytest.mark.parametrize(
    ("use", "operation", "done"),
    [
        (file_size, "invalidate_cache", "opened"),
        (file_size, "size", "read"),
        (file_moment, "info", "read"),
        (open_binary, "open", "read"),
        (write, "put_file", "written"),
        (check_writable, "pipe_file", "written"),
        (remove, "rm_file", "written"),
        (partial(refuse_folder, example="b"), "isdir", "written"),
    ],
)
def test_where_a_store_fails_the_address_and_the_cause_are_named(
    use, operation, done, memory, monkeypatch
):
    address = "memory://store/a.csv"
    for cause, kind in (
        (ConnectionError("it is broken."), StorageError),
        (PermissionError("it is broken."), PermissionError),
        (FileNotFoundError("it is broken."), FileNotFoundError),
    ):
        monkeypatch.setattr(memory, operation, Mock(side_effect=cause))
        message = rf"{address} cannot be {done} \({type(cause).__name__}: it is broken\)"
        if kind is FileNotFoundError and done == "read":
            message = rf"{address} does not exist"
        if kind is FileNotFoundError and use is remove:
            remove(address)  # it may be gone
        elif kind is PermissionError and operation == "isdir":
            use(address)  # writing may be allowed where listing is not
        else:
            with pytest.raises(kind, match=f"^{message}") as caught:
                use(address)
            assert type(caught.value) is kind


def test_a_text_that_is_written_for_another_file_is_named_by_that(memory, monkeypatch):
    write_text("memory://store/new/m.json", "é\n", named="memory://store/new/m.joblib")
    assert memory.cat("/store/new/m.json") == "é\n".encode()
    monkeypatch.setattr(memory, "put_file", Mock(side_effect=ConnectionError("it is broken")))
    with pytest.raises(StorageError, match=r"^memory://store/m\.joblib cannot be written"):
        write_text("memory://store/m.json", "", named="memory://store/m.joblib")


def test_whether_a_store_can_be_written_is_tried_with_an_empty_file(memory, monkeypatch):
    piped = []
    pipe_file = memory.pipe_file
    monkeypatch.setattr(
        memory, "pipe_file", lambda path, data: piped.append((path, data)) or pipe_file(path, data)
    )
    check_writable("memory://store/new.csv")
    ((path, data),) = piped
    assert re.fullmatch(r"/store/new\.csv\..*\.tmp", path)
    assert data == b""
    assert [own["name"] for own in memory.ls("/store")] == ["/store/a.csv"]
    monkeypatch.setattr(memory, "rm_file", Mock(side_effect=PermissionError))
    check_writable("memory://store/new.csv")  # writing may be allowed where removing is not


@pytest.mark.parametrize("address", ["memory://store", "memory://store/", "memory://new/"])
def test_a_folder_of_a_store_is_told_by_its_contents_or_its_slash(address, memory):
    with pytest.raises(
        IsADirectoryError, match=rf"^{address} is a folder; .* {address.rstrip('/')}/m\.html\."
    ):
        refuse_folder(address, "m.html")
    with fetched(address) as path:
        assert path.is_dir()


def test_a_file_of_an_archive_in_a_store_is_a_file_of_its_own_name(memory):
    with memory.open("/store/in.zip", "wb") as file, zipfile.ZipFile(file, "w") as archive:
        archive.writestr("b.csv", "text\ngood\n")
    address = "zip://b.csv::memory://store/in.zip"
    with fetched(address, "simplecache::memory://store/a.csv") as path:
        assert (path.name, path.read_bytes()) == ("b.csv", b"text\ngood\n")
        assert path.with_name("a.csv").read_bytes() == b"text\n"
    assert not path.parent.exists()
    assert read_table(address)["text"].tolist() == ["good"]


@pytest.mark.parametrize(
    ("known", "version"),
    [
        ({"ETag": "1", "LastModified": "2"}, "1"),
        ({"etag": "1", "mtime": "2"}, "1"),
        ({"md5Hash": "1", "created": "2"}, "1"),
        ({"content_md5": "1", "LastModified": "2"}, "1"),
        ({"sha256": "1", "LastModified": "2"}, "1"),
        ({"ETag": "", "LastModified": 2, "created": 3}, "2"),
        ({"mtime": 2, "created": 3}, "2"),
        ({"created": 3}, "3"),
        ({}, "None"),
    ],
)
def test_a_file_of_a_store_is_known_by_what_the_store_says_of_it(
    known, version, memory, monkeypatch
):
    """S3, Google, Azure, Hugging Face and others: contents before times."""
    monkeypatch.setattr(memory, "info", lambda path: {"name": path, "size": 5, **known})
    assert file_moment("memory://store/a.csv") == ["5", version]
    assert file_identity("memory://store/a.csv") == {"size": 5, "version": version}


# ---- writing here


def test_a_text_is_written_in_utf8_with_unix_lines_into_folders_that_are_made(tmp_path):
    path = tmp_path / "new" / "folder" / "m.json"
    for text in ("é\n東京\n", "\n"):
        write_text(path, text)
        assert path.read_bytes() == text.encode()
        assert [own.name for own in path.parent.iterdir()] == ["m.json"]
    for place in (path, "memory://store/gone"):
        remove(place)
        remove(place)
    assert not path.exists()


def test_a_file_that_is_being_written_has_the_usual_permissions_and_stays_while_others_write(
    tmp_path,
):
    place = tmp_path / "m.joblib"
    killed = tmp_path / ".m.joblib.0123abcd.tmp"
    killed.touch()
    (tmp_path / "usual").touch()
    with temporary_for(place, tidy=False) as one:
        assert one.stat().st_mode == (tmp_path / "usual").stat().st_mode
        assert killed.exists()
        with temporary_for(place) as other:
            assert one != other
            assert one.exists()
            assert not killed.exists()
    assert [own.name for own in tmp_path.iterdir()] == ["usual"]


def test_what_another_process_took_for_abandoned_is_claimed_anew(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")
    flock, claimed = fcntl.flock, []

    def late(handle, kind):
        (own,) = tmp_path.glob(".*.tmp")
        claimed.append(own)
        if len(claimed) == 1:  # another process has the lock, and is about to remove the file
            own.rename(tmp_path / "taken")
            raise BlockingIOError
        if len(claimed) == 2:  # has removed it
            own.unlink()
        flock(handle, kind)

    monkeypatch.setattr(fcntl, "flock", late)
    with temporary_for(tmp_path / "m.joblib") as temporary:
        assert temporary == claimed[2]
        assert temporary.exists()


def test_where_no_file_can_be_made_the_place_is_named_and_not_the_temporary_file(tmp_path):
    (tmp_path / "file").touch()
    place = tmp_path / "file" / "m.joblib"
    with pytest.raises(NotADirectoryError) as caught, temporary_for(place):
        pass
    assert caught.value.filename == str(place)


def test_a_lock_is_free_taken_or_not_there(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")
    path = tmp_path / "lock"
    with path.open("wb") as one, path.open("wb") as other:
        assert lock(one.fileno()) is True
        assert lock(other.fileno()) is False
        monkeypatch.setattr(fcntl, "flock", Mock(side_effect=OSError(errno.ENOLCK, "none")))
        assert lock(other.fileno()) is None


def test_windows_locks_by_a_function_of_its_own(monkeypatch):
    windows = Mock(LK_NBLCK=2)
    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.setitem(sys.modules, "msvcrt", windows)
    assert lock(7) is True
    windows.locking.assert_called_once_with(7, windows.LK_NBLCK, 1)
    windows.locking.side_effect = OSError
    assert lock(7) is False


def test_on_windows_no_file_that_is_renamed_stays_open_and_no_folder_is_opened(
    tmp_path, monkeypatch
):
    place, killed = tmp_path / "m.joblib", tmp_path / ".m.joblib.0123abcd.tmp"
    killed.touch()
    opened = Mock(side_effect=PermissionError)
    with monkeypatch.context() as patch:
        patch.setattr(os, "name", "nt")
        with temporary_for(place) as temporary, temporary.open("rb") as file:
            is_free = lock(file.fileno())
        patch.setattr(os, "open", opened)
        flush_to_disk(tmp_path)
    assert is_free
    assert killed.exists()
    assert not opened.called


def test_a_page_of_the_web_can_be_read_only():
    for address in ("https://example.org/m.html", "HTTP://example.org/m.html"):
        with pytest.raises(StorageError, match=rf"^{address} is read-only"):
            write_report({}, address)


def test_a_pipeline_is_saved_to_any_store_and_opened_from_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(
        ["good", "bad"] * 3, [1, 0] * 3
    )
    address = save_pipeline(model, "memory://models/m.joblib")
    assert address == "memory://models/m.joblib"
    assert load_pipeline(address).predict(["good"]) == [1]
    with pytest.raises(
        IsADirectoryError,
        match=r"^memory://models is a folder; name a file, such as memory://models/sentiment\.joblib",
    ):
        save_pipeline(model, "memory://models")
    assert list(tmp_path.iterdir()) == []


def test_home_is_home_wherever_a_path_is_given(run, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    model = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(
        ["good", "bad"] * 3, [1, 0] * 3
    )
    assert save_pipeline(model, "~/models/m.joblib") == tmp_path / "models" / "m.joblib"
    assert load_pipeline(Path("~/models/m.joblib")).predict(["good"]) == [1]
    assert inspect_pipeline("~/models/m.joblib")["path"] == str(tmp_path / "models" / "m.joblib")
    table = pd.DataFrame({"text": ["good", "bad"] * 2, "label": [1, 0] * 2})
    write_table(table, "~/in.csv")
    assert read_table("~/in.csv")["text"].tolist() == table["text"].tolist()
    assert (
        score_table("~/models/m.joblib", "~/in.csv", "~/scored", text="text").out
        == tmp_path / "scored"
    )
    assert (
        score_table("~/models/m.joblib", ["~/in.csv"], "~/out.csv", text="text").out
        == tmp_path / "out.csv"
    )
    assert write_report(quick_scores(), "~/page.html") == tmp_path / "page.html"
    for command in (
        ("evaluate", "--model", "~/models/m.joblib", "--data", "~/in.csv"),
        (
            "predict",
            "--model",
            "~/models/m.joblib",
            "--data",
            "~/in.csv",
            "--out",
            "~/predicted.csv",
        ),
        ("fetch", DEFAULT_MODEL, "--to", "~/fetched"),
        ("verify", "~/fetched"),
        ("verify", "~/models/m.joblib"),
    ):
        assert run(*command).code == 0
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize(
    "command",
    [
        ("predict", "--data", "in.csv", "--out"),
        ("fetch", DEFAULT_MODEL, "--to"),
        ("layers", "--figures"),
        ("compare", "--figures"),
        ("compare", "--word-vectors"),
    ],
)
def test_where_no_address_will_do_it_is_refused_in_one_voice(
    command, run, artifact, data, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    shutil.copy(data, "in.csv")
    model = ["--pipeline", artifact] if command[0] == "predict" else []
    result = run(*command, "s3://bucket/place", *model)
    assert re.fullmatch(
        r"Error: s3://bucket/place is not a (file|folder) on this machine: .*\n", result.err
    )
    assert result.code == 2


def test_a_cache_is_a_folder_of_this_machine(tiny_bert, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    BertVectorizer(tiny_bert, cache="~/cache").fit_transform(["a film"])
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".sqlite"]
    for address in ("s3://bucket/cache", "memory://cache"):
        with pytest.raises(
            ValueError,
            match=rf"^{address} is not a folder on this machine: the cache is an SQLite file",
        ):
            BertVectorizer(tiny_bert, cache=address).fit_transform(["a film"])
    with pytest.raises(ValueError, match="lost a slash"):
        BertVectorizer(tiny_bert, cache=Path("s3://bucket/cache")).fit_transform(["a film"])
