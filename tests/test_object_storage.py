"""Tables at s3:// addresses, by s3fs from moto's server on the loopback interface: the same labels as from local files."""

import importlib.util
import socket
import subprocess
import sys
import time

import pandas as pd
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from pipeline import PlanError, load_reviews, save_pipeline, score_table
from tests.commands import assert_one_error_line

TEXTS = [f"{'a lovely' if i % 3 else 'a dull'} film, number {i}" for i in range(40)]
LIFE = 120  # seconds after which the server stops by itself

SERVER = (
    "import os, sys, threading; from moto.server import main\n"
    f"threading.Timer({LIFE}, os._exit, (0,)).start()\n"
    "main(['-H', '127.0.0.1', '-p', sys.argv[1]])\n"
)


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
    """Start a server that speaks S3; give an address in a bucket, with two Parquet files and a gzipped CSV file."""
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
        server = subprocess.Popen([sys.executable, "-c", SERVER, str(port)], stdout=output, stderr=subprocess.STDOUT)
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
    import fsspec

    fsspec.filesystem("s3").mkdir("reviews")
    table = pd.DataFrame({"id": range(40), "text": TEXTS})
    table[:15].to_parquet(f"{address}/a.parquet", index=False)
    table[15:].to_parquet(f"{address}/b.parquet", index=False)
    table.to_csv(f"{address}/all.csv.gz", index=False)
    return address


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    train, _ = load_reviews()
    fitted = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(train["text"], train["label"])
    return save_pipeline(fitted, tmp_path_factory.mktemp("model") / "tfidf.joblib")


@pytest.fixture
def expected(model, tmp_path):
    source = pd.DataFrame({"id": range(40), "text": TEXTS})
    score_table(model, source, tmp_path / "local", text="text")
    return pd.read_parquet(tmp_path / "local")


@pytest.mark.parametrize("name", ["", "/*.parquet", "/all.csv.gz"])
def test_a_table_in_a_bucket_gets_the_labels_of_a_local_one(name, bucket, model, expected, tmp_path):
    scored = score_table(model, f"{bucket}{name}", tmp_path / "out", text="text", shard_rows=16, executor="processes", workers=2)
    assert (scored.n_rows, scored.n_parts) == (40, 3)
    found = pd.read_parquet(tmp_path / "out").astype({"id": int})
    pd.testing.assert_frame_equal(found, expected)


def test_an_object_that_was_replaced_is_another_table_and_one_that_was_not_goes_on(bucket, model, tmp_path):
    import fsspec

    address = f"{bucket}-changing.parquet"
    pd.DataFrame({"text": TEXTS}).to_parquet(address)
    score_table(model, address, tmp_path / "out", text="text", shard_rows=16)
    (tmp_path / "out" / "part-000001.parquet").unlink()
    assert score_table(model, address, tmp_path / "out", text="text", shard_rows=16).n_skipped == 24
    pd.DataFrame({"text": TEXTS[::-1]}).to_parquet(address)
    fsspec.filesystem("s3").invalidate_cache()
    with pytest.raises(PlanError, match=r"holds another run: the source \(other contents\)"):
        score_table(model, address, tmp_path / "out", text="text", shard_rows=16)


def test_predict_takes_an_address_and_says_what_is_not_there(bucket, model, run, tmp_path):
    result = run("predict", "--model", model, "--data", bucket, "--out", tmp_path / "out.csv")
    assert (result.code, result.err) == (0, "")
    assert "Wrote 40 rows" in result.out
    assert pd.read_csv(tmp_path / "out.csv")["text"].tolist() == TEXTS
    lost = run("predict", "--model", model, "--data", f"{bucket}/none.csv", "--out", tmp_path / "lost.csv")
    assert_one_error_line(lost, f"{bucket}/none.csv does not exist")
    assert not (tmp_path / "lost.csv").exists()
