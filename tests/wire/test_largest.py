"""Tests that the largest frames allowed by the limits are not larger than the frames that both ends accept."""

from __future__ import annotations

from dataclasses import replace

import pytest

from imsim import wire
from imsim.core import frames, storage
from imsim.core.gateway import validation
from imsim.core.limits import CURSORS
from imsim.core.model import ConversationState, Message, Scene, Session
from imsim.core.policies import Policies
from imsim.core.sizes import largest_from_client, largest_to_client
from imsim.core.storage.memory import MemoryStorage

NAME = "n" * 64
WORST = "\x01"  # a character of one byte that JSON writes with six
P2P = f"p2p:{'m' * 64}:{NAME}"
POLICIES = Policies(content_bytes=2_000, group_size=300, page=30, page_bytes=9_000)


def edit(policies: Policies) -> frames.Send:
    """Return an edit in which each field has its largest size."""
    text = WORST * policies.content_bytes
    padding = "\x7f" * (policies.content_bytes - 200)
    data = {"seq": 10**15, "content": text, "padding": padding}
    file = {"event": "edit", "operator": NAME, "targets": [NAME] * policies.group_size, "data": data}
    return frames.Send(WORST * 128, Scene.P2P, NAME, text, "notification", file, text, True, WORST * 128, 10**15)


def test_largest_frames_of_a_client_are_within_the_limit():
    policies = POLICIES
    largest = edit(policies)
    assert validation.of_send(largest, policies) is None
    assert len(wire.encode(largest)) <= largest_from_client(policies)
    cursors = {f"{P2P[:-8]}{number:08}": 10**15 for number in range(CURSORS)}
    assert len(wire.encode(frames.Sync(cursors, 10**15, 10**15, 10**15))) <= largest_from_client(policies)


@pytest.mark.parametrize("length", [10, 100, 290, 2_000])
def test_largest_frames_of_a_server_are_within_the_limit(length):
    policies, store = POLICIES, MemoryStorage()
    epoch = store.execute(storage.OpenConversation(P2P, ("m" * 64, NAME))).epoch
    one = edit(policies)
    for seq in range(1, 41):
        sent = one if seq == 7 else replace(one, content=WORST * length, type=WORST * 64, file=None, custom=None)
        message = Message(
            P2P, seq, f"{P2P}:{seq}", f"{WORST * 120}{seq:08}", sent.scene, sent.type, "m" * 64, NAME, 10**13,
            sent.content, sent.file, sent.custom, True,
        )  # fmt: skip
        assert isinstance(store.execute(storage.Append(epoch, message, 0)), storage.Appended)
    session = Session(NAME, "d0", 1, "g0", 1)
    cursors = {f"{P2P[:-8]}{number:08}": 10**15 for number in range(CURSORS - 1)}
    states = [ConversationState(P2P, 10**9, 10**15, 10**9, True, True, 10**15, "", 10**15, 10**15, True)] * CURSORS
    cursor, more = 0, True
    while more:
        request = storage.Missed(session, {P2P: cursor}, policies.page, page_bytes=policies.page_bytes)
        page = store.execute(request)
        cursor, more = page.cursors[P2P], page.more
        frame = frames.SyncDone(page.messages, page.cursors | cursors, states, 10**15, 10**15, 10**15)
        assert len(wire.encode(frame)) <= largest_to_client(policies)
