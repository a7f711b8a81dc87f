"""A finished run, sorted for those who judge it: the trace told to the ledger, in order, and noted by kind."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

from imsim.core import events, frames, internal_frames, storage
from imsim.core.model import Message, Scene, conversation_id, is_chatroom, p2p_id, p2p_members
from imsim.faultsearch.checks.connections import Connections
from imsim.faultsearch.checks.limits import Limits, Pages
from imsim.faultsearch.checks.ongoing import Claims, Gaps, Logins, Requests, Senders, States
from imsim.faultsearch.checks.presence import Presence, Sessions
from imsim.faultsearch.checks.quiescence import Rest
from imsim.faultsearch.checks.rooms import Rooms
from imsim.faultsearch.model.reference import Key, Ledger, wish_of
from imsim.faultsearch.model.rules import Laws, Outcome, Relations, is_change
from imsim.faultsearch.model.view import Screen
from imsim.faultsearch.nodes import Instance
from imsim.faultsearch.trace import Entry
from imsim.faultsearch.world import World


class Evidence:
    """`found`: what was seen to be wrong while the trace was told, where only that moment shows it:
    (invariant, text)."""

    def __init__(self, world: World) -> None:
        self.world = world
        policies = world.case.policies
        windows = (int(1000 * t) for t in (policies.recall_window, policies.edit_window, policies.request_lifetime))
        self.ledger = Ledger(Laws(policies.strangers == "allow", policies.group_size, *windows))
        self.shed: set[tuple[str, str]] = set()  # chatroom messages that a device was not sent: (device, id)
        self._screens: dict[str, Screen] = {}
        self.found: list[tuple[str, str]] = []
        self.answers: dict[Key, set[tuple[str, int, int]]] = defaultdict(set)  # every (id, seq, time) ever told
        self._instances = {instance.name: instance for instance in [*world.instances(), *world.probes]}
        self._users = {name: instance.user for name, instance in self._instances.items()}
        self._epochs: dict[tuple[str, str, str], int] = {}  # (conversation, user, slot) -> the latest seen
        self._rightful: set[Key] = set()  # sends that a session has asked for while it was the latest
        self._asked_in: dict[int, tuple[str, int]] = {}  # request -> its router, and which of its lives asked
        self._crashes: Counter[str] = Counter()
        self._told: dict[tuple[str, str], Relations] = {}  # (conversation, user) -> what its writer was told of others
        self._last_up: dict[str, Key] = {}  # by conversation
        self._logins = Logins(world, self.found)
        self._states = States(self.ledger, self.found)
        self._requests = Requests(self.ledger, policies, world.owners, self.found)
        self._claims = Claims(self.ledger, self.found)
        self._gaps = Gaps(self.ledger, self.found)
        self._steps: Counter[str] = Counter()  # of each instance
        self._shown: dict[Key, set[int]] = defaultdict(set)  # what a sender had shown, as a writer was told
        self._policies = policies
        self._pages = Pages(policies, self.found)
        self.sessions = Sessions(self.found)
        self._hints = Presence(self.ledger, policies, self.sessions, self.found)
        self._limits = Limits(world, self._instances, self.found)
        self._connections = Connections(policies, self.found)
        self.rooms = Rooms(self.ledger.laws, policies, self._instances, self.found)
        self._rest = Rest(self.ledger, policies, self.rooms, self.shared, self.found)
        self.senders = Senders(self.ledger, policies.content_bytes, self.rooms, self.found)
        self.moments: list[int] = []  # of each of `found`: how much of the trace had been told
        for count, entry in enumerate(world.trace, 1):
            self._take(entry)
            self.moments += [count] * (len(self.found) - len(self.moments))
        self._limits.over(world.clock.now)
        self.moments += [len(world.trace)] * (len(self.found) - len(self.moments))

    # --- who is left ---

    @property
    def shared(self) -> set[str]:
        """idClients that more than one instance has sent."""
        counts = Counter(id_client for instance in self.world.instances() for id_client in instance.sent)
        return {id_client for id_client, count in counts.items() if count > 1}

    @property
    def acknowledges(self) -> bool:
        """Whether what a device has got is told to the other user, or only what was read."""
        return self.world.case.policies.receipts == "delivered"

    @property
    def live(self) -> list[Instance]:
        """The instances that are there in the end, those who only look included."""
        return [*self.world.finalists, *self.world.probes]

    def screen(self, instance: Instance) -> Screen:
        """What its events have made of the instance's screen."""
        if instance.name not in self._screens:
            self._screens[instance.name] = Screen.of(instance)
        return self._screens[instance.name]

    def acked(self, instance: Instance) -> Iterator[events.Acked]:
        return (event for event in instance.events if type(event) is events.Acked)

    # --- the trace ---

    def _take(self, entry: Entry) -> None:
        at, node, what, peer, thing = entry
        if what == "->":
            if node in self.world.gateways:
                self.rooms.left_gateway(peer, thing)
                self._limits.left_gateway(node, peer, thing, at)
                if type(thing) is frames.Stored:
                    self._acknowledged(self._users[peer], thing)
                elif type(thing) is frames.Received:
                    self._received(peer, thing)
            elif node in self._users:
                self._connections.left_client(self._instances[node], thing, at)
                self._from_client(node, thing)
            else:
                self.sessions.left_router(thing)
                self._hints.left_router(thing)
                if type(thing) is internal_frames.Down:
                    self._states.told(thing)
                    self._pages.told(thing)
                    self._limits.told(node, thing, at)
                    self._gaps.told(thing)
                    self.rooms.told(thing)
        elif what == "<-":
            if node in self._users:
                self._connections.reached_client(node, thing, at)
                self._to_client(node, thing)
            elif node in self.world.routers:
                self.sessions.reached_router(thing)
                self.rooms.reached_router(thing)
                if type(thing) is internal_frames.Up:
                    self._up(thing)
                    self._gaps.reached_router(thing)
                    if type(thing.frame) is frames.Sync:
                        for conversation, seq in thing.frame.cursors.items():
                            self.ledger.was_heard(self.world.owners[thing.session.connection], conversation, seq)
                elif type(thing) is internal_frames.Attach:
                    self._logins.arrived(thing)
            elif peer in self._users:
                self.rooms.reached_gateway(peer, thing)
                self._limits.reached_gateway(node, peer, thing, at)
                if type(thing) is frames.Delivered:
                    self.ledger.was_heard(peer, thing.conversation_id, thing.seq)
            else:
                self._limits.came_down(node, thing, at)
        elif what == "stored":
            self._storage(*thing)
        elif what == "asked":
            self._asked_in[id(thing)] = (node, self._crashes[node])
            self._asked(thing)
            if isinstance(thing, storage.Append):
                self._limits.asked(thing, at)
        elif what == "event":
            if type(thing) is events.Ended:
                self._logins.ended(self._instances[node], thing)
            else:
                self._requests.event(self._instances[node], thing)
                self._connections.event(self._instances[node], thing)
                if type(thing) is events.SendFailed:
                    self.senders.failed(self._instances[node], thing)
        elif what == "there":
            self._hints.at_rest({name: self._users[name] for name in thing})
        elif what == "step":  # before which its user has looked
            instance = self._instances[node]
            self._requests.looked(instance, instance.looks[self._steps[node]][1])
            self._steps[node] += 1
        elif what == "asks":
            self._requests.asked(self._instances[node], thing)
            self._connections.asks(self._instances[node], thing)
        elif what == "rests":
            self._rest.stands(self._instances[node], thing)
        elif what == "said":
            is_first = self.rooms.said(thing)
            self._limits.said(thing, at, is_first=is_first)
        elif what == "crash":
            self._crashes[node] += 1
            self._limits.crashed(node)
            self._lost(node)
        elif what == "lost" and node in self.world.routers:
            self._lost(node, peer)
        elif what == "shed":
            self.shed.add((peer, thing.id))
            self._limits.shed(node, peer, thing, at)
        elif what == "repeated":
            text = f"{thing.id} was pushed again to {peer}, who had acknowledged it"
            self.found.append(("what_is_acknowledged_is_not_repeated", text))
        elif what == "start":
            self._logins.started(node)
        elif what == "revoke":
            self._logins.revoked(node, thing)
        elif what == "fault" and peer == "token_refused":
            self._logins.token_refused(node)
        elif what == "fault" and peer == "clock":
            self._limits.clock_moved(node)
            self._connections.clock_moved(node)
        elif what == "adrift":
            self._connections.adrift(node, peer, thing)

    def _lost(self, router: str, gateway: str | None = None) -> None:
        def owns(name: str) -> bool:
            return self.world.router_of(name).name == router

        self.sessions.lost(owns, gateway)
        self.rooms.lost(owns, gateway)

    def _received(self, instance: str, frame: frames.Received) -> None:
        if not frame.seq and self.world.case.policies.ack != "after_receive":
            self.found.append(("received_is_told_as_was_set", f"{frame.id_client} of {instance} was received"))

    def _storage(self, request: storage.Request, result: storage.Result) -> None:
        ledger = self.ledger
        if isinstance(request, storage.OpenConversation):
            if isinstance(result, storage.LogState):
                ledger.founded(request.conversation_id, result.members)
        elif isinstance(request, storage.Append):
            message = request.message
            if isinstance(result, storage.Appended):
                if not is_change(wish_of(message)) and self._is_blocked(message):
                    self.found.append(("nobody_who_is_blocked_is_heard", f"{message.id} was stored"))
                told = self._told.pop((message.conversation_id, message.sender), None)
                relations = told or ledger.relations(message.sender, self.world.case.users)
                self._follows(request, ledger.appended(message, request.shown, relations), result)
                self._limits.appended(request)
                self._kept(result.states)
            elif isinstance(result, storage.Blocked):
                self.senders.blocked.add((message.conversation_id, message.sender, message.id_client))
                if not self._is_blocked(message):
                    self.found.append(("refusals_have_a_reason", f"{message.id} was taken for blocked"))
        elif isinstance(request, storage.Between):
            if isinstance(result, storage.Relations):
                told = Relations(frozenset(result.blocking), frozenset(result.friends))
                self._told[request.conversation_id, request.user] = told
                self.senders.told(request, told)
                if told != (known := ledger.relations(request.user, request.others)):
                    self.found.append(("relations_are_true", f"{request.conversation_id}: {told}, not {known}"))
        elif isinstance(request, storage.SaveState):
            ledger.changed(
                request.user,
                request.conversation_id,
                read=request.read_seq,
                hidden=request.hidden_seq or 0,
                pinned=request.pinned,
                muted=request.muted,
                custom=request.custom,
                delivered=request.delivered_seq,
                blocked=request.blocked,
            )
            if request.delivered_seq > ledger.held.get((request.user, request.conversation_id), 0):
                self.found.append(("receipts_are_true", f"{request.user} is said to have got {request}"))
            self._requests.saved(request)
            if isinstance(result, storage.StatesSaved):
                self._kept(result.states)
        elif isinstance(request, storage.Missed):
            if isinstance(result, storage.MissedPage):
                self._kept((request.session.user, state) for state in result.states)
                for message in result.messages:
                    self._found_as_it_is(request.session.user, message)
            elif isinstance(result, storage.Ahead):  # storage loses nothing here
                text = f"{request.session.user}/{request.session.device} has more than there is: {request}"
                self.found.append(("nobody_is_ahead_of_storage", text))
        elif isinstance(request, storage.RevokeTokens):
            # Left out: a router that died before storage had done it cannot see to those whom its next life has let in.
            router, crashes = self._asked_in[id(request)]
            if crashes == self._crashes[router]:
                ledger.revoke(request.user, request.before)
        elif isinstance(request, storage.OpenUser):
            assert isinstance(result, storage.UserState)
            self._kept((request.user, state) for state, *_ in result.states)
            for record in result.states:
                self._state_kept(request.user, record)

    def _found_as_it_is(self, user: str, message: Message) -> None:
        """Storage finds a message as it is by now, or was when the user left."""
        ledger, conversation = self.ledger, message.conversation_id
        now = ledger.forms[conversation, message.seq][-1:]
        if message not in now and message not in ledger.view(user, conversation):
            self.found.append(("only_what_is_stored_is_let_out", f"{message} was found for {user}"))

    def _is_blocked(self, message: Message) -> bool:
        """Whether who would read it has blocked its sender: between two users, and in what one tells the other by the
        system's voice."""
        if message.scene == Scene.SYSTEM and message.sender != message.to:
            return self.ledger.user_state(message.to, p2p_id(message.sender, message.to)).blocked
        return any(self.ledger.user_state(peer, message.conversation_id).blocked for peer in self._peers(message))

    @staticmethod
    def _peers(message: Message) -> list[str]:
        return [one for one in p2p_members(message.conversation_id) or () if one != message.sender]

    def _follows(self, request: storage.Append, outcome: Outcome, result: storage.Appended) -> None:
        """What was stored may stand there, and changed what it should, all of it and nothing else."""
        ledger, message, effects = self.ledger, request.message, request.effects or storage.Effects()
        if outcome.reasons:
            text = f"{message.id} of {message.sender}, a {message.type} {message.file or ''}: {sorted(outcome.reasons)}"
            self.found.append(("only_what_is_allowed_is_stored", text))
            return
        if len(message.content.encode()) > self._policies.content_bytes:
            self.found.append(("only_what_is_allowed_is_stored", f"{message.id} of {message.sender} is too long"))
        if (set(effects.joined), set(effects.left)) != (set(outcome.joined), set(outcome.left)):
            text = f"{message.id} let in {effects.joined} and out {effects.left}, not {outcome.joined}, {outcome.left}"
            self.found.append(("changes_do_what_they_say", text))
        if effects.state is not None and not self.ledger.states[message.conversation_id][-1].stands_in(effects.state):
            self.found.append(("changes_do_what_they_say", f"{message.id} made it {effects.state}"))
        if effects.amended != outcome.amended:
            self.found.append(("changes_do_what_they_say", f"{message.id} left {effects.amended}"))
        told = sorted((note.to, note.type, *_settling(note)) for note in result.notes)
        if told != sorted(outcome.notes):
            self.found.append(("all_concerned_are_told", f"{message.id} told {told}, not {sorted(outcome.notes)}"))
        for note in result.notes:
            ledger.noted(note)

    def _state_kept(self, user: str, record: storage.StateRecord) -> None:
        ledger, conversation = self.ledger, record.state.conversation_id
        got = [ledger.user_state(peer, conversation).peer_delivered_seq for peer in p2p_members(conversation) or ()]
        other = [seq for peer, seq in zip(p2p_members(conversation) or (), got, strict=True) if peer != user]
        kept = (len(record.unread_seqs), record.max_seq, [record.delivered_seq] if other else [])
        if kept != (ledger.unread(user, conversation), ledger.end_for(user, conversation), other):
            self.found.append(("places_are_kept", f"kept for {user}: {record}"))

    def _kept(self, states: Any) -> None:
        for user, state in states:
            kept = self.ledger.user_state(user, state.conversation_id)
            if state != kept:
                self.found.append(("places_are_kept", f"kept for {user}: {state}, not {kept}"))

    def _from_client(self, instance: str, frame: frames.FromClient) -> None:
        user = self._users[instance]
        self._requests.left_client(self._instances[instance], frame)
        self.rooms.left_client(instance, frame)
        self._claims.left_client(self._instances[instance], frame)
        if isinstance(frame, frames.Send):
            self.senders.asked(instance, user, frame)
            self.ledger.left_client(user, frame, conversation_id(frame.scene, user, frame.to))
        elif isinstance(frame, frames.Read | frames.SetConversation):
            self.ledger.left_client(user, frame, frame.conversation_id)
        elif isinstance(frame, frames.Delivered):
            self.ledger.holds(user, frame.conversation_id, frame.seq)
        elif isinstance(frame, frames.Sync):
            for conversation, seq in frame.cursors.items():
                self.ledger.holds(user, conversation, seq)
        elif isinstance(frame, frames.Login):
            self._logins.asked(instance, frame)

    def _acknowledged(self, user: str, frame: frames.Stored) -> None:
        """A gateway tells a sender that its message is safe: at this moment it must be."""
        self.answers[frame.conversation_id, user, frame.id_client].add((frame.id, frame.seq, frame.time))
        stored = self.ledger.by_key.get((frame.conversation_id, user, frame.id_client))
        if stored is None or (stored.id, stored.seq, stored.time) != (frame.id, frame.seq, frame.time):
            self.found.append(("acks_survive", f"{frame.id_client} was acknowledged as {frame.id}, stored: {stored}"))

    def _to_client(self, instance: str, frame: frames.ToClient) -> None:
        self.ledger.reached_client(instance, frame)
        self._claims.reached_client(instance, frame)
        self._hints.reached_client(instance, frame)
        messages = [frame.message] if isinstance(frame, frames.Push) else []
        if isinstance(frame, frames.Page | frames.SyncDone | frames.HistoryPage):
            messages = frame.messages
        for message in messages:
            if is_chatroom(message.conversation_id):
                continue  # see `Rooms`
            key = (message.conversation_id, message.sender, message.id_client)
            self.answers[key].add((message.id, message.seq, message.time))
            if not self.ledger.may_see(self._users[instance], message.conversation_id, message.seq):
                self.found.append(("nobody_sees_what_is_not_theirs", f"{instance} was given {message.id}"))
            if self.ledger.is_new_to(self._users[instance], message):
                text = f"{instance} was given the words of {message.id} of when its user had left"
                self.found.append(("nobody_sees_what_is_not_theirs", text))
            if message not in self.ledger.forms[message.conversation_id, message.seq]:
                self.found.append(("only_what_is_stored_is_let_out", f"{instance} was given {message}"))

    # --- sessions: who may act is decided by epochs, for as long as one writer lasts ---

    def _up(self, up: internal_frames.Up) -> None:
        session, frame = up.session, up.frame
        if type(frame) is frames.EndSession:
            self._logins.asked_to_end(session.user, frame.device)
        if not up.conversation_id or is_chatroom(up.conversation_id):
            return
        state = (up.conversation_id, *self.world.case.slot(f"{session.user}/{session.device}"))
        latest = self._epochs[state] = max(session.epoch, self._epochs.get(state, 0))
        if isinstance(frame, frames.Send):
            key = self._last_up[up.conversation_id] = (up.conversation_id, session.user, frame.id_client)
            self._shown[key].add(frame.shown)
            if session.epoch == latest:
                self._rightful.add(key)

    def _asked(self, request: Any) -> None:
        if is_chatroom(getattr(request, "conversation_id", "")):
            self.found.append(("nothing_of_rooms_is_stored", f"{request} was asked for"))
        if isinstance(request, storage.OpenConversation):
            for state in [state for state in self._epochs if state[0] == request.conversation_id]:
                del self._epochs[state]
            if key := self._last_up.get(request.conversation_id):
                self._rightful.add(key)  # for its sake a new writer starts, which knows of no later session
        elif isinstance(request, storage.Append):
            message = request.message
            key = (message.conversation_id, message.sender, message.id_client)
            if request.shown not in self._shown[key]:
                self.found.append(("to_send_is_to_read", f"{message.id} was sent by one who read to {request.shown}"))
            if key not in self._rightful:
                self.found.append(("stale_sessions_do_nothing", f"{message.id} was sent by a session that had ended"))


def _settling(note: Message) -> tuple[str, str]:
    """Which request a system message settles, and the state that it tells."""
    file: dict[str, Any] = note.file or {}
    if file.get("event") == "resolve":
        return file["targets"][0], file["data"]["state"]
    return "", file.get("state", "")
