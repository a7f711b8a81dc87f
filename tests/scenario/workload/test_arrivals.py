import math

import numpy as np
import pytest
from scenario.workload.plans import BUSY, same
from scipy import stats

from imsim.scenario import Scenario, plan


def test_arrivals_are_a_poisson_process_of_each_user() -> None:
    p = plan(Scenario().with_({"population.users": 400, "workload.rate": 2.0, "duration": 100.0}))
    counts = np.bincount(p.sender, minlength=400)
    assert counts.mean() == pytest.approx(200, abs=4 * math.sqrt(200 / 400))
    dispersion = counts.var(ddof=1) / counts.mean() * 399
    assert 1e-4 < stats.chi2.cdf(dispersion, 399) < 1 - 1e-4
    assert stats.kstest(p.at, "uniform", args=(0, 100e9)).pvalue > 1e-4
    gaps = np.concatenate([np.diff(p.at[p.sender == user]) for user in range(400)])
    assert stats.kstest(gaps[gaps < 3e9] / 1e9, stats.truncexpon(6, scale=0.5).cdf).pvalue > 1e-4


def test_how_many_are_drawn_at_a_time_does_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = plan(BUSY)
    monkeypatch.setattr("imsim.scenario.workload.arrivals._BLOCK", 700)
    assert same(whole, plan(BUSY))


def test_messages_of_one_nanosecond_stand_in_their_senders_order() -> None:
    crowded = plan(Scenario().with_({"workload.rate": 1e6}), duration=1e-4)
    assert (np.diff(crowded.at) == 0).sum() > 100
    assert (np.lexsort((crowded.sender, crowded.at)) == np.arange(len(crowded))).all()
