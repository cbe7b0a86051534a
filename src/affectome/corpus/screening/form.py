"""Whether a text has the form of a whole one: it ends, it does not go round in circles, its turns alternate."""

import re
from collections import Counter, defaultdict
from itertools import pairwise

# Also the signs of other scripts; then whatever closes a quotation, a bracket or an emphasis.
_ENDS = re.compile(r"(?:[.!?…‽。！？｡؟۔।]|[-–—][\"”’'»“」』])[\"”’'»“‘」』)\]*_]*\Z")

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")

# Of 1,098 shipped texts none repeats more than 3.4 % of its runs of four words, and none says more than nine words
# (of three, three times) by repeating the same ones at least three times in a row.
_RUN = 4
_MOST_REPEATED = 0.2
_FEWEST_TIMES = 3
_FEWEST_WORDS = 12

_LETTERS = re.compile(r"([^\W\d_])\1{15}")

_TURN = re.compile(r"^(Person|AI):", re.MULTILINE)


def is_truncated(text: str) -> bool:
    """Whether `text` stops without the end of a sentence; speech that breaks off (“But I—”) is an end."""
    return not _ENDS.search(text.rstrip())


def has_loop(text: str) -> bool:
    """Whether `text` repeats itself as a stuck language model does.

    That is more than a fifth of its runs of four words, or the same words at least three times in a row and twelve
    words of it altogether, or a letter sixteen times.
    """
    words = [word.lower() for word in _WORD.findall(text)]
    places: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for start in range(len(words) - _RUN + 1):
        places[tuple(words[start : start + _RUN])].append(start)
    runs = len(words) - _RUN + 1
    if len(words) >= _FEWEST_WORDS and runs - len(places) > _MOST_REPEATED * runs:
        return True
    # What goes round repeats its runs at the distance of its period, but for some that recur within it.
    distances = Counter(later - start for found in places.values() for start, later in pairwise(found))
    periods = (period for period, times in distances.items() if 2 * times >= _fewest_same(period) - _RUN)
    return any(_goes_round(words, period) for period in periods) or bool(_LETTERS.search(text))


def has_turns(text: str) -> bool:
    """Whether `text` alternates turns `Person:` and `AI:`, from a person's first to an AI model's last, none empty."""
    before, *turns = _TURN.split(text.strip())
    labels, said = turns[::2], turns[1::2]
    expected = ["Person", "AI"] * (len(labels) // 2)
    return not before and bool(labels) and labels == expected and all(words.strip() for words in said)


def _goes_round(words: list[str], period: int) -> bool:
    """Whether somewhere each word is that of `period` words before, for long enough."""
    same = 0
    for word, earlier in zip(words[period:], words, strict=False):
        same = same + 1 if word == earlier else 0
        if same >= _fewest_same(period):
            return True
    return False


def _fewest_same(period: int) -> int:
    """Words in a row that are those of `period` words before, where something goes round for long enough."""
    return max((_FEWEST_TIMES - 1) * period, _FEWEST_WORDS - period)
