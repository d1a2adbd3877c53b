"""Slow, transparent NumPy oracles of what the pictures of calibration show."""

import itertools

import numpy as np

from reference.calibration_oracles import softmax


def class_bins(logits, targets, label, n_bins):
    """Count, mean probability and frequency of a class in bins of its probability."""
    probability = softmax(logits)[:, label]
    edges = np.arange(n_bins + 1) / n_bins
    rows = []
    for low, high in itertools.pairwise(edges):
        inside = (probability > low) & (probability <= high)
        if low == 0:
            inside |= probability == 0
        own = np.asarray(targets)[inside] == label
        rows.append((inside.sum(), probability[inside], own))
    count = np.array([row[0] for row in rows])
    confidence = np.array([row[1].mean() if len(row[1]) else np.nan for row in rows])
    frequency = np.array([row[2].mean() if len(row[2]) else np.nan for row in rows])
    return count, confidence, frequency


def reflected_kernel(at, confidence, bandwidth):
    """The Gaussian kernel reflected at 0 and 1, as a sum over mirror images."""
    weight = np.zeros((len(at), len(confidence)))
    for turn in range(-4, 5):
        for image in (2 * turn + confidence, 2 * turn - confidence):
            distance = (at[:, None] - image[None, :]) / bandwidth
            weight += np.exp(-(distance**2) / 2)
    return weight / (bandwidth * np.sqrt(2 * np.pi))


def smooth_curve(at, confidence, hit, bandwidth):
    """Density, mean confidence and accuracy of the rows around each point."""
    weight = reflected_kernel(at, confidence, bandwidth)
    total = weight.sum(1)
    return total / len(confidence), weight @ confidence / total, weight @ hit / total
