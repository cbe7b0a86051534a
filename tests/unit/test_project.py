"""The project's own files agree with each other: lock, environments, extras, layout, rules and their files."""

import re
import tomllib

import pytest
import yaml

from tests.project import ROOT

RULES = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "rules").glob("*.smk")))


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


def test_a_rule_its_script_log_and_benchmark_share_one_name() -> None:
    rules = re.findall(r"^rule (\w+):\n(.*?)(?=^rule |\Z)", RULES, flags=re.DOTALL | re.MULTILINE)
    assert {name for name, _ in rules} == {path.stem for path in (ROOT / "scripts").glob("*.py")}
    for name, body in rules:
        assert f'"../scripts/{name}.py"' in body
        assert f'"results/logs/{name}/' in body
        # What makes no file has no benchmark: it is done anew whenever it is asked for.
        assert (f'"results/benchmarks/{name}/' in body) == ("output:" in body)


def test_scripts_are_thin() -> None:
    long = {path.name for path in (ROOT / "scripts").glob("*.py") if len(path.read_text().splitlines()) > 25}
    assert not long


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
