"""Files that hold logits and targets: many people have only that."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from temperance.config import look_up
from temperance.errors import UserError


def load_logits(path: Path) -> tuple[Float[Tensor, "rows classes"], Int[Tensor, " rows"]]:
    """Logits and targets from a file.

    Args:
        path: `.npz` or `.safetensors` with arrays `logits` (rows, classes) and `targets` (rows), or
            `.parquet` with a column `logits` of lists and an integer column `targets`.

    Raises:
        UserError: if the file is missing, damaged, of another kind, or lacks one of the two.
    """
    if not path.is_file():
        raise UserError("there is no such file", where=path, mend="Check the path")
    read = look_up("reader for files that end in", path.suffix, _READERS)
    try:
        content = read(path)
    except (OSError, EOFError, ValueError, TypeError, zipfile.BadZipFile, SafetensorError) as error:
        raise UserError(f"cannot be read ({error})", where=path) from None
    for name in ("logits", "targets"):
        if name not in content:
            raise UserError(
                f"holds no '{name}'",
                where=path,
                mend=f"It has {', '.join(sorted(content)) or 'nothing'}; rename what you mean",
            )
    return content["logits"], content["targets"]


def _read_npz(path: Path) -> dict[str, Tensor]:
    with path.open("rb") as file:
        archive = np.load(file, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ValueError("one array without a name; use numpy.savez(logits=…, targets=…)")
        return {name: _tensor(name, archive[name]) for name in archive.files}


def _read_parquet(path: Path) -> dict[str, Tensor]:
    frame = pd.read_parquet(path)
    return {
        str(name): _tensor(name, np.stack(list(frame[name])))
        for name in frame.columns
        if name in ("logits", "targets")
    }


def _tensor(name: str, array: npt.NDArray[Any]) -> Tensor:
    if array.dtype.kind not in "fiub":
        raise ValueError(f"'{name}' holds {array.dtype}, not numbers")
    return torch.from_numpy(array)


_READERS: dict[str, Callable[[Path], dict[str, Tensor]]] = {
    ".npz": _read_npz,
    ".safetensors": load_file,
    ".parquet": _read_parquet,
}
