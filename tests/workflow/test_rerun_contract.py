"""Edit this → exactly these rules run. One run is built for real; each edit is planned by a dry run and undone."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.project import planned
from tests.workflow.tiny import RUN, WRITTEN, tiny_config, write_overlay

pytestmark = pytest.mark.workflow

PAGES = {"summary_page"}
EXPLORED = {"interactive_figures"} | PAGES
DRAWN = {"figures"} | PAGES
FIGURES = DRAWN | EXPLORED
RECORDS = {"summary", "manifest"}
PROFILE = {"norm_correlations", "layer_profile"} | FIGURES | RECORDS
ANALYSES = {"geometry", "similarity", "clusters"} | PROFILE
VERDICTS = {"trial_verdicts", "trial_figures"} | RECORDS | EXPLORED
SAFETY = {"safe_ranges"} | VERDICTS
TRIALS = {"steering_trial", "generations"} | SAFETY
VECTORS = {"emotion_vectors", "export_vectors"} | ANALYSES
STEERED = {"steering_directions"} | TRIALS
ACTIVATIONS = {"collect_activations", "layer_activations"} | VECTORS | STEERED
CARD = {"corpus_card"}
SCREENED = {"screen_corpus"} | CARD | ACTIVATIONS
CORPUS = {"import_corpus"} | SCREENED
MODEL = {"fetch_model"} | ACTIVATIONS

# Settings: where in the overlay, the new value, the rules that then run.
SETTINGS: dict[str, tuple[str, object, set[str]]] = {
    "nothing": (f"run_definitions/{RUN}/components", 5, set()),
    "a figure's resolution": (f"run_definitions/{RUN}/figures", {"dpi": 80}, DRAWN | {"trial_figures"}),
    "a figure's labels": (f"run_definitions/{RUN}/figures", {"labels": 3}, DRAWN),
    "the title": (f"run_definitions/{RUN}/title", "Another title", EXPLORED | {"manifest"}),
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
    "screening": ("corpora/small/screening", {"min_words": 41}, SCREENED),
    "the same emotions, from a file": ("corpora/small/emotions", "resources/emotions/6.txt", {"manifest"}),
    "columns": ("corpora/small/stories/columns", {"topic": "emotion"}, CORPUS),
    "remote code": ("models/tiny/trust_remote_code", True, MODEL),
    "a norm's source": ("norms/glasgow/source", "Others", PAGES | {"manifest"}),
    "a norm's columns": ("norms/glasgow/arousal", "valence_M", PROFILE),
    "components": (f"run_definitions/{RUN}/components", 4, ANALYSES - {"similarity", "clusters"}),
    "another corpus": ("corpora/told/seed", 1, set()),
    "GPUs": ("models/tiny/gpus", 1, {"manifest"}),
}


def plant(file: Path) -> None:
    """Code that does something, if only a little."""
    file.write_text(file.read_text(encoding="utf-8") + "\n\nPLANTED = 1\n", encoding="utf-8")


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
        DRAWN,
    ),
    "code of interactive figures": ("src/affectome/figures/interactive.py", plant, EXPLORED),
    "steering code": ("src/affectome/steering/passes.py", replace("WRITING = 4", "WRITING = 2"), TRIALS),
    "verdict code": ("src/affectome/steering/verdict.py", replace("MIN_NULL = 5", "MIN_NULL = 6"), VERDICTS),
    "how models are loaded": ("src/affectome/models/load.py", plant, MODEL),
    "screening code": ("src/affectome/corpus/screening/form.py", plant, SCREENED),
    # Also who judges trials.
    "a writer's code": ("src/affectome/corpus/writers/gemini.py", plant, TRIALS),
    "the page's code": ("src/affectome/report/page.py", plant, PAGES),
    "how files are written": ("src/affectome/files.py", plant, CORPUS | MODEL),
    "how stores are opened": ("src/affectome/hdf5.py", plant, ACTIVATIONS),
    "the config's code": ("src/affectome/config.py", plant, set()),
    "the rules' helper": ("src/affectome/workflow.py", plant, set()),
    "the judge's prompt": ("resources/prompts/judge.j2", replace("\n", "\n\n"), TRIALS),
    "the section on steering": ("resources/report/steering.html.j2", replace("<p>", "<p> "), PAGES),
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
    "a caption": ("resources/report/captions/spectrum.rst", lambda file: file.write_text("Another caption.\n"), DRAWN),
    "the caption of a trial's figure": (
        "resources/report/captions/cost_curves.rst",
        lambda file: file.write_text("Another caption.\n"),
        {"trial_figures"} | PAGES,
    ),
    "the page of interactive figures": ("resources/report/interactive.html.j2", replace("<p>", "<p> "), EXPLORED),
    "the look of pages": ("resources/report/page.css", replace("46rem", "47rem"), EXPLORED | CARD),
    "the forms of emotion words": ("resources/screening/leaks.tsv", replace("\n", "\n\n"), SCREENED),
    "the page about the corpus": ("resources/report/corpus_card.html.j2", replace("</body>", "<p></p></body>"), CARD),
    "how a corpus is described": ("src/affectome/corpus/surface.py", plant, CARD),
    "a run's part of the front page": ("resources/report/overview.rst.j2", replace("blocks", "Blocks"), PAGES),
    # Read when the report is made, from what is there.
    "the report's front page": ("resources/report/workflow.rst", replace("affectome", "Affectome"), set()),
    "the report's captions": ("resources/report/figure.rst", replace("{{ text", "More. {{ text"), set()),
    "the first norm": (
        "resources/norms/russell_mehrabian_1977.csv",
        replace("happy,0.81", "happy,0.82"),
        ANALYSES - {"similarity", "clusters"},
    ),
    "another norm": ("resources/norms/glasgow_norms_2019.csv", replace("happy,8.242", "happy,8.2"), PROFILE),
    "a story": ("small.jsonl", replace("dinner", "supper"), CORPUS),
}


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
        ("figures/spectrum.svg", "figures", DRAWN),
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


def test_comments_and_docstrings_run_nothing(project: Path) -> None:
    """In every module, script and rule at once."""
    for file in [*(project / "src").rglob("*.py"), *(project / "scripts").glob("*.py")]:
        text = file.read_text(encoding="utf-8")
        file.write_text(text.replace('"""', '"""In other words: ', 1) + "\n# A remark.\n", encoding="utf-8")
    for file in [*(project / "rules").glob("*.smk"), project / "Snakefile"]:
        file.write_text("# A remark.\n" + file.read_text(encoding="utf-8"), encoding="utf-8")
    assert planned(project, "--configfile", "overlay.yaml") == {}


STORIES, DIALOGUES = {"write_stories", "screen_corpus"}, {"write_dialogues", "screen_corpus"}

# Of a corpus that a model wrote: which file, how it is edited, the rules that then run.
WRITTEN_FILES: dict[str, tuple[str, Callable[[Path], None], set[str]]] = {
    "nothing": ("README.md", replace("a", "b"), set()),
    "the prompt of stories": ("resources/prompts/story.j2", replace(" ", "  "), STORIES),
    "the prompt of dialogues": ("resources/prompts/neutral_dialogue.j2", replace(" ", "  "), DIALOGUES),
    "what dialogues are about": (
        "resources/prompts/neutral_topics.txt",
        replace("\n", "\nBicycles\n"),
        {"plan_corpus"} | STORIES | DIALOGUES,
    ),
    # What was paid for is not written again because the code is better now.
    "the code that plans": ("src/affectome/corpus/planning.py", plant, set()),
    "the code that writes": ("src/affectome/corpus/writing.py", plant, set()),
    "the code that asks": ("src/affectome/corpus/writers/gemini.py", plant, set()),
}


@pytest.mark.parametrize("file", WRITTEN_FILES)
def test_a_written_corpus_is_written_again_for_what_it_says_alone(project: Path, file: str) -> None:
    path, edit, rules = WRITTEN_FILES[file]
    edit(project / path)
    tables = [f"results/corpora/{WRITTEN}/{kind}.parquet" for kind in ("stories", "neutral")]
    assert set(planned(project, *tables, "--configfile", "overlay.yaml")) == rules


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
