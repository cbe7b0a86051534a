"""Texts in files that users have: JSONL, CSV, Parquet and SQLite.

Texts are read one by one, so that a file may be larger than memory. This module is imported at every parse of the
workflow, so PyArrow is imported only where a table is really read.
"""

import csv
import json
import logging
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from itertools import chain
from pathlib import Path
from typing import Any

from affectome.corpus.sources import sqlite
from affectome.corpus.sources.cells import Record, labels_of, text_of
from affectome.corpus.tables import clean
from affectome.errors import UserError

log = logging.getLogger(__name__)

# Files up to this size are read to the end when the configuration is checked; larger ones are checked by the job.
_PEEK_BYTES = 50_000_000

_EMPTY = "is empty; an empty corpus has nothing to read"


def read_records(
    file: str, columns: dict[str, str], table: str | None = None, emotions: bool = True
) -> Iterator[Record]:
    """Texts of `file` in its order, with their labels if `emotions`.

    `columns` maps our names (`emotion, topic, text`) to the file's where they differ; `topic` may be absent, and
    `emotion` too if `emotions` is False. An SQLite file is inspected where config does not say what to read of it, and
    what was chosen is logged. Raises UserError where the file is missing, unreadable, empty or lacks a column.
    """
    path = Path(file)
    if not path.is_file():
        raise UserError(f"{file}: does not exist; give the path of a table of texts")
    read = 0
    try:
        for row in _cells(path, columns, table, emotions):
            read += 1
            labels = labels_of(row.get("emotion")) if emotions else ()
            yield Record(labels, text_of(row.get("topic")), text_of(row.get("text")))
    except UserError as error:
        raise UserError(f"{file}: {error}") from error
    except (ValueError, OSError, csv.Error, sqlite3.Error) as error:
        raise UserError(f"{file}: cannot be read as {path.suffix} ({' '.join(str(error).split())})") from error
    if not read:
        raise UserError(f"{file}: {_EMPTY}")


def peek(
    file: str, columns: dict[str, str], table: str | None = None, emotions: bool = True
) -> tuple[set[str] | None, list[str]]:
    """The emotions in a file and what is wrong with it, found cheaply enough for every parse.

    The emotions are None where finding them would take long (large files, Parquet): then the importing job checks.
    """
    path = Path(file)
    if not path.is_file():
        return None, [f"file: {file!r} does not exist; give the path of a table of texts"]
    size = path.stat().st_size
    if path.suffix == ".parquet":
        return None, [] if size > 8 else [f"file: {file!r} is empty"]
    wanted = emotions and size <= _PEEK_BYTES
    try:
        if path.suffix in sqlite.SUFFIXES:
            values = _sqlite_emotions(file, columns, table, emotions, wanted)
        else:
            values = _file_emotions(path, columns, emotions, wanted)
        if values is None:
            return None, [f"file: {file!r} {_EMPTY}"]
        found = {clean(labels[0]) for value in values if len(labels := labels_of(value)) == 1}
        return (found - {""} if wanted else None), []
    except UserError as error:
        return None, [str(error)]
    except (ValueError, OSError, csv.Error, sqlite3.Error) as error:
        return None, [f"file: {file!r} cannot be read as {path.suffix}: {error}"]


def _missing(columns: dict[str, str], found: Iterable[str], emotions: bool) -> None:
    for ours in ("emotion", "text") if emotions else ("text",):
        theirs = columns.get(ours, ours)
        if theirs not in found:
            raise UserError(
                f"columns.{ours}: there is no column {theirs!r}; the file has {', '.join(sorted(map(str, found)))}"
            )


def _cells(path: Path, columns: dict[str, str], table: str | None, emotions: bool) -> Iterator[dict[str, Any]]:
    """Rows with what stands in the columns of `emotion`, `topic` and `text`, by these names."""
    if path.suffix in sqlite.SUFFIXES:
        with closing(sqlite.connect(str(path))) as connection:
            choice = sqlite.choose(connection, columns, table, emotions)
            if choice.why:
                log.info("%s: %s", path, choice.why)
            yield from sqlite.rows(connection, choice)
        return
    theirs = {ours: columns.get(ours, ours) for ours in ("emotion", "topic", "text")}
    rows = _parquet_rows(path, columns, emotions) if path.suffix == ".parquet" else _rows(path)
    for number, row in enumerate(rows):
        if number == 0:
            _missing(columns, row, emotions)
        yield {ours: row.get(name) for ours, name in theirs.items()}


def _sqlite_emotions(
    file: str, columns: dict[str, str], table: str | None, emotions: bool, wanted: bool
) -> Iterable[Any] | None:
    """The values that stand for emotions, none where they are not `wanted`; None where there are no rows."""
    with closing(sqlite.connect(file)) as connection:
        choice = sqlite.choose(connection, columns, table, emotions)
        if sqlite.is_empty(connection, choice):
            return None
        return sqlite.emotions_of(connection, choice) if wanted else ()


def _file_emotions(path: Path, columns: dict[str, str], emotions: bool, wanted: bool) -> Iterable[Any] | None:
    """The same of a file of lines."""
    rows = _rows(path)
    first = next(rows, None)
    if first is None:
        return None
    _missing(columns, first, emotions)
    return (row.get(columns.get("emotion", "emotion")) for row in chain([first], rows)) if wanted else ()


def _parquet_rows(path: Path, columns: dict[str, str], emotions: bool) -> Iterator[dict[str, Any]]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        header = file.schema_arrow.names
        _missing(columns, header, emotions)
        wanted = [name for ours in ("emotion", "topic", "text") if (name := columns.get(ours, ours)) in header]
        for batch in file.iter_batches(batch_size=1000, columns=wanted):
            yield from batch.to_pylist()


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
