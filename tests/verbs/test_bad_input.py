from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from temperance.cli import main
from temperance.errors import UserError

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
    words = ("images.parquet, row 7", "truncated", "Replace it or remove the row")
    refused("train", *data, *tiny, "--out", tmp_path / "run", words=words)


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
    [("arms=[raw,raw]",), ("softenings=[1,1]",), ("objectives=[]",), ("arms=[]",)],
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
