"""joblib's ``Parallel`` on processes of ours; importing this registers the backend "manyhands".

A call of ``Parallel`` borrows an executor for as long as it runs. The last one that was given back is kept,
with its warm workers, for the next call of the same size: importing numpy anew in each worker costs more than
most calls do.

joblib schedules: it batches calls, and submits the next batch when one is done. So there is nothing here that
queues or retries.

Source: the interface ``joblib.parallel.ParallelBackendBase`` of joblib 1.3 to 1.6.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

from joblib.parallel import (
    AutoBatchingMixin,
    FallbackToBackend,
    ParallelBackendBase,
    SequentialBackend,
    register_parallel_backend,
)

from manyhands import _core
from manyhands.executors.process import ProcessExecutor
from manyhands.futures import Future

__all__ = ["ManyhandsBackend"]


class ManyhandsBackend(AutoBatchingMixin, ParallelBackendBase):  # type: ignore[misc]
    """The backend that ``joblib.parallel_config(backend="manyhands")`` chooses.

    ``n_jobs`` is the number of processes, negative ones count back from the processors that this process may
    use, and ``inner_max_num_threads`` limits the threads of numerical libraries in each. A time limit, an
    error, and a generator that is left early end the calls that still run, and the processes that these
    started.

    Example:
        >>> import joblib
        >>> import manyhands.executors.joblib
        >>> with joblib.parallel_config(backend="manyhands", n_jobs=2):
        ...     joblib.Parallel()(joblib.delayed(pow)(n, 2) for n in range(4))
        [0, 1, 4, 9]
    """

    supports_retrieve_callback = True
    supports_inner_max_num_threads = True
    default_n_jobs = -1

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._borrowed: ProcessExecutor | None = None
        self._futures: set[Future[Any]] = set()

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """Return how many processes `n_jobs` means."""
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        if n_jobs is None:
            return 1
        return n_jobs if n_jobs > 0 else max(1, _core.available_processors() + 1 + n_jobs)

    def configure(self, n_jobs: int = 1, parallel: Any = None, **_options: Any) -> int:
        """Get ready for a call of ``Parallel``; options that are about joblib's own processes are ignored."""
        n_jobs = self.effective_n_jobs(n_jobs)
        if n_jobs == 1:
            raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
        self.parallel = parallel
        self._borrowed = _shelf.borrow(n_jobs, self.inner_max_num_threads)
        return n_jobs

    def submit(self, func: Callable[[], Any], callback: Callable[[Future[Any]], object] | None = None) -> Any:
        """Have a batch of calls run; `callback` is called with its future."""
        assert self._borrowed is not None, "submit() comes after configure()"
        try:
            future = self._borrowed.submit(_joblib_batch, func)
        except Exception as error:
            # joblib submits from callbacks, where nobody would see it.
            future = Future()
            future.set_running_or_notify_cancel()
            future.set_exception(error)
        self._futures.add(future)
        future.add_done_callback(self._futures.discard)
        if callback is not None:
            future.add_done_callback(callback)
        return future

    def apply_async(self, func: Callable[[], Any], callback: Callable[[Any], object] | None = None) -> Any:
        """What joblib before 1.5 calls `submit`."""
        return self.submit(func, callback)

    def retrieve_result_callback(self, out: Future[Any]) -> Any:
        """Return the results of a batch, or raise what it raised."""
        return out.result()

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Drop the batches that have not begun, and end the others; the executor stays good for more."""
        futures = list(self._futures)
        # Those that have not begun first: they must not begin in the places of those that are ended.
        for future in sorted(futures, key=lambda future: future.running()):
            future.cancel(force=True)

    def terminate(self) -> None:
        """Give the executor back."""
        if self._borrowed is not None:
            _shelf.give_back(self._borrowed)
            self._borrowed = None
        self.reset_batch_stats()

    def __getstate__(self) -> dict[str, Any]:
        """What a copy in a worker knows: not the executor here."""
        return {**self.__dict__, "parallel": None, "_borrowed": None, "_futures": set()}


def _joblib_batch(batch: Callable[[], Any]) -> Any:
    """Run a batch, which is an argument and not the function, for each is another one."""
    return batch()


class _Shelf:
    """The executor that is not in use, if there is one, and what it was made for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sizes: dict[ProcessExecutor, tuple[int, int | None]] = {}
        self._idle: ProcessExecutor | None = None

    def borrow(self, workers: int, threads: int | None) -> ProcessExecutor:
        """Take the idle executor if it fits, else a new one."""
        with self._lock:
            idle = self._idle
            if idle is not None and self._sizes[idle] == (workers, threads):
                self._idle = None
                return idle
        made = ProcessExecutor(workers, threads_per_worker=threads, name="joblib")
        with self._lock:
            self._sizes[made] = (workers, threads)
        return made

    def give_back(self, executor: ProcessExecutor) -> None:
        """Keep the executor; close the one that was kept."""
        with self._lock:
            executor, self._idle = self._idle, executor  # type: ignore[assignment]
            if executor is None:
                return
            del self._sizes[executor]
        executor.shutdown(wait=False)


def _empty_shelf() -> None:
    """In a forked child: its parent's workers are not its own."""
    global _shelf
    _shelf = _Shelf()


_shelf = _Shelf()
os.register_at_fork(after_in_child=_empty_shelf)
register_parallel_backend("manyhands", ManyhandsBackend)
