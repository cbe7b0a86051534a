"""Two runs: the same arrangement in other axes, depths and sets of words is recognised, and none is not."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.spatial
import scipy.stats

from affectome.analyses.run_geometry import match_planes, plane, run_geometry, standard, turned_to
from affectome.analyses.statistics import benjamini_hochberg
from affectome.errors import UserError
from affectome.figures.run_geometry import draw_run_geometry, numbers_run_geometry, said
from affectome.figures.style import house_style
from affectome.files import read_json
from tests.planted import norm_file, orthonormal, strict_json, vector_file

WORDS = [f"w{number}" for number in range(30)]
NAMES = ["first", "second"]


def files(folder: Path, name: str, layers: dict[int, np.ndarray], words: list[str]) -> list[Path]:
    (folder / name).mkdir(exist_ok=True)
    return [vector_file(folder / name / f"layer_{n}.h5", n, words, each) for n, each in layers.items()]


def compared(
    folder: Path,
    a: dict[int, np.ndarray],
    b: dict[int, np.ndarray],
    headlines: list[int],
    words_b: list[str] = WORDS,
    norm: dict[str, Any] | None = None,
) -> Any:
    first, second = files(folder, "a", a, WORDS), files(folder, "b", b, words_b)
    outputs = (folder / "t.parquet", folder / "o.json")
    run_geometry(first[::-1], second, NAMES, headlines, 100, 99, 0, *outputs, norm)
    strict_json(folder / "o.json")
    return read_json(folder / "o.json"), pd.read_parquet(folder / "t.parquet")


def arrangement(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(30, 8)) * [5, 4, 1, 1, 1, 1, 1, 1]


@pytest.fixture
def other_model(tmp_path) -> Any:
    """The second run is wider, has more layers and other words besides; its layer 5 is the first's layer 1, turned."""
    rng = np.random.default_rng(1)
    a = {0: rng.normal(size=(30, 8)), 1: arrangement(), 2: rng.normal(size=(30, 8))}
    b = {n: rng.normal(size=(26, 20)) for n in (2, 3, 5, 7)}
    order = rng.permutation(30)[:20]
    b[5][:20] = 3 * (arrangement()[order] + 0.2 * rng.normal(size=(20, 8))) @ orthonormal(rng, 8, 20) + 9
    words = [*(WORDS[index] for index in order), *(f"other {n}" for n in range(6))]
    return compared(tmp_path, a, b, [1, 5], words)


def test_another_model_with_other_words_is_recognised(other_model):
    found, table = other_model
    assert found["n"] == 20
    assert found["emotions"] == [30, 26]
    assert found["widths"] == [8, 20]
    assert found["layers"] == [[0, 1, 2], [2, 3, 5, 7]]
    for measure in ("cka", "rsa"):
        entry = found["measures"][measure]
        assert entry["headline"]["value"] > 0.9
        assert entry["headline"]["p"] == 1 / 100
        for best in ("best", "best_for_a", "best_for_b"):
            assert (entry[best]["layer_a"], entry[best]["layer_b"]) == (1, 5)
            assert entry[best]["p"] == 1 / 100
        rows = table[table["measure"] == measure]
        assert len(rows) == 12
        assert (rows["p"] == 1 / 100).sum() == 1
        np.testing.assert_allclose(rows["q"], benjamini_hochberg(rows["p"].to_numpy()))
        row = rows[(rows["layer_a"] == 1) & (rows["layer_b"] == 5)].iloc[0]
        assert row["value"] == entry["headline"]["value"]
    assert found["cosine"] is None
    assert "cosine" not in set(table["measure"])
    assert found["plane"]["disparity"]["value"] < 0.1
    assert found["plane"]["disparity"]["p"] == 1 / 100
    assert min(axis["value"] for axis in found["plane"]["r"]) > 0.95
    assert found["plane"]["words"] == [word for word in WORDS if word in found["plane"]["words"]]
    assert (table["n"] == 20).all()
    assert 0 < found["cka_plain"]["chance"] < found["cka_plain"]["value"]


def test_words_beyond_the_shared_ones_change_nothing(tmp_path):
    rng = np.random.default_rng(2)
    a, b = {0: arrangement()}, {0: arrangement()[:20] + rng.normal(size=(20, 8))}
    found, _ = compared(tmp_path, a, b, [0, 0], WORDS[:20])
    # With them, the mean that was taken from every vector differs.
    longer = {0: np.vstack([b[0], 50 + rng.normal(size=(5, 8))]) - 10}
    again, _ = compared(tmp_path, a, longer, [0, 0], [*WORDS[:20], *(f"x{n}" for n in range(5))])
    assert again["measures"]["rsa"]["headline"]["value"] == pytest.approx(
        found["measures"]["rsa"]["headline"]["value"], abs=1e-4
    )
    assert again["plane"]["disparity"]["value"] == pytest.approx(found["plane"]["disparity"]["value"], abs=1e-4)
    assert again["cosine"]["value"] == pytest.approx(found["cosine"]["value"], abs=1e-4)


def test_the_same_model_with_another_corpus_has_cosines(tmp_path):
    rng = np.random.default_rng(3)
    a = {n: arrangement(n) for n in (0, 1)}
    b = {n: arrangement(n) + rng.normal(size=(30, 8)) for n in (0, 1, 2)}
    found, table = compared(tmp_path, a, b, [1, 0])
    rows = table[table["measure"] == "cosine"]
    assert set(zip(rows["layer_a"], rows["layer_b"], strict=True)) == {(0, 0), (1, 1), (1, 0)}
    x, y = (each - each.mean(axis=0) for each in (a[1], b[1]))
    expected = np.mean((x * y).sum(axis=1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1))
    row = rows[(rows["layer_a"] == 1) & (rows["layer_b"] == 1)].iloc[0]
    assert row["value"] == pytest.approx(expected, abs=1e-6)
    assert row["p"] == 1 / 100
    assert found["cosine"]["p"] > 0.05
    assert abs(found["cosine"]["value"]) < 0.3


def test_planes_match_as_scipys_procrustes():
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(2, 15, 2))
    y += x @ [[0, 1], [1, 0]]
    first, second, disparity = scipy.spatial.procrustes(x, y)
    turned, left = turned_to(standard(x), standard(y))
    np.testing.assert_allclose(standard(x), first)
    np.testing.assert_allclose(turned, second)
    assert left == pytest.approx(disparity)
    stacked, lefts = turned_to(standard(x), standard(np.stack([y, y[::-1]])))
    np.testing.assert_allclose(stacked[1], scipy.spatial.procrustes(x, y[::-1])[1])
    assert lefts[1] == pytest.approx(scipy.spatial.procrustes(x, y[::-1])[2])
    found, _ = match_planes(x, y, 5, 5, rng)
    expected = [scipy.stats.pearsonr(first[:, axis], second[:, axis]).statistic for axis in (0, 1)]
    np.testing.assert_allclose([axis["value"] for axis in found["r"]], expected)


@pytest.mark.parametrize("name", ["disparity", "PC1", "PC2"])
def test_p_of_unrelated_planes_is_uniform(name):
    p = []
    for seed in range(300):
        rng = np.random.default_rng([5, seed])
        found, _ = match_planes(*rng.normal(size=(2, 10, 2)) * [2, 1], 2, 19, rng)
        p.append({"disparity": found["disparity"], "PC1": found["r"][0], "PC2": found["r"][1]}[name]["p"])
    smooth = np.array(p) - np.random.default_rng(0).uniform(size=300) / 20
    assert scipy.stats.kstest(smooth, "uniform").pvalue > 0.01


def test_the_best_pair_of_unrelated_runs_is_no_finding(tmp_path):
    best, uncorrected = [], []
    for seed in range(60):
        rng = np.random.default_rng([6, seed])
        a, b = ({n: rng.normal(size=(8, 6)) for n in range(4)} for _ in range(2))
        first, second = files(tmp_path, "a", a, WORDS[:8]), files(tmp_path, "b", b, WORDS[:8])
        run_geometry(first, second, NAMES, [1, 2], 2, 19, seed, tmp_path / "t", tmp_path / "o")
        best.append(read_json(tmp_path / "o")["measures"]["cka"]["best"]["p"])
        uncorrected.append(pd.read_parquet(tmp_path / "t").query("measure == 'cka'")["p"].min())
    smooth = np.array(best) - np.random.default_rng(0).uniform(size=60) / 20
    assert scipy.stats.kstest(smooth, "uniform").pvalue > 0.01
    assert np.mean(np.array(uncorrected) <= 0.1) > 0.4


def test_a_norm_turns_the_first_plane(tmp_path):
    vectors = arrangement()
    scores = plane(vectors, tuple(WORDS), None)
    norm = norm_file(tmp_path / "n.csv", WORDS, valence=-scores[:, 0], arousal=-scores[:, 1])
    np.testing.assert_allclose(plane(vectors, tuple(WORDS), norm), -scores)
    found, _ = compared(tmp_path, {0: vectors}, {0: vectors}, [0, 0], norm=norm)
    np.testing.assert_allclose(found["plane"]["a"], standard(-scores), atol=1e-5)
    np.testing.assert_allclose(found["plane"]["b"], found["plane"]["a"], atol=1e-5)
    assert found["plane"]["disparity"]["value"] == pytest.approx(0, abs=1e-9)


def test_too_few_shared_words_and_missing_layers_are_refused(tmp_path):
    vectors = {0: arrangement()}
    with pytest.raises(UserError, match="first and second share 4 emotions"):
        compared(tmp_path, vectors, vectors, [0, 0], [*WORDS[:4], *(f"x{n}" for n in range(26))])
    with pytest.raises(UserError, match="second: has no vectors of its headline layer 3; it has those of 0"):
        compared(tmp_path, vectors, vectors, [0, 3])


def test_five_words_are_enough(tmp_path):
    found, table = compared(tmp_path, {0: arrangement()}, {4: arrangement(1)[:5]}, [0, 4], WORDS[:5])
    assert found["n"] == 5
    with house_style():
        draw_run_geometry(found, table).canvas.draw()
    assert "5 words" in numbers_run_geometry(found, table)
    assert "5 shared words" in said(found)


def test_figure_and_words(other_model):
    found, table = other_model
    with house_style():
        figure = draw_run_geometry(found, table)
        figure.canvas.draw()
    heat, _, _, planes = figure.axes
    np.testing.assert_allclose(planes.collections[1].get_offsets(), found["plane"]["a"])
    assert heat.images[0].get_array().shape == (3, 4)
    assert heat.images[0].get_array()[1, 2] == pytest.approx(found["measures"]["cka"]["headline"]["value"])
    assert "first and second arrange the emotions alike" in said(found)
    assert "20 words of first (30 emotions) and second (26)" in numbers_run_geometry(found, table)
