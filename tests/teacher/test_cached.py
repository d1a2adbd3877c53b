"""A cached teacher says what the live one says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from temperance.calibration import TemperatureScaling
from temperance.data import Batch, ImageSet, ViewSpec, apply_views, draw
from temperance.errors import UserError
from temperance.models import CNNArgs, create_model
from temperance.models.features import probe
from temperance.objectives import OBJECTIVES, Pair, get_objective
from temperance.run import Run
from temperance.tasks import ClassificationTask, predict
from temperance.teacher import (
    CachedTeacher,
    LiveTeacher,
    Teacher,
    cacheable,
    fill,
    load_cache,
    save_cache,
)
from temperance.training import Engine, EngineArgs, TrainingArgs
from temperance.training.loop import train_student

CPU = torch.device("cpu")
PLAIN, CROPS = ViewSpec(), ViewSpec(crop_padding=2, flip=True, views=2)
SPECS = {
    "as they are": PLAIN,
    "as they are, in 3 views": ViewSpec(views=3),
    "2 views": CROPS,
    "3 views": ViewSpec(crop_padding=2, flip=True, views=3),
    "2 mixed views": ViewSpec(crop_padding=1, flip=True, mixup=0.4, views=2),
}
IMAGES = ImageSet(
    torch.randint(
        0, 256, (50, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    ),
    torch.arange(50) % 5,
    (torch.arange(50) * 7 % 50) * 3 + 100,  # in no order
    tuple("abcde"),
)


def model(width: int, seed: int) -> nn.Module:
    made = create_model(
        CNNArgs(width=width, blocks=2),
        channels=3,
        input_size=(8, 8),
        classes=IMAGES.classes,
        mean=[0.5] * 3,
        std=[0.3] * 3,
        seed=seed,
    )
    made.train()(IMAGES.images)  # so that its BatchNorms know something
    return made


TEACHER = model(8, 1)


def task(spec: ViewSpec, views: int = 1, seed: int = 3) -> ClassificationTask:
    return ClassificationTask(
        IMAGES, views=spec, batch_size=16, seed=seed, device=CPU, views_per_batch=views
    )


def parts(spec: ViewSpec, views: int) -> Iterator[Batch]:
    """What a training of four epochs asks a teacher, two micro-batches a step."""
    for batch in task(spec, views).batches(start=0, steps=12):
        yield from batch.split(2)


def cached(spec: ViewSpec, calibrator: nn.Module | None = None) -> CachedTeacher:
    return CachedTeacher(fill(TEACHER, IMAGES, spec, CPU), IMAGES.ids, calibrator)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
@pytest.mark.parametrize("views", [1, 2])
@pytest.mark.parametrize("temperature", [None, 2.5])
def test_it_says_what_the_live_teacher_says(
    spec: ViewSpec, views: int, temperature: float | None
) -> None:
    calibrator = TemperatureScaling.from_temperature(temperature) if temperature else None
    stored, live = cached(spec, calibrator), LiveTeacher(TEACHER, calibrator)
    asked = task(spec, views)
    for part in parts(spec, views):
        found, expected = stored.signal(asked, part), live.signal(asked, part)
        torch.testing.assert_close(found.logits, expected.logits, rtol=1e-5, atol=1e-5)
        assert (found.raw_logits is None) == (expected.raw_logits is None) == (not temperature)
        if temperature:
            torch.testing.assert_close(found.raw_logits, expected.raw_logits, rtol=1e-5, atol=1e-5)
        assert not found.logits.requires_grad
        assert not found.features


@pytest.mark.parametrize(
    ("spec", "objective"),
    [("as they are", "kd"), ("2 views", "kd"), ("2 mixed views", "kd"), ("2 views", "mlkd")],
)
def test_the_student_is_the_same(spec: str, objective: str, tmp_path: Path) -> None:
    variant = {"variant": "code"} if objective == "mlkd" else {}  # two views in a batch
    engine = Engine(EngineArgs(accelerator="cpu", threads=1))

    def taught_by(teacher: Teacher) -> list[Tensor]:
        learned = get_objective(objective, **variant)
        folder = tmp_path / type(teacher).__name__
        student = train_student(
            task(SPECS[spec], learned.needs.views), model(4, 2), teacher, learned,
            TrainingArgs(epochs=4, batch_size=16), engine, Run(folder), lambda _: {},
        )  # fmt: skip
        return [value.float() for value in student.state_dict().values()]

    start = [value.float() for value in model(4, 2).state_dict().values()]
    live, stored = taught_by(LiveTeacher(TEACHER)), taught_by(cached(SPECS[spec]))
    assert any((a - b).abs().max() > 0.01 for a, b in zip(start, live, strict=True))
    for a, b in zip(live, stored, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


# Filling.


def test_it_holds_the_views_that_trainings_have() -> None:
    """By hand: any training's views are those of seed 0."""
    logits = fill(TEACHER, IMAGES, CROPS, CPU, batch_size=7)
    TEACHER.eval()
    for view in (0, 1):
        images = apply_views(IMAGES.images, draw(CROPS, 0, IMAGES.ids, view), 2)
        with torch.no_grad():
            expected = TEACHER(images)
        torch.testing.assert_close(logits[view], expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(logits[0], logits[1], atol=0.1)


def test_of_images_as_they_are_it_is_the_prediction() -> None:
    logits = fill(TEACHER, IMAGES, PLAIN, CPU)
    expected, _ = predict(TEACHER, IMAGES, device=CPU)
    assert (logits.shape, logits.dtype) == ((1, 50, 5), torch.float32)
    torch.testing.assert_close(logits[0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 7, 49, 50, 51, 512])
def test_the_size_of_its_batches_does_not_matter(batch_size: int) -> None:
    logits = fill(TEACHER, IMAGES, CROPS, CPU, batch_size=batch_size)
    expected = fill(TEACHER, IMAGES, CROPS, CPU)
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_the_model_stays_as_it_was(training: bool) -> None:
    teacher = model(4, 5).train(training)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    fill(teacher, IMAGES, PLAIN, CPU)
    assert teacher.training == training
    after = teacher.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    "spec", [ViewSpec(flip=True), ViewSpec(crop_padding=1), ViewSpec(mixup=1.0)]
)
def test_views_without_end_are_refused(spec: ViewSpec) -> None:
    assert not cacheable(spec)
    assert cacheable(spec.model_copy(update={"views": 1}))
    with pytest.raises(UserError, match=r"augment\.views"):
        fill(TEACHER, IMAGES, spec, CPU)


def test_a_sample_that_was_not_asked_about() -> None:
    stored = CachedTeacher(torch.zeros(1, 2, 5), torch.tensor([100, 106]))
    batch = Batch(IMAGES.images[:2], torch.zeros(2, dtype=torch.int64), torch.tensor([106, 103]))
    with pytest.raises(ValueError, match="no sample with id 103"):
        stored.signal(task(PLAIN), batch)


# What objectives ask it.


def build(objective: str, **settings: object) -> None:
    learned = get_objective(objective, **settings)
    teacher = cached(PLAIN)
    student = probe(model(4, 2), IMAGES.images[:2])
    pair = Pair(student, teacher.probe(IMAGES.images[:2]), ids=IMAGES.ids, targets=IMAGES.targets)
    learned.build(pair)
    teacher.tap(learned.teacher_taps)


@pytest.mark.parametrize("name", sorted({*OBJECTIVES} - {"combined"}))
def test_objectives_of_logits_are_built_and_others_refused(name: str) -> None:
    if OBJECTIVES[name]().needs.features == "none":
        build(name)
        return
    with pytest.raises(UserError, match=r"cached teacher: .* activations, .* live teacher"):
        build(name)


def test_taps_by_name_are_refused_too() -> None:
    with pytest.raises(UserError, match="live teacher"):
        build("fitnet", student_taps=["backbone.head:in"], teacher_taps=["backbone.head:in"])
    with pytest.raises(UserError, match="live teacher"):
        cached(PLAIN).tap(("backbone.head:in",))


# On disk.


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "caches" / "teacher.safetensors"
    save_cache(path, fill(TEACHER, IMAGES, CROPS, CPU), IMAGES.ids)
    return path


def test_what_is_read_is_what_was_written(file: Path) -> None:
    logits, ids = load_cache(file)
    assert torch.equal(logits, fill(TEACHER, IMAGES, CROPS, CPU))
    assert torch.equal(ids, IMAGES.ids)
    assert [path.name for path in file.parent.iterdir()] == [file.name]


@pytest.mark.parametrize("place", ["nothing", "in the header", "first half", "last byte missing"])
def test_what_is_cut_off_is_named(file: Path, place: str) -> None:
    content = file.read_bytes()
    end = {"nothing": 0, "in the header": 50, "first half": len(content) // 2}.get(place, -1)
    file.write_bytes(content[:end])
    with pytest.raises(UserError, match="damaged") as caught:
        load_cache(file)
    assert str(caught.value).startswith(f"{file}: ")


@pytest.mark.parametrize("place", [0, 5, 20, 0.1, 0.5, 0.9, -1])
def test_a_byte_that_changed_is_noticed(file: Path, place: float) -> None:
    content = bytearray(file.read_bytes())
    where = place if isinstance(place, int) else int(place * len(content))
    content[where] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match="damaged") as caught:
        load_cache(file)
    assert str(caught.value).startswith(f"{file}: ")


def test_what_is_no_cache(tmp_path: Path) -> None:
    other = tmp_path / "model.safetensors"
    safetensors.torch.save_file({"weight": torch.zeros(2)}, other)
    with pytest.raises(UserError, match="holds no stored logits"):
        load_cache(other)
    with pytest.raises(UserError, match="no such file"):
        load_cache(tmp_path / "none.safetensors")
