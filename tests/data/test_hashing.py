import numpy as np
import pytest
from scipy import stats

from temperance.data import hash64, uniform


def splitmix64(state, n):
    """Vigna's reference in plain Python integers: the n-th output from `state`."""
    mask = 2**64 - 1
    z = (state + (n + 1) * 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


def test_first_outputs_of_splitmix64_are_the_published_ones():
    # https://rosettacode.org/wiki/Pseudo-random_numbers/Splitmix64
    assert int(hash64(1234567)) == 6457827717110365317
    assert int(hash64(0)) == 0xE220A8397B1DCDAF


@pytest.mark.parametrize(
    ("seed", "keys"), [(0, (0,)), (7, (1, 2, 3)), (-1, (2**40, 5)), (2**70 + 3, (0, 0))]
)
def test_a_chain_of_keys_equals_the_reference(seed, keys):
    state = splitmix64(seed % 2**64, 0)
    for key in keys:
        state = splitmix64(state, key)
    assert int(hash64(seed, *keys)) == state


def test_golden_values():
    assert hash64(0, [0, 1, -1]).tolist() == [
        12035550249420947055, 12935080325729570654, 5197578548964807871,
    ]  # fmt: skip
    assert int(hash64(42, 5, 7, 1)) == 18428516761157112461


def test_keys_broadcast_and_never_collide_under_one_seed():
    grid = hash64(3, np.arange(4)[:, None], np.arange(1000))
    assert grid.shape == (4, 1000)
    assert len(np.unique(grid)) == grid.size
    assert grid[2, 17] == hash64(3, 2, 17)


def test_uniform_is_uniform_and_keys_do_not_correlate():
    numbers = uniform(0, np.arange(2)[:, None], np.arange(20_000))
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert stats.kstest(numbers.ravel(), "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(numbers)[0, 1]) < 4 / np.sqrt(20_000)
