"""Every calibrator through the command line: fitted, saved, used as a teacher's."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from temperance.calibration import list_calibrators, load_calibrator


@pytest.fixture(scope="module")
def overconfident(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 rows of four classes, twice as sharp as they should be."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(300, 4, generator=generator)
    targets = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
    path = tmp_path_factory.mktemp("logits") / "overconfident.npz"
    np.savez(path, logits=2 * logits.numpy(), targets=targets.numpy())
    return path


@pytest.mark.parametrize("name", list_calibrators())
def test_every_calibrator_is_fitted_and_saved(
    name: str, overconfident: Path, tmp_path: Path, succeeds: Callable[..., Any]
) -> None:
    run = tmp_path / "run"
    said = succeeds(
        "calibrate",
        "engine.threads=1",
        f"logits={overconfident}",
        f"calibrator={name}",
        "--out",
        run,
    ).out
    assert "overconfident.npz" in said
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["fit"]["usable"]
    assert metrics["fit"]["cross_fit"]["folds"] == 5
    assert metrics["after"]["nll"] < metrics["before"]["nll"]
    assert abs(metrics["after"]["gap"]) < abs(metrics["before"]["gap"])
    calibrator = load_calibrator(run)
    assert calibrator.name == name
    with np.load(overconfident) as file:
        calibrated = calibrator(torch.from_numpy(file["logits"])).softmax(1)
    assert float(calibrated.amax(1).double().mean()) == pytest.approx(
        metrics["after"]["confidence"], abs=1e-6
    )
    assert f"Calibrator: {name}" in (run / "report.html").read_text()


def test_settings_of_a_calibrator_are_keys(
    overconfident: Path, tmp_path: Path, succeeds: Callable[..., Any], refused: Callable[..., str]
) -> None:
    plain = ("calibrate", "engine.threads=1", f"logits={overconfident}")
    command = (*plain, "calibrator.name=mixture")
    succeeds(*command, "calibrator.weight=0.2", "cross_fit=null", "--out", tmp_path / "run")
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["fit"]["cross_fit"] is None
    assert load_calibrator(tmp_path / "run").args.weight == 0.2
    refused(*command, "calibrator.wait=0.2", "--out", tmp_path / "no", words=("wait", "weight"))
    refused(
        *plain, "calibrator=temprature", "--out", tmp_path / "no",
        words=("temprature", "Did you mean 'temperature'"),
    )  # fmt: skip
    refused(
        *plain, "cross_fit=301", "--out", tmp_path / "no",
        words=("301 folds of 300 rows", "Choose 2 to 300"),
    )  # fmt: skip


def test_auto_says_what_it_chose_and_why(
    overconfident: Path, tmp_path: Path, succeeds: Callable[..., Any]
) -> None:
    said = succeeds(
        "calibrate",
        "engine.threads=1",
        f"logits={overconfident}",
        "calibrator=auto",
        "--out",
        tmp_path / "run",
    ).out
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert " ".join(metrics["fit"]["notes"]["why"].split()) in " ".join(said.split())


@pytest.mark.parametrize("name", ["vector", "irm"])
def test_a_teacher_is_distilled_through_any_calibrator(
    name: str, teacher: Path, tiny: tuple[str, ...], tmp_path: Path, succeeds: Callable[..., Any]
) -> None:
    run = tmp_path / "run"
    command = ("distill", f"teacher.weights={teacher}", *tiny, "calibration.underconfidence=2")
    said = succeeds(*command, f"calibration.calibrator={name}", "--out", run).out
    assert f"calibrated by '{name}'" in said
    kept = load_calibrator(run)
    assert (kept.name, kept.factor) == (name, 2.0)
    again = tmp_path / "again"
    given = ("distill", f"teacher.weights={teacher}", *tiny, f"teacher.calibrator={run}")
    succeeds(*given, "--out", again)
    first, second = ((folder / "student/model.safetensors").read_bytes() for folder in (run, again))
    assert first == second


def test_a_study_wants_temperatures(tmp_path: Path, refused: Callable[..., str]) -> None:
    refused(
        "demo", "calibration.calibrator=vector", "--out", tmp_path / "run",
        words=("calibration", "temperature", "vector"),
    )  # fmt: skip
