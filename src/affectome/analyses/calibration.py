"""Whether predicted probabilities mean what they say: of cases given probability 0.3, three in ten should happen."""

from typing import Any

import numpy as np

from affectome.analyses.statistics import interval, p_value

# Bins of equal width, as in Guo et al. (2017), "On Calibration of Modern Neural Networks", arXiv 1706.04599.
BINS = 10
_DRAWS = 200
_NORMAL = 1.959963984540054


def reliability(probability: np.ndarray, outcome: np.ndarray, rng: np.random.Generator) -> dict[str, Any]:
    """How `probability` (cases,) agrees with `outcome` (cases,), which are true or false.

    Gives `n`; `brier`, the mean squared difference, and `brier_of_base_rate`, that of giving every case the share of
    outcomes that are true; `ece`, the expected calibration error: the mean over cases of the difference between mean
    probability and frequency in their bin; `ece_if_calibrated`, the interval in which it would lie for these very
    probabilities if they were right, since it is never 0 (outcomes drawn from them: Bröcker & Smith 2007, Weather and
    Forecasting 22, 651-661), with `p` for a larger one; and `bins` that hold a case: `low, high, n, predicted,
    observed` and `ci` (Wilson's interval, in which cases count as independent).
    """
    probability = probability.astype(np.float64)
    number = np.minimum((probability * BINS).astype(int), BINS - 1)
    counts = np.bincount(number, minlength=BINS)
    sums = np.bincount(number, probability, BINS)

    def error(happened: np.ndarray) -> float:
        return float(np.abs(sums - np.bincount(number, happened, BINS)).sum() / len(happened))

    found = error(outcome)
    null = np.array([error(rng.random(len(probability)) < probability) for _ in range(_DRAWS)])
    hits = np.bincount(number, outcome, BINS)
    rate = outcome.mean()
    return {
        "n": len(probability),
        "brier": float(np.mean((probability - outcome) ** 2)),
        "brier_of_base_rate": float(rate * (1 - rate)),
        "base_rate": float(rate),
        "ece": found,
        "ece_if_calibrated": interval(null),
        "p": p_value(found, null),
        "bins": [
            {
                "low": index / BINS,
                "high": (index + 1) / BINS,
                "n": int(counts[index]),
                "predicted": sums[index] / counts[index],
                "observed": hits[index] / counts[index],
                "ci": wilson(hits[index], counts[index]),
            }
            for index in np.flatnonzero(counts)
        ],
    }


def wilson(hits: float, n: int) -> list[float]:
    """Wilson's 95 % interval of a share of `hits` among `n` (1927, J. Am. Stat. Assoc. 22, 209-212)."""
    share, square = hits / n, _NORMAL**2 / n
    middle = (share + square / 2) / (1 + square)
    half = _NORMAL * np.sqrt(share * (1 - share) / n + square / (4 * n)) / (1 + square)
    return [float(max(0.0, middle - half)), float(min(1.0, middle + half))]
