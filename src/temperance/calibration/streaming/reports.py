"""What streamed sums amount to."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from temperance.calibration.metrics.bins import ReliabilityBins


@dataclass(frozen=True, eq=False)
class TopLabelReport:
    """How well the predicted class's probability is calibrated; shares in 0..1, NLL in nats.

    A bound says how far a value may be from that of the one-shot metric, whose rows are forgotten.
    """

    n: int
    accuracy: float
    confidence: float
    """Mean probability of the predicted class."""
    gap: float
    """Mean confidence − accuracy: positive if over-confident; `ece_over − ece_under`."""
    nll: float
    ece: float
    ece_over: float
    ece_under: float
    mce: float
    rmsce: float
    smooth_ece: float
    smooth_ece_bound: float
    ks: float
    ks_bound: float
    bins: ReliabilityBins | None
    """None if some rows had weights."""

    def to_dict(self) -> dict[str, Any]:
        """What `json` can write; the means of empty bins are None."""
        record = asdict(self)
        if self.bins is not None:
            record["bins"] = {
                name: [None if np.isnan(value) else value for value in values.tolist()]
                for name, values in asdict(self.bins).items()
            }
        return record


@dataclass(frozen=True, eq=False)
class StreamingReport(TopLabelReport):
    """How well every class's probability is calibrated, too."""

    classes: int
    brier: float
    """In 0..2."""
    k: int
    """Of the top-k accuracy."""
    top_k_accuracy: float
    classwise_ece: float
    ace: float | None
    """None if some rows had weights: ACE takes none."""
    ace_bound: float | None
