"""Fast codecs for frames whose fields are plain values: msgspec takes a quarter of the time that pydantic takes.

msgspec refuses with other texts, and it treats some special cases differently. So these functions handle only the plain
case, and raise `NotPlain` otherwise: for an invalid frame, an unknown key, an attachment, or half a surrogate pair. The
codec then uses pydantic, which decides. For a plain frame both give the same, as the tests check.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable, Iterable
from operator import attrgetter
from typing import Any

import msgspec

from imsim.core.model import Code, Scene

_SCALARS = (str, int, bool, Scene, Code)  # not float, because the two libraries write floats differently

#: The exceptions that msgspec raises for a text or a frame that is not plain.
NotPlain = (msgspec.MsgspecError, UnicodeError, RecursionError, TypeError)


def readers(kinds: Iterable[Any], alias: Callable[[str], str]) -> dict[bytes, Callable[[bytes], Any]]:
    """Return the function that reads a frame, by the beginning of its text up to the first comma or the last brace.

    Only frames that begin with their `op`, written without spaces, are plain.
    """
    found = {}
    for kind in kinds:
        if _is_plain(kind):
            found[b'{"op":"%s"' % kind.op.encode()] = _reader(kind, alias)
    return found


def writers(kinds: Iterable[Any], alias: Callable[[str], str]) -> dict[Any, Callable[[Any], bytes]]:
    """Return the function that writes a frame, by its class."""
    return {kind: _writer(kind, alias) for kind in kinds if _is_plain(kind)}


def _reader(kind: Any, alias: Callable[[str], str]) -> Callable[[bytes], Any]:
    read = msgspec.json.Decoder(_struct(kind, alias, forbid_unknown_fields=True, **_tag(kind))).decode
    values = msgspec.structs.astuple
    if (part := _part(kind)) is None:
        return lambda text: kind(*values(read(text)))
    name, inner = part
    get = attrgetter(name)
    return lambda text: kind(inner(*values(get(read(text)))))


def _writer(kind: Any, alias: Callable[[str], str]) -> Callable[[Any], bytes]:
    struct = _struct(kind, alias, omit_defaults=True, **_tag(kind))
    write = msgspec.json.Encoder(enc_hook=_exact).encode
    if (part := _part(kind)) is None:
        values = _values(kind)
        return lambda frame: write(struct(*values(frame)))
    name, inner = part
    get, values, inner_struct = attrgetter(name), _values(inner), typing.get_type_hints(struct)[name]
    return lambda frame: write(struct(inner_struct(*values(get(frame)))))


def _tag(kind: Any) -> dict[str, str]:
    """Return the options of msgspec for a frame, whose key "op" names its class."""
    return {"tag_field": "op", "tag": kind.op}


def _exact(value: object) -> str:
    """Return the value of a subclass of str, which msgspec does not know, as a str."""
    if isinstance(value, str):
        return str.__str__(value)
    raise NotImplementedError


def _is_plain(kind: Any) -> bool:
    """Return whether all frames of this class can be plain."""
    if (part := _part(kind)) is not None:
        _, kind = part
    return all(set(_alternatives(hint)) <= {*_SCALARS, types.NoneType} for hint in _hints(kind).values())


def _part(kind: Any) -> tuple[str, Any] | None:
    """Return the name and the class of a frame's only field if it contains an object, such as a message."""
    fields = list(_hints(kind).items())
    return fields[0] if len(fields) == 1 and dataclasses.is_dataclass(fields[0][1]) else None


def _hints(kind: Any) -> dict[str, Any]:
    """Return the types of the fields. Only a `file` that is None is plain."""
    hints = typing.get_type_hints(kind)
    names = [field.name for field in dataclasses.fields(kind)]
    return {name: types.NoneType if name == "file" else hints[name] for name in names}


def _alternatives(hint: Any) -> tuple[Any, ...]:
    is_union = typing.get_origin(hint) in (types.UnionType, typing.Union)
    return typing.get_args(hint) if is_union else (hint,)


def _struct(kind: Any, alias: Callable[[str], str], **options: Any) -> Any:
    """Return a class of msgspec with the fields of `kind`."""
    fields: list[Any] = []
    hints = _hints(kind)
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        if dataclasses.is_dataclass(hint):
            hint = _struct(hint, alias, **{name: options[name] for name in options if "tag" not in name})
        default = () if field.default is dataclasses.MISSING else (field.default,)
        fields.append((field.name, hint, *default))
    return msgspec.defstruct(kind.__name__, fields, rename=alias, gc=False, **options)


def _values(kind: Any) -> Callable[[Any], tuple[Any, ...]]:
    """Return a function that returns the values of all fields of a `kind`, which are scalars."""
    names = list(_hints(kind))
    if not names:
        return lambda source: ()
    get: Callable[[Any], Any] = attrgetter(*names)
    if len(names) == 1:
        return lambda source: (get(source),)
    if "file" not in names:
        return get

    def check(source: Any) -> tuple[Any, ...]:
        if source.file is not None or type(source.type) is not str:  # msgspec compares an enumeration by identity
            raise msgspec.ValidationError("an attachment is not plain")
        return tuple(get(source))

    return check
