"""Devices that are online and do nothing all the time: most of a million.

No row of a run is about a device that sends nothing and is sent nothing, and its login lies before time 0. So it is not
made at all: what is left of it are its heartbeats, where the scenario says that they cost its gateway work.
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
    """Of each user, whether the plan has anything for the user's devices to do, if only to show a message."""
    if scenario.faults or scenario.policies.presence.reaches_friends or plan.online_periods is not None:
        return np.ones(len(plan.users), bool)  # connections may break, devices come and go, or hear of others
    # The audience of a chatroom enters it, spoken in or not.
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
    """The pings, and the answers, of `devices` idle devices of one gateway: evenly spread, as their logins are."""

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
        self._timers.at(now + self._gap, self._beat)  # a timer: not a consequence of this one
