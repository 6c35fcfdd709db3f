"""Tables, saved pipelines and reports at s3:// addresses, by s3fs from a local moto server."""

import importlib.util
import json
import socket
import subprocess
import sys
import tempfile
import time

import fsspec
import numpy as np
import pandas as pd
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from pipeline import (
    ArtifactError,
    inspect_pipeline,
    load_pipeline,
    load_reviews,
    read_table,
    save_pipeline,
    score_table,
    verify_pipeline,
    write_report,
)
from pipeline.datasets import write_table
from pipeline.exceptions import ArtifactWarning, PlanError, StorageError
from tests.commands import assert_one_error_line
from tests.reporting import quick_scores

TEXTS = [f"{'a lovely' if i % 3 else 'a dull'} film, number {i}" for i in range(40)]
LIFE = 600  # seconds after which the server stops by itself

SERVER = (
    "import os, sys, threading; from moto.server import main\n"
    f"threading.Timer({LIFE}, os._exit, (0,)).start()\n"
    "main(['-H', '127.0.0.1', '-p', sys.argv[1]])\n"
)


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
    """Start an S3 server; give an address in a bucket with two Parquet files and a gzipped CSV."""
    for package in ("s3fs", "moto", "flask"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: pip install s3fs 'moto[server]'")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("moto") / "log"
    with pytest.MonkeyPatch.context() as patch, log.open("wb") as output:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        server = subprocess.Popen(
            [sys.executable, "-c", SERVER, str(port)], stdout=output, stderr=subprocess.STDOUT
        )
        try:
            _wait_for(port, server, log)
            yield _filled("s3://reviews/2026")
        finally:
            server.kill()
            server.wait()


def _wait_for(port, server, log):
    end = time.monotonic() + 60
    while time.monotonic() < end and server.poll() is None:
        with socket.socket() as asked:
            if asked.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise RuntimeError(f"moto's server did not start:\n{log.read_text()}")


def _filled(address):
    fsspec.filesystem("s3").mkdir("reviews")
    table = pd.DataFrame({"id": range(40), "text": TEXTS})
    table[:15].to_parquet(f"{address}/a.parquet", index=False)
    table[15:].to_parquet(f"{address}/b.parquet", index=False)
    table.to_csv(f"{address}/all.csv.gz", index=False)
    return address


def stored(address):
    return sorted(
        name.rpartition("/")[2] for name in fsspec.filesystem("s3").ls(address, refresh=True)
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    train, _ = load_reviews()
    fitted = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(
        train["text"], train["label"]
    )
    return save_pipeline(fitted, tmp_path_factory.mktemp("model") / "tfidf.joblib")


@pytest.fixture
def expected(model, tmp_path):
    source = pd.DataFrame({"id": range(40), "text": TEXTS})
    score_table(model, source, tmp_path / "local", text="text")
    return pd.read_parquet(tmp_path / "local")


@pytest.mark.parametrize("name", ["", "/*.parquet", "/all.csv.gz"])
def test_a_table_in_a_bucket_gets_the_labels_of_a_local_one(
    name, bucket, model, expected, tmp_path
):
    scored = score_table(
        model,
        f"{bucket}{name}",
        tmp_path / "out",
        text="text",
        shard_rows=16,
        executor="processes",
        workers=2,
    )
    assert (scored.n_rows, scored.n_parts) == (40, 3)
    found = pd.read_parquet(tmp_path / "out").astype({"id": int})
    pd.testing.assert_frame_equal(found, expected)


def test_an_object_that_was_replaced_is_another_table_and_one_that_was_not_goes_on(
    bucket, model, tmp_path
):
    address = f"{bucket}-changing.parquet"
    pd.DataFrame({"text": TEXTS}).to_parquet(address)
    score_table(model, address, tmp_path / "out", text="text", shard_rows=16)
    (tmp_path / "out" / "part-000001.parquet").unlink()
    assert score_table(model, address, tmp_path / "out", text="text", shard_rows=16).n_skipped == 24
    pd.DataFrame({"text": TEXTS[::-1]}).to_parquet(address)
    fsspec.filesystem("s3").invalidate_cache()
    with pytest.raises(PlanError, match=r"holds another run: the source \(other contents\)"):
        score_table(model, address, tmp_path / "out", text="text", shard_rows=16)


# ---- saved pipelines


def classifier(C=1.0):
    train, _ = load_reviews()
    return make_pipeline(TfidfVectorizer(), LogisticRegression(C=C)).fit(
        train["text"][:60], train["label"][:60]
    )


@pytest.fixture
def no_temporary_files(tmp_path, monkeypatch):
    """Fail where a file for temporary use is left behind."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("format", ["joblib", "skops"])
def test_a_pipeline_is_saved_to_a_bucket_and_opened_from_it(
    format, bucket, tmp_path, monkeypatch, no_temporary_files
):
    monkeypatch.chdir(tmp_path)
    address = f"{bucket}/{format}/new/m.{format}"
    model = classifier()
    assert save_pipeline(model, address, format=format) == address
    assert stored(f"{bucket}/{format}/new") == [f"m.{format}", f"m.{format}.json"]
    assert not (tmp_path / "s3:").exists()
    np.testing.assert_array_equal(
        load_pipeline(address).predict_proba(TEXTS), model.predict_proba(TEXTS)
    )
    assert verify_pipeline(address)["probes"]["difference"] == 0
    found = inspect_pipeline(address)
    assert (found["path"], found["format"], found["manifest"]["file"]) == (
        address,
        format,
        f"m.{format}",
    )


def test_a_bert_pipeline_from_a_bucket_says_what_it_said_here(bucket, fitted, no_temporary_files):
    loaded = load_pipeline(save_pipeline(fitted, f"{bucket}/bert.joblib"))
    np.testing.assert_array_equal(loaded.predict_proba(TEXTS[:8]), fitted.predict_proba(TEXTS[:8]))


def test_at_every_upload_a_reader_finds_a_pair_and_a_saver_that_dies_leaves_one(
    bucket, monkeypatch
):
    address = f"{bucket}/replaced.joblib"
    save_pipeline(classifier(1.0), address)
    system = fsspec.filesystem("s3")
    put, seen = system.put_file, []

    def watched(*arguments, **options):
        put(*arguments, **options)
        seen.append(load_pipeline(address)[-1].C)

    monkeypatch.setattr(system, "put_file", watched)
    save_pipeline(classifier(2.0), address)
    assert seen == [1.0, 2.0, 2.0]
    for dies_at in range(3):
        left = [dies_at]

        def dying(*arguments, left=left, **options):
            if not left[0]:
                raise ConnectionError("the cable was pulled")
            left[0] -= 1
            put(*arguments, **options)

        monkeypatch.setattr(system, "put_file", dying)
        with pytest.raises(
            StorageError,
            match=rf"{address} cannot be written \(ConnectionError: the cable was pulled\)",
        ):
            save_pipeline(classifier(3.0 + dies_at), address)
        assert load_pipeline(address)[-1].C in (2.0, 3.0, 4.0, 5.0)


def test_a_file_that_had_no_manifest_is_replaced_and_one_without_is_opened_with_a_warning(
    bucket, model
):
    address = f"{bucket}/bare.joblib"
    fsspec.filesystem("s3").put_file(str(model), address)
    with pytest.warns(ArtifactWarning, match=rf"^{address} has no manifest \(bare\.joblib\.json\)"):
        load_pipeline(address)
    save_pipeline(classifier(), address)
    load_pipeline(address)


@pytest.mark.parametrize("opened", [load_pipeline, verify_pipeline])
def test_a_damaged_object_is_refused_by_its_address(opened, bucket, no_temporary_files):
    address = save_pipeline(classifier(), f"{bucket}/damaged.joblib")
    system = fsspec.filesystem("s3")
    system.pipe_file(address, system.cat_file(address)[:-1])
    with pytest.raises(
        ArtifactError,
        match=rf"^{address} is not the file that was saved: .* as damaged\.joblib\.json says",
    ):
        opened(address)


@pytest.mark.parametrize("opened", [load_pipeline, verify_pipeline, inspect_pipeline, read_table])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.csv", "does not exist"),
        ("", "is a folder, not a file"),
        ("/", "is a folder, not a file"),
    ],
)
def test_what_is_not_in_the_bucket_is_named_as_it_was_written(name, message, opened, bucket):
    address = f"{bucket}/{name}" if name.strip("/") else f"{bucket}{name}"
    with pytest.raises(FileNotFoundError, match=rf"^{address} {message}"):
        opened(address)


@pytest.mark.parametrize("name", ["", "/", "/new/"])
def test_a_folder_of_a_bucket_is_no_place_for_a_file(name, bucket):
    with pytest.raises(
        IsADirectoryError,
        match=rf"^{bucket}{name} is a folder; name a file, such as {bucket}.*/sentiment\.joblib",
    ):
        save_pipeline(classifier(), f"{bucket}{name}")
    with pytest.raises(
        IsADirectoryError, match=r"is a folder; name a file, such as s3://reviews/sentiment\.joblib"
    ):
        save_pipeline(classifier(), "s3://reviews")


def test_a_bucket_that_is_not_there_and_a_store_that_cannot_be_reached_are_named(
    bucket, monkeypatch
):
    with pytest.raises(
        FileNotFoundError,
        match=r"^s3://nowhere/m\.joblib cannot be written \(.*bucket does not exist",
    ):
        save_pipeline(classifier(), "s3://nowhere/m.joblib")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "none")
    monkeypatch.setenv("AWS_CONFIG_FILE", "none")
    type(fsspec.filesystem("s3")).clear_instance_cache()
    try:
        with pytest.raises(
            StorageError,
            match=rf"^{bucket}/m\.joblib cannot be written \(NoCredentialsError: .*Check",
        ):
            save_pipeline(classifier(), f"{bucket}/m.joblib")
        with pytest.raises(
            StorageError, match=rf"^{bucket}/m\.joblib cannot be read \(NoCredentialsError"
        ):
            load_pipeline(f"{bucket}/m.joblib")
    finally:
        type(fsspec.filesystem("s3")).clear_instance_cache()


def test_a_model_in_a_bucket_scores_as_a_local_one(bucket, model, expected, tmp_path):
    address = f"{bucket}/scoring.joblib"
    for ending in ("", ".json"):
        fsspec.filesystem("s3").put_file(f"{model}{ending}", f"{address}{ending}")
    score_table(
        address,
        bucket,
        tmp_path / "out",
        text="text",
        shard_rows=16,
        executor="processes",
        workers=2,
    )
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "out"), expected)
    with pytest.raises(FileNotFoundError, match=rf"^{bucket}/none\.joblib does not exist"):
        score_table(f"{bucket}/none.joblib", bucket, tmp_path / "none", text="text")


# ---- tables and reports


def test_tables_are_read_and_written(bucket):
    table = pd.DataFrame({"id": range(40), "text": TEXTS})
    assert read_table(f"{bucket}/all.csv.gz", columns=["text"])["text"].tolist() == TEXTS
    for name in ("out.csv", "out.parquet"):
        write_table(table, f"{bucket}/written/{name}")
        assert read_table(f"{bucket}/written/{name}")["text"].tolist() == TEXTS
    with pytest.raises(ValueError, match=rf"^{bucket}/all\.csv\.gz has no column 'texts'"):
        read_table(f"{bucket}/all.csv.gz", columns=["texts"])


def test_a_report_goes_to_a_bucket(bucket, no_temporary_files):
    page = write_report(quick_scores(), f"{bucket}/reports/page.html")
    assert page == f"{bucket}/reports/page.html"
    assert stored(f"{bucket}/reports") == ["page.html", "page.json"]
    assert fsspec.filesystem("s3").cat_file(page).startswith(b"<!DOCTYPE html>")
    with pytest.raises(
        IsADirectoryError,
        match=rf"^{bucket}/reports is a folder; name a file, such as .*/report\.html",
    ):
        write_report(quick_scores(), f"{bucket}/reports")


# ---- commands


def test_train_reads_from_a_bucket_and_leaves_model_and_report_there(
    bucket, run, data, tiny_bert, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    source, out = f"{bucket}/train/reviews.csv", f"{bucket}/trained/m.joblib"
    fsspec.filesystem("s3").put_file(str(data), source)
    result = run("train --no-ngrams --cv 0", data=source, bert=tiny_bert, out=out)
    assert (result.code, result.err) == (0, "")
    assert f"Saved {out} (" in result.out
    assert f"Wrote {bucket}/trained/m.html, a report for the browser, and m.json" in result.out
    assert stored(f"{bucket}/trained") == ["m.html", "m.joblib", "m.joblib.json", "m.json"]
    assert [path.name for path in tmp_path.iterdir()] == ["reviews.csv"]
    told = json.loads(fsspec.filesystem("s3").cat_file(f"{bucket}/trained/m.json"))
    assert told["provenance"]["artifact"]["sha256"] == verify_pipeline(out)["sha256"]
    assert told["provenance"]["held_out_texts"]["source"] == source
    for command in (
        ("verify", out),
        ("inspect", out),
        ("predict", "--pipeline", out, "--text", "good"),
        ("evaluate", "--pipeline", out, "--data", source),
        ("explain", "--pipeline", out, "--text", "good"),
    ):
        assert run(*command).code == 0
    assert run("report", pipeline=out, data=source).code == 0


@pytest.mark.parametrize(
    "arguments",
    [["train", "--out"], ["report", "--out"], ["compare", "--out"], ["layers", "--out"]],
    ids=lambda one: one[0],
)
def test_a_store_that_takes_nothing_is_refused_before_any_work(
    arguments, bucket, run, monkeypatch, data
):
    def refuse(*_, **__):
        raise PermissionError("Access Denied")

    monkeypatch.setattr(fsspec.filesystem("s3"), "pipe_file", refuse)
    address = f"{bucket}/denied.{'html' if arguments[0] == 'report' else 'csv'}"
    result = run(*arguments, address, "--data", data)
    assert_one_error_line(result, f"{address} cannot be written (PermissionError: Access Denied)")
    assert result.out == ""


@pytest.mark.parametrize("command", ["train", "evaluate", "compare", "layers", "report"])
def test_every_command_names_the_table_that_is_not_in_the_bucket(command, bucket, run, artifact):
    model = ["--pipeline", artifact] if command in ("evaluate", "report") else []
    result = run(
        command,
        "--data",
        f"{bucket}/none.csv",
        *model,
        *(["--out", f"{bucket}/m.html"] if command == "report" else []),
    )
    assert_one_error_line(result, f"{bucket}/none.csv does not exist")
