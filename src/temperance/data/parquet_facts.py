"""What Parquet files say about their images without these being decoded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from temperance.config import did_you_mean
from temperance.data.images import DatasetFacts
from temperance.data.parquet import _class_names, _decode_one
from temperance.errors import UserError


def parquet_facts(path: Path | None, image_column: str, label_column: str) -> DatasetFacts:
    """Facts from the files' metadata, the column of labels where no class is named, and one image.

    The other images may turn out to differ from the first one: `read_parquet` looks at all.

    Args:
        path: as in `read_parquet`, and so are the columns.

    Raises:
        UserError: if a file is missing or damaged, holds no rows or lacks a column, or the first
            image cannot be decoded.
    """
    if path is None:
        raise UserError(
            "which file?", where="data.path", mend="Set it to a .parquet file or its folder"
        )
    path = path.expanduser()
    train, test = (path / "train.parquet", path / "test.parquet") if path.is_dir() else (path, None)
    with _opened(train, {"image_column": image_column, "label_column": label_column}) as file:
        rows, classes = file.metadata.num_rows, _class_names(file.schema_arrow, label_column, train)
        largest = -1 if classes else _largest_label(file, label_column)
        height, width, channels = _decode_one(_first(file, image_column), f"{train}, row 0").shape
    test_rows = None
    if test is not None and test.is_file():
        with _opened(test, {"label_column": label_column}) as file:
            test_rows = file.metadata.num_rows
            largest = -1 if classes else max(largest, _largest_label(file, label_column))
    n_classes = len(classes) if classes else largest + 1
    return DatasetFacts(rows, test_rows, channels, height, width, n_classes)


@contextmanager
def _opened(path: Path, columns: dict[str, str]) -> Iterator[Any]:
    """A Parquet file with rows and these columns (by the setting that names them)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        raise UserError(
            "there is no such file",
            where=path,
            mend="Set data.path to a .parquet file or a folder with train.parquet",
        )
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            for key, column in columns.items():
                if column not in names:
                    raise UserError(
                        f"has no column '{column}'",
                        where=path,
                        mend=f"Set data.{key}. {did_you_mean(column, names)}",
                    )
            if not file.metadata.num_rows:
                raise UserError("holds no rows", where=path)
            yield file
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"is damaged or no Parquet file ({error})", where=path) from None


def _largest_label(file: Any, column: str) -> int:
    import pyarrow.compute as pc

    return int(pc.max(file.read(columns=[column])[column]).as_py())


def _first(file: Any, column: str) -> bytes:
    """The first image, encoded; empty where there is none."""
    value = next(file.iter_batches(batch_size=1, columns=[column]))[column][0].as_py()
    return (value.get("bytes") if isinstance(value, dict) else value) or b""
