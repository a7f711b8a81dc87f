"""Tests of the fast codecs: for every text and every frame, they give what pydantic gives, or leave it to pydantic."""

from __future__ import annotations

import dataclasses
import json
import typing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imsim.core import frames
from imsim.core.model import Code, Message, MessageType, Scene
from imsim.wire import BadRequest, WireError, codec, decode_from_client, decode_from_server, encode, plain

CLIENT, SERVER = typing.get_args(frames.FromClient), typing.get_args(frames.ToClient)
PLAIN = [kind for kind in (*CLIENT, *SERVER) if kind in codec._WRITERS]

#: The decoders that use only pydantic.
BY_PYDANTIC = {
    decode_from_client: codec._decoder(frames.FromClient, "client"),
    decode_from_server: codec._decoder(frames.ToClient, "server"),
}

texts = st.text(st.characters(), max_size=8) | st.sampled_from(["p2p", "group", "text", "kicked", "\ud800", "\0"])
numbers = st.integers(-3, 9) | st.integers(-(2**70), 2**70)
scalars = texts | numbers | st.booleans() | st.none() | st.floats() | st.sampled_from(list(Scene)) | st.just({"a": 1})
spaces = st.sampled_from(["", "", "", " ", "\n", "\t \r"])


def outcome(decode, text: bytes) -> tuple[object, ...]:
    try:
        frame = decode(text)
    except WireError as error:
        more = (error.op, error.ref, error.number, error.text) if isinstance(error, BadRequest) else ()
        return (type(error), str(error), *more)
    # The repr distinguishes 1 from 1.0 and from true.
    return type(frame), frame, repr(frame)


def check(text: bytes) -> None:
    for decode, reference in BY_PYDANTIC.items():
        assert outcome(decode, text) == outcome(reference, text)


def keys_of(kind: type) -> list[str]:
    if kind is frames.Push:
        return ["message"]
    return [codec.alias(field.name) for field in dataclasses.fields(kind)]


def value_for(kind: type, name: str) -> st.SearchStrategy:
    """Return a strategy for the JSON value of a field: mostly a valid one."""
    if name == "message":
        return objects(Message, [codec.alias(field.name) for field in dataclasses.fields(Message)])
    hints = typing.get_type_hints(kind)
    hint = next((hints[field.name] for field in dataclasses.fields(kind) if codec.alias(field.name) == name), object)
    valid = {str: texts, int: numbers, bool: st.booleans(), Scene: st.sampled_from(list(Scene))}.get(hint, scalars)
    return st.one_of(valid, valid, valid, valid, valid, valid, scalars)


@st.composite
def objects(draw, kind: type, keys: list[str]) -> str:
    """Draw a JSON object with most of the fields, in any order, perhaps repeated, unknown, or with spaces."""
    drawn = draw(st.permutations(keys))[: draw(st.sampled_from([len(keys)] * 3 + list(range(len(keys) + 1))))]
    drawn += draw(st.lists(st.sampled_from([*keys, "op", "new", "a\\u0064"]), max_size=1))
    parts = []
    for key in drawn:
        value = draw(value_for(kind, key))
        is_object = key == "message"
        shown = value if is_object else json.dumps(value, ensure_ascii=draw(st.booleans()))
        parts.append(f'{draw(spaces)}"{key}":{draw(spaces)}{shown}')
    return "{" + ",".join(parts) + draw(spaces) + "}"


@st.composite
def frame_texts(draw) -> bytes:
    kind = draw(st.sampled_from(PLAIN))
    body = draw(objects(kind, keys_of(kind)))
    text = f'{{"op":"{kind.op}"' + ("," if len(body) > 2 else "") + body[1:]
    data = text.encode(errors="surrogatepass")
    if draw(st.sampled_from([False, False, True])):  # a fault at a random place
        at = draw(st.integers(0, len(data)))
        data = data[:at] + draw(st.binary(max_size=2)) + data[at + draw(st.integers(0, 2)) :]
    return data


@settings(max_examples=1000, deadline=None)
@given(frame_texts())
def test_text_is_decoded_as_by_pydantic(text):
    check(text)


@pytest.mark.parametrize(
    "value",
    ["7", "7.0", "7e0", "-0", "-0.0", "01", "1e2", str(2**63), str(-(2**70)), "1" * 5000, "true", "null", '"7"', "NaN",
     "Infinity", "1e999", "-", "+1", "0x1", "[7]", "{}", "7 ", "\x0b7"],
)  # fmt: skip
def test_number_is_decoded_as_by_pydantic(value):
    check(b'{"op":"delivered","conversationId":"c","seq":%b}' % value.encode())


@pytest.mark.parametrize(
    "value",
    [b"", b"\n", b"\x00", b"\x1f", b"\x7f", rb"\u0000", rb"\ud800", rb"\udc00", rb"\ud83d\ude00", rb"\x", rb"\u12",
     b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf0\x9f\x98\x80", b"\xf4\x90\x80\x80", b"\xe2\x82",
     rb"\/", "\u2028".encode()],
)  # fmt: skip
def test_string_is_decoded_as_by_pydantic(value):
    check(b'{"op":"delivered","conversationId":"%b","seq":1}' % value)
    check(b'{"op":"typing","conversationId":"%b"}' % value)
    check(b'{"op":"typing","conversationId":"c","new":"%b"}' % value)


@pytest.mark.parametrize("value", ["[" * 2000, "[" * 100 + "]" * 100, '{"a":' * 2000])
def test_deep_value_is_decoded_as_by_pydantic(value):
    check(b'{"op":"typing","conversationId":"c","new":%b}' % value.encode())
    check(b'{"op":"send","idClient":"c","scene":"p2p","to":"b","file":%b}' % value.encode())


class Name(str):
    """A subclass of str, like the idClients of a load test."""


def value_of(hint: object) -> st.SearchStrategy:
    if dataclasses.is_dataclass(hint):
        hints = typing.get_type_hints(hint)
        required = [field.name for field in dataclasses.fields(hint) if field.default is dataclasses.MISSING]
        named = {name: texts | texts.map(Name) for name in required if hints[name] is str}
        return st.builds(hint, **{one.name: value_of(hints[one.name]) for one in dataclasses.fields(hint)} | named)
    if typing.get_args(hint) and dict not in map(typing.get_origin, typing.get_args(hint)):
        return st.one_of(*map(value_of, typing.get_args(hint)))
    known = {
        str: texts | st.sampled_from([*MessageType, "text"]), int: numbers, bool: st.booleans(),
        Scene: st.sampled_from(list(Scene)), Code: st.sampled_from(list(Code)), type(None): st.none(),
    }  # fmt: skip
    return known.get(hint, st.none() | st.just({"url": "x", "size": 1.0}))


@settings(max_examples=1000, deadline=None)
@given(st.sampled_from(PLAIN).flatmap(value_of))
def test_frame_is_encoded_as_by_pydantic(frame):
    assert encode(frame) == codec._encode(frame)


def test_hot_frames_are_plain():
    assert {"login", "send", "stored", "push", "delivered", "state", "state_ack", "ping", "pong"} <= {
        k.op for k in PLAIN
    }
    readers = plain.readers(CLIENT, codec.alias)
    text = encode(frames.Send("a", Scene.P2P, "bob", "hi \u4e16", after="b", shown=7))
    assert readers[b'{"op":"send"'](text) == decode_from_client(text)
