"""Two replies to one prompt, steered and not, as they come: what is drawn of them, and how fast."""

import asyncio
import time
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from affectome.serve.backend import READOUT
from affectome.serve.dashboard.elements import Reply
from affectome.serve.plan import Refused
from affectome.serve.service import Service


@dataclass
class Written:
    """What there is of a reply: texts of tokens, values by emotion of those that were read, and how it ended."""

    texts: list[str] = field(default_factory=list)
    values: list[tuple[int, list[list[float]]]] = field(default_factory=list)
    tokens: int = 0
    ended: str = ""
    started: float = 0.0
    latest: float = 0.0

    def take(self, chunk: dict[str, Any], now: float) -> None:
        if chunk.get("object") == READOUT:
            self.values.append((chunk["readout"]["first"], chunk["readout"]["values"]))
        for choice in chunk.get("choices", ()):
            text = (choice.get("delta") or {}).get("content") or ""
            texts = choice.get("tokens") or ([text] if text else [])
            if texts:
                self.started = self.started or now
                self.latest = now
                self.texts += texts
                self.tokens += len(texts)
            self.ended = choice.get("finish_reason") or self.ended
        # Chunks are of a token as a rule only; the engine knows.
        self.tokens = (chunk.get("usage") or {}).get("completion_tokens") or self.tokens

    def column(self, number: int) -> list[float]:
        """All values there are of one of the emotions that were read."""
        return [row[number] for _, rows in self.values for row in rows]

    @property
    def summary(self) -> str:
        """How much was written and how fast, from the first token to the last."""
        parts = [f"{self.tokens} token{'' if self.tokens == 1 else 's'}"]
        if self.tokens > 1 and self.latest > self.started:
            parts.append(f"{(self.tokens - 1) / (self.latest - self.started):.1f} tokens/s")
        said = {"length": "cut at max tokens", "stopped": "stopped", "failed": "failed"}.get(self.ended)
        return " · ".join([*parts, said] if said else parts)


class Side:
    """One of the two replies: its panel, what was written, and how much of that is drawn."""

    def __init__(self, panel: Reply, summarise: Callable[[str], None]) -> None:
        self._panel, self._summarise = panel, summarise
        self._painted: tuple[int | None, str, float] | None = None
        self.show(Written())

    def show(self, written: Written) -> None:
        """Draw `written` in place of what was there."""
        self.written = written
        self._texts = self._values = 0
        self._panel.clear_tokens()
        self.draw()

    def draw(self) -> None:
        """Draw what came since the last time."""
        written = self.written
        if texts := written.texts[self._texts :]:
            self._panel.append(texts)
            self._texts += len(texts)
        runs: list[tuple[int, list[list[float]]]] = []
        for first, rows in written.values[self._values :]:
            if runs and runs[-1][0] + len(runs[-1][1]) == first:
                runs[-1][1].extend(rows)
            else:
                runs.append((first, list(rows)))
        for first, rows in runs:
            self._panel.values(first, rows)
        self._values = len(written.values)
        self._summarise(written.summary if written.texts or written.ended else "")

    def paint(self, column: int | None, name: str, limit: float) -> None:
        """Colour by one of the emotions that were read, called `name`, up to `limit` residual norms."""
        if (column, name, limit) != self._painted:
            self._painted = column, name, limit
            self._panel.paint(column, name, limit)

    async def run(self, service: Service, body: dict[str, Any]) -> str | None:
        """Take the reply to `body` to its end; what went wrong, in words. Cancelling it ends the generation."""
        body = body | {"stream": True, "stream_options": {"include_usage": True}}
        try:
            async with aclosing(service.stream("chat", body)) as chunks:
                async for chunk in chunks:
                    self.written.take(chunk, time.monotonic())
        except Refused as refused:
            self.written.ended = "failed"
            return refused.message
        except asyncio.CancelledError:
            self.written.ended = "stopped"
            raise
        return None
