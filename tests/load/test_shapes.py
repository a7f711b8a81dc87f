"""Tests of the load shapes: the share of the population that takes part at each moment."""

from __future__ import annotations

import json

import pytest

#: Prints the shares of the shape NAME with the attributes VALUES at the moments MOMENTS, and its spawn rate.
PROGRAM = """
import json
from imsim.load import shapes
shape = type("Shape", (getattr(shapes, NAME),), VALUES)
print(json.dumps([[shape.share(shape, at) for at in MOMENTS], shape.spawn_rate]))
"""


@pytest.fixture
def shares(python):
    """A function that returns the shares of a shape at these moments, and its spawn rate."""

    def run(name: str, values: dict[str, float], moments: list[float]) -> list:
        program = PROGRAM.replace("NAME", repr(name)).replace("VALUES", repr(values)).replace("MOMENTS", repr(moments))
        return json.loads(python(program))

    return run


@pytest.mark.parametrize(
    ("name", "values", "moments", "expected"),
    [
        ("Steady", {}, [0.0, 1.0], [1.0, 1.0]),
        ("Steady", {"level": 0.4}, [0.0, 1.0], [0.4, 0.4]),
        ("Ramp", {}, [0.0, 0.5, 1.0], [0.1, 0.55, 1.0]),
        ("Ramp", {"low": 1.0, "high": 0.0}, [0.0, 0.5, 1.0], [1.0, 0.5, 0.0]),
        ("Steps", {}, [0.0, 0.19, 0.2, 0.99, 1.0], [0.2, 0.2, 0.4, 1.0, 1.0]),
        ("Steps", {"count": 2}, [0.0, 0.49, 0.5, 1.0], [0.5, 0.5, 1.0, 1.0]),
        ("Spike", {}, [0.0, 0.39, 0.4, 0.59, 0.6, 1.0], [0.2, 0.2, 1.0, 1.0, 0.2, 0.2]),
        ("Storm", {}, [0.0, 0.29, 0.3, 0.59, 0.6, 1.0], [1.0, 1.0, 0.05, 0.05, 1.0, 1.0]),
        ("Soak", {}, [0.0, 1.0], [0.7, 0.7]),
    ],
)
def test_shape_has_its_shares(shares, name, values, moments, expected):
    found, spawn_rate = shares(name, values, moments)
    assert found == pytest.approx(expected)
    assert spawn_rate == (1000 if name == "Storm" else 100)
