"""The plan of a corpus, made before anything is written: what every text is about, how it is told, which job writes it.

What chance decides about an item is drawn from a generator of its own, seeded by its id, so that neither the order of
writing nor an interruption changes it.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from affectome.corpus.contrasts import read_contrasts
from affectome.errors import UserError
from affectome.files import read_lines, read_table, write_table
from affectome.identity import fingerprint
from affectome.randomness import generator

PERSONS = ("first", "third")

# Shortest and longest target length in words. Long enough to leave tokens to average after the first 50 are skipped.
STORY_WORDS = (90, 150)
DIALOGUE_WORDS = (100, 140)

# Texts with emotions: stories, dialogues in which both speakers feel something, stories that keep neighbours apart.
STORIES = ("story", "speakers", "contrast")
NEUTRAL = "dialogue"


@dataclass(frozen=True)
class Item:
    """One text to be written; the fields are what prompts can use.

    `kind` is one of `STORIES` or `NEUTRAL`; `index` counts the texts that share emotion and topic, from 0; `words` is
    the target length; `seed` (31 bits) is the one the language model samples with; `shard` is the job that writes it.
    A story has a grammatical `person`. Of `speakers`, `emotion` is the person's and `other_emotion` the AI's. A
    `contrast` must not be mistaken for the emotions in `unlike`. What does not apply is "" or ().
    """

    id: str
    kind: str
    emotion: str
    other_emotion: str
    unlike: tuple[str, ...]
    topic: str
    index: int
    person: str
    words: int
    seed: int
    shard: int = 0


def story_plan(emotions: Sequence[str], topics: Sequence[str], stories_per_topic: int, seed: int) -> list[Item]:
    """Every emotion with every topic, `stories_per_topic` times, told in either person by an even chance."""
    return [
        _item("story", emotion, topic, index, seed)
        for emotion in emotions
        for topic in topics
        for index in range(stories_per_topic)
    ]


def speakers_plan(emotions: Sequence[str], topics: Sequence[str], dialogues_per_topic: int, seed: int) -> list[Item]:
    """Dialogues of a person who feels each emotion about each topic, and an AI that feels another, drawn evenly."""
    return [
        _item("speakers", emotion, topic, index, seed, others=[other for other in emotions if other != emotion])
        for emotion in emotions
        for topic in topics
        for index in range(dialogues_per_topic)
    ]


def contrast_plan(
    contrasts: dict[str, tuple[str, ...]], topics: Sequence[str], stories_per_topic: int, seed: int
) -> list[Item]:
    """Stories of each emotion in `contrasts` that must not be mistaken for the emotions listed with it."""
    return [
        _item("contrast", emotion, topic, index, seed, unlike=unlike)
        for emotion, unlike in contrasts.items()
        for topic in topics
        for index in range(stories_per_topic)
    ]


def dialogue_plan(count: int, topics: Sequence[str], seed: int) -> list[Item]:
    """`count` neutral dialogues that take `topics` in turn, beginning again with a higher index when all are used."""
    return [_item(NEUTRAL, "", topics[number % len(topics)], number // len(topics), seed) for number in range(count)]


def _item(
    kind: str,
    emotion: str,
    topic: str,
    index: int,
    seed: int,
    others: Sequence[str] = (),
    unlike: tuple[str, ...] = (),
) -> Item:
    name = fingerprint([kind, emotion, topic, index])
    draw = generator(seed, name)
    persons = PERSONS if kind in ("story", "contrast") else ("",)
    return Item(
        id=name,
        kind=kind,
        emotion=emotion,
        other_emotion=others[draw.integers(len(others))] if others else "",
        unlike=unlike,
        topic=topic,
        index=index,
        person=persons[draw.integers(len(persons))],
        words=int(draw.integers(*(STORY_WORDS if persons is PERSONS else DIALOGUE_WORDS), endpoint=True)),
        seed=int(draw.integers(2**31)),
    )


def plan_corpus(
    output: str | Path,
    kind: str,
    emotions: list[str],
    topics: list[str],
    stories_per_topic: int,
    contrasts: str | None,
    jobs: int,
    count: int,
    topics_file: str | Path,
    seed: int,
) -> None:
    """Write the plan of a corpus as a table with the columns of `Item`, texts with emotions first.

    Of these every one of `jobs` writes a run of neighbours, so that texts of one emotion can share a request; the
    `count` neutral dialogues, on the subjects in `topics_file` (one per line), are one job's. Raises UserError where
    there are no subjects, or as `read_contrasts`.
    """
    import pandas as pd

    if contrasts is not None:
        told = contrast_plan(read_contrasts(contrasts, emotions), topics, stories_per_topic, seed)
    else:
        told = (speakers_plan if kind == "speakers" else story_plan)(emotions, topics, stories_per_topic, seed)
    subjects = read_lines(topics_file)
    if count and not subjects:
        raise UserError(f"{topics_file}: holds no subjects; write one per line")
    rows = [{**asdict(item), "shard": number * jobs // len(told)} for number, item in enumerate(told)]
    rows += [asdict(item) for item in dialogue_plan(count, subjects, seed)]
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    write_table(output, pd.DataFrame(rows, columns=[field.name for field in fields(Item)]))


def read_plan(path: str | Path, neutral: bool, shard: int) -> list[Item]:
    """The items that one job writes: neutral dialogues, or the texts with emotions of one `shard`, in order."""
    plan = read_table(path)
    plan = plan[(plan["kind"] == NEUTRAL) == neutral]
    rows: list[dict[str, Any]] = plan[plan["shard"] == shard].to_dict("records")
    return [Item(**{**row, "unlike": tuple(row["unlike"])}) for row in rows]  # type: ignore[arg-type]
