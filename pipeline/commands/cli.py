"""The command line: its commands in order, one line for every mistake."""

import os
import sys
import warnings
from typing import Any, NoReturn

import typer
from rich.console import Console

from pipeline.commands.evaluate import compare_models, evaluate, explain, study_layers
from pipeline.commands.inspect import fetch, inspect, models, tokens, verify
from pipeline.commands.predict import predict
from pipeline.commands.report import report
from pipeline.commands.train import train

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Frozen BERT features and a LogisticRegression: train, predict, evaluate. Without a command: train with the defaults.",
)
# in the order of --help
app.command()(train)
app.command()(predict)
app.command()(evaluate)
app.command()(report)
app.command("layers")(study_layers)
app.command("compare")(compare_models)
app.command()(inspect)
app.command()(verify)
app.command()(explain)
app.command()(tokens)
app.command()(models)
app.command()(fetch)


def main() -> None:
    """Run the command line: one clear line and exit code 2 for a user's mistake, never a traceback."""
    warnings.showwarning = _show_warning
    try:
        try:
            app()
        finally:
            if sys.stdout is not None:  # None: closed, as by `>&-`
                sys.stdout.flush()  # here, where a reader that went away can still be forgiven
    except BrokenPipeError:  # as in `| head`
        _forgive_reader()
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # typer and rich make exit code 1 of it
            _forgive_reader()
        raise
    except (ValueError, TypeError, OSError, ImportError) as error:
        if os.environ.get("PIPELINE_TRACEBACK"):
            raise
        Console(stderr=True, soft_wrap=True, markup=False, highlight=False).print(
            f"Error: {' '.join(str(error).split())}"
        )
        sys.exit(2)


def _forgive_reader() -> NoReturn:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.exit(0)


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    Console(stderr=True, soft_wrap=True, markup=False, highlight=False).print(f"Warning: {message}")


@app.callback(invoke_without_command=True)
def _default(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        train()
