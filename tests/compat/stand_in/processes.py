"""A `ProcessExecutor` with the constructor of ``ProcessPoolExecutor``, and the ways in which the two differ.

Where they differ in words or in the moment at which they say something, this translates; where they differ in
what they do, the test is left out by name in ``skips.py``.
"""

import concurrent.futures.process
import logging
import multiprocessing
import multiprocessing.context
import multiprocessing.queues
import multiprocessing.reduction
import multiprocessing.util
import os
import pickle

import manyhands
from manyhands.errors import RemoteTraceback


class ProcessPoolExecutor(manyhands.ProcessExecutor):
    """The constructor of the standard library, and what else its tests know of the class by name.

    manyhands never forks the program itself, so its two ways of starting workers stand for three: a fork of a
    clean process for "forkserver", which is just that, and for "fork", for want of anything closer; a fresh
    interpreter for "spawn".
    """

    def __init__(
        self, max_workers=None, mp_context=None, initializer=None, initargs=(), *, max_tasks_per_child=None
    ):
        if max_workers is not None and max_workers <= 0:
            raise ValueError("max_workers must be greater than 0")
        method = mp_context.get_start_method() if mp_context else "fork"
        if max_tasks_per_child is not None and mp_context and method == "fork":
            raise ValueError("max_tasks_per_child is incompatible with fork")
        options = {} if max_tasks_per_child is None else {"max_tasks_per_worker": max_tasks_per_child}
        if initializer is not None:
            initargs = (initializer, *(inheritable(argument) for argument in initargs))
            initializer = initialize
        super().__init__(
            max_workers,
            initializer=initializer,
            initargs=initargs,
            start="spawn" if method == "spawn" else "zygote",
            **options,
        )

    _first = None
    """The first task."""

    @property
    def _max_workers(self):
        return self.capacity

    def shutdown(self, wait=True, *, cancel_futures=False):
        # The standard library counts what it has sent to workers that are still starting as begun, and a test
        # wants to see one such task done. For manyhands nothing has begun by then, and all is cancelled.
        if cancel_futures and self._first:
            self._first.exception()
        super().shutdown(wait, cancel_futures=cancel_futures)

    def submit(self, fn, /, *args, **kwargs):
        try:
            future = super().submit(fn, *args, **kwargs)
        except manyhands.ExecutorClosed as closed:
            # A test reads the name of the class in a traceback; ours is a RuntimeError of another name.
            raise RuntimeError(str(closed)) from None
        except (TypeError, pickle.PicklingError) as error:
            if error.__cause__ is None:
                raise
            # manyhands refuses at once what cannot be pickled; the standard library's future tells later.
            future = manyhands.Future()
            future.set_exception(error.__cause__)
        self._first = self._first or future
        return future


def initialize(initializer, *arguments):
    """Report a failure as the standard library's workers do, under the name that the tests listen to."""
    arguments = [argument() if isinstance(argument, Inherited) else argument for argument in arguments]
    try:
        initializer(*arguments)
    except BaseException:
        logging.getLogger("concurrent.futures").critical("Exception in initializer:", exc_info=True)
        # As a process of multiprocessing does before it ends.
        multiprocessing.util._exit_function()
        raise


class Inherited:
    """What can only be sent while a process is started: its pickle, made as if one were."""

    def __init__(self, value):
        multiprocessing.context.set_spawning_popen(Popen())
        try:
            self.pickled = multiprocessing.reduction.ForkingPickler.dumps(value).tobytes()
        finally:
            multiprocessing.context.set_spawning_popen(None)

    def __call__(self):
        return pickle.loads(self.pickled)


def inheritable(value):
    return Inherited(value) if isinstance(value, multiprocessing.queues.Queue) else value


class Popen:
    """Stands for the process that is started: it opens the descriptors of this one by their paths."""

    def duplicate_for_child(self, fd):
        return f"/proc/{os.getpid()}/fd/{fd}"

    class DupFd:
        def __init__(self, path):
            self.path = path

        def detach(self):
            return os.open(self.path, os.O_RDWR)


def install():
    """Put the executor, and what its tasks fail with, in the place of the standard library's."""
    for module in (concurrent.futures, concurrent.futures.process):
        module.ProcessPoolExecutor = ProcessPoolExecutor
    # What the standard library's whole pool fails with when a worker dies, ours fails the one task with.
    concurrent.futures.process.BrokenProcessPool = manyhands.WorkerDied
    concurrent.futures.process._RemoteTraceback = RemoteTraceback
    RemoteTraceback.tb = property(lambda cause: cause.traceback)
    # The locks of a fork's queue have no name by which a process that is not a fork could open them.
    multiprocessing.context.ForkContext.Queue = multiprocessing.get_context("forkserver").Queue
