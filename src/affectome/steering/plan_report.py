"""What steering trials will take and what they can show, in words, before anything runs: `snakemake plan_trials`.

Power (`affectome.steering.power`) is that of the test against no effect at the level divided by the number of vectors,
on the half of the prompts that is reported. What is unknown beforehand is assumed: the SD of effects in `SDS`, and a
base rate of one half, where a change is hardest to see. `supported` asks for more than that test: an estimate of at
least the smallest effect, which a true effect of just this size gives half the time, and to be beyond all controls.
"""

from dataclasses import dataclass

import numpy as np

from affectome.config import BehaviourTrial, Config
from affectome.scheduling.speed import CHARACTERS, CPU, GPU, VOCABULARY, Device, device_of
from affectome.steering.conditions import BASELINE, signed
from affectome.steering.planning import CHAT, Plan, plan_trial
from affectome.steering.power import (
    MOST,
    detectable_mean,
    detectable_rate,
    needed_for_mean,
    needed_for_rate,
)
from affectome.steering.sets import Behaviour, Expression
from affectome.steering.statistics import MIN_UNITS, Items
from affectome.steering.verdict import halves

# SD of the effect (nats) over prompts, by SmolLM2-135M. Expression: as at strength 0.1; it was 0.3 at 0.05 and 0.9 at
# 0.2. Preference: twice that of activities with three pairs each, 0.05 to 0.07 where steering changed nothing: those
# that respond will not all respond alike.
SDS = {"expression": 0.6, "preference": 0.15}
BASE_RATE = 0.5


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


# ---------------------------------------------------------------- power


def power_of(plan: Plan) -> Power | None:
    """Power of the verdict on one vector; None for a trial without a verdict."""
    if not plan.outcomes:
        return None
    content, trial = plan.content, plan.trial
    names, samples = (np.array(column) for column in zip(*plan.outcomes, strict=True))
    items = Items(names, samples, [BASELINE], np.zeros((len(names), 1)))
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
        set_limits=isinstance(content, Expression) or (unit == "prompt" and len(names) > len(set(names.tolist()))),
    )


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
    if power := power_of(plan):
        rows += _power_rows(plan, power)
    lines = [f"    {key:<11} {value}" for key, value in rows]
    return "\n".join([f"  {plan.name} ({trial.kind}, {trial.set_})", *lines])


def _power_rows(plan: Plan, power: Power) -> list[tuple[str, str]]:
    measure = "" if isinstance(plan.trial, BehaviourTrial) else " nats"
    needed = f"more than {MOST:,}" if power.needed >= MOST else f"{power.needed:,}"
    shown = "can show none" if np.isinf(power.detectable) else f"show {power.detectable:.2g}{measure}"
    of = f" of {power.prompts} prompts" if power.unit == "item" else ""
    rows = [
        ("smallest", f"{power.smallest:g}{measure} is of interest; level {power.level:.2g}, {power.assumed}"),
        ("needed", f"{needed} {power.unit}s in the half that is reported"),
        ("planned", f"{power.n:,} {power.unit}s{of} in the half that is reported, which {shown}"),
    ]
    if power.n < power.needed:
        rows.append(("WARNING", _warning(plan, power, needed)))
    return rows


def _warning(plan: Plan, power: Power, needed: str) -> str:
    trial = plan.trial
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
