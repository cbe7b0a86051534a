"""Steering: changing the residual stream of a model while it runs, a different way in every row of a batch.

`with Steering(model, plans): model.generate(...)` puts a hook on every block that a plan names and takes all of them
away again, however the block ends. It knows by the cache and the attention mask which real token of which row a column
is, so it is exact under left and right padding, key-value caches of any kind, beams and several samples per prompt.
Every steered position is counted where it is steered; leaving the context raises NeverSteeredError for a row whose plan
had no effect, the mistake that cannot be seen in results.

Layer numbers follow `affectome.layers`, strengths `affectome.steering.strength`.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import nn

from affectome.errors import UserError
from affectome.models.anatomy import decoder_blocks, residual, text_config
from affectome.steering.strength import added_length, strength_of_alpha

Positions = Literal["all", "prompt", "generated"] | tuple[int, int]

_ENDLESS = 2**31 - 1
_BLOCKS: WeakKeyDictionary[nn.Module, nn.ModuleList] = WeakKeyDictionary()


class NeverSteeredError(RuntimeError):
    """A plan that changed nothing: its positions or its block never came."""


@dataclass(frozen=True, eq=False)
class Intervention:
    """One change to the residual stream of one row.

    `directions` holds a unit vector (width,) by layer and `lengths` a length by layer, in units of the residual stream.
    With mode `add` the vector of that length is added; `clamp` sets the projection on the direction to that length;
    `ablate` sets it to 0. `positions` are real tokens of the row, special tokens among them and padding not: `all`,
    those of the `prompt`, those `generated` after it, or tokens [first, end) counted from the row's first.
    """

    directions: Mapping[int, np.ndarray]
    lengths: Mapping[int, float]
    mode: Literal["add", "ablate", "clamp"] = "add"
    positions: Positions = "all"

    def span(self, prompt: int) -> tuple[int, int]:
        """Tokens [first, end) that are changed in a row with `prompt` tokens in its prompt."""
        spans = {"all": (0, _ENDLESS), "prompt": (0, prompt), "generated": (prompt, _ENDLESS)}
        return self.positions if isinstance(self.positions, tuple) else spans[self.positions]


def add(
    strength: float, directions: Mapping[int, np.ndarray], norms: Mapping[int, float], positions: Positions = "all"
) -> Intervention:
    """Add `strength` of the mean residual norm (by layer in `norms`) along the unit vectors `directions`."""
    lengths = {layer: added_length(strength, norms[layer]) for layer in directions}
    return Intervention(directions, lengths, "add", positions)


def add_alpha(alpha: float, vectors: Mapping[int, np.ndarray], positions: Positions = "all") -> Intervention:
    """Add `alpha` times the vectors as they are stored, (width,) by layer and of any length."""
    norms = {layer: float(np.linalg.norm(vector)) for layer, vector in vectors.items()}
    units = {layer: vector / norms[layer] for layer, vector in vectors.items()}
    lengths = {layer: strength_of_alpha(alpha, vector, 1.0) for layer, vector in vectors.items()}
    return Intervention(units, lengths, "add", positions)


def ablate(directions: Mapping[int, np.ndarray], positions: Positions = "all") -> Intervention:
    """Project the unit vectors `directions` out of the residual stream."""
    return Intervention(directions, dict.fromkeys(directions, 0.0), "ablate", positions)


def clamp(
    strength: float, directions: Mapping[int, np.ndarray], norms: Mapping[int, float], positions: Positions = "all"
) -> Intervention:
    """Hold the projection on the unit vectors `directions` at `strength` of the mean residual norm."""
    lengths = {layer: added_length(strength, norms[layer]) for layer in directions}
    return Intervention(directions, lengths, "clamp", positions)


class Steering:
    """Steers one batch of `model` while the context lasts: one pass, or one call of `generate`, or several.

    `plans` has a sequence of interventions per row, applied in order at each block; an empty one leaves its row alone.
    A batch of k times as many rows (beams, several returned sequences) repeats each plan k times. What the first pass
    over a new sequence holds is its prompt, unless `prompts` says how many real tokens of each row are.

    Raises UserError on entering for a layer or width that the model has not, a vector that is not of length 1, and in
    the first pass for a span outside the prompt; NeverSteeredError on leaving for a planned row that no pass steered.
    A compiled model is compiled anew with the hooks and once more without them, as compiled code ignores later hooks.
    """

    def __init__(
        self, model: nn.Module, plans: Sequence[Sequence[Intervention]], prompts: Sequence[int] | None = None
    ) -> None:
        self._model = model
        self._plans = [list(plan) for plan in plans]
        self._given_prompts = None if prompts is None else torch.tensor(list(prompts))
        self._handles: list[Any] = []

    def __enter__(self) -> "Steering":
        self._check()
        self._slots = [
            _Slot([plan[number] if number < len(plan) else None for plan in self._plans])
            for number in range(max((len(plan) for plan in self._plans), default=0))
        ]
        # Of every row of the batch under way: its row of `plans`, the real tokens of its prompt, and those seen so far.
        self._rows: torch.Tensor | None = None
        self._prompts: torch.Tensor | None = None
        self._real: torch.Tensor | None = None
        self._prompt_ids: torch.Tensor | None = None
        layers = sorted({layer for slot in self._slots for layer in slot.layers})
        try:
            if layers:
                blocks = blocks_of(self._model)
                torch.compiler.reset()
                self._handles.append(self._model.register_forward_pre_hook(self._before, with_kwargs=True))
                for layer in layers:
                    self._handles.append(blocks[layer].register_forward_hook(self._hook(layer)))
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._remove()
        if kind is None:
            self._check_counts()

    @property
    def counts(self) -> list[int]:
        """Positions steered so far in every row of `plans`, over all its layers, interventions and passes."""
        counts = np.zeros(len(self._plans), dtype=np.int64)
        for slot in self._slots:
            for of_layer in slot.counts.values():
                counts += of_layer.cpu().numpy()
        return counts.tolist()

    @contextmanager
    def following(self, rows: Sequence[int]) -> Iterator[None]:
        """Passes in the block go on with these rows of the batch, repeated or left out, as a copy of its cache does."""
        if not self._slots:
            yield
            return
        before = self._rows, self._prompts, self._real
        chosen = torch.tensor(list(rows), device=self._rows.device)
        self._rows, self._prompts, self._real = (of[chosen] for of in before)
        self._begin()
        try:
            yield
        finally:
            self._rows, self._prompts, self._real = before
            self._begin()

    # ------------------------------------------------------------ passes

    @torch.compiler.disable
    def _before(self, _model: nn.Module, arguments: tuple, keywords: dict[str, Any]) -> None:
        """Find out which real token of its row every column of the coming pass is."""
        given = keywords.get("input_ids", arguments[0] if arguments else None)
        if given is None:
            given = keywords["inputs_embeds"]
        rows, width = given.shape[:2]
        cache = keywords.get("past_key_values")
        before = int(cache.get_seq_length()) if cache is not None else 0
        index = _token_index(keywords.get("attention_mask"), rows, before, width, given.device)
        if index is None:
            # A later pass may leave its mask out, or have one made for its own columns alone.
            start = before if self._real is None else self._real[:, None]
            index = (start + torch.arange(width, device=given.device)).expand(rows, width)
        if self._rows is None or (before == 0 and not self._goes_on(given)):
            self._start(given, index)
        self._real = index.amax(dim=1) + 1
        for slot in self._slots:
            slot.locate(index)

    def _start(self, given: torch.Tensor, index: torch.Tensor) -> None:
        """Begin a new sequence with the pass that holds `given`, whose tokens are the `index`-th of their rows."""
        repeat, rest = divmod(given.shape[0], len(self._plans))
        if rest:
            raise UserError(f"a batch of {given.shape[0]} rows cannot be steered by {len(self._plans)} plans")
        self._rows = torch.arange(len(self._plans), device=given.device).repeat_interleave(repeat)
        self._prompts = index.amax(dim=1) + 1
        if self._given_prompts is not None:
            self._prompts = self._given_prompts.to(given.device)[self._rows]
        self._prompt_ids = given if given.dim() == 2 else None
        for plan, length in zip(self._plans, self._prompts[::repeat].tolist(), strict=True):
            for positions in (item.positions for item in plan):
                if isinstance(positions, tuple) and not 0 <= positions[0] < positions[1] <= length:
                    raise UserError(f"the span {list(positions)} does not lie in a prompt of {length} tokens")
        self._begin()

    def _begin(self) -> None:
        for slot in self._slots:
            slot.begin(self._rows.cpu(), self._prompts)

    def _goes_on(self, given: torch.Tensor) -> bool:
        """Whether a pass without a cache repeats the prompt with more after it, as generating without a cache does."""
        ids = self._prompt_ids
        if ids is None or given.dim() != 2 or given.shape[0] != ids.shape[0] or given.shape[1] <= ids.shape[1]:
            return False
        return torch.equal(given[:, : ids.shape[1]], ids)

    def _hook(self, layer: int) -> Any:
        slots = [slot for slot in self._slots if layer in slot.layers]

        @torch.compiler.disable
        def steer(_block: nn.Module, _inputs: tuple, output: Any) -> Any:
            hidden = residual(output)
            # One rounding at the end: in bfloat16 a small vector would be lost beside a large residual.
            changed = hidden.float()
            for slot in slots:
                changed = slot.apply(layer, changed)
            changed = changed.to(hidden.dtype)
            return changed if isinstance(output, torch.Tensor) else (changed, *output[1:])

        return steer

    # ------------------------------------------------------------ checks

    def _check(self) -> None:
        if not self._plans:
            raise UserError("no rows to steer; give a plan for every row of the batch, empty for those left alone")
        config = text_config(self._model.config)
        for intervention in (item for plan in self._plans for item in plan):
            for layer, vector in intervention.directions.items():
                if not 0 <= layer < config.num_hidden_layers:
                    raise UserError(
                        f"block {layer} cannot be steered; the model's {config.num_hidden_layers} blocks are numbered "
                        f"0 to {config.num_hidden_layers - 1}"
                    )
                if np.shape(vector) != (config.hidden_size,):
                    raise UserError(
                        f"a vector of width {np.shape(vector)[-1]} cannot steer a model of width {config.hidden_size}; "
                        f"it was made from another model"
                    )
                # NaN is not close either.
                if not abs(float(np.linalg.norm(vector)) - 1) < 1e-3:
                    raise UserError(f"the vector for block {layer} is not of length 1")

    def _check_counts(self) -> None:
        for slot in self._slots:
            for layer, counts in slot.counts.items():
                missed = [row for row, n in enumerate(counts.tolist()) if n == 0 and slot.planned(row, layer)]
                if missed:
                    raise NeverSteeredError(
                        f"row {missed[0]} ({len(missed)} in all) was never steered at block {layer}: the model ran no "
                        f"position that its plan names"
                    )

    def _remove(self) -> None:
        if self._handles:
            torch.compiler.reset()
        while self._handles:
            self._handles.pop().remove()


class _Slot:
    """The n-th intervention of every row, as tensors; None where a row has fewer.

    What happens to a residual h at a steered position is h + (length + share · (h·u)) u, with share 0 to add and −1 to
    take the present projection away.
    """

    def __init__(self, items: Sequence[Intervention | None]) -> None:
        self._items = items
        self.layers = sorted({layer for item in items if item for layer in item.directions})
        self.counts = {layer: torch.zeros(len(items), dtype=torch.int64) for layer in self.layers}
        self._projects = any(item.mode != "add" for item in items if item)
        self._arrays = {layer: self._of_layer(layer) for layer in self.layers}

    def planned(self, row: int, layer: int) -> bool:
        item = self._items[row]
        return item is not None and layer in item.directions

    def _of_layer(self, layer: int) -> dict[str, np.ndarray]:
        """Units (rows, 1, width), and lengths, shares and whether there is an intervention (rows, 1)."""
        width = next(len(item.directions[layer]) for item in self._items if item and layer in item.directions)
        units = np.zeros((len(self._items), 1, width), np.float32)
        lengths, shares, active = (np.zeros((len(self._items), 1), np.float32) for _ in range(3))
        for row, item in enumerate(self._items):
            if item is not None and layer in item.directions:
                units[row, 0], lengths[row], active[row] = item.directions[layer], item.lengths[layer], 1
                shares[row] = 0 if item.mode == "add" else -1
        return {"units": units, "lengths": lengths, "shares": shares, "active": active}

    def begin(self, rows: torch.Tensor, prompts: torch.Tensor) -> None:
        """Prepare for a batch whose rows follow the plans `rows` and have prompts of `prompts` real tokens."""
        self._of = rows
        items = [self._items[row] for row in rows.tolist()]
        spans = [item.span(n) if item else (0, 0) for item, n in zip(items, prompts.tolist(), strict=True)]
        bounds = torch.tensor(spans, device=prompts.device)
        self._first, self._end = bounds[:, :1], bounds[:, 1:]
        self._tensors = {
            layer: {name: torch.from_numpy(array)[rows] for name, array in arrays.items()}
            for layer, arrays in self._arrays.items()
        }

    def locate(self, index: torch.Tensor) -> None:
        """Note which columns are steered, where `index` (rows, columns) are real token numbers and −1 padding."""
        self._inside = (index >= self._first) & (index < self._end)

    def apply(self, layer: int, hidden: torch.Tensor) -> torch.Tensor:
        """`hidden` (rows, columns, width) in float32, changed at the columns noted; counts them."""
        tensors = self._tensors[layer]
        if tensors["units"].device != hidden.device:
            tensors = self._tensors[layer] = {name: tensor.to(hidden.device) for name, tensor in tensors.items()}
        inside = self._inside.to(hidden.device) * tensors["active"]
        self.counts[layer] = self.counts[layer].to(hidden.device)
        self.counts[layer].index_add_(0, self._of.to(hidden.device), inside.sum(dim=1).long())
        amount = tensors["lengths"]
        if self._projects:
            amount = amount + tensors["shares"] * (hidden * tensors["units"]).sum(dim=-1)
        return hidden + (inside * amount)[..., None] * tensors["units"]


def blocks_of(model: nn.Module) -> nn.ModuleList:
    """The decoder blocks of `model`, looked for once."""
    if model not in _BLOCKS:
        _BLOCKS[model] = decoder_blocks(model)
    return _BLOCKS[model]


def _token_index(mask: Any, rows: int, before: int, width: int, device: torch.device) -> torch.Tensor | None:
    """Number of every column's token among the real ones of its row (rows, width), −1 for padding.

    `mask` is what the model was given for columns 0 … before + width − 1 or more: None, (rows, columns), or prepared
    for attention as (rows, 1, width, columns), alone or by kind of layer. None where it does not tell.
    """
    if isinstance(mask, Mapping):
        mask = next((item for item in mask.values() if item is not None), None)
    if mask is None:
        return None if before else torch.arange(width, device=device).expand(rows, width)
    if mask.dim() == 2 and mask.shape[1] >= before + width:
        real = (mask[:, : before + width] != 0).long()
        index = torch.where(real > 0, real.cumsum(dim=1) - 1, -1)
        return index[:, before:]
    if mask.dim() == 4 and before == 0:
        # A real token attends to itself; a prepared mask holds truth values or what is added to the scores.
        own = mask[:, 0].diagonal(dim1=1, dim2=2)[:, :width]
        real = (own if own.dtype == torch.bool else own == 0).long().expand(rows, width)
        return torch.where(real > 0, real.cumsum(dim=1) - 1, -1)
    return None
