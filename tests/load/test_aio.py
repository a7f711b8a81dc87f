"""The asyncio driver: devices on real WebSockets."""

from __future__ import annotations

import asyncio
import socket

import pytest
from load.chat import ChatAdapter, ChatSession, running

from imsim.core.exceptions import RunError
from imsim.core.policies import Policies
from imsim.load.adapters import Closed, Connect, Offline, Ready, Request, Response, Target
from imsim.load.aio import Device, devices, is_acked, is_delivered

QUICK = Policies(reconnect_min=0.02, reconnect_max=0.2, login_timeout=2.0)


def target(server, **more) -> Target:
    return Target(server.url, policies=QUICK, **more)


async def test_message_reaches_other_user():
    async with running() as server, devices(ChatAdapter(target(server, namespace="x")), "a", "b") as (a, b):
        id = a.send(b.conversation, "hello")
        await a.wait(is_acked(id))
        delivered = await b.wait(is_delivered(id))
        assert delivered.conversation == b.conversation
        assert (a.user, id) == ("x.a", "x:0")
        assert await b.wait(is_delivered(id)) is delivered, "a later wait finds it, too"


async def test_ids_of_devices_differ():
    async with running() as server, devices(ChatAdapter(target(server)), "a", ("a", "laptop")) as pair:
        assert len({device.send(pair[0].conversation, "x") for device in pair for _ in range(3)}) == 6


async def test_wait_times_out_with_last_event():
    async with running() as server, devices(ChatAdapter(target(server)), "a") as (a,):
        with pytest.raises(RunError, match=r"a/phone: no Acked\('1'\) within 0.05 s; the last event is Ready\(\)"):
            await a.wait(is_acked("1"), 0.05)


async def test_device_reconnects_after_server_closed_connection():
    async with running() as server, devices(ChatAdapter(target(server)), "a") as (a,):
        await server.devices["a", "phone"].close(1012, "restart")
        offline = await a.wait(Offline)
        assert "1012" in offline.reason
        await a.wait(Ready, after=a.events.index(offline))


async def test_missing_server_is_offline():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    adapter = ChatAdapter(Target(f"ws://127.0.0.1:{port}", policies=QUICK))
    async with devices(adapter, "a", online=False) as (a,):
        a.start()
        offline = await a.wait(Offline)
        assert offline.reason == "Connection refused"
        await a.wait(Offline, after=len(a.events))


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "ws://127.0.0.1:99999", "nonsense"])
async def test_wrong_url_is_offline(url):
    async with devices(ChatAdapter(Target(url, policies=QUICK)), "a", online=False) as (a,):
        a.start()
        await a.wait(Offline)


async def test_refusal_is_reported():
    async with running() as server, devices(ChatAdapter(target(server)), "banned", online=False) as (a,):
        a.start()
        assert await a.wait(Closed) == Closed("you are banned")


async def test_stop_closes_connection_without_a_report_and_start_opens_it():
    async with running() as server, devices(ChatAdapter(target(server)), "a", "b") as (a, b):
        a.stop()
        while ("a", "phone") in server.devices:
            await asyncio.sleep(0.001)
        id = b.send(a.conversation, "hello")
        await b.wait(is_acked(id))
        assert a.events == [Ready()]
        a.start()
        assert (await a.wait(is_delivered(id))).synced


async def test_last_frames_before_stop_are_sent():
    class Polite(ChatSession):
        def stop(self, now):
            return [self.frame(op="send", id="bye", scene="p2p", to="b", text="bye"), *super().stop(now)]

    class PoliteAdapter(ChatAdapter):
        made = Polite

    async with running() as server, devices(PoliteAdapter(target(server)), "a", "b") as (a, b):
        a.stop()
        await b.wait(is_delivered("bye"))


async def test_stop_gives_up_opening():
    async def silent(reader, writer):
        await reader.read()
        writer.close()

    async with await asyncio.start_server(silent, "127.0.0.1", 0) as listener:
        url = f"ws://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
        async with devices(ChatAdapter(Target(url)), "a", online=False) as (a,):
            a.start()
            await asyncio.sleep(0)
            a.stop()
            await a.close()
            assert a.events == []


async def test_opening_has_a_timeout():
    class Hasty(ChatSession):
        def start(self, now):
            return [*super().start(now)[:-1], Connect(self.target.url, timeout=0.05)]

    class HastyAdapter(ChatAdapter):
        made = Hasty

    async def silent(reader, writer):
        await reader.read()
        writer.close()

    async with await asyncio.start_server(silent, "127.0.0.1", 0) as listener:
        url = f"ws://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
        async with devices(HastyAdapter(Target(url, policies=QUICK)), "a", online=False) as (a,):
            a.start()
            assert await a.wait(Offline) == Offline("no answer within the timeout")


class Raising(ChatSession):
    def got_ack(self, frame, now):
        raise ZeroDivisionError("oh")


class RaisingAdapter(ChatAdapter):
    made = Raising


async def test_exception_of_session_ends_device_and_wait():
    async with running() as server:
        with pytest.raises(RunError, match=r"a/phone: Raising raised ZeroDivisionError: oh") as raised:
            async with devices(RaisingAdapter(target(server)), "a", "b") as (a, b):
                await a.wait(is_acked(a.send(b.conversation, "x")))
        assert isinstance(raised.value.__cause__, ZeroDivisionError)


async def test_exception_of_session_is_raised_at_the_end():
    async def run(server):
        async with devices(RaisingAdapter(target(server)), "a", "b") as (a, b):
            await b.wait(is_delivered(a.send(b.conversation, "x")))
            while a.error is None:
                await asyncio.sleep(0.001)

    async with running() as server:
        with pytest.raises(RunError, match="ZeroDivisionError"):
            await run(server)


async def test_deadline_that_remains_in_the_past_is_an_error():
    class Spinning(ChatSession):
        def next_deadline(self):
            return 0.0

        def handle_timer(self, now):
            return []

    class SpinningAdapter(ChatAdapter):
        made = Spinning

    async with running() as server:
        with pytest.raises(RunError, match="next_deadline\\(\\) remains in the past"):
            async with devices(SpinningAdapter(target(server)), "a") as (a,):
                await a.wait(Closed)


async def test_device_that_does_not_get_ready_is_an_error():
    async with running() as server:
        with pytest.raises(RunError, match=r"banned/phone: no Ready within 0.2 s; the last event is Closed"):
            async with devices(ChatAdapter(target(server)), "banned", timeout=0.2):
                pass


class Asking(ChatSession):
    answer: Response | None = None
    request = Request("GET", "")

    def start(self, now):
        return [self.request]

    def received(self, item, now):
        self.answer = item
        return [Ready()]


async def answered(request: Request) -> Response:
    class Adapter(ChatAdapter):
        made = type("", (Asking,), {"request": request})

    async with devices(Adapter(Target("")), "a") as (a,):
        assert isinstance(a, Device)
        return a.session.answer


async def http(answer: bytes, **more) -> tuple[Response, bytes]:
    """Make a request to a server that gives this answer. Return the response, and the request that it got."""
    got = b""

    async def handle(reader, writer):
        nonlocal got
        got = await reader.readuntil(b"\r\n\r\n")
        got += await reader.readexactly(len(more.get("body", b"")))
        writer.write(answer)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(handle, "127.0.0.1", 0) as listener:
        url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/path?q=1"
        return await answered(Request(url=url, ref="r", **more)), got


async def test_http_request_is_answered(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    answer = b"HTTP/1.1 403 no\r\nContent-Length: 4\r\n\r\nbody"
    response, got = await http(answer, method="POST", headers=(("X-Y", "z"),), body=b"data")
    assert response == Response("r", 403, b"body")
    assert got.startswith(b"POST /path?q=1 HTTP/1.1\r\n")
    assert b"\r\nX-Y: z\r\n" in got
    assert got.endswith(b"\r\n\r\ndata")


async def test_http_request_without_answer_has_status_0():
    assert await http(b"nonsense\r\n\r\n", method="GET") == (Response("r", 0, b"nonsense\r\n"), ANY)
    assert (await answered(Request("GET", "ftp://host/x"))).status == 0
    assert b"refused" in (await answered(Request("GET", "http://127.0.0.1:1/"))).body


class _Any:
    def __eq__(self, other):
        return True


ANY = _Any()
