"""The SDK for asyncio applications: the core's Client on a WebSocket that is opened again after each loss."""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable
from ssl import SSLContext

from imsim import wire
from imsim.core import events, frames
from imsim.core.client.client import Client
from imsim.core.client.connection import State
from imsim.core.client.conversations import Conversation
from imsim.core.exceptions import RunError, UsageError
from imsim.core.model import Code, Scene, Status, check_name
from imsim.core.policies import Policies
from imsim.live.connector import Connector
from imsim.live.timer import DeadlineTimer

_REMEMBERED = 10_000  # the most outcomes of sends kept, and the most messages kept that the application has not taken


class LiveClient:
    """One device of `user`. It runs in the event loop that calls `start`.

    `kind` is the kind of the device, such as phone or desktop. Give a `token`, or the server's `key`. With the key, the
    client requests a token with `GET /token` before each connection. `clock` returns monotonic seconds. If it is not
    `time.monotonic`, no deadline fires by itself; call `wake()` to handle the deadlines that are due. `draw()` returns
    a uniform random number in [0, 1). `on_event` receives every event of the core's Client, in order; it may call this
    client.

    `machine` is the core's Client. `connector` owns the connection. `activity` counts the calls to the machine. A test
    can set `lose`, a predicate: a frame for which it returns true is lost, in either direction.

    Raises: UsageError for an invalid URL or name, or if both `token` and `key` are missing.
    """

    def __init__(
        self,
        url: str,
        user: str,
        device: str = "d0",
        *,
        kind: str = "",
        token: str | None = None,
        key: str | None = None,
        policies: Policies | None = None,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = random.random,
        ssl: SSLContext | None = None,
        on_event: Callable[[events.ClientEvent], None] | None = None,
    ) -> None:
        self._policies = policies or Policies()
        self.connector = Connector(self, url, user, key, self._policies, ssl)
        if token is None and key is None:
            raise UsageError(f"{user}: no token and no key; give a token, or the server's key to request a token")
        self.url = url
        self.user = check_name("user", user)
        self.device = check_name("device", device)
        self.activity = 0
        self.lose: Callable[[frames.FromClient | frames.ToClient], bool] = lambda frame: False
        self.messages = Messages()
        self._clock = clock
        self._on_event = on_event
        self._events: deque[events.ClientEvent] = deque()
        port = _Port(self.connector, self._transmit, self._events)
        self.machine = Client(port, user, device, token or "", self._policies, draw, kind)
        self._timer = DeadlineTimer(self.machine, clock, self.wake)
        self._watchers: list[tuple[Callable[[events.ClientEvent], bool], asyncio.Future[events.ClientEvent]]] = []
        self._outcomes: dict[str, events.Acked | events.SendFailed] = {}
        self._draining = False

    # --- for the application ----------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Connect, log in and fetch the missed messages. Then stay connected until `stop`.

        Raises: RunError if the first attempt fails: there is no server, or the server refuses the login.
        """
        watch = self._watch(lambda event: isinstance(event, events.Ready | events.Disconnected | events.Ended))
        self.start_nowait()
        event = await watch
        if isinstance(event, events.Ended):
            raise RunError(f"the server at {self.url} refused {self.user}: {event.code}: {event.text}")
        if isinstance(event, events.Disconnected):
            await self.stop()
            if self.connector.failure:
                raise RunError(f"no server at {self.url}: {self.connector.failure}; start one, or correct the address")
            raise RunError(f"{self.user} could not log in at {self.url}: {event.code or 'the connection was lost'}")

    def start_nowait(self) -> None:
        """Begin to connect, and return at once. The client retries until it is online or refused; events report it."""
        self.messages.resume()
        self.machine.start(self._clock())
        self._drain()

    async def stop(self) -> None:
        """Close the connection and stay offline. The next `start` resends the messages without an acknowledgement."""
        self.machine.stop(self._clock())
        self._drain()
        await self.connector.closed()
        self.messages.end()

    @property
    def state(self) -> State:
        return self.machine.state

    def send(
        self,
        scene: Scene | str,
        to: str,
        content: str,
        id_client: str | None = None,
        *,
        type: str = "text",
        file: dict[str, object] | None = None,
        custom: str | None = None,
    ) -> str:
        """Send a message, at once or as soon as the client is online, and return its idClient.

        `wait_stored` and the events Acked and SendFailed identify the message by its idClient. To retry a failed send,
        pass its idClient as `id_client`.
        """
        if id_client is None:
            id_client = uuid.uuid4().hex
        self._outcomes.pop(id_client, None)
        self.machine.send(Scene(scene), to, content, id_client, self._clock(), type=type, file=file, custom=custom)
        self._drain()
        return id_client

    async def wait_stored(self, id_client: str) -> events.Acked:
        """Wait until the message is stored, and return its acknowledgement.

        Raises: RunError if the server rejects the message or answers no attempt; UsageError if this client does not
        know the idClient, or no longer remembers it.
        """
        outcome: events.ClientEvent | None = self._outcomes.get(id_client)
        if outcome is None:
            if self.machine.status(id_client) is not Status.SENDING:
                raise UsageError(f"idClient {id_client!r}: unknown: this client has not sent it, or sent it long ago")
            outcome = await self._watch(
                lambda event: isinstance(event, events.Acked | events.SendFailed) and event.id_client == id_client
            )
        if isinstance(outcome, events.Acked):
            return outcome
        assert isinstance(outcome, events.SendFailed)
        raise RunError(f"message {id_client}: not stored: {outcome.code}: {outcome.text}")

    def read(self, conversation_id: str) -> None:
        """Mark every message that the conversation shows as read."""
        self.machine.read(conversation_id, self._clock())
        self._drain()

    async def create_group(self, name: str, members: list[str]) -> str:
        """Create a group of this user and `members`, and return the conversation's id. Repeating the call is harmless.

        Raises: RunError if the server refuses, or does not answer within the time that the attempts of a send take.
        """
        id_client = f"create:{name}"
        self._outcomes.pop(id_client, None)
        self.machine.create_group(name, members, self._clock(), id_client)
        self._drain()
        return (await self.wait_stored(id_client)).conversation_id

    async def change(
        self,
        scene: Scene | str,
        to: str,
        event: str,
        targets: Iterable[str] = (),
        data: dict[str, object] | None = None,
        id_client: str | None = None,
    ) -> events.Acked:
        """Change a group, a friendship or a message, and return once the change is stored.

        docs/protocol-reference.md lists the events.

        Raises: RunError as in `create_group`.
        """
        id_client = id_client or uuid.uuid4().hex
        self.machine.change(Scene(scene), to, event, id_client, self._clock(), targets=targets, data=data)
        self._drain()
        return await self.wait_stored(id_client)

    async def enter(self, room: str, recent: int = 0) -> events.Entered:
        """Enter a chatroom. The client enters it again after each login, until `leave`.

        `recent` is how many of the latest messages the server should send on entry.
        Raises: RunError as in `create_group`.
        """
        watch = self._watch(
            lambda event: (
                (isinstance(event, events.Entered) and event.name == room) or _failed(event, frames.Enter.op, room)
            )
        )
        self.machine.enter(room, self._clock(), recent)
        event = await self._answer(watch, f"entry of chatroom {room}")
        assert isinstance(event, events.Entered)
        return event

    def leave(self, room: str) -> None:
        """Leave the chatroom."""
        self.machine.leave(room, self._clock())
        self._drain()

    def typing(self, conversation_id: str) -> None:
        """Notify the other user of the conversation that this user is typing."""
        self.machine.typing(conversation_id, self._clock())
        self._drain()

    async def end_session(self, device: str) -> None:
        """Log out another device of this user.

        Raises: RunError as in `create_group`.
        """
        watch = self._watch(
            lambda event: (
                event == events.RequestDone(frames.EndSession.op, device)
                or _failed(event, frames.EndSession.op, device)
            )
        )
        self.machine.end_session(device, self._clock())
        await self._answer(watch, f"end of the session of {device}")

    async def read_count(self, conversation_id: str, seq: int) -> events.ReadCounted:
        """Return how many members have read this message, and how many members there are, both without its sender.

        Raises: RunError as in `create_group`.
        """
        ref = frames.ReadCount(conversation_id, seq).ref
        watch = self._watch(
            lambda event: (
                (isinstance(event, events.ReadCounted) and f"{event.conversation_id}:{event.seq}" == ref)
                or _failed(event, frames.ReadCount.op, ref)
            )
        )
        self.machine.read_count(conversation_id, seq, self._clock())
        event = await self._answer(watch, f"read count of {ref}")
        assert isinstance(event, events.ReadCounted)
        return event

    async def history(self, conversation_id: str, first: int, last: int) -> events.History:
        """Return the messages from seq `first` to `last`, both included.

        If they do not fit into one page, return the latest of them, with `more` set.
        Raises: RunError as in `create_group`.
        """
        ref = frames.History(conversation_id, first, last).ref
        watch = self._watch(
            lambda event: (
                (
                    isinstance(event, events.History)
                    and (event.conversation_id, event.first, event.last) == (conversation_id, first, last)
                )
                or _failed(event, frames.History.op, ref)
            )
        )
        self.machine.history(conversation_id, first, last, self._clock())
        event = await self._answer(watch, f"history {ref}")
        assert isinstance(event, events.History)
        return event

    def set_conversation(
        self,
        conversation_id: str,
        *,
        pinned: bool | None = None,
        muted: bool | None = None,
        custom: str | None = None,
        blocked: bool | None = None,
    ) -> None:
        """Change the given settings of the conversation, on all devices of the user. They apply here at once.

        If the server refuses, the event RequestFailed reports it and the previous values return.
        """
        self.machine.set_conversation(
            conversation_id, self._clock(), pinned=pinned, muted=muted, custom=custom, blocked=blocked
        )
        self._drain()

    def hide(self, conversation_id: str) -> None:
        """Remove the conversation from the list on all devices, until its next message. Its messages become read."""
        self.machine.hide(conversation_id, self._clock())
        self._drain()

    def conversations(self) -> list[Conversation]:
        """Return the conversation list: pinned conversations first, and the latest first among each."""
        return self.machine.conversations()

    def total_unread(self, include_muted: bool = True) -> int:
        """Return the unread count of the whole conversation list, with or without muted conversations."""
        return self.machine.total_unread(include_muted)

    def system_unread(self) -> int:
        """Return the count of unread system messages. Mark them as read with `read("system:<user>")`."""
        return self.machine.system_unread()

    # --- for tests --------------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Handle every deadline that is due by the clock."""
        now = self._clock()
        while (deadline := self.machine.next_deadline()) is not None and deadline <= now:
            self.machine.handle_timer(now)
            self._drain()

    def break_connection(self) -> None:
        """Simulate a network failure: data in flight is lost, and the machine learns at once that it is offline."""
        self.connector.abort()

    @property
    def connected(self) -> bool:
        return self.connector.connected

    @property
    def connecting(self) -> bool:
        """Whether an attempt to connect is under way."""
        return self.connector.connecting

    # --- called by the connector ------------------------------------------------------------------------------------

    def connection_opened(self, token: str | None) -> None:
        if token is not None:
            self.machine.token = token
        self.machine.connected(self._clock())
        self._drain()

    def connection_lost(self) -> None:
        self.machine.disconnected(self._clock())
        self._drain()

    def token_refused(self, reason: str) -> None:
        self._machine_receive(frames.Refused(Code.BAD_TOKEN, False, reason))

    def text_received(self, text: bytes) -> None:
        try:
            frame = wire.decode_from_server(text)
        except wire.UnknownOp:
            return  # a newer server may send frames that this client does not know
        except wire.WireError as error:
            # The server would send the frame again, or its content would be lost silently. So the client ends, and the
            # application receives the reason.
            reason = f"the server sent a frame that this client cannot read: {error}"
            self._machine_receive(frames.Refused(Code.BAD_FRAME, False, reason))
            return
        if not self.lose(frame):
            self._machine_receive(frame)

    def _machine_receive(self, frame: frames.ToClient) -> None:
        self.machine.receive(frame, self._clock())
        self._drain()

    # --- called by the machine --------------------------------------------------------------------------------------

    def _transmit(self, frame: frames.FromClient) -> None:
        if self.connector.connected and not self.lose(frame):
            self.connector.send(wire.encode(frame))

    # --- events -----------------------------------------------------------------------------------------------------

    def _drain(self) -> None:
        """Dispatch the machine's events. Run it after every call to the machine.

        The receivers of the events may call the machine again.
        """
        self.activity += 1
        self._timer.touch()
        if self._draining:
            return
        self._draining = True
        try:
            while self._events:
                self._dispatch(self._events.popleft())
        finally:
            self._draining = False

    def _dispatch(self, event: events.ClientEvent) -> None:
        if isinstance(event, events.Acked | events.SendFailed):
            self._outcomes[event.id_client] = event
            if len(self._outcomes) > _REMEMBERED:
                del self._outcomes[next(iter(self._outcomes))]
        elif isinstance(event, events.Shown):
            self.messages.put(event)
        elif isinstance(event, events.Ended):
            self.messages.end()
        if self._watchers:
            waiting = []
            for matches, future in self._watchers:
                if future.done():
                    continue
                if matches(event):
                    future.set_result(event)
                else:
                    waiting.append((matches, future))
            self._watchers = waiting
        if self._on_event is not None:
            try:
                self._on_event(event)
            except Exception as error:  # an error of the application must not end the connection
                context = {"message": "on_event failed", "exception": error}
                asyncio.get_running_loop().call_exception_handler(context)

    async def _answer(self, watch: asyncio.Future[events.ClientEvent], request: str) -> events.ClientEvent:
        """Wait for `watch`, the answer to the request just made. The machine resends the request meanwhile.

        `request` names the request in errors. Raises: RunError if it fails or gets no answer.
        """
        self._drain()
        done, _ = await asyncio.wait([watch], timeout=self._policies.send_budget)
        if not done:
            watch.cancel()
            raise RunError(f"{request}: no answer from {self.url}")
        event = watch.result()
        if isinstance(event, events.RequestFailed):
            raise RunError(f"{request}: {event.code}: {event.text}")
        return event

    def _watch(self, matches: Callable[[events.ClientEvent], bool]) -> asyncio.Future[events.ClientEvent]:
        """Return a future of the next event for which `matches` returns true."""
        future: asyncio.Future[events.ClientEvent] = asyncio.get_running_loop().create_future()
        self._watchers.append((matches, future))
        return future


def _failed(event: events.ClientEvent, request: str, ref: str) -> bool:
    return isinstance(event, events.RequestFailed) and (event.request, event.ref) == (request, ref)


class Messages:
    """The queue of messages that the client has shown: `async for shown in client.messages` takes them.

    The loop ends when the application stops the client or the server ends it. The queue keeps the latest 10,000
    messages; `dropped` counts the older ones that the application did not take.
    """

    def __init__(self) -> None:
        self.dropped = 0
        self._shown: deque[events.Shown] = deque(maxlen=_REMEMBERED)
        self._ended = False
        self._arrived = asyncio.Event()

    def put(self, event: events.Shown) -> None:
        self.dropped += len(self._shown) == _REMEMBERED
        self._shown.append(event)
        self._arrived.set()

    def resume(self) -> None:
        self._ended = False

    def end(self) -> None:
        self._ended = True
        self._arrived.set()

    def __aiter__(self) -> Messages:
        return self

    async def __anext__(self) -> events.Shown:
        while not self._shown:
            if self._ended:
                raise StopAsyncIteration
            self._arrived.clear()
            await self._arrived.wait()
        return self._shown.popleft()


class _Port:
    """The port of the core's Client."""

    def __init__(
        self, connector: Connector, transmit: Callable[[frames.FromClient], None], events: deque[events.ClientEvent]
    ) -> None:
        self.connect = connector.connect
        self.send = transmit
        self.close = connector.close
        self.emit = events.append
