from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from temperance.reporting.columns import MOST_CHOICES, coded
from temperance.reporting.format import MISSING, cell


def shown(column: pd.Series) -> list[str]:
    found = coded(column)
    return [found.texts[code] if code >= 0 else MISSING for code in found.codes]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=30))
def test_codes_are_in_the_order_of_the_values(values: list[float]) -> None:
    codes = coded(pd.Series(values, dtype=float)).codes
    for a, code_a in zip(values, codes, strict=True):
        assert (code_a == -1) == np.isnan(a)
        for b, code_b in zip(values, codes, strict=True):
            if not np.isnan(a) and not np.isnan(b):
                assert (code_a < code_b) == (a < b)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.none() | st.text(), max_size=30))
def test_texts_stay_as_they_are(values: list[str | None]) -> None:
    assert shown(pd.Series(values, dtype=object)) == [cell(value) for value in values]


def test_equal_looking_numbers_are_still_told_apart_in_sorting() -> None:
    column = coded(pd.Series([0.91000002, 0.91000001, 0.5]))
    assert column.texts == ["0.50", "0.91", "0.91"]
    assert column.codes == [2, 1, 0]


def test_texts_sort_as_people_count() -> None:
    assert coded(pd.Series(["t10", "T9", "t9b", "raw", None, "²"])).texts == [
        "raw", "T9", "t9b", "t10", "²"
    ]  # fmt: skip


def test_categories_keep_their_order_and_lose_what_nobody_is() -> None:
    arms = pd.Categorical(["raw", "labels", None], categories=["raw", "unused", "labels"])
    column = coded(pd.Series(arms))
    assert (column.texts, column.codes) == (["raw", "labels"], [0, 1, -1])


@pytest.mark.parametrize(
    ("column", "numeric", "choice"),
    [
        (pd.Series(["a", "b"]), False, True),
        (pd.Series(["a", "a"]), False, False),  # nothing to choose from
        (pd.Series([True, False]), False, True),
        (pd.Series([1.0, 4.0]), True, False),
        (pd.Series([1.0, 4.0, None]).astype("category"), True, True),
        (pd.Series([1, None], dtype="Int64"), True, False),
        (pd.Series([1, None], dtype=object), True, False),
        (pd.Series([1, "a"], dtype=object), False, True),
        (pd.Series([None, None], dtype=object), False, False),
        (pd.Series([], dtype=object), False, False),
        (pd.Series([f"t{i}" for i in range(MOST_CHOICES)]), False, True),
        (pd.Series([f"t{i}" for i in range(MOST_CHOICES + 1)]), False, False),
    ],
)
def test_what_is_a_number_and_what_a_choice(column: pd.Series, numeric: bool, choice: bool) -> None:
    found = coded(column)
    assert (found.numeric, found.choice) == (numeric, choice)


def test_whole_numbers_are_never_rounded() -> None:
    assert coded(pd.Series([2**62 + 1, -3])).texts == ["−3", str(2**62 + 1)]
