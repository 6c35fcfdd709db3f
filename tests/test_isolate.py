"""Rows that kill are found by halves, chance deaths are forgiven, a faulty machine is named."""

import pytest

from pipeline.scoring.score_table import score_alone
from pipeline.scoring.shard import Died, Outcome, Shard

SHARD = Shard(index=4, path="p", start=0, stop=100, first_row=1000)
DIED = Died("killed by signal 9")


class Emulated:
    """An executor without processes: ``dies`` says of a shard whether its worker dies."""

    threads = 1

    def __init__(self, dies):
        self.dies = dies
        self.n_runs = 0

    def marked(self, shard=SHARD):
        """Return the rows that are marked when the shard is scored, with their reasons."""
        scored = []

        def score(shard):
            scored.append(shard)
            return Outcome("written")

        assert score_alone(self, score, attempt, shard) == Outcome("written")
        return dict(scored[-1].marked)

    def run(self, function, shards):
        for shard in shards:
            self.n_runs += 1
            yield shard, DIED if self.dies(shard, self.n_runs) else function(shard)


def attempt(shard):
    return Outcome("")


def holds(shard, rows):
    marked = {row for row, _ in shard.marked}
    return any(
        shard.first_row <= row < shard.first_row + shard.n_rows and row not in marked
        for row in rows
    )


@pytest.mark.parametrize(
    "killers", [[1000], [1099], [1049, 1050], [1003, 1033, 1077], list(range(1000, 1010))]
)
def test_the_rows_that_kill_are_marked_and_no_others(killers):
    executor = Emulated(lambda shard, _: holds(shard, killers))
    assert executor.marked() == dict.fromkeys(killers, "it kills the process that scores it")
    assert executor.n_runs < 20 * len(killers) + 10


def test_a_shard_of_one_row_is_judged_too():
    executor = Emulated(lambda shard, _: holds(shard, [1007]))
    assert list(executor.marked(SHARD.rows(7, 8))) == [1007]


def test_a_death_by_chance_marks_nothing():
    for unlucky in range(1, 8):
        executor = Emulated(
            lambda shard, n, unlucky=unlucky: n == unlucky or (n == 1 and unlucky > 1)
        )
        assert executor.marked() == {}


def test_a_row_on_which_a_worker_happened_to_die_once_is_not_marked():
    deaths = []

    def dies(shard, _):
        if shard.n_rows == 1 and shard.first_row == 1005 and not deaths:
            deaths.append(shard)
            return True
        return holds(shard, [1004])

    assert list(Emulated(dies).marked()) == [1004]


def test_rows_that_were_marked_before_stay_marked():
    marked = Shard(4, "p", 0, 100, 1000, marked=((1002, "line 3 has 1 cells"),))
    executor = Emulated(lambda shard, _: holds(shard, [1050]))
    assert list(executor.marked(marked)) == [1002, 1050]


@pytest.mark.parametrize(
    ("dies", "message"),
    [
        (lambda shard, _: True, r"die before they score a row \(killed by signal 9\)"),
        (
            lambda shard, _: shard.n_rows == 100,
            r"keep dying with the rows 1000 to 1099 \(killed by signal 9\).* no single one",
        ),
        (lambda shard, _: shard.n_rows > 0, r"unlikely to be the rows' fault|no single one"),
    ],
)
def test_where_workers_die_whatever_they_score_it_is_no_rows_fault(dies, message):
    with pytest.raises(ChildProcessError, match=message):
        Emulated(dies).marked()


def test_more_killers_than_rows_can_be_blamed_for_stop_the_search():
    long = Shard(0, "p", 0, 4096, 0)
    executor = Emulated(lambda shard, _: shard.n_rows > 0)
    with pytest.raises(ChildProcessError, match="more than 100 rows from row 0 on kill"):
        executor.marked(long)


@pytest.mark.parametrize("n_before", [0, 60])
def test_a_hundred_rows_may_be_marked_and_not_one_more(n_before):
    marked = tuple((1000 + row, "no text") for row in range(n_before))
    shard = Shard(4, "p", 0, 128, 1000, marked)
    for last, raised in ((1100, False), (1101, True)):
        executor = Emulated(lambda shard, _, last=last: holds(shard, range(1000, last)))
        if raised:
            with pytest.raises(ChildProcessError, match="more than 100 rows"):
                executor.marked(shard)
        else:
            assert list(executor.marked(shard)) == list(range(1000, 1100))
