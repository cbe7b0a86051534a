"""Files of readouts (`affectome.readouts`): what `affectome.activations.readouts` finds, as questions read it.

A file holds `activations/layer_{L}` (prompts, width), float32 in the units of the residual stream, and under `prompts`
the columns of the list's table (prompts,), whose order is its attribute `columns`. Attributes are `model`, `dtype`,
`device`, `list` (the file the prompts came from), `layers` and `template`: "model" where the model's own chat template
was used, "plain" where it has none and read a transcript of Person and AI.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from affectome.errors import UserError
from affectome.hdf5 import READOUTS, TEXT, UNITS, read_column, reading, writing
from affectome.vectors.store import Vectors


@dataclass(frozen=True)
class Readouts:
    """The readouts in a file: the `table` of its prompts, its `layers`, and how the prompts were framed."""

    path: Path
    table: pd.DataFrame
    layers: tuple[int, ...]
    template: str

    def at(self, layer: int) -> np.ndarray:
        """Readouts (prompts, width) at `layer`, float32, in the order of the table; UserError where it has none."""
        if layer not in self.layers:
            raise UserError(f"{self.path}: holds no layer {layer}; it has {', '.join(map(str, self.layers))}")
        with reading(self.path, READOUTS) as file:
            return file[f"activations/layer_{layer}"][...]

    def beside(self, vectors: Mapping[int, Vectors], layer: int) -> dict[int, Vectors]:
        """`vectors` at the layers that have readouts too; UserError without `layer`, or where widths differ."""
        both = {number: here for number, here in vectors.items() if number in self.layers}
        if layer not in both:
            raise UserError(
                f"{self.path}: layer {layer} is wanted, and there are readouts of {', '.join(map(str, self.layers))} "
                f"and vectors of {', '.join(map(str, vectors)) or 'none'}; choose a layer that has both"
            )
        widths = self.at(layer).shape[1], both[layer].unit.shape[1]
        if widths[0] != widths[1]:
            raise UserError(f"{self.path}: readouts are {widths[0]} wide, vectors {widths[1]}; use those of one model")
        return both


def write_readouts(
    path: str | Path,
    table: pd.DataFrame,
    activations: Mapping[int, np.ndarray],
    fingerprint: str,
    **attributes: object,
) -> None:
    """Write `activations` (prompts, width) by layer, and the `table` whose rows they belong to, with `attributes`.

    Columns of the table hold texts, numbers or truth values.
    """
    layers = sorted(activations)
    with writing(path, READOUTS, fingerprint, layers=layers, units=UNITS, **attributes) as file:
        group = file.create_group("prompts")
        group.attrs.create("columns", list(table.columns), dtype=TEXT)
        for name in table:
            values = table[name].to_numpy()
            if values.dtype.kind in "biuf":
                group.create_dataset(name, data=values)
            else:
                group.create_dataset(name, data=values.astype(object), dtype=TEXT)
        for layer in layers:
            file.create_dataset(f"activations/layer_{layer}", data=np.asarray(activations[layer], np.float32))


def read_readouts(path: str | Path) -> Readouts:
    """Open a file written by `write_readouts` by this or an earlier version."""
    with reading(path, READOUTS) as file:
        prompts = file["prompts"]
        columns = {name: read_column(prompts[name]) for name in prompts.attrs["columns"]}
        layers = tuple(int(layer) for layer in file.attrs["layers"])
        return Readouts(Path(path), pd.DataFrame(columns), layers, str(file.attrs.get("template", "model")))
