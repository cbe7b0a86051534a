"""Which emotions are mistaken for which others, so that stories can be written that keep them apart."""

import csv
from collections.abc import Sequence
from pathlib import Path

from affectome.errors import UserError


def read_contrasts(path: str | Path, emotions: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Emotions and what each is mistaken for, from a CSV file with a row `emotion, unlike` per pair, in its order.

    Raises UserError where a column is missing, or a word is none of `emotions` or contrasted with itself.
    """
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    missing = {"emotion", "unlike"} - set(reader.fieldnames or ())
    if missing or not rows:
        raise UserError(f"{path}: holds no pairs; give a row per pair under the header emotion,unlike")
    found: dict[str, tuple[str, ...]] = {}
    for row in rows:
        emotion, unlike = (str(row[name] or "").strip() for name in ("emotion", "unlike"))
        for word in (emotion, unlike):
            if word not in emotions:
                raise UserError(f"{path}: {word!r} is none of the corpus's emotions; correct it or add it there")
        if emotion == unlike:
            raise UserError(f"{path}: {emotion!r} is contrasted with itself; name another emotion")
        found[emotion] = (*found.get(emotion, ()), unlike)
    return found
