"""A small world to which a case happens: the nodes, what lies between them, and the script that is played on them.

After the last fault all is repaired, the world becomes quiescent, every device logs in once more, everybody writes a
last word, and a fresh device of each user looks at what there is. Last, one user goes and comes back, for friends to
hear of it. The trace, and what is there in the end, are the evidence.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from imsim.core import storage
from imsim.core.client.connection import State
from imsim.core.model import ConversationState, Message, Scene, Session, Status
from imsim.faultsearch.case import PROBE, Case
from imsim.faultsearch.cluster import FlawedCluster
from imsim.faultsearch.entries import Planned, Present, Repaired, Rested, Stored
from imsim.faultsearch.faults import Fault, Windows
from imsim.faultsearch.inject import inject
from imsim.faultsearch.model.view import View
from imsim.faultsearch.nodes import GatewayNode, Instance, RouterNode

_LONGEST_PUSH_TIMEOUT = 60.0  # seconds; the gateway's own
_LOOK_EVERY = 0.25  # seconds
_LATE = 3.0  # tokens of a budget: a sender that has to wait for one has got it when these have come
_MOST_ENTRIES = 200_000  # of a trace: beyond it, machines keep each other busy


@dataclass(frozen=True, slots=True)
class StoredLog:
    """A conversation as storage holds it in the end."""

    members: tuple[str, ...]
    messages: list[Message]
    states: dict[str, ConversationState]  # by user
    seen: dict[str, list[int]]  # by user, the seqs of what is shown to a device without a memory
    state: dict[str, Any] | None


class World(FlawedCluster):
    """A cluster, the script that is played on it, and what is there in the end."""

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        self.broken: str | None = None  # the traceback of a machine that raised
        self.restless: list[str] = []  # who still waited for what when all should have come to rest
        self.without_deadline: dict[str, str] = {}  # machine -> when it waited for something, and not until a deadline
        #: What each live instance lacked before everybody logged in once more, which should be nothing.
        self.deaf: list[str] = []
        self.logs: dict[str, StoredLog] = {}
        #: Who was logged in with which token when all had come to rest, before and after another login.
        self.in_use: list[tuple[str, str]] = []
        self.finalists: list[Instance] = []  # who is there in the end, before the probes come
        self.online: set[str] = set()  # which of them were logged in then
        self.probes: list[Instance] = []
        self.last_in_rooms: dict[str, list[tuple[str, str]]] = {}  # chatroom -> (instance, idClient)

    def run(self) -> None:
        """Play the case to its end. A machine that raises ends it: see `broken`."""
        try:
            self._play()
        except Exception:
            self.broken = traceback.format_exc(limit=-6)

    def _play(self) -> None:
        case = self.case
        for fault in case.faults:
            self.clock.call_at(fault.time, self._fault, fault)
        for number, app in enumerate(self.apps.values()):
            self.clock.call_at(0.01 * number, app.start_again, None)
        for step in case.steps:
            self.clock.call_at(step.time, lambda step: self.apps[step.device].do(step), step)
        end = case.duration + 0.01 * len(self.apps)
        while self.clock.now < end:
            self.clock.run(until=min(end, self.clock.now + _LOOK_EVERY))
            self._look_for_deadlines()
        self.repair()
        self._audit()
        self.run_until_idle(2.2 * case.policies.storage_timeout)
        self.deaf = [self.lack(instance) for instance in self.instances() if instance.is_live]
        self._record_standings()
        self._record_tokens()
        for connection in self._connections:
            connection.cut(None)
        self.run_until_idle()
        self._record_standings()
        self._record_tokens()
        self._last_words()
        self.run_until_idle()
        self._look()
        self._go_away()

    def _look_for_deadlines(self) -> None:
        policies = self.case.policies
        limits = {
            State.OFFLINE: policies.reconnect_max,
            State.CONNECTING: policies.login_timeout,
            State.LOGGING_IN: policies.login_timeout,
            State.SYNCING: policies.heartbeat,
            State.ONLINE: policies.heartbeat,
        }
        for instance in self.instances():
            if instance.is_live:
                self._has_deadline(instance, limits[instance.machine.state])
        for gateway in self.gateways.values():
            if gateway.is_up and gateway.connections:
                self._has_deadline(gateway, max(policies.login_timeout, policies.heartbeat_timeout))

    def _has_deadline(self, node: Instance | GatewayNode, most: float) -> None:
        assert node.machine is not None
        deadline = node.machine.next_deadline()
        if deadline is None or deadline > node.now + most + 0.001:
            self.without_deadline.setdefault(node.name, f"at {node.now:.3f} s of its own it waits until {deadline}")

    def _record_tokens(self) -> None:
        there = (State.SYNCING, State.ONLINE)
        self.in_use += [(i.name, i.machine.token) for i in self.instances() if i.is_live and i.machine.state in there]

    def _record_standings(self) -> None:
        for instance in self._online(self.instances()):
            machine, connection = instance.machine, instance.connection
            self.record(
                Rested(
                    self.clock.now,
                    instance.name,
                    connection.id if connection else 0,
                    tuple(sorted(instance.rooms)),
                    machine.conversations(),
                    machine.system_unread(),
                    tuple(id for id in instance.sent if machine.status(id) == Status.FAIL),
                )
            )

    @staticmethod
    def _online(instances: Iterable[Instance]) -> list[Instance]:
        return [one for one in instances if one.is_live and one.machine.state == State.ONLINE]

    def _fault(self, fault: Fault) -> None:
        self.record(Planned(self.clock.now, fault.target, str(fault)))
        inject(fault, self)

    def repair(self) -> None:
        """Nothing goes wrong from now on; who is down comes back."""
        self.record(Repaired(self.clock.now, "world"))
        self.ambushes.clear()
        self.at_login.clear()
        for windows in self.windows.values():
            windows.clear()
        for channel in self._channels.values():
            channel.repair()
        for pair in sorted(self.outages.broken):
            self.outages.end([pair])
        nodes: list[GatewayNode | RouterNode] = [*self.gateways.values(), *self.routers.values()]
        for node in nodes:
            self._restart(node)
        self._bring_back()

    def _audit(self) -> None:
        """Ask storage for everybody's marks, before new logins can put right what went wrong with them."""
        for user in self.case.users:
            request = storage.OpenUser(user)
            self.record(Stored(self.clock.now, "storage", "audit", request, self.storage.data.execute(request)))

    def _bring_back(self) -> None:
        """Every device has an instance that tries to be online; of those that may not be so at once, one."""
        there = (*self.instances(), *self.probes)
        taken = {self.case.slot(instance.key) for instance in there if instance.is_live}
        for app in self.apps.values():
            slot = self.case.slot(app.key)
            if slot in taken:
                continue
            taken.add(slot)
            if app.instances and app.current.is_up:
                app.current.start()
            else:
                app.start_again(None)

    def run_until_idle(self, calm: float = 0.0) -> None:
        """Wait until nothing is on its way and everybody has got an answer, as long as the policies may take; and until
        it has been so for some time: routers look again at what storage has not answered."""
        policies = self.case.policies
        patience = 4 * (policies.heartbeat_timeout + policies.reconnect_max + policies.login_timeout)
        patience += 8 * (policies.send_timeout + policies.storage_timeout) + 3 * _LONGEST_PUSH_TIMEOUT
        patience += sum(3 * len(self.case.steps) / rate for rate in (policies.user_rate, policies.group_rate) if rate)
        end = self.clock.now + patience
        unrest, since = "the world", self.clock.now
        while self.clock.now < end and len(self.trace) < _MOST_ENTRIES:
            self.clock.run(until=self.clock.now + 1.0)
            self._bring_back()
            unrest = self._unrest()
            if unrest:
                since = self.clock.now
            elif self.clock.now - since >= calm:
                break
        for instance in self.instances():
            instance.look()
        if unrest:
            self.restless.append(f"{unrest} at {self.clock.now:.0f} s")

    def _unrest(self) -> str:
        """Who still waits for something; "" if nobody does."""
        if self.storage.waiting:
            return "storage still has to answer"
        for (source, target), channel in self._channels.items():
            if not channel.is_idle:
                return f"{source} still has something on its way to {target}"
        self._connections = [connection for connection in self._connections if not connection.is_over]
        for connection in self._connections:
            if not connection.is_quiet or connection.unacknowledged:
                return f"{connection.client.name} still has an unfinished connection to {connection.gateway.name}"
        for gateway in self.gateways.values():
            # What the gateway itself holds: it might be deaf to the acknowledgements that have reached it.
            assert gateway.machine is not None, "all are up"
            if held := gateway.machine.unacknowledged:
                return f"{gateway.name} still holds {held} pushes, though all of them are acknowledged"
            if held := gateway.machine.held_marks:
                return f"{gateway.name} still holds {held} marks that it has to pass on"
        for instance in (*self.instances(), *self.probes):
            if instance.is_live:
                if instance.machine.state != State.ONLINE:
                    return f"{instance.name} is still {instance.machine.state}"
                for id_client in instance.sent:
                    if instance.machine.status(id_client) == Status.SENDING:
                        return f"{id_client} is still being sent by {instance.name}"
                for op, ref in (*instance.asked, *instance.unanswered):
                    return f"{instance.name} still waits for the answer to its {op} {ref}"
        return ""

    def _last_words(self) -> None:
        """What works again shows: one message more in each conversation, and one user who has read everything."""
        for app in self.apps.values():
            for instance in app.live[:1]:
                for view in instance.machine.conversations():
                    self._say(instance, view.scene, view.to, f"{app.key}-last-{view.id}")
        self.run_until_idle()
        for instance in self.instances():  # now, as nobody is cut off any more for being slow
            if instance.is_live:
                for room in sorted(instance.rooms):
                    id_client = f"{instance.name}-last-{room}"
                    self.last_in_rooms.setdefault(room, []).append((instance.name, id_client))
                    self._say(instance, Scene.CHATROOM, room, id_client)
        self.run_until_idle()
        reader = next((i for i in self.instances() if i.is_live), None)
        if reader is not None:
            for view in reader.machine.conversations():
                self._read(reader, view.id)
        self.run_until_idle()
        self.finalists = [instance for instance in self.instances() if instance.is_live]
        self.online = {instance.name for instance in self._online(self.finalists)}

    @staticmethod
    def _say(instance: Instance, scene: Scene, to: str, id_client: str) -> None:
        said = {"scene": str(scene), "to": to, "id": id_client, "content": "bye", "type": "text"}
        instance.sent[id_client] = said
        instance.act(lambda now: instance.machine.send(scene, to, "bye", id_client, now))

    @staticmethod
    def _read(instance: Instance, conversation: str) -> None:
        instance.act(lambda now: instance.machine.read(conversation, now))

    def _look(self) -> None:
        """What storage holds, and what a device without a memory is shown of it."""
        for number, user in enumerate(self.case.users):
            key = f"{user}/{PROBE}"
            self.windows[key] = Windows()
            probe = Instance(self, key, key, self.new_token(user), number)
            self.probes.append(probe)
            probe.start()
        self.run_until_idle()
        for probe in self.probes:
            if not probe.is_live:
                # One that was there had just lost its connection, and came back before it was kicked.
                probe.start()
                self.run_until_idle()
        execute = self.storage.data.execute
        seen: dict[str, dict[str, list[int]]] = {}
        states: dict[str, dict[str, ConversationState]] = {}
        for user in self.case.users:
            page = execute(storage.Missed(Session(user, "autopsy", 0, "", 0), {}, 1 << 30))
            record = execute(storage.OpenUser(user))
            assert isinstance(page, storage.MissedPage)
            assert isinstance(record, storage.UserState)
            for state, *_ in record.states:
                id = state.conversation_id
                states.setdefault(id, {})[user] = state
                seen.setdefault(id, {})[user] = [m.seq for m in page.messages if m.conversation_id == id]
        for conversation in states:
            opened = execute(storage.OpenConversation(conversation))
            assert isinstance(opened, storage.LogState)
            found = [execute(storage.Get(conversation, seq)) for seq in range(1, opened.max_seq + 1)]
            log = [message for message in found if isinstance(message, Message)]
            self.logs[conversation] = StoredLog(
                opened.members, log, states[conversation], seen[conversation], opened.state
            )

    def _go_away(self) -> None:
        """Once all has been looked at, all devices of one user go, and come back: friends hear of it, if they are to.
        Several times in a hurry first, which uses up what friends may hear at once."""
        case, user = self.case, self.case.users[0]
        if case.policies.presence != "friends":
            return
        blink = 10 * (case.client_latency + case.backend_latency)
        late = _LATE / (case.policies.presence_rate or 1.0)
        self.run_until_idle(late)
        self._record_presence()
        there = [i for i in (*self.instances(), *self.probes) if i.is_live and i.user == user]
        for is_last in (False, False, False, True):
            for instance in there:
                instance.act(instance.machine.stop)
            self.clock.run(until=self.clock.now + blink)
            if is_last:
                self.clock.run(until=self.clock.now + late)
                self._record_presence()
            for instance in there:
                instance.start()
            self.clock.run(until=self.clock.now + blink)
        self.run_until_idle(late)
        self._record_presence()

    def _record_presence(self) -> None:
        there = self._online((*self.instances(), *self.probes))
        self.record(Present(self.clock.now, "world", tuple(instance.name for instance in there)))

    def lack(self, instance: Instance) -> str:
        """In words, what the log holds for this device and the device does not; "" if nothing."""
        view = View.of(instance.user, instance.sent, instance.events)
        page = self.storage.data.execute(storage.Missed(Session(instance.user, "", 0, "", 0), {}, 1 << 30))
        assert isinstance(page, storage.MissedPage)
        missing = [m for m in page.messages if not view.has(m)]
        if missing:
            return f"{instance.name} lacks {missing[0].conversation_id}#{missing[0].seq}"
        return ""
