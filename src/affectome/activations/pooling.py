"""Averages over tokens of the residual stream, taken inside forward hooks.

Sums run in float32 whatever the model's precision; a mean over a hundred bfloat16 values loses the digits that tell
one emotion from another.
"""

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from affectome.models.anatomy import residual


class Spans:
    """Which tokens [first, end) of each row of a batch of `length` tokens count."""

    def __init__(self, spans: list[tuple[int, int]], length: int, device: torch.device) -> None:
        self.rows = spans
        self._elsewhere: dict[torch.device, Spans] = {}
        bounds = torch.tensor(spans)
        self.counts = (bounds[:, 1] - bounds[:, 0]).float()
        positions = torch.arange(length)[None]
        self.mask = (positions >= bounds[:, :1]) & (positions < bounds[:, 1:])
        if device.type == "cuda":
            # From pinned memory the copies do not wait for what the GPU is still computing.
            self.counts, self.mask = (part.pin_memory() for part in (self.counts, self.mask))
        self.counts, self.mask = (part.to(device, non_blocking=True) for part in (self.counts, self.mask))

    def to(self, device: torch.device) -> "Spans":
        """Itself on `device`, which is another one for the later blocks of a model spread over several."""
        if self.mask.device == device:
            return self
        if device not in self._elsewhere:
            self._elsewhere[device] = Spans(self.rows, self.mask.shape[1], device)
        return self._elsewhere[device]


def pool(hidden: torch.Tensor, spans: Spans) -> torch.Tensor:
    """Mean over `spans` of `hidden` (batch, tokens, width) → (batch, width), float32.

    Values outside the spans, even infinite ones, do not count.
    """
    if hidden.device.type == "cpu":
        # Touches nothing but the tokens that count, and needs no copy in float32.
        sums = [hidden[row, first:end].sum(dim=0, dtype=torch.float32) for row, (first, end) in enumerate(spans.rows)]
        return torch.stack(sums) / spans.counts[:, None]
    return _sum_by_matmul(hidden, spans.mask) / spans.counts[:, None]


def _sum_by_matmul(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Sums over masked tokens as one batched matrix product, whose products are exact and whose sums are float32."""
    kept = torch.where(mask[..., None], hidden, 0)
    ones = mask[:, None].to(hidden.dtype)
    if hidden.device.type == "cuda" and hidden.dtype != torch.float32:
        return torch.bmm(ones, kept, out_dtype=torch.float32)[:, 0]
    return torch.bmm(ones.float(), kept.float())[:, 0]


def mean_norm(hidden: torch.Tensor, spans: Spans) -> torch.Tensor:
    """Mean L2 norm of the tokens of `hidden` (batch, tokens, width) in `spans` → (batch,), float32."""
    norms = torch.linalg.vector_norm(hidden, dim=-1, dtype=torch.float32)
    return torch.where(spans.mask, norms, 0.0).sum(dim=1) / spans.counts


class _Reached(Exception):  # noqa: N818 - the way out of a pass, no error
    """The last wanted block has been read: what follows it (more blocks, final norm, LM head) need not run."""


class Stopped(Exception):  # noqa: N818 - the way out of a pass, no error
    """The job is to end: a pass is given up at its next block."""


@dataclass
class _Pass:
    """One pass under way in one thread."""

    pooled: Spans
    texts: Spans
    vectors: list[torch.Tensor]
    norms: list[torch.Tensor]


class PoolingHooks:
    """Pools `layers` of every pass made through `run`, in as many threads at once as there are.

    Where `stop` gets set, a pass under way raises `Stopped` at its next block.
    """

    def __init__(self, layers: Iterable[int], stop: threading.Event | None = None) -> None:
        self.layers = sorted(layers)
        self._stop = stop or threading.Event()
        self._here = threading.local()

    def run(
        self, model: nn.Module, ids: torch.Tensor, pooled: Spans, texts: Spans
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Pass right-padded `ids` (batch, tokens) through the model up to the last of `layers`.

        Returns the means over `pooled` (layers, batch, width) and the mean norms of `texts` (layers, batch), float32,
        on the device of `ids`, layers ascending.
        """
        current = self._here.current = _Pass(pooled, texts, [], [])
        try:
            model(input_ids=ids, use_cache=False)
        except _Reached:
            return tuple(
                torch.stack([part.to(ids.device) for part in parts]) for parts in (current.vectors, current.norms)
            )
        finally:
            self._here.current = None
        raise RuntimeError("the last wanted block was never called")

    def check(self, _module: nn.Module, _inputs: object) -> None:
        """Forward pre-hook of every block."""
        if self._stop.is_set():
            raise Stopped

    def read(self, layer: int, output: object) -> None:
        """Take what block `layer` gave."""
        current = self._here.current
        hidden = residual(output)
        current.vectors.append(pool(hidden, current.pooled.to(hidden.device)))
        current.norms.append(mean_norm(hidden, current.texts.to(hidden.device)))
        if layer == self.layers[-1]:
            raise _Reached


@contextmanager
def pooling_hooks(
    blocks: nn.ModuleList, layers: Iterable[int], stop: threading.Event | None = None
) -> Iterator[PoolingHooks]:
    """Hooks that read `layers` of passes made in the block; they are removed on any exit."""
    hooks = PoolingHooks(layers, stop)

    def reader(layer: int):
        return lambda _module, _inputs, output: hooks.read(layer, output)

    handles = [blocks[layer].register_forward_hook(reader(layer)) for layer in hooks.layers]
    handles += [block.register_forward_pre_hook(hooks.check) for block in blocks]
    try:
        yield hooks
    finally:
        for handle in handles:
            handle.remove()
