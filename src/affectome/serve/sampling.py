"""From logits to tokens, and from tokens to text, for one reply.

What is drawn belongs to the reply and not to its batch: one number of its own generator for each token.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

# Scores divided by less would overflow; at a temperature below it the likeliest token is taken.
_LEAST = 1e-5

# The bytes of a character of UTF-8 come in at most so many tokens.
_LONGEST_CHARACTER = 4

# Tokens of the prompt that are decoded along, as the first token's space depends on what is before it.
_CONTEXT = 6

_UNFINISHED = "\ufffd"


@dataclass(frozen=True)
class Sampling:
    """How a token is chosen; the defaults leave the model's distribution as it is. `temperature` 0 is greedy."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: Mapping[int, float] | None = None
    min_tokens: int = 0
    seed: int | None = None


class _CountPenalty(LogitsProcessor):
    """OpenAI's penalties, of which Transformers has none: for each token's count in the reply, and for its presence."""

    def __init__(self, prompt: int, frequency: float, presence: float) -> None:
        self._prompt, self._frequency, self._presence = prompt, frequency, presence

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        counts = torch.zeros_like(scores)
        written = input_ids[:, self._prompt :]
        counts.scatter_add_(1, written, torch.ones_like(written, dtype=scores.dtype))
        return scores - self._frequency * counts - self._presence * (counts > 0)


class Sampler:
    """Chooses the tokens of one reply to `prompt`; `ends` are those with which it ends."""

    def __init__(self, sampling: Sampling, prompt: Sequence[int], ends: Sequence[int]) -> None:
        length = len(prompt)
        self._processors, warpers = LogitsProcessorList(), LogitsProcessorList()
        if sampling.logit_bias:
            biases = {(token,): float(bias) for token, bias in sampling.logit_bias.items()}
            self._processors.append(SequenceBiasLogitsProcessor(biases))
        if sampling.repetition_penalty != 1:
            self._processors.append(RepetitionPenaltyLogitsProcessor(max(sampling.repetition_penalty, _LEAST)))
        if sampling.frequency_penalty or sampling.presence_penalty:
            self._processors.append(_CountPenalty(length, sampling.frequency_penalty, sampling.presence_penalty))
        if sampling.min_tokens and ends:
            self._processors.append(MinNewTokensLengthLogitsProcessor(length, sampling.min_tokens, list(ends)))
        self._draws = sampling.temperature >= _LEAST
        if self._draws:
            if sampling.temperature != 1:
                warpers.append(TemperatureLogitsWarper(float(sampling.temperature)))
            if sampling.top_k > 0:
                warpers.append(TopKLogitsWarper(sampling.top_k))
            if sampling.top_p < 1:
                warpers.append(TopPLogitsWarper(sampling.top_p))
            if sampling.min_p:
                warpers.append(MinPLogitsWarper(sampling.min_p))
        self._remembers = bool(self._processors)
        self._processors.extend(warpers)
        self._generator = torch.Generator()
        if sampling.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(sampling.seed % 2**63)

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is taken, whatever came before."""
        return not self._draws and not self._processors

    def choose(self, read: Sequence[int], logits: torch.Tensor) -> int:
        """The token after the tokens `read`, prompt included, by its `logits` (1, vocabulary)."""
        # Only penalties look at what came before.
        ids = torch.tensor([read if self._remembers else read[:1]], device=logits.device)
        scores = self._processors(ids, logits)
        if not self._draws:
            return int(scores.argmax())
        # Inverse-transform sampling; in float64 the number drawn never rounds up to the whole.
        cumulated = torch.softmax(scores[0].double(), dim=-1).cumsum(dim=-1)
        drawn = torch.rand((1,), generator=self._generator, dtype=torch.float64).to(logits.device) * cumulated[-1:]
        return int(torch.searchsorted(cumulated, drawn, right=True))


@dataclass(frozen=True)
class Token:
    """A token of a reply: what it added to the text, and log-probabilities (nats) where they were asked for."""

    id: int
    text: str
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


class Text:
    """The text of one reply as its tokens come, given out as soon as it is certain.

    Held back are the bytes of an unfinished character, which are left out should the reply end there, and what may be
    the beginning of one of the strings `stops`, before the first of which the text ends.
    """

    def __init__(self, tokenizer: Any, prompt: Sequence[int], stops: Sequence[str], special: bool = False) -> None:
        self._tokenizer, self._stops, self._special = tokenizer, list(stops), special
        self._ids = list(prompt[-_CONTEXT:])
        # Tokens from `_start` on are decoded together; the text of those before `_known` has been taken note of.
        self._start, self._known = 0, len(self._ids)
        if self._decode(self._known).endswith(_UNFINISHED):
            # The reply's text is its own, even where the prompt, given in tokens, ends within a character.
            self._start = self._known
        self._pending: list[Token] = []
        self.stopped = False

    def add(self, token: Token) -> list[Token]:
        """Tokens whose text is now certain, in order; joined, their texts are the text that goes out."""
        self._ids.append(token.id)
        self._pending.append(Token(token.id, self._decoded(), token.logprob, token.top))
        held = "".join(item.text for item in self._pending)
        found = [place for place in (held.find(stop) for stop in self._stops) if place >= 0]
        if found:
            self.stopped = True
            return self._release(min(found), cut=True)
        certain = len(held) - max((_overlap(held, stop) for stop in self._stops), default=0)
        return self._release(certain) if certain else []

    def end(self) -> list[Token]:
        """What was held back, once nothing more comes."""
        return self._release(sum(len(item.text) for item in self._pending))

    def _release(self, length: int, cut: bool = False) -> list[Token]:
        """The pending tokens whose text ends within the first `length` characters; `cut` ends the text there."""
        released = []
        while self._pending and len(self._pending[0].text) <= length and (length or not cut):
            released.append(self._pending.pop(0))
            length -= len(released[-1].text)
        if cut:
            if length:
                last = self._pending[0]
                released.append(Token(last.id, last.text[:length], last.logprob, last.top))
            self._pending = []
        return released

    def _decoded(self) -> str:
        """What the newest token adds to the text; "" while it leaves a character unfinished."""
        before, now = self._decode(self._known), self._decode(len(self._ids))
        known = len(self._ids)
        if now.endswith(_UNFINISHED):
            # What no later token can change is given out all the same: not every byte is the first of a character.
            known, now = self._settled(now)
        if len(now) <= len(before):
            return ""
        self._start, self._known = self._known, known
        return now[len(before) :]

    def _settled(self, now: str) -> tuple[int, str]:
        latest = len(self._ids) - _LONGEST_CHARACTER + 1
        for known in range(latest, max(self._known, latest - _LONGEST_CHARACTER), -1):
            text = self._decode(known)
            if now.startswith(text):
                return known, text
        return self._known, ""

    def _decode(self, end: int) -> str:
        return self._tokenizer.decode(
            self._ids[self._start : end], skip_special_tokens=not self._special, clean_up_tokenization_spaces=False
        )


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of `text` that `stop` begins with."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)
