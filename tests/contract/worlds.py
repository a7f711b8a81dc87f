"""The worlds that the contract suite runs in. Each has devices, a server that can stop and start, and a clock.

A test controls and observes a device through the core's Client and its events, which are the same in all worlds. The
worlds differ in the transport between that client and the server.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Callable, Coroutine
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from imsim import live
from imsim.core import events
from imsim.core.client.client import Client
from imsim.core.client.conversations import Conversation
from imsim.core.model import MessageType, Scene, is_p2p
from imsim.core.storage import Between, LogState, Relations, Request, Result
from imsim.core.storage.memory import MemoryStorage
from imsim.live import Server, SqliteStore, Tokens, run_until_idle
from imsim.scenario import Plan, Scenario
from imsim.scenario.sections import Limits
from imsim.sim import Experiment
from imsim.sim.nodes import DeviceNode
from imsim.sim.nodes.work import Work
from imsim.testing import DirectClient, ManualClock, Pair

USERS = ("alice", "bob", "carol", "dave")
DEVICES = ("d0", "d1", "d2")


class Device:
    """A device, as a test controls and observes it."""

    machine: Client
    events: list[events.ClientEvent]

    def __init__(self, world: World) -> None:
        self.world = world
        self.events = []

    # --- different in each world ---

    def act(self, action: Callable[[float], object]) -> None:
        raise NotImplementedError

    def break_connection(self) -> None:
        raise NotImplementedError

    def lose(self, predicate: Callable[[Any], bool]) -> None:
        """Lose, from now on, each frame of this device for which `predicate` is true, in either direction."""
        raise NotImplementedError

    # --- the same in all worlds ---

    def start(self) -> Device:
        self.act(self.machine.start)
        self.world.run_until_idle()
        return self

    def stop(self) -> None:
        self.act(self.machine.stop)
        self.world.run_until_idle()

    def send(self, to: str, content: str, id_client: str, *, run_until_idle: bool = True) -> None:
        """Send a message to a user or, if `to` starts with "#", to a group. `id_client` is a number as text."""
        scene, to = (Scene.GROUP, to[1:]) if to.startswith("#") else (Scene.P2P, to)
        self.act(lambda now: self.machine.send(scene, to, content, id_client, now))
        if run_until_idle:
            self.world.run_until_idle()

    def end_session(self, device: str) -> None:
        self.act(lambda now: self.machine.end_session(device, now))
        self.world.run_until_idle()

    def read(self, conversation_id: str) -> None:
        self.act(lambda now: self.machine.read(conversation_id, now))
        self.world.run_until_idle()

    def set_conversation(self, conversation_id: str, *, run_until_idle: bool = True, **changes: Any) -> None:
        self.act(lambda now: self.machine.set_conversation(conversation_id, now, **changes))
        if run_until_idle:
            self.world.run_until_idle()

    def hide(self, conversation_id: str) -> None:
        self.act(lambda now: self.machine.hide(conversation_id, now))
        self.world.run_until_idle()

    def history(self, conversation_id: str, first: int, last: int) -> None:
        self.act(lambda now: self.machine.history(conversation_id, first, last, now))
        self.world.run_until_idle()

    def read_count(self, conversation_id: str, seq: int) -> None:
        self.act(lambda now: self.machine.read_count(conversation_id, seq, now))
        self.world.run_until_idle()

    def group(self, name: str, after: str = "") -> None:
        self.act(lambda now: self.machine.group(name, after, now))
        self.world.run_until_idle()

    def friends(self, after: str = "") -> None:
        self.act(lambda now: self.machine.friends(after, now))
        self.world.run_until_idle()

    def create_group(self, name: str, *members: str) -> None:
        self.act(lambda now: self.machine.create_group(name, members, now))
        self.world.run_until_idle()

    def change(
        self,
        to: str,
        event: str,
        id_client: str,
        *targets: str,
        run_until_idle: bool = True,
        **data: Any,
    ) -> None:
        """Send a change to a user or, if `to` starts with "#", to a group; with "*", to a chatroom."""
        scene = {"#": Scene.GROUP, "*": Scene.CHATROOM}.get(to[0], Scene.P2P)
        to = to.lstrip("#*")
        self.act(lambda now: self.machine.change(scene, to, event, id_client, now, targets=targets, data=data))
        if run_until_idle:
            self.world.run_until_idle()

    def notify(self, to: str, id_client: str, *, custom: str) -> None:
        """Send a system message to a user."""
        self.act(
            lambda now: self.machine.send(Scene.SYSTEM, to, "", id_client, now, type=MessageType.CUSTOM, custom=custom)
        )
        self.world.run_until_idle()

    def enter(self, room: str, recent: int = 0) -> None:
        self.act(lambda now: self.machine.enter(room, now, recent))
        self.world.run_until_idle()

    def leave(self, room: str) -> None:
        self.act(lambda now: self.machine.leave(room, now))
        self.world.run_until_idle()

    def say(self, room: str, content: str, id_client: str) -> None:
        """Send a message to a chatroom."""
        self.act(lambda now: self.machine.send(Scene.CHATROOM, room, content, id_client, now))
        self.world.run_until_idle()

    def typing(self, conversation_id: str) -> None:
        self.act(lambda now: self.machine.typing(conversation_id, now))
        self.world.run_until_idle()

    def lose_next(self, op: str, times: int = 1) -> None:
        """Lose the next `times` frames of this op."""
        left = [times]

        def predicate(frame: Any) -> bool:
            if frame.op == op and left[0]:
                left[0] -= 1
                return True
            return False

        self.lose(predicate)

    def lose_nothing(self) -> None:
        self.lose(lambda frame: False)

    def of(self, kind: type) -> list[Any]:
        return [event for event in self.events if type(event) is kind]

    @property
    def shown(self) -> list[str]:
        """The contents at the time of showing, without notices and system messages."""
        shown = (event.message for event in self.of(events.Shown))
        return [m.content for m in shown if m.type != MessageType.NOTIFICATION and m.scene != Scene.SYSTEM]

    @property
    def seqs(self) -> dict[str, int]:
        """The seq of each acknowledged send of this device, by id_client."""
        return {event.id_client: event.seq for event in self.of(events.Acked)}

    @property
    def lines(self) -> dict[str, Conversation]:
        """The conversation list, by id."""
        return {line.id: line for line in self.machine.conversations()}

    def unread(self, conversation_id: str) -> int:
        return self.lines[conversation_id].unread


class World:
    """A world of the contract suite: devices, a server and a clock."""

    def device(self, user: str, device: str = "d0", token: str | None = None, kind: str = "") -> Device:
        """Return a new client for this device. Call its `start()` to log in.

        Without `token` it gets a new token. Without `kind` each device of a user is of another kind.
        """
        return self._device(user, device, token, kind or device)

    def _device(self, user: str, device: str, token: str | None, kind: str) -> Device:
        raise NotImplementedError

    def befriend(self) -> None:
        """Make all users friends, without an entry in their logs. Call it before the first login."""
        raise NotImplementedError

    def revoke(self, user: str) -> None:
        """Revoke all tokens that the user has."""
        raise NotImplementedError

    def run_until_idle(self) -> None:
        """Process everything that needs no passing of time."""
        raise NotImplementedError

    def advance(self, seconds: float) -> None:
        raise NotImplementedError

    def stop_server(self) -> None:
        """Crash the server. Only the data in storage survives."""
        raise NotImplementedError

    def start_server(self) -> None:
        raise NotImplementedError

    def lose_storage(self) -> None:
        """Delete all stored data. The server must be stopped."""
        raise NotImplementedError

    def back_up(self) -> None:
        """Copy the stored data. The server must be stopped."""
        raise NotImplementedError

    def restore(self) -> None:
        """Replace the stored data with the copy. The server must be stopped."""
        raise NotImplementedError

    def slow_down(self, seconds: float) -> None:
        """Let every send wait for this time at its gateway, from now on."""
        raise NotImplementedError

    def close(self) -> None:
        pass

    def restart_server(self) -> None:
        self.stop_server()
        self.start_server()


def scenario_for(policies: dict[str, Any]) -> Scenario:
    paths = {f"{'limits' if name in Limits.model_fields else 'policies'}.{name}": v for name, v in policies.items()}
    zero = {"network.client.latency": 0.0, "network.backend.latency": 0.0}
    return Scenario().replace(
        {"population.users": len(USERS), "population.devices": len(DEVICES), "workload.size": 1, **zero, **paths}
    )


# --- machines wired directly ----------------------------------------------------------------------------------------


class _WiredDevice(Device):
    def __init__(self, world: WiredWorld, direct: DirectClient) -> None:
        super().__init__(world)
        self.direct = direct
        self.machine = direct.machine
        self.events = direct.events
        self._clock = world.pair.clock

    def act(self, action: Callable[[float], object]) -> None:
        action(self._clock.now)

    def break_connection(self) -> None:
        self.direct.break_connection()

    def lose(self, predicate: Callable[[Any], bool]) -> None:
        self.direct.lose = predicate


class _AmongFriends(MemoryStorage):
    """A storage in which any two users are friends, unless their log contains another state."""

    def execute(self, request: Request) -> Result:
        result = super().execute(request)
        if isinstance(request, Between) and isinstance(result, Relations):
            return replace(result, friends=request.others)
        if isinstance(result, LogState) and result.state is None and is_p2p(request.conversation_id):
            return replace(result, state={"friends": True, "request": None})
        return result


class WiredWorld(World):
    def __init__(self, **policies: Any) -> None:
        self.pair = Pair(scenario_for(policies).core_policies())

    def befriend(self) -> None:
        self.pair.storage = _AmongFriends(self.pair.policies.fanout)

    def _device(self, user: str, device: str, token: str | None, kind: str) -> Device:
        return _WiredDevice(self, self.pair.client(user, device, token, kind))

    def revoke(self, user: str) -> None:
        self.pair.revoke(user)

    def run_until_idle(self) -> None:
        self.pair.run_until_idle()

    def advance(self, seconds: float) -> None:
        self.pair.advance(seconds)

    def stop_server(self) -> None:
        self.pair.stop_server()

    def start_server(self) -> None:
        self.pair.start_server()

    def slow_down(self, seconds: float) -> None:
        self.pair.server_wait = seconds

    def lose_storage(self) -> None:
        self.pair.storage = type(self.pair.storage)(self.pair.policies.fanout, "another log")

    def back_up(self) -> None:
        self._copy = deepcopy(self.pair.storage)

    def restore(self) -> None:
        self.pair.storage = self._copy


# --- the simulation, with two gateways and two routers --------------------------------------------------------------


class _SimulatedDevice(Device):
    def __init__(self, world: SimulatedWorld, node: DeviceNode) -> None:
        super().__init__(world)
        self.node = node
        self.machine = node.machine

    def act(self, action: Callable[[float], object]) -> None:
        self.node.act(action)

    def break_connection(self) -> None:
        self.node.break_connection()
        self.world.run_until_idle()

    def lose(self, predicate: Callable[[Any], bool]) -> None:
        self.node.lose = predicate


class _SlowWork:
    """The work of a node, in which every operation waits for some seconds."""

    def __init__(self, work: Work, seconds: float) -> None:
        self.work = work
        self._seconds = seconds

    def __getattr__(self, name: str) -> Any:
        return getattr(self.work, name)

    def wait(self, now: float, op: str) -> float:
        return self._seconds


class SimulatedWorld(World):
    def __init__(self, **policies: Any) -> None:
        none = np.zeros(0, np.int64)
        plan = Plan(none, none, none, none, none, none, list(USERS), list(DEVICES), ["text"], [], [])
        scenario = scenario_for(policies).replace({"topology.gateways": 2, "topology.routers": 2})
        self.sim = Experiment(scenario, plan)
        self.sim.listeners.append(self._record)
        self._devices: dict[int, _SimulatedDevice] = {}

    def _record(self, node: DeviceNode, event: events.ClientEvent) -> None:
        self._devices[id(node)].events.append(event)

    def _device(self, user: str, device: str, token: str | None, kind: str) -> Device:
        node = self.sim.client(USERS.index(user), DEVICES.index(device), token, kind)
        made = self._devices[id(node)] = _SimulatedDevice(self, node)
        return made

    def revoke(self, user: str) -> None:
        self.sim.cluster.revoke(user)
        self.run_until_idle()

    def run_until_idle(self) -> None:
        self.sim.clock.run_until_idle()

    def advance(self, seconds: float) -> None:
        self.run_until_idle()
        self.sim.clock.run(until=self.sim.clock.now + seconds)
        self.run_until_idle()

    def stop_server(self) -> None:
        for node in (*self.sim.cluster.gateways, *self.sim.cluster.routers):
            node.crash()
        for gateway in self.sim.cluster.gateways:
            gateway.crash_noticed()
        self.run_until_idle()

    def start_server(self) -> None:
        for node in (*self.sim.cluster.gateways, *self.sim.cluster.routers):
            node.start()

    def slow_down(self, seconds: float) -> None:
        for gateway in self.sim.cluster.gateways:
            work: Any = gateway.work
            gateway.work = _SlowWork(work.work if isinstance(work, _SlowWork) else work, seconds)

    def lose_storage(self) -> None:
        self.sim.cluster.data.memory = MemoryStorage(self.sim.cluster.policies.fanout, "another log")

    def back_up(self) -> None:
        self._copy = deepcopy(self.sim.cluster.data.memory)

    def restore(self) -> None:
        self.sim.cluster.data.memory = self._copy


# --- a WebSocket server and clients on loopback, with an SQLite file and a clock moved by hand ----------------------


class _LiveDevice(Device):
    def __init__(self, world: LiveWorld, user: str, device: str, token: str | None, kind: str) -> None:
        super().__init__(world)
        if token is None:
            token, _ = world.tokens.issue(user, world.clock())
        self.client = live.Device(
            world.server.url,
            user,
            device,
            kind=kind,
            token=token,
            policies=world.policies,
            clock=world.clock,
            draw=lambda: 0.5,
            on_event=self.events.append,
        )
        self.machine = self.client.machine
        self._run = world.run

    def act(self, action: Callable[[float], object]) -> None:
        async def in_the_loop() -> None:
            self.client.perform(action)

        self._run(in_the_loop())

    def break_connection(self) -> None:
        async def in_the_loop() -> None:
            self.client.break_connection()

        self._run(in_the_loop())
        self.world.run_until_idle()

    def lose(self, predicate: Callable[[Any], bool]) -> None:
        self.client.lose = predicate


#: A file system in memory (Linux). The suite makes about 500 databases, and needs none of them after its test.
MEMORY = Path("/dev/shm")


class LiveWorld(World):
    def __init__(self, **policies: Any) -> None:
        self.policies = scenario_for(policies).core_policies()
        self.clock = ManualClock(1000.0)
        self.tokens = Tokens("key", 1e9)
        self._loop = asyncio.new_event_loop()
        self._folder = tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None)
        self._port = 0
        self._up = False
        self._devices: list[_LiveDevice] = []
        self.start_server()

    def run(self, work: Coroutine[Any, Any, Any]) -> None:
        self._loop.run_until_complete(work)

    def _device(self, user: str, device: str, token: str | None, kind: str) -> Device:
        made = _LiveDevice(self, user, device, token, kind)
        self._devices.append(made)
        return made

    def revoke(self, user: str) -> None:
        async def in_the_loop() -> None:
            assert await self.server.revoke(user)

        self.run(in_the_loop())
        self.run_until_idle()

    def run_until_idle(self) -> None:
        self.run(
            run_until_idle(self.server if self._up else None, self._store, [device.client for device in self._devices])
        )

    def advance(self, seconds: float) -> None:
        self.run_until_idle()
        end = self.clock.now + seconds
        while (due := self._next_deadline()) is not None and due <= end:
            self.clock.now = max(self.clock.now, due)
            self.run(self._wake())
            self.run_until_idle()
        self.clock.now = end

    def _next_deadline(self) -> float | None:
        machines: list[Any] = [device.machine for device in self._devices]
        if self._up:
            machines.append(self.server.machine)
        return min((due for machine in machines if (due := machine.next_deadline()) is not None), default=None)

    async def _wake(self) -> None:
        for device in self._devices:
            device.client.wake()
        if self._up:
            self.server.wake()

    def stop_server(self) -> None:
        async def crash() -> None:
            self.server.abort()

        self.run(crash())
        self._up = False
        self.run_until_idle()
        self._store.close()

    def start_server(self) -> None:
        self._store = SqliteStore(f"{self._folder.name}/log.sqlite", synchronous="NORMAL", fanout=self.policies.fanout)
        self.server = Server(self.policies, self._store, key="key", clock=self.clock, wall=self.clock)
        self.run(self.server.start(port=self._port))
        self._port = self.server.port
        self._up = True

    def slow_down(self, seconds: float) -> None:
        self.server.machine._gateway._port.waited = lambda: seconds

    def lose_storage(self) -> None:
        for file in Path(self._folder.name).glob("log.sqlite*"):
            file.unlink()

    def back_up(self) -> None:
        shutil.copy(f"{self._folder.name}/log.sqlite", f"{self._folder.name}/backup")

    def restore(self) -> None:
        self.lose_storage()
        shutil.copy(f"{self._folder.name}/backup", f"{self._folder.name}/log.sqlite")

    def close(self) -> None:
        for device in self._devices:
            self.run(device.client.stop())
        self.run(self.server.stop())
        self._store.close()
        self._loop.close()
        self._folder.cleanup()


WORLDS: dict[str, type[World]] = {"wired": WiredWorld, "simulated": SimulatedWorld, "live": LiveWorld}
