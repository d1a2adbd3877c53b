from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from temperance.cli import main
from temperance.errors import UserError

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
    assert "No temperature can be fitted" in said
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
    succeeds(*command, "calibration.force=true", "--out", tmp_path / "run")


# Data


def test_a_teacher_of_other_classes(
    tmp_path: Path, teacher: Path, tiny: tuple[str, ...], parquet: Callable[..., Path],
    refused: Callable[..., str],
) -> None:  # fmt: skip
    data = ("data.name=parquet", f"data.path={parquet()}")
    words = ("10 classes", "the data have 3", "model.safetensors")
    refused("distill", f"teacher.weights={teacher}", *data, *tiny,
            "--out", tmp_path / "run", words=words)  # fmt: skip
    refused("measure", f"model={teacher}", *data, "--out", tmp_path / "run", words=words)
    assert not (tmp_path / "run").exists()


@pytest.mark.filterwarnings("ignore:too few rows")
def test_a_calibration_split_of_one_class(
    tmp_path: Path, tiny: tuple[str, ...], parquet: Callable[..., Path],
    refused: Callable[..., str],
) -> None:  # fmt: skip
    data = ("data.name=parquet", f"data.path={parquet((60, 2, 2))}")
    refused("train", *data, *tiny, "--out", tmp_path / "run",
            words=("split.calibration", "single class", "Raise"))  # fmt: skip


def test_an_empty_calibration_split(
    tmp_path: Path, teacher: Path, tiny: tuple[str, ...], refused: Callable[..., str]
) -> None:
    words = ("split.calibration", "empty", "cross-fit")
    refused("distill", f"teacher.weights={teacher}", "split.calibration=0", *tiny,
            "--out", tmp_path / "run", words=words)  # fmt: skip
    refused("calibrate", f"model={teacher}", "split.calibration=0", "--out", tmp_path / "other",
            words=("calibration split is empty",))  # fmt: skip


def test_a_study_with_an_empty_calibration_split(
    tmp_path: Path, refused: Callable[..., str]
) -> None:
    refused("demo", "replicates=1", "teacher.training.epochs=1", "student.training.epochs=1",
            "calibration.fit=held-out", "split.calibration=0", "--out", tmp_path / "run",
            words=("split.calibration", "empty"))  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (("data.name=cifar10", "data.path={folder}", "data.download=false"),
         ("CIFAR-10 is not there", "{folder}", "data.path", "data.download=true")),
        (("data.name=parquet", "data.path={folder}/none.parquet"),
         ("{folder}/none.parquet", "no such file", "data.path")),
        (("data.name=parquet",), ("data.path", "which file?")),
        (("data.name=parquet", "data.path={folder}"), ("train.parquet", "no such file")),
    ],
)  # fmt: skip
def test_data_that_are_not_there(
    settings: tuple[str, ...], words: tuple[str, ...], tmp_path: Path, tiny: tuple[str, ...],
    refused: Callable[..., str],
) -> None:  # fmt: skip
    settings, words = ([s.format(folder=tmp_path) for s in given] for given in (settings, words))
    refused("train", *settings, *tiny, "--out", tmp_path / "run", words=words)
    assert not (tmp_path / "run").exists()


def test_a_truncated_image_is_named(
    tmp_path: Path, tiny: tuple[str, ...], parquet: Callable[..., Path],
    refused: Callable[..., str],
) -> None:  # fmt: skip
    data = ("data.name=parquet", f"data.path={parquet(truncated=(7,))}")
    refused("train", *data, *tiny, "--out", tmp_path / "run",
            words=("images.parquet, row 7", "truncated", "Replace it or remove the row"))  # fmt: skip


# Models


@pytest.mark.parametrize(("verb", "key"), [("distill", "teacher.weights"), ("measure", "model")])
def test_truncated_weights_are_named(
    verb: str, key: str, tmp_path: Path, teacher: Path, tiny: tuple[str, ...],
    refused: Callable[..., str], snapshot: Callable[[Path], Any],
) -> None:  # fmt: skip
    broken = tmp_path / "broken"
    shutil.copytree(teacher, broken)
    file = broken / "student" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    before = snapshot(broken)
    settings = tiny if verb == "distill" else ()
    refused(verb, f"{key}={broken}", *settings, "--out", tmp_path / "run",
            words=(str(file), "truncated"))  # fmt: skip
    assert snapshot(broken) == before


def test_weights_that_are_not_there(
    tmp_path: Path, tiny: tuple[str, ...], refused: Callable[..., str]
) -> None:
    out, missing = tmp_path / "run", tmp_path / "none"
    refused("distill", *tiny, "--out", out, words=("'teacher.weights' is required",))
    refused("distill", f"teacher.weights={missing}", "data.name=digits", *tiny, "--out", out,
            words=(str(missing), "no such file", "model.safetensors"))  # fmt: skip
    refused("measure", f"model={missing}", "--out", out, words=(str(missing), "data.name"))
    assert not out.exists()


def test_a_truncated_checkpoint_is_named(
    tmp_path: Path, tiny: tuple[str, ...], teacher: Path, killed_at: Callable[..., None],
    refused: Callable[..., str], succeeds: Callable[..., Any], snapshot: Callable[[Path], Any],
    student: Callable[[Path], bytes],
) -> None:  # fmt: skip
    run = tmp_path / "run"
    command = ("train", *tiny, "training.checkpoint_seconds=0", "--out", run)
    killed_at(20, *command)
    checkpoint = run / "checkpoints" / "last.pt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:-500])
    before = snapshot(run)
    refused(*command, "--resume", words=(str(checkpoint), "truncated", "delete it", "--resume"))
    assert snapshot(run) == before

    checkpoint.unlink()  # as the message says
    succeeds(*command, "--resume")
    assert student(run) == student(teacher)


def test_truncated_out_of_fold_logits_are_named(
    tmp_path: Path, tiny: tuple[str, ...], teacher: Path, refused: Callable[..., str],
    succeeds: Callable[..., Any],
) -> None:  # fmt: skip
    run = tmp_path / "run"
    fit = ("calibration.fit=cross-fit", "calibration.folds=2")
    command = ("distill", f"teacher.weights={teacher}", *fit, *tiny, "--out", run)
    succeeds(*command)
    file = run / "predictions" / "out-of-fold.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    refused(*command, "--resume", words=(str(file),))


# Folders


def test_foreign_folders_are_left_alone(
    tmp_path: Path, tiny: tuple[str, ...], refused: Callable[..., str],
    snapshot: Callable[[Path], Any],
) -> None:  # fmt: skip
    (tmp_path / "holiday.jpg").write_bytes(b"sun")
    for flags, words in (((), ("not empty", "--out")), (("--resume",), ("no run to resume",)),
                         (("--overwrite",), ("not overwritten",))):  # fmt: skip
        refused("train", *tiny, *flags, "--out", tmp_path, words=(str(tmp_path), *words))
    assert list(snapshot(tmp_path)) == ["holiday.jpg"]


@pytest.mark.parametrize("below", ["", "/run"], ids=["a file", "below a file"])
def test_a_file_where_the_folder_should_be(
    below: str, tmp_path: Path, tiny: tuple[str, ...], refused: Callable[..., str]
) -> None:
    file = tmp_path / "file"
    file.write_text("precious")
    refused("train", *tiny, "--out", f"{file}{below}", words=(str(file), "--out"))
    assert file.read_text() == "precious"


@pytest.mark.parametrize("folder", [".", "none"], ids=["no run", "not there"])
def test_no_report_without_a_run(
    folder: str, tmp_path: Path, refused: Callable[..., str], snapshot: Callable[[Path], Any]
) -> None:
    refused("report", tmp_path / folder, words=("is no run's folder", "--out"))
    assert snapshot(tmp_path) == {}


def test_no_report_of_half_a_run(
    tmp_path: Path, tiny: tuple[str, ...], killed_at: Callable[..., None],
    refused: Callable[..., str],
) -> None:  # fmt: skip
    run = tmp_path / "run"
    killed_at(20, "train", *tiny, "--out", run)
    refused("report", run, words=("not finished", f"temperance train --resume --out {run}"))
    assert not (run / "report.html").exists()


# Settings


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("train", "data.nme=digits"), ("unknown key 'nme' in 'data'", "Did you mean 'name'?")),
        (("train", "trainig.epochs=2"), ("unknown key 'trainig'", "'training'?")),
        (("train", "model=mpl"), ("model: there is no 'mpl'", "'mlp'?")),
        (("train", "model=mlp", "model.widht=3"), ("unknown key 'widht' in 'model'", "'width'?")),
        (("train", "model=resnet21"), ("no resnet of depth 21", "20")),
        (("train", "data.name=digit"), ("data.name", "no dataset 'digit'", "'digits'?")),
        (("train", "training.optimizer=sdg"), ("training.optimizer", "'sdg'", "'sgd'?")),
        (("train", "training.epochs=many"), ("training.epochs", "integer", "'many'")),
        (("train", "training.optimizer.lr=nan"), ("training.optimizer.lr", "nan")),
        (("train", "split.validation=0.6", "split.calibration=0.5"), ("split", "nothing to train")),
        (("train", "split.test=0"), ("split.test", "empty", "above 0")),
        (("train", "engine.accelerator=tpu"), ("engine.accelerator", "'cpu'", "'tpu'")),
        (("measure", "logits=a.npz", "model=b"), ("logits, model", "either", "Set")),
        (("measure",), ("logits=FILE", "model=RUN_FOLDER")),
        (("demo", "arms=[raw,calibrate]"), ("arms.1", "'calibrated'", "'calibrate'")),
        (("train", "none.yaml"), ("none.yaml", "cannot be read", "No such file")),
        (("train", "seed=1", "seed"), ("'seed'", "key.sub=value")),
        (("config", "mesure"), ("'mesure'", "'measure'?")),
    ],
    ids=lambda value: " ".join(value) if value[0] in ("train", "demo", "measure") else "",
)
def test_settings_that_do_not_exist(
    argv: tuple[str, ...], words: tuple[str, ...], tmp_path: Path, refused: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    refused(*argv, words=words)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "word"),
    [(b"a: [", "not valid YAML"), (b"- 1", "no mapping"), (b"\xff\xfe\x00", "not a text file"),
     (b"seed: !!python/object/apply:os.getpid []", "not valid YAML")],
)  # fmt: skip
def test_files_of_settings_that_are_none(
    content: bytes, word: str, tmp_path: Path, refused: Callable[..., str]
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_bytes(content)
    refused("train", file, "--out", tmp_path / "run", words=("mine.yaml", word))


@pytest.mark.parametrize(
    "settings",
    [("arms=[raw,raw]",), ("softenings=[1,1]",), ("softenings=[]",), ("arms=[]",)],
    ids=lambda settings: settings[0],
)
def test_studies_that_make_no_sense(
    settings: tuple[str, ...], tmp_path: Path, refused: Callable[..., str]
) -> None:
    """Refused before anything is trained, naming the key."""
    quick = ("replicates=1", "calibration.folds=2", "teacher.training.epochs=1",
             "student.training.epochs=1", "teacher.model.width=8")  # fmt: skip
    key = settings[0].partition("=")[0]
    refused("demo", *quick, *settings, "--out", tmp_path / "run", words=(key,))


def test_debug_shows_the_traceback() -> None:
    with pytest.raises(UserError, match="there is no kind 'modles'"):
        main(["list", "modles", "--debug"])


def test_usage_errors_name_the_nearest(temperance: Callable[..., Any]) -> None:
    done = temperance("trian")
    assert done.code == 2
    assert "Did you mean 'train'?" in done.err
    done = temperance("train", "--outt", "x")
    assert done.code == 2
    assert "--out" in done.err


# Disks


def test_a_full_disk_leaves_the_last_checkpoint(
    tmp_path: Path, tiny: tuple[str, ...], teacher: Path, killed_at: Callable[..., None],
    spawn: Callable[..., Any], succeeds: Callable[..., Any], snapshot: Callable[[Path], Any],
    student: Callable[[Path], bytes],
) -> None:  # fmt: skip
    run = tmp_path / "run"
    command = ("train", *tiny, "training.checkpoint_seconds=0", "--out", run)
    killed_at(20, *command)
    checkpoint = run / "checkpoints" / "last.pt"
    before = snapshot(run)

    limit = checkpoint.stat().st_size - 100
    program = (
        "import resource, sys; from temperance.cli import main\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
        "main(sys.argv[1:])\n"
    )
    process = spawn(*command, "--resume", program=("-c", program))
    out, err = process.communicate(timeout=60)
    assert process.returncode == 2, err
    assert out == ""
    assert err.startswith(f"error: {checkpoint}: cannot be written")
    assert "Free space" in err
    assert "Traceback" not in err
    assert snapshot(run) == before  # no half a file beside it either
    assert torch.load(checkpoint, weights_only=True)["step"] == 19

    succeeds(*command, "--resume")
    assert student(run) == student(teacher)


def test_a_disk_too_full_for_predictions(
    tmp_path: Path, tiny: tuple[str, ...], refused: Callable[..., str],
    disk_limit: Callable[[int], contextlib.AbstractContextManager[None]],
    succeeds: Callable[..., Any],
) -> None:  # fmt: skip
    command = ("train", *tiny, "--out", tmp_path / "run")
    with disk_limit(4096):
        refused(*command, words=("test.safetensors", "cannot be written", "Free space"))
    succeeds(*command, "--resume")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_disk_too_full_for_metrics(
    tmp_path: Path, tiny: tuple[str, ...], killed_at: Callable[..., None],
    refused: Callable[..., str],
) -> None:  # fmt: skip
    command = ("train", *tiny, "training.checkpoint_seconds=0", "--out", tmp_path / "run")
    killed_at(20, *command)
    log = tmp_path / "run" / "metrics.jsonl"
    log.unlink()
    log.symlink_to("/dev/full")
    refused(*command, "--resume", words=("metrics.jsonl", "cannot be written"))
