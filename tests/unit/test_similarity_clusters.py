"""Planted synonyms, opposites and groups are found, and what clusters.json holds is SciPy's and scikit-learn's."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.cluster.hierarchy import fcluster, linkage
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, silhouette_score
from sklearn.metrics.pairwise import cosine_similarity
from threadpoolctl import threadpool_limits

from affectome.analyses.clusters import cluster, clusters, in_order_of_appearance
from affectome.analyses.similarity import extreme_pairs, similarity
from affectome.vectors.contrasts import unit
from tests.planted import orthonormal, strict_json, vector_file

WIDTH = 30


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Matrices of this size gain nothing from threads, and on a busy machine lose minutes waiting for them."""
    with threadpool_limits(1):
        yield


def groups(sizes: list[int], noise: float = 0.05, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of very different lengths about `len(sizes)` orthogonal directions, shuffled, and the group of each."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    vectors = orthonormal(rng, len(sizes), WIDTH)[labels] + noise * rng.normal(size=(len(labels), WIDTH))
    return vectors * rng.uniform(0.1, 50, size=(len(labels), 1)), labels


def names(count: int) -> list[str]:
    return [f"emotion {number}" for number in range(count)]


@pytest.mark.parametrize("sizes", [[5, 9, 3, 6], [4, 4], [2, 3, 4, 5, 6, 7]])
def test_planted_groups_are_found(tmp_path: Path, sizes: list[int]) -> None:
    vectors, labels = groups(sizes)
    file = vector_file(tmp_path / "v.h5", 4, names(len(labels)), vectors)
    clusters([file], len(sizes), 12, 0, tmp_path / "t.parquet", tmp_path / "c.json")
    table, found = pd.read_parquet(tmp_path / "t.parquet"), strict_json(tmp_path / "c.json")["layers"]["4"]
    assert list(table.columns) == ["layer", "emotion", "kmeans_best", "kmeans", "hierarchical"]
    assert table["emotion"].tolist() == names(len(labels))
    assert found["k_best"] == found["k"] == len(sizes)
    for column in ("kmeans_best", "kmeans", "hierarchical"):
        assert adjusted_rand_score(labels, table[column]) == 1
        assert table[column].drop_duplicates().tolist() == list(range(len(sizes)))
    assert list(found["silhouette"]) == [str(k) for k in range(2, min(12, len(labels) - 1) + 1)]
    assert found["silhouette"][str(len(sizes))] == max(found["silhouette"].values())


def test_the_number_of_clusters_asked_for_stands_beside_the_best() -> None:
    vectors, labels = groups([5, 9, 3, 6])
    found = cluster(unit(vectors), 7, 5, 0)
    assert (found["k"], found["k_best"]) == (7, 4)
    assert list(found["silhouette"]) == [2, 3, 4, 5]
    assert len(set(found["kmeans"])) == len(set(found["hierarchical"])) == 7
    assert adjusted_rand_score(labels, found["kmeans_best"]) == 1


def test_clusters_are_those_of_scipy_and_scikit_learn() -> None:
    vectors = unit(np.random.default_rng(1).normal(size=(25, WIDTH)))
    found = cluster(vectors, 6, 8, 3)
    # The distances between unit vectors by hand: 1 minus their dot product.
    distances = np.clip(1 - vectors @ vectors.T, 0, None)
    tree = linkage(distances[np.triu_indices(25, k=1)], "average")
    np.testing.assert_allclose(found["linkage"], tree, atol=1e-12)
    assert adjusted_rand_score(fcluster(tree, 6, "maxclust"), found["hierarchical"]) == 1
    for k in (2, 6, 8):
        labels = KMeans(k, n_init=10, random_state=3).fit_predict(vectors)
        assert found["silhouette"][k] == pytest.approx(silhouette_score(distances, labels, metric="precomputed"))
        if k == 6:
            assert adjusted_rand_score(labels, found["kmeans"]) == 1
    assert found["silhouette"][found["k_best"]] == max(found["silhouette"].values())


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("emotions", "k", "tried"), [(2, 1, []), (3, 2, [2]), (6, 5, [2, 3, 4, 5])])
def test_fewer_emotions_than_clusters(tmp_path: Path, emotions: int, k: int, tried: list[int]) -> None:
    vectors = np.random.default_rng(2).normal(size=(emotions, WIDTH))
    file = vector_file(tmp_path / "v.h5", 0, names(emotions), vectors - vectors.mean(axis=0))
    clusters([file], 10, 20, 0, tmp_path / "t.parquet", tmp_path / "c.json")
    found = strict_json(tmp_path / "c.json")["layers"]["0"]
    assert found["k"] == k
    assert list(found["silhouette"]) == [str(number) for number in tried]
    assert np.shape(found["linkage"]) == (emotions - 1, 4)
    assert pd.read_parquet(tmp_path / "t.parquet")["kmeans"].nunique() == k


def test_vectors_of_one_direction_are_no_distance_apart() -> None:
    vectors = unit(np.random.default_rng(3).normal(size=(6, WIDTH)))
    found = cluster(np.concatenate([vectors, vectors]), 3, 4, 0)
    np.testing.assert_allclose(found["linkage"][:6, 2], 0, atol=1e-12)
    assert (found["linkage"][:, 2] >= 0).all()


def test_neither_repetition_nor_the_order_of_files_changes_anything(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    files = [
        vector_file(tmp_path / f"{layer}.h5", layer, names(12), rng.normal(size=(12, WIDTH))) for layer in (2, 10, 7)
    ]
    written = []
    for number, order in enumerate((files, files, files[::-1])):
        paths = [tmp_path / f"{number}.{suffix}" for suffix in ("k.parquet", "k.json", "s.parquet", "s.json")]
        clusters(order, 3, 5, 0, *paths[:2])
        similarity(order, 4, *paths[2:])
        written.append([path.read_bytes() for path in paths])
    assert written[0] == written[1] == written[2]
    assert list(strict_json(tmp_path / "0.k.json")["layers"]) == ["2", "7", "10"]
    # A layer's clusters do not depend on which others there are.
    clusters([files[1]], 3, 5, 0, tmp_path / "t.parquet", tmp_path / "alone.json")
    assert strict_json(tmp_path / "alone.json")["layers"]["10"] == strict_json(tmp_path / "0.k.json")["layers"]["10"]


@given(st.lists(st.integers(-3, 3), min_size=1))
def test_clusters_are_numbered_as_they_appear(labels: list[int]) -> None:
    found = in_order_of_appearance(np.array(labels)).tolist()
    seen = list(dict.fromkeys(labels))
    assert found == [seen.index(label) for label in labels]


def test_planted_synonyms_and_opposites_are_found(tmp_path: Path) -> None:
    a, b, c, d = orthonormal(np.random.default_rng(5), 4, WIDTH)
    # Cosines: scared with afraid .96, glad with happy .8, happy with sad −1, glad with sad −.8, sleepy with none.
    vectors = {
        "afraid": a,
        "happy": 3 * b,
        "scared": 0.96 * a + 0.28 * c,
        "sad": -b,
        "sleepy": d,
        "glad": 4 * b + 3 * c,
    }
    file = vector_file(tmp_path / "v.h5", 3, list(vectors), np.array(list(vectors.values())))
    similarity([file], 2, tmp_path / "s.parquet", tmp_path / "s.json")
    pairs = strict_json(tmp_path / "s.json")["layers"]["3"]
    found = {kind: [(pair["a"], pair["b"], round(pair["cosine"], 4)) for pair in of] for kind, of in pairs.items()}
    assert found == {
        "similar": [("afraid", "scared", 0.96), ("happy", "glad", 0.8)],
        "opposed": [("happy", "sad", -1.0), ("sad", "glad", -0.8)],
    }
    table = pd.read_parquet(tmp_path / "s.parquet")
    assert list(table.columns) == ["layer", "a", "b", "cosine"]
    assert len(table) == 15
    assert set(table["layer"]) == {3}
    order = list(vectors)
    expected = cosine_similarity(np.array(list(vectors.values())))
    for row in table.itertuples():
        assert order.index(row.a) < order.index(row.b)
        assert row.cosine == pytest.approx(expected[order.index(row.a), order.index(row.b)], abs=1e-6)


def test_more_pairs_than_there_are(tmp_path: Path) -> None:
    cosines = np.array([[1, 0.5, -0.2], [0.5, 1, 0.5], [-0.2, 0.5, 1]])
    found = extreme_pairs(cosines, ("x", "y", "z"), 10)
    assert [(pair["a"], pair["b"]) for pair in found["similar"]] == [("x", "y"), ("y", "z"), ("x", "z")]
    assert [pair["cosine"] for pair in found["opposed"]] == [-0.2, 0.5, 0.5]
    file = vector_file(tmp_path / "v.h5", 0, ["x", "y"], np.array([[1.0, 2.0], [-1.0, -2.0]]))
    similarity([file], 10, tmp_path / "s.parquet", tmp_path / "s.json")
    only = strict_json(tmp_path / "s.json")["layers"]["0"]
    assert only["similar"] == only["opposed"]
    assert only["similar"][0]["cosine"] == pytest.approx(-1)
