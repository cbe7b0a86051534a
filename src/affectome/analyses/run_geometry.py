"""Whether two runs arrange the same emotions alike: another corpus, another model, or both.

Only the words that both runs have are compared; each run's vectors are centred over them, so that it does not matter
which others it has. Over every layer of one and every layer of the other: debiased linear CKA and RSA (see
`affectome.analyses.representational`), p from permuted words, q by Benjamini-Hochberg over all pairs of layers of a
measure. The best-matching layer is a choice among many; its p compares with the best of each permutation. Intervals
are jackknife intervals over words; the best pair's leaves out the choice.

At the two headline layers, further: the planes of the first two principal components (of the shared words) laid upon
one another by orthogonal Procrustes (Gower 1975; centred, scaled to length 1, rotated, reflected): `disparity` is the
squared distance that is left, 0 for the same shape and 1 for none, and `r` the correlations along the two axes after
the second plane was turned into the first. Their p values turn anew for every permutation, since turning alone makes
planes alike; intervals resample words and turn anew, with the components as they are. `components` are the
correlations of the components as they come. Where both runs have the same width, the mean `cosine` of the two
vectors of a word, which means something in the same model only.

Runs that read the same texts share the noise of those texts, which raises all of this.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from affectome.analyses.geometry import orient, principal_components
from affectome.analyses.norms import read_norm, shared
from affectome.analyses.representational import (
    MEASURES,
    MIN_EMOTIONS,
    delete_one,
    exceedance,
    gram,
    jackknife_interval,
    null_similarities,
    plain_cka,
    stacked,
)
from affectome.analyses.statistics import (
    benjamini_hochberg,
    correlations,
    interval,
    p_value,
    paired_correlations,
)
from affectome.errors import UserError
from affectome.files import write_json, write_table
from affectome.randomness import generator
from affectome.vectors.contrasts import unit
from affectome.vectors.store import Vectors, read_all

COLUMNS = ["layer_a", "layer_b", "measure", "value", "low", "high", "chance", "chance_high", "p", "q", "n"]
_TAIL = 0.95


def run_geometry(
    a: list[str | Path],
    b: list[str | Path],
    names: list[str],
    headlines: list[int],
    bootstrap: int,
    permutations: int,
    seed: int,
    table: str | Path,
    output: str | Path,
    norm: dict[str, Any] | None = None,
) -> None:
    """Write how alike the vector files of runs `a` and `b` are; `names` and `headlines` (layers) are of a, then b.

    `norm`, described as for `read_norm`, turns the first plane as in `affectome.analyses.geometry`. `table` (Parquet)
    has `COLUMNS`: a row per pair of layers and measure (`cka`, `rsa`, `cka_plain`, which has a chance level only, and
    `cosine`, of layers with the same number and the headline pair). `output` (JSON) has `names`, `n` (shared words),
    `emotions` (of each run), `widths`, `layers`, `headlines`, `measures{measure: {headline{value, ci, p, q}, best,
    best_for_a, best_for_b}}`, `cka_plain{value, chance}`, `plane` (see `match_planes`, with the `words` and their
    places `a` and `b`), and `cosine{value, ci, p}` or None. The best ones are `{layer_a, layer_b, value, ci, p}`: of
    all pairs, and of those with the headline layer of a, and of b. Raises UserError for fewer than `MIN_EMOTIONS`
    shared words and for a headline layer without vectors.
    """
    runs = [read_all(paths) for paths in (a, b)]
    for name, layers, headline in zip(names, runs, headlines, strict=True):
        if headline not in layers:
            has = ", ".join(map(str, layers))
            raise UserError(f"{name}: has no vectors of its headline layer {headline}; it has those of {has}")
    first, second = (next(iter(layers.values())).emotions for layers in runs)
    words = tuple(word for word in first if word in set(second))
    n = len(words)
    if n < MIN_EMOTIONS:
        raise UserError(
            f"{' and '.join(names)} share {n} emotions, and comparing takes at least {MIN_EMOTIONS}; leave one of "
            "them out"
        )
    sides = [[_of_words(each, words) for each in layers.values()] for layers in runs]
    numbers = [list(layers) for layers in runs]
    at = tuple(layers.index(headline) for layers, headline in zip(numbers, headlines, strict=True))
    content: dict[str, Any] = {
        "names": names,
        "n": n,
        "emotions": [len(first), len(second)],
        "widths": [side[0].shape[1] for side in sides],
        "layers": numbers,
        "headlines": headlines,
        "bootstrap": bootstrap,
        "permutations": permutations,
        "measures": {},
    }
    frames = []
    for measure in MEASURES:
        matrices = [stacked(measure, side) for side in sides]
        profiles = [measure.profiles(each) for each in matrices]
        value = profiles[0] @ profiles[1].T
        null = null_similarities(*profiles, n, permutations, generator(seed, "run_geometry", measure.name))
        low, high = jackknife_interval(value, delete_one(measure, *matrices))
        p = exceedance(value, null)
        found = {"value": value, "low": low, "high": high, "chance": null.mean(axis=0)}
        found |= {"chance_high": np.quantile(null, _TAIL, axis=0), "p": p, "q": benjamini_hochberg(p)}
        frames.append(_rows(numbers, found).assign(measure=measure.name))
        content["measures"][measure.name] = _chosen(numbers, at, found, null)
    plain, chance = plain_cka(*(np.stack([gram(each) for each in side]) for side in sides))
    content["cka_plain"] = {"value": plain[at], "chance": chance[at]}
    frames.append(_rows(numbers, {"value": plain, "chance": chance}).assign(measure="cka_plain"))

    cosines = _cosines(numbers, at, sides, bootstrap, permutations, seed)
    if cosines is not None:
        frames.append(cosines.assign(measure="cosine"))
        here = cosines[(cosines["layer_a"] == headlines[0]) & (cosines["layer_b"] == headlines[1])].iloc[0]
        content["cosine"] = {"value": here["value"], "ci": [here["low"], here["high"]], "p": here["p"]}
    else:
        content["cosine"] = None
    planes = [plane(side[index], words, norm) for side, index in zip(sides, at, strict=True)]
    rng = generator(seed, "run_geometry", "plane")
    matched, turned = match_planes(*planes, bootstrap, permutations, rng)
    content["plane"] = matched | {"words": words, "a": standard(planes[0]), "b": turned}
    write_table(table, pd.concat(frames, ignore_index=True).assign(n=n).reindex(columns=COLUMNS))
    write_json(output, content)


def _of_words(layer: Vectors, words: tuple[str, ...]) -> np.ndarray:
    place = {emotion: index for index, emotion in enumerate(layer.emotions)}
    chosen = layer.denoised[[place[word] for word in words]].astype(np.float64)
    return chosen - chosen.mean(axis=0)


def _rows(numbers: list[list[int]], found: dict[str, np.ndarray]) -> pd.DataFrame:
    columns = {
        "layer_a": np.repeat(numbers[0], len(numbers[1])),
        "layer_b": np.tile(numbers[1], len(numbers[0])),
    }
    return pd.DataFrame(columns | {name: values.ravel() for name, values in found.items()})


def _chosen(
    numbers: list[list[int]], at: tuple[int, int], found: dict[str, np.ndarray], null: np.ndarray
) -> dict[str, Any]:
    """The headline pair and the best pairs of all, in the first run's headline row, and in the second's column."""
    every = np.ones(found["value"].shape, dtype=bool)
    row, column = np.zeros_like(every), np.zeros_like(every)
    row[at[0]] = column[:, at[1]] = True

    def entry(i: int, j: int) -> dict[str, Any]:
        bounds = [found["low"][i, j], found["high"][i, j]]
        return {"layer_a": numbers[0][i], "layer_b": numbers[1][j], "value": found["value"][i, j], "ci": bounds}

    def best(among: np.ndarray) -> dict[str, Any]:
        masked = np.where(among, found["value"], -np.inf)
        i, j = np.unravel_index(masked.argmax(), masked.shape)
        return entry(i, j) | {"p": p_value(masked[i, j], null[:, among].max(axis=1))}

    headline = entry(*at) | {"p": found["p"][at], "q": found["q"][at]}
    return {"headline": headline, "best": best(every), "best_for_a": best(row), "best_for_b": best(column)}


def _cosines(
    numbers: list[list[int]],
    at: tuple[int, int],
    sides: list[list[np.ndarray]],
    bootstrap: int,
    permutations: int,
    seed: int,
) -> pd.DataFrame | None:
    """Rows of mean cosines of a word's two vectors, None where widths differ."""
    if sides[0][0].shape[1] != sides[1][0].shape[1]:
        return None
    same = [(i, numbers[1].index(layer)) for i, layer in enumerate(numbers[0]) if layer in numbers[1]]
    rows = []
    for i, j in dict.fromkeys([*same, at]):
        table = unit(sides[0][i]) @ unit(sides[1][j]).T
        own = np.diag(table)
        rng = generator(seed, "run_geometry", "cosine", numbers[0][i], numbers[1][j])
        n = len(own)
        null = np.array([table[np.arange(n), rng.permutation(n)].mean() for _ in range(permutations)])
        low, high = interval(own[rng.integers(0, n, size=(bootstrap, n))].mean(axis=1))
        row = {"layer_a": numbers[0][i], "layer_b": numbers[1][j], "value": own.mean(), "low": low, "high": high}
        row |= {"chance": null.mean(), "chance_high": np.quantile(null, _TAIL), "p": p_value(own.mean(), null)}
        rows.append(row)
    found = pd.DataFrame(rows)
    return found.assign(q=benjamini_hochberg(found["p"].to_numpy()))


def plane(vectors: np.ndarray, words: tuple[str, ...], norm: dict[str, Any] | None) -> np.ndarray:
    """Scores (words, 2) on the first two principal components, oriented as in `affectome.analyses.geometry`."""
    scores = principal_components(vectors)[0][:, :2]
    scores = np.pad(scores, ((0, 0), (0, 2 - scores.shape[1])))
    ratings = read_norm(norm["file"], norm) if norm else pd.DataFrame(columns=["valence", "arousal"], dtype=float)
    return orient(scores, *shared(ratings, words))


def standard(points: np.ndarray) -> np.ndarray:
    """`points` (…, n, 2) around their mean, at length 1; equal points, as a resample can have, stay at 0."""
    centred = points - points.mean(axis=-2, keepdims=True)
    length = np.linalg.norm(centred, axis=(-2, -1), keepdims=True)
    return np.divide(centred, length, out=np.zeros_like(centred), where=length > 0)


def turned_to(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`second` (…, n, 2) rotated, reflected and scaled to lie nearest to `first`, both standard, and what is left (…,).

    As `scipy.spatial.procrustes`, for many at a time.
    """
    left, singular, right = np.linalg.svd(np.swapaxes(second, -2, -1) @ first)
    scale = singular.sum(axis=-1)
    return second @ (left @ right) * scale[..., None, None], 1 - scale**2


def match_planes(
    first: np.ndarray, second: np.ndarray, bootstrap: int, permutations: int, rng: np.random.Generator
) -> tuple[dict[str, Any], np.ndarray]:
    """`disparity{value, ci, p, chance}`, `r` (the same for each axis) and `components` (2, 2) of planes (n, 2).

    Also returns the second plane as it lies upon the first when that is standard.
    """
    n = len(first)
    orders = np.stack([rng.permutation(n) for _ in range(permutations)])
    rows = rng.integers(0, n, size=(bootstrap, n))
    target = standard(first)
    turned, disparity = turned_to(target, standard(second))
    null_turned, null_disparity = turned_to(target, standard(second)[orders])
    # Resamples are centred and scaled anew, as the planes were.
    drawn_first = standard(first[rows])
    drawn_turned, drawn_disparity = turned_to(drawn_first, standard(second[rows]))
    r = paired_correlations(target, turned)
    axes = []
    for axis in range(2):
        null = _correlations(target[None, :, axis], null_turned[:, :, axis])
        draws = _correlations(drawn_first[:, :, axis], drawn_turned[:, :, axis])
        axes.append({"value": r[axis], "ci": interval(draws), "p": p_value(r[axis], null), "chance": null.mean()})
    found = {
        "disparity": {
            "value": disparity,
            "ci": interval(drawn_disparity),
            "p": p_value(-disparity, -null_disparity),
            "chance": null_disparity.mean(),
        },
        "r": axes,
        "components": correlations(first, second),
    }
    return found, turned


def _correlations(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Correlations (draws,) of rows (draws, n)."""
    a, b = (each - each.mean(axis=1, keepdims=True) for each in (first, second))
    with np.errstate(invalid="ignore"):
        return (a * b).sum(axis=1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
