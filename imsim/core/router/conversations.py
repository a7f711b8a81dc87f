"""The Conversations machine: the single writer of each conversation's log.

It runs on the router node that owns the conversation. For each send it decides: seen before? in order? allowed? Then it
gives the message the next seq, has storage append it, and only once that is answered acknowledges it and lets it out.
Whether it may, and what follows from it, the `rules` say.
"""

from __future__ import annotations

from typing import Any, ClassVar, Protocol, get_args

from imsim.core import changes, events, frames, internal_frames, storage
from imsim.core.empty import NO_LIST
from imsim.core.limits import Bucket
from imsim.core.model import Code, Message, Scene, Session, is_group, p2p_members
from imsim.core.policies import Policies
from imsim.core.router import answers, rules
from imsim.core.router.log import Entry, Log
from imsim.core.router.rules.decision import Decision, RuleViolation, asked_for
from imsim.core.timers import Timer, Timers

_WAITING = 10_000  # requests that may wait for storage, of one conversation; and conversations, beyond those open
_LOOKED_AT = 100  # open conversations, at most, to find one that can make room for another


class ConversationsPort(Protocol):
    def store(self, request: storage.Request) -> None:
        """Carry it out; answered by `stored(request, result, now)`."""

    def to_gateway(self, gateway: str, frame: internal_frames.ToGateway) -> None: ...

    def to_users(self, frame: internal_frames.Deliver | internal_frames.Opened) -> None:
        """Split `frame.users` by the router that owns each, and send each its part."""

    def emit(self, event: events.Committed) -> None: ...


class Conversations:
    """`epoch` is the wall time in seconds since 1970 at which this node's `now` was 0."""

    def __init__(
        self, port: ConversationsPort, policies: Policies, epoch: float = 0.0, timers: Timers | None = None
    ) -> None:
        self._port = port
        self._policies = policies
        self._epoch = epoch
        self.timers = timers or Timers()
        self._open: dict[str, Log] = {}
        #: Conversations that may hold messages that nobody has let out; each is opened again in a while.
        self._unresolved: dict[str, Timer] = {}

    def open(self, conversation_id: str, now: float, founders: tuple[str, ...] | None = None) -> None:
        """Have the conversation ready for what will come; every conversation is opened at its first use anyway."""
        if conversation_id not in self._open:
            self._has_room()
            self._start_opening(conversation_id, founders, now)

    def _start_opening(self, id: str, founders: tuple[str, ...] | None, now: float) -> Log:
        log = self._open[id] = Log(id)
        self._ask(log, storage.OpenConversation(id, founders or _born_with(id)), now)
        return log

    def receive(self, up: internal_frames.Up, now: float) -> None:
        log = self._open.get(up.conversation_id)
        if log is None:
            if not self._has_room():
                answers.reject(self._port, up, Code.UNAVAILABLE, "too many conversations wait for storage")
                return
            log = self._start_opening(up.conversation_id, None, now)
            log.waiting = [(up, rules.LookupCache())]
            return
        if len(self._open) >= self._policies.open_conversations:
            self._open[log.id] = self._open.pop(log.id)  # the one that is idle for longest makes room
        if log.is_busy:
            if not log.wait(up, _WAITING):
                answers.reject(self._port, up, Code.UNAVAILABLE, "too many requests wait for this conversation")
        else:
            self._handle(log, up, rules.LookupCache(), now)

    # --- opening, looking up ----------------------------------------------------------------------------------------

    def _ask(
        self,
        log: Log,
        request: storage.OpenConversation | storage.Lookup,
        now: float,
    ) -> None:
        log.request = request
        log.timer = self.timers.at(now + self._policies.storage_timeout, self._overdue, log)
        self._port.store(request)

    def _asked_by(self, request: storage.OpenConversation | storage.Lookup) -> Log | None:
        """The log that waits for the answer to this, and does so no longer; None if it was given up."""
        log = self._open.get(request.conversation_id)
        if log is None or log.request is not request:
            return None
        log.request = None
        if log.timer:
            log.timer.cancel()
            log.timer = None
        return log

    def _overdue(self, log: Log, now: float) -> None:
        self._fence(log, "storage did not answer in time", now)

    def _opened(self, request: storage.OpenConversation, result: storage.Result, now: float) -> None:
        log = self._asked_by(request)
        if log is None:
            return
        if isinstance(result, storage.LogState):
            if timer := self._unresolved.pop(log.id, None):
                timer.cancel()
            if result.max_seq:
                self._port.to_users(internal_frames.Opened(result.members, log.id, result.max_seq))
            for user, seq in result.left:
                self._port.to_users(internal_frames.Opened((user,), log.id, seq))
            for user, seq in result.notified:
                self._port.to_users(internal_frames.Opened((user,), rules.system_log(user), seq))
            log.epoch = result.epoch
            log.next_seq = result.max_seq + 1
            log.has_members(result.members)
            log.state = result.state
            if self._policies.group_rate and is_group(log.id):
                log.bucket = Bucket(self._policies.group_rate, self._policies.group_burst, now)
            self._resume(log, now)
        elif result is None:
            while log.waiting:
                up, _ = log.waiting[0]
                if isinstance(up.frame, frames.Send) and changes.event_of(up.frame) == "create":
                    self._ask(log, storage.OpenConversation(log.id, ()), now)
                    return
                log.waiting.pop(0)
                answers.reject(self._port, up, Code.NO_CONVERSATION, f"there is no {log.id}")
            del self._open[log.id]
        else:
            self._fence(log, "storage could not open the conversation", now)

    def _look_up(
        self,
        log: Log,
        up: internal_frames.Up,
        known: rules.LookupCache,
        request: storage.Lookup,
        now: float,
    ) -> None:
        log.waiting = [(up, known), *log.waiting]
        self._ask(log, request, now)

    def _looked_up(self, request: storage.Lookup, result: storage.Result, now: float) -> None:
        log = self._asked_by(request)
        if log is None:
            return
        up, known = log.waiting.pop(0)
        if isinstance(result, storage.Failed):
            answers.reject(self._port, up, Code.UNAVAILABLE, "storage could not look the message up")
        else:
            known.learn(request, result)
            if isinstance(request, storage.Find) and isinstance(result, Message):
                log.remember(Entry(result))
            log.waiting.insert(0, (up, known))
        self._resume(log, now)

    def _resume(self, log: Log, now: float) -> None:
        while log.waiting and not log.is_busy:
            up, known = log.waiting.pop(0)
            self._handle(log, up, known, now)

    # --- sending ----------------------------------------------------------------------------------------------------

    def _handle(self, log: Log, up: internal_frames.Up, known: rules.LookupCache, now: float) -> None:
        """`known`: what was just looked up for it; nothing was written since."""
        frame, session = up.frame, up.session
        assert isinstance(frame, frames.Send)
        if not log.is_latest(session, by_slot=self._policies.sessions.has_shared_slots):
            return  # a replaced session can no longer act; its gateway tells the client

        key = (session.user, frame.id_client)
        entry = log.recent.get(key)
        try:
            # A change is looked up though it may be new: it changes what those behind it are decided by.
            if entry is None and (frame.resend or changes.event_of(frame) in rules.RULED):
                original = known.find(log.id, *key)
                entry = Entry(original) if original else None
            if entry is not None:
                self._again(up, entry)
                return
            if frame.after is not None and not self._has(log, known, session.user, frame.after):
                answers.reject(self._port, up, Code.GAP, f"the message {frame.after!r} before it has not arrived")
                return
            time = int((self._epoch + now) * 1000)
            change = asked_for(frame, session.user, log.id, log.next_seq, time)
            decision = rules.decide(log, session.user, frame, change, known, self._policies)
        except rules.NeedsLookup as needed:
            self._look_up(log, up, known, needed.request, now)
            return
        except RuleViolation as refused:
            # What it rests on may be a change that is not stored, and never will be: then it was no answer.
            for entry in reversed(log.pending):
                if entry.is_change:
                    entry.refused = self._put_off(entry.refused, (up, refused))
                    return
            answers.reject(self._port, up, refused.code, refused.text)
            return
        if len(log.pending) >= _WAITING:
            answers.reject(self._port, up, Code.UNAVAILABLE, "too many messages of this conversation wait for storage")
            return
        # The budget is the members': whoever comes, or wants to, has only that of a user, and uses up nobody else's.
        bucket = log.bucket
        if bucket is not None and session.user in log.member_set and (wait := bucket.take(now)):
            answers.reject(self._port, up, Code.RATE_LIMITED, "too many messages in this group", wait)
            return
        self._append(log, up, decision, time, now)

    @staticmethod
    def _has(log: Log, known: rules.LookupCache, sender: str, id_client: str) -> bool:
        """Raises: NeedsLookup."""
        if (sender, id_client) in log.recent:
            return True
        return known.find(log.id, sender, id_client) is not None

    def _append(self, log: Log, up: internal_frames.Up, decision: Decision | None, time: int, now: float) -> None:
        """`time`: wall time in ms."""
        frame, session = up.frame, up.session
        assert isinstance(frame, frames.Send)
        message = Message(
            log.id,
            log.next_seq,
            f"{log.id}:{log.next_seq}",
            frame.id_client,
            frame.scene,
            frame.type,
            session.user,
            frame.to,
            time,
            frame.content,
            frame.file,
            frame.custom,
            frame.resend,
        )
        entry = Entry(message, up)
        entry.before = (log.members, log.state)
        effects, audience = None, log.members
        if decision is not None:
            effects = rules.effects(message, decision)
            audience = (*audience, *decision.joined)
            if decision.joined or decision.left:
                left = frozenset(decision.left)
                log.has_members(tuple(member for member in audience if member not in left))
            if decision.state is not None:
                log.state = decision.state
        log.next_seq += 1
        entry.audience = audience
        entry.is_change = bool(decision and (decision.state is not None or decision.joined or decision.left))
        log.remember(entry)
        log.pending = log.pending or []
        log.pending.append(entry)
        entry.timer = self.timers.at(now + self._policies.storage_timeout, self._overdue, log)
        if self._policies.ack.reports_receipt:
            answers.send(self._port, session, frames.Received(frame.id_client))
        self._port.store(storage.Append(log.epoch, message, frame.shown, effects))

    def _again(self, up: internal_frames.Up, entry: Entry) -> None:
        """The idempotency key is known: it is the same message, or nothing."""
        assert isinstance(up.frame, frames.Send)
        if not entry.message.came_from(up.frame):
            conflict = RuleViolation(Code.CONFLICT, "this idClient was used for another message")
            if entry.stored:
                answers.reject(self._port, up, conflict.code, conflict.text)
            else:
                # Storage may know better what was said under it first.
                entry.refused = self._put_off(entry.refused, (up, conflict))
        elif entry.stored:
            self._acknowledge(entry.message, up.session)
        else:
            entry.asked = self._put_off(entry.asked, up)  # the retry races the original: one answer for both

    @staticmethod
    def _put_off(answers: list[Any], one: Any) -> list[Any]:
        """Returns the answers with one more. Beyond the bound it is not answered, and asked again by whoever needs
        it."""
        answers = answers or []
        if len(answers) < _WAITING:
            answers.append(one)
        return answers

    # --- storing, letting out -----------------------------------------------------------------------------------------

    def _appended(self, request: storage.Append, result: storage.Result, now: float) -> None:
        message = request.message
        log = self._open.get(message.conversation_id)
        if log is None or request.epoch != log.epoch:
            return  # it was given up
        entry = log.recent.get((message.sender, message.id_client))
        if entry is None or entry.message is not message:
            return  # it has got another position since
        if type(result) is storage.Appended:
            entry.stored = True
            entry.states, entry.notes = result.states, result.notes
            # Several workers may answer out of order; what is let out keeps to the log's order.
            pending = log.pending
            while pending and pending[0].stored:
                self._release(log, pending.pop(0))
            log.pending = pending or NO_LIST
            if pending and pending[0].fenced:
                self._fenced(log, now)
            elif log.waiting:
                self._resume(log, now)
        elif isinstance(result, storage.Duplicate | storage.Blocked):
            self._not_appended(log, entry, result, now)
        elif isinstance(result, storage.Fenced):
            entry.fenced = True
            if log.pending[0] is entry:  # else it may be only that one before it was not appended
                self._fenced(log, now)
        else:
            self._fence(log, "storage failed to store the message", now)

    def _fenced(self, log: Log, now: float) -> None:
        """Storage has taken in more than this writer knows of."""
        if log.is_shared:
            self._overtaken(log, now)
        else:
            self._fence(log, "storage refused the message", now)

    def _release(self, log: Log, entry: Entry) -> None:
        message = entry.message
        if entry.timer:
            entry.timer.cancel()
            entry.timer = None
        self._port.emit(events.Committed(message))
        for up in entry.asked:
            self._acknowledge(message, up.session)
        # Whoever has had to wait, and to ask again, may have given up: then the answer is not enough.
        is_prompt = len(entry.asked) == 1 and not message.resend
        origin = entry.asked[0].session if is_prompt else None
        self._port.to_users(internal_frames.Deliver(entry.audience, message, origin, entry.states))
        for note in entry.notes:
            self._port.to_users(internal_frames.Deliver((note.to,), note))
        for up, refused in entry.refused:
            answers.reject(self._port, up, refused.code, refused.text)
        entry.asked, entry.states, entry.notes, entry.audience, entry.refused = NO_LIST, (), (), (), NO_LIST
        entry.before = ((), None)

    def _not_appended(self, log: Log, entry: Entry, result: storage.Duplicate | storage.Blocked, now: float) -> None:
        """Storage knew the key although this writer did not, or somebody has blocked the sender: the seq is free
        again. Those behind it, which storage refuses at theirs, are decided again, as if it had never been there. The
        original is remembered before: else its duplicate, handed back too, would be appended again."""
        blocked = entry.asked if isinstance(result, storage.Blocked) else []
        for up in blocked:
            answers.reject(self._port, up, Code.BLOCKED, "the other user does not take messages from you")
        again = [up for up in log.take_back(entry) if up not in blocked]
        if isinstance(result, storage.Duplicate):
            log.remember(Entry(result.original))
        log.wait_again(again)
        self._resume(log, now)

    def _overtaken(self, log: Log, now: float) -> None:
        """By another writer. So look where the log ends by now, and go on from there."""
        log.wait_again(log.take_back(log.pending[0]))
        self._ask(log, storage.OpenConversation(log.id, _born_with(log.id)), now)

    def _acknowledge(self, message: Message, session: Session) -> None:
        answer = frames.Stored(message.id_client, message.conversation_id, message.id, message.seq, message.time)
        answers.send(self._port, session, answer)

    # --- giving up --------------------------------------------------------------------------------------------------

    def _fence(self, log: Log, why: str, now: float) -> None:
        """Forget everything about the conversation. What was in flight may be stored or not: its senders retry, and
        the next request opens it again under a higher epoch, which fences off whatever is still on its way."""
        del self._open[log.id]
        if log.timer:
            log.timer.cancel()
        self._release_stored(log)
        if log.pending:
            self._reopen_later(log.id, now)
        for entry in log.pending:
            if entry.timer:
                entry.timer.cancel()
            for up in (*entry.asked, *(up for up, _ in entry.refused)):
                answers.reject(self._port, up, Code.UNAVAILABLE, why)
        for up, _ in log.waiting:
            answers.reject(self._port, up, Code.UNAVAILABLE, why)

    def _release_stored(self, log: Log) -> None:
        """What storage has said it holds waited only for what stands before it: nobody else would ever let it out."""
        for entry in [entry for entry in log.pending if entry.stored]:
            log.pending.remove(entry)
            self._release(log, entry)

    def _reopen_later(self, id: str, now: float) -> None:
        self._unresolved[id] = self.timers.at(now + self._policies.storage_timeout, self._reopen, id)

    def _reopen(self, id: str, now: float) -> None:
        """Nobody has opened the conversation since: do it for the sake of those who wait for its last messages."""
        self._reopen_later(id, now)
        self.open(id, now)

    def _has_room(self) -> bool:
        """Whether another conversation can be opened. Where there are as many as may be, those make room that have had
        nothing to do for longest; while all have something to do there may be more, but not without end."""
        most = self._policies.open_conversations
        for _ in range(min(_LOOKED_AT, len(self._open))):
            if len(self._open) < most:
                break
            id = next(iter(self._open))
            log = self._open.pop(id)
            if log.pending or log.request is not None:
                self._open[id] = log
        return len(self._open) < most + _WAITING

    #: What the answers of storage lead to.
    answered: ClassVar[storage.Answered] = {
        storage.Append: _appended,
        storage.OpenConversation: _opened,
        **dict.fromkeys(get_args(storage.Lookup), _looked_up),
    }


def _born_with(id: str) -> tuple[str, ...] | None:
    """The members of a conversation that is there without having been made."""
    scene, _, name = id.partition(":")
    return (name,) if scene == Scene.SYSTEM else p2p_members(id)
