"""The MQTT adapter against a real Mosquitto."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from load.servers import Server, mosquitto

from imsim.core.model import Scene
from imsim.core.policies import Policies
from imsim.load.adapters import Closed, Conversation, Delivered, Feature, Joined, Offline, Ready, Sent, Target
from imsim.load.adapters.mqtt import MqttAdapter
from imsim.load.aio import Device, devices, is_acked, is_delivered


@pytest.fixture(scope="module")
def broker(tmp_path_factory) -> Iterator[Server]:
    with mosquitto(tmp_path_factory.mktemp("mosquitto")) as server:
        yield server


def adapter(server: Server, namespace: str, key: str = "", policies: Policies | None = None, **options: str):
    """Return an adapter for the broker. Each test has a namespace of its own."""
    return MqttAdapter(Target(f"ws://127.0.0.1:{server.port}", key, namespace, policies or Policies(), options))


async def deliver(sender: Device, conversation: Conversation, *recipients: Device) -> str:
    """Send a message, and wait until it is acknowledged and delivered. Return its id."""
    id = sender.send(conversation, "Hello")
    if Feature.ACK in sender.adapter.features:
        await sender.wait(is_acked(id))
    for recipient in recipients:
        await recipient.wait(is_delivered(id))
    return id


def deliveries(device: Device) -> list[str]:
    return [event.id for event in device.events if isinstance(event, Delivered)]


@pytest.mark.parametrize("qos", ["0", "1"])
async def test_message_reaches_all_other_devices_of_both_users(broker, qos):
    users = [("alice", "phone"), ("alice", "pad"), ("bob", "phone"), ("bob", "pad"), ("carol", "phone")]
    async with devices(adapter(broker, f"two{qos}", qos=qos), *users) as (alice, alice_pad, bob, bob_pad, carol):
        one = await deliver(alice, bob.conversation, alice_pad, bob, bob_pad)
        other = await deliver(bob_pad, alice.conversation, alice, alice_pad, bob)
        last = await deliver(alice, carol.conversation, carol, alice_pad)
        assert deliveries(alice) == [other]
        assert deliveries(bob_pad) == [one]
        assert deliveries(alice_pad) == [one, other, last]
        assert deliveries(carol) == [last]
        assert Delivered(one, bob.conversation) in alice_pad.events


@pytest.mark.parametrize("scene", [Scene.GROUP, Scene.CHATROOM])
async def test_message_reaches_members_of_group(broker, scene):
    room = Conversation(scene, "room")
    users = [("alice", "phone"), ("alice", "pad"), ("bob", "phone"), ("carol", "phone")]
    async with devices(adapter(broker, f"in-{scene}"), *users) as (alice, pad, bob, carol):
        for device in (alice, pad, bob):
            device.join(room, ["alice", "bob"], device is alice)
            assert await device.wait(Joined) == Joined(room)
        id = await deliver(alice, room, pad, bob)
        last = await deliver(bob, carol.conversation, carol)
        assert deliveries(carol) == [last]
        assert deliveries(alice) == []
        assert Delivered(id, room) in bob.events


async def test_offline_device_receives_missed_messages(broker):
    async with devices(adapter(broker, "away"), "alice", "bob") as (alice, bob):
        first = await deliver(alice, bob.conversation, bob)
        bob.stop()
        missed = [alice.send(bob.conversation, f"Message {number}") for number in range(50)]  # more than fit in flight
        await alice.wait(is_acked(missed[-1]))
        bob.start()
        await bob.wait(is_delivered(missed[-1]))
        assert deliveries(bob) == [first, *missed]


async def test_wrong_password_is_final(tmp_path):
    with mosquitto(tmp_path, users={"x.alice": "secret"}) as server:
        async with devices(adapter(server, "x", key="secret"), "alice"):
            pass
        async with devices(adapter(server, "x", key="wrong"), "alice", online=False) as (alice,):
            alice.start()
            assert await alice.wait(Closed) == Closed("the broker refused the login: not authorized")


async def test_session_outlives_crash_of_broker(tmp_path):
    policies = Policies(reconnect_min=0.05, reconnect_max=0.2)
    with mosquitto(tmp_path) as server:
        async with devices(adapter(server, "crash", policies=policies), "alice", "bob") as (alice, bob):
            group = Conversation(Scene.GROUP, "team")
            for device in (alice, bob):
                device.join(group, ["alice", "bob"], device is alice)
                await device.wait(Joined)
            await deliver(alice, bob.conversation, bob)
            before = len(alice.events), len(bob.events)
            await asyncio.to_thread(server.kill)
            await alice.wait(Offline, after=before[0])
            sent = alice.send(bob.conversation, "while the broker is down")
            await asyncio.to_thread(server.start)
            await alice.wait(Ready, after=before[0])
            await bob.wait(Ready, after=before[1])
            await alice.wait(is_acked(sent))
            await bob.wait(is_delivered(sent))
            await deliver(bob, group, alice)


async def test_overdue_message_is_resent_after_pause_of_broker(tmp_path):
    policies = Policies(send_timeout=0.3, reconnect_min=0.05, reconnect_max=0.2, login_timeout=0.5)
    with mosquitto(tmp_path) as server:
        async with devices(adapter(server, "slow", policies=policies), "alice", "bob") as (alice, bob):
            await deliver(alice, bob.conversation, bob)
            before = len(alice.events)
            server.pause()
            id = alice.send(bob.conversation, "to a broker that does not answer")
            assert await alice.wait(Offline, after=before) == Offline("the broker was silent after a message")
            server.resume()
            await alice.wait(is_acked(id))
            await bob.wait(is_delivered(id))
            assert Sent(id) in alice.events
