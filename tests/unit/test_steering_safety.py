"""Ranges end where a gate first fails, whatever happens beyond, and every number of a curve is worked out by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from affectome.errors import UserError
from affectome.files import write_json
from affectome.steering.safety import safe_ranges
from tests.planted import strict_json

GATES = {"perplexity_ratio": 1.5, "completion": 0.95, "accuracy_drop": 0.02, "repetition": 0.1}

TEXTS, QUESTIONS, GENERATIONS = 4, 40, 20

# What one condition adds to the NLL of neutral text and of its own (nats), the shares of completions and of questions
# it spoils, the repetition and the share of invalid answers it adds.
Damage = tuple[float, float, float, float, float, float]
HARMLESS: Damage = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


def cost(conditions: dict[tuple[str, str, float], Damage]) -> pd.DataFrame:
    """Scores of a cost trial; the baseline completes all, answers 3 of 4 right and repeats itself a tenth."""
    rows = []
    for key, (nll, text, lost, wrong, repeated, invalid) in {("baseline", "", 0.0): HARMLESS, **conditions}.items():
        for t in range(TEXTS):
            rows.append((*key, f"text {t}", 0, "nll_neutral", 2.0 + t / 10 + nll))
        for q in range(QUESTIONS):
            right = q % 4 < 3 and q >= wrong * QUESTIONS
            rows.append((*key, f"question {q}", 0, "correct", float(right)))
            rows.append((*key, f"question {q}", 0, "valid", float(q >= invalid * QUESTIONS)))
        for g in range(GENERATIONS):
            item = (*key, f"prompt {g // 2}", g % 2)
            rows.append((*item, "nll_text", 1.0 + g / 10 + text))
            rows.append((*item, "complete", float(g >= lost * GENERATIONS)))
            rows.append((*item, "repetition", 0.1 + repeated))
    return pd.DataFrame(rows, columns=["family", "direction", "strength", "prompt", "sample", "outcome", "value"])


def damaged(**by: float) -> Damage:
    names = ("nll", "text", "lost", "wrong", "repeated", "invalid")
    return tuple(by.get(name, 0.0) for name in names)


def ranges(conditions: dict[tuple[str, str, float], Damage], **gates: float) -> dict[str, Any]:
    return safe_ranges(cost(conditions), GATES | gates, 500, 0)


def at(found: dict[str, Any], direction: str, strength: float) -> dict[str, Any]:
    curves = found["vectors"] | found["controls"]
    return next(row for row in curves[direction]["curve"] if row["strength"] == strength)


def test_every_number_of_a_curve_by_hand() -> None:
    found = ranges(
        {("emotion", "afraid", 0.1): damaged(nll=0.3, text=-0.2, lost=0.1, wrong=0.25, repeated=0.05, invalid=0.1)}
    )
    row = at(found, "afraid", 0.1)
    assert row["perplexity_ratio"] == pytest.approx(np.exp(0.3))
    assert row["text_perplexity_ratio"] == pytest.approx(np.exp(-0.2))
    assert row["completion"] == 0.9
    assert row["invalid"] == pytest.approx(0.1)
    assert row["repetition"] == pytest.approx(0.15)
    # Of the first ten questions the baseline answers eight right.
    assert (row["accuracy"], row["accuracy_drop"]) == (pytest.approx(22 / 40), pytest.approx(8 / 40))
    # Eight of 40 with a standard error of .064.
    assert row["accuracy_drop_low"] == pytest.approx(0.2 - 1.68 * 0.064, abs=0.02)
    assert row["gates"] == {"perplexity_ratio": True, "completion": False, "accuracy_drop": False, "repetition": True}
    assert found["gates"] == GATES
    assert found["n"] == {"texts": 4, "questions": 40, "generations": 20}
    assert found["baseline"] == {
        "perplexity": pytest.approx(np.exp(2.15)),
        "text_perplexity": pytest.approx(np.exp(1.95)),
        "completion": 1,
        "accuracy": 0.75,
        "repetition": pytest.approx(0.1),
        "invalid": 0,
    }


def test_every_curve_has_strength_0_in_its_place() -> None:
    found = ranges({("emotion", "calm", strength): HARMLESS for strength in (0.2, -0.1, 0.1)})
    curve = found["vectors"]["calm"]["curve"]
    assert [row["strength"] for row in curve] == [-0.1, 0, 0.1, 0.2]
    none = curve[1]
    assert none["perplexity_ratio"] == none["text_perplexity_ratio"] == none["completion"] == 1
    assert none["accuracy_drop"] == none["accuracy_drop_low"] == none["invalid"] == 0
    assert all(none["gates"].values())
    assert none["regime"] == "surgical"


@pytest.mark.parametrize(
    ("gate", "within", "beyond"),
    [
        ("perplexity_ratio", damaged(nll=np.log(1.49)), damaged(nll=np.log(1.51))),
        ("completion", damaged(lost=0.05), damaged(lost=0.1)),
        ("repetition", damaged(repeated=0.099), damaged(repeated=0.101)),
        ("accuracy_drop", damaged(wrong=0.05), damaged(wrong=0.3)),
    ],
)
def test_each_gate_ends_the_range(gate: str, within: Damage, beyond: Damage) -> None:
    found = ranges(
        {
            ("emotion", "afraid", 0.1): within,
            ("emotion", "afraid", 0.2): beyond,
            # Whole again, but beyond a strength that was not.
            ("emotion", "afraid", 0.3): HARMLESS,
            ("emotion", "afraid", -0.1): beyond,
            ("emotion", "afraid", -0.2): HARMLESS,
        }
    )
    assert (found["vectors"]["afraid"]["low"], found["vectors"]["afraid"]["high"]) == (0, 0.1)
    for strength, held in ((0.1, True), (0.2, False), (0.3, True)):
        assert at(found, "afraid", strength)["gates"] == dict.fromkeys(GATES, True) | {gate: held}


def test_gates_come_from_outside() -> None:
    conditions = {("emotion", "afraid", 0.1): damaged(nll=0.5), ("emotion", "afraid", -0.1): damaged(nll=0.5)}
    assert [ranges(conditions)["vectors"]["afraid"][end] for end in ("low", "high")] == [0, 0]
    wide = ranges(conditions, perplexity_ratio=1.7)["vectors"]["afraid"]
    assert (wide["low"], wide["high"]) == (-0.1, 0.1)


def test_a_drop_within_noise_passes_and_the_same_drop_beyond_noise_does_not() -> None:
    # One question of 40 is 2.5 points, more than the gate, and says nothing.
    found = ranges({("emotion", "a", 0.1): damaged(wrong=0.025), ("emotion", "b", 0.1): damaged(wrong=0.5)})
    assert at(found, "a", 0.1)["accuracy_drop"] > GATES["accuracy_drop"]
    assert at(found, "a", 0.1)["gates"]["accuracy_drop"]
    assert not at(found, "b", 0.1)["gates"]["accuracy_drop"]


def test_completion_is_judged_against_the_baselines() -> None:
    scores = cost({("emotion", "calm", 0.1): HARMLESS})
    # A model that stops by itself once in two generations, steered or not.
    cut = (scores["outcome"] == "complete") & (scores["sample"] == 1)
    scores.loc[cut, "value"] = 0.0
    found = safe_ranges(scores, GATES, 100, 0)
    assert at(found, "calm", 0.1)["completion"] == 0.5
    assert found["vectors"]["calm"]["high"] == 0.1


@pytest.mark.parametrize(
    ("damage", "regime"),
    [
        (HARMLESS, "surgical"),
        (damaged(repeated=0.2), "repetitive"),
        (damaged(repeated=0.2, nll=np.log(2.2)), "repetitive"),
        (damaged(repeated=0.2, nll=np.log(2.3)), "explosive"),
        (damaged(nll=np.log(2.3)), "explosive"),
        (damaged(nll=np.log(2.2)), "degraded"),
        (damaged(lost=0.5), "degraded"),
        (damaged(nll=1e4), "explosive"),
        (damaged(nll=np.nan), "explosive"),
    ],
)
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_regimes(damage: Damage, regime: str) -> None:
    assert at(ranges({("emotion", "afraid", 0.1): damage}), "afraid", 0.1)["regime"] == regime


def test_measures_without_a_score_pass_no_gate() -> None:
    found = ranges(
        {("emotion", "afraid", 0.1): (np.nan,) * 3 + (0.0, np.nan, 0.0), ("emotion", "afraid", -0.1): HARMLESS}
    )
    row = at(found, "afraid", 0.1)
    assert not row["gates"]["perplexity_ratio"]
    assert not row["gates"]["repetition"]
    assert (found["vectors"]["afraid"]["low"], found["vectors"]["afraid"]["high"]) == (-0.1, 0)


def test_controls_have_curves_of_their_own_and_asking_has_none() -> None:
    found = ranges(
        {
            ("emotion", "afraid", 0.1): HARMLESS,
            ("random", "random:0", 0.1): HARMLESS,
            ("random", "random:0", 0.2): damaged(nll=1.0),
            ("asking", "afraid", 0.0): HARMLESS,
        }
    )
    assert list(found["vectors"]) == ["afraid"]
    assert list(found["controls"]) == ["random:0"]
    assert (found["controls"]["random:0"]["low"], found["controls"]["random:0"]["high"]) == (0, 0.1)
    assert [row["strength"] for row in found["vectors"]["afraid"]["curve"]] == [0, 0.1]


def test_ungated_measures_may_be_missing_and_gated_ones_may_not() -> None:
    scores = cost({("emotion", "afraid", 0.1): HARMLESS})
    found = safe_ranges(scores[~scores["outcome"].isin(["valid", "nll_text"])], GATES, 50, 0)
    assert found["vectors"]["afraid"]["high"] == 0.1
    assert np.isnan(at(found, "afraid", 0.1)["invalid"])
    for gate, outcome in (("accuracy_drop", "correct"), ("completion", "complete")):
        with pytest.raises(UserError, match=f"gate '{gate}' needs scores of '{outcome}'"):
            safe_ranges(scores[scores["outcome"] != outcome], GATES, 50, 0)
        empty = scores["value"].where(scores["outcome"] != outcome)
        with pytest.raises(UserError, match=f"needs scores of '{outcome}'"):
            safe_ranges(scores.assign(value=empty), GATES, 50, 0)


def test_the_order_of_scores_changes_nothing_and_all_is_plain_json(tmp_path: Path) -> None:
    scores = cost({("emotion", "afraid", s): damaged(wrong=abs(s), nll=abs(s)) for s in (-0.2, -0.1, 0.1, 0.2)})
    expected = safe_ranges(scores, GATES, 300, 0)
    assert safe_ranges(scores.sample(frac=1, random_state=3), GATES, 300, 0) == expected
    write_json(tmp_path / "safe_ranges.json", expected)
    assert strict_json(tmp_path / "safe_ranges.json") == expected
