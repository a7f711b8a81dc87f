"""Whatever goes wrong, and in whatever order: once it is over, everybody holds the same log.

Hypothesis plays the storm on a `Pair`: frames get lost, connections break, the server crashes, storage fails, or has
done what it says it could not do, or is silent. Then all is healed, and what must hold is checked by brute force.

What is visible must not depend on how messages reach devices, on how storage finds them, and on who is told: those
policies are drawn with the storm.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

from core.builders import AB, TEAM
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from imsim.core import events, storage
from imsim.core.model import Scene, Status
from imsim.core.policies import Policies
from imsim.core.uplink import State
from imsim.testing import Pair

DEVICES = (("alice", "d0"), ("alice", "d1"), ("bob", "d0"), ("carol", "d0"))
MEMBERS = {AB: ("alice", "bob"), "p2p:alice:carol": ("alice", "carol"), TEAM: ("alice", "bob", "carol")}
LOSABLE = (
    *("send", "stored", "rejected", "push", "delivered", "read", "set_conversation", "done", "placed", "noted"),
    *("logged_in", "sync", "page", "sync_done", "notify", "resync", "history", "history_page"),
)
TROUBLE = ("failed", "done but failed", "done in silence", "silent")


class StormyPair(Pair):
    """A pair whose storage answers the next requests of an op as `trouble` says, once each."""

    def __init__(self, policies: Policies) -> None:
        self.trouble: dict[str, list[str]] = defaultdict(list)
        super().__init__(policies)

    def store(self, request):
        how = self.trouble[request.op].pop() if self.trouble[request.op] else "well"
        if how == "well":
            super().store(request)
            return
        node = self.node
        if how in ("done but failed", "done in silence"):
            self.storage.execute(request)
        if how in ("failed", "done but failed"):
            failed = storage.Failed(how)
            self._queue.append(lambda: node.stored(request, failed, self.clock.now) if node is self.node else None)


class Storm(RuleBasedStateMachine):
    # Enough attempts that a send is given up in no storm: then all that was sent must be stored in the end.
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
        self.devices[0].machine.create_group("team", ["bob", "carol"], 0.0)
        self.pair.settle()
        self.sent = {device: defaultdict(list) for device in self.devices}  # conversation -> idClients
        self.losing = {device: [] for device in self.devices}  # ops of which the next frame gets lost
        for device in self.devices:
            device.lose = lambda frame, losing=self.losing[device]: self.is_lost(losing, frame)
        self.count = 0

    @staticmethod
    def is_lost(losing, frame):
        if frame.op in losing:
            losing.remove(frame.op)
            return True
        return False

    # --- what may happen ---

    numbers = st.integers(0, len(DEVICES) - 1)

    @rule(number=numbers, where=st.sampled_from(sorted(MEMBERS)), settle=st.booleans())
    def send(self, number, where, settle):
        device = self.devices[number]
        user = device.machine.user
        if user not in MEMBERS[where]:
            return
        self.count += 1
        id_client = f"{user}-{device.machine.device}-{self.count}"
        if where == TEAM:
            scene, to = Scene.GROUP, "team"
        else:
            scene, to = Scene.P2P, next(member for member in MEMBERS[where] if member != user)
        device.machine.send(scene, to, f"text of {id_client}", id_client, self.pair.clock.now)
        self.sent[device][where].append(id_client)
        if settle:
            self.pair.settle()

    @rule(number=numbers, where=st.sampled_from(sorted(MEMBERS)))
    def read(self, number, where):
        self.devices[number].machine.read(where, self.pair.clock.now)
        self.pair.settle()

    @rule(
        number=numbers,
        where=st.sampled_from(sorted(MEMBERS)),
        change=st.sampled_from(
            ({"pinned": True}, {"pinned": False}, {"muted": True}, {"custom": "a"}, {"custom": "b"}, "hide")
        ),
        settle=st.booleans(),
    )
    def change_settings(self, number, where, change, settle):
        machine = self.devices[number].machine
        if change == "hide":
            machine.hide(where, self.pair.clock.now)
        else:
            machine.set_conversation(where, self.pair.clock.now, **change)
        if settle:
            self.pair.settle()

    @rule(number=numbers, op=st.sampled_from(LOSABLE))
    def lose_next(self, number, op):
        self.losing[self.devices[number]].append(op)

    @rule(number=numbers)
    def break_connection(self, number):
        self.devices[number].break_connection()

    @rule(number=numbers)
    def leave(self, number):
        self.devices[number].machine.stop(self.pair.clock.now)
        self.pair.settle()

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

    # --- what holds always ---

    def log(self, where):
        page = self.pair.storage.execute(storage.Missed(self.session(MEMBERS[where][0]), {}, 1_000_000))
        return [message for message in page.messages if message.conversation_id == where]

    @staticmethod
    def session(user):
        return storage.Session(user, "inspector", 0, "", 0)

    def acked(self, device):
        return [event for event in device.events if type(event) is events.Acked]

    def shown(self, device, where):
        return [
            event.message.seq
            for event in device.events
            if type(event) is events.Shown and event.message.conversation_id == where
        ]

    @invariant()
    def what_is_acknowledged_is_in_the_log(self):
        logs = {where: self.log(where) for where in MEMBERS}
        for device in self.devices:
            for ack in self.acked(device):
                stored = logs[ack.conversation_id][ack.seq - 1]
                assert (stored.id_client, stored.sender) == (ack.id_client, device.machine.user)

    @invariant()
    def all_is_shown_in_order_and_nothing_twice(self):
        for device in self.devices:
            for where in MEMBERS:
                shown = self.shown(device, where)
                assert shown == sorted(set(shown))

    @invariant()
    def nothing_is_passed_over(self):
        """What stands below the cursor is on the screen, or was sent from it."""
        for device in self.devices:
            acked = self.acked(device)
            for id, conversation in device.machine._conversations.items():
                mine = [ack.seq for ack in acked if ack.conversation_id == id]
                seen = {*self.shown(device, id), *(seq for seq in mine if seq <= conversation.inbox.cursor)}
                assert seen == set(range(1, conversation.inbox.cursor + 1))

    @invariant()
    def unread_is_what_the_screen_says(self):
        for device in self.devices:
            counted = defaultdict(list)
            for event in device.events:
                if type(event) is events.Shown and event.message.sender != device.machine.user:
                    counted[event.message.conversation_id].append(event.message.seq)
            lines = device.machine.conversations()
            for line in lines:
                assert line.unread == sum(seq > line.read_seq for seq in counted[line.id])
            assert device.machine.total_unread() == sum(line.unread for line in lines)

    # --- what holds in the end ---

    def teardown(self):
        if not hasattr(self, "pair"):
            return
        self.heal()
        logs = {where: self.log(where) for where in MEMBERS}
        self.check_logs(logs)
        for device in self.devices:
            self.check_device(device, logs)
        for user in ("alice", "bob", "carol"):
            self.check_places(user, logs)

    def heal(self):
        self.pair.trouble.clear()
        for losing in self.losing.values():
            losing.clear()
        if not self.pair.up:
            self.pair.start_server()
        for device in self.devices:
            device.start()
        self.pair.advance(300)
        self.check_screens()  # all is there without anybody logging in again
        self.log_in_again()
        assert all(device.machine.state == State.ONLINE for device in self.devices)

    def check_screens(self):
        """Every device has all of its conversations, whatever it was told of them and when."""
        for device in self.devices:
            assert device.machine.state == State.ONLINE
            for where, members in MEMBERS.items():
                mine = [ack.seq for ack in self.acked(device) if ack.conversation_id == where]
                expected = len(self.log(where)) if device.machine.user in members else 0
                assert sorted(self.shown(device, where) + mine) == list(range(1, expected + 1))

    def log_in_again(self):
        """All together: every user is opened anew, and counted by storage."""
        for device in self.devices:
            device.machine.stop(self.pair.clock.now)
        self.pair.settle()
        for device in self.devices:
            device.start()
        self.pair.advance(100)

    def check_logs(self, logs):
        for where, log in logs.items():
            assert [message.seq for message in log] == list(range(1, len(log) + 1))
            keys = [(message.sender, message.id_client) for message in log]
            assert len(keys) == len(set(keys))
            for sent in self.sent.values():
                # what it sent, in the order in which it sent it, and all of it unless it gave up
                stored = [key for _, key in keys if key in sent[where]]
                assert stored == [key for key in sent[where] if key in stored]
                assert self.gives_up or stored == sent[where]

    def check_device(self, device, logs):
        machine = device.machine
        own = {ack.id_client: (ack.conversation_id, ack.seq) for ack in self.acked(device)}
        assert len(own) == len(self.acked(device))
        for where, log in logs.items():
            mine = [seq for conversation, seq in own.values() if conversation == where]
            expected = [message.seq for message in log] if machine.user in MEMBERS[where] else []
            assert sorted(self.shown(device, where) + mine) == expected
            stored = {message.id_client for message in log}
            for id_client in self.sent[device][where]:
                assert machine.status(id_client) == (Status.SUCCESS if id_client in stored else Status.FAIL)
                assert (id_client in own) == (id_client in stored)

    def check_places(self, user, logs):
        """Every device of the user, the server and a fresh device have the same, and storage has it too."""
        fresh = self.pair.client(user, "fresh")
        fresh.start()
        told = {place.conversation_id: place for place in self.told_places(user)}
        machines = [fresh.machine, *(device.machine for device in self.devices if device.machine.user == user)]
        stored = {place.conversation_id: place for place in self.stored_places(user)}
        assert sorted(place.version for place in stored.values() if place.version) == sorted(
            {place.version for place in stored.values()} - {0}
        )
        for machine in machines:
            for id, place in stored.items():
                known = machine._conversations[id].place if id in machine._conversations else None
                assert known is None or replace(known, unread=0) == place
                assert known is not None or not place.version
                assert not machine._requests.is_waiting("set_conversation", id)
                if id.startswith("p2p:"):
                    (peer,) = set(MEMBERS[id]) - {user}
                    reads = {place.conversation_id: place.read_seq for place in self.stored_places(peer)}
                    assert place.peer_read_seq == reads[id]
                    if self.pair.policies.receipts == "read":
                        assert place.peer_delivered_seq == reads[id]
                    else:  # everybody is online and has it all
                        assert place.peer_delivered_seq == len(logs[id])
            for line in machine.conversations():
                assert line.last_msg.seq > stored[line.id].hidden_seq
                log = logs[line.id]
                recount = sum(message.sender != user and message.seq > line.read_seq for message in log)
                assert (line.read_seq, line.unread) == (told[line.id].read_seq, told[line.id].unread)
                assert line.unread == recount
                assert 0 <= line.read_seq <= len(log)
                assert (line.last_msg.seq, line.last_msg.id) == (log[-1].seq, log[-1].id)
                assert line.last_msg.same_body(log[-1])

    def stored_places(self, user):
        return self.pair.storage.execute(storage.Missed(self.session(user), {}, 1_000_000)).places

    def told_places(self, user):
        """The places as the server tells them to a device that logs in now."""
        done = []
        probe = self.pair.client(user, "probe")
        probe.lose = lambda frame: done.append(frame) if frame.op == "sync_done" else False
        probe.start()
        return done[-1].places


class ImpatientStorm(Storm):
    """Sends are given up soon, conversations are evicted all the time, and who has two devices is never offline."""

    policies = Policies(send_attempts=2, page=3, send_queue=20, open_conversations=1)
    gives_up = True

    def log_in_again(self):
        """One after the other: what the server counted for alice must have been right all along."""
        for device in self.devices:
            device.break_connection()
            self.pair.advance(100)


# To explain a failure takes minutes and says little here; the shortest storm that fails says it all.
PHASES = tuple(phase for phase in Phase if phase is not Phase.explain)
SETTINGS = settings(max_examples=40, stateful_step_count=40, deadline=None, phases=PHASES)
Storm.TestCase.settings = ImpatientStorm.TestCase.settings = SETTINGS
TestStorm = Storm.TestCase
TestImpatientStorm = ImpatientStorm.TestCase
