from __future__ import annotations

import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from temperance.config import load_config
from temperance.data import DataArgs, SplitArgs, load_dataset, make_splits
from temperance.data.catalog import dataset_facts
from temperance.data.images import DatasetFacts
from temperance.errors import UserError
from temperance.models import MLPArgs, create_model, save_model
from temperance.run import Run
from temperance.studies.costs import Cost, StudyCosts, split_sizes
from temperance.studies.estimating import Estimate, estimate
from temperance.studies.execute import run_study
from temperance.studies.plan import StudyArgs, planned_students
from temperance.studies.timing import LONG_ENOUGH, Stopwatch, seconds_each
from temperance.training import Engine, EngineArgs

MLP = {"name": "mlp", "width": 8}
SHORT = {"epochs": 2, "batch_size": 32, "optimizer": {"name": "adamw", "lr": 0.03}}
TINY: dict[str, Any] = {
    "data": {"name": "digits", "subset": 400},
    "split": {"test": 0.5},
    "teacher": {"model": MLP, "training": SHORT},
    "student": {"model": MLP, "training": SHORT, "augment": {"crop_padding": 1, "views": 2}},
    "calibration": {"folds": 2},
    "arms": ["labels", "raw", "raw+calibration", "calibrated", "grid", "equal-entropy"],
    "softenings": [1.0],
    "grid": [1.0, 2.0],
    "replicates": 1,
    "engine": {"threads": 1, "accelerator": "cpu"},
}


def study(**changes: Any) -> StudyArgs:
    return load_config(StudyArgs, TINY, values=changes)


KNOWN: dict[str, Estimate] = {}


def estimate_of(**changes: Any) -> Estimate:
    if repr(changes) not in KNOWN:
        args = study(**changes)
        KNOWN[repr(changes)] = estimate(args, dataset_facts(args.data))
    return KNOWN[repr(changes)]


def by_kind(found: Estimate) -> dict[str, Cost]:
    return {cost.kind: cost for cost in found.costs}


@pytest.fixture(scope="module")
def carried_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny study, really carried out."""
    folder = tmp_path_factory.mktemp("study") / "run"
    args = study()
    dataset = load_dataset(args.data)
    run = Run.open(folder, verb="study", config=args, identity="tiny")
    run_study(args, dataset, Engine(args.engine), run, partial(load_dataset, args.data))
    return folder


def test_runs_and_steps_are_those_of_the_study_carried_out(carried_out: Path) -> None:
    found = estimate_of().total
    assert found.runs == len(list((carried_out / "runs").glob("*/study.json")))
    lines = [
        path.read_text().splitlines()[-1] for path in (carried_out / "runs").glob("*/metrics.jsonl")
    ]
    assert found.steps == sum(json.loads(line)["step"] for line in lines)
    assert found.images == 32 * found.steps


def test_stored_answers_are_those_of_the_study_carried_out(carried_out: Path) -> None:
    stored = 0
    for path in carried_out.rglob("cache/*.safetensors"):
        with safe_open(path, framework="pt") as file:
            if "logits" in file.keys():  # noqa: SIM118
                stored += file.get_tensor("logits").numel() // 10
    assert estimate_of().stored == stored == 2 * 180


def test_disk_is_about_that_of_the_study_carried_out(carried_out: Path) -> None:
    used = sum(path.stat().st_blocks * 512 for path in carried_out.rglob("*") if path.is_file())
    assert 0.7 < estimate_of().total.bytes / used < 1.4


def test_twins_are_trained_and_counted_once() -> None:
    """Without a label held out, raw+calibration is raw; and so is the grid's τ of the student."""
    found = by_kind(estimate_of())
    runs = {kind: cost.runs for kind, cost in found.items()}
    assert runs == {
        "teachers": 1, "fold teachers": 2, "measurements of teachers": 1, "students: labels": 1,
        "students: raw": 1, "students: calibrated": 1, "students: equal-entropy": 1,
        "students: grid": 1,
    }  # fmt: skip
    assert len(planned_students(study())) == 7
    words = " ".join(estimate_of().sentences)
    assert "8 runs" not in words
    assert "9 runs, 5 of them students; 2 of the 7 planned share one of another arm" in words


def test_held_out_calibration_has_no_folds_and_trains_teachers_again_for_raw_plus_calibration() -> (
    None
):
    found = by_kind(estimate_of(calibration={"fit": "held-out"}))
    assert "fold teachers" not in found
    assert found["teachers on train + calibration"].runs == 1
    assert found["students: raw+calibration"].runs == 1
    # 160 rows of train and 20 of calibration; batches of 32
    assert found["teachers"].steps == 2 * 5
    assert found["students: raw+calibration"].steps == 2 * 5
    assert found["measurements of teachers"].teacher_images == 160 + 20 + 200


def test_images_that_teachers_are_asked_about() -> None:
    cached = by_kind(estimate_of())
    assert cached["students: raw"].teacher_images == 2 * 180  # two views of every row, once
    assert cached["students: calibrated"].teacher_images == 0
    assert cached["students: equal-entropy"].teacher_images == 180  # to find its setting
    live = by_kind(estimate_of(student={"augment": {"views": 0}}))
    # 180 rows in batches of 32: five steps of two epochs
    assert live["students: calibrated"].teacher_images == 2 * 5 * 32
    assert estimate_of(student={"augment": {"views": 0}}).stored == 0


def test_each_view_of_each_teacher_is_stored_once_for_all_its_students() -> None:
    several = estimate_of(student_seeds=3, replicates=2, arms=["raw", "calibrated"])
    assert several.stored == 2 * 2 * 180


def test_objectives_on_activations_ask_a_live_teacher_and_two_views_ask_twice() -> None:
    found = estimate_of(objectives=["fitnet", "srrl"], softenings=[], arms=["raw"])
    assert found.stored == 0
    assert by_kind(found)["students: raw"].teacher_images == 2 * (2 * 5 * 32)


def test_teachers_that_are_given_are_measured_and_not_trained(tmp_path: Path) -> None:
    model = create_model(
        MLPArgs(width=8), channels=1, input_size=(8, 8), classes=tuple("0123456789"),
        mean=[0.5], std=[0.3], seed=0,
    )  # fmt: skip
    save_model(model, tmp_path / "student")
    held_out = {"fit": "held-out"}
    changes = {"arms": ["raw", "calibrated"], "calibration": held_out}
    found = by_kind(estimate_of(teacher={"weights": tmp_path}, **changes))
    assert list(found) == ["measurements of teachers", "students: raw", "students: calibrated"]
    with pytest.raises(UserError, match="there is no such file"):
        estimate_of(teacher={"weights": tmp_path / "gone"}, **changes)


def test_snapshots_are_teachers_and_weights_but_no_trainings() -> None:
    one, three = (
        estimate_of(teacher={"training": {"epochs": 3, "snapshots": snapshots}}, arms=["raw"])
        for snapshots in ((), (1, 2))
    )
    assert by_kind(one)["teachers"].runs == by_kind(three)["teachers"].runs == 1
    assert by_kind(three)["measurements of teachers"].runs == 3
    weights = 4 * (64 * 8 + 8 + 8 * 10 + 10) + 2 * 4  # and the normalisation
    added = by_kind(three)["teachers"].bytes - by_kind(one)["teachers"].bytes
    assert added == 2 * weights


def test_the_table_ends_with_the_sum_and_times_are_those_of_the_workers() -> None:
    found = estimate_of(executor={"workers": 3})
    table = found.table()
    assert table["kind"].iloc[-1] == "all"
    assert table["runs"].iloc[-1] == f"{sum(cost.runs for cost in found.costs)}" == "9"
    assert found.seconds == pytest.approx(sum(cost.seconds for cost in found.costs) / 3)
    assert all(cost.seconds > 0 and cost.bytes > 0 for cost in found.costs)
    assert "3 workers of 1 thread each on cpu" in " ".join(found.sentences)


def test_a_cluster_is_told_the_time_of_one_run_after_the_other() -> None:
    found = estimate_of(executor={"name": "ray", "workers": 4}, arms=["raw"])
    assert found.seconds == found.total.seconds
    assert "one run after the other" in " ".join(found.sentences)


def test_nothing_is_downloaded_and_pytorchs_threads_stay_as_they_are(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    args = load_config(
        StudyArgs,
        TINY,
        values={
            "data": {"name": "cifar100", "path": tmp_path, "test_subset": 200},
            "arms": ["raw"],
        },
    )
    found = estimate(args, dataset_facts(args.data))
    assert found.total.images > 2 * 2 * 360  # more than two trainings, two epochs
    assert not list(tmp_path.iterdir())
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("data", "split"),
    [
        (DataArgs(), SplitArgs()),
        (DataArgs(subset=501), SplitArgs(test=0.37, validation=0.07, calibration=0.13)),
        (DataArgs(), SplitArgs(labelled=0.31)),
        (DataArgs(), SplitArgs(calibration_source="test")),
    ],
)
def test_sizes_of_splits_are_right_to_a_row_or_two(data: DataArgs, split: SplitArgs) -> None:
    real = {"unlabelled": 0} | make_splits(load_dataset(data), split).sizes()
    told = split_sizes(split, dataset_facts(data))
    assert told.keys() == real.keys()
    assert all(abs(told[name] - real[name]) <= 2 for name in real)
    assert sum(told.values()) == sum(real.values())


def test_of_what_is_slow_a_few_images_are_timed() -> None:
    asked: list[int] = []

    def slow(n: int) -> None:
        asked.append(n)
        time.sleep(0.02 * n)

    assert seconds_each(slow, 1_000) == pytest.approx(0.02, rel=0.2)
    assert max(asked) * 0.02 < 4 * LONG_ENOUGH
    asked.clear()
    seconds_each(asked.append, 100)
    assert asked.count(100) == 3


def test_a_training_is_timed_once_however_long_or_smoothed_it_is() -> None:
    variants = [
        {"training": {"epochs": 1}},
        {"training": {"epochs": 5, "optimizer": {"lr": 0.01}}},
        {"objective": {"label_smoothing": 0.1}},
    ]
    found = estimate_of(pool={"variants": variants}, arms=["labels", "raw"])
    # the teachers', with smoothing and without; the students', with labels and with KD
    assert found.timed == 4


def test_seconds_per_image_are_of_the_order_of_what_a_forward_pass_takes() -> None:
    facts = DatasetFacts(100, None, 1, 8, 8, 10)
    costs = StudyCosts(study(), facts, Stopwatch(facts, Engine(EngineArgs(threads=1))))
    small, large = (costs.stopwatch.model(MLPArgs(width=width)) for width in (8, 4_000))
    assert small.forward < large.forward
    assert small.bytes == 4 * (64 * 8 + 8 + 8 * 10 + 10) + 8
