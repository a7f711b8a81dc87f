"""The driver of sessions under asyncio: for tests of adapters, for the conformance kit, and for scripts.

    async with devices(MyAdapter(Target("ws://127.0.0.1:8765")), "alice", "bob") as (alice, bob):
        id = alice.send(bob.conversation, "hello")
        await alice.wait(is_acked(id))
        await bob.wait(is_delivered(id))

`devices` logs the devices in. Each device keeps all its events, so `wait` also finds an event of the past.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import count
from typing import get_args

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.typing import Subprotocol

from imsim.core import events
from imsim.core.exceptions import RunError
from imsim.core.model import Route, Scene
from imsim.load.adapters.interface import (
    Acked,
    Adapter,
    Connect,
    Connected,
    Conversation,
    Delivered,
    Disconnected,
    Event,
    Failed,
    Item,
    Message,
    Out,
    Ready,
    Received,
    Request,
)
from imsim.load.driver import Driver
from imsim.load.exchange import exchange

_CLOSE_TIMEOUT = 1.0  # seconds that a close waits for the server to close its side
_MOST_IDLE_TICKS = 100  # calls of `handle_timer`, one after another, after which a deadline must not be in the past

_EVENTS = get_args(Event)


class Device(Driver):
    """A device of a user: a session of the adapter with its WebSocket and its timer, on the running event loop.

    Attributes:
        user: the name of the user, with the namespace of the run.
        device: the name of the device.
        conversation: the p2p conversation with the user, for the messages of others.
        events: the events of the session, in their order. `times` are their times, by the clock of the event loop. An
            event of the core's client about a message is followed by the same event of the interface.
        error: the exception that the session raised, if it did. The device has ended then, and `wait` raises RunError.
    """

    def __init__(self, adapter: Adapter, number: int, user: str, device: str = "phone") -> None:
        super().__init__(adapter.session(number, user, device), self._record)
        self.adapter = adapter
        self.user = user
        self.device = device
        self.conversation = Conversation(Scene.P2P, user)
        self.events: list[Event] = []
        self.times: list[float] = []
        self.error: Exception | None = None
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()  # set, and replaced, when there is a new event
        self._timer: asyncio.TimerHandle | None = None
        self._idle_ticks = 0  # calls of `handle_timer` since the last other input
        self._connection: Connection | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._ids = count(1_000_000 * number)  # each device has ids of its own

    # --- for the user of the device ---------------------------------------------------------------------------------

    def start(self) -> None:
        """Log in, and remain logged in until `stop`."""
        self.do(self.session.start)

    def stop(self) -> None:
        """Log out."""
        self.do(self.session.stop)

    def send(self, conversation: Conversation, text: str, id: str = "") -> str:
        """Send a text message, and return its id. The default is the next free id of this device."""
        id = id or f"{self.adapter.target.namespace or 'test'}:{next(self._ids)}"
        self.do(lambda now: self.session.send(Message(id, conversation, text), now))
        return id

    def join(self, conversation: Conversation, members: Sequence[str], creates: bool) -> None:
        """Join the group or chatroom, and create it before if `creates`. `Joined` or `NotJoined` is the answer."""
        self.do(lambda now: self.session.join(conversation, members, creates, now))

    def read(self, conversation: Conversation, id: str) -> None:
        """Mark the conversation as read up to this message."""
        self.do(lambda now: self.session.read(conversation, id, now))

    async def wait(
        self, condition: type[Event] | Callable[[Event], bool], timeout: float = 5.0, after: int = 0
    ) -> Event:
        """Return the first event that meets the condition, which is a class of events or a function.

        after: the count of events, from the start, that are not considered: `after=len(device.events)` waits for a
            new event.

        Raises: RunError if there is no such event within `timeout` seconds, or if the session raised an exception.
        """
        end = self._loop.time() + timeout
        while True:
            for at in range(after, len(self.events)):
                event = self.events[at]
                if isinstance(event, condition) if isinstance(condition, type) else condition(event):
                    return event
            after = len(self.events)
            self.check()
            changed = self._changed
            try:
                await asyncio.wait_for(changed.wait(), end - self._loop.time())
            except TimeoutError:
                wanted = getattr(condition, "__name__", str(condition))
                last = f"the last event is {self.events[-1]}" if self.events else "there was no event"
                raise RunError(f"{self.user}/{self.device}: no {wanted} within {timeout:g} s; {last}") from None

    def check(self) -> None:
        """Raise RunError if the session raised an exception."""
        if self.error is not None:
            name = type(self.session).__name__
            raise RunError(
                f"{self.user}/{self.device}: {name} raised {type(self.error).__name__}: {self.error}"
            ) from self.error

    def cut(self) -> None:
        """Cut the connection, as a network that fails. Frames that are under way are lost."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.cut()
            self.give(Disconnected("the connection was cut"))

    async def close(self) -> None:
        """Log out, and wait until the connection has ended."""
        if self.error is None:
            self.stop()
        self._arm(None)
        self._disconnect()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=2 * _CLOSE_TIMEOUT)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    # --- the driver -------------------------------------------------------------------------------------------------

    def do(self, step: Callable[[float], list[Out]]) -> None:
        """Call `step(now)`, a method of the session. An exception ends the device."""
        self._guard(lambda: super(Device, self).do(step))

    def give(self, item: Item) -> None:
        """Give the session an input. An exception ends the device."""
        self._guard(lambda: super(Device, self).give(item))

    def _guard(self, step: Callable[[], None]) -> None:
        if self.error is not None:
            return
        self._idle_ticks = 0
        try:
            step()
        except Exception as error:
            self._crash(error)

    def _crash(self, error: Exception) -> None:
        self.error = error
        self._arm(None)
        self._disconnect()
        self._wake()

    def _carry_out(self, outs: Iterable[Out], now: float) -> None:
        if not isinstance(outs, list):
            raise TypeError(f"a method of the session returned {outs!r:.100}; it must return a list")
        super()._carry_out(outs, now)

    def _record(self, event: Event, now: float) -> None:
        if not isinstance(event, _EVENTS):
            raise TypeError(f"the session returned {event!r:.100}, which is not a frame (bytes), a request or an event")
        plain = as_plain(event)
        self.events += plain
        self.times += [now] * len(plain)
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def now(self) -> float:
        """Return the time of the event loop."""
        return self._loop.time()

    def _arm(self, deadline: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if deadline is None else self._loop.call_at(deadline, self._tick)

    def _tick(self) -> None:
        idle = self._idle_ticks + 1
        self.do(self.session.handle_timer)
        self._idle_ticks = idle
        deadline = self.session.next_deadline() if self.error is None else None
        if deadline is None or deadline > self.now():
            self._idle_ticks = 0
        elif idle > _MOST_IDLE_TICKS:
            self._crash(RuntimeError("next_deadline() remains in the past; handle_timer() must change it"))

    def _request(self, request: Request) -> None:
        async def answer() -> None:
            self.give(await asyncio.to_thread(exchange, request))

        self._spawn(asyncio.create_task(answer()))

    def _spawn(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- the connection ---------------------------------------------------------------------------------------------

    def _connect(self, connect: Connect) -> None:
        self._disconnect()
        self._connection = connection = Connection(self._input, connect, self.adapter)
        self._spawn(connection.task)

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _send(self, frame: bytes) -> None:
        if self._connection is not None:
            self._connection.frames.put_nowait(frame)

    def _input(self, connection: Connection, item: Item) -> None:
        """Give the session an input of a connection, unless the connection was closed or replaced."""
        if connection is self._connection:
            if isinstance(item, Disconnected):
                self._connection = None
            self.give(item)


class Connection:
    """A WebSocket, from the first attempt to open it to its end. `give` receives what happens on it."""

    def __init__(self, give: Callable[[Connection, Item], None], connect: Connect, adapter: Adapter) -> None:
        self.frames: asyncio.Queue[bytes | None] = asyncio.Queue()  # to be sent; None: close the connection
        self.socket: ClientConnection | None = None
        self.task = asyncio.create_task(self._run(connect))
        self._give = give
        self._adapter = adapter

    def close(self) -> None:
        """Give up opening the WebSocket; or send the frames that wait, and close it."""
        if self.socket is None:
            self.task.cancel()
        else:
            self.frames.put_nowait(None)

    def cut(self) -> None:
        """End the connection without a closing handshake. Frames that wait are lost."""
        if self.socket is None:
            self.task.cancel()
        else:
            self.socket.transport.abort()

    async def _run(self, parameters: Connect) -> None:
        try:
            async with connect(
                parameters.url,
                subprotocols=[Subprotocol(name) for name in parameters.subprotocols] or None,
                additional_headers=list(parameters.headers),
                open_timeout=parameters.timeout,
                close_timeout=_CLOSE_TIMEOUT,
                compression=None,
                proxy=None,
                ping_interval=None,
                max_size=self._adapter.largest,
            ) as self.socket:
                self._give(self, Connected(self.socket.subprotocol))
                writer = asyncio.create_task(self._write(self.socket))
                try:
                    while True:
                        frame = await self.socket.recv(decode=False)
                        assert isinstance(frame, bytes)
                        self._give(self, frame)
                finally:
                    writer.cancel()
        except (OSError, ValueError, WebSocketException) as error:  # ValueError: a url that no WebSocket can have
            self._give(self, Disconnected(_reason(error)))

    async def _write(self, socket: ClientConnection) -> None:
        with suppress(ConnectionClosed):
            while (frame := await self.frames.get()) is not None:
                await socket.send(frame, text=not self._adapter.binary)
            await socket.close()


def _reason(error: Exception) -> str:
    if isinstance(error, ConnectionClosed):
        if error.rcvd is None:
            return "connection lost"
        return f"the server closed the connection: {error.rcvd}"
    if isinstance(error, InvalidStatus):
        return f"HTTP {error.response.status_code} in answer to the WebSocket handshake"
    if isinstance(error, TimeoutError):
        return "no answer within the timeout"
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    return str(error) or type(error).__name__


def as_plain(out: Out) -> list[Event]:
    """Return the events that the result of a session stands for: none if it is a frame or a request.

    An event of the core's client about a message is followed by the same event of the interface.
    """
    if not isinstance(out, _EVENTS):
        return []
    translated = _translated(out)
    return [out] if translated is None else [out, translated]


def _translated(event: Event) -> Event | None:
    """Return the event of the interface for an event of the core's client about a message; None for other events."""
    match event:
        case events.Acked(id_client=id):
            return Acked(id)
        case events.Received(id_client=id, seq=seq):
            return Acked(id) if seq else Received(id)  # in a chatroom, it is the final answer
        case events.SendFailed(id_client=id, code=code, text=text):
            return Failed(id, code, text)
        case events.Shown(message=message, route=route):
            return Delivered(message.id_client, Conversation(message.scene, message.to), route is Route.SYNC)
        case events.Repeated(message=message):
            return Delivered(message.id_client, Conversation(message.scene, message.to))
    return None


# --- many devices -----------------------------------------------------------------------------------------------------


@asynccontextmanager
async def devices(
    adapter: Adapter, *users: str | tuple[str, str], timeout: float = 10.0, online: bool = True
) -> AsyncIterator[list[Device]]:
    """Open a device for each user, or each pair (user, device), and close them at the end.

    The target's namespace is put in front of the names of users. A user's device is called phone by default.

    online: whether to log the devices in, and to wait until all are ready, `timeout` seconds at most.

    Raises: RunError if a device does not get ready, or if a session raised an exception.
    """
    namespace = adapter.target.namespace
    opened = []
    for number, one in enumerate(users):
        user, device = (one, "phone") if isinstance(one, str) else one
        opened.append(Device(adapter, number, f"{namespace}.{user}" if namespace else user, device))
    try:
        if online:
            for device_ in opened:
                device_.start()
            for device_ in opened:
                await device_.wait(Ready, timeout)
        yield opened
        for device_ in opened:
            device_.check()
    finally:
        await asyncio.gather(*(device_.close() for device_ in opened))


def is_acked(id: str) -> Callable[[Event], bool]:
    """Return the condition for `Device.wait` that the server has acknowledged this message."""
    return _named(lambda event: isinstance(event, Acked) and event.id == id, f"Acked({id!r})")


def is_delivered(id: str) -> Callable[[Event], bool]:
    """Return the condition for `Device.wait` that the device has received this message."""
    return _named(lambda event: isinstance(event, Delivered) and event.id == id, f"Delivered({id!r})")


def _named(condition: Callable[[Event], bool], name: str) -> Callable[[Event], bool]:
    condition.__name__ = name
    return condition
