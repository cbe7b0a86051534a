"""How the vectors' geometry relates to human ratings: by component, by the PC1-PC2 plane, and by prediction.

Per layer, norm and dimension (valence, arousal, dominance), over the words that are rated:

- `components`: Pearson r of each leading component, with bootstrap interval and permutation p;
- `best`: the component with the largest |r|, its p corrected for having chosen it (largest |r| of each permutation),
  its interval not;
- `plane`: multiple correlation R of the rating with PC1 and PC2 together, since the two dimensions can share the plane;
- `ridge`: correlation of the ratings with predictions for words that were held out, one by one
  (`ridge_leave_one_out`); where nothing relates them it lies below 0, since each word is missing from the mean that
  predicts it. Its p, one-sided, repeats the whole procedure on permuted ratings. Its interval resamples words with
  their predictions: it leaves out what other training words would change, and covers the true value less often than
  it says (about 85 % in simulations of 45 words).
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from affectome.analyses.norms import read_norm, shared
from affectome.analyses.statistics import (
    bootstrap_correlations,
    correlations,
    interval,
    multiple_correlation,
    p_value,
    paired_correlations,
    permuted,
    ridge_leave_one_out,
)
from affectome.files import read_table, write_json
from affectome.randomness import generator
from affectome.vectors.store import read_all

# Fewer rated words say nothing: a plane has three parameters, so it fits any ratings of three words exactly.
MIN_WORDS = 5


def norm_correlations(
    paths: list[str | Path],
    scores: str | Path,
    norms: dict[str, dict[str, Any]],
    bootstrap: int,
    permutations: int,
    seed: int,
    output: str | Path,
) -> None:
    """Write the correlations described above to `output` (JSON): `layers.{L}.{norm}.{dimension}` and `….n`.

    A norm that rates fewer than `MIN_WORDS` of the emotions has `n` alone; a dimension rated all the same is left out.
    """
    components = read_table(scores)
    ratings = {name: read_norm(norm["file"], norm) for name, norm in norms.items()}
    layers: dict[int, Any] = {}
    for layer, vectors in read_all(paths).items():
        axes = components[components["layer"] == layer].set_index("emotion").loc[list(vectors.emotions)]
        # A layer with fewer components than others has empty columns.
        axes = axes.drop(columns="layer").dropna(axis=1).to_numpy()
        layers[layer] = {}
        for name, norm in ratings.items():
            positions, rated = shared(norm, vectors.emotions)
            rated = rated.loc[:, rated.nunique() > 1]
            layers[layer][name] = {"n": len(positions)}
            if len(positions) >= MIN_WORDS and len(rated.columns):
                rngs = {dimension: generator(seed, layer, name, dimension) for dimension in rated}
                layers[layer][name] |= correlate(
                    vectors.denoised[positions], axes[positions], rated, bootstrap, permutations, rngs
                )
    write_json(output, {"min_words": MIN_WORDS, "bootstrap": bootstrap, "permutations": permutations, "layers": layers})


def correlate(
    vectors: np.ndarray,
    axes: np.ndarray,
    ratings: pd.DataFrame,
    bootstrap: int,
    permutations: int,
    rngs: dict[str, np.random.Generator],
) -> dict[str, Any]:
    """Results by dimension, a column of `ratings` (words, dimensions), each with its own generator in `rngs`.

    `vectors` is (words, width) and `axes` (words, components).
    """
    found = {}
    shuffled = {
        dimension: permuted(ratings[dimension].to_numpy(), permutations, rngs[dimension]) for dimension in ratings
    }
    # All dimensions and their permutations share the vectors, so they are predicted in one go.
    columns = np.hstack([np.column_stack([ratings[dimension], shuffled[dimension]]) for dimension in ratings])
    predictions = ridge_leave_one_out(vectors, columns)
    held_out = paired_correlations(predictions, columns).reshape(len(shuffled), 1 + permutations)
    for number, (dimension, null) in enumerate(shuffled.items()):
        y = ratings[dimension].to_numpy()
        r = correlations(axes, y[:, None])[:, 0]
        null_r = np.abs(correlations(axes, null))
        draws = bootstrap_correlations(axes, y, bootstrap, rngs[dimension])
        rows = [
            {"component": c + 1, "r": r[c], "ci": interval(draws[:, c]), "p": p_value(abs(r[c]), null_r[c])}
            for c in range(len(r))
        ]
        best = int(np.abs(r).argmax())
        predicted = predictions[:, number * (1 + permutations)]
        plane = multiple_correlation(axes[:, :2], np.column_stack([y, null]))
        found[dimension] = {
            "components": rows,
            "best": rows[best] | {"p": p_value(abs(r[best]), null_r.max(axis=0))},
            "plane": {"r": plane[0], "p": p_value(plane[0], plane[1:])},
            "ridge": {
                "r": held_out[number, 0],
                "ci": interval(bootstrap_correlations(predicted[:, None], y, bootstrap, rngs[dimension])),
                "p": p_value(held_out[number, 0], held_out[number, 1:]),
            },
        }
    return found
