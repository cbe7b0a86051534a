"""A corpus that the real SmolLM2-135M writes, in the job itself or served by vLLM: complete, screened, and kept."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from affectome.config import Screening
from affectome.corpus.screening.rules import problem
from tests.project import ROOT, copy_project, fetch_weights, snakemake
from tests.vllm.test_vllm import WHY_NOT
from tests.workflow.tiny import write_overlay

pytestmark = [pytest.mark.model, pytest.mark.workflow]

WRITERS = {
    "local": {"local": "smollm2-135m", "temperature": 0.8, "attempts": 8},
    "vllm": {"openai": "smollm2-135m", "serve_with": "vllm", "temperature": 0.8, "attempts": 8},
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    project = copy_project(tmp_path / "project")
    fetch_weights(project)
    if (ROOT / ".vllm").exists():
        (project / ".vllm").symlink_to(ROOT / ".vllm")
    return project


def corpus(writer: dict[str, Any], topics: int) -> dict[str, Any]:
    return {
        "writer": writer,
        "emotions": ["angry", "happy", "sad"],
        "topics": "resources/topics_100.txt",
        "topic_count": topics,
        "neutral_dialogues": 2,
        "prompts": {
            f"{name}": f"resources/prompts/small/{file}.j2"
            for name, file in (("story", "story"), ("dialogue", "neutral"))
        },
        "screening": {"layout": False},
    }


@pytest.mark.parametrize(
    "kind", ["local", pytest.param("vllm", marks=[pytest.mark.vllm, pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)])]
)
def test_a_model_writes_its_own_corpus_and_goes_on_where_it_was(project: Path, kind: str) -> None:
    folder = project / "results/corpora/own"
    for topics in (2, 3):
        write_overlay(project, {"corpora": {"own": corpus(WRITERS[kind], topics)}})
        target = "results/corpora/own/corpus_card.json"
        done = snakemake(project, target, "--configfile", "overlay.yaml")
        assert done.returncode == 0, done.stdout + done.stderr
        stories = pd.read_parquet(folder / "stories.parquet")
        written = json.loads((folder / "screening.json").read_text())["writing"]["stories"]
        assert written["planned"] == 3 * topics
        # Of nine stories it is one or two, if any, that SmolLM2 does not get right eight times over.
        assert len(stories) == written["planned"] - written["given_up"]["texts"] >= 0.7 * written["planned"]
        rules = Screening(layout=False).model_dump()
        assert not any(
            problem(text, (emotion,), rules) for emotion, text in zip(stories["emotion"], stories["text"], strict=False)
        )
        assert set(stories["writer"]) == {f"{'local' if kind == 'local' else 'openai'}:smollm2-135m"}
        replies = [json.loads(line)["key"] for line in (folder / ".replies/stories_0.jsonl").read_text().splitlines()]
        # The second time, replies of the first are among them and none came twice.
        assert len(replies) == len(set(replies)) == written["asked"]["texts"]
