"""Exact results of queueing theory, compared with the rows of runs. The formulas are in `imsim.analysis.theory`.

The tests check three properties:

- The rows agree with the formulas within confidence intervals.
- The rows equal, message by message, those of a plain SimPy model with the same random numbers.
- 95 % intervals contain the true value in about 95 % of all cases.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import simpy
from mixed_workload import SCENARIO as MIXED
from run_rows import delivery_seconds
from scipy import stats

import imsim
from imsim import theory
from imsim.scenario import Draws, Scenario, plan
from imsim.sim import Station

RUNS = 8


def design(rate: float, seconds: float, users: int = 120, **topology: object) -> Scenario:
    """Return a scenario with Poisson arrivals of `rate` messages a second, and links without latency.

    Many users write to all others, so that two messages of one connection or conversation hardly ever meet.
    """
    return Scenario().replace(
        {
            "population.users": users,
            "conversations.partners": users - 1,
            "workload.rate": rate / users,
            "duration": seconds,
            "warmup": 1.0,
            "network.client.latency": 0,
            "network.backend.latency": 0,
            **{f"topology.{path.replace('__', '.')}": value for path, value in topology.items()},
        }
    )


def exponential(mean: float) -> dict[str, object]:
    return {"kind": "exponential", "mean": mean}


def sample(scenario: Scenario, of: Callable[[imsim.Run], np.ndarray] = delivery_seconds) -> list[np.ndarray]:
    return [of(imsim.simulate(scenario, seed=seed)) for seed in range(RUNS)]


def agrees(values: list[float], expected: float, within: float) -> None:
    """Check that the 99.9 % t-interval over runs contains the expected value.

    A 95 % interval would miss once in twenty, and there are many intervals in these tests.

    within: the largest half width of the interval, relative to the expected value. A wider interval would prove little.
    """
    half = stats.t.ppf(0.9995, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    assert abs(statistics.mean(values) - expected) < half, (statistics.mean(values), expected, half)
    assert half < within * expected, (half / expected, within)


def p99(values: np.ndarray) -> float:
    return float(np.quantile(values, 0.99))


# --- the rows agree with the formulas --------------------------------------------------------------------------------


def test_mmc_wait_and_share_that_waits():
    """The wait of a message is its sojourn minus its service time, which is drawn by the message's number."""
    rate, service, workers = 200, 0.015, 4
    scenario = design(rate, 6, 300, storage__workers=workers, storage__service={"append": exponential(service)})

    def waits(run: imsim.Run) -> np.ndarray:
        rows = run.deliveries.merge(run.messages[["intent", "intended_at"]], on="intent")
        rows = rows[rows.intended_at >= 1e9]
        sojourns = (rows.delivered_at - rows.intended_at).to_numpy(float) / 1e9
        draws = Draws(run.seed, "service", "storage", "append").array(rows.intent.to_numpy())
        return sojourns + service * np.log1p(-draws)

    runs = sample(scenario, waits)
    agrees([run.mean() for run in runs], theory.mmc_wait(rate, service, workers), 0.7)
    agrees([(run > 1e-6).mean() for run in runs], theory.erlang_c(rate, service, workers), 0.3)


def test_md1():
    runs = sample(design(60, 12, storage__service={"append": 0.01}))
    agrees([run.mean() for run in runs], 0.01 + theory.mg1_wait(60, 0.01, 0.0), 0.2)


def test_mg1_with_lognormal_service():
    mean, scv = theory.lognormal_moments(0.005, 0.03)
    runs = sample(design(60, 9, router__service={"send": {"kind": "lognormal", "median": 0.005, "p99": 0.03}}))
    agrees([run.mean() for run in runs], mean + theory.mg1_wait(60, mean, scv), 0.25)


def test_mm1k_blocking():
    """The sender of a dropped message that is not repeated receives no answer, so its outcome is `unknown`."""
    room, rate = 2, 100
    scenario = design(rate, 5, gateway__service={"send": exponential(0.01)}, gateway__queue=room)
    scenario = scenario.replace({"policies.send_attempts": 1, "policies.send_timeout": 0.3, "warmup": 0.0})
    runs = sample(scenario, lambda run: (run.messages.outcome == "unknown").to_numpy())
    agrees([run.mean() for run in runs], theory.mm1k_blocking(rate, 0.01, room), 0.4)


@pytest.mark.parametrize("send_timeout", [1.0, 0.06])
def test_mm1k_refuses_message_behind_dropped_one_of_conversation(send_timeout):
    """The messages of a sender to a conversation keep their order.

    While a message is unanswered, the next one refers to it. If the first one was dropped, the router refuses the next
    one, which is `unknown` too. So there are more `unknown` messages than drops. If the timeout is shorter than the
    gaps between a sender's messages, the counts are equal.
    """
    scenario = design(80, 20, 30, router__service={"send": exponential(0.01)}, router__queue=5)
    once = {"policies.send_attempts": 1, "policies.send_timeout": send_timeout, "warmup": 0.0}
    run = imsim.simulate(scenario.replace(once))
    router = run.utilisation().loc["router0"]
    unknown = run.messages[run.messages.outcome == "unknown"]
    refused = router.jobs - (run.messages.outcome == "stored").sum()
    assert len(unknown) == router.drops + refused
    waited = unknown.groupby(["sender", "conversation"], observed=True).intended_at.diff()
    behind = (waited < send_timeout * 1e9).sum()
    assert refused <= behind
    assert refused > 5 if send_timeout == 1.0 else refused == behind == 0


def test_tandem_of_mm1_is_erlang_end_to_end():
    service = exponential(0.008)
    tiers = {"gateway": "send", "router": "send", "storage": "append"}
    runs = sample(design(60, 9, **{f"{tier}__service": {op: service} for tier, op in tiers.items()}))
    agrees([run.mean() for run in runs], 3 * theory.mm1_sojourn(60, 0.008), 0.2)
    for q in (0.5, 0.9, 0.99):
        quantiles = [float(np.quantile(run, q)) for run in runs]
        agrees(quantiles, theory.tandem_sojourn_quantile(60, 0.008, 3, q), 0.3)


def test_tandem_of_mmc():
    """The departures of an M/M/c station are Poisson again (Burke)."""
    stations = {"gateway": ("send", 3, 0.014), "router": ("send", 2, 0.008), "storage": ("append", 4, 0.018)}
    scenario = design(150, 7).replace(
        {
            f"topology.{tier}": {"workers": workers, "service": {op: exponential(service)}}
            for tier, (op, workers, service) in stations.items()
        }
    )
    runs = sample(scenario)
    expected = sum(service + theory.mmc_wait(150, service, workers) for _, workers, service in stations.values())
    agrees([run.mean() for run in runs], expected, 0.2)


def test_fork_join_of_two():
    """Two users are on two routers. A message is done when both routers have served the devices of their user."""
    rate, service = 60.0, 0.01
    scenario = design(rate, 12, routers=2, placement="spread", router__service={"deliver": exponential(service)})
    pair = {"population.users": 2, "population.devices": 2, "conversations.partners": 1, "workload.rate": rate / 2}

    def slowest(run: imsim.Run) -> np.ndarray:
        intended = run.messages.set_index("intent").intended_at
        done = run.deliveries.groupby("intent").delivered_at.max() - intended
        return done[intended >= 1e9].to_numpy(float) / 1e9

    runs = sample(scenario.replace(pair), slowest)
    agrees([run.mean() for run in runs], theory.fork_join_sojourn(rate, service), 0.2)


def test_retransmissions_over_a_lossy_link():
    """A message goes up the link and its acknowledgement goes down.

    The number of retransmissions is geometric in each direction. The frames are so few that one hardly ever waits for
    the retransmission of another.
    """
    loss, retransmit = 0.12, 0.02
    scenario = design(60, 9).replace({"network.client": {"latency": "10ms", "loss": loss, "retransmit": retransmit}})

    def acks(run: imsim.Run) -> np.ndarray:
        rows = run.messages[run.messages.intended_at >= 1e9]
        return (rows.acked_at - rows.intended_at).to_numpy(float) / 1e9

    runs = sample(scenario, acks)
    agrees([run.mean() - 0.02 for run in runs], retransmit * theory.retransmissions(loss, links=2), 0.3)
    for q in (0.5, 0.9, 0.99):
        expected = 0.02 + retransmit * theory.retransmissions_quantile(loss, q, links=2)
        assert np.quantile(np.concatenate(runs), q) == pytest.approx(
            expected, abs=1e-6
        )  # the distribution is a step function


# --- the rows equal those of a plain model with the same random numbers ---------------------------------------------


def by_simpy(arrivals: np.ndarray, stations: list[tuple[int, np.ndarray]]) -> np.ndarray:
    """Return when each message leaves the last station of a plain SimPy model.

    stations: (workers, demands) of each station. The model has a Resource for each station and a process for each
        message.
    """
    env = simpy.Environment()
    resources = [simpy.Resource(env, workers) for workers, _ in stations]
    left = np.zeros(len(arrivals))

    def message(number: int):
        yield env.timeout(arrivals[number])
        for resource, (_, demands) in zip(resources, stations, strict=True):
            with resource.request() as request:
                yield request
                yield env.timeout(demands[number])
        left[number] = env.now

    for number in range(len(arrivals)):
        env.process(message(number))
    env.run()
    return left


def test_rows_equal_plain_simpy_model_with_same_random_numbers():
    scenario = design(150, 5).replace(
        {
            "warmup": 0.0,
            "topology.gateway.service": {"send": exponential(0.005)},
            "topology.router": {"service": {"send": {"kind": "lognormal", "median": 0.003, "p99": 0.015}}},
            "topology.storage": {"workers": 3, "service": {"append": exponential(0.016)}},
        }
    )
    planned = plan(scenario, 3)
    intents = np.arange(len(planned))
    devices = planned.sender.astype(np.int64) * len(planned.devices) + planned.device
    service = {tier: getattr(scenario.topology, tier).service for tier in ("gateway", "router", "storage")}
    demands = [
        (1, service["gateway"]["send"].quantiles(Draws(3, "service", "gateway", "send").array(intents, devices))),
        (1, service["router"]["send"].quantiles(Draws(3, "service", "router", "send").array(intents))),
        (3, service["storage"]["append"].quantiles(Draws(3, "service", "storage", "append").array(intents))),
    ]
    expected = by_simpy(planned.at / 1e9, demands)
    # A message never overtakes an earlier one of its conversation. If storage has the later one first, it waits.
    expected = pd.Series(expected).groupby(planned.conversation).cummax().to_numpy()
    rows = imsim.simulate(scenario, seed=3).deliveries
    assert (rows.intent.to_numpy() == intents).all()
    assert np.abs(rows.delivered_at.to_numpy(float) / 1e9 - expected).max() < 2e-9  # rows are whole nanoseconds


# --- the intervals contain the true value ---------------------------------------------------------------------------

REPETITIONS, REPLICATIONS, JOBS, CUT = 400, 20, 3200, 200


def departures(arrivals: np.ndarray, demands: np.ndarray) -> np.ndarray:
    """Return the departures from one worker by Lindley's recursion, for whole arrays. The last axis is the jobs."""
    work = np.cumsum(demands, axis=-1)
    return work + np.maximum.accumulate(arrivals - work + demands, axis=-1)


def test_recursion_equals_station():
    draws = np.random.default_rng(1)
    arrivals, demands = np.cumsum(draws.exponential(1.0, 500)), draws.exponential(0.8, 500)
    station = Station()
    expected = [station.submit(now, demand) for now, demand in zip(arrivals.tolist(), demands.tolist(), strict=True)]
    assert departures(arrivals, demands) == pytest.approx(expected, rel=1e-12)


def test_95_percent_intervals_cover_true_value_in_95_percent():
    """The system is M/M/1 with a load of 0.5: 20 replications of 3,000 messages, 400 times.

    The p99 is the median-unbiased quantile, as everywhere in imsim. The nearest rank would be 0.5 % too small on
    average, which costs 2 % of coverage.
    """
    draws = np.random.default_rng(20)
    means, tails = [], []
    for _ in range(REPETITIONS // 50):
        shape = (50 * REPLICATIONS, JOBS)
        arrivals = np.cumsum(draws.standard_exponential(shape), axis=-1)
        sojourns = departures(arrivals, 0.5 * draws.standard_exponential(shape)) - arrivals
        means.append(sojourns[:, CUT:].mean(axis=1))
        tails.append(np.quantile(sojourns[:, CUT:], 0.99, axis=1, method="median_unbiased"))
    t = stats.t.ppf(0.975, REPLICATIONS - 1)
    truths = theory.mm1_sojourn(1.0, 0.5), theory.mm1_sojourn_quantile(1.0, 0.5, 0.99)
    for found, truth in zip((means, tails), truths, strict=True):
        values = np.concatenate(found).reshape(REPETITIONS, REPLICATIONS)
        half = t * values.std(axis=1, ddof=1) / math.sqrt(REPLICATIONS)
        covered = (np.abs(values.mean(axis=1) - truth) <= half).mean()
        assert 0.93 <= covered <= 0.97


# --- every message and delivery has a defined outcome ----------------------------------------------------------------

CALM = MIXED.replace({"duration": 3.0, "drain": 8.0})


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"topology.storage.service": {"append": "60ms"}, "topology.storage.workers": 1},
        {"topology.gateway.service": {"send": "20ms", "push": "3ms"}, "topology.gateway.queue": 3},
        {"topology.router.service": {"send": "20ms", "deliver": "1ms"}, "topology.router.queue": 3},
        {
            "topology.storage.service": {"append": "20ms", "save_state": "5ms"},
            "topology.storage.queue": 3,
            "topology.storage.workers": 3,
        },
        {
            "topology.storage": {"commit": {"batch": 5, "linger": "20ms"}, "queue": 12},
            "topology.storage.service": {"append": "2ms", "commit": "40ms"},
            "policies.fanout": "write",
        },
        {"network.client.loss": 0.2, "policies.send_attempts": 1, "policies.send_timeout": 0.5},
        {"limits.room_rate": 1.0, "limits.room_burst": 2, "topology.gateway.queue": 5, "drain": 0.0},
    ],
    ids=["calm", "overload", "gateway queue", "router queue", "storage queue", "commits", "loss", "shedding"],
)
def test_every_message_and_delivery_has_one_defined_outcome(change):
    scenario = CALM.replace(change)
    run, planned = imsim.simulate(scenario), plan(scenario)
    messages, deliveries = run.messages, run.deliveries
    # Every planned message has one row with one of four outcomes.
    assert messages.intent.tolist() == list(range(len(planned)))
    counts = messages.outcome.value_counts()
    assert set(counts.index) <= {"stored", "rejected", "unknown", "unsent"}
    assert counts.sum() == len(planned)
    # Every device that is entitled to a message has one row with one of five outcomes.
    assert not deliveries.duplicated(["intent", "recipient", "device"]).any()
    rejected = messages.intent[messages.outcome == "rejected"]
    assert not deliveries.intent.isin(rejected).any()
    summary = run.to_json_dict()
    outcomes = ("delivered", "lost", "absent", "recalled", "shed")
    assert sum(summary[outcome] for outcome in outcomes) == len(deliveries) == summary["deliveries"]
    assert (deliveries.delivered_at.notna() == (deliveries.outcome == "delivered")).all()
    shed = deliveries.intent[deliveries.outcome == "shed"]
    assert set(messages.scene[messages.intent.isin(shed)]) <= {"chatroom"}
    # An acknowledged message is stored, and a shown message was stored before it was shown. The time of storing is
    # unknown if the sender learned it only from a second attempt, or if the writer was fenced meanwhile. Storage
    # fences a writer when it drops an append to its log.
    if not any(node["drops"] for name, node in run.manifest["utilisation"].items() if name.startswith("storage")):
        assert messages.stored_at[(messages.outcome == "stored") & (messages.attempts == 1)].notna().all()
    shown = deliveries[deliveries.outcome == "delivered"].merge(messages[["intent", "stored_at"]], on="intent")
    assert (shown.stored_at <= shown.delivered_at)[shown.stored_at.notna()].all()
    assert run.manifest["stray"] == 0
