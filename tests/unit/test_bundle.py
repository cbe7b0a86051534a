"""A bundle is the same bytes for the same contents, tells what it is, and anything done to it is noticed and named."""

import hashlib
import io
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from huggingface_hub import ModelCard
from rocrate.rocrate import ROCrate
from safetensors.numpy import load_file

from affectome import __version__
from affectome.bundle.archive import CHECKSUMS, write_archive
from affectome.bundle.contents import write_bundle
from affectome.bundle.verify import verify
from affectome.cli import main
from affectome.errors import UserError
from affectome.identity import file_sha256
from affectome.vectors.export import export_vectors
from affectome.vectors.store import read_all
from tests.planted import vector_file
from tests.project import ROOT

EMOTIONS = ["afraid", "at ease", "calm"]
LAYERS = (0, 2)
WIDTH = 8
PNG = b"\x89PNG\r\n\x1a\nscratch\x00\x00\x00\x00IEND\xaeB`\x82"

CONFIG: dict[str, Any] = {
    "runs": ["tiny"],
    "models": {"m": {"source": {"hub": "some/model", "revision": "abc"}, "blocks": 3, "width": WIDTH}},
    "corpora": {"c": {"emotions": EMOTIONS, "stories": {"file": "stories.csv"}}},
    "readings": {"r": {"pooling": {"from": 50}}},
    "norms": {"n": {"file": "norm.csv", "source": "Somebody (1999), CC BY | 4.0"}},
    "trials": {"expression": {"kind": "expression"}, "cost": {"kind": "cost"}},
    "run_definitions": {
        "tiny": {
            "title": "A tiny run",
            "model": "m",
            "corpus": "c",
            "reading": "r",
            "norms": ["n"],
            "trials": ["expression", "cost"],
            "figures": {"dpi": 150},
        }
    },
}


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not isinstance(content, bytes):
        content = json.dumps(content, ensure_ascii=False).encode()
    path.write_bytes(content)
    return path


def summary_of(files: list[Path]) -> dict[str, Any]:
    held_out = {"loo_r": 0.846, "loo_ci": [0.76, 0.91], "loo_p": 0.001}
    found = {"norms": {"n": {"n": 3, "valence": held_out}}, "reliability_mean": 0.5, "neutral_components": 2}
    vectors = read_all(files)
    return {
        "run": "tiny",
        "model": {"name": "m", "blocks": 3, "width": WIDTH, "revision": "abc"},
        "corpus": {"name": "c", "stories": 1234, "emotions": len(EMOTIONS), "neutral": 5, "dropped": {}},
        "layer": {"auto": 2},
        "layers": {str(layer): {**found, "residual_norm": item.residual_norm} for layer, item in vectors.items()},
        "steering": {"expression": {"verdicts": {"calm": "supported"}}, "cost": {"safe": {"calm": [-0.1, 0.2]}}},
        "fingerprints": {
            "activations": "key",
            "vectors": {str(layer): item.fingerprint for layer, item in vectors.items()},
        },
    }


def manifest_of(summary: dict[str, Any]) -> dict[str, Any]:
    definition = {key: value for key, value in CONFIG["run_definitions"]["tiny"].items() if key != "figures"}
    model = CONFIG["models"]["m"]
    return {
        "affectome": __version__,
        "git_commit": "0123abc+changes",
        "made": "2026-11-20T12:00:00+00:00",
        "settings": {
            "run": {"name": "tiny", **definition},
            "model": {"name": "m", **model},
            "corpus": {"name": "c", **CONFIG["corpora"]["c"]},
            "reading": {"name": "r", **CONFIG["readings"]["r"]},
            "norms": CONFIG["norms"],
            "trials": CONFIG["trials"],
        },
        "seeds": {},
        "fingerprints": summary["fingerprints"],
        "model": {"model": "m", "model_type": "llama", **model, "revision": "abc"},
        "versions": {},
        "hardware": {},
    }


def tiny_run(folder: Path) -> dict[str, Any]:
    """What `write_bundle` is given for a run of three emotions and two layers, whose files are in `folder / run`."""
    run, rng = folder / "run", np.random.default_rng(0)
    (run / "vectors").mkdir(parents=True)
    layers = [
        vector_file(run / f"vectors/layer_{layer}.h5", layer, EMOTIONS, rng.normal(size=(3, WIDTH)), 100.5 + layer)
        for layer in LAYERS
    ]
    exports = [run / "vectors" / name for name in ("vectors.safetensors", "vectors.npz", "gguf")]
    export_vectors(layers, *exports, {"model": "tiny", "model_type": "llama", "sha256": {}})
    write(exports[2] / ".snakemake_timestamp", b"")
    summary = summary_of(layers)
    table = io.BytesIO()
    pd.DataFrame({"a": [1.0]}).to_parquet(table)
    effect = {"verdict": "supported", "strength": 0.1, "effect": {"mean": 1.9, "ci": [1.5, 2.3]}}
    verdict = {"title": "Words.", "alpha": 0.05, "unit": "nats", "vectors": {"calm": effect}}
    files = [
        *exports,
        write(run / "summary.json", summary),
        write(run / "manifest.json", manifest_of(summary)),
        write(run / "summary.html", b"<html></html>\n"),
        write(run / "figures/spectrum.svg", b"<svg></svg>\n"),
        write(run / "figures/spectrum.png", PNG),
        write(run / "analyses/geometry.parquet", table.getvalue()),
        write(run / "analyses/geometry.json", {"layers": {}}),
        write(run / "steering/expression/verdict.json", verdict),
        write(run / "steering/cost/safe_ranges.json", {"gates": {}, "vectors": {"calm": {"low": -0.1, "high": 0.2}}}),
    ]
    return {
        "files": files,
        "screening": write(folder / "corpora/screening.json", {}),
        "corpus": [write(folder / "corpora/stories.parquet", table.getvalue())],
        "sources": [write(folder / "my norm.csv", b"word\n")],
        "project": [ROOT / name for name in ("requirements.lock", "CITATION.cff", "LICENSE")],
        "output": run / "bundle.zip",
        "config": CONFIG,
    }


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, Any]:
    return tiny_run(tmp_path)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    inputs = tiny_run(tmp_path_factory.mktemp("packed"))
    write_bundle(**inputs)
    return inputs["output"]


@pytest.fixture
def bundle(packed: Path, tmp_path: Path) -> Path:
    """A bundle to do things to."""
    return Path(shutil.copy(packed, tmp_path))


def members(bundle: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(bundle) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def problem(bundle: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that `affectome verify` prints of a bundle with one problem."""
    assert main(["verify", str(bundle)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1, lines
    return lines[0]


# ---------------------------------------------------------------- what it is


def test_a_whole_bundle_is_described(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(bundle)]) == 0
    said = capsys.readouterr().out
    for expected in (
        "tiny: A tiny run",
        "m, revision abc, 3 blocks, width 8",
        "c, 1,234 stories, 5 neutral texts",
        "3: afraid, at ease, calm",
        "2, 0 to 2; headline layer 2",
        "valence of held-out words r = 0.85 [0.76, 0.91], p = 0.001",
        "supported 1 (calm)",
        file_sha256(bundle),
        "no problem found",
    ):
        assert expected in said
    assert main(["verify", "--json", str(bundle)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["ok"], told["problems"], told["sha256"]) == (True, [], file_sha256(bundle))
    assert told["bundle"]["emotions"] == EMOTIONS
    assert told["bundle"]["layers"] == [0, 2]


def test_the_same_contents_are_the_same_bytes(inputs: dict[str, Any]) -> None:
    write_bundle(**inputs)
    first = inputs["output"].read_bytes()
    for path in inputs["output"].parent.rglob("*"):
        path.chmod(0o700)
        os.utime(path, (1e9, 1e9))
    write_bundle(**{**inputs, "files": inputs["files"][::-1]})
    assert inputs["output"].read_bytes() == first
    assert not list(inputs["output"].parent.glob("*.tmp"))


def test_what_is_in_it(packed: Path) -> None:
    held = members(packed)
    assert list(held) == sorted(held)
    assert {name for name in held if name.startswith("vectors/")} == {
        "vectors/vectors.safetensors",
        "vectors/vectors.npz",
        *(f"vectors/gguf/{name}.gguf" for name in ("afraid", "at_ease", "calm")),
    }
    assert yaml.safe_load(held["config.yaml"]) == CONFIG
    about = json.loads(held["bundle.json"])
    assert (about["format"], about["format_version"], about["run"]) == ("affectome.bundle", 1, "tiny")
    norm = packed.parents[1] / "my norm.csv"
    assert {"role": "named in config", "file": str(norm), "sha256": file_sha256(norm)} in about["inputs"]
    for cited in (b"Sofroniew", b"Somebody (1999)", b"https://huggingface.co/some/model/tree/abc", b"affectome"):
        assert cited in held["CITING.md"]


def test_sha256sum_reads_its_checksums(bundle: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(bundle) as archive:
        archive.extractall(tmp_path / "unpacked")
    command = ["sha256sum", "--check", "--strict", "--quiet", CHECKSUMS]
    assert subprocess.run(command, cwd=tmp_path / "unpacked", check=False).returncode == 0
    assert len((tmp_path / "unpacked" / CHECKSUMS).read_text().splitlines()) == len(members(bundle)) - 1


def test_the_card_loads_as_one_and_its_lines_load_the_vectors(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with zipfile.ZipFile(bundle) as archive:
        archive.extractall(tmp_path / "unpacked")
    monkeypatch.chdir(tmp_path / "unpacked")
    card = ModelCard.load("README.md")
    assert (card.data.base_model, card.data.license, card.data.library_name) == ("some/model", "other", "affectome")
    assert "| n | 3 | valence | 0.85 | 0.76 to 0.91 | 0.001 |" in card.text
    assert "| calm | supported | 0.1 | 1.90 | 1.50 to 2.30 |" in card.text
    assert "commit `0123abc`, with changes that were not committed" in card.text
    code = re.search(r"```python\n(.*?)```", card.text, flags=re.DOTALL)[1]
    assert len(code.splitlines()) == 5
    names: dict[str, Any] = {}
    exec(code, names)  # noqa: S102 - the lines that readers are told to run
    unit = load_file("vectors/vectors.safetensors")["layer_2/unit"]
    np.testing.assert_allclose(names["vector"], 0.1 * 102.5 * unit[0], rtol=1e-6)


def test_a_model_that_is_not_on_the_hub_is_no_base_model_of_the_hub(inputs: dict[str, Any]) -> None:
    source = {"pypi": "wheel", "version": "1.0", "member": "a/m.gguf"}
    config = {**CONFIG, "models": {"m": {**CONFIG["models"]["m"], "source": source}}}
    path = inputs["output"].parent / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["settings"]["model"]["source"] = manifest["model"]["source"] = source
    write(path, manifest)
    write_bundle(**{**inputs, "config": config})
    card = members(inputs["output"])["README.md"].decode()
    assert "base_model" not in card
    assert "a/m.gguf in abc on PyPI ([source](https://pypi.org/project/wheel/1.0/))" in card


def test_its_metadata_are_an_ro_crate(bundle: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        crate = ROCrate(bundle)
    held = members(bundle)
    files = {entity.id: entity for entity in crate.data_entities}
    assert set(files) == set(held) - {CHECKSUMS, "ro-crate-metadata.json"}
    vectors = files["vectors/vectors.safetensors"]
    assert vectors["contentSize"] == str(len(held[vectors.id]))
    assert f"{vectors['sha256']}  {vectors.id}" in held[CHECKSUMS].decode()
    assert all(entity["name"] and entity["encodingFormat"] for entity in files.values())
    root = crate.root_dataset
    assert root["datePublished"] == "2026-11-20T12:00:00+00:00"
    assert root["license"].id == "LICENCES.md"
    action = crate.get("#run")
    assert action.type == "CreateAction"
    assert action["instrument"]["author"][0]["name"] == "The affectome authors"
    assert action["instrument"]["license"].id == "https://spdx.org/licenses/MIT"
    model, *read = (each["name"] for each in action["object"])
    assert model == "Language model m: some/model at abc on the Hugging Face hub"
    assert any(name.endswith("my norm.csv") for name in read)
    results = {each.id for each in action["result"]}
    assert vectors.id in results
    assert "README.md" not in results


# ---------------------------------------------------------------- what is done to it

CRATE = "ro-crate-metadata.json"
KINDS = [
    "README.md",
    "LICENSE",
    "analyses/geometry.parquet",
    "bundle.json",
    CHECKSUMS,
    "config.yaml",
    "figures/spectrum.png",
    "figures/spectrum.svg",
    "manifest.json",
    "ro-crate-metadata.json",
    "steering/expression/verdict.json",
    "summary.html",
    "vectors/gguf/at_ease.gguf",
    "vectors/vectors.npz",
    "vectors/vectors.safetensors",
]


@pytest.mark.parametrize("name", KINDS)
def test_a_flipped_bit_is_noticed(bundle: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    content = members(bundle)[name]
    data = bytearray(bundle.read_bytes())
    data[data.index(content) + len(content) // 2] ^= 1
    bundle.write_bytes(data)
    assert problem(bundle, capsys).startswith(f"{name}: is damaged")


def zipped(bundle: Path, items: list[tuple[Any, bytes]], compression: int = zipfile.ZIP_STORED) -> None:
    """Write a bundle of `items` as any ZIP program would, whatever they are."""
    with warnings.catch_warnings(), zipfile.ZipFile(bundle, "w", compression) as archive:
        warnings.simplefilter("ignore")  # a name that stands twice
        for name, content in items:
            archive.writestr(name, content)


def link(name: str) -> zipfile.ZipInfo:
    item = zipfile.ZipInfo(name)
    item.create_system, item.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    return item


# What is done to the members, the file that must be named, and what must be said.
TAMPERED: dict[str, tuple[Callable[[dict[str, bytes]], list[tuple[Any, bytes]]], str, str]] = {
    "deleted": (lambda held: [item for item in held.items() if item[0] != "LICENSE"], "LICENSE", "is missing"),
    "added": (lambda held: [*held.items(), ("run.py", b"pass")], "run.py", "was not packed"),
    "changed": (lambda held: list({**held, "LICENSE": b"All yours."}.items()), "LICENSE", "was changed"),
    "no checksums": (lambda held: [item for item in held.items() if item[0] != CHECKSUMS], CHECKSUMS, "is missing"),
    "unreadable checksums": (lambda held: list({**held, CHECKSUMS: b"?"}.items()), CHECKSUMS, "cannot read the line"),
    "out of the folder": (lambda held: [*held.items(), ("../../.bashrc", b"")], "../../.bashrc", "unsafe name"),
    "inside out": (lambda held: [*held.items(), ("figures/../../a", b"")], "figures/../../a", "unsafe name"),
    "absolute": (lambda held: [*held.items(), ("/etc/passwd", b"")], "/etc/passwd", "unsafe name"),
    "for Windows": (lambda held: [*held.items(), ("C:\\a", b"")], "C:\\a", "unsafe name"),
    "a folder": (lambda held: [*held.items(), ("more/", b"")], "more/", "unsafe name"),
    "a link": (lambda held: [*held.items(), (link("more"), b"/etc/passwd")], "more", "link"),
    "twice": (lambda held: [*held.items(), ("LICENSE", held["LICENSE"])], "LICENSE", "stands twice"),
}


@pytest.mark.parametrize("case", TAMPERED)
def test_tampering_is_noticed(bundle: Path, capsys: pytest.CaptureFixture[str], case: str) -> None:
    change, name, said = TAMPERED[case]
    zipped(bundle, change(members(bundle)))
    line = problem(bundle, capsys)
    assert line.startswith(f"{name}: ")
    assert said in line


def test_a_renamed_file_is_missing_and_extra(bundle: Path) -> None:
    zipped(bundle, [("LICENCE" if name == "LICENSE" else name, data) for name, data in members(bundle).items()])
    assert verify(bundle).problems == ["LICENCE: was not packed with this bundle", "LICENSE: is missing"]


def test_a_zip_bomb_is_refused_unread(bundle: Path) -> None:
    held = members(bundle)
    zipped(bundle, [*held.items(), ("bomb", bytes(50_000_000))], zipfile.ZIP_DEFLATED)
    assert "bomb: is compressed or encrypted, which members of a bundle are not" in verify(bundle).problems
    # Sizes that only the table of contents states: packed and unpacked, or unpacked alone.
    for start in (20, 24):
        write_archive(bundle, held)
        data = bytearray(bundle.read_bytes())
        with zipfile.ZipFile(bundle) as archive:
            entry, name = archive.start_dir, archive.namelist()[0]
        data[entry + start : entry + 28] = (2**30).to_bytes(4, "little") * ((28 - start) // 4)
        bundle.write_bytes(data)
        assert verify(bundle).problems == [f"{name}: says that it holds more than the archive does"]


def test_what_is_no_archive_is_said_in_a_line(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = bundle.read_bytes()
    for size in (0, 10, len(whole) // 2, len(whole) - 1):
        bundle.write_bytes(whole[:size])
        assert problem(bundle, capsys) == "bundle.zip: is no ZIP archive, or one that was cut short"
    bundle.write_bytes(b"not a zip" * 100)
    assert problem(bundle, capsys) == "bundle.zip: is no ZIP archive, or one that was cut short"
    assert problem(bundle.parent, capsys) == f"{bundle.parent.name}: cannot be read (Is a directory)"
    bundle.unlink()
    assert problem(bundle, capsys) == "bundle.zip: cannot be read (No such file or directory)"


def test_no_damage_ends_in_a_traceback_or_goes_unnoticed(bundle: Path) -> None:
    whole, held = bundle.read_bytes(), members(bundle)
    rng = np.random.default_rng(0)
    for position in [*rng.integers(0, len(whole), 60), *range(len(whole) - 200, len(whole), 3)]:
        data = bytearray(whole)
        data[position] ^= 1 << int(rng.integers(8))
        bundle.write_bytes(data)
        # What may change unseen is what no file's name or content depends on, such as its date.
        assert not verify(bundle).ok or members(bundle) == held


# ---------------------------------------------------------------- what it says, with checksums made anew


def edited(held: dict[str, bytes], name: str, edit: Callable[[Any], Any]) -> dict[str, bytes]:
    """The members with the JSON file `name` changed by `edit`."""
    content = json.loads(held[name])
    edit(content)
    return {**held, name: json.dumps(content).encode()}


def described(held: dict[str, bytes]) -> dict[str, bytes]:
    """The members with the sums in their RO-Crate made anew."""
    crate = json.loads(held[CRATE])
    for entity in crate["@graph"]:
        if entity["@id"] in held and entity["@id"] != CRATE:
            entity["sha256"] = hashlib.sha256(held[entity["@id"]]).hexdigest()
    return {**held, CRATE: json.dumps(crate).encode()}


def safetensors(held: dict[str, bytes], edit: Callable[[dict[str, np.ndarray]], Any]) -> bytes:
    """The safetensors file with its arrays changed by `edit` in place."""
    data = bytearray(held["vectors/vectors.safetensors"])
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    edit(
        {
            name: np.frombuffer(data, np.float32, offset=8 + size + entry["data_offsets"][0], count=3 * WIDTH)
            for name, entry in header.items()
            if name != "__metadata__"
        }
    )
    return bytes(data)


def npz(held: dict[str, bytes], edit: Callable[[dict[str, Any]], Any], **options: Any) -> bytes:
    with np.load(io.BytesIO(held["vectors/vectors.npz"])) as found:
        arrays = dict(found)
    edit(arrays)
    target = io.BytesIO()
    np.savez(target, **arrays, **options)
    return target.getvalue()


class Trap:
    """Unpickling it leaves a file."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("unpickled"),))


def trap(arrays: dict[str, Any]) -> None:
    arrays["emotions"] = np.array([Trap()] * 3, dtype=object)


VECTORS, ARRAYS, ABOUT = "vectors/vectors.safetensors", "vectors/vectors.npz", "bundle.json"
# What is changed, and what must be said of which file.
FORGED: dict[str, tuple[Callable[[dict[str, bytes]], dict[str, bytes]], str]] = {
    "newer format": (
        lambda held: edited(held, ABOUT, lambda about: about.update(format_version=2)),
        f"{ABOUT}: the format is affectome.bundle 2, and this affectome reads affectome.bundle 1",
    ),
    "no format": (lambda held: {**held, ABOUT: b"[]"}, f"{ABOUT}: does not say what this archive is"),
    "another run": (
        lambda held: edited(held, "manifest.json", lambda found: found["settings"]["run"].update(name="b")),
        "manifest.json: the run is b, and tiny in summary.json",
    ),
    "another revision": (
        lambda held: edited(held, "manifest.json", lambda found: found["model"].update(revision="b")),
        "manifest.json: the model's revision is b, and abc in summary.json",
    ),
    "other fingerprints": (
        lambda held: edited(held, "manifest.json", lambda found: found["fingerprints"].update(activations="b")),
        "manifest.json: its fingerprints are not those in summary.json",
    ),
    "no date": (
        lambda held: edited(held, "manifest.json", lambda found: found.pop("made")),
        "manifest.json: says nothing of made",
    ),
    "no summary": (lambda held: {**held, "summary.json": b"{"}, "summary.json: cannot be read (JSONDecodeError"),
    "summary of something else": (lambda held: {**held, "summary.json": b"{}"}, "summary.json: cannot be read"),
    "summary without words": (
        lambda held: edited(held, "summary.json", lambda found: found["corpus"].pop("neutral")),
        "summary.json, manifest.json: do not say what this bundle is (KeyError: 'neutral')",
    ),
    "deep summary": (lambda held: {**held, "summary.json": b"[" * 100_000}, "summary.json: cannot be read"),
    "other settings": (
        lambda held: {**held, "config.yaml": held["config.yaml"].replace(b"from: 50", b"from: 5")},
        "config.yaml: the settings of its reading are not those in manifest.json",
    ),
    "configuration of another run": (
        lambda held: {**held, "config.yaml": held["config.yaml"].replace(b"- tiny", b"- demo")},
        "config.yaml: builds ['demo'], and this is the run tiny",
    ),
    "configuration that makes objects": (
        lambda held: {**held, "config.yaml": b"!!python/object/apply:os.mkdir ['unpickled']"},
        "config.yaml: cannot be read (ConstructorError",
    ),
    "longer unit vector": (
        lambda held: {**held, VECTORS: safetensors(held, lambda found: found["layer_2/unit"].__imul__(1.01))},
        f"{VECTORS}: layer_2/unit: row",
    ),
    "no number": (
        lambda held: {**held, VECTORS: safetensors(held, lambda found: found["layer_0/raw"].put(3, np.nan))},
        f"{VECTORS}: layer_0/raw holds values that are not finite",
    ),
    "no vectors": (lambda held: {**held, VECTORS: held[VECTORS][:-8]}, f"{VECTORS}: cannot be read (SafetensorError"),
    "other norms": (
        lambda held: edited(held, "summary.json", lambda found: found["layers"]["2"].update(residual_norm=1.0)),
        f"{VECTORS}: its residual norms are not those in summary.json",
    ),
    "another width": (
        lambda held: edited(held, "summary.json", lambda found: found["model"].update(width=9)),
        f"{VECTORS}: layer_0/denoised is float32 of shape (3, 8), and should be float32 of shape (3, 9)",
    ),
    "another layer": (
        lambda held: edited(held, "summary.json", lambda found: found["layers"].update({"1": {}})),
        f"{VECTORS}: its arrays are not the layers of summary.json in the forms raw, denoised, unit (see layer_1/",
    ),
    "another number of emotions": (
        lambda held: edited(held, "summary.json", lambda found: found["corpus"].update(emotions=4)),
        f"{VECTORS}: holds 3 emotions, and summary.json 4",
    ),
    "another array": (
        lambda held: {**held, ARRAYS: npz(held, lambda found: found["layer_0/raw"].put(3, 1.0))},
        f"{ARRAYS}: differs from {VECTORS} in layer_0/raw",
    ),
    "a pickle": (lambda held: {**held, ARRAYS: npz(held, trap)}, f"{ARRAYS}: cannot be read (ValueError"),
    "another direction": (
        lambda held: {
            **held,
            "vectors/gguf/calm.gguf": held["vectors/gguf/calm.gguf"][:-4] + np.float32(7).tobytes(),
        },
        f"vectors/gguf/: the directions in calm.gguf are not those in {VECTORS}",
    ),
    "an emotion too few": (
        lambda held: {name: data for name, data in held.items() if name != "vectors/gguf/calm.gguf"},
        "vectors/gguf/: its files are not one for each emotion (see vectors/gguf/calm.gguf)",
    ),
    "half a picture": (
        lambda held: {**held, "figures/spectrum.png": PNG[:-4]},
        "figures/spectrum.png: is not a whole .png file",
    ),
    "a file that the crate lacks": (
        lambda held: {**held, "more.txt": b"more"},
        f"{CRATE}: does not describe these files as they are: more.txt",
    ),
    "no model card": (
        lambda held: {name: data for name, data in held.items() if name != "README.md"},
        "README.md: is missing",
    ),
}


@pytest.mark.parametrize("case", FORGED)
def test_parts_that_disagree_are_named(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    forge, said = FORGED[case]
    held = members(bundle)
    del held[CHECKSUMS]
    write_archive(bundle, described(forge(held)))
    monkeypatch.chdir(tmp_path)
    problems = verify(bundle).problems
    assert any(line.startswith(said) for line in problems), problems
    assert not (tmp_path / "unpickled").exists()
    assert all("\n" not in line for line in problems)


# ---------------------------------------------------------------- packing and the command


@pytest.mark.parametrize(
    ("file", "damage", "said"),
    [
        ("summary.json", lambda path: path.unlink(), "summary.json: is missing; run snakemake again"),
        ("figures/spectrum.svg", lambda path: path.write_bytes(b""), "spectrum.svg: is empty; run snakemake again"),
        ("manifest.json", lambda path: path.write_bytes(b'{"a": '), "manifest.json: not a whole JSON file"),
        (
            "vectors/vectors.safetensors",
            lambda path: path.write_bytes(path.read_bytes()[:-1]),
            "safetensors: not a whole safetensors file",
        ),
        ("vectors/vectors.npz", lambda path: path.write_bytes(path.read_bytes()[:-1]), "vectors.npz: cannot be read"),
        ("analyses/geometry.parquet", lambda path: path.write_bytes(path.read_bytes()[:-1]), "not a whole .parquet"),
        (
            "steering/cost/safe_ranges.json",
            lambda path: path.write_bytes(path.read_bytes()[:-1]),
            "safe_ranges.json: not a whole JSON file",
        ),
        ("analyses/geometry.json", lambda path: path.write_bytes(b'{"a": ['), "geometry.json: is not a whole .json"),
        ("vectors/gguf/calm.gguf", lambda path: path.write_bytes(path.read_bytes()[:-9]), "directions in calm.gguf"),
        ("vectors/gguf", shutil.rmtree, "gguf: is missing"),
    ],
)
def test_damaged_results_are_not_packed(
    inputs: dict[str, Any], file: str, damage: Callable[[Path], Any], said: str
) -> None:
    damage(inputs["output"].parent / file)
    with pytest.raises(UserError) as raised:
        write_bundle(**inputs)
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)
    assert not inputs["output"].exists()


def test_nothing_in_a_bundle_reaches_the_terminal_as_a_command(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    held = members(bundle)
    zipped(bundle, [*held.items(), ("\x1b[2Jmore", b"")])
    assert problem(bundle, capsys) == "?[2Jmore: unsafe name"


def test_verifying_is_a_command_that_needs_no_torch(bundle: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from affectome.cli import main; status = main(['verify', sys.argv[1]])\n"
        "print(status, sorted({'torch', 'transformers', 'pandas', 'matplotlib', 'rocrate'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, bundle], env={}, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1] == "0 []", done.stdout + done.stderr
    for command in ([Path(sys.executable).parent / "affectome"], [sys.executable, "-m", "affectome"]):
        done = subprocess.run(
            [*command, "verify", "none.zip"], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (1, "")
        assert done.stdout == "none.zip: cannot be read (No such file or directory)\n"


def test_help_says_what_verifying_is_worth(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["verify", "--help"])
    assert ended.value.code == 0
    assert "damage, not deceit" in capsys.readouterr().out
