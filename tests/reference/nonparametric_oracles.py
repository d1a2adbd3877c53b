"""Slow, transparent oracles of the non-parametric calibrators: loops over the definitions."""

from fractions import Fraction

import numpy as np
from scipy.optimize import minimize_scalar
from sklearn.isotonic import IsotonicRegression


def softmax(logits):
    z = np.asarray(logits, dtype=np.float64)
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def normalised(answers):
    return answers / answers.sum(1, keepdims=True)


def open_rows(logits, k):
    """Rows in which class k is not masked."""
    return [i for i in range(len(logits)) if logits[i, k] != -np.inf]


def isotonic(logits, targets, weights, at, slope):
    """scikit-learn's isotonic regression of each class, plus slope · p."""
    p, answers = softmax(logits), slope * softmax(at)
    for k in range(p.shape[1]):
        rows = open_rows(logits, k)
        regression = IsotonicRegression(out_of_bounds="clip")
        regression.fit(p[rows, k], np.asarray(targets)[rows] == k, sample_weight=weights[rows])
        answers[:, k] += np.where(at[:, k] == -np.inf, 0, regression.predict(softmax(at)[:, k]))
    return normalised(answers)


def irm(logits, targets, weights, at, slope):
    """Pool all pairs of rows and classes, pool adjacent violators, add slope · p, normalise."""
    p = softmax(logits)
    pairs = {}
    for i in range(len(p)):
        for k in range(p.shape[1]):
            if logits[i, k] != -np.inf:
                hit, mass = pairs.get(p[i, k], (0, 0))
                pairs[p[i, k]] = (hit + weights[i] * (targets[i] == k), mass + weights[i])
    blocks = []  # lowest and highest probability, hits, mass
    for value in sorted(pairs):
        blocks.append([value, value, *pairs[value]])
        while len(blocks) > 1 and (blocks[-2][2] / blocks[-2][3] >= blocks[-1][2] / blocks[-1][3]):
            _, highest, hit, mass = blocks.pop()
            blocks[-1] = [blocks[-1][0], highest, blocks[-1][2] + hit, blocks[-1][3] + mass]
    position = [value for block in blocks for value in block[:2]]
    frequency = [block[2] / block[3] for block in blocks for _ in range(2)]
    answers = np.interp(softmax(at), position, frequency) + slope * softmax(at)
    return normalised(np.where(at == -np.inf, 0, answers))


def histogram(logits, targets, weights, at, slope, bins, binning):
    """How often each class is the target in (lower, upper], plus slope · p, normalised."""
    p, new = softmax(logits), softmax(at)
    answers = slope * new
    for k in range(p.shape[1]):
        rows = open_rows(logits, k)
        borders = (
            [j / bins for j in range(1, bins)]
            if binning == "equal_width"
            else equal_mass_borders(p[rows, k], weights[rows], bins)
        )
        for i in range(len(new)):
            mine = bin_of(new[i, k], borders)
            inside = [row for row in rows if bin_of(p[row, k], borders) == mine]
            mass = sum(weights[row] for row in inside)
            hits = sum(weights[row] for row in inside if targets[row] == k)
            if at[i, k] != -np.inf:
                answers[i, k] += hits / mass if mass else (mine + 0.5) / bins
    return normalised(answers)


def bin_of(value, borders):
    return sum(border < value for border in borders)


def equal_mass_borders(values, weights, bins):
    """Midway from the first value up to which j / bins of the mass lie to the next."""
    exact = [Fraction(float(weight)) for weight in weights]
    borders = []
    for j in range(1, bins):
        for value in sorted(set(values)):
            below = sum(w for v, w in zip(values, exact, strict=True) if v <= value)
            if below * bins >= sum(exact) * j:
                above = [other for other in values if other > value]
                borders.append((value + min(above)) / 2 if above else np.inf)
                break
    return borders


def mixture(logits, targets, weights):
    """T by bounded search, then the w that is likeliest; both by brute force."""

    def nll(temperature, w):
        p = softmax(np.asarray(logits) / temperature)[np.arange(len(targets)), targets]
        likelihood = (1 - w) * p + w / logits.shape[1]
        return -np.average(np.log(likelihood), weights=weights)

    options = {"bounds": (-3, 3), "method": "bounded", "options": {"xatol": 1e-10}}
    temperature = np.exp(minimize_scalar(lambda u: nll(np.exp(u), 0), **options).x)
    n = len(targets)
    options = {**options, "bounds": (1 / (n + 1), n / (n + 1))}
    return temperature, minimize_scalar(lambda w: nll(temperature, w), **options).x


def paired_standard_error(difference, weights, groups):
    """Of a weighted mean: root of the sum over groups of (Σ w · deviation)², over Σ w."""
    mean = np.average(difference, weights=weights)
    total = 0.0
    for group in set(groups.tolist()):
        total += (
            sum(weights[i] * (difference[i] - mean) for i in np.flatnonzero(groups == group)) ** 2
        )
    return np.sqrt(total) / sum(weights)
