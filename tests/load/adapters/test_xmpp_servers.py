"""The XMPP adapter against Prosody and ejabberd, which the tests start."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from itertools import count

import pytest
from load.servers import Server, ejabberd, prosody

from imsim.core.model import Code, Scene
from imsim.core.policies import Policies
from imsim.load.adapters import (
    Acked,
    Closed,
    Conversation,
    Delivered,
    Failed,
    Joined,
    NotJoined,
    Offline,
    Read,
    Ready,
    Sent,
    Target,
)
from imsim.load.adapters.xmpp import XmppAdapter
from imsim.load.aio import Device, devices, is_acked, is_delivered
from imsim.load.conformance import POLICIES, Outcome, check
from imsim.load.conformance.kit import Tap

SERVERS = {"prosody": (prosody, "/xmpp-websocket"), "ejabberd": (ejabberd, "/ws")}
RUNS = count(1)
QUICK = Policies(reconnect_min=0.05, reconnect_max=0.5)


class Peer:
    """A real server under test.

    attempts: how often a check may be tried. If a message is on its way to a WebSocket that breaks, ejabberd 23.01 at
        times does not answer the resumption for seconds, and then drops the session with its messages.
    """

    def __init__(self, server: Server, path: str) -> None:
        self.attempts = 3 if path == SERVERS["ejabberd"][1] else 1
        self.url = f"ws://127.0.0.1:{server.port}{path}"

    def adapter(self, key: str = "secret", policies: Policies = QUICK, **options: str) -> XmppAdapter:
        """Return an adapter with a namespace of its own."""
        options = {"domain": "localhost", **options}
        return XmppAdapter(Target(self.url, key, f"Run{next(RUNS)}", policies=policies, options=options))


@pytest.fixture(scope="session", params=SERVERS)
def peer(request) -> Iterator[Peer]:
    start, path = SERVERS[request.param]
    with start() as server:
        yield Peer(server, path)


def group(one: XmppAdapter, scene: Scene = Scene.GROUP) -> Conversation:
    return Conversation(scene, f"{one.target.namespace}.Team")


async def join(conversation: Conversation, *members: Device) -> None:
    for number, device in enumerate(members):
        device.join(conversation, [one.user for one in members], number == 0)
        assert await device.wait(
            lambda e: isinstance(e, Joined | NotJoined) and e.conversation == conversation
        ) == Joined(conversation)


def deliveries(device: Device) -> list[str]:
    return [event.id for event in device.events if isinstance(event, Delivered)]


async def test_server_delivers_p2p_messages_to_all_devices(peer):
    async with devices(peer.adapter(), "a", ("a", "laptop"), "b", ("b", "laptop")) as (a, a2, b, b2):
        id = a.send(b.conversation, "hello <b>&'\" é")
        await a.wait(is_acked(id))
        for device in (a2, b, b2):
            assert await device.wait(is_delivered(id)) == Delivered(id, b.conversation)
        end = b.send(a.conversation, "end")
        for device in (a, a2, b2):
            await device.wait(is_delivered(end))
        assert deliveries(a) == [end]
        assert deliveries(a2) == deliveries(b2) == [id, end]


@pytest.mark.parametrize("scene", [Scene.GROUP, Scene.CHATROOM])
async def test_server_delivers_group_messages(peer, scene):
    one = peer.adapter()
    async with devices(one, "a", ("a", "laptop"), "b") as (a, a2, b):
        await join(group(one, scene), a, a2, b)
        ids = [a.send(group(one, scene), "hello") for _ in range(5)]
        for id in ids:
            await a.wait(is_acked(id))
        for device in (a2, b):
            await device.wait(is_delivered(ids[-1]))
            assert deliveries(device) == ids
            assert {event.conversation for event in device.events if isinstance(event, Delivered)} == {
                group(one, scene)
            }
        assert deliveries(a) == []


async def test_late_member_receives_no_history(peer):
    one = peer.adapter()
    async with devices(one, "a", "b") as (a, b):
        await join(group(one), a)
        old = a.send(group(one), "old")
        await a.wait(is_acked(old))
        await join(group(one), b)
        id = a.send(group(one), "new")
        await b.wait(is_delivered(id))
        assert deliveries(b) == [id]


async def test_receipts_acknowledge_messages(peer):
    one = peer.adapter(acks="receipts")
    async with devices(one, "a", "b", ("b", "laptop")) as (a, b, b2):
        await join(group(one), a, b, b2)
        for conversation in (b.conversation, group(one)):
            id = a.send(conversation, "hello")
            await a.wait(is_acked(id))
        end = b.send(a.conversation, "end")
        await b.wait(is_acked(end))
        await a.wait(is_delivered(end))
        assert sum(isinstance(event, Acked) for event in a.events) == 2, "one for each message"


async def test_lost_connection_is_resumed_by_server(peer):
    one = peer.adapter()
    async with devices(one, "a") as (a,):
        b = Tap(one, 1, f"{one.target.namespace}.b", "phone")
        try:
            b.start()
            await b.wait(Ready)
            await join(group(one), a, b)
            seen = len(b.events)
            b.is_deaf = b.is_mute = True
            missed = [a.send(conversation, "hello") for conversation in (b.conversation, group(one))]
            lost = b.send(a.conversation, "hello")
            while not all(any(id.encode() in frame for frame in b.received) for id in missed):
                await asyncio.sleep(0.01)  # the frames reach the machine of the device, and not the device
            b.is_deaf = b.is_mute = False
            b.cut()
            await b.wait(Ready, after=seen)
            for id in missed:
                await b.wait(is_delivered(id))
            await b.wait(is_acked(lost))
            await a.wait(is_delivered(lost))
            assert Sent(lost) in b.events
            assert deliveries(b) == missed
            assert not any(isinstance(event, Joined) for event in b.events[seen:])
        finally:
            await b.close()


async def test_messages_wait_in_offline_storage(peer):
    async with devices(peer.adapter(), "a", "b") as (a, b):
        seen = len(b.events)
        b.stop()
        gone = a.send(b.conversation, "while b goes")
        await a.wait(is_acked(gone))
        b.start()
        await b.wait(Ready, after=seen)
        assert (await b.wait(is_delivered(gone))).id == gone


async def test_archives_bring_what_was_missed(peer):
    one = peer.adapter(resume="archive")
    async with devices(one, "a", ("a", "laptop"), "b", ("b", "laptop")) as (a, a2, b, b2):
        await join(group(one), a, a2, b, b2)
        first = [a.send(conversation, "first") for conversation in (b.conversation, group(one))]
        for device in (a2, b, b2):
            for id in first:
                await device.wait(is_delivered(id))
        await b.close()
        await a2.close()
        missed = [a.send(conversation, "missed") for conversation in (b.conversation, group(one)) for _ in range(3)]
        for id in missed:
            await b2.wait(is_delivered(id))
        for device in (b, a2):
            seen = len(device.events)
            device.start()
            await device.wait(Ready, after=seen)
            for id in missed:
                assert (await device.wait(is_delivered(id))).synced
            end = a.send(device.conversation if device is b else b.conversation, "end")
            await device.wait(is_delivered(end))
            assert deliveries(device).count(missed[0]) == 1
            assert sorted(deliveries(device)) == sorted({*deliveries(device)})


async def test_reads_reach_server(peer):
    async with devices(peer.adapter(reads="markers"), "a", "b") as (a, b):
        id = a.send(b.conversation, "hello")
        await b.wait(is_delivered(id))
        b.read(a.conversation, id)
        await b.wait(lambda event: event == Read(id))


async def test_message_to_unknown_user_fails(peer):
    async with devices(peer.adapter(), "a") as (a,):
        id = a.send(Conversation(Scene.P2P, "nobody"), "hello")
        failed = await a.wait(lambda event: isinstance(event, Failed))
        assert (failed.id, failed.code) == (id, Code.UNAVAILABLE)


async def test_message_to_foreign_group_fails(peer):
    one = peer.adapter()
    async with devices(one, "a", "b") as (a, b):
        await join(group(one), a)
        id = b.send(group(one), "let me in")
        failed = await b.wait(lambda event: isinstance(event, Failed))
        assert (failed.id, failed.code) == (id, Code.NOT_MEMBER)


async def test_wrong_password_is_final(peer):
    one = peer.adapter()
    async with devices(one, "a"):
        pass
    other = XmppAdapter(Target(peer.url, "other", one.target.namespace, options={"domain": "localhost"}))
    async with devices(other, "a", online=False) as (a,):
        a.start()
        assert "another password" in (await a.wait(Closed)).reason


async def test_second_login_of_a_device_ends_the_first(peer):
    one = peer.adapter()
    async with devices(one, "a") as (first,), devices(one, "a") as (second,):
        assert "stream error conflict" in (await first.wait(Closed)).reason
        assert second.events == [Ready()]


async def test_unknown_domain_is_final(peer):
    async with devices(peer.adapter(domain="elsewhere.example"), "a", online=False) as (a,):
        a.start()
        assert "host-unknown" in (await a.wait(Closed)).reason


def test_adapter_passes_the_conformance_kit(peer):
    options = {"domain": "localhost", "resume": "archive", "reads": "markers"}
    target = Target(peer.url, policies=replace(POLICIES, login_timeout=1.5), options=options)
    failed: list[str] = []
    for _ in range(peer.attempts):
        report = check(XmppAdapter, target, only=failed)
        failed = [result.name for result in report.results if result.outcome is Outcome.FAILED]
        if not failed:
            return
    pytest.fail("\n".join(f"{result.name}: {result.detail}" for result in report.results))


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        (
            "prosody",
            ["registration_throttle_max = 1", "registration_throttle_period = 3600", "registration_allowlist = {}"],
        ),
        ("ejabberd", ["registration_timeout: 3600"]),
    ],
)
async def test_throttled_registration_names_the_setting(name, lines):
    start, path = SERVERS[name]
    with start(*lines) as server:
        async with devices(Peer(server, path).adapter(), "a", "b", online=False) as (a, b):
            a.start()
            await a.wait(Ready)
            b.start()
            assert "limits the registration of accounts" in (await b.wait(Closed)).reason


async def test_scram_logs_in_to_prosody():
    lines = ['disable_sasl_mechanisms = { "PLAIN" }']
    with prosody(*lines) as server:
        async with devices(Peer(server, "/xmpp-websocket").adapter(), "a", "b") as (a, b):
            await b.wait(is_delivered(a.send(b.conversation, "hello")))


async def test_restarted_server_is_used_again():
    with prosody() as server:
        one = Peer(server, "/xmpp-websocket").adapter()
        async with devices(one, "a", "b") as (a, b):
            await join(group(one), a, b)
            seen = len(a.events), len(b.events)
            server.kill()
            await a.wait(Offline)
            id = a.send(group(one), "hello")
            server.start()
            await a.wait(Ready, after=seen[0])
            await b.wait(Ready, after=seen[1])
            await a.wait(is_acked(id))
