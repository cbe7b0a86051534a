"""Does a vector do what it is said to do? One pre-declared endpoint per vector, one of three answers, and why.

1. Prompts are split into two halves by chance (`halves`); a trial with a single prompt splits its samples.
2. On the first half each direction chooses the strength with the largest effect in the predicted direction, among the
   positive strengths inside the vector's safe range. Every control chooses among the same strengths by the same rule,
   so that selection favours nobody. The opposite of a vector is that vector at minus its own choice.
3. On the second half, the effect is reported with its interval and two p values, of which the larger counts
   (intersection-union), by Holm over the vectors of the trial:
   - `p_prompts`, against no effect at all (`paired_test`);
   - `p_directions`, against what any direction of that length does (`beyond_directions`, over the random and the
     shuffled-label directions). It is the larger of two: every direction at its own choice, and every direction at the
     vector's choice, and rates are compared as log-odds, since near 0 or 1 directions' rates are far from normal (at
     a base of .05 their differences reject in 4 % of trials at a level of .6 %, their log-odds in .8 %).
     Either of the two alone is too small for a vector that is nothing but one more random direction.
     Where directions help or harm at every strength alike, those that harm retreat to the smallest strength and huddle
     near 0, and with effects in proportion to strength the first alone rejects in 11 % of trials at a level of 5 %
     and in up to 7 % at .6 %; where effects at different strengths are unrelated, the second compares the best of
     many with one of many and rejects in 18 %. The larger of the two rejects in 4 to 6 %, and with the other demands
     1 to 3 % are supported (simulated: 5 to 20 null directions, 4 to 6 strengths).
4. `supported`: adjusted p below alpha, effect at least the smallest of interest, and beyond every control, the opposite
   and the topic among them (95 % one-sided bound of the paired difference above 0). `not supported`: the effect's
   interval lies below the smallest effect of interest. `inconclusive`: neither, or the trial could not tell, for a
   reason that is named: cost not measured, no safe strength, no room to the bound of a rate, too few units or null
   directions. An effect that is there but no larger than that of random directions is inconclusive: something acts,
   and nothing shows that it is this direction.

Units of analysis are those of `affectome.steering.statistics`; `n.unit` names them.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from affectome.randomness import generator
from affectome.steering.conditions import BASELINE, CONTROL_FAMILIES, NULL_FAMILIES, Condition
from affectome.steering.power import detectable_mean, detectable_rate
from affectome.steering.statistics import (
    CONDITION,
    LEVEL,
    MIN_UNITS,
    Items,
    benjamini_hochberg,
    beyond_directions,
    dose_response,
    effect_intervals,
    holm,
    intervals,
    items_of,
    level_interval,
    log_odds,
    means,
    paired_test,
    resamples,
    share_wrong,
)

# Fewer say too little about how much directions differ.
MIN_NULL = 5

SUPPORTED, NOT_SUPPORTED, INCONCLUSIVE = VERDICTS = ("supported", "not supported", "inconclusive")


@dataclass(frozen=True)
class Endpoint:
    """What `vector` is declared to do before the trial: move `outcome` up (`sign` 1) or down (−1) by at least
    `smallest_effect`, in the outcome's unit. `bounds` are those of a rate, (0, 1), else None.
    """

    vector: str
    outcome: str
    sign: int
    smallest_effect: float
    bounds: tuple[float, float] | None = None


@dataclass(frozen=True)
class Halves:
    """Which prompts, or samples (`level` is "prompt" or "sample"), strengths are chosen on, and which are reported."""

    level: str
    chosen: frozenset[Any]
    reported: frozenset[Any]

    def first(self, items: Items) -> Items:
        """The items that strengths are chosen on."""
        return items.where(np.isin(getattr(items, f"{self.level}s"), list(self.chosen)))

    def second(self, items: Items) -> Items:
        """The items that are reported."""
        return items.where(np.isin(getattr(items, f"{self.level}s"), list(self.reported)))


def halves(outcomes: list[Items], seed: int) -> Halves:
    """Split the prompts of all `outcomes`, or the samples where there is one prompt; the odd one is reported."""
    level = "prompt" if len({prompt for items in outcomes for prompt in items.prompts.tolist()}) > 1 else "sample"
    names = sorted({name for items in outcomes for name in getattr(items, f"{level}s").tolist()})
    order = generator(seed, "halves").permutation(len(names))
    half = len(names) // 2
    return Halves(level, frozenset(names[i] for i in order[:half]), frozenset(names[i] for i in order[half:]))


def effects_table(
    scores: pd.DataFrame, endpoints: list[Endpoint], bootstrap: int, permutations: int, seed: int
) -> pd.DataFrame:
    """The exploratory grid: a row per direction, strength and outcome, over all prompts.

    Columns: direction, family, strength, outcome, own (the outcome is that vector's endpoint), n_prompts, n_items
    (pairs), n_dropped (pairs without a score), baseline and effect (means over units), low and high (95 % interval of
    the effect), p (two-sided), p_bh (Benjamini-Hochberg over all rows of family emotion, NaN in others) and share_wrong
    (share of pairs moving against the prediction; NaN unless own).
    """
    signs = {(endpoint.vector, endpoint.outcome): endpoint.sign for endpoint in endpoints}
    parts = []
    # What was measured without steering alone has no effects.
    for outcome in sorted(scores.loc[scores["family"] != BASELINE.family, "outcome"].unique()):
        items = items_of(scores, outcome)
        unit, changes = items.unit, items.changes()
        weights = _weights(items, unit, bootstrap, seed, "grid")
        low, high = effect_intervals(items, unit, weights)
        rng = generator(seed, "grid", outcome)
        rows = pd.DataFrame(changes.conditions, columns=CONDITION)
        sign = np.array([signs.get((direction, outcome), np.nan) for direction in rows["direction"]])
        sign = np.where(rows["family"] == "emotion", sign * np.sign(rows["strength"]), np.nan)
        n_prompts, n_items, n_dropped = changes.counts()
        parts.append(
            rows.assign(
                outcome=outcome,
                own=~np.isnan(sign),
                n_prompts=n_prompts,
                n_items=n_items,
                n_dropped=n_dropped,
                baseline=means(items.of([BASELINE]).units(unit))[0],
                effect=means(changes.units(unit)),
                low=low,
                high=high,
                p=paired_test(changes, unit, items.rate, permutations, rng, two_sided=True),
                share_wrong=np.where(np.isnan(sign), np.nan, share_wrong(changes.values, sign)),
            )
        )
    table = pd.concat(parts, ignore_index=True)
    table.loc[table["n_items"] == 0, "p"] = np.nan
    table["p_bh"] = benjamini_hochberg(table["p"].where(table["family"] == "emotion").to_numpy())
    columns = ["direction", "family", "strength", "outcome", "own", "n_prompts", "n_items", "n_dropped"]
    return table[[*columns, "baseline", "effect", "low", "high", "p", "p_bh", "share_wrong"]]


def verdicts(
    scores: pd.DataFrame,
    endpoints: list[Endpoint],
    safe: dict[str, tuple[float, float]] | None,
    alpha: float,
    bootstrap: int,
    permutations: int,
    seed: int,
) -> dict[str, Any]:
    """`vectors`, `counts` and `n` of verdict.json for one endpoint per vector.

    `safe` gives each vector's safe range (low, high); a vector that is missing, or None for all, had no cost measured.
    Effects and controls' effects are in the outcome's unit and direction; a control's `difference` is how much further
    than the control the vector goes in the predicted direction. ValueError for a vector with two endpoints, or whose
    scores are missing.
    """
    if len({endpoint.vector for endpoint in endpoints}) < len(endpoints):
        raise ValueError("each vector has one endpoint")
    outcomes = {outcome: items_of(scores, outcome) for outcome in sorted({each.outcome for each in endpoints})}
    split = halves(list(outcomes.values()), seed)
    trials = [
        _Trial(
            endpoint,
            outcomes[endpoint.outcome],
            split,
            safe.get(endpoint.vector) if safe else None,
            alpha / len(endpoints),
            bootstrap,
            permutations,
            seed,
        )
        for endpoint in endpoints
    ]
    # A vector without a p value was declared all the same, so it counts in the family.
    adjusted = holm(np.array([trial.p for trial in trials]))
    vectors = {
        trial.endpoint.vector: trial.entry(float(p), alpha, len(trials))
        for trial, p in zip(trials, adjusted, strict=True)
    }
    given = [entry["verdict"] for entry in vectors.values()]
    items = outcomes[endpoints[0].outcome]
    return {
        "vectors": vectors,
        "counts": {verdict: given.count(verdict) for verdict in VERDICTS},
        "n": {
            "prompts": len(set().union(*(each.prompts.tolist() for each in outcomes.values()))),
            "items_per_condition": len(items.prompts),
            "split": split.level,
            "chosen_on": len(split.chosen),
            "reported_on": len(split.reported),
            "unit": split.second(items).unit,
        },
    }


class _Trial:
    """One vector's endpoint: everything that is measured before the trial's p values are known."""

    def __init__(
        self,
        endpoint: Endpoint,
        items: Items,
        split: Halves,
        safe: tuple[float, float] | None,
        level: float,
        bootstrap: int,
        permutations: int,
        seed: int,
    ) -> None:
        self.endpoint, self.safe, self.permutations, self.seed = endpoint, safe, permutations, seed
        self.own = [key[2] for key in items.conditions if key[:2] == ("emotion", endpoint.vector)]
        if not self.own:
            raise ValueError(f"the scores of {endpoint.outcome!r} have no steering with {endpoint.vector!r}")
        self.second = split.second(items)
        self.unit = self.second.unit
        self.weights = _weights(self.second, self.unit, bootstrap, seed, "reported")
        self.changes = self.second.changes()
        self.units = dict(zip(self.changes.conditions, self.changes.units(self.unit).T, strict=True))
        self.rate = items.rate
        self.baseline = float(means(self.second.of([BASELINE]).units(self.unit))[0])
        self.result: dict[str, Any] = {
            "outcome": endpoint.outcome,
            "sign": endpoint.sign,
            "strength": None,
            "safe": None if safe is None else [float(limit) for limit in safe],
            "baseline": {"mean": self.baseline, "ci": level_interval(self.second, self.unit, self.weights)},
            "effect": None,
            "controls": {},
            "asking": self._asking(),
            "dose": self._dose(items, bootstrap),
            "detectable": None,
        }
        self.p = 1.0
        positive = [strength for strength in self.own if strength > 0]
        self.candidates = [strength for strength in positive if safe is None or strength <= safe[1]]
        self.unsafe = [strength for strength in positive if strength not in self.candidates]
        self.directions = 0
        self._measure(split.first(items).changes().units(self.unit), level)

    def _key(self, strength: float) -> Condition:
        return ("emotion", self.endpoint.vector, strength)

    def _scored(self, key: Condition) -> bool:
        """Whether the condition has a score in the reported half."""
        return key in self.units and not np.isnan(self.units[key]).all()

    def _measure(self, first: np.ndarray, level: float) -> None:
        """Choose on the units `first` (n, conditions) of the first half, and report on the second."""
        towards = dict(zip(self.changes.conditions, self.endpoint.sign * means(first), strict=True))

        def choice(family: str, direction: str) -> float | None:
            tried = {s: towards.get((family, direction, s), np.nan) for s in self.candidates}
            tried = {strength: effect for strength, effect in tried.items() if not np.isnan(effect)}
            return max(tried, key=tried.__getitem__) if tried else None

        strength = choice("emotion", self.endpoint.vector)
        if strength is None or not self._scored(self._key(strength)):
            return
        sign, key = self.endpoint.sign, self._key(strength)
        change = self.changes.of([key])
        own = sign * self.units[key]
        rng = generator(self.seed, "verdict", self.endpoint.vector)
        towards_it = replace(change, values=sign * change.values)
        p_prompts = float(paired_test(towards_it, self.unit, self.rate, self.permutations, rng)[0])

        compared = {}
        for family, direction in sorted({key[:2] for key in self.changes.conditions if key[0] in CONTROL_FAMILIES}):
            theirs = choice(family, direction)
            if theirs is not None:
                compared[direction] = (family, direction, theirs)
        null = [key for key in compared.values() if key[0] in NULL_FAMILIES and self._scored(key)]
        level_with = [(*key[:2], strength) for key in null if self._scored((*key[:2], strength))]
        self.directions = min(len(null), len(level_with))
        against = [self._beyond(key, keys, rng) for keys in (null, level_with) if keys]
        # NaN, where there are too few directions to compare with, must win over any p.
        p_directions = float(np.max(against)) if against else float("nan")
        if self._key(-strength) in self.units:
            compared["opposite"] = self._key(-strength)

        self.p = float(np.nan_to_num(np.maximum(p_prompts, p_directions), nan=1.0))
        low, high = effect_intervals(self.second.of([BASELINE, key]), self.unit, self.weights)[:, 0]
        n_prompts, n_items, n_dropped = (int(count[0]) for count in change.counts())
        self.result |= {
            "strength": float(strength),
            "effect": {
                "mean": float(means(self.units[key][:, None])[0]),
                "ci": [float(low), float(high)],
                "p_prompts": p_prompts,
                "p_directions": p_directions,
                "p": self.p,
                "n_prompts": n_prompts,
                "n_items": n_items,
                "n_dropped": n_dropped,
                "n_units": int((~np.isnan(own)).sum()),
                "share_wrong": float(share_wrong(change.values, sign)[0]),
            },
            "controls": self._controls(change, compared),
            "detectable": self._detectable(own, level),
        }

    def _beyond(self, own: Condition, null: list[Condition], rng: np.random.Generator) -> float:
        """How the condition `own` compares with those of the `null` directions: `beyond_directions`."""
        sign, keys = self.endpoint.sign, [own, *null]
        values = sign * np.column_stack([self.units[key] for key in keys])
        effects = means(values)
        if self.rate:
            unscored = np.isnan(self.changes.of(keys).values)
            effects = sign * log_odds(np.where(unscored, np.nan, self.second.of(keys).values))
        return beyond_directions(effects, values, self.permutations, rng)

    def _controls(self, change: Items, compared: dict[str, Condition]) -> dict[str, Any]:
        """How far beyond each control the vector goes; pairs in which either has no score are left out."""
        if not compared:
            return {}
        theirs = self.changes.of(list(compared.values()))
        further = replace(theirs, values=self.endpoint.sign * (change.values - theirs.values)).units(self.unit)
        difference = means(further)
        bound = intervals(further, self.weights, (1 - LEVEL,))[0]
        return {
            name: {
                "family": key[0],
                "strength": float(key[2]),
                "effect": float(means(self.units[key][:, None])[0]),
                "difference": float(difference[i]),
                "difference_low": float(bound[i]),
            }
            for i, (name, key) in enumerate(compared.items())
        }

    def _asking(self) -> dict[str, Any] | None:
        key = ("asking", self.endpoint.vector, 0.0)
        if key not in self.units:
            return None
        low, high = effect_intervals(self.second.of([BASELINE, key]), self.unit, self.weights)[:, 0]
        return {"mean": float(means(self.units[key][:, None])[0]), "ci": [float(low), float(high)]}

    def _dose(self, items: Items, bootstrap: int) -> dict[str, Any]:
        """Over all prompts, since nothing is chosen, and the safe strengths, or all where cost was not measured."""
        low, high = self.safe or (-np.inf, np.inf)
        strengths = sorted([0.0, *(strength for strength in self.own if low <= strength <= high)])
        unit, changes = items.unit, items.changes()
        # At strength 0 the effect is 0 by definition.
        columns = [changes[self._key(s)] if s else np.zeros(len(changes.values)) for s in strengths]
        curves = replace(changes, values=np.column_stack(columns)).units(unit)
        return dose_response(curves, np.array(strengths), _weights(items, unit, bootstrap, self.seed, "dose"))

    def _detectable(self, own: np.ndarray, level: float) -> float:
        """The smallest effect that the reported half shows with 80 % power at Holm's strictest `level`."""
        known = own[~np.isnan(own)]
        found = detectable_mean(len(known), float(known.std(ddof=1)) if len(known) > 1 else 0.0, level)
        if self.rate:
            # Items that all stay as they are do not show that a change would be seen at once.
            pairs = int(np.sum(~np.isnan(self.second[BASELINE])))
            by_items = detectable_rate(pairs, self.baseline, self.endpoint.sign, level)
            return by_items if self.unit == "item" else max(found, by_items)
        return found

    def entry(self, p_holm: float, alpha: float, family: int) -> dict[str, Any]:
        """The vector's part of verdict.json, once its p is adjusted over a `family` of vectors."""
        effect = self.result["effect"]
        if effect is not None:
            effect["p_holm"] = p_holm
        stops = self._stops()
        notes = self._notes()
        if stops:
            verdict, reasons = INCONCLUSIVE, stops
        else:
            verdict, reasons = self._judge(effect, alpha, family)
        return {"verdict": verdict, "reasons": reasons + notes} | self.result

    def _stops(self) -> list[str]:
        """Why this trial cannot tell, whatever its numbers are."""
        endpoint, found = self.endpoint, []
        if self.safe is None:
            found.append("What steering with this vector costs was not measured, so no strength is known to be safe.")
        if not self.candidates:
            tested = ", ".join(map(_number, self.unsafe)) or "none"
            found.append(
                f"No strength inside the safe range was tested: the range ends at {_number((self.safe or (0, 0))[1])} "
                f"and the positive strengths tested are {tested}."
            )
        if endpoint.bounds is not None:
            bound = endpoint.bounds[1] if endpoint.sign > 0 else endpoint.bounds[0]
            if abs(bound - self.baseline) < endpoint.smallest_effect - 1e-12:
                name = "ceiling" if endpoint.sign > 0 else "floor"
                found.append(
                    f"No headroom ({name}): the baseline is {_number(self.baseline)}, so {endpoint.outcome} cannot "
                    f"{'rise' if endpoint.sign > 0 else 'fall'} by the smallest effect of interest, "
                    f"{_number(endpoint.smallest_effect)}."
                )
        effect = self.result["effect"]
        if effect is None:
            if self.candidates:
                found.append("No item has a score both at the baseline and at a strength inside the safe range.")
            return found
        if effect["n_units"] < MIN_UNITS:
            found.append(
                f"Too few {self.unit}s: {effect['n_units']} in the reported half, at least {MIN_UNITS} needed."
            )
        if self.directions < MIN_NULL:
            found.append(
                f"Too few null directions: {self.directions} random or shuffled ones were run at these strengths, at "
                f"least {MIN_NULL} are needed to know what any direction does."
            )
        return found

    def _judge(self, effect: dict[str, Any], alpha: float, family: int) -> tuple[str, list[str]]:
        endpoint, smallest = self.endpoint, self.endpoint.smallest_effect
        mean, (low, high) = effect["mean"], effect["ci"]
        towards = endpoint.sign * mean
        furthest = high if endpoint.sign > 0 else -low
        measured = (
            f"At strength {_number(self.result['strength'])} {endpoint.outcome} changes by {_number(mean)} "
            f"(95 % interval {_number(low)} to {_number(high)}, {effect['n_items']} pairs over "
            f"{effect['n_prompts']} prompts"
        )
        if furthest < smallest:
            wanted = f"{'+' if endpoint.sign > 0 else '−'}{_number(smallest)}"
            return NOT_SUPPORTED, [f"{measured}), which excludes the smallest effect of interest, {wanted}."]
        controls = self.result["controls"]
        # A bound that could not be computed is not above 0.
        level = {name: control for name, control in controls.items() if not control["difference_low"] > 0}
        p = f"p = {_number(effect['p_holm'])} after Holm over {family} vectors"
        if effect["p_holm"] < alpha and towards >= smallest and not level:
            closest, control = min(controls.items(), key=lambda each: each[1]["difference_low"])
            return SUPPORTED, [
                f"{measured}; {p}).",
                f"It goes beyond all {len(controls)} controls; the closest is {closest}, by "
                f"{_number(control['difference'])} (at least {_number(control['difference_low'])}).",
            ]
        reasons = [f"{measured})."]
        if towards < smallest:
            reasons.append(
                f"That is less than the smallest effect of interest, {_number(smallest)} in the predicted direction, "
                "which the interval does not exclude."
            )
        if effect["p_holm"] >= alpha:
            reasons.append(
                f"It is not beyond chance: {p}; alone {_number(effect['p_prompts'])} against no effect and "
                f"{_number(effect['p_directions'])} against what random directions do."
            )
        if level:
            names = ", ".join(
                f"{name} ({_number(control['difference'])}, at least {_number(control['difference_low'])})"
                for name, control in sorted(level.items(), key=lambda each: each[1]["difference_low"])[:3]
            )
            reasons.append(f"It is not beyond {len(level)} of {len(controls)} controls, by least: {names}.")
        detectable = self.result["detectable"]
        if np.isinf(detectable):
            reasons.append("The trial is too small to show any effect after the correction over vectors.")
        elif detectable > smallest:
            reasons.append(f"The trial is small: it shows effects from {_number(detectable)} on with 80 % power.")
        return INCONCLUSIVE, reasons

    def _notes(self) -> list[str]:
        """What a reader must know beside the verdict."""
        found, effect = [], self.result["effect"]
        if effect is not None and self.unit == "item":
            found.append(
                f"With {effect['n_prompts']} prompts in the reported half, each pair of answers counts by itself: the "
                "result holds for these prompts and says little about others."
            )
        if effect is not None and effect["n_dropped"]:
            dropped, all_pairs = effect["n_dropped"], effect["n_dropped"] + effect["n_items"]
            found.append(f"{dropped} of {all_pairs} pairs had no score and were left out.")
        if effect is not None and "opposite" not in self.result["controls"]:
            found.append("The opposite sign was not run at this strength.")
        beyond = {s: self.endpoint.sign * float(means(self.units[self._key(s)][:, None])[0]) for s in self.unsafe}
        beyond = {strength: effect for strength, effect in beyond.items() if effect >= self.endpoint.smallest_effect}
        if beyond:
            strength = max(beyond, key=beyond.__getitem__)
            found.append(
                f"Outside the safe range, at strength {_number(strength)}, it changes by "
                f"{_number(self.endpoint.sign * beyond[strength])}: not judged, since the price there is too high."
            )
        return found


def _weights(items: Items, unit: str, bootstrap: int, seed: int, use: str) -> np.ndarray:
    """Resamples of the units of `items`, the same for every vector and outcome with as many units."""
    n = len(np.unique(items.prompts)) if unit == "prompt" else len(items.prompts)
    return resamples(n, bootstrap, generator(seed, "bootstrap", use, n))


def _number(value: float) -> str:
    """Three significant digits, with a true minus sign and without exponents for ordinary sizes."""
    return f"{value:.3g}".replace("-", "−")
