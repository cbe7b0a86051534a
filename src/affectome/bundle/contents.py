"""What goes into a bundle: a run's files, what it takes to make them again, and what they are.

Left out are the items of trials as tables, since the pages beside the verdicts show every one, vector files by layer,
since the exports hold the vectors, activations, weights and the texts of the corpus. What a run has read and the bundle
leaves out is listed in `bundle.json` with its SHA-256.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from affectome import __version__
from affectome.bundle.archive import ABOUT, CRATE, FORMAT, FORMAT_VERSION, sha256, write_archive
from affectome.bundle.card import pages
from affectome.bundle.crate import crate_metadata
from affectome.bundle.verify import CONFIG, MANIFEST, SAFETENSORS, SUMMARY, verify
from affectome.errors import UserError
from affectome.files import damaged, read_json, replacing

_SCREENING = "corpus/screening.json"


def write_bundle(
    files: Sequence[str | Path],
    screening: str | Path,
    corpus: Sequence[str | Path],
    sources: Sequence[str | Path],
    project: Sequence[str | Path],
    output: str | Path,
    config: dict[str, Any],
) -> None:
    """Write the bundle of one run to `output`, which stands in the run's folder.

    `files` are the run's files and folders of files, `screening` and `corpus` those of its corpus, `sources` the files
    that `config` names, `project` files of the project that come along; `config` is the configuration of this run
    alone. Raises UserError where a file is missing, not whole, or at odds with another.
    """
    output = Path(output)
    members: dict[str, Path | bytes] = {_SCREENING: Path(screening)}
    for file in map(Path, files):
        held = sorted(file.rglob("[!.]*")) if file.is_dir() else [file]
        members |= {path.relative_to(output.parent).as_posix(): path for path in held if not path.is_dir()}
    results = set(members)
    members |= {Path(file).name: Path(file) for file in project}
    for path in (*members.values(), *map(Path, corpus), *map(Path, sources)):
        if not path.is_file() or path.stat().st_size == 0:
            raise UserError(f"{path}: is {'empty' if path.is_file() else 'missing'}; run snakemake again to make it")
    summary, manifest, citation = _read(members[SUMMARY]), _read(members[MANIFEST]), _read(members["CITATION.cff"])
    inputs = [
        *({"role": "screened texts", **_described(path)} for path in corpus),
        *({"role": "named in config", **_described(path)} for path in sorted(set(map(str, sources)))),
    ]
    found = {Path(name).parent.name: _read(members[name]) for name in sorted(results) if _is_finding(name)}
    trials = {trial: found[trial] for trial in manifest["settings"]["trials"]}
    emotions = _emotions(members[SAFETENSORS])
    about = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "affectome": __version__,
        "run": summary["run"],
        "inputs": inputs,
    }
    made = pages(summary, manifest, trials, inputs, emotions, citation)
    members |= {name: text.encode() for name, text in made.items()}
    members[CONFIG] = yaml.safe_dump(config, sort_keys=False, allow_unicode=True).encode()
    members[ABOUT] = (json.dumps(about, indent=1, ensure_ascii=False) + "\n").encode()
    sums = {name: sha256(content) for name, content in members.items()}
    sizes = {name: len(each) if isinstance(each, bytes) else each.stat().st_size for name, each in members.items()}
    members[CRATE] = crate_metadata(sums, sizes, results, manifest, inputs, citation)
    with replacing(output) as temporary:
        write_archive(temporary, members)
        problems = verify(temporary).problems
        if problems:
            raise UserError(
                f"the files of run {summary['run']} cannot be packed, since some are damaged or at odds with others; "
                f"delete what is named here and run snakemake again: {'; '.join(problems)}"
            )


def _is_finding(name: str) -> bool:
    return name.startswith("steering/") and Path(name).name in ("verdict.json", "safe_ranges.json")


def _described(path: str | Path) -> dict[str, str]:
    return {"file": str(path), "sha256": sha256(Path(path))}


def _read(path: Path) -> Any:
    """The content of a JSON or YAML file."""
    return read_json(path) if path.suffix == ".json" else yaml.safe_load(path.read_text(encoding="utf-8"))


def _emotions(path: Path) -> list[str]:
    """The emotions of exported vectors, in their order."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as file:
            return json.loads(file.metadata()["emotions"])
    except (SafetensorError, TypeError, KeyError, ValueError) as error:
        raise damaged(path, "safetensors", error) from error
