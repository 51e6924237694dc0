"""JSON with the values that Celery writes although JSON has none like them: times, decimals, UUIDs, bytes.

Such a value stands as ``{"__type__": "decimal", "__value__": "1.10"}``.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

__all__ = ["dumps", "loads"]

_MARK = '"__type__"'


def _written(value: Any) -> Any:
    """What JSON can hold in place of a value that it cannot."""
    if (own := getattr(value, "__json__", None)) is not None:
        return own()
    for kinds, name, write in _writers():
        if isinstance(value, kinds):
            return {"__type__": name, "__value__": write(value)}
    if isinstance(value, bytes | bytearray | memoryview):
        return _written_bytes(bytes(value))
    kind = type(value).__qualname__
    raise TypeError(
        f"could not write a value as JSON: found {kind}, expected what JSON holds, a time or a UUID"
    )


def _written_bytes(value: bytes) -> dict[str, str]:
    try:
        return {"__type__": "bytes", "__value__": value.decode()}
    except UnicodeDecodeError:
        import base64

        return {"__type__": "base64", "__value__": base64.b64encode(value).decode()}


_Writer = tuple[type, str, Callable[[Any], Any]]
_all_writers: list[_Writer] = []
_all_readers: dict[str, Callable[[Any], Any]] = {}


def _writers() -> list[_Writer]:
    if not _all_writers:  # only now: most programs send none of these, and the modules are not small
        import datetime
        import decimal
        import uuid

        _all_writers.extend([
            (datetime.datetime, "datetime", datetime.datetime.isoformat),  # before `date`, which it is, too
            (datetime.date, "date", datetime.date.isoformat),
            (datetime.time, "time", datetime.time.isoformat),
            (decimal.Decimal, "decimal", str),
            (uuid.UUID, "uuid", lambda value: {"hex": value.hex}),
        ])  # fmt: skip
    return _all_writers


def _restored(members: dict[str, Any]) -> Any:
    """The value that an object stands for, or the object."""
    if len(members) != 2 or "__type__" not in members or "__value__" not in members:
        return members
    kind, value = members["__type__"], members["__value__"]
    reader = _readers().get(kind) if isinstance(kind, str) else None
    if reader is None:
        raise ValueError(f"found a value of the type {kind!r:.80}, expected one of {', '.join(_readers())}")
    return reader(value)


def _readers() -> dict[str, Callable[[Any], Any]]:
    if not _all_readers:
        import base64
        import datetime
        import decimal
        import uuid

        def moment(value: str) -> datetime.datetime:
            # Before Python 3.11 the letter is not understood.
            return datetime.datetime.fromisoformat(value[:-1] + "+00:00" if value[-1:] in "Zz" else value)

        _all_readers.update({
            "datetime": moment,
            "date": lambda value: moment(value).date(),
            "time": datetime.time.fromisoformat,
            "decimal": decimal.Decimal,
            "uuid": lambda value: uuid.UUID(**value) if isinstance(value, dict) else uuid.UUID(value),
            "bytes": str.encode,
            "base64": base64.b64decode,
        })  # fmt: skip
    return _all_readers


_encoder = json.JSONEncoder(default=_written)
_decoder = json.JSONDecoder()
_extended_decoder = json.JSONDecoder(object_hook=_restored)


def _quick_encoder() -> Callable[[Any], str]:
    """The standard library's encoder in C, made once: small values take less time than making it."""
    make = getattr(json.encoder, "c_make_encoder", None)
    if make is None:  # not CPython
        return _encoder.encode
    encode = make(None, _written, json.encoder.encode_basestring_ascii, None, ": ", ", ", False, False, True)

    def quick(value: Any) -> str:
        try:
            return "".join(encode(value, 0))
        except RecursionError:
            return _encoder.encode(value)  # which looks for a cycle, and names it

    return quick


_encode = _quick_encoder()


def dumps(value: Any) -> bytes:
    """The value as JSON, in ASCII."""
    return _encode(value).encode("ascii")


def loads(text: str) -> Any:
    """The value that the text stands for."""
    # The hook is called for each object of the text, so it is left out where there is nothing for it to do.
    decoder = _extended_decoder if _MARK in text else _decoder
    try:
        value, end = decoder.raw_decode(text)
    except json.JSONDecodeError:
        end = -1
    # Rarely there is space around the value, or something wrong.
    return value if end == len(text) else decoder.decode(text)
