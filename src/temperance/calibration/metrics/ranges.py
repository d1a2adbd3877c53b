"""The ranges of ACE, cut once: labels that are redrawn many times reuse them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from jaxtyping import Float, Int
from torch import Tensor

from temperance.calibration.metrics.bins import block_sizes
from temperance.calibration.metrics.chunks import CHUNK
from temperance.calibration.metrics.ranked import normalisers


@dataclass(frozen=True, eq=False)
class RankRanges:
    """Every class's ranges of equal mass. They depend on the logits alone.

    A border between two ranges is the probability of the first row above it. The cumulative
    count of a class at a border is interpolated between the counts below and up to that
    probability: that shares the labels of tied rows evenly.
    """

    up_to: Int[Tensor, "rows classes"]
    """How many borders are < the probability: it counts up to every border from this one on."""
    below: Int[Tensor, "rows classes"]
    """How many borders are ≤ the probability: it counts below every border from this one on."""
    fraction: Float[Tensor, "classes borders"]
    """Which part of the rows tied with the border's probability lies below the border."""
    mass: Float[Tensor, "classes ranges"]
    """Sum of the probabilities in each range."""
    size: Int[Tensor, " ranges"]
    """Rows in each range."""

    @classmethod
    def cut(cls, logits: Float[Tensor, "rows classes"], n_ranges: int) -> Self:
        """Cut each class's sorted log-probabilities, a few classes at a time; float64."""
        rows, classes = logits.shape
        size = block_sizes(rows, n_ranges).to(logits.device)
        borders = size.cumsum(0)[:-1]
        small = torch.int16 if n_ranges < 2**15 else torch.int32
        up_to = torch.empty((rows, classes), dtype=small, device=logits.device)
        below = torch.empty_like(up_to)
        fractions, masses = [], []
        largest, log_total = normalisers(logits, torch.float64)
        step = max(1, CHUNK // rows)
        for start in range(0, classes, step):
            part = slice(start, start + step)
            keys = (logits[:, part].double() - largest[:, None] - log_total[:, None]).T.contiguous()
            ordered = keys.sort(1).values
            border = ordered[:, borders].contiguous()
            first, end = (torch.searchsorted(ordered, border, right=x) for x in (False, True))
            fractions.append((borders - first) / (end - first).double())
            mass = torch.nn.functional.pad(ordered.exp_().cumsum(1), (1, 0))
            edges = torch.cat([borders.new_zeros(1), borders, borders.new_tensor([rows])])
            masses.append(mass[:, edges].diff(dim=1))
            up_to[:, part] = torch.searchsorted(border, keys).T.to(small)
            below[:, part] = torch.searchsorted(border, keys, right=True).T.to(small)
        return cls(up_to, below, torch.cat(fractions), torch.cat(masses), size)

    def error(self, targets: Int[Tensor, " rows"]) -> float:
        """ACE for these labels."""
        labels = targets.long()
        total = torch.bincount(labels, minlength=len(self.mass)).double()[:, None]
        below, up_to = self._cumulative(self.below, labels), self._cumulative(self.up_to, labels)
        at_border = below + self.fraction * (up_to - below)
        hits = torch.cat([torch.zeros_like(total), at_border, total], 1).diff(dim=1)
        return float(((self.mass - hits).abs() / self.size).mean())

    def _cumulative(
        self, border: Int[Tensor, "rows classes"], labels: Int[Tensor, " rows"]
    ) -> Float[Tensor, "classes borders"]:
        """Per class, how many of its rows count at each border."""
        classes, ranges = self.mass.shape
        first = border.gather(1, labels[:, None])[:, 0].long()
        counts = torch.bincount(labels * ranges + first, minlength=classes * ranges)
        return counts.view(classes, ranges)[:, :-1].cumsum(1).double()
