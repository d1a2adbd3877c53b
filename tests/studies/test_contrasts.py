from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from studies.simulated_studies import students_of
from temperance.config import load_config
from temperance.studies.contrasts import Contrast, Contrasts, Way, with_chosen
from temperance.studies.plan import PlannedStudent, StudyArgs
from temperance.studies.statistics import PairedDifference, paired_difference

ONE_WAY: dict[str, Any] = {"softenings": [1], "replicates": 6, "arms": ["raw", "calibrated"]}


def study(**given: Any) -> StudyArgs:
    return load_config(StudyArgs, ONE_WAY | given)


def found(args: StudyArgs, students: pd.DataFrame, **more: Any) -> dict[tuple[str, str], Contrast]:
    """The exploratory contrasts of a study with one way, by their arms."""
    every = Contrasts(args, students, **more).all()
    return {(c.arm, c.against): c for c in every if c.standing == "exploratory"}


def noise(planned: PlannedStudent) -> float:
    """A repeatable number for every student."""
    return float(np.random.default_rng(list(planned.name.encode())).normal())


# Pairs.


def test_seeds_are_averaged_within_their_teacher() -> None:
    args = study(student_seeds=3)
    students = students_of(args, noise)
    contrast = found(args, students)["calibrated", "raw"]
    wide = students.pivot_table("accuracy", ["teacher", "seed"], "arm")
    by_hand = 100 * (wide["calibrated"] - wide["raw"]).groupby("teacher").mean()
    assert sorted(contrast.differences) == pytest.approx(sorted(by_hand))
    assert contrast.difference.n == 6
    assert contrast.units == "teachers"


def test_a_student_without_its_partner_is_left_out() -> None:
    args = study(student_seeds=2)
    students = students_of(args, noise)
    lost = (students["arm"] == "raw") & (students["replicate"] == 0) & (students["seed"] == 1)
    wide = students[~lost].pivot_table("accuracy", ["teacher", "seed"], "arm").dropna()
    contrast = found(args, students[~lost])["calibrated", "raw"]
    by_hand = 100 * (wide["calibrated"] - wide["raw"]).groupby("teacher").mean()
    assert sorted(contrast.differences) == pytest.approx(sorted(by_hand))
    whole = students[(students["arm"] != "raw") | (students["replicate"] != 0)]
    assert found(args, whole)["calibrated", "raw"].difference.n == 5


def test_against_labels_pairs_are_of_the_replicate() -> None:
    """Teachers of one replicate share its students on labels, so they are one unit."""
    arms = ["labels+calibration", "raw"]
    args = study(arms=arms, pool={"factors": {"training.epochs": [1, 2, 3]}}, student_seeds=2)
    students = students_of(args, noise)
    contrast = found(args, students)["raw", "labels+calibration"]
    by_arm = students.groupby(["replicate", "arm"])["accuracy"].mean().unstack()
    by_hand = 100 * (by_arm["raw"] - by_arm["labels+calibration"])
    assert contrast.differences == pytest.approx(tuple(by_hand))
    assert (contrast.units, contrast.difference.n, contrast.difference.clusters) == (
        "replicates", 6, 6,
    )  # fmt: skip


def test_students_are_compared_with_those_of_their_own_recipe() -> None:
    args = study(
        arms=["labels", "labels+calibration", "raw"],
        students={"factors": {"model.width": [4, 8]}},
    )
    gains = {"student-width4": 0.0, "student-width8": 10.0}
    students = students_of(args, lambda p: gains[p.student] + (p.arm == "raw"))
    for contrast in Contrasts(args, students).all():
        expected = float(contrast.arm == "raw")
        assert contrast.difference.mean == pytest.approx(expected)
        assert contrast.way.student in gains
        assert str(contrast.way.student) in contrast.label


def test_teachers_of_one_family_are_one_cluster() -> None:
    variants = [{"name": "a", "family": "one"}, {"name": "b", "family": "two"}]
    args = study(pool={"variants": variants}, replicates=3)
    students = students_of(args, noise)
    contrast = found(args, students)["calibrated", "raw"]
    assert (contrast.difference.n, contrast.difference.clusters) == (6, 2)
    wide = students.pivot_table("accuracy", ["family", "teacher"], "arm")
    means = (100 * (wide["calibrated"] - wide["raw"])).groupby("family").mean()
    assert contrast.difference.mean == pytest.approx(means.mean())
    assert contrast.difference.low is None  # two families


def test_factors_and_softenings_are_ways_of_their_own() -> None:
    args = study(
        arms=["raw", "calibrated", "under-confident"], underconfidence=[0.5, 2], softenings=[1, 4]
    )
    students = students_of(args, lambda p: (p.factor or 0) * 10 + (p.cell.softening or 0))  # type: ignore[union-attr]
    every = [c for c in Contrasts(args, students).all() if "chosen" not in c.arm]
    means = {
        (c.way.softening, c.way.factor): c.difference.mean
        for c in every
        if (c.arm, c.against) == ("under-confident", "calibrated")
    }
    assert means == pytest.approx({(1, 0.5): 5, (1, 2.0): 20, (4, 0.5): 5, (4, 2.0): 20})
    assert "under-confident − raw (τ = 4, 2 × T)" in {c.label for c in every}


def test_arms_without_a_common_teacher_are_not_compared() -> None:
    args = study()
    students = students_of(args)
    apart = (students["arm"] == "raw") == (students["replicate"] < 3)
    assert Contrasts(args, students[apart]).all() == []


@settings(max_examples=25)
@given(
    shift=st.floats(-5, 5),
    gains=st.lists(st.floats(-5, 5), min_size=6, max_size=6),
    order=st.permutations(range(12)),
)
def test_only_differences_count(shift: float, gains: list[float], order: list[int]) -> None:
    """What is common to a teacher's arms, and the order of rows, change nothing."""
    args = study()
    students = students_of(args, lambda p: gains[p.replicate] * (p.arm == "calibrated"))
    moved = students.assign(accuracy=students["accuracy"] + shift / 100 * students["replicate"])
    moved = moved.iloc[list(order)]
    (contrast,) = Contrasts(args, moved).all()
    assert sorted(contrast.differences) == pytest.approx(sorted(gains), abs=1e-9)


# What was registered.


def test_a_registered_contrast_is_the_first_way_unless_it_says_another() -> None:
    base = {
        "arms": ["raw", "calibrated", "under-confident", "labels"],
        "objectives": ["dkd", "kd"],
        "softenings": [2, 4],
        "underconfidence": [0.5, 3],
        "students": {"factors": {"model.width": [4, 8]}},
        "replicates": 2,
    }
    blocks: list[dict[str, Any]] = [
        {"arm": "calibrated", "against": "raw"},
        {"arm": "calibrated", "against": "raw", "objective": "kd", "student": "student-width8"},
        {"arm": "under-confident", "against": "calibrated", "softening": 4},
        {"arm": "under-confident", "against": "raw", "factor": 3},
        {"arm": "raw", "against": "under-confident", "factor": 3},
        {"arm": "labels", "against": "raw", "softening": 4},
    ]
    args = study(**base, secondary=blocks)
    students = students_of(args, noise)
    first = Way("dkd", 2.0, "student-width4", "in-sample")
    expected = [
        first,
        first._replace(objective="kd", student="student-width8"),
        first._replace(softening=4.0, factor=0.5),
        first._replace(factor=3.0),
        first._replace(factor=3.0),
        first._replace(softening=4.0),
    ]
    every = Contrasts(args, students).all()
    secondary = [c for c in every if c.standing == "secondary"]
    assert [c.way for c in secondary] == expected
    for contrast, block in zip(secondary, blocks, strict=True):
        assert (contrast.arm, contrast.against) == (block["arm"], block["against"])
        means = []
        for arm in (contrast.arm, contrast.against):
            rows = students[(students["arm"] == arm) & (students.student == contrast.way.student)]
            for name in ("objective", "softening", "factor"):
                if rows[name].notna().any():
                    rows = rows[rows[name] == getattr(contrast.way, name)]
            assert len(rows) == 2  # one for each replicate
            means.append(rows["accuracy"].mean())
        assert contrast.difference.mean == pytest.approx(100 * (means[0] - means[1]))


def test_what_is_registered_is_not_listed_again() -> None:
    block = {"arm": "calibrated", "against": "raw"}
    args = study(primary=block, softenings=[1, 4])
    every = Contrasts(args, students_of(args)).all()
    assert [(c.way.softening, c.standing) for c in every if "chosen" not in c.arm] == [
        (1.0, "primary"), (4.0, "exploratory"),
    ]  # fmt: skip


@pytest.mark.parametrize("endpoint", ["nll", "brier"])
def test_other_endpoints_are_their_difference_times_100(endpoint: str) -> None:
    args = study(primary={"endpoint": endpoint, "direction": "less"})
    students = students_of(args, lambda p: 2 * (p.arm == "calibrated"))
    students[endpoint] = students["replicate"] + 0.03 * (students["arm"] == "calibrated")
    primary, accuracy = Contrasts(args, students, hits=lambda _: None).all()
    assert primary.differences == pytest.approx((3,) * 6)
    assert primary.difference.new_low is None  # hits are of accuracy
    assert primary.label.startswith(f"{endpoint}: calibrated − raw")
    assert accuracy.endpoint == "accuracy"


def test_an_alignment_test_leaves_no_primary_contrast() -> None:
    args = study(arms=["raw", "calibrated", "grid", "labels+calibration"],
                 primary={"analysis": "alignment"})  # fmt: skip
    assert {c.standing for c in Contrasts(args, students_of(args)).all()} == {"exploratory"}


def test_a_registered_contrast_whose_students_failed_is_not_there() -> None:
    args = study(primary={}, secondary=[{"arm": "calibrated", "against": "raw"}])
    students = students_of(args)
    assert Contrasts(args, students[students["arm"] == "raw"]).all() == []


def test_p_values_of_the_secondary_family_are_holms() -> None:
    """Sorted, each times the number of those not yet rejected, and never falling."""
    arms = ["raw", "calibrated", "constant-T", "symmetric", "A/A"]
    blocks = [{"arm": arm, "against": "raw"} for arm in arms[1:]]
    args = study(arms=arms, secondary=blocks, replicates=5)  # t-tests: without ties
    gains = dict(zip(arms, (0.0, 1.5, 0.2, 0.9, 0.0), strict=True))
    every = Contrasts(args, students_of(args, lambda p: gains[p.arm] + noise(p))).all()
    secondary = [c for c in every if c.standing == "secondary"]
    by_p = sorted(secondary, key=lambda c: c.p or 0)
    assert len({c.p for c in by_p}) == 4
    adjusted, largest = [], 0.0
    for place, contrast in enumerate(by_p):
        largest = max(largest, min(1.0, (4 - place) * contrast.p))  # type: ignore[operator]
        adjusted.append(largest)
    assert [c.p_adjusted for c in by_p] == pytest.approx(adjusted)
    assert all(c.p_adjusted is None for c in every if c.standing != "secondary")


def test_holm_leaves_out_what_has_no_p() -> None:
    blocks = [{"arm": arm, "against": "raw"} for arm in ("calibrated", "constant-T")]
    args = study(arms=["raw", "calibrated", "constant-T"], secondary=blocks)
    students = students_of(args, noise)
    few = students[(students["arm"] != "constant-T") | (students["replicate"] < 3)]
    known, unknown = (c for c in Contrasts(args, few).all() if c.standing == "secondary")
    assert known.p_adjusted == known.p
    assert unknown.p is None
    assert unknown.p_adjusted is None


@pytest.mark.parametrize(
    ("mean", "direction", "expected"),
    [
        (1.0, "two-sided", 0.08),
        (1.0, "greater", 0.04),
        (-1.0, "greater", 0.96),
        (1.0, "less", 0.96),
        (-1.0, "less", 0.04),
    ],
)
def test_p_is_that_of_the_direction(mean: float, direction: str, expected: float) -> None:
    by_t = PairedDifference(mean, 5, 5, 1.0, p=0.08)
    contrast = Contrast("calibrated", "raw", Way(), "", "accuracy", "teachers", (), by_t)
    assert contrast.p is not None
    directed = Contrast(
        "calibrated", "raw", Way(), "", "accuracy", "teachers", (), by_t, direction=direction
    )
    assert directed.p == pytest.approx(expected)


def test_p_is_of_sign_flips_where_there_are_enough_clusters() -> None:
    args = study(primary={"direction": "greater"})
    (contrast,) = Contrasts(args, students_of(args, lambda p: 1.0 * (p.arm != "raw"))).all()
    assert contrast.p == pytest.approx(1 / 2**6)  # all six of one sign


# τ chosen.


def test_tau_is_chosen_for_each_teacher_on_validation() -> None:
    args = study(softenings=[1, 2, 4], replicates=3, student_seeds=2)
    best = {0: 1.0, 1: 2.0, 2: 4.0}

    def validation(p: PlannedStudent) -> float:
        assert p.cell
        return float(p.cell.softening == best[p.replicate] and p.arm == "calibrated")

    students = students_of(args, noise, validation)
    chosen = with_chosen(students)
    added = chosen[chosen["arm"] == "calibrated, τ chosen"]
    of_best = students[
        (students["arm"] == "calibrated") & (students.softening == students.replicate.map(best))
    ]
    assert sorted(added["accuracy"]) == pytest.approx(sorted(of_best["accuracy"]))
    assert set(chosen.loc[chosen["arm"] == "raw, τ chosen", "teacher_softening"]) == {1.0}
    assert len(chosen) == len(students) + 2 * 3 * 2
    contrast = found(args, students)["calibrated, τ chosen", "raw, τ chosen"]
    raw = students[(students["arm"] == "raw") & (students.softening == 1)]
    expected = of_best["accuracy"].mean() - raw["accuracy"].mean()
    assert contrast.difference.mean == pytest.approx(100 * expected)
    assert contrast.way.softening is None


@pytest.mark.parametrize("spoilt", ["one softening", "no validation"])
def test_without_a_choice_nothing_is_chosen(spoilt: str) -> None:
    args = study(softenings=[1] if spoilt == "one softening" else [1, 2])
    students = students_of(args)
    if spoilt == "no validation":
        students["validation_accuracy"] = math.nan
    pd.testing.assert_frame_equal(with_chosen(students), students)


# Test rows.


def rows_of(
    students: pd.DataFrame, ids: Callable[[int], Sequence[int]]
) -> dict[str, pd.Series]:  # fmt: skip
    """Hits of every run on its replicate's test rows; the table's accuracy becomes theirs."""
    hits = {}
    for place, row in enumerate(students.itertuples()):
        rng = np.random.default_rng(place)
        known = list(ids(row.replicate))
        hit = pd.Series((rng.random(len(known)) < row.accuracy).astype(np.int8), known)
        hits[row.run] = hit.sample(frac=1, random_state=place)  # in any order
        students.loc[row.Index, "accuracy"] = float(hit.mean())
    return hits


@pytest.mark.parametrize("shared", [True, False])
def test_hits_give_the_interval_for_new_data(shared: bool) -> None:
    args = study(student_seeds=2, replicates=7)
    students = students_of(args, lambda p: 5.0 * (p.arm == "calibrated"))
    hits = rows_of(
        students, lambda r: range(0 if shared else 40 * r, 200 + (0 if shared else 40 * r))
    )
    contrast = found(args, students, hits=hits.get)["calibrated", "raw"]
    every = np.full((7, 200 + 40 * 6), np.nan)
    for replicate in range(7):
        of = students[students["replicate"] == replicate].set_index(["arm", "seed"])["run"]
        differences = [hits[of["calibrated", s]].astype(int) - hits[of["raw", s]] for s in (0, 1)]
        mean = 100 * sum(differences) / 2
        every[replicate, mean.index] = mean.to_numpy()
    rows = every[:, ~np.isnan(every).all(axis=0)]
    by_hand = paired_difference(np.nanmean(rows, axis=1).tolist(), None, rows)
    assert contrast.difference.new_low == pytest.approx(by_hand.new_low)
    assert contrast.difference.new_high == pytest.approx(by_hand.new_high)
    assert contrast.difference.low == pytest.approx(by_hand.low)


def test_without_all_hits_there_is_no_interval_for_new_data() -> None:
    args = study()
    students = students_of(args)
    hits = rows_of(students, lambda _: range(50))
    hits.pop(students["run"].iloc[0])
    contrast = found(args, students, hits=hits.get)["calibrated", "raw"]
    assert contrast.difference.new_low is None
    assert contrast.difference.low is not None


# As JSON.


def test_contrasts_come_back_from_json() -> None:
    args = study(primary={}, secondary=[{"arm": "calibrated", "against": "raw", "softening": 4}],
                 softenings=[1, 4], replicates=3)  # fmt: skip
    every = Contrasts(args, students_of(args, noise)).all()
    kept = json.loads(json.dumps([c.to_dict() for c in every], allow_nan=False))
    assert [Contrast.from_dict(record) for record in kept] == every
    assert [record["label"] for record in kept] == [c.label for c in every]


def test_another_seed_is_shared_by_the_teachers_of_a_replicate() -> None:
    """Its luck is one draw for all of them, so A/A is compared over replicates."""
    args = study(arms=["raw", "A/A"], pool={"factors": {"training.epochs": [1, 2, 3]}})
    luck = [1.0, -1.0, 1.0, -1.0, 1.0, -1.0]
    students = students_of(args, lambda p: luck[p.replicate] * (p.arm == "A/A"))
    contrast = found(args, students)["A/A", "raw"]
    assert (contrast.units, contrast.difference.n) == ("replicates", 6)
    assert contrast.differences == pytest.approx(luck)
    assert contrast.difference.direction == 0
