"""A small chat server that offers every feature of an adapter, and its adapter. Both are for tests.

The server speaks JSON over WebSocket. Each user has a log of the messages to the user, and a device names the last
message that it knows when it logs in.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, ClassVar

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from imsim.core.model import Scene
from imsim.load.adapters import (
    Acked,
    Adapter,
    Closed,
    Connect,
    Connected,
    Conversation,
    Delivered,
    Disconnect,
    Disconnected,
    Failed,
    Feature,
    Item,
    Joined,
    Message,
    NotJoined,
    Offline,
    Out,
    Read,
    Ready,
    Request,
    Response,
    Session,
    Target,
)


class ChatServer:
    """The server. `url` is its address."""

    url = ""

    def __init__(self) -> None:
        self.devices: dict[tuple[str, str], ServerConnection] = {}  # (user, device) -> its connection
        self.logs: dict[str, list[dict[str, Any]]] = {}  # user -> the messages to the user's devices
        self.accepted: set[str] = set()  # the ids of all messages
        self.groups: dict[tuple[str, str], list[str]] = {}
        self.rooms: dict[tuple[str, str], set[tuple[str, str]]] = {}  # -> the devices in the chatroom
        self.logins = 0

    async def handle(self, socket: ServerConnection) -> None:
        with suppress(ConnectionClosed):
            await self.serve(socket)

    async def serve(self, socket: ServerConnection) -> None:
        login = json.loads(await socket.recv())
        me = (login["user"], login["device"])
        self.logins += 1
        if login["user"].endswith("banned"):
            await self.put(socket, op="refused", reason="you are banned")
            return
        self.devices[me] = socket
        await self.put(socket, op="ready")
        for entry in self.logs.get(me[0], [])[login["since"] :]:
            if entry["device"] != me[1] or entry["from"] != me[0]:
                await self.put(socket, **entry, synced=True)
        try:
            async for text in socket:
                await getattr(self, f"do_{json.loads(text)['op']}")(me, socket, json.loads(text))
        finally:
            if self.devices.get(me) is socket:
                del self.devices[me]
            for inside in self.rooms.values():
                inside.discard(me)

    async def put(self, socket: ServerConnection, **frame: Any) -> None:
        with suppress(ConnectionClosed):
            await socket.send(json.dumps(frame))

    async def do_send(self, me: tuple[str, str], socket: ServerConnection, frame: dict[str, Any]) -> None:
        scene, to, id = frame["scene"], frame["to"], frame["id"]
        if id not in self.accepted:
            self.accepted.add(id)
            entry = {"op": "message", "id": id, "scene": scene, "to": to, "from": me[0], "device": me[1]}
            if scene == "chatroom":
                for one in self.rooms.get((scene, to), set()) - {me}:
                    await self.put(self.devices[one], **entry, text=frame["text"], n=-1)
            else:
                members = [to, me[0]] if scene == "p2p" else self.groups[scene, to]
                for user in dict.fromkeys(members):
                    log = self.logs.setdefault(user, [])
                    log.append(entry | {"n": len(log) + 1, "text": frame["text"]})
                    for one, other in list(self.devices.items()):
                        if one[0] == user and one != me:
                            await self.put(other, **log[-1])
        await self.put(socket, op="ack", id=id)

    async def do_join(self, me: tuple[str, str], socket: ServerConnection, frame: dict[str, Any]) -> None:
        key = (frame["scene"], frame["name"])
        if frame["scene"] == "chatroom":
            self.rooms.setdefault(key, set()).add(me)
        elif frame["creates"]:
            self.groups[key] = frame["members"]
        elif me[0] not in self.groups.get(key, ()):
            await self.put(socket, op="not joined", scene=key[0], name=key[1], reason="not a member")
            return
        await self.put(socket, op="joined", scene=key[0], name=key[1])

    async def do_read(self, me: tuple[str, str], socket: ServerConnection, frame: dict[str, Any]) -> None:
        await self.put(socket, op="read", id=frame["id"])


@asynccontextmanager
async def running(server: ChatServer | None = None) -> AsyncIterator[ChatServer]:
    """Run a server on the running event loop."""
    server = server or ChatServer()
    async with serve(server.handle, "127.0.0.1", 0, compression=None, max_size=None, close_timeout=0.2) as listener:
        server.url = f"ws://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
        yield server


@contextmanager
def in_thread() -> Iterator[ChatServer]:
    """Run a server in another thread."""
    server, ready = ChatServer(), threading.Event()

    async def main() -> None:
        nonlocal over
        over = asyncio.Event()
        async with running(server):
            ready.set()
            await over.wait()

    over: asyncio.Event
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=lambda: loop.run_until_complete(main()))
    thread.start()
    assert ready.wait(10)
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(lambda: over.set())
        thread.join()
        loop.close()


class ChatSession(Session):
    """A session that uses all that the server offers. It repeats a message that has no answer."""

    def __init__(self, target: Target, number: int, user: str, device: str) -> None:
        self.target, self.user, self.device = target, user, device
        self.since = 0  # the number of the last message that this device knows
        self.waiting: dict[str, bytes] = {}  # messages without an answer, by id
        self.rooms: dict[Conversation, bytes] = {}
        self.is_ready = False
        self.deadline: float | None = None  # of the login, or of the next attempt to connect
        self.is_connecting = False
        self.failures = 0
        self.draw = target.draw(number)

    def start(self, now: float) -> list[Out]:
        self.is_connecting = True
        self.deadline = now + self.target.policies.login_timeout
        return [Connect(self.target.url)]

    def stop(self, now: float) -> list[Out]:
        self.is_ready, self.is_connecting, self.deadline = False, False, None
        return [Disconnect()]

    def received(self, item: Item, now: float) -> list[Out]:
        if isinstance(item, Connected):
            return [self.frame(op="login", user=self.user, device=self.device, since=self.since)]
        if isinstance(item, Disconnected):
            return self.lost(item.reason, now)
        if isinstance(item, Response):
            return []
        try:
            frame = json.loads(item)
            return getattr(self, "got_" + frame["op"].replace(" ", "_"))(frame, now)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            return self.broken(f"invalid frame: {error!r}")

    def broken(self, reason: str) -> list[Out]:
        return [*self.stop(0.0), Closed(reason)]

    def lost(self, reason: str, now: float) -> list[Out]:
        policies = self.target.policies
        self.is_ready, self.is_connecting = False, False
        self.deadline = now + min(policies.reconnect_min * 2**self.failures, policies.reconnect_max) * self.draw() * 2
        self.failures += 1
        return [Offline(reason)]

    def got_ready(self, frame: dict[str, Any], now: float) -> list[Out]:
        self.is_ready, self.deadline, self.failures = True, None, 0
        return [Ready(), *self.rooms.values(), *self.waiting.values()]

    def got_refused(self, frame: dict[str, Any], now: float) -> list[Out]:
        return self.broken(str(frame["reason"]))

    def got_ack(self, frame: dict[str, Any], now: float) -> list[Out]:
        return [Acked(frame["id"])] if self.waiting.pop(frame["id"], None) else []

    def got_message(self, frame: dict[str, Any], now: float) -> list[Out]:
        self.since = max(self.since, int(frame["n"]))
        conversation = Conversation(Scene(frame["scene"]), str(frame["to"]))
        return [Delivered(str(frame["id"]), conversation, bool(frame.get("synced")), frame.get("from"))]

    def got_joined(self, frame: dict[str, Any], now: float) -> list[Out]:
        return [Joined(Conversation(Scene(frame["scene"]), frame["name"]))]

    def got_not_joined(self, frame: dict[str, Any], now: float) -> list[Out]:
        return [NotJoined(Conversation(Scene(frame["scene"]), frame["name"]), frame["reason"])]

    def got_read(self, frame: dict[str, Any], now: float) -> list[Out]:
        return [Read(frame["id"])]

    def send(self, message: Message, now: float) -> list[Out]:
        scene, to = message.conversation
        frame = self.frame(op="send", id=message.id, scene=scene.value, to=to, text=message.text)
        self.waiting[message.id] = frame
        return [frame] if self.is_ready else []

    def join(self, conversation: Conversation, members: Sequence[str], creates: bool, now: float) -> list[Out]:
        scene, name = conversation
        frame = self.frame(op="join", scene=scene.value, name=name, members=list(members), creates=creates)
        if scene is Scene.CHATROOM:
            self.rooms[conversation] = frame
        return [frame]

    def read(self, conversation: Conversation, id: str, now: float) -> list[Out]:
        return [self.frame(op="read", id=id)]

    def next_deadline(self) -> float | None:
        return self.deadline

    def handle_timer(self, now: float) -> list[Out]:
        if self.deadline is None or now < self.deadline:
            return []
        if self.is_connecting:
            return [Disconnect(), *self.lost("no answer to the login", now)]
        return self.start(now)

    def frame(self, **fields: Any) -> bytes:
        return json.dumps(fields).encode()


class ChatAdapter(Adapter):
    """The adapter of the server. A test replaces `made` by a broken session."""

    features = frozenset(
        {Feature.ACK, Feature.GROUPS, Feature.CHATROOMS, Feature.OWN_DEVICES, Feature.RESUME, Feature.RECEIPTS}
        | {Feature.MEMBERSHIP}
    )
    options: ClassVar = {"colour": "a colour that changes nothing"}
    made: type[ChatSession] = ChatSession

    def session(self, number: int, user: str, device: str) -> Session:
        return self.made(self.target, number, user, device)


__all__ = ["ChatAdapter", "ChatServer", "ChatSession", "Failed", "Request", "in_thread", "running"]
