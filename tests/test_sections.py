"""The sections of a report: in their order, and only those that have something to say."""

import pytest

from pipeline.report.sections import report_contents, sections_of
from tests.reporting import bert_scores, make_comparison, make_study, quick_scores

TEXTS = ["A quiet, lovely film.", "Two hours I want back!", "The soup was cold.", "I love Paris."]
ALL = ["scores", "comparison", "classes", "curves", "calibration", "slices", "layers", "examples", "mistakes", "map",
       "duplicates", "provenance"]  # fmt: skip


def sections(scores, **parts):
    return {section.id: section for section in sections_of(report_contents(scores, **parts))}


def test_with_everything_there_is_every_section_in_its_order():
    found = sections(
        quick_scores(), comparison=make_comparison(), layers=make_study(), provenance={"seed": 0}
    )
    assert list(found) == ALL
    assert "The honest score of taking the best is 0.650 ± 0.030" in found["layers"].lead
    assert "are in the training set too" in found["duplicates"].lead


def test_what_is_not_there_has_no_section():
    scores = quick_scores(n_mistakes=0, n_examples=0, n_map=0, n_bootstrap=0, train=None)
    assert list(sections(scores)) == ["scores", "classes", "curves", "calibration", "slices"]


def test_scores_of_an_older_evaluate_are_shown_without_what_they_lack():
    scores = {
        name: value
        for name, value in quick_scores().items()
        if name not in ("curves", "examples", "map")
    }
    assert list(sections(scores)) == [
        "scores",
        "classes",
        "calibration",
        "slices",
        "mistakes",
        "duplicates",
    ]


def test_explained_texts_have_their_words_and_others_the_reason(tiny_bert):
    labels = ["good", "bad", "good", "bad"]
    found = sections(bert_scores(tiny_bert, TEXTS, labels, train=(TEXTS, labels)))
    told = [*found["examples"].texts, *found["mistakes"].texts]
    assert sorted(one.answer["text"] for one in told) == sorted(TEXTS)
    for one in told:
        assert "".join(piece["text"] for piece in one.coloured["pieces"]) == one.answer["text"]
    assert all(len(one.nearest) == 3 for one in found["mistakes"].texts)
    unexplained = sections(quick_scores())["mistakes"]
    assert {one.coloured for one in unexplained.texts} == {None}
    assert unexplained.lead.count("Not explained: The pipeline begins with a TfidfVectorizer") == 1


@pytest.mark.parametrize(("n_classes", "n_named"), [(2, 2), (6, 6), (20, 7)])
def test_the_map_names_six_classes_and_the_rest_together(n_classes, n_named):
    scores = quick_scores(tuple(f"class {i}" for i in range(n_classes)), n_texts=3 * n_classes)
    legend = sections(scores)["map"].legend
    assert len(legend) == n_named
    assert (legend[-1] == ("●", "other classes")) == (n_classes > 6)


def test_a_map_that_was_refused_says_why():
    scores = {**quick_scores(), "map": {"refused": "no features."}}
    assert sections(scores)["map"].lead == "No map: no features."


def test_more_than_four_classes_have_their_confusions_listed():
    assert len(sections(quick_scores(("a", "b", "c", "d")))["classes"].tables) == 1
    assert len(sections(quick_scores(("a", "b", "c", "d", "e")))["classes"].tables) == 2
    assert (
        sections(quick_scores(tuple(f"c{i}" for i in range(45)), n_texts=135))["classes"].pictures
        == []
    )
