"""What the commands print."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    import pandas as pd


def describe_inspection(found: dict[str, Any]) -> Iterator[str]:
    """Give the lines that say what `inspect_pipeline` found; control characters in the file's own texts are escaped.

    Parameters
    ----------
    found : dict
        From `pipeline.inspect_pipeline`.
    """
    yield f"{found['path']}: {found['format']}, {found['size'] / 1e6:.1f} MB"
    refused = found["refused"]
    if refused is None:
        yield f"names     {len(found['names'])}; which of them would be refused is known only where skops is installed"
    elif refused:
        yield f"REFUSED   {', '.join(map(_safe, refused))}: load_pipeline will not open this file"
    else:
        yield f"names     {len(found['names'])}, all allowed"
    for name in found["names"]:
        yield f"          {_safe(name)}{' <- REFUSED' if name in (refused or ()) else ''}"
    yield from _describe_manifest(found["manifest"])
    yield "contents"
    yield from _describe_contents(found["contents"], 1)


def _describe_manifest(manifest: dict[str, Any] | None) -> Iterator[str]:
    if manifest is None:
        yield "manifest  none"
        return
    if "error" in manifest:
        yield f"manifest  {_safe(manifest['error'])}"
        return
    yield "manifest  (as it stands beside the file; run_pipeline.py verify compares)"
    for key in ("sha256", "created", "classes", "n_training_texts", "scores"):
        if manifest.get(key) is not None:
            yield f"  {key}: {_safe(manifest[key])}"
    yield "  versions: " + ", ".join(
        f"{_safe(name)} {_safe(version)}" for name, version in manifest["versions"].items()
    )
    for vectorizer in manifest["vectorizers"]:
        for key, value in vectorizer.items():
            yield f"  {_safe(key)}: {_safe(value)}"
    probes = manifest["probes"]
    if probes is None:
        yield "  probes: none, so it has no self-test"
        return
    yield f"  probes, by {_safe(probes['method'])}:"
    for text, output in zip(probes["inputs"], probes["outputs"], strict=False):
        shown = (
            [round(value, 4) if isinstance(value, float) else value for value in output]
            if isinstance(output, list)
            else output
        )
        yield f"    {_safe(shown)[:100]}  {_safe(text)}"


def _describe_contents(value: Any, depth: int) -> Iterator[str]:
    pad = "  " * depth
    if isinstance(value, dict):
        pairs = list(value.items())
    elif isinstance(value, list):
        pairs = [("-", one) for one in value]
    else:
        pairs = [("-", value)]
    for key, one in pairs:
        label = _safe(key) if key == "-" else f"{_safe(key)}:"
        if isinstance(one, (dict, list)) and one and not _is_short(one):
            yield f"{pad}{label}"
            yield from _describe_contents(one, depth + 1)
        else:
            yield f"{pad}{label} {_safe(one)}"


def _is_short(value: dict[str, Any] | list[Any]) -> bool:
    return (
        isinstance(value, list)
        and not any(isinstance(one, (dict, list)) for one in value)
        and len(str(value)) < 100
    )


def describe_verification(path: Path | str, found: dict[str, Any]) -> Iterator[str]:
    """Give the lines that say what `verify_pipeline` found, one check a line.

    Parameters
    ----------
    path : Path or str
        The file.
    found : dict
        From `pipeline.verify_pipeline`.
    """
    yield f"{path}: whole and as it was saved"
    yield f"  size      {found['size']} bytes, as in the manifest"
    yield f"  sha256    {found['sha256']}, as in the manifest"
    yield f"  names     {found['names']}, all allowed"
    for model, sha256 in found["weights"].items():
        yield f"  weights   of {_safe(model)}: sha256 {sha256}"
    versions = found["versions"]
    yield f"  versions  {'; '.join(map(_safe, versions)) if versions else 'the same as it was made with'}"
    probes = found["probes"]
    if probes is None:
        yield "  probes    none in the manifest: no self-test"
    else:
        answered = f"{probes['n']} answered as when it was saved"
        yield f"  probes    {answered}, to {probes['difference']:.1g} (allowed {probes['tolerance']:g})"


def _safe(value: Any) -> str:
    """Return a value's text without what would steer a terminal."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(value))


def print_labels(
    console: Console, texts: Sequence[str], labels: Sequence[Any], probability: Sequence[float]
) -> None:
    """Print the label of each text with its probability: a table, or tab-separated lines where no terminal reads them.

    Parameters
    ----------
    console : Console
        Where to.
    texts : sequence of str, length n_texts
    labels : sequence, length n_texts
        As the model's ``predict`` gives them.
    probability : sequence of float, length n_texts
        Of each label; NaN for a label that is none of the classes.
    """
    if not console.is_terminal:  # one text a line, for the next program in the pipe
        for text, label, value in zip(texts, labels, probability, strict=True):
            print(label, f"{value:.4f}", text, sep="\t")
        return
    table = Table("label", "probability", "text")
    for text, label, value in zip(texts, labels, probability, strict=True):
        table.add_row(str(label), _number(value), text)
    console.print(table, markup=False)


def print_comparison(console: Console, comparison: "pd.DataFrame", title: str) -> None:
    """Print what `pipeline.compare` returns: the scores, then the difference to TF-IDF, with its verdict, and the costs."""
    known = [column for column in _COSTS if comparison[column].notna().any()]
    scores, against, costs = (
        Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
        for _ in range(3)
    )
    scores.title = title
    for table, headers in (
        (scores, ("accuracy", "macro F1", "ROC-AUC", "log loss")),
        (against, ("points to TF-IDF", "verdict")),
        (costs, ("calibration", *(_COSTS[column] for column in known))),
    ):
        table.add_column(
            "model", overflow="fold"
        )  # in a narrow terminal lines break, and nothing is left out
        for header in headers:
            table.add_column(header, overflow="fold")
    for name, row in comparison.iterrows():
        plain = (_number(row[metric]) for metric in ("macro_f1", "roc_auc", "log_loss"))
        scores.add_row(str(name), _with_spread(row, "accuracy"), *plain)
        low, high = 100 * row["difference_low"], 100 * row["difference_high"]
        is_baseline = row["verdict"] == "baseline"
        against.add_row(
            str(name),
            "" if is_baseline else f"{100 * row['difference']:+.1f} ({low:+.1f} to {high:+.1f})",
            row["verdict"],
        )
        costs.add_row(
            str(name), _number(row["calibration_error"]), *(_size(row[column]) for column in known)
        )
    for table in (scores, against, costs):
        console.print(table, "", markup=False)
    for name, reason in comparison.attrs["left_out"].items():
        console.print(f"Left out: {name} ({reason}).")


_COSTS = {"fit_seconds": "fit, s", "predict_seconds": "s per 1,000", "artifact_mb": "file, MB"}


def _with_spread(row: Any, metric: str) -> str:
    spread = row[f"{metric}_sd"]
    return _number(row[metric]) if spread != spread else f"{row[metric]:.3f} ± {spread:.3f}"


def _number(value: float) -> str:
    return "-" if value != value else f"{value:.3f}"  # NaN: a fold or the test lacks a class


def _size(value: float) -> str:
    """Show a time or a size with two digits or more, where it is known."""
    if value != value:
        return "-"
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}" if value >= 0.01 else "< 0.01"


def print_scores(console: Console, scores: dict[str, Any], title: str) -> None:
    """Print what `pipeline.evaluate` returns: the scores, the groups, and the surest mistakes."""

    def shown(name: str) -> str:
        value = scores[name]
        return "-" if value is None else f"{value:.3f}"

    table = Table(
        "texts", "accuracy (95 %)", "F1", "ROC-AUC", "log loss", "calibration", title=title
    )
    low, high = scores["intervals"].get("accuracy") or (None, None)
    between = "" if low is None else f" ({low:.3f} to {high:.3f})"
    table.add_row(
        str(scores["n_texts"]),
        shown("accuracy") + between,
        *map(shown, ("f1", "roc_auc", "log_loss", "calibration_error")),
    )
    console.print(table)
    for name, groups in scores["slices"].items():
        if len(groups) > 1:
            parts = Table(name, "texts", "accuracy", "95 % interval")
            for group in groups:
                low, high = group["interval"]
                cells = (
                    str(group["n_texts"]),
                    f"{group['accuracy']:.3f}",
                    f"{low:.3f} to {high:.3f}",
                )
                parts.add_row(_safe(group["value"]), *cells)
            console.print(parts, markup=False)
    for mistake in scores["mistakes"]:
        probability = (
            "no class" if mistake["probability"] is None else f"{mistake['probability']:.3f}"
        )
        sure = f"{mistake['true']} taken for {mistake['predicted']} ({probability})"
        console.print(
            f"{sure}: {_safe(mistake['text'])}", markup=False, highlight=False, soft_wrap=True
        )


def print_explanations(
    console: Console, texts: Sequence[str], frames: "Sequence[pd.DataFrame]", labels: Sequence[Any]
) -> None:
    """Print what `pipeline.explain` returns: texts with coloured words, or tab-separated lines where no terminal reads them.

    Parameters
    ----------
    console : Console
        Where to.
    texts : sequence of str, length n_texts
    frames : sequence of DataFrame, length n_texts
        From `pipeline.explain`.
    labels : sequence, length n_texts
        What was predicted; of more than two classes its contributions are shown.
    """
    for text, frame, label in zip(texts, frames, labels, strict=True):
        classes = frame.attrs["classes"]
        binary = len(classes) == 2
        column = "contribution" if binary else f"contribution_{label}"
        for_class = classes[1] if binary else label
        piece = frame.columns[0]
        intercept, decision = (
            frame.attrs[name] if binary else frame.attrs[name][classes.index(label)]
            for name in ("intercept", "decision")
        )
        if not console.is_terminal:
            for row in frame.to_dict("records"):
                print(_safe(row[piece]), row["start"], row["end"], f"{row[column]:+.4f}", sep="\t")
            print("(intercept)", "", "", f"{intercept:+.4f}", sep="\t")
            print("(decision)", "", "", f"{decision:+.4f}", _safe(label), sep="\t")
            continue
        how = (
            "add up to"
            if frame.attrs["method"] == "exact"
            else "are what leaving a word out takes off"
        )
        console.print(
            Text.assemble(
                (f"{label}", "bold"),
                f"  words for {for_class} (blue) and against it (red); they {how} {decision:+.3f}",
            )
        )
        console.print(_coloured(_safe(text), text, frame, column))
        strongest = frame.reindex(frame[column].abs().sort_values(ascending=False).index)[:6]
        told = ", ".join(
            f"'{_safe(row[piece])}' {row[column]:+.3f}" for row in strongest.to_dict("records")
        )
        console.print(
            f"strongest: {told}; intercept {intercept:+.3f}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )


def _coloured(shown: str, text: str, frame: "pd.DataFrame", column: str) -> Text:
    """Colour the words of a text by their contributions: blue for, red against, the stronger the fuller."""
    if shown != text:  # escaped, so that the places are others: better plain than coloured wrongly
        return Text(shown)
    coloured = Text(text)
    inside = frame[frame["start"] < frame["end"]]
    most = max(float(inside[column].abs().max()), 1e-12) if len(inside) else 1.0
    for row in inside.to_dict("records"):
        strength = abs(row[column]) / most
        fade = round(235 - 150 * strength)
        colour = f"rgb({fade},{fade},255)" if row[column] > 0 else f"rgb(255,{fade},{fade})"
        coloured.stylize(f"black on {colour}", row["start"], row["end"])
    return coloured


def print_study(console: Console, study: "pd.DataFrame") -> None:
    """Print what `pipeline.layer_study` returns: layers by poolings, combinations, the best, and its honest score if known."""
    attrs = study.attrs
    metric, layers = attrs["scoring"], study[study["kind"] == "layer"]
    poolings = list(dict.fromkeys(layers["pooling"]))
    table = Table(
        "layer",
        *poolings,
        title=f"{metric} of each layer, {attrs['n_folds']}-fold cross-validation",
    )
    for name, of_layer in layers.groupby("features", sort=False):
        table.add_row(
            str(name).removeprefix("layer "), *(_score(row) for _, row in of_layer.iterrows())
        )
    console.print(table)
    combinations = study[study["kind"] == "combination"]
    if len(combinations):
        table = Table(
            "combination",
            "dimension",
            metric,
            "C",
            title=f"combinations of layers, pooling {combinations['pooling'].iloc[0]}",
        )
        for _, row in combinations.iterrows():
            table.add_row(row["features"], str(row["dimension"]), _score(row), f"{row['C']:g}")
        console.print(table)
    if attrs["left_out"]:
        console.print(
            f"Left out, for the model has {attrs['n_layers']} layers: {', '.join(attrs['left_out'])}."
        )
    best = study.iloc[int(study["score"].argmax())]
    choice = f"--pooling {best['pooling']} --layers {','.join(map(str, best['layers']))} --combine {best['combine']}"
    console.print(
        f"Best: {best['features']}, {best['pooling']}: {_score(best)} ({choice}; C={best['C']:g})."
    )
    nested = attrs["nested"]
    if nested is None:
        console.print("The best of many scores is too good; --nested says how good the choice is.")
        return
    console.print(
        f"Honest score of taking the best: {_score(nested)}, {nested['optimism']:.3f} below the best in the table."
    )
    chosen = "; ".join(f"{one['features']}, {one['pooling']}" for one in nested["chosen"])
    console.print(f"Chosen within the folds: {chosen}.")


def _score(row: Any) -> str:
    return f"{row['score']:.3f} ± {row['score_sd']:.3f}"
