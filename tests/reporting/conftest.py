from __future__ import annotations

from collections.abc import Iterator

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from temperance.reporting.figures import style


@pytest.fixture
def figure() -> Iterator[Figure]:
    """An empty figure in the shared style."""
    with style():
        yield Figure(layout="constrained")


@pytest.fixture
def ax(figure: Figure) -> Axes:
    """Empty axes in the shared style."""
    return figure.subplots()
