"""Whether a history of calls that overlapped could have come about one call at a time.

A `Recorder` notes when each call began and ended, on a clock that only counts. `check` looks for an order in
which each call takes effect at one instant between the two, and a model, a plain sequential object, gives the
same answers. A call that never ended may have taken effect or not.

Source: J. M. Wing and C. Gong, Testing and Verifying Concurrent Objects, J. Parallel Distrib. Comput. 17
(1993); with the memory of states that were tried before by G. Lowe, Testing for Linearizability (2017).
"""

import itertools
from collections.abc import Callable, Hashable, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

NEVER = float("inf")


@dataclass(eq=False)
class Call:
    """One call: what was asked, what it gave, and when it began and ended."""

    name: str
    arguments: tuple[Any, ...]
    began: float
    ended: float = NEVER
    result: Any = None

    def __str__(self):
        given = ", ".join(map(repr, self.arguments))
        return f"{self.began:>5}..{self.ended:<5} {self.name}({given}) -> {self.result!r}"


class Recorder:
    """Notes calls from any thread; `next` of a count is one step for all of them."""

    def __init__(self):
        self.calls: list[Call] = []
        self._clock = itertools.count()

    @contextmanager
    def call(self, name, *arguments):
        """Note a call that is made in the block; the block sets its result. One that raises has not ended."""
        call = Call(name, arguments, next(self._clock))
        self.calls.append(call)
        yield call
        call.ended = next(self._clock)


Model = Callable[[Any, str, tuple[Any, ...]], Iterable[tuple[Hashable, Any]]]
"""From a state and a call to the states that may follow, each with the answer; none if it has to wait."""


def check(calls: list[Call], model: Model, state: Hashable) -> None:
    """Fail with the history unless some order explains it."""
    assert explain(calls, model, state) is not None, "no order explains this:\n" + "\n".join(
        map(str, sorted(calls, key=lambda call: call.began))
    )


def explain(calls: list[Call], model: Model, state: Hashable) -> list[Call] | None:
    """Return the calls in an order that explains their answers; None if there is none.

    The search is by depth, without recursion: a history may be longer than Python's stack.
    """
    calls = sorted(calls, key=lambda call: call.began)
    everything = frozenset(number for number, call in enumerate(calls) if call.ended < NEVER)
    tried = set()
    paths = [(state, frozenset(), ())]
    while paths:
        state, done, order = paths.pop()
        if everything <= done:
            return [calls[number] for number in order]
        if (state, done) in tried:
            continue
        tried.add((state, done))
        for number in candidates(calls, done):
            call = calls[number]
            for following, answer in model(state, call.name, call.arguments):
                if call.ended == NEVER or answer == call.result:
                    paths.append((following, done | {number}, (*order, number)))
    return None


def candidates(calls, done):
    """The calls that may be next: those that began before any that is left ended."""
    first_end = min((call.ended for number, call in enumerate(calls) if number not in done), default=NEVER)
    for number, call in enumerate(calls):
        if call.began > first_end:
            break
        if number not in done:
            yield number
