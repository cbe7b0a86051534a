"""Planted breaks between layers are found, smooth courses have none, and what is written is what the functions give."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from affectome.analyses.layer_similarity import layer_similarity, transitions
from affectome.analyses.representational import MEASURES, delete_one_within, stacked
from affectome.analyses.statistics import benjamini_hochberg
from affectome.errors import UserError
from affectome.figures.answers.layer_similarity import (
    draw_layer_similarity,
    numbers_layer_similarity,
    said,
)
from affectome.figures.style import house_style
from affectome.files import read_json
from tests.planted import orthonormal, strict_json, vector_file

WORDS = [f"word {number}" for number in range(40)]


def drift(rng: np.random.Generator, angles: np.ndarray, n: int = 40, noise: float = 0.1) -> list[np.ndarray]:
    """Vectors that turn from one random arrangement towards another by `angles`, each layer in axes of its own."""
    start, end = rng.normal(size=(2, n, 12))
    turned = [np.cos(angle) * start + np.sin(angle) * end + noise * rng.normal(size=(n, 12)) for angle in angles]
    return [each @ orthonormal(rng, 12, 12) for each in turned]


def walk(rng: np.random.Generator, layers: list[int], change: float = 0.05, n: int = 40) -> list[np.ndarray]:
    """Vectors of which every block replaces the share `change` by something new, at the collected `layers`."""
    here, found = rng.normal(size=(n, 24)), []
    for layer in range(max(layers) + 1):
        here = np.sqrt(1 - change) * here + np.sqrt(change) * rng.normal(size=(n, 24))
        if layer in layers:
            found.append(here)
    return found


def found_in(vectors: list[np.ndarray], layers: list[int]) -> dict[str, list[list[int]]]:
    found = {}
    for measure in MEASURES:
        matrices = stacked(measure, vectors)
        profiles = measure.profiles(matrices)
        similar = profiles @ profiles.T
        left_out = np.diagonal(delete_one_within(measure, matrices), 1, 1, 2)
        found[measure.name] = transitions(layers, np.diagonal(similar, 1), left_out)["transitions"]
    return found


@pytest.mark.parametrize("at", [0, 4, 8])
def test_a_planted_break_is_found_where_it_is(at):
    angles = np.linspace(0, 0.5, 10)
    angles[at + 1 :] += 0.7
    assert found_in(drift(np.random.default_rng(at), angles), list(range(10))) == {
        "cka": [[at, at + 1]],
        "rsa": [[at, at + 1]],
    }


@pytest.mark.parametrize("power", [1.0, 2.0, 0.5])
def test_a_smooth_course_has_no_transition_whether_it_is_even_or_not(power):
    # At the start of a course that slows down or speeds up, steps differ by less than a factor of two.
    angles = 1.2 * np.linspace(0.25, 1, 12) ** power
    for seed in range(12):
        assert found_in(drift(np.random.default_rng([1, seed]), angles), list(range(12))) == {"cka": [], "rsa": []}


def test_uneven_spacing_of_layers_makes_no_transition():
    # A short step between long ones, and a long one between short ones.
    layers = [0, 6, 7, 13, 14, 20, 21, 22, 23, 29, 30, 31]
    for seed in range(12):
        rng = np.random.default_rng([2, seed])
        assert found_in(walk(rng, layers), layers) == {"cka": [], "rsa": []}
        assert found_in(drift(rng, 0.05 * np.array(layers)), layers) == {"cka": [], "rsa": []}


def test_noise_alone_makes_few_transitions():
    # Six words: steps differ by chance by more than a factor of two, which the error of so few words must explain.
    marked = sum(
        len(found_in(walk(np.random.default_rng([3, seed]), list(range(8)), n=6), list(range(8)))["cka"])
        for seed in range(60)
    )
    assert marked <= 6


def test_expectation_follows_the_longer_law():
    # A step of four blocks among steps of one may be four times as long.
    similar = np.cos(np.radians([5.0, 5.0, 20.0, 5.0, 5.0]))
    found = transitions([0, 1, 2, 6, 7, 8], similar, np.tile(similar, (30, 1)))
    assert found["steps"][2]["expected"] == pytest.approx(20)
    assert found["steps"][2]["ratio"] == pytest.approx(1)
    # And one of one block, beside one of four, half as long as that.
    assert found["steps"][1]["expected"] == pytest.approx(5)
    assert found["transitions"] == []
    assert transitions([0, 1, 2, 3, 4, 5], similar, np.tile(similar, (30, 1)))["transitions"] == [[2, 3]]


def test_a_step_must_be_twice_as_long_and_surely_so():
    def marked(degrees, spread):
        similar = np.cos(np.radians([10.0, 10, 10, degrees, 10, 10]))
        noise = np.random.default_rng(4).normal(size=(30, 6)) * spread
        return transitions(list(range(7)), similar, similar + noise)["transitions"]

    assert marked(15, 1e-5) == []
    assert marked(25, 1e-5) == [[3, 4]]
    assert marked(25, 3e-3) == []


def written(folder: Path, vectors: list[np.ndarray], layers: list[int], words: list[str], seed: int = 0) -> Any:
    folder.mkdir(exist_ok=True)
    files = [
        vector_file(folder / f"layer_{layer}.h5", layer, words, each)
        for layer, each in zip(layers, vectors, strict=True)
    ]
    layer_similarity(files[::-1], 49, seed, folder / "t.parquet", folder / "o.json")
    strict_json(folder / "o.json")
    return read_json(folder / "o.json"), pd.read_parquet(folder / "t.parquet")


def test_table_and_numbers(tmp_path):
    layers = [2, 3, 5, 8, 9]
    vectors = drift(np.random.default_rng(4), np.array([0, 0.1, 0.2, 1.0, 1.1]))
    found, table = written(tmp_path, vectors, layers, WORDS)
    assert found["n"] == 40
    assert found["layers"] == layers
    assert found["pairs"] == 10
    assert set(table["measure"]) == {"cka", "rsa", "cka_plain"}
    assert len(table) == 30
    assert (table["n"] == 40).all()
    cka = table[table["measure"] == "cka"].set_index(["layer_a", "layer_b"])
    profiles = MEASURES[0].profiles(stacked(MEASURES[0], [each.astype(np.float32) for each in vectors]))
    assert cka.loc[(3, 8), "value"] == pytest.approx(profiles[1] @ profiles[3], abs=1e-6)
    assert (cka["low"] < cka["value"]).all()
    assert (cka["value"] < cka["high"]).all()
    np.testing.assert_allclose(cka["q"], benjamini_hochberg(cka["p"].to_numpy()))
    assert cka["p"].min() == 1 / 50
    assert (cka["chance"].abs() < 0.1).all()
    least = found["cka"]["least"]
    assert cka["value"].idxmin() == (least["a"], least["b"])
    plain = table[table["measure"] == "cka_plain"]
    assert (plain["chance"] > 0.1).all()
    assert plain["p"].isna().all()
    # Nothing depends on the order of files, the seed moves p alone.
    again, other = written(tmp_path / "again", vectors, layers, WORDS, seed=1)
    assert again["cka"]["steps"] == found["cka"]["steps"]
    assert not other["chance"].equals(table["chance"])


def test_unrelated_layers_are_called_so(tmp_path):
    found, table = written(tmp_path, list(np.random.default_rng(5).normal(size=(6, 40, 30))), list(range(6)), WORDS)
    assert found["cka"]["significant"] == 0
    assert found["rsa"]["significant"] == 0
    assert "Not all layers arrange" in said(found, 3)
    assert table[table["measure"] == "cka_plain"]["value"].min() > 0.3


def test_layers_of_different_emotions_are_refused(tmp_path):
    vectors = np.random.default_rng(6).normal(size=(2, 6, 4))
    files = [vector_file(tmp_path / f"{n}.h5", n, WORDS[n : n + 6], each) for n, each in enumerate(vectors)]
    with pytest.raises(UserError, match="different emotions"):
        layer_similarity(files, 9, 0, tmp_path / "t", tmp_path / "o")


@pytest.mark.parametrize(("layers", "count"), [(1, 40), (2, 40), (3, 5), (8, 3), (60, 6)])
def test_figure_and_words_of_small_and_large_runs(tmp_path, layers, count):
    vectors = walk(np.random.default_rng(7), list(range(layers)), n=count)
    found, table = written(tmp_path, vectors, list(range(layers)), WORDS[:count])
    with house_style():
        figure = draw_layer_similarity(found, table, layers - 1)
        figure.canvas.draw()
    assert isinstance(figure, Figure)
    text = numbers_layer_similarity(found, table, layers - 1)
    assert f"{count} emotions" in text or "and there are" in text
    assert said(found, 0)
    if layers > 1 and count >= 5:
        assert len(figure.axes[0].images) == 1
        assert np.nanmax(figure.axes[0].images[0].get_array()) == pytest.approx(1)


def test_a_break_is_drawn_and_said(tmp_path):
    angles = np.array([0, 0.05, 0.1, 0.15, 0.9, 0.95, 1.0, 1.05])
    found, table = written(tmp_path, drift(np.random.default_rng(8), angles), list(range(8)), WORDS)
    with house_style():
        figure = draw_layer_similarity(found, table, 5)
    assert len(figure.axes[0].lines) == 2
    assert "1 (3 to 4) by CKA" in said(found, 5)
    assert "Phase transitions by CKA: 3 to 4 (" in numbers_layer_similarity(found, table, 5)
