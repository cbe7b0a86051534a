"""Asking any service that speaks OpenAI's chat completions: OpenAI, vLLM, llama.cpp, Ollama and many others.

The key comes from the environment variable OPENAI_API_KEY and goes into a header only; servers of one's own need none.
"""

import asyncio
import contextlib
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from affectome.corpus.writers import Keep, Purse, Request
from affectome.corpus.writers.asking import (
    LONGEST_RETRY_AFTER_S,
    TIMEOUT_S,
    Answer,
    BusyError,
    ask_all,
    key_from_environment,
    on_one_line,
    texts_in,
)
from affectome.corpus.writers.pacing import pace_of
from affectome.errors import UserError

if TYPE_CHECKING:
    from httpx2 import AsyncClient, Response

# What a list of texts looks like to a service that guides its model's sampling.
_TEXTS = {
    "type": "object",
    "properties": {"texts": {"type": "array", "items": {"type": "string"}}},
    "required": ["texts"],
    "additionalProperties": False,
}


class OpenAI:
    """A writer that asks the model `openai` at `base_url`, which usually ends with /v1.

    Where a server was started for this writer, `key` is its own and `check` raises UserError if it has died. Limits
    (None for none) are per minute, `timeout` in seconds; `config_key` is the entry named in errors.
    """

    def __init__(
        self,
        openai: str,
        base_url: str,
        temperature: float,
        concurrency: int,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        timeout: float = TIMEOUT_S,
        config_key: str = "corpora.*.writer",
        key: str | None = None,
        check: Callable[[], None] | None = None,
    ) -> None:
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
            # Not quoted: it may hold a password.
            raise UserError(
                f"{config_key}.base_url is no address; write http(s)://host/v1, keys go into OPENAI_API_KEY"
            )
        self.name = f"openai:{openai}"
        self._model = openai
        self._base_url = base_url.rstrip("/")
        self._temperature = temperature
        self._concurrency = concurrency
        self._timeout = timeout
        self._config_key = config_key
        self._key = key
        self._check = check
        self._length = "max_tokens"
        self._pace = pace_of(f"{self._base_url} {openai}", requests_per_minute, tokens_per_minute)

    def write(self, requests: Sequence[Request], keep: Keep, purse: Purse | None = None) -> None:
        """Hand `keep` one reply per request, and go on with those it returns.

        Raises UserError at the first sign that no request can succeed: a key that is missing or refused, an unknown
        model, a service that is down, a used-up quota or purse.
        """
        key = self._key or key_from_environment("OPENAI_API_KEY")
        asyncio.run(self._write(key, requests, keep, purse))

    async def _write(self, key: str, requests: Sequence[Request], keep: Keep, purse: Purse | None) -> None:
        from httpx2 import AsyncClient, Limits

        headers = {"Authorization": f"Bearer {key}"} if key else {}
        limits = Limits(max_connections=self._concurrency, max_keepalive_connections=self._concurrency)
        async with AsyncClient(headers=headers, timeout=self._timeout, limits=limits) as client:

            async def ask(request: Request) -> Answer:
                return await self._answer(client, key, request)

            await ask_all(ask, requests, keep, self._concurrency, self._base_url, self._pace, purse)

    async def _answer(self, client: "AsyncClient", key: str, request: Request) -> Answer:
        from httpx2 import ConnectError, ConnectTimeout, RequestError

        try:
            response = await client.post(f"{self._base_url}/chat/completions", json=self._body(request))
        except (RequestError, OSError) as error:
            # Only the kind: the message of a malformed request may quote its headers, and with them the key.
            if self._check:
                self._check()
            unreachable = isinstance(error, ConnectError | ConnectTimeout)
            raise BusyError(type(error).__name__, unreachable=unreachable) from None
        if response.status_code == 200:
            return _answer_in(response, request.texts)
        said = on_one_line(f"{response.status_code}: {_message(response)}", key)
        if response.status_code == 400 and "max_completion_tokens" in said and self._length == "max_tokens":
            # What OpenAI's reasoning models call it; other servers know the old name only.
            self._length = "max_completion_tokens"
            return await self._answer(client, key, request)
        # OpenAI answers 429 to an account without credit, too, which no waiting mends.
        if response.status_code in (408, 409, 429) or response.status_code >= 500:
            retry_after = _retry_after(response)
            if "insufficient_quota" not in response.text and retry_after <= LONGEST_RETRY_AFTER_S:
                raise BusyError(str(response.status_code), retry_after)
            raise UserError(f"{self._base_url} has no quota left for {self._model!r} ({said}); rerun when it has")
        raise UserError(self._refusal(response.status_code, said, bool(key)))

    def _body(self, request: Request) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self._model,
            "messages": [{"role": "user", "content": request.prompt}],
            "temperature": self._temperature,
            "seed": request.seed,
        }
        if request.max_tokens is not None:
            body[self._length] = request.max_tokens
        if request.texts > 1:
            schema = {"name": "texts", "schema": _TEXTS, "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        return body

    def _refusal(self, status: int, said: str, has_key: bool) -> str:
        """What to do about a request that no repetition will make acceptable, in one line."""
        if status in (401, 403):
            if not has_key:
                return f"{self._base_url} asks for a key ({said}); export OPENAI_API_KEY=..."
            return f"{self._base_url} does not accept the key in OPENAI_API_KEY ({said}); set a valid one"
        if status == 404:
            return f"{self._base_url} knows no model {self._model!r} ({said}); correct {self._config_key}"
        return f"{self._base_url} refuses the request to {self._model!r} ({said}); check {self._config_key}"


def _content(response: "Response") -> Any:
    try:
        return response.json()
    except ValueError:  # of decoding as of parsing
        return None


def _message(response: "Response") -> str:
    """What a refusal says, in OpenAI's form or in that of servers that imitate it."""
    content = _content(response)
    said = content.get("error", content) if isinstance(content, dict) else None
    said = said.get("message") if isinstance(said, dict) else said
    return str(said or "no reason given")


def _retry_after(response: "Response") -> float:
    """Seconds that the service asks to be left alone, 0 where it does not say."""
    with contextlib.suppress(ValueError):
        return float(response.headers.get("retry-after", ""))
    return 0.0


def _answer_in(response: "Response", texts: int) -> Answer:
    """What a reply holds: `texts` texts, if it ended where the model wanted, or why it is of no use."""
    content = _content(response)
    if content is None:
        raise BusyError("no JSON")
    usage = content.get("usage") if isinstance(content, dict) else None
    usage = usage if isinstance(usage, dict) else {}
    found = _texts_in(content, texts)
    return Answer(found.texts, found.problem, usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or 0)


def _texts_in(content: Any, texts: int) -> Answer:
    try:
        choice = content["choices"][0]
        text, finish = choice["message"]["content"], choice.get("finish_reason")
    except (KeyError, IndexError, TypeError, AttributeError):
        return Answer(problem="no choices")
    if finish not in (None, "stop"):
        return Answer(problem=f"finish reason {finish}")
    # Some servers leave a model's thoughts before its reply.
    text = re.sub(r"\A\s*<think>.*?</think>", "", text, flags=re.DOTALL) if isinstance(text, str) else ""
    return texts_in(text, texts)
