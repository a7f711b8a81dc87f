import json
import math
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imsim.analysis import Counts, Latency, Run, run_table, summarize
from imsim.analysis.latency import (
    ack_latencies,
    confirmed_latencies,
    delivery_latencies,
    last_latencies,
    percentile,
    quantile,
    table_text,
)
from imsim.analysis.metrics import value_of
from imsim.analysis.warmup import Series
from imsim.results import WITHDRAWALS
from imsim.scenario import OnlinePeriods

MS = 1_000_000


# --- percentile -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "percent", "place"),
    [(1, 50, 1), (2, 50, 1.5), (3, 50, 2), (100, 50, 50.5), (100, 95, 95.65), (66, 99, 66), (1000, 99, 990.663333)],
)
def test_percentile_is_interpolated_between_two_values(count, percent, place):
    assert percentile(np.arange(1.0, count + 1), percent) == place


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=300), st.integers(0, 100))
def test_percentile_is_median_unbiased_quantile(values, percent):
    values = np.sort(values)
    assert quantile(values, percent) == pytest.approx(np.quantile(values, percent / 100, method="median_unbiased"))


def test_percentile_among_infinite_latencies_is_none():
    values = np.array([1.0] * 98 + [math.inf] * 2)
    assert percentile(values, 97) == 1.0
    assert percentile(values, 98) is None, "it stands between the last that came and one that never did"
    assert percentile(values[:99], 98) == 1.0
    assert percentile(np.array([1.0, 2.0, math.inf]), 50) == 2.0
    assert percentile(values, 99) is None
    assert percentile(values, 100) is None
    assert percentile(np.array([]), 50) is None


# --- summarize ------------------------------------------------------------------------------------------------------


def test_summarize_computes_statistics_of_four_latencies(delivered):
    summary = summarize(delivered(4, 1, 3, 2.5))
    expected = Latency(p50=2.75, p95=4, p99=4, max=4, mean=2.625)
    assert summary.delivery_ms == expected
    assert summary.ack_ms == expected


def test_lost_message_counts_in_every_statistic(delivered):
    summary = summarize(delivered(1, 2, 3, None))
    assert summary.delivery_ms == Latency(p50=2.5, p95=None, p99=None, max=None, mean=None)
    assert summary.ack_ms == summary.delivery_ms
    assert summary.counts == Counts(messages=4, stored=4, deliveries=4, delivered=3, lost=1, duplicates=0)


def test_one_loss_in_a_thousand_leaves_percentiles_finite(delivered):
    latency = summarize(delivered(*range(1, 1000), None)).delivery_ms
    assert latency == Latency(p50=500.5, p95=950.65, p99=990.663333, max=None, mean=None)


def test_summarize_handles_run_without_messages(build):
    summary = summarize(build())
    assert summary.counts == Counts(0, 0, 0, 0, 0, 0)
    assert summary.delivery_ms == summary.ack_ms == Latency(None, None, None, None, None)


def test_latency_counts_from_intended_time(build):
    run = build([{"intended_at": 10 * MS, "sent_at": 90 * MS, "acked_at": 100 * MS}], [{"delivered_at": 110 * MS}])
    assert summarize(run).ack_ms.max == 90
    assert summarize(run).delivery_ms.max == 100


def test_latencies_are_exact_to_nanosecond_after_hours(build):
    start = 30_000 * 1_000 * MS
    run = build([{"intended_at": start, "acked_at": start + 1}])
    assert summarize(run).ack_ms.max == 0.000001


def test_warmup_counts_messages_but_has_no_latencies(build):
    times = [0, 999 * MS, 1000 * MS]
    run = build(
        [{"intended_at": at, "acked_at": at + MS * (3 - number)} for number, at in enumerate(times)],
        [{"intent": 2, "delivered_at": times[2] + 7 * MS}, {"intent": 0}],
        warmup=1.0,
    )
    summary = summarize(run)
    assert summary.ack_ms.max == 1
    assert summary.delivery_ms.max == 7
    assert (summary.counts.messages, summary.counts.lost) == (3, 1)


def test_own_devices_are_counted_without_latency(build):
    run = build([{}], [{"delivered_at": 5 * MS, "duplicates": 2}, {"recipient": "ann", "device": "d1", "role": "own"}])
    summary = summarize(run)
    assert summary.delivery_ms == Latency(5, 5, 5, 5, 5)
    assert summary.counts == Counts(messages=1, stored=1, deliveries=2, delivered=1, lost=1, duplicates=2)


def test_ack_latencies_are_infinite_for_unanswered_messages(build):
    """Unknown, unsent and stored messages without an ack are infinitely late; a rejected one was answered."""
    outcomes = ["rejected", "unknown", "unsent", "stored"]
    run = build([{"outcome": outcome} for outcome in outcomes] + [{"acked_at": MS}] * 2)
    table = run.summary()
    assert table.loc["ack", "count"] == 5
    assert table.loc["ack", "lost"] == 3
    assert summarize(run).counts.stored == 3


def test_shed_delivery_is_counted_apart(build):
    shed = [{"intent": 0, "outcome": "shed"}, {"intent": 1, "outcome": "shed", "recipient": "cyd"}]
    own = {"intent": 1, "outcome": "shed", "recipient": "ann", "role": "own"}
    shown = {"intent": 1, "delivered_at": 5 * MS}
    run = build([{}, {"intended_at": 2 * MS}], [*shed, shown, own], warmup=0.001, duration=1)
    counts = summarize(run).counts
    assert (counts.deliveries, counts.delivered, counts.lost, counts.shed) == (4, 1, 0, 3)
    assert summarize(run).delivery_ms == Latency(3, 3, 3, 3, 3)
    assert run.to_json_dict()["shed"] == 3
    table = run.summary()
    assert list(table.columns)[:4] == ["count", "lost", "shed", "shed_share"]
    assert table.loc["delivery"].tolist()[:4] == [1, 0, 1, 0.5], "to recipients, after the warm-up"
    assert table.loc["ack"].tolist()[2:4] == [0, 0]
    html = run._repr_html_()
    assert "1 delivered, 0 lost, 3 shed (75.0%), 0 duplicates" in html
    assert "<td>delivery</td><td>1</td><td>0</td><td>1</td><td>50.0%</td><td>3.000</td>" in html
    assert run_table([run]).loc["sim", ["lost", "shed", "shed_share"]].tolist() == [0, 3, 0.75]


def test_recalled_delivery_is_counted_apart(build):
    run = build([{}], [{"outcome": "recalled"}, {"recipient": "cyd", "delivered_at": 5 * MS}])
    counts = summarize(run).counts
    assert (counts.deliveries, counts.delivered, counts.lost, counts.recalled) == (2, 1, 0, 1)
    assert summarize(run).delivery_ms == Latency(5, 5, 5, 5, 5)
    assert run.to_json_dict()["recalled"] == 1
    assert "1 delivered, 0 lost, 1 recalled, 0 duplicates" in run._repr_html_()
    assert run_table([run]).loc["sim", ["lost", "recalled"]].tolist() == [0, 1]
    assert not {"shed", "shed_share", "absent"} & set(run_table([run]).columns)
    assert "shed" not in run.summary().columns


def test_last_latency_is_longest_of_each_group_message(build):
    group = {"scene": "group"}
    rows = [
        {"intent": 0, "delivered_at": 3 * MS},
        {"intent": 0, "recipient": "cyd", "delivered_at": 8 * MS},
        {"intent": 0, "recipient": "ann", "role": "own", "delivered_at": 90 * MS},
        {"intent": 1, "delivered_at": 99 * MS},
        {"intent": 2, "delivered_at": 4 * MS},
        {"intent": 2, "recipient": "cyd", "outcome": "absent"},
        {"intent": 3, "delivered_at": 4 * MS},
        {"intent": 3, "recipient": "cyd"},
    ]
    run = build([group, {}, group, group], rows)
    assert last_latencies(run).tolist() == [4, 8, np.inf]
    assert run.summary().loc["last", ["count", "lost", "p50"]].tolist() == [3, 1, 8]
    assert run_table([run]).loc["sim", "last.p50"] == 8
    assert run.to_json_dict()["last_ms"]["max"] is None
    p2p = build([{}], [{"delivered_at": MS}])
    assert "last" not in p2p.summary().index
    assert not run_table([p2p]).columns.str.startswith("last").any()


# --- devices that come and leave ------------------------------------------------------------------------------------


@pytest.fixture
def run_with_offline_devices(build, monkeypatch):
    """Three devices: u0 is always online, u1 is offline from 10 to 20 ms, u2 leaves permanently at 30 ms."""
    online_periods = OnlinePeriods(
        end=100 * MS,
        is_online_first=np.array([True, True, True]),
        first=np.array([0, 0, 2, 3]),
        at=np.array([10 * MS, 20 * MS, 30 * MS]),
    )
    monkeypatch.setattr(
        "imsim.analysis.availability.OnlinePeriods.drawn", lambda scenario, seed, duration: online_periods
    )
    sessions = {"online": "1s", "offline": "1s"}

    def run(messages, deliveries):
        users = [{"sender": "u0"} | row for row in messages]
        return build(users, deliveries, population={"users": 3, "sessions": sessions})

    return run


def test_offline_device_waits_from_its_return(run_with_offline_devices):
    messages = [{"intended_at": at * MS, "acked_at": (at + 1) * MS} for at in (5, 12, 8)]
    deliveries = [
        {"intent": 0, "recipient": "u1", "delivered_at": 7 * MS, "route": "push"},
        {"intent": 1, "recipient": "u1", "delivered_at": 23 * MS, "route": "sync"},  # it returned at 20 ms
        {"intent": 1, "recipient": "u2", "delivered_at": 13 * MS, "route": "push"},
        {"intent": 2, "recipient": "u1", "delivered_at": 28 * MS, "route": "sync"},  # at 8 ms it was still online
    ]
    run = run_with_offline_devices(messages, deliveries)
    assert delivery_latencies(run).tolist() == [1, 2, 3, 20]
    table = run.summary()
    assert list(table.index) == ["delivery", "delivery_push", "delivery_sync", "ack"]
    assert table["count"].tolist() == [4, 2, 2, 3]
    # A live device may leave a moment later than planned.
    deliveries[1] |= {"delivered_at": 13 * MS}
    assert delivery_latencies(run_with_offline_devices(messages, deliveries)).tolist() == [1, 1, 2, 20]


def test_warmup_series_leaves_out_offline_time(run_with_offline_devices):
    deliveries = [
        {"intent": 0, "recipient": "u1", "delivered_at": 23 * MS, "route": "sync"},  # it returned at 20 ms
        {"intent": 0, "recipient": "u2", "delivered_at": 13 * MS, "route": "push"},
    ]
    series = Series.of(run_with_offline_devices([{"intended_at": 12 * MS}], deliveries))
    assert (series.sums.sum(), series.counts.sum()) == (3 + 1, 2)


def test_absent_delivery_is_counted_apart(run_with_offline_devices):
    messages = [{"intended_at": 40 * MS}, {"intended_at": 29 * MS, "sender": "u2", "acked_at": None}]
    deliveries = [
        {"intent": 0, "recipient": "u1", "delivered_at": 42 * MS, "route": "push"},
        {"intent": 0, "recipient": "u2", "outcome": "absent"},
        {"intent": 1, "recipient": "u1"},
    ]
    run = run_with_offline_devices(messages, deliveries)
    counts = summarize(run).counts
    assert (counts.deliveries, counts.delivered, counts.lost, counts.absent) == (3, 1, 1, 1)
    assert delivery_latencies(run).tolist() == [2, math.inf]
    assert ack_latencies(run).tolist() == [math.inf], "the other sender is offline"
    assert run.to_json_dict()["absent"] == 1
    assert run_table([run]).loc["sim", ["lost", "absent"]].tolist() == [1, 1]
    assert "absent" in run._repr_html_()


# --- tables ---------------------------------------------------------------------------------------------------------


def test_json_of_run_has_documented_keys(delivered, tmp_path):
    run = delivered(1, 2, 3, None)
    statistics = {"p50": 2.5, "p95": None, "p99": None, "max": None, "mean": None}
    expected = {
        "run": run.id,
        "world": "sim",
        "server": None,
        "valid": True,
        "invalid_because": None,
        "partial": False,
        "scenario": "tiny",
        "seed": 1,
        "digest": run.digest,
        "messages": 4,
        "deliveries": 4,
        "delivered": 3,
        "lost": 1,
        "absent": 0,
        "recalled": 0,
        "shed": 0,
        "received_lost": 0,
        "duplicates": 0,
        "warnings": [],
        "delivery_ms": statistics,
        "ack_ms": statistics,
        "confirmed_ms": statistics,
        "last_ms": dict.fromkeys(statistics),
    }
    assert json.loads(json.dumps(run.to_json_dict(), allow_nan=False)) == expected
    folder = run.write(tmp_path)
    assert run.to_json_dict() == expected | {"run": str(folder)}


def test_confirmed_latency_ends_with_first_answer(build):
    run = build(
        [
            {"received_at": 1 * MS, "acked_at": 9 * MS},
            {"received_at": 5 * MS, "acked_at": 3 * MS},
            {"acked_at": 7 * MS},
            {"received_at": 2 * MS, "outcome": "unknown"},
            {"received_at": 2 * MS, "outcome": "rejected"},
        ]
    )
    assert confirmed_latencies(run).tolist() == [1, 2, 3, 7]
    assert ack_latencies(run).tolist() == [3, 7, 9, math.inf]
    assert list(run.summary().index) == ["delivery", "confirmed", "ack"]
    assert run.to_json_dict()["received_lost"] == 2
    assert "2 received and never stored" in str(run)
    late = build([{"acked_at": 9 * MS}], world="live")
    table = run_table([late, run])
    assert table["confirmed.max"].tolist() == [9, 7]
    assert table["received_lost"].tolist() == [0, 2]


def test_summary_is_frame_of_numbers(delivered):
    table = delivered(1, 2, 3, None).summary()
    assert list(table.index) == ["delivery", "ack"]
    assert list(table.columns) == ["count", "lost", "mean", "p50", "p95", "p99", "max"]
    assert table.loc["delivery", ["count", "lost", "p50"]].tolist() == [4, 1, 2.5]
    assert table[["mean", "p95", "p99", "max"]].isna().all(axis=None)
    assert set(table.dtypes[["mean", "p50", "p95", "p99", "max"]].astype(str)) == {"float64"}


def test_run_table_has_row_for_each_run(delivered):
    table = run_table([delivered(1, 2), delivered(1.23456, None, world="live")])
    assert (table.index.name, list(table.index)) == ("run", ["sim", "live"])
    assert table.loc["live", ["messages", "delivered", "lost", "duplicates"]].tolist() == [2, 1, 1, 0]
    assert table["delivery.p50"].dropna().tolist() == [1.5]
    assert run_table([delivered(1.23456)]).loc["sim", "delivery.p50"] == 1.235
    assert table["ack.max"].dropna().tolist() == [2.0]
    assert table.shape == (2, 4 + 5 + 5)
    assert table.dtypes[["messages", "lost"]].eq("int64").all()
    lines = table_text(table).splitlines()
    assert lines[0].split() == ["sim", "live"]
    assert lines[1].split() == ["messages", "2", "2"]
    assert lines[5].split() == ["delivery.p50", "1.5", "-"]


# --- runs of other servers -------------------------------------------------------------------------------------------


def test_server_without_acks_has_no_ack_latencies(delivered):
    run = delivered(1, 2, world="live")
    run.manifest["features"] = ["groups"]
    assert list(run.summary().index) == ["delivery"]
    assert len(ack_latencies(run)) == len(confirmed_latencies(run)) == 0
    table = run_table([run, delivered(1, 2)])
    assert table["ack.p50"].isna().tolist() == [True, False]
    assert "-" in table_text(table).splitlines()[-1].split()
    assert run.to_json_dict()["ack_ms"] == dict.fromkeys(["p50", "p95", "p99", "max", "mean"])
    assert math.isnan(value_of(run, "ack.p99"))
    run.manifest["features"] = ["ack"]
    assert list(run.summary().index) == ["delivery", "ack"]


def withdrawn(run, *periods):
    """Return the run with these periods (user, since, until) in ms in which the tester had withdrawn d0 of users."""
    rows = [
        {"user": user, "device": "d0", "since": since * MS, "until": None if until is None else until * MS}
        for user, since, until in periods
    ]
    tables = replace(run.tables, withdrawals=pa.Table.from_pylist(rows, schema=WITHDRAWALS))
    return Run(tables, run.scenario, run.manifest)


def test_withdrawn_device_waits_from_its_return(build):
    run = build(
        [{"sender": "u0", "intended_at": at * MS, "acked_at": at * MS} for at in (5, 15, 25)],
        [{"intent": intent, "recipient": "u1", "delivered_at": at * MS} for intent, at in enumerate((6, 23, 26))],
        world="live",
    )
    assert delivery_latencies(run).tolist() == [1, 1, 8]
    assert delivery_latencies(withdrawn(run, ("u1", 10, 20), ("u3", 0, None))).tolist() == [1, 1, 3]
    in_flight = withdrawn(run, ("u1", 14, None))
    assert delivery_latencies(in_flight).tolist() == [1, 1, 8], "it had been on its way to the device"


def test_missing_answers_to_a_withdrawn_sender_do_not_count(build):
    """u0 is away from 10 to 20 ms; its second message, of 8 ms, could have been answered after its return."""
    run = build(
        [{"sender": "u0", "intended_at": at * MS} | ({"acked_at": 7 * MS} if at == 5 else {}) for at in (5, 8, 15, 25)],
        world="live",
    )
    assert ack_latencies(run).tolist() == [2, math.inf, math.inf, math.inf]
    assert ack_latencies(withdrawn(run, ("u0", 10, 20))).tolist() == [2, math.inf]
    assert ack_latencies(withdrawn(run, ("u0", 30, None))).tolist() == [2]
    assert ack_latencies(withdrawn(run, ("u1", 0, None))).tolist() == [2, math.inf, math.inf, math.inf]


def test_answers_that_the_tester_did_not_wait_for_do_not_count(build):
    run = build(
        [{"intended_at": at * MS} | ({"acked_at": 9 * MS} if at == 8 else {}) for at in (5, 8, 9)], world="live"
    )
    run.manifest["undecided_since"] = 0.008
    assert ack_latencies(run).tolist() == [1, math.inf]
