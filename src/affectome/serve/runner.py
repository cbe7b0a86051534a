"""Steering inside vLLM's model runner: every token of a batch by the plan of its own request.

A step of vLLM reads, for each of many requests, some tokens of its prompt or the token that was sampled last, all laid
out in one row after another. For every request with a plan it is worked out here which rows are its own, which of them
hold its prompt, and which vectors they get; hooks stand on the blocks that are named for as long as the step lasts. A
step in which nobody steers runs as if this module did not exist.

A vLLM block returns the residual stream (tokens, width), or two tensors whose sum it is, because the next block adds
them where it normalises; models that vLLM runs through Transformers put a batch of one around it. What steering means
is said by `affectome.steering.instrument`.
"""

import contextlib
import json
import logging
import select
import socket
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import nn

from affectome.serve.plan import Change, Plan, Readout
from affectome.serve.plugin import asked, contents, read, wrap

log = logging.getLogger("vllm.affectome")

# Of a datagram; Linux takes larger ones, but not many of them at once.
_LARGEST = 60_000
_PATIENCE_S = 0.05

_PROBE = 8


@dataclass
class _Request:
    plan: Plan
    readout: Readout | None
    prompt: int
    # What the readout projects on: (directions, width).
    units: torch.Tensor | None = None
    # How often a vector was added to a token, and whether a token came that the plan names.
    steered: int = 0
    due: bool = False


@dataclass
class _Slot:
    """The n-th changes of requests at a block: to row `at` of those steered there (each, where None), as instrument's.

    A residual h becomes h + (length + share · (h·u)) u.
    """

    at: torch.Tensor | None
    directions: torch.Tensor
    lengths: torch.Tensor
    shares: torch.Tensor | None


@dataclass
class _Steered:
    """What happens at a block in one step: to `rows` of its output, slot by slot."""

    rows: torch.Tensor
    slots: list[_Slot]
    counts: list[tuple[_Request, int]]


@dataclass
class _Read:
    """Projections on `units` (directions, width) to send back: of `rows`, generated tokens of several requests.

    `parts` has the id of each, the number of its first token here among those generated, and how many there are.
    """

    units: torch.Tensor
    rows: torch.Tensor
    parts: list[tuple[str, int, int]]


@dataclass
class _Step:
    steered: dict[int, _Steered] = field(default_factory=dict)
    read: dict[int, list[_Read]] = field(default_factory=dict)
    values: list[tuple[torch.Tensor, list[tuple[str, int, int]]]] = field(default_factory=list)

    @property
    def layers(self) -> list[int]:
        return sorted({*self.steered, *self.read})


class Steerer:
    """Steers what one model runner of vLLM runs, along the directions at `path`; sends readouts to a socket."""

    def __init__(self, runner: Any, path: str, readouts: str) -> None:
        if not all(hasattr(runner, name) for name in ("_update_states", "_prepare_inputs", "_model_forward")):
            raise RuntimeError(f"affectome cannot steer {type(runner).__name__}; set VLLM_USE_V2_MODEL_RUNNER=0")
        self._runner, self._path = runner, path
        self._shapes, self._norms = contents(path)
        self._outbox = _Outbox(readouts) if readouts else None
        self._requests: dict[str, _Request] = {}
        self._step: _Step | None = None
        self._pending: deque[tuple[Any, torch.Tensor, list[tuple[str, int, int]]]] = deque()
        # Hooks put on so far: none before anybody steers.
        self.hooked = 0
        runner.affectome = self
        wrap(runner, "load_model", self._load)
        wrap(runner, "_update_states", self._update)
        wrap(runner, "_prepare_inputs", self._prepare)
        wrap(runner, "_model_forward", self._forward)

    def _load(self, original: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
        result = original(*arguments, **keywords)
        self._blocks = find_blocks(self._runner)
        with safe_open(self._path, "pt", device=str(self._runner.device)) as file:
            self._units = {layer: file.get_tensor(f"layer_{layer}") for layer in self._blocks if layer in self._shapes}
        from vllm.distributed.parallel_state import get_tensor_model_parallel_rank

        if get_tensor_model_parallel_rank():
            self._outbox = None
        log.info("affectome steers blocks %s", sorted(self._units))
        return result

    # ------------------------------------------------------------ requests

    def _update(self, original: Callable[..., Any], scheduled: Any) -> Any:
        ended = [self._requests.pop(name) for name in scheduled.finished_req_ids if name in self._requests]
        if self._pending:
            self._flush(wait=any(request.readout for request in ended))
        for request in ended:
            self._check(request)
        result = original(scheduled)
        for new in scheduled.scheduled_new_reqs:
            text = asked(new.sampling_params)
            if text is not None:
                self._add(new.req_id, text)
        return result

    def _add(self, name: str, text: str) -> None:
        try:
            plan, readout = read(text, self._shapes)
        except ValueError as error:
            # The frontend refuses these; an engine must outlive one that came by another way.
            log.error("request %s is not steered: %s", name, error)
            return
        # Other ranks of a pipeline have the other blocks.
        plan = tuple(change for change in plan if any(layer in self._units for layer, _ in change.lengths))
        if readout and (self._outbox is None or readout.layer not in self._units):
            readout = None
        if plan or readout:
            request = _Request(plan, readout, self._runner.requests[name].num_prompt_tokens)
            if readout:
                request.units = self._units[readout.layer][list(readout.directions)] / self._norms[readout.layer]
            self._requests[name] = request

    def _check(self, request: _Request) -> None:
        if request.due and not request.steered:
            log.error("a request was never steered although its tokens came: %s", request.plan)

    # ------------------------------------------------------------ steps

    def _prepare(self, original: Callable[..., Any], scheduled: Any, counts: np.ndarray) -> Any:
        self._step = self._planned(counts) if self._requests else None
        return original(scheduled, counts)

    def _forward(self, original: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
        step, self._step = self._step, None
        if step is None:
            return original(*arguments, **keywords)
        with self._hooks(step):
            result = original(*arguments, **keywords)
        for values, parts in step.values:
            self._keep(values, parts)
        return result

    @contextlib.contextmanager
    def _hooks(self, step: _Step) -> Iterator[None]:
        handles = []
        try:
            for layer in step.layers:
                handles.append(self._blocks[layer].register_forward_hook(self._hook(layer, step)))
            self.hooked += len(handles)
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _planned(self, counts: np.ndarray) -> _Step | None:
        """What is to be done in a step that reads `counts` tokens of each request, in the order of vLLM's batch."""
        batch = self._runner.input_batch
        ends = np.cumsum(counts)
        changes: dict[int, list[tuple[_Request, list[tuple[int, int, Change, float]]]]] = {}
        reads: dict[tuple[int, tuple[int, ...]], list[tuple[int, int, _Request, int]]] = {}
        for name, request in self._requests.items():
            index = batch.req_id_to_index.get(name)
            if index is None:
                continue
            end, before = int(ends[index]), int(batch.num_computed_tokens_cpu[index])
            first = end - int(counts[index])
            # The row of the first generated token.
            turn = min(max(first + request.prompt - before, first), end)
            spans = {"all": (first, end), "prompt": (first, turn), "generated": (turn, end)}
            here: dict[int, list[tuple[int, int, Change, float]]] = {}
            for change in request.plan:
                start, stop = spans[change.positions]
                if start == stop:
                    continue
                request.due = True
                for layer, length in change.lengths:
                    if layer in self._units:
                        here.setdefault(layer, []).append((start, stop, change, length))
            for layer, items in here.items():
                changes.setdefault(layer, []).append((request, items))
            if request.readout and turn < end:
                number = before + (turn - first) - request.prompt
                key = request.readout.layer, request.readout.directions
                reads.setdefault(key, []).append((turn, end, request, number))
        if not changes and not reads:
            return None
        pack = _Pack(self._runner.device)
        made = [(layer, self._steered(pack, of_layer)) for layer, of_layer in changes.items()]
        looked = [
            (layer, pack.whole([np.arange(start, stop) for start, stop, _, _ in items]), items)
            for (layer, _), items in reads.items()
        ]
        pack.send()
        step = _Step({layer: make() for layer, make in made})
        for layer, rows, items in looked:
            parts = [(request.readout.id, number, stop - start) for start, stop, request, number in items]
            step.read.setdefault(layer, []).append(_Read(items[0][2].units, rows(), parts))
        return step

    @staticmethod
    def _steered(
        pack: "_Pack", of_layer: Sequence[tuple[_Request, list[tuple[int, int, Change, float]]]]
    ) -> Callable[[], _Steered]:
        """Lay out the changes at one block; the result is called once everything is on the device."""
        rows, counts = [], []
        slots: list[list[tuple[int, int, Change, float]]] = []
        base = 0
        for request, items in of_layer:
            first, end = min(item[0] for item in items), max(item[1] for item in items)
            rows.append(np.arange(first, end))
            counts.append((request, sum(stop - start for start, stop, _, _ in items)))
            for number, (start, stop, change, length) in enumerate(items):
                if number == len(slots):
                    slots.append([])
                slots[number].append((base + start - first, base + stop - first, change, length))
            base += end - first
        placed = pack.whole(rows)
        made = []
        for slot in slots:
            sizes = [stop - start for start, stop, _, _ in slot]
            some = sum(sizes) < base
            shares = [0.0 if change.mode == "add" else -1.0 for _, _, change, _ in slot]
            lengths = [0.0 if change.mode == "ablate" else length for _, _, change, length in slot]
            made.append(
                (
                    pack.whole([np.arange(start, stop) for start, stop, _, _ in slot]) if some else None,
                    pack.whole([np.repeat([change.direction for _, _, change, _ in slot], sizes)]),
                    pack.real(np.repeat(lengths, sizes)),
                    pack.real(np.repeat(shares, sizes)) if any(shares) else None,
                )
            )
        return lambda: _Steered(placed(), [_Slot(*(make and make() for make in makers)) for makers in made], counts)

    def _hook(self, layer: int, step: _Step) -> Callable[..., Any]:
        units = self._units[layer]

        def hook(_block: nn.Module, _inputs: Any, output: Any) -> Any:
            hidden, other = stream(output)
            for item in step.read.get(layer, ()):
                step.values.append((_gather(item.rows, hidden, other) @ item.units.T, item.parts))
            item = step.steered.get(layer)
            if item is None:
                return output
            hidden = steer(item, units, hidden, other)
            for request, count in item.counts:
                request.steered += count
            return replaced(output, hidden)

        return hook

    # ------------------------------------------------------------ readouts

    def _keep(self, values: torch.Tensor, parts: list[tuple[str, int, int]]) -> None:
        """Have `values` sent once they are here: a device that is waited for cannot be given its next step."""
        if values.device.type == "cpu":
            self._outbox.send(values, parts)
            return
        here = values.to("cpu", non_blocking=True)
        event = torch.Event(values.device.type)
        event.record()
        self._pending.append((event, here, parts))

    def _flush(self, wait: bool) -> None:
        while self._pending:
            event, values, parts = self._pending[0]
            if wait:
                event.synchronize()
            elif not event.query():
                return
            self._pending.popleft()
            self._outbox.send(values, parts)


# ------------------------------------------------------------ tensors


def stream(output: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The part (tokens, width) of a block's output that is changed, and what is added to it to give the residual."""
    parts = output if isinstance(output, tuple | list) else (output,)
    other = parts[1] if len(parts) > 1 and isinstance(parts[1], torch.Tensor) else None
    return tuple(part[0] if part is not None and part.dim() == 3 else part for part in (parts[0], other))


def replaced(output: Any, hidden: torch.Tensor) -> Any:
    """`output` with `hidden` (tokens, width) in the place of its own."""
    if isinstance(output, torch.Tensor):
        return hidden.view_as(output)
    return type(output)((hidden.view_as(output[0]), *output[1:]))


def steer(item: _Steered, units: torch.Tensor, hidden: torch.Tensor, other: torch.Tensor | None) -> torch.Tensor:
    """`hidden` (tokens, width) with the rows of `item` changed along `units` (directions, width), rounded once."""
    own = _gather(item.rows, hidden, None)
    residual = _gather(item.rows, hidden, other)
    added = torch.zeros_like(own) if any(slot.at is not None for slot in item.slots) else None
    for slot in item.slots:
        along = units.index_select(0, slot.directions)
        amount = slot.lengths
        if slot.shares is not None:
            now = residual if added is None else residual + added
            now = now if slot.at is None else now.index_select(0, slot.at)
            amount = amount + slot.shares * (now * along).sum(dim=-1)
        along = along * amount[:, None]
        if added is None:
            added = along
        elif slot.at is None:
            added += along
        else:
            added.index_add_(0, slot.at, along)
    return hidden.index_copy(0, item.rows, (own + added).to(hidden.dtype))


def _gather(rows: torch.Tensor, hidden: torch.Tensor, other: torch.Tensor | None) -> torch.Tensor:
    found = hidden.index_select(0, rows).float()
    return found if other is None else found + other.index_select(0, rows).float()


class _Pack:
    """Numbers of a step that go to the device together: a copy takes longer to begin than to make."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._arrays: dict[type, list[np.ndarray]] = {np.int64: [], np.float32: []}
        self._sizes = dict.fromkeys(self._arrays, 0)
        self._tensors: dict[type, torch.Tensor] = {}

    def whole(self, arrays: Sequence[np.ndarray]) -> Callable[[], torch.Tensor]:
        return self._add(np.int64, arrays)

    def real(self, array: np.ndarray) -> Callable[[], torch.Tensor]:
        return self._add(np.float32, [array])

    def _add(self, kind: type, arrays: Sequence[np.ndarray]) -> Callable[[], torch.Tensor]:
        start = self._sizes[kind]
        self._arrays[kind].extend(arrays)
        stop = self._sizes[kind] = start + sum(map(len, arrays))
        return lambda: self._tensors[kind][start:stop]

    def send(self) -> None:
        for kind, arrays in self._arrays.items():
            if arrays:
                self._tensors[kind] = torch.from_numpy(np.concatenate(arrays).astype(kind)).to(self._device)


# ------------------------------------------------------------ the socket


class _Outbox:
    """Sends readouts to whoever listens at a Unix datagram socket, and loses them where nobody does.

    A datagram is a JSON list of `{"id", "first", "values"}`: values, one for each direction, of token number `first`
    among those generated, and of those after it.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.setblocking(False)
        self._connected = False
        self._lost = 0

    def send(self, values: torch.Tensor, parts: list[tuple[str, int, int]]) -> None:
        lines = iter(["[" + ",".join(f"{value:.6g}" for value in row) + "]" for row in values.tolist()])
        message, size = [], 0
        for name, first, count in parts:
            for number in range(first, first + count):
                item = f'{{"id":{json.dumps(name)},"first":{number},"values":[{next(lines)}]}}'
                if message and size + len(item) > _LARGEST:
                    self._post(message)
                    message, size = [], 0
                message.append(item)
                size += len(item) + 1
        self._post(message)

    def _post(self, items: list[str]) -> None:
        data = ("[" + ",".join(items) + "]").encode()
        try:
            if not self._connected:
                self._socket.connect(self._path)
                self._connected = True
            try:
                self._socket.send(data)
            except BlockingIOError:
                select.select([], [self._socket], [], _PATIENCE_S)
                self._socket.send(data)
        except OSError as error:
            self._lose(error)

    def _lose(self, why: OSError) -> None:
        self._lost += 1
        if self._lost & (self._lost - 1) == 0:
            log.warning("%d readouts were lost, the last at %s: %s", self._lost, self._path, why)


# ------------------------------------------------------------ the model


def find_blocks(runner: Any) -> dict[int, nn.Module]:
    """The decoder blocks that a model runner has loaded, by number; those of other ranks of a pipeline are missing.

    As `affectome.models.anatomy` does for Transformers, they are found by watching a pass: the list of as many modules
    as the text model has layers, each of which is called once, in order, and returns a residual stream. ValueError
    where there is none.
    """
    blocks = runner.model_config.hf_text_config.num_hidden_layers
    width, tokens = runner.model_config.get_hidden_size(), min(_PROBE, runner.max_num_tokens)
    model = runner.get_model()
    stacks = [
        {n: block for n, block in enumerate(module) if type(block).__name__ != "PPMissingLayer"}
        for module in model.modules()
        if isinstance(module, nn.ModuleList) and len(module) == blocks
    ]
    stacks = [stack for stack in stacks if all(len(list(block.children())) > 1 for block in stack.values())]
    seen: list[list[tuple[int, str]]] = [[] for _ in stacks]

    def reader(stack: int, layer: int) -> Callable[..., None]:
        return lambda _module, _inputs, output: seen[stack].append((layer, _fault(output, tokens, width)))

    handles = [
        block.register_forward_hook(reader(number, layer))
        for number, stack in enumerate(stacks)
        for layer, block in stack.items()
    ]
    try:
        runner._dummy_run(tokens, is_profile=True, skip_eplb=True)
    finally:
        for handle in handles:
            handle.remove()
    for stack, calls in zip(stacks, seen, strict=True):
        if calls == [(layer, "") for layer in stack]:
            return stack
    faults = ", ".join(sorted({fault for calls in seen for _, fault in calls if fault})) or "no list of them"
    raise ValueError(
        f"affectome: the {blocks} decoder blocks of {type(model).__name__} do not each run once and return a residual "
        f"stream [tokens, {width}] in vLLM, but {faults}; steer this model with Transformers"
    )


def _fault(output: Any, tokens: int, width: int) -> str:
    """Why what a block returned cannot be steered; nothing where it can be."""
    parts = output if isinstance(output, tuple | list) else (output,)
    shapes = [list(part.shape) if isinstance(part, torch.Tensor) else None for part in parts]
    *batch, rows, columns = shapes[0] if shapes and shapes[0] and len(shapes[0]) > 1 else (0, 0)
    # Fewer rows are those of one GPU of several; padding makes more.
    right = batch in ([], [1]) and rows >= tokens and columns == width
    return "" if right and (len(shapes) < 2 or shapes[1] in (None, shapes[0])) else str(shapes)
