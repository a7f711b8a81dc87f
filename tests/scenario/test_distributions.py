import copy
import pickle

import numpy as np
import pytest
from pydantic import ValidationError
from scipy import stats

from imsim.core.exceptions import UsageError
from imsim.scenario import (
    Constant,
    CustomDistribution,
    Distribution,
    Draws,
    Empirical,
    Exponential,
    Lognormal,
    Pareto,
    Scenario,
    Uniform,
)
from imsim.scenario.distributions import mean_of

Z99 = stats.norm.ppf(0.99)


class Cut(stats.rv_continuous):
    """A lognormal whose tail is cut off at 0.1."""

    def _ppf(self, u, whole=stats.lognorm(np.log(4) / Z99, scale=0.015)):
        return whole.ppf(u * whole.cdf(0.1))

    def mean(self):
        return stats.lognorm(np.log(4) / Z99, scale=0.015).expect(ub=0.1, conditional=True)


# Pairs of a distribution of imsim and the same one of scipy.
CASES: list[tuple[Distribution, object]] = [
    (Uniform(low=2, high=5), stats.uniform(2, 3)),
    (Exponential(mean=0.25), stats.expon(scale=0.25)),
    (Lognormal(median=0.015, p99=0.06), stats.lognorm(np.log(4) / Z99, scale=0.015)),
    (Lognormal(median=0.015, p99=0.06, maximum=0.1), Cut(a=0, b=0.1)),
    (Pareto(minimum=3, alpha=2.5), stats.pareto(2.5, scale=3)),
    (Pareto(minimum=3, alpha=1.2, maximum=20), stats.truncpareto(1.2, 20 / 3, scale=3)),
    (Pareto(minimum=3, alpha=1, maximum=20), stats.truncpareto(1.0, 20 / 3, scale=3)),
    (Pareto(minimum=3, alpha=0.5, maximum=20), stats.truncpareto(0.5, 20 / 3, scale=3)),
]
MEASURED = [
    Empirical(values=(3, 1, 1, 8)),
    Empirical(percentiles=((0, 1), (50, 2), (99, 10), (100, 20))),
]


class Bimodal(CustomDistribution):
    """A custom distribution as users define it in a notebook."""

    fast: float
    slow: float

    def quantile(self, u):
        return self.fast if u < 0.9 else self.slow


ALL = [Constant(value=7), *(ours for ours, _ in CASES), *MEASURED, Bimodal(fast=1, slow=7)]
U = np.array([1e-15, 1e-6, 0.01, 0.25, 0.5, 0.75, 0.99, 1 - 1e-6, 1 - 2**-53])


@pytest.mark.parametrize(
    ("ours", "theirs"), CASES, ids=lambda value: repr(value) if hasattr(value, "quantile") else "scipy"
)
def test_quantiles_and_mean_equal_those_of_scipy(ours, theirs) -> None:
    usual = U[1:-1]
    assert ours.quantiles(usual) == pytest.approx(theirs.ppf(usual), rel=1e-9)
    assert ours.mean == pytest.approx(theirs.mean(), rel=1e-9)


@pytest.mark.parametrize("distribution", ALL, ids=repr)
def test_quantile_and_quantiles_agree_and_stay_in_bounds(distribution: Distribution) -> None:
    values = distribution.quantiles(U)
    assert values == pytest.approx([distribution.quantile(u) for u in U.tolist()], rel=1e-13)
    assert (np.diff(values) >= 0).all()
    assert (values >= 0).all()
    assert (values <= distribution.upper).all()
    assert distribution.quantiles(np.full((2, 3), 0.5)).shape == (2, 3)


@pytest.mark.parametrize("distribution", [one for one in ALL if hasattr(one, "mean")], ids=repr)
def test_mean_equals_average_of_draws(distribution: Distribution) -> None:
    drawn = distribution.quantiles(Draws(5, "mean").array(np.arange(200_000)))
    assert drawn.mean() == pytest.approx(distribution.mean, abs=5 * drawn.std() / 200_000**0.5 + 1e-12)


def test_lognormal_has_given_median_and_p99() -> None:
    latency = Lognormal(median=0.015, p99=0.06)
    assert latency.quantile(0.5) == pytest.approx(0.015)
    assert latency.quantile(0.99) == pytest.approx(0.06)


def test_values_of_truncated_tail_do_not_pile_up_at_maximum() -> None:
    for cut in (Pareto(minimum=3, alpha=1.2, maximum=20), Lognormal(median=1, p99=10, maximum=11)):
        drawn = cut.quantiles(Draws(1).array(np.arange(10_000)))
        assert len(np.unique(drawn)) == 10_000


def test_constant_is_the_value_of_distributions_with_only_one() -> None:
    assert [d.constant for d in ALL] == [7, *[None] * len(CASES), *[None] * len(MEASURED), None]
    assert Uniform(low=2, high=2).constant == 2


@pytest.mark.parametrize("distribution", ALL, ids=repr)
def test_used_distribution_can_be_pickled_and_copied(distribution: Distribution) -> None:
    before = distribution.quantile(0.3)
    for other in (pickle.loads(pickle.dumps(distribution)), copy.deepcopy(distribution)):
        assert other == distribution
        assert other.quantile(0.3) == before
    assert type(distribution)(**distribution.model_dump()) == distribution


@pytest.mark.parametrize(
    ("kind", "parameters"),
    [
        (Constant, {"value": -1}),
        (Constant, {"value": float("nan")}),
        (Uniform, {"low": 3, "high": 2}),
        (Uniform, {"low": -1, "high": 2}),
        (Exponential, {"mean": 0}),
        (Exponential, {"mean": 1, "median": 1}),
        (Lognormal, {"median": 1, "p99": 1}),
        (Lognormal, {"median": 0, "p99": 1}),
        (Lognormal, {"median": 1, "p99": 2, "maximum": 2}),
        (Pareto, {"minimum": 1, "alpha": 1}),
        (Pareto, {"minimum": 0, "alpha": 2}),
        (Pareto, {"minimum": 1, "alpha": 0, "maximum": 2}),
        (Pareto, {"minimum": 2, "alpha": 2, "maximum": 2}),
        (Pareto, {"minimum": 2, "alpha": "2"}),
        (Empirical, {}),
        (Empirical, {"values": [1], "percentiles": [[0, 1], [100, 2]]}),
        (Empirical, {"values": [1, -1]}),
        (Empirical, {"percentiles": [[0, 1], [99, 2]]}),
        (Empirical, {"percentiles": [[0, 1], [60, 2], [60, 3], [100, 4]]}),
        (Empirical, {"percentiles": [[0, 1], [50, 3], [100, 2]]}),
        (Empirical, {"percentiles": [[0, 1], [100]]}),
    ],
)
def test_impossible_parameters_are_refused(kind, parameters) -> None:
    with pytest.raises(ValidationError):
        kind(**parameters)


def test_distributions_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Exponential(mean=1).mean = 2  # type: ignore[misc]


# --- measured distributions -----------------------------------------------------------------------------------------


def test_measured_values_are_drawn_as_often_as_they_are_listed() -> None:
    seen = Empirical(values=(0.3, 0.1, 0.1, 0.8))
    drawn = seen.quantiles(np.linspace(0.001, 0.999, 1000))
    assert dict(zip(*np.unique(drawn, return_counts=True), strict=True)) == {0.1: 500, 0.3: 250, 0.8: 250}
    assert (seen.upper, seen.constant, Empirical(values=(2, 2)).constant) == (0.8, None, 2)


def test_percentiles_are_interpolated_linearly() -> None:
    table = Empirical(percentiles=((0, 0.001), (50, 0.002), (90, 0.01), (100, 0.03)))
    assert [table.quantile(u) for u in (0.25, 0.5, 0.7, 0.95)] == pytest.approx([0.0015, 0.002, 0.006, 0.02])
    assert table.mean == pytest.approx(0.5 * 0.0015 + 0.4 * 0.006 + 0.1 * 0.02)
    assert table.upper == 0.03


@pytest.mark.parametrize("count", [300, 30_000])
def test_distribution_of_an_array_has_its_mean_and_quantiles(count) -> None:
    samples = Lognormal(median=0.015, p99=0.06).quantiles(Draws(3).array(np.arange(count)))
    ours = Empirical.of(samples)
    assert max(len(ours.values), len(ours.percentiles)) <= 1000
    assert ours.mean == pytest.approx(samples.mean(), rel=0.01)
    for u in (0.1, 0.5, 0.9):
        assert ours.quantile(u) == pytest.approx(np.quantile(samples, u), rel=0.05)


def test_measured_distribution_is_read_and_written() -> None:
    scenario = Scenario.from_toml(
        """
        workload.size = { kind = "empirical", values = [20, 100, 100, 4000] }
        topology.storage.service.append = { kind = "empirical", values = ["1ms", 0.002] }
        topology.router.service.send = { kind = "empirical", percentiles = [[0, "1ms"], [99.9, "2ms"], [100, "8ms"]] }
        """
    )
    assert scenario.topology.storage.service["append"] == Empirical(values=(0.001, 0.002))
    text = scenario.to_toml()
    assert '"1ms"' in text
    assert "99.9" in text
    assert Scenario.from_toml(text) == scenario == scenario.replace({"title": ""})
    with pytest.raises(UsageError, match=r"workload.size: expected plain numbers, 0 or more, got '5ms'$"):
        Scenario().replace({"workload.size": {"kind": "empirical", "values": [3, "5ms"]}})
    with pytest.raises(UsageError, match=r"append.percentiles.1: expected a percentile and its value, as in \[99,"):
        Scenario().replace({"topology.storage.service.append": {"kind": "empirical", "percentiles": [[0, 1], [100]]}})


# --- custom distributions -------------------------------------------------------------------------------------------


def test_custom_distribution_replaces_a_built_in_one() -> None:
    own = Bimodal(fast=0.001, slow=0.02)
    scenario = Scenario().replace({"topology.storage.service.append": own, "workload.size": Bimodal(fast=10, slow=900)})
    for copied in (
        scenario.replace({"seed": 2, "topology.storage.service.get": "1ms"}),
        scenario.replace({"topology.storage": scenario.topology.storage, "topology.storage.service.get": "1ms"}),
        pickle.loads(pickle.dumps(scenario)),
        scenario.model_copy(),
    ):
        assert copied.topology.storage.service["append"] == own
        assert copied.workload.size.quantile(0.5) == 10
    assert pickle.loads(pickle.dumps(scenario)) == scenario != scenario.replace({"workload.size": 10})


def test_custom_distribution_is_written_as_a_name_and_refused_when_read() -> None:
    scenario = Scenario().replace({"topology.storage.service.append": Bimodal(fast=0.001, slow=0.02)})
    text = scenario.to_toml()
    assert 'append = "custom part Bimodal(fast=0.001, slow=0.02)"' in text
    with pytest.raises(UsageError) as error:
        Scenario.from_toml(text)
    assert str(error.value) == (
        "scenario custom: topology.storage.service.append: custom part Bimodal(fast=0.001, slow=0.02) exists only in"
        " Python; a file contains only its name: pass the object with Scenario.replace"
    )
    with pytest.raises(UsageError, match=r"workload.size: custom part Bimodal\(\) exists only"):
        Scenario().replace({"workload.size": "custom part Bimodal()"})


def test_custom_distribution_can_have_an_upper_bound() -> None:
    class Known(CustomDistribution):
        mean: float  # a field can have any name, even `mean`

        @property
        def upper(self) -> float:
            return 2 * self.mean

        def quantile(self, u):
            return 2 * self.mean * u

    assert Bimodal(fast=1, slow=11).upper == float("inf")
    assert mean_of(Bimodal(fast=1, slow=11)) == pytest.approx(2)
    assert mean_of(Known(mean=3)) == pytest.approx(3)
    with pytest.raises(
        UsageError, match=r"workload.size: expected at most limits.content_bytes \(16384\), got up to 4"
    ):
        Scenario().replace({"workload.size": Known(mean=20_000)})


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"fast": 0.1}, "slow: missing"),
        ({"fast": "x", "slow": 1}, "fast: expected a number, got 'x'"),
        ({"fast": 0.1, "slow": 1, "slw": 1}, "slw: unknown field (did you mean 'slow'?); known here: fast, slow"),
        ({"fast": -1.0, "slow": 1}, "expected Bimodal.quantile(0.001) to return 0 or more, got -1.0"),
    ],
)
def test_wrong_fields_of_custom_distribution_raise_one_line(fields, problem):
    with pytest.raises(UsageError) as caught:
        Bimodal(**fields)
    assert str(caught.value) == f"custom distribution Bimodal: {problem}"


def test_exception_in_custom_distribution_names_its_class():
    class Odd(CustomDistribution):
        def quantile(self, u):
            return 1 / 0 if 0.6 < u < 0.7 else 0.1

    class Nothing(CustomDistribution):
        pass

    problem = r"^custom distribution Odd: quantile\(0.65\) raised ZeroDivisionError: division by zero$"
    for ask in (lambda: Odd().quantile(0.65), lambda: Odd().quantiles(np.array([0.1, 0.65]))):
        with pytest.raises(UsageError, match=problem) as caught:
            ask()
        assert type(caught.value.__cause__) is ZeroDivisionError
    with pytest.raises(
        UsageError, match=r"^custom distribution Nothing: expected a method quantile\(u\), but it has none$"
    ):
        Nothing()
