"""Edit this → exactly these rules run. One run is built for real; each edit is planned by a dry run and undone."""

import copy
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.project import planned, snakemake
from tests.workflow.tiny import RUN, tiny_config, tiny_project, write_overlay

pytestmark = pytest.mark.workflow

PAGES = {"summary_page"}
FIGURES = {"figures"} | PAGES
RECORDS = {"summary", "manifest"}
PROFILE = {"norm_correlations", "layer_profile"} | FIGURES | RECORDS
ANALYSES = {"geometry", "similarity", "clusters"} | PROFILE
VERDICTS = {"trial_verdicts", "trial_figures"} | RECORDS | PAGES
SAFETY = {"safe_ranges"} | VERDICTS
TRIALS = {"steering_trial", "generations"} | SAFETY
VECTORS = {"emotion_vectors", "export_vectors"} | ANALYSES
STEERED = {"steering_directions"} | TRIALS
ACTIVATIONS = {"collect_activations", "layer_activations"} | VECTORS | STEERED
CORPUS = {"import_corpus", "screen_corpus"} | ACTIVATIONS

# Settings: where in the overlay, the new value, the rules that then run.
SETTINGS: dict[str, tuple[str, object, set[str]]] = {
    "nothing": (f"run_definitions/{RUN}/components", 5, set()),
    "a figure's resolution": (f"run_definitions/{RUN}/figures", {"dpi": 80}, FIGURES | {"trial_figures"}),
    "a figure's labels": (f"run_definitions/{RUN}/figures", {"labels": 3}, FIGURES),
    "the title": (f"run_definitions/{RUN}/title", "Another title", PAGES | {"manifest"}),
    "denoising": (f"run_definitions/{RUN}/denoising", "off", VECTORS | STEERED),
    "reference": (f"run_definitions/{RUN}/reference", "rest", VECTORS | STEERED),
    "seed": (f"run_definitions/{RUN}/statistics/seed", 7, {"clusters"} | PROFILE),
    "permutations": (f"run_definitions/{RUN}/statistics/permutations", 199, PROFILE | VERDICTS),
    "clusters": (f"run_definitions/{RUN}/clusters", {"k": 3}, {"clusters", "manifest"} | FIGURES),
    "pairs": (f"run_definitions/{RUN}/pairs", 4, {"similarity"} | FIGURES | RECORDS),
    "norms after the first": (f"run_definitions/{RUN}/norms", ["russell-mehrabian"], PROFILE),
    "the headline layer": (f"run_definitions/{RUN}/layer", 1, FIGURES | RECORDS | STEERED),
    "a trial's strengths": ("trials/expression/strengths", [0.2], TRIALS - {"safe_ranges"}),
    "a trial's level": ("trials/expression/alpha", 0.1, VERDICTS),
    "a cost trial's gates": ("trials/cost/gates", {"repetition": 0.2}, SAFETY),
    "a trial's controls": ("trials/expression/controls", {"random": 6}, STEERED - {"safe_ranges"}),
    "pooling": ("readings/from-50", {"pooling": {"from": 40}, "min_tokens": 10}, ACTIVATIONS),
    "framing": ("readings/from-50/framing", "user", ACTIVATIONS),
    "stored layers": ("models/tiny/stored", [2], ACTIVATIONS),
    "tokens per batch": ("models/tiny/token_budget", 1024, ACTIVATIONS),
    "screening": ("corpora/small/screening", {"min_words": 41}, {"screen_corpus"} | ACTIVATIONS),
}


def replace(old: str, new: str) -> Callable[[Path], None]:
    def edit(file: Path) -> None:
        text = file.read_text(encoding="utf-8")
        assert old in text
        file.write_text(text.replace(old, new, 1), encoding="utf-8")

    return edit


# Files: which, how it is edited, the rules that then run.
FILES: dict[str, tuple[str, Callable[[Path], None], set[str]]] = {
    "a docstring": ("src/affectome/activations/pooling.py", replace('"""Averages', '"""Means'), set()),
    "a comment": ("src/affectome/vectors/contrasts.py", replace("\nimport", "\n# A remark.\nimport"), set()),
    "a script's comment": ("scripts/geometry.py", replace("\nwith", "\n# A remark.\nwith"), set()),
    "logging": ("src/affectome/progress.py", replace("LOG_INTERVAL_S = 30.0", "LOG_INTERVAL_S = 10.0"), set()),
    "the README": ("README.md", replace("affectome", "affectome "), set()),
    "pooling code": ("src/affectome/activations/pooling.py", replace("0.0)", "0.5)"), ACTIVATIONS),
    "vector code": ("src/affectome/vectors/contrasts.py", replace("2 * r", "3 * r"), VECTORS | STEERED),
    "one analysis": ("src/affectome/analyses/similarity.py", replace("k=1", "k=2"), {"similarity"} | FIGURES | RECORDS),
    "figure code": (
        "src/affectome/figures/draw.py",
        replace("def draw_figures", "PLANTED = 1\n\n\ndef draw_figures"),
        FIGURES,
    ),
    "steering code": ("src/affectome/steering/passes.py", replace("WRITING = 4", "WRITING = 2"), TRIALS),
    "verdict code": ("src/affectome/steering/verdict.py", replace("MIN_NULL = 5", "MIN_NULL = 6"), VERDICTS),
    "a trial set": (
        "resources/trials/cost.yaml",
        replace("What is the Moon?", "What is the Sun?"),
        TRIALS,
    ),
    "the page of what was written": (
        "resources/report/generations.html.j2",
        replace("</body>", "<!-- More. --></body>"),
        {"generations"} | PAGES,
    ),
    "the page's template": ("resources/report/summary.html.j2", replace("</body>", "<p>More.</p></body>"), PAGES),
    "a caption": ("resources/report/captions/spectrum.rst", lambda file: file.write_text("Another caption.\n"), PAGES),
    "the first norm": (
        "resources/norms/russell_mehrabian_1977.csv",
        replace("happy,0.81", "happy,0.82"),
        ANALYSES - {"similarity", "clusters"},
    ),
    "another norm": ("resources/norms/glasgow_norms_2019.csv", replace("happy,8.242", "happy,8.2"), PROFILE),
    "a story": ("small.jsonl", replace("dinner", "supper"), CORPUS),
}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    project = tiny_project(tmp_path_factory.mktemp("contract") / "project")
    done = snakemake(project, "--configfile", "overlay.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    return project


@pytest.fixture
def project(built: Path) -> Iterator[Path]:
    """The built project, with whatever a test edits put back, times of change included."""
    saved = built.parent / "saved"
    shutil.copytree(built, saved, ignore=shutil.ignore_patterns("results", ".snakemake", "weights"))
    yield built
    shutil.copytree(saved, built, dirs_exist_ok=True)
    shutil.rmtree(saved)


def test_a_finished_run_has_nothing_to_do(project: Path) -> None:
    assert planned(project, "--configfile", "overlay.yaml") == {}


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_changed_setting_runs_the_rules_that_read_it(project: Path, setting: str) -> None:
    path, value, rules = SETTINGS[setting]
    config = copy.deepcopy(tiny_config(project))
    *parents, key = path.split("/")
    place = config
    for parent in parents:
        place = place.setdefault(parent, {})
    place[key] = value
    write_overlay(project, config, "edited.yaml")
    assert set(planned(project, "--configfile", "edited.yaml")) == rules


@pytest.mark.parametrize("file", FILES)
def test_a_changed_file_runs_what_depends_on_what_it_does(project: Path, file: str) -> None:
    path, edit, rules = FILES[file]
    edit(project / path)
    assert set(planned(project, "--configfile", "overlay.yaml")) == rules


@pytest.mark.parametrize(
    ("file", "rule", "rules"),
    [
        ("vectors/layer_1.h5", "emotion_vectors", VECTORS),
        ("analyses/similarity.json", "similarity", {"similarity"} | FIGURES | RECORDS),
        ("figures/spectrum.svg", "figures", FIGURES),
        ("steering/cost/safe_ranges.json", "safe_ranges", SAFETY),
        ("steering/expression/items.parquet", "steering_trial", TRIALS - {"safe_ranges"}),
        ("summary.json", "summary", RECORDS | PAGES),
        ("manifest.json", "manifest", {"manifest"}),
    ],
)
def test_a_deleted_result_comes_back_with_what_depends_on_it(
    project: Path, file: str, rule: str, rules: set[str]
) -> None:
    target = project / "results" / RUN / file
    aside = target.with_name("aside")
    target.rename(aside)
    try:
        plan = planned(project, "--configfile", "overlay.yaml")
    finally:
        aside.rename(target)
    assert set(plan) == rules
    assert plan[rule] == 1


def test_targets_by_path_work_for_any_defined_run(project: Path) -> None:
    plan = planned(project, "results/demo-literary/vectors/layer_20.h5")
    assert plan == {
        "fetch_model": 1,
        "import_corpus": 1,
        "screen_corpus": 1,
        "collect_activations": 1,
        "layer_activations": 1,
        "emotion_vectors": 1,
    }
