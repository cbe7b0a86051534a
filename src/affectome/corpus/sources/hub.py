"""Texts in data sets of the Hugging Face hub, and in folders of the same form on this machine.

A part of a data set that can be had without the rest (the first rows, a slice counted in rows) is streamed, so that a
thousand texts of a corpus of hundreds of gigabytes take a minute; so is a folder. Everything else is downloaded into
the hub's cache first, where an interrupted download is continued.
"""

import gc
import logging
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import Any

from affectome.corpus.sources.cells import Record, labels_of, text_of
from affectome.errors import UserError

log = logging.getLogger(__name__)

# A split, whole or cut by row numbers.
_STREAMABLE = re.compile(r"([^\[\]+]+)(?:\[(\d*):(\d*)\])?")

# Rows that are asked for at once.
_BATCH = 500


def read_dataset(
    dataset: str,
    revision: str | None,
    name: str | None,
    split: str,
    columns: dict[str, str],
    limit: int | None,
    emotions: bool,
) -> tuple[str, Iterator[Record]]:
    """Where the texts come from (`dataset:owner/name@commit`, or of a folder its name), and the texts in their order.

    `dataset` is a repository, or a folder if `revision` is None; `name` is one of its configurations. `columns` maps
    our names (`emotion, topic, text`) to its where they differ. At most the first `limit` rows are read, without labels
    if `emotions` is False. Classes get their names where the data set has them. Raises UserError where the package is
    missing, the data set cannot be had, or there is no such configuration, split or column.
    """
    with _explained(dataset):
        from datasets import load_dataset_builder

        commit = None if revision is None else _commit(dataset, revision)
        place = str(Path(dataset).resolve()) if commit is None else f"hf://datasets/{dataset}"
        try:
            builder = load_dataset_builder(place, name=name, revision=commit, token=_token())
        except ValueError as error:
            if "onfig" not in str(error):
                raise
            raise UserError(f"name: {_line(error)}") from error
        # Where the hub answers no more, the library falls back to whatever revision it has in its cache.
        if commit is not None and commit != builder.hash:
            raise ConnectionError(f"the hub stopped answering for {commit}")
        parts = _parts(builder, split, streamed=commit is None or limit is not None)
    source = Path(dataset).resolve().name if commit is None else f"{dataset}@{commit}"
    log.info("%s: split %s%s", source, split, "" if limit is None else f", at most {limit:,} rows")
    return f"dataset:{source}", _records(dataset, parts, columns, limit, emotions)


def _commit(dataset: str, revision: str) -> str:
    """The commit that `revision` is now."""
    from huggingface_hub import HfApi

    return str(HfApi(token=_token()).dataset_info(dataset, revision=revision).sha)


def _token() -> str | bool:
    """The token in HF_TOKEN; False, and not whatever else this machine has stored, where it is not set."""
    return os.environ.get("HF_TOKEN", "").strip() or False


def _parts(builder: Any, split: str, streamed: bool) -> list[tuple[Any, int, int | None]]:
    """The data sets that `split` is made of, each with its first row and the one after its last."""
    single = _STREAMABLE.fullmatch(split)
    if single and (streamed or "[" in split):
        splits = builder.as_streaming_dataset()
        if single[1] not in splits:
            raise UserError(f"split: there is no split {single[1]!r}; the data set has {', '.join(splits)}")
        return [(splits[single[1]], int(single[2] or 0), int(single[3]) if single[3] else None)]
    from datasets import ReadInstruction

    builder.download_and_prepare()
    splits = builder.as_dataset()
    try:
        instructions = ReadInstruction.from_spec(split).to_absolute({key: len(rows) for key, rows in splits.items()})
    except (ValueError, AssertionError) as error:
        raise UserError(f"split: {_line(error)}; the data set has {', '.join(splits)}") from error
    return [(splits[each.splitname], each.from_, each.to) for each in instructions]


def _records(
    dataset: str, parts: list[tuple[Any, int, int | None]], columns: dict[str, str], limit: int | None, emotions: bool
) -> Iterator[Record]:
    read = 0
    try:
        with _explained(dataset):
            rows = (islice(_rows(part, columns, emotions), start, stop) for part, start, stop in parts)
            for names, labels, topic, text in islice(chain.from_iterable(rows), limit):
                read += 1
                yield Record(labels_of(labels, names) if emotions else (), text_of(topic), text_of(text))
            if not read:
                raise UserError("is empty; an empty corpus has nothing to read")
    finally:
        # A scan of a Parquet file that was cut short is taken down while Python still runs: its threads abort the
        # process if that is left to the interpreter's end (github.com/huggingface/datasets/issues/7566).
        gc.collect()


def _rows(part: Any, columns: dict[str, str], emotions: bool) -> Iterator[tuple[list[str] | None, Any, Any, Any]]:
    """Names of the classes, if any, and what stands in the columns of emotions, topics and texts."""
    theirs = [columns.get(ours, ours) for ours in ("emotion", "topic", "text")]
    if part.column_names is not None:
        _check_columns(part.column_names, columns, emotions)
        # What else there is, such as pictures and sounds, need not be decoded.
        part = part.select_columns([name for name in dict.fromkeys(theirs) if name in part.column_names])
    names = _class_names((part.features or {}).get(theirs[0]))
    with closing(part.iter(batch_size=_BATCH)) as batches:
        for batch in batches:
            _check_columns(batch, columns, emotions)
            length = len(batch[theirs[2]])
            for cells in zip(*(batch.get(name, [None] * length) for name in theirs), strict=True):
                yield names, *cells


def _check_columns(found: Iterable[str], columns: dict[str, str], emotions: bool) -> None:
    for ours in ("emotion", "text") if emotions else ("text",):
        theirs = columns.get(ours, ours)
        if theirs not in found:
            raise UserError(
                f"columns.{ours}: there is no column {theirs!r}; the data set has {', '.join(sorted(found))}"
            )


def _class_names(feature: Any) -> list[str] | None:
    """The names of the classes that `feature`, or a list of it, stands for."""
    while getattr(feature, "feature", None) is not None:
        feature = feature.feature
    return getattr(feature, "names", None)


@contextmanager
def _explained(dataset: str) -> Iterator[None]:
    """Say in one line, and without the token, why a data set cannot be read."""
    library = _library(dataset)
    from huggingface_hub.errors import GatedRepoError, HTTPError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        yield
    except UserError as error:
        raise UserError(f"{dataset}: {error}") from error
    except RevisionNotFoundError as error:
        raise UserError(f"{dataset}: revision: there is no such; use a commit hash from its page") from error
    except (HTTPError, OSError, EOFError, ValueError, RuntimeError, ImportError, library.DatasetsError) as error:
        reason = _line(error)
        if isinstance(error, GatedRepoError) or "is a gated dataset" in reason:
            reason = (
                f"is gated; accept its terms at https://huggingface.co/datasets/{dataset} with your account and set "
                f"HF_TOKEN in the environment to a token of that account"
            )
        elif isinstance(error, RepositoryNotFoundError):
            reason = "does not exist on the hub, or is private and HF_TOKEN is not set; check both"
        elif isinstance(error, HTTPError | ConnectionError):
            reason = (
                f"cannot be had from the hub ({type(error).__name__}: {reason}); run this rule on a machine with "
                f"internet access, or download it elsewhere and give the folder as dataset, without revision"
            )
        elif "zstd" in reason:
            reason = f"is compressed ({reason}); run pip install zstandard"
        else:
            reason = f"cannot be read ({type(error).__name__}: {reason})"
        raise UserError(f"{dataset}: {reason}") from error


def _library(dataset: str) -> Any:
    try:
        import datasets.exceptions
    except ModuleNotFoundError as error:
        raise UserError(f"{dataset}: needs the package datasets; run pip install 'affectome[datasets]'") from error
    return datasets.exceptions


def _line(error: BaseException) -> str:
    """What an error and those behind it say, shortened to a line, without the token."""
    said = []
    behind: BaseException | None = error
    while behind is not None and len(said) < 3:
        text = " ".join(str(behind).split())[:200]
        said += [text] if text not in said else []
        behind = behind.__cause__
    text = ": ".join(said)
    return text.replace(token, "***") if (token := _token()) else text
