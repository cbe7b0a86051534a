"""Held-out recognition: what is planted is reported, noise is called noise, and words are set beside it all."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from matplotlib.colors import to_hex

from affectome.activations.store import open_layer, rows_of
from affectome.analyses.recognition import Labels, held_out, neutral_of, neutral_texts, per_text
from affectome.analyses.splits import topic_folds
from affectome.analyses.statistics import benjamini_hochberg
from affectome.analyses.story_holdout import (
    MOST_PERMUTATIONS,
    _against_null,
    _sample,
    paired_difference,
    permuted_means,
    story_holdout,
    within_topics,
)
from affectome.errors import UserError
from affectome.figures.answers import story_holdout as drawing
from affectome.figures.style import house_style
from affectome.randomness import generator
from tests.planted import strict_json
from tests.unit.test_recognition import design, layers_of, planted

WORDS = ["angry", "bored", "calm", "dazed", "eager", "fond"]
SETTINGS = {
    "reference": "mean_of_means",
    "denoising": None,
    "folds": 6,
    "bootstrap": 200,
    "permutations": 39,
    "seed": 0,
}


def corpus(folder: Path, emotions: np.ndarray, topics: np.ndarray, activations: np.ndarray, telling: bool) -> Path:
    """A layer and `stories.parquet` in `folder`, with three neutral texts; words that are `telling` name emotions."""
    words, subjects = list(np.array(WORDS, dtype=object)[emotions]), [f"topic {topic}" for topic in topics]
    rng = np.random.default_rng(1)
    neutral = 50 + rng.normal(size=(3, activations.shape[1])).astype("f4")
    (path,) = layers_of(
        folder, [*words, "", "", ""], [*subjects, "x", "y", "z"], np.vstack([activations, neutral])[None]
    )
    texts = [
        f"{'feels ' + word if telling else 'feels'} about {subject} {rng.integers(50)}"
        for word, subject in zip(words, subjects, strict=True)
    ]
    ids = [f"{number:04x}" for number in range(len(words))]
    pd.DataFrame({"id": ids, "text": texts}).iloc[::-1].to_parquet(folder / "stories.parquet")
    return path


def run(folder: Path, path: Path, **settings: Any) -> tuple[Any, pd.DataFrame]:
    given = {"emotions": WORDS, **SETTINGS, **settings}
    story_holdout(path, folder / "stories.parquet", **given, table=folder / "t.parquet", output=folder / "o.json")
    return strict_json(folder / "o.json"), pd.read_parquet(folder / "t.parquet")


@pytest.fixture(scope="module")
def strong(tmp_path_factory) -> tuple[Path, Path, Any, pd.DataFrame]:
    """Every emotion has a direction of its own but the last, which shares the first's; the words say nothing."""
    folder = tmp_path_factory.mktemp("strong")
    emotions, topics = design(6, 6, 3)
    x = planted(np.where(emotions == 5, 0, emotions), topics, 60)
    path = corpus(folder, emotions, topics, x, telling=False)
    return folder, path, *run(folder, path)


@pytest.fixture(scope="module")
def surface(tmp_path_factory) -> tuple[Any, pd.DataFrame]:
    """The words name the emotions, the activations are noise."""
    folder = tmp_path_factory.mktemp("surface")
    emotions, topics = design(6, 6, 3)
    path = corpus(folder, emotions, topics, planted(emotions, topics, 0), telling=True)
    return run(folder, path)


def test_what_is_planted_is_reported(strong):
    _folder, _path, found, table = strong
    assert found["n"] == {
        "texts": 108, "untested": 0, "emotions": 6, "groups": 6, "folds": 6, "permuted": 108
    }  # fmt: skip
    assert found["held_out"] == "topics"
    assert found["layer"] == 0
    assert found["permutations"] == 39
    of = table[(table["kind"] == "emotion") & (table["method"] == "vectors")].pivot(
        index="emotion", columns="measure", values="value"
    )
    # Four are always right; the first and last cannot be told apart, and nothing else is as near.
    np.testing.assert_array_equal(of.loc[["bored", "calm", "dazed", "eager"], ["top1", "rank"]], [[1, 1]] * 4)
    assert of.loc["angry", "top1"] + of.loc["fond", "top1"] < 1.5
    assert (of.loc[["angry", "fond"], "rank"] <= 2).all()
    assert {(pair["emotion"], pair["taken_for"]) for pair in found["confusions"]} == {
        ("angry", "fond"),
        ("fond", "angry"),
    }
    assert found["confusions"][0]["of"] == 18
    assert found["null"]["top1"]["p"] == found["null"]["rank"]["p"] == 1 / 40
    # Permuted emotions are named by chance.
    assert abs(found["null"]["top1"]["mean"] - 1 / 6) < 0.06
    assert abs(found["null"]["rank"]["mean"] - 3.5) < 0.25
    assert found["words"]["top1"]["value"] < 0.4
    assert found["difference"]["top1"]["ci"][0] > 0
    assert found["beside_words"]["vectors_only"]["value"] > 0.4


def test_scores_are_those_of_recognition(strong):
    _folder, path, found, table = strong
    with open_layer(path) as file:
        labels = Labels.read(file, WORDS)
        folds = np.full(len(labels.ids), -1)
        folds[labels.scored] = np.unique(labels.topics[labels.scored], return_inverse=True)[1]
        ranks = held_out(rows_of(file), labels.emotions, folds, neutral_texts(file, labels)).ranks
    values = per_text(ranks[labels.scored])
    by_hand = pd.DataFrame(values, columns=["top1", "top5", "rank"]).groupby(labels.emotions[labels.scored]).mean()
    of = table[(table["kind"] == "emotion") & (table["method"] == "vectors")].pivot(
        index="emotion", columns="measure", values="value"
    )
    np.testing.assert_allclose(of.loc[WORDS, ["top1", "top5", "rank"]], by_hand)
    for index, name in enumerate(("top1", "top5", "rank")):
        assert found["vectors"][name]["value"] == pytest.approx(by_hand.to_numpy()[:, index].mean())
    within = found["within"]["vectors"]
    assert len(within) == 6
    assert within[0] == pytest.approx(found["vectors"]["top1"]["value"])
    assert within[-1] == 1
    # Mean rank is 1 + the sum of what the first k miss.
    assert 1 + np.sum(1 - np.array(within)) == pytest.approx(found["vectors"]["rank"]["value"])
    groups = table[(table["kind"] == "group") & (table["measure"] == "top1")]
    assert len(groups) == 36
    assert set(groups["group"]) == {f"topic {number}" for number in range(6)}
    assert (groups["value"] * groups["n"]).sum() == pytest.approx(values[:, 0].sum())
    shares = found["beside_words"]
    assert sum(entry["value"] for entry in shares.values()) == pytest.approx(1)
    assert shares["both"]["value"] + shares["vectors_only"]["value"] == pytest.approx(found["vectors"]["top1"]["value"])
    assert found["difference"]["top1"]["value"] == pytest.approx(
        found["vectors"]["top1"]["value"] - found["words"]["top1"]["value"]
    )
    tested = table[(table["kind"] == "emotion") & (table["method"] == "vectors") & (table["measure"] == "rank")]
    np.testing.assert_allclose(tested["q"], benjamini_hochberg(tested["p"].to_numpy()))
    assert table.loc[table["kind"] == "emotion", ["n", "n_groups"]].notna().all(axis=None)
    assert table["p"].notna().sum() == 6


def test_a_corpus_that_names_its_emotions_is_not_sold_as_understood(surface):
    found, table = surface
    assert found["words"]["top1"]["value"] == 1
    assert found["difference"]["top1"]["ci"][1] < 0
    assert found["null"]["top1"]["p"] > 0.05
    said = drawing.said(found, 0)
    assert "no more than vectors of permuted emotions do" in said
    assert (table["q"].dropna() > 0.05).any()


def test_repetition_changes_nothing_and_the_seed_only_what_is_drawn(strong):
    folder, path, found, table = strong
    again, again_table = run(folder, path)
    assert again == found
    pd.testing.assert_frame_equal(again_table, table)
    other, _ = run(folder, path, seed=1)
    assert other["vectors"]["top1"]["value"] == found["vectors"]["top1"]["value"]
    assert other["null"]["rank"]["mean"] != found["null"]["rank"]["mean"]


def test_permutations_are_bounded_and_counted(strong, monkeypatch):
    folder, path, _found, _table = strong
    monkeypatch.setattr("affectome.analyses.story_holdout.MOST_PERMUTATIONS", 3)
    found, _ = run(folder, path, permutations=1000)
    assert found["permutations"] == 3
    assert found["null"]["rank"]["p"] == 1 / 4
    assert MOST_PERMUTATIONS == 200


def test_the_null_is_of_a_sample_where_there_are_many_texts(strong, monkeypatch):
    folder, path, before, _table = strong
    monkeypatch.setattr("affectome.analyses.story_holdout.MOST_PERMUTED", 60)
    found, _ = run(folder, path)
    assert found["n"]["permuted"] == 60
    assert found["vectors"] == before["vectors"]
    with open_layer(path) as file:
        labels = Labels.read(file, WORDS)
    rows = _sample(labels, generator(0))
    assert (np.bincount(labels.emotions[rows]) == 10).all()
    assert (np.diff(rows) > 0).all()


def test_emotions_are_permuted_within_topics():
    rng = np.random.default_rng(0)
    emotions, topics = rng.integers(0, 5, 300), rng.choice(["a", "b", "c"], 300)
    found = within_topics(emotions, topics, rng)
    for topic in "abc":
        assert sorted(found[topics == topic]) == sorted(emotions[topics == topic])
    assert (found != emotions).mean() > 0.5


def test_p_values_of_noise_are_uniform():
    emotions, topics = design(5, 4, 2)
    none = neutral_of(np.zeros((0, 6), "f4"))
    found: dict[str, list[tuple[float, float]]] = {"overall": [], "emotion": []}
    for seed in range(150):
        x = planted(emotions, topics, 0, width=6, seed=seed)
        rng = generator(seed, "null")
        observed, null = permuted_means(x, emotions, topics, topics, none, "mean_of_means", None, 19, rng)
        overall, p = _against_null(observed, null)
        mean, means = observed[:, 2].mean(), null[:, :, 2].mean(axis=1)
        found["overall"].append((overall["rank"]["p"], smoothed(mean, means, rng)))
        found["emotion"].append((p[seed % 5], smoothed(observed[seed % 5, 2], null[:, seed % 5, 2], rng)))
    for values in found.values():
        stated, smooth = np.array(values).T
        assert scipy.stats.kstest(smooth, "uniform").pvalue > 0.01
        # Mean ranks of few texts are often equal, and what is equal counts against the finding.
        assert (stated >= smooth).all()
        assert np.mean(stated <= 0.05) < 0.11


def smoothed(observed: float, null: np.ndarray, rng: np.random.Generator) -> float:
    """The p value of a rank if those equal to it, itself among them, were in random order."""
    same = np.abs(null - observed) < 1e-9
    return float((np.sum(null[~same] < observed) + rng.uniform() * (1 + same.sum())) / (1 + len(null)))


def test_paired_differences_hold_their_value_and_gain_from_pairing():
    held, paired, apart = [], [], []
    for seed in range(200):
        rng = np.random.default_rng([3, seed])
        emotions, topics = design(4, 8, 4)
        hard = rng.normal(size=8)[topics]
        # Both are right where a topic is easy; one of them is right a little less often.
        first, second = (np.where(hard + rng.normal(size=len(topics)) > cut, 1.0, 2.0) for cut in (0, 0.5))
        found = paired_difference(first, second, emotions, topics, 300, rng)["top1"]
        shuffled = rng.permutation(8)[topics]
        loose = paired_difference(first, second, emotions, shuffled, 300, rng)["top1"]
        truth = scipy.stats.norm.cdf(0) - scipy.stats.norm.cdf(-0.5 / np.sqrt(2))
        held.append(found["ci"][0] <= truth <= found["ci"][1])
        paired.append(found["value"])
        apart.append(loose["value"])
    assert np.mean(held) >= 0.9
    assert paired == pytest.approx(apart)
    assert np.mean(paired) == pytest.approx(truth, abs=0.02)


def test_one_topic_holds_stories_out_and_says_so(tmp_path):
    emotions, _ = design(6, 1, 12)
    path = corpus(tmp_path, emotions, np.zeros(len(emotions), int), planted(emotions, emotions * 0, 30), telling=False)
    found, table = run(tmp_path, path)
    assert found["held_out"] == "stories"
    assert found["n"]["folds"] == 6
    assert found["n"]["groups"] == found["n"]["texts"] == 72
    assert len(set(table.loc[table["kind"] == "group", "group"])) == 6
    assert "share with others" in drawing.said(found, 0)


def test_an_emotion_on_one_topic_is_untested(tmp_path):
    emotions, topics = design(6, 4, 2)
    keep = (emotions != 5) | (topics == 0)
    path = corpus(tmp_path, emotions[keep], topics[keep], planted(emotions[keep], topics[keep], 30), telling=False)
    found, table = run(tmp_path, path)
    assert found["n"]["untested"] == 2
    assert found["n"]["emotions"] == 5
    assert "fond" not in set(table["emotion"])
    assert "2 more could not be tested" in drawing.numbers_recognition(found, table, 0)


def test_a_story_whose_text_is_gone_is_named(tmp_path):
    emotions, topics = design(6, 3, 1)
    path = corpus(tmp_path, emotions, topics, planted(emotions, topics, 3), telling=False)
    pd.read_parquet(tmp_path / "stories.parquet").iloc[1:].to_parquet(tmp_path / "stories.parquet")
    with pytest.raises(UserError, match="has no story"):
        run(tmp_path, path)
    assert not (tmp_path / "o.json").exists()


def test_folds_do_not_depend_on_the_order_of_texts():
    names = np.array(["b", "a", "c", "a", "b"])
    folds = topic_folds(names, 3, generator(0))
    assert folds[0] == folds[4]
    assert folds[1] == folds[3]


# ---------------------------------------------------------------- figures


def everything_said(figure) -> str:
    texts = [
        text.get_text() for ax in figure.axes for text in (*ax.texts, *ax.get_xticklabels(), *ax.get_yticklabels())
    ]
    return " | ".join([*(text.get_text() for text in figure.texts), *texts])


def test_recognition_shows_every_emotion_of_both_readers(strong):
    _folder, _path, found, table = strong
    with house_style():
        figure = drawing.draw_recognition(found, table, 0)
        text = everything_said(figure)
        assert all(word in text for word in WORDS)
        overall = figure.axes[0]
        drawn = {round(line.get_ydata()[0], 6) for line in overall.lines if len(line.get_ydata()) == 1}
        for name in ("vectors", "words"):
            assert round(found[name]["top1"]["value"], 6) in drawn
        (points,) = [c for c in figure.axes[3].collections if len(c.get_offsets()) == 6]
        assert {to_hex(face) for face in points.get_facecolors()} == {"#0072b2"}
        figure = drawing.draw_recognition(found, table.assign(q=table["q"].where(table["emotion"] != "calm", 0.06)), 0)
        (points,) = [c for c in figure.axes[3].collections if len(c.get_offsets()) == 6]
        assert sorted(to_hex(face) for face in points.get_facecolors()) == ["#0072b2"] * 5 + ["#ffffff"]
    assert "q < 0.05" in drawing.numbers_recognition(found, table, 0)
    assert "108 stories of 6 emotions, 6 topics in 6 folds" in drawing.numbers_recognition(found, table, 0)


def test_confusions_are_drawn_or_their_absence(strong):
    _folder, _path, found, table = strong
    with house_style():
        figure = drawing.draw_confusions(found, table, 0)
        assert "angry → fond" in everything_said(figure)
        shares = figure.axes[1].collections[0].get_array()
        assert shares.shape == (2, 2)
        assert shares.max() == pytest.approx(100 * found["confusions"][0]["share"])
        none = table[table["kind"] != "confusion"]
        figure = drawing.draw_confusions(found | {"confusions": []}, none, 0)
        assert "no story was taken for" in everything_said(figure)
    assert "none of 108 stories" in drawing.numbers_confusions(found | {"confusions": []}, none, 0)
    assert "in 2 different pairs" in drawing.numbers_confusions(found, table, 0)


@pytest.mark.parametrize(("count", "columns"), [(3, 1), (60, 2), (171, 3)])
def test_any_number_of_emotions_is_legible(count, columns, strong):
    _folder, _path, found, table = strong
    names = [f"an emotion {number}" for number in range(count)]
    few = table[(table["kind"] == "emotion") & (table["emotion"] == "angry")]
    many = pd.concat([few.assign(emotion=name) for name in names])
    with house_style():
        figure = drawing.draw_recognition(found, many, 0)
        figure.canvas.draw()
        assert len(figure.axes) == 3 + columns
        labels = [text for ax in figure.axes[3:] for text in ax.get_yticklabels() if text.get_text()]
        assert len(labels) == count
        boxes = [text.get_window_extent() for text in labels]
        assert min(box.x0 for box in boxes) >= 0
        column = sorted((box for box in boxes if abs(box.x1 - boxes[0].x1) < 2), key=lambda box: box.y0)
        assert all(low.y1 <= high.y0 + 0.5 for low, high in pairwise(column))


def test_what_is_said_follows_the_numbers(strong):
    found = strong[2]
    said = drawing.said(found, 7)
    assert "At layer 7 the vectors name the emotion of" in said
    assert "which is less, by" in said
    ahead = found | {"difference": {"top1": {"value": -0.1, "ci": [-0.2, -0.05]}}}
    assert "on the surface" in drawing.said(ahead, 7)
    even = found | {"difference": {"top1": {"value": 0.0, "ci": [-0.1, 0.1]}}}
    assert "no more than that the words are read" in drawing.said(even, 7)
    unknown = found | {"difference": {"top1": {"value": 0.0, "ci": [None, None]}}}
    assert "no more than that the words are read" in drawing.said(unknown, 7)
