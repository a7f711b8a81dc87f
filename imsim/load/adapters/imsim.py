"""The adapter of imsim's own server: a session is the core's `Client`, which the simulation uses, too."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlsplit

from imsim.core import events, frames
from imsim.core.client.client import Client
from imsim.core.exceptions import RunError, UsageError
from imsim.core.model import Scene, conversation_id
from imsim.core.sizes import largest_taken
from imsim.core.timers import Timers
from imsim.load.adapters.interface import (
    Adapter,
    Closed,
    Connect,
    Connected,
    Conversation,
    Disconnect,
    Disconnected,
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
from imsim.scenario import actor
from imsim.wire.codec import WireError, decode_from_server, encode

_TOKEN = "token"


class ImsimAdapter(Adapter):
    """The adapter of a server that speaks imsim's protocol. `Target.key` is the server's key, for tokens."""

    features = frozenset(Feature)

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        try:
            parts = urlsplit(target.url)
            _ = parts.port
        except ValueError as error:
            raise UsageError(f"url: must be ws://host:port or wss://host:port (got {target.url!r}: {error})") from None
        if parts.scheme not in ("ws", "wss") or not parts.hostname or parts.username or parts.query or parts.fragment:
            raise UsageError(f"url: must be ws://host:port or wss://host:port (got {target.url!r})")
        self.largest = largest_taken(target.policies)
        self._http = f"http{target.url.removeprefix('ws').rstrip('/')}"
        self._connect = Connect(target.url, timeout=target.policies.login_timeout)

    def session(self, number: int, user: str, device: str) -> ImsimSession:
        token = Request(
            "GET",
            f"{self._http}/token?user={quote(user, safe='')}",
            (("Authorization", f"Bearer {self.target.key}"),),
            ref=_TOKEN,
            timeout=self.target.policies.login_timeout,
        )
        return ImsimSession(user, device, self.target, token, self._connect, self.target.draw(number))

    def probe(self) -> Request:
        return Request("GET", f"{self._http}/healthz", ref="probe", timeout=5.0)

    def probed(self, response: Response) -> Mapping[str, Any]:
        """Return the server's name and version, and `shed`: the count of chatroom messages that it has shed so far."""
        url = self.target.url
        if response.status == 0:
            raise RunError(f"no server at {url}; start one with `imsim serve` ({_text(response.body)})")
        if response.status != 200:
            raise RunError(f"not a healthy imsim server at {url}: HTTP {response.status} in answer to GET /healthz")
        try:
            found = json.loads(response.body)
            return {"name": "imsim", "version": found.get("version"), "shed": int(found.get("shed", 0))}
        except (ValueError, TypeError, AttributeError):
            return {"shed": 0}  # another implementation of the server


class ImsimSession(Session):
    """A device: a `Client`. The session returns the events of the client, and those of the interface.

    It requests its token from the server before its first connection.
    """

    def __init__(
        self, user: str, device: str, target: Target, token: Request, connect: Connect, draw: Callable[[], float]
    ) -> None:
        self._port = _Port(token, connect)
        timers = Timers()
        # It is called after each input: the timers' own method saves a call.
        self.next_deadline = timers.next_deadline  # type: ignore[method-assign]
        # Rows contain no marks. Without the events of marks, a message causes three events instead of eight.
        self.client = self._port.client = Client(
            self._port, user, device, "", target.policies, draw, "", timers, reports_marks=False
        )

    def start(self, now: float) -> list[Out]:
        return self.act(Client.start, now)

    def stop(self, now: float) -> list[Out]:
        return self.act(Client.stop, now)

    def received(self, item: Item, now: float) -> list[Out]:
        kind = type(item)
        if kind is bytes:
            try:
                self.client.receive(decode_from_server(item), now)  # type: ignore[arg-type]  # `kind` narrows it
            except WireError as error:
                self._end(f"the server sent an invalid frame: {error}", now)
        elif kind is Connected:
            self.client.connected(now)
        elif isinstance(item, Response):
            self._take_token(item, now)
        elif isinstance(item, Disconnected):
            self._lost(item.reason, now)
        return self._outs(now)

    def send(self, message: Message, now: float) -> list[Out]:
        (scene, to), client = message.conversation, self.client
        client.send(
            scene, to, message.text, message.id, now, type=message.type, file=message.file, custom=message.custom
        )
        return self._outs(now)

    def act(self, step: Callable[[Client, float], None], now: float) -> list[Out]:
        """Call `step(client, now)`, which makes the client do something (feature `actions`)."""
        step(self.client, now)
        return self._outs(now)

    def join(self, conversation: Conversation, members: Sequence[str], creates: bool, now: float) -> list[Out]:
        if conversation.scene is Scene.CHATROOM:
            self.client.enter(conversation.name, now)
        elif creates:
            id_client = f"create:{conversation.name}"
            self._port.creating[id_client] = conversation
            self.client.create_group(conversation.name, list(members), now, id_client)
        else:
            self._port.outs.append(Joined(conversation))
        return self._outs(now)

    def read(self, conversation: Conversation, id: str, now: float) -> list[Out]:
        """Mark everything that the device shows of the conversation as read. It includes the message."""
        name = conversation_id(conversation.scene, self.client.user, conversation.name)
        if self.client.read(name, now):
            self._port.reading[name] = id
        return self._outs(now)

    def handle_timer(self, now: float) -> list[Out]:
        return self.act(Client.handle_timer, now)

    def _outs(self, now: float) -> list[Out]:
        """Answer the friend requests that arrived, and return everything that the driver must do."""
        port = self._port
        while port.friend_requests:
            actor.answer(self.client, port.friend_requests.pop(0), now)
        outs, port.outs = port.outs, []
        return outs

    def _end(self, reason: str, now: float) -> None:
        self.client.stop(now)
        self._port.outs.append(Closed(reason))

    def _lost(self, reason: str, now: float) -> None:
        self._port.trouble = reason
        self.client.disconnected(now)

    def _take_token(self, response: Response, now: float) -> None:
        port = self._port
        if not port.is_connecting:
            return  # the session was stopped meanwhile
        if response.status in (401, 403):
            self._end(f"the server at {port.open.url} refused the key: {_text(response.body)}", now)
        elif response.status == 0 or response.status >= 500:
            self._lost(_text(response.body) if response.status == 0 else f"HTTP {response.status} for GET /token", now)
        else:
            try:
                self.client.token = str(json.loads(response.body)["token"])
            except (ValueError, TypeError, KeyError):
                answer = f"HTTP {response.status} in answer to GET /token: {_text(response.body)}"
                self._end(f"no token from {port.open.url}: {answer}", now)
            else:
                port.outs.append(port.open)


class _Port:
    """The port of a session's client: it collects what the driver must do."""

    client: Client  # the owner of this port, which creates the client with it

    def __init__(self, token: Request, open: Connect) -> None:
        self.outs: list[Out] = []
        self.creating: dict[str, Conversation] = {}  # idClient of the pending request -> the group that it creates
        self.reading: dict[str, str] = {}  # conversation -> the message that the pending read mark is for
        self.friend_requests: list[events.Shown] = []  # those that the user must answer
        self.trouble = ""  # why the latest attempt to connect failed
        self.is_connecting = False
        self.open = open
        self._token = token

    def connect(self) -> None:
        self.is_connecting = True
        self.outs.append(self.open if self.client.token else self._token)

    def close(self) -> None:
        self.is_connecting = False
        self.outs.append(Disconnect())

    def send(self, frame: frames.FromClient) -> None:
        self.outs.append(encode(frame))

    def emit(self, event: events.ClientEvent) -> None:
        kind, outs = type(event), self.outs
        outs.append(event)
        if kind is events.Sent or (kind is events.Acked and not self.creating):
            return
        e: Any = event
        if kind is events.Shown:
            if actor.wants_answer(self.client, e):
                self.friend_requests.append(e)
        elif kind is events.Ready:
            outs.append(Ready())
        elif kind is events.Acked:
            if e.id_client in self.creating:
                outs.append(Joined(self.creating.pop(e.id_client)))
        elif kind is events.SendFailed:
            if e.id_client in self.creating:
                outs.append(NotJoined(self.creating.pop(e.id_client), f"{e.code}: {e.text}"))
        elif kind is events.Entered:
            outs.append(Joined(Conversation(Scene.CHATROOM, e.name)))
        elif kind is events.RequestDone:
            if e.request == frames.Read.op and e.ref in self.reading:
                outs.append(Read(self.reading.pop(e.ref)))
        elif kind is events.RequestFailed:
            if e.request == frames.Enter.op:
                outs.append(NotJoined(Conversation(Scene.CHATROOM, e.ref), f"{e.code}: {e.text}"))
        elif kind is events.Disconnected:
            reason, self.trouble = self.trouble, ""
            outs.append(Offline(reason or (f"connection lost: {e.code}" if e.code else "connection lost")))
        elif kind is events.Ended:
            outs.append(Closed(f"{e.code}: {e.text}"))


def _text(body: bytes) -> str:
    try:
        text = str(json.loads(body)["error"])
    except (ValueError, TypeError, KeyError):
        text = body.decode("utf-8", "replace")
    return " ".join(text.split())[:200] or "no reason given"
