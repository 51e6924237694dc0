"""The face, the policies and the maps of manyhands, on a Ray cluster that really runs."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
from pathlib import Path

import every_cluster
import pytest
from calls import announce_and_wait, identity, keywords

import manyhands as mh
from manyhands.executors.ray import RayExecutor
from watching import eventually

ray = pytest.importorskip("ray", reason="Ray is not installed; `make test-ray` has it")

pytestmark = [
    pytest.mark.timeout(180),  # that a cluster starts takes long on a slow machine
    pytest.mark.filterwarnings("default:::ray", "default::ResourceWarning"),
]


HERE = Path(__file__).parent


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def is_listening(port):
    with socket.socket() as caller:
        return caller.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def environment():
    """Ray's processes and its clients see no other cluster, ask for no token, and report to nobody."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.delenv("RAY_ADDRESS", raising=False)
        # Else one in five processes that Ray's server forks for a client dies (gRPC 1.85).
        patch.setenv("GRPC_ENABLE_FORK_SUPPORT", "0")
        yield


@pytest.fixture(scope="module")
def cluster(environment):
    """A cluster of one machine with two processors: the addresses for clients and for members."""
    port = free_port()
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--port=0"]
    command += [f"--ray-client-server-port={port}", "--node-ip-address=127.0.0.1", "--num-cpus=2"]
    command += ["--include-dashboard=false", "--object-store-memory=80000000"]
    with (
        tempfile.TemporaryDirectory(prefix="ray-") as folder,  # pytest's are too long for a socket's path
        Path(folder, "log").open("w+") as log,
        subprocess.Popen(
            [*command, f"--temp-dir={folder}"],
            stdout=log,
            stderr=log,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": f"{HERE}:{HERE.parent}"},
        ) as running,
    ):
        try:
            started = eventually(
                lambda: (
                    running.poll() is not None or re.search(r"--address='(\S+)'", Path(log.name).read_text())
                ),
                "the cluster",
                60,
            )
            assert running.poll() is None, Path(log.name).read_text()
            eventually(lambda: is_listening(port), "the clients' server", 60)
            yield f"127.0.0.1:{port}", started[1]
        finally:
            running.terminate()
            running.wait()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(running.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def address(cluster):
    return f"ray://{cluster[0]}"


@pytest.fixture(scope="module")
def pool(address):
    """One for most tests: to connect takes seconds."""
    with mh.executor(address) as pool:
        yield pool


class Unsendable(Exception):
    def __init__(self):
        super().__init__("told")
        self.lock = threading.Lock()


def fail_unsendably():
    raise Unsendable


def die_at_one(number):
    if number == 1:
        os._exit(1)


def is_over(file):
    """Whether the process that announced itself has ended, or none did."""
    try:
        os.kill(int(file.read_text()), 0)
    except (ProcessLookupError, FileNotFoundError):
        return True
    return False


class TestTheFace(every_cluster.TheFace):
    def test_the_address_makes_an_executor(self, pool):
        assert type(pool) is RayExecutor

    def test_tasks_run_in_the_cluster(self, pool):
        assert pool.submit(os.getpid).result() != os.getpid()

    def test_keywords_that_ray_has_too_are_the_functions(self, pool):
        given = {"num_cpus": 1, "max_retries": 2, "name": "n", "runtime_env": {}}
        assert pool.submit(keywords, **given).result() == given

    def test_by_default_the_cluster_has_a_task_for_each_of_its_processors(self, pool):
        assert pool.capacity == 2


class TestPolicies(every_cluster.Policies):
    def test_an_exception_arrives_as_it_is_with_its_traceback(self, pool):
        with pytest.raises(ValueError, match="invalid literal") as caught:
            pool.submit(int, "x").result()
        assert type(caught.value) is ValueError
        assert "in call" in str(caught.value.__cause__)

    def test_a_time_limit_ends_the_process_and_frees_the_place(self, pool, tmp_path):
        limited = pool.with_policy(timeout=2)
        with pytest.raises(mh.TaskTimeout, match=r"`announce_and_wait` ran longer than its limit of 2 s"):
            limited.submit(announce_and_wait, tmp_path / "here", tmp_path / "never").result()
        eventually(lambda: is_over(tmp_path / "here"))
        assert pool.submit(abs, -1).result() == 1

    def test_a_running_task_that_is_cancelled_is_ended_in_the_cluster(self, pool, tmp_path):
        future = pool.submit(announce_and_wait, tmp_path / "here", tmp_path / "never")
        eventually((tmp_path / "here").exists)
        assert future.cancel()
        eventually(lambda: is_over(tmp_path / "here"))

    def test_leaving_a_map_ends_what_is_in_the_cluster(self, pool, tmp_path):
        one, two = tmp_path / "one", tmp_path / "two"
        one.with_suffix(".go").touch()
        with mh.map(
            lambda file: announce_and_wait(file, file.with_suffix(".go")), [one, two], on=pool
        ) as values:
            next(values)
            eventually(two.exists)
        eventually(lambda: is_over(two))


class TestFaults:
    def test_what_cannot_be_sent_says_so(self, pool):
        with pytest.raises(TypeError, match=r"could not send a call of `identity` to Ray: cannot pickle"):
            pool.submit(identity, threading.Lock()).result()

    def test_a_result_that_cannot_be_sent_says_so(self, pool):
        with pytest.raises(TypeError, match=r"cannot pickle '_thread.lock' object"):
            pool.submit(threading.Lock).result()

    def test_an_exception_that_cannot_be_sent_is_told(self, pool):
        with pytest.raises(ray.exceptions.RayError, match=r"Unsendable"):
            pool.submit(fail_unsendably).result()

    def test_a_worker_that_dies_fails_its_task_alone(self, pool):
        with pytest.raises(mh.WorkerDied, match="a Ray worker died while it ran `_exit`") as caught:
            pool.submit(os._exit, 1).result()
        assert isinstance(caught.value.__cause__, ray.exceptions.WorkerCrashedError)
        assert (caught.value.task, caught.value.pid, caught.value.exitcode) == ("_exit", None, None)
        outcomes = list(mh.map(die_at_one, range(3), on=pool, on_error="return"))
        assert [type(outcome.exception) for outcome in outcomes] == [type(None), mh.WorkerDied, type(None)]
        assert (outcomes[1].exception.index, outcomes[1].exception.item) == (1, "1")

    def test_no_cluster_at_the_address(self, environment):
        with pytest.raises(ConnectionError, match=r"connect to the Ray cluster at `127.0.0.1:1`.*refused"):
            mh.executor("ray://127.0.0.1:1")

    def test_nonsense_in_the_options(self, environment):
        with pytest.raises(ValueError, match="workers=0"):
            mh.executor("ray://127.0.0.1:1", workers=0)

    def test_without_ray_it_says_what_to_install(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "ray", None)
        with pytest.raises(ModuleNotFoundError, match=r"hint: pip install 'manyhands\[ray\]'"):
            mh.executor("ray://127.0.0.1:1")


class TestTheEnd:
    def test_shutdown_waits_for_tasks_and_leaves_the_cluster(self, address, tmp_path):
        pool = mh.executor(address)
        future = pool.submit(announce_and_wait, tmp_path / "here", tmp_path / "go")
        eventually((tmp_path / "here").exists)
        pool.shutdown(wait=False)
        with pytest.raises(mh.ExecutorClosed):
            pool.submit(abs, 1)
        (tmp_path / "go").touch()
        assert future.result()
        pool.shutdown()
        with pool._link._context:
            assert not ray.is_initialized()

    def test_a_program_that_is_a_member_of_the_cluster(self, cluster, tmp_path):
        """It uses the connection that there is; and what is queued at its exit still runs."""
        program = """
            import os, pathlib, sys, manyhands as mh, ray
            first = mh.executor("ray://auto")
            assert not first.submit(lambda: "manyhands" in sys.modules).result()  # workers need not have it
            with mh.executor("ray://auto", workers=1, name="far", task_options={"num_cpus": 0.5}) as second:
                assert repr(second) == "<RayExecutor name='far' capacity=1 queued=0>"
                needs = second.submit(lambda: ray.get_runtime_context().get_assigned_resources())
                assert needs.result() == {"CPU": 0.5}
            assert list(mh.starmap(pow, [(2, 3), (3, 2)], on="ray://auto")) == [8, 9]
            for number in range(10):
                first.submit(pathlib.Path(sys.argv[1], str(number)).touch)
        """
        run(program, tmp_path, RAY_ADDRESS=cluster[1])
        assert len(list(tmp_path.iterdir())) == 10

    def test_what_is_queued_at_the_exit_of_a_client_still_runs(self, address, tmp_path):
        program = """
            import pathlib, sys, manyhands as mh
            pool = mh.executor(sys.argv[2], workers=1)
            for number in range(10):
                pool.submit(pathlib.Path(sys.argv[1], str(number)).touch)
        """
        run(program, tmp_path, address)
        assert len(list(tmp_path.iterdir())) == 10


def run(program, *arguments, **variables):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **variables},
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
