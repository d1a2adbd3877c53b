"""What a study's numbers say: functions of arrays, one file per question."""

from temperance.studies.statistics.paired import (
    FEWEST,
    PairedDifference,
    geometric_mean,
    paired_difference,
    required,
)

__all__ = ["FEWEST", "PairedDifference", "geometric_mean", "paired_difference", "required"]
