"""Slow, transparent oracles of streamed sums: quantise the probabilities, then the definition."""

import numpy as np

from reference.calibration_oracles import distributions, equal_mass_bins, ones_unless


def upper_edges(size, n_bins, floor=1e-12):
    """Cells of equal width in log p, cut at k / n_bins."""
    spaced = {floor ** ((size - k) / size) for k in range(1, size + 1)}
    return sorted(spaced | {k / n_bins for k in range(1, n_bins)})


def cell_of(value, edges):
    """Cells are (lower, upper], the first closed at 0."""
    return sum(edge < value for edge in edges)


def quantised(values, edges, weights=None):
    """Every value replaced by the mean of those in its cell."""
    weights = ones_unless(weights, len(values))
    cell = np.array([cell_of(value, edges) for value in values])
    result = np.empty(len(values))
    for k in set(cell[weights > 0]):
        inside = cell == k
        result[inside] = np.average(values[inside], weights=weights[inside])
    result[weights == 0] = values[weights == 0]
    return result


def adaptive_calibration_error(probabilities, targets, n_ranges):
    """Nixon's, of probabilities that need not sum to 1."""
    truth = distributions(targets, probabilities.shape[1])
    return float(
        np.mean(
            [
                np.mean([abs(mean - frequency) for _, mean, frequency in bins])
                for k in range(probabilities.shape[1])
                for bins in [list(equal_mass_bins(probabilities[:, k], truth[:, k], n_ranges))]
            ]
        )
    )
