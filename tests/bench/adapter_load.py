"""A generator of the benchmark of adapters, in a process of its own: pairs of users, each with one message under way.

    python adapter_load.py CORE imsim|bare ADAPTER URL USERS [FILE]

FILE is the description of the server for the adapter `websocket`.

`imsim` drives sessions of the adapter with the devices of the load test. `bare` is a minimal client, written by hand
with `websockets` and asyncio. Each line on the standard input is a number of seconds to chat. The answer is a line with
the count of delivered messages and the CPU seconds of this process. The first line of the output means that all users
are online. The process ends with its input.
"""

from __future__ import annotations

import asyncio
import base64
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Protocol
from xml.sax.saxutils import escape

CONTENT = "See you at the station at half past six, I will bring the books. "
KEY = "secret"  # of the servers that want one
PATIENCE = 20.0  # seconds for the logins, and for the last messages


def name(number: int) -> str:
    return f"bench.u{number:04}"


# --- a session of the adapter, on gevent ----------------------------------------------------------------------------


class Imsim:
    """The users of the load test, without its recording."""

    def __init__(self, adapter: str, url: str, users: int, file: str = "") -> None:
        import gevent

        from imsim.core.model import Scene
        from imsim.load.adapters import Conversation, Delivered, Message, Ready, Target, find
        from imsim.load.device import Device

        self._gevent = gevent
        self.delivered = self.sent = 0
        self._is_on = False
        ready = 0

        def report(device: Device, event: Any, at: float) -> None:
            nonlocal ready
            kind = type(event)
            if kind is Delivered:
                self.delivered += 1
                if self._is_on:
                    send(device)
            elif kind is Ready:
                ready += 1

        def send(device: Device) -> None:
            self.sent += 1
            message = Message(f"bench:{self.sent}", partners[device.number], CONTENT)
            device.do(lambda now: device.session.send(message, now))

        def crash(error: BaseException | None) -> None:
            os._exit(repr(error))

        made = find(adapter)(Target(url, KEY, "bench", options={"file": file} if file else {}))
        partners = [Conversation(Scene.P2P, name(number ^ 1)) for number in range(users)]
        self._devices = [Device(number, name(number), "d0", made, report, crash) for number in range(users)]
        self._send = send
        for device in self._devices:
            device.start()
        self._wait(lambda: ready == users)

    def chat(self, seconds: float) -> None:
        self._is_on = True
        for device in self._devices[::2]:
            self._send(device)
        self._gevent.sleep(seconds)
        self._is_on = False
        self._wait(lambda: self.delivered == self.sent)

    def _wait(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < end, "no answer"
            self._gevent.sleep(0.005)


# --- minimal clients, on asyncio ------------------------------------------------------------------------------------


class Client(Protocol):
    """The protocol of one user, as simple as possible.

    `login` yields the frames of the login; after each one, it receives the next frame of the server.
    """

    subprotocol: str | None
    path: str = ""  # behind the url

    def __init__(self, user: str, partner: str) -> None: ...

    def login(self) -> Iterator[bytes | str]: ...

    def message(self, number: int) -> bytes | str | list[str]:
        """Return the frame of a message to the partner, or its frames."""

    def received(self, frame: Any) -> tuple[bytes | str, int]:
        """Return the answer, if any, and the count of messages in the frame."""


class Mqtt:
    """MQTT 5 with QoS 1."""

    subprotocol = "mqtt"
    path = ""

    def __init__(self, user: str, partner: str) -> None:
        self._user, self._topic = user, f"bench/u/{partner}"
        self._last_id = 0
        self._unanswered: dict[int, str] = {}
        self._rest = b""

    def login(self) -> Iterator[bytes]:
        import mqtt5

        self._mqtt5 = mqtt5
        yield mqtt5.ConnectPacket(self._user, clean_start=True, keep_alive=30).write()
        yield mqtt5.SubscribePacket(1, [mqtt5.TopicFilter(f"bench/u/{self._user}")]).write()

    def message(self, number: int) -> bytes:
        self._last_id = id = self._last_id % 0xFFFF + 1
        self._unanswered[id] = text = f"bench:{number} {CONTENT[len(str(number)) + 7 :]}"
        packet = self._mqtt5.PublishPacket(self._topic, text.encode(), qos=self._mqtt5.QoS.AT_LEAST_ONCE, packet_id=id)
        return packet.write()

    def received(self, frame: bytes) -> tuple[bytes, int]:
        data = memoryview(self._rest + frame)
        answer, count = b"", 0
        while data:
            try:
                packet, length = self._mqtt5.read(data)
            except IndexError:
                break
            data = data[length:]
            if isinstance(packet, self._mqtt5.PublishPacket):
                packet.payload.decode().partition(" ")  # its id
                answer += self._mqtt5.PubAckPacket(packet.packet_id).write()
                count += 1
            elif isinstance(packet, self._mqtt5.PubAckPacket):
                del self._unanswered[packet.packet_id]
        self._rest = bytes(data)
        return answer, count


class WebSocket:
    """The chat server of docs/websocket-adapter.md."""

    subprotocol = None
    path = ""

    def __init__(self, user: str, partner: str) -> None:
        self._user, self._partner = user, partner
        self._unanswered: set[str] = set()

    def login(self) -> Iterator[str]:
        import msgspec

        self._decode, self._encode = msgspec.json.Decoder().decode, msgspec.json.Encoder().encode
        yield self._encode({"type": "login", "user": self._user, "password": KEY}).decode()

    def message(self, number: int) -> str:
        id = f"bench:{number}"
        self._unanswered.add(id)
        return self._encode({"type": "chat", "id": id, "to": self._partner, "text": CONTENT}).decode()

    def received(self, frame: str) -> tuple[str, int]:
        document = self._decode(frame)
        if document["type"] == "chat":
            assert document["id"]
            return "", 1
        self._unanswered.discard(document["id"])
        return "", 0


class SocketIO:
    """The chat server of docs/websocket-adapter.md on Socket.IO."""

    subprotocol = None
    path = "/socket.io/?EIO=4&transport=websocket"

    def __init__(self, user: str, partner: str) -> None:
        self._user, self._partner = user, partner
        self._unanswered: dict[int, str] = {}
        self._n = 0

    def login(self) -> Iterator[str]:
        import msgspec

        self._decode, self._encode = msgspec.json.Decoder().decode, msgspec.json.Encoder().encode
        yield ""  # the server sends the first frame
        yield "40" + self._encode({"user": self._user, "key": KEY}).decode()

    def message(self, number: int) -> str:
        self._n += 1
        self._unanswered[self._n] = id = f"bench:{number}"
        return f"42{self._n}" + self._encode(["message", {"id": id, "to": self._partner, "text": CONTENT}]).decode()

    def received(self, frame: str) -> tuple[str, int]:
        if frame[:2] == "42":
            _, data = self._decode(frame[2:])
            assert data["id"]
            return "", 1
        if frame[:2] == "43":
            start = frame.index("[")
            assert self._decode(frame[start:])[0]["ok"]
            del self._unanswered[int(frame[2:start])]
            return "", 0
        return "3" if frame == "2" else "", 0


class Xmpp:
    """XMPP with stream management: each message requests an ack."""

    subprotocol = "xmpp"
    path = ""
    _OPEN = "<open xmlns='urn:ietf:params:xml:ns:xmpp-framing' to='localhost' version='1.0'/>"

    def __init__(self, user: str, partner: str) -> None:
        self._user, self._partner = user, partner
        self._handled = self._acknowledged = 0
        self._unacknowledged: deque[str] = deque()

    def login(self) -> Iterator[str]:
        from xml.etree.ElementTree import fromstring

        self._parse = fromstring
        iq = "<iq xmlns='jabber:client' type='set' id='login'>"
        credentials = f"<username>{self._user}</username><password>{KEY}</password>"
        plain = base64.b64encode(f"\0{self._user}\0{KEY}".encode()).decode()
        yield self._OPEN
        yield ""  # the features
        yield f"{iq}<query xmlns='jabber:iq:register'>{credentials}</query></iq>"
        yield f"<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>{plain}</auth>"
        yield self._OPEN
        yield ""
        yield f"{iq}<bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><resource>d0</resource></bind></iq>"
        yield "<enable xmlns='urn:xmpp:sm:3' resume='true'/>"
        yield "<presence xmlns='jabber:client'/>"
        self._handled += 1  # the presence, which the server sends back
        self._unacknowledged.append("")

    def message(self, number: int) -> list[str]:
        self._unacknowledged.append(f"bench:{number}")
        text = escape(CONTENT)
        return [
            f"<message xmlns='jabber:client' type='chat' id='bench:{number}' to='{self._partner}@localhost'>"
            f"<body>{text}</body></message>",
            "<r xmlns='urn:xmpp:sm:3'/>",
        ]

    def received(self, frame: str) -> tuple[str, int]:
        element = self._parse(frame)
        if element.tag == "{jabber:client}message":
            self._handled += 1
            element.get("id")
            return "", element.find("{jabber:client}body") is not None
        if element.tag == "{urn:xmpp:sm:3}a":
            h = int(element.get("h"))
            for _ in range(h - self._acknowledged):
                self._unacknowledged.popleft()
            self._acknowledged = h
        elif element.tag == "{urn:xmpp:sm:3}r":
            return f"<a xmlns='urn:xmpp:sm:3' h='{self._handled}'/>", 0
        return "", 0


CLIENTS: dict[str, type[Client]] = {"mqtt": Mqtt, "xmpp": Xmpp, "websocket": WebSocket, "socketio": SocketIO}


class Bare:
    """The minimal clients of all users."""

    def __init__(self, adapter: str, url: str, users: int, file: str = "") -> None:
        self.delivered = self.sent = 0
        self._is_on = False
        self._loop = asyncio.new_event_loop()
        kind = CLIENTS[adapter]
        names = [f"bare-{name(number)}" for number in range(users)]  # the other generator loads the same server
        self._clients = [kind(names[number], names[number ^ 1]) for number in range(users)]
        self._sockets = self._loop.run_until_complete(self._login(url))
        self._tasks = [
            self._loop.create_task(self._read(client, socket))
            for client, socket in zip(self._clients, self._sockets, strict=True)
        ]

    async def _login(self, url: str) -> list[Any]:
        from websockets.asyncio.client import connect

        sockets = []
        for client in self._clients:
            subprotocols: Any = [client.subprotocol] if client.subprotocol else None
            socket = await connect(
                url + client.path, subprotocols=subprotocols, compression=None, ping_interval=None, proxy=None
            )
            for frame in client.login():
                if frame:
                    await socket.send(frame)
                await socket.recv()
            sockets.append(socket)
        return sockets

    async def _read(self, client: Client, socket: Any) -> None:
        async for frame in socket:
            answer, count = client.received(frame)
            if answer:
                await socket.send(answer)
            self.delivered += count
            for _ in range(count if self._is_on else 0):
                await self._send(client, socket)

    async def _send(self, client: Client, socket: Any) -> None:
        self.sent += 1
        frames = client.message(self.sent)
        for frame in frames if isinstance(frames, list) else [frames]:
            await socket.send(frame)

    def chat(self, seconds: float) -> None:
        self._loop.run_until_complete(asyncio.wait_for(self._chat(seconds), seconds + PATIENCE))

    async def _chat(self, seconds: float) -> None:
        self._is_on = True
        for client, socket in list(zip(self._clients, self._sockets, strict=True))[::2]:
            await self._send(client, socket)
        await asyncio.sleep(seconds)
        self._is_on = False
        while self.delivered < self.sent:
            await asyncio.sleep(0.005)


def main(core: str, kind: str, adapter: str, url: str, users: str, *file: str) -> None:
    os.sched_setaffinity(0, {int(core)})
    load = {"imsim": Imsim, "bare": Bare}[kind](adapter, url, int(users), *file)
    print("online", flush=True)
    for line in sys.stdin:
        before = load.delivered, time.process_time()
        load.chat(float(line))
        print(load.delivered - before[0], time.process_time() - before[1], flush=True)
    os._exit(0)  # without a logout: the server stops anyway


if __name__ == "__main__":
    main(*sys.argv[1:])
