"""What a map from logits to logits has to mind when it is applied: classes, precision, masks."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from temperance.errors import UserError


def check_class_count(logits: Float[Tensor, "rows classes"], fitted: int) -> None:
    """Refuse logits of another number of classes than the calibrator was fitted on.

    Raises:
        UserError: if they have.
    """
    if logits.shape[1] != fitted:
        raise UserError(
            f"have {logits.shape[1]} classes, but the calibrator was fitted on {fitted}",
            where="logits",
            mend="Fit one for this model",
        )


def widened(logits: Float[Tensor, "rows classes"]) -> Float[Tensor, "rows classes"]:
    """The logits in float32, or in float64 if that is what they are."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def narrowed(
    calibrated: Float[Tensor, "rows classes"], logits: Float[Tensor, "rows classes"]
) -> Float[Tensor, "rows classes"]:
    """Calibrated logits in the dtype of the logits, finite but for the masked classes: −inf."""
    limits = torch.finfo(logits.dtype)
    finite = calibrated.clamp(limits.min, limits.max).to(logits.dtype)
    return finite.masked_fill(logits == -torch.inf, -torch.inf)
