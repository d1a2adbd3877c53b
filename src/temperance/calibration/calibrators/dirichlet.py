"""Dirichlet calibration: a linear map of the log-probabilities (Kull et al. 2019)."""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float
from torch import Tensor

from temperance.calibration.calibrators.matrix import MatrixScaling, OffDiagonalArgs


class DirichletArgs(OffDiagonalArgs):
    """Dirichlet calibration."""

    name: Literal["dirichlet"] = "dirichlet"


class DirichletCalibration(MatrixScaling):
    """W log softmax(z) + b: `MatrixScaling` of the log-probabilities, with the same penalty.

    Unlike matrix scaling it does not see by how much all logits of a row are shifted. Of two
    classes it is beta calibration with other bounds.
    """

    name = "dirichlet"
    args_class = DirichletArgs

    def inputs(self, logits: Float[Tensor, "rows classes"]) -> Float[Tensor, "rows classes"]:
        """The log-probabilities."""
        return super().inputs(logits).log_softmax(1)
