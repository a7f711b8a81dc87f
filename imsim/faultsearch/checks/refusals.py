"""The refusals of sends, and their reasons."""

from __future__ import annotations

from collections import Counter, defaultdict

from imsim.core import events, frames, internal_frames, storage
from imsim.core.model import Code, Scene, Session, conversation_id, is_chatroom
from imsim.faultsearch.checks.check import Check
from imsim.faultsearch.checks.rooms import Rooms
from imsim.faultsearch.dispatch import on
from imsim.faultsearch.entries import ClientSent, Event, RouterReceived, RouterSent, Stored
from imsim.faultsearch.model.rules import Relations
from imsim.faultsearch.model.view import wish_to_send

_ADDRESSED = ("create", "invite", "edit", "friend_request", "friend_accept")  # what others may not want


class Refusals(Check):
    """A send that is refused for good has broken a rule of its conversation, as that was at some time since it was
    sent."""

    def begin(self) -> None:
        self._blocked: set[tuple[str, str, str]] = set()  # (conversation, sender, idClient) that storage refused
        self._related: dict[tuple[str, str], set[str]] = defaultdict(set)  # (conversation, user) -> codes
        #: (instance, idClient) -> how old the log was when it was sent, and the time (ms)
        self._since: dict[tuple[str, str], tuple[int, int]] = {}
        case = self.world.case
        self._clocks_agree = not case.wall_skew and all(fault.kind != "clock" for fault in case.faults)

    @on(Stored, storage.Append)
    def appended(self, entry: Stored[storage.Append]) -> None:
        if isinstance(entry.result, storage.Blocked):
            message = entry.request.message
            self._blocked.add((message.conversation_id, message.sender, message.id_client))

    def related(self, request: storage.Between, relations: Relations) -> None:
        """A writer has looked up how others stand to a user who wants something."""
        codes = self._related[request.conversation_id, request.user]
        codes |= {"blocked"} if relations.blocking else set()
        codes |= {"not_friends"} if not relations.friends >= set(request.others) else set()

    @on(ClientSent, frames.Send)
    def asked(self, entry: ClientSent[frames.Send]) -> None:
        frame = entry.frame
        conversation = conversation_id(frame.scene, self.evidence.users[entry.node], frame.to)
        since = (self.model.age(conversation), int(entry.at * 1000))
        self._since.setdefault((entry.node, frame.id_client), since)

    @on(Event, events.SendFailed)
    def failed(self, entry: Event[events.SendFailed]) -> None:
        instance, event, limit = self.instances[entry.node], entry.event, self.policies.content_bytes
        sent = instance.sent[event.id_client]
        conversation = conversation_id(sent["scene"], instance.user, sent["to"])
        if is_chatroom(conversation):
            allowed = self.other(Rooms).refusals(instance.user, conversation, sent)
            allowed |= {"not_member", "timeout", "unavailable"}
            if len(sent["content"].encode()) > limit:
                allowed = {"too_large", "timeout"}
        else:
            since, sent_at = self._since.get((instance.name, event.id_client), (0, 0))
            # Where clocks disagree, nobody knows what the time is where it is decided.
            times = (sent_at, int(entry.at * 1000) + 1) if self._clocks_agree else (0, 1 << 60)
            allowed = self.model.verdict(instance.user, conversation, sent, limit, since, times)
            if (conversation, instance.user, event.id_client) in self._blocked:
                allowed.add("blocked")
            if wish_to_send(instance.user, sent).event in _ADDRESSED or sent["scene"] == Scene.SYSTEM:
                allowed |= self._related[conversation, instance.user]
        if event.code not in allowed:
            text = f"{event.id_client} on {instance.name} was refused: {event.code}, not {sorted(allowed)}"
            self.violated("refusals_have_a_reason", text)


class Gaps(Check):
    """A send is refused for want of its predecessor only if that was not stored when it came."""

    def begin(self) -> None:
        #: (session, idClient) -> how often it came without its predecessor, and was not refused for that
        self._early: Counter[tuple[Session, str]] = Counter()

    @on(RouterReceived, internal_frames.Up, frames.Send)
    def came(self, entry: RouterReceived[internal_frames.Up]) -> None:
        up, frame, sender = entry.frame, entry.frame.frame, entry.frame.session.user
        assert isinstance(frame, frames.Send)
        if frame.after is None:
            return
        if (up.conversation_id, sender, frame.after) not in self.model.by_key:
            self._early[up.session, frame.id_client] += 1

    @on(RouterSent, internal_frames.Down, frames.Rejected)
    def refused(self, entry: RouterSent[internal_frames.Down]) -> None:
        session, frame = entry.frame.sessions[0], entry.frame.frame
        assert isinstance(frame, frames.Rejected)
        if frame.code != Code.GAP:
            return
        if self._early[session, frame.ref]:
            self._early[session, frame.ref] -= 1
        else:
            self.violated("refusals_have_a_reason", f"{frame.ref} of {session} comes after what was stored")
