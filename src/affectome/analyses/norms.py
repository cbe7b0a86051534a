"""Human ratings of emotion words."""

import csv
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from affectome.analyses.norm_formats import complete
from affectome.errors import UserError

DIMENSIONS = ("valence", "arousal", "dominance")

# How files write that a word has no rating.
_MISSING = ["", "NA", "NaN", "nan", "."]


def read_norm(file: str | Path, columns: Mapping[str, str | None]) -> pd.DataFrame:
    """Ratings by word: index the words, columns those of `DIMENSIONS` that the norm has, as floats.

    `columns` maps `word` and the dimensions to the file's columns, as in `norms.*`; those of published norms need not
    be named (see `affectome.analyses.norm_formats`). Words match exactly: stems would invert meanings (restless → rest,
    worthless → worth). Raises UserError for a file that cannot be used so.
    """
    form = complete(file, columns)
    wanted = {name: getattr(form, name) for name in ("word", *DIMENSIONS) if getattr(form, name)}
    try:
        if missing := [column for column in wanted.values() if column not in form.columns]:
            raise ValueError(f"it has no column {missing[0]!r} but {', '.join(form.columns) or 'none'}")
        # By position, for columns that are not wanted may share a name.
        places = {form.columns.index(column): name for name, column in wanted.items()}
        table = pd.read_csv(
            file,
            sep=form.delimiter,
            quoting=csv.QUOTE_NONE if form.delimiter == "\t" else csv.QUOTE_MINIMAL,
            encoding="utf-8-sig",
            header=form.header - 1 if form.header else None,
            names=range(len(form.columns)),
            usecols=list(places),
            # Some words (null, nan, none) would be read as missing.
            dtype={place: str for place, name in places.items() if name == "word"},
            keep_default_na=False,
            na_values={place: _MISSING for place, name in places.items() if name != "word"},
        ).rename(columns=places)
        ratings = table.set_index("word")[[name for name in wanted if name != "word"]].astype(float).dropna()
    except ValueError as error:
        raise UserError(f"{file}: cannot be read as ratings by word ({error})") from error
    if ratings.index.has_duplicates:
        raise UserError(
            f"{file}: rates {', '.join(map(str, ratings.index[ratings.index.duplicated()]))} more than once"
        )
    return ratings


def shared(norm: pd.DataFrame, emotions: tuple[str, ...]) -> tuple[np.ndarray, pd.DataFrame]:
    """Positions in `emotions` of the words that `norm` rates, and their ratings in that order."""
    positions = np.array([index for index, emotion in enumerate(emotions) if emotion in norm.index], dtype=int)
    return positions, norm.loc[[emotions[index] for index in positions]]
