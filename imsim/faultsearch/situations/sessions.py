"""Situations of sessions: logins, the ends of sessions, and presence."""

from __future__ import annotations

from imsim.core import events, frames, internal_frames, storage
from imsim.core.model import Code
from imsim.faultsearch.dispatch import Up
from imsim.faultsearch.entries import Asked, ClientReceived, Event, Revoked, RouterReceived, RouterSent
from imsim.faultsearch.situations.memory import Memory
from imsim.faultsearch.situations.situation import End, Situation, has_code, occurs, when

SendArrived = RouterReceived[Up[frames.Send]]
Kick = RouterSent[internal_frames.Kick]
_ENDED = (
    ClientReceived[frames.Refused | events.Disconnected | events.Ended]
    | Event[frames.Refused | events.Disconnected | events.Ended]
)


def _slot_is_stale(entry: SendArrived, past: Memory) -> bool:
    session = entry.frame.session
    now = (session.epoch, session.device)
    latest = past.slots.get((entry.node, session.user, session.slot), now)
    return latest > now and latest[1] != now[1]


def _login(entry: Kick, past: Memory) -> internal_frames.Attach | None:
    """Return the login of the same user that its router has just received, if there is one."""
    latest = past.latest.get(entry.node)
    if isinstance(latest, internal_frames.Attach) and latest.user == entry.frame.session.user:
        return latest
    return None


def _crosses_gateways(entry: Kick, past: Memory) -> bool:
    login = _login(entry, past)
    return login is not None and login.gateway != entry.peer


def _is_by_hand(entry: Kick, past: Memory) -> bool:
    latest = past.latest.get(entry.node)
    by_hand = isinstance(latest, internal_frames.Up) and isinstance(latest.frame, frames.EndSession)
    return by_hand and _login(entry, past) is None and entry.frame.code == Code.KICKED


def _login_refused(name: str, code: Code, description: str) -> Situation:
    return has_code(name, code, RouterSent[internal_frames.Attached], description)


SITUATIONS = (
    has_code("kicked", Code.REPLACED, _ENDED, "a device was notified that it had logged in elsewhere"),
    has_code("slow reader cut off", Code.SLOW_READER, _ENDED, "a device had too many unacknowledged pushes"),
    has_code("heartbeat missed", Code.HEARTBEAT, _ENDED, "a connection to a silent peer was closed"),
    has_code("login timed out", Code.LOGIN_TIMEOUT, _ENDED, "a login was not answered in time"),
    has_code("user unavailable", Code.UNAVAILABLE, _ENDED, "a login was refused because storage did not answer"),
    Situation("login refused", _ENDED, "a login was refused because of its token",
              lambda entry, past: entry.subject.code in (Code.BAD_TOKEN, Code.TOKEN_EXPIRED)),
    when("stale session", SendArrived, "a send of a session arrived after a later login had ended that session",
         lambda entry, past: entry.frame.session.epoch
         < past.epochs.get((entry.node, entry.frame.session.user, entry.frame.session.device), 0)),
    when("slot of a stale session", SendArrived, "a send of a session arrived after another device had taken its slot",
         _slot_is_stale),
    _login_refused("old token refused", Code.TOKEN_REVOKED, "a login with a revoked token was refused"),
    _login_refused("late login refused", Code.REPLACED, "a login arrived after a later one of the same instance"),
    has_code("revoked", Code.TOKEN_REVOKED, Kick, "a session was ended because its user's tokens were revoked"),
    when("slot taken", Kick, "a session was ended because another device of its slot had logged in",
         lambda entry, past: _login(entry, past) is not None and entry.frame.code == Code.KICKED),
    when("kicked across gateways", Kick, "a login ended a session on another gateway", _crosses_gateways),
    when("session ended by hand", Kick, "a device logged out another device of its user", _is_by_hand),
    when("revoked while opening", Revoked, "tokens were revoked while a login waited for storage",
         lambda entry, past: past.opening[entry.node] > 0),
    when("revocation repeated", Asked[storage.RevokeTokens],
         "a router repeated its request to storage to revoke a user's tokens",
         lambda entry, past: past.revocations[entry.request.user, entry.request.before] > 0),
    occurs("friend presence changed", Event[events.Presence], "a device was notified that a friend came or went"),
    when("run without faults", End, "a run had no faults", lambda entry, past: not entry.faults),
)  # fmt: skip
