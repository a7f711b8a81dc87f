"""Situations of sessions: logins, what ends them, presence."""

from __future__ import annotations

from collections import Counter

from imsim.core import events, frames, internal_frames, storage
from imsim.core.model import Code
from imsim.faultsearch.dispatch import on
from imsim.faultsearch.entries import Asked, ClientReceived, Event, Revoked, RouterReceived, RouterSent, Stored
from imsim.faultsearch.situations.situation import End, Situations, has_code, occurs, situation

_ENDED = (ClientReceived | Event, frames.Refused | events.Disconnected | events.Ended)
_SENT = (RouterReceived, internal_frames.Up, frames.Send)
_REVOKED_BEFORE_LOGIN = "a login with a token from before a revocation"

Up = RouterReceived[internal_frames.Up]
Attached = RouterSent[internal_frames.Attached]
Kick = RouterSent[internal_frames.Kick]


class Sessions(Situations):
    def begin(self) -> None:
        self.epochs: dict[tuple[str, str, str], int] = {}  # (router, user, device) -> the latest
        self.slots: dict[tuple[str, str, str], tuple[int, str]] = {}  # (router, user, slot) -> latest epoch, its device
        self.opening: Counter[str] = Counter()  # by user, requests that storage has not answered
        self.revocations: Counter[tuple[str, float]] = Counter()

    kicked = has_code(Code.REPLACED, "a device heard that it had logged in elsewhere", *_ENDED)
    slow_reader_cut_off = has_code(Code.SLOW_READER, "too many pushes were unacknowledged", *_ENDED)
    heartbeat_missed = has_code(Code.HEARTBEAT, "a silent peer was given up", *_ENDED)
    login_timed_out = has_code(Code.LOGIN_TIMEOUT, "a login was not answered in time", *_ENDED)
    user_unavailable = has_code(Code.UNAVAILABLE, "a login was refused because storage did not answer", *_ENDED)

    @situation("a token was not taken", *_ENDED)
    def login_refused(self, entry: ClientReceived[frames.Refused]) -> bool:
        return entry.subject.code in (Code.BAD_TOKEN, Code.TOKEN_EXPIRED)

    @situation("a frame arrived of a session that another login had ended", *_SENT)
    def stale_session(self, entry: Up) -> bool:
        session = entry.frame.session
        return session.epoch < self.epochs.get((entry.node, session.user, session.device), 0)

    @situation("a send arrived of a session that another device of its slot had ended", *_SENT)
    def slot_of_a_stale_session(self, entry: Up) -> bool:
        session = entry.frame.session
        now = (session.epoch, session.device)
        latest = self.slots.get((entry.node, session.user, session.slot), now)
        return latest > now and latest[1] != now[1]

    @situation(_REVOKED_BEFORE_LOGIN, RouterSent, internal_frames.Attached)
    def old_token_refused(self, entry: Attached) -> bool:
        return entry.frame.code == Code.TOKEN_REVOKED

    @situation("a login came after a later one of the same instance", RouterSent, internal_frames.Attached)
    def late_login_refused(self, entry: Attached) -> bool:
        return entry.frame.code == Code.REPLACED

    @situation("a session was ended because its user's tokens were revoked", RouterSent, internal_frames.Kick)
    def revoked(self, entry: Kick) -> bool:
        return entry.frame.code == Code.TOKEN_REVOKED

    @situation("a device was ended because another one of its slot had logged in", RouterSent, internal_frames.Kick)
    def slot_taken(self, entry: Kick) -> bool:
        return self._login(entry) is not None and entry.frame.code == Code.KICKED

    @situation("the login that ended a session came over another gateway", RouterSent, internal_frames.Kick)
    def kicked_across_gateways(self, entry: Kick) -> bool:
        login = self._login(entry)
        return login is not None and login.gateway != entry.peer

    @situation("a device was logged out by another", RouterSent, internal_frames.Kick)
    def session_ended_by_hand(self, entry: Kick) -> bool:
        latest = self.memory.latest.get(entry.node)
        by_hand = isinstance(latest, internal_frames.Up) and isinstance(latest.frame, frames.EndSession)
        return by_hand and self._login(entry) is None and entry.frame.code == Code.KICKED

    def _login(self, entry: Kick) -> internal_frames.Attach | None:
        """The login of the same user that has just come, if one has."""
        latest = self.memory.latest.get(entry.node)
        if isinstance(latest, internal_frames.Attach) and latest.user == entry.frame.session.user:
            return latest
        return None

    @situation("tokens were revoked while a login waited for storage", Revoked)
    def revoked_while_opening(self, entry: Revoked) -> bool:
        return self.opening[entry.node] > 0

    @situation("storage was asked again to record that a user's tokens are void", Asked, storage.RevokeTokens)
    def revocation_repeated(self, entry: Asked[storage.RevokeTokens]) -> bool:
        return self.revocations[entry.request.user, entry.request.before] > 0

    friend_came_or_went = occurs("a device heard that a friend came or went", Event, events.Presence)

    @situation("a run without a fault", End)
    def nothing_went_wrong(self, entry: End) -> bool:
        return not entry.faults

    # --- what they remember ---

    @on(*_SENT)
    def sent(self, entry: Up) -> None:
        session = entry.frame.session
        device, slot = (entry.node, session.user, session.device), (entry.node, session.user, session.slot)
        self.epochs[device] = max(session.epoch, self.epochs.get(device, 0))
        now = (session.epoch, session.device)
        self.slots[slot] = max(self.slots.get(slot, now), now)

    @on(Asked, storage.OpenUser)
    def opens(self, entry: Asked[storage.OpenUser]) -> None:
        self.opening[entry.request.user] += 1

    @on(Stored, storage.OpenUser)
    def opened(self, entry: Stored[storage.OpenUser]) -> None:
        self.opening[entry.request.user] -= 1

    @on(Asked, storage.RevokeTokens)
    def revokes(self, entry: Asked[storage.RevokeTokens]) -> None:
        self.revocations[entry.request.user, entry.request.before] += 1
