"""Samples by their ids, on whatever device."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor


class Places:
    """Where samples stand in a table with one entry per sample.

    Args:
        ids: of the samples in the order of the table, each once; on the device of those asked for.

    Examples:
        >>> places = Places(torch.tensor([70, 50, 60]))
        >>> places(torch.tensor([50, 60, 50])).tolist()
        [1, 2, 1]
    """

    def __init__(self, ids: Int[Tensor, " samples"]) -> None:
        self._ids, self._places = ids.sort()

    def __call__(self, ids: Int[Tensor, " rows"]) -> Int[Tensor, " rows"]:
        """The places of these samples.

        Raises:
            ValueError: if one is not in the table.
        """
        found = torch.searchsorted(self._ids, ids).clamp(max=len(self._ids) - 1)
        unknown = ids[self._ids[found] != ids]
        if len(unknown):
            raise ValueError(f"the teacher knows no sample with id {int(unknown[0])}")
        return self._places[found]
