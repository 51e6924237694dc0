"""Workers whose memory turns to garbage while answers lie in it that nobody has read."""

import os
import threading
from collections import Counter

import pytest
from noting import note
from scribbling import scribble

import manyhands as mh
from watching import eventually, has_ended, seeds

LOSES_ANSWERS = {"answers", "rings", "everything"}


def wait_at(gate):
    """A task: wait until somebody writes to the named pipe."""
    gate.read_text()


def note_and_scribble(journal, number, *how):
    note(journal, number)
    return scribble(*how)


class Unread:
    """Lets the one worker of a pool run what it has been given, while nobody reads its answers."""

    def __init__(self, pool, path):
        self.pool = pool
        self.worker = pool.submit(os.getpid).result(timeout=20)
        self.gates = [path / name for name in ("first", "second")]
        for gate in self.gates:
            os.mkfifo(gate)

    def occupy(self):
        """Have the worker wait at the first gate, once experience says that ten tasks can be given to it.

        What is submitted from now on is put ahead of it.
        """
        while True:
            for number in range(50):
                assert self.pool.submit(abs, -number).result(timeout=20) == number
            self.first = self.pool.submit(wait_at, self.gates[0])
            ahead = [self.pool.submit(abs, -number) for number in range(10)]
            has_room = self.pool.statistics().queued == 0
            assert all(future.cancel(force=True) for future in reversed(ahead))
            if has_room:
                return
            self.gates[0].write_text("go")
            self.first.result(timeout=20)

    def until_it_has_ended(self):
        """Open the gates, the second when no answer is read any more, until the worker has ended."""
        is_held, is_over = threading.Event(), threading.Event()

        def hold(_future):
            is_held.set()
            is_over.wait(60)

        # Whoever reads the answers calls this.
        self.first.add_done_callback(hold)
        try:
            self.gates[0].write_text("go")
            assert is_held.wait(20)
            self.gates[1].write_text("go")
            eventually(lambda: has_ended(self.worker), "the worker's end")
        finally:
            is_over.set()


def ran(journal):
    """How often each number was noted, and which ones by whom."""
    lines = [tuple(map(int, line.split(":"))) for line in journal.lines()]
    return Counter(number for number, _ in lines), lambda pid: {number for number, by in lines if by == pid}


@seeds(2)
@pytest.mark.parametrize("part", ["tasks", "answers", "states", "rings", "everything"])
@pytest.mark.parametrize("then", ["return", "die"])
def test_no_task_is_run_twice_because_its_answer_was_lost(part, then, seed, journal, tmp_path):
    with mh.ProcessExecutor(1) as pool:
        unread = Unread(pool, tmp_path)
        unread.occupy()
        second = pool.submit(wait_at, unread.gates[1])
        futures = [pool.submit(note, journal, number) for number in range(3)]
        futures += [pool.submit(note_and_scribble, journal, 3, seed, part, then)]
        futures += [pool.submit(note, journal, number) for number in range(4, 7)]
        unread.until_it_has_ended()
        errors = [future.exception(timeout=20) for future in [*futures, second]]
    died = {number for number, error in enumerate(errors) if error is not None} - {7}
    assert all(isinstance(errors[number], mh.WorkerDied) for number in died)
    times, of_worker = ran(journal)
    assert max(times.values()) == 1
    assert times.keys() | died == set(range(7))
    assert of_worker(unread.worker) == {0, 1, 2, 3}
    if part in LOSES_ANSWERS:
        # What had not begun others have run, unless nobody can know.
        assert died == (set(range(7)) if part == "everything" else {0, 1, 2, 3})
        assert "garbage" in str(errors[0])
    else:
        assert died <= {3}


@seeds(2)
@pytest.mark.parametrize("then", ["return", "die"])
def test_a_task_whose_answer_was_lost_is_repeated_if_its_policy_says_so(then, seed, journal, tmp_path):
    with mh.ProcessExecutor(1) as pool:
        unread = Unread(pool, tmp_path)
        unread.occupy()
        futures = [pool.submit(wait_at, unread.gates[1])]
        again = pool.with_policy(retries=1, retry_on=mh.WorkerDied).submit(note, journal, 0)
        futures += [pool.submit(note, journal, 1)]
        futures += [pool.submit(note_and_scribble, journal, 2, seed, "answers", then)]
        unread.until_it_has_ended()
        assert again.result(timeout=20) == 0
        assert all(isinstance(future.exception(timeout=20), mh.WorkerDied) for future in futures)
    assert ran(journal)[0] == {0: 2, 1: 1, 2: 1}


@seeds(2)
@pytest.mark.parametrize("part", ["answers", "everything"])
@pytest.mark.parametrize("then", ["return", "die"])
@pytest.mark.parametrize("mad", [3, 5], ids=["among the items", "behind them"])
def test_no_item_is_run_twice_because_answers_were_lost(mad, then, part, seed, journal, tmp_path):
    with mh.ProcessExecutor(1) as pool:
        unread = Unread(pool, tmp_path)
        unread.occupy()
        gate = unread.gates[1]

        def work(number):
            if number == 0:
                wait_at(gate)
            note(journal, number)
            if number == mad:
                scribble(seed, part, then)

        # Those travel together.
        values = pool.map(work, range(5))
        futures = [pool.submit(work, number) for number in range(5, 8)]
        unread.until_it_has_ended()

        def figures_when_done():
            figures = pool.statistics()
            done = figures.succeeded + figures.failed + figures.cancelled
            return figures if figures.submitted == done else None

        figures = eventually(figures_when_done, "what becomes of all items")
        with pytest.raises(mh.WorkerDied, match="garbage"):
            next(values)
        errors = [future.exception() for future in futures]
        assert all(error is None or isinstance(error, mh.WorkerDied) for error in errors)
    times, of_worker = ran(journal)
    assert max(times.values()) == 1
    lost = of_worker(unread.worker)
    assert lost >= set(range(mad + 1))
    if part == "everything":
        assert figures.failed >= len(lost)
        assert figures.failed + len(times.keys() - lost) == 8
    else:
        assert figures.failed == len(lost)
        assert set(times) == set(range(8))
