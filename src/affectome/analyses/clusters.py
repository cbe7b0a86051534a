"""Groups of emotion vectors: k-means and hierarchical clustering on the unit vectors.

On unit vectors, k-means' squared distances order pairs as cosines do. The number of clusters is either the one of
highest mean silhouette (cosine distance) or fixed. The hierarchy is average linkage on cosine distance, cut into the
fixed number of groups. Clusters are numbered from 0 in the order in which the run's emotions first meet them.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.cluster.hierarchy import cut_tree, linkage
from scipy.spatial.distance import pdist
from sklearn.cluster import KMeans
from sklearn.metrics import silhouette_score

from affectome.files import write_json, write_table
from affectome.randomness import generator
from affectome.vectors.store import read_all


def in_order_of_appearance(labels: np.ndarray) -> np.ndarray:
    """`labels` renumbered 0, 1, … in the order in which they first occur."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse]


def cluster(unit: np.ndarray, k: int, k_max: int, seed: int) -> dict[str, Any]:
    """Cluster `unit` (emotions, width).

    Returns `silhouette` by k from 2 to `k_max`, `k_best`, `k` (both at most emotions − 1), the labels (emotions,)
    `kmeans_best`, `kmeans` and `hierarchical`, the latter two of `k` clusters, and SciPy's `linkage` matrix.
    """
    most = len(unit) - 1
    k = min(k, most)
    labels = {
        n: in_order_of_appearance(KMeans(n, n_init=10, random_state=seed).fit_predict(unit))
        for n in {k, *range(2, min(k_max, most) + 1)}
    }
    scores = {n: float(silhouette_score(unit, labels[n], metric="cosine")) for n in sorted(labels) if 2 <= n <= k_max}
    best = max(scores, key=lambda n: scores[n]) if scores else k
    tree = linkage(pdist(unit, "cosine"), "average")
    return {
        "silhouette": scores,
        "k_best": best,
        "k": k,
        "kmeans_best": labels[best],
        "kmeans": labels[k],
        "hierarchical": in_order_of_appearance(cut_tree(tree, k)[:, 0]),
        "linkage": tree,
    }


def clusters(paths: list[str | Path], k: int, k_max: int, seed: int, table: str | Path, output: str | Path) -> None:
    """Write labels (`layer, emotion, kmeans_best, kmeans, hierarchical`) and, per layer, silhouettes and linkage."""
    frames, layers = [], {}
    for layer, vectors in read_all(paths).items():
        state = int(generator(seed, "clusters", layer).integers(2**31))
        found = cluster(vectors.unit.astype(np.float64), k, k_max, state)
        labels = {name: found.pop(name) for name in ("kmeans_best", "kmeans", "hierarchical")}
        frames.append(pd.DataFrame({"layer": layer, "emotion": vectors.emotions, **labels}))
        layers[layer] = found
    write_table(table, pd.concat(frames, ignore_index=True))
    write_json(output, {"layers": layers})
