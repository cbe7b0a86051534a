"""Writing with Google's Gemini API.

The key comes from the environment variable GEMINI_API_KEY and goes into requests only. The google-genai client reads
the address of the service from GOOGLE_GEMINI_BASE_URL, which is how the tests put their own in its place.
"""

import asyncio
import contextlib
import json
import re
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

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
    from google.genai import Client
    from google.genai.errors import APIError
    from google.genai.types import GenerateContentResponse


class Gemini:
    """A writer; the arguments are those of `corpora.*.writer`, or of the entry `config_key`."""

    def __init__(
        self, gemini: str, concurrency: int, temperature: float, attempts: int, config_key: str = "corpora.*.writer"
    ) -> None:
        self.name = f"gemini:{gemini}"
        self._model = gemini
        self._concurrency = concurrency
        self._temperature = temperature
        self._attempts = attempts
        self._config_key = config_key

    def write(self, requests: Sequence[Request], keep: Callable[[Reply], None]) -> None:
        """Hand `keep` one reply per request, after `attempts` failures one without text.

        Raises UserError at the first sign that no request can succeed: no google-genai package, no key or one that is
        refused, an unknown model, a used-up quota.
        """
        key = _key_from_environment()
        try:
            from google.genai import Client
            from google.genai.types import HttpOptions, HttpRetryOptions
        except ImportError as error:
            raise UserError("Gemini needs the package google-genai; pip install 'affectome[gemini]'") from error
        # One attempt of ours is one request: the client repeats none on its own. Without vertexai=False the environment
        # could send the key to another service.
        options = HttpOptions(timeout=int(REQUEST_TIMEOUT_S * 1000), retry_options=HttpRetryOptions(attempts=1))
        client = Client(api_key=key, vertexai=False, http_options=options)
        asyncio.run(self._write(client, key, requests, keep))

    async def _write(
        self, client: "Client", key: str, requests: Sequence[Request], keep: Callable[[Reply], None]
    ) -> None:
        async def ask(prompt: str, seed: int) -> str:
            return await self._text(client, key, prompt, seed)

        async with client.aio:
            await ask_all(ask, requests, keep, self._concurrency, self._attempts)

    async def _text(self, client: "Client", key: str, prompt: str, seed: int) -> str:
        from google.genai.errors import APIError
        from google.genai.types import GenerateContentConfig

        config = GenerateContentConfig(temperature=self._temperature, seed=seed)
        try:
            response = await client.aio.models.generate_content(model=self._model, contents=prompt, config=config)
        except APIError as error:
            if error.code not in (408, 429) and error.code < 500:
                raise UserError(self._refusal(error, key)) from None
            retry_after = _retry_after(error)
            if retry_after > LONGEST_RETRY_AFTER_S:
                told = f"asks to wait {retry_after:.0f} s ({_said(error, key)})"
                raise UserError(f"the Gemini API {told}; rerun then, nothing written is lost") from None
            raise BusyError(str(error.code), retry_after) from None
        except _connection_errors() as error:
            # Only the kind: the message of a malformed request may quote its headers, and with them the key.
            raise BusyError(type(error).__name__) from None
        return _whole_text(response)

    def _refusal(self, error: "APIError", key: str) -> str:
        """What to do about a request that no repetition will make acceptable, in one line."""
        said = _said(error, key)
        if error.code in (401, 403) or "API_KEY_INVALID" in json.dumps(error.details, default=str):
            return f"the Gemini API does not accept the key in GEMINI_API_KEY ({said}); set a valid one"
        if error.code == 404:
            return f"the Gemini API knows no model {self._model!r} ({said}); correct {self._config_key}.gemini"
        return f"the Gemini API refuses the request to {self._model!r} ({said}); check {self._config_key}"


def _key_from_environment() -> str:
    key = key_from_environment("GEMINI_API_KEY")
    if not key:
        raise UserError(
            "GEMINI_API_KEY is not set; export GEMINI_API_KEY=... (keys: https://aistudio.google.com/apikey)"
        )
    return key


def _said(error: "APIError", key: str) -> str:
    """The service's own words on one line; it quotes the key where that is suspended."""
    return on_one_line(f"{error.code} {error.status or ''}: {error.message or 'no reason given'}", key)


def _retry_after(error: "APIError") -> float:
    """Seconds that the service asks to be left alone, 0 where it does not say.

    It may say so in the header Retry-After, or in the body as Google's RetryInfo.
    """
    seconds = [getattr(error.response, "headers", {}).get("retry-after", "")]
    seconds += re.findall(r'"retryDelay": "([\d.]+)s"', json.dumps(error.details, default=str))
    found = [0.0]
    for text in seconds:
        with contextlib.suppress(ValueError):
            found.append(float(text))
    return max(found)


def _connection_errors() -> tuple[type[Exception], ...]:
    """What the client lets through when a connection fails or a reply is no JSON.

    It uses whichever of three HTTP packages is installed; each has errors of its own.
    """
    packages = (("httpx2", "RequestError"), ("httpx", "RequestError"), ("aiohttp", "ClientError"))
    theirs = (getattr(sys.modules[package], name) for package, name in packages if package in sys.modules)
    return (OSError, json.JSONDecodeError, UnicodeDecodeError, *theirs)


def _whole_text(response: "GenerateContentResponse") -> str:
    """The text of a reply that ended where the model wanted; raises UnusableError for any other."""
    if not response.candidates:
        blocked = response.prompt_feedback and response.prompt_feedback.block_reason
        raise UnusableError(f"prompt blocked: {blocked.name}" if blocked else "no candidates")
    finish = response.candidates[0].finish_reason
    if finish is None or finish.name != "STOP":
        raise UnusableError(f"finish reason {finish.name if finish else 'missing'}")
    if not (response.text or "").strip():
        raise UnusableError("empty text")
    return response.text
