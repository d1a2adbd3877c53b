import pytest
import torch
import torch.nn.functional as F
from pydantic import TypeAdapter

from temperance.config import Args, load_config
from temperance.errors import UserError
from temperance.models import (
    CNNArgs,
    MLPArgs,
    ModelArgs,
    channel_statistics,
    create_model,
    list_models,
    weights_sha256,
)


class Settings(Args):
    model: ModelArgs = CNNArgs()


def parse(model):
    return load_config(Settings, {"model": model}).model


def make(model, *, channels=3, size=(32, 32), n_classes=100, seed=0, mean=None, std=None):
    args = parse(model) if isinstance(model, str | dict) else model
    return create_model(
        args,
        channels=channels,
        input_size=size,
        classes=[str(label) for label in range(n_classes)],
        mean=mean or [0.5] * channels,
        std=std or [0.25] * channels,
        seed=seed,
    )


@pytest.mark.parametrize(
    ("name", "parameters"),
    [  # CIFAR-100, as published with CRD and mdistiller
        ("resnet20", 278_324),
        ("resnet56", 861_620),
        ("resnet8x4", 1_233_540),
        ("resnet32x4", 7_433_860),
        ("wrn-16-2", 703_284),
        ("wrn-40-2", 2_255_156),
        ("shufflenet-v2", 1_355_528),  # 1.36 M
    ],
)
def test_parameter_counts_are_the_published_ones(name, parameters):
    assert sum(p.numel() for p in make(name).parameters()) == parameters


@pytest.mark.parametrize("name", [n for n in list_models() if n not in ("wrn-28-10", "resnet110")])
@pytest.mark.parametrize(("channels", "size"), [(1, (8, 8)), (3, (9, 12))])
def test_every_listed_model_learns_from_any_images(name, channels, size):
    model = make(name, channels=channels, size=size, n_classes=4)
    images = torch.randint(0, 256, (4, channels, *size), dtype=torch.uint8)
    logits = model(images)
    assert logits.shape == (4, 4)
    F.cross_entropy(logits, torch.arange(4)).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("name", ["wrn-16-2", "resnet8"])
def test_each_batch_norm_runs_once_per_step(name):
    model = make(name, n_classes=4)
    model(torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8))
    tracked = [v for k, v in model.state_dict().items() if k.endswith("num_batches_tracked")]
    assert tracked
    assert all(int(count) == 1 for count in tracked)


def test_names_expand():
    assert parse("resnet8x4").model_dump() == {"name": "resnet", "depth": 8, "width_factor": 4}
    assert parse("wrn-40-1").model_dump() == {"name": "wrn", "depth": 40, "width": 1}
    assert parse({"name": "resnet56"}).depth == 56
    assert parse({"name": "cnn", "width": 8}) == CNNArgs(width=8)
    for name in list_models():
        settings = parse(name)
        assert TypeAdapter(ModelArgs).validate_python(settings.model_dump()) == settings


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet21", "no resnet of depth 21, only 8, 14, 20"),
        ("wrn-17-2", "no wrn of depth 17, only 10, 16"),
        ("resnt20", "Did you mean 'resnet'"),
        ("wrn-16-0", "greater than 0"),
    ],
)
def test_names_that_there_are_not(name, message):
    with pytest.raises(UserError, match=message):
        parse(name)


def test_weights_are_a_function_of_the_seed_and_nothing_else_moves():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = make("wrn-16-1", seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert weights_sha256(first) == weights_sha256(make("wrn-16-1", seed=3))
    assert weights_sha256(first) != weights_sha256(make("wrn-16-1", seed=4))


def test_convolutions_start_as_kaiming_fan_out():
    model = make("resnet32x4")
    weight = model.backbone.stages[2][1].conv1.weight.detach()
    assert float(weight.std()) == pytest.approx((2 / (256 * 9)) ** 0.5, rel=0.01)


def test_images_are_normalised_and_resized_by_the_model():
    model = make(MLPArgs(depth=0), channels=2, size=(4, 4), mean=[0.2, 0.4], std=[0.5, 0.1])
    images = torch.randint(0, 256, (3, 2, 4, 4), dtype=torch.uint8)
    mean, std = torch.tensor([0.2, 0.4])[:, None, None], torch.tensor([0.5, 0.1])[:, None, None]
    expected = model.backbone.head(((images.float() / 255 - mean) / std).flatten(1))
    assert torch.allclose(model(images), expected, atol=1e-5)
    larger = images.repeat_interleave(2, 2).repeat_interleave(2, 3)
    resized = F.interpolate(larger.float() / 255, (4, 4), mode="bilinear", antialias=True)
    expected = model.backbone.head(((resized - mean) / std).flatten(1))
    assert torch.allclose(model(larger), expected, atol=1e-5)
    assert not torch.allclose(model(larger), model(images), atol=1e-3)  # antialias blurs


def test_precision_follows_the_module_or_autocast():
    model = make("cnn", n_classes=4)
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    assert model(images).dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert model(images).dtype == torch.bfloat16
    assert model.double()(images).dtype == torch.float64


def test_other_channels_and_too_small_images_are_refused():
    with pytest.raises(UserError, match=r"3 channel\(s\), these have 1"):
        make("cnn")(torch.zeros(1, 1, 32, 32, dtype=torch.uint8))
    with pytest.raises(UserError, match="at least 16×16 pixels, these are 8×8"):
        make(CNNArgs(blocks=4), size=(8, 8))


def test_channel_statistics_equal_the_definition():
    images = torch.randint(0, 256, (50, 3, 5, 7), dtype=torch.uint8)
    images[:, 2] = 51
    mean, std = channel_statistics(images)
    scaled = images.double() / 255
    assert mean == pytest.approx(scaled.mean((0, 2, 3)).tolist(), abs=1e-12)
    assert std[:2] == pytest.approx(scaled.std((0, 2, 3), correction=0)[:2].tolist(), abs=1e-12)
    assert mean[2] == pytest.approx(0.2)
    assert std[2] == pytest.approx(1 / 255)
