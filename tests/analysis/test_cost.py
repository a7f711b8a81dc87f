import pytest

import imsim
from imsim.scenario import Scenario

PRICES = {"gateway": 0.1, "router": 0.2, "storage": 0.5, "worker": 0.01}
OFFICE = Scenario.load("office").with_({"cost": PRICES, "duration": 3.0})


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


def test_use_is_counted_in_the_rows_at_the_runs_rate():
    run = imsim.simulate(OFFICE.with_({"cost": {"stored_million": 2.0, "stored_gb": 3.0, "delivered_gb": 5.0}}))
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
    read = imsim.simulate(OFFICE.with_(prices)).cost().parts["rows written"]
    write = imsim.simulate(OFFICE.with_({**prices, "policies.fanout": "write"}))
    rows = write.cost().parts["rows written"]
    members = write.deliveries[write.deliveries.role == "recipient"].groupby("intent").recipient.nunique() + 1
    assert rows * 3 / 3600 == pytest.approx(len(write.messages) + members.sum())
    assert rows > 2.9 * read


def test_a_chatroom_stores_nothing_but_is_delivered():
    social = Scenario.load("social").with_(
        {"duration": 2.0, "conversations.p2p_share": 0.2, "conversations.room_share": 0.6}
    )
    run = imsim.simulate(social.with_({"cost": {"stored_million": 1e6, "delivered_gb": 1.0}}))
    elsewhere = (run.messages.scene != "chatroom").sum()
    assert 0 < elsewhere < len(run.messages)
    assert run.cost().parts["rows written"] * 2 / 3600 == pytest.approx(elsewhere)
    content = run.deliveries.merge(run.messages, on="intent")["size"].sum()
    assert run.cost().parts["bytes delivered"] * 2 / 3600 == pytest.approx(content * 1e-9)


def test_prices_change_no_row():
    assert imsim.simulate(OFFICE).digest == imsim.simulate(OFFICE.with_({"cost": {}})).digest


def test_without_prices_it_says_what_to_do():
    with pytest.raises(imsim.UsageError, match=r"no prices.*\[cost\]"):
        imsim.simulate("office", duration=0.5).cost()
    with pytest.raises(imsim.UsageError, match=r"cost\.router: expected at least 0"):
        Scenario().with_({"cost.router": -1.0})


def test_texts():
    cost = imsim.simulate(OFFICE).cost()
    assert str(cost).startswith("USD 1.26 per hour, ")
    assert "<th>1.26</th>" in cost._repr_html_()


def test_nothing_sent_has_no_price_each():
    cost = imsim.simulate(OFFICE.with_({"workload.rate": 1e-6})).cost()
    assert cost.per_million is None
    assert "–" in cost._repr_html_()
