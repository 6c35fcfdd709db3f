"""inspect, verify, fetch, tokens, models."""

import shlex
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from pipeline.commands.options import DEFAULT_ARTIFACT
from pipeline.commands.printing import describe_inspection, describe_verification


def inspect(
    file: Annotated[
        str, typer.Argument(help="A saved pipeline, .joblib or .skops.")
    ] = DEFAULT_ARTIFACT,
    json: Annotated[bool, typer.Option("--json", help="Everything, as JSON.")] = False,
) -> None:
    """Show what is in a saved pipeline without unpickling it: also one that is not to be trusted."""
    from pipeline.saved.artifact import inspect_pipeline

    found = inspect_pipeline(file)
    if json:
        from json import dumps

        print(dumps(found, indent=2))
        return
    for line in describe_inspection(found):
        print(line)


def verify(
    file: Annotated[
        str, typer.Argument(help="A saved pipeline, or a model folder written by fetch.")
    ] = DEFAULT_ARTIFACT,
    sha256: Annotated[
        str | None, typer.Option(help="The hash it must have, as you know it from elsewhere.")
    ] = None,
) -> None:
    """Check a saved pipeline: the hashes of file and weights, every name in it, and its answers to the probe texts."""
    from pipeline.checkpoints.provenance import verify_folder
    from pipeline.files import where
    from pipeline.saved.artifact import verify_pipeline

    place = where(file)
    if isinstance(place, Path) and place.is_dir():
        for name, found in verify_folder(place).items():
            print(f"{found}  {name}: as in SHA256SUMS")
        return

    for line in describe_verification(place, verify_pipeline(place, sha256=sha256)):
        print(line)


def fetch(
    model: Annotated[str, typer.Argument(help="BERT model: hub id.")],
    to: Annotated[str, typer.Option(help="Folder for its files; made where it is missing.")],
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit on the hub.")] = None,
) -> None:
    """Fetch a model to a folder that can be carried to a machine without a connection: files, SHA256SUMS, origin."""
    from pipeline.checkpoints.carry import fetch_to
    from pipeline.files import local_path

    folder = local_path(
        to, "folder", "a model is read from one. Fetch it to a folder, and copy that."
    )
    fetched = fetch_to(model, folder, revision)
    at = f"commit {fetched.revision}" if fetched.revision else "the installed copy"
    print(f"{fetched.model} ({at}) is in {fetched.folder}:")
    for name, size in fetched.files.items():
        print(f"{size:>12,} {name}")
    path = shlex.quote(str(fetched.folder))
    print(f"Use it anywhere by its folder: model={str(fetched.folder)!r}, or --model {path}")
    print(
        f"Check it after copying: python run_pipeline.py verify {path}, or cd {path} && sha256sum -c SHA256SUMS"
    )


def tokens(
    text: Annotated[str, typer.Argument(help="One text.")],
    max_length: Annotated[int | None, typer.Option(help="Pad or cut to this many tokens.")] = None,
    model: Annotated[str | None, typer.Option(help="BERT model: hub id or folder.")] = None,
) -> None:
    """Show what BERT makes of one text: tokens, ids, attention mask and the shapes of its vectors."""
    from pipeline.vectorizer import DEFAULT_MODEL
    from pipeline.walk import walk_text

    walk = walk_text(text, model=model or DEFAULT_MODEL, max_length=max_length)
    n_states = len(walk.hidden_states)
    print("tokens           ", *walk.tokens)
    print("input_ids        ", *walk.input_ids)
    print("attention_mask   ", *walk.attention_mask)
    if walk.n_lost:
        print(
            f"cut               {walk.n_lost} tokens did not fit into max_length={len(walk.tokens)}"
        )
    print(
        "last hidden state",
        f"{walk.last_hidden_state.shape}: texts, tokens, hidden size; one vector per token",
    )
    print(
        "[CLS] vector     ", f"{walk.cls_vector.shape}: the first of them, one vector for the text"
    )
    print(
        "all hidden states",
        f"{n_states}: the embedding output and {n_states - 1} layers, each {walk.last_hidden_state.shape}",
    )


def models() -> None:
    """List the published BERT models, and which of them are on this machine."""
    from pipeline.checkpoints.catalogue import catalogue
    from pipeline.checkpoints.checkpoint import where

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("layers", "width", "heads", "parameters", "vocabulary"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in (
        "case",
        "language",
        "here",
        "name",
        "model",
    ):  # ids last and unbroken, so that they can be copied
        table.add_column(name, no_wrap=True)
    for entry in catalogue():
        numbers = (
            entry.n_layers,
            entry.hidden_size,
            entry.n_heads,
            f"{entry.n_parameters / 1e6:.1f} M",
            entry.n_vocabulary,
        )
        here = where(entry.model) or "no"
        table.add_row(
            *map(str, numbers), entry.case, entry.languages, here, entry.name, entry.model
        )
    Console(width=max(Console().width, 200)).print(
        table
    )  # a narrower terminal wraps the long ids, and only those
    print("Any other encoder of these families works too, by its hub id or folder.")
