import gzip
import hashlib
import pickle
import struct
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from temperance.config import load_config
from temperance.data import DataArgs, ImageSet, list_datasets, load_dataset, vision
from temperance.data.catalog import FACTS, dataset_facts
from temperance.data.images import Dataset, DatasetFacts
from temperance.errors import UserError


def test_digits_are_scaled_to_bytes_without_loss():
    digits = load_dataset(DataArgs())
    reference = load_digits()
    assert digits.train.images.shape == (1797, 1, 8, 8)
    assert digits.train.images.dtype == torch.uint8
    back = digits.train.images[:, 0].double() * 16 / 255
    assert np.rint(back.numpy()).tolist() == reference.images.tolist()
    assert digits.train.images.max() == 255
    assert digits.train.targets.tolist() == reference.target.tolist()
    assert digits.test is None


def test_a_subset_is_stratified_seeded_and_keeps_ids():
    whole = load_dataset(DataArgs()).train
    some = load_dataset(DataArgs(subset=200)).train
    assert len(some) == 200
    assert torch.equal(some.images, whole.images[some.ids])
    assert some.targets.bincount().min() >= 19
    assert not torch.equal(some.ids, load_dataset(DataArgs(subset=200, subset_seed=1)).train.ids)


def test_subsets_that_cannot_be_are_refused():
    with pytest.raises(UserError, match=r"data\.subset: .*1,797"):
        load_dataset(DataArgs(subset=5000))
    with pytest.raises(UserError, match="no test set of its own"):
        load_dataset(DataArgs(test_subset=10))


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(UserError, match="Did you mean 'digits'"):
        load_config(DataArgs, {"name": "digit"})
    assert list_datasets() == ["cifar10", "cifar100", "digits", "fashion-mnist", "parquet"]


def test_the_fingerprint_sees_every_part():
    images = torch.zeros(2, 1, 2, 2, dtype=torch.uint8)
    base = ImageSet(images, torch.tensor([0, 1]), torch.arange(2), ("a", "b"))
    changed = [
        ImageSet(images + 1, base.targets, base.ids, base.classes),
        ImageSet(images.reshape(2, 1, 4, 1), base.targets, base.ids, base.classes),
        ImageSet(images, base.targets.flip(0), base.ids, base.classes),
        ImageSet(images, base.targets, base.ids + 1, base.classes),
        ImageSet(images, base.targets, base.ids, ("a", "c")),
    ]
    prints = {Dataset("x", images_, None).fingerprint for images_ in [base, *changed]}
    assert len(prints) == 6
    assert Dataset("x", base, base).fingerprint not in prints
    again = ImageSet(images.clone(), base.targets.clone(), base.ids.clone(), base.classes)
    assert Dataset("y", again, None).fingerprint == Dataset("x", base, None).fingerprint


def test_joined_and_taken_rows():
    images = torch.arange(3, dtype=torch.uint8)[:, None, None, None]
    three = ImageSet(images, torch.tensor([0, 1, 0]), torch.tensor([7, 8, 9]), ("a", "b"))
    both = three.take(torch.tensor([2])).join(three.take(torch.tensor([0, 1])))
    assert both.ids.tolist() == [9, 7, 8]
    assert both.images.flatten().tolist() == [2, 0, 1]
    assert len(three.take(three.ids[:0])) == 0


# Fashion-MNIST: IDX files


def write_idx(folder, name, array):
    head = struct.pack(f">{1 + array.ndim}I", 0x0800 + array.ndim, *array.shape)
    content = head + array.tobytes()
    (folder / f"{name}.gz").write_bytes(gzip.compress(content))
    return content


@pytest.fixture
def idx_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(vision, "DEBIAN_FASHION_MNIST", tmp_path / "not-installed")
    rng = np.random.default_rng(0)
    for part, n in (("train", 30), ("t10k", 20)):
        write_idx(
            tmp_path, f"{part}-images-idx3-ubyte", rng.integers(0, 256, (n, 28, 28), dtype=np.uint8)
        )
        write_idx(tmp_path, f"{part}-labels-idx1-ubyte", (np.arange(n) % 10).astype(np.uint8))
    return tmp_path


def test_fashion_mnist_is_read_from_idx_files(idx_folder):
    data = load_dataset(DataArgs(name="fashion-mnist", path=idx_folder, test_subset=10))
    first = np.random.default_rng(0).integers(0, 256, (30, 28, 28), dtype=np.uint8)
    assert (data.train.images[:, 0].numpy() == first).all()
    assert data.train.targets.tolist() == [i % 10 for i in range(30)]
    assert data.test is not None
    assert len(data.test) == 10
    assert data.test.ids.min() >= 30
    assert data.train.classes[9] == "Ankle boot"


@pytest.mark.parametrize("kept", [100, 10, 0])
def test_a_truncated_idx_file_is_named(idx_folder, kept):
    file = idx_folder / "t10k-images-idx3-ubyte.gz"
    file.write_bytes(gzip.compress(gzip.decompress(file.read_bytes())[:kept]))
    with pytest.raises(UserError, match=r"t10k-images-idx3-ubyte\.gz: is"):
        load_dataset(DataArgs(name="fashion-mnist", path=idx_folder))
    file.write_bytes(gzip.compress(bytes(5000))[:-9])
    with pytest.raises(UserError, match=r"t10k-images-idx3-ubyte\.gz: cannot be read"):
        load_dataset(DataArgs(name="fashion-mnist", path=idx_folder))


def test_a_missing_idx_file_is_named(idx_folder):
    (idx_folder / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(UserError, match="t10k-labels-idx1-ubyte: there is no such file"):
        load_dataset(DataArgs(name="fashion-mnist", path=idx_folder))


@pytest.mark.parametrize("name", ["fashion-mnist", "cifar10", "cifar100"])
def test_what_is_not_there_and_may_not_be_downloaded(name, tmp_path, monkeypatch):
    monkeypatch.setattr(vision, "DEBIAN_FASHION_MNIST", tmp_path / "not-installed")
    with pytest.raises(UserError, match=r"is not there\. Set data\.path") as caught:
        load_dataset(DataArgs(name=name, path=tmp_path, download=False))
    assert caught.value.where == tmp_path
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["fashion-mnist", "cifar10", "cifar100"])
def test_a_network_error_becomes_a_user_error(name, tmp_path, monkeypatch):
    def no_network(*args, **kwargs):
        raise URLError("Name or service not known")

    monkeypatch.setattr(vision, "DEBIAN_FASHION_MNIST", tmp_path / "not-installed")
    monkeypatch.setattr("urllib.request.urlopen", no_network)
    with pytest.raises(UserError, match=r"cannot be downloaded .*Name or service") as caught:
        load_dataset(DataArgs(name=name, path=tmp_path))
    assert caught.value.where == tmp_path


def test_the_files_of_debians_package():
    if not (vision.DEBIAN_FASHION_MNIST / "train-images-idx3-ubyte.gz").is_file():
        pytest.skip("Debian's dataset-fashion-mnist is not installed")
    data = load_dataset(DataArgs(name="fashion-mnist", download=False))
    assert data.test is not None
    assert data.train.images.shape == (60_000, 1, 28, 28)
    assert data.train.targets.bincount().tolist() == [6000] * 10
    assert data.test.targets.bincount().tolist() == [1000] * 10
    # Mean and deviation that the literature normalises Fashion-MNIST with.
    pixels = data.train.images.double() / 255
    assert float(pixels.mean()) == pytest.approx(0.2860, abs=5e-5)
    assert float(pixels.std()) == pytest.approx(0.3530, abs=5e-5)


# CIFAR: a miniature with the layout of the original


def test_cifar_is_read_in_the_originals_layout(tmp_path, monkeypatch):
    from torchvision.datasets import CIFAR10

    folder = tmp_path / CIFAR10.base_folder
    folder.mkdir()

    def write(name, content):
        (folder / name).write_bytes(pickle.dumps(content))
        return [name, hashlib.md5((folder / name).read_bytes()).hexdigest()]

    rng = np.random.default_rng(1)
    train = {"data": rng.integers(0, 256, (8, 3072), dtype=np.uint8), "labels": [0, 1] * 4}
    test = {"data": rng.integers(0, 256, (4, 3072), dtype=np.uint8), "labels": [1, 0] * 2}
    meta = write("batches.meta", {"label_names": ["cat", "dog"]})
    monkeypatch.setattr(CIFAR10, "train_list", [write("data_batch_1", train)])
    monkeypatch.setattr(CIFAR10, "test_list", [write("test_batch", test)])
    monkeypatch.setattr(
        CIFAR10, "meta", {"filename": meta[0], "md5": meta[1], "key": "label_names"}
    )

    data = load_dataset(DataArgs(name="cifar10", path=tmp_path, download=False))
    assert data.test is not None
    assert data.train.images.flatten(1).tolist() == train["data"].tolist()
    assert data.test.images.flatten(1).tolist() == test["data"].tolist()
    assert data.test.targets.tolist() == test["labels"]
    assert data.test.ids.tolist() == [8, 9, 10, 11]
    assert data.train.classes == ("cat", "dog")

    Path(folder / "test_batch").write_bytes(b"damaged")
    with pytest.raises(UserError, match="complete folder cifar-10-batches-py"):
        load_dataset(DataArgs(name="cifar10", path=tmp_path, download=False))


# Facts before loading.


def facts_of(dataset):
    """What `dataset_facts` has to say, from the dataset itself."""
    test = None if dataset.test is None else len(dataset.test)
    return DatasetFacts(
        len(dataset.train), test, *dataset.train.images.shape[1:], len(dataset.train.classes)
    )


def test_every_dataset_has_facts():
    assert sorted(FACTS) == list_datasets()


@pytest.mark.parametrize("args", [DataArgs(), DataArgs(subset=100)])
def test_facts_of_digits(args):
    assert dataset_facts(args) == facts_of(load_dataset(args))


def test_facts_of_the_files_of_debians_package():
    if not (vision.DEBIAN_FASHION_MNIST / "train-images-idx3-ubyte.gz").is_file():
        pytest.skip("Debian's dataset-fashion-mnist is not installed")
    args = DataArgs(name="fashion-mnist", download=False, subset=1000, test_subset=500)
    assert dataset_facts(args) == facts_of(load_dataset(args))


@pytest.mark.parametrize("name", ["fashion-mnist", "cifar10", "cifar100"])
def test_facts_need_no_files(name, tmp_path, monkeypatch):
    monkeypatch.setattr(vision, "DEBIAN_FASHION_MNIST", tmp_path / "not-installed")
    assert dataset_facts(DataArgs(name=name, path=tmp_path)).test == 10_000
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "args",
    [
        DataArgs(subset=5000),
        DataArgs(test_subset=10),
        DataArgs(name="parquet"),
        DataArgs(name="parquet", path=Path("not there")),
    ],
)
def test_facts_are_refused_where_loading_is(args):
    with pytest.raises(UserError) as found:
        dataset_facts(args)
    with pytest.raises(UserError) as expected:
        load_dataset(args)
    assert str(found.value) == str(expected.value)


def test_a_subset_of_the_test_set_is_checked():
    with pytest.raises(UserError, match="20,000 rows is asked for, but there are only 10,000"):
        dataset_facts(DataArgs(name="cifar10", test_subset=20_000))
