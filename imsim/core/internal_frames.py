"""What travels behind the gateways: frames between gateways and routers, and between the machines of routers.

No client ever sees one. What a client asks for goes `Up` in the frame that it came in, and what it is to get comes
`Down` in that frame to its gateway; of the rest, some is about sessions and some is what routers tell each other. A
`Session` stands for the device that acts or is meant, and its epoch shows when it has been replaced.

These are frames like those of the protocol (`frames`): slotted dataclasses, each with an `op`, made once and then read
only. `Up` and `Down` have the op of what they carry.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, get_args

from imsim.core import frames
from imsim.core.model import Code, ConversationState, Message, Session

#: What a shell needs to charge for a frame: the conversation within which work keeps its order, if any; the idClient of
#: the message that it is about, or ""; and for each of which users it costs its work once (none: it costs that once).
Charged = tuple[str | None, str, Sequence[str]]


class _ForRouter:
    __slots__ = ()

    @property
    def charged(self) -> Charged:
        return None, "", ()


@dataclass(slots=True)
class Attach(_ForRouter):
    """gateway -> users: this authenticated device wants a session."""

    op: ClassVar[str] = "attach"
    user: str
    device: str
    gateway: str
    connection: int
    kind: str = ""
    issued_at: float = 0.0  # wall time, seconds since 1970, of the token
    instance: str = ""  # these two: of the login
    attempt: int = 0


@dataclass(slots=True)
class Attached:
    """users -> gateway: here is its session, or why there is none."""

    op: ClassVar[str] = "attached"
    connection: int
    session: Session | None
    code: Code | None = None
    log: str = ""


@dataclass(slots=True)
class Detach(_ForRouter):
    """gateway -> users: the connection of this session is gone."""

    op: ClassVar[str] = "detach"
    session: Session


@dataclass(slots=True)
class Kick:
    """users -> gateway: end this session's connection."""

    op: ClassVar[str] = "kick"
    session: Session
    code: Code


@dataclass(slots=True)
class Up(_ForRouter):
    """gateway -> conversations or users: a client's frame. `conversation_id` is "" for those meant for users."""

    session: Session
    frame: frames.Routed
    conversation_id: str

    @property
    def op(self) -> str:
        return self.frame.op

    @property
    def charged(self) -> Charged:
        frame = self.frame
        return self.conversation_id or None, frame.id_client if type(frame) is frames.Send else "", ()


@dataclass(slots=True)
class Down:
    """conversations or users -> gateway: a frame for one device, or the same frame for several of one gateway."""

    sessions: Sequence[Session]
    frame: frames.ToClient

    @property
    def op(self) -> str:
        return self.frame.op


@dataclass(slots=True)
class Deliver(_ForRouter):
    """conversations -> users: a stored message, for those `users` (all of one router). The device that sent it
    (`origin`; None: the service itself) needs no push; `states` are the (user, conversation state) that changed with
    the message, of any users."""

    op: ClassVar[str] = "deliver"
    users: Sequence[str]
    message: Message
    origin: Session | None = None
    states: Sequence[tuple[str, ConversationState]] = ()

    @property
    def charged(self) -> Charged:
        return self.message.conversation_id, self.message.id_client, self.users


@dataclass(slots=True)
class Opened(_ForRouter):
    """conversations -> users: a new writer has found the log ending at `seq`. The one before it may have died before
    it let out the last of what it had stored."""

    op: ClassVar[str] = "opened"
    users: Sequence[str]
    conversation_id: str
    seq: int


@dataclass(slots=True)
class PeerMoved(_ForRouter):
    """users -> users: the other user of a p2p conversation got or read something, which changed this user's state."""

    op: ClassVar[str] = "peer_moved"
    user: str
    state: ConversationState


@dataclass(slots=True)
class PresenceUpdate(_ForRouter):
    """users -> users: something about another user that `user` may want to know, if online. `asked_by`: a device that
    asks whether `user` is online; `only`: the one device that the update is for (None: all of the user's)."""

    op: ClassVar[str] = "presence_update"
    user: str
    frame: frames.IsTyping | frames.Presence | None
    asked_by: Session | None = None
    only: Session | None = None


@dataclass(slots=True)
class Revoke(_ForRouter):
    """operator -> users: end all sessions of the user; tokens issued before this wall time (seconds since 1970) open no
    new one."""

    op: ClassVar[str] = "revoke"
    user: str
    before: float


ToRouter = Attach | Detach | Up | Deliver | Opened | PeerMoved | PresenceUpdate | Revoke
ToGateway = Attached | Kick | Down

# Where a router's service times can be charged, by op: it handles each frame that reaches it once.
ROUTER_OPS = frozenset(
    frame.op for frame in (Attach, Detach, Deliver, Opened, PeerMoved, PresenceUpdate, Revoke, *get_args(frames.Routed))
)
