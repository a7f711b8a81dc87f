"""Tests of Locust's statistics of a run, in subprocesses with Locust."""

from __future__ import annotations

import csv
import json
import re

import pytest

import imsim
from imsim.core.policies import Policies
from imsim.scenario import Scenario

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
    name = draw.choice(["send -> other", "send -> delivered"])
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
assert sorted((e.name, repr(e.error), e.occurrences) for e in one.stats.errors.values()) == sorted(
    (e.name, repr(e.error), e.occurrences) for e in other.stats.errors.values())
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
print(one.stats.entries["login", "WS"].num_requests, one.stats.entries["login", "WS"].num_failures)
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
    while not one.stats.get("login", "WS").num_requests:
        gevent.sleep(0.01)
print("ok")
"""
    )
    assert python(script) == "ok\n"


def test_row_aggregated_contains_only_deliveries(python):
    script = (
        PRELUDE
        + """
one = environment()
statistics = Statistics(one)
for name in ("login", "send -> stored", "send -> delivered"):
    statistics.report(name, 8.0, 4, None)
    statistics.report(name, None, 4, "lost")
one.events.request.fire(request_type="GET", name="/", response_time=5, response_length=3, context={})
statistics.flush()
print(one.stats.total.num_requests, one.stats.total.num_failures, dict(one.stats.total.response_times))
statistics.discard()
statistics.report("login", 9.0, 4, None)
statistics.flush()
print(sorted(one.stats.entries), one.stats.total.num_requests, [error.name for error in one.stats.errors.values()])
"""
    )
    assert python(script).splitlines() == [
        "3 1 {5: 1, 8: 1}",
        "[('/', 'GET'), ('login', 'WS')] 1 ['login']",
    ]


@pytest.fixture(scope="module")
def scenario() -> Scenario:
    """A scenario with two devices per user, groups, a warm-up, and a chatroom whose server sheds most messages."""
    return Scenario.from_toml(
        """
seed = 5
duration = "2s"
warmup = "0.5s"
drain = "1s"
[population]
users = 10
devices = 2
[conversations]
p2p_share = 0.5
room_share = 0.1
partners = 2
groups = 3
group_size = 4
rooms = 1
room_size = 6
[workload]
rate = 5.0
"""
    )


@pytest.mark.parametrize("processes", [(), ("--processes", "2")])
def test_locusts_reports_agree_with_the_rows(processes, scenario, locust, server_with, free_port, tmp_path):
    file = tmp_path / "scenario.toml"
    file.write_text(scenario.to_toml())
    arguments = ["-f", "locustfiles/office.py", "--headless", "--only-summary", "--csv", str(tmp_path / "locust")]
    arguments += ["--imsim-scenario", str(file), "--imsim-out", str(tmp_path / "results"), *processes]
    if processes:
        arguments += ["--master-bind-port", str(free_port), "--master-port", str(free_port)]
    with server_with(policies=Policies(room_rate=1.0, room_burst=1)) as server:
        html, table = tmp_path / "locust.html", str(tmp_path / "table")
        result = locust(*arguments, "-H", server.url, "--html", str(html), "--json-file", table)
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    [path] = (tmp_path / "results").iterdir()
    run = imsim.read_run(path)
    summary = run.summary()
    assert processes or summary.lost["delivery"] > 0

    with (tmp_path / "locust_stats.csv").open() as opened:
        rows = {row["Name"]: row for row in csv.DictReader(opened)}
    names = {"send -> stored": "ack", "send -> delivered": "delivery", "send -> last delivered": "last"}
    assert rows.keys() == {*names, "login", "Aggregated"}
    assert int(rows["login"]["Request Count"]) == 20
    for name, kind in (*names.items(), ("Aggregated", "delivery")):
        row, (latencies, lost) = rows[name], _latencies(run, kind)
        assert int(row["Request Count"]) == summary["count"][kind], name
        assert int(row["Failure Count"]) == summary.lost[kind] == lost, name
        assert float(row["Max Response Time"]) == pytest.approx(latencies[-1])
        assert float(row["Average Response Time"]) == pytest.approx(sum(latencies) / len(latencies))
        for percent in (50, 95, 99):
            exact = latencies[round(len(latencies) * percent / 100) - 1 : round(len(latencies) * percent / 100) + 1]
            low, high = exact[0] * 0.95 - 1, exact[-1] * 1.05 + 1  # Locust rounds to 1 ms or to two digits
            assert low <= float(row[f"{percent}%"]) <= high, (name, percent)
    with (tmp_path / "locust_failures.csv").open() as opened:
        failures = [(row["Name"], int(row["Occurrences"])) for row in csv.DictReader(opened)]
    assert failures == [(name, summary.lost[names[name]]) for name in sorted(names) if summary.lost[names[name]]][::1]
    found = {row["name"]: row for row in json.loads((tmp_path / "table.json").read_text())}
    assert found["send -> delivered"]["num_requests"] == summary["count"]["delivery"]
    in_html = re.search(r'"name": "Aggregated".*?"num_requests": (\d+)', html.read_text())
    assert in_html is not None
    assert int(in_html[1]) == summary["count"]["delivery"]


def _latencies(run, kind):
    from imsim.analysis.latency import LATENCIES

    values = LATENCIES[kind](run).tolist()
    finite = [value for value in values if value < float("inf")]
    return finite, len(values) - len(finite)
