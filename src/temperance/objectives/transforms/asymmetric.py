"""Asymmetric temperatures: one for the label's logit, one for all others (Li et al. 2022)."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from pydantic import PositiveFloat
from torch import Tensor

from temperance.objectives.transforms.settings import TransformSettings
from temperance.rows import Rows


class AsymmetricArgs(TransformSettings):
    """Divide the label's logit by one temperature and the others by another.

    The defaults are those of the authors' MindSpore code, where the student has no softening; in
    the paper and the PyTorch code both are searched.
    """

    needs_targets = True

    name: Literal["asymmetric"] = "asymmetric"
    target_softening: PositiveFloat = 4.0
    """τ of the label's logit."""
    other_softening: PositiveFloat = 2.0
    """τ of all others."""


def asymmetrically_softened(
    logits: Float[Tensor, "rows classes"], rows: Rows, args: AsymmetricArgs
) -> Float[Tensor, "rows classes"]:
    """z_y / τ₁ and z_k / τ₂ for k ≠ y: asymmetric temperature scaling, with τ₁ > τ₂.

    From "Asymmetric Temperature Scaling Makes Larger Networks Teach Well Again" (Li et al.,
    NeurIPS 2022, arXiv 2210.04427), where a softmax of these is the target; τ₁ and τ₂ are
    `tp_tau` and `t_tau` in the published code. There nothing softens on top: their method is the
    objective `ats`, or `kd` with this transform, `softening=1`, `weight=0.5` and
    `label_weight=0.5` (up to the target's entropy, which has no gradient).

    Not invariant to a shift of a row's logits, unlike a softmax: it takes them as the model gives
    them.

    Examples:
        >>> rows = Rows(targets=torch.tensor([0]), ids=torch.tensor([0]))
        >>> args = AsymmetricArgs(target_softening=4.0, other_softening=2.0)
        >>> asymmetrically_softened(torch.tensor([[4.0, 2.0, -2.0]]), rows, args).tolist()
        [[1.0, 1.0, -1.0]]
    """
    assert rows.targets is not None
    softening = torch.full_like(logits, args.other_softening)
    softening.scatter_(1, rows.targets[:, None], args.target_softening)
    return logits / softening
