"""Lists of prompts that models are read on, as JSONL: one object a line, checked before a model is loaded.

| kind | keys of a line | prompts |
|---|---|---|
| `implicit` | `emotion, prompt` | a message of the user that implies the emotion |
| `intensity` | `template, unit, values, rises, falls` | the template with each value in the place of {x} |
| `speakers`, `refusal` | see `affectome.corpus.dialogues` | messages of dialogues |
"""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import pandas as pd
from pydantic import AfterValidator, Field, ValidationError, model_validator

from affectome.errors import UserError
from affectome.models.chat import Prompt
from affectome.schema import Strict, explain

# Joins the names of emotions in a column of a table.
JOINED = ";"

# From here on thousands are set apart by commas, as English prints numbers.
_LONG = 10_000

Rows = list[dict[str, Any]]
Row = TypeVar("Row", bound=Strict)


def _filled(value: str) -> str:
    if not value.strip():
        raise ValueError("is empty; write something")
    return value


def _name(value: str) -> str:
    if JOINED in value or value != value.strip():
        raise ValueError(f"{value!r} has space around it or a {JOINED!r} in it; write the emotion's name alone")
    return _filled(value)


def _number(value: Any) -> Any:
    # Whole numbers and others are both kept as they are written, so no single type will do.
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is no number; write one without quotation marks")
    return value


Text = Annotated[str, AfterValidator(_filled)]
Emotion = Annotated[str, AfterValidator(_name)]
Number = Annotated[Any, AfterValidator(_number)]


class Scenario(Strict):
    """A user's message that implies an emotion without naming it."""

    emotion: Emotion
    prompt: Text


class Scale(Strict):
    """A user's message with a number {x} in it, and the emotions expected to rise and to fall as it grows."""

    template: Text
    unit: Text
    values: Annotated[list[Number], Field(min_length=2)]
    rises: list[Emotion]
    falls: list[Emotion]

    @model_validator(mode="after")
    def _usable(self) -> "Scale":
        if "{x}" not in self.template:
            raise ValueError("template: has no {x}, where the number goes")
        emotions = [*self.rises, *self.falls]
        twice = next((emotion for emotion in emotions if emotions.count(emotion) > 1), None)
        if twice:
            raise ValueError(f"rises, falls: {twice!r} stands twice")
        return self


def prompts_of(kind: str, file: str | Path) -> tuple[pd.DataFrame, list[Prompt]]:
    """The table of a list of `kind`, a row per prompt, and the prompts.

    Raises UserError, one line per mistake: file, line, key and what is wrong with it.
    """
    if kind not in _KINDS:
        raise UserError(f"{file}: {kind!r} is no kind of list; allowed: {', '.join(_KINDS)}")
    rows = read_jsonl(file)
    try:
        return _KINDS[kind](rows)
    except UserError as error:
        raise UserError("\n".join(f"{file} {line}" for line in str(error).splitlines())) from error


def read_jsonl(file: str | Path) -> Rows:
    """The objects of a JSONL file, that of line n at n − 1; UserError for what is none."""
    try:
        lines = Path(file).read_text(encoding="utf-8").rstrip().split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read ({error}); give the path of a list of prompts, JSONL") from error
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{file} line {number}: is no JSON ({error.msg}); write one object a line") from error
        if not isinstance(row, dict):
            raise UserError(f"{file} line {number}: is no object but {line[:40]}; write {{…}}")
        rows.append(row)
    return rows


def checked(rows: Rows, model: type[Row], unique: str) -> list[Row]:
    """`rows` as `model`; UserError with a line for each mistake, and for values of the key `unique` that stand twice.

    Its lines begin with the number of the row, counted from 1, and not with the file, which `prompts_of` puts first.
    """
    found, mistakes = [], []
    seen: dict[str, int] = {}
    for number, row in enumerate(rows, 1):
        try:
            found.append(model.model_validate(row))
        except ValidationError as error:
            mistakes += [f"line {number}: {explain(item, whole='')}" for item in error.errors()]
            continue
        value = getattr(found[-1], unique)
        if value in seen:
            mistakes.append(f"line {number}: {unique}: is that of line {seen[value]}; remove or rewrite one")
        seen.setdefault(value, number)
    if mistakes:
        raise UserError("\n".join(mistakes))
    return found


def implicit_prompts(rows: Rows) -> tuple[pd.DataFrame, list[Prompt]]:
    """Scenarios as messages of the user; the table has `emotion, prompt`."""
    scenarios = checked(rows, Scenario, unique="prompt")
    table = pd.DataFrame({name: [getattr(row, name) for row in scenarios] for name in ("emotion", "prompt")})
    return table, [_said(row.prompt) for row in scenarios]


def intensity_prompts(rows: Rows) -> tuple[pd.DataFrame, list[Prompt]]:
    """Each template with each value; the table has `template, wording, unit, value, text, rises, falls`.

    `template` is its number, counted from 1, and `wording` its text with {x}; `rises` and `falls` are joined by ";".
    """
    filled = [
        {
            "template": number,
            "wording": scale.template,
            "unit": scale.unit,
            "value": float(value),
            "text": scale.template.replace("{x}", in_words(value)),
            "rises": JOINED.join(scale.rises),
            "falls": JOINED.join(scale.falls),
        }
        for number, scale in enumerate(checked(rows, Scale, unique="template"), 1)
        for value in scale.values
    ]
    return pd.DataFrame(filled), [_said(row["text"]) for row in filled]


def in_words(value: float) -> str:
    """A number as an English text holds it: as the list has it, with commas between thousands from 10,000 on."""
    return f"{value:,}" if abs(value) >= _LONG else str(value)


def _said(text: str) -> Prompt:
    return Prompt([{"role": "user", "content": text}])


# Imported where they are called, since they are built on this module.
def _speakers(rows: Rows) -> tuple[pd.DataFrame, list[Prompt]]:
    from affectome.corpus.dialogues import speakers_prompts

    return speakers_prompts(rows)


def _refusal(rows: Rows) -> tuple[pd.DataFrame, list[Prompt]]:
    from affectome.corpus.dialogues import refusal_prompts

    return refusal_prompts(rows)


_KINDS: dict[str, Callable[[Rows], tuple[pd.DataFrame, list[Prompt]]]] = {
    "implicit": implicit_prompts,
    "intensity": intensity_prompts,
    "speakers": _speakers,
    "refusal": _refusal,
}
