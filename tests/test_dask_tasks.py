"""What a Dask worker is asked before its first shard, and what is made of the answer."""

import os
import pickle

import pytest

from pipeline.saved.manifest import installed_versions
from pipeline.scoring.dask_executor import check_versions, has_resources, introduce
from pipeline.scoring.shard import Shard


def test_a_worker_says_who_it_is_and_keeps_its_tokenizers_to_its_threads(monkeypatch):
    monkeypatch.setenv("RAYON_NUM_THREADS", "3")
    assert set(introduce(2)) == {"host", *installed_versions()}
    monkeypatch.delenv("RAYON_NUM_THREADS")
    introduce(2)

    assert os.environ["RAYON_NUM_THREADS"] == "2"


def test_the_same_environment_is_taken_and_another_refused_with_all_that_differs():
    there = introduce(1)
    check_versions("tcp://10.0.0.5:4000", there)
    check_versions(
        "tcp://10.0.0.5:4000", {**there, "joblib": "1.0", "python": there["python"] + "9"}
    )  # a later bug fix
    other = {**there, "torch": "1.13.0", "python": "2.7.18", "host": "old"}
    with pytest.raises(
        ValueError,
        match=r"4000 on old has python 2.7.18 there and 3\S+ here, torch 1.13.0 there and \S+ here",
    ):
        check_versions("tcp://10.0.0.5:4000", other)


def test_resources_are_those_that_a_worker_was_started_with():
    assert has_resources({"resources": {}}, {})
    assert has_resources({"resources": {"GPU": 2.0}}, {"GPU": 1})
    assert not has_resources({"resources": {"GPU": 1.0}}, {"GPU": 1, "big": 1})


def test_what_travels_to_a_worker_is_small():
    assert len(pickle.dumps((introduce, Shard(0, "folder/" * 20, 0, 2048, 10**9)))) < 500
