"""Storms: after any sequence of faults and its repair, all devices have the same logs.

Hypothesis runs a storm on a `Pair`. Frames get lost, connections break, and the server crashes. Storage fails, executes
a request but reports a failure, or does not answer. Then everything is repaired, and brute force checks the results.

The policies `delivery`, `fanout` and `receipts` are drawn with the storm, because visible messages must not depend on
them.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

from core.builders import AB, TEAM
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from imsim.core import events, storage
from imsim.core.changes import event_of, is_visible
from imsim.core.client.connection import State
from imsim.core.model import Code, MessageType, Scene, Session, Status
from imsim.core.policies import Policies
from imsim.testing import Pair

DEVICES = (("alice", "d0"), ("alice", "d1"), ("bob", "d0"), ("carol", "d0"))
MEMBERS = {AB: ("alice", "bob"), "p2p:alice:carol": ("alice", "carol"), TEAM: ("alice", "bob", "carol")}
USERS = ("alice", "bob", "carol")
LOGS = (*MEMBERS, *(f"system:{user}" for user in USERS))
LOSABLE = (
    *("send", "stored", "rejected", "push", "delivered", "read", "set_conversation", "done", "state", "state_ack"),
    *("logged_in", "sync", "page", "sync_done", "notify", "resync", "history", "history_page"),
)
TROUBLE = ("failed", "done but failed", "done in silence", "silent")


class StormyPair(Pair):
    """A pair whose storage treats the next requests of an op as `trouble` lists, one entry for each request."""

    def __init__(self, policies: Policies) -> None:
        self.trouble: dict[str, list[str]] = defaultdict(list)
        super().__init__(policies)

    def store(self, request):
        how = self.trouble[request.op].pop() if self.trouble[request.op] else "well"
        if how == "well":
            super().store(request)
            return
        server = self.server
        if how in ("done but failed", "done in silence"):
            self.storage.execute(request)
        if how in ("failed", "done but failed"):
            failed = storage.Failed(how)
            self._queue.append(
                lambda: server.stored(request, failed, self.clock.now) if server is self.server else None
            )


class Storm(RuleBasedStateMachine):
    # With 10,000 attempts, a client never gives up a send. Then every send must be stored in the end.
    policies = Policies(send_attempts=10_000, page=3, send_queue=20, open_conversations=5)
    gives_up = False

    @initialize(
        delivery=st.sampled_from(("push", "notify")),
        fanout=st.sampled_from(("read", "write")),
        receipts=st.sampled_from(("read", "delivered")),
    )
    def calm(self, delivery, fanout, receipts):
        self.pair = StormyPair(replace(self.policies, delivery=delivery, fanout=fanout, receipts=receipts))
        self.devices = [self.pair.client(user, device) for user, device in DEVICES]
        for device in self.devices:
            device.start()
        self.devices[0].machine.change(
            Scene.GROUP, "team", "create", "create", 0.0, targets=["bob", "carol"], data={"join": "open"}
        )
        self.pair.run_until_idle()
        self.sent = {device: defaultdict(list) for device in self.devices}  # conversation -> idClients
        self.losing = {device: [] for device in self.devices}  # the ops whose next frame gets lost
        for device in self.devices:
            device.lose = lambda frame, losing=self.losing[device]: self.is_lost(losing, frame)
        self.count = 0

    @staticmethod
    def is_lost(losing, frame):
        if frame.op in losing:
            losing.remove(frame.op)
            return True
        return False

    # --- rules: actions and faults ---

    numbers = st.integers(0, len(DEVICES) - 1)

    @rule(number=numbers, where=st.sampled_from(sorted(MEMBERS)), run_until_idle=st.booleans())
    def send(self, number, where, run_until_idle):
        device = self.devices[number]
        if device.machine.user in MEMBERS[where]:
            scene, to, id_client = self.address(device, where)
            device.machine.send(scene, to, f"text of {id_client}", id_client, self.pair.clock.now)
            if run_until_idle:
                self.pair.run_until_idle()

    def address(self, device, where):
        user = device.machine.user
        self.count += 1
        id_client = f"{user}-{device.machine.device}-{self.count}"
        self.sent[device][where].append(id_client)
        if where == TEAM:
            return Scene.GROUP, "team", id_client
        return Scene.P2P, next(member for member in MEMBERS[where] if member != user), id_client

    def change(self, number, where, event, run_until_idle, *targets, **data):
        device = self.devices[number]
        if device.machine.user in MEMBERS[where]:
            scene, to, id_client = self.address(device, where)
            device.machine.change(scene, to, event, id_client, self.pair.clock.now, targets=targets, data=data)
            if run_until_idle:
                self.pair.run_until_idle()

    @rule(
        number=numbers,
        event=st.sampled_from(("invite", "kick", "leave", "join")),
        whom=st.sampled_from(USERS),
        run_until_idle=st.booleans(),
    )
    def change_group(self, number, event, whom, run_until_idle):
        self.change(number, TEAM, event, run_until_idle, *([whom] if event in ("invite", "kick") else []))

    @rule(
        number=numbers,
        where=st.sampled_from(sorted(set(MEMBERS) - {TEAM})),
        event=st.sampled_from(("friend_request", "friend_accept", "friend_reject", "friend_delete")),
        run_until_idle=st.booleans(),
    )
    def change_friends(self, number, where, event, run_until_idle):
        self.change(number, where, event, run_until_idle)

    @rule(
        number=numbers,
        where=st.sampled_from(sorted(MEMBERS)),
        seq=st.integers(1, 12),
        back=st.booleans(),
        content=st.none() | st.sampled_from("xyz"),
        run_until_idle=st.booleans(),
    )
    def amend(self, number, where, seq, back, content, run_until_idle):
        if back:
            seq = max(1, len(self.log(where)) + 1 - seq)
        data = {"seq": seq} if content is None else {"seq": seq, "content": content}
        self.change(number, where, "recall" if content is None else "edit", run_until_idle, **data)

    @rule(content=st.none() | st.sampled_from("xyz"), back=st.booleans(), run_until_idle=st.booleans())
    def amend_in_absence(self, content, back, run_until_idle):
        """Alice changes a message that bob has seen, after bob has left the group."""
        self.send(0, TEAM, True)
        seq = len(self.log(TEAM))
        self.change(2, TEAM, "leave", True)
        data = {"seq": seq} if content is None else {"seq": seq, "content": content}
        self.change(0, TEAM, "recall" if content is None else "edit", run_until_idle, **data)
        if back:
            self.change(2, TEAM, "join", run_until_idle)

    @rule(number=numbers, where=st.sampled_from(sorted(MEMBERS)))
    def read(self, number, where):
        self.devices[number].machine.read(where, self.pair.clock.now)
        self.pair.run_until_idle()

    @rule(
        number=numbers,
        where=st.sampled_from(sorted(MEMBERS)),
        change=st.sampled_from(
            ({"pinned": True}, {"pinned": False}, {"muted": True}, {"custom": "a"}, {"blocked": False}, "hide")
        ),
        run_until_idle=st.booleans(),
    )
    def change_settings(self, number, where, change, run_until_idle):
        machine = self.devices[number].machine
        if "blocked" in change and (where == TEAM or machine.user not in MEMBERS[where]):
            return
        if change == "hide":
            machine.hide(where, self.pair.clock.now)
        else:
            machine.set_conversation(where, self.pair.clock.now, **change)
        if run_until_idle:
            self.pair.run_until_idle()

    @rule(number=numbers, where=st.sampled_from(sorted(set(MEMBERS) - {TEAM})))
    def block(self, number, where):
        machine = self.devices[number].machine
        if machine.user in MEMBERS[where]:
            machine.set_conversation(where, self.pair.clock.now, blocked=True)
            self.pair.run_until_idle()

    @rule(number=numbers, op=st.sampled_from(LOSABLE))
    def lose_next(self, number, op):
        self.losing[self.devices[number]].append(op)

    @rule(number=numbers)
    def break_connection(self, number):
        self.devices[number].break_connection()

    @rule(number=numbers)
    def leave(self, number):
        self.devices[number].machine.stop(self.pair.clock.now)
        self.pair.run_until_idle()

    @rule(number=numbers)
    def come(self, number):
        self.devices[number].start()

    @rule(
        op=st.sampled_from(sorted(storage.STORAGE_OPS - {"inbox"})),
        how=st.sampled_from(TROUBLE),
    )
    def trouble_storage(self, op, how):
        self.pair.trouble[op].append(how)

    @precondition(lambda self: self.pair.up)
    @rule()
    def crash(self):
        self.pair.stop_server()

    @precondition(lambda self: not self.pair.up)
    @rule()
    def restart(self):
        self.pair.start_server()

    @rule(seconds=st.sampled_from((0.1, 1.0, 2.5, 4.0, 11.0, 100.0)))
    def advance(self, seconds):
        self.pair.advance(seconds)

    # --- the expected state, by brute force ---

    def log(self, where):
        found = self.pair.storage._logs.get(where)
        return list(found.messages) if found else []

    def visible(self, user, where):
        """Return the seqs that the user may see.

        In a group, these are the messages from joining to leaving. If the user joins again, recalls and edits from the
        time between the memberships are visible if they concern a message that the user has seen.
        """
        log = self.log(where)
        if where != TEAM:
            return {message.seq for message in log if user in MEMBERS.get(where, where.split(":"))}
        seen = set()
        for message, before, after in self.memberships(log):
            if user in after - before:
                seen |= {entry.seq for entry in log[: message.seq] if self.about(log, entry, message.seq) in seen}
            if user in before | after:
                seen.add(message.seq)
        return seen

    @staticmethod
    def memberships(log):
        """Yield each message of a group's log with the members before and after it."""
        members = set()
        for message in log:
            before = set(members)
            targets = message.file["targets"] if message.file else []
            event = event_of(message)
            if event in ("create", "join"):
                members.add(message.sender)
            if event in ("create", "invite"):
                members |= set(targets)
            if event == "leave":
                members.discard(message.sender)
            if event == "kick":
                members -= set(targets)
            yield message, before, set(members)

    @staticmethod
    def about(log, entry, when):
        """Return the seq of the message that this log entry recalls or edits, or 0 if it does neither.

        The entry counts as it was at `when`. An edit whose message was recalled after `when` is blank: then the recall
        says which message it was.
        """
        if entry.recalled and entry.type == MessageType.NOTIFICATION and entry.amended > when:
            entry = log[entry.amended - 1]
        return entry.file["data"]["seq"] if event_of(entry) in ("recall", "edit") else 0

    def ended(self, user, where):
        """Return the seq that ended the user's latest ended membership, or 0 if no membership has ended."""
        if where != TEAM:
            return 0
        memberships = self.memberships(self.log(where))
        return max((message.seq for message, before, after in memberships if user in before - after), default=0)

    def is_out_of_sight(self, user, where):
        """Return whether a message that the user saw was recalled after the user left the group.

        The user's devices do not receive such a recall until the user joins again.
        """
        visible = self.visible(user, where)
        out = any(m.seq in visible and m.recalled and m.amended not in visible for m in self.log(where))
        members = [after for _, _, after in self.memberships(self.log(where))]
        assert not out or (where == TEAM and user not in members[-1])
        return out

    def words(self, user, where, message):
        """Return the content of a message as the user sees it. Later edits do not reach former members."""
        if message.type != MessageType.TEXT:
            return message.content
        log, visible = self.log(where), self.visible(user, where)
        edits = [m for m in log if m.seq in visible and event_of(m) == "edit" and self.about(log, m, 0) == message.seq]
        return edits[-1].file["data"]["content"] if edits else f"text of {message.id_client}"

    @staticmethod
    def session(user):
        return Session(user, "inspector", 0, "", 0)

    def acked(self, device):
        return [event for event in device.events if type(event) is events.Acked]

    def shown(self, device, where):
        return [
            event.message.seq
            for event in device.events
            if type(event) is events.Shown and event.message.conversation_id == where
        ]

    # --- invariants at every step ---

    @invariant()
    def acknowledged_messages_are_in_the_log(self):
        logs = {where: self.log(where) for where in MEMBERS}
        for device in self.devices:
            for ack in self.acked(device):
                stored = logs[ack.conversation_id][ack.seq - 1]
                assert (stored.id_client, stored.sender) == (ack.id_client, device.machine.user)

    @invariant()
    def messages_are_shown_once_and_in_order(self):
        for device in self.devices:
            for where in LOGS:
                shown = self.shown(device, where)
                assert shown == sorted(set(shown))

    @invariant()
    def no_visible_message_is_skipped(self):
        """Each message up to the cursor was shown, or sent by this device, or is not visible to it."""
        for device in self.devices:
            acked = self.acked(device)
            for id, conversation in device.machine._receiver.conversations.items():
                mine = [ack.seq for ack in acked if ack.conversation_id == id]
                cursor = conversation.inbox.cursor
                seen = {*self.shown(device, id), *(seq for seq in mine if seq <= cursor)}
                visible = self.visible(device.machine.user, id)
                assert seen <= visible
                below = [m for m in self.log(id) if m.seq <= cursor and m.seq in visible and is_visible(m)]
                assert seen >= {message.seq for message in below}

    @invariant()
    def unread_follows_from_the_events(self):
        for device in self.devices:
            counted, ended = defaultdict(set), defaultdict(int)
            for event in device.events:
                if (end := self.end_shown_by(event, device.machine.user)) is not None:
                    ended[end.conversation_id] = max(ended[end.conversation_id], end.seq)
                if type(event) is events.Shown and event.message.sender != device.machine.user:
                    if event.message.countable:
                        counted[event.message.conversation_id].add(event.message.seq)
                elif type(event) is events.Recalled:
                    counted[event.conversation_id].discard(event.seq)
            lines = device.machine.conversations()
            for line in lines:
                assert line.unread == sum(seq > max(line.read_seq, ended[line.id]) for seq in counted[line.id])
            assert device.machine.total_unread() == sum(line.unread for line in lines)

    def end_shown_by(self, event, user):
        """Return the log entry that ends the user's membership of a group, if this event shows it, otherwise None."""
        if type(event) is events.Shown:
            entry = event.message
        elif type(event) is events.Acked:
            entry = self.log(event.conversation_id)[event.seq - 1]
        else:
            return None
        left = event_of(entry) == "leave" and entry.sender == user
        return entry if left or (event_of(entry) == "kick" and user in entry.file["targets"]) else None

    # --- checks at the end ---

    def teardown(self):
        if not hasattr(self, "pair"):
            return
        self.repair()
        logs = {where: self.log(where) for where in MEMBERS}
        self.check_logs(logs)
        for device in self.devices:
            self.check_device(device, logs)
        self.check_system()
        for user in USERS:
            self.check_states(user, logs)

    def repair(self):
        self.pair.trouble.clear()
        for losing in self.losing.values():
            losing.clear()
        if not self.pair.up:
            self.pair.start_server()
        for device in self.devices:
            device.start()
        self.pair.advance(300)
        self.check_devices()  # the devices have everything without a new login
        self.log_in_again()
        assert all(device.machine.state == State.ONLINE for device in self.devices)

    def check_devices(self):
        """Check that every device has all messages of its conversations, in any order of arrival."""
        for device in self.devices:
            assert device.machine.state == State.ONLINE
            for where in LOGS:
                self.check_shown(device, where)

    def check_shown(self, device, where):
        user, log = device.machine.user, self.log(where)
        mine = [ack.seq for ack in self.acked(device) if ack.conversation_id == where]
        got, visible = self.shown(device, where) + mine, self.visible(user, where)
        assert len(got) == len(set(got))
        assert {message.seq for message in log if message.seq in visible and is_visible(message)} <= set(got) <= visible
        texts = self.texts(device, where)
        for message in log:
            if message.seq in visible and event_of(message) == "":
                if not message.recalled:
                    assert texts[message.seq] == self.words(user, where, message)
                elif message.amended in visible and message.type == MessageType.TEXT:  # its edits are not visible
                    assert texts.get(message.seq) is None

    def texts(self, device, where):
        """Return the contents that the device shows now, by seq."""
        found = {}
        for event in device.events:
            if type(event) is events.Shown and event.message.conversation_id == where:
                found[event.message.seq] = event.message.content
            elif type(event) is events.Acked and event.conversation_id == where:
                found[event.seq] = f"text of {event.id_client}"
        for event in device.events:  # a second pass: an own message can be changed before its answer arrives
            if type(event) is events.Recalled and event.conversation_id == where:
                found.pop(event.seq, None)
            elif type(event) is events.Edited and event.conversation_id == where and event.seq in found:
                found[event.seq] = event.content
        return found

    def log_in_again(self):
        """Log all devices out, then in again, so that the server loads and counts every user again."""
        for device in self.devices:
            device.machine.stop(self.pair.clock.now)
        self.pair.run_until_idle()
        for device in self.devices:
            device.start()
        self.pair.advance(100)

    def check_logs(self, logs):
        for where, log in logs.items():
            assert [message.seq for message in log] == list(range(1, len(log) + 1))
            keys = [(message.sender, message.id_client) for message in log]
            assert len(keys) == len(set(keys))
            for sent in self.sent.values():
                # the stored messages of a device have the order of its sends
                stored = [key for _, key in keys if key in sent[where]]
                assert stored == [key for key in sent[where] if key in stored]
        for device, sent in self.sent.items():
            failed = {event.id_client: event.code for event in device.events if type(event) is events.SendFailed}
            assert self.gives_up or Code.TIMEOUT not in failed.values()
            for where, log in logs.items():
                stored = {message.id_client for message in log if message.sender == device.machine.user}
                assert all(key in stored or key in failed for key in sent[where])

    def check_device(self, device, logs):
        machine = device.machine
        own = {ack.id_client: (ack.conversation_id, ack.seq) for ack in self.acked(device)}
        assert len(own) == len(self.acked(device))
        for where, log in logs.items():
            self.check_shown(device, where)
            stored = {message.id_client for message in log}
            for id_client in self.sent[device][where]:
                assert machine.status(id_client) == (Status.SUCCESS if id_client in stored else Status.FAIL)
                assert (id_client in own) == (id_client in stored)

    def check_system(self):
        """Check that each system log has one message for each change in other logs, and that every device has it."""
        expected = {user: set() for user in USERS}
        for where in MEMBERS:
            for message in self.log(where):
                event, other = event_of(message), next((u for u in MEMBERS[where] if u != message.sender), "")
                if event == "kick":
                    expected[message.file["targets"][0]].add(("group_kicked", message.id))
                elif event == "invite":
                    expected[message.file["targets"][0]].add(("group_invite", message.id))
                elif event.startswith("friend_"):
                    kind = {"friend_request": event, "friend_delete": "friend_deleted"}.get(event, f"{event}ed")
                    expected[other].add((kind, message.id))
        for user in USERS:
            log = self.log(f"system:{user}")
            assert [message.seq for message in log] == list(range(1, len(log) + 1))
            notes = [(message.type, message.id_client) for message in log if event_of(message) == ""]
            assert len(notes) == len(set(notes))
            assert set(notes) == expected[user]
            resolved = [(m.file["targets"][0], m.file["data"]["state"]) for m in log if event_of(m) == "resolve"]
            assert len({id for id, _ in resolved}) == len(resolved)
            assert {id for id, _ in resolved} <= {id for kind, id in notes if kind == "friend_request"}
            for device in self.devices:
                if device.machine.user == user:
                    heard = [(event.id, event.state) for event in device.events if type(event) is events.Resolved]
                    assert heard == resolved

    def check_states(self, user, logs):
        """Check that the user's devices, a fresh device, the server and storage have the same conversation states."""
        fresh = self.pair.client(user, "fresh")
        fresh.start()
        for where in LOGS:
            self.check_shown(fresh, where)
        sent = {state.conversation_id: state for state in self.sent_states(user)}
        machines = [fresh.machine, *(device.machine for device in self.devices if device.machine.user == user)]
        stored = {state.conversation_id: state for state in self.stored_states(user)}
        assert sorted(state.version for state in stored.values() if state.version) == sorted(
            {state.version for state in stored.values()} - {0}
        )
        for machine in machines:
            for id, state in stored.items():
                known = machine._receiver.conversations[id].state if id in machine._receiver.conversations else None
                assert known is None or replace(known, conversation_id=id, unread=0) == state
                assert known is not None or not state.version
                assert not machine._requests.is_waiting("set_conversation", id)
                if id.startswith("p2p:"):
                    (peer,) = set(MEMBERS[id]) - {user}
                    reads = {state.conversation_id: state.read_seq for state in self.stored_states(peer)}
                    assert state.peer_read_seq == reads[id]
                    if self.pair.policies.receipts == "read":
                        assert state.peer_delivered_seq == reads[id]
                    else:  # everybody is online and has everything
                        assert state.peer_delivered_seq == len(logs[id])
            lines = {line.id: line for line in machine.conversations()}
            for id, log in logs.items():
                if self.is_out_of_sight(user, id):
                    continue
                visible = self.visible(user, id)
                seen = [message for message in log if message.seq in visible and is_visible(message)]
                if id not in lines:
                    assert not seen or id not in stored or seen[-1].seq <= stored[id].hidden_seq
                    continue
                line = lines[id]
                assert line.last_msg.seq > stored[id].hidden_seq
                since = max(line.read_seq, self.ended(user, id))
                recount = sum(m.countable and m.sender != user and m.seq > since for m in seen)
                assert (line.read_seq, line.unread) == (sent[line.id].read_seq, sent[line.id].unread)
                assert line.unread == recount
                assert 0 <= line.read_seq <= len(log)
                assert (line.last_msg.seq, line.last_msg.id) == (seen[-1].seq, seen[-1].id)
                last = seen[-1]
                assert line.last_msg.content == self.words(user, id, last)

    def stored_states(self, user):
        return self.pair.storage.execute(storage.Missed(self.session(user), {}, 1_000_000)).states

    def sent_states(self, user):
        """Return the states that the server sends to a device that logs in now."""
        done = []
        probe = self.pair.client(user, "probe")
        probe.lose = lambda frame: done.append(frame) if frame.op == "sync_done" else False
        probe.start()
        return done[-1].states


class ImpatientStorm(Storm):
    """A storm with few attempts for a send and constant evictions. Alice, with two devices, is never offline."""

    policies = Policies(send_attempts=2, page=3, send_queue=20, open_conversations=1)
    gives_up = True

    def log_in_again(self):
        """Reconnect one device after the other, so that the server keeps its counts for alice: they must be right."""
        for device in self.devices:
            device.break_connection()
            self.pair.advance(100)


# The explain phase takes minutes and says little here. The shortest storm that fails is enough.
PHASES = tuple(phase for phase in Phase if phase is not Phase.explain)
SETTINGS = settings(max_examples=40, stateful_step_count=40, deadline=None, phases=PHASES)
Storm.TestCase.settings = ImpatientStorm.TestCase.settings = SETTINGS
TestStorm = Storm.TestCase
TestImpatientStorm = ImpatientStorm.TestCase
