"""The Conversations machine: the single writer of each conversation's log.

It runs on the router node that owns the conversation. For each send it decides: seen before? in order? allowed? Then it
gives the message the next seq, has storage append it, and only once that is answered acknowledges it and lets it out.
What a notification changes, and what follows from it, is decided by the rules of `groups`, `friends`, `amendments`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from typing import Any, Protocol

from imsim.core import amendments, changes, events, frames, friends, groups, storage
from imsim.core.changes import Change, Decision, Refused
from imsim.core.limits import Bucket
from imsim.core.model import Code, Message, MessageType, Scene, Session, conversation_id, p2p_members
from imsim.core.policies import Policies
from imsim.core.timers import Timer, Timers

_RECENT = 64  # idempotency keys kept in memory per conversation; older ones are looked up in storage
_WAITING = 10_000  # requests of one conversation that may wait for storage


class Port(Protocol):
    def store(self, request: storage.Request) -> None:
        """Carry it out; answered by `stored(request, result, now)`."""

    def to_gateway(self, gateway: str, frame: frames.ToGateway) -> None: ...

    def to_users(self, frame: frames.Deliver | frames.Opened) -> None:
        """Split `frame.users` by the router that owns each, and send each its part."""

    def emit(self, event: events.Committed) -> None: ...


class _Entry:
    """A message on its way into the log, or recently in it."""

    __slots__ = (
        "audience",
        "frame",
        "is_change",
        "message",
        "notes",
        "places",
        "refused",
        "sessions",
        "stored",
        "timer",
    )

    def __init__(self, message: Message, session: Session | None, audience: tuple[str, ...] = ()) -> None:
        self.message = message
        self.audience = audience  # who may see it
        self.notes: tuple[Message, ...] = ()  # for the system logs of users
        self.sessions = [session] if session else []  # who waits for the answer; more than one if a retry raced
        self.places: storage.Places = ()  # that changed with it
        self.stored = False
        self.frame: frames.Send | None = None  # what asked for it, where it changes nothing but the log
        self.is_change = False  # members or state, which the writer has changed in memory already
        self.refused: list[tuple[frames.Up, Refused]] = []  # what may not be any more, if this comes to be stored
        self.timer: Timer | None = None


#: What was looked up in storage for a request: by (sender, idClient) or by seq; None: not there.
_Known = dict[tuple[str, str] | int, Message | None]
_NOTHING: _Known = {}

#: Events that the rules know. Others are notices that change nothing here, and may to a newer client.
_RULED = frozenset((*groups.EVENTS, *friends.EVENTS, *amendments.EVENTS, "settle"))


class _Conversation:
    """`request` is the one opening or look-up that everything else of this conversation waits for, in `waiting`."""

    __slots__ = (
        "bucket",
        "epoch",
        "epochs",
        "id",
        "member_set",
        "members",
        "next_seq",
        "pending",
        "recent",
        "request",
        "state",
        "timer",
        "waiting",
    )

    def __init__(self, id: str) -> None:
        self.id = id
        self.epoch = 0
        self.next_seq = 1
        self.members: tuple[str, ...] = ()
        self.member_set: Collection[str] = ()
        self.state: dict[str, Any] | None = None  # a group's, or two users'; see their rules
        self.epochs: dict[tuple[str, str], int] = {}  # the latest session epoch seen, by (user, slot)
        self.bucket: Bucket | None = None  # of a group, where there is a limit
        self.recent: dict[tuple[str, str], _Entry] = {}
        self.pending: deque[_Entry] = deque()
        self.waiting: deque[tuple[frames.Up, _Known]] = deque()
        self.request: storage.OpenConversation | storage.Find | storage.Get | None = None
        self.timer: Timer | None = None

    def has_members(self, members: tuple[str, ...]) -> None:
        self.members = members
        # A short tuple is searched faster than a set is built and kept.
        self.member_set = frozenset(members) if len(members) > 8 else members


class Conversations:
    """`epoch` is the wall time in seconds since 1970 at which this node's `now` was 0."""

    def __init__(self, port: Port, policies: Policies, epoch: float = 0.0) -> None:
        self._port = port
        self._policies = policies
        self._epoch = epoch
        self._early_ack = policies.ack == "after_receive"
        self._timers = Timers()
        self._open: dict[str, _Conversation] = {}
        #: Conversations that may hold messages that nobody has let out; each is opened again in a while.
        self._unsettled: dict[str, Timer] = {}

    @property
    def timers(self) -> Timers:
        """What `next_deadline` is about, for a shell that has no time to ask after each call."""
        return self._timers

    def next_deadline(self) -> float | None:
        return self._timers.next_deadline()

    def handle_timer(self, now: float) -> None:
        self._timers.handle(now)

    def open(self, conversation_id: str, now: float, founders: tuple[str, ...] | None = None) -> None:
        """Have the conversation ready for what will come; every conversation is opened at its first use anyway."""
        if conversation_id not in self._open:
            self._start_opening(conversation_id, founders, now)

    def _start_opening(self, id: str, founders: tuple[str, ...] | None, now: float) -> _Conversation:
        if len(self._open) >= self._policies.open_conversations:
            self._evict()
        conversation = self._open[id] = _Conversation(id)
        self._ask(conversation, storage.OpenConversation(id, founders or _born_with(id)), now)
        return conversation

    def receive(self, up: frames.Up, now: float) -> None:
        conversation = self._open.get(up.conversation_id)
        if conversation is None:
            conversation = self._start_opening(up.conversation_id, None, now)
            conversation.waiting.append((up, _NOTHING))
        elif conversation.request is not None:
            if len(conversation.waiting) < _WAITING:
                conversation.waiting.append((up, _NOTHING))
            else:
                self._reject(up, Code.UNAVAILABLE, "too many requests wait for this conversation")
        else:
            self._handle(conversation, up, _NOTHING, now)

    def stored(self, request: storage.Request, result: storage.Result, now: float) -> None:
        if type(request) is storage.Append:
            conversation = self._open.get(request.message.conversation_id)
            if conversation is not None and request.epoch == conversation.epoch:
                self._appended(conversation, request.message, result, now)
            return
        assert isinstance(request, storage.OpenConversation | storage.Find | storage.Get)
        conversation = self._open.get(request.conversation_id)
        if conversation is None or conversation.request is not request:
            return  # the answer to a question that was given up
        conversation.request = None
        if conversation.timer:
            conversation.timer.cancel()
        if isinstance(request, storage.OpenConversation):
            self._opened(conversation, request, result, now)
        else:
            self._looked_up(conversation, request, result, now)

    # --- opening, looking up ----------------------------------------------------------------------------------------

    def _ask(
        self,
        conversation: _Conversation,
        request: storage.OpenConversation | storage.Find | storage.Get,
        now: float,
    ) -> None:
        conversation.request = request
        conversation.timer = self._timers.at(now + self._policies.storage_timeout, self._overdue, conversation)
        self._port.store(request)

    def _overdue(self, conversation: _Conversation, now: float) -> None:
        self._fence(conversation, "storage did not answer in time", now)

    def _opened(
        self,
        conversation: _Conversation,
        request: storage.OpenConversation,
        result: storage.Result,
        now: float,
    ) -> None:
        if isinstance(result, storage.ConversationState):
            if timer := self._unsettled.pop(conversation.id, None):
                timer.cancel()
            if result.max_seq:
                self._port.to_users(frames.Opened(result.members, conversation.id, result.max_seq))
            for user, seq in result.left:
                self._port.to_users(frames.Opened((user,), conversation.id, seq))
            for user, seq in result.noted:
                self._port.to_users(frames.Opened((user,), _system_log(user), seq))
            conversation.epoch = result.epoch
            conversation.next_seq = result.max_seq + 1
            conversation.has_members(result.members)
            conversation.state = result.state
            if self._policies.group_rate and not p2p_members(conversation.id):
                conversation.bucket = Bucket(self._policies.group_rate, self._policies.group_burst, now)
            self._resume(conversation, now)
        elif result is None:
            while conversation.waiting:
                up, _ = conversation.waiting[0]
                if isinstance(up.frame, frames.Send) and changes.event_of(up.frame) == "create":
                    self._ask(conversation, storage.OpenConversation(conversation.id, ()), now)
                    return
                conversation.waiting.popleft()
                self._reject(up, Code.NO_CONVERSATION, f"there is no {conversation.id}")
            del self._open[conversation.id]
        else:
            self._fence(conversation, "storage could not open the conversation", now)

    def _look_up(
        self,
        conversation: _Conversation,
        up: frames.Up,
        known: _Known,
        request: storage.Find | storage.Get,
        now: float,
    ) -> None:
        conversation.waiting.appendleft((up, known))
        self._ask(conversation, request, now)

    def _looked_up(
        self, conversation: _Conversation, request: storage.Find | storage.Get, result: storage.Result, now: float
    ) -> None:
        up, known = conversation.waiting.popleft()
        if isinstance(result, storage.Failed):
            self._reject(up, Code.UNAVAILABLE, "storage could not look the message up")
        else:
            assert result is None or isinstance(result, Message)
            if isinstance(request, storage.Get):
                known = {**known, request.seq: result}
            else:
                known = {**known, (request.sender, request.id_client): result}
                if result is not None:
                    entry = _Entry(result, None)
                    entry.stored = True
                    self._remember(conversation, entry)
            conversation.waiting.appendleft((up, known))
        self._resume(conversation, now)

    def _resume(self, conversation: _Conversation, now: float) -> None:
        while conversation.waiting and conversation.request is None:
            up, known = conversation.waiting.popleft()
            self._handle(conversation, up, known, now)

    # --- sending ----------------------------------------------------------------------------------------------------

    def _handle(self, conversation: _Conversation, up: frames.Up, known: _Known, now: float) -> None:
        """`known`: what was just looked up for it; nothing was written since."""
        frame, session = up.frame, up.session
        assert isinstance(frame, frames.Send)
        slot = (session.user, session.slot)
        epochs = conversation.epochs
        if epochs.get(slot, 0) > session.epoch:
            return  # a replaced session can no longer act; its client is told so by its gateway
        if session.user in conversation.member_set:
            epochs[slot] = session.epoch

        key = (session.user, frame.id_client)
        recent = conversation.recent
        entry = recent.get(key)
        if entry is None and frame.resend and key not in known:
            self._look_up(conversation, up, known, storage.Find(conversation.id, *key), now)
            return
        if entry is not None:
            self._again(up, entry)
            return
        if frame.after is not None:
            predecessor = (session.user, frame.after)
            if predecessor not in recent:
                if predecessor in known:
                    self._reject(up, Code.GAP, f"the message {frame.after!r} before it has not arrived")
                else:
                    self._look_up(conversation, up, known, storage.Find(conversation.id, *predecessor), now)
                return
        event = changes.event_of(frame) if frame.type == MessageType.NOTIFICATION else ""
        decision: Decision | None = None
        try:
            if event:
                change = self._change(conversation, session, frame, event, now)
            if event in _RULED:
                if event in amendments.EVENTS:
                    seq = amendments.target_seq(change)
                    if event == "edit":
                        self._check_may_send(conversation, session, frame)
                    if seq not in known:
                        self._check_member(conversation, session.user)
                        self._look_up(conversation, up, known, storage.Get(conversation.id, seq), now)
                        return
                decision = self._decide(conversation, change, known)
            else:
                self._check_may_send(conversation, session, frame)
        except Refused as refused:
            if refused.code == Code.CONFLICT and key not in known:
                # It may be so because of this very change, made long ago.
                self._look_up(conversation, up, known, storage.Find(conversation.id, *key), now)
                return
            # What it rests on may be a change that is not stored, and never will be: then it was no answer.
            for entry in reversed(conversation.pending):
                if entry.is_change:
                    entry.refused.append((up, refused))
                    return
            self._reject(up, refused.code, refused.text)
            return
        if len(conversation.pending) >= _WAITING:
            self._reject(up, Code.UNAVAILABLE, "too many messages of this conversation wait for storage")
            return
        if conversation.bucket is not None and (wait := conversation.bucket.take(now)):
            self._reject(up, Code.RATE_LIMITED, "too many messages in this group", wait)
            return
        self._append(conversation, session, frame, decision, now)

    def _append(
        self,
        conversation: _Conversation,
        session: Session,
        frame: frames.Send,
        decision: Decision | None,
        now: float,
    ) -> None:
        message = Message(
            conversation.id,
            conversation.next_seq,
            f"{conversation.id}:{conversation.next_seq}",
            frame.id_client,
            frame.scene,
            frame.type,
            session.user,
            frame.to,
            int((self._epoch + now) * 1000),
            frame.content,
            frame.file,
            frame.custom,
            frame.resend,
        )
        conversation.epochs[session.user, session.slot] = session.epoch
        effects, audience = None, conversation.members
        if decision is not None:
            effects = _effects(message, decision)
            audience = (*audience, *decision.joined)
            if decision.joined or decision.left:
                conversation.has_members(tuple(member for member in audience if member not in decision.left))
            if decision.state is not None:
                conversation.state = decision.state
        conversation.next_seq += 1
        entry = _Entry(message, session, audience)
        entry.frame = frame if decision is None else None
        entry.is_change = bool(decision and (decision.state is not None or decision.joined or decision.left))
        self._remember(conversation, entry)
        conversation.pending.append(entry)
        entry.timer = self._timers.at(now + self._policies.storage_timeout, self._overdue, conversation)
        if self._early_ack:
            self._port.to_gateway(session.gateway, frames.Down((session,), frames.Received(frame.id_client)))
        self._port.store(storage.Append(conversation.epoch, message, frame.shown, effects))

    def _again(self, up: frames.Up, entry: _Entry) -> None:
        """The idempotency key is known: it is the same message, or nothing."""
        assert isinstance(up.frame, frames.Send)
        if not entry.message.came_from(up.frame):
            # Storage may know better what this idClient was used for first, until it has answered.
            code = Code.CONFLICT if entry.stored else Code.UNAVAILABLE
            self._reject(up, code, "this idClient was used for another message")
        elif entry.stored:
            self._acknowledge(entry.message, up.session)
        else:
            entry.sessions.append(up.session)  # the retry races the original: one answer for both

    # --- what is allowed ----------------------------------------------------------------------------------------------

    @staticmethod
    def _check_member(conversation: _Conversation, user: str) -> None:
        if user not in conversation.member_set:
            raise Refused(Code.NOT_MEMBER, f"you are no member of {conversation.id}")

    def _check_may_send(self, conversation: _Conversation, session: Session, frame: frames.Send) -> None:
        if frame.scene == Scene.SYSTEM:
            if frame.type != MessageType.CUSTOM:
                raise Refused(Code.BAD_REQUEST, "type: users send each other system messages of type custom only")
            return
        self._check_member(conversation, session.user)
        if frame.scene == Scene.P2P:
            are_strangers = len(conversation.members) == 2 and not friends.are_friends(conversation.state)
            if self._policies.strangers == "refuse" and are_strangers:
                raise Refused(Code.NOT_FRIENDS, "you are no friends; send a friend_request")
        elif groups.is_silenced(conversation.state, session.user):
            raise Refused(Code.MUTED, "you are muted in this group, or everybody is")

    def _change(
        self, conversation: _Conversation, session: Session, frame: frames.Send, event: str, now: float
    ) -> Change:
        file = frame.file or {}
        if file.get("operator") != session.user:
            raise Refused(Code.BAD_REQUEST, "file.operator: expected your own name")
        time = int((self._epoch + now) * 1000)
        targets, data = file["targets"], file["data"]
        assert isinstance(targets, list)
        assert isinstance(data, dict)
        return Change(conversation.id, conversation.next_seq, time, event, session.user, tuple(targets), data)

    def _decide(self, conversation: _Conversation, change: Change, known: _Known) -> Decision:
        scene, policies = conversation.id.partition(":")[0], self._policies
        lifetime = int(policies.request_lifetime * 1000)
        if change.event in amendments.EVENTS:
            target = known.get(amendments.target_seq(change))
            if target is None:
                raise Refused(Code.BAD_REQUEST, "file.data.seq: there is no such message")
            rank = 0
            if scene == Scene.GROUP:
                rank = groups.Group.of(conversation.state, conversation.members).rank(change.operator)
            return amendments.decide(
                change,
                target,
                rank=rank,
                recall_window=int(policies.recall_window * 1000),
                edit_window=int(policies.edit_window * 1000),
            )
        if scene == Scene.GROUP:
            limits = groups.Limits(policies.group_size, lifetime)
            return groups.decide(conversation.state, conversation.members, change, limits)
        if scene == Scene.P2P:
            self._check_member(conversation, change.operator)
            return friends.decide(conversation.state, conversation.members, change, lifetime)
        raise Refused(Code.BAD_REQUEST, f"scene: nothing can be changed in a {scene} conversation")

    # --- storing, letting out -----------------------------------------------------------------------------------------

    def _appended(self, conversation: _Conversation, message: Message, result: storage.Result, now: float) -> None:
        entry = conversation.recent.get((message.sender, message.id_client))
        if entry is None or entry.message is not message:
            return  # it has got another place since
        if type(result) is storage.Appended:
            entry.stored = True
            entry.places, entry.notes = result.places, result.notes
            # Several workers may answer out of order; what is let out keeps to the log's order.
            pending = conversation.pending
            while pending and pending[0].stored:
                self._release(conversation, pending.popleft())
        elif isinstance(result, storage.Duplicate | storage.Blocked):
            self._not_appended(conversation, entry, result, now)
        else:
            self._fence(conversation, "storage refused the message", now)

    def _release(self, conversation: _Conversation, entry: _Entry) -> None:
        message = entry.message
        if entry.timer:
            entry.timer.cancel()
        self._port.emit(events.Committed(message))
        for session in entry.sessions:
            self._acknowledge(message, session)
        # Whoever has had to wait, and to ask again, may have given up: then the answer is not enough.
        is_prompt = len(entry.sessions) == 1 and not message.resend
        origin = entry.sessions[0] if is_prompt else None
        self._port.to_users(frames.Deliver(entry.audience, message, origin, entry.places))
        for note in entry.notes:
            self._port.to_users(frames.Deliver((note.to,), note))
        for up, refused in entry.refused:
            self._reject(up, refused.code, refused.text)
        entry.sessions, entry.places, entry.notes, entry.audience, entry.refused = [], (), (), (), []

    def _not_appended(
        self, conversation: _Conversation, entry: _Entry, result: storage.Duplicate | storage.Blocked, now: float
    ) -> None:
        """Storage knew the key although this writer did not, or somebody has blocked the sender: the seq is free
        again, and those behind it move up."""
        sessions, id_client, seq = entry.sessions, entry.message.id_client, entry.message.seq
        if entry.timer:
            entry.timer.cancel()
        behind = [other for other in conversation.pending if other.message.seq > seq]
        conversation.pending.remove(entry)
        entry.sessions = []
        if isinstance(result, storage.Duplicate):
            code, text = Code.CONFLICT, "this idClient was used for another message"
            original, sent = result.original, entry.message
            entry.message, entry.stored = original, True
            if original.came_from(sent):
                for session in sessions:
                    self._acknowledge(original, session)
                sessions = []
        else:
            code, text = Code.BLOCKED, "the other user does not take messages from you"
            del conversation.recent[entry.message.sender, id_client]
        for session in sessions:
            self._refuse(session, frames.Send.op, id_client, code, text)
        if not entry.is_change and all(other.frame is not None and not other.stored for other in behind):
            conversation.next_seq = seq
            for other in behind:
                self._move_up(conversation, other, now)
            return
        why = "the place of a message among those in flight came free"
        for up, _ in entry.refused:
            self._reject(up, Code.UNAVAILABLE, why)
        self._fence(conversation, why, now)

    def _move_up(self, conversation: _Conversation, entry: _Entry, now: float) -> None:
        """Append it once more, at the next seq: at its old one storage refuses it."""
        assert entry.frame is not None
        if entry.timer:
            entry.timer.cancel()
        conversation.pending.remove(entry)
        first, *others = entry.sessions
        self._append(conversation, first, entry.frame, None, now)
        conversation.pending[-1].sessions += others

    def _acknowledge(self, message: Message, session: Session) -> None:
        answer = frames.Stored(message.id_client, message.conversation_id, message.id, message.seq, message.time)
        self._port.to_gateway(session.gateway, frames.Down((session,), answer))

    def _remember(self, conversation: _Conversation, entry: _Entry) -> None:
        recent = conversation.recent
        recent[entry.message.sender, entry.message.id_client] = entry
        while len(recent) > _RECENT and recent[oldest := next(iter(recent))].stored:
            del recent[oldest]

    # --- giving up --------------------------------------------------------------------------------------------------

    def _fence(self, conversation: _Conversation, why: str, now: float) -> None:
        """Forget everything about the conversation. What was in flight may be stored or not: its senders retry, and
        the next request opens it anew under a higher epoch, which fences off whatever is still on its way."""
        del self._open[conversation.id]
        if conversation.timer:
            conversation.timer.cancel()
        # What storage has said it holds waited only for what stands before it: nobody else would ever let it out.
        for entry in [entry for entry in conversation.pending if entry.stored]:
            conversation.pending.remove(entry)
            self._release(conversation, entry)
        if conversation.pending:
            self._settle_later(conversation.id, now)
        for entry in conversation.pending:
            if entry.timer:
                entry.timer.cancel()
            for session in entry.sessions:
                self._refuse(session, frames.Send.op, entry.message.id_client, Code.UNAVAILABLE, why)
            for up, _ in entry.refused:
                self._reject(up, Code.UNAVAILABLE, why)
        for up, _ in conversation.waiting:
            self._reject(up, Code.UNAVAILABLE, why)

    def _settle_later(self, id: str, now: float) -> None:
        self._unsettled[id] = self._timers.at(now + self._policies.storage_timeout, self._settle, id)

    def _settle(self, id: str, now: float) -> None:
        """Nobody has opened the conversation since: do it for the sake of those who wait for its last messages."""
        self._settle_later(id, now)
        self.open(id, now)

    def _evict(self) -> None:
        for conversation in self._open.values():
            if not conversation.pending and conversation.request is None:
                del self._open[conversation.id]
                return

    def _reject(self, up: frames.Up, code: Code, text: str, retry_after: float = 0.0) -> None:
        frame = up.frame
        self._refuse(up.session, frame.op, frame.ref, code, text, retry_after, frame.number)

    def _refuse(
        self,
        session: Session,
        request: str,
        ref: str,
        code: Code,
        text: str,
        retry_after: float = 0.0,
        number: int = 0,
    ) -> None:
        answer = frames.Rejected(request, ref, code, text, retry_after, number)
        self._port.to_gateway(session.gateway, frames.Down((session,), answer))


def _born_with(id: str) -> tuple[str, ...] | None:
    """The members of a conversation that is there without having been made."""
    scene, _, name = id.partition(":")
    return (name,) if scene == Scene.SYSTEM else p2p_members(id)


def _system_log(user: str) -> str:
    return conversation_id(Scene.SYSTEM, user, user)


def _effects(message: Message, decision: Decision) -> storage.Effects:
    notes = tuple(_system_message(message, note) for note in decision.notes)
    return storage.Effects(decision.state, decision.joined, decision.left, decision.amended, notes)


def _system_message(message: Message, note: changes.Note) -> Message:
    """A note as it will stand in its user's system log. Its idClient is that of the change, for which a user gets one
    note; with more, for the settling of each other."""
    id, type = message.id, note.type
    file: dict[str, object] = {"conversationId": message.conversation_id, **note.data}
    if note.settles:
        id, type = f"{id}>{note.settles}", MessageType.NOTIFICATION
        file = {"event": "settle", "operator": message.sender, "targets": [note.settles], "data": dict(note.data)}
    log = _system_log(note.user)
    return Message(log, 0, "", id, Scene.SYSTEM, type, message.sender, note.user, message.time, "", file)
