"""The simulated world: a scenario's nodes and links on one clock, its plan carried out, its facts noted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import TypeVar
from zlib import crc32

import numpy as np
import numpy.typing as npt

from imsim.core import events, frames, storage
from imsim.core.model import Scene
from imsim.core.storage.memory import MemoryStorage
from imsim.results import Observer, Recorder, Tables, assemble
from imsim.scenario import Draws, OnlinePeriods, Plan, PlannedConversation, Scenario, Stream, actor, plan
from imsim.scenario.actor import IdClient
from imsim.scenario.sections import ClientLink, Tier
from imsim.scenario.sections import Link as LinkFields
from imsim.sim.clock import Clock
from imsim.sim.faults import CuttableLink, Faults, PausableConnection
from imsim.sim.garbage import no_garbage_collection
from imsim.sim.idle import Heartbeats, busy_users
from imsim.sim.link import BackboneLink, Link
from imsim.sim.nodes import BatchingGatewayNode, ClientNode, Connection, GatewayNode, RouterNode, StorageNode
from imsim.sim.nodes.work import Work
from imsim.sim.placement import placement
from imsim.sim.utilisation import Meter

#: The simulation starts this long before time 0, at which the workload starts. In the first half all devices log in,
#: evenly spread; in the second the queues that this made can empty.
LEAD = 10.0

#: Wall time, seconds since 1970, at which the simulation's time was 0: so that no wall time is negative.
EPOCH = LEAD

_L = TypeVar("_L", bound=Link)
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

    seed, duration (seconds): in place of the scenario's own. `progress` is told the share done, from 0 to 1.
    spans: record also where the time went, and how busy the nodes were; the other rows are the same.
    Raises: UsageError if the plan is impossible to hold.
    """
    duration = scenario.duration if duration is None else duration
    with no_garbage_collection():
        if spans:
            from imsim.sim.spans import TracedWorld

            traced = TracedWorld(scenario, plan(scenario, seed, duration), seed=seed)
            traced.run(duration, progress)
            tables = traced.tables()
            series = traced.node_series(duration + scenario.drain)
            tables = replace(tables, spans=traced.tracer.table(tables.deliveries), nodes=series)
            traced.forget()
            return tables
        world = World(scenario, plan(scenario, seed, duration), seed=seed)
        world.run(duration, progress)
        tables = world.tables()
        world.forget()
        return tables


class World:
    """All nodes of a scenario, their clock at -`LEAD` seconds, the plan's conversations open. `run` does the rest; or
    drive the clock by hand."""

    def __init__(self, scenario: Scenario, plan: Plan, *, seed: int | None = None) -> None:
        self.scenario = scenario
        self.plan = plan
        self.seed = seed = scenario.seed if seed is None else seed
        self.policies = scenario.core_policies()
        self.clock = self.new_clock(-LEAD)
        self.epoch = EPOCH
        self.recorder = Recorder()
        self.observer = Observer(plan, self.recorder)
        self.meter: Meter | None = None  # of a world that runs
        self.storage = MemoryStorage(self.policies.fanout)
        self.durable: dict[str, float] = {}  # conversation -> when all that storage has of it by now is safe
        #: Called with every event of a client, after it was recorded: (node, event).
        self.on_client_event: Callable[[ClientNode, events.ClientEvent], None] | None = None

        self.up_draws = Draws(seed, "link", "up")
        self.down_draws = Draws(seed, "link", "down")
        self.jitter_draws = Draws(seed, "reconnect")
        self._login_draws = Draws(seed, "login")
        self._backend_draws = Draws(seed, "link", "backend")
        self.link_luck = Draws(seed, "link", "luck")
        network = scenario.network
        self._networks = [link for _, link in network.of_users(seed, len(plan.users))] if network.clients else None

        self.faults = Faults(self, scenario.faults)
        self._connection_class = PausableConnection if self.faults.pauses_devices else Connection
        topology = scenario.topology
        gateway_class = self.batching_gateway_class if topology.gateway.batch_interval else self.gateway_class
        self.storages = [self.storage_class(self, index) for index in range(topology.storages)]
        self.routers = [self.router_class(self, index) for index in range(topology.routers)]
        self.gateways = [gateway_class(self, index) for index in range(topology.gateways)]
        self._connections = 0
        # One number at a time is taken from a memoryview three times as fast as from an array.
        self._at, self._sender, self._device = plan.at.data, plan.sender.data, plan.device.data
        self._has_requests = scenario.conversations.friend_requests > 0
        self._user_numbers = {user: number for number, user in enumerate(plan.users)}
        # Placement is asked for several times a message, and only once decided for each name.
        place = placement(topology.placement, plan)
        self.router_of: Callable[[str], RouterNode] = cache(lambda name: self.routers[place(name, topology.routers)])
        self._storage_of = cache(lambda name: self.storages[place(name, topology.storages)])

        for conversation in plan.conversations:
            if conversation.scene is not Scene.CHATROOM:
                members = tuple(plan.users[number] for number in conversation.members)
                self.router_of(conversation.id).warm_up(conversation.id, members)
        is_busy = busy_users(scenario, plan)
        #: By device number; without those that are idle for the whole run, see `imsim.sim.idle`.
        self.clients = {
            number: self.client_class(self, number, plan.users[user], name)
            for user in np.nonzero(is_busy)[0].tolist()
            for device, name in enumerate(plan.devices)
            for number in (plan.device_index(user, device),)
        }
        self._keep_idle_ones_alive(np.repeat(~is_busy, len(plan.devices)))

    @no_garbage_collection()
    def run(self, duration: float, progress: Progress | None = None) -> None:
        """Log everybody in, carry out the plan, and let things settle for the scenario's `drain`."""
        if self.clock.now < 0:
            self.log_in()
        if self.plan.online_periods is not None:
            self._come_or_leave(self.plan.online_periods.changes())
        if self.plan.actions:
            self.clock.call_at(self.plan.actions[0].at / 1e9, self._act, 0)
        self.faults.schedule()
        if len(self.plan):
            self.clock.call_at(self.plan.at[0] / 1e9, self._send, 0)
        works = [gateway.work for gateway in self.gateways] + [router.work for router in self.routers]
        works += [storage.work for storage in self.storages]
        since = self.scenario.warmup if self.scenario.warmup < duration else 0.0
        self.meter = Meter(self.clock, works, since, duration)
        end = duration + self.scenario.drain
        steps = 100 if progress else 1
        for step in range(1, steps + 1):
            self.clock.run(until=end * step / steps)
            if progress:
                progress(step / steps)

    def forget(self) -> None:
        """Let go of all that the run has made. The parts of a world hold each other, and to have the garbage collector
        find out that nobody else does takes ten times as long. Nothing is left to be asked of it, or done with it."""
        for node in (*self.clients.values(), *self.gateways, *self.routers):
            node.forget()
        vars(self).clear()

    def log_in(self) -> None:
        """Everybody logs in before time 0, and enters the chatrooms."""
        for client in self.clients.values():
            at = -LEAD + self._login_draws.at(client.number) * LEAD / 2
            self.clock.call_at(at, client.act, client.machine.start)
        for room in self.plan.rooms:
            self._fill(room)
        if self.plan.online_periods is not None:
            self._send_away(self.plan.online_periods)
        self.clock.run(until=0.0)

    def _keep_idle_ones_alive(self, is_idle: npt.NDArray[np.bool_]) -> None:
        """is_idle: of each device."""
        if {frames.Ping.op, frames.Pong.op} & self.scenario.topology.gateway.service.keys():
            for index, gateway in enumerate(self.gateways):
                if many := int(is_idle[index :: len(self.gateways)].sum()):
                    Heartbeats(self.clock, gateway, many, self.policies.heartbeat)

    def tables(self) -> Tables:
        """The rows of what has happened so far."""
        tables = assemble(self.plan, self.recorder.facts(), knows_server=True)
        return tables if self.meter is None else replace(tables, utilisation=self.meter.told())

    def _send(self, intent: int) -> None:
        """Send one message and schedule the next: the queue never holds the whole plan."""
        plan = self.plan
        if intent + 1 < len(self._at):
            self.clock.call_at(self._at[intent + 1] / 1e9, self._send, intent + 1)
        client = self.clients[self._sender[intent] * len(plan.devices) + self._device[intent]]
        client.now = now = self.clock.now
        actor.send(client.machine, plan, str, IdClient(intent), now)
        client.arm()

    def _act(self, number: int) -> None:
        """The same for what users do besides writing."""
        plan = self.plan
        if number + 1 < len(plan.actions):
            self.clock.call_at(plan.actions[number + 1].at / 1e9, self._act, number + 1)
        action = plan.actions[number]
        client = self.clients[plan.device_index(action.user, 0)]
        client.act(
            lambda now: actor.act(
                client.machine, plan, action, self.observer.seqs.get, str, actor.action_id(number), now
            )
        )

    def _send_away(self, online_periods: OnlinePeriods) -> None:
        """Everybody has logged in once; who is to be away when the workload starts leaves before it does."""
        for client in self.clients.values():
            if not online_periods.is_online_first[client.number]:
                at = -LEAD + (6 + self._login_draws.at(client.number)) * LEAD / 8
                self.clock.call_at(at, client.act, client.machine.stop)

    def _come_or_leave(self, changes: Iterator[tuple[int, int, bool]]) -> None:
        """Have the next device come or leave in time, and so on: the queue never holds all of them."""
        for ns, number, comes in changes:
            machine = self.clients[number].machine
            self.clock.call_at(ns / 1e9, self.clients[number].act, machine.start if comes else machine.stop)
            self.clock.call_at(ns / 1e9, self._come_or_leave, changes)
            break

    def _fill(self, room: PlannedConversation) -> None:
        """Everybody enters, once logged in and well before anybody speaks."""
        for user in room.members:
            for device in range(len(self.plan.devices)):
                client = self.clients[self.plan.device_index(user, device)]
                at = -LEAD + (2 + self._login_draws.at(client.number)) * LEAD / 4
                self.clock.call_at(at, client.act, partial(client.machine.enter, room.name))

    # --- what it is made of: another kind of world has others -------------------------------------------------------

    client_class = ClientNode
    gateway_class = GatewayNode
    batching_gateway_class: type[GatewayNode] = BatchingGatewayNode
    router_class = RouterNode
    storage_class = StorageNode

    def new_clock(self, at: float) -> Clock:
        return Clock(at)

    def new_link(self, kind: type[_L], fields: LinkFields, stream: Stream, where: str, bandwidth: float | None) -> _L:
        return kind(fields, stream, self.clock, self.link_luck, bandwidth)

    def new_work(self, tier: Tier, kind: str, index: int) -> Work:
        return Work(tier, self.seed, kind, index, self.clock)

    # --- who is where -----------------------------------------------------------------------------------------------

    def new_connection(self, client: ClientNode) -> Connection:
        """To the gateway of the device; if that is known to be down, the next one, as a load balancer would."""
        first = client.number % len(self.gateways)
        gateways = self.gateways[first:] + self.gateways[:first]
        gateway = next((gateway for gateway in gateways if gateway.seems_up), gateways[0])
        self._connections += 1
        return self._connection_class(self._connections, client, gateway)

    def backend_links(self, source: tuple[str, int], tier: str, count: int) -> list[BackboneLink]:
        """A node's links to all nodes of a tier."""
        kind, index = source
        fields = self.scenario.network.between(kind, tier)
        streams = [Stream(self._backend_draws, crc32(f"{kind}{index}>{tier}{n}".encode())) for n in range(count)]
        link_class = CuttableLink if self.faults.cuts_links else BackboneLink
        links = [self.new_link(link_class, fields, stream, f"{kind}-{tier}", fields.bandwidth) for stream in streams]
        for number, link in enumerate(links):
            if isinstance(link, CuttableLink):
                link.between(self.faults, source, (tier, number))
        return links

    def network_of(self, number: int) -> ClientLink:
        """The network of a device, which is its user's."""
        networks = self._networks
        return networks[number // len(self.plan.devices)] if networks else self.scenario.network.client

    def storage_for(self, request: storage.Request) -> StorageNode:
        if isinstance(request, storage.Append):
            return self._storage_of(request.message.conversation_id)
        if isinstance(request, storage.OpenConversation | storage.Lookup):
            return self._storage_of(request.conversation_id)
        return self._storage_of(request.session.user if isinstance(request, storage.Missed) else request.user)

    def by_router(self, users: Sequence[str]) -> Iterable[tuple[int, Sequence[str]]]:
        """The users split by the router that owns each: (router's index, users)."""
        if len(self.routers) == 1:
            return ((0, users),)
        parts: dict[int, list[str]] = {}
        for user in users:
            parts.setdefault(self.router_of(user).index, []).append(user)
        return parts.items()

    def issue(self, user: str) -> str:
        """A new token for this user."""
        return f"{user} {EPOCH + self.clock.now!r}"

    def revoke(self, user: str) -> None:
        """Every token of the user that was given out before now is void."""
        self.router_of(user).revoke(user)

    def has_user(self, name: str) -> bool:
        return name in self._user_numbers

    def user_number(self, user: str) -> int:
        return self._user_numbers[user]

    # --- what happened ----------------------------------------------------------------------------------------------

    def client_event(self, client: ClientNode, event: events.ClientEvent) -> None:
        self.observer.client_event(client.number, event, client.now)
        if self._has_requests and actor.wants_answer(client.machine, event):
            self.clock.call_at(self.clock.now, self._answer, (client, event))
        if self.on_client_event is not None:
            self.on_client_event(client, event)

    def _answer(self, told: tuple[ClientNode, events.Shown]) -> None:
        client, event = told
        client.act(lambda now: actor.answer(client.machine, event, now))
