import json
from dataclasses import asdict

import numpy as np
import pytest

import imsim
from imsim.analysis import warmup
from imsim.analysis.warmup import Beginning, Series, Steadiness, drop_notes, mser5, notes
from imsim.scenario import Scenario


def test_mser5_does_not_cut_a_steady_series():
    rng = np.random.default_rng(1)
    cuts = [mser5(rng.normal(10, 1, 500)) for _ in range(20)]
    assert np.median([cut for cut in cuts if cut is not None]) <= 50


def test_mser5_cuts_a_beginning_that_differs():
    rng = np.random.default_rng(2)
    values = rng.normal(10, 1, 500)
    values[:100] -= np.linspace(8, 0, 100)  # fills up
    assert 60 <= mser5(values) <= 120
    values = rng.normal(10, 1, 500)
    values[:100] += 5
    assert mser5(values) in (100, 105, 110)


def test_mser5_does_not_cut_a_series_that_never_becomes_steady():
    assert mser5(np.arange(500.0)) is None
    assert mser5(np.arange(5.0)) is None


def test_mser5_agrees_with_its_definition():
    rng = np.random.default_rng(3)
    values = rng.exponential(1, 200) + np.exp(-np.arange(200) / 20)
    batches = values.reshape(-1, 5).mean(axis=1)
    n = len(batches)
    errors = [((batches[d:] - batches[d:].mean()) ** 2).sum() / (n - d) ** 2 for d in range(n - 5)]
    assert mser5(values) == 5 * int(np.argmin(errors))


def test_series_of_a_run_counts_by_intended_time(build):
    run = build(
        [{"intended_at": at} for at in (0, 3_000_000_000, 3_000_000_000, 9_999_999_999)],
        [{"intent": i, "delivered_at": at} for i, at in enumerate((5_000_000, 3_001_000_000, 3_003_000_000))]
        + [{"intent": 3}],
        duration=10.0,
    )
    series = Series.of(run)
    assert (series.sums[0], series.counts[0]) == (5.0, 1)
    assert (series.sums[150], series.counts[150]) == (4.0, 2)
    assert series.counts.sum() == 3  # the one that never arrived is left out


def test_suggested_warmup_follows_from_the_mean_over_replications():
    rng = np.random.default_rng(4)
    replications = []
    for _ in range(20):
        values = rng.exponential(10, 500)
        values[:50] += 15
        replications.append(Series(20.0, values, np.ones(500)))
    assert warmup.suggest(replications) == pytest.approx(2.0)
    replications = [Series(20.0, np.arange(500.0), np.ones(500))]
    assert warmup.suggest(replications) is None
    assert warmup.suggest([Series(20.0, np.zeros(500), np.zeros(500))]) is None


# --- a run that does not begin as it goes on --------------------------------------------------------------------------


def waits(load: float, messages: int, rng: np.random.Generator, backlog: float = 0.0):
    """The arrivals (s) in an M/M/1 queue and their sojourns (ms). The mean service time is 1 ms. `backlog`: ms of work
    at the start."""
    arrivals, services = np.cumsum(rng.exponential(1 / load, messages)), rng.exponential(1, messages)
    # Lindley's recursion, by its solution: the work left after each arrival is the highest sum of increments up to it.
    sums = np.cumsum(services) - arrivals
    left = sums - np.minimum(np.minimum.accumulate(sums - services), -backlog)
    return arrivals / 1e3, left


def beginning(found, warmup: float = 0.0):
    at, values = found
    return Beginning.of(at, values, warmup * at[-1], at[-1])


def note_of(found, warmup: float = 0.0) -> list[str]:
    return notes_of([beginning(found, warmup)])


def notes_of(beginnings) -> list[str]:
    return notes([Steadiness(one) for one in beginnings], has_faults=False)


@pytest.mark.parametrize(("load", "messages"), [(0.5, 1_000), (0.8, 3_000), (0.9, 30_000)])
def test_steady_run_gets_a_note_in_one_of_fifty_cases_at_most(load, messages):
    rng = np.random.default_rng(5)
    found = sum(bool(note_of(waits(load, messages, rng), 0.2)) for _ in range(300))
    assert found <= 12  # of 300: six are 2 %, and twelve or more have a chance of 2 % then


@pytest.mark.parametrize(("load", "messages"), [(0.5, 1_000), (0.8, 3_000), (0.9, 10_000)])
def test_run_that_begins_with_a_backlog_gets_a_note(load, messages):
    rng = np.random.default_rng(6)
    backlog = 10 * load / (1 - load)
    while_it_lasts = 0.2 * messages / load * (1 - load)
    found = [note_of(waits(load, messages, rng, max(backlog, while_it_lasts))) for _ in range(50)]
    assert sum("does not begin in steady state" in "".join(notes) for notes in found) >= 45


def test_service_that_cannot_keep_up_gets_a_note_about_rising_latency():
    rng = np.random.default_rng(7)
    (note,) = note_of(waits(1.2, 5_000, rng))
    assert note.startswith("latency rises during the run (mean delivery latency: ")
    assert "cannot keep up" in note


def test_few_latencies_give_no_note():
    rng = np.random.default_rng(8)
    assert note_of(waits(1.2, 60, rng)) == []
    assert note_of(waits(1.2, 5_000, rng), 0.99) == []


def test_replications_show_a_rise_more_surely():
    """The queues are empty at first, which a single run of this length cannot tell from chance."""
    rng = np.random.default_rng(9)
    filling = [beginning(waits(1.0, 5_000, rng)) for _ in range(20)]
    (note,) = notes_of(filling)
    assert "latency rises" in note
    assert "of 20 replications: " in note
    assert sum(bool(notes_of([one])) for one in filling) < 20
    steady = [[beginning(waits(0.8, 3_000, rng), 0.2) for _ in range(5)] for _ in range(200)]
    assert sum(bool(notes_of(replications)) for replications in steady) <= 4
    assert notes_of([filling[0], None]) == notes_of(filling[:1])
    assert notes_of([None, None]) == []


def test_outliers_that_move_only_the_mean_give_no_note():
    """In the first tenth, one latency in fifty is that of a device that had been offline."""
    at, values = np.linspace(0, 10, 10_000, endpoint=False), np.full(10_000, 10.0)
    values[:1_000:50] = 5_000
    assert notes_of([Beginning.of(at, values, 0, 10, has_medians=False)])
    assert note_of((at, values)) == []
    values[:1_000] = 40
    assert note_of((at, values))


def test_mobile_devices_give_no_false_alarm():
    """Devices on slow networks go offline and return all the time: some latencies are long by chance."""
    runs = [imsim.simulate(Scenario.load("mobile", seed=seed)) for seed in (106, 109, 115)]
    assert [run.warnings for run in runs] == [[]] * 3


def losing(build, lost_from: int, **scenario):
    """Build a run of 1,000 messages in 10 s. All messages from a number on are lost."""
    messages = [{"intended_at": number * 10**7} for number in range(1_000)]
    deliveries = [
        {"intent": number} | ({"delivered_at": (number + 1) * 10**7} if number < lost_from else {})
        for number in range(1_000)
    ]
    return build(messages, deliveries, **({"duration": 10.0, "drain": 1.0} | scenario))


def test_run_that_loses_more_and_more_gets_a_note(build):
    (note,) = losing(build, 600).warnings
    assert note.startswith("80 % of the deliveries in the second half of the run never arrived, 0 % in its first tenth")
    assert note.endswith("cannot keep up with this load")
    assert losing(build, 1_000).warnings == []
    assert not [note for note in losing(build, 0).warnings if "never arrived" in note]  # the share does not grow


RECONNECT = {"kind": "mass_reconnect", "at": 9.7}


@pytest.mark.parametrize(
    "scenario",
    [
        {"faults": [RECONNECT]},
        {"workload": {"arrivals": {"kind": "curve", "points": [["0s", 1.0], ["1h", 1.0]]}}},
        {"workload": {"arrivals": {"kind": "ramp", "start": 0.0, "end": 1.0, "over": "10s"}}},
        {"workload": {"arrivals": [number / 100 for number in range(1_000)]}},
    ],
)
def test_loss_is_noted_whatever_the_load_and_its_faults(build, scenario):
    (note,) = (note for note in losing(build, 600, **scenario).warnings if "never arrived" in note)
    assert note.endswith("or its faults lose deliveries") == ("faults" in scenario)


def slowing(build, **scenario):
    """A run whose latencies rise from 10 ms to 1 s in 10 s. With faults, the last messages take 9 s."""
    at = [number / 100 for number in range(1_000)]
    late = [9.0 if time >= 9.8 and "faults" in scenario else 0.01 + time / 10 for time in at]
    rows = [
        {"intent": number, "delivered_at": round((time + wait) * 1e9)}
        for number, (time, wait) in enumerate(zip(at, late, strict=True))
    ]
    messages = [{"intended_at": round(time * 1e9)} for time in at]
    return build(messages, rows, **({"duration": 10.0, "drain": 10.0} | scenario))


@pytest.mark.parametrize(
    ("scenario", "has_note"),
    [
        ({}, True),
        ({"faults": [RECONNECT]}, True),
        ({"faults": [RECONNECT | {"at": 0.5}]}, False),
        ({"workload": {"arrivals": {"kind": "curve", "points": [["0s", 1.0], ["1h", 1.05]]}}}, True),
        ({"workload": {"arrivals": {"kind": "curve", "points": [["0s", 1.0], ["10s", 3.0]]}}}, False),
        ({"workload": {"arrivals": [number / 100 for number in range(1_000)]}}, True),
        ({"workload": {"arrivals": [(number / 320) ** 2 for number in range(1_000)]}}, False),
    ],
)
def test_latency_is_judged_up_to_the_first_fault_if_the_load_is_even(build, scenario, has_note):
    assert bool([note for note in slowing(build, **scenario).warnings if "latency rises" in note]) is has_note


def test_live_run_is_judged_up_to_the_first_fault_of_its_manifest(build):
    assert "latency rises" in "".join(slowing(build, world="live").warnings)
    early = slowing(build, world="live")
    early.manifest["faults"] = [[0.5, 1.0, "kill -9"]]
    assert early.warnings == []


def test_steadiness_survives_json(build):
    run = losing(build, 600)
    run.manifest["utilisation"] = {"storage0": {"drops": 3}, "router0": {"drops": 0}}
    found = Steadiness.of(run)
    assert found.drops == {"storage0": 3}
    assert found.latency is None, "too few arrive"
    assert Steadiness.from_json_dict(json.loads(json.dumps(asdict(found)))) == found
    steady = Steadiness.of(losing(build, 1_000))
    assert steady.latency.medians == (10.0, 10.0)
    assert Steadiness.from_json_dict(json.loads(json.dumps(asdict(steady)))) == steady


def test_drops_of_replications_are_noted_by_node():
    runs = [Steadiness(drops={"storage1": 4}), Steadiness(drops={"storage0": 1, "storage1": 8}), Steadiness()]
    assert [note.split(",")[0] for note in drop_notes(runs)] == [
        "storage0 dropped 0.3333 operations a run on average",
        "storage1 dropped 4 operations a run on average",
    ]
    assert drop_notes([Steadiness()]) == []
