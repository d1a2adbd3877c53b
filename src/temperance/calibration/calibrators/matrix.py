"""Matrix scaling: every class from all logits (Guo et al. 2017, §4.2; ODIR: Kull et al. 2019)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import PositiveFloat
from torch import Tensor

from temperance.calibration.calibrators.linear import LinearScaling
from temperance.config import Args
from temperance.errors import UserError


class OffDiagonalArgs(Args):
    """Off-diagonal and intercept regularisation (ODIR)."""

    off_diagonal: PositiveFloat | None = None
    """λ, on the mean of the squared off-diagonal weights, relative to the mean NLL; by default
    0.1 · classes · (classes − 1), which is 0.1 on the square of each."""
    intercept: PositiveFloat = 0.1
    """μ, on the mean of the squared biases."""
    diagonal: PositiveFloat = 1.0
    """On the mean of (diagonal weight − 1)². Not in ODIR; without it a class that no target
    has would be scaled to infinity."""


class MatrixArgs(OffDiagonalArgs):
    """Matrix scaling."""

    name: Literal["matrix"] = "matrix"


class MatrixScaling(LinearScaling):
    """W z / T + b with a full matrix W; see `LinearScaling`.

    λ · mean of the squared off-diagonal weights + μ · mean of the squared biases is added to the
    mean NLL (ODIR: Kull et al. 2019, §4), since classes² weights fit the noise of any split. As
    strong as λ is by default, 1,000 rows of 100 classes end near temperature scaling; their authors
    choose λ and μ anew for every data set by cross-validation.

    Every class mixes with all others, so a row with masked classes is refused.

    Examples:
        >>> logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 2.0, 1.0]]).repeat(50, 1)
        >>> calibrator = MatrixScaling().fit(logits, torch.arange(100) % 20 % 3)
        >>> calibrator.weight.shape, calibrator.bias.shape
        (torch.Size([3, 3]), torch.Size([3]))
    """

    name = "matrix"
    args_class: ClassVar[type[Args]] = MatrixArgs
    has_matrix = True
    args: OffDiagonalArgs

    def scores(self, tempered: Float[Tensor, "rows classes"]) -> Float[Tensor, "rows classes"]:
        """The logits / T.

        Raises:
            UserError: if a class is masked.
        """
        if bool((tempered == -torch.inf).any()):
            raise UserError(
                f"{type(self).__name__} mixes all classes, but some are masked (-inf)",
                where="logits",
                mend="Use one that keeps them apart, such as vector or temperature",
            )
        return tempered

    def penalties(self, classes: int) -> Float[Tensor, "classes parameters"]:
        """On the weights, then on the bias of each class."""
        pairs = classes * (classes - 1)
        off_diagonal = self.args.off_diagonal or 0.1 * pairs
        penalties = torch.full((classes, classes + 1), off_diagonal / pairs, dtype=torch.float64)
        penalties.fill_diagonal_(self.args.diagonal / classes)
        penalties[:, -1] = self.args.intercept / classes
        return penalties
