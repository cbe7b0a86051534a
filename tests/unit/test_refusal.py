"""Planted directions of refusal come back, noise earns nothing, and the file of vectors is one that others load."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from safetensors import safe_open
from sklearn.metrics import roc_auc_score
from threadpoolctl import threadpool_limits

from affectome.activations.readout_store import read_readouts, write_readouts
from affectome.analyses.refusal import (
    Pairs,
    by_length,
    by_words,
    compared,
    family_vector,
    left_out,
    per_pair,
    refusal,
    reliability,
    swapped,
)
from affectome.analyses.statistics import p_value
from affectome.corpus.dialogues import FAMILIES, refusal_prompts
from affectome.errors import UserError
from affectome.figures.answers.refusal import draw_refusal, numbers_refusal, said
from affectome.figures.style import house_style
from affectome.vectors.store import Vectors, write_vectors
from tests.planted import orthonormal, strict_json, vector_file

LIST = Path(__file__).resolve().parents[2] / "resources" / "prompts" / "refusal_pairs.jsonl"
TABLE = refusal_prompts([json.loads(line) for line in LIST.read_text(encoding="utf-8").splitlines()])[0]
TOPIC = np.repeat(np.arange(8), 8)
NOTHING = np.zeros((0, 30))
WORDS = ["calm", "guilty", "bright"]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    with threadpool_limits(1):
        yield


def readouts(path: Path, strength: float, seed: int = 0) -> tuple[Path, np.ndarray]:
    """Readouts of the shipped pairs, layer 2 with a direction for each family (the rows returned), 4 with none."""
    rng = np.random.default_rng(seed)
    directions = orthonormal(rng, 3, 30)
    x = rng.normal(size=(len(TABLE), 30)) + 3 * rng.normal(size=(8, 30))[TABLE["topic"].astype("category").cat.codes]
    for direction, (family, (first, _second)) in zip(directions, FAMILIES.items(), strict=True):
        x[((TABLE["family"] == family) & (TABLE["side"] == first)).to_numpy()] += strength * direction
    write_readouts(path, TABLE, {2: x, 4: rng.normal(size=x.shape)}, "key", template="model")
    run = np.vstack([directions[1], directions[2] + directions[1], rng.normal(size=30) / 5])
    for layer in (2, 4):
        vector_file(path.with_suffix(f".v{layer}.h5"), layer, WORDS, run, residual_norm=7.0)
    return path, directions


def answer(folder: Path, strength: float, seed: int = 0) -> tuple[dict, pd.DataFrame, np.ndarray]:
    path, directions = readouts(folder / "r.h5", strength, seed)
    files = [path.with_suffix(f".v{layer}.h5") for layer in (4, 2)]
    refusal(path, files, 200, 99, 0, 2, folder / "t.parquet", folder / "o.json", folder / "refusal.safetensors")
    return strict_json(folder / "o.json"), pd.read_parquet(folder / "t.parquet"), directions


@pytest.fixture(scope="module")
def strong(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, pd.DataFrame, np.ndarray, Path]:
    folder = tmp_path_factory.mktemp("strong")
    return *answer(folder, 20.0), folder


def sides(rng: np.random.Generator, strength: float = 0.0) -> np.ndarray:
    """Two sides (2, 64, 30) of pairs that share a pair's and a topic's own part, apart by a planted direction."""
    shared = rng.normal(size=(8, 30))[TOPIC] + rng.normal(size=(64, 30))
    x = np.stack([shared + rng.normal(size=shared.shape), shared + rng.normal(size=shared.shape)])
    x[0, :, 0] += strength
    return x


# ---------------------------------------------------------------- planted truth


def test_planted_directions_come_back_and_are_told_apart(strong: tuple) -> None:
    found, table, directions, folder = strong
    with safe_open(folder / "refusal.safetensors", "np") as file:
        metadata, unit = file.metadata(), file.get_tensor("layer_2/unit")
        assert set(file.keys()) == {f"layer_{layer}/{form}" for layer in (2, 4) for form in ("raw", "denoised", "unit")}
    assert ((unit * directions).sum(axis=1) > 0.99).all()
    assert metadata["format"] == "affectome.vectors"
    assert json.loads(metadata["emotions"]) == list(FAMILIES)
    assert json.loads(metadata["residual_norm"]) == {"2": 7.0, "4": 7.0}
    assert set(json.loads(metadata["fingerprints"])) == {"2", "4"}
    assert found["n"] == {"pairs": 64, "topics": 8, "vectors": 3, "neutral_components": 0}
    for family in FAMILIES:
        cell = found["families"][family]
        assert cell["pairs"]["value"] == 1
        assert cell["pairs"]["ci"][0] < 1
        assert cell["p"] == 0.01
        assert cell["auc"]["value"] > 0.99
        assert cell["reliability"] > 0.9
        assert cell["binomial"] == {"won": 64, "n": 64, "p": pytest.approx(0.5**64)}
        assert found["layers"]["4"][family]["q"] > 0.02
    cosines = {(row["a"], row["b"]): row for row in found["between"]}
    assert len(cosines) == 3
    assert all(abs(row["cosine"]) < 0.12 for row in cosines.values())
    nearest = found["families"]["refusal_decision"]["emotions"]
    assert [row["emotion"] for row in nearest["most"]][:2] == ["calm", "guilty"]
    assert nearest["most"][0]["cosine"] == pytest.approx(1, abs=0.01)
    assert nearest["most"][1]["cosine"] == pytest.approx(0.5**0.5, abs=0.05)
    assert nearest["most"][1]["q"] < 0.05
    assert set(table["part"]) == {"layers", "words", "length", "between", "emotions"}
    assert table[["n", "n_topics"]].notna().all().all()
    row = table.query("part == 'layers' and layer == 2 and family == 'request_risk' and measure == 'pairs'").iloc[0]
    assert (row["value"], row["p"]) == (1, 0.01)


def test_the_vector_is_the_difference_of_means_without_neutral_components() -> None:
    rng = np.random.default_rng(0)
    x, basis = sides(rng, 2), orthonormal(rng, 4, 30)
    raw, denoised = family_vector(x, basis)
    np.testing.assert_allclose(raw, x[0].mean(axis=0) - x[1].mean(axis=0))
    np.testing.assert_allclose(denoised, raw - basis.T @ (basis @ raw))


def test_the_runs_neutral_components_are_taken_out(tmp_path: Path) -> None:
    path, directions = readouts(tmp_path / "r.h5", 20.0)
    run = np.random.default_rng(1).normal(size=(3, 30))
    basis = directions[:1]
    plain = {"counts": np.ones(3), "reliability": np.ones(3), "residual_norm": 1.0}
    made = Vectors(2, tuple(WORDS), run, run, run, neutral_basis=basis, **plain)
    write_vectors(tmp_path / "v.h5", made)
    out = [tmp_path / name for name in ("t.parquet", "o.json", "x.safetensors")]
    refusal(path, [tmp_path / "v.h5"], 20, 99, 0, 2, *out)
    found = strict_json(tmp_path / "o.json")
    assert found["n"]["neutral_components"] == 1
    assert found["families"]["request_risk"]["p"] > 0.02
    assert found["families"]["refusal_style"]["p"] == 0.01
    with safe_open(tmp_path / "x.safetensors", "np") as file:
        np.testing.assert_allclose(file.get_tensor("layer_2/unit") @ basis[0], 0, atol=1e-6)
        assert abs(file.get_tensor("layer_2/raw")[0] @ basis[0]) > 10


# ---------------------------------------------------------------- checks by another way


def test_swapped_pairs_are_what_making_everything_anew_gives() -> None:
    rng = np.random.default_rng(2)
    x, basis = sides(rng, 0.5), orthonormal(rng, 3, 30)
    signs = rng.choice([-1.0, 1.0], size=(5, 64))
    shares = swapped(x, TOPIC, basis, signs)
    for number, sign in enumerate(signs):
        other = np.where(sign[:, None] > 0, x, x[::-1])
        scores, _ = left_out(other, TOPIC, basis)
        assert shares[number] == pytest.approx((scores[0] > scores[1]).mean())


def test_auc_is_that_of_scikit_learn_within_topics() -> None:
    rng = np.random.default_rng(3)
    scores, middle = left_out(sides(rng, 1.0), TOPIC, NOTHING)
    found = per_pair(scores, TOPIC, middle).mean(axis=0)
    expected = np.mean([roc_auc_score([1] * 8 + [0] * 8, scores[:, topic == TOPIC].ravel()) for topic in range(8)])
    assert found[1] == pytest.approx(expected)
    assert found[0] == (scores[0] > scores[1]).mean()
    assert found[2] == np.mean([*(scores[0] > middle), *(scores[1] < middle)])
    assert per_pair(np.zeros((2, 64)), TOPIC)[0].tolist() == [0.5, 0.5]


def test_cosines_are_those_of_the_vector() -> None:
    rng = np.random.default_rng(4)
    x, basis, against = sides(rng, 1.0), orthonormal(rng, 2, 30), orthonormal(rng, 3, 30)
    vector = family_vector(x, basis)[1]
    rows = compared(x, TOPIC, basis, against, rng.choice([-1.0, 1.0], size=(19, 64)))
    np.testing.assert_allclose([row["cosine"] for row in rows], against @ vector / np.linalg.norm(vector))
    assert all(row["ci"][0] < row["cosine"] < row["ci"][1] for row in rows)


# ---------------------------------------------------------------- nothing there


def test_p_values_and_intervals_of_noise() -> None:
    p, cosines, covered, shares = [], [], [], []
    against = orthonormal(np.random.default_rng(0), 1, 30)
    for seed in range(200):
        rng = np.random.default_rng([5, seed])
        x = sides(rng)
        scores, middle = left_out(x, TOPIC, NOTHING)
        observed = per_pair(scores, TOPIC, middle)[:, 0].mean()
        signs = rng.choice([-1.0, 1.0], size=(99, 64))
        null = swapped(x, TOPIC, NOTHING, signs)
        assert p_value(observed, null) >= (np.sum(null > observed) + 1) / 100
        # Shares of 64 pairs tie with each other, which is broken at random here.
        p.append((np.sum(null > observed + 1e-9) + rng.uniform() * (1 + np.sum(np.abs(null - observed) < 1e-9))) / 100)
        row = compared(x, TOPIC, NOTHING, against, signs)[0]
        cosines.append(row["p"] - rng.uniform() / 100)
        covered.append(row["ci"][0] <= 0 <= row["ci"][1])
        shares.append(observed)
    assert scipy.stats.kstest(p, "uniform").pvalue > 0.01
    assert scipy.stats.kstest(cosines, "uniform").pvalue > 0.01
    assert np.mean(shares) == pytest.approx(0.5, abs=0.03)
    assert 0.9 < np.mean(covered) <= 0.99


def test_noise_has_no_reliability_and_a_planted_direction_has() -> None:
    rng = np.random.default_rng(6)
    found = [reliability(sides(rng), TOPIC, NOTHING, rng) for _ in range(10)]
    assert abs(np.mean(found)) < 0.2
    assert reliability(sides(rng, 5.0), TOPIC, NOTHING, rng) > 0.9


# ---------------------------------------------------------------- no leak


def test_a_topic_is_not_learned_from_when_it_is_tested() -> None:
    rng = np.random.default_rng(7)
    x = sides(rng)
    before = left_out(x, TOPIC, NOTHING)
    # Another direction on one topic alone changes what others are tested with, and earns nothing on its own.
    x[0, TOPIC == 3, 5] += 50
    scores, middle = left_out(x, TOPIC, NOTHING)
    vector = family_vector(x[:, TOPIC != 3], NOTHING)[0]
    np.testing.assert_allclose(scores[:, TOPIC == 3], x[:, TOPIC == 3] @ vector / np.linalg.norm(vector))
    np.testing.assert_allclose(middle[TOPIC == 3], before[1][TOPIC == 3])
    marked = sides(rng)
    for topic in range(8):
        marked[0, topic == TOPIC, 10 + topic] += 50
    won = per_pair(left_out(marked, TOPIC, NOTHING)[0], TOPIC)[:, 0]
    assert abs(won.mean() - 0.5) < 0.2


# ---------------------------------------------------------------- words and length


def pairs(first: list[str], second: list[str]) -> Pairs:
    return Pairs(np.arange(64), 64 + np.arange(64), TOPIC, (first, second))


def test_words_and_length_find_what_is_on_the_surface_and_no_more() -> None:
    rng = np.random.default_rng(8)
    plain = [[" ".join(rng.choice(list("abcdefgh"), 6, replace=False)) for _ in range(64)] for _ in range(2)]
    told = pairs([f"{text} no" for text in plain[0]], plain[1])
    assert per_pair(by_words(told), TOPIC)[:, 0].mean() == 1
    assert per_pair(by_length(told), TOPIC)[:, 0].mean() == 1
    shorter = pairs(plain[1], [f"{text} no" for text in plain[0]])
    assert per_pair(by_length(shorter), TOPIC)[:, 0].mean() == 1
    nothing = pairs(*plain)
    assert abs(per_pair(by_words(nothing), TOPIC)[:, 0].mean() - 0.5) < 0.2
    assert (per_pair(by_length(nothing), TOPIC)[:, 0] == 0.5).all()
    # A word of one topic alone is not known when that topic is tested.
    topical = pairs([f"{text} topic{topic}" for text, topic in zip(plain[0], TOPIC, strict=True)], plain[1])
    assert per_pair(by_words(topical), TOPIC)[:, 0].mean() < 0.75


# ---------------------------------------------------------------- files


def test_repetition_gives_the_same_bytes(strong: tuple, tmp_path: Path) -> None:
    folder = strong[3]
    answer(tmp_path, 20.0)
    for name in ("o.json", "t.parquet", "refusal.safetensors"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_what_cannot_be_answered_is_refused_in_words(tmp_path: Path) -> None:
    file = vector_file(tmp_path / "v.h5", 0, WORDS, np.eye(3, 4))
    topics = sorted(set(TABLE["topic"]))
    cases = [
        (TABLE.drop(columns="side"), "has no side"),
        (TABLE[TABLE["side"] != "kind"].reset_index(drop=True), "both sides of refusal_style"),
        (TABLE[TABLE["family"] != "request_risk"].reset_index(drop=True), "both sides of request_risk"),
        (TABLE[TABLE["topic"].isin(topics[:2])].reset_index(drop=True), "on 2 topics"),
    ]
    out = [tmp_path / name for name in ("t.parquet", "o.json", "x.safetensors")]
    for table, message in cases:
        x = np.random.default_rng(0).normal(size=(len(table), 4))
        write_readouts(tmp_path / "r.h5", table, {0: x}, "key", template="model")
        with pytest.raises(UserError, match=message):
            refusal(tmp_path / "r.h5", [file], 10, 9, 0, 0, *out)


def test_pairs_are_matched_by_number_whatever_the_order(tmp_path: Path) -> None:
    order = np.random.default_rng(0).permutation(len(TABLE))
    table = TABLE.iloc[order].reset_index(drop=True)
    write_readouts(tmp_path / "r.h5", table, {0: np.zeros((len(table), 2))}, "key", template="model")
    of = Pairs.of(read_readouts(tmp_path / "r.h5"), "refusal_style")
    assert (table["pair"][of.first].to_numpy() == table["pair"][of.second].to_numpy()).all()
    assert set(table["side"][of.first]) == {"curt"}
    assert of.texts[1] == table["text"][of.second].tolist()


# ---------------------------------------------------------------- figures


def test_the_figure_and_the_words_follow_the_answer(strong: tuple) -> None:
    found, table = strong[:2]
    with house_style():
        figure = draw_refusal(found, table, 2)
        figure.canvas.draw()
    by_layer, beside, *emotions = figure.axes
    assert by_layer.lines[0].get_ydata()[0] == found["layers"]["2"]["request_risk"]["pairs"]["value"]
    assert [text.get_text() for text in beside.get_legend().get_texts()] == [
        "vector",
        "bag of words",
        "number of words",
    ]
    assert [ax.get_title(loc="left") for ax in emotions] == ["request risk", "refusal decision", "refusal style"]
    # Of three emotions each is drawn once.
    assert len(emotions[0].get_yticklabels()) == 3
    assert numbers_refusal(found, table, 2).startswith(
        "Here, at layer 2, share of 64 pairs told apart on topics held out: request risk 1.00 (0.94 to 1.00, p"
    )
    text = said(found, 2)
    assert "risky against benign requests in 100\u00a0% of pairs" in text
    assert "n = 64 pairs each on 8 topics" in text
    # The words of the shipped replies tell curt from kind and refused from complied, but not risky from benign.
    assert "A bag of words does about as well" in text
    assert "refusal style" in text.split("A bag of words")[1]
    assert "request risk" not in text.split("A bag of words")[1]


def test_a_null_result_is_said_as_one(tmp_path: Path) -> None:
    found, table, _ = answer(tmp_path, 0.0, seed=1)
    del found["layers"]["4"]
    for family in FAMILIES:
        found["families"][family]["emotions"]["most"] = []
    text = said(found, 2)
    assert text.count("which chance can explain") >= 2
    assert "A bag of words" not in text
    with house_style():
        figure: Any = draw_refusal(found, table, 2)
        figure.canvas.draw()
