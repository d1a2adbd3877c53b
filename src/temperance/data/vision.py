"""Fashion-MNIST and CIFAR, from where they lie or by torchvision's download."""

from __future__ import annotations

import gzip
import socket
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from temperance.data.images import ImageSet
from temperance.errors import UserError

DOWNLOADS = Path("~/.cache/temperance")
DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
FASHION_MNIST_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
    "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip


def read_fashion_mnist(path: Path | None, *, download: bool) -> tuple[ImageSet, ImageSet]:
    """Fashion-MNIST (Xiao et al. 2017): 60,000 + 10,000 images, 28×28, one channel.

    Looked for in `path`, then among the files of Debian's package dataset-fashion-mnist.

    Raises:
        UserError: if it is not there and cannot be downloaded, or a file is damaged.
    """
    root = (path or DOWNLOADS).expanduser()
    folders = [root, root / "FashionMNIST" / "raw", DEBIAN_FASHION_MNIST]
    found = [folder for folder in folders if _idx_file(folder, "train-images-idx3-ubyte")]
    if not found and not download:
        raise _not_there(
            "Fashion-MNIST", root, "the four *-ubyte.gz files, or install dataset-fashion-mnist"
        )
    if not found:
        from torchvision.datasets import FashionMNIST

        with _downloading("Fashion-MNIST", root):
            FashionMNIST(str(root), download=True)
        found = [root / "FashionMNIST" / "raw"]
    return _idx_pair(found[0], "train"), _idx_pair(found[0], "t10k")


def read_cifar(n_classes: int, path: Path | None, *, download: bool) -> tuple[ImageSet, ImageSet]:
    """CIFAR-10 or CIFAR-100 (Krizhevsky 2009): 50,000 + 10,000 photographs, 32×32, three channels.

    The files are pickles; torchvision opens them only if their MD5 is the published one.

    Args:
        n_classes: 10 or 100.

    Raises:
        UserError: if it is not there and cannot be downloaded.
    """
    from torchvision.datasets import CIFAR10, CIFAR100

    dataset = CIFAR10 if n_classes == 10 else CIFAR100
    root = (path or DOWNLOADS).expanduser()
    try:
        parts = [dataset(str(root), train=train) for train in (True, False)]
    except RuntimeError:
        if not download:
            what = f"the complete folder {dataset.base_folder}"
            raise _not_there(f"CIFAR-{n_classes}", root, what) from None
        with _downloading(f"CIFAR-{n_classes}", root):
            parts = [dataset(str(root), train=train, download=True) for train in (True, False)]
    train, test = (_from_torchvision(part) for part in parts)
    return train, test


def _from_torchvision(part: Any) -> ImageSet:
    images = torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous()
    targets = torch.tensor(part.targets)
    return ImageSet(images, targets, torch.arange(len(targets)), tuple(part.classes))


def _idx_pair(folder: Path, part: str) -> ImageSet:
    images = _read_idx(folder, f"{part}-images-idx3-ubyte", axes=3)
    targets = _read_idx(folder, f"{part}-labels-idx1-ubyte", axes=1)
    if len(images) != len(targets) or targets.max() >= len(FASHION_MNIST_CLASSES):
        raise UserError(f"images and labels of '{part}' do not belong together", where=folder)
    return ImageSet(
        torch.from_numpy(images)[:, None],
        torch.from_numpy(targets).long(),
        torch.arange(len(targets)),
        FASHION_MNIST_CLASSES,
    )


def _idx_file(folder: Path, name: str) -> Path | None:
    """The file, compressed or not."""
    return next((file for file in (folder / f"{name}.gz", folder / name) if file.is_file()), None)


def _read_idx(folder: Path, name: str, axes: int) -> npt.NDArray[np.uint8]:
    """An array of bytes in MNIST's format: magic 0x0800 + axes, the sizes, the bytes."""
    file = _idx_file(folder, name)
    if file is None:
        raise UserError("there is no such file", where=folder / name, mend="Get it, .gz or not")
    try:
        content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"cannot be read ({error})", where=file, mend="Get it anew") from None
    head, data = content[: 4 * (1 + axes)], bytearray(content[4 * (1 + axes) :])
    if len(head) < 4 * (1 + axes) or int.from_bytes(head[:4]) != 0x0800 + axes:
        raise UserError("is truncated or no IDX file of bytes", where=file, mend="Get it anew")
    shape = np.frombuffer(head[4:], dtype=">u4").tolist()
    if len(data) != np.prod(shape) or not data:
        raise UserError(
            f"is truncated: {len(data)} of {np.prod(shape)} bytes", where=file, mend="Get it anew"
        )
    return np.frombuffer(data, dtype=np.uint8).reshape(shape)


@contextmanager
def _downloading(what: str, root: Path) -> Iterator[None]:
    """Turns what goes wrong in a download into one clear error, within half a minute of silence."""
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(30.0)
    try:
        yield
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{what} is not there and cannot be downloaded ({reason})",
            where=root,
            mend="Set data.path to the folder that holds it, or download it elsewhere and copy it",
        ) from None
    finally:
        socket.setdefaulttimeout(timeout)


def _not_there(what: str, root: Path, files: str) -> UserError:
    return UserError(
        f"{what} is not there",
        where=root,
        mend=f"Set data.path to the folder with {files}; or data.download=true",
    )
