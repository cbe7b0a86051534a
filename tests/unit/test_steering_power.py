"""Power is what simulated trials find, and the numbers needed and the effects seen are two readings of it."""

import numpy as np
import pytest
import scipy.stats

from affectome.steering.power import (
    MOST,
    POWER,
    detectable_mean,
    detectable_rate,
    fewest_units,
    needed_for_mean,
    needed_for_rate,
    power_for_mean,
    power_for_rate,
)
from affectome.steering.statistics import mcnemar, sign_flip

SIMULATED = 4000

# Four standard errors of a share near 0.8.
ERROR = 4 * np.sqrt(0.8 * 0.2 / SIMULATED)


@pytest.mark.parametrize(
    ("n", "base", "rate", "alpha"),
    [(50, 0.22, 0.5, 0.05), (40, 0.6, 0.3, 0.05 / 8), (30, 0.0, 0.2, 0.05), (80, 0.1, 0.25, 0.01)],
)
def test_power_for_rates_is_what_simulated_trials_find(n: int, base: float, rate: float, alpha: float) -> None:
    rng = np.random.default_rng(n)
    before, after = rng.random((SIMULATED, n)) < base, rng.random((SIMULATED, n)) < rate
    gained, lost = (after & ~before).sum(axis=1), (before & ~after).sum(axis=1)
    found = (mcnemar(gained, lost) if rate > base else mcnemar(lost, gained)) <= alpha
    assert power_for_rate(n, base, rate, alpha) == pytest.approx(found.mean(), abs=ERROR)


def test_answers_that_go_together_only_add_power() -> None:
    # One uniform draw decides both answers: no pair ever moves against the change.
    rng = np.random.default_rng(0)
    draw = rng.random((SIMULATED, 50))
    gained = ((draw >= 0.22) & (draw < 0.45)).sum(axis=1)
    assert (mcnemar(gained, np.zeros(SIMULATED, dtype=int)) <= 0.05).mean() > power_for_rate(50, 0.22, 0.45, 0.05) + 0.1


def test_power_for_rates_by_hand() -> None:
    # From 0 to 1 every pair changes: significant at .05 from five pairs on (1/32).
    assert power_for_rate(4, 0.0, 1.0, 0.05) == 0
    assert power_for_rate(5, 0.0, 1.0, 0.05) == pytest.approx(1)
    # From 0 to 1/2 with five pairs all five must change.
    assert power_for_rate(5, 0.0, 0.5, 0.05) == pytest.approx(1 / 32)
    assert power_for_rate(5, 1.0, 0.5, 0.05) == pytest.approx(1 / 32)
    assert power_for_rate(0, 0.2, 0.5, 0.05) == 0
    for n in (5, 17, 60):
        assert power_for_rate(n, 0.3, 0.3, 0.05) <= 0.05


@pytest.mark.parametrize(
    ("base", "rate", "alpha"), [(0.22, 0.42, 0.05), (0.22, 0.72, 0.05 / 8), (0.5, 0.3, 0.05), (0.0, 0.1, 0.05)]
)
def test_the_number_needed_is_the_first_with_the_power_and_more_never_have_less(
    base: float, rate: float, alpha: float
) -> None:
    n = needed_for_rate(base, rate, alpha)
    assert power_for_rate(n - 1, base, rate, alpha) < POWER
    assert all(power_for_rate(more, base, rate, alpha) >= POWER for more in range(n, 2 * n))


def test_the_number_needed_grows_with_what_is_asked() -> None:
    assert (
        needed_for_rate(0.22, 0.42, 0.05)
        < needed_for_rate(0.22, 0.42, 0.05 / 8)
        < needed_for_rate(0.22, 0.32, 0.05 / 8)
    )
    assert needed_for_rate(0.22, 0.42, 0.05, 0.5) < needed_for_rate(0.22, 0.42, 0.05, 0.9)
    assert needed_for_rate(0.5, 0.5001, 0.05) == MOST
    assert needed_for_rate(0.42, 0.22, 0.05) == needed_for_rate(0.58, 0.78, 0.05)


@pytest.mark.parametrize(("base", "rate"), [(0.3, 0.3), (0.3, 1.1), (-0.1, 0.3)])
def test_a_change_must_be_between_two_rates(base: float, rate: float) -> None:
    with pytest.raises(ValueError, match="two different rates"):
        needed_for_rate(base, rate, 0.05)


@pytest.mark.parametrize(("n", "effect", "alpha"), [(12, 0.8, 0.05), (12, 1.3, 0.05 / 8), (24, 0.6, 0.05)])
def test_power_for_means_is_what_simulated_trials_find(n: int, effect: float, alpha: float) -> None:
    values = np.random.default_rng(n).normal(2 * effect, 2, size=(n, SIMULATED))
    found = scipy.stats.ttest_1samp(values, 0, alternative="greater").pvalue < alpha
    assert power_for_mean(n, 2.0, 2 * effect, alpha) == pytest.approx(found.mean(), abs=ERROR)
    # The test that the verdict uses finds about as much.
    if n == 12:
        flipped = sign_flip(values[:, :500], 0, np.random.default_rng(0)) <= alpha
        assert flipped.mean() == pytest.approx(power_for_mean(n, 2.0, 2 * effect, alpha), abs=0.1)


def test_fewer_units_than_sign_flips_need_find_nothing() -> None:
    assert [fewest_units(alpha) for alpha in (0.05, 0.05 / 8, 1 / 16, 0.06)] == [5, 8, 5, 5]
    assert power_for_mean(4, 0.01, 100.0, 0.05) == 0
    assert needed_for_mean(0.01, 100.0, 0.05) == needed_for_mean(0.0, 1.0, 0.05) == 5
    assert detectable_mean(4, 1.0, 0.05) == float("inf")
    assert power_for_mean(5, 0.0, 1.0, 0.05) == 1


def test_means_needed_and_seen_are_two_readings_of_power() -> None:
    # Cohen's table for a paired d of .5 at one-sided .05: 27 pairs.
    assert needed_for_mean(2.0, 1.0, 0.05) == 27
    for n in (8, 12, 24):
        seen = detectable_mean(n, 2.0, 0.05 / 8)
        assert power_for_mean(n, 2.0, seen, 0.05 / 8) == pytest.approx(POWER, abs=1e-6)
        assert needed_for_mean(2.0, 1.001 * seen, 0.05 / 8) == n
    assert detectable_mean(12, 0.0, 0.05) == 0
    for sd, effect in ((1.0, 0.0), (-1.0, 1.0)):
        with pytest.raises(ValueError, match="above 0"):
            needed_for_mean(sd, effect, 0.05)


@pytest.mark.parametrize(("n", "base", "sign"), [(50, 0.22, 1), (50, 0.22, -1), (100, 0.9, 1), (20, 0.0, 1)])
def test_the_rate_seen_is_where_power_is_reached(n: int, base: float, sign: int) -> None:
    seen = detectable_rate(n, base, sign, 0.05)
    if np.isinf(seen):
        assert power_for_rate(n, base, float(sign > 0), 0.05) < POWER
    else:
        assert power_for_rate(n, base, base + sign * seen, 0.05) == pytest.approx(POWER, abs=1e-3)


def test_a_rate_at_its_bound_cannot_be_seen_to_move() -> None:
    assert detectable_rate(50, 1.0, 1, 0.05) == detectable_rate(50, 0.0, -1, 0.05) == float("inf")
    assert detectable_rate(50, 0.95, 1, 0.05) == float("inf")
    assert detectable_rate(0, 0.5, 1, 0.05) == float("inf")
