"""Builders of frames and messages for the tests of the core, and drivers for its machines."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from imsim.core import events, frames, internal_frames, storage
from imsim.core.client.client import Client
from imsim.core.client.connection import State
from imsim.core.gateway.gateway import Gateway
from imsim.core.model import Code, ConversationState, Message, MessageType, Scene, Session
from imsim.core.placement import Placement
from imsim.core.policies import Policies
from imsim.core.router.conversations import Conversations
from imsim.core.router.users import Users
from imsim.core.storage.memory import MemoryStorage
from imsim.testing import ManualClock, RecordingPort

AB = "p2p:alice:bob"
TEAM = "group:team"


def message(seq: int = 1, **fields: Any) -> Message:
    """Return a message from alice to bob. `fields` replace any of its fields. Its idClient follows from its seq."""
    given: dict[str, Any] = {
        "conversation_id": AB,
        "seq": seq,
        "id": f"{AB}:{seq}",
        "id_client": f"i{seq}",
        "scene": Scene.P2P,
        "type": "text",
        "sender": "alice",
        "to": "bob",
        "time": 1_000 * seq,
        "content": f"text {seq}",
    }
    return Message(**{**given, **fields})


def session(
    user: str = "alice", device: str = "d0", epoch: int = 1, gateway: str = "g0", connection: int = 1
) -> Session:
    return Session(user, device, epoch, gateway, connection, device)


def state(version: int, read_seq: int = 0, unread: int = 0, conversation: str = AB, **fields: Any) -> ConversationState:
    return ConversationState(conversation, version, read_seq, unread, **fields)


def send(id_client: str, content: str = "text", to: str = "bob", **fields: Any) -> frames.Send:
    return frames.Send(id_client, Scene.P2P, to, content, **fields)


def change(
    id_client: str,
    event: str,
    *targets: str,
    by: str = "alice",
    scene: Scene = Scene.GROUP,
    to: str = "team",
    **data: Any,
) -> frames.Send:
    """Return the send that requests this change."""
    file: dict[str, object] = {"event": event, "operator": by, "targets": list(targets), "data": data}
    return frames.Send(id_client, scene, to, type=MessageType.NOTIFICATION, file=file)


def entry(seq: int, event: str, /, *targets: str, by: str = "alice", **fields: Any) -> Message:
    """Return a change in the log of AB, or of the conversation in `fields`. The other keywords are its data."""
    given = {name: fields.pop(name) for name in ("conversation_id", "scene", "to", "id_client") if name in fields}
    file: dict[str, object] = {"event": event, "operator": by, "targets": list(targets), "data": fields}
    return message(seq, type=MessageType.NOTIFICATION, sender=by, content="", file=file, **given)


class _Driven:
    """A machine of the router with a storage that answers only when the test calls `answer`.

    `asked` are the requests without an answer, the oldest first. The lists have the frames that the machine sent.
    """

    def __init__(self, store: MemoryStorage | None, policies: Policies | None) -> None:
        self.port = RecordingPort()
        self.clock = ManualClock()
        self.policies = policies or Policies()
        self.storage = store or MemoryStorage(self.policies.fanout)
        self.asked: deque[Any] = deque()
        self.sent: list[tuple[str, Any]] = []  # gateway, frame
        self.delivered: list[internal_frames.Deliver] = []
        self.opened: list[internal_frames.Opened] = []
        self.sent_to_users: list[tuple[str, Any]] = []  # user, frame
        self.events: list[Any] = []
        self.machine: Any = None

    def _collect(self) -> None:
        for method, arguments in self.port.take():
            if method == "store":
                self.asked.append(arguments[0])
            elif method == "to_gateway":
                self.sent.append(arguments)
            elif method == "to_users":
                (self.opened if isinstance(arguments[0], internal_frames.Opened) else self.delivered).append(
                    arguments[0]
                )
            elif method == "to_user":
                self.sent_to_users.append(arguments)
            else:
                assert method == "emit"
                self.events.append(arguments[0])

    def receive(self, frame: Any) -> None:
        self.machine.receive(frame, self.clock.now)
        self._collect()

    def answer(self, at: int = 0, result: Callable[[Any], Any] | None = None) -> Any:
        """Answer one request from storage, or with `result(request)`, and return the request."""
        request = self.asked[at]
        del self.asked[at]
        self.stored(request, (result or self.storage.execute)(request))
        return request

    def stored(self, request: Any, result: Any) -> None:
        """Give the machine this answer of storage, whether it waits for it or not."""
        self.machine.answered[type(request)](self.machine, request, result, self.clock.now)
        self._collect()

    def answer_all(self) -> None:
        while self.asked:
            self.answer()

    def advance(self, seconds: float) -> None:
        end = self.clock.now + seconds
        while (due := self.machine.timers.next_deadline()) is not None and due <= end:
            self.clock.now = max(due, self.clock.now)
            self.machine.timers.handle(self.clock.now)
            self._collect()
        self.clock.now = end

    def take(self, kind: type | tuple[type, ...] | None = None) -> list[Any]:
        """Return and clear the frames sent to gateways. A frame for clients is a pair (session, frame)."""
        sent, self.sent = self.sent, []
        found: list[Any] = []
        for _, frame in sent:
            if isinstance(frame, internal_frames.Down):
                found += [(session, frame.frame) for session in frame.sessions]
            else:
                found.append(frame)
        if kind is None:
            return found
        return [one for one in found if isinstance(one[1] if isinstance(one, tuple) else one, kind)]


def up(one: Session, frame: frames.Routed, conversation: str = "") -> internal_frames.Up:
    return internal_frames.Up(one, frame, conversation)


def done(request: str = "read", ref: str = AB, number: int = 0) -> frames.Done:
    return frames.Done(request, ref, number)


def same(asked: Any, *expected: Any) -> bool:
    """Return whether these requests have the same type and fields. Requests themselves compare by identity."""
    return [(type(one), asdict(one)) for one in asked] == [(type(one), asdict(one)) for one in expected]


def failed(request: storage.Request) -> storage.Failed:
    return storage.Failed("the disk is on fire")


class Writer(_Driven):
    """A driver for a `Conversations` machine."""

    def __init__(self, store: MemoryStorage | None = None, policies: Policies | None = None) -> None:
        super().__init__(store, policies)
        self.machine = Conversations(self.port, self.policies, epoch=1_000.0)

    def send(self, id_client: str, content: str = "text", by: Session | None = None, **fields: Any) -> None:
        self.receive(internal_frames.Up(by or session(), send(id_client, content, **fields), AB))

    def to(self, conversation: str, frame: frames.Send, by: Session | None = None) -> None:
        self.receive(internal_frames.Up(by or session(), frame, conversation))

    def change(self, id_client: str, event: str, *targets: str, by: str = "alice", **data: Any) -> None:
        """Send a change to the group TEAM."""
        self.to(TEAM, change(id_client, event, *targets, by=by, **data), session(by))
        self.look_up()

    def look_up(self) -> None:
        """Answer the requests that look up whether a change is new, and the relation between its users."""
        while found := [n for n, one in enumerate(self.asked) if isinstance(one, storage.Find | storage.Between)]:
            self.answer(found[0])

    def ask(self, id_client: str, event: str, by: str = "alice", to: str = "bob", **data: Any) -> None:
        """Send a change to the conversation of alice and bob."""
        self.to(AB, change(id_client, event, by=by, scene=Scene.P2P, to=to, **data), session(by))
        self.look_up()

    def say(self, id_client: str, by: str = "alice", **fields: Any) -> None:
        """Send a message to the group TEAM."""
        self.to(TEAM, frames.Send(id_client, Scene.GROUP, "team", "text", **fields), session(by))

    def acks(self) -> list[tuple[str, int]]:
        """Return (idClient, seq) of the answers `stored`, and clear all answers."""
        return [(frame.id_client, frame.seq) for _, frame in self.take(frames.Stored)]

    def refusals(self) -> list[tuple[str, Code]]:
        return [(frame.ref, frame.code) for _, frame in self.take(frames.Rejected)]

    def answers(self) -> list[tuple[str, int | Code]]:
        """Return (idClient, seq or code) of the answers to sends in their order, and clear them."""
        sent = [frame for _, frame in self.take((frames.Stored, frames.Rejected))]
        return [(f.id_client, f.seq) if isinstance(f, frames.Stored) else (f.ref, f.code) for f in sent]

    def audiences(self) -> list[tuple[int, tuple[str, ...]]]:
        """Return (seq, users) of the deliveries of the group's messages, and clear them."""
        found = [(deliver.message.seq, deliver.users) for deliver in self.delivered if deliver.message.scene == "group"]
        self.delivered.clear()
        return found

    def log(self, conversation: str = AB) -> list[str]:
        """Return the idClients in storage, in the order of their seqs."""
        request = storage.Missed(session(conversation.split(":")[1]), {}, 1_000_000)
        page = self.storage.execute(request)
        assert isinstance(page, storage.MissedPage)
        return [found.id_client for found in page.messages if found.conversation_id == conversation]


class Registry(_Driven):
    """A driver for a `Users` machine."""

    def __init__(self, store: MemoryStorage | None = None, policies: Policies | None = None) -> None:
        super().__init__(store, policies)
        self.machine = Users(self.port, self.policies)

    def attach(self, user: str, device: str = "d0", gateway: str = "g0", connection: int = 1, **fields: Any) -> None:
        self.receive(internal_frames.Attach(user, device, gateway, connection, **fields))

    def login(self, user: str, device: str = "d0", gateway: str = "g0", connection: int = 1) -> Session:
        """Attach a device, answer all requests to storage, and return the session."""
        self.attach(user, device, gateway, connection)
        self.answer_all()
        return next(frame.session for _, frame in reversed(self.sent) if isinstance(frame, internal_frames.Attached))

    def ask(self, one: Session, frame: frames.Routed) -> None:
        self.receive(up(one, frame))

    def revoke(self, user: str, before: float) -> None:
        self.machine.receive(internal_frames.Revoke(user, before), 0.0)
        self._collect()

    def sync(self, one: Session, cursors: dict[str, int] | None = None, number: int = 0) -> list[Any]:
        """Sync, and return the pages of the answer."""
        self.ask(one, frames.Sync(cursors or {}, number=number))
        self.answer_all()
        return [frame for to, frame in self.take((frames.Page, frames.SyncDone)) if to == one]

    def unread(self, one: Session, conversation: str = AB) -> tuple[int, int]:
        """Return (read_seq, unread) as a new device receives them."""
        found = {found.conversation_id: found for found in self.sync(one)[-1].states}[conversation]
        return found.read_seq, found.unread

    def states(self) -> list[tuple[str, str, int, int]]:
        """Return (user, device, read_seq, unread) of the states sent, and clear all frames."""
        return [(to.user, to.device, f.state.read_seq, f.state.unread) for to, f in self.take(frames.State)]

    def resynced(self) -> list[tuple[str, str]]:
        """Return (user, device) of the resyncs sent, and clear all frames."""
        return [(to.user, to.device) for to, _ in self.take(frames.Resync)]

    def deliver(
        self, one: Message, origin: Session | None = None, states: Any = (), users: Any = ("alice", "bob")
    ) -> None:
        self.receive(internal_frames.Deliver(users, one, origin or session(one.sender), states))

    def pushes(self) -> list[tuple[str, str, int]]:
        """Return (user, device, seq) of the pushes sent, and clear all frames."""
        return [(to.user, to.device, frame.message.seq) for to, frame in self.take(frames.Push)]


class Phone:
    """Bob's client, with a record of its actions."""

    def __init__(
        self,
        draw: Callable[[], float] = lambda: 0.5,
        *,
        shows_at_once: bool = True,
        reports_marks: bool = True,
        **policies: Any,
    ) -> None:
        self.port = RecordingPort()
        self.machine = Client(
            self.port,
            "bob",
            "d0",
            "token",
            Policies(**policies),
            draw,
            shows_at_once=shows_at_once,
            reports_marks=reports_marks,
        )
        self.clock = ManualClock()
        self._log: list[tuple[str, Any]] = []  # every call of the port
        self._collected = 0  # the count of calls that `collect` has returned

    @property
    def log(self) -> list[tuple[str, Any]]:
        self._log += self.port.take()
        return self._log

    def collect(self) -> list[tuple[str, Any]]:
        """Return the calls of the port since the last `collect`."""
        calls = self.log[self._collected :]
        self._collected += len(calls)
        return calls

    @property
    def sync(self) -> frames.Sync:
        """The latest `sync` that the client sent."""
        return next(a[0] for m, a in reversed(self.log) if m == "send" and isinstance(a[0], frames.Sync))

    def online(self, states: Any = (), version: int = 0) -> Phone:
        """Connect, log in and sync; then clear the record."""
        self.machine.start(self.clock.now)
        self.log_in()
        self.synced(states=states, version=version)
        assert self.machine.state == State.ONLINE
        self.collect()
        return self

    def log_in(self) -> None:
        self.machine.connected(self.clock.now)
        self.get(frames.LoggedIn("bob", "d0", 0, 75.0))

    def log_in_again(self) -> None:
        """Break the connection and log in again, up to the sync; then clear the record."""
        self.machine.disconnected(self.clock.now)
        self.machine.start(self.clock.now)
        self.log_in()
        self.collect()

    def page(self, *messages: Message, inbox: int = 0) -> None:
        """Answer the latest sync with a page that is not the last one."""
        self.get(frames.Page(list(messages), _cursors(messages), inbox, self.sync.number))

    def synced(self, *messages: Message, states: Any = (), version: int = 0, inbox: int = 0) -> None:
        """Answer the latest sync with the last page."""
        done = frames.SyncDone(list(messages), _cursors(messages), list(states), version, inbox, self.sync.number)
        self.get(done)

    def get(self, frame: frames.ToClient) -> None:
        self.machine.receive(frame, self.clock.now)

    def push(self, *seqs: int, **fields: Any) -> None:
        for seq in seqs:
            self.get(frames.Push(message(seq, **fields)))

    def pulled(self, first: int, last: int, *seqs: int, more: bool = False, conversation: str = AB) -> None:
        """Answer a `history` with the messages of its range, or with these `seqs`."""
        found = [message(seq, conversation_id=conversation) for seq in seqs or range(first, last + 1)]
        self.history_page(first, last, *found, more=more, conversation=conversation)

    def pushed(self, *messages: Message) -> None:
        for one in messages:
            self.get(frames.Push(one))

    def history_page(
        self, first: int, last: int, *messages: Message, more: bool = False, conversation: str = AB
    ) -> None:
        """Answer a `history` with these messages."""
        number = self.number("history", f"{conversation}:{first}-{last}")
        self.get(frames.HistoryPage(conversation, first, last, list(messages), more, number))

    def send(self, id_client: str, content: str = "text", to: str = "alice") -> None:
        self.machine.send(Scene.P2P, to, content, id_client, self.clock.now)

    def stored(self, id_client: str, seq: int, conversation: str = AB) -> None:
        self.get(frames.Stored(id_client, conversation, f"{conversation}:{seq}", seq, 1_000 * seq))

    def rejected(self, ref: str, code: Code, request: str = "send") -> None:
        self.get(frames.Rejected(request, ref, code, "why", 0.0, self.number(request, ref)))

    def number(self, op: str, ref: str | None = None) -> int:
        """Return the number of the latest request with this op (and `ref`), or 0 if there is none."""
        asked = (a[0] for m, a in reversed(self.log) if m == "send" and a[0].op == op)
        return next((frame.number for frame in asked if ref in (None, frame.ref)), 0)

    def advance(self, seconds: float) -> None:
        end = self.clock.now + seconds
        while (due := self.machine.next_deadline()) is not None and due <= end:
            self.clock.now = max(due, self.clock.now)
            self.machine.handle_timer(self.clock.now)
        self.clock.now = end

    def methods(self) -> list[str]:
        return [method for method, _ in self.collect()]

    def sent(self, kind: type | None = None) -> list[Any]:
        found = [arguments[0] for method, arguments in self.collect() if method == "send"]
        return found if kind is None else [frame for frame in found if isinstance(frame, kind)]

    def sends(self) -> list[tuple[str, bool, str | None]]:
        """Return (idClient, resend, after) of the sends since the last `collect`."""
        return [(frame.id_client, frame.resend, frame.after) for frame in self.sent(frames.Send)]

    def pulls(self) -> list[tuple[int, int]]:
        """Return (first, last) of the ranges requested since the last `collect`."""
        return [(frame.first, frame.last) for frame in self.sent(frames.History)]

    def of(self, kind: type) -> list[Any]:
        """Return all events of this kind."""
        return [arguments[0] for method, arguments in self.log if method == "emit" and type(arguments[0]) is kind]

    @property
    def shown(self) -> list[int]:
        return [event.message.seq for event in self.of(events.Shown)]

    def line(self, id: str = AB) -> Any:
        return {line.id: line for line in self.machine.conversations()}[id]


def _cursors(messages: Any) -> dict[str, int]:
    return {one.conversation_id: one.seq for one in messages}


def open_log(store: MemoryStorage, *senders: str, conversation: str = AB) -> None:
    """Create a conversation of alice and bob with one message from each of `senders`."""
    state = store.execute(storage.OpenConversation(conversation, ("alice", "bob")))
    assert isinstance(state, storage.LogState)
    for sender in senders:
        state.max_seq += 1
        one = message(state.max_seq, conversation_id=conversation, sender=sender)
        assert isinstance(store.execute(storage.Append(state.epoch, one, 0)), storage.Appended)


class OwnRouters(Placement):
    """A placement in which each name has its own router, with the same name."""

    def __init__(self):
        super().__init__(())

    def owner(self, name):
        return name


#: A placement in which the owner of a name is the first letter of the name's last part.
LETTERS = Placement("abcdefghijklmnopqrstuvwxyz", lambda name, _: ord(name.rpartition(":")[2][0]) - ord("a"))


class Access:
    """A gateway with a record of its actions."""

    def __init__(self, placement=None, **policies):
        self.port = RecordingPort()
        self.policies = Policies(**policies)
        self.machine = Gateway(self.port, self.policies, "g7", placement or OwnRouters(), epoch=1_000.0)
        self.clock = ManualClock()

    def connect(self, connection=1):
        self.machine.connected(connection, self.clock.now)

    def live(self, connection=1, user="bob", epoch=1):
        """Log in on a connection and return the session."""
        self.connect(connection)
        self.receive(frames.Login("token", "d0"), connection)
        self.machine.authenticated(connection, user, None, self.clock.now)
        one = session(user, "d0", epoch, "g7", connection)
        self.from_router(internal_frames.Attached(connection, one))
        self.port.take()
        return one

    def receive(self, frame, connection=1):
        self.machine.receive(connection, frame, self.clock.now)

    def from_router(self, frame):
        self.machine.receive_from_router(frame, self.clock.now)

    def push(self, *sessions, seq=1, **fields):
        self.from_router(internal_frames.Down(sessions, frames.Push(message(seq, **fields))))

    def advance(self, seconds):
        end = self.clock.now + seconds
        while (due := self.machine.next_deadline()) is not None and due <= end:
            self.clock.now = due
            self.machine.handle_timer(due)
        self.clock.now = end

    def sent(self):
        """Return (connection, frame) of the frames sent to clients, and clear the record."""
        return [arguments for method, arguments in self.port.take() if method == "send"]

    def ups(self):
        """Return (frame, conversation) of the frames sent up to routers, and clear the record."""
        found = []
        for method, arguments in self.port.take():
            if method == "to_router" and isinstance(arguments[1], internal_frames.Up):
                found.append((arguments[1].frame, arguments[0]))
        return found

    def pushed(self):
        """Return (connection, seq, attempt) of the reported pushes, check that they were sent, and clear the record."""
        calls = self.port.take()
        sent = [(c, f.message.seq) for m, (c, f) in ((m, a) for m, a in calls if m == "send") if type(f) is frames.Push]
        reported = [a[0] for m, a in calls if m == "emit"]
        assert all(isinstance(event, events.Pushed) for event in reported)
        assert [(event.session.connection, event.message.seq) for event in reported] == sent
        return [(event.session.connection, event.message.seq, event.attempt) for event in reported]


def refused(code, connection=1):
    """Return the calls that end a connection without a session, as `summary` shows them."""
    return [("send", connection, code, code.reconnects), ("close", connection)]


def summary(calls):
    """Return the calls without the texts of refusals."""
    found = []
    for method, arguments in calls:
        if method == "send" and isinstance(arguments[1], frames.Refused):
            found.append((method, arguments[0], arguments[1].code, arguments[1].reconnect))
        else:
            found.append((method, *arguments))
    return found
