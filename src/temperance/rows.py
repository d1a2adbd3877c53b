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
    """Which augmentation of the samples this is; of `views`, the first."""
    views: int = 1
    """How many views of each sample stand below one another: of 2, rows i and i + rows / 2."""


@dataclass(frozen=True)
class TopK:
    """Of which classes a sparse signal's logits are, and how much the others hold together."""

    indices: Int[Tensor, "rows k"]
    """Classes of the logits, each once per row."""
    log_sum_exp: Float[Tensor, " rows"]
    """Of all classes' logits / `softening`."""
    classes: int
    softening: float = 1.0
    """Teacher softening at which `log_sum_exp` holds; no other can be made of it unless k is
    `classes`."""


@dataclass(frozen=True)
class Signal:
    """What a model says about the rows; student and teacher produce the same type."""

    logits: Float[Tensor, "rows classes"] | Float[Tensor, "rows k"]
    """A teacher's are calibrated if it has a calibrator. With `top_k`, of those classes only."""
    raw_logits: Float[Tensor, "rows classes"] | None = None
    """A calibrated teacher's logits before the calibrator, for methods that need their scale."""
    features: Mapping[str, Float[Tensor, "rows ..."]] = field(default_factory=dict)
    """Activations by the name of their tap, where an objective asked for them."""
    top_k: TopK | None = None
    """Makes the signal sparse; None for one logit per class."""


@dataclass(frozen=True)
class Needs:
    """What an objective declares that it needs; what does not fit is refused."""

    logits: Literal["none", "dense", "sparse"] = "none"
    """The teacher's logits: not used, one per class, or top-k as well."""
    targets: Literal["required", "optional"] = "optional"
    """Whether rows without labels will do."""
    soft_targets: bool = True
    """Whether class probabilities will do as targets."""
    features: Literal["none", "embeddings", "maps", "any"] = "none"
    """Activations of both: `(rows, units)`, `(rows, channels, height, width)`, or either."""
    views: int = 1
    """How many views of each sample a batch has to hold."""
    ids: bool = False
    """Whether it remembers samples by their ids."""
