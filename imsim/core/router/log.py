"""A conversation's log as its writer keeps it in memory: the end of the stored log, and the entries in flight."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from imsim.core import frames, internal_frames, storage
from imsim.core.empty import NO_DICT, NO_LIST
from imsim.core.limits import Bucket
from imsim.core.model import Message, Scene, Session, same_body
from imsim.core.router import rules
from imsim.core.router.rules.decision import RuleViolation
from imsim.core.timers import Timer

_SYSTEM = f"{Scene.SYSTEM}:"
_RECENT = 64  # idempotency keys kept in memory per conversation; older ones are looked up in storage
_FEW = 32  # members
_SESSIONS = 10_000  # latest sessions that a conversation remembers, to refuse the sessions that they replaced


class Entry:
    """A message that is about to be stored, or was stored recently."""

    __slots__ = (
        "audience",
        "before",
        "fenced",
        "is_change",
        "message",
        "notes",
        "rejections",
        "requests",
        "states",
        "stored",
        "timer",
    )

    def __init__(self, message: Message, request: internal_frames.Up | None = None) -> None:
        self.message = message
        self.requests = [request] if request else NO_LIST  # waiting for the answer: the send and its retries
        self.stored = request is None
        self.fenced = False  # whether storage refused it at its seq
        self.audience: tuple[str, ...] = ()  # the users who may see it
        self.notes: tuple[Message, ...] = ()  # the system messages that follow from it
        self.states: storage.States = ()  # the conversation states that changed with it
        self.before: tuple[tuple[str, ...], dict[str, Any] | None] = ((), None)  # members and state before it
        self.is_change = False  # whether it changes members or state; the writer has applied the change in memory
        #: Rejections that are sent once this entry is stored. If it is not stored, their requests are decided again.
        self.rejections: list[tuple[internal_frames.Up, RuleViolation]] = NO_LIST
        self.timer: Timer | None = None


class Log:
    """The log of one conversation: the stored log plus the `pending` entries, applied in order.

    The seqs of `pending` have no gaps, and the last one is `next_seq` - 1. `members` and `state` are those after the
    last pending entry. Each entry keeps in `before` the members and the state before it. Only the first pending entry
    may be released; a later one that is already `stored` waits. `request` is an opening or a lookup in storage. While
    it is open, all other requests of the conversation are in `waiting`.

    If storage refuses an entry, every entry after it depends on something that did not happen: its seq, its audience,
    its deferred rejections. So none of them is repaired. `cut_off` removes them, restores `before` of the refused entry
    and returns their requests in order, including those with a deferred rejection. `requeue` puts these requests first
    in `waiting`. It discards the lookups, which saw another state, and `request`, so that a late answer to it is
    ignored. Then the requests are decided as if they had just arrived.

    An entry that is cut off cannot be in the stored log. Storage carries out the requests of a conversation in order.
    After it has refused one entry it refuses the later ones, and only then gets those that are decided again. The
    answers to the old ones arrive later. They find another entry under the key, or none.
    """

    __slots__ = (
        "bucket",
        "epoch",
        "epochs",
        "id",
        "is_missing",
        "is_shared",
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
        self.is_shared = id.startswith(_SYSTEM)  # changes in other conversations write notes into it
        self.is_missing = False  # whether storage has no such conversation; then only a `create` makes it
        self.epoch = 0
        self.next_seq = 1
        self.members: tuple[str, ...] = ()
        self.member_set: Collection[str] = ()
        self.state: dict[str, Any] | None = None  # described in rules.groups.Group and rules.friends
        self.epochs: dict[tuple[str, str], int] = NO_DICT  # (user, slot) -> latest epoch, in order of use
        self.bucket: Bucket | None = None  # set for a group with a rate limit
        self.recent: dict[tuple[str, str], Entry] = NO_DICT
        # Lists instead of deques: they are short or empty, and take a tenth of the memory.
        self.pending: list[Entry] = NO_LIST
        self.waiting: list[tuple[internal_frames.Up, rules.LookupCache]] = NO_LIST
        self.request: storage.OpenConversation | storage.Lookup | None = None
        self.timer: Timer | None = None

    @property
    def is_busy(self) -> bool:
        """Whether a new request has to wait.

        A shared log has one entry in flight at a time. With two, another writer could overtake only the first.
        """
        return self.request is not None or (self.is_shared and bool(self.pending))

    def wait(self, up: internal_frames.Up, most: int) -> bool:
        """Let the request wait, and return True; return False if `most` requests already wait.

        A retry replaces the request that it repeats. Otherwise a storage that is slower than the clients' timeouts
        would get more and more requests.
        """
        waiting = self.waiting = self.waiting or []
        if isinstance(up.frame, frames.Send) and up.frame.resend:
            for at, (other, known) in enumerate(waiting):
                if _repeats(up, other):
                    waiting[at] = (up, known)
                    return True
        if len(waiting) >= most:
            return False
        waiting.append((up, rules.LookupCache()))
        return True

    def set_members(self, members: tuple[str, ...]) -> None:
        """Set `members`, and `member_set` for fast membership tests."""
        self.members = members
        # Most groups are small. Searching a short tuple is about as fast as searching a set, and takes less memory.
        self.member_set = frozenset(members) if len(members) > _FEW else members

    def is_latest(self, session: Session, *, by_slot: bool) -> bool:
        """Return whether this writer has seen no later session of the same device.

        With `by_slot`, also no later session in the same slot, which devices of one kind can share.
        """
        epochs = self.epochs = self.epochs or {}
        names = (f":{session.device}", session.slot) if by_slot else (session.device,)
        for name in names:
            if epochs.get((session.user, name), 0) > session.epoch:
                return False
        for name in names:
            epochs.pop((session.user, name), None)
            epochs[session.user, name] = session.epoch
            if len(epochs) > _SESSIONS:
                del epochs[next(iter(epochs))]
        return True

    def remember(self, entry: Entry) -> None:
        """Keep the entry under its idempotency key, and forget the oldest stored entries beyond the bound."""
        recent = self.recent = self.recent or {}
        recent[entry.message.sender, entry.message.id_client] = entry
        while len(recent) > _RECENT and recent[oldest := next(iter(recent))].stored:
            del recent[oldest]

    def cut_off(self, entry: Entry) -> list[internal_frames.Up]:
        """Remove the entry and every pending entry after it. Returns their requests in order."""
        self.next_seq = entry.message.seq
        members, self.state = entry.before
        if members is not self.members:
            self.set_members(members)
        requests: list[internal_frames.Up] = []
        for other in [other for other in self.pending if other.message.seq >= entry.message.seq]:
            if other.timer:
                other.timer.cancel()
            self.pending.remove(other)
            del self.recent[other.message.sender, other.message.id_client]
            requests += [*other.requests, *(up for up, _ in other.rejections)]
        return requests

    def requeue(self, ups: list[internal_frames.Up]) -> None:
        """Put the requests before all others that wait, and discard the lookups of all."""
        self.request = None
        if self.timer:
            self.timer.cancel()
        later = (up for up, _ in self.waiting)
        self.waiting = [(up, rules.LookupCache()) for up in (*ups, *later)]


def _repeats(up: internal_frames.Up, other: internal_frames.Up) -> bool:
    """Return whether `up` is a retry of the send `other`: same device, same or later session, same body."""
    new, old = up.frame, other.frame
    return (
        isinstance(new, frames.Send)
        and isinstance(old, frames.Send)
        and new.id_client == old.id_client
        and (up.session.user, up.session.device) == (other.session.user, other.session.device)
        and up.session.epoch >= other.session.epoch
        and same_body(new, old)
    )
