"""Emotions on a plane, and how much of their arrangement a plane can keep.

Maps of the unit vectors of one layer, by cosine distance:

- `mds`: metric multidimensional scaling, SMACOF from the classical solution, which tries to keep every distance.
  *Stress-1* (Kruskal 1964, Psychometrika 29, 1-27) is √(Σ(d − δ)² / Σd²) over pairs, distances δ scaled to fit best: 0
  is a perfect map. Chance is that of distances dealt to the pairs at random, which no plane can hold;
- `umap` (McInnes et al. 2018, arXiv 1802.03426; the extra `umap`), which keeps neighbours and gives up the rest;
- `pca`, the first two principal components, for comparison.

Each map is judged by its neighbours: *trustworthiness* (Venna & Kaski 2001; 1 if all neighbours on the map are
neighbours among the vectors) and the share of each emotion's nearest neighbours that the map keeps. Both are means over
emotions with 95 % bootstrap intervals over emotions; chance is the mean, and p one-sided, of the same map with the
emotions' names permuted. Maps have no scale that means anything in the model, and their axes no names: each is turned,
or reflected, to lie as near to the principal components as it can.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.linalg import orthogonal_procrustes
from scipy.spatial.distance import pdist, squareform
from sklearn.manifold import ClassicalMDS, smacof

from affectome.analyses.geometry import principal_components
from affectome.analyses.statistics import bootstrap_means, interval, p_value
from affectome.files import read_table, write_json, write_table
from affectome.randomness import generator
from affectome.vectors.store import read_vectors

# Neighbours that maps are judged by, and that UMAP keeps; fewer for few emotions.
NEIGHBOURS = 10
_UMAP_NEIGHBOURS = 15
MIN_EMOTIONS = 4
_COLUMNS = ["method", "emotion", "x", "y", "cluster", "n"]
_MISSING = "umap-learn is not installed; run `pip install 'affectome[umap]'` to have this map"


def emotion_maps(
    vectors: str | Path,
    labels: str | Path,
    bootstrap: int,
    permutations: int,
    stress_draws: int,
    seed: int,
    table: str | Path,
    output: str | Path,
) -> None:
    """Write maps of the emotions of the vector file `vectors`.

    `labels` is the run's clusters.parquet. `table` (Parquet) has `method, emotion, x, y, cluster, n`, where `cluster`
    is that of k-means and x has the larger spread; `output` (JSON) has `layer`, `n`, `neighbours`, `bootstrap`,
    `permutations` and, by map, `trustworthiness` and `kept`, each `{value, ci, chance, p}`, and for MDS `stress{value,
    chance, p, draws}`. Where umap-learn is missing, `umap` is `{"skipped": why}`. Fewer than `MIN_EMOTIONS` emotions
    have no maps: a plane holds any three points.
    """
    made = read_vectors(vectors)
    n = len(made.emotions)
    here = read_table(labels, filters=[("layer", "==", made.layer)]).set_index("emotion").loc[list(made.emotions)]
    # Trustworthiness is defined for fewer neighbours than half of the points.
    neighbours = max(1, min(NEIGHBOURS, (n - 1) // 2))
    content: dict[str, Any] = {
        "layer": made.layer,
        "n": n,
        "min_emotions": MIN_EMOTIONS,
        "neighbours": neighbours,
        "bootstrap": bootstrap,
        "permutations": permutations,
        "maps": {},
    }
    if n < MIN_EMOTIONS:
        write_table(table, pd.DataFrame(columns=_COLUMNS))
        write_json(output, content)
        return
    unit = made.unit.astype(np.float64)
    distances = squareform(pdist(unit, "cosine"))
    plane = _oriented(principal_components(unit)[0])
    state = int(generator(seed, "emotion_maps", made.layer).integers(2**31))
    places = {"mds": scaled(distances), "umap": neighbourly(unit, state), "pca": plane}
    frames = []
    for method, points in places.items():
        if points is None:
            content["maps"][method] = {"skipped": _MISSING}
            continue
        turned = aligned(points, plane)
        rng = generator(seed, "emotion_maps", method)
        content["maps"][method] = quality(distances, turned, neighbours, bootstrap, permutations, rng)
        columns = {"emotion": made.emotions, "x": turned[:, 0], "y": turned[:, 1], "cluster": here["kmeans"].to_numpy()}
        frames.append(pd.DataFrame({"method": method, **columns, "n": n}))
    drawn = [
        stress(each, scaled(each))
        for each in (_dealt(distances, generator(seed, "stress", index)) for index in range(stress_draws))
    ]
    value = stress(distances, places["mds"])
    content["maps"]["mds"]["stress"] = {
        "value": value,
        "chance": np.mean(drawn),
        "p": p_value(-value, -np.array(drawn)),
        "draws": stress_draws,
    }
    write_table(table, pd.concat(frames, ignore_index=True))
    write_json(output, content)


def scaled(distances: np.ndarray) -> np.ndarray:
    """Places (n, 2) by metric scaling of `distances` (n, n); no chance is involved."""
    start = ClassicalMDS(2, metric="precomputed").fit_transform(distances)
    return smacof(distances, n_components=2, init=start, n_init=1, normalized_stress=False)[0]


def stress(distances: np.ndarray, points: np.ndarray) -> float:
    """Kruskal's stress-1 of `points` (n, 2) for `distances` (n, n) scaled to fit best."""
    wanted, drawn = squareform(distances, checks=False), pdist(points)
    return float(np.sqrt(max(0.0, 1 - (wanted @ drawn) ** 2 / ((wanted @ wanted) * (drawn @ drawn)))))


def neighbourly(unit: np.ndarray, state: int) -> np.ndarray | None:
    """Places (n, 2) by UMAP, or None where umap-learn is not installed. One thread and a fixed state: repeatable."""
    if find_spec("umap") is None:
        return None
    from umap import UMAP

    neighbours = min(_UMAP_NEIGHBOURS, len(unit) - 1)
    # The spectral start fails for few points, and the principal components are no worse one.
    settings = {"metric": "cosine", "init": "pca", "random_state": state, "n_jobs": 1}
    return UMAP(n_neighbors=neighbours, **settings).fit_transform(unit).astype(np.float64)


def aligned(points: np.ndarray, plane: np.ndarray) -> np.ndarray:
    """`points` (n, 2) around their mean, rotated and reflected to lie nearest to `plane` (n, 2)."""
    centred = points - points.mean(axis=0)
    return centred @ orthogonal_procrustes(centred, plane)[0]


def _oriented(scores: np.ndarray) -> np.ndarray:
    """The first two columns, or zeros for want of them, each with its entry of largest magnitude positive."""
    plane = np.zeros((len(scores), 2))
    plane[:, : scores.shape[1]] = scores[:, :2]
    largest = np.take_along_axis(plane, np.abs(plane).argmax(axis=0)[None], axis=0)
    return plane * np.where(largest < 0, -1, 1)


def _dealt(distances: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return squareform(rng.permutation(squareform(distances, checks=False)))


def neighbourhood(ranks: np.ndarray, near: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Trustworthiness and share of kept neighbours of each emotion, (n,) each.

    `ranks` (n, n) says by row how near the others' vectors are, 1 the nearest; `near` (n, k) who is nearest on the map.
    """
    n, k = near.shape
    excess = np.take_along_axis(ranks, near, axis=1) - k
    wrong = np.where(excess > 0, excess, 0).sum(axis=1)
    return 1 - 2 * wrong / (k * (2 * n - 3 * k - 1)), (excess <= 0).mean(axis=1)


def quality(
    distances: np.ndarray,
    points: np.ndarray,
    neighbours: int,
    bootstrap: int,
    permutations: int,
    rng: np.random.Generator,
) -> dict[str, Any]:
    """How well `points` (n, 2) keep the neighbours that `distances` (n, n) give."""
    n = len(points)
    ranks = _ranks(distances)
    near = np.argsort(_ranks(squareform(pdist(points))), axis=1, kind="stable")[:, 1 : neighbours + 1]
    found = np.column_stack(neighbourhood(ranks, near))
    draws = bootstrap_means(found, np.arange(n), bootstrap, rng)
    null = np.empty((permutations, 2))
    for index in range(permutations):
        order = rng.permutation(n)
        null[index] = [each.mean() for each in neighbourhood(ranks[np.ix_(order, order)], near)]
    return {
        name: {
            "value": found[:, column].mean(),
            "ci": interval(draws[:, column]),
            "chance": null[:, column].mean(),
            "p": p_value(found[:, column].mean(), null[:, column]),
        }
        for column, name in enumerate(("trustworthiness", "kept"))
    }


def _ranks(distances: np.ndarray) -> np.ndarray:
    """By row, the rank (n, n) of every other column by distance from 1 on, and 0 for the row itself."""
    apart = distances.copy()
    np.fill_diagonal(apart, -1)
    return np.argsort(np.argsort(apart, axis=1, kind="stable"), axis=1, kind="stable")
