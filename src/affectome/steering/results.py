"""From the table of a trial to what it says of its question: effects, verdicts, preferences."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from affectome.files import read_json, read_table, write_json, write_table
from affectome.steering.preferences import effects_against_probes, preferences
from affectome.steering.sets import read_activities, read_set
from affectome.steering.statistics import long_scores
from affectome.steering.verdict import Endpoint, effects_table, verdicts


def write_verdicts(
    items: str | Path,
    costs: Sequence[str | Path],
    output: str | Path,
    effects: str | Path,
    described: dict[str, Any],
    endpoints: Sequence[dict[str, Any]],
    alpha: float,
    bootstrap: int,
    permutations: int,
    seed: int,
) -> None:
    """Write the verdicts of a trial, and the effects of all its conditions; see `affectome.steering.verdict`.

    `costs` are the safe ranges that were measured at the same layers; where several name a vector, the narrowest
    counts. `described` opens the file: what the trial is, in words.
    """
    scores = long_scores(read_table(items))
    wanted = [
        Endpoint(**{**endpoint, "bounds": endpoint["bounds"] and tuple(endpoint["bounds"])}) for endpoint in endpoints
    ]
    safe: dict[str, tuple[float, float]] = {}
    for file in costs:
        for vector, found in read_json(file)["vectors"].items():
            low, high = safe.get(vector, (float("-inf"), float("inf")))
            safe[vector] = max(low, found["low"]), min(high, found["high"])
    table = effects_table(scores, wanted, bootstrap, permutations, seed)
    found = verdicts(scores, wanted, safe, alpha, bootstrap, permutations, seed)
    write_table(effects, table)
    smallest = wanted[0].smallest_effect
    write_json(output, {**described, "alpha": alpha, "smallest_effect": smallest, **found})


def write_preferences(
    items: str | Path,
    notes: str | Path,
    trial_set: str | Path,
    verdict: str | Path,
    effects: str | Path,
    output: str | Path,
    bootstrap: int,
    permutations: int,
    seed: int,
) -> None:
    """Write what is preferred without steering, and how that goes with the effects of steering, of a preference trial.

    See `affectome.steering.preferences`; `verdict` and `effects` are the trial's files of these names.
    """
    activities = read_activities(read_set(trial_set).activities)
    found = preferences(read_table(items), read_json(notes), activities, bootstrap, permutations, seed)
    against = effects_against_probes(read_json(verdict), read_table(effects), found["probes"])
    write_json(output, {**found, "effects_against_probes": against})
