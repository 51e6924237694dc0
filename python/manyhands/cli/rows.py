"""Rows from a file: JSON Lines, CSV, plain lines, read as they come and never as a whole."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol, cast

from manyhands.cli.problem import Problem, system_problem

# A row on the way to the function: a dict, any JSON value, or a str.
Row = Any

# A line longer than this is taken for a mistake before it has filled the memory.
LONGEST_LINE_BYTES = 64 << 20
_BLOCK_BYTES = 256 << 10

INPUT_FORMATS = ("jsonl", "csv", "tsv", "lines")
OUTPUT_FORMATS = ("jsonl", "csv", "tsv")
_BY_EXTENSION = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "tsv", ".txt": "lines"}


def input_format(path: str) -> str:
    """The format of the rows in `path`, by its extension; JSON Lines on the standard input.

    Raises:
        Problem: The extension says nothing.
    """
    if path == "-":
        return "jsonl"
    found = _BY_EXTENSION.get(Path(path.removesuffix(".gz")).suffix.lower())
    if found is None:
        raise Problem(
            f"could not tell the format of `{path}`: expected an extension among {', '.join(_BY_EXTENSION)}",
            f"name it with --format {'|'.join(INPUT_FORMATS)}",
        )
    return found


def output_format(path: str) -> str:
    """The format of the results in `path`, by its extension: CSV, TSV, or else JSON Lines.

    Raises:
        Problem: The extension promises something we do not write.
    """
    if path.endswith(".gz"):
        raise Problem(
            f"could not write `{path}`: compressed output cannot be resumed",
            "write it plain and compress it afterwards, or write to - and pipe it through gzip",
        )
    found = _BY_EXTENSION.get(Path(path).suffix.lower())
    return found if found in ("csv", "tsv") else "jsonl"


def read_rows(path: str, form: str) -> Iterator[tuple[int, Row]]:
    """Give the rows of the file at `path` (`-`: the standard input) with the lines they begin on, from 1.

    Whatever is wrong is raised when the rows before it have been given.

    Raises:
        Problem: The file cannot be read, or what it holds is not of the format `form`.
    """
    name = "the standard input" if path == "-" else f"`{path}`"
    try:
        with _opened(path) as stream:
            yield from _READERS[form](_blocks(stream, name), name)
    except OSError as error:
        raise system_problem("read", path, error) from None


def count_rows(path: str, form: str) -> int | None:
    """How many rows the file at `path` has, for a progress bar; None if only reading it could tell."""
    if not Path(path).is_file() or path.endswith(".gz"):
        return None
    count, last, may_span_lines = 0, b"\n", False
    with Path(path).open("rb") as stream:
        while chunk := stream.read(_BLOCK_BYTES):
            count += chunk.count(b"\n")
            last = chunk[-1:]
            may_span_lines = may_span_lines or b'"' in chunk
    if form in ("csv", "tsv"):
        return None if may_span_lines else max(0, count + (last != b"\n") - 1)
    return count + (last != b"\n")


class _ByteStream(Protocol):
    def read1(self, size: int = ..., /) -> bytes: ...


@contextlib.contextmanager
def _opened(path: str) -> Iterator[_ByteStream]:
    if path == "-":
        yield cast(io.BufferedReader, sys.stdin.buffer)
    elif path.endswith(".gz"):
        with _decompressed(path) as stream:
            yield stream
    else:
        with Path(path).open("rb") as stream:
            yield stream


@contextlib.contextmanager
def _decompressed(path: str) -> Iterator[_ByteStream]:
    import gzip  # not at the start, as with `csv`: few runs need it, and all would wait for it
    import zlib

    try:
        with gzip.open(path) as stream:
            yield stream
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise Problem(
            f"could not read `{path}`: its compressed data is damaged or cut short ({error})"
        ) from None


# Some lines without their ends, and the number of the first.
Block = tuple[int, list[str]]


def _blocks(stream: _ByteStream, name: str) -> Iterator[Block]:
    """Cut `stream` into lines, many at a time: line by line it would cost as much as parsing the JSON."""
    number = 1
    parts: list[bytes] = []
    length = 0
    chunk = _without_mark(stream.read1(_BLOCK_BYTES), name)
    while chunk:
        end = chunk.rfind(b"\n")
        if end >= 0:
            yield from _decoded(number, b"".join([*parts, chunk[:end]]), name)
            number += chunk.count(b"\n")
            parts, length = [], 0
        parts.append(chunk[end + 1 :])
        length += len(parts[-1])
        if length > LONGEST_LINE_BYTES:
            raise _too_long(number, name)
        chunk = stream.read1(_BLOCK_BYTES)
    if length:
        yield from _decoded(number, b"".join(parts), name)


def _without_mark(chunk: bytes, name: str) -> bytes:
    if chunk.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise Problem(
            f"could not read {name}: found UTF-16, expected UTF-8",
            "convert it: iconv -f UTF-16 -t UTF-8",
        )
    return chunk.removeprefix(b"\xef\xbb\xbf")


def _decoded(number: int, data: bytes, name: str) -> Iterator[Block]:
    """Give the lines in `data`; a bad byte spares those before it."""
    try:
        lines = data.decode().split("\n")
    except UnicodeDecodeError as error:
        sound = data[: data.rfind(b"\n", 0, error.start) + 1]
        if sound:
            yield number, sound[:-1].decode().split("\n")
        place = number + sound.count(b"\n")
        raise Problem(
            f"could not read line {place:,} of {name}: found byte 0x{data[error.start]:02x} "
            f"at position {error.start - len(sound) + 1:,}, expected UTF-8",
            "convert the file, for example with iconv -f LATIN1 -t UTF-8, or mend the line",
        ) from None
    yield number, lines


def _too_long(number: int, name: str) -> Problem:
    return Problem(
        f"could not read line {number:,} of {name}: found over {LONGEST_LINE_BYTES >> 20} MiB without an end",
        "put every row on a line of its own; jq -c '.[]' does that to a JSON array",
    )


def _json_rows(blocks: Iterator[Block], name: str) -> Iterator[tuple[int, Row]]:
    decode = json.JSONDecoder().raw_decode
    for number, lines in blocks:
        for place, line in enumerate(lines, number):
            text = line.strip(" \t\r")
            if not text:
                continue
            try:
                row, end = decode(text)
            except (ValueError, RecursionError) as error:
                raise _malformed(place, name, text, error) from None
            if end != len(text):
                raise _malformed(place, name, text, json.JSONDecodeError("more after the value", text, end))
            yield place, row


def _malformed(place: int, name: str, text: str, error: Exception) -> Problem:
    if isinstance(error, json.JSONDecodeError):
        what = f"{error.msg[:1].lower()}{error.msg[1:]} at column {error.colno:,}"
    else:
        what = "too many levels" if isinstance(error, RecursionError) else str(error)
    hint = "mend or remove the line"
    if place == 1 and text.startswith(("[", "{")) and isinstance(error, json.JSONDecodeError):
        hint = (
            "a row must stand on one line; jq -c '.[]' makes JSON Lines of a JSON array, jq -c . of objects"
        )
    shown = text if len(text) <= 60 else f"{text[:57]}..."
    return Problem(
        f"could not read line {place:,} of {name}: found {shown!r}, which is not JSON ({what})", hint
    )


def _csv_rows(delimiter: str) -> Callable[[Iterator[Block], str], Iterator[tuple[int, Row]]]:
    def read(blocks: Iterator[Block], name: str) -> Iterator[tuple[int, Row]]:
        import csv

        csv.field_size_limit(LONGEST_LINE_BYTES)
        reader = csv.reader(
            (f"{line}\n" for _, lines in blocks for line in lines), delimiter=delimiter, strict=True
        )
        header: list[str] | None = None
        while True:
            place = reader.line_num + 1
            try:
                fields = next(reader, None)
            except csv.Error as error:
                raise Problem(
                    f"could not read the row from line {place:,} of {name}: found {error}, expected CSV",
                    "look for a quote that is opened and not closed, or doubled",
                ) from None
            if fields is None:
                return
            if not fields:
                continue
            if header is None:
                header = _checked_header(fields, place, name)
            elif len(fields) != len(header):
                raise _ragged(fields, header, place, name)
            else:
                yield place, dict(zip(header, fields, strict=True))

    return read


def _checked_header(fields: list[str], place: int, name: str) -> list[str]:
    twice = sorted({field for field in fields if fields.count(field) > 1})
    if twice:
        raise Problem(
            f"could not read the header on line {place:,} of {name}: found column {twice[0]!r} twice",
            "give every column a name of its own",
        )
    return fields


def _ragged(fields: list[str], header: list[str], place: int, name: str) -> Problem:
    missing = header[len(fields) :]
    which = f" (no value for {', '.join(missing)})" if missing else ""
    return Problem(
        f"could not read the row from line {place:,} of {name}: "
        f"found {len(fields)} fields, expected {len(header)} as in the header{which}",
        "mend the row; a value that contains the delimiter must stand in double quotes",
    )


def _plain_rows(blocks: Iterator[Block], name: str) -> Iterator[tuple[int, Row]]:
    for number, lines in blocks:
        for place, line in enumerate(lines, number):
            yield place, line.removesuffix("\r")


_READERS: dict[str, Callable[[Iterator[Block], str], Iterator[tuple[int, Row]]]] = {
    "jsonl": _json_rows,
    "csv": _csv_rows(","),
    "tsv": _csv_rows("\t"),
    "lines": _plain_rows,
}
