"""Live budgets, judged by blocks and pairs of a fake server whose latencies are known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from imsim.core.exceptions import RunError
from imsim.experiments.check import live
from imsim.experiments.check.file import Budgets
from imsim.experiments.live_runs import LiveRun

RELATIVE = 'metric = "delivery.p99"\nmax_increase = "10%"\n'
ABSOLUTE = 'metric = "delivery.p50"\nmax = "20ms"\n'


class Fake:
    """Servers of which the head is `slower` times as slow as the base; each block varies by `noise`."""

    def __init__(self, slower: float = 1.0, noise: float = 0.05, seed: int = 1, spoilt: int = 0) -> None:
        self.slower, self.noise, self.spoilt = slower, noise, spoilt
        self.random = np.random.default_rng(seed)
        self.order: list[bool] = []
        self.seeds: list[int] = []

    def __call__(self, scenario, is_head):
        self.order.append(is_head)
        self.seeds.append(scenario.seed)
        ms = 10.0 * (self.slower if is_head else 1.0) * math.exp(self.random.normal(0.0, self.noise))
        self.spoilt -= 1
        return LiveRun({"delivery.p99": 3 * ms, "delivery.p50": ms}, spoilt="starved" if self.spoilt >= 0 else "")


@pytest.fixture
def subjects(tmp_path):
    def of(*budgets: str) -> list[live.Subject]:
        text = '[server.chat]\ncommand = "serve {port}"\n'
        head = '[[budget]]\nscenario = "office"\nserver = "chat"\n'
        (tmp_path / "imsim.toml").write_text(text + "".join(head + one for one in budgets))
        return live.subjects_of(Budgets.read(tmp_path / "imsim.toml"))

    return of


def verdicts(found):
    return [found[number].verdict for number in sorted(found)]


def test_pairs_are_interleaved_under_the_same_seeds(subjects):
    fake = Fake()
    assert verdicts(live.check_live(subjects(RELATIVE), lambda _: fake)) == ["held"]
    assert fake.order[:8] == [False, True, True, False] * 2
    assert fake.seeds[0::2] == fake.seeds[1::2]
    assert len(set(fake.seeds)) == len(fake.seeds) // 2


def test_breach_is_confirmed_by_fresh_pairs(subjects):
    fake = Fake(slower=1.3)
    (finding,) = live.check_live(subjects(RELATIVE), lambda _: fake).values()
    assert finding.verdict == "breached"
    assert finding.low > 0.1
    assert finding.change == pytest.approx(0.3, abs=0.1)
    assert len(set(fake.seeds)) == len(fake.order) // 2 >= 2 * live.LOOKS[0]


def test_breach_that_is_not_confirmed_is_undecided(subjects):
    class Moody(Fake):
        def __call__(self, scenario, is_head):
            self.slower = 1.5 if len(self.order) < 2 * live.LOOKS[0] else 1.0
            return super().__call__(scenario, is_head)

    fake = Moody()
    (finding,) = live.check_live(subjects(RELATIVE), lambda _: fake).values()
    assert (finding.verdict, finding.reason) == ("undecided", "further pairs did not confirm the breach")


def test_absolute_budget_needs_no_base(subjects):
    fake = Fake()
    (finding,) = live.check_live(subjects(ABSOLUTE), lambda _: fake).values()
    assert (finding.verdict, set(fake.order)) == ("held", {True})
    assert finding.low < 10 < finding.high
    assert verdicts(live.check_live(subjects(ABSOLUTE), lambda _: Fake(slower=3.0))) == ["breached"]


def test_increase_at_the_limit_stays_undecided(subjects):
    fake = Fake(slower=1.1, noise=0.1)
    (finding,) = live.check_live(subjects(RELATIVE), lambda _: fake).values()
    assert finding.verdict == "undecided"
    assert len(fake.order) == 2 * live.LOOKS[-1]


def test_spoilt_block_is_repeated_and_not_judged(subjects):
    (finding,) = live.check_live(subjects(ABSOLUTE), lambda _: Fake(spoilt=2)).values()
    assert (finding.verdict, finding.evidence) == ("held", "4 blocks of 10 s, 2 spoilt ones repeated")


def test_starved_generator_makes_the_check_invalid(subjects):
    (finding,) = live.check_live(subjects(RELATIVE), lambda _: Fake(slower=3.0, spoilt=99)).values()
    assert (finding.verdict, finding.value) == ("invalid", None)
    assert finding.reason == "the load generator spoilt the measurement: starved"


def test_margin_below_the_noise_floor_is_refused(subjects):
    found = subjects(RELATIVE)
    floors = live.noise(found, lambda _: Fake(noise=0.5), 12, lambda *_: None)
    (finding,) = live.check_live(found, lambda _: Fake(), floors=floors).values()
    assert finding.verdict == "invalid"
    assert "below the noise floor of this machine" in finding.reason
    quiet = live.noise(found, lambda _: Fake(noise=0.01), 12, lambda *_: None)
    assert verdicts(live.check_live(found, lambda _: Fake(), floors=quiet)) == ["held"]


def test_noise_floor_of_a_null_metric_is_an_error(subjects):
    lost = LiveRun({"delivery.p99": math.inf})
    with pytest.raises(RunError, match=r"delivery\.p99 is null in some block"):
        live.noise(subjects(RELATIVE), lambda _: lambda *_: lost, 3, lambda *_: None)


@pytest.mark.parametrize(
    ("base", "head", "ratio"),
    [(2.0, 2.0, 0.0), (1.0, math.e, 1.0), (0.0, 0.0, 0.0), (0.0, 1.0, math.inf), (1.0, math.inf, math.inf)],
)
def test_ratio_of_head_and_base(base, head, ratio):
    assert live.log_ratio(base, head) == pytest.approx(ratio)
    assert math.isnan(live.log_ratio(math.nan, head))


def test_rates_of_wrong_verdicts(subjects):
    """A check of an unchanged server never reports a breach; 30 % is found."""
    found = subjects(RELATIVE, 'metric = "delivery.p50"\nmax_increase = "10%"\n')

    def breaches(slower: float, checks: int = 60) -> int:
        fresh = ([live.Subject(s.name, s.scenario, s.server, s.entries) for s in found] for _ in range(checks))
        return sum(
            "breached" in verdicts(live.check_live(one, lambda _, n=n: Fake(slower, 0.08, seed=n)))
            for n, one in enumerate(fresh)
        )

    assert breaches(1.0) == 0
    assert breaches(1.3) >= 55
