"""The two types that everything exchanges: what is known about rows, and what a model says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Rows:
    """What is known about one batch of decisions (an image, a region proposal, a token)."""

    targets: Int[Tensor, " rows"] | Float[Tensor, "rows classes"] | None
    """Class indices, soft targets, or None where nobody labelled them."""
    ids: Int[Tensor, " rows"]
    """Identity of each sample in its dataset: splits, views and caches are functions of it."""
    weights: Float[Tensor, " rows"] | None = None
    """Relative weight of each row in the loss; None for equal weights."""
    group: Int[Tensor, " rows"] | None = None
    """Which image, document or sequence a row belongs to; None where rows are independent."""
    view: int = 0
    """Which augmentation of the samples this is."""


@dataclass(frozen=True)
class Signal:
    """What a model says about the rows; student and teacher produce the same type."""

    logits: Float[Tensor, "rows classes"]
    """A teacher's are calibrated if it has a calibrator."""
    raw_logits: Float[Tensor, "rows classes"] | None = None
    """A calibrated teacher's logits before the calibrator, for methods that need their scale."""
    features: Mapping[str, Tensor] = field(default_factory=dict)
    """Named intermediate activations, where an objective asked for them."""


@dataclass(frozen=True)
class Needs:
    """What an objective declares that it needs; what does not fit is refused before training."""

    logits: Literal["none", "dense", "sparse"] = "none"
    """The teacher's logits: not used, one per class, or top-k with a tail."""
    targets: Literal["required", "optional"] = "required"
