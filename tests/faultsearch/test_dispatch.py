"""Handlers are found by the kind of an entry, its subject, and the frame that the subject carries."""

from __future__ import annotations

from imsim.core import frames, internal_frames
from imsim.core.model import Session
from imsim.faultsearch.checks import CHECKS
from imsim.faultsearch.dispatch import Dispatcher, on
from imsim.faultsearch.entries import ClientSent, GatewayForwarded, RouterReceived
from imsim.faultsearch.situations import SITUATIONS

UP = internal_frames.Up(Session("alice", "d0", 1, "gateway0", 1), frames.Read("p2p:alice:bob", 1), "p2p:alice:bob")


@on(ClientSent)
def any_frame(entry): ...


@on(ClientSent, frames.Read | frames.Ping)
def either(entry): ...


@on(RouterReceived, internal_frames.Up, frames.Read)
@on(GatewayForwarded, internal_frames.Up)
def carried(entry): ...


DISPATCHER = Dispatcher((trigger, f.__name__) for f in (any_frame, either, carried) for trigger in f.triggers)


def test_handlers_are_found_in_their_order_by_what_an_entry_is_about():
    assert DISPATCHER.handlers_of(ClientSent(0.0, "alice/d0", "gateway0", frames.Ping())) == ["any_frame", "either"]
    assert DISPATCHER.handlers_of(ClientSent(0.0, "alice/d0", "gateway0", frames.Pong())) == ["any_frame"]
    assert DISPATCHER.handlers_of(RouterReceived(0.0, "router0", "", UP)) == ["carried"]
    assert DISPATCHER.handlers_of(GatewayForwarded(0.0, "gateway0", "router0", UP)) == ["carried"]
    sync = internal_frames.Up(UP.session, frames.Ping(), "")
    assert DISPATCHER.handlers_of(RouterReceived(0.0, "router0", "", sync)) == []


def test_every_situation_says_what_it_means():
    assert all(SITUATIONS.values())


def test_every_check_follows_something_and_says_what_it_is():
    for check in CHECKS:
        assert check.__doc__
        assert any(hasattr(method, "triggers") for method in vars(check).values())
