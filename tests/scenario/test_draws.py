import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from imsim.scenario.draws import _I, _J, _MIX_1, _MIX_2, Draws, Stream, Streams

N = 200_000
COUNT = np.arange(N)

GOLDEN = {
    "at": [0.7341618762693668, 0.3201354605813246, 0.9678519460396479],
    "keys": [1758750115448739479, 10356766174275633250],
}


def test_draws_have_golden_values() -> None:
    """Published results must be reproducible with later versions."""
    assert {
        "at": [Draws(1, "x").at(0), Draws(1, "x").at(3, 4), Draws(2, "service", 7).at(-1, 10**12)],
        "keys": [Draws(0).key, Draws(2**70, "a", 1, "b").key],
    } == GOLDEN


@given(st.integers(-(2**63), 2**63 - 1), st.integers(-(2**63), 2**63 - 1), st.integers(0, 2**80))
def test_at_and_array_are_equal_to_the_last_bit(i: int, j: int, seed: int) -> None:
    draws = Draws(seed, "x")
    one = draws.at(i, j)
    assert 0 < one < 1
    assert draws.array(np.array([i, i]), np.array([j, 0])).tolist() == [one, draws.at(i)]
    assert draws.array(np.array([i]), j).tolist() == [one]
    assert float(draws.array(np.int64(i), np.int64(j))) == one  # 0-d arrays, for which numpy would warn of an overflow


def test_arrays_broadcast() -> None:
    table = Draws(1).array(np.arange(3)[:, None], np.arange(4))
    assert table.tolist() == [[Draws(1).at(i, j) for j in range(4)] for i in range(3)]
    assert Draws(1).array(np.arange(3, dtype=np.int32)).tolist() == table[:, 0].tolist()


@pytest.mark.parametrize(("word", "number"), [(0, 2.0**-53), (2**64 - 1, 1 - 2.0**-53)])
def test_numbers_are_never_zero_or_one(word: int, number: float) -> None:
    """Check the smallest and the largest number. The finaliser is a bijection, so some key leads to each of them."""
    draws = Draws(1)
    draws.key = _unshift(pow(_MIX_1, -1, 2**64) * _unshift(pow(_MIX_2, -1, 2**64) * _unshift(word, 31), 27), 30)
    assert draws.at(0) == draws.array(np.array([0]))[0] == Stream(draws, 0).next() == number


def _unshift(word: int, bits: int) -> int:
    """Undo word ^ (word >> bits)."""
    word %= 2**64
    return word ^ (word >> bits) ^ (word >> 2 * bits)


def test_stream_has_the_numbers_of_its_entity() -> None:
    draws = Draws(9, "jitter")
    for entity in (0, 3, -1, 10**9):
        stream = Stream(draws, entity)
        assert [stream.next() for _ in range(50)] == [draws.at(entity, k) for k in range(50)]


def test_streams_are_the_same_side_by_side() -> None:
    draws = Draws(9, "jitter")
    entities = [0, 3, -1, 10**9]
    streams = Streams(draws, np.array(entities))
    places = set()
    for k in range(50):
        drawn = [streams.draw(number) for number in range(4)]
        assert [number for _, number in drawn] == [draws.at(entity, k) for entity in entities]
        places.update(place for place, _ in drawn)
    assert len(places) == 200


def _uniform(numbers: np.ndarray) -> float:
    """Return the smaller p-value of two tests: of the whole range, and of the lowest 12 of the 52 bits."""
    low_bits = (numbers * 2.0**52).astype(np.uint64) % 4096
    return min(stats.kstest(numbers, "uniform").pvalue, stats.chisquare(np.bincount(low_bits, minlength=4096)).pvalue)


SEQUENCES = {
    "i": Draws(1, "x").array(COUNT),
    "j": Draws(1, "x").array(np.array(5), COUNT),
    "diagonal": Draws(1, "x").array(COUNT, COUNT),
    "far i": Draws(1, "x").array(COUNT << 32),
    "seeds": np.array([Draws(seed, "x").at(0) for seed in range(5000)]),
    "purposes": np.array([Draws(1, "x", number).at(0) for number in range(5000)]),
}


@pytest.mark.parametrize("name", SEQUENCES)
def test_numbers_are_uniform(name: str) -> None:
    assert _uniform(SEQUENCES[name]) > 1e-4


@pytest.mark.parametrize("name", SEQUENCES)
@pytest.mark.parametrize("lag", [1, 2, 7])
def test_neighbouring_numbers_are_independent(name: str, lag: int) -> None:
    _independent(SEQUENCES[name][:-lag], SEQUENCES[name][lag:])


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(Draws(1, "x").array(COUNT, 1), id="j + 1"),
        pytest.param(Draws(1, "x").array(COUNT + 1), id="i + 1"),
        pytest.param(Draws(2, "x").array(COUNT), id="seed + 1"),
        pytest.param(Draws(1, "y").array(COUNT), id="another purpose"),
        pytest.param(Draws(1, "x", 0).array(COUNT), id="a longer purpose"),
    ],
)
def test_related_draws_are_independent(other: np.ndarray) -> None:
    _independent(SEQUENCES["i"], other)


def _independent(one: np.ndarray, other: np.ndarray) -> None:
    cells, _, _ = np.histogram2d(one, other, bins=16, range=[[0, 1], [0, 1]])
    assert stats.chisquare(cells.ravel()).pvalue > 1e-4


def test_parts_of_a_purpose_are_kept_apart() -> None:
    purposes = [("ab", "c"), ("a", "bc"), ("abc",), ("1",), (1,), (1, 2), (12,), ()]
    assert len({Draws(1, *purpose).key for purpose in purposes}) == len(purposes)
    assert Draws(1, np.int64(1)).key == Draws(1, 1).key


def test_different_small_pairs_have_different_numbers() -> None:
    """Find the shortest (i, j) that the increments map to 0, by Lagrange's reduction of their lattice."""
    short, long = (-_J * pow(_I, -1, 2**64) % 2**64, 1), (2**64, 0)
    while True:
        dot, square = short[0] * long[0] + short[1] * long[1], short[0] ** 2 + short[1] ** 2
        steps = (2 * dot + square) // (2 * square)
        long = (long[0] - steps * short[0], long[1] - steps * short[1])
        if long[0] ** 2 + long[1] ** 2 >= square:
            break
        short, long = long, short
    assert (short[0] * _I + short[1] * _J) % 2**64 == 0
    assert square > 2 * (2**30) ** 2
