"""Layer numbers and how config names them.

**The convention.** Layer `L` is the output of decoder block `L`, counted from 0, before the final norm: what a forward
hook on `blocks[L]` sees. `hidden_states[L + 1]` of Transformers equals it for every block but the last (there the final
norm has been applied). Everything else in the project refers to this paragraph.

A *layer specification* is what a user writes in config:

| written | means, for a model of `n` blocks |
|---|---|
| `all` | 0 … n−1 |
| `auto` | the block at two thirds of depth, `2 n // 3` |
| `early`, `mid`, `late` | the blocks of the first, middle, last third of depth |
| `8:32:3` | start, stop (not included), step, as a Python slice; parts may be left out |
| `20` | block 20 |
| `0.5` | the block at that fraction of depth, `floor(0.5 n)`; `1.0` is the last block |
| a list | the union of its items, each any of the above |
"""

import math
import re
from collections.abc import Iterable
from pathlib import Path

from affectome.files import read_json

LayerSpec = str | int | float | list

_ALLOWED = "allowed: auto, all, early, mid, late, a block number, a fraction of depth, start:stop:step, or a list"
_SLICE = re.compile(r"(\d*):(\d*)(?::(\d*))?")


def auto_layer(blocks: int) -> int:
    """The block at two thirds of depth, where Sofroniew et al. (2026) read emotion concepts."""
    return 2 * blocks // 3


def resolve_layers(spec: LayerSpec, blocks: int) -> tuple[int, ...]:
    """Block numbers, ascending and unique, that `spec` names in a model of `blocks` blocks.

    Raises ValueError, saying what is allowed, for anything that names no block or a block that does not exist.
    """
    if isinstance(spec, list):
        if not spec:
            raise ValueError(f"the list of layers is empty; {_ALLOWED}")
        return tuple(sorted({layer for item in spec for layer in resolve_layers(item, blocks)}))
    if isinstance(spec, bool) or not isinstance(spec, str | int | float):
        raise ValueError(f"{spec!r} names no layer; {_ALLOWED}")
    if isinstance(spec, int):
        if not 0 <= spec < blocks:
            raise ValueError(f"layer {spec} does not exist; the model's {blocks} blocks are numbered 0 to {blocks - 1}")
        return (spec,)
    if isinstance(spec, float):
        if not 0 <= spec <= 1:
            raise ValueError(
                f"{spec} is not a fraction of depth; use a number from 0.0 to 1.0, or a whole block number"
            )
        # 1e-9 keeps fractions such as 2/3 × 30 on the block they mean when the product falls a rounding error short.
        return (min(blocks - 1, math.floor(spec * blocks + 1e-9)),)
    return _resolve_name(spec.strip(), blocks)


def resolve_layer(spec: LayerSpec, blocks: int) -> int:
    """The one block that `spec` names; ValueError where it names several."""
    layers = resolve_layers(spec, blocks)
    if len(layers) != 1:
        raise ValueError(f"{spec!r} names {len(layers)} layers where one is wanted; use auto, a number or a fraction")
    return layers[0]


def headline_layer(layer: int | str | Path) -> int:
    """The headline layer of a run: `layer` itself, or the best one of the sweep whose results (JSON) it names."""
    return layer if isinstance(layer, int) else int(read_json(layer)["best"])


def of_layer(files: Iterable[str | Path], layer: int) -> str | Path:
    """The one of `files`, each named `layer_{L}.h5`, that is of `layer`; KeyError where there is none."""
    return {Path(file).stem: file for file in files}[f"layer_{layer}"]


def _resolve_name(spec: str, blocks: int) -> tuple[int, ...]:
    thirds = [round(blocks * third / 3) for third in range(4)]
    named = {
        "auto": (auto_layer(blocks),),
        "all": tuple(range(blocks)),
        "early": tuple(range(thirds[0], thirds[1])),
        "mid": tuple(range(thirds[1], thirds[2])),
        "late": tuple(range(thirds[2], thirds[3])),
    }
    layers = named[spec] if spec in named else _resolve_slice(spec, blocks)
    if not layers:
        raise ValueError(f"{spec!r} names no block of the {blocks} there are")
    return layers


def _resolve_slice(spec: str, blocks: int) -> tuple[int, ...]:
    match = _SLICE.fullmatch(spec)
    if not match:
        raise ValueError(f"{spec!r} names no layer; {_ALLOWED}")
    start, stop, step = (int(part) if part else None for part in match.groups())
    if step == 0:
        raise ValueError(f"the step of {spec!r} is 0; use 1 or more")
    if stop is not None and stop > blocks:
        raise ValueError(
            f"{spec!r} reaches past the last block; the model has {blocks} blocks, so stop is at most {blocks}"
        )
    return tuple(range(blocks)[slice(start, stop, step)])
