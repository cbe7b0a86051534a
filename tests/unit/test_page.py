"""The summary page: it says what the numbers say, stands alone, and takes no markup from names."""

import base64
import json
import re
from copy import deepcopy
from html.parser import HTMLParser
from pathlib import Path

import pytest
from docutils.core import publish_doctree

from affectome.figures import FIGURES
from affectome.report.page import caption, headline, verdict, write_page

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
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data.strip()


@pytest.fixture
def make(tmp_path):
    """Writes the page of a summary and returns its source."""
    figures = tmp_path / "figures"
    figures.mkdir()
    for name in FIGURES:
        (figures / f"{name}.svg").write_text(f"<svg>{name}</svg>", encoding="utf-8")

    def write(summary: dict = SUMMARY, title: str = "A run", norms: dict = NORMS, leaks: bool = True) -> str:
        contents = {
            "summary": summary,
            "screening": {"rules": {"leaks": leaks}},
            "correlations": {"min_words": 5, "bootstrap": 2000, "permutations": 1000},
        }
        paths = [tmp_path / f"{name}.json" for name in contents]
        for path, content in zip(paths, contents.values(), strict=True):
            path.write_text(json.dumps(content), encoding="utf-8")
        write_page(*paths, figures, tmp_path / "summary.html", title, norms)
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
    assert others == {"https://arxiv.org/abs/2604.07729"}
    assert not re.search(r"@import|url\(", source)


def test_figures_are_inside_with_their_captions(make):
    page = Page(make())
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    contents = [base64.b64decode(image["src"].partition(",")[2]).decode() for image in images]
    assert contents == [f"<svg>{name}</svg>" for name in FIGURES]
    assert all(image["alt"] for image in images)
    assert all(caption(name) in page.said for name in FIGURES)


def test_the_interactive_figure_is_linked_where_there_is_one(make, tmp_path):
    (tmp_path / "figures" / "pc_scatter.html").touch()
    links = {attributes.get("href") for tag, attributes in Page(make()).tags if tag == "a"}
    assert "figures/pc_scatter.html" in links


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


@pytest.mark.parametrize("file", sorted(path.relative_to(TEXTS).as_posix() for path in TEXTS.rglob("*.rst")))
def test_texts_are_plain_restructured_text(file):
    """`snakemake --report` renders them as templates of reStructuredText, the page shows them as they stand."""
    text = (TEXTS / file).read_text(encoding="utf-8")
    document = publish_doctree(text, settings_overrides={"report_level": 1, "halt_level": 1})
    assert {type(node).__name__ for node in document.children} == {"paragraph"}
    assert not re.search(r"\{[{%#]", text)
    if file.startswith("captions/"):
        assert document.astext() == text.strip()
        assert len(document.children) == 1


def test_every_figure_has_a_caption():
    assert {path.stem for path in (TEXTS / "captions").iterdir()} == {*FIGURES, "summary"}
