"""A study that was killed, stopped or damaged comes to the tables of one that was not."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shlex
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from temperance.run import Run
from temperance.studies.store import Store, list_runs

PATIENCE = 240.0  # seconds for what takes a few where nothing else runs
SMALL = (
    *("split.test=0.7", "engine.threads=1", "replicates=3", "calibration.folds=2"),
    *("teacher.model=mlp", "teacher.model.width=8", "teacher.training.epochs=8"),
    *("student.model=mlp", "student.model.width=4", "student.training.epochs=4"),
    *("teacher.training.checkpoint_seconds=0.05", "student.training.checkpoint_seconds=0.05"),
    *("arms=[labels,raw,calibrated,under-confident,constant-T]", "softenings=[1]"),
)
RUNS = 3 * (1 + 2 + 1 + 5)
LONG = (*SMALL, "replicates=2", "arms=[labels,raw]", "teacher.training.epochs=100")
FAILING = (  # one of two students diverges
    *(*SMALL, "replicates=2", "arms=[labels,raw]"),
    "students.variants=[{name: good}, {name: bad, training: {optimizer: {name: sgd, lr: 1.0e9}}}]",
)
Study = Callable[..., Path]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, succeeds: Callable[..., Any]) -> Study:
    """A study of some settings that nothing disturbed; nobody may write into it."""
    folders: dict[tuple[str, ...], Path] = {}

    def study(*settings: str) -> Path:
        if settings not in folders:
            folders[settings] = tmp_path_factory.mktemp("studies") / "whole"
            succeeds("study", *settings, "--out", folders[settings])
        return folders[settings]

    return study


def tables(folder: Path) -> list[pd.DataFrame]:
    """What a study came to, without what the clock says."""
    found = [pd.read_parquet(folder / f"{name}.parquet") for name in ("teachers", "students")]
    return [table.drop(columns="seconds") for table in found]


def same(folder: Path, other: Path) -> None:
    """Tables are equal, and every run has its result, once."""
    for table, expected in zip(tables(folder), tables(other), strict=True):
        pd.testing.assert_frame_equal(table, expected, check_exact=True)
    runs, expected_runs = list_runs(folder), list_runs(other)
    assert [run.folder for run in runs] == [run.folder for run in expected_runs]
    assert all(run.state == "done" for run in runs)
    assert not list(folder.rglob("*.tmp"))


def results(folder: Path) -> dict[Path, tuple[int, bytes]]:
    """When each result was written, and what it is."""
    return {
        path: (path.stat().st_mtime_ns, path.read_bytes())
        for path in folder.glob("runs/*/study.json")
    }


@contextlib.contextmanager
def read_all_the_time(folder: Path) -> Iterator[None]:
    """Every result that can be read is whole, at any moment."""
    halves, done = [], threading.Event()

    def read() -> None:
        while not done.wait(0.005):
            for path in folder.glob("runs/*/study.json"):
                try:
                    assert "run_seconds" in json.loads(path.read_bytes())
                except (AssertionError, ValueError):
                    halves.append(path)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield
    finally:
        done.set()
        reader.join()
    assert not halves


def until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> bool:
    """Wait for it; False if the process ends before."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        if process.poll() is not None:
            return False
        time.sleep(0.002)
    return True


def end(process: subprocess.Popen[str]) -> None:
    """Whatever is left of it and of its processes."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def training(folder: Path, kind: str = "") -> set[str]:
    """The runs that are in the middle of it."""
    return {
        log.parent.name
        for log in folder.glob(f"runs/*{kind}*/metrics.jsonl")
        if log.read_text().count("\n") >= 2 and not (log.parent / "result.json").exists()
    }


def workers(driver: int) -> list[int]:
    """The processes of a driver's pool."""
    tasks = Path(f"/proc/{driver}/task").iterdir()
    children = [int(pid) for task in tasks for pid in (task / "children").read_text().split()]
    return [pid for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_a_driver_that_is_killed_again_and_again(
    kills: int, tmp_path: Path, study: Study, spawn: Callable[..., Any]
) -> None:
    """At moments spread over the study, some while it starts up, by what is on disk and a bit."""
    folder, chance = tmp_path / "study", random.Random(0)
    command = ("study", *SMALL, "executor.workers=2", "--out", folder)
    written: dict[Path, tuple[int, bytes]] = {}
    killed = 0

    def start() -> subprocess.Popen[str]:
        resumed = (folder / "environment.json").exists()
        process: subprocess.Popen[str] = spawn(*command, *(("--resume",) if resumed else ()))
        return process

    def files() -> int:
        return sum(1 for _ in folder.glob("runs/*/**/*"))

    def has_done(headway: int, process: subprocess.Popen[str]) -> None:
        enough = files() + headway
        until(lambda: files() > enough, process)

    with read_all_the_time(folder):
        for number in range(kills):
            process = start()
            try:
                if number % 5 == 4:
                    time.sleep(chance.uniform(0, 3))
                else:
                    has_done(chance.randrange(2 + 5 * RUNS // kills), process)
                    time.sleep(chance.uniform(0, 0.1))
                if process.poll() is None:
                    os.kill(process.pid, signal.SIGKILL)
                    killed += 1
                process.wait()
                now = results(folder)
                assert written.items() <= now.items(), "a run was lost or done twice"
                written = now
            finally:
                # orphans are left alone: the next driver has to cope with them
                process.stdout.close()  # type: ignore[union-attr]
                process.stderr.close()  # type: ignore[union-attr]
        process = start()
        _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    assert written.items() <= results(folder).items()
    print(f"killed {killed} times, with {len(written)} of {RUNS} runs done before the last start")
    assert killed == kills
    same(folder, study(*SMALL))


@pytest.mark.parametrize(
    "to", ["the process group", pytest.param("the driver", marks=pytest.mark.slow)]
)
def test_stopped_at_the_next_step(
    to: str, tmp_path: Path, study: Study, spawn: Callable[..., Any],
    succeeds: Callable[..., Any],
) -> None:  # fmt: skip
    folder = tmp_path / "a study"
    process = spawn("study", *LONG, "executor.workers=2", "--out", folder)
    try:
        assert until(lambda: len(training(folder)) == 2, process)
        running = training(folder)
        if to == "the driver":
            process.send_signal(signal.SIGTERM)
        else:
            os.killpg(process.pid, signal.SIGINT)
        asked = time.monotonic()
        _, err = process.communicate(timeout=PATIENCE)
        print(f"stopped {time.monotonic() - asked:.2f} s after it was asked")
    finally:
        end(process)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert running
    for name in running & training(folder):
        assert (folder / "runs" / name / "checkpoints" / "last.pt").is_file()
    said = err.splitlines()[-1]
    assert "jobs are done" in said
    program, *argv = shlex.split(said.partition("continue with: ")[2])
    assert program == "temperance"
    assert argv == ["study", "--resume", "--out", str(folder)]
    assert json.loads((folder / "status.json").read_text())["running"] == []
    before = results(folder)
    succeeds("study", *LONG, "--resume", "--out", folder)  # one at a time is quicker here
    assert before.items() <= results(folder).items()
    same(folder, study(*LONG))


@pytest.mark.parametrize("attempts", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_a_worker_that_is_killed_under_its_run(
    attempts: int, tmp_path: Path, study: Study, spawn: Callable[..., Any],
    succeeds: Callable[..., Any],
) -> None:  # fmt: skip
    folder = tmp_path / "study"
    process = spawn("study", *LONG, "executor.workers=2", f"executor.attempts={attempts}",
                    "--out", folder)  # fmt: skip
    try:
        assert until(lambda: len(training(folder)) == 2, process)
        os.kill(workers(process.pid)[0], signal.SIGKILL)
        _, err = process.communicate(timeout=PATIENCE)
    finally:
        end(process)
    if attempts == 1:
        assert process.returncode == 1, err
        (failed,) = [run for run in list_runs(folder) if run.state == "failed"]
        assert "its process died, 1 times: killed, or out of memory" in failed.content["error"]
        missing = pd.read_parquet(folder / "missing.parquet").set_index("run").state
        replicate = failed.folder[:2]
        assert sorted(missing) == ["blocked", "blocked", "failed"]
        assert all(run.startswith(replicate) for run in missing.index)
        before = results(folder)
        assert len(before) == 2 * 6 - 3
        succeeds("study", "retry", folder, "--workers", 1)
        assert before.items() <= results(folder).items()
    else:
        assert process.returncode == 0, err
    same(folder, study(*LONG))


def test_a_run_that_fails_stops_no_other(
    tmp_path: Path, temperance: Callable[..., Any], study: Study
) -> None:
    folder = tmp_path / "study"
    done = temperance("study", *FAILING, "--out", folder)
    assert done.code == 1, done.err
    assert "4 runs failed" in done.err
    missing = pd.read_parquet(folder / "missing.parquet")
    assert list(missing.state) == ["failed"] * 4
    assert all("-bad-" in run for run in missing.run)
    assert all("diverged" in why and "training.optimizer.lr" in why for why in missing.why)
    students = pd.read_parquet(folder / "students.parquet")
    assert list(students.student) == ["good"] * 4
    before = results(folder)
    errors = {path: path.stat().st_mtime_ns for path in folder.glob("runs/*/error.json")}
    assert len(errors) == 4
    assert "FAILED" not in temperance("study", "status", folder).out

    done = temperance("study", *FAILING, "--resume", "--out", folder)
    assert done.code == 1  # what failed stays failed, and is said again
    assert {path: path.stat().st_mtime_ns for path in errors} == errors
    assert temperance("study", "retry", folder).code == 1
    assert all(path.stat().st_mtime_ns > errors[path] for path in errors)
    assert results(folder) == before


def test_what_waits_for_a_failure_names_it(tmp_path: Path, temperance: Callable[..., Any]) -> None:
    folder = tmp_path / "study"
    pool = (
        "pool.variants=[{name: good}, {name: bad, training: {optimizer: {name: sgd, lr: 1.0e9}}}]"
    )
    done = temperance("study", *SMALL, "replicates=1", "arms=[labels,raw]", pool, "--out", folder)
    assert done.code == 1, done.err
    missing = pd.read_parquet(folder / "missing.parquet").set_index("run")
    assert list(missing.state.value_counts().sort_index()) == [2, 3]  # blocked, failed
    cause = "r0-bad, trained: training.optimizer.lr: r0-bad diverged"
    assert missing.why["r0-bad, measured"].startswith(cause)
    student = next(run for run in missing.index if "student" in run)
    assert missing.why[student].startswith(f"r0-bad, measured: {cause}")
    assert list(pd.read_parquet(folder / "teachers.parquet").recipe) == ["good"]


def test_a_disk_that_is_full_from_the_start(
    tmp_path: Path, refused: Callable[..., str],
    disk_limit: Callable[[int], contextlib.AbstractContextManager[None]],
) -> None:  # fmt: skip
    with disk_limit(100):
        refused("study", *SMALL, "--out", tmp_path / "study", words=("cannot be written", "Free"))
    assert not list(tmp_path.rglob("*.json"))


def test_a_disk_too_full_for_what_students_say(
    tmp_path: Path, study: Study, temperance: Callable[..., Any], succeeds: Callable[..., Any],
    disk_limit: Callable[[int], contextlib.AbstractContextManager[None]],
) -> None:  # fmt: skip
    folder = tmp_path / "study"
    shutil.copytree(study(*SMALL), folder)
    again = sorted(folder.glob("runs/*student*"))[::4]
    for run in again:
        shutil.rmtree(run)
    with disk_limit(60_000):
        done = temperance("study", *SMALL, "--resume", "--out", folder)
    assert done.code == 2  # for the report
    assert "report.html: cannot be written" in done.err
    failed = [run for run in list_runs(folder) if run.state == "failed"]
    assert [run.folder for run in failed] == [run.name for run in again]
    assert all("predictions/test.safetensors: cannot be written" in run.content["error"]
               for run in failed)  # fmt: skip
    before = results(folder)
    succeeds("study", "retry", folder)
    assert before.items() <= results(folder).items()
    same(folder, study(*SMALL))


def test_damaged_files_are_named_and_their_runs_done_again(
    tmp_path: Path, study: Study, succeeds: Callable[..., Any]
) -> None:
    folder = tmp_path / "study"
    shutil.copytree(study(*SMALL), folder)
    before = results(folder)
    damaged = sorted(before)[2::5]
    assert len(damaged) > 3
    for number, path in enumerate(damaged):
        content = path.read_bytes()
        path.write_bytes([content[:-20], b"\x00\xff", b"[]", b"", b"{}"][number % 5])
    half = next(path for path in sorted(before) if path not in damaged and "labels" in str(path))
    half.unlink()
    (half.parent / "result.json").write_text('{"rows": {')
    succeeds("study", *SMALL, "--resume", "--out", folder)
    log = (folder / "run.log").read_text()
    for path in (*damaged, half.parent / "result.json"):
        assert f"{path}: is damaged; the run is done again" in log
    now = results(folder)
    for path, (moment, content) in before.items():
        assert (now[path][0] == moment) == (path not in (*damaged, half))
        ours, theirs = json.loads(now[path][1]), json.loads(content)
        assert ours["row"] if "row" in ours else ours.keys() == theirs.keys()
    same(folder, study(*SMALL))


def test_the_folder_of_another_study(
    tmp_path: Path, study: Study, refused: Callable[..., str], snapshot: Callable[[Path], Any]
) -> None:
    folder = study(*SMALL)
    before = snapshot(folder)
    refused("study", *SMALL, "student.model.width=5", "split.seed=3", "--resume", "--out", folder,
            words=("was started differently", "split.seed was 0, is 3"))  # fmt: skip
    refused("study", *SMALL, "--out", folder, words=("not empty", "--resume"))
    assert snapshot(folder) == before


def test_a_study_that_was_moved_goes_on(
    tmp_path: Path, study: Study, succeeds: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "here" / "study"
    shutil.copytree(study(*SMALL), folder)
    monkeypatch.chdir(tmp_path)
    students = list(folder.glob("runs/*student*/study.json"))
    shutil.rmtree(folder / "cache")
    for path in students[::2]:
        shutil.rmtree(path.parent)
    succeeds("study", *SMALL, "--resume", "--out", "here/study")
    same(folder, study(*SMALL))


@pytest.mark.parametrize("flag", ["--resume", "--overwrite"])
def test_a_second_driver_is_refused(
    flag: str, tmp_path: Path, study: Study, refused: Callable[..., str],
    snapshot: Callable[[Path], Any],
) -> None:  # fmt: skip
    folder = tmp_path / "study"
    shutil.copytree(study(*SMALL), folder)
    before = snapshot(folder / "runs")
    with Store(Run(folder)).driven():
        words = (f"process {os.getpid()} on {socket.gethostname()}", "Wait for it")
        refused("study", *SMALL, flag, "--out", folder, words=words)
        refused("study", "retry", folder, words=words)
    assert snapshot(folder / "runs") == before
