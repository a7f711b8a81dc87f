"""Recovery times after a crash of each tier, against those that follow from the policies by hand.

The service below takes no time of its own, so all that delays a message is the crash and the policies. Its window is
one second, in which 150 messages are sent.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from scipy.integrate import quad
from scipy.optimize import brentq

import imsim
from imsim.scenario import Scenario

AT, RATE, WINDOW = 2.5, 150.0, 1.0

#: A message takes 2 x 5 ms of clients' links and 4 x 0.5 ms of backend links. Everybody writes to everybody, so that
#: hardly ever a message stands behind an unanswered one of its conversation.
TRIP = 0.012
BASE = Scenario(name="crash", duration=13.0, warmup=0.5, drain=10.0).replace(
    {
        "population.users": 400,
        "conversations.partners": 399,
        "workload.rate": RATE / 400,
        "network.client.latency": "5ms",
        "network.backend.latency": "500us",
    }
)


def recovery_from(target: str, lasting: float, gateways: int = 1, **policies: float) -> tuple[float, str]:
    fault = {"kind": "node_crash", "target": target, "at": AT, "duration": lasting}
    changes = {f"policies.{name}": value for name, value in policies.items()}
    run = imsim.simulate(BASE.replace({"faults": [fault], "topology.gateways": gateways, **changes}), spans=True)
    (row,) = run.recovery(window=WINDOW).to_dict("records")
    assert row["before_ms"] == pytest.approx(TRIP * 1000)
    return row["recovery_seconds"], row["waited_for"]


#: Of slow deliveries that end evenly at RATE, so few are left `SLACK` before the last one that p95 is within the limit:
#: RATE * SLACK of them are 5 in 100 of what is under way in a window, which is that and RATE * WINDOW fresh ones.
SLACK = 0.05 * WINDOW / 0.95


@pytest.mark.parametrize(("lasting", "timeout"), [(3.0, 5.0), (3.0, 2.0), (1.5, 3.0)])
def test_after_a_crash_of_storage_every_message_that_met_it_waits_for_its_send_timeout(lasting, timeout):
    """What storage refuses is sent again `send_timeout` after its sending, however soon it was refused, and again,
    until storage is back: the message sent last before that comes `send_timeout` after the crash is over."""
    time, waited_for = recovery_from("storage0", lasting, send_timeout=timeout)
    assert time == pytest.approx(lasting + timeout + TRIP - SLACK, abs=0.03)
    assert waited_for == "policies.send_timeout"


@pytest.mark.parametrize("lasting", [1.5, 3.0])
def test_after_a_crash_of_the_router_messages_go_out_as_soon_as_it_is_back(lasting):
    """Its users' logins wait at the gateway until then, and what they wrote meanwhile at their devices. Four trips over
    the backend end the login (to the router, to storage and back), one over the client's link tells the client, and
    the message goes its way."""
    time, waited_for = recovery_from("router0", lasting)
    login = 4 * 0.0005 + 0.005
    assert time == pytest.approx(lasting + login + TRIP, abs=0.03)
    assert waited_for == "the fault itself"


def slow_end(lasting: float, longest: float, away: Callable[[float], float]) -> float:
    """When so few deliveries are slow after all that p95 is within the limit, in seconds after the gateways take logins
    again, if devices are `away` for as long with that chance, each by itself, and messages waited for `lasting` before.
    A message is slow until both its devices are back, and so are some that are sent in the window."""

    def slow(after: float) -> float:
        return 1 - (1 - away(min(after, longest))) ** 2

    def beyond(after: float) -> float:
        waiting = (lasting + after) * slow(after)
        return waiting + quad(slow, after, after + WINDOW)[0] - 0.05 * (waiting + WINDOW)

    return brentq(beyond, 0.0, longest)


def test_after_a_crash_of_the_only_gateway_it_is_up_to_the_reconnect_back_off():
    """With `reconnect_min = reconnect_max = R` each device tries again after a random part of R, again and again. When
    the gateway is back, the time to a device's next try is the residual life of a uniform one: beyond r with a chance
    of (1 - r / R)^2."""
    lasting, longest = 3.0, 1.0
    policies = {"reconnect_min": longest, "reconnect_max": longest}
    time, waited_for = recovery_from("gateway0", lasting, **policies)
    by_hand = lasting + slow_end(lasting, longest, lambda after: (1 - after / longest) ** 2)
    assert lasting + 0.8 * longest < by_hand < lasting + longest
    assert time == pytest.approx(by_hand, abs=0.1)
    assert waited_for == "policies.reconnect_min"


@pytest.mark.parametrize("longest", [1.0, 2.0])
def test_where_another_gateway_takes_over_it_is_long_before_the_crash_is_over(longest):
    """Half of the devices lose their connection, and their first try, a random part of R later, is with the other
    gateway."""
    policies = {"reconnect_min": longest, "reconnect_max": longest}
    time, waited_for = recovery_from("gateway0", 9.0, gateways=2, **policies)
    by_hand = slow_end(0.0, longest, lambda after: 0.5 * (1 - after / longest))
    assert 0.8 * longest < by_hand < longest
    assert time == pytest.approx(by_hand, abs=0.1)
    assert waited_for == "policies.reconnect_min"
