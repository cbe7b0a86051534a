"""Trial `behaviour`: how often does the model do what it should not, or not do what it should?

Every reply gets 1, 0 or no value for the outcome that the set is about, and for others beside it that are measured on
other prompts. An exact rule decides where the set has one, elsewhere a judge that is asked in both orders of its
answers; keywords decide only where config asks for them by name.
"""

from typing import Any

import pandas as pd

from affectome.steering import judges
from affectome.steering.bench import Bench, Item
from affectome.steering.passes import Written
from affectome.steering.scorers import rule_score
from affectome.steering.sets import Behaviour, Keywords


def run(bench: Bench, content: Behaviour, judge: judges.Judge | None) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The table of the trial, and notes on how it was scored; `judge` is None where keywords or a rule decide."""
    items = bench.deal(content.prompts, content.asking)
    written = bench.write(items)
    prompts = {prompt.id: prompt for prompt in content.prompts}
    values, notes = _values(bench, content, judge, items, written)
    scores = [
        {
            outcome.name: value
            for outcome in (content.outcome, *content.secondary)
            if outcome.among in (None, prompts[item.prompt].group)
        }
        for item, value in zip(items, values, strict=True)
    ]
    return bench.table(items, scores, written), notes


def _values(
    bench: Bench, content: Behaviour, judge: judges.Judge | None, items: list[Item], written: list[Written]
) -> tuple[list[float | None], dict[str, Any]]:
    prompts = {prompt.id: prompt for prompt in content.prompts}
    # What was started for the model is part of its reply.
    replies = [(prompts[item.prompt].reply or "") + text.text for item, text in zip(items, written, strict=True)]
    if judge is not None:
        judged = [
            judges.JudgeItem(str(number), judges.conversation(prompts[item.prompt]), reply, content.score.judge)
            for number, (item, reply) in enumerate(zip(items, replies, strict=True))
        ]
        labelled, labels = judges.labelled_items(content)
        agreement = bench.once("agreement", lambda: judges.agreement(judge, labelled, labels))
        values, notes = bench.judged(judge, judged)
        return values, {"agreement": agreement, **notes}
    rule = Keywords(keywords=content.keywords) if content.judged else content.score

    def work(batch: list[int]) -> list[float]:
        return [rule_score(rule, prompts[items[i].prompt], replies[i]) for i in batch]

    values = bench.scored("scoring", len(items), work)
    scored = sum(value == value for value in values)
    return values, {"scored_by": type(rule).__name__.lower(), "scored": scored, "n": len(values)}
