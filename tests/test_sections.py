"""The contents of a report as plain values, and its sections."""

import json
from datetime import date

import numpy as np
import pandas as pd
import pytest
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.svm import LinearSVC

from pipeline import BertVectorizer, evaluate, write_report
from pipeline.datasets import read_table, write_table
from pipeline.notebook import coloured_pieces
from pipeline.report.page import report_contents, sections_of
from pipeline.tables import conclusion
from tests.reporting import bert_scores, make_comparison, make_study, quick_scores


@pytest.fixture(scope="module")
def scores():
    return quick_scores()


def test_everything_is_what_json_has(scores):
    contents = report_contents(
        scores,
        comparison=make_comparison(),
        layers=make_study(),
        provenance={"when": date(2026, 1, 2), "n": np.int64(3)},
    )
    assert json.loads(json.dumps(contents, allow_nan=False)) == contents
    assert contents["provenance"] == {"when": "2026-01-02", "n": 3}
    assert contents["comparison"][1] == {
        "model": "TF-IDF + LogisticRegression",
        "accuracy": 0.7,
        "accuracy_sd": 0.02,
        "macro_f1": 0.7,
        "fit_seconds": 2.0,
        "predict_seconds": 0.2,
        "artifact_mb": 1.5,
        "difference": None,
        "difference_low": None,
        "difference_high": None,
        "verdict": "",
    }


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_a_study_out_of_a_file_is_the_study(scores, tmp_path, ending):
    study = make_study()
    write_table(study, tmp_path / f"study{ending}")
    rows = report_contents(scores, layers=study)["layers"]["rows"]
    assert (
        report_contents(scores, layers=read_table(tmp_path / f"study{ending}"))["layers"]["rows"]
        == rows
    )
    assert [row["layer"] for row in rows] == [0, 1, 2, 0, 1, 2, None]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"scores": [0.5]},
            TypeError,
            r"scores is a list; expected the dict returned by evaluate",
        ),
        ({"scores": {"accuracy": 0.5}}, ValueError, "scores lacks n_texts, classes, intervals"),
        (
            {"comparison": pd.DataFrame({"f1": [1]})},
            ValueError,
            "comparison has no column 'accuracy'",
        ),
        ({"layers": pd.DataFrame({"kind": []})}, ValueError, "layers has no column 'features'"),
        ({"layers": "study.csv"}, ValueError, "layers has no column 'kind'"),
    ],
)
def test_what_is_none_of_ours_is_refused(scores, arguments, error, message):
    with pytest.raises(error, match=message):
        report_contents(**{"scores": scores, **arguments})


TEXT = "A lovely, dull film."
WORDS = [
    {"word": "[CLS]", "start": 0, "end": 0, "contribution": -2.0},
    {"word": "lovely", "start": 2, "end": 8, "contribution": 1.0},
    {"word": "dull", "start": 10, "end": 14, "contribution": -0.5},
]


def test_the_pieces_are_the_text_and_each_word_has_its_part():
    found = coloured_pieces(TEXT, WORDS)
    assert [
        (piece["text"], piece["contribution"], piece["strength"]) for piece in found["pieces"]
    ] == [
        ("A ", None, 0.0),
        ("lovely", 1.0, 1.0),
        (", ", None, 0.0),
        ("dull", -0.5, 0.5),
        (" film.", None, 0.0),
    ]
    assert [one["word"] for one in found["strongest"]] == ["lovely", "dull"]  # not [CLS]
    assert (found["before"], found["after"]) == (0, 0)


@pytest.mark.parametrize(
    ("n_before", "n_after"), [(0, 50_000), (50_000, 0), (2_000, 3_000), (30, 5)]
)
def test_of_a_long_text_the_explained_part_is_shown(n_before, n_after):
    text = "x" * n_before + TEXT + "y" * n_after
    words = [
        {**word, "start": word["start"] + n_before, "end": word["end"] + n_before} for word in WORDS
    ]
    found = coloured_pieces(text, words)
    shown = "".join(piece["text"] for piece in found["pieces"])
    assert len(shown) <= 1200
    assert "lovely, dull" in shown
    assert text[found["before"] : len(text) - found["after"]] == shown


def test_words_that_overlap_are_shown_once():
    words = [*WORDS, {"word": "ly, du", "start": 6, "end": 12, "contribution": 3.0}]
    assert "".join(piece["text"] for piece in coloured_pieces(TEXT, words)["pieces"]) == TEXT


TEXTS = ["A quiet, lovely film.", "Two hours I want back!", "The soup was cold.", "I love Paris."]
ALL = ["mistakes", "classes", "comparison", "slices", "calibration", "curves", "layers", "examples",
       "labels", "map", "duplicates", "scores", "provenance"]  # fmt: skip


def sections(scores, **parts):
    return {section.id: section for section in sections_of(report_contents(scores, **parts))}


def test_with_everything_there_is_every_section_in_its_order():
    found = sections(
        quick_scores(), comparison=make_comparison(), layers=make_study(), provenance={"seed": 0}
    )
    assert list(found) == ALL
    assert "The unbiased score of picking the best is 0.650 ± 0.030" in found["layers"].lead
    assert "are in the training set too" in found["duplicates"].lead


def test_what_is_not_there_has_no_section():
    scores = quick_scores(n_mistakes=0, n_examples=0, n_map=0, n_bootstrap=0, train=None)
    assert list(sections(scores)) == ["classes", "slices", "calibration", "curves", "scores"]


def test_scores_of_an_older_evaluate_are_shown_without_what_they_lack():
    scores = {
        name: value
        for name, value in quick_scores().items()
        if name not in ("curves", "examples", "map", "label_issues")
    }
    assert list(sections(scores)) == [
        "mistakes",
        "classes",
        "slices",
        "calibration",
        "duplicates",
        "scores",
    ]


def test_explained_texts_have_their_words_and_others_the_reason(tiny_bert):
    labels = ["good", "bad", "good", "bad"]
    found = sections(bert_scores(tiny_bert, TEXTS, labels, train=(TEXTS, labels)))
    answers = [*found["examples"].texts, *found["mistakes"].texts]
    assert sorted(answer["text"] for answer in answers) == sorted(TEXTS)
    for answer in answers:
        assert "".join(piece["text"] for piece in answer["coloured"]["pieces"]) == answer["text"]
    assert all(len(answer["nearest"]) == 3 for answer in found["mistakes"].texts)
    scores = quick_scores()
    for mistake in scores["mistakes"]:
        mistake["explanation"] = {"refused": "No texts."}
    unexplained = sections(scores)["mistakes"]
    assert {one["coloured"] for one in unexplained.texts} == {None}
    assert unexplained.lead.count("Not explained: No texts.") == 1


@pytest.mark.parametrize(("n_classes", "n_named"), [(2, 2), (6, 6), (20, 6)])
def test_the_map_names_the_classes_it_shows(n_classes, n_named):
    scores = quick_scores(tuple(f"class {i}" for i in range(n_classes)), n_texts=3 * n_classes)
    section = sections(scores)["map"]
    assert len(section.legend) == n_named
    assert ("most confused" in section.pictures[0].caption) == (n_classes > 6)
    del scores["map"]["classes"]  # as an older evaluate gave it
    assert len(sections(scores)["map"].legend) == n_named


def test_a_map_that_was_refused_says_why():
    scores = {**quick_scores(), "map": {"refused": "no features."}}
    assert sections(scores)["map"].lead == "No map: no features."


def test_more_than_two_classes_have_their_confusions_listed():
    (only,) = sections(quick_scores(("a", "b")))["classes"].beside
    assert only.caption == "Scores of each class"
    (first,) = sections(quick_scores(("a", "b", "c")))["classes"].beside
    assert first.header[:2] == ("True class", "Taken for")


def test_of_many_classes_the_weakest_come_first_and_the_matrix_shows_the_most_confused():
    names = tuple(f"c{i}" for i in range(45))
    scores = quick_scores(names, n_texts=135)
    section = sections(scores)["classes"]
    f1 = [float(row[1]) for row in section.tables[0].rows]
    assert f1 == sorted(f1)
    assert len(section.tables[0].rest.rows) + section.tables[0].shown == len(names)
    wrong = [(-n, i, j) for i, row in enumerate(scores["confusion_matrix"])
             for j, n in enumerate(row) if i != j]  # fmt: skip
    _, true, predicted = min(wrong)
    for place in (true, predicted):
        assert f">{scores['classes'][place]}<" in section.pictures[0].svg
    assert "of 45" in section.pictures[0].caption


@pytest.mark.parametrize(("accuracy", "word"), [(0.2, "too high"), (1.0, "too low")])
def test_the_first_sentence_tells_rival_weakest_class_and_whether_it_is_too_sure(accuracy, word):
    scores = {**quick_scores(), "calibration": [
        {"low": 0.6, "high": 0.7, "n_texts": 60, "confidence": 0.65, "accuracy": accuracy}
    ]}  # fmt: skip
    contents = report_contents(scores, comparison=make_comparison())
    said = conclusion(contents["scores"], contents["comparison"])
    assert f"{scores['n_texts']} texts" in said
    assert said.endswith(".")
    assert ". " not in said  # one sentence
    assert word in said
    assert word in sections(scores)["calibration"].lead
    assert "weakest" not in said  # F1 of the two classes is about the same
    scores["by_class"] = [{**row, "f1": 0.3 * i} for i, row in enumerate(scores["by_class"], 1)]
    contents = report_contents(scores, comparison=make_comparison())
    assert f"weakest on {scores['by_class'][0]['class']}" in conclusion(
        scores, contents["comparison"]
    )


def test_several_labels_per_text_have_a_page_with_each_label(tiny_bert, tmp_path):
    texts = [f"A {word} film, {i}." for i in range(4) for word in ("dull", "long", "lovely")]
    y = np.array([["dull" in text, "long" in text, "1" in text] for text in texts])
    model = make_pipeline(
        BertVectorizer(tiny_bert), OneVsRestClassifier(LinearSVC(C=0.01, random_state=0))
    )
    scores = evaluate(model.fit(texts, y), texts, ~y, n_bootstrap=5, n_mistakes=2)
    found = sections(scores)
    labels, marks = found["classes"].tables
    assert [row[0] for row in labels.rows] == [row[0] for row in marks.rows] == ["0", "1", "2"]
    assert [int(row[1]) + int(row[2]) for row in marks.rows] == (~y).sum(axis=0).tolist()
    (first, _) = found["mistakes"].texts
    assert first["true"] == ", ".join(scores["mistakes"][0]["true"]) or first["true"] == "no label"
    assert first["coloured"]["strongest"]
    absent = {row[0]: row[4] for row in found["scores"].tables[0].rows}
    assert "no predict_proba" in absent["Log loss"]
    assert "all of their 3 labels" in conclusion(scores)
    page = write_report(scores, tmp_path / "page.html").read_text(encoding="utf-8")
    assert "All labels right" in page
    assert "Calibration error</dt>" not in page
