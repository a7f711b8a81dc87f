import math

import pytest

from imsim import Budget, UsageError
from imsim.analysis.kinds import axis_label, kind_of
from imsim.analysis.latency import is_latency
from imsim.analysis.metrics import (
    LATENCY_METRICS,
    Measures,
    check_measured,
    default_metrics,
    printed,
    value_of,
)
from imsim.analysis.run_length import share_of
from imsim.scenario import Scenario


def test_latencies_are_those_of_the_summary(delivered):
    run = delivered(*range(1, 301))
    printed = run.to_json_dict()
    for name in LATENCY_METRICS:
        what, statistic = name.split(".")
        if what == "last":
            continue  # all messages are p2p, so there are no values
        assert value_of(run, name) == printed[f"{what}_ms"][statistic]
    for name in ("messages", "deliveries", "delivered", "lost", "absent", "shed", "duplicates"):
        assert value_of(run, name) == printed[name]


def test_percentiles_have_fractions(delivered):
    run = delivered(*range(1, 1001))
    assert value_of(run, "delivery.p99.9") == 999.666333
    assert value_of(run, "delivery.p7") == 70.356667
    assert value_of(run, "ack.p99.95") == 1000


def test_percentile_among_lost_deliveries_is_infinite_and_of_nothing_nan(delivered, build):
    run = delivered(1, 2, None)
    assert [value_of(run, f"delivery.{name}") for name in ("p50", "p99", "mean")] == [2, math.inf, math.inf]
    assert math.isnan(value_of(build(), "delivery.p99"))


def test_last_recipient_is_measured_if_messages_go_to_several(build):
    run = build([{"scene": "group"}], [{"delivered_at": 5_000_000}, {"recipient": "cyd", "delivered_at": 9_000_000}])
    assert [value_of(run, f"last.{name}") for name in ("p50", "max")] == [9, 9]
    assert Budget("last.p99 < 8ms").fails(run) == "last.p99 < 8ms: it is 9 ms"
    assert math.isnan(value_of(build([{}], [{"delivered_at": 1}]), "last.p50"))
    assert "last.p99" in default_metrics(Scenario.load("hot-group"))
    assert "last.p99" not in default_metrics(Scenario.load("capacity"))


@pytest.mark.parametrize("name", ["delivery", "delivery.p100", "delivery.p", "latency.p99", "cost.per_year", "lots"])
def test_unknown_metric_is_refused_with_the_known_ones(name):
    with pytest.raises(UsageError, match=r"delivery\.p50.*lost.*cost\.per_hour"):
        Measures.of([name])


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("p99", "'delivery.p99', 'last.p99', 'confirmed.p99' or 'ack.p99'"),
        ("latency.p99.9", "'delivery.p99.9', 'last.p99.9', 'confirmed.p99.9' or 'ack.p99.9'"),
        ("acks.max", "'ack.max', 'last.max' or 'ack.mean'"),
        ("delivery.p999", "'delivery.p99', 'delivery.p95' or 'delivery.p50'"),
        ("lots", "'lost'"),
        ("cost_per_month", "'cost.per_month' or 'cost.per_million'"),
        ("recovery_time", "'recovery.time'"),
        ("late_one", "'late_ones'"),
        ("router", "'utilisation.router'"),
        ("Gateways", "'utilisation.gateway'"),
    ],
)
def test_unknown_metric_is_refused_with_the_nearest_ones(name, near):
    with pytest.raises(UsageError, match=rf"^unknown metric '{name}' \(did you mean {near}\?\); known: "):
        Measures.of({"late_ones": len}, also=[name])


def test_metric_that_was_not_measured_is_refused_with_the_remedy():
    with pytest.raises(UsageError, match=r"metric 'ack.p95' was not measured: name it in metrics=.*measured: lost"):
        check_measured("ack.p95", ["lost"])
    with pytest.raises(UsageError, match=r"unknown metric 'p95' \(did you mean 'del.*measured: lost"):
        check_measured("p95", ["lost"])
    assert check_measured("lost", ["lost"]) == "lost"


def test_name_that_only_resembles_a_latency_is_not_one():
    """A function of the user may have such a name. It is not in ms, and not a percentile."""
    for name in ("delivery", "ack", "delivery.late", "delivery.percent", "ack.p100"):
        assert not is_latency(name)
        assert share_of(name) is None
        assert kind_of(name).limits == (-math.inf, math.inf)
    assert is_latency("last.p99.9")
    assert kind_of("last.p99.9").limits == kind_of("lost").limits == (0, math.inf)


def test_single_metric_needs_no_list(delivered):
    assert Measures.of("lost").all == ("lost",)
    assert Measures.of(len).all == ("len",)


def test_functions_are_metrics(delivered):
    def slow(run):
        return (run.deliveries.delivered_at > 2_000_000).sum()

    measures = Measures.of(["lost", slow, "lost"])
    assert measures.all == ("lost", "slow")
    assert measures(delivered(1, 2, 3)) == {"lost": 0.0, "slow": 1.0}
    assert Measures.of({"mine": lambda run: 7}, also=["lost"])(delivered(1)) == {"lost": 0.0, "mine": 7.0}
    assert math.isnan(Measures.of({"mine": lambda run: None})(delivered(1))["mine"])


def test_functions_are_checked(delivered):
    with pytest.raises(UsageError, match=r"'mine'.*expected a number.*'soon'"):
        Measures.of({"mine": lambda run: "soon"})(delivered(1))
    with pytest.raises(UsageError, match="imsim has a metric of this name"):
        Measures.of({"lost": len}, also=["lost"])
    with pytest.raises(UsageError, match="function"):
        Measures.of({"mine": 3})


def test_function_whose_name_ends_in_share_returns_a_share(delivered):
    assert kind_of("late_share").limits == kind_of("late.share").limits == (0, 1)
    assert kind_of("utilisation.router").limits == (0, 1)
    assert Measures.of({"late_share": lambda run: 1})(delivered(1)) == {"late_share": 1}
    with pytest.raises(
        UsageError, match=r"'late_share': expected a number from 0 to 1, as the name ends in 'share', got 40"
    ):
        Measures.of({"late_share": lambda run: 40})(delivered(1))


def test_costs_are_measured_if_there_are_prices():
    assert "cost.per_hour" not in default_metrics(Scenario())
    assert {"cost.per_hour", "cost.per_million", "cost.per_month"} < set(
        default_metrics(Scenario().replace({"cost.router": 0.1}))
    )


def test_confirmed_is_always_measured_and_printed_if_a_scenario_acknowledges_early():
    early, late = Scenario(policies={"ack": "after_receive"}), Scenario()
    names = ("lost", "confirmed.p99", "ack.p99", "received_lost")
    assert set(names) < set(default_metrics(late)) == set(default_metrics(early))
    assert printed(names, [late, early]) == list(names)
    assert printed(names, [late]) == ["lost", "ack.p99"]
    assert printed(names, [late], ["received_lost"]) == ["lost", "ack.p99", "received_lost"]


def test_every_metric_has_a_kind():
    kinds = {name: kind_of(name) for name in (*default_metrics(Scenario.load("hot-group")), "recovery.time")}
    better = [name for name, kind in kinds.items() if kind.less_is_better]
    assert {"lost", "received_lost", "duplicates", "cost.per_month", "recovery.time", "ack.p99"} < set(better)
    assert kind_of("messages").less_is_better is None
    assert [kind_of(name).suffix for name in ("ack.p99", "recovery.time", "lost", "mine")] == [" ms", " s", "", ""]


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("ack.p99", "ack.p99 (ms)"),
        ("recovery.time", "recovery.time (s)"),
        ("cost.per_hour", "cost per hour (EUR)"),
        ("cost.per_million", "cost per million messages (EUR)"),
        ("lost", "lost"),
        ("utilisation.router", "utilisation.router"),
        ("topology.routers", "topology.routers"),
    ],
)
def test_axis_label_has_the_unit(name, label):
    assert axis_label(name, "EUR") == label


def test_error_in_a_function_names_the_metric(delivered):
    with pytest.raises(UsageError, match=r"^metric 'late': the function raised KeyError: 'dleivered_at'$") as caught:
        Measures.of({"late": lambda run: run.deliveries["dleivered_at"].mean()})(delivered(1))
    assert isinstance(caught.value.__cause__, KeyError)


def test_utilisation_of_a_tier_is_that_of_its_busiest_node(build):
    run = build()
    busy = {"gateway0": 0.1, "router0": 0.3, "router1": 0.7, "router10": 0.2}
    run.manifest["utilisation"] = {node: {"busy": share, "jobs": 1, "drops": 0} for node, share in busy.items()}
    assert value_of(run, "utilisation.router") == 0.7
    assert value_of(run, "utilisation.gateway") == 0.1
    assert math.isnan(value_of(build(world="live"), "utilisation.router"))
    with pytest.raises(UsageError, match=r"unknown metric 'utilisation\.client' .*; known: .*utilisation\.storage"):
        value_of(run, "utilisation.client")
