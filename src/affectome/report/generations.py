"""The page on which everything that a trial wrote can be read: one HTML file that needs no server and no network.

What models write is not to be trusted. It is embedded as data in which `<` does not occur, put on the page as text
only, and the page's policy lets no script run but its own, whose hash is computed here.
"""

import base64
import hashlib
import json
import math
from pathlib import Path
from typing import Any

import pandas as pd

from affectome.files import read_table, replacing
from affectome.report.templates import environment
from affectome.steering.conditions import SCORE

# Beyond this a page is slow to open.
MOST = 20_000
_FAMILIES = ("baseline", "asking", "emotion", "topic", "shuffled", "random")
# Columns that repeat a few long values are kept as numbers of a list.
_LISTED = ("direction", "family", "layers", "positions", "prompt", "prompt_text")
_PLAIN = ("strength", "sample", "seed", "tokens", "finished", "text")


def write_generations(items: str | Path, output: str | Path, title: str) -> None:
    """Write the page of a trial's table `items` (items.parquet) to `output`.

    It holds the items that have a text, or all where none has one, ordered by sample, prompt, family, direction and
    strength, so that what is compared stays together; of more than `MOST`, the first `MOST` in that order.
    """
    table = read_table(items)
    written = table[table["text"].notna()]
    # A trial that only reads logits has no texts; its scores are worth reading all the same.
    table = _ordered(written if len(written) else table)
    shown = table.head(MOST)
    templates = environment()
    source = templates.loader.get_source(templates, "generations.html.j2")[0]
    text = templates.get_template("generations.html.j2").render(
        title=title,
        items=Path(items).name,
        shown=len(shown),
        total=len(table),
        texts=bool(len(written)),
        data=embedded(_content(shown)),
        style_hash=_digest(source, "style"),
        script_hash=_digest(source, "script"),
    )
    with replacing(output) as temporary:
        temporary.write_text(text, encoding="utf-8")


def embedded(content: Any) -> str:
    """`content` as JSON that can stand inside a script element, whatever texts it holds."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    # None of these occurs outside strings, where the escapes mean the same.
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _ordered(table: pd.DataFrame) -> pd.DataFrame:
    rank = table["family"].map({family: number for number, family in enumerate(_FAMILIES)})
    keys = ["sample", "prompt", "_family", "direction", "strength", "item"]
    return table.assign(_family=rank).sort_values(keys, kind="stable").drop(columns="_family")


def _content(table: pd.DataFrame) -> dict[str, Any]:
    """Columns of `table` by name; of those that repeat, `lists` holds the values and the columns their numbers."""
    columns: dict[str, list] = {}
    lists: dict[str, list] = {}
    for name in _LISTED:
        numbers, values = pd.factorize(table[name])
        columns[name], lists[name] = numbers.tolist(), [str(value) for value in values]
    for name in _PLAIN:
        columns[name] = [_plain(value) for value in table[name]]
    # A score that no shown item has would be an empty choice.
    scores = [name for name in table.columns if name.startswith(SCORE) and table[name].notna().any()]
    return {
        "columns": columns,
        "lists": lists,
        "scores": {name.removeprefix(SCORE): [_plain(value) for value in table[name]] for name in scores},
    }


def _plain(value: Any) -> Any:
    """`value` as JSON has it: None where it is missing, at most six significant digits of a fraction."""
    if value is None or value is pd.NA:
        return None
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return int(value) if value.is_integer() else float(f"{value:.6g}")
    return value


def _digest(source: str, tag: str) -> str:
    """The hash by which the page's policy knows its own `tag` element, which holds nothing that is filled in."""
    inside = source.partition(f"<{tag}>")[2].partition(f"</{tag}>")[0]
    return "sha256-" + base64.b64encode(hashlib.sha256(inside.encode("utf-8")).digest()).decode("ascii")
