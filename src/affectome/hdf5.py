"""The one door to HDF5 files: checked on the way in, whole on the way out.

Every file says in its attributes which `format` and `format_version` it has and the `fingerprint` of what it was made
from. A file is written under a temporary name and renamed, so a declared output is either absent or complete.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from affectome.errors import UserError
from affectome.files import damaged, replacing

ACTIVATIONS = "affectome.activations"
LAYER = "affectome.layer"
VECTORS = "affectome.vectors"
DIRECTIONS = "affectome.directions"
READOUTS = "affectome.readouts"

# How texts are stored, and what activations are in, as their files say.
TEXT = h5py.string_dtype("utf-8")
UNITS = "residual stream (float32 mean over pooled tokens)"

# The version written today, and every version this release still reads.
VERSIONS: dict[str, tuple[int, frozenset[int]]] = {
    ACTIVATIONS: (2, frozenset({1, 2})),
    LAYER: (2, frozenset({1, 2})),
    VECTORS: (1, frozenset({1})),
    DIRECTIONS: (1, frozenset({1})),
    READOUTS: (1, frozenset({1})),
}


@contextmanager
def reading(path: str | Path, kind: str) -> Iterator[h5py.File]:
    """Open `path` for reading as a file of format `kind`.

    Raises UserError, naming the file, where it is missing, truncated, of another format or of an unknown version.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such file; build it with `snakemake {path}`")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise damaged(path, "HDF5", error) from error
    with file:
        found = file.attrs.get("format")
        if found != kind:
            raise UserError(f"{path}: holds {found or 'no affectome data'}, where {kind} is wanted")
        version = int(file.attrs["format_version"])
        if version not in VERSIONS[kind][1]:
            known = ", ".join(map(str, sorted(VERSIONS[kind][1])))
            raise UserError(f"{path}: {kind} version {version} is unknown here (known: {known}); update affectome")
        yield file


@contextmanager
def writing(path: str | Path, kind: str, fingerprint: str, **attributes: object) -> Iterator[h5py.File]:
    """Create `path` as a file of format `kind`; it appears when the block ends well, and not at all otherwise."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary, _Written(temporary, "w+") as written:
        try:
            with h5py.File(written, "w") as file:
                file.attrs["format"] = kind
                file.attrs["format_version"] = VERSIONS[kind][0]
                file.attrs["fingerprint"] = fingerprint
                for name, value in attributes.items():
                    file.attrs[name] = value
                yield file
        finally:
            if written.error is not None:
                raise written.error


def read_column(column: h5py.Dataset) -> np.ndarray:
    """All of `column`: texts as str, in an array of objects, anything else in its own type."""
    return (column.asstr() if h5py.check_string_dtype(column.dtype) else column)[...]


class _Written(io.FileIO):
    """A file that HDF5 writes, which keeps the first `error` of a write to itself.

    Told of a full disk, HDF5 crashes when it closes the file; and where it was about to free an object, nobody hears of
    the error: with room again by the end, a file would look whole whose data was lost.
    """

    error: OSError | None = None

    def write(self, data: memoryview) -> int:
        left = memoryview(data).cast("B")
        size = len(left)
        while left and self.error is None:
            try:
                left = left[super().write(left) :]
            except OSError as error:
                self.error = error
        return size

    def readinto(self, buffer: memoryview) -> int:
        into = memoryview(buffer).cast("B")
        count = super().readinto(into)
        # What could not be written.
        into[count:] = bytes(len(into) - count)
        return len(into)
