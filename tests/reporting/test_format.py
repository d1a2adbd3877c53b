from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from temperance.reporting.format import MISSING, aligned, cell, interval, number, signed

finite = st.floats(-1e6, 1e6, allow_nan=False)


def test_missing_is_a_dash_and_never_a_zero() -> None:
    assert number(None) == number(math.nan) == signed(None) == signed(math.nan) == MISSING
    assert interval(math.nan, 1) == interval(0, math.nan) == interval(None, None) == MISSING
    assert [cell(x) for x in (None, np.nan, pd.NA, pd.NaT)] == [MISSING] * 4


@pytest.mark.parametrize(
    ("x", "plain", "with_sign"),
    [
        (0.0, "0.0", "0.0"),
        (-0.0, "0.0", "0.0"),
        (-0.04, "0.0", "0.0"),
        (0.04, "0.0", "0.0"),
        (0.06, "0.1", "+0.1"),
        (-12.345, "−12.3", "−12.3"),
        (math.inf, "∞", "+∞"),
        (-math.inf, "−∞", "−∞"),
    ],
)
def test_signs(x: float, plain: str, with_sign: str) -> None:
    assert number(x, 1) == plain
    assert signed(x, 1) == with_sign


@settings(max_examples=100, deadline=None)
@given(finite, st.integers(0, 6))
def test_text_reads_back_as_the_rounded_number(x: float, digits: int) -> None:
    for text in (number(x, digits), signed(x, digits)):
        assert "-" not in text
        assert float(text.replace("−", "-")) == round(x, digits)
    assert (signed(x, digits)[0] == "+") == (round(x, digits) > 0)


def test_interval() -> None:
    assert interval(-1, 2.345, 1) == "[−1.0, 2.3]"
    assert interval(-math.inf, math.inf) == "[−∞, ∞]"


def test_cells_of_frames() -> None:
    frame = pd.DataFrame({"a": ["x-y"], "b": [np.int64(-3)], "c": [np.float64(1 / 3)], "d": [True]})
    assert [cell(v) for v in next(frame.itertuples(index=False))] == ["x-y", "−3", "0.3333", "True"]


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([0.5, 0.71, 16.0], ["0.50", "0.71", "16.00"]),
        ([0.93125, 0.9, -0.5], ["0.9313", "0.9000", "−0.5000"]),  # 0.93125 is no tie in binary
        ([8000.0, 12000.4], ["8000", "12000"]),
        ([0.0, 0.25], ["0.00", "0.25"]),
        ([0.0, 0.0], ["0", "0"]),
        ([0.41, 0.37, 1e-12, -4e30], ["0.41", "0.37", "1e−12", "−4e+30"]),
        ([math.inf, -math.inf, 1.5], ["∞", "−∞", "1.5"]),
        ([], []),
    ],
)
def test_a_column_of_numbers_is_aligned(values: list[float], texts: list[str]) -> None:
    assert aligned(values) == texts


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(-1e300, 1e300), min_size=1, max_size=20))
def test_aligned_numbers_read_back_with_sign_and_size(values: list[float]) -> None:
    for value, text in zip(values, aligned(values), strict=True):
        back = float(text.replace("−", "-"))
        assert (back == 0) == (value == 0)
        assert back == pytest.approx(value, rel=0.5)
        assert len(text) <= 22
