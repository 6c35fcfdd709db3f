"""Where a path points, for everybody who takes one; how files are told from others."""

import hashlib
import importlib.util
import os
import re
import shutil
from pathlib import Path

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
from pipeline.files import connect, file_identity, file_moment, file_size, open_binary, where
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
    assert file_moment(str(path)) != moment


class OfAStore:
    """A path of universal_pathlib in a store: no os.PathLike, str() is the address."""

    protocol = "s3"

    def __str__(self):
        return "s3://bucket/m.joblib"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("~/m.joblib", "{home}/m.joblib"),
        (Path("~/m.joblib"), "{home}/m.joblib"),
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


@pytest.mark.parametrize("path", [Path("s3://bucket/a b.joblib"), "s3:/bucket/a b.joblib"])
def test_an_address_that_lost_a_slash_is_refused_with_the_whole_one(path):
    with pytest.raises(
        ValueError,
        match=r"s3:/bucket/a b\.joblib is .* lost a slash.*as a str: 's3://bucket/a b\.joblib'",
    ):
        where(path)


@pytest.mark.parametrize("path", [3, None, b"m.joblib", ["m.joblib"]])
def test_what_is_no_path_is_refused(path):
    with pytest.raises(TypeError, match=r"expected a path, as a str or a Path"):
        where(path)


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
