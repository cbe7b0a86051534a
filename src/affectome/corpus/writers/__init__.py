"""Writers of texts: what every language model that writes for a corpus is given, and what it hands back.

A writer has a `name`, kept in the corpus beside each text, and one method `write`. Each kind has a module of its own,
imported only when it is used, so that its packages are needed only then.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Request:
    """One text to be written; `seed` (31 bits) is the one to sample with."""

    id: str
    prompt: str
    seed: int


@dataclass(frozen=True)
class Reply:
    """What came of a request: the text, or None where it was given up; and why each failed attempt failed, in order."""

    id: str
    text: str | None
    failures: tuple[str, ...]


class Writer(Protocol):
    """A language model that writes."""

    name: str

    def write(self, requests: Sequence[Request], keep: Callable[[Reply], None]) -> None:
        """Hand `keep` one reply per request as it arrives, in any order; what `keep` raises ends the writing.

        Raises UserError where nothing can be written: a missing or refused key, an unknown model, a missing package.
        """


def writer_for(spec: dict[str, Any]) -> Writer:
    """The writer described by `corpora.*.writer`."""
    from affectome.corpus.writers.gemini import Gemini

    return Gemini(**spec)
