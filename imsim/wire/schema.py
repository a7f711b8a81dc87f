"""The protocol as documents for other programs: JSON Schema and AsyncAPI, both generated from the code.

The frames come from the codec's adapters, the descriptions from the docstrings and comments of the core's dataclasses,
and the attachments from the core's table. So both documents contain a new frame as soon as the codec knows it.

A schema describes the frames that a peer should send. A peer must accept more: see `_LENIENT`.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any, get_args

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from imsim.core import frames, model
from imsim.core.attachments import ATTACHMENTS, OPTIONAL, Anything, Field, Number, Text, Texts
from imsim.core.model import Code, MessageType
from imsim.wire.codec import ADAPTERS, alias

_DIRECTIONS: Mapping[str, tuple[type, ...]] = {
    "FromClient": get_args(frames.FromClient),
    "ToClient": get_args(frames.ToClient),
}
_MEANING = {"FromClient": "A frame that a client sends.", "ToClient": "A frame that the server sends."}

_LENIENT = (
    "A field that has a default may be absent, in both directions. Ignore unknown keys and unknown ops. Write an "
    "integer without a fraction."
)
_TOKEN = (
    "The first frame, `login`, contains a token. Request it over HTTP from the same port: `GET /token?user=alice` with "
    "the header `Authorization: Bearer KEY`, where KEY is the key of the server. The answer is "
    '`{"token": "...", "user": "alice", "expiresAt": 1767225600000}` (ms since 1970).'
)


_NAMED = {"pattern": f"^{model.NAME}$"}
_NAMED_OR_NOT = {"pattern": f"^({model.NAME})?$"}
_ID_CLIENT = {"minLength": 1, "maxLength": model.LONGEST_ID_CLIENT}

#: The constraints that the gateway puts on a text, by frame and field.
_BOUNDS: Mapping[tuple[type, str], Mapping[str, Any]] = {
    (frames.Login, "device"): _NAMED,
    (frames.Login, "kind"): _NAMED_OR_NOT,
    (frames.Login, "instance"): _NAMED_OR_NOT,
    (frames.Send, "id_client"): _ID_CLIENT,
    (frames.Send, "to"): _NAMED,
    (frames.Send, "type"): {"minLength": 1, "maxLength": model.LONGEST_TYPE},
    (frames.Send, "after"): {"maxLength": model.LONGEST_ID_CLIENT},
    (frames.Enter, "name"): _NAMED,
    (frames.Leave, "name"): _NAMED,
}


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of every frame between a client and its gateway. `op` distinguishes the frames.

    `$defs` has one schema for each frame. It also has `FromClient` and `ToClient`, the frames that a client and a
    server may send.
    """
    template = "#/$defs/{model}"
    directions = {
        direction: {
            "description": _MEANING[direction],
            "oneOf": [_ref(template, kind.__name__) for kind in kinds],
            "discriminator": {
                "propertyName": "op",
                "mapping": {_op(kind): template.format(model=kind.__name__) for kind in kinds},
            },
        }
        for direction, kinds in _DIRECTIONS.items()
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "imsim: the frames between a client and its gateway",
        "description": f"JSON objects in WebSocket text messages. {_LENIENT}",
        "anyOf": [_ref(template, direction) for direction in directions],
        "$defs": {**directions, **_definitions(template)},
    }


def asyncapi() -> dict[str, Any]:
    """Return the AsyncAPI (3.0) document of the server: the operations by which it receives and sends frames."""
    template = "#/components/schemas/{model}"
    schemas = _definitions(template)
    kinds = [kind for direction in _DIRECTIONS.values() for kind in direction]
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "imsim",
            "version": _version(),
            "description": "The client protocol of an instant-messaging server: one WebSocket for each device. "
            f"{_LENIENT}\n\n{_TOKEN}",
            "license": {"name": "MIT"},
        },
        "defaultContentType": "application/json",
        "servers": {
            "local": {
                "host": "127.0.0.1:8765",
                "protocol": "ws",
                "description": "A server started by `imsim serve`. With a certificate, the protocol is `wss`.",
            }
        },
        "channels": {
            "frames": {
                "address": "/",
                "description": "Frames are JSON objects in WebSocket text messages; `op` names the type of the frame.",
                "servers": [{"$ref": "#/servers/local"}],
                "messages": {kind.__name__: {"$ref": f"#/components/messages/{kind.__name__}"} for kind in kinds},
                "bindings": {"ws": {"method": "GET"}},
            }
        },
        "operations": {
            operation: {
                "action": action,
                "channel": {"$ref": "#/channels/frames"},
                "summary": _MEANING[direction],
                "messages": [
                    {"$ref": f"#/channels/frames/messages/{kind.__name__}"} for kind in _DIRECTIONS[direction]
                ],
            }
            for operation, action, direction in (
                ("fromClient", "receive", "FromClient"),
                ("toClient", "send", "ToClient"),
            )
        },
        "components": {
            "messages": {
                kind.__name__: {
                    "name": _op(kind),
                    "title": kind.__name__,
                    "description": schemas[kind.__name__]["description"],
                    "payload": _ref(template, kind.__name__),
                }
                for kind in kinds
            },
            "schemas": schemas,
        },
    }


def _version() -> str:
    try:
        return version("imsim")
    except PackageNotFoundError:  # imsim runs from a source tree and is not installed
        return "unknown"


def _op(kind: type) -> str:
    return str(vars(kind)["op"])


def _ref(template: str, model: str) -> dict[str, Any]:
    return {"$ref": template.format(model=model)}


def _definitions(template: str) -> dict[str, Any]:
    """Return the schemas of all frames and of the types that they contain, by name."""
    adapters = [(kind, "validation", adapter) for kind, adapter in ADAPTERS.items()]
    # Pydantic's stub expects the same type in all adapters, but each adapter has its own.
    _, found = TypeAdapter.json_schemas(adapters, ref_template=template, schema_generator=_Generator)  # type: ignore[arg-type]
    definitions: dict[str, Any] = found["$defs"]
    for definition in definitions.values():
        if "description" in definition:  # pydantic copies the whole docstring of an enumeration
            definition["description"] = _on_the_wire(definition["description"].split("\n\n")[0])
    definitions[Code.__name__] |= {
        "description": _codes_explained(),
        "x-codes": {str(code): {"reconnects": code.reconnects, "retryable": code.retryable} for code in Code},
    }
    for kind in _DIRECTIONS["FromClient"]:
        if {"type", "file"} <= {field.name for field in dataclasses.fields(kind)}:
            definitions[kind.__name__]["allOf"] = [_condition(type, template) for type in ATTACHMENTS]
    for type, fields in ATTACHMENTS.items():
        if fields:
            definitions[_attachment(type)] = {
                "type": "object",
                "description": f"`file` of a message of type `{type}`. You may add custom fields.",
                "properties": {name: _of_attachment(field) for name, field in fields.items()},
                "required": list(fields),
            }
    return definitions


class _Generator(GenerateJsonSchema):
    """Pydantic's generator, which also adds `op` and the descriptions in the core's docstrings and comments."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def dataclass_schema(self, schema: core_schema.DataclassSchema) -> JsonSchemaValue:
        kind = schema["cls"]
        made = super().dataclass_schema(schema)
        made["description"] = _first_paragraph(kind)
        properties = made.setdefault("properties", {})
        meanings = _meanings(kind)
        for field in dataclasses.fields(kind):
            about = properties[alias(field.name)]
            if field.default_factory is not dataclasses.MISSING:
                about["default"] = field.default_factory()
            if dataclasses.is_dataclass(field.default):
                about["default"] = {}  # it means the same as the object with all defaults
            if "$ref" in about and ("default" in about or field.name in meanings):
                # Older JSON Schema tools ignore all keys beside `$ref`.
                reference = {"$ref": about.pop("$ref")}
                about = properties[alias(field.name)] = {"allOf": [reference], **about}
            if field.name in meanings:
                about["description"] = meanings[field.name]
            about.update(_BOUNDS.get((kind, field.name), {}))
        if "op" in vars(kind):
            made["properties"] = {"op": {"const": _op(kind), "type": "string"}, **properties}
            made["required"] = ["op", *made.get("required", ())]
        return made


# --- descriptions ---------------------------------------------------------------------------------------------------


def _first_paragraph(kind: type) -> str:
    """Return the first paragraph of the docstring; for a frame without a docstring, its name as words."""
    text = inspect.cleandoc(kind.__doc__ or "")
    if text.startswith(f"{kind.__name__}("):  # the signature that dataclass() generates as a docstring
        text = ""
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", kind.__name__).capitalize()
    return _on_the_wire(text.split("\n\n")[0]) or f"{name}."


def _meanings(kind: type) -> dict[str, str]:
    """Return the description of each field that has one.

    It is the sentences of the docstring that name the field in backticks, or else the comment behind the field.
    """
    names = [field.name for field in dataclasses.fields(kind)]
    end = rf"(?<=[^.\s][.;])\s+|,\s+(?=`(?:{'|'.join(names)})`)"  # the end of a sentence, or of the text about a field
    sentences = re.split(end, " ".join((kind.__doc__ or "").split()))
    comments = dict(re.findall(r"^ +(\w+): [^#\n]*# +(.+)$", inspect.getsource(kind), re.MULTILINE))
    found = {}
    for name in names:
        about = [sentence for sentence in sentences if sentence.startswith(f"`{name}`")]
        about = about or [sentence for sentence in sentences if f"`{name}`" in sentence] or [comments.get(name, "")]
        if text := _on_the_wire(" ".join(about)).rstrip(".;,"):
            found[name] = f"{text}."
    return found


def _codes_explained() -> str:
    parts = [Code.__doc__, "In `x-codes`, by code:"]
    parts += [f"`{name}`: {inspect.getdoc(getattr(Code, name))}" for name in ("reconnects", "retryable")]
    return " ".join(" ".join(part or "" for part in parts).split())


def _on_the_wire(text: str) -> str:
    """Return the text on one line, with the names of fields as they are on the wire."""
    return re.sub(r"\b[a-z]+(_[a-z]+)+\b", lambda name: _names().get(name[0], name[0]), " ".join(text.split()))


@cache
def _names() -> dict[str, str]:
    """Return the name on the wire of each field of the core's data, by its name in the core.

    Names that are also an op are left out, because the text may mean the op.
    """
    kinds = [kind for module in (frames, model) for kind in vars(module).values() if dataclasses.is_dataclass(kind)]
    names = {field.name: alias(field.name) for kind in kinds for field in dataclasses.fields(kind)}
    return {name: named for name, named in names.items() if name not in frames.GATEWAY_OPS}


# --- attachments ----------------------------------------------------------------------------------------------------


def _attachment(type: str) -> str:
    return f"{type.capitalize()}Attachment"


def _condition(type: str, template: str) -> dict[str, Any]:
    """Return the condition on `file` of a message of this type. An absent type means `text`."""
    if not ATTACHMENTS[type]:
        file: dict[str, Any] = {"type": "null"}
    elif type in OPTIONAL:
        file = {"anyOf": [_ref(template, _attachment(type)), {"type": "null"}]}
    else:
        file = _ref(template, _attachment(type))
    known: dict[str, Any] = {"properties": {"type": {"const": str(type)}}}
    if type != MessageType.TEXT:
        known["required"] = ["type"]
    then: dict[str, Any] = {"properties": {"file": file}}
    if ATTACHMENTS[type] and type not in OPTIONAL:
        then["required"] = ["file"]
    return {"if": known, "then": then}


def _of_attachment(field: Field) -> dict[str, Any]:
    match field:
        case Text(shortest, longest):
            return {"type": "string", "minLength": shortest, "maxLength": longest}
        case Number(unit, least, most, whole):
            kind = "integer" if whole else "number"
            return {"type": kind, "minimum": least, "maximum": most, "description": f"In {unit}."}
        case Texts(each):
            return {"type": "array", "items": _of_attachment(each)}
        case Anything():
            return {"type": "object"}
