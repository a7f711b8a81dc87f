"""Tests of Locust's statistics of a run, in subprocesses with Locust."""

from __future__ import annotations

PRELUDE = """
import random, time
import gevent
from locust.env import Environment
from imsim.load import locust_stats
from imsim.load.locust_stats import Statistics, UndeliveredError

def environment():
    made = Environment()
    made.create_local_runner()
    return made

clock = [1_800_000_000.0]
time.time = lambda: clock[0]
"""


def test_reports_give_the_statistics_of_locusts_event(python):
    """The same reports go to Locust's event at once, and to `report` with a flush now and then."""
    script = (
        PRELUDE
        + """
draw = random.Random(3)
one, other = environment(), environment()
statistics = Statistics(other)
for n in range(2_000):
    clock[0] += draw.expovariate(200)
    name = draw.choice(["send -> stored", "send -> delivered"])
    ms = None if draw.random() < 0.1 else draw.expovariate(1 / 80)
    error = "no answer" if ms is None else None
    one.events.request.fire(request_type="WS", name=name, response_time=ms, response_length=n % 90,
        exception=error and UndeliveredError(error), context={})
    statistics.report(name, ms, n % 90, error)
    if draw.random() < 0.02:
        statistics.flush()
statistics.flush()

def state(entry):
    found = dict(vars(entry))
    del found["stats"], found["start_time"]
    found["total_response_time"] = round(found["total_response_time"], 6)
    del found["num_fail_per_sec"], found["response_times_cache"]
    return found, sum(entry.num_fail_per_sec.values()), list(entry.response_times_cache)

for ours, theirs in [(one.stats.total, other.stats.total)] + [
    (entry, other.stats.entries[key]) for key, entry in one.stats.entries.items()
]:
    assert state(ours) == state(theirs), (state(ours), state(theirs))
assert one.stats.entries.keys() == other.stats.entries.keys()

def failures(environment):
    return sorted((e.name, repr(e.error), e.occurrences) for e in environment.stats.errors.values())

assert failures(one) == failures(other)
print(one.stats.total.num_requests)
"""
    )
    assert python(script) == "2000\n"


def test_other_listeners_get_an_event_for_each_report(python):
    script = (
        PRELUDE
        + """
def listen(**event):
    gevent.sleep(0)  # a listener may wait
    print(event["name"], event["response_time"], event["response_length"], event["exception"], event["start_time"])

one = environment()
statistics = Statistics(one)
one.events.request.add_listener(listen)
statistics.report("login", 500.0, 0, None)
statistics.report("login", None, 7, "refused")
statistics.flush()
print(one.stats.total.num_requests, one.stats.total.num_failures)
"""
    )
    first, second, total = python(script).splitlines()
    assert first == "login 500.0 0 None 1799999999.5"
    assert second == "login None 7 refused 1800000000.0"
    assert total == "2 1"


def test_reports_are_logged_soon(python):
    script = (
        PRELUDE
        + """
one = environment()
statistics = Statistics(one)
statistics.report("login", 1.0, 0, None)
with gevent.Timeout(5):
    while not one.stats.total.num_requests:
        gevent.sleep(0.01)
print("ok")
"""
    )
    assert python(script) == "ok\n"
