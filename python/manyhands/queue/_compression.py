"""Compressed bodies and results, by the names that Celery has for the codecs.

What comes from outside is unpacked within a limit: a few bytes may stand for more than the memory holds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from manyhands.errors import ContentRefused

__all__ = ["compress", "decompress"]

_LZMA_MEMORY = 256 << 20
"""More than any preset of xz asks for."""


class Codec(NamedTuple):
    """One way to compress.

    Attributes:
        content_type: What messages call it.
        compress: Packs.
        decompress: Unpacks at most so many bytes, and says whether it came to an end.
    """

    content_type: str
    compress: Callable[[bytes], bytes]
    decompress: Callable[[bytes, int], tuple[bytes, bool]]


def _to_zlib(data: bytes) -> bytes:
    import zlib

    return zlib.compress(data)


def _from_zlib(data: bytes, most: int) -> tuple[bytes, bool]:
    import zlib

    # What Celery calls gzip has zlib's header; with 47, gzip's own is understood, too.
    stream = zlib.decompressobj(47)
    unpacked = stream.decompress(data, most)
    return unpacked, stream.eof


def _to_bz2(data: bytes) -> bytes:
    import bz2

    return bz2.compress(data)


def _from_bz2(data: bytes, most: int) -> tuple[bytes, bool]:
    import bz2

    stream = bz2.BZ2Decompressor()
    return stream.decompress(data, most), stream.eof


def _to_lzma(data: bytes) -> bytes:
    import lzma

    return lzma.compress(data)


def _from_lzma(data: bytes, most: int) -> tuple[bytes, bool]:
    import lzma

    stream = lzma.LZMADecompressor(memlimit=_LZMA_MEMORY)
    return stream.decompress(data, most), stream.eof


def _to_zstd(data: bytes) -> bytes:
    return bytes(_zstandard().ZstdCompressor().compress(data))


def _from_zstd(data: bytes, most: int) -> tuple[bytes, bool]:
    # Not in one call: that one trusts the size that the data claims to have.
    with _zstandard().ZstdDecompressor().stream_reader(data) as stream:
        return bytes(stream.read(most)), True


def _zstandard() -> Any:
    try:
        import zstandard

        return zstandard
    except ImportError:
        error = ContentRefused("could not use zstd: found no module zstandard, expected it to be installed")
        error.hint = "pip install 'manyhands[zstd]'"
        raise error from None


_ZLIB = Codec("application/x-gzip", _to_zlib, _from_zlib)
_BZ2 = Codec("application/x-bz2", _to_bz2, _from_bz2)
_LZMA = Codec("application/x-lzma", _to_lzma, _from_lzma)
_ZSTD = Codec("application/zstd", _to_zstd, _from_zstd)
_CODECS = {codec.content_type: codec for codec in (_ZLIB, _BZ2, _LZMA, _ZSTD)} | {
    "gzip": _ZLIB,
    "zlib": _ZLIB,
    "bzip2": _BZ2,
    "bzip": _BZ2,
    "lzma": _LZMA,
    "xz": _LZMA,
    "zstd": _ZSTD,
    "application/x-zstd": _ZSTD,
}


def compress(data: bytes, codec: str) -> tuple[bytes, str]:
    """The data compressed, and what the header `compression` says of it."""
    found = _codec(codec)
    return found.compress(data), found.content_type


def decompress(data: bytes, codec: str, most: int) -> bytes:
    """The data as it was before it was compressed; refused if that is more than `most` bytes."""
    found = _codec(codec)
    try:
        # One more than is allowed, to see that there is more.
        unpacked, is_whole = found.decompress(data, most + 1)
    except ContentRefused:
        raise
    except Exception as error:  # each library has its own
        raise ContentRefused(f"could not unpack {found.content_type}: {error}") from error
    if len(unpacked) > most:
        found_size = f"{len(data)} bytes that unpack to more than {most}"
        raise ContentRefused(f"could not unpack {found.content_type}: found {found_size}, expected no more")
    if not is_whole:
        raise ContentRefused(f"could not unpack {found.content_type}: found no end, expected one")
    return unpacked


def _codec(name: str) -> Codec:
    try:
        return _CODECS[name]
    except KeyError:
        known = ", ".join(alias for alias in _CODECS if "/" not in alias)
        raise ContentRefused(f"could not use the compression {name!r:.80}: expected one of {known}") from None
