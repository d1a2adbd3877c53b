"""Optimisers and learning-rate schedules; the rate is a function of the step and holds no state."""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat
from torch import nn, optim

from temperance.config import Args, one_of
from temperance.training.learner import Learner


class SGDArgs(Args):
    """Stochastic gradient descent with Nesterov momentum; the defaults are the CIFAR recipe's."""

    name: Literal["sgd"] = "sgd"
    lr: PositiveFloat = 0.05
    """Highest learning rate."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    nesterov: bool = True
    """Look ahead along the momentum (Nesterov)."""
    weight_decay: NonNegativeFloat = 5e-4
    """L2 penalty on all weights."""


class AdamWArgs(Args):
    """AdamW (Loshchilov & Hutter 2019)."""

    name: Literal["adamw"] = "adamw"
    lr: PositiveFloat = 1e-3
    """Highest learning rate."""
    weight_decay: NonNegativeFloat = 0.01
    """Decoupled from the gradient."""


OptimizerArgs = one_of(SGDArgs, AdamWArgs)


def build_optimizer(args: SGDArgs | AdamWArgs, learner: Learner) -> optim.Optimizer:
    """The optimiser of everything that learns: the student, and what the objective learns.

    An objective's scalars and vectors (temperatures, variances) have no weight decay: pulling them
    to zero would be part of no method.
    """
    decayed = [*learner.student.parameters()]
    others: list[nn.Parameter] = []
    for parameter in learner.objective.parameters():
        (decayed if parameter.ndim > 1 else others).append(parameter)
    learning: list[dict[str, Any]] = [
        {"params": [parameter for parameter in decayed if parameter.requires_grad]}
    ]
    if others:
        learning.append({"params": others, "weight_decay": 0.0})
    # Fused: one kernel for all parameters, on CUDA and on the CPU; small models live on it.
    if isinstance(args, AdamWArgs):
        return optim.AdamW(learning, lr=args.lr, weight_decay=args.weight_decay, fused=True)
    return optim.SGD(
        learning,
        lr=args.lr,
        momentum=args.momentum,
        nesterov=args.nesterov and args.momentum > 0,
        weight_decay=args.weight_decay,
        fused=True,
    )


class CosineArgs(Args):
    """Half a cosine from the highest rate to zero (Loshchilov & Hutter 2017)."""

    name: Literal["cosine"] = "cosine"
    warmup: float = Field(default=0.0, ge=0, lt=1)
    """Share of the training over which the rate rises from zero."""


class StepArgs(Args):
    """Multiply the rate by a factor at each milestone; the defaults are the CIFAR recipe's."""

    name: Literal["step"] = "step"
    milestones: tuple[float, ...] = (0.625, 0.75, 0.875)
    """Shares of the training after which the rate drops (150, 180 and 210 of 240 epochs)."""
    factor: PositiveFloat = 0.1
    """By what the rate is multiplied there."""
    warmup: float = Field(default=0.0, ge=0, lt=1)
    """Share of the training over which the rate rises from zero."""


ScheduleArgs = one_of(CosineArgs, StepArgs)


def rate_factor(args: CosineArgs | StepArgs, step: int, steps: int) -> float:
    """By what the highest learning rate is multiplied in step `step` of `steps`, in (0, 1].

    Examples:
        >>> rate_factor(CosineArgs(), 50, 100)
        0.5
        >>> rate_factor(StepArgs(milestones=(0.5,)), 50, 100)
        0.1
    """
    progress = step / steps
    if progress < args.warmup:
        return (step + 1) / (args.warmup * steps + 1)
    if isinstance(args, StepArgs):
        return args.factor ** sum(progress >= milestone for milestone in args.milestones)
    progress = (progress - args.warmup) / (1 - args.warmup)
    return round((1 + math.cos(math.pi * progress)) / 2, 12)
