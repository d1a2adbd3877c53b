"""Numbers and cells as people read them: a real minus sign, and a dash where nothing is known."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import pandas as pd

MISSING = "–"
"""What stands in place of a value that is not known, so that it is never taken for zero."""


def number(x: float | None, digits: int = 2) -> str:
    """`x` with `digits` decimals; what rounds to zero has no sign.

    Examples:
        >>> number(-1.234), number(-0.001), number(float("nan"))
        ('−1.23', '0.00', '–')
    """
    return MISSING if _unknown(x) else _typeset(f"{x:z.{digits}f}")


def signed(x: float | None, digits: int = 2) -> str:
    """`x` with its sign always written, for differences; what rounds to zero has none.

    Examples:
        >>> signed(1.5, 1), signed(-1.5, 1), signed(0.01, 1)
        ('+1.5', '−1.5', '0.0')
    """
    text = number(x, digits)
    positive = not _unknown(x) and round(float(x or 0), digits) > 0
    return f"+{text}" if positive else text


def interval(low: float | None, high: float | None, digits: int = 2) -> str:
    """A closed interval, or a dash where an end is not known.

    Examples:
        >>> interval(-0.5, 1.25), interval(None, 1.0)
        ('[−0.50, 1.25]', '–')
    """
    if _unknown(low) or _unknown(high):
        return MISSING
    return f"[{number(low, digits)}, {number(high, digits)}]"


def p_value(p: float | None) -> str:
    """A p-value with three decimals, and no smaller than that can say.

    Examples:
        >>> p_value(0.0312), p_value(1e-9), p_value(None)
        ('0.031', '< 0.001', '–')
    """
    return "< 0.001" if p is not None and p < 0.001 else number(p, 3)


def cell(value: object) -> str:
    """One scalar of a table as text; floats that nobody formatted get four significant digits.

    Examples:
        >>> cell("raw"), cell(-3), cell(0.123456), cell(None)
        ('raw', '−3', '0.1235', '–')
    """
    if pd.isna(value):
        return MISSING
    if isinstance(value, str | bool):
        return str(value)
    return _typeset(f"{value:.4g}" if isinstance(value, float) else str(value))


def aligned(values: Iterable[float]) -> list[str]:
    """Numbers that stand below one another: equally many decimals, as the middle one needs for four
    significant digits. A number too small or too large for that stays as `cell` writes it.

    Examples:
        >>> aligned([0.5, 4.0, 16.0]), aligned([0.9312, -0.00001])
        (['0.5', '4.0', '16.0'], ['0.9312', '−1e−05'])
    """
    numbers = [float(value) for value in values]
    sizes = [abs(x) for x in numbers if math.isfinite(x) and x != 0]
    most = 3 - math.floor(math.log10(np.median(sizes))) if sizes else 0
    digits = min(max(most, 0), 9)
    needed = max((_decimals(x, digits) for x in numbers if math.isfinite(x)), default=0)
    return [
        number(x, needed) if x == 0 or 10.0**-digits <= abs(x) < 1e9 else cell(x) for x in numbers
    ]


def _decimals(x: float, most: int) -> int:
    """How many of `most` decimals of `x` are there before nothing but zeros follows."""
    return len(f"{x:.{most}f}".rstrip("0").partition(".")[2]) if most else 0


def _unknown(x: float | None) -> bool:
    return x is None or math.isnan(x)


def _typeset(text: str) -> str:
    return text.replace("-", "−").replace("inf", "∞")
