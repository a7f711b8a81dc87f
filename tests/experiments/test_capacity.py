"""The search for the highest load, and its report."""

from __future__ import annotations

import math

import joblib
import pytest
from matplotlib.figure import Figure

import imsim
from imsim.analysis.budgets import Budget
from imsim.analysis.kinds import UTILISATIONS, WAITS
from imsim.analysis.run_length import Behind
from imsim.analysis.warmup import Beginning, Steadiness
from imsim.experiments import Capacity, Replications, Sample
from imsim.experiments.replicate import Sampling, replicate
from imsim.experiments.search import Bracket, load_of, search
from imsim.scenario import Scenario


def judge(limit, blur=0.0):
    """A design that keeps the budget below `limit` and is undecided within `blur` of it. `asked`: the loads tried."""

    def judged(load):
        judged.asked.append(load)
        if abs(load - limit) <= blur:
            return "undecided"
        return "keeps" if load < limit else "breaks"

    judged.asked = []
    return judged


@pytest.mark.parametrize("limit", [0.02, 0.9, 1.0001, 7.3, 60.0])
def test_search_brackets_the_limit_within_the_tolerance(limit):
    asked = judge(limit)
    bracket = search(asked, 1.0, tolerance=0.05)
    assert bracket.keeps < limit <= bracket.breaks <= bracket.keeps * 1.05
    assert bracket.undecided == []
    assert len(asked.asked) == len(set(asked.asked)) < 15


def test_undecided_loads_are_inside_the_bracket():
    bracket = search(judge(3.0, blur=0.2), 1.0, tolerance=0.05)
    first, last = bracket.undecided[0], bracket.undecided[-1]
    assert bracket.keeps < 2.8 <= first <= last <= 3.2 < bracket.breaks
    assert first <= bracket.keeps * 1.05
    assert bracket.breaks <= last * 1.05


def test_search_over_whole_numbers_tries_whole_numbers():
    bracket = search(judge(13.5), 5.0, tolerance=0.01, whole=True)
    assert (bracket.keeps, bracket.breaks) == (13, 14)
    bracket = search(judge(0.5), 5.0, tolerance=0.01, whole=True)
    assert (bracket.keeps, bracket.breaks) == (None, 1)


def test_search_ends_at_the_lowest_and_highest_load():
    assert search(judge(1e9), 1.0, tolerance=0.05).keeps == 64
    assert search(judge(0.0), 1.0, tolerance=0.05).keeps is None
    bracket = search(judge(100.0), 1.0, tolerance=0.05, highest=7.0)
    assert (bracket.keeps, bracket.breaks) == (7, None)
    bracket = search(judge(0.1), 1.0, tolerance=0.05, lowest=0.3)
    assert (bracket.keeps, min(bracket.verdicts)) == (None, 0.3)


def test_search_does_not_try_lower_loads_if_the_runs_are_too_short():
    asked = judge(2.0, blur=1.5)
    assert search(asked, 1.0, tolerance=0.05, is_too_short=lambda load: load < 1.5).keeps is None
    assert min(asked.asked) == 1.0
    assert search(judge(2.0, blur=1.5), 1.0, tolerance=0.05).keeps < 0.5


def test_bracket_shows_a_result_that_is_not_monotone():
    bracket = Bracket({1.0: "keeps", 2.0: "breaks", 4.0: "keeps"})
    assert (bracket.keeps, bracket.breaks, bracket.is_monotone) == (1, 2, False)


def make(verdicts, budget="delivery.p99 < 200ms", busy=0.4, wait=10.0):
    """A capacity whose storage is `busy` at a load of 1, and messages `wait` there (ms); in proportion at others."""
    budget = Budget(budget)

    def values(load, value, r):
        shares = {"gateway": 0.1, "router": 0.2, "storage": busy}
        used = {f"utilisation.{tier}": min(share * load + r / 100, 1.0) for tier, share in shares.items()}
        waits = {"gateway": 0.0, "router": 5.0, "storage": wait}
        waited = {f"wait.{tier}": ms * load for tier, ms in waits.items()}
        return {budget.metric: value + r} | used | waited

    tried = {
        load: Replications(Scenario(), [Sample(r, r, "", values(load, value, r)) for r in range(3)])
        for load, (_, value) in verdicts.items()
    }
    bracket = Bracket({load: verdict for load, (verdict, _) in verdicts.items()})
    return Capacity(Scenario(name="tiny"), budget, "workload.rate", bracket, tried)


FOUND = make({2.0: ("breaks", 500.0), 1.0: ("keeps", 50.0), 1.5: ("undecided", 199.0), 4.0: ("breaks", math.inf)})


def test_capacity_lists_the_loads_and_the_verdict():
    assert (FOUND.keeps, FOUND.breaks) == (1.0, 2.0)
    assert FOUND.frame["workload.rate"].tolist() == [1.0, 1.5, 2.0, 4.0]
    assert FOUND.frame["budget"].tolist() == ["keeps", "undecided", "breaks", "breaks"]
    assert FOUND.frame["null"].tolist() == [0, 0, 0, 3]
    text = str(FOUND)
    verdict = (
        "delivery.p99 < 200ms is kept up to workload.rate = 1, and broken from 2 on, where "
        "storage (81% busy, messages wait 20 ms) gives way"
    )
    assert verdict in text
    assert "up to 3 replications do not decide about 1.5" in text
    assert "never better" in text
    columns = ["workload.rate", "delivery.p99", "replications", "budget", "gateway", "router", "storage"]
    assert list(FOUND.summary().columns) == columns
    assert FOUND.summary()["delivery.p99"].tolist()[-1] == "null in 3 of 3"
    printed = FOUND.to_json_dict()
    assert printed["undecided"] == [1.5]
    assert printed["tried"][3]["metrics"]["delivery.p99"] == {"mean": None, "low": None, "high": None, "null": 3}
    assert "<b>tiny</b>" in FOUND._repr_html_()
    assert repr(FOUND).startswith("<Capacity of tiny: ")


def test_capacity_notes_arrivals_that_are_not_steady():
    notes = {
        kind: " ".join(Capacity(scenario, FOUND.budget, FOUND.over, FOUND.bracket, FOUND.tried).notes)
        for kind, scenario in {
            "poisson": Scenario(),
            "ramp": Scenario.load("capacity"),
            "replay": Scenario().replace({"workload.arrivals": [0.5, 1.0]}),
        }.items()
    }
    assert "steady" not in notes["poisson"]
    assert "(ramp): the result holds for this shape only" in notes["ramp"]
    assert "set workload.arrivals=poisson" in notes["ramp"]
    assert "(replay): workload.rate has no effect" in notes["replay"]


def test_capacity_notes_runs_that_are_too_short_unless_they_break_the_budget():
    def notes(verdict, budget="delivery.p99 < 200ms"):
        samples = [Sample(r, r, "", {"delivery.p99": 50.0}, {"delivery.p99": Behind(10, 50.0)}) for r in range(5)]
        tried = {1.0: Replications(Scenario(), samples)}
        return " ".join(Capacity(Scenario(), Budget(budget), "workload.rate", Bracket({1.0: verdict}), tried).notes)

    assert "delivery.p99 (1,000)" in notes("keeps")
    assert "delivery.p99 (1,000)" in notes("undecided")
    assert "delivery.p99 (1,000)" not in notes("breaks")
    assert "delivery.p99 (1,000)" in notes("breaks", "delivery.p99 > 200ms")


def capacity_of_short_runs(**overrides):
    office = Scenario.load("office", {"warmup": 0, "drain": 1, **overrides})
    return imsim.capacity(office, "delivery.p50 < 1s", high=office.workload.rate, duration=0.2, jobs=1)


def test_capacity_lengthens_runs_that_are_too_short_for_the_percentile():
    found = capacity_of_short_runs()
    ((load, replications),) = found.tried.items()
    assert found.keeps == load
    assert replications.scenario.duration > 0.2
    assert f"were made longer: {load:.4g} ({replications.scenario.duration:,.3g} s)" in str(found)


def test_capacity_keeps_the_duration_of_a_load_that_changes_over_time():
    found = capacity_of_short_runs(**{"workload.arrivals": {"kind": "ramp", "start": 0.5, "end": 1, "over": "0.2s"}})
    assert [one.scenario.duration for one in found.tried.values()] == [0.2]
    assert found.keeps is None


def test_capacity_notes_which_side_was_not_found():
    assert "no load is known to keep" in str(make({1.0: ("breaks", 500.0)}))
    assert "is kept up to workload.rate = 1 at least" in str(make({1.0: ("keeps", 50.0)}))
    assert "more load is not always worse" in str(make({1.0: ("breaks", 500.0), 2.0: ("keeps", 50.0)}))


def test_bottleneck_is_the_tier_with_the_longest_waits_where_the_budget_breaks_first():
    found = FOUND.bottleneck
    assert (found.tier, found.load) == ("storage", 2.0)
    assert found.utilisation == pytest.approx(0.81)
    assert found.wait == 20
    assert FOUND.frame["utilisation.storage"].tolist() == pytest.approx([0.41, 0.61, 0.81, 1.0])
    report = FOUND.to_json_dict()
    assert report["bottleneck"] == {
        "tier": "storage", "wait_ms": 20, "utilisation": pytest.approx(0.81), "load": 2.0,
    }  # fmt: skip
    assert report["tried"][0]["metrics"]["utilisation.router"]["mean"] == pytest.approx(0.21)
    assert FOUND.summary()["storage"].tolist() == [
        "41% busy, wait 10 ms",
        "61% busy, wait 15 ms",
        "81% busy, wait 20 ms",
        "100% busy, wait 40 ms",
    ]
    assert "where storage (81% busy, messages wait 20 ms) gives way" in FOUND._repr_html_()


def test_many_slow_workers_are_busy_but_the_queue_is_elsewhere():
    """64 router workers that take 700 ms queue less than one storage worker that takes 10 ms."""
    fields = {
        "workload.arrivals": "poisson",
        "workload.rate": 0.18,
        "limits.longest_wait": "60s",
        "duration": "12s",
        "topology.router.workers": 64,
        "topology.router.service.send": {"kind": "exponential", "mean": "700ms"},
        "topology.storage.workers": 1,
    }
    scenario = Scenario.load("capacity", fields)
    (one,) = replicate([scenario], Sampling.of(["delivery.mean", *UTILISATIONS, *WAITS], replications=2, jobs=1))
    found = Capacity(scenario, Budget("delivery.mean < 1ms"), "workload.rate", Bracket({0.18: "breaks"}), {0.18: one})
    assert one["utilisation.router"].value > one["utilisation.storage"].value > 0.5
    assert found.bottleneck.tier == "storage"
    assert found.bottleneck.wait > 10


def test_budget_that_breaks_without_a_busy_tier_is_noted():
    found = make({1.0: ("keeps", 50.0), 2.0: ("breaks", 500.0)}, busy=0.15, wait=0.1)
    assert found.bottleneck.tier == "router"
    assert not found.bottleneck.is_busy
    assert "gives way" not in found.verdict
    assert (
        "no queue breaks the budget, but service times, links or policies: the longest waits are at router (41% busy"
        in (str(found))
    )


def test_bottleneck_is_none_if_no_load_breaks_or_the_waits_are_unknown():
    assert make({1.0: ("keeps", 50.0)}).bottleneck is None
    assert make({1.0: ("keeps", 50.0)}).to_json_dict()["bottleneck"] is None
    values = {"delivery.p99": 500.0, **dict.fromkeys((*UTILISATIONS, *WAITS), math.nan)}
    tried = {1.0: Replications(Scenario(), [Sample(0, 0, "", values)])}
    unknown = Capacity(Scenario(), FOUND.budget, FOUND.over, Bracket({1.0: "breaks"}), tried)
    assert unknown.bottleneck is None
    assert unknown.frame["utilisation.storage"].isna().all()
    assert unknown.summary()["storage"].tolist() == ["-"]


def test_capacity_notes_unsteady_runs_and_drops_at_loads_that_keep_the_budget():
    def replications(first, drops=0):
        found = Steadiness(Beginning(first, (20.0,) * 10), drops={"storage0": drops} if drops else {})
        return Replications(
            Scenario(), [Sample(r, r, "", {"delivery.p99": 50.0 + r}, steadiness=found) for r in range(5)]
        )

    verdicts = {0.5: "keeps", 1.0: "keeps", 2.0: "breaks"}
    tried = {0.5: replications(20.0, drops=3), 1.0: replications(90.0), 2.0: replications(99.0, drops=9)}
    found = Capacity(Scenario(), FOUND.budget, FOUND.over, Bracket(verdicts), tried)
    (note,) = [note for note in found.notes if "steady state" in note]
    assert note.startswith("at workload.rate = 1, the run does not begin in steady state")
    (note,) = [note for note in found.notes if "dropped" in note]
    assert note.startswith("at workload.rate = 0.5, storage0 dropped 3 operations a run on average")


def test_capacity_picture_has_the_budget_and_the_load_that_breaks_it():
    upper, lower = FOUND.plot(axes=Figure().subplots(2, sharex=True))
    labels = upper.get_legend_handles_labels()[1]
    marks = {"delivery.p99 < 200ms", "breaks from here on", "the capacity is in here"}
    assert set(labels) == {"keeps", "undecided", "breaks", *marks}
    assert "1 loads not drawn above" in lower.get_xlabel()
    assert upper.get_ylabel() == "delivery.p99 (ms)"
    for ax in (upper, lower):
        assert any(list(line.get_xdata()) == [2.0, 2.0] for line in ax.lines)
    busy = {line.get_label(): list(line.get_ydata()) for line in lower.lines}
    assert busy["storage"] == pytest.approx([0.41, 0.61, 0.81, 1.0])
    assert busy["gateway"] == pytest.approx([0.11, 0.16, 0.21, 0.41])


def test_half_a_bracket_can_be_drawn():
    for one in (make({1.0: ("keeps", 50.0)}), make({1.0: ("breaks", 500.0)}), make({1.0: ("breaks", math.inf)})):
        one.plot(axes=Figure().subplots(2, sharex=True))[0].figure.draw_without_rendering()


def test_picture_of_latencies_far_beyond_the_budget_has_readable_numbers():
    ax, _ = make({1.0: ("keeps", 50.0), 2.0: ("breaks", 5000.0)}).plot(axes=Figure().subplots(2, sharex=True))
    ax.figure.draw_without_rendering()
    low, high = ax.get_ylim()
    shown = [label.get_text() for label in ax.get_yticklabels() if low <= label.get_position()[1] <= high]
    assert shown == ["50 ms", "100 ms", "200 ms", "500 ms", "1 s", "2 s", "5 s"]


def test_load_is_a_number_of_the_scenario():
    assert load_of(Scenario(), "population.users") == (Scenario().population.users, True)
    assert load_of(Scenario(), "workload.rate") == (Scenario().workload.rate, False)
    for path in ("workload.rat", "policies.ack", "network", "conversations.churn"):
        with pytest.raises(imsim.UsageError, match=r"as in workload\.rate"):
            load_of(Scenario(), path)


# Where the capacity is known: the load at which an M/M/1 queue's mean sojourn reaches the budget.
# 1 ms of links and a storage of mean 10 ms: with 50 users, 10 / (1 - rate / 2) ms is 30 at rate 4/3.
QUEUE = imsim.Scenario(name="queue", duration=7.0, warmup=2.0).replace(
    {
        "network.client.latency": "250us",
        "network.backend.latency": "125us",
        "population.users": 50,
        "workload.rate": 0.9,
        "topology.storage.service": {"append": {"kind": "exponential", "mean": "10ms"}},
    }
)


def test_capacity_is_where_theory_says(tmp_path):
    options = {"tolerance": 1, "replications": 5, "max_replications": 8, "out": tmp_path}
    with joblib.parallel_config("threading"):
        found = imsim.capacity(QUEUE, "delivery.mean < 31ms", jobs=2, **options)
    assert found.keeps < 4 / 3 < found.breaks
    busy = found.frame.set_index("workload.rate")["utilisation.storage"]
    assert busy[found.keeps] == pytest.approx(found.keeps / 2, abs=0.06), "users x rate x 10 ms"
    assert (found.bottleneck.tier, found.bottleneck.utilisation) == ("storage", busy[found.breaks])
    again = imsim.capacity(QUEUE, imsim.Budget("delivery.mean < 31ms"), jobs=1, **options)
    assert again.frame.equals(found.frame)


def test_load_may_be_any_number_and_the_budget_of_a_function():
    def late(run):
        return run.to_json_dict()["delivery_ms"]["p50"]

    options = {"low": 40, "high": 300, "tolerance": 0.9, "max_replications": 5, "metrics": [late]}
    found = imsim.capacity(QUEUE.replace({"duration": 3.0}), "late < 50", over="population.users", jobs=1, **options)
    assert 40 <= found.keeps < found.breaks <= 300
    assert float(found.keeps).is_integer()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"budget": "delivery.p99"}, "budget"),
        ({"budget": "mine < 3"}, "'mine'"),
        ({"over": "workload.rates"}, "workload.rates"),
        ({"tolerance": 5}, "tolerance"),
        ({"low": -1}, "low"),
        ({"replications": 4}, "replications: expected 5 or more, as their interval judges a load, got 4"),
        ({"low": 1e-9, "high": 1e-9}, "nothing to measure"),
        ({"budget": "recovery.time < 5s"}, r"the scenario has no faults, so there is no recovery\.time"),
        ({"budget": "router < 0.5"}, r"unknown metric 'router' \(did you mean 'utilisation\.router'"),
    ],
)
def test_bad_input(arguments, words):
    with pytest.raises(imsim.UsageError, match=words):
        imsim.capacity(QUEUE, **{"budget": "delivery.p99 < 50ms", "jobs": 1, **arguments})
