"""Trial `preference`: does steering the tokens of one option make the model choose it?

Half of the activities, drawn within each category, are steered; each is offered beside some of the others, once as the
first option and once as the second, and only its own tokens are steered. The outcome `preference` is the log-odds
(nats) of choosing it, the mean of both orders. Two things are measured without steering: `choice`, the log-odds of the
first option for every ordered pair of activities (or `choices` pairs in both orders), and how much of each emotion's
vector is in each activity's tokens. Follows the preference experiments of Sofroniew et al. (2026).
"""

from typing import Any

import numpy as np
import pandas as pd

from affectome.steering.activities import couples, pairs
from affectome.steering.bench import Bench, Item, asking
from affectome.steering.conditions import BASELINE
from affectome.steering.framing import Framed, continuation
from affectome.steering.passes import Row
from affectome.steering.sets import Preference, Prompt, name_of, read_activities


def run(bench: Bench, content: Preference) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The table of the trial, and the projections of every activity's tokens on the vectors, by layer."""
    activities = read_activities(content.activities)
    names = [name for name, _ in activities]
    drawn = couples(len(names), bench.spec["choices"], bench.spec["seed"])
    offered = pairs(activities, bench.spec["n"], bench.spec["seed"])
    parts = [_steered(bench, content, offered), _choices(bench, content, names, drawn)]
    return pd.concat(parts, ignore_index=True), {"probes": _probes(bench, content, names)}


def _asked(bench: Bench, content: Preference, first: str, second: str, request: str = "") -> Framed:
    def fill(text: str | None) -> str | None:
        return text and text.replace("{a}", first).replace("{b}", second)

    template = content.prompt
    messages = template.messages and [
        message.model_copy(update={"content": fill(message.content)}) for message in template.messages
    ]
    prompt = Prompt(
        id=f"{name_of(first)}.{name_of(second)}", text=fill(template.text), messages=messages, reply=template.reply
    )
    return bench.frame(prompt, request)


def _log_odds(bench: Bench, content: Preference, name: str, items: list[Item], plans: list) -> list[float]:
    """Log-odds (nats) of the first option of every item."""
    ways = [[continuation(bench.tokenizer, item.framed, option)[:1] for option in content.options] for item in items]
    return [first - second for first, second in bench.logprobs(name, items, ways, plans)]


def _steered(bench: Bench, content: Preference, offered: list[tuple[str, str]]) -> pd.DataFrame:
    sample: dict[str, int] = {}
    numbered = []
    for steered, other in offered:
        numbered.append((steered, other, sample.setdefault(steered, 0)))
        sample[steered] += 1
    items, plans = [], []
    for condition in bench.conditions:
        request = asking(content.asking, condition)
        for steered, other, number in numbered:
            for as_first in (True, False):
                framed = _asked(bench, content, *((steered, other) if as_first else (other, steered)), request)
                items.append(Item(condition, name_of(steered), number, framed))
                plans.append(bench.plan(condition, framed.span(steered, last=not as_first)))
    found = np.array(_log_odds(bench, content, "preferences", items, plans)).reshape(-1, 2)
    scores = [{"preference": float(value)} for value in (found[:, 0] - found[:, 1]) / 2]
    table = bench.table(items[::2], scores)
    table["positions"] = np.where(table["positions"] == "", "", "the option's tokens")
    return table


def _choices(bench: Bench, content: Preference, names: list[str], drawn: list[tuple[int, int]]) -> pd.DataFrame:
    items = [
        Item(BASELINE, name_of(names[first]), second, _asked(bench, content, names[first], names[second]))
        for one, other in drawn
        for first, second in ((one, other), (other, one))
    ]
    found = _log_odds(bench, content, "choices", items, [()] * len(items))
    return bench.table(items, [{"choice": value} for value in found])


def _probes(bench: Bench, content: Preference, names: list[str]) -> dict[str, Any]:
    """Projections {layer: {emotion: {activity: value}}} of the mean residual over each activity's tokens.

    Units of the residual stream; read where the activity is the first option, beside the next one on the list.
    """
    units = bench.directions.units
    emotions = bench.directions.emotions
    framed = [_asked(bench, content, name, names[number - 1]) for number, name in enumerate(names)]
    spans = [text.span(name) for text, name in zip(framed, names, strict=True)]
    rows = [Row(text.ids[:end]) for text, (_, end) in zip(framed, spans, strict=True)]
    probes: dict[str, Any] = {}
    for layer in units:
        found = bench.read(
            f"probes {layer}",
            rows,
            [first for first, _ in spans],
            layer,
            lambda readings, layer=layer: [
                (units[layer][: len(emotions)] @ reading.pooled).tolist() for reading in readings
            ],
        )
        values = np.array(found)
        probes[str(layer)] = {
            emotion: dict(zip(names, values[:, column].tolist(), strict=True))
            for column, emotion in enumerate(emotions)
        }
    return probes
