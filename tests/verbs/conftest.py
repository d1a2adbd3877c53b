"""The command line in tests: in process wherever possible, since importing torch takes seconds."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from temperance.cli import main

TINY = ("model=mlp", "model.width=8", "training.epochs=2", "engine.threads=1")
TIMES = {"images_per_second", "seconds_left", "data_wait"}


@dataclass(frozen=True)
class Done:
    """What a command did."""

    code: int
    out: str
    err: str


class Killed(BaseException):
    """Stands for `kill -9`: nobody catches it."""


def run_in_process(*argv: object) -> Done:
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main([str(word) for word in argv])
        except SystemExit as done:
            code = int(done.code or 0)
    return Done(code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="session")
def temperance() -> Callable[..., Done]:
    """`temperance("train", …) -> Done`, through `main` in this process."""
    return run_in_process


@pytest.fixture(scope="session")
def succeeds() -> Callable[..., Done]:
    """The same for what has to work."""

    def succeeds(*argv: object) -> Done:
        done = run_in_process(*argv)
        assert done.code == 0, done.err
        return done

    return succeeds


@pytest.fixture(scope="session")
def refused() -> Callable[..., str]:
    """The one message with which a command is refused: exit code 2, no traceback, these words."""

    def refused(*argv: object, words: tuple[str, ...] = ()) -> str:
        done = run_in_process(*argv)
        assert done.code == 2, done
        assert done.out == ""
        assert done.err.startswith("error: "), done.err
        assert done.err.count("error:") == 1
        assert done.err.endswith(("?\n", ".\n"))
        assert done.err.count("\n") == 1, "one message is one line"
        assert "Traceback" not in done.err
        for word in words:
            assert word in done.err
        return done.err

    return refused


@pytest.fixture(scope="session")
def spawn() -> Callable[..., subprocess.Popen[str]]:
    """Starts `python -m temperance …`, or another program, in a process group of its own."""

    def spawn(
        *argv: object, program: tuple[str, ...] = ("-m", "temperance"), **options: Any
    ) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, *program, *map(str, argv)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            **options,
        )

    return spawn


@pytest.fixture(scope="session")
def tiny() -> tuple[str, ...]:
    """Settings of a model that trains in a fraction of a second."""
    return TINY


@pytest.fixture(scope="session")
def teacher(tmp_path_factory: pytest.TempPathFactory, succeeds: Callable[..., Done]) -> Path:
    """A finished run of `train` on digits; nobody may write into it."""
    folder = tmp_path_factory.mktemp("teacher") / "run"
    succeeds("train", *TINY, "--out", folder)
    return folder


@pytest.fixture
def killed_at(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`killed_at(step, "train", …)`: a command that dies after that step, before it is saved."""

    def killed_at(step: int, *argv: object) -> None:
        from temperance.training.progress import Progress

        def show(self: Progress, now: int, losses: object) -> None:
            if now == step:
                raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(Progress, "show", show)
            with pytest.raises(Killed):
                run_in_process(*argv)

    return killed_at


@pytest.fixture(scope="session")
def student() -> Callable[[Path], bytes]:
    """The bytes of a run's student."""
    return lambda run: (run / "student" / "model.safetensors").read_bytes()


@pytest.fixture(scope="session")
def metrics() -> Callable[[Path], list[dict[str, Any]]]:
    """The lines of a run's metrics.jsonl, without what the clock says."""

    def metrics(run: Path) -> list[dict[str, Any]]:
        lines = (run / "metrics.jsonl").read_text().splitlines()
        return [
            {key: value for key, value in json.loads(line).items() if key not in TIMES}
            for line in lines
        ]

    return metrics


@pytest.fixture(scope="session")
def snapshot() -> Callable[[Path], dict[str, str]]:
    """Digest of every file in a folder."""

    def snapshot(folder: Path) -> dict[str, str]:
        return {
            str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }

    return snapshot


@pytest.fixture
def logits_file(tmp_path: Path) -> Callable[..., Path]:
    """Writes an npz of 60 rows of 3 classes; `change(logits, targets)` may spoil it."""

    def logits_file(
        name: str = "logits.npz",
        change: Callable[[np.ndarray, np.ndarray], object] | None = None,
    ) -> Path:
        rng = np.random.default_rng(0)
        targets = np.arange(60) % 3
        logits = rng.normal(size=(60, 3)).astype(np.float32)
        if change is not None:
            change(logits, targets)
        np.savez(tmp_path / name, logits=logits, targets=targets)
        return tmp_path / name

    return logits_file


@pytest.fixture
def parquet(tmp_path: Path) -> Callable[..., Path]:
    """Writes a dataset of tiny grey PNGs, `counts` of each class, some of them cut short."""

    def parquet(counts: tuple[int, ...] = (30, 30, 30), truncated: tuple[int, ...] = ()) -> Path:
        import pyarrow as pa
        import pyarrow.parquet as pq
        from PIL import Image

        rng = np.random.default_rng(0)
        labels = [label for label, count in enumerate(counts) for _ in range(count)]
        encoded = []
        for row, label in enumerate(labels):
            pixels = rng.integers(0, 60, (8, 8), dtype=np.uint8)
            pixels[label * 2 : label * 2 + 2] += 150
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, format="PNG")
            content = buffer.getvalue()
            encoded.append(content[: len(content) // 2] if row in truncated else content)
        path = tmp_path / "images.parquet"
        pq.write_table(pa.table({"image": pa.array(encoded, pa.binary()), "label": labels}), path)
        return path

    return parquet


@pytest.fixture
def disk_limit() -> Callable[[int], contextlib.AbstractContextManager[None]]:
    """Within it the kernel refuses files above a size, as it does when the disk is full."""
    import resource

    @contextlib.contextmanager
    def disk_limit(size: int) -> Iterator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return disk_limit
