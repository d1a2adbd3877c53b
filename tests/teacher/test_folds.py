"""Of several teachers, the one that has not seen a row answers for it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from temperance.calibration import TemperatureScaling
from temperance.data import Batch, ImageSet, ViewSpec, folds
from temperance.errors import UserError
from temperance.models import CNNArgs, create_model
from temperance.tasks import ClassificationTask
from temperance.teacher import OutOfFoldTeacher

K, CPU = 3, torch.device("cpu")
SPEC = ViewSpec(crop_padding=2, flip=True)
IMAGES = ImageSet(
    torch.randint(
        0, 256, (30, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    ),
    torch.arange(30) % 5,
    (torch.arange(30) * 7 % 30) * 3 + 100,  # in no order
    tuple("abcde"),
)
FOLD_OF = dict(zip(IMAGES.ids.tolist(), folds(IMAGES, K, seed=1).tolist(), strict=True))


def model(seed: int) -> nn.Module:
    return create_model(
        CNNArgs(width=4, blocks=1), channels=1, input_size=(8, 8), classes=IMAGES.classes,
        mean=[0.5], std=[0.3], seed=seed,
    )  # fmt: skip


MODELS = [model(seed) for seed in range(K)]


def task(views: int = 1) -> ClassificationTask:
    return ClassificationTask(
        IMAGES, views=SPEC, batch_size=12, seed=3, device=CPU, views_per_batch=views
    )


def some(chosen: list[int]) -> Batch:
    rows = torch.tensor(chosen)
    return Batch(IMAGES.images[rows], IMAGES.targets[rows], IMAGES.ids[rows])


@pytest.mark.parametrize("views", [1, 2])
@pytest.mark.parametrize("temperature", [None, 2.5])
def test_each_row_is_answered_by_the_model_that_has_not_seen_it(
    views: int, temperature: float | None
) -> None:
    calibrator = TemperatureScaling.from_temperature(temperature) if temperature else None
    teacher = OutOfFoldTeacher(MODELS, FOLD_OF, calibrator)
    asked = task(views)
    for batch in asked.batches(start=0, steps=4):
        found = teacher.signal(asked, batch)
        with torch.no_grad():
            expected = torch.stack(
                [
                    MODELS[FOLD_OF[int(id_)]](image[None])[0]
                    for id_, image in zip(batch.ids, batch.images, strict=True)
                ]
            )
        logits = expected / (temperature or 1.0)
        torch.testing.assert_close(found.logits, logits, rtol=1e-5, atol=1e-5)
        assert not found.logits.requires_grad
        if temperature is None:
            assert found.raw_logits is None
        else:
            torch.testing.assert_close(found.raw_logits, expected, rtol=1e-5, atol=1e-5)


def test_a_batch_costs_one_pass() -> None:
    seen: list[int] = []
    counted = [model(seed) for seed in range(K)]
    for one in counted:
        one.register_forward_hook(lambda _, given, output: seen.append(len(given[0])))
    teacher = OutOfFoldTeacher(counted, FOLD_OF)
    teacher.signal(task(), some(list(range(30))))
    assert seen == [10, 10, 10]


def test_a_batch_of_one_fold() -> None:
    only = [row for row, id_ in enumerate(IMAGES.ids.tolist()) if FOLD_OF[id_] == 1]
    batch = some(only)
    found = OutOfFoldTeacher(MODELS, FOLD_OF).signal(task(), batch)
    with torch.no_grad():
        torch.testing.assert_close(found.logits, MODELS[1](batch.images))


def test_models_are_frozen_and_in_eval_mode() -> None:
    fresh = [model(seed).train() for seed in range(K)]
    OutOfFoldTeacher(fresh, FOLD_OF)
    assert not any(one.training for one in fresh)
    assert not any(p.requires_grad for one in fresh for p in one.parameters())


def test_samples_of_no_fold() -> None:
    teacher = OutOfFoldTeacher(MODELS, {100: 0, 106: 1})
    with pytest.raises(ValueError, match="no sample with id"):
        teacher.signal(task(), some([0, 1]))


def test_folds_without_a_model() -> None:
    with pytest.raises(ValueError, match="2 models for 3 folds"):
        OutOfFoldTeacher(MODELS[:2], FOLD_OF)


def test_what_objectives_ask_it() -> None:
    teacher = OutOfFoldTeacher(MODELS, FOLD_OF)
    assert teacher.probe(IMAGES.images[:2]).classes == 5
    teacher.tap(())
    with pytest.raises(UserError, match=r"out-of-fold teacher: .*head:in"):
        teacher.tap(("head:in",))
