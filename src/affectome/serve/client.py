"""Asking a running server: what `affectome chat`, `affectome test-http` and the dashboard share."""

import json
import os
import shlex
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any

from affectome.errors import UserError
from affectome.serve.plan import Refused

KEY = "AFFECTOME_API_KEY"
_FIRST_WORD_S = 600.0


class Client:
    """An affectome server at `url`, asked under the key in AFFECTOME_API_KEY where there is one.

    Use as an async context. Calls raise Refused where the server refuses, UserError where it cannot be reached or is
    no affectome server.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/").removesuffix("/v1")

    async def __aenter__(self) -> "Client":
        import httpx2

        key = os.environ.get(KEY, "").strip()
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        timeout = httpx2.Timeout(_FIRST_WORD_S, connect=10.0)
        try:
            self._http = httpx2.AsyncClient(base_url=self.url, headers=headers, timeout=timeout, trust_env=False)
        except (httpx2.InvalidURL, UnicodeEncodeError) as error:
            raise UserError(f"{self.url} or the key in {KEY} cannot be used ({error})") from error
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def emotions(self) -> dict[str, Any]:
        """The body of `GET /v1/emotions`."""
        return await self._json("GET", "/v1/emotions")

    async def complete(self, body: dict[str, Any]) -> dict[str, Any]:
        """The whole reply to a chat."""
        return await self._json("POST", "/v1/chat/completions", json=body)

    async def stream(self, body: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """The reply to a chat chunk by chunk."""
        import httpx2

        body = {**body, "stream": True}
        try:
            async with self._http.stream("POST", "/v1/chat/completions", json=body) as response:
                if response.status_code != 200:
                    await response.aread()
                    raise _refused(response)
                async for chunk in chunks(response):
                    if "error" in chunk:
                        raise Refused(503, str(chunk["error"].get("message", "the reply was cut short")))
                    yield chunk
        except httpx2.HTTPError as error:
            raise self._unreachable(error) from error

    async def _json(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        import httpx2

        try:
            response = await self._http.request(method, path, **options)
        except httpx2.HTTPError as error:
            raise self._unreachable(error) from error
        if response.status_code != 200:
            raise _refused(response)
        try:
            return response.json()
        except ValueError as error:
            raise UserError(
                f"{self.url} answers, but is no affectome server; start one with: affectome serve"
            ) from error

    def _unreachable(self, error: Exception) -> UserError:
        return UserError(
            f"{self.url} cannot be reached ({type(error).__name__}); start a server there with `affectome serve`, or "
            f"name another with --url"
        )


async def chunks(response: Any) -> AsyncIterator[dict[str, Any]]:
    """What an OpenAI service says in the stream that `response` is, event by event; errors have a key `error`."""
    async for line in response.aiter_lines():
        if line.startswith("data: ") and line != "data: [DONE]":
            yield json.loads(line.removeprefix("data: "))


def _refused(response: Any) -> Refused:
    try:
        message = str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        message = f"it answered {response.status_code}; is it an affectome server?"
    if response.status_code == 401:
        message = f"{message} (this program sends the key in {KEY})"
    return Refused(response.status_code, message)


def curl(body: dict[str, Any], base: str, key: bool) -> str:
    """A command for POSIX shells that sends `body` to the server at `base`."""
    lines = [f"curl -sS {shlex.quote(base + '/v1/chat/completions')}", "-H 'Content-Type: application/json'"]
    if key:
        lines.append('-H "Authorization: Bearer $AFFECTOME_API_KEY"')
    lines.append(f"--data-raw {shlex.quote(json.dumps(body, indent=2, ensure_ascii=False))}")
    return " \\\n  ".join(lines)
