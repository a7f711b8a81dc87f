"""Tests of lost and restored storage: devices detect another log, and reset their state."""

from __future__ import annotations

from imsim.core import events

AB = "p2p:alice:bob"


def talk(world, *contents):
    """Start alice and bob, and send one message from alice to bob for each content."""
    alice, bob = world.device("alice").start(), world.device("bob").start()
    for number, content in enumerate(contents, 1):
        alice.send("bob", content, str(number))
    return alice, bob


def restart_with(world, change):
    world.stop_server()
    change()
    world.start_server()
    world.advance(40)


def test_restart_with_the_same_storage_resets_no_device(world):
    alice, bob = talk(world, "one", "two")
    bob.read(AB)
    restart_with(world, lambda: None)
    assert alice.of(events.Reset) == bob.of(events.Reset) == []
    alice.send("bob", "three", "3")
    assert bob.shown == ["one", "two", "three"]


def test_devices_reset_after_the_loss_of_storage(world):
    alice, bob = talk(world, "one", "two", "three")
    bob.read(AB)
    bob.set_conversation(AB, pinned=True)
    restart_with(world, world.lose_storage)
    assert [device.of(events.Reset) for device in (alice, bob)] == [[events.Reset()]] * 2
    assert alice.lines == bob.lines == {}
    alice.send("bob", "new", "4")
    bob.send("alice", "answer", "5")
    assert (bob.shown, alice.shown) == (["one", "two", "three", "new"], ["answer"])
    assert (bob.unread(AB), bob.lines[AB].pinned) == (0, False)  # the answer of bob marked it as read
    assert alice.unread(AB) == 1


def test_devices_show_the_messages_of_a_restored_backup(world):
    alice, bob = talk(world, "one", "two")
    world.stop_server()
    world.back_up()
    world.start_server()
    world.advance(40)
    alice.send("bob", "three", "3")
    alice.send("bob", "four", "4")
    bob.read(AB)
    del bob.events[:]
    restart_with(world, world.restore)
    assert bob.of(events.Reset) == [events.Reset()]
    assert bob.shown == ["one", "two"]
    assert bob.unread(AB) == 2
    alice.send("bob", "another three", "5")
    assert bob.shown == ["one", "two", "another three"]
    assert (bob.unread(AB), bob.lines[AB].last_msg.seq) == (3, 3)


def test_reset_includes_conversations_that_are_longer_than_before(world):
    """A device detects another log only if it is shorter than before. A longer log looks like the same one."""
    alice, bob = talk(world, "one")
    carol = world.device("carol").start()
    world.stop_server()
    world.back_up()
    world.start_server()
    world.advance(40)
    alice.send("bob", "lost", "2")
    carol.send("bob", "lost, too", "3")
    bob.stop()
    restart_with(world, world.restore)
    carol.send("bob", "hello", "4")
    carol.send("bob", "are you there?", "5")
    del bob.events[:]
    bob.start()
    assert sorted(bob.shown) == ["are you there?", "hello", "one"]


def test_setting_lost_with_storage_is_no_longer_shown(world):
    _, bob = talk(world, "one")
    world.stop_server()
    world.back_up()
    world.start_server()
    world.advance(40)
    bob.set_conversation(AB, pinned=True)
    restart_with(world, world.restore)
    assert bob.of(events.Reset) == [events.Reset()]
    assert not bob.lines[AB].pinned
    bob.set_conversation(AB, muted=True)
    assert bob.lines[AB].muted


def test_pending_requests_survive_the_loss_of_storage_except_read_marks(world):
    alice, bob = talk(world, "one", "two", "three")
    world.stop_server()
    bob.send("alice", "waits", "4", run_until_idle=False)  # with a read mark of 3
    bob.read(AB)
    bob.set_conversation(AB, pinned=True, run_until_idle=False)
    world.lose_storage()
    world.start_server()
    bob.stop()
    world.advance(40)
    for number in range(3):
        alice.send("bob", str(number), f"1{number}")
    bob.start()
    world.advance(10)
    assert alice.shown == ["waits"]
    assert (bob.unread(AB), bob.lines[AB].pinned) == (3, True)
