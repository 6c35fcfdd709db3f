"""Figures of studies and comparisons: all values and lines, nothing cut off, no pyplot."""

import subprocess
import sys

import pandas as pd
import pytest

from pipeline.evaluation.plots import (
    check_matplotlib,
    comparison_figure,
    layer_bars,
    layer_heatmap,
    write_comparison,
    write_figures,
)


def make_study(*, nested=None, majority=0.5, combinations=True):
    """Make a study of three layers and two poolings, whose best is the mean of layer 1."""
    scores = {"cls": (0.51, 0.62, 0.6), "mean": (0.6, 0.75, 0.7)}
    rows = [
        ("layer", f"layer {i}", pooling, (i,), score, 0.02)
        for pooling, of_pooling in scores.items()
        for i, score in enumerate(of_pooling)
    ]
    if combinations:
        rows += [
            ("combination", "last", "mean", (0, 1, 2), 0.7, 0.01),
            ("combination", "learned mix of all", "mean", (0, 1, 2), 0.71, 0.01),
        ]
    columns = ["kind", "features", "pooling", "layers", "score", "score_sd"]
    study = pd.DataFrame(rows, columns=columns)
    study.attrs = {
        "model": "acme/tiny-bert",
        "n_texts": 1234,
        "n_folds": 5,
        "scoring": "accuracy",
        "majority": majority,
        "nested": nested,
    }
    return study


def make_comparison(n_folds=5):
    """Make a comparison of a clearly worse, a clearly better and an undecided row."""
    rows = {
        "majority": (0.5, -0.3, -0.35, -0.25, "worse than TF-IDF"),
        "TF-IDF + LogisticRegression": (0.8, 0.0, 0.0, 0.0, "baseline"),
        "a frozen BERT of many layers": (0.85, 0.05, 0.02, 0.08, "better than TF-IDF"),
        "another": (0.81, 0.01, -0.02, 0.04, "no clear difference"),
    }
    columns = ["accuracy", "difference", "difference_low", "difference_high", "verdict"]
    table = pd.DataFrame.from_dict(rows, orient="index", columns=columns)
    table.attrs = {"n_tested": 1234, "n_folds": n_folds}
    return table


def written(texts):
    return [text.get_text() for text in texts]


def assert_nothing_is_cut(figure):
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    tight = figure.get_tightbbox(canvas.get_renderer())  # in inches
    width, height = figure.get_size_inches()
    assert tight.x0 >= -0.01
    assert tight.y0 >= -0.01
    assert tight.x1 <= width + 0.01
    assert tight.y1 <= height + 0.01


def test_the_heatmap_has_every_layer_pooling_and_value():
    figure = layer_heatmap(make_study())
    axes = figure.axes[0]
    assert written(axes.get_xticklabels()) == ["cls", "mean"]
    assert written(axes.get_yticklabels()) == ["0 (embeddings)", "1", "2 (last)"]
    assert written(axes.texts) == ["0.510", "0.600", "0.620", "0.750", "0.600", "0.700"]
    bold = [text for text in axes.texts if text.get_fontweight() == "bold"]
    assert written(bold) == ["0.750"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("pooling", "layer")
    assert figure.axes[1].get_ylabel() == "accuracy, mean of 5 folds"
    assert axes.get_title() == "tiny-bert, 1,234 texts"
    assert_nothing_is_cut(figure)


def test_the_bars_have_every_row_with_its_spread():
    figure = layer_bars(make_study(nested={"score": 0.72}))
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["layers, cls", "layers, mean", "combinations, mean"]
    shown = [
        (text.get_text(), bar.get_x() + bar.get_width())
        for axes in figure.axes
        for text, bar in zip(axes.texts, axes.patches, strict=True)
    ]
    assert [float(text) for text, _ in shown] == pytest.approx([end for _, end in shown])
    assert written(figure.axes[2].get_yticklabels()) == ["last", "learned mix of all"]
    for axes in figure.axes:
        kinds = {type(container).__name__ for container in axes.containers}
        assert kinds == {"BarContainer", "ErrorbarContainer"}
    (legend,) = figure.legends
    assert written(legend.get_texts()) == ["majority class", "unbiased score of the best"]
    assert_nothing_is_cut(figure)


@pytest.mark.parametrize(("majority", "start"), [(0.5, 0.5), (None, 0.0)])
def test_bars_begin_where_a_length_means_something(majority, start):
    figure = layer_bars(make_study(majority=majority, combinations=False))
    assert {bar.get_x() for axes in figure.axes for bar in axes.patches} == {start}
    assert figure.axes[0].get_xlim()[0] < start
    assert len(figure.legends) == (majority is not None)


def test_the_comparison_shows_every_difference_with_its_interval_best_on_top():
    figure = comparison_figure(make_comparison())
    (axes,) = figure.axes
    names = ["a frozen BERT of many layers", "another", "TF-IDF + LogisticRegression", "majority"]
    assert written(axes.get_yticklabels()) == names
    assert written(axes.texts) == ["0.850", "0.810", "0.800", "0.500"]
    intervals, dots = axes.lines[1::2], axes.lines[2::2]  # the first line is TF-IDF's
    ends = [tuple(line.get_xdata()) for line in intervals]
    assert ends == [(0.02, 0.08), (-0.02, 0.04), (0, 0), (-0.35, -0.25)]
    assert [float(dot.get_xdata()[0]) for dot in dots] == [0.05, 0.01, 0.0, -0.3]
    assert [dot.get_markerfacecolor() == "white" for dot in dots] == [False, True, False, False]
    assert len({dot.get_color() for dot in dots}) == 3
    assert axes.get_title() == "1,234 texts, 5 folds"
    (split,) = comparison_figure(make_comparison("split")).axes
    assert split.get_title() == "1,234 texts, one split"
    assert_nothing_is_cut(figure)


def test_all_are_written_as_png(tmp_path):
    folder = tmp_path / "new" / "figures"
    paths = [write_comparison(make_comparison(), folder), *write_figures(make_study(), folder)]
    names = ["comparison.png", "layer_heatmap.png", "layer_bars.png"]
    assert [path.name for path in paths] == names
    for path in paths:
        assert path.read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    study, comparison = make_study(), make_comparison()
    for draw, *of in (
        (layer_heatmap, study), (layer_bars, study), (comparison_figure, comparison),
        (check_matplotlib,),
    ):  # fmt: skip
        with pytest.raises(ImportError, match=r"pip install '\.\[report\]'"):
            draw(*of)


def test_no_pyplot_and_no_matplotlib_before_a_picture_is_drawn():
    code = (
        "import sys, pipeline.evaluation.plots as figures; print('matplotlib' in sys.modules)\n"
        "figures.check_matplotlib(); print('matplotlib.pyplot' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout == "False\nFalse\n"
