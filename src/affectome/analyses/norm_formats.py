"""Which columns of a file of human ratings are what: published norms are recognised by their header and first rows.

- `warriner` (Warriner et al. 2013): CSV with `Word`, `V.Mean.Sum`, `A.Mean.Sum`, `D.Mean.Sum`;
- `glasgow` (Scott et al. 2019): CSV, as published with two rows of header, `Words, Length, AROU, , , VAL, …` and
  `, , M, SD, N, M, …`, or as shipped here, with `emotion`, `valence_M`, `arousal_M`, `dominance_M`;
- `russell-mehrabian` (1977): CSV as shipped here, with `emotion`, `P_mean`, `A_mean`, `D_mean`;
- `nrc-vad` (Mohammad 2018 and 2025, versions 1 to 2.1): between tabs `Word` or `term`, `Valence`, `Arousal`,
  `Dominance`; or no header, but a word and three numbers from −1 to 1;
- `plain`: `word`, `term` or `emotion`, with `valence`, `arousal` and perhaps `dominance`, whatever stands between them.

This module is imported at every parse of the workflow, so it needs nothing but the standard library.
"""

import csv
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from affectome.errors import UserError

# Rows that a file without a header is known by.
_LOOKED_AT = 20

# Names of the word's column and of valence, arousal and dominance in norms with one row of header.
_HEADERS = {
    "warriner": ("Word", "V.Mean.Sum", "A.Mean.Sum", "D.Mean.Sum"),
    "russell-mehrabian": ("emotion", "P_mean", "A_mean", "D_mean"),
    "glasgow": ("emotion", "valence_M", "arousal_M", "dominance_M"),
}
_WORD = ("word", "term", "emotion")
_DIMENSIONS = ("valence", "arousal", "dominance")


@dataclass(frozen=True)
class Format:
    """How a file of ratings is read: `header` rows, then cells between `delimiter`s in these `columns`.

    `word`, `valence`, `arousal` and `dominance` are names of columns, None where the file has none or none is known.
    """

    norm: str
    delimiter: str
    header: int
    columns: tuple[str, ...]
    word: str | None = None
    valence: str | None = None
    arousal: str | None = None
    dominance: str | None = None


def recognise(file: str | Path) -> Format | None:
    """The format of a file of ratings as far as its first rows tell; None where they are those of no norm known here.

    Raises UserError where the file cannot be read.
    """
    lines = _head(file)
    for delimiter in (",", "\t", ";"):
        rows = _split(lines, delimiter)
        found = rows and (_two_rows(rows, delimiter) or _one_row(rows, delimiter) or _no_row(rows, delimiter))
        if found:
            return found
    return None


def complete(file: str | Path, columns: Mapping[str, str | None]) -> Format:
    """The format of `file`, in which `columns` (word, valence, arousal, dominance) name columns, as in `norms.*`.

    A name that is given stands. Those of a file that is recognised are added where the word's column or both valence
    and arousal are not named; so naming none means that all are taken from what the file is recognised as. Raises
    UserError where columns are not named and the file is not recognised.
    """
    found = recognise(file)
    named = {key: columns[key] for key in ("word", *_DIMENSIONS) if columns.get(key)}
    if "word" in named and named.keys() & {"valence", "arousal"}:
        plain = Format("plain", found.delimiter, found.header, found.columns) if found else _as_csv(file)
        return replace(plain, **named)
    if found is None:
        raise UserError(
            f"{file}: is no norm that is recognised; its first line is {_first_line(file)}; name its columns of words, "
            f"valence and arousal (norms.*.word, valence, arousal)"
        )
    return replace(found, **named)


def _head(file: str | Path) -> list[str]:
    """The first lines of `file` that are not blank."""
    try:
        with open(file, encoding="utf-8-sig", errors="replace", newline="") as handle:
            return list(itertools.islice(filter(str.strip, handle), _LOOKED_AT))
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}); give the path of a file of ratings") from error


def _split(lines: list[str], delimiter: str) -> list[list[str]]:
    """Rows of cells. Between tabs, quotation marks are signs like any other."""
    quoting = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL
    try:
        rows = list(csv.reader(lines, delimiter=delimiter, quoting=quoting))
    except csv.Error:
        return []
    return [row for row in rows if row]


def _as_csv(file: str | Path) -> Format:
    rows = _split(_head(file), ",")
    return Format("plain", ",", 1, tuple(rows[0]) if rows else ())


def _first_line(file: str | Path) -> str:
    line = " ".join(next(iter(_head(file)), "").split())
    return repr(line[:80] + "…" if len(line) > 80 else line) if line else "empty"


def _two_rows(rows: list[list[str]], delimiter: str) -> Format | None:
    """The Glasgow norms as published: a measure stands over the first of its three columns, M, SD and N."""
    if len(rows) < 2 or not {"AROU", "VAL", "DOM"} <= set(rows[0]) or "M" not in rows[1]:
        return None
    measure, columns = "", []
    for above, below in itertools.zip_longest(*rows[:2], fillvalue=""):
        measure = above.strip() or measure
        columns.append(f"{measure} {below.strip()}".strip())
    wanted = {"word": columns[0], "valence": "VAL M", "arousal": "AROU M", "dominance": "DOM M"}
    return Format("glasgow", delimiter, 2, tuple(columns), **wanted) if set(wanted.values()) <= set(columns) else None


def _one_row(rows: list[list[str]], delimiter: str) -> Format | None:
    columns = tuple(cell.strip() for cell in rows[0])
    for norm, (word, *dimensions) in _HEADERS.items():
        if {word, *dimensions} <= set(columns):
            return Format(norm, delimiter, 1, columns, word, *dimensions)
    ours = {cell.lower(): cell for cell in columns}
    word = next((ours[name] for name in _WORD if name in ours), None)
    if word is None or not {"valence", "arousal"} <= ours.keys():
        return None
    norm = "nrc-vad" if delimiter == "\t" and "dominance" in ours else "plain"
    return Format(norm, delimiter, 1, columns, word, ours["valence"], ours["arousal"], ours.get("dominance"))


def _no_row(rows: list[list[str]], delimiter: str) -> Format | None:
    """NRC VAD without a header: between tabs, a word and three numbers from −1 to 1."""
    if delimiter != "\t" or not all(len(row) == 4 and all(map(_is_rating, row[1:])) for row in rows):
        return None
    columns = ("word", *_DIMENSIONS)
    return Format("nrc-vad", delimiter, 0, columns, *columns)


def _is_rating(cell: str) -> bool:
    try:
        return -1 <= float(cell) <= 1
    except ValueError:
        return False
