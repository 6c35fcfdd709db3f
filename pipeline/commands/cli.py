"""The command line: all commands, and errors in one line."""

import os
import sys
import warnings
from functools import cache
from typing import Annotated, NoReturn

from typer import Context, Exit, Option, Typer

from pipeline import __version__
from pipeline.commands.evaluate import compare, evaluate, explain, labels, layers, report
from pipeline.commands.inspect import fetch, inspect, models, tokens, verify
from pipeline.commands.options import Command, with_groups
from pipeline.commands.predict import predict
from pipeline.commands.printing import note
from pipeline.commands.train import train
from pipeline.files import program
from pipeline.progress import progress, without_bar

app = Typer(
    add_completion=False,
    context_settings={"help_option_names": ["--help", "-h"]},
    pretty_exceptions_enable=False,
    help="Frozen BERT features and a LogisticRegression: train, predict, evaluate. "
    "Without a command: train with the defaults.",
)
for command in (  # as in --help
    train, predict, evaluate, report, labels, layers, compare, inspect, verify, explain, tokens,
    models, fetch,
):  # fmt: skip
    app.command(cls=Command)(with_groups(command))


def main() -> None:
    """Run a command; a user error is one line and exit code 2."""
    warnings.showwarning = lambda message, *_, **__: _show(str(message))
    _show.cache_clear()
    try:
        try:
            with progress(shown=True):
                app(prog_name=program())
        finally:
            if sys.stdout is not None:  # None: closed, as by `>&-`
                sys.stdout.flush()  # while a closed pipe is handled
    except BrokenPipeError:
        _end_quietly()
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # typer and rich exit with code 1
            _end_quietly()
        raise
    except (ValueError, TypeError, OSError, ImportError) as error:
        if os.environ.get("PIPELINE_TRACEBACK"):
            raise
        message = " ".join([str(error), *getattr(error, "__notes__", [])])
        note(f"Error: {' '.join(message.split())}")
        sys.exit(2)


def _end_quietly() -> NoReturn:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.exit(0)


@cache  # train, compare and evaluate see the same texts
def _show(warning: str) -> None:
    with without_bar():
        note(f"Warning: {warning}")


@app.callback(invoke_without_command=True)
def _default(
    context: Context,
    version: Annotated[bool, Option("--version", help="Show the version and exit.")] = False,
) -> None:
    if version:
        print(f"bert-vectorizer {__version__}")
        raise Exit
    if context.invoked_subcommand is None:
        with_groups(train)()
