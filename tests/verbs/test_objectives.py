"""Objectives through the command line: trained, resumed, warned about, refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import temperance
from temperance.objectives import list_objectives

CNN = (
    *("model.name=cnn", "model.width=4", "model.blocks=2", "training.epochs=2"),
    *("engine.threads=1", "training.validate_every=2"),
)
QUICK = ["kd+reviewkd", "lskd"]


@pytest.fixture(scope="module")
def cnn(tmp_path_factory: pytest.TempPathFactory, succeeds: Callable[..., Any]) -> Path:
    """A small convolutional teacher of a few hundred digits."""
    folder = tmp_path_factory.mktemp("cnn") / "run"
    succeeds("train", *CNN, "data.subset=400", "split.calibration=0.2", "--out", folder)
    return folder


def distilled(cnn: Path, *more: str) -> tuple[str, ...]:
    return ("distill", f"teacher.weights={cnn}", *CNN, *more)


def result_of(run: Path) -> Any:
    return json.loads((run / "result.json").read_text())


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow])
        for name in [*QUICK, *sorted({*list_objectives()} - {*QUICK, "combined"})]
    ],
)
def test_every_objective_distils(
    name: str, cnn: Path, tmp_path: Path, succeeds: Callable[..., Any],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    succeeds(*distilled(cnn, f"objective={name}"), "--out", tmp_path / "run")
    result = result_of(tmp_path / "run")
    assert result["test"]["n"] > 0
    objective = temperance.get_objective(name)
    warned = "changes nothing" in caplog.text
    assert warned == (objective.teacher_logits != "used")
    losses = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert "labels" in losses


@pytest.mark.parametrize("name", ["crd", "kd+ofd", pytest.param("ctkd", marks=pytest.mark.slow)])
def test_memories_adapters_and_temperatures_are_resumed_exactly(
    name: str, cnn: Path, tmp_path: Path, killed_at: Callable[..., None],
    succeeds: Callable[..., Any], student: Callable[[Path], bytes],
    metrics: Callable[[Path], Any],
) -> None:  # fmt: skip
    whole, resumed = (
        (*distilled(cnn, f"objective={name}", "training.checkpoint_seconds=0"), "--out", folder)
        for folder in (tmp_path / "whole", tmp_path / "resumed")
    )
    succeeds(*whole)
    killed_at(3, *resumed)
    succeeds(*resumed, "--resume")
    assert student(tmp_path / "resumed") == student(tmp_path / "whole")
    assert metrics(tmp_path / "resumed") == metrics(tmp_path / "whole")


def test_what_the_objective_learned_is_counted_apart(
    cnn: Path, tmp_path: Path, succeeds: Callable[..., Any]
) -> None:
    parameters = []
    for name in ("kd", "kd+fitnet"):
        run = tmp_path / name
        said = succeeds(*distilled(cnn, f"objective={name}"), "--out", run).out
        result = result_of(run)
        parameters.append(result["parameters"])
        stored = temperance.load_model(run / "student")
        assert sum(p.numel() for p in stored.parameters()) == result["parameters"]
        assert (result["objective_parameters"] > 0) == (name == "kd+fitnet")
        assert ("stayed behind" in said) == (name == "kd+fitnet")
    assert parameters[0] == parameters[1]


@pytest.mark.slow
def test_parts_and_processes_make_the_same_student_of_row_wise_losses(
    cnn: Path, tmp_path: Path, spawn: Callable[..., Any]
) -> None:
    """Adapters too: their gradients are exchanged with the student's, in the last part only."""
    weights = []
    for parts, processes in ((1, 1), (3, 1), (1, 2), (2, 2)):
        run = tmp_path / f"{parts}-{processes}"
        settings = (
            *("model.batch_norm=false", "objective=kd+vid", "engine.accelerator=cpu"),
            *(f"training.micro_batches={parts}", f"engine.devices={processes}"),
        )
        process = spawn(*distilled(cnn, *settings), "--out", run)
        _, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        weights.append(temperance.load_model(run / "student").state_dict())
    for others in weights[1:]:
        for key, expected in weights[0].items():
            torch.testing.assert_close(others[key], expected, rtol=1e-4, atol=1e-5)


def test_two_views_of_every_image(
    cnn: Path, tmp_path: Path, succeeds: Callable[..., Any], student: Callable[[Path], bytes]
) -> None:
    made = []
    for crop in (0, 1):
        run = tmp_path / str(crop)
        views = ("objective.name=mlkd", "objective.variant=code", f"augment.crop_padding={crop}")
        succeeds(*distilled(cnn, *views), "--out", run)
        made.append(student(run))
    assert made[0] != made[1]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (("objective=kdd",), ("objective", "'kdd'", "'kd'")),
        (("objective=kd+kdd",), ("'kdd'", "'kd'")),
        (("objective.softening=-1",), ("objective.softening", "greater than 0")),
        (("objective.weight=-1",), ("objective.weight", "greater than or equal to 0")),
        (("objective.weight.warmup=2", "objective.weight.value=1"), ("objective.weight.warmup",)),
        (("objective=dkd", "objective.softning=2"), ("'softning'", "'softening'")),
        (
            ("objective.name=fitnet", "objective.student_taps=[backbone.stage.0]"),
            ("'backbone.stage.0'", "'backbone.stages.0'", "backbone.stages.1"),
        ),
        (
            ("objective.name=at", "objective.teacher_taps=[backbone.head]"),
            ("'at'", "pairs"),
        ),
        (
            (
                "objective.name=at",
                "objective.teacher_taps=[backbone.head]",
                "objective.student_taps=[backbone.head]",
            ),
            ("'at'", "feature maps", "backbone.head"),
        ),
        (("objective=at", "model=mlp"), ("'at'", "feature maps", "student_taps")),
        (("objective.transforms=[{name: unifrm_mix}]",), ("unifrm_mix", "uniform-mix")),
    ],
)
def test_bad_settings_are_refused_and_nothing_is_lost(
    settings: tuple[str, ...], words: tuple[str, ...], cnn: Path, tmp_path: Path,
    refused: Callable[..., str],
) -> None:  # fmt: skip
    # the student is as its settings say, and so not of CNN's
    model = () if "model=mlp" in settings else CNN[:3]
    command = ("distill", f"teacher.weights={cnn}", *model, *CNN[3:], *settings)
    kept = (cnn / "result.json").read_bytes()
    refused(*command, "--out", tmp_path / "run", words=words)
    assert not (tmp_path / "run").exists()
    assert (cnn / "result.json").read_bytes() == kept


def test_settings_of_an_objective_are_printed(
    succeeds: Callable[..., Any], refused: Callable[..., str]
) -> None:
    for name in list_objectives():
        assert f"name: {name}" in succeeds("config", name).out
    refused("config", "dkdd", words=("'dkdd'", "'dkd'"))
