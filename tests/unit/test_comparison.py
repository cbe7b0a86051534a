"""Comparing runs: agreement of cosines against planted answers, planes laid over ratings, pages that say them."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from affectome.figures.comparison import laid_over, run_colours
from affectome.report.comparison import compare_runs, cosine_agreement

WORDS = [f"w{index:02}" for index in range(40)]


def cosines(words: list[str], seed: int, noise: float = 0.0) -> pd.DataFrame:
    """Cosines of vectors planted by name, so that the same words have the same vectors whatever their order."""
    vectors = np.stack([np.random.default_rng([7, int(word[1:])]).normal(size=8) for word in words])
    vectors = vectors + noise * np.random.default_rng(seed).normal(size=vectors.shape)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    first, second = np.triu_indices(len(words), k=1)
    names = np.array(words, dtype=object)
    return pd.DataFrame({"a": names[first], "b": names[second], "cosine": (vectors @ vectors.T)[first, second]})


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_the_same_cosines_agree_perfectly_in_whatever_order_the_emotions_come() -> None:
    found = cosine_agreement(cosines(WORDS, 0), cosines(WORDS[::-1], 1), 199, rng())
    assert found["r"] == pytest.approx(1)
    assert found["p"] == pytest.approx(1 / 200)
    assert (found["n"], found["pairs"]) == (40, 780)


def test_permuted_names_do_not_agree() -> None:
    shuffled = cosines(WORDS, 0)
    names = dict(zip(WORDS, rng(3).permutation(WORDS), strict=True))
    shuffled[["a", "b"]] = shuffled[["a", "b"]].apply(lambda column: column.map(names))
    found = cosine_agreement(cosines(WORDS, 0), shuffled, 199, rng())
    assert abs(found["r"]) < 0.15
    assert found["p"] > 0.05


def test_agreement_is_spearmans_over_shared_emotions_only() -> None:
    first, second = cosines(WORDS[:30], 0), cosines(WORDS[10:], 1, noise=0.7)
    found = cosine_agreement(first, second, 19, rng())
    joined = first.merge(second, on=["a", "b"])
    assert (found["n"], found["pairs"]) == (20, 190)
    assert len(joined) == 190
    assert found["r"] == pytest.approx(spearmanr(joined["cosine_x"], joined["cosine_y"]).statistic, abs=1e-6)
    assert 0.2 < found["r"] < 0.95


def test_p_values_of_unrelated_runs_are_uniform() -> None:
    pairs = cosines(WORDS[:12], 0)
    found = []
    for seed in range(200):
        first, second = (pairs.assign(cosine=rng(number).normal(size=66)) for number in (seed, 1000 + seed))
        found.append(cosine_agreement(first, second, 19, rng(9000 + seed))["p"])
    assert np.mean(np.array(found) <= 0.05) == pytest.approx(0.05, abs=0.03)
    assert np.mean(np.array(found) <= 0.5) == pytest.approx(0.5, abs=0.08)


def test_too_few_shared_emotions_are_not_compared() -> None:
    found = cosine_agreement(cosines(WORDS[:20], 0), cosines(WORDS[16:], 0), 19, rng())
    assert found == {"n": 4, "pairs": 6, "r": None, "p": None}


def test_a_plane_is_laid_over_the_ratings_it_was_turned_away_from() -> None:
    human = pd.DataFrame(rng().normal(size=(9, 2)), [f"w{index:02}" for index in range(9)], ["valence", "arousal"])
    turn = np.array([[0.6, -0.8], [0.8, 0.6]]) @ np.diag([1, -1])
    scores = pd.DataFrame(3.7 * human.to_numpy() @ turn + 5, columns=["PC1", "PC2"]).assign(emotion=human.index)
    places, explained = laid_over(scores.iloc[::-1], human)
    assert explained == pytest.approx(1)
    np.testing.assert_allclose(places.loc[human.index].to_numpy(), human.to_numpy(), atol=1e-12)
    assert laid_over(scores.iloc[:2], human)[1] is None


def test_every_run_has_a_colour_of_its_own() -> None:
    assert len(set(run_colours(["a", "b", "c", "d"]).values())) == 4


# ---------------------------------------------------------------- the page


def run_files(folder: Path, seed: int, valence: float, words: list[str]) -> SimpleNamespace:
    """What a run leaves for a comparison: two layers, the headline the second."""
    folder.mkdir(parents=True)
    result = {"loo_r": valence, "loo_ci": [valence - 0.2, valence + 0.1], "loo_p": 0.012}
    norms = {"ratings": {"n": 9, "valence": result, "arousal": {**result, "loo_p": 0.4}}, "few": {"n": 2}}
    summary = {
        "run": folder.name,
        "model": {"name": f"m-{folder.name}", "blocks": 4},
        "corpus": {"name": "c", "stories": 1234, "emotions": len(words), "neutral": 3},
        "layer": {"auto": 2},
        "layers": {"2": {"reliability_mean": 0.625, "norms": norms}},
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    rows = [
        {"layer": layer, "measure": measure, "norm": norm, "dimension": dimension, "value": valence,
         "low": valence - 0.1, "high": valence + 0.1, "p": 0.01}
        for layer in (0, 2)
        for measure, norm, dimension in (
            ("ridge", "ratings", "valence"), ("ridge", "ratings", "arousal"), ("reliability", None, None)
        )
    ]  # fmt: skip
    pd.DataFrame(rows).to_parquet(folder / "layer_profile.parquet")
    places = pd.DataFrame(rng(seed).normal(size=(len(words), 2)), columns=["PC1", "PC2"]).assign(emotion=words)
    pd.concat([places.assign(layer=0, PC1=0.0), places.assign(layer=2)]).to_parquet(folder / "geometry.parquet")
    pairs = cosines(words, seed, noise=0.5)
    # At the other layer nothing is like anything: it must not be taken.
    pd.concat([pairs.assign(layer=0, cosine=0.0), pairs.assign(layer=2)]).to_parquet(folder / "similarity.parquet")
    names = ("summary.json", "layer_profile.parquet", "geometry.parquet", "similarity.parquet")
    return SimpleNamespace(files=[folder / name for name in names])


def verdict(folder: Path, word: str, mean: float) -> Path:
    entry = {
        "verdict": word,
        "strength": 0.1,
        "effect": {"mean": mean, "ci": [mean - 0.25, mean + 0.25], "p_holm": 0.031, "n_prompts": 12},
    }
    content = {"trial": "said", "title": "What is said.", "unit": "nats", "vectors": {"<b>happy": entry}}
    (folder / "verdict.json").write_text(json.dumps(content))
    return folder / "verdict.json"


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    tmp_path = tmp_path_factory.mktemp("compared")
    first = run_files(tmp_path / "one", 1, 0.81, WORDS)
    second = run_files(tmp_path / "two", 2, -0.3, WORDS[:30])
    verdicts = [verdict(tmp_path / "one", "supported", 1.5), verdict(tmp_path / "two", "inconclusive", -0.4)]
    (tmp_path / "norm.csv").write_text(
        "word,v,a\n" + "".join(f"{word},{index / 9},{(index * 5 % 9) / 9}\n" for index, word in enumerate(WORDS[:9]))
    )
    norm = {"file": str(tmp_path / "norm.csv"), "word": "word", "valence": "v", "arousal": "a", "dominance": None}
    out = tmp_path / "out"
    out.mkdir()
    outputs = [out / name for name in ("comparison.html", "comparison.json", "comparison.parquet")]
    compare_runs(
        *zip(first.files, second.files, strict=True),
        verdicts,
        [],
        *outputs,
        titles={"one": "<i>The first</i>", "two": "The second"},
        judged=["one", "two"],
        norm=norm,
        norm_name="ratings",
        permutations=49,
        seed=0,
        dpi=40,
    )
    return SimpleNamespace(
        text=outputs[0].read_text(encoding="utf-8"),
        numbers=json.loads(outputs[1].read_text()),
        table=pd.read_parquet(outputs[2]),
        folder=out,
    )


def test_the_page_and_the_numbers_say_what_the_runs_say(compared: SimpleNamespace) -> None:
    said = " ".join(compared.text.split())
    assert "0.81 (0.61 to 0.91)" in said
    assert "−0.30 (−0.50 to −0.20)" in said
    assert "&lt;i&gt;The first&lt;/i&gt;" in said
    assert "1,234" in said
    assert "✓ supported" in said
    assert "1.50 (1.25 to 1.75)" in said
    assert "−0.40 (−0.65 to −0.15)" in said
    assert "<b>happy" not in said
    assert "<script" not in said
    one, two = compared.numbers["runs"]
    assert (one["depth"], two["emotions"], one["reliability"]) == (0.75, 30, 0.625)
    assert one["norms"]["ratings"]["valence"]["ci"] == pytest.approx([0.61, 0.91])
    assert one["norms"]["ratings"]["valence"]["called"] == "strong"
    assert two["norms"]["ratings"]["valence"]["called"] == "none"
    assert compared.numbers["verdicts"]["said"]["vectors"]["<b>happy"]["two"]["effect"] == -0.4


def test_headline_layers_and_shared_emotions_are_compared(compared: SimpleNamespace) -> None:
    (pair,) = compared.numbers["cosines"]
    assert (pair["a"], pair["b"], pair["n"], pair["pairs"]) == ("one", "two", 30, 435)
    assert pair["r"] > 0.4
    assert pair["p"] == pytest.approx(1 / 50)
    # At layer 0 all words would lie on a line.
    assert all(run["plane"]["n"] == 9 and run["plane"]["explained"] > 0 for run in compared.numbers["runs"])


def test_the_table_is_over_relative_depth(compared: SimpleNamespace) -> None:
    depths = compared.table.groupby("layer")["depth"].unique().map(list).to_dict()
    assert depths == {0: [0.25], 2: [0.75]}
    assert set(compared.table.loc[compared.table["headline"], "layer"]) == {2}
    assert set(compared.table["run"]) == {"one", "two"}


def test_figures_have_a_panel_per_run_norm_and_dimension(compared: SimpleNamespace) -> None:
    pictures = {path.stem: path.read_text(encoding="utf-8") for path in compared.folder.glob("*.svg")}
    assert set(pictures) == {"compared_agreement", "compared_layers", "compared_planes"}
    for title in ("ratings: valence", "ratings: arousal"):
        assert title in pictures["compared_agreement"]
        assert title in pictures["compared_layers"]
    assert "one: 9 words, " in pictures["compared_planes"]
    assert "two: 9 words, " in pictures["compared_planes"]
