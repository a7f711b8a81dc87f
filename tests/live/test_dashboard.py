"""Tests of docs/grafana-dashboard.json and of the tables in docs/server.md: they have the metrics of the server."""

from __future__ import annotations

import asyncio
import json
import re
import urllib.request
from itertools import combinations
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families as parse

from imsim.core.policies import Policies
from imsim.live import MemoryStore, Server

DASHBOARD = json.loads((Path(__file__).parents[2] / "docs" / "grafana-dashboard.json").read_text(encoding="utf-8"))
PANELS = DASHBOARD["panels"]
QUERIES = [target["expr"] for panel in PANELS for target in panel["targets"]]

FUNCTIONS = {"histogram_quantile", "max", "min", "rate", "sum"}
OF_PROMETHEUS = {"instance", "job"}  # labels that Prometheus adds


def names(query: str) -> set[str]:
    """Return the metrics of a query."""
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|by \([^)]*\)", "", query)
    return set(re.findall(r"[a-z]\w+", bare)) - FUNCTIONS - {"by"}


def labels(query: str) -> set[str]:
    """Return the labels of a query, which it selects or by which it groups."""
    selected = [label for part in re.findall(r"\{([^}]*)\}", query) for label in re.findall(r"(\w+)=", part)]
    grouped = [label for part in re.findall(r"by \(([^)]*)\)", query) for label in re.findall(r"\w+", part)]
    return {*selected, *grouped}


@pytest.fixture(scope="module")
def exported():
    """The labels of each sample of a real scrape, with their values, by the sample's name."""

    def get(url: str) -> str:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.read().decode()

    async def scrape() -> str:
        server = Server(Policies(), MemoryStore(), key="k")
        await server.start()
        for path in ("healthz", "metrics"):  # the first request gives imsim_http_requests a sample
            text = await asyncio.to_thread(get, f"http://127.0.0.1:{server.port}/{path}")
        await server.stop()
        return text

    found: dict[str, dict[str, set[str]]] = {}
    for family in parse(asyncio.run(scrape())):
        for sample in family.samples:
            known = found.setdefault(sample.name, {})
            for label, value in sample.labels.items():
                known.setdefault(label, set()).add(value)
    return found


@pytest.mark.parametrize("query", QUERIES)
def test_query_uses_metrics_and_labels_that_the_server_exports(query, exported):
    used = names(query)
    assert used
    for name in used:
        assert name in exported
        assert labels(query) - OF_PROMETHEUS <= exported[name].keys(), name
    for label, value in re.findall(r'(\w+)="(\w+)"', query):
        assert all(value in exported[name][label] for name in used), (label, value)


@pytest.mark.parametrize("query", QUERIES)
def test_query_is_balanced_and_takes_rates_of_counters_only(query):
    for opening, closing in ("()", "{}", "[]"):
        assert query.count(opening) == query.count(closing)
    assert query.count("$__rate_interval") == query.count("rate(")
    for name in names(query):
        is_counter = name.endswith(("_total", "_bucket"))
        assert bool(re.search(rf"rate\({name}\b", query)) == is_counter, name
    assert "$instance" in query


def test_every_metric_of_the_server_is_on_the_dashboard(exported):
    shown = {name for query in QUERIES for name in names(query)}
    own = {name for name in exported if name.startswith("imsim_") and not name.endswith(("_sum", "_count"))}
    assert own - shown == {"imsim_info"}


def test_legends_use_labels_of_their_query():
    for panel in PANELS:
        for target in panel["targets"]:
            for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
                assert label in labels(target["expr"]), panel["title"]


def test_dashboard_has_the_schema_of_grafana():
    assert DASHBOARD["schemaVersion"] >= 39  # Grafana 11
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    variables = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
    assert variables.keys() == {"datasource", "instance"}
    for panel in PANELS:
        assert panel["type"] in ("stat", "timeseries")
        assert panel["title"]
        assert panel["description"].endswith(".")
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        references = [target["refId"] for target in panel["targets"]]
        assert len(set(references)) == len(references) > 0


def test_panels_do_not_overlap():
    def cells(panel: dict) -> set[tuple[int, int]]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        return {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}

    for one, other in combinations(PANELS, 2):
        assert not cells(one) & cells(other), (one["title"], other["title"])


# --- the tables in docs/server.md -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def section():
    """Return the first cells of a table, by the heading above it."""
    page = (Path(__file__).parents[2] / "docs" / "server.md").read_text(encoding="utf-8")
    return lambda heading: page.partition(f"\n### {heading}\n")[2].partition("\n## ")[0].partition("\n### ")[0]


def test_docs_describe_every_metric_with_its_labels(exported, section):
    rows = re.findall(r"^\| `(imsim_\w+)` \|([^|]*)\|", section("Metrics"), re.MULTILINE)
    documented = {name: set(re.findall(r"\w+", cell)) for name, cell in rows}
    own = {
        re.sub(r"_bucket$", "", name): labels.keys() - {"le"}
        for name, labels in exported.items()
        if name.startswith("imsim_") and not name.endswith(("_sum", "_count"))
    }
    assert documented == own


def test_docs_describe_every_problem(exported, section):
    documented = re.findall(r"^\| `(\w+)` \|", section("The log"), re.MULTILINE)
    assert sorted(documented) == sorted(exported["imsim_problem"]["problem"])
