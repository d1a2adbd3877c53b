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
    """W log softmax(z / T) + b: `MatrixScaling` of the log-probabilities, with the same penalty.

    Unlike matrix scaling it does not see by how much all logits of a row are shifted. Kull et al.
    take the log-probabilities as they are, T = 1. Of two classes this is beta calibration without
    its bounds.
    """

    name = "dirichlet"
    args_class = DirichletArgs

    def scores(self, tempered: Float[Tensor, "rows classes"]) -> Float[Tensor, "rows classes"]:
        """The log-probabilities after temperature scaling."""
        return super().scores(tempered).log_softmax(1)
