"""Cosine similarity of every two emotion vectors, and the pairs most alike and most opposed."""

from pathlib import Path

import numpy as np
import pandas as pd

from affectome.files import write_json, write_table
from affectome.vectors.store import read_all


def extreme_pairs(cosines: np.ndarray, names: tuple[str, ...], count: int) -> dict[str, list[dict]]:
    """The `count` pairs with highest (`similar`) and lowest (`opposed`) entry of a symmetric matrix, extremes first."""
    first, second = np.triu_indices(len(names), k=1)
    order = np.argsort(-cosines[first, second], kind="stable")

    def pairs(chosen: np.ndarray) -> list[dict]:
        return [
            {"a": names[first[i]], "b": names[second[i]], "cosine": float(cosines[first[i], second[i]])} for i in chosen
        ]

    return {"similar": pairs(order[:count]), "opposed": pairs(order[::-1][:count])}


def similarity(paths: list[str | Path], pairs: int, table: str | Path, output: str | Path) -> None:
    """Write all cosines (`layer, a, b, cosine`, each pair once) and the `pairs` extreme ones per layer."""
    frames, layers = [], {}
    for layer, vectors in read_all(paths).items():
        unit = vectors.unit.astype(np.float64)
        cosines = unit @ unit.T
        first, second = np.triu_indices(len(unit), k=1)
        names = np.array(vectors.emotions, dtype=object)
        columns = {"layer": layer, "a": names[first], "b": names[second], "cosine": cosines[first, second]}
        frames.append(pd.DataFrame(columns))
        layers[layer] = extreme_pairs(cosines, vectors.emotions, pairs)
    write_table(table, pd.concat(frames, ignore_index=True))
    write_json(output, {"layers": layers})
