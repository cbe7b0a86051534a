"""Numbers as a reader sees them, the same in figures and on the page."""

import math
from collections.abc import Sequence

MISSING = "–"


def number(value: float | None, digits: int = 2) -> str:
    """`value` with `digits` decimals and a real minus sign; a dash where there is none."""
    if value is None or math.isnan(value):
        return MISSING
    text = f"{value:.{digits}f}"
    # Rounding must not leave a minus sign before zero.
    return text.lstrip("-") if float(text) == 0 else text.replace("-", "−")


def strength(value: float | None) -> str:
    """A strength of steering with as many decimals, up to four, as it has."""
    text = number(value, 4)
    return text.rstrip("0").rstrip(".") if "." in text else text


def interval(bounds: Sequence[float | None] | None) -> str:
    """The two `bounds` of a 95 % interval as `0.31 to 0.77`; a dash where one is missing."""
    if bounds is None or None in bounds:
        return MISSING
    return f"{number(bounds[0])} to {number(bounds[1])}"


def p_value(p: float | None) -> str:
    """`p` as `0.039` or `< 0.001`; a dash where there is none."""
    if p is None or math.isnan(p):
        return MISSING
    return number(p, 3) if round(p, 3) > 0 else "<\u00a00.001"


def p_equation(p: float | None) -> str:
    """`p = 0.039` or `p < 0.001`, which no line break tears apart."""
    text = p_value(p)
    return f"p\u00a0{text}" if text.startswith("<") else f"p\u00a0=\u00a0{text}"
