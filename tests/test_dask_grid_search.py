"""GridSearchCV on a Dask cluster: the scores of one process, no text encoded twice."""

import os
from functools import partial
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from pipeline import BertVectorizer, cache_info
from tests.dask_cluster import cluster_by_hand

distributed = pytest.importorskip(
    "distributed", reason="distributed is not installed: pip install '.[dask]'"
)

TEXTS = [f"{'a fine' if i % 2 else 'a bad'} movie {' and'.join(str(i))} {i}" for i in range(40)]
LABELS = [i % 2 for i in range(40)]
GRID = {"bertvectorizer__layers": [-1, "all"], "logisticregression__C": [0.1, 1.0]}


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    with (
        cluster_by_hand(tmp_path_factory.mktemp("cluster")) as address,
        distributed.Client(address) as client,
    ):
        client.wait_for_workers(2, timeout=60)
        yield client


def counted_score(model, X, y, *, log):
    """Score as GridSearchCV does, and note what this process has encoded so far."""
    with Path(log).open("a") as file:
        file.write(f"{os.getpid()} {cache_info().texts_encoded}\n")
    return model.score(X, y)


def encoded(log):
    """Return how many texts each process has encoded, and forget it."""
    lines = [list(map(int, line.split())) for line in log.read_text().splitlines()]
    log.unlink()
    return pd.DataFrame(lines, columns=["process", "texts"]).groupby("process")["texts"].max()


def search(model, cache, log):
    steps = make_pipeline(BertVectorizer(model, cache=cache), LogisticRegression())
    return GridSearchCV(
        steps, GRID, cv=3, scoring=partial(counted_score, log=str(log)), refit=False
    )


@pytest.mark.thorough
def test_a_grid_search_on_a_cluster_gives_the_scores_of_one_process_and_shares_the_encodings(
    client, tiny_bert, tmp_path
):
    log = tmp_path / "log"
    alone = search(tiny_bert, "memory", log).fit(TEXTS, LABELS)
    log.unlink()
    cache = str(tmp_path / "cache")
    with joblib.parallel_config("dask"):
        first = search(tiny_bert, cache, log).fit(TEXTS, LABELS)
        by_process = encoded(log)
        again = search(tiny_bert, cache, log).fit(TEXTS, LABELS)
        in_all = encoded(log)
    for found in (first, again):
        np.testing.assert_array_equal(
            found.cv_results_["mean_test_score"], alone.cv_results_["mean_test_score"]
        )
    assert os.getpid() not in by_process.index
    assert by_process.max() <= len(TEXTS)  # of 12 fits: no worker encodes a text twice
    assert by_process.sum() >= len(TEXTS)
    assert (
        in_all.sub(by_process, fill_value=0).sum() == 0
    )  # the second search finds all of them in the folder
