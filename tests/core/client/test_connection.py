"""A device's connection: opening, login, heartbeats, and reconnects."""

from __future__ import annotations

import pytest

from imsim.core import events, frames
from imsim.core.client.connection import Connection, State
from imsim.core.model import Code
from imsim.core.policies import Policies
from imsim.core.timers import Timers
from imsim.testing import ManualClock, RecordingPort


class Wire:
    """A connection with a record of its actions. `losses` counts its calls of `lost`."""

    def __init__(self, draw=lambda: 0.5, kind="", **policies):
        self.port = RecordingPort()
        self.policies = Policies(**policies)
        self.timers = Timers()
        self.clock = ManualClock()
        self.losses = 0
        self.connection = Connection(self.timers, self.policies, self.port, "d0", kind, "token", draw, self)

    def lost(self):
        assert self.connection.state in (State.OFFLINE, State.ENDED)
        self.losses += 1

    def up(self):
        self.connection.start(self.clock.now)
        self.connection.connected(self.clock.now)
        self.connection.logged_in(self.policies.heartbeat_timeout, self.clock.now)
        self.port.take()
        return self

    def heard(self):
        self.connection.heard_at = self.clock.now

    def put(self, frame):
        self.connection.put(frame, self.clock.now)

    def disconnected(self):
        self.connection.disconnected(self.clock.now)

    def advance(self, seconds):
        end = self.clock.now + seconds
        while (due := self.timers.next_deadline()) is not None and due <= end:
            self.clock.now = due
            self.timers.handle(due)
        self.clock.now = end

    def reconnects_in(self):
        return self.timers.next_deadline() - self.clock.now


PING = ("send", (frames.Ping(),))


def left(code):
    """Return the calls with which a client ends a connection and plans a reconnect."""
    return [("close", ()), ("emit", (events.Disconnected(code),))]


@pytest.fixture
def wire():
    return Wire().up()


# --- opening, logging in --------------------------------------------------------------------------------------------


def test_a_connection_goes_from_start_to_login():
    wire = Wire(kind="phone")
    assert (wire.connection.state, wire.timers.next_deadline()) == (State.OFFLINE, None)
    wire.connection.start(0.0)
    assert (wire.connection.state, wire.port.take()) == (State.CONNECTING, [("connect", ())])
    wire.connection.connected(0.0)
    login = frames.Login("token", "d0", "phone", f"{2**52:x}", 1)
    assert (wire.connection.state, wire.port.take()) == (State.LOGGING_IN, [("send", (login,))])
    wire.connection.logged_in(75.0, 0.0)
    assert (wire.connection.state, wire.port.take()) == (State.SYNCING, [])
    assert wire.losses == 0


def test_each_login_is_the_next_attempt_of_one_instance():
    """With the number, the server can ignore a login that arrives after a later one."""
    wire, other = Wire(draw=iter([0.25, 0.5, 0.5]).__next__), Wire(draw=iter([0.75]).__next__)
    logins = []
    for end in (wire.disconnected, wire.connection.stop, None):
        wire.connection.start(wire.clock.now)
        wire.connection.connected(wire.clock.now)
        logins += [frame for frame in wire.port.take("send") if isinstance(frame, frames.Login)]
        if end:
            end()
    other.connection.start(0.0)
    other.connection.connected(0.0)
    assert [login.attempt for login in logins] == [1, 2, 3]
    assert {login.instance for login in logins} == {f"{2**51:x}"}
    assert other.port.take("send")[0].instance == f"{3 * 2**51:x}"


def test_a_login_sends_the_latest_token(wire):
    wire.connection.token = "fresh"
    wire.disconnected()
    wire.connection.start(0.0)
    wire.connection.connected(0.0)
    assert wire.port.take("send")[0].token == "fresh"


@pytest.mark.parametrize("stage", [State.CONNECTING, State.LOGGING_IN, State.SYNCING, State.ONLINE])
def test_starting_a_running_connection_changes_nothing(stage):
    wire = Wire()
    wire.connection.start(0.0)
    if stage != State.CONNECTING:
        wire.connection.connected(0.0)
    if stage in (State.SYNCING, State.ONLINE):
        wire.connection.logged_in(75.0, 0.0)
        wire.connection.state = stage
    wire.port.take()
    wire.connection.start(0.0)
    assert (wire.connection.state, wire.port.take()) == (stage, [])


@pytest.mark.parametrize("stage", ["connecting", "logging_in"])
def test_a_login_that_takes_too_long_is_given_up_and_tried_again(stage):
    wire = Wire()
    wire.connection.start(0.0)
    if stage == "logging_in":
        wire.advance(9.0)
        wire.connection.connected(9.0)  # the timeout of the login starts again
    wire.port.take()
    wire.advance(9.9)
    assert wire.port.take() == []
    wire.advance(0.1)
    assert (wire.connection.state, wire.port.take(), wire.losses) == (State.OFFLINE, left(Code.LOGIN_TIMEOUT), 1)
    wire.advance(0.25)
    assert (wire.connection.state, wire.port.take()) == (State.CONNECTING, [("connect", ())])


# --- losses and reconnects ------------------------------------------------------------------------------------------


def test_reconnects_wait_a_uniform_share_of_an_exponentially_growing_time():
    draws = iter([0.9, 0.5, 0.5, 0.5, 0.25, 0.0, 1.0, 0.5, 0.5])  # the first names the instance
    wire = Wire(draw=lambda: next(draws))
    wire.connection.start(0.0)
    waits = []
    for _ in range(8):
        wire.disconnected()
        assert wire.connection.state == State.OFFLINE
        waits.append(wire.reconnects_in())
        wire.advance(waits[-1])
        assert wire.connection.state == State.CONNECTING
    # the ceilings: 0.5, 1, 2, 4, 8, 16, then always 30
    assert waits == pytest.approx([0.25, 0.5, 1.0, 1.0, 0.0, 16.0, 15.0, 15.0])


def test_the_wait_is_bounded_after_any_number_of_failures():
    wire = Wire(draw=lambda: 0.99)
    wire.connection.start(0.0)
    for _ in range(2_000):
        wire.disconnected()
        wire.advance(30)
    assert wire.connection.state == State.CONNECTING


def test_a_login_that_lasts_makes_the_next_wait_short_again():
    wire = Wire(draw=lambda: 0.5, reconnect_max=30.0)
    wire.connection.start(0.0)
    for _ in range(5):
        wire.disconnected()
        wire.advance(wire.reconnects_in())
    wire.connection.connected(wire.clock.now)
    wire.disconnected()  # a connection without a login does not reset the backoff
    assert wire.reconnects_in() == 8.0
    wire.up()
    wire.clock.now += 29.9
    wire.disconnected()  # nor does a short login
    assert wire.reconnects_in() == 15.0
    wire.up()
    wire.clock.now += 30.0
    wire.disconnected()
    assert wire.reconnects_in() == 0.25


def test_backoff_grows_while_the_server_ends_each_login_at_once():
    wire = Wire(draw=lambda: 1.0, reconnect_min=1.0, reconnect_max=30.0)
    waits = []
    for _ in range(6):
        wire.up()
        wire.connection.refused(frames.Refused(Code.UNAVAILABLE, True, "overloaded"), wire.clock.now)
        waits.append(wire.reconnects_in())
        wire.advance(waits[-1])
    assert waits == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0]


def test_pings_follow_the_heartbeat_of_the_server():
    wire = Wire(heartbeat=30.0)
    wire.connection.start(0.0)
    wire.connection.connected(0.0)
    wire.connection.logged_in(10.0, 0.0)
    wire.port.take()
    wire.advance(5.0)
    assert wire.port.take() == [PING]


def test_a_lost_connection_is_reported_once(wire):
    wire.disconnected()
    wire.disconnected()
    assert wire.port.take() == [("emit", (events.Disconnected(None),))]
    assert wire.losses == 1


def test_a_refusal_that_allows_it_leads_to_a_reconnect(wire):
    wire.connection.refused(frames.Refused(Code.GOING_AWAY, True), 0.0)
    assert (wire.connection.state, wire.port.take(), wire.losses) == (State.OFFLINE, left(Code.GOING_AWAY), 1)
    wire.advance(0.25)
    assert wire.connection.state == State.CONNECTING


def test_a_final_refusal_ends_the_connection_permanently(wire):
    wire.connection.refused(frames.Refused(Code.REPLACED, False, "elsewhere"), 0.0)
    assert wire.port.take() == [("close", ()), ("emit", (events.Ended(Code.REPLACED, "elsewhere"),))]
    wire.disconnected()
    assert (wire.connection.state, wire.port.take()) == (State.ENDED, [])
    assert (wire.losses, wire.timers.next_deadline()) == (1, None)


def test_a_stop_ends_the_connection_until_the_next_start(wire):
    wire.connection.stop()
    wire.disconnected()
    assert (wire.connection.state, wire.port.take()) == (State.ENDED, [("close", ())])
    assert (wire.losses, wire.timers.next_deadline()) == (1, None)
    wire.connection.start(0.0)
    assert wire.port.take() == [("connect", ())]


def test_a_stop_before_the_first_start_is_harmless():
    wire = Wire()
    wire.connection.stop()
    assert (wire.connection.state, wire.timers.next_deadline()) == (State.ENDED, None)


# --- heartbeats -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("silent", ["server", "device"])
def test_client_pings_after_either_side_was_silent(wire, silent):
    """A server that is busy with storage sends nothing else, but it answers pings."""
    for _ in range(5):
        wire.advance(25)
        if silent == "device":
            wire.heard()
        else:
            wire.put(frames.Pong())
            wire.port.take()
        wire.advance(5)
        assert wire.port.take() == [PING]
        wire.heard()  # the pong arrives


def test_client_does_not_ping_while_both_sides_send(wire):
    for _ in range(30):
        wire.advance(10)
        wire.put(frames.Delivered("p2p:alice:bob", 1))
        wire.heard()
    assert frames.Ping() not in wire.port.take("send")


def test_client_closes_the_connection_to_a_silent_server(wire):
    wire.advance(89.9)
    assert wire.port.take() == [PING, PING]
    wire.advance(0.1)  # the first beat after 75 s of silence
    assert (wire.connection.state, wire.port.take(), wire.losses) == (State.OFFLINE, left(Code.HEARTBEAT), 1)
    wire.advance(0.25)
    assert wire.connection.state == State.CONNECTING


def test_silence_counts_from_the_opening_of_the_connection():
    wire = Wire()
    wire.advance(1_000)
    wire.up()
    wire.advance(89)
    assert wire.port.take() == [PING, PING]
    wire.advance(1)
    assert wire.port.take() == left(Code.HEARTBEAT)


def test_client_waits_for_the_heartbeat_timeout_of_the_policy():
    wire = Wire(heartbeat=40.0, heartbeat_timeout=80.0).up()
    wire.advance(79.9)
    assert wire.port.take() == [PING]
    wire.advance(0.1)
    assert wire.port.take() == left(Code.HEARTBEAT)
