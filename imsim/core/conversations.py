"""The Conversations machine: the single writer of each conversation's log.

It runs on the router node that owns the conversation. For each send it decides: allowed? seen before? in order? Then it
gives the message the next seq, has storage append it, and only once that is answered acknowledges it and lets it out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from typing import Protocol

from imsim.core import events, frames, storage
from imsim.core.limits import Bucket
from imsim.core.model import Code, Message, Session, p2p_members
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

    __slots__ = ("message", "places", "sessions", "stored", "timer")

    def __init__(self, message: Message, session: Session | None) -> None:
        self.message = message
        self.sessions = [session] if session else []  # who waits for the answer; more than one if a retry raced
        self.places: storage.Places = ()  # that changed with it
        self.stored = False
        self.timer: Timer | None = None


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
        "timer",
        "waiting",
    )

    def __init__(self, id: str) -> None:
        self.id = id
        self.epoch = 0
        self.next_seq = 1
        self.members: tuple[str, ...] = ()
        self.member_set: Collection[str] = ()
        self.epochs: dict[tuple[str, str], int] = {}  # the latest session epoch seen, by (user, slot)
        self.bucket: Bucket | None = None  # of a group, where there is a limit
        self.recent: dict[tuple[str, str], _Entry] = {}
        self.pending: deque[_Entry] = deque()
        self.waiting: deque[tuple[frames.Up, frozenset[tuple[str, str]]]] = deque()
        self.request: storage.OpenConversation | storage.Find | None = None
        self.timer: Timer | None = None


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
        self._ask(conversation, storage.OpenConversation(id, founders or p2p_members(id)), now)
        return conversation

    def receive(self, up: frames.Up, now: float) -> None:
        conversation = self._open.get(up.conversation_id)
        if conversation is None:
            conversation = self._start_opening(up.conversation_id, _founders(up), now)
            conversation.waiting.append((up, frozenset()))
        elif conversation.request is not None:
            if len(conversation.waiting) < _WAITING:
                conversation.waiting.append((up, frozenset()))
            else:
                self._reject(up, Code.UNAVAILABLE, "too many requests wait for this conversation")
        else:
            self._handle(conversation, up, frozenset(), now)

    def stored(self, request: storage.Request, result: storage.Result, now: float) -> None:
        if type(request) is storage.Append:
            conversation = self._open.get(request.message.conversation_id)
            if conversation is not None and request.epoch == conversation.epoch:
                self._appended(conversation, request.message, result, now)
            return
        assert isinstance(request, storage.OpenConversation | storage.Find)
        conversation = self._open.get(request.conversation_id)
        if conversation is None or conversation.request is not request:
            return  # the answer to a question that was given up
        conversation.request = None
        if conversation.timer:
            conversation.timer.cancel()
        if isinstance(request, storage.OpenConversation):
            self._opened(conversation, request, result, now)
        else:
            self._found(conversation, request, result, now)

    # --- opening, looking up ----------------------------------------------------------------------------------------

    def _ask(self, conversation: _Conversation, request: storage.OpenConversation | storage.Find, now: float) -> None:
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
            conversation.epoch = result.epoch
            conversation.next_seq = result.max_seq + 1
            conversation.members = result.members
            # A short tuple is searched faster than a set is built and kept.
            conversation.member_set = frozenset(result.members) if len(result.members) > 8 else result.members
            if self._policies.group_rate and not p2p_members(conversation.id):
                conversation.bucket = Bucket(self._policies.group_rate, self._policies.group_burst, now)
            self._resume(conversation, now)
        elif result is None:
            while conversation.waiting:
                up, _ = conversation.waiting[0]
                founders = _founders(up)
                if founders is not None:
                    self._ask(conversation, storage.OpenConversation(conversation.id, founders), now)
                    return
                conversation.waiting.popleft()
                self._reject(up, Code.NO_CONVERSATION, f"there is no {conversation.id}")
            del self._open[conversation.id]
        else:
            self._fence(conversation, "storage could not open the conversation", now)

    def _find(
        self,
        conversation: _Conversation,
        up: frames.Up,
        key: tuple[str, str],
        absent: frozenset[tuple[str, str]],
        now: float,
    ) -> None:
        conversation.waiting.appendleft((up, absent | {key}))
        self._ask(conversation, storage.Find(conversation.id, *key), now)

    def _found(self, conversation: _Conversation, request: storage.Find, result: storage.Result, now: float) -> None:
        if isinstance(result, storage.Failed):
            up, _ = conversation.waiting.popleft()
            self._reject(up, Code.UNAVAILABLE, "storage could not look the message up")
        elif isinstance(result, Message):
            entry = _Entry(result, None)
            entry.stored = True
            self._remember(conversation, entry)
        self._resume(conversation, now)

    def _resume(self, conversation: _Conversation, now: float) -> None:
        while conversation.waiting and conversation.request is None:
            up, absent = conversation.waiting.popleft()
            self._handle(conversation, up, absent, now)

    # --- sending ----------------------------------------------------------------------------------------------------

    def _handle(
        self, conversation: _Conversation, up: frames.Up, absent: frozenset[tuple[str, str]], now: float
    ) -> None:
        """`absent`: idempotency keys just looked up and not found; nothing was written since."""
        frame, session = up.frame, up.session
        slot = (session.user, session.slot)
        epochs = conversation.epochs
        if epochs.get(slot, 0) > session.epoch:
            return  # a replaced session can no longer act; its client is told so by its gateway
        if session.user not in conversation.member_set:
            self._reject(up, Code.NOT_MEMBER, f"you are no member of {conversation.id}")
            return
        epochs[slot] = session.epoch
        if type(frame) is not frames.Send:
            self._create_group(conversation, up)
            return

        key = (session.user, frame.id_client)
        recent = conversation.recent
        entry = recent.get(key)
        if entry is None and frame.resend and key not in absent:
            self._find(conversation, up, key, absent, now)
            return
        if entry is None and frame.after is not None:
            predecessor = (session.user, frame.after)
            if predecessor not in recent:
                if predecessor in absent:
                    self._reject(up, Code.GAP, f"the message {frame.after!r} before it has not arrived")
                else:
                    self._find(conversation, up, predecessor, absent, now)
                return
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
        if entry is not None:
            if not entry.message.same_body(message):
                if entry.stored:
                    self._reject(up, Code.CONFLICT, "this idClient was used for another message")
                else:  # storage may hold this very message, and refuse the other one for its sake
                    self._reject(up, Code.UNAVAILABLE, "another message with this idClient waits for storage")
            elif entry.stored:
                self._acknowledge(entry.message, session)
            else:
                entry.sessions.append(session)  # the retry races the original: one answer for both
            return

        if len(conversation.pending) >= _WAITING:
            self._reject(up, Code.UNAVAILABLE, "too many messages of this conversation wait for storage")
            return
        if conversation.bucket is not None and (wait := conversation.bucket.take(now)):
            self._reject(up, Code.RATE_LIMITED, "too many messages in this group", wait)
            return
        conversation.next_seq += 1
        entry = _Entry(message, session)
        self._remember(conversation, entry)
        conversation.pending.append(entry)
        entry.timer = self._timers.at(now + self._policies.storage_timeout, self._overdue, conversation)
        if self._early_ack:
            self._port.to_gateway(session.gateway, frames.Down((session,), frames.Received(frame.id_client)))
        self._port.store(storage.Append(conversation.epoch, message, frame.shown))

    def _appended(self, conversation: _Conversation, message: Message, result: storage.Result, now: float) -> None:
        entry = conversation.recent[message.sender, message.id_client]
        if type(result) is storage.Appended:
            entry.stored = True
            entry.places = result.places
            # Several workers may answer out of order; what is let out keeps to the log's order.
            pending = conversation.pending
            while pending and pending[0].stored:
                self._release(conversation, pending.popleft())
        elif isinstance(result, storage.Duplicate):
            self._was_duplicate(conversation, entry, result.original, now)
        else:
            self._fence(conversation, "storage refused the message", now)

    def _release(self, conversation: _Conversation, entry: _Entry) -> None:
        message = entry.message
        if entry.timer:
            entry.timer.cancel()
        self._port.emit(events.Committed(message))
        for session in entry.sessions:
            self._acknowledge(message, session)
        self._port.to_users(frames.Deliver(conversation.members, message, entry.sessions[0], entry.places))
        entry.sessions, entry.places = [], ()

    def _was_duplicate(self, conversation: _Conversation, entry: _Entry, original: Message, now: float) -> None:
        """Storage knew the key although this writer did not: its seq is free again."""
        sessions, same = entry.sessions, original.same_body(entry.message)
        if entry.timer:
            entry.timer.cancel()
        last = conversation.pending[-1] is entry
        conversation.pending.remove(entry)
        entry.message, entry.stored, entry.sessions = original, True, []
        if last:
            conversation.next_seq -= 1
        else:
            self._fence(conversation, "a duplicate among the messages in flight", now)
        for session in sessions:
            if same:
                self._acknowledge(original, session)
            else:
                self._refuse(
                    session,
                    frames.Send.op,
                    original.id_client,
                    Code.CONFLICT,
                    "this idClient was used for another message",
                )

    def _acknowledge(self, message: Message, session: Session) -> None:
        answer = frames.Stored(message.id_client, message.conversation_id, message.id, message.seq, message.time)
        self._port.to_gateway(session.gateway, frames.Down((session,), answer))

    def _remember(self, conversation: _Conversation, entry: _Entry) -> None:
        recent = conversation.recent
        recent[entry.message.sender, entry.message.id_client] = entry
        while len(recent) > _RECENT and recent[oldest := next(iter(recent))].stored:
            del recent[oldest]

    # --- groups -----------------------------------------------------------------------------------------------------

    def _create_group(self, conversation: _Conversation, up: frames.Up) -> None:
        assert isinstance(up.frame, frames.CreateGroup)
        if set(_founders(up) or ()) == set(conversation.members):
            answer = frames.GroupCreated(up.frame.name, conversation.id, up.frame.number)
            self._port.to_gateway(up.session.gateway, frames.Down((up.session,), answer))
        else:
            self._reject(up, Code.CONFLICT, "a group of this name has other members")

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
        if conversation.pending and conversation.id not in self._unsettled:
            self._settle_later(conversation.id, now)
        for entry in conversation.pending:
            if entry.timer:
                entry.timer.cancel()
            for session in entry.sessions:
                self._refuse(session, frames.Send.op, entry.message.id_client, Code.UNAVAILABLE, why)
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


def _founders(up: frames.Up) -> tuple[str, ...] | None:
    if isinstance(up.frame, frames.CreateGroup):
        return tuple(sorted({*up.frame.members, up.session.user}))
    return None
