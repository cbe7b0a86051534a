"""A story that gives its emotion word away is found, in every form that does, and a story with another word passes."""

import csv
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from snowballstemmer import EnglishStemmer

from affectome.corpus.screening.leaks import leaks

RESOURCES = Path(__file__).parents[2] / "resources"
EMOTIONS = (RESOURCES / "emotions" / "171.txt").read_text(encoding="utf-8").split("\n")[:-1]
with open(RESOURCES / "screening" / "leaks.tsv", encoding="utf-8", newline="") as handle:
    TABLE = list(csv.DictReader(handle, delimiter="\t"))
stem = EnglishStemmer().stemWord

# An emotion, the forms that give it away, and words that do not.
LEAKS = {
    "happy": (
        "happy happier happiest happily happiness HAPPY Happy's un-happy happy-go-lucky _happy_",
        "unhappy happen",
    ),
    "hope": ("hope hopes hoped hoping hopeful", "hopeless hop hopped hopping"),
    "hopeful": ("hopeful hopefully hope hoping", "hopeless"),
    "mad": ("mad madder maddest madly madness maddening", "made madam maid nomad"),
    "sad": ("sad sadder saddest sadly sadness saddened", "saddle said"),
    "smug": ("smug smugger smugly smugness", "smuggle smuggling"),
    "safe": ("safe safer safest safely safety", "safes save"),
    "angry": ("angry angrier angriest angrily anger angered angering", "hungry dangerous"),
    "proud": ("proud prouder proudly pride prided", "prude bride cloud"),
    "lonely": ("lonely lonelier loneliness", "alone lone lonesome"),
    "miserable": ("miserable miserably misery", "miser miserly"),
    "optimistic": ("optimistic optimistically optimism optimist", "optimal optimize"),
    "optimism": ("optimism optimistic", "optimal optimize optimization"),
    "hysterical": ("hysterical hysterically hysteria hysterics", "history"),
    "upset": ("upset upsets upsetting", "set upside"),
    "hurt": ("hurt hurts hurting hurtful", "hurtle hurry"),
    "calm": ("calm calms calmed calming calmer calmly", "clam"),
    "content": ("content contented contently contentment", "contents contend contention"),
    "kind": ("kind kinder kindest kindly kindness", "kinds kindergarten kindle mankind unkind"),
    "patient": ("patient patiently patience", "patients impatient"),
    "tired": ("tired tiredly tiredness tiring", "tire tires tirade tiresome"),
    "bored": ("bored boring bores boredom", "bore board born"),
    "pleased": ("pleased pleasing pleases pleasure", "please pleas pleasant"),
    "scared": ("scared scare scares scaring scary", "scar scars scarred scarf sacred"),
    "alarmed": ("alarmed alarm alarms alarming", "arm armed"),
    "amazed": ("amazed amaze amazes amazing amazement", "maze"),
    "worried": ("worried worry worries worrying worrisome", "worn"),
    "terrified": ("terrified terrify terrifies terrifying terror", "terrific territory"),
    "trapped": ("trapped trap traps trapping", "strapped trappings tram"),
    "panicked": ("panicked panic panicking panicky", "picnic"),
    "fulfilled": ("fulfilled fulfil fulfill fulfils fulfilling", "filled full"),
    "loving": ("loving lovingly love loves loved lover", "lovely glove beloved"),
    "brooding": ("brooding broodingly brood broods brooded", "brook"),
    "furious": ("furious furiously furiousness fury", "fur"),
    "grateful": ("grateful gratefully gratitude", "grate grated grating great"),
    "playful": ("playful playfully playfulness", "play played playing player"),
    "dependent": ("dependent dependence dependency", "depends depending dependable"),
    "reflective": ("reflective reflectively", "reflected reflection"),
    "tense": ("tense tenser tensed tension", "tens tent"),
    "skeptical": ("skeptical skepticism sceptical", "septic"),
    "vengeful": ("vengeful vengeance revenge", "venue"),
    "stuck": ("stuck", "stick sticks sticky stock"),
    "shaken": ("shaken", "shake shook shaking"),
    "compassionate": ("compassionate compassion", "compass passionate"),
    "compassion": ("compassion compassionate", "compass compasses"),
    "longing": ("longing longingly", "long longs"),
    "numb": ("numb numbness numbed", "number numbers"),
    "traurig": ("traurig traurigs", "trauen"),
}


@pytest.mark.parametrize("emotion", LEAKS)
def test_inflections_are_found_and_other_words_are_not(emotion: str) -> None:
    forms, others = LEAKS[emotion]
    for form in forms.split():
        assert leaks(emotion, f"They were ({form})."), form
    for word in others.split():
        assert not leaks(emotion, f"They said “{word}”."), word


@pytest.mark.parametrize(
    ("emotion", "text"),
    [
        ("at ease", "Nobody is at EASE there"),
        ("at ease", "an at-ease posture"),
        ("at ease", "at\nease"),
        ("on edge", "She was on  edge."),
        ("worn out", "a worn\u2011out coat"),
        ("worn out", "worn\u00a0out"),
        ("grief-stricken", "a grief stricken man"),
        ("grief-stricken", "Grief\u2010Stricken"),
        ("self-conscious", "with self consciousness"),
        ("self-critical", "Self-criticism came first."),
        # Listed for them.
        ("at ease", "quite at her ease"),
        ("heartbroken", "of a broken heart"),
        ("worn out", "It was wearing out."),
        ("grief-stricken", "stricken with grief"),
        ("self-confident", "with confidence"),
    ],
)
def test_expressions_are_found_however_they_are_joined(emotion: str, text: str) -> None:
    assert leaks(emotion, text)


@pytest.mark.parametrize(
    ("emotion", "text"),
    [
        ("at ease", "put at easel height"),
        ("at ease", "a great ease"),
        ("at ease", "it eased him"),
        ("worn out", "his worn outer coat"),
        ("worn out", "wornout"),
        ("on edge", "sat on edges"),
        ("self-conscious", "lost consciousness by itself"),
        ("self-critical", "critical of his own self"),
    ],
)
def test_other_expressions_pass(emotion: str, text: str) -> None:
    assert not leaks(emotion, text)


@pytest.mark.parametrize("emotion", EMOTIONS)
def test_every_emotion_of_the_list_gives_itself_away_and_no_everyday_word_does(emotion: str) -> None:
    assert leaks(emotion, f"so {emotion.upper()}, he")
    plain = (RESOURCES / "corpora" / "starter" / "neutral.jsonl").read_text(encoding="utf-8")
    everyday = "please will made tire tires bore contents kinds patients long outer scar pleas"
    assert not leaks(emotion, everyday + plain)


# Half of it, confident, is listed.
WHOLE = [emotion for emotion in EMOTIONS if emotion != "self-confident"]


@given(st.text(alphabet=st.characters(whitelist_categories=["L"]), min_size=1), st.sampled_from(WHOLE))
def test_a_letter_before_or_after_makes_it_another_word(letters: str, emotion: str) -> None:
    assert not leaks(emotion, letters + emotion)
    assert not leaks(emotion, f"{letters}x{emotion}x{letters}")


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row['emotion']}-{row['form']}")
def test_every_row_of_the_table_is_needed_and_does_what_it_says(row: dict[str, str]) -> None:
    emotion, form = row["emotion"], row["form"]
    assert leaks(emotion, f"It was {form}, then.") == (row["verdict"] == "leak")
    same = stem(form) == stem(emotion) or form in (f"{emotion}er", f"{emotion}{emotion[-1]}er")
    assert same == (row["verdict"] == "passes")
    assert (emotion, form) == (emotion.lower(), form.lower())
    assert row["why"]


def test_no_form_is_listed_twice() -> None:
    assert len({(row["emotion"], row["form"]) for row in TABLE}) == len(TABLE)


def test_what_the_table_says_of_one_emotion_holds_for_that_one_only() -> None:
    assert leaks("tire", "a tire")
    assert not leaks("sad", "full of anger")


def test_case_and_apostrophes_do_not_hide_a_word() -> None:
    for text in ("ANGER", "Anger’s", "“anger”", "*anger*", "anger—", "an\nanger"):
        assert leaks("angry", text), text
    assert leaks("Angry", "angrily")
