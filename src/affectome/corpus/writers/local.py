"""Writing with a Transformers model in this process, where nothing is served and nothing else is installed.

A text is a function of the model, the prompt and the seed: not of the batch it is written in, of the order of requests
or of what an interrupted job had written before. Logits of a batch differ from those of a text alone by rounding, so
where that could change a token, the text is read once more by itself, and this decides. That holds for float32, which a
CPU is given unless asked otherwise, and for models without experts that rounding could send a token to. In bfloat16,
float16 and quantised models rounding is too large to be undone so; their batches are as large as model and device say,
but an interrupted job may end with other texts than one in a single go.
"""

import logging
import os
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from affectome.corpus.writers import Keep, Purse, Reply, Request
from affectome.errors import UserError

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

# The longest reply where a request sets no limit.
_MAX_TOKENS = 1024

# Rows in a batch: as many as make it faster, by kind of device, and as memory bears if each has so many tokens.
_MOST_ROWS = {"cpu": 64, "cuda": 256}
_ROW_TOKENS = 2048

# What caches may fill of the memory that weights leave.
_CACHE_SHARE = 0.5

# Finished rows are replaced or taken out together, since every change of a batch copies it.
_CHANGE_SHARE = 1 / 8

# Float32 logits of a batch and of a text alone differ by up to 2e-5 with SmolLM2-135M.
_TOLERANCE = 1e-3


class Local:
    """A writer that runs the model `local`, which is in `folder`, in this process.

    `dtype` "auto" is float32 on a CPU, else as `models.load` reads it; `rows` is the most in a batch, None for what
    suits the device. Tokens are drawn as `sampling.manner_of` the model says.
    """

    def __init__(
        self,
        local: str,
        temperature: float,
        folder: str,
        dtype: str,
        quantization: str,
        trust_remote_code: bool,
        rows: int | None = None,
        config_key: str = "corpora.*.writer",
    ) -> None:
        self.name = f"local:{local}"
        self._temperature = temperature
        self._folder = folder
        self._dtype = dtype
        self._quantization = quantization
        self._trust_remote_code = trust_remote_code
        self._rows = rows
        self._config_key = config_key

    def write(self, requests: Sequence[Request], keep: Keep, purse: Purse | None = None) -> None:
        """Hand `keep` one reply per request as soon as it is finished, and go on with the requests it returns.

        Raises UserError where the model cannot be loaded or cannot write, and what an exhausted `purse` says.
        """
        import torch

        from affectome.models.load import best_device, load_model
        from affectome.steering.passes import end_tokens

        on_cpu = best_device().type == "cpu"
        dtype = "float32" if self._dtype == "auto" and on_cpu else self._dtype
        model, tokenizer = load_model(self._folder, dtype, self._quantization, self._trust_remote_code)
        rows = self._rows or _rows_for(model)
        if not end_tokens(model, tokenizer):
            raise UserError(f"{self.name} has no token that ends a text; choose another model ({self._config_key})")
        log.info("writing with %s: up to %d texts at once, %s", self.name, rows, model.dtype)
        with torch.no_grad():
            _Writing(model, tokenizer, self._temperature, rows, len(requests), keep, purse).run(requests)


@dataclass(eq=False)
class _Row:
    """A text under way: `limit` is how many tokens it may have, `finished` whether its reply has been kept."""

    request: Request
    prompt: list[int]
    limit: int
    written: list[int] = field(default_factory=list)
    finished: bool = False


class _Writing:
    def __init__(
        self, model: Any, tokenizer: Any, temperature: float, rows: int, asked: int, keep: Keep, purse: Purse | None
    ) -> None:
        import torch

        from affectome.corpus.writers.decoding import Batch
        from affectome.corpus.writers.sampling import manner_of
        from affectome.models.anatomy import text_config
        from affectome.steering.passes import end_tokens

        self._tokenizer, self._keep, self._purse = tokenizer, keep, purse
        self._most = min(rows, asked)
        self._batch = Batch(model, self._most, rows * _ROW_TOKENS)
        self._manner = manner_of(model, temperature)
        self._ends = set(end_tokens(model, tokenizer))
        self._context = getattr(text_config(model.config), "max_position_embeddings", None) or 2**31
        exact = model.dtype == torch.float32 and getattr(model, "hf_quantizer", None) is None
        self._tolerance = _TOLERANCE if exact else 0.0
        self._waiting: deque[Request] = deque()
        self._rows: list[_Row] = []
        self._exhausted = False
        self._tokens = self._settled = 0

    def run(self, requests: Sequence[Request]) -> None:
        # Neighbours of one length need little padding; the longest come first, so that memory runs out early if at all.
        self._waiting.extend(sorted(requests, key=lambda request: len(request.prompt), reverse=True))
        while self._changed():
            self._add(self._rows, self._batch.step([row.written[-1] for row in self._rows]))
        if self._tolerance:
            log.info("%d of %d tokens were settled by a pass over the text alone", self._settled, self._tokens)
        if self._exhausted and self._purse:
            raise self._purse.exhausted()

    def _changed(self) -> bool:
        """Put waiting texts in the place of finished ones where it is time to; whether any are under way."""
        alive = [number for number, row in enumerate(self._rows) if not row.finished]
        under_way = [self._rows[number] for number in alive]
        free = self._most - len(alive)
        may_join = not alive or (self._batch.can_join and free >= self._most * _CHANGE_SHARE)
        new = self._admitted(under_way, free) if may_join else []
        finished = len(self._rows) - len(alive)
        if not new and finished < len(self._rows) * _CHANGE_SHARE and not self._batch.is_full:
            return bool(alive)
        self._rows = under_way + new
        if self._rows:
            longest = max(len(row.prompt) + row.limit for row in self._rows)
            logits = self._batch.change(alive, [row.prompt for row in new], longest)
            if new:
                self._add(new, logits)
        return bool(self._rows)

    def _admitted(self, under_way: list[_Row], free: int) -> list[_Row]:
        """Up to `free` of the waiting texts, as far as memory bears them beside those under way."""
        new: list[_Row] = []
        longest = max((len(row.prompt) + row.limit for row in under_way), default=0)
        while self._waiting and len(new) < free and not self._exhausted:
            beside = len(under_way) + len(new)
            if self._purse and not self._purse.allow(beside):
                self._exhausted = True
                break
            request = self._waiting.popleft()
            prompt = self._tokens_of(request.prompt)
            limit = min(request.max_tokens or _MAX_TOKENS, self._context - len(prompt))
            if limit < 1:
                problem = f"prompt of {len(prompt)} tokens, and the model reads {self._context}"
                self._reply(Reply(request.id, problem=problem, read=len(prompt)))
                continue
            longest = max(longest, len(prompt) + limit)
            if beside and beside + 1 > self._batch.bears(longest):
                self._waiting.appendleft(request)
                break
            new.append(_Row(request, prompt, limit))
        return sorted(new, key=lambda row: len(row.prompt))

    def _tokens_of(self, prompt: str) -> list[int]:
        from jinja2 import TemplateError

        from affectome.models.chat import render

        if not getattr(self._tokenizer, "chat_template", None):
            return self._tokenizer(prompt)["input_ids"]
        turn = [{"role": "user", "content": prompt}]
        try:
            text = render(self._tokenizer, turn, reply=True, thinking=False)
        except TemplateError as error:
            raise UserError(f"the model's chat template refuses a prompt ({error}); use another model") from error
        return self._tokenizer(text, add_special_tokens=False)["input_ids"]

    def _add(self, rows: list[_Row], logits: "torch.Tensor") -> None:
        """Add to each of `rows` the token that follows by its logits, and keep what is finished by it."""
        import torch

        from affectome.corpus.writers.sampling import choose

        numbers = [[row.request.seed, len(row.written)] for row in rows]
        seeds, steps = torch.tensor(numbers, device=logits.device).T
        tokens, unsure = choose(logits, seeds, steps, self._manner, self._tolerance)
        for number, (row, token, open_) in enumerate(zip(rows, tokens.tolist(), unsure.tolist(), strict=True)):
            if row.finished:
                continue
            if open_:
                alone = self._batch.alone(row.prompt + row.written)[None]
                settled, _ = choose(alone, seeds[number, None], steps[number, None], self._manner, 0.0)
                token = int(settled)
                self._settled += 1
            row.written.append(token)
            self._tokens += 1
            if token in self._ends or len(row.written) == row.limit:
                row.finished = True
                self._reply(self._reply_of(row))

    def _reply_of(self, row: _Row) -> Reply:
        counts = {"read": len(row.prompt), "written": len(row.written)}
        if row.written[-1] not in self._ends:
            return Reply(row.request.id, problem="finish reason length", **counts)
        text = self._tokenizer.decode(row.written[:-1], skip_special_tokens=True)
        # Some models think aloud although they are told not to.
        text = text.rpartition("</think>")[2]
        if not text.strip():
            return Reply(row.request.id, problem="empty text", **counts)
        return Reply(row.request.id, (text,), **counts)

    def _reply(self, reply: Reply) -> None:
        # Repeated texts come first, so that what is nearly done is done first.
        self._waiting.extendleft(self._keep(reply))


def _rows_for(model: Any) -> int:
    """Rows in a batch for `model` where it is: by the memory of its devices as a whole, not by what is free of it."""
    import torch

    from affectome.models.anatomy import text_config

    config = text_config(model.config)
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    row = 2 * config.num_hidden_layers * heads * width * model.dtype.itemsize * _ROW_TOKENS
    devices = {parameter.device for parameter in model.parameters()}
    if model.device.type == "cuda":
        memory = sum(torch.cuda.get_device_properties(device).total_memory for device in devices)
    else:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    fitting = int(_CACHE_SHARE * (memory - model.get_memory_footprint()) // row)
    return max(1, min(fitting, _MOST_ROWS[model.device.type]))
