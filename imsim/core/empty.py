"""Shared empty containers, which save memory.

Each device, user and conversation has several containers, and most of them stay empty. There can be a hundred thousand
devices, and an empty container takes 56 to 216 bytes. The shared ones can be read like any other, but not changed. An
owner creates its own container before it adds something: `self._late = self._late or {}`.
"""

from __future__ import annotations

from typing import Any, NoReturn


def _refuse(*_: object, **__: object) -> NoReturn:
    raise TypeError("this empty container is shared; create a new one before you add to it")


class _NoDict(dict[Any, Any]):
    __slots__ = ()
    __setitem__ = setdefault = update = __ior__ = _refuse


class _NoList(list[Any]):
    __slots__ = ()
    append = insert = extend = __iadd__ = _refuse


NO_DICT: dict[Any, Any] = _NoDict()
NO_LIST: list[Any] = _NoList()
NO_NAMES: frozenset[str] = frozenset()
