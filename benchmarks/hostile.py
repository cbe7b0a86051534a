"""Mixed valid and hostile requests to a server of one's own: `python -m benchmarks.hostile --requests 10000`.

Starts `affectome serve`, with those options that are not its own, and by default on the demo's run (or asks the server
at `--url`, under the key in AFFECTOME_API_KEY), and sends it `--requests` requests, `--at-once` at a time, drawn by
`--seed`. Half are valid: short replies, steered differently, whole or in streams. Others are what schemathesis makes
of the server's own OpenAPI document, malformed and huge bodies, wrong keys, other sites' pages, and clients that hang
up, that read slowly and that send slowly.

Prints JSON: requests by kind and status (`cut` where the server broke the connection off, `left` where the client did),
resident memory of the server's processes on the way, and what runs and waits once all is over. Exit status 1 says that
a valid request was not answered, or that something was answered by 5xx.
"""

import argparse
import asyncio
import json
import os
import random
import secrets
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx2
import hypothesis
import schemathesis

TOKENS = 4
# What a client that hangs up has asked for.
MANY_TOKENS = 256
SHARES = {
    "valid": 50,
    "generated": 15,
    "malformed": 8,
    "wrong key": 5,
    "hangs up in a stream": 6,
    "hangs up before": 2,
    "huge": 4,
    "reads slowly": 3,
    "sends slowly": 3,
    "other site": 2,
    "wrong path": 2,
}
_SLOW_S = 3.0
# These wait until the server cuts them off, which takes it half a minute.
_PATIENT = 3
_PATIENCE_S = 60.0
_JSON = {"content-type": "application/json"}
_PROMPTS = ["How was your day?", "Name a colour.", "Write one line about rain.", "Where were you yesterday?", "Hello!"]
_MALFORMED = [
    b"",
    b"{",
    b"[]",
    b"null",
    b"\xff\xfe\x00",
    b'{"prompt": "\\ud800"}',
    b'{"prompt": NaN}',
    b'{"prompt": "a", "prompt": "b"}',
    b'{"a":' * 20_000,
    b"[" * 200_000,
    b'{"prompt": "x", "seed": ' + b"9" * 6000 + b"}",
    b'{"prompt": "x", "temperature": 1e999}',
    b'{"prompt": "x", "steering": [[[[]]]]}',
    b'{"prompt": "x", "steering": [0, 1e300]}',
    b'{"prompt": "x", "n": 1000000}',
    b'{"prompt": "x", "max_tokens": 100000000}',
    b'{"prompt": "' + b"a" * 500_000 + b'"}',
    b'{"messages": [' + b'{"role": "user", "content": ""},' * 20_000 + b"null]}",
]


class Server:
    """`affectome serve` in processes of its own, or the one at `url`."""

    def __init__(self, url: str | None, options: list[str]) -> None:
        self.process = None
        self.url, self.key = url, os.environ.get("AFFECTOME_API_KEY", "")
        if self.url:
            return
        self.key = secrets.token_hex(16)
        options = options or ["--run", "demo"]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "affectome", "serve", *options, "--port", "0"],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"AFFECTOME_API_KEY": self.key},
        )
        line = self.process.stdout.readline()
        if " at http" not in line:
            sys.exit(f"the server did not start: {line}")
        self.url = line.rpartition(" ")[2].strip()

    @property
    def megabytes(self) -> dict[str, float] | None:
        """Resident memory of the server, and of what it started: vLLM's processes, whose cache fills as it is used."""
        if not self.process:
            return None
        first, *others = map(_resident_mb, _family(self.process.pid))
        return {"server": round(first, 1), "vllm": round(sum(others), 1)}

    def stop(self) -> tuple[float, int] | None:
        """Seconds to end, and the exit status."""
        if not self.process:
            return None
        started = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(90)
        except subprocess.TimeoutExpired:
            self.process.kill()
            status = self.process.wait()
        return round(time.monotonic() - started, 1), status


def _family(pid: int) -> list[int]:
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            with suppress(OSError):
                found += map(int, task.read_text().split())
    return found


def _resident_mb(pid: int) -> float:
    with suppress(OSError, IndexError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    return 0.0


class Campaign:
    """Sends requests to `server`, and counts what comes back."""

    def __init__(self, server: Server, http: httpx2.AsyncClient, seed: int) -> None:
        self._server, self._http, self._draw = server, http, random.Random(seed)  # noqa: S311
        address = httpx2.URL(server.url)
        self._host, self._port = address.host, address.port
        self.statuses: dict[str, Counter[str]] = {kind: Counter() for kind in SHARES}
        self.unanswered: list[str] = []
        self.failures: list[str] = []
        self._patient = _PATIENT

    async def prepare(self, requests: int) -> None:
        """Read what the server is, and have schemathesis make requests of its document."""
        told = (await self._http.get("/v1/emotions")).json()
        self._model = told["model"]
        self._directions = [entry for entry in told["data"] if entry["safe_range"]["high"] > 0]
        document = (await self._http.get("/openapi.json")).json()
        # Generating takes the processor that the server needs, so it is done before.
        self._generated = await asyncio.to_thread(_generate, document, min(400, requests // 4 + 20))

    async def send(self, kind: str) -> None:
        """One request of `kind`; never raises."""
        ways: dict[str, Callable[[], Coroutine[Any, Any, str]]] = {
            "valid": self._valid,
            "generated": self._of_document,
            "malformed": lambda: self._post(self._draw.choice(_MALFORMED)),
            "wrong key": self._wrong_key,
            "hangs up in a stream": self._hang_up,
            "hangs up before": lambda: self._hang_up(before=True),
            "huge": self._huge,
            "reads slowly": self._read_slowly,
            "sends slowly": self._send_slowly,
            "other site": self._other_site,
            "wrong path": self._wrong_path,
        }
        try:
            status = await ways[kind]()
        except (httpx2.HTTPError, OSError, EOFError) as error:
            status = "cut"
            if kind == "valid":
                self.unanswered.append(repr(error))
        self.statuses[kind][status] += 1
        # The engine may be full, which 503 would say on purpose; nothing else may fail.
        if status.startswith("5"):
            self.failures.append(f"{kind}: {status}")

    def _body(self, tokens: int = TOKENS) -> tuple[str, dict[str, Any]]:
        """A valid request: its path and body."""
        draw, direction = self._draw, self._draw.choice(self._directions)
        low, high = direction["safe_range"]["low"], direction["safe_range"]["high"]
        item = {
            "emotion": direction["name"],
            "family": direction["family"],
            "strength": round(draw.uniform(low, high), 4),
            "mode": draw.choice(["add", "add", "add", "clamp", "ablate"]),
            "positions": draw.choice(["generated", "generated", "all", "prompt"]),
        }
        body: dict[str, Any] = {"model": self._model, "max_tokens": tokens, "temperature": draw.choice([0, 0.7])}
        body["steering"] = draw.choice([[item], [item], [], [direction["id"], 0.01]])
        if draw.random() < 0.1 and direction["family"] == "emotion":
            body["readout"] = {"emotions": [direction["name"]]}
        prompt = draw.choice(_PROMPTS)
        if draw.random() < 0.7:
            return "/v1/chat/completions", body | {"messages": [{"role": "user", "content": prompt}]}
        return "/v1/completions", body | {"prompt": prompt}

    async def _valid(self) -> str:
        path, body = self._body()
        if self._draw.random() < 0.5:
            answer = await self._http.post(path, json=body)
            whole = answer.status_code == 200 and answer.json()["choices"][0]["finish_reason"] in ("stop", "length")
        else:
            answer = await self._http.post(path, json=body | {"stream": True})
            whole = (
                answer.status_code == 200 and answer.text.endswith("data: [DONE]\n\n") and "error" not in answer.text
            )
        if not whole:
            self.unanswered.append(f"{answer.status_code}: {answer.text[-300:]}")
        return str(answer.status_code)

    async def _of_document(self) -> str:
        request = self._draw.choice(self._generated)
        return str((await self._http.request(**request)).status_code)

    async def _post(self, content: Any, **headers: str) -> str:
        path = self._draw.choice(["/v1/completions", "/v1/chat/completions"])
        return str((await self._http.post(path, content=content, headers=_JSON | headers)).status_code)

    async def _wrong_key(self) -> str:
        path, body = self._body()
        wrong = self._draw.choice(["Bearer x", "Basic x", "Bearer " + "k" * 5000])
        return str((await self._http.post(path, json=body, headers={"authorization": wrong})).status_code)

    async def _huge(self) -> str:
        async def pieces() -> Any:
            for _ in range(40):
                yield b" " * 65_536

        return await self._post(self._draw.choice([b'{"prompt": "' + b"a" * 3_000_000 + b'"}', pieces()]))

    async def _other_site(self) -> str:
        path, body = self._body()
        headers = self._draw.choice([{"origin": "http://evil.example"}, {"origin": "null"}, {"host": "evil.example"}])
        return str((await self._http.post(path, json=body, headers=headers)).status_code)

    async def _wrong_path(self) -> str:
        method = self._draw.choice(["GET", "PUT", "DELETE", "PATCH", "OPTIONS"])
        path = self._draw.choice(["/v1/chat/completions", "/v1/nothing", "/%00", "/v1/models/../x", "/" + "a" * 4000])
        return str((await self._http.request(method, path)).status_code)

    async def _open(self, body: dict[str, Any], path: str, part: float = 1.0) -> tuple[Any, Any, bytes]:
        """A connection on which a request was sent, or `part` of its body; and the rest of that."""
        reader, writer = await asyncio.open_connection(self._host, self._port, limit=2**16)
        content = json.dumps(body).encode()
        lines = [
            f"POST {path} HTTP/1.1",
            f"Host: {self._host}:{self._port}",
            "Content-Type: application/json",
            f"Authorization: Bearer {self._server.key}",
            f"Content-Length: {len(content)}",
        ]
        cut = int(len(content) * part)
        writer.write("\r\n".join([*lines, "", ""]).encode() + content[:cut])
        await writer.drain()
        return reader, writer, content[cut:]

    async def _hang_up(self, before: bool = False) -> str:
        path, body = self._body(MANY_TOKENS)
        reader, writer, _ = await self._open(body | {"stream": True}, path)
        try:
            if before:
                await asyncio.sleep(self._draw.uniform(0, 0.2))
                return "left"
            status = (await reader.readline()).split()[1].decode()
            await asyncio.wait_for(reader.readuntil(b"data: "), _PATIENCE_S)
            return status if status != "200" else "left"
        finally:
            writer.transport.abort()

    async def _read_slowly(self) -> str:
        path, body = self._body(MANY_TOKENS)
        reader, writer, _ = await self._open(body | {"stream": True}, path)
        end = time.monotonic() + _SLOW_S
        try:
            while time.monotonic() < end and await reader.read(16):
                await asyncio.sleep(0.1)
            return "left"
        finally:
            writer.transport.abort()

    async def _send_slowly(self) -> str:
        path, body = self._body()
        patient, self._patient = self._patient > 0, self._patient - 1
        end = time.monotonic() + (_PATIENCE_S if patient else _SLOW_S)
        reader, writer, rest = await self._open(body | {"user": "u" * 10_000}, path, 0.5)
        try:
            for byte in rest:
                writer.write(bytes([byte]))
                await writer.drain()
                with suppress(TimeoutError):
                    return (await asyncio.wait_for(reader.readline(), 0.1)).split()[1].decode()
                if time.monotonic() > end:
                    break
            return "left"
        except IndexError:
            return "cut"
        finally:
            writer.transport.abort()


def _generate(document: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """Requests that schemathesis makes of `document`, within its bounds and outside them."""
    made: list[dict[str, Any]] = []

    def keep(case: Any) -> None:
        sent = case.as_transport_kwargs(base_url="http://localhost")
        headers = {key: value for key, value in dict(sent.get("headers") or {}).items() if _sendable(key, value)}
        request = {"method": sent["method"], "url": sent["url"].removeprefix("http://localhost"), "headers": headers}
        request["params"] = sent.get("params") or None
        if isinstance(body := sent.get("json"), dict):
            for name, most in (("max_tokens", TOKENS), ("max_completion_tokens", TOKENS), ("n", 2)):
                if isinstance(body.get(name), int | float) and body[name] > most:
                    body[name] = most
            # One that is left out is hundreds.
            if "max_completion_tokens" not in body:
                body.setdefault("max_tokens", TOKENS)
        with suppress(TypeError, ValueError):
            if "json" in sent:
                request["content"] = json.dumps(sent["json"]).encode()
                request["headers"] = _JSON | headers
            elif isinstance(sent.get("data"), str | bytes):
                request["content"] = sent["data"]
            made.append(request)

    settings = hypothesis.settings(
        deadline=None,
        database=None,
        derandomize=True,
        max_examples=count // 2,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    modes = schemathesis.GenerationMode
    for found in schemathesis.openapi.from_dict(document).get_all_operations():
        operation = found.ok()
        if operation.method == "post":
            for mode in (modes.POSITIVE, modes.NEGATIVE):
                settings(hypothesis.given(operation.as_strategy(generation_mode=mode))(keep))()
    return made


def _sendable(key: str, value: str) -> bool:
    return key.lower() not in ("authorization", "host", "content-length") and f"{key}{value}".isascii()


async def run(options: argparse.Namespace, server: Server) -> dict[str, Any]:
    limits = httpx2.Limits(max_connections=options.at_once)
    headers = {"authorization": f"Bearer {server.key}"} if server.key else {}
    async with httpx2.AsyncClient(
        base_url=server.url, headers=headers, timeout=_PATIENCE_S * 5, limits=limits, trust_env=False
    ) as http:
        campaign = Campaign(server, http, options.seed)
        await campaign.prepare(options.requests)
        draw = random.Random(options.seed)  # noqa: S311
        kinds = draw.choices(list(SHARES), list(SHARES.values()), k=options.requests)
        # The first requests make what is made once.
        for _ in range(10):
            await campaign.send("valid")
        memory = {"before": server.megabytes}
        started = time.monotonic()
        queue = iter(enumerate(kinds))

        async def client() -> None:
            for number, kind in queue:
                await campaign.send(kind)
                if number % max(1, options.requests // 10) == 0 and number:
                    memory[f"after {number}"] = server.megabytes
                    sys.stderr.write(f"{number} requests, {time.monotonic() - started:.0f} s\n")

        await asyncio.gather(*(client() for _ in range(options.at_once)))
        seconds = time.monotonic() - started
        left = {"running": -1.0, "waiting": -1.0}
        for _ in range(60):
            left = _left((await http.get("/metrics")).text)
            if not any(left.values()):
                break
            await asyncio.sleep(0.5)
        return {
            "requests": options.requests,
            "seconds": round(seconds, 1),
            "statuses": {kind: dict(sorted(counts.items())) for kind, counts in campaign.statuses.items()},
            "megabytes": memory | {"at the end": server.megabytes},
            "afterwards": left,
            "valid_not_answered": len(campaign.unanswered),
            "answered_by_5xx": len(campaign.failures),
            "examples": (campaign.unanswered + campaign.failures)[:10],
        }


def _left(text: str) -> dict[str, float]:
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    return {name: float(values[f"affectome_requests_{name}"]) for name in ("running", "waiting")}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--at-once", type=int, default=48)
    parser.add_argument("--url", help="ask this server instead of starting one")
    parser.add_argument("--seed", type=int, default=0)
    options, others = parser.parse_known_args()
    server = Server(options.url, others)
    try:
        found = asyncio.run(run(options, server))
    finally:
        ended = server.stop()
    found["seconds_to_end_and_exit_status"] = ended
    sys.stdout.write(json.dumps(found, indent=1) + "\n")
    return int(bool(found["valid_not_answered"] or found["answered_by_5xx"]))


if __name__ == "__main__":
    sys.exit(main())
