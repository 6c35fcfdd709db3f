"""Figures of layer studies and comparisons (matplotlib)."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

_BAR, _BEST, _RULE = (
    "#5b8db8",
    "#d9822b",
    "#444444",
)  # a blue and an orange that every kind of sight tells apart
_BETTER, _WORSE = _BAR, _BEST


def layer_heatmap(study: "pd.DataFrame") -> "Figure":
    """Draw the scores of every layer by every pooling, the values in the cells, the best one bold.

    Parameters
    ----------
    study : DataFrame
        From `pipeline.layer_study`.

    Returns
    -------
    matplotlib.figure.Figure
        Not shown, and known to no pyplot; ``savefig`` writes it.

    Raises
    ------
    ImportError
        Where matplotlib is not installed; it comes with ``pip install 'bert-vectorizer[report]'``.
    """
    figure_class = _figure_class()
    scores = _layer_scores(study)
    figure = figure_class(
        figsize=(2.6 + 1.1 * scores.shape[1], 1.6 + 0.45 * scores.shape[0]), layout="constrained"
    )
    axes = figure.add_subplot()
    image = axes.imshow(scores.to_numpy(), cmap="viridis", aspect="auto")
    axes.set_xticks(range(scores.shape[1]), list(scores.columns))
    last = len(scores) - 1
    names = {0: "0 (embeddings)", last: f"{last} (last)"}
    axes.set_yticks(range(len(scores)), [names.get(layer, str(layer)) for layer in scores.index])
    axes.invert_yaxis()  # the text enters below and rises through the layers
    axes.set_xlabel("pooling")
    axes.set_ylabel("layer")
    low, high = scores.min().min(), scores.max().max()
    for (row, column), value in zip(_cells(scores.shape), scores.to_numpy().ravel(), strict=True):
        dark = value < (low + high) / 2
        best = value == high
        axes.text(column, row, f"{value:.3f}", ha="center", va="center", color="white" if dark else "black",
                  fontweight="bold" if best else "normal")  # fmt: skip
    figure.colorbar(
        image, ax=axes, label=f"{study.attrs['scoring']}, mean of {study.attrs['n_folds']} folds"
    )
    axes.set_title(_title(study), fontsize="medium")
    return figure


def layer_bars(study: "pd.DataFrame") -> "Figure":
    """Draw the score of every row as a bar with its standard deviation over the folds; the best row of each group stands out.

    Parameters
    ----------
    study : DataFrame
        From `pipeline.layer_study`.

    Returns
    -------
    matplotlib.figure.Figure
        One panel of layers per pooling, and one of the combinations. Bars begin at the accuracy of the majority class, a dotted
        line, or at zero where the study does not know it: a bar that began elsewhere would have no meaning. A dashed line is the
        honest score of taking the best row, where the study knows it. Not shown; ``savefig`` writes it.

    Raises
    ------
    ImportError
        Where matplotlib is not installed; it comes with ``pip install 'bert-vectorizer[report]'``.
    """
    figure_class = _figure_class()
    layers = study[study["kind"] == "layer"]
    groups = [
        (f"layers, {pooling}", of_one) for pooling, of_one in layers.groupby("pooling", sort=False)
    ]
    others = study[study["kind"] == "combination"]
    if len(others):
        groups.append((f"combinations, {others['pooling'].iloc[0]}", others))
    sizes = [len(rows) for _, rows in groups]
    figure = figure_class(
        figsize=(7.5, 1.6 + 0.24 * sum(sizes) + 0.35 * len(sizes)), layout="constrained"
    )
    panels = figure.subplots(len(groups), 1, sharex=True, squeeze=False, height_ratios=sizes)[:, 0]
    for axes, (name, rows) in zip(panels, groups, strict=True):
        _draw_bars(axes, name, rows, study.attrs["majority"] or 0.0)
    _draw_rules(panels, study)
    panels[-1].set_xlabel(
        f"{study.attrs['scoring']}, mean ± standard deviation of {study.attrs['n_folds']} folds"
    )
    figure.suptitle(_title(study), fontsize="medium")
    return figure


def comparison_figure(comparison: "pd.DataFrame") -> "Figure":
    """Draw by how much each model is better or worse than TF-IDF, with its interval, and its accuracy beside.

    Parameters
    ----------
    comparison : DataFrame
        From `pipeline.compare`.

    Returns
    -------
    matplotlib.figure.Figure
        One dot per row, best accuracy on top; TF-IDF is the line at 0. Where the interval does not reach the line the dot is
        filled: blue for better, orange for worse. Not shown; ``savefig`` writes it.

    Raises
    ------
    ImportError
        Where matplotlib is not installed; it comes with ``pip install 'bert-vectorizer[report]'``.
    """
    figure_class = _figure_class()
    rows = comparison.sort_values("accuracy", ascending=False, kind="stable")
    figure = figure_class(figsize=(7.5, 1.5 + 0.35 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    axes.axvline(0, color=_RULE, linewidth=1, linestyle="--")
    for position, (_, row) in enumerate(rows.iterrows()):
        colour = {"better than TF-IDF": _BETTER, "worse than TF-IDF": _WORSE}.get(
            row["verdict"], _RULE
        )
        axes.plot(
            [row["difference_low"], row["difference_high"]],
            [position, position],
            color=colour,
            linewidth=2,
        )
        sure = row["verdict"] != "no clear difference"
        axes.plot(
            row["difference"],
            position,
            "o",
            color=colour,
            markerfacecolor=colour if sure else "white",
            markersize=7,
        )
        axes.text(
            1.01,
            position,
            f"{row['accuracy']:.3f}",
            transform=axes.get_yaxis_transform(),
            va="center",
            fontsize="small",
        )
    axes.set_yticks(range(len(rows)), list(rows.index))
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("accuracy minus that of TF-IDF, 95 % interval; at the right the accuracy")
    attrs = comparison.attrs
    how = "one split" if attrs["n_folds"] == "split" else f"{attrs['n_folds']} folds"
    axes.set_title(f"{attrs['n_tested']:,} texts, {how}", fontsize="medium")
    return figure


def write_comparison(comparison: "pd.DataFrame", folder: str | Path) -> Path:
    """Write `comparison_figure` as ``comparison.png`` into a folder, made where it is missing, and return its path."""
    figure = comparison_figure(comparison)
    path = Path(folder) / "comparison.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    return path


def write_figures(study: "pd.DataFrame", folder: str | Path) -> list[Path]:
    """Write both pictures as PNG, and return their paths; the folder is made where it is missing.

    Parameters
    ----------
    study : DataFrame
        From `pipeline.layer_study`.
    folder : str or Path
        Gets ``layer_heatmap.png`` and ``layer_bars.png``.
    """
    figures = {"layer_heatmap.png": layer_heatmap(study), "layer_bars.png": layer_bars(study)}
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        figure.savefig(folder / name, dpi=150)
    return [folder / name for name in figures]


def check_matplotlib() -> None:
    """Refuse where no picture can be drawn, before any work is done; raises ImportError."""
    _figure_class()


def _figure_class() -> "type[Figure]":
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "Figures need matplotlib, which is not installed. Install it by pip install 'bert-vectorizer[report]', or by "
            "pip install matplotlib."
        ) from error
    return Figure


def _layer_scores(study: "pd.DataFrame") -> "pd.DataFrame":
    """Return the scores, one row per layer and one column per pooling, in the order of the study."""
    layers = study[study["kind"] == "layer"]
    scores = layers.assign(layer=layers["layers"].str[0]).pivot(
        index="layer", columns="pooling", values="score"
    )
    return scores[list(dict.fromkeys(layers["pooling"]))]


def _cells(shape: tuple[int, int]) -> list[tuple[int, int]]:
    return [(row, column) for row in range(shape[0]) for column in range(shape[1])]


def _title(study: "pd.DataFrame") -> str:
    return f"{Path(study.attrs['model']).name}, {study.attrs['n_texts']:,} texts"


def _draw_bars(axes: Any, name: str, rows: "pd.DataFrame", start: float) -> None:
    best = rows["score"].max()
    colours = [_BEST if score == best else _BAR for score in rows["score"]]
    positions = list(range(len(rows)))
    axes.barh(positions, rows["score"] - start, left=start, xerr=rows["score_sd"], color=colours, height=0.75,
              error_kw={"ecolor": _RULE, "capsize": 2})  # fmt: skip
    axes.set_yticks(positions, list(rows["features"]))
    axes.invert_yaxis()
    axes.set_title(name, loc="left", fontsize="small", pad=2)
    axes.spines[["top", "right"]].set_visible(False)
    for position, score in zip(
        positions, rows["score"], strict=True
    ):  # beside the panel, where no line crosses them
        axes.text(1.01, position, f"{score:.3f}", transform=axes.get_yaxis_transform(), va="center", fontsize="small",
                  fontweight="bold" if score == best else "normal")  # fmt: skip


def _draw_rules(panels: Any, study: "pd.DataFrame") -> None:
    """Give all panels one scale, and draw the majority class and the honest score, where they are known, through all of them."""
    nested, majority = study.attrs["nested"], study.attrs["majority"]
    honest = None if nested is None else nested["score"]
    lines = [(majority, ":", "majority class"), (honest, "--", "honest score of taking the best")]
    known = [(value, style, label) for value, style, label in lines if value is not None]
    edges = [
        majority or 0.0,
        honest,
        *(study["score"] - study["score_sd"]),
        *(study["score"] + study["score_sd"]),
    ]
    low, high = (
        min(edge for edge in edges if edge is not None),
        max(edge for edge in edges if edge is not None),
    )
    room = 0.03 * (high - low) or 1.0
    for axes in panels:
        axes.set_xlim(low - room, high + room)
        for value, style, label in known:
            axes.axvline(value, linestyle=style, color=_RULE, linewidth=1, label=label)
    if known:
        panels[0].figure.legend(
            *panels[0].get_legend_handles_labels(),
            loc="outside lower center",
            ncols=2,
            fontsize="small",
        )
