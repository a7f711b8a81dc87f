"""What devices say: what they have and have shown, what they repeat, and when; and what a connection that has ended is
sent."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

from imsim.core import events, frames
from imsim.core.model import Code, Scene, conversation_id
from imsim.faultsearch.checks.facts import Check
from imsim.faultsearch.entries import Adrift, ClientReceived, ClientSent, Event, Wished

_ROUNDING = 0.001  # seconds


class Claims(Check):
    """A device says that it has, or has shown, only what it was given; and of a repeated send that it is one. What it
    says becomes part of the model."""

    def begin(self) -> None:
        self._known: dict[tuple[str, str], int] = {}  # (instance, conversation) -> what it rightly said it has
        self._sent: Counter[tuple[str, str]] = Counter()  # (instance, idClient) -> attempts, without those limited

    def sent(self, entry: ClientSent[frames.Send]) -> None:
        instance, frame = self.instances[entry.node], entry.frame
        conversation = conversation_id(frame.scene, instance.user, frame.to)
        self._has(entry, conversation, frame.shown)
        self.model.claimed.reach(instance.user, conversation, frame.shown)
        is_repeated = self._sent[instance.name, frame.id_client] > 0
        if is_repeated and not frame.resend and frame.id_client not in instance.tapped:  # by the user, not by itself
            self.violated("repetitions_are_marked", f"{instance.name} said {frame}")
        self._sent[instance.name, frame.id_client] += 1

    def delivered(self, entry: ClientSent[frames.Delivered]) -> None:
        self._holds(entry, entry.frame.conversation_id, entry.frame.seq)

    def synced(self, entry: ClientSent[frames.Sync]) -> None:
        for conversation, seq in entry.frame.cursors.items():
            self._holds(entry, conversation, seq)

    def read(self, entry: ClientSent[frames.Read]) -> None:
        user, conversation, seq = self.evidence.users[entry.node], entry.frame.conversation_id, entry.frame.seq
        if seq > self.model.claimed[user, conversation]:
            self._has(entry, conversation, seq)  # else it may have heard it from another device, asked the same
        self.model.claimed.reach(user, conversation, seq)

    def hidden(self, entry: ClientSent[frames.SetConversation]) -> None:
        frame = entry.frame
        self.model.claimed.reach(self.evidence.users[entry.node], frame.conversation_id, frame.hidden_seq or 0)

    def rejected(self, entry: ClientReceived[frames.Rejected]) -> None:
        if entry.frame.code == Code.RATE_LIMITED:
            self._sent[entry.node, entry.frame.ref] -= 1

    def _holds(self, entry: ClientSent[Any], conversation: str, seq: int) -> None:
        self._has(entry, conversation, seq)
        self.model.held.reach(self.evidence.users[entry.node], conversation, seq)

    def _has(self, entry: ClientSent[Any], conversation: str, seq: int) -> None:
        key, user, model = (entry.node, conversation), self.evidence.users[entry.node], self.model
        known = self._known.get(key, 0)
        if seq <= known:
            return
        given = model.given[entry.node][conversation]
        missing = [n for n in range(known + 1, seq + 1) if n not in given]
        if any(n > model.age(conversation) or model.may_see(user, conversation, n) for n in missing):
            self.violated("devices_claim_only_what_they_have", f"{entry.node} said {entry.frame}, and lacks {missing}")
        self._known[key] = seq


class Connections(Check):
    """A client that is logged in is never silent for so long that it would lose its connection; it enters a room, if
    its user has, before it speaks there; and a gateway sends nothing on a connection that has ended."""

    def begin(self) -> None:
        self._longest = min(self.policies.heartbeat, self.policies.heartbeat_timeout / 2)
        self._said: dict[str, float] = {}  # instance -> when last, since it knows that it is logged in
        self._wished: dict[str, set[str]] = defaultdict(set)  # instance -> the rooms that its user wants to be in
        self._entered: dict[str, set[str]] = defaultdict(set)  # the same as it has said on this connection

    def wants(self, entry: Wished[frames.Enter | frames.Leave]) -> None:
        wished = self._wished[entry.node]
        (wished.add if isinstance(entry.request, frames.Enter) else wished.discard)(entry.request.name)

    def failed(self, entry: Event[events.RequestFailed]) -> None:
        if entry.event.request == frames.Enter.op:
            self._wished[entry.node].discard(entry.event.ref)

    def logs_in(self, entry: ClientSent[frames.Login]) -> None:
        self._said.pop(entry.node, None)
        self._entered[entry.node] = set()

    def logged_in(self, entry: ClientReceived[frames.LoggedIn]) -> None:
        self._said[entry.node] = entry.at

    def speaks(self, entry: ClientSent[Any]) -> None:
        name = entry.node
        if name in self._said:
            silence = entry.at - self._said[name]
            if silence > self._longest + _ROUNDING and self.instances[name].key not in self.evidence.believed:
                text = f"{name} said nothing for {silence:.3f} s, until {entry.frame}"
                self.violated("clients_do_not_fall_silent", text)
            self._said[name] = entry.at

    def enters(self, entry: ClientSent[frames.Enter | frames.Leave]) -> None:
        entered = self._entered[entry.node]
        (entered.add if isinstance(entry.frame, frames.Enter) else entered.discard)(entry.frame.name)

    def sends(self, entry: ClientSent[frames.Send]) -> None:
        name, frame = entry.node, entry.frame
        if frame.scene == Scene.CHATROOM and frame.to in self._wished[name] - self._entered[name]:
            self.violated("speakers_have_entered", f"{name} said {frame.id_client} before it had entered {frame.to}")

    def adrift(self, entry: Adrift[Any]) -> None:
        text = f"{entry.node} had for {entry.peer}, which has ended: {entry.frame}"
        self.violated("nothing_goes_to_connections_that_ended", text)
