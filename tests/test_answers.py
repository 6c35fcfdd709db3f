"""The label is what predict says, for every classifier; of several labels each is scored."""

import warnings

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import VotingClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import (
    LogisticRegression,
    Perceptron,
    Ridge,
    RidgeClassifier,
    SGDClassifier,
)
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    brier_score_loss,
    confusion_matrix,
    f1_score,
    hamming_loss,
    log_loss,
    multilabel_confusion_matrix,
    precision_recall_fscore_support,
    roc_auc_score,
)
from sklearn.model_selection import (
    FixedThresholdClassifier,
    GridSearchCV,
    StratifiedKFold,
    TunedThresholdClassifierCV,
    cross_val_score,
)
from sklearn.multiclass import OneVsRestClassifier, OutputCodeClassifier
from sklearn.multioutput import ClassifierChain, MultiOutputClassifier
from sklearn.naive_bayes import BernoulliNB, GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler
from sklearn.svm import SVC, LinearSVC
from sklearn.utils import all_estimators

from pipeline import (
    BertVectorizer,
    compare,
    evaluate,
    inspect_pipeline,
    load_pipeline,
    save_pipeline,
    score_table,
    write_report,
)
from pipeline.answers import ask
from pipeline.exceptions import LabelWarning, LeakWarning

WORDS = {
    "good": ("lovely", "quiet", "warm"),
    "bad": ("dull", "cold", "loud"),
    "so-so": ("plain", "usual", "old"),
}
TEXTS = [
    f"A {WORDS[label][i % 3]} {WORDS[other][i % 2]} film, number {i % 11}."
    for i, (label, other) in enumerate(
        zip(list(WORDS) * 20, ["bad", "good", "good", "so-so"] * 15, strict=True)
    )
]
LABELS = list(WORDS) * 20
BINARY = ["good" if label == "good" else "bad" for label in LABELS]


class Wary(ClassifierMixin, BaseEstimator):
    """A classifier with a reject option: its least sure answers are not one of its classes."""

    def __init__(self, other="unsure"):
        self.other = other

    def fit(self, X, y):
        self.inner_ = LogisticRegression(C=10).fit(X, y)
        self.classes_ = self.inner_.classes_
        self.least_ = np.quantile(self.predict_proba(X).max(axis=1), 0.2)
        return self

    def predict_proba(self, X):
        return self.inner_.predict_proba(X)

    def predict(self, X):
        probability = self.predict_proba(X)
        labels = self.classes_[probability.argmax(axis=1)].astype(object)
        labels[probability.max(axis=1) < self.least_] = self.other
        return labels


class Costly(ClassifierMixin, BaseEstimator):
    """A classifier that answers the last class unless another one is far more likely."""

    def fit(self, X, y):
        self.inner_ = LogisticRegression().fit(X, y)
        self.classes_ = self.inner_.classes_
        return self

    def predict_proba(self, X):
        return self.inner_.predict_proba(X)

    def predict(self, X):
        return self.classes_[
            (self.predict_proba(X) * np.linspace(0.3, 1, len(self.classes_))).argmax(axis=1)
        ]


def classifiers():
    """Return every scikit-learn classifier with defaults that gives probabilities."""
    found = []
    for name, kind in all_estimators("classifier"):
        if name == "CategoricalNB" or {"estimator", "estimators"} & set(
            kind._parameter_constraints
        ):
            continue  # it takes categories only; the others cannot be made without knowing more
        settings = {"reg_param": 0.1} if name == "QuadraticDiscriminantAnalysis" else {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if hasattr(kind(**settings), "predict_proba"):
                found.append(pytest.param(kind(**settings), id=name))
    return [
        *found,
        pytest.param(
            FixedThresholdClassifier(LogisticRegression(), threshold=0.8), id="fixed threshold"
        ),
        pytest.param(
            FixedThresholdClassifier(LinearDiscriminantAnalysis(), threshold=0.2, pos_label="bad"),
            id="other class",
        ),
        pytest.param(TunedThresholdClassifierCV(LogisticRegression(), cv=3), id="tuned threshold"),
        pytest.param(CalibratedClassifierCV(LogisticRegression(), cv=3), id="calibrated"),
        pytest.param(OneVsRestClassifier(LogisticRegression()), id="one-vs-rest"),
        pytest.param(Costly(), id="costs"),
        pytest.param(Wary(), id="reject option"),
        pytest.param(Wary(other=None), id="reject by None"),
    ]


# what some classifiers say of 60 short texts, and of their own future, is of no interest here
quiet = pytest.mark.filterwarnings(
    "ignore::FutureWarning",
    "ignore::UserWarning",
    "ignore::RuntimeWarning",
    "ignore::pipeline.exceptions.LabelWarning",
)
pytestmark = pytest.mark.filterwarnings(
    f"ignore::{ConvergenceWarning.__module__}.{ConvergenceWarning.__name__}",
    "ignore:load_pipeline will refuse:pipeline.exceptions.ArtifactWarning",
)


@pytest.fixture(scope="module")
def fit(tiny_bert):
    """Give a function that fits a classifier to a few non-negative features of BERT."""

    def fit_to_features(classifier, y, texts=TEXTS):
        return make_pipeline(
            BertVectorizer(tiny_bert), PCA(6), MinMaxScaler(), clone(classifier)
        ).fit(texts, y)

    return fit_to_features


@quiet
@pytest.mark.parametrize("classifier", classifiers())
def test_evaluate_scores_the_labels_of_predict(classifier, fit):
    model = fit(classifier, BINARY)
    predicted, truth = model.predict(TEXTS), np.array(BINARY)
    scores = evaluate(model, TEXTS, BINARY, n_bootstrap=20)
    assert scores["accuracy"] == accuracy_score(
        truth.astype(object), predicted.astype(object).astype(str)
    )
    assert scores["balanced_accuracy"] == pytest.approx(
        np.mean([np.mean(predicted[truth == c] == c) for c in ("bad", "good")])
    )
    assert scores["f1"] == pytest.approx(
        f1_score(truth == "good", predicted == "good", zero_division=0)
    )
    counted = np.array(scores["confusion_matrix"])
    assert counted.sum() == len(TEXTS)
    assert counted.trace() == np.sum(truth == predicted)
    assert {one["row"] for one in scores["mistakes"]} <= set(
        np.flatnonzero(truth != predicted).tolist()
    )
    assert all(
        one["predicted"] == predicted[one["row"]]
        for one in scores["mistakes"] + scores["map"]["points"]
    )
    assert sum(
        group["n_texts"] * group["accuracy"] for group in scores["slices"]["by tokens"]
    ) == pytest.approx(np.sum(truth == predicted))


@quiet
@pytest.mark.parametrize(
    ("classifier", "y"),
    [
        pytest.param(
            FixedThresholdClassifier(LogisticRegression(), threshold=0.8),
            BINARY,
            id="fixed threshold",
        ),
        pytest.param(
            TunedThresholdClassifierCV(LogisticRegression(), cv=3), BINARY, id="tuned threshold"
        ),
        pytest.param(SVC(C=0.01, probability=True, random_state=0), BINARY, id="SVC"),
        pytest.param(BernoulliNB(), LABELS, id="naive Bayes"),
        pytest.param(KNeighborsClassifier(4), LABELS, id="neighbours"),
        pytest.param(OneVsRestClassifier(LogisticRegression()), LABELS, id="one-vs-rest"),
        pytest.param(Wary(), LABELS, id="reject option"),
        pytest.param(Wary(other=None), LABELS, id="reject by None"),
        pytest.param(Wary(other=-1), np.arange(60) % 3, id="reject among integers"),
        pytest.param(Costly(), np.arange(60) % 2 == 0, id="costs, boolean labels"),
    ],
)
def test_a_scored_table_holds_the_labels_of_predict(classifier, y, fit, tmp_path):
    model = fit(classifier, y)
    path = save_pipeline(model, tmp_path / "model.joblib")
    scored = score_table(
        path,
        pd.DataFrame({"text": TEXTS}),
        tmp_path / "out.parquet",
        text="text",
        shard_rows=25,
        trusted=inspect_pipeline(path)["refused"],
    )
    found = pd.read_parquet(scored.out)
    assert (
        found["label"].astype(object).where(found["label"].notna(), None).tolist()
        == model.predict(TEXTS).tolist()
    )
    columns = [f"probability_{label}" for label in model.classes_]
    assert np.allclose(found[columns], model.predict_proba(TEXTS), atol=1e-5)


def test_a_label_that_does_not_fit_the_column_is_a_bad_row_with_the_reason(fit, tmp_path):
    model = fit(Wary(other="unsure"), np.arange(60) % 3)
    path, expected = save_pipeline(model, tmp_path / "model.joblib"), model.predict(TEXTS)
    with pytest.warns(LabelWarning):
        scored = score_table(
            path,
            pd.DataFrame({"text": TEXTS}),
            tmp_path / "out.csv",
            text="text",
            on_bad_row="null",
            trusted=inspect_pipeline(path)["refused"],
        )
    found = pd.read_csv(scored.out)
    assert scored.n_bad == np.sum(expected == "unsure") > 0
    assert found["label"].isna().tolist() == (expected == "unsure").tolist()
    assert found["label_error"].dropna().str.contains("'unsure' is not a class").all()


@quiet
def test_compare_scores_the_labels_of_predict(fit):
    tuned = make_pipeline(
        TfidfVectorizer(), FixedThresholdClassifier(LogisticRegression(), threshold=0.7)
    )
    folds = StratifiedKFold(3, shuffle=True, random_state=0)
    table = compare(
        TEXTS,
        BINARY,
        models=[("tuned", tuned), ("wary", make_pipeline(TfidfVectorizer(), Wary()))],
        cv=folds,
        n_timed=0,
    )
    assert table.loc["tuned", "accuracy"] == pytest.approx(
        cross_val_score(tuned, TEXTS, BINARY, cv=folds).mean()
    )
    by_fold = []
    for train, test in folds.split(TEXTS, BINARY):
        fitted = make_pipeline(TfidfVectorizer(), Wary()).fit(
            np.array(TEXTS)[train], np.array(BINARY)[train]
        )
        by_fold.append(np.mean(fitted.predict(np.array(TEXTS)[test]) == np.array(BINARY)[test]))
    assert table.loc["wary", "accuracy"] == pytest.approx(np.mean(by_fold))


def test_a_contradiction_is_said_once_with_its_number_and_probabilities_are_judged_by_themselves(
    fit,
):
    plain = fit(LogisticRegression(), BINARY)
    tuned = fit(FixedThresholdClassifier(LogisticRegression(), threshold=0.8), BINARY)
    n_others = int(np.sum(tuned.predict(TEXTS) != plain.predict(TEXTS)))
    assert n_others
    with pytest.warns(LabelWarning, match=rf"does not give {n_others} of 60 texts") as told:
        scores = evaluate(tuned, TEXTS, BINARY, n_bootstrap=20)
    assert len(told) == 1
    assert scores["n_not_most_probable"] == n_others
    reference = evaluate(plain, TEXTS, BINARY, n_bootstrap=20)  # and here nothing is said
    for name in (
        "log_loss",
        "brier",
        "roc_auc",
        "average_precision",
        "calibration_error",
        "calibration",
        "curves",
    ):
        assert scores[name] == reference[name]
        assert scores["intervals"].get(name) == reference["intervals"].get(name)
    assert reference["n_not_most_probable"] == 0


def test_a_label_beside_the_classes_is_always_wrong_has_no_probability_and_a_column_of_its_own(fit):
    model = fit(Wary(), LABELS)
    with pytest.warns(LabelWarning):
        scores = evaluate(model, TEXTS, LABELS, n_mistakes=60, n_bootstrap=20)
    assert scores["classes"] == ["bad", "good", "so-so", "unsure"]
    predicted = model.predict(TEXTS)
    expected = confusion_matrix(LABELS, predicted.astype(str), labels=scores["classes"])
    assert scores["confusion_matrix"] == expected.tolist()
    assert scores["log_loss"] == pytest.approx(log_loss(LABELS, model.predict_proba(TEXTS)))
    refused = [one for one in scores["mistakes"] if one["predicted"] == "unsure"]
    assert len(refused) == np.sum(predicted == "unsure")
    assert all(one["probability"] is None for one in refused)


SEVERAL = np.column_stack(
    [np.arange(60) % 2, np.arange(60) % 3 == 0, np.arange(60) % 5 == 0]
).astype(int)


@quiet
@pytest.mark.parametrize(
    "classifier",
    [
        pytest.param(OneVsRestClassifier(LogisticRegression()), id="one-vs-rest"),
        pytest.param(MLPClassifier((4,), max_iter=20), id="MLP"),
        pytest.param(MultiOutputClassifier(LogisticRegression()), id="multi-output"),
        pytest.param(ClassifierChain(LogisticRegression()), id="chain"),
        pytest.param(KNeighborsClassifier(), id="neighbours"),
        *(
            pytest.param(kind(), id=name)
            for name, kind in all_estimators("classifier")
            if name in ("RandomForestClassifier", "ExtraTreeClassifier")
        ),
    ],
)
def test_several_labels_per_text_are_scored_each_and_together(classifier, fit):
    model = fit(classifier, SEVERAL)
    given = SEVERAL[::-1]
    scores = evaluate(model, TEXTS, given, n_bootstrap=20, n_mistakes=2, n_examples=1)
    predicted, said = model.predict(TEXTS), model.predict_proba(TEXTS)
    if isinstance(said, list):
        said = np.stack([one[:, 1] for one in said], axis=1)
    expected = {
        "accuracy": accuracy_score(given, predicted),
        "micro_f1": f1_score(given, predicted, average="micro", zero_division=0),
        "macro_f1": f1_score(given, predicted, average="macro", zero_division=0),
        "hamming_loss": hamming_loss(given, predicted),
        "roc_auc": roc_auc_score(given, said, average="macro"),
        "average_precision": average_precision_score(given, said, average="macro"),
        "log_loss": np.mean([log_loss(given[:, i], said[:, i]) for i in range(3)]),
        "brier": np.mean([brier_score_loss(given[:, i], said[:, i]) for i in range(3)]),
    }
    assert {name: scores[name] for name in expected} == pytest.approx(expected)
    low, high = scores["intervals"]["micro_f1"]
    assert low <= scores["micro_f1"] <= high
    assert (scores["classes"], scores["not_scored"]) == (["0", "1", "2"], {})
    matrix = multilabel_confusion_matrix(given, predicted)
    assert scores["confusion_matrix"] == matrix.tolist()
    columns = precision_recall_fscore_support(given, predicted, zero_division=0)
    names = ("precision", "recall", "f1", "n_texts")
    for row, *values in zip(scores["by_class"], *columns, strict=True):
        assert [row[name] for name in names] == pytest.approx(values)
    for one in scores["mistakes"]:
        row = one["row"]
        assert one["true"] == [str(i) for i in np.flatnonzero(given[row])]
        assert one["predicted"] == [str(i) for i in np.flatnonzero(predicted[row])]
        assert (one["label"] in one["true"]) != (one["label"] in one["predicted"])
        assert one["explanation"]["words"]
    with pytest.raises(ValueError, match=r"labels? per text"):
        evaluate(model, TEXTS, SEVERAL[:, 0])
    with pytest.raises(ValueError, match="several labels per text"):
        ask(model, TEXTS)


@quiet
@pytest.mark.parametrize(
    ("classifier", "n_labels"),
    [
        (MultiOutputClassifier(LinearSVC()), 1),
        (MultiOutputClassifier(LinearSVC()), 2),
        (RidgeClassifier(), 2),
    ],
)
def test_two_labels_of_a_text_are_no_two_classes(classifier, n_labels, fit, tmp_path):
    y = SEVERAL[:, :n_labels]
    model = fit(classifier, y)
    scores = evaluate(model, TEXTS, 1 - y, n_bootstrap=5, n_mistakes=2)
    assert np.shape(scores["confusion_matrix"]) == (n_labels, 2, 2)
    assert all(one["explanation"]["words"] for one in scores["mistakes"])
    assert write_report(scores, tmp_path / "page.html").exists()


@quiet
@pytest.mark.parametrize("kind", [OneVsRestClassifier, MultiOutputClassifier])
def test_several_labels_without_probabilities_have_the_scores_that_labels_give(kind, fit):
    model = fit(kind(LinearSVC()), SEVERAL)
    table = pd.DataFrame(SEVERAL, columns=["even", "third", "fifth"]).astype(bool)
    train = (TEXTS[:3], table[:3])
    with pytest.warns(LeakWarning):
        scores = evaluate(model, TEXTS, table, n_bootstrap=5, n_mistakes=1, train=train)
    assert scores["classes"] == ["even", "third", "fifth"]
    predicted = model.predict(TEXTS)
    assert scores["macro_f1"] == pytest.approx(f1_score(SEVERAL, predicted, average="macro"))
    assert scores["roc_auc"] is not None
    assert "no predict_proba" in scores["not_scored"]["log_loss"]
    assert scores["mistakes"][0]["explanation"]["words"]
    sparse = evaluate(model, TEXTS, csr_matrix(SEVERAL), n_bootstrap=0, n_mistakes=0)
    assert sparse["accuracy"] == scores["accuracy"]


@quiet
@pytest.mark.parametrize(
    ("classifier", "trained", "y", "message"),
    [
        (OneVsRestClassifier(LinearSVC()), SEVERAL, SEVERAL[:, :2], "holds 2 labels .* gives 3"),
        (LinearSVC(), SEVERAL[:, 0], SEVERAL, "holds 3 labels .* gives one"),
        (OneVsRestClassifier(LinearSVC()), SEVERAL, [["a"], ["a", "b"]] * 30, "MultiLabelBinar"),
        (OneVsRestClassifier(LinearSVC()), SEVERAL, SEVERAL + 0.5, "0 and 1, such as"),
        (MultiOutputClassifier(LinearSVC()), SEVERAL + 2, SEVERAL, "'0' .*classes 2, 3"),
    ],
)
def test_labels_that_do_not_fit_a_model_of_several_say_so(classifier, trained, y, message, fit):
    with pytest.raises(ValueError, match=message):
        evaluate(fit(classifier, trained), TEXTS, y)


WITHOUT = [
    LinearSVC(),
    SVC(),
    SVC(decision_function_shape="ovo"),
    RidgeClassifier(),
    Perceptron(),
    SGDClassifier(random_state=0),
    VotingClassifier([("one", LogisticRegression()), ("other", GaussianNB())]),
    OutputCodeClassifier(LogisticRegression(), random_state=0),
    GridSearchCV(LinearSVC(), {"C": [0.1, 1]}, cv=2),
]


@quiet
@pytest.mark.parametrize("y", [BINARY, LABELS], ids=["two classes", "three"])
@pytest.mark.parametrize("classifier", WITHOUT, ids=lambda c: type(c).__name__)
def test_models_without_probabilities_are_scored_by_their_labels_and_decisions(classifier, y, fit):
    model = fit(classifier, y)
    scores = evaluate(model, TEXTS, y, n_bootstrap=20)
    predicted = model.predict(TEXTS)
    assert scores["accuracy"] == pytest.approx(model.score(TEXTS, y))
    assert scores["macro_f1"] == pytest.approx(f1_score(y, predicted, average="macro"))
    assert np.trace(scores["confusion_matrix"]) == np.sum(predicted == np.array(y))
    for name in ("log_loss", "brier", "calibration_error"):
        assert scores[name] is None
        assert scores["intervals"].get(name) is None
    assert scores["calibration"] == []
    assert scores["n_not_most_probable"] == 0
    assert {one["row"] for one in scores["mistakes"]} <= set(
        np.flatnonzero(predicted != np.array(y)).tolist()
    )
    assert all(one["probability"] is None for one in scores["mistakes"] + scores["map"]["points"])
    decision = getattr(model, "decision_function", lambda texts: np.empty((len(texts), 0)))(TEXTS)
    if decision.shape[1:] not in ((), (3,)):
        assert (scores["roc_auc"], scores["curves"]) == (None, [])
        return
    expected = (
        roc_auc_score(np.array(y) == "good", decision)
        if y is BINARY
        else np.mean([
            roc_auc_score(np.array(y) == label, column)
            for label, column in zip(model.classes_, decision.T, strict=True)
        ])
    )  # fmt: skip
    assert scores["roc_auc"] == pytest.approx(expected)
    low, high = scores["intervals"]["roc_auc"]
    assert low <= scores["roc_auc"] <= high


@quiet
def test_compare_and_a_report_take_models_without_probabilities(fit, tmp_path, run):
    svm = make_pipeline(TfidfVectorizer(), LinearSVC())
    folds = StratifiedKFold(3, shuffle=True, random_state=0)
    table = compare(TEXTS, BINARY, models=[("svm", svm)], cv=folds, n_timed=0)
    expected = cross_val_score(svm, TEXTS, BINARY, cv=folds)
    assert table.loc["svm", "accuracy"] == pytest.approx(expected.mean())
    areas = cross_val_score(svm, TEXTS, BINARY, cv=folds, scoring="roc_auc")
    assert table.loc["svm", "roc_auc"] == pytest.approx(areas.mean())
    assert table.loc["svm", ["log_loss", "calibration_error"]].isna().all()
    scores = evaluate(svm.fit(TEXTS, BINARY), TEXTS, BINARY, n_bootstrap=5)
    page = write_report(scores, tmp_path / "page.html", comparison=table)
    assert "no class of the model" not in page.read_text(encoding="utf-8")
    path = save_pipeline(svm, tmp_path / "svm.joblib")
    data = tmp_path / "data.csv"
    pd.DataFrame({"text": TEXTS, "label": BINARY[::-1]}).to_csv(data, index=False)
    result = run("evaluate --mistakes 2", model=path, data=data)
    assert result.code == 0
    assert f"{svm.score(TEXTS, BINARY[::-1]):.3f} (" in result.out
    assert "no class" not in result.out


@pytest.mark.parametrize(
    "wrap",
    [
        lambda model: GridSearchCV(model, {"linearsvc__C": [0.1]}, cv=2),
        lambda model: CalibratedClassifierCV(model, cv=2),
        lambda model: TunedThresholdClassifierCV(model, cv=2),
        lambda model: FrozenEstimator(model),
        OneVsRestClassifier,
        lambda model: VotingClassifier([("one", model)]),
        lambda model: GridSearchCV(OneVsRestClassifier(model), {}, cv=2),
    ],
    ids=["search", "calibrated", "threshold", "frozen", "one-vs-rest", "voting", "nested"],
)
@quiet
def test_what_is_around_a_pipeline_hides_neither_tokens_nor_its_map(wrap, tiny_bert):
    model = make_pipeline(BertVectorizer(tiny_bert), LinearSVC())
    model = wrap(model.fit(TEXTS, BINARY)).fit(TEXTS, BINARY)
    scores = evaluate(model, TEXTS, BINARY, n_bootstrap=0, n_mistakes=1)
    assert {"by tokens", "by truncation"} <= set(scores["slices"])
    assert len(scores["map"]["points"]) == len(TEXTS)
    absent = {name for name, value in scores.items() if value is None} - {"duplicates"}
    assert set(scores["not_scored"]) == absent - {"label_issues"}


def test_a_class_without_texts_is_the_reason_for_a_score_that_is_absent(fit):
    rows = [i for i, label in enumerate(LABELS) if label != "good"]
    scores = evaluate(
        fit(LogisticRegression(), LABELS), np.array(TEXTS)[rows], np.array(LABELS)[rows]
    )
    assert scores["roc_auc"] is None
    assert scores["not_scored"]["roc_auc"] == "no text of 'good' among the scored texts"


def test_a_regressor_is_refused_in_words(fit):
    model = fit(Ridge(), np.arange(60) / 60)
    with pytest.raises(ValueError, match=r"The Ridge has no classes_;.*sklearn\.metrics"):
        evaluate(model, TEXTS, np.arange(60) / 60)


@quiet
def test_the_self_test_of_a_saved_file_asks_for_labels_too(fit, tmp_path):
    import json

    model = fit(FixedThresholdClassifier(LogisticRegression(), threshold=0.8), BINARY)
    path = save_pipeline(model, tmp_path / "model.joblib")
    manifest = path.with_name("model.joblib.json")
    values = json.loads(manifest.read_text())
    assert values["probes"]["labels"] == model.predict(values["probes"]["inputs"]).tolist()
    assert (
        load_pipeline(path, trusted=inspect_pipeline(path)["refused"]).predict(TEXTS).tolist()
        == model.predict(TEXTS).tolist()
    )
    values["probes"]["labels"] = [
        "good" if label == "bad" else "bad" for label in values["probes"]["labels"]
    ]
    manifest.write_text(json.dumps(values))
    with pytest.raises(
        Exception,
        match=r"fails its self-test: it labels .* '(bad|good)', but gave '(good|bad)'",
    ):
        load_pipeline(path, trusted=inspect_pipeline(path)["refused"])


@pytest.mark.filterwarnings("ignore::FutureWarning", "always::pipeline.exceptions.LabelWarning")
def test_commands_print_and_score_the_labels_of_predict(fit, tmp_path, run):
    model = fit(SVC(C=0.001, probability=True, random_state=0), BINARY)
    path = save_pipeline(model, tmp_path / "model.joblib")
    expected = model.predict(TEXTS).tolist()
    printed = run("predict", model=path, stdin="\n".join(TEXTS))
    assert [line.split("\t")[0] for line in printed.out.splitlines()] == expected
    data = tmp_path / "data.csv"
    pd.DataFrame({"text": TEXTS, "label": BINARY}).to_csv(data, index=False)
    shown = run("evaluate", model=path, data=data)
    assert f"{model.score(TEXTS, BINARY):.3f} (" in shown.out
    assert "the most probable class" in shown.err
