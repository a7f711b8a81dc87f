"""What a message carries besides its text: it arrives as it was sent, or it is refused and the field named."""

from __future__ import annotations

import pytest

from imsim.core import events
from imsim.core.model import Code, MessageType, Scene

RECORDING = {"url": "https://x/y", "duration": 12.25, "size": 9_000, "format": "mp3"}
FILES = {
    "text": None,
    "image": {"url": "https://x/ü.png", "width": 640, "height": 480, "size": 20_000},
    "audio": RECORDING,
    "video": {**RECORDING, "format": "mp4", "cover": {"url": "https://x/z", "of": [1, None, True]}},
    "file": {"url": "https://x/y.pdf", "size": 2**53 - 1, "format": "pdf"},
    "geo": {"title": "Café 😀", "longitude": -0.1278, "latitude": 51},
    "notification": {"event": "renamed", "operator": "alice", "targets": ["bob"], "data": {"name": "team"}},
    "custom": None,
}


def send(device, type, file=None, *, to="bob", id_client="1", custom=None):
    content = f"a {type}"
    device.act(
        lambda now: device.machine.send(Scene.P2P, to, content, id_client, now, type=type, file=file, custom=custom)
    )


@pytest.fixture
def pair(world):
    return world.device("alice").start(), world.device("bob").start()


def test_every_type_arrives_as_it_was_sent(world, pair):
    alice, bob = pair
    assert set(FILES) == set(map(str, MessageType))
    for number, (type, file) in enumerate(FILES.items(), 1):
        send(alice, type, file, id_client=str(number))
    world.run_until_idle()
    got = [event.message for event in bob.of(events.Shown)]
    assert [(message.type, message.file) for message in got] == list(FILES.items())
    assert [message.content for message in got] == [f"a {type}" for type in FILES]
    assert alice.of(events.SendFailed) == []


def test_a_late_device_gets_the_same_by_sync(world, pair):
    alice, _ = pair
    for number, (type, file) in enumerate(FILES.items(), 1):
        send(alice, type, file, id_client=str(number))
    world.run_until_idle()
    world.restart_server()
    late = world.device("bob", "d1").start()
    world.advance(40)
    assert [(event.message.type, event.message.file) for event in late.of(events.Shown)] == list(FILES.items())


@pytest.mark.parametrize("type", ["custom", "image"])
def test_custom_is_carried_untouched(world, pair, type):
    alice, bob = pair
    custom = '{"card" : {"id":1.50, "to":"\\u00fc"} } no JSON at all'
    send(alice, type, FILES[type], custom=custom)
    world.run_until_idle()
    (shown,) = bob.of(events.Shown)
    assert (shown.message.type, shown.message.custom, shown.message.content) == (type, custom, f"a {type}")


@pytest.mark.parametrize("file", [None, {}, {"pack": "cats", "n": [1, {"deep": None}]}])
def test_an_unknown_type_is_carried_and_shown_as_such(world, pair, file):
    alice, bob = pair
    send(alice, "sticker", file)
    world.run_until_idle()
    (shown,) = bob.of(events.Shown)
    assert (shown.message.type, shown.message.file) == ("sticker", file)
    assert bob.unread("p2p:alice:bob") == 1


@pytest.mark.parametrize(
    ("type", "file", "field"),
    [
        ("image", None, "file"),
        ("text", {"url": "x"}, "file"),
        ("image", {**FILES["image"], "width": "x"}, "file.width"),
        ("notification", {**FILES["notification"], "targets": "bob"}, "file.targets"),
    ],
)
def test_a_bad_attachment_is_refused_by_its_field_and_the_next_message_arrives(world, pair, type, file, field):
    alice, bob = pair
    send(alice, type, file, id_client="1")
    alice.send("bob", "and text", "2")  # at once, so it names the first as its predecessor
    world.advance(6)
    (failed,) = alice.of(events.SendFailed)
    assert (failed.id_client, failed.code) == ("1", Code.BAD_REQUEST)
    assert failed.text.startswith(f"{field}: ")
    assert alice.seqs == {"2": 1}
    assert bob.shown == ["and text"]


@pytest.mark.parametrize(
    ("deepest", "says"),
    [
        ([[[1]]], ""),
        (1e999, "file: JSON has neither infinity nor NaN"),
        ("[" * 40, "file: nested too deep: lists and objects have at most 32 levels"),
        ("[" * 3_000, "file: nested too deep: lists and objects have at most 32 levels"),
    ],
    ids=["fits", "infinite", "deep", "deeper than any reader"],
)
def test_an_attachment_that_json_cannot_carry_is_refused_and_the_conversation_goes_on(world, pair, deepest, says):
    alice, bob = pair
    if isinstance(deepest, str):
        levels, deepest = len(deepest), []
        for _ in range(levels):
            deepest = [deepest]
    send(alice, "sticker", {"a": deepest}, id_client="1")
    alice.send("bob", "and text", "2")
    world.advance(6)
    assert [event.text for event in alice.of(events.SendFailed)] == ([says] if says else [])
    late = world.device("bob", "d1").start()
    assert late.machine.state == "online"
    assert bob.shown == ["a sticker", "and text"][bool(says) :] == late.shown
