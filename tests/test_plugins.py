"""Objectives and calibrators of other packages, by entry points."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

OBJECTIVE = """
from typing import Literal
from temperance.objectives.kd import KD, KDArgs

class MineArgs(KDArgs):
    name: Literal["mine"] = "mine"
    secret: float = 1.5
    "What nobody else has."

class Mine(KD):
    name = "mine"
    args_class = MineArgs
"""
CALIBRATOR = """
from typing import Literal
from temperance.calibration.calibrators.temperature import TemperatureArgs, TemperatureScaling

class OursArgs(TemperatureArgs):
    name: Literal["ours"] = "ours"

class Ours(TemperatureScaling):
    name = "ours"
    args_class = OursArgs
"""


def temperance(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "temperance", *words],
        env={**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def install(folder: Path, points: str, **modules: str) -> None:
    """A package as pip leaves it."""
    for name, code in modules.items():
        (folder / f"{name}.py").write_text(code)
    info = folder / "my_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(points)


def test_a_package_adds_an_objective_and_a_calibrator(tmp_path: Path) -> None:
    install(
        tmp_path,
        "[temperance.objectives]\nmine = my_objective:Mine\n"
        "[temperance.calibrators]\nours = my_calibrator:Ours\n",
        my_objective=OBJECTIVE,
        my_calibrator=CALIBRATOR,
    )
    done = temperance(tmp_path, "list")
    assert done.returncode == 0, done.stderr
    listed = done.stdout
    assert ", mine, " in listed
    assert ", ours, " in listed
    assert "secret: 1.5  # What nobody else has." in temperance(tmp_path, "config", "mine").stdout
    used = "objective=kd+mine", "objective.no=1", "teacher.weights=x", "calibration.calibrator=ours"
    refused = temperance(tmp_path, "distill", *used)
    assert "unknown key 'no'" in refused.stderr  # and neither of the names


@pytest.mark.parametrize(
    ("code", "target", "words"),
    [
        ("raise OSError('no disk')", "Mine", ("cannot be loaded", "OSError: no disk")),
        ("Mine = print", "Mine", ("is no Objective",)),
        ("", "Mine", ("cannot be loaded", "AttributeError")),
        (OBJECTIVE.replace('"mine"', '"kd"'), "Mine", ("objective 'kd'", "there are two")),
    ],
)
def test_a_package_that_does_not_fit_is_named(
    tmp_path: Path, code: str, target: str, words: tuple[str, ...]
) -> None:
    points = f"[temperance.objectives]\nmine = my_objective:{target}\n"
    install(tmp_path, points, my_objective=code)
    done = temperance(tmp_path, "list", "objectives")
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert all(word in done.stderr for word in words), done.stderr
