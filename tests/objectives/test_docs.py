"""The tables of the documentation are those of the declarations and the committed results."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        spec = importlib.util.spec_from_file_location(
            "benchmark_of_objectives", ROOT / "benchmarks" / "objectives.py"
        )
        assert spec
        assert spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))
    return module


def test_the_table_of_the_guide_is_that_of_the_declarations(benchmark: ModuleType) -> None:
    """If not: python benchmarks/objectives.py table."""
    assert benchmark.table() in (ROOT / "docs" / "objectives.md").read_text()


def test_the_table_of_the_results_is_that_of_the_runs(benchmark: ModuleType) -> None:
    """If not: python benchmarks/objectives.py table."""
    assert benchmark.students_table() in (ROOT / "docs" / "results" / "objectives.md").read_text()


def test_what_provably_cannot_matter_did_not(benchmark: ModuleType) -> None:
    """The measured gradients agree with the declarations."""
    import pandas as pd

    frame = pd.read_csv(benchmark.RESULTS / "gradients.csv")
    assert set(frame["objective"]) == set(benchmark.VARIANTS)
    for variant, rows in frame.groupby("objective"):
        unchanged = (abs(rows["cosine"] - 1) < 1e-4) & (abs(rows["norm_ratio"] - 1) < 1e-3)
        declared = benchmark.objective_of(variant).teacher_logits
        assert unchanged.all() == (declared != "used"), variant
