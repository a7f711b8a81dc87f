import copy
import pickle

import numpy as np
import pytest
from pydantic import ValidationError
from scipy import stats

from imsim.scenario import Constant, Distribution, Draws, Exponential, Lognormal, Pareto, Uniform

Z99 = stats.norm.ppf(0.99)

# Each next to scipy's own distribution of the same shape.
CASES: list[tuple[Distribution, object]] = [
    (Uniform(low=2, high=5), stats.uniform(2, 3)),
    (Exponential(mean=0.25), stats.expon(scale=0.25)),
    (Lognormal(median=0.015, p99=0.06), stats.lognorm(np.log(4) / Z99, scale=0.015)),
    (Pareto(minimum=3, alpha=2.5), stats.pareto(2.5, scale=3)),
    (Pareto(minimum=3, alpha=1.2, maximum=20), stats.truncpareto(1.2, 20 / 3, scale=3)),
    (Pareto(minimum=3, alpha=1, maximum=20), stats.truncpareto(1.0, 20 / 3, scale=3)),
    (Pareto(minimum=3, alpha=0.5, maximum=20), stats.truncpareto(0.5, 20 / 3, scale=3)),
]
ALL = [Constant(value=7), *(ours for ours, _ in CASES)]
U = np.array([1e-15, 1e-6, 0.01, 0.25, 0.5, 0.75, 0.99, 1 - 1e-6, 1 - 2**-53])


@pytest.mark.parametrize(
    ("ours", "theirs"), CASES, ids=lambda value: repr(value) if hasattr(value, "quantile") else "scipy"
)
def test_quantiles_and_mean_are_scipys(ours, theirs) -> None:
    usual = U[1:-1]
    assert ours.quantiles(usual) == pytest.approx(theirs.ppf(usual), rel=1e-9)
    assert ours.mean == pytest.approx(theirs.mean(), rel=1e-9)


@pytest.mark.parametrize("distribution", ALL, ids=repr)
def test_scalar_and_array_agree_and_stay_in_bounds(distribution: Distribution) -> None:
    values = distribution.quantiles(U)
    assert values == pytest.approx([distribution.quantile(u) for u in U.tolist()], rel=1e-13)
    assert (np.diff(values) >= 0).all()
    assert (values >= 0).all()
    assert (values <= distribution.upper).all()
    assert distribution.quantiles(np.full((2, 3), 0.5)).shape == (2, 3)


@pytest.mark.parametrize("distribution", ALL, ids=repr)
def test_the_mean_is_what_draws_average_to(distribution: Distribution) -> None:
    drawn = distribution.quantiles(Draws(5, "mean").array(np.arange(200_000)))
    assert drawn.mean() == pytest.approx(distribution.mean, abs=5 * drawn.std() / 200_000**0.5 + 1e-12)


def test_lognormal_has_the_median_and_p99_it_was_given() -> None:
    latency = Lognormal(median=0.015, p99=0.06)
    assert latency.quantile(0.5) == pytest.approx(0.015)
    assert latency.quantile(0.99) == pytest.approx(0.06)


def test_a_truncated_tail_does_not_pile_up_at_the_maximum() -> None:
    drawn = Pareto(minimum=3, alpha=1.2, maximum=20).quantiles(Draws(1).array(np.arange(10_000)))
    assert len(np.unique(drawn)) == 10_000


def test_what_is_constant_says_so() -> None:
    assert [d.constant for d in ALL] == [7, *[None] * len(CASES)]
    assert Uniform(low=2, high=2).constant == 2


@pytest.mark.parametrize("distribution", ALL, ids=repr)
def test_survives_pickling_and_copying_after_use(distribution: Distribution) -> None:
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
        (Pareto, {"minimum": 1, "alpha": 1}),
        (Pareto, {"minimum": 0, "alpha": 2}),
        (Pareto, {"minimum": 1, "alpha": 0, "maximum": 2}),
        (Pareto, {"minimum": 2, "alpha": 2, "maximum": 2}),
        (Pareto, {"minimum": 2, "alpha": "2"}),
    ],
)
def test_the_impossible_is_refused(kind, parameters) -> None:
    with pytest.raises(ValidationError):
        kind(**parameters)


def test_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Exponential(mean=1).mean = 2  # type: ignore[misc]
