"""Writing with Google's Gemini API.

The key comes from the environment variable GEMINI_API_KEY and goes into requests only. The google-genai client reads
the address of the service from GOOGLE_GEMINI_BASE_URL, which is how the tests put their own in its place.
"""

import asyncio
import contextlib
import json
import re
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

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
    from google.genai import Client
    from google.genai.errors import APIError
    from google.genai.types import GenerateContentConfig, GenerateContentResponse

WHERE = "the Gemini API"


class Gemini:
    """A writer that asks the model `gemini`; `config_key` is the entry named in errors.

    `thinking_tokens` is the most a model may think before it writes, None for what it does of its own accord. Limits
    (None for none) are per minute; `timeout` in seconds.
    """

    def __init__(
        self,
        gemini: str,
        temperature: float,
        concurrency: int,
        thinking_tokens: int | None = None,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        timeout: float = TIMEOUT_S,
        config_key: str = "corpora.*.writer",
    ) -> None:
        self.name = f"gemini:{gemini}"
        self._model = gemini
        self._temperature = temperature
        self._concurrency = concurrency
        self._thinking_tokens = thinking_tokens
        self._timeout = timeout
        self._config_key = config_key
        self._pace = pace_of(self.name, requests_per_minute, tokens_per_minute)

    def write(self, requests: Sequence[Request], keep: Keep, purse: Purse | None = None) -> None:
        """Hand `keep` one reply per request, and go on with those it returns.

        Raises UserError at the first sign that no request can succeed: no google-genai package, no key or one that is
        refused, an unknown model, a used-up quota or purse.
        """
        client, key = open_client(self._timeout)
        asyncio.run(self._write(client, key, requests, keep, purse))

    async def _write(
        self, client: "Client", key: str, requests: Sequence[Request], keep: Keep, purse: Purse | None
    ) -> None:
        async def ask(request: Request) -> Answer:
            return await self._answer(client, key, request)

        async with client.aio:
            await ask_all(ask, requests, keep, self._concurrency, WHERE, self._pace, purse)

    async def _answer(self, client: "Client", key: str, request: Request) -> Answer:
        config = self.generation(request)
        with self.complaints(key):
            response = await client.aio.models.generate_content(
                model=self._model, contents=request.prompt, config=config
            )
        return answer_in(response, request.texts)

    @contextlib.contextmanager
    def complaints(self, key: str) -> Iterator[None]:
        """Raise what the client raises in the block as BusyError where waiting helps, else as UserError."""
        from google.genai.errors import APIError

        try:
            yield
        except APIError as error:
            if error.code not in (408, 429) and error.code < 500:
                raise UserError(self.refusal(error, key)) from None
            retry_after = _retry_after(error)
            if retry_after > LONGEST_RETRY_AFTER_S:
                told = f"asks to wait {retry_after:.0f} s ({_said(error, key)})"
                raise UserError(f"{WHERE} {told}; rerun then, nothing written is lost") from None
            raise BusyError(str(error.code), retry_after) from None
        except connection_errors() as error:
            # Only the kind: the message of a malformed request may quote its headers, and with them the key.
            raise BusyError(type(error).__name__, unreachable="Connect" in type(error).__name__) from None

    def generation(self, request: Request) -> "GenerateContentConfig":
        """How the reply to `request` is sampled, and in which form it comes."""
        from google.genai.types import GenerateContentConfig, ThinkingConfig

        several: dict[str, Any] = {}
        if request.texts > 1:
            several = {"response_mime_type": "application/json", "response_schema": list[str]}
        if self._thinking_tokens is not None:
            several["thinking_config"] = ThinkingConfig(thinking_budget=self._thinking_tokens)
        return GenerateContentConfig(temperature=self._temperature, seed=request.seed, **several)

    def refusal(self, error: "APIError", key: str) -> str:
        """What to do about a request that no repetition will make acceptable, in one line."""
        said = _said(error, key)
        if error.code in (401, 403) or "API_KEY_INVALID" in json.dumps(error.details, default=str):
            return f"{WHERE} does not accept the key in GEMINI_API_KEY ({said}); set a valid one"
        if error.code == 404:
            return f"{WHERE} knows no model {self._model!r} ({said}); correct {self._config_key}.gemini"
        return f"{WHERE} refuses the request to {self._model!r} ({said}); check {self._config_key}"


def open_client(timeout: float) -> tuple["Client", str]:
    """A client of the service, and the key that it uses; raises UserError where there is no package or no key."""
    key = _key_from_environment()
    try:
        from google.genai import Client
        from google.genai.types import HttpOptions, HttpRetryOptions
    except ImportError as error:
        raise UserError("Gemini needs the package google-genai; pip install 'affectome[gemini]'") from error
    # One attempt of ours is one request: the client repeats none on its own. Without vertexai=False the environment
    # could send the key to another service.
    options = HttpOptions(timeout=int(timeout * 1000), retry_options=HttpRetryOptions(attempts=1))
    return Client(api_key=key, vertexai=False, http_options=options), key


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


def connection_errors() -> tuple[type[Exception], ...]:
    """What the client lets through when a connection fails or a reply is no JSON.

    It uses whichever of three HTTP packages is installed; each has errors of its own.
    """
    packages = (("httpx2", "RequestError"), ("httpx", "RequestError"), ("aiohttp", "ClientError"))
    theirs = (getattr(sys.modules[package], name) for package, name in packages if package in sys.modules)
    return (OSError, json.JSONDecodeError, UnicodeDecodeError, *theirs)


def answer_in(response: "GenerateContentResponse", texts: int) -> Answer:
    """What a reply holds: `texts` texts, if it ended where the model wanted, or why it is of no use."""
    usage = response.usage_metadata
    read = (usage.prompt_token_count or 0) if usage else 0
    written = ((usage.candidates_token_count or 0) + (usage.thoughts_token_count or 0)) if usage else 0
    found = _texts_in(response, texts)
    return Answer(found.texts, found.problem, read, written)


def _texts_in(response: "GenerateContentResponse", texts: int) -> Answer:
    if not response.candidates:
        blocked = response.prompt_feedback and response.prompt_feedback.block_reason
        return Answer(problem=f"prompt blocked: {blocked.name}" if blocked else "no candidates")
    finish = response.candidates[0].finish_reason
    if finish is None or finish.name != "STOP":
        return Answer(problem=f"finish reason {finish.name if finish else 'missing'}")
    return texts_in(response.text or "", texts)
