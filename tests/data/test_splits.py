import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from temperance.data import (
    Dataset,
    ImageSet,
    SplitArgs,
    folds,
    make_splits,
    stratified_subset,
)
from temperance.data.splits import allocate
from temperance.errors import UserError


def image_set(targets, first_id=0):
    targets = torch.as_tensor(targets)
    ids = torch.arange(len(targets)) + first_id
    images = (ids % 251).to(torch.uint8)[:, None, None, None].expand(-1, 1, 2, 2)
    return ImageSet(images, targets, ids, tuple(str(c) for c in range(int(targets.max()) + 1)))


def shuffled(images, seed):
    return images.take(torch.from_numpy(np.random.default_rng(seed).permutation(len(images))))


def balanced(n, classes, first_id=0):
    return image_set(torch.arange(n) % classes, first_id)


class_sizes = st.lists(st.integers(12, 60), min_size=2, max_size=8)
split_args = st.builds(
    SplitArgs,
    seed=st.integers(0, 1000),
    test=st.floats(0.25, 0.5),
    validation=st.floats(0.0, 0.3),
    calibration=st.floats(0.01, 0.3),
    calibration_source=st.sampled_from(["train", "test"]),
)


@settings(max_examples=40, deadline=None)
@given(sizes=class_sizes, args=split_args, own_test=st.booleans(), order=st.integers(0, 99))
def test_splits_are_disjoint_complete_stratified_and_blind_to_row_order(
    sizes, args, own_test, order
):
    train = image_set(np.repeat(np.arange(len(sizes)), sizes))
    test = image_set(np.repeat(np.arange(len(sizes)), sizes), len(train)) if own_test else None
    dataset = Dataset("made", train, test)
    splits = make_splits(dataset, args)

    parts = [splits.train, splits.validation, splits.calibration, splits.test]
    ids = torch.cat([part.ids for part in parts])
    assert sorted(ids.tolist()) == list(range(len(train) + (len(test) if test else 0)))
    assert splits.sizes()["train"] == len(splits.train)
    for part in parts:
        assert (part.images[:, 0, 0, 0] == part.ids % 251).all()
        if len(part):  # every class has enough rows to be in each split of nonzero share
            assert set(part.targets.tolist()) == set(range(len(sizes)))

    other = Dataset("made", shuffled(train, order), test and shuffled(test, order + 1))
    for name, part in vars(make_splits(other, args)).items():
        assert torch.equal(part.ids, getattr(splits, name).ids)
        assert torch.equal(part.targets, getattr(splits, name).targets)


@pytest.mark.parametrize(
    ("args", "sizes"),
    [
        (SplitArgs(), (800, 100, 100, 200)),
        (SplitArgs(calibration=0.05), (850, 100, 50, 200)),
        (SplitArgs(calibration_source="test"), (900, 100, 100, 100)),
        (SplitArgs(calibration=0), (900, 100, 0, 200)),
    ],
)
def test_a_test_set_of_its_own_stays_and_shares_are_exact(args, sizes):
    dataset = Dataset("made", balanced(1000, 10), balanced(200, 10, first_id=1000))
    splits = make_splits(dataset, args)
    assert tuple(splits.sizes().values()) == sizes
    for part in (splits.train, splits.validation, splits.calibration, splits.test):
        counts = part.targets.bincount(minlength=10)
        assert counts.max() == counts.min()
    assert splits.test.ids.min() >= 1000
    assert (splits.calibration.ids >= 1000).all() == (
        args.calibration_source == "test" or not sizes[2]
    )


def test_another_seed_gives_other_rows():
    dataset = Dataset("made", balanced(300, 3), None)
    first, second = (make_splits(dataset, SplitArgs(seed=seed)).test.ids for seed in (0, 1))
    assert len(first) == len(second) == 100
    shared = len(set(first.tolist()) & set(second.tolist()))
    assert 15 < shared < 55  # a third, by chance


def test_many_small_classes_keep_the_shares():
    # 3 rows per class: rounding class by class would give 100 % or 67 % to the first part.
    counts = allocate([3] * 100, [0.8, 0.2], in_every_part=False)
    assert counts.sum(0).tolist() == [240, 60]
    assert counts.sum(1).tolist() == [3] * 100


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 50), min_size=1, max_size=12),
    cuts=st.lists(st.floats(0.01, 1), min_size=2, max_size=4),
)
def test_allocation_gives_every_row_once_and_rounds_by_less_than_one(sizes, cuts):
    shares = np.array(cuts) / sum(cuts)
    counts = allocate(sizes, shares, in_every_part=False)
    assert counts.sum(1).tolist() == sizes
    assert (np.abs(counts - np.outer(sizes, shares)) < 1 + 1e-6).all()
    everywhere = allocate(sizes, shares)
    assert everywhere.sum(1).tolist() == sizes
    assert all(
        (row > 0).all() for row, size in zip(everywhere, sizes, strict=True) if size >= len(shares)
    )


@settings(max_examples=30, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 30), min_size=2, max_size=6).filter(lambda s: sum(s) > 0),
    share=st.floats(0, 1),
    seed=st.integers(0, 9),
)
def test_a_subset_has_exactly_the_rows_asked_for(sizes, share, seed):
    images = image_set(np.repeat(np.arange(len(sizes)), sizes))
    n = max(1, round(share * len(images)))
    subset = stratified_subset(images, n, seed)
    assert len(subset) == len(set(subset.ids.tolist())) == n
    wanted = np.array([size * n / len(images) for size in sizes])
    found = subset.targets.bincount(minlength=len(sizes)).numpy()[: len(sizes)]
    assert (np.abs(found - wanted[: len(found)]) < 1 + 1e-6).all()


def test_a_subset_of_too_many_rows_is_refused():
    with pytest.raises(UserError, match="11 rows is asked for, but there are only 10"):
        stratified_subset(balanced(10, 2), 11, 0)


def test_folds_are_stratified_and_belong_to_ids():
    images = image_set(np.repeat([0, 1, 2], [23, 50, 9]))
    fold_of = folds(images, 5, seed=3)
    sizes = fold_of.bincount(minlength=5)
    assert sizes.max() - sizes.min() <= 1
    for target in range(3):
        per_fold = fold_of[images.targets == target].bincount(minlength=5)
        assert per_fold.max() - per_fold.min() <= 1
    turned = folds(shuffled(images, 1), 5, seed=3)
    by_id = dict(zip(images.ids.tolist(), fold_of.tolist(), strict=True))
    assert turned.tolist() == [by_id[i] for i in shuffled(images, 1).ids.tolist()]
    assert fold_of.tolist() != folds(images, 5, seed=4).tolist()


def test_calibration_of_one_class_is_refused_with_the_setting():
    dataset = Dataset("made", image_set([0] * 40), balanced(10, 1, 40))
    with pytest.raises(UserError, match=r"split\.calibration: .*single class") as caught:
        make_splits(dataset, SplitArgs())
    assert "split.calibration" in str(caught.value.mend)
    with pytest.raises(UserError, match=r"split\.calibration_source"):
        make_splits(dataset, SplitArgs(calibration_source="test"))


def test_an_empty_calibration_split_is_refused_unless_it_is_asked_for():
    with pytest.warns(UserWarning, match="too few rows"):  # noqa: SIM117
        with pytest.raises(
            UserError, match=r"calibration split is empty.*Raise split\.calibration"
        ):
            make_splits(Dataset("made", balanced(4, 2), balanced(4, 2, 4)), SplitArgs())
    none = make_splits(
        Dataset("made", balanced(40, 2), balanced(4, 2, 40)), SplitArgs(calibration=0)
    )
    assert len(none.calibration) == 0


def test_no_test_rows_are_refused():
    with pytest.raises(UserError, match=r"split\.test: the test split is empty"):
        make_splits(Dataset("made", balanced(40, 2), None), SplitArgs(test=0))


def test_small_classes_are_named():
    dataset = Dataset("made", image_set([0] * 30 + [1] * 30 + [2] * 2), balanced(6, 3, 62))
    with pytest.warns(UserWarning, match="all 3 splits: class '2'"):
        splits = make_splits(dataset, SplitArgs())
    assert sum(splits.sizes().values()) == 68


def test_shares_that_leave_nothing_are_refused():
    with pytest.raises(ValueError, match="nothing to train on"):
        SplitArgs(validation=0.5, calibration=0.5)
