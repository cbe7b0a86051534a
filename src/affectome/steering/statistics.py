"""Paired comparisons of steered with unsteered items that stay honest for a dozen prompts.

Every condition answers the same items, a prompt and a sample of it, with the same seeds, so an effect is the mean over
units of the difference from the baseline. A pair without one of its two scores (NaN) is dropped and counted.

Units. With `MIN_PROMPTS` prompts or more, a prompt is one unit (the mean of its items): results generalise to prompts
like these. With fewer, or where the scenario variants are a handful by design, no test over prompts could reach a
corrected level (four prompts give p ≥ 1/16), so each item is a unit: results then hold for these prompts only, which
whoever reports them has to say. Where every prompt has one item the two are the same.

Tests. The sign-flip test takes the signs of the units' differences to be arbitrary under the null; it enumerates every
flip up to `EXACT_UNITS` units and draws at random beyond. For items of 0 and 1 it is McNemar's exact test, which needs
no enumeration and is used whenever items are the units; with prompts as units, several samples share a prompt and
are not independent, so the prompts' means are flipped instead.

Intervals resample units. Percentiles are widened for small samples by Hesterberg's rule (2015, The American
Statistician 69:371, "expanded percentile"), without which an interval of 95 % over 12 units holds its value in about
91 % of samples. For 0/1 outcomes an interval also contains Newcombe's score interval for paired rates over items (1998,
Statistics in Medicine 17:2635, method 10): no resample of 20 zeros shows that the next item could be a one.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import scipy.special
import scipy.stats

from affectome.analyses.statistics import correlations
from affectome.steering.conditions import BASELINE, SCORE, Condition

LEVEL = 0.95

# Two-sided tails of an interval.
TAILS = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)

MIN_PROMPTS = 10

# Below this, even an interval from the smallest to the largest value holds the median less often than it says.
MIN_UNITS = 6

EXACT_UNITS = 16

# Conditions, and numbers of random signs, worked on at a time, so that memory does not grow with the grid.
CHUNK = 256
BLOCK = 2**21

# What a condition is called by: family, direction, strength.
CONDITION = ["family", "direction", "strength"]


@dataclass(frozen=True)
class Items:
    """`values` (items, conditions), each item a prompt of `prompts` and a sample of `samples`, sorted by both.

    A condition is (family, direction, strength). NaN stands for a score that is missing. Arrays rather than a table
    with two-level rows and three-level columns, on which a trial would spend most of its time.
    """

    prompts: np.ndarray
    samples: np.ndarray
    conditions: list[Condition]
    values: np.ndarray

    def __getitem__(self, condition: Condition) -> np.ndarray:
        """The values (items,) of one condition."""
        return self.values[:, self.conditions.index(condition)]

    def of(self, conditions: list[Condition]) -> "Items":
        """Only these `conditions`, in this order."""
        columns = [self.conditions.index(condition) for condition in conditions]
        return replace(self, conditions=conditions, values=self.values[:, columns])

    def where(self, rows: np.ndarray) -> "Items":
        """Only the items for which `rows` (items,) is true."""
        return replace(self, prompts=self.prompts[rows], samples=self.samples[rows], values=self.values[rows])

    def changes(self) -> "Items":
        """Every other condition's values minus the baseline's, item by item."""
        others = self.of([condition for condition in self.conditions if condition != BASELINE])
        return replace(others, values=others.values - self[BASELINE][:, None])

    @property
    def unit(self) -> str:
        """What is counted as independent: "prompt" or "item", by the module's rule."""
        prompts = len(np.unique(self.prompts))
        return "prompt" if prompts >= MIN_PROMPTS or prompts == len(self.prompts) else "item"

    @property
    def rate(self) -> bool:
        """Whether every score is 0 or 1."""
        return bool(((self.values == 0) | (self.values == 1) | np.isnan(self.values)).all())

    def units(self, unit: str) -> np.ndarray:
        """Values per unit (n, conditions); NaN where a unit has none."""
        if unit == "item":
            return self.values
        with np.errstate(invalid="ignore"):
            return self._by_prompt(np.where(np.isnan(self.values), 0, self.values)) / self._by_prompt(self._present)

    def counts(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Prompts with a value, items with one and items without one, per condition."""
        present = self._present.sum(axis=0)
        return (self._by_prompt(self._present) > 0).sum(axis=0), present, len(self.values) - present

    @property
    def _present(self) -> np.ndarray:
        return (~np.isnan(self.values)).astype(np.int64)

    def _by_prompt(self, values: np.ndarray) -> np.ndarray:
        """Sums over the items of each prompt → (prompts, conditions)."""
        starts = np.unique(self.prompts, return_index=True)[1]
        return np.add.reduceat(values, starts, axis=0) if len(values) else values


def long_scores(items: pd.DataFrame) -> pd.DataFrame:
    """The scores of a trial's table as (direction, family, strength, prompt, sample, outcome, value), a row each."""
    columns = [name for name in items.columns if name.startswith(SCORE)]
    keys = ["direction", "family", "strength", "prompt", "sample"]
    rows = items.melt(id_vars=keys, value_vars=columns, var_name="outcome", value_name="value")
    rows["outcome"] = rows["outcome"].str.removeprefix(SCORE)
    return rows.dropna(subset=["value"]).reset_index(drop=True)


def items_of(scores: pd.DataFrame, outcome: str) -> Items:
    """The scores of one `outcome`, whatever the order of the rows of `scores`.

    An item without a score in any condition is left out: a trial with several outcomes need not ask all of every item.
    ValueError for an item scored twice in a condition, or an outcome without a baseline.
    """
    rows = scores[scores["outcome"] == outcome]
    items, item_names = _sorted_codes(rows, ["prompt", "sample"])
    conditions, condition_names = _sorted_codes(rows, CONDITION)
    if BASELINE not in condition_names:
        raise ValueError(f"the scores have no baseline for the outcome {outcome!r}")
    values = np.full((len(item_names), len(condition_names)), np.nan)
    if len(np.unique(items * len(condition_names) + conditions)) < len(rows):
        raise ValueError(f"the scores of {outcome!r} have an item twice in one condition")
    values[items, conditions] = rows["value"].to_numpy(dtype=np.float64)
    prompts, samples = (np.array(names) for names in zip(*item_names, strict=True))
    return Items(prompts, samples, condition_names, values).where(~np.isnan(values).all(axis=1))


def _sorted_codes(rows: pd.DataFrame, columns: list[str]) -> tuple[np.ndarray, list[Any]]:
    """A number for each row of `rows` and the sorted distinct tuples of its `columns` that the numbers stand for."""
    codes, names = np.zeros(len(rows), dtype=np.int64), []
    for column in columns:
        each, distinct = pd.factorize(rows[column], sort=True)
        codes, names = codes * len(distinct) + each, [*names, distinct.tolist()]
    known, codes = np.unique(codes, return_inverse=True)
    parts = np.unravel_index(known, [len(distinct) for distinct in names])
    columns_of_names = [[distinct[i] for i in part] for distinct, part in zip(names, parts, strict=True)]
    return codes, list(zip(*columns_of_names, strict=True))


def means(values: np.ndarray) -> np.ndarray:
    """Mean of each column of units (n, c) over those that have a value → (c,); NaN where none has."""
    present = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(present, values, 0).sum(axis=0) / present.sum(axis=0)


def resamples(n: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """How often each of `n` units is drawn in each of `count` bootstrap samples → (count, n)."""
    return rng.multinomial(n, np.full(n, 1 / n), size=count).astype(np.float64) if n else np.empty((count, 0))


def bootstrap_means(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Means of the columns of `values` (n, c) in the resamples `weights` (count, n) → (count, c)."""
    present = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return weights @ np.where(present, values, 0) / (weights @ present)


def widened(tail: float, n: int) -> float:
    """The percentile that stands in for `tail` with `n` units, so that the interval has the width of Student's."""
    if n < 2:
        return float(tail > 0.5)
    return float(scipy.special.ndtr(np.sqrt(n / (n - 1)) * scipy.special.stdtrit(n - 1, tail)))


def quantiles(draws: np.ndarray, n: np.ndarray, tails: tuple[float, ...] = TAILS) -> np.ndarray:
    """Widened quantiles of bootstrap `draws` (count, c) from `n` (c,) units → (tails, c); NaN where n is 0."""
    found = np.full((len(tails), draws.shape[1]), np.nan)
    for size in np.unique(n[n > 0]):
        columns = np.flatnonzero(n == size)
        levels = [widened(tail, size) for tail in tails]
        # A resample can miss every unit that has a value.
        quantile = np.nanquantile if np.isnan(draws[:, columns]).any() else np.quantile
        found[:, columns] = quantile(draws[:, columns], levels, axis=0)
    return found


def intervals(values: np.ndarray, weights: np.ndarray, tails: tuple[float, ...] = TAILS) -> np.ndarray:
    """Bootstrap quantiles of the mean of each column of units (n, c) → (tails, c)."""
    present = (~np.isnan(values)).sum(axis=0)
    parts = [
        quantiles(bootstrap_means(values[:, start : start + CHUNK], weights), present[start : start + CHUNK], tails)
        for start in range(0, values.shape[1], CHUNK)
    ]
    return np.hstack(parts) if parts else np.empty((len(tails), 0))


def effect_intervals(items: Items, unit: str, weights: np.ndarray) -> np.ndarray:
    """95 % intervals of each condition's effect → (2, conditions), in the order of `items.changes()`."""
    changes = items.changes()
    found = intervals(changes.units(unit), weights)
    if items.rate:
        before = items[BASELINE][:, None]
        after = items.of(changes.conditions).values
        counts = [((after == a) & (before == b)).sum(axis=0) for a, b in ((1, 1), (1, 0), (0, 1), (0, 0))]
        score = paired_rate_interval(*counts)
        found = np.array([np.fmin(found[0], score[0]), np.fmax(found[1], score[1])])
    return found


def level_interval(items: Items, unit: str, weights: np.ndarray) -> list[float]:
    """95 % interval of the mean score at the baseline; for 0/1 outcomes it contains Wilson's over items."""
    baseline = items.of([BASELINE])
    low, high = intervals(baseline.units(unit), weights)[:, 0]
    if baseline.rate:
        score = wilson(np.nansum(baseline.values), np.sum(~np.isnan(baseline.values)))
        low, high = np.fmin(low, score[0]), np.fmax(high, score[1])
    return [float(low), float(high)]


def wilson(successes: np.ndarray | float, n: np.ndarray | float) -> np.ndarray:
    """Wilson's score interval of a rate → (2, …); NaN where n is 0."""
    z = scipy.stats.norm.ppf(TAILS[1])
    with np.errstate(invalid="ignore", divide="ignore"):
        rate = np.divide(successes, n)
        centre = (rate + z**2 / (2 * n)) / (1 + z**2 / n)
        half = z / (1 + z**2 / n) * np.sqrt(rate * (1 - rate) / n + z**2 / (4 * n**2))
    return np.array([centre - half, centre + half])


def paired_rate_interval(both: np.ndarray, gained: np.ndarray, lost: np.ndarray, neither: np.ndarray) -> np.ndarray:
    """Newcombe's score interval of the change of a rate from counts of pairs: 1→1, 0→1, 1→0, 0→0 → (2, …)."""
    n = both + gained + lost + neither
    after, before = both + gained, both + lost
    (low_after, high_after), (low_before, high_before) = wilson(after, n), wilson(before, n)
    with np.errstate(invalid="ignore", divide="ignore"):
        rate_after, rate_before = after / n, before / n
        cross = both * neither - gained * lost
        # The continuity correction keeps a few pairs from claiming that the two rates rise and fall together.
        cross = np.where(cross > 0, np.maximum(cross - n / 2, 0), cross)
        scale = np.sqrt(1.0 * after * (n - after) * before * (n - before))
        phi = np.divide(cross, scale, out=np.zeros(np.shape(cross)), where=scale > 0)

        def reach(a: np.ndarray, b: np.ndarray) -> np.ndarray:
            return np.sqrt(np.maximum(a**2 - 2 * phi * a * b + b**2, 0))

        change = rate_after - rate_before
        low = change - reach(rate_after - low_after, high_before - rate_before)
        high = change + reach(high_after - rate_after, rate_before - low_before)
    return np.array([low, high])


def sign_flip(values: np.ndarray, permutations: int, rng: np.random.Generator, two_sided: bool = False) -> np.ndarray:
    """One p (c,) of a mean above 0 (or, `two_sided`, other than 0) in each column of units (n, c), by flipping signs.

    Exact up to `EXACT_UNITS` units, else (1 + exceedances) / (1 + permutations). Without any value p is 1.
    """
    filled = np.where(np.isnan(values), 0, values)
    fold: Callable[[np.ndarray], np.ndarray] = np.abs if two_sided else np.asarray
    # A flip that gives the observed sum again must count as a tie despite rounding.
    observed = fold(filled.sum(axis=0)) - 1e-12 * np.abs(filled).sum(axis=0)
    exceed = np.zeros(filled.shape[1], dtype=np.int64)
    for signs in _flips(len(filled), permutations, rng):
        for start in range(0, filled.shape[1], CHUNK):
            part = slice(start, start + CHUNK)
            exceed[part] += (fold(signs @ filled[:, part]) >= observed[part]).sum(axis=0)
    if len(filled) <= EXACT_UNITS:
        return exceed / 2 ** len(filled)
    return (1 + exceed) / (1 + permutations)


def _flips(n: int, permutations: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Signs of `n` units in blocks (rows, n): all there are, or `permutations` random rows."""
    if n <= EXACT_UNITS:
        yield all_signs(n)
        return
    rows = max(1, BLOCK // max(n, CHUNK))
    for start in range(0, permutations, rows):
        yield 2.0 * rng.integers(0, 2, size=(min(rows, permutations - start), n)) - 1


def all_signs(n: int) -> np.ndarray:
    """Every assignment of signs to `n` units → (2^n, n)."""
    return 1.0 - 2.0 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)


def mcnemar(gained: np.ndarray, lost: np.ndarray, two_sided: bool = False) -> np.ndarray:
    """McNemar's exact p that a rate rose (or, `two_sided`, changed) from counts of pairs 0→1 and 1→0."""
    if two_sided:
        return np.minimum(2 * scipy.stats.binom.sf(np.maximum(gained, lost) - 1, gained + lost, 0.5), 1)
    return scipy.stats.binom.sf(np.asarray(gained) - 1, np.add(gained, lost), 0.5)


def paired_test(
    changes: Items, unit: str, rate: bool, permutations: int, rng: np.random.Generator, two_sided: bool = False
) -> np.ndarray:
    """One p (c,) per condition of `changes`: McNemar's exact test or the sign-flip, as the module says.

    `rate` says whether the scores behind the changes are 0 or 1.
    """
    if unit == "item" and rate:
        gained, lost = (changes.values > 0).sum(axis=0), (changes.values < 0).sum(axis=0)
        return mcnemar(gained, lost, two_sided)
    return sign_flip(changes.units(unit), permutations, rng, two_sided)


def prediction_test(effect: float, null: np.ndarray) -> float:
    """How probable (p) one more direction like the null ones has at least this `effect`, given theirs `null` (k,).

    Student's prediction interval for one new observation, one-sided, k − 1 degrees of freedom: takes the effects of
    directions to be normal. NaN with fewer than two null directions or where their effects do not vary.
    """
    if len(null) < 2 or np.ptp(null) <= 1e-12 * np.abs(null).max():
        return float("nan")
    t = (effect - null.mean()) / (null.std(ddof=1) * np.sqrt(1 + 1 / len(null)))
    return float(scipy.stats.t.sf(t, len(null) - 1))


def beyond_directions(effects: np.ndarray, values: np.ndarray, permutations: int, rng: np.random.Generator) -> float:
    """One-sided p of the first of several directions against the others, the null ones: `prediction_test`.

    `effects` (1 + k,) are on the scale on which directions are taken to be normal, `values` (n, 1 + k) the changes per
    unit. Where the null directions' effects do not vary at all, as when none of them ever changes a rate, chance is
    left to prompts alone, and the sign-flip test of the first minus the mean of the others decides. NaN with fewer
    than two null directions.
    """
    if len(effects) < 3:
        return float("nan")
    found = prediction_test(float(effects[0]), effects[1:])
    if np.isnan(found):
        return float(sign_flip((values[:, 0] - means(values[:, 1:].T))[:, None], permutations, rng)[0])
    return found


def log_odds(values: np.ndarray) -> np.ndarray:
    """Log-odds (nats) of the rate in each column of 0/1 values (n, c) → (c,), half an item added to either answer."""
    ones = np.nansum(values, axis=0)
    zeros = (~np.isnan(values)).sum(axis=0) - ones
    return np.log((ones + 0.5) / (zeros + 0.5))


def holm(p: np.ndarray) -> np.ndarray:
    """Holm's adjusted p values (1979, Scandinavian Journal of Statistics 6:65) of `p` (m,)."""
    order = np.argsort(p, kind="stable")
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * (len(p) - np.arange(len(p)))), 1)
    return adjusted


def benjamini_hochberg(p: np.ndarray) -> np.ndarray:
    """Benjamini and Hochberg's adjusted p values of `p` (m,); NaN stays NaN and does not count."""
    adjusted = np.full(len(p), np.nan)
    known = ~np.isnan(p)
    if known.any():
        adjusted[known] = scipy.stats.false_discovery_control(p[known], method="bh")
    return adjusted


def share_wrong(items: np.ndarray, sign: np.ndarray | int) -> np.ndarray:
    """Share of item differences (n, c) that move against `sign` (Tan et al., arXiv 2407.12404) → (c,); ties do not."""
    with np.errstate(invalid="ignore"):
        return (items * sign < 0).sum(axis=0) / (~np.isnan(items)).sum(axis=0)


def dose_response(values: np.ndarray, strengths: np.ndarray, weights: np.ndarray) -> dict[str, Any]:
    """Slope (per unit of strength) and Spearman correlation of the mean effect with `strengths`, 95 % intervals.

    `values` is (n units, strengths) and `weights` the resamples (count, n). The curve of means is resampled by unit, so
    the intervals are about prompts, not about strengths that were not tried. None with fewer than three strengths.
    """
    empty = {"slope": None, "slope_ci": None, "spearman": None, "spearman_ci": None}
    curve = means(values)
    if len(strengths) < 3 or np.isnan(curve).any():
        return empty | {"strengths": [float(strength) for strength in strengths]}
    draws = bootstrap_means(values, weights)
    draws = draws[~np.isnan(draws).any(axis=1)]
    centred = strengths - strengths.mean()
    per_unit = centred / (centred @ centred)
    ranks = scipy.stats.rankdata(strengths)[:, None]
    curves = scipy.stats.rankdata(np.vstack([curve, draws]), axis=1)
    spearman, *drawn = correlations(curves.T, ranks)[:, 0]
    # A flat curve has no rank order.
    drawn = np.array([value for value in drawn if not np.isnan(value)])
    n = np.array([(~np.isnan(values).all(axis=1)).sum()])
    return {
        "slope": float(curve @ per_unit),
        "slope_ci": [float(limit) for limit in quantiles((draws @ per_unit)[:, None], n)[:, 0]],
        "spearman": None if np.isnan(spearman) else float(spearman),
        "spearman_ci": [float(limit) for limit in quantiles(drawn[:, None], n)[:, 0]] if len(drawn) else None,
        "strengths": [float(strength) for strength in strengths],
    }
