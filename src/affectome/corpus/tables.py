"""Tables of texts: reading what users have, and the Parquet form everything later reads.

A *corpus table* has the columns `id, emotion, topic, text, writer, n_words`; `id` is a hash of emotion and text, so the
same story has the same id wherever it comes from. Neutral texts have an empty emotion. This module is imported at every
parse of the workflow, so pandas is imported only where a table is really read.
"""

import csv
import hashlib
import json
import sqlite3
import unicodedata
from collections.abc import Iterator
from contextlib import closing
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from affectome.errors import UserError
from affectome.files import read_table, write_table

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("id", "emotion", "topic", "text", "writer", "n_words")

# Files up to this size are read to the end when the configuration is checked; larger ones are checked by the job.
_PEEK_BYTES = 50_000_000


def read_texts(file: str, columns: dict[str, str], table: str | None, emotions: bool = True) -> "pd.DataFrame":
    """Texts of `file` as strings in the columns `emotion, topic, text`, in file order.

    `columns` maps our names to the file's where they differ; `topic` may be absent, and `emotion` too if `emotions` is
    False. Raises UserError where the file is missing, unreadable, empty or lacks a column.
    """
    import pandas as pd

    mistakes = peek(file, columns, table, emotions)[1]
    if mistakes:
        raise UserError(f"{file}: {'; '.join(mistakes)}")
    try:
        match Path(file).suffix:
            case ".parquet":
                frame = pd.read_parquet(file)
            case ".jsonl" | ".csv" | ".tsv":
                frame = pd.DataFrame(_rows(Path(file)), dtype=object)
            case _:
                with closing(_connect(file)) as connection:
                    frame = pd.read_sql_query(f"SELECT * FROM {_quoted(table)}", connection)  # noqa: S608 - quoted
    except (ValueError, OSError, csv.Error) as error:
        raise UserError(f"{file}: cannot be read as {Path(file).suffix} ({error})") from error
    missing = _missing(columns, set(frame.columns), emotions)
    if missing:
        raise UserError(f"{file}: {missing}")
    if frame.empty:
        raise UserError(f"{file}: holds no rows")
    found = {ours: columns.get(ours, ours) for ours in ("emotion", "topic", "text")}
    tidy = {ours: frame.get(theirs, "") for ours, theirs in found.items()}
    return pd.DataFrame(tidy, index=frame.index, dtype=object).fillna("").map(clean)


def peek(
    file: str, columns: dict[str, str], table: str | None, emotions: bool = True
) -> tuple[set[str] | None, list[str]]:
    """The emotions in a file and what is wrong with it, found cheaply enough for every parse.

    The emotions are None where finding them would take long (large files, Parquet): then the importing job checks.
    """
    path = Path(file)
    if not path.is_file():
        return None, [f"file: {file!r} does not exist; give the path of a table of texts"]
    if path.suffix == ".parquet":
        return None, [] if path.stat().st_size > 8 else [f"file: {file!r} is empty"]
    try:
        rows = _sqlite_emotions(file, columns, str(table)) if table is not None else _rows(path)
        first = next(rows, None)
        if first is None:
            return None, [f"file: {file!r} is empty; an empty corpus has nothing to read"]
        missing = _missing(columns, set(first), emotions)
        if missing:
            return None, [missing]
        if not emotions or (path.stat().st_size > _PEEK_BYTES and table is None):
            return None, []
        name = columns.get("emotion", "emotion")
        return {clean(row.get(name) or "") for row in chain([first], rows)} - {""}, []
    except (ValueError, csv.Error, sqlite3.Error) as error:
        return None, [f"file: {file!r} cannot be read as {path.suffix}: {error}"]


def clean(text: Any) -> str:
    """Text in Unicode NFC with line ends as newlines, no space around it and ? for half a surrogate pair."""
    text = str(text).encode(errors="replace").decode()
    return unicodedata.normalize("NFC", text).replace("\r\n", "\n").replace("\r", "\n").strip()


def text_id(emotion: str, text: str) -> str:
    """16 hex digits that identify a text under its emotion."""
    return hashlib.sha256(f"{emotion}\0{text}".encode()).hexdigest()[:16]


def as_corpus(frame: "pd.DataFrame", writer: str) -> "pd.DataFrame":
    """A corpus table of texts with `emotion, topic, text`."""
    frame = frame.reset_index(drop=True)
    ids = [text_id(emotion, text) for emotion, text in zip(frame["emotion"], frame["text"], strict=True)]
    words = [len(text.split()) for text in frame["text"]]
    return frame.assign(id=ids, writer=writer, n_words=words)[list(COLUMNS)]


def empty_corpus() -> "pd.DataFrame":
    """A corpus table without rows, typed like any other."""
    import pandas as pd

    return as_corpus(pd.DataFrame({name: pd.Series(dtype=str) for name in ("emotion", "topic", "text")}), "")


def write_corpus(frame: "pd.DataFrame", path: str | Path) -> None:
    """Write a corpus table as Parquet, whole or not at all."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_table(path, frame)


def read_corpus(path: str | Path) -> "pd.DataFrame":
    """Read a corpus table written by `write_corpus`."""
    return read_table(path)


def _missing(columns: dict[str, str], found: set[str], emotions: bool) -> str:
    for ours in ("emotion", "text") if emotions else ("text",):
        theirs = columns.get(ours, ours)
        if theirs not in found:
            return f"columns.{ours}: there is no column {theirs!r}; the file has {', '.join(sorted(map(str, found)))}"
    return ""


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    # utf-8-sig: spreadsheets put a byte order mark in front.
    with open(path, encoding="utf-8-sig", newline="") as handle:
        if path.suffix == ".jsonl":
            for number, line in enumerate(handle, start=1):
                if line.strip():
                    try:
                        row = json.loads(line)
                    except json.JSONDecodeError as error:
                        raise ValueError(f"line {number} is not JSON ({error.msg})") from error
                    if not isinstance(row, dict):
                        raise ValueError(f"line {number} is not a JSON object")
                    yield row
        else:
            reader = csv.DictReader(handle, delimiter="\t" if path.suffix == ".tsv" else ",")
            for row in reader:
                # An unquoted separator inside a text would otherwise cut the text short without a word.
                if None in row or None in row.values():
                    raise ValueError(f"line {reader.line_num} has not as many fields as the header")
                yield row


def _connect(file: str) -> sqlite3.Connection:
    return sqlite3.connect(f"{Path(file).resolve().as_uri()}?mode=ro", uri=True)


def _sqlite_emotions(file: str, columns: dict[str, str], table: str) -> Iterator[dict[str, Any]]:
    """A first row with every column, then one row per distinct emotion."""
    with closing(_connect(file)) as connection:
        names = [
            name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type IN ('table', 'view')")
        ]
        if table not in names:
            raise ValueError(f"there is no table {table!r}; it has {', '.join(sorted(names))}")
        cursor = connection.execute(f"SELECT * FROM {_quoted(table)} LIMIT 1")  # noqa: S608 - quoted
        header = [column[0] for column in cursor.description]
        for row in cursor:
            yield dict(zip(header, row, strict=True))
        emotion = columns.get("emotion", "emotion")
        if emotion in header:
            query = f"SELECT DISTINCT {_quoted(emotion)} FROM {_quoted(table)}"  # noqa: S608 - quoted
            for (value,) in connection.execute(query):
                yield {emotion: value}


def _quoted(name: str) -> str:
    """`name` as an SQL identifier, whatever it holds."""
    return '"' + name.replace('"', '""') + '"'
