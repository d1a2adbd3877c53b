from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from temperance.studies.statistics import paired_difference
from temperance.studies.statistics.mixed import mixed_effect

# Extra hours of sleep of ten patients by two drugs (Student 1908).
FIRST = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
SECOND = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]


def study(
    seed: int,
    *,
    families: int = 8,
    teachers: int = 1,
    seeds: int = 1,
    sd_of_effect: float = 0.4,
    sd_of_seeds: float = 0.4,
    effect: float = 0.5,
) -> pd.DataFrame:
    """Students of two arms, raw and calibrated; sds in points."""
    rng = np.random.default_rng(seed)
    rows = []
    for family in range(families):
        level, gain = 1.0 * rng.normal(), effect + sd_of_effect * rng.normal()
        for teacher in range(teachers):
            base, own = level + 0.5 * rng.normal(), gain + sd_of_effect * rng.normal()
            for arm, shift in (("raw", 0.0), ("calibrated", own)):
                points = 80 + base + shift + sd_of_seeds * rng.normal(size=seeds)
                rows += [
                    (f"{family}-{teacher}", f"family {family}", arm, value / 100)
                    for value in points
                ]
    return pd.DataFrame(rows, columns=["teacher", "family", "arm", "accuracy"])


def by_pairs(students: pd.DataFrame) -> tuple[float, float]:
    """Mean and standard error of the paired difference of the same students."""
    means = students.groupby(["teacher", "family", "arm"])["accuracy"].mean().unstack()
    differences = 100 * (means["calibrated"] - means["raw"])
    found = paired_difference(
        differences.to_list(), differences.index.get_level_values("family").to_list()
    )
    return found.mean, found.sd / np.sqrt(found.clusters)


def test_student_s_sleep() -> None:
    """The paired t-test, t = 4.0621 (R's manual), is this model: 1.58 / 4.0621 = 0.38896."""
    patients = [f"patient {i}" for i in range(10)]
    frame = pd.DataFrame(
        {
            "teacher": patients * 2,
            "family": patients * 2,
            "arm": ["first"] * 10 + ["second"] * 10,
            "accuracy": np.array(FIRST + SECOND) / 100,
        }
    )
    found = mixed_effect(frame, "second", "first")
    assert found.estimate == pytest.approx(1.58)
    assert found.se == pytest.approx(1.58 / 4.0621, abs=1e-4)
    assert (found.n, found.groups, found.converged) == (20, 10, True)


@pytest.mark.parametrize("seed", [1, 3])
@pytest.mark.parametrize(("teachers", "seeds"), [(1, 1), (1, 3), (3, 1), (3, 2)])
def test_balanced_studies_are_paired_means(teachers: int, seeds: int, seed: int) -> None:
    students = study(seed, teachers=teachers, seeds=seeds)
    found = mixed_effect(students, "calibrated", "raw")
    assert found.converged
    assert (found.n, found.groups) == (len(students), 8)
    assert (found.estimate, found.se) == pytest.approx(by_pairs(students), rel=2e-3)

    turned = mixed_effect(students, "raw", "calibrated")
    assert turned.estimate == pytest.approx(-found.estimate, rel=1e-3)


def test_seeds_that_change_nothing_are_no_students() -> None:
    """Identical students would leave no residual, and the optimiser a wrong standard error."""
    once = study(3)
    twice = pd.concat([once, once])
    found, single = (mixed_effect(students, "calibrated", "raw") for students in (twice, once))
    assert found.se == pytest.approx(single.se)
    assert (found.n, single.n) == (32, 16)


def test_unequal_numbers_of_teachers_and_seeds() -> None:
    """Families weigh by what they know: between the mean of families and that of teachers."""
    whole = study(1, teachers=3, seeds=2, sd_of_effect=0.6)
    few = whole["family"].isin(["family 0", "family 1", "family 2"])
    students = whole[~few | whole["teacher"].str.endswith("-0")]
    found = mixed_effect(students, "calibrated", "raw")
    mean, error = by_pairs(students)
    assert found.converged
    assert found.estimate == pytest.approx(mean, abs=error)
    assert found.se == pytest.approx(error, rel=0.3)


def test_a_variance_of_zero_is_told() -> None:
    """Without differences between teachers' effects, about every second fit ends there."""
    fits = [
        mixed_effect(study(seed, seeds=3, sd_of_effect=0.0), "calibrated", "raw")
        for seed in range(4)
    ]
    assert {found.converged for found in fits} == {True, False}
    assert all(0.05 < found.se < 0.3 for found in fits)


def test_arms_that_are_the_same() -> None:
    students = study(0, teachers=2, sd_of_seeds=0.0, sd_of_effect=0.0, effect=0.0)
    found = mixed_effect(students, "calibrated", "raw")
    assert found.estimate == pytest.approx(0, abs=1e-9)


def test_nothing_varies() -> None:
    students = study(0, seeds=2)
    steps = np.where(students["arm"] == "raw", 0.8, 0.9)
    for accuracy in (0.9, steps):
        assert mixed_effect(students.assign(accuracy=accuracy), "calibrated", "raw") is None


def test_coarse_accuracies_of_ragged_studies_never_break() -> None:
    """Test sets of 100 rows, a fifth of the students missing."""
    for seed in range(5):
        students = study(seed, families=6, teachers=1 + seed % 2, seeds=2, sd_of_effect=0.2)
        students["accuracy"] = students["accuracy"].round(2)
        students = students[np.random.default_rng(seed).random(len(students)) < 0.8]
        found = mixed_effect(students, "calibrated", "raw")
        assert found is None or (abs(found.estimate) < 3 and 0 < found.se < 2)


def test_few_families_and_no_arm() -> None:
    assert mixed_effect(study(0, families=4, teachers=3), "calibrated", "raw") is None
    with pytest.raises(ValueError, match="no student of the arm 'bayes'"):
        mixed_effect(study(0), "bayes", "raw")


def test_other_arms_are_ignored() -> None:
    students = study(0)
    others = students.assign(arm="labels", accuracy=0.1)
    found = mixed_effect(pd.concat([students, others]), "calibrated", "raw")
    assert found == mixed_effect(students, "calibrated", "raw")
