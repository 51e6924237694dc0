"""Modules without a guard: what a worker imports must not start workers."""

import subprocess
import sys

import pytest

WITHOUT_GUARD = """
import manyhands as mh

def add(x):
    return x + 1

def use(pool):
    print("begun")
    {use}

{begin}
"""

USES = {
    "map": "print(list(pool.map(add, range(3))))",
    "mh.map": "print(list(mh.map(add, range(3), on=pool)))",
    "submit": "print(pool.submit(add, 1).result())",
    "limit": "print(pool.with_policy(timeout=60).submit(add, 1).result())",
}
BEGIN = "with mh.ProcessExecutor(2{options}) as pool: use(pool)"


@pytest.fixture
def run(tmp_path):
    """Runs a program that imports the module `jobs` of that text."""

    def run(jobs, program="import jobs"):
        (tmp_path / "jobs.py").write_text(jobs)
        (tmp_path / "program.py").write_text(program)
        return subprocess.run(
            [sys.executable, tmp_path / "program.py"], capture_output=True, text=True, timeout=50, check=False
        )

    return run


@pytest.mark.parametrize(
    ("use", "options"),
    [*((use, "") for use in USES), ("map", ', start="spawn"'), ("map", ', preload=["jobs"]')],
)
def test_a_module_that_starts_workers_when_it_is_imported_is_told_so(run, use, options):
    done = run(WITHOUT_GUARD.format(use=USES[use], begin=BEGIN.format(options=options)))
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(
        "RuntimeError: could not start worker processes: found a module that does so while"
    )
    assert 'under `if __name__ == "__main__":`' in last
    assert "jobs.py" in done.stderr
    # The module itself, the zygote, a few workers until the pool gives up, and none of theirs.
    assert 1 <= done.stdout.count("begun") <= 10


def test_a_module_may_make_an_executor_and_use_it_later(run):
    jobs = WITHOUT_GUARD.format(use="", begin="pool = mh.ProcessExecutor(1)") + (
        "def nested(x):\n    return pool.submit(add, x).result()\n"
    )
    program = "import jobs\nprint(jobs.pool.submit(jobs.nested, 1).result())\n"
    done = run(jobs, program)
    assert (done.stdout, done.stderr) == ("2\n", "")


def test_a_function_that_a_worker_calls_may_start_workers(run):
    jobs = WITHOUT_GUARD.format(use="return list(pool.map(add, range(3)))", begin="") + (
        "def nested(x):\n    with mh.ProcessExecutor(1) as pool:\n        return use(pool)\n"
    )
    program = "import jobs, manyhands as mh\nprint(mh.ProcessExecutor(1).submit(jobs.nested, 1).result())\n"
    done = run(jobs, program)
    assert (done.stdout, done.stderr) == ("begun\n[1, 2, 3]\n", "")
