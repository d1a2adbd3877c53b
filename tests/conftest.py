from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings

# The same examples every time: what passed here passes there. To look for new ones:
# pytest --hypothesis-profile=exploring
settings.register_profile("repeatable", derandomize=True)
settings.register_profile("exploring", max_examples=1000)
settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def seeded() -> None:
    """A test draws the same numbers whatever ran before it."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def browse() -> Callable[..., Any]:
    """Opens an HTML file in headless Chromium: `browse(path) -> PageRecord`."""
    chromium = _helper("reporting/chromium.py")
    if chromium.find_chromium() is None:
        pytest.skip(f"no browser: none of {', '.join(chromium.NAMES)} is installed")
    return chromium.open_page


def _helper(path: str) -> Any:
    """A module beside the tests; they are no package, so it is loaded from its file."""
    name = f"tests_helper_{Path(path).stem}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).parent / path)
        assert spec
        assert spec.loader
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]
