import numpy as np
import pytest

from imsim.analysis import warmup
from imsim.analysis.warmup import Beginning, Series, mser5, unsteady_note, unsteady_notes


def test_mser5_does_not_cut_steady_series():
    rng = np.random.default_rng(1)
    cuts = [mser5(rng.normal(10, 1, 500)) for _ in range(20)]
    assert np.median([cut for cut in cuts if cut is not None]) <= 50


def test_mser5_cuts_initial_transient():
    rng = np.random.default_rng(2)
    values = rng.normal(10, 1, 500)
    values[:100] -= np.linspace(8, 0, 100)  # fills up
    assert 60 <= mser5(values) <= 120
    values = rng.normal(10, 1, 500)
    values[:100] += 5
    assert mser5(values) in (100, 105, 110)


def test_mser5_refuses_series_that_never_becomes_steady():
    assert mser5(np.arange(500.0)) is None
    assert mser5(np.arange(5.0)) is None


def test_mser5_matches_definition():
    rng = np.random.default_rng(3)
    values = rng.exponential(1, 200) + np.exp(-np.arange(200) / 20)
    batches = values.reshape(-1, 5).mean(axis=1)
    n = len(batches)
    errors = [((batches[d:] - batches[d:].mean()) ** 2).sum() / (n - d) ** 2 for d in range(n - 5)]
    assert mser5(values) == 5 * int(np.argmin(errors))


def test_series_of_run_counts_by_intended_time(build):
    run = build(
        [{"intended_at": at} for at in (0, 3_000_000_000, 3_000_000_000, 9_999_999_999)],
        [{"intent": i, "delivered_at": at} for i, at in enumerate((5_000_000, 3_001_000_000, 3_003_000_000))]
        + [{"intent": 3}],
        duration=10.0,
    )
    series = Series.of(run)
    assert (series.sums[0], series.counts[0]) == (5.0, 1)
    assert (series.sums[150], series.counts[150]) == (4.0, 2)
    assert series.counts.sum() == 3  # what never came is in no mean


def test_warmup_is_suggested_from_mean_over_replications():
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


def waits(load: float, messages: int, rng: np.random.Generator, backlog: float = 0.0) -> Series:
    """The times in an M/M/1 queue, whose mean service time is 1 ms, by arrival. `backlog`: ms of work at the start."""
    arrivals, services = np.cumsum(rng.exponential(1 / load, messages)), rng.exponential(1, messages)
    # Lindley's recursion, by its solution: the work left after each arrival is the highest sum of increments up to it.
    sums = np.cumsum(services) - arrivals
    left = sums - np.minimum(np.minimum.accumulate(sums - services), -backlog)
    bins = np.minimum((arrivals / arrivals[-1] * 500).astype(int), 499)
    counts, totals = np.bincount(bins, minlength=500), np.bincount(bins, left, 500)
    return Series(arrivals[-1] / 1e3, totals, counts.astype(float))


def note_of(series: Series, warmup: float = 0.0) -> list[str]:
    return unsteady_note(Beginning.in_series(series, warmup))


@pytest.mark.parametrize(("load", "messages"), [(0.5, 1_000), (0.8, 3_000), (0.9, 30_000)])
def test_steady_run_rarely_gets_note(load, messages):
    rng = np.random.default_rng(5)
    notes = 0
    for _ in range(300):
        series = waits(load, messages, rng)
        notes += bool(note_of(series, 0.2 * series.duration))
    assert notes <= 12  # of 300: six are 2 %; twelve or more have a chance of 2 % then


@pytest.mark.parametrize(("load", "messages"), [(0.5, 1_000), (0.8, 3_000), (0.9, 10_000)])
def test_run_with_initial_backlog_gets_note(load, messages):
    rng = np.random.default_rng(6)
    backlog = 10 * load / (1 - load)
    while_it_lasts = 0.2 * messages / load * (1 - load)
    found = [note_of(waits(load, messages, rng, max(backlog, while_it_lasts))) for _ in range(50)]
    assert sum("does not begin in steady state" in "".join(notes) for notes in found) >= 45


def test_overloaded_service_gets_note_about_load():
    rng = np.random.default_rng(7)
    (note,) = note_of(waits(1.2, 5_000, rng))
    assert note.startswith("latency rises during the run (mean delivery latency: ")
    assert "cannot keep up" in note


def test_few_messages_give_no_note():
    rng = np.random.default_rng(8)
    assert note_of(waits(1.2, 60, rng)) == []
    series = waits(1.2, 5_000, rng)
    assert note_of(series, 0.99 * series.duration) == []


def test_replications_detect_transient_that_one_run_misses():
    """Queues that are empty at first: a single run of this length cannot tell that from chance."""
    rng = np.random.default_rng(9)
    filling = [Beginning.in_series(waits(1.0, 5_000, rng), 0.0) for _ in range(20)]
    (note,) = unsteady_notes(filling)
    assert "latency rises" in note
    assert "of 20 replications: " in note
    assert sum(bool(unsteady_note(one)) for one in filling) < 20
    steady = [
        [Beginning.in_series(series := waits(0.8, 3_000, rng), 0.2 * series.duration) for _ in range(5)]
        for _ in range(200)
    ]
    assert sum(bool(unsteady_notes(replications)) for replications in steady) <= 4
    assert unsteady_notes(filling[:1]) == unsteady_note(filling[0])
    assert unsteady_notes([None, None]) == []


def test_run_with_growing_losses_gets_note(build):
    def run(lost_from: float):
        messages = [{"intended_at": number * 10**7} for number in range(1_000)]
        deliveries = [
            {"intent": number} | ({"delivered_at": (number + 1) * 10**7} if number < lost_from else {})
            for number in range(1_000)
        ]
        return build(messages, deliveries, duration=10.0, drain=1.0)

    (note,) = run(600).warnings
    assert note.startswith("80 % of the deliveries in the second half of the run never arrived, 0 % in its first tenth")
    assert run(1_000).warnings == []
    assert not [note for note in run(0).warnings if "never arrived" in note]  # the share does not grow
