"""Tests of history requests: a user can fetch any range of their conversations, and of no others."""

from __future__ import annotations

from imsim.core import events
from imsim.core.model import Code

AB = "p2p:alice:bob"


def contents(event):
    return [message.content for message in event.messages]


def with_messages(world, count):
    alice, bob = world.device("alice").start(), world.device("bob").start()
    for number in range(1, count + 1):
        (alice if number % 2 else bob).send("bob" if number % 2 else "alice", str(number), str(number))
    return alice, bob


def history(device, first, last, conversation=AB):
    before = len(device.of(events.History))
    device.history(conversation, first, last)
    (event,) = device.of(events.History)[before:]
    return event


def test_history_includes_both_ends_in_the_order_of_seq(world):
    alice, _ = with_messages(world, 6)
    event = history(alice, 2, 4)
    assert (contents(event), event.more) == (["2", "3", "4"], False)
    assert [message.seq for message in event.messages] == [2, 3, 4]


def test_history_beyond_the_log_is_cut_to_the_log(world):
    alice, _ = with_messages(world, 3)
    assert contents(history(alice, -5, 10**12)) == ["1", "2", "3"]
    assert contents(history(alice, 4, 9)) == []
    assert contents(history(alice, 3, 2)) == []


def test_history_larger_than_a_page_starts_with_the_latest_messages(make_world):
    alice, _ = with_messages(make_world(page=2), 5)
    latest = history(alice, 1, 5)
    assert (contents(latest), latest.more) == (["4", "5"], True)
    middle = history(alice, 1, latest.messages[0].seq - 1)
    assert (contents(middle), middle.more) == (["2", "3"], True)
    assert contents(history(alice, 1, 1)) == ["1"]


def test_history_neither_shows_messages_again_nor_marks_them_as_read(world):
    alice, bob = with_messages(world, 3)
    unread, shown = bob.unread(AB), list(bob.shown)
    repeated = len(bob.of(events.Repeated))
    history(bob, 1, 3)
    assert (bob.unread(AB), bob.shown, len(bob.of(events.Repeated))) == (unread, shown, repeated)
    alice.send("bob", "more", "9")
    assert bob.shown[-1] == "more"


def test_history_survives_a_restart_of_the_server(world):
    alice, _ = with_messages(world, 3)
    world.restart_server()
    world.advance(40)
    assert contents(history(alice, 1, 3)) == ["1", "2", "3"]


def test_history_requested_offline_is_answered_after_the_login(world):
    alice, _ = with_messages(world, 2)
    alice.stop()
    alice.history(AB, 1, 2)
    assert alice.of(events.History) == []
    alice.start()
    assert contents(alice.of(events.History)[-1]) == ["1", "2"]


def test_client_repeats_the_request_after_a_lost_page(world):
    alice, _ = with_messages(world, 2)
    alice.lose_next("history_page")
    alice.history(AB, 1, 2)
    assert alice.of(events.History) == []
    world.advance(6)
    assert [contents(event) for event in alice.of(events.History)] == [["1", "2"]]


def test_history_of_foreign_or_unknown_conversations_is_rejected(world):
    with_messages(world, 2)
    carol = world.device("carol").start()
    for conversation in (AB, "group:none", "nonsense"):
        carol.history(conversation, 1, 2)
    assert [(event.request, event.code) for event in carol.of(events.RequestFailed)] == [
        ("history", Code.NO_CONVERSATION)
    ] * 3
    assert carol.of(events.History) == []


LARGE = "x" * 50


def test_page_size_does_not_change_the_result(make_world):
    """Pages of one message serve the login sync, the fetch of a gap, and history requests."""
    seen = []
    for limits in ({}, {"page_bytes": 60}):
        world = make_world(**limits)
        alice, bob = with_messages(world, 2)
        for number in (3, 4):
            alice.send("bob", f"{number} {LARGE}", str(number))
        bob.stop()
        for number in range(5, 9):
            alice.send("bob", f"{number} {LARGE}", str(number))
        for number, to in enumerate(("carol", "dave"), 9):
            alice.send(to, "hello", str(number))
            alice.set_conversation(f"p2p:alice:{to}", custom=f"{number} {LARGE}")
        bob.start()
        late = world.device("bob", "d1").start()
        other = world.device("alice", "d1").start()
        pages = [history(bob, 1, 8)]
        while pages[-1].more:
            pages.append(history(bob, 1, pages[-1].messages[0].seq - 1))
        whole = [content for page in reversed(pages) for content in contents(page)]
        assert len(pages) == (6 if limits else 1)  # without the limit, the first three fit into one page
        states = [(line.custom, line.unread, line.last_msg.content) for line in other.lines.values()]
        seen.append((bob.shown, late.shown, other.shown, whole, bob.unread(AB), states))
    assert seen[0] == seen[1]


def test_client_fetches_a_gap_of_several_pages_without_a_wait_for_each(make_world):
    world = make_world(page_bytes=10, gap_wait=3.0)
    alice, bob = world.device("alice").start(), world.device("bob").start()
    bob.lose(lambda frame: frame.op in ("push", "notify"))
    for number in range(1, 7):
        alice.send("bob", f"{number} {LARGE}", str(number))
    bob.lose_nothing()
    alice.send("bob", f"7 {LARGE}", "7")
    world.advance(3.5)
    assert [content[0] for content in bob.shown] == list("1234567")
