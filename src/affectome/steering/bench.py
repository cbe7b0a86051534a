"""The bench on which every kind of trial is run: a model, the directions it is steered along, and the conditions.

A kind asks for texts, log-probabilities and readings of its items; the bench batches items of all conditions together,
keeps what is done in a journal, and makes the table in which every item stands with its plan, seed and scores.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from torch import nn

from affectome.identity import fingerprint
from affectome.journal import Journal
from affectome.randomness import generator
from affectome.steering import instrument, passes
from affectome.steering.conditions import SCORE, Condition
from affectome.steering.directions import Directions
from affectome.steering.framing import Framed, frame
from affectome.steering.instrument import Intervention, Positions
from affectome.steering.judges import Judge, JudgeItem, Judgement, consistency
from affectome.steering.passes import Read, Row, Written
from affectome.steering.sets import Prompt

# Replies scored between two entries of the journal.
_SCORED = 64


@dataclass(frozen=True)
class Item:
    """One thing the model does: sample number `sample` of the prompt named `prompt` in one condition."""

    condition: Condition
    prompt: str
    sample: int
    framed: Framed


@dataclass(frozen=True)
class Bench:
    """What a trial is run with; `spec` are its settings in config, `conditions` those that it compares."""

    model: nn.Module
    tokenizer: Any
    directions: Directions
    conditions: Sequence[Condition]
    spec: dict[str, Any]
    journal: Journal
    _framed: dict[tuple[str, str], Framed] = field(default_factory=dict)

    def frame(self, prompt: Prompt, asking: str = "") -> Framed:
        """`prompt` as tokens, see `affectome.steering.framing.frame`."""
        if (prompt.id, asking) not in self._framed:
            self._framed[prompt.id, asking] = frame(self.tokenizer, prompt, asking)
        return self._framed[prompt.id, asking]

    def plan(self, condition: Condition, positions: Positions | None = None) -> tuple[Intervention, ...]:
        """How `condition` steers a row, at `positions` or those of config; nothing where it does not steer."""
        if not condition.steered:
            return ()
        vectors = self.directions.vectors(condition.direction)
        where = positions or self.spec["positions"]
        return (instrument.add(condition.strength, vectors, self.directions.norms, where),)

    def deal(self, prompts: Sequence[Prompt], template: str = "") -> list[Item]:
        """`n` items per condition, dealt over `prompts` in turn; `template` are the words that ask for an emotion."""
        rounds = [(prompts[number % len(prompts)], number // len(prompts)) for number in range(self.spec["n"])]
        return [
            Item(condition, prompt.id, sample, self.frame(prompt, asking(template, condition)))
            for condition in self.conditions
            for prompt, sample in rounds
        ]

    def write(self, items: Sequence[Item]) -> list[Written]:
        """A text for every item; the same prompt and sample are drawn for alike in every condition."""
        longest, temperature = self.spec["generation"]["max_new_tokens"], self.spec["generation"]["temperature"]
        rows = [Row(item.framed.ids, self.plan(item.condition)) for item in items]

        def work(batch: list[int]) -> list[Any]:
            uniforms = np.stack([self.draws(items[i]).random(longest) for i in batch])
            texts = passes.write(self.model, self.tokenizer, [rows[i] for i in batch], uniforms, temperature)
            return [[text.text, text.ids, text.finished] for text in texts]

        lengths = [len(row.ids) + longest for row in rows]
        found = passes.in_batches("writing", lengths, passes.WRITING * self.spec["token_budget"], work, self.journal)
        return [Written(text, tuple(ids), finished) for text, ids, finished in found]

    def draws(self, item: Item) -> Any:
        """The generator of everything that is drawn for an item."""
        return generator(self.spec["seed"], "sample", item.prompt, item.sample)

    def logprobs(
        self, name: str, items: Sequence[Item], ways: Sequence[Sequence[tuple[int, ...]]], plans: Sequence | None = None
    ) -> list[list[float]]:
        """Log-probability (nats) of each of an item's `ways` to go on, steered by `plans` or the condition's own."""
        plans = plans or [self.plan(item.condition) for item in items]
        rows = [Row(item.framed.ids, plan) for item, plan in zip(items, plans, strict=True)]

        def work(batch: list[int]) -> list[Any]:
            return passes.continuation_logprobs(self.model, [rows[i] for i in batch], [ways[i] for i in batch])

        lengths = [
            len(row.ids) + sum(len(start) for start in {way[:-1] for way in of_row})
            for row, of_row in zip(rows, ways, strict=True)
        ]
        return passes.in_batches(name, lengths, self.spec["token_budget"], work, self.journal)

    def top_tokens(self, name: str, items: Sequence[Item]) -> list[int]:
        """The likeliest next token of every item."""
        rows = [Row(item.framed.ids, self.plan(item.condition)) for item in items]

        def work(batch: list[int]) -> list[Any]:
            return passes.top_tokens(self.model, [rows[i] for i in batch])

        return passes.in_batches(name, [len(row.ids) for row in rows], self.spec["token_budget"], work, self.journal)

    def read(self, name: str, rows: Sequence[Row], starts: Sequence[int], layer: int | None, keep: Any) -> list[Any]:
        """What `keep` makes of the readings of a batch, a JSON-like result per row; see `passes.read`."""
        budget = passes.reading_budget(self.model, self.spec["token_budget"])

        def work(batch: list[int]) -> list[Any]:
            found = passes.read(self.model, [rows[i] for i in batch], [starts[i] for i in batch], layer)
            return keep(found)

        return passes.in_batches(name, [len(row.ids) for row in rows], budget, work, self.journal)

    def scored(self, name: str, n: int, work: Callable[[list[int]], list[Any]]) -> list[Any]:
        """The results of `work`, given the numbers of some of `n` replies, for all of them."""
        return passes.in_batches(name, [1] * n, _SCORED, work, self.journal)

    def judged(self, judge: Judge, items: Sequence[JudgeItem]) -> tuple[list[float | None], dict[str, Any]]:
        """Scores of `items` by a judge, None where it gave none, and notes on how consistent it was."""

        def work(batch: list[int]) -> list[list[Any]]:
            found = judge.judge([items[i] for i in batch])
            return [[each.score, each.pairs, each.agreeing, each.unparsed] for each in found]

        scored = self.scored("judging", len(items), work)
        found = [Judgement(item.id, *values) for item, values in zip(items, scored, strict=True)]
        return [each.score for each in found], {"scored_by": judge.name, "consistency": consistency(found)}

    def once(self, name: str, work: Callable[[], Any]) -> Any:
        """The JSON-like result of `work`, which is not done again after an interruption."""
        if name not in self.journal.entries:
            self.journal.add(name, work())
        return self.journal.entries[name]

    def table(
        self, items: Sequence[Item], scores: Sequence[dict[str, float]], written: Sequence[Written] | None = None
    ) -> pd.DataFrame:
        """A row per item: its condition, plan, seed and prompt, what was written, and its scores."""
        layers = ",".join(map(str, self.directions.units))
        return pd.DataFrame(
            {
                "item": fingerprint([item.condition, item.prompt, item.sample, layers, self.spec["seed"]]),
                "direction": item.condition.direction,
                "family": item.condition.family,
                "strength": item.condition.strength,
                "layers": layers,
                "positions": self.spec["positions"] if item.condition.steered else "",
                "prompt": item.prompt,
                "sample": item.sample,
                "seed": self.spec["seed"],
                "prompt_text": item.framed.text,
                "text": text.text if text else None,
                "tokens": len(text.ids) if text else None,
                "finished": text.finished if text else None,
                **{f"{SCORE}{name}": value for name, value in values.items()},
            }
            for item, values, text in zip(items, scores, written or [None] * len(items), strict=True)
        )


def asking(template: str, condition: Condition) -> str:
    """The words that ask for an emotion in a condition of that kind; none in any other."""
    return template.replace("{emotion}", condition.direction) if condition.family == "asking" else ""


def nll_only(found: Sequence[Read]) -> list[float]:
    """The likelihoods of a batch of readings."""
    return [reading.nll for reading in found]
