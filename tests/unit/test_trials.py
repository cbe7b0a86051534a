"""Every kind of trial on a tiny model: what stands in its table is what a plain computation gives.

`tests/unit/test_steering_planted.py` runs expression trials; here are the other kinds.
"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from affectome.activations.store import write_layer
from affectome.corpus.tables import as_corpus, write_corpus
from affectome.errors import UserError
from affectome.files import read_json
from affectome.steering import instrument
from affectome.steering.activities import couples, pairs
from affectome.steering.directions import make_directions, read_directions
from affectome.steering.results import write_preferences
from affectome.steering.sets import name_of, read_set
from affectome.steering.statistics import long_scores
from affectome.steering.trial import run_trial
from affectome.vectors.compute import emotion_vectors
from tests.helpers import NEUTRAL, STORIES, collect, collect_spec, tiny_model, tiny_tokenizer, write_manifest
from tests.project import ROOT
from tests.unit.test_instrument import plain_logits

LAYER = 1
SPEC = {
    "strengths": [0.5],
    "n": 4,
    "seed": 0,
    "positions": "all",
    "generation": {"max_new_tokens": 12, "temperature": 1.0},
    "layer": LAYER,
    "dtype": "float32",
    "quantization": "none",
    "token_budget": 4096,
    "trust_remote_code": False,
    "judge": None,
    "texts": None,
    "questions": None,
    "choices": None,
}
TEMPLATE = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[assistant]"
ACTIVITIES = [
    ("reading a book", "quiet"),
    ("rowing", "sport"),
    ("reading", "quiet"),
    ("a swim", "sport"),
    ("tea", "quiet"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny chat model and directions along two emotions."""
    folder = tmp_path_factory.mktemp("trials")
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = TEMPLATE
    model = tiny_model(folder / "model", blocks=3, tokenizer=tokenizer)
    for name, rows in (("stories", [*STORIES, *STORIES]), ("neutral", [("", text) for text in NEUTRAL])):
        table = pd.DataFrame([(e, f"topic {n % 2}", f"{t}{n}") for n, (e, t) in enumerate(rows)])
        write_corpus(as_corpus(table.set_axis(["emotion", "topic", "text"], axis=1), "t"), folder / f"{name}.parquet")
    shard = collect(
        model, folder / "stories.parquet", folder / "neutral.parquet", folder / "shards/0.h5", collect_spec([LAYER])
    )
    write_layer(folder / "layer.h5", [shard], LAYER)
    emotions = ["calm", "sad", "afraid"]
    emotion_vectors(folder / "layer.h5", folder / "vectors.h5", emotions, "mean_of_means", {"components": 1}, "code")
    controls = {"random": 2, "shuffled": 1, "topic": 1}
    make_directions([folder / "vectors.h5"], [folder / "layer.h5"], folder / "d.h5", ["calm", "sad"], controls, 0, "c")
    return folder


def write_set(folder: Path, **content: Any) -> Path:
    path = folder / f"{content['kind']}.yaml"
    path.write_text(yaml.safe_dump({"about": "A test.", "asking": "You feel {emotion}."} | content), encoding="utf-8")
    return path


def run(folder: Path, trial_set: Path, **settings: Any) -> tuple[pd.DataFrame, dict[str, Any]]:
    run_trial(
        folder / "d.h5",
        write_manifest(folder / "model"),
        trial_set,
        ROOT / "resources/prompts/judge.j2",
        folder / "stories.parquet",
        folder / "items.parquet",
        folder / "notes.json",
        SPEC | settings,
        "code",
        threads=1,
    )
    return pd.read_parquet(folder / "items.parquet"), read_json(folder / "notes.json")


def lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")


# ---------------------------------------------------------------- preference


@pytest.fixture(scope="module")
def preference_set(folder: Path) -> Path:
    rows = ["activity\tcategory", *("\t".join(row) for row in ACTIVITIES)]
    (folder / "activities.tsv").write_text("\n".join(rows), encoding="utf-8")
    prompt = {"messages": [{"role": "user", "content": "(A) {a}\n(B) {b}\nWhich?"}], "reply": "("}
    return write_set(folder, kind="preference", activities="activities.tsv", prompt=prompt, options=["A", "B"])


@pytest.fixture(scope="module")
def preferred(folder: Path, preference_set: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    return run(folder, preference_set)


def log_odds(folder: Path, first: str, second: str, item: Any = None) -> float:
    """Log-odds of the first option by the plain way, steered by `item`."""
    model = AutoModelForCausalLM.from_pretrained(folder / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    text = f"[user](A) {first}\n(B) {second}\nWhich?[assistant]("
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    last = plain_logits(model, "model.layers", [item] if item else [], ids, len(ids))[-1]
    a, b = (tokenizer.convert_tokens_to_ids(letter) for letter in "AB")
    return float(last[a] - last[b])


def test_preferences_are_those_of_the_plain_way(folder: Path, preferred: tuple[pd.DataFrame, dict]) -> None:
    table, _ = preferred
    choices = table[table["score:choice"].notna()]
    assert len(choices) == 5 * 4
    for _, row in choices.iterrows():
        first = next(name for name, _ in ACTIVITIES if name_of(name) == row["prompt"])
        assert row["score:choice"] == pytest.approx(log_odds(folder, first, ACTIVITIES[row["sample"]][0]), abs=1e-3)


def test_only_the_tokens_of_the_steered_option_are_steered(folder: Path, preferred: tuple[pd.DataFrame, dict]) -> None:
    table, _ = preferred
    directions = read_directions(folder / "d.h5")
    offered = pairs(ACTIVITIES, 4, 0)
    assert len({steered for steered, _ in offered} & {other for _, other in offered}) == 0
    rows = table[(table["direction"] == "calm") & (table["strength"] == 0.5)]
    assert len(rows) == 4
    seen: dict[str, int] = {}
    for steered, other in offered:
        number = seen.setdefault(steered, 0)
        seen[steered] += 1
        odds = []
        for first, second, sign in ((steered, other, 1), (other, steered, -1)):
            # Bytes are tokens: the place of a letter is the place of its token.
            text = f"[user](A) {first}\n(B) {second}"
            start = text.index(f"({'A' if sign > 0 else 'B'}) {steered}") + 4
            span = (start, start + len(steered))
            item = instrument.add(0.5, directions.vectors("calm"), directions.norms, span)
            odds.append(sign * log_odds(folder, first, second, item))
        (found,) = rows.loc[(rows["prompt"] == name_of(steered)) & (rows["sample"] == number), "score:preference"]
        assert found == pytest.approx(np.mean(odds), abs=1e-3)
    assert set(rows["positions"]) == {"the option's tokens"}


def test_activities_are_ranked_and_held_against_the_vectors(
    folder: Path, preference_set: Path, preferred: tuple[pd.DataFrame, dict]
) -> None:
    _, notes = preferred
    assert set(notes["probes"]) == {str(LAYER)}
    assert set(notes["probes"][str(LAYER)]["calm"]) == {name for name, _ in ACTIVITIES}
    paths = [folder / name for name in ("verdict.json", "effects.parquet")]
    paths[0].write_text(json.dumps({"vectors": {}}), encoding="utf-8")
    columns = ["direction", "family", "strength", "outcome", "effect", "low", "high"]
    pd.DataFrame(columns=columns).to_parquet(paths[1])
    out = folder / "preferences.json"
    write_preferences(folder / "items.parquet", folder / "notes.json", preference_set, *paths, out, 100, 99, 0)
    ranked = read_json(out)["activities"]
    assert np.mean([entry["elo"] for entry in ranked.values()]) == pytest.approx(1500)


def test_pairs_for_ranking_meet_every_activity(folder: Path, preference_set: Path) -> None:
    for n in (5, 7, None):
        drawn = couples(5, n, 0)
        assert len(drawn) == len(set(drawn)) == (n or 10)
        assert {number for pair in drawn for number in pair} == set(range(5))
    with pytest.raises(UserError, match="choices: 4 pairs are too few to rank 5"):
        run(folder, preference_set, choices=4)


def test_the_steered_half_is_balanced_and_gets_as_many_pairs_each() -> None:
    activities = [(f"{category} {n}", category) for category in "abcd" for n in range(8)]
    offered = pairs(activities, 64, 1)
    steered = [name for name, _ in offered]
    assert {steered.count(name) for name in steered} == {4}
    assert len(set(steered)) == 16
    assert all(sum(name.startswith(category) for name in set(steered)) == 4 for category in "abcd")
    assert len(set(offered)) == 64


# ---------------------------------------------------------------- cost


@pytest.fixture(scope="module")
def cost_set(folder: Path) -> Path:
    lines(folder / "texts.jsonl", [{"id": f"t{n}", "text": text} for n, text in enumerate(NEUTRAL)])
    questions = [
        {"id": "one", "question": "Is it so", "choices": ["yes", "no"], "answer": 0},
        {"id": "two", "question": "How many", "choices": ["a few", "lots", "none"], "answer": 2},
    ]
    lines(folder / "questions.jsonl", questions)
    asked = {"messages": [{"role": "user", "content": "{question}?\n{options}"}], "reply": "("}
    content = {
        "kind": "cost",
        "about": "A test.",
        "texts": "texts.jsonl",
        "questions": "questions.jsonl",
        "question_prompt": asked,
        "cloze_prompt": {"text": "{question}?"},
        "generations": [{"id": "g", "text": "Once"}, {"id": "h", "text": "Then"}],
    }
    path = folder / "cost.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def test_costs_are_those_of_the_plain_way(folder: Path, cost_set: Path) -> None:
    table, _ = run(folder, cost_set)
    directions = read_directions(folder / "d.h5")
    model = AutoModelForCausalLM.from_pretrained(folder / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    assert "asking" not in set(table["family"])

    def logprobs(text: str, item: Any, special: bool = True) -> torch.Tensor:
        ids = tokenizer(text, add_special_tokens=special)["input_ids"]
        steered = [item] if item else []
        logits = plain_logits(model, "model.layers", steered, ids, len(ids))
        return torch.log_softmax(logits, dim=-1)[:-1].gather(1, torch.tensor(ids[1:])[:, None])[:, 0]

    for direction, strength in (("", 0.0), ("sad", -0.5), ("random:1", 0.5)):
        item = instrument.add(strength, directions.vectors(direction), directions.norms) if direction else None
        rows = table[(table["direction"] == direction) & (table["strength"] == strength)]
        nll = rows.dropna(subset=["score:nll_neutral"]).set_index("prompt")["score:nll_neutral"]
        assert nll.to_dict() == pytest.approx(
            {f"t{n}": -float(logprobs(t, item).mean()) for n, t in enumerate(NEUTRAL)}, abs=1e-3
        )
        correct = rows.dropna(subset=["score:correct"]).set_index("prompt")["score:correct"]
        for name, question, choices, answer in (
            ("one", "Is it so?", ["yes", "no"], 0),
            ("two", "How many?", ["a few", "lots", "none"], 2),
        ):
            totals = [float(logprobs(f"{question}{choice}", item)[len(question) :].sum()) for choice in choices]
            assert correct[name] == float(np.argmax(totals) == answer)
        valid = rows.dropna(subset=["score:valid"])
        assert sorted(valid["prompt"]) == ["one", "two"]
        written = rows[rows["text"].notna()]
        assert len(written) == 4
        for _, row in written.iterrows():
            assert row["score:complete"] == float(row["finished"])
            words = row["text"].split()
            trigrams = list(zip(words, words[1:], words[2:], strict=False))
            repeated = 1 - len(set(trigrams)) / len(trigrams) if len(trigrams) > 1 else 0
            assert row["score:repetition"] == pytest.approx(repeated)


def test_fewer_texts_and_questions_where_config_says_so(folder: Path, cost_set: Path) -> None:
    table, _ = run(folder, cost_set, texts=1, questions=1)
    assert table.loc[table["score:nll_neutral"].notna(), "prompt"].unique().tolist() == ["t0"]
    assert table.loc[table["score:correct"].notna(), "prompt"].unique().tolist() == ["one"]


# ---------------------------------------------------------------- behaviour

ITEMS = [
    {"id": "a", "truth": "wrong", "messages": [{"role": "user", "content": "Two and two are five, right?"}]},
    {"id": "b", "truth": "right", "messages": [{"role": "user", "content": "Two and two are four, right?"}]},
]


def behaviour_set(folder: Path, **content: Any) -> Path:
    outcome = {"name": "pleasing", "about": "x", "positive": "x"}
    return write_set(folder, kind="behaviour", **{"outcome": outcome, "prompts": ITEMS} | content)


def judged_set(folder: Path) -> Path:
    labelled = [{"prompt": "a", "reply": "Yes.", "label": 1}, {"prompt": "b", "reply": "No.", "label": 0}]
    lines(folder / "labelled.jsonl", labelled)
    return behaviour_set(
        folder,
        score={"judge": {"question": "Does it please?", "positive": "It does.", "negative": "It does not."}},
        keywords={"any": ["e"]},
        labelled="labelled.jsonl",
    )


def test_a_rule_scores_and_groups_are_told_apart(folder: Path) -> None:
    path = behaviour_set(
        folder,
        outcome={"name": "pleasing", "about": "x", "positive": "x", "among": "wrong"},
        secondary=[{"name": "harsh", "about": "x", "positive": "x", "among": "right"}],
        score={"first_word": {"wrong": {"yes": 1, "no": 0}, "right": {"yes": 0, "no": 1}}},
    )
    table, notes = run(folder, path)
    rule = read_set(path).score
    truth = {"a": ("wrong", "pleasing"), "b": ("right", "harsh")}
    for _, row in table.iterrows():
        group, outcome = truth[row["prompt"]]
        value = rule.value(row["text"], group)
        other = {"pleasing": "harsh", "harsh": "pleasing"}[outcome]
        assert math.isnan(row.get(f"score:{other}", math.nan))
        found = row.get(f"score:{outcome}", math.nan)
        assert math.isnan(found) if value is None else found == value
    assert notes["scored_by"] == "firstword"
    assert len(table) == 4 * (1 + 2 * 2 + 4 + 2)


def test_keywords_only_where_they_are_asked_for(folder: Path) -> None:
    table, notes = run(folder, judged_set(folder), judge="keywords")
    assert notes["scored_by"] == "keywords"
    written = table[table["text"].str.strip() != ""]
    assert (written["score:pleasing"] == written["text"].str.contains("e", case=False)).all()


def test_the_model_itself_judges(folder: Path) -> None:
    table, notes = run(folder, judged_set(folder), judge={"local": True})
    assert notes["agreement"]["n"] == 2
    assert notes["consistency"]["n"] == len(table)
    assert table["score:pleasing"].between(0, 1).all()


def test_a_judge_reads_stories_of_the_emotion_that_was_steered(folder: Path) -> None:
    content = {
        "prompts": [{"id": "feels", "text": "He feels"}],
        "generations": [{"id": "once", "text": "Once"}],
        "words": {},
        "judge": {"question": "Is it {emotion}?", "positive": "Yes.", "negative": "No."},
    }
    path = write_set(folder, kind="expression", **content)
    table, notes = run(folder, path, judge={"local": True}, n=2)
    assert notes["scored_by"] == "local"
    texts = table[table["text"].notna()]
    for emotion, other in (("calm", "sad"), ("sad", "calm")):
        judged = texts[texts[f"score:judge:{emotion}"].notna()]
        assert judged[f"score:judge:{emotion}"].between(0, 1).all()
        assert set(judged["direction"]) == {"", emotion}
        assert set(texts[texts["direction"] == other].index).isdisjoint(judged.index)
    plain, _ = run(folder, path, judge=None, n=2)
    assert not [name for name in plain.columns if name.startswith("score:judge")]


def test_a_judge_out_of_reach_stops_the_trial_before_the_model_is_loaded(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from affectome.steering import trial

    monkeypatch.setattr(trial, "load_model", lambda *_: pytest.fail("the model was loaded"))
    with pytest.raises(UserError) as error:
        run(folder, judged_set(folder), judge={"openai": "judge", "base_url": "http://127.0.0.1:9/v1"})
    assert "\n" not in str(error.value)
    assert "http://127.0.0.1:9/v1 cannot be reached (ConnectError); see that it is up" in str(error.value)


def test_long_scores_keep_what_was_scored() -> None:
    table = pd.DataFrame(
        {
            "direction": ["", "calm"],
            "family": ["baseline", "emotion"],
            "strength": [0.0, 0.1],
            "prompt": ["p", "p"],
            "sample": [0, 0],
            "text": ["x", "y"],
            "score:a": [1.0, 2.0],
            "score:b": [math.nan, 3.0],
        }
    )
    found = long_scores(table)
    assert found[["direction", "outcome", "value"]].to_numpy().tolist() == [
        ["", "a", 1.0],
        ["calm", "a", 2.0],
        ["calm", "b", 3.0],
    ]
