"""The HDF5 store of pooled activations: one file per shard, and a view of one layer over all shards.

A *shard* (`affectome.activations`) holds, for its texts in corpus order, `activations/layer_{L}` (texts, width) and
`token_norm/layer_{L}` (texts,), and the texts' `id, emotion, topic, neutral, n_tokens, n_pooled`. Texts dropped for
having too few pooled tokens are listed under `dropped`. A *layer* (`affectome.layer`) has the same texts over the whole
corpus; its `activations` and `token_norm` are HDF5 virtual datasets over the shards, so no number is copied. `shards`
are these files' names, relative to its own folder, and `shard_fingerprints` what they held when they were joined.

All values are float32, in the units of the residual stream. `token_norm` is the mean L2 norm of a text's tokens, the
first of the sequence left out.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path

import h5py
import numpy as np
import pandas as pd

from affectome.activations.tokens import TokenText
from affectome.errors import UserError
from affectome.hdf5 import ACTIVATIONS, LAYER, reading, writing
from affectome.identity import fingerprint

_UNITS = "residual stream (float32 mean over pooled tokens)"
_STRINGS = h5py.string_dtype("utf-8")


@dataclass(frozen=True)
class Texts:
    """What a store says of its texts: arrays of one length, in corpus order; ids and lengths of dropped texts apart."""

    id: np.ndarray
    emotion: np.ndarray
    topic: np.ndarray
    neutral: np.ndarray
    n_tokens: np.ndarray
    n_pooled: np.ndarray
    dropped: np.ndarray
    dropped_tokens: np.ndarray

    @classmethod
    def of(cls, texts: pd.DataFrame, tokens: list[TokenText], spans: list[tuple[int, int]], kept: list[int]) -> "Texts":
        """The texts of a table, of which the rows `kept` were read."""
        n_tokens = np.array([len(text.ids) for text in tokens], dtype=np.int32)
        n_pooled = np.array([end - first for first, end in spans], dtype=np.int32)
        dropped = sorted(set(range(len(texts))) - set(kept))
        columns = {name: texts[name].to_numpy(dtype=object)[kept] for name in ("id", "emotion", "topic")}
        return cls(
            **columns,
            neutral=texts["neutral"].to_numpy(dtype=bool)[kept],
            n_tokens=n_tokens[kept],
            n_pooled=n_pooled[kept],
            dropped=texts["id"].to_numpy(dtype=object)[dropped],
            dropped_tokens=n_tokens[dropped],
        )

    def write(self, file: h5py.File) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            file.create_dataset(field.name, data=value, dtype=_STRINGS if value.dtype == object else value.dtype)

    @classmethod
    def read(cls, file: h5py.File) -> "Texts":
        columns = {field.name: file[field.name] for field in fields(cls)}
        strings = {name for name, column in columns.items() if h5py.check_string_dtype(column.dtype)}
        return cls(**{name: (column.asstr() if name in strings else column)[...] for name, column in columns.items()})

    @classmethod
    def join(cls, parts: list["Texts"]) -> "Texts":
        return cls(
            **{field.name: np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)}
        )


def write_shard(
    path: str | Path,
    key: str,
    texts: Texts,
    layers: list[int],
    pooled: np.ndarray,
    norms: np.ndarray,
    **attributes: object,
) -> None:
    """Write `pooled` (layers, texts, width) and `norms` (layers, texts) as one shard."""
    with writing(path, ACTIVATIONS, key, units=_UNITS, layers=layers, width=pooled.shape[-1], **attributes) as file:
        texts.write(file)
        for index, layer in enumerate(layers):
            file.create_dataset(f"activations/layer_{layer}", data=pooled[index])
            file.create_dataset(f"token_norm/layer_{layer}", data=norms[index])


def write_layer(path: str | Path, shards: list[str | Path], layer: int) -> None:
    """Join one layer of `shards`, in order, as virtual datasets.

    Raises UserError where a shard is missing, unreadable, lacks the layer or was computed otherwise than the others.
    """
    path = Path(path)
    parts, attributes = [], []
    for shard in shards:
        with reading(shard, ACTIVATIONS) as file:
            if layer not in file.attrs["layers"]:
                raise UserError(f"{shard}: holds no layer {layer}; it has {', '.join(map(str, file.attrs['layers']))}")
            parts.append(Texts.read(file))
            attributes.append(dict(file.attrs))
    if len({part["basis"] for part in attributes}) != 1:
        raise UserError(f"{path}: its shards were computed with different settings; delete the shards folder and rerun")
    rows = [len(part.id) for part in parts]
    width = int(attributes[0]["width"])
    keys = [part["fingerprint"] for part in attributes]
    # Relative to the layer file, so that the folder can be moved as a whole.
    names = [str(Path(shard).relative_to(path.parent)) for shard in shards]
    same = {name: attributes[0][name] for name in ("model", "dtype", "device", "width", "units")}
    totals = {name: sum(part[name] for part in attributes) for name in ("tokens", "seconds", "cut")}
    with writing(path, LAYER, fingerprint([layer, *keys]), layer=layer, **same, **totals) as file:
        Texts.join(parts).write(file)
        file.create_dataset("shards", data=names, dtype=_STRINGS)
        file.create_dataset("shard_fingerprints", data=keys, dtype=_STRINGS)
        for name, shape in (("activations", (sum(rows), width)), ("token_norm", (sum(rows),))):
            layout = h5py.VirtualLayout(shape, np.float32)
            start = 0
            for shard, n in zip(names, rows, strict=True):
                if n:
                    source = h5py.VirtualSource(shard, f"{name}/layer_{layer}", (n, *shape[1:]), np.float32)
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
        for name, key in zip(file["shards"].asstr()[...], file["shard_fingerprints"].asstr()[...], strict=True):
            with reading(Path(path).parent / name, ACTIVATIONS) as shard:
                if shard.attrs["fingerprint"] != key:
                    raise UserError(f"{shard.filename}: was computed anew after {path}; run `snakemake {path}`")
        yield file
