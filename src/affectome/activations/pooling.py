"""Averages over tokens of the residual stream, taken inside forward hooks.

Sums run in float32 whatever the model's precision; a mean over a hundred bfloat16 values loses the digits that tell
one emotion from another.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import nn

from affectome.models.anatomy import residual


def pool(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean over the masked tokens of `hidden` (batch, tokens, width) → (batch, width), float32.

    `mask` (batch, tokens) is float, 1 at each pooled token. Values outside the mask, even infinite ones, do not count.
    """
    kept = torch.where(mask[..., None] > 0, hidden.float(), 0.0)
    return kept.sum(dim=1) / mask.sum(dim=1, keepdim=True)


def mean_norm(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean L2 norm of the masked tokens of `hidden` (batch, tokens, width) → (batch,), float32."""
    norms = torch.linalg.vector_norm(hidden.float(), dim=-1)
    return torch.where(mask > 0, norms, 0.0).sum(dim=1) / mask.sum(dim=1)


class _Reached(Exception):  # noqa: N818 - the way out of a pass, no error
    """The last wanted block has been read: what follows it (more blocks, final norm, LM head) need not run."""


@dataclass
class PoolingHooks:
    """What the hooks of one forward pass take and give.

    Before the pass: `pooled_mask` and `text_mask`, both (batch, tokens). After it: `pooled[layer]` (batch, width) and
    `norms[layer]` (batch,), float32.
    """

    pooled_mask: torch.Tensor | None = None
    text_mask: torch.Tensor | None = None
    pooled: dict[int, torch.Tensor] = field(default_factory=dict)
    norms: dict[int, torch.Tensor] = field(default_factory=dict)

    def run(self, model: nn.Module, ids: torch.Tensor, pooled_mask: torch.Tensor, text_mask: torch.Tensor) -> None:
        """One forward pass over `ids` (batch, tokens), right-padded, up to the last hooked block."""
        self.pooled_mask, self.text_mask = pooled_mask.to(ids.device), text_mask.to(ids.device)
        self.pooled.clear()
        self.norms.clear()
        try:
            model(input_ids=ids, use_cache=False)
        except _Reached:
            return
        raise RuntimeError("the last wanted block was never called")


@contextmanager
def pooling_hooks(blocks: nn.ModuleList, layers: Iterable[int]) -> Iterator[PoolingHooks]:
    """Read `layers` of every forward pass in the block; hooks are removed on any exit."""
    state = PoolingHooks()
    layers = sorted(layers)

    def read(layer: int):
        def hook(_module: nn.Module, _inputs: object, output: object) -> None:
            hidden = residual(output).float()
            state.pooled[layer] = pool(hidden, state.pooled_mask.to(hidden.device))
            state.norms[layer] = mean_norm(hidden, state.text_mask.to(hidden.device))
            if layer == layers[-1]:
                raise _Reached

        return hook

    handles = [blocks[layer].register_forward_hook(read(layer)) for layer in layers]
    try:
        yield state
    finally:
        for handle in handles:
            handle.remove()
