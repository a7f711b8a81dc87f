"""Frames to JSON text and back, by pydantic over the core's own dataclasses.

One frame is one JSON object: `op` says which, the other keys are its fields in camelCase (`sender` is "from"). A field
that has its default may be absent, both ways; an unknown key is ignored, so that a newer client can talk to an older
server.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast, get_args

import pydantic_core
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.alias_generators import to_camel

from imsim.core import frames
from imsim.core.model import Message, Place


class WireError(ValueError):
    """A text that is no frame; its message is one line that names the field."""


class LoneSurrogate(WireError):
    """A text in the frame has half a surrogate pair (JSON can write it: "\\ud800"), which is no character, and has no
    UTF-8. `frame` is the frame with U+FFFD in its place."""

    def __init__(self, frame: frames.FromClient | frames.ToClient, field: str) -> None:
        super().__init__(f"{field}: half a surrogate pair is no character")
        self.frame = frame


def alias(name: str) -> str:
    return "from" if name == "sender" else to_camel(name)


# Pydantic's documented hook for the configuration of a standard library dataclass; set from here, because the core
# knows nothing of pydantic.
for _class in (*get_args(frames.FromClient), *get_args(frames.ToClient), Message, Place):
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


_Frame = TypeVar("_Frame")


def _decoder(direction: _Frame, whose: str) -> Callable[[str | bytes], _Frame]:
    adapters: Mapping[object, TypeAdapter[Any]] = {frame.op: ADAPTERS[frame] for frame in get_args(direction)}

    def decode(text: str | bytes) -> _Frame:
        try:
            value = pydantic_core.from_json(text, allow_inf_nan=False)  # JSON has neither
        except ValueError as error:
            mended, field = _without_halves(text)
            if not field:
                raise WireError(f"not JSON: {error}") from None
            raise LoneSurrogate(cast(Any, decode(mended)), field) from None
        if not isinstance(value, dict):
            raise WireError("a frame is a JSON object with an op")
        op = value.get("op")
        adapter = adapters.get(op) if isinstance(op, str) else None
        if adapter is None:
            raise WireError(
                f"op: {str(op)[:40]!r} is no frame of a {whose}; there are {', '.join(sorted(map(str, adapters)))}"
            )
        try:
            return cast(_Frame, adapter.validate_python(value))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            field = ".".join(str(part) for part in first["loc"]) or "frame"
            raise WireError(f"{op}.{field}: {first['msg']}") from None

    return decode


def _without_halves(text: str | bytes) -> tuple[str, str]:
    """The JSON with U+FFFD for each half of a surrogate pair that stands alone, and the first key whose value has one;
    "" if none has, or it is no JSON object at all."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return "", ""
    for key, part in value.items() if isinstance(value, dict) else ():
        if _mended(written := json.dumps([key, part], ensure_ascii=False)) != written:
            return _mended(json.dumps(value, ensure_ascii=False)), str(key)
    return "", ""


def _mended(text: str) -> str:
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


decode_from_client: Callable[[str | bytes], frames.FromClient] = _decoder(frames.FromClient, "client")  # type: ignore
decode_from_server: Callable[[str | bytes], frames.ToClient] = _decoder(frames.ToClient, "server")  # type: ignore
