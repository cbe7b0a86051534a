"""What steering trials will take and what they can show, before anything runs: `snakemake plan_trials`.

Counts (conditions, items, pairs of activities, the half that is reported) are exact, made by the code that makes them
in a trial. Tokens are estimates: `CHARACTERS` each, `CHAT` more for a chat's template, every text as long as allowed.

Time is that of `affectome.scheduling.speed`. Expect a factor of two.

Power (`affectome.steering.power`) is that of the test against no effect at the level divided by the number of vectors,
on the half of the prompts that is reported. What is unknown beforehand is assumed: the SD of effects in `SDS`, and a
base rate of one half, where a change is hardest to see. `supported` asks for more than that test: an estimate of at
least the smallest effect, which a true effect of just this size gives half the time, and to be beyond all controls.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from affectome.config import BehaviourTrial, Config, CostTrial, ExpressionTrial, Model, PreferenceTrial
from affectome.errors import UserError
from affectome.scheduling import speed
from affectome.scheduling.speed import CHARACTERS, CPU, GPU, VOCABULARY, Device, device_of
from affectome.steering.activities import couples, pairs
from affectome.steering.conditions import BASELINE, conditions, signed
from affectome.steering.power import (
    MOST,
    detectable_mean,
    detectable_rate,
    needed_for_mean,
    needed_for_rate,
)
from affectome.steering.sets import (
    Behaviour,
    Cost,
    Expression,
    Judge,
    Preference,
    Prompt,
    Template,
    TrialSet,
    name_of,
    read_activities,
    read_questions,
    read_set,
    read_texts,
)
from affectome.steering.statistics import MIN_UNITS, Items
from affectome.steering.verdict import halves

# SD of the effect (nats) over prompts, by SmolLM2-135M. Expression: as at strength 0.1; it was 0.3 at 0.05 and 0.9 at
# 0.2. Preference: twice that of activities with three pairs each, 0.05 to 0.07 where steering changed nothing: those
# that respond will not all respond alike.
SDS = {"expression": 0.6, "preference": 0.15}
BASE_RATE = 0.5

CHAT = 25

# As many times the token budget are written at once as `affectome.steering.passes.WRITING` says.
WRITING = 4

# Stories per emotion that the classifier of an expression trial reads at most.
STORIES = 50

# Tokens around a reply that a judge reads.
RUBRIC = 200


@dataclass(frozen=True)
class Work:
    """What a trial makes a model do; `texts` are written, of at most `longest` tokens after `prompt` tokens."""

    read: float
    texts: int = 0
    longest: int = 0
    prompt: float = 0.0

    @property
    def written(self) -> int:
        return self.texts * self.longest


@dataclass(frozen=True)
class Power:
    """What the reported half of a trial can show: `n` `unit`s, where `needed` see the `smallest` effect.

    `detectable` is the smallest effect that the planned `n` show; `prompts` are in the reported half. `set_limits` says
    that more items per condition would not add any units.
    """

    smallest: float
    level: float
    assumed: str
    unit: str
    prompts: int
    n: int
    needed: int
    detectable: float
    set_limits: bool


@dataclass(frozen=True)
class Plan:
    """A trial as a run will perform it; `prompts` says what is asked, `items` is per condition, `once` besides."""

    name: str
    trial: Any
    layers: tuple[int, ...]
    conditions: int
    asking: int
    prompts: str
    items: int
    once: int
    work: Work
    seconds: float
    power: Power | None

    @property
    def all_items(self) -> int:
        return self.conditions * self.items + self.once


def plan_trials(config: Config) -> str:
    """A block of text for every selected run and trial: what is asked, what it takes, and what it can show."""
    parts = []
    for run in config.runs:
        plans = [plan_trial(config, run, trial) for trial in config.run_definitions[run].trials]
        model = config.models[config.run_definitions[run].model]
        name = config.run_definitions[run].model
        parts.append(f"run {run}: {name}, {model.blocks} blocks of width {model.width}, {device_of(model).name}")
        parts += [_block(plan) for plan in plans] or ["  No trials: this run steers nothing."]
        if plans:
            written, seconds = sum(plan.work.written for plan in plans), sum(plan.seconds for plan in plans)
            items = sum(plan.all_items for plan in plans)
            parts.append(f"  In all {items:,} items, {written:,} tokens written at most, about {_time(seconds)}.")
    return "\n\n".join([*parts, ASSUMPTIONS]) + "\n"


def _device_line(device: Device) -> str:
    step = f"{device.memory / 1e9:,.0f} GB/s of weights" + (
        f" and {device.per_block * 1e3:g} ms per block" if device.per_block else ""
    )
    return f"{device.name}: {device.reading / 1e12:g} TFLOP/s reading, {device.writing / 1e12:g} writing, {step} a step"


ASSUMPTIONS = "\n".join(
    [
        "Assumed; tokens and times may be off by a factor of two:",
        f"    tokens      {CHARACTERS} characters each, {CHAT} more per chat; texts as long as they may be",
        f"    model       12 × blocks × width² parameters and an output head of {VOCABULARY:,} × width",
        f"    time        {_device_line(CPU)}",
        f"                {_device_line(GPU)}",
        "                quantised models take twice as long; loading, sandboxes and judges elsewhere are not counted",
        f"    power       80 %, one-sided, at alpha / vectors; base rates of {BASE_RATE:g}, the worst; SDs as named",
        "                supported also asks for an estimate of at least the smallest effect, and beyond all controls",
    ]
)


def plan_trial(config: Config, run: str, name: str) -> Plan:
    """The plan of the trial `name` in `run`. Raises UserError where its set cannot be read."""
    trial, model = config.trials[name], config.models[config.run_definitions[run].model]
    content = read_set(trial.set_)
    layers = config.trial_layers(run, name)
    if trial.layers == "auto":
        # Of those that a sweep may choose, one is steered.
        layers = layers[:1]
    counts = trial.controls.model_dump()
    controls = [f"{family}:{number}" for family, count in counts.items() for number in range(count)]
    compared = conditions(trial.vectors, controls, trial.strengths, asking=not isinstance(content, Cost))
    prompts, items, once, work = _work(content, trial, len(compared), len(layers))
    power = None if isinstance(trial, CostTrial) else power_of(content, trial)
    return Plan(
        name=name,
        trial=trial,
        layers=layers,
        conditions=len(compared),
        asking=sum(condition.family == "asking" for condition in compared),
        prompts=prompts,
        items=items,
        once=once,
        work=work,
        seconds=seconds_of(work, model),
        power=power,
    )


# ---------------------------------------------------------------- work


def _work(content: TrialSet, trial: Any, n_conditions: int, n_layers: int) -> tuple[str, int, int, Work]:
    """What is asked in words, items per condition, items besides, and what all that makes the model do."""
    if isinstance(content, Expression):
        return _expression(content, trial, n_conditions)
    if isinstance(content, Preference):
        return _preference(content, trial, n_conditions, n_layers)
    if isinstance(content, Behaviour):
        return _behaviour(content, trial, n_conditions)
    return _cost(content, trial, n_conditions)


def _expression(content: Expression, trial: ExpressionTrial, n: int) -> tuple[str, int, int, Work]:
    words = sum(len(content.words_of(emotion)) for emotion in trial.vectors)
    longest, prompt = trial.generation.max_new_tokens, _mean(content.generations)
    asked = len(content.prompts)
    # Of words of several tokens, about half of them, the first tokens are read after each prompt.
    scored = asked * (_mean(content.prompts) + words / 2)
    classified = trial.n * (2 * prompt + longest + _judged(trial, prompt))
    training = STORIES * len(trial.vectors) * longest
    return (
        f"{asked} for the next word, {_used(content.generations, trial.n)} to write on from",
        asked + trial.n,
        0,
        Work(n * (scored + classified) + training, n * trial.n, longest, prompt),
    )


def _preference(content: Preference, trial: PreferenceTrial, n: int, n_layers: int) -> tuple[str, int, int, Work]:
    activities = read_activities(content.activities)
    offered = pairs(activities, trial.n, trial.seed)
    m = len(activities)
    choices = 2 * len(couples(m, trial.choices, trial.seed))
    length = sum(len(name) for name, _ in activities) / m
    prompt = _tokens(content.prompt) + 2 * length / CHARACTERS
    passes = n * 2 * len(offered) + choices + m * n_layers
    return (
        f"{len(offered)} pairs in both orders, {len({name for name, _ in offered})} of {m} activities steered",
        len(offered),
        choices,
        Work(passes * prompt),
    )


def _behaviour(content: Behaviour, trial: BehaviourTrial, n: int) -> tuple[str, int, int, Work]:
    longest, prompt = trial.generation.max_new_tokens, _mean(content.prompts)
    read = prompt + (_judged(trial, prompt) if isinstance(content.score, Judge) else 0)
    return (
        _used(content.prompts, trial.n),
        trial.n,
        0,
        Work(n * trial.n * read, n * trial.n, longest, prompt),
    )


def _cost(content: Cost, trial: CostTrial, n: int) -> tuple[str, int, int, Work]:
    texts = read_texts(content.texts)[: trial.texts]
    questions = read_questions(content.questions)[: trial.questions]
    longest, prompt = trial.generation.max_new_tokens, _mean(content.generations)
    neutral = sum(len(text.text) for text in texts) / CHARACTERS
    choices = sum(len(choice) for question in questions for choice in question.choices) / CHARACTERS
    asked = sum(len(question.question) for question in questions) / CHARACTERS
    # Once with the letters of the choices, once with what they say.
    letters = len(questions) * _tokens(content.question_prompt) + asked + choices
    words = len(questions) * _tokens(content.cloze_prompt) + asked + choices if content.cloze_prompt else letters
    read = trial.n * (2 * prompt + longest)
    return (
        f"{len(texts)} neutral texts, {len(questions)} questions asked twice, {_used(content.generations, trial.n)} "
        "to write on from",
        len(texts) + 2 * len(questions) + trial.n,
        0,
        Work(n * (neutral + letters + words + read), n * trial.n, longest, prompt),
    )


def _judged(trial: BehaviourTrial | ExpressionTrial, prompt: float) -> float:
    """Tokens that a local judge reads for one reply, in both orders of its answers; none where it is elsewhere."""
    return 2 * (prompt + trial.generation.max_new_tokens + RUBRIC) if hasattr(trial.judge, "local") else 0


def _tokens(prompt: Template) -> float:
    return len(prompt.wording) / CHARACTERS + (CHAT if prompt.messages else 0)


def _mean(prompts: Sequence[Prompt]) -> float:
    """Mean tokens of a prompt."""
    return sum(map(_tokens, prompts)) / len(prompts)


def _used(prompts: Sequence[Prompt], n: int) -> str:
    return f"{min(n, len(prompts))} of {len(prompts)}"


# ---------------------------------------------------------------- time


def seconds_of(work: Work, model: Model) -> float:
    """Estimated seconds of `work`, without loading the model."""
    steps = 0
    if work.texts:
        rows = max(1, int(WRITING * model.trial_budget / (work.prompt + work.longest)))
        steps = -(-work.texts // rows) * work.longest
    return speed.seconds_of(model, work.read, work.written, steps)


# ---------------------------------------------------------------- power


def power_of(content: TrialSet, trial: Any) -> Power:
    """Power of the verdict on one vector of an effect trial. UserError where no item is among those to be scored."""
    planned = _planned(content, trial)
    if not planned:
        raise UserError(f"{trial.set_}: with n = {trial.n} no prompt is asked that the outcome is about; raise n")
    names, samples = (np.array(column) for column in zip(*planned, strict=True))
    items = Items(names, samples, [BASELINE], np.zeros((len(planned), 1)))
    reported = halves([items], trial.seed).second(items)
    level, effect = trial.alpha / len(trial.vectors), trial.smallest_effect
    prompts, pairs_of_items = len(set(reported.prompts.tolist())), len(reported.prompts)
    if isinstance(content, Behaviour):
        unit, n, base = "item", pairs_of_items, min(BASE_RATE, 1 - effect)
        assumed = f"a base rate of {base:g}"
        needed, detectable = needed_for_rate(base, base + effect, level), detectable_rate(n, base, 1, level)
        if reported.unit == "prompt":
            # What is tested is the mean over prompts, here of independent items.
            each = n / prompts
            sd = float(np.sqrt((base * (1 - base) + (base + effect) * (1 - base - effect)) / each))
            needed = max(needed, int(np.ceil(each * needed_for_mean(sd, effect, level))))
            detectable = max(detectable, detectable_mean(prompts, sd, level))
    else:
        unit, sd = reported.unit, SDS[content.kind]
        n, assumed = (prompts if unit == "prompt" else pairs_of_items), f"an SD of {sd:g} between {unit}s"
        needed, detectable = needed_for_mean(sd, effect, level), detectable_mean(n, sd, level)
    return Power(
        smallest=effect,
        level=level,
        assumed=assumed,
        unit=unit,
        prompts=prompts,
        n=n,
        needed=max(needed, MIN_UNITS),
        detectable=detectable if n >= MIN_UNITS else float("inf"),
        set_limits=isinstance(content, Expression) or (unit == "prompt" and len(planned) > len(set(names.tolist()))),
    )


def _planned(content: TrialSet, trial: Any) -> list[tuple[str, int]]:
    """(prompt, sample) of the items whose outcome the verdict is about."""
    if isinstance(content, Expression):
        return [(prompt.id, 0) for prompt in content.prompts]
    if isinstance(content, Preference):
        count: dict[str, int] = {}
        found = []
        for steered, _ in pairs(read_activities(content.activities), trial.n, trial.seed):
            found.append((name_of(steered), count.setdefault(steered, 0)))
            count[steered] += 1
        return found
    dealt = [
        (content.prompts[number % len(content.prompts)], number // len(content.prompts)) for number in range(trial.n)
    ]
    return [(prompt.id, sample) for prompt, sample in dealt if content.outcome.among in (None, prompt.group)]


# ---------------------------------------------------------------- text


def _block(plan: Plan) -> str:
    trial = plan.trial
    counts = trial.controls.model_dump()
    controls = ", ".join(f"{count} {family}" for family, count in counts.items() if count)
    strengths = " ".join(f"±{strength:g}" for strength in signed(trial.strengths) if strength > 0)
    layers = f"layer{'s' if len(plan.layers) > 1 else ''} {', '.join(map(str, plan.layers))}"
    directions = len(trial.vectors) + sum(counts.values())
    steered = plan.conditions - plan.asking - 1
    asked = f", {plan.asking} asked for in words" if plan.asking else ""
    beside = f" and {plan.once:,} without steering" if plan.once else ""
    rows = [
        ("vectors", f"{len(trial.vectors)}: {', '.join(trial.vectors)}"),
        ("strengths", f"{strengths} at {layers}"),
        ("directions", f"{directions}: the vectors" + (f", and at + strengths {controls}" if controls else "")),
        ("conditions", f"{plan.conditions}: the baseline, {steered} steered{asked}"),
        ("prompts", plan.prompts),
        ("items", f"{plan.all_items:,}: {plan.items} per condition{beside}"),
        ("tokens", f"{plan.work.written:,} written at most, about {_round(plan.work.read)} read"),
        ("time", f"about {_time(plan.seconds)}"),
    ]
    if plan.power is not None:
        rows += _power_rows(plan)
    lines = [f"    {key:<11} {value}" for key, value in rows]
    return "\n".join([f"  {plan.name} ({trial.kind}, {trial.set_})", *lines])


def _power_rows(plan: Plan) -> list[tuple[str, str]]:
    power, measure = plan.power, "" if isinstance(plan.trial, BehaviourTrial) else " nats"
    needed = f"more than {MOST:,}" if power.needed >= MOST else f"{power.needed:,}"
    shown = "can show none" if np.isinf(power.detectable) else f"show {power.detectable:.2g}{measure}"
    of = f" of {power.prompts} prompts" if power.unit == "item" else ""
    rows = [
        ("smallest", f"{power.smallest:g}{measure} is of interest; level {power.level:.2g}, {power.assumed}"),
        ("needed", f"{needed} {power.unit}s in the half that is reported"),
        ("planned", f"{power.n:,} {power.unit}s{of} in the half that is reported, which {shown}"),
    ]
    if power.n < power.needed:
        rows.append(("WARNING", _warning(plan, needed)))
    return rows


def _warning(plan: Plan, needed: str) -> str:
    power, trial = plan.power, plan.trial
    cause = f"{power.n:,} {power.unit}s are reported on and {needed} are needed"
    if power.needed >= MOST:
        return f"{cause}; state a larger smallest_effect"
    if power.set_limits:
        return f"{cause}; add {'activities' if trial.kind == 'preference' else 'prompts'} to the set"
    return f"{cause}; raise n to about {int(np.ceil(trial.n * power.needed / power.n)):,}"


def _round(value: float) -> str:
    """Two significant digits."""
    return f"{float(f'{value:.2g}'):,.0f}"


def _time(seconds: float) -> str:
    if seconds < 100:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 100 * 60 else f"{seconds / 3600:.1f} h"
