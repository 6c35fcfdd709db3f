"""What we ask of Dask, and what we make of its answers: by a client that is told them."""

import contextlib
import os
import re
import socket
import sys
import time
from types import SimpleNamespace
from typing import ClassVar

import pytest

from pipeline.saved.manifest import installed_versions
from pipeline.scoring.executors import DaskExecutor, check_versions, choose_executor, introduce
from pipeline.scoring.shard import Died, Outcome
from tests.test_executors import shards

distributed = pytest.importorskip(
    "distributed", reason="distributed is not installed: pip install '.[dask]'"
)
import dask  # noqa: E402
from distributed import CancelledError  # noqa: E402
from distributed.comm import CommClosedError  # noqa: E402


class Answer:
    """A future that is done at once, with a value or an error, or that waits: ``None``."""

    def __init__(self, key, answer, status):
        self.key, self.answer, self.status = key, answer, status
        self.callback = None

    def add_done_callback(self, function):
        self.callback = function
        if self.answer is not None:
            function(self)

    def cancel(self, force):
        assert force is True

    def result(self, timeout):
        assert timeout == 30
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class Scripted:
    """A client of two workers, a and b, which answer as they are told."""

    dashboard_link = "http://10.0.0.5:8787"
    present: ClassVar[dict] = {"a": {}, "b": {}}  # with their resources

    def __init__(self, address, **options):
        self.scheduler, self.status = SimpleNamespace(address=address), "running"
        self.options, self.told, self.futures, self.cancelled = options, [], [], []
        self.answers = {}  # of a worker, to a shard and to what it is asked first
        self.greetings = {}
        self.state = "finished"  # of every future

    def scheduler_info(self, n_workers):
        assert n_workers == -1  # all
        if isinstance(self.present, Exception):
            raise self.present
        return {"workers": {name: {"resources": own} for name, own in self.present.items()}}

    def submit(self, function, argument, key, workers, **options):
        (worker,) = workers
        self.told.append((worker, key, options))
        if isinstance(argument, int):
            told = self.greetings.get(worker, [])
            answer = told.pop(0) if told else function(argument)
        else:
            answer = self.answers.get(worker) or function(argument)
        if answer == "never":
            self.present = {"b": {}}
        if isinstance(answer, CommClosedError):
            raise answer
        future = Answer(key, None if answer in ("never", "late") else answer, self.state)
        self.futures.append(future)
        return future

    def cancel(self, futures, force):
        assert force is True
        self.cancelled += futures

    def close(self):
        self.status = "closed"


@pytest.fixture
def clients(monkeypatch):
    """List the clients that are made from now on."""
    made = []

    def client(address, **options):
        made.append(Scripted(address, **options))
        return made[-1]

    monkeypatch.setattr(distributed, "Client", client)
    return made


@pytest.fixture
def scripted(clients, monkeypatch):
    """Give a client and an open executor on it."""
    monkeypatch.setenv("RAYON_NUM_THREADS", "1")
    with DaskExecutor("tcp://10.0.0.5:8786") as executor:
        yield clients[0], executor


def named(shard):
    return Outcome(f"0 {shard.index}")


@pytest.mark.parametrize("error", [distributed.KilledWorker, TimeoutError, CancelledError])
def test_a_worker_that_is_lost_is_no_error_of_its_shard_or_of_the_run(error, scripted):
    client, executor = scripted
    lost = error("task", None, []) if error is distributed.KilledWorker else error()
    client.answers["a"], client.greetings["b"] = lost, [lost]
    found = list(executor.run(named, shards(4)))
    assert sorted(shard.index for shard, _ in found) == [0, 1, 2, 3]
    died = [ended for _, ended in found if ended != named(_)]
    assert died
    assert all(isinstance(ended, Died) for ended in died)


def test_a_time_out_of_the_function_is_its_own(scripted):
    client, executor = scripted
    client.answers["a"], client.state = TimeoutError("no answer of the model"), "error"
    with pytest.raises(TimeoutError, match="no answer of the model"):
        list(executor.run(named, shards(4)))


def test_a_worker_without_a_package_is_named(scripted):
    client, executor = scripted
    client.answers["b"] = ModuleNotFoundError("No module named 'mine'")
    with pytest.raises(ImportError, match=r"worker b says: No module named 'mine'\. Install"):
        list(executor.run(named, shards(4)))


def test_a_worker_that_is_lost_before_it_had_a_shard_costs_none(scripted):
    client, executor = scripted
    client.greetings["a"] = ["never"]

    def slowly(shard):
        time.sleep(1.05 if shard.index == 0 else 0)  # long enough to look who is there
        return named(shard)

    found = list(executor.run(slowly, shards(4)))
    assert sorted(ended.sha256 for _, ended in found) == ["0 0", "0 1", "0 2", "0 3"]


@pytest.mark.parametrize("lost", ["closed", "no information", "no submission"])
def test_a_scheduler_that_is_lost_says_what_to_do(lost, scripted):
    client, executor = scripted
    if lost == "closed":
        client.status = "closed"
    elif lost == "no information":
        client.present = OSError("no answer")
    else:
        client.answers["a"] = CommClosedError("closed")
    with pytest.raises(ConnectionError, match=r"tcp://10\.0\.0\.5:8786 is lost.* to resume"):
        list(executor.run(named, shards(4)))


def test_a_worker_says_its_host_and_versions_and_limits_its_tokenizers(monkeypatch):
    monkeypatch.setenv("RAYON_NUM_THREADS", "5")
    told = introduce(3)
    assert told == {"host": socket.gethostname(), **installed_versions()}
    assert os.environ["RAYON_NUM_THREADS"] == "5"  # what was set already stays
    monkeypatch.delenv("RAYON_NUM_THREADS")
    introduce(3)
    assert os.environ["RAYON_NUM_THREADS"] == "3"


@pytest.mark.parametrize(
    ("name", "there", "refused"),
    [
        ("python", "3.11.1", False),
        ("python", "3.12.0", True),
        ("python", "4.11.0", True),
        ("joblib", "0.1.0", False),
        ("torch", "2.13.1", True),
        ("torch", None, True),
        ("python", None, True),
    ],
)
def test_versions_may_differ_where_no_result_depends_on_them(name, there, refused, monkeypatch):
    here = {"python": "3.11.9", "torch": "2.13.0", "joblib": "1.6.0"}
    monkeypatch.setattr("pipeline.scoring.executors.installed_versions", lambda: here)
    worker = {**here, "host": "far", name: there}
    if there is None:
        del worker[name]
    if refused:
        said = (
            rf"worker w on far has {name} {there} there and {re.escape(here[name])} here\. Results"
        )
        with pytest.raises(ValueError, match=said):
            check_versions("w", worker)
    else:
        check_versions("w", worker)


@pytest.mark.parametrize(("wait", "timeout"), [(120.0, 30.0), (5.0, 5.0)])
def test_a_client_that_is_made_is_its_own_and_does_not_wait_for_ever(wait, timeout, clients):
    safe = SimpleNamespace(scheduler=SimpleNamespace(address="tls://10.0.0.5:8786"), security="s")
    for cluster, security in (("tls://10.0.0.5:8786", None), (safe, "s")):
        with DaskExecutor(cluster, wait=wait) as executor:
            assert list(executor.run(named, [])) == []
        client = clients.pop()
        assert client.scheduler.address == "tls://10.0.0.5:8786"
        assert client.options == {"security": security, "set_as_default": False, "timeout": timeout}
        assert client.status == "closed"


def test_a_task_is_bound_to_its_worker_and_never_tried_again(scripted):
    client, executor = scripted
    executor.resources = {"GPU": 1}
    client.present = {"a": {"GPU": 1}, "b": {"GPU": 2}}
    assert len(list(executor.run(named, shards(9)))) == 9
    keys = {key for _, key, _ in client.told}
    assert len(keys) == len(client.told) == 11
    assert all(re.fullmatch("score-[0-9a-f]{32}", key) for key in keys)
    assert {worker for worker, _, _ in client.told} == {"a", "b"}
    options = {"allow_other_workers": False, "pure": False, "retries": 0, "resources": {"GPU": 1}}
    assert all(own == options for _, _, own in client.told)


def test_a_cluster_that_is_started_has_processes_here_alone_and_no_memory_limit(
    clients, monkeypatch
):
    started = []

    def cluster(**options):
        started.append((options, dask.config.get("distributed.nanny.pre-spawn-environ")))
        return running()

    @contextlib.contextmanager
    def running():
        yield SimpleNamespace(scheduler_address="tcp://127.0.0.1:1")
        started.append("stopped")

    monkeypatch.setattr(distributed, "LocalCluster", cluster)
    with dask.config.set({"distributed.nanny.pre-spawn-environ": {"OWN": "1"}}):
        with DaskExecutor(workers=3, threads=2) as executor:
            assert [own.sha256 for _, own in executor.run(named, shards(1))] == ["0 0"]
        assert dask.config.get("distributed.nanny.pre-spawn-environ") == {"OWN": "1"}
    assert clients[0].scheduler.address == "tcp://127.0.0.1:1"
    (options, environment), stopped = started
    assert options == {
        "n_workers": 3,
        "threads_per_worker": 2,
        "processes": True,
        "host": "127.0.0.1",
        "dashboard_address": "127.0.0.1:0",
        "memory_limit": 0,
    }
    assert environment["OWN"] == "1"
    assert environment["MALLOC_TRIM_THRESHOLD_"] == environment["MALLOC_MMAP_THRESHOLD_"] == 1 << 30
    assert stopped == "stopped"


def test_a_scheduler_that_is_not_there_is_named():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        port = taken.getsockname()[1]
        with (
            pytest.raises(
                ConnectionError,
                match=rf"No Dask scheduler answers at tcp://127.0.0.1:{port} .*dask scheduler",
            ),
            DaskExecutor(f"tcp://127.0.0.1:{port}", wait=1),
        ):
            pass


def test_without_distributed_the_command_that_installs_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with (
        pytest.raises(ImportError, match=r"pip install '\.\[dask\]'"),
        choose_executor("dask"),
    ):
        pass


def test_a_closed_executor_says_so():
    with pytest.raises(RuntimeError, match="not open"):
        next(DaskExecutor().run(named, shards(1)))


def test_a_closed_executor_is_not_open_again(scripted):
    _, executor = scripted
    executor.__exit__()
    with pytest.raises(RuntimeError, match="not open"):
        next(executor.run(named, shards(1)))


def test_the_dashboard_is_printed_where_no_output_is(clients, capsys):
    with DaskExecutor("tcp://10.0.0.5:8786"):
        pass
    assert capsys.readouterr() == ("", "Dask dashboard: http://10.0.0.5:8787\n")


def test_workers_without_the_resources_get_nothing(scripted):
    client, executor = scripted
    executor.resources = {"GPU": 2, "disk": 1}
    client.present = {
        "a": {"GPU": 2, "disk": 1},
        "b": {"GPU": 1, "disk": 1},
        "c": {"GPU": 9},
        "d": {},
        "e": {"GPU": 3, "disk": 2},
    }
    assert len(list(executor.run(named, shards(9)))) == 9
    assert {worker for worker, _, _ in client.told} == {"a", "e"}


@pytest.mark.parametrize(
    ("resources", "which"), [(None, ""), ({"GPU": 1}, " with the resources {'GPU': 1}")]
)
def test_a_worker_is_waited_for_and_none_is_an_error(resources, which, clients, monkeypatch):
    monkeypatch.setattr(Scripted, "present", {})
    here = "tcp://10.0.0.5:8786"
    message = (
        f"No worker{which} joined the Dask scheduler at {here} within 0 s. Start one: "
        f"dask worker {here} --nthreads 1"
    )
    started = time.monotonic()
    with (
        pytest.raises(TimeoutError, match=f"^{re.escape(message)}$"),
        DaskExecutor(here, resources=resources, wait=0.3),
    ):
        pass
    assert time.monotonic() - started > 0.3
    later = time.monotonic() + 0.3
    joined = property(lambda _: {"a": {"GPU": 1}} if time.monotonic() > later else {})
    monkeypatch.setattr(Scripted, "present", joined)
    with DaskExecutor(here, resources=resources) as executor:
        assert len(list(executor.run(named, shards(3)))) == 3


def test_a_file_that_a_worker_lacks_is_told_with_its_host(scripted):
    client, executor = scripted
    client.answers["a"] = FileNotFoundError("There is no model.joblib.")
    host = re.escape(socket.gethostname())
    with pytest.raises(
        FileNotFoundError,
        match=rf"no model.joblib. \(Reported by the Dask worker a on {host}\.\) The saved",
    ):
        list(executor.run(named, shards(4)))
    client.greetings["a"] = [FileNotFoundError("There is no package.")]
    executor._hosts.clear()
    with pytest.raises(FileNotFoundError, match=r"by the Dask worker a on its host\.\)"):
        list(executor.run(named, shards(4)))


def test_what_ends_after_its_run_was_left_belongs_to_no_later_one(scripted):
    client, executor = scripted
    client.answers["b"] = "late"
    run = executor.run(named, iter(shards(9)))
    assert next(run)[0].index in range(9)
    run.close()
    late = [future for future in client.futures if future.answer is None]
    assert len(late) == 1
    assert late[0] in client.cancelled
    late[0].answer = named(shards(9)[8])
    late[0].callback(late[0])
    run = executor.run(named, iter(shards(5)))  # b is as slow as before
    assert {next(run)[1].sha256 for _ in range(4)} <= {f"0 {n}" for n in range(5)}
    run.close()
    client.answers.clear()
    assert len(list(executor.run(named, shards(4)))) == 4


@pytest.mark.parametrize("slow", ["a", "b"])
def test_a_slow_worker_keeps_no_other_waiting(slow, scripted):
    client, executor = scripted
    client.answers[slow] = "late"
    run = executor.run(named, iter(shards(9)))
    assert len({next(run)[0].index for _ in range(8)}) == 8
    run.close()


def test_a_worker_that_is_lost_with_the_last_shard_is_noticed(scripted):
    client, executor = scripted
    client.answers["a"] = "never"
    found = {shard.index: ended for shard, ended in executor.run(named, shards(2))}
    assert sorted(found) == [0, 1]
    assert [type(ended) for ended in found.values()].count(Died) == 1
