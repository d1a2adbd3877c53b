"""A run's folder: create or refuse, identity, provenance, metrics, atomic writes."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import logging
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, get_args

import yaml

from temperance.config import Args, read_yaml, to_yaml
from temperance.errors import UserError

SCHEMA = 1  # raise when the meaning of a setting changes: old results are then not reused
PACKAGES = ("temperance", "torch", "torchvision", "lightning-fabric", "numpy", "scipy")

logger = logging.getLogger("temperance")


class Run:
    """One run's folder. Only the process of rank 0 holds one that writes.

    Args:
        folder: the folder, created by `Run.open`.
        writes: False on the other processes of a distributed run: every write is then a no-op.
    """

    def __init__(self, folder: Path, *, writes: bool = True) -> None:
        self.folder, self.writes = folder, writes

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        verb: str,
        config: Args,
        identity: str,
        resume: bool = False,
        overwrite: bool = False,
        writes: bool = True,
    ) -> Run:
        """Create the folder, or continue in it, or refuse.

        Raises:
            UserError: if the folder is not empty and neither flag is set, if the run in it was
                started with other settings (`resume`), or if it holds no run (`overwrite`).
        """
        run = cls(folder, writes=writes)
        if not writes:
            return run
        run.refuse_if_taken(resume=resume, overwrite=overwrite)
        if folder.is_dir() and any(folder.iterdir()):
            started = run.started_as() or {}
            if overwrite:
                run._clear()
            elif started.get("identity") != identity:
                raise UserError(
                    f"the run in it was started differently ({run._differences(started, config)})",
                    where=folder,
                    mend="Resume with the same settings and inputs, or choose another --out",
                )
            else:
                run.write("config.yaml", to_yaml(config))  # a study may have grown
                return run
        now = datetime.now(UTC).isoformat(timespec="seconds")
        facts = {"verb": verb, "identity": identity, "started": now, **environment()}
        run.write_json("environment.json", facts)
        run.write("config.yaml", to_yaml(config))
        return run

    def refuse_if_taken(self, *, resume: bool, overwrite: bool) -> None:
        """Writes nothing, so it can be asked before long work.

        Raises:
            UserError: if the folder is a file, or is not empty and neither flag is set, or holds
                something else than a run.
        """
        if self.folder.exists() and not self.folder.is_dir():
            raise UserError(
                "is a file, not a folder", where=self.folder, mend="Choose another --out"
            )
        if not self.folder.is_dir() or not any(self.folder.iterdir()):
            return
        if not resume and not overwrite:
            raise UserError(
                "the folder is not empty",
                where=self.folder,
                mend="Continue with --resume, replace it with --overwrite, or choose another --out",
            )
        if not (self.folder / "environment.json").is_file():
            what = "is not a folder that temperance made, so it is not overwritten"
            raise UserError(
                what if overwrite else "holds no run to resume",
                where=self.folder,
                mend="Check --out",
            )

    def started_as(self) -> dict[str, Any] | None:
        """What environment.json says, None where there is none."""
        return self.read_json("environment.json")

    def _clear(self) -> None:
        for entry in self.folder.iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()

    def _differences(self, started: Mapping[str, Any], config: Args) -> str:
        stored = self.folder / "config.yaml"
        before = dict(_flat(read_yaml(stored))) if stored.is_file() else {}
        now = dict(_flat(yaml.safe_load(to_yaml(config))))
        changed = [
            f"{key} was {before.get(key)!r}, is {now.get(key)!r}"
            for key in sorted({*before, *now})
            if before.get(key) != now.get(key)
        ]
        if started.get("schema") != SCHEMA:
            changed.append("by a version of temperance whose settings meant something else")
        return ", ".join(changed) or "the data or the teacher's weights have changed"

    def path(self, *parts: str) -> Path:
        """A path inside the folder; its parent exists afterwards."""
        path = self.folder.joinpath(*parts)
        if self.writes:
            with _refusals_explained(path):
                path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def write(self, name: str, text: str) -> None:
        """Write a text file whole or not at all."""
        if self.writes:
            with atomic(self.path(name)) as temporary:
                temporary.write_text(text, encoding="utf-8")

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a JSON file whole or not at all."""
        self.write(name, json.dumps(content, indent=1, default=str) + "\n")

    def read_json(self, name: str) -> dict[str, Any] | None:
        """A JSON file of the run, None where it was not written yet.

        Raises:
            UserError: if it is damaged.
        """
        path = self.folder / name
        if not path.is_file():
            return None
        try:
            content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            raise UserError(
                "is damaged", where=path, mend="Delete it and run again with --resume"
            ) from None
        return content

    def log_metrics(self, **values: Any) -> None:
        """Append one line to metrics.jsonl."""
        if self.writes:
            path = self.path("metrics.jsonl")
            with _refusals_explained(path), path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(values) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl; a last line that a kill cut short is passed over."""
        path = self.folder / "metrics.jsonl"
        lines = path.read_text(encoding="utf-8").split("\n") if path.is_file() else []
        return [json.loads(line) for line in lines[:-1]]

    def keep_metrics_until(self, step: int) -> None:
        """Drop the lines after `step`: a resumed run writes them again."""
        if (self.folder / "metrics.jsonl").is_file():
            kept = [line for line in self.metrics() if line["step"] <= step]
            self.write("metrics.jsonl", "".join(json.dumps(line) + "\n" for line in kept))

    @contextmanager
    def logging(self) -> Iterator[None]:
        """Also write what is logged to run.log, with times."""
        if not self.writes:
            yield
            return
        handler = logging.FileHandler(self.path("run.log"), encoding="utf-8", delay=True)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        logger.addHandler(handler)
        try:
            yield
        finally:
            logger.removeHandler(handler)
            handler.close()


def free_folder(verb: str) -> Path:
    """`runs/VERB`, or the first `runs/VERB-N` that is not taken: the default of --out."""
    number, folder = 1, Path("runs") / verb
    while folder.exists():
        number += 1
        folder = Path("runs") / f"{verb}-{number}"
    return folder


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends without an error.

    Raises:
        UserError: if the disk is full or refuses; what stood at `path` is then still there.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with _refusals_explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def _refusals_explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot be written ({error.strerror or error})",
            where=path,
            mend="Free space or choose another --out; what was there before is unharmed",
        ) from None


def identity(config: Args, **facts: Any) -> str:
    """Twelve hex digits from everything that can change the result, and nothing else.

    Args:
        config: its paths and the settings that its classes list in `without_effect` are left out.
        facts: what settings do not say: fingerprint of the data, sha256 of the teacher's weights.
    """
    content = {"schema": SCHEMA, "config": _with_effect(config), **facts}
    canonical = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def _with_effect(value: Any) -> Any:
    if isinstance(value, Args):
        return {
            name: _with_effect(getattr(value, name))
            for name, field in type(value).model_fields.items()
            if name not in value.without_effect
            and Path not in (field.annotation, *get_args(field.annotation))
        }
    if isinstance(value, tuple | list):
        return [_with_effect(item) for item in value]
    return value


def file_sha256(path: Path) -> str:
    """Digest of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@cache
def environment() -> dict[str, Any]:
    """What is needed to tell under which circumstances a result came about."""
    return {
        "schema": SCHEMA,
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "versions": {name: _version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "git": _git_revision(),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git_revision() -> str | None:
    """Revision of the source that runs, where it is a checkout (`+` if it was changed)."""
    command = ["git", "-C", str(Path(__file__).parent)]
    try:
        sha = subprocess.run(
            [*command, "describe", "--always", "--dirty=+", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return sha.stdout.strip()


def _flat(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
