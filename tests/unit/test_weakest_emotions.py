"""The weakest emotions, what to ask for, how much luck there is in them, and what an earlier run says."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from affectome.analyses.recognition import chance
from affectome.analyses.story_holdout import _confusion_rows, _emotion_rows, _group_rows
from affectome.analyses.weakest_emotions import (
    _Scores,
    before_after,
    regression_to_the_mean,
    weakest_emotions,
)
from affectome.corpus.contrasts import read_contrasts
from affectome.errors import UserError
from affectome.figures.answers import weakest_emotions as drawing
from affectome.figures.style import house_style
from affectome.randomness import generator
from tests.planted import strict_json


def names(count: int) -> list[str]:
    return [f"emotion {number:03d}" for number in range(count)]


def table_of(hits: np.ndarray, topics: list[str] | None = None, taken_for: np.ndarray | None = None) -> pd.DataFrame:
    """What `story_holdout` writes where texts are right, `hits` (emotions, topics, texts), or else ranked second."""
    emotions, groups, _ = (index.ravel() for index in np.indices(hits.shape))
    ranks = np.where(hits.ravel(), 1.0, 2.0)
    words = names(len(hits))
    subjects = np.array(topics or [f"topic {number}" for number in range(hits.shape[1])], dtype=object)
    others = (emotions + 1) % len(hits) if taken_for is None else taken_for
    predicted = np.where(hits.ravel(), emotions, others)
    both = {"vectors": ranks, "words": ranks}
    return pd.concat(
        [
            _emotion_rows(both, emotions, groups, words, 20, 0, np.full(len(hits), 0.02)),
            _group_rows(ranks, emotions, subjects[groups], words),
            _confusion_rows(predicted, emotions, words),
        ],
        ignore_index=True,
    )


def scores_of(hits: np.ndarray, topics: list[str] | None = None) -> _Scores:
    """The scores in such a table."""
    emotions, groups, _ = (index.ravel() for index in np.indices(hits.shape))
    subjects = np.array(topics or [f"topic {number}" for number in range(hits.shape[1])], dtype=object)
    return _Scores(_group_rows(np.where(hits.ravel(), 1.0, 2.0), emotions, subjects[groups], names(len(hits))))


def holdout_files(folder: Path, table: pd.DataFrame, name: str = "now") -> list[Path]:
    count = table.loc[table["kind"] == "emotion", "emotion"].nunique()
    of = table[(table["kind"] == "group") & (table["measure"] == "top1")]
    n = {"texts": int(of["n"].sum()), "emotions": count, "groups": of["group"].nunique(), "folds": 6, "untested": 0}
    files = [folder / f"{name}.json", folder / f"{name}.parquet"]
    files[0].write_text(
        json.dumps({"layer": 4, "held_out": "topics", "n": n, "chance": chance(count)}), encoding="utf-8"
    )
    table.to_parquet(files[1])
    return files


def run(
    folder: Path, table: pd.DataFrame, before: pd.DataFrame | None = None, **settings: Any
) -> tuple[Any, pd.DataFrame]:
    earlier = [] if before is None else holdout_files(folder, before, "before")
    given = {"count": 10, "unlike": 2, "bootstrap": 200, "seed": 0} | settings
    weakest_emotions(
        *holdout_files(folder, table), earlier, **given,
        request=folder / "r.csv", table=folder / "t.parquet", output=folder / "o.json",
    )  # fmt: skip
    return strict_json(folder / "o.json"), pd.read_parquet(folder / "t.parquet")


def skilled(skill: np.ndarray, topics: int, texts: int, rng: np.random.Generator) -> np.ndarray:
    """Hits (emotions, topics, texts) of emotions that are right so often."""
    return rng.random((len(skill), topics, texts)) < skill[:, None, None]


@pytest.fixture(scope="module")
def skill() -> np.ndarray:
    """Three of thirty emotions are hard: 7, 20 and 11, the first of them most."""
    skill = np.full(30, 0.95)
    skill[[7, 20, 11]] = 0.05, 0.25, 0.45
    return skill


@pytest.fixture(scope="module")
def found(skill, tmp_path_factory) -> tuple[Path, Any, pd.DataFrame]:
    folder = tmp_path_factory.mktemp("weakest")
    return folder, *run(folder, table_of(skilled(skill, 6, 8, np.random.default_rng(0))), count=3)


def test_the_weakest_come_first(found):
    folder, written, table = found
    assert [entry["emotion"] for entry in written["weakest"]] == ["emotion 007", "emotion 020", "emotion 011"]
    assert [*table["emotion"].head(3)] == ["emotion 007", "emotion 020", "emotion 011"]
    assert [*table["weakest"]] == [True] * 3 + [False] * 27
    assert (np.diff(table["top1"]) >= 0).all()
    assert (table["n"] == 48).all()
    assert written["layer"] == 4
    assert written["n"]["weakest"] == 3
    own = [entry["top1"]["value"] for entry in written["weakest"]]
    assert written["means"]["top1"]["weakest"] == pytest.approx(np.mean(own))
    assert written["means"]["top1"]["all"] == pytest.approx(table["top1"].mean())
    (taken,) = written["weakest"][0]["taken_for"]
    assert taken == {"emotion": "emotion 008", "count": round(48 * (1 - own[0]))}
    assert read_contrasts(folder / "r.csv", names(30)) == {
        "emotion 007": ("emotion 008",), "emotion 020": ("emotion 021",), "emotion 011": ("emotion 012",),
    }  # fmt: skip
    assert written["request"] == {"emotions": 3, "pairs": 3}


def test_the_request_names_what_an_emotion_is_most_taken_for(tmp_path):
    hits = np.ones((10, 2, 6), bool)
    hits[4] = False
    hits[2, 0, :2] = False
    others = np.repeat(np.arange(10), 12)
    others[48:60] = [1, 1, 1, 3, 5, 5, 5, 5, 9, 9, 9, 9]  # 5 and 9 four times, 1 three times, 3 once
    others[24:26] = 7
    written, _ = run(tmp_path, table_of(hits, taken_for=others), unlike=2)
    # Of ten emotions a fifth are called the weakest, however many are asked for.
    assert written["n"]["weakest"] == 2
    assert read_contrasts(tmp_path / "r.csv", names(10)) == {
        "emotion 004": ("emotion 005", "emotion 009"), "emotion 002": ("emotion 007",),
    }  # fmt: skip
    assert [other["count"] for other in written["weakest"][0]["taken_for"]] == [4, 4, 3, 1]
    run(tmp_path, table_of(hits, taken_for=others), unlike=3)
    assert read_contrasts(tmp_path / "r.csv", names(10))["emotion 004"][2] == "emotion 001"


def test_emotions_never_taken_for_others_ask_for_nothing(tmp_path):
    written, table = run(tmp_path, table_of(np.ones((10, 3, 2), bool)))
    assert written["request"] == {"emotions": 0, "pairs": 0}
    assert (tmp_path / "r.csv").read_text() == "emotion,unlike\n"
    with pytest.raises(UserError, match="holds no pairs"):
        read_contrasts(tmp_path / "r.csv", names(10))
    assert (table["taken_for"] == "").all()
    assert written["regression"]["top1"]["expected"] == 0
    with house_style():
        figure = drawing.draw_weakest_emotions(written, table, 4)
    assert "never taken for another" in [text.get_text() for ax in figure.axes for text in ax.texts]


@pytest.mark.parametrize("spread", [0.0, 0.15])
def test_the_rise_by_chance_is_what_new_stories_show(spread):
    # Emotions that are all as hard (0), or differ: the weakest are measured anew with the same skill.
    expected, halves, risen = [], [], []
    for seed in range(60):
        rng = np.random.default_rng([1, seed])
        skill = np.clip(0.6 + spread * rng.normal(size=40), 0, 1)
        scores, again = (scores_of(skilled(skill, 8, 2, rng)) for _ in range(2))
        weakest = scores.weakest_first()[:8]
        estimate = regression_to_the_mean(scores, 8, rng)["top1"]
        expected.append(estimate["expected"])
        halves.append(estimate["halves"]["rise"])
        risen.append(again.mean("top1", weakest) - scores.mean("top1", weakest))
    error = np.std(np.subtract(risen, expected)) / np.sqrt(60)
    assert np.mean(risen) > 0.03
    # Where nothing differs the correlation of halves is kept from below 0, which makes the estimate a little small.
    assert abs(np.mean(risen) - np.mean(expected)) < 3 * error + (0.02 if spread == 0 else 0.0)
    assert np.mean(halves) > np.mean(risen)


def test_reliability_is_spearman_browns():
    scores = scores_of(skilled(np.linspace(0.1, 0.9, 50), 10, 4, np.random.default_rng(2)))
    estimate = regression_to_the_mean(scores, 10, generator(0))["top1"]
    halves = []
    rng = np.random.default_rng(0)
    for _ in range(400):
        order = rng.permutation(10)
        halves.append(np.corrcoef(scores.means("top1", order[:5]), scores.means("top1", order[5:]))[0, 1])
    half = np.mean(halves)
    assert estimate["reliability"] == pytest.approx(2 * half / (1 + half), abs=0.01)
    weakest = np.sort(scores.means("top1"))[:10].mean()
    assert estimate["expected"] == pytest.approx(
        (1 - estimate["reliability"]) * (scores.means("top1").mean() - weakest)
    )


def test_one_group_tells_nothing_of_luck(tmp_path):
    hits = np.ones((10, 1, 4), bool)
    hits[3] = False
    written, table = run(tmp_path, table_of(hits), before=table_of(hits))
    assert written["regression"] is None
    assert written["before_after"]["top1"]["weakest"]["ci"] == [None, None]
    assert written["before_after"]["top1"]["expected"] is None
    with house_style():
        drawing.draw_weakest_emotions(written, table, 4)
    drawing.numbers_weakest_emotions(written, table, 4)
    drawing.said(written, 4)


# ---------------------------------------------------------------- before and after


def test_a_planted_rise_is_told_from_luck(skill, tmp_path):
    before = table_of(skilled(skill, 12, 6, np.random.default_rng(1)))
    better = np.where(skill < 0.9, 0.9, skill)
    written, table = run(tmp_path, table_of(skilled(better, 12, 6, np.random.default_rng(2))), before, count=3)
    compared = written["before_after"]
    assert {entry["emotion"] for entry in compared["emotions"]} == {"emotion 007", "emotion 020", "emotion 011"}
    of = compared["top1"]
    assert of["weakest"]["difference"] == pytest.approx(0.65, abs=0.1)
    assert of["weakest"]["ci"][0] > of["expected"] > 0
    assert of["apart"]["ci"][0] > 0.3
    assert abs(of["others"]["difference"]) < 0.03
    assert compared["n"] == {
        "weakest": 3, "others": 27, "groups_before": 12, "groups_after": 12, "same_groups": True,
    }  # fmt: skip
    assert "more than the" in drawing.said(written, 4)
    assert compared["emotions"][0]["n_before"] == 72
    with house_style():
        drawing.draw_weakest_emotions(written, table, 4)
    assert "went from" in drawing.numbers_weakest_emotions(written, table, 4)


def test_where_nothing_changed_the_rise_is_luck():
    beyond, above_zero = [], []
    for seed in range(60):
        rng = np.random.default_rng([4, seed])
        skill = np.clip(0.6 + 0.1 * rng.normal(size=30), 0, 1)
        before, after = (scores_of(skilled(skill, 10, 2, rng)) for _ in range(2))
        of = before_after(before, after, 6, 200, seed)["top1"]
        low, high = of["weakest"]["ci"]
        beyond.append(not low <= of["expected"] <= high)
        above_zero.append(low > 0)
    # The interval says that they rose; only beside what luck gives is it seen to be nothing.
    assert np.mean(above_zero) > 0.15
    assert np.mean(beyond) < 0.15


def test_the_same_run_twice_differs_by_nothing(skill):
    scores = scores_of(skilled(skill, 6, 4, np.random.default_rng(3)))
    of = before_after(scores, scores, 3, 100, 0)["top1"]
    assert of["weakest"]["difference"] == 0
    assert of["weakest"]["ci"] == [0, 0]
    assert of["apart"]["value"] == 0


def test_other_topics_are_drawn_on_their_own(skill):
    rng = np.random.default_rng(5)
    hard = rng.random((30, 8, 1)) < 0.3
    hits = skilled(skill, 8, 4, rng) & ~hard
    here = scores_of(hits)
    elsewhere = scores_of(hits, topics=[f"other {number}" for number in range(8)])
    paired, loose = (before_after(here, other, 3, 400, 0) for other in (here, elsewhere))
    assert paired["n"]["same_groups"]
    assert not loose["n"]["same_groups"]
    assert np.ptp(loose["top1"]["others"]["ci"]) > 0.01 > np.ptp(paired["top1"]["others"]["ci"])


def test_emotions_that_only_one_run_has_are_left_out(skill):
    rng = np.random.default_rng(6)
    before = scores_of(skilled(skill, 6, 4, rng))
    after = scores_of(skilled(skill[:15], 6, 4, rng))
    compared = before_after(before, after, 3, 100, 0)
    assert {entry["emotion"] for entry in compared["emotions"]} == {"emotion 007", "emotion 011"} | {
        entry["emotion"] for entry in compared["emotions"] if entry["emotion"] not in ("emotion 007", "emotion 011")
    }
    assert compared["n"]["weakest"] + compared["n"]["others"] == 15


# ---------------------------------------------------------------- figures


@pytest.mark.parametrize("emotions", [3, 30, 171])
def test_any_number_of_emotions_draws(emotions, tmp_path):
    rng = np.random.default_rng(7)
    written, table = run(tmp_path, table_of(skilled(rng.random(emotions), 4, 2, rng)), count=60)
    with house_style():
        figure = drawing.draw_weakest_emotions(written, table, 4)
        figure.canvas.draw()
        labels = [text for text in figure.axes[0].get_yticklabels() if text.get_text()]
        assert len(labels) == min(40, max(1, emotions // 5))
        boxes = sorted((text.get_window_extent() for text in labels), key=lambda box: box.y0)
        assert all(low.y1 <= high.y0 + 0.5 for low, high in pairwise(boxes))
        counts = sum(patch.get_height() for patch in figure.axes[1].patches)
        assert counts == emotions
    assert f"of {emotions} emotions" in drawing.numbers_weakest_emotions(written, table, 4)


def test_the_figure_and_words_say_the_numbers(found):
    _folder, written, table = found
    with house_style():
        figure = drawing.draw_weakest_emotions(written, table, 4)
    said = [text.get_text() for ax in figure.axes for text in ax.texts]
    taken = written["weakest"][0]["taken_for"][0]
    assert f"of 48 taken for emotion 008 ({taken['count']})" in said
    assert "no earlier run\nwas given" in said
    assert "emotion 007, emotion 020 and emotion 011" in drawing.said(written, 4)
    assert "without any new story" in drawing.said(written, 4)
