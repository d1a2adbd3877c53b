"""Labelled images in Parquet files, one encoded image per row."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Int, UInt8
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from temperance.config import did_you_mean
from temperance.data.images import ImageSet
from temperance.errors import UserError


def read_parquet(
    path: Path | None, image_column: str, label_column: str
) -> tuple[ImageSet, ImageSet | None]:
    """Training images, and test images if there are any.

    Args:
        path: a folder with train.parquet and, if there is one, test.parquet; or one file.
        image_column: JPEG or PNG, as binary or as a struct with `bytes` and perhaps `path`.
        label_column: integer class indices. Their names come from the schema's metadata: a JSON
            list under `classes`, or what Hugging Face's datasets writes; else "0", "1", ….

    Raises:
        UserError: if a file is missing or damaged, a column is missing or of another type, an
            image cannot be decoded or has another size than the first, or a label is not one of
            the classes.
    """
    if path is None:
        raise UserError(
            "which file?", where="data.path", mend="Set it to a .parquet file or its folder"
        )
    path = path.expanduser()
    files = [path / "train.parquet", path / "test.parquet"] if path.is_dir() else [path]
    if not files[0].is_file():
        raise UserError(
            "there is no such file",
            where=files[0],
            mend="Set data.path to a .parquet file or a folder with train.parquet",
        )
    parts = [_read(file, image_column, label_column) for file in files if file.is_file()]
    largest = max(int(targets.max()) for _, targets, _ in parts)
    classes = parts[0][2] or tuple(str(label) for label in range(largest + 1))
    for file, (_, targets, _) in zip(files, parts, strict=False):
        _check_labels(targets, classes, file)
    sets = [
        ImageSet(images, targets, torch.arange(len(targets)), classes)
        for images, targets, _ in parts
    ]
    return sets[0], sets[1] if len(sets) > 1 else None


Part = tuple[
    UInt8[Tensor, "rows channels height width"], Int[Tensor, " rows"], tuple[str, ...] | None
]


def _read(file: Path, image_column: str, label_column: str) -> Part:
    """Images, labels and, where the file names them, classes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(file)
        for column, key in ((image_column, "image_column"), (label_column, "label_column")):
            if column not in schema.names:
                raise UserError(
                    f"has no column '{column}'",
                    where=file,
                    mend=f"Set data.{key}. {did_you_mean(column, schema.names)}",
                )
        table = pq.read_table(file, columns=list({image_column, label_column}))
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"is damaged or no Parquet file ({error})", where=file) from None
    if not len(table):
        raise UserError("holds no rows", where=file)

    labels = table[label_column]
    if not pa.types.is_integer(labels.type) or labels.null_count:
        found = f"{labels.null_count} nulls" if labels.null_count else str(labels.type)
        raise UserError(
            f"column '{label_column}' must hold integers only, but has {found}", where=file
        )
    targets = torch.from_numpy(labels.to_numpy().astype("int64"))

    column, names = table[image_column].combine_chunks(), None
    if pa.types.is_struct(column.type):
        fields = [field.name for field in column.type]
        names = column.field("path").to_pylist() if "path" in fields else None
        column = column.field("bytes") if "bytes" in fields else column
    if not (pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type)):
        raise UserError(
            f"column '{image_column}' must hold encoded images, as binary or as a struct with"
            f" 'bytes', but is {column.type}",
            where=file,
        )
    classes = _class_names(schema, label_column, file)  # before what takes long
    return _decode(column.to_pylist(), file, names), targets, classes


def _decode(
    encoded: Sequence[bytes | None], file: Path, names: Sequence[str | None] | None
) -> UInt8[Tensor, "rows channels height width"]:
    """The images, of one channel if all are grey, else of three."""
    pictures: list[npt.NDArray[np.uint8]] = []
    for row, content in enumerate(encoded):
        inner = f" ({names[row]})" if names and names[row] else ""
        where = f"{file}, row {row}{inner}"
        if not content:
            raise UserError("holds no image", where=where, mend="Remove the row")
        picture = _decode_one(content, where)
        if pictures and picture.shape[:2] != pictures[0].shape[:2]:
            size, first = ("×".join(map(str, p.shape[:2])) for p in (picture, pictures[0]))
            raise UserError(
                f"the image is {size}, the first one {first}",
                where=where,
                mend="Make all images of one size (height×width)",
            )
        pictures.append(picture)
    channels = max(picture.shape[2] for picture in pictures)
    stacked = np.empty((len(pictures), channels, *pictures[0].shape[:2]), dtype=np.uint8)
    for row, picture in enumerate(pictures):
        # A grey image among coloured ones spreads over the three channels.
        stacked[row] = picture.transpose(2, 0, 1)
    return torch.from_numpy(stacked)


def _decode_one(content: bytes, where: str) -> UInt8[np.ndarray, "height width channels"]:
    """One image of one or three channels; transparency is dropped."""
    try:
        image: Image.Image = Image.open(io.BytesIO(content), formats=("JPEG", "PNG"))
        image.load()
    except UnidentifiedImageError:
        reason = "the image is truncated, or neither JPEG nor PNG"
        raise UserError(reason, where=where, mend="Replace it or remove the row") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        # Pillow's PNG reader raises SyntaxError and ValueError for broken chunks.
        raise UserError(
            f"the image is truncated or damaged ({error})",
            where=where,
            mend="Replace it or remove the row",
        ) from None
    if image.mode.startswith(("I", "F")):
        raise UserError("the image has more than 8 bits per channel", where=where)
    if image.mode not in ("L", "RGB"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    pixels = np.asarray(image)
    return pixels if pixels.ndim == 3 else pixels[:, :, None]


def _class_names(schema: Any, label_column: str, file: Path) -> tuple[str, ...] | None:
    metadata = schema.metadata or {}
    try:
        if b"classes" in metadata:
            return tuple(str(name) for name in json.loads(metadata[b"classes"]))
        features = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {})
        names = features.get("features", {}).get(label_column, {}).get("names")
        return tuple(names) if names else None
    except (ValueError, AttributeError, TypeError) as error:
        raise UserError(
            f"class names in the metadata cannot be read ({error})", where=file
        ) from None


def _check_labels(targets: Int[Tensor, " rows"], classes: Sequence[str], file: Path) -> None:
    outside = (targets < 0) | (targets >= len(classes))
    if outside.any():
        row = int(outside.nonzero()[0])
        raise UserError(
            f"the label {int(targets[row])} is not one of the {len(classes)} classes"
            f" (0 to {len(classes) - 1})",
            where=f"{file}, row {row}",
            mend="Correct the label, or the class names in the file's metadata",
        )
