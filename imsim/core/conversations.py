"""The Conversations machine: the single writer of each conversation's log.

It runs on the router node that owns the conversation. For each send it decides: seen before? in order? allowed? Then it
gives the message the next seq, has storage append it, and only once that is answered acknowledges it and lets it out.
Whether it may, and what follows from it, the `rules` say.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Protocol

from imsim.core import changes, events, frames, rules, storage
from imsim.core.changes import Decision, Refused
from imsim.core.limits import Bucket
from imsim.core.model import Code, Message, Scene, Session, is_group, p2p_members
from imsim.core.policies import Policies
from imsim.core.timers import Timer, Timers

_RECENT = 64  # idempotency keys kept in memory per conversation; older ones are looked up in storage
_SESSIONS = 10_000  # the latest that acted in a conversation: none may act that was replaced by one of them
_WAITING = 10_000  # requests that may wait for storage, of one conversation; and conversations, beyond those open
_LOOKED_AT = 100  # open conversations, at most, to find one that can make room for another


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
        "asked",
        "audience",
        "before",
        "fenced",
        "is_change",
        "message",
        "notes",
        "places",
        "refused",
        "stored",
        "timer",
    )

    def __init__(self, message: Message, asked: frames.Up | None = None) -> None:
        self.message = message
        self.asked = [asked] if asked else []  # who waits for the answer; more than one if a retry raced
        self.stored = asked is None
        self.fenced = False  # storage refused it at its seq
        self.audience: tuple[str, ...] = ()  # who may see it
        self.notes: tuple[Message, ...] = ()  # for the system logs of users
        self.places: storage.Places = ()  # that changed with it
        self.before: tuple[tuple[str, ...], dict[str, Any] | None] = ((), None)  # members and state
        self.is_change = False  # of members or state, which the writer has changed in memory already
        self.refused: list[tuple[frames.Up, Refused]] = []  # what may not be any more, if this comes to be stored
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
        self.epochs: dict[tuple[str, str], int] = {}  # of the latest session by (user, slot), the last last
        self.bucket: Bucket | None = None  # of a group, where there is a limit
        self.recent: dict[tuple[str, str], _Entry] = {}
        # Lists, for they are empty or short as a rule, and an empty deque takes ten times the memory of one.
        self.pending: list[_Entry] = []
        self.waiting: list[tuple[frames.Up, rules.Known]] = []
        self.request: storage.OpenConversation | storage.LookUp | None = None
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
            self._has_room()
            self._start_opening(conversation_id, founders, now)

    def _start_opening(self, id: str, founders: tuple[str, ...] | None, now: float) -> _Conversation:
        conversation = self._open[id] = _Conversation(id)
        self._ask(conversation, storage.OpenConversation(id, founders or _born_with(id)), now)
        return conversation

    def receive(self, up: frames.Up, now: float) -> None:
        conversation = self._open.get(up.conversation_id)
        if conversation is None:
            if not self._has_room():
                self._reject(up, Code.UNAVAILABLE, "too many conversations wait for storage")
                return
            conversation = self._start_opening(up.conversation_id, None, now)
            conversation.waiting.append((up, rules.Known()))
            return
        if len(self._open) >= self._policies.open_conversations:
            self._open[conversation.id] = self._open.pop(conversation.id)  # the one that is idle for longest makes room
        if conversation.request is not None:
            if len(conversation.waiting) < _WAITING:
                conversation.waiting.append((up, rules.Known()))
            else:
                self._reject(up, Code.UNAVAILABLE, "too many requests wait for this conversation")
        else:
            self._handle(conversation, up, rules.Known(), now)

    def stored(self, request: storage.Request, result: storage.Result, now: float) -> None:
        if type(request) is storage.Append:
            conversation = self._open.get(request.message.conversation_id)
            if conversation is not None and request.epoch == conversation.epoch:
                self._appended(conversation, request.message, result, now)
            return
        assert isinstance(request, storage.OpenConversation | storage.LookUp)
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
        request: storage.OpenConversation | storage.LookUp,
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
                self._port.to_users(frames.Opened((user,), rules.system_log(user), seq))
            conversation.epoch = result.epoch
            conversation.next_seq = result.max_seq + 1
            conversation.has_members(result.members)
            conversation.state = result.state
            if self._policies.group_rate and is_group(conversation.id):
                conversation.bucket = Bucket(self._policies.group_rate, self._policies.group_burst, now)
            self._resume(conversation, now)
        elif result is None:
            while conversation.waiting:
                up, _ = conversation.waiting[0]
                if isinstance(up.frame, frames.Send) and changes.event_of(up.frame) == "create":
                    self._ask(conversation, storage.OpenConversation(conversation.id, ()), now)
                    return
                conversation.waiting.pop(0)
                self._reject(up, Code.NO_CONVERSATION, f"there is no {conversation.id}")
            del self._open[conversation.id]
        else:
            self._fence(conversation, "storage could not open the conversation", now)

    def _look_up(
        self,
        conversation: _Conversation,
        up: frames.Up,
        known: rules.Known,
        request: storage.LookUp,
        now: float,
    ) -> None:
        conversation.waiting.insert(0, (up, known))
        self._ask(conversation, request, now)

    def _looked_up(
        self, conversation: _Conversation, request: storage.LookUp, result: storage.Result, now: float
    ) -> None:
        up, known = conversation.waiting.pop(0)
        if isinstance(result, storage.Failed):
            self._reject(up, Code.UNAVAILABLE, "storage could not look the message up")
        else:
            known.learn(request, result)
            if isinstance(request, storage.Find) and isinstance(result, Message):
                self._remember(conversation, _Entry(result))
            conversation.waiting.insert(0, (up, known))
        self._resume(conversation, now)

    def _resume(self, conversation: _Conversation, now: float) -> None:
        while conversation.waiting and conversation.request is None:
            up, known = conversation.waiting.pop(0)
            self._handle(conversation, up, known, now)

    # --- sending ----------------------------------------------------------------------------------------------------

    def _handle(self, conversation: _Conversation, up: frames.Up, known: rules.Known, now: float) -> None:
        """`known`: what was just looked up for it; nothing was written since."""
        frame, session = up.frame, up.session
        assert isinstance(frame, frames.Send)
        if not self._is_latest(conversation, session):
            return  # a replaced session can no longer act; its client is told so by its gateway

        key = (session.user, frame.id_client)
        entry = conversation.recent.get(key)
        try:
            # A change is looked up though it may be new: it changes what those behind it are decided by.
            if entry is None and (frame.resend or changes.event_of(frame) in rules.RULED):
                original = known.find(conversation.id, *key)
                entry = _Entry(original) if original else None
            if entry is not None:
                self._again(up, entry)
                return
            if frame.after is not None and not self._has(conversation, known, session.user, frame.after):
                self._reject(up, Code.GAP, f"the message {frame.after!r} before it has not arrived")
                return
            time = int((self._epoch + now) * 1000)
            change = changes.asked_for(frame, session.user, conversation.id, conversation.next_seq, time)
            decision = rules.decide(conversation, session.user, frame, change, known, self._policies)
        except rules.LookUp as needed:
            self._look_up(conversation, up, known, needed.request, now)
            return
        except Refused as refused:
            # What it rests on may be a change that is not stored, and never will be: then it was no answer.
            for entry in reversed(conversation.pending):
                if entry.is_change:
                    self._put_off(entry.refused, (up, refused))
                    return
            self._reject(up, refused.code, refused.text)
            return
        if len(conversation.pending) >= _WAITING:
            self._reject(up, Code.UNAVAILABLE, "too many messages of this conversation wait for storage")
            return
        # The budget is the members': whoever comes, or wants to, has only that of a user, and uses up nobody else's.
        bucket = conversation.bucket
        if bucket is not None and session.user in conversation.member_set and (wait := bucket.take(now)):
            self._reject(up, Code.RATE_LIMITED, "too many messages in this group", wait)
            return
        self._append(conversation, up, decision, now)

    def _is_latest(self, conversation: _Conversation, session: Session) -> bool:
        """Whether no later session of its slot, or of its device, has acted here, as far as this writer has seen."""
        epochs = conversation.epochs
        slots = [(session.user, session.slot)]
        if self._policies.sessions != "all":  # where a device may log in as another kind, and so in another slot
            slots.append((session.user, f":{session.device}"))
        if any(epochs.get(slot, 0) > session.epoch for slot in slots):
            return False
        for slot in slots:
            epochs.pop(slot, None)
            epochs[slot] = session.epoch
            if len(epochs) > _SESSIONS:
                del epochs[next(iter(epochs))]
        return True

    @staticmethod
    def _has(conversation: _Conversation, known: rules.Known, sender: str, id_client: str) -> bool:
        """Raises: LookUp."""
        if (sender, id_client) in conversation.recent:
            return True
        return known.find(conversation.id, sender, id_client) is not None

    def _append(
        self,
        conversation: _Conversation,
        up: frames.Up,
        decision: Decision | None,
        now: float,
    ) -> None:
        frame, session = up.frame, up.session
        assert isinstance(frame, frames.Send)
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
        entry = _Entry(message, up)
        entry.before = (conversation.members, conversation.state)
        effects, audience = None, conversation.members
        if decision is not None:
            effects = rules.effects(message, decision)
            audience = (*audience, *decision.joined)
            if decision.joined or decision.left:
                left = frozenset(decision.left)
                conversation.has_members(tuple(member for member in audience if member not in left))
            if decision.state is not None:
                conversation.state = decision.state
        conversation.next_seq += 1
        entry.audience = audience
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
            conflict = Refused(Code.CONFLICT, "this idClient was used for another message")
            if entry.stored:
                self._reject(up, conflict.code, conflict.text)
            else:
                self._put_off(entry.refused, (up, conflict))  # storage may know better what was said under it first
        elif entry.stored:
            self._acknowledge(entry.message, up.session)
        else:
            self._put_off(entry.asked, up)  # the retry races the original: one answer for both

    def _put_off(self, answers: list[Any], one: Any) -> None:
        """To be answered with the entry. Beyond the bound it is not answered, and asked again by whoever needs it."""
        if len(answers) < _WAITING:
            answers.append(one)

    # --- storing, letting out -----------------------------------------------------------------------------------------
    #
    # A conversation in memory is storage's plus `pending`, applied in order: the seqs of `pending` are dense and end
    # right before `next_seq`, `members` and `state` are what they are after its last, and each entry keeps in `before`
    # what they were before it. Of `pending` only the first may be let out; one behind it that is `stored` waits.
    #
    # Where storage refuses one, all behind it rest on what never was: their seqs, who may hear them, the refusals put
    # off until them. So none is mended. `_take_back` cuts `pending` off there and goes back to that entry's `before`,
    # and what asked for the entries, refused or not, is handed back as requests, in their order. `_wait_again` puts
    # these before all that waits, with nothing known: what was looked up saw another state, and the answer to a look-up
    # under way must find `request` gone. Then they are decided as if they had just come. Nothing that is cut off can be
    # in the log: storage carries out what it is asked of a conversation in that order, so behind a refused one it has
    # refused all before it meets what is decided anew; the answers that say so come later and find another entry under
    # the key, or none (see `_appended`). `_overtaken`, whose seq somebody else has taken, lets out what is known to be
    # stored and asks where the log ends, before anything is decided again. `_not_appended` need not ask, for its seq is
    # free; but it must remember the original first, or its duplicate, handed back too, would be appended again.

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
                self._release(conversation, pending.pop(0))
            if pending and pending[0].fenced:
                self._fenced(conversation, now)
        elif isinstance(result, storage.Duplicate | storage.Blocked):
            self._not_appended(conversation, entry, result, now)
        elif isinstance(result, storage.Fenced):
            entry.fenced = True
            if conversation.pending[0] is entry:  # else it may be only that one before it was not appended
                self._fenced(conversation, now)
        else:
            self._fence(conversation, "storage failed to store the message", now)

    def _fenced(self, conversation: _Conversation, now: float) -> None:
        """Storage has taken in more than this writer knows of."""
        if conversation.pending[0].message.scene == Scene.SYSTEM:
            self._overtaken(conversation, now)
        else:
            self._fence(conversation, "storage refused the message", now)

    def _release(self, conversation: _Conversation, entry: _Entry) -> None:
        message = entry.message
        if entry.timer:
            entry.timer.cancel()
        self._port.emit(events.Committed(message))
        for up in entry.asked:
            self._acknowledge(message, up.session)
        # Whoever has had to wait, and to ask again, may have given up: then the answer is not enough.
        is_prompt = len(entry.asked) == 1 and not message.resend
        origin = entry.asked[0].session if is_prompt else None
        self._port.to_users(frames.Deliver(entry.audience, message, origin, entry.places))
        for note in entry.notes:
            self._port.to_users(frames.Deliver((note.to,), note))
        for up, refused in entry.refused:
            self._reject(up, refused.code, refused.text)
        entry.asked, entry.places, entry.notes, entry.audience, entry.refused = [], (), (), (), []
        entry.before = ((), None)

    def _not_appended(
        self, conversation: _Conversation, entry: _Entry, result: storage.Duplicate | storage.Blocked, now: float
    ) -> None:
        """Storage knew the key although this writer did not, or somebody has blocked the sender: the seq is free
        again. Those behind it, which storage refuses at theirs, are decided anew, as if it had never been there."""
        blocked = entry.asked if isinstance(result, storage.Blocked) else []
        for up in blocked:
            self._reject(up, Code.BLOCKED, "the other user does not take messages from you")
        anew = [up for up in self._take_back(conversation, entry) if up not in blocked]
        if isinstance(result, storage.Duplicate):
            self._remember(conversation, _Entry(result.original))
        self._wait_again(conversation, anew)
        self._resume(conversation, now)

    def _overtaken(self, conversation: _Conversation, now: float) -> None:
        """A system log has other writers beside this one: what follows from changes elsewhere stands there as well. So
        look where it ends by now, and go on from there."""
        self._release_stored(conversation)
        anew = self._take_back(conversation, conversation.pending[0])
        self._wait_again(conversation, anew)
        self._ask(conversation, storage.OpenConversation(conversation.id, _born_with(conversation.id)), now)

    @staticmethod
    def _take_back(conversation: _Conversation, entry: _Entry) -> list[frames.Up]:
        """Have it, and all behind it, be nothing again but what was asked for; returns that."""
        conversation.next_seq = entry.message.seq
        members, conversation.state = entry.before
        if members is not conversation.members:
            conversation.has_members(members)
        asked: list[frames.Up] = []
        for other in [other for other in conversation.pending if other.message.seq >= entry.message.seq]:
            if other.timer:
                other.timer.cancel()
            conversation.pending.remove(other)
            del conversation.recent[other.message.sender, other.message.id_client]
            asked += [*other.asked, *(up for up, _ in other.refused)]
        return asked

    @staticmethod
    def _wait_again(conversation: _Conversation, ups: list[frames.Up]) -> None:
        """Before all others that wait; what is being looked up for one of those is asked again."""
        conversation.request = None
        if conversation.timer:
            conversation.timer.cancel()
        later = (up for up, _ in conversation.waiting)
        conversation.waiting = [(up, rules.Known()) for up in (*ups, *later)]

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
        self._release_stored(conversation)
        if conversation.pending:
            self._settle_later(conversation.id, now)
        for entry in conversation.pending:
            if entry.timer:
                entry.timer.cancel()
            for up in (*entry.asked, *(up for up, _ in entry.refused)):
                self._reject(up, Code.UNAVAILABLE, why)
        for up, _ in conversation.waiting:
            self._reject(up, Code.UNAVAILABLE, why)

    def _release_stored(self, conversation: _Conversation) -> None:
        """What storage has said it holds waited only for what stands before it: nobody else would ever let it out."""
        for entry in [entry for entry in conversation.pending if entry.stored]:
            conversation.pending.remove(entry)
            self._release(conversation, entry)

    def _settle_later(self, id: str, now: float) -> None:
        self._unsettled[id] = self._timers.at(now + self._policies.storage_timeout, self._reopen, id)

    def _reopen(self, id: str, now: float) -> None:
        """Nobody has opened the conversation since: do it for the sake of those who wait for its last messages."""
        self._settle_later(id, now)
        self.open(id, now)

    def _has_room(self) -> bool:
        """Whether another conversation can be opened. Where there are as many as may be, those make room that have had
        nothing to do for longest; while all have something to do there may be more, but not without end."""
        most = self._policies.open_conversations
        for _ in range(min(_LOOKED_AT, len(self._open))):
            if len(self._open) < most:
                break
            id = next(iter(self._open))
            conversation = self._open.pop(id)
            if conversation.pending or conversation.request is not None:
                self._open[id] = conversation
        return len(self._open) < most + _WAITING

    def _reject(self, up: frames.Up, code: Code, text: str, retry_after: float = 0.0) -> None:
        frame = up.frame
        answer = frames.Rejected(frame.op, frame.ref, code, text, retry_after, frame.number)
        self._port.to_gateway(up.session.gateway, frames.Down((up.session,), answer))


def _born_with(id: str) -> tuple[str, ...] | None:
    """The members of a conversation that is there without having been made."""
    scene, _, name = id.partition(":")
    return (name,) if scene == Scene.SYSTEM else p2p_members(id)
