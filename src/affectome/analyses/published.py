"""The run's headline results beside figures that others published.

`resources/facts/published.csv` holds the figures with their sources, one a row: `study, model, layer, quantity, value,
low, high, n, norm, source, remark`. Shares and correlations are numbers from −1 to 1; `low` and `high` are a range over
layers or a bound, where a study gives that instead of a value, and never an interval: none of the studies states one.
`n` counts what the quantity is over (`QUANTITIES`), `norm` names the ratings as `affectome.analyses.norm_formats` does.

Like is compared with like: a correlation with ratings is put beside the run's with the same norm where it has one, and
`differs` says what else is not the same. Models, corpora and, mostly, layers always differ. What a run did not ask has
no value here.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from affectome.analyses.norm_formats import recognise
from affectome.errors import UserError
from affectome.files import read_json, read_table, write_json, write_table

# What each quantity is called, and what its n counts.
QUANTITIES = {
    "pc1_share": ("variance on PC1", "emotions"),
    "pc2_share": ("variance on PC2", "emotions"),
    "pc1_valence_r": ("correlation of PC1 with valence", "words"),
    "pc2_arousal_r": ("correlation of PC2 with arousal", "words"),
    "cosine_afraid_scared": ("cosine of afraid and scared", "pair"),
    "story_top1": ("held-out stories named first", "emotions"),
    "story_top5": ("held-out stories among the first five", "emotions"),
    "story_mean_rank": ("mean rank of held-out stories' emotion", "emotions"),
    "probe_auc": ("AUC of probes", "emotions"),
    "logit_lens_first": ("own word first in the logit lens", "emotions"),
    "implicit_diagonal": ("scenarios' emotions that come first", "emotions"),
    "implicit_cosine": ("cosine with the implied emotion", "emotions"),
}
_COLUMNS = ["study", "model", "layer", "quantity", "value", "low", "high", "n", "norm", "source", "remark"]
_HERE = ["here", "here_low", "here_high", "here_p", "here_chance", "here_n", "here_norm"]


def read_facts(file: str | Path) -> pd.DataFrame:
    """The published figures; raises UserError where the file is not as described above."""
    try:
        facts = pd.read_csv(file, dtype=str, keep_default_na=False)[_COLUMNS]
        for name in ("value", "low", "high", "n"):
            facts[name] = facts[name].replace("", np.nan).astype(float)
    except (OSError, KeyError, ValueError) as error:
        raise UserError(f"{file}: cannot be read as published figures ({error})") from error
    unknown = sorted(set(facts["quantity"]) - set(QUANTITIES))
    if unknown:
        raise UserError(f"{file}: quantity {unknown[0]!r} is unknown; allowed: {', '.join(QUANTITIES)}")
    bare = facts[facts[["value", "low", "high"]].isna().all(axis=1) | (facts["source"] == "")]
    if len(bare):
        raise UserError(f"{file}: line {bare.index[0] + 2} has no figure or no source")
    return facts


def published(
    correlations: str | Path,
    geometry: str | Path,
    similarity: str | Path,
    facts: str | Path,
    answers: Mapping[str, str | Path],
    layer: int,
    norms: dict[str, dict[str, Any]],
    table: str | Path,
    output: str | Path,
) -> None:
    """Put the run's results at `layer` beside those in `facts`.

    `correlations`, `geometry` and `similarity` are norm_correlations.json, geometry.json and similarity.parquet,
    `answers` further JSON files by question, of which story_holdout, probes, logit_lens and implicit_scenarios are
    used, and `norms` says how the norms that the run names are read. Writes to `table` every published figure with
    `here, here_low, here_high` (95 % interval), `here_p, here_chance, here_n, here_norm` and `differs`; to `output` the
    same under `published`, and under `here` all of the run's values by quantity.
    """
    figures = read_facts(facts)
    kinds = {name: getattr(recognise(norm["file"]), "norm", name) for name, norm in norms.items()}
    pairs = read_table(similarity, filters=[("layer", "==", layer)])
    emotions = len(set(pairs["a"]) | set(pairs["b"]))
    here = {quantity: [] for quantity in QUANTITIES}
    shares = read_json(geometry)["layers"][str(layer)]["explained_variance"]
    for quantity, share in zip(("pc1_share", "pc2_share"), shares, strict=False):
        here[quantity].append(_value(share, n=emotions))
    for name, found in read_json(correlations)["layers"][str(layer)].items():
        for quantity, dimension, component in (("pc1_valence_r", "valence", 0), ("pc2_arousal_r", "arousal", 1)):
            rows = found.get(dimension, {}).get("components", [])
            if len(rows) > component:
                row = rows[component]
                here[quantity].append(_value(row["r"], row["ci"], row["p"], 0.0, found["n"], kinds.get(name, name)))
    pair = pairs[[{a, b} == {"afraid", "scared"} for a, b in zip(pairs["a"], pairs["b"], strict=True)]]
    here["cosine_afraid_scared"] += [_value(cosine, n=1) for cosine in pair["cosine"]]
    for quantity, row in _of_answers({name: read_json(path) for name, path in answers.items()}, layer).items():
        here[quantity].append(row)
    beside = [_beside(figure, here[figure["quantity"]]) for figure in figures.to_dict("records")]
    rows = pd.DataFrame(beside, columns=[*_COLUMNS, *_HERE, "differs"])
    numbers = [name for name in _HERE if name != "here_norm"]
    write_table(table, rows.astype(dict.fromkeys(numbers, float)).astype({"here_norm": object}))
    n = {"figures": len(rows), "compared": int(rows["here"].notna().sum()), "emotions": emotions}
    write_json(output, {"layer": layer, "n": n, "here": here, "published": beside})


def _value(
    value: float | None,
    ci: list[float | None] | None = None,
    p: float | None = None,
    chance: float | None = None,
    n: int | None = None,
    norm: str | None = None,
) -> dict[str, Any]:
    low, high = ci or (None, None)
    return {"value": value, "low": low, "high": high, "p": p, "chance": chance, "n": n, "norm": norm}


def _of_answers(found: dict[str, Any], layer: int) -> dict[str, dict[str, Any]]:
    """The run's values by quantity, as far as its answers (JSON by question) hold them."""
    here = {}
    if held_out := found.get("story_holdout"):
        for quantity, measure in (("story_top1", "top1"), ("story_top5", "top5"), ("story_mean_rank", "rank")):
            row = held_out["vectors"][measure]
            p = held_out.get("null", {}).get(measure, {}).get("p")
            n = held_out["n"]["emotions"]
            here[quantity] = _value(row["value"], row["ci"], p, held_out["chance"][measure], n)
    if probes := (found.get("probes") or {}).get("layers", {}).get(str(layer)):
        # Published figures are of validation texts, which a split by topic does not have.
        row = probes.get("validation", probes["test"])["logistic"]
        here["probe_auc"] = _value(row["auc"], row["ci"], None, 0.5, found["probes"]["n_emotions"])
    if lens := found.get("logit_lens"):
        word = lens["layers"][str(layer)]["word"]
        first = word["within"]["1"]
        chance = first["chance"] / word["n"]
        here["logit_lens_first"] = _value(first["share"], first["ci"], first["p"], chance, word["n"])
    if scenarios := ((found.get("implicit_scenarios") or {}).get("layers") or {}).get(str(layer)):
        n = found["implicit_scenarios"]["n"]["emotions"]
        row = scenarios["diagonal"]
        here["implicit_diagonal"] = _value(row["value"] / n, None, row["p"], row["shuffled"] / n, n)
        row = scenarios["cosine"]
        here["implicit_cosine"] = _value(row["value"], row["ci"], None, 0.0, n)
    return here


def _beside(figure: dict[str, Any], here: list[dict[str, Any]]) -> dict[str, Any]:
    """A published figure with the run's value that is most like it, and in what the two differ."""
    if not here:
        return figure | dict.fromkeys(_HERE) | {"differs": ""}
    same = [row for row in here if row["norm"] == (figure["norm"] or None)]
    row = (same or here)[0]
    differs = []
    if figure["norm"] and not same:
        differs.append(f"norm: {row['norm']} here, {figure['norm']} there")
    counted = QUANTITIES[figure["quantity"]][1]
    if not np.isnan(figure["n"]) and figure["n"] != row["n"]:
        differs.append(f"{counted}: {row['n']} here, {figure['n']:.0f} there")
    elif np.isnan(figure["n"]) and counted != "pair":
        differs.append(f"{counted}: {row['n']} here, not said there")
    named = {"here": "value", "here_low": "low", "here_high": "high", "here_p": "p", "here_chance": "chance"}
    named |= {"here_n": "n", "here_norm": "norm"}
    return figure | {ours: row[theirs] for ours, theirs in named.items()} | {"differs": "; ".join(differs)}
