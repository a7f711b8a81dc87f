"""A store that keeps everything in memory, with the core's reference storage. It is meant for tests and experiments."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable

from imsim.core.storage import Request, Result, Saved
from imsim.core.storage.memory import MemoryStorage
from imsim.live.stores.probe import Probe


class MemoryStore:
    """A store in memory. It answers in order, in the next iteration of the event loop."""

    def __init__(self, *, fanout: str = "read") -> None:
        self.storage = MemoryStorage(fanout, log=uuid.uuid4().hex)
        self._deliver: Callable[[list[tuple[Request, Result]]], None] | None = None
        self._answers: list[tuple[Request, Result]] = []
        self.answered = 0

    def start(self, deliver: Callable[[list[tuple[Request, Result]]], None]) -> None:
        self._deliver = deliver
        self._answers = []

    def submit(self, request: Request) -> None:
        if not self._answers:
            asyncio.get_running_loop().call_soon(self._answer)
        result = Saved() if type(request) is Probe else self.storage.execute(request)
        self._answers.append((request, result))

    @property
    def log(self) -> str:
        return self.storage.log

    @property
    def latest_revocation(self) -> float:
        return self.storage.latest_revocation

    @property
    def idle(self) -> bool:
        return not self._answers

    @property
    def waiting(self) -> int:
        return len(self._answers)

    async def flush(self) -> None:
        while self._answers:
            await asyncio.sleep(0)

    def close(self) -> None:
        pass

    def _answer(self) -> None:
        answers, self._answers = self._answers, []
        self.answered += len(answers)
        if self._deliver is not None and answers:
            self._deliver(answers)
