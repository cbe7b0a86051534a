"""Every named run plans, with the jobs its setup says, from a plain checkout and without importing torch."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from affectome.config import Config
from affectome.figures import FIGURES
from affectome.questions import QUESTIONS
from tests.project import ROOT, copy_project, planned, snakemake

pytestmark = pytest.mark.workflow

WRITTEN = {"plan_corpus", "write_stories", "write_dialogues"}

# run: (layers, shards, rules that bring its corpus)
RUNS = {
    "demo": (30, 1, {"import_corpus"}),
    "demo-literary": (30, 1, {"import_corpus"}),
    "demo-steering": (30, 1, {"import_corpus"}),
    "self-smollm2": (30, 1, {"plan_corpus", "generate_stories", "generate_dialogues"}),
    "self-smollm2-padded": (30, 1, {"plan_corpus", "generate_stories", "generate_dialogues"}),
    "gemini-full": (30, 32, WRITTEN),
    "gemma4-e2b": (35, 1, WRITTEN),
    "gemma4-e4b-medium": (42, 4, WRITTEN),
    "gemma4-e4b-full": (42, 32, WRITTEN),
    "gemma4-31b": (11, 64, WRITTEN),
    "apertus-8b": (32, 1, WRITTEN),
    "qwen3-8b": (36, 1, WRITTEN),
    "qwen3-8b-ekman": (36, 1, {"import_corpus"}),
}


CONFIG = Config.model_validate(yaml.safe_load((ROOT / "workflow_config.yaml").read_text(encoding="utf-8")))


def test_every_named_run_is_here() -> None:
    assert set(RUNS) == set(CONFIG.run_definitions)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_project(tmp_path_factory.mktemp("plans") / "project")


@pytest.mark.parametrize("run", RUNS)
def test_a_named_run_plans(project: Path, run: str) -> None:
    layers, shards, corpus = RUNS[run]
    plan = planned(project, "--config", f"runs=[{run}]")
    # Of another reading and of the model in 8 bits the headline layer alone is asked for, in stores of their own.
    variants = 2 if run == "demo" else 0
    # A run that another is put beside takes its corpus, and so its recognition of stories.
    before = 1 if run == "self-smollm2-padded" else 0
    assert plan["collect_activations"] == shards + variants + before
    assert plan["layer_activations"] == layers + variants + before
    assert plan["emotion_vectors"] == layers
    asked = CONFIG.questions(run)
    assert plan.get("readouts", 0) == len({"implicit_scenarios", "intensity", "speakers", "refusal"} & set(asked))
    assert {rule for rule in plan if rule.startswith(("import", "plan", "write", "generate"))} == corpus
    trials = {"demo": 2, "demo-steering": 2, "gemma4-e2b": 2, "gemma4-31b": 2}.get(run, 0)
    assert plan.get("steering_trial", 0) == plan.get("steering_directions", 0) == trials
    assert plan.get("generations", 0) == trials
    assert plan["figures"] == len(FIGURES)
    assert plan["answer_figures"] == sum(len(QUESTIONS[question].figures) for question in asked)
    several = {"collect_activations", "layer_activations", "emotion_vectors", "figures", "answer_figures", "readouts"}
    several |= {"fetch_model"} if variants else set()
    once = set(plan) - several - {"steering_trial", "steering_directions", "generations", "trial_figures"}
    twice = {"plan_corpus", "generate_stories", "generate_dialogues", "screen_corpus"} if before else set()
    twice |= {"story_holdout", "weakest_emotions"} if before else set()
    assert {rule for rule in once if plan[rule] == 2} == twice
    assert {plan[rule] for rule in once - twice} == {1}
    assert sum(plan.values()) < 500


def test_several_runs_share_what_they_have_in_common(project: Path) -> None:
    plan = planned(project, "--config", "runs=[demo,demo-literary]")
    # The model, and the same in 8 bits.
    assert plan["fetch_model"] == 2
    assert plan["collect_activations"] == 4
    assert plan["readouts"] == 4
    assert plan["emotion_vectors"] == 60


def test_planning_imports_nothing_heavy(project: Path) -> None:
    code = (
        "import sys; from snakemake.cli import main\n"
        "try: main(['--dry-run', '--quiet', 'all'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'transformers', 'scipy', 'sklearn', 'h5py'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=project, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1] == "[]", done.stdout + done.stderr


def test_an_unknown_target_is_refused(project: Path) -> None:
    done = snakemake(project, "--dry-run", "results/dmeo/summary.json")
    assert done.returncode != 0
    assert "MissingRuleException" in done.stdout + done.stderr
