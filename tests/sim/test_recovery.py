"""Recovery times after a crash of each tier, compared with times that are calculated from the policies.

Operations of the nodes take no time here, so only the crash and the policies delay messages. A window is one second
long, and 150 messages are sent in it.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from scipy.integrate import quad
from scipy.optimize import brentq

import imsim
from imsim.scenario import Scenario

AT, RATE, WINDOW = 2.5, 150.0, 1.0

#: Seconds of a message on 2 client links of 5 ms and 4 backend links of 0.5 ms. All users write to all others, so a
#: message hardly ever waits for an unanswered one of its conversation.
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


#: Seconds before the last slow delivery at which p95 is within its limit again. Slow deliveries end evenly at RATE, so
#: RATE * SLACK of them are left. They are 5 % of the deliveries: of themselves and RATE * WINDOW fast ones.
SLACK = 0.05 * WINDOW / 0.95


@pytest.mark.parametrize(("lasting", "timeout"), [(3.0, 5.0), (3.0, 2.0), (1.5, 3.0)])
def test_messages_wait_for_send_timeout_after_crash_of_storage(lasting, timeout):
    """Without backoff, a client sends a refused message again `send_timeout` later, until storage is back.

    So the last refused message arrives `send_timeout` after the end of the crash.
    """
    time, waited_for = recovery_from("storage0", lasting, send_timeout=timeout, send_backoff=1.0)
    assert time == pytest.approx(lasting + timeout + TRIP - SLACK, abs=0.03)
    assert waited_for == "policies.send_timeout"


@pytest.mark.parametrize("lasting", [1.5, 3.0])
def test_messages_are_sent_as_soon_as_crashed_router_is_back(lasting):
    """Until then, the logins of its users wait at the gateway, and their messages wait at the devices.

    The end of a login takes four trips over the backend (to the router, to storage and back) and one over the client's
    link. Then the client sends its messages.
    """
    time, waited_for = recovery_from("router0", lasting)
    login = 4 * 0.0005 + 0.005
    assert time == pytest.approx(lasting + login + TRIP, abs=0.03)
    assert waited_for == "the fault itself"


def slow_end(lasting: float, longest: float, away: Callable[[float], float]) -> float:
    """Return when p95 is within its limit again, in seconds after the gateways accept logins again.

    lasting: seconds for which messages have already waited.
    longest: seconds after which all devices are back.
    away: the probability that a device is still away after this time. The devices are independent.

    A message is slow until both its devices are back. This also holds for messages that are sent in the window.
    """

    def slow(after: float) -> float:
        return 1 - (1 - away(min(after, longest))) ** 2

    def beyond(after: float) -> float:
        waiting = (lasting + after) * slow(after)
        return waiting + quad(slow, after, after + WINDOW)[0] - 0.05 * (waiting + WINDOW)

    return brentq(beyond, 0.0, longest)


def test_recovery_from_crash_of_only_gateway_depends_on_reconnect_backoff():
    """With `reconnect_min = reconnect_max = R`, a device waits a random part of R between two attempts.

    When the gateway is back, the time to the next attempt is the residual life of a uniform distribution: it exceeds r
    with probability (1 - r / R)^2.
    """
    lasting, longest = 3.0, 1.0
    policies = {"reconnect_min": longest, "reconnect_max": longest}
    time, waited_for = recovery_from("gateway0", lasting, **policies)
    by_hand = lasting + slow_end(lasting, longest, lambda after: (1 - after / longest) ** 2)
    assert lasting + 0.8 * longest < by_hand < lasting + longest
    assert time == pytest.approx(by_hand, abs=0.1)
    assert waited_for == "policies.reconnect_min"


@pytest.mark.parametrize("longest", [1.0, 2.0])
def test_other_gateway_takes_over_before_crash_ends(longest):
    """Half of the devices lose their connection. A random part of R later, they try the other gateway."""
    policies = {"reconnect_min": longest, "reconnect_max": longest}
    time, waited_for = recovery_from("gateway0", 9.0, gateways=2, **policies)
    by_hand = slow_end(0.0, longest, lambda after: 0.5 * (1 - after / longest))
    assert 0.8 * longest < by_hand < longest
    assert time == pytest.approx(by_hand, abs=0.1)
    assert waited_for == "policies.reconnect_min"
