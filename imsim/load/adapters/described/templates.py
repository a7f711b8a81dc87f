"""Templates: JSON documents, addresses and headers with placeholders such as `{user}`.

A template of a frame is a JSON document. Placeholders are in its strings, and each value is written as JSON. So no
value can end a string or add a field. A string that is only a placeholder becomes the value with its own type:
`"{n}"` becomes `7`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from math import isfinite
from typing import Any
from urllib.parse import quote

import msgspec

from imsim.scenario.errors import suggestion

JSON = "$json"
"""A table with this key only is a string that contains JSON: `{"$json" = {a = 1}}` is `"{\\"a\\":1}"`."""

FRAME = "frame."
"""The beginning of a placeholder for a value of the received frame: `{frame.message.seq}`."""

_PLACEHOLDER = re.compile(r"\{\{([A-Za-z][\w.$-]*)\}\}|\{([A-Za-z][\w.$-]*)\}")
_RAW = frozenset({"url", "http"})  # addresses, which already have the form of an address


def _plain_text(value: object) -> str:
    """Return the text of a subclass of `str`, which msgspec does not write."""
    if isinstance(value, str):
        return str(value)
    raise TypeError


_encode = msgspec.json.Encoder(enc_hook=_plain_text).encode
_Encoder = Callable[[Any], bytes]


class TemplateError(ValueError):
    """A template that cannot be used."""


class Name(str):
    """The name of a placeholder, among pieces of plain text."""

    __slots__ = ()


def pieces(text: str) -> list[str]:
    """Split a text at its placeholders. `{{name}}` is the plain text `{name}`; other braces are plain text, too."""
    found: list[str] = []
    at = 0
    for match in _PLACEHOLDER.finditer(text):
        if match[2] is None:
            found.append(text[at : match.start()] + "{" + match[1] + "}")
        else:
            found += [text[at : match.start()], Name(match[2])]
        at = match.end()
    found.append(text[at:])
    return [piece for piece in found if piece]


def check(names: Iterable[str], known: Iterable[str]) -> None:
    """Check that all placeholders are known. If `frame.` is known, so are all values of the frame.

    Raises: TemplateError for the first unknown placeholder.
    """
    known = sorted(known)
    for name in names:
        if name not in known and not (FRAME in known and name.startswith(FRAME)):
            listed = ", ".join("frame.PATH" if one == FRAME else one for one in known)
            raise TemplateError(f"unknown placeholder {{{name}}}{suggestion(name, known)}; known here: {listed}")


def as_text(value: object) -> str:
    """Return a value as it stands inside a longer text."""
    if isinstance(value, str):
        return str(value)
    return "" if value is None else _encode(value).decode()


class Text:
    """A text with placeholders, for addresses, headers and conditions."""

    __slots__ = ("_pieces",)

    def __init__(self, text: str) -> None:
        self._pieces = pieces(text)

    @property
    def names(self) -> frozenset[str]:
        """The names of the placeholders."""
        return frozenset(piece for piece in self._pieces if isinstance(piece, Name))

    def fill(self, values: Mapping[str, object]) -> str:
        """Return the text with these values."""
        return "".join(as_text(values[one]) if isinstance(one, Name) else one for one in self._pieces)

    def fill_url(self, values: Mapping[str, object]) -> str:
        """Return the text as a URL: all values are percent-encoded, except `url` and `http`."""
        return "".join(
            one if not isinstance(one, Name) else as_text(values[one]) if one in _RAW else _quoted(values[one])
            for one in self._pieces
        )


def _quoted(value: object) -> str:
    return quote(as_text(value), safe="")


class Template:
    """A JSON document with placeholders, ready to be written.

    names: the names of the placeholders.
    """

    __slots__ = ("_head", "_rest", "names")

    def __init__(self, parts: Iterable[bytes | tuple[str, _Encoder]]) -> None:
        constants, fields = [b""], []
        for part in parts:
            if isinstance(part, bytes):
                constants[-1] += part
            else:
                fields.append(part)
                constants.append(b"")
        self._head = constants[0]
        self._rest = tuple((name, encoder, after) for (name, encoder), after in zip(fields, constants[1:], strict=True))
        self.names = frozenset(name for name, _ in fields)

    def bind(self, values: Mapping[str, object]) -> Template:
        """Return the template in which these values are constant."""
        if self.names.isdisjoint(values):
            return self
        parts: list[bytes | tuple[str, _Encoder]] = [self._head]
        for name, encoder, after in self._rest:
            parts += [encoder(values[name]) if name in values else (name, encoder), after]
        return Template(parts)

    def render(self, values: Mapping[str, object]) -> bytes:
        """Return the document with these values."""
        written = [self._head]
        for name, encoder, after in self._rest:
            written.append(encoder(values[name]))
            written.append(after)
        return b"".join(written)


def compiled(document: object, before: str = "") -> Template:
    """Return the template of a document.

    before: a text in front of the document, with placeholders.
    """
    parts: list[bytes | tuple[str, _Encoder]] = [
        (str(piece), _plain) if isinstance(piece, Name) else piece.encode() for piece in pieces(before)
    ]
    _write(document, 0, parts)
    return Template(parts)


def compiled_text(text: str) -> Template:
    """Return the template of a plain text without placeholders."""
    return Template([text.encode()])


def _write(document: object, depth: int, parts: list[bytes | tuple[str, _Encoder]]) -> None:
    """Add the parts of a document. `depth` counts the strings around it that contain it as JSON."""
    if isinstance(document, dict):
        if list(document) == [JSON]:
            parts.append(_escaped(b'"', depth))
            _write(document[JSON], depth + 1, parts)
            parts.append(_escaped(b'"', depth))
            return
        for number, (key, value) in enumerate(document.items()):
            parts.append(b"," if number else b"{")
            _write_text(key, depth, parts, is_key=True)
            parts.append(b":")
            _write(value, depth, parts)
        parts.append(b"}" if document else b"{}")
    elif isinstance(document, list):
        for number, value in enumerate(document):
            parts.append(b"," if number else b"[")
            _write(value, depth, parts)
        parts.append(b"]" if document else b"[]")
    elif isinstance(document, str):
        _write_text(document, depth, parts)
    elif document is None or isinstance(document, bool | int) or (isinstance(document, float) and isfinite(document)):
        parts.append(_escaped(_encode(document), depth))
    else:
        raise TemplateError(f"expected JSON, got {document!r}")


def _write_text(text: str, depth: int, parts: list[bytes | tuple[str, _Encoder]], is_key: bool = False) -> None:
    found = pieces(text)
    if len(found) == 1 and isinstance(found[0], Name) and not is_key:
        parts.append((str(found[0]), _at_depth(_encode, depth)))
        return
    quotation = _escaped(b'"', depth)
    parts.append(quotation)
    for piece in found:
        if isinstance(piece, Name):
            parts.append((str(piece), _at_depth(_inside, depth)))
        else:
            parts.append(_escaped(_inside(piece), depth))
    parts.append(quotation)


def _inside(value: object) -> bytes:
    """Return a value as a part of a JSON string."""
    return _encode(value if type(value) is str else as_text(value))[1:-1]


def _plain(value: object) -> bytes:
    return as_text(value).encode()


def _escaped(data: bytes, depth: int) -> bytes:
    for _ in range(depth):
        data = _encode(data.decode())[1:-1]
    return data


def _at_depth(encoder: _Encoder, depth: int) -> _Encoder:
    return encoder if depth == 0 else lambda value: _escaped(encoder(value), depth)
