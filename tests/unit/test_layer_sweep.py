"""The best layer is found where it was planted, chosen without the test topics, and reported without flattery."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from affectome.activations.store import open_layer, rows_of
from affectome.analyses.layer_sweep import choose, layer_sweep
from affectome.analyses.recognition import Labels, held_out, neutral_texts, per_text, recognition
from affectome.analyses.splits import held_out_groups, set_aside
from affectome.errors import UserError
from affectome.figures.answers import layer_sweep as drawing
from affectome.figures.style import house_style
from affectome.randomness import generator
from tests.planted import layer_files, strict_json
from tests.unit.test_recognition import design, layers_of, planted

WORDS = ["angry", "bored", "calm", "dazed", "eager"]
EMOTIONS, TOPICS = design(5, 10, 2)
SETTINGS = {"emotions": WORDS, "reference": "mean_of_means", "denoising": None, "folds": 5, "bootstrap": 100, "seed": 0}


def entry(r: float, n: int) -> dict[str, Any]:
    ridge = {"r": r, "ci": [r - 0.1, r + 0.1], "p": 0.01}
    return {"ours": {"n": n, "valence": {"ridge": ridge}, "arousal": {"ridge": ridge | {"p": 0.6}}}}


def corpus(folder: Path, activations: np.ndarray, topics: np.ndarray = TOPICS) -> list[Path]:
    """Layers of `activations` (layers, texts, width), stories with words that say nothing, and correlations."""
    names = list(np.array(WORDS, dtype=object)[EMOTIONS])
    files = layers_of(folder, names, [f"topic {topic}" for topic in topics], activations)
    ids = [f"{number:04x}" for number in range(len(names))]
    pd.DataFrame({"id": ids, "text": [f"word {number % 7}" for number in range(len(ids))]}).to_parquet(
        folder / "s.parquet"
    )
    layers = {str(layer): entry(0.1 * layer, 30) for layer in range(len(files))}
    (folder / "n.json").write_text(json.dumps({"layers": layers}), encoding="utf-8")
    return files


def run(folder: Path, files: list[Path], **settings: Any) -> tuple[Any, pd.DataFrame]:
    given = SETTINGS | {"window": 2} | settings
    layer_sweep(
        files, folder / "s.parquet", folder / "n.json", **given, table=folder / "t.parquet", output=folder / "o.json"
    )
    return strict_json(folder / "o.json"), pd.read_parquet(folder / "t.parquet")


def kept(topics: np.ndarray = TOPICS) -> np.ndarray:
    """Which texts are set aside for the test."""
    groups, _ = held_out_groups(np.array([f"topic {topic}" for topic in topics]), 3)
    return set_aside(groups, generator(0, "layer_sweep", "test"))


def layers_with(signals: list[float], seed: int = 0) -> np.ndarray:
    return np.array([planted(EMOTIONS, TOPICS, signal, seed=seed + layer) for layer, signal in enumerate(signals)])


@pytest.fixture(scope="module")
def swept(tmp_path_factory) -> tuple[Path, list[Path], Any, pd.DataFrame]:
    folder = tmp_path_factory.mktemp("swept")
    files = corpus(folder, layers_with([0, 6, 40, 15, 0]))
    return folder, files, *run(folder, files)


def test_the_planted_layer_and_window_are_found(swept):
    _folder, _files, found, table = swept
    assert found["best"] == 2
    assert found["window"]["layers"] == [2, 3]
    assert found["layers"] == [0, 1, 2, 3, 4]
    assert found["test"]["top1"]["value"] > 0.9
    assert found["n"] == {
        "emotions": 5,
        "cross-validated": {"n": 100, "n_groups": 10},
        "validation": {"n": 80, "n_groups": 8},
        "test": {"n": 20, "n_groups": 2},
    }
    top = table[(table["measure"] == "top1") & (table["split"] == "cross-validated")].set_index("layer")["value"]
    assert top.idxmax() == 2
    assert abs(top[0] - 0.2) < 0.2
    assert found["words"]["test"]["top1"]["value"] < 0.6
    test_rows = table[table["split"] == "test"]
    assert set(test_rows["layer"]) == {2}
    assert len(table[table["split"] == "validation"]) == 15


def test_the_test_is_by_vectors_of_all_other_topics(swept):
    _folder, files, found, _table = swept
    aside = kept()
    scores = []
    for layer in (2, 3):
        with open_layer(files[layer]) as file:
            labels = Labels.read(file, WORDS)
            given = (labels.emotions, np.where(aside, 0, -1), neutral_texts(file, labels))
            scores.append(held_out(rows_of(file), *given))
    best = per_text(scores[0].ranks[aside]).mean(axis=0)
    joined = recognition((scores[0].scores + scores[1].scores) / 2, np.where(aside, EMOTIONS, -1), np.zeros(100, int))
    together = per_text(joined.ranks[aside]).mean(axis=0)
    for index, name in enumerate(("top1", "top5", "rank")):
        assert found["test"][name]["value"] == pytest.approx(best[index])
        assert found["window"]["test"][name]["value"] == pytest.approx(together[index])
        assert found["window_over_best"][name]["value"] == pytest.approx(together[index] - best[index])


def test_a_signal_in_the_test_topics_alone_does_not_change_the_choice(tmp_path):
    # Layer 1 is good where layers are chosen; layer 3 is made perfect in the test topics, or everywhere else.
    results = {}
    for name, where in (("nowhere", np.zeros(100, bool)), ("test", kept()), ("elsewhere", ~kept())):
        activations = layers_with([0, 8, 0, 0])
        directions = 500 * np.random.default_rng(9).normal(size=(5, 24))
        activations[3][where] = 50 + directions[EMOTIONS[where]]
        folder = tmp_path / name
        folder.mkdir()
        results[name], table = run(folder, corpus(folder, activations))
        results[name]["rows"] = table[table["split"] == "validation"][
            ["layer", "measure", "value", "low", "high"]
        ].to_dict("list")
    for key in ("best", "validation", "rows"):
        assert results["test"][key] == results["nowhere"][key]
    for key in ("layers", "validation"):
        assert results["test"]["window"][key] == results["nowhere"]["window"][key]
    assert results["test"]["best"] == 1
    assert results["test"]["test"] == results["nowhere"]["test"]
    # The same signal in the topics that choose is seen at once.
    assert results["elsewhere"]["best"] == 3


def test_the_labels_of_the_test_are_not_known_to_the_choice(tmp_path, swept):
    _folder, _files, found, _table = swept
    emotions = EMOTIONS.copy()
    emotions[kept()] = np.random.default_rng(0).permutation(emotions[kept()])
    names = list(np.array(WORDS, dtype=object)[emotions])
    corpus(tmp_path, layers_with([0, 6, 40, 15, 0]))
    topics = [f"topic {topic}" for topic in TOPICS]
    other = tmp_path / "other"
    other.mkdir()
    files = layers_of(other, names, topics, layers_with([0, 6, 40, 15, 0]))
    changed, _ = run(tmp_path, files)
    assert changed["validation"] == found["validation"]
    assert changed["window"]["validation"] == found["window"]["validation"]
    assert changed["test"]["top1"]["value"] < 0.6


def test_the_best_of_noise_is_flattered_by_validation_and_not_by_the_test(tmp_path):
    chosen, tested, held = [], [], []
    for seed in range(24):
        folder = tmp_path / str(seed)
        folder.mkdir()
        found, _ = run(folder, corpus(folder, layers_with([0] * 4, seed=10 * seed)), window=1, seed=seed, bootstrap=50)
        chosen.append(found["validation"]["top1"]["value"])
        tested.append(found["test"]["top1"]["value"])
        held.append(found["test"]["top1"]["ci"][0] <= 0.2 <= found["test"]["top1"]["ci"][1])
    error = np.std(tested) / np.sqrt(24)
    assert abs(np.mean(tested) - 0.2) < 3 * error
    assert np.mean(chosen) > 0.2 + 3 * np.std(chosen) / np.sqrt(24)
    assert np.mean(held) >= 0.9


def test_choosing_takes_the_highest_top1_then_rank_then_the_earlier_layer():
    def scores(top1: float, rank: float) -> dict[str, Any]:
        return {"top1": {"value": top1}, "rank": {"value": rank}}

    assert choose({4: scores(0.5, 3), 1: scores(0.6, 9), 2: scores(0.4, 1)}) == 1
    assert choose({4: scores(0.5, 2), 1: scores(0.5, 3)}) == 4
    assert choose({4: scores(0.5, 2), 1: scores(0.5, 2)}) == 1
    assert choose({(2, 3): scores(0.5, 2), (1, 2): scores(0.5, 2)}) == (1, 2)


def test_agreement_with_ratings_stands_beside_it(swept):
    _folder, _files, found, table = swept
    assert found["norm"] == "ours"
    rows = table[table["split"] == "norm"]
    assert len(rows) == 10
    assert (rows["n"] == 30).all()
    valence = rows[rows["measure"] == "valence"]
    np.testing.assert_allclose(valence["value"], 0.1 * valence["layer"])
    # Five of ten tests have p = 0.01.
    np.testing.assert_allclose(valence["q"], 0.02)
    np.testing.assert_allclose(rows[rows["measure"] == "arousal"]["q"], 0.6)


def test_a_norm_that_rates_too_few_is_left_out(tmp_path):
    files = corpus(tmp_path, layers_with([0, 30]))
    (tmp_path / "n.json").write_text(json.dumps({"layers": {"0": {"ours": {"n": 3}}, "1": {"ours": {"n": 3}}}}))
    found, table = run(tmp_path, files)
    assert "norm" not in set(table["split"])
    with house_style():
        figure = drawing.draw_layer_sweep(found, table, 1)
        assert "no norm rates enough words" in [text.get_text() for ax in figure.axes for text in ax.texts]
    (tmp_path / "n.json").write_text(json.dumps({"layers": {"0": {}, "1": {}}}))
    assert run(tmp_path, files)[0]["norm"] is None


def test_layers_without_texts_are_left_out(tmp_path, swept):
    folder, files, found, _table = swept
    words = [*np.array(WORDS)[EMOTIONS]]
    only_moments = layer_files(tmp_path, words, layers_with([0] * 9), stored=[])[8]
    beside, _ = run(folder, [*files, only_moments])
    assert beside == found | {"without_texts": [8]}
    with pytest.raises(UserError, match="no layer has activations per text"):
        run(folder, [only_moments])


def test_the_order_of_files_changes_nothing_and_a_long_window_is_none(swept):
    folder, files, found, table = swept
    again, again_table = run(folder, files[::-1])
    assert again == found
    pd.testing.assert_frame_equal(again_table, table)
    longer, _ = run(folder, files, window=6)
    assert longer["window"] is longer["window_over_best"] is None
    assert longer["best"] == 2
    whole, _ = run(folder, files, window=5)
    assert whole["window"]["layers"] == [0, 1, 2, 3, 4]


def test_two_topics_hold_stories_out_and_say_so(tmp_path):
    files = corpus(tmp_path, layers_with([0, 30]), topics=TOPICS % 2)
    found, _ = run(tmp_path, files)
    assert found["held_out"] == "stories"
    assert found["best"] == 1
    assert found["n"]["test"]["n_groups"] == found["n"]["test"]["n"]


# ---------------------------------------------------------------- figures


def test_the_figure_shows_the_choice_and_its_test(swept):
    _folder, _files, found, table = swept
    with house_style():
        figure = drawing.draw_layer_sweep(found, table, 3)
        figure.canvas.draw()
        top = figure.axes[0]
        assert any(list(line.get_xdata()) == [3, 3] for line in top.lines)
        curve = table[(table["split"] == "cross-validated") & (table["measure"] == "top1")]["value"]
        assert any(len(line.get_ydata()) == 5 and np.allclose(line.get_ydata(), curve) for line in top.lines)
        points = [line for line in top.lines if line.get_marker() == "D"]
        assert [line.get_ydata()[0] for line in points] == [found["test"]["top1"]["value"]]
        legend = [text.get_text() for text in figure.legends[0].get_texts()]
        assert "test of the chosen layer 2" in legend
        assert "test of the chosen window 2 to 3" in legend
    numbers = drawing.numbers_layer_sweep(found, table, 3)
    assert "80 stories on 8 topics chose layer 2" in numbers
    assert "q = 0.020" in numbers
    assert "Layers 2 to 3 together" in numbers


@pytest.mark.parametrize("layers", [1, 60])
def test_one_layer_and_many_draw(tmp_path, layers):
    files = corpus(tmp_path, layers_with([20] * layers))
    found, table = run(tmp_path, files, window=3, bootstrap=20)
    with house_style():
        figure = drawing.draw_layer_sweep(found, table, 0)
        figure.canvas.draw()
        assert len(figure.axes[0].get_xticks()) <= 14
    assert (found["window"] is None) == (layers < 3)
    assert ("There is one layer" in drawing.said(found, 0)) == (layers == 1)
    drawing.numbers_layer_sweep(found, table, 0)


def test_what_is_said_follows_the_numbers(swept):
    found = swept[2]
    said = drawing.said(found, 2)
    assert "Of 5 layers, layer 2 recognises emotions best" in said
    assert "That is the headline layer." in said
    assert "headline" not in drawing.said(found, 3)
    test = {"top1": {"value": 0.22, "ci": [0.1, 0.4]}}
    assert "no more than chance" in drawing.said(found | {"test": test}, 2)
    ahead = found | {"words": {"test": {"top1": {"value": 0.99, "ci": [0.9, 1.0]}}}}
    less = found | {"words": {"test": {"top1": {"value": 0.3, "ci": [0.2, 0.4]}}}}
    assert "a bag of words names 30 %, less." in drawing.said(less, 2)
    assert ", as much." in drawing.said(ahead | {"test": {"top1": {"value": 0.99, "ci": [0.9, 1]}}}, 2)
