"""A small student, a teacher and a batch for every objective of the list."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from temperance.models import CNNArgs, create_model
from temperance.models.features import probe
from temperance.objectives import OBJECTIVES, Objective, Pair, get_objective
from temperance.rows import Rows, Signal

CLASSES, SAMPLES = 5, 40
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in OBJECTIVES if name != "combined"},
    "kd at two softenings": ("kd", {"softening": 2.0, "teacher_softening": 3.0}),
    "kd of a mixture": ("kd", {"transforms": ["uniform-mix", "label-smoothing"]}),
    "kd at one entropy": ("kd", {"transforms": ["row-entropy"]}),
    "dist as published": ("dist", {"variant": "code"}),
    "mlkd as published": ("mlkd", {"variant": "code"}),
    "ctkd by instance": ("ctkd", {"variant": "instance"}),
    "lskd of dkd": ("lskd", {"method": "dkd"}),
    "lskd of dist, as published": ("lskd", {"method": "dist", "variant": "code"}),
    "fitnet as published": ("fitnet", {"regressor": "convreg"}),
    "at as published": ("at", {"variant": "code"}),
    "rkd as published": ("rkd", {"variant": "code"}),
    "pkt as published": ("pkt", {"variant": "code"}),
    "cc as published": ("cc", {"variant": "code"}),
    "kd+labels": ("kd+labels", {}),
    "dkd+reviewkd": ("dkd+reviewkd", {}),
}
"""What the conformance tests run over: every name of the list, and settings that change a
declaration or a path."""


def model(width: int, seed: int) -> Any:
    return create_model(
        CNNArgs(width=width, blocks=2),
        channels=1,
        input_size=(8, 8),
        classes=tuple("abcde"),
        mean=[0.5],
        std=[0.3],
        seed=seed,
    ).eval()


@dataclass
class Problem:
    """An objective built for its models, and what it is called with."""

    objective: Objective
    student: Signal
    teacher: Signal
    rows: Rows

    def losses(self, **changes: Any) -> dict[str, Tensor]:
        given = {"student": self.student, "teacher": self.teacher, "rows": self.rows, **changes}
        torch.manual_seed(5)  # of negatives that are drawn
        return self.objective(**given, progress=0.7)

    def leaves(self) -> list[Tensor]:
        """The student's logits and features, of which losses have gradients."""
        return [self.student.logits, *self.student.features.values()]


def problem(
    name: str, *, n: int = 6, dtype: torch.dtype = torch.float64, scale: float = 1.0, seed: int = 0
) -> Problem:
    """Signals whose logits are `scale` times those of random numbers of deviation 3.

    Args:
        n: samples; an objective that needs two views gets 2 n rows.
    """
    key, settings = VARIANTS[name]
    objective = get_objective(key, **settings).to(dtype)
    generator = torch.Generator().manual_seed(seed)
    n *= objective.needs.views
    images = torch.randint(0, 256, (n, 1, 8, 8), dtype=torch.uint8, generator=generator)
    small, large = model(4, 1), model(6, 2)
    pair = Pair(
        probe(small, images[:2]),
        probe(large, images[:2]),
        ids=torch.arange(SAMPLES) * 3 + 100,
        targets=torch.arange(SAMPLES) % CLASSES,
    )
    objective.build(pair, seed=3)
    objective.to(dtype)

    def signal(taps: tuple[str, ...], shapes: Any, leaf: bool) -> Signal:
        def drawn(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

        logits = 3 * scale * drawn(n, CLASSES)
        features = {tap: drawn(n, *shapes(tap)[1:]) for tap in taps}
        return Signal(
            logits.requires_grad_(leaf),
            features={tap: feature.requires_grad_(leaf) for tap, feature in features.items()},
        )

    samples = torch.randperm(SAMPLES, generator=generator)[: n // objective.needs.views]
    samples = samples.repeat(objective.needs.views)
    return Problem(
        objective,
        signal(objective.student_taps, pair.student.shape, leaf=True),
        signal(objective.teacher_taps, pair.teacher.shape, leaf=False),
        Rows(
            targets=samples % CLASSES,
            ids=samples * 3 + 100,
            views=objective.needs.views,
        ),
    )


def taken(signal: Signal, chosen: Tensor) -> Signal:
    """Some rows of a signal, still attached to its leaves."""
    raw = signal.raw_logits
    return replace(
        signal,
        logits=signal.logits[chosen],
        raw_logits=None if raw is None else raw[chosen],
        features={tap: feature[chosen] for tap, feature in signal.features.items()},
    )


def rows_taken(rows: Rows, chosen: Tensor) -> Rows:
    return replace(
        rows,
        targets=None if rows.targets is None else rows.targets[chosen],
        ids=rows.ids[chosen],
        weights=None if rows.weights is None else rows.weights[chosen],
    )
