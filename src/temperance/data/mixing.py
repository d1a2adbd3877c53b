"""Mixup (Zhang et al., ICLR 2018): convex combinations of two images and of their labels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int, UInt8
from scipy.special import betaincinv
from torch import Tensor

from temperance.data.hashing import Purpose, hash64

WHOLE = 2**16
"""What the shares of a mixture sum to: integers are mixed alike on every device, and a share is a
float32 without rounding."""
LEVELS = 2**14
"""Quantiles that stand for the Beta distribution: none of its probabilities is off by more than
half of one of these. To invert it for every image anew would take longer than to crop the image."""


@dataclass(frozen=True, eq=False)
class Mixing:
    """What each image of a batch is mixed with, and how."""

    share: Int[Tensor, " rows"]
    """λ of the image itself, of `WHOLE` (int32)."""
    partner: Int[Tensor, " rows"]
    """Chooses the other image: non-negative, taken modulo the number of other images."""


def draw_mixing(alpha: float, seed: int, ids: Int[Tensor, " rows"], view: int) -> Mixing:
    """The mixing of one view of each sample, whatever batch it is in; made on the CPU.

    Args:
        alpha: of Beta(alpha, alpha), > 0.

    Examples:
        >>> shares = draw_mixing(1.0, 0, torch.arange(10_000), view=0).share / WHOLE
        >>> round(float(shares.mean()), 2), round(float(shares.var()), 2)  # as uniform numbers
        (0.5, 0.08)
    """
    bits = hash64(seed, Purpose.MIXING, view, ids.cpu().numpy())
    level = bits >> np.uint64(64 - LEVELS.bit_length() + 1)
    partner = bits & np.uint64(2**48 - 1)
    return Mixing(
        share=torch.from_numpy(_beta_quantiles(alpha)[level]),
        partner=torch.from_numpy(partner.astype(np.int64)),
    )


def partners(mixing: Mixing, places: Int[Tensor, " rows"], n: int) -> Int[Tensor, " rows"]:
    """Places of the images that others are mixed with: never their own, unless it is the only one.

    Args:
        places: of the images themselves among all `n`, from 0.

    Examples:
        >>> mixing = Mixing(share=torch.tensor([0, 0]), partner=torch.tensor([0, 5]))
        >>> partners(mixing, places=torch.tensor([2, 2]), n=3).tolist()
        [0, 1]
    """
    return (places + 1 + mixing.partner % max(n - 1, 1)) % n


def mix_images(
    images: UInt8[Tensor, "rows channels height width"],
    others: UInt8[Tensor, "rows channels height width"],
    mixing: Mixing,
) -> UInt8[Tensor, "rows channels height width"]:
    """λ · image + (1 − λ) · other, rounded to the nearest level, halves up.

    Examples:
        >>> image = torch.full((1, 1, 1, 1), 100, dtype=torch.uint8)
        >>> quarter = Mixing(share=torch.tensor([WHOLE // 4]), partner=torch.tensor([0]))
        >>> mix_images(image, image * 2, quarter).item()
        175
    """
    share = mixing.share.to(images.device)[:, None, None, None]
    above = (images.int() - others).mul_(share).add_(WHOLE // 2)
    return above.bitwise_right_shift_(WHOLE.bit_length() - 1).add_(others).to(torch.uint8)


def mix_targets(
    targets: Int[Tensor, " rows"], others: Int[Tensor, " rows"], mixing: Mixing, n_classes: int
) -> Float[Tensor, "rows classes"]:
    """λ · onehot(target) + (1 − λ) · onehot(other), exact in float32.

    Examples:
        >>> quarter = Mixing(share=torch.tensor([WHOLE // 4]), partner=torch.tensor([0]))
        >>> mix_targets(torch.tensor([0]), torch.tensor([2]), quarter, n_classes=3).tolist()
        [[0.25, 0.0, 0.75]]
    """
    share = (mixing.share.to(targets.device) / WHOLE)[:, None]
    mixed = torch.zeros(len(targets), n_classes, device=targets.device)
    mixed.scatter_add_(1, targets[:, None], share)
    return mixed.scatter_add_(1, others[:, None], 1 - share)


@cache
def _beta_quantiles(alpha: float) -> Int[np.ndarray, " levels"]:
    """Of Beta(alpha, alpha), at the middles of `LEVELS` equal probabilities, of `WHOLE`."""
    quantiles = betaincinv(alpha, alpha, (np.arange(LEVELS) + 0.5) / LEVELS)
    shares: npt.NDArray[np.int32] = np.rint(quantiles * WHOLE).astype(np.int32)
    return shares
