"""Tests of messages and streams between processes, and of the order of events in a worker, with a fake runner."""

from __future__ import annotations

import json

import pytest

FAKES = """
import json, os, sys, tempfile
from pathlib import Path
from types import SimpleNamespace
import gevent
import imsim.load.wire as wire
from imsim.load.device import now
from imsim.load.wire import Inflow, Outflow, Wire

class Runner:
    '''Locust's runner of one of two processes: `other` receives what it sends.'''
    def __init__(self, name): self.name, self.sent, self.other = name, [], None
    def register_message(self, kind, listener, concurrent=False):
        assert concurrent
        self.listener = listener
    def send_message(self, kind, data, to=None):
        self.sent.append(data)
        if self.other is not None:
            gevent.spawn(self.other.listener, environment=None, msg=SimpleNamespace(data=data, node_id=self.name))
"""


@pytest.fixture
def play(python):
    """A function that runs a script with the fakes, and returns what it printed, decoded."""
    return lambda script: json.loads(python(FAKES + script))


def test_messages_of_one_moment_travel_together_and_stay_in_order(play):
    assert play("""
here, there = Runner("a"), Runner("b")
here.other, there.other = there, here
seen = []
def slow(sender, test, kind, values):
    if kind == "first": gevent.sleep(0.05)
    seen.append([sender, test, kind, values])
one, two = Wire(here, print, print), Wire(there, slow, print)
for kind in ("first", "second"): one.send(None, 1, kind, number=2)
gevent.sleep(0.02)
one.send(None, 1, "third")
gevent.sleep(0.2)
print(json.dumps([[len(sent) for sent in here.sent], seen]))
""") == [[2, 1], [["a", 1, "first", {"number": 2}], ["a", 1, "second", {"number": 2}], ["a", 1, "third", {}]]]


def test_urgent_message_is_handled_while_another_one_waits(play):
    assert play("""
here, there = Runner("a"), Runner("b")
here.other, there.other = there, here
seen = []
def slow(sender, test, kind, values):
    if kind == "slow": gevent.sleep(0.1)
    seen.append(kind)
one, two = Wire(here, print, print), Wire(there, slow, print, urgent=("stored",))
for kind in ("slow", "later", "stored"): one.send(None, 1, kind)
gevent.sleep(0.3)
print(json.dumps(seen))
""") == ["stored", "slow", "later"]


def test_exception_in_a_handler_is_reported_and_later_messages_are_handled(play):
    assert play("""
here, there = Runner("a"), Runner("b")
here.other, there.other = there, here
seen = []
def handle(sender, test, kind, values):
    if kind == "bad": raise ValueError("oops")
    seen.append(kind)
one, two = Wire(here, print, print), Wire(there, handle, lambda *failed: seen.append(failed))
for kind in ("bad", "good"): one.send(None, 4, kind)
gevent.sleep(0.1)
print(json.dumps(seen))
""") == [["a", 4, "internal error in imsim: ValueError('oops')"], "good"]


@pytest.mark.parametrize("lost", [[], [0], [1, 2]])
def test_file_is_complete_on_the_master_at_the_end(play, lost):
    """Chunks that are lost with a connection are sent again."""
    sizes, equal, messages = play(f"""
wire._RESEND_SECONDS = 0.3
lost = {lost}
source, target = Path(tempfile.mkdtemp()), Path(tempfile.mkdtemp())
inflow, count = Inflow(target, ["facts", "extras"]), [0]
def send(kind, name, start, data):
    assert len(data) <= 1 << 16
    number, count[0] = count[0], count[0] + 1
    if number not in lost:
        gevent.spawn_later(0.001, lambda: outflow.stored(name, inflow.chunk(name, start, data)))
data = os.urandom(300_000)
outflow = Outflow(source, ["facts", "extras"], send, lambda: None)
with (source / "facts").open("ab", buffering=0) as file:
    for first in range(0, len(data), 10_000):
        file.write(data[first : first + 10_000])
        gevent.sleep(0.01)
sizes = outflow.finish(5)
print(json.dumps([sizes, (target / "facts").read_bytes() == data, count[0]]))
""")
    assert sizes == {"facts": 300_000, "extras": 0}
    assert equal
    assert messages >= 5 + len(lost)


def test_stream_keeps_few_bytes_on_the_way(play):
    assert play("""
source = Path(tempfile.mkdtemp())
(source / "facts").write_bytes(bytes(3_000_000))
sent = []
outflow = Outflow(source, ["facts"], lambda kind, **values: sent.append(len(values["data"])), lambda: None)
gevent.sleep(0.5)
print(sum(sent))
""") == 8 * (1 << 16)


def test_end_without_acknowledgements_is_an_error(play):
    assert (
        play("""
from imsim.core.exceptions import RunError
source = Path(tempfile.mkdtemp())
(source / "facts").write_bytes(bytes(100))
outflow = Outflow(source, ["facts"], lambda kind, **values: None, lambda: None)
wire._RESEND_SECONDS = 0.1
try: outflow.finish(0.3)
except RunError as error: print(json.dumps(str(error)))
""")
        == "the master did not store the facts of this worker within 0 s"
    )


#: A worker whose events come in the order that a test chooses.
WORKER = """
from locust.event import Events
import locust.runners
from imsim.load import worker as module
from imsim.load.job import Job
from imsim.scenario import Scenario

runner = Runner("w")
environment = SimpleNamespace(runner=runner, events=Events(), parsed_options=SimpleNamespace(processes=None))
statistics = SimpleNamespace(begin=lambda: None, discard=lambda: None, report=lambda *_: None)
worker = module.Worker(environment, statistics)
found = []
def user(): found.append(worker.wait())
def receive(test, kind, **values):
    gevent.spawn(runner.listener, environment=None, msg=SimpleNamespace(data=[(test, kind, values)], node_id="w"))
def job(test, **changes):
    made = Job(Scenario.load("office", {"population.users": 8} | changes), "ws://127.0.0.1:1", f"n{test}")
    receive(test, "job", job=made.to_dict(), index=0, count=20, is_late=False)
def begin(): environment.events.test_start.fire(environment=environment); gevent.spawn(user)
def stop(): environment.events.test_stop.fire(environment=environment)
def kinds(): return [kind for sent in runner.sent for _, kind, _ in sent if kind not in ("present", "alive")]
def names(): return [None if player is None else player._context.job.namespace for player in found]
"""


def test_exception_in_a_worker_ends_the_test(play):
    assert play(f"""{WORKER}
job(1); begin(); gevent.sleep(0.5)
receive(1, "unknown")
gevent.sleep(0.1)
print(json.dumps([values for sent in runner.sent for _, kind, values in sent if kind == "failed"]))
""") == [{"reason": "internal error in imsim: KeyError('unknown')"}]


@pytest.mark.parametrize("steps", ["job(1); begin()", "begin(); gevent.sleep(0.05); job(1)"])
def test_job_and_start_may_come_in_any_order(play, steps):
    assert play(f"{WORKER}{steps}\ngevent.sleep(2)\nprint(json.dumps([names(), kinds()]))") == [["n1"], ["hello"]]


def test_next_test_begins_after_the_end_of_the_last_one_in_any_order(play):
    """The users of the second test never get the player of the first one."""
    assert play(f"""{WORKER}
job(1); begin(); gevent.sleep(1.5)
job(2); gevent.sleep(0.3)
early = len(list(Path(tempfile.gettempdir()).glob("imsim-worker-*"))), kinds()
stop(); begin(); gevent.sleep(1.5)
receive(1, "play", t0=0.0, absent=[])
gevent.sleep(0.05)
stop(); begin(); gevent.sleep(0.1); job(3); gevent.sleep(1.5)
print(json.dumps([names(), kinds(), early[1]]))
""") == [["n1", "n2", "n3"], ["hello", "hello", "hello"], ["hello"]]


def test_worker_reports_why_it_has_no_player_and_leaves_no_folder(play, tmp_path):
    names, kinds, left = play(f"""{WORKER}
tempfile.tempdir = {str(tmp_path)!r}
receive(1, "job", job={{"scenario": "nonsense", "name": "x"}}, index=0, count=20, is_late=False); begin()
gevent.sleep(1)
print(json.dumps([names(), kinds(), os.listdir({str(tmp_path)!r})]))
""")
    assert (names, kinds, left) == ([None], ["refused"], [])


def test_folder_of_a_killed_worker_is_removed_and_that_of_a_living_one_is_not(play, tmp_path):
    assert play(f"""
import time
from imsim.load import worker as module
tempfile.tempdir = {str(tmp_path)!r}
mine = module._make_folder()
dead = Path(tempfile.mkdtemp(prefix="imsim-worker-"))
pid = os.fork()
if not pid:
    living = module._make_folder()
    (Path({str(tmp_path)!r}) / "ready").touch()
    time.sleep(20)
    os._exit(0)
while not (Path({str(tmp_path)!r}) / "ready").exists(): time.sleep(0.01)
for folder in Path({str(tmp_path)!r}).glob("imsim-worker-*"): os.utime(folder, (1, 1))
module.remove_leftovers()
before = len(list(Path({str(tmp_path)!r}).glob("imsim-worker-*")))
os.kill(pid, 9); os.waitpid(pid, 0)
module.remove_leftovers()
after = [folder == mine for folder in Path({str(tmp_path)!r}).glob("imsim-worker-*")]
module.remove_folders()
print(json.dumps([dead.exists(), before, after, mine.exists()]))
""") == [False, 2, [True], False]
