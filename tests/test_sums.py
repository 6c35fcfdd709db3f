"""explain takes whole models apart: stacks, unions, calibration, n-grams beside BERT."""

import re

import numpy as np
import pandas as pd
import pytest
import rich.console
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import make_column_transformer
from sklearn.ensemble import StackingClassifier, VotingClassifier
from sklearn.feature_extraction.text import (
    CountVectorizer,
    HashingVectorizer,
    TfidfTransformer,
    TfidfVectorizer,
)
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.model_selection import FixedThresholdClassifier, GridSearchCV
from sklearn.multiclass import OneVsRestClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, MaxAbsScaler, Normalizer, StandardScaler
from sklearn.svm import LinearSVC

from pipeline import BertVectorizer, explain, load_pipeline, save_pipeline
from pipeline.exceptions import ExplanationError
from tests.commands import run  # noqa: F401  (fixture)
from tests.conftest import CORPUS

TEXTS = [f"{text} {more}" for text in CORPUS for more in ("Lovely!", "so dull, so dull")]
TWO = ["good" if i % 2 else "bad" for i in range(len(TEXTS))]
THREE = [("bad", "good", "so-so")[i % 3] for i in range(len(TEXTS))]
NEW = ["A lovely, unbelievably dull film!", "", "ÜBERRASCHEND 東京", "İstanbul, so  so", TEXTS[0]]


def check_sums(model, X, decisions=None, tolerance=1e-5, **options):
    """Add everything up; return the frames."""
    frames = explain(model, X, **options)
    decisions = model.decision_function(X) if decisions is None else decisions
    for frame, decision in zip(frames, np.reshape(decisions, (len(frames), -1)), strict=True):
        assert frame.attrs["method"] == "exact"
        names = [name for name in frame.columns if name.startswith("contribution")]
        total = frame[names].sum().to_numpy() + np.ravel(frame.attrs["intercept"])
        assert total == pytest.approx(decision, abs=tolerance)
        assert np.ravel(frame.attrs["decision"]) == pytest.approx(decision, abs=tolerance)
        for name in names:
            ending = name.removeprefix("contribution")
            parts = [f"{part}{ending}" for part in frame.attrs.get("parts", [])]
            if parts:
                assert frame[parts].sum(axis=1).to_numpy() == pytest.approx(frame[name], abs=1e-9)
    return frames


def assert_equal(frames, others):
    for ours, theirs in zip(frames, others, strict=True):
        assert ours.equals(theirs)
        assert ours.attrs == theirs.attrs


def words(bert, **options):
    return make_pipeline(BertVectorizer(bert), LogisticRegression(**options))


def stack(bert, final=None, **options):
    ngrams = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    parts = [("bert", words(bert)), ("ngrams", make_pipeline(ngrams, LogisticRegression()))]
    options = {"stack_method": "decision_function", "cv": 3} | options
    return StackingClassifier(parts, final or LogisticRegression(), **options)


# ---- any model of these kinds


def lowered(texts):
    return [re.sub(r"\s+", " ", text).lower() for text in texts]


def berts(folder):
    return st.builds(
        BertVectorizer,
        st.just(folder),
        layers=st.sampled_from([-1, (0, 2), "all"]),
        combine=st.sampled_from(["concat", "mean"]),
    )


ANALYZERS = {
    "analyzer": st.sampled_from(["word", "char", "char_wb"]),
    "ngram_range": st.sampled_from([(1, 1), (1, 2), (2, 3)]),
    "lowercase": st.booleans(),
    "strip_accents": st.sampled_from([None, "unicode", "ascii"]),
    "binary": st.booleans(),
    "norm": st.sampled_from([None, "l2", "l1"]),
}
COUNTS = st.builds(CountVectorizer, token_pattern=st.sampled_from([r"(?u)\b\w+\b", r"(\w)\w*"]))
NGRAMS = st.one_of(
    st.builds(TfidfVectorizer, sublinear_tf=st.booleans(), **ANALYZERS),
    st.builds(HashingVectorizer, n_features=st.sampled_from([4, 2**11]), **ANALYZERS),
    st.builds(make_pipeline, COUNTS, st.sampled_from([TfidfTransformer(), Normalizer()])),
)


@st.composite
def features(draw, folder):
    """Draw a block of features, with a step behind it or not, or several."""
    blocks = st.one_of(berts(folder), NGRAMS)
    steps = st.sampled_from([MaxAbsScaler(), StandardScaler(with_mean=False), "passthrough"])
    n = draw(st.integers(1, 2))
    parts = [(f"part{i}", clone(make_pipeline(draw(blocks), draw(steps)))) for i in range(n)]
    weights = draw(st.sampled_from([None, {"part0": 0.5}]))
    return parts[0][1] if n == 1 else FeatureUnion(parts, transformer_weights=weights)


@st.composite
def models(draw, folder):
    """Draw a pipeline or a stack of two."""
    logistic = LogisticRegression(C=0.1, max_iter=10**4)
    lasts = [
        logistic,
        LinearSVC(C=0.1, max_iter=10**5),
        RidgeClassifier(),
        OneVsRestClassifier(logistic),
        GridSearchCV(logistic, {"C": [0.1]}, cv=2),
    ]
    front = draw(st.sampled_from([FunctionTransformer(lowered), FunctionTransformer()]))
    one, other = (
        clone(make_pipeline(front, draw(features(folder)), draw(st.sampled_from(lasts))))
        for _ in range(2)
    )
    both = [("one", one), ("other", other)]
    options = {"stack_method": "decision_function", "cv": 2}
    return draw(st.sampled_from([one, StackingClassifier(both, logistic, **options)]))


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data(), labels=st.sampled_from([TWO, THREE]))
def test_the_parts_of_any_model_add_up(data, labels, tiny_bert):
    model = data.draw(models(tiny_bert)).fit(TEXTS, labels)
    for baseline in ("mean", "zero"):
        check_sums(model, NEW, baseline=baseline)


# ---- the kinds


@pytest.mark.parametrize("labels", [TWO, THREE], ids=["two", "three"])
def test_a_stack_has_a_column_for_each_of_its_parts(labels, tiny_bert, tmp_path):
    model = Pipeline([("stack", stack(tiny_bert))]).fit(TEXTS, labels)
    frames = check_sums(model, NEW)
    assert frames[0].attrs["parts"] == ["bert", "ngrams"]
    columns = frames[0].columns.tolist()
    if labels is TWO:
        assert columns == ["word", "start", "end", "contribution", "bert", "ngrams"]
    else:
        assert columns[6:] == [f"{part}_{label}" for part in ("bert", "ngrams")
                               for label in ("bad", "good", "so-so")]  # fmt: skip
    loaded = load_pipeline(save_pipeline(model, tmp_path / "m.joblib"))
    assert_equal(frames, explain(loaded, NEW))


def test_the_parts_of_a_stack_are_the_decisions_of_its_models(tiny_bert):
    model = stack(tiny_bert).fit(TEXTS, TWO)
    slopes = model.final_estimator_.coef_[0]
    for frame, text in zip(explain(model, NEW, baseline="zero"), NEW, strict=True):
        for (name, part), slope in zip(model.named_estimators_.items(), slopes, strict=True):
            without = part.decision_function([text])[0] - part[-1].intercept_[0]
            assert frame[name].sum() == pytest.approx(slope * without, abs=1e-5)


def test_ngrams_are_their_values_times_their_weights_and_shared_by_their_words(tiny_bert):
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), stop_words=["the"])
    model = make_pipeline(vectorizer, LogisticRegression()).fit(TEXTS, TWO)
    text = "So dull, so the dull film"
    (frame,) = check_sums(model, [text])
    found = pd.DataFrame(frame.attrs["ngrams"])
    row = vectorizer.transform([text]).toarray()[0] * model[-1].coef_[0]
    for ngram, column in vectorizer.vocabulary_.items():
        own = found[found["ngram"] == ngram]["contribution"].sum()
        assert own == pytest.approx(row[column], abs=1e-12)
    places = [(one["ngram"], text[one["start"] : one["end"]]) for one in frame.attrs["ngrams"]]
    assert ("so dull", "So dull") in places
    assert ("so dull", "so the dull") in places  # the stop word between them has no part of it
    told = frame.set_index("word")["contribution"]
    assert frame["word"].tolist() == ["So", "dull", ",", "so", "the", "dull", "film"]
    assert told["the"] == told[","] == 0
    share = {ngram: own["contribution"].tolist() for ngram, own in found.groupby("ngram")}
    first = share["so"][0] + share["so dull"][0] / 2
    assert told["So"] == pytest.approx(first)


@pytest.mark.parametrize("ngrams", [
    TfidfVectorizer(token_pattern=r"\S+", strip_accents="unicode"),
    CountVectorizer(tokenizer=str.split, token_pattern=None),
    HashingVectorizer(token_pattern=r"\S+"),
])  # fmt: skip
def test_places_are_those_of_the_text_as_given(ngrams):
    model = make_pipeline(FunctionTransformer(lowered), ngrams, LogisticRegression())
    model.fit(["überraschend i̇stanbul don't dull", "lovely film"], [1, 0])
    text = "  Überraschend \t İstanbul  DON'T"
    (frame,) = check_sums(model, [text])
    places = [text[one["start"] : one["end"]] for one in frame.attrs["ngrams"]]
    assert places == ["Überraschend", "İstanbul", "DON'T"]
    assert "".join(frame["word"]) == "ÜberraschendİstanbulDON'T"


def test_ngrams_of_a_users_own_analyzer_have_a_row_of_their_own(tiny_bert):
    union = FeatureUnion([("bert", BertVectorizer(tiny_bert)),
                          ("own", CountVectorizer(analyzer=str.split))])  # fmt: skip
    model = make_pipeline(union, LogisticRegression()).fit(TEXTS, TWO)
    (frame,) = check_sums(model, NEW[:1])
    assert frame["word"].tolist()[-2:] == ["[SEP]", "(own)"]
    assert not frame["own"].iloc[:-1].any()
    assert frame["own"].iloc[-1]


def test_words_that_bert_does_not_see_have_their_ngrams(tiny_bert):
    union = FeatureUnion([("bert", BertVectorizer(tiny_bert, max_length=4)),
                          ("ngrams", TfidfVectorizer())])  # fmt: skip
    model = make_pipeline(union, LogisticRegression())
    with pytest.warns(UserWarning, match="cut"):
        model.fit(TEXTS, TWO)
    with pytest.warns(UserWarning, match="cut"):
        (frame,) = check_sums(model, [TEXTS[4]])
    late = frame.set_index("word").loc["waiter"]
    assert late["bert"] == 0
    assert late["ngrams"] != 0
    assert frame["start"].is_monotonic_increasing


def cleaned_up(texts):
    return [text.replace("n't", " not").replace("<br>", " ") for text in texts]


def test_words_of_a_cleaned_text_stand_where_they_were(tiny_bert):
    model = make_pipeline(FunctionTransformer(cleaned_up), *words(tiny_bert)).fit(TEXTS, TWO)
    text = "A film.<br>I didn't care"
    (frame,) = check_sums(model, [text])
    assert [text[row.start : row.end] for row in frame.iloc[1:-1].itertuples()] == [
        "A", "film", ".", "I", "didn't", "care",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("container", "clean"),
    [
        (list, lowered),
        (pd.Series, lambda texts: texts.str.lower()),
        (np.array, np.char.lower),
        (lambda texts: pd.DataFrame({"t": texts}), lambda table: table["t"].str.lower()),
    ],
    ids=["list", "series", "array", "frame"],
)
@pytest.mark.parametrize("last", [LogisticRegression(), GaussianNB()])
def test_a_cleaning_step_gets_the_container_that_it_is_used_to(container, clean, last, tiny_bert):
    model = make_pipeline(FunctionTransformer(clean), BertVectorizer(tiny_bert), last)
    X = container(NEW[:1])
    (frame,) = explain(model.fit(container(TEXTS), TWO), X)
    assert frame.attrs["method"] == ("occlusion" if isinstance(last, GaussianNB) else "exact")
    decision = getattr(model, "decision_function", lambda X: model.predict_proba(X)[:, 1])(X)
    assert frame.attrs["decision"] == pytest.approx(decision[0], abs=1e-5)
    assert {"A", "lovely", "unbelievably"} < set(frame["word"])


@pytest.mark.parametrize("ensemble", [True, False])
@pytest.mark.parametrize("labels", [TWO, THREE], ids=["two", "three"])
@pytest.mark.parametrize("around", ["everything", "the last step", "a stack"])
def test_of_a_calibrated_model_the_decision_before_is_explained(
    around, labels, ensemble, tiny_bert
):
    options = {"cv": 2, "ensemble": ensemble}
    model = {
        "everything": CalibratedClassifierCV(words(tiny_bert), **options),
        "the last step": make_pipeline(
            BertVectorizer(tiny_bert), CalibratedClassifierCV(LogisticRegression(), **options)
        ),
        "a stack": CalibratedClassifierCV(stack(tiny_bert, cv=2), **options),
    }[around].fit(TEXTS, labels)
    whole = model[-1] if around == "the last step" else model
    X = model[:-1].transform(NEW) if around == "the last step" else NEW
    members = [one.estimator.decision_function(X) for one in whole.calibrated_classifiers_]
    frames = check_sums(model, NEW, np.mean(members, axis=0))
    assert frames[0].attrs["uncalibrated"]


def test_members_of_an_ensemble_encode_each_text_once(tiny_bert, monkeypatch):
    model = CalibratedClassifierCV(words(tiny_bert), cv=3).fit(TEXTS, TWO)
    expected, calls = explain(model, NEW), []
    shares = BertVectorizer.token_shares

    def counted(self, X, *arguments):
        calls.append(len(X))
        return shares(self, X, *arguments)

    monkeypatch.setattr(BertVectorizer, "token_shares", counted)
    assert_equal(explain(model, NEW), expected)
    assert calls == [len(NEW)]


def test_columns_beside_the_text_are_in_the_intercept(tiny_bert):
    frame = pd.DataFrame({"text": TEXTS, "title": TEXTS[::-1], "stars": range(len(TEXTS))})
    front = make_column_transformer(
        (BertVectorizer(tiny_bert), "text"),
        (TfidfVectorizer(), "text"),
        (TfidfVectorizer(), "title"),
        (StandardScaler(), ["stars"]),
    )
    model = make_pipeline(front, LogisticRegression()).fit(frame, TWO)
    for text, n_parts in (("text", 2), ("title", 0)):
        frames = check_sums(model, frame, text=text)
        assert len(frames[0].attrs.get("parts", [])) == n_parts
        assert len({frame.attrs["intercept"] for frame in frames}) > 1


def test_a_union_of_two_encoders_has_the_words_of_both(model_folder, tiny_bert):
    union = FeatureUnion([("one", BertVectorizer(tiny_bert)),
                          ("other", BertVectorizer(model_folder("roberta"))),
                          ("same", BertVectorizer(tiny_bert, layers=0))])  # fmt: skip
    model = make_pipeline(union, LogisticRegression()).fit(TEXTS, TWO)
    frames = check_sums(model, NEW)
    assert frames[0]["word"].tolist()[1:8] == ["A", "lovely", ",", "unbelievably", "dull", "film",
                                               "!"]  # fmt: skip
    assert frames[0][["one", "other", "same"]].iloc[1:8].all(axis=None)


def test_a_threshold_changes_no_explanation(tiny_bert):
    plain = words(tiny_bert).fit(TEXTS, TWO)
    model = FixedThresholdClassifier(FrozenEstimator(plain), threshold=0.9).fit(TEXTS, TWO)
    assert_equal(check_sums(model, NEW), explain(plain, NEW))


@pytest.mark.parametrize("votes", ["soft voting", "stacked probabilities"])
def test_what_is_no_sum_is_told_and_its_words_are_left_out(votes, tiny_bert):
    ngrams = make_pipeline(TfidfVectorizer(), LogisticRegression())
    parts = [("bert", words(tiny_bert)), ("ngrams", ngrams)]
    model = {
        "soft voting": VotingClassifier(parts, voting="soft"),
        "stacked probabilities": StackingClassifier(parts, cv=2, stack_method="predict_proba"),
    }[votes].fit(TEXTS, TWO)
    with pytest.raises(ExplanationError, match=r"Use method='occlusion'"):
        explain(model, NEW, method="exact")
    frames = explain(model, NEW)
    assert frames[0].attrs["method"] == "occlusion"
    assert type(model).__name__ in frames[0].attrs["reason"]


# ---- contrast


def test_beside_the_mean_text_the_intercept_is_its_decision(tiny_bert):
    model = words(tiny_bert, C=10).fit(TEXTS, TWO)
    mean = model[0].transform(TEXTS).mean(axis=0, keepdims=True)
    frames = check_sums(model, TEXTS)
    assert frames[0].attrs["intercept"] == pytest.approx(
        model[-1].decision_function(mean)[0], abs=1e-5
    )
    assert sum(frame["contribution"].sum() for frame in frames) == pytest.approx(0, abs=1e-4)
    for near, plain in zip(frames, explain(model, TEXTS, baseline="zero"), strict=True):
        taken_off = near["contribution"] - plain["contribution"]
        per_token = taken_off.iloc[0]  # [CLS] is one token
        assert (taken_off / per_token).round(3).isin(range(1, 40)).all()


def test_without_the_mean_as_in_older_files_nothing_is_compared_with(tiny_bert):
    vectorizer = BertVectorizer(tiny_bert).fit(TEXTS)
    assert not hasattr(vectorizer, "mean_")
    classifier = LogisticRegression().fit(vectorizer.transform(TEXTS), TWO)
    model = make_pipeline(vectorizer, classifier)
    frames = check_sums(model, NEW)
    assert frames[0].attrs["baseline"] == "zero"
    assert frames[0].attrs["intercept"] == pytest.approx(classifier.intercept_[0])


@pytest.mark.parametrize("method", ["exact", "occlusion"])
def test_of_many_classes_the_first_is_compared_with_the_second(method, tiny_bert):
    model = stack(tiny_bert).fit(TEXTS, THREE)
    each = explain(model, NEW, method=method)
    for frame, whole in zip(
        explain(model, NEW, method=method, against="runner-up"), each, strict=True
    ):
        second, first = frame.attrs["classes"]
        decision = dict(zip(whole.attrs["classes"], whole.attrs["decision"], strict=True))
        assert sorted(decision, key=decision.get)[1:] == [second, first]
        assert frame.attrs["decision"] == pytest.approx(decision[first] - decision[second])
        expected = whole[f"contribution_{first}"] - whole[f"contribution_{second}"]
        assert frame["contribution"].to_numpy() == pytest.approx(expected.to_numpy())
    with pytest.raises(ValueError, match="against='bad'; allowed are None and 'runner-up'"):
        explain(model, NEW, against="bad")


# ---- on the command line


@pytest.mark.parametrize("labels", [TWO, THREE], ids=["two", "three"])
def test_the_command_tells_the_parts_and_the_rival(labels, tiny_bert, run, tmp_path, monkeypatch):  # noqa: F811
    model = Pipeline([("stack", stack(tiny_bert))]).fit(TEXTS, labels)
    path = save_pipeline(model, tmp_path / "m.joblib")
    (frame,) = explain(model, [TEXTS[0]], against="runner-up")
    arguments = ("explain", "--pipeline", path, "--text", TEXTS[0])
    *rows, _, decision = (line.split("\t") for line in run(*arguments).out.splitlines())
    assert [row[0] for row in rows] == frame["word"].tolist()
    for name, column in zip(("contribution", "bert", "ngrams"), (3, 4, 5), strict=True):
        assert [float(row[column]) for row in rows] == pytest.approx(frame[name].tolist(), abs=1e-4)
    assert float(decision[3]) == pytest.approx(frame.attrs["decision"], abs=1e-4)
    monkeypatch.setattr(rich.console.Console, "is_terminal", property(lambda self: True))
    told = " ".join(run(*arguments).out.split())  # a terminal breaks lines
    assert all(str(name) in told for name in (*frame.attrs["classes"], "bert", "ngrams"))
    (words,) = re.findall(r"strongest: (.*?);", told)
    assert not {"'[CLS]'", "'[SEP]'", "'.'", "','"} & set(words.split())
