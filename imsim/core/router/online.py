"""The state of a user who is online, in the memory of the router node that owns the user."""

from __future__ import annotations

from imsim.core import changes, internal_frames, storage
from imsim.core.empty import NO_LIST
from imsim.core.model import ConversationState, Message, Session, p2p_members
from imsim.core.timers import Timer
from imsim.core.unread import Unread

#: The frames that may wait while a user is being opened.
ToOne = (
    internal_frames.Attach
    | internal_frames.Detach
    | internal_frames.Up
    | internal_frames.Deliver
    | internal_frames.PeerMoved
    | internal_frames.PresenceUpdate
)


class OnlineState:
    """A user's conversation state as storage has it, except `unread`, which is counted here."""

    __slots__ = ("delivered_seq", "friends", "last_seq", "stored", "unread")

    def __init__(self, stored: ConversationState, unread: Unread, last_seq: int = 0, delivered_seq: int = 0) -> None:
        self.stored = stored
        self.unread = unread
        self.last_seq = last_seq  # the latest seq that was pushed to the user's devices, or is in a login's sync
        self.friends = False
        self.delivered_seq = delivered_seq  # the highest seq on any device that the other user knows or will know

    def view(self) -> ConversationState:
        """Return the state that a client gets, with its unread count."""
        if not self.unread.count:
            return self.stored
        state = self.stored.copy()
        state.unread = self.unread.count
        return state


class User:
    """A user who is online, or is being opened: the sessions and the conversation states."""

    __slots__ = ("epoch", "id", "log", "request", "revoked_before", "sessions", "states", "timer", "waiting")

    def __init__(self, id: str) -> None:
        self.id = id
        self.epoch = 0  # the epoch of the latest session
        self.log = ""  # the name of the storage's data, see `storage.UserState`
        self.sessions: tuple[Session, ...] = ()  # at most one per device
        self.revoked_before = 0.0  # tokens issued before this wall time are void
        self.states: dict[str, OnlineState] = {}  # by conversation
        self.request: storage.OpenUser | None = None
        self.waiting: list[ToOne] = NO_LIST  # frames that arrived before the user was opened
        self.timer: Timer | None = None

    def session_of(self, device: str) -> Session | None:
        return next((session for session in self.sessions if session.device == device), None)

    def end(self, session: Session) -> None:
        self.sessions = tuple(other for other in self.sessions if other != session)

    def wait(self, frame: ToOne) -> None:
        self.waiting = self.waiting or []
        self.waiting.append(frame)

    def state_of(self, conversation_id: str) -> OnlineState:
        state = self.states.get(conversation_id)
        if state is None:
            state = self.states[conversation_id] = OnlineState(ConversationState(conversation_id, 0, 0, 0), Unread())
        return state

    def count(self, message: Message) -> OnlineState:
        """Update the unread count with a message. A repeated or late message does no harm."""
        if message.countable:
            return self.count_unread(message.conversation_id, message.seq, message.sender)
        state = self.state_of(message.conversation_id)
        if (recalled := changes.recalled_seq(message)) is not None:
            state.unread.remove(recalled)
        elif changes.is_left_with(message, self.id):
            state.unread.end(message.seq)
        return state

    def count_unread(self, conversation_id: str, seq: int, sender: str) -> OnlineState:
        """Update the unread count with a message that counts as unread for all users except its sender."""
        state = self.states.get(conversation_id) or self.state_of(conversation_id)
        if sender != self.id:
            state.unread.add(seq)
        return state

    def peers(self, conversation_id: str) -> tuple[str, ...]:
        """Return the other user of a p2p conversation. Empty for other scenes, and for notes to oneself."""
        return storage.peers(conversation_id, p2p_members(conversation_id) or (), self.id)
