"""From the activations of texts to one vector per emotion (Sofroniew et al. 2026, arXiv 2604.07729)."""

from dataclasses import dataclass

import numpy as np

REFERENCES = ("mean_of_means", "rest", "neutral")


@dataclass
class Sums:
    """Per group of texts, sums (groups, width) in float64 and counts (groups,)."""

    totals: np.ndarray
    counts: np.ndarray

    @classmethod
    def zeros(cls, groups: int, width: int) -> "Sums":
        return cls(np.zeros((groups, width)), np.zeros(groups, dtype=np.int64))

    def add(self, parts: list[tuple[int, np.ndarray, int]]) -> None:
        """Take in what `group_sums` found."""
        for group, total, count in parts:
            self.totals[group] += total
            self.counts[group] += count


def group_sums(activations: np.ndarray, labels: np.ndarray) -> list[tuple[int, np.ndarray, int]]:
    """Number, sum (width,) in float64 and count of every group among the rows of `activations` (texts, width).

    `labels` (texts,) are the groups' numbers; rows with a negative one are left out.
    """
    groups = np.unique(labels[labels >= 0])
    chosen = [np.flatnonzero(labels == group) for group in groups]
    return [
        (int(group), activations[_evenly(rows)].sum(axis=0, dtype=np.float64), len(rows))
        for group, rows in zip(groups, chosen, strict=True)
    ]


def _evenly(rows: np.ndarray) -> np.ndarray | slice:
    """Ascending row numbers as a slice, of which no copy is made, where they stand at even distances."""
    steps = np.diff(rows)
    step = int(steps[0]) if len(steps) else 1
    return slice(int(rows[0]), int(rows[-1]) + 1, step) if (steps == step).all() else rows


def contrast(means: np.ndarray, reference: str = "mean_of_means", neutral: np.ndarray | None = None) -> np.ndarray:
    """Emotion vectors (emotions, width): each emotion's mean minus a reference.

    `mean_of_means` subtracts the mean of the emotion means, in which every emotion weighs the same however many texts
    it has; `rest` the mean of the other emotions' means; `neutral` the mean activation of neutral texts (width,).
    """
    if reference == "mean_of_means":
        return means - means.mean(axis=0)
    if reference == "rest":
        with np.errstate(invalid="ignore"):  # a single emotion has no rest
            return means - (means.sum(axis=0) - means) / (len(means) - 1)
    if reference == "neutral" and neutral is not None:
        return means - neutral
    raise ValueError(f"reference {reference!r} is none of {', '.join(REFERENCES)}, or neutral texts are missing")


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows of `vectors` scaled to length 1; a zero row stays zero."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1.0)


def split_half_reliability(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Reliability (emotions,) of vectors made from two halves of the texts.

    The Pearson correlation of the two halves' vectors (emotions, width) over their components, stepped up to the full
    number of texts by Spearman-Brown, 2r / (1 + r); for negative r, where that formula has a pole, by 2r / (1 − r).
    NaN for a vector that does not vary.
    """
    a = first - first.mean(axis=1, keepdims=True)
    b = second - second.mean(axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        r = (a * b).sum(axis=1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    return 2 * r / (1 + np.abs(r))
