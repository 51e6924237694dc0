"""joblib on manyhands: what joblib promises of a backend, said of ours."""

import itertools
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest
from calls import wait_for

import manyhands as mh
from watching import eventually, has_ended

joblib = pytest.importorskip("joblib", reason="joblib is not installed")
Parallel, delayed = joblib.Parallel, joblib.delayed


@pytest.fixture(autouse=True)
def backend():
    mh.register_joblib()
    with joblib.parallel_config(backend="manyhands", n_jobs=2):
        yield


def squares(count):
    return Parallel()(delayed(pow)(n, 2) for n in range(count))


def threads_allowed():
    return os.environ["OMP_NUM_THREADS"]


def fail(number):
    if number == 3:
        raise ArithmeticError("three")
    return number


def wait_for_files(folder, number):
    """Return which process this is, once so many others have come here, too."""
    (folder / str(os.getpid())).touch()
    eventually(lambda: len(list(folder.iterdir())) >= number)
    return os.getpid()


def note_and_hang(folder):
    (folder / str(os.getpid())).touch()
    time.sleep(1000)


class TestCalls:
    def test_results_come_in_order(self):
        assert Parallel()(delayed(math.sqrt)(n**2) for n in range(10)) == [float(n) for n in range(10)]

    def test_tiny_calls_are_batched(self):
        sizes = []
        with Parallel() as parallel:
            backend = parallel._backend
            parallel(delayed(pow)(n, 2) for n in range(5000))
            sizes.append(backend._effective_batch_size)
        assert sizes[0] > 1

    def test_n_jobs_is_the_number_of_processes(self, tmp_path):
        pids = Parallel(n_jobs=3)(delayed(wait_for_files)(tmp_path, 3) for _ in range(3))
        assert len({*pids, os.getpid()}) == 4

    @pytest.mark.parametrize(("n_jobs", "means"), [(1, 1), (3, 3), (-1, 0), (-2, -1)])
    def test_negative_n_jobs_count_back_from_the_processors(self, n_jobs, means):
        processors = mh.ProcessExecutor().capacity
        assert joblib.effective_n_jobs(n_jobs) == (means if means > 0 else max(1, processors + means))

    def test_no_jobs_have_no_meaning(self):
        with pytest.raises(ValueError, match="n_jobs == 0"):
            Parallel(n_jobs=0)(delayed(abs)(n) for n in range(2))

    def test_one_job_runs_here(self):
        assert Parallel(n_jobs=1)(delayed(os.getpid)() for _ in range(2)) == [os.getpid()] * 2

    def test_shared_memory_is_asked_of_threads(self):
        seen = []
        Parallel(require="sharedmem")(delayed(seen.append)(n) for n in range(3))
        assert sorted(seen) == [0, 1, 2]

    def test_lambdas_and_closures_are_sent(self):
        factor = 3
        assert Parallel()(delayed(lambda n: factor * n)(n) for n in range(3)) == [0, 3, 6]

    def test_functions_of_the_main_program_are_sent(self, tmp_path):
        program = tmp_path / "program.py"
        program.write_text(
            textwrap.dedent(
                """
                import joblib
                import manyhands.executors.joblib
                def double(n):
                    return 2 * n
                with joblib.parallel_config(backend="manyhands", n_jobs=2):
                    print(joblib.Parallel()(joblib.delayed(double)(n) for n in range(3)))
                """
            )
        )
        done = subprocess.run([sys.executable, program], capture_output=True, text=True, check=True)
        assert (done.stdout, done.stderr) == ("[0, 2, 4]\n", "")

    def test_a_managed_call_keeps_its_processes(self):
        with Parallel() as parallel:
            first = parallel(delayed(os.getpid)() for _ in range(50))
            second = parallel(delayed(os.getpid)() for _ in range(50))
        assert len({*first, *second}) <= 2

    def test_the_next_call_finds_them_warm(self, tmp_path):
        pids = [
            {*Parallel()(delayed(wait_for_files)(folder, 2) for _ in range(2))}
            for folder in (tmp_path / "a", tmp_path / "b")
            if not folder.mkdir()
        ]
        assert pids[0] == pids[1]

    def test_calls_from_several_threads_do_not_meet(self):
        results = {}
        callers = [threading.Thread(target=lambda n=n: results.update({n: call(n)})) for n in range(4)]

        def call(n):
            with joblib.parallel_config(backend="manyhands", n_jobs=2):
                return Parallel()(delayed(pow)(item, n) for item in range(50))

        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
        assert results == {n: [item**n for item in range(50)] for n in range(4)}

    def test_the_input_is_read_no_further_than_dispatched(self):
        taken = itertools.count()
        read = []

        def source():
            for n in range(1000):
                read.append(next(taken))
                yield delayed(fail)(n)

        with pytest.raises(ArithmeticError):
            Parallel(pre_dispatch=2, batch_size=1)(source())
        assert len(read) < 100

    def test_threads_of_numerical_libraries_are_limited(self):
        with joblib.parallel_config(backend="manyhands", n_jobs=2, inner_max_num_threads=3):
            assert Parallel()(delayed(threads_allowed)() for _ in range(2)) == ["3", "3"]


class TestNesting:
    def test_an_inner_call_runs_on_threads(self):
        def inner(n):
            return Parallel(n_jobs=2)(delayed(os.getpid)() for _ in range(n))

        for pids in Parallel()(delayed(inner)(n) for n in range(1, 4)):
            assert len(set(pids)) == 1
            assert os.getpid() not in pids

    def test_or_on_processes_of_its_own_if_it_says_so(self):
        def inner(n):
            mh.register_joblib()
            return os.getpid(), Parallel(n_jobs=2, backend="manyhands")(
                delayed(os.getpid)() for _ in range(n)
            )

        for outer, pids in Parallel()(delayed(inner)(2) for _ in range(2)):
            assert outer not in pids


class TestFailures:
    def test_an_exception_arrives_as_it_is_and_the_next_call_works(self):
        with pytest.raises(ArithmeticError, match="three") as caught:
            Parallel()(delayed(fail)(n) for n in range(10))
        assert "in fail" in str(caught.value.__cause__)
        assert squares(3) == [0, 1, 4]

    def test_in_a_managed_call_too(self):
        with Parallel() as parallel:
            with pytest.raises(ArithmeticError):
                # The last one: joblib itself gives what it had not dispatched to the next call.
                parallel(delayed(fail)(n) for n in range(4))
            assert parallel(delayed(fail)(n) for n in range(3)) == [0, 1, 2]

    def test_a_failure_ends_the_other_calls(self, tmp_path):
        calls = [delayed(note_and_hang)(tmp_path), delayed(wait_then_fail)(tmp_path)]
        with pytest.raises(ArithmeticError):
            Parallel()(calls)
        (pid,) = (int(file.name) for file in tmp_path.iterdir())
        eventually(lambda: has_ended(pid))

    def test_a_process_that_dies_fails_the_call_and_breaks_nothing(self):
        with pytest.raises(mh.WorkerDied, match="exit code 7"):
            Parallel()(delayed(os._exit)(7) for _ in range(3))
        assert squares(3) == [0, 1, 4]

    @pytest.mark.parametrize("place", [0, 50])
    def test_what_cannot_be_sent_is_an_error_and_no_hang(self, place):
        arguments = [threading.Lock() if n == place else n for n in range(100)]
        with pytest.raises(TypeError, match="could not send"):
            Parallel(batch_size=1)(delayed(id)(argument) for argument in arguments)

    def test_what_takes_too_long_is_ended(self, tmp_path):
        with pytest.raises(multiprocessing.TimeoutError):
            Parallel(timeout=0.2)([delayed(note_and_hang)(tmp_path), delayed(time.sleep)(1000)])
        eventually(lambda: all(has_ended(int(file.name)) for file in tmp_path.iterdir()))
        assert squares(3) == [0, 1, 4]

    def test_ctrl_c_ends_the_call(self, tmp_path):
        program = textwrap.dedent(
            """
            import sys, time, joblib, manyhands.executors.joblib
            from pathlib import Path
            def hang(file):
                file.touch()
                time.sleep(1000)
            files = [Path(sys.argv[1]) / str(number) for number in range(4)]
            joblib.Parallel(n_jobs=2, backend="manyhands")(joblib.delayed(hang)(file) for file in files)
            """
        )
        command = [sys.executable, "-c", program, tmp_path]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            eventually(lambda: len(list(tmp_path.iterdir())) == 2)
            process.send_signal(signal.SIGINT)
            assert process.stderr.read().rstrip().endswith("KeyboardInterrupt")


def wait_then_fail(folder):
    eventually(lambda: list(folder.iterdir()))
    raise ArithmeticError


class TestGenerators:
    def test_results_one_by_one(self):
        values = Parallel(return_as="generator")(delayed(pow)(n, 2) for n in range(5))
        assert next(values) == 0
        assert list(values) == [1, 4, 9, 16]

    def test_or_as_they_are_done(self, tmp_path):
        first = delayed(wait_for)(tmp_path / "go", "late")
        values = Parallel(return_as="generator_unordered", batch_size=1)([first, delayed(str.upper)("early")])
        assert next(values) == "EARLY"
        (tmp_path / "go").touch()
        assert list(values) == ["late"]

    def test_one_that_is_left_early_ends_its_calls(self, tmp_path):
        calls = [delayed(abs)(1), delayed(note_and_hang)(tmp_path)]
        values = Parallel(return_as="generator", batch_size=1)(calls)
        assert next(values) == 1
        (file,) = eventually(lambda: list(tmp_path.iterdir()))
        with pytest.warns(UserWarning, match="cancelled"):
            values.close()
        eventually(lambda: has_ended(int(file.name)))
        assert squares(3) == [0, 1, 4]


def test_without_joblib_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "joblib", None)
    monkeypatch.setitem(sys.modules, "joblib.parallel", None)
    monkeypatch.delitem(sys.modules, "manyhands.executors.joblib")
    with pytest.raises(ModuleNotFoundError, match=r"hint: pip install 'manyhands\[joblib\]'"):
        mh.register_joblib()


@pytest.mark.filterwarnings("default")
def test_scikit_learn_runs_on_it():
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    from sklearn.datasets import load_iris
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.model_selection import GridSearchCV, cross_val_score

    features, species = load_iris(return_X_y=True)
    forest = RandomForestClassifier(n_estimators=5, random_state=0)
    search = GridSearchCV(forest, {"max_depth": [1, 3]}, cv=3, n_jobs=2).fit(features, species)
    assert search.best_params_ == {"max_depth": 3}
    scores = cross_val_score(forest, features, species, cv=3, n_jobs=2)
    with joblib.parallel_config(backend="loky", n_jobs=1):
        assert scores.tolist() == cross_val_score(forest, features, species, cv=3).tolist()
