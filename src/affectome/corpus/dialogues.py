"""Conversations that a model is read on: dialogues of two who feel something, and requests that it may refuse.

Both are lists of JSONL whose kinds `affectome.corpus.prompt_lists` knows; a row here is the object of a line.
"""

from collections.abc import Iterator
from typing import Annotated, Any

import pandas as pd
from pydantic import Field, model_validator

from affectome.corpus.prompt_lists import Emotion, Text, checked
from affectome.models.chat import Prompt
from affectome.schema import Strict

# What a pair of texts differs in: by family, the two keys of a line that hold them.
FAMILIES = {
    "request_risk": ("risky", "benign"),
    "refusal_decision": ("refused", "complied"),
    "refusal_style": ("curt", "kind"),
}

_ROLES = {"person": "user", "ai": "assistant"}


class Dialogue(Strict):
    """A talk about `topic` in which the person is in one state and the AI in another; the person begins."""

    topic: Text
    person: Emotion
    ai: Emotion
    turns: Annotated[list[Text], Field(min_length=4)]

    @model_validator(mode="after")
    def _of_two(self) -> "Dialogue":
        if self.person == self.ai:
            raise ValueError(f"person, ai: both are {self.person!r}; give the two speakers different emotions")
        if len(self.turns) % 2:
            raise ValueError(f"turns: are {len(self.turns)}; end with one of the AI, so that each speaker has as many")
        return self

    @property
    def said(self) -> str:
        """All that is said, by which a dialogue is told from others."""
        return "\n".join(self.turns)


class RefusalPair(Strict):
    """Texts about `topic` that differ in one thing each: two requests, and two times two replies to a third, `request`.

    `risky` and `benign` are requests alike in form, of which one should give pause; `refused` declines `request` and
    `complied` answers it; `curt` and `kind` both decline it and differ in manner.
    """

    topic: Text
    risky: Text
    benign: Text
    request: Text
    refused: Text
    complied: Text
    curt: Text
    kind: Text

    @model_validator(mode="after")
    def _differ(self) -> "RefusalPair":
        for pair in FAMILIES.values():
            first, second = (getattr(self, side) for side in pair)
            if first == second:
                raise ValueError(f"{', '.join(pair)}: are the same text; write two that differ")
        return self


def speakers_prompts(rows: list[dict[str, Any]]) -> tuple[pd.DataFrame, list[Prompt]]:
    """Every turn of every dialogue, to be read as the mean over its tokens.

    The table has `dialogue` (its number, counted from 1), `topic`, `person` and `ai` (their emotions), `speaker`
    ("person" or "ai"), `turn` (counted from 0) and `text` (of the turn). Raises UserError, a line per mistake.
    """
    table, prompts = [], []
    for number, dialogue in enumerate(checked(rows, Dialogue, unique="said"), 1):
        speakers = ["person", "ai"] * (len(dialogue.turns) // 2)
        messages = [
            {"role": _ROLES[speaker], "content": text} for speaker, text in zip(speakers, dialogue.turns, strict=True)
        ]
        for turn, (speaker, text) in enumerate(zip(speakers, dialogue.turns, strict=True)):
            about = {"dialogue": number, "topic": dialogue.topic, "person": dialogue.person, "ai": dialogue.ai}
            table.append(about | {"speaker": speaker, "turn": turn, "text": text})
            # What is said later cannot be heard, so it need not be read.
            prompts.append(Prompt(messages[: turn + 1], turn=turn))
    return pd.DataFrame(table), prompts


def refusal_prompts(rows: list[dict[str, Any]]) -> tuple[pd.DataFrame, list[Prompt]]:
    """Both texts of every pair: requests read at the last token before the reply, replies as the mean of their tokens.

    The table has `pair` (its number, counted from 1), `topic`, `family` (of `FAMILIES`), `side` (the key that holds
    the text) and `text`. Raises UserError, a line per mistake.
    """
    table, prompts = [], []
    for number, pair in enumerate(checked(rows, RefusalPair, unique="risky"), 1):
        for family, side, prompt in _sides(pair):
            about = {"pair": number, "topic": pair.topic, "family": family, "side": side}
            table.append(about | {"text": prompt.messages[-1]["content"]})
            prompts.append(prompt)
    return pd.DataFrame(table), prompts


def _sides(pair: RefusalPair) -> Iterator[tuple[str, str, Prompt]]:
    for family, sides in FAMILIES.items():
        for side in sides:
            text = getattr(pair, side)
            if family == "request_risk":
                yield family, side, Prompt([{"role": "user", "content": text}])
            else:
                messages = [{"role": "user", "content": pair.request}, {"role": "assistant", "content": text}]
                yield family, side, Prompt(messages, turn=1)
