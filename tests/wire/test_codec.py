"""Tests of the codec: frames survive a round trip; an invalid frame is refused with one line that names the field."""

from __future__ import annotations

import dataclasses
import json
import types
import typing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imsim.core import frames
from imsim.core.model import Code, Message, Role, Scene
from imsim.wire import BadRequest, UnknownOp, WireError, decode_from_client, decode_from_server, encode

CLIENT = typing.get_args(frames.FromClient)
SERVER = typing.get_args(frames.ToClient)
FRAMES = (*CLIENT, *SERVER)

numbers = st.integers(-(2**63), 2**63)
floats = st.floats(allow_nan=False, allow_infinity=False)
json_values = st.recursive(
    st.none() | st.booleans() | numbers | floats | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


def values(hint: object) -> st.SearchStrategy:
    """Return a strategy for any value of this type hint."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return st.one_of([values(one) for one in inner])
    if origin is list:
        return st.lists(values(inner[0]), max_size=3)
    if origin is dict:
        return st.dictionaries(values(inner[0]), values(inner[1]), max_size=3)
    if dataclasses.is_dataclass(hint):
        return st.builds(hint, **{name: values(one) for name, one in fields(hint).items()})
    simple = {
        str: st.text(),
        int: numbers,
        float: floats,
        bool: st.booleans(),
        type(None): st.none(),
        object: json_values,
    }
    return simple[hint] if hint in simple else st.sampled_from(list(hint))


def fields(frame: type) -> dict[str, object]:
    hints = typing.get_type_hints(frame)
    return {field.name: hints[field.name] for field in dataclasses.fields(frame)}


def decode(frame_type: type, text: str | bytes) -> object:
    return (decode_from_client if frame_type in CLIENT else decode_from_server)(text)


def camel(name: str) -> str:
    head, *rest = name.split("_")
    return "from" if name == "sender" else head + "".join(part.title() for part in rest)


#: Settings for tests of each frame. There are many frames, and they are similar.
few = settings(max_examples=25)

every_frame = pytest.mark.parametrize("frame_type", FRAMES, ids=lambda frame: frame.op)


@every_frame
@given(data=st.data())
@few
def test_frame_survives_a_round_trip(frame_type, data):
    """The JSON object has an op, camel-case keys, and no fields with default values."""
    frame = data.draw(values(frame_type))
    text = encode(frame)
    assert decode(frame_type, text) == frame
    assert decode(frame_type, text.decode()) == frame
    assert encode(decode(frame_type, text)) == text
    written = json.loads(text)
    keys = list(written)
    assert keys[0] == "op"
    assert written["op"] == frame_type.op
    for field in dataclasses.fields(frame_type):
        factory = field.default_factory
        default = field.default if factory is dataclasses.MISSING else factory()
        if getattr(frame, field.name) != default:
            assert camel(field.name) in keys
        else:
            assert camel(field.name) not in keys


@every_frame
@given(data=st.data())
@few
def test_decode_fills_in_defaults_and_ignores_unknown_keys(frame_type, data):
    required = {
        field.name: data.draw(values(fields(frame_type)[field.name]))
        for field in dataclasses.fields(frame_type)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    }
    frame = frame_type(**required)
    written = {**json.loads(encode(frame)), "someNewField": {"deep": [1]}}
    assert decode(frame_type, json.dumps(written)) == frame


def required_fields(frame_type: type) -> list[str]:
    return [
        field.name
        for field in dataclasses.fields(frame_type)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]


def example(frame_type: type) -> dict[str, object]:
    """Return a frame of this type as a JSON object, with every field."""
    samples: dict[object, object] = {
        str: "x",
        int: 1,
        float: 1.0,
        bool: True,
        Scene: "p2p",
        Code: "gap",
        Role: "admin",
        list[str]: ["x"],
        dict[str, int]: {"x": 1},
        dict[str, object] | None: {"url": "x"},
        str | None: "x",
        bool | None: True,
        int | None: 1,
    }
    found: dict[str, object] = {}
    for name, hint in fields(frame_type).items():
        origin, inner = typing.get_origin(hint), typing.get_args(hint)
        if dataclasses.is_dataclass(hint):
            found[camel(name)] = example(hint)
        elif origin is list and dataclasses.is_dataclass(inner[0]):
            found[camel(name)] = []
        else:
            found[camel(name)] = samples[hint]
    return found


def wrong_values(hint: object) -> list[object]:
    """Return values that are not of this type, such as "5" for an integer."""
    wrong: list[object] = [[None], {"a": [1]}]
    if hint is str:
        wrong += [5, 1.5, True, None, []]
    elif hint in (int, float, bool):
        wrong += ["x", None, [], {}, "", "7", "true", "1.5"]
        wrong += {int: [1.5, True], float: [True], bool: [0, 1, 1.0]}[hint]
    elif isinstance(hint, type) and issubclass(hint, (Scene, Code, Role)):
        wrong += ["no such", 1, None]
    elif typing.get_origin(hint) is list:
        wrong = ["x", 5, None, {"a": 1}, [[1]], [None]]
    elif typing.get_origin(hint) is dict:
        wrong = ["x", 5, None, [1], {"a": "b"}, {"a": None}, {"a": "5"}, {"a": True}]
    elif hint == dict[str, object] | None:
        wrong = ["x", 5, [1]]
    elif hint == str | None:
        wrong = [5, True, [], {}]
    elif hint in (bool | None, int | None):
        wrong = ["x", [], {}, "1", 1 if hint == bool | None else True]
    elif dataclasses.is_dataclass(hint):
        wrong = ["x", 5, None, [1], *([{}] if required_fields(hint) else [])]
    return wrong


WRONG = {
    frame: [(name, value) for name, hint in fields(frame).items() for value in wrong_values(hint)] for frame in FRAMES
}


@every_frame
def test_decode_refuses_a_wrong_type_and_names_the_field(frame_type):
    written = {**example(frame_type), "op": frame_type.op}
    decode(frame_type, json.dumps(written))  # valid without the wrong value
    for name, value in WRONG[frame_type]:
        with pytest.raises(WireError) as caught:
            decode(frame_type, json.dumps({**written, camel(name): value}))
        assert str(caught.value).startswith(f"{frame_type.op}.{camel(name)}"), value
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("frame_type", "name"), [(frame, name) for frame in FRAMES for name in required_fields(frame)], ids=str
)
def test_decode_refuses_a_missing_field_and_names_it(frame_type, name):
    written = {**example(frame_type), "op": frame_type.op}
    del written[camel(name)]
    with pytest.raises(WireError, match=rf"^{frame_type.op}\.{camel(name)}: "):
        decode(frame_type, json.dumps(written))


def test_error_inside_a_message_names_its_path():
    push = {"op": "push", "message": {**example(Message), "seq": "x"}}
    with pytest.raises(WireError, match=r"^push\.message\.seq: "):
        decode_from_server(json.dumps(push))
    page = {"op": "page", "messages": [example(Message), {**example(Message), "from": 5}], "cursors": {}, "more": False}
    with pytest.raises(WireError, match=r"^page\.messages\.1\.from: "):
        decode_from_server(json.dumps(page))


def test_decode_refuses_an_integer_with_a_fraction():
    """The codec refuses 7.0 for an integer. A JSON Schema cannot express this."""
    with pytest.raises(WireError, match=r"^read\.seq: "):
        decode_from_client('{"op":"read","conversationId":"p2p:a:b","seq":7.0}')


def test_decode_accepts_an_integer_for_a_float():
    frame = decode_from_server('{"op":"logged_in","user":"a","device":"d","time":1,"heartbeat":75,"log":"x"}')
    assert frame == frames.LoggedIn("a", "d", 1, 75.0, "x")


def test_sender_is_named_from_on_the_wire():
    push = {"op": "push", "message": example(Message)}
    assert decode_from_server(json.dumps(push)).message.sender == "x"
    push["message"]["sender"] = push["message"].pop("from")
    with pytest.raises(WireError, match=r"^push\.message\.from: "):
        decode_from_server(json.dumps(push))


def test_decode_does_not_accept_snake_case_keys():
    with pytest.raises(WireError, match=r"^read\.conversationId: "):
        decode_from_client('{"op":"read","conversation_id":"x","seq":1}')


@given(st.binary(max_size=60) | st.text(max_size=60) | json_values.map(json.dumps))
def test_garbage_raises_only_wire_errors(garbage):
    for decoder in (decode_from_client, decode_from_server):
        with pytest.raises(WireError) as caught:
            decoder(garbage)
        assert "\n" not in str(caught.value)


@given(st.sampled_from(FRAMES), st.dictionaries(st.sampled_from(["op", "seq", "to", "message", "mark"]), json_values))
def test_garbled_frame_is_decoded_or_raises_a_wire_error(frame_type, garbled):
    text = json.dumps({**example(frame_type), "op": frame_type.op, **garbled})
    try:
        frame = decode(frame_type, text)
    except WireError:
        return
    assert type(frame) in FRAMES


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        '"login"',
        "{}",
        '{"op":null}',
        '{"op":5}',
        '{"op":["login"]}',
        '{"op":{}}',
        '{"op":"Login"}',
        '{"op":"ping"',
        '{"op":"ping"}{"op":"ping"}',
        "[" * 100_000,
        '{"op":' + "9" * 100_000 + "}",
        b"\xff\xfe",
        b"",
    ],
)
def test_invalid_text_raises_a_wire_error(text):
    with pytest.raises(WireError) as caught:
        decode_from_client(text)
    assert len(str(caught.value)) < 300


def test_decode_refuses_frames_of_the_other_direction():
    with pytest.raises(UnknownOp, match="must be an op that a client sends"):
        decode_from_client(encode(frames.Pong()))
    with pytest.raises(WireError, match="must be an op that a server sends"):
        decode_from_server(encode(frames.Ping()))


def test_encode_of_a_frame_without_fields():
    assert encode(frames.Ping()) == b'{"op":"ping"}'


def test_encode_of_a_send():
    """Fields with their default value are left out; the others keep their order."""
    frame = frames.Send("7", Scene.P2P, "bob", "hé", after="6", shown=3)
    expected = '{"op":"send","idClient":"7","scene":"p2p","to":"bob","content":"hé","after":"6","shown":3}'
    assert encode(frame) == expected.encode()


DEEP = "[" * 300 + "]" * 300
SEND = '{"op":"send","idClient":"1","scene":"p2p","to":"bob",'


@pytest.mark.parametrize(
    ("text", "says", "which"),
    [
        (SEND + '"content":"a\\ud83db"}', "content: ", ("send", "1", 0)),
        (SEND + '"file":{"x":["\\udc00"]}}', "file: ", ("send", "1", 0)),
        (SEND + '"file":{"x":NaN}}', "file: ", ("send", "1", 0)),
        (SEND + '"file":{"x":' + DEEP + "}}", "file: ", ("send", "1", 0)),
        (SEND + '"unknown":' + DEEP + "}", "unknown: ", ("send", "1", 0)),
        (SEND + '"file":[1]}', "file: Input should be", ("send", "1", 0)),
        (SEND + '"custom":{}}', "custom: Input should be", ("send", "1", 0)),
        ('{"op":"send","idClient":"1","scene":"party"}', "scene: Input should be", ("send", "1", 0)),
        ('{"op":"end_session","device":"\\ud800","number":3}', "device: ", ("end_session", "\ufffd", 3)),
        ('{"op":"read","conversationId":"c","seq":"x","number":2}', "seq: Input", ("read", "c", 2)),
        ('{"op":"sync","cursors":{"c":"x"},"number":4}', "cursors.c: Input", ("sync", "", 4)),
        ('{"op":"history","conversationId":"c","first":1,"last":{}}', "last: Input", ("history", "c:1-{}", 0)),
    ],
)
def test_bad_request_identifies_the_request_and_the_field(text, says, which):
    with pytest.raises(BadRequest) as caught:
        decode_from_client(text)
    bad = caught.value
    assert (bad.op, bad.ref, bad.number) == which
    assert bad.text.startswith(says)
    assert "\n" not in bad.text


@pytest.mark.parametrize(
    "text",
    [
        '["\\ud800"]',
        '{"op":"pong","x":"\\ud800"}',
        '{"op":"read","x":"\\ud800"}',  # the fields that identify the request are missing
        '{"op":"read","conversationId":5,"seq":1}',
        '{"op":"read","conversationId":"c","seq":1,"number":"x"}',
        '{"op":"delivered","conversationId":"c","seq":"x"}',  # not a request
        SEND + '"file":' + "[" * 100_000,
        SEND.encode("utf-16") + b"}",
    ],
)
def test_invalid_frame_that_identifies_no_request_is_not_a_bad_request(text):
    with pytest.raises(WireError) as caught:
        decode_from_client(text)
    assert not isinstance(caught.value, BadRequest)


def test_client_decodes_stored_attachments_of_any_depth():
    file: dict[str, object] = {}
    for _ in range(250):
        file = {"a": file}
    push = {"op": "push", "message": {**example(Message), "file": file}}
    assert decode_from_server(json.dumps(push)).message.file == file


def test_decode_accepts_surrogate_pairs():
    assert decode_from_client('{"op":"end_session","device":"\\ud83d\\ude00"}') == frames.EndSession("\U0001f600")


def test_encode_escapes_a_lone_surrogate():
    frame = frames.Send("1", Scene.P2P, "bob", "\ud800", shown=2)
    assert json.loads(encode(frame)) == {
        "op": "send",
        "idClient": "1",
        "scene": "p2p",
        "to": "bob",
        "content": "\ud800",
        "shown": 2,
    }
