"""Every test of this folder runs in every world: `world` is one with the default policies, `make_world(...)` makes one
with others. And in every world it runs under every design, unless it says that it is about one (`design`)."""

from __future__ import annotations

import pytest
from contract.worlds import WORLDS

# Policies that must not be seen from outside, all in both states: each behaviour holds with either.
DESIGNS = {
    "push": {},
    "notify": {"delivery": "notify", "fanout": "write", "receipts": "delivered"},
}


def pytest_generate_tests(metafunc):
    if "make_world" not in metafunc.fixturenames:
        return
    marker = metafunc.definition.get_closest_marker("design")
    designs = marker.args if marker else DESIGNS
    cases = [(world, design) for world in WORLDS for design in designs]
    ids = [world if design == "push" else f"{world}-{design}" for world, design in cases]
    metafunc.parametrize("make_world", cases, ids=ids, indirect=True)


@pytest.fixture
def make_world(request):
    world, design = request.param
    made = []

    def make(**policies):
        made.append(WORLDS[world](**{**DESIGNS[design], **policies}))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def world(make_world):
    return make_world()
