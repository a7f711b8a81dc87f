"""Replications: neither workers nor backends change them."""

from __future__ import annotations

import math

import joblib
import pytest
from joblib._parallel_backends import SequentialBackend, ThreadingBackend

import imsim
from imsim.analysis.run_length import Behind
from imsim.analysis.warmup import Beginning, Steadiness
from imsim.experiments import Replications, Sample, replication_seed
from imsim.scenario import Scenario

OFFICE = imsim.Scenario.load("office").replace(
    {"duration": 1.0, "warmup": 0.0, "drain": 1.0, "population.users": 30, "workload.rate": 1.0}
)


@pytest.fixture(scope="module")
def four():
    return imsim.replicate(OFFICE, seed=3, replications=4, jobs=1)


def test_replication_equals_run_of_its_seed(four):
    assert four.frame.seed[0] == 3
    assert four.frame.seed.is_unique
    for replication in (0, 3):
        run = imsim.simulate(OFFICE, seed=int(four.frame.seed[replication]))
        assert run.digest == four.frame.digest[replication]
        assert run.to_json_dict()["delivery_ms"]["p99"] == four.frame["delivery.p99"][replication]


def test_number_of_workers_changes_no_result(four):
    """Runs, values of functions and errors of functions arrive from the other processes."""
    options = {"seed": 3, "replications": 4, "jobs": 2}
    senders = {"senders": lambda run: run.messages.sender.nunique()}
    kept = imsim.replicate(OFFICE, keep="runs", metrics=senders, **options)
    assert kept.frame[four.frame.columns].equals(four.frame)
    assert 1 < kept["senders"].value < 30
    assert [run.digest for run in kept] == [run.digest for run in kept.runs] == four.frame.digest.tolist()
    assert kept.runs[1].seed == kept.runs[1].scenario.seed == four.frame.seed[1]
    problem = "metric 'mine': the function raised ZeroDivisionError: division by zero"
    with pytest.raises(imsim.UsageError, match=problem):
        imsim.replicate(OFFICE, metrics={"mine": lambda run: 1 / 0}, **options)


def test_fewer_replications_are_the_first_of_more(four):
    assert imsim.replicate(OFFICE, seed=3, replications=2, jobs=1).frame.equals(four.frame[:2])


def test_replication_seeds_fit_json():
    seeds = [replication_seed(seed, replication) for seed in (1, 2) for replication in range(500)]
    assert len(set(seeds)) == 1000
    assert max(seeds) < 2**53
    assert replication_seed(1, 1) == 1822839599862734  # on every machine


def test_joblib_config_chooses_backend(four):
    class Elsewhere(ThreadingBackend):
        tasks = 0

        def submit(self, *arguments, **options):
            Elsewhere.tasks += 1
            return super().submit(*arguments, **options)

    assert not issubclass(Elsewhere, SequentialBackend)
    joblib.register_parallel_backend("elsewhere", Elsewhere)
    with joblib.parallel_config("elsewhere"):
        assert imsim.replicate(OFFICE, seed=3, replications=4, jobs=2).frame.equals(four.frame)
    assert Elsewhere.tasks == 4
    with joblib.parallel_config("threading"):
        assert imsim.replicate(OFFICE, seed=3, replications=4).summary().equals(four.summary())


def test_precision_adds_replications_up_to_limit():
    options = {"replications": 5, "metrics": {"messages each": lambda run: len(run.messages)}}
    rough = imsim.replicate(OFFICE, precision={"messages each": 0.8}, jobs=1, **options)
    assert (len(rough), rough.is_precise) == (5, True)
    fine = imsim.replicate(OFFICE, precision={"messages each": 0.13}, jobs=1, **options)
    assert fine.is_precise
    assert len(fine) > 5
    assert fine.frame[:5].equals(rough.frame)
    with joblib.parallel_config("threading"):
        assert imsim.replicate(OFFICE, precision={"messages each": 0.13}, jobs=2, **options).frame.equals(fine.frame)
    never = imsim.replicate(OFFICE, precision={"delivery.mean": 0.0001}, max_replications=7, jobs=1, **options)
    assert (len(never), never.is_precise) == (7, False)


def test_short_runs_end_search_for_precision():
    """With 30 messages in a run, more replications would only make a wrong number more certain."""
    found = imsim.replicate(OFFICE, precision=0.9, replications=5, jobs=1)
    assert (len(found), found.is_precise) == (5, False)
    assert "delivery.p99 (1,000)" in found.notes[1]
    assert "delivery.p99 is not precise, because the runs are too short for it" in found.notes
    both = imsim.replicate(
        OFFICE, precision={"delivery.p99": 0.9, "delivery.mean": 1e-4}, replications=5, max_replications=6, jobs=1
    )
    assert len(both) == 6, "for the mean"


def test_null_metric_ends_search_for_precision():
    dead = OFFICE.replace({"topology.storage.service": {"append": "1h"}})
    found = imsim.replicate(dead, replications=2, precision=0.05, jobs=1)
    assert len(found) == 2
    assert not found.is_precise
    assert found["delivery.p99"].undefined == 2


def test_warmup_is_suggested_for_cold_start():
    """All users send after an idle start, so the queue needs time to reach its steady length."""
    busy = imsim.Scenario().replace(
        {
            "duration": 12.0,
            "drain": 5.0,
            "population.users": 50,
            "workload.rate": 1.0,
            "topology.storage.service": {"append": {"kind": "exponential", "mean": "19ms"}},
        }
    )
    seconds = imsim.replicate(busy, replications=4, jobs=1).suggest_warmup()
    assert 0.1 < seconds < 6


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"replications": 0}, "replications: must be at least 1"),
        ({"replications": 2.5}, "replications: expected a whole number"),
        ({"jobs": "all"}, "jobs: expected a whole number"),
        ({"metrics": 5}, "metrics: expected names"),
        ({"replications": 30, "max_replications": 20}, "max_replications"),
        ({"replications": 2, "jobs": 0}, "jobs"),
        ({"replications": 2, "keep": "rows"}, "keep.*'rows'"),
        ({"precision": 5}, "delivery.p99 above 0 and below 1"),
        ({"precision": "5%"}, "delivery.p99 above 0 and below 1, .*got '5%'"),
        ({"precision": {"p99": 0.05}}, "unknown metric 'p99' .*'delivery.p99'"),
        ({"precision": 0.1, "replications": 1}, "at least 2 with a precision"),
        ({"precision": {"delivery.p0x": 0.1}}, "delivery.p0x"),
        ({"replications": 2, "metrics": ["nonsense"]}, "nonsense"),
    ],
)
def test_bad_arguments_are_refused(options, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(imsim.UsageError, match=words):
        imsim.replicate(OFFICE, **options)


def make(*values, precision=None):
    samples = [
        Sample(r, 100 + r, f"digest {r}", {"delivery.p99": value, "lost": 0.0}) for r, value in enumerate(values)
    ]
    return Replications(Scenario(name="tiny"), samples, precision)


def test_summary_and_frame_have_metrics():
    replications = make(1.0, 2.0, 3.0)
    assert replications.summary().loc["delivery.p99"].round(3).tolist() == [2, 0, 4.484, 1.242, 1, 3, 0]
    assert list(replications.frame.columns) == ["replication", "seed", "digest", "delivery.p99", "lost"]
    assert replications.frame["delivery.p99"].tolist() == [1, 2, 3]
    assert replications["lost"].high == 0


def test_interval_of_nonnegative_metric_ends_at_zero():
    samples = [Sample(r, r, "", {"ack.p50": value, "own": value}) for r, value in enumerate((1.0, 3.0))]
    found = Replications(Scenario(name="tiny"), samples)
    assert (found["ack.p50"].low, found["own"].low) == (0, pytest.approx(-10.706, abs=0.001))
    assert found["ack.p50"].half == found["own"].half == pytest.approx(12.706, abs=0.001)


def test_loss_in_one_replication_makes_mean_null():
    replications = make(1.0, math.inf, 3.0)
    row = replications.summary().loc["delivery.p99"]
    assert row[["mean", "low", "high", "largest"]].isna().all()
    assert (row["smallest"], row["null"]) == (1, 1)
    assert replications.frame["delivery.p99"].isna().tolist() == [False, True, False]
    assert "delivery.p99 in 1" in " ".join(replications.notes)
    printed = replications.to_json_dict()
    assert printed["metrics"]["delivery.p99"] == {"mean": None, "low": None, "high": None, "null": 1}


def test_percentile_of_short_runs_has_no_interval():
    samples = [
        Sample(r, r, "", {"delivery.p99": 50.0 + r, "delivery.p50": 9.0 + r}, {"delivery.p99": Behind(10, math.nan)})
        for r in range(5)
    ]
    found = Replications(Scenario(), samples)
    assert found["delivery.p50"].half > 0
    assert found["delivery.p99"].value == 52.0
    assert found["delivery.p99"].half is None
    assert found.summary().loc["delivery.p99", ["low", "high", "relative"]].isna().all()
    assert any("delivery.p99 (1,000)" in note for note in found.notes)


def test_few_replications_are_noted():
    assert "two or more" in make(1.0).notes[0]
    assert "3 replications" in make(1.0, 2.0, 3.0).notes[0]
    assert make(*map(float, range(20))).notes == []


def test_missed_precision_is_noted():
    values = list(map(float, range(20)))
    replications = make(*values, precision={"delivery.p99": 0.05})
    assert not replications.is_precise
    assert "delivery.p99 has not reached the requested precision" in replications.notes[0]
    assert make(*values, precision={"delivery.p99": 0.9}).is_precise
    assert make(*values).to_json_dict()["precise"] is None


def test_runs_that_were_not_kept_are_refused():
    with pytest.raises(imsim.UsageError, match="keep='runs'"):
        make(1.0).runs  # noqa: B018
    with pytest.raises(imsim.UsageError, match=r"'ack.p50' was not measured.*measured: delivery.p99, lost"):
        make(1.0)["ack.p50"]


def test_replications_print_confirmed_only_if_it_can_differ_from_ack():
    values = {"confirmed.p99": 2.0, "ack.p99": 2.0, "received_lost": 0.0}
    late, early = (
        Replications(Scenario(policies={"ack": ack}), [Sample(r, r, "", values) for r in range(2)])
        for ack in ("after_store", "after_receive")
    )
    assert "confirmed.p99" not in str(late)
    assert "received_lost" not in late._repr_html_()
    assert {"confirmed.p99", "received_lost"} < set(late.summary().index)
    assert "confirmed.p99" in str(early)
    assert "confirmed.p99" in str(Replications(late.scenario, late.samples, asked=["confirmed.p99"]))


def test_budget_is_undecided_by_a_percentile_of_runs_that_are_too_short():
    short = [Sample(r, r, "", {"delivery.p99": 50.0 + r}, {"delivery.p99": Behind(300, 50.0)}) for r in range(3)]
    found = Replications(Scenario(), short)
    assert imsim.Budget("delivery.p99 > 90ms").fails(found) is None
    assert imsim.Budget("delivery.p99 < 9ms").fails(found) == "delivery.p99 < 9ms: it is 51 ms over 3 replications"


def test_replications_note_overload_and_drops():
    lost = Steadiness(lost=Beginning(1.0, (30.0,) * 10), drops={"storage0": 4})
    samples = [Sample(r, r, "", {"lost": 9.0}, steadiness=lost) for r in range(2)]
    overload, drops = Replications(Scenario(), samples).notes[1:]
    assert overload.startswith(
        "30 % of the deliveries in the second half of the run never arrived, 1 % in its first tenth"
    )
    assert drops.startswith("storage0 dropped 4 operations a run on average, as its queue was full")


def test_replications_of_an_overloaded_service_note_what_a_run_warns_of():
    fields = {
        "workload.arrivals": "poisson",
        "workload.rate": 1.0,
        "topology.storage.queue": 500,
        "limits.longest_wait": "60s",
        "policies.send_attempts": 1,
        "duration": "6s",
    }
    found = imsim.replicate(imsim.Scenario.load("capacity", fields), replications=2, jobs=1)
    assert any("% of the deliveries in the second half of the run never arrived" in note for note in found.notes)
    assert any(note.startswith("storage0 dropped ") for note in found.notes)


def test_texts_are_short():
    replications = make(1.0, math.inf)
    assert "note: null in some" in str(replications)
    assert "<b>tiny</b>" in replications._repr_html_()
    assert repr(replications) == "<Replications of tiny: 2 from seed 1>"
    assert str(make(1.0, 3.0)["delivery.p99"]) == "2 [0, 14.71]"


def test_missing_steady_state_is_warned_about():
    with pytest.warns(UserWarning, match="use a longer duration"):
        assert make(1.0).suggest_warmup() is None


def test_budget_of_replications_fails_by_interval():
    budget = imsim.Budget("delivery.p99 < 10ms")
    assert budget.fails(make(8.0, 11.0)) is None
    message = budget.fails(make(12.0, 12.2))
    assert message == "delivery.p99 < 10ms: it is 12.1 [10.83, 13.37] ms over 2 replications"
