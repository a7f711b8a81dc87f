"""The Conversations machine: the single writer of each conversation's log.

It runs on the router node that owns the conversation. For each send it checks three things: is it a repeat, is it in
order, and do the `rules` allow it? Then it gives the message the next seq and asks storage to append it. When storage
has answered, it acknowledges the message and releases it to the members.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Protocol, get_args

from imsim.core import changes, events, frames, internal_frames, storage
from imsim.core.empty import NO_LIST
from imsim.core.limits import Bucket
from imsim.core.model import Code, Message, Scene, Session, is_group, p2p_members
from imsim.core.policies import Policies
from imsim.core.router import answers, rules
from imsim.core.router.log import Entry, Log
from imsim.core.router.rules.decision import Decision, RuleViolation, requested_change
from imsim.core.timers import Timer, Timers

_WAITING = 10_000  # bound on the requests of one conversation that wait, and on conversations beyond open_conversations
_LOOKED_AT = 100  # open conversations that are searched at most for one that can be closed


class ConversationsPort(Protocol):
    def store(self, request: storage.Request) -> None:
        """Have storage carry out the request. The shell answers with `stored(request, result, now)`."""

    def append(self, request: storage.Append, now: float) -> None:
        """Have storage carry out an append, like `store`."""

    def storage_wait(self, conversation_id: str, now: float) -> float:
        """Return how long a new append to this conversation would wait for storage, in seconds."""

    def to_gateway(self, gateway: str, frame: internal_frames.ToGateway) -> None: ...

    def to_users(self, frame: internal_frames.Deliver | internal_frames.Opened) -> None:
        """Send the frame to each router that owns one of `frame.users`, with that router's users only."""

    def emit(self, event: events.Committed) -> None: ...


class Conversations:
    """The conversations that one router node owns.

    `epoch` is the wall time in seconds since 1970 at which this node's `now` was 0.
    """

    def __init__(
        self, port: ConversationsPort, policies: Policies, epoch: float = 0.0, timers: Timers | None = None
    ) -> None:
        self._port = port
        self._policies = policies
        self._has_shared_slots = policies.sessions.has_shared_slots
        self._epoch = epoch
        self.timers = timers or Timers()
        self._open: dict[str, Log] = {}
        #: Conversations with messages that may be stored but were not released. Each is opened again after a while.
        self._unresolved: dict[str, Timer] = {}

    def open(self, conversation_id: str, now: float, founders: tuple[str, ...] | None = None) -> None:
        """Open the conversation in advance. Otherwise its first request opens it."""
        if conversation_id not in self._open:
            self._make_room()
            self._start_opening(conversation_id, founders, now)

    def queued(self) -> Iterator[int]:
        """Yield, for each open conversation, the count of requests that wait for storage or for another request."""
        for log in list(self._open.values()):
            yield len(log.pending) + len(log.waiting)

    def _start_opening(self, id: str, founders: tuple[str, ...] | None, now: float) -> Log:
        log = self._open[id] = Log(id)
        self._request(log, storage.OpenConversation(id, founders or _initial_members(id)), now)
        return log

    def receive(self, up: internal_frames.Up, now: float) -> None:
        """Handle a send, or let it wait until the conversation is ready for it."""
        log = self._open.get(up.conversation_id)
        if log is None:
            if self._is_busy(up, now):
                return
            if not self._make_room():
                answers.reject(self._port, up, Code.UNAVAILABLE, "too many conversations wait for storage")
                return
            log = self._start_opening(up.conversation_id, None, now)
            log.waiting = [(up, rules.LookupCache())]
            return
        if len(self._open) >= self._policies.open_conversations:
            self._open[log.id] = self._open.pop(log.id)  # the first one is idle for longest, and is closed first
        if log.is_busy:
            if not log.wait(up, _WAITING):
                answers.reject(self._port, up, Code.UNAVAILABLE, "too many requests wait for this conversation")
        else:
            self._handle(log, up, rules.LookupCache(), now)

    # --- opening, looking up ----------------------------------------------------------------------------------------

    def _request(
        self,
        log: Log,
        request: storage.OpenConversation | storage.Lookup,
        now: float,
    ) -> None:
        """Send the request to storage. Everything else of this conversation waits for its answer."""
        log.request = request
        log.timer = self.timers.at(now + self._policies.storage_timeout, self._overdue, log)
        self._port.store(request)

    def _end_request(self, request: storage.OpenConversation | storage.Lookup) -> Log | None:
        """Return the log that waits for this request, which is now answered. None if the log no longer waits for it."""
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
        log = self._end_request(request)
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
            log.is_missing = False
            log.epoch = result.epoch
            log.next_seq = result.max_seq + 1
            log.set_members(result.members)
            log.state = result.state
            if self._policies.group_rate and is_group(log.id):
                log.bucket = Bucket(self._policies.group_rate, self._policies.group_burst, now)
            self._resume(log, now)
        elif result is None:
            log.is_missing = True
            self._resume(log, now)
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
        self._request(log, request, now)

    def _looked_up(self, request: storage.Lookup, result: storage.Result, now: float) -> None:
        log = self._end_request(request)
        if log is None:
            return
        up, known = log.waiting.pop(0)
        if isinstance(result, storage.Failed):
            answers.reject(self._port, up, Code.UNAVAILABLE, "storage could not look up the data for this request")
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
        if log.is_missing and not log.is_busy:
            del self._open[log.id]

    # --- sending ----------------------------------------------------------------------------------------------------

    def _handle(self, log: Log, up: internal_frames.Up, known: rules.LookupCache, now: float) -> None:
        """Decide about a send. `known` has the values that were just looked up for it; nothing was written since.

        A conversation that does not exist is decided like one without members. So the answer to a user who is not a
        member does not show whether the conversation exists.
        """
        frame, session = up.frame, up.session
        assert isinstance(frame, frames.Send)
        if log.is_missing and changes.event_of(frame) == "create":
            log.waiting = [(up, known), *log.waiting]
            self._request(log, storage.OpenConversation(log.id, ()), now)
            return
        if not log.is_latest(session, by_slot=self._has_shared_slots):
            return  # a replaced session can no longer act; its gateway reports this to the client

        key = (session.user, frame.id_client)
        entry = log.recent.get(key)
        if entry is None and self._is_busy(up, now):
            return
        try:
            # A change is looked up even if it is new: requests after it are decided by the state that it leaves.
            if entry is None and (frame.resend or changes.event_of(frame) in rules.RULED):
                original = known.find(log.id, *key)
                entry = Entry(original) if original else None
            if entry is not None:
                self._handle_repeat(up, entry)
                return
            if frame.after is not None and not self._exists(log, known, session.user, frame.after):
                text = f"after: the message {frame.after!r} has not arrived; send it first"
                answers.reject(self._port, up, Code.GAP, text)
                return
            time = int((self._epoch + now) * 1000)
            change = requested_change(frame, session.user, log.id, log.next_seq, time)
            decision = rules.decide(log, session.user, frame, change, known, self._policies)
        except rules.NeedsLookup as needed:
            self._look_up(log, up, known, needed.request, now)
            return
        except RuleViolation as refused:
            # The violation may follow from a pending change, which storage may still refuse. So it waits for that one.
            for entry in reversed(log.pending):
                if entry.is_change:
                    entry.rejections = self._deferred(entry.rejections, (up, refused))
                    return
            answers.reject(self._port, up, refused.code, refused.text)
            return
        if len(log.pending) >= _WAITING:
            answers.reject(self._port, up, Code.UNAVAILABLE, "too many messages of this conversation wait for storage")
            return
        # The budget is for the members. A user who joins or applies has the rate limit of a user, and does not use it.
        bucket = log.bucket
        if bucket is not None and session.user in log.member_set and (wait := bucket.take(now)):
            text = f"more than {self._policies.group_rate:g} messages a second in this group"
            answers.reject(self._port, up, Code.RATE_LIMITED, text, wait)
            return
        self._append(log, up, decision, time, now)

    def _is_busy(self, up: internal_frames.Up, now: float) -> bool:
        """Refuse a send if it would wait too long for storage, and return whether it was refused.

        A repeat of a send that waits for storage already is not refused: it gets the same answer.
        """
        is_busy = self._port.storage_wait(up.conversation_id, now) > self._policies.longest_wait
        if is_busy:
            answers.reject(self._port, up, Code.BUSY, "")
        return is_busy

    @staticmethod
    def _exists(log: Log, known: rules.LookupCache, sender: str, id_client: str) -> bool:
        """Return whether the log has the sender's message with this idClient. Raises: NeedsLookup."""
        if (sender, id_client) in log.recent:
            return True
        return known.find(log.id, sender, id_client) is not None

    def _append(self, log: Log, up: internal_frames.Up, decision: Decision | None, time: int, now: float) -> None:
        """Give the message the next seq and a wall time in ms, apply its decision in memory, and send it to storage."""
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
                log.set_members(tuple(member for member in audience if member not in left))
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
        self._port.append(storage.Append(log.epoch, message, frame.shown, effects), now)

    def _handle_repeat(self, up: internal_frames.Up, entry: Entry) -> None:
        """Answer a send whose idempotency key is already used. Another body under the same key is a conflict."""
        assert isinstance(up.frame, frames.Send)
        if not entry.message.came_from(up.frame):
            conflict = RuleViolation(Code.CONFLICT, "idClient: already used for another message")
            if entry.stored:
                answers.reject(self._port, up, conflict.code, conflict.text)
            else:
                # Storage may have an older message under this key, so the answer waits.
                entry.rejections = self._deferred(entry.rejections, (up, conflict))
        elif entry.stored:
            self._acknowledge(entry.message, up.session)
        else:
            entry.requests = self._deferred(entry.requests, up)  # the retry gets its answer together with the original

    @staticmethod
    def _deferred(waiting: list[Any], one: Any) -> list[Any]:
        """Return the list with one more element. Beyond the bound the element is dropped, and the client retries."""
        waiting = waiting or []
        if len(waiting) < _WAITING:
            waiting.append(one)
        return waiting

    # --- storing, releasing -------------------------------------------------------------------------------------------

    def _appended(self, request: storage.Append, result: storage.Result, now: float) -> None:
        message = request.message
        log = self._open.get(message.conversation_id)
        if log is None or request.epoch != log.epoch:
            return  # the log was forgotten, and maybe opened again
        entry = log.recent.get((message.sender, message.id_client))
        if entry is None or entry.message is not message:
            return  # the message was cut off, and may have another seq now
        if type(result) is storage.Appended:
            entry.stored = True
            entry.states, entry.notes = result.states, result.notes
            # Several storage workers may answer out of order. Messages are released in the order of the log.
            pending = log.pending
            while pending and pending[0].stored:
                self._release(log, pending.pop(0), now)
            log.pending = pending or NO_LIST
            if pending and pending[0].fenced:
                self._fenced(log, now)
            elif log.waiting:
                self._resume(log, now)
        elif isinstance(result, storage.Duplicate | storage.Blocked):
            self._not_appended(log, entry, result, now)
        elif isinstance(result, storage.Fenced):
            entry.fenced = True
            if log.pending[0] is entry:  # otherwise the reason may be that an entry before it was not appended
                self._fenced(log, now)
        else:
            self._fence(log, "storage failed to store the message", now)

    def _fenced(self, log: Log, now: float) -> None:
        """Storage refused the first pending entry, because it has entries that this writer does not know."""
        if log.is_shared:
            self._overtaken(log, now)
        else:
            self._fence(log, "storage refused the message; another router may have opened the conversation", now)

    def _release(self, log: Log, entry: Entry, now: float) -> None:
        """Acknowledge a stored message, deliver it and its notes, and send the rejections that waited for it."""
        message = entry.message
        if entry.timer:
            entry.timer.cancel()
            entry.timer = None
        requests = entry.requests
        self._port.emit(events.Committed(message, now - requests[0].at if requests else None))
        for up in requests:
            self._acknowledge(message, up.session)
        # A client that had to retry may have stopped waiting for the answer. So its session gets the push as well.
        is_prompt = len(requests) == 1 and not message.resend
        origin = requests[0].session if is_prompt else None
        self._port.to_users(internal_frames.Deliver(entry.audience, message, origin, entry.states))
        for note in entry.notes:
            self._port.to_users(internal_frames.Deliver((note.to,), note))
        for up, refused in entry.rejections:
            answers.reject(self._port, up, refused.code, refused.text)
        entry.requests, entry.states, entry.notes, entry.audience, entry.rejections = NO_LIST, (), (), (), NO_LIST
        entry.before = ((), None)

    def _not_appended(self, log: Log, entry: Entry, result: storage.Duplicate | storage.Blocked, now: float) -> None:
        """Free the seq of an entry that storage did not append, and decide the entries after it again.

        Either storage already has the idempotency key, or the other user has blocked the sender. Storage refuses the
        entries after it too, because their seqs no longer follow. An original is remembered first. Otherwise its
        duplicate, which is decided again, would be appended again.
        """
        blocked = entry.requests if isinstance(result, storage.Blocked) else []
        for up in blocked:
            answers.reject(self._port, up, Code.BLOCKED, rules.BLOCKED_TEXT)
        again = [up for up in log.cut_off(entry) if up not in blocked]
        if isinstance(result, storage.Duplicate):
            log.remember(Entry(result.original))
        log.requeue(again)
        self._resume(log, now)

    def _overtaken(self, log: Log, now: float) -> None:
        """Open the log again after another writer has added to it, and decide the pending requests again."""
        log.requeue(log.cut_off(log.pending[0]))
        self._request(log, storage.OpenConversation(log.id, _initial_members(log.id)), now)

    def _acknowledge(self, message: Message, session: Session) -> None:
        id, seq = message.id, message.seq
        if changes.is_from_outside(message, message.sender):
            id, seq = "", 0  # they would show how many messages are in a log that the sender may not see
        answer = frames.Stored(message.id_client, message.conversation_id, id, seq, message.time)
        answers.send(self._port, session, answer)

    # --- giving up --------------------------------------------------------------------------------------------------

    def _fence(self, log: Log, why: str, now: float) -> None:
        """Forget the conversation, and reject everything that waits with `why`.

        A message in flight may be stored or not, so its sender retries. The next request opens the conversation again
        under a higher epoch, which fences off the writes that are still in flight.
        """
        del self._open[log.id]
        if log.timer:
            log.timer.cancel()
        self._release_stored(log, now)
        if log.pending:
            self._reopen_later(log.id, now)
        for entry in log.pending:
            if entry.timer:
                entry.timer.cancel()
            for up in (*entry.requests, *(up for up, _ in entry.rejections)):
                answers.reject(self._port, up, Code.UNAVAILABLE, why)
        for up, _ in log.waiting:
            answers.reject(self._port, up, Code.UNAVAILABLE, why)

    def _release_stored(self, log: Log, now: float) -> None:
        """Release the stored entries, which waited only for entries before them. Nothing else would release them."""
        for entry in [entry for entry in log.pending if entry.stored]:
            log.pending.remove(entry)
            self._release(log, entry, now)

    def _reopen_later(self, id: str, now: float) -> None:
        self._unresolved[id] = self.timers.at(now + self._policies.storage_timeout, self._reopen, id)

    def _reopen(self, id: str, now: float) -> None:
        """Open a conversation that no request has opened since, so that its last messages reach its members."""
        self._reopen_later(id, now)
        self.open(id, now)

    def _make_room(self) -> bool:
        """Return whether another conversation can be opened.

        At the limit, the conversations that are idle for longest are closed. If all are busy, the limit may be
        exceeded by up to `_WAITING`.
        """
        most = self._policies.open_conversations
        for _ in range(min(_LOOKED_AT, len(self._open))):
            if len(self._open) < most:
                break
            id = next(iter(self._open))
            log = self._open.pop(id)
            if log.pending or log.request is not None:
                self._open[id] = log
        return len(self._open) < most + _WAITING

    #: The method that handles the answer of storage, by type of request.
    answered: ClassVar[storage.Answered] = {
        storage.Append: _appended,
        storage.OpenConversation: _opened,
        **dict.fromkeys(get_args(storage.Lookup), _looked_up),
    }


def _initial_members(id: str) -> tuple[str, ...] | None:
    """Return the members of a conversation that exists without `create`; None for a group."""
    scene, _, name = id.partition(":")
    return (name,) if scene == Scene.SYSTEM else p2p_members(id)
