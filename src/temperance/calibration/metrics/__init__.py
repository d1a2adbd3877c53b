"""What a calibration can be measured by: pure functions from logits and targets to numbers."""

from temperance.calibration.metrics.binned import (
    debiased_calibration_error,
    expected_calibration_error,
    maximum_calibration_error,
    reliability_bins,
    root_mean_square_calibration_error,
    top_k_calibration_error,
)
from temperance.calibration.metrics.bins import CalibrationError, DebiasedError, ReliabilityBins
from temperance.calibration.metrics.checks import check_groups, check_logits
from temperance.calibration.metrics.classwise import classwise_calibration_error
from temperance.calibration.metrics.ranked import (
    BrierDecomposition,
    adaptive_calibration_error,
    brier_decomposition,
    thresholded_adaptive_calibration_error,
)
from temperance.calibration.metrics.scores import (
    accuracy,
    brier_score,
    negative_log_likelihood,
    top_k_accuracy,
)
from temperance.calibration.metrics.selective import area_under_risk_coverage
from temperance.calibration.metrics.smooth import ks_calibration_error, smooth_calibration_error
from temperance.calibration.metrics.truth import TruthDistance, distance_to_truth

__all__ = [
    "BrierDecomposition",
    "CalibrationError",
    "DebiasedError",
    "ReliabilityBins",
    "TruthDistance",
    "accuracy",
    "adaptive_calibration_error",
    "area_under_risk_coverage",
    "brier_decomposition",
    "brier_score",
    "check_groups",
    "check_logits",
    "classwise_calibration_error",
    "debiased_calibration_error",
    "distance_to_truth",
    "expected_calibration_error",
    "ks_calibration_error",
    "maximum_calibration_error",
    "negative_log_likelihood",
    "reliability_bins",
    "root_mean_square_calibration_error",
    "smooth_calibration_error",
    "thresholded_adaptive_calibration_error",
    "top_k_accuracy",
    "top_k_calibration_error",
]
