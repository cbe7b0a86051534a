"""What is wrong with a text is found and named, and nothing is found in a text that only looks like it."""

import json
from pathlib import Path
from typing import Any

import pytest

from affectome.config import Screening
from affectome.corpus.screening.rules import REASONS, problem
from affectome.errors import UserError

CORPORA = Path(__file__).parents[2] / "resources" / "corpora"
RULES = Screening(min_words=3, max_words=400).model_dump()
STORY = (
    "The kettle clicked off and nobody in the kitchen moved. Ilse counted the tiles above the sink, eleven across, and "
    "listened to the stairs. Her spoon had gone cold in her hand. When the third step creaked she pushed her plate "
    "away and looked at the door that led out to the yard, where the neighbor's dog had begun to bark at something."
)
DIALOGUE = "Person: How long is a mile?\n\nAI: 1.609 kilometres.\n\nPerson: And a yard?\n\nAI: 91.44 centimetres."


def reason(text: str, kind: str = "story", **rules: Any) -> str:
    return problem(text, (), RULES | rules, kind)


def shipped(name: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (CORPORA / name).read_text(encoding="utf-8").splitlines()]


REFUSALS = [
    "I'm sorry, but I can't write that story.",
    "I’m sorry, but I cannot fulfill this request. Is there something else I may do?",
    "I am really sorry, but I am unable to create content of this kind.",
    "I apologize, but as an AI language model, I cannot generate stories about that.",
    "Sorry, I can't help with that.",
    "Unfortunately, I am not able to provide a story on this topic.",
    "I can't write a story in which somebody is harmed.",
    "I cannot assist with this request.",
    "I won't be able to continue this conversation.",
    "I'm not comfortable writing this scenario.",
    "I must respectfully decline to write this story.",
    "As an AI, I don't have feelings and cannot tell of them.",
    "As a large language model, I do not have personal experiences.",
    "I am an AI language model and cannot feel anything.",
    "I understand what you are asking for, but I can't produce it.",
    "Thank you for the detailed prompt. However, I will not create this.",
    "This request goes against my guidelines.",
    "It would not be appropriate for me to write about this.",
    "AI: I'm sorry, but I can't help with that.",
]
SPOKEN = [
    "“I'm sorry, but I can't write that story,” the editor said, and hung up.",
    '"I can\'t help with that," she said. He nodded.',
    "‘As an AI, I cannot feel,’ said the box on the shelf. Nobody laughed.",
    "He read it again. I'm sorry, but I can't write this any more, it said.",
    "I can't help it. I look at the door again.",
    "I cannot write to her. The pen lies there.",
    "I am sorry, she thought, but not as sorry as all that.",
    "I won't do it. I have told them so.",
    "Unfortunately, I cannot swim. The water was at the third step.",
    "As an aide to the mayor, I do not get out much.",
    "Sorry, I can't help myself when there is cake.",
    "I must decline, the letter said, and that was all.",
]


@pytest.mark.parametrize("text", REFUSALS)
def test_refusals_are_found(text: str) -> None:
    assert reason(text) == "refusal"
    assert reason(text, refusals=False) != "refusal"


@pytest.mark.parametrize("text", SPOKEN)
def test_characters_may_refuse(text: str) -> None:
    assert reason(text) == ""


PREAMBLES = [
    "Here is a story about a woman in a kitchen.\n\n{}",
    "Here's a short story for you: {}",
    "Here is the story:\n{}",
    "Here's my attempt at a very short story. {}",
    "Here is one that keeps to all the rules:\n\n{}",
    "Below is a story of about 120 words:\n\n{}",
    "Sure! Here's a story:\n\n{}",
    "Sure thing! Here is one version. {}",
    "Certainly, here is the story: {}",
    "Of course! I'll write a story about that.\n\n{}",
    "Certainly!\n\n{}",
    "Title: The Kettle\n\n{}",
    "**Title:** The Kettle\n\n{}",
    "Story: {}",
    "**Story 1:** {}",
    "# The Kettle\n\n{}",
    "### Story\n{}",
    "**The Kettle**\n\n{}",
    "**The Kettle**\n{}",
    "The Kettle\n\n{}",
    "The Kettle on the Stove\n{}",
    "“The Kettle”\n\n{}",
    "*The Kettle*\n\n{}",
    "---\n{}",
    "{}\n\n---",
    "{}\n\n(Word count: 120)",
    "{} (120 words)",
    "{}\n\nWord count: 120",
    "{}\n\n**Word Count:** 120",
    "{}\n\nI hope this story meets your needs!",
    "{} I hope this captures the feeling.",
    "{}\n\nI hope you enjoyed this short story.",
    "{}\n\nLet me know if you would like another one.",
    "{}\n\nWould you like me to change anything?",
    "{}\n\nNote: The word itself is never used.",
    "{}\n\nThis story conveys the state through small signs.",
    "{}\n\nThe End",
    '"{}"',
    "“{}”",
    "«{}»",
    "'{}'",
    "*{}*",
    "```\n{}\n```",
    "</think>\n\n{}",
    "<think>A story, then.</think> {}",
    "{}<|im_end|>",
    '{{"story": "{}"}}',
]
WHOLE = [
    "{}",
    "“Go,” she said. {} “Now.”",
    '"Go," she said. {} "Now."',
    "'Go,' she said. {} 'Now.'",
    "“Go,” she said. {}",
    "{} “Now,” she said.",
    "Dear Ilse,\n\n{}",
    "Monday, 3 a.m.\n\n{}",
    "{}\n\nI hope you are well, Mother, and that the hens lay.",
    "{}\n\nHe read what it said on the box: here is a story.",
    "Here is where they stood. {}",
    "Here is the place, and here is the time: {}",
    "Sure, she had heard it before. {}",
    "Of course I went back. {}",
    "The title was long gone. {}",
    "Certainly not. {}",
    "I hope you find it. {} I hope you find it.",
    "{} *Not yet*, she thought.",
    "She had nothing to say\nand did not say it. {}",
]


@pytest.mark.parametrize("frame", PREAMBLES)
def test_what_stands_around_a_text_is_found(frame: str) -> None:
    assert reason(frame.format(STORY)) == "preamble"
    assert reason(frame.format(STORY), preambles=False) != "preamble"


@pytest.mark.parametrize("frame", WHOLE)
def test_what_belongs_to_a_text_may_stay(frame: str) -> None:
    assert reason(frame.format(STORY)) == ""


def test_quotation_marks_around_a_whole_text_are_told_from_those_in_it() -> None:
    assert reason('"She said, "no," and the dog\'s ears went up."') == "preamble"
    assert reason("“She said ‘no’ and left.”") == "preamble"
    assert reason("“She said “no” and left.”") == "preamble"
    assert reason("“No,” she said, “not now.”") == ""
    assert reason("'It's late,' she said, 'and you're tired.'") == ""


@pytest.mark.parametrize(
    "end", [".", "!", "?", "…", "...", ".”", '."', "?’", ".)", ".*", "—”", '-"', "–»", "。", "！」"]
)
def test_ends_of_sentences_are_known(end: str) -> None:
    assert reason(f"She went out and down to the gate{end}") == ""


@pytest.mark.parametrize("end", ["", ",", ":", ";", " and", "—", "-", " 😀", ".😀", "”", " (", "🎉"])
def test_texts_that_stop_elsewhere_are_truncated(end: str) -> None:
    text = f"She went out and down to the gate{end}"
    assert reason(text) == "truncated"
    assert reason(text, truncated=False) == ""


@pytest.mark.parametrize(
    "text",
    [
        f"{STORY} She could not say it. She could not say it. She could not say it.",
        f"{STORY} And then, and then, and then, and then, and then, and then, she ran.",
        f"{STORY} No, no, no, no, no, no, no, no, no, no, no, no.",
        f"{STORY} {STORY}",
        f"{STORY[:100]}, and "
        + "she turned the key in the lock of the door to the yard and waited there, " * 3
        + "then.",
        f"{STORY} A{'a' * 30}.",
        f"{STORY} Up to the gate she ran and up to the gate she went." + " Up to the gate she ran, she went." * 3,
    ],
)
def test_loops_are_found(text: str) -> None:
    assert reason(text) == "loop"
    assert reason(text, loops=False) == ""


@pytest.mark.parametrize(
    "end",
    [
        "Get it out! Get it out! Get it out!",
        "Come on, come on, come on, come on.",
        "No, no, no, no, no, no.",
        "Up the stairs, down the stairs. Up the stairs, down the stairs.",
        "Aaaaah!",
        "00000000000000000000000.",
    ],
)
def test_people_may_repeat_themselves(end: str) -> None:
    assert reason(f"{STORY} {end}") == ""


# About one thing: she stood at the window, her hands shook, and she had to put the cup down.
FOREIGN = {
    "de": "Sie stand am Fenster und sah hinaus auf die Straße, auf der niemand mehr ging, und ihre Hände zitterten so "
    "sehr, dass sie die Tasse abstellen musste.",
    "nl": "Zij stond bij het raam en keek naar buiten, naar de straat waar niemand meer liep, en haar handen trilden "
    "zo erg dat zij het kopje moest neerzetten.",
    "fr": "Elle regardait la rue vide par la fenêtre, et ses mains tremblaient tellement qu'elle dut poser la tasse "
    "sur la table avant de se retourner.",
    "es": "Miraba la calle vacía por la ventana y las manos le temblaban tanto que tuvo que dejar la taza sobre la "
    "mesa antes de volverse hacia él.",
    "it": "Guardava la strada vuota dalla finestra e le mani le tremavano così tanto che dovette posare la tazza sul "
    "tavolo prima di voltarsi.",
    "pl": "Stała przy oknie i patrzyła na pustą ulicę, a ręce trzęsły jej się tak bardzo, że musiała odstawić "
    "filiżankę na stół.",
    "ru": "Она стояла у окна и смотрела на пустую улицу, и руки у неё так дрожали, что пришлось "
    "поставить чашку на стол.",
    "zh": "她站在窗前，望着空无一人的街道，手抖得厉害，只好把杯子放在桌上，然后慢慢地转过身来，看见门口站着一个陌生人，"
    "手里拿着一封信。她深深地吸了一口气，走到门边，轻轻地问他是谁，为什么这么晚还来敲门。",
}


@pytest.mark.parametrize("language", FOREIGN)
def test_another_language_is_found_and_the_one_asked_for_is_not(language: str) -> None:
    text = FOREIGN[language]
    assert reason(text, min_words=1) == "language"
    assert reason(text, min_words=1, language=language) == ""
    assert reason(text, min_words=1, language=None) == ""
    assert reason(STORY, language=language) == "language"
    # A model that drifts into its mother tongue.
    assert reason(f"{STORY} {text} {text}") == "language"


def test_figures_are_of_no_language() -> None:
    table = " ".join(f"{number} × {number} = {number**2};" for number in range(2, 30))
    assert reason(f"{DIALOGUE}\n\nPerson: And the squares?\n\nAI: They are {table} that is all.", "dialogue") == ""


def test_close_relatives_are_not_told_apart() -> None:
    croatian = (
        "Stajala je kraj prozora i gledala praznu ulicu, a ruke su joj se tresle tako jako da je morala spustiti "
        "šalicu na stol."
    )
    assert reason(croatian, language="sr") == ""
    assert reason(croatian, language="en") == "language"


def test_short_texts_and_names_in_english_are_not_foreign() -> None:
    assert reason("Elle regardait la rue vide par la fenêtre.") == ""
    clouds = "Cirrus, cirrocumulus, cirrostratus, altocumulus, altostratus, nimbostratus, stratocumulus and stratus."
    assert reason(f"Person: How many basic cloud genera are there?\n\nAI: Ten: {clouds}", "dialogue") == ""
    recipe = "AI: Mix 250 g flour, 125 ml crème fraîche, 1 tbsp dulce de leche, 5 ml Cointreau; bake 20 min at 180 °C."
    assert reason(f"Person: How is the tarte tatin made?\n\n{recipe}", "dialogue") == ""


def test_an_unknown_language_is_a_mistake() -> None:
    with pytest.raises(UserError, match=r"'xx' is not identified; use one of af, am, .*\ben\b.*, or null for any"):
        reason(STORY, language="xx")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (DIALOGUE, ""),
        (DIALOGUE.replace("\n\n", "\n"), ""),
        (DIALOGUE.replace("\n\nPerson: And", " It varies.\n\nThat is all.\n\nPerson: And"), ""),
        (DIALOGUE.rpartition("\n\n")[0], "layout"),
        (DIALOGUE.partition("\n\n")[2], "layout"),
        (DIALOGUE.replace("Person", "User"), "layout"),
        (DIALOGUE.replace("AI", "Person"), "layout"),
        (DIALOGUE.replace("1.609 kilometres.", ""), "layout"),
        (f"Two people talk. {DIALOGUE}", "layout"),
        (STORY, "layout"),
    ],
)
def test_written_dialogues_alternate(text: str, expected: str) -> None:
    assert reason(text, "dialogue") == expected
    assert reason(text, "dialogue", layout=False) == ""
    assert reason(text, "text") == ""


def test_texts_that_nobody_ordered_may_have_titles_and_stop_anywhere() -> None:
    text = f"# Kettles\n\n{STORY[:-1]}"
    assert reason(text, "text") == ""
    assert reason(REFUSALS[0], "text") == "refusal"
    assert reason(f"{STORY} {STORY}", "text") == "loop"
    assert reason(FOREIGN["de"], "text") == "language"


def test_none_of_the_words_may_occur() -> None:
    assert problem(STORY, ("sad", "glad"), RULES) == ""
    assert problem(f"{STORY} How glad they were.", ("sad", "glad"), RULES) == "leak"
    assert problem(f"{STORY} How glad they were.", ("sad", "glad"), RULES | {"leaks": False}) == ""


def test_length_is_looked_at_last_and_both_ends_are_within() -> None:
    assert reason("Two words.") == "too_short"
    assert reason("Three words here.", max_words=3) == ""
    assert reason("These are four words.", max_words=3) == "too_long"
    assert reason("No end", min_words=9) == "truncated"
    assert list(REASONS).index("too_long") == len(REASONS) - 2


@pytest.mark.parametrize(("name", "kind"), [("starter/stories.jsonl", "story"), ("literary/stories.jsonl", "story")])
def test_faults_planted_in_shipped_stories_are_found(name: str, kind: str) -> None:
    rows = shipped(name)
    for row, other in zip(rows[::20], rows[7::20], strict=False):
        text, words = row["text"], row["text"].split()
        faults = {
            "refusal": "I'm sorry, but I can't write this story. " + text,
            "preamble": "Here's a short story about it:\n\n" + text,
            "leak": f"{text} They were {row['emotion'].upper()}.",
            "language": f"{text} {FOREIGN['fr']} {FOREIGN['fr']}",
            "truncated": " ".join(words[:60]).rstrip(".!?”\"'") + " and",
            "loop": text + " She looked back at the door." * 3,
            "too_short": other["text"].split(". ")[0].rstrip(".!?”\"'") + ".",
        }
        for expected, broken in faults.items():
            limits = {"min_words": 60 if expected == "too_short" else 3}
            assert problem(broken, (row["emotion"],), RULES | limits, kind) == expected, (expected, broken)
