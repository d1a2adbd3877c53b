from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import pytest

from temperance.config import Args
from temperance.errors import UserError
from temperance.run import Run, atomic, free_folder, identity


class Settings(Args):
    without_effect: ClassVar[frozenset[str]] = frozenset({"threads"})

    lr: float = 0.1
    threads: int = 1
    path: Path | None = None


def open_run(folder: Path, settings: Settings | None = None, **flags: bool) -> Run:
    settings = settings or Settings()
    return Run.open(folder, verb="train", config=settings, identity=identity(settings), **flags)


def test_identity_is_what_can_change_the_result() -> None:
    base = identity(Settings(), data="a")
    assert identity(Settings(threads=8, path=Path("x")), data="a") == base
    assert identity(Settings(lr=0.2), data="a") != base
    assert identity(Settings(), data="b") != base


def test_a_non_empty_folder_is_refused_and_unharmed(tmp_path: Path) -> None:
    open_run(tmp_path / "run").write("result.txt", "precious")
    with pytest.raises(UserError, match=r"not empty.*--resume.*--overwrite"):
        open_run(tmp_path / "run")
    assert (tmp_path / "run" / "result.txt").read_text() == "precious"


def test_overwrite_replaces_runs_only(tmp_path: Path) -> None:
    open_run(tmp_path / "run").write("result.txt", "old")
    open_run(tmp_path / "run", overwrite=True)
    assert not (tmp_path / "run" / "result.txt").exists()

    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "holiday.jpg").write_bytes(b"sun")
    with pytest.raises(UserError, match="not a folder that temperance made"):
        open_run(photos, overwrite=True)
    assert (photos / "holiday.jpg").exists()


def test_resume_wants_the_same_settings(tmp_path: Path) -> None:
    open_run(tmp_path / "run")
    open_run(tmp_path / "run", Settings(threads=4), resume=True)
    with pytest.raises(UserError, match=r"lr was 0\.1, is 0\.2"):
        open_run(tmp_path / "run", Settings(lr=0.2), resume=True)


def test_resume_in_a_foreign_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="no run to resume"):
        open_run(tmp_path, resume=True)


def test_provenance(tmp_path: Path) -> None:
    open_run(tmp_path / "run")
    content = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert content["verb"] == "train"
    assert content["versions"]["torch"]


def test_metrics_survive_a_line_cut_short(tmp_path: Path) -> None:
    run = open_run(tmp_path / "run")
    for step in (1, 2, 3):
        run.log_metrics(step=step)
    with (run.folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    assert [line["step"] for line in run.metrics()] == [1, 2, 3]
    run.keep_metrics_until(2)
    run.log_metrics(step=3)
    assert [line["step"] for line in run.metrics()] == [1, 2, 3]


def test_damaged_json_is_named(tmp_path: Path) -> None:
    run = open_run(tmp_path / "run")
    (run.folder / "result.json").write_text('{"a": ')
    with pytest.raises(UserError, match=r"result\.json: is damaged"):
        run.read_json("result.json")


def test_atomic_keeps_the_old_file_if_the_block_fails(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("old")

    def fail() -> None:
        with atomic(file) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_disk_that_refuses_leaves_the_old_file(tmp_path: Path) -> None:
    """The kernel refuses (a limit on file size), as it does when the disk is full."""
    file = tmp_path / "file"
    file.write_text("old")
    program = (
        "import resource, sys; from pathlib import Path; from temperance.run import Run\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try: Run(Path(sys.argv[1])).write('file', 'x' * 5000)\n"
        "except ValueError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert "cannot be written" in done.stdout
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_default_folders_do_not_collide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert free_folder("demo") == Path("runs/demo")
    Path("runs/demo").mkdir(parents=True)
    assert free_folder("demo") == Path("runs/demo-2")
