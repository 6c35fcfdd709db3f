"""Commands inspect, verify, fetch, tokens and models."""

import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

from rich import box
from rich.console import Console
from rich.table import Column, Table
from typer import Argument, Option

from pipeline.commands.options import DEFAULT_ARTIFACT, ArtifactPath, BertModel, Trust
from pipeline.commands.printing import describe_inspection, describe_verification


def inspect(
    file: Annotated[str | None, Argument(help="A saved pipeline, .joblib or .skops.")] = None,
    pipeline: ArtifactPath = DEFAULT_ARTIFACT,
    json: Annotated[bool, Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Show the contents of a saved pipeline without unpickling it."""
    from json import dumps

    from pipeline.saved.artifact import inspect_pipeline

    inspection = inspect_pipeline(file or pipeline)
    lines = [dumps(inspection, indent=2)] if json else describe_inspection(inspection)
    print(*lines, sep="\n")


def verify(
    *,
    file: Annotated[
        str | None,
        Argument(help="A saved pipeline, or a model folder written by fetch."),
    ] = None,
    pipeline: ArtifactPath = DEFAULT_ARTIFACT,
    sha256: Annotated[
        str | None, Option(help="The expected hash, known from another source.")
    ] = None,
    trust: Trust,
) -> None:
    """Check a saved pipeline: hashes, signature, names and self-test."""
    from pipeline.checkpoints.checkpoint import verify_folder
    from pipeline.files import where
    from pipeline.saved.artifact import verify_pipeline

    place = where(file or pipeline)
    if isinstance(place, Path) and place.is_dir():
        hashes = verify_folder(place).items()
        lines = [f"{found}  {name}: as in SHA256SUMS" for name, found in hashes]
    else:
        checked = verify_pipeline(place, sha256=sha256, **trust.options())
        lines = list(describe_verification(place, checked))
    print(*lines, sep="\n")


def fetch(
    model: Annotated[str, Argument(help="BERT model: hub id.")],
    to: Annotated[str, Option(help="Folder for its files, created if missing.")],
    revision: Annotated[str | None, Option(help="Branch, tag or commit on the hub.")] = None,
) -> None:
    """Fetch a model to a folder for a machine without a connection."""
    from pipeline.checkpoints.checkpoint import fetch_to
    from pipeline.files import local_path, program

    folder = local_path(
        to, "folder", "models are read from local folders. Fetch it to one, and copy that."
    )
    commit, files = fetch_to(model, folder, revision)
    origin = f"commit {commit}" if commit else "the installed copy"
    print(f"{model} ({origin}) is in {folder}:")
    for name, size in files.items():
        print(f"{size:>12,} {name}")
    path = shlex.quote(str(folder))
    print(f"Use it anywhere by its folder: model={str(folder)!r}, or --bert {path}")
    print(
        f"Check it after copying: {program()} verify {path}, or cd {path} && sha256sum -c "
        "SHA256SUMS"
    )


def tokens(
    text: Annotated[str, Argument(help="One text.")],
    max_length: Annotated[int | None, Option(help="Pad or cut to this many tokens.")] = None,
    bert: BertModel = None,
) -> None:
    """Show the steps of BERT on one text."""
    from pipeline.vectorizer import DEFAULT_MODEL
    from pipeline.walk import walk_text

    walk = walk_text(text, model=bert or DEFAULT_MODEL, max_length=max_length)
    last, n_layers = walk.last_hidden_state.shape, len(walk.hidden_states) - 1
    print("tokens           ", *walk.tokens)
    print("input_ids        ", *walk.input_ids)
    print("attention_mask   ", *walk.attention_mask)
    if walk.n_lost:
        limit = f"max_length={len(walk.tokens)}"
        print(f"cut               {walk.n_lost} tokens did not fit into {limit}")
    print(f"last hidden state {last}: texts, tokens, hidden size; one vector per token")
    print(f"[CLS] vector      {walk.cls_vector.shape}: the first of them, one vector for the text")
    layers = f"the embedding output and {n_layers} layers, each {last}"
    print(f"all hidden states {n_layers + 1}: {layers}")


def models() -> None:
    """List published BERT models and other encoders."""
    from pipeline.checkpoints.catalogue import ENCODERS, catalogue
    from pipeline.checkpoints.checkpoint import where

    _print_models(
        "layers width heads parameters vocabulary",
        "case language here name model",
        (
            (entry.n_layers, entry.hidden_size, entry.n_heads, f"{entry.n_parameters / 1e6:.1f} M",
             entry.n_vocabulary, entry.case, entry.languages, where(entry.model) or "no",
             entry.name, entry.model)
            for entry in catalogue()
        ),
    )  # fmt: skip
    print("Worth trying for classification: published accuracy in per cent (MTEB: reviews of\n"
          "Amazon, film reviews, 77 intents of bank customers), not measured here")  # fmt: skip
    _print_models(
        "amazon imdb banking77 parameters",
        "pooling prompt licence language here model",
        (
            (entry.amazon, entry.imdb, entry.banking, entry.parameters,
             entry.pooling, repr(entry.prompt or "")[1:-1], entry.licence, entry.languages,
             where(entry.model) or "no", entry.model)
            for entry in ENCODERS
        ),
    )  # fmt: skip
    print(
        "Use pooling='checkpoint' (and prompt=, if one is listed) to run an encoder as its authors "
        "do.\nAny other encoder of these families works too, by hub id or folder: "
        "docs/models.md."
    )


def _print_models(numbers: str, words: str, rows: Iterable[Sequence[object]]) -> None:
    columns = [
        *(Column(name, justify="right", no_wrap=True) for name in numbers.split()),
        *(Column(name, no_wrap=True) for name in words.split()),
    ]
    table = Table(*columns, box=box.SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        table.add_row(*("" if value is None else str(value) for value in row))
    # only ids, at the end for copying, wrap in a narrower terminal
    Console(width=max(Console().width, 200)).print(table)
