"""The bodies of tasks and the documents of results as bytes, in Celery's forms.

Bytes from outside are hostile: a content type that was not accepted is refused before anything looks at the
bytes, what is compressed is unpacked within a limit, and whatever else is wrong with them ends in one error.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from manyhands.errors import ContentRefused
from manyhands.queue import _compression, _json

__all__ = [
    "Serializer",
    "accepted",
    "decode_body",
    "dumps",
    "encode_body",
    "find",
    "loads",
    "read_document",
    "register",
    "write_document",
]

JSON_ALONE = frozenset({"application/json"})
"""What is accepted where nobody said more."""
LARGEST = 128 << 20
"""The most bytes that something compressed may unpack to."""
NO_EMBED: Mapping[str, None] = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
"""What a call without a workflow embeds."""

_COMPRESSED = b"\0celery-compressed\0"
_CHARSETS = frozenset({"utf-8", "utf8", "ascii", "us-ascii", "latin-1", "iso-8859-1", "utf-16", "utf-32"})


class Serializer(NamedTuple):
    """A way to write values as bytes.

    Attributes:
        name: What users call it.
        content_type: What messages call it.
        content_encoding: "utf-8" for text, "binary" otherwise.
        dumps: Makes bytes of a value.
        loads: Makes a value of bytes, or of a text if it is one.
    """

    name: str
    content_type: str
    content_encoding: str
    dumps: Callable[[Any], bytes]
    loads: Callable[[Any], Any]


def _to_pickle(value: Any) -> bytes:
    import pickle

    return pickle.dumps(value, protocol=4)


def _from_pickle(data: bytes) -> Any:
    import pickle

    return pickle.loads(data)


def _to_msgpack(value: Any) -> bytes:
    return bytes(_library("msgpack", "msgpack").packb(value, use_bin_type=True))


def _from_msgpack(data: bytes) -> Any:
    return _library("msgpack", "msgpack").unpackb(data, raw=False, strict_map_key=False)


def _to_yaml(value: Any) -> bytes:
    return str(_library("yaml", "yaml").safe_dump(value)).encode()


def _from_yaml(text: str) -> Any:
    return _library("yaml", "yaml").safe_load(text)


def _library(name: str, extra: str) -> Any:
    try:
        if name == "msgpack":
            import msgpack

            return msgpack
        import yaml

        return yaml
    except ImportError:
        error = ContentRefused(f"could not use {name}: found no such module, expected it to be installed")
        error.hint = f"pip install 'manyhands[{extra}]'"
        raise error from None


_by_name: dict[str, Serializer] = {}
_by_content_type: dict[str, Serializer] = {}


def register(serializer: Serializer) -> None:
    """Make a serializer known by its name and by its content type."""
    _by_name[serializer.name] = _by_content_type[serializer.content_type] = serializer


for _each in (
    Serializer("json", "application/json", "utf-8", _json.dumps, _json.loads),
    Serializer("pickle", "application/x-python-serialize", "binary", _to_pickle, _from_pickle),
    Serializer("msgpack", "application/x-msgpack", "binary", _to_msgpack, _from_msgpack),
    Serializer("yaml", "application/x-yaml", "utf-8", _to_yaml, _from_yaml),
):
    register(_each)


def find(name: str) -> Serializer:
    """The serializer of that name, or of that content type."""
    found = _by_name.get(name) or _by_content_type.get(name)
    if found is None:
        raise ValueError(f"could not find the serializer {name!r}: expected one of {', '.join(_by_name)}")
    return found


def accepted(names: Iterable[str]) -> frozenset[str]:
    """The content types of serializers, given by their names or by these types."""
    return frozenset(find(name).content_type for name in names)


def dumps(value: Any, name: str = "json") -> bytes:
    """The value as bytes."""
    return _json.dumps(value) if name == "json" else find(name).dumps(value)


def loads(
    data: bytes | bytearray | memoryview,
    content_type: str = "application/json",
    content_encoding: str = "utf-8",
    *,
    accept: Collection[str] = JSON_ALONE,
) -> Any:
    """The value that the bytes stand for.

    Raises:
        ContentRefused: The content type is none of `accept`, or the bytes are not what it says.
    """
    if content_type not in accept:
        raise _not_accepted(content_type, accept)
    found = _by_content_type.get(content_type)
    if found is None:
        raise ContentRefused(
            f"could not read {content_type!r:.80}: found no serializer, expected one of {_known()}"
        )
    try:
        return found.loads(
            _text(data, content_encoding) if found.content_encoding != "binary" else bytes(data)
        )
    except ContentRefused:
        raise
    except Exception as error:  # whatever hostile bytes make of a library
        reason = f"{type(error).__name__}: {error}"
        raise ContentRefused(f"could not read {content_type}: {reason[:300]}") from error


def _text(data: bytes | bytearray | memoryview, encoding: str) -> str:
    # A text that says to be binary is one of a producer that sets the encoding only for compressed bodies.
    charset = encoding.lower() if encoding and encoding != "binary" else "utf-8"
    if charset not in _CHARSETS:
        raise ValueError(f"found the encoding {encoding!r:.80}, expected utf-8")
    return str(data, charset)


def _not_accepted(content_type: str, accept: Collection[str]) -> ContentRefused:
    listed = ", ".join(sorted(accept)) or "nothing"
    error = ContentRefused(f"could not read a message: found {content_type!r:.80}, expected {listed}")
    if content_type == "application/x-python-serialize":
        error.hint = "accept pickle only if everybody who can reach the broker may run any code here"
    elif content_type in _by_content_type:
        error.hint = f"accept {_by_content_type[content_type].name!r}, too, if it is meant to come"
    return error


def _known() -> str:
    return ", ".join(_by_content_type)


def encode_body(
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    embed: Mapping[str, Any] = NO_EMBED,
    serializer: str = "json",
    compression: str | None = None,
) -> tuple[bytes, str, str, str | None]:
    """The body of a call.

    Returns:
        The bytes, the content type, the content encoding, and the header `compression`.
    """
    found = find(serializer)
    body = found.dumps((args, kwargs, embed))
    header = None
    if compression is not None:
        body, header = _compression.compress(body, compression)
    return body, found.content_type, found.content_encoding, header


def decode_body(
    body: bytes | bytearray | memoryview,
    content_type: str = "application/json",
    content_encoding: str = "utf-8",
    compression: str | None = None,
    *,
    accept: Collection[str] = JSON_ALONE,
    most: int = LARGEST,
) -> tuple[Sequence[Any], dict[str, Any], dict[str, Any]]:
    """The call in a body: positional arguments, named ones, and what is embedded for workflows.

    Raises:
        ContentRefused: The content type is none of `accept`, there is no call in it, or too much of one.
    """
    if content_type not in accept:
        raise _not_accepted(content_type, accept)
    if compression is not None:
        body = _compression.decompress(bytes(body), compression, most)
    return _call(loads(body, content_type, content_encoding, accept=accept))


def _call(found: Any) -> tuple[Sequence[Any], dict[str, Any], dict[str, Any]]:
    if not isinstance(found, list | tuple) or len(found) != 3:
        raise _no_call(f"{_shape(found)}, expected [args, kwargs, embed]")
    args, kwargs, embed = found
    if not isinstance(args, list | tuple):
        raise _no_call(f"{_shape(args)} of arguments, expected a list")
    if not isinstance(kwargs, dict | None) or not all(isinstance(name, str) for name in kwargs or ()):
        raise _no_call(f"{_shape(kwargs)} of named arguments, expected names with values")
    if not isinstance(embed, dict | None):
        raise _no_call(f"{_shape(embed)} of what is embedded, expected names with values")
    return args, kwargs or {}, embed or {}


def _shape(found: Any) -> str:
    kind = type(found).__name__
    return f"a {kind} of {len(found)}" if isinstance(found, list | tuple | dict) else f"a {kind}"


def _no_call(found: str) -> ContentRefused:
    return ContentRefused(f"could not read the body of a task: found {found}")


def write_document(
    document: Mapping[str, Any], serializer: str = "json", compression: str | None = None
) -> bytes:
    """A result as stores keep it."""
    data = dumps(document, serializer)
    if compression is None:
        return data
    data, header = _compression.compress(data, compression)
    return _COMPRESSED + header.encode() + b"\0" + data


def read_document(
    data: bytes | bytearray | memoryview,
    content_type: str = "application/json",
    content_encoding: str = "utf-8",
    *,
    accept: Collection[str] = JSON_ALONE,
    most: int = LARGEST,
) -> dict[str, Any]:
    """A result as a store kept it, compressed or not.

    Raises:
        ContentRefused: It is none, or not in a form that is accepted.
    """
    if content_type not in accept:
        raise _not_accepted(content_type, accept)
    data = bytes(data)
    if data.startswith(_COMPRESSED):
        codec, end, packed = data[len(_COMPRESSED) :].partition(b"\0")
        if not end:
            raise ContentRefused("could not read a result: found no codec, expected one")
        data = _compression.decompress(packed, codec.decode("ascii", "replace"), most)
    document = loads(data, content_type, content_encoding, accept=accept)
    if not isinstance(document, dict) or not isinstance(document.get("status"), str):
        raise ContentRefused(f"could not read a result: found {_shape(document)}, expected one with a status")
    return document
