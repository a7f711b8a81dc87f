"""Tests of the exit code and the last line of a Locust process, with a director but without a test."""

from __future__ import annotations

import pytest

SCRIPT = """
from types import SimpleNamespace
from locust.env import Environment
from imsim.load.director import Director

options = SimpleNamespace(num_users=1, spawn_rate=1, run_time=None, headless=True, exit_code_on_error={code})
environment = Environment(parsed_options=options)
environment.create_local_runner()
director = Director(environment, object, False)

def fail(kind, name, count=1):
    for _ in range(count):
        environment.events.request.fire(
            request_type=kind, name=name, response_time=1, response_length=0, exception=ValueError("no"), context={})

{steps}
director._quitting(environment)
print(environment.process_exit_code or options.exit_code_on_error)
import sys; sys.stderr = sys.stdout
director._summarize(exit_code=0)
"""


@pytest.fixture
def ended(python):
    """A function that takes these steps with a director. It returns the exit code and the last line."""
    return lambda steps, code=1: python(SCRIPT.replace("{steps}", steps).replace("{code}", str(code))).strip()


@pytest.mark.parametrize(
    ("steps", "result"),
    [
        ("", "0"),
        ("fail('WS', 'send -> delivered')\nfail('WS', 'login')", "0"),
        ("fail('GET', '/shop', 3)", "1\nimsim: 3 requests of plain Locust users failed"),
        (
            "director._exit_with('INVALID: x', 5)\ndirector._exit_with('2 exceptions', 1)",
            "1\nimsim: INVALID: x; 2 exceptions",
        ),
        ("director._exit_with('wrong', 2)\ndirector._exit_with('late', 1)", "2\nimsim: wrong; late"),
        ("director._exit_with('late', 1)\ndirector._exit_with('INVALID: x', 5)", "1\nimsim: late; INVALID: x"),
        ("director._exit_with('INVALID: x', 5)", "5\nimsim: INVALID: x"),
    ],
)
def test_exit_code_and_last_line(ended, steps, result):
    assert ended(steps) == result


@pytest.mark.parametrize("code", [0, 3])
def test_option_exit_code_on_error(ended, code):
    assert ended("fail('GET', '/shop')", code).startswith(str(code))
