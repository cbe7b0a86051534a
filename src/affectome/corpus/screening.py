"""Which texts of a corpus are dropped, and the count of every one by reason and emotion."""

import re
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from affectome.corpus.tables import read_corpus, write_corpus
from affectome.errors import UserError
from affectome.files import write_json

# In the order in which they are looked for; a text is counted under the first that applies.
REASONS = ("not_listed", "duplicate", "leak", "too_short", "too_long")

# Inflected forms that are mostly another word: finding one says nothing about the emotion.
_OTHER_WORDS = {"bore", "contents", "kinds", "long", "patients", "pleas", "please", "safes", "tire", "tires", "will"}

_VERB_ENDINGS = ("s", "ed", "ing")
_ENDINGS = (*_VERB_ENDINGS, "er", "est", "ly", "ness")


@cache
def leak_pattern(emotion: str) -> re.Pattern[str]:
    """What matches `emotion` or an inflection of it in a text, whatever its case.

    Inflections are those English makes by rule, with the usual changes of spelling: -s, -ed, -ing, -er, -est, -ly and
    -ness, and for a participle (alarmed, loving) its verb with -s, -ed and -ing. Irregular forms (stuck: stick),
    derivations (angry: anger, angered; hope: hopeful) and forms that are mostly another word (patient: patients) pass.
    A compound (grief-stricken) is inflected at its end and may be written with spaces or hyphens; so may a phrase
    (at ease), which is not inflected.
    """
    *before, last = re.split(r"[\s-]+", emotion.lower())
    forms = {last} if " " in emotion else _inflections(last)
    parts = [*map(re.escape, before), f"(?:{'|'.join(map(re.escape, sorted(forms)))})"]
    # Hyphens are also written as U+2010 and U+2011; an underscore is emphasis, not part of a word.
    return re.compile(r"(?<![^\W_])" + r"[\s\u2010\u2011-]+".join(parts) + r"(?![^\W_])", re.IGNORECASE)


def _inflections(word: str) -> set[str]:
    forms = {word}.union(*(_spellings(word, ending) for ending in _ENDINGS))
    for ending in ("ed", "ing"):
        stem = word.removesuffix(ending)
        for verb in {stem, stem + "e", stem[:-1], stem[:-1] + "y"}:
            if len(verb) > 2 and word in _spellings(verb, ending):
                forms |= {verb}.union(*(_spellings(verb, other) for other in _VERB_ENDINGS))
    return forms - (_OTHER_WORDS - {word})


def _spellings(word: str, ending: str) -> set[str]:
    """How English writes `word` with `ending`; where that depends on its sound, every possibility."""
    if re.fullmatch(r"[^aeiou]*[aeiou][^aeiouwxy]", word) and ending[0] in "aeiou":
        return {word + word[-1] + ending}  # mad: madder, never mader; hence scared is not from scar
    forms = {word + ending}
    if re.search(r"[^aeiou]y$", word):
        forms |= {word[:-1] + ("ies" if ending == "s" else "i" + ending)}
    if ending == "s" and re.search(r"(s|x|z|ch|sh)$", word):
        forms |= {word + "es"}
    if ending[0] in "aeiou":
        forms |= {word[:-1] + ending} if word.endswith("e") else set()
        forms |= {word + "k" + ending} if word.endswith("c") else set()
        forms |= {word + word[-1] + ending} if re.search(r"[^aeiou][aeiou][^aeiouwxy]$", word) else set()
    if ending == "ly":
        forms |= {word + "ally"} if word.endswith("ic") else set()
        forms |= {word[:-1] + "y"} if word.endswith(("le", "ll")) else set()
    return forms


def screen(
    texts: pd.DataFrame, emotions: list[str], leaks: bool, duplicates: bool, min_words: int, max_words: int
) -> tuple[pd.DataFrame, pd.Series]:
    """The corpus table `texts` without dropped rows, and the reason per row of `texts` ("" where it is kept).

    Neutral texts, whose emotion is empty, are screened for repetition and length only; `emotions` is [""] for them.
    """
    reasons = pd.Series("", index=texts.index)

    def drop(reason: str, rows: pd.Series) -> None:
        reasons[rows & (reasons == "")] = reason

    drop("not_listed", ~texts["emotion"].isin(emotions))
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
        kept, reasons = screen(texts, emotions if kind == "stories" else [""], **rules)
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
    write_json(report, counts)
