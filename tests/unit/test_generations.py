"""The page of a trial's texts: every row is there, none is taken for markup, and nothing is asked of any host."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from affectome.report import generations
from affectome.report.generations import embedded, write_generations

HOSTILE = "</script><img src=x onerror=alert(1)><!-- <script>alert(2)</script> \u2028 & ]]> {{ 7 * 7 }} {% raw %}"


class Page(HTMLParser):
    """Collects tags, the text outside scripts and styles, and the contents of scripts and styles."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.raw: list[tuple[dict, str]] = []
        self.styles: list[str] = []
        self.text: list[str] = []
        self.inside = ""
        self.feed(source)
        self.close()
        self.said = " ".join(" ".join(self.text).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.inside = tag

    def handle_endtag(self, _tag):
        self.inside = ""

    def handle_data(self, data):
        if self.inside == "script":
            self.raw.append((self.tags[-1][1], data))
        elif self.inside == "style":
            self.styles.append(data)
        else:
            self.text.append(data)

    @property
    def data(self) -> dict:
        (found,) = [text for attributes, text in self.raw if attributes.get("id") == "data"]
        return json.loads(found)

    @property
    def rows(self) -> list[dict]:
        """What is embedded, as the rows of a table."""
        columns, lists = self.data["columns"], self.data["lists"]
        named = {name: [lists[name][n] for n in columns[name]] if name in lists else columns[name] for name in columns}
        every = named | {f"score:{name}": values for name, values in self.data["scores"].items()}
        return [dict(zip(every, values, strict=True)) for values in zip(*every.values(), strict=True)]


def item(family: str, direction: str, strength: float, prompt: str, sample: int, text: str | None, **scores) -> dict:
    return {
        "item": f"{family}{direction}{strength}{prompt}{sample}",
        "direction": direction,
        "family": family,
        "strength": strength,
        "layers": "20",
        "positions": "all" if strength else "",
        "prompt": prompt,
        "sample": sample,
        "seed": 3,
        "prompt_text": f"Prompt {prompt}:",
        "text": text,
        "tokens": None if text is None else float(len(text)),
        "finished": None if text is None else True,
        **{f"score:{name}": value for name, value in scores.items()},
    }


def items(text: str = "He ran.") -> list[dict]:
    conditions = [("emotion", "afraid", -0.1), ("emotion", "afraid", 0.1), ("random", "random:0", 0.1),
                  ("asking", "afraid", 0.0), ("baseline", "", 0.0)]  # fmt: skip
    return [
        item(*condition, prompt, sample, f"{text} {number}", fear=number / 3, none=None)
        for number, condition in enumerate(conditions)
        for prompt in ("b", "a")
        for sample in (1, 0)
    ]


@pytest.fixture
def make(tmp_path):
    """Writes the page of some rows and returns its source."""

    def write(rows: list[dict], title: str = "Texts") -> str:
        pd.DataFrame(rows).to_parquet(tmp_path / "items.parquet", index=False)
        write_generations(tmp_path / "items.parquet", tmp_path / "generations.html", title)
        return (tmp_path / "generations.html").read_text(encoding="utf-8")

    return write


def test_every_row_is_there_with_what_belongs_to_it(make):
    rows = items()
    shown = Page(make(rows)).rows
    assert len(shown) == len(rows) == 20
    by_text = {(row["text"], row["prompt"], row["sample"]): row for row in shown}
    for row in rows:
        found = by_text[row["text"], row["prompt"], row["sample"]]
        for name in ("direction", "family", "strength", "layers", "positions", "seed", "prompt_text", "tokens"):
            assert found[name] == row[name], name
        assert found["finished"] is True
        assert found["score:fear"] == pytest.approx(row["score:fear"], rel=1e-5)


def test_rows_that_are_compared_stand_together(make):
    shown = [(row["sample"], row["prompt"], row["family"], row["strength"]) for row in Page(make(items())).rows]
    conditions = [("baseline", 0), ("asking", 0), ("emotion", -0.1), ("emotion", 0.1), ("random", 0.1)]
    assert shown == [(sample, prompt, *each) for sample in (0, 1) for prompt in "ab" for each in conditions]
    # The order of the table decides nothing.
    assert make(items()[::-1]) == make(items())


def test_scores_that_nothing_has_are_no_choice(make):
    assert list(Page(make(items())).data["scores"]) == ["fear"]


def test_items_without_a_text_are_left_out_where_others_have_one(make):
    read = item("baseline", "", 0.0, "c", 0, None, nll=3.25)
    page = Page(make([*items(), read]))
    assert len(page.rows) == 20
    assert "Every text that the model wrote" in page.said
    assert "nll" not in page.data["scores"]


def test_a_trial_without_texts_shows_its_items(make):
    rows = [
        item("baseline", "", 0.0, "a", 0, None, preference=-0.5),
        item("emotion", "calm", 0.1, "a", 0, None, preference=np.nan),
    ]
    page = Page(make(rows))
    assert [row["score:preference"] for row in page.rows] == [-0.5, None]
    assert [row["text"] for row in page.rows] == [None, None]
    assert "scores answers without writing any out" in page.said
    assert "nobody else's opinion" not in page.said


def test_of_too_many_items_the_first_are_shown_and_the_rest_named(make, monkeypatch):
    everything = Page(make(items())).rows
    assert generations.MOST == 20_000
    monkeypatch.setattr(generations, "MOST", 7)
    page = Page(make(items()))
    assert page.rows == everything[:7]
    assert "Here are the first 7 of 20, in the order of sample, prompt, family, direction and strength" in re.sub(
        r" ,", ",", page.said
    )
    assert "all are in items.parquet" in page.said


def test_what_the_model_writes_is_never_markup(make):
    rows = items()
    rows[0] |= {"text": HOSTILE, "prompt_text": HOSTILE, "prompt": HOSTILE, "direction": HOSTILE}
    rows[0][f"score:{HOSTILE}"] = 1.5
    source = make(rows, title=HOSTILE)
    page = Page(source)
    (hit,) = [row for row in page.rows if row["text"] == HOSTILE]
    assert hit["prompt_text"] == hit["prompt"] == hit["direction"] == HOSTILE
    assert hit[f"score:{HOSTILE}"] == 1.5
    assert [attributes for tag, attributes in page.tags if tag == "script"] == [
        {"type": "application/json", "id": "data"}, {}
    ]  # fmt: skip
    assert not [attributes for _, attributes in page.tags if "onerror" in attributes]
    assert "img" not in {tag for tag, _ in page.tags}
    assert source.count("</script>") == 2
    inside = source.partition('id="data">')[2].partition("</script>")[0]
    assert not set("<>&\u2028\u2029") & set(inside)


def test_embedding_changes_no_text():
    content = {"a": [HOSTILE, "\u2029", '"quoted" \\ \\u003c', "ünï\U0001f600", 1.5, None, True]}
    assert json.loads(embedded(content)) == content
    with pytest.raises(ValueError, match="Out of range float"):
        embedded([float("nan")])


def test_the_policy_knows_the_page_s_own_script_and_style_alone(make):
    page = Page(make(items()))
    (policy,) = [attributes["content"] for tag, attributes in page.tags if attributes.get("http-equiv")]
    (script,) = [text for attributes, text in page.raw if "id" not in attributes]

    def digest(text: str) -> str:
        return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()

    assert "default-src 'none'" in policy
    assert f"script-src '{digest(script)}'" in policy
    assert f"style-src '{digest(page.styles[0])}'" in policy
    assert "unsafe" not in policy
    # Neither would be let through.
    assert not [attributes for _, attributes in page.tags if "style" in attributes]
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]


def test_nothing_is_asked_of_any_host(make):
    source = make(items())
    assert not re.search(r"https?:|@import|url\(|fetch\(|XMLHttpRequest|innerHTML|insertAdjacentHTML|eval\(", source)
    assert not [attributes for _, attributes in Page(source).tags if {"src", "href"} & set(attributes)]


def test_controls_are_named_and_the_page_says_what_it_needs(make):
    page = Page(make(items()))
    script = "".join(text for attributes, text in page.raw if "id" not in attributes)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {"direction", "family", "strength", "prompt", "score", "order", "search", "compare"} <= set(ids)
    assert set(re.findall(r'\bat\("(\w+)"\)', script)) <= set(ids)
    assert "This page needs JavaScript" in page.said


def test_the_real_columns_are_enough(tmp_path):
    """Parquet as the bench writes it: pandas strings, missing tokens, booleans beside gaps."""
    table = pd.DataFrame([item("baseline", "", 0.0, "a", 0, None, nll=1.0), *items()])
    table = table.astype(dict.fromkeys(("direction", "text", "layers", "prompt_text"), "string"))
    table.to_parquet(tmp_path / "items.parquet", index=False)
    write_generations(tmp_path / "items.parquet", Path(tmp_path, "page.html"), "Texts")
    assert {row["finished"] for row in Page(Path(tmp_path, "page.html").read_text(encoding="utf-8")).rows} == {True}
