"""What blocks an event loop is named, by its line; what does not is left in peace."""

import asyncio
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import pytest

import manyhands as mh
from manyhands.blocking import BlockingCall

THRESHOLD = 0.02
LOOKS_ENOUGH = 2_000


@pytest.fixture
def detector():
    with mh.detect_blocking(THRESHOLD) as detector:
        yield detector


def block_until(is_noticed):
    for _ in range(LOOKS_ENOUGH):
        if is_noticed():
            return
        time.sleep(0.005)


def warned_of(run):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run()
    return [it for it in caught if issubclass(it.category, mh.BlockingCallWarning)]


def test_the_line_that_blocks_is_named(detector):
    line = sys._getframe().f_lineno + 4

    async def main():
        while not detector.found:
            time.sleep(0.005)

    [warning] = warned_of(lambda: asyncio.run(main()))
    assert Path(warning.filename) == Path(__file__)
    assert warning.lineno in (line - 1, line)
    [call] = detector.found
    assert isinstance(call, BlockingCall)
    assert (call.file, call.function) == (__file__, "main")
    assert call.line == warning.lineno
    assert call.seconds >= THRESHOLD
    assert call.task is not None and call.task.startswith("Task-")
    assert call.stack.rstrip() in str(warning.message)
    assert f'File "{__file__}", line {call.line}, in main' in call.stack
    assert "asyncio" not in call.stack


def test_of_frames_in_libraries_the_caller_is_named(detector):
    never = threading.Event()

    async def main():
        helper()

    def helper():
        block_until(lambda: never.wait(0.001) or detector.found)

    def noticed():
        asyncio.run(main())

    warned_of(noticed)
    [call] = detector.found
    assert call.file == __file__
    assert "in helper" in call.stack


def test_a_call_in_a_library_is_put_down_to_its_caller(detector):
    async def main():
        subprocess.run([sys.executable, "-c", "import time; time.sleep(0.3)"], check=True)

    warned_of(lambda: asyncio.run(main()))
    [call] = detector.found
    assert (call.file, call.function) == (__file__, "main")
    assert "subprocess.py" in call.stack


def test_python_code_that_goes_on_and_on_is_named(detector):
    async def main():
        while not detector.found:
            pass

    assert len(warned_of(lambda: asyncio.run(main()))) == 1


def test_a_plain_callback_is_named(detector):
    async def main():
        done = asyncio.Event()

        def callback():
            block_until(lambda: detector.found)
            done.set()

        asyncio.get_running_loop().call_later(0.001, callback)
        await done.wait()

    [warning] = warned_of(lambda: asyncio.run(main()))
    [call] = detector.found
    assert call.task is None
    assert "by a callback" in str(warning.message)


def test_each_callback_is_told_of_once(detector):
    async def main():
        for count in (1, 2, 3):
            block_until(lambda: len(detector.found) == count)  # noqa: B023
            time.sleep(2 * THRESHOLD)
            await asyncio.sleep(0)

    warned_of(lambda: asyncio.run(main()))
    assert len(detector.found) == 3


def test_loops_of_executors_are_looked_at(detector):
    async def careless():
        block_until(lambda: detector.found)
        return 1

    def run():
        with mh.AsyncExecutor() as pool:
            assert pool.submit(careless).result() == 1

    assert len(warned_of(run)) == 1
    assert detector.found[0].function == "block_until"
    assert "in careless" in detector.found[0].stack


def test_what_waits_or_takes_turns_is_left_in_peace(detector):
    async def idle():
        await asyncio.sleep(5 * THRESHOLD)

    async def busy():
        until = time.monotonic() + 5 * THRESHOLD
        while time.monotonic() < until:
            await asyncio.sleep(0)

    async def main():
        await asyncio.gather(idle(), busy(), busy(), asyncio.to_thread(time.sleep, 5 * THRESHOLD))

    assert warned_of(lambda: asyncio.run(main())) == []
    time.sleep(2 * THRESHOLD)  # a thread without a loop may block
    assert not detector.found


def test_where_warnings_are_errors_the_detector_goes_on(detector, monkeypatch):
    raised = []
    monkeypatch.setattr(threading, "excepthook", lambda args: raised.append(args.exc_value))

    async def main():
        for count in (1, 2):
            block_until(lambda: len(raised) == count)  # noqa: B023
            await asyncio.sleep(0)

    with warnings.catch_warnings():
        warnings.simplefilter("error", mh.BlockingCallWarning)
        asyncio.run(main())
    assert [type(error) for error in raised] == [mh.BlockingCallWarning] * 2


def test_a_detector_that_was_stopped_looks_no_more():
    detector = mh.detect_blocking(THRESHOLD)
    thread = detector._thread
    assert thread.is_alive()
    detector.stop()
    assert not thread.is_alive()
    detector.stop()


@pytest.mark.parametrize("threshold", [0, -1.0, float("nan")])
def test_a_threshold_is_a_time(threshold):
    with pytest.raises(ValueError, match="expected seconds above 0"):
        mh.detect_blocking(threshold)
