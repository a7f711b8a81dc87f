"""Tests of groups, joins and tasks in a player, with sessions that answer when a test wants it."""

from __future__ import annotations

import json

import pytest

#: A player whose sessions are online at once, unless their users are in `silent`. `join` has no answer until `answer`.
PLAYER = """
import json, math, tempfile
from pathlib import Path
import gevent
import numpy as np
from imsim.core.model import Scene
from imsim.load.adapters import Adapter, Feature, Joined, Offline, Ready, Session, Target
from imsim.load.collect import spool_name
from imsim.load.device import now
from imsim.load.job import Job
from imsim.load.player import Player
from imsim.results import read_facts
from imsim.results.recorder import Kind
from imsim.scenario import Scenario

sessions, silent = {}, set()

class Quiet(Session):
    def __init__(self, number): self.number, self.joins, self.sent = number, [], []
    def start(self, now): return [] if self.number in silent else [Ready()]
    def stop(self, now): return []
    def received(self, item, now): return []
    def send(self, message, now):
        self.sent.append(str(message.conversation.scene))
        return []
    def join(self, conversation, members, creates, now):
        self.joins.append(conversation)
        return []

class QuietAdapter(Adapter):
    features = frozenset({Feature.ACK, Feature.GROUPS, Feature.RESUME})
    def session(self, number, user, device): return sessions.setdefault(number, Quiet(number))

Job.make_adapter = lambda self: QuietAdapter(Target("ws://h"))
CHANGES = {
    "population.users": 4, "population.devices": 1, "conversations.groups": 1, "conversations.group_size": 4,
    "conversations.p2p_share": 0.5, "conversations.room_share": 0.0, "conversations.partners": 2,
    "workload.rate": 200.0, "warmup": 0.0, "duration": 2.0,
}
job = Job(Scenario.load("office", CHANGES), "ws://h", "ns", has_tasks=True)
folder = Path(tempfile.mkdtemp())
player = Player(job, 0, 1, folder, lambda kind, **values: None, lambda *report: None)
devices = {}

def admit(number):
    admitting = gevent.spawn(player.admit)
    gevent.sleep(0)
    player.handle("lease", number=number)
    device = devices[number] = admitting.get()
    gevent.spawn(player.log_in, device)
    gevent.sleep(0)

def give(number, event):
    devices[number].do(lambda now: [event])

def answer(number):
    for place in sessions[number].joins:
        give(number, Joined(place))
    sessions[number].joins.clear()

def provision(creates, *online):
    bits = np.zeros(4, np.uint8)
    bits[list(online)] = 1
    player.handle("provision", creates=creates, online=np.packbits(bits).tobytes())
    gevent.sleep(0)

def facts():
    player.flush()
    found = read_facts([folder / spool_name(0)])
    kinds = Kind.DISCONNECTED, Kind.ENTERED, Kind.WITHDRAWN
    return [(Kind(kind).name, int(device)) for kind, device in zip(found["kind"], found["device"]) if kind in kinds]

silent.add(2)
for number in range(3):
    admit(number)
provision(True, 0, 1)
answer(0)
provision(False, 0, 1)
answer(1)
player.handle("play", t0=now(), absent=[3])
gevent.sleep(0.3)
"""


def run(python, script: str) -> list:
    return [json.loads(line) for line in python(PLAYER + script).splitlines()]


def test_device_that_comes_late_joins_before_it_sends_to_groups(python):
    absent, kept, sent, entered, late = run(
        python,
        """
print(json.dumps(facts()))
give(2, Ready())
gevent.sleep(0)
print(json.dumps([len(sessions[2].joins), sorted(set(sessions[2].sent)), sorted(set(sessions[0].sent))]))
answer(2)
print(json.dumps(sorted(set(sessions[2].sent))))
print(json.dumps(facts()[2:]))
admit(3)
gevent.sleep(0.1)
before = sorted(set(sessions[3].sent))
answer(3)
print(json.dumps([before, sorted(set(sessions[3].sent)), facts()[3:]]))
""",
    )
    assert absent == [["WITHDRAWN", 3], ["DISCONNECTED", 2]]
    assert kept == [1, ["p2p"], ["group", "p2p"]]
    assert sent == ["group", "p2p"]
    assert entered == [["ENTERED", 2]]
    assert late == [["p2p"], ["group", "p2p"], [["ENTERED", 3]]]


def test_device_that_was_offline_when_a_task_opened_a_group_joins_it_when_it_is_back(python):
    """Its connection was lost, so it does not log in for the first time."""
    missed, joins, entered = run(
        python,
        """
give(1, Offline("connection lost"))
player.handle("opened", name="new", members=[0, 1], creator=0)
gevent.sleep(0)
print(json.dumps(facts()[2:]))
give(1, Ready())
print(json.dumps([place.name for place in sessions[1].joins]))
answer(1)
print(json.dumps(facts()[2:]))
""",
    )
    assert missed == [["DISCONNECTED", 1]]
    assert joins == ["ns.new"]
    assert entered == [["DISCONNECTED", 1], ["ENTERED", 1]]


OPENING = """
from imsim.load.adapters import NotJoined
sent = []
player._context.send = lambda kind, **values: sent.append([kind, values])

def open(number, name=None):
    def step():
        try:
            return player.tasks.groups.open(devices[number], name, (0, 1), 0.3)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
    opened = gevent.spawn(step)
    gevent.sleep(0)
    return opened

def refuse(number):
    for place in sessions[number].joins:
        give(number, NotJoined(place, "bad name"))
    sessions[number].joins.clear()
"""


@pytest.fixture
def run_opening(python):
    return lambda script: run(python, OPENING + script)


def test_group_that_the_server_refuses_is_an_exception_of_the_task_alone(run_opening):
    refused, again, sent = run_opening("""
first = open(0, "my lunch"); refuse(0)
print(json.dumps(first.get()))
second = open(0, "my lunch"); answer(0)
values = sent[-1][1]
player.handle("opened", **values); gevent.sleep(0); refuse(1); gevent.sleep(0)
player.handle("ready", **sent[-1][1])
print(json.dumps(second.get()))
print(json.dumps(sent))
""")
    reason = "the server did not let a device into the group my lunch: bad name"
    assert refused == again == f"RunError: {reason}"
    group = {"name": "my lunch", "members": [0, 1], "creator": 0}
    assert sent == [["opened", group], ["entered", {"name": "my lunch", "error": reason}]]


def test_group_whose_name_is_taken_is_an_exception_and_the_first_one_is_ready(run_opening):
    second, first, names = run_opening("""
first = open(0, "lunch")
print(json.dumps(open(1, "lunch").get()))
answer(0)
player.handle("opened", **sent[-1][1]); gevent.sleep(0); answer(1); gevent.sleep(0)
player.handle("ready", **sent[-1][1])
print(json.dumps(first.get()))
for _ in range(3): open(0)
print(json.dumps(sorted({place.name for place in sessions[0].joins})))
""")
    assert second == "UsageError: group: there is already a group lunch"
    assert first == "lunch"
    assert names == ["ns.c0-0", "ns.c0-1", "ns.c0-2"]


def test_messages_of_tasks_are_forgotten_once_they_are_answered_and_delivered(python):
    """Each receiver still learns the text, which the server does not say here."""
    left, count, sent = run(
        python,
        """
from imsim.load.adapters import Acked, Delivered
from imsim.load.im import IM
one, other = (IM(player.tasks, devices[number]) for number in (0, 1))
before = player._recording.progress(0.0)["offered"]
for n in range(3000):
    message = one.send_text("u1", f"text {n}")
    for number, event in ((0, Acked(message.id)), (1, Delivered(message.id)))[:: 1 if n % 2 else -1]:
        give(number, event)
    assert message.wait_stored(1) and message.wait_delivered(1)
    assert other.expect(timeout=0).text == f"text {n}"
print(len(player._context.extras.pending))
print(len(message._pending.changed))
print(player._recording.progress(1.0)["offered"] - before)
""",
    )
    assert (left, count) == (0, 0)
    assert sent >= 3000
