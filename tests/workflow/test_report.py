"""Snakemake's report and the comparison of runs, made from two tiny runs and opened in a real browser, offline."""

import json
import re
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from affectome.figures import FIGURES
from affectome.questions import category
from tests.project import snakemake
from tests.workflow.tiny import RUN, write_overlay

pytestmark = pytest.mark.workflow

# The same in everything but its name, its title and that it steers nothing.
TWIN = "twin"
CATEGORIES = {"Summary", "Corpora", "Geometry", "Agreement with ratings", "Layers"}
CATEGORIES = {category(name) for name in CATEGORIES | {"Similarity and clusters", "Steering"}}


@pytest.fixture(scope="module")
def project(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the built project with both runs and their comparison."""
    project = tmp_path_factory.mktemp("report") / "project"
    shutil.copytree(built, project, symlinks=True)
    config = yaml.safe_load((project / "overlay.yaml").read_text(encoding="utf-8"))
    config["runs"] = [RUN, TWIN]
    definition = config["run_definitions"][RUN]
    config["run_definitions"][TWIN] = {**definition, "title": "Its *twin*_ & <b>", "trials": []}
    write_overlay(project, config)
    done = snakemake(project, "--configfile", "overlay.yaml", "--", "all", "compare")
    assert done.returncode == 0, done.stdout + done.stderr
    return project


@pytest.fixture(scope="module")
def reports(project: Path) -> dict[str, str]:
    """Addresses of the report in both forms."""
    addresses = {}
    for form in ("zip", "html"):
        done = snakemake(project, "--configfile", "overlay.yaml", "--report", f"report.{form}")
        assert done.returncode == 0, done.stdout + done.stderr
        addresses[form] = (project / "report.html").as_uri()
    with zipfile.ZipFile(project / "report.zip") as archive:
        archive.extractall(project / "unpacked")
    return addresses | {"zip": (project / "unpacked/report/report.html").as_uri()}


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A window that reaches no other host; says at the end whether a page tried to, or met an error."""
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    asked: list[str] = []
    failed: list[str] = []

    def answer(route: Any) -> None:
        if route.request.url.partition(":")[0] in ("file", "data", "blob"):
            route.continue_()
        else:
            asked.append(route.request.url)
            route.abort()

    page.route("**/*", answer)
    page.on("console", lambda message: failed.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: failed.append(str(error)))
    yield page
    page.close()
    assert asked == []
    assert failed == []


def open_category(page: Any, name: str) -> None:
    page.locator("nav h1 + div a").first.click()
    page.locator("nav li", has_text=re.compile(f"^{name}$")).click()


@pytest.mark.parametrize("form", ["zip", "html"])
def test_every_result_of_the_report_opens(form: str, reports: dict[str, str], page: Any) -> None:
    page.goto(reports[form])
    menu = page.locator("nav li").all_inner_texts()
    assert {entry.strip() for entry in menu} > CATEGORIES
    pictures, pages = set(), 0
    for name in sorted(CATEGORIES):
        open_category(page, name)
        if name == category("Steering"):
            # The only run that has trials is entered without asking.
            assert page.locator("nav fieldset").count() == 0
        rows = page.locator("nav tbody tr")
        assert rows.count() > 0
        for row in range(rows.count()):
            if form == "html" and "Figures to explore" in rows.nth(row).inner_text():
                # Chromium opens no page as large as that inside another, as its caption says.
                continue
            rows.nth(row).locator("a").first.click()
            shown = page.locator("nav + div img, nav + div iframe")
            shown.wait_for()
            if shown.evaluate("shown => shown.tagName") == "IMG":
                page.wait_for_function("document.querySelector('nav + div img').naturalWidth > 300")
                pictures.add(shown.get_attribute("src"))
            else:
                frame = shown.element_handle().content_frame()
                frame.wait_for_load_state()
                assert len(frame.inner_text("body")) > 200
                pages += 1
    assert len(pictures) == len(FIGURES) + 2 + 1
    # Of the run that the switch stands at: its page, those of its trials, in the zip its interactive figures; and the
    # card of the corpus.
    assert pages == {"zip": 5, "html": 4}[form]


def test_a_switch_leads_from_a_run_to_the_other(reports: dict[str, str], page: Any) -> None:
    page.goto(reports["zip"])
    open_category(page, category("Layers"))
    switch = page.locator("nav fieldset")
    assert [text.strip() for text in switch.locator("label").all_inner_texts()] == [RUN, TWIN]
    assert page.locator("nav tbody tr").count() == 1
    page.locator("nav tbody tr a").first.click()
    picture = page.locator("nav + div img")
    first = picture.get_attribute("src")
    switch.locator("label", has_text=TWIN).click()
    page.wait_for_function("first => document.querySelector('nav + div img').getAttribute('src') !== first", arg=first)
    page.wait_for_function("document.querySelector('nav + div img').naturalWidth > 300")


def test_what_a_figure_shows_is_said_beside_it_with_its_numbers(
    project: Path, reports: dict[str, str], page: Any
) -> None:
    page.goto(reports["zip"])
    open_category(page, category("Steering"))
    page.locator("nav tbody tr", has_text="Effect by strength").locator("a").nth(1).click()
    said = " ".join(page.locator("nav").first.inner_text().split())
    texts = project / f"results/{RUN}/steering/expression/figures/dose_response.txt"
    description, numbers = (" ".join(line.split()) for line in texts.read_text(encoding="utf-8").splitlines())
    assert description in said
    assert numbers in said
    found = json.loads((project / f"results/{RUN}/steering/expression/verdict.json").read_text())
    assert f"Here: {found['n']['prompts']} prompts, " in said


def test_the_front_page_says_what_was_run_and_found(project: Path, reports: dict[str, str], page: Any) -> None:
    page.goto(reports["zip"])
    said = " ".join(page.locator(".prose").inner_text().split())
    summary = json.loads((project / f"results/{RUN}/summary.json").read_text())
    found = summary["layers"][str(summary["layer"]["auto"])]["norms"]["glasgow"]
    assert "A tiny run (run tiny) Model tiny: 3 blocks, 3 of them analysed" in said
    assert "Its *twin*_ & <b> (run twin)" in said
    assert f"{summary['corpus']['stories']} stories about 6 emotions" in said
    assert f"glasgow (n = {found['n']}): valence" in said
    sign = "−" if found["valence"]["loo_r"] < 0 else ""
    assert f"r = {sign}{abs(found['valence']['loo_r']):.2f}, 95 % interval" in said
    for vector, verdict in summary["steering"]["expression"]["verdicts"].items():
        assert f"{vector} {verdict}" in said
    # Nothing of it lies above the top of the window, where no scrolling leads.
    assert page.locator(".prose").bounding_box()["y"] >= 0
    page.locator("nav li", has_text="Statistics").click()
    page.locator("#runtimes canvas").wait_for()
    page.locator("#timeline canvas").wait_for()


def test_interactive_figures_draw_inside_the_report(reports: dict[str, str], page: Any) -> None:
    page.goto(reports["zip"])
    open_category(page, category("Summary"))
    page.locator("nav tbody tr", has_text="Figures to explore").locator("a").first.click()
    frame = page.frame_locator("iframe")
    frame.locator("#figure-3 .main-svg").first.wait_for()
    assert frame.locator(".js-plotly-plot").count() == 4
    assert frame.locator("#figure-0 .point").count() == 6


@pytest.mark.usefixtures("reports")
def test_the_library_of_interactive_figures_is_there_once_per_run(project: Path) -> None:
    files = [path for path in (project / "unpacked").rglob("*") if path.is_file()]
    counts = {path.name: path.read_bytes().count(b"* plotly.js v") for path in files}
    assert counts.pop("interactive.html") == 1
    assert set(counts.values()) == {0}
    assert sum(path.name == "interactive.html" for path in files) == 2


@pytest.mark.parametrize("width", [1200, 390])
def test_pages_fit_their_window(width: int, project: Path, reports: dict[str, str], page: Any) -> None:
    page.set_viewport_size({"width": width, "height": 844})
    files = [f"results/{RUN}/figures/interactive.html", "results/comparisons/tiny+twin/comparison.html"]
    for address in (*((project / file).as_uri() for file in files), reports["zip"]):
        page.goto(address)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    if width == 390:
        # The menu stands above the text and not beside it.
        assert page.locator(".prose").bounding_box()["width"] > 300


def test_a_report_of_missing_results_is_one_line(project: Path) -> None:
    target = project / f"results/{TWIN}/summary.html"
    aside = target.with_name("aside")
    target.rename(aside)
    done = snakemake(project, "--configfile", "overlay.yaml", "--report", "again.zip")
    aside.rename(target)
    assert done.returncode == 1
    assert f"File results/{TWIN}/summary.html marked for report but does not exist." in done.stderr
    assert "Traceback" not in done.stderr
    overview = target.with_name("overview.rst")
    overview.rename(aside)
    done = snakemake(project, "--configfile", "overlay.yaml", "--report", "again.html")
    aside.rename(overview)
    assert done.returncode == 0, done.stderr
    assert f"results/{TWIN}/overview.rst is missing: run snakemake again." in (project / "again.html").read_text()


# ---------------------------------------------------------------- compare


def test_a_comparison_of_twins_finds_no_difference(project: Path) -> None:
    folder = project / f"results/comparisons/{RUN}+{TWIN}"
    found = json.loads((folder / "comparison.json").read_text())
    (cosines,) = found["cosines"]
    assert cosines["r"] == pytest.approx(1)
    assert (cosines["n"], cosines["pairs"]) == (6, 15)
    assert cosines["p"] <= 0.05
    first, second = ({key: value for key, value in run.items() if key not in ("run", "title")} for run in found["runs"])
    assert first == second
    assert set(found["verdicts"]) == {"expression"}
    text = (folder / "comparison.html").read_text(encoding="utf-8")
    assert "Its *twin*_ &amp; &lt;b&gt;" in text
    assert "<script" not in text


def test_a_comparison_takes_two_runs(project: Path) -> None:
    done = snakemake(project, "--configfile", "overlay.yaml", "--config", f"runs=[{RUN}]", "--", "compare")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("compare: takes at least two runs")
    assert "Traceback" not in done.stderr
