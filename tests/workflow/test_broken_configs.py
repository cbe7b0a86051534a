"""A mistake in config is one line that names the key and the fix; nothing starts."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.project import copy_project, snakemake

pytestmark = pytest.mark.workflow

# What Snakemake itself says before the Snakefile is read.
_SNAKEMAKE_SAYS = ("Using workflow specific profile", "Config file ")

DEMO = "run_definitions.demo"

# name: (overlay over workflow_config.yaml, the key that must be named, what must be said about it)
BROKEN: dict[str, tuple[dict[str, Any], str, str]] = {
    "unknown top-level key": ({"modells": {}}, "modells", "did you mean 'models'"),
    "unknown run key": ({"run_definitions": {"demo": {"denoisng": "off"}}}, DEMO, "did you mean 'denoising'"),
    "unknown screening key": (
        {"corpora": {"starter": {"screening": {"min_word": 3}}}},
        "corpora.starter.screening",
        "min_words",
    ),
    "missing key": (
        {"run_definitions": {"mine": {"title": "x", "model": "smollm2-135m"}}},
        "run_definitions.mine",
        "'corpus'",
    ),
    "misspelt emotion": (
        {"corpora": {"starter": {"emotions": ["afriad", "happy", "sad"]}}},
        "corpora.starter.emotions",
        "'afraid'",
    ),
    "emotion twice": (
        {"corpora": {"starter": {"emotions": ["sad", "sad", "happy"]}}},
        "corpora.starter.emotions",
        "more than once",
    ),
    "emotions file missing": (
        {"corpora": {"starter": {"emotions": "nope.txt"}}},
        "corpora.starter.emotions",
        "nope.txt",
    ),
    "no emotions": ({"corpora": {"starter": {"emotions": []}}}, "corpora.starter.emotions", "at least 1"),
    "too few emotions": (
        {"corpora": {"starter": {"emotions": ["sad", "happy"]}}},
        "corpora.starter.emotions",
        "at least 3",
    ),
    "layer stored that is not collected": (
        {"models": {"smollm2-135m": {"layers": [20], "stored": [19, 20]}}},
        "models.smollm2-135m.stored",
        "layer 19 not among",
    ),
    "trial at a layer that is not stored": (
        {"models": {"smollm2-135m": {"stored": [19]}}},
        "models.smollm2-135m.stored",
        "lacks layer 20, where run 'demo' steers",
    ),
    "tokens per batch in words": (
        {"models": {"smollm2-135m": {"token_budget": "many"}}},
        "models.smollm2-135m.token_budget",
        "'auto'",
    ),
    "unknown framing": ({"readings": {"from-50": {"framing": "system"}}}, "readings.from-50.framing", "'assistant'"),
    "prompt without a chat": ({"readings": {"from-50": {"prompt": "Go on."}}}, "readings.from-50", "remove it"),
    "position without a chat": (
        {"readings": {"mine": {"pooling": {"position": "before_reply"}}}},
        "readings.mine",
        "use user",
    ),
    "one token where ten are wanted": (
        {"readings": {"mine": {"pooling": {"last": True}, "min_tokens": 10}}},
        "readings.mine",
        "use 1",
    ),
    "no strengths": ({"trials": {"expression": {"strengths": []}}}, "trials.expression.strengths", "is empty"),
    "strength 0": ({"trials": {"expression": {"strengths": [0.0, 0.1]}}}, "trials.expression.strengths", "baseline"),
    "unknown kind of trial": ({"trials": {"expression": {"kind": "expresion"}}}, "trials.expression", "preference"),
    "unknown trial": ({"run_definitions": {"demo": {"trials": ["expresion"]}}}, f"{DEMO}.trials", "'expression'"),
    "trial set missing": (
        {"trials": {"expression": {"set": "nope.yaml"}}},
        "trials.expression.set",
        "nope.yaml",
    ),
    "trial set of another kind": (
        {"trials": {"expression": {"set": "resources/trials/cost.yaml"}}},
        "trials.expression.set",
        "kind cost",
    ),
    "vector of no emotion": (
        {"trials": {"cost": {"vectors": ["afriad"]}}, "run_definitions": {"demo": {"trials": ["cost"]}}},
        "trials.cost.vectors",
        "did you mean 'afraid'",
    ),
    "vector without a measured cost": (
        {"trials": {"expression": {"vectors": ["afraid", "bored"]}}},
        "trials.expression.vectors",
        "measures bored at layer 20",
    ),
    "nothing predicted": (
        {
            "trials": {"preference": {"vectors": ["bored"]}, "preference-cost": {"vectors": ["bored"]}},
            "run_definitions": {"demo": {"trials": ["preference", "preference-cost"]}},
        },
        "trials.preference.predictions",
        "up or down",
    ),
    "texts that repeat each other": (
        {"trials": {"cost": {"n": 13}}, "run_definitions": {"demo": {"trials": ["cost"]}}},
        "trials.cost.n",
        "lower n to 12",
    ),
    "no judge": (
        {
            "trials": {"refusal": {"judge": None}, "behaviour-cost": {"vectors": ["afraid"]}},
            "run_definitions": {"demo": {"trials": ["refusal", "behaviour-cost"]}},
        },
        "trials.refusal.judge",
        "scored by a judge",
    ),
    "a judge with nothing to judge": (
        {
            "trials": {"sycophancy": {"judge": "keywords"}},
            "run_definitions": {"demo": {"trials": ["sycophancy", "behaviour-cost"]}},
        },
        "trials.sycophancy.judge",
        "remove the key",
    ),
    "too few random controls": (
        {"trials": {"expression": {"controls": {"random": 4}}}},
        "trials.expression.controls.random",
        "greater than or equal to 5",
    ),
    "steered layer without vectors": (
        {"trials": {"cost": {"layers": 5}}, "run_definitions": {"demo": {"layers": [20, 21], "trials": ["cost"]}}},
        "trials.cost.layers",
        "no vectors at layer 5",
    ),
    "layer out of range": ({"run_definitions": {"demo": {"layer": 30}}}, f"{DEMO}.layer", "0 to 29"),
    "layers past the end": (
        {"models": {"smollm2-135m": {"layers": "8:32:3"}}},
        "models.smollm2-135m.layers",
        "at most 30",
    ),
    "layers unreadable": ({"run_definitions": {"demo": {"layers": "middle"}}}, f"{DEMO}.layers", "allowed: auto, all"),
    "layer not collected": (
        {"models": {"smollm2-135m": {"layers": [1, 2]}}},
        f"{DEMO}.layer",
        "models.smollm2-135m.layers",
    ),
    "layer not analysed": ({"run_definitions": {"demo": {"layers": [1, 2]}}}, f"{DEMO}.layer", "not among"),
    "stories file missing": (
        {"corpora": {"starter": {"stories": {"file": "nope.jsonl"}}}},
        "corpora.starter.stories.file",
        "does not exist",
    ),
    "unknown file type": (
        {"corpora": {"starter": {"stories": {"file": "a.docx"}}}},
        "corpora.starter.stories",
        ".jsonl",
    ),
    "column missing": (
        {"corpora": {"starter": {"stories": {"columns": {"text": "story"}}}}},
        "corpora.starter.stories.columns.text",
        "emotion, text, topic",
    ),
    "empty corpus": (
        {"corpora": {"starter": {"stories": {"file": "empty.jsonl"}}}},
        "corpora.starter.stories.file",
        "empty",
    ),
    "wrong type": ({"corpora": {"starter": {"shards": "two"}}}, "corpora.starter.shards", "valid integer"),
    "number out of range": (
        {"run_definitions": {"demo": {"denoising": {"variance": 50}}}},
        "denoising.variance",
        "less than 1",
    ),
    "unknown choice": ({"run_definitions": {"demo": {"reference": "median"}}}, f"{DEMO}.reference", "'mean_of_means'"),
    "duplicate run": ({"runs": ["demo", "demo"]}, "runs", "name it once"),
    "unknown run": ({"runs": ["dmeo"]}, "runs", "did you mean 'demo'"),
    "no runs": ({"runs": []}, "runs", "at least 1"),
    "unknown model": ({"run_definitions": {"demo": {"model": "smollm"}}}, f"{DEMO}.model", "smollm2-135m"),
    "unknown norm": ({"run_definitions": {"demo": {"norms": ["warriner"]}}}, f"{DEMO}.norms", "russell-mehrabian"),
    "norm column missing": ({"norms": {"glasgow": {"valence": "V"}}}, "norms.glasgow.valence", "valence_M"),
    "model source unclear": (
        {"models": {"x": {"source": {"git": "y"}, "blocks": 1, "width": 1}}},
        "models.x.source",
        "hub, pypi",
    ),
    "model folder missing": (
        {
            "models": {"x": {"source": {"path": "nowhere"}, "blocks": 30, "width": 1}},
            "run_definitions": {"demo": {"model": "x"}},
        },
        "models.x.source.path",
        "config.json",
    ),
    "pooling unclear": ({"readings": {"mine": {"pooling": {"first": 3}}}}, "readings.mine.pooling", "from, mean, last"),
    "no neutral texts": ({"corpora": {"starter": {"neutral": None}}}, f"{DEMO}.denoising", "neutral"),
    "reserved name": (
        {
            "run_definitions": {
                "logs": {
                    "title": "",
                    "model": "smollm2-135m",
                    "corpus": "starter",
                    "reading": "from-50",
                    "norms": ["glasgow"],
                }
            }
        },
        "run_definitions.logs",
        "choose another",
    ),
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    project = copy_project(tmp_path_factory.mktemp("broken") / "project")
    (project / "empty.jsonl").write_text("\n")
    return project


@pytest.mark.parametrize("case", BROKEN)
def test_one_line_names_the_key_and_the_fix(project: Path, case: str) -> None:
    overlay, key, said = BROKEN[case]
    (project / "overlay.yaml").write_text(yaml.safe_dump(overlay))
    done = snakemake(project, "--configfile", "overlay.yaml")
    lines = [line for line in (done.stdout + done.stderr).splitlines() if not line.startswith(_SNAKEMAKE_SAYS)]
    assert done.returncode != 0
    assert len(lines) == 1, lines
    assert key in lines[0]
    assert said in lines[0]
    assert not (project / "results").exists()


def test_a_key_that_stands_twice_is_named_with_its_line(project: Path) -> None:
    (project / "overlay.yaml").write_text("runs: [demo]\nreadings: {}\nruns: [demo-literary]\n")
    done = snakemake(project, "--configfile", "overlay.yaml")
    assert done.returncode != 0
    assert "runs: stands twice in overlay.yaml (again in line 3)" in done.stderr


def test_an_overlay_merges_by_key(project: Path) -> None:
    (project / "overlay.yaml").write_text(yaml.safe_dump({"run_definitions": {"demo": {"layers": [19, 20]}}}))
    done = snakemake(project, "--dry-run", "--configfile", "overlay.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "results/demo/vectors/layer_19.h5" in done.stdout
    assert "results/demo/vectors/layer_18.h5" not in done.stdout
