"""Asking any service that speaks OpenAI's chat completions: OpenAI, vLLM, llama.cpp, Ollama and many others.

The key comes from the environment variable OPENAI_API_KEY and goes into a header only; servers of one's own need none.
"""

import asyncio
import contextlib
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from affectome.corpus.writers import Reply, Request
from affectome.corpus.writers.asking import (
    LONGEST_RETRY_AFTER_S,
    REQUEST_TIMEOUT_S,
    BusyError,
    UnusableError,
    ask_all,
    key_from_environment,
    on_one_line,
)
from affectome.errors import UserError

if TYPE_CHECKING:
    from httpx2 import AsyncClient, Response


class OpenAI:
    """A writer that asks `model` at `base_url`, which usually ends with /v1; `config_key` is named in errors."""

    def __init__(
        self, model: str, base_url: str, concurrency: int, temperature: float, attempts: int, config_key: str
    ) -> None:
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
            # Not quoted: it may hold a password.
            raise UserError(
                f"{config_key}.base_url is no address; write http(s)://host/v1, keys go into OPENAI_API_KEY"
            )
        self.name = f"openai:{model}"
        self._model = model
        self._base_url = base_url.rstrip("/")
        self._concurrency = concurrency
        self._temperature = temperature
        self._attempts = attempts
        self._config_key = config_key

    def write(self, requests: Sequence[Request], keep: Callable[[Reply], None]) -> None:
        """Hand `keep` one reply per request, after `attempts` failures one without text.

        Raises UserError at the first sign that no request can succeed: a key that is missing or refused, an unknown
        model, a used-up quota.
        """
        key = key_from_environment("OPENAI_API_KEY")
        asyncio.run(self._write(key, requests, keep))

    async def _write(self, key: str, requests: Sequence[Request], keep: Callable[[Reply], None]) -> None:
        from httpx2 import AsyncClient

        headers = {"Authorization": f"Bearer {key}"} if key else {}
        async with AsyncClient(headers=headers, timeout=REQUEST_TIMEOUT_S) as client:

            async def ask(prompt: str, seed: int) -> str:
                return await self._text(client, key, prompt, seed)

            await ask_all(ask, requests, keep, self._concurrency, self._attempts)

    async def _text(self, client: "AsyncClient", key: str, prompt: str, seed: int) -> str:
        from httpx2 import RequestError

        body = {
            "model": self._model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": self._temperature,
            "seed": seed,
        }
        try:
            response = await client.post(f"{self._base_url}/chat/completions", json=body)
        except (RequestError, OSError) as error:
            # Only the kind: the message of a malformed request may quote its headers, and with them the key.
            raise BusyError(type(error).__name__) from None
        if response.status_code == 200:
            return _whole_text(response)
        said = on_one_line(f"{response.status_code}: {_message(response)}", key)
        # OpenAI answers 429 to an account without credit, too, which no waiting mends.
        if response.status_code in (408, 409, 429) or response.status_code >= 500:
            retry_after = _retry_after(response)
            if "insufficient_quota" not in response.text and retry_after <= LONGEST_RETRY_AFTER_S:
                raise BusyError(str(response.status_code), retry_after)
            raise UserError(f"{self._base_url} has no quota left for {self._model!r} ({said}); rerun when it has")
        raise UserError(self._refusal(response.status_code, said, bool(key)))

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


def _whole_text(response: "Response") -> str:
    """The text of a reply that ended where the model wanted, without thoughts some servers leave before it."""
    content = _content(response)
    if content is None:
        raise BusyError("no JSON")
    try:
        choice = content["choices"][0]
        text, finish = choice["message"]["content"], choice.get("finish_reason")
    except (KeyError, IndexError, TypeError, AttributeError):
        raise UnusableError("no choices") from None
    if finish not in (None, "stop"):
        raise UnusableError(f"finish reason {finish}")
    text = re.sub(r"\A\s*<think>.*?</think>", "", text, flags=re.DOTALL) if isinstance(text, str) else ""
    if not text.strip():
        raise UnusableError("empty text")
    return text
