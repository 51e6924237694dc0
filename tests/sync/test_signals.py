"""Ctrl-C ends a wait also if it comes in the moment before the thread has fallen asleep."""

import _thread
import threading

import pytest
from sleeping import is_asleep

import manyhands as mh
from manyhands import sync
from watching import eventually

HANGS = threading.Event()
WAITS = {
    "a result": lambda: mh.Future().result(timeout=30),
    "a lock": lambda: taken().acquire(timeout=30),
    "a queue": lambda: sync.Queue().get(timeout=30),
    "a condition": lambda: waited_for(sync.Condition()),
    "an item of a map": lambda: list(mh.map(lambda _: HANGS.wait(30), [1], workers=1)),
}


def taken():
    lock = sync.Lock()
    lock.acquire()
    return lock


def waited_for(condition):
    with condition:
        return condition.wait(timeout=30)


@pytest.mark.parametrize("what", WAITS)
def test_a_signal_that_has_interrupted_no_sleep_is_noticed(what):
    def note():
        eventually(lambda: is_asleep(threading.main_thread()), "the wait")
        # As the handler in C does when a signal comes, but without one, so that no sleep is cut short.
        _thread.interrupt_main()

    thread = threading.Thread(target=note)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        WAITS[what]()
        pytest.fail("nobody noticed the signal")
    thread.join()
    HANGS.set()
