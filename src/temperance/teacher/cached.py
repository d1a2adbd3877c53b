"""A teacher that is asked once: its logits for every view of every sample, in memory or on disk."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from temperance.data import Batch, ImageSet, ViewSpec, training_batches
from temperance.errors import UserError
from temperance.models.features import ModelProbe
from temperance.rows import Signal
from temperance.run import atomic
from temperance.teacher.calibrated import GivesSignals, apply_calibrator
from temperance.teacher.sample_ids import Places


class CachedTeacher:
    """Stored logits, raw or calibrated: what a live teacher says, without running it.

    In float32, so a live teacher at lower precision differs by its rounding.

    Args:
        logits: of every view of every sample, before any calibrator, as `fill` gives them; on the
            device where batches are made.
        ids: of the samples, in the same order.
        calibrator: from logits to logits; None for the raw teacher.
    """

    def __init__(
        self,
        logits: Float[Tensor, "views samples classes"],
        ids: Int[Tensor, " samples"],
        calibrator: nn.Module | None = None,
    ) -> None:
        self.logits, self.calibrator = logits, calibrator
        self.places = Places(ids.to(logits.device))

    def probe(self, inputs: Tensor) -> ModelProbe:
        """The number of classes; its inside is not there to be looked at."""
        return LogitsProbe(self.logits.shape[2])

    def tap(self, taps: Sequence[str]) -> None:
        """Nothing to tap.

        Raises:
            UserError: if the objective compares activations.
        """
        if taps:
            raise _no_inside()

    @torch.no_grad()
    def signal(self, task: GivesSignals, batch: Batch) -> Signal:
        """The logits for the batch, calibrated if it has a calibrator.

        Raises:
            ValueError: if a sample is not among the stored ones.
        """
        places = self.places(batch.ids)
        views = torch.arange(batch.view, batch.view + batch.views, device=places.device)
        views = views.repeat_interleave(len(places) // batch.views) % len(self.logits)
        return apply_calibrator(Signal(self.logits[views, places]), self.calibrator)


class LogitsProbe(ModelProbe):
    """Of a teacher whose logits are known, and nothing else; looking further is refused."""

    def __init__(self, classes: int) -> None:
        # Not by the constructor of the frozen class: it would set `stages`.
        self.__dict__.update(model=nn.Identity(), shapes={}, classes=classes, head=None)

    @property
    def stages(self) -> tuple[str, ...]:
        """Refused."""
        raise _no_inside()

    @property
    def embedding(self) -> str | None:
        """Refused."""
        raise _no_inside()

    def shape(self, tap: str) -> torch.Size:
        """Refused."""
        raise _no_inside()


def _no_inside() -> UserError:
    return UserError(
        "the objective compares activations, and only logits are stored",
        where="cached teacher",
        mend="Use a live teacher, or an objective of logits, such as 'kd'",
    )


def cacheable(spec: ViewSpec) -> bool:
    """Whether a sample has a bounded number of views: no augmentation, or `views` above 0.

    Examples:
        >>> cacheable(ViewSpec()), cacheable(ViewSpec(flip=True))
        (True, False)
        >>> cacheable(ViewSpec(flip=True, views=4))
        True
    """
    return bool(spec.views) or spec == ViewSpec()


@torch.no_grad()
def fill(
    model: nn.Module,
    image_set: ImageSet,
    spec: ViewSpec,
    device: torch.device,
    *,
    batch_size: int = 512,
) -> Float[Tensor, "views samples classes"]:
    """Logits (float32, on `device`) of a model for every view of every image.

    The model is put into eval mode and given back in the mode in which it came.

    Args:
        model: from images to logits, on `device`.
        image_set: what will be trained on.
        spec: the augmentation of the training that the cache is for.
        batch_size: images per forward pass, at most.

    Raises:
        UserError: if the views of a sample never repeat.
    """
    if not cacheable(spec):
        raise UserError(
            "every epoch has new views of the images, so no teacher's logits can be stored",
            where="augment.views",
            mend="Set it to a number of views that repeat, such as 4",
        )
    n, views = len(image_set), max(1, spec.views)
    logits = torch.empty(views, n, len(image_set.classes), device=device)
    places = Places(image_set.ids.to(device))
    image_set = replace(image_set, images=image_set.images.to(device))
    shares = math.ceil(n / batch_size)
    was_training = model.training
    model.eval()
    # The batches of a training whose every epoch is one step, shared among processes: what is
    # stored went the way that trained images go. The seed gives an order, which does not matter.
    for share in range(shares):
        for batch in training_batches(
            image_set,
            batch_size=n,
            seed=0,
            spec=spec,
            start_step=0,
            steps=views,
            rank=share,
            world_size=shares,
            device=device,
        ):
            logits[batch.view, places(batch.ids)] = model(batch.images).float()
    model.train(was_training)
    return logits


def save_cache(
    path: Path,
    logits: Float[Tensor, "views samples classes"],
    ids: Int[Tensor, " samples"],
) -> None:
    """Write what `fill` gave as safetensors, whole or not at all, with a checksum.

    Raises:
        UserError: if the disk is full or refuses; what stood at `path` is unharmed.
    """
    tensors = {"logits": logits.cpu().contiguous(), "ids": ids.cpu().contiguous()}
    content = save(tensors, metadata={"sha256": _digest(tensors)})
    with atomic(path) as temporary:
        temporary.write_bytes(content)


def load_cache(
    path: Path,
) -> tuple[Float[Tensor, "views samples classes"], Int[Tensor, " samples"]]:
    """Logits and ids that `save_cache` wrote, on the CPU.

    Raises:
        UserError: if the file is missing or damaged, or is something else.
    """
    if not path.is_file():
        raise UserError("there is no such file", where=path)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            checksum = (file.metadata() or {}).get("sha256")
    except (SafetensorError, OSError) as error:
        raise UserError(f"is damaged ({error})", where=path, mend="Delete it") from None
    if checksum != _digest(tensors):
        raise UserError(
            "is damaged, or holds no stored logits of a teacher", where=path, mend="Delete it"
        )
    return tensors["logits"], tensors["ids"]


def _digest(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.numpy().data)
    return digest.hexdigest()
