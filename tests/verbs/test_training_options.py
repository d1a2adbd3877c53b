"""Options of data and training through the command line: each alone, resumed, and refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from temperance.calibration import negative_log_likelihood
from temperance.data import DataArgs, SplitArgs, load_dataset, make_splits
from temperance.models import load_model
from temperance.tasks import predict

# Of 504 training images, 7 steps are an epoch. At this rate the model soon over-fits.
FITS_TOO_WELL = (
    *("model=mlp", "model.width=64", "engine.threads=1", "training.epochs=12"),
    *("training.optimizer.name=adamw", "training.optimizer.lr=0.02", "data.subset=900"),
    *("split.test=0.3", "split.label_noise=0.3"),
)


@pytest.fixture(scope="module")
def every_epoch(tmp_path_factory: pytest.TempPathFactory, succeeds: Callable[..., Any]) -> Path:
    """A run without patience that saved its student after every epoch."""
    run = tmp_path_factory.mktemp("every") / "run"
    snapshots = f"training.snapshots={list(range(1, 12))}"
    succeeds("train", *FITS_TOO_WELL, snapshots, "--out", run)
    return run


@pytest.fixture(scope="module")
def nlls(every_epoch: Path, metrics: Callable[[Path], Any]) -> list[float]:
    """Validation NLL of each epoch."""
    return [line["validation_nll"] for line in metrics(every_epoch)]


def weights(run: Path, student: str = "student") -> bytes:
    return (run / student / "model.safetensors").read_bytes()


def result(run: Path) -> dict[str, Any]:
    found = json.loads((run / "result.json").read_text())
    found.pop("seconds")
    return found


def stopped_and_kept(nlls: list[float], patience: int) -> tuple[int, int]:
    """By the definition: the first epoch with `patience` epochs behind it that are no better."""
    for stop in range(1, len(nlls) + 1):
        kept = int(np.argmin(nlls[:stop])) + 1
        if stop - kept >= patience:
            return stop, kept
    return len(nlls), int(np.argmin(nlls)) + 1


# Snapshots.


def test_a_snapshot_is_the_model_of_its_epoch(every_epoch: Path, nlls: list[float]) -> None:
    dataset = load_dataset(DataArgs(subset=900))
    splits = make_splits(dataset, SplitArgs(test=0.3, label_noise=0.3))
    for epoch in range(1, 12):
        model = load_model(every_epoch / f"student@{epoch}")
        found = predict(model, splits.validation, device=torch.device("cpu"))
        assert negative_log_likelihood(*found) == pytest.approx(nlls[epoch - 1], rel=1e-6)
    assert not (every_epoch / "student@12").exists()


@pytest.mark.parametrize(("step", "seconds"), [(14, 60), (30, 0)])
def test_snapshots_and_students_are_those_of_a_run_that_nothing_stopped(
    step: int, seconds: int, tmp_path: Path, tiny: tuple[str, ...],
    killed_at: Callable[..., None], succeeds: Callable[..., Any],
) -> None:  # fmt: skip
    run, whole = tmp_path / "run", tmp_path / "whole"
    settings = (*tiny, "training.epochs=3", "training.snapshots=[1,2]")
    succeeds("train", *settings, "--out", whole)
    command = ("train", *settings, f"training.checkpoint_seconds={seconds}", "--out", run)
    killed_at(step, *command)
    assert (run / "student@1").is_dir()
    succeeds(*command, "--resume")
    for name in ("student@1", "student@2", "student"):
        assert weights(run, name) == weights(whole, name)
    assert result(run) == result(whole)


@pytest.mark.parametrize("epochs", ["[3]", "[1, 2]", "[0]"])
def test_snapshots_that_would_not_come_about(
    epochs: str, tmp_path: Path, tiny: tuple[str, ...], refused: Callable[..., str]
) -> None:
    settings = (*tiny, "training.epochs=2", f"training.snapshots={epochs}")
    refused("train", *settings, "--out", tmp_path / "run", words=("training",))
    assert not (tmp_path / "run").exists()


def test_snapshots_with_patience_are_refused(
    tmp_path: Path, tiny: tuple[str, ...], refused: Callable[..., str]
) -> None:
    settings = (*tiny, "training.snapshots=[1]", "training.patience=1")
    refused("train", *settings, "--out", tmp_path / "run", words=("patience", "choose one"))


# Early stopping.


@pytest.mark.parametrize("patience", [1, 3, 100])
def test_the_best_epoch_is_kept(
    patience: int, tmp_path: Path, every_epoch: Path, nlls: list[float],
    succeeds: Callable[..., Any], metrics: Callable[[Path], Any],
) -> None:  # fmt: skip
    run = tmp_path / "run"
    succeeds("train", *FITS_TOO_WELL, f"training.patience={patience}", "--out", run)
    stopped, kept = stopped_and_kept(nlls, patience)
    assert kept < stopped
    assert (stopped < 12) == (patience < 12)
    found = result(run)
    assert (found["stopped_epoch"], found["kept_epoch"]) == (stopped, kept)
    assert weights(run) == weights(every_epoch, f"student@{kept}")
    assert [line["validation_nll"] for line in metrics(run)] == nlls[:stopped]
    assert not (run / "checkpoints").exists()


def test_without_patience_nothing_is_said_of_it(every_epoch: Path) -> None:
    assert result(every_epoch).keys() == {
        "rows", "parameters", "objective_parameters", "objective_memory", "validation", "test"
    }  # fmt: skip


def step_of(epoch: int) -> int:
    """The last of an epoch of `FITS_TOO_WELL`, whose training rows are 504."""
    return 7 * epoch


@pytest.mark.parametrize(
    ("where", "seconds"),
    [("at the best", 60), ("after it", 0), ("at the stop", 0)],
)
def test_dying_changes_nothing_about_the_best(
    where: str, seconds: int, tmp_path: Path, nlls: list[float], every_epoch: Path,
    killed_at: Callable[..., None], succeeds: Callable[..., Any], metrics: Callable[[Path], Any],
) -> None:  # fmt: skip
    stopped, kept = stopped_and_kept(nlls, 3)
    step = {"at the best": step_of(kept), "after it": step_of(kept) + 10,
            "at the stop": step_of(stopped)}[where]  # fmt: skip
    run = tmp_path / "run"
    settings = (*FITS_TOO_WELL, "training.patience=3", f"training.checkpoint_seconds={seconds}")
    killed_at(step, "train", *settings, "--out", run)
    succeeds("train", *settings, "--out", run, "--resume")
    found = result(run)
    assert (found["stopped_epoch"], found["kept_epoch"]) == (stopped, kept)
    assert weights(run) == weights(every_epoch, f"student@{kept}")
    assert [line["validation_nll"] for line in metrics(run)] == nlls[:stopped]


def test_early_stopping_needs_validation_rows(
    tmp_path: Path, tiny: tuple[str, ...], teacher: Path, refused: Callable[..., str]
) -> None:
    settings = (*tiny, "training.patience=2", "split.validation=0", "--out", tmp_path / "run")
    words = ("training.patience", "validation", "split.validation")
    refused("distill", f"teacher.weights={teacher}", *settings, words=words)
    assert not (tmp_path / "run").exists()
    refused("train", *settings, words=words)


# Mixup.

MIXED = ("augment.mixup=0.4", "augment.flip=true", "augment.crop_padding=1")


def test_mixup_changes_the_student_and_resumes(
    tmp_path: Path, tiny: tuple[str, ...], teacher: Path, killed_at: Callable[..., None],
    succeeds: Callable[..., Any], metrics: Callable[[Path], Any],
) -> None:  # fmt: skip
    run, whole = tmp_path / "run", tmp_path / "whole"
    succeeds("train", *tiny, *MIXED, "--out", whole)
    command = ("train", *tiny, *MIXED, "training.checkpoint_seconds=0", "--out", run)
    killed_at(9, *command)
    succeeds(*command, "--resume")
    assert weights(run) == weights(whole) != weights(teacher)
    assert metrics(run) == metrics(whole)


def test_objectives_of_classes_refuse_mixed_labels(
    tmp_path: Path, tiny: tuple[str, ...], teacher: Path, refused: Callable[..., str],
    succeeds: Callable[..., Any],
) -> None:  # fmt: skip
    settings = ("distill", f"teacher.weights={teacher}", *tiny, *MIXED)
    refused(*settings, "objective=dkd", "--out", tmp_path / "dkd", words=("mixup", "'dkd'", "'kd'"))
    assert not (tmp_path / "dkd").exists()
    succeeds(*settings, "objective=kd", "--out", tmp_path / "kd")


def test_two_processes_are_one_with_mixup_and_patience(
    tmp_path: Path, spawn: Callable[..., Any], succeeds: Callable[..., Any],
    metrics: Callable[[Path], Any],
) -> None:  # fmt: skip
    settings = (
        *("model=mlp", "model.width=64", "engine.threads=1", "engine.accelerator=cpu"),
        *("training.epochs=8", "training.batch_size=63", "training.patience=2", "data.subset=900"),
        *("training.optimizer.name=adamw", "training.optimizer.lr=0.02", "split.label_noise=0.3"),
        *MIXED,
    )
    succeeds("train", *settings, "--out", tmp_path / "1")
    process = spawn("train", *settings, "engine.devices=2", "--out", tmp_path / "2")
    try:
        _, err = process.communicate(timeout=180)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        pytest.fail("two processes did not finish in time")
    assert process.returncode == 0, err
    one, two = tmp_path / "1", tmp_path / "2"
    for name in ("stopped_epoch", "kept_epoch"):
        assert result(one)[name] == result(two)[name]
    assert result(one)["stopped_epoch"] < 8
    tensors, others = (load_file(run / "student" / "model.safetensors") for run in (one, two))
    for name in tensors:
        np.testing.assert_allclose(tensors[name], others[name], rtol=1e-3, atol=1e-4, err_msg=name)
    for line, other in zip(metrics(one), metrics(two), strict=True):
        assert line == pytest.approx(other, rel=1e-3)


# Fewer and worse labels.


def test_labels_that_are_kept_back(
    tmp_path: Path, tiny: tuple[str, ...], teacher: Path, succeeds: Callable[..., Any]
) -> None:
    succeeds("train", *tiny, "split.labelled=0.25", "--out", tmp_path / "run")
    rows, whole = result(tmp_path / "run")["rows"], result(teacher)["rows"]
    assert "unlabelled" not in whole
    assert rows["train"] + rows["unlabelled"] == whole["train"]
    assert rows["train"] == pytest.approx(whole["train"] / 4, abs=10)
    assert "unlabelled" in (tmp_path / "run" / "report.html").read_text()


def test_noise_in_the_labels_is_seen_in_validation_and_not_in_the_test(
    tmp_path: Path, succeeds: Callable[..., Any], tiny: tuple[str, ...]
) -> None:
    settings = (*tiny, "training.epochs=10", "split.label_noise=0.4")
    succeeds("train", *settings, "--out", tmp_path / "run")
    found = result(tmp_path / "run")
    assert found["validation"]["accuracy"] < 0.7  # nobody can guess noise
    assert found["test"]["accuracy"] > found["validation"]["accuracy"] + 0.1
