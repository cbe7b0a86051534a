"""Emotions planted in what a model holds in mind are found, scenarios that hold none are called chance.

Scenarios are built from a mean that all share, their own emotion's vector and noise. Cosines, standard scores and ranks
are compared with scikit-learn and SciPy.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from sklearn.metrics.pairwise import cosine_similarity

from affectome.activations.readout_store import write_readouts
from affectome.analyses.implicit_scenarios import (
    implicit_scenarios,
    on_diagonal,
    outcomes,
    ranks,
    standardised,
    summary,
)
from affectome.errors import UserError
from affectome.figures.answers import implicit_scenarios as figures
from affectome.figures.captions import description
from affectome.figures.style import house_style
from tests.planted import orthonormal, strict_json, vector_file

WIDTH = 40
EMOTIONS = [f"emotion {number}" for number in range(20)]
UNITS = orthonormal(np.random.default_rng(0), len(EMOTIONS), WIDTH)
PERMUTATIONS = 199


def scenarios(wanted: Sequence[str], strength: float, seed: int = 0) -> np.ndarray:
    """Readouts (scenarios, width): a mean far from 0, `strength` times the own emotion's vector, and noise of 1."""
    rng = np.random.default_rng(seed)
    own = np.array([UNITS[EMOTIONS.index(name)] if name in EMOTIONS else np.zeros(WIDTH) for name in wanted])
    return 50 * rng.normal(size=WIDTH) + strength * own + rng.normal(size=(len(wanted), WIDTH))


def made(folder: Path, wanted: Sequence[str], layers: dict[int, np.ndarray], norm: float = 10.0) -> dict[str, Any]:
    """Vector files at layers 0, 3 and 5 and readouts of `layers`."""
    table = pd.DataFrame({"emotion": list(wanted), "prompt": [f"text {number}" for number in range(len(wanted))]})
    write_readouts(folder / "r.h5", table, layers, "key", template="model")
    files = [vector_file(folder / f"v{layer}.h5", layer, EMOTIONS, 3 * UNITS, norm) for layer in (5, 0, 3)]
    return {"vectors": files, "readouts": folder / "r.h5"}


def run(folder: Path, made: dict[str, Any], layer: int = 3, seed: int = 0) -> tuple[dict[str, Any], pd.DataFrame]:
    output, table = folder / "i.json", folder / "i.parquet"
    implicit_scenarios(
        **made, permutations=PERMUTATIONS, bootstrap=200, seed=seed, layer=layer, table=table, output=output
    )
    return strict_json(output), pd.read_parquet(table)


TWICE = [name for name in EMOTIONS[:12] for _ in range(2)]


@pytest.mark.parametrize("wanted", [EMOTIONS[:12], TWICE])
def test_planted_emotions_are_found(wanted: list[str], tmp_path: Path) -> None:
    layers = {3: scenarios(wanted, 30), 5: scenarios(wanted, 30, seed=1), 9: scenarios(wanted, 0)}
    found, table = run(tmp_path, made(tmp_path, wanted, layers))
    assert found["n"] == {"scenarios": len(wanted), "emotions": 12, "vectors": 20, "left_out": 0}
    assert list(found["layers"]) == ["3", "5"]
    here = found["layers"]["3"]
    for measure, value, chance in (("top1", 1, 1 / 12), ("top3", 1, 3 / 12), ("rank", 1, 6.5)):
        assert here[measure]["value"] == value
        assert here[measure]["ci"] == [value, value]
        assert here[measure]["p"] == 1 / (PERMUTATIONS + 1)
        assert here[measure]["chance"] == pytest.approx(chance)
        assert here[measure]["shuffled"] == pytest.approx(chance, rel=0.2)
    assert here["top1"]["q"] == here["z"]["q"] == 1 / (PERMUTATIONS + 1)
    assert here["diagonal"]["value"] == 12
    assert here["z"]["value"] > 2
    assert here["all"]["top1"]["value"] == 1
    assert here["all"]["top1"]["chance"] == 1 / 20
    assert here["all"]["rank"]["chance"] == 10.5
    assert here["cosine"]["value"] > 0.9
    assert [entry["emotion"] for entry in found["emotions"]] == EMOTIONS[:12]
    assert all(
        entry["highest"] == entry["emotion"] and entry["rank"] == entry["rank_all"] == 1 for entry in found["emotions"]
    )
    assert len(table) == len(wanted) * 20
    assert set(table["n"]) == {len(wanted) // 12}
    # 30 along the own vector, less its share in the mean, over a norm of 10.
    own = table[table["scenario"] == table["emotion"]]
    assert own["projection"].mean() == pytest.approx(3 * 11 / 12, abs=0.1)


def test_numbers_are_those_of_other_libraries(tmp_path: Path) -> None:
    readouts = scenarios(TWICE, 2)
    found, table = run(tmp_path, made(tmp_path, TWICE, {3: readouts}))
    readouts = readouts.astype(np.float32).astype(float)
    cosines = cosine_similarity(readouts - readouts.mean(axis=0), UNITS)
    z = scipy.stats.zscore(cosines, axis=0)
    np.testing.assert_allclose(table["cosine"].to_numpy().reshape(24, 20), cosines, atol=1e-6)
    np.testing.assert_allclose(table["z"].to_numpy().reshape(24, 20), z, atol=1e-4)
    rank = scipy.stats.rankdata(-z[:, :12], axis=1)
    rank_all = scipy.stats.rankdata(-z, axis=1)
    own = np.repeat(np.arange(12), 2)
    here = found["layers"]["3"]
    for name, ranked in ((here, rank), (here["all"], rank_all)):
        mine = ranked[np.arange(24), own]
        assert name["rank"]["value"] == pytest.approx(mine.mean())
        assert name["top1"]["value"] == pytest.approx((mine == 1).mean())
        assert name["top3"]["value"] == pytest.approx((mine <= 3).mean())
    assert here["z"]["value"] == pytest.approx(z[np.arange(24), own].mean(), rel=1e-5)
    means = z[:, :12].reshape(12, 2, 12).mean(axis=1)
    assert here["diagonal"]["value"] == (means.argmax(axis=1) == np.arange(12)).sum()
    assert [entry["z"] for entry in found["emotions"]] == pytest.approx(np.diag(means).tolist(), rel=1e-4)
    q = scipy.stats.false_discovery_control([entry["p"] for entry in found["emotions"]])
    assert [entry["q"] for entry in found["emotions"]] == pytest.approx(q.tolist())
    assert here["top1"]["ci"][0] <= here["top1"]["value"] <= here["top1"]["ci"][1]


def test_ranks_by_hand() -> None:
    assert ranks(np.array([[3.0, 1, 2, 0]]), np.arange(4)).tolist() == [[1, 3, 2, 4]]
    assert ranks(np.array([[2.0, 2, 5, 0]]), np.array([0, 2, 3])).tolist() == [[2.5, 1, 4]]
    assert ranks(np.zeros((1, 5)), np.array([0])).tolist() == [[3]]
    assert standardised(np.full((4, 2), 0.1)).tolist() == [[0, 0]] * 4
    # Emotions that share first place are not the first.
    assert outcomes(np.array([[1.0, 1, 0]]), np.arange(3))[0]["top1"].tolist() == [[0, 0, 0]]


def test_the_diagonal_by_hand() -> None:
    z = np.array([[3.0, 1], [0, 1], [2, 2], [1, 5]])
    # Means on the diagonal are 1.5 and 3.5; dealt otherwise, 2.5 and 3, or 1, which 1.5 beats, and 3.
    assert on_diagonal(z, np.array([[0, 0, 1, 1], [0, 1, 0, 1], [1, 0, 0, 1]])).tolist() == [2, 2, 1]


def test_what_all_scenarios_share_and_what_varies_most_win_nothing(tmp_path: Path) -> None:
    """A mean along one emotion is subtracted, and one along which scenarios differ most is not all there is."""
    rng = np.random.default_rng(1)
    readouts = scenarios(TWICE, 12) + 400 * UNITS[0]
    loud = readouts + np.outer(40 * rng.normal(size=24), UNITS[5])
    found, table = run(tmp_path, made(tmp_path, TWICE, {3: readouts, 5: loud}))
    assert found["layers"]["3"]["top1"]["value"] > 0.9
    found, table = run(tmp_path, made(tmp_path, TWICE, {3: readouts, 5: loud}), layer=5)
    cosines = table.pivot_table(index="number", columns="emotion", values="cosine")[EMOTIONS[:12]].to_numpy()
    plain = (cosines.argmax(axis=1) == np.repeat(np.arange(12), 2)).mean()
    assert found["layers"]["5"]["top1"]["value"] > plain + 0.15


def test_order_and_company_of_scenarios_and_layers_change_nothing(tmp_path: Path) -> None:
    readouts = {3: scenarios(TWICE, 3), 5: scenarios(TWICE, 1, seed=2)}
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first, _ = run(tmp_path / "a", made(tmp_path / "a", TWICE, readouts))
    again, _ = run(tmp_path / "a", made(tmp_path / "a", TWICE, {3: readouts[3]}))
    assert {**again["layers"]["3"], "top1": 0, "z": 0} == {**first["layers"]["3"], "top1": 0, "z": 0}
    assert again["emotions"] == first["emotions"]
    order = np.random.default_rng(3).permutation(24)
    mixed, _ = run(tmp_path / "b", made(tmp_path / "b", [TWICE[i] for i in order], {3: readouts[3][order]}))
    for measure in ("top1", "top3", "rank", "z", "diagonal", "cosine"):
        assert mixed["layers"]["3"][measure]["value"] == pytest.approx(first["layers"]["3"][measure]["value"])
    other, _ = run(tmp_path / "a", made(tmp_path / "a", TWICE, readouts), seed=1)
    assert other["layers"]["3"]["rank"]["value"] == first["layers"]["3"]["rank"]["value"]
    assert other["layers"]["3"]["rank"]["ci"] != first["layers"]["3"]["rank"]["ci"]


def test_emotions_without_vectors_are_left_out_and_named(tmp_path: Path) -> None:
    wanted = ["stoical", *EMOTIONS[:4], "blue", "stoical"]
    found, table = run(tmp_path, made(tmp_path, wanted, {3: scenarios(wanted, 30)}))
    assert found["n"] == {"scenarios": 4, "emotions": 4, "vectors": 20, "left_out": 2}
    assert found["left_out"] == ["blue", "stoical"]
    assert found["layers"]["3"]["top1"]["value"] == 1
    assert table["number"].unique().tolist() == [2, 3, 4, 5]
    alone, _ = run(tmp_path, made(tmp_path, EMOTIONS[:4], {3: scenarios(wanted, 30)[1:5]}))
    assert alone["layers"]["3"]["z"]["value"] == pytest.approx(found["layers"]["3"]["z"]["value"])


@pytest.mark.parametrize("known", [0, 1, 2])
def test_too_few_emotions_say_nothing(known: int, tmp_path: Path) -> None:
    wanted = ["stoical", "blue", *EMOTIONS[:known]]
    found, table = run(tmp_path, made(tmp_path, wanted, {3: scenarios(wanted, 30)}))
    assert found["n"] == {"scenarios": known, "emotions": known, "vectors": 20, "left_out": 2}
    assert found["layers"] is found["emotions"] is None
    assert len(table) == 0
    with house_style():
        figure = figures.draw_implicit_scenarios(found, table, 3)
    assert f"{known} of the list's emotions" in " ".join(text.get_text() for ax in figure.axes for text in ax.texts)
    assert "cannot be said" in figures.said(found, 3)
    assert "(without vectors: blue, stoical)" in figures.numbers_implicit_scenarios(found, table, 3)


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_readouts_that_are_all_the_same_are_chance(tmp_path: Path) -> None:
    found, _ = run(tmp_path, made(tmp_path, TWICE, {3: np.full((24, WIDTH), 0.1)}))
    here = found["layers"]["3"]
    assert (here["top1"]["value"], here["rank"]["value"], here["z"]["value"], here["diagonal"]["value"]) == (
        0,
        6.5,
        0,
        0,
    )
    assert here["z"]["p"] == here["rank"]["p"] == 1


def test_inputs_that_do_not_go_together(tmp_path: Path) -> None:
    files = made(tmp_path, TWICE, {3: scenarios(TWICE, 1)})
    with pytest.raises(UserError, match="layer 5 is wanted, and there are readouts of 3"):
        run(tmp_path, files, layer=5)
    write_readouts(tmp_path / "r.h5", pd.DataFrame({"value": [1, 2]}), {3: np.zeros((2, WIDTH))}, "key")
    with pytest.raises(UserError, match="imply no emotion; read a list of the kind implicit"):
        run(tmp_path, files)


def test_scenarios_without_emotion_are_chance() -> None:
    """300 studies of noise: p of the mean z is uniform, p of counts is never too small, intervals cover."""
    rng = np.random.default_rng(0)
    own = np.repeat(np.arange(12), 2)
    p: dict[str, list[float]] = {name: [] for name in ("top1", "top3", "rank", "z", "diagonal")}
    covered = []
    for _ in range(300):
        cosines = rng.normal(size=(24, 20)) @ rng.normal(size=(20, 20))
        deals = rng.permuted(np.tile(own, (99, 1)), axis=1)
        found = summary(cosines, own, np.arange(12), deals, 100, rng)
        for name, values in p.items():
            values.append(found[name]["p"])
        covered.append(found["z"]["ci"][0] <= 0 <= found["z"]["ci"][1])
    for name in ("rank", "z"):
        smooth = np.array(p[name]) - rng.uniform(0, 0.01, 300)
        assert scipy.stats.kstest(smooth, "uniform").pvalue > 0.01, name
    for values in p.values():
        for level in (0.05, 0.1, 0.25, 0.5):
            # Three standard errors of 300 studies.
            assert np.mean(np.array(values) <= level) <= level + 3 * np.sqrt(level * (1 - level) / 300)
    assert 0.85 <= np.mean(covered) <= 0.99


# ---------------------------------------------------------------- figures


@pytest.mark.parametrize("count", [3, 20])
@pytest.mark.parametrize("layers", [(3,), (0, 3, 5)])
def test_the_figure_shows_the_matrix_and_every_layer(count: int, layers: tuple[int, ...], tmp_path: Path) -> None:
    wanted = EMOTIONS[:count]
    found, table = run(tmp_path, made(tmp_path, wanted, {layer: scenarios(wanted, 10) for layer in layers}))
    with house_style():
        figure = figures.draw_implicit_scenarios(found, table, 3)
        figure.canvas.draw()
    matrix, _, upper, lower = figure.axes
    assert [label.get_text() for label in matrix.get_yticklabels()] == wanted
    assert [label.get_text() for label in matrix.get_xticklabels()] == wanted
    shown = matrix.collections[0].get_array().reshape(count, count)
    assert np.diag(shown).tolist() == pytest.approx([entry["z"] for entry in found["emotions"]])
    # A square for each emotion, a dot for each row.
    assert (len(matrix.patches), len(matrix.lines)) == (count, count)
    for ax, measure in ((upper, "top1"), (lower, "z")):
        values = [found["layers"][str(layer)][measure]["value"] for layer in layers]
        assert ax.lines[0].get_ydata().tolist() == pytest.approx(values)
        assert ax.get_xlim()[0] < layers[0] <= layers[-1] < ax.get_xlim()[1]
    assert f"{count} scenarios of {count} emotions, 20 vectors." in figures.numbers_implicit_scenarios(found, table, 3)
    assert "Benjamini and Hochberg" in description("implicit_scenarios")


def test_many_emotions_are_named_in_part(tmp_path: Path) -> None:
    names = [f"word {number}" for number in range(100)]
    rng = np.random.default_rng(0)
    vectors = vector_file(tmp_path / "v.h5", 3, names, rng.normal(size=(100, WIDTH)))
    table = pd.DataFrame({"emotion": names, "prompt": names})
    write_readouts(tmp_path / "r.h5", table, {3: rng.normal(size=(100, WIDTH))}, "key", template="plain")
    found, rows = run(tmp_path, {"vectors": [vectors], "readouts": tmp_path / "r.h5"})
    with house_style():
        figure = figures.draw_implicit_scenarios(found, rows, 3)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == names[::3]
    assert "no more than chance" in figures.said(found, 3)


def test_what_is_said(tmp_path: Path) -> None:
    found, table = run(tmp_path, made(tmp_path, TWICE, {3: scenarios(TWICE, 30)}))
    said = figures.said(found, 3)
    assert "in 1.00 of 24 messages (95 % interval 1.00 to 1.00; chance 0.08; p\u00a0=\u00a00.005)" in said
    assert "for 12 of 12 emotions" in said
    assert "words of a message can give an emotion away" in said
    numbers = figures.numbers_implicit_scenarios(found, table, 3)
    assert "single emotions with q < 0.05: 12" in numbers
    found, _ = run(tmp_path, made(tmp_path, TWICE, {3: scenarios(TWICE, 0)}))
    assert "no more than chance would give at layer 3" in figures.said(found, 3)
