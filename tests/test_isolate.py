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

    def run(self, function, shards):
        for shard in shards:
            self.n_runs += 1
            yield shard, DIED if self.dies(shard, self.n_runs) else function(shard)


def score(shard):
    return Outcome(shard.index, shard.n_rows, "written", shard.marked)


def attempt(shard):
    return Outcome(shard.index, shard.n_rows, "")


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
    outcome = score_alone(executor, score, attempt, SHARD, DIED)
    assert (outcome.sha256, outcome.n_rows) == ("written", 100)
    assert [row for row, _ in outcome.bad] == killers
    assert outcome.bad[0][1] == "it kills the process that scores it"
    assert executor.n_runs < 20 * len(killers) + 10


def test_a_shard_of_one_row_is_judged_too():
    one = SHARD.rows(7, 8)
    outcome = score_alone(
        Emulated(lambda shard, _: holds(shard, [1007])), score, attempt, one, DIED
    )
    assert [row for row, _ in outcome.bad] == [1007]


def test_a_death_by_chance_marks_nothing():
    for unlucky in range(1, 8):
        executor = Emulated(
            lambda shard, n, unlucky=unlucky: n == unlucky or (n == 1 and unlucky > 1)
        )
        assert score_alone(executor, score, attempt, SHARD, DIED).bad == ()


def test_a_row_on_which_a_worker_happened_to_die_once_is_not_marked():
    deaths = []

    def dies(shard, _):
        if shard.n_rows == 1 and shard.first_row == 1005 and not deaths:
            deaths.append(shard)
            return True
        return holds(shard, [1004])

    assert [row for row, _ in score_alone(Emulated(dies), score, attempt, SHARD, DIED).bad] == [
        1004
    ]


def test_rows_that_were_marked_before_stay_marked():
    marked = Shard(4, "p", 0, 100, 1000, marked=((1002, "line 3 has 1 cells"),))
    outcome = score_alone(
        Emulated(lambda shard, _: holds(shard, [1050])), score, attempt, marked, DIED
    )
    assert [row for row, _ in outcome.bad] == [1002, 1050]


@pytest.mark.parametrize(
    ("dies", "message"),
    [
        (lambda shard, _: True, "die before they score a row"),
        (
            lambda shard, _: shard.n_rows == 100,
            "keep dying with the rows 1000 to 1099 .* no single one",
        ),
        (lambda shard, _: shard.n_rows > 0, r"unlikely to be the rows' fault|no single one"),
    ],
)
def test_where_workers_die_whatever_they_score_it_is_no_rows_fault(dies, message):
    with pytest.raises(ChildProcessError, match=message):
        score_alone(Emulated(dies), score, attempt, SHARD, DIED)


def test_more_killers_than_rows_can_be_blamed_for_stop_the_search():
    long = Shard(0, "p", 0, 4096, 0)
    executor = Emulated(lambda shard, _: shard.n_rows > 0)
    with pytest.raises(ChildProcessError, match="more than 100 rows from row 0 on kill"):
        score_alone(executor, score, attempt, long, DIED)
