"""What the adapters of several feature methods are made of."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from temperance.errors import UserError


class BatchNorm(nn.BatchNorm2d):
    """Batch normalisation of maps and of vectors.

    Where each channel has a single value (one row, one pixel) there is no variance, and PyTorch
    refuses to train; the running statistics then serve in its place.
    """

    def forward(self, x: Float[Tensor, "rows channels ..."]) -> Float[Tensor, "rows channels ..."]:
        """The activations, normalised per channel."""
        if x.numel() == x.shape[1]:
            return F.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        return super().forward(x)

    def _check_input_dim(self, input: Tensor) -> None:
        """Vectors are welcome too."""


def check_maps_or_vectors(
    name: str, student: Sequence[torch.Size], teacher: Sequence[torch.Size]
) -> None:
    """Whether each pair of activations is two maps or two vectors.

    Raises:
        UserError: if not; it says which pair.
    """
    for own, others in zip(student, teacher, strict=True):
        if len(own) != len(others) or len(own) not in (2, 4):
            raise UserError(
                "compares maps with maps and vectors with vectors, and an activation of the student"
                f" is {tuple(own)} where the teacher's is {tuple(others)}",
                where=f"objective '{name}'",
                mend="Set student_taps and teacher_taps",
            )
