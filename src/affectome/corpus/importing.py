"""Bring an existing corpus into corpus tables."""

from pathlib import Path
from typing import Any

from affectome.corpus.tables import as_corpus, empty_corpus, read_texts, write_corpus


def import_corpus(
    stories: dict[str, Any], neutral: dict[str, Any] | None, raw_stories: str | Path, raw_neutral: str | Path
) -> None:
    """Read the files that `stories` and `neutral` describe (as in `corpora.*`) into the tables `raw_*`, in order."""
    write_corpus(as_corpus(read_texts(**stories), f"file:{Path(stories['file']).name}"), raw_stories)
    if neutral is None:
        write_corpus(empty_corpus(), raw_neutral)
    else:
        texts = read_texts(**neutral, emotions=False).assign(emotion="")
        write_corpus(as_corpus(texts, f"file:{Path(neutral['file']).name}"), raw_neutral)
