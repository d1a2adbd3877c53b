"""Every class's calibration from sums over rows, which batches and processes add to."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from temperance.calibration.metrics.bins import ECE_BINS, BinSums
from temperance.calibration.metrics.chunks import SoftmaxChunk
from temperance.calibration.metrics.ranked import check_ranges
from temperance.calibration.metrics.scores import check_k, ranks_of_targets, score_chunk
from temperance.calibration.streaming.grid import LogGrid
from temperance.calibration.streaming.quantised import CellSums, adaptive_error_of_cells
from temperance.calibration.streaming.reports import StreamingReport
from temperance.calibration.streaming.top_label import TopLabelSums, mass_of, weighted
from temperance.errors import UserError

PROBABILITIES = 2**16  # sorted into cells at a time


class CalibrationSums(TopLabelSums):
    """Everything about all classes' probabilities that sums over rows can tell.

    Beside what `TopLabelSums` tells: Brier score, top-k accuracy and class-wise ECE, those of the
    one-shot metrics up to the order of summation, and ACE of probabilities quantised as the
    confidences are, with a bound. Holds 24 bytes per class and cell: 0.5 MB for 10 classes, 25 MB
    for 1,000.

    Args:
        classes: how many there are.
        class_grid: how many cells of a class's probability are equal in log p; 2,048, or 1,024 for
            more than 512 classes: ACE was within 1.4 % with 10 to 1,000. With half as many cells
            the bound about doubles.
        n_bins, grid, validate: as of `TopLabelSums`.

    Raises:
        UserError: for fewer than two classes, one bin or one cell.

    Examples:
        >>> sums = CalibrationSums(2)
        >>> logits = torch.tensor([[0.9, 0.1], [0.6, 0.4]]).log()
        >>> sums.update(logits, torch.tensor([0, 1]))
        >>> report = sums.compute(n_ranges=1)
        >>> round(report.classwise_ece, 3), round(report.ace, 3), report.ace_bound
        (0.35, 0.25, 0.0)
    """

    brier: Float[Tensor, ""]
    ranks: Float[Tensor, " classes"]
    class_cells: Float[Tensor, "3 classes cells"]

    def __init__(
        self,
        classes: int,
        *,
        class_grid: int | None = None,
        n_bins: int = ECE_BINS,
        grid: int = 2**16,
        validate: bool = True,
    ) -> None:
        super().__init__(n_bins=n_bins, grid=grid, validate=validate)
        if classes < 2:
            raise UserError(f"{classes} is fewer than 2", where="classes")
        if class_grid is None:
            class_grid = 2048 if classes <= 512 else 1024
        self.settings |= {"classes": classes, "class_grid": class_grid}
        self.class_grid = LogGrid(class_grid, n_bins=n_bins)
        self._register("brier")
        self._register("ranks", classes)
        self._register("class_cells", 3, classes, len(self.class_grid))

    def update(
        self,
        logits: Float[Tensor, "rows classes"],
        targets: Int[Tensor, " rows"],
        weights: Float[Tensor, " rows"] | None = None,
    ) -> None:
        """Add the rows of a batch; if they are refused, nothing changes.

        Raises:
            UserError: see `check_logits`; for another number of classes; after `all_reduce`.
        """
        classes = self.settings["classes"]
        if logits.ndim == 2 and logits.shape[1] != classes:
            raise UserError(f"hold {logits.shape[1]} classes, not {classes}", where="logits")
        super().update(logits, targets, weights)

    def compute(self, *, n_ranges: int = ECE_BINS, k: int | None = None) -> StreamingReport:
        """What the rows so far amount to.

        Args:
            n_ranges: of ACE.
            k: of the top-k accuracy; 5, or fewer if there are not so many classes.

        Raises:
            UserError: if there was no row; for fewer than one range, k outside 1..classes.
        """
        classes = self.settings["classes"]
        k = min(5, classes) if k is None else k
        check_ranges(n_ranges)
        check_k(k, self.ranks[None])
        top_label = self._top_label()
        grid, sums = self.class_grid, BinSums(*self.class_cells)
        ace = None
        if not self.weighted_rows:
            ace = adaptive_error_of_cells(CellSums(grid.lower, grid.upper, sums), n_ranges)
        bins = BinSums(*grid.bins_of_cells(self.class_cells))
        mass = self.ranks.sum()
        surplus = (bins.confidence - bins.hits).abs().sum()
        return StreamingReport(
            **top_label,
            classes=classes,
            brier=float(self.brier / mass),
            k=k,
            top_k_accuracy=float(self.ranks[:k].sum() / mass),
            classwise_ece=float(surplus / mass / classes),
            ace=None if ace is None else ace.value,
            ace_bound=None if ace is None else ace.bound,
        )

    def _add(
        self,
        chunk: SoftmaxChunk,
        logits: Float[Tensor, "rows classes"],
        targets: Int[Tensor, " rows"],
        weights: Float[Tensor, " part"] | None,
    ) -> None:
        self._add_probabilities(chunk.share, chunk.total, weights)
        labels = targets[chunk.part].long()
        own = chunk.share.gather(1, labels[:, None])[:, 0] / chunk.total
        scores = score_chunk(chunk, logits, targets)
        self._add_predictions(scores.confidence, scores.correct, scores.nll, weights)
        mass = mass_of(own, weights)
        self.brier += scores.brier @ mass
        hit = self.class_grid.cells_of(own) + labels * len(self.class_grid)
        self.class_cells[2].view(-1).scatter_add_(0, hit, mass)
        wrong = (scores.correct == 0).nonzero()[:, 0]  # the others are ranked first
        ranks = torch.zeros_like(labels)
        ranks[wrong] = ranks_of_targets(
            logits[chunk.part].index_select(0, wrong), labels.index_select(0, wrong)
        )
        self.ranks.scatter_add_(0, ranks, mass)

    def _add_probabilities(
        self,
        share: Float[Tensor, "part classes"],
        total: Float[Tensor, " part"],
        weights: Float[Tensor, " part"] | None,
    ) -> None:
        """Add every class's mass and confidence, a few classes at a time.

        Then a class's cells stay in the cache, and memory is used again: fresh pages would take
        longer than the sums.
        """
        mass = mass_of(total, weights)
        masses, confidences, _ = self.class_cells
        step = max(1, PROBABILITIES // len(total))
        for start in range(0, share.shape[1], step):
            part = slice(start, start + step)
            probabilities = (share[:, part].T / total).contiguous()
            cell = self.class_grid.cells_of(probabilities)
            masses[part].scatter_add_(1, cell, mass.expand_as(cell))
            confidences[part].scatter_add_(1, cell, weighted(probabilities, weights))
