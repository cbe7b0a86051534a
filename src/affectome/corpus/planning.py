"""The plan of a corpus, made before anything is written: what every text is about, and how it is to be told.

What chance decides about an item is drawn from a generator of its own, seeded by its id, so that neither the order of
writing nor an interruption changes it.
"""

from dataclasses import dataclass

from affectome.identity import fingerprint
from affectome.randomness import generator

PERSONS = ("first", "third")

# Shortest and longest target length in words. Long enough to leave tokens to average after the first 50 are skipped.
STORY_WORDS = (90, 150)
DIALOGUE_WORDS = (100, 140)


@dataclass(frozen=True)
class Item:
    """One text to be written; the fields are what prompts can use.

    `index` counts the texts that share emotion and topic, from 0; `words` is the target length; `seed` (31 bits) is the
    one the language model samples with. A dialogue has no emotion and no grammatical person: both are "".
    """

    id: str
    emotion: str
    topic: str
    index: int
    person: str
    words: int
    seed: int


def story_plan(emotions: list[str], topics: list[str], stories_per_topic: int, seed: int) -> list[Item]:
    """Every emotion with every topic, `stories_per_topic` times, told in either person by an even chance."""
    return [
        _item("story", emotion, topic, index, PERSONS, STORY_WORDS, seed)
        for emotion in emotions
        for topic in topics
        for index in range(stories_per_topic)
    ]


def dialogue_plan(count: int, topics: list[str], seed: int) -> list[Item]:
    """`count` neutral dialogues that take `topics` in turn, beginning again with a higher index when all are used."""
    return [
        _item("dialogue", "", topics[number % len(topics)], number // len(topics), ("",), DIALOGUE_WORDS, seed)
        for number in range(count)
    ]


def _item(
    kind: str, emotion: str, topic: str, index: int, persons: tuple[str, ...], words: tuple[int, int], seed: int
) -> Item:
    name = fingerprint([kind, emotion, topic, index])
    draw = generator(seed, name)
    return Item(
        id=name,
        emotion=emotion,
        topic=topic,
        index=index,
        person=persons[draw.integers(len(persons))],
        words=int(draw.integers(*words, endpoint=True)),
        seed=int(draw.integers(2**31)),
    )
