"""tokens and models: what BERT makes of one text, and which models there are. Used by cli."""

from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table


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
        print(f"cut               {walk.n_lost} tokens did not fit into max_length={len(walk.tokens)}")
    print("last hidden state", f"{walk.last_hidden_state.shape}: texts, tokens, hidden size; one vector per token")
    print("[CLS] vector     ", f"{walk.cls_vector.shape}: the first of them, one vector for the text")
    print("all hidden states", f"{n_states}: the embedding output and {n_states - 1} layers, each {walk.last_hidden_state.shape}")


def models() -> None:
    """List the published BERT models, and which of them are on this machine."""
    from pipeline.checkpoints.catalogue import catalogue
    from pipeline.checkpoints.checkpoint import where

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("layers", "width", "heads", "parameters", "vocabulary"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in ("case", "language", "here", "name", "model"):  # ids last and unbroken, so that they can be copied
        table.add_column(name, no_wrap=True)
    for entry in catalogue():
        numbers = (entry.n_layers, entry.hidden_size, entry.n_heads, f"{entry.n_parameters / 1e6:.1f} M", entry.n_vocabulary)
        here = where(entry.model) or "no"
        table.add_row(*map(str, numbers), entry.case, entry.languages, here, entry.name, entry.model)
    Console(width=max(Console().width, 200)).print(table)  # a narrower terminal wraps the long ids, and only those
    print("Any other encoder of these families works too, by its hub id or folder.")
