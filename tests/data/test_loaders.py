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
        views = draw(SPEC, 4, batch.ids, batch.view)
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
