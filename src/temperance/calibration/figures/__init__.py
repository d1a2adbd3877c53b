"""Pictures of calibration: matplotlib axes in, axes out."""

from temperance.calibration.figures.look import OVER_CONFIDENT, UNDER_CONFIDENT
from temperance.calibration.figures.reliability import (
    reliability_before_after,
    reliability_diagram,
)

__all__ = [
    "OVER_CONFIDENT",
    "UNDER_CONFIDENT",
    "reliability_before_after",
    "reliability_diagram",
]
