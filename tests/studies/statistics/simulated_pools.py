"""Pools of teachers with known correlations over and within families."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

EVEN, UNEVEN = (3,) * 8, (1, 1, 1, 2, 2, 3, 5, 9)


def simulated_pool(
    rng: np.random.Generator, sizes: Sequence[int], correlations: np.ndarray, icc: float
) -> tuple[np.ndarray, np.ndarray]:
    """Normal variables (teachers × variables) of families of these sizes, and the families.

    The correlations hold between families and within them, so also over all teachers; a share
    `icc` of each variance is the family's.
    """
    families = np.repeat(np.arange(len(sizes)), sizes)
    root = np.linalg.cholesky(correlations)
    shared = rng.standard_normal((len(sizes), len(root))) @ root.T
    own = rng.standard_normal((len(families), len(root))) @ root.T
    return np.sqrt(icc) * shared[families] + np.sqrt(1 - icc) * own, families


def correlated(r: float) -> np.ndarray:
    """The correlation matrix of two variables."""
    return np.array([[1, r], [r, 1]])
