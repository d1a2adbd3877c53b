"""Vector scaling: a scale and a bias of each class (Guo et al. 2017, §4.2)."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from pydantic import PositiveFloat
from torch import Tensor

from temperance.calibration.calibrators.linear import LinearScaling
from temperance.config import Args


class VectorArgs(Args):
    """Vector scaling."""

    name: Literal["vector"] = "vector"
    scale: PositiveFloat = 1.0
    """Penalty on the mean over classes of (scale − 1)², relative to the mean NLL."""
    intercept: PositiveFloat = 0.1
    """Penalty on the mean over classes of the squared bias."""


class VectorScaling(LinearScaling):
    """scale_k · z_k / T + bias_k for each class k; see `LinearScaling`.

    Guo et al. fit without a penalty; here one draws towards temperature scaling, without which a
    class that no target has would be scaled to infinity. As strong as it is by default, 1,000 rows
    of 100 classes end near temperature scaling.

    Examples:
        >>> logits = torch.tensor([[2.0, 0.0], [0.0, 2.0]]).repeat(50, 1)
        >>> targets = (torch.arange(100) % 10 > 2).long()
        >>> calibrator = VectorScaling().fit(logits, targets)
        >>> calibrator.bias > 0  # the second class is more frequent than predicted
        tensor([False,  True])
    """

    name = "vector"
    args_class = VectorArgs
    has_matrix = False
    args: VectorArgs

    def penalties(self, classes: int) -> Float[Tensor, "classes parameters"]:
        """On the scale, then on the bias of each class."""
        penalties = torch.tensor([[self.args.scale, self.args.intercept]], dtype=torch.float64)
        return penalties.expand(classes, 2) / classes
