"""An engine of its own on Transformers, for models that vLLM has not: any decoder with a key-value cache.

A thread owns the model and takes one step after another for all replies under way (`affectome.serve.batching`); what it
writes goes to the event loop that asked for it. The likeliest continuation of a prompt does not depend on what else is
being written, and what is drawn depends on the request's seed alone.
"""

import asyncio
import inspect
import logging
import os
import threading
import time
import uuid
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, suppress
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch
from jinja2 import TemplateError

from affectome.errors import UserError
from affectome.models.anatomy import check_length, text_config
from affectome.models.chat import Prompt, as_prompt, as_reply, has_template
from affectome.models.load import load_model
from affectome.serve.backend import DEFAULT_TOKENS, READOUT, Kind, prompts_of
from affectome.serve.batching import Batch, Reading, Row
from affectome.serve.catalogue import Catalogue
from affectome.serve.plan import Plan, Readout, Refused
from affectome.serve.sampling import Sampler, Sampling, Text, Token
from affectome.steering.framing import frame
from affectome.steering.instrument import Intervention, NeverSteeredError, blocks_of
from affectome.steering.passes import end_tokens
from affectome.steering.sets import Template

log = logging.getLogger(__name__)

# Replies under way at once, and padded tokens of prompts in one pass; a longer prompt is read alone.
ROWS = 32
PROMPT_TOKENS = 8192


# oneDNN, and PyTorch in front of it, keep what they compile for each shape of a product, 1024 of them unless told
# otherwise: a gigabyte in bfloat16, as prompts have any shape. A step of a batch has fewer than this.
_CACHES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
_SHAPES = "64"

# Fields of a validated request that other engines honour.
_UNSUPPORTED = ("continue_final_message",)


@dataclass(frozen=True)
class Piece:
    """Tokens of a reply whose text is certain, and the values of the reading for those from number `first` on."""

    tokens: tuple[Token, ...]
    first: int = 0
    values: tuple[list[float], ...] = ()


@dataclass(frozen=True)
class End:
    """A reply came to its end after `written` tokens: `stop`, by itself or at a stop string, or `length`."""

    reason: str
    written: int


Event = Piece | End | Refused


@dataclass(eq=False, kw_only=True)
class Reply(Row):
    """A row with what chooses its tokens, at most `limit` of them, and where they go (`send`, any thread's)."""

    sampler: Sampler
    text: Text
    ends: frozenset[int]
    limit: int
    logprobs: int | None
    send: Callable[[Event], None]
    reason: str = ""
    cancelled: bool = False
    # Tokens and values that were sent.
    sent: list[int] = field(default_factory=lambda: [0, 0])

    def take(self, token: int, logits: torch.Tensor) -> None:
        """Go on with `token`, chosen by `logits` (vocabulary), and send what it makes certain."""
        self.written.append(token)
        released: list[Token] = []
        if token in self.ends:
            self.reason = "stop"
        else:
            released = self.text.add(self._token(token, logits))
            if self.text.stopped:
                self.reason = "stop"
            elif len(self.written) >= self.limit:
                self.reason = "length"
        if self.reason and not self.text.stopped:
            released += self.text.end()
        tokens, values = self.sent
        self.sent = [tokens + len(released), max(values, min(tokens + len(released), len(self.values)))]
        fresh = tuple(self.values[values : self.sent[1]])
        if released or fresh:
            self.send(Piece(tuple(released), values, fresh))

    def _token(self, token: int, logits: torch.Tensor) -> Token:
        if self.logprobs is None:
            return Token(token, "")
        logprobs = torch.log_softmax(logits, dim=-1)
        best, ids = logprobs.topk(self.logprobs)
        return Token(token, "", float(logprobs[token]), tuple(zip(ids.tolist(), best.tolist(), strict=True)))

    def finish(self) -> None:
        """Send the end, or why the reply is not to be trusted."""
        try:
            self.check()
            self.send(End(self.reason, len(self.written)))
        except NeverSteeredError as error:
            self.send(Refused(500, str(error), code="never_steered"))


class Worker:
    """The thread that runs `model` for all replies, in the order in which they were submitted."""

    def __init__(self, model: Any, rows: int = ROWS, prompt_tokens: int = PROMPT_TOKENS) -> None:
        self._batch, self._rows, self._prompt_tokens = Batch(model), rows, prompt_tokens
        self._waiting: deque[Reply] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self._broken = False
        self._thread = threading.Thread(target=self._run, name="affectome model", daemon=True)
        self._thread.start()

    @property
    def healthy(self) -> bool:
        return self._thread.is_alive() and not self._broken and not self._stopping

    def submit(self, replies: Sequence[Reply]) -> None:
        with self._changed:
            if not self.healthy:
                raise Refused(503, "the model is not running", code="unavailable")
            self._waiting.extend(replies)
            self._changed.notify()

    def stop(self) -> None:
        """End all replies with an error, at the next step; returns when the thread has ended."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._stopping or self._waiting or self._batch.rows)
                    if self._stopping:
                        break
                # Whatever a turn runs into, the next replies have their own.
                try:
                    self._turn()
                except Exception as error:
                    log.exception("a step failed")
                    self._fail_all(self._failed(error))
                    _free(error)
        finally:
            with self._changed:
                self._stopping = True
                waiting, self._waiting = list(self._waiting), deque()
            gone = Refused(503, "the server is shutting down", code="unavailable")
            for reply in waiting:
                reply.send(gone)
            self._fail_all(gone)

    def _turn(self) -> None:
        """Let newcomers in, then take one step for all."""
        self._batch.leave([reply for reply in self._batch.rows if reply.cancelled])
        if self._batch.open:
            newcomers = self._next()
            if newcomers:
                self._join(newcomers)
        if self._batch.rows:
            self._advance(self._batch.rows, self._batch.step())

    def _next(self) -> list[Reply]:
        """The replies to begin now: as many as there are places, and as their prompts fit into one pass."""
        newcomers: list[Reply] = []
        longest = 0
        with self._changed:
            while self._waiting and len(self._batch.rows) + len(newcomers) < self._rows:
                if self._waiting[0].cancelled:
                    self._waiting.popleft()
                    continue
                longest = max(longest, len(self._waiting[0].prompt))
                if newcomers and longest * (len(newcomers) + 1) > self._prompt_tokens:
                    break
                newcomers.append(self._waiting.popleft())
        return newcomers

    def _join(self, newcomers: list[Reply]) -> None:
        try:
            logits = self._batch.join(newcomers)
        except Exception as error:
            log.exception("a pass over %d prompts failed", len(newcomers))
            _free(error)
            if len(newcomers) == 1:
                newcomers[0].send(self._failed(error))
                return
            # One prompt too many, or too long, is no fault of the others'.
            for number, newcomer in enumerate(newcomers):
                if not self._batch.open:
                    with self._changed:
                        self._waiting.extendleft(reversed(newcomers[number:]))
                    break
                self._join([newcomer])
            return
        self._advance(newcomers, logits)

    def _advance(self, replies: Sequence[Reply], logits: torch.Tensor) -> None:
        """Go on with each of `replies` by its `logits` (replies, vocabulary), and let go those that are over."""
        best, likeliest = logits.max(dim=-1)
        sound, likeliest = torch.stack((best.isfinite().long(), likeliest)).tolist()
        over, failed = [], []
        for number, reply in enumerate(replies):
            try:
                token = likeliest[number]
                if sound[number] and not reply.sampler.greedy:
                    token = reply.sampler.choose([*reply.prompt, *reply.written], logits[number : number + 1])
                # What is drawn of scores that are not finite is beyond the vocabulary; read, it would fail all rows.
                if not sound[number] or token >= logits.shape[-1]:
                    raise Refused(500, "the model's output is not finite; steer less", code="not_finite")
                reply.take(token, logits[number])
            except Exception as error:
                if not isinstance(error, Refused):
                    log.exception("a reply failed")
                failed.append((reply, self._failed(error)))
            else:
                if reply.reason:
                    over.append(reply)
        self._batch.leave([*over, *(reply for reply, _ in failed)])
        for reply in over:
            reply.finish()
        for reply, error in failed:
            reply.send(error)

    def _failed(self, error: Exception) -> Refused:
        # After an error of the device itself no later call succeeds.
        if isinstance(error, torch.AcceleratorError) and not isinstance(error, torch.OutOfMemoryError):
            self._broken = True
        return _failure(error)

    def _fail_all(self, error: Refused) -> None:
        rows = list(self._batch.rows)
        self._batch.clear()
        for reply in rows:
            reply.send(error)


def _failure(error: Exception) -> Refused:
    if isinstance(error, Refused):
        return error
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return Refused(503, "the model ran out of memory; ask for fewer or shorter replies", code="out_of_memory")
    return Refused(500, f"the model failed ({type(error).__name__}); the server's log has more", code="engine_error")


def _free(error: Exception) -> None:
    if isinstance(error, torch.OutOfMemoryError) and torch.cuda.is_available():
        torch.cuda.empty_cache()


# ---------------------------------------------------------------- requests


@dataclass(frozen=True)
class Asked:
    """A request as the engine takes it; `stops` are strings, `ends` tokens, with which a reply ends."""

    prompts: tuple[tuple[int, ...], ...]
    choices: int
    limit: int
    sampling: Sampling
    stops: tuple[str, ...]
    ends: frozenset[int]
    logprobs: int | None
    special: bool
    usage: bool


def read_request(kind: Kind, body: dict[str, Any], tokenizer: Any, config: Any, ends: Sequence[int]) -> Asked:
    """`body`, a validated request, for the model of `config`, whose texts end with `ends`; Refused where it cannot."""
    for name in _UNSUPPORTED:
        if body.get(name):
            raise Refused(
                400, f"{name} cannot be served with Transformers; leave it out", name, "unsupported_parameter"
            )
    prompts = [chat_tokens(tokenizer, body)] if kind == "chat" else text_tokens(tokenizer, body["prompt"])
    bias = {int(token): float(amount) for token, amount in (body.get("logit_bias") or {}).items()}
    stop_ids = body.get("stop_token_ids") or ()
    where = "messages" if kind == "chat" else "prompt"
    vocabulary = text_config(config).vocab_size
    for name, tokens in (
        (where, [token for prompt in prompts for token in prompt]),
        ("logit_bias", bias),
        ("stop_token_ids", stop_ids),
    ):
        strange = next((token for token in tokens if not 0 <= token < vocabulary), None)
        if strange is not None:
            message = f"{name}: {strange} is no token of the model, which has {vocabulary}, from 0 on"
            raise Refused(400, message, name, "invalid_value")
    stops = body.get("stop") or ()
    logprobs = body.get("logprobs")
    if kind == "chat":
        logprobs = (body.get("top_logprobs") or 0) if logprobs else None
    return Asked(
        prompts=tuple(prompts),
        choices=body.get("n") or 1,
        limit=_limit(body, config, max(map(len, prompts))),
        sampling=_sampling(body, bias),
        stops=(stops,) if isinstance(stops, str) else tuple(stops),
        ends=frozenset(stop_ids) | frozenset(() if body.get("ignore_eos") else ends),
        logprobs=None if logprobs is None else min(logprobs, vocabulary),
        special=body.get("skip_special_tokens") is False,
        usage=bool((body.get("stream_options") or {}).get("include_usage")),
    )


def chat_tokens(tokenizer: Any, body: dict[str, Any]) -> tuple[int, ...]:
    """A conversation in tokens, up to where the reply begins; Refused where the model's template does not take it."""
    turns = [{"role": message["role"], "content": message["content"]} for message in body["messages"]]
    settings = body.get("chat_template_kwargs") or {}
    strange = next((name for name in settings if name != "enable_thinking"), None)
    if strange:
        raise Refused(400, f"the chat template takes enable_thinking alone, not {strange}", "chat_template_kwargs")
    if body.get("add_generation_prompt") is False:
        raise Refused(400, "a reply always begins a turn of its own; leave it out", "add_generation_prompt")
    thinking = settings.get("enable_thinking") is not False
    try:
        if not has_template(tokenizer):
            return frame(tokenizer, Template(text=as_prompt(tokenizer, Prompt(turns))[0])).ids
        text = as_reply(tokenizer, turns, thinking)
    except (TemplateError, ValueError, UserError) as error:
        roles = ", ".join(turn["role"] for turn in turns)
        raise Refused(400, f"the model takes no conversation of {roles}: {error}", "messages") from error
    ids = tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
    if not ids:
        raise Refused(400, "the conversation has no tokens; write something", "messages")
    return ids


def text_tokens(tokenizer: Any, prompt: str | list) -> list[tuple[int, ...]]:
    """The prompts of a completion in tokens: of a text, several texts, a list of tokens or several such lists."""
    try:
        return [
            frame(tokenizer, Template(text=one)).ids if isinstance(one, str) else tuple(one)
            for one in prompts_of(prompt)
        ]
    except (UserError, ValueError) as error:
        raise Refused(400, "a prompt is empty; write something", "prompt") from error


def _limit(body: dict[str, Any], config: Any, longest: int) -> int:
    """Tokens that a reply may have; Refused where they and the longest prompt are more than the model reads.

    Without a number of the client's it is DEFAULT_TOKENS, or what the prompt leaves.
    """
    context = getattr(text_config(config), "max_position_embeddings", None) or float("inf")
    name = "max_completion_tokens" if body.get("max_completion_tokens") else "max_tokens"
    limit = body.get(name)
    if limit is None:
        limit = max(1, min(DEFAULT_TOKENS, context - longest))
        while limit > 1 and _rescales(config, longest + limit):
            limit -= 1
    asked = f"a prompt of {longest} tokens and a reply of {limit} are {longest + limit}"
    where = "messages" if "messages" in body else "prompt"
    if longest + limit > context:
        message = f"{asked}, and the model reads {context}; shorten the prompt or lower {name}"
        raise Refused(400, message, where, "context_length_exceeded")
    if _rescales(config, longest + limit):
        message = f"{asked}, so long that the model would read those batched with it differently; lower {name}"
        raise Refused(400, message, where, "context_length_exceeded")
    return limit


def _rescales(config: Any, length: int) -> bool:
    try:
        check_length(config, length)
    except UserError:
        return True
    return False


def _sampling(body: dict[str, Any], bias: dict[int, float]) -> Sampling:
    names = (field.name for field in fields(Sampling) if field.name != "logit_bias")
    given = {name: body[name] for name in names if body.get(name) is not None}
    return Sampling(**given, logit_bias=bias)


# ---------------------------------------------------------------- backend


def interventions(plan: Plan, units: Mapping[int, np.ndarray]) -> tuple[Intervention, ...]:
    """`plan` as the instrument takes it, along `units`, (directions, width) by layer."""
    return tuple(
        Intervention(
            {layer: units[layer][change.direction] for layer, _ in change.lengths},
            dict(change.lengths),
            change.mode,
            change.positions,
        )
        for change in plan
    )


class TransformersBackend:
    """Serves the model of `catalogue` with Transformers, `rows` replies at once; see `affectome.serve.backend`."""

    name = "transformers"

    def __init__(self, catalogue: Catalogue, rows: int = ROWS, dtype: str = "auto") -> None:
        self._catalogue, self._rows, self._dtype = catalogue, rows, dtype
        self._worker: Worker | None = None
        # Rendering and encoding a long prompt would hold up every stream. One thread keeps the order of requests, and
        # tokenizers are not made for several.
        self._reader = ThreadPoolExecutor(1, "affectome prompts")

    async def start(self) -> None:
        await asyncio.to_thread(self._load)

    def _load(self) -> None:
        for name in _CACHES:
            # Read at the process's first product.
            os.environ.setdefault(name, _SHAPES)
        self._model, self._tokenizer = load_model(self._catalogue.model_folder, self._dtype)
        if "past_key_values" not in inspect.signature(self._model.forward).parameters:
            raise UserError(
                f"{self._model.config.model_type} has no key-value cache, so its replies cannot be batched; serve "
                f"another model"
            )
        # Looked for now, so that a model without such blocks is refused before the first request.
        blocks_of(self._model)
        self._ends = end_tokens(self._model, self._tokenizer)
        self._worker = Worker(self._model, self._rows)

    async def stop(self) -> None:
        worker, self._worker = self._worker, None
        self._reader.shutdown(wait=False)
        if worker is not None:
            await asyncio.to_thread(worker.stop)
            self._model = None

    async def healthy(self) -> bool:
        return self._worker is not None and self._worker.healthy

    async def complete(self, kind: Kind, body: dict[str, Any], plan: Plan, readout: Readout | None) -> dict[str, Any]:
        asked = await self._read(kind, body)
        form = _Form(kind, body, self._tokenizer)
        pieces: list[list[Token]] = [[] for _ in range(len(asked.prompts) * asked.choices)]
        values: list[list[float]] = []
        ends: dict[int, End] = {}
        async with aclosing(self._events(asked, plan, readout)) as events:
            async for index, event in events:
                if isinstance(event, End):
                    ends[index] = event
                else:
                    pieces[index] += event.tokens
                    values += event.values
        choices = [form.choice(index, tokens, ends[index].reason) for index, tokens in enumerate(pieces)]
        reply = form.reply(choices) | {"usage": _usage(asked, ends)}
        if readout:
            tokens = [token.text for token in pieces[0]]
            reply["readout"] = {
                "layer": readout.layer,
                "tokens": tokens,
                "values": [*values, *[None] * (len(tokens) - len(values))],
            }
        return reply

    async def stream(
        self, kind: Kind, body: dict[str, Any], plan: Plan, readout: Readout | None
    ) -> AsyncIterator[dict[str, Any]]:
        asked = await self._read(kind, body)
        form = _Form(kind, body, self._tokenizer)
        ends: dict[int, End] = {}
        begun: set[int] = set()
        async with aclosing(self._events(asked, plan, readout)) as events:
            async for index, event in events:
                if kind == "chat" and index not in begun:
                    begun.add(index)
                    yield form.opening(index)
                if isinstance(event, End):
                    ends[index] = event
                    yield form.chunk(index, [], event.reason)
                    continue
                if event.tokens:
                    chunk = form.chunk(index, event.tokens, None)
                    if readout:
                        chunk["choices"][0]["tokens"] = [token.text for token in event.tokens]
                    yield chunk
                if event.values:
                    content = {"first": event.first, "values": list(event.values)}
                    yield {"object": READOUT, "choices": [], "readout": content}
        if asked.usage:
            yield form.reply([], chunk=True) | {"usage": _usage(asked, ends)}

    async def _read(self, kind: Kind, body: dict[str, Any]) -> Asked:
        if self._worker is None:
            raise Refused(503, "the model is not running", code="unavailable")
        given = kind, body, self._tokenizer, self._model.config, self._ends
        return await asyncio.get_running_loop().run_in_executor(self._reader, read_request, *given)

    async def _events(
        self, asked: Asked, plan: Plan, readout: Readout | None
    ) -> AsyncIterator[tuple[int, Piece | End]]:
        """What becomes of the replies asked for, by number; all are cancelled once nobody listens."""
        if readout and len(asked.prompts) * asked.choices > 1:
            raise Refused(400, "a readout is of one reply: give one prompt, and leave n at 1", "readout")
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()
        steering, reading = interventions(plan, self._catalogue.units), self._reading(readout)
        replies: list[Reply] = []
        for prompt in asked.prompts:
            for number in range(asked.choices):
                replies.append(
                    self._reply(asked, prompt, number, steering, reading, _sender(loop, queue, len(replies)))
                )
        worker = self._worker
        if worker is None:
            raise Refused(503, "the model is not running", code="unavailable")
        worker.submit(replies)
        try:
            running = len(replies)
            while running:
                index, event = await queue.get()
                if isinstance(event, Refused):
                    raise event
                running -= isinstance(event, End)
                yield index, event
        finally:
            for reply in replies:
                reply.cancelled = True

    def _reply(
        self,
        asked: Asked,
        prompt: tuple[int, ...],
        number: int,
        steering: tuple[Intervention, ...],
        reading: Reading | None,
        send: Callable[[Event], None],
    ) -> Reply:
        sampling = asked.sampling
        if sampling.seed is not None:
            sampling = replace(sampling, seed=sampling.seed + number)
        return Reply(
            prompt,
            steering,
            reading,
            sampler=Sampler(sampling, prompt, sorted(asked.ends)),
            text=Text(self._tokenizer, prompt, asked.stops, asked.special),
            ends=asked.ends,
            limit=asked.limit,
            logprobs=asked.logprobs,
            send=send,
        )

    def _reading(self, readout: Readout | None) -> Reading | None:
        if readout is None:
            return None
        units = self._catalogue.units[readout.layer][list(readout.directions)]
        return Reading(readout.layer, units, self._catalogue.norms[readout.layer])


def _sender(loop: asyncio.AbstractEventLoop, queue: asyncio.Queue, index: int) -> Callable[[Event], None]:
    def send(event: Event) -> None:
        # A loop that has been closed has nobody left who listens.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(queue.put_nowait, (index, event))

    return send


# ---------------------------------------------------------------- replies


def _usage(asked: Asked, ends: dict[int, End]) -> dict[str, int]:
    prompt, written = sum(map(len, asked.prompts)), sum(end.written for end in ends.values())
    return {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written}


class _Form:
    """Replies in OpenAI's shapes, for one request."""

    def __init__(self, kind: Kind, body: dict[str, Any], tokenizer: Any) -> None:
        self._chat, self._tokenizer = kind == "chat", tokenizer
        prefix = "chatcmpl" if self._chat else "cmpl"
        self._head = {"id": f"{prefix}-{uuid.uuid4().hex}", "created": int(time.time()), "model": body.get("model")}
        # Characters of each choice so far, where its next token stands.
        self._offsets: dict[int, int] = {}

    def reply(self, choices: list[dict[str, Any]], chunk: bool = False) -> dict[str, Any]:
        kind = "text_completion" if not self._chat else "chat.completion.chunk" if chunk else "chat.completion"
        return self._head | {"object": kind, "choices": choices}

    def choice(self, index: int, tokens: Sequence[Token], reason: str) -> dict[str, Any]:
        text = "".join(token.text for token in tokens)
        content = {"message": {"role": "assistant", "content": text}} if self._chat else {"text": text}
        return self._choice(index, content, tokens, reason)

    def opening(self, index: int) -> dict[str, Any]:
        content = {"delta": {"role": "assistant", "content": ""}}
        return self.reply([self._choice(index, content, (), None)], chunk=True)

    def chunk(self, index: int, tokens: Sequence[Token], reason: str | None) -> dict[str, Any]:
        text = "".join(token.text for token in tokens)
        delta = {"delta": {"content": text} if tokens else {}}
        content = delta if self._chat else {"text": text}
        return self.reply([self._choice(index, content, tokens, reason)], chunk=True)

    def _choice(
        self, index: int, content: dict[str, Any], tokens: Sequence[Token], reason: str | None
    ) -> dict[str, Any]:
        return {
            "index": index,
            **content,
            "logprobs": self._logprobs(index, tokens),
            "finish_reason": reason,
        }

    def _logprobs(self, index: int, tokens: Sequence[Token]) -> dict[str, Any] | None:
        if not tokens or tokens[0].logprob is None:
            return None
        if self._chat:
            return {"content": [self._entry(t.id, t.logprob) | {"top_logprobs": self._top(t)} for t in tokens]}
        first = self._offsets.get(index, 0)
        starts = [first]
        for token in tokens:
            starts.append(starts[-1] + len(token.text))
        self._offsets[index] = starts.pop()
        return {
            "tokens": [self._name(token.id) for token in tokens],
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": [
                {self._name(token.id): token.logprob} | {self._name(i): logprob for i, logprob in token.top}
                for token in tokens
            ],
            "text_offset": starts,
        }

    def _top(self, token: Token) -> list[dict[str, Any]]:
        return [self._entry(identity, logprob) for identity, logprob in token.top]

    def _entry(self, token: int, logprob: float | None) -> dict[str, Any]:
        name = self._name(token)
        return {"token": name, "logprob": logprob, "bytes": list(name.encode())}

    def _name(self, token: int) -> str:
        return self._tokenizer.decode([token], clean_up_tokenization_spaces=False)
