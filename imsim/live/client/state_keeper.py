"""The keeper of a client's state: it writes snapshots to the state file, at a bounded rate."""

from __future__ import annotations

import asyncio
import time

from imsim.core.client.saved import Saved
from imsim.live.client.device import Device
from imsim.live.client.feed import Feed
from imsim.live.client.state_file import StateFile

_PAUSE = 1.0  # seconds between two writes, at least
_SHARE = 0.1  # the share of the time that writing may take


class StateKeeper:
    """The keeper of the state of one device.

    A snapshot has the messages that the application has taken from `feed`. The others will arrive again after a
    restart, so that none is missed.
    """

    def __init__(self, file: StateFile, device: Device, feed: Feed) -> None:
        self._file = file
        self._device = device
        self._feed = feed
        self._inbox = 0  # the position in the user's inbox up to which the application has taken everything
        self._mark: tuple[int, int] | None = None  # a later position, and the end of the feed at that time
        self._is_complete = False  # whether the first sync is done, so that a snapshot has all conversations
        self._version: tuple[int, int] | None = None  # of the latest snapshot
        self._task: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Restore the device from the file, if it exists. Raises: UsageError, as `StateFile.open` does."""
        saved = self._file.open()
        if saved is not None:
            self._device.machine.restore(saved)
            self._inbox = saved.inbox

    def start(self) -> None:
        """Write the state from now on, after the first sync."""
        self._is_complete = True
        self._task = asyncio.get_running_loop().create_task(self._run(), name="imsim client state")

    def reset(self) -> None:
        """Forget positions, because the server has another log."""
        self._inbox, self._mark = 0, None

    def close(self) -> None:
        """Write the state a last time and release the file."""
        if self._task is not None:
            self._task.cancel()
        if (snapshot := self._snapshot()) is not None:
            self._file.write(*snapshot)
        self._file.close()

    async def save(self) -> float:
        """Write the state in a thread, and return the seconds that this took."""
        began = time.perf_counter()
        snapshot = self._snapshot()
        if snapshot is not None:
            await asyncio.to_thread(self._file.write, *snapshot)
        return time.perf_counter() - began

    async def _run(self) -> None:
        pause = _PAUSE
        while True:
            await asyncio.sleep(pause)
            pause = max(_PAUSE, await self.save() / _SHARE)

    def _snapshot(self) -> tuple[int, Saved] | None:
        """Return the state to write, or None if nothing has changed."""
        version = (self._device.activity, self._feed.first_needed)
        if version == self._version or not self._is_complete:
            return None
        self._version = version
        machine = self._device.machine
        if self._mark is None:
            self._mark = (machine.inbox, self._feed.end)
        inbox, end = self._mark
        if self._feed.first_needed >= end and not self._feed.lost:
            self._inbox, self._mark = inbox, None
        return self._file.next_number(), machine.saved(self._feed.cursors(), self._inbox)
