"""Figures of layer studies and comparisons (matplotlib)."""

import io
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

# a blue and an orange that are distinct to colour-blind readers
_BLUE, _ORANGE, _RULE = "#5b8db8", "#d9822b", "#444444"
_SHOWN_DPI, _SHARPER = 90, 2


def layer_heatmap(study: "pd.DataFrame") -> "Figure":
    """Draw a heatmap of scores by layer and pooling.

    Parameters
    ----------
    study : DataFrame
        From `pipeline.layer_study`.

    Returns
    -------
    matplotlib.figure.Figure
        Outside of pyplot; a notebook shows it.

    Raises
    ------
    ImportError
        If matplotlib is not installed: ``pip install '.[report]'``.
    """
    layers = study[study["kind"] == "layer"]
    scores = layers.assign(layer=layers["layers"].str[0]).pivot(
        index="layer", columns="pooling", values="score"
    )[list(dict.fromkeys(layers["pooling"]))]
    figure = _new_figure(2.6 + 1.1 * scores.shape[1], 1.6 + 0.45 * scores.shape[0])
    axes = figure.add_subplot()
    image = axes.imshow(scores, cmap="viridis", aspect="auto")
    axes.set_xticks(range(scores.shape[1]), list(scores.columns))
    last = len(scores) - 1
    names = {0: "0 (embeddings)", last: f"{last} (last)"}
    axes.set_yticks(range(len(scores)), [names.get(layer, str(layer)) for layer in scores.index])
    axes.invert_yaxis()
    axes.set_xlabel("pooling")
    axes.set_ylabel("layer")
    values = scores.to_numpy()
    low, high = values.min(), values.max()
    for (row, column), value in np.ndenumerate(values):
        axes.text(
            column,
            row,
            f"{value:.3f}",
            ha="center",
            va="center",
            color="white" if value < (low + high) / 2 else "black",
            fontweight="bold" if value == high else "normal",
        )
    figure.colorbar(
        image, ax=axes, label=f"{study.attrs['scoring']}, mean of {study.attrs['n_folds']} folds"
    )
    axes.set_title(_title(study), fontsize="medium")
    return figure


def layer_bars(study: "pd.DataFrame") -> "Figure":
    """Draw every score of a layer study as a bar with its standard deviation.

    Parameters
    ----------
    study : DataFrame
        From `pipeline.layer_study`.

    Returns
    -------
    matplotlib.figure.Figure
        One panel per pooling, and one of the combinations, with the best bar of each in orange.
        Bars start at the accuracy of the majority class (dotted line), or at zero if unknown. The
        dashed line is the nested score, if any.

    Raises
    ------
    ImportError
        If matplotlib is not installed: ``pip install '.[report]'``.
    """
    layers = study[study["kind"] == "layer"].groupby("pooling", sort=False)
    groups = [(f"layers, {pooling}", rows) for pooling, rows in layers]
    others = study[study["kind"] == "combination"]
    if len(others):
        groups.append((f"combinations, {others['pooling'].iloc[0]}", others))
    sizes = [len(rows) for _, rows in groups]
    figure = _new_figure(7.5, 1.6 + 0.24 * sum(sizes) + 0.35 * len(sizes))
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
    """Draw each model's difference to TF-IDF, with its interval.

    Parameters
    ----------
    comparison : DataFrame
        From `pipeline.compare`.

    Returns
    -------
    matplotlib.figure.Figure
        One dot per row, best accuracy on top, the accuracy beside it; TF-IDF is the line at 0. Dots
        are filled if the interval does not reach it: blue for better, orange for worse.

    Raises
    ------
    ImportError
        If matplotlib is not installed: ``pip install '.[report]'``.
    """
    rows = comparison.sort_values("accuracy", ascending=False, kind="stable")
    figure = _new_figure(7.5, 1.5 + 0.35 * len(rows))
    axes = figure.add_subplot()
    axes.axvline(0, color=_RULE, linewidth=1, linestyle="--")
    colours = {"better than TF-IDF": _BLUE, "worse than TF-IDF": _ORANGE}
    for position, (_, row) in enumerate(rows.iterrows()):
        colour = colours.get(row["verdict"], _RULE)
        ends = [row["difference_low"], row["difference_high"]]
        axes.plot(ends, [position, position], color=colour, linewidth=2)
        fill = "white" if row["verdict"] == "no clear difference" else colour
        axes.plot(
            row["difference"], position, "o", color=colour, markerfacecolor=fill, markersize=7
        )
        _write_beside(axes, position, row["accuracy"])
    axes.set_yticks(range(len(rows)), list(rows.index))
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("accuracy minus that of TF-IDF, 95 % interval; accuracy on the right")
    attrs = comparison.attrs
    how = "one split" if attrs["n_folds"] == "split" else f"{attrs['n_folds']} folds"
    axes.set_title(f"{attrs['n_tested']:,} texts, {how}", fontsize="medium")
    return figure


def write_comparison(comparison: "pd.DataFrame", folder: str | Path) -> Path:
    """Write comparison.png into a folder and return its path."""
    return _save({"comparison.png": comparison_figure(comparison)}, folder)[0]


def write_figures(study: "pd.DataFrame", folder: str | Path) -> list[Path]:
    """Write layer_heatmap.png and layer_bars.png, and return their paths."""
    return _save(
        {"layer_heatmap.png": layer_heatmap(study), "layer_bars.png": layer_bars(study)}, folder
    )


def _save(figures: "dict[str, Figure]", folder: str | Path) -> list[Path]:
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        figure.savefig(folder / name, dpi=150)
    return [folder / name for name in figures]


def check_matplotlib() -> "type[Figure]":
    """Return the Figure class, or raise ImportError with the cure."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "Figures need matplotlib, which is not installed: pip install '.[report]' in a "
            "checkout, or pip install matplotlib."
        ) from error
    return Figure


def _new_figure(width: float, height: float) -> "Figure":
    """Return a figure outside of pyplot that a notebook shows as a picture."""
    figure = check_matplotlib()(figsize=(width, height), layout="constrained")
    # with `%matplotlib inline`, IPython asks its own printer for figures first
    figure._repr_png_ = partial(_picture, figure)  # type: ignore[attr-defined]
    return figure


def _picture(figure: "Figure") -> tuple[bytes, dict[str, int]]:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=_SHOWN_DPI * _SHARPER)
    width, height = (round(_SHOWN_DPI * inches) for inches in figure.get_size_inches())
    return file.getvalue(), {"width": width, "height": height}


def _title(study: "pd.DataFrame") -> str:
    return f"{Path(study.attrs['model']).name}, {study.attrs['n_texts']:,} texts"


def _draw_bars(axes: Any, name: str, rows: "pd.DataFrame", start: float) -> None:
    best = rows["score"].max()
    axes.barh(
        range(len(rows)),
        rows["score"] - start,
        left=start,
        xerr=rows["score_sd"],
        color=[_ORANGE if score == best else _BLUE for score in rows["score"]],
        height=0.75,
        error_kw={"ecolor": _RULE, "capsize": 2},
    )
    axes.set_yticks(range(len(rows)), list(rows["features"]))
    axes.invert_yaxis()
    axes.set_title(name, loc="left", fontsize="small", pad=2)
    axes.spines[["top", "right"]].set_visible(False)
    for position, score in enumerate(rows["score"]):
        _write_beside(axes, position, score, bold=score == best)


def _write_beside(axes: Any, position: int, score: float, *, bold: bool = False) -> None:
    axes.text(
        1.01,
        position,
        f"{score:.3f}",
        transform=axes.get_yaxis_transform(),
        va="center",
        fontsize="small",
        fontweight="bold" if bold else "normal",
    )


def _draw_rules(panels: Any, study: "pd.DataFrame") -> None:
    """Set one scale, and draw majority and nested score through all panels."""
    nested, majority = study.attrs["nested"], study.attrs["majority"]
    unbiased = None if nested is None else nested["score"]
    lines = [(majority, ":", "majority class"), (unbiased, "--", "unbiased score of the best")]
    known = [(value, style, label) for value, style, label in lines if value is not None]
    edges = [
        majority or 0.0,
        *(value for value, _, _ in known),
        *(study["score"] - study["score_sd"]),
        *(study["score"] + study["score_sd"]),
    ]
    low, high = min(edges), max(edges)
    margin = 0.03 * (high - low) or 1.0
    for axes in panels:
        axes.set_xlim(low - margin, high + margin)
        for value, style, label in known:
            axes.axvline(value, linestyle=style, color=_RULE, linewidth=1, label=label)
    if known:
        panels[0].figure.legend(
            *panels[0].get_legend_handles_labels(),
            loc="outside lower center",
            ncols=2,
            fontsize="small",
        )
