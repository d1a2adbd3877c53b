"""What temperature fits say about data that have no, or an extreme, best temperature.

2,000 rows × 10 classes, labels drawn at T0, or degenerate; the same tensors for everyone. Prints
the fitted T and the NLL there, or the error that was raised.

    python -m pip install -e '.[bench]'
    python benchmarks/degenerate.py [--out FILE.md]
"""

from __future__ import annotations

import argparse
import logging
import math
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from _machine import machine_header

import temperance
from calibration import (
    guo_lbfgs_temperature,
    sklearn_temperature,
    torch_uncertainty_temperature,
)

Fit = Callable[[torch.Tensor, torch.Tensor], float]


def problems() -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Name → float32 logits and targets."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(2000, 10, generator=generator)
    targets = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
    found = {f"T0 = {t:g}": (t * logits, targets) for t in (0.2, 2.0, 20.0, 1000.0)}
    best, worst = logits.argmax(1), logits.argmin(1)
    masked, broken = 2 * logits.clone(), 2 * logits.clone()
    masked[0, (targets[0] + 1) % 10] = -math.inf
    broken[0, 0] = math.nan
    return {
        **found,
        "all right": (logits, best),
        "all wrong": (logits, worst),
        "one class": (logits, torch.zeros_like(targets)),
        "flat rows": (torch.zeros_like(logits), targets),
        "T0 = 2, one −inf": (masked, targets),
        "T0 = 2, one NaN": (broken, targets),
    }


def ours(logits: torch.Tensor, targets: torch.Tensor) -> str:
    """T, the NLL there, and the status."""
    fit = temperance.TemperatureScaling().fit(logits, targets).fit_report
    assert fit is not None
    usable = fit.status if fit.usable else f"{fit.status}, not usable"
    fragile = ", fragile" if fit.fragile else ""
    return f"{fit.temperature:.4g} ({fit.nll_after:.4f}), {usable}{fragile}"


def netcal_temperature(logits: torch.Tensor, targets: torch.Tensor) -> float:
    from netcal.scaling import TemperatureScaling

    scaling = TemperatureScaling()
    scaling.fit(logits.softmax(1).numpy(), targets.numpy())
    return float(1 / np.asarray(scaling.temperature).ravel()[0])


def said(fit: Fit, logits: torch.Tensor, targets: torch.Tensor) -> str:
    """T and the NLL there, or the error."""
    try:
        temperature = fit(logits, targets)
    except Exception as error:
        return type(error).__name__
    nll = torch.nn.functional.cross_entropy(logits.double() / temperature, targets)
    return f"{temperature:.4g} ({float(nll):.4g})"


PEERS: dict[str, Fit] = {
    "scikit-learn, float64": lambda z, y: sklearn_temperature(z.double(), y),
    "torch-uncertainty": torch_uncertainty_temperature,
    "netcal, float64": lambda z, y: netcal_temperature(z.double(), y),
    "netcal, float32": netcal_temperature,
    "LBFGS on T, lr 0.01": guo_lbfgs_temperature,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="write the table here, too")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable()
    top = machine_header("scikit-learn", "torch-uncertainty", "netcal")
    lines = [top, "", "| data | temperance | " + " | ".join(PEERS) + " |"]
    lines.append("|---" * (len(PEERS) + 2) + "|")
    for name, (logits, targets) in problems().items():
        try:
            cells = [ours(logits, targets)]
        except temperance.UserError as error:
            cells = [f"error: {error}"]
        cells += [said(fit, logits, targets) for fit in PEERS.values()]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    print("\n".join(lines))
    if args.out:
        args.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
