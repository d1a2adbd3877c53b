"""Files that hold logits and targets: many people have only that."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.numpy import load_file
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
    except (OSError, ValueError, zipfile.BadZipFile, SafetensorError) as error:
        raise UserError(f"cannot be read ({error})", where=path) from None
    for name in ("logits", "targets"):
        if name not in content:
            raise UserError(
                f"holds no '{name}'",
                where=path,
                mend=f"It has {', '.join(sorted(content)) or 'nothing'}; rename what you mean",
            )
    return torch.as_tensor(content["logits"]), torch.as_tensor(content["targets"])


def _read_npz(path: Path) -> dict[str, Any]:
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def _read_parquet(path: Path) -> dict[str, Any]:
    frame = pd.read_parquet(path)
    content: dict[str, Any] = {str(name): frame[name].to_numpy() for name in frame.columns}
    if "logits" in content:
        content["logits"] = np.stack(list(content["logits"]))
    return content


_READERS: dict[str, Callable[[Path], dict[str, Any]]] = {
    ".npz": _read_npz,
    ".safetensors": load_file,
    ".parquet": _read_parquet,
}
