"""What a search must have met at least sometimes: a fault or a situation that never occurs is one that nobody tests."""

from __future__ import annotations

from collections import Counter, defaultdict

from imsim.core import events, frames, storage
from imsim.core.model import Code, Flow, Route
from imsim.sim.chaos.workload import CONFLICTS
from imsim.sim.chaos.world import ChaosWorld
from imsim.sim.faults import KINDS

#: Situations of the protocol, by name: what each means.
SITUATIONS = {
    "ack lost": "a message was acknowledged although its sender had been told that it failed",
    "coalesced retry": "a send arrived again while its first copy waited for storage",
    "resend answered from storage": "a resent message was found where it had been stored",
    "duplicate refused by storage": "storage knew a message that its writer had forgotten",
    "fenced writer": "storage refused a writer that another one had replaced",
    "gap refused": "a message was refused because its predecessor had not arrived",
    "gap waited for": "a message arrived before its predecessor",
    "message held back shown": "a push filled a gap, and what stood behind it followed",
    "stale session": "a frame arrived of a session that another login had ended",
    "kicked": "a device was told that it had logged in elsewhere",
    "slow reader cut off": "too many pushes were unacknowledged",
    "heartbeat missed": "a silent peer was given up",
    "login timed out": "a login was not answered in time",
    "login refused": "a token was not taken",
    "duplicate push": "a device got a message again",
    "shown by sync": "a device learnt of a message from a sync",
    "push during sync": "a push arrived before the sync was done",
    "own message from another device": "flow = out",
    "page with more": "a sync took several pages",
    "early ack": "ack = after_receive told of a message before it was stored",
    "send gave up": "every attempt was spent",
    "sent again by hand": "the application sent a failed message again",
    "same idClient from two devices": "both were told the same place",
    "no such conversation": "a send to a group that does not exist",
    "not a member": "a send into somebody else's group",
    "too large": "a send beyond the limit",
    "not countable": "a notification was shown",
    "mark moved by sending": "a send said what its device had shown",
    "mark moved elsewhere": "a device learnt of a read on another",
    "read while offline": "a mark was caught up after a login",
    "storage failed": "a request failed",
    "user unavailable": "a login was refused because storage did not answer",
    "memory lost": "a router opened a conversation again",
}
if CONFLICTS:
    SITUATIONS["conflict"] = "an idClient was used for another message"

_CODES = {
    Code.GAP: "gap refused",
    Code.NO_CONVERSATION: "no such conversation",
    Code.NOT_MEMBER: "not a member",
    Code.TOO_LARGE: "too large",
    Code.CONFLICT: "conflict",
}
_ENDS = {
    Code.REPLACED: "kicked",
    Code.SLOW_READER: "slow reader cut off",
    Code.HEARTBEAT: "heartbeat missed",
    Code.LOGIN_TIMEOUT: "login timed out",
    Code.BAD_TOKEN: "login refused",
    Code.TOKEN_EXPIRED: "login refused",
    Code.UNAVAILABLE: "user unavailable",
}

#: Everything that a whole search must have met: the faults, as "fault: kind", and the situations.
SOMETIMES = (*(f"fault: {kind}" for kind in KINDS), *SITUATIONS)


def met(world: ChaosWorld) -> Counter[str]:
    """How often each of `SOMETIMES` occurred in a run."""
    return _Reader(world).seen


class _Reader:
    """One pass over the trace. What needs memory keeps it by node or by instance."""

    def __init__(self, world: ChaosWorld) -> None:
        self.seen: Counter[str] = Counter()
        self._appending: set[tuple[str, str, str]] = set()
        self._opened: set[str] = set()
        self._epochs: dict[tuple[str, str, str], int] = {}
        self._failed: set[tuple[str, str]] = set()
        self._acked: dict[str, set[str]] = defaultdict(set)
        self._ready: set[str] = set()
        self._latest: dict[str, object] = {}  # the latest frame that reached a node
        self._given: dict[tuple[str, str], set[int]] = defaultdict(set)  # seqs by instance and conversation
        for _, node, what, peer, thing in world.trace:
            if what == "event":
                self._event(node, thing)
            elif what == "stored":
                self._stored(*thing)
            elif what == "<-":
                self._received(node, thing)
            elif what == "->":
                self._sent(node, thing)
            elif what == "fault":
                if peer != "planned":
                    self.seen[f"fault: {peer}"] += 1
            elif what == "asked" and isinstance(thing, storage.Append):
                message = thing.message
                self._appending.add((message.conversation_id, message.sender, message.id_client))
        shared = Counter(id_client for acked in self._acked.values() for id_client in acked)
        self.seen["same idClient from two devices"] += sum(count > 1 for count in shared.values())

    def _event(self, node: str, event: events.ClientEvent) -> None:
        seen = self.seen
        if isinstance(event, events.Shown):
            seen["shown by sync"] += event.route == Route.SYNC
            seen["own message from another device"] += event.flow == Flow.OUT
            seen["not countable"] += not event.message.countable
            latest = self._latest.get(node)
            seen["message held back shown"] += isinstance(latest, frames.Push) and latest.message is not event.message
            seen["push during sync"] += event.route == Route.PUSH and node not in self._ready
        elif isinstance(event, events.Sent):
            seen["sent again by hand"] += event.attempt == 1 and (node, event.id_client) in self._failed
        elif isinstance(event, events.SendFailed):
            self._failed.add((node, event.id_client))
            seen["send gave up"] += event.code == Code.TIMEOUT
            seen[_CODES.get(event.code, "refused")] += 1
        elif isinstance(event, events.Acked):
            self._acked[node].add(event.id_client)
            seen["ack lost"] += (node, event.id_client) in self._failed
        elif isinstance(event, events.Repeated):
            seen["duplicate push"] += 1
        elif isinstance(event, events.Received):
            seen["early ack"] += 1
        elif isinstance(event, events.ReadMoved):
            seen["mark moved elsewhere"] += isinstance(self._latest.get(node), frames.Placed)
        elif isinstance(event, events.Ready):
            self._ready.add(node)
        elif isinstance(event, events.Disconnected | events.Ended):
            self._ready.discard(node)
            seen[_ENDS.get(event.code, "connection lost") if event.code else "connection lost"] += 1

    def _stored(self, request: storage.Request, result: storage.Result) -> None:
        seen = self.seen
        if isinstance(request, storage.Append):
            message = request.message
            self._appending.discard((message.conversation_id, message.sender, message.id_client))
            seen["fenced writer"] += isinstance(result, storage.Fenced)
            seen["duplicate refused by storage"] += isinstance(result, storage.Duplicate)
            seen["mark moved by sending"] += request.shown > 0
        elif isinstance(request, storage.Find):
            seen["resend answered from storage"] += result is not None
        elif isinstance(request, storage.OpenConversation):
            seen["memory lost"] += request.conversation_id in self._opened
            self._opened.add(request.conversation_id)

    def _received(self, node: str, frame: object) -> None:
        seen = self.seen
        self._latest[node] = frame
        if isinstance(frame, frames.Up) and isinstance(frame.frame, frames.Send) and node.startswith("r"):
            place = (node, frame.session.user, frame.session.device)
            seen["stale session"] += frame.session.epoch < self._epochs.get(place, 0)
            self._epochs[place] = max(frame.session.epoch, self._epochs.get(place, 0))
            key = (frame.conversation_id, frame.session.user, frame.frame.id_client)
            seen["coalesced retry"] += key in self._appending
        elif isinstance(frame, frames.Refused):
            seen[_ENDS.get(frame.code, "refused")] += 1
        elif isinstance(frame, frames.Rejected):
            seen[_CODES.get(frame.code, "refused")] += 1
            seen["storage failed"] += frame.code == Code.UNAVAILABLE
        elif isinstance(frame, frames.Push):
            given = self._given[node, frame.message.conversation_id]
            seen["gap waited for"] += frame.message.seq > 1 and frame.message.seq - 1 not in given
            given.add(frame.message.seq)
        elif isinstance(frame, frames.Stored):
            self._given[node, frame.conversation_id].add(frame.seq)
        elif isinstance(frame, frames.Page):
            seen["page with more"] += frame.more
            for conversation, seq in frame.cursors.items():
                self._given[node, conversation].update(range(1, seq + 1))

    def _sent(self, node: str, frame: object) -> None:
        if isinstance(frame, frames.Read) and isinstance(self._latest.get(node), frames.SyncDone):
            self.seen["read while offline"] += node not in self._ready
