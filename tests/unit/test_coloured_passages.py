"""Passages coloured token by token: values are the residuals', the page shows them, and no text is ever markup."""

import base64
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from affectome.activations.projections import external_projections
from affectome.activations.tokens import tokenize
from affectome.analyses.coloured_passages import coloured_passages, own_highest, pieces, unlike
from affectome.corpus.tables import PROJECTION
from affectome.errors import UserError
from affectome.figures.answers import coloured_passages as answers
from affectome.figures.captions import description
from affectome.files import write_json
from affectome.report import passages as page_of
from affectome.report.passages import LEVELS, level, scale, shades, signed, write_passages
from tests.helpers import NEUTRAL, STORIES, TEXTS, tiny_model, tiny_tokenizer, write_corpora, write_manifest
from tests.planted import strict_json, vector_file

LAYER, WIDTH, NORM = 1, 16, 2.5
HOSTILE = "</p><script>alert(1)</script><img src=x onerror=alert(2)> & \"quoted\" 'single' {{ 7 * 7 }}"
EMOTIONS = ["afraid", "calm", "sad"]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tiny_model(tmp_path_factory.mktemp("model"))
    write_manifest(folder)
    return folder


@pytest.fixture
def run(model, tmp_path):
    """Runs the question; returns its JSON and the source of its page."""

    def run(stories=STORIES, neutral=NEUTRAL, projections=None, emotions=EMOTIONS, **settings: Any) -> tuple[dict, str]:
        directions = np.random.default_rng(3).normal(size=(len(emotions), WIDTH))
        vectors = vector_file(tmp_path / "layer_1.h5", LAYER, list(emotions), directions, NORM)
        tables = write_corpora(tmp_path, stories, neutral)
        spec = {"emotions": 12, "max_tokens": 100, "dtype": "float32", "quantization": "none",
                "trust_remote_code": False, "seed": 0, "title": "Passages", "threads": 1}  # fmt: skip
        output, page = tmp_path / "c.json", tmp_path / "passages.html"
        projections = projections or {}
        coloured_passages(
            model / "manifest.json", vectors, *tables, list(projections.values()), list(projections),
            **spec | settings, output=output, page=page,
        )  # fmt: skip
        return strict_json(output), page.read_text(encoding="utf-8")

    return run


def residuals(folder: Path, text: str) -> np.ndarray:
    """The residuals after block `LAYER` of all tokens but the BOS (tokens, width), as Transformers gives them."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        states = model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True).hidden_states
    return states[LAYER + 1][0, 1:].numpy()


def directions() -> np.ndarray:
    values = np.random.default_rng(3).normal(size=(3, WIDTH))
    return values / np.linalg.norm(values, axis=1, keepdims=True)


# ------------------------------------------------------------ numbers


def test_values_are_the_projections_of_each_token_s_residual(run, model):
    found, _ = run(stories=[("calm", "A cup of tea."), ("sad", "Für 你.")])
    baseline = np.mean([residuals(model, text).mean(axis=0) for text in NEUTRAL], axis=0) @ directions().T / NORM
    np.testing.assert_allclose(list(found["baseline"]["projection"].values()), baseline, rtol=1e-4, atol=1e-5)
    calm, sad = found["passages"]
    assert (calm["emotion"], sad["emotion"]) == ("calm", "sad")
    expected = residuals(model, "A cup of tea.") @ directions().T / NORM - baseline
    np.testing.assert_allclose(calm["values"], expected, atol=3e-5)
    assert calm["pieces"] == list("A cup of tea.")
    # Bytes of one character are one piece with their mean.
    assert sad["pieces"] == list("Für 你.")
    of_bytes = residuals(model, "Für 你.") @ directions().T / NORM - baseline
    np.testing.assert_allclose(sad["values"][1], of_bytes[1:3].mean(axis=0), atol=3e-5)
    np.testing.assert_allclose(sad["values"][4], of_bytes[5:8].mean(axis=0), atol=3e-5)
    assert (calm["n_tokens"], sad["n_tokens"]) == (13, 9)
    assert found["n"] == {"passages": 2, "tokens": 22}
    assert found["layer"] == LAYER


def test_values_average_to_the_pooled_projection(run, model, tmp_path):
    rows = "".join(f'{{"text": "{text}"}}\n' for text in TEXTS[:5])
    (tmp_path / "t.jsonl").write_text(rows)
    run()  # for the vectors
    source = {"file": str(tmp_path / "t.jsonl"), "columns": {}, "table": None}
    external_projections(
        tmp_path / "neutral.parquet", model / "manifest.json", tmp_path / "layer_1.h5", source, 10, 1, 40, "float32",
        "none", 256, False, 0, "c", 1, tmp_path / "p.parquet", tmp_path / "p.json",
    )  # fmt: skip
    table = pd.read_parquet(tmp_path / "p.parquet").set_index("id")
    found, page = run(projections={"pile": tmp_path / "p.parquet"}, max_tokens=40)
    columns = [PROJECTION + emotion for emotion in EMOTIONS]
    baseline = table.loc[table["neutral"], columns].mean()
    chosen = table[~table["neutral"]]
    assert found["own"] is None
    assert found["from_stories"] is False
    assert len({entry["id"] for entry in found["passages"]}) == 3
    assert found["passages"][0]["id"] == chosen[PROJECTION + "afraid"].idxmax()
    for entry in found["passages"]:
        assert entry["source"] == "pile"
        pooled = (table.loc[entry["id"], columns] - baseline).to_numpy(dtype=float)
        np.testing.assert_allclose(list(entry["means"].values()), pooled, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(np.mean(entry["values"], axis=0), pooled, rtol=1e-3, atol=3e-5)
        assert "".join(entry["pieces"]) == table.loc[entry["id"], "text"]
    assert "pile: highest for afraid" in page
    assert "chosen by" in page


def test_the_first_token_of_a_sequence_is_not_read(tmp_path):
    folder = tiny_model(tmp_path / "m", tokenizer=tiny_tokenizer(bos=False))
    write_manifest(folder)
    vectors = vector_file(tmp_path / "v.h5", LAYER, EMOTIONS, directions(), NORM)
    tables = write_corpora(tmp_path, [("calm", "你 tea."), ("sad", "Oh.")], NEUTRAL)
    coloured_passages(
        folder / "manifest.json", vectors, *tables, [], [], 12, 100, "float32", "none", False, 0, "t", 1,
        tmp_path / "c.json", tmp_path / "p.html",
    )  # fmt: skip
    calm, sad = strict_json(tmp_path / "c.json")["passages"]
    # Two of three bytes of the first character are read.
    assert calm["values"][0] is not None
    assert calm["n_tokens"] == 7
    assert sad["values"][0] is None
    assert sad["n_tokens"] == 2
    assert 'class="unread" title="first token, not read">O<' in (tmp_path / "p.html").read_text(encoding="utf-8")


def test_passages_end_after_so_many_tokens(run):
    found, _ = run(max_tokens=10)
    assert [len(entry["pieces"]) for entry in found["passages"]] == [10, 10, 9]
    assert found["passages"][0]["pieces"] == list(STORIES[2][1][:10])


def test_stories_are_drawn_by_seed_one_of_each_emotion(run):
    stories = [(emotion, f"{emotion} story {number}.") for emotion in EMOTIONS for number in range(30)]
    first = [entry["id"] for entry in run(stories)[0]["passages"]]
    assert [entry["id"] for entry in run(stories[::-1])[0]["passages"]] == first
    assert [entry["id"] for entry in run(stories, seed=1)[0]["passages"]] != first
    found = run(stories)[0]
    assert [entry["emotion"] for entry in found["passages"]] == EMOTIONS
    assert found["own"]["n"] == 3
    assert found["own"]["chance"] == pytest.approx(1 / 3)


def test_what_there_is_nothing_of_is_said(run):
    with pytest.raises(UserError, match="no neutral texts"):
        run(neutral=[])
    with pytest.raises(UserError, match="no story has one of the emotions"):
        run(stories=[("proud", "We won.")])


def test_emotions_are_chosen_to_differ():
    rng = np.random.default_rng(1)
    centres = np.linalg.qr(rng.normal(size=(12, 12)))[0][:4]
    unit = np.repeat(centres, 5, axis=0) + 0.02 * rng.normal(size=(20, 12))
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    assert sorted(number // 5 for number in unlike(unit, 4)) == [0, 1, 2, 3]
    assert unlike(unit, 99) == list(range(20))
    assert unlike(unit[:1], 3) == [0]
    assert len(unlike(unit, 1)) == 1
    opposite = np.vstack([unit, -unit[:1]])
    assert set(unlike(opposite, 2)) == {20, int((unit @ unit[0]).argmax())}


def test_how_often_a_story_s_own_emotion_is_highest():
    shown = [
        {"emotion": own, "n_tokens": count, "means": {"a": 0.1, "b": value, "c": 0.0}}
        for own, value, count in (("b", 0.2, 5), ("a", 0.0, 5), ("c", 0.3, 5), ("c", None, 0))
    ]
    found = own_highest(shown, ["a", "b", "c"])
    assert (found["hits"], found["n"], found["chance"]) == (2, 3, 1 / 3)
    # Three trials of a third: two or three hits.
    assert found["p"] == pytest.approx(3 * (1 / 9) * (2 / 3) + 1 / 27)
    assert found["ci"] == pytest.approx([0.0943, 0.9916], abs=1e-3)


def test_pieces_put_together_are_the_text():
    tokenizer = tiny_tokenizer()
    for text in (HOSTILE, "🙂🙂 naïve\n\n  tab\t", "e\u0301é", " leading"):
        (tokens,) = tokenize(tokenizer, [text], 500)
        found = pieces(tokenizer, text, tokens)
        assert "".join(piece for piece, _ in found) == text
        assert sum(count for _, count in found) == tokens.stop - tokens.start
        assert all(piece for piece, _ in found)


def test_spaces_that_a_tokenizer_does_not_count_stay():
    class Trimming:
        """Says of each word where it is, without the space before it, as RoBERTa's tokenizer does."""

        def __call__(self, text: str, **_: Any) -> dict[str, Any]:
            return {"offset_mapping": [(0, 0), *(match.span() for match in re.finditer(r"\S+", text))]}

    (tokens,) = tokenize(tiny_tokenizer(), ["abc"], 500)
    found = pieces(Trimming(), "one two  three", tokens)
    assert found == [("one", 1), (" two", 1), ("  three", 1)]


# ------------------------------------------------------------ the page


class Page(HTMLParser):
    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.style, self.text, self._inside = "", "", ""
        self.feed(source)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, _tag):
        self._inside = ""

    def handle_data(self, data):
        if self._inside == "style":
            self.style += data
        else:
            self.text += data


def entry(pieces: list[str], values: list, emotion: str = "calm", source: str | None = None) -> dict[str, Any]:
    means = dict(zip(EMOTIONS, np.mean([row for row in values if row is not None], axis=0), strict=True))
    return {"source": source, "emotion": emotion, "id": "0", "n_tokens": len(pieces), "means": means,
            "pieces": pieces, "values": values}  # fmt: skip


def found_of(entries: list[dict[str, Any]], names: list[str] = EMOTIONS) -> dict[str, Any]:
    return {"layer": 7, "emotions": names, "from_stories": True, "own": None, "passages": entries,
            "baseline": {"n_neutral": 5}, "n": {"passages": len(entries), "tokens": 9}}  # fmt: skip


def written(folder: Path, found: dict[str, Any], title: str = "Title") -> str:
    write_json(folder / "f.json", found)
    write_passages(folder / "f.json", folder / "page.html", title)
    return (folder / "page.html").read_text(encoding="utf-8")


def test_texts_are_never_markup(run, tmp_path):
    _, source = run(stories=[("calm", HOSTILE), ("sad", "Oh.")], emotions=["afraid", "calm", "sad"], title=HOSTILE)
    page = Page(source)
    assert not {"script", "img"} & {tag for tag, _ in page.tags}
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert HOSTILE in page.text
    hostile = found_of([entry(["a", HOSTILE], [[0.1, 0, 0], [0, 0, 1]], HOSTILE, HOSTILE)], [HOSTILE, "calm", "sad"])
    hostile["passages"][0]["means"] = {HOSTILE: 0.1, "calm": 0, "sad": 0}
    page = Page(written(tmp_path, hostile))
    assert not {"script", "img"} & {tag for tag, _ in page.tags}
    assert page.text.count(HOSTILE) == 5
    (title,) = [attributes["title"] for tag, attributes in page.tags if attributes.get("title", "").endswith("+1.000")]
    assert title.startswith(HOSTILE)


def test_nothing_is_asked_of_any_host_and_nothing_runs(run):
    _, source = run()
    page = Page(source)
    assert not re.search(r"https?:|@import|url\(|javascript:", source)
    assert not [attributes for _, attributes in page.tags if {"src", "href", "style"} & set(attributes)]
    (policy,) = [attributes["content"] for _, attributes in page.tags if attributes.get("http-equiv")]
    digest = base64.b64encode(hashlib.sha256(page.style.encode()).digest()).decode()
    assert policy == f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"


def test_every_piece_has_its_colours_and_numbers(tmp_path):
    values = [[0.3, -0.15, 0], None, [-0.3, 0.02, 0.3]]
    source = written(tmp_path, found_of([entry(["One", " two", " three"], values)]))
    page = Page(source)
    spans = [attributes for tag, attributes in page.tags if tag == "span" and "title" in attributes]
    assert [attributes.get("class", "") for attributes in spans] == ["e0p6 e1n3", "unread", "e0n6 e2p6"]
    assert spans[0]["title"] == "afraid +0.300\ncalm −0.150\nsad 0.000"
    assert spans[1]["title"] == "first token, not read"
    assert '<p class="text"><span' in source
    assert "One</span><span" in source
    # Each class that a piece may have is coloured once its emotion is chosen.
    for number in range(3):
        for side in "pn":
            for step in range(1, LEVELS + 1):
                assert f":root:has(#choose{number}:checked) .e{number}{side}{step}" in page.style
    radios = [attributes for tag, attributes in page.tags if tag == "input"]
    assert [attributes["id"] for attributes in radios] == ["choose0", "choose1", "choose2"]
    assert [("checked" in attributes) for attributes in radios] == [True, False, False]
    # A browser that cannot choose shows the first emotion.
    assert "@supports not selector(:has(a))" in page.style
    assert "−0.300 or less" in page.text
    assert "+0.300 or more" in page.text


def contrast(one: str, other: str) -> float:
    def luminance(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        red, green, blue = (p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    dark, light = sorted(map(luminance, (one, other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize(("screen", "ink"), [("light", "#1a1a1a"), ("dark", "#e8eaec")])
def test_text_is_legible_on_every_colour(screen, ink):
    colours = shades(*page_of._COLOURS[screen])
    assert len(set(colours.values())) == 2 * LEVELS
    assert min(contrast(colour, ink) for colour in colours.values()) >= 4.5
    css = (Path(__file__).resolve().parents[2] / "resources/report/page.css").read_text(encoding="utf-8")
    assert f"--ink: {ink}" in css
    assert f"--paper: {page_of._COLOURS[screen][0]}" in css


def test_levels_and_signs():
    assert [level(value, 0.6) for value in (-9, -0.6, -0.04, 0.04, 0.06, 0.31, 0.6, 9)] == [-6, -6, 0, 0, 1, 3, 6, 6]
    assert level(0.0, 0.0) == 0
    assert scale([{"values": [None]}]) == 0
    assert scale([{"values": [[1.0, -2.0], None]}, {"values": [[0.0, 0.5]]}]) == pytest.approx(1.97)
    assert [signed(value) for value in (0.0004, -0.0004, 0.02, -0.02, None)] == [
        "0.000",
        "0.000",
        "+0.020",
        "−0.020",
        "–",
    ]


def test_what_is_said_follows_the_numbers(run):
    found, _ = run()
    said = answers.said(found, LAYER)
    assert f"3 passages ({found['n']['tokens']} tokens)" in said
    assert f"highest mean in {found['own']['hits']} of 3" in said
    assert "no test" in said
    assert "chosen by what they show" in answers.said(found | {"own": None}, LAYER)
    assert "not about" not in description("coloured_passages")
    assert "examples and no evidence" in description("coloured_passages")
