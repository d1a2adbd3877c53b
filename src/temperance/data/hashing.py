"""A counter-based hash: randomness as a pure function of a seed and what it is drawn for.

The same on every platform and in every version, unlike a framework's random generator, and
independent of the order in which things are asked for.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import numpy.typing as npt

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


class Purpose(IntEnum):
    """First key of every draw, so that draws from one seed for two purposes are independent."""

    SPLIT = 1
    SUBSET = 2
    FOLD = 3
    ORDER = 4
    VIEW = 5
    SHUFFLED_ENTROPY = 6
    MIXING = 7
    NOISE = 8
    TRUTH = 9


def hash64(seed: int, *keys: npt.ArrayLike) -> npt.NDArray[np.uint64]:
    """64 hash bits for every combination of the (broadcast) integer keys.

    A chain of splitmix64 (Steele, Lea & Flood 2014, fig. 17, with Stafford's mix 13): each key
    picks an output of the generator whose state is the hash so far. Under one seed, different
    values of the last key never collide.

    Args:
        seed: any integer; taken modulo 2⁶⁴.
        keys: integers or integer arrays; negative ones are taken modulo 2⁶⁴.

    Examples:
        >>> hash64(0, [0, 1]).tolist()
        [12035550249420947055, 12935080325729570654]
    """
    with np.errstate(over="ignore"):  # arithmetic modulo 2⁶⁴ is meant
        state = _mix(np.uint64(seed % 2**64) + _GOLDEN)
        for key in keys:
            index = np.asarray(key).astype(np.uint64)
            state = _mix(state + (index + np.uint64(1)) * _GOLDEN)
    return np.asarray(state, dtype=np.uint64)


def uniform(seed: int, *keys: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Numbers in [0, 1), the 53 upper bits of `hash64`.

    Examples:
        >>> uniform(0, [0, 1]).round(4).tolist()
        [0.6524, 0.7012]
    """
    return (hash64(seed, *keys) >> np.uint64(11)).astype(np.float64) * np.float64(2.0**-53)


def _mix(z: np.uint64 | npt.NDArray[np.uint64]) -> np.uint64 | npt.NDArray[np.uint64]:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
