import math

import pytest

import imsim
from imsim.analysis.metrics import value_of
from imsim.scenario import Scenario

PRICES = {"gateway": 0.1, "router": 0.2, "storage": 0.5, "worker": 0.01}
OFFICE = Scenario.load("office").replace({"cost": PRICES, "duration": 3.0})


def test_nodes_and_workers_cost_by_the_hour():
    cost = imsim.simulate(OFFICE).cost()
    assert dict(cost.parts) == pytest.approx(
        {
            "gateways": 0.2,
            "routers": 0.4,
            "storages": 0.5,
            "workers": (2 * 2 + 2 * 2 + 8) * 0.01,
            "rows written": 0,
            "bytes stored": 0,
            "bytes delivered": 0,
        }
    )
    assert cost.per_hour == pytest.approx(1.26)


def test_use_costs_what_the_rows_of_the_run_show():
    run = imsim.simulate(OFFICE.replace({"cost": {"stored_million": 2.0, "stored_gb": 3.0, "delivered_gb": 5.0}}))
    hours = 3 / 3600
    content = int(run.messages["size"].sum())
    delivered = int(run.deliveries.merge(run.messages, on="intent")["size"].sum())
    cost = run.cost()
    assert cost.parts["rows written"] * hours == pytest.approx(len(run.messages) * 2e-6)
    assert cost.parts["bytes stored"] * hours == pytest.approx(content * 3e-9)
    assert cost.parts["bytes delivered"] * hours == pytest.approx(delivered * 5e-9)
    assert cost.per_million == pytest.approx(cost.per_hour * hours / len(run.messages) * 1e6)


def test_fan_out_on_write_writes_a_row_for_each_member():
    prices = {"cost": {"stored_million": 1e6}, "population.devices": 2}
    read = imsim.simulate(OFFICE.replace(prices)).cost().parts["rows written"]
    write = imsim.simulate(OFFICE.replace({**prices, "policies.fanout": "write"}))
    rows = write.cost().parts["rows written"]
    members = write.deliveries[write.deliveries.role == "recipient"].groupby("intent").recipient.nunique() + 1
    assert rows * 3 / 3600 == pytest.approx(len(write.messages) + members.sum())
    assert rows > 2.9 * read


def test_chatroom_stores_nothing_but_is_delivered():
    social = Scenario.load("social").replace(
        {"duration": 2.0, "conversations.p2p_share": 0.2, "conversations.room_share": 0.6}
    )
    run = imsim.simulate(social.replace({"cost": {"stored_million": 1e6, "delivered_gb": 1.0}}))
    elsewhere = (run.messages.scene != "chatroom").sum()
    assert 0 < elsewhere < len(run.messages)
    assert run.cost().parts["rows written"] * 2 / 3600 == pytest.approx(elsewhere)
    content = run.deliveries.merge(run.messages, on="intent")["size"].sum()
    assert run.cost().parts["bytes delivered"] * 2 / 3600 == pytest.approx(content * 1e-9)


def test_prices_change_no_row():
    assert imsim.simulate(OFFICE).digest == imsim.simulate(OFFICE.replace({"cost": {}})).digest


def test_cost_without_prices_is_refused_with_the_remedy():
    with pytest.raises(imsim.UsageError, match=r"no prices.*\[cost\]"):
        imsim.simulate("office", duration=0.5).cost()
    with pytest.raises(imsim.UsageError, match=r"cost\.router: expected at least 0"):
        Scenario().replace({"cost.router": -1.0})


def test_texts():
    cost = imsim.simulate(OFFICE).cost()
    assert str(cost).startswith("USD 1.26 per hour, ")
    assert "<th>1.26</th>" in cost._repr_html_()


def test_run_without_messages_has_no_price_per_million():
    cost = imsim.simulate(OFFICE.replace({"workload.rate": 1e-6})).cost()
    assert cost.per_million is None
    assert "–" in cost._repr_html_()


# --- by the month -----------------------------------------------------------------------------------------------------


def priced(build, messages=100, size=1_000, **scenario):
    """A run of a minute with this number of messages, each stored and delivered to one device."""
    rows = [{"intended_at": number, "size": size} for number in range(messages)]
    arrived = [{"intent": number, "delivered_at": number + 1} for number in range(messages)]
    return build(rows, arrived, **({"duration": 60.0} | scenario))


def test_month_has_730_hours_of_the_simulated_load_by_default(build):
    cost = priced(build, cost={**PRICES, "stored_million": 2.0, "delivered_gb": 5.0}).cost()
    assert cost.average_load == 1
    assert cost.per_month == pytest.approx(730 * cost.per_hour) == sum(cost.monthly.values())
    assert cost.monthly["rows written"] == pytest.approx(100 * 60 * 730 / 1e6 * 2.0)


def test_average_load_makes_use_cheaper_but_not_nodes(build):
    prices = {**PRICES, "stored_million": 2.0, "delivered_gb": 5.0}
    peak, average = (priced(build, cost={**prices, **share}).cost() for share in ({}, {"average_load": 0.4}))
    assert average.per_hour == peak.per_hour
    assert average.monthly["gateways"] == peak.monthly["gateways"] == 0.1 * 730
    for use in ("rows written", "bytes delivered"):
        assert peak.monthly[use] > 0
        assert average.monthly[use] == pytest.approx(0.4 * peak.monthly[use])
    assert "per month at 0.4 of this load" in str(average)
    assert "per month at 0.4 of this load" in average._repr_html_()


def test_average_load_of_a_curve_is_that_of_its_whole_period(build):
    """The run is the hour of the peak: 3 in a day whose level is 1 otherwise. The mean is 26 / 24."""
    day = {"kind": "curve", "points": [["0h", 3.0], ["1h", 3.0], ["1h", 1.0], ["24h", 1.0]]}
    run = priced(build, duration=3600.0, workload={"arrivals": day}, cost={"stored_million": 1.0})
    assert run.cost().average_load == pytest.approx(26 / 24 / 3)
    assert run.cost().monthly["rows written"] == pytest.approx(100e-6 * 730 * 26 / 24 / 3)
    given = priced(build, duration=3600.0, workload={"arrivals": day}, cost={"average_load": 0.5, "worker": 1})
    assert given.cost().average_load == 0.5


def test_bursts_have_the_average_of_their_long_time_mean(build):
    """One burst of 20 s begins in this run of a minute: it has more load than the average."""
    bursts = {"kind": "bursts", "factor": 10.0, "every": "100s", "lasting": "20s"}
    run = priced(build, workload={"arrivals": bursts}, cost={"stored_million": 1.0})
    expected = run.scenario.workload.arrivals.shape(run.seed, 60.0).expected(60.0)
    assert expected != pytest.approx(60)
    assert run.cost().average_load == pytest.approx(60 / expected)
    assert run.cost().monthly["rows written"] == pytest.approx(100e-6 * 60 * 730 * 60 / expected)


def test_month_of_a_ramp_is_labelled_as_its_average(build):
    ramp = {"kind": "ramp", "start": 0.0, "end": 1.0, "over": "60s"}
    cost = priced(build, workload={"arrivals": ramp}, cost={"worker": 1}).cost()
    assert cost.average_load == 1
    assert "per month at the average load of this ramp" in str(cost)
    assert "per month at the average load of this ramp" in cost._repr_html_()
    given = priced(build, workload={"arrivals": ramp}, cost={"worker": 1, "average_load": 0.4}).cost()
    assert "per month at 0.4 of this load" in str(given)


def test_month_of_a_run_without_load_is_unknown_if_use_has_a_price(build):
    """The night of a curve: nothing is sent, so the run does not show what the use of the day costs."""
    night = {"kind": "curve", "points": [["0h", 0.0], ["6h", 0.0], ["6h", 1.0], ["24h", 1.0]]}
    run = priced(build, 0, workload={"arrivals": night}, cost={"router": 0.2, "stored_million": 1.0})
    cost = run.cost()
    assert math.isnan(cost.per_month)
    assert math.isnan(value_of(run, "cost.per_month"))
    assert (cost.per_hour, cost.monthly["routers"], cost.monthly["bytes delivered"]) == (0.2, 146, 0)
    assert (
        "per month (the run has no load, as the simulated part of its curve is 0: simulate another part) unknown"
        in (str(cost))
    )
    assert "the growth of storage is unknown" in str(cost)
    assert "<td>unknown</td>" in cost._repr_html_()
    fixed = priced(build, 0, workload={"arrivals": night}, cost={"router": 0.2}).cost()
    assert fixed.per_month == 146


def test_simulated_day_and_its_peak_hour_cost_the_same_by_the_month():
    """Both are the same day, of 240 s here: the curve's mean stands for the part that the shorter run does not show."""
    day = {"kind": "curve", "points": [["0s", 4.0], ["60s", 4.0], ["60s", 1.0], ["240s", 1.0]], "period": "240s"}
    prices = {"stored_million": 1e6, "retention_days": 30, "stored_gb_month": 1e6}
    base = Scenario.load("office").replace(
        {"workload.arrivals": day, "cost": prices, "workload.rate": 0.2, "warmup": 0}
    )
    whole, peak = (imsim.simulate(base.replace({"duration": seconds})).cost() for seconds in (240.0, 60.0))
    assert peak.per_hour == pytest.approx(whole.per_hour * 4 / 1.75, rel=0.1)
    assert peak.per_month == pytest.approx(whole.per_month, rel=0.1)
    assert peak.storage.size == pytest.approx(whole.storage.size, rel=0.1)


def test_storage_grows_until_messages_reach_their_retention(build):
    day = 24 * 60 * 100 * 1_000
    for_ever = priced(build).storage()
    assert (for_ever.per_day, for_ever.size) == (day, None)
    assert str(for_ever) == "storage grows by 0.144 GB a day"
    year = priced(build, cost={"retention_days": 365, "stored_gb_month": 0.08, "average_load": 0.5})
    assert year.storage().per_day == day / 2
    assert year.storage().size == 365 * day / 2
    assert year.cost().monthly["bytes kept"] == pytest.approx(365 * day / 2 / 1e9 * 0.08)
    assert year.cost().per_hour == 0
    assert str(year.storage()).endswith("to 26.28 GB after 365 days")


def test_rows_take_bytes_besides_their_content(build):
    read, write = (
        priced(build, size=10, cost={"row_bytes": 200}, policies={"fanout": fanout}).storage().per_day
        for fanout in ("read", "write")
    )
    assert read == 24 * 60 * 100 * (10 + 200)
    assert write == 24 * 60 * 100 * (10 + 3 * 200), "the message, and a row for each of two members"


def test_assumptions_are_not_prices_and_unlimited_retention_is_refused():
    assert not Scenario().replace({"cost": {"average_load": 0.5, "retention_days": 30, "row_bytes": 9}}).cost.is_given
    with pytest.raises(imsim.UsageError, match=r"cost\.stored_gb_month: expected retention_days as well"):
        Scenario().replace({"cost.stored_gb_month": 0.08})


def test_cost_per_month_is_a_metric(build):
    run = priced(build, cost={"router": 0.2})
    assert value_of(run, "cost.per_month") == pytest.approx(146)
