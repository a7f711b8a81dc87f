"""Tests of the load shapes: the devices that take part at each moment."""

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


#: Users of two classes under the shape Share, without a server: `tick` is called by hand.
TICKS = """
import json, locust
from types import SimpleNamespace
from locust.env import Environment
from imsim.load.director import Director
from imsim.load.shapes import LoadShape
from imsim.load.users import IMUser
from imsim.scenario import Scenario

scenario = Scenario.load("office", {"population.users": 100, "population.devices": 1, "duration": 10})

class Office(IMUser):
    pass
Office.scenario = scenario

class Web(locust.User):
    @locust.task
    def browse(self): pass

class Share(LoadShape):
    def share(self, at):
        return 0.2 + at / 2

def ticks(users, *classes, **test):
    environment = Environment(user_classes=list(classes), shape_class=Share())
    runner = environment.create_local_runner()
    environment.shape_class.runner = runner
    options = {"num_users": users, "spawn_rate": None, "run_time": None, "imsim_scenario": None}
    environment.parsed_options = SimpleNamespace(**options, headless=True, autostart=False, exit_code_on_error=1)
    director = Director(environment, Office, False)
    first, rate = environment.shape_class.tick()
    counts = [first]
    for elapsed, is_ending in ((2.0, False), (9.0, False), (9.5, True), (20.0, True)):
        sized = scenario.replace({"population.users": users or 100})
        director._test = SimpleNamespace(scenario=sized, elapsed=elapsed, is_ending=is_ending)
        counts.append(environment.shape_class.tick()[0])
    return counts
"""


def test_shape_is_relative_to_the_population_and_keeps_its_devices_in_the_drain(python):
    """The first tick is before the test starts."""
    alone, resized, mixed = json.loads(
        python(f"{TICKS}\nprint(json.dumps([ticks(None, Office), ticks(20, Office), ticks(None, Office, Web)]))")
    )
    assert alone == [20, 30, 65, 65, 65]
    assert resized == [4, 6, 13, 13, 13]
    assert [count - devices for count, devices in zip(mixed, alone, strict=True)] == pytest.approx(alone, abs=1)


def test_device_that_leaves_in_the_drain_is_withdrawn(python):
    found = python("""
import json
from types import SimpleNamespace
from imsim.load.context import Context
from imsim.load.device import now
from imsim.load.devices import Devices
from imsim.load.job import Job
from imsim.scenario import Scenario
withdrawn = []
recording = SimpleNamespace(event=None, withdrawn=lambda number, at: withdrawn.append((number, round(at))))
job = Job(Scenario.load("office"), "ws://127.0.0.1:1", "ns")
context = Context(job, job.make_adapter(), recording, None, lambda kind, **values: None)
devices = Devices(context, lambda *report: None)
for number in (3, 4, 5):
    devices.present[number] = devices.make(number, devices.react)
devices.release(devices.present[3])  # before the plan
context.t0, context.stopped = now() - 2, now() - 1
devices.release(devices.present[4])
devices.go_offline(devices.present[5])
print(json.dumps(withdrawn))
""")
    assert json.loads(found) == [[4, 2], [5, 2]]
