"""A device: the core's Client on a WebSocket that is opened again after each loss. The public SDK is in `client`."""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from ssl import SSLContext

from imsim import wire
from imsim.core import events, frames
from imsim.core.client.client import Client
from imsim.core.client.connection import State
from imsim.core.model import Code, check_name
from imsim.core.policies import Policies
from imsim.live.client.access import Access, TokenSource
from imsim.live.client.connector import Connector
from imsim.live.timer import DeadlineTimer


class Device:
    """One device of `user`. It runs in the event loop that calls it.

    The arguments are those of `imsim.Client`, and the following. `clock` returns monotonic seconds. If it is not
    `time.monotonic`, no deadline fires by itself; call `wake()` to handle the deadlines that are due. `draw()` returns
    a uniform random number in [0, 1). `on_event` receives every event of the core's Client, in order; it may call this
    device. `shows_at_once` and `first_sync_once` are as in the core's Client.

    `machine` is the core's Client. `connector` owns the connection. `activity` counts the calls to the machine. A test
    can set `lose`, a predicate: a frame for which it returns true is lost, in either direction.

    Raises: UsageError for an invalid URL or name, or if not exactly one of token, key and token_source is given.
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
        token_source: TokenSource | None = None,
        policies: Policies | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        draw: Callable[[], float] = random.random,
        ssl: SSLContext | None = None,
        on_event: Callable[[events.ClientEvent], None] | None = None,
        shows_at_once: bool = True,
        first_sync_once: bool = False,
    ) -> None:
        policies = policies or Policies()
        self.user = check_name("user", user)
        self.device = check_name("device", device)
        self._access = Access(user, token, key, token_source, wall)
        self.connector = Connector(self, url, self._access, policies, ssl)
        self.url = url
        self.activity = 0
        self.lose: Callable[[frames.FromClient | frames.ToClient], bool] = lambda frame: False
        self._clock = clock
        self._on_event = on_event
        self._events: deque[events.ClientEvent] = deque()
        port = _Port(self.connector, self._transmit, self._events)
        self.machine = Client(
            port,
            user,
            device,
            "",
            policies,
            draw,
            kind,
            shows_at_once=shows_at_once,
            first_sync_once=first_sync_once,
        )
        self._timer = DeadlineTimer(self.machine, clock, self.wake)
        self._draining = False

    def start(self) -> None:
        """Begin to connect. The device retries until it is online or refused; events report it."""
        self.perform(self.machine.start)

    async def stop(self) -> None:
        """Close the connection and stay offline. The next `start` resends the messages without an acknowledgement."""
        self.perform(self.machine.stop)
        await self.connector.closed()

    def perform(self, action: Callable[[float], object]) -> object:
        """Call `action` with the present time, and return its result. Then dispatch the events of the machine."""
        result = action(self._clock())
        self._drain()
        return result

    @property
    def state(self) -> State:
        return self.machine.state

    @property
    def connected(self) -> bool:
        return self.connector.connected

    @property
    def connecting(self) -> bool:
        """Whether an attempt to connect is under way."""
        return self.connector.connecting

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

    # --- called by the connector ------------------------------------------------------------------------------------

    def connection_opened(self, token: str) -> None:
        self.machine.token = token
        self.perform(self.machine.connected)

    def connection_lost(self) -> None:
        self.perform(self.machine.disconnected)

    def token_refused(self, reason: str) -> None:
        self._receive(frames.Refused(Code.BAD_TOKEN, False, reason))

    def text_received(self, text: bytes) -> None:
        try:
            frame = wire.decode_from_server(text)
        except wire.UnknownOp:
            return  # a newer server may send frames that this client does not know
        except wire.WireError as error:
            # The server would send the frame again, or its content would be lost silently. So the client ends, and the
            # application receives the reason.
            reason = f"the server sent a frame that this client cannot read: {error}"
            self._receive(frames.Refused(Code.BAD_FRAME, False, reason))
            return
        if self.lose(frame):
            return
        if isinstance(frame, frames.LoggedIn):
            if frame.user != self.user:
                # A client under another name would address conversations of the wrong user.
                reason = f"the token belongs to {frame.user}; give a token of {self.user}"
                self._receive(frames.Refused(Code.BAD_TOKEN, False, reason))
                return
            self._access.used()
        elif isinstance(frame, frames.Refused) and self._access.refused(frame.code):
            frame = replace(frame, reconnect=True)  # the next attempt gets a new token
        self._receive(frame)

    def _receive(self, frame: frames.ToClient) -> None:
        self.machine.receive(frame, self._clock())
        self._drain()

    # --- called by the machine --------------------------------------------------------------------------------------

    def _transmit(self, frame: frames.FromClient) -> None:
        if self.connector.connected and not self.lose(frame):
            self.connector.send(wire.encode(frame))

    # --- events -----------------------------------------------------------------------------------------------------

    def _drain(self) -> None:
        """Dispatch the machine's events. Run it after every call to the machine.

        The receiver of the events may call the machine again.
        """
        self.activity += 1
        self._timer.touch()
        if self._draining:
            return
        self._draining = True
        try:
            while self._events:
                event = self._events.popleft()
                if self._on_event is not None:
                    self._dispatch(self._on_event, event)
        finally:
            self._draining = False

    def _dispatch(self, on_event: Callable[[events.ClientEvent], None], event: events.ClientEvent) -> None:
        try:
            on_event(event)
        except Exception as error:  # an error of the application must not end the connection
            context = {"message": "on_event failed", "exception": error}
            asyncio.get_running_loop().call_exception_handler(context)


class _Port:
    """The port of the core's Client."""

    def __init__(
        self, connector: Connector, transmit: Callable[[frames.FromClient], None], events: deque[events.ClientEvent]
    ) -> None:
        self.connect = connector.connect
        self.send = transmit
        self.close = connector.close
        self.emit = events.append
