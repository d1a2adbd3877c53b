"""Small multiples: the reliability of every class's probability."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from temperance.calibration.figures.look import direction_handles, percent, text_size, write_header
from temperance.calibration.figures.reliability import draw_bins, rows_share
from temperance.calibration.metrics import ReliabilityBins, check_logits
from temperance.calibration.metrics.bins import bins_of
from temperance.calibration.metrics.chunks import softmax_chunks
from temperance.calibration.metrics.classwise import classwise_errors
from temperance.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray


def classwise_bins(
    logits: Float[Tensor, "rows classes"],
    targets: Int[Tensor, " rows"],
    *,
    classes: Sequence[int] | None = None,
    worst: int = 9,
    n_bins: int = 15,
) -> dict[int, ReliabilityBins]:
    """The bins of some classes' probabilities over all rows, by class.

    `confidence` is the mean probability of the class in the bin, `accuracy` its frequency; the
    error of these bins is the class's term of `classwise_calibration_error`.

    Args:
        classes: which, in this order; by default those of the largest error, the worst first.
        worst: how many these are at most.

    Raises:
        UserError: see `check_logits`; for a class that there is not, fewer than one bin.

    Examples:
        >>> logits = torch.tensor([[0.9, 0.1], [0.9, 0.1]]).log()
        >>> bins = classwise_bins(logits, torch.tensor([0, 1]), classes=[1], n_bins=4)
        >>> bins[1].count.tolist(), bins[1].accuracy[0]
        ([2, 0, 0, 0], np.float64(0.5))
    """
    check_logits(logits, targets)
    if classes is None:
        errors = classwise_errors(logits, targets, n_bins=n_bins)
        classes = errors.argsort(descending=True, stable=True)[:worst].tolist()
    for label in classes:
        if not 0 <= label < logits.shape[1]:
            raise UserError(f"{label} is not in 0..{logits.shape[1] - 1}", where="classes")
    chosen = torch.tensor(classes, device=logits.device)
    probabilities = torch.cat(
        [chunk.share[:, chosen] / chunk.total[:, None] for chunk in softmax_chunks(logits)]
    )
    return {
        label: bins_of(column, (targets == label).double(), n_bins)
        for label, column in zip(classes, probabilities.T.contiguous(), strict=True)
    }


def classwise_grid(
    axes: Sequence[Axes] | NDArray[np.object_],
    bins: Mapping[int, ReliabilityBins],
    *,
    names: Sequence[str] | None = None,
) -> list[Axes]:
    """A reliability diagram per class, in order, all on the same scales; axes left over are hidden.

    Over each: the class, its ECE, and how many of the rows are of it.

    Args:
        axes: as many as there are classes or more, as `figure.subplots(3, 3)` gives them.
        bins: by class, see `classwise_bins`.
        names: of all classes of the model.

    Returns:
        The axes that were drawn on.

    Raises:
        UserError: if there are fewer axes than classes.
    """
    every = list(np.ravel(np.asarray(axes, dtype=object)))
    if len(every) < len(bins):
        raise UserError(
            f"{len(every)} for {len(bins)} classes", where="axes", mend="Give one for each class"
        )
    # nearly all rows lie in the first bin, and would leave nothing of the others to see
    fullest = max(float(rows_share(each)[1:].max(initial=0)) for each in bins.values()) or 1.0
    drawn, left_over = every[: len(bins)], every[len(bins) :]
    strips = {}
    for ax, (label, each) in zip(drawn, bins.items(), strict=True):
        strips[ax] = draw_bins(ax, each, fullest)
        n = each.count.sum()
        own = round(float(np.nansum(each.count * each.accuracy)))
        error = each.error
        write_header(
            ax,
            f"class {label}" if names is None else names[label],
            [f"ECE {percent(error.total, digits=2)}, {own:,} of n = {n:,}"],
            direction_handles(error, digits=2),
        )
        size = text_size(ax)
        ax.tick_params(labelsize=size)
        ax.set_xlabel("probability (%)", fontsize=size)
        ax.set_ylabel("frequency (%)", fontsize=size)
    for ax in left_over:
        ax.set_axis_off()
    cells = {}
    for ax in drawn:
        spec = ax.get_subplotspec()
        if spec is not None:  # axes that were placed freely keep their labels
            cells[spec.rowspan.start, spec.colspan.start] = ax
    for (row, column), ax in cells.items():
        if (row + 1, column) in cells:
            ax.set_xlabel("")
            ax.tick_params(labelbottom=False)
        if (row, column - 1) in cells:
            ax.set_ylabel("")
            ax.tick_params(labelleft=False)
            strips[ax].set_visible(False)
    return drawn
