"""Tests of the report: what a page says, that it escapes everything, and how browsers show it."""

from __future__ import annotations

import re
import shutil
from html.parser import HTMLParser
from unittest.mock import patch

import matplotlib as mpl
import pytest
from markupsafe import Markup

import imsim
from imsim.analysis.report import Drawing, Part, Section, Table, Verdict
from imsim.analysis.report.figures import svg
from imsim.analysis.report.page import page
from imsim.analysis.report.rows import by_size, losses
from imsim.analysis.report.runs import part_of

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
EVIL = "<script>alert(1)</script>\"'&--><b>"


class Text(HTMLParser):
    """The visible text of a page, and its tags."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self._parts: list[str] = []
        self._hidden = 0
        self.feed(source)
        self.text = " ".join(" ".join(self._parts).split())

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.ids += [value for name, value in attributes if name == "id"]
        self._hidden += tag in ("style", "title", "pre")

    def handle_endtag(self, tag):
        self._hidden -= tag in ("style", "title", "pre")

    def handle_data(self, data):
        if not self._hidden:
            self._parts.append(data)


def report_of(*runs) -> Text:
    """Return the text of a page, without its figures, which take most of the time."""
    with patch("imsim.analysis.report.page.svg", lambda drawing, number: Markup("<svg></svg>")):
        return Text(page([part_of(runs)]))


@pytest.fixture(scope="module")
def office() -> imsim.Scenario:
    return imsim.Scenario.load("office", {"duration": "2s", "population.users": 30, "warmup": 0})


@pytest.fixture(scope="module")
def runs(office) -> list[imsim.Run]:
    slow = office.replace({"topology.storage.service.append": "40ms"})
    return [imsim.simulate(one, seed=seed) for one in (office, slow) for seed in (1, 2)]


@pytest.fixture(scope="module")
def traced(office) -> imsim.Run:
    return imsim.simulate(office, seed=1, spans=True)


# --- what it says -----------------------------------------------------------------------------------------------------


def test_page_of_one_run_begins_with_its_answer(delivered):
    text = report_of(delivered(10, 20, 30, 40)).text
    assert "Deliveries take 25 ms at the median and 40 ms at p99; all 4 arrived." in text
    order = ["Deliveries take", "Summary", "Latency over time", "Losses by reason", "Scenario and provenance"]
    assert [text.index(part) for part in order] == sorted(text.index(part) for part in order)
    assert "Nothing was lost: all 4 deliveries arrived." in text


def test_null_has_its_reason(delivered):
    text = report_of(delivered(10, 20, None)).text
    assert "1 of 3 deliveries never arrived" in text
    assert "p99 (ms) null null" in text
    assert "null: the number falls among messages that never arrived." in text
    assert "nothing to measure" not in text
    empty = report_of(delivered(10, warmup=5, duration=9)).text
    assert "There are no deliveries after the warm-up." in empty
    assert "null: there was nothing to measure." in empty


def test_invalid_and_partial_runs_say_so_first(delivered):
    run = delivered(10, 20, world="live")
    run.manifest |= {"valid": False, "invalid_because": "the generator was late", "partial": True, "played": 1.5}
    text = report_of(run).text
    assert (
        text.index("INVALID: the generator was late") < text.index("partial: ended after 1.5 s") < text.index("Deliv")
    )
    two = report_of(run, delivered(15, 20, seed=2)).text
    assert two.index("A (live, seed 1): INVALID: the generator was late") < two.index("Delivery p99 is 20 ms in A")
    many = report_of(run, delivered(10, 20, seed=2), delivered(10, 20, seed=3)).text
    assert "1 of 3 runs are invalid or partial." in many
    assert re.search(r"status messages lost .*? 1 A 1 INVALID 2 0", many)


def test_two_runs_have_a_change_and_no_judgement(delivered):
    text = report_of(delivered(10, 10), delivered(15, None, seed=2)).text
    assert "Delivery p99 is 10 ms in A and null in B; 0 and 1 deliveries were lost." in text
    assert "delivery p50 (ms) 10 null –" in text
    assert "messages 2 2 +0.0%" in text
    assert "One run of each cannot tell a difference from chance" in text
    equal = report_of(delivered(10), delivered(10)).text
    assert "The rows of A and B are equal: they have the same digest." in equal


def test_runs_of_one_design_have_an_interval_without_the_spoilt_ones(delivered):
    runs = [delivered(*[ms] * 1000, seed=ms, duration=5) for ms in (9, 10, 11)]
    text = report_of(*runs).text
    assert "Delivery p99 is 10 [7.516, 12.48] ms: the mean over 3 runs of one design." in text
    assert "delivery p99 (ms) 10 [7.516, 12.48]" in text
    runs[2].manifest |= {"valid": False, "invalid_because": "no CPU"}
    text = report_of(*runs).text
    assert "delivery p99 (ms) 9.5 [3.147, 15.85]" in text
    assert "1 of 3 runs are invalid or partial, and left out." in text


def test_short_runs_have_no_interval_of_a_percentile(delivered):
    text = report_of(*(delivered(ms, seed=ms) for ms in (9, 10, 11))).text
    assert "delivery p99 (ms) 10 delivery max" in text
    assert "A percentile has no interval if a run has fewer than ten latencies beyond it." in text


def test_designs_have_letters(runs):
    text = report_of(*runs).text
    assert "in 4 runs of 2 designs." in text
    assert re.search(r"design runs A storage.service.append = lognormal .*? 2 B storage.service.append = 40ms 2", text)
    assert re.search(r"topology. ?storage. ?service. ?append lognormal median=1ms p99=5ms 40ms", text)


def test_runs_at_several_loads_have_a_knee(office):
    runs = [imsim.simulate(office.replace({"workload.rate": rate}), duration=1) for rate in (0.3, 0.5, 0.9)]
    assert "Latency over the load delivery.p50" in report_of(*runs).text
    assert "Latency over the load" not in report_of(*runs[:2], runs[0]).text


def test_losses_have_reasons(build):
    run = build(
        [
            {},
            {"outcome": "rejected", "error": "too_long"},
            {"outcome": "unknown", "error": "timeout"},
            {"outcome": "unsent"},
            {"outcome": "unsent"},
        ],
        [{"intent": 0}, {"intent": 2}, {"intent": 3}, {"intent": 0, "device": "d1", "outcome": "absent"}],
    )
    found = {(loss.what, loss.outcome, loss.count): loss.reason for loss in losses(run)}
    assert found == {
        ("messages", "unsent", 2): "never sent",
        ("messages", "rejected", 1): "refused by the server (too_long)",
        ("messages", "unknown", 1): "sent; no answer says whether it is stored (timeout)",
        ("deliveries", "lost", 1): found["deliveries", "lost", 1],
        ("deliveries", "absent", 1): found["deliveries", "absent", 1],
    }
    lost = [loss.reason for loss in losses(run) if loss.outcome == "lost"]
    assert sorted(lost) == [
        "the message was never sent",
        "the server has the message, the device never showed it",
        "the server never confirmed the message (timeout)",
    ]
    text = report_of(run).text
    assert "unsent never sent 2 (40.00%)" in text


def test_groups_are_classed_by_their_receivers(build):
    messages = [{"scene": "group"}, {"scene": "group"}, {}]
    deliveries = [{"intent": 0, "recipient": f"u{n}", "delivered_at": n * 1_000_000} for n in range(1, 6)]
    deliveries += [{"intent": 1, "recipient": "u1", "delivered_at": 7_000_000}, {"intent": 1, "recipient": "u2"}]
    deliveries += [{"intent": 2, "delivered_at": 9_000_000}]
    p2p, small, large = by_size(build(messages, deliveries))
    assert (p2p.name, p2p.messages, p2p.deliveries, p2p.p50, p2p.last_p99) == ("p2p", 1, 1, 9.0, None)
    assert (small.name, small.messages, small.lost, small.p99) == ("group, 1 to 4 devices", 1, 1, None)
    assert (large.name, large.messages, large.p50, large.last_p99) == ("group, 5 to 9 devices", 1, 3.0, 5.0)
    assert by_size(build([{}], [{}])) == []


def test_health_of_the_generator_is_shown(delivered):
    run = delivered(10, world="live")
    delays = {"p50": 0.1, "p95": 1.0, "p99": 4.25, "max": 7.5, "count": 9, "buckets": {}}
    health = {"lateness": delays, "receiving": delays, "cpu": 0.31, "waiting": None, "steal": 0.0, "backlog": 2}
    run.manifest["workers"] = [{"index": 0, "health": health}, {"index": 1, "health": None}]
    text = report_of(run).text
    assert "Load generator Valid: the latencies are those of the server." in text
    assert "worker 0 4.25 7.5 4.25 7.5 31% null 0% 2 yes" in text
    assert "worker 1 null null" in text


def test_spans_show_where_the_time_goes(traced):
    text = report_of(traced).text
    assert "The longest parts of deliveries" in text
    assert "How busy the nodes are over time" in text


def test_verdicts_come_first():
    drawing = Drawing("The limit.", lambda ax: ax.plot([1, 2]))
    verdicts = [
        Verdict("delivery", "held", "36.7 ms", "[35, 38]", "<= 200 ms"),
        Verdict(EVIL, "breached", "null", reason="lost deliveries", drawing=drawing),
    ]
    found = report_text = Text(page([], verdicts=verdicts, title="budgets", notes=["a note"]))
    assert found.text.index("breached 1 breached, 1 held.") < found.text.index("measured 36.7 ms interval [35, 38]")
    assert found.tags.count("svg") == 1
    assert "script" not in found.tags
    assert "lost deliveries" in report_text.text


# --- what it is made of -----------------------------------------------------------------------------------------------


def test_everything_is_escaped(delivered):
    run = delivered(10, 20, world="live", name=EVIL, title=EVIL)
    run.manifest |= {"server": {"name": EVIL}, "url": EVIL, "valid": False, "invalid_because": EVIL}
    run.manifest |= {"warnings": [EVIL], "started": EVIL, "run": EVIL}
    for shown in ([run], [run, delivered(5)], [run, delivered(5), delivered(6, seed=2)]):
        found = report_of(*shown)
        assert not {"script", "b"} & set(found.tags)
        assert "alert(1)</script>" in found.text


def test_page_is_alone_and_small(runs):
    source = page([part_of(runs * 10)])
    assert len(source.encode()) < 500_000
    assert not re.search(r"(?:src|href)=\"(?!#|data:)", source)
    assert "<script" not in source
    assert "@import" not in source
    assert "http" not in source.replace("http-equiv", "")


def test_four_figures_take_about_100_kib(traced):
    source = page([part_of([traced])])
    figures = re.findall(r"<svg.*?</svg>", source, re.DOTALL)
    assert len(figures) == 5
    assert sum(map(len, figures)) < 125 * 1024
    ids = Text(source).ids
    assert len(ids) == len(set(ids))


def test_text_of_figures_stays_text_in_any_language(delivered):
    run = delivered(10, 20, world="live", title="办公室一百人的消息延迟")
    run.manifest["server"] = {"name": "聊天"}
    found = report_of(run, delivered(11, 20))
    assert "办公室一百人的消息延迟" in found.text
    part = svg(Drawing("x", lambda ax: ax.set_xlabel('延迟 < 5 & id="a" #000000 url(#b)')), 1)
    assert '延迟 &lt; 5 &amp; id="a" #000000 url(#b)' in part


def test_figures_follow_the_mode_of_the_page_and_no_style_of_the_user():
    with mpl.rc_context({"axes.facecolor": "#123456", "font.size": 40}):
        part = svg(Drawing("x", lambda ax: ax.plot([1, 2], color="#555555")), 1)
        assert mpl.rcParams["font.size"] == 40
    assert "#123456" not in part
    assert "var(--dim)" in part
    assert not re.search(r"#(?:000000|ffffff)", part)


def test_large_run_becomes_no_objects(delivered, monkeypatch):
    """Frames with a row for each message would need gigabytes."""
    run = delivered(*range(1, 200), duration=2)
    for name in ("messages", "deliveries"):
        monkeypatch.setattr(imsim.Run, name, property(lambda _: pytest.fail("a frame of all rows")))
    assert "all 199 arrived" in report_of(run).text


def test_long_tables_and_scenarios_are_shortened():
    table = Table.of(["a"], [[number] for number in range(500)])
    assert (len(table.rows), table.notes) == (200, ["The first 200 of 500 rows."])
    values = tuple(float(number % 9000) for number in range(20_000))
    scenario = imsim.Scenario(name="x").replace({"workload.size": imsim.Empirical(values=values)})
    run = imsim.simulate(scenario.replace({"population.users": 5}), duration=1)
    assert len(page([part_of([run])]).encode()) < 200_000


def test_wrong_subjects_are_refused(delivered, tmp_path):
    run = delivered(10)
    with pytest.raises(imsim.UsageError, match=r"path: expected a name that ends in .html \(got x.pdf\)"):
        imsim.report(run, "x.pdf")
    with pytest.raises(imsim.UsageError, match=r"report: expected runs, .* \(got 3\)"):
        imsim.report([run, 3], tmp_path / "x.html")
    with pytest.raises(imsim.UsageError, match="got nothing"):
        imsim.report([], tmp_path / "x.html")
    with pytest.raises(imsim.UsageError, match="is not a run folder"):
        imsim.report(tmp_path / "no", tmp_path / "x.html")
    assert not list(tmp_path.iterdir())


# --- in a browser -----------------------------------------------------------------------------------------------------


@pytest.fixture
def pages(runs, traced, delivered) -> dict[str, str]:
    long = delivered(10, None, name="x" * 300, title="y" * 300, world="live")
    long.manifest |= {"valid": False, "invalid_because": "z" * 300, "digest": "f" * 64, "url": "w" * 300}
    wide = Table.of([f"topology.storage.service.column{number}" for number in range(20)], [["word " * 20] * 20])
    verdicts = [Verdict("v" * 200, "breached", "1" * 100, "2" * 100, "3" * 100, "4" * 300)]
    return {
        "one": page([part_of([traced])]),
        "two": page([part_of(runs[:2])]),
        "many": page([part_of(runs * 3)]),
        "long": page([part_of([long]), part_of([long, traced])], verdicts=verdicts),
        "wide": page([Part("k", "t", "h", sections=[Section("s", tables=[wide])])]),
    }


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (apt-get install chromium)")
async def test_browser_shows_pages_without_errors_and_overflow(pages, tmp_path):
    playwright = pytest.importorskip("playwright.async_api", reason="playwright is not installed")
    seen: list[str] = []
    async with playwright.async_playwright() as api:
        browser = await api.chromium.launch(executable_path=CHROMIUM)
        try:
            for name, source in pages.items():
                (tmp_path / f"{name}.html").write_text(source, encoding="utf-8")
                tab = await browser.new_page()
                tab.on("pageerror", lambda error: seen.append(str(error)))
                tab.on("console", lambda message: seen.append(message.text))
                tab.on("request", lambda one: one.url.startswith(("file:", "data:")) or seen.append(one.url))
                for width in (390, 1280):
                    await tab.set_viewport_size({"width": width, "height": 800})
                    await tab.goto((tmp_path / f"{name}.html").as_uri())
                    assert await tab.evaluate("document.documentElement.scrollWidth") == width, (name, width)
                # On paper, tables do not scroll: the page must be as wide as its content. 703 px: A4 without margins.
                await tab.emulate_media(media="print")
                await tab.set_viewport_size({"width": 703, "height": 1000})
                assert await tab.evaluate("document.documentElement.scrollWidth") == 703, (name, "print")
                await tab.emulate_media(media="screen", color_scheme="dark")
                colors = await tab.evaluate(
                    "[getComputedStyle(document.querySelector('main header')).backgroundColor,"
                    " getComputedStyle(document.querySelector('svg text') || document.body).fill]"
                )
                assert colors[0] == "rgb(27, 33, 40)", name
                assert name == "wide" or colors[1] == "rgb(230, 233, 237)", name
                await tab.close()
        finally:
            await browser.close()
    assert not seen
