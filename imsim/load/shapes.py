"""Load shapes: how many of the scenario's devices take part, over the time of the test.

A locustfile uses one by a subclass, which may change its attributes:

    from imsim.load.shapes import Spike

    class Shape(Spike):
        base = 0.3

Devices that a shape takes away are withdrawn: what they would have sent and received is not counted as lost. A shape of
your own is any subclass of `LoadShape` with `share`, or of Locust's LoadTestShape.

Importing this module imports Locust, which monkey-patches the process.
"""

from __future__ import annotations

from abc import abstractmethod

from locust import LoadTestShape

from imsim.load.director import Director

_SPAWN_RATE = 100.0  # users per second


class LoadShape(LoadTestShape):
    """A shape that is relative to the scenario's population and duration.

    The plan of the whole population is drawn. It begins once the devices of the shape's start are online, and lasts for
    the scenario's duration (or `-t`).

    spawn_rate: users that are started or stopped per second.
    """

    abstract = True
    use_common_options = True  # Locust would warn about -t
    spawn_rate: float = _SPAWN_RATE
    _devices = _users = 0

    @abstractmethod
    def share(self, at: float) -> float:
        """Return the share of the population (0 to 1) at this moment of the test (0: its start, 1: its end)."""

    def tick(self) -> tuple[int, float]:
        """Return how many users Locust must run now, and the spawn rate. At least one user has devices.

        The plan's end ends the test. From then on, the number does not change: the devices wait for what is in flight.
        """
        assert self.runner is not None
        director = Director.of(self.runner.environment)
        if not director.is_ending:
            scenario = director.scenario
            per_user = scenario.population.devices
            share = min(max(self.share(min(director.elapsed / scenario.duration, 1.0)), 0.0), 1.0)
            devices = max(1, round(share * (director.devices // per_user))) * per_user
            if devices != self._devices:  # it takes a while to count the users if other classes stand beside
                self._devices, self._users = devices, director.users_for(devices)
        return self._users, self.spawn_rate


class Steady(LoadShape):
    """The same number of devices all the time.

    level: their share of the population.
    """

    abstract = True
    level: float = 1.0

    def share(self, at: float) -> float:
        return self.level


class Ramp(LoadShape):
    """A steady growth from one share of the population to another.

    low, high: the shares.
    """

    abstract = True
    low: float = 0.1
    high: float = 1.0

    def share(self, at: float) -> float:
        return self.low + (self.high - self.low) * at


class Steps(LoadShape):
    """A growth in equal steps, up to the whole population.

    count: the number of steps.
    """

    abstract = True
    count: int = 5

    def share(self, at: float) -> float:
        return min(int(at * self.count) + 1, self.count) / self.count


class Spike(LoadShape):
    """A part of the population, and for a short time all of it.

    base: the share outside the spike. begin, end: the spike's moments, as shares of the test's time.
    """

    abstract = True
    base: float = 0.2
    begin: float = 0.4
    end: float = 0.6

    def share(self, at: float) -> float:
        return 1.0 if self.begin <= at < self.end else self.base


class Storm(LoadShape):
    """A storm of logins: nearly all devices leave, and all of them come back at once.

    rest: the share that remains. begin, end: when the others are away, as shares of the test's time.
    """

    abstract = True
    spawn_rate = 1000.0
    rest: float = 0.05
    begin: float = 0.3
    end: float = 0.6

    def share(self, at: float) -> float:
        return self.rest if self.begin <= at < self.end else 1.0


class Soak(Steady):
    """A moderate load for a long time: set `-t 8h`, for example."""

    abstract = True
    level = 0.7
