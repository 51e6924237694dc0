"""Large data between processes: in shared memory, without a copy where it is read, and each reader's own."""

import array
import asyncio
import gc
import mmap
import operator
import os
import pickle
import signal
import threading
from pathlib import Path

import pytest

import manyhands as mh
from watching import eventually

KIB, MIB = 1 << 10, 1 << 20


class Block:
    """Bytes that pickle leaves out of its stream, as those of an array of numbers."""

    def __init__(self, data):
        self.data = data

    def __reduce_ex__(self, protocol):
        return Block, (pickle.PickleBuffer(self.data),)


@pytest.fixture(scope="module")
def pool():
    with mh.ProcessExecutor(2) as pool:
        yield pool


def pattern(size, seed=7):
    return bytes(range(256))[seed:] + bytes([seed]) * (size - 256 + seed)


def mapped_kind(block):
    """Whether the block's memory can be written, and of which object it is."""
    return memoryview(block.data).readonly, type(block.data).__name__


def make_block(size, seed=7):
    return Block(bytearray(pattern(size, seed)))


def echo(value):
    return value


@pytest.mark.parametrize("size", [1, 64 * KIB - 300, 64 * KIB, 200 * KIB, 300 * KIB, MIB, 9 * MIB + 1])
@pytest.mark.parametrize("kind", [bytes, bytearray, lambda data: data.decode("latin-1")])
def test_bytes_and_text_of_any_size_arrive_as_they_are(pool, kind, size):
    value = kind(os.urandom(size))
    assert pool.submit(echo, value).result(timeout=30) == value
    # Not at the top, too.
    nested = {"values": [value, (value, 1)]}
    assert pool.submit(echo, nested).result(timeout=30) == nested


@pytest.mark.parametrize("size", [16, 64 * KIB - 1, 64 * KIB, 64 * KIB + 1, 5 * MIB + 3])
def test_buffers_of_any_size_arrive_as_they_are(pool, size):
    data = os.urandom(size)
    returned = pool.submit(echo, [Block(data), Block(bytearray(data)), "end"]).result(timeout=30)
    assert [bytes(block.data) for block in returned[:2]] == [data, data]
    assert returned[2] == "end"


def test_arrays_of_numbers_arrive_as_they_are(pool):
    values = array.array("d", range(100_000))
    returned = pool.submit(echo, Block(values)).result(timeout=30)
    assert memoryview(returned.data).cast("B").cast("d").tolist() == values.tolist()


def test_a_worker_looks_into_shared_memory_and_cannot_write_there(pool):
    block = Block(bytearray(MIB))
    assert pool.submit(mapped_kind, block).result(timeout=30) == (True, "memoryview")
    small = Block(bytearray(1000))
    assert pool.submit(mapped_kind, small).result(timeout=30) == (False, "bytearray")


def write(block):
    view = memoryview(block.data)
    view[:4] = b"mine"
    return bytes(view[:8])


def test_arguments_can_be_made_writable_and_stay_the_callers():
    block = Block(bytearray(pattern(MIB)))
    before = bytes(block.data)
    with mh.ProcessExecutor(1, writable_arguments=True) as pool:
        assert pool.submit(mapped_kind, block).result(timeout=30) == (False, "memoryview")
        for _ in range(3):
            assert pool.submit(write, block).result(timeout=30) == b"mine" + before[4:8]
    assert block.data == before


def test_writing_to_what_cannot_be_written_fails_the_task(pool):
    with pytest.raises(TypeError, match="read-only"):
        pool.submit(write, make_block(MIB)).result(timeout=30)


def test_results_are_the_callers_own(pool):
    block = pool.submit(make_block, MIB).result(timeout=30)
    view = memoryview(block.data)
    assert (view.readonly, type(block.data).__name__) == (False, "memoryview")
    assert bytes(view) == pattern(MIB)
    view[:4] = b"mine"
    others = [pool.submit(make_block, MIB, seed).result(timeout=30) for seed in range(8)]
    assert bytes(view[:8]) == b"mine" + pattern(MIB)[4:8]
    assert [bytes(other.data) for other in others] == [pattern(MIB, seed) for seed in range(8)]


def test_results_that_are_kept_never_change(pool):
    """More than there are slots, while others come and go."""
    kept = [pool.submit(make_block, 70 * KIB, seed).result(timeout=30) for seed in range(150)]
    for seed in range(150):
        pool.submit(make_block, 70 * KIB, 255 - seed).result(timeout=30)
    assert all(bytes(block.data) == pattern(70 * KIB, seed) for seed, block in enumerate(kept))


keeps = []


def keep(block):
    keeps.append(block)


def kept_here(size):
    return [bytes(block.data) == pattern(size, seed) for seed, block in enumerate(keeps)]


def test_arguments_that_a_worker_keeps_never_change():
    size = 70 * KIB
    with mh.ProcessExecutor(1) as pool:
        for seed in range(100):
            pool.submit(keep, make_block(size, seed)).result(timeout=30)
            pool.submit(len, bytes(size)).result(timeout=30)
        assert pool.submit(kept_here, size).result(timeout=30) == [True] * 100


def test_a_caller_may_change_arguments_as_soon_as_they_are_submitted(pool):
    block = make_block(2 * MIB, 1)
    futures = []
    for seed in range(1, 9):
        block.data[:] = pattern(2 * MIB, seed)
        futures.append(pool.submit(echo, block))
    block.data[:] = bytes(2 * MIB)
    seen = [bytes(future.result(timeout=30).data) for future in futures]
    assert seen == [pattern(2 * MIB, seed) for seed in range(1, 9)]


def test_a_view_outlives_its_worker_and_its_pool():
    with mh.ProcessExecutor(1) as pool:
        block = pool.submit(make_block, MIB).result(timeout=30)
        unread = pool.submit(make_block, MIB, 9)
        assert pool.submit(abs, -1).result(timeout=30) == 1
        assert isinstance(pool.submit(os.abort).exception(timeout=30), mh.WorkerDied)
    gc.collect()
    assert bytes(block.data) == pattern(MIB)
    assert bytes(unread.result(timeout=30).data) == pattern(MIB, 9)


def segments():
    return Path("/proc/self/maps").read_text().count("memfd:manyhands")


def inodes():
    """The large segments that this process has mapped."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return {line.split()[4] for line in lines if "memfd:manyhands" in line}


def test_memory_of_results_is_used_again_once_the_last_view_is_gone():
    size = 3 * MIB
    with mh.ProcessExecutor(1) as pool:
        assert pool.submit(abs, -1).result(timeout=30) == 1
        seen = set()
        before = inodes()
        for _ in range(20):
            block = pool.submit(make_block, size).result(timeout=30)
            seen |= inodes() - before
            del block
        assert 1 <= len(seen) < 10
        gc.collect()
        assert inodes() <= before


def test_a_worker_keeps_nothing_of_what_its_tasks_have_forgotten():
    with mh.ProcessExecutor(1) as pool:
        before = pool.submit(segments).result(timeout=30)
        for _ in range(5):
            pool.submit(mapped_kind, make_block(MIB)).result(timeout=30)
        assert pool.submit(segments).result(timeout=30) == before


def test_what_a_task_raises_may_be_large(pool):
    error = pool.submit(raise_large).exception(timeout=30)
    assert isinstance(error, ValueError)
    assert error.args == (bytes(3 * MIB),)


def raise_large():
    raise ValueError(bytes(3 * MIB))


def test_functions_of_main_may_have_large_arguments_and_globals(pool):
    large = os.urandom(2 * MIB)
    assert pool.submit(lambda block: (len(block.data), large[:8]), make_block(MIB)).result(timeout=30) == (
        MIB,
        large[:8],
    )


def test_a_retry_finds_its_arguments_again(tmp_path):
    careful = mh.ProcessExecutor(1).with_policy(retries=2, backoff=0.001)
    block = make_block(MIB)
    assert careful.submit(die_once, block, str(tmp_path / "died")).result(timeout=30) == pattern(MIB)
    careful.shutdown()


def die_once(block, path):
    if not Path(path).exists():
        Path(path).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return bytes(block.data)


def test_more_arguments_may_wait_than_there_are_descriptors_for(tmp_path):
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    with mh.ProcessExecutor(1) as pool:
        before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
        holder = pool.submit(gate.read_bytes)
        futures = [pool.submit(operator.itemgetter(0), bytes([seed % 256]) * 70 * KIB) for seed in range(600)]
        assert len(os.listdir("/proc/self/fd")) < before + 300  # noqa: PTH208
        gate.write_bytes(b"go")
        assert holder.result(timeout=30) == b"go"
        assert [future.result(timeout=30) for future in futures] == [seed % 256 for seed in range(600)]


def test_many_threads_send_and_receive_at_once(pool):
    failures = []

    def use(seed):
        for size in (70 * KIB, MIB, 300 * KIB):
            block = make_block(size, seed)
            if bytes(pool.submit(echo, block).result(timeout=30).data) != pattern(size, seed):
                failures.append((seed, size))

    threads = [threading.Thread(target=use, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_many_threads_read_one_result(pool):
    future = pool.submit(make_block, 2 * MIB)
    seen = []
    threads = [threading.Thread(target=lambda: seen.append(future.result(timeout=30))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(block) for block in seen}) == 1
    assert bytes(seen[0].data) == pattern(2 * MIB)


def test_a_fork_sees_what_its_parent_had_and_neither_sees_the_others_writing(pool):
    size = MIB
    block = pool.submit(make_block, size, 3).result(timeout=30)
    there, here = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        try:
            # Once the parent has let go of it, and others have used the memory.
            os.read(there[0], 1)
            intact = bytes(block.data) == pattern(size, 3)
            memoryview(block.data)[:4] = b"kids"
            os.write(here[1], b"y" if intact else b"n")
        finally:
            os._exit(0)
    del block
    gc.collect()
    for seed in range(20):
        assert bytes(pool.submit(make_block, size, seed).result(timeout=30).data) == pattern(size, seed)
    os.write(there[1], b"-")
    assert os.read(here[0], 1) == b"y"
    os.waitpid(child, 0)
    for end in (*there, *here):
        os.close(end)


def fork_and_check(block):
    """Have a child let go of the block, and keep it."""
    child = os.fork()
    if child == 0:
        del block
        gc.collect()
        os._exit(0)
    os.waitpid(child, 0)
    keeps.append(block)


def test_a_fork_of_a_worker_gives_nothing_back():
    size = 70 * KIB
    with mh.ProcessExecutor(1) as pool:
        pool.submit(fork_and_check, make_block(size, 0)).result(timeout=30)
        for seed in range(50, 60):
            pool.submit(echo, make_block(size, seed)).result(timeout=30)
        assert pool.submit(kept_here, size).result(timeout=30) == [True]


def test_the_receipt_says_how_much_was_sent_and_received(pool):
    values = [bytes(300 * KIB), bytes(300 * KIB)]
    outcomes = list(mh.map(echo, values, on=pool, on_error="return", timeout=30))
    for outcome in outcomes:
        assert 300 * KIB <= outcome.receipt.bytes_in < 301 * KIB
        assert 300 * KIB <= outcome.receipt.bytes_out < 301 * KIB


def test_other_objects_with_buffers_can_be_sent(pool):
    with mmap.mmap(-1, MIB) as memory:
        memory[:5] = b"hello"
        returned = pool.submit(echo, Block(memory)).result(timeout=30)
        assert bytes(returned.data) == memory[:]
        gc.collect()


async def echo_late(block, turns):
    """As much later as its turns are many, so that calls end in another order than they began."""
    for _ in range(turns):
        await asyncio.sleep(0)
    return block


async def wait_for_ever(block):
    await asyncio.Event().wait()


def test_coroutines_that_end_in_any_order_each_have_their_own():
    with mh.ProcessExecutor(1, concurrency=20) as pool:
        assert pool.submit(echo_late, make_block(70 * KIB), 0).result(timeout=30)
        before = pool.submit(segments_there).result(timeout=30)
        for _ in range(3):
            # More at once than the worker runs, and more than there are slots.
            sent = [(make_block((70 + seed) * KIB, seed), 97 * seed % 40) for seed in range(100)]
            futures = [pool.submit(echo_late, *call) for call in sent]
            seen = [bytes(future.result(timeout=30).data) for future in futures]
            assert seen == [bytes(block.data) for block, _ in sent]
        del futures, sent
        assert pool.submit(segments_there).result(timeout=30) <= before + 20


async def segments_there():
    return segments()


def test_coroutines_that_are_cancelled_let_go_of_what_they_were_sent():
    with mh.ProcessExecutor(1, concurrency=4) as pool:
        before = pool.submit(segments_there).result(timeout=30)
        futures = [pool.submit(wait_for_ever, make_block(MIB)) for _ in range(4)]
        for future in futures:
            eventually(future.running)
            future.cancel()
        assert not mh.wait(futures, timeout=30).not_done
        assert all(future.cancelled() for future in futures)
        assert bytes(pool.submit(echo_late, make_block(MIB), 1).result(timeout=30).data) == pattern(MIB)
        assert pool.submit(segments_there).result(timeout=30) <= before + 1


def make_some(size):
    """Every third is large."""
    return bytes([size % 256]) * (size if size % 3 == 0 else 10)


def test_results_in_batches_may_be_large(pool):
    sizes = [*range(3 * MIB, 3 * MIB + 5), *range(0, 100_000, 97), *range(300 * KIB, 300 * KIB + 9)]
    for size, result in zip(sizes, pool.map(make_some, sizes), strict=True):
        assert len(result) == (size if size % 3 == 0 else 10)
        assert result[:1] == bytes([size % 256])[: len(result)]


def test_items_of_a_map_may_be_large(pool):
    blocks = [make_block(size, size % 200) for size in (300, 70 * KIB, MIB, 1000, 200 * KIB)] * 5
    for block, returned in zip(blocks, mh.map(echo, blocks, on=pool), strict=True):
        assert bytes(returned.data) == bytes(block.data)


def test_the_memory_of_byte_strings_stays_where_it_was_read():
    with mh.ProcessExecutor(1) as pool:
        before_there, before = pool.submit(inodes).result(timeout=30), inodes()
        for seed in range(20):
            data = bytes([seed]) * MIB
            assert pool.submit(echo, data).result(timeout=30) == data
        there = pool.submit(inodes).result(timeout=30)
        # Each has its own segments mapped, and those of the other.
        assert 2 <= len(there - before_there) < 8
        assert there - before_there == inodes() - before


LARGE = 9 * MIB


def test_a_worker_answers_in_memory_that_its_pool_does_not_need():
    with mh.ProcessExecutor(1) as pool:
        pool.submit(abs, -1).result(timeout=30)
        before = inodes()
        pool.submit(mapped_kind, make_block(LARGE)).result(timeout=30)
        of_arguments = inodes() - before
        assert len(of_arguments) == 1
        for seed in range(4):
            block = pool.submit(make_block, LARGE, seed).result(timeout=30)
            assert inodes() - before == of_arguments
            assert bytes(block.data) == pattern(LARGE, seed)
            del block
        # It is the pool's again.
        assert pool.submit(mapped_kind, make_block(LARGE)).result(timeout=30)
        assert inodes() - before == of_arguments


def test_an_answer_in_the_memory_of_the_pool_is_the_callers_own_as_long_as_it_is_kept():
    with mh.ProcessExecutor(1) as pool:
        pool.submit(mapped_kind, make_block(LARGE)).result(timeout=30)
        kept = pool.submit(make_block, LARGE, 3).result(timeout=30)
        memoryview(kept.data)[:4] = b"mine"
        for seed in range(3):
            assert pool.submit(mapped_kind, make_block(LARGE, seed)).result(timeout=30)
            assert bytes(pool.submit(make_block, LARGE, 90 + seed).result(timeout=30).data) == pattern(
                LARGE, 90 + seed
            )
    assert bytes(kept.data) == b"mine" + pattern(LARGE, 3)[4:]


def test_a_fork_keeps_an_answer_in_the_memory_of_the_pool():
    with mh.ProcessExecutor(1) as pool:
        pool.submit(mapped_kind, make_block(LARGE)).result(timeout=30)
        block = pool.submit(make_block, LARGE, 3).result(timeout=30)
        there, here = os.pipe(), os.pipe()
        child = os.fork()
        if child == 0:
            os.read(there[0], 1)
            os.write(here[1], b"y" if bytes(block.data) == pattern(LARGE, 3) else b"n")
            os._exit(0)
        del block
        gc.collect()
        for seed in range(3):
            pool.submit(mapped_kind, make_block(LARGE, 50 + seed)).result(timeout=30)
            pool.submit(make_block, LARGE, 70 + seed).result(timeout=30)
        os.write(there[1], b"-")
        assert os.read(here[0], 1) == b"y"
        os.waitpid(child, 0)
        for end in (*there, *here):
            os.close(end)


class Fatal:
    """Ends its process in the midst of being pickled."""

    def __reduce__(self):
        os._exit(3)


def end_while_answering():
    return Block(bytearray(LARGE)), Fatal()


def test_what_a_worker_was_offered_when_it_died_is_used_again():
    with mh.ProcessExecutor(1) as pool:
        pool.submit(abs, -1).result(timeout=30)
        before = len(inodes())
        for seed in range(3):
            pool.submit(mapped_kind, make_block(LARGE)).result(timeout=30)
            assert isinstance(pool.submit(end_while_answering).exception(timeout=30), mh.WorkerDied)
            block = pool.submit(make_block, LARGE, seed).result(timeout=30)
            assert bytes(block.data) == pattern(LARGE, seed)
            del block
        # What the pool has in common with its one worker, and at most two that it keeps.
        assert len(inodes()) <= before + 2


def test_calls_that_follow_each_other_closely_do_not_share_memory():
    with mh.ProcessExecutor(1) as pool:
        for round_ in range(2):
            sent = [pool.submit(echo, make_block(LARGE, seed)) for seed in (1, 2)]
            made = [pool.submit(make_block, LARGE, seed) for seed in (11, 12, 13)]
            sent += [pool.submit(echo, make_block(LARGE, seed)) for seed in (3, 4)]
            blocks = [future.result(timeout=30) for future in (*sent, *made)]
            expected = [pattern(LARGE, seed) for seed in (1, 2, 3, 4, 11, 12, 13)]
            assert [bytes(block.data) for block in blocks] == expected, round_


@pytest.mark.parametrize("make", [bytes, make_block], ids=["pickled", "out of band"])
def test_a_large_result_does_not_go_with_a_worker_that_the_next_task_ends(make):
    """It lies in the memory of the worker, which must not go on before the pool has opened it."""
    with mh.ProcessExecutor(1) as pool:
        for number in range(12):
            size = MIB + number * KIB
            large, deadly = pool.submit(make, size), pool.submit(os._exit, 3)
            assert isinstance(deadly.exception(), mh.WorkerDied)
            result = large.result()
            assert len(result if make is bytes else result.data) == size


def test_large_results_of_a_batch_do_not_go_with_a_worker_that_the_next_item_ends():
    def work(number):
        if number == 60:
            os._exit(3)
        return bytes(100 * KIB)

    with mh.ProcessExecutor(1) as pool:
        outcomes = list(mh.map(work, range(100), on=pool, on_error="return"))
    failed = {outcome.index: type(outcome.exception) for outcome in outcomes if not outcome.ok}
    assert failed == {60: mh.WorkerDied}
