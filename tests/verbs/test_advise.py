from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from temperance.errors import UserError
from temperance.models import MLPArgs, create_model, save_model
from temperance.reporting.html import Table, render
from temperance.run import Run
from temperance.studies.evidence import load_evidence
from temperance.verbs._advise import advise, compose

ONE_THREAD = {"engine": {"threads": 1}}
# Some labels wrong, and learnt by heart: over-confident beyond doubt.
DIGITS = (
    "model=mlp", "training.epochs=60", "training.optimizer.lr=0.3", "split.label_noise=0.4",
    "training.optimizer.weight_decay=0", "training.validate_every=60", "engine.threads=1",
)  # fmt: skip


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory, succeeds: Callable[..., Any]) -> Path:
    """Runs of `train` on digits: `large` and `small`, and `other` with another split."""
    folder = tmp_path_factory.mktemp("pool")
    for name, *more in (
        ("large", "model.width=256"),
        ("small", "model.width=4", "training.epochs=3"),
        ("other", "model.width=4", "training.epochs=3", "split.seed=1"),
    ):
        succeeds("train", *DIGITS, *more, "--out", folder / name)
    return folder


@pytest.fixture(scope="module")
def alone(pool: Path) -> Any:
    return advise(pool / "large", out=pool / "alone", **ONE_THREAD)


def refusal(*args: Any, **values: Any) -> str:
    with pytest.raises(UserError) as refused:
        advise(*args, **values, **ONE_THREAD)
    return str(refused.value)


def test_it_measures_as_measure_does(alone: Any, pool: Path, succeeds: Callable[..., Any]) -> None:
    succeeds("measure", f"model={pool / 'large'}", "engine.threads=1", "--out", pool / "measure")
    measured = json.loads((pool / "measure" / "metrics.json").read_text())
    (teacher,) = alone.metrics["teachers"]
    assert teacher["report"] == measured["rows"]["calibration"]
    assert teacher["fit"]["temperature"] == measured["temperature"]
    taught = measured["rows"]["train (distilled rows)"]
    assert teacher["taught"]["n"] == taught["n"]
    assert teacher["taught"]["gap"][0] == pytest.approx(taught["gap"])
    assert teacher["taught"]["accuracy"] == taught["accuracy"]


def test_temperature_changes_the_confidence_of_the_rows_to_be_distilled_and_not_the_accuracy(
    alone: Any,
) -> None:
    (teacher,) = alone.metrics["teachers"]
    (raw, calibrated), T = teacher["taught"]["entropy"], teacher["fit"]["temperature"]
    assert (calibrated > raw) == (T > 1)
    assert "the ones to be distilled" in " ".join(teacher["words"])


def test_the_calibrator_is_that_of_auto(
    alone: Any, pool: Path, succeeds: Callable[..., Any]
) -> None:
    succeeds("calibrate", f"model={pool / 'large'}", "calibrator=auto", "engine.threads=1",
             "--out", pool / "auto")  # fmt: skip
    fit = json.loads((pool / "auto" / "metrics.json").read_text())["fit"]
    assert alone.metrics["teachers"][0]["calibrator"] == fit["notes"]


def test_the_report_is_written_again_from_the_folder_alone(alone: Any) -> None:
    written = (alone.folder / "report.html").read_text(encoding="utf-8")
    assert render(compose(Run(alone.folder))) == written
    tables = [block for block in alone.report.sections[0].blocks if isinstance(block, Table)]
    arms = tables[1].frame
    assert list(arms["arm"])[:2] == ["labels+calibration", "raw"]
    assert list(arms["run"])[:2] == ["yes", "yes"]


def test_one_teacher_has_no_order(alone: Any) -> None:
    assert alone.metrics["order"] is None
    assert alone.metrics["constant_T"] is None
    assert "By held-out NLL" not in " ".join(alone.metrics["words"])


def test_several_are_ordered_by_their_nll_at_their_temperature(pool: Path) -> None:
    several = advise([pool / "small", pool / "large"], out=pool / "several", **ONE_THREAD)
    order = several.metrics["order"]
    fits = {each["name"]: each["fit"] for each in several.metrics["teachers"]}
    assert order["names"] == sorted(fits, key=lambda name: fits[name]["cross_fit"]["nll"])
    assert order["first_is_best"] > 0.5
    assert order["rows"] == 120
    words = " ".join(several.metrics["words"])
    assert "resampled sets of their 120 common rows" in words
    assert "An order by measuring alone is a guess" in words
    each = several.report.sections[1].blocks
    assert [block.text.partition(".")[0] for block in each] == order["names"]
    table = several.report.sections[0].blocks[0].frame
    assert list(table["teacher"]) == order["names"]
    assert several.metrics["constant_T"] == pytest.approx(
        (fits["large"]["temperature"] * fits["small"]["temperature"]) ** 0.5
    )


def test_of_other_splits_it_is_not_said_how_sure_the_order_is(pool: Path) -> None:
    """And rows that a teacher of another fold labelled have no evidence yet."""
    both = [pool / "small", pool / "other"]
    differ = advise(both, transfer="out-of-fold", out=pool / "differ", **ONE_THREAD).metrics
    words = " ".join(differ["words"])
    assert differ["order"]["first_is_best"] is None
    assert "their rows differ" in words
    assert "No committed study is about" in words
    assert all(regime["quoted"] == [] for regime in differ["evidence"])
    assert {each["taught"]["rows"] for each in differ["teachers"]} == {"calibration"}
    assert "stand for those to be distilled" in " ".join(differ["teachers"][0]["words"])


def test_an_overconfident_teacher_of_ten_classes_gets_the_committed_evidence(alone: Any) -> None:
    (teacher,), (regime,) = alone.metrics["teachers"], alone.metrics["evidence"]
    assert teacher["sign"] == regime["sign"] == "over"
    expected = [
        one
        for one in load_evidence()
        if (one.transfer, one.sign) == ("in-sample", "over") and 5 <= one.classes <= 20
    ]
    assert regime["quoted"] == [str(one) for one in expected]
    assert "Committed evidence for over-confident teachers" in alone.metrics["words"][-1]
    proposed = {each["arm"]: each["run"] for each in teacher["proposals"]}
    assert proposed["calibrated"] == "yes"


def test_without_a_teacher_it_asks_which() -> None:
    assert "which teacher?" in refusal()


def test_a_folder_that_is_no_run_is_named(tmp_path: Path) -> None:
    assert "gone" in refusal(tmp_path / "gone")
    assert "is no run's folder" in refusal(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_teacher_given_twice_is_named(pool: Path) -> None:
    again = pool / "large" / ".." / "large"
    assert "is given twice" in refusal([pool / "large", again])


def test_teachers_of_different_classes_are_refused(pool: Path, tmp_path: Path) -> None:
    model = create_model(
        MLPArgs(width=8), channels=1, input_size=(8, 8), classes=tuple("abcdefghij"),
        mean=[0.5], std=[0.3], seed=0,
    )  # fmt: skip
    save_model(model, tmp_path / "letters")
    said = refusal(
        [pool / "large", tmp_path / "letters"], data={"name": "digits"}, out=tmp_path / "out"
    )
    assert "different classes" in said
    assert "letters" in said
    assert not (tmp_path / "out").exists()


def test_overwriting_what_it_reads_is_refused(pool: Path) -> None:
    said = refusal(pool / "large", out=pool / "large", overwrite=True)
    assert "would delete what the run reads" in said
    assert (pool / "large" / "student").is_dir()


def test_a_finished_run_is_accepted_with_resume(alone: Any) -> None:
    again = advise(out=alone.folder, resume=True)
    assert json.dumps(again.metrics) == json.dumps(alone.metrics)
