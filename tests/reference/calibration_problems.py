"""Small problems on which a metric may fail, and every metric of calibration to try on them."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from temperance.calibration import metrics

modest = settings(max_examples=40, deadline=None)

# Coarse, so that logits tie, rows are flat, and the softmax saturates. No row of these lies in
# [0, 1] and sums to 1: it would look like probabilities.
GRID = (-200.0, -2.0, -1.0, 0.0, 0.75, 1.5, 3.0, 90.0)
SHIFTS = (0.0, 8.0, -8.0)  # exact in float32, so shifted rows tie exactly
NEGLIGIBLE = 50.0  # so far below the maximum a class adds nothing to the float64 sum


class Problem(NamedTuple):
    logits: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor | None


@st.composite
def problems(draw, *, classes=None, masked=True, soft=False, weighted=False, distinct=False):
    """A few different rows, repeated and shifted.

    Probabilities that are equal on paper are then equal in floating point too, whatever the order
    of summation: a metric and its oracle see the same ties.

    Args:
        classes: how many, drawn if None.
        masked: whether some logits may be −inf.
        soft: whether targets may be distributions.
        weighted: whether there may be weights.
        distinct: whether the logits of a row have to differ.
    """
    classes = draw(st.integers(2, 6)) if classes is None else classes
    values = st.sampled_from((*GRID, -math.inf) if masked else GRID)
    row = st.lists(values, min_size=classes, max_size=classes, unique=distinct)
    bank = draw(st.lists(row.filter(lambda r: max(r) > -math.inf), min_size=1, max_size=8))
    bank = np.array(without_rounded_ties(bank), dtype=np.float32)
    rows = draw(st.integers(1, 25))
    index = draw(hnp.arrays(np.int64, rows, elements=st.integers(0, len(bank) - 1)))
    shift = draw(hnp.arrays(np.float32, rows, elements=st.sampled_from(SHIFTS)))
    logits = bank[index] + shift[:, None]
    if soft and draw(st.booleans()):
        shares = hnp.arrays(np.float64, logits.shape, elements=st.sampled_from([0.0, 1.0, 3.0]))
        targets = draw(shares) * np.isfinite(logits)
        targets[targets.sum(1) == 0] = np.isfinite(logits)[targets.sum(1) == 0]
        targets /= targets.sum(1, keepdims=True)
    else:
        drawn = draw(hnp.arrays(np.int64, rows, elements=st.integers(0, classes - 1)))
        allowed = [np.flatnonzero(np.isfinite(values)) for values in logits]
        targets = np.array([own[k % len(own)] for own, k in zip(allowed, drawn, strict=True)])
    weights = None
    if weighted and draw(st.booleans()):
        elements = st.sampled_from([0.0, 0.5, 1.0, 3.0])
        weights = draw(hnp.arrays(np.float32, rows, elements=elements).filter(np.any))
    return Problem(
        torch.from_numpy(logits),
        torch.from_numpy(targets),
        None if weights is None else torch.from_numpy(weights),
    )


def without_rounded_ties(rows):
    """Rows whose softmax has the same terms in another order are dropped, if rounding may tell."""
    seen, kept = set(), []
    for row in rows:
        terms = tuple(sorted(value - max(row) for value in row if max(row) - value < NEGLIGIBLE))
        if len(terms) <= 2 or terms not in seen:  # a + b is b + a, but with three terms
            kept.append(row)
        seen.add(terms)
    return kept


class Metric(NamedTuple):
    """A public metric, with what it takes."""

    function: Callable[..., Any]
    weighted: bool = False
    soft: bool = False

    def numbers(self, *problem):
        """Whatever it returns, as one flat array."""
        value = self.function(*problem)
        if isinstance(value, metrics.ReliabilityBins):
            value = (value.count, value.confidence, value.accuracy)
        return np.nan_to_num(np.hstack(list(value) if isinstance(value, tuple) else [value]))


METRICS = {
    "accuracy": Metric(metrics.accuracy, weighted=True, soft=True),
    "top_k_accuracy": Metric(partial(metrics.top_k_accuracy, k=2), weighted=True),
    "negative_log_likelihood": Metric(metrics.negative_log_likelihood, weighted=True, soft=True),
    "brier_score": Metric(metrics.brier_score, weighted=True, soft=True),
    "brier_decomposition": Metric(metrics.brier_decomposition),
    "expected_calibration_error": Metric(
        metrics.expected_calibration_error, weighted=True, soft=True
    ),
    "expected_calibration_error, equal mass": Metric(
        partial(metrics.expected_calibration_error, binning="equal_mass"), soft=True
    ),
    "maximum_calibration_error": Metric(
        partial(metrics.maximum_calibration_error, min_count=0), weighted=True, soft=True
    ),
    "root_mean_square_calibration_error": Metric(
        metrics.root_mean_square_calibration_error, weighted=True, soft=True
    ),
    "debiased_calibration_error": Metric(metrics.debiased_calibration_error),
    "top_k_calibration_error": Metric(partial(metrics.top_k_calibration_error, k=2), weighted=True),
    "reliability_bins": Metric(metrics.reliability_bins),
    "classwise_calibration_error": Metric(
        metrics.classwise_calibration_error, weighted=True, soft=True
    ),
    "adaptive_calibration_error": Metric(metrics.adaptive_calibration_error),
    "thresholded_adaptive_calibration_error": Metric(
        metrics.thresholded_adaptive_calibration_error
    ),
    "smooth_calibration_error": Metric(metrics.smooth_calibration_error, weighted=True, soft=True),
    "ks_calibration_error": Metric(metrics.ks_calibration_error, weighted=True, soft=True),
    "area_under_risk_coverage": Metric(metrics.area_under_risk_coverage, soft=True),
}
WEIGHTED = {name: metric for name, metric in METRICS.items() if metric.weighted}
