"""Results of evaluations as a notebook shows them."""

from typing import Any

import pandas as pd

from pipeline.notebook import (
    Html,
    block,
    coloured_pieces,
    columns_of,
    escaped,
    paragraph,
    table_html,
    tiles,
    words_html,
)
from pipeline.tables import (
    SCORES,
    Table,
    class_table,
    comparison_table,
    conclusion,
    layers_table,
    never_predicted,
    number,
    of_labels,
    score_cards,
    score_names,
    shortened,
)

_COMPARED = ("accuracy", "accuracy_sd", "difference", "difference_low", "difference_high")
_ALSO_COMPARED = ("verdict", "macro_f1", "log_loss", "fit_seconds", "predict_seconds")
_STUDIED = "kind features pooling layers combine dimension score score_sd C".split()
_FEW, _SOME = 5, 10  # groups and mistakes to show; least texts of a group


class Scores(dict[str, Any]):
    """The dict of `evaluate`, shown as cards in a notebook."""

    def _is_whole(self) -> bool:
        return {"n_texts", "classes", "intervals", "by_class", "slices", "mistakes"} <= set(self)

    def __repr__(self) -> str:
        if not self._is_whole():
            return super().__repr__()
        lines = [f"Scores on {self['n_texts']:,} texts, {len(self['classes'])} classes"]
        for name, (label, _) in score_names(self).items():
            if self[name] is not None:
                between = _between(self["intervals"].get(name))
                lines.append(f"  {label:<18} {self[name]:.3f}  {between}".rstrip())
        lines.append(f"  {len(self['mistakes'])} mistakes are listed. A dict of {', '.join(self)}.")
        return "\n".join(lines)

    def _repr_html_(self) -> str | None:
        if not self._is_whole():
            return None
        intervals = self["intervals"]
        cards = [
            (label, number(self[name]), _between(intervals.get(name)))
            for name, label in score_cards(self).items()
        ]
        reasons: dict[str, list[str]] = {}
        for name, why in (self.get("not_scored") or {}).items():
            reasons.setdefault(why, []).append(SCORES[name][0])
        absent = "; ".join(f"{', '.join(names)} ({why})" for why, names in reasons.items())
        unseen = self.get("never_predicted")
        issues = (self.get("label_issues") or {}).get("n_texts", 0)
        doubted = f"Labels that are probably wrong: {issues:,}; see ['label_issues']."
        known = f"95 % intervals in small. A dict of {', '.join(self)}."
        return block(
            paragraph(conclusion(self)),
            tiles(cards),
            paragraph(f"Not scored: {absent}." if absent else "", "muted"),
            paragraph(never_predicted(unseen) if unseen else "", "bad"),
            columns_of(table_html(class_table(self)), self._weakest()),
            self._mistakes(),
            paragraph(doubted if issues else "", "muted"),
            paragraph(known, "muted"),
        )

    def _weakest(self) -> str:
        groups = [
            (group["accuracy"], f"{name.removeprefix('by ')}: {group['value']}", group)
            for name, own in self["slices"].items()
            if len(own) > 1
            for group in own
            if group["n_texts"] >= _SOME
        ]
        rows = [
            [shortened(name, 40), f"{group['n_texts']:,}", number(accuracy),
             _between(group["interval"])]
            for accuracy, name, group in sorted(groups, key=lambda group: group[:2])[:_FEW]
        ]  # fmt: skip
        header = ("Group", "Texts", "Accuracy", "95 % interval")
        return table_html(Table("The weakest groups", header, rows)) if rows else ""

    def _mistakes(self) -> str:
        rows = []
        for mistake in self["mistakes"][:_FEW]:
            words = (mistake.get("explanation") or {}).get("words") or []
            text = words_html(coloured_pieces(mistake["text"], words, most=300))
            said = [of_labels(mistake["predicted"]), of_labels(mistake["true"])]
            cell = Html(f'<span class="text" dir="auto">{text}</span>')
            rows.append([*said, number(mistake["probability"]), cell])
        blue = "one label" if self.get("multilabel") else "the prediction"
        header = ("Predicted", "True", "Probability", f"Text; words for {blue} are blue")
        caption = f"The surest mistakes, {len(rows)} of those in ['mistakes']"
        return table_html(Table(caption, header, rows, (1, 3))) if rows else ""


def _between(interval: Any) -> str:
    return "{:.3f} to {:.3f}".format(*interval) if interval else ""


class AttributedFrame(pd.DataFrame):
    """A DataFrame with ``attrs`` as attributes, kept by copies and selections.

    A notebook shows a comparison or layer study rounded, with the best marked.
    """

    @property
    def _constructor(self) -> Any:
        return type(self)

    def __getattr__(self, name: str) -> Any:  # type: ignore[misc]  # final in the stubs only
        attrs = object.__getattribute__(self, "_attrs")
        return attrs[name] if name in attrs else super().__getattr__(name)

    def _repr_html_(self) -> str | None:
        plain: str | None = super()._repr_html_()  # type: ignore[misc]
        if plain is None or self.empty:
            return plain
        if {*_COMPARED, *_ALSO_COMPARED} <= set(self.columns):
            return _comparison_html(self)
        if set(_STUDIED) <= set(self.columns) and "scoring" in self.attrs:
            return _study_html(self)
        return plain


def _comparison_html(comparison: pd.DataFrame) -> str:
    attrs = comparison.attrs
    shown = comparison[[*_COMPARED, *_ALSO_COMPARED]].astype(object)
    named = shown.where(shown.notna(), None).rename_axis("model").reset_index()
    rows: Any = named.to_dict("records")
    best = int(comparison["difference"].fillna(-float("inf")).argmax())
    folds = attrs.get("n_folds")
    how = "one split" if folds == "split" else f"{folds} folds"
    caption = f"{attrs['n_tested']:,} texts, {how}" if "n_tested" in attrs else "Models"
    judged = attrs.get("scoring", "accuracy")
    of = "" if judged == "accuracy" else f" of {judged}"
    caption += f"; ± standard deviation over the folds, and the difference{of} with its interval"
    left_out = "; ".join(f"{name} ({why})" for name, why in (attrs.get("left_out") or {}).items())
    others = ", ".join(name for name in comparison.columns if name not in shown)
    return block(
        table_html(comparison_table(rows)._replace(caption=caption, best=[best])),
        paragraph(f"Left out: {left_out}." if left_out else "", "muted"),
        paragraph(f"A DataFrame; more columns: {others}." if others else "", "muted"),
    )


def _study_html(study: pd.DataFrame) -> str:
    attrs: dict[Any, Any] = study.attrs
    place = int(study["score"].argmax())
    best = study.iloc[place]
    is_layer = (study["kind"] == "layer").to_numpy()
    poolings = list(dict.fromkeys(study["pooling"][is_layer]))
    numbers = [*range(attrs.get("n_layers", 0) + 1)] * len(poolings)
    whole = [own[0] for own in study["layers"][: len(numbers)]] == numbers
    whole = whole and is_layer.tolist() == sorted(is_layer.tolist(), reverse=True)
    if not whole:
        rows: Any = study.astype(object).to_dict("records")
        table = layers_table(rows, attrs, "", in_order=True)
        return block(table_html(table._replace(best=[place])))
    low, high = study["score"].min(), study["score"].max()

    def cell(row: Any) -> Html:
        share = (row.score - low) / max(high - low, 1e-12)
        strong = " best" if row.score == high else ""
        return Html(
            f'<span class="heat{strong}" style="--w:{share:.2f}">{row.score:.3f} '
            f"<small>± {row.score_sd:.3f}</small></span>"
        )

    by_place = {(row.features, row.pooling): cell(row) for row in study[is_layer].itertuples()}
    layers = list(dict.fromkeys(study["features"][is_layer]))[::-1]  # the text enters below
    grid = [[name, *(by_place.get((name, own), "") for own in poolings)] for name in layers]
    combined = [
        [str(row.features), cell(row), f"{row.dimension:,}", f"{row.C:g}"]
        for row in study[~is_layer].itertuples()
    ]
    metric = str(attrs["scoring"]).replace("_", " ")
    header = ("Combination", metric.capitalize(), "Dimension", "C")
    beside = Table(f"Combinations, pooling {study['pooling'].iloc[-1]}", header, combined)
    nested = attrs.get("nested")
    unbiased = (
        "Picking the best of many scores is optimistic; use nested=True for an unbiased estimate."
        if nested is None
        else f"Unbiased score of picking the best: {nested['score']:.3f} ± "
        f"{nested['score_sd']:.3f}, {nested['optimism']:.3f} lower."
    )
    parameters = (
        f"layers={best['layers']}, pooling={best['pooling']!r}, combine={best['combine']!r}"
    )
    said = (
        f"Best: {escaped(best['features'])}, {escaped(best['pooling'])}: {best['score']:.3f}, "
        f"<code>BertVectorizer({escaped(parameters)})</code>. {escaped(unbiased)}"
    )
    how = f"{metric.capitalize()}, mean ± standard deviation of {attrs.get('n_folds')} folds."
    return block(
        paragraph(how, "muted"),
        columns_of(
            table_html(Table("Layers", ("Layer", *poolings), grid)),
            table_html(beside) if combined else "",
        ),
        paragraph(Html(said)),
    )
