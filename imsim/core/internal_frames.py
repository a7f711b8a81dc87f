"""The frames behind the gateways: between gateways and routers, and between the machines of routers.

Clients never see these frames. `Up` carries a client's frame from its gateway to a router. `Down` carries a frame for a
client from a router to the gateway. The other frames concern sessions, or go from router to router. A `Session`
identifies the device that acts or receives. Its epoch shows whether a later session has replaced it.

Like the frames of the protocol (`frames`), these are slotted dataclasses with an `op`. Do not change them after their
creation. `Up` and `Down` have the op of the frame that they carry.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, get_args

from imsim.core import frames
from imsim.core.model import Code, ConversationState, Message, Session

#: The data that a shell needs to charge the service time of a frame: the conversation in which work keeps its order, or
#: None; the idClient of the message, or ""; and the users, each of whom costs the service time once (none: it costs the
#: service time once in total).
Charged = tuple[str | None, str, Sequence[str]]


class _ForRouter:
    __slots__ = ()

    @property
    def charged(self) -> Charged:
        return None, "", ()


@dataclass(slots=True)
class Attach(_ForRouter):
    """gateway -> users: an authenticated device requests a session."""

    op: ClassVar[str] = "attach"
    user: str
    device: str
    gateway: str
    connection: int
    kind: str = ""
    issued_at: float = 0.0  # when the token was issued: wall time in seconds since 1970
    instance: str = ""  # from the `login`
    attempt: int = 0  # from the `login`


@dataclass(slots=True)
class Attached:
    """users -> gateway: the session of the device, or the code that says why it has none."""

    op: ClassVar[str] = "attached"
    connection: int
    session: Session | None
    code: Code | None = None
    log: str = ""


@dataclass(slots=True)
class Detach(_ForRouter):
    """gateway -> users: the connection of this session has ended."""

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
    """gateway -> conversations or users: a client's frame. `conversation_id` is "" if the frame is for users.

    `at` is the time of the gateway at which a send arrived. A router can use it only if both have the same clock.
    """

    session: Session
    frame: frames.Routed
    conversation_id: str
    at: float = field(default=0.0, compare=False)

    @property
    def op(self) -> str:
        return self.frame.op

    @property
    def charged(self) -> Charged:
        frame = self.frame
        return self.conversation_id or None, frame.id_client if type(frame) is frames.Send else "", ()


@dataclass(slots=True)
class Down:
    """conversations or users -> gateway: a frame for one or several devices of this gateway."""

    sessions: Sequence[Session]
    frame: frames.ToClient

    @property
    def op(self) -> str:
        return self.frame.op


@dataclass(slots=True)
class Deliver(_ForRouter):
    """conversations -> users: a stored message for these `users`, who all belong to one router.

    The device that sent the message (`origin`; None: the service itself) needs no push. `states` are the conversation
    states that changed with the message, as pairs (user, state); their users may belong to other routers.
    """

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
    """conversations -> users: a new writer has opened the log, which ends at `seq`.

    The writer before it may have crashed after it stored the last messages and before it delivered them.
    """

    op: ClassVar[str] = "opened"
    users: Sequence[str]
    conversation_id: str
    seq: int


@dataclass(slots=True)
class PeerMoved(_ForRouter):
    """users -> users: the other user of a p2p conversation received or read something, so this user's state changed."""

    op: ClassVar[str] = "peer_moved"
    user: str
    state: ConversationState


@dataclass(slots=True)
class PresenceUpdate(_ForRouter):
    """users -> users: a hint for `user` about another user. It has an effect only if `user` is online.

    `asked_by` is a device that wants to know whether `user` is online. `only` is the single device that receives the
    hint (None: all devices of the user).
    """

    op: ClassVar[str] = "presence_update"
    user: str
    frame: frames.IsTyping | frames.Presence | None
    asked_by: Session | None = None
    only: Session | None = None


@dataclass(slots=True)
class Revoke(_ForRouter):
    """operator -> users: end all sessions of the user, and accept only tokens issued at `before` or later.

    `before` is wall time in seconds since 1970.
    """

    op: ClassVar[str] = "revoke"
    user: str
    before: float


ToRouter = Attach | Detach | Up | Deliver | Opened | PeerMoved | PresenceUpdate | Revoke
ToGateway = Attached | Kick | Down

# The ops for which a router can have a service time. It handles each frame that it receives once.
ROUTER_OPS = frozenset(
    frame.op for frame in (Attach, Detach, Deliver, Opened, PeerMoved, PresenceUpdate, Revoke, *get_args(frames.Routed))
)
