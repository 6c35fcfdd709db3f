"""Models of several columns get the columns that they were fitted on, wherever tables are read."""

import json
from operator import itemgetter

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.compose import ColumnTransformer, make_column_selector, make_column_transformer
from sklearn.ensemble import VotingClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_score
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

from pipeline import BertVectorizer, compare, inspect_pipeline, save_pipeline, score_table
from tests.commands import assert_one_error_line

N = 24
FRAME = pd.DataFrame(
    {
        "title": [f"{'good' if i % 2 else 'bad'} visit" for i in range(N)],
        "text": [f"the soup was {'lovely' if i % 3 else 'cold'}, number {i}" for i in range(N)],
        "stars": [1 + i % 5 for i in range(N)],
        "code": [f"00{i % 2}" for i in range(N)],
        "floor": [i % 3 for i in range(N)],
        "label": ["yes" if i % 2 else "no" for i in range(N)],
    }
)


def bert_and(tiny_bert):
    return make_column_transformer(
        (BertVectorizer(tiny_bert, cache=None), "text"), (StandardScaler(), ["stars"])
    )


FRONTS = {
    "text and number": bert_and,
    "two texts": lambda _: make_column_transformer(
        (TfidfVectorizer(), "title"), (TfidfVectorizer(), "text")
    ),
    "codes and categories that are numbers": lambda _: make_column_transformer(
        (TfidfVectorizer(), "text"), (OneHotEncoder(), ["code", "floor"])
    ),
    "a pipeline of columns": lambda _: make_column_transformer(
        (TfidfVectorizer(), "text"), (make_pipeline(SimpleImputer(), StandardScaler()), ["stars"])
    ),
    "a selector and a rest": lambda _: ColumnTransformer(
        [
            ("text", TfidfVectorizer(), "text"),
            ("numbers", StandardScaler(), make_column_selector("stars|floor")),
            ("dropped", "drop", ["title", "label"]),
        ]
    ),
    "what is passed on": lambda _: ColumnTransformer(
        [("text", TfidfVectorizer(), "text"), ("stars", "passthrough", [2])]
    ),
    "a union": lambda _: FeatureUnion(
        [
            ("title", make_pipeline(FunctionTransformer(itemgetter("title")), TfidfVectorizer())),
            ("text", make_pipeline(FunctionTransformer(itemgetter("text")), TfidfVectorizer())),
        ]
    ),
    "a pipeline in a pipeline": lambda tiny_bert: make_pipeline(bert_and(tiny_bert)),
}


def saved(fitted, folder):
    path = save_pipeline(fitted, folder / "m.joblib", probes=FRAME[:3])
    return path, inspect_pipeline(path)["refused"]


@pytest.mark.parametrize("name", FRONTS)
@pytest.mark.parametrize("kind", ["frame", "csv", "parquet", "jsonl"])
def test_a_table_is_scored_as_predict_labels_the_frame(name, kind, tiny_bert, tmp_path):
    fitted = make_pipeline(FRONTS[name](tiny_bert), LogisticRegression()).fit(FRAME, FRAME["label"])
    path, trusted = saved(fitted, tmp_path)
    new = FRAME.drop(columns="label") if name != "a union" else FRAME
    source = new if kind == "frame" else tmp_path / f"in.{kind}"
    if kind == "csv":
        new.to_csv(source, index=False)
    elif kind == "parquet":
        new.to_parquet(source)
    elif kind == "jsonl":
        source.write_text("".join(f"{json.dumps(row)}\n" for row in new.to_dict("records")))
    scored = score_table(
        path, source, tmp_path / "out.parquet", text="text", shard_rows=10, trusted=trusted
    )
    found = pd.read_parquet(scored.out)
    at = scored.columns
    assert found[at[0]].tolist() == fitted.predict(FRAME).tolist()
    assert found[at[1:]].to_numpy() == pytest.approx(fitted.predict_proba(FRAME), abs=1e-6)


def test_a_search_around_columns_gets_them_too(tmp_path):
    inner = make_pipeline(FRONTS["two texts"](None), LogisticRegression())
    search = GridSearchCV(inner, {"logisticregression__C": [1.0, 9.0]}, cv=2)
    fitted = Pipeline([("search", search)]).fit(FRAME, FRAME["label"])
    path, trusted = saved(fitted, tmp_path)
    scored = score_table(path, FRAME, tmp_path / "out.csv", text="text", trusted=trusted)
    assert pd.read_csv(scored.out)[scored.columns[0]].tolist() == fitted.predict(FRAME).tolist()


@pytest.fixture(scope="module")
def model(tiny_bert, tmp_path_factory):
    fitted = make_pipeline(bert_and(tiny_bert), LogisticRegression()).fit(FRAME, FRAME["label"])
    return fitted, saved(fitted, tmp_path_factory.mktemp("columns"))[0]


def test_rows_whose_other_cells_are_no_numbers_are_bad_ones(model, tmp_path):
    table = FRAME.drop(columns="label").astype({"stars": object})
    table.loc[3, "stars"], table.loc[7, "stars"], table.loc[9, "text"] = "many", "", None
    table.to_csv(tmp_path / "in.csv", index=False)
    table.loc[9, "text"] = ""
    scored = score_table(
        model[1], tmp_path / "in.csv", tmp_path / "out.csv", text="text", on_bad_row="null"
    )
    found = pd.read_csv(scored.out)
    assert found["label"].isna().to_numpy().nonzero()[0].tolist() == [3, 7]
    assert "many" in found["label_error"][3]
    assert "NaN" in found["label_error"][7]
    good = table.drop([3, 7]).astype({"stars": int})
    assert found["label"].drop([3, 7]).tolist() == model[0].predict(good).tolist()


@pytest.mark.parametrize(
    ("table", "text", "message"),
    [
        (FRAME[["text"]], "text", "no column 'stars'.*fitted on 'text', 'stars'"),
        (FRAME.rename(columns={"stars": "Stars"}), "text", "Did you mean 'Stars'"),
        (FRAME, "title", "text='title': The model was fitted on 'text', 'stars'"),
    ],
)
def test_what_lacks_a_column_is_refused_before_the_run(table, text, message, model, tmp_path):
    with pytest.raises(ValueError, match=message):
        score_table(model[1], table, tmp_path / "out", text=text)
    assert not (tmp_path / "out").exists()


def test_columns_without_names_are_refused_before_the_run(tmp_path):
    front = ColumnTransformer([("text", TfidfVectorizer(), 0), ("n", StandardScaler(), [1])])
    X = FRAME[["text", "stars"]].to_numpy(dtype=object)
    fitted = make_pipeline(front, LogisticRegression()).fit(X, FRAME["label"])
    path = save_pipeline(fitted, tmp_path / "m.joblib", probes=X[:3].tolist())
    with pytest.raises(ValueError, match="2 columns without names"):
        score_table(path, FRAME, tmp_path / "out", text="text")


def test_one_column_may_be_called_otherwise(tiny_bert, run, tmp_path):
    front = make_column_transformer((BertVectorizer(tiny_bert, cache=None), "text"))
    fitted = make_pipeline(front, LogisticRegression()).fit(FRAME[["text"]], FRAME["label"])
    path, _ = saved(fitted, tmp_path)
    table = FRAME[["text"]].rename(columns={"text": "review"})
    scored = score_table(path, table, tmp_path / "out.csv", text="review")
    assert pd.read_csv(scored.out)["label"].tolist() == fitted.predict(FRAME).tolist()
    result = run("predict", pipeline=path, text=FRAME["text"][0])
    assert result.code == 0, result.err
    assert result.out.split("\t")[0] == fitted.predict(FRAME)[0]


def test_tables_without_rows_give_tables_without_rows(model, tmp_path):
    scored = score_table(model[1], FRAME[:0], tmp_path / "out.csv", text="text")
    assert scored.n_rows == 0


def test_the_commands_give_the_model_its_columns(model, run, tmp_path):
    fitted, path = model
    FRAME.to_csv(tmp_path / "in.csv", index=False)
    data = ("--pipeline", path, "--data", tmp_path / "in.csv")
    result = run("predict", *data, "--out", tmp_path / "out.jsonl")
    assert result.code == 0, result.err
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["predicted_label"] for row in rows] == fitted.predict(FRAME).tolist()
    result = run("evaluate", *data)
    assert result.code == 0, result.err
    assert f"{np.mean(fitted.predict(FRAME) == FRAME['label']):.3f}" in result.out
    assert_one_error_line(run("predict", pipeline=path, text="a film"), "'stars'", "--data")


# ---- compare


def own(tiny_bert):
    return make_pipeline(bert_and(tiny_bert), LogisticRegression())


def test_models_of_columns_are_compared_with_those_of_texts(tiny_bert):
    table = compare(
        FRAME[["text", "stars"]],
        FRAME["label"],
        models=["majority", ("columns", own(tiny_bert))],
        vectorizer=BertVectorizer(tiny_bert),
        cv=3,
        n_timed=4,
    )
    folds = StratifiedKFold(3, shuffle=True, random_state=0)
    scores = cross_val_score(own(tiny_bert), FRAME, FRAME["label"], cv=folds)
    assert table.loc["columns", "accuracy"] == pytest.approx(scores.mean())
    texts = compare(FRAME["text"], FRAME["label"], models=["majority"], cv=3, n_timed=4)
    same = ["accuracy", "log_loss"]
    assert table.loc["majority", same].tolist() == texts.loc["majority", same].tolist()


@pytest.mark.parametrize("around", ["search", "votes", "texts alone"])
def test_what_an_own_estimator_is_given_is_what_its_first_step_takes(around, tiny_bert):
    model = own(tiny_bert)
    if around == "search":
        model = GridSearchCV(model, {"logisticregression__C": [1.0]}, cv=2)
    elif around == "votes":
        model = VotingClassifier([("a", model)], voting="soft")
    else:
        model = make_pipeline(TfidfVectorizer(), LogisticRegression())
    rows = FRAME[["title", "text", "stars"]]
    train, test = rows[:16], rows[16:]
    table = compare(
        train, FRAME["label"][:16], test=(test, FRAME["label"][16:]), model=model,
        models=["default"], vectorizer=BertVectorizer(tiny_bert), text="text", n_timed=0,
    )  # fmt: skip
    given = (lambda X: X["text"]) if around == "texts alone" else (lambda X: X)
    expected = clone(model).fit(given(train), FRAME["label"][:16])
    found = table.loc["frozen BERT + LogisticRegression", "accuracy"]
    assert found == expected.score(given(test), FRAME["label"][16:])


def test_of_several_columns_of_strings_one_is_named_before_anything_is_encoded(encoded):
    with pytest.raises(ValueError, match="'title', 'text', 'stars'; name the one with the texts"):
        compare(FRAME[["title", "text", "stars"]], FRAME["label"])
    with pytest.raises(ValueError, match="text='body'"):
        compare(FRAME[["title", "text"]], FRAME["label"], text="body")
    assert not encoded
