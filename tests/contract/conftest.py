"""Fixtures of the contract suite.

Every test runs in every world and under every design, unless its marker `design` names some designs. `world` is a world
with the policies of the design; `make_world(...)` makes one with other policies.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from contract.designs import DESIGNS, WORLDS_OF
from contract.worlds import WORLDS


def pytest_generate_tests(metafunc):
    if "make_world" not in metafunc.fixturenames:
        return
    marker = metafunc.definition.get_closest_marker("design")
    designs = marker.args if marker else DESIGNS
    if '"d1"' in source(metafunc.function):  # a second device would end the session of the first
        designs = [design for design in designs if design != "single"]
    cases = [(world, design) for design in designs for world in WORLDS_OF.get(design, WORLDS)]
    ids = [world if design == "push" else f"{world}-{design}" for world, design in cases]
    metafunc.parametrize("make_world", cases, ids=ids, indirect=True)


getsource = cache(inspect.getsource)  # of the functions that many tests call


def source(test: Callable[..., Any]) -> str:
    """Return the source code of the test and of the functions that it calls."""
    names = (test.__globals__.get(name) for name in test.__code__.co_names)
    return "".join(getsource(function) for function in (test, *filter(inspect.isfunction, names)))


@pytest.fixture
def make_world(request):
    world, design = request.param
    made = []

    def make(**policies):
        made.append(WORLDS[world](**{**DESIGNS[design], **policies}))
        if design == "friends" and "strangers" not in policies:
            made[-1].befriend()
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def world(make_world):
    return make_world()
