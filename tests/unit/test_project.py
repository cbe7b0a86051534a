"""The project's own files agree with each other: lock, environments, extras, layout, rules and their files."""

import ast
import re
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from affectome.identity import code_modules
from tests.project import ROOT

RULES = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "rules").glob("*.smk")))
IMAGES = {"Dockerfile": r"^FROM (\S+)$", "affectome.def": r"^From: (\S+)$"}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def lock() -> dict[str, str]:
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    pins = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {normal(name): version for name, version in pins}


def requirements() -> dict[str, str]:
    """Every requirement of pyproject.toml with its range."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    listed = [
        *project["dependencies"],
        *(item for extra in project["optional-dependencies"].values() for item in extra),
    ]
    return {normal(match[1]): match[2] for match in (re.fullmatch(r"([\w.-]+)(.*)", item) for item in listed) if match}


def test_lock_satisfies_every_range() -> None:
    from packaging.specifiers import SpecifierSet

    pins = lock()
    assert not [name for name, wanted in requirements().items() if not SpecifierSet(wanted).contains(pins[name])]


def test_torch_is_the_build_for_any_machine() -> None:
    assert lock()["torch"] == "2.13.0"
    assert not [name for name in lock() if name.startswith(("nvidia-", "triton", "cuda"))]


@pytest.mark.parametrize("name", ["cpu", "gpu"])
def test_conda_environments_equal_the_lock(name: str) -> None:
    environment = yaml.safe_load((ROOT / "envs" / f"{name}.yaml").read_text(encoding="utf-8"))
    pip = next(item["pip"] for item in environment["dependencies"] if isinstance(item, dict))
    pins = dict(item.split("==") for item in pip)
    assert pins == {package: lock()[package] for package in pins}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = {normal(re.match(r"[\w.-]+", item)[0]) for item in project["dependencies"]}
    assert needed <= set(pins)
    assert ("bitsandbytes" in pins) == (name == "gpu")


def installs(text: str) -> list[str]:
    """What the `pip install` commands of a recipe install, in order, without how they say it."""
    lines = re.sub(r"\\\n", " ", text).replace("$$", "$")
    commands = re.findall(r"python -m pip install (.*?)(?:&&|$)", lines, flags=re.MULTILINE)
    manner = r"--quiet|--disable-pip-version-check|--no-cache-dir|--index-url \"\S+\"|--index-url \"\{\{ \w+ \}\}\""
    return [" ".join(re.sub(manner, "", command).split()) for command in commands]


@pytest.mark.parametrize("image", IMAGES)
def test_images_install_what_the_makefile_does_on_the_same_python(image: str) -> None:
    text = (ROOT / "envs" / image).read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    steps = installs(re.search(r"^\.venv/installed:.*?\n\n", makefile, flags=re.DOTALL | re.MULTILINE)[0])
    assert installs(text) == steps
    assert steps[0] == "\"$(grep '^torch==' requirements.lock)\""
    assert re.findall(IMAGES[image], text, flags=re.MULTILINE) == ["python:3.11-slim"]
    for name in ("cpu", "gpu"):
        assert "python =3.11" in (ROOT / "envs" / f"{name}.yaml").read_text(encoding="utf-8")
    # Versions stand in the lock file alone, and everything that is copied is there.
    assert not re.search(r"==\s*\d", text)
    assert all(
        (ROOT / name).exists() for name in ("requirements.lock", "pyproject.toml", "README.md", "LICENSE", "src")
    )
    assert re.search(r"(ENTRYPOINT \[\"snakemake\"\]|exec snakemake \"\$@\")\s*\Z", text)


def test_the_docker_image_runs_as_no_root() -> None:
    text = (ROOT / "envs/Dockerfile").read_text(encoding="utf-8")
    assert re.findall(r"^USER (.*)$", text, flags=re.MULTILINE)[-1:] == ["affectome"]


def test_a_rule_its_script_log_and_benchmark_share_one_name() -> None:
    found = re.findall(r"^rule (\w+):\n(.*?)(?=^\S|\Z)", RULES, flags=re.DOTALL | re.MULTILINE)
    # Those that only name files of others have an input and nothing else.
    rules = [(name, body) for name, body in found if re.findall(r"^    (\w+):", body, flags=re.MULTILINE) != ["input"]]
    assert {name for name, _ in rules} == {path.stem for path in (ROOT / "scripts").glob("*.py")}
    for name, body in rules:
        assert f'"../scripts/{name}.py"' in body
        assert f'"results/logs/{name}/' in body
        # What makes no file has no benchmark: it is done anew whenever it is asked for.
        assert (f'"results/benchmarks/{name}/' in body) == ("output:" in body)


def test_scripts_are_thin() -> None:
    long = {path.name for path in (ROOT / "scripts").glob("*.py") if len(path.read_text().splitlines()) > 25}
    assert not long


def test_only_jobs_that_run_a_model_import_torch() -> None:
    """The others, hundreds in a run, start in half a second instead of two to six, and take half the memory."""
    scripts = [file.stem for file in (ROOT / "scripts").glob("*.py")]
    heavy = {script for script in scripts if any(map(imports_torch, code_modules(script)))}
    assert heavy == {
        "collect_activations",
        "readouts",
        "external_projections",
        "coloured_passages",
        "logit_lens",
        "steering_trial",
        # Where weights are converted, and where the model itself writes.
        "fetch_model",
        "write_stories",
        "write_dialogues",
    }


def imports_torch(module: str) -> bool:
    """Whether importing `module` does, by itself."""
    tree = ast.parse(Path(find_spec(module).origin).read_text(encoding="utf-8"))
    imported = [alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names]
    imported += [node.module for node in tree.body if isinstance(node, ast.ImportFrom)]
    return bool({name.partition(".")[0] for name in imported} & {"torch", "transformers"})


def test_snakefile_holds_no_logic() -> None:
    lines = (ROOT / "Snakefile").read_text(encoding="utf-8").splitlines()
    assert len(lines) < 80
    assert not [line for line in lines if re.match(r"\s*(def|if|for|while) ", line)]


def test_every_module_says_why_it_exists() -> None:
    silent = [path for path in (ROOT / "src").rglob("*.py") if not path.read_text(encoding="utf-8").startswith('"""')]
    assert not silent


def test_shipped_texts_state_their_origin() -> None:
    readme = (ROOT / "resources/README.md").read_text(encoding="utf-8")
    for folder in ("emotions", "corpora", "norms"):
        for file in (ROOT / "resources" / folder).rglob("*.*"):
            assert file.name in readme, file
