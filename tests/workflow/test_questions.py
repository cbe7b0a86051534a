"""Every question of a run through the real Snakemake: all answers and pages, a swept layer, and what reruns what."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from affectome.questions import ANSWER_FIGURES, QUESTIONS
from tests.project import dry_run, planned, snakemake
from tests.workflow.tiny import tiny_config, tiny_project, write_overlay

pytestmark = pytest.mark.workflow

RUN = "asking"
DRAWN = {"answer_figures", "summary_page"}


def config(project: Path) -> dict[str, Any]:
    """The tiny run with everything that a question can need, its headline layer chosen by the sweep."""
    made = tiny_config(project)
    (project / "lexicon.txt").write_text(
        "Word\tValence\tArousal\tDominance\n"
        + "".join(f"{word}\t{n / 40:.3f}\t{(7 * n % 40) / 40:.3f}\t0.5\n" for n, word in enumerate(WORDS)),
        encoding="utf-8",
    )
    (project / "book.txt").write_text("\n\n".join(PARAGRAPHS), encoding="utf-8")
    made["models"]["tiny-bits"] = {**made["models"]["tiny"], "dtype": "bfloat16"}
    made["readings"] = {"all-tokens": {"pooling": {"mean": True}}}
    made["norms"] = {"words": {"file": "lexicon.txt", "source": "made up"}}
    made["texts"] = {
        "book": {"source": {"file": "book.txt"}, "samples": 20, "min_tokens": 5},
        "tales": {"source": {"file": "small.jsonl"}, "samples": 20},
    }
    made["runs"] = [RUN]
    made["run_definitions"][RUN] = {
        **made["run_definitions"]["tiny"],
        "title": "A tiny run with questions",
        "analyses": "all",
        "layer": "sweep",
        "lexicon": "words",
        "external": ["book", "tales"],
        "variants": {"readings": ["all-tokens"], "models": ["tiny-bits"]},
        "holdout": {"folds": 3, "window": 2},
    }
    return made


WORDS = [
    "the",
    "a",
    "and",
    "of",
    "to",
    "in",
    "was",
    "her",
    "his",
    "she",
    "he",
    "it",
    "had",
    "that",
    "with",
    "on",
    "for",
]
PARAGRAPHS = [
    f"Paragraph {number} of a book about boats. The keel was laid in {1900 + number}, and {number} planks of oak were "
    f"cut by hand before the frost came. Nobody counted the nails."
    for number in range(25)
]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    project = tiny_project(tmp_path_factory.mktemp("questions") / "project")
    write_overlay(project, config(project))
    done = snakemake(project, "--configfile", "overlay.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    return project


def test_every_question_is_answered_in_numbers_words_and_pictures(project: Path) -> None:
    folder = project / "results" / RUN
    for name, question in QUESTIONS.items():
        found = json.loads((folder / f"analyses/{name}.json").read_text())
        # Every answer says how many it rests on.
        assert any(key.startswith("n") for key in found), name
        for file in question.files:
            assert (folder / "analyses" / file).stat().st_size > 0
            if file == f"{name}.parquet":
                assert [column for column in pd.read_parquet(folder / "analyses" / file) if column.startswith("n")], (
                    name
                )
        for figure in question.figures:
            description, numbers = (folder / f"figures/{figure}.txt").read_text().splitlines()
            assert len(description) > 60
            assert len(numbers) > 20
            assert (folder / f"figures/{figure}.svg").stat().st_size > 2000
    page = (folder / "summary.html").read_text()
    places = [page.index(f'id="{name}"') for name in QUESTIONS]
    # The page answers in the order of its table of contents.
    assert places == sorted(places)
    listed = [page.index(f'href="#{name}"') for name in QUESTIONS]
    assert listed == sorted(listed)
    assert max(listed) < min(places)
    overview = (folder / "overview.rst").read_text()
    assert all(question.asks in overview for question in QUESTIONS.values())


def test_the_swept_layer_is_everywhere_the_headline_layer(project: Path) -> None:
    folder = project / "results" / RUN
    best = json.loads((folder / "analyses/layer_sweep.json").read_text())["best"]
    assert json.loads((folder / "summary.json").read_text())["layer"]["auto"] == best
    for name in set(QUESTIONS) - {"layer_sweep", "layer_similarity", "relations", "published"}:
        found = json.loads((folder / f"analyses/{name}.json").read_text())
        assert found.get("layer", best) == best, name
    notes = folder / "steering/expression/directions.h5"
    import h5py

    with h5py.File(notes) as file:
        assert [key for key in file if key.startswith("layer_")] == [f"layer_{best}"]


@pytest.mark.parametrize(
    ("path", "value", "rules"),
    [
        ("holdout/window", 3, {"layer_sweep"}),
        ("holdout/weakest", 2, {"weakest_emotions", "manifest"} | DRAWN),
        ("relations", "other.csv", {"relations", "manifest"} | DRAWN),
        ("external", ["book"], {"external_text", "coloured_passages", "manifest"} | DRAWN),
        ("clusters", {"reference": "groups.csv"}, {"cluster_stability", "manifest"} | DRAWN),
        ("analyses", ["relations"], {"manifest", "summary_page"}),
    ],
)
def test_a_setting_runs_again_what_reads_it(project: Path, path: str, value: Any, rules: set[str]) -> None:
    overlay = yaml.safe_load((project / "overlay.yaml").read_text())
    (project / "other.csv").write_text("a,b,relation\nhappy,joyful,synonym\n")
    (project / "groups.csv").write_text("emotion,cluster\nhappy,1\nsad,2\n")
    place = overlay["run_definitions"][RUN]
    *parents, last = path.split("/")
    for parent in parents:
        place = place.setdefault(parent, {})
    place[last] = value
    write_overlay(project, overlay, "changed.yaml")
    plan = set(planned(project, "--configfile", "changed.yaml"))
    # What a new best layer would change is planned too, as nobody knows it before.
    assert plan == rules or (path == "holdout/window" and rules < plan)


def test_an_edited_list_of_prompts_is_read_again(project: Path) -> None:
    file = project / "resources/prompts/implicit_scenarios.jsonl"
    text = file.read_text()
    file.write_text("".join(text.splitlines(keepends=True)[:-2]))
    plan = set(planned(project, "--configfile", "overlay.yaml"))
    file.write_text(text)
    assert plan >= {"readouts", "implicit_scenarios", "answer_figures", "summary_page"}
    assert not plan & {"intensity", "refusal", "emotion_vectors"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"analyses": ["arousal_check"], "lexicon": None}, "arousal_check needs a lexicon"),
        ({"analyses": ["external_text"], "external": []}, "external_text needs texts"),
        ({"analyses": ["telepathy"]}, "should be 'published'"),
        ({"external": ["bok"]}, "did you mean 'book'?"),
        ({"lexicon": "wrods"}, "did you mean 'words'?"),
        ({"relations": "gone.csv"}, "relations: file 'gone.csv' does not exist"),
        ({"variants": {"models": ["smollm2-135m"]}}, "has another size than 'tiny'"),
        ({"variants": {"readings": ["all"]}}, "there is no reading 'all'"),
        ({"probes": {"layers": [7]}}, "probes.layers"),
        ({"holdout": {"before": RUN}}, "is the run itself"),
    ],
)
def test_a_mistake_in_what_a_question_needs_is_one_line(project: Path, change: dict[str, Any], words: str) -> None:
    overlay = yaml.safe_load((project / "overlay.yaml").read_text())
    overlay["run_definitions"][RUN].update(change)
    write_overlay(project, overlay, "broken.yaml")
    done = dry_run(project, "--configfile", "broken.yaml")
    assert done.returncode != 0
    (line,) = [line for line in done.stdout.splitlines() if words in line]
    assert line.startswith(f"run_definitions.{RUN}.")
    assert "Traceback" not in done.stdout


def test_every_figure_has_a_caption_and_belongs_to_a_question() -> None:
    from tests.project import ROOT

    captions = {file.stem for file in (ROOT / "resources/report/captions").glob("*.rst")}
    assert set(ANSWER_FIGURES) <= captions
    pages = {name for name, question in QUESTIONS.items() if question.page}
    assert pages <= captions
