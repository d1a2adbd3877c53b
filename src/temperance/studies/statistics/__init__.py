"""What a study's numbers say: functions of arrays, one file per question."""

from temperance.studies.statistics.alignment import Alignment, alignment_of
from temperance.studies.statistics.crossed import CrossedVariance, crossed_variance
from temperance.studies.statistics.family_bootstrap import Estimate
from temperance.studies.statistics.mixed import MixedEffect, mixed_effect
from temperance.studies.statistics.optimum import Optimum, softening_optimum
from temperance.studies.statistics.paired import (
    FEWEST,
    PairedDifference,
    geometric_mean,
    paired_difference,
    required,
)
from temperance.studies.statistics.units import CommonCurve, common_curve

__all__ = [
    "FEWEST",
    "Alignment",
    "CommonCurve",
    "CrossedVariance",
    "Estimate",
    "MixedEffect",
    "Optimum",
    "PairedDifference",
    "alignment_of",
    "common_curve",
    "crossed_variance",
    "geometric_mean",
    "mixed_effect",
    "paired_difference",
    "required",
    "softening_optimum",
]
