"""Frames to JSON text and back, by pydantic over the core's own dataclasses.

One frame is one JSON object: `op` says which, the other keys are its fields in camelCase (`sender` is "from"). A field
that has its default may be absent, both ways; an unknown key is ignored, so that a newer client can talk to an older
server.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast, get_args

import pydantic_core
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.alias_generators import to_camel

from imsim.core import frames
from imsim.core.attachments import json_fault
from imsim.core.model import ConversationState, Message


class WireError(ValueError):
    """A text that is no frame; its message is one line that names the field."""


class UnknownOp(WireError):
    """A frame of another version of the protocol, perhaps: to be ignored."""


class BadRequest(WireError):
    """A request with something wrong in it, of which can be told at least which one it is. `text` names the field."""

    def __init__(self, op: str, ref: str, number: int, text: str) -> None:
        super().__init__(f"{op}.{text}")
        self.op = op
        self.ref = ref
        self.number = number
        self.text = text


def alias(name: str) -> str:
    return "from" if name == "sender" else to_camel(name)


# Pydantic's documented hook for the configuration of a standard library dataclass; set from here, because the core
# knows nothing of pydantic.
for _class in (*get_args(frames.FromClient), *get_args(frames.ToClient), Message, ConversationState):
    _class.__pydantic_config__ = ConfigDict(alias_generator=alias, extra="ignore")

ADAPTERS: dict[Any, TypeAdapter[Any]] = {
    frame: TypeAdapter(frame) for frame in (*get_args(frames.FromClient), *get_args(frames.ToClient))
}
_PREFIXES = {frame: b'{"op":"%s"' % frame.op.encode() for frame in ADAPTERS}


def encode(frame: frames.FromClient | frames.ToClient) -> bytes:
    """The frame as JSON in UTF-8. The same frame gives the same bytes, so encode once for many recipients."""
    kind = type(frame)
    adapter = ADAPTERS[kind]
    try:
        body = adapter.dump_json(frame, by_alias=True, exclude_defaults=True)
    except pydantic_core.PydanticSerializationError:  # a lone surrogate: the other side is to refuse it
        body = json.dumps(adapter.dump_python(frame, by_alias=True, exclude_defaults=True)).encode()
    if body == b"{}":
        return _PREFIXES[kind] + b"}"
    return _PREFIXES[kind] + b"," + body[1:]


def _strict(schema: Any) -> Any:
    """Pydantic's schema, but taking neither "7" nor 7.0 nor true for 7; 7 is a number still. Only these four types, for
    if all are strict, pydantic wants the dataclasses and enumerations themselves, which JSON does not have."""
    if isinstance(schema, list):
        return [_strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {key: _strict(part) for key, part in schema.items()}
    return {**strict, "strict": True} if schema.get("type") in ("int", "str", "bool", "float") else strict


_Frame = TypeVar("_Frame")


def _decoder(direction: _Frame, whose: str) -> Callable[[str | bytes], _Frame]:
    readers: Mapping[object, tuple[type, pydantic_core.SchemaValidator]] = {
        frame.op: (frame, pydantic_core.SchemaValidator(_strict(ADAPTERS[frame].core_schema)))
        for frame in get_args(direction)
    }

    def decode(text: str | bytes) -> _Frame:
        value, is_plain = _from_json(text)
        if not isinstance(value, dict):
            raise WireError("a frame is a JSON object with an op")
        op = value.get("op")
        kind, reader = readers.get(op, (None, None)) if isinstance(op, str) else (None, None)
        if kind is None or reader is None:
            raise UnknownOp(
                f"op: {str(op)[:40]!r} is no frame of a {whose}; there are {', '.join(sorted(map(str, readers)))}"
            )
        if not is_plain and kind in _REQUESTS:  # what a server sends may be read as far as it can be
            for key, part in value.items():
                if fault := json_fault(key) or json_fault(part):
                    raise _wrong(kind, value, f"{_mended(key[:80])}: {fault}")
        try:
            return cast(_Frame, reader.validate_python(value))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            field = ".".join(str(part)[:80] for part in first["loc"]) or "frame"
            raise _wrong(kind, value, f"{field}: {first['msg']}") from None

    return decode


_REQUESTS = frozenset(get_args(frames.Request))


def _from_json(text: str | bytes) -> tuple[Any, bool]:
    """What the text says; and whether it is plain. It is not where it has half a surrogate pair, NaN, or hundreds of
    levels, all of which JSON can write and no reader need take."""
    try:
        return pydantic_core.from_json(text, allow_inf_nan=False), True
    except ValueError as error:
        try:
            return json.loads(text if isinstance(text, str) else text.decode()), False
        except (ValueError, RecursionError):
            raise WireError(f"not JSON: {error}") from None


def _wrong(kind: type, value: Mapping[str, Any], text: str) -> WireError:
    """Of a frame with something wrong in it: a BadRequest, if it says which request it is."""
    op = str(vars(kind)["op"])
    if kind in _REQUESTS:
        frame: Any = object.__new__(kind)
        for field in dataclasses.fields(kind):
            if (name := alias(field.name)) in value:
                setattr(frame, field.name, value[name])
            elif field.default is not dataclasses.MISSING:
                setattr(frame, field.name, field.default)
        try:
            ref, number = frame.ref, frame.number
        except AttributeError:  # it lacks what would tell
            return WireError(f"{op}.{text}")
        if isinstance(ref, str) and type(number) is int:
            return BadRequest(op, _mended(ref), number, text)
    return WireError(f"{op}.{text}")


def _mended(text: str) -> str:
    """With U+FFFD for each half of a surrogate pair that stands alone: such a text has no UTF-8."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


decode_from_client: Callable[[str | bytes], frames.FromClient] = _decoder(frames.FromClient, "client")  # type: ignore
decode_from_server: Callable[[str | bytes], frames.ToClient] = _decoder(frames.ToClient, "server")  # type: ignore
