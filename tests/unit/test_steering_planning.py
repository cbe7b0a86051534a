"""A plan counts what a trial does, takes about as long as it says, and warns where a trial can show nothing."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats

from affectome.config import Config
from affectome.errors import UserError
from affectome.steering import passes, plan_report, planning
from affectome.steering.conditions import conditions
from affectome.steering.plan_report import Power, plan_trials, power_of
from affectome.steering.planning import Work, plan_trial, seconds_of
from affectome.steering.sets import read_set

TRIALS = Path(__file__).parents[2] / "resources" / "trials"

EMOTIONS = ["afraid", "angry", "calm", "desperate", "disgusted", "happy", "proud", "sad"]
STRENGTHS = [0.05, 0.1, 0.2, 0.3]

EXPRESSION = {
    "kind": "expression",
    "set": str(TRIALS / "expression.yaml"),
    "vectors": EMOTIONS,
    "strengths": STRENGTHS,
    "n": 8,
    "generation": {"max_new_tokens": 32},
}
COST = {
    "kind": "cost",
    "set": str(TRIALS / "cost.yaml"),
    "vectors": EMOTIONS,
    "strengths": STRENGTHS,
    "n": 6,
    "texts": 8,
    "questions": 20,
    "controls": {"random": 2},
    "generation": {"max_new_tokens": 48},
}
PREFERENCE = {
    "kind": "preference",
    "set": str(TRIALS / "preference.yaml"),
    "vectors": ["happy", "sad"],
    "strengths": [0.1, -0.3],
    "n": 96,
}
BEHAVIOUR = {
    "kind": "behaviour",
    "set": str(TRIALS / "blackmail.yaml"),
    "vectors": ["desperate", "calm"],
    "strengths": [0.05],
    "n": 100,
    "judge": {"gemini": "gemini-2.5-flash"},
    "generation": {"max_new_tokens": 600},
}
SMOL = {
    "source": {"path": "nowhere"},
    "blocks": 30,
    "width": 576,
}


def config(*trials: dict[str, Any], **model: Any) -> Config:
    """A configuration of one run that performs `trials`, named t0, t1 and so on; no file but their sets is read."""
    names = [f"t{number}" for number in range(len(trials))]
    run = {"title": "A run", "model": "smol", "corpus": "corpus", "reading": "reading", "norms": ["norm"]}
    return Config.model_validate(
        {
            "runs": ["run"],
            "models": {"smol": SMOL | model},
            "corpora": {"corpus": {"stories": {"file": "stories.jsonl"}, "emotions": EMOTIONS}},
            "readings": {"reading": {"pooling": {"from": 50}}},
            "norms": {"norm": {"file": "n.csv", "word": "w", "valence": "v", "arousal": "a", "source": "s"}},
            "trials": dict(zip(names, trials, strict=True)),
            "run_definitions": {"run": run | {"trials": names}},
        }
    )


def plan(trial: dict[str, Any], **model: Any) -> planning.Plan:
    return plan_trial(config(trial, **model), "run", "t0")


def power(trial: dict[str, Any]) -> Power | None:
    return power_of(plan(trial))


def behaviour_set(folder: Path, prompts: list[dict[str, Any]], **keys: Any) -> str:
    """A set of `prompts` scored by their first word."""
    words = {"yes": 1, "no": 0}
    content = {
        "kind": "behaviour",
        "about": "Yes or no.",
        "asking": "You feel {emotion}.",
        "outcome": {"name": "yes", "about": "Share of yes.", "positive": "Yes.", **keys},
        "predictions": {"calm": "up", "sad": "up"},
        "score": {"first_word": {"right": words, "wrong": words}},
        "prompts": [{"text": "Is it so?", **prompt} for prompt in prompts],
    }
    path = folder / "set.yaml"
    path.write_text(json.dumps(content), encoding="utf-8")
    return str(path)


# ---------------------------------------------------------------- counts


def test_counts_are_those_of_two_trials_that_were_run() -> None:
    # 8 vectors × ± 4 strengths + 10 controls × 4 + 8 in words + 1, 24 prompts and 8 texts each.
    found = plan(EXPRESSION)
    assert (found.conditions, found.asking, found.items, found.all_items) == (113, 8, 32, 3616)
    assert found.work.written == 113 * 8 * 32
    # 8 × ± 4 + 2 × 4 + 1; 8 texts, 20 questions twice and 6 texts each.
    found = plan(COST)
    assert (found.conditions, found.asking, found.items, found.all_items) == (73, 0, 54, 3942)
    assert found.work.written == 73 * 6 * 48


def test_counts_of_preference_and_behaviour() -> None:
    # 2 × ± 2 + 10 × 2 + 2 + 1; all ordered pairs of 64 activities without steering.
    found = plan(PREFERENCE)
    assert (found.conditions, found.items, found.once, found.all_items) == (31, 96, 64 * 63, 31 * 96 + 64 * 63)
    assert found.work.written == 0
    assert "32 of 64 activities" in found.prompts
    found = plan(BEHAVIOUR)
    assert (found.conditions, found.items, found.all_items) == (2 * 2 + 10 + 2 + 1, 100, 1700)
    assert found.work.written == 1700 * 600


def test_fewer_choices_rank_activities_where_asked_for() -> None:
    assert plan(PREFERENCE | {"choices": 200}).once == 400


def test_no_more_pairs_are_planned_than_there_are() -> None:
    assert plan(PREFERENCE | {"n": 5000}).items == 32 * 32


@pytest.mark.parametrize("trial", [EXPRESSION, COST, PREFERENCE, BEHAVIOUR])
def test_conditions_are_those_of_a_trial(trial: dict[str, Any]) -> None:
    settings = config(trial).trials["t0"]
    counts = settings.controls.model_dump()
    controls = [f"{family}:{number}" for family in counts for number in range(counts[family])]
    made = conditions(settings.vectors, controls, settings.strengths, asking=trial is not COST)
    assert plan(trial).conditions == len(made)


def test_what_is_written_at_once_is_what_passes_write() -> None:
    assert passes.WRITING == planning.WRITING


def test_layers_are_those_of_the_run() -> None:
    assert plan(EXPRESSION).layers == (20,)
    assert plan(EXPRESSION | {"layers": [7, 9]}).layers == (7, 9)


# ---------------------------------------------------------------- time


@pytest.mark.parametrize(("trial", "measured"), [(EXPRESSION, 107), (COST, 150)])
def test_times_are_within_a_factor_of_two_of_those_measured(trial: dict[str, Any], measured: float) -> None:
    # SmolLM2-135M in bfloat16 on two CPU cores.
    assert measured / 2 < plan(trial).seconds < measured * 2


@pytest.mark.parametrize(
    ("work", "measured"),
    [
        # An H200 read 34,900 tokens/s and wrote 4,700 tokens/s in batches of 256, prompts of 60 and 150 new tokens.
        (Work(read=34_900), 1.0),
        (Work(read=0, texts=256, longest=150, prompt=60), 256 * 150 / 4700),
    ],
)
def test_times_on_a_gpu_are_within_a_factor_of_two_of_those_measured(work: Work, measured: float) -> None:
    model = config(blocks=32, width=4096, gpus=1, token_budget=16384).models["smol"]
    assert measured / 2 < seconds_of(work, model) < measured * 2


def test_time_by_hand() -> None:
    model = config(blocks=2, width=10).models["smol"]
    blocks, head = 12 * 2 * 100, 128_000 * 10
    # 4,096 × 4 tokens hold 163 texts of 100: two batches.
    work = Work(read=1e6, texts=200, longest=40, prompt=60)
    expected = 2 * blocks * 1e6 / 500e9 + 2 * (blocks + head) * 200 * 40 / 300e9 + 2 * 40 * (blocks + head) * 2 / 30e9
    assert seconds_of(work, model) == pytest.approx(expected)
    # Half the bytes and twice the time.
    quantised = config(blocks=2, width=10, quantization="8bit").models["smol"]
    reading_weights = 2 * 40 * (blocks + head) * 2 / 30e9
    assert seconds_of(work, quantised) == pytest.approx(2 * (expected - reading_weights / 2))


def test_a_local_judge_takes_time_and_one_elsewhere_none() -> None:
    away, local = plan(BEHAVIOUR), plan(BEHAVIOUR | {"judge": {"local": True}})
    assert local.work.read > away.work.read + 1700 * 2 * 600
    assert local.seconds > away.seconds
    judged = plan(EXPRESSION | {"judge": {"local": True}})
    assert judged.work.read > plan(EXPRESSION).work.read + 904 * 2 * 32


# ---------------------------------------------------------------- power


def test_power_of_means_is_that_of_a_t_test_on_half_of_the_prompts() -> None:
    found = power(EXPRESSION)
    assert (found.unit, found.prompts, found.n, found.level) == ("prompt", 12, 12, 0.05 / 8)

    def t_test(n: int, effect: float) -> float:
        return scipy.stats.nct.sf(scipy.stats.t.isf(0.05 / 8, n - 1), n - 1, effect / 0.6 * np.sqrt(n))

    assert t_test(found.needed, 0.5) >= 0.8 > t_test(found.needed - 1, 0.5)
    assert t_test(12, found.detectable) == pytest.approx(0.8, abs=1e-3)


def test_power_of_rates_is_that_of_mcnemars_test_on_half_of_the_items() -> None:
    found = power(BEHAVIOUR | {"smallest_effect": 0.3})
    # Three prompts of six are too few to be units, so their items are.
    assert (found.unit, found.prompts, found.level) == ("item", 3, 0.025)
    assert found.n in (49, 50, 51)
    rng = np.random.default_rng(0)

    def mcnemar(n: int) -> float:
        before, after = rng.random((4000, n)) < 0.5, rng.random((4000, n)) < 0.8
        gained, lost = (after & ~before).sum(axis=1), (before & ~after).sum(axis=1)
        return np.mean(scipy.stats.binom.sf(gained - 1, gained + lost, 0.5) <= 0.025)

    assert mcnemar(found.needed) == pytest.approx(0.8, abs=0.04)
    assert 0.2 < found.detectable < 0.4


def test_rates_over_many_prompts_need_no_fewer_items() -> None:
    # 36 prompts, of which an outcome is about 24, three items each: prompts are the units of the test.
    found = power(
        BEHAVIOUR | {"set": str(TRIALS / "sycophancy.yaml"), "vectors": ["loving"], "n": 108, "smallest_effect": 0.3}
    )
    assert (found.unit, found.prompts, found.n) == ("item", 12, 36)
    by_items = plan_report.needed_for_rate(0.5, 0.8, 0.05)
    assert by_items <= found.needed < 1.5 * by_items
    assert found.detectable >= plan_report.detectable_rate(36, 0.5, 1, 0.05)


def test_only_items_that_the_outcome_is_about_are_counted(tmp_path: Path) -> None:
    prompts = [{"id": f"p{number}", "truth": "right" if number < 3 else "wrong"} for number in range(8)]
    trial = BEHAVIOUR | {"vectors": ["calm"], "set": behaviour_set(tmp_path, prompts, among="right"), "n": 40}
    # Three of eight prompts, five samples each; the odd prompt is reported.
    assert (power(trial).prompts, power(trial).n) == (2, 10)
    # Dealt in turn, the first two of eight prompts only.
    first = behaviour_set(tmp_path, prompts[::-1], among="right")
    with pytest.raises(UserError, match="raise n"):
        plan(trial | {"set": first, "n": 2})


def test_a_single_prompt_splits_its_samples(tmp_path: Path) -> None:
    only = behaviour_set(tmp_path, [{"id": "only", "truth": "right"}])
    found = power(BEHAVIOUR | {"vectors": ["calm"], "set": only, "n": 41})
    assert (found.prompts, found.n) == (1, 21)


def test_large_effects_start_from_a_rate_that_leaves_room(tmp_path: Path) -> None:
    only = behaviour_set(tmp_path, [{"id": "only", "truth": "right"}])
    found = power(BEHAVIOUR | {"vectors": ["calm"], "set": only, "smallest_effect": 0.9})
    assert found.assumed == "a base rate of 0.1"
    assert found.needed < 20


def test_few_items_show_nothing(tmp_path: Path) -> None:
    only = behaviour_set(tmp_path, [{"id": "only", "truth": "right"}])
    found = power(BEHAVIOUR | {"vectors": ["calm"], "set": only, "n": 6})
    assert found.n == 3
    assert found.detectable == float("inf")


def test_costs_have_no_verdict() -> None:
    assert power(COST) is None


# ---------------------------------------------------------------- text


def warned(trial: dict[str, Any]) -> str:
    lines = [line.strip() for line in plan_trials(config(trial)).splitlines()]
    return "\n".join(line for line in lines if line.startswith("WARNING"))


def test_a_warning_says_what_to_change() -> None:
    assert "12 prompts are reported on and 20 are needed; add prompts to the set" in warned(EXPRESSION)
    assert warned(EXPRESSION | {"smallest_effect": 1.0}) == ""
    assert "add activities to the set" in warned(PREFERENCE)
    assert warned(PREFERENCE | {"smallest_effect": 1.0}) == ""
    trial = BEHAVIOUR | {"smallest_effect": 0.2}
    (more,) = [int(word.replace(",", "")) for word in warned(trial).split()[-1:]]
    assert 150 < more < 250
    # Done as it says, nothing is left to warn of; halves differ by an item or two.
    assert warned(trial | {"n": more + 4}) == ""
    assert "state a larger smallest_effect" in warned(BEHAVIOUR | {"smallest_effect": 0.001})
    assert warned(COST) == ""


def test_the_text_has_every_number_of_every_trial() -> None:
    text = plan_trials(config(EXPRESSION, COST))
    for part in (
        "run run: smol, 30 blocks of width 576, 2 CPU cores",
        "t0 (expression,",
        "8: afraid, angry, calm, desperate, disgusted, happy, proud, sad",
        "±0.05 ±0.1 ±0.2 ±0.3 at layer 20",
        "18: the vectors, and at + strengths 5 random, 3 shuffled, 2 topic",
        "113: the baseline, 104 steered, 8 asked for in words",
        "24 for the next word, 8 of 12 to write on from",
        "3,616: 32 per condition",
        "28,928 written at most",
        "0.5 nats is of interest; level 0.0063, an SD of 0.6 between prompts",
        "20 prompts in the half that is reported",
        "t1 (cost,",
        "8 neutral texts, 20 questions asked twice, 6 of 12 to write on from",
        "In all 7,558 items, 49,952 tokens written at most",
        "base rates of 0.5",
    ):
        assert part in text, part
    assert max(map(len, text.splitlines())) <= 120
    assert "3,616" not in plan_trials(config(COST))


def test_a_run_without_trials_says_so() -> None:
    assert "steers nothing" in plan_trials(config())


def test_the_shipped_sets_can_all_be_planned() -> None:
    for path in sorted(TRIALS.glob("*.yaml")):
        content = read_set(path)
        trial = {"expression": EXPRESSION, "preference": PREFERENCE, "behaviour": BEHAVIOUR, "cost": COST}[content.kind]
        vectors = list(getattr(content, "predictions", {})) or EMOTIONS
        assert plan(trial | {"set": str(path), "vectors": vectors}).seconds > 0


def test_planning_loads_no_model_library() -> None:
    code = "import sys, affectome.steering.planning; print('torch' in sys.modules or 'transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
