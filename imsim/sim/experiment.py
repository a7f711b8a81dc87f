"""The experiment: carries out the plan of a scenario on a simulated cluster and records the facts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from imsim.core import events, frames
from imsim.core.model import Scene
from imsim.results import Observer, Recorder, Tables, assemble
from imsim.scenario import Draws, OnlinePeriods, Plan, PlannedConversation, Scenario, actor, plan
from imsim.scenario.actor import IdClient
from imsim.sim.cluster import Cluster, Parts
from imsim.sim.faults import Faults
from imsim.sim.garbage import no_garbage_collection
from imsim.sim.idle import Heartbeats, busy_users
from imsim.sim.nodes import DeviceNode
from imsim.sim.nodes.client import Listener
from imsim.sim.placement import strategy_of
from imsim.sim.tracing import Tracer
from imsim.sim.utilisation import Meter, node_series

if TYPE_CHECKING:
    import pyarrow as pa

Progress = Callable[[float], None]


def simulate(
    scenario: Scenario,
    *,
    seed: int | None = None,
    duration: float | None = None,
    progress: Progress | None = None,
    spans: bool = False,
) -> Tables:
    """Carry out the scenario's plan in simulated time and return its rows.

    seed, duration (seconds): used instead of the scenario's values, if given.
    progress: called with the finished share of the run, 0 to 1.
    spans: also record the spans of each delivery and the utilisation of the nodes over time. The other rows do not
    change.
    Raises: UsageError if the plan is too large, or if seed or duration are invalid.
    """
    duration = scenario.duration if duration is None else duration
    with no_garbage_collection():
        experiment = Experiment(scenario, plan(scenario, seed, duration), seed=seed, spans=spans)
        experiment.run(duration, progress)
        return experiment.finish()


class Experiment:
    """The cluster of a scenario and the devices of its users. Call `run`, or run its `clock` directly.

    The workload starts at time 0, in a service that has been in use for a long time. Before time 0, the conversations
    are opened and all devices log in, and this takes no time. The simulation starts one heartbeat interval before
    time 0. The logins are evenly spread over that interval, so the heartbeats are evenly spread, too. The wall time is
    0 at the start of the simulation.
    """

    def __init__(self, scenario: Scenario, plan: Plan, *, seed: int | None = None, spans: bool = False) -> None:
        self.scenario = scenario
        self.plan = plan
        self.seed = seed = scenario.seed if seed is None else seed
        self.recorder = Recorder()
        self.observer = Observer(plan, self.recorder, first_sync=scenario.policies.first_sync)
        #: Called with every event of a client, after the event was recorded.
        self.listeners: list[Listener] = []
        self._tracer = Tracer(plan) if spans else None
        if self._tracer is not None:
            self.listeners.append(self._tracer.client_event)
        self._meter: Meter | None = None  # None before `run`
        self._duration = 0.0
        self._login_draws = Draws(seed, "login")
        self._lead = scenario.policies.heartbeat
        # Reading one number from a memoryview is three times as fast as reading it from an array.
        self._at, self._sender, self._device = plan.at.data, plan.sender.data, plan.device.data

        topology, users = scenario.topology, {user: number for number, user in enumerate(plan.users)}
        parts = Parts(scenario, seed, len(users), -self._lead, self._lead, self._tracer)
        self.clock = parts.clock("experiment")
        self.cluster = Cluster(
            topology, scenario.core_policies(), parts, strategy_of(topology.placement, plan), users, self.observer
        )
        is_busy = busy_users(scenario, plan)
        #: By device number, without the devices that are idle during the whole run (`imsim.sim.idle`).
        self.clients = {
            node.number: node
            for user in np.nonzero(is_busy)[0].tolist()
            for device in range(len(plan.devices))
            for node in (self.client(user, device),)
        }
        self._add_idle_heartbeats(np.repeat(~is_busy, len(plan.devices)))
        if scenario.conversations.friend_requests > 0:
            self.listeners.append(self._answer_requests)
        self.faults = Faults(scenario.faults, seed, self.clock, self.cluster, self.clients.values(), len(plan.devices))

    def client(self, user: int, device: int, token: str | None = None, kind: str = "") -> DeviceNode:
        """Return the node of a new client for this device, with a new token unless `token` is given."""
        plan = self.plan
        names = (plan.users[user], plan.devices[device])
        number = plan.device_index(user, device)
        node = self.cluster.client(number, user, names, self.observer.client_events, self.listeners, token, kind)
        if self._tracer is not None:
            node.lose = partial(self._tracer.client_frame, number)
        return node

    @no_garbage_collection()
    def run(self, duration: float, progress: Progress | None = None) -> None:
        """Log in all devices, carry out the plan, and continue for the scenario's `drain`."""
        if self.clock.now < 0:
            self.log_in()
        if self.plan.online_periods is not None:
            self._schedule_online_change(self.plan.online_periods.changes())
        if self.plan.actions:
            self.clock.call_at(self.plan.actions[0].at / 1e9, self._act, 0)
        self.faults.schedule()
        if len(self.plan):
            self.clock.call_at(self.plan.at[0] / 1e9, self._send, 0)
        works = [node.work for node in self.cluster.nodes.values()]
        since = self.scenario.warmup if self.scenario.warmup < duration else 0.0
        self._meter = Meter(self.clock, works, since, duration)
        self._duration = duration
        end = duration + self.scenario.drain
        steps = 100 if progress else 1
        for step in range(1, steps + 1):
            self.clock.run(until=end * step / steps)
            if progress:
                progress(step / steps)

    def tables(self) -> Tables:
        """Return the rows of the run so far."""
        return self._tables(*self._measure())

    def finish(self) -> Tables:
        """Return the rows of a finished run. The experiment cannot be used after this call.

        The cluster and the devices take most of the memory. They are released before the tables are built.
        """
        measurements = self._measure()
        self._release_world()
        tables = self._tables(*measurements)
        vars(self).clear()
        return tables

    def _measure(self) -> tuple[dict[str, dict[str, float]] | None, pa.Table | None]:
        """Return the utilisation of the nodes and their time series. Each is None if the run did not measure it."""
        if self._meter is None:
            return None, None
        utilisation = self._meter.utilisation()
        if self._tracer is None:
            return utilisation, None
        for name, queue in self._meter.queues(self._tracer.works).items():
            utilisation[name]["queue"] = queue
        return utilisation, node_series(self._tracer.works, self._duration + self.scenario.drain)

    def _tables(self, utilisation: dict[str, dict[str, float]] | None, nodes: pa.Table | None) -> Tables:
        tables = assemble(self.plan, self.recorder.facts())
        spans = None if nodes is None or self._tracer is None else self._tracer.table(tables.deliveries)
        return replace(tables, utilisation=utilisation, spans=spans, nodes=nodes)

    def _release_world(self) -> None:
        """Release the cluster and the devices, whose objects form reference cycles.

        The garbage collector would need ten times as long to find these cycles.
        """
        for client in self.clients.values():
            client.forget()
        self.cluster.forget()
        self.clock.clear()
        del self.clients, self.cluster, self.faults

    # --- before time 0 ----------------------------------------------------------------------------------------------

    def log_in(self) -> None:
        """Log in all devices and enter the chatrooms before time 0, which takes no time.

        Devices that are offline at time 0 in the plan log out again.
        """
        numbers = np.fromiter(self.clients, np.int64)
        at = -self._lead * self._login_draws.array(numbers)
        order = np.argsort(at, kind="stable")
        self._schedule_login(zip(at[order].tolist(), numbers[order].tolist(), strict=True))
        for room in self.plan.rooms:
            self._enter_room(room)
        if self.plan.online_periods is not None:
            self._log_out_offline_devices(self.plan.online_periods)
        with self.cluster.free_of_charge():
            self._open_conversations()
            self.clock.run(until=0.0)

    def _schedule_login(self, logins: Iterator[tuple[float, int]]) -> None:
        """Schedule the next login, which schedules the one after it. So the queue never holds all logins."""
        for at, number in logins:
            client = self.clients[number]
            self.clock.call_at(at, client.act, client.machine.start)
            self.clock.call_at(at, self._schedule_login, logins)
            break

    def _open_conversations(self) -> None:
        for conversation in self.plan.conversations:
            if conversation.scene is not Scene.CHATROOM:
                members = tuple(self.plan.users[number] for number in conversation.members)
                self.cluster.open(conversation.id, members)

    def _login_of(self, client: DeviceNode) -> float:
        return -self._lead * self._login_draws.at(client.number)

    def _add_idle_heartbeats(self, is_idle: npt.NDArray[np.bool_]) -> None:
        """Simulate the heartbeats of the idle devices, if they have a service time. `is_idle`: for each device."""
        if {frames.Ping.op, frames.Pong.op} & self.scenario.topology.gateway.service.keys():
            gateways = self.cluster.gateways
            for index, gateway in enumerate(gateways):
                if devices := int(is_idle[index :: len(gateways)].sum()):
                    Heartbeats(self.clock, gateway, devices, self.cluster.policies.heartbeat)

    def _enter_room(self, room: PlannedConversation) -> None:
        """Let the audience of a chatroom enter it, after the logins."""
        for user in room.members:
            for device in range(len(self.plan.devices)):
                client = self.clients[self.plan.device_index(user, device)]
                self.clock.call_at(self._login_of(client) / 2, client.act, partial(client.machine.enter, room.name))

    def _log_out_offline_devices(self, online_periods: OnlinePeriods) -> None:
        for client in self.clients.values():
            if not online_periods.is_online_first[client.number]:
                self.clock.call_at(self._login_of(client) / 4, client.act, client.machine.stop)

    # --- the plan ---------------------------------------------------------------------------------------------------

    def _send(self, intent: int) -> None:
        """Send one message and schedule the next. So the queue never holds the whole plan."""
        plan = self.plan
        if intent + 1 < len(self._at):
            self.clock.call_at(self._at[intent + 1] / 1e9, self._send, intent + 1)
        client = self.clients[self._sender[intent] * len(plan.devices) + self._device[intent]]
        client.now = now = self.clock.now
        actor.send(client.machine, plan, str, IdClient(intent), now)

    def _act(self, number: int) -> None:
        """Carry out one action, such as a recall, and schedule the next."""
        plan = self.plan
        if number + 1 < len(plan.actions):
            self.clock.call_at(plan.actions[number + 1].at / 1e9, self._act, number + 1)
        action = plan.actions[number]
        client = self.clients[plan.device_index(action.user, 0)]
        seq_of, name = self.observer.seqs.get, actor.action_id(number)
        client.act(lambda now: actor.act(client.machine, plan, action, seq_of, str, name, now))

    def _schedule_online_change(self, changes: Iterator[tuple[int, int, bool]]) -> None:
        """Schedule the next change of a device, online or offline. It schedules the one after it."""
        for ns, number, goes_online in changes:
            machine = self.clients[number].machine
            self.clock.call_at(ns / 1e9, self.clients[number].act, machine.start if goes_online else machine.stop)
            self.clock.call_at(ns / 1e9, self._schedule_online_change, changes)
            break

    # --- answers ------------------------------------------------------------------------------------------------------

    def _answer_requests(self, client: DeviceNode, event: events.ClientEvent) -> None:
        if actor.wants_answer(client.machine, event):
            self.clock.call_at(self.clock.now, self._answer, (client, event))

    def _answer(self, asked: tuple[DeviceNode, events.Shown]) -> None:
        client, event = asked
        client.act(lambda now: actor.answer(client.machine, event, now))
