"""What logits, targets and weights must be, before anything is computed from them."""

from __future__ import annotations

import warnings

import torch
from jaxtyping import Float, Int
from torch import Tensor

from temperance.errors import UserError

SUMS_TO_ONE = 1e-3  # how far rows of float16 probabilities are off


def check_logits(
    logits: Float[Tensor, "rows classes"],
    targets: Int[Tensor, " rows"] | Float[Tensor, "rows classes"],
    weights: Float[Tensor, " rows"] | None = None,
    *,
    soft: bool = False,
) -> None:
    """Refuse what has no calibration. −inf is a masked class, allowed except on the true class.

    Warns (`UserWarning`) if every row looks like probabilities: in [0, 1] and summing to 1.

    Args:
        soft: whether targets may also be probabilities `(rows, classes)` that sum to 1.

    Raises:
        UserError: for NaN, +inf, −inf on the true class, a target outside 0..classes − 1, other
            dtypes or shapes than in the signature, no rows, fewer than 2 classes, or weights that
            are negative, not finite or all zero.
    """
    if logits.ndim != 2 or not logits.is_floating_point():
        raise UserError(
            f"must be floating point of shape (rows, classes), not {describe_tensor(logits)}",
            where="logits",
        )
    rows, classes = logits.shape
    if rows == 0:
        raise UserError("hold no rows", where="logits", mend="Give at least one row")
    if classes < 2:
        raise UserError(
            f"hold {classes} class",
            where="logits",
            mend="Write the logit z of a sigmoid as the two classes (0, z)",
        )
    is_soft = soft and targets.ndim == 2 and targets.is_floating_point()
    integer = not (targets.is_floating_point() or targets.is_complex())
    if not is_soft and (targets.shape != (rows,) or not integer or targets.dtype == torch.bool):
        raise UserError(
            f"must be class indices (integers) of shape ({rows},), not {describe_tensor(targets)}",
            where="targets",
        )
    if not bool(logits.amax() < torch.inf):  # NaN if there is one; by rows only to name the row
        row = _first(~(logits.amax(1) < torch.inf))
        raise UserError(f"row {row} holds NaN or +inf", where="logits")
    if is_soft:
        _check_soft(logits, targets)
    else:
        _check_hard(logits, targets)
    if weights is not None:
        _check_weights(weights, rows)
    if _look_like_probabilities(logits[:64]) and _look_like_probabilities(logits):
        warnings.warn(
            "these logits look like probabilities (every row lies in [0, 1] and sums to 1): "
            "if so, pass their logarithm",
            UserWarning,
            stacklevel=3,
        )


def check_groups(groups: Int[Tensor, " rows"] | None, rows: int) -> None:
    """Refuse groups that do not name one group per row, or only one in all.

    Raises:
        UserError: for a shape other than `(rows,)`, a dtype that is no integer, fewer than 2
            groups.
    """
    if groups is None:
        return
    if groups.shape != (rows,) or groups.is_floating_point() or groups.is_complex():
        raise UserError(
            f"must be integers of shape ({rows},), not {describe_tensor(groups)}", where="groups"
        )
    if bool((groups == groups[0]).all()):
        raise UserError(
            "are all the same", where="groups", mend="Give at least 2 groups, or leave them out"
        )


def describe_tensor(tensor: Tensor) -> str:
    """Its dtype and shape, for messages."""
    return f"{str(tensor.dtype).removeprefix('torch.')} of shape {tuple(tensor.shape)}"


def _check_hard(logits: Tensor, targets: Tensor) -> None:
    classes = logits.shape[1]
    low, high = (int(end) for end in targets.aminmax())
    if low < 0 or high >= classes:
        row = _first((targets < 0) | (targets >= classes))
        assert row is not None
        raise UserError(
            f"the target {int(targets[row])} of row {row} is outside the {classes} classes"
            f" (0..{classes - 1})",
            where="targets",
        )
    if (row := _first(logits.gather(1, targets.long()[:, None])[:, 0] == -torch.inf)) is not None:
        raise UserError(
            f"row {row} holds -inf for its true class {int(targets[row])}", where="logits"
        )


def _check_soft(logits: Tensor, targets: Tensor) -> None:
    if targets.shape != logits.shape:
        raise UserError(
            f"must be of shape {tuple(logits.shape)} if soft, not {describe_tensor(targets)}",
            where="targets",
        )
    off = (targets.sum(1) - 1).abs() > max(SUMS_TO_ONE, torch.finfo(targets.dtype).eps)
    if (row := _first(~(targets >= 0).all(1) | off)) is not None:
        raise UserError(
            f"row {row} is no distribution: soft targets are ≥ 0 and sum to 1", where="targets"
        )
    if (row := _first(((targets > 0) & (logits == -torch.inf)).any(1))) is not None:
        raise UserError(f"row {row} holds -inf for a class of positive target", where="logits")


def _check_weights(weights: Tensor, rows: int) -> None:
    if weights.shape != (rows,):
        raise UserError(
            f"must be of shape ({rows},), not {describe_tensor(weights)}", where="weights"
        )
    if (row := _first(~((weights >= 0) & (weights < torch.inf)))) is not None:
        raise UserError(
            f"row {row} has weight {float(weights[row])}",
            where="weights",
            mend="Give finite weights ≥ 0",
        )
    if not bool((weights > 0).any()):
        raise UserError("are all zero", where="weights", mend="Give some row a positive weight")


def _look_like_probabilities(logits: Tensor) -> bool:
    inside = bool(logits.amin() >= 0) and bool(logits.amax() <= 1)
    off = torch.finfo(torch.bfloat16).eps  # they may have been widened since
    return inside and bool(((logits.float().sum(1) - 1).abs() <= off).all())


def _first(bad: Tensor) -> int | None:
    """The first row that is bad."""
    return int(bad.nonzero()[0]) if bool(bad.any()) else None
