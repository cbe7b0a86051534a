"""Caches of keys and values whose rows come and go, of the kinds that Transformers' models read and write.

Transformers' own dynamic cache is copied for every token; these are copied when rows change.
"""

from typing import Any

import torch
from torch import nn
from transformers import DynamicCache
from transformers.cache_utils import (
    Cache,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionLayer,
    StaticLayer,
)

# Columns for which a cache has room before it is copied.
_ROOM = 64


class Growing(DynamicLayer):
    """Keys and values (rows, heads, columns, width) of one block, in buffers with room for the next tokens.

    Layers whose attention sees a window only keep all columns as well: the mask cuts the window out.
    """

    def __init__(self) -> None:
        super().__init__()
        self._buffers: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            # What has just been read is not copied: it is joined with others, or read and done with.
            self.keys, self.values = key_states, value_states
            return self.keys, self.values
        before = self.keys.shape[-2]
        after = before + key_states.shape[-2]
        if self._buffers is None or self._buffers[0].shape[-2] < after:
            self._buffers = tuple(_roomy(states, after) for states in self.tensors)
        for buffer, new in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, before:after] = new
        self.keys, self.values = (buffer[:, :, :after] for buffer in self._buffers)
        return self.keys, self.values

    @property
    def tensors(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.keys, self.values

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        super().reorder_cache(beam_idx)
        self._buffers = None

    def hold(self, buffers: tuple[torch.Tensor, torch.Tensor], width: int) -> "Growing":
        """Take over buffers of which `width` columns are filled."""
        self.lazy_initialization(*buffers)
        self._buffers = buffers
        self.keys, self.values = (buffer[:, :, :width] for buffer in buffers)
        return self


class Fixed:
    """A cache for up to `rows` rows and `columns` columns whose tensors keep their shapes and their places in memory.

    That is what compiled code and CUDA graphs need. Only for models whose layers all are `Growing` otherwise.
    """

    def __init__(self, rows: int, columns: int) -> None:
        self.rows, self.columns = rows, columns
        self.cache: Cache | None = None

    def fill(self, cache: Cache, width: int) -> None:
        """Copy the rows of `cache`, `width` columns of them, to the front."""
        if self.cache is None:
            self.cache = Cache(layers=[StaticLayer(self.columns) for _ in cache.layers])
        for number, (fixed, layer) in enumerate(zip(self.cache.layers, cache.layers, strict=True)):
            if not layer.is_initialized:
                continue
            if not fixed.is_initialized:
                fixed.lazy_initialization(*(states[:1].expand(self.rows, -1, -1, -1) for states in layer.tensors))
            for into, states in zip((fixed.keys, fixed.values), layer.tensors, strict=True):
                into[: len(states), :, :width] = states
            cache.layers[number] = None
        self.rewind(width)

    def rewind(self, width: int) -> None:
        """Go on after the first `width` columns."""
        for layer in self.cache.layers:
            if layer.is_initialized:
                layer.cumulative_length.fill_(width)

    def view(self, width: int) -> Cache:
        """The first `width` columns, as a cache whose rows can be joined with others'."""
        layers = [
            Growing().hold((layer.keys, layer.values), width) if layer.is_initialized else Growing()
            for layer in self.cache.layers
        ]
        return Cache(layers=layers)


def _roomy(states: torch.Tensor, columns: int) -> torch.Tensor:
    rows, heads, filled, width = states.shape
    buffer = states.new_empty((rows, heads, columns + _ROOM, width))
    buffer[:, :, :filled] = states
    return buffer


def empty_cache(model: nn.Module) -> Cache:
    """An empty cache for `model`, with layers that grow where it has layers of keys and values alone."""
    layers = DynamicCache(config=model.config).layers
    plain = (DynamicLayer, DynamicSlidingWindowLayer)
    return Cache(layers=[Growing() if type(layer) in plain else layer for layer in layers])


_Parts = list[tuple[Any, torch.Tensor, torch.Tensor]]


def join(parts: _Parts) -> tuple[Cache, torch.Tensor]:
    """One cache and mask of some rows of several, given as (cache, mask, numbers of the rows)."""
    masks = [mask[index] for _, mask, index in parts]
    # Columns that all rows pad are left out.
    masks = [mask[:, int(mask.long().argmax(dim=1).min()) :] for mask in masks]
    width = max(mask.shape[1] for mask in masks)
    cache = parts[0][0]
    # One layer after the other, so that no more than one is held twice.
    for number, layer in enumerate(cache.layers):
        of_parts = [(of.layers[number], index) for of, _, index in parts]
        cache.layers[number] = JOIN[type(layer)](of_parts, width)
        for of, _, _ in parts[1:]:
            of.layers[number] = None
    return cache, torch.cat([nn.functional.pad(mask, (width - mask.shape[1], 0)) for mask in masks])


def _join_growing(parts: list[tuple[Growing, torch.Tensor]], width: int) -> Growing:
    if not parts[0][0].is_initialized:
        # A block that uses the keys and values of another has none of its own.
        return parts[0][0]
    rows = sum(len(index) for _, index in parts)
    buffers = []
    for name in ("keys", "values"):
        states = getattr(parts[0][0], name)
        buffer = states.new_empty((rows, states.shape[1], width + _ROOM, states.shape[3]))
        first = 0
        for layer, index in parts:
            states = getattr(layer, name)[:, :, -width:]
            into = buffer[first : first + len(index)]
            # Zeros, as what is masked is still multiplied.
            into[:, :, : width - states.shape[2]] = 0
            into[:, :, width - states.shape[2] : width] = states[index.to(states.device)]
            first += len(index)
        buffers.append(buffer)
    return Growing().hold(tuple(buffers), width)


def _join_recurrent(parts: list[tuple[LinearAttentionLayer, torch.Tensor]], _width: int) -> LinearAttentionLayer:
    joined = parts[0][0]
    for name in ("conv_states", "recurrent_states"):
        states = getattr(joined, name)
        for state in (state for state, held in states.items() if held is not None):
            held = [(getattr(layer, name)[state], index) for layer, index in parts]
            states[state] = torch.cat([tensor[index.to(tensor.device)] for tensor, index in held])
    return joined


JOIN = {Growing: _join_growing, LinearAttentionLayer: _join_recurrent}
