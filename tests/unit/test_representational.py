"""Similarity of representations: published formulas, other libraries, exact permutations, coverage and uniform p."""

import itertools

import numpy as np
import pytest
import scipy.stats

from affectome.analyses.representational import (
    MEASURES,
    cosine_ranks,
    delete_one,
    delete_one_within,
    exceedance,
    gram,
    jackknife_interval,
    null_similarities,
    plain_cka,
    stacked,
)
from tests.planted import orthonormal

CKA, RSA = MEASURES


def similarity(measure, first: np.ndarray, second: np.ndarray) -> float:
    profiles = [measure.profiles(stacked(measure, [vectors])) for vectors in (first, second)]
    return float((profiles[0] @ profiles[1].T)[0, 0])


def unbiased_hsic(k: np.ndarray, other: np.ndarray) -> float:
    """Song et al. (2012), eq. 5, as it is printed."""
    n = len(k)
    k, other = (each - np.diag(np.diag(each)) for each in (k, other))
    ones = np.ones(n)
    products = np.trace(k @ other) + (ones @ k @ ones) * (ones @ other @ ones) / ((n - 1) * (n - 2))
    return (products - 2 / (n - 2) * (ones @ k @ other @ ones)) / (n * (n - 3))


def test_debiased_cka_is_the_published_estimator():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(11, 7)), rng.normal(size=(11, 30))
    y[:, :7] += 3 * x
    k, other = x @ x.T, y @ y.T
    expected = unbiased_hsic(k, other) / np.sqrt(unbiased_hsic(k, k) * unbiased_hsic(other, other))
    assert similarity(CKA, x, y) == pytest.approx(expected, abs=1e-12)


def test_plain_cka_and_its_chance_level():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(6, 4)), rng.normal(size=(6, 9))
    value, chance = plain_cka(*(stacked(CKA, [each]) for each in (x, y)))
    a, b = x - x.mean(axis=0), y - y.mean(axis=0)
    length = np.linalg.norm(a.T @ b) ** 2 / (np.linalg.norm(a.T @ a) * np.linalg.norm(b.T @ b))
    assert value[0, 0] == pytest.approx(length)
    every = [
        plain_cka(gram(x)[None], gram(y[list(order)])[None])[0][0, 0] for order in itertools.permutations(range(6))
    ]
    assert chance[0, 0] == pytest.approx(np.mean(every))


def test_rsa_is_spearmans_correlation_of_cosines():
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(9, 5)), rng.normal(size=(9, 8))
    upper = np.triu_indices(9, k=1)
    cosines = []
    for each in (x, y):
        scaled = each / np.linalg.norm(each, axis=1, keepdims=True)
        cosines.append((scaled @ scaled.T)[upper])
    assert similarity(RSA, x, y) == pytest.approx(scipy.stats.spearmanr(*cosines).statistic, abs=1e-6)


@pytest.mark.parametrize("measure", MEASURES, ids=lambda measure: measure.name)
def test_axes_and_scale_do_not_matter(measure):
    rng = np.random.default_rng(3)
    x = rng.normal(size=(20, 6))
    turned = 7 * np.hstack([x, np.zeros((20, 4))]) @ orthonormal(rng, 10, 10)
    assert similarity(measure, x, turned) == pytest.approx(1, abs=1e-6)


def test_width_biases_plain_cka_and_not_the_debiased_one():
    rng = np.random.default_rng(4)
    found = []
    for _ in range(60):
        x, y = rng.normal(size=(2, 30, 400))
        found.append((plain_cka(gram(x)[None], gram(y)[None])[0][0, 0], similarity(CKA, x, y)))
    plain, debiased = np.array(found).T
    assert plain.mean() > 0.85
    assert abs(debiased.mean()) < 4 * debiased.std() / np.sqrt(60)


@pytest.mark.parametrize("measure", MEASURES, ids=lambda measure: measure.name)
def test_null_permutes_names(measure):
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(2, 3, 8, 5))
    profiles = [measure.profiles(stacked(measure, each)) for each in (x, y)]
    null = null_similarities(*profiles, 8, 4, np.random.default_rng(9))
    again = np.random.default_rng(9)
    for drawn in null:
        order = again.permutation(8)
        expected = [[similarity(measure, a, b[order]) for b in y] for a in x]
        np.testing.assert_allclose(drawn, expected, atol=1e-9)


@pytest.mark.parametrize("measure", MEASURES, ids=lambda measure: measure.name)
def test_p_is_uniform_where_nothing_relates_two_sets(measure):
    p = []
    for seed in range(300):
        rng = np.random.default_rng([6, seed])
        sides = rng.normal(size=(2, 1, 12, 20)) * np.linspace(2, 0.2, 20)
        profiles = [measure.profiles(stacked(measure, each)) for each in sides]
        null = null_similarities(*profiles, 12, 19, rng)
        p.append(exceedance(profiles[0] @ profiles[1].T, null)[0, 0])
    smooth = np.array(p) - np.random.default_rng(0).uniform(size=300) / 20
    assert scipy.stats.kstest(smooth, "uniform").pvalue > 0.01


def test_leaving_one_out_is_computing_anew_without_it():
    rng = np.random.default_rng(7)
    x = rng.normal(size=(2, 9, 6))
    x[1] += x[0]
    found = delete_one(CKA, stacked(CKA, x[:1]), stacked(CKA, x[1:]))
    within = delete_one_within(CKA, stacked(CKA, x))
    for left_out in range(9):
        expected = similarity(CKA, *np.delete(x, left_out, axis=1))
        assert found[left_out, 0, 0] == pytest.approx(expected, abs=1e-12)
        assert within[left_out, 0, 1] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("measure", MEASURES, ids=lambda measure: measure.name)
def test_interval_covers_the_similarity_of_many_emotions(measure):
    mixing = np.random.default_rng(8).normal(size=(3, 6, 12))

    def draw(n, rng):
        shared, own = rng.normal(size=(n, 6)), rng.normal(size=(2, n, 6))
        return shared @ mixing[0] + 0.7 * own[0] @ mixing[1], shared @ mixing[0] + 0.7 * own[1] @ mixing[2]

    truth = similarity(measure, *draw(1500, np.random.default_rng(0)))
    held = []
    for seed in range(100):
        matrices = [stacked(measure, [each]) for each in draw(40, np.random.default_rng([9, seed]))]
        value = measure.profiles(matrices[0]) @ measure.profiles(matrices[1]).T
        low, high = jackknife_interval(value, delete_one(measure, *matrices))
        held.append(low[0, 0] <= truth <= high[0, 0])
    assert 0.87 <= np.mean(held) <= 1


def test_ties_share_a_rank():
    ranks = cosine_ranks(np.array([[1.0, 0], [0, 1], [1, 1]]))
    np.testing.assert_allclose(ranks, [[0, 1, 2.5], [1, 0, 2.5], [2.5, 2.5, 0]])
