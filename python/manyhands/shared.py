"""What processes share: numbers, arrays, dicts, queues, locks, without a server between them.

An object is made in one process and sent to others by pickling it: as an argument of a task on worker
processes, to a ``multiprocessing.Process`` of any start method, or by any other way that two processes of one
user on one machine have. With a ``name``, others open it by that. What is sent is only where to find it, so
whoever sends keeps the object until it has arrived.

The memory is there as long as some process has the object, and gone with the last, however that one ended: a
crash or ``kill -9`` leaves nothing behind, in ``/dev/shm`` or elsewhere. Nobody else's processes can open it.

What a process held when it died is not lost to the others: a lock passes on, and says so (``was_abandoned``),
a permit comes back, a barrier breaks. A number is changed as a whole or not at all.

Waiting ends with Ctrl-C, and has timeouts. It is for threads: in a coroutine, wait with
``asyncio.to_thread``.
"""

from __future__ import annotations

from typing import TypeVar

from manyhands import _core
from manyhands._watching import watch_if_wanted

__all__ = [
    "Array",
    "Barrier",
    "Condition",
    "Counter",
    "Dict",
    "Event",
    "Lock",
    "Queue",
    "RLock",
    "RWLock",
    "Semaphore",
    "Value",
]

_N = TypeVar("_N", int, float)
_K = TypeVar("_K")
_V = TypeVar("_V")
_T = TypeVar("_T")


class Value(_core.SharedValue[_N]):
    """A number that processes share: a whole one of 64 bits, or a float, as the initial one is.

    ``add`` and the other methods are one step each, so nothing is lost, and no lock is needed. For changes of
    several steps, ``with value:`` keeps others out that do the same; the methods do not ask for it.

    Args:
        initial: The first number, whose type is the value's.
        name: For others to `open` it by.

    Raises:
        FileExistsError: There is one of the name.

    Example:
        >>> import manyhands as mh
        >>> done = mh.shared.Value(0)
        >>> with mh.ProcessExecutor(2) as pool:
        ...     futures = [pool.submit(done.add, 1) for _ in range(10)]
        ...     largest = max(future.result() for future in futures)
        >>> done.value, largest
        (10, 10)
        >>> with done:
        ...     done.value += 5
        >>> done.value
        15
    """

    __slots__ = ()


class Counter(_core.SharedCounter):
    """A count that many processes add to at the same time.

    Cheaper than a `Value` for that, because those who add seldom touch the same memory; but nobody learns the
    sum by adding.

    Args:
        start: Where it begins.
        name: For others to `open` it by.

    Raises:
        FileExistsError: There is one of the name.

    Example:
        >>> import manyhands as mh
        >>> lines = mh.shared.Counter()
        >>> with mh.ProcessExecutor(2) as pool:
        ...     results = list(pool.map(lines.add, range(5)))
        >>> lines.value
        10
    """

    __slots__ = ()


class Array(_core.SharedArray):
    """Numbers in a row that processes share.

    It has the buffer protocol: ``numpy.asarray(array)`` and ``memoryview(array)`` look into the shared memory
    itself. An element is written whole; to change it by what it was, do so within ``with array:``, as all
    others must.

    Args:
        typecode: The type, by its letter in the module ``array``: ``"d"`` for floats, ``"q"`` for whole
            numbers of 64 bits, ``"B"`` for bytes, and so on.
        content: The numbers, or how many zeros.
        name: For others to `open` it by.

    Raises:
        FileExistsError: There is one of the name.

    Example:
        >>> import manyhands as mh
        >>> squares = mh.shared.Array("q", 5)
        >>> def fill(i):
        ...     squares[i] = i * i
        >>> with mh.ProcessExecutor(2) as pool:
        ...     filled = list(pool.map(fill, range(5)))
        >>> squares[:]
        [0, 1, 4, 9, 16]
        >>> memoryview(squares).nbytes
        40
    """

    __slots__ = ()


class Dict(_core.SharedDict[_K, _V]):
    """A dict that processes share.

    What is read is what somebody has written as a whole; ``add``, ``pop`` and ``setdefault`` are one step
    each. For changes of several steps, ``with d:`` keeps others out that do the same. A value is a copy: to
    change a list in it, set it anew.

    Keys are strings, bytes, numbers, None and tuples of these; values are what can be pickled, and fast what
    need not be: numbers, strings, bytes, None, tuples of these. It grows as needed, and does not become
    smaller. Keys come in no order that one could rely on.

    Args:
        content: What is in it at first: a mapping, or pairs.
        name: For others to `open` it by.

    Raises:
        FileExistsError: There is one of the name.

    Example:
        >>> import manyhands as mh
        >>> words = mh.shared.Dict()
        >>> with mh.ProcessExecutor(2) as pool:
        ...     sums = list(pool.map(words.add, "to be or not to be".split()))
        >>> words["be"], words.get("question"), len(words)
        (2, None, 4)
        >>> sorted(words.items())
        [('be', 2), ('not', 1), ('or', 1), ('to', 2)]
    """

    __slots__ = ()


class Lock(_core.SharedLock):
    """A lock that one process has at a time, and that passes on when it dies.

    The process has it: any of its threads may release it, as with ``threading.Lock``.

    Args:
        name: For others to `open` it by.

    Raises:
        FileExistsError: There is one of the name.

    Example:
        >>> import manyhands as mh
        >>> lock = mh.shared.Lock()
        >>> with lock:
        ...     if lock.was_abandoned:
        ...         print("the last holder died: look after what it left")
        >>> lock.locked()
        False
    """

    __slots__ = ()


class RLock(_core.SharedRLock):
    """A lock that the thread which has it may acquire again, and that passes on when its process dies.

    Args:
        name: For others to `open` it by.

    Raises:
        FileExistsError: There is one of the name.

    Example:
        >>> import manyhands as mh
        >>> lock = mh.shared.RLock()
        >>> with lock, lock:
        ...     lock.locked()
        True
    """

    __slots__ = ()


class RWLock(_core.SharedRWLock):
    """A lock for many who read at the same time, or one who writes.

    First come, first served: who comes to read after somebody who waits to write has to wait too, so neither
    starves. A thread that reads may not go on to write, for two who tried would wait for each other; it gets
    an error.

    Args:
        name: For others to `open` it by.

    Raises:
        FileExistsError: There is one of the name.

    Example:
        >>> import manyhands as mh
        >>> lock = mh.shared.RWLock()
        >>> with lock.read():
        ...     lock.acquire_read(blocking=False)  # once more
        True
        >>> lock.release_read()
        >>> with lock.write():
        ...     pass
    """

    __slots__ = ()


class Semaphore(_core.SharedSemaphore):
    """So many permits for all processes together; those of a process that dies come back.

    A process can give back only what it has: to send signals from one to another, use an `Event` or a
    `Condition`.

    Args:
        value: How many permits there are.
        name: For others to `open` it by.

    Raises:
        FileExistsError: There is one of the name.
        ValueError: `value` is negative.

    Example:
        >>> import manyhands as mh
        >>> connections = mh.shared.Semaphore(4)
        >>> with connections:
        ...     connections.value
        3
    """

    __slots__ = ()


class Queue(_core.SharedQueue[_T]):
    """A queue that processes share, first in, first out.

    What was put is there for all when ``put`` returns: no thread and no server passes it on, so it is not
    lost when the process that put it ends. If a process is killed while it puts, nobody sees a part of its
    item; if it is killed while it takes, that one item may be gone with it, or be taken by another.

    Bytes go as they are, simple values (numbers, strings, None, tuples of these) by a short way, everything
    else by pickle; an array's memory is copied once on each side. A ``memoryview`` arrives as bytes.
    Unpickling runs code of whoever put the item: a process of the same user to which somebody gave the queue.

    Memory for the items is made as it is needed and used again; it does not become less.

    Args:
        maxsize: The most items that it holds, for more of which ``put`` waits; 0 or less for any number.
        name: For others to `open` it by.

    Raises:
        FileExistsError: There is one of the name.

    Thread safety: every method may be called from any thread of any process.

    Example:
        >>> import manyhands as mh
        >>> lines = mh.shared.Queue()
        >>> with mh.ProcessExecutor(2) as pool:
        ...     done = mh.wait([pool.submit(lines.put, word) for word in ("to", "be")])
        >>> sorted([lines.get(), lines.get()])
        ['be', 'to']
        >>> lines.put_many(range(5))
        5
        >>> lines.get_many(3), lines.qsize()
        ([0, 1, 2], 2)

    Source: ``queue.Queue`` of CPython 3.13, whose methods and errors it has.
    """

    __slots__ = ()


class Event(_core.SharedEvent):
    """A flag that one process sets and others wait for, as ``threading.Event``.

    Args:
        name: For others to `open` it by.

    Raises:
        FileExistsError: There is one of the name.

    Example:
        >>> import manyhands as mh
        >>> ready = mh.shared.Event()
        >>> ready.wait(timeout=0)
        False
        >>> ready.set()
        >>> ready.wait()
        True
    """

    __slots__ = ()


class Condition(_core.SharedCondition):
    """A lock together with a way to wait, under it, until another process calls, as ``threading.Condition``.

    Who waits is called in the order of coming, and never wakes up for nothing. The call of a process that
    dies before it could follow it goes to the next.

    Args:
        lock: A shared `Lock` or `RLock`; None for a new `RLock`.
        name: For others to `open` it by; then `lock` must be None.

    Example:
        >>> import manyhands as mh
        >>> filled = mh.shared.Condition()
        >>> level = mh.shared.Value(7)
        >>> with filled:
        ...     filled.wait_for(lambda: level.value > 5)
        True
    """

    __slots__ = ()


class Barrier(_core.SharedBarrier):
    """A place where so many processes wait for each other, round after round, as ``threading.Barrier``.

    If a process dies while it waits there, it is broken for the others too. One that dies on the way is not
    known of: use a timeout where that can happen.

    Args:
        parties: How many must come.
        name: For others to `open` it by.

    Raises:
        FileExistsError: There is one of the name.
        ValueError: `parties` is less than 1.

    Example:
        >>> import manyhands as mh
        >>> barrier = mh.shared.Barrier(1)
        >>> barrier.wait()
        0
    """

    __slots__ = ()


watch_if_wanted()
