"""Tests of attachments: each arrives unchanged, or is rejected with an error that names the field."""

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


def test_message_of_every_type_arrives_unchanged(world, pair):
    alice, bob = pair
    assert set(FILES) == set(map(str, MessageType))
    for number, (type, file) in enumerate(FILES.items(), 1):
        send(alice, type, file, id_client=str(number))
    world.run_until_idle()
    got = [event.message for event in bob.of(events.Shown)]
    assert [(message.type, message.file) for message in got] == list(FILES.items())
    assert [message.content for message in got] == [f"a {type}" for type in FILES]
    assert alice.of(events.SendFailed) == []


def test_late_device_receives_attachments_by_sync(world, pair):
    alice, _ = pair
    for number, (type, file) in enumerate(FILES.items(), 1):
        send(alice, type, file, id_client=str(number))
    world.run_until_idle()
    world.restart_server()
    late = world.device("bob", "d1").start()
    world.advance(40)
    assert [(event.message.type, event.message.file) for event in late.of(events.Shown)] == list(FILES.items())


@pytest.mark.parametrize("type", ["custom", "image"])
def test_custom_arrives_unchanged(world, pair, type):
    alice, bob = pair
    custom = '{"card" : {"id":1.50, "to":"\\u00fc"} } not JSON'
    send(alice, type, FILES[type], custom=custom)
    world.run_until_idle()
    (shown,) = bob.of(events.Shown)
    assert (shown.message.type, shown.message.custom, shown.message.content) == (type, custom, f"a {type}")


@pytest.mark.parametrize("file", [None, {}, {"pack": "cats", "n": [1, {"deep": None}]}])
def test_message_of_an_unknown_type_arrives_unchanged(world, pair, file):
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
def test_invalid_attachment_is_rejected_with_its_field_and_the_next_message_arrives(world, pair, type, file, field):
    alice, bob = pair
    send(alice, type, file, id_client="1")
    alice.send("bob", "and text", "2")  # at once, so that its `after` names the first message
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
        (1e999, "file: "),
        ("[" * 40, "file: "),
        ("[" * 3_000, "file: "),
    ],
    ids=["fits", "infinite", "deep", "deeper than any reader"],
)
def test_attachment_that_json_cannot_represent_is_rejected_and_the_next_message_arrives(world, pair, deepest, says):
    alice, bob = pair
    if isinstance(deepest, str):
        levels, deepest = len(deepest), []
        for _ in range(levels):
            deepest = [deepest]
    send(alice, "sticker", {"a": deepest}, id_client="1")
    alice.send("bob", "and text", "2")
    world.advance(6)
    failures = [event.text for event in alice.of(events.SendFailed)]
    assert len(failures) == bool(says)
    assert all(text.startswith(says) for text in failures)
    late = world.device("bob", "d1").start()
    assert late.machine.state == "online"
    assert bob.shown == ["a sticker", "and text"][bool(says) :] == late.shown
