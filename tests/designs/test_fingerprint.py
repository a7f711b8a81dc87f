"""What is one's own is told apart by its source and its values."""

from __future__ import annotations

import functools
import subprocess
import sys
from enum import Enum

import pytest
from pydantic import BaseModel

from imsim.designs import fingerprint


class Own(BaseModel):
    mean: float

    def quantile(self, u: float) -> float:
        return self.mean * u


class Policy:
    def __init__(self, share):
        self.share = share

    def choose(self, name):
        return len(name) * self.share


class Same(Policy):
    pass


class Kind(Enum):
    ONE = 1


def shared(one):
    """As a function of one's own would close over it."""
    return fingerprint.function(lambda run: one)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Own(mean=1.0),
        lambda: Own,
        lambda: Policy(2),
        lambda: Policy(2).choose,
        lambda: {"b": [1, None], "a": {"x", "y"}},
        lambda: functools.partial(shared, 3),
        lambda: Kind.ONE,
        lambda: 1.5,
        lambda: (True, b"bytes"),
    ],
)
def test_equal_things_are_the_same(make):
    assert shared(make()) == shared(make())


def test_other_things_are_not():
    things = [Own(mean=1.0), Own(mean=2.0), Own, Policy, Same, Policy(1), Policy(2), Same(1), Policy(1).choose]
    things += [1, 1.5, "1", None, [1], {"1": 1}, {1}, functools.partial(shared, 1), functools.partial(shared, 2), len]
    assert len({shared(thing) for thing in things}) == len(things)


def test_the_order_of_a_mapping_does_not_matter():
    assert shared({"a": 1, "b": 2}) == shared({"b": 2, "a": 1})


def test_functions_without_a_source_are_told_by_their_code():
    """As those typed at a prompt."""
    names: dict[str, object] = {"__name__": "__main__"}
    exec("def one(run): return 1\ndef two(run): return 2\ndef again(run): return 1\nagain.__qualname__ = 'one'", names)
    one, two, again = (fingerprint.function(names[name]) for name in ("one", "two", "again"))
    assert one == again != two


def test_own_distributions_without_a_source_are_told_by_their_code():
    names: dict[str, object] = {"__name__": "__main__"}
    text = "import imsim\nclass One(imsim.OwnDistribution):\n    def quantile(self, u):\n        return {}\n"
    found = []
    for value in ("u", "u", "u + 1"):
        exec(text.format(value), names)
        found.append(shared(names["One"]))
    assert found[0] == found[1] != found[2]


def test_it_is_the_same_in_another_process(tmp_path):
    """Whatever the order of sets there."""
    (tmp_path / "mine.py").write_text("NAMES = {'a', 'b', 'c', 'd'}\ndef late(run, names=NAMES): return 1\n")
    program = "import mine; from imsim.designs import fingerprint as f; print(f.function(mine.late))"
    printed = {
        subprocess.run(
            [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {program}"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for _ in range(2)
    }
    assert len(printed) == 1
    assert len(printed.pop().strip()) == 64
