"""Ctrl-C ends a wait also if it comes in the moment before the thread has fallen asleep."""

import subprocess
import sys

import pytest

# In a process of its own: where gevent has a hub in the main thread, it is the hub that waits.
WAITING = """
import _thread, sys, threading
from pathlib import Path
import manyhands as mh
from manyhands import sync

def note():
    stat = Path(f"/proc/self/task/{threading.main_thread().native_id}/stat")
    looks = [False]
    while looks[-2:] != [True, True]:
        looks.append(stat.read_text().rpartition(")")[2].split()[0] == "S")
        threading.Event().wait(0.001)
    # As the handler in C does when a signal comes, but without one, so that no sleep is cut short.
    _thread.interrupt_main()

hangs = threading.Event()
thread = threading.Thread(target=note, daemon=True)
try:
    WAIT
except KeyboardInterrupt:
    print("interrupted")
finally:
    hangs.set()
"""
WAITS = {
    "a result": "thread.start(); mh.Future().result(timeout=30)",
    "a lock": "lock = sync.Lock(); lock.acquire(); thread.start(); lock.acquire(timeout=30)",
    "a queue": "thread.start(); sync.Queue().get(timeout=30)",
    "a barrier": "thread.start(); sync.Barrier(2).wait(timeout=30)",
    "an item of a map": "thread.start(); list(mh.map(lambda _: hangs.wait(30), [1], workers=1))",
}


@pytest.mark.parametrize("what", WAITS)
def test_a_signal_that_has_interrupted_no_sleep_is_noticed(what):
    text = WAITING.replace("WAIT\n", f"{WAITS[what]}\n", 1)
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=False)
    assert done.stdout == "interrupted\n", done.stderr
