"""Which texts of a corpus are dropped, and the count of every one by reason and emotion."""

import json
import re
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from affectome.corpus.tables import empty_corpus, read_corpus, write_corpus
from affectome.errors import UserError
from affectome.files import replacing

# In the order in which they are looked for; a text is counted under the first that applies.
REASONS = ("not_listed", "duplicate", "leak", "too_short", "too_long")

_VOWELS = "aeiou"


@cache
def leak_pattern(emotion: str) -> re.Pattern[str]:
    """What matches `emotion` or an inflection of it in a text, whatever its case.

    Inflections are those English makes by rule from adjectives, verbs and nouns: -s, -ed, -ing, -er, -est, -ly, -ness,
    with the usual changes of spelling. In an expression of several words (at ease, grief-stricken) the words may be
    joined by spaces or hyphens and the last one is inflected. Derivations (angry: anger) are other words and pass.
    """
    *before, last = re.split(r"[\s-]+", emotion.lower())
    forms = sorted(_inflections(last), key=lambda form: (-len(form), form))
    words = [re.escape(word) for word in before] + [f"(?:{'|'.join(map(re.escape, forms))})"]
    return re.compile(r"(?<![\w])" + r"[\s-]+".join(words) + r"(?![\w])", re.IGNORECASE)


def _inflections(word: str) -> set[str]:
    forms = {word, word + "s", word + "es", word + "ed", word + "ing", word + "er", word + "est", word + "ly", word + "ness"}
    if word.endswith("y") and word[-2:-1] not in _VOWELS:
        forms |= {word[:-1] + ending for ending in ("ies", "ied", "ier", "iest", "ily", "iness")}
    if word.endswith("e"):
        forms |= {word[:-1] + ending for ending in ("ed", "ing", "er", "est", "y")}
    if word.endswith("ic"):
        forms |= {word + "ally"}
    if len(word) > 2 and word[-1] not in _VOWELS + "wxy" and word[-2] in _VOWELS and word[-3] not in _VOWELS:
        forms |= {word + word[-1] + ending for ending in ("ed", "ing", "er", "est")}
    return forms


def screen(
    texts: pd.DataFrame, emotions: list[str], leaks: bool, duplicates: bool, min_words: int, max_words: int
) -> tuple[pd.DataFrame, pd.Series]:
    """The corpus table `texts` without dropped rows, and the reason per row of `texts` ("" where it is kept).

    Neutral texts (empty emotion) are screened for repetition and length only.
    """
    reasons = pd.Series("", index=texts.index)

    def drop(reason: str, rows: pd.Series) -> None:
        reasons[rows & (reasons == "")] = reason

    drop("not_listed", ~texts["emotion"].isin([*emotions, ""]))
    if duplicates:
        listed = texts[reasons == ""]
        drop("duplicate", listed["text"].duplicated().reindex(texts.index, fill_value=False))
    if leaks:
        found = [
            bool(emotion and leak_pattern(emotion).search(text))
            for emotion, text in zip(texts["emotion"], texts["text"], strict=True)
        ]
        drop("leak", pd.Series(found, index=texts.index, dtype=bool))
    drop("too_short", texts["n_words"] < min_words)
    drop("too_long", texts["n_words"] > max_words)
    return texts[reasons == ""].reset_index(drop=True), reasons


def screen_corpus(
    raw_stories: str | Path,
    raw_neutral: str | Path,
    stories: str | Path,
    neutral: str | Path,
    report: str | Path,
    emotions: list[str],
    rules: dict[str, Any],
) -> None:
    """Screen the tables `raw_*` into `stories` and `neutral`, and write what was dropped to `report` (JSON).

    Raises UserError where an emotion has no story left.
    """
    counts: dict[str, Any] = {"rules": rules}
    for kind, source, target in (("stories", raw_stories, stories), ("neutral", raw_neutral, neutral)):
        texts = read_corpus(source)
        kept, reasons = screen(texts, emotions, **rules) if len(texts) else (empty_corpus(), pd.Series(dtype=str))
        dropped = [(reason, emotion) for reason, emotion in zip(reasons, texts["emotion"], strict=True) if reason]
        by_reason = Counter(reason for reason, _ in dropped)
        counts[kind] = {
            "read": len(texts),
            "kept": len(kept),
            "dropped": len(dropped),
            "by_reason": {reason: by_reason[reason] for reason in REASONS},
            "by_reason_and_emotion": {
                reason: dict(sorted(Counter(emotion for why, emotion in dropped if why == reason).items()))
                for reason in REASONS
                if by_reason[reason]
            },
            "ids": {reason: texts["id"][reasons == reason].tolist() for reason in REASONS if by_reason[reason]},
        }
        if kind == "stories":
            counts["kept_by_emotion"] = {emotion: int((kept["emotion"] == emotion).sum()) for emotion in emotions}
            empty = [emotion for emotion, count in counts["kept_by_emotion"].items() if count == 0]
            if empty:
                raise UserError(
                    f"no story is left for {', '.join(empty)} (dropped: {dict(by_reason)}); add stories, relax "
                    f"corpora.*.screening, or take the words out of corpora.*.emotions"
                )
        write_corpus(kept, target)
    with replacing(report) as temporary:
        temporary.write_text(json.dumps(counts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
