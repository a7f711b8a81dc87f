"""The Users machine: each user's sessions and conversation states, on the router node that owns the user.

It has only the users who are online. An offline user costs nothing here: at the next login, storage has everything.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import ClassVar, Protocol

from imsim.core import changes, frames, internal_frames, storage
from imsim.core.empty import NO_LIST
from imsim.core.model import Code, Session
from imsim.core.policies import Delivery, Policies
from imsim.core.router import answers, listings
from imsim.core.router.online import OnlineState, ToOne, User
from imsim.core.router.presence import FriendPresence
from imsim.core.router.states import States
from imsim.core.timers import Timers
from imsim.core.unread import Unread

_WAITING = 10_000  # frames that may wait while one user is being opened
_LOGINS_PER_OPENING = 1 << 20  # logins, each with its own session epoch, that one opening of a user allows


class UsersPort(Protocol):
    """The services that `Users` needs from its router."""

    def store(self, request: storage.Request) -> None:
        """Have storage carry out the request. The shell answers with `stored(request, result, now)`."""

    def to_gateway(self, gateway: str, frame: internal_frames.ToGateway) -> None: ...

    def to_user(self, user: str, frame: internal_frames.PeerMoved | internal_frames.PresenceUpdate) -> None:
        """Send the frame to the router that owns the user, which may be this one."""


class Users:
    """The online users that one router node owns."""

    def __init__(self, port: UsersPort, policies: Policies, timers: Timers | None = None) -> None:
        self._port = port
        self._policies = policies
        self.timers = timers or Timers()
        self._users: dict[str, User] = {}
        self._revoking: dict[str, float] = {}  # user -> `before` of revocations that storage has not confirmed
        self._presence = FriendPresence(port, self.timers, policies)
        self._states = States(port, self._users, self.timers, policies, self._presence)

    def receive(self, frame: internal_frames.ToRouter, now: float) -> None:
        """Handle a frame for users, or let it wait until its user is opened."""
        if isinstance(frame, internal_frames.Deliver):
            self._deliver(frame, frame.users, now)
            return
        if isinstance(frame, internal_frames.Opened):
            self._check_last_seq(frame)
            return
        if isinstance(frame, internal_frames.Revoke):
            self._revoke(frame, now)
            return
        if isinstance(frame, (internal_frames.Up, internal_frames.Detach)):
            user = self._users.get(frame.session.user)
        else:
            user = self._users.get(frame.user)
            if user is None and isinstance(frame, internal_frames.Attach):
                user = self._open(frame.user, now)
        if user is None:
            return  # the user is offline, or a crash of this node has ended the session
        if user.request is None:
            self._handle(user, frame, now)
        elif len(user.waiting) < _WAITING:
            user.wait(frame)
        elif isinstance(frame, internal_frames.Attach):
            self._refuse(frame)

    def queued(self) -> Iterator[int]:
        """Yield, for each user who is online or logs in, the count of frames that wait until storage has the user."""
        for user in list(self._users.values()):
            yield len(user.waiting)

    def _open(self, name: str, now: float) -> User:
        user = self._users[name] = User(name)
        user.revoked_before = self._revoking.get(name, 0.0)
        user.request = storage.OpenUser(name)
        user.timer = self.timers.at(now + self._policies.storage_timeout, self._overdue, user)
        self._port.store(user.request)
        return user

    def _store_revocation(self, request: storage.RevokeTokens, now: float) -> None:
        """Send the revocation to storage again and again, until storage confirms it or a later one replaces it."""
        if self._revoking.get(request.user) == request.before:
            self._port.store(request)
            self.timers.at(now + self._policies.storage_timeout, self._store_revocation, request)

    def _revoked(self, request: storage.RevokeTokens, result: storage.Result, now: float) -> None:
        if not isinstance(result, storage.Failed) and self._revoking.get(request.user) == request.before:
            del self._revoking[request.user]

    def _revoke(self, frame: internal_frames.Revoke, now: float) -> None:
        name, before = frame.user, frame.before
        self._revoking[name] = max(before, self._revoking.get(name, 0.0))
        self._store_revocation(storage.RevokeTokens(name, self._revoking[name]), now)
        user = self._users.get(name)
        if user is not None:
            user.revoked_before = max(before, user.revoked_before)
            if user.sessions:
                for session in user.sessions:
                    self._kick(user, session, Code.TOKEN_REVOKED)
                self._left(user, now)

    def gateway_lost(self, gateway: str, now: float) -> None:
        """End the sessions on a gateway. The link to it broke, so it has ended all their connections."""
        for user in list(self._users.values()):
            # An opening continues, because a login from another gateway may wait for it.
            user.waiting = [
                frame
                for frame in user.waiting
                if not (isinstance(frame, internal_frames.Attach) and frame.gateway == gateway)
            ]
            for session in user.sessions:
                if session.gateway == gateway:
                    self._detach(user, session, now)

    def router_back(self, now: float) -> None:
        """Let all devices sync, because messages of the other router's conversations may have been lost meanwhile.

        All of them are in storage. If the other router crashed, storage may still carry out its last requests, for at
        most the storage timeout. So the devices sync once more after that time.
        """
        self._resync_all(None, now)
        self.timers.at(now + self._policies.storage_timeout, self._resync_all)

    def restarted(self, now: float) -> None:
        """Let all devices sync after the storage timeout.

        Storage may still carry out the last requests of the crashed machine whose position this one takes.
        """
        self.timers.at(now + self._policies.storage_timeout, self._resync_all)

    def _resync_all(self, _: None, now: float) -> None:
        for user in self._users.values():
            self._resync(user)

    # --- sessions ---------------------------------------------------------------------------------------------------

    def _opened(self, request: storage.OpenUser, result: storage.Result, now: float) -> None:
        user = self._users.get(request.user)
        if user is None or user.request is not request:
            return  # the opening was given up
        if user.timer:
            user.timer.cancel()
            user.timer = None
        if not isinstance(result, storage.UserState):
            self._give_up(user)
            return
        user.request = None
        user.epoch = result.epoch * _LOGINS_PER_OPENING
        user.log = result.log
        user.revoked_before = max(result.revoked_before, user.revoked_before)
        for stored, unread_seqs, max_seq, delivered_seq, log_state, ended in result.states:
            unread = Unread(stored.read_seq, unread_seqs, ended)
            state = user.states[stored.conversation_id] = OnlineState(stored, unread, max_seq, delivered_seq)
            state.friends = changes.are_friends(log_state)
        while user.waiting:
            self._handle(user, user.waiting.pop(0), now)
        user.waiting = NO_LIST
        self._forget_if_idle(user)  # the login may have been refused, or its connection may have ended

    def _overdue(self, user: User, now: float) -> None:
        self._give_up(user)

    def _give_up(self, user: User) -> None:
        """Refuse the logins that wait for the opening of the user, because the opening failed."""
        del self._users[user.id]
        for frame in user.waiting:
            if isinstance(frame, internal_frames.Attach):
                self._refuse(frame)

    def _refuse(self, frame: internal_frames.Attach, code: Code = Code.UNAVAILABLE) -> None:
        self._port.to_gateway(frame.gateway, internal_frames.Attached(frame.connection, None, code))

    def _handle(self, user: User, frame: ToOne, now: float) -> None:
        if isinstance(frame, internal_frames.Deliver):
            self._deliver(frame, (user.id,), now)
        elif isinstance(frame, internal_frames.Attach):
            self._attach(user, frame, now)
        elif isinstance(frame, internal_frames.PeerMoved):
            self._states.learn(user, frame.state, now)
        elif isinstance(frame, internal_frames.PresenceUpdate):
            self._presence.received(user, frame)
        elif frame.session in user.sessions:
            if isinstance(frame, internal_frames.Detach):
                self._detach(user, frame.session, now)
            else:
                self._handle_request(user, frame, now)

    def _handle_request(self, user: User, up: internal_frames.Up, now: float) -> None:
        """Handle a request of one of the user's sessions."""
        frame = up.frame
        if isinstance(frame, frames.Read):
            self._states.read(user, frame, up, now)
        elif isinstance(frame, frames.SetConversation):
            self._states.set(user, frame, up, now)
        elif isinstance(frame, frames.Typing):
            self._presence.typing(user, frame.conversation_id)
        elif isinstance(frame, frames.Delivered):
            self._states.delivered(user, frame.conversation_id, frame.seq, now)
        elif isinstance(frame, frames.History):
            limit = self._policies.page
            page_bytes = self._policies.page_bytes
            self._port.store(
                storage.Range(user.id, frame.conversation_id, frame.first, frame.last, limit, up, page_bytes)
            )
        elif isinstance(frame, frames.Group):
            self._port.store(storage.ReadGroup(user.id, frame.conversation_id, frame.after, self._policies.page, up))
        elif isinstance(frame, frames.Friends):
            self._port.store(storage.ReadFriends(user.id, frame.after, self._policies.page, up))
        elif isinstance(frame, frames.ReadCount):
            self._port.store(storage.CountRead(user.id, frame.conversation_id, frame.seq, up))
        elif isinstance(frame, frames.EndSession):
            self._end_session(user, up, frame.device)
        elif isinstance(frame, frames.Sync):
            self._sync(user, up.session, frame)
            for conversation, seq in self._policies.receipts.marks(frame.cursors):
                self._states.delivered(user, conversation, seq, now)

    def _attach(self, user: User, frame: internal_frames.Attach, now: float) -> None:
        """Start a session, and end those that it replaces."""
        if frame.issued_at < user.revoked_before:
            self._refuse(frame, Code.TOKEN_REVOKED)
            self._forget_if_idle(user)
            return
        before = user.session_of(frame.device)
        if before is not None and frame.instance == before.instance != "" and frame.attempt < before.attempt:
            self._refuse(frame, Code.REPLACED)  # a later login of the same client arrived first
            return
        is_first = not user.sessions
        slot = self._policies.sessions.slot(frame.device, frame.kind)
        for other in user.sessions:
            if other.device == frame.device:
                self._kick(user, other, Code.REPLACED)
            elif other.slot == slot:
                self._kick(user, other, Code.KICKED)
        user.epoch += 1
        session = Session(
            user.id, frame.device, user.epoch, frame.gateway, frame.connection, slot, frame.instance, frame.attempt
        )
        user.sessions += (session,)
        self._port.to_gateway(frame.gateway, internal_frames.Attached(frame.connection, session, None, user.log))
        self._presence.session_added(user, session, now, is_first=is_first)

    def _kick(self, user: User, session: Session, code: Code) -> None:
        user.end(session)
        self._port.to_gateway(session.gateway, internal_frames.Kick(session, code))

    def _end_session(self, user: User, up: internal_frames.Up, device: str) -> None:
        other = user.session_of(device)
        if other is not None and other != up.session:
            self._kick(user, other, Code.KICKED)
        answers.done(self._port, up)

    def _detach(self, user: User, session: Session, now: float) -> None:
        user.end(session)
        if not user.sessions:
            self._left(user, now)

    def _left(self, user: User, now: float) -> None:
        """Handle the end of the user's last session."""
        self._presence.went_offline(user, now)
        self._forget_if_idle(user)

    def _forget_if_idle(self, user: User) -> None:
        if not user.sessions and user.request is None and not user.waiting and user.id in self._users:
            del self._users[user.id]

    # --- delivery ---------------------------------------------------------------------------------------------------

    def _deliver(self, frame: internal_frames.Deliver, names: Iterable[str], now: float) -> None:
        """Send the message to the devices of those users who are online."""
        message, states, by_name = frame.message, frame.states, self._users.get
        conversation, seq, sender = message.conversation_id, message.seq, message.sender
        is_change = not message.countable
        by_gateway: dict[str, list[Session]] = {}
        for name in names:  # up to thousands, so each step counts
            user = by_name(name)
            if user is None:
                continue
            if user.request is not None:
                if len(user.waiting) < _WAITING:
                    user.wait(frame)  # beyond the bound, the device gets the message in its login sync
                continue
            is_new = conversation not in user.states  # the user's first message of this conversation
            known = user.count(message) if is_change else user.count_unread(conversation, seq, sender)
            if is_change and changes.friends_after(message, known.friends) != known.friends:
                known.friends = not known.friends
                self._presence.friendship_changed(user, known, now)
            if seq > known.last_seq:
                if seq > known.last_seq + 1 and not is_new:
                    self._resync(user)
                known.last_seq = seq
            for other, state in states:
                if other == name:
                    self._states.learn(user, state, now)
            origin = frame.origin if sender == name else None
            for session in user.sessions:
                if origin is not None and session == origin:
                    continue  # a later login of the same device does get it, because the device may have lost its data
                sessions = by_gateway.get(session.gateway)
                if sessions is None:
                    by_gateway[session.gateway] = [session]
                else:
                    sessions.append(session)
        if by_gateway:
            push: frames.Push | frames.Notify = frames.Push(message)
            if self._policies.delivery is Delivery.NOTIFY:
                push = frames.Notify(message.conversation_id, message.seq)
            for gateway, sessions in by_gateway.items():
                self._port.to_gateway(gateway, internal_frames.Down(sessions, push))

    def _check_last_seq(self, frame: internal_frames.Opened) -> None:
        """Let the devices of these users sync if the conversation has entries that they did not get."""
        for name in frame.users:
            user = self._users.get(name)
            if user is not None and user.request is None:  # a user who is being opened gets the state from storage
                state = user.state_of(frame.conversation_id)
                if frame.seq > state.last_seq:
                    state.last_seq = frame.seq
                    self._resync(user)

    def _resync(self, user: User) -> None:
        """Let the user's devices sync with storage, which has entries that this router did not receive."""
        resync = frames.Resync()
        for session in user.sessions:
            answers.send(self._port, session, resync)

    # --- answers of storage -------------------------------------------------------------------------------------------

    def _saved(self, request: storage.SaveState, result: storage.Result, now: float) -> None:
        self._states.saved(request, result, now)

    def _counted(self, request: storage.CountRead, result: storage.Result, now: float) -> None:
        up = request.asked
        assert isinstance(up, internal_frames.Up)
        if isinstance(result, storage.ReadCount):
            answer = frames.ReadCounted(
                request.conversation_id, request.seq, result.read, result.members, up.frame.number
            )
            answers.send(self._port, up.session, answer)
        elif result is None:
            answers.reject(self._port, up, Code.NO_CONVERSATION, "seq: you have no message with this seq")
        else:
            answers.reject(self._port, up, Code.UNAVAILABLE, "storage could not read the data")

    def _sync(self, user: User, session: Session, frame: frames.Sync) -> None:
        # A cursor beyond `last_seq` has two possible reasons: this router missed the message, or storage has lost it.
        # Then storage must check the cursors.
        doubted = any(
            seq > (state.last_seq if (state := user.states.get(id)) else 0) for id, seq in frame.cursors.items()
        )
        policies, states = self._policies, frame.state_version
        self._port.store(
            storage.Missed(
                session,
                frame.cursors,
                policies.page,
                frame.version,
                frame.inbox,
                frame.number,
                states,
                doubted,
                policies.page_bytes,
                min(max(0, frame.newest), policies.page),
            )
        )

    def _send_page(self, request: storage.Missed, result: storage.Result, now: float) -> None:
        user = self._users.get(request.session.user)
        if user is None or request.session not in user.sessions:
            return
        if not isinstance(result, storage.MissedPage):
            code, text = Code.UNAVAILABLE, "storage could not read the data"
            if isinstance(result, storage.Ahead):
                code = Code.AHEAD
                text = "the log was set back to an earlier state; delete local data and sync as a new device"
            rejected = frames.Rejected(frames.Sync.op, "", code, text, 0.0, request.number)
            answers.send(self._port, request.session, rejected)
            return
        # The page may contain messages that no writer released, and state changes that were not reported. This happens
        # if an answer of storage was lost. So the router learns them from the page.
        for message in result.messages:
            user.count(message)
        for skipped in result.skipped:
            unread = user.state_of(skipped.conversation_id).unread
            for first, last in skipped.unread:
                unread.add_range(first, last)
        for state in result.states:
            self._states.learn(user, state, now)
        messages, cursors, inbox, number = result.messages, result.cursors, result.inbox, request.number
        states = [user.state_of(state.conversation_id).view() for state in result.states]
        answer: frames.Page | frames.SyncDone
        if result.more:
            answer = frames.Page(messages, cursors, inbox, number, states, result.version, result.skipped)
        else:
            answer = frames.SyncDone(messages, cursors, states, result.version, inbox, number, result.skipped)
        answers.send(self._port, request.session, answer)

    def _send_range(self, request: storage.Range, result: storage.Result, now: float) -> None:
        up = request.asked
        assert isinstance(up, internal_frames.Up)
        if isinstance(result, storage.RangePage):
            user = self._users.get(request.user)
            if user is not None and user.request is None:
                for message in result.messages:
                    user.count(message)
            asked = (request.conversation_id, request.first, request.last)
            page = frames.HistoryPage(*asked, result.messages, result.more, up.frame.number)
            answers.send(self._port, up.session, page)
        elif result is None:
            answers.reject(self._port, up, Code.NO_CONVERSATION, "conversationId: you have no such conversation")
        else:
            answers.reject(self._port, up, Code.UNAVAILABLE, "storage could not read the data")

    def _send_group(self, request: storage.ReadGroup, result: storage.Result, now: float) -> None:
        up = request.asked
        assert isinstance(up, internal_frames.Up)
        if isinstance(result, storage.GroupRecord):
            answers.send(self._port, up.session, listings.group_page(request, result, up.frame.number))
        elif result is None:
            text = f"conversationId: you are not a member of {request.conversation_id}, or there is no such group"
            answers.reject(self._port, up, Code.NOT_MEMBER, text)
        else:
            answers.reject(self._port, up, Code.UNAVAILABLE, "storage could not read the data")

    def _send_friends(self, request: storage.ReadFriends, result: storage.Result, now: float) -> None:
        up = request.asked
        assert isinstance(up, internal_frames.Up)
        if isinstance(result, storage.FriendsRecord):
            answers.send(self._port, up.session, listings.friends_page(request, result, up.frame.number))
        else:
            answers.reject(self._port, up, Code.UNAVAILABLE, "storage could not read the data")

    #: The method that handles the answer of storage, by type of request.
    answered: ClassVar[storage.Answered] = {
        storage.OpenUser: _opened,
        storage.RevokeTokens: _revoked,
        storage.SaveState: _saved,
        storage.CountRead: _counted,
        storage.Missed: _send_page,
        storage.Range: _send_range,
        storage.ReadGroup: _send_group,
        storage.ReadFriends: _send_friends,
    }
