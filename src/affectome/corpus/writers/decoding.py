"""Texts under way in one batch: rows join and leave it while the others go on.

Transformers' `generate` writes until the last row of a batch has finished, copies the cache for every token and, where
query heads share keys, repeats these for every token. Here the room of a finished row goes to a new text, and nothing
is copied but when rows change. On a GPU, where starting a model's many small kernels takes longer than running them,
the step from token to token is compiled over a cache of fixed shape.
"""

import inspect
import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.cache_utils import Cache
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from affectome.corpus.writers.caches import JOIN, Fixed, Growing, empty_cache, join
from affectome.errors import UserError
from affectome.models.anatomy import text_config

log = logging.getLogger(__name__)

# Tokens, padding included, of prompts that are read in one pass.
_READ = 8192

# Logits held at once, as numbers, of models that cannot leave out those of the prompt: 512 MB in float32.
_LOGITS = 2**27

# Columns by which a cache of fixed shape is larger than the longest text, at least, and of which it is a multiple.
_SPARE = 64

_ATTENTION = "affectome_grouped"


class Batch:
    """Up to `rows` texts that `model` has under way, aligned on the right, of up to `tokens` tokens in all.

    Prompts and texts are lists of token numbers.
    `can_join` says whether new texts can join those under way; otherwise they must wait until none of these is left.
    Raises UserError for a model that keeps no keys and values of what it has read.
    """

    def __init__(self, model: nn.Module, rows: int, tokens: int) -> None:
        known = inspect.signature(model.forward).parameters
        if "past_key_values" not in known:
            raise UserError(
                f"{text_config(model.config).model_type} keeps no keys and values, so it cannot write for a corpus; "
                f"use a model of another kind, or one that is served (writer openai)"
            )
        if getattr(model.config, "_attn_implementation", None) == "sdpa":
            model.set_attn_implementation(_ATTENTION)
        self._model = model
        self._takes_positions = "position_ids" in known
        self._last_only = {"logits_to_keep": 1} if "logits_to_keep" in known else {}
        self._read = _READ if self._last_only else min(_READ, _LOGITS // text_config(model.config).vocab_size)
        kinds = {type(layer) for layer in empty_cache(model).layers}
        self.can_join = kinds <= JOIN.keys()
        self._rows, self._tokens = rows, tokens
        self._is_fixed = kinds == {Growing} and fixed_shapes_pay(model)
        self._call = model.get_compiled_call(None) if self._is_fixed and model.device.type == "cuda" else model
        self._fixed: Fixed | None = None
        self._cache: Cache | None = None
        self._mask = torch.zeros((0, 0), dtype=torch.bool, device=model.device)

    @property
    def is_full(self) -> bool:
        """Whether `change` must come before the next step, if only to take out columns that all rows pad."""
        return self._fixed is not None and self._mask.shape[1] >= self._fixed.columns

    def bears(self, longest: int) -> int:
        """How many texts may be under way if the longest of them will have so many tokens; at least one."""
        return max(1, min(self._rows, self._tokens // longest))

    def change(self, kept: Sequence[int], prompts: Sequence[Sequence[int]], longest: int) -> torch.Tensor | None:
        """Go on with the rows numbered `kept`, followed by new ones for `prompts`.

        Returns the logits (prompts, vocabulary) of what follows the new prompts, None without any. `longest` is the
        most tokens that any of all these rows will have.
        """
        index = torch.tensor(kept, dtype=torch.long, device=self._mask.device)
        if kept and not self.can_join:
            self._cache.reorder_cache(index)
            self._mask = self._mask[index]
            return None
        read = [self._read_prompts(part) for part in (self._parts(prompts) if self.can_join else [prompts])]
        parts = [(cache, mask, torch.arange(len(mask), device=mask.device)) for cache, mask, _ in read]
        if kept:
            held = self._fixed.view(self._mask.shape[1]) if self._fixed else self._cache
            parts.insert(0, (held, self._mask, index))
        self._cache, self._mask = join(parts) if len(parts) > 1 or kept else parts[0][:2]
        if self._is_fixed:
            self._fill_fixed(longest)
        return torch.cat([logits for _, _, logits in read]) if read else None

    def step(self, tokens: Sequence[int]) -> torch.Tensor:
        """Add a token to every row; returns the logits (rows, vocabulary) of what follows."""
        ids = torch.tensor(tokens, device=self._mask.device)[:, None]
        self._mask = nn.functional.pad(self._mask, (0, 1), value=True)
        return self._step_fixed(ids) if self._fixed else self._pass(ids, self._mask, self._cache, self._model)

    def alone(self, ids: Sequence[int]) -> torch.Tensor:
        """The logits (vocabulary,) of what follows `ids`, from a pass over them that no other row has a part in."""
        tokens = torch.tensor([ids], device=self._mask.device)
        return self._model(input_ids=tokens, use_cache=False, **self._last_only).logits[0, -1].float()

    def _parts(self, prompts: Sequence[Sequence[int]]) -> list[list[Sequence[int]]]:
        """`prompts` in their order, in parts of which one pass can read each."""
        parts: list[list[Sequence[int]]] = []
        longest = 0
        for prompt in prompts:
            longest = max(longest, len(prompt))
            if not parts or (len(parts[-1]) + 1) * longest > self._read:
                parts.append([])
                longest = len(prompt)
            parts[-1].append(prompt)
        return parts

    def _read_prompts(self, prompts: Sequence[Sequence[int]]) -> tuple[Cache, torch.Tensor, torch.Tensor]:
        width = max(map(len, prompts))
        device = self._mask.device
        # Padded with the row's own first token, masked.
        ids = torch.tensor([[*prompt[:1] * (width - len(prompt)), *prompt] for prompt in prompts], device=device)
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
        mask = torch.arange(width, device=device) >= width - lengths[:, None]
        cache = empty_cache(self._model)
        return cache, mask, self._pass(ids, mask, cache, self._model)

    def _fill_fixed(self, longest: int) -> None:
        fixed = self._fixed
        if fixed is None or fixed.columns < longest + _SPARE or fixed.rows < len(self._mask):
            self._fixed = Fixed(self.bears(longest), (longest // _SPARE + 2) * _SPARE)
        self._fixed.fill(self._cache, self._mask.shape[1])
        self._cache = None

    def _step_fixed(self, ids: torch.Tensor) -> torch.Tensor:
        rows, width = self._mask.shape
        fixed = self._fixed
        mask = nn.functional.pad(self._mask, (0, fixed.columns - width, 0, fixed.rows - rows))
        # Attention must have something to look at in rows that hold no text, too.
        mask[rows:, width - 1] = True
        ids = nn.functional.pad(ids, (0, 0, 0, fixed.rows - rows))
        try:
            return self._pass(ids, mask, fixed.cache, self._call)[:rows]
        except Exception as error:
            if self._call is self._model:
                raise
            # A compiler that is missing or fails, in one of its many ways, is no reason not to write.
            log.warning("cannot compile the model, which is slower without (%s)", type(error).__name__)
            self._call = self._model
            fixed.rewind(width - 1)
            return self._pass(ids, mask, fixed.cache, self._call)[:rows]

    def _pass(self, ids: torch.Tensor, mask: torch.Tensor, cache: Cache, call: Callable) -> torch.Tensor:
        # Columns of padding get a position, too, which is never looked at.
        positions = {"position_ids": (mask.cumsum(dim=1) - 1).clamp(min=0)[:, -ids.shape[1] :]}
        output = call(
            input_ids=ids,
            attention_mask=mask.long(),
            past_key_values=cache,
            use_cache=True,
            **(positions if self._takes_positions else {}),
            **self._last_only,
        )
        return output.logits[:, -1].to(mask.device, torch.float32)


def fixed_shapes_pay(model: nn.Module) -> bool:
    """Whether `model` is on one GPU, in a form that compiles."""
    quantizer = getattr(model, "hf_quantizer", None)
    return (
        model.device.type == "cuda"
        and len(set(getattr(model, "hf_device_map", {}).values())) <= 1
        and getattr(model, "_can_compile_fullgraph", False)
        and (quantizer is None or quantizer.is_compileable)
    )


def _grouped_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **settings: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of one query per row; heads that share keys are taken for queries that do, which nothing is copied for.

    Arguments and result are those of Transformers' attention functions; passes over more tokens are left to its own.
    """
    rows, heads, queries, width = query.shape
    # A mask or bias that tells heads apart cannot be shared by them.
    by_head = settings.get("position_bias") is not None or (attention_mask is not None and attention_mask.shape[1] > 1)
    if queries > 1 or key.shape[1] == heads or by_head:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **settings)
    output = nn.functional.scaled_dot_product_attention(
        query.reshape(rows, key.shape[1], -1, width), key, value, attn_mask=attention_mask, scale=scaling
    )
    return output.reshape(rows, 1, heads, -1), None


AttentionInterface.register(_ATTENTION, _grouped_attention)
AttentionMaskInterface.register(_ATTENTION, sdpa_mask)
