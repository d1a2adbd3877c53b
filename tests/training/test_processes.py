"""Two processes with unequal rows, through DDP, for every objective of the list."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from reference.objective_problems import VARIANTS
from temperance.objectives import get_objective

SCRIPT = Path(__file__).parents[1] / "reference" / "two_processes.py"


@pytest.fixture(scope="module")
def after(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Folders with what was learned in one step on 1 and on 2 processes."""
    folders = {}
    for processes in (1, 2):
        folders[processes] = tmp_path_factory.mktemp(f"processes{processes}")
        environment = {
            **{key: value for key, value in os.environ.items() if "RANK" not in key},
            "PYTHONPATH": str(SCRIPT.parents[1]),
            "OMP_NUM_THREADS": "1",
        }
        command = [sys.executable, str(SCRIPT), str(processes), str(folders[processes])]
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]
    return folders


@pytest.mark.parametrize("name", list(VARIANTS))
def test_a_step_of_two_processes(name: str, after: dict[int, Path]) -> None:
    one, two = (torch.load(after[n] / f"{name}.pt", weights_only=True) for n in (1, 2))
    assert two["same"]
    assert torch.isfinite(two["after"]).all()
    key, settings = VARIANTS[name]
    if get_objective(key, **settings).row_wise:
        # what remains is the order of sums in float32
        torch.testing.assert_close(two["after"], one["after"], rtol=1e-4, atol=1e-6)
