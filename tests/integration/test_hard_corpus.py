"""On the literary stories, where emotion is shown and not told, the demo's model has a weaker signal, as it should."""

import json
from pathlib import Path

import pytest
import yaml

from tests.project import copy_project, fetch_weights, snakemake

pytestmark = [pytest.mark.model, pytest.mark.workflow]

# Both corpora at the headline layer, with one question and no steering.
RUN = {"layers": [20], "analyses": ["story_holdout"], "variants": {"readings": [], "models": []}, "trials": []}
OVERLAY = {"run_definitions": {"demo": RUN, "demo-literary": RUN}}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    project = copy_project(tmp_path_factory.mktemp("hard") / "project")
    fetch_weights(project)
    (project / "overlay.yaml").write_text(yaml.safe_dump(OVERLAY), encoding="utf-8")
    done = snakemake(project, "--configfile", "overlay.yaml", "--config", "runs=[demo,demo-literary]")
    assert done.returncode == 0, done.stdout + done.stderr
    return project / "results"


def found(results: Path, name: str) -> list[dict]:
    """What a file of each run says: of the plain stories, and of the hard ones."""
    return [json.loads((results / run / name).read_text(encoding="utf-8")) for run in ("demo", "demo-literary")]


def test_vectors_follow_ratings_less_and_are_less_reliable(results: Path) -> None:
    plain, hard = (summary["layers"]["20"] for summary in found(results, "summary.json"))
    for dimension in ("valence", "arousal"):
        of_plain, of_hard = (layer["norms"]["russell-mehrabian"][dimension]["plane_r"] for layer in (plain, hard))
        assert of_hard < of_plain
    assert hard["reliability_mean"] < plain["reliability_mean"] - 0.1


def test_emotions_are_recognised_less_by_vectors_and_by_words(results: Path) -> None:
    plain, hard = found(results, "analyses/story_holdout.json")
    assert hard["vectors"]["top1"]["value"] < 0.5 < plain["vectors"]["top1"]["value"]
    assert hard["words"]["top1"]["value"] < 0.7 < plain["words"]["top1"]["value"]
