"""Idle devices: they are online during the whole run, send nothing and receive nothing. In a large scenario, most are.

No row of a run is about an idle device, and its login is before time 0. So the simulation does not create it. It
simulates only the heartbeats, and those only if the scenario gives them a service time at the gateway.
"""

from __future__ import annotations

from itertools import chain

import numpy as np
import numpy.typing as npt

from imsim.core import frames
from imsim.core.model import Scene
from imsim.scenario import Plan, Scenario
from imsim.sim.clock import Clock
from imsim.sim.connection import Connection
from imsim.sim.nodes import GatewayNode
from imsim.sim.nodes.node import NodeTimers


def busy_users(scenario: Scenario, plan: Plan) -> npt.NDArray[np.bool_]:
    """Return for each user whether the user's devices do anything in the plan. Showing a message counts."""
    if scenario.faults or scenario.policies.presence.reaches_friends or plan.online_periods is not None:
        return np.ones(len(plan.users), bool)  # connections may break, devices go offline, or presence changes
    # The audience enters every chatroom, even one without messages.
    is_used = np.array([conversation.scene is Scene.CHATROOM for conversation in plan.conversations], bool)
    is_used[plan.conversation] = True
    is_used[[action.conversation for action in plan.actions if action.conversation >= 0]] = True
    members = chain.from_iterable(plan.conversations[number].members for number in np.nonzero(is_used)[0])
    is_busy = np.zeros(len(plan.users), bool)
    is_busy[np.fromiter(members, np.int64)] = True
    is_busy[plan.sender] = True
    for action in plan.actions:
        is_busy[action.user] = True
        if action.other >= 0:
            is_busy[action.other] = True
    return is_busy


class Heartbeats:
    """The pings and pongs of `devices` idle devices of one gateway, evenly spread over time like their logins."""

    __slots__ = ("_gap", "_gateway", "_timers")

    def __init__(self, clock: Clock, gateway: GatewayNode[Connection], devices: int, heartbeat: float) -> None:
        self._timers = NodeTimers(gateway, clock)
        self._gateway = gateway
        self._gap = heartbeat / devices
        self._timers.at(clock.now + heartbeat, self._beat)

    def _beat(self, _: None, now: float) -> None:
        if self._gateway.is_up:
            for op in (frames.Ping.op, frames.Pong.op):
                self._gateway.work.done(now, op, None)
        self._timers.at(now + self._gap, self._beat)  # a timer, because in a trace no beat causes the next
