"""Clusters that stories tell apart are stable and found, clouds have none, and vectors are remade as they were made."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.stats
from sklearn.metrics import adjusted_rand_score, silhouette_score

from affectome.activations.store import Texts, open_layer, write_layer, write_shard
from affectome.analyses.cluster_stability import (
    METHODS,
    adjusted_rand,
    agreement,
    cluster_stability,
    jaccards,
    random_columns,
    read_clusters,
    silhouettes,
    stability,
    topic_sums,
)
from affectome.analyses.clusters import clusters
from affectome.errors import UserError
from affectome.figures.answers.cluster_stability import (
    draw_cluster_stability,
    numbers_cluster_stability,
    said,
)
from affectome.figures.style import house_style
from affectome.files import read_json
from affectome.vectors.compute import emotion_vectors
from affectome.vectors.denoising import project_out
from affectome.vectors.store import read_vectors
from tests.planted import strict_json

ROOT = Path(__file__).resolve().parents[2]
EMOTIONS = (ROOT / "resources/emotions/171.txt").read_text(encoding="utf-8").split("\n")[:171]
WORDS = [f"w{number}" for number in range(24)]


def store(folder: Path, texts: list[tuple[str, str]], values: np.ndarray) -> Path:
    """A layer file of `texts`, each (emotion, topic), no emotion for a neutral one, with their activations."""
    count = len(texts)
    emotion, topic = (np.array([text[side] for text in texts], dtype=object) for side in (0, 1))
    lengths = np.full(count, 60, dtype=np.int32)
    ids = np.array([f"{n:016x}" for n in range(count)], dtype=object)
    nothing = {"dropped": np.array([], dtype=object), "dropped_tokens": np.array([], dtype=np.int32)}
    rows = Texts(ids, emotion, topic, emotion == "", lengths, lengths - 1, lengths - 50, **nothing)
    made = {"basis": "b", "model": "m", "dtype": "float32", "device": "cpu", "tokens": 1, "seconds": 1.0, "cut": 0}
    (folder / "shards").mkdir(parents=True, exist_ok=True)
    write_shard(folder / "shards/0.h5", "k", rows, [0], values[None].astype(np.float32), np.ones((1, count)), **made)
    write_layer(folder / "layer_0.h5", [folder / "shards/0.h5"], 0)
    return folder / "layer_0.h5"


def told(centres: np.ndarray, topics: int, noise: float, seed: int = 0) -> tuple[list[tuple[str, str]], np.ndarray]:
    """A text of every emotion (a row of `centres`) and topic, a strong direction for each topic, and neutral texts."""
    rng = np.random.default_rng(seed)
    n, width = centres.shape
    texts = [(WORDS[e], f"t{t}") for t in range(topics) for e in range(n)] + [("", "t0")] * 8
    by_topic = 5 * rng.normal(size=(topics, width))
    values = [centres[e] + by_topic[t] + noise * rng.normal(size=width) for t in range(topics) for e in range(n)]
    return texts, np.vstack([*values, rng.normal(size=(8, width))])


def three_groups(spread: float = 0.3) -> np.ndarray:
    rng = np.random.default_rng(1)
    return np.repeat(4 * np.eye(3, 16), 8, axis=0) + spread * rng.normal(size=(24, 16))


def answered(
    folder: Path,
    texts: list[tuple[str, str]],
    values: np.ndarray,
    known: Path | None = None,
    reference: str = "mean_of_means",
    k: int = 3,
) -> Any:
    layer = store(folder, texts, values)
    words = list(dict.fromkeys(emotion for emotion, _ in texts if emotion))
    emotion_vectors(layer, folder / "v.h5", words, reference, {"components": 2}, "code")
    clusters([folder / "v.h5"], k, 5, 0, folder / "c.parquet", folder / "c.json")
    outputs = (folder / "t.parquet", folder / "o.json")
    cluster_stability(
        layer, folder / "v.h5", folder / "c.json", folder / "c.parquet", known, reference, 20, 39, 99, 0, *outputs
    )
    strict_json(folder / "o.json")
    return read_json(folder / "o.json"), pd.read_parquet(folder / "t.parquet")


@pytest.fixture(scope="module")
def grouped(tmp_path_factory) -> Any:
    folder = tmp_path_factory.mktemp("grouped")
    pd.DataFrame({"emotion": WORDS, "cluster": np.repeat(["x", "y", "z"], 8)}).to_csv(folder / "known.csv", index=False)
    return answered(folder, *told(three_groups(), 5, 0.5), known=folder / "known.csv")


def test_planted_clusters_are_stable_real_and_known(grouped):
    found, table = grouped
    assert found["drawn"] == {"kind": "topics", "n": 5}
    assert found["best"]["k"] == 3
    assert found["best"]["p"] == 1 / 40
    assert set(found["methods"]) == set(METHODS)
    for method in found["methods"].values():
        assert method["k"] == 3
        assert method["ari"]["value"] == 1
        assert [cluster["called"] for cluster in method["clusters"]] == ["stable"] * 3
        assert all(cluster["chance"] < 0.6 < cluster["jaccard"] for cluster in method["clusters"])
    assert found["methods"]["kmeans"]["clusters"][1]["members"] == WORDS[8:16]
    assert found["reference"]["n"] == 24
    assert {entry["ari"] for entry in found["reference"]["methods"].values()} == {1.0}
    assert {entry["p"] for entry in found["reference"]["methods"].values()} == {1 / 100}
    assert len(table) == 3 * 24 * 23 // 2
    assert ((table["share"] == 1) == table["together"]).all()
    assert (table["n"] == 20).all()
    assert {"value", "chance", "chance_high", "p", "q"} == set(found["silhouette"]["3"])


def test_clusters_of_noise_fall_apart(tmp_path):
    found, _ = answered(tmp_path, *told(np.zeros((24, 16)), 5, 1.0), k=6)
    method = found["methods"]["kmeans"]
    assert method["ari"]["value"] < 0.6
    assert "stable" not in {cluster["called"] for cluster in method["clusters"]}
    assert found["best"]["p"] > 0.05
    assert "not measurably more clustered" in said(found, 0)
    assert found["reference"] is None


@pytest.mark.parametrize("reference", ["mean_of_means", "rest", "neutral"])
def test_equal_weights_give_the_runs_own_vectors(tmp_path, reference):
    texts, values = told(three_groups(), 4, 0.5)
    # Of some emotions there is more than one text of a topic, of others none.
    texts, values = [*texts, ("w3", "t1")], np.vstack([values, np.ones(16)])
    keep = [index for index, text in enumerate(texts) if text != ("w5", "t2")]
    texts, values = [texts[index] for index in keep], values[keep]
    order = np.random.default_rng(0).permutation(len(texts))
    layer = store(tmp_path, [texts[index] for index in order], values[order])
    emotion_vectors(layer, tmp_path / "v.h5", WORDS, reference, {"components": 2}, "code")
    made = read_vectors(tmp_path / "v.h5")
    with open_layer(layer) as file:
        cells = topic_sums(file, made.emotions)
    raw = cells.vectors(np.ones(4), reference)
    np.testing.assert_allclose(raw, made.raw, atol=1e-4)
    np.testing.assert_allclose(project_out(raw, made.neutral_basis), made.denoised, atol=1e-4)
    # A topic of no weight is a topic that was not read.
    without = [index for index, text in enumerate(texts) if text[1] != "t3" or not text[0]]
    other = store(tmp_path / "without", [texts[index] for index in without], values[without])
    emotion_vectors(other, tmp_path / "w.h5", WORDS, reference, None, "code")
    np.testing.assert_allclose(
        cells.vectors(np.array([1.0, 1, 1, 0]), reference), read_vectors(tmp_path / "w.h5").raw, atol=1e-4
    )


def test_what_all_emotions_share_of_a_topic_does_not_count_as_noise(tmp_path):
    # The directions of topics are far longer than what tells the groups apart.
    texts, values = told(three_groups(0.1), 4, 0.05)
    values[:96] += 40 * np.repeat(np.random.default_rng(3).normal(size=(4, 16)), 24, axis=0)
    found, _ = answered(tmp_path, texts, values)
    assert found["methods"]["kmeans"]["ari"]["value"] == 1


def test_without_topics_texts_are_dealt_into_groups(tmp_path):
    texts, values = told(three_groups(), 5, 0.5)
    found, _ = answered(tmp_path, [(emotion, "same") for emotion, _ in texts], values)
    assert found["drawn"] == {"kind": "groups of texts", "n": 5}
    assert found["methods"]["kmeans"]["ari"]["value"] == 1


def test_an_emotion_with_one_text_leaves_the_rest_to_say(tmp_path):
    texts, values = told(three_groups(), 3, 0.5)
    keep = [index for index, (emotion, topic) in enumerate(texts) if emotion != "w5" or topic == "t0"]
    found, table = answered(tmp_path, [texts[index] for index in keep], values[keep])
    assert found["methods"] == {}
    assert found["resamples"] == 0
    assert table.empty
    assert found["best"]["k"] == 3
    with house_style():
        draw_cluster_stability(found, table, 0).canvas.draw()
    assert "an emotion has a single text" in said(found, 0)
    assert "no resamples" in numbers_cluster_stability(found, table, 0)


def test_moments_are_no_texts(tmp_path):
    layer = store(tmp_path, *told(three_groups(), 3, 0.5))
    with h5py.File(layer, "r+") as file:
        del file["activations"]
        with pytest.raises(UserError, match="stored layers"):
            topic_sums(file, tuple(WORDS))


def test_adjusted_rand_is_that_of_scikit_learn():
    rng = np.random.default_rng(5)
    for k in (1, 2, 5):
        first, second = rng.integers(0, k, 12), rng.integers(0, 4, 12)
        assert adjusted_rand(first, second) == pytest.approx(adjusted_rand_score(first, second))
    assert adjusted_rand(np.zeros(4, int), np.zeros(4, int)) == adjusted_rand(np.arange(4), np.arange(4)) == 1


def test_jaccard_and_shares_by_hand():
    full = np.array([0, 0, 0, 1, 1, 2])
    other = np.array([1, 1, 0, 0, 0, 0])
    np.testing.assert_allclose(jaccards(full, other), [2 / 3, 2 / 4, 1 / 4])
    found = stability(full, np.array([full, other]), tuple("abcdef"), np.random.default_rng(0))
    assert found["clusters"][0]["jaccard"] == pytest.approx((1 + 2 / 3) / 2)
    assert found["ari"]["value"] == pytest.approx((1 + adjusted_rand_score(full, other)) / 2)
    assert [cluster["called"] for cluster in found["clusters"]] == ["stable", "stable", "doubtful"]


@pytest.mark.parametrize("offset", [0.0, 3.0])
def test_p_of_gaussian_clouds_is_uniform(offset):
    p, chosen = [], []
    for seed in range(60):
        rng = np.random.default_rng([2, seed])
        # Unequal variances, of which the first makes two seeming clusters of unit vectors, and more width than words.
        cloud = rng.normal(size=(16, 20)) * np.linspace(3, 0.2, 20) + offset
        found = silhouettes(cloud, [2, 3], 9, seed)
        p.append(found["best"]["p"])
        chosen.append(found["silhouette"][found["best"]["k"]]["p"])
    smooth = np.array(p) - np.random.default_rng(0).uniform(size=60) / 10
    assert scipy.stats.kstest(smooth, "uniform").pvalue > 0.01
    # Choosing the best k is paid for.
    assert (np.array(p) >= chosen).all()
    assert (np.array(p) > chosen).any()


def test_silhouettes_are_those_of_the_vectors_as_they_are():
    # Far from 0, where directions differ little, as vectors less a neutral reference can be.
    vectors = three_groups() + np.append(np.zeros(15), 6.0)
    directions = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    found = silhouettes(vectors, [3], 5, 0)["silhouette"][3]
    expected = silhouette_score(directions, np.repeat([0, 1, 2], 8), metric="cosine")
    assert found["value"] == pytest.approx(expected, abs=1e-6)


def test_reference_by_chance_and_too_small(tmp_path):
    rng = np.random.default_rng(4)
    full = {"kmeans": np.arange(24) % 3}
    resampled = {"kmeans": np.array([full["kmeans"]] * 3)}
    p = []
    for _ in range(100):
        pd.DataFrame({"emotion": WORDS, "cluster": rng.integers(0, 4, 24)}).to_csv(tmp_path / "r.csv", index=False)
        found = agreement(full, resampled, tuple(WORDS), tmp_path / "r.csv", 39, int(rng.integers(2**31)))
        p.append(found["methods"]["kmeans"]["p"])
    assert np.mean(np.array(p) <= 0.1) <= 0.2
    assert 0.35 < np.mean(p) < 0.68
    pd.DataFrame({"emotion": [*WORDS[:4], "x"], "cluster": list("aabbc")}).to_csv(tmp_path / "r.csv", index=False)
    found = agreement(full, resampled, tuple(WORDS), tmp_path / "r.csv", 9, 0)
    assert found == {"n": 4, "clusters": 2, "methods": {}}


def test_references_that_cannot_be_used_are_refused(tmp_path):
    (tmp_path / "a.csv").write_text("word,group\nsad,1\n", encoding="utf-8")
    with pytest.raises(UserError, match="emotion,cluster"):
        read_clusters(tmp_path / "a.csv")
    (tmp_path / "b.csv").write_text("emotion,cluster\nsad,1\nsad,2\n", encoding="utf-8")
    with pytest.raises(UserError, match="sad into more than one"):
        read_clusters(tmp_path / "b.csv")


def test_the_papers_clusters_cover_the_papers_emotions():
    known = read_clusters(ROOT / "resources/emotions/paper_clusters.csv")
    assert sorted(known.index) == sorted(EMOTIONS)
    assert sorted(known.value_counts()) == sorted([20, 9, 15, 9, 2, 15, 3, 25, 41, 32])


def test_figure_and_words(grouped):
    found, table = grouped
    with house_style():
        figure = draw_cluster_stability(found, table, 0)
        figure.canvas.draw()
    (image,) = figure.axes[0].images
    assert image.get_array()[:8, :8].min() == 1
    text = numbers_cluster_stability(found, table, 0)
    assert "k-means with k = 3: ARI 1.00" in text
    assert "3 of 3 clusters stable" in text
    assert "3 reference clusters over 24 shared words" in text
    assert "are more clustered than one Gaussian cloud" in said(found, 0)


@pytest.mark.parametrize("count", [3, 4])
def test_few_emotions(tmp_path, count):
    texts, values = told(three_groups()[::7][:count], 3, 0.5)
    found, table = answered(tmp_path, texts, values)
    with house_style():
        draw_cluster_stability(found, table, 0).canvas.draw()
    assert f"{count} emotions" in numbers_cluster_stability(found, table, 0)
    assert said(found, 0)


def test_repetition_changes_nothing(tmp_path, grouped):
    again, table = answered(tmp_path, *told(three_groups(), 5, 0.5))
    assert again["methods"] == grouped[0]["methods"]
    assert again["silhouette"] == grouped[0]["silhouette"]
    assert table.equals(grouped[1])


def test_random_clouds_have_exactly_the_mean_and_covariance_of_the_vectors():
    columns = random_columns(12, 5, np.random.default_rng(0))
    np.testing.assert_allclose(columns.T @ columns, np.eye(5), atol=1e-12)
    np.testing.assert_allclose(columns.mean(axis=0), 0, atol=1e-12)
