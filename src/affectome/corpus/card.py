"""The card of a corpus: what it holds, what was left out, what it cost and how much of its label lies on the surface.

Whoever trusts a vector made from a corpus should have looked at this first. The numbers are in `corpus_card.json`; the
page is one file that runs no script and asks no host. What models write is not to be trusted: it is put on the page as
text only, and the page's policy allows nothing but its own style.
"""

import base64
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from affectome.corpus.screening.leaks import leaks
from affectome.corpus.surface import MOST, bag_of_words, openings, overlap, sample, variety, words_of
from affectome.corpus.tables import read_corpus
from affectome.figures.wording import MISSING, number
from affectome.files import read_json, replacing, write_json
from affectome.randomness import generator
from affectome.report.reasons import REASONS
from affectome.report.templates import environment

_QUANTILES = (0, 5, 25, 50, 75, 95, 100)
_BARS = 24
_TO_READ = 20


def corpus_card(
    stories: str | Path,
    neutral: str | Path,
    screening: str | Path,
    json_file: str | Path,
    html_file: str | Path,
    title: str,
    emotions: list[str],
    seed: int,
    description: dict[str, Any],
) -> None:
    """Write the card of the screened tables `stories` and `neutral` to `json_file` and `html_file`.

    `screening` is the report of `affectome.corpus.screening`, `emotions` the list the corpus was made for, and
    `description` what the configuration says of the corpus, which is shown as it is. `seed` decides what is drawn.

    The JSON holds `title`, `description`, `seed` and

    - `counts`: `by_emotion`, stories kept, and for `stories` and `neutral` what screening `read, kept, dropped`, the
      latter `by_reason` and `by_reason_and_emotion`;
    - `writing`: null for imported texts, else for `stories` and `neutral` (null where none was written) the texts
      `planned`; how often one was `asked` for (`texts, by_emotion`), how many were `rejected` and how many `given_up`
      (each `texts, by_reason, by_reason_and_emotion`); the `tokens` that were `read` and `written`, `usd` (null where
      no price is known) and `seconds`;
    - `leaks`: `before`, the share of stories dropped or rejected for their emotion word, among those `asked` for
      (written corpora) or `read` (others; `before_among` says which), null where screening did not look; `after`, their
      share among the stories kept, looked for again, and their number, `left`;
    - `words_per_text`: for `stories` and `neutral` (null without texts) `mean`, `quantiles` by percent and `histogram`,
      whose bar i counts the texts from `edges[i]` to below `edges[i + 1]` words; `median_by_emotion`;
    - `sampled`: the stories that everything by emotion is computed from, all or at most 20,000 drawn evenly;
    - `variety`, `openings`, `overlap`, `bag_of_words`: see `affectome.corpus.surface`;
    - `to_read`: the ids of 20 stories drawn at random, of as many emotions as there are among them.
    """
    kept, calm = read_corpus(stories), read_corpus(neutral)
    screened = read_json(screening)
    found = emotions_found(kept["emotion"], emotions)
    words = words_of(kept["text"])
    rows = sample(kept, generator(seed, "corpus card", "sample"))
    read = to_read(kept, generator(seed, "corpus card", "to read"))
    medians = kept.groupby("emotion")["n_words"].median()
    kinds = ("stories", "neutral")
    counted = ("read", "kept", "dropped", "by_reason", "by_reason_and_emotion")
    counts = {kind: {name: screened[kind][name] for name in counted} for kind in kinds}
    by_emotion = kept["emotion"].value_counts()
    card = {
        "title": title,
        "description": description,
        "seed": seed,
        "counts": {"by_emotion": {emotion: int(by_emotion.get(emotion, 0)) for emotion in emotions}, **counts},
        "writing": screened.get("writing"),
        "leaks": leak_rates(kept, screened),
        "words_per_text": {
            "stories": lengths(kept["n_words"].to_numpy()),
            "neutral": lengths(calm["n_words"].to_numpy()),
            "median_by_emotion": {emotion: float(medians[emotion]) for emotion in found},
        },
        "sampled": len(rows),
        "variety": variety(words, kept["emotion"], rows),
        "openings": openings(words),
        "overlap": overlap(words, kept["emotion"], rows, found),
        "bag_of_words": bag_of_words(words, kept, rows, found, generator(seed, "corpus card", "interval")),
        "to_read": read["id"].tolist(),
    }
    page = _page(card, read)
    write_json(json_file, card)
    with replacing(html_file) as temporary:
        temporary.write_text(page, encoding="utf-8")


def emotions_found(column: pd.Series, emotions: list[str]) -> list[str]:
    """Those of `emotions` that a story has, in their order."""
    there = set(column)
    return [emotion for emotion in emotions if emotion in there]


def leak_rates(stories: pd.DataFrame, screened: dict[str, Any]) -> dict[str, Any]:
    """The card's `leaks`, for the kept `stories` and the report `screened` of their screening.

    In a dialogue whose speakers differ (a column `other_emotion`), either's word is a leak.
    """
    others = stories["other_emotion"].fillna("") if "other_emotion" in stories else [""] * len(stories)
    left = sum(
        any(emotion and leaks(emotion, text) for emotion in pair)
        for *pair, text in zip(stories["emotion"], others, stories["text"], strict=True)
    )
    written = (screened.get("writing") or {}).get("stories")
    if written:
        of, total = "asked", written["asked"]["texts"]
        first = written["rejected"]["by_reason"].get("leak", 0)
    else:
        of, total = "read", screened["stories"]["read"]
        first = screened["stories"]["by_reason"].get("leak", 0)
    return {
        "before": first / total if total and screened["rules"]["leaks"] else None,
        "before_among": of,
        "after": left / len(stories),
        "left": left,
    }


def lengths(words: np.ndarray) -> dict[str, Any] | None:
    """The card's `words_per_text` for texts of so many `words` (texts,); None without texts."""
    if not len(words):
        return None
    low, high = int(words.min()), int(words.max())
    width = next(step for step in _round_steps() if high // step - low // step < _BARS)
    first = low // width
    edges = [width * bar for bar in range(first, high // width + 2)]
    return {
        "mean": float(words.mean()),
        "quantiles": {str(q): float(np.percentile(words, q)) for q in _QUANTILES},
        "histogram": {"edges": edges, "counts": np.bincount(words // width - first).tolist()},
    }


def _round_steps() -> Iterator[int]:
    scale = 1
    while True:
        yield from (scale, 2 * scale, 5 * scale)
        scale *= 10


def to_read(stories: pd.DataFrame, rng: np.random.Generator, count: int = _TO_READ) -> pd.DataFrame:
    """`count` random rows of `stories`, or all there are; no emotion comes again before every other had its turn."""
    drawn = stories.iloc[rng.permutation(len(stories))]
    turn = drawn.groupby("emotion").cumcount()
    return drawn.loc[turn.sort_values(kind="stable").index[:count]]


def _page(card: dict[str, Any], read: pd.DataFrame) -> str:
    templates = environment()
    templates.filters |= {
        "number": number,
        "count": "{:,}".format,
        "percent": percent,
        "duration": duration,
        "reason": lambda name: REASONS.get(name, name.replace("_", " ")),
        "digest": _digest,
    }
    shown = [dict(zip(read.columns, row, strict=True)) for row in read.itertuples(index=False)]
    return templates.get_template("corpus_card.html.j2").render(
        card=card, described=list(_flat(card["description"])), to_read=shown, most=MOST
    )


def percent(share: float | None) -> str:
    """`share` in percent with one decimal, two below 1 %; a dash where there is none."""
    if share is None:
        return MISSING
    return f"{number(100 * share, 2 if 0 < share < 0.01 else 1)}\u00a0%"


def duration(seconds: float) -> str:
    """`seconds` as hours and minutes, minutes and seconds, or seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours:,} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _flat(description: dict[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """What is described as names and values in words, of mappings within it every entry."""
    for key, value in description.items():
        name = f"{above}{key}".replace("_", " ")
        if isinstance(value, dict):
            yield from _flat(value, f"{name}, ")
        elif isinstance(value, list | tuple):
            yield name, ", ".join(map(str, value)) or MISSING
        elif value is None or isinstance(value, bool):
            yield name, {None: MISSING, True: "yes", False: "no"}[value]
        else:
            yield name, str(value)


def _digest(style: str) -> str:
    """The hash by which the page's policy knows its own style."""
    return "sha256-" + base64.b64encode(hashlib.sha256(style.encode("utf-8")).digest()).decode("ascii")
