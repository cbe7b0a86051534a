"""How well the emotion of a text is recognised by vectors that were made without the text and without its topic.

For every fold the vectors are made as those of the run (`contrast`, neutral components taken out, length 1) from the
texts of the other folds. A text's score on an emotion is the projection of its activation on the emotion's unit vector,
standardised by what the texts that were learned from score on it: (projection − mean) / standard deviation. The *rank*
of a text is the place of its true emotion among all emotions, 1 for the highest score; ties share the mean of their
places.

*Label-balanced*: the reference that scores are compared with, mean and standard deviation, weighs every emotion the
same however many texts it has (mean of the emotions' means; the same weights for the variance), and so do the figures
reported: top-1, top-5 and mean rank are means over emotions of the means over their texts. The figures are named as
SteerLLM names them (github.com/DevMaxC/SteerLLM); its code was not at hand, so the definitions are ours. Where every
emotion has as many texts all of this equals the plain means over texts.

Intervals resample topics with the results that they got. They leave out that other texts to learn from would change all
topics' results together, so they cover the true value less often than they say: in simulations of 6 topics 86 to 91 %
of the time, of 20 topics 92 to 94 %, and 86 % for mean ranks of pure noise. Tests against chance permute emotions
(`affectome.analyses.story_holdout`) and do not rest on them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
from scipy import sparse
from scipy.stats import binomtest, norm, t

from affectome.activations.store import parts, read_columns, rows_of
from affectome.analyses.statistics import LEVEL, bootstrap_means
from affectome.errors import UserError
from affectome.vectors.contrasts import contrast, unit
from affectome.vectors.denoising import NeutralTexts, project_out

MEASURES = ("top1", "top5", "rank")

_FEWEST_GROUPS = 6

# float32 rows or an HDF5 dataset of them: whatever has a shape (texts, width) and gives slices.
Rows = np.ndarray | h5py.Dataset


@dataclass(frozen=True)
class Labels:
    """What is known of the rows of a layer: arrays of one length (texts,).

    `emotions` are numbers of the emotions asked for, −1 for a neutral text or one of another emotion.
    """

    ids: np.ndarray
    emotions: np.ndarray
    topics: np.ndarray
    neutral: np.ndarray

    @classmethod
    def read(cls, file: h5py.File, emotions: list[str]) -> "Labels":
        """Of an open layer."""
        ids, words, topics, neutral = read_columns(file, "id", "emotion", "topic", "neutral")
        number = {emotion: index for index, emotion in enumerate(emotions)}
        labels = np.array([number.get(word, -1) for word in words], dtype=np.int64)
        labels[neutral] = -1
        return cls(ids, labels, topics.astype(str), neutral)

    @property
    def scored(self) -> np.ndarray:
        """Which rows (texts,) have an emotion."""
        return self.emotions >= 0


@dataclass(frozen=True)
class Recognition:
    """What came of naming the emotions of held-out texts; arrays are aligned with the rows that were given.

    `ranks` (texts,) is NaN and `predicted` (texts,) −1 where a text was not tested. `predicted` is also −1 where
    several emotions share the highest score. `scores` (texts, emotions) are NaN where nothing was learned.
    """

    ranks: np.ndarray
    predicted: np.ndarray
    folds: np.ndarray
    scores: np.ndarray

    @property
    def tested(self) -> np.ndarray:
        """Which rows (texts,) have a rank."""
        return np.isfinite(self.ranks)


def neutral_texts(file: h5py.File, labels: Labels) -> NeutralTexts:
    """The neutral texts of an open layer."""
    rows = rows_of(file)
    found = NeutralTexts(rows.shape[1])
    for part in parts(*rows.shape):
        if labels.neutral[part].any():
            found.add(rows[part][labels.neutral[part]])
    return found


def neutral_of(rows: np.ndarray) -> NeutralTexts:
    """The same of activations (neutral texts, width) in memory."""
    found = NeutralTexts(rows.shape[1])
    found.add(rows)
    return found


def held_out(
    activations: Rows,
    emotions: np.ndarray,
    folds: np.ndarray,
    neutral: NeutralTexts,
    reference: str = "mean_of_means",
    denoising: dict[str, Any] | None = None,
    learned: np.ndarray | None = None,
) -> Recognition:
    """Recognise each text of a fold by vectors made from the other folds.

    `emotions` (texts,) are numbers from 0, without a gap; −1 takes no part. `folds` (texts,) are numbers from 0; −1 is
    learned from in every fold and never tested. `learned` (texts,) are the emotions that texts are learned as, by
    default their own; −1 is not learned from, though it may be tested. `denoising` is as in `emotion_vectors`.

    A text whose emotion no other fold has is not tested, and an emotion of which a fold learns nothing is no candidate
    there. Two passes over `activations` (texts, width), a few rows at a time. Raises UserError where fewer than two
    emotions can be learned, or neutral texts are needed and missing.
    """
    learned = emotions if learned is None else np.where(emotions >= 0, learned, -1)
    count, n_folds = int(emotions.max(initial=-1)) + 1, int(folds.max(initial=-1)) + 1
    if (denoising is not None or reference == "neutral") and not neutral.count:
        raise UserError(
            "no neutral text was read; add some to the corpus, or turn denoising off and compare with mean_of_means"
        )
    basis = neutral.basis(**denoising) if denoising is not None else np.zeros((0, activations.shape[1]))
    sums, counts = _sums(activations, learned, folds, count, n_folds)
    # Everything but the fold itself; the last group is what every fold learns from.
    training = counts.sum(axis=0) - counts[:n_folds]
    if ((training > 0).sum(axis=1) < 2).any():
        raise UserError(
            "recognition needs two emotions with texts on two topics at least; add texts to the corpus or emotions to "
            "the run"
        )
    total = sums.sum(axis=0)
    centre = np.zeros(activations.shape[1])
    vectors = np.zeros((n_folds, count, activations.shape[1]))
    for fold, present in enumerate(training > 0):
        means = (total - sums[fold])[present] / training[fold, present, None]
        centre += means.mean(axis=0) / n_folds
        raw = contrast(means, reference, neutral.mean if neutral.count else None)
        vectors[fold, present] = unit(project_out(raw, basis))
    return recognition(_standardised(activations, emotions, learned, folds, vectors, centre, training), emotions, folds)


def _blocks(activations: Rows) -> Iterator[tuple[slice, np.ndarray]]:
    for rows in parts(*activations.shape):
        yield rows, activations[rows].astype(np.float64)


def _sums(
    activations: Rows, learned: np.ndarray, folds: np.ndarray, count: int, n_folds: int
) -> tuple[np.ndarray, np.ndarray]:
    """Sums (folds + 1, emotions, width) and counts (folds + 1, emotions) of what is learned; last, fold −1."""
    groups = (n_folds + 1) * count
    group = np.where(folds >= 0, folds, n_folds) * count + learned
    sums = np.zeros((groups, activations.shape[1]))
    for rows, values in _blocks(activations):
        chosen = np.flatnonzero(learned[rows] >= 0)
        where = (group[rows][chosen], chosen)
        sums += sparse.csr_array((np.ones(len(chosen)), where), shape=(groups, len(values))) @ values
    counts = np.bincount(group[learned >= 0], minlength=groups)
    return sums.reshape(n_folds + 1, count, -1), counts.reshape(n_folds + 1, count)


def _standardised(
    activations: Rows,
    emotions: np.ndarray,
    learned: np.ndarray,
    folds: np.ndarray,
    vectors: np.ndarray,
    centre: np.ndarray,
    training: np.ndarray,
) -> np.ndarray:
    """Scores (texts, emotions) of the texts to be tested on the `vectors` (folds, emotions, width) of their fold.

    `centre` (width,) changes no score: without it a column's variance would be a small difference of large numbers.
    """
    n_folds, count, _width = vectors.shape
    scores = np.full((len(emotions), count), np.nan)
    first, second = np.zeros((n_folds, count)), np.zeros((n_folds, count))
    present = training > 0
    # Of a text of each emotion, in each fold: every emotion weighs the same. The last is of texts not learned from.
    weight = np.zeros((n_folds, count + 1))
    np.divide(1.0, training * present.sum(axis=1, keepdims=True), out=weight[:, :count], where=present)
    for rows, values in _blocks(activations):
        values -= centre
        for fold in range(n_folds):
            projected = values @ vectors[fold].T
            inside = folds[rows] == fold
            tested = np.flatnonzero(inside & (emotions[rows] >= 0))
            scores[rows][tested] = projected[tested]
            weights = np.where(inside, 0.0, weight[fold, learned[rows]])
            first[fold] += weights @ projected
            second[fold] += weights @ np.square(projected, out=projected)
    deviation = np.sqrt(np.clip(second - first**2, 0, None))
    tested = np.flatnonzero((emotions >= 0) & (folds >= 0))
    for fold in range(n_folds):
        of_fold = tested[folds[tested] == fold]
        apart = scores[of_fold] - first[fold]
        scale = deviation[fold]
        varies = scale > 1e-12 * np.abs(scale).max(initial=0)
        scores[of_fold] = np.where(present[fold], np.divide(apart, scale, out=0 * apart, where=varies), np.nan)
    return scores


def recognition(scores: np.ndarray, emotions: np.ndarray, folds: np.ndarray) -> Recognition:
    """What `scores` (texts, emotions), NaN where there is none, say of texts with `emotions` and `folds` (texts,)."""
    own = scores[np.arange(len(scores)), np.maximum(emotions, 0)][:, None]
    tested = (emotions >= 0) & np.isfinite(own[:, 0])
    above = (scores > own).sum(axis=1)
    ranks = np.where(tested, 1 + above + ((scores == own).sum(axis=1) - 1) / 2, np.nan)
    filled = np.where(np.isfinite(scores), scores, -np.inf)
    best = filled.argmax(axis=1)
    alone = (filled == filled.max(axis=1, keepdims=True)).sum(axis=1) == 1
    return Recognition(ranks, np.where(tested & alone, best, -1), folds, scores)


def chance(emotions: int) -> dict[str, float]:
    """What guessing among so many emotions gets on each of `MEASURES`."""
    return {"top1": 1 / emotions, "top5": min(5, emotions) / emotions, "rank": (emotions + 1) / 2}


def per_text(ranks: np.ndarray) -> np.ndarray:
    """The `MEASURES` (texts, 3) of single texts from their `ranks` (texts,): in the first, among the first five, rank.

    Where emotions share a place a text is among the first k only if the mean of the places is.
    """
    return np.column_stack([ranks <= 1, ranks <= 5, ranks]).astype(np.float64)


def balanced(emotions: np.ndarray) -> np.ndarray:
    """Weights (texts,), of sum 1, by which every one of `emotions` (texts,) weighs the same."""
    _names, of, counts = np.unique(emotions, return_inverse=True, return_counts=True)
    return 1 / (counts[of] * len(counts))


def balanced_means(values: np.ndarray, emotions: np.ndarray) -> np.ndarray:
    """Label-balanced means (m,) of `values` (texts, m): means over emotions of the means over their texts."""
    weights = balanced(emotions)[:, None]
    # Divided by what the weights sum to in the same order, so that rounding makes no share of 1 more than 1.
    sums = (weights * np.hstack([values, np.ones((len(values), 1))])).sum(axis=0)
    return sums[:-1] / sums[-1]


def balanced_draws(
    values: np.ndarray, emotions: np.ndarray, groups: np.ndarray, count: int, rng: np.random.Generator
) -> np.ndarray:
    """Label-balanced means (count, m) of `values` (texts, m) in `count` resamples of whole `groups` (texts,)."""
    weights = balanced(emotions)[:, None]
    draws = bootstrap_means(np.hstack([weights * values, weights]), groups, count, rng)
    return draws[:, :-1] / draws[:, -1:]


def topic_interval(draws: np.ndarray, groups: int) -> list[float]:
    """The 95 % interval of `draws` (resamples,) of so many `groups`; without numbers for fewer than two.

    The expanded percentile interval of Hesterberg (2015, https://arxiv.org/abs/1411.5279): resamples of n groups vary
    by too little, the more so the fewer there are, so the tails are cut at the normal quantiles of √(n / (n − 1)) t,
    where t is Student's with n − 1 degrees of freedom. Resamples of fewer than six groups end at the lowest and the
    highest of them, which is not far enough: there it is their mean ± √(n / (n − 1)) t standard deviations.
    """
    if groups < 2:
        return [float("nan")] * 2
    reach = np.sqrt(groups / (groups - 1)) * t.isf((1 - LEVEL) / 2, groups - 1)
    if groups < _FEWEST_GROUPS:
        return [float(draws.mean() + side * reach * draws.std()) for side in (-1, 1)]
    tail = norm.sf(reach)
    return [float(value) for value in np.quantile(draws, [tail, 1 - tail])]


def summarised(
    ranks: np.ndarray, emotions: np.ndarray, groups: np.ndarray, bootstrap: int, rng: np.random.Generator
) -> dict[str, dict[str, Any]]:
    """For each of `MEASURES` its label-balanced `value` over tested texts and its `ci` by resampled `groups` (texts,).

    Rows of `ranks` (texts,) that are NaN are left out. The interval of a share is widened where Wilson's over single
    texts is wider: where all texts of all groups are named right, resampling would call that certain.
    """
    tested = np.isfinite(ranks)
    values, emotions, groups = per_text(ranks[tested]), emotions[tested], groups[tested]
    if not len(values):
        return {name: {"value": float("nan"), "ci": [float("nan")] * 2} for name in MEASURES}
    means = balanced_means(values, emotions)
    draws = balanced_draws(values, emotions, groups, bootstrap, rng)
    count = len(np.unique(groups))
    found = {}
    for index, name in enumerate(MEASURES):
        low, high = topic_interval(draws[:, index], count)
        if name == "rank":
            low = float(np.maximum(low, 1.0))
        elif np.isfinite(low):
            wide = binomtest(round(means[index] * len(values)), len(values)).proportion_ci(LEVEL, "wilson")
            low, high = max(0.0, min(low, float(wide.low))), min(1.0, max(high, float(wide.high)))
        found[name] = {"value": float(means[index]), "ci": [low, high]}
    return found
