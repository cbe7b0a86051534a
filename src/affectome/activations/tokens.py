"""Tokens of a text, the span of them that is pooled, and batches of texts.

**The convention.** A text's tokens are its real tokens. Padding is known from lengths alone (the attention mask's
information), never from token ids: SmolLM2, for one, uses one id for both padding and end of text. Special tokens that
the tokenizer adds (BOS, EOS) are not the text's. The first token of a sequence is an attention sink, with a norm tens
of times any other, and is never pooled.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True)
class TokenText:
    """One tokenised text: `ids[start:stop]` are the text's own tokens, the rest are special ones around them."""

    ids: tuple[int, ...]
    start: int
    stop: int
    cut: bool = False

    @property
    def spans(self) -> tuple[int, int]:
        """The text's tokens without the first token of the sequence."""
        return max(self.start, 1), self.stop


def tokenize(tokenizer: Any, texts: list[str], max_tokens: int) -> list[TokenText]:
    """Tokenise `texts` as the model expects a bare text, BOS included where the tokenizer adds one.

    A text of more than `max_tokens` tokens of its own keeps the first `max_tokens` and is marked `cut`.
    """
    encoded = tokenizer(texts, return_special_tokens_mask=True, padding=False, truncation=False)
    tokens = []
    for ids, special in zip(encoded["input_ids"], encoded["special_tokens_mask"], strict=True):
        start = next((index for index, flag in enumerate(special) if not flag), len(ids))
        stop = len(ids) - next((index for index, flag in enumerate(reversed(special)) if not flag), 0)
        kept = min(stop, start + max_tokens)
        tokens.append(TokenText(tuple(ids[:kept]), min(start, kept), kept, cut=kept < stop))
    return tokens


def pooled_span(text: TokenText, pooling: dict[str, Any]) -> tuple[int, int]:
    """Positions [first, end) of the sequence that `pooling` averages; empty where the text is too short.

    `pooling` is one of `{"from": k}` (tokens with index k or later, BOS not counted), `{"mean": True}` and
    `{"last": True}`, as in `readings.*.pooling`.
    """
    first, end = text.spans
    if "from" in pooling:
        first = max(first, text.start + pooling["from"])
    elif "last" in pooling:
        first = max(first, end - 1)
    return first, max(first, end)


def plan_batches(lengths: list[int], budget: int) -> list[list[int]]:
    """Indices of texts grouped so that a padded batch holds at most `budget` tokens, longest texts first.

    A text longer than the budget is a batch of its own. The plan depends on the lengths and their order alone, and so
    do the bytes of what is computed from it.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if batches and lengths[batches[-1][0]] * (len(batches[-1]) + 1) <= budget:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def pad_right(texts: list[TokenText]) -> torch.Tensor:
    """Token ids (batch, longest), each row padded on the right with its own last token.

    Causal attention keeps any finite filler from the real tokens. A padding token's embedding need not be finite, as
    nothing ever trained it, and its id may lie outside the vocabulary; the text's own tokens are safe.
    """
    longest = max(len(text.ids) for text in texts)
    return torch.tensor([text.ids + text.ids[-1:] * (longest - len(text.ids)) for text in texts])


def span_mask(spans: list[tuple[int, int]], length: int) -> torch.Tensor:
    """Float mask (batch, length), 1 inside each [first, end)."""
    positions = torch.arange(length)[None]
    bounds = torch.from_numpy(np.array(spans, dtype=np.int64))
    return ((positions >= bounds[:, :1]) & (positions < bounds[:, 1:])).float()
