"""The connection of a device: what keeps it alive."""

from __future__ import annotations

import pytest

from imsim.core import frames
from imsim.core.policies import Policies
from imsim.core.timers import Timers
from imsim.core.uplink import Uplink
from imsim.testing import RecordingPort


class Line:
    """An uplink that is online, over a server that answers each ping at once."""

    def __init__(self):
        self.timers = Timers()
        self.port = RecordingPort()
        self.now = 0.0
        policies = Policies(heartbeat=30.0, heartbeat_timeout=45.0)
        self.uplink = Uplink(self.timers, policies, self.port, "d0", "", "token", lambda: 0.5, lambda: None)
        self.uplink.start(0.0)
        self.uplink.connected(0.0)
        self.uplink.logged_in(0.0)
        self.port.take()
        self.pings = []  # when each left

    def advance(self, seconds):
        end = self.now + seconds
        while (due := self.timers.next_deadline()) is not None and due <= end:
            self.now = due
            self.timers.handle(due)
            if any(method == "send" for method, _ in self.port.take()):
                self.pings.append(due)
                self.uplink.heard(due)
        self.now = end

    def say(self):
        self.uplink.put(frames.Noted("p2p:alice:bob", 1), self.now)
        self.uplink.heard(self.now)
        self.port.take()


@pytest.fixture
def line():
    return Line()


def test_an_idle_connection_pings_every_heartbeat(line):
    line.advance(100)
    assert line.pings == [30.0, 60.0, 90.0]


def test_who_said_something_pings_one_heartbeat_later_and_not_two(line):
    """It looked once in a heartbeat whether it had been silent for one: the server, which waits for less than two, took
    it for lost."""
    line.advance(1)
    line.say()
    line.advance(60)
    assert line.pings == [31.0, 61.0]
