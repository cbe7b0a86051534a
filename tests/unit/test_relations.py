"""Synonyms and antonyms: planted relations come back, noise has none, and the shipped list is sound."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from sklearn.metrics import roc_auc_score

from affectome.analyses.relations import (
    KINDS,
    auc,
    judge,
    kinds_of_pairs,
    read_relations,
    relations,
    weighted_auc,
)
from affectome.errors import UserError
from affectome.figures.answers.relations import draw_relations, numbers_relations, said
from affectome.figures.style import house_style
from affectome.files import read_json
from tests.planted import strict_json, vector_file

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "resources/emotions/relations.csv"
EMOTIONS = (ROOT / "resources/emotions/171.txt").read_text(encoding="utf-8").split("\n")[:171]
WORDS = [f"w{number}" for number in range(48)]


def listing(folder: Path, pairs: list[tuple[str, str, str]]) -> Path:
    file = folder / "relations.csv"
    pd.DataFrame(pairs, columns=["a", "b", "relation"]).to_csv(file, index=False)
    return file


def paired(folder: Path) -> Path:
    """Twelve pairs of synonyms and as many of antonyms, every word once."""
    rows = [(WORDS[2 * n], WORDS[2 * n + 1], "synonym" if n < 12 else "antonym") for n in range(24)]
    return listing(folder, rows)


def planted(rng: np.random.Generator, strength: float, opposed: float) -> np.ndarray:
    """Vectors of `WORDS`: the second of every synonym pair leans to the first, that of every antonym pair away."""
    vectors = rng.normal(size=(48, 30))
    lean = np.repeat([strength, -opposed], 12)
    vectors[1::2] += lean[:, None] * vectors[::2]
    return vectors


def written(folder: Path, layers: list[np.ndarray], file: Path, words: list[str] = WORDS, draws: int = 199) -> Any:
    files = [vector_file(folder / f"layer_{n}.h5", n, words, each) for n, each in enumerate(layers)]
    relations(files, file, 100, draws, 0, folder / "t.parquet", folder / "o.json")
    strict_json(folder / "o.json")
    return read_json(folder / "o.json"), pd.read_parquet(folder / "t.parquet")


# ---------------------------------------------------------------- the shipped list


def test_the_shipped_list_is_sound():
    listed = read_relations(SHIPPED, tuple(EMOTIONS))
    assert len(listed) == len(pd.read_csv(SHIPPED))
    counts = listed["relation"].value_counts()
    assert counts["synonym"] >= 80
    assert counts["antonym"] >= 40
    # No chain of synonyms leads from a word to its opposite.
    group = dict(zip(EMOTIONS, EMOTIONS, strict=True))
    for a, b in listed.loc[listed["relation"] == "synonym", ["a", "b"]].to_numpy():
        old, new = group[a], group[b]
        group = {word: new if root == old else root for word, root in group.items()}
    antonyms = listed.loc[listed["relation"] == "antonym", ["a", "b"]].to_numpy()
    assert not [(a, b) for a, b in antonyms if group[a] == group[b]]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("w0", "w1", "hypernym")], "'hypernym' is unknown"),
        ([("w0", "w0", "synonym")], "pairs 'w0' with itself"),
        ([("w0", "w1", "synonym"), ("w1", "w0", "antonym")], "w0 and w1 more than once"),
    ],
)
def test_a_list_that_contradicts_itself_is_refused(tmp_path, rows, message):
    with pytest.raises(UserError, match=message):
        read_relations(listing(tmp_path, rows), tuple(WORDS))


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "x.csv").write_text("word,valence\na,1\n", encoding="utf-8")
    with pytest.raises(UserError, match="a,b,relation"):
        read_relations(tmp_path / "x.csv", tuple(WORDS))


def test_unrelated_words_are_three_steps_apart(tmp_path):
    chain = listing(tmp_path, [("w1", "w2", "synonym"), ("w3", "w2", "antonym"), ("w3", "w4", "synonym")])
    words, kinds = kinds_of_pairs(read_relations(chain, tuple(WORDS)), 48)
    assert words.tolist() == [1, 2, 3, 4]
    assert kinds[0, 1] == kinds[2, 3] == KINDS.index("synonym")
    assert kinds[1, 2] == KINDS.index("antonym")
    assert kinds[0, 2] == kinds[1, 3] == -1
    assert kinds[0, 3] == len(KINDS)


# ---------------------------------------------------------------- numbers


def test_auc_is_that_of_scikit_learn_with_ties_and_weights():
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 12, size=60)
    kind, unrelated = np.arange(20), np.arange(20, 55)
    target = np.repeat([1, 0], [20, 35])
    assert auc(codes, kind, unrelated) == pytest.approx(roc_auc_score(target, codes[:55]))
    weights = rng.integers(0, 4, size=(60, 3)).astype(np.float32)
    expected = [roc_auc_score(target, codes[:55], sample_weight=weights[:55, draw]) for draw in range(3)]
    np.testing.assert_allclose(weighted_auc(codes, kind, unrelated, weights), expected)


def test_planted_relations_are_found(tmp_path):
    rng = np.random.default_rng(1)
    layers = [planted(rng, 1.5, 1.0), planted(rng, 0, 0)]
    found, table = written(tmp_path, layers, paired(tmp_path))
    assert found["n"] == {"synonym": 12, "antonym": 12, "unrelated": 48 * 47 // 2 - 24}
    assert found["words"] == 48
    there, nothing = found["layers"]["0"], found["layers"]["1"]
    assert there["auc"]["synonym"]["value"] > 0.95
    assert there["auc"]["antonym"]["value"] > 0.9
    assert there["auc"]["synonym"]["p"] == there["auc"]["antonym"]["p"] == 1 / 200
    assert there["auc"]["synonym"]["q"] == pytest.approx(2 / 200)
    assert nothing["auc"]["synonym"]["q"] > 0.05
    # The leaning word is 1.5 times the first and something of its own: cosine 1.5 / sqrt(1.5² + 1).
    low, high = there["means"]["synonym"]["ci"]
    assert low < 1.5 / np.sqrt(3.25) < high
    assert low < there["means"]["synonym"]["value"] < high
    # Rows of the table are cosines and percentiles.
    unit = layers[0] / np.linalg.norm(layers[0], axis=1, keepdims=True)
    cosines = unit @ unit.T
    every = cosines[np.triu_indices(48, 1)]
    row = table[(table["layer"] == 0) & (table["a"] == "w4")].iloc[0]
    assert row["cosine"] == pytest.approx(cosines[4, 5], abs=1e-5)
    assert row["percentile"] == pytest.approx(scipy.stats.percentileofscore(every, cosines[4, 5], "mean"), abs=0.1)
    assert len(table) == 48
    assert (table["n"] == 48 * 47 // 2).all()
    listed = {("w0", "w1"), ("w2", "w3"), ("w46", "w47")}
    assert not listed & {(pair["a"], pair["b"]) for pair in there["similar_unlisted"] + there["opposed_unlisted"]}
    assert there["similar_unlisted"][0]["cosine"] == pytest.approx(
        max(
            cosines[i, j]
            for i in range(48)
            for j in range(i + 1, 48)
            if (i, j) not in {(k, k + 1) for k in range(0, 48, 2)}
        ),
        abs=1e-5,
    )
    assert there["weakest_synonyms"][0]["cosine"] == pytest.approx(
        cosines[range(0, 24, 2), range(1, 24, 2)].min(), abs=1e-5
    )


def test_antonyms_that_are_alike_count_against_the_expectation(tmp_path):
    found, _ = written(tmp_path, [planted(np.random.default_rng(2), 0, -1.5)], paired(tmp_path))
    area = found["layers"]["0"]["auc"]["antonym"]
    assert area["value"] < 0.1
    assert area["p"] == 1 / 200
    assert "against expectation" in said(found, 0)


def test_p_of_noise_is_uniform_though_pairs_share_words(tmp_path):
    rng = np.random.default_rng(3)
    rows = [(WORDS[i], WORDS[i + step], "synonym") for i in range(0, 30, 2) for step in (1, 2)]
    listed = read_relations(listing(tmp_path, rows), tuple(WORDS))
    words, kinds = kinds_of_pairs(listed, 48)
    pairs = np.triu_indices(len(words), 1)
    of = {name: np.flatnonzero(kinds[pairs] == n) for n, name in enumerate((*KINDS, "unrelated"))}
    weights = np.ones((len(pairs[0]), 1), dtype=np.float32)
    p = []
    for _ in range(300):
        vectors = rng.normal(size=(len(words), 3))
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        orders = [rng.permutation(len(words)) for _ in range(19)]
        p.append(judge(vectors @ vectors.T, pairs, of, weights, orders)["auc"]["synonym"]["p"])
    smooth = np.array(p) - rng.uniform(size=300) / 20
    assert scipy.stats.kstest(smooth, "uniform").pvalue > 0.01


def test_intervals_cover_the_mean_of_many_words(tmp_path):
    file, held = paired(tmp_path), []
    rng = np.random.default_rng(4)
    listed = read_relations(file, tuple(WORDS))
    words, kinds = kinds_of_pairs(listed, 48)
    pairs = np.triu_indices(48, 1)
    of = {name: np.flatnonzero(kinds[pairs] == n) for n, name in enumerate((*KINDS, "unrelated"))}
    for _ in range(150):
        vectors = planted(rng, 1.0, 0)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        drawn = rng.multinomial(48, np.full(48, 1 / 48), size=200).T
        weights = (drawn[pairs[0]] * drawn[pairs[1]]).astype(np.float32)
        low, high = judge(vectors @ vectors.T, pairs, of, weights, [])["means"]["synonym"]["ci"]
        held.append(low <= 0.7 <= high)
    assert len(words) == 48
    assert 0.88 <= np.mean(held) <= 1


# ---------------------------------------------------------------- small runs, figures


def test_words_that_the_run_lacks_do_not_count(tmp_path):
    file = paired(tmp_path)
    rng = np.random.default_rng(5)
    found, table = written(tmp_path, [planted(rng, 1, 1)[:11]], file, WORDS[:11])
    assert found["n"] == {"synonym": 5, "antonym": 0, "unrelated": 40}
    assert set(found["layers"]["0"]["auc"]) == {"synonym"}
    assert len(table) == 5


@pytest.mark.parametrize("count", [3, 8, 48])
def test_figure_and_words_of_small_and_large_runs(tmp_path, count):
    file = paired(tmp_path)
    rng = np.random.default_rng(6)
    found, table = written(tmp_path, [planted(rng, 1, 1)[:count] for _ in range(2)], file, WORDS[:count], 99)
    with house_style():
        figure = draw_relations(found, table, 1)
        figure.canvas.draw()
    text = numbers_relations(found, table, 1)
    assert text.startswith(f"Here, {found['words']} listed words at layer 1")
    if count == 48:
        assert "Synonyms have more alike vectors" in said(found, 1)
        assert "synonyms 0." in text
    else:
        assert "Too few synonyms" in said(found, 1)


def test_the_published_pair_is_named(tmp_path):
    rng = np.random.default_rng(7)
    found, table = written(tmp_path, [rng.normal(size=(171, 20))], SHIPPED, EMOTIONS, 19)
    here = found["layers"]["0"]["published"]
    row = table[(table["a"] == "afraid") & (table["b"] == "scared")].iloc[0]
    assert here["cosine"] == row["cosine"]
    assert "reports 0.974" in numbers_relations(found, table, 0)
    assert "Nothing shows that synonyms" in said(found, 0)
    with house_style():
        texts = [text.get_text() for text in draw_relations(found, table, 0).texts]
    assert any("Synonyms least alike" in text for text in texts)
