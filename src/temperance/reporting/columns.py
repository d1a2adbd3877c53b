"""Columns of a long table as they travel inside a page: distinct texts, and a code per row."""

from __future__ import annotations

import re
from typing import NamedTuple

import pandas as pd
from pandas.api.types import is_bool_dtype, is_float_dtype, is_numeric_dtype

from temperance.reporting.format import aligned, cell

MOST_CHOICES = 20
"""Values up to which a column is offered as a choice; more are found by typing."""


class CodedColumn(NamedTuple):
    """One column: what is sorted are the codes, what is shown and searched are the texts."""

    name: str
    help: str
    numeric: bool
    choice: bool
    """Whether its values are few and distinct by nature, so that one can be picked from a list."""
    texts: list[str]
    """The distinct values as they are read, in ascending order of the values."""
    codes: list[int]
    """For each row its place in `texts`; −1 where the value is not known."""


def coded(column: pd.Series, help: str = "") -> CodedColumn:
    """A column of scalars, ready to be sorted and searched without its values.

    Numbers get equally many decimals. Texts sort as people count ("t9" before "t10"), categories
    in the order of the categories. Texts, truth values and categories of up to 20 values are a
    choice: a factor that is a number is one too as `astype("category")`.

    Examples:
        >>> column = coded(pd.Series([0.5, 10.0, None, 0.5], name="τ"))
        >>> column.texts, column.codes, column.choice
        (['0.5', '10.0'], [0, 1, -1, 0], False)
    """
    values = _categorical(column)
    distinct = values.categories
    numeric = is_numeric_dtype(distinct.dtype) and not is_bool_dtype(distinct.dtype)
    given = isinstance(column.dtype, pd.CategoricalDtype)
    return CodedColumn(
        name=str(column.name),
        help=help,
        numeric=numeric,
        choice=(given or not numeric) and 1 < len(distinct) <= MOST_CHOICES,
        texts=aligned(distinct) if is_float_dtype(distinct.dtype) else [cell(v) for v in distinct],
        codes=values.codes.tolist(),
    )


def _categorical(column: pd.Series) -> pd.Categorical:
    if isinstance(column.dtype, pd.CategoricalDtype):
        return pd.Categorical(column.cat.remove_unused_categories())
    column = column.infer_objects()
    if is_numeric_dtype(column.dtype):
        return pd.Categorical(column)
    texts = column.map(cell, na_action="ignore")
    return pd.Categorical(texts, categories=sorted(texts.dropna().unique(), key=_as_counted))


def _as_counted(text: str) -> list[str | int]:
    """Digits as numbers, between texts without their case."""
    parts = re.split(r"(\d+)", text)
    return [int(part) if place % 2 else part.casefold() for place, part in enumerate(parts)]
