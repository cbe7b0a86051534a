"""Splits of texts by topic, so that what is learned about a topic can earn nothing on the texts that are held out."""

import heapq

import numpy as np

from affectome.errors import UserError

# Of how many topics one is kept for the test.
_ONE_IN = 5


def held_out_groups(topics: np.ndarray, fewest: int = 2) -> tuple[np.ndarray, str]:
    """What is held out as a whole: numbers (texts,) of groups, and the word for them, `topics` or `stories`.

    Groups are topics. Where there are fewer than `fewest` topics, as in a corpus that names none, every text is a group
    of its own, and what is reported must say so: the topics then stand on both sides.
    """
    names, numbers = np.unique(topics.astype(str), return_inverse=True)
    if len(names) >= fewest:
        return numbers, "topics"
    return np.arange(len(topics)), "stories"


def topic_folds(topics: np.ndarray, folds: int, rng: np.random.Generator) -> np.ndarray:
    """The fold, 0 to k − 1, of each text (texts,), such that a topic is in one fold only; k = min(folds, topics).

    Topics are dealt in random order, each to the fold that has the fewest texts so far, which leaves none empty.
    `topics` (texts,) are names or numbers. Raises UserError for fewer than two topics or folds.
    """
    names, of, sizes = np.unique(topics, return_inverse=True, return_counts=True)
    if min(len(names), folds) < 2:
        raise UserError(
            f"held-out recognition needs two topics and two folds, and there are {len(names)} and {folds}; "
            "add texts on other topics to the corpus, or raise the number of folds"
        )
    fold_of = np.empty(len(names), dtype=np.int64)
    fewest = [(0, fold) for fold in range(min(folds, len(names)))]
    for topic in rng.permutation(len(names)):
        texts, fold = fewest[0]
        fold_of[topic] = fold
        heapq.heapreplace(fewest, (texts + int(sizes[topic]), fold))
    return fold_of[of]


def set_aside(topics: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Which texts (texts,) are kept for the test alone: a fifth of the topics, in random order.

    It is two topics at least, whose difference gives an interval, where three more remain to choose by. Raises
    UserError for fewer than three topics.
    """
    names, of = np.unique(topics, return_inverse=True)
    if len(names) < 3:
        raise UserError(
            f"to choose and to test takes three topics, and there are {len(names)}; add texts on other topics to the "
            "corpus"
        )
    count = max(2 if len(names) >= 5 else 1, round(len(names) / _ONE_IN))
    aside = np.zeros(len(names), dtype=bool)
    aside[rng.permutation(len(names))[:count]] = True
    return aside[of]
