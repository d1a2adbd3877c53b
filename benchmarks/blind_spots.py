"""What each calibration error sees of a model whose miscalibration is known.

Labels are drawn from softmax(logits); the model says softmax(logits / T). Errors beside what
chance alone gives (mean over labels redrawn from what the model says).

    python benchmarks/blind_spots.py [--out FILE.md]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from _machine import machine_header

import temperance.calibration as calibration

SETTINGS = ((2000, 10), (3080, 77), (20_000, 1000))  # rows × classes
TEMPERATURES = (1.3, 1.0, 0.8, 0.6)  # of what the model says: below 1 it is over-confident


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="write the table here, too")
    args = parser.parse_args()
    lines = [machine_header(), "", "| rows × classes | T | gap (points) | ECE (chance) |"]
    lines[-1] += " ACE × 1000 (chance) | class-wise ECE × 1000 | smooth ECE | MCE |"
    lines.append("|---" * 8 + "|")
    for rows, classes in SETTINGS:
        generator = torch.Generator().manual_seed(0)
        logits = torch.randn(rows, classes, generator=generator)
        label = torch.randint(classes, (rows,), generator=generator)
        # the true probability of the best class lies around 80 %
        logits[torch.arange(rows), label] += (
            1.5 + torch.tensor(classes).log() + torch.randn(rows, generator=generator)
        )
        targets = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
        for temperature in TEMPERATURES:
            said = logits / temperature
            found = calibration.calibration_report(said, targets, intervals=False)
            chance = calibration.ece_floor(said, targets, redraws=100).mean
            ace_chance = calibration.ace_floor_mean(said)
            lines.append(
                f"| {rows:,} × {classes:,} | {temperature} | {100 * found.gap:+.1f} |"
                f" {found.ece:.3f} ({chance:.3f}) | {1000 * found.ace:.3f}"
                f" ({1000 * ace_chance:.3f}) | {1000 * found.classwise_ece:.3f} |"
                f" {found.smooth_ece:.3f} | {found.mce:.2f} |"
            )
    print("\n".join(lines))
    if args.out:
        args.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
