"""The world of a case: the nodes, the links between them, and the script of a run.

After the last fault, the script repairs everything and waits for quiescence. Then it cuts all connections, so that
every device logs in once more. It sends a last message in each conversation, and has a new device of each user inspect
the final state. Finally the devices of one user log out and in, so that friends receive presence. The trace and the
final state are the evidence.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from imsim.core import storage
from imsim.core.client.connection import State
from imsim.core.model import ConversationState, Message, Scene, Session, Status
from imsim.faultsearch.app import list_friends, list_group
from imsim.faultsearch.case import PROBE, Case
from imsim.faultsearch.cluster import FlawedCluster
from imsim.faultsearch.entries import Planned, Present, Repaired, Rested, Stored
from imsim.faultsearch.faults import Fault, Windows
from imsim.faultsearch.inject import inject
from imsim.faultsearch.model.view import View
from imsim.faultsearch.nodes import GatewayNode, Instance, RouterNode
from imsim.faultsearch.workload import GROUPS

_LONGEST_PUSH_TIMEOUT = 60.0  # seconds; a constant of the gateway
_CHECK_INTERVAL = 0.25  # seconds
_LATE = 3.0  # tokens of a rate limit: a sender that waits for one has it when this many have accrued
_MOST_ENTRIES = 200_000  # of a trace: beyond it, the machines keep each other busy forever


@dataclass(frozen=True, slots=True)
class StoredLog:
    """A conversation as storage holds it at the end of the run."""

    members: tuple[str, ...]
    messages: list[Message]
    states: dict[str, ConversationState]  # by user
    seen: dict[str, list[int]]  # by user, the seqs that storage returns to a device without a memory
    state: dict[str, Any] | None


class World(FlawedCluster):
    """A cluster, the script of its run, and its final state."""

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        self.broken: str | None = None  # the traceback of a machine that raised an exception
        self.never_idle: list[str] = []  # each wait for quiescence that timed out, with the work that was pending
        # machine -> when it waited without a deadline, or with one too far away
        self.without_deadline: dict[str, str] = {}
        #: The missing entries of each live instance before the second login; each text must be empty.
        self.missing_entries: list[str] = []
        self.logs: dict[str, StoredLog] = {}
        #: The (instance, token) pairs that were logged in at quiescence, before and after the second login.
        self.tokens_in_use: list[tuple[str, str]] = []
        self.final_instances: list[Instance] = []  # the live instances at the end, before the probes start
        self.online: set[str] = set()  # the names of the final instances that were logged in
        self.probes: list[Instance] = []
        self.last_room_messages: dict[str, list[tuple[str, str]]] = {}  # chatroom -> (instance, idClient)

    def run(self) -> None:
        """Run the case to its end. If a machine raises an exception, the run ends: see `broken`."""
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
            self.clock.run(until=min(end, self.clock.now + _CHECK_INTERVAL))
            self._check_deadlines()
        self.repair()
        self._audit()
        self.run_until_idle(2.2 * case.policies.storage_timeout)
        self.missing_entries = [self.describe_missing(instance) for instance in self.instances() if instance.is_live]
        self._record_states()
        self._record_tokens()
        for connection in self._connections:
            connection.cut(None)
        self.run_until_idle()
        self._record_states()
        self._record_tokens()
        self._send_last_messages()
        self.run_until_idle()
        self._look()
        self._log_out_and_in()

    def _check_deadlines(self) -> None:
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
                self._check_deadline(instance, limits[instance.machine.state])
        for gateway in self.gateways.values():
            if gateway.is_up and gateway.connections:
                self._check_deadline(gateway, max(policies.login_timeout, policies.heartbeat_timeout))

    def _check_deadline(self, node: Instance | GatewayNode, most: float) -> None:
        assert node.machine is not None
        deadline = node.machine.next_deadline()
        if deadline is None or deadline > node.now + most + 0.001:
            self.without_deadline.setdefault(
                node.name, f"at {node.now:.3f} s of its own clock, its deadline was {deadline}"
            )

    def _record_tokens(self) -> None:
        there = (State.SYNCING, State.ONLINE)
        self.tokens_in_use += [
            (i.name, i.machine.token) for i in self.instances() if i.is_live and i.machine.state in there
        ]

    def _record_states(self) -> None:
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
        """End all faults, and restart every node and device that is down."""
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
        self._log_in_everyone()

    def _audit(self) -> None:
        """Record everyone's marks in storage, before new logins can correct them."""
        for user in self.case.users:
            request = storage.OpenUser(user)
            self.record(Stored(self.clock.now, "storage", "audit", request, self.storage.data.execute(request)))

    def _log_in_everyone(self) -> None:
        """Have an instance log in for every slot in which none is live."""
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

    def run_until_idle(self, idle_for: float = 0.0) -> None:
        """Run until no work has been pending for `idle_for` seconds, but no longer than the policies allow.

        Routers repeat requests that storage has not answered, so work can become pending again.
        """
        policies = self.case.policies
        timeout = 4 * (policies.heartbeat_timeout + policies.reconnect_max + policies.login_timeout)
        timeout += 8 * (policies.send_timeout + policies.storage_timeout) + 3 * _LONGEST_PUSH_TIMEOUT
        timeout += sum(3 * len(self.case.steps) / rate for rate in (policies.user_rate, policies.group_rate) if rate)
        end = self.clock.now + timeout
        pending, since = "the world was not checked", self.clock.now
        while self.clock.now < end and len(self.trace) < _MOST_ENTRIES:
            self.clock.run(until=self.clock.now + 1.0)
            self._log_in_everyone()
            pending = self._pending_work()
            if pending:
                since = self.clock.now
            elif self.clock.now - since >= idle_for:
                break
        for instance in self.instances():
            instance.look()
        if pending:
            self.never_idle.append(f"{pending}, at {self.clock.now:.0f} s")

    def _pending_work(self) -> str:
        """Return a text that names pending work; "" if there is none."""
        if self.storage.waiting:
            return "storage has not answered all requests"
        for (source, target), channel in self._channels.items():
            if not channel.is_idle:
                return f"{source} still has frames in flight to {target}"
        self._connections = [connection for connection in self._connections if not connection.is_over]
        for connection in self._connections:
            if not connection.is_quiet or connection.unacknowledged:
                return f"{connection.client.name} still has an unfinished connection to {connection.gateway.name}"
        for gateway in self.gateways.values():
            # The gateway's own count: it might have missed acknowledgements that have reached it.
            assert gateway.machine is not None, "all are up"
            if held := gateway.machine.unacknowledged:
                return f"{gateway.name} still holds {held} pushes, although all of them are acknowledged"
            if held := gateway.machine.held_marks:
                return f"{gateway.name} has not passed on {held} marks"
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

    def _send_last_messages(self) -> None:
        """Send one more message in each conversation, and have one user read everything: both must work again."""
        for app in self.apps.values():
            for instance in app.live[:1]:
                for view in instance.machine.conversations():
                    self._say(instance, view.scene, view.to, f"{app.key}-last-{view.id}")
        self.run_until_idle()
        for instance in self.instances():  # only now, as no device is disconnected as a slow reader any longer
            if instance.is_live:
                for room in sorted(instance.rooms):
                    id_client = f"{instance.name}-last-{room}"
                    self.last_room_messages.setdefault(room, []).append((instance.name, id_client))
                    self._say(instance, Scene.CHATROOM, room, id_client)
        self.run_until_idle()
        reader = next((i for i in self.instances() if i.is_live), None)
        if reader is not None:
            for view in reader.machine.conversations():
                self._read(reader, view.id)
        self.run_until_idle()
        self.final_instances = [instance for instance in self.instances() if instance.is_live]
        self.online = {instance.name for instance in self._online(self.final_instances)}

    @staticmethod
    def _say(instance: Instance, scene: Scene, to: str, id_client: str) -> None:
        said = {"scene": str(scene), "to": to, "id": id_client, "content": "bye", "type": "text"}
        instance.sent[id_client] = said
        instance.act(lambda now: instance.machine.send(scene, to, "bye", id_client, now))

    @staticmethod
    def _read(instance: Instance, conversation: str) -> None:
        instance.act(lambda now: instance.machine.read(conversation, now))

    def _look(self) -> None:
        """Read the final state from storage, and have a probe of each user log in and read it."""
        for number, user in enumerate(self.case.users):
            key = f"{user}/{PROBE}"
            self.windows[key] = Windows()
            probe = Instance(self, key, key, self.new_token(user), number)
            self.probes.append(probe)
            probe.start()
        self.run_until_idle()
        for probe in self.probes:
            if not probe.is_live:
                # An instance in the probe's slot had just lost its connection. It logged in again before it was kicked,
                # and so it ended the probe.
                probe.start()
                self.run_until_idle()
        self._list()
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

    def _list(self) -> None:
        """Have each probe list the groups and the friends of its user."""
        for probe in self.probes:
            if probe.is_live:
                for name in GROUPS:
                    list_group(probe, {"name": name})
                list_friends(probe, {})
        self.run_until_idle()

    def _log_out_and_in(self) -> None:
        """Have all devices of one user log out and in again, so that friends receive presence.

        The first times are quick, so that they use up the rate limit of presence.
        """
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

    def describe_missing(self, instance: Instance) -> str:
        """Return a text that names the first stored message that the device lacks; "" if it lacks none."""
        view = View.of(instance.user, instance.sent, instance.events)
        page = self.storage.data.execute(storage.Missed(Session(instance.user, "", 0, "", 0), {}, 1 << 30))
        assert isinstance(page, storage.MissedPage)
        missing = [m for m in page.messages if not view.has(m)]
        if missing:
            return f"{instance.name} lacks {missing[0].conversation_id}#{missing[0].seq}"
        return ""
