"""Slow, transparent NumPy oracles of the calibration metrics: loops over the definitions.

Every oracle has the name and the arguments of the metric that it checks, in NumPy arrays.
"""

import numpy as np


def margins(logits):
    """Logits less the row's largest; −inf for a masked class."""
    z = np.asarray(logits, dtype=np.float64)
    return z - z.max(1, keepdims=True)


def softmax(logits):
    e = np.exp(margins(logits))
    return e / e.sum(1, keepdims=True)


def log_softmax(logits):
    z = margins(logits)
    return z - np.log(np.exp(z).sum(1, keepdims=True))


def distributions(targets, classes):
    """Soft targets as they are, class indices one-hot."""
    targets = np.asarray(targets)
    return np.eye(classes)[targets] if targets.ndim == 1 else targets.astype(np.float64)


def ones_unless(weights, rows):
    return np.ones(rows) if weights is None else np.asarray(weights, dtype=np.float64)


def average(values, weights):
    weights = ones_unless(weights, len(values))
    return float(sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights))


# Events: how sure the model is, and whether it came true.


def top_label(logits, targets):
    """The first of the largest logits is predicted."""
    p = softmax(logits)
    truth = distributions(targets, p.shape[1])
    predicted = [int(np.argmax(row)) for row in np.asarray(logits)]
    hit = [row[k] for row, k in zip(truth, predicted, strict=True)]
    return p.max(1), np.array(hit)


def positive(logits, targets):
    """Class 1 of two."""
    return softmax(logits)[:, 1], distributions(targets, 2)[:, 1]


def top_k(logits, targets, k):
    """The k largest logits, ties in class order."""
    p = softmax(logits)
    confidence, hit = [], []
    for i, row in enumerate(np.asarray(logits)):
        chosen = sorted(range(len(row)), key=lambda j, row=row: (-row[j], j))[:k]
        confidence.append(min(sum(p[i, j] for j in chosen), 1.0))
        hit.append(float(targets[i] in chosen))
    return np.array(confidence), np.array(hit)


EVENTS = {"top_label": top_label, "positive": positive}


# Means over rows.


def accuracy(logits, targets, weights=None):
    return average(top_label(logits, targets)[1], weights)


def top_k_accuracy(logits, targets, weights=None, *, k=5):
    return average(top_k(logits, targets, k)[1], weights)


def negative_log_likelihood(logits, targets, weights=None):
    log_p = log_softmax(logits)
    truth = distributions(targets, log_p.shape[1])
    rows = [
        -sum(q * lp for q, lp in zip(qs, lps, strict=True) if q > 0)
        for qs, lps in zip(truth, log_p, strict=True)
    ]
    return average(rows, weights)


def brier_score(logits, targets, weights=None):
    p = softmax(logits)
    return average(((p - distributions(targets, p.shape[1])) ** 2).sum(1), weights)


# Bins of equal width: (k/M, (k+1)/M], 0 in the first.


def bins_of(confidence, hit, weights, n_bins):
    """Per bin that holds some weight: weight, mean confidence, frequency."""
    weights = ones_unless(weights, len(confidence))
    for k in range(n_bins):
        inside = (k / n_bins < confidence) & (confidence <= (k + 1) / n_bins)
        if k == 0:
            inside |= confidence == 0
        w = weights[inside]
        if w.sum() > 0:
            yield w.sum(), w @ confidence[inside] / w.sum(), w @ hit[inside] / w.sum()


def over_and_under(bins):
    bins = list(bins)
    total = sum(mass for mass, _, _ in bins)
    over = sum(mass * max(mean - frequency, 0) for mass, mean, frequency in bins)
    under = sum(mass * max(frequency - mean, 0) for mass, mean, frequency in bins)
    return float(over / total), float(under / total)


def expected_calibration_error(
    logits, targets, weights=None, *, n_bins=15, binning="equal_width", event="top_label"
):
    """Over- and under-confident share."""
    confidence, hit = EVENTS[event](logits, targets)
    if binning == "equal_width":
        return over_and_under(bins_of(confidence, hit, weights, n_bins))
    return over_and_under(equal_mass_bins(confidence, hit, n_bins))


def maximum_calibration_error(
    logits, targets, weights=None, *, n_bins=15, min_count=1, event="top_label"
):
    bins = bins_of(*EVENTS[event](logits, targets), weights, n_bins)
    gaps = [abs(mean - frequency) for mass, mean, frequency in bins if mass >= min_count]
    return max(gaps, default=0.0)


def root_mean_square_calibration_error(
    logits, targets, weights=None, *, n_bins=15, event="top_label"
):
    bins = list(bins_of(*EVENTS[event](logits, targets), weights, n_bins))
    squares = sum(mass * (mean - frequency) ** 2 for mass, mean, frequency in bins)
    return float(np.sqrt(squares / sum(mass for mass, _, _ in bins)))


def top_k_calibration_error(logits, targets, weights=None, *, k=5, n_bins=15):
    return over_and_under(bins_of(*top_k(logits, targets, k), weights, n_bins))


def reliability_bins(logits, targets, n_bins=15):
    """Count, mean confidence and accuracy of all bins, NaN where there is no row."""
    confidence, hit = top_label(logits, targets)
    columns = []
    for k in range(n_bins):
        inside = (k / n_bins < confidence) & (confidence <= (k + 1) / n_bins)
        n = inside.sum()
        columns.append(
            (n, confidence[inside].mean(), hit[inside].mean()) if n else (0, np.nan, np.nan)
        )
    return tuple(np.array(columns).T)


def classwise_calibration_error(logits, targets, weights=None, *, n_bins=15):
    p = softmax(logits)
    truth = distributions(targets, p.shape[1])
    errors = [
        sum(over_and_under(bins_of(p[:, k], truth[:, k], weights, n_bins)))
        for k in range(p.shape[1])
    ]
    return float(np.mean(errors))


# Bins of equal mass: the ranks cut as np.array_split cuts, tied rows share their hits.


def shared_by_ties(key, hit):
    """Each row's hit replaced by the mean over the rows of equal key."""
    _, group = np.unique(key, return_inverse=True)
    return (np.bincount(group, hit) / np.bincount(group))[group]


def equal_mass_bins(confidence, hit, n_bins, key=None):
    """Per block: rows, mean confidence, frequency; ranked by the key, if it is finer."""
    key = confidence if key is None else key
    shared = shared_by_ties(key, hit)
    order = np.argsort(key, kind="stable")
    for block in np.array_split(order, min(n_bins, len(order))):
        yield len(block), confidence[block].mean(), shared[block].mean()


def debiased_calibration_error(logits, targets, *, n_bins=15, event="top_label"):
    """The square, which may be negative."""
    confidence, hit = EVENTS[event](logits, targets)
    total = 0.0
    for n, mean, frequency in equal_mass_bins(confidence, hit, n_bins):
        if n > 1:
            total += n * ((mean - frequency) ** 2 - frequency * (1 - frequency) / (n - 1))
    return total / len(hit)


def adaptive_calibration_error(logits, targets, *, n_ranges=15):
    return thresholded_adaptive_calibration_error(
        logits, targets, n_ranges=n_ranges, threshold=-np.inf
    )


def thresholded_adaptive_calibration_error(logits, targets, *, n_ranges=15, threshold=0.01):
    p, log_p = softmax(logits), log_softmax(logits)
    truth = distributions(targets, p.shape[1])
    errors = []
    for k in range(p.shape[1]):
        kept = p[:, k] > threshold
        if not kept.any():
            errors.append(0.0)
            continue
        # probabilities that differ only in how far they underflow or saturate are no ties
        bins = equal_mass_bins(p[kept, k], truth[kept, k], n_ranges, key=log_p[kept, k])
        errors.append(np.mean([abs(mean - frequency) for _, mean, frequency in bins]))
    return float(np.mean(errors))


def pool_adjacent_violators(values, weights):
    """The non-decreasing sequence that is nearest in weighted squares."""
    blocks = []  # mean, weight, length
    for value, weight in zip(values, weights, strict=True):
        blocks.append((value, weight, 1))
        while len(blocks) > 1 and blocks[-2][0] >= blocks[-1][0]:
            (a, v, m), (b, w, n) = blocks[-2:]
            blocks[-2:] = [((a * v + b * w) / (v + w), v + w, m + n)]
    return np.concatenate([[value] * length for value, _, length in blocks])


def brier_decomposition(logits, targets):
    """Miscalibration, discrimination, uncertainty: one row of classes each."""
    p, log_p = softmax(logits), log_softmax(logits)
    truth = distributions(targets, p.shape[1])
    parts = []
    for k in range(p.shape[1]):
        _, group, size = np.unique(log_p[:, k], return_inverse=True, return_counts=True)
        means = np.bincount(group, truth[:, k]) / size
        recalibrated = pool_adjacent_violators(means, size)[group]
        score, best, constant = (
            np.mean((forecast - truth[:, k]) ** 2)
            for forecast in (p[:, k], recalibrated, truth[:, k].mean())
        )
        parts.append((score - best, constant - best, constant))
    return np.array(parts).T


# Errors without bins.


def smooth_calibration_error(
    logits, targets, weights=None, *, event="top_label", mesh=2048, steps=25
):
    """∫ |Σ surplus · K_σ(t, confidence)| dt with the kernel reflected, at σ equal to the result."""
    confidence, hit = EVENTS[event](logits, targets)
    weights = ones_unless(weights, len(hit))
    place, group = np.unique(confidence, return_inverse=True)
    surplus = np.bincount(group, weights * (confidence - hit)) / weights.sum()
    t = (np.arange(mesh) + 0.5) / mesh

    def error(bandwidth):
        # images of t in the mirrors at 0 and 1: 2 j + t and 2 j − t, as far as the kernel reaches
        reach = int(np.ceil(4 * bandwidth))
        kernel = np.zeros((mesh, len(place)))
        for j in range(-reach, reach + 1):
            for image in (2 * j + t, 2 * j - t):
                kernel += np.exp(-(((image[:, None] - place) / bandwidth) ** 2) / 2)
        kernel /= np.sqrt(2 * np.pi) * bandwidth
        return float(np.mean(np.abs(kernel @ surplus)))

    low, high = 0.0, 1.0
    for _ in range(steps):
        middle = (low + high) / 2
        low, high = (middle, high) if error(middle) > middle else (low, middle)
    return high


def ks_calibration_error(logits, targets, weights=None, *, event="top_label"):
    confidence, hit = EVENTS[event](logits, targets)
    weights = ones_unless(weights, len(hit))
    running, largest = 0.0, 0.0
    _, group = np.unique(confidence, return_inverse=True)
    for surplus in np.bincount(group, weights * (confidence - hit)):
        running += surplus
        largest = max(largest, abs(running))
    return float(largest / weights.sum())


def area_under_risk_coverage(logits, targets):
    confidence, hit = top_label(logits, targets)
    wrong = shared_by_ties(confidence, 1 - hit)
    running, risks = 0.0, []
    for n, i in enumerate(np.argsort(-confidence, kind="stable"), start=1):
        running += wrong[i]
        risks.append(running / n)
    return float(np.mean(risks))
