"""Correlations with intervals and p values that stay honest for a few dozen words.

Intervals are percentile bootstrap intervals over words; p values compare with permutations of the ratings over words,
(1 + exceedances) / (1 + permutations), so that they are never 0 and are valid at any number of permutations.
"""

import numpy as np

LEVEL = 0.95

# Ridge penalties tried, as multiples of the mean eigenvalue of the training words' Gram matrix.
PENALTIES = np.logspace(-3, 3, 13)


def correlations(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Pearson correlation of each column of `x` (n, a) with each of `y` (n, b) → (a, b); NaN if one does not vary."""
    a, b = _centred(x), _centred(y)
    with np.errstate(invalid="ignore"):
        return a.T @ b / np.outer(np.linalg.norm(a, axis=0), np.linalg.norm(b, axis=0))


def _centred(values: np.ndarray, axis: int = 0) -> np.ndarray:
    """`values` minus their mean: exactly 0 where they are all equal, which rounding would otherwise hide."""
    varies = np.ptp(values, axis=axis, keepdims=True) > 0
    return np.where(varies, values - values.mean(axis=axis, keepdims=True), 0.0)


def permuted(values: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` permutations of `values` (n,) as columns (n, count)."""
    return rng.permuted(np.repeat(values[:, None], count, axis=1), axis=0)


def p_value(observed: float, null: np.ndarray) -> float:
    """Share of null values at least as large as `observed`, the observed one counted in."""
    # 1e-12: a permutation that reproduces the observed order exactly must count as a tie despite rounding.
    return float((1 + np.sum(null >= observed - 1e-12)) / (1 + len(null)))


def bootstrap_correlations(x: np.ndarray, y: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Correlations of each column of `x` (n, a) with `y` (n,) in `count` resamples of the n words → (count, a)."""
    rows = rng.integers(0, len(y), size=(count, len(y)))
    drawn_x, drawn_y = _centred(x[rows], axis=1), _centred(y[rows], axis=1)
    with np.errstate(invalid="ignore"):
        covariance = np.einsum("bna,bn->ba", drawn_x, drawn_y)
        return covariance / (np.linalg.norm(drawn_x, axis=1) * np.linalg.norm(drawn_y, axis=1)[:, None])


def interval(draws: np.ndarray) -> list[float]:
    """The central 95 % of `draws` along the first axis, resamples without variance left out."""
    tail = (1 - LEVEL) / 2
    return [float(value) for value in np.nanquantile(draws, [tail, 1 - tail])]


def multiple_correlation(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Multiple correlation R (b,) of each column of `y` (n, b) with all columns of `x` (n, a), by least squares."""
    basis = np.linalg.qr(_centred(x))[0]
    centred = _centred(y)
    return np.linalg.norm(basis.T @ centred, axis=0) / np.linalg.norm(centred, axis=0)


def ridge_leave_one_out(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Predictions (n, b) of every column of `y` (n, b) for each word from the other words' vectors `x` (n, width).

    Ridge regression with an intercept. The penalty is chosen among `PENALTIES` for each held-out word and column by the
    leave-one-out error within the remaining n − 1 words, so the held-out word takes no part in any choice. Computed in
    the dual from the Gram matrix: one eigendecomposition per held-out word, whatever the width.
    """
    n = len(y)
    predictions = np.empty_like(y, dtype=np.float64)
    gram = x.astype(np.float64) @ x.astype(np.float64).T
    for held_out in range(n):
        train = np.flatnonzero(np.arange(n) != held_out)
        # Centring with the training mean, done on the Gram matrix.
        inner = gram[np.ix_(train, train)]
        rows = inner.mean(axis=0)
        centred = inner - rows - rows[:, None] + rows.mean()
        cross = gram[held_out, train] - rows
        cross = cross - cross.mean()
        values, vectors = np.linalg.eigh(centred)
        values = np.clip(values, 0, None)
        cross = cross @ vectors
        mean = predictions[held_out] = y[train].mean(axis=0)
        rotated = vectors.T @ (y[train] - mean)
        best = np.full(y.shape[1], np.inf)
        for penalty in PENALTIES * values.mean():
            leverage = 1 / len(train) + (vectors**2) @ (values / (values + penalty))
            # What the fit leaves, in the eigenvectors' coordinates, and each word's part of it by its leverage: one
            # product, without arrays of the size of `y` for every step.
            residuals = (vectors * (penalty / (values + penalty)) / (1 - leverage)[:, None]) @ rotated
            error = np.einsum("ij,ij->j", residuals, residuals)
            better = error < best
            best[better] = error[better]
            predictions[held_out, better] = (mean + (cross / (values + penalty)) @ rotated)[better]
    return predictions


def paired_correlations(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Pearson correlation of column i of `x` with column i of `y`, both (n, b) → (b,); 0 where one does not vary."""
    a, b = _centred(x), _centred(y)
    scale = np.linalg.norm(a, axis=0) * np.linalg.norm(b, axis=0)
    return np.divide((a * b).sum(axis=0), scale, out=np.zeros(x.shape[1]), where=scale > 0)


def benjamini_hochberg(p: np.ndarray) -> np.ndarray:
    """False discovery rates (q values) at which tests of p values `p` (any shape) would be called.

    Benjamini & Hochberg (1995), J. R. Stat. Soc. B 57, 289-300.

    NaN marks a test that was not made; it stays NaN and does not count.
    """
    p = np.asarray(p, dtype=np.float64)
    q = np.full(p.shape, np.nan)
    made = np.isfinite(p)
    order = np.argsort(p[made])
    ranked = p[made][order] * made.sum() / np.arange(1, made.sum() + 1)
    # A q value is the least rate at which the test would be called, so it never exceeds that of a larger p.
    values = np.empty(len(order))
    values[order] = np.minimum(1.0, np.minimum.accumulate(ranked[::-1])[::-1])
    q[made] = values
    return q


def bootstrap_means(values: np.ndarray, groups: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Means (count, k) of `values` (n, k) in `count` resamples of whole `groups` (n,).

    A resample draws as many groups as there are, with replacement; every row of a drawn group counts.
    """
    names, inverse = np.unique(groups, return_inverse=True)
    totals = np.zeros((len(names), values.shape[1]))
    np.add.at(totals, inverse, values)
    sizes = np.bincount(inverse, minlength=len(names)).astype(np.float64)
    drawn = rng.integers(0, len(names), size=(count, len(names)))
    return totals[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)[:, None]
