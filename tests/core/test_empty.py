"""The shared empty containers: they can be read like any other, but not filled."""

from __future__ import annotations

import pytest

from imsim.core.empty import NO_DICT, NO_LIST, NO_NAMES


def test_shared_containers_can_be_read_like_any_other():
    assert not NO_DICT
    assert not NO_LIST
    assert not NO_NAMES
    assert NO_DICT.get("a") is None
    assert NO_DICT.pop("a", None) is None
    assert [*NO_DICT.values(), *NO_LIST] == []


@pytest.mark.parametrize(
    "add",
    [
        lambda: NO_DICT.__setitem__("a", 1),
        lambda: NO_DICT.setdefault("a", 1),
        lambda: NO_DICT.update(a=1),
        lambda: NO_DICT.__ior__({"a": 1}),
        lambda: NO_LIST.append(1),
        lambda: NO_LIST.insert(0, 1),
        lambda: NO_LIST.extend([1]),
        lambda: NO_LIST.__iadd__([1]),
    ],
)
def test_shared_containers_refuse_additions(add):
    with pytest.raises(TypeError, match="create a new one before you add to it"):
        add()
