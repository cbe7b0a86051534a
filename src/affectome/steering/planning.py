"""What steering trials will do and take, before anything runs.

Counts (conditions, items, pairs of activities, the items a verdict is about) are exact, made by the code that makes
them in a trial. Tokens are estimates: `CHARACTERS` each, `CHAT` more for a chat's template, every text as long as
allowed. Time is that of `affectome.scheduling.speed`. Expect a factor of two.

What a trial can show is `affectome.steering.plan_report`'s, apart from here: Snakemake asks for time and memory at
every parse, which should cost no statistics.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from affectome.config import BehaviourTrial, Config, CostTrial, ExpressionTrial, Model, PreferenceTrial
from affectome.errors import UserError
from affectome.scheduling import speed
from affectome.scheduling.speed import CHARACTERS
from affectome.steering.activities import couples, pairs
from affectome.steering.conditions import conditions
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
class Plan:
    """A trial as a run will perform it; `prompts` says what is asked, `items` is per condition, `once` besides.

    `outcomes` are (prompt, sample) of the items of a condition that the verdict is about, none where there is none.
    """

    name: str
    trial: Any
    content: TrialSet
    layers: tuple[int, ...]
    conditions: int
    asking: int
    prompts: str
    items: int
    once: int
    work: Work
    seconds: float
    outcomes: tuple[tuple[str, int], ...]

    @property
    def all_items(self) -> int:
        return self.conditions * self.items + self.once


def plan_trial(config: Config, run: str, name: str) -> Plan:
    """The plan of the trial `name` in `run`.

    Raises UserError where its set cannot be read, or no item is among those to be scored.
    """
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
    outcomes = _outcomes(content, trial)
    if not outcomes and not isinstance(content, Cost):
        raise UserError(f"{trial.set_}: with n = {trial.n} no prompt is asked that the outcome is about; raise n")
    return Plan(
        name=name,
        trial=trial,
        content=content,
        layers=layers,
        conditions=len(compared),
        asking=sum(condition.family == "asking" for condition in compared),
        prompts=prompts,
        items=items,
        once=once,
        work=work,
        seconds=seconds_of(work, model),
        outcomes=tuple(outcomes),
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


def _outcomes(content: TrialSet, trial: Any) -> list[tuple[str, int]]:
    """(prompt, sample) of the items whose outcome the verdict is about; a trial of cost has none."""
    if isinstance(content, Cost):
        return []
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


# ---------------------------------------------------------------- time


def seconds_of(work: Work, model: Model) -> float:
    """Estimated seconds of `work`, without loading the model."""
    steps = 0
    if work.texts:
        rows = max(1, int(WRITING * model.trial_budget / (work.prompt + work.longest)))
        steps = -(-work.texts // rows) * work.longest
    return speed.seconds_of(model, work.read, work.written, steps)
