"""Random streams that belong to the items of a map, not to its workers."""

from __future__ import annotations

from contextvars import ContextVar

TYPE_CHECKING = False  # without the import: `typing` is a large module
if TYPE_CHECKING:
    import random

__all__ = ["item_random", "item_seed"]

_seed: ContextVar[int] = ContextVar("manyhands_item_seed")
_stream: ContextVar[tuple[int, random.Random]] = ContextVar("manyhands_item_stream")


def item_seed() -> int:
    """Return the seed of the item that is being worked on: 64 bits, for ``numpy.random.default_rng``.

    Raises:
        LookupError: The caller does not run in a map with `seed`.

    Example:
        >>> import manyhands as mh
        >>> def seed_of(_):
        ...     return mh.item_seed()
        >>> list(mh.map(seed_of, "ab", seed=7)) == list(mh.map(seed_of, "ab", seed=7, workers=1))
        True
    """
    seed = _seed.get(None)
    if seed is None:
        # Without an exception before it, in which a variable is that cannot be sent from a process.
        raise LookupError("there is no item with a seed here: give `seed=` to mh.map")
    return seed


def item_random() -> random.Random:
    """Return the random stream of the item that is being worked on.

    It is the same object throughout one attempt, and starts anew with each attempt, so a retried item draws
    the same numbers again. The numbers depend on the map's seed and the item's position alone: not on the
    number of workers, the order or the model.

    Raises:
        LookupError: The caller does not run in a map with `seed`.

    Example:
        >>> import manyhands as mh
        >>> def throw(_):
        ...     return mh.item_random().randint(1, 6)
        >>> alone, together = (list(mh.map(throw, range(5), workers=n, seed=7)) for n in (1, 4))
        >>> alone == together
        True
    """
    seed = item_seed()
    known = _stream.get(None)
    if known is not None and known[0] == seed:
        return known[1]
    from random import Random

    stream = Random(seed)
    _stream.set((seed, stream))
    return stream
