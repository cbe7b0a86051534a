"""Whether a text gives its emotion word away.

A word of a text leaks an emotion if it is the emotion word, has the same stem (Snowball's English stemmer; Porter 2001,
https://snowballstem.org) or is one of the regular forms that a stemmer leaves alone (happier, saddest, angrily,
tiredness). Stems join too much and too little: `resources/screening/leaks.tsv` lists, for each emotion, forms that give
it away all the same (anger for angry) and forms that do not although they share its stem (patients for patient).
Opposites (unhappy for happy) pass, and so do irregular forms that tell how the state looks (shaking for shaken).

Of an expression (at ease) every word must be there, in order, joined by spaces or hyphens; a compound with a hyphen
(self-conscious) is inflected at its end. Emotion words of other languages are found as they stand and inflected as
English would inflect them.
"""

import csv
import re
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

_TABLE = Path(__file__).resolve().parents[4] / "resources" / "screening" / "leaks.tsv"

# An underscore is emphasis, not part of a word; hyphens are also written as U+2010 and U+2011.
_LETTERS = r"[^\W_]+"
_START, _END = r"(?<![^\W_])", r"(?![^\W_])"
_JOINT = r"[\s\u2010\u2011-]+"


def leaks(emotion: str, text: str) -> bool:
    """Whether `text` contains `emotion`, or a form of it that gives it away, in whatever case."""
    signs = _signs(emotion.lower())
    if any(signs.shown_by(word.lower()) for word in set(signs.place.findall(text))):
        return True
    return bool(signs.listed and signs.listed.search(text))


@dataclass(frozen=True)
class _Signs:
    """What gives an emotion away: in a certain place some words, and anywhere what the table lists for it."""

    place: re.Pattern[str]
    forms: frozenset[str]
    stem: str | None
    others: frozenset[str]
    listed: re.Pattern[str] | None

    def shown_by(self, word: str) -> bool:
        return word in self.forms or (_stem(word) == self.stem and word not in self.others)


@cache
def _signs(emotion: str) -> _Signs:
    *before, last = re.split(_JOINT, emotion)
    # Only the last word varies, and not that of a phrase with spaces (at ease).
    varies = " " not in emotion and bool(re.fullmatch(_LETTERS, last))
    place = _START + _JOINT.join([*map(re.escape, before), f"({_LETTERS if varies else re.escape(last)})"]) + _END
    verdicts = _table().get(emotion, {})
    others = frozenset(form for form, verdict in verdicts.items() if verdict == "passes")
    listed = [_JOINT.join(map(re.escape, re.split(_JOINT, form))) for form in sorted(verdicts.keys() - others)]
    return _Signs(
        re.compile(place, re.IGNORECASE),
        (_regular_forms(last) if varies else frozenset({last})) - others,
        _stem(last) if varies else None,
        others,
        re.compile(f"{_START}(?:{'|'.join(listed)}){_END}", re.IGNORECASE) if listed else None,
    )


@cache
def _table() -> dict[str, dict[str, str]]:
    """The verdict, leak or passes, on every form that is listed, by emotion."""
    table: dict[str, dict[str, str]] = {}
    with open(_TABLE, encoding="utf-8", newline="") as handle:
        for row in csv.DictReader(handle, delimiter="\t"):
            table.setdefault(row["emotion"], {})[row["form"]] = row["verdict"]
    return table


@lru_cache(maxsize=1 << 18)
def _stem(word: str) -> str:
    from snowballstemmer import EnglishStemmer

    # A stemmer keeps the word it works on, so that threads cannot share one.
    return EnglishStemmer().stemWord(word)


def _regular_forms(word: str) -> frozenset[str]:
    """`word`, and with -er, -est, -ly and -ness; where spelling depends on its sound, every possibility."""
    final_y = re.sub("(?<=[^aeiou])y$", "i", word)
    before_vowel = {final_y.removesuffix("e")}
    if re.search(r"(?<![aeiou])[aeiou][^aeiouwxy]$", word):
        before_vowel.add(word + word[-1])
    compared = {base + ending for base in before_vowel for ending in ("er", "est")}
    return frozenset({word, final_y + "ly", final_y + "ness", word.removesuffix("l") + "ly"} | compared)
