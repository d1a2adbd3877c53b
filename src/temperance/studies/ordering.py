"""Teachers in an order for one student, from measuring alone, and how sure that order is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from temperance.calibration import fit_temperature
from temperance.calibration.metrics.scores import score_rows
from temperance.calibration.rows import CalibrationRows

REPLICATES = 2000
AT_ONCE = 2**22  # numbers drawn at a time


@dataclass(frozen=True)
class Order:
    """Teachers by their mean NLL at T on held-out rows, the lowest first."""

    places: tuple[int, ...]
    """Which teacher comes first, second, …"""
    nll: tuple[float, ...]
    """In that order."""
    behind: tuple[tuple[float, float], ...] | None
    """95 % interval of each one's NLL above the first's; None if their rows differ."""
    first_is_best: float | None
    """Share of the resampled sets of rows in which the first is the lowest, too."""


def cross_fitted_nll(
    logits: Float[Tensor, "rows classes"],
    targets: Int[Tensor, " rows"],
    *,
    folds: int = 5,
    seed: int = 0,
) -> Float[np.ndarray, " rows"]:
    """NLL of every row at the temperature that is fitted to the rows of the other folds.

    Its mean is the refinement of the model as temperature scaling leaves it. Rows that no
    temperature can be fitted to leave the logits as they are. In the same number of rows the folds
    are the same for all models.

    Raises:
        UserError: for fewer than 2 folds, or more than rows; see `check_logits`.
    """
    fold_of = CalibrationRows(logits, targets).folds(folds, seed)
    nll = np.empty(len(logits))
    for fold in range(folds):
        held_out = fold_of == fold
        fit = fit_temperature(logits[~held_out], targets[~held_out])
        scores = score_rows(logits[held_out], targets[held_out], temperature=fit.temperature)
        nll[held_out.numpy()] = scores.nll.numpy()
    return nll


def order_of(nll: Sequence[Float[np.ndarray, " rows"]], *, same_rows: bool, seed: int = 0) -> Order:
    """The order of teachers by the means, and how sure the first place is (paired bootstrap).

    The bootstrap is over rows alone: it does not know how much a teacher trained again, or its
    students, would differ.

    Args:
        nll: of every teacher, row by row.
        same_rows: whether the rows are the same ones in the same order; else nothing is paired.
        seed: of the resampling.

    Examples:
        >>> sharp, blunt = np.full(50, 0.2), np.full(50, 0.3)
        >>> order = order_of([blunt, sharp], same_rows=True)
        >>> order.places, order.first_is_best
        ((1, 0), 1.0)
    """
    means = [float(values.mean()) for values in nll]
    places = tuple(int(place) for place in np.argsort(means, kind="stable"))
    in_order = tuple(means[place] for place in places)
    if not same_rows:
        return Order(places, in_order, None, None)
    resampled = _resampled_means(np.stack([nll[place] for place in places]), seed)
    above = resampled - resampled[:, :1]
    low, high = np.quantile(above, [0.025, 0.975], axis=0)
    return Order(
        places,
        in_order,
        tuple(zip(low.tolist(), high.tolist(), strict=True)),
        float((above >= 0).all(axis=1).mean()),
    )


def _resampled_means(
    columns: Float[np.ndarray, "teachers rows"], seed: int
) -> Float[np.ndarray, "replicates teachers"]:
    rows = columns.shape[1]
    generator = np.random.default_rng(seed)
    step = max(1, AT_ONCE // rows)
    means = []
    for start in range(0, REPLICATES, step):
        some = min(step, REPLICATES - start)
        times = generator.multinomial(rows, np.full(rows, 1 / rows), size=some)
        means.append(times @ columns.T / rows)
    return np.concatenate(means)
