"""The feed: the events that a client keeps until the application has taken them, in order."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_WITHDRAWN = ""  # the name of an entry that no consumer takes


@dataclass(slots=True)
class Entry:
    """An event for the application. `name` is the name of the event, and `item` its value.

    A message has a position in the log of its conversation: `conversation_id` and `seq`. Other events have the seq 0.
    """

    name: str
    item: object
    conversation_id: str = ""
    seq: int = 0


class Consumer:
    """A loop of the application over the feed. It takes the entries with one of the `names`.

    `position` is the number of the first entry that the application may still need. While the application handles an
    entry, this is the entry's own number. `dropped` counts the entries that the feed dropped before they were taken.
    """

    def __init__(self, feed: Feed, names: frozenset[str], position: int) -> None:
        self.names = names
        self.position = position
        self.dropped = 0
        self.task: asyncio.Task[object] | None = None  # the task that took the latest entry
        self._feed = feed
        self._busy = False  # whether the application handles the entry at `position`
        self._is_released = False
        self._arrived = asyncio.Event()

    def takes(self, entry: Entry) -> bool:
        return entry.name in self.names

    def finish(self) -> None:
        """Note that the application has handled the latest entry that it took."""
        if self._busy:
            self._busy = False
            self.position += 1
        self.skip()

    def skip(self) -> None:
        """Move to the next entry that this consumer takes. A released one stays: the feed forgets its entries."""
        if not self._busy and not self._is_released:
            while self.position < self._feed.end and not self.takes(self._feed[self.position]):
                self.position += 1

    def put(self, entry: Entry) -> None:
        """Notice a new entry at the end of the feed."""
        if self.takes(entry):
            self._arrived.set()
        else:
            self.skip()

    @property
    def entry(self) -> Entry | None:
        """The entry that the application handles, if any."""
        return self._feed[self.position] if self._busy else None

    def lose_to(self, base: int, entry: Entry) -> None:
        """Notice that the feed dropped the entry before the number `base`."""
        if self.position < base:
            self.dropped += not self._busy and self.takes(entry)
            self._busy = False
            self.position = base
            self.skip()

    def wake(self) -> None:
        self._arrived.set()

    def release(self) -> None:
        """Take nothing more."""
        self._is_released = True
        self.wake()

    async def take(self) -> Entry | None:
        """Return the next entry, or None once the feed has ended and nothing is left.

        This also notes that the application has handled the entry before it.
        """
        while True:
            self.finish()  # at each turn, because another task may have taken an entry meanwhile
            self._feed.trim()
            if self._feed.is_closed or self._is_released:
                return None
            if self.position < self._feed.end:
                break
            if self._feed.has_ended:
                return None
            self._arrived.clear()
            await self._arrived.wait()
        self._busy = True
        self.task = asyncio.current_task()
        return self._feed[self.position]


class Feed:
    """The latest events that a consumer still needs, `limit` at most. The feed drops the oldest ones beyond that.

    `lost` has, for each conversation, the lowest seq of the messages that were dropped or whose handling failed.
    """

    def __init__(self, limit: int) -> None:
        self.consumers: list[Consumer] = []
        self.has_ended = False  # no further entries will come
        self.is_closed = False  # nothing more is taken
        self.dropped = 0
        self.lost: dict[str, int] = {}
        self.limit = limit
        self._entries: deque[Entry] = deque()
        self._base = 0  # the number of the first entry; numbers count from the start of the client

    @property
    def end(self) -> int:
        """The number of the next entry."""
        return self._base + len(self._entries)

    @property
    def first_needed(self) -> int:
        """The number of the first entry that a consumer may still need."""
        return min((consumer.position for consumer in self.consumers), default=self.end)

    def __getitem__(self, number: int) -> Entry:
        return self._entries[number - self._base]

    def since(self, number: int) -> list[Entry]:
        """Return the entries from this number on."""
        return [self[one] for one in range(max(number, self._base), self.end)]

    def consume(self, names: frozenset[str], position: int | None = None) -> Consumer:
        """Return a new consumer. It begins at the end of the feed, or at an earlier `position`."""
        consumer = Consumer(self, names, self.end if position is None else max(position, self._base))
        self.consumers.append(consumer)
        consumer.skip()
        return consumer

    def release(self, consumer: Consumer) -> None:
        """Forget a consumer that takes nothing more."""
        consumer.release()
        if consumer in self.consumers:
            self.consumers.remove(consumer)
            self.trim()

    def is_wanted(self, name: str) -> bool:
        """Return whether a consumer may take events of this name."""
        return any(name in consumer.names for consumer in self.consumers)

    def put(self, entry: Entry) -> bool:
        """Add an entry. Return whether an older one had to be dropped, which a consumer still needed."""
        if not any(consumer.takes(entry) for consumer in self.consumers):
            return False
        self._entries.append(entry)
        for consumer in self.consumers:
            consumer.put(entry)
        if len(self._entries) <= self.limit:
            return False
        oldest = self._entries.popleft()
        self._base += 1
        self.lose(oldest)
        self.dropped += 1
        for consumer in self.consumers:
            consumer.lose_to(self._base, oldest)
        self.trim()
        return True

    def lose(self, entry: Entry) -> None:
        """Note that the application has not handled this entry, so that it arrives again after a restart."""
        if entry.seq:
            lowest = self.lost.get(entry.conversation_id, entry.seq)
            self.lost[entry.conversation_id] = min(lowest, entry.seq)

    def amend(self, conversation: str, seq: int, change: Callable[[Any], object | None]) -> None:
        """Change a message that the application has not taken yet. If `change` returns None, withdraw it."""
        for entry in self._entries:
            if entry.seq == seq and entry.conversation_id == conversation:
                item = change(entry.item)
                if item is None:
                    entry.name = _WITHDRAWN
                else:
                    entry.item = item
        for consumer in self.consumers:
            consumer.skip()

    def leave(self, task: asyncio.Task[object] | None) -> None:
        """Note that a task has handled everything that it took: it has left its loops."""
        for consumer in self.consumers:
            if consumer.task is task:
                consumer.finish()

    def forget_seqs(self) -> None:
        """Forget the positions of all messages, because the server has another log."""
        self.lost.clear()
        for entry in self._entries:
            entry.seq = 0

    def trim(self) -> None:
        """Forget the entries that no consumer needs."""
        needed = self.first_needed
        while self._base < needed and self._entries:
            self._entries.popleft()
            self._base += 1

    def cursors(self) -> dict[str, int]:
        """Return the seq before the first message that was not taken, for each conversation that has one."""
        found = dict(self.lost)
        for number, entry in enumerate(self._entries, self._base):
            is_lowest = entry.seq and entry.seq < found.get(entry.conversation_id, entry.seq + 1)
            if is_lowest and any(c.position <= number and c.takes(entry) for c in self.consumers):
                found[entry.conversation_id] = entry.seq
        return {id: seq - 1 for id, seq in found.items()}

    def finish(self, *, at_once: bool) -> None:
        """End the feed: consumers take the entries that are left, or none if `at_once`."""
        self.has_ended = True
        self.is_closed = self.is_closed or at_once
        for consumer in self.consumers:
            consumer.wake()
