from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pandas as pd
import pytest

from temperance.errors import UserError
from temperance.run import Run
from temperance.studies.pool import StudentArgs
from temperance.studies.store import ERROR, LOCKS, RESULT, Store, list_runs

RECIPE = StudentArgs()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(Run(tmp_path / "study"))


def test_a_folder_is_named_after_what_it_is_and_its_identity(store: Store) -> None:
    name = store.name("r0-teacher", RECIPE, seed=0)
    assert name.startswith("r0-teacher-")
    assert store.name("r0-teacher", RECIPE, seed=0) == name
    assert store.name("r0-teacher", RECIPE, seed=1) != name
    run = store.open(name, RECIPE)
    assert run.folder == store.runs / name
    assert (run.folder / "config.yaml").is_file()
    assert store.open(name, RECIPE).folder == run.folder


@pytest.mark.parametrize("left", [".environment.json.17.tmp", "checkpoints/.last.pt.17.tmp"])
def test_what_a_killed_process_left_is_no_obstacle(store: Store, left: str) -> None:
    name = store.name("r0-teacher", RECIPE)
    if "/" in left:
        store.open(name, RECIPE)
    path = store.runs / name / left
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("half a fi")
    store.open(name, RECIPE)
    assert not path.exists()


def test_results_and_failures(store: Store) -> None:
    assert store.result("a") is None
    assert store.error("a") is None
    store.fail("a", "it failed", "Traceback …")
    store.fail("b", "so did this", "")
    Run(store.runs / "c").write_json(RESULT, {"run_seconds": 1.0})
    (store.runs / "d").mkdir()
    failure = store.error("a")
    assert failure is not None
    assert failure["error"] == "it failed"
    assert store.result("c") == {"run_seconds": 1.0}
    listed = list_runs(store.study.folder)
    assert [(run.folder, run.state) for run in listed] == [
        ("a", "failed"), ("b", "failed"), ("c", "done"), ("d", "unfinished"),
    ]  # fmt: skip
    assert listed[0].content["error"] == "it failed"
    assert store.forget_failures() == 2
    assert store.error("a") is None
    assert [run.state for run in list_runs(store.study.folder)] == [
        "unfinished", "unfinished", "done", "unfinished",
    ]  # fmt: skip


@pytest.mark.parametrize("content", [b"", b'{"run_seconds"', b"\xff\xfe\x00", b"[]", b"{}", b"7"])
@pytest.mark.parametrize("name", [RESULT, ERROR])
def test_damaged_files_are_named(store: Store, name: str, content: bytes) -> None:
    (store.runs / "a").mkdir(parents=True)
    (store.runs / "a" / name).write_bytes(content)
    with pytest.raises(UserError, match=f"a/{name}: is damaged"):
        store.result("a") if name == RESULT else store.error("a")
    store.forget("a")
    assert store.result("a") is None
    assert store.error("a") is None


def test_a_result_is_replaced_whole_or_not_at_all(store: Store) -> None:
    """Somebody who reads all the time sees the old or the new one."""
    (store.runs / "a").mkdir(parents=True)
    run, seen, done = Run(store.runs / "a"), set(), threading.Event()

    def write() -> None:
        for size in range(1, 60):
            run.write_json(RESULT, {"run_seconds": size, "row": ["x" * 100] * size * 20})
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    while not done.is_set():
        result = store.result("a")
        if result is not None:
            assert len(result["row"]) == result["run_seconds"] * 20
            seen.add(result["run_seconds"])
    writer.join()
    assert len(seen) > 1
    assert [path.name for path in run.folder.iterdir()] == [RESULT]


HOLD = (
    "import sys, time; from pathlib import Path; from temperance.run import Run\n"
    "from temperance.studies.store import Store\n"
    "store = Store(Run(Path(sys.argv[1])))\n"
    "with {lock}:\n"
    "    print('held', flush=True)\n"
    "    time.sleep(600)\n"
)


def holder(store: Store, lock: str) -> subprocess.Popen[str]:
    store.study.folder.mkdir(exist_ok=True)
    program = [sys.executable, "-c", HOLD.format(lock=lock), str(store.study.folder)]
    process = subprocess.Popen(program, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_run_that_a_process_holds_is_waited_for(store: Store) -> None:
    other = holder(store, "store.locked('a')")
    entered = threading.Event()

    def enter() -> None:
        with store.locked("a"):
            entered.set()

    waiting = threading.Thread(target=enter)
    waiting.start()
    with store.locked("b"):  # another run
        pass
    assert not entered.wait(0.3)
    other.kill()
    other.communicate()
    killed = time.monotonic()
    assert entered.wait(30)
    print(f"entered {time.monotonic() - killed:.3f} s later")
    waiting.join()
    store.forget_locks()
    assert not (store.study.folder / LOCKS).exists()


def test_a_study_has_one_driver(store: Store) -> None:
    store.study.folder.mkdir()
    assert not store.is_driven()
    store.refuse_if_driven()
    assert not list(store.study.folder.iterdir())
    other = holder(store, "store.driven()")
    assert store.is_driven()
    words = f"process {other.pid} on {socket.gethostname()} is carrying this study out"
    with pytest.raises(UserError, match=words), store.driven():
        pass
    with pytest.raises(UserError, match=words):
        store.refuse_if_driven()
    other.kill()
    other.communicate()
    with store.driven():
        assert store.is_driven()
        assert json.loads((store.study.folder / "driver.json").read_text())["pid"] == os.getpid()
    assert not store.is_driven()


def test_tables(store: Store) -> None:
    store.study.folder.mkdir()
    table = pd.DataFrame({"teacher": ["a", None], "accuracy": [0.5, 0.25], "n": [1, 2]})
    store.write_table("students", table)
    folder = store.study.folder
    pd.testing.assert_frame_equal(pd.read_parquet(folder / "students.parquet"), table)
    read = pd.read_csv(folder / "students.csv")
    pd.testing.assert_frame_equal(read.astype({"teacher": table.teacher.dtype}), table)
