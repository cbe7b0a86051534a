"""Planted preferences are found again, by this fit and by others, and nothing is found where nothing was planted."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.special
import scipy.stats
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from affectome.errors import UserError
from affectome.steering.activities import pairs as offered_pairs
from affectome.steering.preferences import (
    CHOICE,
    bradley_terry,
    choices_of,
    effects_against_probes,
    preferences,
    probe_correlations,
)
from affectome.steering.sets import name_of

ACTIVITIES = [(f"do thing {number}", "odd" if number % 2 else "even") for number in range(8)]
NAMES = [name for name, _ in ACTIVITIES]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Matrices of this size gain nothing from threads, and on a busy machine lose minutes waiting for them."""
    with threadpool_limits(1):
        yield


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def planted(theta: np.ndarray, bias: float) -> np.ndarray:
    """Log-odds of the first option, (first, second), that follow the model without scatter."""
    choices = theta[:, None] - theta + bias
    np.fill_diagonal(choices, np.nan)
    return choices


def strengths(rng: np.random.Generator, m: int) -> np.ndarray:
    theta = rng.normal(size=m)
    return theta - theta.mean()


def table(choices: np.ndarray) -> pd.DataFrame:
    """As a preference trial writes it: the choices, and beside them rows that have other scores."""
    rows = [
        {"family": "baseline", "prompt": name_of(NAMES[first]), "sample": second, CHOICE: value}
        for (first, second), value in np.ndenumerate(choices)
        if first != second
    ]
    others = [{"family": "emotion", "prompt": name_of(NAMES[0]), "sample": 0, "score:preference": 1.0}]
    return pd.DataFrame(rows + others)


def notes(values: np.ndarray) -> dict[str, Any]:
    return {"probes": {"20": {"calm": dict(zip(NAMES, values.tolist(), strict=True))}}}


@pytest.mark.parametrize("bias", [0.0, 1.5, -4.0])
def test_planted_strengths_are_found_whatever_the_position_bias(rng: np.random.Generator, bias: float) -> None:
    theta = strengths(rng, 8)
    found = bradley_terry(planted(theta, bias))
    np.testing.assert_allclose(found[0], theta, atol=1e-5)
    assert found[1] == pytest.approx(bias, abs=1e-4)


def test_two_activities_have_a_closed_form() -> None:
    choices = np.array([[np.nan, 2.0], [0.5, np.nan]])
    theta, bias = bradley_terry(choices)
    # Two log-odds and two unknowns: theta[0] − theta[1] + bias = 2 and theta[1] − theta[0] + bias = 0.5.
    np.testing.assert_allclose(theta, [0.375, -0.375], atol=1e-5)
    assert bias == pytest.approx(1.25, abs=1e-5)


def test_counts_of_games_have_a_closed_form() -> None:
    # One of two wins 3 games out of 4 in either place: theta differs by log 3.
    theta, bias = bradley_terry(scipy.special.logit(np.array([[0.5, 0.75], [0.25, 0.5]])) + np.diag([np.nan] * 2))
    assert theta[0] - theta[1] == pytest.approx(np.log(3), abs=1e-5)
    assert bias == pytest.approx(0, abs=1e-6)


def test_weights_count_choices() -> None:
    rng = np.random.default_rng(2)
    choices = planted(strengths(rng, 5), 0.4) + rng.normal(size=(5, 5))
    # Leaving a pair out is giving it no weight, whatever its log-odds.
    weights = np.ones((5, 5))
    weights[1, 3] = weights[3, 1] = 0
    left_out = choices.copy()
    left_out[1, 3] = left_out[3, 1] = np.nan
    np.testing.assert_allclose(bradley_terry(choices, weights)[0], bradley_terry(left_out)[0], atol=1e-9)


def test_hard_choices_agree_with_logistic_regression(rng: np.random.Generator) -> None:
    m = 6
    theta = strengths(rng, m) * 0.7
    won = rng.random((m, m)) < scipy.special.expit(planted(theta, 0.5))
    pairs = [(i, j) for i in range(m) for j in range(m) if i != j]
    design = np.zeros((len(pairs), m))
    for row, (i, j) in enumerate(pairs):
        design[row, i], design[row, j] = 1, -1
    outcome = np.array([won[i, j] for i, j in pairs])
    other = LogisticRegression(C=np.inf, tol=1e-10, max_iter=10_000).fit(design, outcome)
    choices = np.where(won, np.inf, -np.inf)
    np.fill_diagonal(choices, np.nan)
    found = bradley_terry(choices)
    # Not by chance so separated that only the ridge decides.
    assert np.abs(found[0]).max() < 5
    np.testing.assert_allclose(found[0], other.coef_[0] - other.coef_[0].mean(), atol=1e-3)
    assert found[1] == pytest.approx(other.intercept_[0], abs=1e-3)


def test_soft_choices_agree_with_logistic_regression_by_weights(rng: np.random.Generator) -> None:
    m = 6
    choices = planted(strengths(rng, m), -0.8) + rng.normal(size=(m, m))
    pairs = [(i, j) for i in range(m) for j in range(m) if i != j]
    design = np.array([np.eye(m)[i] - np.eye(m)[j] for i, j in pairs])
    chosen = np.array([scipy.special.expit(choices[i, j]) for i, j in pairs])
    outcome = np.repeat([1, 0], len(pairs))
    other = LogisticRegression(C=np.inf, tol=1e-10, max_iter=10_000)
    other.fit(np.vstack([design, design]), outcome, sample_weight=np.concatenate([chosen, 1 - chosen]))
    found = bradley_terry(choices)
    np.testing.assert_allclose(found[0], other.coef_[0] - other.coef_[0].mean(), atol=1e-4)
    assert found[1] == pytest.approx(other.intercept_[0], abs=1e-4)


def test_certain_choices_stay_finite_and_in_order() -> None:
    order = np.arange(5.0)
    choices = np.where(order[:, None] > order, np.inf, -np.inf)
    np.fill_diagonal(choices, np.nan)
    theta, bias = bradley_terry(choices)
    assert np.isfinite(theta).all()
    assert (np.diff(theta) > 1).all()
    assert bias == pytest.approx(0, abs=1e-3)
    always_first = np.full((5, 5), np.inf)
    np.fill_diagonal(always_first, np.nan)
    theta, bias = bradley_terry(always_first)
    np.testing.assert_allclose(theta, 0, atol=1e-6)
    assert 10 < bias < 100


def test_preferences_by_hand(rng: np.random.Generator) -> None:
    theta = strengths(rng, 8)
    elo = 1500 + 400 * theta / np.log(10)
    found = preferences(table(planted(theta, 1.0)), notes(3 * theta + 7), ACTIVITIES, 100, 99, 0)
    assert found["n"] == {"activities": 8, "pairs": 28, "choices": 56}
    for i, (name, category) in enumerate(ACTIVITIES):
        entry = found["activities"][name]
        assert entry["category"] == category
        assert entry["theta"] == pytest.approx(theta[i], abs=1e-4)
        assert entry["elo"] == pytest.approx(elo[i], abs=0.02)
        # Choices that one scale explains leave nothing uncertain.
        np.testing.assert_allclose(entry["elo_ci"], elo[i], atol=0.05)
    assert np.mean([entry["elo"] for entry in found["activities"].values()]) == pytest.approx(1500)
    fit = found["bradley_terry"]
    assert fit["position_bias"]["log_odds"] == pytest.approx(1, abs=1e-4)
    np.testing.assert_allclose(fit["position_bias"]["ci"], 1, atol=1e-3)
    both = [abs(theta[i] - theta[j]) < 1 for i in range(8) for j in range(i)]
    assert fit["order_decides"] == pytest.approx(np.mean(both))
    assert fit["r"] == pytest.approx(1)
    assert found["probes"]["calm"]["r"] == pytest.approx(1)
    assert found["probes"]["calm"]["p"] == pytest.approx(0.01)
    assert found["probes"]["calm"]["n"] == 8


def test_elo_is_the_scale_on_which_400_points_are_odds_of_ten() -> None:
    theta = np.zeros(8)
    theta[:4] = np.log(10) / 2
    theta[4:] = -np.log(10) / 2
    found = preferences(table(planted(theta, 0.0)), {"probes": {}}, ACTIVITIES, 10, 9, 0)["activities"]
    assert found[NAMES[0]]["elo"] - found[NAMES[7]]["elo"] == pytest.approx(400, abs=0.01)


def test_the_order_of_rows_does_not_matter(rng: np.random.Generator) -> None:
    choices = planted(strengths(rng, 8), 0.3) + rng.normal(size=(8, 8))
    rows, probes = table(choices), notes(rng.normal(size=8))
    found = preferences(rows, probes, ACTIVITIES, 50, 99, 0)
    assert preferences(rows.sample(frac=1, random_state=1), probes, ACTIVITIES, 50, 99, 0) == found
    assert preferences(rows, probes, ACTIVITIES, 50, 99, 1) != found


def test_missing_choices_are_left_out(rng: np.random.Generator) -> None:
    theta = strengths(rng, 8)
    choices = planted(theta, 0.3)
    choices[2, 5] = choices[0, 1] = choices[1, 0] = np.nan
    found = preferences(table(choices), notes(theta), ACTIVITIES, 20, 99, 0)
    assert found["n"] == {"activities": 8, "pairs": 27, "choices": 53}
    assert found["activities"][NAMES[5]]["theta"] == pytest.approx(theta[5], abs=1e-4)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda rows: rows.replace({"prompt": {name_of(NAMES[3]): "another"}}), "other activities"),
        (lambda rows: rows.assign(sample=rows["sample"] + 1), "other activities"),
        (lambda rows: pd.concat([rows, rows[:1]]), "twice"),
        (lambda rows: rows[(rows["prompt"] != name_of(NAMES[3])) & (rows["sample"] != 3)], "'do thing 3'"),
        (lambda rows: rows.drop(columns=CHOICE), "no column"),
    ],
)
def test_a_table_of_something_else_is_refused(change: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        choices_of(change(table(planted(np.zeros(8), 0.0))), NAMES)


def test_intervals_hold_the_true_strength_and_bias() -> None:
    # A pair departs from the scale by .7 nats and a choice by .3 more; true is what expected probabilities give.
    rng, m, simulated = np.random.default_rng(5), 8, 60
    nodes, weights = np.polynomial.hermite_e.hermegauss(31)
    held, held_bias = [], []
    for number in range(simulated):
        base = planted(strengths(rng, m), 0.8)
        noisy = base[..., None] + np.hypot(0.7, 0.3) * nodes
        expected = (scipy.special.expit(noisy) * weights).sum(axis=-1) / weights.sum()
        theta, bias = bradley_terry(scipy.special.logit(expected))
        of_pair = np.triu(rng.normal(size=(m, m)) * 0.7, 1)
        choices = base + of_pair - of_pair.T + rng.normal(size=(m, m)) * 0.3
        found = preferences(table(choices), {"probes": {}}, ACTIVITIES, 100, 9, number)
        low, high = np.array([entry["theta_ci"] for entry in found["activities"].values()]).T
        held.append(np.mean((low <= theta) & (theta <= high)))
        low, high = found["bradley_terry"]["position_bias"]["ci"]
        held_bias.append(low <= bias <= high)
    # Four standard errors around the 95 % of 60 simulations, in each of which activities depend on each other.
    assert 0.95 - 4 * np.sqrt(0.05 * 0.95 / simulated) < np.mean(held) < 0.99
    # Wide on purpose.
    assert np.mean(held_bias) > 0.9


def test_probe_p_values_are_uniform_where_nothing_relates() -> None:
    rng = np.random.default_rng(1)
    elo = rng.normal(size=20)
    projections = {str(number): rng.normal(size=20) for number in range(300)}
    found = probe_correlations(projections, elo, 2, 199, 0)
    p = [entry["p"] for entry in found.values()]
    assert scipy.stats.kstest(p, "uniform").pvalue > 0.01
    expected = scipy.stats.pearsonr(projections["7"], elo)
    assert found["7"]["r"] == pytest.approx(expected.statistic)
    assert found["7"]["p"] == pytest.approx(expected.pvalue, abs=0.15)


def test_a_probe_that_follows_preference_has_an_interval_around_its_r() -> None:
    rng = np.random.default_rng(3)
    elo = rng.normal(size=64)
    values = -elo + rng.normal(size=64)
    found = probe_correlations({"hostile": values}, elo, 500, 199, 0)["hostile"]
    fisher = scipy.stats.pearsonr(values, elo).confidence_interval()
    assert found["r"] < -0.5
    assert found["p"] == pytest.approx(1 / 200)
    np.testing.assert_allclose(found["ci"], [fisher.low, fisher.high], atol=0.08)


def test_probes_without_anything_to_correlate() -> None:
    empty = {"r": None, "ci": None, "p": None}
    assert probe_correlations({"calm": np.ones(8)}, np.arange(8.0), 10, 9, 0)["calm"] == {**empty, "n": 8}
    assert probe_correlations({"calm": np.arange(2.0)}, np.arange(2.0), 10, 9, 0)["calm"] == {**empty, "n": 2}


def test_layers_count_alike_whatever_their_units(rng: np.random.Generator) -> None:
    theta, other = strengths(rng, 8), rng.normal(size=8)
    layers = {
        str(layer): {"calm": dict(zip(NAMES, values.tolist(), strict=True))}
        for layer, values in ((10, 100 * theta), (11, other + 5))
    }
    found = preferences(table(planted(theta, 0.0)), {"probes": layers}, ACTIVITIES, 10, 9, 0)["probes"]["calm"]
    expected = np.corrcoef(theta / theta.std() + other / other.std(), theta)[0, 1]
    assert found["r"] == pytest.approx(expected, abs=1e-5)


def test_choices_that_leave_no_pair_to_check_them_have_no_interval(rng: np.random.Generator) -> None:
    theta = strengths(rng, 8)
    choices = planted(theta, 0.5)
    chain = np.abs(np.arange(8)[:, None] - np.arange(8)) != 1
    choices[chain] = np.nan
    found = preferences(table(choices), notes(theta), ACTIVITIES, 10, 9, 0)
    assert found["n"]["pairs"] == 7
    assert found["activities"][NAMES[3]]["theta"] == pytest.approx(theta[3], abs=1e-4)
    assert found["activities"][NAMES[3]]["theta_ci"] is None
    # One pair more, and there is something to check.
    choices[0, 7], choices[7, 0] = theta[0] - theta[7] + 0.5, theta[7] - theta[0] + 0.5
    found = preferences(table(choices), notes(theta), ACTIVITIES, 10, 9, 0)
    np.testing.assert_allclose(found["activities"][NAMES[3]]["theta_ci"], theta[3], atol=1e-3)


def test_two_activities_have_no_interval() -> None:
    rows = table(planted(np.zeros(8), 0.5))
    rows = rows[rows["prompt"].isin([name_of(name) for name in NAMES[:2]]) & (rows["sample"] < 2)]
    found = preferences(rows, notes(np.arange(8.0)), ACTIVITIES[:2], 10, 9, 0)
    assert found["activities"][NAMES[0]]["elo_ci"] is None
    assert found["bradley_terry"]["position_bias"]["ci"] is None


EMOTIONS = {"happy": 0.6, "calm": 0.2, "sad": -0.3, "angry": -0.7}


def effects(of: dict[str, float], strengths: tuple[float, ...] = (-0.1, 0.1, 0.3)) -> pd.DataFrame:
    """Effects in proportion to strength, beside rows that are about something else."""
    rows = [
        {"direction": emotion, "family": "emotion", "strength": s, "outcome": "preference", "effect": 10 * s * value}
        for emotion, value in of.items()
        for s in strengths
    ]
    noise = {"direction": "happy", "family": "emotion", "strength": 0.01, "outcome": "other", "effect": 99.0}
    control = {"direction": "random:0", "family": "random", "strength": 0.01, "outcome": "preference", "effect": 99.0}
    return pd.DataFrame([control, noise, *rows])


def test_effects_follow_probes_where_they_were_made_to() -> None:
    probes = {emotion: {"r": r} for emotion, r in EMOTIONS.items()}
    verdict = {
        "vectors": {
            "happy": {"strength": 0.3, "effect": {"mean": 0.6}},
            "sad": {"strength": 0.1, "effect": {"mean": -0.3}},
            "angry": {"strength": None, "effect": None},
        }
    }
    found = effects_against_probes(verdict, effects(EMOTIONS), probes)
    assert found["points"] == {
        "happy": {"probe": 0.6, "effect": 0.6, "strength": 0.3, "chosen": True},
        "calm": {"probe": 0.2, "effect": pytest.approx(0.2), "strength": 0.1, "chosen": False},
        "sad": {"probe": -0.3, "effect": -0.3, "strength": 0.1, "chosen": True},
        "angry": {"probe": -0.7, "effect": pytest.approx(-0.7), "strength": 0.1, "chosen": False},
    }
    assert found["n"] == 4
    assert found["r"] == pytest.approx(1)


def test_effects_against_probes_is_pearsons_r_with_fishers_interval() -> None:
    of = dict(zip("abcdef", (0.3, -0.2, 0.1, 0.9, -0.5, 0.2), strict=True))
    probes = {emotion: {"r": r} for emotion, r in zip("abcdef", (0.5, 0.1, 0.2, 0.6, -0.6, -0.3), strict=True)}
    found = effects_against_probes({"vectors": {}}, effects(of), probes)
    x, y = [probe["r"] for probe in probes.values()], list(of.values())
    r = np.corrcoef(x, y)[0, 1]
    assert found["r"] == pytest.approx(r)
    half = scipy.stats.norm.ppf(0.975) / np.sqrt(6 - 3)
    np.testing.assert_allclose(found["ci"], np.tanh(np.arctanh(r) + np.array([-half, half])))
    t = r * np.sqrt(4 / (1 - r**2))
    assert found["p"] == pytest.approx(2 * scipy.stats.t.sf(abs(t), 4))


@pytest.mark.parametrize(
    ("probes", "n"),
    [
        ({"happy": {"r": 0.6}, "sad": {"r": -0.3}}, 2),
        ({"happy": {"r": 0.6}, "sad": {"r": -0.3}, "calm": {"r": None}, "unsteered": {"r": 0.5}}, 2),
        ({"happy": {"r": 0.5}, "sad": {"r": 0.5}, "calm": {"r": 0.5}}, 3),
    ],
)
def test_too_few_emotions_have_no_correlation(probes: dict[str, Any], n: int) -> None:
    found = effects_against_probes({"vectors": {}}, effects(EMOTIONS), probes)
    assert (found["r"], found["ci"], found["p"], found["n"]) == (None, None, None, n)


def test_offers_steer_half_of_every_category_evenly() -> None:
    activities = [(f"{category} {number}", category) for category in "abc" for number in range(4)]
    offered = offered_pairs(activities, 24, 0)
    steered = {name for name, _ in offered}
    assert len(steered) == 6
    assert all(sum(name.startswith(category) for name in steered) == 2 for category in "abc")
    assert steered.isdisjoint(other for _, other in offered)
    assert len(set(offered)) == 24
    assert set(pd.Series([name for name, _ in offered]).value_counts()) == {4}
    assert len(offered_pairs(activities, 1000, 0)) == 36
