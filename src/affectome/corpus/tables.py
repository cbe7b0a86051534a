"""The tables that every text of a corpus passes through, and what makes a text the same.

A *corpus table* is a Parquet file with the columns `id, emotion, topic, text, writer, n_words`; `id` is a hash of
emotion and text, so the same story has the same id wherever it comes from. Neutral texts have an empty emotion. This
module is imported at every parse of the workflow, so pandas and PyArrow are imported only where a table is written.
"""

import hashlib
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from affectome.files import read_table, replacing, write_table

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("id", "emotion", "topic", "text", "writer", "n_words")

# Columns of texts' projections on emotions begin with this, so that an emotion may be called anything.
PROJECTION = "projection:"


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


def write_batches(batches: Iterable["pd.DataFrame"], path: str | Path) -> int:
    """Write a corpus table that comes in `batches`, whole or not at all; returns its number of rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    Path(path).parent.mkdir(parents=True, exist_ok=True)
    schema = pa.schema([(name, pa.int64() if name == "n_words" else pa.string()) for name in COLUMNS])
    rows = 0
    with replacing(path) as temporary, pq.ParquetWriter(temporary, schema) as file:
        for batch in batches:
            file.write_table(pa.Table.from_pandas(batch, schema=schema, preserve_index=False))
            rows += len(batch)
    return rows


def read_corpus(path: str | Path) -> "pd.DataFrame":
    """Read a corpus table written by `write_corpus`."""
    return read_table(path)
