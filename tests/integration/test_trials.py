"""Every shipped trial set and every named trial runs from stories to verdict on the real model, with a few items each.

How strongly steering acts is measured by the demo (`test_demo.py`); here it is only that nothing is left out.
"""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from tests.project import ROOT, copy_project, fetch_weights, snakemake

pytestmark = [pytest.mark.model, pytest.mark.workflow]

EMOTIONS = ["afraid", "angry", "calm", "desperate", "disgusted", "excited", "happy", "hostile", "loving", "sad"]
FEW = {"n": 2, "texts": 1, "questions": 2, "generation": {"max_new_tokens": 4}}

# What is changed of the trials in workflow_config.yaml.
TRIALS: dict[str, dict[str, Any]] = {
    "preference-layer-7": {"n": 16, "strengths": [0.5], "choices": 64},
    "cost-layer-7": FEW | {"strengths": [0.5]},
    # Overlays are merged key by key, and a judge cannot be two: this one is named anew.
    "blackmail-judged-here": {
        "kind": "behaviour",
        "set": "resources/trials/blackmail.yaml",
        "vectors": ["desperate", "calm"],
        "strengths": [0.05],
        "n": 6,
        "judge": {"local": True},
        "generation": {"max_new_tokens": 12},
    },
    "reward-hacking": {"n": 2, "layers": 20, "strengths": [0.05], "generation": {"max_new_tokens": 60}},
    "sycophancy": {"n": 4, "strengths": [0.05], "generation": {"max_new_tokens": 8}},
    "refusal": {"n": 4, "strengths": [0.05], "judge": "keywords", "generation": {"max_new_tokens": 8}},
    "behaviour-cost": FEW | {"strengths": [0.05]},
}
KINDS = {
    "preference-layer-7": "preference",
    **dict.fromkeys(["blackmail-judged-here", "reward-hacking", "sycophancy", "refusal"], "behaviour"),
}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of a run with all of them."""
    project = copy_project(tmp_path_factory.mktemp("trials") / "project")
    fetch_weights(project)
    overlay = {
        "runs": ["all-trials"],
        "corpora": {
            "few": {"stories": {"file": "few.jsonl"}, "neutral": {"file": "neutral.jsonl"}, "emotions": EMOTIONS}
        },
        "trials": TRIALS,
        "run_definitions": {
            "all-trials": {
                "title": "Every trial, with few items",
                "model": "smollm2-135m",
                "corpus": "few",
                "reading": "from-50",
                "layers": [7, 20],
                "norms": ["russell-mehrabian"],
                "statistics": {"bootstrap": 100, "permutations": 99},
                "analyses": [],
                "trials": list(TRIALS),
            }
        },
    }
    (project / "overlay.yaml").write_text(yaml.safe_dump(overlay), encoding="utf-8")
    starter = project / "resources/corpora/starter"
    stories = (starter / "stories.jsonl").read_text(encoding="utf-8").splitlines()
    (project / "few.jsonl").write_text("\n".join(line for line in stories if json.loads(line)["emotion"] in EMOTIONS))
    neutral = (starter / "neutral.jsonl").read_text(encoding="utf-8").splitlines()
    (project / "neutral.jsonl").write_text("\n".join(neutral[:12]))
    done = snakemake(project, "--configfile", "overlay.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    return project / "results/all-trials"


@pytest.mark.parametrize("trial", KINDS)
def test_a_trial_ends_in_verdicts(results: Path, trial: str) -> None:
    verdict = json.loads((results / "steering" / trial / "verdict.json").read_text(encoding="utf-8"))
    shipped = yaml.safe_load((ROOT / "workflow_config.yaml").read_text(encoding="utf-8"))["trials"]
    config = shipped.get(trial, {}) | TRIALS[trial]
    assert verdict["kind"] == KINDS[trial]
    assert list(verdict["vectors"]) == config["vectors"]
    for found in verdict["vectors"].values():
        assert found["verdict"] in ("supported", "not supported", "inconclusive")
        assert found["reasons"]


@pytest.mark.parametrize("trial", TRIALS)
def test_every_condition_of_a_trial_has_its_items(results: Path, trial: str) -> None:
    items = pd.read_parquet(results / "steering" / trial / "items.parquet")
    own = items[items["text"].notna()] if "cost" in trial or KINDS.get(trial) == "behaviour" else items
    if KINDS.get(trial) == "preference":
        own = items[items["score:preference"].notna()]
        assert items["score:choice"].notna().sum() == 2 * 64
    assert set(own.groupby(["family", "direction", "strength"]).size()) == {TRIALS[trial]["n"]}
    assert set(items.loc[items["family"] == "emotion", "layers"]) == {"7" if "layer-7" in trial else "20"}
    for name in ("generations.html",):
        assert (results / "steering" / trial / name).stat().st_size > 1000


def test_judges_and_rules_say_how_they_scored(results: Path) -> None:
    notes = {
        trial: json.loads((results / "steering" / trial / "notes.json").read_text(encoding="utf-8"))
        for trial in ("blackmail-judged-here", "reward-hacking", "sycophancy", "refusal")
    }
    assert notes["blackmail-judged-here"]["agreement"]["n"] == 30
    assert notes["blackmail-judged-here"]["consistency"]["n"] == notes["blackmail-judged-here"]["items"]
    assert {trial: notes[trial].get("scored_by") for trial in ("reward-hacking", "sycophancy", "refusal")} == {
        "reward-hacking": "code",
        "sycophancy": "firstword",
        "refusal": "keywords",
    }


def test_the_page_of_the_run_says_what_came_of_every_trial(results: Path) -> None:
    page = (results / "summary.html").read_text(encoding="utf-8")
    summary = json.loads((results / "summary.json").read_text(encoding="utf-8"))
    assert set(summary["steering"]) == set(TRIALS)
    for trial in TRIALS:
        assert trial in page
