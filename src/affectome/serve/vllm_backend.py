"""vLLM as the engine: a `vllm serve` of our own, in which `affectome.serve.plugin` steers, is asked over HTTP.

A plan travels as one of vLLM's extra arguments of a request. Readouts come back beside the replies, in datagrams, and
are put with their tokens here.
"""

import asyncio
import json
import logging
import shutil
import socket
import subprocess
import tempfile
import threading
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, aclosing, contextmanager, suppress
from pathlib import Path
from typing import Any

from affectome import __version__
from affectome.corpus.writers.serving import Served, find_vllm, serve
from affectome.errors import UserError
from affectome.serve.backend import DEFAULT_TOKENS, READOUT, Kind, prompts_of
from affectome.serve.catalogue import Catalogue
from affectome.serve.client import chunks
from affectome.serve.plan import Plan, Readout, Refused, encode
from affectome.serve.plugin import DIRECTIONS, KEY, READOUTS

log = logging.getLogger(__name__)

_PATHS: dict[Kind, str] = {"chat": "/chat/completions", "text": "/completions"}
# Of vLLM's additions to OpenAI's replies, for which nobody asked.
_REPLY = ("id", "object", "created", "model", "choices", "usage")
_CHOICE = ("index", "message", "delta", "text", "logprobs", "finish_reason")
_MESSAGE = ("role", "content")

# How long the values of a reply that is over are waited for, and an answer about the engine's health, in seconds.
_LATE_S = 2.0
_HEALTH_S = 5.0

# Longer paths than 107 bytes are no addresses of sockets.
_LONGEST_FOLDER = 80

_VERSION = """
from importlib.metadata import entry_points, version
print(version("affectome") if entry_points(group="vllm.general_plugins", name="affectome") else "")
"""


class VllmBackend:
    """Replies from vLLM on `gpus` GPUs (by default all there are), or on the CPU; see `affectome.serve.backend`.

    `max_model_len` is the longest prompt and reply together, in tokens; `dtype` is vLLM's precision, `auto` what suits
    the machine. vLLM's log goes to `log_file`, by default one that is left behind only where vLLM fails.
    """

    name = "vllm"

    def __init__(
        self,
        catalogue: Catalogue,
        gpus: int | None = None,
        max_model_len: int = 2048,
        dtype: str = "auto",
        log_file: str | Path | None = None,
    ) -> None:
        self.catalogue = catalogue
        self._gpus, self._max_model_len, self._dtype, self._log_file = gpus, max_model_len, dtype, log_file
        self._inboxes: dict[str, _Inbox] = {}
        self._stack = ExitStack()
        self._stopped = self._failed = False
        self._served: Served | None = None
        self._http: Any = None

    # ------------------------------------------------------------ the server

    async def start(self) -> None:
        from httpx2 import AsyncClient, Limits

        folder = Path(tempfile.mkdtemp(prefix="affectome-", dir=_short_folder()))
        self._stack.callback(shutil.rmtree, folder, ignore_errors=True)
        try:
            self._stack.enter_context(self._listening(folder / "readouts", asyncio.get_running_loop()))
            self._served = await _in_thread(lambda: self._serve(folder))
            self._http = AsyncClient(
                base_url=self._served.base_url,
                headers={"Authorization": f"Bearer {self._served.key}"},
                timeout=None,
                # A connection that is kept may be closed at vLLM's end just as the next request goes out on it.
                limits=Limits(max_connections=None, max_keepalive_connections=0),
                trust_env=False,
            )
            await self._check_steered()
            self._context = (await self._http.get("/models")).json()["data"][0]["max_model_len"]
        except BaseException:
            await self.stop()
            raise

    def _serve(self, folder: Path) -> Served:
        check_plugin(find_vllm())
        directions = folder / "directions.safetensors"
        self.catalogue.write_directions(directions)
        gpus = self._gpus
        if gpus is None:
            import torch

            gpus = torch.cuda.device_count()
        log_file = self._log_file
        if log_file is None:
            log_file = Path(tempfile.gettempdir()) / f"{folder.name}.vllm.log"
        server = serve(
            self.catalogue.model_folder,
            log_file,
            gpus,
            self._max_model_len,
            options=(
                "--enforce-eager",
                "--enable-prefix-caching",
                *([] if self._dtype == "auto" else ["--dtype", self._dtype]),
            ),
            environment={
                DIRECTIONS: str(directions),
                READOUTS: str(folder / "readouts"),
                "VLLM_PLUGINS": "affectome",
                "VLLM_USE_V2_MODEL_RUNNER": "0",
            },
        )
        served = server.__enter__()
        self._stack.callback(self._forget, log_file)
        self._stack.push(server.__exit__)
        if self._stopped:
            self._stack.close()
        return served

    def _forget(self, log_file: str | Path) -> None:
        if self._log_file is None and not self._failed:
            Path(log_file).unlink(missing_ok=True)

    async def stop(self) -> None:
        self._stopped = True
        if self._http is not None:
            await self._http.aclose()
            self._http = None
        await _in_thread(self._stack.close)

    async def healthy(self) -> bool:
        from httpx2 import HTTPError

        if self._http is None:
            return False
        try:
            answer = await self._http.get(self._served.root + "/health", timeout=_HEALTH_S)
        except HTTPError:
            return False
        return answer.status_code == 200

    async def _check_steered(self) -> None:
        """UserError unless vLLM refuses a plan that is none, as it does where our plugin reads it."""
        body = {"model": self._served.model, "prompt": [0], "max_tokens": 1, "vllm_xargs": {KEY: "no plan"}}
        answer = await self._http.post(_PATHS["text"], json=body)
        if answer.status_code != 400 or "affectome" not in answer.text:
            raise UserError(f"vLLM runs without affectome's plugin, which should be in it: {answer.text[:300]}")

    # ------------------------------------------------------------ requests

    async def complete(self, kind: Kind, body: dict[str, Any], plan: Plan, readout: Readout | None) -> dict[str, Any]:
        from httpx2 import HTTPError

        with self._asked(kind, body, plan, readout) as (asked, inbox):
            try:
                await self._set_length(kind, asked)
                answer = await self._client().post(_PATHS[kind], json=asked)
            except HTTPError as error:
                raise await self._gone() from error
            if answer.status_code != 200:
                raise _refused(answer.status_code, answer.content)
            reply = answer.json()
            if inbox:
                choice = reply["choices"][0]
                inbox.tokens = _tokens(kind, choice)
                written = len(inbox.tokens)
                content = choice["message"]["content"] if kind == "chat" else choice["text"]
                cut(inbox.tokens, content or "", choice)
                await inbox.settle(written)
                values = [inbox.values.get(number) for number in range(len(inbox.tokens))]
            reply = _plain(reply, body)
            if inbox:
                reply["readout"] = {"layer": readout.layer, "tokens": inbox.tokens, "values": values}
            return reply

    async def stream(
        self, kind: Kind, body: dict[str, Any], plan: Plan, readout: Readout | None
    ) -> AsyncIterator[dict[str, Any]]:
        from httpx2 import HTTPError

        with self._asked(kind, body, plan, readout) as (asked, inbox):
            try:
                await self._set_length(kind, asked)
                async with self._client().stream("POST", _PATHS[kind], json=asked) as answer:
                    if answer.status_code != 200:
                        raise _refused(answer.status_code, await answer.aread())
                    async with aclosing(_events(answer)) as events:
                        async for chunk in events:
                            if not inbox:
                                yield _plain(chunk, body)
                                continue
                            async for made in _with_readout(kind, chunk, inbox, body):
                                yield made
            except HTTPError as error:
                raise await self._gone() from error

    @contextmanager
    def _asked(self, kind: Kind, body: dict[str, Any], plan: Plan, readout: Readout | None) -> Any:
        """The request as vLLM takes it, and where its values come in while it lasts."""
        asked = {**body, "model": self._served.model if self._served else ""}
        if not readout:
            if plan:
                asked["vllm_xargs"] = {KEY: encode(plan)}
            yield asked, None
            return
        name = uuid.uuid4().hex
        asked["vllm_xargs"] = {KEY: encode(plan, readout.named(name))}
        # So that vLLM says which tokens it wrote.
        if not asked.get("logprobs"):
            asked["logprobs"] = True if kind == "chat" else 0
        inbox = self._inboxes[name] = _Inbox()
        try:
            yield asked, inbox
        finally:
            del self._inboxes[name]

    async def _set_length(self, kind: Kind, asked: dict[str, Any]) -> None:
        """Say how long the reply may be, where the client did not: vLLM's own rule differs between its two routes."""
        if "max_tokens" in asked:
            return
        if kind == "chat":
            prompts = [{name: asked[name] for name in ("messages", "chat_template_kwargs") if name in asked}]
        else:
            prompts = [{"prompt": prompt} for prompt in prompts_of(asked["prompt"])]
        longest = max([await self._count(prompt) for prompt in prompts])
        if longest >= self._context:
            message = f"a prompt of {longest} tokens leaves no room for a reply: the model reads {self._context}"
            raise Refused(400, message, "messages" if kind == "chat" else "prompt", "context_length_exceeded")
        asked["max_tokens"] = min(DEFAULT_TOKENS, self._context - longest)

    async def _count(self, prompt: dict[str, Any]) -> int:
        """Tokens of a conversation or a text, as vLLM reads it."""
        if isinstance(prompt.get("prompt"), list):
            return len(prompt["prompt"])
        answer = await self._client().post(self._served.root + "/tokenize", json=prompt)
        if answer.status_code != 200:
            raise _refused(answer.status_code, answer.content)
        return int(answer.json()["count"])

    def _client(self) -> Any:
        if self._http is None:
            raise Refused(503, "the engine is not running", code="unavailable")
        return self._http

    async def _gone(self) -> Refused:
        """What to say where vLLM does not answer any more; why goes to the log."""
        try:
            await asyncio.to_thread(self._served.check)
        except UserError as error:
            self._failed = True
            log.error("%s", error)
        return Refused(503, "the engine has ended; the server's log says why", code="engine_ended")

    # ------------------------------------------------------------ readouts

    @contextmanager
    def _listening(self, path: Path, loop: asyncio.AbstractEventLoop) -> Any:
        """A socket at `path` whose datagrams are put into the inboxes by the event loop.

        A thread of its own empties it: its queue holds few, and the engine waits, or drops them, while it is full.
        """
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as inlet:
            inlet.bind(str(path))

            def listen() -> None:
                while data := inlet.recv(1 << 17):
                    with suppress(RuntimeError):
                        # The loop may have been closed meanwhile.
                        loop.call_soon_threadsafe(self._deliver, data)

            thread = threading.Thread(target=listen, name="affectome readouts", daemon=True)
            thread.start()
            try:
                yield
            finally:
                with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as outlet, suppress(OSError):
                    outlet.sendto(b"", str(path))
                thread.join()

    def _deliver(self, data: bytes) -> None:
        for item in json.loads(data):
            inbox = self._inboxes.get(item["id"])
            if inbox:
                inbox.put(item["first"], item["values"])


class _Inbox:
    """Values and tokens of one reply as they come in, which of them first being open."""

    def __init__(self) -> None:
        self.tokens: list[str] = []
        self.text = ""
        self.values: dict[int, list[float]] = {}
        self._given: set[int] = set()
        self._news = asyncio.Event()

    def put(self, first: int, values: list[list[float]]) -> None:
        # After a preemption tokens are read once more.
        for number, row in enumerate(values, first):
            self.values.setdefault(number, row)
        self._news.set()

    def take(self) -> list[dict[str, Any]]:
        """Values of known tokens that have not been taken yet, those of neighbours together."""
        fresh = sorted(number for number in self.values.keys() - self._given if number < len(self.tokens))
        self._given.update(fresh)
        taken: list[dict[str, Any]] = []
        for number in fresh:
            if taken and number == taken[-1]["first"] + len(taken[-1]["values"]):
                taken[-1]["values"].append(self.values[number])
            else:
                taken.append({"first": number, "values": [self.values[number]]})
        return taken

    async def settle(self, written: int) -> None:
        """Wait until there are the values of all tokens but the last of `written`, or no longer."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_LATE_S):
                while not all(number in self.values for number in range(written - 1)):
                    self._news.clear()
                    await self._news.wait()
                return
        log.warning("values of a readout did not arrive")


async def _with_readout(
    kind: Kind, chunk: dict[str, Any], inbox: _Inbox, body: dict[str, Any]
) -> AsyncIterator[dict[str, Any]]:
    """A chunk of vLLM's with its tokens, and the values that are known after it."""
    made = _plain(chunk, body)
    over = False
    if chunk["choices"]:
        choice = chunk["choices"][0]
        tokens = _tokens(kind, choice)
        before = len(inbox.tokens)
        inbox.tokens += tokens
        inbox.text += (choice["delta"].get("content") if kind == "chat" else choice["text"]) or ""
        over = choice.get("finish_reason") is not None
        written = len(inbox.tokens)
        if over:
            cut(inbox.tokens, inbox.text, choice)
        made["choices"][0]["tokens"] = inbox.tokens[before:]
        yield made
    if over:
        await inbox.settle(written)
    for values in inbox.take():
        yield {"object": READOUT, "choices": [], "readout": values}
    if not chunk["choices"]:
        yield made


def _tokens(kind: Kind, choice: dict[str, Any]) -> list[str]:
    said = choice.get("logprobs") or {}
    return [item["token"] for item in said.get("content") or ()] if kind == "chat" else list(said.get("tokens") or ())


def cut(tokens: list[str], text: str, choice: dict[str, Any]) -> None:
    """Take from `tokens` what a reply ended with and does not show: a token that ends texts, or a stop string."""
    if choice.get("finish_reason") != "stop" or not tokens:
        return
    if not isinstance(choice.get("stop_reason"), str):
        tokens.pop()
        return
    length = sum(map(len, tokens))
    while tokens and length - len(tokens[-1]) >= len(text):
        length -= len(tokens.pop())


def _plain(reply: dict[str, Any], body: dict[str, Any]) -> dict[str, Any]:
    """A reply or chunk of vLLM's as OpenAI would have it, with as many log probabilities as `body` asked for."""
    asked = body.get("logprobs") not in (None, False)
    made = {name: reply[name] for name in _REPLY if name in reply} | {"model": body.get("model")}
    made["choices"] = [
        {name: choice[name] for name in _CHOICE if name in choice and (asked or name != "logprobs")}
        for choice in reply["choices"]
    ]
    for choice in made["choices"]:
        for name in ("message", "delta"):
            if name in choice:
                choice[name] = {part: choice[name][part] for part in _MESSAGE if part in choice[name]}
    if made.get("usage"):
        made["usage"] = {name: value for name, value in made["usage"].items() if value is not None}
    else:
        made.pop("usage", None)
    return made


async def _events(answer: Any) -> AsyncIterator[dict[str, Any]]:
    """The chunks of a streamed reply; Refused where vLLM ends it with an error."""
    async for chunk in chunks(answer):
        if "error" in chunk:
            raise _refused(int(chunk["error"].get("code") or 500), json.dumps(chunk).encode())
        yield chunk


def _refused(status: int, content: bytes) -> Refused:
    """An error of vLLM's as ours; of one that is not the client's fault the words go to the log alone."""
    try:
        error = json.loads(content)["error"]
        message, param = str(error["message"]), error.get("param")
    except (ValueError, KeyError, TypeError):
        message, param = content.decode(errors="replace")[:300], None
    if 400 <= status < 500 and status not in (401, 403):
        return Refused(status, message, param)
    log.error("vLLM answered %d: %s", status, message)
    return Refused(503, "the engine failed; the server's log says why", code="engine_error")


# ------------------------------------------------------------ vLLM's environment


def check_plugin(executable: Path) -> None:
    """UserError unless the environment of the `vllm` command has this version of affectome as a plugin."""
    python = executable.resolve().parent / "python"
    if not python.exists():
        # It is asked itself, once it runs.
        return
    found = subprocess.run([python, "-I", "-c", _VERSION], capture_output=True, text=True, check=False)
    version = found.stdout.strip()
    if version != __version__:
        what = f"affectome {version}, not {__version__}," if version else "no affectome"
        root = Path(__file__).parents[3]
        source = root if (root / "pyproject.toml").exists() else f"affectome=={__version__}"
        raise UserError(
            f"vLLM's environment has {what} for its plugin; install it there with: {python} -m pip install --no-deps "
            f"{source} (or serve with --backend transformers)"
        )


def _short_folder() -> str | None:
    return None if len(tempfile.gettempdir()) < _LONGEST_FOLDER else "/tmp"  # noqa: S108 - mkdtemp makes it private


async def _in_thread(call: Callable[[], Any]) -> Any:
    """What `call` returns, from a thread for which a process that ends does not wait."""
    loop = asyncio.get_running_loop()
    future = loop.create_future()

    def settle(set_result: Callable[[Any], None], value: Any) -> None:
        if not future.done():
            set_result(value)

    def run() -> None:
        try:
            result = call()
        except BaseException as error:
            report, value = future.set_exception, error
        else:
            report, value = future.set_result, result
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(settle, report, value)

    threading.Thread(target=run, daemon=True).start()
    return await future
