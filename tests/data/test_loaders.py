import pytest
import torch

from temperance.data import (
    ImageSet,
    ViewSpec,
    apply_views,
    draw,
    epoch_order,
    evaluation_batches,
    steps_per_epoch,
    training_batches,
)

CPU = torch.device("cpu")
SPEC = ViewSpec(crop_padding=2, flip=True, views=2)


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(0)
    return ImageSet(
        torch.randint(0, 256, (50, 3, 8, 8), dtype=torch.uint8, generator=generator),
        torch.arange(50) % 5,
        torch.arange(50) * 3 + 100,
        tuple("abcde"),
    )


def batches(images, start=0, steps=12, batch_size=16, seed=4, spec=SPEC, **ranks):
    return list(
        training_batches(
            images, batch_size=batch_size, seed=seed, spec=spec, start_step=start, steps=steps,
            device=CPU, **ranks,
        )
    )  # fmt: skip


def same(a, b):
    return a.view == b.view and all(
        torch.equal(getattr(a, name), getattr(b, name)) for name in ("images", "targets", "ids")
    )


@pytest.mark.parametrize("start", [0, 1, 2, 3, 7, 11, 12])
def test_resumed_equals_uninterrupted(images, start):
    whole, resumed = batches(images), batches(images, start=start)
    assert len(resumed) == 12 - start
    assert all(same(a, b) for a, b in zip(whole[start:], resumed, strict=True))


def test_two_views_stand_below_one_another_and_alternate(images):
    """Epoch e has the views 2e and 2e + 1, each that of a batch with one view."""
    spec = ViewSpec(crop_padding=2, flip=True)
    pairs = batches(images, spec=spec, views_per_batch=2)
    for step, batch in enumerate(pairs):
        first, second = batch.images.split(16)
        assert not torch.equal(first, second)
        ids, again = batch.ids.split(16)
        assert torch.equal(ids, again)
        assert (batch.view, batch.views) == (2 * (step // 3), 2)
        assert torch.equal(batch.targets.split(16)[0], batch.targets.split(16)[1])
    drawn = [draw(spec, 4, pairs[3].ids[:16], view) for view in (2, 3)]
    plain = images.images[(pairs[3].ids[:16] - 100) // 3]
    expected = torch.cat([apply_views(plain, view, 2) for view in drawn])
    assert torch.equal(pairs[3].images, expected)


def test_views_of_images_that_are_not_augmented_are_alike(images):
    (batch,) = batches(images, spec=ViewSpec(), views_per_batch=2, steps=1)
    assert torch.equal(*batch.images.split(16))


@pytest.mark.parametrize("views", [1, 2])
@pytest.mark.parametrize("parts", [1, 2, 3, 16, 40])
def test_parts_make_the_batch_and_keep_views_together(images, views, parts):
    (whole,) = batches(images, views_per_batch=views, steps=1)
    split = list(whole.split(parts))
    assert len(split) == min(parts, 16)
    for view in range(views):
        per_view = [part.images.chunk(views)[view] for part in split]
        assert torch.equal(torch.cat(per_view), whole.images.chunk(views)[view])
    assert all(len(part.ids.unique()) * views == len(part.ids) for part in split)
    sizes = [len(part.ids) for part in split]
    assert max(sizes) - min(sizes) <= views


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_together_make_the_batch_of_one_process(images, world_size):
    shares = [batches(images, rank=r, world_size=world_size) for r in range(world_size)]
    for step, whole in enumerate(batches(images)):
        for rank in range(world_size):
            share = shares[rank][step]
            assert torch.equal(share.images, whole.images[rank::world_size])
            assert torch.equal(share.ids, whole.ids[rank::world_size])
        assert sum(len(share[step].ids) for share in shares) == 16


def test_an_epoch_sees_each_row_at_most_once_and_epochs_differ(images):
    whole = batches(images)
    epochs = [whole[i : i + 3] for i in range(0, 12, 3)]
    seen = [torch.cat([batch.ids for batch in epoch]).tolist() for epoch in epochs]
    for ids in seen:
        assert len(ids) == len(set(ids)) == 48
    assert len({tuple(ids) for ids in seen}) == 4
    assert [epoch[0].view for epoch in epochs] == [0, 1, 0, 1]


def test_batches_hold_the_views_of_their_samples(images):
    row_of = {id_: row for row, id_ in enumerate(images.ids.tolist())}
    for batch in batches(images):
        rows = torch.tensor([row_of[id_] for id_ in batch.ids.tolist()])
        views = draw(SPEC, 0, batch.ids, batch.view)  # of bounded views, whatever the seed
        assert torch.equal(batch.images, apply_views(images.images[rows], views, 2))
        assert torch.equal(batch.targets, images.targets[rows])


def test_few_rows_make_one_batch(images):
    few = images.take(torch.arange(5))
    assert steps_per_epoch(5, 16) == 1
    for batch in batches(few, steps=3):
        assert sorted(batch.ids.tolist()) == few.ids.tolist()


def test_without_augmentation_images_are_unaltered(images):
    (batch,) = batches(images, steps=1, batch_size=50, spec=ViewSpec())
    order = epoch_order(images.ids, 4, 0)
    assert torch.equal(batch.images, images.images[order])


def test_the_order_belongs_to_ids_and_is_golden(images):
    turned = images.take(torch.arange(49, -1, -1))
    assert torch.equal(
        images.ids[epoch_order(images.ids, 1, 2)], turned.ids[epoch_order(turned.ids, 1, 2)]
    )
    assert epoch_order(torch.arange(8), 0, 0).tolist() == [6, 3, 0, 7, 2, 4, 1, 5]


def test_evaluation_is_in_order_and_complete(images):
    found = list(evaluation_batches(images, 16, CPU))
    assert [len(batch.ids) for batch in found] == [16, 16, 16, 2]
    assert torch.equal(torch.cat([batch.images for batch in found]), images.images)
    assert torch.equal(torch.cat([batch.targets for batch in found]), images.targets)


@pytest.mark.parametrize("mixup", [0.0, 0.4])
def test_bounded_views_are_the_same_for_every_training(images, mixup):
    def views_by_id(seed, bounded):
        spec = ViewSpec(crop_padding=2, flip=True, views=bounded, mixup=mixup)
        found = {}
        for batch in batches(images, seed=seed, spec=spec):
            for id_, image, target in zip(batch.ids, batch.images, batch.targets, strict=True):
                found[int(id_), batch.view] = (*image.flatten().tolist(), *target[None].flatten())
        return found

    first, second = views_by_id(4, 2), views_by_id(5, 2)
    both = first.keys() & second.keys()
    assert len(both) > 80
    assert all(first[key] == second[key] for key in both)
    first, second = views_by_id(4, 0), views_by_id(5, 0)
    assert any(first[key] != second[key] for key in first.keys() & second.keys())


# Mixup.

MIXED = ViewSpec(crop_padding=2, flip=True, mixup=0.7)


@pytest.mark.parametrize("views", [1, 2])
def test_mixed_batches_by_hand(images, views):
    """Row by row: the image's own view, its partner's own view, and their shares."""
    by_id = images.ids.argsort().tolist()
    place = {int(images.ids[row]): position for position, row in enumerate(by_id)}
    row_of = {id_: row for row, id_ in enumerate(images.ids.tolist())}
    shuffled = images.take(torch.randperm(50))
    for batch in batches(shuffled, spec=MIXED, views_per_batch=views, steps=5):
        for index, id_ in enumerate(batch.ids):
            view = batch.view + index // (len(batch.ids) // views)
            mixing = draw(MIXED, 4, id_[None], view).mixing
            steps = 1 + int(mixing.partner) % 49
            partner = by_id[(place[int(id_)] + steps) % 50]
            rows = torch.tensor([row_of[int(id_)], partner])
            assert rows[0] != rows[1]
            crops = draw(ViewSpec(crop_padding=2, flip=True), 4, images.ids[rows], view)
            own, other = apply_views(images.images[rows], crops, 2).double()
            share = float(mixing.share) / 2**16
            expected = (share * own + (1 - share) * other + 0.5).floor()
            assert torch.equal(batch.images[index].double(), expected)
            soft = torch.zeros(5)
            soft[images.targets[rows[0]]] += share
            soft[images.targets[rows[1]]] += 1 - share
            assert torch.equal(batch.targets[index], soft)


def test_mixed_batches_resume_and_are_shared_as_others(images):
    whole, resumed = batches(images, spec=MIXED), batches(images, spec=MIXED, start=7)
    assert all(same(a, b) for a, b in zip(whole[7:], resumed, strict=True))
    shares = [batches(images, spec=MIXED, rank=rank, world_size=3) for rank in range(3)]
    for step, batch in enumerate(whole):
        for rank in range(3):
            assert torch.equal(shares[rank][step].images, batch.images[rank::3])
            assert torch.equal(shares[rank][step].targets, batch.targets[rank::3])


def test_mixed_batches_split_with_their_targets(images):
    (whole,) = batches(images, spec=MIXED, steps=1, views_per_batch=2)
    parts = list(whole.split(3))
    for view in range(2):
        for name in ("images", "targets"):
            found = torch.cat([getattr(part, name).chunk(2)[view] for part in parts])
            assert torch.equal(found, getattr(whole, name).chunk(2)[view])


def test_a_single_image_is_mixed_with_itself(images):
    (batch,) = batches(images.take(torch.tensor([3])), spec=ViewSpec(mixup=1.0), steps=1)
    assert torch.equal(batch.images[0], images.images[3])
    assert batch.targets[0].tolist() == [0, 0, 0, 1, 0]
