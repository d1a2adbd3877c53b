import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from temperance.errors import UserError
from temperance.models import (
    CNNArgs,
    MLPArgs,
    ResNetArgs,
    WideResNetArgs,
    create_model,
    load_model,
    save_model,
    weights_sha256,
)


def make(args=None, n_classes=3):
    return create_model(
        args or MLPArgs(width=5),
        channels=1,
        input_size=(8, 8),
        classes=[f"class {label}" for label in range(n_classes)],
        mean=[0.1],
        std=[0.3],
        seed=0,
    )


@pytest.fixture
def folder(tmp_path):
    save_model(make(), tmp_path / "student", {"accuracy": 1e-05})
    return tmp_path / "student"


@pytest.mark.parametrize(
    "args", [MLPArgs(), CNNArgs(width=4), ResNetArgs(depth=8), WideResNetArgs(depth=10, width=1)]
)
def test_a_round_trip_is_bit_identical(args, tmp_path):
    model = make(args)
    images = torch.randint(0, 256, (6, 1, 8, 8), dtype=torch.uint8)
    model(images)  # moves the statistics of batch norm
    save_model(model, tmp_path)
    back = load_model(tmp_path, classes=3)
    assert weights_sha256(back) == weights_sha256(model)
    assert (back.args, back.classes) == (model.args, model.classes)
    assert (back.channels, back.input_size) == (1, (8, 8))
    assert torch.equal(back.eval()(images), model.eval()(images))
    assert torch.equal(load_model(tmp_path / "model.safetensors").mean, model.mean)


def test_half_precision_comes_back_as_such(tmp_path):
    model = make().bfloat16()
    save_model(model, tmp_path)
    assert weights_sha256(load_model(tmp_path)) == weights_sha256(model)


def test_a_loaded_model_can_be_trained(folder):
    model = load_model(folder)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    before = weights_sha256(model)
    model(torch.zeros(2, 1, 8, 8, dtype=torch.uint8)).logsumexp(1).sum().backward()
    optimiser.step()
    assert weights_sha256(model) != before
    assert weights_sha256(load_model(folder)) == before


def test_saving_again_replaces_and_leaves_nothing_else(folder):
    save_model(make(n_classes=4), folder)
    assert load_model(folder).classes[-1] == "class 3"
    assert sorted(file.name for file in folder.iterdir()) == ["config.json", "model.safetensors"]


def test_facts_are_kept_beside_the_model(folder):
    assert json.loads((folder / "config.json").read_text())["extra"] == {"accuracy": 1e-05}


def test_other_class_counts_are_refused(folder):
    with pytest.raises(UserError, match="the model knows 3 classes, the data have 100"):
        load_model(folder, classes=100)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_missing_files_are_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(UserError, match=f"{name}: there is no such file"):
        load_model(folder)


@pytest.mark.parametrize("kept", [0, 4, 100, -1])
def test_a_truncated_checkpoint_is_named(folder, kept):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(UserError, match=r"model\.safetensors: is truncated"):
        load_model(folder)


def test_shapes_and_names_that_differ_are_named(folder):
    file = folder / "model.safetensors"
    tensors = load_file(file)
    save_file(tensors | {"backbone.head.bias": torch.zeros(4)}, file)
    with pytest.raises(UserError, match=r"head\.bias' has shape \(4,\), the model needs \(3,\)"):
        load_model(folder)
    save_file(tensors | {"foreign": torch.zeros(4)}, file)
    with pytest.raises(UserError, match="has 'foreign' that the model has not"):
        load_model(folder)
    del tensors["backbone.head.bias"], tensors["mean"]
    save_file(tensors, file)
    with pytest.raises(UserError, match=r"lacks 'backbone\.head\.bias', and 1 more"):
        load_model(folder)


def test_a_damaged_config_is_named(folder):
    file = folder / "config.json"
    text = file.read_text()
    file.write_text(text[:30])
    with pytest.raises(UserError, match=r"config\.json: is no valid JSON"):
        load_model(folder)
    file.write_text(text.replace('"mlp"', '"mlpp"'))
    with pytest.raises(UserError, match=r"config\.json: describes no model .*'mlpp'"):
        load_model(folder)
    file.write_text("[]")
    with pytest.raises(UserError, match="no mapping"):
        load_model(folder)


def test_the_hash_sees_names_types_shapes_and_values():
    def of(**tensors):
        module = torch.nn.Module()
        for name, value in tensors.items():
            module.register_buffer(name, value)
        return weights_sha256(module)

    zeros = torch.zeros(2, 2)
    hashes = [
        of(a=zeros), of(b=zeros), of(a=zeros.flatten()), of(a=zeros.int()), of(a=zeros + 1),
        of(a=torch.tensor([[0.0, 0.0], [0.0, 1.0]])), of(a=torch.tensor([[0.0, 1.0], [0.0, 0.0]])),
    ]  # fmt: skip
    assert len(set(hashes)) == len(hashes)
    assert of(a=zeros, b=zeros + 1) == of(b=zeros + 1, a=zeros.clone())
    assert of(a=torch.tensor([[1.0, 2.0], [3.0, 4.0]]).T) == of(
        a=torch.tensor([[1.0, 3.0], [2.0, 4.0]])
    )
