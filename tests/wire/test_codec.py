"""The wire: what is written is read back; what is no frame is refused with a line that names the field."""

from __future__ import annotations

import dataclasses
import json
import types
import typing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imsim.core import frames
from imsim.core.model import Code, ConversationState, Message, Scene
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
    """Any value of this type hint."""
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


#: Of each frame: there are many, and much alike.
few = settings(max_examples=25)

every_frame = pytest.mark.parametrize("frame_type", FRAMES, ids=lambda frame: frame.op)


@every_frame
@given(data=st.data())
@few
def test_every_frame_comes_back_as_it_was(frame_type, data):
    """From an object with an op and camel-case keys, without defaults."""
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
def test_a_default_may_be_absent_and_an_unknown_key_is_ignored(frame_type, data):
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
    """A frame of this type as the JSON object that it is on the wire, with every field given."""
    samples: dict[object, object] = {
        str: "x",
        int: 1,
        float: 1.0,
        bool: True,
        Scene: "p2p",
        Code: "gap",
        list[str]: ["x"],
        dict[str, int]: {"x": 1},
        list[Message]: [],
        list[ConversationState]: [],
        dict[str, object] | None: {"url": "x"},
        str | None: "x",
        bool | None: True,
        int | None: 1,
    }
    found: dict[str, object] = {}
    for name, hint in fields(frame_type).items():
        found[camel(name)] = example(hint) if dataclasses.is_dataclass(hint) else samples[hint]
    return found


def wrong_values(hint: object) -> list[object]:
    """What is no value of this type, though it may look like one: "5" is no 5."""
    wrong: list[object] = [[None], {"a": [1]}]
    if hint is str:
        wrong += [5, 1.5, True, None, []]
    elif hint in (int, float, bool):
        wrong += ["x", None, [], {}, "", "7", "true", "1.5"]
        wrong += {int: [1.5, True], float: [True], bool: [0, 1, 1.0]}[hint]
    elif isinstance(hint, type) and issubclass(hint, (Scene, Code)):
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
        wrong = ["x", 5, None, [1], {}]
    return wrong


WRONG = {
    frame: [(name, value) for name, hint in fields(frame).items() for value in wrong_values(hint)] for frame in FRAMES
}


@every_frame
def test_a_wrong_type_is_refused_and_the_field_named(frame_type):
    written = {**example(frame_type), "op": frame_type.op}
    decode(frame_type, json.dumps(written))  # right so far
    for name, value in WRONG[frame_type]:
        with pytest.raises(WireError) as caught:
            decode(frame_type, json.dumps({**written, camel(name): value}))
        assert str(caught.value).startswith(f"{frame_type.op}.{camel(name)}"), value
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("frame_type", "name"), [(frame, name) for frame in FRAMES for name in required_fields(frame)], ids=str
)
def test_a_missing_field_is_refused_and_named(frame_type, name):
    written = {**example(frame_type), "op": frame_type.op}
    del written[camel(name)]
    with pytest.raises(WireError, match=rf"^{frame_type.op}\.{camel(name)}: "):
        decode(frame_type, json.dumps(written))


def test_an_error_inside_a_message_names_its_path():
    push = {"op": "push", "message": {**example(Message), "seq": "x"}}
    with pytest.raises(WireError, match=r"^push\.message\.seq: "):
        decode_from_server(json.dumps(push))
    page = {"op": "page", "messages": [example(Message), {**example(Message), "from": 5}], "cursors": {}, "more": False}
    with pytest.raises(WireError, match=r"^page\.messages\.1\.from: "):
        decode_from_server(json.dumps(page))


def test_an_integer_has_no_fraction():
    """Not even one of nothing, though a JSON Schema cannot say so."""
    with pytest.raises(WireError, match=r"^read\.seq: "):
        decode_from_client('{"op":"read","conversationId":"p2p:a:b","seq":7.0}')


def test_an_integer_is_a_number_too():
    told = decode_from_server('{"op":"logged_in","user":"a","device":"d","time":1,"heartbeat":75,"log":"x"}')
    assert told == frames.LoggedIn("a", "d", 1, 75.0, "x")


def test_the_sender_is_called_from_and_by_no_other_name():
    push = {"op": "push", "message": example(Message)}
    assert decode_from_server(json.dumps(push)).message.sender == "x"
    push["message"]["sender"] = push["message"].pop("from")
    with pytest.raises(WireError, match=r"^push\.message\.from: "):
        decode_from_server(json.dumps(push))


def test_keys_in_snake_case_are_not_ours():
    with pytest.raises(WireError, match=r"^read\.conversationId: "):
        decode_from_client('{"op":"read","conversation_id":"x","seq":1}')


@given(st.binary(max_size=60) | st.text(max_size=60) | json_values.map(json.dumps))
def test_garbage_raises_a_wire_error_and_nothing_else(garbage):
    for decoder in (decode_from_client, decode_from_server):
        with pytest.raises(WireError) as caught:
            decoder(garbage)
        assert "\n" not in str(caught.value)


@given(st.sampled_from(FRAMES), st.dictionaries(st.sampled_from(["op", "seq", "to", "message", "mark"]), json_values))
def test_a_garbled_frame_is_read_or_refused_and_nothing_else(frame_type, garbled):
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
def test_what_is_no_frame_is_refused(text):
    with pytest.raises(WireError) as caught:
        decode_from_client(text)
    assert len(str(caught.value)) < 300


def test_a_frame_of_the_other_side_is_no_frame():
    with pytest.raises(UnknownOp, match="no frame of a client"):
        decode_from_client(encode(frames.Pong()))
    with pytest.raises(WireError, match="no frame of a server"):
        decode_from_server(encode(frames.Ping()))


def test_the_bytes_of_a_frame_without_fields():
    assert encode(frames.Ping()) == b'{"op":"ping"}'


def test_the_bytes_of_a_send():
    """What the README promises to clients in other languages."""
    frame = frames.Send("7", Scene.P2P, "bob", "hé", after="6", shown=3)
    expected = '{"op":"send","idClient":"7","scene":"p2p","to":"bob","content":"hé","after":"6","shown":3}'
    assert encode(frame) == expected.encode()


DEEP = "[" * 300 + "]" * 300
SEND = '{"op":"send","idClient":"1","scene":"p2p","to":"bob",'


@pytest.mark.parametrize(
    ("text", "says", "which"),
    [
        (SEND + '"content":"a\\ud83db"}', "content: half a surrogate pair", ("send", "1", 0)),
        (SEND + '"file":{"x":["\\udc00"]}}', "file: half a surrogate pair", ("send", "1", 0)),
        (SEND + '"file":{"x":NaN}}', "file: JSON has neither infinity", ("send", "1", 0)),
        (SEND + '"file":{"x":' + DEEP + "}}", "file: nested too deep", ("send", "1", 0)),
        (SEND + '"unknown":' + DEEP + "}", "unknown: nested too deep", ("send", "1", 0)),
        (SEND + '"file":[1]}', "file: Input should be", ("send", "1", 0)),
        (SEND + '"custom":{}}', "custom: Input should be", ("send", "1", 0)),
        ('{"op":"send","idClient":"1","scene":"party"}', "scene: Input should be", ("send", "1", 0)),
        ('{"op":"end_session","device":"\\ud800","number":3}', "device: half", ("end_session", "\ufffd", 3)),
        ('{"op":"read","conversationId":"c","seq":"x","number":2}', "seq: Input", ("read", "c", 2)),
        ('{"op":"sync","cursors":{"c":"x"},"number":4}', "cursors.c: Input", ("sync", "", 4)),
        ('{"op":"history","conversationId":"c","first":1,"last":{}}', "last: Input", ("history", "c:1-{}", 0)),
    ],
)
def test_what_is_wrong_in_a_request_is_told_with_which_request_it_is(text, says, which):
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
        '{"op":"read","x":"\\ud800"}',  # which one?
        '{"op":"read","conversationId":5,"seq":1}',
        '{"op":"read","conversationId":"c","seq":1,"number":"x"}',
        '{"op":"delivered","conversationId":"c","seq":"x"}',  # no request
        SEND + '"file":' + "[" * 100_000,
        SEND.encode("utf-16") + b"}",
    ],
)
def test_what_is_no_request_to_be_named_is_no_frame(text):
    with pytest.raises(WireError) as caught:
        decode_from_client(text)
    assert not isinstance(caught.value, BadRequest)


def test_what_a_server_has_stored_is_read_however_deep_it_is():
    file: dict[str, object] = {}
    for _ in range(250):
        file = {"a": file}
    push = {"op": "push", "message": {**example(Message), "file": file}}
    assert decode_from_server(json.dumps(push)).message.file == file


def test_whole_pairs_are_characters():
    assert decode_from_client('{"op":"end_session","device":"\\ud83d\\ude00"}') == frames.EndSession("\U0001f600")


def test_what_has_half_a_pair_goes_out_as_json_has_it():
    frame = frames.Send("1", Scene.P2P, "bob", "\ud800", shown=2)
    assert json.loads(encode(frame)) == {
        "op": "send",
        "idClient": "1",
        "scene": "p2p",
        "to": "bob",
        "content": "\ud800",
        "shown": 2,
    }
