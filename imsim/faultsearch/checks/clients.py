"""Checks of the marks, repeated sends and heartbeats of devices, and of frames for closed connections."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

from imsim.core import events, frames
from imsim.core.model import Code, Scene, conversation_id
from imsim.faultsearch.checks.facts import Check
from imsim.faultsearch.entries import Adrift, ClientReceived, ClientSent, Event, Wished

_ROUNDING = 0.001  # seconds


class Claims(Check):
    """Checks that a device claims only messages that it was given, and marks a repeated send as one.

    Its claims become part of the model.
    """

    def begin(self) -> None:
        # (instance, conversation) -> the highest seq that it rightly claimed
        self._known: dict[tuple[str, str], int] = {}
        # (instance, idClient) -> attempts, except those beyond a rate limit
        self._sent: Counter[tuple[str, str]] = Counter()

    def sent(self, entry: ClientSent[frames.Send]) -> None:
        instance, frame = self.instances[entry.node], entry.frame
        conversation = conversation_id(frame.scene, instance.user, frame.to)
        self._has(entry, conversation, frame.shown)
        self.model.claimed.reach(instance.user, conversation, frame.shown)
        is_repeated = self._sent[instance.name, frame.id_client] > 0
        if is_repeated and not frame.resend and frame.id_client not in instance.tapped:  # those are the user's
            self.violated("repetitions_are_marked", f"{instance.name} sent {frame} again, but not as a repetition")
        self._sent[instance.name, frame.id_client] += 1

    def delivered(self, entry: ClientSent[frames.Delivered]) -> None:
        self._holds(entry, entry.frame.conversation_id, entry.frame.seq)

    def synced(self, entry: ClientSent[frames.Sync]) -> None:
        for conversation, seq in entry.frame.cursors.items():
            self._holds(entry, conversation, seq)

    def read(self, entry: ClientSent[frames.Read]) -> None:
        user, conversation, seq = self.evidence.users[entry.node], entry.frame.conversation_id, entry.frame.seq
        if seq > self.model.claimed[user, conversation]:
            # else another device may have read to there, and sent the mark to this one
            self._has(entry, conversation, seq)
        self.model.claimed.reach(user, conversation, seq)

    def hidden(self, entry: ClientSent[frames.SetConversation]) -> None:
        frame = entry.frame
        self.model.claimed.reach(self.evidence.users[entry.node], frame.conversation_id, frame.hidden_seq or 0)

    def rejected(self, entry: ClientReceived[frames.Rejected]) -> None:
        if entry.frame.code in (Code.RATE_LIMITED, Code.BUSY):
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
        begin = max(known, model.left_out[key]) + 1
        missing = [n for n in range(begin, seq + 1) if n not in given]
        if any(n > model.age(conversation) or model.may_see(user, conversation, n) for n in missing):
            self.violated("devices_claim_only_what_they_have", f"{entry.node} sent {entry.frame}, but lacks {missing}")
        self._known[key] = seq


class Connections(Check):
    """Checks that a logged-in client sends often enough to keep its connection, and enters a room before it sends
    there.

    Also checks that a gateway sends nothing on a connection that has ended.
    """

    def begin(self) -> None:
        self._longest = min(self.policies.heartbeat, self.policies.heartbeat_timeout / 2)
        self._said: dict[str, float] = {}  # instance -> time of its last frame, since it received the end of its login
        self._wished: dict[str, set[str]] = defaultdict(set)  # instance -> the rooms that its user wants to be in
        # instance -> the rooms that it has entered on this connection
        self._entered: dict[str, set[str]] = defaultdict(set)

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
            if silence > self._longest + _ROUNDING and self.instances[name].key not in self.evidence.skewed_clocks:
                text = f"{name} sent nothing for {silence:.3f} s, until {entry.frame}"
                self.violated("clients_do_not_fall_silent", text)
            self._said[name] = entry.at

    def enters(self, entry: ClientSent[frames.Enter | frames.Leave]) -> None:
        entered = self._entered[entry.node]
        (entered.add if isinstance(entry.frame, frames.Enter) else entered.discard)(entry.frame.name)

    def sends(self, entry: ClientSent[frames.Send]) -> None:
        name, frame = entry.node, entry.frame
        if frame.scene == Scene.CHATROOM and frame.to in self._wished[name] - self._entered[name]:
            self.violated(
                "devices_enter_rooms_before_sending", f"{name} sent {frame.id_client} before it had entered {frame.to}"
            )

    def adrift(self, entry: Adrift[Any]) -> None:
        text = f"{entry.node} had a frame for {entry.peer}, whose connection has ended: {entry.frame}"
        self.violated("ended_connections_receive_nothing", text)
