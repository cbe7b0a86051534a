"""What the cells of a foreign table mean: one text, and the names of the labels it carries."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

# As in the neutral dialogues that are shipped and written.
_SPEAKERS = {"user": "Person: ", "assistant": "AI: "}


class Record(NamedTuple):
    """A text as its source has it; a text may have no label, or several."""

    labels: tuple[str, ...]
    topic: str
    text: str


def labels_of(value: Any, names: Sequence[str] | None = None) -> tuple[str, ...]:
    """The labels in a cell that holds one or a list of them; whole numbers are looked up in `names` where given.

    Raises ValueError for a number that has no name.
    """
    if isinstance(value, list | tuple):
        return tuple(label for each in value for label in labels_of(each, names))
    if names is None or not isinstance(value, int):
        return (text,) if (text := text_of(value)) else ()
    # -1 is how data sets say that a class is not known.
    if value == -1:
        return ()
    if not 0 <= value < len(names):
        raise ValueError(f"label {value} has no name; there are {len(names)} of them")
    return (names[value],)


def text_of(value: Any) -> str:
    """The text in a cell: words as they are, and a conversation as paragraphs of `Person: ...` and `AI: ...`.

    A conversation is a list of turns with `role` and `content` (user and assistant speak, what others say stands
    alone, empty turns are left out). Missing values are "". Raises ValueError for other lists and objects.
    """
    if isinstance(value, str):
        return value
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, list | tuple):
        return "\n\n".join(turn for turn in map(_turn, value) if turn)
    if isinstance(value, Mapping):
        raise ValueError("a text is an object; give the name of a column that holds words or a list of turns")
    return str(value)


def _turn(turn: Any) -> str:
    if not isinstance(turn, Mapping) or not {"role", "content"} <= set(turn):
        raise ValueError("a text is a list of something else than turns with role and content; choose another column")
    content = text_of(turn["content"]).strip()
    return content and _SPEAKERS.get(turn["role"], "") + content
