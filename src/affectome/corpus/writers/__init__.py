"""Writers of texts: what every language model that writes for a corpus is given, and what it hands back.

A writer has a `name`, kept in the corpus beside each text, and one method `write`. Each kind has a module of its own,
imported only when it is used, so that its packages are needed only then.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from affectome.identity import fingerprint


@dataclass(frozen=True)
class Request:
    """One reply to be asked for.

    `seed` (31 bits) is the one to sample with; `texts` is how many texts the reply holds, as a list where it is more
    than one; `max_tokens` is the longest reply, None for as long as the model likes.
    """

    id: str
    prompt: str
    seed: int
    texts: int = 1
    max_tokens: int | None = None


@dataclass(frozen=True)
class Reply:
    """What came of a request.

    `texts` are as many as were asked for, or none where `problem` says why the answer is of no use ("finish reason
    SAFETY") or why there was none at all: then `answered` is False. `read` and `written` count the tokens that were
    paid for, thoughts among them; `failures` says why each earlier attempt was not answered, in order.
    """

    id: str
    texts: tuple[str, ...] = ()
    problem: str = ""
    answered: bool = True
    read: int = 0
    written: int = 0
    failures: tuple[str, ...] = ()

    @property
    def text(self) -> str | None:
        """The text of a reply to a request for one."""
        return self.texts[0] if self.texts else None


Keep = Callable[[Reply], Iterable[Request]]


class Purse(Protocol):
    """What decides whether a further request can be paid for."""

    def allow(self, under_way: int) -> bool:
        """Whether one more request may be sent while `under_way` are not answered yet."""

    def exhausted(self) -> Exception:
        """What to raise, once what was under way has been kept, because the answer was no."""


class Writer(Protocol):
    """A language model that writes."""

    name: str

    def write(self, requests: Sequence[Request], keep: Keep, purse: Purse | None = None) -> None:
        """Hand `keep` one reply per request as it arrives, in any order, and go on with the requests it returns.

        What `keep` raises ends the writing. Raises UserError where nothing can be written: a missing or refused key,
        an unknown model, a missing package, an exhausted `purse`.
        """


def persistent(requests: Sequence[Request], keep: Callable[[Reply], None], attempts: int) -> Keep:
    """Hand `keep` a reply per request of which texts came, or what the last of `attempts` said.

    An answer without use is asked for again with the next seed, as the same seed would likely give it again.
    """
    asked = {request.id: request for request in requests}
    turns = dict.fromkeys(asked, 1)
    problems: dict[str, tuple[str, ...]] = dict.fromkeys(asked, ())

    def kept(reply: Reply) -> Iterable[Request]:
        problems[reply.id] += reply.failures
        if reply.answered and not reply.texts:
            problems[reply.id] += (reply.problem,)
            if turns[reply.id] < attempts:
                turns[reply.id] += 1
                asked[reply.id] = replace(asked[reply.id], seed=next_seed(asked[reply.id].seed))
                return [asked[reply.id]]
        keep(replace(reply, failures=problems[reply.id]))
        return []

    return kept


def request_key(request: Request, writer: Any) -> str:
    """What identifies the reply to `request` of a `writer` (JSON-like: model and sampling)."""
    return fingerprint([writer, request.prompt, request.seed, request.texts, request.max_tokens])


def next_seed(seed: int, turns: int = 1) -> int:
    """The seed to sample with when a text is asked for once more."""
    return (seed + turns) % 2**31


def writer_for(spec: dict[str, Any], manner: dict[str, Any]) -> Writer:
    """The writer that `corpora.*.writer` describes, in two parts.

    `spec` decides what is written (which model, how it samples), `manner` how it is asked (how fast, at which address).
    """
    if "gemini" in spec:
        from affectome.corpus.writers.gemini import Gemini

        return Gemini(**spec, **manner)
    if "openai" in spec:
        from affectome.corpus.writers.openai import OpenAI

        return OpenAI(**spec, **manner)
    from affectome.corpus.writers.local import Local

    return Local(**spec, **manner)
