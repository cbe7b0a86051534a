"""The card of a corpus: its measures come out as computed by hand or in another way, and its page is safe to open."""

import base64
import hashlib
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from affectome.corpus import surface
from affectome.corpus.card import corpus_card, duration, leak_rates, lengths, percent, to_read
from affectome.corpus.surface import bag_of_words, distinct, openings, overlap, sample, variety, words_of
from affectome.corpus.tables import as_corpus, empty_corpus, write_corpus
from affectome.files import write_json

RESOURCES = Path(__file__).parents[2] / "resources"
HOSTILE = "</style><script>alert(1)</script><img src=http://example.org/x onerror=alert(2)> {{ 7 * 7 }} & ]]>"


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def corpus(*rows: tuple[str, str, str]) -> pd.DataFrame:
    """A corpus table of texts as (emotion, topic, text)."""
    return as_corpus(pd.DataFrame(rows, columns=["emotion", "topic", "text"]), "test")


def shipped(name: str, kind: str = "stories") -> pd.DataFrame:
    with open(RESOURCES / "corpora" / name / f"{kind}.jsonl", encoding="utf-8") as lines:
        texts = [json.loads(line) for line in lines]
    return corpus(*((text.get("emotion", ""), text.get("topic", ""), text["text"]) for text in texts))


def named(stories: pd.DataFrame) -> dict[str, Any]:
    order = sorted(set(stories["emotion"]))
    return bag_of_words(words_of(stories["text"]), stories, np.arange(len(stories)), order, rng())


def test_words_are_letters_and_digits_in_lower_case_with_their_apostrophes() -> None:
    words = words_of(["Don’t stop, DON'T_stop 'now'!", "", "Élan 42"])
    assert words.vocabulary == ["don't", "stop", "now", "élan", "42"]
    assert [words.of(text).tolist() for text in range(3)] == [[0, 1, 0, 1, 2], [], [3, 4]]


def distinct_in(texts: list[str], n: int) -> float | None:
    words = words_of(texts)
    return distinct(words.ids, np.diff(words.starts), len(words.vocabulary), n)


def test_distinct_n_counts_no_n_gram_across_texts() -> None:
    # Pairs: ab, ba, ab and ab; triples: aba, bab.
    texts = ["a b a b", "a b"]
    assert [distinct_in(texts, n) for n in (1, 2, 3)] == [2 / 6, 2 / 4, 2 / 2]
    assert [distinct_in(["a", "b", ""], n) for n in (1, 2)] == [1, None]


def test_distinct_n_agrees_with_sets_of_tuples() -> None:
    draw = rng()
    texts = [" ".join(draw.choice(list("abcdefg"), size)) for size in draw.integers(0, 9, size=60)]
    for n in (1, 2, 3):
        grams = [tuple(text.split()[at : at + n]) for text in texts for at in range(len(text.split()) - n + 1)]
        assert distinct_in(texts, n) == len(set(grams)) / len(grams)


def test_emotions_are_compared_on_equally_many_words() -> None:
    stories = corpus(("calm", "", "a b c d"), ("sad", "", "a b"), ("sad", "", "a b c"), ("sad", "", "x y z"))
    found = variety(words_of(stories["text"]), stories["emotion"], np.arange(4))
    assert (found["words"], found["vocabulary"], found["words_each"]) == (12, 7, 4)
    assert found["distinct_1"] == 7 / 12
    assert found["by_emotion"]["calm"] == {"distinct_1": 1, "distinct_2": 1, "distinct_3": 1}
    # Of sad, "a b" and the first two words of "a b c".
    assert found["by_emotion"]["sad"] == {"distinct_1": 1 / 2, "distinct_2": 1 / 2, "distinct_3": None}


def test_openings_are_three_words_whatever_their_case_and_marks() -> None:
    found = openings(words_of(["It was a day", "it was, a night", "It was the end", "Two words", "All was a lie"]))
    assert (found["texts"], found["distinct"], found["shared"]) == (4, 3, 0.5)
    assert found["commonest"] == [{"words": "it was a", "texts": 2, "share": 0.5}]
    assert openings(words_of(["Too short"]))["shared"] is None


def test_vocabularies_overlap_fully_by_half_or_not_at_all() -> None:
    stories = corpus(("a", "", "x y the"), ("b", "", "y x the"), ("c", "", "v w the"), ("d", "", "v u the"))
    found = overlap(words_of(stories["text"]), stories["emotion"], np.arange(4), list("abcd"))
    # "the" is in every text and weighs nothing; w and u weigh ln 4, v ln 2, which is half of it.
    assert np.allclose(found["matrix"], [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0.2], [0, 0, 0.2, 1]])
    assert [(pair["a"], pair["b"]) for pair in found["pairs"][:2]] == [("a", "b"), ("c", "d")]
    assert found["mean"] == pytest.approx(1.2 / 6)
    many = overlap(words_of(stories["text"]), stories["emotion"], np.arange(4), list("abcd"), most=3)
    assert many["matrix"] is None
    assert many["pairs"] == found["pairs"]


def test_overlap_takes_equally_many_texts_of_every_emotion() -> None:
    stories = corpus(("a", "", "x"), ("b", "", "y"), ("b", "", "x"), ("b", "", "x"))
    found = overlap(words_of(stories["text"]), stories["emotion"], np.array([1, 0, 2, 3]), ["a", "b"])
    assert (found["texts_each"], found["mean"]) == (1, 0)


def test_a_sample_holds_as_many_of_every_emotion_as_it_can() -> None:
    stories = corpus(*(("ab"[n < 5], "", f"text {n}") for n in range(100)))
    rows = sample(stories, rng(), most=40)
    assert stories["emotion"].iloc[rows].value_counts().to_dict() == {"a": 20, "b": 5}
    assert len(set(rows)) == 25
    assert sorted(sample(stories, rng(), most=100)) == list(range(100))


def planted(word: str, topics: int = 6, each: int = 2) -> pd.DataFrame:
    """Stories of four emotions whose only telling word is `word`, filled in with emotion and topic."""
    rows = [(f"e{e}", f"t{t}", f"the {word.format(e=e, t=t)}") for e in range(4) for t in range(topics)]
    return corpus(*rows * each)


def test_words_of_an_emotion_give_it_away_under_topics_not_seen() -> None:
    found = named(planted("sign{e} place{t}"))
    assert (found["accuracy"], found["held_out"], found["folds"], found["stories"]) == (1, "topics", 6, 48)
    assert found["chance"] == found["majority"] == 0.25
    assert found["named"] == dict.fromkeys(("e0", "e1", "e2", "e3"), 1)
    assert {emotion: words[0] for emotion, words in found["telling"].items()} == {f"e{n}": f"sign{n}" for n in range(4)}
    assert all("the" not in words for words in found["telling"].values())


def test_telling_words_are_commoner_in_an_emotion_than_in_others_and_come_twice() -> None:
    own, other = ("apple snow", "apple snow", "apple once"), ("berry tree",) * 4 + ("berry tree snow",) * 2
    stories = corpus(*(("a", "", f"the {text}") for text in own), *(("b", "", f"the {text}") for text in other))
    # Both have "snow" in two stories, a third of them in one and two thirds in the other.
    assert named(stories)["telling"] == {"a": ["apple", "snow"], "b": ["berry", "tree"]}


def test_words_of_an_emotion_under_one_topic_do_not() -> None:
    # A classifier that had seen the topic would name every story.
    stories = planted("e{e}t{t}")
    assert named(stories)["accuracy"] == 0
    without = named(stories.assign(topic=""))
    assert (without["accuracy"], without["held_out"]) == (1, "stories")


def test_weights_and_centroids_agree_with_a_plain_computation() -> None:
    stories = shipped("literary")
    stories = stories[stories["emotion"].isin(sorted(set(stories["emotion"]))[:25])].reset_index(drop=True)
    texts = [frozenset(words_of([text]).vocabulary) for text in stories["text"]]
    vocabulary = sorted(frozenset.union(*texts))
    x = np.array([[word in text for word in vocabulary] for text in texts], dtype=float)
    right = []
    for topic in set(stories["topic"]):
        out = (stories["topic"] == topic).to_numpy()
        df = x[~out].sum(axis=0)
        idf = np.log(np.divide((~out).sum(), df, out=np.ones_like(df), where=df > 0))
        unit = x * idf / np.linalg.norm(x * idf, axis=1, keepdims=True)
        means = {e: unit[(stories["emotion"] == e) & ~out].mean(axis=0) for e in set(stories["emotion"])}
        for row in np.flatnonzero(out):
            near = max(means, key=lambda e: unit[row] @ means[e] / np.linalg.norm(means[e]))
            right.append(near == stories["emotion"][row])
    found = named(stories)
    assert found["accuracy"] == pytest.approx(np.mean(right))
    assert 0.3 < found["accuracy"] < 0.95


@pytest.mark.parametrize(("name", "low", "high"), [("starter", 0.9, 0.98), ("literary", 0.45, 0.6)])
def test_the_shipped_corpora_differ_in_how_much_is_on_the_surface(name: str, low: float, high: float) -> None:
    found = named(shipped(name))
    assert low < found["accuracy"] < high
    assert found["interval"][0] < found["accuracy"] < found["interval"][1]
    assert (found["held_out"], found["folds"], found["chance"]) == ("topics", 6, 1 / 171)


def test_the_interval_is_that_of_stories_or_of_topics_whichever_is_wider() -> None:
    # Wilson's lower end for n of n right is n / (n + 1.96²).
    found = named(planted("sign{e}"))
    assert found["interval"] == pytest.approx([48 / (48 + 1.959964**2), 1])
    # In half of the topics everything is told by its word, in the other half nothing is.
    halves = planted("sign{e}", topics=10)
    silent = halves["topic"].isin([f"t{t}" for t in range(5)])
    halves.loc[silent, "text"] = "the"
    by_topic = named(halves)
    assert by_topic["accuracy"] == 0.5
    # The standard error over ten topics is 0.16, over eighty stories 0.06.
    assert by_topic["interval"] == pytest.approx([0.2, 0.8], abs=0.11)
    by_story = named(halves.assign(topic=""))
    assert by_story["interval"][0] > by_story["accuracy"] - 0.12


def test_emotions_that_cannot_be_learned_are_not_tested() -> None:
    stories = pd.concat([planted("sign{e}"), corpus(("lone", "t0", "a word"))], ignore_index=True)
    found = named(stories)
    assert (found["untested"], found["stories"], found["accuracy"]) == (1, 48, 1)
    assert found["chance"] == 1 / 5
    # Every emotion under a topic of its own: nothing is learned of it elsewhere, so stories are held out.
    own = planted("sign{e}").assign(topic=lambda table: table["emotion"])
    assert (named(own)["held_out"], named(own)["accuracy"]) == ("stories", 1)


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ([("calm", "", "a b"), ("calm", "x", "b c")], "there is one emotion only"),
        ([("calm", "", "a b"), ("sad", "", "b c")], "fewer than two emotions have two stories"),
        ([("calm", "", "...")], "there is one emotion only"),
    ],
)
def test_what_cannot_be_computed_has_its_reason(rows: list[tuple[str, str, str]], why: str) -> None:
    found = named(corpus(*rows))
    assert (found["accuracy"], found["interval"], found["why"]) == (None, None, why)


def test_lengths_by_hand() -> None:
    found = lengths(np.array([100, 109, 110, 250, 131]))
    assert found["mean"] == 140
    assert found["quantiles"] | {"0": 100, "50": 110, "75": 131, "100": 250} == found["quantiles"]
    assert found["histogram"]["edges"] == list(range(100, 270, 10))
    assert found["histogram"]["counts"] == [2, 1, 0, 1, *[0] * 11, 1]
    assert lengths(np.array([], dtype=int)) is None


@pytest.mark.parametrize("most", [1, 40, 3000, 10**6])
def test_every_text_is_in_the_bar_of_its_length(most: int) -> None:
    words = rng().integers(0, most, size=500)
    histogram = lengths(words)["histogram"]
    counts, _ = np.histogram(words, bins=[edge - 0.5 for edge in histogram["edges"]])
    assert histogram["counts"] == counts.tolist()
    assert 1 <= len(counts) <= 24
    assert counts[0] > 0
    assert counts[-1] > 0


def test_stories_to_read_are_of_many_emotions() -> None:
    stories = corpus(*((f"e{min(n, 9)}", "", f"text {n}") for n in range(200)))
    drawn = to_read(stories, rng())
    assert len(set(drawn["id"])) == 20
    assert drawn["emotion"].value_counts().to_dict() == {"e9": 11, **{f"e{n}": 1 for n in range(9)}}
    assert drawn["id"].tolist() == to_read(stories, rng())["id"].tolist()
    assert drawn["id"].tolist() != to_read(stories, np.random.default_rng(1))["id"].tolist()
    assert len(to_read(stories.head(3), rng())) == 3


def screened(stories: int, neutral: int, leaked: int = 0, looked: bool = True) -> dict[str, Any]:
    """A report of screening that read `leaked` stories of `calm` more than it kept."""

    def part(kept: int, dropped: int) -> dict[str, Any]:
        return {
            "read": kept + dropped,
            "kept": kept,
            "dropped": dropped,
            "by_reason": {"leak": dropped, "too_short": 0},
            "by_reason_and_emotion": {"leak": {"calm": dropped}} if dropped else {},
            "ids": {},
        }

    return {"rules": {"leaks": looked}, "stories": part(stories, leaked), "neutral": part(neutral, 0)}


def written(usd: float | None) -> dict[str, Any]:
    rejected = {"leak": {"sad": 4}, "refusal": {"calm": 2}}
    given_up = {"refusal": {"calm": 1}}
    return {
        "planned": 13,
        "asked": {"texts": 16, "by_emotion": {"calm": 9, "sad": 7}},
        "rejected": {"texts": 6, "by_reason": {"leak": 4, "refusal": 2}, "by_reason_and_emotion": rejected},
        "given_up": {"texts": 1, "by_reason": {"refusal": 1}, "by_reason_and_emotion": given_up},
        "tokens": {"read": 1234.5, "written": 98765},
        "usd": usd,
        "seconds": 3700,
    }


def test_leak_rates_are_of_what_was_asked_for_or_read_and_of_what_is_kept() -> None:
    stories = corpus(("calm", "", "All calmly done."), ("calm", "", "All done."), ("sad", "", "He was calm."))
    read = leak_rates(stories, screened(3, 0, leaked=1))
    assert read == {"before": 1 / 4, "before_among": "read", "after": 1 / 3, "left": 1}
    asked = leak_rates(stories, screened(3, 0) | {"writing": {"stories": written(None), "neutral": None}})
    assert asked == {"before": 4 / 16, "before_among": "asked", "after": 1 / 3, "left": 1}
    assert leak_rates(stories, screened(3, 0, looked=False))["before"] is None
    assert leak_rates(stories.assign(other_emotion=["", None, "calm"]), screened(3, 0))["left"] == 2


class Page(HTMLParser):
    """Collects the tags with their attributes, the text and the style of a page."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.styles: list[str] = []
        self.texts: list[str] = []
        self.inside = ""
        self.feed(source)
        self.close()
        self.said = " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.inside = tag

    def handle_endtag(self, _tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        (self.styles if self.inside == "style" else self.texts).append(data)


def made(
    folder: Path, stories: pd.DataFrame, neutral: pd.DataFrame, report: dict[str, Any], emotions: list[str], **more: Any
) -> tuple[dict[str, Any], Page]:
    write_corpus(stories, folder / "stories.parquet")
    write_corpus(neutral, folder / "neutral.parquet")
    write_json(folder / "screening.json", report)
    spec = {"title": "A corpus", "emotions": emotions, "seed": 3, "description": {}} | more
    tables = [folder / name for name in ("stories.parquet", "neutral.parquet", "screening.json")]
    outputs = [folder / "corpus_card.json", folder / "corpus_card.html"]
    corpus_card(*tables, *outputs, **spec)
    before = [path.read_bytes() for path in outputs]
    corpus_card(*tables, *outputs, **spec)
    assert [path.read_bytes() for path in outputs] == before, "the same twice"
    assert len(list(folder.iterdir())) == 5
    return json.loads(outputs[0].read_text(encoding="utf-8")), Page(outputs[1].read_text(encoding="utf-8"))


def test_the_card_of_the_starter_corpus(tmp_path: Path) -> None:
    stories, neutral = shipped("starter"), shipped("starter", "neutral")
    emotions = sorted(set(stories["emotion"]))
    report = screened(len(stories), len(neutral), leaked=54)
    card, page = made(tmp_path, stories, neutral, report, emotions, description={"stories": {"file": "a.jsonl"}})
    assert card["counts"]["by_emotion"] == dict.fromkeys(emotions, 6)
    assert card["counts"]["stories"]["by_reason_and_emotion"] == {"leak": {"calm": 54}}
    assert card["leaks"] == {"before": 54 / 1080, "before_among": "read", "after": 0, "left": 0}
    assert (card["writing"], card["sampled"], card["overlap"]["matrix"]) == (None, 1026, None)
    assert len(card["overlap"]["pairs"]) == 50
    bag = card["bag_of_words"]
    low, high = map(percent, bag["interval"])
    assert (
        f"A classifier that sees only which words occur names the emotion of {percent(bag['accuracy'])} of stories "
        f"(95 % interval {low} to {high}) under topics that it has not seen; chance is 0.58 %."
    ).replace("\u00a0", " ") in page.said
    assert "The texts were imported" in page.said
    assert "stories, file a.jsonl" in page.said
    read = stories.set_index("id").loc[card["to_read"]]
    assert len(read) == read["emotion"].nunique() == 20
    for text in read["text"]:
        assert " ".join(text.split()) in page.said
    bars = [attributes for tag, attributes in page.tags if tag == "rect"]
    histograms = [card["words_per_text"][kind]["histogram"] for kind in ("stories", "neutral")]
    assert [int(bar["height"]) for bar in bars] == [n for histogram in histograms for n in histogram["counts"]]


def test_the_card_of_a_written_corpus_says_what_it_cost_and_what_was_rejected(tmp_path: Path) -> None:
    stories = corpus(*((f, f"t{n}", f"Word of {f} number {n}.") for f in ("calm", "sad") for n in range(6)))
    neutral = stories.head(2).assign(emotion="")
    writing = {"stories": written(0.1234), "neutral": written(None)}
    report = screened(12, 2) | {"writing": writing}
    card, page = made(tmp_path, stories, neutral, report, ["calm", "sad"])
    assert card["writing"] == writing
    assert "Stories 13 16 12 1,234 98,765 0.1234 1 h 1 min" in page.said
    assert "Neutral texts 13 16 2 1,234 98,765 – 1 h 1 min" in page.said
    assert "holds its emotion word 4 0 0 a refusal 2 1 0" in page.said
    assert "25.0 % held their emotion word" in page.said
    # Every story of calm holds its word, as the second look says.
    assert card["leaks"]["left"] == 12
    assert "Of the 12 that were kept, 12 (100.0 %) hold it." in page.said


def test_nothing_of_a_text_is_taken_for_markup_and_nothing_is_asked_of_any_host(tmp_path: Path) -> None:
    stories = corpus(*((f"{HOSTILE}{n % 2}", f"{HOSTILE}{n}", f"{HOSTILE} {n}") for n in range(8)))
    emotions = sorted(set(stories["emotion"]))
    hostile = {"title": HOSTILE, "description": {HOSTILE: HOSTILE}}
    report = screened(8, 0)
    report["stories"]["by_reason"] = {HOSTILE: 3}
    report["stories"]["by_reason_and_emotion"] = {HOSTILE: {HOSTILE: 3}}
    _, page = made(tmp_path, stories, empty_corpus(), report, emotions, **hostile)
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "img", "iframe", "link", "object", "form"}
    assert page.said.count(HOSTILE) >= 1 + 2 + 3 * 8
    attributes = [(name, value) for _, found in page.tags for name, value in found.items()]
    assert {value for name, value in attributes if name in ("href", "src")} == {"https://arxiv.org/abs/1510.03055"}
    assert not [name for name, _ in attributes if name.startswith("on") or name == "style"]
    (policy,) = [found["content"] for tag, found in page.tags if tag == "meta" and "http-equiv" in found]
    (style,) = page.styles
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy == f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    assert "prefers-color-scheme: dark" in style
    assert "&" not in style


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_few_stories_without_topics_or_neutral_texts_have_a_card(count: int, tmp_path: Path) -> None:
    rows = [(("calm", "sad", "proud")[n % 3], "", f"It is said {n} times over.") for n in range(count)]
    emotions = ["calm", "sad", "proud", "angry"]
    card, page = made(tmp_path, corpus(*rows), empty_corpus(), screened(count, 0), emotions)
    assert sum(card["counts"]["by_emotion"].values()) == count
    assert card["words_per_text"]["neutral"] is None
    assert ("cannot be computed" in page.said) == (count < 5)
    assert page.said.count("This corpus has none.") == 2
    assert card["to_read"]


def test_a_large_corpus_is_sampled_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surface.sample, "__defaults__", (24,))
    stories = planted("sign{e} place{t}")
    card, page = made(tmp_path, stories, empty_corpus(), screened(48, 0), [f"e{n}" for n in range(4)])
    assert (card["sampled"], card["bag_of_words"]["stories"], card["bag_of_words"]["of"]) == (24, 24, 48)
    assert card["bag_of_words"]["accuracy"] == 1
    assert card["variety"]["words"] == 48 * 3
    assert "is computed from 24 stories" in page.said


def test_figures_are_said_in_words() -> None:
    assert [percent(share) for share in (None, 0, 0.00585, 0.5, 1)] == [
        "–",
        "0.0\u00a0%",
        "0.58\u00a0%",
        "50.0\u00a0%",
        "100.0\u00a0%",
    ]
    assert [duration(seconds) for seconds in (0.4, 59.6, 3599, 90_061)] == [
        "0 s",
        "1 min 0 s",
        "59 min 59 s",
        "25 h 1 min",
    ]
