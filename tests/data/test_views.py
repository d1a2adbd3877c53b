import numpy as np
import pytest
import torch
from scipy import stats

from temperance.data import ViewSpec, apply_views, draw, view_of_epoch


def one_view(image, top, left, flip, padding):
    """A single image, pixel by pixel."""
    channels, height, width = image.shape
    out = np.zeros_like(image)
    for c in range(channels):
        for y in range(height):
            for x in range(width):
                source_x = width - 1 - x if flip else x
                i, j = y + top - padding, source_x + left - padding
                if 0 <= i < height and 0 <= j < width:
                    out[c, y, x] = image[c, i, j]
    return out


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 6, 9), (2, 5, 3)])
@pytest.mark.parametrize("padding", [0, 2, 7])
def test_batched_views_equal_the_pixelwise_reference(shape, padding):
    images = torch.from_numpy(
        np.random.default_rng(0).integers(0, 256, (20, *shape), dtype=np.uint8)
    )
    views = draw(ViewSpec(crop_padding=padding, flip=True), 5, torch.arange(20), view=3)
    result = apply_views(images, views, padding)
    assert result.dtype == torch.uint8
    for i in range(20):
        expected = one_view(
            images[i].numpy(), int(views.top[i]), int(views.left[i]), bool(views.flip[i]), padding
        )
        assert (result[i].numpy() == expected).all()


def test_without_augmentation_images_stay_as_they_are():
    images = torch.arange(24, dtype=torch.uint8).reshape(2, 1, 3, 4)
    nothing = draw(ViewSpec(), 0, torch.arange(2), view=9)
    assert torch.equal(apply_views(images, nothing, 0), images)


def test_a_view_is_the_same_in_any_batch():
    spec, ids = ViewSpec(crop_padding=4, flip=True), torch.arange(1000)
    images = torch.randint(0, 256, (1000, 1, 8, 8), dtype=torch.uint8)
    whole = apply_views(images, draw(spec, 1, ids, 2), 4)
    some = torch.tensor([999, 3, 500, 3])
    assert torch.equal(apply_views(images[some], draw(spec, 1, ids[some], 2), 4), whole[some])


def test_offsets_and_flips_are_uniform_and_independent():
    views = draw(ViewSpec(crop_padding=4, flip=True), 0, torch.arange(40_000), view=0)
    cells = (views.top * 9 + views.left) * 2 + views.flip
    assert stats.chisquare(cells.bincount(minlength=162).numpy()).pvalue > 1e-3


def test_seed_and_view_matter_and_golden_values_stay():
    spec, ids = ViewSpec(crop_padding=4, flip=True), torch.arange(100, 108)
    first = draw(spec, 0, ids, 0)
    assert not torch.equal(first.top, draw(spec, 0, ids, 1).top)
    assert not torch.equal(first.top, draw(spec, 1, ids, 0).top)
    assert first.top.tolist() == [6, 5, 0, 5, 8, 6, 4, 3]
    assert first.left.tolist() == [8, 5, 1, 7, 8, 7, 8, 6]
    assert first.flip.int().tolist() == [1, 0, 1, 0, 1, 0, 1, 1]


def test_views_repeat_or_not():
    assert [view_of_epoch(ViewSpec(views=3), epoch) for epoch in (0, 2, 3, 7)] == [0, 2, 0, 1]
    assert view_of_epoch(ViewSpec(), 7) == 7
