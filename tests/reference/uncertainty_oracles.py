"""Slow, transparent NumPy oracles of intervals and floors, and models of known error."""

import math

import numpy as np
import torch
from scipy.optimize import brentq
from scipy.special import ndtr


def miscalibrated(rows, error, seed, size=1, correlation=0.5):
    """Logits of 4 classes that are over-confident by `error` in every row, targets, groups.

    Confidences lie in 0.4..0.95; hits of a group correlate by a latent normal.
    """
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(rows // size), size)
    confidence = rng.uniform(0.4, 0.95, rows)
    common = math.sqrt(correlation) if size > 1 else 0.0
    luck = common * rng.standard_normal(len(groups))[groups]
    luck = ndtr(luck + math.sqrt(1 - common**2) * rng.standard_normal(rows))
    predicted = rng.integers(0, 4, rows)
    probabilities = np.repeat((1 - confidence[:, None]) / 3, 4, axis=1)
    probabilities[np.arange(rows), predicted] = confidence
    other = (predicted + rng.integers(1, 4, rows)) % 4
    targets = np.where(luck < confidence - error, predicted, other)
    return torch.tensor(probabilities).log(), torch.tensor(targets), torch.tensor(groups)


def squared_error_interval(confidence, correct, n_bins, groups=None):
    """Ends of the interval of the squared ℓ₂ error; confidences differ, groups in every bin too."""
    n = len(confidence)
    groups = np.arange(n) if groups is None else groups
    order = np.argsort(confidence)
    blocks = np.array_split(order, n_bins)
    error = confidence - correct
    estimate = plug_in = 0.0
    scale = []
    covariance = np.zeros((n_bins, n_bins))
    sums = {g: np.zeros(n_bins) for g in groups}
    influence = dict.fromkeys(groups, 0.0)
    for b, block in enumerate(blocks):
        gap = error[block].mean()
        plug_in += len(block) / n * gap**2
        products = [error[i] * error[j] for i in block for j in block if groups[i] != groups[j]]
        estimate += len(block) / n * np.mean(products)
        scale.append(len(block) / n / len(products) * len(block) ** 2 / len(products))
        for i in block:
            sums[groups[i]][b] += error[i] - gap
            influence[groups[i]] += 2 * gap * (error[i] - gap) + gap**2
    for total in sums.values():
        covariance += np.outer(total, total)
    for b, block in enumerate(blocks):
        members = [np.sum(groups[block] == g) for g in set(groups[block])]
        least = np.sum(np.square(members)) / len(block)
        covariance[b, b] = max(covariance[b, b], least)
    constant = 2 * sum(
        scale[b] * scale[c] * covariance[b, c] ** 2 for b in range(n_bins) for c in range(n_bins)
    )
    rows_of = {g: int(np.sum(groups == g)) for g in influence}
    linear = sum((value - rows_of[g] * plug_in) ** 2 for g, value in influence.items()) / n**2

    estimate = max(estimate, 0)

    def too_far(truth):
        return (estimate - truth) ** 2 - 1.959963984540054**2 * (
            constant + linear * truth / plug_in
        )

    low = brentq(too_far, -1, estimate, xtol=1e-14) if too_far(-1) > 0 else -1.0
    return low, brentq(too_far, estimate, 3, xtol=1e-14)


def shared_luck(confidence, correct, groups, n_bins):
    """The larger of what bins of equal width and all confidences together show, pair by pair."""
    error, found = confidence - correct, []
    for bins in (np.ceil(confidence * n_bins), np.zeros(len(error))):
        covariance = at_most = 0.0
        for b in set(bins):
            rows = np.flatnonzero(bins == b)
            pairs = [(i, j) for i in rows for j in rows if i != j]
            together = [(i, j) for i, j in pairs if groups[i] == groups[j]]
            apart = [error[i] * error[j] for i, j in pairs if groups[i] != groups[j]]
            squared_gap = np.mean(apart) if apart else 0.0
            for i, j in together:
                c, d = confidence[i], confidence[j]
                covariance += error[i] * error[j] - squared_gap
                at_most += min(c, d) - c * d
        found.append(np.clip(covariance / at_most, 0, 1) if at_most else 0.0)
    return max(found)
