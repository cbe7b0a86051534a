"""Code digests follow what code does: not comments, docstrings or layout, but every module a script can reach."""

import shutil
from pathlib import Path

import pytest

from affectome import identity
from affectome.identity import code_digest, code_modules, file_sha256, fingerprint


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the package and scripts that may be edited."""
    root = Path(identity.__file__).resolve().parents[2]
    for folder in ("src/affectome", "scripts"):
        shutil.copytree(root / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(identity, "_ROOT", tmp_path)
    monkeypatch.setattr(identity, "_PACKAGE", tmp_path / "src/affectome")
    return tmp_path


def digest(rule: str) -> str:
    """What a new process finds."""
    for cached in (identity._source, identity._imports, identity._kept):
        cached.cache_clear()
    return code_digest(rule)


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new, 1), encoding="utf-8")


def test_comments_docstrings_and_layout_do_not_count(sources: Path) -> None:
    before = digest("collect_activations")
    pooling = sources / "src/affectome/activations/pooling.py"
    edit(pooling, '"""Averages over', '"""Means over')
    edit(pooling, "def mean_norm(", "# A comment.\n\n\ndef mean_norm(")
    edit(sources / "scripts/collect_activations.py", "with job(snakemake):", "with job(snakemake):  # why\n")
    assert digest("collect_activations") == before


def test_changed_behaviour_counts_in_every_script_that_reaches_it_and_in_no_other(sources: Path) -> None:
    rules = ("collect_activations", "emotion_vectors", "geometry", "figures", "fetch_model")
    before = {rule: digest(rule) for rule in rules}
    edit(sources / "src/affectome/activations/pooling.py", "norms, 0.0)", "norms, 0.5)")
    changed = {rule for rule in rules if digest(rule) != before[rule]}
    assert changed == {"collect_activations"}


def test_the_script_itself_counts(sources: Path) -> None:
    before = digest("layer_activations")
    edit(sources / "scripts/layer_activations.py", "list(snakemake.input)", "list(snakemake.input)[::-1]")
    assert digest("layer_activations") != before


def test_what_is_kept_of_files_is_what_would_be_found(
    sources: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("working"))
    found = digest("collect_activations")
    # Only Snakemake's working directories get a file.
    assert not list(Path().iterdir())
    Path(".snakemake").mkdir()
    assert digest("collect_activations") == found

    with monkeypatch.context() as patch:
        # Nothing that is known is read again.
        patch.delattr(identity, "_parse")
        assert digest("collect_activations") == found
    edit(sources / "src/affectome/activations/pooling.py", "norms, 0.0)", "norms, 0.5)")
    changed = digest("collect_activations")
    assert changed != found
    edit(sources / "src/affectome/activations/pooling.py", "norms, 0.5)", "norms, 0.0)")
    identity._KEPT.write_text("{")
    assert digest("collect_activations") == found


def test_modules_that_only_report_do_not_count() -> None:
    assert not {"affectome.jobs", "affectome.progress", "affectome.errors"} & set(code_modules("collect_activations"))


def test_modules_are_found_through_other_modules() -> None:
    """The script imports `collect`, which imports `pooling`, which imports `anatomy`."""
    assert {"affectome.activations.pooling", "affectome.models.anatomy"} <= set(code_modules("collect_activations"))


def test_config_is_no_part_of_any_digest() -> None:
    """Jobs get plain settings; a new key in config must not rerun what does not read it."""
    project = Path(identity.__file__).resolve().parents[2]
    rules = "".join(file.read_text() for file in (project / "rules").glob("*.smk"))
    scripts = [file.stem for file in (project / "scripts").glob("*.py") if f'code_digest("{file.stem}")' in rules]
    reached = {script: code_modules(script) for script in scripts}
    assert len(reached) > 20
    assert not [rule for rule, modules in reached.items() if "affectome.config" in modules]


def test_fingerprint_ignores_the_order_of_keys_and_nothing_else() -> None:
    assert fingerprint({"a": 1, "b": [1, 2]}) == fingerprint({"b": [1, 2], "a": 1})
    assert fingerprint({"a": 1, "b": [1, 2]}) != fingerprint({"a": 1, "b": [2, 1]})
    assert fingerprint({"a": 1}) != fingerprint({"a": "1"})


def test_file_sha256_of_a_known_text(tmp_path: Path) -> None:
    file = tmp_path / "abc"
    file.write_bytes(b"abc")
    assert file_sha256(file) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
