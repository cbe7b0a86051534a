"""Readouts that follow a number are found with their slope, and those that do not are called chance.

Readouts are built as a template's mean, plus each pair's planted slope times log2 of the number along the emotion's
vector, plus noise. Slopes and rank correlations are compared with SciPy's.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from affectome.activations.readout_store import write_readouts
from affectome.analyses.intensity import Measured, intensity, scales_of, summary
from affectome.corpus.prompt_lists import intensity_prompts
from affectome.errors import UserError
from affectome.figures.answers import intensity as figures
from affectome.figures.captions import description
from affectome.figures.style import house_style
from affectome.vectors.store import read_vectors
from tests.planted import orthonormal, strict_json, vector_file

WIDTH = 30
EMOTIONS = ["calm", "afraid", "sad", "happy", "bored", "angry"]
UNITS = orthonormal(np.random.default_rng(0), len(EMOTIONS), WIDTH)
NORM = 20.0
PERMUTATIONS = 199
DOSES = [500, 1000, 2000, 4000, 8000, 16000]


def template(
    number: int, rises: Sequence[str], falls: Sequence[str], values: Sequence[float] = DOSES
) -> dict[str, Any]:
    wording = f"This is message number {number}, and in it somebody took {{x}} of whatever it was, and then some."
    return {"template": wording, "unit": "mg", "values": list(values), "rises": list(rises), "falls": list(falls)}


def planted(rows: list[dict[str, Any]], slopes: dict[str, float], noise: float, seed: int = 0) -> tuple:
    """A list's table and readouts (prompts, width): `slopes` per doubling, in residual norms, by emotion.

    An emotion that a template expects to fall has its slope turned.
    """
    rng = np.random.default_rng(seed)
    table, _ = intensity_prompts(rows)
    readouts = noise * rng.normal(size=(len(table), WIDTH))
    for number, row in enumerate(table.itertuples()):
        readouts[number] += 40 * np.random.default_rng(row.template).normal(size=WIDTH)
        for emotion, slope in slopes.items():
            sign = -1 if emotion in row.falls.split(";") else 1
            if row.value > 0:
                readouts[number] += sign * slope * NORM * np.log2(row.value) * UNITS[EMOTIONS.index(emotion)]
    return table, readouts


def run(
    folder: Path, table: pd.DataFrame, layers: dict[int, np.ndarray], layer: int = 2, seed: int = 0
) -> tuple[dict[str, Any], pd.DataFrame]:
    write_readouts(folder / "r.h5", table, layers, "key", template="model")
    files = [vector_file(folder / f"v{number}.h5", number, EMOTIONS, 5 * UNITS, NORM) for number in (4, 2)]
    settings = {"permutations": PERMUTATIONS, "bootstrap": 200, "seed": seed, "layer": layer}
    intensity(files, folder / "r.h5", **settings, table=folder / "i.parquet", output=folder / "i.json")
    return strict_json(folder / "i.json"), pd.read_parquet(folder / "i.parquet")


def eight(values: Sequence[float] = DOSES) -> list[dict[str, Any]]:
    """Eight templates, half of which turn the other half's expectations round."""
    up, down = ["afraid", "sad"], ["calm", "happy"]
    return [template(number, *((up, down) if number % 2 else (down, up)), values) for number in range(8)]


def test_planted_slopes_are_found(tmp_path: Path) -> None:
    slopes = {"afraid": 0.01, "sad": 0.02, "calm": 0.03, "happy": 0.04}
    table, readouts = planted(eight(), slopes, 0.0)
    found, rows = run(tmp_path, table, {2: readouts, 4: readouts, 6: readouts})
    assert found["n"] == {
        "templates": 8,
        "prompts": 48,
        "pairs": 32,
        "tested": 32,
        "emotions": 4,
        "vectors": 6,
        "left_out": 0,
    }
    assert list(found["layers"]) == ["2", "4"]
    here = found["layers"]["2"]
    assert (here["hits"]["count"], here["hits"]["n"], here["hits"]["value"]) == (32, 32, 1)
    assert here["change"]["p"] == here["change"]["q"] == 1 / (PERMUTATIONS + 1)
    # Pairs of a template turn together, so that all of them are hits in one of 256 permutations.
    assert 1 / (PERMUTATIONS + 1) <= here["hits"]["p"] < 0.03
    assert here["hits"]["p_binomial"] == pytest.approx(0.5**32)
    assert here["hits"]["shuffled"] == pytest.approx(0.5, abs=0.05)
    # 500 to 16,000 is five doublings.
    assert here["change"]["value"] == pytest.approx(5 * 0.025, rel=1e-4)
    assert here["spearman"]["value"] == 1
    for pair in found["pairs"]:
        sign = 1 if pair["expected"] == "rises" else -1
        assert pair["slope"] == pytest.approx(sign * slopes[pair["emotion"]], rel=1e-3)
        assert pair["change"] == pytest.approx(5 * pair["slope"])
        assert (pair["spearman"], pair["n"]) == (sign, 6)
    assert {(entry["hits"], entry["n"]) for entry in found["templates"]} == {(4, 4)}
    one = rows[(rows["template"] == 2) & (rows["emotion"] == "afraid")]
    assert (one["expected"].unique().tolist(), one["n"].unique().tolist()) == (["rises"], [6])
    # The template's mean is taken away: the readouts of five doublings lie around 0.
    np.testing.assert_allclose(one["readout"], 0.01 * np.arange(-2.5, 3), atol=1e-5)
    other = rows[rows["emotion"] == "bored"]
    assert set(other["expected"]) == {""}
    assert other["p"].isna().all()
    rises, falls = found["curves"]["rises"], found["curves"]["falls"]
    assert (rises["pairs"], rises["templates"]) == (16, 8)
    assert rises["position"] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    np.testing.assert_allclose(rises["mean"], 0.025 * np.arange(-2.5, 3), atol=1e-5)
    np.testing.assert_allclose(falls["mean"], -0.025 * np.arange(-2.5, 3), atol=1e-5)
    assert all(np.array(rises["low"]) <= np.array(rises["mean"]) + 1e-9)


def test_numbers_are_those_of_other_libraries(tmp_path: Path) -> None:
    rows = [template(1, ["afraid"], ["calm"], [3, 9.5, 1, 40]), template(2, ["sad"], ["happy", "bored"], [2, 7])]
    table, readouts = planted(rows, {"afraid": 0.01}, 2.0)
    found, written = run(tmp_path, table, {2: readouts})
    readouts = readouts.astype(np.float32).astype(float)
    hits = 0
    for pair in found["pairs"]:
        here = (table["template"] == pair["template"]).to_numpy()
        y = readouts[here] @ UNITS[EMOTIONS.index(pair["emotion"])] / NORM
        x = table["value"][here]
        assert pair["slope"] == pytest.approx(scipy.stats.linregress(np.log2(x), y).slope, abs=1e-6)
        assert pair["spearman"] == pytest.approx(scipy.stats.spearmanr(x, y).statistic)
        hits += pair["slope"] > 0 if pair["expected"] == "rises" else pair["slope"] < 0
    assert found["layers"]["2"]["hits"]["count"] == hits
    assert found["layers"]["2"]["hits"]["p_binomial"] == pytest.approx(
        scipy.stats.binom.sf(hits - 1, found["layers"]["2"]["hits"]["n"], 0.5)
    )
    q = scipy.stats.false_discovery_control([pair["p"] for pair in found["pairs"]])
    assert [pair["q"] for pair in found["pairs"]] == pytest.approx(q.tolist())
    # Rows come in the order of the numbers, whatever that of the list.
    assert written[(written["template"] == 1) & (written["emotion"] == "sad")]["value"].tolist() == [1, 3, 9.5, 40]


def test_p_of_a_pair_is_that_of_all_orders(tmp_path: Path) -> None:
    """Of the 24 orders of four numbers one fits best."""
    table, readouts = planted([template(1, ["afraid"], [], [1, 2, 4, 8])], {"afraid": 0.1}, 0.0)
    found, _ = run(tmp_path, table, {2: readouts})
    assert found["pairs"][0]["p"] == pytest.approx(1 / 24, abs=0.04)
    assert found["pairs"][0]["p"] > 1 / (PERMUTATIONS + 1)


def test_a_shift_that_numbers_bring_along_is_no_hit(tmp_path: Path) -> None:
    """What rises with any number is expected to rise in half of the templates and to fall in the others."""
    table, readouts = planted(eight(), {}, 0.01)
    drift = np.log2(table["value"].to_numpy())[:, None] * UNITS[:4].sum(axis=0)
    found, _ = run(tmp_path, table, {2: readouts + drift})
    here = found["layers"]["2"]
    assert here["hits"]["value"] == 0.5
    assert here["hits"]["p"] > 0.2
    assert here["hits"]["ci"] == [0.5, 0.5]


def test_order_and_company_change_nothing(tmp_path: Path) -> None:
    table, readouts = planted(eight(), {"afraid": 0.01}, 1.0)
    first, _ = run(tmp_path, table, {2: readouts, 4: readouts + 1})
    bytes_of_first = (tmp_path / "i.json").read_bytes()
    run(tmp_path, table, {2: readouts, 4: readouts + 1})
    assert (tmp_path / "i.json").read_bytes() == bytes_of_first
    order = np.random.default_rng(0).permutation(len(table))
    mixed, _ = run(tmp_path, table.iloc[order].reset_index(drop=True), {2: readouts[order]})
    assert [(p["template"], p["emotion"], p["p"]) for p in mixed["pairs"]] == [
        (p["template"], p["emotion"], p["p"]) for p in first["pairs"]
    ]
    assert mixed["layers"]["2"]["hits"]["p"] == first["layers"]["2"]["hits"]["p"]
    other, _ = run(tmp_path, table, {2: readouts}, seed=1)
    assert other["layers"]["2"]["change"]["value"] == first["layers"]["2"]["change"]["value"]
    assert other["layers"]["2"]["change"]["ci"] != first["layers"]["2"]["change"]["ci"]


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize(("values", "spearman"), [([0, 1, 2], True), ([-4, 2, 8], True), ([3, 3, 3], False)])
def test_numbers_without_a_doubling_have_no_slope(values: list[float], spearman: bool, tmp_path: Path) -> None:
    rows = [template(1, ["afraid"], ["calm"]), template(2, ["afraid", "sad"], [], values)]
    table, readouts = planted(rows, {"afraid": 0.01}, 0.1)
    found, written = run(tmp_path, table, {2: readouts})
    assert found["no_slope"] == [2]
    assert (found["n"]["pairs"], found["n"]["tested"]) == (4, 2)
    assert [pair["template"] for pair in found["pairs"]] == [1, 1]
    assert found["layers"]["2"]["hits"]["n"] == 2
    second = found["templates"][1]
    assert (second["hits"], second["change"], second["p"], second["q"]) == (None, None, None, None)
    here = written[written["template"] == 2]
    assert here["slope"].isna().all()
    assert here["spearman"].notna().all() == spearman
    with house_style():
        figure = figures.draw_intensity(found, written, 2)
        figure.canvas.draw()
    assert figure.axes[3].get_xlabel() == "mg (not tested)"
    assert "(templates without a slope: 2)" in figures.numbers_intensity(found, written, 2)


def test_emotions_without_vectors_are_left_out_and_named(tmp_path: Path) -> None:
    rows = [template(1, ["afraid", "stoical"], ["blue"]), template(2, ["stoical"], [])]
    table, readouts = planted(rows, {"afraid": 0.01}, 0.1)
    found, written = run(tmp_path, table, {2: readouts})
    assert found["left_out"] == ["blue", "stoical"]
    assert (found["n"]["pairs"], found["n"]["emotions"], found["n"]["left_out"]) == (1, 1, 2)
    assert [(pair["template"], pair["emotion"]) for pair in found["pairs"]] == [(1, "afraid")]
    assert found["curves"]["falls"] is None
    with house_style():
        figure = figures.draw_intensity(found, written, 2)
    assert "no expected emotion\nhas a vector" in [text.get_text() for text in figure.axes[3].texts]


@pytest.mark.parametrize("rows", [[template(1, ["blue"], [])], [template(1, ["afraid"], [], [0, 1])]])
def test_nothing_to_test_says_so(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    table, readouts = planted(rows, {}, 1.0)
    found, written = run(tmp_path, table, {2: readouts})
    assert found["n"]["tested"] == 0
    assert [found[name] for name in ("layers", "templates", "pairs", "curves")] == [None] * 4
    assert len(written) == len(table) * len(EMOTIONS)
    with house_style():
        figure = figures.draw_intensity(found, written, 2)
    assert "no template has both" in figure.axes[0].texts[0].get_text().replace("\n", " ")
    assert "cannot be said: no template has both" in figures.said(found, 2)
    assert figures.numbers_intensity(found, written, 2).startswith("Here: no template has both")


def test_inputs_that_do_not_go_together(tmp_path: Path) -> None:
    table, readouts = planted([template(1, ["afraid"], [])], {}, 1.0)
    with pytest.raises(UserError, match="layer 4 is wanted, and there are readouts of 2"):
        run(tmp_path, table, {2: readouts}, layer=4)
    with pytest.raises(UserError, match="have no numbers; read a list of the kind intensity"):
        run(tmp_path, table.rename(columns={"value": "x"}), {2: readouts})


def test_numbers_that_nothing_follows_are_chance(tmp_path: Path) -> None:
    """300 studies of noise: p by permutation is uniform and its interval covers; the binomial test is too sure."""
    rng = np.random.default_rng(0)
    vectors = read_vectors(vector_file(tmp_path / "v.h5", 2, EMOTIONS, UNITS, NORM))
    table, _ = intensity_prompts(eight())
    p, hits, binomial, covered = [], [], [], []
    for study in range(300):
        scales = scales_of(table, EMOTIONS, 99, study)
        assert np.array_equal(np.sort(scales[0].deals), np.tile(scales[0].doublings, (99, 1)))
        # Pairs of a template go together, as those of real emotions do.
        shared = rng.normal(size=(len(table), 1)) * (UNITS[1] + UNITS[2] - UNITS[0] - UNITS[3])
        readouts = 3 * shared + rng.normal(size=(len(table), WIDTH))
        found = summary([Measured.of(scale, readouts[scale.rows], vectors) for scale in scales], 100, rng)
        p.append(found["change"]["p"])
        hits.append(found["hits"]["p"])
        binomial.append(found["hits"]["p_binomial"])
        covered.append(found["change"]["ci"][0] <= 0 <= found["change"]["ci"][1])
    assert scipy.stats.kstest(np.array(p) - rng.uniform(0, 0.01, 300), "uniform").pvalue > 0.01
    for level in (0.05, 0.1, 0.25, 0.5):
        assert np.mean(np.array(hits) <= level) <= level + 3 * np.sqrt(level * (1 - level) / 300)
    assert np.mean(np.array(hits) <= 0.25) > 0.05
    assert np.mean(np.array(binomial) <= 0.05) > 0.1
    assert 0.83 <= np.mean(covered) <= 0.98


# ---------------------------------------------------------------- figures


@pytest.mark.parametrize(("count", "layers"), [(1, (2,)), (8, (2, 4)), (25, (2,))])
def test_the_figure_shows_every_template(count: int, layers: tuple[int, ...], tmp_path: Path) -> None:
    rows = [template(number, ["afraid", "sad"], ["calm"]) for number in range(count)]
    table, readouts = planted(rows, {"afraid": 0.01, "calm": 0.01}, 0.1)
    found, written = run(tmp_path, table, dict.fromkeys(layers, readouts))
    with house_style():
        figure = figures.draw_intensity(found, written, 2)
        figure.canvas.draw()
    together, by_layer, *panels = figure.axes
    assert len(panels) == min(count, 18)
    assert together.lines[0].get_ydata().tolist() == pytest.approx(
        [1000 * value for value in found["curves"]["rises"]["mean"]]
    )
    assert by_layer.lines[0].get_xdata().tolist() == list(layers)
    texts = [text.get_text() for text in panels[0].texts]
    assert texts[:2] == ["↑ afraid, sad", "↓ calm"]
    assert "X of" in texts[2]
    # Two risers and their mean, one faller and its mean, and the line at 0.
    assert len(panels[0].lines) == 6
    assert panels[0].get_xscale() == "log"
    assert "Benjamini and Hochberg" in description("intensity")
    assert ("the first 18 templates are drawn" in figures.numbers_intensity(found, written, 2)) == (count > 18)


def test_what_is_said(tmp_path: Path) -> None:
    table, readouts = planted(eight(), {"afraid": 0.01, "sad": 0.01, "calm": 0.01, "happy": 0.01}, 0.0)
    found, written = run(tmp_path, table, {2: readouts})
    said = figures.said(found, 2)
    assert "32 of 32 readouts move as expected (1.00, 95 % interval 1.00 to 1.00; chance 0.50" in said
    assert "by 0.0500 of the residual norm" in said
    assert "48 prompts. 32 of 32 pairs" in figures.numbers_intensity(found, written, 2)
    table, readouts = planted(eight(), {}, 1.0)
    found, _ = run(tmp_path, table, {2: readouts})
    assert figures.said(found, 2).endswith("at layer 2: no more than chance would give.")
