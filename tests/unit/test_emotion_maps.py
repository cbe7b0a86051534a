"""Maps: what lies on a plane is drawn as it lies, quality follows the published formulas, and nothing needs UMAP."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from scipy.spatial.distance import pdist, squareform
from sklearn.manifold import trustworthiness

from affectome.analyses import emotion_maps as module
from affectome.analyses.clusters import clusters
from affectome.analyses.emotion_maps import aligned, emotion_maps, neighbourhood, quality, scaled, stress
from affectome.figures.answers.emotion_maps import draw_emotion_maps, numbers_emotion_maps, said
from affectome.figures.style import house_style
from affectome.files import read_json
from tests.planted import orthonormal, strict_json, vector_file

WORDS = [f"w{number}" for number in range(40)]


@pytest.fixture
def _no_umap(monkeypatch):
    """As where umap-learn is not installed."""
    monkeypatch.setattr(module, "find_spec", lambda _name: None)


def grouped(count: int = 40) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.repeat(3 * np.eye(4, 12), 10, axis=0)[:count] + 0.4 * rng.normal(size=(count, 12))


def answered(folder: Path, vectors: np.ndarray, permutations: int = 99) -> Any:
    file = vector_file(folder / "v.h5", 3, WORDS[: len(vectors)], vectors)
    clusters([file], 4, 5, 0, folder / "c.parquet", folder / "c.json")
    outputs = (folder / "t.parquet", folder / "o.json")
    emotion_maps(file, folder / "c.parquet", 100, permutations, 9, 0, *outputs)
    strict_json(folder / "o.json")
    return read_json(folder / "o.json"), pd.read_parquet(folder / "t.parquet")


@pytest.fixture(scope="module")
def mapped(tmp_path_factory) -> Any:
    return answered(tmp_path_factory.mktemp("mapped"), grouped())


def test_points_of_a_plane_come_back():
    points = np.random.default_rng(1).normal(size=(30, 2)) * [3, 1]
    found = scaled(squareform(pdist(points)))
    assert stress(squareform(pdist(points)), found) < 1e-3
    centred = points - points.mean(axis=0)
    np.testing.assert_allclose(aligned(found, centred), centred, atol=1e-2)


def test_stress_is_kruskals_at_the_best_scale():
    rng = np.random.default_rng(2)
    distances, points = squareform(pdist(rng.normal(size=(12, 6)))), rng.normal(size=(12, 2))
    wanted, drawn = squareform(distances), pdist(points)
    least = min(np.sqrt(((scale * wanted - drawn) ** 2).sum() / (drawn**2).sum()) for scale in np.linspace(0, 2, 40001))
    assert stress(distances, points) == pytest.approx(least, abs=1e-6)
    assert stress(5 * distances, points) == pytest.approx(stress(distances, points))


@pytest.mark.parametrize("neighbours", [1, 3, 7])
def test_trustworthiness_is_that_of_scikit_learn(neighbours):
    rng = np.random.default_rng(3)
    vectors, points = rng.normal(size=(20, 6)), rng.normal(size=(20, 2))
    points += vectors[:, :2]
    distances = squareform(pdist(vectors, "cosine"))
    found = quality(distances, points, neighbours, 2, 1, rng)
    assert found["trustworthiness"]["value"] == pytest.approx(
        trustworthiness(distances, points, n_neighbors=neighbours, metric="precomputed")
    )
    near = [set(np.argsort(row)[1 : neighbours + 1]) for row in squareform(pdist(points))]
    true = [set(np.argsort(row)[1 : neighbours + 1]) for row in distances]
    shares = [len(a & b) / neighbours for a, b in zip(near, true, strict=True)]
    assert found["kept"]["value"] == pytest.approx(np.mean(shares))


def test_a_perfect_map_keeps_everything():
    ranks = np.array([[0, 1, 2, 3], [1, 0, 2, 3], [3, 1, 0, 2], [3, 2, 1, 0]])
    trust, kept = neighbourhood(ranks, np.argsort(ranks, axis=1)[:, 1:2])
    assert trust.tolist() == kept.tolist() == [1, 1, 1, 1]


def test_p_is_uniform_for_maps_of_nothing():
    p = []
    for seed in range(300):
        rng = np.random.default_rng([4, seed])
        distances = squareform(pdist(rng.normal(size=(15, 5))))
        p.append(quality(distances, rng.normal(size=(15, 2)), 4, 2, 19, rng)["trustworthiness"]["p"])
    smooth = np.array(p) - np.random.default_rng(0).uniform(size=300) / 20
    assert scipy.stats.kstest(smooth, "uniform").pvalue > 0.01


def test_planted_groups_are_kept(mapped):
    found, table = mapped
    assert found["n"] == 40
    assert found["neighbours"] == 10
    assert set(found["maps"]) == {"mds", "umap", "pca"}
    for method in ("mds", "umap"):
        entry = found["maps"][method]
        assert entry["trustworthiness"]["value"] > 0.85
        assert entry["kept"]["value"] > 3 * entry["kept"]["chance"]
        assert entry["kept"]["p"] == 1 / 100
        assert entry["kept"]["ci"][0] < entry["kept"]["value"] < entry["kept"]["ci"][1]
        assert entry["kept"]["chance"] == pytest.approx(10 / 39, abs=0.02)
        points = table[table["method"] == method][["x", "y"]].to_numpy()
        assert np.abs(points.mean(axis=0)).max() < 1e-4
        # Neighbours on the map are of the same cluster.
        apart = squareform(pdist(points))
        np.fill_diagonal(apart, np.inf)
        groups = table[table["method"] == method]["cluster"].to_numpy()
        assert np.mean(groups[apart.argmin(axis=1)] == groups) > 0.9
    assert found["maps"]["mds"]["stress"]["p"] == 1 / 10
    assert found["maps"]["mds"]["stress"]["value"] < found["maps"]["mds"]["stress"]["chance"]
    assert len(table) == 120
    assert (table["n"] == 40).all()


def test_repetition_changes_nothing(mapped, tmp_path):
    found, table = answered(tmp_path, grouped())
    assert found == mapped[0]
    assert table.equals(mapped[1])


@pytest.mark.usefixtures("_no_umap")
def test_axes_of_the_model_do_not_matter(tmp_path):
    first = answered(tmp_path, grouped())[1]
    turned = answered(tmp_path, grouped() @ orthonormal(np.random.default_rng(5), 12, 12))[1]
    np.testing.assert_allclose(first[["x", "y"]], turned[["x", "y"]], atol=1e-3)


@pytest.mark.usefixtures("_no_umap")
def test_without_umap_its_map_is_skipped_and_said_so(tmp_path):
    found, table = answered(tmp_path, grouped())
    assert "affectome[umap]" in found["maps"]["umap"]["skipped"]
    assert set(table["method"]) == {"mds", "pca"}
    with house_style():
        figure = draw_emotion_maps(found, table, 3)
        figure.canvas.draw()
    assert any("not installed" in text.get_text() for ax in figure.axes for text in ax.texts)
    assert "UMAP left out (umap-learn is not installed" in numbers_emotion_maps(found, table, 3)
    assert "UMAP was left out" in said(found, 3)


@pytest.mark.usefixtures("_no_umap")
def test_umap_is_not_loaded_where_it_is_not_asked(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)
    assert "skipped" in answered(tmp_path, grouped())[0]["maps"]["umap"]


@pytest.mark.usefixtures("_no_umap")
def test_noise_is_hardly_kept(tmp_path):
    found, _ = answered(tmp_path, np.random.default_rng(6).normal(size=(40, 200)))
    assert found["maps"]["mds"]["stress"]["value"] > 0.3
    assert found["maps"]["pca"]["kept"]["value"] < 0.55


@pytest.mark.parametrize("count", [3, 4, 6])
def test_few_emotions(tmp_path, count):
    found, table = answered(tmp_path, grouped()[::9][:count] if count < 5 else grouped()[::7])
    with house_style():
        figure = draw_emotion_maps(found, table, 3)
        figure.canvas.draw()
    assert f"{found['n']} emotions" in numbers_emotion_maps(found, table, 3)
    assert said(found, 3)
    assert (found["maps"] == {}) == (count == 3)


def test_figure_shows_every_emotion_in_its_colour(mapped):
    found, table = mapped
    with house_style():
        figure = draw_emotion_maps(found, table, 3)
        figure.canvas.draw()
    for ax, method in zip(figure.axes, ("mds", "umap"), strict=True):
        rows = table[table["method"] == method]
        np.testing.assert_allclose(ax.collections[0].get_offsets(), rows[["x", "y"]])
        written = {text.get_text() for text in ax.texts}
        assert written <= set(WORDS)
        assert len(written) > 20
    assert "stress-1 0." in numbers_emotion_maps(found, table, 3)
    assert "keeps the neighbourhoods" in said(found, 3)
