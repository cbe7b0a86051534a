"""Whether emotions whose words mean the same have similar vectors, and opposites opposed ones.

A table lists pairs of words that are synonyms or antonyms. Both kinds are compared with *unrelated* pairs: all pairs of
listed words that are neither listed nor have a listed partner in common, nor partners that are listed with one another
(three steps apart or more), since a synonym's synonym is no unrelated word. Per layer and kind:

- the mean cosine, and the area under the curve (AUC) by which cosine tells the kind from unrelated pairs: the
  probability that a synonym pair has the higher cosine, and that an antonym pair has the lower one; chance is 0.5;
- 95 % bootstrap intervals over words: a resample weighs each pair by how often its two words were drawn;
- p, two-sided, for the AUC from permutations of the words over the vectors (pairs that share a word are not
  independent), q by Benjamini-Hochberg over layers and kinds.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from affectome.analyses.statistics import benjamini_hochberg, interval, p_value
from affectome.errors import UserError
from affectome.files import write_json, write_table
from affectome.randomness import generator
from affectome.vectors.store import read_all

KINDS = ("synonym", "antonym")
# A kind with fewer pairs among a run's words is listed but not judged.
MIN_PAIRS = 5
# Steps over listed pairs from which words count as unrelated.
_UNRELATED = 3
# Pairs listed per layer as the most telling exceptions.
_SHOWN = 10

# The one cosine of a listed pair that a replication reports: Gemotions, Gemma-4-31B in 4 bit.
PUBLISHED = {"a": "afraid", "b": "scared", "cosine": 0.974, "source": "Gemotions, Gemma-4-31B (4-bit)"}


def read_relations(file: str | Path, emotions: tuple[str, ...]) -> pd.DataFrame:
    """Listed pairs of which both words are among `emotions`: `a, b, relation` and their positions `i < j`.

    `file` is a CSV with `a, b, relation` (one of `KINDS`). Raises UserError where it cannot be used so.
    """
    try:
        listed = pd.read_csv(file, dtype=str)[["a", "b", "relation"]].dropna()
    except (KeyError, ValueError) as error:
        raise UserError(f"{file}: cannot be read as a table of `a,b,relation` ({error})") from error
    unknown = sorted(set(listed["relation"]) - set(KINDS))
    if unknown:
        raise UserError(f"{file}: relation {unknown[0]!r} is unknown; allowed: {', '.join(KINDS)}")
    same = listed[listed["a"] == listed["b"]]
    if len(same):
        raise UserError(f"{file}: pairs {same['a'].iloc[0]!r} with itself")
    pairs = pd.Series([tuple(sorted(pair)) for pair in zip(listed["a"], listed["b"], strict=True)])
    if pairs.duplicated().any():
        raise UserError(f"{file}: lists {' and '.join(pairs[pairs.duplicated()].iloc[0])} more than once")
    place = {emotion: index for index, emotion in enumerate(emotions)}
    listed = listed[listed["a"].isin(place) & listed["b"].isin(place)]
    ends = np.sort([[place[a], place[b]] for a, b in zip(listed["a"], listed["b"], strict=True)]).reshape(-1, 2)
    return listed.assign(i=ends[:, 0], j=ends[:, 1]).reset_index(drop=True)


def kinds_of_pairs(listed: pd.DataFrame, n: int) -> tuple[np.ndarray, np.ndarray]:
    """The listed words (words,), ascending positions among `n`, and the kind of every pair of them.

    Kinds (words, words; upper triangle) are the index in `KINDS`, `len(KINDS)` for unrelated pairs, −1 for others.
    """
    words = np.unique(listed[["i", "j"]].to_numpy())
    at = np.full(n, -1)
    at[words] = np.arange(len(words))
    i, j = at[listed["i"]], at[listed["j"]]
    joined = np.eye(len(words), dtype=bool)
    joined[i, j] = joined[j, i] = True
    near = joined.copy()
    for _ in range(_UNRELATED - 2):
        near = near @ joined
    kinds = np.where(near, -1, len(KINDS))
    kinds[i, j] = listed["relation"].map(KINDS.index)
    return words, kinds


def weighted_auc(codes: np.ndarray, kind: np.ndarray, unrelated: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted probability (draws,) that a pair of a kind has a higher cosine than an unrelated one, ties half.

    `codes` (pairs,) order the cosines, `kind` and `unrelated` are the positions of such pairs, and `weights` (pairs,
    draws) whole numbers, of which float32 holds sums exactly.
    """
    order = unrelated[np.argsort(codes[unrelated], kind="stable")]
    below = np.cumsum(np.concatenate([np.zeros_like(weights[:1]), weights[order]]), axis=0)
    sides = [np.searchsorted(codes[order], codes[kind], side) for side in ("left", "right")]
    beaten = (weights[kind] * (below[sides[0]] + below[sides[1]])).sum(axis=0, dtype=np.float64) / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        return beaten / (weights[kind].sum(axis=0, dtype=np.float64) * below[-1])


def auc(codes: np.ndarray, kind: np.ndarray, unrelated: np.ndarray) -> float:
    """The same where all pairs weigh alike; `codes` are whole numbers from 0 on."""
    counts = np.bincount(codes[unrelated], minlength=codes.max() + 1)
    upto = np.cumsum(counts)
    return float((upto[codes[kind]] - counts[codes[kind]] / 2).mean() / len(unrelated))


def relations(
    vectors: list[str | Path],
    relations: str | Path,
    bootstrap: int,
    permutations: int,
    seed: int,
    table: str | Path,
    output: str | Path,
) -> None:
    """Write what is described above for the pairs that `relations` (CSV) lists, for every layer.

    `table` (Parquet) has every listed pair at every layer: `layer, a, b, relation, cosine, percentile, n`; the
    percentile is the share, in per cent, of all `n` pairs of the run's emotions whose cosine is smaller, ties half.
    `output` (JSON) has `words` (listed), `n` (pairs by kind, `unrelated` too), `published` and, by layer, `means{kind:
    {value, ci}}`, `auc{kind: {value, ci, p, q}}`, `published` (the cosine and percentile of the published pair here),
    and lists of exceptions: `similar_unlisted`, `opposed_unlisted`, `weakest_synonyms`, `closest_antonyms`. Kinds with
    fewer than `MIN_PAIRS` pairs have no means and AUC. Raises UserError where the list cannot be used.
    """
    layers = read_all(vectors)
    emotions = {found.emotions for found in layers.values()}
    if len(emotions) != 1:
        raise UserError("the layers' vector files hold different emotions; delete the run's vectors folder and rerun")
    names = emotions.pop()
    listed = read_relations(relations, names)
    words, kinds = kinds_of_pairs(listed, len(names))
    pairs = np.triu_indices(len(words), k=1)
    of = {name: np.flatnonzero(kinds[pairs] == index) for index, name in enumerate((*KINDS, "unrelated"))}
    # All layers share what is drawn, so that they differ by their vectors alone.
    rng = generator(seed, "relations")
    drawn = rng.multinomial(len(words), np.full(len(words), 1 / max(len(words), 1)), size=bootstrap).T
    weights = (drawn[pairs[0]] * drawn[pairs[1]]).astype(np.float32)
    orders = [rng.permutation(len(words)) for _ in range(permutations)]
    found, frames = {}, []
    for layer, each in layers.items():
        unit = each.unit.astype(np.float64)
        # Stored cosines are float64 of float32 vectors: equal geometry must tie.
        cosines = (unit @ unit.T).round(6)
        rows = _listed_rows(listed, cosines)
        frames.append(rows.assign(layer=layer))
        judged = judge(cosines[np.ix_(words, words)], pairs, of, weights, orders)
        found[layer] = judged | _published(rows) | _exceptions(names, cosines, listed, rows)
    _correct(found)
    columns = ["layer", "a", "b", "relation", "cosine", "percentile", "n"]
    write_table(table, pd.concat(frames, ignore_index=True)[columns])
    write_json(
        output,
        {
            "words": len(words),
            "n": {name: len(positions) for name, positions in of.items()},
            "min_pairs": MIN_PAIRS,
            "bootstrap": bootstrap,
            "permutations": permutations,
            "chance": 0.5,
            "published": PUBLISHED,
            "layers": found,
        },
    )


def judge(
    cosines: np.ndarray,
    pairs: tuple[np.ndarray, np.ndarray],
    of: dict[str, np.ndarray],
    weights: np.ndarray,
    orders: list[np.ndarray],
) -> dict[str, Any]:
    """`means` and `auc` by kind among `cosines` (words, words).

    `pairs` are the words of every pair, `of` the positions of the kinds' pairs among them, `weights` (pairs, draws)
    their weights in bootstrap resamples and `orders` permutations of the words.
    """
    here = cosines[pairs]
    enough = [name for name, positions in of.items() if len(positions) >= MIN_PAIRS]
    means = {}
    for name in enough:
        chosen = weights[of[name]]
        with np.errstate(invalid="ignore", divide="ignore"):
            draws = (here[of[name]] @ chosen) / chosen.sum(axis=0)
        means[name] = {"value": here[of[name]].mean(), "ci": interval(draws)}
    judged = [name for name in KINDS if name in enough and "unrelated" in enough]
    codes = np.unique(cosines, return_inverse=True)[1].reshape(cosines.shape)
    null = np.empty((len(orders), len(judged)))
    for index, order in enumerate(orders if judged else []):
        shuffled = codes[order[pairs[0]], order[pairs[1]]]
        null[index] = [auc(shuffled, of[name], of["unrelated"]) for name in judged]
    areas = {}
    for column, name in enumerate(judged):
        sign = 1 if name == "synonym" else -1
        value = auc(codes[pairs], of[name], of["unrelated"])
        draws = weighted_auc(codes[pairs], of[name], of["unrelated"], weights)
        areas[name] = {
            "value": 0.5 + sign * (value - 0.5),
            "ci": interval(0.5 + sign * (draws - 0.5)),
            "p": p_value(abs(value - 0.5), np.abs(null[:, column] - 0.5)),
        }
    return {"means": means, "auc": areas}


def _listed_rows(listed: pd.DataFrame, cosines: np.ndarray) -> pd.DataFrame:
    every = np.sort(cosines[np.triu_indices(len(cosines), k=1)])
    value = cosines[listed["i"], listed["j"]]
    below, upto = (np.searchsorted(every, value, side) for side in ("left", "right"))
    share = 50 * (below + upto) / max(len(every), 1)
    return listed[["a", "b", "relation"]].assign(cosine=value, percentile=share, n=len(every))


def _published(rows: pd.DataFrame) -> dict[str, Any]:
    here = rows[[{a, b} == {PUBLISHED["a"], PUBLISHED["b"]} for a, b in zip(rows["a"], rows["b"], strict=True)]]
    found = here[["cosine", "percentile"]].iloc[0].to_dict() if len(here) else None
    return {"published": found}


def _exceptions(
    emotions: tuple[str, ...], cosines: np.ndarray, listed: pd.DataFrame, rows: pd.DataFrame
) -> dict[str, Any]:
    first, second = np.triu_indices(len(emotions), k=1)
    free = np.ones(cosines.shape, dtype=bool)
    free[listed["i"], listed["j"]] = False
    kept = free[first, second]
    pairs = pd.DataFrame({"i": first[kept], "j": second[kept], "cosine": cosines[first[kept], second[kept]]})
    pairs = pairs.assign(a=[emotions[i] for i in pairs["i"]], b=[emotions[j] for j in pairs["j"]])
    kind = {name: rows[rows["relation"] == name] for name in KINDS}
    return {
        "similar_unlisted": _shown(pairs, ascending=False),
        "opposed_unlisted": _shown(pairs, ascending=True),
        "weakest_synonyms": _shown(kind["synonym"], ascending=True),
        "closest_antonyms": _shown(kind["antonym"], ascending=False),
    }


def _shown(pairs: pd.DataFrame, ascending: bool) -> list[dict[str, Any]]:
    chosen = pairs.sort_values(["cosine", "a", "b"], ascending=[ascending, True, True]).head(_SHOWN)
    return chosen[["a", "b", "cosine"]].to_dict("records")


def _correct(layers: dict[int, Any]) -> None:
    entries = [entry for found in layers.values() for entry in found["auc"].values()]
    for entry, q in zip(entries, benjamini_hochberg([entry["p"] for entry in entries]), strict=True):
        entry["q"] = q
