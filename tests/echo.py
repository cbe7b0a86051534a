"""An engine that says what it was asked, word by word: for tests of the server in front of engines."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from affectome.serve.backend import DEFAULT_TOKENS, READOUT, Kind
from affectome.serve.plan import Plan, Readout, Refused


class Echo:
    """Writes the prompt's words over and over, `pause` seconds each, and knows what became of every generation.

    A prompt of one word may ask for trouble: `refuse`, `fail` (at once) or `break` (after two tokens).
    """

    name = "echo"

    def __init__(self, pause: float = 0.0, width: int = 1) -> None:
        self.pause, self.width = pause, width
        self.open = self.begun = self.written = 0
        self.well = True
        self.started = self.stopped = False
        self.asked: list[tuple[Kind, dict[str, Any], Plan, Readout | None]] = []

    async def start(self) -> None:
        self.started = True

    async def stop(self) -> None:
        self.stopped = True

    async def healthy(self) -> bool:
        return self.well

    async def complete(self, kind: Kind, body: dict[str, Any], plan: Plan, readout: Readout | None) -> dict[str, Any]:
        self.asked.append((kind, body, plan, readout))
        options = {"stream_options": {"include_usage": True}}
        chunks = [chunk async for chunk in self._write(kind, body | options, readout)]
        texts = ["" for _ in range(body.get("n", 1))]
        tokens, values = [], []
        for chunk in chunks:
            for choice in chunk["choices"]:
                texts[choice["index"]] += choice["text"] if kind == "text" else choice["delta"].get("content", "")
                tokens += choice.get("tokens", ())
            values += chunk.get("readout", {}).get("values", ())
        if kind == "text":
            choices = [{"index": i, "text": text, "finish_reason": "length"} for i, text in enumerate(texts)]
        else:
            choices = [
                {"index": i, "message": {"role": "assistant", "content": text}, "finish_reason": "length"}
                for i, text in enumerate(texts)
            ]
        name = "text_completion" if kind == "text" else "chat.completion"
        reply = {"id": "echo", "object": name, "created": 1, "model": body["model"], "choices": choices}
        if readout:
            reply["readout"] = {"tokens": tokens, "values": [*values, None]}
        return reply | {"usage": chunks[-1]["usage"]}

    def stream(
        self, kind: Kind, body: dict[str, Any], plan: Plan, readout: Readout | None
    ) -> AsyncIterator[dict[str, Any]]:
        self.asked.append((kind, body, plan, readout))
        return self._write(kind, body, readout)

    async def _write(self, kind: Kind, body: dict[str, Any], readout: Readout | None) -> AsyncIterator[dict[str, Any]]:
        prompt = str(body["prompt"]) if kind == "text" else body["messages"][-1]["content"]
        # Long ones would be a long reply to a short request.
        words = [word[:100] for word in prompt.split()] or ["nothing"]
        if words == ["refuse"]:
            raise Refused(400, "the prompt is too long", "messages", "context_length_exceeded")
        self.open += 1
        self.begun += 1
        try:
            for number in range(body.get("max_tokens", DEFAULT_TOKENS)):
                # As engines do: nothing is written in no time.
                await asyncio.sleep(self.pause)
                if words == ["fail"] or (words == ["break"] and number == 2):
                    raise RuntimeError("secret of the engine")
                text = words[number % len(words)] * self.width + " "
                self.written += 1
                for index in range(body.get("n", 1)):
                    yield self._chunk(kind, body, index, text, bool(readout))
                if readout and number:
                    values = [[float(direction) for direction in readout.directions]]
                    yield {"object": READOUT, "choices": [], "readout": {"first": number - 1, "values": values}}
            if body.get("stream_options", {}).get("include_usage"):
                count = body.get("max_tokens", DEFAULT_TOKENS) * body.get("n", 1)
                usage = {
                    "prompt_tokens": len(words),
                    "completion_tokens": count,
                    "total_tokens": count + len(words),
                }
                yield self._chunk(kind, body, None, "", False) | {"usage": usage}
        finally:
            self.open -= 1

    def _chunk(self, kind: Kind, body: dict[str, Any], index: int | None, text: str, tokens: bool) -> dict[str, Any]:
        name = "text_completion" if kind == "text" else "chat.completion.chunk"
        written = {"text": text} if kind == "text" else {"delta": {"role": "assistant", "content": text}}
        choice = {"index": index, "finish_reason": None} | written | ({"tokens": [text]} if tokens else {})
        choices = [] if index is None else [choice]
        return {"id": "echo", "object": name, "created": 1, "model": body["model"], "choices": choices}
