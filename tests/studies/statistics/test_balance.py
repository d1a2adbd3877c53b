from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from temperance.studies.statistics.balance import (
    ace_axis,
    intraclass_correlation,
    pool_balance,
)

# Shrout & Fleiss (1979), table 2: six targets rated by four judges.
RATINGS = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]


def test_shrout_and_fleiss() -> None:
    """ICC(1, 1) = .17."""
    ratings = np.array(RATINGS, dtype=float)
    found = intraclass_correlation(ratings.ravel(), np.repeat(np.arange(6), 4))
    assert found == pytest.approx(0.17, abs=0.005)
    between, within = 4 * ratings.mean(1).var(ddof=1), ratings.var(1, ddof=1).mean()
    assert found == pytest.approx((between - within) / (between + 3 * within))


def test_intraclass_correlation_of_unequal_groups_is_about_the_true_one() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(3000), rng.integers(1, 5, 3000))
    values = math.sqrt(0.7) * rng.standard_normal(3000)[groups]
    values += math.sqrt(0.3) * rng.standard_normal(len(groups))
    assert intraclass_correlation(values, groups) == pytest.approx(0.7, abs=0.03)


@pytest.mark.parametrize("values", [[1.0, 2.0, 3.0], [2.0, 2.0, 2.0]])
def test_no_group_of_two_has_no_intraclass_correlation(values: list[float]) -> None:
    assert intraclass_correlation(np.array(values), "abc") is None
    assert intraclass_correlation(np.array(values), "aaa") is None


def crossed() -> tuple[pd.DataFrame, np.ndarray]:
    """Two accuracies × four gaps of both signs × two seeds; families are recipes."""
    rows = [
        {"recipe": f"{accuracy}{gap}", "replicate": seed, "accuracy": accuracy, "gap": gap}
        for accuracy in (0.8, 0.9)
        for gap in (-0.1, -0.03, 0.03, 0.1)
        for seed in range(2)
    ]
    pool = pd.DataFrame(rows).assign(checkpoint=math.nan)
    pool["family"] = pool["recipe"]
    return pool, 100 * pool["accuracy"].to_numpy() + 0.1 * pool["replicate"].to_numpy()


def test_a_crossed_pool_is_balanced() -> None:
    found = pool_balance(*crossed())
    assert (found.n, found.families, found.recipes, found.fewest_seeds) == (16, 8, 8, 2)
    assert (found.over, found.under) == (8, 8)
    assert found.correlation == pytest.approx(0, abs=1e-9)
    assert found.seeds_correlation > 0.99
    assert found.remarks == []


def test_a_collected_pool_is_not() -> None:
    """Larger networks are both more accurate and more over-confident; one seed each."""
    accuracy = np.linspace(0.7, 0.9, 6)
    pool = pd.DataFrame({"accuracy": accuracy, "gap": accuracy / 5, "replicate": 0})
    pool = pool.assign(checkpoint=math.nan, recipe=list("abcdef"), family=list("aabbcc"))
    found = pool_balance(pool, 100 * accuracy)
    assert found.correlation == pytest.approx(1)
    assert found.seeds_correlation is None
    separated, sides, seeds, families = found.remarks
    assert "r = 1.00, wanted within ±0.3" in separated
    assert "no teacher is under-confident" in sides
    assert "one seed" in seeds
    assert "3 families are too few" in families


def test_checkpoints_of_a_run_are_no_seeds() -> None:
    pool, outcome = crossed()
    pool = pool[pool["replicate"] == 0]
    snapshots = pd.concat([pool, pool.assign(checkpoint=5.0)])
    found = pool_balance(snapshots, np.tile(outcome[::2], 2))
    assert found.fewest_seeds == 1
    assert found.seeds_correlation is None


def test_two_teachers_have_no_correlation() -> None:
    pool, outcome = crossed()
    found = pool_balance(pool[:2], outcome[:2])
    assert math.isnan(found.correlation)
    assert "r = unknown" in found.remarks[0]
    with pytest.raises(ValueError, match="at least one teacher"):
        pool_balance(pool[:0], outcome[:0])


def test_a_blind_axis_is_refused() -> None:
    sees = ace_axis([3.0, 8.0, 30.0])
    assert sees.usable
    assert sees.sentence.startswith("ACE sees")
    blind = ace_axis([3.0, 2.9, -0.5, 12.0])
    assert not blind.usable
    assert (blind.n, blind.seeing, blind.median) == (4, 2, pytest.approx(2.95))
    assert "refused as an axis" in blind.sentence
    assert "2 of 4 teachers" in blind.sentence


@pytest.mark.parametrize("changes", [[], [math.nan, 4.0]])
def test_unknown_power_is_refused(changes: list[float]) -> None:
    with pytest.raises(ValueError, match="finite and at least one"):
        ace_axis(changes)
