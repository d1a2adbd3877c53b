"""Early stopping: which epoch was the best on validation, and its weights."""

from __future__ import annotations

import math
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

from temperance.errors import UserError
from temperance.run import Run, atomic


class BestEpoch:
    """The epoch of the lowest validation NLL so far.

    Which one that is follows from the run's metrics, so a checkpoint need not say it. Its weights
    lie beside the checkpoint. Those of an earlier best epoch stay until a checkpoint has passed the
    later one: a run that is resumed finds what was the best at its checkpoint.

    Args:
        patience: validations without a lower NLL after which it is enough.
        until: the last step whose metrics count.
    """

    def __init__(self, run: Run, *, patience: int, until: int) -> None:
        self.run, self.patience = run, patience
        self.epoch, self.nll, self.waited = 0, math.inf, 0
        for line in run.metrics():
            if line["step"] <= until and "validation_nll" in line:
                self._count(line["epoch"], line["validation_nll"])

    @property
    def enough(self) -> bool:
        """Whether the training ends."""
        return self.waited >= self.patience

    def see(self, student: nn.Module, epoch: int, nll: float) -> None:
        """Take notice of a validation, and keep the weights if it is the best."""
        self._count(epoch, nll)
        if self.epoch == epoch and self.run.writes:
            tensors = {
                name: value.contiguous().cpu() for name, value in student.state_dict().items()
            }
            with atomic(self._path) as temporary:
                temporary.write_bytes(save(tensors))

    def forget_others(self) -> None:
        """Delete the weights of other epochs, once a checkpoint is written."""
        if self.run.writes:
            for path in self._path.parent.glob("epoch-*.safetensors"):
                if path != self._path:
                    path.unlink()

    def restore(self, student: nn.Module) -> None:
        """Give the student the weights of the best epoch.

        Raises:
            UserError: if they are damaged or gone.
        """
        try:
            student.load_state_dict(load(self._path.read_bytes()))
        except (OSError, SafetensorError) as error:
            raise UserError(
                f"the weights of the best epoch cannot be read ({error})",
                where=self._path,
                mend="Train again with --overwrite",
            ) from None

    def _count(self, epoch: int, nll: float) -> None:
        if nll < self.nll or not self.epoch:
            self.epoch, self.nll, self.waited = epoch, nll, 0
        else:
            self.waited += 1

    @property
    def _path(self) -> Path:
        return self.run.folder / "checkpoints" / f"epoch-{self.epoch}.safetensors"
