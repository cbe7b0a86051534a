"""What can be seen of a corpus without understanding it: its words, how varied they are, and what they give away.

Texts are vectors of which words occur in them, weighted by how rare a word is among texts (binary tf-idf: ln(n / df), 0
for a word that every text has, so that no list of stop words in some language is needed).
"""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse
from scipy.stats import binomtest
from sklearn.model_selection import GroupKFold
from sklearn.preprocessing import normalize

from affectome.analyses.statistics import interval

# The accuracy of so many is known to a percentage point; more would tell little.
MOST = 20_000
_FOLDS = 10
_RESAMPLES = 2000
# Resampling fewer topics gives intervals that hold their value too rarely.
_FEWEST_TOPICS = 6
_OPENING = 3
# The texts learned from and those held out, by their rows.
Fold = tuple[np.ndarray, np.ndarray]
_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")


@dataclass(frozen=True)
class Words:
    """The words of texts as numbers: those of text i are `ids[starts[i] : starts[i + 1]]`, in order.

    A word is letters and digits with apostrophes inside, in lower case; word number j is `vocabulary[j]`.
    """

    ids: np.ndarray
    starts: np.ndarray
    vocabulary: list[str]

    def of(self, text: int) -> np.ndarray:
        """The numbers of the words of one text (words,)."""
        return self.ids[self.starts[text] : self.starts[text + 1]]


def words_of(texts: Iterable[str]) -> Words:
    """The words of `texts`."""
    numbers: dict[str, int] = {}
    found = [np.zeros(0, dtype=np.int32)]
    for text in texts:
        words = _WORD.findall(text.lower().replace("’", "'"))
        found.append(np.fromiter((numbers.setdefault(word, len(numbers)) for word in words), np.int32, len(words)))
    starts = np.cumsum([len(ids) for ids in found])
    return Words(np.concatenate(found), starts, list(numbers))


def sample(stories: pd.DataFrame, rng: np.random.Generator, most: int = MOST) -> np.ndarray:
    """Rows of `stories` in random order: all, or of more than `most` as many of every emotion as make at most `most`.

    An emotion that has fewer stories than its part gives all of them, and no other makes up for it.
    """
    rows = rng.permutation(len(stories))
    if len(rows) <= most:
        return rows
    emotions = stories["emotion"].iloc[rows]
    part = max(1, most // emotions.nunique())
    return rows[emotions.groupby(emotions).cumcount().to_numpy() < part]


def distinct(ids: np.ndarray, lengths: np.ndarray, vocabulary: int, n: int) -> float | None:
    """Distinct-n of texts whose words follow one another in `ids` (words,), `lengths` (texts,) of each.

    The number of different n-grams over that of all n-grams, none of which spans two texts; None where there is none.
    The measure of Li et al. 2016 (https://arxiv.org/abs/1510.03055), who divide by the number of words instead. Exact
    for n up to 3 and `vocabulary`, the number of different words, up to 2 million; beyond, n-grams are told apart by
    64 bits.
    """
    count = max(len(ids) - n + 1, 0)
    inside = np.ones(len(ids), dtype=bool)
    ends = np.cumsum(lengths)
    for back in range(1, n):
        at = ends - back
        inside[at[at >= 0]] = False
    keys = np.zeros(count, dtype=np.uint64)
    for offset in range(n):
        keys *= np.uint64(max(vocabulary, 1))
        keys += ids[offset : offset + count].astype(np.uint64)
    keys = keys[inside[:count]]
    if not len(keys):
        return None
    keys.sort()
    return float((1 + np.count_nonzero(keys[1:] != keys[:-1])) / len(keys))


def variety(words: Words, emotions: pd.Series, rows: np.ndarray) -> dict[str, Any]:
    """Distinct-1, -2 and -3 of all texts and, comparably, of every emotion among `rows`.

    `distinct_1` to `distinct_3` of all, `by_emotion`, and the numbers of `words` and different ones (`vocabulary`).
    Distinct-n falls as texts get more, so that of an emotion is taken from the first `words_each` words of its texts in
    the order of `rows`, where `words_each` is what the emotion with the fewest words has. `emotions` (texts,) is that
    of every text.
    """
    vocabulary = len(words.vocabulary)
    by_emotion = {
        emotion: [words.of(row) for row in rows[members]]
        for emotion, members in emotions.iloc[rows].groupby(emotions.iloc[rows].to_numpy()).indices.items()
    }
    each = min(sum(map(len, texts)) for texts in by_emotion.values())
    found = {}
    for emotion, texts in by_emotion.items():
        lengths = np.diff(np.minimum(np.cumsum([0, *map(len, texts)]), each))
        ids = np.concatenate(texts)[:each]
        found[emotion] = {f"distinct_{n}": distinct(ids, lengths, vocabulary, n) for n in (1, 2, 3)}
    whole = {f"distinct_{n}": distinct(words.ids, np.diff(words.starts), vocabulary, n) for n in (1, 2, 3)}
    return {
        "words": len(words.ids),
        "vocabulary": vocabulary,
        **whole,
        "words_each": each,
        "by_emotion": found,
    }


def openings(words: Words, listed: int = 10) -> dict[str, Any]:
    """How many texts begin with the same three words as another, and the `listed` commonest beginnings.

    `texts` of three words or more, `distinct` beginnings, `shared` the share of texts whose beginning another has, and
    `commonest`, a list of `words, texts, share`.
    """
    long = np.flatnonzero(np.diff(words.starts) >= _OPENING)
    firsts = words.ids[words.starts[long, None] + np.arange(_OPENING)]
    counts = Counter(map(tuple, firsts.tolist()))
    commonest = [
        {"words": " ".join(words.vocabulary[i] for i in first), "texts": count, "share": count / len(long)}
        for first, count in counts.most_common(listed)
        if count > 1
    ]
    shared = sum(count for count in counts.values() if count > 1)
    return {
        "texts": len(long),
        "distinct": len(counts),
        "shared": shared / len(long) if len(long) else None,
        "commonest": commonest,
    }


def overlap(words: Words, emotions: pd.Series, rows: np.ndarray, order: list[str], most: int = 40) -> dict[str, Any]:
    """How alike the vocabularies of the emotions in `order` are: the cosine of their centroids, 0 to 1.

    Every emotion's centroid is the mean of the vectors of as many of its texts, the first among `rows`: `texts_each`,
    as many as the emotion with the fewest has, since more texts make centroids more alike. A cosine needs no choice of
    which words count, which the overlap of two sets of words does. `pairs` holds the 50 most alike (`a, b, cosine`),
    `mean` is over all pairs, and `matrix` (emotions, emotions) is None for more than `most` emotions.
    """
    of = emotions.iloc[rows]
    turn = of.groupby(of.to_numpy()).cumcount().to_numpy()
    each = int(of.value_counts().min())
    chosen = rows[turn < each]
    labels = pd.Categorical(emotions.iloc[chosen], categories=order).codes
    vectors = centroids(weighted(occurrence(words, chosen)), labels, len(order))
    cosines = np.clip((vectors @ vectors.T).toarray(), 0, 1)
    first, second = np.triu_indices(len(order), 1)
    values = cosines[first, second]
    ranked = np.argsort(-values, kind="stable")[:50]
    return {
        "measure": "cosine of the centroids of binary tf-idf vectors",
        "texts_each": each,
        "mean": float(values.mean()) if len(values) else None,
        "pairs": [{"a": order[first[i]], "b": order[second[i]], "cosine": float(values[i])} for i in ranked],
        "emotions": order if len(order) <= most else None,
        "matrix": cosines.tolist() if len(order) <= most else None,
    }


def bag_of_words(
    words: Words, stories: pd.DataFrame, rows: np.ndarray, order: list[str], rng: np.random.Generator
) -> dict[str, Any]:
    """How well the emotion of a story can be named from which words occur in it, by cross-validation over `rows`.

    The classifier names the emotion whose centroid has the highest cosine with the story's vector (nearest centroid, or
    Rocchio); weights and centroids come from the other folds alone. It has nothing to tune and learns from a handful of
    stories; what a better one names would be more, so the accuracy is a lower bound.

    Up to 10 folds are made of whole topics (`held_out` is "topics"), so that no topic is on both sides; of stories
    drawn evenly from the emotions where there are no two topics, or topics under which emotions are learned
    ("stories"). A story is `untested` if the other folds have none of its emotion.

    Returns `classifier`, `of` (stories there are), `stories` (tested), `untested`, `held_out`, `folds`, `accuracy`, its
    95 % `interval`, `chance` (1 / emotions), `majority` (the share of the commonest emotion), `named` (the share named
    right by emotion) and `telling` (by emotion, up to three words whose weight in its centroid exceeds the mean of the
    other centroids most, each in two of its stories at least). The interval is Wilson's over stories, widened where
    that of 2000 resamples of the topics (6 or more) is wider. Where nothing can be tested `accuracy` is None and `why`
    says the reason.
    """
    chosen = stories.iloc[rows]
    labels = pd.Categorical(chosen["emotion"], categories=order).codes.astype(int)
    occurs = occurrence(words, rows)
    found: dict[str, Any] = {
        "classifier": "nearest centroid (cosine) of binary tf-idf vectors",
        "of": len(stories),
        "telling": _telling(occurs, labels, order, words.vocabulary),
        "why": None,
    }
    held_out, folds = "topics", _topic_folds(chosen["topic"])
    right = _cross_validated(occurs, labels, folds, len(order))
    if len(np.unique(labels[right >= 0])) < 2:
        held_out, folds = "stories", _story_folds(chosen["emotion"])
        right = _cross_validated(occurs, labels, folds, len(order))
    tested = right >= 0
    found |= {"stories": int(tested.sum()), "untested": int((~tested).sum()), "chance": 1 / len(order)}
    if len(np.unique(labels[tested])) < 2:
        why = "there is one emotion only" if len(order) == 1 else "fewer than two emotions have two stories"
        nothing = dict.fromkeys(("held_out", "folds", "accuracy", "interval", "majority"))
        return found | nothing | {"named": {}, "why": why}
    right, labels, topic = right[tested], labels[tested], chosen["topic"].to_numpy()[tested]
    share = pd.Series(right).groupby(labels).mean()
    return found | {
        "held_out": held_out,
        "folds": len(folds),
        "accuracy": float(right.mean()),
        "interval": _interval(right, topic if held_out == "topics" else None, rng),
        "majority": float(np.bincount(labels).max() / len(labels)),
        "named": {order[label]: float(value) for label, value in share.items()},
    }


def occurrence(words: Words, rows: np.ndarray) -> sparse.csr_array:
    """Which words occur in the texts `rows`: ones in an array (rows, vocabulary)."""
    found = [np.zeros(0, dtype=np.int32), *(np.unique(words.of(row)) for row in rows)]
    columns = np.concatenate(found)
    starts = np.cumsum([len(each) for each in found])
    # Even texts without a single word are vectors.
    shape = (len(rows), max(len(words.vocabulary), 1))
    return sparse.csr_array((np.ones(len(columns)), columns, starts), shape=shape)


def weighted(occurs: sparse.csr_array, learned: np.ndarray | slice = slice(None)) -> sparse.csr_array:
    """Unit vectors of texts: every word that occurs weighs ln(n / df) over the rows `learned`, 0 if in none of them."""
    known = occurs[learned]
    texts_with = np.bincount(known.indices, minlength=occurs.shape[1])
    weights = np.log(known.shape[0] / np.maximum(texts_with, 1)) * (texts_with > 0)
    return normalize(sparse.csr_array(occurs.multiply(weights[None, :])))


def centroids(vectors: sparse.csr_array, labels: np.ndarray, count: int) -> sparse.csr_array:
    """The mean of every label's vectors, labels being 0 to `count` - 1, at unit length (count, vocabulary)."""
    member = sparse.csr_array((np.ones(len(labels)), (labels, np.arange(len(labels)))), shape=(count, len(labels)))
    return normalize(sparse.csr_array(member @ vectors))


def _cross_validated(occurs: sparse.csr_array, labels: np.ndarray, folds: list[Fold], count: int) -> np.ndarray:
    """1 for every text whose label is named, 0 where it is not, -1 where it could not be tested (texts,)."""
    right = np.full(len(labels), -1)
    for learned, held_out in folds:
        vectors = weighted(occurs, learned)
        scores = (vectors[held_out] @ centroids(vectors[learned], labels[learned], count).T).toarray()
        # A text without a word that was learned is named nothing.
        named = (scores.argmax(axis=1) == labels[held_out]) & (scores.max(axis=1) > 0)
        right[held_out] = np.where(np.isin(labels[held_out], labels[learned]), named, -1)
    return right


def _topic_folds(topics: pd.Series) -> list[Fold]:
    count = min(_FOLDS, topics.nunique())
    return list(GroupKFold(count).split(topics, groups=topics)) if count > 1 else []


def _story_folds(emotions: pd.Series) -> list[Fold]:
    fold = emotions.groupby(emotions.to_numpy()).cumcount().to_numpy() % _FOLDS
    count = fold.max() + 1
    if count == 1:
        return []
    return [(np.flatnonzero(fold != number), np.flatnonzero(fold == number)) for number in range(count)]


def _interval(right: np.ndarray, topics: np.ndarray | None, rng: np.random.Generator) -> list[float]:
    wilson = binomtest(int(right.sum()), len(right)).proportion_ci(0.95, "wilson")
    low, high = float(wilson.low), float(wilson.high)
    names, of = np.unique(topics, return_inverse=True) if topics is not None else ([], np.zeros(0, dtype=int))
    if topics is not None and len(names) >= _FEWEST_TOPICS:
        drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=_RESAMPLES)
        resampled = interval((drawn @ np.bincount(of, right)) / (drawn @ np.bincount(of)))
        low, high = min(low, resampled[0]), max(high, resampled[1])
    return [low, high]


def _telling(
    occurs: sparse.csr_array, labels: np.ndarray, order: list[str], vocabulary: list[str]
) -> dict[str, list[str]]:
    if len(order) < 2:
        return {emotion: [] for emotion in order}
    means = centroids(weighted(occurs), labels, len(order))
    total = np.asarray(means.sum(axis=0)).ravel()
    found = {}
    for label, emotion in enumerate(order):
        texts_with = np.asarray(occurs[labels == label].sum(axis=0)).ravel()
        own = means[[label]].toarray().ravel()
        excess = np.where(texts_with >= 2, own - (total - own) / (len(order) - 1), 0)
        best = np.argsort(-excess, kind="stable")[:3]
        found[emotion] = [vocabulary[word] for word in best if excess[word] > 0]
    return found
