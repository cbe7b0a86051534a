"""Passes of a model over batches of texts, as fast as the machine allows, one result per batch.

On CPUs every core reads batches of its own: cores that share a batch wait for each other after every small operation.
On a GPU one thread keeps passes queued, and results come back over pinned memory while the next pass runs. Nothing here
changes what is computed but by rounding.
"""

import logging
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from affectome.activations.attention import fast_attention
from affectome.activations.pooling import PoolingHooks, Spans, Stopped, pooling_hooks
from affectome.activations.tokens import TokenText, pad_right
from affectome.errors import UserError
from affectome.models.anatomy import check_causal, decoder_blocks, probe, text_config

log = logging.getLogger(__name__)

# Tokens per batch on a CPU: more fall out of its caches, fewer keep its cores waiting for Python.
CPU_BUDGET = 1024

# On a GPU more tokens than this per batch gain nothing, and fewer leave it idle.
_GPU_BUDGETS = (2048, 32_768)

# Of the GPU memory that is free, what batches may fill.
_MEMORY_SHARE = 0.7

# Eager passes must take so long before compiling pays: it takes about a minute and saves about a fifth.
_COMPILE_PAYS_S = 300.0

# Share of a GPU's matrix product speed that eager passes reach.
_EAGER_SHARE = 0.6

# Batches whose results wait to be taken, beyond those under way: enough to hide writing, few enough to hold.
_WAITING = 2

# On a CPU a core is given so many batches at least, or it would end up waiting for the others.
_BATCHES_PER_WORKER = 2


@dataclass(frozen=True)
class Result:
    """One batch: its number, its texts, their means (layers, texts, width) and mean token norms (layers, texts)."""

    batch: int
    texts: list[int]
    pooled: np.ndarray
    norms: np.ndarray


class Engine:
    """Reads texts with `model` at `layers`, using `threads` CPU cores or the GPU that the model is on.

    Raises UserError for a model that has no causal residual stream.
    """

    def __init__(self, model: nn.Module, layers: Sequence[int], threads: int) -> None:
        self.model, self.layers, self.threads = model, sorted(layers), threads
        self.blocks = decoder_blocks(model)
        check_causal(model, self.blocks)
        self.device = model.device
        self.compiled = False
        self._eager: list[Any] = []
        self._largest = float("inf")

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    # ------------------------------------------------------------ what fits, what pays

    def cores_per_pass(self, batches: int) -> int:
        """CPU cores that share a pass where there are so many batches to read: one, but where cores would idle.

        How many there are changes results by rounding.
        """
        return self.threads if self.on_gpu else max(1, self.threads // max(1, batches // _BATCHES_PER_WORKER))

    def budget(self, setting: int | str) -> int:
        """Tokens per batch, padding included: `setting`, or for "auto" what suits the CPU or fits into GPU memory."""
        if setting != "auto":
            return int(setting)
        if not self.on_gpu:
            return CPU_BUDGET
        try:
            return fitting_budget(self._free_memory(), self._memory_per_token())
        except torch.OutOfMemoryError:
            return _GPU_BUDGETS[0]

    def flops_per_token(self) -> float:
        """Floating-point operations per token up to the last of the layers, by counting those of a short pass.

        Attention over long texts adds little to it; 0 where the operations are of a kind that nobody counts.
        """
        ids = probe(self.model)
        counter = FlopCounterMode(display=False)
        with counter:
            self._passes(ids, 1)
        return counter.get_total_flops() / ids.numel()

    def ceiling(self) -> float | None:
        """Operations per second that matrix products in the model's precision reach on this GPU.

        None on a CPU, and where the model leaves no room to measure it.
        """
        if not self.on_gpu:
            return None
        try:
            a, b = (torch.randn(8192, 8192, device=self.device, dtype=self.model.dtype) for _ in range(2))
            torch.matmul(a, b)
        except torch.OutOfMemoryError:
            return None
        torch.cuda.synchronize(self.device)
        started = time.perf_counter()
        for _ in range(20):
            torch.matmul(a, b)
        torch.cuda.synchronize(self.device)
        return 20 * 2 * 8192**3 / (time.perf_counter() - started)

    def compiling_pays(self, tokens: int, flops_per_token: float, ceiling: float | None) -> bool:
        """Whether passes over `tokens` tokens would take long enough without compiling."""
        return bool(ceiling) and tokens * flops_per_token / (_EAGER_SHARE * ceiling) > _COMPILE_PAYS_S

    def compile(self) -> None:
        """Compile each block, for any number of texts and tokens."""
        # A model that accelerate has spread keeps a forward of its own in each block.
        self._eager = [vars(block).get("forward") for block in self.blocks]
        for block in self.blocks:
            block.forward = torch.compile(block.forward, dynamic=True)
        self.compiled = True

    def _without_compiling(self, error: Exception) -> None:
        for block, forward in zip(self.blocks, self._eager, strict=True):
            if forward is None:
                del block.forward
            else:
                block.forward = forward
        self.compiled = False
        reason = " ".join(str(error).split())[:200]
        log.warning("blocks cannot be compiled (%s: %s); going on without", type(error).__name__, reason)

    def _free_memory(self) -> int:
        """Bytes free on the fullest GPU that holds a part of the model, what torch keeps for reuse included."""
        devices = {parameter.device for parameter in self.model.parameters() if parameter.device.type == "cuda"}
        kept = (torch.cuda.memory_reserved(d) - torch.cuda.memory_allocated(d) for d in devices)
        return min(torch.cuda.mem_get_info(d)[0] + k for d, k in zip(devices, kept, strict=True))

    def _memory_per_token(self) -> float:
        """Bytes that a pass needs per token, from the peaks of a small and a larger pass."""
        ids = probe(self.model)
        peaks = []
        for rows in (32, 128):
            torch.cuda.reset_peak_memory_stats(self.device)
            self._passes(ids, rows)
            peaks.append(torch.cuda.max_memory_allocated(self.device))
        return max(1.0, (peaks[1] - peaks[0]) / (96 * ids.numel()))

    @torch.inference_mode()
    def _passes(self, ids: torch.Tensor, rows: int) -> None:
        spans = Spans([(1, ids.shape[1])] * rows, ids.shape[1], self.device)
        with pooling_hooks(self.blocks, self.layers) as hooks:
            hooks.run(self.model, ids.expand(rows, -1), spans, spans)

    # ------------------------------------------------------------ passes

    @contextmanager
    def reading(
        self,
        tokens: Sequence[TokenText],
        spans: Sequence[tuple[int, int]],
        batches: Sequence[tuple[int, list[int]]],
        cores: int = 1,
    ) -> Iterator[Iterator[Result]]:
        """The results of `batches`, as (number, texts), each of which averages `spans` of its `tokens`; in any order.

        On a CPU each pass takes `cores` of its threads, and as many run side by side as there are cores for. Leaving
        the context, for whatever reason, ends the passes under way at their next block. Where a batch does not fit into
        GPU memory it is read in parts.
        """
        todo: queue.SimpleQueue = queue.SimpleQueue()
        for batch in batches:
            todo.put(batch)
        workers = 1 if self.on_gpu else max(1, min(self.threads // cores, len(batches)))
        done: queue.SimpleQueue = queue.SimpleQueue()
        slots = threading.Semaphore(workers + _WAITING)
        stop = threading.Event()

        def work(hooks: PoolingHooks) -> None:
            torch.set_num_threads(cores)
            try:
                while slots.acquire() and not stop.is_set():
                    number, texts = todo.get_nowait()
                    done.put((number, texts, *self._read(hooks, [tokens[i] for i in texts], [spans[i] for i in texts])))
            except (queue.Empty, Stopped):
                return
            except BaseException as error:
                done.put(error)

        def results() -> Iterator[Result]:
            for _ in batches:
                found = done.get()
                if isinstance(found, BaseException):
                    raise found
                number, texts, pooled, norms, ready = found
                if ready is not None:
                    ready.synchronize()
                yield Result(number, texts, pooled.numpy(), norms.numpy())
                slots.release()

        with fast_attention(self.model), pooling_hooks(self.blocks, self.layers, stop) as hooks:
            threads = [threading.Thread(target=work, args=(hooks,), name=f"passes-{n}") for n in range(workers)]
            for thread in threads:
                thread.start()
            try:
                yield results()
            finally:
                stop.set()
                slots.release(workers)
                for thread in threads:
                    thread.join()
                torch.set_num_threads(self.threads)

    @torch.inference_mode()
    def _read(
        self, hooks: PoolingHooks, texts: list[TokenText], spans: list[tuple[int, int]]
    ) -> tuple[torch.Tensor, torch.Tensor, Any]:
        """Means, norms, and, on a GPU, the event after which they may be looked at."""
        try:
            pooled, norms = self._in_parts(hooks, texts, spans)
        except (IndexError, RuntimeError) as error:
            meaning = _meaning(error, text_config(self.model.config), texts)
            if not meaning:
                raise
            raise UserError(meaning) from error
        if not self.on_gpu:
            return pooled, norms, None
        results = []
        for part in (pooled, norms):
            results.append(torch.empty(part.shape, dtype=part.dtype, pin_memory=True))
            results[-1].copy_(part, non_blocking=True)
        ready = torch.cuda.Event()
        ready.record(torch.cuda.current_stream(self.device))
        return *results, ready

    def _in_parts(
        self, hooks: PoolingHooks, texts: list[TokenText], spans: list[tuple[int, int]]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One batch in one pass or, once memory has run out on one of its size, in smaller ones."""
        longest = max(len(text.ids) for text in texts)
        if len(texts) == 1 or longest * len(texts) < self._largest:
            try:
                return self._pass(hooks, texts, spans, longest)
            except torch.OutOfMemoryError:
                if len(texts) == 1:
                    raise
                self._largest = min(self._largest, longest * len(texts))
                log.warning("a batch of %d tokens does not fit into memory; it is read in parts", longest * len(texts))
            torch.cuda.empty_cache()
        half = len(texts) // 2
        parts = [self._in_parts(hooks, texts[rows], spans[rows]) for rows in (slice(half), slice(half, None))]
        return tuple(torch.cat(part, dim=1) for part in zip(*parts, strict=True))

    def _pass(
        self, hooks: PoolingHooks, texts: list[TokenText], spans: list[tuple[int, int]], longest: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        ids = torch.from_numpy(pad_right(texts))
        if self.on_gpu:
            ids = ids.pin_memory().to(self.device, non_blocking=True)
        pooled, whole = (Spans(part, longest, self.device) for part in (spans, [text.spans for text in texts]))
        try:
            return hooks.run(self.model, ids, pooled, whole)
        except (Stopped, torch.OutOfMemoryError):
            raise
        except Exception as error:
            if not self.compiled:
                raise
            self._without_compiling(error)
            return hooks.run(self.model, ids, pooled, whole)


def _meaning(error: Exception, config: Any, texts: list[TokenText]) -> str:
    """What a failed pass means where that is known: the libraries speak of an index or a device assertion."""
    longest, token = max(len(text.ids) for text in texts), max(max(text.ids) for text in texts)
    if isinstance(error, torch.OutOfMemoryError):
        return (
            f"a single text of {longest} tokens does not fit into the GPU's memory; lower the reading's max_tokens, or "
            f"use quantization"
        )
    if token >= config.vocab_size:
        return f"the tokenizer gives token {token} and the model knows {config.vocab_size}; they do not belong together"
    limit = getattr(config, "max_position_embeddings", None)
    if limit and longest > limit:
        return (
            f"a text of {longest} tokens is longer than the model's {limit} positions; lower the reading's max_tokens"
        )
    return ""


def fitting_budget(free: int, per_token: float) -> int:
    """Tokens per batch, a power of two, of `per_token` bytes each, that fit into `free` bytes with room to spare."""
    smallest, largest = _GPU_BUDGETS
    fits = int(_MEMORY_SHARE * free / per_token)
    return max(smallest, min(largest, 1 << max(0, fits.bit_length() - 1)))
