"""A run of score_table, and the life of a pipeline, in any order of what is done to them.

`HYPOTHESIS_PROFILE=soak` (`make soak`) tries many orders instead of a few.
"""

import io
import pickle
import shutil
import tempfile
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from pipeline import BertVectorizer, clear_cache, load_pipeline, save_pipeline, score_table
from pipeline.exceptions import BadRowError, PlanError
from pipeline.scoring.run_folder import RunFolder
from tests.conftest import CORPUS
from tests.fault_loops import faults, in_child, struck
from tests.soak import try_orders

LABELS = ["good", "bad", "bad", "good", "good", "good"]
WORDS = ["a lovely film", "a dull film", "the soup", "Paris", "", "two hours of my life"]


def fitted(model, C):
    vectorizer = BertVectorizer(model, device="cpu", cache=None)
    return make_pipeline(vectorizer, LogisticRegression(C=C)).fit(CORPUS, LABELS)


class ScoringMachine(RuleBasedStateMachine):
    """Runs into one folder, stopped anywhere, against predict_proba of the whole table."""

    model: str

    @initialize()
    def start(self):
        self.top = Path(tempfile.mkdtemp())
        self.out = self.top / "out"
        self.models = [fitted(self.model, C) for C in (0.1, 10.0)]
        self.paths = [self.top / f"{i}.joblib" for i in range(2)]
        for model, path in zip(self.models, self.paths, strict=True):
            save_pipeline(model, path)
        self.which, self.texts, self.begun = 0, WORDS[:3], None
        self.options = {"shard_rows": 2, "on_bad_row": "error"}

    def asked(self):
        """Give what decides the bytes of the output."""
        return self.which, tuple(self.texts), self.options["shard_rows"]

    def score(self):
        texts = pd.Series(self.texts, dtype="str")
        table = pd.DataFrame({"text": texts, "row": range(len(texts))})
        score_table(
            self.paths[self.which], table, self.out, text="text", progress=False, **self.options
        )

    @rule(which=st.integers(0, 1))
    def another_model(self, which):
        self.which = which

    @rule(texts=st.lists(st.sampled_from([*WORDS, None]), max_size=5))
    def another_source(self, texts):
        self.texts = texts

    @rule(shard_rows=st.integers(1, 3), on_bad_row=st.sampled_from(["error", "null"]))
    def other_options(self, shard_rows, on_bad_row):
        self.options = {"shard_rows": shard_rows, "on_bad_row": on_bad_row}

    def holds_another(self):
        """Say whether the folder has the plan of another run."""
        return (self.out / "_run" / "plan.json").exists() and self.begun != self.asked()

    @precondition(lambda self: not self.holds_another())
    @rule(fault=faults(st.integers(1, 60)))
    def run_and_be_struck(self, fault):
        self.begun = self.asked()
        in_child(partial(struck, self.top, fault, self.score))

    @rule()
    def run(self):
        if self.holds_another():
            with pytest.raises(PlanError, match="holds another run"):
                self.score()
            return
        self.begun = self.asked()
        if None in self.texts and self.options["on_bad_row"] == "error":
            with pytest.raises(BadRowError, match=f"row {self.texts.index(None)} "):
                self.score()
            return
        self.score()
        assert (self.out / "_SUCCESS").exists()
        self.the_output_is_right()

    @precondition(lambda self: self.out.exists())
    @rule()
    def a_second_driver_comes_too_early(self):
        with RunFolder(self.out).locked(), pytest.raises(BlockingIOError, match=str(self.out)):
            self.score()

    @precondition(lambda self: list(self.out.glob("part-*.parquet")))
    @rule(data=st.data())
    def lose_a_part(self, data):
        parts = sorted(self.out.glob("part-*.parquet"))
        data.draw(st.sampled_from(parts)).write_bytes(b"PAR1, and nothing more")

    @rule()
    def begin_anew(self):
        shutil.rmtree(self.out, ignore_errors=True)

    def the_output_is_right(self):
        found = pd.read_parquet(self.out) if self.texts else pd.DataFrame({"row": []})
        assert found["row"].tolist() == list(range(len(self.texts)))
        which, texts, _ = self.begun
        rows = [i for i, text in enumerate(texts) if text is not None]
        expected = self.models[which].predict_proba([texts[i] for i in rows]) if rows else []
        columns = [f"probability_{name}" for name in self.models[which].classes_]
        if rows:
            assert np.allclose(found.loc[rows, columns], expected, atol=1e-5)
            assert found.loc[rows, "label"].notna().all()
        assert found.drop(index=rows).get("label", pd.Series(dtype=str)).isna().all()

    def teardown(self):
        shutil.rmtree(self.top)


class LifeMachine(RuleBasedStateMachine):
    """A pipeline that is changed, copied and stored, against one fitted from scratch."""

    model: str
    texts = WORDS
    known: ClassVar[dict[str, np.ndarray]] = {}

    @initialize()
    def start(self):
        self.top = Path(tempfile.mkdtemp())
        self.params = {"layers": -1, "pooling": "mean", "dtype": "auto", "C": 1.0}
        self.fitted_with = None
        self.pipeline = make_pipeline(
            BertVectorizer(self.model, device="cpu", pooling="mean"), LogisticRegression()
        )

    def expected(self):
        """Give what a pipeline says that is fitted from scratch, once for the same parameters."""
        key = repr(sorted(self.fitted_with.items(), key=str))
        if key not in self.known:
            own = {name: value for name, value in self.fitted_with.items() if name != "C"}
            vectorizer = BertVectorizer(self.model, device="cpu", cache=None, **own)
            plain = make_pipeline(vectorizer, LogisticRegression(C=self.fitted_with["C"]))
            self.known[key] = plain.fit(CORPUS, LABELS).predict_proba(self.texts)
        return self.known[key]

    @rule(
        layers=st.sampled_from([0, 1, 2, -1, -2, [0, 3], "all"]),
        pooling=st.sampled_from(["cls", "mean", "max"]),
        C=st.sampled_from([0.1, 1.0, 10.0]),
    )
    def set_params(self, layers, pooling, C):
        self.params |= {"layers": layers, "pooling": pooling, "C": C}
        self.fitted_with = None  # nobody may predict before the next fit
        self.pipeline.set_params(
            bertvectorizer__layers=layers, bertvectorizer__pooling=pooling, logisticregression__C=C
        )

    @rule(device=st.sampled_from(["cpu", "auto"]), dtype=st.sampled_from(["auto", "float32"]))
    def another_device(self, device, dtype):
        self.params["dtype"] = dtype
        self.pipeline.set_params(bertvectorizer__device=device, bertvectorizer__dtype=dtype)

    @rule(cache=st.sampled_from([None, "memory", "folder"]))
    def another_cache(self, cache):
        place = str(self.top / "cache") if cache == "folder" else cache
        self.pipeline.set_params(bertvectorizer__cache=place)

    @rule()
    def fit(self):
        self.pipeline.fit(CORPUS, LABELS)
        self.fitted_with = dict(self.params)

    @rule()
    def clone(self):
        self.pipeline, self.fitted_with = clone(self.pipeline), None

    @rule()
    def pickle(self):
        self.pipeline = pickle.load(io.BytesIO(pickle.dumps(self.pipeline)))

    @precondition(lambda self: self.fitted_with)
    @rule(format=st.sampled_from(["joblib", "skops"]))
    def save_and_load(self, format):
        path = self.top / f"model.{format}"
        save_pipeline(self.pipeline, path, format=format)
        self.pipeline = load_pipeline(path)

    @rule()
    def forget(self):
        clear_cache()

    @invariant()
    def it_says_what_one_fitted_from_scratch_says(self):
        if self.fitted_with is not None:
            found = self.pipeline.predict_proba(self.texts)
            assert np.allclose(found, self.expected(), atol=1e-4)

    def teardown(self):
        shutil.rmtree(self.top)


@pytest.mark.parametrize("machine", [ScoringMachine, LifeMachine])
def test_any_order_of_what_is_done_agrees_with_a_plain_reference(machine, tiny_bert):
    machine.model = tiny_bert
    try_orders(machine, few=8, many=500, steps=12)
