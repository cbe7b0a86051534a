"""Up to which strength a model still works: the gates that every steered condition has to pass, and where they fail.

A model can be pushed into any statistic by breaking it, so an effect counts only where the model reads, writes and
answers nearly as well as it does unsteered. The measures, all against the baseline on the same items:

- `perplexity_ratio`: of neutral text under the steered model, exp of the mean paired difference in NLL per token.
  Gate: at most that much.
- `completion`: share of generations that end by themselves. Gate: at least that share of the baseline's.
- `accuracy_drop`: of multiple-choice answers, paired by question. Gate: a drop no larger than that, beyond noise: it
  fails when the one-sided 95 % bootstrap lower bound of the drop by question is above it. With few questions noise is
  wide, and a real drop passes: `accuracy_drop_low` beside `accuracy_drop` shows by how much.
- `repetition`: mean over generations. Gate: the rise over the baseline.

`text_perplexity_ratio` (generations read by the unsteered model) and `invalid` are reported without a gate. A measure
without a score does not pass its gate.

Regimes follow the three of arXiv 2604.04064, which orders strengths by perplexity, with our own thresholds: `surgical`
passes every gate; `explosive` has a perplexity ratio above the square of its gate (twice as far in nats); `repetitive`
fails the gate of repetition short of that; `degraded` fails another.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from affectome.errors import UserError
from affectome.files import read_table, write_json
from affectome.randomness import generator
from affectome.steering.conditions import BASELINE, Condition
from affectome.steering.statistics import LEVEL, intervals, items_of, long_scores, means, resamples

# Which scores each gate is judged by.
GATED = {
    "perplexity_ratio": "nll_neutral",
    "completion": "complete",
    "accuracy_drop": "correct",
    "repetition": "repetition",
}
UNGATED = ("nll_text", "valid")


def write_safe_ranges(
    items: str | Path, output: str | Path, trial: str, gates: dict[str, float], bootstrap: int, seed: int
) -> None:
    """Write the safe ranges of the cost trial `trial`, whose table is `items`; see `safe_ranges`."""
    write_json(output, {"trial": trial, **safe_ranges(long_scores(read_table(items)), gates, bootstrap, seed)})


def safe_ranges(scores: pd.DataFrame, gates: dict[str, float], bootstrap: int, seed: int) -> dict[str, Any]:
    """The content of safe_ranges.json from the scores of a cost trial.

    A range is the largest strength on each side of 0 such that every gate holds there and at every tested strength
    between it and 0; 0.0 where the smallest fails. `vectors` are the directions of family emotion; `controls`, of any
    other family but asking, have curves and ranges of the same form. UserError where the scores lack what a gate needs.
    """
    known = set(scores.loc[scores["value"].notna(), "outcome"])
    for gate, outcome in GATED.items():
        if outcome not in known:
            raise UserError(
                f"cost: the gate {gate!r} needs scores of {outcome!r}, and this trial has none; "
                "give the cost trial neutral texts, prompts to continue and multiple-choice questions"
            )
    measures, baseline = _measures(scores, known, bootstrap, seed)
    passed = pd.DataFrame(
        {
            "perplexity_ratio": measures["perplexity_ratio"] <= gates["perplexity_ratio"],
            "completion": measures["completion"] >= gates["completion"] * baseline["completion"],
            "accuracy_drop": measures["accuracy_drop_low"] <= gates["accuracy_drop"],
            "repetition": measures["repetition"] - baseline["repetition"] <= gates["repetition"],
        }
    )
    found: dict[str, dict[str, Any]] = {"vectors": {}, "controls": {}}
    unsteered = _row(0.0, measures.loc[[BASELINE]], passed.loc[[BASELINE]], gates)
    for family, direction in sorted({key[:2] for key in measures.index if key[0] not in ("asking", BASELINE[0])}):
        strengths = sorted(key[2] for key in measures.index if key[:2] == (family, direction))
        keys = {strength: [(family, direction, strength)] for strength in strengths}
        rows = [_row(strength, measures.loc[key], passed.loc[key], gates) for strength, key in keys.items()]
        holds = {row["strength"]: all(row["gates"].values()) for row in rows}
        found["vectors" if family == "emotion" else "controls"][direction] = {
            "low": 0.0 - _reach({-strength: held for strength, held in holds.items() if strength < 0}),
            "high": _reach({strength: held for strength, held in holds.items() if strength > 0}),
            "curve": sorted([unsteered, *rows], key=lambda row: row["strength"]),
        }
    items = {outcome: items_of(scores, outcome) for outcome in GATED.values()}
    return {
        "gates": dict(gates),
        "n": {
            "texts": len(set(items["nll_neutral"].prompts)),
            "questions": len(set(items["correct"].prompts)),
            "generations": len(items["repetition"].prompts),
        },
        "baseline": {name: float(value) for name, value in baseline.items()},
        **found,
    }


def _measures(
    scores: pd.DataFrame, known: set[str], bootstrap: int, seed: int
) -> tuple[pd.DataFrame, dict[str, float]]:
    """Every measure per condition, the baseline included, and those of the baseline in absolute terms."""
    level, change, low = {}, {}, pd.Series(dtype=float)
    for outcome in sorted(known & {*GATED.values(), *UNGATED}):
        items = items_of(scores, outcome)
        changes = items.changes()
        by_prompt = changes.units("prompt")
        level[outcome] = _by_condition(items.conditions, means(items.units("prompt")))
        change[outcome] = _by_condition(changes.conditions, means(by_prompt))
        if outcome == GATED["accuracy_drop"]:
            weights = resamples(len(by_prompt), bootstrap, generator(seed, "bootstrap", "accuracy", len(by_prompt)))
            low = _by_condition(changes.conditions, intervals(-by_prompt, weights, (1 - LEVEL,))[0])
    levels, changes = pd.DataFrame(level), pd.DataFrame(change)
    changes.loc[BASELINE, :] = 0.0
    for table in (levels, changes):
        for outcome in set(UNGATED) - known:
            table[outcome] = np.nan
    # Steering that explodes can overflow exp: infinite, and past any gate.
    with np.errstate(over="ignore"):
        ratios = np.exp(changes[["nll_neutral", "nll_text"]])
    measures = pd.DataFrame(
        {
            "perplexity_ratio": ratios["nll_neutral"],
            "text_perplexity_ratio": ratios["nll_text"],
            "completion": levels["complete"],
            "accuracy": levels["correct"],
            "accuracy_drop": -changes["correct"],
            "accuracy_drop_low": low,
            "repetition": levels["repetition"],
            "invalid": 1 - levels["valid"],
        }
    )
    measures.loc[BASELINE, ["accuracy_drop", "accuracy_drop_low"]] = 0.0
    unsteered = levels.loc[BASELINE]
    return measures, {
        "perplexity": np.exp(unsteered["nll_neutral"]),
        "text_perplexity": np.exp(unsteered["nll_text"]),
        "completion": unsteered["complete"],
        "accuracy": unsteered["correct"],
        "repetition": unsteered["repetition"],
        "invalid": 1 - unsteered["valid"],
    }


def _by_condition(conditions: list[Condition], values: np.ndarray) -> pd.Series:
    return pd.Series(values, pd.MultiIndex.from_tuples(conditions))


def _row(strength: float, measures: pd.DataFrame, passed: pd.DataFrame, gates: dict[str, float]) -> dict[str, Any]:
    values = {name: float(value) for name, value in measures.iloc[0].items()}
    held = {name: bool(value) for name, value in passed.iloc[0].items()}
    if all(held.values()):
        regime = "surgical"
    elif not values["perplexity_ratio"] <= gates["perplexity_ratio"] ** 2:
        regime = "explosive"
    elif not held["repetition"]:
        regime = "repetitive"
    else:
        regime = "degraded"
    return {"strength": float(strength), **values, "gates": held, "regime": regime}


def _reach(holds: dict[float, bool]) -> float:
    """The largest strength that holds with all below it, of strengths above 0; 0.0 if the smallest does not."""
    reached = 0.0
    for strength in sorted(holds):
        if not holds[strength]:
            break
        reached = float(strength)
    return reached
