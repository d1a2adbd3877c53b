from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from statsmodels.stats.outliers_influence import variance_inflation_factor

from temperance.studies.statistics.predictors import collinearity, identities


def measures(seed: int, *, over: float, teachers: int = 20) -> pd.DataFrame:
    """Teachers with gaps about `over`, each with one sign in all its bins."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame({"accuracy": rng.uniform(0.7, 0.95, teachers)})
    frame["gap"] = over + rng.uniform(-0.04, 0.04, teachers)
    frame["ece"] = frame["gap"].abs()
    frame["log_temperature"] = 8 * frame["gap"] + rng.normal(0, 0.05, teachers)
    return frame


def test_inflation_is_statsmodels_s() -> None:
    frame = measures(0, over=0.05).drop(columns="ece")
    design = np.column_stack([np.ones(20), frame])
    expected = [variance_inflation_factor(design, i) for i in (1, 2, 3)]
    assert collinearity(frame)["vif"].tolist() == pytest.approx(expected)
    assert max(expected) > 10  # gap and log temperature say the same


def test_two_predictors_by_hand() -> None:
    frame = measures(1, over=0.05)[["accuracy", "gap"]]
    r = frame.corr().iloc[0, 1]
    found = collinearity(frame)
    assert found["vif"].tolist() == pytest.approx([1 / (1 - r**2)] * 2)
    assert found.loc["gap", "with_accuracy"] == pytest.approx(r)
    assert found.loc["gap", "with_gap"] == pytest.approx(1)


def test_ece_of_over_confident_teachers_is_their_gap() -> None:
    frame = measures(2, over=0.05)
    found = collinearity(frame)
    assert found["same_as"].tolist() == ["", "ece", "gap", ""]
    assert found["vif"].map(math.isinf).tolist() == [False, False, True, False]
    assert identities(frame) == [
        "ece is gap for all 20 teachers, since all are over-confident: it says how confident a"
        " teacher is and no more about calibration."
    ]


def test_ece_of_under_confident_teachers_is_minus_their_gap() -> None:
    frame = measures(3, over=-0.05)
    assert collinearity(frame)["same_as"].tolist() == ["", "−ece", "−gap", ""]
    (sentence,) = identities(frame)
    assert sentence.startswith("ece is −gap for all 20 teachers, since all are under-confident")


def test_a_pool_of_both_signs_tells_ece_from_gap() -> None:
    frame = measures(4, over=0)
    assert identities(frame) == []
    assert collinearity(frame)["same_as"].eq("").all()
    frame["absolute_gap"] = frame["gap"].abs()
    (sentence,) = identities(frame)
    assert "absolute_gap is ece for all 20 teachers, since each is over- or under" in sentence


def test_one_bin_of_the_other_sign_is_no_identity() -> None:
    frame = measures(5, over=0.05)
    frame.loc[7, "ece"] += 1e-4
    assert identities(frame) == []


def test_sums_are_named() -> None:
    frame = measures(6, over=0)
    frame["confidence"] = frame["accuracy"] + frame["gap"]
    frame["refinement"] = 0.5 - 0.3 * frame["accuracy"] ** 2
    frame["calibration"] = frame["gap"] ** 2
    frame["nll"] = frame["refinement"] + frame["calibration"]
    first, second = identities(frame)
    assert first.startswith("gap is confidence − accuracy:")
    assert second.startswith("nll is refinement + calibration:")
    found = collinearity(frame)["vif"]
    assert found.index[found.map(math.isinf)].tolist() == ["gap", "nll"]
    kept = frame.drop(columns=["gap", "nll"])  # the regression does without them
    assert found.drop(["gap", "nll"]).tolist() == pytest.approx(collinearity(kept)["vif"].tolist())


@pytest.mark.parametrize("teachers", [0, 1, 2, 4, 5])
def test_small_pools(teachers: int) -> None:
    frame = measures(7, over=0, teachers=teachers)
    assert not collinearity(frame)["vif"].between(1, 1e6).any()
    assert list(collinearity(frame).index) == list(frame.columns)


def test_constants_and_missing_values() -> None:
    frame = measures(8, over=0.05)
    frame["ece"] = 0.1
    frame.loc[0, "gap"] = math.nan
    found = collinearity(frame)
    assert found["vif"].isna().tolist() == [False, False, True, False]
    expected = collinearity(frame.drop(index=0).drop(columns="ece"))
    assert found["vif"].dropna().tolist() == pytest.approx(expected["vif"].tolist())
    assert math.isnan(found.loc["ece", "with_gap"])
    assert identities(frame) == []


def test_a_measure_that_no_teacher_has_costs_no_teacher() -> None:
    frame = measures(9, over=0.05)
    without = collinearity(frame)
    found = collinearity(frame.assign(ace=math.nan))
    assert found.loc["ace"].drop("same_as").isna().all()
    pd.testing.assert_frame_equal(found.drop("ace"), without)
