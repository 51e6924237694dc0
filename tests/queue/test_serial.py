"""Bodies and results as bytes: what Celery wrote is read, what we write it would read, garbage is refused."""

import base64
import bz2
import datetime
import decimal
import json
import lzma
import pickle
import sys
import uuid
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manyhands.errors import ContentRefused
from manyhands.queue import _serial
from manyhands.queue._serial import decode_body, encode_body, read_document, write_document

VECTORS = Path(__file__).parents[1] / "vectors" / "celery"
SERIALIZERS = ("json", "pickle", "msgpack", "yaml")
COMPRESSIONS = ("gzip", "bzip2", "lzma", "zstd")
EVERYTHING = _serial.accepted(SERIALIZERS)
NO_EMBED = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}


def messages():
    """Each recorded message of a task: how its body is written, the body, and what Celery read in it."""
    for file in sorted(VECTORS.glob("*.json")):
        for message in json.loads(file.read_text()).get("messages", ()):
            if "raw" in message:
                envelope = json.loads(message["raw"])
                kind, encoding = envelope["content-type"], envelope["content-encoding"]
                headers, body = envelope["headers"], envelope["body"]
            elif "body_base64" in message:
                properties = message["properties"]
                kind, encoding = properties["content_type"], properties["content_encoding"]
                headers, body = properties["headers"], message["body_base64"]
            else:
                continue
            if "task" in headers:
                compression = headers.get("compression")
                yield file.name, kind, encoding, compression, base64.b64decode(body), message["body_decoded"]


def documents():
    """Each recorded result, as it was stored."""

    def walk(value):
        if isinstance(value, str) and value.startswith('{"status"'):
            yield value
        elif isinstance(value, dict | list):
            for each in value.values() if isinstance(value, dict) else value:
                yield from walk(each)

    for file in sorted(VECTORS.glob("*.json")):
        for text in walk(json.loads(file.read_text())):
            yield file.name, text


def as_json(value):
    return json.loads(_serial.dumps(value))


def test_every_recorded_body_is_read_and_written_again():
    seen = set()
    for name, kind, encoding, compression, body, expected in messages():
        call = decode_body(body, kind, encoding, compression, accept=EVERYTHING)
        assert as_json(call) == expected, name
        seen.add((kind, compression))
        written = encode_body(*call, serializer=kind, compression=compression)
        assert written[1:] == (kind, encoding, compression), name
        assert decode_body(*written, accept=EVERYTHING) == call, name
        if kind == "application/json" and compression is None:
            assert written[0] == body, name  # to the byte
    assert {kind for kind, _ in seen} == EVERYTHING
    assert {compression for _, compression in seen} == {
        None,
        "application/x-gzip",
        "application/x-bz2",
        "application/x-lzma",
    }


def test_values_that_json_has_not_are_restored():
    (body,) = [body for name, *_, body, _ in messages() if name == "json_types.redis.json"]
    moment = datetime.datetime(2031, 5, 17, 12, 30, 15, 250_000, tzinfo=datetime.timezone.utc)
    args, _, _ = decode_body(body)
    assert args == [
        moment,
        moment.date(),
        moment.time(),
        decimal.Decimal("1.10"),
        uuid.UUID(int=5),
        b"utf8",
        b"\xff\x00",
        1,
    ]
    assert [type(value) for value in args[:2]] == [datetime.datetime, datetime.date]


def test_every_recorded_result_is_read_and_written_again():
    count = 0
    for name, text in documents():
        document = read_document(text.encode())
        assert document == json.loads(text), name
        assert json.loads(write_document(document)) == document, name
        count += 1
    assert count >= 40


def test_a_compressed_result_is_known_by_itself():
    recorded = json.loads((VECTORS / "result_msgpack_compressed.redis.json").read_text())
    data = base64.b64decode(recorded["raw_base64"])
    document = read_document(data, "application/x-msgpack", "binary", accept=EVERYTHING)
    assert document["status"] == "SUCCESS"
    assert read_document(write_document(document, "json", "gzip")) == document


@pytest.mark.parametrize("compression", [None, *COMPRESSIONS])
@pytest.mark.parametrize("serializer", SERIALIZERS)
def test_a_call_comes_back_from_every_form(serializer, compression):
    args, kwargs = [1, "zwei", None, 1.5, [True, "é" * 100]], {"k": {"a": [1]}, "ü": -1}
    body, kind, encoding, header = encode_body(args, kwargs, serializer=serializer, compression=compression)
    assert (header is None) == (compression is None)
    read = decode_body(memoryview(body), kind, encoding, header, accept={kind})
    assert [list(read[0]), *read[1:]] == [args, kwargs, NO_EMBED]


class Marked:
    """What shows that a pickle was loaded."""

    loaded = 0

    def __reduce__(self):
        return (loaded, ())


def loaded():
    Marked.loaded += 1


def test_what_is_not_accepted_is_not_looked_at():
    body = pickle.dumps([Marked()])
    for packed, compression in ((body, None), (zlib.compress(body), "application/x-gzip")):
        with pytest.raises(ContentRefused, match="expected application/json") as caught:
            decode_body(packed, "application/x-python-serialize", "binary", compression)
        assert "pickle" in caught.value.hint
    with pytest.raises(ContentRefused, match="found no serializer"):
        decode_body(b"", "application/x-nothing", accept={"application/x-nothing"})
    with pytest.raises(ContentRefused, match="expected nothing"):
        read_document(b"{}", accept=())
    assert Marked.loaded == 0


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_a_bomb_is_refused_without_being_unpacked_whole(compression):
    body, *kinds = encode_body(["x" * 1_000_000], {}, compression=compression)
    assert len(body) < 10_000
    with pytest.raises(ContentRefused, match="unpack to more than 999999"):
        decode_body(body, *kinds, most=999_999)
    assert decode_body(body, *kinds, most=1_100_000)[0] == ["x" * 1_000_000]


def test_a_size_that_zstd_claims_is_not_believed():
    zstandard = pytest.importorskip("zstandard")
    honest = zstandard.ZstdCompressor(write_content_size=True).compress(b"x" * 70_000)
    # The size stands in four bytes after the magic number and one of flags.
    lying = honest[:5] + (0xF000_0000).to_bytes(4, "little") + honest[9:]
    assert zstandard.frame_content_size(lying) == 0xF000_0000
    with pytest.raises(ContentRefused):
        decode_body(lying, compression="zstd")


@pytest.mark.parametrize(
    ("pack", "codec"),
    [(zlib.compress, "application/x-gzip"), (bz2.compress, "application/x-bz2"), (lzma.compress, "xz")],
)
def test_what_ends_too_early_or_is_garbage_is_refused(pack, codec):
    packed = pack(b"[[], {}, {}]")
    assert decode_body(packed, compression=codec) == ([], {}, {})
    for broken in (packed[:-5], b"garbage", b""):
        with pytest.raises(ContentRefused, match="could not unpack"):
            decode_body(broken, compression=codec)
    with pytest.raises(ContentRefused, match="expected one of gzip"):
        decode_body(packed, compression="application/x-unheard-of")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "JSONDecodeError"),
        (b"\xff", "UnicodeDecodeError"),
        (b"[[], {}]", "found a list of 2"),
        (b'{"args": []}', "found a dict of 1"),
        (b"5", "found a int"),
        (b"[{}, {}, {}]", "of arguments"),
        (b"[[], [], {}]", "of named arguments"),
        (b"[[], {}, []]", "of what is embedded"),
        (b"[" * 100_000, "RecursionError"),
        (b"[[" + b"9" * 10_000 + b"], {}, {}]", "ValueError"),
        (b'[[{"__type__": "code", "__value__": 1}], {}, {}]', "found a value of the type 'code'"),
        (b'[[{"__type__": ["uuid"], "__value__": 1}], {}, {}]', "found a value of the type"),
        (b'[[{"__type__": "datetime", "__value__": 1}], {}, {}]', "TypeError"),
        (b'[[{"__type__": "decimal", "__value__": "x"}], {}, {}]', "Invalid"),
        (b'[[{"__type__": "uuid", "__value__": {"odd": 1}}], {}, {}]', "TypeError"),
    ],
)
def test_garbage_is_refused_with_a_reason(body, reason):
    if reason == "ValueError" and not hasattr(sys, "get_int_max_str_digits"):
        pytest.skip("this Python reads numbers of any length")
    with pytest.raises(ContentRefused) as caught:
        decode_body(body)
    assert reason in str(caught.value)
    assert len(str(caught.value)) < 500


def test_garbage_in_other_forms_is_refused_with_a_reason():
    for kind, body in (
        ("application/x-msgpack", b"\xc1"),
        ("application/x-msgpack", b"\x93\x90\x81\x05\x05\x80"),  # a named argument whose name is a number
        ("application/x-msgpack", b"\xdd\xff\xff\xff\xff"),  # a list that claims four thousand million items
        ("application/x-yaml", b"[[], {}, {"),
        ("application/x-yaml", b"!!python/object/apply:os.getpid []"),
        ("application/x-python-serialize", b"garbage"),
    ):
        with pytest.raises(ContentRefused):
            decode_body(body, kind, accept=EVERYTHING)
    with pytest.raises(ContentRefused, match="expected utf-8"):
        decode_body(b"[[], {}, {}]", content_encoding="idna")


def test_bodies_without_embed_or_names_are_calls():
    assert decode_body(b"[[1], null, null]") == ([1], {}, {})
    assert decode_body("[[1], {}, {}]".encode("utf-16"), content_encoding="UTF-16") == ([1], {}, {})


def test_no_result_is_refused():
    for data in (
        b"[]",
        b"{}",
        b'{"status": 5}',
        b"\0celery-compressed\0gzip",
        b"\0celery-compressed\0gzip\0x",
    ):
        with pytest.raises(ContentRefused):
            read_document(data)


def test_an_object_says_itself_what_it_is_in_json():
    class Money:
        def __json__(self):
            return {"amount": decimal.Decimal("1.10")}

    body, *kinds = encode_body([Money()], {})
    assert decode_body(body, *kinds)[0] == [{"amount": decimal.Decimal("1.10")}]
    with pytest.raises(TypeError, match="found set"):
        encode_body([{1}], {})


def test_a_value_that_holds_itself_is_refused():
    cycle = []
    cycle.append(cycle)
    with pytest.raises(ValueError, match="Circular"):
        encode_body(cycle, {})


def test_space_around_json_is_nothing():
    assert decode_body(b" \n [[], {}, {}]\n") == ([], {}, {})
    with pytest.raises(ContentRefused, match="Extra data"):
        decode_body(b"[[], {}, {}] []")


def test_a_serializer_of_ones_own():
    def dumps(value):
        return json.dumps(value)[::-1].encode()

    def loads(text):
        return json.loads(text[::-1])

    reverse = _serial.Serializer("reverse", "application/x-reverse", "utf-8", dumps, loads)
    _serial.register(reverse)
    try:
        body, *kinds = encode_body([1], {}, serializer="reverse")
        assert body.endswith(b"]1[[")
        with pytest.raises(ContentRefused):
            decode_body(body, *kinds)
        assert decode_body(body, *kinds, accept=_serial.accepted(["reverse"])) == ([1], {}, NO_EMBED)
    finally:
        del _serial._by_name["reverse"], _serial._by_content_type["application/x-reverse"]
    with pytest.raises(ValueError, match="expected one of json"):
        encode_body([1], {}, serializer="reverse")


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.decimals(allow_nan=False)
    | st.uuids()
    | st.datetimes(timezones=st.none() | st.just(datetime.timezone.utc))
    | st.dates()
    | st.times(),
    lambda values: st.lists(values, max_size=4) | st.dictionaries(st.text(), values, max_size=4),
    max_leaves=10,
).filter(lambda value: not (isinstance(value, dict) and value.keys() == {"__type__", "__value__"}))


@given(st.lists(VALUES, max_size=4), st.dictionaries(st.text(), VALUES, max_size=4))
def test_whatever_json_can_write_comes_back(args, kwargs):
    body, *kinds = encode_body(args, kwargs)
    assert decode_body(body, *kinds) == (args, kwargs, NO_EMBED)


@given(
    st.binary(max_size=200),
    st.sampled_from(sorted(EVERYTHING - {"application/x-python-serialize"})),
    st.sampled_from([None, *COMPRESSIONS]),
)
def test_any_bytes_are_a_call_or_refused(body, kind, compression):
    try:
        args, kwargs, embed = decode_body(body, kind, "utf-8", compression, accept=EVERYTHING)
    except ContentRefused:
        return
    assert isinstance(args, list | tuple) and isinstance(kwargs, dict) and isinstance(embed, dict)
