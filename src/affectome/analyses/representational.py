"""How alike two sets of vectors of the same emotions are, whatever the axes and however many: linear CKA and RSA.

Both compare not vectors but relations among emotions, so that layers and models of different width can be compared:

- `cka`, linear centred kernel alignment (Kornblith et al. 2019, arXiv 1905.00414), in its debiased form: the cosine of
  the two U-centred Gram matrices, whose products are the unbiased HSIC estimates of Song et al. (2012, JMLR 13,
  1393-1434, eq. 5). The plain form (`plain_cka`) tends to 1 for unrelated vectors as their width outgrows their number;
  the debiased one is 0 on average.
- `rsa`, representational similarity analysis (Kriegeskorte et al. 2008): Spearman correlation of the cosines of all
  pairs of emotions.

A measure is a way from vectors (emotions, width) to a symmetric *relation matrix* (emotions, emotions), and one from
relation matrices to *profiles*, rows of length 1 over the pairs of emotions whose inner products are the similarities.
p values permute the emotions' names (Mantel 1967): pairs that share an emotion are not independent. Intervals are
delete-one jackknife intervals over emotions on the scale of Fisher's z.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata, t

from affectome.analyses.statistics import LEVEL
from affectome.vectors.contrasts import unit

# The U-centred product divides by n (n − 3); fewer than five emotions leave it next to nothing to go by.
MIN_EMOTIONS = 5

# Similarities so near to ±1 that Fisher's z is infinite are taken to be this far from it.
_EDGE = 1e-12


@dataclass(frozen=True)
class Measure:
    """A measure of similarity; see the module."""

    name: str
    relations: Callable[[np.ndarray], np.ndarray]
    profiles: Callable[[np.ndarray], np.ndarray]


def gram(vectors: np.ndarray) -> np.ndarray:
    """Inner products (n, n) of `vectors` (n, width) around their mean."""
    centred = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    return centred @ centred.T


def cosine_ranks(vectors: np.ndarray) -> np.ndarray:
    """Ranks (n, n) of the cosines of all pairs of `vectors` (n, width), ties averaged; 0 on the diagonal."""
    directions = unit(vectors.astype(np.float64))
    first, second = np.triu_indices(len(vectors), k=1)
    ranks = np.zeros((len(vectors), len(vectors)))
    # Vectors are stored as float32: equal geometry must give equal ranks.
    ranks[first, second] = rankdata((directions @ directions.T)[first, second].round(6))
    return ranks + ranks.T


def u_centred_profiles(grams: np.ndarray) -> np.ndarray:
    """Profiles (matrices, pairs) of Gram matrices (matrices, n, n), U-centred."""
    n = grams.shape[1]
    off = grams * (1 - np.eye(n))
    rows = off.sum(axis=2)
    total = rows.sum(axis=1)
    off -= (rows[:, :, None] + rows[:, None, :]) / (n - 2)
    off += total[:, None, None] / ((n - 1) * (n - 2))
    return unit(_upper(off))


def rank_profiles(ranks: np.ndarray) -> np.ndarray:
    """Profiles (matrices, pairs) of rank matrices (matrices, n, n), so that inner products are correlations."""
    pairs = _upper(ranks)
    return unit(pairs - pairs.mean(axis=1, keepdims=True))


MEASURES = (Measure("cka", gram, u_centred_profiles), Measure("rsa", cosine_ranks, rank_profiles))


def plain_cka(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Plain linear CKA (a, b) of Gram matrices (a, n, n) and (b, n, n), and what permuted names give on average.

    The latter is tr K tr L / ((n − 1) |K| |L|): the mean of P L Pᵀ over all permutations P is tr L / (n − 1) times the
    centring matrix.
    """
    n = first.shape[1]
    lengths = [np.linalg.norm(grams, axis=(1, 2)) for grams in (first, second)]
    traces = [np.trace(grams, axis1=1, axis2=2) for grams in (first, second)]
    products = first.reshape(len(first), -1) @ second.reshape(len(second), -1).T
    scale = np.outer(*lengths)
    with np.errstate(invalid="ignore", divide="ignore"):
        return products / scale, np.outer(*traces) / (n - 1) / scale


def null_similarities(
    first: np.ndarray, second: np.ndarray, n: int, permutations: int, rng: np.random.Generator
) -> np.ndarray:
    """Similarities (permutations, a, b) of profiles (a, pairs) and (b, pairs) with the `n` emotions of b permuted.

    All pairs of profiles share each permutation, so the maxima of one permutation are one draw of the maximum.
    """
    upper = np.triu_indices(n, k=1)
    # The place of every pair of emotions, in either order, among the pairs.
    place = np.zeros((n, n), dtype=np.intp)
    place[upper] = np.arange(len(upper[0]))
    place += place.T
    null = np.empty((permutations, len(first), len(second)))
    for index in range(permutations):
        order = rng.permutation(n)
        null[index] = first @ second[:, place[order[upper[0]], order[upper[1]]]].T
    return null


def delete_one(measure: Measure, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Similarities (n, a, b) of relation matrices (a, n, n) and (b, n, n) with each emotion left out in turn."""
    n = first.shape[1]
    found = np.empty((n, len(first), len(second)))
    for left_out in range(n):
        kept = np.delete(np.arange(n), left_out)
        sides = [measure.profiles(matrices[:, kept[:, None], kept]) for matrices in (first, second)]
        found[left_out] = sides[0] @ sides[1].T
    return found


def delete_one_within(measure: Measure, matrices: np.ndarray) -> np.ndarray:
    """The same (n, a, a) among the relation matrices (a, n, n) themselves, at half the cost."""
    n = matrices.shape[1]
    found = np.empty((n, len(matrices), len(matrices)))
    for left_out in range(n):
        kept = np.delete(np.arange(n), left_out)
        profiles = measure.profiles(matrices[:, kept[:, None], kept])
        found[left_out] = profiles @ profiles.T
    return found


def jackknife_error(values: np.ndarray) -> np.ndarray:
    """Standard error of a statistic from its `values` (n, …) with each of n emotions left out."""
    n = len(values)
    return np.sqrt((n - 1) / n * ((values - values.mean(axis=0)) ** 2).sum(axis=0))


def jackknife_interval(observed: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """95 % interval (low, high) of `observed` similarities from those with each emotion left out, (n, …)."""
    z, left_out = (np.arctanh(np.clip(each, _EDGE - 1, 1 - _EDGE)) for each in (observed, values))
    reach = t.ppf((1 + LEVEL) / 2, len(values) - 1) * jackknife_error(left_out)
    return np.tanh(z - reach), np.tanh(z + reach)


def exceedance(observed: np.ndarray, null: np.ndarray) -> np.ndarray:
    """One-sided permutation p of every entry of `observed` from its draws `null` (permutations, …)."""
    # 1e-12: see `p_value` of `affectome.analyses.statistics`.
    return (1 + (null >= observed - 1e-12).sum(axis=0)) / (1 + len(null))


def stacked(measure: Measure, vectors: Sequence[np.ndarray]) -> np.ndarray:
    """The relation matrices (sets, n, n) of sets of vectors, each (n, its width)."""
    return np.stack([measure.relations(each) for each in vectors])


def _upper(matrices: np.ndarray) -> np.ndarray:
    first, second = np.triu_indices(matrices.shape[1], k=1)
    return matrices[:, first, second]
