"""The SDK for asyncio applications: one core Client on one WebSocket after the other."""

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

_REMEMBERED = 10_000  # outcomes of sends, and messages that nobody has taken yet


class LiveClient:
    """One device of `user`, of this `kind` (phone, desktop ...), in the event loop that calls `start`.

    Give a `token`, or the server's `key`: then each connection begins by asking `GET /token` for one. `clock` is
    monotonic seconds: under any but `time.monotonic` no deadline fires by itself, and `wake()` runs what is due.
    `draw()` gives a uniform number in [0, 1). `on_event` sees every event of the core's Client, in order; it may call
    the client.

    `machine` is the core's Client, `connector` has its connection, `activity` counts calls to the machine. Tests may
    set `lose`: frames, in either direction, for which it is true are lost.

    Raises: UsageError for a bad URL, name, or neither token nor key.
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
            raise UsageError(f"{user}: give a token, or the server's key to get one with")
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
        """Connect, log in, fetch what was missed; then stay connected until `stop`.

        Raises: RunError if the first attempt fails: no server, or a refusal.
        """
        watch = self._watch(lambda event: isinstance(event, events.Ready | events.Disconnected | events.Ended))
        self.start_nowait()
        event = await watch
        if isinstance(event, events.Ended):
            raise RunError(f"{self.user} was refused by {self.url}: {event.code}: {event.text}")
        if isinstance(event, events.Disconnected):
            await self.stop()
            if self.connector.failure:
                raise RunError(f"no server at {self.url}: {self.connector.failure}; start one, or correct the address")
            raise RunError(f"{self.user} could not log in at {self.url}: {event.code or 'the connection was lost'}")

    def start_nowait(self) -> None:
        """As `start`, but keeps trying, and reports by events."""
        self.messages.resume()
        self.machine.start(self._clock())
        self._drain()

    async def stop(self) -> None:
        """Leave. Unanswered sends go out again after the next `start`."""
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
        """Send a message, now or once online. Returns its idClient, by which `wait_stored` and the events Acked and
        SendFailed know it; give that of a failed send to try it again."""
        if id_client is None:
            id_client = uuid.uuid4().hex
        self._outcomes.pop(id_client, None)
        self.machine.send(Scene(scene), to, content, id_client, self._clock(), type=type, file=file, custom=custom)
        self._drain()
        return id_client

    async def wait_stored(self, id_client: str) -> events.Acked:
        """Wait until the message is stored.

        Raises: RunError if it is rejected or every attempt stays unanswered, UsageError if this client knows nothing
        of it (any more).
        """
        outcome: events.ClientEvent | None = self._outcomes.get(id_client)
        if outcome is None:
            if self.machine.status(id_client) is not Status.SENDING:
                raise UsageError(f"idClient {id_client!r}: nothing was sent under it, or too long ago")
            outcome = await self._watch(
                lambda event: isinstance(event, events.Acked | events.SendFailed) and event.id_client == id_client
            )
        if isinstance(outcome, events.Acked):
            return outcome
        assert isinstance(outcome, events.SendFailed)
        raise RunError(f"message {id_client} was not stored: {outcome.code}: {outcome.text}")

    def read(self, conversation_id: str) -> None:
        """The user has read all that the conversation shows."""
        self.machine.read(conversation_id, self._clock())
        self._drain()

    async def create_group(self, name: str, members: list[str]) -> str:
        """Make a group of these members and oneself; returns the conversation's id. Repeating it is harmless.

        Raises: RunError if the server refuses, or does not answer within the time of a send's attempts.
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
        """Change a group, a friendship or a message; see the README for the events. Returns once it has come about.

        Raises: as `create_group`.
        """
        id_client = id_client or uuid.uuid4().hex
        self.machine.change(Scene(scene), to, event, id_client, self._clock(), targets=targets, data=data)
        self._drain()
        return await self.wait_stored(id_client)

    async def enter(self, room: str, recent: int = 0) -> events.Entered:
        """Enter a chatroom; and again by itself after each login, until `leave`.

        Raises: as `create_group`.
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
        self.machine.leave(room, self._clock())
        self._drain()

    def typing(self, conversation_id: str) -> None:
        """Hint to the other user that this one is writing."""
        self.machine.typing(conversation_id, self._clock())
        self._drain()

    async def end_session(self, device: str) -> None:
        """Log out another device of this user.

        Raises: as `create_group`.
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
        """How many members have read this message, and how many there are, its sender aside.

        Raises: as `create_group`.
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
        """The messages from seq `first` to `last`; where they do not fit into a page, the latest of them, and `more`.

        Raises: as `create_group`.
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
        """Change what is given, on all devices of the user; it shows here at once. A refusal is an event RequestFailed,
        and what was changed shows no more then."""
        self.machine.set_conversation(
            conversation_id, self._clock(), pinned=pinned, muted=muted, custom=custom, blocked=blocked
        )
        self._drain()

    def hide(self, conversation_id: str) -> None:
        """Delete the conversation from the list of all devices, until its next message; what it shows is read by
        that."""
        self.machine.hide(conversation_id, self._clock())
        self._drain()

    def conversations(self) -> list[Conversation]:
        """The conversation list: those that are pinned, then the others, the latest first."""
        return self.machine.conversations()

    def total_unread(self, include_muted: bool = True) -> int:
        """Over the conversation list; what is muted counts or not."""
        return self.machine.total_unread(include_muted)

    def system_unread(self) -> int:
        """How many system messages have not been read; `read` them as the conversation system:<user>."""
        return self.machine.system_unread()

    # --- for tests --------------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Run every deadline that is due by the clock."""
        now = self._clock()
        while (deadline := self.machine.next_deadline()) is not None and deadline <= now:
            self.machine.handle_timer(now)
            self._drain()

    def break_connection(self) -> None:
        """The network fails: what is on its way is lost, and the machine is notified now."""
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
            return  # a newer server's
        except wire.WireError as error:
            # It would come again, or be missed for ever: better an end that the application hears of.
            why = f"the server sent what this client cannot read: {error}"
            self._machine_receive(frames.Refused(Code.BAD_FRAME, False, why))
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
        """After every call to the machine: pass its events on. Their receivers may call the machine again."""
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
            except Exception as error:  # the application's mistake is no reason to lose the connection
                context = {"message": "on_event failed", "exception": error}
                asyncio.get_running_loop().call_exception_handler(context)

    async def _answer(self, watch: asyncio.Future[events.ClientEvent], what: str) -> events.ClientEvent:
        """What answers the request just made, which the machine repeats.

        Raises: RunError.
        """
        self._drain()
        done, _ = await asyncio.wait([watch], timeout=self._policies.send_attempts * self._policies.send_timeout)
        if not done:
            watch.cancel()
            raise RunError(f"{what}: no answer from {self.url}")
        event = watch.result()
        if isinstance(event, events.RequestFailed):
            raise RunError(f"{what}: {event.code}: {event.text}")
        return event

    def _watch(self, matches: Callable[[events.ClientEvent], bool]) -> asyncio.Future[events.ClientEvent]:
        """The next event that matches."""
        future: asyncio.Future[events.ClientEvent] = asyncio.get_running_loop().create_future()
        self._watchers.append((matches, future))
        return future


def _failed(event: events.ClientEvent, request: str, ref: str) -> bool:
    return isinstance(event, events.RequestFailed) and (event.request, event.ref) == (request, ref)


class Messages:
    """What was shown and not taken yet: `async for shown in client.messages`. Ends when the client is stopped or ended
    by the server. Keeps the latest 10 000; `dropped` counts older ones that nobody took."""

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
    """The machine's port."""

    def __init__(
        self, connector: Connector, transmit: Callable[[frames.FromClient], None], events: deque[events.ClientEvent]
    ) -> None:
        self.connect = connector.connect
        self.send = transmit
        self.close = connector.close
        self.emit = events.append
