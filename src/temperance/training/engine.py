"""Devices, precision, gradient steps, checkpoints and interruptions, on Lightning Fabric."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from lightning_fabric import Fabric
from pydantic import PositiveInt
from torch import Tensor, nn, optim

from temperance.config import Args
from temperance.errors import UserError
from temperance.rows import Rows
from temperance.run import atomic

logger = logging.getLogger("temperance")


class EngineArgs(Args):
    """Where and in which precision to compute."""

    without_effect: ClassVar[frozenset[str]] = frozenset({"accelerator", "devices", "threads"})

    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Kind of device; auto takes the best there is."""
    devices: PositiveInt = 1
    """How many of them; each gets its share of every batch (DDP)."""
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    """The mixed ones compute in half precision where that is safe."""
    threads: PositiveInt | None = None
    """CPU threads of each process; null shares the cores among the processes.
    Tiny models are fastest with 1."""


@dataclass
class TrainingState:
    """What a checkpoint holds, beside the random state: enough to continue exactly."""

    module: Any
    """The learner as Fabric wrapped it: called, it is the student."""
    optimizer: optim.Optimizer
    steps: int
    """How many steps the training has."""
    step: int = 0
    """How many of them are done."""
    losses: dict[str, Tensor] = field(default_factory=dict)
    """Sums of this process's shares of the losses since the last `epoch_losses`."""
    underway: dict[str, Tensor] = field(default_factory=dict)
    """Its shares of the losses of the step that is being made."""

    @property
    def progress(self) -> float:
        """From 0 to 1."""
        return self.step / self.steps


class BatchSize(NamedTuple):
    """What the losses of a batch are divided by."""

    rows: int
    """Of this process, over all parts."""
    weight: float | Tensor
    """Of all rows of all processes."""


class Engine:
    """Runs gradient steps on one device or several; knows neither data nor methods."""

    def __init__(self, args: EngineArgs) -> None:
        threads = args.threads or max(1, (os.cpu_count() or 1) // args.devices)
        torch.set_num_threads(threads)
        try:
            self.fabric = Fabric(
                accelerator=args.accelerator,
                devices=args.devices,
                precision=args.precision,
                strategy="ddp" if args.devices > 1 else "auto",
            )
        except (RuntimeError, ValueError) as error:
            raise UserError(
                f"{args.devices} × {args.accelerator} cannot be used here ({error})",
                where="engine",
                mend="Choose another engine.accelerator or fewer engine.devices",
            ) from None
        self.fabric.launch()
        self.interrupted = False  # a signal asked to stop at the next step

    @property
    def device(self) -> torch.device:
        """The device of this process."""
        return self.fabric.device

    @property
    def rank(self) -> int:
        """Of this process; 0 owns the disk."""
        return self.fabric.global_rank

    @property
    def world_size(self) -> int:
        """How many processes there are."""
        return self.fabric.world_size

    def autocast(self) -> AbstractContextManager[None]:
        """The context in which forward passes and losses are computed."""
        context: AbstractContextManager[None] = self.fabric.autocast()
        return context

    def seed(self, seed: int) -> None:
        """Set PyTorch's random numbers (dropout, negatives that are drawn), others per process."""
        torch.manual_seed(seed * self.world_size + self.rank)

    def start(self, module: nn.Module, optimizer: optim.Optimizer, steps: int) -> TrainingState:
        """A fresh training of `module`, which is moved to the device and shared among processes."""
        wrapped, optimizer = self.fabric.setup(module, optimizer)
        return TrainingState(wrapped, optimizer, steps)

    def weigh(self, rows: Rows) -> BatchSize:
        """What the losses of a batch are divided by, over all its parts and processes."""
        n = len(rows.ids)
        if rows.weights is None and self.world_size == 1:
            return BatchSize(n, float(n))
        weights = torch.ones(n, device=self.device) if rows.weights is None else rows.weights
        total = weights.detach().sum()
        if self.world_size > 1:
            torch.distributed.all_reduce(total)
        return BatchSize(n, total)

    def accumulating(self, state: TrainingState, *, last: bool) -> AbstractContextManager[None]:
        """Around one part of a batch: processes exchange gradients in the last part only."""
        context: AbstractContextManager[None] = self.fabric.no_backward_sync(
            state.module, enabled=not last and self.world_size > 1
        )
        return context

    def backward(
        self, state: TrainingState, losses: Mapping[str, Tensor], rows: Rows, size: BatchSize
    ) -> None:
        """Add one part's gradients, and its share of the losses.

        Row-wise losses are weighted and divided by the weight of all rows of the global batch, so
        that unequal parts and processes change nothing. Scalars are averaged: over parts by their
        rows, over processes evenly.

        Args:
            losses: of the part.
            rows: of the part.
            size: of the whole batch.
        """
        shares = {name: self._share(loss, rows, size) for name, loss in losses.items()}
        self.fabric.backward(torch.stack(list(shares.values())).sum())
        _add(state.underway, {name: share.detach() for name, share in shares.items()})

    def update(self, state: TrainingState, rate: float) -> dict[str, Tensor]:
        """Move the parameters along the gradients of all parts; returns this process's share of
        the losses, whose mean over the processes is the mean over all rows.

        Args:
            rate: learning rate of this step.
        """
        for group in state.optimizer.param_groups:
            group["lr"] = rate
        state.optimizer.step()
        state.optimizer.zero_grad()
        state.step += 1
        shares, state.underway = state.underway, {}
        _add(state.losses, shares)
        return shares

    def _share(self, loss: Tensor, rows: Rows, size: BatchSize) -> Tensor:
        if loss.ndim == 0:
            return loss * (len(rows.ids) / size.rows)
        if rows.weights is not None:
            loss = loss * rows.weights
        # DDP averages gradients over processes: times world_size makes that the sum.
        return loss.sum() * self.world_size / size.weight

    def save(self, state: TrainingState, path: Path) -> None:
        """Write a checkpoint, whole or not at all; a failure leaves the previous one in place."""
        losses = self._averaged(state.losses)
        random: Any = self.fabric.all_gather(torch.get_rng_state().to(self.device))
        if self.rank == 0:
            content: dict[str, Any] = {
                "module": state.module.state_dict(),
                "optimizer": state.optimizer.state_dict(),
                "precision": self.fabric.strategy.precision.state_dict(),
                "step": state.step,
                "steps": state.steps,
                "losses": losses,
                "random": random.reshape(self.world_size, -1).cpu(),
            }
            if self.device.type == "cuda":
                content["random_cuda"] = torch.cuda.get_rng_state(self.device)
            with atomic(path) as temporary:
                _save(content, temporary)
        self.fabric.barrier()

    def restore(self, state: TrainingState, path: Path) -> None:
        """Continue from a checkpoint.

        Raises:
            UserError: if it is truncated, or of another model or training.
        """
        try:
            content = torch.load(path, map_location=self.device, weights_only=True)
        except Exception as error:
            # A damaged archive raises anything from EOFError to UnpicklingError.
            raise UserError(
                f"is not a readable checkpoint ({type(error).__name__})",
                where=path,
                mend="It may be truncated: delete it and start again with --resume",
            ) from None
        try:
            if content["steps"] != state.steps:
                raise ValueError(f"{content['steps']} steps, not {state.steps}")
            state.module.load_state_dict(content["module"])
            state.optimizer.load_state_dict(content["optimizer"])
            self.fabric.strategy.precision.load_state_dict(content["precision"])
            state.step = content["step"]
            state.losses = {
                name: torch.tensor(loss, device=self.device)
                for name, loss in content["losses"].items()
            }
            random = content["random"]
            torch.set_rng_state(random[min(self.rank, len(random) - 1)].cpu())
            if "random_cuda" in content:
                torch.cuda.set_rng_state(content["random_cuda"].cpu(), self.device)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise UserError(
                f"is a checkpoint of another model or training ({' '.join(str(error).split())})",
                where=path,
                mend="Choose another --out, or delete it and start again with --resume",
            ) from None

    def epoch_losses(self, state: TrainingState, steps: int) -> dict[str, float]:
        """Mean losses of the last `steps` steps over all processes; the sums start anew."""
        sums, state.losses = self._averaged(state.losses), {}
        return {name: total / steps for name, total in sums.items()}

    def _averaged(self, losses: Mapping[str, Tensor]) -> dict[str, float]:
        if self.world_size == 1:
            return {name: float(loss) for name, loss in losses.items()}
        means: Any = self.fabric.all_reduce(dict(losses), reduce_op="mean")
        return {name: float(mean) for name, mean in means.items()}

    def from_first(self, value: Path) -> Path:
        """What the first process says, in all of them."""
        first: Path = self.fabric.broadcast(value)
        return first

    def barrier(self) -> None:
        """Wait for the other processes: what the first one wrote is then on disk."""
        self.fabric.barrier()

    def agree(self, flag: bool) -> bool:
        """Whether the flag is up in any process: all of them then do the same."""
        if self.world_size == 1:
            return flag
        raised = torch.tensor(float(flag), device=self.device)
        return bool(self.fabric.all_reduce(raised, reduce_op="max"))

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM only set a flag; a second one stops at once.

        Writing a checkpoint inside a signal handler loses checkpoints, hence the flag.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def request_stop(number: int, frame: FrameType | None) -> None:
            if self.interrupted:
                raise KeyboardInterrupt
            self.interrupted = True
            logger.warning("stopping at the next step (once more: stop at once)")

        signals = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, request_stop) for number in signals}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _add(sums: dict[str, Tensor], shares: Mapping[str, Tensor]) -> None:
    for name, share in shares.items():
        sums[name] = sums[name] + share if name in sums else share


def _save(content: Mapping[str, Any], path: Path) -> None:
    """`torch.save` with the kernel's reason: its zip writer reports a full disk without one."""
    try:
        torch.save(content, path)
    except RuntimeError as error:
        raise OSError(f"checkpoint not written: {str(error).splitlines()[0]}") from error
