"""Dispatch finds handlers by the type of the entry that they take: its kind, its subject, and the frame inside."""

from __future__ import annotations

from typing import Any

from imsim.core import frames, internal_frames
from imsim.core.model import Session
from imsim.faultsearch.checks import CHECKS
from imsim.faultsearch.dispatch import Dispatcher, Up, handlers_in
from imsim.faultsearch.entries import ClientSent, GatewayForwarded, RouterReceived
from imsim.faultsearch.situations import SITUATIONS

UP = internal_frames.Up(Session("alice", "d0", 1, "gateway0", 1), frames.Read("p2p:alice:bob", 1), "p2p:alice:bob")


class Handlers:
    def any_frame(self, entry: ClientSent[Any]): ...

    def either(self, entry: ClientSent[frames.Read | frames.Ping]): ...

    def carried(self, entry: RouterReceived[Up[frames.Read]] | GatewayForwarded[internal_frames.Up]): ...

    def _not_a_handler(self, entry: ClientSent[Any]): ...

    def not_either(self, what: ClientSent[Any]): ...


DISPATCHER = Dispatcher((trigger, handler.__name__) for trigger, handler in handlers_in(Handlers))


def test_dispatcher_finds_handlers_in_order_by_the_subject_of_an_entry():
    assert DISPATCHER.handlers_of(ClientSent(0.0, "alice/d0", "gateway0", frames.Ping())) == ["any_frame", "either"]
    assert DISPATCHER.handlers_of(ClientSent(0.0, "alice/d0", "gateway0", frames.Pong())) == ["any_frame"]
    assert DISPATCHER.handlers_of(RouterReceived(0.0, "router0", "", UP)) == ["carried"]
    assert DISPATCHER.handlers_of(GatewayForwarded(0.0, "gateway0", "router0", UP)) == ["carried"]
    sync = internal_frames.Up(UP.session, frames.Ping(), "")
    assert DISPATCHER.handlers_of(RouterReceived(0.0, "router0", "", sync)) == []


def test_every_situation_has_a_description():
    assert all(SITUATIONS.values())


def test_every_check_has_a_docstring_and_follows_entries():
    for check in CHECKS:
        assert check.__doc__
        assert list(handlers_in(check))
