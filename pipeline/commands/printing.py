"""Output of the commands."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from pipeline.files import program
from pipeline.tables import never_predicted, strongest

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd


def say(text: str) -> None:
    """Print a text; only a terminal wraps its lines."""
    plain_console().print(text)


def note(text: str) -> None:
    """Print a text on standard error."""
    plain_console(stderr=True).print(text)


def plain_console(*, stderr: bool = False) -> Console:
    """Return a console that prints texts, and titles of tables in a pipe, unchanged."""
    console = Console(stderr=stderr, markup=False, highlight=False)
    console.soft_wrap = not console.is_terminal
    return console


def print_cut(*reports: dict[str, Any]) -> None:
    """If most texts are truncated, say how to read them whole."""
    for report in reports:
        if 2 * report["texts_cut"] <= report["n_texts"]:
            continue
        cost = ""
        if "n_tokens" in report:
            times = report["n_tokens"] / (report["n_tokens"] - report["tokens_lost"])
            cost = f", {times:.1f} times as many tokens"
        say(
            f"{report['texts_cut']} of {report['n_texts']} texts are truncated. train --truncation "
            f"window --max-length 128 reads them whole{cost} (docs/long-texts.md)."
        )


def describe_inspection(inspection: dict[str, Any]) -> Iterator[str]:
    """Yield lines about an inspected file, control characters escaped."""
    yield f"{inspection['path']}: {inspection['format']}, {inspection['size'] / 1e6:.1f} MB"
    names, refused = inspection["names"], inspection["refused"]
    if refused is None:
        unknown = "install skops to see which of them would be refused"
        yield f"names     {len(names)}; {unknown}"
    elif refused:
        yield f"REFUSED   {', '.join(map(_safe, refused))}: load_pipeline will not open this file"
    else:
        yield f"names     {len(names)}, all allowed"
    for problem in inspection["problems"]:
        yield f"REFUSED   {_safe(problem)}"
    for name in names:
        yield f"          {_safe(name)}{' <- REFUSED' if name in (refused or ()) else ''}"
    yield from _describe_manifest(inspection["manifest"])
    for public in inspection["signed_by"] or ():
        yield f"signature by {public}, not compared: {program()} verify --trusted-key does"
    yield "contents"
    yield from _describe_contents(inspection["contents"], "  ")


def _describe_manifest(manifest: dict[str, Any] | None) -> Iterator[str]:
    if manifest is None or "error" in manifest:
        yield f"manifest  {_safe(manifest['error']) if manifest else 'none'}"
        return
    yield f"manifest  (unverified, as found beside the file; {program()} verify compares)"
    for key in ("sha256", "created", "classes", "n_training_texts", "scores"):
        if manifest.get(key) is not None:
            yield f"  {key}: {_safe(manifest[key])}"
    versions = (f"{name} {version}" for name, version in manifest["versions"].items())
    yield f"  versions: {', '.join(map(_safe, versions))}"
    for vectorizer in manifest["vectorizers"]:
        for key, value in vectorizer.items():
            yield f"  {_safe(key)}: {_safe(value)}"
    probes = manifest["probes"]
    if probes is None:
        yield "  probes: none, so it has no self-test"
        return
    yield f"  probes, by {_safe(probes['method'])}:"
    for text, output in zip(probes["inputs"], probes["outputs"], strict=False):
        if isinstance(output, list):
            output = [round(value, 4) if isinstance(value, float) else value for value in output]
        yield f"    {_safe(output)[:100]}  {_safe(text)}"


def _describe_contents(value: Any, indent: str) -> Iterator[str]:
    if isinstance(value, dict):
        items = [(f"{_safe(key)}:", inner) for key, inner in value.items()]
    else:
        items = [("-", inner) for inner in (value if isinstance(value, list) else [value])]
    for label, inner in items:
        if _fits_a_line(inner):
            yield f"{indent}{label} {_safe(inner)}"
        else:
            yield f"{indent}{label}"
            yield from _describe_contents(inner, f"{indent}  ")


def _fits_a_line(value: Any) -> bool:
    if isinstance(value, list):
        is_flat = not any(isinstance(inner, dict | list) for inner in value)
        return is_flat and len(str(value)) < 100
    return not (isinstance(value, dict) and value)


def describe_verification(path: Path | str, result: dict[str, Any]) -> Iterator[str]:
    """Yield a line per check of a file."""
    yield f"{path}: complete and as saved"
    yield f"  size      {result['size']} bytes, as in the manifest"
    yield f"  sha256    {result['sha256']}, as in the manifest"
    yield f"  names     {result['names']}, all allowed"
    for model, sha256 in result["weights"].items():
        yield f"  weights   of {_safe(model)}: sha256 {sha256}"
    changed = "; ".join(map(_safe, result["versions"]))
    yield f"  versions  {changed or 'the same as when saved'}"
    probes = result["probes"]
    if probes is None:
        yield "  probes    none in the manifest: no self-test"
    else:
        allowed = f"to {probes['difference']:.1g} (allowed {probes['tolerance']:g})"
        yield f"  probes    {probes['n']} answered as when saved, {allowed}"


def _safe(value: Any) -> str:
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(value))


def print_labels(
    columns: Mapping[str, Iterable[Any]],
    probability: "np.ndarray",
    texts: Iterable[str],
    *,
    heading: str = "probability",
    named: bool = False,
) -> None:
    """Print labels and probabilities, (n_texts, n), as a table or as lines."""
    console, header = Console(), (*columns, heading, "text")
    table = Table(*header)
    if named and not console.is_terminal:
        print(*header, sep="\t")
    for *labels, values, text in zip(*columns.values(), probability.tolist(), texts, strict=True):
        if console.is_terminal:
            table.add_row(*map(str, labels), " ".join(map(_number, values)), text)
        else:
            numbers = ("-" if value != value else f"{value:.4f}" for value in values)
            print(*labels, *numbers, text, sep="\t")
    if console.is_terminal:
        console.print(table, markup=False)


_COSTS = {"fit_seconds": "fit, s", "predict_seconds": "s per 1,000", "artifact_mb": "file, MB"}


def print_comparison(comparison: "pd.DataFrame", title: str) -> None:
    """Print scores, verdicts and costs of compared models."""
    known = [column for column in _COSTS if comparison[column].notna().any()]
    scores = _wide_table("accuracy", "macro\nF1", "bal.\nacc.", "ROC\nAUC", "log\nloss")
    scores.title = title
    scoring = comparison.attrs["scoring"]
    judged = "" if scoring == "accuracy" else f", {scoring}"
    against = _wide_table(f"points to TF-IDF{judged}", "verdict")
    costs = _wide_table("calibration", *(_COSTS[column] for column in known))
    for name, row in comparison.iterrows():
        accuracy, sd = _number(row["accuracy"]), row["accuracy_sd"]
        spread = "" if sd != sd else f" ± {sd:.3f}"
        metrics = ("macro_f1", "balanced_accuracy", "roc_auc", "log_loss")
        others = (_number(row.get(metric)) for metric in metrics)
        scores.add_row(str(name), accuracy + spread, *others)
        points, low, high = (
            100 * row[column] for column in ("difference", "difference_low", "difference_high")
        )
        difference = f"{points:+.1f} ({low:+.1f} to {high:+.1f})"
        verdict = row["verdict"]
        against.add_row(str(name), "" if verdict == "baseline" else difference, verdict)
        sizes = (_size(row[column]) for column in known)
        costs.add_row(str(name), _number(row["calibration_error"]), *sizes)
    plain_console().print(scores, "", against, "", costs, "")
    for name, reason in comparison.attrs["left_out"].items():
        say(f"Left out: {name} ({reason}).")
    for name, classes in comparison.attrs["never_predicted"].items():
        say(f"{name}: {_safe(never_predicted(classes))}")


def _wide_table(*headers: str) -> Table:
    """Return a table whose lines break in narrow terminals."""
    columns = (Column(header, overflow="fold") for header in ("model", *headers))
    style: Any = {"box": box.SIMPLE_HEAD, "show_edge": False, "pad_edge": False}
    return Table(*columns, padding=(0, 1, 0, 0), **style)


def _number(value: float | None) -> str:
    # None or NaN: a fold or the test lacks a class
    return "-" if value is None or value != value else f"{value:.3f}"


def _size(value: float) -> str:
    if value != value:
        return "-"
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}" if value >= 0.01 else "< 0.01"


def print_scores(console: Console, scores: dict[str, Any], title: str) -> None:
    """Print scores, groups and the surest mistakes."""
    interval = scores["intervals"].get("accuracy")
    between = " ({:.3f} to {:.3f})".format(*interval) if interval else ""
    labels = Table("texts", "accuracy (95 %)", "macro F1", "balanced accuracy", "F1", title=title)
    others = (_number(scores[name]) for name in ("macro_f1", "balanced_accuracy", "f1"))
    labels.add_row(str(scores["n_texts"]), _number(scores["accuracy"]) + between, *others)
    probabilities = Table("ROC-AUC", "log loss", "calibration")
    names = ("roc_auc", "log_loss", "calibration_error")
    probabilities.add_row(*(_number(scores[name]) for name in names))
    console.print(labels)
    console.print(probabilities)
    if unseen := scores["never_predicted"]:
        say(_safe(never_predicted(unseen)))
    for name, groups in scores["slices"].items():
        if len(groups) > 1:
            parts = Table(name, "texts", "accuracy", "95 % interval")
            for group in groups:
                interval = "{:.3f} to {:.3f}".format(*group["interval"])
                accuracy = f"{group['accuracy']:.3f}"
                parts.add_row(_safe(group["value"]), str(group["n_texts"]), accuracy, interval)
            console.print(parts, markup=False)
    if issues := scores["label_issues"]:
        say(f"Labels that are probably wrong: {issues['n_texts']}.")
    for mistake in scores["mistakes"]:
        probability = mistake["probability"]
        sure = " (no class)" if probability is None else f" ({probability:.3f})"
        if scores["log_loss"] is None:
            sure = ""
        labels_of = f"{mistake['true']} taken for {mistake['predicted']}{sure}"
        say(f"row {mistake['row']}: {labels_of}: {_safe(mistake['text'])}")


def print_issues(issues: "pd.DataFrame", most: int) -> None:
    """Print the most doubtful labels."""
    doubted = issues[issues["issue"]]
    say(f"{len(doubted)} of {len(issues)} labels are probably wrong.")
    if most > 0 and len(doubted):
        print("row", "label", "suggested", "probability", "text", sep="\t")
    for row in doubted[: max(most, 0)].itertuples():
        given, suggested, text = map(_safe, (row.label, row.suggested, row.text))
        print(row.Index, given, suggested, f"{row.probability:.3f}", text, sep="\t")


def print_explanations(
    texts: Sequence[str], frames: "Sequence[pd.DataFrame]", labels: Sequence[Any]
) -> None:
    """Print texts with coloured words, or lines for a pipe."""
    console = Console()
    for text, frame, label in zip(texts, frames, labels, strict=True):
        parts, (red, blue) = frame.attrs.get("parts", []), frame.attrs["classes"]
        intercept, decision = frame.attrs["intercept"], frame.attrs["decision"]
        frame = frame.rename(columns={"token": "word"})
        if not console.is_terminal:
            for row in frame.to_dict("records"):
                numbers = [f"{row[name]:+.4f}" for name in ("contribution", *parts)]
                print(_safe(row["word"]), row["start"], row["end"], *numbers, sep="\t")
            print("(intercept)", "", "", f"{intercept:+.4f}", sep="\t")
            print("(decision)", "", "", f"{decision:+.4f}", _safe(label), sep="\t")
            continue
        is_sum = frame.attrs["method"] == "exact"
        how = "add up to" if is_sum else "show the effect of leaving a word out on"
        legend = f"words for {blue} (blue) and for {red} (red)"
        result = f"  {legend}; they {how} {decision:+.3f}"
        console.print(Text.assemble((str(label), "bold"), result))
        console.print(_coloured(text, frame))
        words = [
            f"'{_safe(row['word'])}' {row['contribution']:+.3f}"
            for row in strongest(frame.to_dict("records"), 6)
        ]
        others = frame[frame["start"] == frame["end"]]["contribution"].sum()
        rest = [("special tokens", others)] if is_sum else []
        added = [f"{name} {value:+.3f}" for name, value in [*rest, ("intercept", intercept)]]
        say(f"strongest: {', '.join(words)}; {', '.join(added)}")
        if parts:
            each = ", ".join(f"{_safe(part)} {frame[part].sum():+.3f}" for part in parts)
            say(f"words by part: {each}")


def _coloured(text: str, frame: "pd.DataFrame") -> Text:
    coloured = Text(_safe(text))
    if coloured.plain != text:  # escaping moved the positions: print it plain
        return coloured
    inside = frame[frame["start"] < frame["end"]].to_dict("records")
    largest = max((abs(row["contribution"]) for row in inside), default=0.0) or 1.0
    for row in inside:
        fade = round(235 - 150 * abs(row["contribution"]) / largest)
        colour = f"rgb({fade},{fade},255)" if row["contribution"] > 0 else f"rgb(255,{fade},{fade})"
        coloured.stylize(f"black on {colour}", row["start"], row["end"])
    return coloured


def print_study(study: "pd.DataFrame") -> None:
    """Print a layer study and its best row."""
    console, attrs = plain_console(), study.attrs
    metric, layers = attrs["scoring"], study[study["kind"] == "layer"]
    title = f"{metric} of each layer, {attrs['n_folds']}-fold cross-validation"
    table = Table("layer", *layers["pooling"].unique(), title=title)
    for name, rows in layers.groupby("features", sort=False):
        table.add_row(
            str(name).removeprefix("layer "), *(_score(row) for _, row in rows.iterrows())
        )
    console.print(table)
    combinations = study[study["kind"] == "combination"]
    if len(combinations):
        title = f"combinations of layers, pooling {combinations['pooling'].iloc[0]}"
        table = Table("combination", "dimension", metric, "C", title=title)
        for _, row in combinations.iterrows():
            table.add_row(row["features"], str(row["dimension"]), _score(row), f"{row['C']:g}")
        console.print(table)
    if attrs["left_out"]:
        names = ", ".join(attrs["left_out"])
        say(f"Left out, because the model has {attrs['n_layers']} layers: {names}.")
    best = study.iloc[int(study["score"].argmax())]
    layers_option = ",".join(map(str, best["layers"]))
    choice = f"--pooling {best['pooling']} --layers {layers_option} --combine {best['combine']}"
    name = f"{best['features']}, {best['pooling']}"
    say(f"Best: {name}: {_score(best)} ({choice} --C {best['C']:g}).")
    nested = attrs["nested"]
    if nested is None:
        say("Picking the best of many scores is optimistic; use --nested for an unbiased estimate.")
        return
    below = f"{nested['optimism']:.3f} below the best in the table"
    say(f"Unbiased score of picking the best: {_score(nested)}, {below}.")
    chosen = "; ".join(f"{row['features']}, {row['pooling']}" for row in nested["chosen"])
    say(f"Chosen within the folds: {chosen}.")


def _score(row: Any) -> str:
    return f"{row['score']:.3f} ± {row['score_sd']:.3f}"
