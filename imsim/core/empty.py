"""Stand-ins for containers that are still empty, as most are of those that a device, a user or a conversation may need.

There may be a hundred thousand of each, and an empty container takes 56 to 216 bytes. These are shared, read like any
other, and refuse additions. The owner makes one of its own before it adds something: `self._late = self._late or {}`.
"""

from __future__ import annotations

from typing import Any, NoReturn


def _refuse(*_: object, **__: object) -> NoReturn:
    raise TypeError("this empty container is shared: make one of your own before you add to it")


class _NoDict(dict[Any, Any]):
    __slots__ = ()
    __setitem__ = setdefault = update = __ior__ = _refuse


class _NoList(list[Any]):
    __slots__ = ()
    append = insert = extend = __iadd__ = _refuse


NO_DICT: dict[Any, Any] = _NoDict()
NO_LIST: list[Any] = _NoList()
NO_NAMES: frozenset[str] = frozenset()
