"""What the types of message carry in `file`: which fields, and what each may hold.

Fields beyond these are carried untouched, and so is any attachment of a type that is not known here: both are a newer
client's. A length of time is in seconds, a size in bytes, width and height in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from imsim.core.exceptions import BadAttachment
from imsim.core.model import MessageType

#: Levels of lists and objects in an attachment. Whoever carries a message on wraps it into more of them, and readers of
#: JSON have limits of their own (200 is common): a message beyond one could be fetched by nobody any more, nor whatever
#: shares a page with it.
DEEPEST = 32

_MOST = 2**53 - 1  # beyond it not every client reads a whole number exactly


@dataclass(frozen=True, slots=True)
class Text:
    shortest: int
    longest: int  # in characters

    def fits(self, value: object) -> bool:
        return isinstance(value, str) and self.shortest <= len(value) <= self.longest

    def __str__(self) -> str:
        return f"text of {self.shortest} to {self.longest} characters"


@dataclass(frozen=True, slots=True)
class Number:
    unit: str
    least: int
    most: int = _MOST
    whole: bool = True

    def fits(self, value: object) -> bool:
        """NaN lies between no two numbers, and the infinities do not either; true and false are no numbers."""
        kinds = int if self.whole else (int, float)
        return isinstance(value, kinds) and not isinstance(value, bool) and self.least <= value <= self.most

    def __str__(self) -> str:
        kind = "a whole number" if self.whole else "a number"
        return f"{kind} of {self.unit} from {self.least} to {'2^53-1' if self.most == _MOST else self.most}"


@dataclass(frozen=True, slots=True)
class Texts:
    each: Text

    def fits(self, value: object) -> bool:
        return isinstance(value, list) and all(self.each.fits(one) for one in value)

    def __str__(self) -> str:
        return f"a list, each {self.each}"


@dataclass(frozen=True, slots=True)
class Anything:
    """An object whose content is the sender's business."""

    def fits(self, value: object) -> bool:
        return isinstance(value, dict)

    def __str__(self) -> str:
        return "an object"


Field = Text | Number | Texts | Anything

_URL = Text(1, 2048)
_FORMAT = Text(1, 64)  # as in "mp4" or "video/mp4"
_NAME = Text(1, 64)
_BYTES = Number("bytes", 0)
_RECORDING: Mapping[str, Field] = {
    "url": _URL,
    "duration": Number("seconds", 0, whole=False),
    "size": _BYTES,
    "format": _FORMAT,
}

#: By type of message, the fields that its attachment must have; none: it has no attachment.
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

#: A valid attachment of each type that carries one for its own sake: what a simulated user sends.
EXAMPLES: Mapping[str, Mapping[str, object]] = {
    MessageType.IMAGE: {"url": "https://example.com/1", "width": 640, "height": 480, "size": 0},
    MessageType.AUDIO: {"url": "https://example.com/1", "duration": 1.0, "size": 0, "format": "m4a"},
    MessageType.VIDEO: {"url": "https://example.com/1", "duration": 1.0, "size": 0, "format": "mp4"},
    MessageType.FILE: {"url": "https://example.com/1", "size": 0, "format": "pdf"},
    MessageType.GEO: {"title": "here", "longitude": 0.0, "latitude": 0.0},
}

#: These may come without their attachment: a notice that says all in its text.
OPTIONAL = frozenset({MessageType.NOTIFICATION})


def check_attachment(type: str, file: dict[str, object] | None) -> None:
    """Whether a message of this type may carry this attachment.

    Raises: BadAttachment, naming the field and what was expected there.
    """
    fields = ATTACHMENTS.get(type)
    if fields is None:
        return
    if not fields:
        if file is not None:
            where = "the payload goes into custom" if type == MessageType.CUSTOM else "give the type that has it"
            raise BadAttachment(f"file: a message of type {type} has no attachment; leave it out, or {where}")
        return
    needs = f"the attachment of type {type} has {', '.join(fields)}"
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
    """Why the value cannot be carried as JSON; "" if it can. What came as JSON can hold all of these but the last: a
    number may be too large, and "\\ud800" is half of a character."""
    if isinstance(value, str):
        if value.isascii():
            return ""
        try:
            value.encode()
        except UnicodeEncodeError:
            return "half a surrogate pair is not a character"
        return ""
    if value is None or isinstance(value, int):
        return ""
    if isinstance(value, float):
        return "" if math.isfinite(value) else "JSON has neither infinity nor NaN"
    if isinstance(value, dict | list):
        if not levels:
            return f"nested too deep: lists and objects have at most {DEEPEST} levels"
        parts = (*value, *value.values()) if isinstance(value, dict) else value
        return next((fault for part in parts if (fault := json_fault(part, levels - 1))), "")
    return f"{type(value).__name__} is nothing that JSON has"


def _shown(value: object) -> str:
    """The value on one short line, much as it stands in JSON."""
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
