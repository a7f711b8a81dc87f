"""Tests of the protocol documents: they contain every frame, and accept and refuse the same frames as the codec."""

from __future__ import annotations

import dataclasses
import json
import re
import typing

import jsonschema
import pytest
from core.test_attachments import FIELDS, GOOD
from hypothesis import given, settings
from hypothesis import strategies as st
from wire.test_codec import CLIENT, FRAMES, SERVER, WRONG, camel, example, fields, required_fields, values

from imsim.core import frames
from imsim.core.attachments import ATTACHMENTS, check_attachment
from imsim.core.exceptions import BadAttachment
from imsim.core.model import Code, Message, Scene
from imsim.wire import decode_from_client, encode
from imsim.wire.schema import asyncapi, json_schema

SCHEMA = json_schema()
ASYNCAPI = asyncapi()


def validator(name: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator({"$ref": f"#/$defs/{name}", "$defs": SCHEMA["$defs"]})


OF = {name: validator(name) for name in SCHEMA["$defs"]}
ANY = jsonschema.Draft202012Validator(SCHEMA)


def direction(frame_type: type) -> str:
    return "FromClient" if frame_type in CLIENT else "ToClient"


def carries_attachments(frame_type: type) -> bool:
    return frame_type in CLIENT and {"type", "file"} <= fields(frame_type).keys()


def whole(frame_type: type) -> dict[str, object]:
    """Return a frame with every field. Its `type` allows any attachment."""
    any_type = {"type": "sticker"} if carries_attachments(frame_type) else {}
    return {"op": frame_type.op, **example(frame_type), **any_type}


every_frame = pytest.mark.parametrize("frame_type", FRAMES, ids=lambda frame: frame.op)


# --- JSON Schema ----------------------------------------------------------------------------------------------------


def test_json_schema_is_valid():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert json.loads(json.dumps(SCHEMA)) == SCHEMA


def test_json_schema_has_every_frame_in_its_direction():
    for name, kinds in (("FromClient", CLIENT), ("ToClient", SERVER)):
        schema = SCHEMA["$defs"][name]
        assert schema["oneOf"] == [{"$ref": f"#/$defs/{kind.__name__}"} for kind in kinds]
        assert schema["discriminator"]["mapping"] == {kind.op: f"#/$defs/{kind.__name__}" for kind in kinds}


#: Valid values of the texts that the gateway constrains to a name or to a length.
BOUNDED = {
    frames.Login: {"device": "d0", "kind": "", "instance": "5f@0.c+-_"},
    frames.Send: {"id_client": "x" * 128, "to": "b" * 64, "after": None},
    frames.Enter: {"name": "lounge"},
    frames.Leave: {"name": "lounge"},
}


@pytest.mark.parametrize(
    ("frame_type", "key", "wrong"),
    [
        (frames.Login, "device", ["", "a b", "a:b", "x" * 65]),
        (frames.Login, "kind", ["a b"]),
        (frames.Login, "instance", ["a b"]),
        (frames.Send, "idClient", ["", "x" * 129]),
        (frames.Send, "to", ["", "#team", "ü"]),
        (frames.Send, "type", ["", "x" * 65]),
        (frames.Send, "after", ["x" * 129]),
        (frames.Enter, "name", ["", "a b"]),
        (frames.Leave, "name", ["", "a b"]),
    ],
)
def test_text_that_the_gateway_refuses_is_not_valid(frame_type, key, wrong):
    frame = dataclasses.replace(frame_type(**MADE[frame_type]), **BOUNDED[frame_type])
    written = json.loads(encode(frame))
    OF[frame_type.__name__].validate(written)
    for value in wrong:
        assert not OF[frame_type.__name__].is_valid({**written, key: value})


MADE = {
    frames.Login: {"token": "t", "device": "d0"},
    frames.Send: {"id_client": "1", "scene": Scene.P2P, "to": "bob", "type": "sticker"},
    frames.Enter: {"name": "lounge"},
    frames.Leave: {"name": "lounge"},
}


@every_frame
@settings(max_examples=25)
@given(data=st.data())
def test_encoded_frame_is_valid(frame_type, data):
    frame = data.draw(values(frame_type))
    if carries_attachments(frame_type):  # other tests cover attachments
        frame = dataclasses.replace(frame, type="sticker")
    frame = dataclasses.replace(frame, **BOUNDED.get(frame_type, {}))
    ANY.validate(json.loads(encode(frame)))  # `op` selects exactly one frame


@every_frame
def test_schema_has_every_field_and_requires_those_without_default(frame_type):
    schema = SCHEMA["$defs"][frame_type.__name__]
    assert list(schema["properties"]) == ["op", *map(camel, fields(frame_type))]
    assert schema["required"] == ["op", *map(camel, required_fields(frame_type))]
    assert schema["properties"]["op"]["const"] == frame_type.op
    for field in dataclasses.fields(frame_type):
        if camel(field.name) not in schema["required"]:
            default = frame_type(**dict.fromkeys(required_fields(frame_type)))
            value = getattr(default, field.name)
            expected = {} if dataclasses.is_dataclass(value) else value
            assert schema["properties"][camel(field.name)]["default"] == expected


@every_frame
def test_frame_without_a_required_field_is_not_valid(frame_type):
    OF[frame_type.__name__].validate(whole(frame_type))
    for name in SCHEMA["$defs"][frame_type.__name__]["required"]:
        less = {key: value for key, value in whole(frame_type).items() if key != name}
        assert not OF[frame_type.__name__].is_valid(less)
        assert not ANY.is_valid(less)


@every_frame
def test_field_of_a_wrong_type_is_not_valid(frame_type):
    for name, value in WRONG[frame_type]:
        written = {**whole(frame_type), camel(name): value}
        assert not OF[frame_type.__name__].is_valid(written), (name, value)
        assert not OF[direction(frame_type)].is_valid(written), (name, value)


@every_frame
def test_unknown_key_is_valid_and_unknown_op_is_not(frame_type):
    assert ANY.is_valid({**whole(frame_type), "someNewField": {"deep": [1]}})
    assert not ANY.is_valid({**whole(frame_type), "op": "nonsense"})


@every_frame
def test_frame_of_the_other_direction_is_not_valid(frame_type):
    sides = {name for name in ("FromClient", "ToClient") if OF[name].is_valid(whole(frame_type))}
    assert sides == {direction(frame_type)}


def test_codes_have_the_flags_reconnects_and_retryable():
    schema = SCHEMA["$defs"]["Code"]
    assert schema["enum"] == [str(code) for code in Code]
    assert schema["x-codes"] == {
        str(code): {"reconnects": code.reconnects, "retryable": code.retryable} for code in Code
    }


def test_descriptions_use_the_names_of_the_wire():
    names = {name for kind in (*FRAMES, Message) for name in fields(kind) if "_" in name} - frames.GATEWAY_OPS
    assert all(SCHEMA["$defs"][kind.__name__]["description"] for kind in FRAMES)
    described = dict(SCHEMA["$defs"])
    described |= {f"{n}.{p}": about for n, d in described.items() for p, about in d.get("properties", {}).items()}
    for name, schema in described.items():
        text = schema.get("description", "")
        assert "\n" not in text
        assert not names & set(re.findall(r"\w+", text)), f"{name}: {text}"


def test_fields_have_the_descriptions_of_the_code():
    about = SCHEMA["$defs"]
    assert "`stored`" in about["Send"]["description"]
    assert about["Send"]["properties"]["idClient"]["description"].startswith("`idClient` ")
    assert about["Refused"]["properties"]["reconnect"]["description"].endswith(".")
    assert "read mark" in about["ConversationState"]["properties"]["readSeq"]["description"]


# --- attachments ----------------------------------------------------------------------------------------------------

# The values leave out 1.0 and NaN: unlike the server, a JSON Schema accepts 1.0 as an integer and cannot refuse NaN.
odd_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=70) | st.floats(-1e6, 1e6).filter(lambda x: x % 1),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


def agree(type: str, file: dict[str, object] | None) -> bool:
    """Check that the server and the schema agree about the attachment; return whether they accept it."""
    frame = frames.Send("1", Scene.P2P, "bob", "", type, file)
    try:
        check_attachment(type, file)
    except BadAttachment:
        accepted = False
    else:
        accepted = True
    written = json.loads(encode(frame))
    assert OF["Send"].is_valid(written) == accepted
    assert OF["FromClient"].is_valid({**written, "type": type, "file": file}) == accepted  # with the default values
    return accepted


@pytest.mark.parametrize("type", [*ATTACHMENTS, "sticker"])
def test_schema_and_server_agree_about_attachments(type):
    for file in (None, {}, {"url": "x"}, *GOOD.values()):
        agree(type, file)
    assert agree(type, GOOD.get(type))
    for name in GOOD.get(type, {}):
        assert not agree(type, {key: value for key, value in GOOD[type].items() if key != name})


@given(st.sampled_from(FIELDS), odd_values)
def test_schema_and_server_agree_about_odd_values(field, value):
    type, name = field
    agree(type, {**GOOD[type], name: value})


def test_stored_message_may_have_any_attachment():
    """A stored message may be older than the present rules for attachments."""
    OF["Message"].validate({**example(Message), "type": "image", "file": None})


def test_codec_does_not_check_attachments():
    text = '{"op":"send","idClient":"1","scene":"p2p","to":"bob","type":"image"}'
    assert typing.cast(frames.Send, decode_from_client(text)).file is None
    assert not ANY.is_valid(json.loads(text))


# --- AsyncAPI -------------------------------------------------------------------------------------------------------
# No Python package contains the official schema (npm @asyncapi/specs, 0.4 MB). So the tests check its rules by hand.


def referred(node: object) -> list[str]:
    if isinstance(node, list):
        return [ref for one in node for ref in referred(one)]
    if isinstance(node, dict):
        own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
        return own + [ref for one in node.values() for ref in referred(one)]
    return []


def resolve(reference: str) -> typing.Any:
    node: typing.Any = ASYNCAPI
    for part in reference.removeprefix("#/").split("/"):
        node = node[part]
    return node


def test_asyncapi_document_has_the_required_parts():
    assert ASYNCAPI["asyncapi"] == "3.0.0"
    assert set(ASYNCAPI) == {
        "asyncapi", "info", "defaultContentType", "servers", "channels", "operations", "components",
    }  # fmt: skip
    assert {"title", "version"} <= set(ASYNCAPI["info"])
    assert "GET /token" in ASYNCAPI["info"]["description"]
    assert [(s["host"], s["protocol"]) for s in ASYNCAPI["servers"].values()] == [("127.0.0.1:8765", "ws")]
    assert [channel["address"] for channel in ASYNCAPI["channels"].values()] == ["/"]
    assert json.loads(json.dumps(ASYNCAPI)) == ASYNCAPI


def test_every_reference_can_be_resolved():
    references = referred(ASYNCAPI)
    assert len(references) > 3 * len(FRAMES)
    for reference in references:
        assert isinstance(resolve(reference), dict)


def test_asyncapi_operations_have_the_frames_of_their_direction():
    by_action = {operation["action"]: operation for operation in ASYNCAPI["operations"].values()}
    for action, kinds in (("receive", CLIENT), ("send", SERVER)):
        messages = [resolve(resolve(ref["$ref"])["$ref"]) for ref in by_action[action]["messages"]]
        assert [message["name"] for message in messages] == [kind.op for kind in kinds]
        assert all(ref["$ref"].startswith("#/channels/frames/messages/") for ref in by_action[action]["messages"])


@every_frame
def test_payload_is_valid_under_json_schema_draft_7(frame_type):
    """AsyncAPI 3.0 uses draft 7, in which an object with a `$ref` may have no other key."""
    message = ASYNCAPI["components"]["messages"][frame_type.__name__]
    schema = {"components": ASYNCAPI["components"], **message["payload"]}
    jsonschema.Draft7Validator.check_schema(schema)
    judge = jsonschema.Draft7Validator(schema)
    judge.validate(whole(frame_type))
    assert not judge.is_valid({**whole(frame_type), "op": "nonsense"})
    for reference in _references(ASYNCAPI["components"]["schemas"]):
        assert set(reference) == {"$ref"}


def _references(node: object) -> list[dict[str, object]]:
    """Return every object with a `$ref`."""
    if isinstance(node, list):
        return [found for one in node for found in _references(one)]
    if isinstance(node, dict):
        return [node] * ("$ref" in node) + [found for one in node.values() for found in _references(one)]
    return []
