"""Shards whose worker died: tried again alone, then halved until the rows that kill are found. Used by table."""

from collections.abc import Callable, Iterator
from dataclasses import replace

from pipeline.scoring.executors import Executor, Function
from pipeline.scoring.shard import Died, Outcome, Shard

_ROUNDS = 3
_MOST_KILLERS = 100


def score_alone(executor: Executor, score: Function, attempt: Function, shard: Shard, died: Died) -> Outcome:
    """Score a shard that a worker died with; if a row kills whoever scores it, mark that row and score the others.

    Whoever died may have been killed from outside, so the shard is tried again first, with nothing beside it. Only if it kills
    again, its rows are halved, each half in a process of its own.

    Parameters
    ----------
    executor : Executor
    score : callable
        Scores a shard and writes its part.
    attempt : callable
        Scores a shard and writes nothing.
    shard : Shard
    died : Died
        Of the first time.

    Returns
    -------
    Outcome

    Raises
    ------
    ChildProcessError
        Where workers die whatever they score: then it is no row's fault.
    """
    for _ in range(_ROUNDS):
        ended = _alone(executor, score, shard)
        if isinstance(ended, Outcome):
            return ended
        died = ended
        if all(isinstance(_alone(executor, attempt, shard.rows(0, 0)), Died) for _ in range(2)):
            raise ChildProcessError(
                f"worker processes die before they score a row ({died.reason}): is the memory too small for the model in each of "
                "them? Set fewer workers. What is finished is kept."
            )
        killers = dict(_killers(executor, attempt, shard))
        if not killers:  # not one row, and not by chance: all of them together, or the machine
            continue
        if len(shard.marked) + len(killers) > _MOST_KILLERS:
            raise ChildProcessError(
                f"more than {_MOST_KILLERS} rows from row {shard.first_row} on kill the process that scores them "
                f"({died.reason}): that is hardly the rows' fault. What is finished is kept."
            )
        shard = replace(shard, marked=tuple(sorted({**dict(shard.marked), **killers}.items())))
    raise ChildProcessError(
        f"workers keep dying with the rows {shard.first_row} to {shard.first_row + shard.n_rows - 1} ({died.reason}), and with "
        "no single one of them: is the memory too small? Set fewer workers, or fewer shard_rows. What is finished is kept."
    )


def _alone(executor: Executor, function: Callable[[Shard], Outcome], shard: Shard) -> Outcome | Died:
    ((_, ended),) = list(executor.run(function, [shard]))
    return ended


def _killers(executor: Executor, attempt: Function, shard: Shard) -> Iterator[tuple[int, str]]:
    """Yield the rows, as numbers of the whole table, that kill a process by themselves."""
    suspects = [shard]
    n_found = 0
    while suspects and n_found <= _MOST_KILLERS:
        halves = [half for suspect in suspects for half in _halves(suspect)]
        ended = list(executor.run(attempt, halves))
        suspects = []
        for half, outcome in sorted(ended, key=lambda one: one[0].first_row):
            if isinstance(outcome, Outcome):
                continue
            if half.n_rows > 1:
                suspects.append(half)
            elif isinstance(_alone(executor, attempt, half), Died):  # twice: no chance
                n_found += 1
                yield half.first_row, "it kills the process that scores it"  # not how: that depends on the executor


def _halves(shard: Shard) -> list[Shard]:
    if shard.n_rows == 1:
        return [shard]
    middle = shard.n_rows // 2
    return [shard.rows(0, middle), shard.rows(middle, shard.n_rows)]
