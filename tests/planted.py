"""Activations, vectors and ratings whose right answers are known because they were put there."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from affectome.activations.store import Texts, write_layer, write_shard
from affectome.vectors.contrasts import unit
from affectome.vectors.store import Vectors, write_vectors


def orthonormal(rng: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    """Rows (rows, columns) of length 1, orthogonal to one another."""
    return np.linalg.qr(rng.normal(size=(columns, rows)))[0].T


def centred_orthonormal(rng: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    """Columns (rows, columns) of mean 0 and length 1, orthogonal to one another."""
    values = rng.normal(size=(rows, columns))
    return np.linalg.qr(values - values.mean(axis=0))[0]


def layer_files(
    folder: Path,
    emotions: list[str],
    activations: np.ndarray,
    token_norm: list[float] | None = None,
    n_tokens: list[int] | None = None,
    shards: int = 2,
    stored: list[int] | None = None,
) -> list[Path]:
    """Layer files over `shards` shards of `activations` (layers, texts, width); a text without emotion is neutral.

    Activations per text are stored of all layers, or of those in `stored`.
    """
    count = len(emotions)
    ids = np.array([f"{number:016x}" for number in range(count)], dtype=object)
    tokens = np.array(n_tokens or [60] * count, dtype=np.int32)
    norms = np.array(token_norm or [1.0] * count, dtype=np.float32)
    layers = list(range(len(activations)))
    paths = []
    for number, rows in enumerate(np.array_split(np.arange(count), shards)):
        texts = Texts(
            id=ids[rows],
            emotion=np.array(emotions, dtype=object)[rows],
            topic=np.array(["topic"] * len(rows), dtype=object),
            neutral=np.array([emotions[row] == "" for row in rows]),
            n_tokens=tokens[rows],
            n_text=tokens[rows] - 1,
            n_pooled=tokens[rows] - 50,
            dropped=np.array([], dtype=object),
            dropped_tokens=np.array([], dtype=np.int32),
        )
        path = folder / "shards" / f"{number}.h5"
        pooled = activations[:, rows].astype(np.float32)
        made = {"basis": "b", "model": "m", "dtype": "float32", "device": "cpu", "tokens": 1, "seconds": 1.0, "cut": 0}
        write_shard(path, f"key{number}", texts, layers, pooled, np.tile(norms[rows], (len(layers), 1)), stored, **made)
        paths.append(path)
    files = [folder / f"layer_{layer}.h5" for layer in layers]
    for layer, file in enumerate(files):
        write_layer(file, paths, layer)
    return files


def vector_file(path: Path, layer: int, emotions: list[str], denoised: np.ndarray, residual_norm: float = 1.0) -> Path:
    """A vector file with `denoised` (emotions, width) as its raw vectors too."""
    count, width = denoised.shape
    plain = {"basis": np.zeros((0, width)), "counts": np.ones(count), "reliability": np.linspace(0, 1, count)}
    vectors = Vectors(
        layer,
        tuple(emotions),
        denoised,
        denoised,
        unit(denoised),
        plain["basis"],
        plain["counts"],
        plain["reliability"],
        residual_norm,
        f"key{layer}",
    )
    write_vectors(path, vectors)
    return path


def norm_file(path: Path, words: list[str], **ratings: Any) -> dict[str, str]:
    """A CSV file of ratings and its description as it stands in config."""
    pd.DataFrame({"word": words, **ratings}).to_csv(path, index=False)
    return {"file": str(path), "word": "word", **{dimension: dimension for dimension in ratings}}


def strict_json(path: Path) -> Any:
    """The content of a JSON file that holds no NaN or infinity, which JSON does not know."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{path} holds {constant}")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
