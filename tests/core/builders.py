"""Short ways to the values that the tests of the core need, and drivers for its machines."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from imsim.core import frames, storage
from imsim.core.conversations import Conversations
from imsim.core.memory import MemoryStorage
from imsim.core.model import Code, Message, Place, Scene, Session
from imsim.core.policies import Policies
from imsim.core.users import Users
from imsim.testing import ManualClock, RecordingPort

AB = "p2p:alice:bob"
TEAM = "group:team"


def message(seq: int = 1, **fields: Any) -> Message:
    """From alice to bob, unless `fields` say otherwise; its idClient follows from its seq."""
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


def place(version: int, read_seq: int = 0, unread: int = 0, conversation: str = AB, **fields: Any) -> Place:
    return Place(conversation, version, read_seq, unread, **fields)


def send(id_client: str, content: str = "text", to: str = "bob", **fields: Any) -> frames.Send:
    return frames.Send(id_client, Scene.P2P, to, content, **fields)


class _Driven:
    """A router's machine over a storage that answers only when told to.

    `asked` are the requests without an answer, the oldest first; what the machine told others is kept in lists.
    """

    def __init__(self, store: MemoryStorage | None, policies: Policies | None) -> None:
        self.port = RecordingPort()
        self.clock = ManualClock()
        self.storage = store or MemoryStorage()
        self.policies = policies or Policies()
        self.asked: deque[Any] = deque()
        self.told: list[tuple[str, Any]] = []  # gateway, frame
        self.delivered: list[frames.Deliver] = []
        self.told_users: list[tuple[str, Any]] = []  # user, frame
        self.events: list[Any] = []
        self.machine: Any = None

    def _collect(self) -> None:
        for method, arguments in self.port.take():
            if method == "store":
                self.asked.append(arguments[0])
            elif method == "to_gateway":
                self.told.append(arguments)
            elif method == "to_users":
                self.delivered.append(arguments[0])
            elif method == "to_user":
                self.told_users.append(arguments)
            else:
                assert method == "emit"
                self.events.append(arguments[0])

    def receive(self, frame: Any) -> None:
        self.machine.receive(frame, self.clock.now)
        self._collect()

    def answer(self, at: int = 0, result: Callable[[Any], Any] | None = None) -> Any:
        """Have storage answer one request, or answer `result(request)` instead; returns the request."""
        request = self.asked[at]
        del self.asked[at]
        self.machine.stored(request, (result or self.storage.execute)(request), self.clock.now)
        self._collect()
        return request

    def answer_all(self) -> None:
        while self.asked:
            self.answer()

    def advance(self, seconds: float) -> None:
        end = self.clock.now + seconds
        while (due := self.machine.next_deadline()) is not None and due <= end:
            self.clock.now = max(due, self.clock.now)
            self.machine.handle_timer(self.clock.now)
            self._collect()
        self.clock.now = end

    def take(self, kind: type | tuple[type, ...] | None = None) -> list[Any]:
        """What was told to gateways since, as (session, frame) for what goes down to clients; then forgotten."""
        told, self.told = self.told, []
        found: list[Any] = []
        for _, frame in told:
            if isinstance(frame, frames.Down):
                found += [(session, frame.frame) for session in frame.sessions]
            else:
                found.append(frame)
        if kind is None:
            return found
        return [one for one in found if isinstance(one[1] if isinstance(one, tuple) else one, kind)]


def failed(request: storage.Request) -> storage.Failed:
    return storage.Failed("the disk is on fire")


class Writer(_Driven):
    """A `Conversations` machine."""

    def __init__(self, store: MemoryStorage | None = None, policies: Policies | None = None) -> None:
        super().__init__(store, policies)
        self.machine = Conversations(self.port, self.policies, epoch=1_000.0)

    def send(self, id_client: str, content: str = "text", by: Session | None = None, **fields: Any) -> None:
        self.receive(frames.Up(by or session(), send(id_client, content, **fields), AB))

    def create(self, name: str, *members: str, by: Session | None = None) -> None:
        self.receive(frames.Up(by or session(), frames.CreateGroup(name, list(members)), f"group:{name}"))

    def acks(self) -> list[tuple[str, int]]:
        """(idClient, seq) of the answers `stored` since; other answers are forgotten with them."""
        return [(frame.id_client, frame.seq) for _, frame in self.take(frames.Stored)]

    def refusals(self) -> list[tuple[str, Code]]:
        return [(frame.ref, frame.code) for _, frame in self.take(frames.Rejected)]

    def log(self, conversation: str = AB) -> list[str]:
        """The idClients in storage, in the order of their seqs."""
        request = storage.Missed(session(conversation.split(":")[1]), {}, 1_000_000)
        page = self.storage.execute(request)
        assert isinstance(page, storage.MissedPage)
        return [found.id_client for found in page.messages if found.conversation_id == conversation]


class Registry(_Driven):
    """A `Users` machine."""

    def __init__(self, store: MemoryStorage | None = None, policies: Policies | None = None) -> None:
        super().__init__(store, policies)
        self.machine = Users(self.port, self.policies)

    def attach(self, user: str, device: str = "d0", gateway: str = "g0", connection: int = 1) -> None:
        self.receive(frames.Attach(user, device, gateway, connection))

    def login(self, user: str, device: str = "d0", gateway: str = "g0", connection: int = 1) -> Session:
        """Attach, answer whatever storage is asked, and return the session."""
        self.attach(user, device, gateway, connection)
        self.answer_all()
        return next(frame.session for _, frame in reversed(self.told) if isinstance(frame, frames.Attached))

    def deliver(
        self, one: Message, origin: Session | None = None, places: Any = (), users: Any = ("alice", "bob")
    ) -> None:
        self.receive(frames.Deliver(users, one, origin or session(one.sender), places))

    def pushes(self) -> list[tuple[str, str, int]]:
        """(user, device, seq) of the pushes since; other frames are forgotten with them."""
        return [(to.user, to.device, frame.message.seq) for to, frame in self.take(frames.Push)]


def open_log(store: MemoryStorage, *senders: str, conversation: str = AB) -> None:
    """A conversation of alice and bob with one message from each of `senders`."""
    state = store.execute(storage.OpenConversation(conversation, ("alice", "bob")))
    assert isinstance(state, storage.ConversationState)
    for sender in senders:
        state.max_seq += 1
        one = message(state.max_seq, conversation_id=conversation, sender=sender)
        assert store.execute(storage.Append(state.epoch, one, 0)) == storage.Appended()
