"""A connection to a gateway, from its acceptance to its end, and the unanswered requests of its device."""

from __future__ import annotations

from bisect import bisect_right
from math import inf

from imsim.core import frames, internal_frames
from imsim.core.empty import NO_NAMES
from imsim.core.gateway.marks import Marks
from imsim.core.gateway.pushes import Pushes
from imsim.core.model import Scene, Session, conversation_id
from imsim.core.timers import Timer

#: The most reads of a connection that may be under way. Each answer is a page in memory until the connection has taken
#: it, which may be slow.
READS = 16

#: The most changes of conversation states that may be under way. They are small.
CHANGES = 1_000


class Connection:
    """The state of one connection."""

    __slots__ = (
        "changes",
        "heard",
        "held",
        "id",
        "login",
        "marks",
        "pushes",
        "reads",
        "retry_at",
        "rooms",
        "session",
        "timer",
        "user",
    )

    def __init__(self, id: int, now: float) -> None:
        self.id = id
        self.login: frames.Login | None = None  # until there is a session
        self.user: str | None = None  # set once the token has been verified
        self.held: internal_frames.Attach | None = None  # the request for a session, while the router is lost
        self.session: Session | None = None  # set once the router has created it
        self.pushes: Pushes | None = None  # set together with the session
        self.heard = now  # the time of the latest frame from the client
        self.timer: Timer | None = None  # the deadline of the login, then that of the heartbeat
        self.rooms = NO_NAMES  # conversation ids of the chatrooms that the device has asked to enter
        self.marks: Marks | None = None  # created with the first `delivered` that goes to a router
        self.retry_at = -inf  # the time at which the client should repeat its refused sends (`busy`)
        #: The times of the requests that have no answer yet.
        self.reads: tuple[float, ...] = ()
        self.changes: tuple[float, ...] = ()

    def has_room(self, frame: frames.Sync | frames.Asked, since: float) -> bool:
        """Return whether the connection may have another request like this under way.

        A request from before `since` no longer counts, because its answer must be lost.
        """
        if frame.op in _CHANGES:
            self.changes = self.changes[bisect_right(self.changes, since) :]
            return len(self.changes) < CHANGES
        self.reads = self.reads[bisect_right(self.reads, since) :]
        return len(self.reads) < READS

    def asked(self, frame: frames.Sync | frames.Asked, now: float) -> None:
        """Count this request as under way."""
        if frame.op in _CHANGES:
            self.changes += (now,)
        else:
            self.reads += (now,)

    def answered(self, frame: frames.ToClient) -> None:
        """Note that this frame is sent to the client. If it answers a request, that request is no longer under way."""
        request = frame.request if type(frame) is frames.Rejected or type(frame) is frames.Done else ""
        if type(frame) in _READ_ANSWERS or request in _READS:
            self.reads = self.reads[1:]
        elif request in _CHANGES:
            self.changes = self.changes[1:]
        elif type(frame) is frames.Rejected and request == frames.Enter.op:
            self.rooms -= {conversation_id(Scene.CHATROOM, "", frame.ref)}
        elif type(frame) is frames.Entered:  # needed if the rejection of an earlier attempt removed the room
            self.rooms |= {conversation_id(Scene.CHATROOM, "", frame.name)}


_READS = (frames.Sync.op, frames.History.op, frames.ReadCount.op, frames.Group.op, frames.Friends.op)
_CHANGES = (frames.Read.op, frames.SetConversation.op, frames.EndSession.op)
_READ_ANSWERS = (
    frames.Page,
    frames.SyncDone,
    frames.HistoryPage,
    frames.ReadCounted,
    frames.GroupPage,
    frames.FriendsPage,
)
