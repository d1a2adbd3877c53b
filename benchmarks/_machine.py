"""Where a benchmark ran: the header of every result."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def machine_header(*packages: str) -> str:
    """One line: date, git revision, hardware, versions of temperance, torch and the packages."""
    packages = ("temperance", "torch", "numpy", "scipy", *packages)
    found = [f"{name} {_version(name)}" for name in packages]
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, revision {_revision()}, {_processor()}, {os.cpu_count()}"
        f" cores, {_memory():.0f} GiB, {platform.system()}, Python {platform.python_version()}, "
        + ", ".join(found)
        + "."
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _revision() -> str:
    folder = Path(__file__).parent

    def git(*words: str) -> str:
        found = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True)
        return found.stdout.strip()

    changed = " with changes" if git("status", "--porcelain", "--", "../src") else ""
    return (git("rev-parse", "--short", "HEAD") or "unknown") + changed


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":")[1].strip()
    return platform.processor() or "unknown processor"


def _memory() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
