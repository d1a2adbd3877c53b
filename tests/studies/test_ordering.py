from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from temperance.calibration import fit_temperature, negative_log_likelihood
from temperance.errors import UserError
from temperance.studies.ordering import cross_fitted_nll, order_of


def rows(n: int, sharpness: float = 3.0, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Over-confident: targets of softmax(z), logits of `sharpness` times that."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(n, 4, generator=generator)
    targets = torch.multinomial(z.softmax(1), 1, generator=generator)[:, 0]
    return sharpness * z, targets


def test_the_mean_is_the_cross_fit_of_the_temperature() -> None:
    logits, targets = rows(400)
    fit = fit_temperature(logits, targets, cross_fit=5)
    assert fit.cross_fit is not None
    nll = cross_fitted_nll(logits, targets, folds=5)
    assert nll.mean() == pytest.approx(fit.cross_fit.nll, rel=1e-6)
    assert fit.nll_after < nll.mean() < negative_log_likelihood(logits, targets)


def test_what_no_temperature_fits_stays_as_it_is() -> None:
    flat = torch.zeros(20, 4)
    assert cross_fitted_nll(flat, torch.arange(20) % 4) == pytest.approx(np.log(4))


def test_more_folds_than_rows_are_refused() -> None:
    with pytest.raises(UserError, match="5 folds of 3 rows"):
        cross_fitted_nll(*rows(3), folds=5)


def test_the_lowest_mean_is_first() -> None:
    order = order_of([np.full(9, 0.3), np.full(9, 0.1), np.full(9, 0.2)], same_rows=True)
    assert order.places == (1, 2, 0)
    assert order.nll == pytest.approx((0.1, 0.2, 0.3))
    assert order.first_is_best == 1
    assert order.behind == (
        (0, 0), pytest.approx((0.1, 0.1)), pytest.approx((0.2, 0.2)),
    )  # fmt: skip


def test_without_common_rows_nothing_is_said_of_how_sure_it_is() -> None:
    order = order_of([np.full(9, 0.3), np.full(5, 0.1)], same_rows=False)
    assert (order.places, order.first_is_best, order.behind) == ((1, 0), None, None)


def test_the_share_of_resampled_rows_is_that_of_the_normal_distribution() -> None:
    generator = np.random.default_rng(0)
    common, own = generator.normal(1, 1, 2_000), generator.normal(0, 0.5, 2_000)
    above = own - own.mean() + 0.01
    order = order_of([common, common + above], same_rows=True)
    expected = stats.norm.cdf(0.01 / (above.std() / np.sqrt(2_000)))
    assert order.places == (0, 1)
    assert order.first_is_best == pytest.approx(expected, abs=0.03)
    assert order.behind is not None
    half = 1.96 * above.std() / np.sqrt(2_000)
    assert order.behind[1] == pytest.approx((0.01 - half, 0.01 + half), abs=0.002)


def test_the_order_of_the_teachers_given_changes_nothing() -> None:
    columns = [np.random.default_rng(seed).normal(1, 0.1, 300) for seed in range(4)]
    one, other = (order_of(some, same_rows=True) for some in (columns, columns[::-1]))
    assert one.places == tuple(3 - place for place in other.places)
    assert (one.nll, one.first_is_best) == (other.nll, other.first_is_best)
