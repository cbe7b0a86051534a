"""Runs side by side: one page, and its numbers for programs.

`comparison.json` has `norm` (whose ratings the planes are laid over), `permutations`, `runs` (a list: `run, title,
model, blocks, corpus, stories, emotions, neutral, layer, depth, reliability, norms{norm: {n, dimension{r, ci, p}}},
plane{n, explained}`), `cosines` (a list over pairs of runs: `a, b, n, pairs, r, p`, see `cosine_agreement`) and
`verdicts{trial: {title, unit, vectors{vector: {run: {verdict, n, strength, effect, ci, p}}}}}`. `comparison.parquet` is
the runs' layer profiles in one table with `run`, relative `depth` and whether a layer is the `headline`.

Depth is relative: layer L of B blocks lies at (L + 1) / B, the share of blocks whose output it holds.
"""

import base64
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from affectome.analyses.norm_correlations import MIN_WORDS
from affectome.analyses.norms import DIMENSIONS, read_norm
from affectome.analyses.statistics import p_value
from affectome.figures import COMPARISON_FIGURES, VERDICT_MARKS
from affectome.figures.captions import description, read_caption
from affectome.figures.comparison import agreement, laid_over, layer_profiles, planes
from affectome.figures.run_geometry import said
from affectome.figures.style import house_style, save
from affectome.figures.tree import cosine_matrix
from affectome.figures.wording import interval, number, p_equation, strength
from affectome.figures.wording import p_value as p_words
from affectome.files import read_json, read_table, replacing, write_json, write_table
from affectome.randomness import generator
from affectome.report.page import verdict as agreement_verdict
from affectome.report.templates import environment


def compare_runs(
    summaries: Sequence[str | Path],
    profiles: Sequence[str | Path],
    scores: Sequence[str | Path],
    cosines: Sequence[str | Path],
    verdicts: Sequence[str | Path],
    geometries: Sequence[str | Path],
    page: str | Path,
    numbers: str | Path,
    table: str | Path,
    titles: dict[str, str],
    judged: Sequence[str],
    norm: dict[str, Any],
    norm_name: str,
    permutations: int,
    seed: int,
    dpi: int,
) -> None:
    """Compare the runs of `titles` (by name, in order), whose files are in the same order; write the three outputs.

    The files are `summary.json`, `layer_profile.parquet`, `geometry.parquet` and `similarity.parquet` of every run, and
    `verdicts` the verdict.json of every trial, those of `judged`, a run's name for each; `geometries` what
    `run_geometry` found of pairs of them, with its figure and caption beside it. The planes are laid over the
    ratings of `norm` (see `read_norm`) of name `norm_name`. `permutations` of the emotions, drawn with `seed`, give the
    p values of agreement. Figures are written beside `page` as SVG and PNG at `dpi`. Raises UserError where the norm
    cannot be read.
    """
    runs = list(titles)
    found = dict(zip(runs, map(read_json, summaries), strict=True))
    ratings = read_norm(norm["file"], norm)
    here: dict[str, pd.DataFrame] = {}
    pairs: dict[str, pd.DataFrame] = {}
    for run, places, similar in zip(runs, scores, cosines, strict=True):
        at_layer = [("layer", "==", found[run]["layer"]["auto"])]
        here[run] = read_table(places, filters=at_layer)
        pairs[run] = read_table(similar, filters=at_layer)
    profile = _profile(found, [read_table(path) for path in profiles])
    content = {
        "norm": norm_name,
        "permutations": permutations,
        "runs": [_of_run(run, titles[run], found[run], here[run], ratings) for run in runs],
        "cosines": [
            {"a": a, "b": b, **cosine_agreement(pairs[a], pairs[b], permutations, generator(seed, "comparison", a, b))}
            for a, b in itertools.combinations(runs, 2)
        ],
        "verdicts": _verdicts(zip(judged, map(read_json, verdicts), strict=True)),
    }
    folder = Path(page).parent
    with house_style():
        save(agreement(_agreement_rows(content["runs"]), runs), folder, "compared_agreement", dpi)
        save(layer_profiles(profile, runs), folder, "compared_layers", dpi)
        save(planes(here, ratings, norm_name), folder, "compared_planes", dpi)
    write_table(table, profile)
    write_json(numbers, content)
    text = _render(read_json(numbers), folder, [_geometry(Path(path)) for path in geometries])
    with replacing(page) as temporary:
        temporary.write_text(text, encoding="utf-8")


def cosine_agreement(
    first: pd.DataFrame, second: pd.DataFrame, permutations: int, rng: np.random.Generator
) -> dict[str, Any]:
    """Whether two runs find the same emotions alike: Spearman correlation of their cosines over pairs of emotions.

    `first` and `second` hold `a, b, cosine`, each pair once, of one layer. Only emotions of both count: `n` of them,
    in `pairs` pairs. p, one-sided, permutes the names of the emotions of the second (Mantel 1967), since pairs that
    share an emotion are not independent. `r` and `p` are None for fewer than `MIN_WORDS` shared emotions.
    """
    shared = tuple(sorted(_names(first) & _names(second)))
    n = len(shared)
    result: dict[str, Any] = {"n": n, "pairs": n * (n - 1) // 2, "r": None, "p": None}
    if n < MIN_WORDS:
        return result
    upper = np.triu_indices(n, k=1)
    ranks = []
    for table in (first, second):
        kept = table[table["a"].isin(shared) & table["b"].isin(shared)]
        # Stored cosines are float64 of float32 vectors: equal geometry must give equal ranks.
        values = rankdata(cosine_matrix(kept, shared)[upper].round(6))
        ranks.append((values - values.mean()) / np.linalg.norm(values - values.mean()))
    square = np.zeros((n, n))
    square[upper] = ranks[1]
    square += square.T
    null = np.empty(permutations)
    for index in range(permutations):
        order = rng.permutation(n)
        null[index] = ranks[0] @ square[np.ix_(order, order)][upper]
    r = float(ranks[0] @ ranks[1])
    return result | {"r": r, "p": p_value(r, null)}


def _names(pairs: pd.DataFrame) -> set[str]:
    return {*pairs["a"], *pairs["b"]}


def _profile(found: dict[str, Any], tables: list[pd.DataFrame]) -> pd.DataFrame:
    rows = [
        table.assign(
            run=run,
            depth=(table["layer"] + 1) / summary["model"]["blocks"],
            headline=table["layer"] == summary["layer"]["auto"],
        )
        for (run, summary), table in zip(found.items(), tables, strict=True)
    ]
    columns = ["run", "layer", "depth", "headline", "measure", "norm", "dimension", "value", "low", "high", "p"]
    return pd.concat(rows, ignore_index=True)[columns]


def _of_run(
    run: str, title: str, summary: dict[str, Any], scores: pd.DataFrame, ratings: pd.DataFrame
) -> dict[str, Any]:
    layer, blocks = summary["layer"]["auto"], summary["model"]["blocks"]
    at_layer = summary["layers"][str(layer)]
    points, explained = laid_over(scores, ratings)
    return {
        "run": run,
        "title": title,
        "model": summary["model"]["name"],
        "blocks": blocks,
        "corpus": summary["corpus"]["name"],
        **{key: summary["corpus"][key] for key in ("stories", "emotions", "neutral")},
        "layer": layer,
        "depth": (layer + 1) / blocks,
        "reliability": at_layer["reliability_mean"],
        "norms": {
            norm: {"n": results["n"]}
            | {
                name: {"r": results[name]["loo_r"], "ci": results[name]["loo_ci"], "p": results[name]["loo_p"],
                       "called": agreement_verdict(results[name])}
                for name in DIMENSIONS
                if results.get(name)
            }
            for norm, results in at_layer["norms"].items()
        },
        "plane": {"n": len(points), "explained": explained},
    }  # fmt: skip


def _agreement_rows(runs: list[dict[str, Any]]) -> pd.DataFrame:
    norms = dict.fromkeys(norm for run in runs for norm in run["norms"])
    rows = [
        (run["run"], norm, run["norms"][norm]["n"], name, *(run["norms"][norm][name][key] for key in ("r", "ci", "p")))
        for norm in norms
        for name in DIMENSIONS
        for run in runs
        if run["norms"].get(norm, {}).get(name)
    ]
    table = pd.DataFrame(rows, columns=["run", "norm", "n", "dimension", "r", "ci", "p"])
    for index, side in enumerate(("low", "high")):
        table[side] = [float("nan") if ci[index] is None else ci[index] for ci in table["ci"]]
    return table.drop(columns="ci").astype({"r": float, "p": float, "low": float, "high": float})


def _verdicts(found: Any) -> dict[str, Any]:
    trials: dict[str, Any] = {}
    for run, verdict in found:
        trial = trials.setdefault(
            verdict["trial"], {"title": verdict["title"], "unit": verdict["unit"], "vectors": {}, "runs": []}
        )
        trial["runs"].append(run)
        for vector, entry in verdict["vectors"].items():
            effect = entry["effect"] if entry["strength"] is not None else None
            trial["vectors"].setdefault(vector, {})[run] = {
                "verdict": entry["verdict"],
                "strength": entry["strength"],
                "n": effect["n_prompts"] if effect else None,
                "effect": effect["mean"] if effect else None,
                "ci": effect["ci"] if effect else None,
                "p": effect["p_holm"] if effect else None,
            }
    return trials


def _geometry(path: Path) -> dict[str, Any]:
    found = read_json(path)
    caption, numbers = read_caption(path.parent, path.stem)
    image = base64.b64encode(path.with_suffix(".svg").read_bytes()).decode("ascii")
    return {"names": found["names"], "said": said(found), "caption": caption, "numbers": numbers, "image": image}


def _render(content: dict[str, Any], folder: Path, geometries: list[dict[str, Any]]) -> str:
    templates = environment()
    templates.filters |= {
        "number": number,
        "interval": interval,
        "p": p_words,
        "equation": p_equation,
        "strength": strength,
        "count": "{:,}".format,
    }
    figures = [
        {
            "name": name,
            "title": title,
            "caption": description(name),
            "image": base64.b64encode((folder / f"{name}.svg").read_bytes()).decode("ascii"),
        }
        for name, title in COMPARISON_FIGURES.items()
    ]
    norms = list(dict.fromkeys(norm for run in content["runs"] for norm in run["norms"]))
    return templates.get_template("comparison.html.j2").render(
        **content,
        figures=figures,
        geometries=geometries,
        norms=norms,
        dimensions=DIMENSIONS,
        marks=VERDICT_MARKS,
        least=MIN_WORDS,
    )
