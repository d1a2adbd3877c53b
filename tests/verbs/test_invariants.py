from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file

from temperance.config import load_config
from temperance.verbs._config import ARGS

EPOCHS = 12
# What a wrong resume would change: running statistics, momentum, order and views.
LONG = (
    *("model=cnn", "model.width=4", "model.batch_norm=true", "engine.threads=1"),
    *("augment.flip=true", "augment.crop_padding=1", f"training.epochs={EPOCHS}"),
)


def start_of(verb: str, teacher: Path) -> tuple[str, ...]:
    return (verb, *((f"teacher.weights={teacher}",) if verb == "distill" else ()), *LONG)


@pytest.fixture(scope="module")
def uninterrupted(
    tmp_path_factory: pytest.TempPathFactory, teacher: Path, succeeds: Callable[..., Any]
) -> Callable[[str], Path]:
    """A run of a verb that nothing stopped."""
    folders: dict[str, Path] = {}

    def uninterrupted(verb: str) -> Path:
        if verb not in folders:
            folders[verb] = tmp_path_factory.mktemp(verb) / "whole"
            succeeds(*start_of(verb, teacher), "--out", folders[verb])
        return folders[verb]

    return uninterrupted


def signal_in_training(
    process: subprocess.Popen[str], run: Path, number: signal.Signals
) -> tuple[int, str]:
    """Send a signal once the run has logged two epochs; its exit code and stderr."""
    log, deadline = run / "metrics.jsonl", time.monotonic() + 120
    try:
        while not (log.is_file() and log.read_text().count("\n") >= 2):
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.002)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    return process.returncode, err


@pytest.mark.parametrize("verb", ["train", "distill"])
def test_killed_and_resumed_is_uninterrupted(
    verb: str, teacher: Path, tmp_path: Path, uninterrupted: Callable[[str], Path],
    spawn: Callable[..., Any], succeeds: Callable[..., Any], student: Callable[[Path], bytes],
    metrics: Callable[[Path], Any],
) -> None:  # fmt: skip
    run, settings = tmp_path / "run", start_of(verb, teacher)
    process = spawn(*settings, "training.checkpoint_seconds=0", "--out", run)
    code, _ = signal_in_training(process, run, signal.SIGKILL)
    assert code == -signal.SIGKILL
    assert (run / "checkpoints" / "last.pt").is_file()
    assert not (run / "result.json").exists()

    succeeds(*settings, "--resume", "--out", run)
    assert student(run) == student(uninterrupted(verb))
    assert metrics(run) == metrics(uninterrupted(verb))
    assert len(metrics(run)) == EPOCHS


def test_ctrl_c_says_how_to_resume(
    teacher: Path, tmp_path: Path, uninterrupted: Callable[[str], Path],
    spawn: Callable[..., Any], succeeds: Callable[..., Any], student: Callable[[Path], bytes],
    metrics: Callable[[Path], Any],
) -> None:  # fmt: skip
    run = tmp_path / "a run"  # to be quoted
    settings = start_of("train", teacher)
    process = spawn(*settings, "training.checkpoint_seconds=0", "--out", run)
    code, err = signal_in_training(process, run, signal.SIGINT)
    assert code == 130, err
    assert "Traceback" not in err
    assert not (run / "result.json").exists()

    said = err.splitlines()[-1]
    assert "stopped at step" in said
    program, *argv = shlex.split(said.partition("continue with: ")[2])
    assert program == "temperance"
    assert argv == ["train", "--resume", "--out", str(run)]
    succeeds(*argv)
    assert student(run) == student(uninterrupted("train"))
    assert metrics(run) == metrics(uninterrupted("train"))


@pytest.mark.parametrize("seconds", [0, 60], ids=["checkpoint every step", "no checkpoint yet"])
@pytest.mark.parametrize("step", [1, 14, 20])  # the first; the end of an epoch; within the next
def test_dying_at_any_step_changes_nothing(
    step: int, seconds: int, tmp_path: Path, tiny: tuple[str, ...], teacher: Path,
    killed_at: Callable[..., None], succeeds: Callable[..., Any],
    student: Callable[[Path], bytes], metrics: Callable[[Path], Any],
) -> None:  # fmt: skip
    command = ("train", *tiny, f"training.checkpoint_seconds={seconds}", "--out", tmp_path / "run")
    killed_at(step, *command)
    succeeds(*command, "--resume")
    assert student(tmp_path / "run") == student(teacher)
    assert metrics(tmp_path / "run") == metrics(teacher)


def test_dying_while_a_metrics_line_is_written(
    tmp_path: Path, tiny: tuple[str, ...], teacher: Path, killed_at: Callable[..., None],
    succeeds: Callable[..., Any], metrics: Callable[[Path], Any],
) -> None:  # fmt: skip
    command = ("train", *tiny, "--out", tmp_path / "run")
    killed_at(14, *command)
    log = tmp_path / "run" / "metrics.jsonl"
    log.write_text(log.read_text()[:30])
    succeeds(*command, "--resume")
    assert metrics(tmp_path / "run") == metrics(teacher)


def test_the_seed_decides(
    tmp_path: Path, tiny: tuple[str, ...], teacher: Path, succeeds: Callable[..., Any],
    student: Callable[[Path], bytes],
) -> None:  # fmt: skip
    for seed in (0, 1):
        succeeds("train", *tiny, f"seed={seed}", "--out", tmp_path / str(seed))
    assert student(tmp_path / "0") == student(teacher)
    assert student(tmp_path / "1") != student(teacher)


def test_stored_settings_make_the_same_student(
    tmp_path: Path, teacher: Path, succeeds: Callable[..., Any], student: Callable[[Path], bytes]
) -> None:
    succeeds("train", teacher / "config.yaml", "--out", tmp_path / "again")
    assert student(tmp_path / "again") == student(teacher)


def test_calibrating_leaves_the_accuracy(
    tmp_path: Path, teacher: Path, succeeds: Callable[..., Any]
) -> None:
    succeeds("calibrate", f"model={teacher}", "--out", tmp_path / "run")
    found = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert found["fit"]["usable"]
    assert found["fit"]["temperature"] != 1
    assert found["before"]["accuracy"] == found["after"]["accuracy"]
    assert found["before"]["nll"] > found["after"]["nll"]


@pytest.mark.parametrize(
    ("argv", "absent"),
    [
        (["--help"], {"torch", "pydantic", "rich"}),
        (["distill", "--help"], {"torch", "rich"}),  # typer needs pydantic to parse flags
    ],
)
def test_help_imports_nothing_heavy(
    argv: list[str], absent: set[str], spawn: Callable[..., Any]
) -> None:
    program = (
        "import sys\n"
        "from temperance.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit as done: assert not done.code\n"
        "print('LOADED', *sys.modules)"
    )
    out, err = spawn(*argv, program=("-c", program)).communicate(timeout=60)
    text, _, loaded = out.rpartition("LOADED ")
    assert "temperance" in text, err
    assert "temperance.cli" in loaded.split()
    assert absent.isdisjoint(loaded.split())


SHARED = (
    *("model=mlp", "model.width=8", "training.epochs=1", "training.batch_size=63"),
    *("engine.threads=1", "engine.accelerator=cpu"),
)


def wait(process: subprocess.Popen[str]) -> tuple[str, str]:
    try:
        out, err = process.communicate(timeout=180)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        _, err = process.communicate()
        pytest.fail(f"two processes did not finish in time: {err}")
    assert process.returncode == 0, err
    return out, err


@pytest.fixture(scope="module")
def one_and_two(
    tmp_path_factory: pytest.TempPathFactory, succeeds: Callable[..., Any],
    spawn: Callable[..., Any],
) -> tuple[Path, Path]:  # fmt: skip
    """The same run by one process and by two, whose shares of a batch are 32 and 31 rows."""
    folder = tmp_path_factory.mktemp("processes")
    succeeds("train", *SHARED, "--out", folder / "1")
    wait(spawn("train", *SHARED, "engine.devices=2", "--out", folder / "2"))
    return folder / "1", folder / "2"


def test_two_processes_are_one(one_and_two: tuple[Path, Path]) -> None:
    one, two = (load_file(run / "student" / "model.safetensors") for run in one_and_two)
    assert one.keys() == two.keys()
    for name in one:
        np.testing.assert_allclose(one[name], two[name], rtol=1e-4, atol=1e-5, err_msg=name)


def test_two_processes_log_the_losses_of_one(
    one_and_two: tuple[Path, Path], metrics: Callable[[Path], Any]
) -> None:
    one, two = (metrics(run) for run in one_and_two)
    assert len(one) == len(two)
    for line, other in zip(one, two, strict=True):
        assert line == pytest.approx(other, rel=1e-4)


def test_two_processes_need_no_haste(tmp_path: Path, spawn: Callable[..., Any]) -> None:
    """The first process takes its time to write; the folder is the default one."""
    program = tmp_path / "slow_disk.py"
    program.write_text(
        "import os, time\n"
        "from temperance.cli import main\n"
        "from temperance.run import Run\n"
        "write_json = Run.write_json\n"
        "def slowly(self, *args):\n"
        "    time.sleep(1.0 * (os.environ.get('LOCAL_RANK', '0') == '0'))\n"
        "    write_json(self, *args)\n"
        "Run.write_json = slowly\n"
        "main()\n"
    )
    process = spawn("train", *SHARED, "engine.devices=2", program=(str(program),), cwd=tmp_path)
    _, err = wait(process)
    assert "Traceback" not in err
    assert [run.name for run in (tmp_path / "runs").iterdir()] == ["train"]


def test_a_second_run_in_the_folder(
    tmp_path: Path, tiny: tuple[str, ...], refused: Callable[..., str],
    succeeds: Callable[..., Any], student: Callable[[Path], bytes],
    snapshot: Callable[[Path], Any],
) -> None:  # fmt: skip
    run = tmp_path / "run"
    succeeds("train", *tiny, "--out", run)
    before, first = snapshot(run), student(run)

    refused("train", *tiny, "--out", run, words=(str(run), "not empty", "--resume", "--overwrite"))
    refused("train", *tiny, "seed=1", "--resume", "--out", run, words=("seed was 0, is 1",))
    assert snapshot(run) == before

    changed = (run / "student" / "model.safetensors").stat().st_mtime_ns
    succeeds("train", *tiny, "--resume", "--out", run)
    assert (run / "student" / "model.safetensors").stat().st_mtime_ns == changed
    assert snapshot(run) == before

    succeeds("train", *tiny, "seed=1", "--overwrite", "--out", run)
    assert student(run) != first


def test_resuming_needs_the_same_calibrator(
    tmp_path: Path, logits_file: Callable[..., Path], succeeds: Callable[..., Any],
    refused: Callable[..., str],
) -> None:  # fmt: skip
    logits = logits_file()
    succeeds("calibrate", f"logits={logits}", "--out", tmp_path / "calibrator")
    succeeds("measure", f"logits={logits}", "--out", tmp_path / "raw")
    refused("measure", f"logits={logits}", f"calibrator={tmp_path / 'calibrator'}",
            "--resume", "--out", tmp_path / "raw")  # fmt: skip


@pytest.mark.parametrize("verb", sorted(ARGS))
def test_default_config_is_what_the_verb_takes(verb: str, succeeds: Callable[..., Any]) -> None:
    text = succeeds("config", verb).out
    values = yaml.safe_load(text)
    if verb == "distill":
        assert values["teacher"].pop("weights") == "???"
        values["teacher"]["weights"] = "somewhere"
    given = {"teacher": {"weights": "somewhere"}} if verb == "distill" else {}
    assert load_config(ARGS[verb], values) == load_config(ARGS[verb], given)
    assert text.count("#") >= 5


def test_default_config_runs(
    tmp_path: Path, succeeds: Callable[..., Any], tiny: tuple[str, ...],
    logits_file: Callable[..., Path],
) -> None:  # fmt: skip
    for verb, overrides in (("train", tiny), ("measure", (f"logits={logits_file()}",))):
        file = tmp_path / f"{verb}.yaml"
        file.write_text(succeeds("config", verb).out)
        done = succeeds(verb, file, *overrides, "--out", tmp_path / verb)
        assert f"Report: {tmp_path / verb / 'report.html'}" in done.out


def test_default_config_wants_what_is_required(
    tmp_path: Path, succeeds: Callable[..., Any], refused: Callable[..., str],
    tiny: tuple[str, ...],
) -> None:  # fmt: skip
    file = tmp_path / "distill.yaml"
    file.write_text(succeeds("config", "distill").out)
    refused("distill", file, *tiny, "--out", tmp_path / "run", words=("teacher.weights",))


def test_lists(succeeds: Callable[..., Any], refused: Callable[..., str]) -> None:
    everything = succeeds("list").out
    for kind, name in (("datasets", "digits"), ("models", "resnet8x4"),
                       ("calibrators", "temperature"), ("objectives", "kd")):  # fmt: skip
        (line,) = succeeds("list", kind).out.splitlines()
        assert line.startswith(f"{kind}: ")
        assert name in line.partition(": ")[2].split(", ")
        assert line in everything.splitlines()
    refused("list", "modles", words=("'modles'", "Did you mean 'models'?"))


@pytest.mark.parametrize("verb", ["train", "measure", "calibrate", "distill"])
def test_a_report_is_written_again_from_the_folder(
    verb: str, tmp_path: Path, teacher: Path, tiny: tuple[str, ...], succeeds: Callable[..., Any]
) -> None:
    run = tmp_path / "run"
    source = {"train": (), "distill": (f"teacher.weights={teacher}",)}
    settings = (*source[verb], *tiny) if verb in source else (f"model={teacher}",)
    succeeds(verb, *settings, "--out", run)
    file = run / "report.html"
    before = file.read_bytes()
    file.unlink()
    assert str(file) in succeeds("report", run).out
    assert file.read_bytes() == before
    succeeds("report", run, "--out", tmp_path / "elsewhere.html")
    assert (tmp_path / "elsewhere.html").read_bytes() == before
