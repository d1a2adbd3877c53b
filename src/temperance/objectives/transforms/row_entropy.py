"""Rows softened one by one to a given entropy: the teacher's confidence replaced."""

from __future__ import annotations

import math
from typing import Literal, Self

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import PositiveFloat, model_validator
from torch import Tensor

from temperance.data.hashing import Purpose, hash64
from temperance.errors import UserError
from temperance.objectives.transforms.settings import TransformSettings
from temperance.rows import Rows

# Of the bisection: the bracket is at most e⁸² wide, and an entropy changes by less than (log K)²
# nats where the scale changes by a factor e, so this leaves an error below 1e-9 nats.
_STEPS = 44


class RowEntropyArgs(TransformSettings):
    """Give every row another entropy: the same one, or another row's.

    With `shuffled`, and with `equal` at the batch's mean, a row's target depends on its batch: the
    losses of a method that is row-wise otherwise no longer are.
    """

    name: Literal["row-entropy"] = "row-entropy"
    mode: Literal["equal", "shuffled"] = "equal"
    """`equal`: all rows get one entropy; `shuffled`: the rows' own are exchanged in the batch."""
    entropy: PositiveFloat | None = None
    """What all rows get with `equal`, in nats; null: the mean of the batch's own."""

    @property
    def compares_rows(self) -> bool:
        """Unless every row gets a given entropy."""
        return self.entropy is None

    @model_validator(mode="after")
    def _entropy_only_where_used(self) -> Self:
        if self.entropy is not None and self.mode != "equal":
            raise ValueError("entropy is for the mode 'equal'; leave it out, or set mode to equal")
        return self


def with_replaced_entropy(
    logits: Float[Tensor, "rows classes"], rows: Rows, args: RowEntropyArgs
) -> Float[Tensor, "rows classes"]:
    """The logits of each row, softened so that its entropy becomes that of the settings.

    Two controls for what calibration adds to softening: how confident the teacher is from row to
    row is destroyed (`equal`) or given to other rows (`shuffled`), and each row's ranking of
    classes is kept. A shuffled row gets the entropy of the next sample in the order of a hash of
    the ids: another row's unless all ids are one, whatever the order of the rows.

    Raises:
        UserError: if the entropy is more than the log of the number of classes, or ids are missing.

    Examples:
        >>> rows = Rows(targets=None, ids=torch.arange(2))
        >>> logits = torch.tensor([[9.0, 0.0, 0.0], [1.0, 0.5, 0.0]])
        >>> same = with_replaced_entropy(logits, rows, RowEntropyArgs(entropy=0.5))
        >>> entropy_of(same)
        tensor([0.5000, 0.5000])
    """
    where = "transform 'row-entropy'"
    if args.entropy is not None:
        highest = math.log(logits.shape[-1])
        if args.entropy > highest:
            raise UserError(
                f"no prediction of {logits.shape[-1]} classes has an entropy of"
                f" {args.entropy:g} nats",
                where=where,
                mend=f"Give an entropy below {highest:.3g}, or leave it out",
            )
        return with_entropy(logits, torch.full_like(logits[:, 0], args.entropy))
    own = entropy_of(logits)
    if args.mode == "equal":
        return with_entropy(logits, own.mean().expand_as(own))
    if len(rows.ids) != len(logits):
        raise UserError(f"{len(rows.ids)} ids for {len(logits)} rows", where=where)
    hashes = hash64(0, Purpose.SHUFFLED_ENTROPY, rows.ids.cpu().numpy())
    order = torch.as_tensor(np.argsort(hashes, kind="stable"), device=logits.device)
    # Views of one sample have the same hash, so they stand together: the next sample is as many
    # places on as there are views.
    shuffled = torch.empty_like(own)
    shuffled[order] = own[order.roll(-rows.views)]
    return with_entropy(logits, shuffled)


def with_entropy(
    logits: Float[Tensor, "rows classes"], entropy: Float[Tensor, " rows"]
) -> Float[Tensor, "rows classes"]:
    """Each row's logits times the positive number at which its entropy is the one given.

    Accurate to 1e-6 nats; the rows are given relative to their highest logit. Rows whose highest
    logit is tied m-fold cannot get below log m, a row of equal logits has log K alone, and
    nothing gets to 0 or to log K quite: the nearest is given.

    Args:
        entropy: wanted, in nats, from 0 to the log of the number of classes.

    Examples:
        >>> logits = torch.tensor([[3.0, 1.0, 0.0], [2.0, 2.0, 0.0]])
        >>> changed = with_entropy(logits, torch.tensor([0.2, 0.2]))
        >>> entropy_of(changed)  # of the second, the lowest is log 2
        tensor([0.2000, 0.6931])
    """
    # In float32 the entropy itself would not be known to 1e-6; Apple's devices have nothing wider.
    wide = torch.float32 if logits.device.type == "mps" else torch.float64
    relative = logits.to(wide) - logits.to(wide).amax(-1, keepdim=True)
    wanted = entropy.to(wide)
    # In units of the row's largest gap, or a scale for tiny gaps would be infinite.
    largest = -relative.amin(-1, keepdim=True)
    relative = relative / torch.where(largest > 0, largest, torch.ones_like(largest))
    # Scales at which the row is as good as flat, and as good as its highest logits alone. Gaps
    # that differ by more than thirty decades are ties to float32.
    smallest = torch.where(relative < 0, -relative, torch.ones_like(relative)).amin(-1)
    lower = torch.full_like(wanted, math.log(1e-4))
    upper = (50.0 / smallest.clamp(min=1e-30)).log()
    for _ in range(_STEPS):
        middle = (lower + upper) / 2
        too_flat = entropy_of(middle.exp()[:, None] * relative) > wanted
        lower = torch.where(too_flat, middle, lower)
        upper = torch.where(too_flat, upper, middle)
    scaled = ((lower + upper) / 2).exp()[:, None] * relative
    # As good as impossible at any softening up to 100; what lies beyond, only a reverse KL feels.
    return scaled.clamp(min=-1e6).to(logits.dtype)


def entropy_of(logits: Float[Tensor, "rows classes"]) -> Float[Tensor, " rows"]:
    """Entropy of each row's prediction, in nats.

    Examples:
        >>> entropy_of(torch.tensor([[0.0, 0.0], [2.0, 0.0]]))
        tensor([0.6931, 0.3653])
    """
    log_probability = F.log_softmax(logits, dim=-1)
    return -(log_probability.exp() * log_probability).sum(-1)
