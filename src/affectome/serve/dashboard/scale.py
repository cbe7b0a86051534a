"""Scales of the page: of sliders, in safe ranges; of colours, in residual norms; and where a mixture is on the map."""

import math
from collections.abc import Iterable

from affectome.serve.catalogue import UNMEASURED, Catalogue
from affectome.serve.steering import STRONGEST

# Sliders end at this many safe ranges either way.
FARTHEST = 2.0

Range = tuple[float, float]


def inner(safe: Range) -> Range:
    """What is safe in slider units, where the safe range ends at −1 and 1: a side without any ends at 0."""
    return (-1.0 if safe[0] < 0 else 0.0), (1.0 if safe[1] > 0 else 0.0)


def strength_of(share: float, safe: Range) -> float:
    """The strength at slider position `share`, never beyond what a request may ask for, nor safe's end by rounding."""
    share = min(max(share, -FARTHEST), FARTHEST)
    if not share:
        return 0.0
    if abs(share) == 1 and share in inner(safe):
        return safe[0] if share < 0 else safe[1]
    low, high = safe if share in _Span(inner(safe)) else (-STRONGEST, STRONGEST)
    return min(max(round(share * _unit(share, safe), 4), low), high)


def share_of(strength: float, safe: Range) -> float:
    """The slider position of a strength; the end of the slider where that lies beyond it."""
    return min(max(strength / _unit(strength, safe), -FARTHEST), FARTHEST)


def mixture(
    picks: Iterable[tuple[str, float]], places: dict[str, tuple[float, float]], unit: float
) -> tuple[float, float] | None:
    """The sum of the places of `picks` (name, strength), a strength of `unit` counting once; None without any."""
    known = [(places[name], strength / unit) for name, strength in picks if name in places]
    if not any(weight for _, weight in known):
        return None
    return sum(weight * x for (x, _), weight in known), sum(weight * y for (_, y), weight in known)


def mixture_unit(catalogue: Catalogue) -> float:
    """The strength that counts once in a mixture: the farthest that any emotion of the map may safely go."""
    ends = [abs(end) for one in catalogue.directions if one.name in catalogue.map for end in one.safe]
    return max(ends, default=0.0) or UNMEASURED[1]


def colour_limit(values: Iterable[float]) -> float:
    """Where the colours end, for all `values` to have one of their own: the next round number."""
    most = max((abs(value) for value in values if math.isfinite(value)), default=0.0)
    if most < 1e-6:
        return 1e-6
    power = 10.0 ** math.floor(math.log10(most))
    step = next(step for step in (1, 2, 3, 4, 5, 6, 8, 10) if step * power >= most * (1 - 1e-9))
    return float(f"{step * power:.3g}")


class _Span:
    def __init__(self, ends: Range) -> None:
        self.ends = ends

    def __contains__(self, value: float) -> bool:
        return self.ends[0] <= value <= self.ends[1]


def _unit(side: float, safe: Range) -> float:
    """The strength of one slider unit on the side of `side`; of the other one where that side has nothing safe."""
    low, high = max(-safe[0], 0.0), max(safe[1], 0.0)
    return (low or high if side < 0 else high or low) or UNMEASURED[1]
