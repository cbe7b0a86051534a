"""The area under the ROC curve of held-out scores, with a p value and the share of every text in its uncertainty.

Scores of different folds come from different probes and are not on one scale, so that only texts of the same fold are
compared: AUC is the share of all pairs of a positive and a negative text of one fold in which the positive one scores
higher, ties counting half.
"""

from dataclasses import dataclass

import numpy as np
import scipy.stats


@dataclass(frozen=True)
class Auc:
    """`value` with its one-sided `p` (greater than 1/2), and `deviations` (texts,), which sum to 0.

    A text's deviation is what it adds to `value` beyond what was expected: resampled with the texts, or with groups of
    them, their sum varies as `value` does. All are NaN where there is no pair.
    """

    value: float
    p: float
    positives: int
    negatives: int
    deviations: np.ndarray


def held_out_auc(scores: np.ndarray, positive: np.ndarray, folds: np.ndarray) -> Auc:
    """AUC of `scores` (texts,) for `positive` (texts,) within `folds` (texts,); texts whose score is NaN do not count.

    p is that of the Mann-Whitney test with normal approximation and correction for ties, statistic and variance summed
    over folds, as van Elteren's test does with weights that are the sizes of the folds (van Elteren 1960, Bull. Inst.
    Int. Stat. 37, 351-361). Deviations are the structural components of DeLong, DeLong & Clarke-Pearson (1988),
    Biometrics 44, 837-845, of each fold; what its AUC differs from that of others is with its positives.
    """
    parts = []
    for fold in np.unique(folds):
        rows = np.flatnonzero((folds == fold) & np.isfinite(scores))
        hit = positive[rows]
        if 0 < hit.sum() < len(rows):
            parts.append((rows[hit], rows[~hit]))
    deviations = np.zeros(len(scores))
    pairs = sum(len(hits) * len(others) for hits, others in parts)
    if not pairs:
        return Auc(np.nan, np.nan, 0, 0, np.full(len(scores), np.nan))
    won, variance, placed = 0.0, 0.0, []
    for hits, others in parts:
        m, n = len(hits), len(others)
        together = np.concatenate([scores[hits], scores[others]])
        ranks = scipy.stats.rankdata(together)
        # The share of the other kind below a positive text and above a negative one.
        above = (ranks[:m] - scipy.stats.rankdata(scores[hits])) / n
        below = 1 - (ranks[m:] - scipy.stats.rankdata(scores[others])) / m
        won += above.sum() * n
        ties = np.unique(together, return_counts=True)[1].astype(np.float64)
        variance += m * n / 12 * (m + n + 1 - (ties**3 - ties).sum() / ((m + n) * (m + n - 1)))
        placed.append((above, below))
    value = won / pairs
    for (hits, others), (above, below) in zip(parts, placed, strict=True):
        deviations[hits] = (above - value) * len(others) / pairs
        deviations[others] = (below - above.mean()) * len(hits) / pairs
    # Scores that are all alike order nothing.
    p = float(scipy.stats.norm.sf((won - pairs / 2) / np.sqrt(variance))) if variance > 0 else 1.0
    return Auc(value, p, sum(len(hits) for hits, _ in parts), sum(len(others) for _, others in parts), deviations)
