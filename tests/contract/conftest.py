"""Every test of this folder runs in every world: `world` is one with the default policies, `make_world(...)` makes one
with others."""

from __future__ import annotations

import pytest
from contract.worlds import WORLDS


@pytest.fixture(params=WORLDS)
def make_world(request):
    made = []

    def make(**policies):
        world = WORLDS[request.param](**policies)
        made.append(world)
        return world

    yield make
    for world in made:
        world.close()


@pytest.fixture
def world(make_world):
    return make_world()
