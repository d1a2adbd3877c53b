"""A model's inner activations by the names of its modules, on any model: forward hooks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from temperance.config import did_you_mean
from temperance.errors import UserError

INPUT = ":in"  # behind a module's name: what goes into it rather than what comes out


class Tapped(nn.Module):
    """A model that also gives the activations it is tapped at.

    Args:
        model: any module that takes one input and gives logits.
        taps: names of its modules as in `named_modules`, for their output; `NAME:in` for their
            first input, such as `head:in` for what the last linear layer gets.

    Raises:
        UserError: if there is no such module; it lists those that there are.

    Examples:
        >>> model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> logits, features = Tapped(model, ("1", "2:in"))(torch.zeros(5, 3))
        >>> logits.shape, features["2:in"].shape
        (torch.Size([5, 2]), torch.Size([5, 8]))
    """

    def __init__(self, model: nn.Module, taps: Sequence[str] = ()) -> None:
        super().__init__()
        self.model = model
        self.tap(taps)

    def tap(self, taps: Sequence[str]) -> None:
        """Tap the model at these places instead.

        Raises:
            UserError: if there is no such module; it lists those that there are.
        """
        for tap in taps:
            _module_at(self.model, tap)
        self.taps = tuple(dict.fromkeys(taps))

    def forward(self, inputs: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits, and the activations by the names of their taps.

        Raises:
            UserError: if a tapped module is not called exactly once, or gives no single tensor.
        """
        seen: dict[str, list[Any]] = {tap: [] for tap in self.taps}
        with ExitStack() as stack:
            for tap, values in seen.items():
                stack.enter_context(_collecting(self.model, tap, values))
            logits = self.model(inputs)
        return logits, {tap: _only(tap, values) for tap, values in seen.items()}


@contextmanager
def _collecting(model: nn.Module, tap: str, into: list[Any]) -> Iterator[None]:
    module = _module_at(model, tap)

    def keep(value: Any) -> None:
        # A copy: the layers behind may work in place (ReLU, +=) on what they are given.
        into.append(value.clone() if isinstance(value, Tensor) else value)

    if tap.endswith(INPUT):
        handle = module.register_forward_pre_hook(
            lambda _, inputs: keep(inputs[0] if inputs else None)
        )
    else:
        handle = module.register_forward_hook(lambda _, inputs, output: keep(output))
    try:
        yield
    finally:
        handle.remove()


def _only(tap: str, values: list[Any]) -> Tensor:
    if len(values) != 1:
        raise UserError(
            f"is called {len(values)} times in a forward pass",
            where=f"tap '{tap}'",
            mend="Tap a module that is called once",
        )
    if not isinstance(values[0], Tensor):
        raise UserError(
            f"gives a {type(values[0]).__name__}, not a tensor",
            where=f"tap '{tap}'",
            mend="Tap a module inside it",
        )
    return values[0]


def _module_at(model: nn.Module, tap: str) -> nn.Module:
    modules: dict[str, nn.Module] = {name: part for name, part in model.named_modules() if name}
    name = tap.removesuffix(INPUT)
    if name not in modules:
        near = did_you_mean(name, modules)
        known = "" if near.startswith("Known") else f" Known: {', '.join(modules)}"
        raise UserError(f"the model has no module '{name}'", where="taps", mend=near + known)
    return modules[name]


@dataclass(frozen=True)
class ModelProbe:
    """What a model looks like from inside, as it answered a few rows."""

    model: nn.Module
    shapes: Mapping[str, torch.Size]
    """Of the activation at each tap, rows first, in the order of computation."""
    classes: int
    stages: tuple[str, ...]
    """The last activation of each spatial size, from the input on; of a model without feature
    maps, the one before its head."""
    head: str | None
    """The linear layer that gives the logits, if there is one."""

    @property
    def embedding(self) -> str | None:
        """The tap of the activation that the head gets."""
        return None if self.head is None else self.head + INPUT

    def shape(self, tap: str) -> torch.Size:
        """Shape of the activation at a tap, rows first.

        Raises:
            UserError: if there is none; it lists those that there are.
        """
        if tap in self.shapes:
            return self.shapes[tap]
        _module_at(self.model, tap)
        raise UserError(
            "gives no single tensor, or is called more than once in a forward pass",
            where=f"tap '{tap}'",
            mend=f"Choose among {', '.join(self.shapes)}",
        )


@torch.no_grad()
def probe(model: nn.Module, inputs: Tensor) -> ModelProbe:
    """Look at a model from inside while it answers a few rows, in eval mode.

    Args:
        inputs: two rows or more, as the model takes them.

    Raises:
        UserError: if the model gives anything but logits (rows, classes).

    Examples:
        >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))
        >>> found = probe(model, torch.zeros(2, 1, 4, 4))
        >>> found.stages, found.embedding, found.shape("0")
        (('1',), '3:in', torch.Size([2, 4, 2, 2]))
    """
    names = [name for name, _ in model.named_modules() if name]
    calls: dict[str, list[Any]] = {}

    def record(tap: str, value: Any) -> None:
        calls.setdefault(tap, []).append(value.shape if isinstance(value, Tensor) else None)

    modes = {module: module.training for module in model.modules()}
    with ExitStack() as stack:
        stack.callback(_restore, modes)
        model.eval()
        for name in names:
            module = model.get_submodule(name)
            before = module.register_forward_pre_hook(
                lambda _, given, tap=name + INPUT: record(tap, given[0] if given else None)
            )
            after = module.register_forward_hook(
                lambda _, given, output, tap=name: record(tap, output)
            )
            stack.callback(before.remove)
            stack.callback(after.remove)
        logits = model(inputs)
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        given = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise UserError(
            f"the model gives {given}, not logits (rows, classes)",
            mend="Wrap it in a module that returns the logits",
        )
    shapes = {
        tap: values[0]
        for tap, values in calls.items()
        if len(values) == 1 and values[0] is not None
    }
    linear = [
        name
        for name in shapes
        if isinstance(model.get_submodule(name.removesuffix(INPUT)), nn.Linear)
        and not name.endswith(INPUT)
        and shapes[name] == logits.shape
    ]
    head = linear[-1] if linear else None
    return ModelProbe(model, shapes, logits.shape[1], _stages(model, shapes, head), head)


def _restore(modes: Mapping[nn.Module, bool]) -> None:
    # One by one: in a model that trains, some modules (a frozen BatchNorm) may be in eval mode.
    for module, training in modes.items():
        module.training = training


def _stages(
    model: nn.Module, shapes: Mapping[str, torch.Size], head: str | None
) -> tuple[str, ...]:
    """The last activation of each spatial size, before the head.

    The first layers of a block that shrinks its input still have the size before: they belong to
    the block, not to the stage before it, so what lies in a block of another size does not count.
    """
    order = list(shapes)
    before_head = order[: order.index(head + INPUT)] if head is not None else order[:-1]
    last: dict[torch.Size, str] = {}
    for tap in before_head:
        if tap.endswith(INPUT) or len(shapes[tap]) < 2:
            continue
        size = shapes[tap][2:]
        blocks = [block for block in _blocks_around(model, tap) if block in before_head]
        if all(shapes[block][2:] == size for block in blocks):
            last.pop(size, None)
            last[size] = tap
    maps = [tap for size, tap in last.items() if len(size) == 2 and size.numel() > 1]
    return tuple(maps or last.values())


def _blocks_around(model: nn.Module, tap: str) -> Iterator[str]:
    """The modules that contain this one and do more than call their children in turn."""
    name = tap
    while "." in name:
        name = name.rpartition(".")[0]
        if not isinstance(model.get_submodule(name), nn.Sequential):
            yield name


# What is done to activations before they are compared.
