"""The codec: it converts frames to JSON text and back, with pydantic on the core's own dataclasses.

Frames with plain values take a faster way (`plain`), with the same results.

One frame is one JSON object. `op` names the type of the frame; the other keys are its fields in camelCase (`sender` is
"from"). A field with its default value may be absent, in both directions. The codec ignores an unknown key, so that a
newer client can talk to an older server.
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
from imsim.wire import plain


class WireError(ValueError):
    """A text is not a valid frame. The message is one line; it names the field."""


class UnknownOp(WireError):
    """A frame has an unknown `op`. It may be of another version of the protocol; a client should ignore it."""


class BadRequest(WireError):
    """A request has an invalid field, but `op`, `ref` and `number` identify it, so that the server can reject it.

    `text` describes the error; it names the field.
    """

    def __init__(self, op: str, ref: str, number: int, text: str) -> None:
        super().__init__(f"{op}.{text}")
        self.op = op
        self.ref = ref
        self.number = number
        self.text = text


def alias(name: str) -> str:
    """Return the name on the wire of a field of the core: in camelCase, and "from" for `sender`."""
    return "from" if name == "sender" else to_camel(name)


# `__pydantic_config__` is pydantic's documented way to configure a dataclass of the standard library. This module sets
# it, because the core must not depend on pydantic.
for _class in (*get_args(frames.FromClient), *get_args(frames.ToClient), *frames.PARTS, Message, ConversationState):
    _class.__pydantic_config__ = ConfigDict(alias_generator=alias, extra="ignore")

ADAPTERS: dict[Any, TypeAdapter[Any]] = {
    frame: TypeAdapter(frame) for frame in (*get_args(frames.FromClient), *get_args(frames.ToClient))
}
_WRITERS = plain.writers(ADAPTERS, alias)
_PREFIXES = {frame: b'{"op":"%s"' % frame.op.encode() for frame in ADAPTERS}


def encode(frame: frames.FromClient | frames.ToClient) -> bytes:
    """Return the frame as JSON in UTF-8.

    The same frame gives the same bytes, so a server can encode a frame once for many recipients.
    """
    write = _WRITERS.get(type(frame))
    if write is not None:
        try:
            return write(frame)
        except plain.NotPlain:
            pass
    return _encode(frame)


def _encode(frame: frames.FromClient | frames.ToClient) -> bytes:
    kind = type(frame)
    adapter = ADAPTERS[kind]
    try:
        body = adapter.dump_json(frame, by_alias=True, exclude_defaults=True)
    except pydantic_core.PydanticSerializationError:  # a lone surrogate: send it as an escape; the receiver refuses it
        body = json.dumps(adapter.dump_python(frame, by_alias=True, exclude_defaults=True)).encode()
    if body == b"{}":
        return _PREFIXES[kind] + b"}"
    return _PREFIXES[kind] + b"," + body[1:]


def _strict(schema: Any) -> Any:
    """Return the pydantic schema with strict scalars: it accepts neither "7" nor 7.0 nor true as the integer 7.

    The integer 7 remains valid for a float. Only these four types are strict. If all types were strict, pydantic would
    require instances of dataclasses and enumerations, which JSON does not have.
    """
    if isinstance(schema, list):
        return [_strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {key: _strict(part) for key, part in schema.items()}
    return {**strict, "strict": True} if schema.get("type") in ("int", "str", "bool", "float") else strict


_Frame = TypeVar("_Frame")


def _decoder(direction: _Frame, sender: str) -> Callable[[str | bytes], _Frame]:
    """Return the function that decodes the frames that `sender`, a client or a server, sends."""
    readers: Mapping[object, tuple[type, pydantic_core.SchemaValidator]] = {
        frame.op: (frame, pydantic_core.SchemaValidator(_strict(ADAPTERS[frame].core_schema)))
        for frame in get_args(direction)
    }

    def decode(text: str | bytes) -> _Frame:
        value, is_plain = _from_json(text)
        if not isinstance(value, dict):
            raise WireError(f"frame: must be a JSON object with the key op (got {type(value).__name__})")
        op = value.get("op")
        kind, reader = readers.get(op, (None, None)) if isinstance(op, str) else (None, None)
        if kind is None or reader is None:
            known = ", ".join(sorted(map(str, readers)))
            raise UnknownOp(f"op: must be an op that a {sender} sends: {known} (got {str(op)[:40]!r})")
        if not is_plain and kind in _REQUESTS:  # only in requests: a client accepts any text that a server has stored
            for key, part in value.items():
                if fault := json_fault(key) or json_fault(part):
                    raise _invalid(kind, value, f"{_replace_surrogates(key[:80])}: {fault}")
        try:
            return cast(_Frame, reader.validate_python(value))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            field = ".".join(str(part)[:80] for part in first["loc"]) or "frame"
            raise _invalid(kind, value, f"{field}: {first['msg']}") from None

    return decode


_REQUESTS = frozenset(get_args(frames.Request))


def _with_plain(direction: object, decode: Callable[[str | bytes], _Frame]) -> Callable[[str | bytes], _Frame]:
    """Return a function that decodes plain frames of this direction itself, and uses `decode` for the others."""
    readers: dict[bytes, Callable[[bytes], _Frame]] = plain.readers(get_args(direction), alias)

    def decode_plain(text: str | bytes) -> _Frame:
        if isinstance(text, bytes):
            read = readers.get(text[: text.find(b",")])
            if read is not None:
                try:
                    return read(text)
                except plain.NotPlain:
                    pass
        return decode(text)

    return decode_plain


def _from_json(text: str | bytes) -> tuple[Any, bool]:
    """Return the JSON value, and whether it is plain.

    A value is not plain if it contains a lone surrogate, NaN or infinity, or hundreds of levels. JSON text can contain
    these, but not every JSON parser accepts them.
    """
    try:
        return pydantic_core.from_json(text, allow_inf_nan=False), True
    except ValueError as error:
        try:
            return json.loads(text if isinstance(text, str) else text.decode()), False
        except (ValueError, RecursionError):
            raise WireError(f"frame: not JSON: {error}") from None


def _invalid(kind: type, value: Mapping[str, Any], text: str) -> WireError:
    """Return the error for an invalid frame: a BadRequest if the frame identifies a request, otherwise a WireError."""
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
        except AttributeError:  # the fields that identify the request are missing
            return WireError(f"{op}.{text}")
        if isinstance(ref, str) and type(number) is int:
            return BadRequest(op, _replace_surrogates(ref), number, text)
    return WireError(f"{op}.{text}")


def _replace_surrogates(text: str) -> str:
    """Return the text with U+FFFD instead of each lone surrogate, because UTF-8 cannot encode lone surrogates."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


# mypy does not accept a union as a type that is passed as a value.
decode_from_client: Callable[[str | bytes], frames.FromClient] = _with_plain(
    frames.FromClient,
    _decoder(frames.FromClient, "client"),  # type: ignore[arg-type]
)
decode_from_server: Callable[[str | bytes], frames.ToClient] = _with_plain(
    frames.ToClient,
    _decoder(frames.ToClient, "server"),  # type: ignore[arg-type]
)
