"""The page on which passages are coloured token by token: one HTML file without any script.

Which emotion the colours are of is chosen with radio buttons, whose state the page's style sheet reads. Every piece of
text carries a class per emotion with its level of colour, and its numbers in its title.
"""

import base64
import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from affectome.figures.wording import number
from affectome.files import read_json, replacing
from affectome.report.templates import environment

# Levels of colour on either side of none.
LEVELS = 6

# The strongest colour is for a value that one in a hundred exceeds: the few largest would leave all others pale.
_QUANTILE = 0.99

# Letters that begin the classes of the levels below and above none.
_BELOW, _ABOVE = "n", "p"

# No colour and the strongest below and above it, on the paper of a light and of a dark screen: orange and purple, as in
# figures of cosines. Text keeps a contrast of 4.5 or more on all of them.
_COLOURS = {"light": ("#ffffff", "#e8912f", "#a88bd6"), "dark": ("#15181b", "#955610", "#6a4fa3")}


def write_passages(found: str | Path, output: str | Path, title: str) -> None:
    """Write the page of `coloured_passages.json`, the file `found`, to `output`."""
    content = read_json(found)
    strongest = scale(content["passages"])
    templates = environment()
    templates.filters |= {"signed": signed, "digest": _digest, "thousands": "{:,}".format}
    text = templates.get_template("passages.html.j2").render(
        title=title,
        found=content,
        strongest=strongest,
        levels=LEVELS,
        colours={screen: shades(*ends) for screen, ends in _COLOURS.items()},
        passages=[_passage(entry, content["emotions"], strongest) for entry in content["passages"]],
        words=_Level(strongest),
    )
    with replacing(output) as temporary:
        temporary.write_text(text, encoding="utf-8")


def scale(passages: list[dict[str, Any]]) -> float:
    """The value that gets the strongest colour, the same for all emotions and passages."""
    values = [np.abs(row) for entry in passages for row in entry["values"] if row is not None]
    return float(np.quantile(np.concatenate(values), _QUANTILE)) if values else 0.0


def level(value: float, strongest: float) -> int:
    """The level of colour of `value`, from −`LEVELS` to `LEVELS`."""
    return int(np.clip(np.rint(LEVELS * value / strongest), -LEVELS, LEVELS)) if strongest > 0 else 0


def shades(none: str, below: str, above: str) -> dict[str, str]:
    """The colour of every level but none by its name, in even steps from `none` to the strongest ones."""

    def mixed(strongest: str, share: float) -> str:
        ends = ([int(colour[at : at + 2], 16) for at in (1, 3, 5)] for colour in (none, strongest))
        return "#" + "".join(f"{round(start + share * (end - start)):02x}" for start, end in zip(*ends, strict=True))

    return {
        _Level.name(side * step): mixed(strongest, step / LEVELS)
        for side, strongest in ((-1, below), (1, above))
        for step in range(1, LEVELS + 1)
    }


def signed(value: float | None, digits: int = 3) -> str:
    """`value` with its sign."""
    text = number(value, digits)
    return f"+{text}" if value is not None and text.lstrip("0.") and not text.startswith("−") else text


class _Level:
    """Names of classes and numbers of levels, for the style sheet and the legend."""

    def __init__(self, strongest: float) -> None:
        self._strongest = strongest

    @staticmethod
    def name(number: int) -> str:
        return "z" if not number else f"{_ABOVE if number > 0 else _BELOW}{abs(number)}"

    def value(self, number: int) -> str:
        return signed(self._strongest * number / LEVELS)


def _passage(entry: dict[str, Any], names: list[str], strongest: float) -> dict[str, Any]:
    shown = []
    for text, values in zip(entry["pieces"], entry["values"], strict=True):
        if values is None:
            shown.append({"text": text, "classes": "unread", "said": "first token, not read"})
            continue
        levels = [_Level.name(level(value, strongest)) for value in values]
        # A piece without colour needs no class: most have none for most emotions.
        classes = " ".join(f"e{number}{name}" for number, name in enumerate(levels) if name != "z")
        said = "\n".join(f"{name} {signed(value)}" for name, value in zip(names, values, strict=True))
        shown.append({"text": text, "classes": classes, "said": said})
    return entry | {"shown": shown}


def _digest(content: str) -> str:
    """The hash by which the page's policy knows its style sheet."""
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode("utf-8")).digest()).decode("ascii")
