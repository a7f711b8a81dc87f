"""Labels of designs, runs and pictures."""

from __future__ import annotations

import pytest

import imsim
from imsim.analysis.labels import (
    change_texts,
    changes,
    design_labels,
    run_labels,
    short,
    title_of,
    title_of_all,
)
from imsim.scenario import Scenario
from imsim.scenario.differences import text_of

TINY = Scenario(name="tiny")


class Bimodal(imsim.CustomDistribution):
    fast: float

    def quantile(self, u):
        return self.fast


def designs(*fields):
    return [TINY.replace(one) for one in fields]


def test_changes_list_differing_fields():
    office = Scenario.load("office")
    changed = {
        "topology.routers": 4,
        "topology.storage.service.append": {"kind": "exponential", "mean": "5ms"},
        "title": "another",
        "workload.rate": 3.0,
    }
    found = changes(office, office.replace(changed))
    assert sorted(found) == ["topology.routers", "topology.storage.service.append", "workload.rate"]
    assert found["topology.routers"] == (2, 4)
    assert changes(office, office) == {}
    texts = change_texts(office, office.replace(changed))
    assert texts["topology.storage.service.append"] == ("lognormal median=1ms p99=5ms", "exponential mean=5ms")
    assert texts["workload.rate"] == ("0.3", "3")


def test_designs_of_same_name_are_labelled_by_differing_fields():
    assert design_labels([TINY, Scenario(name="big")]) == ["tiny", "big"]
    assert design_labels(designs({"topology.routers": 1}, {"topology.routers": 2})) == ["routers = 1", "routers = 2"]
    found = designs(
        {"network.client.latency": "5ms"}, {"topology.routers": 2, "network.client.latency": Bimodal(fast=1)}
    )
    assert design_labels(found) == [
        "client.latency = 5ms, routers = 1",
        "client.latency = Bimodal(fast=1.0), routers = 2",
    ]
    assert design_labels([TINY, TINY.replace({"seed": 9})]) == ["design 1", "design 2"], "a seed does not make a design"
    both = [TINY, *designs({"topology.routers": 4}), Scenario(name="big")]
    assert design_labels(both) == ["tiny, routers = 1", "tiny, routers = 4", "big, routers = 1"]


def test_optional_sections_are_compared_whole_or_by_field():
    commit = "topology.storage.commit"
    found = designs({commit: {"batch": 5, "linger": "1ms"}}, {commit: {"batch": 9, "linger": "1ms"}})
    assert design_labels(found) == ["storage.commit.batch = 5", "storage.commit.batch = 9"]
    found = design_labels([TINY, found[0]])
    assert found == ["storage.commit = none", "storage.commit = batch=5 linger=1ms"]
    stall = {"kind": "storage_stall", "at": 1, "duration": 2}
    found = designs({"faults": [stall]}, {"faults": [stall | {"duration": 3}]})
    assert design_labels(found) == ["faults.0.duration = 2s", "faults.0.duration = 3s"]
    assert changes(TINY, found[0])["faults"][0] == []
    assert design_labels([TINY, found[0]])[0] == "faults = none"
    assert design_labels(designs({"workload.arrivals": [1, 2, 3, 4]}, {})) == [
        "arrivals = replay at=4 entries",
        "arrivals = poisson",
    ]


def test_label_has_few_of_many_differing_fields():
    fields = ("population.users", "population.devices", "workload.rate", "topology.routers", "topology.gateways")
    found = designs(dict.fromkeys(fields, 3), dict.fromkeys(fields, 4))
    assert design_labels(found) == [f"users = {n}, devices = {n}, rate = {n}, ..." for n in (3, 4)]
    third = found[0].replace({"topology.gateways": 9})
    assert [label.partition(", gateways")[2] for label in design_labels([*found, third])] == [
        " = 3, ...",
        " = 4, ...",
        " = 9, ...",
    ]


def test_fields_of_same_name_are_labelled_by_path():
    found = designs({"limits.group_size": 50}, {"conversations.group_size": 9})
    assert "limits.group_size = 50" in design_labels(found)[0]
    assert "conversations.group_size = 9" in design_labels(found)[1]


def test_run_label_has_what_distinguishes_run(delivered):
    sim, live = delivered(1), delivered(1, world="live")
    assert run_labels([sim]) == ["sim"]
    assert run_labels([sim, live]) == ["sim", "live"]
    assert run_labels([sim, delivered(1, seed=2)]) == ["seed 1", "seed 2"]
    assert run_labels([sim, delivered(1, name="big")]) == ["tiny", "big"]
    assert run_labels([sim, delivered(1)]) == run_labels([sim, sim]) == ["run 1", "run 2"]
    topologies = [{"routers": 1}, {"routers": 2}]
    runs = [delivered(1, topology=topology) for topology in topologies]
    assert run_labels(runs) == ["routers = 1", "routers = 2"]
    assert run_labels([*runs, delivered(1, seed=2)]) == [
        "routers = 1, seed 1",
        "routers = 2, seed 1",
        "routers = 1, seed 2",
    ]


def test_run_label_has_duration_only_if_nothing_else_differs(delivered):
    longer = {"duration": 20.0, "topology": {"routers": 1}}
    assert run_labels([delivered(1, **longer), delivered(1, world="live")]) == ["sim", "live"]
    assert run_labels([delivered(1, duration=20.0), delivered(1)]) == ["duration = 20s", "duration = 10s"]
    busy = delivered(1, world="live", workload={"rate": 3.0})
    assert run_labels([delivered(1), busy]) == ["sim, rate = 0.1", "live, rate = 3"]


def test_tables_and_pictures_of_runs_use_labels(delivered):
    runs = [delivered(1, 2, title="How many?", topology={"routers": routers}) for routers in (1, 2)]
    assert list(imsim.summarize(runs).index) == ["routers = 1", "routers = 2"]
    ax = imsim.plot_cdf(runs, ax=imsim_axes())
    assert [text.get_text().split(":")[0] for text in ax.get_legend().get_texts()] == [
        "routers = 1, delivery",
        "routers = 1, ack",
        "routers = 2, delivery",
        "routers = 2, ack",
    ]
    assert ax.get_title(loc="left") == "How many?\nLatency, seed 1"
    assert "<b>sim</b> · tiny: How many? · seed 1" in runs[0]._repr_html_()


def imsim_axes():
    from matplotlib.figure import Figure

    return Figure().add_subplot()


def test_pictures_have_common_title_of_scenarios():
    titled = TINY.replace({"title": "How many?"})
    assert (title_of(TINY), title_of(titled)) == ("tiny", "How many?")
    assert title_of_all("Latency", [titled, titled], "", "seed 1") == "How many?\nLatency, seed 1"
    assert title_of_all("Latency", [TINY, titled]) == "Latency"


def test_values_in_labels_are_short():
    assert [text_of(value) for value in (None, True, 3, 0.30000000000000004, "5ms", [])] == [
        "none", "true", "3", "0.3", "5ms", "none",
    ]  # fmt: skip
    assert text_of(Bimodal(fast=0.5)) == "Bimodal fast=0.5"
    assert len(text_of("x" * 99)) == 40
    assert [short(path) for path in ("topology.routers", "faults.0.at", "cost.router", "seed", "design")] == [
        "routers", "faults.0.at", "cost.router", "seed", "design",
    ]  # fmt: skip


def live(run, **manifest):
    run.manifest.update(manifest)
    return run


def test_runs_of_different_servers_are_labelled_by_server(delivered):
    imsim_run, mqtt, ejabberd = (
        live(delivered(1, world="live"), **manifest)
        for manifest in (
            {"adapter": "imsim"},
            {"adapter": "mqtt"},
            {"adapter": "xmpp", "server": {"name": "ejabberd"}},
        )
    )
    assert run_labels([mqtt]) == ["mqtt"]
    assert run_labels([imsim_run]) == ["live"]
    assert run_labels([delivered(1), mqtt]) == ["sim", "mqtt"]
    assert run_labels([delivered(1), imsim_run]) == ["sim", "live"]
    assert run_labels([imsim_run, mqtt, ejabberd]) == ["imsim", "mqtt", "ejabberd"]
    assert run_labels([delivered(1), mqtt, ejabberd]) == ["sim", "mqtt", "ejabberd"]
    other_seed = live(delivered(1, seed=2, world="live"), adapter="xmpp")
    assert run_labels([mqtt, other_seed]) == ["mqtt, seed 1", "xmpp, seed 2"]
    assert "<b>live · ejabberd</b>" in ejabberd._repr_html_()
    assert [run.to_json_dict()["server"] for run in (imsim_run, mqtt, ejabberd)] == [None, "mqtt", "ejabberd"]


def test_address_distinguishes_runs_of_one_kind_of_server(delivered):
    runs = [live(delivered(1, world="live"), adapter="xmpp", url=f"ws://host:{port}/ws") for port in (5280, 5443)]
    assert run_labels(runs) == ["host:5280", "host:5443"]
    assert run_labels([runs[0], runs[0]]) == ["run 1", "run 2"]


def test_picture_of_runs_names_the_invalid_and_the_partial_ones(delivered):
    mqtt, xmpp = (live(delivered(1, 2, world="live"), adapter=name, features=["ack"]) for name in ("mqtt", "xmpp"))
    live(mqtt, valid=False, invalid_because="the generator was late")
    live(xmpp, partial=True, played=3.25, ended={"reason": "the server went away", "phase": "play"}, features=[])
    ax = imsim.plot_cdf([mqtt, xmpp], ax=imsim_axes())
    title = " ".join(ax.get_title(loc="left").split())
    assert "mqtt: INVALID: the generator was late" in title
    assert "xmpp: partial: ended after 3.25 s: the server went away" in title
    assert [text.get_text().split(":")[0] for text in ax.get_legend().get_texts()] == [
        "mqtt (INVALID), delivery",
        "mqtt (INVALID), ack",
        "xmpp (partial), delivery",  # it sends no acks
    ]
    for drawn in (mqtt.plot.cdf(ax=imsim_axes()), mqtt.plot.timeline()[0]):
        assert "INVALID: the generator was late" in " ".join(drawn.get_title(loc="left").split())
    with pytest.warns(UserWarning, match="mqtt: INVALID: the generator was late|xmpp: partial: ended after") as warned:
        table = imsim.summarize([mqtt, xmpp])
    assert len(warned) == 2
    assert table["valid"].tolist() == [False, True]
    assert table["partial"].tolist() == [False, True]
