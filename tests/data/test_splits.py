import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from temperance.config import load_config
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
    labelled=st.floats(0.05, 1.0),
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

    parts = list(vars(splits).values())
    ids = torch.cat([part.ids for part in parts])
    assert sorted(ids.tolist()) == list(range(len(train) + (len(test) if test else 0)))
    assert splits.sizes()["train"] == len(splits.train)
    assert sum(splits.sizes().values()) == len(ids)
    assert ("unlabelled" in splits.sizes()) == (args.labelled < 1)
    for part in parts:
        assert (part.images[:, 0, 0, 0] == part.ids % 251).all()
        if (
            len(part) and args.labelled == 1
        ):  # every class has enough rows to be in each split of nonzero share
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


# Unlabelled rows.


def test_unlabelled_rows_are_a_stratified_part_of_train():
    dataset = Dataset("made", balanced(1000, 10), balanced(200, 10, first_id=1000))
    whole = make_splits(dataset, SplitArgs())
    assert len(whole.unlabelled) == 0
    assert list(whole.sizes()) == ["train", "validation", "calibration", "test"]
    kept = {}
    for labelled in (0.25, 0.5):
        some = make_splits(dataset, SplitArgs(labelled=labelled))
        assert some.sizes()["unlabelled"] == 800 * (1 - labelled)
        assert set(some.unlabelled.targets.bincount().tolist()) == {80 * (1 - labelled)}
        together = some.train.join(some.unlabelled).ids.sort().values
        assert torch.equal(together, whole.train.ids)
        for name in ("validation", "calibration", "test"):
            assert torch.equal(getattr(some, name).ids, getattr(whole, name).ids)
        kept[labelled] = set(some.train.ids.tolist())
    assert kept[0.25] < kept[0.5]  # more labels are more of the same


# Noisy labels.


def noisy(share=0.3, seed=0, **more):
    dataset = Dataset("made", balanced(6000, 5), balanced(1000, 5, first_id=6000))
    return make_splits(dataset, SplitArgs(seed=seed, label_noise=share, **more))


def test_noise_replaces_labels_by_other_classes_and_leaves_the_test():
    clean, splits = noisy(0.0), noisy(0.3, labelled=0.8)
    for name in ("train", "validation", "calibration", "test", "unlabelled"):
        part = getattr(splits, name)
        true = part.ids % 5
        wrong = part.targets != true
        if name in ("test", "unlabelled"):
            assert not wrong.any()
            continue
        assert stats.binomtest(int(wrong.sum()), len(part), 0.3).pvalue > 1e-3
        away = ((part.targets - true) % 5)[wrong]
        assert stats.chisquare(away.bincount(minlength=5)[1:].numpy()).pvalue > 1e-3
    # Stratified by the clean labels: the same rows as without noise.
    assert torch.equal(splits.validation.ids, clean.validation.ids)
    assert torch.equal(clean.train.targets, clean.train.ids % 5)


def test_noise_is_a_function_of_seed_and_id():
    def by_id(splits):
        both = splits.train.join(splits.validation).join(splits.calibration)
        return dict(zip(both.ids.tolist(), both.targets.tolist(), strict=True))

    first = by_id(noisy())
    assert first == by_id(noisy(validation=0.3, calibration=0.02))
    second = by_id(noisy(seed=1))
    # Two independent noises agree on 0.7² + 0.3² / 4 of the rows.
    same = sum(first[id_] == second[id_] for id_ in first)
    assert stats.binomtest(same, len(first), 0.7**2 + 0.3**2 / 4).pvalue > 1e-3
    less = by_id(noisy(0.1))
    assert all(less[id_] in (id_ % 5, target) for id_, target in first.items())


def test_half_of_the_test_set_as_calibration_gets_noise_too():
    splits = noisy(calibration_source="test")
    assert (splits.calibration.targets != splits.calibration.ids % 5).float().mean() > 0.2
    assert (splits.test.targets == splits.test.ids % 5).all()


@pytest.mark.parametrize("setting", ["label_noise=1", "label_noise=-0.1", "labelled=0"])
def test_shares_out_of_range_are_refused(setting):
    with pytest.raises(UserError, match=setting.partition("=")[0]):
        load_config(SplitArgs, overrides=[setting])
