"""Internal frames: their ops, their charges, and their slots."""

from __future__ import annotations

from typing import get_args

from core.builders import AB, message, send, session

from imsim.core import frames, internal_frames

CARRIERS = (internal_frames.Up, internal_frames.Down)
FRAMES = (*get_args(internal_frames.ToRouter), *get_args(internal_frames.ToGateway))


def test_each_internal_frame_has_an_op_of_its_own():
    """Service times are configured by op."""
    ops = [frame.op for frame in FRAMES if frame not in CARRIERS]
    assert len(ops) == len(set(ops))
    assert not frames.GATEWAY_OPS & set(ops)


def test_a_carrier_frame_is_charged_as_the_frame_that_it_carries():
    assert internal_frames.Up(session(), send("1"), "c").op == "send"
    assert internal_frames.Up(session(), frames.Read("c", 1), "").op == "read"
    assert internal_frames.Down((), frames.Pong()).op == "pong"


def test_a_frame_for_a_router_names_its_conversation_message_and_users():
    up = internal_frames.Up
    assert up(session(), send("1"), "c").charged == ("c", "1", ())
    assert up(session(), frames.Enter("lounge"), "chatroom:lounge").charged == ("chatroom:lounge", "", ())
    assert up(session(), frames.Read("c", 1), "").charged == (None, "", ())
    assert internal_frames.Deliver(("ann", "bob"), message(7)).charged == (AB, "i7", ("ann", "bob"))
    assert internal_frames.Opened(("ann", "bob"), AB, 7).charged == (None, "", ()), "one charge for all users"


def test_service_times_can_be_charged_for_every_frame_that_reaches_a_router():
    asked = {frame.op for frame in get_args(frames.Asked)}
    others = {"send", "sync", "delivered", "typing", "attach", "detach", "deliver", "opened", "peer_moved"}
    assert asked | others | {"presence_update", "revoke"} == internal_frames.ROUTER_OPS


def test_frames_have_slots():
    """Like the frames of the protocol, they have slots."""
    for frame in FRAMES:
        assert "__dict__" not in dir(frame)
