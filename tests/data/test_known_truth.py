from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from temperance.data import DataArgs, Dataset, ImageSet, SplitArgs, load_dataset, make_splits
from temperance.data.known_truth import with_known_truth

PROBABILITIES = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64)


def image_set(n, first_id=0):
    images = torch.zeros(n, 1, 2, 2, dtype=torch.uint8)
    return ImageSet(images, torch.arange(n) % 4, torch.arange(n) + first_id, tuple("abcd"))


def everywhere(images):
    """The same logits for every image, in the precision that models have."""
    return PROBABILITIES.log().float().expand(len(images), 4)


def varied(images):
    """Logits that depend on the image's id."""
    generator = np.random.default_rng(0)
    table = torch.from_numpy(generator.normal(size=(5000, 4)) * 2).float()
    return table[images.ids]


def made(n=4000, test=None):
    return Dataset("made", image_set(n), test)


def test_labels_have_the_frequencies_of_the_truth():
    drawn = with_known_truth(made(), everywhere).train
    assert torch.allclose(drawn.truth, PROBABILITIES.expand(4000, 4), atol=1e-7)
    expected = 4000 * PROBABILITIES.numpy()
    assert stats.chisquare(drawn.targets.bincount(minlength=4).numpy(), expected).pvalue > 1e-3


def test_labels_follow_each_image():
    """Over classes and over ranks of the classes, what is drawn is what was promised."""
    drawn = with_known_truth(made(), varied).train
    for values in (drawn.truth, drawn.truth.sort(1).values):
        chosen = drawn.truth.argsort(1).argsort(1) if values is not drawn.truth else None
        picked = drawn.targets if chosen is None else chosen.gather(1, drawn.targets[:, None])[:, 0]
        for label in range(4):
            expected, variance = (
                float(values[:, label].sum()),
                float((values[:, label] * (1 - values[:, label])).sum()),
            )
            z = (int((picked == label).sum()) - expected) / variance**0.5
            assert abs(z) < 3.3


def test_softening_divides_the_logits():
    drawn = with_known_truth(made(), varied, softening=2.5).train
    expected = torch.softmax(varied(drawn).double() / 2.5, 1)
    assert torch.allclose(drawn.truth, expected, rtol=1e-12)


def test_a_label_belongs_to_seed_and_id_alone():
    whole = with_known_truth(made(test=image_set(500, 4000)), varied, seed=3)
    rows = torch.randperm(4000)[:700]
    some = with_known_truth(Dataset("made", made().train.take(rows), None), varied, seed=3)
    assert torch.equal(some.train.targets, whole.train.targets[rows])
    other = with_known_truth(made(), varied, seed=4).train
    assert not torch.equal(other.targets, whole.train.targets)
    assert torch.equal(other.truth, whole.train.truth)
    assert whole.test.truth.shape == (500, 4)
    assert whole.test.truth.dtype == torch.float64


def test_certainty_is_certain():
    def certain(images):
        return torch.nn.functional.one_hot((images.ids + 1) % 4, 4) * 1e4

    drawn = with_known_truth(made(), certain).train
    assert torch.equal(drawn.targets, (drawn.ids + 1) % 4)


def test_the_truth_goes_with_the_rows():
    dataset = with_known_truth(made(test=image_set(500, 4000)), varied)
    splits = make_splits(dataset, SplitArgs(labelled=0.5, label_noise=0.2))
    for part in vars(splits).values():
        expected = torch.softmax(varied(part).double(), 1)
        assert torch.allclose(part.truth, expected, rtol=1e-12)
    joined = splits.train.join(splits.calibration)
    assert torch.equal(joined.truth[len(splits.train) :], splits.calibration.truth)
    plain = image_set(3)
    assert plain.truth is None
    assert plain.take(torch.tensor([1])).join(plain).truth is None


def test_the_fingerprint_sees_the_truth():
    plain, drawn, sharper = (
        made().fingerprint,
        with_known_truth(made(), varied).fingerprint,
        # The labels are the same; what is known about them is not.
        with_known_truth(made(), lambda images: varied(images) + 1e-4 * varied(images)).fingerprint,
    )
    assert len({plain, drawn, sharper}) == 3
    assert with_known_truth(made(), varied).fingerprint == drawn


@pytest.mark.parametrize(
    "logits", [torch.zeros(4000, 3), torch.zeros(3, 4), torch.full((4000, 4), torch.nan)]
)
def test_logits_that_do_not_fit_are_a_mistake(logits):
    with pytest.raises(ValueError, match=r"finite and of shape \(4000, 4\)"):
        with_known_truth(made(), lambda images: logits)


def test_a_dataset_by_name_with_known_truth():
    args = DataArgs(subset=300, truth=Path("teacher"), truth_softening=2.0, truth_seed=5)

    def tenfold(images):
        return torch.nn.functional.one_hot(images.targets, 10) * 3.0

    data = load_dataset(args, truth=tenfold)
    plain = load_dataset(DataArgs(subset=300))
    assert torch.equal(data.train.ids, plain.train.ids)
    expected = with_known_truth(plain, tenfold, softening=2.0, seed=5).train
    assert torch.equal(data.train.targets, expected.targets)
    assert data.train.truth is not None
    with pytest.raises(ValueError, match="give its logits"):
        load_dataset(args)
    assert load_dataset(DataArgs(), truth=tenfold).train.truth is None
