"""inspect, verify, fetch: files that are carried from machine to machine, looked at before they are trusted. Used by cli."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands.options import DEFAULT_ARTIFACT
from pipeline.printing import describe_inspection, describe_verification


def inspect(
    file: Annotated[str, typer.Argument(help="A saved pipeline, .joblib or .skops.")] = DEFAULT_ARTIFACT,
    json: Annotated[bool, typer.Option("--json", help="Everything, as JSON.")] = False,
) -> None:
    """Show what is in a saved pipeline without unpickling it: also one that is not to be trusted."""
    from pipeline.artifact import inspect_artifact

    found = inspect_artifact(file)
    if json:
        from json import dumps

        print(dumps(found, indent=2))
        return
    for line in describe_inspection(found):
        print(line)


def verify(
    file: Annotated[str, typer.Argument(help="A saved pipeline, or a model folder written by fetch.")] = DEFAULT_ARTIFACT,
    sha256: Annotated[str | None, typer.Option(help="The hash it must have, as you know it from elsewhere.")] = None,
) -> None:
    """Check a saved pipeline: the hashes of file and weights, every name in it, and its answers to the probe texts."""
    from pipeline.artifact import verify_artifact
    from pipeline.checkpoints.provenance import verify_folder
    from pipeline.files import where

    place = where(file)
    if isinstance(place, Path) and place.is_dir():
        for name, found in verify_folder(place).items():
            print(f"{found}  {name}: as in SHA256SUMS")
        return

    for line in describe_verification(place, verify_artifact(place, sha256=sha256)):
        print(line)


def fetch(
    model: Annotated[str, typer.Argument(help="BERT model: hub id.")],
    to: Annotated[str, typer.Option(help="Folder for its files; made where it is missing.")],
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit on the hub.")] = None,
) -> None:
    """Fetch a model to a folder that can be carried to a machine without a connection: files, SHA256SUMS, origin."""
    from pipeline.checkpoints.model_folder import fetch_to
    from pipeline.files import local_path

    folder = local_path(to, "folder", "a model is read from one. Fetch it to a folder, and copy that.")
    fetched = fetch_to(model, folder, revision)
    at = f"commit {fetched.revision}" if fetched.revision else "the installed copy"
    print(f"{fetched.model} ({at}) is in {fetched.folder}:")
    for name, size in fetched.files.items():
        print(f"{size:>12,} {name}")
    path = shlex.quote(str(fetched.folder))
    print(f"Use it anywhere by its folder: model={str(fetched.folder)!r}, or --model {path}")
    print(f"Check it after copying: python run_pipeline.py verify {path}, or cd {path} && sha256sum -c SHA256SUMS")
