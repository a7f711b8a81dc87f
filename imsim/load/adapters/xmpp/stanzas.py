"""Stanzas as XML: reading them safely, and the text and the addresses in them."""

from __future__ import annotations

import base64
import re
from typing import Final
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

CLIENT: Final = "{jabber:client}"
SASL: Final = "{urn:ietf:params:xml:ns:xmpp-sasl}"
SM: Final = "{urn:xmpp:sm:3}"

_ILLEGAL = r"\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff"  # the characters that XML cannot carry
_SPECIAL = re.compile(f"[<>&'\r{_ILLEGAL}]")
_ENTITIES = {"<": "&lt;", ">": "&gt;", "&": "&amp;", "'": "&apos;", "\r": "&#13;"}
_UNSAFE_IN_NAMES = re.compile("[^a-z0-9._-]+")
_ESCAPED_IN_NAMES = re.compile("(?:=[0-9a-f]{2})+")
_TEXT = "{urn:ietf:params:xml:ns:xmpp-streams}text", "{urn:ietf:params:xml:ns:xmpp-stanzas}text", f"{SASL}text"


class Refusal(Exception):
    """The server does not let the device in, or broke the protocol.

    passes: whether a later attempt can succeed.
    """

    def __init__(self, reason: str, *, passes: bool = False) -> None:
        super().__init__(reason)
        self.passes = passes


def parse(frame: bytes) -> Element:
    """Return the element of a frame.

    A frame must begin with its root element (RFC 7395), in UTF-8. So a frame cannot have a DTD, which XML allows only
    before the root: no entity can be defined, and nothing expands.

    Raises: Refusal
    """
    if frame[:1] != b"<" or not frame[1:2].isalpha():
        raise Refusal(f"the server sent a frame that does not begin with an element: {frame[:80]!r}")
    try:
        return ElementTree.fromstring(frame)
    except (ElementTree.ParseError, ValueError) as error:
        raise Refusal(f"the server sent a frame that is not XML: {error}: {frame[:80]!r}") from None


def number(element: Element, name: str) -> int:
    """Return an attribute that counts stanzas.

    Raises: Refusal if it is not a number.
    """
    text = element.get(name, "")
    if not (text.isascii() and text.isdecimal() and len(text) < 12):
        raise Refusal(f"the server sent {name}={text!r}, which must be a number")
    return int(text)


def escaped(text: str) -> str:
    """Return the text as XML, for an element or for an attribute in single quotes.

    A character that XML cannot carry is replaced by U+FFFD.
    """
    if _SPECIAL.search(text) is None:
        return text
    return _SPECIAL.sub(lambda match: _ENTITIES.get(match[0], "\ufffd"), text)


def condition_of(element: Element) -> tuple[str, str]:
    """Return the condition and the text of a stanza error, a stream error or a failure."""
    error = element.find(f"{CLIENT}error")
    condition, text = "undefined-condition", ""
    for child in element if error is None else error:
        if child.tag in _TEXT:
            text = child.text or ""
        elif condition == "undefined-condition":
            condition = child.tag.rpartition("}")[2]
    return condition, text


def described(element: Element) -> str:
    """Return the condition and the text as one phrase."""
    condition, text = condition_of(element)
    return f"{condition} ({text})" if text else condition


def node_of(name: str) -> str:
    """Return the local part of the address of a user or a room.

    Servers fold local parts to lower case. So any character except a-z, 0-9, dot, underscore and hyphen becomes `=` and
    two hexadecimal digits for each byte.
    """
    return _UNSAFE_IN_NAMES.sub(lambda match: "".join(f"={byte:02x}" for byte in match[0].encode()), name)


def name_of(node: str) -> str:
    """Return the name whose local part this is."""
    return _ESCAPED_IN_NAMES.sub(lambda match: bytes.fromhex(match[0].replace("=", "")).decode(errors="replace"), node)


def base64_of(text: str) -> str:
    """Return the base64 of the text in UTF-8."""
    return base64.b64encode(text.encode()).decode()


def from_base64(text: str | None) -> str:
    """Return the text whose base64 this is.

    Raises: Refusal
    """
    try:
        return base64.b64decode(text or "", validate=True).decode()
    except ValueError:
        raise Refusal(f"the server sent {text!r}, which is not base64 of a text") from None
