"""Sparse teachers: the k highest logits of every row, and what all others hold together."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from temperance.errors import UserError
from temperance.rows import Signal, TopK


def top_k_signal(
    logits: Float[Tensor, "rows classes"], k: int, *, softening: float = 1.0
) -> Signal:
    """The k highest logits of every row, with the log-sum-exp of all at one teacher softening.

    What all other classes hold together is known at this softening only: an objective has to ask
    for the same, after `divided` has changed it with the logits. The logits are stored relative to
    the row's highest, which no softmax sees and which keeps the log-sum-exp precise.

    Args:
        logits: of all classes; half precision is widened to float32.
        k: from 1 to the number of classes; with all of them, every softening is possible.
        softening: teacher softening at which the signal will be used, > 0.

    Raises:
        UserError: if k or the softening is out of range.

    Examples:
        >>> signal = top_k_signal(torch.tensor([[0.0, 3.0, 1.0]]), 2)
        >>> signal.logits, signal.top_k.indices
        (tensor([[ 0., -2.]]), tensor([[1, 2]]))
        >>> round(float(signal.top_k.log_sum_exp), 4)
        0.1698
    """
    classes = logits.shape[-1]
    if not 1 <= k <= classes:
        raise UserError(f"{k} is not between 1 and the {classes} classes", where="k")
    _check_positive(softening, "softening")
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    relative = logits - logits.amax(-1, keepdim=True)
    highest = relative.topk(k, dim=-1)
    top_k = TopK(
        indices=highest.indices,
        log_sum_exp=(relative / softening).logsumexp(-1),
        classes=classes,
        softening=softening,
    )
    return Signal(highest.values, top_k=top_k)


def divided(signal: Signal, temperature: float) -> Signal:
    """A sparse signal whose logits are divided by a calibration temperature.

    The log-sum-exp stays: of z / s it is the one of (z / T) / (s / T), so the signal now holds at
    teacher softening s / T. Store it at softening T·τ to use it calibrated by T at softening τ.
    Raw logits stay as they are.

    Args:
        signal: sparse.
        temperature: T, > 0.

    Raises:
        UserError: if the signal is dense or the temperature out of range.

    Examples:
        >>> signal = divided(top_k_signal(torch.tensor([[0.0, 3.0, 1.0]]), 2, softening=4.0), 2.0)
        >>> signal.logits, signal.top_k.softening
        (tensor([[ 0., -1.]]), 2.0)
    """
    if signal.top_k is None:
        raise UserError("the signal is dense", where="divided", mend="Divide its logits")
    _check_positive(temperature, "temperature")
    return replace(
        signal,
        logits=signal.logits / temperature,
        top_k=replace(signal.top_k, softening=signal.top_k.softening / temperature),
    )


def _check_positive(value: float, where: str) -> None:
    if not (math.isfinite(value) and value > 0):
        raise UserError(f"{value:g} is not a positive number", where=where)
