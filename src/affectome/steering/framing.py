"""From the prompts of a trial set to tokens: bare text or a chat, with or without words that ask for an emotion.

A chat goes through the model's own template, which brings its special tokens along; none is added twice. A tokenizer
without a template (a base model's) gets the conversation as `Person:` and `AI:` paragraphs.
"""

import logging
from dataclasses import dataclass
from typing import Any

from affectome.errors import UserError
from affectome.models.chat import as_reply
from affectome.steering.sets import Template

log = logging.getLogger(__name__)

_SPEAKERS = {"system": "", "user": "Person: ", "assistant": "AI: "}


@dataclass(frozen=True)
class Framed:
    """A prompt as the model reads it: `text`, its tokens `ids`, and where each token stands in the text."""

    text: str
    ids: tuple[int, ...]
    offsets: tuple[tuple[int, int], ...]

    def span(self, words: str, last: bool = False) -> tuple[int, int]:
        """Tokens [first, end) that hold `words` where they stand first in the text, or `last`; UserError without them.

        A token that holds some of them and something else counts.
        """
        start = self.text.rfind(words) if last else self.text.find(words)
        if start < 0:
            raise UserError(f"the words {words!r} are not in the prompt {self.text[-80:]!r}, so they cannot be steered")
        end = start + len(words)
        inside = [n for n, (first, stop) in enumerate(self.offsets) if first < end and stop > start]
        return inside[0], inside[-1] + 1


def frame(tokenizer: Any, prompt: Template, asking: str = "") -> Framed:
    """`prompt` as tokens; `asking` is put before a bare text, and into the system message of a chat."""
    if prompt.messages is None:
        return _encode(tokenizer, f"{asking} {prompt.text}" if asking else str(prompt.text), special=True)
    messages = [message.model_dump() for message in prompt.messages]
    if asking:
        earlier = [message["content"] for message in messages if message["role"] == "system"]
        rest = [message for message in messages if message["role"] != "system"]
        messages = [{"role": "system", "content": " ".join([*earlier, asking])}, *rest]
    return _encode(tokenizer, *_conversation(tokenizer, messages, prompt.reply or ""))


def _conversation(tokenizer: Any, messages: list[dict[str, str]], reply: str) -> tuple[str, bool]:
    """The text of a conversation and of the reply's start, and whether special tokens are still to come before it."""
    if not getattr(tokenizer, "chat_template", None):
        lines = [_SPEAKERS[message["role"]] + message["content"] for message in messages]
        return "\n\n".join([*lines, f"AI: {reply}".rstrip()]), True
    return as_reply(tokenizer, messages) + reply, False


def _encode(tokenizer: Any, text: str, special: bool) -> Framed:
    """Tokens of `text`; with `special` those that the tokenizer puts before a text, never those it puts after it."""
    settings = {"add_special_tokens": special, "return_special_tokens_mask": True}
    encoded = tokenizer(text, return_offsets_mapping=True, **settings)
    ids = list(encoded["input_ids"])
    while special and ids and encoded["special_tokens_mask"][len(ids) - 1]:
        ids.pop()
    if not ids:
        raise UserError(f"the prompt {text[:60]!r} has no tokens; write something")
    return Framed(text, tuple(ids), tuple(map(tuple, encoded["offset_mapping"][: len(ids)])))


def continuation(tokenizer: Any, framed: Framed, words: str) -> tuple[int, ...]:
    """Tokens of `words` as they would go on after `framed`, with a space between them where a word ends there.

    Taken from the whole text where its first tokens are the prompt's, and from the words alone otherwise.
    """
    words = f" {words}" if framed.text[-1:].isalnum() or framed.text[-1:] in ",;:" else words
    bare = _encode(tokenizer, framed.text, special=False).ids
    whole = _encode(tokenizer, framed.text + words, special=False).ids
    if whole[: len(bare)] == bare and len(whole) > len(bare):
        return whole[len(bare) :]
    return _encode(tokenizer, words, special=False).ids
