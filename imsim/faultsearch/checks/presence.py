"""Those who watch who is there, as the router of each user knows it, and what others are told of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING

from imsim.core import frames, internal_frames
from imsim.core.model import Session, is_chatroom, p2p_id, p2p_members
from imsim.core.policies import Policies
from imsim.faultsearch.model.reference import Ledger
from imsim.faultsearch.model.rules import event_of

if TYPE_CHECKING:
    from imsim.faultsearch.checks.ongoing import Found

_UNASKED = (frames.Push, frames.Notify, frames.State, frames.Resync, frames.Presence, frames.IsTyping)


class Sessions:
    """Nothing is sent unasked to a session that has ended, as far as the user's router has heard; nor to the one that
    has said it."""

    def __init__(self, found: Found) -> None:
        self.of: dict[str, set[Session]] = defaultdict(set)  # by user
        self._found = found
        self._asked: dict[tuple[str, str, str], list[tuple[Session, bool]]] = defaultdict(list)  # who sent it, again?

    def reached_router(self, frame: object) -> None:
        if isinstance(frame, internal_frames.Detach):
            self.of[frame.session.user].discard(frame.session)
        elif isinstance(frame, internal_frames.Up) and isinstance(frame.frame, frames.Send):
            key = (frame.conversation_id, frame.session.user, frame.frame.id_client)
            self._asked[key].append((frame.session, frame.frame.resend))

    def left_router(self, frame: object) -> None:
        if isinstance(frame, internal_frames.Attached) and frame.session is not None:
            self.of[frame.session.user].add(frame.session)
        elif isinstance(frame, internal_frames.Kick):
            self.of[frame.session.user].discard(frame.session)
        elif isinstance(frame, internal_frames.Down) and isinstance(frame.frame, _UNASKED):
            self._unasked(frame)

    def lost(self, owns: Callable[[str], bool], gateway: str | None = None) -> None:
        """The router that owns these was lost; or it has heard that this gateway was."""
        for user, sessions in self.of.items():
            if owns(user):
                self.of[user] = {one for one in sessions if gateway is not None and one.gateway != gateway}

    def _unasked(self, down: internal_frames.Down) -> None:
        frame = down.frame
        if isinstance(frame, frames.Push):
            message = frame.message
            asked = self._asked[message.conversation_id, message.sender, message.id_client]
            if len(asked) == 1 and not asked[0][1] and asked[0][0] in down.sessions:
                self._found.append(("who_says_it_is_not_told", f"{message.id} went to {asked[0][0]}, who had said it"))
            if is_chatroom(message.conversation_id):
                return  # see `Rooms`
        for session in down.sessions:
            if session not in self.of[session.user]:
                text = f"{session} had ended, and was sent {frame}"
                self._found.append(("nothing_goes_to_sessions_that_ended", text))


class Presence:
    """Who is there is told only under the policy, and of users who are; only friends hear it. And across a block nobody
    hears that the other is there, or writes: from when a router has told it to a device of who has blocked the other,
    or the end of a friendship to one of theirs, it knows. Once nothing is lost any more, friends have heard, and last,
    what is so."""

    def __init__(self, ledger: Ledger, policies: Policies, sessions: Sessions, found: Found) -> None:
        self._ledger = ledger
        self._policies = policies
        self._sessions = sessions
        self._found = found
        self._blocked: dict[tuple[str, str], tuple[int, bool]] = {}  # (user, conversation) -> version, as it was told
        self._parted: set[tuple[str, str, int]] = set()  # (user, conversation, seq) of ends of friendships, as told
        self._seen: dict[str, dict[str, bool]] = defaultdict(dict)  # instance -> who is there, since it logged in

    def left_router(self, frame: object) -> None:
        if isinstance(frame, internal_frames.Down):
            for session in frame.sessions:
                self._told(session, frame.frame)
        elif isinstance(frame, internal_frames.PresenceUpdate):
            if isinstance(frame.frame, frames.IsTyping):
                self._hinted(_other(frame.frame.conversation_id, frame.user), frame.user, frame.frame)
            elif frame.frame is not None:
                self._hinted(frame.frame.user, frame.user, frame.frame)
            if frame.asks is not None:
                self._hinted(frame.asks.user, frame.user, None)

    def reached_client(self, instance: str, frame: frames.ToClient) -> None:
        if isinstance(frame, frames.LoggedIn):
            self._seen[instance].clear()
        elif isinstance(frame, frames.Presence):
            self._seen[instance][frame.user] = frame.online

    def at_rest(self, there: dict[str, str]) -> None:
        """These instances are there, of these users, and have been for a while."""
        for instance, user in there.items():
            for friend in self._friends(user):
                if self._seen[instance].get(friend, False) != (friend in there.values()):
                    text = f"{instance} hears of {self._seen[instance]}, and there are {sorted({*there.values()})}"
                    self._tell("friends_hear_who_is_there", text)

    def _friends(self, user: str) -> list[str]:
        """With whom there is no block, either way."""
        ledger, friends = self._ledger, []
        for id, states in ledger.states.items():
            members = p2p_members(id) or ()
            if (
                user in members
                and states[-1].friends
                and not any(ledger.user_state(one, id).blocked for one in members)
            ):
                friends.append(_other(id, user))
        return friends

    def _told(self, session: Session, frame: frames.ToClient) -> None:
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

    def _hinted(self, teller: str, user: str, frame: frames.IsTyping | frames.Presence | None) -> None:
        """The router of one user tells that of another; None: it asks whether the other is there."""
        self._check(teller, user, frame)
        if isinstance(frame, frames.IsTyping):
            return
        conversation = p2p_id(teller, user)
        states, log = self._ledger.states.get(conversation, []), self._ledger.logs.get(conversation, [])
        if not any(state.friends for state in states):
            self._tell("only_friends_hear_who_is_there", f"{user} was never a friend of {teller}: {frame}")
        elif not states[-1].friends:
            last = max((entry.seq for entry in log if event_of(entry) == "friend_delete"), default=0)
            if (teller, conversation, last) in self._parted:
                self._tell("only_friends_hear_who_is_there", f"{user} is no friend of {teller} any more: {frame}")
        if (frame is None or frame.online) and not self._sessions.of[teller]:
            self._tell("who_is_told_to_be_there_is", f"{user} was told that {teller} is there")

    def _check(self, user: str, other: str, frame: frames.IsTyping | frames.Presence | None) -> None:
        """What a router does for a user: tell others, or the user of others."""
        if self._policies.presence != "friends" and not isinstance(frame, frames.IsTyping):
            self._tell("only_friends_hear_who_is_there", f"{user} and {other} hear of each other: {frame}")
        if isinstance(frame, frames.Presence) and not frame.online:
            return  # which is what one who is blocked hears
        conversation = p2p_id(user, other)
        _, blocked = self._blocked.get((user, conversation), (0, False))
        if blocked and self._ledger.user_state(user, conversation).blocked:
            self._tell("nobody_hears_of_who_is_blocked", f"{user} has blocked {other}: {frame}")

    def _tell(self, invariant: str, text: str) -> None:
        self._found.append((invariant, text))


def _other(conversation: str, user: str) -> str:
    """The other user of a p2p conversation."""
    return next((one for one in p2p_members(conversation) or () if one != user), "")
