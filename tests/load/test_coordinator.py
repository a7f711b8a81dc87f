"""Tests of the coordinator with fake players: without Locust users and server, with messages in any order."""

from __future__ import annotations

import json

import pytest

#: Fakes of two players on other processes. A test lists what it changes, then calls `run`.
FAKES = """
import json, os, sys, tempfile
from pathlib import Path
import gevent
import imsim.load.roster
from imsim.load.coordinator import Coordinator
from imsim.load.device import now
from imsim.load.job import Job
from imsim.results import read_facts
from imsim.results.recorder import Kind
from imsim.scenario import Scenario

ABOUT = {"host": "here", "pid": 1, "boot": "b", "anchor": 0.0, "version": "1", "byteorder": sys.byteorder}
END = {"failure": None, "foreign": 0, "from_tasks": 0, "missing_in_rooms": 0, "cpu": 0.1, "exceptions": []}
END |= {"between_ms": 20.0, "health": {}}

imsim.load.roster._PROBE_TIMEOUT = 0.1

class Fake:
    '''A player with `devices` users, whose messages take `delay` seconds.'''
    def __init__(self, index, devices=4, delay=0.0, offset=0.0, in_flight=(0,), boot="b"):
        self.index, self.wanted, self.delay, self.offset = index, devices, delay, offset
        self.in_flight, self.boot = in_flight, boot
        self.numbers, self.seen, self.is_dead, self.t0 = [], [], False, None
        self.ignored = set()
    def send(self, kind, **values):
        gevent.spawn_later(self.delay, lambda: self.is_dead or coordinator.handle(self.index, kind, **values))
    def hello(self):
        self.send("hello", **(ABOUT | {"pid": 100 + self.index, "boot": self.boot}))
        for _ in range(self.wanted):
            self.send("want")
    def receive(self, kind, values):
        self.seen.append(kind)
        if self.is_dead or kind in self.ignored:
            return
        if kind == "lease" and values["number"] is not None:
            self.numbers.append(values["number"])
            self.send("online", number=values["number"])
        elif kind == "probe":
            self.send("probed", sent=values["sent"], at=now() + self.offset)
        elif kind == "provision":
            self.send("provisioned")
        elif kind == "play":
            self.t0, self.absent = values["t0"], values["absent"]
        elif kind == "stop":
            self.at = values["at"]
            gevent.spawn(self.report)
        elif kind == "finish":
            self.send("finished", **END)
    def report(self):
        for count in self.in_flight:
            self.send("state", in_flight=count, is_behind=False, is_stopped=True)
            gevent.sleep(0.02)
        while not self.is_dead:
            self.send("state", in_flight=self.in_flight[-1], is_behind=False, is_stopped=True)
            gevent.sleep(0.02)

CHANGES = {
    "population.users": 8, "population.devices": 1, "conversations.groups": 0, "conversations.p2p_share": 1.0,
    "conversations.room_share": 0.0, "workload.rate": 10.0, "warmup": 0.0, "duration": 0.3,
}
folder = Path(tempfile.mkdtemp())
def lead(fakes, has_tasks=False, **changes):
    global coordinator, players
    players = {fake.index: fake for fake in fakes}
    job = Job(Scenario.load("office", CHANGES | changes), "ws://127.0.0.1:1", "ns", has_tasks=has_tasks)
    def send(index, kind, **values):
        gevent.spawn_later(players[index].delay, players[index].receive, kind, values)
    coordinator = Coordinator(job, send, len(fakes), folder, lambda: coordinator.end(), {}, about=ABOUT)
    coordinator.start()
    return coordinator
def status():
    found = json.loads((folder / "status.json").read_text())
    spool = folder / f"facts-{len(players) if 9 not in players else len(players) - 1}.spool"
    if spool.exists():
        facts = read_facts([spool])
        assert set(facts["kind"].tolist()) == {Kind.WITHDRAWN}
        found["withdrawn"] = list(zip(facts["device"].tolist(), (facts["at"] / 1e9).tolist()))
    return found
def finish(seconds=20):
    with gevent.Timeout(seconds):
        coordinator._ended.wait()
    print(json.dumps({"status": status(), "failure": coordinator.failure}))
"""


@pytest.fixture
def led(python):
    """A function that runs a script with the fakes. It returns what `finish` and `print` wrote, decoded."""

    def run(script: str) -> list:
        return [json.loads(line) for line in python(FAKES + script).splitlines()]

    return run


def test_coordinator_leads_two_players_to_the_end(led):
    (end,) = led("""
fakes = Fake(0), Fake(1, delay=0.02)
lead(fakes)
for fake in fakes: fake.hello()
finish()
""")
    assert end["failure"] is None
    assert end["status"]["phase"] == "done"
    entries = end["status"]["manifest"]["workers"]
    assert [(entry["index"], entry["pid"], entry["devices"], entry["died_at"]) for entry in entries] == [
        (0, 100, 4, None),
        (1, 101, 4, None),
    ]


def test_late_hello_and_late_devices_delay_the_start(led):
    end, waited = led("""
fakes = Fake(0), Fake(1)
lead(fakes)
fakes[0].hello()
gevent.sleep(0.3)
before = "provision" in fakes[0].seen
fakes[1].hello()
finish()
print(json.dumps([before, "provision" in fakes[0].seen]))
""")
    assert waited == [False, True]
    assert end["failure"] is None


def test_coordinator_gives_each_player_the_times_of_its_own_clock(led):
    end, times = led("""
fakes = Fake(0), Fake(1, offset=5000.0, delay=0.002, boot="other")
lead(fakes)
for fake in fakes: fake.hello()
finish()
print(json.dumps([fakes[1].t0 - fakes[0].t0, fakes[1].at - fakes[0].at]))
""")
    assert times == [pytest.approx(5000.0, abs=0.01)] * 2
    mine, other = end["status"]["manifest"]["workers"]
    assert not mine["offset_applied"]
    assert abs(mine["offset_ms"]) <= mine["offset_error_ms"]
    assert other["offset_applied"]
    assert "clocks of the workers are known to" in end["status"]["manifest"]["warnings"][0]
    assert 1.9 < other["offset_error_ms"] < 50  # half of the smallest round trip
    # Clocks of two computers: the entry compares their times of day, which are made equal here by the anchors.
    assert other["offset_ms"] == pytest.approx(5000e3, abs=50)


def test_player_that_answers_no_probe_makes_the_run_invalid(led):
    (end,) = led("""
fakes = Fake(0), Fake(1)
fakes[1].ignored = {"probe"}
lead(fakes)
for fake in fakes: fake.hello()
finish()
""")
    assert end["failure"] is None
    assert "the clock of worker 1 (here, pid 101) is unknown" in end["status"]["manifest"]["invalid_because"]
    assert end["status"]["manifest"]["workers"][1]["offset_ms"] is None


@pytest.mark.parametrize("phase", ["login", "play", "drain"])
def test_lost_player_makes_the_run_partial_and_the_others_play_on(led, phase):
    """Its devices are withdrawn from the time of the loss."""
    end, absent = led(f"""
phase = {phase!r}
fakes = Fake(0), Fake(1, in_flight=(3,))
lead(fakes, drain=0.5)
import imsim.load.coordinator as module
module._SETTLE_SECONDS = 0.2
for fake in fakes: fake.hello()
if phase == "login":
    fakes[1].ignored = {{"lease"}}
def kill():
    with gevent.Timeout(10):
        while coordinator.phase != phase or (phase == "play" and now() < coordinator._t0):
            gevent.sleep(0.005)
    gevent.sleep(0.1)
    fakes[1].is_dead = True
    coordinator.lose(1, "its process has ended")
gevent.spawn(kill)
finish()
print(len(fakes[0].absent))
""")
    assert "worker 1 (here, pid 101) was lost" in end["failure"]
    status = end["status"]
    assert status["ended"]["phase"] == phase
    assert status["manifest"]["warnings"] == [end["failure"]]
    assert [entry["died_at"] is None for entry in status["manifest"]["workers"]] == [True, False]
    died_at = status["manifest"]["workers"][1]["died_at"]
    if phase == "login":
        assert (died_at, absent) == (0, 4)  # those are recorded by the first of the other players
    else:
        assert len(status["withdrawn"]) == 4
        assert {round(at, 3) for _, at in status["withdrawn"]} == {died_at}
    assert status["played"] == pytest.approx(0.3)


def test_messages_of_a_lost_player_are_ignored_and_its_devices_can_be_leased_again(led):
    end, numbers = led("""
fakes = Fake(0), Fake(1, devices=3)
lead(fakes, drain=0.2)
for fake in fakes: fake.hello()
gevent.sleep(0.05)
coordinator.lose(1, "it sent nothing for 10 s")
lost = fakes[1].numbers
coordinator.handle(1, "release", number=fakes[0].numbers[0])
coordinator.handle(1, "failed", reason="no space")
for _ in range(4): fakes[0].send("want")
finish()
print(json.dumps([sorted(lost), sorted(fakes[0].numbers)]))
""")
    assert numbers[1] == list(range(8))
    assert set(numbers[0]) < set(numbers[1])
    assert "withdrawn" not in end["status"]
    assert "was lost" in end["failure"]


def test_players_learn_which_devices_have_no_user(led):
    """Otherwise a task, or the drain, would wait for a device that nobody runs."""
    end, seen, known = led("""
fakes = Fake(0), Fake(1, devices=3)
lead(fakes, drain=0.2)
coordinator.spawned()
absent = set()
def receive(kind, values, receive=fakes[0].receive):
    if kind == "users":
        change = absent.difference_update if values["are_present"] else absent.update
        change(values["numbers"])
    receive(kind, values)
fakes[0].receive = receive
for fake in fakes: fake.hello()
while coordinator.elapsed == 0: gevent.sleep(0.01)
known = [sorted(absent)]
def wait_for_a_change():
    while sorted(absent) == known[-1]: gevent.sleep(0.01)
    known.append(sorted(absent))
fakes[0].send("release", number=fakes[0].numbers[0])
wait_for_a_change()
fakes[0].send("want")
wait_for_a_change()
coordinator.lose(1, "its process has ended")
wait_for_a_change()
coordinator.end()
finish()
print(json.dumps([fakes[0].numbers, fakes[1].numbers]))
print(json.dumps(known))
""")
    assert end["status"]["manifest"]["workers"][1]["died_at"] is not None
    free = set(range(8)) - set(seen[0]) - set(seen[1])
    assert known[:3] == [sorted(free), sorted(free | {seen[0][0]}), sorted({*free, seen[0][0]} - {seen[0][-1]})]
    assert known[3] == sorted({*known[2], *seen[1]})


def test_exceptions_of_all_players_are_in_the_manifest(led):
    (end,) = led("""
END["exceptions"] = [{"error": f"E{n}", "place": "shop.py:3, in buy", "message": "m", "count": 2} for n in range(4)]
fakes = Fake(0), Fake(1)
lead(fakes)
for fake in fakes: fake.hello()
finish()
""")
    found = end["status"]["manifest"]["exceptions"]
    assert [(one["error"], one["count"]) for one in found] == [("E0", 4), ("E1", 4), ("E2", 4), ("E3", 4)]
    (line,) = end["status"]["manifest"]["warnings"]
    assert line.startswith("16 exceptions in tasks: 4 x E0: m (shop.py:3, in buy); 4 x E1: ")
    assert line.endswith("; 4 x E2: m (shop.py:3, in buy); ...")


def test_device_that_a_player_released_before_its_loss_is_withdrawn(led):
    """The player has recorded it, too, but what it recorded last may be lost with it."""
    (end,) = led("""
fakes = Fake(0), Fake(1)
lead(fakes, drain=0.2)
for fake in fakes: fake.hello()
while coordinator.elapsed == 0: gevent.sleep(0.01)
for number in fakes[1].numbers: coordinator.handle(1, "release", number=number)
coordinator.lose(1, "its process has ended")
finish()
""")
    assert "its 0 devices" in end["failure"]
    assert len(end["status"]["withdrawn"]) == 4


def test_loss_of_the_last_player_ends_the_run(led):
    (end,) = led("""
fakes = Fake(0), Fake(1)
lead(fakes, duration=60.0)
for fake in fakes: fake.hello()
while coordinator.phase != "play": gevent.sleep(0.01)
for fake in fakes: coordinator.lose(fake.index, "its process has ended")
finish()
""")
    assert end["failure"] == "all workers were lost; the last one: its process has ended"
    assert len(end["status"]["withdrawn"]) == 8


def test_player_that_cannot_take_part_ends_the_run_before_it_begins(led):
    (end,) = led("""
fakes = Fake(0), Fake(1)
lead(fakes)
fakes[0].hello()
fakes[1].send("refused", reason="adapter: there is no module x", host="there", pid=7)
finish()
""")
    assert end["failure"] == "worker 1 (there, pid 7) cannot take part: adapter: there is no module x"
    assert "started" not in end["status"]


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"byteorder": "middle"}, "its computer has another byte order than the master's"),
        ({"version": "2"}, "it has imsim 2, but the master has 1; install the same version"),
    ],
)
def test_player_in_a_process_of_another_kind_cannot_take_part(led, values, reason):
    (end,) = led(f"""
fakes = Fake(0), Fake(1)
lead(fakes)
fakes[0].hello()
fakes[1].send("hello", **(ABOUT | {values!r}))
finish()
""")
    assert end["failure"].endswith(f"cannot take part: {reason}")


def test_drain_waits_while_deliveries_arrive_at_another_player(led):
    """A message that its sender gave up makes the sum of what is in flight too small: 3 here, -5 and fewer there."""
    (end, seconds) = led("""
fakes = Fake(0, in_flight=(3,)), Fake(1, in_flight=tuple(range(-5, -35, -1)))
lead(fakes)
for fake in fakes: fake.hello()
while coordinator.phase != "drain": gevent.sleep(0.005)
since = now()
finish()
print(now() - since)
""")
    assert end["failure"] is None
    assert 0.8 < seconds < 5


def test_states_from_before_the_stop_do_not_end_the_wait(led):
    (end, states) = led("""
fakes = Fake(0), Fake(1)
lead(fakes)
for fake in fakes: fake.hello()
while not coordinator._ending: gevent.sleep(0.005)
coordinator._flight.forget()
coordinator.handle(0, "state", in_flight=0, is_behind=False, is_stopped=False)
print(json.dumps(len(coordinator._flight._states)))
finish()
""")[::-1]
    assert states == 0
    assert end["failure"] is None


@pytest.mark.parametrize("phase", ["login", "play"])
def test_player_that_comes_late_takes_part(led, phase):
    end, late = led(f"""
fakes = Fake(0, devices=4 if {phase!r} == "login" else 8), Fake(9, devices=4)
lead(fakes[:1])
players[9] = fakes[1]
fakes[0].hello()
while coordinator.phase != {phase!r}: gevent.sleep(0.005)
takes_part = coordinator.add(9)
fakes[1].hello()
finish()
print(json.dumps([takes_part, "provision" in fakes[1].seen, fakes[1].t0 == fakes[0].t0]))
""")
    assert late == ([True, True, True] if phase == "login" else [False, False, True])
    assert end["failure"] is None
    assert [entry["index"] for entry in end["status"]["manifest"]["workers"]] == [0, 9]


def test_player_that_comes_during_the_drain_takes_no_part(led):
    end, late = led("""
fakes = Fake(0, devices=8, in_flight=(1,)),
lead(fakes, drain=0.3)
fakes[0].hello()
while not coordinator._ending: gevent.sleep(0.005)
print(json.dumps(coordinator.add(9)))
finish()
""")[::-1]
    assert late is None
    assert end["failure"] is None


def test_drain_that_is_cut_short_leaves_the_last_messages_undecided(led):
    """Messages of the last `drain` seconds may be in flight, as the tester does not wait for them."""
    end, elapsed = led("""
fakes = Fake(0, in_flight=(3,)), Fake(1)
lead(fakes, duration=1.5, drain=0.5)
for fake in fakes: fake.hello()
while coordinator.elapsed < 0.8: gevent.sleep(0.005)
fakes[1].delay = 0.1  # each of 24 probes would take 0.2 s
coordinator.end("the test was interrupted", patience=0.2)
print(json.dumps(coordinator.elapsed))
finish()
""")[::-1]
    assert end["failure"] == "the test was interrupted"
    assert end["status"]["ended"] == {"reason": "the test was interrupted", "phase": "play"}
    assert end["status"]["undecided_since"] == pytest.approx(0.5, abs=0.2)
    assert end["status"]["undecided_since"] <= elapsed - 0.5
    assert elapsed < 2.0


def test_interrupted_run_with_nothing_in_flight_has_no_undecided_messages(led):
    (end,) = led("""
fakes = Fake(0), Fake(1)
lead(fakes, duration=60.0, drain=0.5)
for fake in fakes: fake.hello()
while coordinator.elapsed < 0.2: gevent.sleep(0.005)
coordinator.end("the test was interrupted", patience=5.0)
finish()
""")
    assert end["failure"] == "the test was interrupted"
    assert "undecided_since" not in end["status"]


def test_group_of_a_task_is_ready_when_the_devices_of_all_players_are_in_it(led):
    """A player that comes later is not waited for. A second group of this name is refused, whatever the server says."""
    _, ready = led("""
fakes = Fake(0), Fake(1), Fake(9, devices=0)
lead(fakes[:2], duration=1.0)
players[9] = fakes[2]
ready = []
for fake in fakes:
    def receive(kind, values, fake=fake, receive=fake.receive):
        if kind == "ready": ready.append([fake.index, values["name"], values["error"]])
        receive(kind, values)
    fake.receive = receive
for fake in fakes[:2]: fake.hello()
while coordinator.elapsed == 0: gevent.sleep(0.01)
for index, creator in ((0, 0), (1, 4)): coordinator.handle(index, "opened", name="a", members=[0, 1], creator=creator)
coordinator.add(9)
fakes[2].hello()
while fakes[2].t0 is None: gevent.sleep(0.01)
coordinator.handle(0, "entered", name="a", error="full")
gevent.sleep(0.05)
ready.append("waits")
coordinator.handle(1, "entered", name="a", error=None)
finish()
print(json.dumps(ready))
""")
    assert ready == [[1, "a", "there is already a group a"], "waits", [0, "a", "full"]]


def test_player_that_hangs_does_not_keep_an_interrupted_test(led):
    (end,) = led("""
import imsim.load.coordinator as module
module._HURRIED_FINISH = 0.2
fakes = Fake(0), Fake(1)
fakes[1].ignored = {"finish", "stop"}
lead(fakes, duration=60.0)
for fake in fakes: fake.hello()
while coordinator.elapsed < 0.1: gevent.sleep(0.005)
with gevent.Timeout(10):
    coordinator.end("the test was interrupted", patience=0.2)
finish()
""")
    assert end["failure"] == "the test was interrupted"
    assert [entry["died_at"] is None for entry in end["status"]["manifest"]["workers"]] == [True, False]
