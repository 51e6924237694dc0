"""The face, the policies and the maps of manyhands, on a Dask cluster that really runs."""

import gc
import os
import subprocess
import sys
import textwrap
import threading
import time
import types
import uuid

import every_cluster
import pytest
from calls import add_on_loop, announce_and_wait, identity, keywords, note, wait_for

import manyhands as mh
from manyhands.executors.dask import DaskExecutor
from watching import eventually

distributed = pytest.importorskip("distributed", reason="Dask is not installed")
import dask  # noqa: E402 - part of distributed

pytestmark = pytest.mark.filterwarnings("default:::distributed", "default:::tornado")


@pytest.fixture(scope="module")
def cluster():
    """Two workers with a thread each, in processes of their own."""
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
    ):
        yield cluster


@pytest.fixture
def address(cluster):
    return f"dask+{cluster.scheduler_address}"


@pytest.fixture
def pool(address):
    with mh.executor(address) as pool:
        yield pool


@pytest.fixture(scope="module")
def observer(cluster):
    """Another client, one for all tests: in Dask, to connect to a busy scheduler can fail."""
    with distributed.Client(cluster, set_as_default=False) as client:
        yield client


@pytest.fixture
def keys(observer):
    """What the scheduler knows of, by name."""
    return lambda: observer.run_on_scheduler(lambda dask_scheduler: [*dask_scheduler.tasks])


def die_at_one(number):
    if number == 1:
        os._exit(1)


class TestTheFace(every_cluster.TheFace):
    def test_the_address_makes_an_executor(self, address):
        # "dask://" is "dask+tcp://".
        with mh.executor(address.replace("dask+tcp", "dask")) as pool:
            assert type(pool) is DaskExecutor
            assert pool.submit(pow, 2, 10).result() == 1024

    def test_tasks_run_in_the_cluster(self, pool, cluster):
        assert pool.submit(os.getpid).result() in {worker.pid for worker in cluster.workers.values()}

    def test_maps_and_groups_take_the_address(self, address):
        assert list(mh.map(abs, [-1, -2], on=address)) == [1, 2]
        assert list(mh.starmap(add_on_loop, [(1, 2), (3, 4)], on=address)) == [3, 7]
        with mh.TaskGroup(address) as group:
            future = group.submit(add_on_loop, 1, 2)
        assert future.result() == 3

    def test_keywords_that_dask_has_too_are_the_functions(self, pool):
        given = {"key": "k", "workers": 1, "pure": True, "retries": 2, "priority": 3, "actor": True}
        assert pool.submit(keywords, **given).result() == given

    def test_equal_calls_are_different_tasks(self, pool):
        assert pool.submit(uuid.uuid4).result() != pool.submit(uuid.uuid4).result()

    def test_by_default_the_cluster_has_a_task_for_each_of_its_threads(self, pool, address):
        assert pool.capacity == 2
        with mh.executor(address, workers=7) as wide:
            assert wide.capacity == 7

    def test_so_many_tasks_are_in_the_cluster_at_once(self, address, tmp_path):
        with mh.executor(address, workers=1) as pool:
            first = pool.submit(announce_and_wait, tmp_path / "here", tmp_path / "go")
            second = pool.submit(abs, -1)
            eventually((tmp_path / "here").exists)
            assert not second.running()
            (tmp_path / "go").touch()
            assert first.result() and second.result() == 1

    def test_a_client_may_be_given_and_stays_open(self, cluster):
        with distributed.Client(cluster, set_as_default=False) as client:
            with DaskExecutor(client) as pool:
                assert pool.submit(abs, -1).result() == 1
            assert client.submit(abs, -2).result() == 2


class TestPolicies(every_cluster.Policies):
    def test_an_exception_arrives_as_it_is(self, pool):
        with pytest.raises(ValueError, match="invalid literal"):
            pool.submit(int, "x").result()

    def test_a_rate_bounds_starts(self, pool):
        began = time.monotonic()
        list(mh.map(abs, range(5), on=pool, rate="20/s"))
        assert time.monotonic() - began >= 0.19

    def test_a_time_limit_frees_the_place(self, pool, tmp_path):
        with pytest.raises(mh.TaskTimeout, match=r"`wait_for` ran longer than its limit of 0.3 s"):
            pool.with_policy(timeout=0.3).submit(wait_for, tmp_path / "go").result()
        (tmp_path / "go").touch()
        assert pool.submit(abs, -1).result() == 1

    def test_a_cancelled_task_never_begins_in_the_cluster(self, address, tmp_path, keys):
        with mh.executor(address, workers=3) as pool:
            holders = [pool.submit(announce_and_wait, tmp_path / str(n), tmp_path / "go") for n in range(2)]
            eventually(lambda: len(list(tmp_path.iterdir())) == 2)
            third = pool.submit(note, tmp_path / "note")
            eventually(lambda: any(key.startswith("note-") for key in keys()))
            assert third.cancel()
            eventually(lambda: not any(key.startswith("note-") for key in keys()))
            (tmp_path / "go").touch()
            assert len({holder.result() for holder in holders}) == 2
            pool.submit(abs, 1).result()
        assert third.cancelled()
        assert not (tmp_path / "note").exists()

    def test_a_running_task_that_is_cancelled_is_dropped_by_the_cluster(self, pool, tmp_path, keys):
        future = pool.submit(announce_and_wait, tmp_path / "here", tmp_path / "go")
        eventually((tmp_path / "here").exists)
        assert future.cancel()
        eventually(lambda: not any(key.startswith("announce") for key in keys()))
        (tmp_path / "go").touch()

    def test_a_task_that_others_cancel_in_the_cluster_is_cancelled(self, pool, observer, keys, tmp_path):
        future = pool.submit(announce_and_wait, tmp_path / "here", tmp_path / "go")
        eventually((tmp_path / "here").exists)
        (key,) = (key for key in keys() if key.startswith("announce"))
        observer.cancel([distributed.Future(key, observer)], force=True)
        with pytest.raises(mh.Cancelled):
            future.result()
        (tmp_path / "go").touch()

    def test_leaving_a_map_cancels_what_is_in_the_cluster(self, address, tmp_path, keys):
        with mh.map(wait_for, [tmp_path / "one", tmp_path / "two"], on=address) as values:
            (tmp_path / "one").touch()
            next(values)
        eventually(lambda: not any(key.startswith("wait_for") for key in keys()))
        (tmp_path / "two").touch()


class TestFaults:
    def test_what_cannot_be_sent_says_so(self, pool):
        with pytest.raises(TypeError, match=r"could not send a call of `identity` to Dask: cannot pickle"):
            pool.submit(identity, threading.Lock()).result()

    def test_an_exception_that_dask_cannot_send_comes_with_its_text(self, pool):
        def fail():
            raise ValueError("told") from ValueError(threading.Lock())

        with pytest.raises(Exception, match=r"ValueError\('told'\)") as caught:
            pool.submit(fail).result()
        assert type(caught.value) is Exception

    def test_a_worker_that_dies_fails_its_task_alone(self, pool):
        with pytest.raises(mh.WorkerDied, match=r"worker `tcp://.*` died while it ran `_exit`") as caught:
            pool.submit(os._exit, 1).result()
        assert isinstance(caught.value.__cause__, distributed.KilledWorker)
        assert (caught.value.task, caught.value.pid, caught.value.exitcode) == ("_exit", None, None)
        assert pool.submit(abs, -1).result() == 1

    def test_a_map_names_the_item_whose_worker_died(self, address):
        # One at a time: Dask takes what waits at a worker that dies for what killed it.
        with mh.executor(address, workers=1) as pool:
            outcomes = list(mh.map(die_at_one, range(3), on=pool, on_error="return"))
        assert [type(outcome.exception) for outcome in outcomes] == [type(None), mh.WorkerDied, type(None)]
        assert (outcomes[1].exception.index, outcomes[1].exception.item) == (1, "1")

    def test_the_death_of_a_task_that_a_task_waited_for_is_told_as_dask_told_it(self, pool):
        def fail():
            raise distributed.KilledWorker("another task", types.SimpleNamespace(address="tcp://there"), 0)

        with pytest.raises(distributed.KilledWorker):
            pool.submit(fail).result()

    def test_a_scheduler_that_is_gone_is_a_connection_error(self):
        program = """if True:
            import sys, distributed
            with distributed.LocalCluster(
                n_workers=1, processes=False, protocol="tcp", dashboard_address=":0"
            ) as cluster:
                print(cluster.scheduler_address, flush=True)
                sys.stdin.read()
        """
        with (
            subprocess.Popen(
                [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            ) as elsewhere,
            mh.executor(f"dask+{elsewhere.stdout.readline().strip()}", timeout=1) as pool,
        ):
            future = pool.submit(time.sleep, 1000)
            eventually(lambda: any(pool._link._client.processing().values()))
            elsewhere.kill()
            with pytest.raises(ConnectionError, match="lost the Dask scheduler while `sleep`"):
                future.result()
            with pytest.raises(ConnectionError, match="Dask"):
                pool.submit(abs, 1).result()

    def test_no_scheduler_at_the_address(self):
        with pytest.raises(ConnectionError, match=r"connect to the Dask scheduler at `127.0.0.1:1`"):
            mh.executor("dask://127.0.0.1:1", timeout=0.5)

    def test_nonsense_in_the_options(self, address):
        with pytest.raises(ValueError, match="workers=0"):
            mh.executor(address, workers=0)

    def test_without_dask_it_says_what_to_install(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "distributed", None)
        with pytest.raises(ModuleNotFoundError, match=r"hint: pip install 'manyhands\[dask\]'"):
            mh.executor("dask://127.0.0.1:1")


class TestTheEnd:
    def test_shutdown_waits_for_tasks_and_leaves_the_cluster(self, address, tmp_path):
        pool = mh.executor(address)
        client = pool._link._client
        future = pool.submit(announce_and_wait, tmp_path / "here", tmp_path / "go")
        eventually((tmp_path / "here").exists)
        pool.shutdown(wait=False)
        assert client.status == "running"
        with pytest.raises(mh.ExecutorClosed):
            pool.submit(abs, 1)
        (tmp_path / "go").touch()
        assert future.result()
        eventually(lambda: client.status == "closed")

    @pytest.mark.parametrize("wait", [True, False])
    def test_one_that_was_never_used_leaves_it_at_once(self, address, wait):
        pool = mh.executor(address)
        client = pool._link._client
        pool.shutdown(wait=wait)
        assert client.status == "closed"

    def test_one_that_is_forgotten_leaves_it(self, address):
        pool = mh.executor(address)
        client = pool._link._client
        pool.submit(abs, 1).result()
        del pool
        gc.collect()
        eventually(lambda: client.status == "closed")

    def test_what_is_queued_at_the_interpreters_exit_still_runs(self, address, tmp_path):
        program = textwrap.dedent(
            """
            import sys, pathlib, manyhands as mh
            pool = mh.executor(sys.argv[1], workers=1)
            for number in range(10):
                pool.submit(pathlib.Path(sys.argv[2], str(number)).touch)
            """
        )
        done = subprocess.run(
            [sys.executable, "-c", program, address, tmp_path], capture_output=True, text=True, check=True
        )
        assert len(list(tmp_path.iterdir())) == 10
        assert "Traceback" not in done.stderr
