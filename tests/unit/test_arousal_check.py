"""What the stories' words carry is taken out, what goes beyond stays, and partial correlations are the textbook's."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from threadpoolctl import threadpool_limits

from affectome.analyses.arousal_check import (
    arousal_check,
    bootstrap_partial,
    by_emotion,
    check,
    freedman_lane,
    partial_correlations,
    residuals,
    word_level,
)
from affectome.analyses.geometry import geometry
from affectome.analyses.statistics import interval
from affectome.errors import UserError
from affectome.figures.answers.arousal_check import draw_arousal_check, numbers_arousal_check, said
from affectome.figures.style import house_style
from tests.planted import norm_file, strict_json, vector_file


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    with threadpool_limits(1):
        yield


# ---------------------------------------------------------------- words


def test_words_are_rated_by_hand() -> None:
    lexicon = pd.DataFrame({"valence": [1.0, 5.0, 9.0], "arousal": [2.0, 4.0, 6.0]}, index=["rain", "Anna", "don’t"])
    found = word_level(["Rain, rain! Anna sees rain-soaked anna.", "don’t don't 42", "…", "RAIN rainy"], lexicon)
    # Rain and rain; Anna as it stands; rain-soaked is one word that is not rated, anna none; RAIN in lower case.
    assert found["n_words"].tolist() == [6, 2, 0, 2]
    assert found["n_rated"].tolist() == [3, 1, 0, 1]
    assert found["arousal"].tolist()[:2] == [pytest.approx((2 + 2 + 4) / 3), 6.0]
    assert np.isnan(found["arousal"][2])
    assert found["valence"][3] == 1.0


def test_an_emotion_has_the_mean_of_its_stories() -> None:
    lexicon = pd.DataFrame({"arousal": [1.0, 3.0]}, index=["low", "high"])
    stories = pd.DataFrame(
        {"emotion": ["a", "b", "a", "a"], "text": ["low low low high", "none here", "high", "nothing rated"]}
    )
    found = by_emotion(stories, lexicon, ("b", "a", "c"))
    assert found.index.tolist() == ["b", "a", "c"]
    # Of stories, so that a long one does not weigh more: (1.5 + 3) / 2.
    assert found.loc["a", "text_arousal"] == 2.25
    assert found.loc["a", ["n_stories", "n_unrated", "n_words", "n_rated"]].tolist() == [3, 1, 7, 5]
    assert found.loc["a", "coverage"] == pytest.approx(5 / 7)
    assert found.loc["b", "n_unrated"] == 1
    assert found.loc["c", "n_stories"] == 0
    assert found.loc[["b", "c"], "text_arousal"].isna().all()


# ---------------------------------------------------------------- partial correlation


def by_formula(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> float:
    """Yule's formula (1907) for one covariate."""
    xy, xz, yz = (scipy.stats.pearsonr(a, b).statistic for a, b in ((x, y), (x, z), (y, z)))
    return (xy - xz * yz) / np.sqrt((1 - xz**2) * (1 - yz**2))


def by_inverse(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> float:
    """From the inverse of the correlation matrix."""
    inverse = np.linalg.inv(np.corrcoef(np.column_stack([x, y, z]).T))
    return -inverse[0, 1] / np.sqrt(inverse[0, 0] * inverse[1, 1])


def test_partial_correlations_are_those_of_the_formulas() -> None:
    rng = np.random.default_rng(0)
    z = rng.normal(size=(30, 2))
    x, y = (rng.normal(size=(30, 3)) + z @ rng.normal(size=(2, 3)) for _ in range(2))
    one, two = partial_correlations(x, y, z[:, :1]), partial_correlations(x, y, z)
    none = partial_correlations(x, y, z[:, :0])
    for column in range(3):
        a, b = x[:, column], y[:, column]
        assert none[column] == pytest.approx(scipy.stats.pearsonr(a, b).statistic)
        assert one[column] == pytest.approx(by_formula(a, b, z[:, 0]))
        assert two[column] == pytest.approx(by_inverse(a, b, z))


def test_what_covariates_say_in_full_is_nothing() -> None:
    rng = np.random.default_rng(1)
    z = rng.normal(size=(12, 1))
    x = rng.normal(size=(12, 1))
    assert partial_correlations(3 * z + 1, x, z).tolist() == [0.0]
    assert partial_correlations(x, x, z).tolist() == [pytest.approx(1.0)]
    # Covariates of any scale, twice the same, or without variation.
    plain = partial_correlations(x, z + x, z)
    for again in (1e9 * z, np.hstack([z, z]), np.hstack([z, np.ones((12, 1))])):
        np.testing.assert_allclose(partial_correlations(x, z + x, again), plain, rtol=1e-8)


def test_residuals_are_those_of_least_squares() -> None:
    rng = np.random.default_rng(2)
    z, y = rng.normal(size=(20, 2)) + 5, rng.normal(size=(20, 4))
    design = np.column_stack([np.ones(20), z])
    wanted = y - design @ np.linalg.lstsq(design, y, rcond=None)[0]
    np.testing.assert_allclose(residuals(y, z), wanted, atol=1e-12)
    np.testing.assert_allclose(residuals(np.stack([y, y]), np.stack([z, z]))[1], wanted, atol=1e-12)


def test_resamples_are_made_one_by_one() -> None:
    rng = np.random.default_rng(3)
    z, x = rng.normal(size=(15, 2)), rng.normal(size=15)
    y = x + z[:, 0] + rng.normal(size=15)
    draws = bootstrap_partial(x, y, z, 40, np.random.default_rng(7))
    rows = np.random.default_rng(7).integers(0, 15, size=(40, 15))
    wanted = [partial_correlations(x[row, None], y[row, None], z[row])[0] for row in rows]
    np.testing.assert_allclose(draws, wanted, atol=1e-9)


def test_freedman_and_lane_permute_what_covariates_leave() -> None:
    rng = np.random.default_rng(4)
    z, y = rng.normal(size=(10, 1)), rng.normal(size=10)
    left = residuals(y[:, None], z)[:, 0]
    null = freedman_lane(y, z, 30, rng)
    np.testing.assert_allclose(np.sort(null - (y - left)[:, None], axis=0), np.sort(left)[:, None].repeat(30, 1))
    plain = freedman_lane(y, z[:, :0], 5, rng)
    np.testing.assert_allclose(np.sort(plain, axis=0), np.sort(y)[:, None].repeat(5, 1))


# ---------------------------------------------------------------- planted, and nothing


def study(seed: int, beyond: float, n: int = 40) -> tuple[dict[str, Any], np.ndarray]:
    """Human ratings that follow the text's and, by `beyond`, something else; vectors hold the text's and that."""
    rng = np.random.default_rng([5, seed])
    text, other, extra = rng.normal(size=(3, n))
    y = text + beyond * extra + 0.5 * rng.normal(size=n)
    vectors = np.column_stack([text, extra, other]) @ rng.normal(size=(3, 12)) + 0.3 * rng.normal(size=(n, 12))
    covariates = {"plain": np.zeros((n, 0)), "same": text[:, None], "both": np.column_stack([text, other])}
    component = text + 0.4 * rng.normal(size=n) + beyond * extra
    return check(vectors, component, y, covariates, 50, 39, rng)


def test_what_only_the_words_carry_is_taken_out() -> None:
    found, predicted = study(0, 0.0)
    assert predicted.shape == (40,)
    assert found["ridge"]["plain"]["r"] > 0.7
    assert found["ridge"]["plain"]["p"] == found["pc"]["plain"]["p"] == found["text"]["p"] == 1 / 40
    assert found["pc"]["same"]["r"] < 0.35
    assert abs(found["pc"]["both"]["r"]) < 0.35


def test_what_goes_beyond_the_words_stays() -> None:
    found, _ = study(1, 1.0)
    for predictor in ("ridge", "pc"):
        for way in ("same", "both"):
            assert found[predictor][way]["r"] > 0.5
            assert found[predictor][way]["p"] == 1 / 40
            low, high = found[predictor][way]["ci"]
            assert low < found[predictor][way]["r"] < high
    assert found["text"]["r"] > 0.4


def test_p_values_are_uniform_where_the_words_are_all_there_is() -> None:
    p: dict[str, list[float]] = {f"{predictor} {way}": [] for predictor in ("ridge", "pc") for way in ("same", "both")}
    for seed in range(100):
        found, _ = study(100 + seed, 0.0, n=14)
        for name in p:
            predictor, way = name.split()
            p[name].append(found[predictor][way]["p"])
    smooth = np.random.default_rng(0)
    for name, values in p.items():
        assert scipy.stats.kstest(np.array(values) - smooth.uniform(0, 1 / 40, 100), "uniform").pvalue > 0.01, name
    # The same without Freedman and Lane's adding back of the fit would find the words' arousal everywhere.
    assert np.mean(np.array(p["pc same"]) <= 0.05) < 0.12


def test_intervals_cover() -> None:
    truth, covered = 0.5, 0
    for seed in range(150):
        rng = np.random.default_rng([6, seed])
        z = rng.normal(size=(60, 1))
        both = rng.multivariate_normal([0, 0], [[1, truth], [truth, 1]], size=60) + 2 * z
        low, high = interval(bootstrap_partial(both[:, 0], both[:, 1], z, 200, rng))
        covered += low < truth < high
    assert 0.88 <= covered / 150 <= 0.99


# ---------------------------------------------------------------- the question

WORDS = [f"feeling{number:02d}" for number in range(24)]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> SimpleNamespace:
    """Stories whose words' arousal is known, vectors that hold it, and a norm that follows it."""
    folder = tmp_path_factory.mktemp("arousal")
    rng = np.random.default_rng(0)
    lexicon = pd.DataFrame({"term": [f"w{c}" for c in "abcdefgh"], "valence": np.tile([-1, 1], 4) * 0.5,
                            "arousal": np.linspace(-1, 1, 8), "dominance": 0.0})  # fmt: skip
    lexicon.to_csv(folder / "lexicon.txt", sep="\t", index=False)
    weights = rng.dirichlet(np.ones(8), size=len(WORDS))
    rows = [
        {"emotion": word, "text": " ".join([*rng.choice(lexicon["term"], 40, p=weight), "unrated"])}
        for word, weight in zip(WORDS, weights, strict=True)
        for _ in range(3)
    ]
    rows.append({"emotion": "elsewhere", "text": "wa wa wa"})
    pd.DataFrame(rows).to_parquet(folder / "stories.parquet")
    arousal, valence = weights @ lexicon["arousal"], weights @ lexicon["valence"]
    vectors = np.column_stack([valence, arousal]) @ rng.normal(size=(2, 8)) + 0.05 * rng.normal(size=(24, 8))
    file = vector_file(folder / "layer_3.h5", 3, WORDS, vectors)
    noise = rng.normal(size=(2, 20)) * 0.05
    norms = {
        "rated": norm_file(
            folder / "n.csv", WORDS[:20], valence=valence[:20] + noise[0], arousal=arousal[:20] + noise[1]
        ),
        "few": norm_file(folder / "few.csv", WORDS[:6], valence=valence[:6], arousal=arousal[:6]),
        "flat": norm_file(folder / "flat.csv", WORDS[:9], valence=valence[:9], arousal=[1.0] * 9),
    }
    geometry([file], norms["rated"], "rated", 5, folder / "scores.parquet", folder / "geometry.json")
    return SimpleNamespace(
        folder=folder, file=file, norms=norms, rows=rows, lexicon={"file": str(folder / "lexicon.txt")}
    )


def ask(run: SimpleNamespace, folder: Path, norms: dict | None = None, seed: int = 0, **changed: Any) -> tuple:
    given = {
        "vectors": run.file,
        "scores": run.folder / "scores.parquet",
        "stories": run.folder / "stories.parquet",
        "lexicon": run.lexicon,
        "lexicon_name": "lexicon",
        "norms": norms or run.norms,
        "bootstrap": 100,
        "permutations": 39,
        "seed": seed,
        "table": folder / "a.parquet",
        "output": folder / "a.json",
    }
    arousal_check(**given | changed)
    return strict_json(folder / "a.json"), pd.read_parquet(folder / "a.parquet")


def test_the_question_counts_and_writes(run: SimpleNamespace, tmp_path: Path) -> None:
    found, table = ask(run, tmp_path)
    assert found["layer"] == 3
    assert found["n"] == {
        "emotions": 24,
        "lexicon": 8,
        "n_stories": 72,
        "n_unrated": 0,
        "n_words": 72 * 41,
        "n_rated": 72 * 40,
    }
    assert found["coverage"] == pytest.approx(40 / 41)
    assert {name: answer["n"] for name, answer in found["norms"].items()} == {"rated": 20, "few": 6, "flat": 9}
    assert set(found["norms"]["few"]) == {"n"}
    assert set(found["norms"]["flat"]) == {"n", "valence"}
    rated = found["norms"]["rated"]
    assert rated["arousal"]["text"]["r"] > 0.9
    assert set(rated["arousal"]["ridge"]) == set(rated["valence"]["pc"]) == {"plain", "same", "both"}
    assert "q" not in rated["arousal"]["ridge"]["plain"]
    assert rated["arousal"]["ridge"]["both"]["q"] >= rated["arousal"]["ridge"]["both"]["p"]
    assert len(table) == 3 * 24
    here = table[table["norm"] == "rated"].set_index("emotion")
    assert here["predicted_arousal"].notna().sum() == here["arousal"].notna().sum() == 20
    assert here["n_words"].eq(3 * 41).all()
    stories = pd.DataFrame(run.rows).query("emotion == 'feeling05'")["text"]
    ratings = dict(zip([f"w{c}" for c in "abcdefgh"], np.linspace(-1, 1, 8), strict=True))
    by_hand = np.mean([np.mean([ratings[word] for word in text.split()[:-1]]) for text in stories])
    assert here.loc["feeling05", "text_arousal"] == pytest.approx(by_hand)
    r = scipy.stats.pearsonr(here["text_arousal"][:20], here["arousal"][:20]).statistic
    assert rated["arousal"]["text"]["r"] == pytest.approx(r)
    partial = by_inverse(here["PC2"][:20], here["arousal"][:20], here[["text_valence", "text_arousal"]][:20].to_numpy())
    assert rated["arousal"]["pc"]["both"]["r"] == pytest.approx(partial)
    held_out = by_formula(here["predicted_arousal"][:20], here["arousal"][:20], here["text_arousal"][:20])
    assert rated["arousal"]["ridge"]["same"]["r"] == pytest.approx(held_out)


def test_repetition_and_other_norms_change_nothing(run: SimpleNamespace, tmp_path: Path) -> None:
    found, _ = ask(run, tmp_path)
    written = (tmp_path / "a.json").read_bytes()
    ask(run, tmp_path)
    assert (tmp_path / "a.json").read_bytes() == written
    alone, _ = ask(run, tmp_path, {"rated": run.norms["rated"]})
    for dimension in ("valence", "arousal"):
        assert alone["norms"]["rated"][dimension]["text"] == found["norms"]["rated"][dimension]["text"]
        assert (
            alone["norms"]["rated"][dimension]["ridge"]["both"]["p"]
            == found["norms"]["rated"][dimension]["ridge"]["both"]["p"]
        )
    other, _ = ask(run, tmp_path, seed=1)
    assert (
        other["norms"]["rated"]["arousal"]["ridge"]["same"]["ci"]
        != found["norms"]["rated"]["arousal"]["ridge"]["same"]["ci"]
    )


def test_emotions_without_rated_words_do_not_count(run: SimpleNamespace, tmp_path: Path) -> None:
    rows = [row for row in run.rows if row["emotion"] != WORDS[2]] + [{"emotion": WORDS[2], "text": "nothing"}]
    pd.DataFrame(rows).to_parquet(tmp_path / "stories.parquet")
    found, table = ask(run, tmp_path, stories=tmp_path / "stories.parquet")
    assert found["norms"]["rated"]["n"] == 19
    assert found["n"]["n_unrated"] == 1
    assert table.query("norm == 'rated' and emotion == @WORDS[2]")["predicted_arousal"].isna().all()


def test_lexica_that_do_not_fit_are_refused_in_words(run: SimpleNamespace, tmp_path: Path) -> None:
    other = tmp_path / "o.csv"
    other.write_text("word,valence,arousal\nWort,1,2\n")
    with pytest.raises(UserError, match="rates none of the words"):
        ask(run, tmp_path, lexicon={"file": str(other)})
    with pytest.raises(UserError, match="has no arousal"):
        ask(run, tmp_path, lexicon={"file": str(other), "word": "word", "valence": "valence"})


# ---------------------------------------------------------------- figures


def test_figures_show_what_was_found(run: SimpleNamespace, tmp_path: Path) -> None:
    found, table = ask(run, tmp_path)
    with house_style():
        figure = draw_arousal_check(found, table, 3)
        figure.canvas.draw()
    words, bars = figure.axes
    assert words.get_title(loc="left") == f"20 emotion words: r = {found['norms']['rated']['arousal']['text']['r']:.2f}"
    labels = [label.get_text() for label in bars.get_yticklabels()]
    assert labels[:4] == [
        "arousal, held-out prediction",
        "arousal, PC2",
        "valence, held-out prediction",
        "valence, PC1",
    ]
    marks = [line.get_xdata()[0] for line in bars.lines if len(line.get_xdata()) == 1]
    wanted = found["norms"]["rated"]["arousal"]["ridge"]
    assert marks[:3] == [wanted[way]["r"] for way in ("plain", "same", "both")]
    line = numbers_arousal_check(found, table, 3)
    assert line.startswith("Here, arousal at layer 3: rated, 20 words: the stories' words r = 0.9")
    assert "few, 6 words: fewer than the 7 that are needed" in line


def test_answers_are_honest_whatever_comes_out(run: SimpleNamespace, tmp_path: Path) -> None:
    found, table = ask(run, tmp_path)
    both = found["norms"]["rated"]["arousal"]["ridge"]["both"]
    for q, words in ((0.01, "is more than that of the stories' words"), (0.4, "cannot be told from the arousal")):
        both["q"] = q
        assert words in said(found, 3)
    assert "20 words" in said(found, 3)
    few, table = ask(run, tmp_path, {"few": run.norms["few"]})
    assert said(few, 3) == "No norm rates the 7 emotions or more that it takes to say."
    with house_style():
        figure = draw_arousal_check(few, table, 3)
        figure.canvas.draw()
    assert figure.axes[0].texts[0].get_text() == "fewer than 7 rated words"
