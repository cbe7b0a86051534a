"""Services that write, for tests: they speak Gemini's and OpenAI's protocols over real HTTP, and give planned trouble.

What they write is a function of prompt and seed. So is trouble with an answer (blocked, cut short, repeated): whoever
asks for the same gets the same, however often a test interrupts it. Trouble with a connection is a function of the
request's number, so that asking again helps. `python -m tests.fakes gemini --trouble 0.3` serves in a process of its
own and prints its port; `statistics` asks such a service what it has seen, and `hold` lets it answer so many requests
and no more.
"""

import argparse
import hashlib
import json
import math
import random
import re
import select
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from typing import Any
from urllib.parse import parse_qs, urlsplit
from urllib.request import urlopen

KEY = "AIza/of+a=fakeservice"

# Status, content, headers.
Answer = tuple[int, Any, dict[str, str]]

# Trouble on the way: the request is answered with an error, late, or not to the end.
ON_THE_WAY = ("429", "429 retry after", "500", "503", "hang", "reset", "cut body")

# Trouble with the answer: it comes whole and is paid for, and is of no use.
WITH_THE_ANSWER = ("blocked", "empty", "cut short", "repeated")

_NAMES = ["Marta", "Tomas", "Ines", "Pavel", "Greta", "Oskar", "Lena", "Viktor", "Nadia", "Emil", "Rosa", "Anton"]
_PLACES = ["kitchen", "station", "orchard", "library", "harbour", "workshop", "garden", "office", "market", "attic"]
_THINGS = ["ladder", "basket", "lamp", "bicycle", "notebook", "kettle", "parcel", "window", "coat", "radio", "broom"]
_DEEDS = ["carried", "cleaned", "moved", "counted", "repaired", "turned", "lifted", "wrapped", "painted", "opened"]
_TIMES = ["before noon", "after the rain", "that evening", "on the way home", "at six", "in the first light"]
_SENTENCES = [
    "{name} {deed} the {thing} in the {place} {time}.",
    "Nobody had seen the {thing} since {other} {deed} it near the {place}.",
    "There were {number} steps to the {place}, and {name} took them with the {thing} under one arm.",
    "{other} asked about the {thing}, and {name} pointed to the {place} without a word.",
    "By the time the {place} was dark, {number} people had {deed} a {thing}.",
    "The {thing} stood where {other} had left it, {number} paces from the {place}.",
]


def text_of(prompt: str, seed: int, number: int = 0) -> str:
    """About a hundred words of English that no other prompt, seed or number has; a dialogue where that is asked for."""
    draw = random.Random(f"{prompt}/{seed}/{number}")

    def sentence() -> str:
        return draw.choice(_SENTENCES).format(
            name=draw.choice(_NAMES),
            other=draw.choice(_NAMES),
            place=draw.choice(_PLACES),
            thing=draw.choice(_THINGS),
            deed=draw.choice(_DEEDS),
            time=draw.choice(_TIMES),
            number=draw.randint(3, 999),
        )

    if "Person:" in prompt:
        return "\n\n".join(f"{who}: {sentence()} {sentence()}" for _ in range(3) for who in ("Person", "AI"))
    return " ".join(sentence() for _ in range(8))


class Service(ThreadingHTTPServer):
    """What both services share: the key, the trouble, and a count of everything.

    `trouble` is the share of requests that meet some; of these a part is trouble on the way, drawn by `seed` and the
    request's number, the rest trouble with the answer, drawn by `seed`, prompt and the request's own seed. A request
    that hangs takes `hang` seconds. `wrong` overrides all that: a function of the request's number that returns
    (status, content, headers), or None for the usual. `requests` are what was posted: path, body, headers and moment.
    """

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, handler: type["Handler"], key: str, trouble: float, seed: int, hang: float, port: int) -> None:
        super().__init__(("127.0.0.1", port), handler)
        self.key, self.trouble, self.seed, self.hang = key, trouble, seed, hang
        self.wrong: Callable[[int], Answer | None] = lambda _: None
        self.delay = 0.0
        self.lock = threading.Lock()
        self.most = math.inf
        self.more = threading.Condition()
        self.asked: Counter[tuple[str, int]] = Counter()
        self.usable: Counter[tuple[str, int]] = Counter()
        self.unusable: Counter[tuple[str, int]] = Counter()
        self.troubles: Counter[str] = Counter()
        self.arrivals: list[float] = []
        self.requests: list[tuple[str, Any, dict[str, str], float]] = []
        self.number = self.under_way = self.most_under_way = 0

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, *_: Any) -> None:
        """A client that hung up, as interrupted ones do, is no error of the server."""

    def on_the_way(self, number: int) -> str:
        """The trouble that request `number` meets before it is answered, or ""."""
        return self._drawn(ON_THE_WAY, "way", number)

    def with_the_answer(self, prompt: str, seed: int) -> str:
        """What is wrong with the answer to `prompt` and `seed`, or ""."""
        return self._drawn(WITH_THE_ANSWER, "answer", prompt, seed)

    def _drawn(self, kinds: tuple[str, ...], *item: Any) -> str:
        draw = random.Random("/".join(map(str, (self.seed, *item))))
        share = self.trouble * len(kinds) / len(ON_THE_WAY + WITH_THE_ANSWER)
        return draw.choice(kinds) if draw.random() < share else ""

    def texts(self, prompt: str, seed: int, several: bool, repeated: bool) -> list[str]:
        """The texts of an answer; those of a `repeated` one are also those of others."""
        count = int(found[1]) if several and (found := re.search(r"\b(\d+) (?:very short )?stories", prompt)) else 1
        if repeated:
            prompt, seed = prompt if "Person:" in prompt else "", seed % 5
        return [text_of(prompt, seed, number) for number in range(count)]

    def hold(self, most: float) -> None:
        """Let requests wait from here on, but for the first `most` ever."""
        with self.more:
            self.most = most
            self.more.notify_all()

    def statistics(self) -> dict[str, Any]:
        with self.lock:
            counts = {
                name: [[*pair, count] for pair, count in getattr(self, name).items()]
                for name in ("asked", "usable", "unusable")
            }
            return {
                **counts,
                "troubles": dict(self.troubles),
                "arrivals": self.arrivals,
                "most_under_way": self.most_under_way,
            }


class Handler(BaseHTTPRequestHandler):
    """Reads a request, gives it its trouble, and sends what a subclass answers."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1
    server: Service

    def do_GET(self) -> None:
        if self.path == "/statistics":
            self._send(200, self.server.statistics(), {})
        elif self.path.startswith("/hold/"):
            self.server.hold(float(self.path.removeprefix("/hold/")))
            self._send(200, None, {})
        else:
            self._serve(None)

    def do_POST(self) -> None:
        self._serve(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def _serve(self, body: Any) -> None:
        server = self.server
        with server.lock:
            server.arrivals.append(time.time())
            server.number += 1
            number = server.number
            if body is not None:
                server.requests.append((self.path, body, dict(self.headers), time.monotonic()))
            server.under_way += 1
            server.most_under_way = max(server.most_under_way, server.under_way)
        time.sleep(server.delay)
        with server.more:
            server.more.wait_for(lambda: number <= server.most)
        answer, usable, trouble = self._decided(number, body)
        if not trouble and self._deserted():
            usable, trouble = None, "deserted"
        # Before it is answered: the client may send the next request sooner than this thread goes on. One that hangs
        # is no longer counted either, as nobody knows when the client gives it up.
        with server.lock:
            server.under_way -= 1
            server.troubles[trouble] += bool(trouble)
        self.count(body, usable)
        self.close_connection |= trouble in ("hang", "reset", "cut body", "deserted")
        if trouble == "hang":
            select.select([self.connection], [], [], server.hang)
        elif trouble == "reset":
            # With a linger of 0 the connection is closed by a reset.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        else:
            self._send(*answer, cut=trouble == "cut body")

    def _decided(self, number: int, body: Any) -> tuple[Answer, bool | None, str]:
        """What is sent, whether it is of use (None where it is no answer), and the trouble on its way."""
        if (given := self.given_key()) != self.server.key:
            return self.refusal(given), None, ""
        if wrong := self.server.wrong(number) or self.impossible():
            return wrong, None, ""
        trouble = self.server.on_the_way(number)
        if trouble[:3].isdigit():
            return self.error(trouble), None, trouble
        content, usable = self.reply(body)
        return (200, content, {}), None if trouble else usable, trouble

    def _deserted(self) -> bool:
        """Whether the client has hung up: it was killed, or waited for too long on a busy machine."""
        readable, _, _ = select.select([self.connection], [], [], 0)
        try:
            return bool(readable) and not self.connection.recv(1, socket.MSG_PEEK)
        except ConnectionError:
            return True

    def count(self, body: Any, usable: bool | None) -> None:
        """Count a request for a text, and its answer."""
        raise NotImplementedError

    def reply(self, body: Any) -> tuple[Any, bool]:
        """What is answered, and whether it is of use."""
        raise NotImplementedError

    def impossible(self) -> Answer | None:
        """What to say to a request for what there is not."""

    def given_key(self) -> str:
        raise NotImplementedError

    def refusal(self, given: str) -> Answer:
        raise NotImplementedError

    def error(self, trouble: str) -> Answer:
        raise NotImplementedError

    def noted(self, pair: tuple[str, int], usable: bool | None) -> None:
        with self.server.lock:
            self.server.asked[pair] += 1
            if usable is not None:
                (self.server.usable if usable else self.server.unusable)[pair] += 1

    def _send(self, status: int, content: Any, headers: dict[str, str], cut: bool = False) -> None:
        """Send `content` as JSON, where it is `cut` only its first half."""
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if cut else data)

    def log_message(self, *_: Any) -> None:
        """Silence."""


class GeminiService(Service):
    """A fake Gemini API: generateContent, and batch jobs.

    A batch job is pending for `pending` seconds, then running for as long, and then ends: `ending`, a function of the
    job's number, says in which state. At most `most_jobs` may be under way. Its responses come in another order than
    its requests and carry their `metadata`, unless `ordered`: then neither.
    """

    def __init__(self, key: str = KEY, trouble: float = 0.0, seed: int = 0, hang: float = 3.0, port: int = 0) -> None:
        super().__init__(GeminiHandler, key, trouble, seed, hang, port)
        self.jobs: dict[str, dict[str, Any]] = {}
        self._numbers = count()
        self.pending = 0.05
        self.ending: Callable[[int], str] = lambda _: "SUCCEEDED"
        self.failure = {"code": 3, "message": "the batch is not to our liking"}
        self.most_jobs = 100
        self.ordered = False
        self.polls: Counter[str] = Counter()

    def submit(self, batch: dict[str, Any], handler: "GeminiHandler") -> dict[str, Any]:
        """Take a batch job; it is answered at once, and told later."""
        with self.lock:
            number = next(self._numbers)
        requests = batch["inputConfig"]["requests"]["requests"]
        responses = [handler.batched(request, number, place) for place, request in enumerate(requests)]
        if not self.ordered:
            random.Random(number).shuffle(responses)
        job = {"name": f"batches/{number}", "label": batch["displayName"], "number": number, "responses": responses}
        job["since"] = time.monotonic()
        with self.lock:
            self.jobs[job["name"]] = job
        return self.operation(job, whole=False)

    def state(self, job: dict[str, Any]) -> str:
        waited = time.monotonic() - job["since"]
        if waited < self.pending:
            return "PENDING"
        return "RUNNING" if waited < 2 * self.pending else self.ending(job["number"])

    def operation(self, job: dict[str, Any], whole: bool = True) -> dict[str, Any]:
        state = self.state(job)
        metadata: dict[str, Any] = {"displayName": job["label"], "state": f"BATCH_STATE_{state}"}
        said = {"name": job["name"], "metadata": metadata, "done": state not in ("PENDING", "RUNNING")}
        if state == "FAILED":
            said["error"] = self.failure
        elif said["done"] and whole:
            found = job["responses"]
            if state != "SUCCEEDED":
                found = found[: len(found) // 2] if state == "PARTIALLY_SUCCEEDED" else []
            output = {"inlinedResponses": {"inlinedResponses": found}}
            metadata["output"] = said["response"] = output
        return said

    def full(self) -> bool:
        with self.lock:
            return sum(self.state(job) in ("PENDING", "RUNNING") for job in self.jobs.values()) >= self.most_jobs


class GeminiHandler(Handler):
    server: GeminiService

    def given_key(self) -> str:
        return str(self.headers["x-goog-api-key"])

    def refusal(self, given: str) -> Answer:
        reason = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}
        return 400, _google(400, "INVALID_ARGUMENT", f"API key not valid: {given}.", [reason]), {}

    def error(self, trouble: str) -> Answer:
        status = {"429": "RESOURCE_EXHAUSTED", "500": "INTERNAL", "503": "UNAVAILABLE"}[trouble[:3]]
        wait = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "0.02s"}
        details = [wait] if trouble == "429 retry after" else []
        headers = {"Retry-After": "0"} if trouble == "429 retry after" else {}
        return int(trouble[:3]), _google(int(trouble[:3]), status, "again, please", details), headers

    def count(self, body: Any, usable: bool | None) -> None:
        if self.path.endswith(":generateContent"):
            self.noted(_asked_of_gemini(body), usable)

    def impossible(self) -> Answer | None:
        path = urlsplit(self.path).path
        if path.endswith(":batchGenerateContent") and self.server.full():
            return 429, _google(429, "RESOURCE_EXHAUSTED", "too many batch jobs", []), {}
        if "/batches/" in path and self._job_name() not in self.server.jobs:
            return 404, _google(404, "NOT_FOUND", f"no {self._job_name()}", []), {}
        return None

    def reply(self, body: Any) -> tuple[Any, bool]:
        address = urlsplit(self.path)
        if address.path.endswith(":generateContent"):
            return self._written(body)
        if address.path.endswith(":batchGenerateContent"):
            return self.server.submit(body["batch"], self), True
        if address.path.endswith("/batches"):
            return self._listed(parse_qs(address.query)), True
        with self.server.lock:
            self.server.polls[self._job_name()] += 1
        return self.server.operation(self.server.jobs[self._job_name()]), True

    def _job_name(self) -> str:
        return f"batches/{urlsplit(self.path).path.rpartition('/')[2]}"

    def batched(self, item: dict[str, Any], job: int, place: int) -> dict[str, Any]:
        """The response of a batch job to one of its requests."""
        said = {} if self.server.ordered else {"metadata": item["metadata"]}
        trouble = self.server.on_the_way(f"{job}/{place}")  # type: ignore[arg-type]
        codes = {"429": 8, "429 retry after": 8, "500": 13, "503": 14, "hang": 4}
        if trouble in codes:
            self.noted(_asked_of_gemini(item["request"]), None)
            detail = {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": []}
            return {**said, "error": {"code": codes[trouble], "message": "again, please", "details": [detail]}}
        answer, usable = self._written(item["request"])
        self.noted(_asked_of_gemini(item["request"]), usable)
        return {**said, "response": answer}

    def _listed(self, query: dict[str, list[str]]) -> dict[str, Any]:
        jobs = list(self.server.jobs.values())[::-1]
        start = int(query.get("pageToken", ["0"])[0])
        size = min(int(query.get("pageSize", ["10"])[0]), 2)
        rest = {"nextPageToken": str(start + size)} if start + size < len(jobs) else {}
        return {"operations": [self.server.operation(job, whole=False) for job in jobs[start : start + size]], **rest}

    def _written(self, body: Any) -> tuple[dict[str, Any], bool]:
        prompt, seed = _asked_of_gemini(body)
        several = "responseSchema" in body["generationConfig"]
        trouble = self.server.with_the_answer(prompt, seed)
        texts = self.server.texts(prompt, seed, several, trouble == "repeated")
        text = json.dumps(texts) if several else texts[0]
        tokens = {"promptTokenCount": len(prompt) // 4, "candidatesTokenCount": len(text) // 4, "thoughtsTokenCount": 7}
        if trouble == "blocked":
            return {"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {"promptTokenCount": 9}}, False
        if trouble == "empty":
            return {"candidates": []}, False
        finish = "STOP"
        if trouble == "cut short":
            # Of a list, nothing but the text says that it was cut.
            text, finish = text[: len(text) // 2], "STOP" if several else "MAX_TOKENS"
        candidate = {"content": {"role": "model", "parts": [{"text": text}]}, "finishReason": finish}
        return {"candidates": [candidate], "usageMetadata": tokens}, not trouble


class OpenAIService(Service):
    """A fake of a service that speaks OpenAI's chat completions."""

    def __init__(self, key: str = KEY, trouble: float = 0.0, seed: int = 0, hang: float = 3.0, port: int = 0) -> None:
        super().__init__(OpenAIHandler, key, trouble, seed, hang, port)


class OpenAIHandler(Handler):
    def given_key(self) -> str:
        return (self.headers["Authorization"] or "").removeprefix("Bearer ")

    def refusal(self, given: str) -> Answer:
        return 401, {"error": {"message": f"Incorrect API key provided: {given}", "code": "invalid_api_key"}}, {}

    def error(self, trouble: str) -> Answer:
        headers = {"Retry-After": "0.02"} if trouble == "429 retry after" else {}
        return int(trouble[:3]), {"error": {"message": "again, please"}}, headers

    def count(self, body: Any, usable: bool | None) -> None:
        self.noted(_asked_of_openai(body), usable)

    def reply(self, body: Any) -> tuple[Any, bool]:
        prompt, seed = _asked_of_openai(body)
        several = "response_format" in body
        trouble = self.server.with_the_answer(prompt, seed)
        texts = self.server.texts(prompt, seed, several, trouble == "repeated")
        text = json.dumps({"texts": texts}) if several else texts[0]
        usage = {"prompt_tokens": len(prompt) // 4, "completion_tokens": len(text) // 4}
        finish = "stop"
        if trouble == "empty":
            return {"choices": [], "usage": usage}, False
        if trouble == "blocked":
            text, finish = "", "content_filter"
        if trouble == "cut short":
            text, finish = text[: len(text) // 2], "stop" if several else "length"
        return {"choices": [{"message": {"content": text}, "finish_reason": finish}], "usage": usage}, not trouble


class Relay(OpenAIService):
    """The same trouble on the way to a real service: `ask` is given what was asked and returns its answer."""

    def __init__(self, ask: Callable[[Any], Any], **settings: Any) -> None:
        super().__init__(**settings)
        self.ask = ask
        self.RequestHandlerClass = RelayHandler


class RelayHandler(OpenAIHandler):
    server: Relay

    def reply(self, body: Any) -> tuple[Any, bool]:
        return self.server.ask(body), True


def _google(code: int, status: str, message: str, details: list[Any]) -> dict[str, Any]:
    return {"error": {"code": code, "status": status, "message": message, "details": details}}


def _asked_of_gemini(body: Any) -> tuple[str, int]:
    return body["contents"][0]["parts"][0]["text"], body["generationConfig"]["seed"]


def _asked_of_openai(body: Any) -> tuple[str, int]:
    return body["messages"][0]["content"], body["seed"]


@contextmanager
def serving(service: Service) -> Iterator[Service]:
    """`service`, answering in threads of this process for the length of the block."""
    threading.Thread(target=service.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield service
    finally:
        service.shutdown()
        service.server_close()


def statistics(port: int) -> dict[str, Any]:
    """What the service in another process has seen; counts are by (digest of the prompt, seed)."""
    with urlopen(f"http://127.0.0.1:{port}/statistics", timeout=60) as response:
        found = json.load(response)
    for name in ("asked", "usable", "unusable"):
        found[name] = Counter({(_digest(prompt), seed): count for prompt, seed, count in found[name]})
    return found  # type: ignore[no-any-return]


def hold(port: int, most: float) -> None:
    """Let requests to the service in another process wait from here on, but for the first `most` ever."""
    urlopen(f"http://127.0.0.1:{port}/hold/{most}", timeout=60).close()


def _digest(prompt: str) -> str:
    return hashlib.sha256(prompt.encode()).hexdigest()[:16]


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("service", choices=["gemini", "openai"])
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--trouble", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--hang", type=float, default=3.0)
    parser.add_argument("--key", default=KEY)
    parser.add_argument("--delay", type=float, default=0.0, help="seconds that every answer takes")
    given = parser.parse_args()
    service = (GeminiService if given.service == "gemini" else OpenAIService)(
        given.key, given.trouble, given.seed, given.hang, given.port
    )
    service.delay = given.delay
    print(service.server_address[1], flush=True)  # noqa: T201 - what it is started for
    service.serve_forever(0.05)


if __name__ == "__main__":
    main()
