"""Every headline measure as a function of depth, in one long table.

Columns: `layer, measure, norm, dimension, value, low, high, p`. Measures of the vectors (`residual_norm`,
`vector_norm`, `reliability`, `neutral_components`, `explained_variance_1` and `_2`) have no norm or dimension; `best`,
`plane` and `ridge` (see `norm_correlations`) have both, `best` as |r|.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from affectome.files import read_json, write_table
from affectome.vectors.store import Vectors, read_all


def layer_profile(paths: list[str | Path], geometry: str | Path, correlations: str | Path, table: str | Path) -> None:
    """Write the profile of one run to `table` (Parquet)."""
    explained, related = read_json(geometry)["layers"], read_json(correlations)["layers"]
    rows: list[dict[str, Any]] = []
    for layer, vectors in read_all(paths).items():
        shares = explained[str(layer)]["explained_variance"]
        rows += [
            {"layer": layer, "measure": name, "value": value} for name, value in _of_vectors(vectors, shares).items()
        ]
        for norm, found in related[str(layer)].items():
            for dimension, result in found.items():
                if dimension != "n":
                    rows += [{"layer": layer, "norm": norm, "dimension": dimension, **row} for row in _of_norm(result)]
    columns = ["layer", "measure", "norm", "dimension", "value", "low", "high", "p"]
    write_table(table, pd.DataFrame(rows, columns=columns))


def _of_vectors(vectors: Vectors, shares: list[float]) -> dict[str, float]:
    return {
        "residual_norm": vectors.residual_norm,
        "vector_norm": float(np.linalg.norm(vectors.denoised, axis=1).mean()),
        "reliability": vectors.mean_reliability,
        "neutral_components": len(vectors.neutral_basis),
        **{f"explained_variance_{component}": share for component, share in enumerate(shares[:2], start=1)},
    }


def _of_norm(result: dict[str, Any]) -> list[dict[str, Any]]:
    best, plane, ridge = result["best"], result["plane"], result["ridge"]
    low, high = best["ci"]
    return [
        {
            "measure": "best",
            "value": abs(best["r"]),
            "low": max(0.0, low, -high),
            "high": max(high, -low),
            "p": best["p"],
        },
        {"measure": "plane", "value": plane["r"], "p": plane["p"]},
        {"measure": "ridge", "value": ridge["r"], "low": ridge["ci"][0], "high": ridge["ci"][1], "p": ridge["p"]},
    ]
