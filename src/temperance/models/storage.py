"""Models on disk: model.safetensors for the weights, config.json for everything else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, PositiveInt
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from temperance.config import Args, load_config
from temperance.errors import UserError
from temperance.models.zoo import ImageClassifier, ModelArgs
from temperance.run import atomic

WEIGHTS, CONFIG = "model.safetensors", "config.json"


class StoredModel(Args):
    """What config.json holds."""

    format: Literal["temperance-model-1"] = "temperance-model-1"
    args: ModelArgs
    channels: PositiveInt
    input_size: tuple[PositiveInt, PositiveInt]
    classes: tuple[str, ...]
    extra: dict[str, Any] = Field(default_factory=dict)


def save_model(
    model: ImageClassifier, folder: Path, extra: Mapping[str, Any] | None = None
) -> None:
    """Write model.safetensors and config.json into `folder`, each whole or not at all.

    Args:
        extra: facts to keep beside the model, such as its accuracy; they must be JSON.

    Raises:
        UserError: if the disk is full or refuses; what stood there before is unharmed.
    """
    stored = StoredModel(
        args=model.args,
        channels=model.channels,
        input_size=model.input_size,
        classes=model.classes,
        extra=dict(extra or {}),
    )
    tensors = {name: value.contiguous().cpu() for name, value in model.state_dict().items()}
    with atomic(folder / CONFIG) as temporary:
        temporary.write_text(stored.model_dump_json(indent=2) + "\n", encoding="utf-8")
    with atomic(folder / WEIGHTS) as temporary:
        temporary.write_bytes(save(tensors))


def weights_of(model: Path) -> Path:
    """The folder with the weights, given a run's folder, that folder, or the file of weights."""
    return model / "student" if (model / "student").is_dir() else model


def load_model(path: str | Path, *, classes: int | None = None) -> ImageClassifier:
    """A model that `save_model` wrote, on the CPU, in eval mode, every bit as it was.

    Args:
        path: its folder, or the model.safetensors in it.
        classes: how many classes the data have, where a model with others is of no use.

    Raises:
        UserError: if a file is missing, truncated or of another format, if the weights are not
            those of the model that config.json describes, or if it has other classes.
    """
    path = Path(path)
    weights = path if path.suffix == ".safetensors" else path / WEIGHTS
    config = weights.parent / CONFIG
    for file in (weights, config):
        if not file.is_file():
            raise UserError(
                "there is no such file",
                where=file,
                mend=f"Give a folder with {WEIGHTS} and {CONFIG}, as `train` and `distill` write",
            )
    stored = _read_config(config)
    if classes is not None and len(stored.classes) != classes:
        raise UserError(
            f"the model knows {len(stored.classes)} classes, the data have {classes}",
            where=weights,
            mend="Use a model that was trained on these classes",
        )
    try:
        tensors = load(weights.read_bytes())
    except SafetensorError as error:
        raise UserError(
            f"is truncated or no safetensors file ({error})", where=weights, mend="Copy it anew"
        ) from None
    with torch.device("meta"):  # shapes only: the weights come from the file
        model = ImageClassifier(
            stored.args,
            channels=stored.channels,
            input_size=stored.input_size,
            classes=stored.classes,
        )
    _check_tensors(model.state_dict(), tensors, weights)
    model.load_state_dict(tensors, assign=True)
    return model.eval()


def weights_sha256(model: nn.Module) -> str:
    """Hash of every parameter and buffer: name, type, shape and bytes, on whatever device.

    Examples:
        >>> layer = nn.Linear(2, 2)
        >>> before = weights_sha256(layer)
        >>> with torch.no_grad():
        ...     _ = layer.bias.add_(1)
        >>> before == weights_sha256(layer)
        False
    """
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        content = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(content.numpy().data)
    return digest.hexdigest()


def _read_config(file: Path) -> StoredModel:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("no mapping")
    except ValueError as error:
        raise UserError(f"is no valid JSON ({error})", where=file, mend="Copy it anew") from None
    try:
        return load_config(StoredModel, content)
    except UserError as error:
        raise UserError(f"describes no model ({error.what})", where=file) from None


def _check_tensors(
    wanted: Mapping[str, Tensor], found: Mapping[str, Tensor], weights: Path
) -> None:
    """One clear reason why the file's tensors are not the model's."""
    missing, foreign = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    if missing or foreign:
        what = f"lacks '{missing[0]}'" if missing else f"has '{foreign[0]}' that the model has not"
        more = len(missing) + len(foreign) - 1
        what += f", and {more} more names differ" if more else ""
    else:
        differ = [name for name in wanted if wanted[name].shape != found[name].shape]
        if not differ:
            return
        shapes = tuple(found[differ[0]].shape), tuple(wanted[differ[0]].shape)
        what = f"'{differ[0]}' has shape {shapes[0]}, the model needs {shapes[1]}"
    raise UserError(
        what, where=weights, mend=f"Use the {CONFIG} that was written with these weights"
    )
