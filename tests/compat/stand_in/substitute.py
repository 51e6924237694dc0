"""Puts manyhands' executors and future in the place of those of ``concurrent.futures``.

To be done before anything imports a name from there. `MANYHANDS_WAITS` says whose `wait` and `as_completed`
are used: those of the standard library, which look into our futures ("standard", the default), or our own
("manyhands").
"""

import concurrent.futures
import concurrent.futures.thread
import itertools
import os
import warnings

import processes

import manyhands


class ThreadPoolExecutor(manyhands.ThreadExecutor):
    """The constructor of the standard library, and what else its tests know of the class by name."""

    _numbers = itertools.count()

    def __init__(self, max_workers=None, thread_name_prefix="", initializer=None, initargs=()):
        if max_workers is not None and max_workers <= 0:
            raise ValueError("max_workers must be greater than 0")
        name = thread_name_prefix or f"ThreadPoolExecutor-{next(self._numbers)}"
        super().__init__(max_workers, initializer=initializer, initargs=initargs, name=name)

    @property
    def _max_workers(self):
        return self.capacity

    def submit(self, fn, /, *args, **kwargs):
        try:
            return super().submit(fn, *args, **kwargs)
        except manyhands.ExecutorClosed as closed:
            # A test reads the name of the class in a traceback; ours is a RuntimeError of another name.
            raise RuntimeError(str(closed)) from None


def install():
    # CPython's tests leave failed futures behind on purpose. That we warn of such is tested elsewhere.
    warnings.simplefilter("ignore", manyhands.TaskFailureWarning)
    for module in (concurrent.futures, concurrent.futures.thread):
        module.ThreadPoolExecutor = ThreadPoolExecutor
    processes.install()
    for module in (concurrent.futures, concurrent.futures._base):
        module.Future = manyhands.Future
    if os.environ.get("MANYHANDS_WAITS") == "manyhands":
        for module in (concurrent.futures, concurrent.futures._base):
            module.wait = manyhands.wait
            module.as_completed = manyhands.as_completed
