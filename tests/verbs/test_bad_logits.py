from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

Spoil = Callable[[np.ndarray, np.ndarray], object]


def put(row: int, value: float, *, on_target: bool = False) -> Spoil:
    def spoil(logits: np.ndarray, targets: np.ndarray) -> None:
        logits[row, targets[row] if on_target else 0] = value

    return spoil


def label(row: int, value: int) -> Spoil:
    def spoil(logits: np.ndarray, targets: np.ndarray) -> None:
        targets[row] = value

    return spoil


SPOILT_LOGITS = [
    pytest.param(put(7, np.nan), ("row 7", "NaN"), id="NaN"),
    pytest.param(put(7, np.inf), ("row 7", "inf"), id="+inf"),
    pytest.param(put(7, -np.inf, on_target=True), ("row 7", "-inf", "true class"), id="-inf"),
    pytest.param(label(5, 3), ("row 5", "target 3", "3 classes"), id="label too large"),
    pytest.param(label(5, -1), ("row 5", "target -1", "3 classes"), id="label negative"),
]


@pytest.mark.parametrize("verb", ["measure", "calibrate"])
@pytest.mark.parametrize(("spoil", "words"), SPOILT_LOGITS)
def test_values_that_have_no_calibration(
    verb: str, spoil: Spoil, words: tuple[str, ...], tmp_path: Path,
    logits_file: Callable[..., Path], refused: Callable[..., str],
) -> None:  # fmt: skip
    file = logits_file(change=spoil)
    refused(verb, f"logits={file}", "--out", tmp_path / "run", words=words)


@pytest.mark.parametrize("verb", ["measure", "calibrate"])
def test_the_file_with_bad_values_is_named(
    verb: str, tmp_path: Path, logits_file: Callable[..., Path], refused: Callable[..., str]
) -> None:
    file = logits_file("mine.npz", put(7, np.nan))
    refused(verb, f"logits={file}", "--out", tmp_path / "run", words=("mine.npz",))


@pytest.mark.parametrize("verb", ["measure", "calibrate"])
def test_a_refused_run_leaves_no_folder(
    verb: str, tmp_path: Path, logits_file: Callable[..., Path], refused: Callable[..., str],
    succeeds: Callable[..., Any],
) -> None:  # fmt: skip
    """So the same command works once the file is mended."""
    refused(verb, f"logits={logits_file(change=put(7, np.nan))}", "--out", tmp_path / "run")
    succeeds(verb, f"logits={logits_file()}", "--out", tmp_path / "run")


@pytest.mark.parametrize("verb", ["measure", "calibrate"])
def test_overwriting_with_bad_input_keeps_the_old_run(
    verb: str, tmp_path: Path, logits_file: Callable[..., Path], refused: Callable[..., str],
    succeeds: Callable[..., Any], snapshot: Callable[[Path], Any],
) -> None:  # fmt: skip
    run = tmp_path / "run"
    succeeds(verb, f"logits={logits_file()}", "--out", run)
    before = snapshot(run)
    bad = logits_file("bad.npz", put(7, np.nan))
    refused(verb, f"logits={bad}", "--overwrite", "--out", run)
    assert snapshot(run) == before


def write_logits(file: Path) -> None:
    """60 good rows of 3 classes in a file of any kind."""
    logits = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
    targets = np.arange(60) % 3
    match file.suffix:
        case ".npz":
            np.savez(file, logits=logits, targets=targets)
        case ".safetensors":
            tensors = {"logits": torch.tensor(logits), "targets": torch.tensor(targets)}
            save_file(tensors, file)
        case ".parquet":
            pd.DataFrame({"logits": list(logits), "targets": targets}).to_parquet(file)


KINDS = [".npz", ".safetensors", ".parquet"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_is_read(
    kind: str, tmp_path: Path, succeeds: Callable[..., Any]
) -> None:
    for each in {".npz", kind}:
        write_logits(tmp_path / f"mine{each}")
        succeeds("measure", f"logits={tmp_path / f'mine{each}'}", "--out", tmp_path / each)
    found, same = (json.loads((tmp_path / k / "metrics.json").read_text()) for k in (kind, ".npz"))
    assert found["rows"][f"mine{kind}"] == same["rows"]["mine.npz"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # np.load leaks
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("keep", [0, 4, 100, -5], ids=["empty", "4 bytes", "100 bytes", "5 less"])
def test_truncated_files(kind: str, keep: int, tmp_path: Path, refused: Callable[..., str]) -> None:
    file = tmp_path / f"mine{kind}"
    write_logits(file)
    file.write_bytes(file.read_bytes()[:keep])
    refused("measure", f"logits={file}", "--out", tmp_path / "run", words=(f"mine{kind}",))
    assert not (tmp_path / "run").exists()


def arrays(**content: np.ndarray) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        np.savez(folder / "mine.npz", **content)
        return folder / "mine.npz"

    return write


def plain_array(folder: Path) -> Path:
    np.save(folder / "mine.npy", np.zeros((60, 3)))
    return (folder / "mine.npy").rename(folder / "mine.npz")


def words_as_targets(folder: Path) -> Path:
    frame = pd.DataFrame({"logits": list(np.zeros((3, 3))), "targets": ["cat", "dog", "cat"]})
    frame.to_parquet(folder / "mine.parquet")
    return folder / "mine.parquet"


ZEROS, TARGETS = np.zeros((60, 3), np.float32), np.arange(60) % 3


@pytest.mark.parametrize(
    ("write", "words"),
    [
        pytest.param(
            arrays(scores=ZEROS, targets=TARGETS),
            ("mine.npz", "no 'logits'", "scores"),
            id="no logits",
        ),
        pytest.param(
            arrays(logits=ZEROS, labels=TARGETS),
            ("mine.npz", "no 'targets'", "labels"),
            id="no targets",
        ),
        pytest.param(arrays(logits=ZEROS, targets=TARGETS[:-1]), ("targets", "60"), id="lengths"),
        pytest.param(arrays(logits=ZEROS, targets=TARGETS / 2), ("targets", "integers"), id="soft"),
        pytest.param(
            arrays(logits=ZEROS, targets=TARGETS.astype(str)), ("targets",), id="words, npz"
        ),
        pytest.param(words_as_targets, ("targets",), id="words, parquet"),
        pytest.param(arrays(logits=ZEROS[:0], targets=TARGETS[:0]), ("no rows",), id="no rows"),
        pytest.param(plain_array, ("mine.npz",), id="one array"),
        pytest.param(lambda folder: folder / "none.npz", ("none.npz", "no such file"), id="none"),
    ],
)
def test_files_that_hold_something_else(
    write: Callable[[Path], Path], words: tuple[str, ...], tmp_path: Path,
    refused: Callable[..., str],
) -> None:  # fmt: skip
    refused("measure", f"logits={write(tmp_path)}", "--out", tmp_path / "run", words=words)


def test_half_precision_logits_are_read(tmp_path: Path, succeeds: Callable[..., Any]) -> None:
    """Teachers on accelerators give bfloat16."""
    tensors = {"logits": torch.randn(60, 3).bfloat16(), "targets": torch.arange(60) % 3}
    save_file(tensors, tmp_path / "mine.safetensors")
    succeeds("measure", f"logits={tmp_path / 'mine.safetensors'}", "--out", tmp_path / "run")


def test_logits_of_one_class_have_no_temperature(
    tmp_path: Path, logits_file: Callable[..., Path], refused: Callable[..., str]
) -> None:
    file = logits_file(change=lambda logits, targets: targets.fill(2))
    refused("calibrate", f"logits={file}", "--out", tmp_path / "run", words=("only one class (2)",))


def all_right(logits: np.ndarray, targets: np.ndarray) -> None:
    targets[:] = logits.argmax(1)


def test_a_degenerate_temperature_is_said_and_refused(
    tmp_path: Path, teacher: Path, tiny: tuple[str, ...], logits_file: Callable[..., Path],
    refused: Callable[..., str], succeeds: Callable[..., Any],
) -> None:  # fmt: skip
    fitted = tmp_path / "fitted"
    said = succeeds("calibrate", f"logits={logits_file(change=all_right)}", "--out", fitted).out
    assert "Nothing can be fitted" in said
    assert "separable" in said

    command = ("distill", f"teacher.weights={teacher}", f"teacher.calibrator={fitted}", *tiny)
    refused(*command, "--out", tmp_path / "no", words=("separable", "calibration.force=true"))
    succeeds(*command, "calibration.force=true", "--out", tmp_path / "yes")
    stored = json.loads((tmp_path / "yes" / "teacher.json").read_text())
    assert stored["temperature"] == 1.0


def test_a_refused_distillation_can_be_forced(
    tmp_path: Path, teacher: Path, tiny: tuple[str, ...], logits_file: Callable[..., Path],
    refused: Callable[..., str], succeeds: Callable[..., Any],
) -> None:  # fmt: skip
    """What the message says has to work: the same command with one word more."""
    fitted = tmp_path / "fitted"
    succeeds("calibrate", f"logits={logits_file(change=all_right)}", "--out", fitted)
    command = ("distill", f"teacher.weights={teacher}", f"teacher.calibrator={fitted}", *tiny)
    refused(*command, "--out", tmp_path / "run")
    succeeds(*command, "--force", "--out", tmp_path / "run")
