"""score_table on a Dask cluster: the bytes of the serial executor, also over kills and reruns."""

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time

import pandas as pd
import pytest
from sklearn.compose import make_column_transformer
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from pipeline import BertVectorizer, DaskExecutor, save_pipeline, score_table
from tests.dask_cluster import cluster_by_hand
from tests.slow_and_deadly import TRUSTED, deadly, slowly

pytestmark = pytest.mark.filterwarnings(
    "ignore:load_pipeline will refuse:pipeline.exceptions.ArtifactWarning"
)

distributed = pytest.importorskip(
    "distributed", reason="distributed is not installed: pip install '.[dask]'"
)

SHARD_ROWS = 10
TABLE = pd.DataFrame(
    {
        "text": [f"{'a fine' if i % 3 else 'a bad'} movie number {i}" for i in range(400)],
        "n": range(400),
    }
)


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    with cluster_by_hand(tmp_path_factory.mktemp("cluster"), ["", "--resources GPU=1"]) as address:
        yield address


def saved(step, folder):
    """Save a pipeline of a step of ours, TF-IDF and a classifier."""
    model = make_pipeline(FunctionTransformer(step), TfidfVectorizer(), LogisticRegression())
    model.fit(TABLE["text"][:60], ["yes" if i % 3 else "no" for i in range(60)])
    return save_pipeline(model, folder / "model.joblib")


def score(model, out, executor, *, table=TABLE, shard_rows=SHARD_ROWS, on_bad_row="error"):
    return score_table(
        model,
        table,
        out,
        text="text",
        executor=executor,
        shard_rows=shard_rows,
        trusted=TRUSTED,
        on_bad_row=on_bad_row,
    )


def bytes_of(out):
    """Return the hash of every file of the output; what a run keeps for itself is no output."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in out.iterdir()
        if path.is_file()
    }


@pytest.mark.thorough
def test_several_columns_and_several_labels_have_the_bytes_of_one_process(address, tmp_path):
    front = make_column_transformer((TfidfVectorizer(), "text"), (StandardScaler(), ["n"]))
    model = make_pipeline(front, OneVsRestClassifier(LogisticRegression()))
    model.fit(TABLE, [[i % 2, i % 3 == 0] for i in range(400)])
    path = save_pipeline(model, tmp_path / "m.joblib", probes=TABLE[:3])
    outs = [
        score(path, tmp_path / name, executor)
        for name, executor in (("one", "serial"), ("many", address))
    ]
    assert bytes_of(outs[0].out) == bytes_of(outs[1].out)
    assert outs[0].columns[:4] == ["label_0", "label_1", "probability_0", "probability_1"]


def wait_for_parts(out, n):
    end = time.monotonic() + 60
    while len(list(out.glob("part-*.parquet"))) < n:
        assert time.monotonic() < end
        time.sleep(0.01)


def test_bert_on_two_workers_gives_the_bytes_of_the_serial_executor(
    address, tiny_bert, tmp_path, capsys, run
):
    model = make_pipeline(BertVectorizer(tiny_bert, layers="all"), LogisticRegression())
    model.fit(TABLE["text"][:60], [i % 3 > 0 for i in range(60)])
    path = save_pipeline(model, tmp_path / "model.joblib")
    score(path, tmp_path / "serial", "serial")
    found = score(path, tmp_path / "dask", address)
    assert (found.n_rows, found.n_bad, found.n_parts, found.n_skipped) == (400, 0, 40, 0)
    assert bytes_of(tmp_path / "dask") == bytes_of(tmp_path / "serial")
    assert "Dask dashboard: http://127.0.0.1:" in capsys.readouterr().err

    TABLE.to_parquet(tmp_path / "table.parquet", index=False)
    data, out = tmp_path / "table.parquet", tmp_path / "shell"
    options = {"shard_rows": SHARD_ROWS, "scheduler": address, "resources": "GPU=1"}
    assert run("predict", model=path, data=data, out=out, **options).code == 0
    shell, serial = (pd.read_parquet(tmp_path / name) for name in ("shell", "serial"))
    pd.testing.assert_frame_equal(shell, serial)


@pytest.mark.thorough
def test_workers_and_driver_are_killed_and_a_rerun_gives_the_bytes_of_the_serial_executor(
    address, tmp_path
):
    model = saved(slowly, tmp_path)
    out = tmp_path / "dask"
    code = "from tests.test_dask_scoring import *; import sys; score(*sys.argv[1:4])"
    driver = subprocess.Popen(
        [sys.executable, "-c", code, model, out, address], stderr=subprocess.DEVNULL
    )
    wait_for_parts(out, 6)
    kill_a_worker(address)
    wait_for_parts(out, 15)
    driver.kill()
    driver.wait()
    assert not (out / "_SUCCESS").exists()

    def kill_in_the_middle():
        wait_for_parts(out, 25)
        kill_a_worker(address)

    killer = threading.Thread(target=kill_in_the_middle)
    killer.start()
    found = score(model, out, DaskExecutor(address))
    killer.join()
    assert 140 <= found.n_skipped < 400
    score(model, tmp_path / "serial", "serial")
    assert bytes_of(out) == bytes_of(tmp_path / "serial")
    assert pd.read_parquet(out)["n"].tolist() == list(range(400))
    assert score(model, out, address).n_skipped == 400  # and now there is nothing left to do


def kill_a_worker(address):
    with distributed.Client(address, set_as_default=False) as client:
        client.wait_for_workers(2, timeout=30)
        pid = next(iter(client.run(os.getpid).values()))
    os.kill(pid, signal.SIGKILL)


def test_a_row_that_kills_workers_is_found_and_marked_and_no_other_row_is_lost(address, tmp_path):
    model = saved(deadly, tmp_path)
    found = score(
        model, tmp_path / "out", address, table=TABLE[116:130], shard_rows=2, on_bad_row="null"
    )
    labelled = pd.read_parquet(tmp_path / "out").set_index("n")
    assert (found.n_rows, found.n_bad, labelled.index.tolist()) == (14, 1, list(range(116, 130)))
    assert labelled.index[labelled["label"].isna()].tolist() == [123]
    assert labelled["label_error"][123] == "it kills the process that scores it"


def test_a_model_that_workers_do_not_see_is_a_matter_of_shared_storage(address, tmp_path):
    model = saved(slowly, tmp_path)
    hidden = tmp_path / "elsewhere.joblib"

    class Hiding(DaskExecutor):
        """As if the driver alone saw the file."""

        def __enter__(self):
            model.rename(hidden)
            return super().__enter__()

    with pytest.raises(
        FileNotFoundError, match=r"model\.joblib.*on storage that every worker and this process see"
    ):
        score(model, tmp_path / "out", Hiding(address))
