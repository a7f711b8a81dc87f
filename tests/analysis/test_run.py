from datetime import UTC, datetime

from imsim.analysis import Budget, Run, make_run, read_run
from imsim.results import RunData


def test_run_is_made_and_read_as_run(delivered, tmp_path):
    run = delivered(1, 2, None)
    opened = read_run(run.write(tmp_path), verify=True)
    assert type(opened) is Run
    assert opened.to_json_dict() == run.to_json_dict()
    assert isinstance(opened, RunData)
    made = make_run(run.tables, run.scenario, world="live", seed=9, started=datetime.now(UTC))
    assert (type(made), made.world, made.seed, made.digest) == (Run, "live", 9, run.digest)


def test_html_of_run_has_summary_table(delivered):
    html = delivered(1, 2, 3, None)._repr_html_()
    assert "<b>sim</b> · tiny · seed 1" in html
    assert "4 messages, 4 deliveries: 3 delivered, 1 lost, 0 duplicates" in html
    assert "<tr><td>delivery</td><td>4</td><td>1</td><td>–</td><td>2.500</td><td>–</td>" in html
    assert html.count("<tr>") == html.count("</tr>") == 3


def test_html_of_run_is_escaped(delivered):
    html = delivered(1, name="<script>&")._repr_html_()
    assert "<script>" not in html
    assert "&lt;script&gt;&amp;" in html


def test_html_of_empty_run_is_valid(build):
    assert "0 messages" in build()._repr_html_()


def test_run_warns_about_nodes_that_dropped_jobs(delivered, tmp_path):
    run = delivered(1)
    node = {"busy": 0.5, "jobs": 4, "drops": 0}
    run.manifest |= {"warnings": ["late"], "utilisation": {"gateway0": node, "gateway1": node | {"drops": 1234}}}
    dropped = "gateway1 dropped 1,234 operations, because its queue was full: deliveries can be late or lost"
    assert run.warnings == run.to_json_dict()["warnings"] == ["late", dropped]
    assert f"<p>{dropped}</p>" in run._repr_html_()
    assert read_run(run.write(tmp_path)).utilisation().drops.to_dict() == {"gateway0": 0, "gateway1": 1234}


def test_invalid_run_says_so_wherever_it_is_shown(delivered):
    run = delivered(1, 2, world="live")
    assert (run.valid, run.invalid_because, run.partial) == (True, None, False)
    run.manifest |= {"valid": False, "invalid_because": "the generator was <late>", "warnings": ["slow"]}
    run.manifest |= {"partial": True, "played": 2.5, "ended": {"reason": "Ctrl-C", "phase": "play"}}
    lines = ["INVALID: the generator was <late>", "partial: ended after 2.5 s: Ctrl-C"]
    assert run.warnings == [*lines, "slow"]
    assert str(run).splitlines()[:2] == lines
    html = run._repr_html_()
    assert html.index("INVALID: the generator was &lt;late&gt;") < html.index("<table>") < html.index("slow")
    assert html.count("INVALID") == 1
    found = run.to_json_dict()
    assert (found["valid"], found["partial"], found["warnings"]) == (False, True, [*lines, "slow"])
    assert found["invalid_because"] == "the generator was <late>"


def test_invalid_run_keeps_no_budget(delivered):
    run = delivered(1, 2, world="live")
    budget = Budget("delivery.p99 < 200ms")
    assert budget.fails(run) is None
    run.manifest |= {"valid": False, "invalid_because": "the generator was late"}
    assert budget.fails(run) == "delivery.p99 < 200ms: it is unknown: the run is invalid: the generator was late"
