"""Bring an existing corpus into corpus tables."""

import logging
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from affectome.corpus.sources import files, grouping, hub
from affectome.corpus.sources.cells import Record
from affectome.corpus.tables import as_corpus, clean, empty_corpus, write_batches, write_corpus
from affectome.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

# Texts that are in memory at once.
_BATCH = 5000


def import_corpus(
    stories: dict[str, Any], neutral: dict[str, Any] | None, raw_stories: str | Path, raw_neutral: str | Path
) -> None:
    """Read what `stories` and `neutral` describe (as in `corpora.*`) into the tables `raw_*`, in order.

    A record with several labels, which is of no one emotion, is left out unless a grouping says where it belongs.
    Raises UserError where a source cannot be read or nothing is left of it.
    """
    _import(stories, raw_stories, emotions=True)
    if neutral is None:
        write_corpus(empty_corpus(), raw_neutral)
    else:
        _import(neutral, raw_neutral, emotions=False)


def _import(source: dict[str, Any], path: str | Path, emotions: bool) -> None:
    source = dict(source)
    grouped = source.pop("grouping", None) is not None
    if "file" in source:
        name = source["file"]
        writer, records = f"file:{Path(name).name}", files.read_records(**source, emotions=emotions)
    else:
        name = source["dataset"]
        writer, records = hub.read_dataset(**source, emotions=emotions or grouped)
    if grouped:
        records = _grouped(name, records, emotions)
    elif emotions:
        records = _of_one_emotion(name, records)
    texts = write_batches(_batches(name, records, writer, emotions), path)
    log.info("%s: %s texts", name, f"{texts:,}")


def _grouped(name: str, records: Iterable[Record], emotions: bool) -> Iterator[Record]:
    try:
        yield from grouping.ekman(records) if emotions else grouping.neutral(records)
    except ValueError as error:
        raise UserError(
            f"{name}: columns.emotion: {error}; name the column of its labels, or remove grouping"
        ) from error


def _of_one_emotion(name: str, records: Iterable[Record]) -> Iterator[Record]:
    left_out = 0
    for record in records:
        if len(record.labels) > 1:
            left_out += 1
        else:
            yield record
    if left_out:
        log.info("%s: %s texts with several labels are left out", name, f"{left_out:,}")


def _batches(name: str, records: Iterator[Record], writer: str, emotions: bool) -> Iterator["pd.DataFrame"]:
    """Corpus tables of so many texts each."""
    import pandas as pd

    count = 0
    while batch := list(islice(records, _BATCH)):
        count += len(batch)
        rows = [
            (clean(labels[0]) if emotions and labels else "", clean(topic), clean(text))
            for labels, topic, text in batch
        ]
        yield as_corpus(pd.DataFrame(rows, columns=["emotion", "topic", "text"], dtype=object), writer)
    if not count:
        raise UserError(f"{name}: every text was left out, as the log says; change columns or grouping")
