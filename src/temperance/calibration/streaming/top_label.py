"""The predicted class's calibration from sums over rows, which batches and processes add to."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor

from temperance.calibration.metrics.bins import ECE_BINS, BinSums, ReliabilityBins
from temperance.calibration.metrics.checks import check_logits
from temperance.calibration.metrics.chunks import SoftmaxChunk, softmax_chunks
from temperance.calibration.metrics.scores import hits_first_maximum
from temperance.calibration.streaming.grid import ExactBuffers, LogGrid
from temperance.calibration.streaming.quantised import (
    CellSums,
    ks_error_of_cells,
    smooth_error_of_cells,
)
from temperance.calibration.streaming.reports import TopLabelReport
from temperance.errors import UserError


class TopLabelSums(ExactBuffers):
    """Everything about the predicted class's probability that sums over rows can tell.

    The sums are buffers: they move with the module, `state_dict` holds them, and their size
    depends on the settings alone. Accuracy, NLL and the errors over bins of equal width are those
    of the one-shot metrics, up to the order of summation. Smooth ECE and KS error are those of
    confidences quantised to the cells of a `LogGrid` (each counts as the mean of its cell), and
    come with a bound on what that may change.

    Args:
        n_bins: of ECE, MCE and RMSCE.
        grid: how many cells are equal in log p.
        validate: whether every batch is checked, see `check_logits`.

    Raises:
        UserError: for fewer than one bin or cell.

    Examples:
        >>> sums = TopLabelSums()
        >>> for target in (0, 1):
        ...     sums.update(torch.tensor([[0.9, 0.1]]).log(), torch.tensor([target]))
        >>> report = sums.compute()
        >>> report.n, report.accuracy, round(report.ece, 3)
        (2, 0.5, 0.4)
    """

    rows: Int[Tensor, ""]
    weighted_rows: Int[Tensor, ""]
    nll: Float[Tensor, ""]
    cells: Float[Tensor, "3 cells"]

    def __init__(self, *, n_bins: int = ECE_BINS, grid: int = 2**16, validate: bool = True) -> None:
        super().__init__()
        self.validate = validate
        self.settings = {"n_bins": n_bins, "grid": grid}
        self.grid = LogGrid(grid, n_bins=n_bins)
        self.holds_all_processes = False
        self._register("rows", dtype=torch.int64)
        self._register("weighted_rows", dtype=torch.int64)
        self._register("nll")
        self._register("cells", 3, len(self.grid))

    @torch.no_grad()
    def update(
        self,
        logits: Float[Tensor, "rows classes"],
        targets: Int[Tensor, " rows"],
        weights: Float[Tensor, " rows"] | None = None,
    ) -> None:
        """Add the rows of a batch; if they are refused, nothing changes.

        Raises:
            UserError: see `check_logits`; after `all_reduce`.
        """
        self._check_own()
        if self.validate:
            check_logits(logits, targets, weights)
        self.rows += len(logits)
        if weights is not None:
            self.weighted_rows += len(logits)
        for chunk in softmax_chunks(logits):
            share = None if weights is None else weights[chunk.part].double()
            self._add(chunk, logits, targets, share)

    def merge(self, other: TopLabelSums) -> None:
        """Add the sums of another one with the same settings.

        Raises:
            UserError: if the settings differ; after `all_reduce`, of either.
        """
        self._check_own()
        other._check_own()
        if self.settings != other.settings:
            raise UserError(
                f"{other.settings} cannot be added to {self.settings}",
                where="merge",
                mend="Give both the same settings",
            )
        for own, others in zip(self._sums(), other._sums(), strict=True):
            own += others

    def all_reduce(self, group: dist.ProcessGroup | None = None) -> None:
        """Replace the sums by those of all processes of the group, which all have to call it.

        Does nothing where torch.distributed is not initialised. Afterwards no rows can be added
        before `reset`: every process would add those of all to them again.

        Raises:
            UserError: if it was called before.
        """
        self._check_own()
        if dist.is_available() and dist.is_initialized():
            for own in self._sums():
                dist.all_reduce(own, group=group)
            self.holds_all_processes = True

    def reset(self) -> None:
        """Forget all rows."""
        for own in self._sums():
            own.zero_()
        self.holds_all_processes = False

    def compute(self) -> TopLabelReport:
        """What the rows so far amount to.

        Raises:
            UserError: if there was none.
        """
        return TopLabelReport(**self._top_label())

    def extra_repr(self) -> str:
        """Shown in `print(module)`."""
        return ", ".join(f"{name}={value}" for name, value in self.settings.items())

    def get_extra_state(self) -> Tensor:
        """The settings: sums over other cells could not be told from these."""
        return torch.tensor(list(self.settings.values()))

    def set_extra_state(self, state: Tensor) -> None:
        """Refuse the state of other settings.

        Raises:
            UserError: if they differ.
        """
        if state.tolist() != list(self.settings.values()):
            stored = dict(zip(self.settings, state.tolist(), strict=False))
            raise UserError(
                f"holds sums of {stored}, not of {self.settings}",
                where="state_dict",
                mend="Give the same settings as when it was saved",
            )

    def _register(self, name: str, *shape: int, dtype: torch.dtype = torch.float64) -> None:
        self.register_buffer(name, torch.zeros(shape, dtype=dtype))

    def _sums(self) -> list[Tensor]:
        return list(self.buffers(recurse=False))

    def _check_own(self) -> None:
        if self.holds_all_processes:
            raise UserError(
                "hold the rows of all processes already",
                where=type(self).__name__,
                mend="Call reset before the next rows",
            )

    def _add(
        self,
        chunk: SoftmaxChunk,
        logits: Float[Tensor, "rows classes"],
        targets: Int[Tensor, " rows"],
        weights: Float[Tensor, " part"] | None,
    ) -> None:
        """Add the rows of one chunk, which may be overwritten."""
        self._add_predictions(*score_prediction(chunk, logits, targets), weights)

    def _add_predictions(
        self,
        confidence: Float[Tensor, " part"],
        correct: Float[Tensor, " part"],
        nll: Float[Tensor, " part"],
        weights: Float[Tensor, " part"] | None,
    ) -> None:
        mass = mass_of(confidence, weights)
        self.nll += nll @ mass
        cell = self.grid.cells_of(confidence)
        sums = BinSums(*self.cells)
        sums.mass.scatter_add_(0, cell, mass)
        sums.confidence.scatter_add_(0, cell, weighted(confidence, weights))
        sums.hits.scatter_add_(0, cell, weighted(correct, weights))

    def _top_label(self) -> dict[str, Any]:
        if not self.rows:
            raise UserError(
                "have seen no rows", where=type(self).__name__, mend="Call update first"
            )
        sums = self.cells.cpu()
        cells = CellSums(self.grid.lower.cpu(), self.grid.upper.cpu(), BinSums(*sums))
        bins = BinSums(*self.grid.bins_of_cells(self.cells).cpu())
        mass, confidence, hits = sums.sum(1).tolist()
        smooth, ks = smooth_error_of_cells(cells), ks_error_of_cells(cells)
        return {
            "n": int(self.rows),
            "accuracy": hits / mass,
            "confidence": confidence / mass,
            "gap": bins.error.signed,
            "nll": float(self.nll) / mass,
            "ece": bins.error.total,
            "ece_over": bins.error.over,
            "ece_under": bins.error.under,
            "mce": bins.largest_gap(),
            "rmsce": bins.root_mean_square,
            "smooth_ece": smooth.value,
            "smooth_ece_bound": smooth.bound,
            "ks": ks.value,
            "ks_bound": ks.bound,
            "bins": None if self.weighted_rows else _reliability(bins),
        }


def score_prediction(
    chunk: SoftmaxChunk, logits: Float[Tensor, "rows classes"], targets: Int[Tensor, " rows"]
) -> tuple[Float[Tensor, " part"], Float[Tensor, " part"], Float[Tensor, " part"]]:
    """Confidence, correctness and NLL of one chunk's rows: `score_chunk` without the Brier score,
    which takes as long as these."""
    labels = targets[chunk.part]
    margin = chunk.margin.gather(1, labels.long()[:, None])[:, 0]
    correct = hits_first_maximum(chunk, logits, labels, margin)
    return 1 / chunk.total, correct.double(), (chunk.total - 1).log1p() - margin


def mass_of(
    rows: Float[Tensor, " rows"], weights: Float[Tensor, " rows"] | None
) -> Float[Tensor, " rows"]:
    """What each row weighs: 1 without weights."""
    return torch.ones_like(rows) if weights is None else weights


def weighted(values: Float[Tensor, "*rows"], weights: Tensor | None) -> Float[Tensor, "*rows"]:
    """The values, or their products with the weights."""
    return values if weights is None else values * weights


def _reliability(bins: BinSums) -> ReliabilityBins:
    return ReliabilityBins(
        lower=np.arange(len(bins.mass)) / len(bins.mass),
        count=bins.mass.long().numpy(),
        confidence=(bins.confidence / bins.mass).numpy(),
        accuracy=(bins.hits / bins.mass).numpy(),
    )
