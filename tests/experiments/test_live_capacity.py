"""The search for the highest load of a real server, with servers whose latency over the load is known."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace

import pytest
from matplotlib.figure import Figure

import imsim
from imsim.analysis.budgets import Budget
from imsim.analysis.metrics import Measures
from imsim.cli import main
from imsim.core.exceptions import RunError, UsageError
from imsim.experiments import LiveRun, live_capacity
from imsim.experiments.live_capacity import MOST_SPOILT
from imsim.experiments.live_runs import MOST_RUNS, RunStore, judge_runs, starved
from imsim.experiments.search import Bracket, search
from imsim.load.health import Health
from imsim.scenario import Scenario

OFFICE = Scenario.load("office")
P99 = Budget("delivery.p99 < 200ms")
MEASURES = Measures.of((), also=("messages", "delivery.p99"))


class Server:
    """A fake server: p99 = `idle` / (1 - load / `saturation`) ms, times noise. `limit` is where the median is 200 ms.

    generator: the load from which the generator spoils the runs, and makes p99 500 ms longer. noise: the standard
    deviation of the logarithm. drift: the same of how much other programs lower the saturation, for about seven runs at
    a time.
    """

    def __init__(self, saturation=2.0, idle=20.0, noise=0.0, seed=1, generator=math.inf, fails=math.inf, drift=0.0):
        self.saturation, self.idle, self.generator, self.fails = saturation, idle, generator, fails
        self.limit = saturation * (1 - idle / 200)
        self.loads = []
        self.seeds = []
        self.resets = 0
        self._draw = random.Random(seed)
        self._noise = noise
        self._drift, self._lower = drift, 0.0

    def measure(self, design):
        load = design.workload.rate
        self.loads.append(load)
        self.seeds.append(design.seed)
        if load >= self.fails:
            raise RunError("the server went away")
        self._lower = 0.85 * self._lower + math.sqrt(1 - 0.85**2) * self._drift * self._draw.gauss(0, 1)
        left = 1 - load / (self.saturation * math.exp(-abs(self._lower)))
        p99 = self.idle / left * math.exp(self._draw.gauss(0, self._noise)) if left > 0.005 else 5000.0
        spoilt = "the generator, not the server, is slow" if load >= self.generator else ""
        values = {"messages": 1000 * load, "delivery.p99": p99 + (500.0 if spoilt else 0.0)}
        return LiveRun(values, spoilt=spoilt, generator={"p99": 1.0, "cpu": 0.1})

    def reset(self):
        self.resets += 1

    def find(self, budget=P99, over="workload.rate", **options):
        options = {"url": "ws://127.0.0.1:1", "tolerance": 0.1, "max_time": 1e6, **options}
        return live_capacity(OFFICE, budget, over, self.measure, self.reset, MEASURES, **options)


def test_search_brackets_the_known_limit():
    server = Server()
    found = server.find()
    assert found.keeps < server.limit < found.breaks <= found.keeps * 1.1
    assert found.gave_way == "server"
    assert found.is_complete
    assert server.resets == len(server.loads)
    assert found.verdict.endswith("the server gives way")


@pytest.mark.parametrize("noise", [0.1, 0.5])
def test_bracket_contains_the_limit_in_spite_of_noise(noise):
    """In 100 of 100 searches."""
    hits = runs = 0
    for seed in range(25):
        server = Server(noise=noise, seed=seed)
        found = server.find()
        hits += (found.keeps or 0) < server.limit < (found.breaks or math.inf)
        runs += len(server.loads)
    assert hits == 25
    assert runs / 25 < 20


def test_brackets_of_two_searches_overlap_though_other_programs_come_and_go():
    """19 of 20 pairs do. Without the later runs at the two loads, 14 of 20 do."""
    overlaps = 0
    for seed in range(20):
        one, two = (Server(noise=0.2, drift=0.2, seed=seed + 100 * second).find() for second in range(2))
        overlaps += max(one.keeps, two.keeps) <= min(one.breaks, two.breaks)
    assert overlaps >= 19


def test_load_gets_runs_until_they_decide_under_other_seeds():
    server = Server(noise=0.3, seed=3)
    found = server.find()
    counts = {load: server.loads.count(load) for load in server.loads}
    assert min(counts.values()) == 1
    assert max(counts.values()) > 2  # near the limit
    assert max(counts.values()) <= MOST_RUNS
    seeds = {load: [s for at, s in zip(server.loads, server.seeds, strict=True) if at == load] for load in counts}
    assert all(len(set(of_load)) == len(of_load) for of_load in seeds.values())
    assert len({of_load[0] for of_load in seeds.values()}) == 1  # the same messages at each load
    assert len(found.runs) == len(server.loads)


@pytest.mark.parametrize("disturbed", range(12))
def test_disturbed_run_changes_no_result(disturbed):
    server = Server()
    measure = server.measure

    def disturb(design):
        run = measure(design)
        return replace(run, values={**run.values, "delivery.p99": 5000.0}) if len(server.loads) == disturbed else run

    server.measure = disturb
    found = server.find()
    assert found.keeps < server.limit < found.breaks


def test_search_starts_at_the_lowest_load_to_try():
    server = Server()
    server.find(lowest=0.5)
    assert server.loads[0] == 0.5
    server = Server()
    server.find(highest=0.2)
    assert set(server.loads) == {0.2}


def test_each_load_of_the_result_is_run_again_later():
    server = Server()
    found = server.find()
    first = server.loads.index(found.keeps)
    assert found.keeps in server.loads[first + 2 :]
    assert server.loads[-1] == found.breaks
    few = Server()
    assert few.find(fewest=1).breaks == found.breaks
    assert len(few.loads) == len(server.loads) - 2


def test_runs_decide_once_they_are_clear_of_the_bound():
    assert judge_runs(P99, [20]) == "keeps"
    assert judge_runs(P99, [120]) is None
    assert judge_runs(P99, [120, 120]) == "keeps"
    assert judge_runs(P99, [20, 9000]) is None
    assert judge_runs(P99, [20, 9000, 20, 20, 20, 20, 20, 20]) == "keeps"
    assert judge_runs(P99, [500, math.inf]) == "breaks"
    assert judge_runs(P99, [190, 210] * (MOST_RUNS // 2)) == "undecided"


def test_bound_of_zero_is_judged_by_signs():
    lost = Budget("lost <= 0")
    assert judge_runs(lost, [0, 0]) == "keeps"
    assert judge_runs(lost, [3, 1]) == "breaks"
    assert judge_runs(lost, [0, 1]) is None


def test_budget_from_below():
    share = Budget("shed_share >= 0.5")
    assert judge_runs(share, [0.9, 0.99, 0.97]) == "keeps"
    assert judge_runs(share, [0.1, 0.1]) == "breaks"


def test_run_without_values_is_an_error():
    with pytest.raises(UsageError, match=r"nothing to measure delivery\.p99 by"):
        judge_runs(P99, [math.nan])


def test_generator_that_gives_way_first_is_named():
    server = Server(generator=1.0)
    found = server.find()
    assert found.gave_way == "generator"
    assert found.breaks is None
    assert 0.9 < found.keeps < 1.0
    assert "at 1.0" in found.verdict.replace("at 1.00", "at 1.0")
    assert "the load generator or its computer gives way, not the server" in found.verdict
    assert any("the generator, not the server, is slow" in note for note in found.notes)
    assert any("--processes" in note for note in found.notes)
    counts = {load: server.loads.count(load) for load in server.loads if load >= 1.0}
    assert counts == {load: MOST_SPOILT + (load == found.bracket.upper) for load in counts}


def test_spoilt_run_is_repeated_and_not_judged():
    server = Server()
    measure = server.measure
    server.measure = lambda design: replace(
        measure(design), **({"spoilt": "a pause"} if len(server.loads) % 3 == 1 else {})
    )
    found = server.find()
    assert found.keeps < server.limit < found.breaks
    assert found.gave_way == "server"
    assert sum(found.summary()["spoilt"]) > 1


def test_spoilt_run_counts_if_it_keeps_the_budget_all_the_same():
    """A generator only adds to a latency."""
    server = Server()
    measure = server.measure
    server.measure = lambda design: replace(measure(design), spoilt="a pause")
    found = server.find()
    assert found.keeps < server.limit < found.bracket.spoilt
    assert found.gave_way == "generator"
    assert all(found.runs[found.runs[P99.metric] < 200]["valid"])
    server.measure = lambda design: replace(measure(design), values={"lost": 0.0, "messages": 1.0}, spoilt="a pause")
    assert server.find(Budget("lost <= 0")).keeps is None


def test_run_breaks_no_budget_if_server_and_generator_lack_cpu_time():
    def spoilt(url, waiting):
        health = Health(waiting=waiting).to_json_dict()
        manifest = {"url": url, "workers": [{"index": 0, "health": Health().to_json_dict()}]}
        manifest["workers"].append({"index": 1, "health": health})
        return starved(manifest)

    assert "waited for a CPU 40% of the time" in spoilt("ws://127.0.0.1:8765", 0.4)
    assert not spoilt("ws://127.0.0.1:8765", 0.1)
    assert not spoilt("ws://127.0.0.1:8765", None)
    assert not spoilt("wss://chat.example.com", 0.4)


def test_failed_run_breaks_the_budget_unless_it_is_the_first():
    found = Server(fails=1.0).find()
    assert 0.9 < found.keeps < 1.0 <= found.breaks
    assert any("the server went away" in note for note in found.notes)
    with pytest.raises(RunError, match="went away"):
        Server(fails=0.01).find()


def test_server_that_does_not_come_back_ends_the_search():
    server = Server(fails=1.0)

    def reset():
        if server.loads and server.loads[-1] >= 1.0:
            raise RunError("no server")

    server.reset = reset
    with pytest.raises(RunError, match="no server"):
        server.find()


def test_time_bounds_the_search_and_the_result_is_the_bracket_so_far(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    server = Server()
    measure = server.measure

    def measured(design):
        clock[0] += 10
        return measure(design)

    server.measure = measured
    found = server.find(max_time=95)
    assert not found.is_complete
    assert clock[0] <= 95
    assert found.keeps < server.limit
    assert any("the search ended after 95 s" in note for note in found.notes)
    with pytest.raises(UsageError, match="max_time"):
        server.find(max_time=1)


def test_load_that_runs_again_is_undecided_if_the_time_ends_then(monkeypatch):
    server = Server()
    found = server.find()
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    again = Server()
    measure = again.measure

    def measured(design):
        clock[0] += 10
        return measure(design)

    again.measure = measured
    cut = again.find(max_time=10 * len(server.loads) - 5)
    assert found.breaks in cut.bracket.undecided


def test_interrupted_search_continues(tmp_path):
    def store():
        return RunStore(tmp_path, MEASURES, {"url": "ws://127.0.0.1:1"})

    first = Server(noise=0.2)
    measure = first.measure

    def interrupted(design):
        if len(first.loads) == 7:
            raise KeyboardInterrupt
        return measure(design)

    first.measure = interrupted
    lines = []
    with pytest.raises(KeyboardInterrupt):
        first.find(store=store(), line=lines.append)
    assert lines[-1].startswith("interrupted; so far: delivery.p99 < 200ms is")
    second = Server(noise=0.2, seed=2)
    found = second.find(store=store())
    assert found.keeps < second.limit < found.breaks
    assert [run.load for run in found.live_runs][:7] == first.loads
    third = Server()
    again = third.find(store=store())
    assert third.loads == []
    assert any(note.startswith(f"{len(again.live_runs)} of {len(again.live_runs)} runs are") for note in again.notes)
    assert again.to_json_dict() | {"notes": None} == found.to_json_dict() | {"notes": None}
    with (tmp_path / "runs.jsonl").open("a") as file:
        file.write('{"key": ')  # a process that was killed while it wrote
    assert Server().find(store=store()).keeps == found.keeps
    other = RunStore(tmp_path, MEASURES, {"url": "ws://127.0.0.1:2"})
    assert other.get(OFFICE) is None


def test_spoilt_load_below_one_that_breaks_is_not_decided():
    bracket = Bracket({1.0: "keeps", 1.2: "spoilt", 1.5: "breaks"})
    assert (bracket.keeps, bracket.spoilt, bracket.upper, bracket.undecided) == (1.0, None, 1.5, [1.2])
    assert Bracket({1.0: "keeps", 1.2: "spoilt", 2.0: "spoilt"}).upper == 1.2
    assert Bracket({1.0: "spoilt", 1.2: "keeps"}).upper is None


def test_search_for_the_generator_goes_no_higher_than_it_must():
    asked = []

    def judge(load):
        asked.append(load)
        return "spoilt" if load >= 3 else "keeps"

    bracket = search(judge, 1.0, tolerance=0.1)
    assert bracket.keeps < 3 <= bracket.spoilt <= bracket.keeps * 1.1
    assert max(asked) == 4


@pytest.mark.parametrize("server", [Server(noise=0.2), Server(generator=1.0), Server(saturation=1e6)])
def test_result_is_shown_everywhere(server):
    found = server.find()
    for text in (str(found), found._repr_html_()):
        assert "office" in text
    assert "ws://127.0.0.1:1" in repr(found)
    assert set(dir(found)) >= {"gave_way", "runs", "keeps", "breaks"}
    assert json.loads(json.dumps(found.to_json_dict()))["gave_way"] == found.gave_way
    assert len(found.frame) == len(found.summary()) == len(found.tried)
    upper, _ = found.plot(Figure().subplots(2))
    shown = [line for line in upper.lines if line.get_linestyle() == "None"]
    assert sum(len(line.get_xdata()) for line in shown) == len(found.live_runs)
    labels = upper.get_legend_handles_labels()[1]
    wanted = {"server": f"the capacity: {found.keeps:.4g} to", "generator": f"the capacity is above {found.keeps:.4g}"}
    assert any(wanted.get(found.gave_way, "keeps") in label for label in labels)


def test_runs_without_a_number_are_at_the_top_of_the_picture(tmp_path):
    found = Server(fails=1.0).find()
    upper, _ = found.plot(Figure().subplots(2))
    assert len(upper.collections[0].get_offsets()) == sum(bool(run.failed) for run in found.live_runs)
    assert found.save_plot(tmp_path / "capacity.png").exists()


def test_api_plays_every_run_with_the_processes(monkeypatch, tmp_path):
    def loadtest(design, url, *, processes, **options):
        asked.append(processes)
        raise RunError("enough")

    asked = []
    monkeypatch.setattr("imsim.api.launch.loadtest", loadtest)
    monkeypatch.setattr("imsim.api.reset_server", lambda url, command: None)
    command = ["capacity", "office", "--budget", str(P99), "--url", "ws://127.0.0.1:1", "--reset", "true"]
    command += ["--processes", "2", "--out", str(tmp_path)]
    with pytest.raises(SystemExit):
        main(command)
    assert asked == [2]


def test_api_refuses_options_of_the_other_world():
    with pytest.raises(UsageError, match="max_time, reset: only with a url"):
        imsim.capacity("office", P99, max_time=3, reset="true")
    with pytest.raises(UsageError, match="capacity: processes: only with a url"):
        imsim.capacity("office", P99, processes=2)
    with pytest.raises(UsageError, match="jobs: only without a url"):
        imsim.capacity("office", P99, url="ws://127.0.0.1:1", jobs=2)
    with pytest.raises(UsageError, match="max_time: expected a duration"):
        imsim.capacity("office", P99, url="ws://127.0.0.1:1", max_time="soon")
