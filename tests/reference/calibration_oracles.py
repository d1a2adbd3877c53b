"""Slow, transparent NumPy oracles of the calibration metrics: loops over the definitions."""

import numpy as np


def softmax(logits):
    z = np.asarray(logits, dtype=np.float64)
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def accuracy(logits, targets):
    return float(np.mean([np.argmax(row) == y for row, y in zip(logits, targets, strict=True)]))


def nll(logits, targets):
    return float(-np.mean(np.log(softmax(logits)[np.arange(len(targets)), targets])))


def brier(logits, targets):
    total = 0.0
    for p, y in zip(softmax(logits), targets, strict=True):
        total += sum((p[k] - (k == y)) ** 2 for k in range(len(p)))
    return total / len(targets)


def ece(confidence, correct, n_bins=15, weights=None):
    """Over- and under-confident share; bins (k/M, (k+1)/M], 0 in the first."""
    weights = np.ones(len(confidence)) if weights is None else weights
    over = under = 0.0
    for k in range(n_bins):
        inside = [
            i
            for i, c in enumerate(confidence)
            if (k / n_bins < c <= (k + 1) / n_bins) or (k == 0 and c == 0)
        ]
        mass = sum(weights[i] for i in inside)
        if mass == 0:
            continue
        mean_confidence = sum(weights[i] * confidence[i] for i in inside) / mass
        mean_accuracy = sum(weights[i] * correct[i] for i in inside) / mass
        over += mass * max(mean_confidence - mean_accuracy, 0)
        under += mass * max(mean_accuracy - mean_confidence, 0)
    return over / sum(weights), under / sum(weights)


def ace(probabilities, targets, n_ranges=15):
    """Nixon's ACE; each row gets the mean indicator of the rows of equal probability."""
    rows, classes = probabilities.shape
    total, terms = 0.0, 0
    for k in range(classes):
        p = probabilities[:, k]
        indicator = (np.asarray(targets) == k).astype(float)
        shared = np.array([indicator[p == value].mean() for value in p])
        order = np.argsort(p, kind="stable")
        for block in np.array_split(order, min(n_ranges, rows)):
            total += abs(shared[block].mean() - p[block].mean())
            terms += 1
    return total / terms
