"""The checks of a session without a server: its timers, and inputs that no correct server sends."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable
from typing import get_args

from imsim.core.model import Scene
from imsim.load.adapters.interface import (
    Closed,
    Connect,
    Connected,
    Disconnected,
    Item,
    Message,
    Out,
    Request,
    Response,
    Session,
)
from imsim.load.conformance.kit import Kit, copied, raised

_ATTEMPTS = 20  # to connect to a server that is not there
_MOST_CALLS = 100  # of `handle_timer` at the same instant
_MUTATIONS = 300  # frames of the server that are changed at random
_FRESH = 12  # inputs for sessions that cannot be copied; each takes a login

_OUTS = tuple(get_args(Out))

_GARBAGE = (
    b"", b"\x00", b"\xff\xfe\xfd", b"\xf0\x00", b"\x20\x7f\x00", bytes(range(256)), b"\r\n", b"HTTP/1.1 200 OK\r\n\r\n",
    b"null", b"true", b"1", b'"text"', b"[]", b"{}", b"{", b"[1", b'{"op":', b'{"op":null}', b'{"type":{}}',
    b'{"id":[]}', b"[" * 5_000, b"1e999", b"9" * 5_000, b'[["a"],{"b":[null]}]', b'42["x",null]', b"42", b"-" * 1_000,
    b"<", b"</>", b"<a xmlns='b'/>", b"<message/>", b"<iq type='result'/>", b"<open xmlns='a'/>", b"<!DOCTYPE a>",
)  # fmt: skip


async def timers(kit: Kit) -> str:
    """The server refuses each connection. The session must try again, in virtual time."""
    session = kit.device("alice").session
    now, attempts, calls = 1000.0, [1000.0], 0
    outs = _step(kit, session.start, now)
    while len(attempts) < _ATTEMPTS:
        items: list[Item] = [
            Disconnected("the kit refused the connection") if isinstance(out, Connect) else Response(out.ref, 0, b"no")
            for out in outs
            if isinstance(out, Connect | Request)
        ]
        if any(isinstance(out, Closed) for out in outs):
            kit.fail(
                "the session closes when it cannot connect",
                "return Offline and connect again; Closed is for a server that refuses the user permanently",
            )
        if items:
            attempts.append(now)
            outs = [out for item in items for out in _input(kit, session, item, now)]
            continue
        deadline = session.next_deadline()
        if deadline is None:
            kit.fail(
                "the session is offline, and next_deadline() is None",
                "set a deadline for the next attempt to connect when the connection is lost or refused",
            )
        calls = calls + 1 if deadline <= now else 0
        if calls > _MOST_CALLS:
            kit.fail(
                f"next_deadline() remains in the past after {_MOST_CALLS} calls of handle_timer()",
                "handle_timer(now) must clear or move each deadline up to now",
            )
        _step(kit, session.handle_timer, now)  # too early, and harmless
        now = max(now, deadline)
        outs = _step(kit, session.handle_timer, now)
    if now - attempts[1] < 0.001 * _ATTEMPTS:
        kit.fail(
            f"{_ATTEMPTS} attempts to connect within {now - attempts[1]:g} s",
            "wait at least about policies.reconnect_min after a failed attempt, longer each time",
        )
    outs = _step(kit, session.stop, now) + _step(kit, session.handle_timer, now + 3600)
    if any(isinstance(out, Connect | Request | bytes) for out in outs):
        kit.fail("a timer acts after `stop`", "cancel the deadlines in `stop`")
    return f"{_ATTEMPTS} failed attempts to connect take {now - 1000:.3g} s"


async def garbage(kit: Kit) -> str:
    """Inputs that no correct server sends, in each state of a session."""
    chosen = random.Random(1)
    changed = [_changed(frame, chosen) for frame in chosen.choices(kit.frames, k=_MUTATIONS)] if kit.frames else []
    inputs: list[Item] = [*_GARBAGE, *changed, Response("?", 200, b"?"), Response("?", 500), Connected("?")]
    if kit.adapter.binary is False:  # a driver passes frames of text on, which are UTF-8
        inputs = [one for one in inputs if not isinstance(one, bytes) or _is_text(one)]
    started = kit.device("alice").session
    outs = _step(kit, started.start, 0.0)
    _give_each(kit, started, inputs, "before the connection")
    if any(isinstance(out, Connect) for out in outs):
        _input(kit, started, Connected(), 0.0)
        _give_each(kit, started, inputs, "before the login")
    async with kit.devices("alice") as (alice,):
        if copied(alice.session) is not None:
            alice.is_mute = True
            _give_each(kit, alice.session, inputs, "after the login")
            return f"{len(inputs)} invalid inputs before the connection, before the login and after it"
    for item in inputs[:: max(1, len(inputs) // _FRESH)]:
        async with kit.devices("alice") as (alice,):
            _give(kit, alice.session, item, alice.now(), "after the login")
            alice.session.stop(alice.now())
    return f"{len(inputs)} invalid inputs before the login, {_FRESH} after it (the session cannot be copied)"


def _give_each(kit: Kit, session: Session, items: list[Item], when: str) -> None:
    """Give each input to a copy of the session; to the session itself, if it cannot be copied."""
    now = asyncio.get_running_loop().time()
    for item in items:
        _give(kit, copied(session) or session, item, now, when)


def _give(kit: Kit, session: Session, item: Item, now: float, when: str) -> None:
    shown = repr(item if not isinstance(item, bytes) or len(item) < 60 else item[:60] + b"...")
    try:
        outs = session.received(item, now)
        outs += session.send(Message("garbage:1", kit.conversation(Scene.P2P, "bob"), "text"), now)
        if (deadline := session.next_deadline()) is not None:
            outs += session.handle_timer(max(now, deadline))
        later = session.handle_timer(now + 3600) if any(isinstance(out, Closed) for out in outs) else []
        outs += session.stop(now + 3600)
    except Exception as error:
        kit.fail(
            f"{raised(error)}, for the input {shown} {when}",
            "catch the errors of parsing in `received`, and return Disconnect and Closed with the reason, or ignore it",
        )
    _check_outs(kit, outs)
    if any(isinstance(out, Connect | Request) for out in later):
        kit.fail(
            f"the session connects again after Closed, for the input {shown} {when}",
            "Closed is final until `start`: cancel the deadlines",
        )


def _step(kit: Kit, step: Callable[[float], list[Out]], now: float) -> list[Out]:
    try:
        outs = step(now)
    except Exception as error:
        kit.fail(raised(error), "a session must not raise")
    _check_outs(kit, outs)
    return outs


def _input(kit: Kit, session: Session, item: Item, now: float) -> list[Out]:
    return _step(kit, lambda now: session.received(item, now), now)


def _check_outs(kit: Kit, outs: list[Out]) -> None:
    if wrong := [out for out in outs if not isinstance(out, _OUTS)]:
        kit.fail(
            f"the session returned {wrong[0]!r:.80}",
            "return a list of bytes, Connect, Disconnect, Request and events",
        )


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _changed(frame: bytes, chosen: random.Random) -> bytes:
    """Return a frame with a random fault: truncated, with changed bytes, or with another value in its JSON."""
    kind = chosen.randrange(3)
    if kind == 0:
        return frame[: chosen.randrange(len(frame) + 1)]
    if kind == 1:
        try:
            return json.dumps(_other(json.loads(frame), chosen)).encode()
        except (ValueError, RecursionError):
            pass
    changed = bytearray(frame)
    for _ in range(chosen.randint(1, 4)):
        if changed:
            changed[chosen.randrange(len(changed))] = chosen.randrange(128)
    return bytes(changed)


def _other(value: object, chosen: random.Random) -> object:
    """Return a JSON value in which one member has another type or is missing."""
    if isinstance(value, dict) and value:
        name = chosen.choice(sorted(value))
        if chosen.random() < 0.3:
            return {key: one for key, one in value.items() if key != name}
        return value | {name: _other(value[name], chosen)}
    if isinstance(value, list) and value and chosen.random() < 0.7:
        at = chosen.randrange(len(value))
        return [*value[:at], _other(value[at], chosen), *value[at + 1 :]]
    return chosen.choice([None, True, -1, 1e308, "", "\x00", [], {}, [[]], {"op": {}}, 10**30])
