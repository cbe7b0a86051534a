"""The HDF5 store of pooled activations: one file per shard, and a view of one layer over all shards.

A *shard* (`affectome.activations`) holds, for its texts in corpus order, `activations/layer_{L}` (texts, width) and
`token_norm/layer_{L}` (texts,), and the texts' `id, emotion, topic, neutral`; `n_tokens` counts the sequence that was
read, `n_text` the text's own tokens without the first of the sequence, `n_pooled` those of the mean. Texts dropped for
having too few pooled tokens are listed under `dropped`. How fast it was made stands in the attributes of `performance`.
A *layer* (`affectome.layer`) has the same texts over the whole corpus; its `activations` and `token_norm` are HDF5
virtual datasets over the shards, so no number is copied. `shards` are these files' names, relative to its own folder,
and `shard_fingerprints` what they held when they were joined. Rows lie one after the other, unchunked: any range of
them is one read, at the speed of the disk.

A store may keep the activations per text of some layers only. Then both kinds of file have, for every layer, `moments`:
for each emotion, and for its 1st, 3rd, 5th … and 2nd, 4th, … text apart, the `counts` (emotions, 2) and the `mean` and
the sum of squared deviations `m2` (emotions, 2, width; float64), under `emotion` the names. Layers without activations
have those of the neutral texts as `neutral_activations` (neutral texts, width) instead.

All other values are float32, in the units of the residual stream. `token_norm` is the mean L2 norm of a text's `n_text`
tokens.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TypeVar

import h5py
import numpy as np
import pandas as pd

from affectome.activations.moments import Moments, halves
from affectome.activations.tokens import TokenText
from affectome.errors import DamagedFileError, UserError
from affectome.hdf5 import ACTIVATIONS, LAYER, TEXT, UNITS, read_column, reading, writing
from affectome.identity import fingerprint

# Bytes moved at a time: what is summed right after it was read is best still in the caches.
_BYTES = 8 * 2**20

# Blocks of rows worked on at once: one core's sums are slower than reading from memory.
_READERS = 2

T = TypeVar("T")


@dataclass(frozen=True)
class Texts:
    """What a store says of its texts: arrays of one length, in corpus order; ids and lengths of dropped texts apart."""

    id: np.ndarray
    emotion: np.ndarray
    topic: np.ndarray
    neutral: np.ndarray
    n_tokens: np.ndarray
    n_text: np.ndarray
    n_pooled: np.ndarray
    dropped: np.ndarray
    dropped_tokens: np.ndarray

    @classmethod
    def of(cls, texts: pd.DataFrame, tokens: list[TokenText], spans: list[tuple[int, int]], kept: list[int]) -> "Texts":
        """The texts of a table, of which the rows `kept` were read."""
        n_tokens = np.array([len(text.ids) for text in tokens], dtype=np.int32)
        n_text = np.array([end - first for first, end in (text.spans for text in tokens)], dtype=np.int32)
        n_pooled = np.array([end - first for first, end in spans], dtype=np.int32)
        dropped = sorted(set(range(len(texts))) - set(kept))
        columns = {name: texts[name].to_numpy(dtype=object)[kept] for name in ("id", "emotion", "topic")}
        return cls(
            **columns,
            neutral=texts["neutral"].to_numpy(dtype=bool)[kept],
            n_tokens=n_tokens[kept],
            n_text=n_text[kept],
            n_pooled=n_pooled[kept],
            dropped=texts["id"].to_numpy(dtype=object)[dropped],
            dropped_tokens=n_tokens[dropped],
        )

    def write(self, file: h5py.File) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            file.create_dataset(field.name, data=value, dtype=TEXT if value.dtype == object else value.dtype)

    @classmethod
    def read(cls, file: h5py.File) -> "Texts":
        return cls(*read_columns(file, *(field.name for field in fields(cls))))

    @classmethod
    def join(cls, parts: list["Texts"]) -> "Texts":
        return cls(
            **{field.name: np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)}
        )


def read_columns(file: h5py.File, *names: str) -> list[np.ndarray]:
    """Columns of a store, by name: what it says of its texts (names of `Texts`), or of its shards."""
    found = []
    for name in names:
        if name == "n_text" and name not in file:
            found.append(file["n_tokens"][...] - 1)  # version 1: all tokens of a sequence but the first are the text's
        else:
            found.append(read_column(file[name]))
    return found


def write_shard(
    path: str | Path,
    key: str,
    texts: Texts,
    layers: list[int],
    pooled: Sequence[np.ndarray],
    norms: Sequence[np.ndarray],
    stored: Sequence[int] | None = None,
    performance: dict[str, object] | None = None,
    **attributes: object,
) -> None:
    """Write, per layer, the rows `pooled` (texts, width) and `norms` (texts,) as one shard, a few rows at a time.

    They are arrays or anything else that has a shape and gives slices. Of the layers that are not `stored`, all by
    default, moments and neutral texts alone are kept.
    """
    stored = layers if stored is None else stored
    width = pooled[0].shape[1]
    emotions = list(dict.fromkeys(map(str, texts.emotion[~texts.neutral])))
    labels = halves(texts.emotion, texts.neutral, emotions)
    with writing(path, ACTIVATIONS, key, units=UNITS, layers=layers, width=width, **attributes) as file:
        texts.write(file)
        file.attrs["stored"] = list(stored)
        file.create_group("performance").attrs.update(performance or {})
        for index, layer in enumerate(layers):
            file.create_dataset(f"token_norm/layer_{layer}", data=norms[index][:])
            moments = Moments.zeros(emotions, width) if len(stored) < len(layers) else None
            _write_rows(file, layer, pooled[index], None if layer in stored else texts.neutral, labels, moments)
            if moments:
                moments.write(file.create_group(f"moments/layer_{layer}"))


def _write_rows(
    file: h5py.File,
    layer: int,
    pooled: np.ndarray,
    only: np.ndarray | None,
    labels: np.ndarray,
    moments: Moments | None,
) -> None:
    """Write the rows of one layer, or `only` some of them (texts,), the neutral ones; add all to `moments` if given."""
    n, width = pooled.shape
    kind, count = ("activations", n) if only is None else ("neutral_activations", int(only.sum()))
    dataset = file.create_dataset(f"{kind}/layer_{layer}", shape=(count, width), dtype=np.float32)
    written = 0
    for rows in parts(n, width):
        block = pooled[rows]
        kept = block if only is None else block[only[rows]]
        if len(kept):
            dataset[written : written + len(kept)] = kept
        written += len(kept)
        if moments:
            moments.add(block, labels[rows])


def write_layer(path: str | Path, shards: list[str | Path], layer: int) -> None:
    """Join one layer of `shards`, in order, as virtual datasets.

    Raises UserError where a shard is missing, unreadable, lacks the layer or was computed otherwise than the others.
    """
    path = Path(path)
    texts, attributes, sums = [], [], []
    for shard in shards:
        with reading(shard, ACTIVATIONS) as file:
            if layer not in file.attrs["layers"]:
                raise UserError(f"{shard}: holds no layer {layer}; it has {', '.join(map(str, file.attrs['layers']))}")
            texts.append(Texts.read(file))
            attributes.append(dict(file.attrs))
            if "moments" in file:
                sums.append(Moments.read(file[f"moments/layer_{layer}"]))
    if len({part["basis"] for part in attributes}) != 1:
        raise UserError(f"{path}: its shards were computed with different settings; delete the shards folder and rerun")
    # Version 1 of a shard stores every layer and does not say so.
    stored = layer in attributes[0].get("stored", attributes[0]["layers"])
    rows = [len(part.id) for part in texts]
    kept = rows if stored else [int(part.neutral.sum()) for part in texts]
    width = int(attributes[0]["width"])
    keys = [part["fingerprint"] for part in attributes]
    # Relative to the layer file, so that the folder can be moved as a whole.
    names = [str(Path(shard).relative_to(path.parent)) for shard in shards]
    same = {name: attributes[0][name] for name in ("model", "dtype", "device", "width", "units")}
    totals = {name: sum(part[name] for part in attributes) for name in ("tokens", "seconds", "cut")}
    with writing(path, LAYER, fingerprint([layer, *keys]), layer=layer, **same, **totals) as file:
        Texts.join(texts).write(file)
        if sums:
            Moments.join(sums).write(file.create_group("moments"))
        file.create_dataset("shards", data=names, dtype=TEXT)
        file.create_dataset("shard_fingerprints", data=keys, dtype=TEXT)
        for name, counts, row in (
            ("activations" if stored else "neutral_activations", kept, (width,)),
            ("token_norm", rows, ()),
        ):
            layout = h5py.VirtualLayout((sum(counts), *row), np.float32)
            start = 0
            for shard, n in zip(names, counts, strict=True):
                if n:
                    source = h5py.VirtualSource(shard, f"{name}/layer_{layer}", (n, *row), np.float32)
                    layout[start : start + n] = source
                start += n
            # HDF5 would read a missing shard as its fill value; NaN makes that visible whoever reads the file.
            file.create_virtual_dataset(name, layout, fillvalue=np.nan)


@contextmanager
def open_layer(path: str | Path) -> Iterator[h5py.File]:
    """Open a layer for reading.

    Raises UserError naming a shard behind it that is missing, broken or not the one that was joined: HDF5 would go on
    with fill values or with the numbers of other texts.
    """
    with reading(path, LAYER) as file:
        for name, key in zip(*read_columns(file, "shards", "shard_fingerprints"), strict=True):
            try:
                with reading(Path(path).parent / name, ACTIVATIONS) as shard:
                    if shard.attrs["fingerprint"] != key:
                        raise UserError(f"{shard.filename}: was computed anew after {path}; run `snakemake {path}`")
            except DamagedFileError as error:
                # Snakemake makes a shard again only where a layer is to be joined.
                raise UserError(f"{error}; with it delete {path}, which is a view of it") from error
        yield file


def rows_of(file: h5py.File) -> h5py.Dataset:
    """The activations per text (texts, width) of an open layer; UserError where only their moments are kept."""
    if "activations" not in file:
        raise UserError(
            f"{file.filename}: holds the moments of layer {file.attrs['layer']} only; to have its activations per "
            f"text, add the layer to the model's stored layers"
        )
    return file["activations"]


def parts(rows: int, width: int) -> list[slice]:
    """All rows of a float32 array (rows, width) in order, about `_BYTES` at a time."""
    step = max(1, _BYTES // (4 * width))
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]


def each_block(dataset: h5py.Dataset, work: Callable[[slice, np.ndarray], T]) -> Iterator[T]:
    """`work(rows, values)` for the rows of `dataset` (rows, width), some at a time, results in order.

    Blocks are read and worked on side by side, so `values` belong to it only until it returns.
    """
    blocks = parts(*dataset.shape)
    here = threading.local()

    def read(rows: slice) -> T:
        if not hasattr(here, "values"):
            here.values = np.empty((blocks[0].stop, dataset.shape[1]), np.float32)
        values = here.values[: rows.stop - rows.start]
        dataset.read_direct(values, np.s_[rows])
        return work(rows, values)

    with ThreadPoolExecutor(_READERS) as pool:
        coming: deque[Future] = deque()
        for rows in blocks:
            coming.append(pool.submit(read, rows))
            if len(coming) > _READERS:
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()
