"""Few texts of each emotion in place of all, where a method could not use all of them in reasonable time."""

import numpy as np
import pandas as pd


def spread_sample(
    emotions: np.ndarray, groups: np.ndarray, ids: np.ndarray, most: int, rng: np.random.Generator
) -> np.ndarray:
    """Ascending positions of at most `most` texts of each of `emotions` (texts,), spread over its `groups` (texts,).

    An emotion gives one random text of every group, in random order, before it gives a second one of any. The order in
    which texts stand decides nothing: they are drawn in the order of their `ids` (texts,).
    """
    order = np.argsort(ids.astype(str), kind="stable")
    order = order[rng.permutation(len(order))]
    turn = place(np.unique(np.column_stack([emotions, groups])[order], axis=0, return_inverse=True)[1])
    order = order[np.argsort(turn, kind="stable")]
    return np.sort(order[place(emotions[order]) < most])


def place(values: np.ndarray) -> np.ndarray:
    """How many equal `values` (n,) stand before each."""
    return pd.Series(values).groupby(values).cumcount().to_numpy()
