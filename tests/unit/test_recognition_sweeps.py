"""Recognition by number of stories, share of denoising and reading: each moves it where that was planted."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from affectome.activations.store import open_layer, rows_of
from affectome.analyses.recognition import Labels, held_out, neutral_texts, per_text
from affectome.analyses.recognition_sweeps import _Texts, drawn, recognition_sweeps, sizes
from affectome.figures.answers import recognition_sweeps as drawing
from affectome.figures.style import house_style
from affectome.randomness import generator
from tests.planted import strict_json
from tests.unit.test_recognition import design, layers_of, planted

WORDS = ["angry", "bored", "calm", "dazed"]
EMOTIONS, TOPICS = design(4, 6, 2)
NEUTRAL = 9
SETTINGS = {
    "emotions": WORDS,
    "reference": "mean_of_means",
    "denoising": None,
    "folds": 6,
    "draws": 3,
    "shares": [0.5, 0.9],
    "bootstrap": 100,
    "seed": 0,
}


def corpus(folder: Path, activations: np.ndarray, neutral: np.ndarray, rows: np.ndarray | None = None) -> Path:
    """A layer of `activations` (texts, width), or its `rows`, and `neutral` texts; stories with a word per emotion."""
    folder.mkdir(exist_ok=True)
    rows = np.arange(len(activations)) if rows is None else rows
    names = [*np.array(WORDS, dtype=object)[EMOTIONS[rows]], *[""] * len(neutral)]
    topics = [*(f"topic {topic}" for topic in TOPICS[rows]), *(f"n{number}" for number in range(len(neutral)))]
    ids = [*(f"{row:04x}" for row in rows), *(f"n{number:03}" for number in range(len(neutral)))]
    (path,) = layers_of(folder, names, topics, np.vstack([activations[rows], neutral])[None], ids)
    everything = [f"{row:04x}" for row in range(len(EMOTIONS))]
    texts = [f"feels {WORDS[emotion]} at {number}" for number, emotion in enumerate(EMOTIONS)]
    pd.DataFrame({"id": everything, "text": texts}).to_parquet(folder / "stories.parquet")
    return path


def run(folder: Path, path: Path, variants: dict[str, Path] | None = None, **settings: Any) -> tuple[Any, pd.DataFrame]:
    given = SETTINGS | settings
    recognition_sweeps(
        path, folder / "stories.parquet", "own", variants or {}, **given,
        table=folder / "t.parquet", output=folder / "o.json",
    )  # fmt: skip
    return strict_json(folder / "o.json"), pd.read_parquet(folder / "t.parquet")


def still(width: int = 24) -> np.ndarray:
    return (50 + np.random.default_rng(5).normal(size=(NEUTRAL, width))).astype("f4")


@pytest.fixture(scope="module")
def swept(tmp_path_factory) -> tuple[Path, Path, Any, pd.DataFrame]:
    """Emotions show, but less than a nuisance that neutral texts share; another reading has twice the noise."""
    folder = tmp_path_factory.mktemp("sweeps")
    rng = np.random.default_rng(0)
    nuisance = rng.normal(size=24)
    x = planted(EMOTIONS, TOPICS, 25, noise=4) + 12 * rng.normal(size=(48, 1)) * nuisance
    neutral = still() + 12 * rng.normal(size=(NEUTRAL, 1)) * nuisance
    path = corpus(folder / "own", x, neutral)
    noisy = x + 20 * rng.normal(size=x.shape)
    # The other reading has the texts in another order, lacks two and has one that the own has not.
    rows = np.random.default_rng(1).permutation(48)[2:]
    other = corpus(folder / "noisy", noisy, neutral, rows)
    return folder / "own", path, *run(folder / "own", path, {"noisy": other})


def test_more_stories_denoising_and_reading_do_what_was_planted(swept):
    _folder, _path, found, table = swept
    values = [entry["top1"]["value"] for entry in found["stories"]]
    assert [entry["value"] for entry in found["stories"]] == [1, 2, 4, 8, 10]
    assert values[-1] > values[0] + 0.1
    assert [entry["value"] for entry in found["denoising"]] == ["off", 0.5, 0.9]
    assert [entry["components"] for entry in found["denoising"]][:2] == [0, 1]
    assert found["denoising"][1]["difference"]["top1"]["ci"][0] > 0
    assert found["denoising"][0]["difference"] is None
    assert [entry["value"] for entry in found["pooling"]] == ["own", "noisy"]
    assert found["pooling"][1]["difference"]["rank"]["value"] > 0
    assert found["pooling"][1]["n"] == found["pooling"][1]["difference"]["n"] == 46
    assert found["n"] == {
        "texts": 48, "groups": 6, "emotions": 4, "folds": 6, "pool": 48, "neutral": NEUTRAL
    }  # fmt: skip
    assert all(entry["words"]["top1"]["value"] == 1 for entry in found["stories"])
    rows = table[(table["factor"] == "stories") & (table["measure"] == "top1")]
    assert (rows.groupby(["value", "method"]).size() == 3).all()
    assert (table["n"] > 0).all()
    for entry in found["stories"]:
        single = rows[(rows["value"] == str(entry["value"])) & (rows["method"] == "vectors")]["score"]
        assert entry["top1"]["value"] == pytest.approx(single.mean())
        assert (entry["top1"]["spread"] or 0) == pytest.approx(single.std(ddof=1), abs=1e-12)
    # All there are: nothing is left to be drawn.
    assert found["stories"][-1]["top1"]["spread"] == pytest.approx(0, abs=1e-12)


def test_texts_of_another_reading_are_found_by_their_ids(tmp_path):
    x = planted(EMOTIONS, TOPICS, 9)
    path = corpus(tmp_path / "own", x, still())
    again = corpus(tmp_path / "again", x, still(), np.random.default_rng(2).permutation(48))
    found, _ = run(tmp_path / "own", path, {"again": again}, draws=1, shares=[])
    own, same = found["pooling"]
    assert own["top1"]["value"] < 1
    assert same["difference"]["n"] == 48
    for name in ("top1", "rank"):
        assert same["difference"][name] == {"value": 0.0, "ci": [0.0, 0.0]}


def test_all_stories_are_what_the_definition_gives(swept):
    _folder, path, found, _table = swept
    with open_layer(path) as file:
        labels = Labels.read(file, WORDS)
        folds = np.full(len(labels.ids), -1)
        folds[labels.scored] = np.unique(labels.topics[labels.scored], return_inverse=True)[1]
        given = (rows_of(file), labels.emotions, folds, neutral_texts(file, labels))
        plain = per_text(held_out(*given).ranks[labels.scored]).mean(axis=0)
        half = per_text(held_out(*given, denoising={"variance": 0.5}).ranks[labels.scored]).mean(axis=0)
    for entry, expected in (
        (found["stories"][-1], plain), (found["denoising"][0], plain), (found["pooling"][0], plain),
        (found["denoising"][1], half),
    ):  # fmt: skip
        assert [entry[name]["value"] for name in ("top1", "top5", "rank")] == pytest.approx(list(expected))
    assert found["denoising"][1]["difference"]["top1"]["value"] == pytest.approx(half[0] - plain[0])


def test_stories_are_drawn_outside_the_fold_and_evenly():
    rng = np.random.default_rng(0)
    emotions, folds = rng.integers(-1, 5, 400), rng.integers(0, 4, 400)
    for fold in range(4):
        learned = drawn(emotions, folds, fold, 7, generator(fold))
        taken = np.flatnonzero(learned >= 0)
        assert (folds[taken] != fold).all()
        assert (learned[taken] == emotions[taken]).all()
        assert (np.bincount(learned[taken], minlength=5) == 7).all()
    assert (drawn(emotions, folds, 0, 7, generator(1)) != drawn(emotions, folds, 0, 7, generator(2))).any()
    # An emotion that has fewer gives what it has.
    few = np.where((emotions == 2) & (np.arange(400) > 40), -1, emotions)
    learned = drawn(few, folds, 0, 30, generator(0))
    assert (learned == 2).sum() == ((few == 2) & (folds != 0)).sum() < 30


def test_numbers_of_stories_double_up_to_what_half_of_the_emotions_have():
    emotions, folds = np.repeat(np.arange(3), 12), np.tile(np.arange(6), 6)
    assert sizes(emotions, folds) == [1, 2, 4, 8, 10]
    assert sizes(emotions[folds < 2], folds[folds < 2]) == [1, 2]
    # One emotion with a single story does not keep the others from being drawn.
    keep = (emotions != 0) | (np.arange(36) == 0)
    assert sizes(emotions[keep], folds[keep]) == [1, 2, 4, 8, 10]


def test_a_signal_of_the_topic_earns_nothing_at_any_number(tmp_path):
    rng = np.random.default_rng(0)
    own = rng.normal(size=(4, 6, 24))[EMOTIONS, TOPICS]
    path = corpus(tmp_path / "own", 50 + 30 * own + 0.1 * rng.normal(size=own.shape), still())
    found, _ = run(tmp_path / "own", path, draws=2)
    assert all(entry["top1"]["value"] < 0.55 for entry in found["stories"])


def test_intervals_of_noise_hold_chance_about_as_often_as_stated(tmp_path):
    held = []
    for seed in range(25):
        path = corpus(tmp_path / str(seed), planted(EMOTIONS, TOPICS, 0, seed=seed), still())
        found, _ = run(tmp_path / str(seed), path, draws=1, shares=[], bootstrap=50)
        held += [entry["rank"]["ci"][0] <= 2.5 <= entry["rank"]["ci"][1] for entry in found["stories"][::4]]
    # Recognition leaves out what other stories to learn from would change; see `test_recognition`.
    assert 0.75 < np.mean(held) < 0.97


def test_repetition_changes_nothing(swept):
    folder, path, found, _table = swept
    before = {name: found[name] for name in ("stories", "denoising")}
    again, _ = run(folder, path)
    assert {name: again[name] for name in before} == before
    assert len(again["pooling"]) == 1
    other, _ = run(folder, path, seed=1)
    assert other["stories"][0]["top1"]["value"] != found["stories"][0]["top1"]["value"]
    assert other["stories"][-1]["top1"]["value"] == pytest.approx(found["stories"][-1]["top1"]["value"])


def test_without_neutral_texts_nothing_is_taken_out(tmp_path):
    path = corpus(tmp_path / "own", planted(EMOTIONS, TOPICS, 9), still()[:0])
    found, table = run(tmp_path / "own", path)
    assert [entry["value"] for entry in found["denoising"]] == ["off"]
    with house_style():
        figure = drawing.draw_recognition_sweeps(found, table, 0)
        figure.canvas.draw()
    assert "no other reading was given" in [text.get_text() for ax in figure.axes for text in ax.texts]
    assert "clearly" not in drawing.said(found, 0)


def test_a_large_corpus_is_swept_by_a_sample(swept, monkeypatch):
    folder, path, found, _table = swept
    monkeypatch.setattr("affectome.analyses.recognition_sweeps.MOST", 24)
    sampled, _ = run(folder, path)
    assert sampled["n"]["pool"] == 24
    assert sampled["stories"][0]["n"] <= 24
    assert sampled["denoising"] == found["denoising"]
    with open_layer(path) as file:
        texts = _Texts(Labels.read(file, WORDS), 6, 10, 0)
    pool = texts.pool()
    assert (np.bincount(texts.labels.emotions[pool]) == 6).all()
    assert (np.diff(pool) > 0).all()


# ---------------------------------------------------------------- figures


def test_the_figure_shows_every_value(swept):
    _folder, _path, found, table = swept
    with house_style():
        figure = drawing.draw_recognition_sweeps(found, table, 0)
        figure.canvas.draw()
    assert len(figure.axes) == 6
    stories, denoising, reading = figure.axes[:3]
    lines = [line.get_ydata() for line in stories.lines if len(line.get_ydata()) == 5]
    np.testing.assert_allclose(lines[0], [entry["top1"]["value"] for entry in found["stories"]])
    np.testing.assert_allclose(lines[1], [1.0] * 5)
    assert [text.get_text() for text in denoising.get_xticklabels()] == ["off", "50 %", "90 %"]
    assert [text.get_text() for text in reading.get_xticklabels()] == ["own", "noisy"]
    low, high = stories.get_ylim()
    assert all(low <= score <= high for score in table.loc[table["measure"] == "top1", "score"])


def test_what_is_said_follows_the_numbers(swept):
    _folder, _path, found, table = swept
    said = drawing.said(found, 5)
    assert "with 1 story per emotion" in said
    assert "a bag of words of as many names 1.00" in said
    assert "of the neutral variance changes it most" in said or "the reading noisy changes it most" in said
    flat = json.loads(json.dumps(found))
    for factor in ("denoising", "pooling"):
        for entry in flat[factor]:
            if entry["difference"]:
                entry["difference"]["top1"]["ci"] = [-0.1, 0.1]
    assert "every interval of the change holds 0" in drawing.said(flat, 5)
    numbers = drawing.numbers_recognition_sweeps(found, table, 5)
    assert "48 stories on 6 topics in 6 folds" in numbers
    assert "reading noisy changes top-1" in numbers
    one = found | {"stories": found["stories"][:1]}
    assert drawing.said(one, 5).startswith("At layer 5 top-1 is")
    with house_style():
        drawing.draw_recognition_sweeps(one, table, 5)
