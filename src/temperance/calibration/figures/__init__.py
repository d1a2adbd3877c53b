"""Pictures of calibration: matplotlib axes in, axes out.

What a picture shows is computed first, by a function without a picture: `reliability_bins`,
`classwise_bins`, `smooth_reliability_curve`, `sweep_temperature`.
"""

from temperance.calibration.figures.classwise import classwise_bins, classwise_grid
from temperance.calibration.figures.look import OVER_CONFIDENT, UNDER_CONFIDENT
from temperance.calibration.figures.reliability import (
    consistency_band,
    reliability_before_after,
    reliability_diagram,
)
from temperance.calibration.figures.smooth import (
    SmoothReliability,
    smooth_reliability,
    smooth_reliability_curve,
)
from temperance.calibration.figures.sweep import (
    TemperatureSweep,
    sweep_temperature,
    temperature_sweep,
)

__all__ = [
    "OVER_CONFIDENT",
    "UNDER_CONFIDENT",
    "SmoothReliability",
    "TemperatureSweep",
    "classwise_bins",
    "classwise_grid",
    "consistency_band",
    "reliability_before_after",
    "reliability_diagram",
    "smooth_reliability",
    "smooth_reliability_curve",
    "sweep_temperature",
    "temperature_sweep",
]
