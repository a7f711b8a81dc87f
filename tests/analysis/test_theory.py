"""The formulas are checked against tables, each other and scipy's distributions."""

from __future__ import annotations

import math

import pytest
from scipy import stats

from imsim import theory


@pytest.mark.parametrize(
    ("offered", "workers", "waits"),
    [(1.0, 2, 1 / 3), (0.5, 1, 0.5), (2.0, 3, 4 / 9), (8.0, 10, 0.4092), (90.0, 100, 0.2171)],
)
def test_erlang_c(offered, workers, waits):
    assert theory.erlang_c(offered, 1.0, workers) == pytest.approx(waits, abs=2e-4)
    poisson = stats.poisson(offered)
    by_definition = poisson.pmf(workers) / (
        poisson.pmf(workers) + (1 - offered / workers) * poisson.cdf(workers - 1)
    )  # fmt: skip
    assert theory.erlang_c(offered, 1.0, workers) == pytest.approx(by_definition)


def test_mmc_with_one_worker_is_mm1():
    rate, service = 60.0, 0.01
    assert (theory.utilisation(rate, service), theory.erlang_c(rate, service, 1)) == pytest.approx((0.6, 0.6))
    wait = theory.mm1_sojourn(rate, service) - service
    assert theory.mmc_wait(rate, service, 1) == pytest.approx(wait)
    assert theory.mg1_wait(rate, service, 1.0) == pytest.approx(wait)
    assert theory.mg1_wait(rate, service, 0.0) == pytest.approx(wait / 2)
    assert theory.tandem_sojourn_quantile(rate, service, 1, 0.99) == pytest.approx(
        theory.mm1_sojourn_quantile(rate, service, 0.99)
    )


def test_mmc_wait_quantile_inverts_distribution():
    assert theory.mmc_wait_quantile(60, 0.01, 1, 0.3) == 0
    # P(wait > t) = 0.6 exp(-40 t)
    assert theory.mmc_wait_quantile(60, 0.01, 1, 0.94) == pytest.approx(math.log(10) / 40)


@pytest.mark.parametrize("q", [0.1, 0.5, 0.99, 0.9999])
def test_tandem_sojourn_is_erlang(q):
    assert theory.tandem_sojourn_quantile(60, 0.01, 4, q) == pytest.approx(stats.gamma(4, scale=0.025).ppf(q))


@pytest.mark.parametrize("rate", [0.0, 50.0, 100.0, 400.0])
@pytest.mark.parametrize("room", [1, 2, 7])
def test_mm1k_blocking_is_probability_of_last_state(rate, room):
    states = [(rate * 0.01) ** number for number in range(room + 1)]
    assert theory.mm1k_blocking(rate, 0.01, room) == pytest.approx(states[-1] / sum(states))


def test_lognormal_moments():
    shape = math.log(6) / stats.norm.ppf(0.99)
    law = stats.lognorm(shape, scale=0.005)
    mean, scv = theory.lognormal_moments(0.005, 0.03)
    assert (mean, scv) == pytest.approx((law.mean(), law.var() / law.mean() ** 2))


def test_fork_join():
    assert theory.fork_join_sojourn(1e-9, 2.0) == pytest.approx(1.5 * 2.0)  # the larger of two exponentials
    assert theory.fork_join_sojourn(50, 0.01) == pytest.approx(11.5 / 8 * 0.02)


@pytest.mark.parametrize("links", [1, 2, 3])
def test_retransmissions_follow_negative_binomial(links):
    law = stats.nbinom(links, 0.8)
    assert theory.retransmissions(0.2, links) == pytest.approx(law.mean())
    for q in (0.1, 0.5, 0.9, 0.99, 0.9999):
        assert theory.retransmissions_quantile(0.2, q, links) == law.ppf(q)


def test_overloaded_queue_is_refused():
    for rate in (100, 101):
        with pytest.raises(ValueError, match="at least 0 and below 1"):
            theory.mm1_sojourn(rate, 0.01)
    assert theory.mm1_sojourn(99, 0.01) == pytest.approx(1.0)
