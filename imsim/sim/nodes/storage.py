"""The node of a storage server."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from imsim.core import storage
from imsim.core.storage.memory import MemoryStorage
from imsim.scenario.sections.topology import StorageTier
from imsim.sim.clock import Clock
from imsim.sim.link import Hop
from imsim.sim.nodes.commits import Answer, GroupCommit
from imsim.sim.nodes.node import ServerNode
from imsim.sim.nodes.work import Work

#: The name of the router that sent a request, and the request.
Asked = tuple[str, storage.Request]

_PAGES = (storage.MissedPage, storage.RangePage)
_ABOUT_ONE = (storage.OpenConversation, storage.Lookup)


class Data:
    """The data of the storage servers. All servers share it: the result of a request does not depend on the server.

    `durable`: for each conversation, the time from which all of its stored messages are durable.
    """

    def __init__(self, fanout: str) -> None:
        self.memory = MemoryStorage(fanout)
        self.durable: dict[str, float] = {}

    def execute(self, request: storage.Request) -> storage.Result:
        return self.memory.execute(request)


class StorageNode(ServerNode):
    """A storage server. Requests take service time.

    A request is carried out when it arrives. With group commit, an append is carried out when its commit starts. The
    answer is sent when the work for the request is done. If a request reads a message that is not durable yet, the
    answer waits until the message is durable. If the queue is full, the request is not carried out and fails at once.
    """

    __slots__ = ("_commits", "_data", "_drops", "_routers", "stalled_until")

    tier = "storage"

    def __init__(self, index: int, clock: Clock, work: Work, data: Data, fields: StorageTier) -> None:
        super().__init__(index, clock, work)
        self._data = data
        self.stalled_until = clock.now
        self._drops = fields.queue is not None or fields.station is not None
        self._commits = GroupCommit(fields.commit, work, clock, data.execute) if fields.commit else None
        self._routers: Mapping[str, Hop] = {}

    def wire(self, routers: Mapping[str, Hop]) -> None:
        self._routers = routers

    def crash(self) -> None:
        """Stop the server. Its data survive. Requests that it has not answered are never answered."""
        super().crash()
        if self._commits is not None:
            self._commits = self._commits.forget()

    def forget(self) -> None:
        self.wire({})

    def receive(self, asked: Asked) -> None:
        request, now = asked[1], self.clock.now
        if now < self.stalled_until:
            self.clock.call_at(self.stalled_until, self._after_stall, (self.lives, asked))
            return
        if not self.is_up:
            return
        if self._drops and self._is_full(request, now):
            self.work.turn_away(now)
            self._answer(asked, storage.Failed("the queue is full"), now)
            return
        if self._commits is not None and type(request) is storage.Append:
            self._commits.add(request, self._committed(asked))
        else:
            result = self._data.memory.execute(request)
            self._answer(asked, result, self.work.done_with_storage(now, request, result))

    def _after_stall(self, waiting: tuple[int, Asked]) -> None:
        life, asked = waiting
        if life == self.lives:  # otherwise the server crashed during the stall, and the request is lost
            self.receive(asked)

    def _is_full(self, request: storage.Request, now: float) -> bool:
        waiting = 0 if self._commits is None else len(self._commits)
        commits = self._commits is not None and type(request) is storage.Append
        return (commits or self.work.takes(request.op)) and self.work.station.full(now, waiting)

    def _committed(self, asked: Asked) -> Answer:
        return lambda result, done: self._answer(asked, result, done)

    def _answer(self, asked: Asked, result: storage.Result, done: float | None) -> None:
        router, request = asked
        if done is None:  # only a custom station drops a request here
            result, done = storage.Failed("the custom station dropped the request"), self.clock.now
        durable = self._data.durable
        if type(result) is storage.Appended:
            assert type(request) is storage.Append
            durable[request.message.conversation_id] = done
        elif type(result) is not storage.Failed:
            for conversation in _read(request, result):
                done = max(done, durable.get(conversation, done))
        carry, receive = self._routers[router]
        carry(done, receive, (request, result))


def _read(request: storage.Request, result: storage.Result) -> Iterable[str]:
    """Return the conversations that the result has data of."""
    if isinstance(result, _PAGES):
        return {message.conversation_id for message in result.messages}
    if isinstance(request, _ABOUT_ONE):
        return (request.conversation_id,)
    return ()
