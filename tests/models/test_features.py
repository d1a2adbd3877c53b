import copy

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from temperance.errors import UserError
from temperance.models import create_model
from temperance.models.features import Tapped, probe
from temperance.models.zoo import CNNArgs, MLPArgs, ResNetArgs, WideResNetArgs


def zoo(args, size=(16, 16)):
    return create_model(
        args, channels=3, input_size=size, classes="abcd", mean=[0.5] * 3, std=[0.25] * 3, seed=0
    )


def images(size=(16, 16), n=3):
    return torch.randint(0, 256, (n, 3, *size), dtype=torch.uint8)


def hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


class Broken(nn.Module):
    def forward(self, x):
        raise RuntimeError("broken")


class Twice(nn.Module):
    """One layer called twice, one that gives a tuple, one that is given nothing by position."""

    def __init__(self):
        super().__init__()
        self.shared, self.pair, self.keyword = nn.Linear(4, 4), nn.LSTM(4, 4), KeywordOnly()
        self.unused, self.head = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        x, _ = self.pair(self.shared(F.relu(self.shared(x))))
        return self.head(self.keyword(x=x))


class KeywordOnly(nn.Module):
    def forward(self, *, x):
        return 2 * x


def small():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16, 5),
    )


# What a look at a model finds: (stages with their shapes behind the rows), input of the head.
ZOO = [
    (MLPArgs(depth=2), {"backbone.hidden": (128,)}, (128,)),
    (
        CNNArgs(width=4, blocks=2),
        {
            "backbone.stages.0.2": (4, 16, 16),
            "backbone.stages.1.2": (8, 8, 8),
            "backbone.stages": (8, 4, 4),
        },
        (128,),
    ),
    (
        ResNetArgs(depth=14),
        {
            "backbone.stages.0": (16, 16, 16),
            "backbone.stages.1": (32, 8, 8),
            "backbone.stages": (64, 4, 4),
        },
        (64,),
    ),
    (
        WideResNetArgs(depth=16, width=1),
        {
            "backbone.stages.0": (16, 16, 16),
            "backbone.stages.1": (32, 8, 8),
            "backbone.norm": (64, 4, 4),
        },
        (64,),
    ),
]


@pytest.mark.parametrize(("args", "stages", "embedding"), ZOO)
def test_stages_and_embedding_of_our_models(args, stages, embedding):
    found = probe(zoo(args), images())
    assert {tap: tuple(found.shape(tap)[1:]) for tap in found.stages} == stages
    assert found.classes == 4
    assert found.head == "backbone.head"
    assert found.embedding == "backbone.head:in"
    assert found.shape(found.embedding) == (3, *embedding)


@pytest.mark.parametrize(
    ("name", "stages", "embedding"),
    [
        ("resnet18", [(64, 32), (64, 16), (128, 8), (256, 4), (512, 2)], 512),
        ("resnet50", [(64, 32), (256, 16), (512, 8), (1024, 4), (2048, 2)], 2048),
        ("mobilenet_v2", [(16, 32), (24, 16), (32, 8), (96, 4), (1280, 2)], 1280),
        ("densenet121", [(64, 32), (128, 16), (256, 8), (512, 4), (1024, 2)], 1024),
    ],
)
def test_stages_and_embedding_of_torchvision(name, stages, embedding):
    model = torchvision.models.get_model(name, weights=None, num_classes=7)
    found = probe(model, torch.randn(2, 3, 64, 64))
    shapes = [found.shape(tap) for tap in found.stages]
    assert [(shape[1], shape[2]) for shape in shapes] == stages
    assert found.shape(found.embedding) == (2, embedding)
    assert found.classes == 7
    taps = (*found.stages, found.embedding)
    logits, features = Tapped(model, taps)(torch.randn(2, 3, 64, 64))
    assert logits.shape == (2, 7)
    assert {tap: value.shape for tap, value in features.items()} == {
        tap: found.shape(tap) for tap in taps
    }


def test_a_model_without_a_linear_head_has_no_embedding():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 2), nn.Flatten())
    found = probe(model, torch.randn(2, 3, 4, 4))
    assert found.head is None
    assert found.embedding is None
    assert found.stages == ("1",)


def test_a_tap_gives_what_the_module_gave_before_others_worked_on_it_in_place():
    model = small().eval()
    x = torch.randn(2, 3, 4, 4)
    logits, features = Tapped(model, ("1", "2:in", "2"))(x)
    expected = model[1](model[0](x))
    torch.testing.assert_close(features["1"], expected)
    torch.testing.assert_close(features["2:in"], expected)
    torch.testing.assert_close(features["2"], expected.relu())
    torch.testing.assert_close(logits, model(x))
    assert (expected < 0).any()


def test_gradients_flow_through_taps():
    model = small()
    _, features = Tapped(model, ("1", "5:in"))(torch.randn(4, 3, 4, 4))
    weights = torch.randn_like(features["1"])
    (features["1"] * weights).sum().backward(retain_graph=True)
    gradient = model[0].weight.grad.clone()
    assert gradient.abs().sum() > 0
    assert model[5].weight.grad is None
    features["5:in"].square().sum().backward()
    assert not torch.equal(model[0].weight.grad, gradient)


def test_taps_change_neither_logits_nor_statistics():
    torch.manual_seed(0)
    model = small()
    plain, tapped = copy.deepcopy(model), Tapped(model, ("0", "1", "2", "5:in"))
    x = torch.randn(4, 3, 4, 4)
    assert torch.equal(plain(x), tapped(x)[0])
    for (name, one), (_, other) in zip(
        plain.state_dict().items(), model.state_dict().items(), strict=True
    ):
        assert torch.equal(one, other), name
    assert int(model[1].num_batches_tracked) == 1


def test_probing_leaves_the_model_as_it_was():
    model = small().train()
    model[1].eval()  # frozen while the rest trains
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    state = torch.get_rng_state()
    probe(model, torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)))
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert hooks(model) == 0
    assert all(p.grad is None for p in model.parameters())


def test_hooks_and_modes_are_put_right_after_an_error():
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(), Broken(), nn.Linear(4, 2)).train()
    with pytest.raises(RuntimeError, match="broken"):
        probe(model, torch.randn(2, 4))
    assert hooks(model) == 0
    assert all(module.training for module in model.modules())
    with pytest.raises(RuntimeError, match="broken"):
        Tapped(model, ("0", "2:in"))(torch.randn(2, 4))
    assert hooks(model) == 0


def test_hooks_are_there_only_during_the_forward_pass():
    model = small()
    tapped = Tapped(model, ("0", "5:in"))
    assert hooks(model) == 0
    tapped(torch.randn(2, 3, 4, 4))
    assert hooks(model) == 0


def test_modules_that_give_no_single_tensor_are_left_out_and_refused():
    model, x = Twice(), torch.randn(3, 4)
    found = probe(model, x)
    assert {"shared", "pair", "unused", "keyword:in"}.isdisjoint(found.shapes)
    assert {"pair:in", "keyword", "head:in"} <= set(found.shapes)
    with pytest.raises(UserError, match=r"tap 'shared': gives no single tensor, or is called more"):
        found.shape("shared")
    for tap, message in [
        ("shared", "is called 2 times"),
        ("unused", "is called 0 times"),
        ("pair", "gives a tuple, not a tensor"),
        ("keyword:in", "gives a NoneType"),
    ]:
        with pytest.raises(UserError, match=message):
            Tapped(model, (tap,))(x)
        assert hooks(model) == 0
    assert Tapped(model, ("keyword",))(x)[1]["keyword"].shape == (3, 4)


def test_a_tap_that_does_not_exist_lists_those_that_do():
    model = zoo(MLPArgs(depth=1))
    for ask in (
        lambda: Tapped(model, ("backbone.haed",)),
        lambda: Tapped(model).tap(["backbone.head", "backbone.haed:in"]),
        lambda: probe(model, images()).shape("backbone.haed"),
    ):
        with pytest.raises(UserError, match=r"no module 'backbone\.haed'") as error:
            ask()
        assert "Did you mean 'backbone.head'?" in str(error.value)
        assert "backbone.hidden.0.0" in str(error.value)
    with pytest.raises(UserError, match=r"Known: backbone, backbone.head"):
        Tapped(model, ("xyzzy",))


def test_a_model_that_gives_no_logits_is_refused():
    with pytest.raises(UserError, match="the model gives tuple, not logits"):
        probe(nn.LSTM(4, 4), torch.randn(3, 4))
    with pytest.raises(UserError, match=r"the model gives \(3, 2, 4, 4\), not logits"):
        probe(nn.Conv2d(3, 2, 1), torch.randn(3, 3, 4, 4))


def test_tapping_anew_and_twice():
    model = zoo(MLPArgs(depth=1))
    tapped = Tapped(model, ("backbone.head", "backbone.head"))
    assert tapped.taps == ("backbone.head",)
    logits, features = tapped(images())
    assert torch.equal(features["backbone.head"], logits)
    tapped.tap(["backbone.head:in"])
    assert list(tapped(images())[1]) == ["backbone.head:in"]
    assert Tapped(model)(images())[1] == {}
