from __future__ import annotations

from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from temperance.config import load_config
from temperance.errors import UserError
from temperance.studies.plan import StudyArgs
from temperance.studies.pool import (
    PoolArgs,
    StudentArgs,
    TeacherArgs,
    planned_teachers,
    resolve_pool,
)


def pool(**given: Any) -> PoolArgs:
    return load_config(PoolArgs, given)


def names(base: TeacherArgs | StudentArgs, found: PoolArgs) -> list[str]:
    return [entry.name for entry in resolve_pool(base, found)]


def test_a_pool_of_nothing_is_the_base() -> None:
    assert resolve_pool(TeacherArgs(), PoolArgs()) == (TeacherArgs(),)


def test_variants_are_settings_on_top_of_the_base() -> None:
    base = load_config(TeacherArgs, {"training": {"epochs": 7, "batch_size": 32}})
    found = pool(variants=[
        {"name": "short", "training": {"epochs": 2}},
        {"name": "smooth", "objective": {"label_smoothing": 0.1}, "family": "smooth ones"},
    ])  # fmt: skip
    short, smooth = resolve_pool(base, found)
    assert (short.training.epochs, short.training.batch_size) == (2, 32)
    assert (smooth.training.epochs, smooth.objective.label_smoothing) == (7, 0.1)
    assert (short.family, smooth.family) == (None, "smooth ones")


def test_every_variant_is_crossed_with_all_factors() -> None:
    found = pool(
        variants=[{"name": "a"}, {"name": "b", "model": {"name": "mlp"}}],
        factors={"training.epochs": [2, 8], "objective.label_smoothing": [0.0, 0.1]},
    )
    entries = resolve_pool(TeacherArgs(), found)
    assert [
        (e.name, e.model.name, e.training.epochs, e.objective.label_smoothing) for e in entries
    ] == [
        (f"{name}-epochs{epochs}-label_smoothing{smoothing}", model, epochs, smoothing)
        for (name, model), epochs, smoothing in product(
            [("a", TeacherArgs().model.name), ("b", "mlp")], [2, 8], [0.0, 0.1]
        )
    ]


def test_variants_without_a_name_are_numbered() -> None:
    two = [{"training": {"epochs": 1}}, {"training": {"epochs": 2}}]
    assert names(TeacherArgs(), pool(variants=two)) == ["teacher1", "teacher2"]
    assert names(TeacherArgs(name="big"), pool(variants=two[:1])) == ["big"]


def test_a_factor_may_be_a_whole_block() -> None:
    found = pool(factors={"model": [{"name": "mlp", "width": 4}, {"name": "cnn"}]})
    entries = resolve_pool(StudentArgs(), found)
    assert [e.name for e in entries] == ["student-modelmlp", "student-modelcnn"]
    assert [e.model.name for e in entries] == ["mlp", "cnn"]


def test_a_factor_may_be_null_or_a_word() -> None:
    assert names(TeacherArgs(), pool(factors={"family": [None, "x y"]})) == [
        "teacher-familyNone", "teacher-familyxy",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"factors": {"training.epoch": [1]}}, "Did you mean 'epochs'?"),
        ({"factors": {"trainig.epochs": [1]}}, "Did you mean 'training'?"),
        ({"variants": [{"objective": {"label_smoothin": 0.1}}]}, "Did you mean 'label_smoothing'?"),
        ({"variants": [{"name": "a b"}]}, "name"),
        ({"variants": [{"name": "../up"}]}, "name"),
        ({"factors": {"training.epochs": ["many"]}}, "training.epochs"),
        ({"factors": {"training.epochs": []}}, "'training.epochs' has no values"),
        ({"variants": [{"name": "x"}, {"name": "x"}]}, "two are called 'x'"),
        ({"factors": {"training.epochs": [3, 3]}}, "two are called 'teacher-epochs3'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("key", ["pool", "students"])
def test_what_is_wrong_with_a_pool_is_named(given: dict[str, Any], words: str, key: str) -> None:
    if key == "students" and "objective" in str(given):
        given = {"variants": [{"augment": {"fliip": True}}]}
        words = "'fliip'"
    with pytest.raises(UserError) as refused:
        load_config(StudyArgs, {key: given})
    assert words.replace("'teacher-", f"'{'teacher' if key == 'pool' else 'student'}-") in str(
        refused.value
    )


@given(
    widths=st.lists(st.integers(1, 64), max_size=4, unique=True),
    epochs=st.lists(st.integers(1, 64), max_size=4, unique=True),
    variants=st.integers(0, 3),
)
def test_how_many_there_are(widths: list[int], epochs: list[int], variants: int) -> None:
    factors: dict[str, Any] = {"model.width": widths, "training.epochs": epochs}
    factors = {key: values for key, values in factors.items() if values}
    found = pool(variants=[{}] * variants, factors=factors)
    entries = resolve_pool(StudentArgs(), found)
    count = max(variants, 1) * max(len(widths), 1) * max(len(epochs), 1)
    assert len(entries) == len({entry.name for entry in entries}) == count


def test_families_are_trainings_unless_named() -> None:
    def families(*entries: TeacherArgs) -> list[str]:
        return [teacher.family for teacher in planned_teachers(entries, 2)]

    a, b = TeacherArgs(name="a"), TeacherArgs(name="b")
    assert families(a) == ["r0-a", "r1-a"]
    assert families(a, b) == ["r0-a", "r0-b", "r1-a", "r1-b"]
    assert families(a, TeacherArgs(name="c", family="a")) == ["r0-a", "a", "r1-a", "a"]
    snapshots = load_config(TeacherArgs, {"name": "s", "training": {"snapshots": [2, 1]}})
    assert families(snapshots) == ["r0-s"] * 3 + ["r1-s"] * 3


def test_states_of_one_training_are_teachers_in_their_order() -> None:
    entry = load_config(TeacherArgs, {"name": "s", "training": {"epochs": 9, "snapshots": [5, 1]}})
    teachers = planned_teachers([entry], 2)
    assert [teacher.name for teacher in teachers] == [
        f"r{r}-s{at}" for r in (0, 1) for at in ("@1", "@5", "")
    ]
    assert len({teacher.training for teacher in teachers}) == 2
