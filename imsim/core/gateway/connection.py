"""A connection to a gateway, from its acceptance to its end, and what its device has under way."""

from __future__ import annotations

from bisect import bisect_right

from imsim.core import frames, internal_frames
from imsim.core.empty import NO_NAMES
from imsim.core.gateway.marks import Marks
from imsim.core.gateway.pushes import Pushes
from imsim.core.model import Scene, Session, conversation_id
from imsim.core.timers import Timer

#: Reads of a connection that storage may have under way: each answer is a page in memory until it is written, however
#: slowly the connection takes it. And changes of the user's conversation states, which are small.
READS = 16
CHANGES = 1_000


class Connection:
    __slots__ = (
        "changes",
        "heard",
        "held",
        "id",
        "login",
        "marks",
        "pushes",
        "reads",
        "rooms",
        "session",
        "timer",
        "user",
    )

    def __init__(self, id: int, now: float) -> None:
        self.id = id
        self.login: frames.Login | None = None  # until attached
        self.user: str | None = None  # set once the token is known to be good
        self.held: internal_frames.Attach | None = None  # what its login waits to say to a router that is lost
        self.session: Session | None = None  # set once attached
        self.pushes: Pushes | None = None  # with it
        self.heard = now
        self.timer: Timer | None = None  # until logged in: the login's deadline; then: the heartbeat's
        self.rooms = NO_NAMES  # conversation ids of the chatrooms that it asked to enter
        self.marks: Marks | None = None  # with the first `delivered` that is passed on
        #: When the requests were asked that are not answered yet.
        self.reads: tuple[float, ...] = ()
        self.changes: tuple[float, ...] = ()

    def has_room(self, frame: frames.Sync | frames.Asked, since: float) -> bool:
        """Whether it may be under way with the others. An answer to what was asked before `since` was lost: it must not
        count for ever."""
        if frame.op in _CHANGES:
            self.changes = self.changes[bisect_right(self.changes, since) :]
            return len(self.changes) < CHANGES
        self.reads = self.reads[bisect_right(self.reads, since) :]
        return len(self.reads) < READS

    def asked(self, frame: frames.Sync | frames.Asked, now: float) -> None:
        """It is under way."""
        if frame.op in _CHANGES:
            self.changes += (now,)
        else:
            self.reads += (now,)

    def answered(self, frame: frames.ToClient) -> None:
        """This is sent to it: if it answers a request, that is not under way any more."""
        request = frame.request if type(frame) is frames.Rejected or type(frame) is frames.Done else ""
        if type(frame) in _READ_ANSWERS or request in _READS:
            self.reads = self.reads[1:]
        elif request in _CHANGES:
            self.changes = self.changes[1:]
        elif type(frame) is frames.Rejected and request == frames.Enter.op:
            self.rooms -= {conversation_id(Scene.CHATROOM, "", frame.ref)}
        elif type(frame) is frames.Entered:  # also where an earlier attempt was refused while this one was under way
            self.rooms |= {conversation_id(Scene.CHATROOM, "", frame.name)}


_READS = (frames.Sync.op, frames.History.op, frames.ReadCount.op)
_CHANGES = (frames.Read.op, frames.SetConversation.op, frames.EndSession.op)
_READ_ANSWERS = (frames.Page, frames.SyncDone, frames.HistoryPage, frames.ReadCounted)
