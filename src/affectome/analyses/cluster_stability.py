"""Whether clusters of emotions would come back with other stories, whether there are any, and whether they are known.

**Stability.** Topics are drawn anew: a Bayesian bootstrap (Rubin 1981, Ann. Stat. 9, 130-134) weighs every topic by an
exponential random number, the same for all emotions, since all are told about the same topics; no emotion can lose all
its stories. Vectors are made again from the weighted means (same reference, same neutral basis) and clustered again as
before. Against the clusters of all stories: the adjusted Rand index (ARI; 1 the same, 0 chance), for each cluster the
mean over resamples of the largest Jaccard similarity with any new cluster (Hennig 2007, Comput. Stat. Data Anal. 52,
258-271, who calls a cluster stable from 0.75 and dissolved at 0.5 or less), beside what the same labels give when
permuted, and for every pair of emotions the share of resamples in which they are together. A resample carries the noise
of the stories twice, so these err on the side of caution. Intervals hold the central 95 % of resamples.

**Silhouettes.** A cloud without clusters has positive silhouettes too. What is found for each number of clusters is
compared with Gaussian clouds of exactly the same mean and covariance: the centred vectors' left singular vectors are
replaced by random ones (rotation test, Langsrud 2005, Stat. Comput. 15, 53-60; exact if the vectors are one Gaussian
cloud). p is one-sided, q by Benjamini-Hochberg over the numbers of clusters; the best silhouette's p repeats the choice
in every cloud. Observed and random vectors are clustered alike, with `_QUICK` starts of k-means.

**Reference.** The ARI with clusters that the user supplies, over the shared words, p by permuting the words.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from scipy.cluster.hierarchy import cut_tree, linkage
from scipy.spatial.distance import pdist
from sklearn.cluster import KMeans
from sklearn.metrics import silhouette_score

from affectome.activations.store import each_block, open_layer, read_columns, rows_of
from affectome.analyses.statistics import benjamini_hochberg, interval, p_value
from affectome.errors import UserError
from affectome.files import read_json, read_table, write_json, write_table
from affectome.randomness import generator
from affectome.vectors.contrasts import Sums, contrast, group_sums, unit
from affectome.vectors.denoising import project_out
from affectome.vectors.store import Vectors, read_vectors

METHODS = ("kmeans", "hierarchical", "kmeans_best")
# Hennig's (2007) reading of a mean Jaccard similarity.
STABLE, DISSOLVED = 0.75, 0.5
# Fewer shared words say nothing about a reference.
MIN_WORDS = 5
# Texts without topics are dealt into at most so many groups, which are drawn like topics.
_GROUPS = 100
# Starts of k-means: as many as for the clusters themselves, and fewer where hundreds of clouds are clustered.
_STARTS, _QUICK = 10, 3
_TAIL = 0.95


def cluster_stability(
    layer_file: str | Path,
    vectors: str | Path,
    clusters: str | Path,
    labels: str | Path,
    reference_clusters: str | Path | None,
    reference: str,
    bootstrap: int,
    rotations: int,
    permutations: int,
    seed: int,
    table: str | Path,
    output: str | Path,
) -> None:
    """Write how stable the clusters of one layer are; see the module.

    `layer_file` are the layer's activations, `vectors` its vectors, made with `reference`; `clusters` and `labels` the
    run's clusters.json and clusters.parquet; `reference_clusters` a CSV of `emotion,cluster` or None. `table` (Parquet)
    has `method, a, b, together, share, n`: for every pair of emotions whether all stories put them together and in what
    share of the `n` resamples they are. `output` (JSON) has `layer`, `n` (emotions), `resamples`, `drawn` (`kind`,
    topics or groups of texts, and `n`), `methods{method: {k, ari{value, ci}, clusters[{cluster, size, members, jaccard,
    ci, chance, called}]}}`, `silhouette{k: {value, chance, chance_high, p, q}}`, `best{k, value, p}`, `rotations`,
    `permutations` and `reference` (None, or `n`, `clusters` and `methods{method: {k, ari, ci, p}}`). Where an emotion
    has a single text there are no resamples and no `methods`. Raises UserError where the layer holds no activations per
    text or the reference cannot be read.
    """
    made = read_vectors(vectors)
    found = read_json(clusters)["layers"][str(made.layer)]
    here = read_table(labels, filters=[("layer", "==", made.layer)]).set_index("emotion").loc[list(made.emotions)]
    full = {method: here[method].to_numpy() for method in METHODS}
    with open_layer(layer_file) as file:
        cells = topic_sums(file, made.emotions)
    resampled = resample(cells, made, full, reference, bootstrap, seed) if cells else {}
    numbers = [int(k) for k in found["silhouette"]]
    content = {
        "layer": made.layer,
        "n": len(made.emotions),
        "resamples": bootstrap if cells else 0,
        "drawn": {"kind": cells.kind, "n": len(cells.groups)} if cells else None,
        "methods": {
            method: stability(full[method], drawn, made.emotions, generator(seed, "chance", method))
            for method, drawn in resampled.items()
        },
        "rotations": rotations,
        **silhouettes(made.denoised, numbers, rotations, seed),
        "permutations": permutations,
        "reference": agreement(full, resampled, made.emotions, reference_clusters, permutations, seed),
    }
    frames = [pairs(method, full[method], drawn, made.emotions) for method, drawn in resampled.items()]
    columns = ["method", "a", "b", "together", "share", "n"]
    write_table(table, pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=columns))
    write_json(output, content)


@dataclass(frozen=True)
class TopicSums:
    """Sums of activations of each emotion by topic; see `topic_sums`."""

    kind: str
    groups: tuple[str, ...]
    totals: np.ndarray
    counts: np.ndarray
    neutral: np.ndarray | None

    def vectors(self, weights: np.ndarray, reference: str) -> np.ndarray:
        """Raw emotion vectors (emotions, width) with the groups weighed by `weights` (groups,)."""
        means = np.einsum("g,egw->ew", weights, self.totals) / (self.counts @ weights)[:, None]
        return contrast(means, reference, self.neutral)


def resample(
    cells: TopicSums, made: Vectors, full: dict[str, np.ndarray], reference: str, bootstrap: int, seed: int
) -> dict[str, np.ndarray]:
    """Labels (bootstrap, emotions) by method of vectors that were made again from topics that were drawn anew."""
    weights = generator(seed, "cluster_stability", "weights").exponential(size=(bootstrap, len(cells.groups)))
    numbers = {method: int(labels.max()) + 1 for method, labels in full.items()}
    drawn: dict[str, list[np.ndarray]] = {method: [] for method in full}
    for index, row in enumerate(weights):
        again = unit(project_out(cells.vectors(row, reference), made.neutral_basis.astype(np.float64)))
        state = int(generator(seed, "cluster_stability", index).integers(2**31))
        for method, labels in clusterings(again, numbers, state).items():
            drawn[method].append(labels)
    return {method: np.array(labels) for method, labels in drawn.items()}


def topic_sums(file: h5py.File, emotions: tuple[str, ...]) -> TopicSums | None:
    """Sums (emotions, groups, width) in float64 and counts (emotions, groups) of an open layer's texts.

    Groups are the topics, by name. Where some emotion has texts of a single topic, each emotion's texts are dealt in
    turn into as many groups as the rarest one has texts, at most `_GROUPS`. None where an emotion has a single text,
    which cannot be drawn anew. Raises UserError as `rows_of` does.
    """
    rows = rows_of(file)
    emotion, topic, neutral = read_columns(file, "emotion", "topic", "neutral")
    place = {name: index for index, name in enumerate(emotions)}
    which = np.where(neutral, -1, [place.get(name, -1) for name in emotion])
    told = pd.DataFrame({"emotion": which[which >= 0], "topic": topic[which >= 0].astype(str)})
    texts = told.groupby("emotion").size()
    if texts.min() < 2:
        return None
    if told.groupby("emotion")["topic"].nunique().min() > 1:
        kind, names = "topics", tuple(sorted(told["topic"].unique()))
        group = told["topic"].map({name: index for index, name in enumerate(names)}).to_numpy()
    else:
        kind, names = "groups of texts", tuple(map(str, range(min(_GROUPS, int(texts.min())))))
        group = (told.groupby("emotion").cumcount() % len(names)).to_numpy()
    cells = np.full(len(which), -1)
    cells[which >= 0] = told["emotion"].to_numpy() * len(names) + group
    cells[neutral] = len(emotions) * len(names)
    sums = Sums.zeros(len(emotions) * len(names) + 1, rows.shape[1])
    for part in each_block(rows, lambda block, values: group_sums(values, cells[block])):
        sums.add(part)
    shape = (len(emotions), len(names))
    centre = sums.totals[-1] / sums.counts[-1] if sums.counts[-1] else None
    return TopicSums(kind, names, sums.totals[:-1].reshape(*shape, -1), sums.counts[:-1].reshape(shape), centre)


def clusterings(directions: np.ndarray, numbers: dict[str, int], state: int) -> dict[str, np.ndarray]:
    """Labels (emotions,) of unit vectors by method, as in `affectome.analyses.clusters`, `numbers` of clusters each."""
    tree = linkage(pdist(directions, "cosine"), "average")
    return {
        method: cut_tree(tree, k)[:, 0]
        if method == "hierarchical"
        else KMeans(k, n_init=_STARTS, random_state=state).fit_predict(directions)
        for method, k in numbers.items()
    }


def adjusted_rand(first: np.ndarray, second: np.ndarray) -> float:
    """Adjusted Rand index (Hubert & Arabie 1985, J. Classif. 2, 193-218) of two arrays of labels from 0 on.

    As scikit-learn's, which takes a hundred times longer over labels of this number. 1 where both are one cluster.
    """
    columns = second.max() + 1
    cells = np.bincount(first * columns + second, minlength=(first.max() + 1) * columns).reshape(-1, columns)
    both, mine, theirs = (
        (counts * (counts - 1) // 2).sum() for counts in (cells, cells.sum(axis=1), cells.sum(axis=0))
    )
    chance = mine * theirs / (len(first) * (len(first) - 1) / 2)
    most = (mine + theirs) / 2
    return float((both - chance) / (most - chance)) if most > chance else 1.0


def jaccards(full: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The largest Jaccard similarity (clusters of `full`,) of each cluster with any cluster of `other` labels."""
    first, second = (np.eye(labels.max() + 1)[labels] for labels in (full, other))
    both = first.T @ second
    either = first.sum(axis=0)[:, None] + second.sum(axis=0) - both
    return (both / either).max(axis=1)


def stability(
    full: np.ndarray, resampled: np.ndarray, emotions: tuple[str, ...], rng: np.random.Generator
) -> dict[str, Any]:
    """Stability of the clustering `full` (emotions,) in resamples (resamples, emotions)."""
    rand = np.array([adjusted_rand(full, each) for each in resampled])
    similar = np.array([jaccards(full, each) for each in resampled])
    chance = np.array([jaccards(full, rng.permutation(each)) for each in resampled])
    rows = []
    for cluster in range(full.max() + 1):
        members = [emotions[index] for index in np.flatnonzero(full == cluster)]
        mean = similar[:, cluster].mean()
        rows.append(
            {
                "cluster": cluster,
                "size": len(members),
                "members": members,
                "jaccard": mean,
                "ci": interval(similar[:, cluster]),
                "chance": chance[:, cluster].mean(),
                "called": "stable" if mean >= STABLE else "dissolved" if mean <= DISSOLVED else "doubtful",
            }
        )
    return {"k": int(full.max()) + 1, "ari": {"value": rand.mean(), "ci": interval(rand)}, "clusters": rows}


def silhouettes(vectors: np.ndarray, numbers: list[int], rotations: int, seed: int) -> dict[str, Any]:
    """Silhouettes of k-means for `numbers` of clusters of `vectors` (emotions, width) beside those of random clouds."""
    if not numbers:
        return {"silhouette": {}, "best": None}
    mean = vectors.mean(axis=0, dtype=np.float64)
    centred = vectors.astype(np.float64) - mean
    left, singular, right = np.linalg.svd(centred, full_matrices=False)
    rank = int(np.sum(singular > 1e-6 * singular[0]))
    # Coordinates along the components and, for the mean, along what lies outside them: all that distances depend on.
    inside = right[:rank] @ mean
    centre = np.append(inside, np.sqrt(max(mean @ mean - inside @ inside, 0.0)))
    shape = np.append(singular[:rank], 0.0)

    def scores(columns: np.ndarray, *item: object) -> list[float]:
        directions = unit(np.column_stack([columns, np.zeros(len(columns))]) * shape + centre)
        state = int(generator(seed, "silhouettes", *item).integers(2**31))
        found = [KMeans(k, n_init=_QUICK, random_state=state).fit_predict(directions) for k in numbers]
        return [silhouette_score(directions, labels, metric="cosine") for labels in found]

    observed = np.array(scores(left[:, :rank]))
    null = np.array(
        [
            scores(random_columns(len(vectors), rank, generator(seed, "rotation", index)), index)
            for index in range(rotations)
        ]
    )
    p = np.array([p_value(value, null[:, column]) for column, value in enumerate(observed)])
    rows = zip(
        numbers, observed, null.mean(axis=0), np.quantile(null, _TAIL, axis=0), p, benjamini_hochberg(p), strict=True
    )
    best = int(observed.argmax())
    names = ("value", "chance", "chance_high", "p", "q")
    return {
        "silhouette": {k: dict(zip(names, values, strict=True)) for k, *values in rows},
        "best": {"k": numbers[best], "value": observed[best], "p": p_value(observed[best], null.max(axis=1))},
    }


def random_columns(n: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Orthonormal columns (n, count) of mean 0, uniform over all such."""
    values = rng.normal(size=(n, count))
    columns, triangle = np.linalg.qr(values - values.mean(axis=0))
    return columns * np.sign(np.diag(triangle))


def pairs(method: str, full: np.ndarray, resampled: np.ndarray, emotions: tuple[str, ...]) -> pd.DataFrame:
    """Rows of the table for one method."""
    first, second = np.triu_indices(len(emotions), k=1)
    together = np.zeros((len(emotions), len(emotions)))
    for each in resampled:
        together += each[:, None] == each
    names = np.array(emotions, dtype=object)
    share = together[first, second] / len(resampled)
    columns = {"a": names[first], "b": names[second], "together": full[first] == full[second], "share": share}
    return pd.DataFrame({"method": method, **columns, "n": len(resampled)})


def read_clusters(file: str | Path) -> pd.Series:
    """Cluster names by emotion from a CSV of `emotion,cluster`; raises UserError where it cannot be used so."""
    try:
        known = pd.read_csv(file, dtype=str).set_index("emotion")["cluster"].dropna()
    except (KeyError, ValueError) as error:
        raise UserError(f"{file}: cannot be read as clusters of `emotion,cluster` ({error})") from error
    if known.index.has_duplicates:
        raise UserError(f"{file}: puts {known.index[known.index.duplicated()][0]} into more than one cluster")
    return known


def agreement(
    full: dict[str, np.ndarray],
    resampled: dict[str, np.ndarray],
    emotions: tuple[str, ...],
    file: str | Path | None,
    permutations: int,
    seed: int,
) -> dict[str, Any] | None:
    """Adjusted Rand indices with the clusters of `file` over the shared words; None without a file."""
    if file is None:
        return None
    known = read_clusters(file)
    shared = np.array([index for index, emotion in enumerate(emotions) if emotion in known.index], dtype=int)
    theirs = pd.factorize(known.loc[[emotions[index] for index in shared]])[0]
    result: dict[str, Any] = {"n": len(shared), "clusters": len(np.unique(theirs)), "methods": {}}
    if len(shared) < MIN_WORDS or result["clusters"] < 2:
        return result
    for method, labels in full.items():
        rng = generator(seed, "reference", method)
        value = adjusted_rand(theirs, labels[shared])
        null = np.array([adjusted_rand(rng.permutation(theirs), labels[shared]) for _ in range(permutations)])
        draws = np.array([adjusted_rand(theirs, each[shared]) for each in resampled.get(method, [])])
        k = len(np.unique(labels))
        result["methods"][method] = {
            "k": k,
            "ari": value,
            "ci": interval(draws) if len(draws) else None,
            "p": p_value(value, null),
        }
    return result
