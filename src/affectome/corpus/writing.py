"""A corpus written by a language model: from the plan through prompts and replies to the corpus table.

Every reply is kept in a journal beside the output as it arrives, so an interrupted or failed job asks again only for
what it does not have yet.
"""

import logging
from collections import Counter
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from affectome.corpus.planning import Item, dialogue_plan, story_plan
from affectome.corpus.tables import as_corpus, clean, empty_corpus, write_corpus
from affectome.corpus.writers import Reply, Request, writer_for
from affectome.errors import UserError
from affectome.files import read_lines
from affectome.identity import fingerprint
from affectome.journal import Journal
from affectome.progress import progress

log = logging.getLogger(__name__)

# A corpus that lacks more of its items than this is not the corpus that was planned.
MOST_GIVEN_UP = 0.05


def write_stories(
    output: str | Path,
    emotions: list[str],
    topics: list[str],
    stories_per_topic: int,
    seed: int,
    writer: dict[str, Any],
    prompt_file: str | Path,
) -> None:
    """Write a corpus table of `stories_per_topic` stories for each emotion and topic, in that order.

    `writer` is `corpora.*.writer`; `prompt_file` is a Jinja template that sees the fields of `planning.Item`. Raises
    UserError where the writer cannot work or gives up more than `MOST_GIVEN_UP` of the stories.
    """
    plan = story_plan(emotions, topics, stories_per_topic, seed)
    _write(Path(output), "stories", plan, seed, writer, Path(prompt_file))


def write_dialogues(
    output: str | Path,
    count: int,
    topics_file: str | Path,
    seed: int,
    writer: dict[str, Any],
    prompt_file: str | Path,
) -> None:
    """Write a corpus table of `count` neutral dialogues on the subjects in `topics_file` (one per line).

    Other arguments and errors are those of `write_stories`.
    """
    if count == 0:
        write_corpus(empty_corpus(), output)
        return
    topics = read_lines(topics_file)
    if not topics:
        raise UserError(f"{topics_file}: holds no subjects; write one per line")
    _write(Path(output), "dialogues", dialogue_plan(count, topics, seed), seed, writer, Path(prompt_file))


def _write(output: Path, unit: str, plan: list[Item], seed: int, spec: dict[str, Any], prompt_file: Path) -> None:
    import pandas as pd

    writer = writer_for(spec)
    template = prompt_file.read_text(encoding="utf-8")
    prompts = _render(template, prompt_file, plan)
    origin = fingerprint({"prompt": template, "writer": writer.name, "temperature": spec["temperature"], "seed": seed})
    journal = Journal(output.with_name(f".{output.stem}.journal.jsonl"), origin)
    with journal:
        requests = [Request(item.id, prompts[item.id], item.seed) for item in plan if item.id not in journal.entries]
        done = len(plan) - len(requests)
        if done:
            log.info("%d of %d %s were written by an earlier, interrupted job", done, len(plan), unit)
        with progress(f"writing {unit}", len(plan), unit, initial=done) as bar:
            tally = _Tally(unit, len(plan), journal)

            def keep(reply: Reply) -> None:
                if reply.text is not None:
                    journal.add(reply.id, clean(reply.text))
                bar.update(1)
                tally.count(reply)

            try:
                if requests:
                    writer.write(requests, keep)
            finally:
                tally.report()
    rows = [
        {"emotion": item.emotion, "topic": item.topic, "text": journal.entries[item.id]}
        for item in plan
        if item.id in journal.entries
    ]
    write_corpus(as_corpus(pd.DataFrame(rows), writer.name), output)
    journal.remove()


def _render(template: str, prompt_file: Path, plan: list[Item]) -> dict[str, str]:
    """The prompt of every item, by its id."""
    import jinja2

    # Prompts are plain text, so nothing in them is to be escaped.
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False, trim_blocks=True)  # noqa: S701
    try:
        prompt = environment.from_string(template)
        return {item.id: prompt.render(asdict(item)).strip() for item in plan}
    except jinja2.TemplateError as error:
        names = ", ".join(field.name for field in fields(Item))
        raise UserError(f"{prompt_file}: {error.message}; a prompt is a Jinja template that can use {names}") from error


class _Tally:
    """Counts what failed and why, and stops the writing once too many items are given up."""

    def __init__(self, unit: str, total: int, journal: Journal) -> None:
        self._unit, self._total, self._journal = unit, total, journal
        self._given_up: Counter[str] = Counter()
        self._repeated: Counter[str] = Counter()

    def count(self, reply: Reply) -> None:
        if reply.text is not None:
            self._repeated.update(reply.failures)
            return
        *earlier, last = reply.failures
        self._repeated.update(earlier)
        self._given_up[last] += 1
        if self._given_up.total() > MOST_GIVEN_UP * self._total:
            raise UserError(
                f"gave up {self._given_up.total()} of {self._total} {self._unit} ({_listed(self._given_up)}), which is "
                f"more than {MOST_GIVEN_UP:.0%}; the {len(self._journal.entries)} that are written are kept, and a "
                f"rerun asks only for the rest"
            )

    def report(self) -> None:
        if self._repeated:
            log.info("requests repeated: %s", _listed(self._repeated))
        if self._given_up:
            log.warning("%s given up, of %d: %s", self._unit, self._total, _listed(self._given_up))


def _listed(reasons: Counter[str]) -> str:
    return ", ".join(f"{reason} × {count}" for reason, count in reasons.most_common())
