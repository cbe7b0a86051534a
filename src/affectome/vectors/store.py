"""Vector files (`affectome.vectors`): the emotion vectors of one layer of one run.

`raw`, `denoised` and `unit` (emotions, width) are the contrast, its part outside the neutral basis, and that part at
length 1; without denoising `denoised` equals `raw`. `neutral_basis` is (components, width), `counts` (emotions,) the
texts behind each vector, `reliability` (emotions,) its split-half reliability, NaN for an emotion with a single text.
The attribute `residual_norm` is the mean L2 norm of a token's residual at this layer, the unit of steering strength.
`counts` is int32, every other array float32.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from affectome.hdf5 import TEXT, VECTORS, read_column, reading, writing

ARRAYS = ("raw", "denoised", "unit", "neutral_basis", "counts", "reliability")


@dataclass(frozen=True)
class Vectors:
    """The emotion vectors of one layer; see the module for shapes and units."""

    layer: int
    emotions: tuple[str, ...]
    raw: np.ndarray
    denoised: np.ndarray
    unit: np.ndarray
    neutral_basis: np.ndarray
    counts: np.ndarray
    reliability: np.ndarray
    residual_norm: float
    fingerprint: str = ""

    @property
    def mean_reliability(self) -> float:
        """Mean over the emotions that have a reliability; NaN where none has."""
        known = self.reliability[np.isfinite(self.reliability)]
        return float(known.mean(dtype=np.float64)) if known.size else float("nan")


def write_vectors(path: str | Path, vectors: Vectors, **attributes: object) -> None:
    """Write `vectors` with further `attributes` that say how they were made."""
    scalars = {"layer": vectors.layer, "residual_norm": vectors.residual_norm, "units": "residual stream"}
    with writing(path, VECTORS, vectors.fingerprint, **scalars, **attributes) as file:
        file.create_dataset("emotions", data=list(vectors.emotions), dtype=TEXT)
        for name in ARRAYS:
            array = getattr(vectors, name)
            file.create_dataset(name, data=array.astype(np.int32 if name == "counts" else np.float32))


def read_vectors(path: str | Path) -> Vectors:
    """Read a file written by `write_vectors` by this or an earlier version."""
    with reading(path, VECTORS) as file:
        return Vectors(
            layer=int(file.attrs["layer"]),
            emotions=tuple(read_column(file["emotions"])),
            residual_norm=float(file.attrs["residual_norm"]),
            fingerprint=str(file.attrs["fingerprint"]),
            **{name: file[name][...] for name in ARRAYS},
        )


def read_all(paths: Sequence[str | Path]) -> dict[int, Vectors]:
    """Vectors by layer, ascending."""
    vectors = [read_vectors(path) for path in paths]
    return {item.layer: item for item in sorted(vectors, key=lambda item: item.layer)}
