"""One batch that replies join and leave between any two steps, every row with a plan of its own.

Rows are kept aligned on the right: what a row lacks of the longest stands masked on its left. So a newcomer, read in a
pass of its own, is put beside the others by padding the caches to one length, and after a row has left the columns that
nobody needs are cut off. Caches that cannot be put together that way (`merges`) take newcomers only while empty.

Steering means what `affectome.steering.instrument.Steering` makes of the same plans; that one is for batches that stay
as they are.
"""

import inspect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import pad
from transformers.cache_utils import (
    DynamicCache,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionAndFullAttentionLayer,
    LinearAttentionAndSlidingWindowAttentionLayer,
    LinearAttentionLayer,
)

from affectome.models.anatomy import residual
from affectome.steering.instrument import Intervention, NeverSteeredError, blocks_of

# Their states are known in full: columns aligned on the right, and states without columns.
_MERGEABLE = (
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionLayer,
    LinearAttentionAndFullAttentionLayer,
    LinearAttentionAndSlidingWindowAttentionLayer,
)


@dataclass(frozen=True, eq=False)
class Reading:
    """Projections to read at block `layer`: on `units` (k, width), of length 1, in units of `norm`."""

    layer: int
    units: np.ndarray
    norm: float


@dataclass(eq=False)
class Row:
    """One reply under way: the tokens `prompt` that it answers, its plan, and the tokens `written` so far.

    `values` has, for each written token that the model has read, the projections that `reading` asks for.
    """

    prompt: tuple[int, ...]
    plan: tuple[Intervention, ...] = ()
    reading: Reading | None = None
    written: list[int] = field(default_factory=list)
    values: list[list[float]] = field(default_factory=list)
    # Positions steered so far, by number of the intervention and layer.
    steered: dict[tuple[int, int], int] = field(default_factory=dict)

    @property
    def read(self) -> int:
        """Tokens that the model has read between two steps: all but the last, which it has only written."""
        return len(self.prompt) + max(len(self.written) - 1, 0)

    def check(self) -> None:
        """Raise NeverSteeredError unless every position that the plan names was steered, and no other."""
        for number, item in enumerate(self.plan):
            first, end = item.span(len(self.prompt))
            planned = max(0, min(end, self.read) - first)
            for layer in item.directions:
                steered = self.steered.get((number, layer), 0)
                if steered != planned:
                    raise NeverSteeredError(
                        f"{steered} of {planned} positions were steered at block {layer}, so the reply is not what was "
                        f"asked for"
                    )


class Batch:
    """The rows that `model` writes at once."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._hooks = _Hooks(model)
        accepted = inspect.signature(model.forward).parameters
        self._positions, self._last_only = "position_ids" in accepted, "logits_to_keep" in accepted
        self.rows: list[Row] = []
        self._cache: Any = None
        self._merges = True
        self._columns = 0

    @property
    def open(self) -> bool:
        """Whether rows may join now."""
        return self._merges or not self.rows

    @torch.inference_mode()
    def join(self, newcomers: Sequence[Row]) -> torch.Tensor:
        """Read the prompts of `newcomers` and take them in; logits (newcomers, vocabulary) of what follows, float32.

        Whatever fails, the rows that were there are as they were.
        """
        longest = max(len(row.prompt) for row in newcomers)
        # Any token will do before a prompt; its own first one is surely in the vocabulary.
        ids = [row.prompt[:1] * (longest - len(row.prompt)) + row.prompt for row in newcomers]
        try:
            logits, cache = self._pass(newcomers, torch.tensor(ids, device=self._model.device), None)
            if self.rows:
                merge(self._cache, cache, self._columns, longest)
            else:
                self._cache, self._merges = cache, merges(cache)
        except BaseException:
            # What was counted in a pass that came to nothing is not to be counted again.
            self._hooks.remove()
            raise
        self._columns = max(self._columns, longest)
        self._hooks.count()
        self.rows = [*self.rows, *newcomers]
        return logits

    @torch.inference_mode()
    def step(self) -> torch.Tensor:
        """Let every row read the token that it wrote last; logits (rows, vocabulary) of what follows, float32."""
        ids = torch.tensor([row.written[-1:] for row in self.rows], device=self._model.device)
        logits, self._cache = self._pass(self.rows, ids, self._cache)
        self._columns += 1
        self._hooks.read()
        return logits

    @torch.inference_mode()
    def leave(self, leaving: Iterable[Row]) -> None:
        """Take rows out, with what the others no longer need of their padding."""
        gone = set(map(id, leaving))
        kept = [number for number, row in enumerate(self.rows) if id(row) not in gone]
        if len(kept) == len(self.rows):
            return
        self._hooks.count()
        if not kept:
            self.clear()
            return
        self._cache.reorder_cache(torch.tensor(kept, device=self._model.device))
        self.rows = [self.rows[number] for number in kept]
        longest = max(row.read for row in self.rows)
        if self._merges and longest < self._columns:
            cut(self._cache, longest)
            self._columns = longest

    def clear(self) -> None:
        """Forget all rows; the model is left without hooks."""
        self.rows, self._cache, self._columns = [], None, 0
        self._hooks.remove()

    def _pass(self, rows: Sequence[Row], ids: torch.Tensor, cache: Any) -> tuple[torch.Tensor, Any]:
        """Logits after the last of `ids` (rows, columns), the newest tokens of `rows`, and the cache with them."""
        lengths = torch.tensor([len(row.prompt) + len(row.written) for row in rows], device=ids.device)[:, None]
        columns = ids.shape[1] if cache is None else self._columns + 1
        # A column's number among the real tokens of its row; negative for padding.
        index = torch.arange(columns, device=ids.device) - (columns - lengths)
        settings: dict[str, Any] = {"attention_mask": (index >= 0).long(), "use_cache": True}
        new = index[:, columns - ids.shape[1] :]
        if cache is not None:
            settings["past_key_values"] = cache
        if self._positions:
            settings["position_ids"] = new.clamp(min=0)
        if self._last_only:
            settings["logits_to_keep"] = 1
        self._hooks.begin(rows, new)
        out = self._model(input_ids=ids, **settings)
        return out.logits[:, -1].float(), out.past_key_values


# ---------------------------------------------------------------- caches


def merges(cache: Any) -> bool:
    """Whether the rows of two such caches can be put into one."""
    return isinstance(cache, DynamicCache) and all(type(layer) in _MERGEABLE for layer in cache.layers)


def merge(cache: DynamicCache, added: DynamicCache, length: int, added_length: int) -> None:
    """Put the rows of `added`, of `added_length` columns, into `cache`, of `length` columns, after those it has.

    Nothing is changed until all is made, so a failure (memory) leaves `cache` as it was.
    """
    columns = max(length, added_length)
    made = [_merged(layer, other, columns) for layer, other in zip(cache.layers, added.layers, strict=True)]
    for layer, attributes in zip(cache.layers, made, strict=True):
        for name, value in attributes.items():
            setattr(layer, name, value)


def _merged(layer: Any, other: Any, columns: int) -> dict[str, Any]:
    attributes: dict[str, Any] = {}
    if _has_columns(layer):
        kept = _kept(layer, columns)
        for name in ("keys", "values"):
            parts = [getattr(side, name) for side in (layer, other)]
            attributes[name] = torch.cat([pad(part, (0, 0, kept - part.shape[-2], 0)) for part in parts])
        if isinstance(layer, DynamicSlidingWindowLayer):
            attributes["cumulative_length"] = columns
    for name in ("conv_states", "recurrent_states"):
        states = getattr(layer, name, {})
        if states:
            beside = getattr(other, name)
            attributes[name] = {n: s if s is None else torch.cat([s, beside[n]]) for n, s in states.items()}
    return attributes


def cut(cache: DynamicCache, length: int) -> None:
    """Leave the last `length` columns of a cache; those before them are padding in every row."""
    for layer in filter(_has_columns, cache.layers):
        kept = _kept(layer, length)
        layer.keys, layer.values = (states[..., states.shape[-2] - kept :, :] for states in (layer.keys, layer.values))
        if isinstance(layer, DynamicSlidingWindowLayer):
            layer.cumulative_length = length


def _has_columns(layer: Any) -> bool:
    return isinstance(layer, DynamicLayer) and layer.is_initialized


def _kept(layer: Any, columns: int) -> int:
    """Columns that a layer holds when its sequences have `columns`."""
    return min(columns, layer.sliding_window - 1) if isinstance(layer, DynamicSlidingWindowLayer) else columns


# ---------------------------------------------------------------- steering and reading


class _Layer:
    """What happens at one block to the rows of a batch.

    A row's n-th intervention here is in slot n, and a residual h becomes h + (length + share · (h·u)) u in it, with
    share 0 to add and −1 to take the present projection away.
    """

    def __init__(self, layer: int, rows: Sequence[Row], width: int) -> None:
        here = [[(n, item) for n, item in enumerate(row.plan) if layer in item.directions] for row in rows]
        slots = max(map(len, here))
        units = np.zeros((slots, len(rows), 1, width), np.float32)
        lengths, shares = np.zeros((2, slots, len(rows), 1), np.float32)
        bounds = np.zeros((2, slots, len(rows), 1), np.int64)
        for row, items in enumerate(here):
            for slot, (_, item) in enumerate(items):
                units[slot, row, 0], lengths[slot, row] = item.directions[layer], item.lengths[layer]
                shares[slot, row] = 0 if item.mode == "add" else -1
                bounds[:, slot, row, 0] = item.span(len(rows[row].prompt))
        self.numbers = [[n for n, _ in items] for items in here]
        self.counts = torch.zeros((slots, len(rows)), dtype=torch.int64)
        self._projects = [bool(of_slot.any()) for of_slot in shares]
        self._tensors = [torch.from_numpy(array) for array in (units, lengths, shares, *bounds)]
        self.reading = [number for number, row in enumerate(rows) if row.reading and row.reading.layer == layer]
        self.seen: torch.Tensor | None = None

    def apply(self, hidden: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """`hidden` (rows, columns, width), whose columns are the `index`-th tokens of their rows, as it goes on."""
        if self.reading:
            self.seen = hidden[self.reading, -1].float()
        if not self._projects:
            return hidden
        if self.counts.device != hidden.device:
            self.counts = self.counts.to(hidden.device)
            self._tensors = [tensor.to(hidden.device) for tensor in self._tensors]
        index = index.to(hidden.device)
        # One rounding at the end: in bfloat16 a small vector would be lost beside a large residual.
        changed = hidden.float()
        for slot, projects in enumerate(self._projects):
            unit, amount, share, first, end = (tensor[slot] for tensor in self._tensors)
            inside = (index >= first) & (index < end)
            self.counts[slot] += inside.sum(dim=1)
            if projects:
                amount = amount + share * (changed * unit).sum(dim=-1)
            changed = changed + (inside * amount)[..., None] * unit
        return changed.to(hidden.dtype)


class _Hooks:
    """Hooks on the blocks that the plans and readings of some rows name, and on no others."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._rows: list[Row] = []
        self._layers: dict[int, _Layer] = {}
        self._handles: list[Any] = []

    def begin(self, rows: Sequence[Row], index: torch.Tensor) -> None:
        """Make ready for a pass over the `index`-th tokens (rows, columns; negative for padding) of `rows`."""
        self._index = index
        if list(rows) == self._rows:
            return
        self.count()
        self.remove()
        self._rows = list(rows)
        named = {layer for row in rows for item in row.plan for layer in item.directions}
        named |= {row.reading.layer for row in rows if row.reading}
        # Blocks are looked for with a pass of their own, which nobody needs who is not steered.
        for layer in sorted(named):
            vectors = [item.directions[layer] for row in rows for item in row.plan if layer in item.directions]
            self._layers[layer] = _Layer(layer, rows, len(vectors[0]) if vectors else 0)
            self._handles.append(blocks_of(self._model)[layer].register_forward_hook(self._hook(layer)))

    def count(self) -> None:
        """Tell the rows how many of their positions were steered since they were last told."""
        for layer, of_layer in self._layers.items():
            for slot, counts in enumerate(of_layer.counts.tolist()):
                for row, count in zip(self._rows, zip(of_layer.numbers, counts, strict=True), strict=True):
                    numbers, steered = count
                    if slot < len(numbers):
                        place = numbers[slot], layer
                        row.steered[place] = row.steered.get(place, 0) + steered
            of_layer.counts.zero_()

    def read(self) -> None:
        """Give the rows that are read the values of the token that the model has just read."""
        for of_layer in self._layers.values():
            if of_layer.reading:
                for number, hidden in zip(of_layer.reading, of_layer.seen.cpu().numpy(), strict=True):
                    reading = self._rows[number].reading
                    self._rows[number].values.append((reading.units @ hidden / reading.norm).tolist())

    def remove(self) -> None:
        while self._handles:
            self._handles.pop().remove()
        self._rows, self._layers = [], {}

    def _hook(self, layer: int) -> Any:
        def steer(_block: nn.Module, _inputs: tuple, output: Any) -> Any:
            hidden = residual(output)
            changed = self._layers[layer].apply(hidden, self._index)
            if changed is hidden:
                return None
            return changed if isinstance(output, torch.Tensor) else (changed, *output[1:])

        return steer
