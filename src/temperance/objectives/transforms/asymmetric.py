"""Asymmetric temperatures: one for the label's logit, one for all others (Li et al. 2022)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import PositiveFloat
from torch import Tensor

from temperance.config import Args
from temperance.rows import Rows


class AsymmetricArgs(Args):
    """Divide the label's logit by one temperature and the others by another."""

    needs_targets: ClassVar[bool] = True

    name: Literal["asymmetric"] = "asymmetric"
    target_softening: PositiveFloat = 4.0
    """τ of the label's logit."""
    other_softening: PositiveFloat = 2.0
    """τ of all others."""


def asymmetric(
    logits: Float[Tensor, "rows classes"], rows: Rows, args: AsymmetricArgs
) -> Float[Tensor, "rows classes"]:
    """z_y / τ_y and z_k / τ_o for k ≠ y ("Asymmetric Temperature Scaling Makes Larger Networks
    Teach Well Again", NeurIPS 2022, arXiv 2210.04427, eq. 5).

    Not invariant to a shift of a row's logits, unlike a softmax: it takes them as the model gives
    them.

    Examples:
        >>> rows = Rows(targets=torch.tensor([0]), ids=torch.tensor([0]))
        >>> args = AsymmetricArgs(target_softening=4.0, other_softening=2.0)
        >>> asymmetric(torch.tensor([[4.0, 2.0, -2.0]]), rows, args).tolist()
        [[1.0, 1.0, -1.0]]
    """
    assert rows.targets is not None
    softening = torch.full_like(logits, args.other_softening)
    softening.scatter_(1, rows.targets[:, None], args.target_softening)
    return logits / softening
