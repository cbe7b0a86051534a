"""Principal components find the planted plane, turn towards human valence and arousal, and are scikit-learn's."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.decomposition import PCA

from affectome.analyses.geometry import geometry, orient, principal_components
from affectome.analyses.norms import read_norm, shared
from affectome.errors import UserError
from affectome.vectors.compute import emotion_vectors
from tests.planted import centred_orthonormal, layer_files, norm_file, orthonormal, strict_json, vector_file

EMOTIONS = [f"emotion {number}" for number in range(30)]
WIDTH = 40


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Activations at two layers that vary along valence (64 parts) and arousal (16), behind noise and nuisance.

    The stories of an emotion lie about its place in the plane; neutral texts and stories vary along two nuisance
    directions. Every third emotion is not rated.
    """
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("plane")
    places = centred_orthonormal(rng, len(EMOTIONS), 2)
    directions = orthonormal(rng, 4, WIDTH)
    labels = np.arange(len(EMOTIONS)).repeat(4)
    texts = [EMOTIONS[label] for label in labels] + [""] * 20
    layers = []
    for _ in range(2):
        stories = places[labels] * np.array([40, 20]) @ directions[:2]
        neutral = np.zeros((20, WIDTH))
        activations = np.concatenate([stories, neutral])
        activations += rng.normal(size=(len(texts), 2)) * np.array([30, 20]) @ directions[2:]
        layers.append(activations + 0.05 * rng.normal(size=activations.shape) + 100)
    files = layer_files(folder, texts, np.array(layers))
    vectors = [folder / f"vectors_{layer}.h5" for layer in range(2)]
    for file, output in zip(files, vectors, strict=True):
        emotion_vectors(file, output, EMOTIONS, "mean_of_means", {"variance": 0.99}, "code")
    rated = np.flatnonzero(np.arange(len(EMOTIONS)) % 3)
    norm = norm_file(
        folder / "norm.csv",
        [EMOTIONS[index] for index in rated],
        valence=5 + 3 * places[rated, 0],
        arousal=4 - 2 * places[rated, 1],
    )
    return {"folder": folder, "vectors": vectors, "norm": norm, "places": places}


def test_the_planted_plane_is_found_and_turned_towards_valence_and_arousal(plane: dict[str, Any]) -> None:
    table, output = plane["folder"] / "geometry.parquet", plane["folder"] / "geometry.json"
    geometry(plane["vectors"], plane["norm"], "ours", 4, table, output)
    scores = pd.read_parquet(table)
    assert list(scores.columns) == ["layer", "emotion", "PC1", "PC2", "PC3", "PC4"]
    assert scores["layer"].tolist() == [0] * 30 + [1] * 30
    for _, of_layer in scores.groupby("layer"):
        assert of_layer["emotion"].tolist() == EMOTIONS
        # Ratings rise with the first place and fall with the second; so do the components, over unrated words too.
        np.testing.assert_allclose(of_layer["PC1"], 40 * plane["places"][:, 0], atol=0.3)
        np.testing.assert_allclose(of_layer["PC2"], -20 * plane["places"][:, 1], atol=0.3)
    found = strict_json(output)
    assert found["oriented_by"] == "ours"
    assert list(found["layers"]) == ["0", "1"]
    for layer in found["layers"].values():
        shares = layer["explained_variance"]
        # The two nuisance directions are taken out of 40, of which 29 could differ among 30 emotions.
        assert len(shares) == 29
        assert sum(shares) == pytest.approx(1)
        assert shares[:2] == pytest.approx([0.8, 0.2], abs=0.01)


def test_neither_repetition_nor_the_order_of_files_changes_anything(plane: dict[str, Any], tmp_path: Path) -> None:
    written = []
    for number, files in enumerate((plane["vectors"], plane["vectors"], plane["vectors"][::-1])):
        table, output = tmp_path / f"{number}.parquet", tmp_path / f"{number}.json"
        geometry(files, plane["norm"], "ours", 4, table, output)
        written.append((table.read_bytes(), output.read_bytes()))
    assert written[0] == written[1] == written[2]


@pytest.mark.parametrize("shape", [(12, 30), (30, 12), (2, 5), (6, 6)])
def test_components_are_those_of_scikit_learn(shape: tuple[int, int]) -> None:
    vectors = np.random.default_rng(1).normal(size=shape) + 3
    scores, explained = principal_components(vectors)
    rank = min(shape[0] - 1, shape[1])
    pca = PCA(n_components=rank).fit(vectors)
    assert scores.shape == (shape[0], rank)
    np.testing.assert_allclose(explained, pca.explained_variance_ratio_)
    np.testing.assert_allclose(np.abs(scores), np.abs(pca.transform(vectors)), atol=1e-10)


def test_components_that_only_rounding_leaves_are_left_out(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    vectors = (rng.normal(size=(20, 3)) @ orthonormal(rng, 3, WIDTH)).astype(np.float32)
    scores, explained = principal_components(vectors)
    assert scores.shape == (20, 3)
    assert explained.sum() == pytest.approx(1)
    # A layer with fewer components than another has empty columns in the common table.
    files = [
        vector_file(tmp_path / "0.h5", 0, EMOTIONS[:20], vectors),
        vector_file(tmp_path / "1.h5", 1, EMOTIONS[:20], rng.normal(size=(20, WIDTH))),
    ]
    norm = norm_file(tmp_path / "norm.csv", EMOTIONS[:20], valence=rng.normal(size=20), arousal=rng.normal(size=20))
    geometry(files, norm, "ours", 5, tmp_path / "t.parquet", tmp_path / "o.json")
    table = pd.read_parquet(tmp_path / "t.parquet")
    assert table.isna().sum().tolist() == [0, 0, 0, 0, 0, 20, 20]
    assert [len(layer["explained_variance"]) for layer in strict_json(tmp_path / "o.json")["layers"].values()] == [
        3,
        19,
    ]


def test_two_emotions_have_one_component(tmp_path: Path) -> None:
    file = vector_file(tmp_path / "0.h5", 0, ["a", "b"], np.array([[3.0, 4.0], [-3.0, -4.0]]))
    norm = norm_file(tmp_path / "norm.csv", ["b"], valence=[1], arousal=[2])
    geometry([file], norm, "ours", 5, tmp_path / "t.parquet", tmp_path / "o.json")
    assert pd.read_parquet(tmp_path / "t.parquet")["PC1"].abs().tolist() == pytest.approx([5, 5])
    assert strict_json(tmp_path / "o.json")["layers"]["0"]["explained_variance"] == [1]


def ratings(valence: list[float], arousal: list[float]) -> pd.DataFrame:
    return pd.DataFrame({"valence": valence, "arousal": arousal})


def test_the_rule_of_signs_by_hand() -> None:
    up, down, even = [1.0, 2, 3, -9], [3.0, 2, 1, 9], [1.0, 4, 1, 9]
    scores = np.array([down, up, down, up, even]).T
    positions = np.array([0, 1, 2])
    # PC1 follows valence and PC2 arousal whatever else they follow more; the others what they follow more.
    found = orient(scores, positions, ratings([1, 2, 3], [4, 2.9, 1]))
    assert np.sign(found[3]).tolist() == [-1, 1, -1, -1, 1]
    found = orient(scores, positions, ratings([1, 5, 3], [3, 2, 1]))
    assert np.sign(found[3]).tolist() == [-1, 1, 1, 1, 1]


@pytest.mark.parametrize(
    ("positions", "rated"),
    [([], ratings([], [])), ([0, 1], ratings([1, 2], [1, 2])), ([0, 1, 2], ratings([0.1] * 3, [0.1] * 3))],
)
@given(seed=st.integers(0, 2**32 - 1))
def test_where_ratings_decide_nothing_the_largest_entry_is_positive(
    positions: list[int], rated: pd.DataFrame, seed: int
) -> None:
    scores = np.random.default_rng(seed).normal(size=(5, 4))
    found = orient(scores, np.array(positions, dtype=int), rated)
    np.testing.assert_allclose(np.abs(found), np.abs(scores))
    assert (np.abs(found).max(axis=0) == found.max(axis=0)).all()


@given(seed=st.integers(0, 2**32 - 1))
def test_the_sign_a_component_came_with_does_not_matter(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores, signs = rng.normal(size=(6, 4)), rng.choice([-1, 1], size=4)
    rated = ratings(rng.normal(size=5), rng.normal(size=5))
    positions = np.array([0, 2, 3, 4, 5])
    np.testing.assert_array_equal(orient(scores, positions, rated), orient(scores * signs, positions, rated))


def test_words_match_exactly_and_in_the_order_of_the_emotions(tmp_path: Path) -> None:
    norm = norm_file(tmp_path / "n.csv", ["rest", "Sad", "glad", "sad"], valence=[1, 2, 3, 4], arousal=[5, 6, 7, 8])
    positions, rated = shared(read_norm(norm["file"], norm), ("restless", "sad", "worthless", "glad"))
    assert positions.tolist() == [1, 3]
    assert rated.to_dict("list") == {"valence": [4, 3], "arousal": [8, 7]}


def test_a_norm_has_the_dimensions_it_has_and_words_with_all_of_them(tmp_path: Path) -> None:
    file = tmp_path / "n.csv"
    file.write_text("w,P,A,D\nsad,1,2,3\nglad,4,,6\ncalm,7,8,9\n,,,\n,,,\n")
    names = {"word": "w", "valence": "P", "arousal": "A", "dominance": None, "file": str(file)}
    found = read_norm(file, names)
    assert list(found.columns) == ["valence", "arousal"]
    assert found.index.tolist() == ["sad", "calm"]
    assert read_norm(file, names | {"dominance": "D"})["dominance"].tolist() == [3, 9]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "cannot be read"),
        ("word,valence\nsad,1\n", "cannot be read"),
        ("term,valence,arousal\nsad,1,1\n", "cannot be read"),
        ("word,valence,arousal\nsad,high,1\n", "cannot be read"),
        ("word,valence,arousal\nsad,1,1\nglad,2,2\nsad,3,3\n", "rates sad more than once"),
        ("word,valence,arousal\n,1,1\n,2,2\n", "more than once"),
    ],
)
def test_a_norm_that_cannot_be_used_is_refused_in_words(tmp_path: Path, content: str, words: str) -> None:
    file = tmp_path / "n.csv"
    file.write_text(content)
    with pytest.raises(UserError, match=words):
        read_norm(file, {"word": "word", "valence": "valence", "arousal": "arousal"})


@pytest.mark.parametrize(
    ("name", "columns", "words"),
    [
        ("russell_mehrabian_1977", {"word": "emotion", "valence": "P_mean", "arousal": "A_mean"}, 45),
        ("glasgow_norms_2019", {"word": "emotion", "valence": "valence_M", "arousal": "arousal_M"}, 82),
    ],
)
def test_the_shipped_norms_rate_as_many_emotions_as_they_should(name: str, columns: dict, words: int) -> None:
    resources = Path(__file__).parents[2] / "resources"
    emotions = (resources / "emotions" / "171.txt").read_text(encoding="utf-8").split("\n")[:-1]
    norm = read_norm(resources / "norms" / f"{name}.csv", columns)
    positions, rated = shared(norm, tuple(emotions))
    assert len(positions) == words
    assert np.isfinite(rated.to_numpy()).all()
    # What everybody knows of these words.
    assert norm.loc["happy", "valence"] > norm.loc["sad", "valence"]
    assert norm.loc["excited", "arousal"] > norm.loc["bored", "arousal"]
