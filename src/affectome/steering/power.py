"""How many items a trial needs, and how small an effect it can see, before and after it is run.

All tests are one-sided, at a level that the caller has already divided by the number of vectors (Holm's strictest).
Counts are those of the half that is reported: a trial that also chooses its strength needs twice as many.

Rates: power of McNemar's exact test, enumerated over the number of pairs that change. How often a pair changes is
unknown beforehand. Here an item's two answers are taken to be independent given the two rates: the same prompt
and seed can only make them more alike, which means fewer changing pairs and more power, so that the number is
conservative.

Means: noncentral t for the paired differences of prompts, never fewer units than the sign-flip test needs to reach the
level at all (p cannot fall below 2^-n).

Neither counts the spread between directions: a vector must also exceed the null directions, however many items it has.
"""

from collections.abc import Callable

import numpy as np
import scipy.optimize
import scipy.special
import scipy.stats

POWER = 0.8

# More items than anyone generates; returned in place of any larger number.
MOST = 100_000


def power_for_rate(n: int, base: float, rate: float, alpha: float) -> float:
    """Power of McNemar's exact one-sided test to see a rate go from `base` to `rate` in `n` independent pairs."""
    towards, away = sorted((base * (1 - rate), rate * (1 - base)), reverse=True)
    changing = np.arange(n + 1)
    # The smallest count of pairs in the predicted direction that is significant among the changing ones.
    needed = scipy.stats.binom.isf(alpha, changing, 0.5) + 1
    likely = scipy.stats.binom.pmf(changing, n, towards + away)
    share = towards / (towards + away) if towards else 0.0
    return float(likely @ scipy.stats.binom.sf(needed - 1, changing, share))


def power_for_mean(n: int, sd: float, effect: float, alpha: float) -> float:
    """Power of the one-sided paired t test over `n` units whose differences have mean `effect` and SD `sd`."""
    if n < fewest_units(alpha):
        return 0.0
    if sd == 0:
        return float(effect > 0)
    return float(scipy.stats.nct.sf(scipy.stats.t.isf(alpha, n - 1), n - 1, effect / sd * np.sqrt(n)))


def fewest_units(alpha: float) -> int:
    """The fewest units with which a one-sided sign-flip test can be significant at `alpha`: 2^-n < alpha."""
    return max(2, int(np.floor(-np.log2(alpha))) + 1)


def needed_for_rate(base: float, rate: float, alpha: float, power: float = POWER) -> int:
    """The number of pairs with which the test sees a change from `base` to `rate` with `power`.

    ValueError where the rates are equal or not rates.
    """
    if not (0 <= base <= 1 and 0 <= rate <= 1) or base == rate:
        raise ValueError(f"a change between two different rates within 0 and 1 is needed, not {base} to {rate}")
    return _smallest(lambda n: power_for_rate(n, base, rate, alpha) >= power, 1)


def needed_for_mean(sd: float, effect: float, alpha: float, power: float = POWER) -> int:
    """The number of units with which a mean difference of `effect` with SD `sd` is seen with `power`.

    ValueError for an effect that is not above 0 or an SD below 0.
    """
    if effect <= 0 or sd < 0:
        raise ValueError(f"an effect above 0 and an SD of at least 0 are needed, not {effect} and {sd}")
    return _smallest(lambda n: power_for_mean(n, sd, effect, alpha) >= power, fewest_units(alpha))


def detectable_rate(n: int, base: float, sign: int, alpha: float, power: float = POWER) -> float:
    """The smallest change of a rate from `base` towards 1 (`sign` 1) or 0 (−1) that `n` pairs show with `power`.

    Infinite where even the whole way to the bound would not be seen.
    """
    room = 1 - base if sign > 0 else base

    def missing(change: float) -> float:
        return power_for_rate(n, base, float(np.clip(base + sign * change, 0, 1)), alpha) - power

    if n < 1 or room <= 0 or missing(room) < 0:
        return float("inf")
    return float(scipy.optimize.brentq(missing, 0, room, xtol=1e-6))


def detectable_mean(n: int, sd: float, alpha: float, power: float = POWER) -> float:
    """The smallest mean difference that `n` units with SD `sd` show with `power`; infinite with too few units."""
    if n < fewest_units(alpha):
        return float("inf")
    critical = scipy.stats.t.isf(alpha, n - 1)
    return sd * float(scipy.special.nctdtrinc(n - 1, 1 - power, critical) / np.sqrt(n))


def _smallest(enough: Callable[[int], bool], low: int) -> int:
    """The smallest n ≥ `low` that is enough, by doubling and halving; `MOST` where none below is.

    Power grows with n without dips: McNemar's test averages over how many pairs change, which smooths its steps.
    """
    high = low
    while not enough(high):
        if high >= MOST:
            return MOST
        low, high = high + 1, min(2 * high, MOST)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle + 1, high)
    return low
