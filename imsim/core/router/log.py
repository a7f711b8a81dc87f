"""A conversation's log as its writer holds it in memory: where storage says it ends, and what is on its way into it."""

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
_SESSIONS = 10_000  # the latest that acted in a conversation: none may act that was replaced by one of them


class Entry:
    """A message on its way into the log, or recently in it."""

    __slots__ = (
        "asked",
        "audience",
        "before",
        "fenced",
        "is_change",
        "message",
        "notes",
        "refused",
        "states",
        "stored",
        "timer",
    )

    def __init__(self, message: Message, asked: internal_frames.Up | None = None) -> None:
        self.message = message
        self.asked = [asked] if asked else NO_LIST  # who waits for the answer; more than one if a retry raced
        self.stored = asked is None
        self.fenced = False  # storage refused it at its seq
        self.audience: tuple[str, ...] = ()  # who may see it
        self.notes: tuple[Message, ...] = ()  # for the system logs of users
        self.states: storage.States = ()  # that changed with it
        self.before: tuple[tuple[str, ...], dict[str, Any] | None] = ((), None)  # members and state
        self.is_change = False  # of members or state, which the writer has changed in memory already
        #: What may not be any more, if this comes to be stored.
        self.refused: list[tuple[internal_frames.Up, RuleViolation]] = NO_LIST
        self.timer: Timer | None = None


class Log:
    """What storage has, plus `pending`, applied in order: the seqs of `pending` are dense and end right before
    `next_seq`, `members` and `state` are what they are after its last, and each entry keeps in `before` what they
    were before it. Of `pending` only the first may be let out; one behind it that is `stored` waits. `request` is
    the one opening or look-up that everything else of this conversation waits for, in `waiting`.

    Where storage refuses an entry, all behind it rest on what never was: their seqs, who may hear them, the
    refusals put off until them. So none is mended. `take_back` cuts `pending` off there and goes back to that
    entry's `before`, and what asked for the entries, refused or not, is handed back as requests, in their order.
    `wait_again` puts these before all that waits, with nothing known: what was looked up saw another state, and the
    answer to a look-up under way must find `request` gone. Then they are decided as if they had just come. Nothing
    that is cut off can be in the log: storage carries out what it is asked of a conversation in that order, so
    behind a refused one it has refused all before it meets what is decided again; the answers that say so come later
    and find another entry under the key, or none.
    """

    __slots__ = (
        "bucket",
        "epoch",
        "epochs",
        "id",
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
        self.is_shared = id.startswith(_SYSTEM)  # with other writers: what follows from changes elsewhere stands there
        self.epoch = 0
        self.next_seq = 1
        self.members: tuple[str, ...] = ()
        self.member_set: Collection[str] = ()
        self.state: dict[str, Any] | None = None  # a group's, or two users'; see their rules
        self.epochs: dict[tuple[str, str], int] = NO_DICT  # of the latest session by (user, slot), the last last
        self.bucket: Bucket | None = None  # of a group, where there is a limit
        self.recent: dict[tuple[str, str], Entry] = NO_DICT
        # No deques: as they are short, if not empty, lists take a tenth of the memory.
        self.pending: list[Entry] = NO_LIST
        self.waiting: list[tuple[internal_frames.Up, rules.LookupCache]] = NO_LIST
        self.request: storage.OpenConversation | storage.Lookup | None = None
        self.timer: Timer | None = None

    @property
    def is_busy(self) -> bool:
        """Whether what comes has to wait. A shared log takes one entry at a time: of two under way another writer might
        have overtaken the first, and not the second."""
        return self.request is not None or (self.is_shared and bool(self.pending))

    def wait(self, up: internal_frames.Up, most: int) -> bool:
        """Whether there is room for it among so many that wait. What is said again while it waits takes the place of
        what it repeats: else a storage that is slower than its clients are patient would have ever more to do."""
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

    def has_members(self, members: tuple[str, ...]) -> None:
        self.members = members
        # Most groups are small. A short tuple is searched about as fast as a set, which takes the most memory here.
        self.member_set = frozenset(members) if len(members) > _FEW else members

    def is_latest(self, session: Session, *, by_slot: bool) -> bool:
        """Whether no later session of its device has acted here, as far as this writer has seen; `by_slot`: nor of its
        slot, which may have another name than the device."""
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
        recent = self.recent = self.recent or {}
        recent[entry.message.sender, entry.message.id_client] = entry
        while len(recent) > _RECENT and recent[oldest := next(iter(recent))].stored:
            del recent[oldest]

    def take_back(self, entry: Entry) -> list[internal_frames.Up]:
        """Have it, and all behind it, be nothing again but what was asked for; returns that."""
        self.next_seq = entry.message.seq
        members, self.state = entry.before
        if members is not self.members:
            self.has_members(members)
        asked: list[internal_frames.Up] = []
        for other in [other for other in self.pending if other.message.seq >= entry.message.seq]:
            if other.timer:
                other.timer.cancel()
            self.pending.remove(other)
            del self.recent[other.message.sender, other.message.id_client]
            asked += [*other.asked, *(up for up, _ in other.refused)]
        return asked

    def wait_again(self, ups: list[internal_frames.Up]) -> None:
        """Before all others that wait; what is being looked up for one of those is asked again."""
        self.request = None
        if self.timer:
            self.timer.cancel()
        later = (up for up, _ in self.waiting)
        self.waiting = [(up, rules.LookupCache()) for up in (*ups, *later)]


def _repeats(up: internal_frames.Up, other: internal_frames.Up) -> bool:
    """Whether it is the same send once more, of the same device, by this session or a later one."""
    new, old = up.frame, other.frame
    return (
        isinstance(new, frames.Send)
        and isinstance(old, frames.Send)
        and new.id_client == old.id_client
        and (up.session.user, up.session.device) == (other.session.user, other.session.device)
        and up.session.epoch >= other.session.epoch
        and same_body(new, old)
    )
