"""Tokens of a text, the span of them that is pooled, and batches of texts.

**The convention.** A text's tokens are its real tokens. Padding is known from lengths alone (the attention mask's
information), never from token ids: SmolLM2, for one, uses one id for both padding and end of text. Special tokens that
the tokenizer adds (BOS, EOS) are not the text's, nor is what a chat template puts around it. The first token of a
sequence is an attention sink, with a norm tens of times any other, and is never pooled.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from affectome.errors import UserError
from affectome.models.chat import Prompt, as_prompt, as_turn, has_template


@dataclass(frozen=True)
class TokenText:
    """One tokenised text: `ids[start:stop]` are the text's own tokens, the rest are special ones around them.

    `reply`, in a chat, is the position at which the model's reply begins, the length of the sequence for a user's turn.
    """

    ids: tuple[int, ...]
    start: int
    stop: int
    cut: bool = False
    reply: int | None = None

    @property
    def spans(self) -> tuple[int, int]:
        """The text's tokens without the first token of the sequence."""
        return max(self.start, 1), self.stop


def tokenize(
    tokenizer: Any, texts: list[str], max_tokens: int, framing: str = "bare", prompt: str | None = None
) -> list[TokenText]:
    """Tokenise `texts` as the model expects them: `bare`, or as a turn of the `user` or the `assistant` in a chat.

    A bare text gets the BOS that the tokenizer adds; a chat has what its template writes and no other. `prompt` is what
    the user said before an assistant's turn. A text of more than `max_tokens` tokens of its own keeps the first
    `max_tokens` and is marked `cut`. Raises UserError where the model has no template for such a chat.
    """
    if framing != "bare":
        return _tokenize_turns(tokenizer, texts, max_tokens, framing, prompt)
    encoded = tokenizer(texts, return_special_tokens_mask=True, padding=False, truncation=False)
    tokens = []
    for ids, special in zip(encoded["input_ids"], encoded["special_tokens_mask"], strict=True):
        start = next((index for index, flag in enumerate(special) if not flag), len(ids))
        stop = len(ids) - next((index for index, flag in enumerate(reversed(special)) if not flag), 0)
        kept = min(stop, start + max_tokens)
        tokens.append(TokenText(tuple(ids[:kept]), min(start, kept), kept, cut=kept < stop))
    return tokens


def _tokenize_turns(
    tokenizer: Any, texts: list[str], max_tokens: int, role: str, prompt: str | None
) -> list[TokenText]:
    if not tokenizer.is_fast:
        raise UserError("this model's tokenizer does not say where its tokens stand in a text; use the framing bare")
    turns = as_turn(tokenizer, role, texts, prompt)
    # The template has written every special token there is to be; a tokenizer would put a second BOS before it.
    encoded = tokenizer(
        [text for text, _, _ in turns],
        add_special_tokens=False,
        return_offsets_mapping=True,
        padding=False,
        truncation=False,
    )
    tokens = []
    for ids, offsets, (_, start, end) in zip(encoded["input_ids"], encoded["offset_mapping"], turns, strict=True):
        first, stop = _own(offsets, start, end)
        kept = min(stop, first + max_tokens)
        framed = (*ids[:kept], *ids[stop:])
        tokens.append(TokenText(framed, first, kept, kept < stop, len(framed) if role == "user" else first))
    return tokens


def _own(offsets: list[tuple[int, int]], start: int, end: int) -> tuple[int, int]:
    """Tokens [first, stop) of the letters [start, end), by the letters of each token; empty where there are none."""
    # A token that holds a letter of the text is the text's, even where it holds one of the template too.
    own = [number for number, (first, stop) in enumerate(offsets) if first < end and stop > start]
    after = [number for number, (first, _) in enumerate(offsets) if first >= end]
    return (own[0], own[-1] + 1) if own else (after[0] if after else len(offsets),) * 2


def tokenize_prompts(tokenizer: Any, prompts: list[Prompt]) -> list[TokenText]:
    """Tokenise conversations up to where what is read of them ends: a message, or the token before the reply.

    Where a message is read, it is the text's own tokens; else all tokens are, and `reply` is their number. Raises
    UserError, naming the prompt by its number counted from 1, where the model's template or tokenizer does not allow
    it.
    """
    turns = any(prompt.turn is not None for prompt in prompts)
    if turns and not tokenizer.is_fast:
        raise UserError("this model's tokenizer does not say where its tokens stand in a text; use another model")
    special = not has_template(tokenizer)
    tokens = []
    for number, prompt in enumerate(prompts, 1):
        try:
            text, start, end = as_prompt(tokenizer, prompt)
        except UserError as error:
            raise UserError(f"prompt {number}: {error}") from error
        settings = {"return_offsets_mapping": turns, "padding": False, "truncation": False}
        encoded = tokenizer(text, add_special_tokens=special, return_special_tokens_mask=True, **settings)
        ids, mask = encoded["input_ids"], encoded["special_tokens_mask"]
        # What a tokenizer puts after a text would stand before the reply.
        size = len(ids) - (next((index for index, flag in enumerate(reversed(mask)) if not flag), 0) if special else 0)
        if prompt.turn is None:
            tokens.append(TokenText(tuple(ids[:size]), 0, size, reply=size))
            continue
        first, stop = _own(encoded["offset_mapping"][:size], start, end)
        if stop <= max(first, 1):
            raise UserError(f"prompt {number}: message {prompt.turn} has no tokens to read; write something")
        tokens.append(TokenText(tuple(ids[:stop]), first, stop))
    return tokens


def pooled_span(text: TokenText, pooling: dict[str, Any]) -> tuple[int, int]:
    """Positions [first, end) of the sequence that `pooling` averages; empty where the text is too short.

    `pooling` is one of `{"from": k}` (tokens with index k or later, BOS not counted), `{"mean": True}`,
    `{"last": True}` and, in a chat, `{"position": "before_reply"}` (the template's last token before the model's
    reply), as in `readings.*.pooling`.
    """
    if "position" in pooling:
        return text.reply - 1, text.reply
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


def pad_right(texts: list[TokenText]) -> np.ndarray:
    """Token ids (batch, longest), int64, each row padded on the right with its own last token.

    Causal attention keeps any finite filler from the real tokens. A padding token's embedding need not be finite, as
    nothing ever trained it, and its id may lie outside the vocabulary; the text's own tokens are safe.
    """
    longest = max(len(text.ids) for text in texts)
    return np.array([text.ids + text.ids[-1:] * (longest - len(text.ids)) for text in texts], dtype=np.int64)
