"""Digests of custom parts and metrics: they cover the code, the values, and all referred objects."""

from __future__ import annotations

import functools
import importlib
import os
import runpy
import subprocess
import sys
from enum import Enum

import numpy as np
import pandas as pd
import pytest
from pydantic import BaseModel

from imsim.experiments import fingerprint


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
    """Return a function that closes over the object, as a user's function would."""
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
def test_equal_objects_have_equal_digests(make):
    assert shared(make()) == shared(make())


def test_different_objects_have_different_digests():
    things = [Own(mean=1.0), Own(mean=2.0), Own, Policy, Same, Policy(1), Policy(2), Same(1), Policy(1).choose]
    things += [1, 1.5, "1", None, [1], {"1": 1}, {1}, functools.partial(shared, 1), functools.partial(shared, 2), len]
    assert len({shared(thing) for thing in things}) == len(things)


def test_digest_ignores_order_of_mapping():
    assert shared({"a": 1, "b": 2}) == shared({"b": 2, "a": 1})


def test_functions_without_source_are_digested_by_code():
    """Functions that are typed at a prompt have no source."""
    names: dict[str, object] = {"__name__": "__main__"}
    exec("def one(run): return 1\ndef two(run): return 2\ndef again(run): return 1\nagain.__qualname__ = 'one'", names)
    one, two, again = (fingerprint.function(names[name]) for name in ("one", "two", "again"))
    assert one == again != two


def test_distributions_without_source_are_digested_by_code():
    names: dict[str, object] = {"__name__": "__main__"}
    text = "import imsim\nclass One(imsim.CustomDistribution):\n    def quantile(self, u):\n        return {}\n"
    found = []
    for value in ("u", "u", "u + 1"):
        exec(text.format(value), names)
        found.append(shared(names["One"]))
    assert found[0] == found[1] != found[2]


WHOLE = """
import collections, dataclasses, datetime, enum, functools, re
import numpy as np, pandas as pd
import imsim
from imsim.experiments import fingerprint
import helper

BOUND = 100
NAMES = {"a", "b", "c", "d"}
FRAME = pd.DataFrame({"name": ["x", "y"], "value": [1.5, 2.5], "kind": pd.Categorical(["u", "v"])})

class Shape(enum.Enum):
    LONG = 1

@dataclasses.dataclass
class Rule:
    bounds: list = dataclasses.field(default_factory=lambda: [1, 2])
    when: object = datetime.date(2026, 1, 1)

class Base:
    pauses = [0.05]
    def __init__(self, tier, table=None):
        self.table = table
    @classmethod
    def of(cls): return cls(None)
    @property
    def share(self): return self.pauses[0]

class Station(Base):
    __slots__ = ("more",)
    def __init__(self, tier, table=None):
        super().__init__(tier, table)
    def submit(self, now, demand, flow):
        try:
            return now + self.pauses[0] + helper.slow(demand) + self.again(3)
        except ValueError:
            return now
    def again(self, n):
        return n and self.again(n - 1) + len(Station.pauses)

class Own(imsim.CustomDistribution):
    mean: float = 1.0
    def quantile(self, u):
        from helper import quick
        return quick(u) * self.mean * BOUND

@functools.cache
def kept(n): return n + BOUND

def odd(n): return n and even(n - 1)
def even(n): return n or odd(n - 1)

def late(run, pattern=re.compile("x"), counts=collections.Counter("abc")):
    inner = lambda row: row in {"p", "q", "r"} and NAMES
    return kept(1), odd(3), Shape.LONG, Rule(), FRAME, np.mean, [inner(x) for x in run]

office = imsim.Scenario.load("office")
station = functools.partial(Station, table=np.linspace(0, 1, 5000))
changed = office.replace({"topology.storage": {"station": station, "service": {"append": Own()}}})
if __name__ == "__main__":
    print(fingerprint.function(late), fingerprint.design(changed))
"""
HELPER = """
FACTOR = 2
def slow(x): return FACTOR * x
def quick(x): return x
def unused(x): return 1
"""


def write(folder, whole, helper):
    (folder / "whole.py").write_text(whole)
    (folder / "helper.py").write_text(helper)
    return folder / "whole.py"


def prints(folder, whole=WHOLE, helper=HELPER, hash_seed="1"):
    """Return the fingerprints of the metric and the design as a new process computes them."""
    done = subprocess.run(
        [sys.executable, "-B", write(folder, whole, helper)],
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.fixture(scope="module")
def before(tmp_path_factory):
    return prints(tmp_path_factory.mktemp("before"))


def test_digest_is_equal_in_another_process(before, tmp_path):
    """The order of sets, the folder, and unrelated content of the files do not matter."""
    other = "UNUSED = 3\n" + WHOLE.replace(
        "class Rule", "def unused(): return BOUND\n\n@dataclasses.dataclass\nclass Rule"
    )
    other = other.replace("@dataclasses.dataclass\ndef", "def")
    assert prints(tmp_path, other, HELPER.replace("return 1", "return 2"), hash_seed="2") == before
    assert [len(one) for one in before] == [64, 64]


@pytest.mark.parametrize(
    ("what", "where", "was", "now"),
    [
        ("metric", "whole", "BOUND = 100", "BOUND = 30"),
        ("metric", "whole", '"d"}', '"e"}'),
        ("metric", "whole", "[1.5, 2.5]", "[1.5, 2.6]"),
        ("metric", "whole", "LONG = 1", "LONG = 2"),
        ("metric", "whole", "[1, 2])", "[1, 3])"),
        ("metric", "whole", "2026", "2027"),
        ("metric", "whole", "odd(n - 1)", "odd(n - 2)"),
        ("metric", "whole", '"r"}', '"s"}'),
        ("metric", "whole", '"abc"', '"abd"'),
        ("design", "whole", "BOUND = 100", "BOUND = 30"),
        ("design", "whole", "pauses = [0.05]", "pauses = [0.001]"),
        ("design", "whole", "self.pauses[0]\n\nclass Station", "self.pauses[-1]\n\nclass Station"),
        ("design", "whole", "except ValueError", "except KeyError"),
        ("design", "whole", "mean: float = 1.0", "mean: float = 2.0"),
        ("design", "whole", "0, 1, 5000", "0, 2, 5000"),
        ("design", "whole", "0, 1, 5000)", "0, 1, 5000)**1.01"),
        ("design", "helper", "FACTOR = 2", "FACTOR = 3"),
        ("design", "helper", "return FACTOR * x", "return FACTOR + x"),
        ("design", "helper", "return x", "return x * x"),
    ],
)
def test_digest_covers_referred_objects(before, tmp_path, monkeypatch, capsys, what, where, was, now):
    texts = {"whole": WHOLE, "helper": HELPER}
    assert was in texts[where]
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "helper", raising=False)
    script = write(tmp_path, **texts | {where: texts[where].replace(was, now)})
    runpy.run_path(str(script), run_name="__main__")  # in this process, which is quicker
    metric, design = capsys.readouterr().out.split()
    assert {"metric": metric, "design": design}[what] != before[what == "design"]
    del sys.modules["helper"]


def test_digest_in_this_process_equals_other_process(before, tmp_path, monkeypatch, capsys):
    """The results of the test above do not depend on this process."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "helper", raising=False)
    runpy.run_path(str(write(tmp_path, WHOLE, HELPER)), run_name="__main__")
    assert capsys.readouterr().out.split() == before
    del sys.modules["helper"]


def test_user_class_with_standard_name_is_digested_by_content(tmp_path, monkeypatch):
    """A class without a module's name, and a user's module that has the name of a standard module."""
    made = []
    for number in (1, 2):
        names: dict[str, type] = {}
        exec(f"class Made:\n    def it(self): return {number}\ndef made(run): return {number}", names)
        made.append((shared(names["Made"]), fingerprint.function(names["made"])))
    assert made[0][0] != made[1][0]
    assert made[0][1] != made[1][1]
    (tmp_path / "this.py").write_text("def one(run): return 1\ndef two(run): return 2\ntwo.__qualname__ = 'one'\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "this", raising=False)
    this = importlib.import_module("this")
    assert fingerprint.function(this.one) != fingerprint.function(this.two)
    monkeypatch.delitem(sys.modules, "this")


def test_digest_covers_whole_array():
    table = np.full(5000, 0.001)
    other = table.copy()
    other[2500] = 0.5
    assert shared(table) == shared(table.copy()) != shared(other)
    assert shared(functools.partial(Policy, table)) != shared(functools.partial(Policy, other))
    assert shared(pd.DataFrame({"x": table})) != shared(pd.DataFrame({"x": other}))


def test_object_that_cannot_be_compared_is_refused():
    def numbers():
        yield 1

    with pytest.raises(fingerprint.NotComparableError, match=r"metric <lambda> refers to a generator"):
        shared(numbers())
    deep = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(fingerprint.NotComparableError, match="too deeply"):
        shared(deep)
    while deep:
        deep = deep.pop()


class Scaled:
    def __init__(self, function, k):
        functools.update_wrapper(self, function)
        self.k = k

    def __call__(self, run):
        return self.k * self.__wrapped__(run)


def test_digest_covers_wrapped_function():
    def base(run):
        return 1

    assert shared(Scaled(base, 2)) == shared(Scaled(base, 2)) != shared(Scaled(base, 3))


@pytest.mark.parametrize(
    "metric",
    [
        "def make():\n    import helper\n    return lambda run: helper.late(run)\nmetric = make()",
        "import helper\ndef metric(run, h=helper): return h.late(run)",
        "import helper\ndef metric(run): return getattr(helper, 'late')(run)",
        "import functools, helper\ndef of(m, run): return m.late(run)\nmetric = functools.partial(of, helper)",
    ],
    ids=["closure", "default", "as a value", "partial"],
)
def test_user_module_used_as_whole_is_refused(tmp_path, monkeypatch, metric):
    (tmp_path / "helper.py").write_text("def late(run): return 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "helper", raising=False)
    names: dict[str, object] = {"__name__": "__main__"}
    exec(metric, names)
    with pytest.raises(fingerprint.NotComparableError, match="the module helper as a whole"):
        shared(names["metric"])
    monkeypatch.delitem(sys.modules, "helper")


def test_failing_import_in_metric_is_ignored(tmp_path, monkeypatch):
    (tmp_path / "boom.py").write_text("raise RuntimeError('boom')\n")
    monkeypatch.syspath_prepend(tmp_path)

    def metric(run):
        try:
            import boom
        except Exception:
            return 1
        return boom.late(run)

    assert shared(metric) == shared(metric)
