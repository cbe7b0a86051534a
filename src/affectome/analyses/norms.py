"""Human ratings of emotion words."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from affectome.errors import UserError

DIMENSIONS = ("valence", "arousal", "dominance")


def read_norm(file: str | Path, columns: Mapping[str, str | None]) -> pd.DataFrame:
    """Ratings by word: index the words, columns those of `DIMENSIONS` that the norm has, as floats.

    `columns` maps `word` and the dimensions to the file's columns, as in `norms.*`. Words match exactly: stems would
    invert meanings (restless → rest, worthless → worth). Raises UserError for a file that cannot be used so.
    """
    wanted = {name: columns[name] for name in DIMENSIONS if columns.get(name)}
    try:
        ratings = pd.read_csv(file).set_index(columns["word"])[list(wanted.values())].astype(float).dropna()
    except (KeyError, ValueError) as error:
        raise UserError(f"{file}: cannot be read as ratings by word ({error})") from error
    if ratings.index.has_duplicates:
        raise UserError(
            f"{file}: rates {', '.join(map(str, ratings.index[ratings.index.duplicated()]))} more than once"
        )
    return ratings.rename(columns={theirs: ours for ours, theirs in wanted.items()})


def shared(norm: pd.DataFrame, emotions: tuple[str, ...]) -> tuple[np.ndarray, pd.DataFrame]:
    """Positions in `emotions` of the words that `norm` rates, and their ratings in that order."""
    positions = np.array([index for index, emotion in enumerate(emotions) if emotion in norm.index], dtype=int)
    return positions, norm.loc[[emotions[index] for index in positions]]
