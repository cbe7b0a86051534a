"""Principal components of the emotion vectors, layer by layer.

A component's sign is arbitrary, so each is oriented by a stated rule: the first towards human valence, the second
towards arousal, every other one towards whichever of the two it follows more. "Human" is the first norm of the run.
Where that decides nothing (fewer than three rated words, ratings all equal) the entry of largest magnitude is made
positive.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from affectome.analyses.norms import read_norm, shared
from affectome.analyses.statistics import correlations
from affectome.files import write_json, write_table
from affectome.vectors.store import read_all


def principal_components(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores (emotions, components) and shares of variance (components,) of `vectors` (emotions, width), centred.

    Components along which the vectors do not differ are left out: what rounding leaves of them has no meaning.
    """
    centred = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    left, singular, _ = np.linalg.svd(centred, full_matrices=False)
    # 1e-6: vectors are stored as float32.
    rank = int(np.sum(singular > 1e-6 * singular[0]))
    return (left * singular)[:, :rank], (singular**2 / np.sum(singular**2))[:rank]


def orient(scores: np.ndarray, positions: np.ndarray, ratings: pd.DataFrame) -> np.ndarray:
    """`scores` with each column's sign set by the rule above; `positions` are the rows that `ratings` rates."""
    scores = scores * np.sign(np.take_along_axis(scores, np.abs(scores).argmax(axis=0)[None], axis=0))
    if len(positions) < 3:
        return scores
    r = np.nan_to_num(correlations(scores[positions], ratings[["valence", "arousal"]].to_numpy()))
    follows = np.abs(r).argmax(axis=1)
    follows[:2] = [0, 1][: len(follows)]
    signs = np.sign(np.take_along_axis(r, follows[:, None], axis=1)[:, 0])
    return scores * np.where(signs == 0, 1, signs)


def geometry(
    paths: list[str | Path],
    norm: dict[str, Any],
    norm_name: str,
    components: int,
    table: str | Path,
    output: str | Path,
) -> None:
    """Write scores on the leading `components` (`layer, emotion, PC1, PC2, …`) and the shares of variance per layer."""
    ratings = read_norm(norm["file"], norm)
    frames, layers = [], {}
    for layer, vectors in read_all(paths).items():
        scores, explained = principal_components(vectors.denoised)
        scores = orient(scores[:, :components], *shared(ratings, vectors.emotions))
        columns = {f"PC{index + 1}": scores[:, index] for index in range(scores.shape[1])}
        frames.append(pd.DataFrame({"layer": layer, "emotion": vectors.emotions, **columns}))
        layers[layer] = {"explained_variance": explained}
    write_table(table, pd.concat(frames, ignore_index=True))
    write_json(output, {"oriented_by": norm_name, "layers": layers})
