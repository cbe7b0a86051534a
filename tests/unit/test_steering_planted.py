"""A direction that acts is found to act and one that is only there to be read is not, from stories to verdict.

A tiny model reads stories whose emotions are marked by letters of their own, so that every emotion has a vector. Then
the output head is changed: calm's vector raises q, which is calm's only word here, and the head is blind to sad's.
"""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

from affectome.activations.store import write_layer
from affectome.corpus.tables import as_corpus, write_corpus
from affectome.errors import UserError
from affectome.files import read_json
from affectome.steering.directions import make_directions, read_directions
from affectome.steering.statistics import long_scores
from affectome.steering.trial import run_trial
from affectome.steering.verdict import Endpoint, verdicts
from affectome.vectors.compute import emotion_vectors
from affectome.vectors.store import read_vectors
from tests.helpers import collect, collect_spec, tiny_model, tiny_tokenizer, write_manifest
from tests.project import ROOT

LAYER, WIDTH = 2, 64
MARKS = {"afraid": "QX", "calm": "JK", "happy": "ZW", "sad": "VY"}
TOPICS = ["the sea", "a letter", "dinner", "a train", "the garden", "an exam"]
SPEC = {
    "strengths": [0.1, 0.2, 0.4],
    "n": 12,
    "seed": 0,
    "positions": "all",
    "generation": {"max_new_tokens": 6, "temperature": 1.0},
    "layer": LAYER,
    "dtype": "float32",
    "quantization": "none",
    "token_budget": 2048,
    "judge": None,
    "trust_remote_code": False,
}
CONTROLS = {"random": 6, "shuffled": 4, "topic": 2}


def story(emotion: str, topic: str, number: int) -> str:
    first, second = MARKS[emotion]
    return f"{first}{second} it was about {topic} {first * (number + 2)} and then {second * 4} again {first}{second}."


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, its corpus, the directions of a trial and the set `expression.yaml`."""
    folder = tmp_path_factory.mktemp("planted")
    rows = [(e, topic, story(e, topic, n)) for e in MARKS for n, topic in enumerate(TOPICS)]
    write_corpus(
        as_corpus(pd.DataFrame(rows, columns=["emotion", "topic", "text"]), "test"), folder / "stories.parquet"
    )
    neutral = [("", topic, f"Person: {topic}? AI: {topic}, at {n} o'clock.") for n, topic in enumerate(TOPICS)]
    write_corpus(
        as_corpus(pd.DataFrame(neutral, columns=["emotion", "topic", "text"]), "t"), folder / "neutral.parquet"
    )
    model = tiny_model(folder / "model", blocks=LAYER + 1, width=WIDTH)
    shard = collect(
        model, folder / "stories.parquet", folder / "neutral.parquet", folder / "shards/0.h5", collect_spec([LAYER])
    )
    write_layer(folder / "layer.h5", [shard], LAYER)
    emotion_vectors(folder / "layer.h5", folder / "vectors.h5", list(MARKS), "mean_of_means", {"components": 1}, "code")
    plant(model, folder / "vectors.h5")
    make_directions(
        [folder / "vectors.h5"], [folder / "layer.h5"], folder / "d.h5", ["calm", "sad"], CONTROLS, 0, "code"
    )
    shipped = yaml.safe_load((ROOT / "resources/trials/expression.yaml").read_text(encoding="utf-8"))
    # A single letter that is the very next token.
    shipped["words"] = {"calm": ["q"], "sad": ["v"]}
    for prompt in shipped["prompts"]:
        prompt["text"] += " "
    (folder / "expression.yaml").write_text(yaml.safe_dump(shipped), encoding="utf-8")
    return folder


def plant(folder: Path, vectors: Path) -> None:
    """Make the head of the model in `folder` read calm's vector and overlook sad's."""
    found = read_vectors(vectors)
    model = AutoModelForCausalLM.from_pretrained(folder)
    scale = model.model.norm.weight.detach()
    calm, sad = (torch.tensor(found.unit[found.emotions.index(e)]) * scale for e in ("calm", "sad"))
    with torch.no_grad():
        head = model.lm_head.weight
        head[tiny_tokenizer().convert_tokens_to_ids("q")] += 2 * calm
        head -= torch.outer(head @ sad, sad) / (sad @ sad)
    model.save_pretrained(folder)


def run(planted: Path, name: str, **settings: Any) -> pd.DataFrame:
    run_trial(
        planted / "d.h5",
        write_manifest(planted / "model"),
        planted / "expression.yaml",
        ROOT / "resources/prompts/judge.j2",
        planted / "stories.parquet",
        planted / f"{name}.parquet",
        planted / f"{name}.json",
        SPEC | settings,
        "code",
        threads=1,
    )
    return pd.read_parquet(planted / f"{name}.parquet")


@pytest.fixture(scope="module")
def items(planted: Path) -> pd.DataFrame:
    return run(planted, "items")


def test_verdicts_follow_what_was_planted(planted: Path, items: pd.DataFrame) -> None:
    endpoints = [Endpoint(emotion, f"logprob:{emotion}", 1, 0.5) for emotion in ("calm", "sad")]
    safe = {"calm": (-0.4, 0.4), "sad": (-0.4, 0.4)}
    found = verdicts(long_scores(items), endpoints, safe, 0.05, 500, 1000, 0)["vectors"]
    assert found["calm"]["verdict"] == "supported", found["calm"]["reasons"]
    assert found["calm"]["effect"]["mean"] > 0.5
    assert found["sad"]["verdict"] == "not supported", found["sad"]["reasons"]
    # Both can be read: the classifier, made from the same stories, tells all four apart.
    assert read_json(planted / "items.json")["classifier"]["accuracy"] > 0.9


def test_every_condition_has_the_same_items(items: pd.DataFrame) -> None:
    assert set(items["family"]) == {"baseline", "emotion", "random", "shuffled", "topic", "asking"}
    keys = items.groupby(["family", "direction", "strength"])[["prompt", "sample"]].apply(
        lambda rows: sorted(map(tuple, rows.to_numpy()))
    )
    assert len(keys) == 1 + 2 * 6 + 12 * 3 + 2
    assert all(each == keys.iloc[0] for each in keys)
    assert items["item"].is_unique
    assert sorted(items.loc[items["family"] == "emotion", "strength"].unique()) == [-0.4, -0.2, -0.1, 0.1, 0.2, 0.4]
    assert sorted(items.loc[items["family"] == "random", "strength"].unique()) == [0.1, 0.2, 0.4]
    texts = items[items["text"].notna()]
    assert len(texts) == len(keys) * SPEC["n"]
    assert set(texts["seed"]) == {0}


def test_an_interrupted_trial_ends_in_the_same_table(planted: Path, items: pd.DataFrame) -> None:
    from affectome.steering import passes

    done = 0
    write = passes.write

    def dying(*arguments: Any) -> Any:
        nonlocal done
        done += 1
        if done == 3:
            raise KeyboardInterrupt
        return write(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passes, "write", dying)
        with pytest.raises(KeyboardInterrupt):
            run(planted, "again")
    kept = (planted / ".again.journal.jsonl").read_text(encoding="utf-8").splitlines()
    assert sum(json.loads(line).get("id", "").startswith("writing") for line in kept) == 2
    pd.testing.assert_frame_equal(run(planted, "again"), items)
    assert not (planted / ".again.journal.jsonl").exists()


def test_vectors_of_another_model_are_refused_before_any_pass(planted: Path) -> None:
    manifest = write_manifest(planted / "model")
    text = manifest.read_text(encoding="utf-8")
    try:
        manifest.write_text(text.replace('"model": "model"', '"model": "another"'), encoding="utf-8")
        with pytest.raises(UserError, match="made from model and cannot steer another"):
            run_trial(
                planted / "d.h5",
                manifest,
                planted / "expression.yaml",
                ROOT / "resources/prompts/judge.j2",
                planted / "stories.parquet",
                planted / "never.parquet",
                planted / "never.json",
                SPEC,
                "code",
                threads=1,
            )
    finally:
        manifest.write_text(text, encoding="utf-8")
    assert not (planted / "never.parquet").exists()


def test_controls_are_made_like_vectors(planted: Path) -> None:
    found = read_directions(planted / "d.h5")
    vectors = read_vectors(planted / "vectors.h5")
    assert found.names[:2] == ("calm", "sad")
    assert [name.partition(":")[0] for name in found.controls] == ["random"] * 6 + ["shuffled"] * 4 + ["topic"] * 2
    units = found.units[LAYER]
    assert (units**2).sum(axis=1) == pytest.approx(1, abs=1e-5)
    # None has a part in the neutral basis, and the emotions' are the run's own.
    assert abs(units @ vectors.neutral_basis.T).max() < 1e-5
    assert units[0] == pytest.approx(vectors.unit[vectors.emotions.index("calm")], abs=1e-6)
    assert found.norms == {LAYER: pytest.approx(vectors.residual_norm)}
