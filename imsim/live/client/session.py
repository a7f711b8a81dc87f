"""The engine behind `imsim.Client`: it waits for the answers of the server, and passes events to the application."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from imsim import wire
from imsim.core import events, frames
from imsim.core.attachments import check_attachment, json_fault
from imsim.core.client.connection import State
from imsim.core.exceptions import ClientEnded, ClientError, SendError, UsageError
from imsim.core.model import LONGEST_ID_CLIENT, Code, MessageType, Scene, conversation_id
from imsim.core.policies import Policies
from imsim.live.client import views
from imsim.live.client.application import Application
from imsim.live.client.device import Device
from imsim.live.client.state_file import StateFile
from imsim.live.client.state_keeper import StateKeeper
from imsim.live.client.views import Message

_CLOSED = "closed"
_FAILED = 1_000  # the failed sends that are remembered, because a late answer can correct them


class Session:
    """A device with an application on top of it. `Client` is the public face of it."""

    def __init__(self, device: Device, policies: Policies, state: StateFile | None, queue: int) -> None:
        self.device = device
        self.user = device.user
        self.application = Application(device.user, queue)
        self.online: set[str] = set()  # the friends who are online
        self._patience = policies.send_attempts * policies.send_timeout  # of requests; the machine limits the sends
        self._keeper = StateKeeper(state, device, self.application.feed) if state is not None else None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._end: ClientEnded | None = None
        self._is_closing = False
        self._closed: asyncio.Future[None] | None = None  # done once the client has ended
        self._waiting: dict[tuple[str, str], list[asyncio.Future[Any]]] = {}
        self._limits: set[asyncio.Timeout] = set()  # of the requests that wait
        self._sends: dict[str, frames.Send] = {}  # the sends without an answer
        self._failed: dict[str, frames.Send] = {}
        self._token_expired = False  # whether the server has refused an expired token in `start`

    # --- the life of the client ---------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Connect, log in and fetch what the device missed.

        Raises: UsageError if the client was started before, or the state file cannot be used; ClientEnded if the server
        refuses the login, or the client has ended before; ClientError if the first attempt fails.
        """
        if self._end is not None:
            raise _copy(self._end)
        if self._loop is not None:
            raise UsageError(f"{self.user}: a client can be started once only; create another imsim.Client")
        self._loop = asyncio.get_running_loop()
        self._closed = self._loop.create_future()
        try:
            if self._keeper is not None:
                self._keeper.open()
            await self._first_login()
        except BaseException:
            await self.close()
            raise
        if self._keeper is not None:
            self._keeper.start()

    async def _first_login(self) -> None:
        ready = self._wait("start", "")
        self.application.start()
        self.device.start()
        await ready

    async def close(self, *, failed: bool = False) -> None:
        """End the client. Waiting calls fail at once. Repeating the call is harmless.

        `failed`: an error of the application is the reason, so it has not handled the message that it took last.
        """
        if self._loop is None:
            self._finish(self._closed_by_application(), at_once=True)
            return
        if self._is_closing:
            return
        self._is_closing = True
        self.application.leave(failed=failed)
        try:
            if self._end is not None:  # handlers may still run for the events before the end
                await self.application.finished()
            self._finish(self._closed_by_application(), at_once=True)
            self.application.cancel()
            await self.device.stop()
            await self.application.finished()
        finally:
            if self._keeper is not None:
                self._keeper.close()

    def _closed_by_application(self) -> ClientEnded:
        return ClientEnded(f"{self.user}: this client is closed; create another imsim.Client", _CLOSED)

    def _finish(self, end: ClientEnded, *, at_once: bool) -> None:
        """Note the end. All calls that wait fail with it, and so do later ones."""
        if self._end is None:
            self._end = end
        for futures in self._waiting.values():
            for future in futures:
                if not future.done():
                    future.set_exception(_copy(self._end))
        self._waiting.clear()
        self._sends.clear()
        self.application.feed.finish(at_once=at_once)
        if self._closed is not None and not self._closed.done():
            self._closed.set_result(None)

    @property
    def state(self) -> str:
        if self._end is not None:
            return "closed" if self._end.code == _CLOSED else "ended"
        return "new" if self._loop is None else str(self.device.state)

    def end(self) -> ClientEnded | None:
        """Return the error of a client that the server has ended, otherwise None."""
        return _copy(self._end) if self._end is not None and self._end.code != _CLOSED else None

    async def wait_closed(self) -> None:
        """Return once the application has closed the client. Raises: ClientEnded if the server ends it."""
        if self._end is None:
            self.check()
            assert self._closed is not None
            await asyncio.shield(self._closed)
        if (error := self.end()) is not None:
            raise error

    def check(self) -> None:
        """Check that the client runs. Raises: ClientEnded; UsageError if it was not started, or runs elsewhere."""
        self.application.went_on()
        if self._end is not None:
            raise _copy(self._end)
        self.check_started()
        try:
            running = asyncio.get_running_loop()
        except RuntimeError:
            running = None
        if running is not self._loop:
            raise UsageError(f"{self.user}: this client belongs to another event loop; create one in each loop")

    def check_started(self) -> None:
        """Check that the client was started, unless it has ended. Raises: UsageError."""
        if self._loop is None and self._end is None:
            raise UsageError(f"{self.user}: not started; use `async with imsim.Client(...) as me`, or await me.start()")

    # --- calls --------------------------------------------------------------------------------------------------------

    async def send(
        self,
        scene: Scene,
        to: str,
        content: str,
        type: str,
        file: dict[str, object] | None = None,
        custom: str | None = None,
        id_client: str | None = None,
    ) -> Message:
        """Send a message and return it once it is stored.

        Raises: SendError, ClientEnded; UsageError for an invalid message.
        """
        self.check()
        if not isinstance(content, str):
            raise UsageError(f"content: must be a text (got {_named(content)})")
        if custom is not None and not isinstance(custom, str):
            raise UsageError(f"custom: must be a text, usually JSON (got {_named(custom)})")
        check_attachment(type, file)
        if file is not None and (fault := json_fault(file)):
            raise UsageError(f"file: {fault}")
        id_client = uuid.uuid4().hex if id_client is None else id_client
        if not isinstance(id_client, str) or not 1 <= len(id_client) <= LONGEST_ID_CLIENT:
            raise UsageError(
                f"id_client: must be a text of 1 to {LONGEST_ID_CLIENT} characters (got {id_client!r:.40})"
            )
        frame = frames.Send(id_client, scene, to, content, type, file, custom)
        self._check_size(frame)
        if self._sends.get(id_client, frame) != frame:
            raise UsageError(f"id_client: {id_client!r} belongs to another message that waits for its answer")
        self._failed.pop(id_client, None)
        stored = self._wait("send", id_client)
        self._sends[id_client] = frame
        machine = self.device.machine
        self.device.perform(
            lambda now: machine.send(scene, to, content, id_client, now, type=type, file=file, custom=custom)
        )
        message: Message = await stored
        return message

    def _check_size(self, frame: frames.Send) -> None:
        """Check that the server will read the frame, because a server ends the connection of a too long frame.

        Raises: SendError.
        """
        most = self.device.machine.limits.frame_bytes
        longest = 6 * (len(frame.content) + len(frame.custom or "")) + 1_000  # JSON has up to 6 bytes per character
        if frame.file is None and longest < most:
            return
        size = len(wire.encode(frame))
        if size > most:
            text = f"message to {frame.to}: not sent: too_large: it has {size:,} bytes; the server accepts {most:,}"
            raise SendError(text, Code.TOO_LARGE, id_client=frame.id_client)

    async def change(
        self,
        scene: Scene,
        to: str,
        event: str,
        targets: Iterable[str] = (),
        data: dict[str, object] | None = None,
        id_client: str | None = None,
    ) -> Message:
        """Send a notification that changes a conversation, and return it once it is stored.

        Raises: as `send`.
        """
        file: dict[str, object] = {
            "event": event,
            "operator": self.user,
            "targets": list(targets),
            "data": data or {},
        }
        return await self.send(scene, to, "", MessageType.NOTIFICATION, file, None, id_client)

    async def ask(self, request: str, ref: str, action: Callable[[float], object], what: str) -> Any:
        """Make a request to the machine with `action`, and return the event that answers it.

        If the action returns False, there is nothing to request; then wait only for a like request that is under way.
        `what` names the request in errors. While the client is offline, the request waits, as a send does.
        Raises: ClientError if the server rejects it or does not answer in time; ClientEnded.
        """
        self.check()
        answer = self._wait(request, ref)
        if self.device.perform(action) is False and len(self._waiting.get((request, ref), ())) == 1:
            answer.cancel()
            return None
        try:
            async with asyncio.timeout(None) as limit:
                self._limits.add(limit)
                self._limit(limit)
                event = await answer
        except TimeoutError:
            raise ClientError(f"{what}: no answer within {self._patience:g} s", Code.TIMEOUT, retry=True) from None
        finally:
            self._limits.discard(limit)
        if isinstance(event, events.RequestFailed):
            raise ClientError(f"{what}: {event.code}: {event.text}", event.code, retry=event.code.retryable)
        return event

    def _limit(self, limit: asyncio.Timeout) -> None:
        """Let a request wait for `patience` from now on, or without a limit while the client is not online."""
        assert self._loop is not None
        if not limit.expired():
            limit.reschedule(self._loop.time() + self._patience if self.device.state is State.ONLINE else None)

    def _limit_all(self) -> None:
        for limit in self._limits:
            self._limit(limit)

    async def set_conversation(self, conversation: str, **changes: Any) -> None:
        """Change settings of a conversation. Raises: as `ask`."""
        machine = self.device.machine
        await self.ask(
            frames.SetConversation.op,
            conversation,
            lambda now: machine.set_conversation(conversation, now, **changes),
            f"settings of {conversation}",
        )

    def _wait(self, request: str, ref: str) -> asyncio.Future[Any]:
        """Return a future of the answer to a request."""
        assert self._loop is not None
        future: asyncio.Future[Any] = self._loop.create_future()
        futures = self._waiting.setdefault((request, ref), [])
        futures[:] = [one for one in futures if not one.done()]
        futures.append(future)
        return future

    def _resolve(self, request: str, ref: str, value: object) -> None:
        for future in self._waiting.pop((request, ref), ()):
            if future.done():
                continue
            if isinstance(value, BaseException):
                future.set_exception(value)
            else:
                future.set_result(value)

    # --- events -----------------------------------------------------------------------------------------------------

    def on_event(self, event: events.ClientEvent) -> None:
        """Handle an event of the machine: resolve the call that waits for it, and report it to the application."""
        handle = _EVENTS.get(type(event))
        if handle is not None:
            handle(self, event)

    def _line_changed(self, conversation: str) -> None:
        if not self.application.handles("conversation"):
            return
        line = self.device.machine.conversation(conversation)
        if line is not None:
            self.application.emit("conversation", views.listed(line, self.user))

    def _ready(self, event: events.Ready) -> None:
        self._limit_all()
        self._resolve("start", "", None)
        self.application.emit("connected", event)

    def _disconnected(self, event: events.Disconnected) -> None:
        self.online.clear()
        self._limit_all()
        reason = self.device.connector.failure or (str(event.code) if event.code else "the connection was lost")
        if ("start", "") in self._waiting:
            if event.code == Code.TOKEN_EXPIRED and not self._token_expired:
                self._token_expired = True  # one more attempt, with a new token
                return
            url = self.device.url
            failure = self.device.connector.failure
            text = f"no server at {url}: {failure}; start one, or correct the address"
            if not failure or failure.startswith("token_source"):
                text = f"{self.user} could not log in at {url}: {reason}"
            self._resolve("start", "", ClientError(text, event.code or Code.UNAVAILABLE, retry=True))
            return
        self.application.emit("disconnected", views.ConnectionLost(event.code and str(event.code), reason))

    def _ended(self, event: events.Ended) -> None:
        starting = ("start", "") in self._waiting
        said = f"the server at {self.device.url} {'refused' if starting else 'ended the session of'} {self.user}"
        end = ClientEnded(f"{said}: {event.code}: {event.text}", str(event.code))
        self._end = self._end or end
        self.application.emit("ended", _copy(end))
        self._finish(end, at_once=False)

    def _reset(self, event: events.Reset) -> None:
        self.application.feed.forget_seqs()
        if self._keeper is not None:
            self._keeper.reset()
        self.application.emit("reset", event)

    def _acked(self, event: events.Acked) -> None:
        self._stored(event.id_client, event.seq, event.time)

    def _received(self, event: events.Received) -> None:
        frame = self._sends.get(event.id_client)
        if frame is not None and frame.scene == Scene.CHATROOM:  # the final answer; the seq follows the server's clock
            self._stored(event.id_client, event.seq, event.seq // 1000)

    def _stored(self, id_client: str, seq: int, time: int) -> None:
        frame = self._sends.pop(id_client, None) or self._failed.pop(id_client, None)
        if frame is None:
            return
        message = views.sent(frame, self.user, seq, time)
        self._resolve("send", id_client, message)
        self.application.emit("stored", message)
        self._line_changed(message.conversation_id)

    def _send_failed(self, event: events.SendFailed) -> None:
        frame = self._sends.pop(event.id_client, None)
        if frame is None:
            return
        self._failed[event.id_client] = frame
        if len(self._failed) > _FAILED:
            del self._failed[next(iter(self._failed))]
        what = f"change {(frame.file or {}).get('event')}" if frame.type == MessageType.NOTIFICATION else "message"
        fate = "perhaps not stored" if event.code is Code.TIMEOUT else "not stored"
        text = f"{what} to {conversation_id(frame.scene, self.user, frame.to)}: {fate}: {event.code}: {event.text}"
        retry = event.code.retryable or event.code is Code.TIMEOUT
        self._resolve("send", event.id_client, SendError(text, event.code, retry=retry, id_client=event.id_client))
        self.application.emit("failed", SendError(text, event.code, retry=retry, id_client=event.id_client))

    def _shown(self, event: events.Shown) -> None:
        message = event.message
        seq = 0 if message.scene == Scene.CHATROOM else message.seq
        name = views.kind_of(message, self.user)
        self.application.emit(name, views.received(message, self.user), message.conversation_id, seq)
        self._line_changed(message.conversation_id)

    def _changed(self, event: events.Changed) -> None:
        self.application.emit("changed", views.received(event.message, self.user))

    def _amended(self, event: events.Recalled | events.Edited) -> None:
        if isinstance(event, events.Recalled):
            self.application.feed.amend(event.conversation_id, event.seq, lambda message: None)
        else:
            content = event.content
            self.application.feed.amend(
                event.conversation_id, event.seq, lambda message: replace(message, content=content, edited=True)
            )
        self.application.emit("recalled" if isinstance(event, events.Recalled) else "edited", event)
        self._line_changed(event.conversation_id)

    def _peer(self, event: events.PeerRead | events.PeerDelivered) -> None:
        self.application.emit("read" if isinstance(event, events.PeerRead) else "delivered", event)
        self._line_changed(event.conversation_id)

    def _line(self, event: events.ReadMoved | events.StateChanged) -> None:
        self._line_changed(event.conversation_id)

    def _presence(self, event: events.Presence) -> None:
        (self.online.add if event.online else self.online.discard)(event.user)
        self.application.emit("presence", event)

    def _typing(self, event: events.Typing) -> None:
        self.application.emit("typing", event)

    def _resolved(self, event: events.Resolved) -> None:
        self.application.emit("resolved", event)

    def _answered(self, event: events.RequestDone | events.RequestFailed) -> None:
        self._resolve(event.request, event.ref, event)

    def _history(self, event: events.History) -> None:
        ref = frames.History(event.conversation_id, event.first, event.last).ref
        self._resolve(frames.History.op, ref, event)

    def _read_counted(self, event: events.ReadCounted) -> None:
        self._resolve(frames.ReadCount.op, frames.ReadCount(event.conversation_id, event.seq).ref, event)

    def _group(self, event: events.Group) -> None:
        self._resolve(frames.Group.op, frames.Group(event.page.conversation_id, event.page.after).ref, event)

    def _friends(self, event: events.Friends) -> None:
        self._resolve(frames.Friends.op, event.page.after, event)

    def _entered(self, event: events.Entered) -> None:
        self._resolve(frames.Enter.op, event.name, event)


def _copy(end: ClientEnded) -> ClientEnded:
    """Return a new exception with the same content, because each raise of an exception adds to its traceback."""
    return ClientEnded(end.text, end.code)


def _named(value: object) -> str:
    return type(value).__name__


_EVENTS: dict[type, Callable[[Session, Any], None]] = {
    events.Ready: Session._ready,
    events.Disconnected: Session._disconnected,
    events.Ended: Session._ended,
    events.Reset: Session._reset,
    events.Acked: Session._acked,
    events.Received: Session._received,
    events.SendFailed: Session._send_failed,
    events.Shown: Session._shown,
    events.Changed: Session._changed,
    events.Recalled: Session._amended,
    events.Edited: Session._amended,
    events.PeerRead: Session._peer,
    events.PeerDelivered: Session._peer,
    events.ReadMoved: Session._line,
    events.StateChanged: Session._line,
    events.Presence: Session._presence,
    events.Typing: Session._typing,
    events.Resolved: Session._resolved,
    events.RequestDone: Session._answered,
    events.RequestFailed: Session._answered,
    events.History: Session._history,
    events.ReadCounted: Session._read_counted,
    events.Entered: Session._entered,
    events.Group: Session._group,
    events.Friends: Session._friends,
}
