"""Attachments: the fields that the `file` of each message type must have, and their permitted values.

The server carries additional fields unchanged. It also carries any attachment of an unknown type. Both can come from
newer clients. A duration is in seconds, a size in bytes, width and height in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from imsim.core.exceptions import BadAttachment
from imsim.core.model import MessageType

#: The maximum of nested lists and objects in an attachment. The frames around a message add further levels, and JSON
#: parsers have limits (200 is common). Beyond such a limit, clients could not read the message, nor any page with it.
DEEPEST = 32

_MOST = 2**53 - 1  # some clients cannot read larger whole numbers exactly


@dataclass(frozen=True, slots=True)
class Text:
    """A text with a minimum and a maximum length."""

    shortest: int
    longest: int  # in characters

    def fits(self, value: object) -> bool:
        return isinstance(value, str) and self.shortest <= len(value) <= self.longest

    def __str__(self) -> str:
        return f"text of {self.shortest} to {self.longest} characters"


@dataclass(frozen=True, slots=True)
class Number:
    """A number in a unit, with a minimum and a maximum. A `whole` number is an integer."""

    unit: str
    least: int
    most: int = _MOST
    whole: bool = True

    def fits(self, value: object) -> bool:
        """Return whether the value is a number within the limits. NaN, the infinities and booleans are not."""
        kinds = int if self.whole else (int, float)
        return isinstance(value, kinds) and not isinstance(value, bool) and self.least <= value <= self.most

    def __str__(self) -> str:
        kind = "a whole number" if self.whole else "a number"
        return f"{kind} of {self.unit} from {self.least} to {'2^53-1' if self.most == _MOST else self.most}"


@dataclass(frozen=True, slots=True)
class Texts:
    """A list of texts."""

    each: Text

    def fits(self, value: object) -> bool:
        return isinstance(value, list) and all(self.each.fits(one) for one in value)

    def __str__(self) -> str:
        return f"a list, each item a {self.each}"


@dataclass(frozen=True, slots=True)
class Anything:
    """An object whose content is not checked."""

    def fits(self, value: object) -> bool:
        return isinstance(value, dict)

    def __str__(self) -> str:
        return "an object"


Field = Text | Number | Texts | Anything

_URL = Text(1, 2048)
_FORMAT = Text(1, 64)  # such as "mp4" or "video/mp4"
_NAME = Text(1, 64)
_BYTES = Number("bytes", 0)
_RECORDING: Mapping[str, Field] = {
    "url": _URL,
    "duration": Number("seconds", 0, whole=False),
    "size": _BYTES,
    "format": _FORMAT,
}

#: The required fields of the attachment, by message type. A type without fields must not have an attachment.
ATTACHMENTS: Mapping[str, Mapping[str, Field]] = {
    MessageType.TEXT: {},
    MessageType.IMAGE: {"url": _URL, "width": Number("pixels", 1), "height": Number("pixels", 1), "size": _BYTES},
    MessageType.AUDIO: _RECORDING,
    MessageType.VIDEO: _RECORDING,
    MessageType.FILE: {"url": _URL, "size": _BYTES, "format": _FORMAT},
    MessageType.GEO: {
        "title": Text(0, 256),
        "longitude": Number("degrees", -180, 180, whole=False),
        "latitude": Number("degrees", -90, 90, whole=False),
    },
    MessageType.NOTIFICATION: {"event": _NAME, "operator": _NAME, "targets": Texts(_NAME), "data": Anything()},
    MessageType.CUSTOM: {},
}

#: A valid attachment for each type that users send with an attachment. Simulated users send these.
EXAMPLES: Mapping[str, Mapping[str, object]] = {
    MessageType.IMAGE: {"url": "https://example.com/1", "width": 640, "height": 480, "size": 0},
    MessageType.AUDIO: {"url": "https://example.com/1", "duration": 1.0, "size": 0, "format": "m4a"},
    MessageType.VIDEO: {"url": "https://example.com/1", "duration": 1.0, "size": 0, "format": "mp4"},
    MessageType.FILE: {"url": "https://example.com/1", "size": 0, "format": "pdf"},
    MessageType.GEO: {"title": "here", "longitude": 0.0, "latitude": 0.0},
}

#: The types whose attachment may be absent. A notification without one is a notice whose text says everything.
OPTIONAL = frozenset({MessageType.NOTIFICATION})


def check_attachment(type: str, file: dict[str, object] | None) -> None:
    """Check that a message of this type may have this attachment.

    Raises: BadAttachment, with the field and the expected value.
    """
    fields = ATTACHMENTS.get(type)
    if fields is None:
        return
    if not fields:
        if file is not None:
            other = "put the payload into custom" if type == MessageType.CUSTOM else "use a type that has attachments"
            raise BadAttachment(f"file: a message of type {type} must not have an attachment; remove it, or {other}")
        return
    needs = f"an attachment of type {type} must have {', '.join(fields)}"
    if file is None:
        if type in OPTIONAL:
            return
        raise BadAttachment(f"file: missing; {needs}")
    if not isinstance(file, dict):
        raise BadAttachment(f"file: expected an object, got {_shown(file)}; {needs}")
    for name, field in fields.items():
        if name not in file:
            raise BadAttachment(f"file.{name}: missing; {needs}")
        if not field.fits(file[name]):
            raise BadAttachment(f"file.{name}: expected {field}, got {_shown(file[name])}")


def json_fault(value: object, levels: int = DEEPEST) -> str:
    """Return why the value cannot be sent as JSON, or "" if it can.

    Parsed JSON can have all of these faults except the last one: a number such as 1e999 becomes infinity, and "\\ud800"
    becomes half a surrogate pair.
    """
    if isinstance(value, str):
        if value.isascii():
            return ""
        try:
            value.encode()
        except UnicodeEncodeError:
            return "contains half a surrogate pair, which is not a character"
        return ""
    if value is None or isinstance(value, int):
        return ""
    if isinstance(value, float):
        return "" if math.isfinite(value) else "contains infinity or NaN, which JSON does not have"
    if isinstance(value, dict | list):
        if not levels:
            return f"nested too deeply; use at most {DEEPEST} levels of lists and objects"
        parts = (*value, *value.values()) if isinstance(value, dict) else value
        return next((fault for part in parts if (fault := json_fault(part, levels - 1))), "")
    return f"contains a {type(value).__name__}, which JSON does not have"


def _shown(value: object) -> str:
    """Return the value on one short line, similar to JSON."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        cut = f" and {len(value) - 40} characters more" if len(value) > 40 else ""
        return f'"{repr(value[:40])[1:-1]}"{cut}'
    if isinstance(value, int):
        return str(value) if abs(value) < 10**20 else "a number with more than 20 digits"
    if isinstance(value, float):
        return repr(value)
    return "a list" if isinstance(value, list) else "an object"
