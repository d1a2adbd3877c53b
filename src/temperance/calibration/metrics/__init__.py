"""What a calibration can be measured by: pure functions from logits and targets to numbers."""

from temperance.calibration.metrics.binned import (
    debiased_calibration_error as debiased_calibration_error,
)
from temperance.calibration.metrics.binned import (
    expected_calibration_error as expected_calibration_error,
)
from temperance.calibration.metrics.binned import (
    maximum_calibration_error as maximum_calibration_error,
)
from temperance.calibration.metrics.binned import (
    reliability_bins as reliability_bins,
)
from temperance.calibration.metrics.binned import (
    root_mean_square_calibration_error as root_mean_square_calibration_error,
)
from temperance.calibration.metrics.binned import (
    top_k_calibration_error as top_k_calibration_error,
)
from temperance.calibration.metrics.bins import (
    CalibrationError as CalibrationError,
)
from temperance.calibration.metrics.bins import (
    DebiasedError as DebiasedError,
)
from temperance.calibration.metrics.bins import (
    ReliabilityBins as ReliabilityBins,
)
from temperance.calibration.metrics.bins import (
    bin_index as bin_index,
)
from temperance.calibration.metrics.bins import (
    binned_error as binned_error,
)
from temperance.calibration.metrics.bins import (
    bins_of as bins_of,
)
from temperance.calibration.metrics.checks import check_logits as check_logits
from temperance.calibration.metrics.chunks import row_chunks as row_chunks
from temperance.calibration.metrics.classwise import (
    classwise_calibration_error as classwise_calibration_error,
)
from temperance.calibration.metrics.ranked import (
    adaptive_calibration_error as adaptive_calibration_error,
)
from temperance.calibration.metrics.ranked import (
    cut_ranges as cut_ranges,
)
from temperance.calibration.metrics.scores import (
    RowScores as RowScores,
)
from temperance.calibration.metrics.scores import (
    accuracy as accuracy,
)
from temperance.calibration.metrics.scores import (
    brier_score as brier_score,
)
from temperance.calibration.metrics.scores import (
    negative_log_likelihood as negative_log_likelihood,
)
from temperance.calibration.metrics.scores import (
    score_rows as score_rows,
)
from temperance.calibration.metrics.scores import (
    top_k_accuracy as top_k_accuracy,
)
from temperance.calibration.metrics.scores import (
    weighted_mean as weighted_mean,
)
