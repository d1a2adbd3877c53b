"""A calibrator on disk: `calibrator.safetensors` for what was fitted, `calibrator.json` beside."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import safetensors.torch

import temperance
from temperance.calibration.calibrators import CALIBRATORS, Calibrator
from temperance.config import look_up
from temperance.errors import UserError
from temperance.run import atomic

SCHEMA = 2  # raise when an older version could no longer read the files; 1 had no settings


def save_calibrator(calibrator: Calibrator, folder: str | Path) -> Path:
    """Write both files into the folder (created if need be), and return the path of the JSON.

    Each is written to a temporary name and renamed, so there is never half a file; the JSON holds
    the hash of the tensors, so a pair that does not belong together is noticed.

    Raises:
        UserError: if the calibrator is not fitted, or the disk is full.
    """
    folder = Path(folder)
    state = {key: tensor.cpu().contiguous() for key, tensor in calibrator.state_dict().items()}
    tensors = safetensors.torch.save(state)
    content = {
        "schema": SCHEMA,
        "name": calibrator.name,
        "temperance": temperance.__version__,
        "tensors_sha256": hashlib.sha256(tensors).hexdigest(),
        **calibrator.record(),
    }
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    for name, data in (("calibrator.safetensors", tensors), ("calibrator.json", text.encode())):
        with atomic(folder / name) as temporary:
            temporary.write_bytes(data)
    return folder / "calibrator.json"


def load_calibrator(path: str | Path) -> Calibrator:
    """The calibrator that `save_calibrator` wrote, on the CPU.

    Args:
        path: the folder, or the JSON in it.

    Raises:
        UserError: if a file is missing or damaged, does not belong to the other, was written by a
            newer version, or names a calibrator that there is not.
    """

    path = Path(path) / "calibrator.json" if Path(path).is_dir() else Path(path)
    record = _read_record(path)
    cls = look_up("calibrator", str(record.get("name")), CALIBRATORS)
    beside = path.with_suffix(".safetensors")
    tensors = _read(beside)
    if hashlib.sha256(tensors).hexdigest() != record.get("tensors_sha256"):
        raise UserError(
            f"is damaged, or belongs to another {path.name}",
            where=beside,
            mend="Calibrate again, or copy both files once more",
        )
    try:
        calibrator = cls(**record.get("settings", {}))
        calibrator.load_state_dict(safetensors.torch.load(tensors))
        calibrator.restore(record)
    except (KeyError, TypeError, RuntimeError, safetensors.SafetensorError) as error:
        raise UserError(f"does not fit the calibrator '{cls.name}' ({error})", where=path) from None
    return calibrator


def _read_record(path: Path) -> dict[str, Any]:
    text = _read(path)
    try:
        record = json.loads(text)
    except ValueError:  # JSON or UTF-8
        raise UserError(
            "is truncated or no JSON", where=path, mend="Calibrate again, or copy it once more"
        ) from None
    if not isinstance(record, dict) or not isinstance(record.get("schema"), int):
        raise UserError("describes no calibrator", where=path)
    if record["schema"] > SCHEMA:
        raise UserError(
            f"was written by a newer version of temperance ({record.get('temperance')})",
            where=path,
            mend="Upgrade: pip install --upgrade temperance",
        )
    return record


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(
            f"cannot be read ({error.strerror})",
            where=path,
            mend="Give the folder, or the calibrator.json, that `calibrate` wrote",
        ) from None
