"""Held-out recognition: is the emotion of a story named by vectors made from stories on other topics?

Scores and measures are those of `affectome.analyses.recognition`, over folds of whole topics. Beside every score stands
what a bag of words gets on the same folds (`affectome.analyses.words`), and the paired difference: a corpus that names
its emotions on the surface is recognised by any reader of words. Intervals resample topics.

The null permutes the emotions of the stories within their topic, so that topics, texts and counts stay what they are,
and repeats all of it; its p values say how often emotions that mean nothing are named as well, overall and for each.
To permute what is learned and keep what is asked would not do: each story is learned from in some folds and asked in
another, results that hang together and would look more different from the null than they are.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from affectome.activations.store import open_layer, rows_of
from affectome.analyses.recognition import (
    MEASURES,
    Labels,
    balanced_draws,
    balanced_means,
    chance,
    held_out,
    neutral_texts,
    per_text,
    summarised,
    topic_interval,
)
from affectome.analyses.splits import held_out_groups, topic_folds
from affectome.analyses.statistics import benjamini_hochberg, p_value
from affectome.analyses.words import texts_of, words_held_out
from affectome.files import write_json, write_table
from affectome.randomness import generator
from affectome.vectors.denoising import NeutralTexts

# A permutation repeats the whole procedure: so many of so many texts are what a job can afford.
MOST_PERMUTED = 5_000
MOST_PERMUTATIONS = 200

_CONFUSIONS = 50
_SIGN = {"top1": 1, "top5": 1, "rank": -1}


def story_holdout(
    layer_file: str | Path,
    stories: str | Path,
    emotions: list[str],
    reference: str,
    denoising: dict[str, Any] | None,
    folds: int,
    bootstrap: int,
    permutations: int,
    seed: int,
    table: str | Path,
    output: str | Path,
) -> None:
    """Write held-out recognition of `emotions` at one layer to `output` (JSON) and `table` (Parquet).

    At most `MOST_PERMUTATIONS` permutations are made, of at most `MOST_PERMUTED` texts; `output` says how many.
    `stories` is the table with the texts that the layer was read from. `output` holds `layer`, `held_out` (what the
    folds are made of), `n`, `chance`, for `vectors` and `words` and each of `MEASURES` a `value` and its `ci`, their
    paired `difference` (vectors − words), how often each is right where the other is not (`beside_words`), the `null`,
    `within` (share of texts whose emotion is among the first k) and the most frequent `confusions`.

    `table` has rows of several kinds: `emotion` (value, interval, n, n_groups and, for the vectors' mean rank, p and q
    by Benjamini-Hochberg over emotions), `group` (mean over an emotion's texts of one topic, or fold where single
    stories are held out) and `confusion` (of an emotion's `n` texts the `value` named `taken_for`).

    Raises UserError where nothing can be held out or learned, or a text is missing.
    """
    with open_layer(layer_file) as file:
        labels = Labels.read(file, emotions)
        neutral = neutral_texts(file, labels)
        scored = labels.scored
        groups, kind = held_out_groups(labels.topics[scored])
        fold = np.full(len(scored), -1)
        fold[scored] = topic_folds(groups, folds, generator(seed, "story_holdout", "folds"))
        vectors = held_out(rows_of(file), labels.emotions, fold, neutral, reference, denoising)
        words = words_held_out(texts_of(stories, labels.ids[scored]), labels.emotions[scored], fold[scored])
        layer = int(file.attrs["layer"])
        chosen = _sample(labels, generator(seed, "story_holdout", "sample"))
        found = permuted_means(
            rows_of(file)[chosen], labels.emotions[chosen], labels.topics[chosen], fold[chosen], neutral, reference,
            denoising, min(permutations, MOST_PERMUTATIONS), generator(seed, "story_holdout", "permutations"),
        )  # fmt: skip

    tested = vectors.tested[scored]
    emotion, groups = labels.emotions[scored][tested], groups[tested]
    ranks = {"vectors": vectors.ranks[scored][tested], "words": words.ranks[tested]}
    rng = {name: generator(seed, "story_holdout", name) for name in ("bootstrap", "difference", "beside")}
    # The same generator for both: an interval does not depend on what it is compared with.
    overall = {
        name: summarised(each, emotion, groups, bootstrap, generator(seed, "story_holdout", "bootstrap"))
        for name, each in ranks.items()
    }
    null, by_emotion = _against_null(*found)
    counts = len(np.unique(emotion)), len(np.unique(groups))
    rows = pd.concat(
        [
            _emotion_rows(ranks, emotion, groups, emotions, bootstrap, seed, by_emotion),
            _group_rows(
                ranks["vectors"],
                emotion,
                labels.topics[scored][tested] if kind == "topics" else vectors.folds[scored][tested].astype(str),
                emotions,
            ),
            _confusion_rows(vectors.predicted[scored][tested], emotion, emotions),
        ],
        ignore_index=True,
    )
    write_table(table, rows)
    write_json(
        output,
        {
            "layer": layer,
            "held_out": kind,
            "n": {
                "texts": int(tested.sum()),
                "untested": int((~tested).sum()),
                "emotions": counts[0],
                "groups": counts[1],
                "folds": int(fold.max()) + 1,
                "permuted": len(chosen),
            },
            "bootstrap": bootstrap,
            "permutations": min(permutations, MOST_PERMUTATIONS),
            "chance": chance(len(emotions)),
            **overall,
            "difference": paired_difference(
                ranks["vectors"], ranks["words"], emotion, groups, bootstrap, rng["difference"]
            ),
            "beside_words": _beside(ranks, emotion, groups, bootstrap, rng["beside"]),
            "null": null,
            "within": {name: _within(each, emotion, len(emotions)) for name, each in ranks.items()},
            "confusions": _most_frequent(rows),
        },
    )


def paired_difference(
    first: np.ndarray,
    second: np.ndarray,
    emotions: np.ndarray,
    groups: np.ndarray,
    bootstrap: int,
    rng: np.random.Generator,
) -> dict[str, dict[str, Any]]:
    """For each of `MEASURES`, `first` − `second`, both ranks (texts,) of the same texts: `value` and `ci` by groups."""
    apart = per_text(first) - per_text(second)
    draws = balanced_draws(apart, emotions, groups, bootstrap, rng)
    count, means = len(np.unique(groups)), balanced_means(apart, emotions)
    return {
        name: {"value": float(means[index]), "ci": topic_interval(draws[:, index], count)}
        for index, name in enumerate(MEASURES)
    }


def permuted_means(
    activations: np.ndarray,
    emotions: np.ndarray,
    topics: np.ndarray,
    folds: np.ndarray,
    neutral: NeutralTexts,
    reference: str,
    denoising: dict[str, Any] | None,
    permutations: int,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """What each emotion gets on `MEASURES`: (emotions, 3) as it is, and (permutations, emotions, 3) permuted."""

    def means(labels: np.ndarray) -> np.ndarray:
        return _means(held_out(activations, labels, folds, neutral, reference, denoising).ranks, labels)

    shuffled = [means(within_topics(emotions, topics, rng)) for _ in range(permutations)]
    observed = means(emotions)
    return observed, np.array(shuffled).reshape(permutations, *observed.shape)


def _means(ranks: np.ndarray, emotions: np.ndarray) -> np.ndarray:
    """Means (emotions, 3) over the texts of each emotion that have a rank; NaN of an emotion without."""
    tested = np.isfinite(ranks)
    count = int(emotions.max()) + 1
    n = np.bincount(emotions[tested], minlength=count)
    sums = np.array([np.bincount(emotions[tested], column, count) for column in per_text(ranks[tested]).T])
    return np.divide(sums, n, out=np.full(sums.shape, np.nan), where=n > 0).T


def within_topics(emotions: np.ndarray, topics: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """`emotions` (texts,) dealt anew among the texts of each topic."""
    numbers = np.unique(topics, return_inverse=True)[1]
    shuffled = np.empty_like(emotions)
    shuffled[np.argsort(numbers, kind="stable")] = emotions[np.lexsort((rng.random(len(emotions)), numbers))]
    return shuffled


def _sample(labels: Labels, rng: np.random.Generator) -> np.ndarray:
    """Rows, ascending, of all stories or as many of each emotion as make at most `MOST_PERMUTED`."""
    rows = rng.permutation(np.flatnonzero(labels.scored))
    if len(rows) > MOST_PERMUTED:
        of = pd.Series(labels.emotions[rows])
        rows = rows[of.groupby(of).cumcount().to_numpy() < max(2, MOST_PERMUTED // of.nunique())]
    return np.sort(rows)


def _against_null(observed: np.ndarray, null: np.ndarray) -> tuple[dict[str, dict[str, Any]], np.ndarray]:
    """By measure what permutations give and p; p (emotions,) of each emotion's mean rank, NaN without texts.

    `observed` (emotions, 3) and `null` (permutations, emotions, 3) are what `permuted_means` gives.
    """
    means, shuffled = np.nanmean(observed, axis=0), np.nanmean(null, axis=1)
    overall = {
        name: {
            "observed": float(means[index]),
            "mean": float(shuffled[:, index].mean()),
            "p": p_value(_SIGN[name] * means[index], _SIGN[name] * shuffled[:, index]),
        }
        for index, name in enumerate(MEASURES)
    }
    rank = MEASURES.index("rank")
    p = np.array([p_value(-own, -of) for own, of in zip(observed[:, rank], null[:, :, rank].T, strict=True)])
    return overall, np.where(np.isfinite(observed[:, rank]), p, np.nan)


def _beside(
    ranks: dict[str, np.ndarray], emotions: np.ndarray, groups: np.ndarray, bootstrap: int, rng: np.random.Generator
) -> dict[str, dict[str, Any]]:
    """Label-balanced shares, with intervals, of texts that both, one or neither of vectors and words name right."""
    vectors, words = (ranks[name] <= 1 for name in ("vectors", "words"))
    shares = {
        "both": vectors & words,
        "vectors_only": vectors & ~words,
        "words_only": words & ~vectors,
        "neither": ~vectors & ~words,
    }
    values = np.column_stack(list(shares.values())).astype(np.float64)
    draws = balanced_draws(values, emotions, groups, bootstrap, rng)
    count, means = len(np.unique(groups)), balanced_means(values, emotions)
    return {
        name: {"value": float(means[index]), "ci": np.clip(topic_interval(draws[:, index], count), 0, 1)}
        for index, name in enumerate(shares)
    }


def _within(ranks: np.ndarray, emotions: np.ndarray, count: int) -> list[float]:
    """Label-balanced share of texts whose emotion is among the first k, for k from 1 to `count`."""
    return balanced_means((ranks[:, None] <= np.arange(1, count + 1)).astype(np.float64), emotions).tolist()


def _emotion_rows(
    ranks: dict[str, np.ndarray],
    emotions: np.ndarray,
    groups: np.ndarray,
    names: list[str],
    bootstrap: int,
    seed: int,
    p: np.ndarray,
) -> pd.DataFrame:
    rows = []
    q = benjamini_hochberg(p)
    for number in np.unique(emotions):
        own = emotions == number
        n = {"n": int(own.sum()), "n_groups": len(np.unique(groups[own]))}
        for method, each in ranks.items():
            rng = generator(seed, "story_holdout", "emotion", names[number])
            found = summarised(each[own], emotions[own], groups[own], bootstrap, rng)
            for measure, entry in found.items():
                row = {"kind": "emotion", "method": method, "emotion": names[number], "measure": measure}
                tested = method == "vectors" and measure == "rank"
                low, high = entry["ci"]
                row |= {"value": entry["value"], "low": low, "high": high, **n}
                rows.append(row | ({"p": p[number], "q": q[number]} if tested else {}))
    return pd.DataFrame(rows)


def _group_rows(ranks: np.ndarray, emotions: np.ndarray, groups: np.ndarray, names: list[str]) -> pd.DataFrame:
    values = pd.DataFrame(per_text(ranks), columns=list(MEASURES))
    grouped = values.assign(emotion=np.array(names, dtype=object)[emotions], group=groups).groupby(["emotion", "group"])
    means = grouped.mean().reset_index().melt(["emotion", "group"], list(MEASURES), "measure")
    sizes = grouped.size().rename("n").reset_index()
    return means.merge(sizes).assign(kind="group", method="vectors")


def _confusion_rows(predicted: np.ndarray, emotions: np.ndarray, names: list[str]) -> pd.DataFrame:
    wrong = (predicted >= 0) & (predicted != emotions)
    words = np.array(names, dtype=object)
    pairs = pd.DataFrame({"emotion": words[emotions[wrong]], "taken_for": words[predicted[wrong]]})
    counts = pairs.value_counts(sort=False).rename("value").reset_index()
    sizes = pd.Series(words[emotions]).value_counts()
    counts["n"] = counts["emotion"].map(sizes).astype("int64")
    return counts.assign(kind="confusion", method="vectors", measure="count")


def _most_frequent(rows: pd.DataFrame) -> list[dict[str, Any]]:
    found = rows[rows["kind"] == "confusion"]
    found = found.assign(share=found["value"] / found["n"])
    found = found.sort_values(["value", "share", "emotion", "taken_for"], ascending=[False, False, True, True])
    return [
        {
            "emotion": row.emotion,
            "taken_for": row.taken_for,
            "count": int(row.value),
            "of": int(row.n),
            "share": row.share,
        }
        for row in found.head(_CONFUSIONS).itertuples()
    ]
