"""Texts in an SQLite file, also in one whose tables nobody has described.

Where the configuration names no table, or a table without the columns that are needed, the file is inspected. Texts
stand in a column of strings that is called so or has long ones; emotions in one of short strings that is called so or
has few of them that come back. Of the tables that have both, the one with the longest texts on average is read. Where
two fit alike, neither is. What is looked at is a sample of each table, which is cheap enough for every parse of the
workflow.
"""

import re
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from affectome.errors import UserError

SUFFIXES = (".sqlite", ".sqlite3", ".db")

_OURS = ("emotion", "topic", "text")

# Words in names of columns; of emotions, the surer ones and the others.
_EMOTIONS = {"emotion", "emotions", "feeling", "feelings", "mood"}
_LABELS = {"label", "labels", "category", "sentiment"}
_TOPICS = {"topic", "theme", "subject", "scenario"}
_TEXTS = {"text", "story", "content", "completion", "response", "output", "body", "passage", "dialogue"}

# Rows that are looked at from either end of a table: one sorted by emotion still shows two.
_SAMPLE = 200

# Characters on average, from which strings are texts and up to which they are emotions.
_LONG, _SHORT = 40, 30

# Texts of this share of the longest are as long; with less than the other, a column called text has something else.
_AS_LONG, _TOO_SHORT = 0.8, 0.1


@dataclass(frozen=True)
class Choice:
    """What is read: `table`, its `columns` by our names (those it has), and `why` ("" where config says it all)."""

    table: str
    columns: dict[str, str]
    why: str = ""


@dataclass(frozen=True)
class _Column:
    """Strings of a column in a sample of rows."""

    name: str
    strings: int
    different: int
    length: float

    @property
    def words(self) -> set[str]:
        return set(re.findall(r"[a-z]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", self.name).lower()))


@dataclass(frozen=True)
class _Fit:
    """A table that could be read; where a column is in doubt, `columns` has more than one for it."""

    table: str
    derived: bool
    columns: dict[str, list[_Column]]
    named: bool
    sureness: int

    @property
    def length(self) -> float:
        return max(column.length for column in self.columns["text"])


def connect(file: str) -> sqlite3.Connection:
    """Open `file` for reading only."""
    return sqlite3.connect(f"{Path(file).resolve().as_uri()}?mode=ro", uri=True)


def choose(connection: sqlite3.Connection, columns: dict[str, str], table: str | None, emotions: bool) -> Choice:
    """The table and columns to read, where config says `columns` (ours: the file's) and `table` of them.

    Neutral texts need no column of emotions (`emotions` is False). Raises UserError, whose text begins with the key to
    set and lists what there is, where a table or column that config names is not there, where nothing fits, and where
    two fit alike.
    """
    kinds = _kinds(connection)
    if table is not None and table not in kinds:
        raise UserError(f"table: there is no table {table!r}; it has {', '.join(sorted(kinds)) or 'none'}")
    needed = ("emotion", "text") if emotions else ("text",)
    if table is not None:
        header = _header(connection, table)
        if all(columns.get(ours, ours) in header for ours in needed):
            return Choice(table, {ours: name for ours in _OURS if (name := columns.get(ours, ours)) in header})
    candidates = [table] if table is not None else list(kinds)
    samples = {name: sample for name in candidates if (sample := _sample(connection, name, kinds[name])) is not None}
    mapped = {ours: columns[ours] for ours in needed if ours in columns}
    for ours, theirs in mapped.items():
        if not any(theirs in (column.name for column in sample) for sample in samples.values()):
            raise UserError(f"columns.{ours}: there is no column {theirs!r}; {_inventory(connection, samples)}")
    fits = [fit for name, sample in samples.items() if (fit := _fit(name, kinds[name], sample, columns, needed))]
    if not fits:
        raise UserError(
            f"table: none has {' and '.join(f'a column of {ours}s' for ours in needed)} that shows by name or content; "
            f"{_inventory(connection, samples)}; set table and columns"
        )
    best = max(fits, key=lambda fit: (fit.named, fit.length))
    alike = [fit for fit in fits if fit.named == best.named and fit.length >= _AS_LONG * best.length]
    alike = [fit for fit in alike if fit.sureness == max(fit.sureness for fit in alike)]
    # A view of a table, or an index of its words, has the same rows again.
    alike = [fit for fit in alike if not fit.derived] or alike
    if len(alike) > 1:
        names = " and ".join(repr(fit.table) for fit in alike)
        raise UserError(f"table: {names} fit alike; {_inventory(connection, samples)}; set table to one of them")
    (chosen,) = alike
    for ours, found in chosen.columns.items():
        if len(found) > 1:
            names = " and ".join(repr(column.name) for column in found)
            raise UserError(
                f"columns.{ours}: {names} of table {chosen.table!r} fit alike; {_inventory(connection, samples)}; set "
                f"columns.{ours} to one of them"
            )
    picked = {ours: found[0] for ours, found in chosen.columns.items()}
    return Choice(chosen.table, {ours: column.name for ours, column in picked.items()}, _why(chosen.table, picked))


def rows(connection: sqlite3.Connection, choice: Choice) -> Iterator[dict[str, Any]]:
    """The rows of what was chosen, in the order in which they were put in, by our names."""
    selected = ", ".join(map(_quoted, choice.columns.values()))
    query = f"SELECT {selected} FROM {_quoted(choice.table)}"  # noqa: S608 - quoted
    # Without being told, SQLite may read them in the order of an index.
    if _has_rowid(connection, choice.table, _kinds(connection)[choice.table]):
        query += " ORDER BY _rowid_"
    for row in connection.execute(query):
        yield dict(zip(choice.columns, row, strict=True))


def emotions_of(connection: sqlite3.Connection, choice: Choice) -> set[Any]:
    """The different values in the column of emotions."""
    query = f"SELECT DISTINCT {_quoted(choice.columns['emotion'])} FROM {_quoted(choice.table)}"  # noqa: S608 - quoted
    return {value for (value,) in connection.execute(query)}


def is_empty(connection: sqlite3.Connection, choice: Choice) -> bool:
    """Whether the table has no rows."""
    query = f"SELECT 1 FROM {_quoted(choice.table)} LIMIT 1"  # noqa: S608 - quoted
    return connection.execute(query).fetchone() is None


def _kinds(connection: sqlite3.Connection) -> dict[str, str]:
    """What each that can be read is by name: a table, a view or virtual."""
    listed = connection.execute("SELECT name, type, sql FROM sqlite_master WHERE type IN ('table', 'view')").fetchall()
    virtual = re.compile(r"\s*CREATE\s+VIRTUAL", re.IGNORECASE)
    return {
        name: "virtual" if virtual.match(sql or "") else kind
        for name, kind, sql in listed
        if not name.startswith("sqlite_")
    }


def _header(connection: sqlite3.Connection, table: str) -> list[str]:
    cursor = connection.execute(f"SELECT * FROM {_quoted(table)} LIMIT 0")  # noqa: S608 - quoted
    return [column[0] for column in cursor.description]


def _has_rowid(connection: sqlite3.Connection, table: str, kind: str) -> bool:
    if kind != "table":
        return False
    try:
        connection.execute(f"SELECT _rowid_ FROM {_quoted(table)} LIMIT 0")  # noqa: S608 - quoted
    except sqlite3.OperationalError:
        return False
    return True


def _sample(connection: sqlite3.Connection, table: str, kind: str) -> list[_Column] | None:
    """The columns of a table as some of its rows show them; None where it cannot be read."""
    query = f"SELECT * FROM {_quoted(table)}"  # noqa: S608 - quoted
    try:
        header = _header(connection, table)
        if _has_rowid(connection, table, kind):
            ends = [connection.execute(f"{query} ORDER BY _rowid_ {way} LIMIT {_SAMPLE}") for way in ("ASC", "DESC")]
        else:
            ends = [connection.execute(f"{query} LIMIT {2 * _SAMPLE}")]
        values = list(zip(*chain(*ends), strict=True)) or [()] * len(header)
    except sqlite3.Error:
        return None
    return [_column(name, column) for name, column in zip(header, values, strict=True)]


def _column(name: str, values: tuple[Any, ...]) -> _Column:
    strings = [value for value in values if isinstance(value, str) and value]
    length = sum(map(len, strings)) / max(len(strings), 1)
    # Now and then a number among strings, or nothing at all, is still a column of strings.
    mostly = 2 * len(strings) > sum(value is not None for value in values)
    return _Column(name, len(strings) if mostly else 0, len(set(strings)), length)


def _fit(table: str, kind: str, sample: list[_Column], columns: dict[str, str], needed: tuple[str, ...]) -> _Fit | None:
    """What `table` is read by; None where it lacks a column that is needed."""
    by_name = {column.name: column for column in sample}
    found: dict[str, list[_Column]] = {}
    sureness = 0
    free = [column for column in sample if column.strings and column.name not in columns.values()]
    for ours in needed:
        if ours in columns:
            ranked = [(0, by_name[columns[ours]])] if columns[ours] in by_name else []
        else:
            ranked = _emotions_in(free) if ours == "emotion" else _texts_in(free)
        if not ranked:
            return None
        rank = max(rank for rank, _ in ranked)
        found[ours] = [column for each, column in ranked if each == rank]
        free = [column for column in free if column not in found[ours]]
        sureness += rank
    topics = [column for column in free if column.words & _TOPICS]
    topics.sort(key=lambda column: column.name.lower() != "topic")
    if columns.get("topic") in by_name:
        topics = [by_name[columns["topic"]]]
    if topics:
        found["topic"] = topics[:1]
    if "emotion" in needed:
        named = "emotion" in columns or any(column.words & (_EMOTIONS | _LABELS) for column in found["emotion"])
    else:
        # Texts beside an emotion are not the neutral ones.
        named = not any(column.words & (_EMOTIONS | _LABELS) for column in sample)
    return _Fit(table, kind != "table", {ours: found[ours] for ours in _OURS if ours in found}, named, sureness)


def _emotions_in(columns: list[_Column]) -> list[tuple[int, _Column]]:
    """The columns that can hold emotions, with how sure that is."""
    ranked = []
    for column in columns:
        comes_back = 1 < column.different <= column.strings / 2
        rank = (
            4 * (column.name.lower() == "emotion")
            or 3 * bool(column.words & _EMOTIONS)
            or 2 * bool(column.words & _LABELS)
            or (comes_back and not column.words & _TOPICS)
        )
        if rank and column.length <= _SHORT:
            ranked.append((int(rank), column))
    return ranked


def _texts_in(columns: list[_Column]) -> list[tuple[int, _Column]]:
    """The columns that can hold texts, with how sure that is; of those, the ones about as long as the longest."""
    longest = max((column.length for column in columns), default=0.0)
    ranked = []
    for column in columns:
        called = column.length >= _TOO_SHORT * longest and (
            3 * (column.name.lower() == "text") or 2 * bool(column.words & _TEXTS)
        )
        if rank := called or column.length >= _LONG:
            ranked.append((int(rank), column))
    rank = max((rank for rank, _ in ranked), default=0)
    length = max((column.length for each, column in ranked if each == rank), default=0.0)
    return [(each, column) for each, column in ranked if each == rank and column.length >= _AS_LONG * length]


def _why(table: str, picked: dict[str, _Column]) -> str:
    reasons = {"text": "{0.length:.0f} characters on average", "emotion": "{0.different} different", "topic": ""}
    parts = [
        f"{ours} from {column.name!r}" + (f" ({reasons[ours].format(column)})" if reasons[ours] else "")
        for ours, column in picked.items()
    ]
    return f"reads table {table!r}: {', '.join(parts)}, by a sample of its rows"


def _inventory(connection: sqlite3.Connection, samples: dict[str, list[_Column]]) -> str:
    """Tables, columns and numbers of rows, in one line."""
    if not samples:
        return "the file has no table"
    parts = []
    for name, sample in samples.items():
        (count,) = connection.execute(f"SELECT count(*) FROM {_quoted(name)}").fetchone()  # noqa: S608 - quoted
        parts.append(f"{name} ({', '.join(column.name for column in sample)}; {count:,} rows)")
    return f"the file has {', '.join(parts)}"


def _quoted(name: str) -> str:
    """`name` as an SQL identifier, whatever it holds."""
    return '"' + name.replace('"', '""') + '"'
