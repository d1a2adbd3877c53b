"""How fast calibration is, and in how much memory: temperature fits, the report, class-wise ECE.

The unit is one `torch.logsumexp` pass over the same logits, measured in the same run; peers too.

    python -m pip install -e '.[bench]'
    python benchmarks/calibration.py [--rows 50000] [--classes 1000] [--slow] [--out FILE.md]
    python benchmarks/calibration.py --growth          # how the cost grows with rows and classes
    python benchmarks/calibration.py --file 4          # GB of logits in a memory-mapped file
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from _machine import machine_header
from _measuring import Table, peak_beside, seconds
from scipy.optimize import brentq

import temperance.calibration as calibration

SHARPENED = 1.7  # the labels are drawn from softmax(logits / 1.7)


def sample(rows: int, classes: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Over-confident float32 logits; accuracy about 70 %, as an ImageNet model's."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, classes, generator=generator)
    label = torch.randint(classes, (rows,), generator=generator)
    boost = 6 + 6 * torch.rand(rows, generator=generator)
    logits[torch.arange(rows), label] += boost
    targets = torch.cat(
        [
            torch.multinomial(part.softmax(1), 1, generator=generator)[:, 0]
            for part in logits.split(4096)
        ]
    )
    return logits.mul_(SHARPENED), targets


# Peers.


def sklearn_temperature(logits: torch.Tensor, targets: torch.Tensor) -> float:
    """scikit-learn's temperature, through its public interface for a fitted classifier."""
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.frozen import FrozenEstimator

    class Given(ClassifierMixin, BaseEstimator):
        def fit(self, z: Any, y: Any) -> Given:
            self.classes_ = np.arange(z.shape[1])
            self.n_features_in_ = z.shape[1]
            return self

        def decision_function(self, z: Any) -> Any:
            return z

        def predict(self, z: Any) -> Any:
            return z.argmax(1)

    z, y = logits.numpy(), targets.numpy()
    given = Given().fit(z, y)
    fitted = CalibratedClassifierCV(FrozenEstimator(given), method="temperature").fit(z, y)
    return float(1 / fitted.calibrated_classifiers_[0].calibrators[0].beta_)


def torch_uncertainty_temperature(logits: torch.Tensor, targets: torch.Tensor) -> float:
    from torch.utils.data import DataLoader, TensorDataset
    from torch_uncertainty.post_processing import TemperatureScaler

    scaler = TemperatureScaler(model=None)
    loader = DataLoader(TensorDataset(logits, targets), batch_size=4096)
    scaler.fit(loader, progress=False)
    return float(1 / scaler.inv_temperature[0])


def guo_lbfgs_temperature(logits: torch.Tensor, targets: torch.Tensor) -> float:
    """The widespread recipe: LBFGS on T from 1.5, lr 0.01, at most 200 iterations."""
    temperature = torch.nn.Parameter(torch.ones(1) * 1.5)
    optimizer = torch.optim.LBFGS([temperature], lr=0.01, max_iter=200)

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = torch.nn.functional.cross_entropy(logits / temperature, targets)
        value.backward()
        return value

    optimizer.step(loss)
    return float(temperature)


def plain_ace(logits: torch.Tensor, targets: torch.Tensor, n_ranges: int = 15) -> float:
    """Nixon's ACE as one would write it: a loop over classes, sorted and cut."""
    probabilities = torch.softmax(logits, 1).numpy()
    labels = targets.numpy()
    total = 0.0
    for label in range(probabilities.shape[1]):
        order = np.argsort(probabilities[:, label])
        hits = (labels == label)[order]
        confidence = probabilities[order, label]
        for p, hit in zip(
            np.array_split(confidence, n_ranges), np.array_split(hits, n_ranges), strict=True
        ):
            total += abs(hit.mean() - p.mean())
    return total / probabilities.shape[1] / n_ranges


def torch_uncertainty_classwise(logits: torch.Tensor, targets: torch.Tensor) -> float:
    from torch_uncertainty.metrics import ClasswiseCalibrationError

    metric = ClasswiseCalibrationError(num_classes=logits.shape[1], num_bins=15)
    metric.update(logits.softmax(1), targets)
    return float(metric.compute())


def exact_temperature(logits: torch.Tensor, targets: torch.Tensor) -> float:
    """Root of the slope of the NLL, all in float64, by Brent's method."""

    def slope(b: float) -> float:
        total = 0.0
        for z, y in zip(logits.split(4096), targets.split(4096), strict=True):
            wide = z.double()
            expected = ((b * wide).softmax(1) * wide).sum(1)
            total += float((expected - wide.gather(1, y[:, None])[:, 0]).sum())
        return total / len(targets)

    return 1 / brentq(slope, 0.2, 3.0, xtol=1e-14, rtol=1e-14)


# What is measured.


def speed(rows: int, classes: int, *, slow: bool) -> list[str]:
    logits, targets = sample(rows, classes)
    found = calibration.calibration_report(logits, targets, intervals=False)
    lines = [
        f"{rows:,} rows × {classes:,} classes, float32, {torch.get_num_threads()} threads,"
        f" accuracy {found.accuracy:.3f}, mean confidence {found.confidence:.3f}.",
        "",
    ]
    table = Table("what", "median s", "min s", "units", "repeats", "result")
    unit = seconds(lambda: torch.logsumexp(logits, 1), 9)

    def report(name: str, function: Callable[[], float], repeats: int = 5) -> float:
        values: list[float] = []
        times = seconds(lambda: values.append(function()), repeats)
        units = median(times) / median(unit)
        table.add(
            name, f"{median(times):.3f}", f"{min(times):.3f}", f"{units:.2f}", repeats,
            f"{values[-1]:.9g}",
        )  # fmt: skip
        return median(times)

    table.add("unit: torch.logsumexp", f"{median(unit):.3f}", f"{min(unit):.3f}", "1", 9, "")
    fit = report(
        "fit_temperature, NLL and ECE before and after",
        lambda: calibration.fit_temperature(logits, targets).temperature,
    )
    report(
        "· with 5 cross-fitted folds",
        lambda: calibration.fit_temperature(logits, targets, cross_fit=5).temperature,
    )
    sklearn = report(
        "scikit-learn temperature", lambda: sklearn_temperature(logits, targets), repeats=3
    )
    ours = report(
        "calibration_report without intervals",
        lambda: calibration.calibration_report(logits, targets, intervals=False).ace,
        repeats=3,
    )
    plain = report("plain loop of ACE", lambda: plain_ace(logits, targets), repeats=3)
    report(
        "adaptive_calibration_error",
        lambda: calibration.adaptive_calibration_error(logits, targets),
    )
    classwise = report(
        "classwise_calibration_error",
        lambda: calibration.classwise_calibration_error(logits, targets),
    )
    peers: dict[str, float] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if slow:
            peers["classwise"] = report(
                "torch-uncertainty ClasswiseCalibrationError",
                lambda: torch_uncertainty_classwise(logits, targets),
                repeats=1,
            )
            report(
                "torch-uncertainty TemperatureScaler",
                lambda: torch_uncertainty_temperature(logits, targets),
                repeats=1,
            )
            report(
                "LBFGS on T, lr 0.01, 200 iterations",
                lambda: guo_lbfgs_temperature(logits, targets),
                repeats=1,
            )
    lines += [*table.lines, ""]

    ratios = Table("ratio", "measured", "asked for")
    ratios.add("fit / unit", f"{fit / median(unit):.2f}", "≤ 4")
    ratios.add("scikit-learn / fit", f"{sklearn / fit:.1f}", "≥ 12")
    ratios.add("report / plain loop of ACE", f"{ours / plain:.3f}", "≤ 0.3")
    if "classwise" in peers:
        ratios.add(
            "torch-uncertainty / ours, class-wise ECE", f"{peers['classwise'] / classwise:.0f}",
            "≥ 100",
        )  # fmt: skip
    lines += [*ratios.lines, ""]

    errors = Table("order of the rows", "|T − T_float64| / T")
    exact = exact_temperature(logits, targets)
    confidence = logits.amax(1) - logits.logsumexp(1)
    for name, order in (
        ("as drawn", slice(None)),
        ("by class", targets.argsort()),
        ("by confidence", confidence.argsort()),
    ):
        fitted = calibration.fit_temperature(logits[order], targets[order]).temperature
        errors.add(name, f"{abs(fitted - exact) / exact:.1e}")
    lines += [*errors.lines, ""]

    memory = Table("what", "MiB of anonymous memory beside the logits")
    for name, function in (
        ("fit_temperature", lambda: calibration.fit_temperature(logits, targets)),
        (
            "calibration_report",
            lambda: calibration.calibration_report(logits, targets, intervals=False),
        ),
    ):
        memory.add(name, f"{peak_beside(function):.0f}")
    return lines + memory.lines


def growth() -> list[str]:
    """The cost with rows and with classes."""
    table = Table("rows", "classes", "unit s", "fit s", "fit / unit", "report s", "report / unit")
    for rows, classes in (
        (1_000, 1_000), (10_000, 1_000), (50_000, 1_000), (200_000, 1_000),
        (50_000, 10), (50_000, 100), (50_000, 4_000), (1_000_000, 10),
    ):  # fmt: skip
        logits, targets = sample(rows, classes)
        unit = median(seconds(lambda: torch.logsumexp(logits, 1), 5))
        fit = median(seconds(lambda: calibration.fit_temperature(logits, targets), 3))
        report = median(
            seconds(
                lambda: calibration.calibration_report(logits, targets, intervals=False),
                3,
            )
        )
        table.add(
            f"{rows:,}", f"{classes:,}", f"{unit:.4f}", f"{fit:.4f}", f"{fit / unit:.1f}",
            f"{report:.3f}", f"{report / unit:.1f}",
        )  # fmt: skip
    return table.lines


def on_disk(gigabytes: float, folder: str | None) -> list[str]:
    """Logits that are memory-mapped, not read."""
    classes = 1000
    rows = int(gigabytes * 1e9 / 4 / classes)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        path = Path(temporary) / "logits.bin"
        targets = torch.empty(rows, dtype=torch.int64)
        with path.open("wb") as file:
            for start in range(0, rows, 20_000):
                part, labels = sample(min(20_000, rows - start), classes, seed=start)
                file.write(part.numpy().tobytes())
                targets[start : start + len(labels)] = labels
                del part
        logits = torch.from_numpy(np.memmap(path, np.float32, "c", shape=(rows, classes)))
        table = Table("what", "seconds", "MiB of anonymous memory above the state after import")
        for name, function in (
            ("fit_temperature", lambda: calibration.fit_temperature(logits, targets)),
            (
                "calibration_report without intervals",
                lambda: calibration.calibration_report(logits, targets, intervals=False),
            ),
        ):
            start = time.perf_counter()
            peak = peak_beside(function)
            targets_size = targets.numel() * 8 / 2**20
            table.add(name, f"{time.perf_counter() - start:.1f}", f"{peak + targets_size:.0f}")
        return [f"{path.stat().st_size / 1e9:.1f} GB, {rows:,} × {classes:,}.", "", *table.lines]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--classes", type=int, default=1_000)
    parser.add_argument("--slow", action="store_true", help="also the peers that take minutes")
    parser.add_argument("--growth", action="store_true")
    parser.add_argument("--file", type=float, metavar="GB")
    parser.add_argument("--folder", help="where the file is made")
    parser.add_argument("--out", type=Path, help="write the tables here, too")
    args = parser.parse_args()
    top = machine_header("scikit-learn", "torch-uncertainty")
    print(top)
    if args.growth:
        lines = growth()
    elif args.file:
        lines = on_disk(args.file, args.folder)
    else:
        lines = speed(args.rows, args.classes, slow=args.slow)
    if args.out:
        args.out.write_text("\n".join([top, "", *lines]) + "\n")


if __name__ == "__main__":
    main()
