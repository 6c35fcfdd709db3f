"""Tables scored by models that give several labels per text: a column for each of them."""

import warnings

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import ClassifierChain, MultiOutputClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.svm import LinearSVC

from pipeline import BertVectorizer, inspect_pipeline, load_pipeline, save_pipeline, score_table
from pipeline.exceptions import ArtifactWarning

TEXTS = [
    f"the {'soup was cold' if a else 'walk'} {'far too expensive' if b else 'so what'} "
    f"{'a dark room' if c else 'the sea'}, visit {i}"
    for i in range(3)
    for a in (0, 1)
    for b in (0, 1)
    for c in (0, 1)
]
Y = np.array([[*map(int, (a, b, c))] for _ in range(3) for a in (0, 1) for b in (0, 1)
              for c in (0, 1)])  # fmt: skip
NAMES = [f"label_{i}" for i in range(3)] + [f"probability_{i}" for i in range(3)]

MODELS = {
    "OneVsRest": (OneVsRestClassifier(LogisticRegression()), Y),
    "OneVsRest, sparse": (OneVsRestClassifier(LogisticRegression()), csr_matrix(Y)),
    "MLP": (MLPClassifier((4,), solver="lbfgs", max_iter=9000, random_state=0), Y),
    "MultiOutput": (MultiOutputClassifier(LogisticRegression()), Y),
    "chain": (ClassifierChain(LogisticRegression()), Y),
    "neighbours": (KNeighborsClassifier(3), Y),
    "forest": (RandomForestClassifier(5, random_state=0), Y),
    "forest, floats": (RandomForestClassifier(5, random_state=0), Y.astype(float)),
    "forest, bools": (RandomForestClassifier(5, random_state=0), Y.astype(bool)),
    "a label that nothing has": (DummyClassifier(), Y * [1, 1, 0]),
    "a search": (
        GridSearchCV(OneVsRestClassifier(LogisticRegression()), {"estimator__C": [1.0, 9.0]}, cv=2),
        Y,
    ),
}


def probabilities(model, texts):
    """Return P(1) of every output, from scikit-learn's own answer."""
    own = model.predict_proba(texts)
    if not isinstance(own, list):
        return own
    return np.column_stack(
        [
            p[:, list(classes).index(1)] if 1 in classes else np.zeros(len(texts))
            for p, classes in zip(own, model.classes_, strict=True)
        ]
    )


def labels(model, texts):
    found = model.predict(texts)
    return np.asarray(found.toarray() if hasattr(found, "toarray") else found).astype(int)


@pytest.mark.parametrize("name", MODELS)
def test_every_label_has_a_column_of_0_and_1_and_one_of_its_probability(name, tmp_path):
    last, y = MODELS[name]
    fitted = make_pipeline(TfidfVectorizer(), last).fit(TEXTS, y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ArtifactWarning)  # of a label that nothing has: no probe
        path = save_pipeline(fitted, tmp_path / "m.joblib")
    trusted = inspect_pipeline(path)["refused"]
    table = pd.DataFrame({"text": [*TEXTS, "", "a cold soup"], "n": range(len(TEXTS) + 2)})
    scored = score_table(
        path, table, tmp_path / "out.parquet", text="text", shard_rows=10, trusted=trusted
    )
    assert scored.columns == NAMES
    found = pd.read_parquet(scored.out)
    assert found.columns.tolist() == ["text", "n", *NAMES]
    assert found["text"].tolist() == table["text"].tolist()
    assert all(found[name].dtype == np.int64 for name in NAMES[:3])
    texts = table["text"].tolist()
    assert found[NAMES[:3]].to_numpy().tolist() == labels(fitted, texts).tolist()
    assert found[NAMES[3:]].to_numpy() == pytest.approx(probabilities(fitted, texts), abs=1e-9)


@pytest.mark.parametrize("last", [KNeighborsClassifier(3), RandomForestClassifier(5)])
def test_outputs_with_other_classes_have_their_label_and_a_probability_per_class(last, tmp_path):
    y = np.column_stack(
        [np.where(Y[:, 0], "food", "walk"), np.array(["low", "high", "high"] * 8)]
    ).astype(object)
    fitted = make_pipeline(TfidfVectorizer(), last).fit(TEXTS, y)
    path = save_pipeline(fitted, tmp_path / "m.joblib")
    scored = score_table(
        path, pd.DataFrame({"text": TEXTS}), tmp_path / "out.parquet", text="text",
        trusted=inspect_pipeline(path)["refused"],
    )  # fmt: skip
    found = pd.read_parquet(scored.out)
    assert found.columns.tolist()[1:] == [
        "label_0", "label_1", "probability_0_food", "probability_0_walk", "probability_1_high",
        "probability_1_low",
    ]  # fmt: skip
    assert found[["label_0", "label_1"]].to_numpy().tolist() == fitted.predict(TEXTS).tolist()
    expected = np.hstack(fitted.predict_proba(TEXTS))
    assert found.iloc[:, 3:].to_numpy() == pytest.approx(expected, abs=1e-9)


@pytest.fixture(scope="module")
def bert(tiny_bert, tmp_path_factory):
    fitted = make_pipeline(
        BertVectorizer(tiny_bert, cache=None), OneVsRestClassifier(LogisticRegression())
    ).fit(TEXTS, Y)
    return save_pipeline(fitted, tmp_path_factory.mktemp("bert") / "m.joblib")


def test_bad_rows_have_no_label_of_any_kind_and_a_finished_run_is_found_again(bert, tmp_path):
    table = pd.DataFrame({"text": [TEXTS[3], None, TEXTS[5]]})
    for _ in range(2):
        scored = score_table(bert, table, tmp_path / "out", text="text", on_bad_row="null")
        found = pd.read_parquet(scored.out)
        assert found[NAMES].isna().all(axis=1).tolist() == [False, True, False]
        assert found["label_error"].tolist()[1] == "the text is missing"
    assert scored.n_skipped == 3
    empty = score_table(bert, table[:0], tmp_path / "empty.csv", text="text")
    assert empty.out.read_text() == ",".join(f'"{name}"' for name in ["text", *NAMES]) + "\n"


def test_the_command_labels_tables_and_lines(bert, run, tmp_path):
    pd.DataFrame({"text": TEXTS}).to_csv(tmp_path / "in.csv", index=False)
    result = run("predict", model=bert, data=tmp_path / "in.csv", out=tmp_path / "out.csv")
    assert result.code == 0, result.err
    fitted = load_pipeline(bert)
    found = pd.read_csv(tmp_path / "out.csv")
    assert found[NAMES[:3]].to_numpy().tolist() == fitted.predict(TEXTS).tolist()
    assert found[NAMES[3:]].to_numpy() == pytest.approx(fitted.predict_proba(TEXTS), abs=1e-6)
    result = run("predict", "--text", TEXTS[5], "--text", "a walk", model=bert)
    assert result.code == 0, result.err
    expected = fitted.predict_proba([TEXTS[5], "a walk"])
    for line, own, text in zip(
        result.out.splitlines(), expected, [TEXTS[5], "a walk"], strict=True
    ):
        cells = line.split("\t")
        assert cells[:3] == [str(int(p > 0.5)) for p in own]
        assert [float(cell) for cell in cells[3:6]] == pytest.approx(own, abs=1e-4)
        assert cells[6:] == [text]


@pytest.mark.parametrize(
    ("last", "y", "message"),
    [
        (OneVsRestClassifier(LinearSVC()), Y, "gives no probabilities"),
        (MultiOutputClassifier(LinearSVC()), Y, "gives no probabilities"),
        (ClassifierChain(LogisticRegression()), Y[:, :2] + 1, "Chain gives one probability per"),
    ],
)
def test_labels_without_probabilities_are_refused_before_the_run(last, y, message, tmp_path):
    fitted = make_pipeline(TfidfVectorizer(), last).fit(TEXTS, y)
    path = save_pipeline(fitted, tmp_path / "m.joblib")
    with pytest.raises(ValueError, match=message):
        score_table(path, pd.DataFrame({"text": TEXTS}), tmp_path / "out", text="text")
    assert not (tmp_path / "out").exists()
