"""One job of a corpus that a language model writes: from the plan through prompts and replies to a table of texts.

Texts that do not pass the screening are asked for again, with another seed, until `attempts` have failed. Every reply
is kept as it arrives (`affectome.corpus.replies`), so an interrupted or failed job asks only for what it does not have
yet, and ends with the same table as one that was never interrupted.
"""

import logging
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from affectome.corpus.planning import NEUTRAL, Item, read_plan
from affectome.corpus.prompts import Prompt
from affectome.corpus.replies import Replies
from affectome.corpus.screening.duplicates import near_duplicates
from affectome.corpus.screening.rules import problem
from affectome.corpus.spending import Spending
from affectome.corpus.tables import as_corpus, clean, empty_corpus, write_corpus
from affectome.corpus.writers import Reply, Request, Writer, next_seed, writer_for
from affectome.errors import UserError
from affectome.files import write_json
from affectome.identity import fingerprint
from affectome.progress import progress

log = logging.getLogger(__name__)

# Answers without a text (blocked, empty, cut short) after which an item is given up.
MOST_UNUSABLE = 10

# Times that a service may leave an item unanswered, each after many tries, while it answers others.
MOST_UNANSWERED = 2

# A corpus that lacks more of its items than this for want of usable answers is not the corpus that was planned.
MOST_GIVEN_UP = 0.05

# The longest reply: small models run on, and some tokenizers need several tokens for a word.
TOKENS_PER_WORD = 2
SPARE_TOKENS = 60


def write_texts(
    output: str | Path,
    report: str | Path,
    plan: str | Path,
    neutral: bool,
    shard: int,
    prompts: dict[str, str],
    writer: dict[str, Any],
    attempts: int,
    stories_per_request: int,
    rules: dict[str, Any],
    manner: dict[str, Any],
    engine_log: str | Path = "vllm.log",
) -> None:
    """Write the texts of one job of `plan` as a corpus table, in the order of the plan, and what became of them (JSON).

    `prompts` are Jinja files by kind of item, `several` for more stories than one in a request; `writer` and `manner`
    are what and how of `corpora.*.writer` (see `writer_for`), `rules` is `corpora.*.screening`. The replies are kept in
    `.replies` beside the folder of `output`. Raises UserError where the writer cannot work, where money is used up, or
    where more than `MOST_GIVEN_UP` of the texts got no usable answer.
    """
    output = Path(output)
    items = read_plan(plan, neutral, shard)
    unit = "dialogues" if neutral else "stories"
    templates = {kind: Prompt(file) for kind, file in prompts.items()}
    # Where thoughts count as part of a reply, its length says nothing about the text's.
    limited = "gemini" not in writer
    desk = _Desk(items, templates, attempts, stories_per_request, rules, limited)
    folder = output.parent.parent / ".replies"
    manner = dict(manner)
    price, budget = manner.pop("price"), manner.pop("budget_usd")
    spending = Spending(folder, price, budget, manner["config_key"])
    start = time.monotonic()
    with Replies(folder, output.stem, writer) as replies:
        _Job(desk, replies, spending, unit).run(_open(writer, manner, engine_log, folder))
    account = {**_account(desk, price), "seconds": time.monotonic() - start}
    decided = [
        [asdict(item) for item in items],
        [prompt.text for prompt in templates.values()],
        writer,
        attempts,
        rules,
    ]
    origin = {
        "fingerprint": fingerprint(decided),
        "prompts": {kind: prompt.origin for kind, prompt in templates.items()},
    }
    write_corpus(_table(desk, _name(writer)), output)
    write_json(report, {"kind": "neutral" if neutral else "stories", **account, **origin})


def _name(writer: dict[str, Any]) -> str:
    kind = next(kind for kind in ("gemini", "openai", "local") if kind in writer)
    return f"{kind}:{writer[kind]}"


def _table(desk: "_Desk", writer: str) -> pd.DataFrame:
    rows = [
        {
            "emotion": state.item.emotion,
            "topic": state.item.topic,
            "text": state.text,
            "other": state.item.other_emotion,
        }
        for state in desk.states
        if state.text is not None
    ]
    if not rows:
        return empty_corpus()
    frame = pd.DataFrame(rows)
    table = as_corpus(frame, writer)
    return table.assign(other_emotion=frame["other"]) if frame["other"].any() else table


def _account(desk: "_Desk", price: tuple[float, float] | None) -> dict[str, Any]:
    """What became of the items, and what that cost, by emotion."""
    counts: dict[str, dict[str, Counter[str]]] = {"rejected": {}, "given_up": {}}
    asked: Counter[str] = Counter()
    for state in desk.states:
        emotion = state.item.emotion
        asked[emotion] += state.turns
        counts["rejected"].setdefault(emotion, Counter()).update(state.rejected + state.unusable)
        counts["given_up"].setdefault(emotion, Counter()).update([state.given_up] if state.given_up else [])
    read, written = (round(sum(getattr(state, name) for state in desk.states)) for name in ("read", "written"))
    return {
        "planned": len(desk.states),
        "asked": asked,
        **{name: {emotion: found for emotion, found in by.items() if found} for name, by in counts.items()},
        "tokens": {"read": read, "written": written},
        "usd": None if price is None else (price[0] * read + price[1] * written) / 1e6,
    }


@contextmanager
def _open(writer: dict[str, Any], manner: dict[str, Any], engine_log: str | Path, folder: Path) -> Iterator[Writer]:
    """The writer, with an engine of its own running where it asks for one; `folder` is where batches are remembered."""
    if manner.pop("batch", False):
        from affectome.corpus.writers.gemini_batch import GeminiBatch

        told = {key: manner[key] for key in ("timeout", "config_key")}
        yield GeminiBatch(**writer, folder=folder / "batches", **told)
        return
    gpus = manner.pop("gpus", 0)
    if not manner.pop("serve_with", None):
        yield writer_for(writer, manner)
        return
    from affectome.corpus.writers.openai import OpenAI
    from affectome.corpus.writers.serving import serve

    with serve(manner.pop("folder"), engine_log, gpus) as served:
        engine = {"openai": served.model, "base_url": served.base_url, "key": served.key, "check": served.check}
        yield OpenAI(**{**writer, **manner, **engine})


@dataclass
class _State:
    """What has become of an item: its `text` once one passes; otherwise, when nothing more is tried, `given_up`.

    `turns` counts its answers, `rejected` and `unusable` what was wrong with them; `read` and `written` are tokens.
    """

    item: Item
    text: str | None = None
    given_up: str = ""
    turns: int = 0
    unanswered: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    unusable: Counter[str] = field(default_factory=Counter)
    read: float = 0.0
    written: float = 0.0


class _Desk:
    """Decides what is asked for and which texts are taken; knows nothing of where replies come from.

    `open` counts the items that have neither a text nor been given up, `lost` those given up, by reason, because
    no usable answer came.
    """

    def __init__(
        self,
        items: list[Item],
        templates: dict[str, Prompt],
        attempts: int,
        per_request: int,
        rules: dict[str, Any],
        limited: bool,
    ) -> None:
        self.states = [_State(item) for item in items]
        self.open = len(items)
        self.lost: Counter[str] = Counter()
        self._templates, self._attempts, self._rules, self._limited = templates, attempts, rules, limited
        self._per_request = per_request
        self._asked: dict[str, tuple[Request, list[_State]]] = {}

    def request(self, name: str) -> Request:
        """The request with this id."""
        return self._asked[name][0]

    def requests(self) -> list[Request]:
        """What is to be asked for now, in the order of the plan."""
        waiting = deque(state for state in self.states if state.text is None and not state.given_up)
        asked = []
        while waiting:
            group = [waiting.popleft()]
            while waiting and len(group) < self._per_request and _share_a_request(group[0], waiting[0]):
                group.append(waiting.popleft())
            asked.append(self._request(group))
        return asked

    def take(self, reply: Reply) -> list[Request]:
        """Look at what came, and say what to ask for next in its stead."""
        _request, states = self._asked.pop(reply.id)
        texts: tuple[str | None, ...] = reply.texts or (None,) * len(states)
        again = []
        for state, text in zip(states, texts, strict=True):
            if not reply.answered:
                state.unanswered += 1
                if state.unanswered >= MOST_UNANSWERED:
                    self._lose(state, "unanswered")
                continue
            state.turns += 1
            state.read += reply.read / len(states)
            state.written += reply.written / len(states)
            if text is None:
                state.unusable[reply.problem] += 1
                if state.unusable.total() >= MOST_UNUSABLE:
                    self._lose(state, reply.problem)
            else:
                self._judge(state, clean(text))
            if state.text is None and not state.given_up:
                again.append(self._request([state]))
        return again

    def drop_duplicates(self) -> bool:
        """Reject texts that repeat an earlier one; whether there was any."""
        states = [state for state in self.states if state.text is not None]
        texts = [str(state.text) for state in states]
        threshold = self._rules["near_duplicates"]
        similar = near_duplicates(texts, threshold) if threshold is not None else [-1] * len(texts)
        seen: set[str] = set()
        found = False
        for state, text, first in zip(states, texts, similar, strict=True):
            exact = self._rules["duplicates"] and text in seen
            seen.add(text)
            if exact or first >= 0:
                state.text = None
                self.open += 1
                self._reject(state, "duplicate" if exact else "near_duplicate")
                found = True
        return found

    def _request(self, states: list[_State]) -> Request:
        items = [state.item for state in states]
        first = states[0]
        template = self._templates["several" if len(items) > 1 else first.item.kind]
        name = f"{first.item.id}/{first.turns}"
        longest = TOKENS_PER_WORD * sum(item.words for item in items) + SPARE_TOKENS if self._limited else None
        request = Request(name, template.of(items), next_seed(first.item.seed, first.turns), len(items), longest)
        self._asked[name] = request, states
        return request

    def _judge(self, state: _State, text: str) -> None:
        item = state.item
        emotions = tuple(word for word in (item.emotion, item.other_emotion) if word)
        reason = problem(text, emotions, self._rules, "dialogue" if item.kind in (NEUTRAL, "speakers") else "story")
        if reason:
            self._reject(state, reason)
        else:
            state.text = text
            self.open -= 1

    def _reject(self, state: _State, reason: str) -> None:
        state.rejected[reason] += 1
        if state.rejected.total() >= self._attempts:
            state.given_up = reason
            self.open -= 1

    def _lose(self, state: _State, reason: str) -> None:
        state.given_up = reason
        self.open -= 1
        self.lost[reason] += 1


def _share_a_request(first: _State, second: _State) -> bool:
    """Whether one request can be for both; what failed once is asked for alone."""
    return first.item.emotion == second.item.emotion and not first.turns and not second.turns


class _Job:
    """Goes between the desk, the replies that are there, and a writer for those that are not."""

    def __init__(self, desk: _Desk, replies: Replies, spending: Spending, unit: str) -> None:
        self._desk, self._replies, self._spending, self._unit = desk, replies, spending, unit
        self._total = self._open = desk.open

    def run(self, opened: AbstractContextManager[Writer]) -> None:
        """Have every item written or given up; `opened` is entered when something has to be asked for."""
        requests = self._next()
        if not requests:
            return
        there = self._total - self._desk.open
        if there:
            log.info("%d of %d %s are there from an earlier job", there, self._total, self._unit)
        self._open = self._desk.open
        try:
            with (
                opened as writer,
                progress(f"writing {self._unit}", self._total, self._unit, initial=there) as self._bar,
            ):
                while requests:
                    writer.write(requests, self._keep, self._spending)
                    requests = self._next()
        finally:
            self._tell()

    def _next(self) -> list[Request]:
        """What nobody has answered yet of all that is to be asked for."""
        unknown = self._unknown(self._desk.requests())
        # Only when all texts are there is it known which of two similar ones comes later in the plan.
        while not unknown and self._desk.drop_duplicates():
            unknown = self._unknown(self._desk.requests())
        return unknown

    def _unknown(self, requests: list[Request]) -> list[Request]:
        unknown = []
        todo = deque(requests)
        while todo:
            request = todo.popleft()
            reply = self._replies.find(request)
            if reply is None:
                unknown.append(request)
            else:
                todo.extend(self._desk.take(reply))
        return unknown

    def _keep(self, reply: Reply) -> list[Request]:
        if reply.answered:
            self._replies.add(self._desk.request(reply.id), reply)
        unknown = self._unknown(self._desk.take(reply))
        spent = self._spending.dollars()
        self._bar.update(self._open - self._desk.open, "" if spent is None else f"${spent:.2f}")
        self._open = self._desk.open
        self._check()
        return unknown

    def _check(self) -> None:
        """Stop a writer that does not do what it should before it has cost too much."""
        lost = self._desk.lost
        if lost.total() > MOST_GIVEN_UP * self._total:
            raise UserError(
                f"gave up {lost.total()} of {self._total} {self._unit} ({_listed(lost)}), which is more than "
                f"{MOST_GIVEN_UP:.0%}; what is written is kept. Change the prompt or the model, or rerun where the "
                f"service was at fault"
            )

    def _tell(self) -> None:
        rejected: Counter[str] = sum((state.rejected + state.unusable for state in self._desk.states), Counter())
        given_up = Counter(state.given_up for state in self._desk.states if state.given_up)
        if rejected:
            log.info("asked for again: %s", _listed(rejected))
        if given_up:
            log.warning("%s given up, of %d: %s", self._unit, self._total, _listed(given_up))


def _listed(reasons: Counter[str]) -> str:
    return ", ".join(f"{reason} × {count}" for reason, count in reasons.most_common())
