"""Which activities a model prefers: Bradley-Terry strengths of its unsteered choices, and what its probes say of them.

Model. The log-odds that the first of two options is chosen are `theta[first] − theta[second] + bias`, with one `bias`
for being first. It is fitted by maximum likelihood to the *probabilities* of the choices in both orders, so that a
choice made by a hair counts as one. A ridge of `RIDGE`, without effect wherever the choices determine theta and bias,
keeps them finite where an activity, or the first place, wins with certainty. Theta has mean 0; Elo is 1500 + 400/ln 10
× theta, the scale of Sofroniew et al. (2026), and depends on no order of games as sequential Elo does.

Intervals. A model's log-odds have no noise of their own: what is uncertain is how far an activity's strength depends on
whom it met, since no single scale fits all choices. Theta's intervals therefore resample unordered pairs, both orders
together, by Rubin's Bayesian bootstrap (1981, The Annals of Statistics 9:130): its weights are never 0, so no resample
falls apart into activities that never met. Deviations are stretched by 1/√(1 − (m − 1)/pairs), for the share of the
pairs' freedom that m strengths use up, and percentiles widened for the number of an activity's opponents
(`affectome.steering.statistics`). The bias may differ from activity to activity, which pairs that share one have in
common, so its interval gives weights to activities, and to a pair the product of its two (the pigeonhole bootstrap:
Owen 2007, The Annals of Applied Statistics 1:386). In simulations of 5 to 20 activities whose pairs depart from
the scale by .7 nats, and choices by .3 more, 95 % intervals of theta hold the true value in 93 to 95 %, those of the
bias in 98 %; where moreover activities have biases of their own of .5 nats, in 92 to 95 % and, of 8 and 20 activities,
in 87 and 91 %.

Probes. Pearson correlation over activities between an emotion's projection and Elo; interval by bootstrap over
activities, p by permutation, two-sided. Activities of a category are alike, so p says less than it seems about others.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import scipy.special
import scipy.stats

from affectome.analyses.statistics import (
    LEVEL,
    bootstrap_correlations,
    correlations,
    interval,
    p_value,
    permuted,
)
from affectome.errors import UserError
from affectome.randomness import generator
from affectome.steering.sets import name_of
from affectome.steering.statistics import quantiles

CHOICE = "score:choice"
PREFERENCE = "preference"

RIDGE = 1e-6

# Points of Elo for a log-odds of 1 nat, and the mean.
ELO = 400 / math.log(10)
MEAN_ELO = 1500

# Two points always lie on a line.
MIN_POINTS = 3


def preferences(
    items: pd.DataFrame,
    notes: dict[str, Any],
    activities: Sequence[tuple[str, str]],
    bootstrap: int,
    permutations: int,
    seed: int,
) -> dict[str, Any]:
    """The content of preferences.json from the table and the notes of a preference trial; `activities` of its set.

    Theta, `log_odds` and their intervals are in nats. `order_decides` is the share of pairs of which the option in the
    same place is chosen in both orders; `r` correlates fitted with observed log-odds. Intervals are None
    where there are no more pairs than theta needs. Raises UserError where the table is about other activities.
    """
    names = [name for name, _ in activities]
    choices = choices_of(items, names)
    met = ~np.isnan(choices)
    theta, bias = bradley_terry(choices)
    theta_ci, bias_ci = _intervals(choices, (theta, bias), bootstrap, seed)
    elo = MEAN_ELO + ELO * theta
    fitted = theta[:, None] - theta + bias
    both = met & met.T & np.triu(np.ones_like(met), 1)
    first = scipy.special.expit(choices)
    return {
        "n": {"activities": len(names), "pairs": int((met | met.T).sum() // 2), "choices": int(met.sum())},
        "activities": {
            name: {
                "category": category,
                "theta": float(theta[i]),
                "theta_ci": theta_ci and theta_ci[i],
                "elo": float(elo[i]),
                "elo_ci": theta_ci and [MEAN_ELO + ELO * limit for limit in theta_ci[i]],
            }
            for i, (name, category) in enumerate(activities)
        },
        "bradley_terry": {
            "position_bias": {"log_odds": bias, "ci": bias_ci},
            "first_chosen": float(first[met].mean()),
            "order_decides": float((choices * choices.T > 0)[both].mean()) if both.any() else None,
            "r": _finite(correlations(fitted[met][:, None], choices[met][:, None])[0, 0]),
            "ridge": RIDGE,
        },
        "probes": probe_correlations(_projections(notes["probes"], names), elo, bootstrap, permutations, seed),
    }


def choices_of(items: pd.DataFrame, names: Sequence[str]) -> np.ndarray:
    """Log-odds (first, second) of choosing the first of two activities, NaN where the two did not meet that way.

    UserError where the table names activities that are not in `names`, lacks one, or has a choice twice.
    """
    number = {name_of(name): i for i, name in enumerate(names)}
    if CHOICE not in items:
        raise UserError(f"the table has no column {CHOICE!r}, so it is not that of a preference trial")
    rows = items[items[CHOICE].notna()]
    first = rows["prompt"].map(number)
    second = rows["sample"].to_numpy(dtype=np.int64)
    if first.isna().any() or (second >= len(names)).any() or (second == first.to_numpy()).any():
        raise UserError("the table of choices is about other activities than the trial set; run the trial again")
    choices = np.full((len(names), len(names)), np.nan)
    index = first.to_numpy(dtype=np.int64)
    if len(set(zip(index.tolist(), second.tolist(), strict=True))) < len(rows):
        raise UserError("the table of choices holds a pair of activities twice in one order; run the trial again")
    choices[index, second] = rows[CHOICE].to_numpy(dtype=np.float64)
    met = ~np.isnan(choices)
    alone = [name for name, any_ in zip(names, (met | met.T).any(axis=1), strict=True) if not any_]
    if alone:
        raise UserError(
            f"the activity {alone[0]!r} ({len(alone)} in all) has no choice in the table; run the trial again"
        )
    return choices


def bradley_terry(
    choices: np.ndarray, weights: np.ndarray | None = None, start: tuple[np.ndarray, float] | None = None
) -> tuple[np.ndarray, float]:
    """Theta (m,) of mean 0 and the bias of the first option, in nats, from log-odds `choices` (first, second).

    Maximum likelihood with a ridge, by Newton's method from `start`; infinite log-odds are choices made with certainty
    and NaN none. `weights` (m, m) count the choices.
    """
    m = len(choices)
    met = ~np.isnan(choices)
    weight = met * (1.0 if weights is None else weights)
    chosen = np.where(met, scipy.special.expit(choices), 0.5)
    theta, bias = (np.zeros(m), 0.0) if start is None else start

    def loss(theta: np.ndarray, bias: float) -> float:
        odds = theta[:, None] - theta + bias
        return float((weight * (np.logaddexp(0, odds) - chosen * odds)).sum() + RIDGE / 2 * (theta @ theta + bias**2))

    now = loss(theta, bias)
    for _ in range(200):
        expected = scipy.special.expit(theta[:, None] - theta + bias)
        missing = weight * (expected - chosen)
        gradient = np.append(missing.sum(axis=1) - missing.sum(axis=0) + RIDGE * theta, missing.sum() + RIDGE * bias)
        curvature = weight * expected * (1 - expected)
        hessian = np.empty((m + 1, m + 1))
        hessian[:m, :m] = np.diag(curvature.sum(axis=0) + curvature.sum(axis=1) + RIDGE) - curvature - curvature.T
        hessian[m, :m] = hessian[:m, m] = curvature.sum(axis=1) - curvature.sum(axis=0)
        hessian[m, m] = curvature.sum() + RIDGE
        step = np.linalg.solve(hessian, gradient)
        size = 1.0
        while (then := loss(theta - size * step[:m], bias - size * step[m])) > now and size > 1e-8:
            size /= 2
        theta, bias, now = theta - size * step[:m], bias - size * float(step[m]), min(then, now)
        if np.abs(size * step).max() < 1e-9:
            break
    return theta - theta.mean(), float(bias)


def probe_correlations(
    projections: dict[str, np.ndarray], elo: np.ndarray, bootstrap: int, permutations: int, seed: int
) -> dict[str, Any]:
    """How each emotion's `projections` (m,) go with `elo` (m,): `r`, `ci`, `p` and `n`, the number of activities.

    With fewer than `MIN_POINTS` activities, or projections that are all equal, r, ci and p are None.
    """
    found: dict[str, Any] = {}
    for emotion, values in projections.items():
        r = _finite(correlations(values[:, None], elo[:, None])[0, 0]) if len(elo) >= MIN_POINTS else None
        found[emotion] = {"r": r, "ci": None, "p": None, "n": len(elo)}
        if r is not None:
            rng = generator(seed, "probes", emotion)
            null = np.abs(correlations(values[:, None], permuted(elo, permutations, rng))[0])
            draws = bootstrap_correlations(values[:, None], elo, bootstrap, rng)
            found[emotion] |= {"ci": interval(draws), "p": p_value(abs(r), null)}
    return found


def effects_against_probes(verdict: dict[str, Any], effects: pd.DataFrame, probes: dict[str, Any]) -> dict[str, Any]:
    """How steering effects go with what the probes say, over emotions: `r`, `ci`, `p`, `n` and `points` by emotion.

    An emotion's effect is the verdict's: at the strength it chose, on the half of the prompts that took no part in
    choosing (on all prompts, choosing the largest effect in the predicted direction would make predictions and effects
    agree by itself). Where it chose none, it is the effect at the smallest positive strength in `effects`, on all
    prompts; `chosen` tells which. Pearson r with Fisher's interval and Student's p, which take both to be normal: with
    six emotions, |r| below .81 is within chance. All None with fewer than `MIN_POINTS` emotions or where nothing
    varies.
    """
    points = {}
    for emotion, probe in probes.items():
        effect, strength, chosen = _effect_of(emotion, verdict["vectors"].get(emotion), effects)
        if probe["r"] is not None and effect is not None:
            points[emotion] = {"probe": probe["r"], "effect": effect, "strength": strength, "chosen": chosen}
    x, y = (np.array([point[key] for point in points.values()]) for key in ("probe", "effect"))
    found: dict[str, Any] = {"r": None, "ci": None, "p": None, "n": len(points), "points": points}
    if len(points) >= MIN_POINTS and np.ptp(x) > 0 and np.ptp(y) > 0:
        pearson = scipy.stats.pearsonr(x, y)
        # Fisher's interval needs a fourth point.
        ci = [float(limit) for limit in pearson.confidence_interval(LEVEL)] if len(points) > MIN_POINTS else None
        found |= {"r": float(pearson.statistic), "ci": ci, "p": float(pearson.pvalue)}
    return found


def _effect_of(
    emotion: str, entry: dict[str, Any] | None, effects: pd.DataFrame
) -> tuple[float | None, float | None, bool]:
    """Mean effect of steering with `emotion`, its strength, and whether the verdict chose it."""
    if entry is not None and entry["effect"] is not None:
        return entry["effect"]["mean"], entry["strength"], True
    rows = effects[(effects["family"] == "emotion") & (effects["direction"] == emotion) & (effects["strength"] > 0)]
    rows = rows[(rows["outcome"] == PREFERENCE) & rows["effect"].notna()]
    if rows.empty:
        return None, None, False
    least = rows.loc[rows["strength"].idxmin()]
    return float(least["effect"]), float(least["strength"]), False


def _intervals(
    choices: np.ndarray, found: tuple[np.ndarray, float], count: int, seed: int
) -> tuple[list[list[float]] | None, list[float] | None]:
    """95 % intervals of every theta and of the bias, `found` in `choices`; None where no pair is left to check them."""
    m = len(choices)
    met = ~np.isnan(choices) | ~np.isnan(choices.T)
    used = (m - 1) / (met.sum() / 2)
    if used >= 1:
        return None, None
    rng = generator(seed, "bootstrap", "choices")
    thetas, biases = np.empty((count, m)), np.empty((count, 1))
    upper = np.triu_indices(m, 1)
    for draw in range(count):
        weights = np.zeros((m, m))
        weights[upper] = rng.exponential(size=len(upper[0]))
        thetas[draw] = bradley_terry(choices, weights + weights.T, found)[0]
        of_activity = rng.exponential(size=m)
        biases[draw] = bradley_terry(choices, np.outer(of_activity, of_activity), found)[1]
    theta = found[0]
    stretched = theta + (thetas - theta) / np.sqrt(1 - used)
    return quantiles(stretched, met.sum(axis=1)).T.tolist(), quantiles(biases, np.array([m]))[:, 0].tolist()


def _projections(probes: dict[str, Any], names: Sequence[str]) -> dict[str, np.ndarray]:
    """Projections (m,) by emotion; of several layers the mean, each scaled to variance 1 over the activities."""
    by_emotion: dict[str, list[np.ndarray]] = {}
    for of_layer in probes.values():
        for emotion, values in of_layer.items():
            found = np.array([values[name] for name in names], dtype=np.float64)
            by_emotion.setdefault(emotion, []).append(found / (found.std() or 1.0))
    return {emotion: np.mean(found, axis=0) for emotion, found in by_emotion.items()}


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
