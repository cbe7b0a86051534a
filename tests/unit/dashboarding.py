"""What tests of the dashboard share: an engine that is fast, deterministic and hostile, and a server on a port."""

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn

from affectome.serve.app import create_app
from affectome.serve.backend import READOUT, Kind
from affectome.serve.catalogue import Catalogue, Direction
from affectome.serve.dashboard import mount
from affectome.serve.plan import Plan, Readout, Refused
from affectome.serve.service import Service

DIRECTIONS = (
    Direction("calm", "emotion", (-0.2, 0.3), measured=True, reliability=0.9),
    Direction("afraid", "emotion"),
    Direction("proud", "emotion", (0.0, 0.1), measured=True),
    Direction("sad", "emotion"),
    Direction("refusal", "refusal"),
    Direction("random:0", "random"),
)
PLACES = {"calm": (2.0, 1.0), "afraid": (-2.0, 1.0), "proud": (1.0, -1.5), "sad": (-1.0, -0.5)}
REFUSED = "refuse this"
WORDS = ("The", " harbour", " was", " quiet", ",", " and", " nobody", " minded", " rain", ".\n\n", " Then", " lamps")


def small_catalogue() -> Catalogue:
    """Six directions of no model; nothing of the dashboard looks at their numbers."""
    units = {layer: np.eye(len(DIRECTIONS), dtype=np.float32) for layer in (1, 2)}
    stored = {layer: np.ones(len(DIRECTIONS)) for layer in units}
    return Catalogue(
        "small run",
        "tiny",
        Path("tiny"),
        3,
        6,
        2,
        dict.fromkeys(units, 10.0),
        DIRECTIONS,
        units,
        stored,
        PLACES,
        (0.6, 0.25),
    )


class Scripted:
    """Draws words from the request's seed and plan, a token every `pause_s`; a prompt in quotes is echoed first."""

    name = "scripted"

    def __init__(self, pause_s: float = 0.002) -> None:
        self.pause_s = pause_s
        self.running = 0
        self.bodies: list[dict[str, Any]] = []

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        pass

    async def healthy(self) -> bool:
        return True

    def tokens(self, body: dict[str, Any], plan: Plan) -> list[str]:
        drift = sum(length for change in plan for _, length in change.lengths)
        rng = np.random.default_rng([body["seed"], round(abs(drift) * 1000), int(drift < 0)])
        said = body["messages"][-1]["content"]
        echoed = [said.strip('"')] if said.startswith('"') else []
        drawn = rng.integers(len(WORDS), size=body["max_tokens"])
        return (echoed + [WORDS[n] for n in drawn])[: body["max_tokens"]]

    async def complete(self, kind: Kind, body: dict[str, Any], plan: Plan, readout: Readout | None) -> dict[str, Any]:  # noqa: ARG002
        text = "".join(self.tokens(body, plan))
        return self._reply("chat.completion", {"message": {"role": "assistant", "content": text}}, body)

    async def stream(
        self,
        kind: Kind,  # noqa: ARG002
        body: dict[str, Any],
        plan: Plan,
        readout: Readout | None,
    ) -> AsyncIterator[dict[str, Any]]:
        if body["messages"][-1]["content"] == REFUSED:
            raise Refused(400, "the prompt is too long: 9 tokens, at most 8")
        self.bodies.append(body)
        self.running += 1
        try:
            tokens = self.tokens(body, plan)
            for number, token in enumerate(tokens):
                await asyncio.sleep(self.pause_s)
                choice: dict[str, Any] = {"delta": {"content": token}}
                if readout:
                    choice["tokens"] = [token]
                yield self._reply("chat.completion.chunk", choice, None)
                if readout and number:
                    row = [0.05 * float(np.sin(number - 1 + one)) for one in readout.directions]
                    yield {"object": READOUT, "choices": [], "readout": {"first": number - 1, "values": [row]}}
            yield self._reply("chat.completion.chunk", {"delta": {}, "finish_reason": "length"}, None)
            yield {"object": "chat.completion.chunk", "choices": [], "usage": {"completion_tokens": len(tokens)}}
        finally:
            self.running -= 1

    def _reply(self, form: str, choice: dict[str, Any], body: dict[str, Any] | None) -> dict[str, Any]:
        reply = {
            "id": "reply",
            "object": form,
            "created": 0,
            "model": "tiny",
            "choices": [{"index": 0, "finish_reason": None} | choice],
        }
        if body:
            reply["choices"][0]["finish_reason"] = "length"
            reply["usage"] = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        return reply


@contextlib.contextmanager
def serving(service: Service, dashboard: bool = True) -> Iterator[str]:
    """The server, with its dashboard or without, in a thread of its own; gives its address."""
    app = create_app(service)
    if dashboard:
        mount(app, service)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        config = uvicorn.Config(app, log_level="error", proxy_headers=False)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.02)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        thread.join(20)
