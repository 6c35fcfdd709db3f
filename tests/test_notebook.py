"""What a notebook and a terminal show of what users print."""

import copy
import io
import json
import os
import pickle

import joblib
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.naive_bayes import MultinomialNB
from sklearn.pipeline import make_pipeline
from sklearn.svm import LinearSVC

from pipeline import (
    BertVectorizer,
    cache_info,
    compare,
    evaluate,
    explain,
    inspect_pipeline,
    layer_study,
    save_pipeline,
    score_table,
    walk_text,
    write_report,
)
from pipeline.evaluation.plots import comparison_figure, layer_bars, layer_heatmap
from tests.reporting import HOSTILE, Page, quick_scores

TEXTS = ["A quiet, lovely film.", "A dull film.", "The soup was cold & <b>bad</b>.", "I love it!"]
LABELS = ["good", "bad", "bad", "good"]
MANY = [f"{text} {i}" for i in range(6) for text in TEXTS]


def shown(value):
    """Return what a notebook gets, read as a page in which every element is closed."""
    html = value._repr_html_()
    assert html.count("<style>") == 1
    return Page(html)


def through(value):
    """Yield copies by every way."""
    file = io.BytesIO()
    joblib.dump(value, file)
    file.seek(0)
    yield from (
        copy.copy(value),
        copy.deepcopy(value),
        pickle.loads(pickle.dumps(value)),
        joblib.load(file),
    )


def coloured(page):
    return [attrs["class"].split()[0] for attrs in page.all("span") if "title" in attrs]


@pytest.fixture(scope="module")
def model(tiny_bert):
    return make_pipeline(BertVectorizer(tiny_bert), LogisticRegression()).fit(TEXTS, LABELS)


@pytest.fixture(scope="module")
def scores():
    return quick_scores(texts=HOSTILE[:2], by={"half": ["<i>one</i>", "two"] * 30})


@pytest.fixture(scope="module")
def comparison():
    return compare(MANY, LABELS * 6, models=["majority", "tfidf"], cv=2, n_timed=0)


@pytest.fixture(scope="module")
def study(tiny_bert):
    options = {"vectorizer": BertVectorizer(tiny_bert), "poolings": ("cls", "mean"), "cv": 2}
    texts = [f"{text} {i}" for i in range(5) for text in TEXTS]
    return layer_study(
        texts, LABELS * 5, combinations=("last", "sum of all"), nested=True, **options
    )


def test_explanations_are_a_list_of_tables_and_show_coloured_words(model):
    found = explain(model, TEXTS)
    assert isinstance(found, list)
    assert len(found) == 4
    assert all(isinstance(frame, pd.DataFrame) for frame in found)
    page = shown(found)
    for text, frame in zip(TEXTS, found, strict=True):
        assert text in page.text
        assert f"{abs(frame.attrs['decision']):.3f}" in page.text
        label = frame.attrs["classes"][int(frame.attrs["decision"] > 0)]
        assert label == model.predict([text])[0]
        assert f"{label} {'+' if label == 'good' else chr(0x2212)}" in repr(found)
    inside = pd.concat([frame[frame["start"] < frame["end"]] for frame in found])
    assert coloured(page) == ["for" if v > 0 else "against" for v in inside["contribution"]]
    assert "<b>bad" not in found._repr_html_()
    assert len(repr(found).splitlines()) == 4
    assert len(shown(found[:2]).all("tr")) == 3


def test_an_explanation_shows_its_own_text_above_its_numbers(model):
    frame = explain(model, TEXTS)[2]
    page = shown(frame)
    assert TEXTS[2] in page.text
    assert TEXTS[0] not in page.text
    for value in frame["contribution"]:
        assert f"{abs(value):.4f}" in page.text
    assert type(frame.head(2)) is pd.DataFrame
    del frame["start"]
    assert "dataframe" in frame._repr_html_()  # the table of pandas


def test_explanations_survive_copies(model):
    found = explain(model, TEXTS)
    for again in through(found):
        assert again._repr_html_() == found._repr_html_()
    for again in through(found[0]):
        assert again.attrs == found[0].attrs
        assert again._repr_html_() == found[0]._repr_html_()
        pd.testing.assert_frame_equal(again, found[0])


@pytest.mark.parametrize("against", [None, "runner-up"])
def test_of_three_classes_each_text_is_coloured_for_its_own(tiny_bert, against):
    labels = ["good", "bad", "<i>", "good"]
    model = make_pipeline(BertVectorizer(tiny_bert), LogisticRegression()).fit(TEXTS, labels)
    found = explain(model, TEXTS, against=against)
    page = shown(found)
    for label, line in zip(model.predict(TEXTS), repr(found).splitlines(), strict=True):
        assert line.startswith(label)
        assert label in page.text
    assert not page.all("i")


def test_under_occlusion_the_probability_is_that_of_the_class_named():
    model = make_pipeline(CountVectorizer(), MultinomialNB()).fit(TEXTS, LABELS)
    found = explain(model, TEXTS, method="occlusion")
    for own, text in zip(model.predict_proba(TEXTS), TEXTS, strict=True):
        label = model.classes_[own.argmax()]
        assert f"{label} {own.max():.3f}" in repr(found)
        assert f"{own.max():.3f}" in shown(found).text
        assert text[:20] in repr(found)


def test_scores_are_the_dict_that_they_were(scores):
    plain = dict(scores)
    assert isinstance(scores, dict)
    assert scores == plain
    assert json.dumps(scores) == json.dumps(plain)
    assert type(plain) is dict
    for again in (*through(scores), scores.copy()):
        assert again == plain
    assert len(repr(scores)) < 2000
    assert f"{scores['accuracy']:.3f}" in repr(scores)


def test_scores_show_cards_groups_and_mistakes(scores):
    page = shown(scores)
    for name in ("accuracy", "macro_f1", "log_loss", "calibration_error"):
        assert f"{scores[name]:.3f}" in page.text
    low, high = scores["intervals"]["accuracy"]
    assert f"{low:.3f} to {high:.3f}" in page.text
    weakest = min(scores["slices"]["by half"], key=lambda group: group["accuracy"])
    assert f"{weakest['accuracy']:.3f}" in page.text
    assert "half: <i>one</i>" in page.text
    assert scores["mistakes"][0]["text"][:30] in page.text
    assert not {"script", "img", "svg", "i"} & {tag for tag, _ in page.elements}
    bare = {**scores, "label_issues": None, "log_loss": None, "mistakes": [], "slices": {}}
    assert f"{scores['accuracy']:.3f}" in shown(type(scores)(bare)).text  # without probabilities
    short = copy.copy(scores)
    del short["mistakes"]
    assert short._repr_html_() is None
    assert repr(short) == repr(dict(short))


def test_scores_of_several_labels_and_reasons_for_absent_ones_are_shown():
    y = [[1, 0], [0, 1], [1, 1], [1, 0]]
    model = make_pipeline(CountVectorizer(), OneVsRestClassifier(LinearSVC(random_state=0)))
    scores = evaluate(model.fit(TEXTS, y), TEXTS, [[0, 1], *y[1:]], n_bootstrap=5)
    page = shown(scores)
    for name in ("accuracy", "micro_f1", "macro_f1"):
        assert f"{scores[name]:.3f}" in page.text
        assert f"{scores[name]:.3f}" in repr(scores)
    assert scores["not_scored"]["log_loss"] in page.text
    assert [attrs for attrs in page.all("span") if attrs.get("class", "").startswith("for")]


def test_a_comparison_is_rounded_and_its_best_row_is_bold(comparison):
    page = shown(comparison)
    for name, row in comparison.iterrows():
        assert name in page.text
        assert f"{row['accuracy']:.3f}" in page.text
        assert row["verdict"] in page.text
    assert [attrs.get("class") for attrs in page.all("tr")].count("best") == 1
    for again in through(comparison):
        assert again.attrs == comparison.attrs
        assert again._repr_html_() == comparison._repr_html_()
    assert "dataframe" in comparison[["accuracy"]]._repr_html_()
    assert comparison[["accuracy"]].baseline == comparison.baseline


def test_a_study_is_a_grid_of_layers_and_its_best_is_marked(study):
    page = shown(study)
    for score in study["score"]:
        assert f"{score:.3f}" in page.text
    best = study.iloc[study["score"].argmax()]
    assert f"layers={best['layers']}, pooling={best['pooling']!r}" in page.text
    assert f"{study.nested['score']:.3f}" in page.text
    marked = [attrs for attrs in page.all("span") if attrs.get("class") == "heat best"]
    assert len(marked) == (study["score"] == study["score"].max()).sum()
    by_score = study.sort_values("score", ascending=False)
    for own in (by_score, by_score.reset_index(drop=True)):  # in the order of the user
        first = own.iloc[0]
        assert f"{first['features']}{first['pooling']}{first['score']:.3f}" in shown(own).text
    top = by_score.head(3)
    assert len(shown(top).all("tr")) == 4
    assert top.attrs == study.attrs
    for again in through(study):
        assert again._repr_html_() == study._repr_html_()


def test_pandas_decides_whether_tables_are_html(comparison, study, model):
    with pd.option_context("display.notebook_repr_html", False):
        for frame in (comparison, study, explain(model, TEXTS)[0]):
            assert frame._repr_html_() is None


def test_a_walk_shows_its_tokens_and_is_short_in_a_terminal(tiny_bert):
    walk = walk_text("I love Paris", model=str(tiny_bert), max_length=20)
    page = shown(walk)
    assert all(token in page.text for token in walk.tokens)
    assert f"{abs(walk.last_hidden_state[0, 1, 0]):.2f}" in page.text
    assert str(walk.hidden_states.shape) in repr(walk)
    assert len(repr(walk)) < 400


def facts_of(inspection):
    told = repr(inspection).removeprefix("Inspection(").partition("; a dict of ")[0]
    return dict(fact.split(": ", 1) for fact in told.split("; "))


def test_a_file_is_summed_up_by_names_manifest_and_signature(model, tmp_path):
    path = save_pipeline(model, tmp_path / "<b>.joblib")
    found = inspect_pipeline(path)
    assert found == dict(found)
    assert json.dumps(found) == json.dumps(dict(found))
    facts = facts_of(found)
    assert facts == {
        "file": str(path),
        "format": f"joblib, {path.stat().st_size / 1e6:,.1f} MB",
        "names": f"{len(found['names'])}, all allowed",
        "arrays": str(len(found["arrays"])),
        "manifest": "unverified, beside the file",
        "signature": "none",
    }
    text = "".join(shown(found).text.split())
    assert all(
        f"{name.capitalize()}{fact}".replace(" ", "") in text for name, fact in facts.items()
    )
    assert f"Names1{found['names'][0]}2{found['names'][1]}" in text
    assert f"Manifest{next(iter(found['manifest']))}" in text
    assert f"Contents{next(iter(found['contents']))}" in text


def test_a_file_that_would_be_refused_says_so_in_capitals(tmp_path):
    joblib.dump([os.system, np.ones(3)], tmp_path / "m.joblib")
    found = inspect_pipeline(tmp_path / "m.joblib")
    assert found["arrays"] == [{"shape": (3,), "dtype": "float64", "n_bytes": 24}]
    facts = facts_of(found)
    assert facts["names"].endswith(f"REFUSED by load_pipeline: {os.system.__module__}.system")
    assert facts["manifest"] == "none"
    assert shown(found).text.count("Manifest") == 1


def test_the_cache_and_the_scored_table_are_summed_up(model, tmp_path):
    path = save_pipeline(model, tmp_path / "<b>.joblib")
    scored = score_table(path, pd.DataFrame({"t": TEXTS}), tmp_path / "out.csv", text="t")
    assert "label, probability_bad, probability_good" in shown(scored).text
    assert f"{cache_info().texts_encoded:,}" in shown(cache_info()).text


def test_a_report_is_a_path_that_shows_its_page(scores, tmp_path):
    page = write_report(scores, tmp_path / "report.html")
    assert page == tmp_path / "report.html"
    assert str(page) == str(tmp_path / "report.html")
    assert hash(page) == hash(tmp_path / "report.html")
    (frame,) = shown(page).all("iframe")
    # links of a page without an address lead to the notebook, but for this base
    assert frame["srcdoc"].replace('<base href="about:srcdoc">', "") == page.read_text("utf-8")
    assert "allow-scripts" not in frame["sandbox"]
    for again in through(page):
        assert again == page
        assert again._repr_html_() == page._repr_html_()
    assert page.parent._repr_html_() is None
    assert page.with_suffix(".json")._repr_html_() is None
    page.unlink()
    assert page._repr_html_() is None


def test_a_figure_is_a_sharp_picture_of_its_own_size(comparison, study):
    for figure in (layer_heatmap(study), layer_bars(study), comparison_figure(comparison)):
        assert isinstance(figure, Figure)
        png, size = figure._repr_png_()
        pixels = Image.open(io.BytesIO(png)).size
        assert np.allclose(pixels, [2 * size["width"], 2 * size["height"]], atol=2)
        assert isinstance(pickle.loads(pickle.dumps(figure)), Figure)


def test_no_style_leaks_into_the_notebook(scores):
    style = scores._repr_html_().split("</style>")[0].removeprefix("<style>")
    depth, selectors, start = 0, [], 0
    for i, letter in enumerate(style):
        if letter == "{":
            if depth == 0:
                selectors.append(style[start:i])
            depth += 1
        elif letter == "}":
            depth, start = depth - 1, i + 1
    assert len(selectors) == 4
    assert all(selector.strip().endswith(".bert-vectorizer") for selector in selectors)
