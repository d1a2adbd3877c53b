"""Everything that learns in one module: for the engine, the optimiser and the checkpoint."""

from __future__ import annotations

from torch import Tensor, nn

from temperance.models.features import Tapped
from temperance.objectives import Objective


class Learner(nn.Module):
    """A tapped student, and the objective whose adapters, temperatures and memory go with it.

    Called, it is the student; the objective is called by the loop.
    """

    def __init__(self, student: Tapped, objective: Objective) -> None:
        super().__init__()
        self.student, self.objective = student, objective

    def forward(self, inputs: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits, and activations by the names of their taps."""
        return self.student(inputs)  # type: ignore[no-any-return]
