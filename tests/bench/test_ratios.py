"""Benchmarks of speed and size: imsim against other simulators and against itself, as ratios of CPU times.

    python -m pytest tests/bench/test_ratios.py --benchmark-enable -n0 -p no:randomly

This prints the measures and their goals, and takes about three minutes of CPU time. The ordinary suite runs each
benchmark once with a small size. It checks that the code works, and that both sides do the same work.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest
from bench.race import cpu, note, race
from bench.tandem import Work, in_ciw, in_imsim, in_simpy
from bench.worlds import group, private
from joblib import Parallel, delayed

import imsim
from imsim.results import digest
from imsim.scenario import Scenario, plan
from imsim.sim import Experiment, simulate


def size(benchmark, large: int, small: int) -> int:
    return large if benchmark.enabled else small


# --- stations only ----------------------------------------------------------------------------------------------------


def test_tandem_against_simpy(benchmark):
    work = Work(size(benchmark, 30_000, 500))
    assert in_imsim(work) == pytest.approx(in_simpy(work), rel=1e-12)  # the same sample path, message by message
    ours, theirs = race(benchmark, lambda: cpu(lambda: in_imsim(work)), lambda: cpu(lambda: in_simpy(work)))
    rates = f"{len(work.gaps) / ours:,.0f} against {len(work.gaps) / theirs:,.0f} messages/s"
    note(benchmark, "stations only, against idiomatic SimPy", theirs / ours, "x", least=8, detail=rates)


def test_tandem_against_ciw(benchmark):
    work = Work(size(benchmark, 20_000, 500))
    assert len(in_ciw(work)) == pytest.approx(len(work.gaps), rel=0.1)  # Ciw stops with the last arrival
    ours, theirs = race(benchmark, lambda: cpu(lambda: in_imsim(work)), lambda: cpu(lambda: in_ciw(work)))
    rates = f"{len(work.gaps) / ours:,.0f} against {len(work.gaps) / theirs:,.0f} messages/s"
    note(benchmark, "stations only, against Ciw", theirs / ours, "x", least=16, detail=rates)


# --- the whole protocol -----------------------------------------------------------------------------------------------


def against_simpy(benchmark, measure: str, scenario: Scenario) -> None:
    """Compare a message of a whole run, including logins and tables, with one of SimPy's tandem without a protocol."""
    messages = len(simulate(scenario).messages)
    work = Work(messages)
    ours, theirs = race(benchmark, lambda: cpu(lambda: imsim.simulate(scenario)), lambda: cpu(lambda: in_simpy(work)))
    rates = f"{messages / ours:,.0f} against {messages / theirs:,.0f} messages/s"
    note(benchmark, measure, theirs / ours, "x", least=1, detail=rates)


def test_protocol_against_a_tandem_without_one(benchmark):
    """With 200 partners, nearly every message is the first of its conversation: send, store, ack, push, delivered."""
    scenario = private(size(benchmark, 30_000, 100), **{"conversations.partners": 200})
    against_simpy(benchmark, "whole protocol, against SimPy's tandem", scenario)


def test_protocol_with_read_marks_against_a_tandem_without_one(benchmark):
    """With one partner, nearly every send moves a read mark, which is sent to the devices of both users."""
    scenario = private(size(benchmark, 30_000, 100), **{"conversations.partners": 1})
    against_simpy(benchmark, "the same, where sends move read marks", scenario)


def test_delivery_in_a_group_of_1000(benchmark):
    """Measures the CPU time of additional messages, so that the logins cancel out."""
    members = size(benchmark, 1000, 20)
    some, more = group(10, members), group(size(benchmark, 40, 15), members)
    few, many = private(size(benchmark, 2000, 20), members), private(size(benchmark, 12_000, 50), members)
    deliveries = (len(simulate(more).deliveries) - len(simulate(some).deliveries)) or 1
    messages = len(simulate(many).messages) - len(simulate(few).messages)
    in_group, in_private = race(
        benchmark,
        lambda: (cpu(lambda: simulate(more)) - cpu(lambda: simulate(some))) / deliveries,
        lambda: (cpu(lambda: simulate(many)) - cpu(lambda: simulate(few))) / messages,
    )
    detail = f"{in_group * 1e6:.1f} us a delivery against {in_private * 1e6:.1f} us a p2p message"
    note(benchmark, "a delivery in a group of 1,000, against p2p", in_group / in_private, "x", most=0.5, detail=detail)


def test_run_with_spans_against_one_without(benchmark):
    """An office of 5,000 users, with groups of a few to 200 members."""
    users = size(benchmark, 5000, 100)
    scenario = Scenario.load("office").replace(
        {
            "population.users": users,
            "workload.rate": 0.01,
            "duration": size(benchmark, 60, 10),
            "conversations.groups": users // 10,
            "conversations.group_size.maximum": size(benchmark, 200, 20),
        }
    )
    plain, tables = simulate(scenario), simulate(scenario, spans=True)
    assert digest(tables) == digest(plain)
    traced, untraced = race(
        benchmark,
        lambda: cpu(lambda: simulate(scenario, spans=True)),
        lambda: cpu(lambda: simulate(scenario)),
        rounds=3,
    )
    detail = f"{traced:.1f} s against {untraced:.1f} s, {len(tables.deliveries):,} deliveries"
    note(benchmark, "a run with spans, against one without", traced / untraced, "x", most=2, detail=detail)


# --- large ------------------------------------------------------------------------------------------------------------


def test_message_among_a_million_users(benchmark):
    """The same number of messages per second, from 1,000 active users or from one in a hundred of a million users.

    Only the run from time 0 on is measured. Creating the users and their logins happens before.
    """
    million, messages = size(benchmark, 1_000_000, 2000), size(benchmark, 10_000, 100)

    def message(users: int) -> float:
        scenario = private(messages, users)
        planned = plan(scenario)
        experiment = Experiment(scenario, planned)
        experiment.log_in()
        return cpu(lambda: experiment.run(scenario.duration)) / len(planned)

    large, small = race(benchmark, lambda: message(million), lambda: message(1000), rounds=3)
    detail = f"{large * 1e6:.0f} us against {small * 1e6:.0f} us"
    note(benchmark, "a message among 1,000,000 users, against 1,000", large / small, "x", most=1.3, detail=detail)


PROGRAM = """
import resource, sys
sys.path[:0] = {paths!r}
from bench.worlds import private
from imsim.scenario import plan
from imsim.sim import Experiment, simulate

def resident():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()

simulate(private(20, 20))  # late imports must not count as memory of users
before = resident()
scenario = private({messages}, {users})
experiment = Experiment(scenario, plan(scenario))
experiment.run(scenario.duration)
facts = experiment.recorder.facts().shape[0]
print(resident() - before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, facts)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the resident memory from /proc")
def test_memory_of_an_idle_user(benchmark):
    """Runs in a process of its own: a million users are online, and 100 messages are sent."""
    users = size(benchmark, 1_000_000, 2000)
    program = PROGRAM.format(paths=sys.path, messages=100, users=users)
    sizes: list[str] = []

    def run() -> None:
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        sizes[:] = done.stdout.split()

    benchmark.pedantic(run, rounds=1, iterations=1)
    used, most, facts = map(int, sizes)
    assert facts >= 4 * 50
    detail = f"the whole run at most {most / 2**30:.1f} GiB"
    note(benchmark, "memory per idle user of 1,000,000", used / users / 1024, "KiB", most=1, detail=detail)


# --- parallel ---------------------------------------------------------------------------------------------------------


def test_replications_on_two_cores(benchmark):
    """Compares wall times, because CPU times do not show parallelism. On a busy machine the ratio is lower."""
    scenario = private(size(benchmark, 10_000, 100))
    many = size(benchmark, 4, 2)

    def wall(jobs: int) -> float:
        before = time.perf_counter()
        replicate(scenario, many, jobs)
        return time.perf_counter() - before

    assert replicate(scenario, many, 2) == replicate(scenario, many, 1)  # this also starts the workers
    two, one = race(benchmark, lambda: wall(2), lambda: wall(1), rounds=3)
    detail = f"{two:.1f} s against {one:.1f} s, at {os.getloadavg()[0]:.1f} load"
    note(benchmark, "replications on 2 cores, against 1", one / two, "x", least=1.7, detail=detail)


def replicate(scenario: Scenario, many: int, jobs: int) -> list[str]:
    def one(seed: int) -> str:  # a local function is pickled by value; the workers cannot import this file
        return digest(simulate(scenario, seed=seed))

    return Parallel(n_jobs=jobs)(delayed(one)(seed) for seed in range(many))
