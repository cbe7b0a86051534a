"""What is said under a figure: what it shows, the same for every run, and how it came out in this one, in numbers.

Captions are files beside the figures, which Snakemake's report and the page of a run both read.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from affectome.figures.steering import stated_strength
from affectome.figures.wording import interval, number, p_equation, strength
from affectome.files import replacing
from affectome.report.templates import FOLDER

# Vectors or norms whose numbers are listed one by one; of more, the figure itself is clearer.
_LISTED = 8


def description(name: str) -> str:
    """What figure `name` shows, as one line of plain text."""
    return " ".join((FOLDER / "captions" / f"{name}.rst").read_text(encoding="utf-8").split())


def write_caption(folder: str | Path, name: str, numbers: str) -> None:
    """Write the caption of figure `name` into `folder`: its description and, in a second line, the `numbers`."""
    with replacing(Path(folder) / f"{name}.txt") as temporary:
        temporary.write_text(f"{description(name)}\n{numbers}\n", encoding="utf-8")


def read_caption(folder: str | Path, name: str) -> list[str]:
    """The lines that `write_caption` wrote: the description and the numbers."""
    return (Path(folder) / f"{name}.txt").read_text(encoding="utf-8").splitlines()


# ---------------------------------------------------------------- figures of a run


def of_pc_scatter(here: pd.DataFrame, explained: list[float], ratings: pd.DataFrame, layer: int, norm: str) -> str:
    """Numbers of `affectome.figures.scatter.pc_scatter`, from its arguments."""
    rated = int(here["emotion"].isin(ratings.index).sum())
    first, second = explained[:2]
    return (
        f"Here: {len(here)} emotions at layer {layer}, {rated} of them rated by {norm}; the two components hold "
        f"{100 * first:.1f} % and {100 * second:.1f} % of the variance. Points carry no interval: they describe these "
        "vectors."
    )


def of_circumplex(related: dict[str, Any], least: int, layer: int, norm: str) -> str:
    """Numbers of `affectome.figures.circumplex.circumplex`: `related` is the norm's part of norm_correlations.json."""
    planes = [
        f"{name} R = {number(related[name]['plane']['r'])} ({p_equation(related[name]['plane']['p'])})"
        for name in ("valence", "arousal")
        if related.get(name)
    ]
    found = "; ".join(planes) or f"fewer than the {least} words that a correlation needs"
    return f"Here: {related['n']} words rated by {norm}, layer {layer}: {found}."


def of_spectrum(explained: dict[int, list[float]], layer: int) -> str:
    """Numbers of `affectome.figures.layers.spectrum`, from its arguments."""
    shares = 100 * np.array(explained[layer])
    half = 1 + int(np.searchsorted(np.cumsum(shares), 50))
    return (
        f"Here, at layer {layer}: the first component holds {shares[0]:.1f} %, the first five {shares[:5].sum():.1f} "
        f"%, and {half} of {len(shares)} are needed for half of the variance. Shares carry no interval: they describe "
        "these vectors."
    )


def of_layer_profile(profile: pd.DataFrame, counts: dict[str, int], least: int, layer: int) -> str:
    """Numbers of `affectome.figures.layers.layer_profile`, from its arguments: those of the headline `layer`."""
    here = profile[(profile["layer"] == layer) & (profile["measure"] == "ridge")]
    said = []
    for norm, n in list(counts.items())[:_LISTED]:
        rows = here[here["norm"] == norm].set_index("dimension")
        results = [
            f"{name} r = {number(rows.loc[name, 'value'])}, 95 % interval "
            f"{interval([rows.loc[name, 'low'], rows.loc[name, 'high']])}, {p_equation(rows.loc[name, 'p'])}"
            for name in ("valence", "arousal")
            if name in rows.index
        ]
        said.append(f"{norm}, {n} words: " + ("; ".join(results) or f"fewer than {least} rated words"))
    return f"Here, held-out r at layer {layer}: " + ". ".join(said) + "."


def of_similarity(pairs: pd.DataFrame, reliability: float, layer: int) -> str:
    """Numbers of `affectome.figures.tree.similarity`: `pairs` is its table, `reliability` the mean over emotions."""
    most, least = (pairs.loc[index] for index in (pairs["cosine"].idxmax(), pairs["cosine"].idxmin()))
    return (
        f"Here, at layer {layer}: {len(pairs):,} pairs, from {least['a']} and {least['b']} "
        f"({number(least['cosine'])}) to {most['a']} and {most['b']} ({number(most['cosine'])}); the middle half "
        f"{interval(pairs['cosine'].quantile([0.25, 0.75]).tolist())}. {_halves(reliability)}"
    )


def of_dendrogram(groups: np.ndarray, reliability: float, layer: int) -> str:
    """Numbers of `affectome.figures.tree.dendrogram`: `groups` (emotions,) are the numbers of their groups."""
    sizes = np.unique(groups, return_counts=True)[1]
    return (
        f"Here, at layer {layer}: {len(groups)} emotions in {len(sizes)} groups of {sizes.min()} to {sizes.max()}. "
        f"{_halves(reliability)}"
    )


def _halves(reliability: float) -> str:
    if np.isnan(reliability):
        return "How sure a cosine is cannot be said: that takes two texts per emotion."
    return (
        "How sure a cosine is, two halves of the stories tell: vectors made from each agree with a cosine of "
        f"{number(reliability)} on average."
    )


# ---------------------------------------------------------------- figures of a trial


def of_dose_response(_effects: pd.DataFrame, verdict: dict[str, Any]) -> str:
    """Numbers of `affectome.figures.steering.dose_response`, from its arguments: those that verdicts rest on."""
    n = verdict["n"]
    said = [_verdict(vector, entry) for vector, entry in list(verdict["vectors"].items())[:_LISTED]]
    more = len(verdict["vectors"]) - len(said)
    return (
        f"Here: {n['prompts']} prompts, {n['items_per_condition']} items per condition; {n['chosen_on']} "
        f"{n['split']}s chose the strength, {n['reported_on']} gave these effects ({verdict['unit']}, 95 % intervals): "
        + "; ".join(said)
        + (f"; and {more} more." if more else ".")
    )


def _verdict(vector: str, entry: dict[str, Any]) -> str:
    if entry["strength"] is None or not entry["effect"]:
        return f"{vector} {entry['verdict']}, no effect was judged"
    effect = entry["effect"]
    return (
        f"{vector} {entry['verdict']}, {number(effect['mean'])} ({interval(effect['ci'])}) at strength "
        f"{strength(entry['strength'])}"
    )


def of_specificity(effects: pd.DataFrame, verdict: dict[str, Any]) -> str:
    """Numbers of `affectome.figures.steering.specificity`, from its arguments."""
    shown, safe = stated_strength(effects, verdict)
    if not shown > 0:
        return "Here: no positive strength was run."
    here = effects[(effects["family"] == "emotion") & (effects["strength"] == shown)]
    outcomes = {vector: entry["outcome"] for vector, entry in verdict["vectors"].items()}
    own = here[here["direction"].map(outcomes) == here["outcome"]].set_index("direction")
    said = [
        f"{vector} {number(own.loc[vector, 'effect'])} ({interval([own.loc[vector, 'low'], own.loc[vector, 'high']])})"
        for vector in list(outcomes)[:_LISTED]
        if vector in own.index
    ]
    return (
        f"Here: strength {strength(shown)}, safe for {safe} of {len(outcomes)} vectors, {verdict['n']['prompts']} "
        f"prompts; change of the own words ({verdict['unit']}, 95 % intervals): {'; '.join(said) or 'none scored'}."
    )


def of_preference(_effects: pd.DataFrame, verdict: dict[str, Any], found: dict[str, Any]) -> str:
    """Numbers of `affectome.figures.steering.preference`, from its arguments."""
    over = found["effects_against_probes"]
    return (
        f"Here: {len(found['activities'])} activities and {verdict['n']['prompts']} pairs of them; over {over['n']} "
        f"emotions r = {number(over['r'])}, 95 % interval {interval(over['ci'])}, {p_equation(over['p'])}."
    )


def of_cost_curves(safe: dict[str, Any]) -> str:
    """Numbers of `affectome.figures.steering.cost_curves`: `safe` is safe_ranges.json."""
    n = safe["n"]
    said = [
        f"{vector} {strength(found['low'])} to {strength(found['high'])}"
        for vector, found in list(safe["vectors"].items())[:_LISTED]
    ]
    more = len(safe["vectors"]) - len(said)
    return (
        f"Here: {n['texts']} neutral texts, {n['questions']} questions and {n['generations']} texts written per "
        f"condition. Safe ranges: {'; '.join(said)}" + (f"; and {more} more." if more else ".")
    )
