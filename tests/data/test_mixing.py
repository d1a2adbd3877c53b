import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from temperance.config import load_config
from temperance.data import ViewSpec, draw
from temperance.data.mixing import WHOLE, Mixing, draw_mixing, mix_images, mix_targets, partners
from temperance.errors import UserError


@pytest.mark.parametrize("alpha", [0.1, 0.4, 1.0, 8.0])
def test_shares_are_beta_distributed(alpha):
    shares = draw_mixing(alpha, 3, torch.arange(20_000), view=1).share / WHOLE
    assert shares.min() >= 0
    assert shares.max() <= 1
    # Shares are rounded; where the density is infinite, that matters only at the very ends.
    inside = shares[(shares > 1e-3) & (shares < 1 - 1e-3)].double().numpy()
    ends = stats.beta.cdf(1e-3, alpha, alpha)

    def conditional(x):
        return (stats.beta.cdf(x, alpha, alpha) - ends) / (1 - 2 * ends)

    assert stats.kstest(inside, conditional).pvalue > 1e-3
    assert stats.binomtest(20_000 - len(inside), 20_000, 2 * ends).pvalue > 1e-3


def test_partners_are_all_others_equally_often_and_never_the_image_itself():
    n, repeats = 7, 3000
    counts = np.zeros((n, n), dtype=int)
    for view in range(repeats):
        mixing = draw_mixing(1.0, 0, torch.arange(n), view)
        counts[np.arange(n), partners(mixing, torch.arange(n), n).numpy()] += 1
    assert (counts.diagonal() == 0).all()
    others = counts[~np.eye(n, dtype=bool)]
    assert stats.chisquare(others).pvalue > 1e-3


def test_share_and_partner_are_independent_of_each_other_and_of_the_crop():
    spec = ViewSpec(crop_padding=1, flip=True, mixup=1.0)
    drawn = draw(spec, 5, torch.arange(30_000), view=0)
    share, partner = drawn.mixing.share * 4 // (WHOLE + 1), drawn.mixing.partner % 5
    for other, levels in ((partner, 5), (drawn.top, 3), (drawn.left, 3), (drawn.flip.long(), 2)):
        table = (share.long() * levels + other).bincount(minlength=4 * levels).reshape(4, levels)
        assert stats.chi2_contingency(table.numpy()).pvalue > 1e-3


def test_crops_are_the_same_with_and_without_mixing():
    ids = torch.arange(50)
    plain, mixed = (
        draw(ViewSpec(crop_padding=4, flip=True, mixup=mixup), 1, ids, 2) for mixup in (0, 0.2)
    )
    assert plain.mixing is None
    assert mixed.mixing is not None
    for name in ("top", "left", "flip"):
        assert torch.equal(getattr(plain, name), getattr(mixed, name))


def test_golden_values_stay():
    mixing = draw_mixing(1.0, 0, torch.arange(100, 104), view=0)
    assert mixing.share.tolist() == [36146, 56822, 16890, 7238]
    assert (mixing.partner % 1000).tolist() == [361, 361, 590, 648]


bytes_ = st.integers(0, 255)


@settings(deadline=None)
@given(own=bytes_, other=bytes_, share=st.integers(0, WHOLE))
def test_pixels_are_mixed_as_fractions_are(own, other, share):
    pixel = torch.tensor([[[[own]]], [[[other]]]], dtype=torch.uint8)
    mixing = Mixing(torch.tensor([share], dtype=torch.int32), torch.tensor([0]))
    # In integers, halves up: floor(x + 1/2)
    expected = (share * own + (WHOLE - share) * other + WHOLE // 2) // WHOLE
    found = mix_images(pixel[:1], pixel[1:], mixing)
    assert found.dtype == torch.uint8
    assert found.item() == expected


@settings(deadline=None)
@given(share=st.integers(0, WHOLE), own=st.integers(0, 3), other=st.integers(0, 3))
def test_targets_sum_to_one_exactly(share, own, other):
    mixing = Mixing(torch.tensor([share], dtype=torch.int32), torch.tensor([0]))
    (soft,) = mix_targets(torch.tensor([own]), torch.tensor([other]), mixing, n_classes=4)
    assert soft.dtype == torch.float32
    assert float(soft.sum()) == 1
    assert float(soft[own]) == (1 if own == other else share / WHOLE)


@pytest.mark.parametrize("alpha", ["-0.1", ".inf", ".nan"])
def test_impossible_alphas_are_refused(alpha):
    with pytest.raises(UserError, match="mixup"):
        load_config(ViewSpec, overrides=[f"mixup={alpha}"])
