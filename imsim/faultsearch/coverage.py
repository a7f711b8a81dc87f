"""What a search must have met at least sometimes: a fault or a situation that never occurs is one that nobody tests."""

from __future__ import annotations

from collections import Counter, defaultdict

from imsim.core import changes, events, frames, internal_frames, storage
from imsim.core.model import Code, Flow, Message, Route, Scene, is_chatroom
from imsim.faultsearch.faults import KINDS
from imsim.faultsearch.situations import SITUATIONS
from imsim.faultsearch.workload import ATTACHMENTS
from imsim.faultsearch.world import World

_CODES = {
    Code.GAP: "gap refused",
    Code.NO_CONVERSATION: "no such conversation",
    Code.NOT_MEMBER: "not a member",
    Code.TOO_LARGE: "too large",
    Code.CONFLICT: "conflict",
    Code.RATE_LIMITED: "had to wait",
    Code.MUTED: "muted",
    Code.FORBIDDEN: "not allowed",
    Code.BLOCKED: "blocked",
    Code.NOT_FRIENDS: "strangers refused",
    Code.EXPIRED: "answered too late",
}
_ANSWERS = ("accept", "reject", "friend_accept", "friend_reject")
_REQUESTS = {
    ("set_conversation", Code.NO_CONVERSATION): "place refused",
    ("set_conversation", Code.TOO_LARGE): "setting too large",
    ("read_count", Code.NO_CONVERSATION): "nothing to count",
    ("history", Code.NO_CONVERSATION): "no such history",
    ("enter", Code.TOO_LARGE): "room full",
}
_ENDS = {
    Code.REPLACED: "kicked",
    Code.KICKED: "kicked by another device",
    Code.TOKEN_REVOKED: "token revoked",
    Code.SLOW_READER: "slow reader cut off",
    Code.HEARTBEAT: "heartbeat missed",
    Code.LOGIN_TIMEOUT: "login timed out",
    Code.BAD_TOKEN: "login refused",
    Code.TOKEN_EXPIRED: "login refused",
    Code.UNAVAILABLE: "user unavailable",
}

#: Everything that a whole search must have met: the faults, as "fault: kind", and the situations.
SOMETIMES = (*(f"fault: {kind}" for kind in KINDS), *SITUATIONS)


def met(world: World) -> Counter[str]:
    """How often each of `SOMETIMES` occurred in a run."""
    return _Reader(world).seen


class _Reader:
    """One pass over the trace. What needs memory keeps it by node or by instance."""

    def __init__(self, world: World) -> None:
        self.seen: Counter[str] = Counter()
        self._given_to_send = {instance.name: instance.sent for instance in (*world.instances(), *world.probes)}
        self._now = 0.0
        self._appending: set[tuple[str, str, str]] = set()
        self._opened: set[str] = set()
        self._times: dict[str, int] = {}  # by conversation, of the latest message
        self._said: dict[str, int] = {}  # by chatroom, the latest seq
        self._epochs: dict[tuple[str, str, str], int] = {}
        self._failed: set[tuple[str, str]] = set()
        self._acked: dict[str, set[str]] = defaultdict(set)
        self._ready: set[str] = set()
        self._latest: dict[str, object] = {}  # the latest frame that reached a node
        self._given: dict[tuple[str, str], set[int]] = defaultdict(set)  # seqs by instance and conversation
        self._left: dict[str, set[str]] = defaultdict(set)  # who was a member, by group
        self._unread: dict[tuple[str, str], set[int]] = defaultdict(set)  # countable seqs, as self._marks is kept
        self._marks: dict[tuple[str, str], int] = {}  # read marks by instance and conversation
        self._recalled: events.Recalled | None = None  # the latest
        self._entered: set[tuple[str, str]] = set()  # (instance, chatroom)
        self._gone: set[tuple[str, str]] = set()  # the same of those that were left
        self._pending_writes: Counter[tuple[str, str]] = Counter()  # changes of a place that storage has not answered
        self._opening: Counter[str] = Counter()  # users
        self._wishes: set[tuple[str, str]] = set()  # (instance, conversation) of changes that are unanswered
        self._hidden: dict[tuple[str, str], int] = {}  # (instance, conversation) -> up to where
        self._versions: dict[tuple[str, str], int] = {}  # (instance, conversation) -> the latest told
        #: (instance, gateway, what, conversation) -> the number of the latest told
        self._told: dict[tuple[str, str, str, str], int] = {}
        self._let_out = ("", 0.0, "")  # the latest that a writer let out: which, when, idClient
        self._amending: dict[tuple[str, object], str] = {}  # (conversation, seq) -> the amendment that is not asked for
        self._blocked: dict[tuple[str, str], bool] = {}  # (user, conversation) -> as it is stored
        self._slots: dict[tuple[str, str, str], tuple[int, str]] = {}  # (node, user, slot) -> latest epoch, its device
        self._refused: dict[
            str, tuple[int, int]
        ] = {}  # conversation -> epoch and seq of the latest that storage refused
        self._revocations: Counter[tuple[str, float]] = Counter()
        self._heard: dict[str, float] = {}  # when something last reached a node
        for at, node, what, peer, thing in world.trace:
            self._now = at
            if what == "event":
                self._event(node, thing)
            elif what == "stored":
                self._stored(*thing)
            elif what == "<-":
                self._heard[node] = at
                self._received(node, thing)
            elif what == "->":
                self._sent(node, peer, thing)
            elif what == "fault":
                if peer != "planned":
                    self.seen[f"fault: {peer}"] += 1
            elif what == "asked":
                self._asked(thing)
                if isinstance(thing, storage.OpenConversation):
                    by_itself = self._heard.get(node) != at and thing.conversation_id in self._opened
                    self.seen["reopened by itself"] += by_itself
            elif what == "said":
                self.seen["room counts from below"] += thing.seq < self._said.get(thing.to, 0)
                self._said[thing.to] = thing.seq
            elif what == "shed":
                self.seen["room shed"] += 1
            elif what == "asks":
                self._wished(node, thing)
            elif what == "revoke":
                self.seen["revoked while opening"] += self._opening[node] > 0
        self.seen["nothing went wrong"] += not world.case.faults
        shared = Counter(id_client for acked in self._acked.values() for id_client in acked)
        self.seen["same idClient from two devices"] += sum(count > 1 for count in shared.values())

    def _event(self, node: str, event: events.ClientEvent) -> None:
        seen = self.seen
        if isinstance(event, events.Shown) and is_chatroom(event.message.conversation_id):
            seen["room heard"] += 1
            seen["room told what was said"] += isinstance(self._latest.get(node), frames.Entered)
        elif isinstance(event, events.Shown):
            if event.flow == Flow.IN and event.message.countable:
                self._unread[node, event.message.conversation_id].add(event.message.seq)
            is_system = event.message.conversation_id.startswith(f"{Scene.SYSTEM}:")
            seen["system message while away"] += is_system and event.route == Route.SYNC
            seen["shown by sync"] += event.route == Route.SYNC
            seen["own message from another device"] += event.flow == Flow.OUT
            seen["not countable"] += not event.message.countable
            seen["attachment"] += event.message.type in ATTACHMENTS
            seen["custom"] += event.message.custom is not None and not is_system
            seen["came back"] += self._hidden.pop((node, event.message.conversation_id), 0) > 0
            latest = self._latest.get(node)
            seen["gap pulled"] += isinstance(latest, frames.HistoryPage)
            seen["message held back shown"] += isinstance(latest, frames.Push) and latest.message is not event.message
            seen["push during sync"] += event.route == Route.PUSH and node not in self._ready
        elif isinstance(event, events.Sent):
            seen["sent again by hand"] += event.attempt == 1 and (node, event.id_client) in self._failed
            seen["sent again though stored"] += event.attempt == 1 and event.id_client in self._acked[node]
        elif isinstance(event, events.SendFailed):
            self._failed.add((node, event.id_client))
            seen["send gave up"] += event.code == Code.TIMEOUT
            seen[_CODES.get(event.code, "refused")] += 1
            sent = self._given_to_send[node][event.id_client]
            wanted = (sent.get("file") or {}).get("event")
            seen["answered before"] += event.code == Code.CONFLICT and wanted in _ANSWERS
            seen["said from outside"] += event.code == Code.NOT_MEMBER and sent["scene"] == Scene.CHATROOM
            seen["recall from outside"] += wanted == "recall" and event.code == Code.NOT_MEMBER
            seen["edit refused"] += wanted == "edit" and event.code in (Code.MUTED, Code.BLOCKED, Code.NOT_MEMBER)
        elif isinstance(event, events.Acked):
            self._acked[node].add(event.id_client)
            seen["ack lost"] += (node, event.id_client) in self._failed
        elif isinstance(event, events.Repeated):
            seen["duplicate push"] += 1
        elif isinstance(event, events.Received):
            seen["early ack"] += 1
        elif isinstance(event, events.Recalled):
            if is_chatroom(event.conversation_id):
                seen["room took back"] += 1
                return
            self._recalled = event
            seen["recalled"] += 1
            marks = self._marks.get((node, event.conversation_id), 0)
            unread = self._unread[node, event.conversation_id]
            seen["recalled unread"] += event.seq in unread and event.seq > marks
        elif isinstance(event, events.Edited):
            seen["room edited" if is_chatroom(event.conversation_id) else "edited"] += 1
        elif isinstance(event, events.Entered):
            seen["room entered"] += 1
            asked = (node, event.name)
            seen["room entered again"] += asked in self._entered
            self._entered.add(asked)
            seen["room entered that was left"] += asked in self._gone
        elif isinstance(event, events.Presence):
            seen["presence told"] += 1
        elif isinstance(event, events.ReadMoved):
            self._marks[node, event.conversation_id] = event.read_seq
            seen["mark moved elsewhere"] += isinstance(self._latest.get(node), frames.State)
        elif isinstance(event, events.StateChanged):
            seen["set elsewhere"] += isinstance(self._latest.get(node), frames.State | frames.SyncDone)
            key = (node, event.conversation_id)
            seen["hidden"] += event.hidden_seq > self._hidden.get(key, 0)
            self._hidden[key] = event.hidden_seq
        elif isinstance(event, events.PeerRead):
            seen["peer read"] += 1
        elif isinstance(event, events.PeerDelivered):
            latest = self._latest.get(node)
            seen["delivered mark told"] += isinstance(latest, frames.State) and event.seq > latest.state.peer_read_seq
        elif isinstance(event, events.ReadCounted):
            seen["readers counted"] += 1
        elif isinstance(event, events.History):
            seen["system messages fetched"] += bool(event.messages) and event.conversation_id.startswith("system:")
            seen["history looked at"] += bool(event.messages)
            seen["history with more"] += event.more
        elif isinstance(event, events.RequestDone | events.RequestFailed):
            if event.request == frames.Leave.op:
                self._gone.add((node, event.ref))
            if event.request == frames.SetConversation.op:
                self._wishes.discard((node, event.ref))
            if isinstance(event, events.RequestFailed):
                seen[_REQUESTS.get((event.request, event.code), "request failed")] += 1
        elif isinstance(event, events.Ready):
            self._ready.add(node)
        elif isinstance(event, events.Disconnected | events.Ended):
            self._ready.discard(node)
            seen[_ENDS.get(event.code, "connection lost") if event.code else "connection lost"] += 1

    def _asked(self, request: storage.Request) -> None:
        if isinstance(request, storage.Append):
            message = request.message
            self._appending.add((message.conversation_id, message.sender, message.id_client))
            self._amending.pop((message.conversation_id, _amended(message)), None)
        elif isinstance(request, storage.SaveState):
            key = (request.user, request.conversation_id)
            self._pending_writes[key] += 1
            self.seen["settings raced"] += self._pending_writes[key] > 1 and request.read_seq == 0
            self.seen["place saved again"] += request.asked is None and request.delivered_seq == 0
        elif isinstance(request, storage.OpenUser):
            self._opening[request.user] += 1
        elif isinstance(request, storage.RevokeTokens):
            revocation = (request.user, request.before)
            self.seen["revocation repeated"] += self._revocations[revocation] > 0
            self._revocations[revocation] += 1

    def _wished(self, node: str, wanted: frames.Asked) -> None:
        if isinstance(wanted, frames.SetConversation):
            key = (node, wanted.conversation_id)
            self.seen["wish replaced"] += key in self._wishes
            self._wishes.add(key)

    def _stored(self, request: storage.Request, result: storage.Result) -> None:
        seen = self.seen
        if isinstance(request, storage.Append):
            message = request.message
            self._appending.discard((message.conversation_id, message.sender, message.id_client))
            if isinstance(result, storage.Appended):
                self._changed(request)
                seen["older time, higher seq"] += message.time < self._times.get(message.conversation_id, 0)
                self._times[message.conversation_id] = message.time
            seen["fenced writer"] += isinstance(result, storage.Fenced)
            if isinstance(result, storage.Duplicate | storage.Blocked):
                self._refused[message.conversation_id] = (request.epoch, message.seq)
            elif isinstance(result, storage.Fenced) and request.effects is not None:
                epoch, seq = self._refused.get(message.conversation_id, (-1, 0))
                seen["change behind a refusal"] += epoch == request.epoch and seq < message.seq
            seen["duplicate refused by storage"] += isinstance(result, storage.Duplicate)
            seen["mark moved by sending"] += request.shown > 0
        elif isinstance(request, storage.SaveState):
            self._pending_writes[request.user, request.conversation_id] -= 1
            if request.blocked is not None:
                self._blocked[request.user, request.conversation_id] = request.blocked
        elif isinstance(request, storage.OpenUser):
            self._opening[request.user] -= 1
        elif isinstance(request, storage.Missed) and isinstance(result, storage.MissedPage):
            seen["sync past what was pushed"] += result.inbox - request.inbox > len(result.messages)
            seen["page ended by bytes"] += result.more and len(result.messages) < request.limit
        elif isinstance(request, storage.Range) and isinstance(result, storage.RangePage):
            seen["page ended by bytes"] += result.more and len(result.messages) < request.limit
        elif isinstance(request, storage.Find):
            seen["resend answered from storage"] += result is not None
        elif isinstance(request, storage.OpenConversation):
            seen["memory lost"] += request.conversation_id in self._opened
            self._opened.add(request.conversation_id)

    def _changed(self, request: storage.Append) -> None:
        """What became of a change that is stored."""
        seen, message, effects = self.seen, request.message, request.effects
        seen["news"] += message.scene == Scene.SYSTEM
        if effects is None:
            return
        conversation, file = message.conversation_id, message.file or {}
        event, left = file.get("event"), self._left[conversation]
        seen["member came"] += bool(effects.joined) and event != "create"
        seen["member came back"] += bool(left & set(effects.joined)) and event != "create"
        seen["member left"] += event in ("leave", "kick")
        seen["group dismissed"] += event == "dismiss"
        seen["group made again"] += event == "create" and bool(left)
        seen["owner changed"] += event == "transfer"
        seen["recalled by an admin"] += (
            event == "recall" and effects.amended is not None and effects.amended.sender != message.sender
        )
        seen["friends"] += event == "friend_accept"
        seen["friends no more"] += event == "friend_delete"
        left.update(effects.left)
        for note in effects.notes:
            data = (note.file or {}).get("data")
            state = data["state"] if isinstance(data, dict) else (note.file or {}).get("state")
            seen["answer passed"] += state == "passed"
            seen["answer rejected"] += state == "rejected"
            seen["request expired"] += state == "expired"
            seen["application"] += state == "init" and note.type == "group_apply"
            seen["invitation to be accepted"] += state == "init" and note.type == "group_invite"

    def _received(self, node: str, frame: object) -> None:
        seen = self.seen
        self._latest[node] = frame
        if isinstance(frame, internal_frames.Up) and isinstance(frame.frame, frames.Send) and node.startswith("r"):
            state = (node, frame.session.user, frame.session.device)
            seen["stale session"] += frame.session.epoch < self._epochs.get(state, 0)
            self._epochs[state] = max(frame.session.epoch, self._epochs.get(state, 0))
            taken, now = (node, frame.session.user, frame.session.slot), (frame.session.epoch, frame.session.device)
            latest = self._slots.get(taken, now)
            seen["slot of a stale session"] += latest > now and latest[1] != now[1]
            self._slots[taken] = max(latest, now)
            key = (frame.conversation_id, frame.session.user, frame.frame.id_client)
            seen["coalesced retry"] += key in self._appending
            if (seq := _amended(frame.frame)) is not None:
                about, id_client = (frame.conversation_id, seq), frame.frame.id_client
                seen["amendments raced"] += self._amending.setdefault(about, id_client) != id_client
        elif isinstance(frame, internal_frames.Up) and isinstance(frame.frame, frames.Typing) and node.startswith("r"):
            seen["typed across a block"] += self._blocked.get((frame.session.user, frame.frame.conversation_id), False)
        elif isinstance(frame, frames.State):
            where, version = (node, frame.state.conversation_id), frame.state.version
            seen["old place ignored"] += version <= self._versions.get(where, 0)
            self._versions[where] = max(version, self._versions.get(where, 0))
        elif isinstance(frame, frames.Notify):
            seen["notified"] += 1
        elif isinstance(frame, frames.Resync):
            seen["resync"] += 1
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
        elif isinstance(frame, frames.Page | frames.SyncDone):
            seen["page with more"] += isinstance(frame, frames.Page)
            seen["fetched recalled"] += any(message.recalled for message in frame.messages)
            for conversation, seq in frame.cursors.items():
                self._given[node, conversation].update(range(1, seq + 1))

    def _sent(self, node: str, peer: str, frame: object) -> None:
        seen = self.seen
        if isinstance(frame, frames.History):
            seen["last message recalled"] += (
                self._recalled is not None
                and frame.conversation_id == self._recalled.conversation_id
                and frame.last == self._recalled.seq - 1
            )
        if isinstance(frame, frames.Rejected) and frame.code == Code.RATE_LIMITED:  # by the gateway, or by a writer
            seen["group had to wait" if self._has_got(node, internal_frames.Down) else "user had to wait"] += 1
        elif isinstance(frame, frames.Read):
            seen["system messages read"] += frame.conversation_id.startswith(f"{Scene.SYSTEM}:")
            seen["read while offline"] += node not in self._ready and self._has_got(node, frames.SyncDone)
        elif isinstance(frame, frames.SetConversation):
            seen["set while offline"] += self._has_got(node, frames.LoggedIn)
        elif isinstance(frame, frames.State):
            self._again("place told again", (peer, node, frame.op, frame.state.conversation_id), frame.state.version)
        elif isinstance(frame, frames.Notify):
            self._again("notified again", (peer, node, frame.op, frame.conversation_id), frame.seq)
        elif isinstance(frame, frames.Resync):
            self._again("resync repeated", (peer, node, frame.op, ""), frame.number)
        elif isinstance(frame, internal_frames.Down):
            found = isinstance(frame.frame, frames.Resync) and isinstance(
                self._latest.get(node), internal_frames.Opened
            )
            seen["found by a new writer"] += found
            if isinstance(frame.frame, frames.Stored):
                self._let_out = (node, self._now, frame.frame.id_client)
            # Answered in the moment in which something else was let out: for that it has waited.
            refusal, (writer, at, id_client) = frame.frame, self._let_out
            if isinstance(refusal, frames.Rejected):
                self._amending = {about: id for about, id in self._amending.items() if id != refusal.ref}
            if isinstance(refusal, frames.Rejected) and (writer, at) == (node, self._now):
                seen["change in flight"] += self._heard.get(node) != self._now and self._is_ruled(refusal)
                seen["conflict put off"] += refusal.code == Code.CONFLICT and refusal.ref == id_client
        elif isinstance(frame, frames.LoggedIn):
            self._told.pop((peer, node, frames.Resync.op, ""), None)
        elif isinstance(frame, internal_frames.Attached):
            seen["old token refused"] += frame.code == Code.TOKEN_REVOKED
            seen["late login refused"] += frame.code == Code.REPLACED
        elif isinstance(frame, internal_frames.Kick):
            self._kicked(node, peer, frame)

    @staticmethod
    def _is_ruled(frame: object) -> bool:
        rules = (Code.NOT_MEMBER, Code.FORBIDDEN, Code.MUTED)
        return isinstance(frame, frames.Rejected) and frame.code in rules

    def _again(self, situation: str, told: tuple[str, str, str, str], number: int) -> None:
        self.seen[situation] += self._told.get(told) == number
        self._told[told] = number

    def _kicked(self, router: str, gateway: str, kick: internal_frames.Kick) -> None:
        seen, latest = self.seen, self._latest.get(router)
        seen["revoked"] += kick.code == Code.TOKEN_REVOKED
        if isinstance(latest, internal_frames.Attach) and latest.user == kick.session.user:
            seen["slot taken"] += kick.code == Code.KICKED
            seen["kicked across gateways"] += latest.gateway != gateway
        elif isinstance(latest, internal_frames.Up) and isinstance(latest.frame, frames.EndSession):
            seen["session ended by hand"] += kick.code == Code.KICKED

    def _has_got(self, node: str, kind: type) -> bool:
        """Whether a frame of this kind is the latest that the node has got."""
        return isinstance(self._latest.get(node), kind)


def _amended(message: frames.Send | Message) -> object:
    """The seq of what it would recall or edit; None if it would not."""
    file = message.file or {}
    data = file.get("data")
    return data.get("seq") if file.get("event") in changes.AMENDMENTS and isinstance(data, dict) else None
