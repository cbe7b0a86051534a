"""Recognition recovers what is planted, calls noise noise, and learns nothing from the topic or the text it is asked.

Scores are compared with a plain loop that follows the definition word by word, ranks with SciPy's.
"""

from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.stats

from affectome.activations.store import Texts, open_layer, rows_of, write_layer, write_shard
from affectome.analyses.recognition import (
    MEASURES,
    Labels,
    balanced,
    balanced_draws,
    balanced_means,
    chance,
    held_out,
    neutral_of,
    neutral_texts,
    per_text,
    recognition,
    summarised,
    topic_interval,
)
from affectome.analyses.splits import topic_folds
from affectome.analyses.words import texts_of, words_held_out
from affectome.corpus.surface import _cross_validated, occurrence, words_of
from affectome.errors import UserError
from affectome.randomness import generator
from affectome.vectors.contrasts import contrast, unit
from affectome.vectors.denoising import project_out

OFF = {"reference": "mean_of_means", "denoising": None}


def design(emotions: int, topics: int, each: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of emotions and topics of `each` texts for every pair of them."""
    emotion, topic, _ = np.meshgrid(np.arange(emotions), np.arange(topics), np.arange(each), indexing="ij")
    return emotion.ravel(), topic.ravel()


def planted(
    emotion: np.ndarray, topic: np.ndarray, signal: float, noise: float = 1.0, width: int = 24, seed: int = 0
) -> np.ndarray:
    """Activations (texts, width): a direction per emotion of length `signal`, one per topic, noise, far from 0."""
    rng = np.random.default_rng(seed)
    directions = unit(rng.normal(size=(emotion.max() + 1, width))) * signal
    subjects = 3 * rng.normal(size=(topic.max() + 1, width))
    return (50 + directions[emotion] + subjects[topic] + noise * rng.normal(size=(len(emotion), width))).astype("f4")


def layers_of(
    folder: Path, words: list[str], topics: list[str], activations: np.ndarray, ids: list[str] | None = None
) -> list[Path]:
    """Layer files of `activations` (layers, texts, width) of texts with these emotions, "" for neutral, and topics."""
    columns = {"id": ids or [f"{number:04x}" for number in range(len(words))], "emotion": words, "topic": topics}
    tokens = np.full(len(words), 60, dtype=np.int32)
    texts = Texts(
        **{name: np.array(values, dtype=object) for name, values in columns.items()},
        neutral=np.array([word == "" for word in words]),
        n_tokens=tokens,
        n_text=tokens - 1,
        n_pooled=tokens - 50,
        dropped=np.array([], dtype=object),
        dropped_tokens=np.array([], dtype=np.int32),
    )
    made = {"basis": "b", "model": "m", "dtype": "float32", "device": "cpu", "tokens": 1, "seconds": 1.0, "cut": 0}
    shard = folder / "shards" / "0.h5"
    norms = np.ones((len(activations), len(words)), dtype=np.float32)
    write_shard(shard, "key", texts, list(range(len(activations))), activations.astype(np.float32), norms, **made)
    paths = [folder / f"layer_{layer}.h5" for layer in range(len(activations))]
    for layer, path in enumerate(paths):
        write_layer(path, [shard], layer)
    return paths


def by_the_word(activations, emotions, folds, neutral, reference, denoising, learned=None):
    """Standardised scores (texts, emotions) by the definition, one text and emotion at a time."""
    learned = emotions if learned is None else learned
    count = emotions.max() + 1
    x = activations.astype(np.float64)
    basis = neutral.basis(**denoising) if denoising else np.zeros((0, x.shape[1]))
    scores = np.full((len(x), count), np.nan)
    for fold in range(folds.max() + 1):
        train = [row for row in range(len(x)) if learned[row] >= 0 and emotions[row] >= 0 and folds[row] != fold]
        of = {e: [row for row in train if learned[row] == e] for e in range(count)}
        present = [e for e in range(count) if of[e]]
        means = np.array([x[of[e]].mean(axis=0) for e in present])
        vectors = unit(project_out(contrast(means, reference, neutral.mean if neutral.count else None), basis))
        for e, vector in zip(present, vectors, strict=True):
            projected = x @ vector
            mean = np.mean([projected[of[other]].mean() for other in present])
            variance = np.mean([((projected[of[other]] - mean) ** 2).mean() for other in present])
            for row in range(len(x)):
                if emotions[row] >= 0 and folds[row] == fold:
                    scores[row, e] = (projected[row] - mean) / np.sqrt(variance)
    return scores


@pytest.mark.parametrize("reference", ["mean_of_means", "rest", "neutral"])
@pytest.mark.parametrize("denoising", [None, {"variance": 0.5}, {"components": 3}])
def test_scores_are_what_the_definition_says(reference, denoising, monkeypatch):
    rng = np.random.default_rng(3)
    emotions, topics = design(5, 6, 2)
    keep = rng.permutation(len(emotions))[:47]  # uneven, in no order
    emotions, topics = emotions[keep], topics[keep]
    x = planted(emotions, topics, 4, seed=1)
    emotions = np.where(rng.uniform(size=47) < 0.1, -1, emotions)
    folds = topic_folds(topics, 3, generator(0))
    folds[topics == topics[0]] = -1
    learned = np.where(rng.uniform(size=47) < 0.2, -1, rng.permutation(emotions))
    neutral = neutral_of(planted(np.zeros(15, int), np.arange(15), 0, seed=2))
    for as_what in (None, learned):
        found = held_out(x, emotions, folds, neutral, reference, denoising, as_what)
        expected = by_the_word(x, emotions, folds, neutral, reference, denoising, as_what)
        np.testing.assert_allclose(found.scores, expected, atol=1e-8)
        assert (found.tested == ((emotions >= 0) & (folds >= 0))).all()
        monkeypatch.setattr("affectome.activations.store._BYTES", 4 * 24 * 7)
        again = held_out(x, emotions, folds, neutral, reference, denoising, as_what)
        np.testing.assert_allclose(again.scores, expected, atol=1e-8)
        monkeypatch.undo()


def test_ranks_are_scipys():
    rng = np.random.default_rng(0)
    scores = np.round(rng.normal(size=(200, 9)), 1)  # rounded, so that there are ties
    emotions = rng.integers(-1, 9, 200)
    found = recognition(scores, emotions, np.zeros(200, int))
    ranks = scipy.stats.rankdata(-scores, axis=1)
    has = emotions >= 0
    np.testing.assert_array_equal(found.ranks[has], ranks[has, emotions[has]])
    assert np.isnan(found.ranks[~has]).all()
    assert (found.predicted[~has] == -1).all()
    first = (ranks == 1).sum(axis=1) == 1
    np.testing.assert_array_equal(found.predicted[has & first], scores.argmax(axis=1)[has & first])
    assert (found.predicted[~first] == -1).all()
    assert not first[has].all()
    # A text is named right exactly where it counts as such.
    np.testing.assert_array_equal(found.ranks <= 1, has & (found.predicted == emotions))


def test_what_is_planted_is_found_and_noise_is_not():
    emotions, topics = design(8, 6, 2)
    folds = topic_folds(topics, 6, generator(0))
    strong = held_out(planted(emotions, topics, 60), emotions, folds, neutral_of(np.zeros((0, 24), "f4")))
    assert summarised(strong.ranks, emotions, topics, 50, generator(1))["top1"]["value"] == 1
    found = []
    for seed in range(60):
        noise = held_out(planted(emotions, topics, 0, seed=seed), emotions, folds, neutral_of(np.zeros((0, 24), "f4")))
        found.append(per_text(noise.ranks).mean(axis=0))
    error = np.std(found, axis=0) / np.sqrt(60)
    assert (np.abs(np.mean(found, axis=0) - list(chance(8).values())) < 3.5 * error).all()
    assert chance(3) == {"top1": 1 / 3, "top5": 1.0, "rank": 2.0}


def test_a_signal_of_the_topic_earns_nothing():
    # Every pair of emotion and topic has a direction of its own, which all its texts share.
    rng = np.random.default_rng(0)
    emotions, topics = design(10, 8, 4)
    x = (rng.normal(size=(10, 8, 1, 40)) + 0.05 * rng.normal(size=(10, 8, 4, 40))).reshape(-1, 40).astype("f4")
    none = neutral_of(np.zeros((0, 40), "f4"))
    by_topic = held_out(x, emotions, topic_folds(topics, 8, generator(0)), none)
    by_text = held_out(x, emotions, np.arange(len(x)) % 4, none)
    assert per_text(by_topic.ranks)[:, 0].mean() < 0.25
    assert per_text(by_text.ranks)[:, 0].mean() > 0.6


def test_nothing_is_learned_from_the_fold_that_is_tested():
    emotions, topics = design(6, 5, 2)
    x = planted(emotions, topics, 4)
    folds = topic_folds(topics, 5, generator(0))
    none = neutral_of(np.zeros((0, 24), "f4"))
    before = held_out(x, emotions, folds, none)
    inside = np.flatnonzero(folds == 2)
    changed, others = x.copy(), emotions.copy()
    changed[inside[1:]] += 1000
    others[inside[1:]] = (others[inside[1:]] + 1) % 6
    after = held_out(changed, others, folds, none)
    np.testing.assert_allclose(after.scores[inside[0]], before.scores[inside[0]], atol=1e-9)
    elsewhere = np.flatnonzero(folds == 1)
    assert np.abs(after.scores[elsewhere] - before.scores[elsewhere]).max() > 0.1


def test_an_emotion_that_only_the_fold_itself_has_is_not_tested():
    emotions, topics = design(4, 3, 2)
    keep = (emotions != 3) | (topics == 1)
    emotions, topics = emotions[keep], topics[keep]
    x = planted(emotions, topics, 8)
    found = held_out(x, emotions, topics, neutral_of(np.zeros((0, 24), "f4")))
    assert (found.tested == (emotions != 3)).all()
    # Where it cannot be learned it is no candidate.
    assert np.isnan(found.scores[topics == 1, 3]).all()
    assert np.isfinite(found.scores[topics != 1]).all()
    assert np.nanmax(found.ranks[topics == 1]) <= 3
    words = words_held_out([f"w{e} t{t}" for e, t in zip(emotions, topics, strict=True)], emotions, topics)
    assert (words.tested == found.tested).all()


def test_what_cannot_be_learned_is_said():
    emotions, topics = design(2, 3)
    x = planted(emotions, topics, 1)
    none = neutral_of(np.zeros((0, 24), "f4"))
    with pytest.raises(UserError, match="no neutral text was read"):
        held_out(x, emotions, topics, none, denoising={"variance": 0.5})
    with pytest.raises(UserError, match="no neutral text was read"):
        held_out(x, emotions, topics, none, reference="neutral")
    with pytest.raises(UserError, match="needs two emotions"):
        held_out(x, np.zeros(6, int), topics, none)
    with pytest.raises(UserError, match="needs two emotions"):
        held_out(x, np.where(topics > 0, -1, emotions), topics, none)


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_vectors_of_nothing_put_all_emotions_in_one_place():
    emotions, topics = design(3, 3)
    found = held_out(np.full((9, 4), 7.0, "f4"), emotions, topics, neutral_of(np.zeros((0, 4), "f4")))
    assert (found.ranks == 2).all()
    assert (found.predicted == -1).all()


def test_layer_files_say_what_arrays_say(tmp_path):
    emotions, topics = design(4, 3, 2)
    x = planted(np.append(emotions, [0, 0, 0]), np.append(topics, [0, 1, 2]), 5)
    words = [*np.array(["a", "b", "c", "d"])[emotions], "", "", ""]
    subjects = [*(f"t{topic}" for topic in topics), "n0", "n1", "n2"]
    (path,) = layers_of(tmp_path, words, subjects, x[None])
    with open_layer(path) as file:
        labels = Labels.read(file, ["d", "b", "a"])
        assert [*labels.emotions] == [{"d": 0, "b": 1, "a": 2}.get(word, -1) for word in words]
        assert [*labels.topics] == subjects
        assert [*labels.scored] == [word in ("a", "b", "d") for word in words]
        neutral = neutral_texts(file, labels)
        assert neutral.count == 3
        np.testing.assert_allclose(neutral.mean, x[-3:].mean(axis=0), rtol=1e-5)
        folds = np.full(len(words), -1)
        folds[labels.scored] = topic_folds(labels.topics[labels.scored], 3, generator(0))
        assert isinstance(rows_of(file), h5py.Dataset)
        stored = held_out(rows_of(file), labels.emotions, folds, neutral, denoising={"components": 1})
    given = held_out(x, labels.emotions, folds, neutral_of(x[-3:]), denoising={"components": 1})
    np.testing.assert_array_equal(stored.scores, given.scores)


# ---------------------------------------------------------------- figures over texts


def test_every_emotion_weighs_the_same():
    emotions = np.array([0, 0, 0, 0, 2, 2, 5])
    values = np.array([1.0, 1, 0, 0, 1, 0, 1])
    expected = pd.Series(values).groupby(emotions).mean().mean()
    assert balanced_means(values[:, None], emotions) == pytest.approx(expected)
    assert balanced(emotions).sum() == pytest.approx(1)
    ranks = np.array([1, 3, np.nan, 6, 2, 1, 1])
    found = summarised(ranks, emotions, np.arange(7), 20, generator(0))
    assert list(found) == list(MEASURES)
    assert found["rank"]["value"] == pytest.approx(np.mean([10 / 3, 1.5, 1]))
    assert found["top1"]["value"] == pytest.approx(np.mean([1 / 3, 0.5, 1]))
    assert found["top5"]["value"] == pytest.approx(np.mean([2 / 3, 1, 1]))


@pytest.mark.parametrize("count", [2, 4, 6, 20])
def test_intervals_over_topics_hold_their_value(count):
    held, plain = [], []
    for seed in range(300):
        rng = np.random.default_rng([5, seed])
        emotions, topics = design(4, count, 5)
        values = rng.normal(size=count)[topics] + rng.normal(size=len(topics))
        draws = balanced_draws(values[:, None], emotions, topics, 1000, rng)[:, 0]
        low, high = topic_interval(draws, count)
        held.append(low <= 0 <= high)
        plain.append(np.quantile(draws, 0.025) <= 0 <= np.quantile(draws, 0.975))
    assert 0.91 <= np.mean(held) <= 0.985
    assert np.mean(plain) < (0.9 if count < 20 else 0.96)


@pytest.mark.parametrize(("count", "signal"), [(6, 0.0), (6, 8.0), (20, 4.0)])
def test_intervals_of_cross_validated_scores_are_a_little_too_narrow_as_stated(count, signal):
    emotions, topics = design(8, count, 2)
    directions = signal * unit(np.random.default_rng(9).normal(size=(8, 24)))
    found = []
    for seed in range(100):
        rng = np.random.default_rng([6, seed])
        x = (
            directions[emotions] + rng.normal(size=(len(topics), 24)) + 3 * rng.normal(size=(count, 24))[topics]
        ).astype("f4")
        ranks = held_out(x, emotions, topics, neutral_of(np.zeros((0, 24), "f4"))).ranks
        entry = summarised(ranks, emotions, topics, 200, rng)["rank"]
        found.append([entry["value"], *entry["ci"]])
    value, low, high = np.array(found).T
    assert 0.78 <= np.mean((low <= value.mean()) & (value.mean() <= high)) <= 0.97


def test_many_topics_need_no_wider_interval_and_one_has_none():
    draws = np.random.default_rng(0).normal(size=20000)
    np.testing.assert_allclose(topic_interval(draws, 10_000), np.quantile(draws, [0.025, 0.975]), atol=0.01)
    assert np.isnan(topic_interval(draws, 1)).all()


def test_shares_of_few_texts_are_not_certain():
    found = summarised(np.ones(6), np.zeros(6, int), np.arange(6), 100, generator(0))
    assert found["top1"] == {"value": 1.0, "ci": [pytest.approx(0.6097, abs=1e-4), 1.0]}  # Wilson's for 6 of 6
    assert found["rank"]["ci"] == [1.0, 1.0]
    assert np.isnan(summarised(np.full(3, np.nan), np.zeros(3, int), np.arange(3), 9, generator(0))["rank"]["value"])


# ---------------------------------------------------------------- bag of words


def test_words_are_named_as_on_corpus_cards():
    rng = np.random.default_rng(0)
    emotions, topics = design(6, 5, 3)
    own, every = [f"x{i}" for i in range(4)], ["all"] * 3
    texts = [
        " ".join(
            [*rng.choice([f"e{e}{word}" for word in own] + every, 4), *rng.choice([f"t{t}y{i}" for i in range(9)], 6)]
        )
        for e, t in zip(emotions, topics, strict=True)
    ]
    folds = topic_folds(topics, 5, generator(0))
    found = words_held_out(texts, emotions, folds)
    occurs = occurrence(words_of(texts), np.arange(len(texts)))
    pairs = [(np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)) for fold in range(5)]
    right = _cross_validated(occurs, emotions, pairs, 6)
    assert 0.5 < right.mean() < 1
    np.testing.assert_array_equal(found.ranks <= 1, right == 1)


def test_words_that_only_the_fold_has_teach_nothing():
    emotions, topics = design(4, 3)
    texts = [f"e{e}t{t} common" for e, t in zip(emotions, topics, strict=True)]
    found = words_held_out(texts, emotions, topics)
    assert (found.ranks == 2.5).all()
    assert (found.predicted == -1).all()
    texts = [f"e{e} t{t}" for e, t in zip(emotions, topics, strict=True)]
    assert (words_held_out(texts, emotions, topics).ranks == 1).all()
    # Learned under the labels that are given, not the true ones.
    shifted = words_held_out(texts, emotions, topics, (emotions + 1) % 4)
    assert (shifted.predicted == (emotions + 1) % 4).all()


def test_weights_of_words_come_from_what_is_learned_from():
    emotions, topics = design(4, 3, 2)
    texts = [f"e{e} t{t} all{n % 3} x{n % 5}" for n, (e, t) in enumerate(zip(emotions, topics, strict=True))]
    before = words_held_out(texts, emotions, topics)
    inside = np.flatnonzero(topics == 1)
    changed = list(texts)
    for row in inside[1:]:
        changed[row] = "e0 all0 x0"
    after = words_held_out(changed, emotions, topics)
    np.testing.assert_allclose(after.scores[inside[0]], before.scores[inside[0]], atol=1e-12)


def test_texts_are_found_by_their_ids(tmp_path):
    pd.DataFrame({"id": ["a", "b", "c"], "text": ["A", "B", "C"]}).to_parquet(tmp_path / "stories.parquet")
    assert texts_of(tmp_path / "stories.parquet", np.array(["c", "a"], dtype=object)) == ["C", "A"]
    with pytest.raises(UserError, match="has no story x"):
        texts_of(tmp_path / "stories.parquet", np.array(["x"], dtype=object))
