"""What the server asks of an engine: OpenAI's requests in, OpenAI's replies out, a plan beside each."""

from collections.abc import AsyncIterator
from typing import Any, Literal, Protocol

from affectome.serve.plan import Plan, Readout

Kind = Literal["chat", "text"]
READOUT = "affectome.readout"
DEFAULT_TOKENS = 512


def prompts_of(prompt: str | list) -> list:
    """What a completion's `prompt` asks to continue, each a text or its tokens: OpenAI takes one of them or several."""
    return [prompt] if isinstance(prompt, str) or isinstance(prompt[0], int) else prompt


class Backend(Protocol):
    """An engine that batches requests of which each has a plan of its own.

    `body` is a validated request of OpenAI's `/v1/chat/completions` (kind `chat`) or `/v1/completions` (`text`). Both
    calls raise Refused for what the engine cannot do; cancelling `complete`, or closing what `stream` returns, ends the
    generation and frees its place. A reply for which `body` has no `max_tokens` may be of DEFAULT_TOKENS, or of as
    many as its prompt leaves of the model's context.

    With a readout, for which `n` is 1, chunks with text have `choices[0]["tokens"]`, the texts of their tokens, and
    chunks of object `affectome.readout`, without choices, have `readout: {first, values}`: the values, one for each
    direction, of generated token number `first` and those after it. `complete` adds `readout: {tokens, values}`, with
    None for a token that the model wrote but has not read.
    """

    name: str

    async def start(self) -> None:
        """Load the model; UserError where that fails."""

    async def stop(self) -> None:
        """End what runs and free everything."""

    async def healthy(self) -> bool: ...

    async def complete(self, kind: Kind, body: dict[str, Any], plan: Plan, readout: Readout | None) -> dict[str, Any]:
        """The whole reply, with its usage."""

    def stream(
        self, kind: Kind, body: dict[str, Any], plan: Plan, readout: Readout | None
    ) -> AsyncIterator[dict[str, Any]]:
        """The reply chunk by chunk; a last one with the usage where `stream_options.include_usage` asks for it."""
