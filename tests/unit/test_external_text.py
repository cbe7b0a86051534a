"""Emotions that stand out in texts from elsewhere: planted ones are found, noise is not, and corpora agree where so."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from affectome.analyses.external_text import (
    Corpus,
    agreement,
    exchanged,
    external_text,
    interval_of_columns,
    kendall,
    mixtures,
    ranking,
    resampled_means,
    upper_tail,
)
from affectome.corpus.tables import PROJECTION
from affectome.errors import UserError
from affectome.figures.answers import external_text as answers
from affectome.figures.captions import description
from affectome.figures.style import house_style
from affectome.files import write_json
from tests.planted import strict_json, vector_file

WORDS = [f"word{number}" for number in range(30)]


def table(passages: np.ndarray, neutral: np.ndarray, words: list[str] | None = None) -> pd.DataFrame:
    values = np.vstack([passages, neutral])
    count = len(values)
    frame = pd.DataFrame(
        {
            "id": [f"{number:016x}" for number in range(count)],
            "neutral": np.arange(count) >= len(passages),
            "text": [f"Passage {number}." for number in range(count)],
            "n_tokens": 10,
        }
    )
    words = words or WORDS[: values.shape[1]]
    return frame.assign(**{PROJECTION + word: values[:, number] for number, word in enumerate(words)})


def corpus(passages: np.ndarray, neutral: np.ndarray, name: str = "pile") -> Corpus:
    return Corpus(name, table(passages, neutral))


def analyse(folder: Path, tables: dict[str, pd.DataFrame], **settings: Any) -> tuple[dict, pd.DataFrame]:
    words = [name.removeprefix(PROJECTION) for name in next(iter(tables.values())) if name.startswith(PROJECTION)]
    vectors = vector_file(folder / "v.h5", 7, words, np.random.default_rng(5).normal(size=(len(words), 40)))
    paths, facts = [], []
    for name, frame in tables.items():
        paths.append(folder / f"{name}.parquet")
        frame.to_parquet(paths[-1], index=False)
        facts.append(folder / f"{name}.json")
        write_json(facts[-1], {"layer": 7, "residual_norm": 2.0, "rule": "all"})
    spec = {"passages": 3, "bootstrap": 200, "permutations": 199, "seed": 0} | settings
    out = folder / "e.parquet", folder / "e.json"
    external_text(paths, facts, vectors, list(tables), **spec, table=out[0], output=out[1])
    return strict_json(out[1]), pd.read_parquet(out[0])


@pytest.fixture(scope="module")
def planted(tmp_path_factory) -> tuple[dict, pd.DataFrame]:
    """Two corpora of 200 passages above 60 neutral texts: one with joy and little fear, one with nothing."""
    rng = np.random.default_rng(1)
    words = ["joy", "fear", *WORDS[2:]]
    # What all texts have in common is no finding.
    common = rng.normal(size=30)
    neutral = common + 0.1 * rng.normal(size=(60, 30))
    happy = common + 0.1 * rng.normal(size=(200, 30))
    happy[:, 0] += 0.3
    happy[:, 1] -= 0.2
    happy[17, 5] += 2
    plain = common + 0.1 * rng.normal(size=(200, 30))
    tables = {"happy": table(happy, neutral, words), "plain": table(plain, neutral, words)}
    return analyse(tmp_path_factory.mktemp("planted"), tables, permutations=1999)


# ------------------------------------------------------------ what was planted


def test_planted_emotions_stand_out(planted):
    found, rows = planted
    happy, plain = found["corpora"]["happy"], found["corpora"]["plain"]
    assert happy["top"][0]["emotion"] == "joy"
    assert happy["bottom"][0]["emotion"] == "fear"
    joy = rows[(rows["corpus"] == "happy") & (rows["emotion"] == "joy")].iloc[0]
    assert joy["mean"] == pytest.approx(0.3, abs=0.05)
    assert joy["low"] < 0.3 < joy["high"]
    assert (joy["rank"], joy["rank_low"], joy["rank_high"]) == (1, 1, 1)
    assert joy["q"] < 0.05
    assert joy["highest"] > 0.6
    assert joy["tail"] == pytest.approx(0.3 + 0.1 * 1.645, abs=0.06)
    assert joy["tail_low"] < joy["tail"] < joy["tail_high"]
    assert (joy["n"], joy["n_neutral"]) == (200, 60)
    assert 2 <= happy["significant"] <= 4
    assert plain["significant"] <= 1
    assert happy["chance"]["highest"] == 1 / 30
    assert found["layer"] == 7
    assert len(rows) == 60


def test_the_highest_passages_are_the_planted_ones(planted):
    found, _ = planted
    passages = found["corpora"]["happy"]["passages"]
    assert [len(entries) for entries in passages.values()] == [3] * 30
    assert passages["word5"][0]["text"] == "Passage 17."
    assert passages["word5"][0]["projection"] == pytest.approx(2, abs=0.4)
    for entries in passages.values():
        values = [entry["projection"] for entry in entries]
        assert values == sorted(values, reverse=True)


def test_shares_of_the_highest_emotion_add_up(planted):
    _, rows = planted
    assert rows.groupby("corpus")["highest"].sum().tolist() == pytest.approx([1, 1])
    # In standard deviations: an emotion that varies ten times as much is not highest ten times as often.
    rng = np.random.default_rng(2)
    values = rng.normal(size=(400, 5)) * [1, 1, 1, 1, 10]
    shares = ranking(corpus(values, rng.normal(size=(400, 5)) * 0.01), 50, 19, rng)["highest"]
    assert shares.between(0.14, 0.26).all()


def test_the_baseline_is_that_of_the_neutral_texts():
    rng = np.random.default_rng(3)
    passages, neutral = rng.normal(size=(50, 6)), rng.normal(size=(20, 6))
    here = ranking(corpus(passages, neutral), 20, 19, np.random.default_rng(0))
    moved = ranking(corpus(passages + np.arange(6), neutral + np.arange(6)), 20, 19, np.random.default_rng(0))
    np.testing.assert_allclose(here["mean"], passages.mean(axis=0) - neutral.mean(axis=0))
    numbers = here.drop(columns=["corpus", "emotion"]).to_numpy(dtype=float)
    np.testing.assert_allclose(moved.drop(columns=["corpus", "emotion"]).to_numpy(dtype=float), numbers, atol=1e-9)


def test_mixtures_are_those_of_the_activations():
    rng = np.random.default_rng(4)
    unit = rng.normal(size=(8, 12))
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    shift = rng.normal(size=12)
    found = mixtures(unit @ shift, unit, 500, np.random.default_rng(1))
    weights = np.random.default_rng(1).normal(size=(500, 8))
    directions = weights @ unit
    values = directions @ shift / np.linalg.norm(directions, axis=1)
    np.testing.assert_allclose(found, np.quantile(values, [0.025, 0.975]))


def test_few_texts_say_nothing(tmp_path):
    rng = np.random.default_rng(0)
    with pytest.raises(UserError, match=r"texts\.pile: 9 texts are too few"):
        analyse(tmp_path, {"pile": table(rng.normal(size=(9, 4)), rng.normal(size=(20, 4)))})
    with pytest.raises(UserError, match="neutral corpus: 3 texts are too few"):
        analyse(tmp_path, {"pile": table(rng.normal(size=(19, 4)), rng.normal(size=(3, 4)))})


def test_repetition_changes_nothing_and_other_corpora_neither(tmp_path):
    rng = np.random.default_rng(6)
    neutral = rng.normal(size=(20, 5))
    one, other = (table(rng.normal(size=(30, 5)), neutral) for _ in range(2))
    first, rows = analyse(tmp_path, {"one": one, "other": other})
    bytes_of = (tmp_path / "e.json").read_bytes()
    assert analyse(tmp_path, {"one": one, "other": other})[0] == first
    assert (tmp_path / "e.json").read_bytes() == bytes_of
    alone, alone_rows = analyse(tmp_path, {"other": other})
    assert alone["corpora"]["other"] == first["corpora"]["other"]
    assert alone["agreement"] == []
    pd.testing.assert_frame_equal(alone_rows, rows[rows["corpus"] == "other"].reset_index(drop=True))


# ------------------------------------------------------------ intervals, p values and second libraries


@pytest.fixture(scope="module")
def null() -> pd.DataFrame:
    """250 corpora that differ from neutral texts by chance alone, in one emotion of three."""
    rows = []
    for seed in range(250):
        rng = np.random.default_rng([11, seed])
        found = ranking(corpus(rng.exponential(size=(40, 3)), rng.exponential(size=(25, 3))), 99, 19, rng)
        rows.append(found.iloc[0])
    return pd.DataFrame(rows)


def test_p_values_of_noise_are_uniform_and_intervals_cover(null):
    p = null["p"].to_numpy(dtype=float)
    smooth = p - np.random.default_rng(0).uniform(size=len(p)) / 20
    assert scipy.stats.kstest(smooth, "uniform").pvalue > 0.01
    covered = ((null["low"] < 0) & (null["high"] > 0)).mean()
    assert 0.89 < covered < 0.98


def test_the_tail_s_interval_covers():
    truth = scipy.stats.expon.ppf(0.95)
    rng = np.random.default_rng(8)
    _, low, high = upper_tail(rng.exponential(size=(150, 2000)))
    assert 0.94 < np.mean((low <= truth) & (truth <= high)) < 0.985
    few = upper_tail(rng.normal(size=(12, 2)))
    assert np.isnan(few[2]).all()
    assert (few[1] <= few[0]).all()


def test_resamples_and_exchanges_vary_as_theory_says():
    rng = np.random.default_rng(9)
    values = rng.normal(size=(80, 3)) * [1, 2, 3]
    draws = resampled_means(values, 4000, rng)
    np.testing.assert_allclose(draws.mean(axis=0), values.mean(axis=0), atol=0.02)
    np.testing.assert_allclose(draws.std(axis=0), values.std(axis=0) / np.sqrt(80), rtol=0.06)
    null = exchanged(values[:50], values[50:], 4000, rng)
    assert null.shape == (4000, 3)
    np.testing.assert_allclose(null.mean(axis=0), 0, atol=0.05)
    spread = values.std(axis=0, ddof=1) * np.sqrt(1 / 50 + 1 / 30)
    np.testing.assert_allclose(null.std(axis=0), spread, rtol=0.06)
    result = scipy.stats.permutation_test(
        (values[:50, 1] + 0.8, values[50:, 1]), lambda a, b: a.mean() - b.mean(), n_resamples=4000, rng=1
    )
    moved = np.vstack([values[:50] + 0.8, values[50:]])
    ours = exchanged(moved[:50], moved[50:], 4000, rng)[:, 1]
    observed = moved[:50, 1].mean() - moved[50:, 1].mean()
    assert np.mean(np.abs(ours) >= abs(observed)) == pytest.approx(result.pvalue, abs=0.03)


def test_kendall_is_scipy_s():
    rng = np.random.default_rng(10)
    a, b = rng.integers(0, 6, size=(70, 12)).astype(float), rng.normal(size=(70, 12)).round(1)
    expected = [scipy.stats.kendalltau(x, y).statistic for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(kendall(a, b), expected)
    expected = [scipy.stats.kendalltau(a[0], y).statistic for y in b]
    np.testing.assert_allclose(kendall(a[:1], b), expected)
    assert np.isnan(kendall(np.ones((1, 4)), b[:1, :4])[0])


# ------------------------------------------------------------ agreement


def test_a_corpus_agrees_with_itself(tmp_path):
    rng = np.random.default_rng(12)
    same = table(rng.normal(size=(60, 20)) + rng.normal(size=20), rng.normal(size=(40, 20)))
    found, _ = analyse(tmp_path, {"one": same, "again": same})
    (pair,) = found["agreement"]
    assert pair["tau"] == 1
    assert pair["tau_apart"] > 0.6
    assert pair["ci"][0] > 0.6
    assert pair["ci_apart"][0] < pair["tau_apart"] < 1
    assert pair["p_shift"] == pair["p"] == pair["q"] == 1 / 200
    assert (pair["n_emotions"], pair["n"], pair["n_neutral"]) == (20, [60, 60], 40)


def test_opposite_rankings_disagree():
    rng = np.random.default_rng(13)
    shift, neutral = rng.normal(size=20), 0.1 * rng.normal(size=(40, 20))
    one, other = (corpus(sign * shift + 0.1 * rng.normal(size=(50, 20)), neutral) for sign in (1, -1))
    found = agreement(one, other, 100, 99, rng)
    assert found["tau"] < -0.9
    assert found["ci"][1] < -0.8
    assert found["p"] > 0.9


@pytest.fixture(scope="module")
def unrelated() -> dict[str, np.ndarray]:
    """200 pairs of corpora that differ from 20 neutral texts by chance; emotions come in groups of alike ones."""
    found: dict[str, list[float]] = {"p": [], "p_shift": [], "shared": []}
    mixing = np.kron(np.eye(5), np.ones((1, 4))) * 2
    for seed in range(200):
        rng = np.random.default_rng([14, seed])
        one, other, neutral = (rng.normal(size=(n, 5)) @ mixing + rng.normal(size=(n, 20)) for n in (60, 60, 20))
        pair = agreement(corpus(one, neutral), corpus(other, neutral, "lmsys"), 2, 19, rng)
        found["p"].append(pair["p"])
        found["p_shift"].append(pair["p_shift"])
        found["shared"].append(pair["tau"])
    return {name: np.array(values) for name, values in found.items()}


def test_unrelated_rankings_give_uniform_p_values(unrelated):
    p = unrelated["p_shift"]
    smooth = p - np.random.default_rng(0).uniform(size=len(p)) / 20
    assert scipy.stats.kstest(smooth, "uniform").pvalue > 0.01
    assert np.sum(p <= 0.05) <= 19


def test_what_the_stated_cautions_are_about_is_real(unrelated):
    # Synonyms taken for independent emotions give too many small p values.
    assert np.mean(unrelated["p"] <= 0.05) > 0.1
    # And a baseline in common is agreement by itself.
    assert unrelated["shared"].mean() > 0.2


# ------------------------------------------------------------ figure and words


def texts_of(figure) -> str:
    return " ".join(text.get_text() for text in [*figure.texts, *(t for ax in figure.axes for t in ax.texts)])


def test_the_figure_shows_both_ends_of_every_ranking(planted):
    found, rows = planted
    with house_style():
        figure = answers.draw_external_text(found, rows, 7)
        figure.canvas.draw()
    happy, plain = figure.axes
    assert happy.get_title(loc="left") == "happy: 200 passages"
    labels = [label.get_text() for label in happy.get_yticklabels()]
    assert labels[0] == "joy"
    assert labels[-1] == "fear"
    assert len(labels) == 20
    assert "10 between" in texts_of(figure)
    faces = happy.collections[-1].get_facecolors()
    assert faces[0].tolist() != [1, 1, 1, 1]
    assert plain.collections[-1].get_facecolors()[5].tolist() == [1, 1, 1, 1]
    size = figure.get_size_inches() * figure.dpi
    for text in figure.texts:
        box = text.get_window_extent().extents
        assert box[0] >= 0
        assert box[2] <= size[0]


@pytest.mark.parametrize(("corpora", "emotions"), [(1, 3), (5, 21), (12, 2)])
def test_few_and_many_are_drawn_too(tmp_path, corpora, emotions):
    rng = np.random.default_rng(15)
    neutral = rng.normal(size=(20, emotions))
    tables = {
        f"a name that is rather long {n}": table(rng.normal(size=(12, emotions)), neutral) for n in range(corpora)
    }
    found, rows = analyse(tmp_path, tables, bootstrap=20, permutations=19)
    with house_style():
        figure = answers.draw_external_text(found, rows, 7)
        figure.canvas.draw()
    assert len(figure.axes) == min(corpora, 8)
    assert ("The first 8 of 12 corpora" in texts_of(figure)) == (corpora == 12)
    assert answers.numbers_external_text(found, rows, 7).startswith("Here, at layer 7: ")
    assert answers.said(found, 7)


def test_what_is_said_follows_the_numbers(planted):
    found, rows = planted
    said = answers.said(found, 7)
    assert "200 passages of happy, joy stands out most at layer 7" in said
    assert "happy and plain do not demonstrably rank the emotions alike" in said
    numbers = answers.numbers_external_text(found, rows, 7)
    assert "200 passages against 60 neutral texts" in numbers
    assert "tau = " in numbers
    nothing = {**found, "corpora": {"plain": found["corpora"]["plain"] | {"significant": 0}}, "agreement": []}
    assert "no emotion differs from 60 neutral texts at layer 7" in answers.said(nothing, 7)
    alike = [found["agreement"][0] | {"q": 0.01, "tau_apart": 0.5}]
    assert "happy and plain rank the emotions alike" in answers.said(found | {"agreement": alike}, 7)
    arbitrary = {**found, "corpora": {"happy": found["corpora"]["happy"] | {"outside_mixtures": 1}}}
    assert "no more along emotions than along mixtures" in answers.said(arbitrary, 7)
    assert "Benjamini-Hochberg" in description("external_text")


def test_intervals_of_columns():
    draws = np.random.default_rng(16).normal(size=(500, 3))
    low, high = interval_of_columns(draws)
    np.testing.assert_allclose([low, high], np.quantile(draws, [0.025, 0.975], axis=0))
