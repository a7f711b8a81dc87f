"""Frames: their ops, their refs, and their slots."""

from __future__ import annotations

from typing import get_args

from core.builders import send

from imsim.core import frames, storage

CLIENT = get_args(frames.FromClient)
SERVER = get_args(frames.ToClient)


def test_every_frame_of_the_wire_has_an_op_of_its_own():
    ops = [frame.op for frame in (*CLIENT, *SERVER)]
    assert len(ops) == len(set(ops))


def test_service_times_can_be_charged_for_every_frame_of_the_wire():
    assert {frame.op for frame in (*CLIENT, *SERVER)} == frames.GATEWAY_OPS


def test_a_request_names_the_ref_and_number_of_its_answer():
    """The number matters for requests that a newer one can replace."""
    for frame, expected in (
        (frames.Read("c", 3, 5), ("c", 5)),
        (frames.SetConversation("c", number=6), ("c", 6)),
        (frames.History("c", 2, 9), ("c:2-9", 0)),
        (frames.ReadCount("c", 4), ("c:4", 0)),
        (frames.Group("group:g", number=3), ("group:g:", 3)),
        (frames.Group("group:g", "bob"), ("group:g:bob", 0)),
        (frames.Friends("bob"), ("bob", 0)),
        (frames.Enter("lounge"), ("lounge", 0)),
        (frames.Leave("lounge"), ("lounge", 0)),
        (frames.Typing("c"), ("c", 0)),
        (frames.EndSession("d1"), ("d1", 0)),
        (frames.Sync({"c": 1}, number=7), ("", 7)),
        (frames.Delivered("c", 1), ("c", 0)),
        (send("1"), ("1", 0)),
    ):
        assert (frame.ref, frame.number) == expected


def test_frames_have_slots():
    """With slots, a misspelled attribute is an error, and a frame stays small."""
    for frame in (*CLIENT, *SERVER):
        assert "__dict__" not in dir(frame)


def test_every_storage_request_has_an_op_of_its_own():
    requests = get_args(storage.Request)
    assert {request.op for request in requests} | {"inbox"} == storage.STORAGE_OPS
    assert len({request.op for request in requests}) == len(requests)
