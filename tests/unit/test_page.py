"""The summary page: it says what the numbers say, stands alone, and takes no markup from names."""

import base64
import json
import re
from copy import deepcopy
from html.parser import HTMLParser
from pathlib import Path

import pytest
from docutils.core import publish_doctree

from affectome.figures import COMPARISON_FIGURES, FIGURES, STEERING_FIGURES
from affectome.figures.captions import description, write_caption
from affectome.questions import ANSWER_FIGURES, in_order
from affectome.report.overview import escape, write_overview
from affectome.report.page import headline, verdict, write_page

TEXTS = Path(__file__).resolve().parents[2] / "resources" / "report"
NORMS = {"first": "First & Co (1977), scales −1 to 1", "second": "Second (2019), CC BY 4.0"}
VOID = {"meta", "link", "br", "img", "hr", "input"}


def result(loo_r: float, low: float, p: float | None, plane_p: float = 0.002) -> dict:
    return {
        "component": 2,
        "r": -0.456,
        "ci": [-0.6, -0.2],
        "p": 0.0123,
        "plane_r": 0.654,
        "plane_p": plane_p,
        "loo_r": loo_r,
        "loo_ci": [low, 0.913],
        "loo_p": p,
    }


def layer(valence: float, norms: dict | None = None) -> dict:
    first = {"n": 45, "valence": result(valence, 0.762, 0.001), "arousal": result(0.41, 0.11, 0.04)}
    return {
        "explained_variance": [0.2512, 0.1],
        "norms": norms or {"first": first, "second": {"n": 4, "valence": None}},
        "reliability_mean": 0.83,
        "residual_norm": 247.0,
        "neutral_components": 6,
    }


SUMMARY = {
    "run": "demo",
    "model": {"name": "tiny", "blocks": 30, "width": 1576, "revision": "abc123"},
    "corpus": {
        "name": "starter",
        "stories": 1026,
        "emotions": 171,
        "neutral": 72,
        "dropped": {"leak": 7, "duplicate": 0, "too_few_tokens": 2},
    },
    "layer": {"auto": 20},
    "layers": {"9": layer(0.5), "10": layer(0.7), "20": layer(0.846)},
    "pairs": {
        "similar": [{"a": "enraged", "b": "furious", "cosine": 0.9012}],
        "opposed": [{"a": "sullen", "b": "inspired", "cosine": -0.6611}],
    },
    "tokens": 178234,
    "tokens_per_second": 1432.4,
    "fingerprints": {"activations": "f00d", "vectors": {"9": "aaaa", "10": "bbbb", "20": "cccc"}},
}


def entry(verdict: str, outcome: str, **changed) -> dict:
    """What a verdict.json says of one vector."""
    return {
        "verdict": verdict,
        "reasons": [f"It is {verdict}.", "With a second sentence."],
        "outcome": outcome,
        "sign": 1,
        "strength": 0.025,
        "safe": [-0.1, 0.05],
        "baseline": {"mean": -6.754, "ci": [-7.7, -5.7]},
        "effect": {"mean": 0.966, "ci": [-0.236, 1.176], "p_holm": 0.0048, "n_prompts": 12, "n_items": 12},
        "controls": {
            "random:0": {"strength": 0.025, "effect": -0.41, "difference": 1.1, "difference_low": 0.93},
            # Closest is what is left behind least surely, and not what has the largest effect.
            "topic:home": {"strength": 0.025, "effect": 0.07, "difference": 0.89, "difference_low": -0.12},
            "shuffled:0": {"strength": 0.025, "effect": 0.33, "difference": 0.7, "difference_low": 0.5},
        },
        "asking": {"mean": 4.395, "ci": [3.272, 5.396]},
        "dose": {},
        "detectable": 0.363,
        **changed,
    }


VERDICT = {
    "trial": "words",
    "kind": "expression",
    "title": "What is said of feelings.",
    "unit": "nats",
    "alpha": 0.05,
    "smallest_effect": 0.5,
    "n": {"prompts": 24, "items_per_condition": 1024, "split": "prompt", "chosen_on": 11, "reported_on": 13,
          "unit": "prompt"},
    "counts": {"supported": 1, "not supported": 1, "inconclusive": 1},
    "vectors": {
        "afraid": entry("supported", "logprob:afraid"),
        "calm": entry("not supported", "logprob:calm", sign=-1),
        "proud": entry("inconclusive", "logprob:proud", strength=None, safe=[0.0, 0.0], effect=None, controls={},
                       asking=None, detectable=None),
    },
}  # fmt: skip


def curve(**failed: list[float]) -> list[dict]:
    """Measured strengths, with the gates that fail at each."""
    return [
        {"strength": strength, "gates": {gate: strength not in failed.get(gate, []) for gate in GATES}}
        for strength in (-0.1, -0.05, 0.0, 0.05, 0.1)
    ]


GATES = {"perplexity_ratio": 1.5, "completion": 0.95, "accuracy_drop": 0.02, "repetition": 0.1}
SAFE = {
    "trial": "price",
    "gates": GATES,
    "n": {"texts": 8, "questions": 2000, "generations": 6},
    "baseline": {"accuracy": 0.65, "completion": 0.9, "repetition": 0.013},
    "vectors": {
        "afraid": {"low": -0.05, "high": 0.05, "curve": curve(completion=[-0.1, 0.1], repetition=[-0.1])},
        "calm": {"low": -0.1, "high": 0.0, "curve": curve(perplexity_ratio=[0.05, 0.1])},
    },
}


class Page(HTMLParser):
    """Checks that tags nest, and collects text, tags and table rows."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.tags: list[tuple[str, dict]] = []
        self.rows: list[list[str]] = []
        self.feed(source)
        self.close()
        assert self.open == []
        self.said = re.sub(r" ([,.;:)])", r"\1", " ".join(" ".join(self.text).split())).replace("( ", "(")

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.text.append(data)
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data.strip()


@pytest.fixture
def make(tmp_path):
    """Writes the page of a summary and returns its source."""
    figures = tmp_path / "figures"
    figures.mkdir()
    for name in FIGURES:
        (figures / f"{name}.svg").write_text(f"<svg>{name}</svg>", encoding="utf-8")
        write_caption(figures, name, f"Here, {name} < 45 words.")

    def write(
        summary: dict = SUMMARY, title: str = "A run", norms: dict = NORMS, leaks: bool = True, trials: tuple = ()
    ) -> str:
        contents = {
            "summary": summary,
            "screening": {"rules": {"leaks": leaks}},
            "correlations": {"min_words": 5, "bootstrap": 2000, "permutations": 1000},
        }
        paths = [tmp_path / f"{name}.json" for name in contents]
        for path, content in zip(paths, contents.values(), strict=True):
            path.write_text(json.dumps(content), encoding="utf-8")
        results = []
        for number, found in enumerate(trials):
            kind = found.get("kind", "cost")
            folder = tmp_path / "steering" / f"trial{number}"
            (folder / "figures").mkdir(parents=True, exist_ok=True)
            for name in STEERING_FIGURES[kind]:
                (folder / "figures" / f"{name}.svg").write_text(f"<svg>{number} {name}</svg>", encoding="utf-8")
                write_caption(folder / "figures", name, f"Here, {name} of trial {number}.")
            results.append(folder / ("safe_ranges.json" if kind == "cost" else "verdict.json"))
            results[-1].write_text(json.dumps(found), encoding="utf-8")
        write_page(*paths, figures, tmp_path / "summary.html", title, norms, results)
        return (tmp_path / "summary.html").read_text(encoding="utf-8")

    return write


def test_the_headline_says_the_numbers(make):
    said = Page(make()).said
    assert "human ratings of 45 words (first), each left out in turn, can be predicted: valence strongly" in said
    assert "valence strongly (r = 0.85, 95 % interval 0.76 to 0.91, p = 0.001), and" in said
    assert "and arousal weakly (r = 0.41, 95 % interval 0.11 to 0.91, p = 0.040)." in said
    assert "beyond ±0.29 in about 1 of 20 tries" in said
    assert "the held-out r of valence runs from 0.50 to 0.85 (median 0.70); the headline layer has the highest" in said
    assert "nothing was steered here" in said


def test_a_negative_r_is_explained_where_there_is_one(make):
    explained = "A negative r is no agreement the other way round"
    assert explained not in Page(make()).said
    assert explained in Page(make({**SUMMARY, "layers": {**SUMMARY["layers"], "20": layer(-0.4)}})).said


def test_tables_hold_the_summary(make):
    rows = Page(make()).rows
    whole, plane, best = ["0.85", "0.76 to 0.91", "0.001"], ["0.65", "0.002"], ["−0.46", "−0.60 to −0.20", "0.012"]
    assert ["first", "valence", "45", *whole, *plane, "PC2", *best] in rows
    assert ["second", "–", "4", "fewer than 5 rated words: not computed"] in rows
    by_layer = [row for row in rows if row[0] in SUMMARY["layers"]]
    assert [row[0] for row in by_layer] == ["9", "10", "20"]
    assert by_layer[1] == ["10", "0.70", "0.41", "0.65", "0.65", "–", "–", "–", "–", "0.83", "25.1", "10.0", "6"]
    assert ["enraged", "furious", "0.90"] in rows
    assert ["sullen", "inspired", "−0.66"] in rows


def test_what_was_run_is_told(make):
    said = Page(make()).said
    assert "tiny: 30 decoder blocks, width 1,576" in said
    assert "starter: 1,026 stories about 171 emotions, 72 neutral texts" in said
    assert "7 (holds its emotion word), 2 (too few tokens to average)" in said
    assert "178,234 tokens, 1,432 per second" in said
    assert all(word in said for word in ("abc123", "f00d", "cccc", "First & Co (1977)", "2,000 resamples"))
    nothing = deepcopy(SUMMARY)
    nothing["corpus"]["dropped"] = {"leak": 0}
    assert "Dropped none" in Page(make(nothing)).said


def test_agreement_is_called_by_its_interval():
    assert verdict(result(0.8, 0.51, 0.001)) == "strong"
    assert verdict(result(0.8, 0.5, 0.001)) == "moderate"
    assert verdict(result(0.5, 0.2, 0.001)) == "weak"
    assert verdict(result(0.8, 0.6, 0.05)) == "none"
    assert verdict(result(0.8, 0.6, None)) == "none"
    assert verdict(result(-0.3, -0.9, 0.01)) == "none"


def test_disagreement_is_said_in_words(make):
    summary = deepcopy(SUMMARY)
    first = summary["layers"]["20"]["norms"]["first"]
    first["arousal"] = result(0.1, -0.2, 0.3, plane_p=0.9)
    assert "but arousal not demonstrably (r = 0.10, 95 % interval −0.20 to 0.91" in Page(make(summary)).said
    first["valence"] = result(0.2, -0.2, 0.2)
    said = Page(make(summary)).said
    assert "cannot demonstrably be predicted: valence (r = 0.20" in said
    assert "Arousal does not demonstrably show in the two largest components" in said


def test_too_few_words_are_no_result(make):
    summary = deepcopy(SUMMARY)
    summary["layers"] = {"20": layer(0, {"first": {"n": 1}, "second": {"n": 0, "valence": None}})}
    said = Page(make(summary)).said
    assert "No agreement with human ratings can be computed: first rates 1 word of this run" in said
    assert headline(summary, "first")["results"] == {}


def test_numbers_that_are_missing_are_dashes(make):
    summary = deepcopy(SUMMARY)
    summary["tokens_per_second"] = None
    here = summary["layers"]["20"]
    here["reliability_mean"] = None
    here["norms"]["first"]["valence"] |= {"r": None, "ci": [None, None], "p": None, "plane_r": None, "plane_p": None}
    page = Page(make(summary))
    assert "split-half reliability of the vectors – on average" in page.said
    assert "Valence on the two largest components of the vectors: not computed" in page.said
    assert next(row for row in page.rows if "valence" in row[:2])[-6:] == ["–", "–", "PC2", "–", "–", "–"]


def test_leaking_stories_are_admitted(make):
    assert "were dropped, but synonyms" in Page(make()).said
    assert "were not even dropped" in Page(make(leaks=False)).said


def test_the_page_stands_alone(make):
    source = make()
    page = Page(source)
    assert "script" not in {tag for tag, _ in page.tags}
    links = {value for _, attributes in page.tags for name, value in attributes.items() if name in ("href", "src")}
    others = {link for link in links if not link.startswith("data:image/svg+xml;base64,")}
    # Its table of contents leads within it.
    anchors = {f"#{attributes['id']}" for _, attributes in page.tags if "id" in attributes}
    assert {link for link in others if link.startswith("#")} <= anchors
    assert {link for link in others if not link.startswith("#")} == {"https://arxiv.org/abs/2604.07729"}
    assert not re.search(r"@import|url\(", source)


def test_figures_are_inside_with_their_captions(make):
    page = Page(make())
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    contents = [base64.b64decode(image["src"].partition(",")[2]).decode() for image in images]
    by_category = sorted(FIGURES, key=lambda name: in_order(FIGURES[name].category))
    assert contents == [f"<svg>{name}</svg>" for name in by_category]
    assert all(image["alt"] for image in images)
    assert all(f"{description(name)} Here, {name} < 45 words." in page.said for name in FIGURES)


def test_the_interactive_figure_is_linked_where_there_is_one(make, tmp_path):
    (tmp_path / "figures" / "interactive.html").touch()
    links = {attributes.get("href") for tag, attributes in Page(make()).tags if tag == "a"}
    assert "figures/interactive.html" in links


def test_tables_are_accessible(make):
    page = Page(make())
    assert all("scope" in attributes for tag, attributes in page.tags if tag == "th")
    tags = [tag for tag, _ in page.tags]
    assert tags.count("caption") == tags.count("table") == 4
    assert ("html", {"lang": "en"}) in page.tags
    names = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(names) == len(set(names))
    referred = [attributes["aria-labelledby"] for _, attributes in page.tags if "aria-labelledby" in attributes]
    assert set(referred) <= set(names)


def test_names_are_text_and_never_markup(make):
    hostile = "<script>alert(1)</script>"
    summary = deepcopy(SUMMARY)
    summary["run"] = summary["model"]["name"] = summary["corpus"]["name"] = summary["model"]["revision"] = hostile
    summary["corpus"]["dropped"] = {hostile: 3}
    summary["pairs"]["similar"][0] |= {"a": hostile, "b": '"><img src=x onerror=alert(1)>'}
    for each in summary["layers"].values():
        each["norms"] = {hostile: each["norms"]["first"]}
    source = make(summary, title=hostile, norms={hostile: hostile})
    page = Page(source)
    assert hostile not in source
    assert "script" not in {tag for tag, _ in page.tags}
    assert hostile in "".join(page.text)
    assert not any("onerror" in attributes for _, attributes in page.tags)


def test_the_same_numbers_give_the_same_page(make):
    assert make() == make()


# ---------------------------------------------------------------- steering


def ids(page: Page) -> set:
    return {attributes["id"] for _, attributes in page.tags if "id" in attributes}


def test_runs_without_trials_say_nothing_of_steering(make):
    page = Page(make())
    assert "steering" not in ids(page)
    assert "Does steering work here?" not in page.said


def test_runs_with_trials_do_not_say_that_nothing_was_steered(make):
    page = Page(make(trials=(VERDICT, SAFE)))
    assert "steering" in ids(page)
    assert "nothing was steered here" not in page.said
    assert "what the model does when it is steered is another question, asked below" in page.said
    only_cost = Page(make(trials=(SAFE,))).said
    assert "nothing was steered here" not in only_cost
    assert "steering was tried here only for what it costs" in only_cost
    assert "This run asked what steering costs, and not what it does." in only_cost
    assert "How it was computed: every condition" not in only_cost


def test_steering_is_answered_in_a_sentence(make):
    def counted(supported: int, excluded: int, open_: int) -> dict:
        return {**VERDICT, "counts": {"supported": supported, "not supported": excluded, "inconclusive": open_}}

    said = Page(make(trials=(counted(4, 0, 2),))).said
    assert "Along 4 of 6 vectors steering did what was predicted beyond all controls, inside the safe range." in said
    assert "inside the safe range. For 2 the trial cannot tell." in said
    assert "is ruled out" not in said.partition("How to read this")[0]
    said = Page(make(trials=(counted(0, 3, 0),))).said
    assert "Along none of 3 vectors steering was shown to do what was predicted" in said
    assert "For 3 an effect of the size of interest is ruled out" in said
    said = Page(make(trials=(counted(1, 0, 0),))).said
    assert "Along 1 of 1 vector steering did" in said
    assert "cannot tell." not in said.partition("How to read this")[0]


def test_several_trials_are_answered_together_and_one_by_one(make):
    other = {
        **deepcopy(VERDICT),
        "trial": "deeds",
        "kind": "behaviour",
        "counts": {"supported": 0, "not supported": 0, "inconclusive": 3},
    }
    for found in other["vectors"].values():
        found["verdict"] = "inconclusive"
    page = Page(make(trials=(SAFE, VERDICT, other)))
    assert "1 of 6 predictions in 2 trials was borne out: steering did what was predicted" in page.said
    assert "For 4 the trials cannot tell." in page.said
    assert "words: ✓ supported for afraid; ✗ not supported for calm; ? inconclusive for 1." in page.said
    assert "deeds: ? inconclusive for 3." in page.said
    links = {attributes.get("href") for tag, attributes in page.tags if tag == "a"}
    assert {"#trial-1", "#trial-2"} <= links
    assert {"trial-1", "trial-2"} <= ids(page)
    none = Page(make(trials=(other, other))).said
    assert (
        "None of 6 predictions in 2 trials was borne out: nowhere was steering shown to do what was predicted" in none
    )


def test_verdicts_are_those_of_the_file(make):
    page = Page(make(trials=(VERDICT,)))
    rows = {row[0]: row for row in page.rows if len(row) == 11}
    effect, asking = "0.97−0.24 to 1.18", "4.393.27 to 5.40"
    numbers = ["0.025", "−0.1 to 0.05", "−6.75", effect, "0.005", "topic:home, 0.07", asking, "0.36"]
    assert rows["afraid"] == ["afraid", "logprob up", "✓\u00a0supported", *numbers]
    assert rows["calm"][1:3] == ["logprob down", "✗\u00a0not supported"]
    assert rows["proud"][1:] == ["logprob up", "?\u00a0inconclusive", "–", "none", "−6.75", *"–––––"]
    assert "24 prompts, 1,024 items per condition; the strength was chosen on 11 prompts" in page.said
    assert "and baseline, effects and p are from the other 13." in page.said
    assert "Smallest effect of interest: 0.50 (nats). Corrected level: 0.05." in page.said
    assert "inconclusive: It is inconclusive. With a second sentence." in page.said
    assert "every item counts by itself" not in page.said


def test_what_limits_a_trial_is_said(make):
    trial = deepcopy(VERDICT)
    trial["n"]["unit"] = "item"
    trial["vectors"]["afraid"]["safe"] = None
    trial["vectors"]["afraid"]["controls"]["random:0"]["difference_low"] = None
    page = Page(make(trials=(trial,)))
    assert "so few prompts that every item counts by itself" in page.said
    (row,) = [row for row in page.rows if row[0] == "afraid"]
    assert row[4] == "not measured"
    assert row[8] == "random:0, −0.41"


def test_costs_are_those_of_the_file(make):
    page = Page(make(trials=(SAFE,)))
    ends = "texts that end by themselves"
    assert ["afraid", "−0.05 to 0.05", f"at −0.1: {ends}, repetition", f"at 0.1: {ends}"] in page.rows
    assert ["calm", "−0.1 to 0", "none tested", "at 0.05: perplexity of neutral text"] in page.rows
    assert "1 of 2 vectors has a positive strength at which the model still works" in page.said
    assert "at most 1.50 times" in page.said
    assert "at least 95 % as many texts" in page.said
    assert "no more than 2 percentage points beyond noise, and repetition no more than 0.10 higher" in page.said
    assert "8 neutral texts, 2,000 questions and 6 texts" in page.said
    assert "65 % right answers, 90 % of texts end by themselves, repetition 0.01" in page.said


def test_figures_of_trials_are_inside_and_texts_are_linked(make):
    page = Page(make(trials=(VERDICT, SAFE)))
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    contents = [base64.b64decode(image["src"].partition(",")[2]).decode() for image in images]
    assert contents[:3] == ["<svg>0 dose_response</svg>", "<svg>0 specificity</svg>", "<svg>1 cost_curves</svg>"]
    for number, name in ((0, "dose_response"), (0, "specificity"), (1, "cost_curves")):
        assert f"{description(name)} Here, {name} of trial {number}." in page.said
    links = {attributes.get("href") for tag, attributes in page.tags if tag == "a"}
    assert {"steering/trial0/generations.html", "steering/trial1/generations.html"} <= links


def test_tall_figures_are_folded(make):
    many = {**VERDICT, "vectors": {f"v{n}": entry("supported", "x") for n in range(17)}}
    assert "Show the figure (a tall one)" in Page(make(trials=(many,))).said
    assert "Show the figure (a tall one)" not in Page(make(trials=(VERDICT,))).said


def test_sections_on_steering_are_accessible_and_stand_alone(make):
    source = make(trials=(VERDICT, SAFE, {**VERDICT, "trial": "again"}))
    page = Page(source)
    names = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(names) == len(set(names))
    assert all("scope" in attributes for tag, attributes in page.tags if tag == "th")
    tags = [tag for tag, _ in page.tags]
    assert tags.count("caption") == tags.count("table") == 4 + 3
    assert "script" not in tags
    assert not re.search(r"@import|url\(", source)
    regions = [attributes["aria-label"] for _, attributes in page.tags if "aria-label" in attributes]
    assert len(regions) == len(set(regions))


def test_names_of_trials_are_text_and_never_markup(make):
    hostile = "<script>alert(1)</script>"
    trial = {**deepcopy(VERDICT), "trial": hostile, "title": hostile, "unit": hostile}
    trial["vectors"] = {hostile: entry("supported", f"logprob:{hostile}", reasons=[hostile])}
    trial["vectors"][hostile]["controls"] = {hostile: VERDICT["vectors"]["afraid"]["controls"]["random:0"]}
    cost = {**SAFE, "trial": hostile + "2", "vectors": {hostile: SAFE["vectors"]["afraid"]}}
    source = make(trials=(trial, cost))
    assert hostile not in source
    assert "script" not in {tag for tag, _ in Page(source).tags}


@pytest.mark.parametrize("file", sorted(path.name for path in (TEXTS / "captions").iterdir()))
def test_captions_are_plain_restructured_text(file):
    """`snakemake --report` renders them as templates of reStructuredText, the page shows them as they stand."""
    text = (TEXTS / "captions" / file).read_text(encoding="utf-8")
    document = publish_doctree(text, settings_overrides={"report_level": 1, "halt_level": 1})
    assert {type(node).__name__ for node in document.children} == {"paragraph"}
    assert not re.search(r"\{[{%#]", text)
    assert document.astext() == text.strip()
    assert len(document.children) == 1


def test_every_figure_has_a_caption():
    steering = {name for figures in STEERING_FIGURES.values() for name in figures}
    others = {"summary", "generations", "interactive", "comparison", "coloured_passages", "run_geometry"}
    captions = {path.stem for path in (TEXTS / "captions").iterdir()}
    assert captions == {*FIGURES, *ANSWER_FIGURES, *steering, *COMPARISON_FIGURES, *others}


# ---------------------------------------------------------------- the front page of Snakemake's report


def overview(folder: Path, summary: dict = SUMMARY, title: str = "A run", trials: tuple = (VERDICT, SAFE)) -> str:
    """What a run's part of the front page says once it is rendered; fails where it is no good reStructuredText."""
    paths = [folder / f"{number}.json" for number in range(1 + len(trials))]
    for path, content in zip(paths, (summary, *trials), strict=True):
        path.write_text(json.dumps(content), encoding="utf-8")
    write_overview(paths[0], folder / "overview.rst", title, list(NORMS), paths[1:])
    text = (folder / "overview.rst").read_text(encoding="utf-8")
    return " ".join(publish_doctree(text, settings_overrides={"halt_level": 1}).astext().split())


def test_the_front_page_says_what_was_run_and_found(tmp_path):
    said = overview(tmp_path)
    assert said.startswith("A run (run demo) Model tiny: 30 blocks, 3 of them analysed; the numbers below are those of")
    assert "1,026 stories about 171 emotions, 72 neutral texts, 9 dropped" in said
    assert "cosine of 0.83 on average" in said
    assert "first (n = 45): valence strongly, r = 0.85, 95 % interval 0.76 to 0.91, p = 0.001; arousal weakly" in said
    assert "second (n = 4): too few words to correlate." in said
    assert "trial words: 24 prompts. afraid supported (0.97 nats, −0.24 to 1.18); calm not supported" in said
    assert "proud inconclusive." in said
    assert "trial price: 8 texts, 2000 questions. Safe strengths: afraid −0.05 to 0.05; calm −0.1 to 0." in said


@pytest.mark.parametrize("hostile", ["*b* `c` |d| e_ <f> g:: \\h", ".. raw:: html", "- item", "x__", "[1]_"])
def test_names_are_words_and_never_restructured_text(hostile, tmp_path):
    trial = {**deepcopy(VERDICT), "trial": hostile, "vectors": {hostile: entry("supported", "x")}}
    said = overview(tmp_path, {**SUMMARY, "run": hostile}, hostile, (trial,))
    assert said.count(" ".join(hostile.split())) == 4


def test_escaping_leaves_words_alone():
    assert escape("at ease, 0.31 to 0.77") == "at ease, 0.31 to 0.77"
