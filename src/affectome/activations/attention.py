"""Causal attention in bfloat16 on CPUs, as matrix products over whole texts.

torch's kernel for it works in small blocks and takes a quarter of a pass; products as large as a text are what CPUs
with bfloat16 instructions are fast at, and here more than twice as fast (benchmarks/README.md). Scores are rounded to
bfloat16 before the softmax, as in Transformers' `eager` attention. All other cases go on to torch's kernel.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from affectome.models.anatomy import text_config

_NAME = "affectome"

# Longer texts have more scores than fit into the caches, and torch's kernel is faster.
_LONGEST = 512


def attend(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """An attention function of Transformers: `query` (batch, heads, tokens, size) → (batch, tokens, heads, size), None.

    `key` and `value` have as many heads or, shared by several of the queries', fewer.
    """
    batch, heads, tokens, size = query.shape
    plain = (
        attention_mask is None
        and query.device.type == "cpu"
        and query.dtype == torch.bfloat16
        and 1 < tokens == key.shape[2] <= _LONGEST
        and key.shape[3] == value.shape[3] == size
        and options.get("is_causal") in (None, True)
        and getattr(module, "is_causal", True)
        and options.get("position_bias") is None
        and not options.get("dropout")
    )
    if not plain:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **options)
    # Queries that share keys stand one below the other.
    shared = heads // key.shape[1]
    queries = query.reshape(-1, shared * tokens, size)
    keys, values = (part.reshape(-1, tokens, size) for part in (key, value))
    later = torch.full((tokens, tokens), -torch.inf, dtype=query.dtype).triu(1).repeat(shared, 1)
    scores = torch.baddbmm(later[None], queries, keys.transpose(1, 2), alpha=size**-0.5 if scaling is None else scaling)
    found = torch.bmm(torch.softmax(scores, dim=-1), values)
    return found.view(batch, heads, tokens, size).transpose(1, 2).contiguous(), None


AttentionInterface.register(_NAME, attend)
AttentionMaskInterface.register(_NAME, sdpa_mask)


@contextmanager
def fast_attention(model: nn.Module) -> Iterator[None]:
    """Let `model` attend by `attend` in the block, if it attends by torch's kernel throughout and stands to gain."""
    gains = model.device.type == "cpu" and model.dtype == torch.bfloat16
    configs = (model.config, text_config(model.config))
    if not gains or any(config._attn_implementation != "sdpa" for config in configs):
        yield
        return
    model.set_attn_implementation(_NAME)
    try:
        yield
    finally:
        model.set_attn_implementation("sdpa")
