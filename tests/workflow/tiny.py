"""A complete run small enough to build in seconds: a random Llama of three blocks reads six emotions."""

import json
from pathlib import Path
from typing import Any

import yaml

from affectome.config import read_words
from tests.helpers import tiny_model
from tests.project import ROOT, copy_project

RUN = "tiny"
WRITTEN = "told"


def tiny_config(project: Path, shards: int = 1) -> dict[str, Any]:
    """Overlay that defines the run `tiny`; its files are in `project`."""
    return {
        "runs": [RUN],
        "models": {
            "tiny": {
                "source": {"path": str(project / "weights")},
                "blocks": 3,
                "width": 16,
                "dtype": "float32",
                "token_budget": 512,
            }
        },
        "corpora": {
            "small": {
                "stories": {"file": "small.jsonl"},
                "neutral": {"file": "resources/corpora/starter/neutral.jsonl"},
                "emotions": read_words(str(ROOT / "resources/emotions/6.txt")),
                "shards": shards,
            },
            # Of no run: a corpus that is written where a test asks for it.
            WRITTEN: {
                "writer": {"gemini": "gemini-test"},
                "emotions": ["happy", "sad", "afraid"],
                "topics": ["A letter arrives", "The last train", "A walk by the river"],
                "topic_count": 2,
                "neutral_dialogues": 2,
                # What the fake writes is alike and short.
                "screening": {"min_words": 5, "near_duplicates": None, "preambles": False, "layout": False},
            },
        },
        "run_definitions": {
            RUN: {
                "title": "A tiny run",
                "model": "tiny",
                "corpus": "small",
                "reading": "from-50",
                "norms": ["russell-mehrabian", "glasgow"],
                "statistics": {"bootstrap": 100, "permutations": 99},
                # Questions have tests of their own, in test_questions.py.
                "analyses": [],
                "trials": ["expression", "cost"],
            }
        },
        "trials": {
            "expression": {
                "vectors": ["happy", "sad"],
                "strengths": [0.1],
                "n": 2,
                "generation": {"max_new_tokens": 4},
            },
            "cost": {
                "vectors": ["happy", "sad"],
                "strengths": [0.1],
                "n": 2,
                "texts": 2,
                "questions": 2,
                "generation": {"max_new_tokens": 4},
            },
        },
    }


def write_overlay(project: Path, config: dict[str, Any], name: str = "overlay.yaml") -> None:
    (project / name).write_text(yaml.safe_dump(config), encoding="utf-8")


def tiny_project(folder: Path, shards: int = 1) -> Path:
    """A copy of the project with a tiny model, the starter stories of six emotions, and `overlay.yaml`."""
    project = copy_project(folder)
    tiny_model(project / "weights", blocks=3, width=16)
    emotions = set(read_words(str(ROOT / "resources/emotions/6.txt")))
    lines = (ROOT / "resources/corpora/starter/stories.jsonl").read_text(encoding="utf-8").splitlines()
    (project / "small.jsonl").write_text("\n".join(line for line in lines if json.loads(line)["emotion"] in emotions))
    write_overlay(project, tiny_config(project, shards))
    return project
