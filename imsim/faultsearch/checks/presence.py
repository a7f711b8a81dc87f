"""Presence: which sessions the router of each user knows, and what other users hear of it."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from imsim.core import frames, internal_frames
from imsim.core.model import Session, is_chatroom, p2p_id, p2p_members
from imsim.faultsearch.checks.check import Check
from imsim.faultsearch.dispatch import on
from imsim.faultsearch.entries import (
    ClientReceived,
    Crashed,
    GatewayLost,
    Present,
    RouterReceived,
    RouterSent,
)
from imsim.faultsearch.model.rules import event_of

_UNASKED = frames.Push | frames.Notify | frames.State | frames.Resync | frames.Presence | frames.IsTyping


class Sessions(Check):
    """Nothing is sent unasked to a session that has ended, as far as the user's router has heard; nor a message to the
    session that has sent it. In the end every session has a connection."""

    def begin(self) -> None:
        self.of: dict[str, set[Session]] = defaultdict(set)  # by user
        #: (conversation, sender, idClient) -> the sessions that sent it, and whether they said that it was a repetition
        self._asked: dict[tuple[str, str, str], list[tuple[Session, bool]]] = defaultdict(list)

    @on(RouterReceived, internal_frames.Detach)
    def detached(self, entry: RouterReceived[internal_frames.Detach]) -> None:
        self.of[entry.frame.session.user].discard(entry.frame.session)

    @on(RouterReceived, internal_frames.Up, frames.Send)
    def asked(self, entry: RouterReceived[internal_frames.Up]) -> None:
        up, frame = entry.frame, entry.frame.frame
        assert isinstance(frame, frames.Send)
        self._asked[up.conversation_id, up.session.user, frame.id_client].append((up.session, frame.resend))

    @on(RouterSent, internal_frames.Attached)
    def attached(self, entry: RouterSent[internal_frames.Attached]) -> None:
        if entry.frame.session is not None:
            self.of[entry.frame.session.user].add(entry.frame.session)

    @on(RouterSent, internal_frames.Kick)
    def kicked(self, entry: RouterSent[internal_frames.Kick]) -> None:
        self.of[entry.frame.session.user].discard(entry.frame.session)

    @on(Crashed)
    def crashed(self, entry: Crashed) -> None:
        for user in self.of:
            if self.world.router_of(user).name == entry.node:
                self.of[user] = set()

    @on(GatewayLost)
    def gateway_lost(self, entry: GatewayLost) -> None:
        for user, sessions in self.of.items():
            if self.world.router_of(user).name == entry.node:
                self.of[user] = {one for one in sessions if one.gateway != entry.peer}

    def finish(self) -> None:
        for sessions in self.of.values():
            for session in sorted(sessions):
                if session.connection not in self.world.gateways[session.gateway].connections:
                    text = f"{session.user}/{session.device} is online without a connection, as {session}"
                    self.violated("sessions_end_with_their_connections", text)

    @on(RouterSent, internal_frames.Down, _UNASKED)
    def unasked(self, entry: RouterSent[internal_frames.Down]) -> None:
        down, frame = entry.frame, entry.frame.frame
        if isinstance(frame, frames.Push):
            message = frame.message
            asked = self._asked[message.conversation_id, message.sender, message.id_client]
            if len(asked) == 1 and not asked[0][1] and asked[0][0] in down.sessions:
                self.violated("senders_get_no_echo", f"{message.id} went to {asked[0][0]}, which had sent it")
            if is_chatroom(message.conversation_id):
                return  # see `Rooms`
        for session in down.sessions:
            if session not in self.of[session.user]:
                text = f"{session} had ended, and was sent {frame}"
                self.violated("nothing_goes_to_sessions_that_ended", text)


class Presence(Check):
    """Users hear who is there only under the policy, only what is so, and only of friends. Across a block nobody hears
    that the other is there, or writes: a router knows of a block from when it has sent it to a device of the user, and
    so of the end of a friendship. At quiescence friends have heard, last, what is so."""

    def begin(self) -> None:
        self._blocked: dict[tuple[str, str], tuple[int, bool]] = {}  # (user, conversation) -> version, as it was sent
        self._parted: set[tuple[str, str, int]] = set()  # (user, conversation, seq) of ends of friendships, as sent
        self._seen: dict[str, dict[str, bool]] = defaultdict(dict)  # instance -> who is there, since it logged in

    @on(RouterSent, internal_frames.Down, frames.State | frames.Push | frames.IsTyping | frames.Presence)
    def down(self, entry: RouterSent[internal_frames.Down]) -> None:
        for session in entry.frame.sessions:
            self._sent(session, entry.frame.frame)

    @on(RouterSent, internal_frames.PresenceUpdate)
    def updated(self, entry: RouterSent[internal_frames.PresenceUpdate]) -> None:
        frame = entry.frame
        if isinstance(frame.frame, frames.IsTyping):
            self._updated(_other(frame.frame.conversation_id, frame.user), frame.user, frame.frame)
        elif frame.frame is not None:
            self._updated(frame.frame.user, frame.user, frame.frame)
        if frame.asked_by is not None:
            self._updated(frame.asked_by.user, frame.user, None)

    @on(ClientReceived, frames.LoggedIn)
    def logged_in(self, entry: ClientReceived[frames.LoggedIn]) -> None:
        self._seen[entry.node].clear()

    @on(ClientReceived, frames.Presence)
    def heard(self, entry: ClientReceived[frames.Presence]) -> None:
        self._seen[entry.node][entry.frame.user] = entry.frame.online

    @on(Present)
    def present(self, entry: Present) -> None:
        there = {name: self.evidence.users[name] for name in entry.instances}
        for instance, user in there.items():
            for friend in self._friends(user):
                if self._seen[instance].get(friend, False) != (friend in there.values()):
                    text = f"{instance} hears of {self._seen[instance]}, and there are {sorted({*there.values()})}"
                    self.violated("friends_hear_who_is_there", text)

    def _friends(self, user: str) -> list[str]:
        """Those without a block, either way."""
        model, friends = self.model, []
        for id, states in model.states.items():
            members = p2p_members(id) or ()
            if user in members and states[-1].friends and not any(model.user_state(one, id).blocked for one in members):
                friends.append(_other(id, user))
        return friends

    def _sent(self, session: Session, frame: Any) -> None:
        user = session.user
        if isinstance(frame, frames.State):
            state, key = frame.state, (user, frame.state.conversation_id)
            self._blocked[key] = max(self._blocked.get(key, (0, False)), (state.version, state.blocked))
        elif isinstance(frame, frames.Push) and event_of(frame.message) == "friend_delete":
            self._parted.add((user, frame.message.conversation_id, frame.message.seq))
        elif isinstance(frame, frames.IsTyping):
            self._check(user, _other(frame.conversation_id, user), frame)
        elif isinstance(frame, frames.Presence):
            self._check(user, frame.user, frame)

    def _updated(self, source: str, user: str, frame: frames.IsTyping | frames.Presence | None) -> None:
        """The router of one user notifies that of another; None: it asks whether the other is there."""
        self._check(source, user, frame)
        if isinstance(frame, frames.IsTyping):
            return
        conversation = p2p_id(source, user)
        states, log = self.model.states.get(conversation, []), self.model.logs.get(conversation, [])
        if not any(state.friends for state in states):
            self.violated("only_friends_hear_who_is_there", f"{user} was never a friend of {source}: {frame}")
        elif not states[-1].friends:
            last = max((entry.seq for entry in log if event_of(entry) == "friend_delete"), default=0)
            if (source, conversation, last) in self._parted:
                self.violated("only_friends_hear_who_is_there", f"{user} is not a friend of {source} any more: {frame}")
        if (frame is None or frame.online) and not self.other(Sessions).of[source]:
            self.violated("users_are_there_when_it_is_said", f"{user} was notified that {source} is there")

    def _check(self, user: str, other: str, frame: frames.IsTyping | frames.Presence | None) -> None:
        """What a router sends on behalf of a user, or to a user."""
        if self.policies.presence != "friends" and not isinstance(frame, frames.IsTyping):
            self.violated("only_friends_hear_who_is_there", f"{user} and {other} hear of each other: {frame}")
        if isinstance(frame, frames.Presence) and not frame.online:
            return  # as a blocked user hears it
        conversation = p2p_id(user, other)
        _, blocked = self._blocked.get((user, conversation), (0, False))
        if blocked and self.model.user_state(user, conversation).blocked:
            self.violated("nothing_is_heard_across_blocks", f"{user} has blocked {other}: {frame}")


def _other(conversation: str, user: str) -> str:
    """The other user of a p2p conversation."""
    return next((one for one in p2p_members(conversation) or () if one != user), "")
