"""The players of a run, as its coordinator knows them: which take part, which were lost, and how their clocks go."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from imsim.load.clocks import Clock, Offset, warning_of
from imsim.load.device import now

_PROBES = 24  # of each clock
_PROBE_TIMEOUT = 0.5  # seconds to wait for the answer to a probe
_UNANSWERED = 3  # probes, after which a clock counts as unknown


class Roster:
    """The players of a run, by number.

    count: the count of players at the start, which have the numbers from 0.
    about: what `describe` returns in this process, if the players are on others; None: the player is on this one.
    send: sends a message to a player: `send(index, kind, **values)`.
    wait: waits until its first argument returns true, for this many seconds at most, and returns whether it does.
    """

    def __init__(
        self,
        count: int,
        about: Mapping[str, Any] | None,
        send: Callable[..., None],
        wait: Callable[[Callable[[], bool], float], bool],
    ) -> None:
        self.present = set(range(count))
        """The players that take part."""
        self.losses: dict[int, tuple[float, str]] = {}
        """The players that were lost: when (seconds of the plan), and in which phase."""
        self.lost_at = -math.inf
        """When the last one was lost."""
        self._about = about
        self._send = send
        self._wait = wait
        self._players: dict[int, dict[str, Any]] = {index: {} for index in range(count)}  # what they reported
        self._clocks: dict[int, Clock] = {}
        self._answers: dict[int, list[tuple[float, float, float]]] = {}  # to the probes of each player

    @property
    def are_remote(self) -> bool:
        """Whether the players are in other processes."""
        return self._about is not None

    def is_lost(self, index: int) -> bool:
        """Return whether this player was lost, or cannot take part."""
        return index in self.losses or index not in self._players

    def name(self, index: int) -> str:
        """Return the name of a player for messages to the tester."""
        about = self._players[index]
        return f"worker {index} ({about['host']}, pid {about['pid']})" if "pid" in about else f"worker {index}"

    # --- coming and going -------------------------------------------------------------------------------------------

    def add(self, index: int, *, takes_part: bool) -> None:
        """Add a player that comes late. It takes part at once, or later, by `bring_in`."""
        self._players[index] = {}
        if takes_part:
            self.present.add(index)

    def describe(self, index: int, about: Mapping[str, Any]) -> None:
        """Note what a player reported of its process."""
        self._players[index] |= about

    def objection(self, index: int) -> str | None:
        """Return why the process of a player cannot take part; None if it can."""
        if self._about is None:
            return None
        about, ours = self._players[index], self._about
        if about["version"] != ours["version"]:
            return f"it has imsim {about['version']}, but the master has {ours['version']}; install the same version"
        if about["byteorder"] != ours["byteorder"]:
            return "its computer has another byte order than the master's"
        return None

    def waiting(self) -> list[int]:
        """Return the players that have reported, but take no part so far."""
        return sorted(
            index for index in self._players.keys() - self.present - self.losses.keys() if self._players[index]
        )

    def bring_in(self, index: int) -> None:
        """Let a player that came late take part."""
        self.present.add(index)

    def remove(self, index: int) -> None:
        """Forget a player that cannot take part."""
        del self._players[index]
        self.present.discard(index)

    def lose(self, index: int, at: float, phase: str, devices: int) -> None:
        """Note that a player is lost, with this count of devices."""
        self.losses[index] = at, phase
        self.lost_at = now()
        self.present.discard(index)
        self._players[index]["devices"] = devices

    # --- clocks -----------------------------------------------------------------------------------------------------

    def measure_clock(self, index: int) -> None:
        """Measure the clock of a player, before it plays."""
        if self._about is None:
            self._clocks[index] = Clock(Offset(0.0, 0.0), is_shared=True)
        else:
            offset = self._measure(index)
            self._clocks[index] = Clock(offset, self._players[index].get("boot") == self._about["boot"])

    def finish_clocks(self) -> None:
        """Measure the clocks of the players again, after they have played. Without an answer, the first one holds."""
        if self._about is not None:
            for index in sorted(self.present & self._clocks.keys()):
                self._clocks[index].finish(self._measure(index))

    def _measure(self, index: int) -> Offset | None:
        """Return how far the clock of a player is ahead; None if it does not answer."""
        answers = self._answers[index] = []
        unanswered = 0
        for sent in range(_PROBES):
            self._send(index, "probe", sent=now())
            if not self._wait(partial(_has_more, answers, sent - unanswered), _PROBE_TIMEOUT):
                unanswered += 1
                if unanswered == _UNANSWERED or index in self.losses:
                    break
        return Offset.estimate(answers)

    def probed(self, index: int, sent: float, at: float) -> None:
        """Note the answer to a probe."""
        self._answers[index].append((sent, at, now()))

    def ahead(self, index: int) -> float:
        """Return by how many seconds the clock of a player is ahead, as far as times for it must be corrected."""
        return self._clocks[index].applied if index in self._clocks else 0.0

    @property
    def corrections(self) -> dict[int, int]:
        """The ns to add to the times of each player whose rows must be corrected."""
        return {index: clock.correction for index, clock in self._clocks.items() if clock.correction}

    @property
    def unknown_clocks(self) -> list[str]:
        """The names of the players whose clocks are unknown."""
        return [self.name(index) for index, clock in self._clocks.items() if not clock.is_known]

    def clock_warning(self, latencies: list[float]) -> str | None:
        """Return a warning if the clocks are not known well enough for the latencies between players (ms)."""
        errors = sorted(clock.error for clock in self._clocks.values())
        return warning_of(sum(errors[-2:]), float(np.median(latencies)) / 1e3) if latencies else None

    # --- the manifest -----------------------------------------------------------------------------------------------

    def entries(self, devices: Callable[[int], int], health: Mapping[int, Any]) -> list[dict[str, Any]]:
        """Return the entries of the players for the manifest.

        devices: returns the count of devices of a player that was not lost. health: of the players that reported it.
        """
        return [self._entry(index, devices, health) for index in sorted(self._players)]

    def _entry(self, index: int, devices: Callable[[int], int], health: Mapping[int, Any]) -> dict[str, Any]:
        about, clock = self._players[index], self._clocks.get(index)
        died_at = round(self.losses[index][0], 3) if index in self.losses else None
        entry = {"index": index, "host": about.get("host"), "pid": about.get("pid"), "died_at": died_at}
        entry["devices"] = about["devices"] if "devices" in about else devices(index)
        if index in health:
            entry["health"] = health[index]
        if clock is None or not clock.is_known:
            return entry | {"offset_ms": None, "offset_error_ms": None, "offset_applied": False}
        # Clocks of two computers count from their starts. Their difference says nothing, that of the times of day does.
        seconds = clock.offset.seconds
        if self._about is not None and about["boot"] != self._about["boot"]:
            seconds += about["anchor"] - self._about["anchor"]
        return entry | {
            "offset_ms": round(seconds * 1e3, 4),
            "offset_error_ms": round(clock.offset.error * 1e3, 4),
            "offset_applied": bool(clock.applied or clock.correction),
        }


def _has_more(answers: list[Any], count: int) -> bool:
    return len(answers) > count
