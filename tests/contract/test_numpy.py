"""Arrays of numpy, which most large data is: shared and not copied, and their library imported once."""

import itertools
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest

import manyhands as mh
from manyhands.executors import _branches
from watching import eventually

ROWS = 1 << 17
NAMES = (f"numbers_{count}" for count in itertools.count())


@pytest.fixture(scope="module")
def pool():
    with mh.ProcessExecutor(2) as pool:
        yield pool


def mapping_of(array):
    """What kind of memory the first number of an array lies in, by this process's map of it."""
    address = array.__array_interface__["data"][0]
    with Path("/proc/self/maps").open() as maps:
        for line in maps:
            begin, end = (int(part, 16) for part in line.split(maxsplit=1)[0].split("-"))
            if begin <= address < end:
                return line.split(maxsplit=5)[-1]
    raise LookupError(hex(address))


def look(array):
    return array.flags.writeable, array.flags.owndata, "memfd" in mapping_of(array), float(array.sum())


def test_an_array_arrives_as_a_view_of_shared_memory_that_cannot_be_written(pool):
    array = np.arange(ROWS, dtype=np.float64)
    is_writeable, owns_data, is_shared, total = pool.submit(look, array).result(timeout=30)
    assert (is_writeable, owns_data, is_shared) == (False, False, True)
    assert total == array.sum()


def add_one(array):
    array += 1
    return float(array[0]), float(array.sum())


def test_writing_to_it_is_an_error_unless_asked_for(pool):
    array = np.zeros(ROWS)
    with pytest.raises(ValueError, match="read-only"):
        pool.submit(add_one, array).result(timeout=30)
    with mh.ProcessExecutor(1, writable_arguments=True) as writers:
        assert writers.submit(add_one, array).result(timeout=30) == (1.0, ROWS)
    assert array.sum() == 0


def table(rows, order):
    return np.asarray(np.arange(2 * rows, dtype=np.int32).reshape(rows, 2), order=order)


@pytest.mark.parametrize("order", "CF")
def test_a_result_is_a_view_of_shared_memory_and_the_callers_own(pool, order):
    got = pool.submit(table, ROWS, order).result(timeout=30)
    assert "memfd" in mapping_of(got)
    assert not got.flags.owndata
    assert got.flags["C_CONTIGUOUS" if order == "C" else "F_CONTIGUOUS"]
    got[0, 1] = -1
    expected = table(ROWS, order)
    expected[0, 1] = -1
    assert (got == expected).all()


def strided(array):
    return array[::2, 1:]


def test_what_is_no_one_piece_of_memory_arrives_as_it_is(pool):
    array = np.arange(4 * ROWS).reshape(ROWS, 4)
    got = pool.submit(strided, array[:, ::-1]).result(timeout=30)
    assert (got == array[::2, 2::-1]).all()


def test_records_objects_and_masks_arrive_as_they_are(pool):
    records = np.zeros(ROWS, dtype=[("id", "i8"), ("name", "U8")])
    records["name"][7] = "seven"
    objects = np.array(["a", 1, None] * 1000, dtype=object)
    masked = np.ma.masked_less(np.arange(ROWS), 5)
    for sent in (records, objects, masked):
        got = pool.submit(pickle.loads, pickle.dumps(sent)).result(timeout=30)
        again = pool.submit(np.copy, sent).result(timeout=30)
        assert got.dtype == again.dtype == sent.dtype
        assert (got == sent).all()
        assert (again == np.copy(sent)).all()


def test_slices_of_one_array_go_out_in_a_map_and_come_back(pool):
    array = np.arange(16 * 4096, dtype=np.float64).reshape(16, 4096)
    assert list(mh.map(np.sum, array, on=pool)) == [row.sum() for row in array]
    back = np.stack(list(mh.map(np.negative, array, on=pool)))
    assert (back == -array).all()


def test_a_module_that_uses_numpy_is_imported_once_for_later_pools(tmp_path, monkeypatch):
    name = next(NAMES)
    (tmp_path / f"{name}.py").write_text(
        "import os, numpy\n"
        "def total(count): return os.getppid(), float(numpy.ones(count).sum()), numpy.random.rand()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    total = __import__(name).total

    def call():
        # With more, numpy's library for linear algebra begins threads at import, which no fork would have.
        with mh.ProcessExecutor(1, threads_per_worker=1) as pool:
            return pool.submit(total, 1000).result(timeout=30)

    def branch():
        records = [each._records for each in _branches._branches.values()]
        return next((each[name].branch for each in records if name in each), None)

    places = [call(), call()]
    eventually(lambda: branch().is_ready or branch().is_gone, "the end of the import")
    assert branch().is_ready
    places += [call(), call()]
    parents, sums, drawn = zip(*places, strict=True)
    assert parents[0] == parents[1] != parents[2] == parents[3]
    assert set(sums) == {1000.0}
    # Each worker has seeded numpy's generator for itself.
    assert len({*drawn}) == len(drawn)
    sys.modules.pop(name)
