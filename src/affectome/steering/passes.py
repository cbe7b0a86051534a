"""Passes of a model over many rows, each with a plan of its own: writing text, scoring continuations, reading text.

Rows of any conditions share a batch. Batches follow from the rows' lengths alone, so the numbers do not depend on how
often a job was interrupted, and what is drawn for a row (`uniforms`) belongs to the row and not to its batch.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import GenerationConfig, LogitsProcessor

from affectome.activations.tokens import pad_right, plan_batches
from affectome.journal import Journal
from affectome.models.anatomy import residual, text_config
from affectome.progress import progress
from affectome.steering.instrument import Intervention, Steering, blocks_of

# Logits held at once, as numbers: 512 MB in float32.
_LOGITS = 2**27

# Rows of the output head that are turned to float32 at once.
_HEAD_ROWS = 16_384

# A step of writing holds one token per row: what fills memory then is the cache, of which more fits than of passes.
WRITING = 4


@dataclass(frozen=True, eq=False)
class Row:
    """What one row of a batch reads, and how it is steered; `ids` are tokens, `plan` may be empty."""

    ids: tuple[int, ...]
    plan: tuple[Intervention, ...] = ()


@dataclass(frozen=True)
class Written:
    """What a model wrote: text, its tokens, and whether it came to an end by itself."""

    text: str
    ids: tuple[int, ...]
    finished: bool


@dataclass(frozen=True)
class Read:
    """A text as a model read it: mean negative log-likelihood (nats per token), and the mean residual of one block."""

    nll: float
    pooled: np.ndarray | None


def in_batches(
    name: str,
    lengths: Sequence[int],
    budget: int,
    work: Callable[[list[int]], list[Any]],
    journal: Journal,
) -> list[Any]:
    """The JSON-like results of `work` for every row, in the order of rows.

    `work` takes the numbers of the rows of one batch, whose padded tokens stay within `budget`, and gives a result for
    each. Batches that `journal` has under `name` are not done again.
    """
    results: list[Any] = [None] * len(lengths)
    batches = plan_batches(list(lengths), budget)
    kept = [f"{name}/{number}" in journal.entries for number in range(len(batches))]
    done = sum(len(batch) for batch, known in zip(batches, kept, strict=True) if known)
    with progress(name, len(lengths), "rows", initial=done) as bar:
        for number, batch in enumerate(batches):
            if not kept[number]:
                journal.add(f"{name}/{number}", work(batch))
                bar.update(len(batch))
            for row, result in zip(batch, journal.entries[f"{name}/{number}"], strict=True):
                results[row] = result
    return results


class _Drawn(LogitsProcessor):
    """Leaves one token to choose: the one in which a row's uniform number for this step falls.

    Inverse-transform sampling from softmax(scores / temperature), so that rows are drawn for independently of batches.
    """

    def __init__(self, uniforms: torch.Tensor, temperature: float) -> None:
        self._uniforms, self._temperature, self._step = uniforms, temperature, 0

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:  # noqa: ARG002
        cumulated = torch.softmax(scores.float() / self._temperature, dim=-1).cumsum(dim=-1)
        drawn = self._uniforms[:, self._step, None].to(scores.device) * cumulated[:, -1:]
        token = torch.searchsorted(cumulated, drawn, right=True).clamp(max=scores.shape[1] - 1)
        self._step += 1
        return torch.full_like(scores, float("-inf")).scatter_(1, token, 0.0)


def end_tokens(model: nn.Module, tokenizer: Any) -> list[int]:
    """Tokens with which a text of this model ends."""
    ends = getattr(model.generation_config, "eos_token_id", None)
    listed = ends if isinstance(ends, list) else [ends]
    return sorted({token for token in (*listed, tokenizer.eos_token_id) if token is not None})


@torch.inference_mode()
def write(
    model: nn.Module, tokenizer: Any, rows: Sequence[Row], uniforms: np.ndarray, temperature: float
) -> list[Written]:
    """One batch of texts, sampled with `uniforms` (rows, longest text in tokens); temperature 0 takes the likeliest.

    Padded on the left with the row's own first token, masked.
    """
    longest = max(len(row.ids) for row in rows)
    ids = torch.tensor([row.ids[:1] * (longest - len(row.ids)) + row.ids for row in rows], device=model.device)
    mask = torch.tensor([[0] * (longest - len(row.ids)) + [1] * len(row.ids) for row in rows], device=model.device)
    ends = end_tokens(model, tokenizer)
    # The model's own defaults (top-k, penalties for repetition) are no part of the experiment.
    settings = GenerationConfig(
        max_new_tokens=uniforms.shape[1],
        do_sample=False,
        num_beams=1,
        repetition_penalty=1.0,
        eos_token_id=ends or None,
        pad_token_id=ends[0] if ends else 0,
    )
    drawing = [_Drawn(torch.tensor(uniforms, dtype=torch.float32), temperature)] if temperature else []
    with Steering(model, [row.plan for row in rows]):
        out = model.generate(input_ids=ids, attention_mask=mask, generation_config=settings, logits_processor=drawing)
    return [_written(tokenizer, tokens, ends) for tokens in out[:, longest:].tolist()]


def _written(tokenizer: Any, tokens: list[int], ends: list[int]) -> Written:
    stop = next((n for n, token in enumerate(tokens) if token in ends), None)
    own = tokens[:stop]
    return Written(tokenizer.decode(own, skip_special_tokens=True), tuple(own), stop is not None)


@torch.inference_mode()
def continuation_logprobs(
    model: nn.Module, rows: Sequence[Row], continuations: Sequence[Sequence[tuple[int, ...]]]
) -> list[list[float]]:
    """Log-probability (nats) of each row's `continuations`, token sequences after its `ids`.

    A row is read once, whatever the number of its continuations: their later tokens go on from its cache. Positions to
    steer count the row's `ids` as the prompt.
    """
    results: list[list[float]] = [[] for _ in rows]
    by_length: dict[int, list[int]] = {}
    for number, row in enumerate(rows):
        by_length.setdefault(len(row.ids), []).append(number)
    # Rows of one length need no padding, and so neither a mask nor positions of their own.
    for numbers in by_length.values():
        found = _of_one_length(model, [rows[n] for n in numbers], [continuations[n] for n in numbers])
        for number, values in zip(numbers, found, strict=True):
            results[number] = values
    return results


def _of_one_length(
    model: nn.Module, rows: Sequence[Row], continuations: Sequence[Sequence[tuple[int, ...]]]
) -> list[list[float]]:
    ways = [(n, way) for n, of_row in enumerate(continuations) for way in of_row]
    starts = sorted({(n, way[:-1]) for n, way in ways if len(way) > 1})
    batch = torch.tensor([row.ids for row in rows], device=model.device)
    length = batch.shape[1]
    last = torch.full((len(rows), 1), length - 1, device=model.device)
    with Steering(model, [row.plan for row in rows], [length] * len(rows)) as steering:
        with _precise_head(model, last):
            out = model(input_ids=batch, use_cache=bool(starts))
        total = dict(zip(ways, _picked(out.logits, [(n, 0, way[0]) for n, way in ways]), strict=True))
        for part in _parts(starts, out.logits.shape[-1]):
            cache = copy.deepcopy(out.past_key_values)
            cache.reorder_cache(torch.tensor([n for n, _ in part], device=model.device))
            with steering.following([n for n, _ in part]), _precise_head(model):
                ids = torch.tensor([start for _, start in part], device=model.device)
                logits = model(input_ids=ids, past_key_values=cache, use_cache=True).logits
            place = {start: number for number, start in enumerate(part)}
            later = [(n, way, step) for n, way in set(ways) if (n, way[:-1]) in place for step in range(1, len(way))]
            picked = _picked(logits, [(place[n, way[:-1]], step - 1, way[step]) for n, way, step in later])
            for (n, way, _), value in zip(later, picked, strict=True):
                total[n, way] += value
    return [[total[n, way] for way in of_row] for n, of_row in enumerate(continuations)]


def _picked(logits: torch.Tensor, places: list[tuple[int, int, int]]) -> list[float]:
    """Log-probabilities of the tokens at `places` (row, column, token) of logits (rows, columns, vocabulary)."""
    rows, columns, tokens = torch.tensor(places, device=logits.device).T
    return (logits[rows, columns, tokens].float() - logits.float().logsumexp(dim=-1)[rows, columns]).tolist()


def _parts(starts: list[tuple[int, tuple[int, ...]]], vocabulary: int) -> Iterator[list[tuple[int, tuple[int, ...]]]]:
    """`starts` of continuations, as (row, tokens), in parts of one depth whose logits fit into memory."""
    for depth in sorted({len(start) for _, start in starts}):
        of_depth = [entry for entry in starts if len(entry[1]) == depth]
        most = max(1, _LOGITS // (depth * vocabulary))
        yield from (of_depth[n : n + most] for n in range(0, len(of_depth), most))


@torch.inference_mode()
def top_tokens(model: nn.Module, rows: Sequence[Row]) -> list[int]:
    """The likeliest next token after each row."""
    batch = torch.from_numpy(pad_right(rows)).to(model.device)
    places = torch.tensor([[len(row.ids) - 1] for row in rows], device=model.device)
    with Steering(model, [row.plan for row in rows], [len(row.ids) for row in rows]):
        return logits_at(model, batch, places)[:, 0].argmax(dim=-1).tolist()


@torch.inference_mode()
def read(model: nn.Module, rows: Sequence[Row], starts: Sequence[int], layer: int | None = None) -> list[Read]:
    """How likely each row's tokens from number `starts` on are to the model, and what block `layer` made of them.

    The tokens before are context, and the first of a sequence is never counted. NaN for a row without such tokens.
    """
    batch = torch.from_numpy(pad_right(rows)).to(model.device)
    found: list[torch.Tensor] = []
    watched = [] if layer is None else [blocks_of(model)[layer]]
    handles = []
    try:
        with Steering(model, [row.plan for row in rows], [len(row.ids) for row in rows]):
            # Put on after those that steer, so that what is read is what steering made of the block's output.
            for block in watched:
                handles.append(block.register_forward_hook(lambda _m, _i, output: found.append(residual(output))))
            logits = model(input_ids=batch, use_cache=False).logits
    finally:
        for handle in handles:
            handle.remove()
    results = []
    for number, (row, start) in enumerate(zip(rows, starts, strict=True)):
        first = max(start, 1)
        if first >= len(row.ids):
            results.append(Read(float("nan"), None))
            continue
        target = batch[number, first : len(row.ids)].to(logits.device)
        nll = torch.nn.functional.cross_entropy(logits[number, first - 1 : len(row.ids) - 1].float(), target)
        pooled = found[0][number, first : len(row.ids)].float().mean(dim=0).cpu().numpy() if found else None
        results.append(Read(float(nll), pooled))
    return results


def reading_budget(model: nn.Module, budget: int) -> int:
    """Tokens per batch for passes that keep the logits of every token, at most `budget`."""
    return max(1, min(budget, _LOGITS // text_config(model.config).vocab_size))


@contextmanager
def _precise_head(model: nn.Module, places: torch.Tensor | None = None) -> Iterator[None]:
    """Let the output head work in float32, and only on the tokens at `places` (rows, k) of each row where given.

    Over all tokens it would cost a fifth of a small model's pass. In bfloat16 logits of ordinary size are multiples of
    1/8 or 1/16, as large as the effects looked for.
    """
    head = model.get_output_embeddings()

    def gather(_head: nn.Module, inputs: tuple) -> tuple:
        hidden = inputs[0]
        index = places.to(hidden.device)[..., None].expand(-1, -1, hidden.shape[-1])
        return (hidden.gather(1, index), *inputs[1:])

    def again(_head: nn.Module, inputs: tuple, output: torch.Tensor) -> torch.Tensor:
        if not head.weight.is_floating_point() or head.weight.dtype == torch.float32:
            return output
        # In parts: a copy of the whole head of a large model would not fit beside it.
        parts = head.weight.split(_HEAD_ROWS)
        logits = torch.cat([nn.functional.linear(inputs[0].float(), part.float()) for part in parts], dim=-1)
        return logits if head.bias is None else logits + head.bias.float()

    handles = [head.register_forward_hook(again)]
    if places is not None:
        handles.append(head.register_forward_pre_hook(gather))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def logits_at(model: nn.Module, ids: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Float32 logits (rows, k, vocabulary) at the tokens `places` (rows, k) of right-padded `ids` (rows, tokens)."""
    with _precise_head(model, places):
        return model(input_ids=ids, use_cache=False).logits.float()
