"""Correlations, intervals and p values agree with SciPy and scikit-learn, and keep their promises under the null.

A p value is uniform where nothing is related; an interval of 95 % holds the true correlation in 92 to 97 % of samples
of 45 words (the percentile bootstrap is known to fall a little short of its level at this size). Both are measured on
simulations with fixed seeds.
"""

from collections.abc import Iterator

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.model_selection import GridSearchCV, LeaveOneOut
from threadpoolctl import threadpool_limits

from affectome.analyses.statistics import (
    PENALTIES,
    bootstrap_correlations,
    correlations,
    interval,
    multiple_correlation,
    p_value,
    paired_correlations,
    permuted,
    ridge_leave_one_out,
)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Matrices of this size gain nothing from threads, and on a busy machine lose minutes waiting for them."""
    with threadpool_limits(1):
        yield


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_correlations_are_pearsons(rng: np.random.Generator) -> None:
    x, y = rng.normal(size=(20, 3)) * 100 + 1e4, rng.normal(size=(20, 2))
    expected = [[scipy.stats.pearsonr(a, b).statistic for b in y.T] for a in x.T]
    np.testing.assert_allclose(correlations(x, y), expected, atol=1e-12)
    np.testing.assert_allclose(paired_correlations(x[:, :2], y), np.diag(expected), atol=1e-12)


# A tenth has no exact float64: the mean of seven of them is not a tenth, and the differences from it are not 0.
@pytest.mark.parametrize("constant", [0.0, 0.1, 1 / 3, 7.0])
@pytest.mark.filterwarnings("error")
def test_what_does_not_vary_correlates_with_nothing(rng: np.random.Generator, constant: float) -> None:
    x, y = rng.normal(size=(7, 2)), np.full((7, 2), constant)
    assert np.isnan(correlations(x, y)).all()
    assert np.isnan(correlations(y, x)).all()
    assert paired_correlations(x, y).tolist() == [0, 0]
    assert np.isnan(bootstrap_correlations(x, y[:, 0], 5, rng)).all()


def test_intervals_leave_resamples_without_variance_out() -> None:
    # Of 4 words two of a kind, 1 resample in 8 does not vary; the others correlate perfectly.
    x = np.array([[0.1], [0.1], [0.3], [0.3]])
    draws = bootstrap_correlations(x, x[:, 0], 4000, np.random.default_rng(0))[:, 0]
    assert np.isnan(draws).mean() == pytest.approx(1 / 8, abs=0.02)
    np.testing.assert_allclose(draws[~np.isnan(draws)], 1)
    np.testing.assert_allclose(interval(draws), [1, 1])


@pytest.mark.parametrize("rho", [0.0, 0.6, 0.9])
def test_the_bootstrap_is_scipys(rho: float) -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=60)
    y = rho * x + np.sqrt(1 - rho**2) * rng.normal(size=60)
    ours = interval(bootstrap_correlations(x[:, None], y, 20_000, rng))
    theirs = scipy.stats.bootstrap(
        (x, y),
        lambda a, b, axis: scipy.stats.pearsonr(a, b, axis=axis).statistic,
        paired=True,
        n_resamples=20_000,
        method="percentile",
        rng=np.random.default_rng(2),
    ).confidence_interval
    np.testing.assert_allclose(ours, theirs, atol=0.01)


def test_each_column_is_resampled_with_the_same_words(rng: np.random.Generator) -> None:
    x = rng.normal(size=(15, 1))
    draws = bootstrap_correlations(np.hstack([x, -2 * x + 5]), rng.normal(size=15), 50, rng)
    assert draws.shape == (50, 2)
    np.testing.assert_allclose(draws[:, 0], -draws[:, 1])


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.85])
def test_intervals_hold_the_true_correlation(rho: float) -> None:
    held = 0
    for seed in range(800):
        rng = np.random.default_rng([int(100 * rho), seed])
        x = rng.normal(size=45)
        y = rho * x + np.sqrt(1 - rho**2) * rng.normal(size=45)
        low, high = interval(bootstrap_correlations(x[:, None], y, 300, rng))
        held += low <= rho <= high
    assert 0.92 <= held / 800 <= 0.97


def test_p_values_by_hand() -> None:
    assert p_value(0.5, np.array([0.1, 0.5, 0.9, 0.2])) == 3 / 5
    assert p_value(1.0, np.zeros(99)) == 1 / 100
    assert p_value(0.5 + 1e-15, np.array([0.5])) == 1


def test_permutations_are_permutations_each_its_own(rng: np.random.Generator) -> None:
    values = np.arange(8.0)
    found = permuted(values, 500, rng)
    assert found.shape == (8, 500)
    np.testing.assert_array_equal(np.sort(found, axis=0), np.repeat(values[:, None], 500, axis=1))
    assert len({tuple(column) for column in found.T}) > 490
    # Every value comes to every place as often.
    np.testing.assert_allclose(found.mean(axis=1), 3.5, atol=0.5)
    np.testing.assert_array_equal(values, np.arange(8.0))


@pytest.mark.parametrize("columns", [1, 2, 4])
def test_multiple_correlation_is_that_of_a_linear_regression(rng: np.random.Generator, columns: int) -> None:
    x, y = rng.normal(size=(12, columns)) + 5, rng.normal(size=(12, 3)) + 2
    r_squared = [LinearRegression().fit(x, column).score(x, column) for column in y.T]
    np.testing.assert_allclose(multiple_correlation(x, y), np.sqrt(r_squared))


def nested(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Leave-one-out predictions the long way: a grid search by leave-one-out within the other words of each."""
    found = np.empty(y.shape)
    for held_out in range(len(y)):
        train = np.delete(np.arange(len(y)), held_out)
        centred = x[train] - x[train].mean(axis=0)
        # The mean eigenvalue of a matrix is its trace by its size.
        grid = {"alpha": PENALTIES * np.trace(centred @ centred.T) / len(train)}
        for column in range(y.shape[1]):
            search = GridSearchCV(Ridge(), grid, scoring="neg_mean_squared_error", cv=LeaveOneOut())
            found[held_out, column] = search.fit(x[train], y[train, column]).predict(x[[held_out]])[0]
    return found


@pytest.mark.parametrize(("words", "width"), [(9, 3), (8, 20), (6, 5)])
def test_ridge_is_an_explicit_nested_search(rng: np.random.Generator, words: int, width: int) -> None:
    x = (rng.normal(size=(words, width)) + 3).astype(np.float32)
    y = np.column_stack([x[:, 0] + 0.3 * rng.normal(size=words), rng.normal(size=words) + 4])
    np.testing.assert_allclose(ridge_leave_one_out(x, y), nested(x.astype(float), y), rtol=1e-6)


def test_ridge_predicts_what_is_there_and_nothing_else(rng: np.random.Generator) -> None:
    x = rng.normal(size=(45, 100)) * np.geomspace(10, 0.1, 100)
    y = np.column_stack([x[:, :2].sum(axis=1), rng.normal(size=45)])
    r = paired_correlations(ridge_leave_one_out(x, y), y)
    assert r[0] > 0.95
    assert r[1] < 0.3


@given(st.integers(0, 2**32 - 1), st.integers(0, 11), st.floats(-1e3, 1e3))
def test_a_words_rating_has_no_part_in_its_own_prediction(seed: int, word: int, rating: float) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(12, 6)), rng.normal(size=(12, 1))
    before = ridge_leave_one_out(x, y)
    y[word] = rating
    after = ridge_leave_one_out(x, y)
    assert after[word] == before[word]
    if abs(rating) > 100:
        assert (np.delete(after, word) != np.delete(before, word)).all()


def test_columns_are_predicted_each_for_itself(rng: np.random.Generator) -> None:
    x, y = rng.normal(size=(10, 15)), rng.normal(size=(10, 3))
    together = ridge_leave_one_out(x, y)
    for column in range(3):
        np.testing.assert_allclose(ridge_leave_one_out(x, y[:, [column]])[:, 0], together[:, column], rtol=1e-9)


def test_ridge_ignores_where_zero_is_and_how_large_a_unit(rng: np.random.Generator) -> None:
    x, y = rng.normal(size=(10, 15)), rng.normal(size=(10, 1))
    expected = ridge_leave_one_out(x, y)
    np.testing.assert_allclose(ridge_leave_one_out(7 * x + 40, y), expected, rtol=1e-6)
    np.testing.assert_allclose(ridge_leave_one_out(x, 3 * y - 1), 3 * expected - 1, rtol=1e-9)
