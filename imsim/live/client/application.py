"""The application of a client: its handlers and its loops over messages, and the events that wait for them."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from imsim.live.client.feed import Consumer, Entry, Feed

_LOGGER = logging.getLogger("imsim.client")

#: The events that an application can handle with `Client.on`.
EVENTS = (
    "message", "sent", "notification", "system", "stored", "failed", "read", "delivered", "recalled", "edited",
    "changed", "resolved", "conversation", "typing", "presence", "connected", "disconnected", "reset", "ended",
)  # fmt: skip

_MESSAGES = frozenset({"message"})
_GRACE = 2.0  # seconds that a handler has to return at the end of the client

Handler = Callable[[Any], object]


@dataclass(slots=True, eq=False)
class _Worker:
    """An asynchronous handler, with its place in the feed and the task that calls it."""

    name: str
    function: Handler
    consumer: Consumer
    task: asyncio.Task[None] | None = None


class Application:
    """The handlers and loops of a program that uses a client of `user`. `queue` events wait for it at most.

    An asynchronous handler has a worker: a task that calls it for one event at a time. Other handlers are called at
    once. While the program has neither a loop over messages nor a handler for them, messages wait in a backlog.
    """

    def __init__(self, user: str, queue: int) -> None:
        self.feed = Feed(queue)
        self._user = user
        self._loop: asyncio.AbstractEventLoop | None = None
        self._handlers: dict[str, list[Handler]] = {name: [] for name in EVENTS}
        self._workers: dict[tuple[str, int], _Worker] = {}  # by event and identity of the function
        self._tasks: set[asyncio.Task[Any]] = set()
        self._loops = 0  # the loops over messages that are open
        self._backlog: Consumer | None = self.feed.consume(_MESSAGES)
        #: The message at which a loop ended just now: by a `break`, or by an error, which then ends the client.
        self._left_at: Entry | None = None
        self._was_dropping = False

    # --- the life of the client -------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the workers in the running event loop."""
        self._loop = asyncio.get_running_loop()
        for worker in list(self._workers.values()):
            self._run(worker)

    def went_on(self) -> None:
        """Note that the program did something after its latest loop ended, so it was not an error that ended it."""
        self._left_at = None

    def leave(self, *, failed: bool) -> None:
        """Note that the program closes the client, because of an error if `failed`.

        Then it has not handled the message that its loop took last; otherwise it has handled it.
        """
        if not failed:
            self.feed.leave(asyncio.current_task())
        elif self._left_at is not None:
            self.feed.lose(self._left_at)

    def cancel(self) -> None:
        """Cancel the handlers that run, except one that is the caller."""
        for task in self._running():
            task.cancel()

    def _running(self) -> list[asyncio.Task[Any]]:
        current = asyncio.current_task()  # a handler may close the client
        workers = [worker.task for worker in self._workers.values() if worker.task is not None]
        return [task for task in (*workers, *self._tasks) if task is not current and not task.done()]

    async def finished(self) -> None:
        """Return once the handlers have returned, or after 2 s."""
        if running := self._running():
            await asyncio.wait(running, timeout=_GRACE)

    # --- handlers ---------------------------------------------------------------------------------------------------

    def handles(self, name: str) -> bool:
        """Return whether there is a handler for events of this name."""
        return bool(self._handlers[name])

    def on(self, name: str, function: Handler) -> None:
        """Call `function` for each event of this name. The first one for messages gets those that wait for a loop."""
        if function in self._handlers[name]:
            return
        self._handlers[name].append(function)
        backlog = self._backlog if name in _MESSAGES else None
        if _is_async(function):
            position = backlog.position if backlog is not None else None
            consumer = self.feed.consume(frozenset({name}), position=position)
            worker = self._workers[name, id(function)] = _Worker(name, function, consumer)
            if self._loop is not None and not self.feed.has_ended:
                self._run(worker)
        elif backlog is not None:
            for entry in self.feed.since(backlog.position):
                if entry.name == name:
                    self._call_now(name, function, entry.item)
        if backlog is not None:
            self.feed.release(backlog)
            self._backlog = None

    def off(self, name: str, function: Handler) -> None:
        """Do not call `function` any longer. A call that is under way goes on."""
        known = next((one for one in self._handlers[name] if one == function), None)
        if known is None:
            return
        self._handlers[name].remove(known)
        worker = self._workers.pop((name, id(known)), None)
        if worker is not None:
            self.feed.release(worker.consumer)
            if worker.task is not None:
                self._tasks.add(worker.task)
                worker.task.add_done_callback(self._tasks.discard)

    def _run(self, worker: _Worker) -> None:
        assert self._loop is not None
        worker.task = self._loop.create_task(self._work(worker), name=f"imsim client handler of {worker.name}")

    async def _work(self, worker: _Worker) -> None:
        while (entry := await worker.consumer.take()) is not None:
            await self._call(worker.name, worker.function, entry.item)

    async def _call(self, name: str, function: Handler, item: object) -> None:
        try:
            result = function(item)
            if inspect.isawaitable(result):
                await result
        except Exception:
            _LOGGER.exception("a handler of %r failed: %s", name, function)

    def _call_now(self, name: str, function: Handler, item: object) -> None:
        """Call a handler that is not asynchronous. It may return an awaitable all the same, as a lambda does."""
        try:
            result = function(item)
        except Exception:
            _LOGGER.exception("a handler of %r failed: %s", name, function)
            return
        if inspect.isawaitable(result):
            assert self._loop is not None
            task = self._loop.create_task(self._call(name, lambda _: result, item))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    # --- loops ------------------------------------------------------------------------------------------------------

    def open_loop(self, names: frozenset[str]) -> Consumer:
        """Return the consumer of a new loop over messages. It continues where the last loop ended, if none is open."""
        self._left_at = None
        position = None
        if self._backlog is not None:
            position = self._backlog.position
        consumer = self.feed.consume(names, position=position)
        if self._backlog is not None:
            consumer.dropped = self._backlog.dropped
            self.feed.release(self._backlog)
            self._backlog = None
        self._loops += 1
        return consumer

    def close_loop(self, consumer: Consumer) -> None:
        """Keep the messages that this loop has not taken for the next one, unless another loop is open."""
        self._left_at = consumer.entry
        consumer.finish()
        self._loops -= 1
        if not self._loops and not self._handlers["message"]:
            self._backlog = self.feed.consume(_MESSAGES, position=consumer.position)
        self.feed.release(consumer)

    # --- events -----------------------------------------------------------------------------------------------------

    def emit(self, name: str, item: object, conversation: str = "", seq: int = 0) -> None:
        """Report an event to the handlers and loops. `conversation` and `seq` are the position of a message."""
        if self.feed.is_closed:
            return
        for function in list(self._handlers[name]):
            if (name, id(function)) not in self._workers:
                self._call_now(name, function, item)
        if self.feed.is_wanted(name) and self.feed.put(Entry(name, item, conversation, seq)) and self._backlog is None:
            self._warn_of_drops()

    def _warn_of_drops(self) -> None:
        if not self._was_dropping:
            self._was_dropping = True
            _LOGGER.warning(
                "%s: more than %d events wait for the application; the oldest are dropped, and history() has them",
                self._user,
                self.feed.limit,
            )


def _is_async(function: Handler) -> bool:
    called = getattr(function, "__call__", None)  # noqa: B004  (an object with an asynchronous __call__)
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(called)
