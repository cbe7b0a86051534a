"""What a bundle says of itself to machines: RO-Crate 1.1 metadata (https://w3id.org/ro/crate/1.1)."""

import json
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

from affectome.bundle.card import source_of

# What a member is called, by the first pattern that fits; {stem} is its name without suffix.
_NAMES = (
    ("README.md", "Model card of the vectors"),
    ("CITING.md", "What to cite"),
    ("CITATION.cff", "How to cite the workflow"),
    ("LICENCES.md", "Licences of what is in this archive and of what it was made from"),
    ("LICENSE", "Licence of the workflow"),
    ("bundle.json", "What this archive is, and the inputs it does not hold"),
    ("config.yaml", "Configuration that makes the run again"),
    ("requirements.lock", "Versions of packages that the workflow is tested with"),
    ("manifest.json", "How the run was made: settings, fingerprints, versions, hardware"),
    ("summary.json", "Headline numbers of the run"),
    ("summary.html", "Page of the run, to be read first"),
    ("corpus/screening.json", "Texts dropped from the corpus, by reason"),
    ("vectors/vectors.safetensors", "Emotion vectors of every layer: raw, denoised, unit"),
    ("vectors/vectors.npz", "Emotion vectors of every layer, as NumPy arrays"),
    ("vectors/gguf/*", "llama.cpp control vector: {stem}"),
    ("analyses/*", "Analysis: {stem}"),
    ("figures/*", "Figure: {stem}"),
    ("steering/*/figures/*", "Figure of a steering trial: {stem}"),
    ("steering/*", "Steering trial: {stem}"),
    ("*", "{stem}"),
)
_FORMATS = {
    ".cff": "application/yaml",
    ".html": "text/html",
    ".json": "application/json",
    ".lock": "text/plain",
    ".md": "text/markdown",
    ".npz": "application/zip",
    ".parquet": "application/vnd.apache.parquet",
    ".png": "image/png",
    ".rst": "text/x-rst",
    ".svg": "image/svg+xml",
    ".txt": "text/plain",
    ".yaml": "application/yaml",
    "": "text/plain",
}


def crate_metadata(
    sums: Mapping[str, str],
    sizes: Mapping[str, int],
    results: set[str],
    manifest: dict[str, Any],
    inputs: list[dict[str, Any]],
    citation: dict[str, Any],
) -> bytes:
    """The `ro-crate-metadata.json` of a bundle, as JSON-LD with its entities in the order of their names.

    `sums` and `sizes` (bytes) describe the files by name, `results` are those that the run made, `inputs` what it read
    (`file`, `sha256`), `citation` the content of the project's CITATION.cff.
    """
    from rocrate.model.contextentity import ContextEntity
    from rocrate.rocrate import ROCrate

    crate = ROCrate(version="1.1")
    crate.metadata.extra_terms["sha256"] = "https://schema.org/sha256"

    def add(identifier: str, kind: str, /, **properties: Any) -> ContextEntity:
        return crate.add(ContextEntity(crate, identifier, properties={"@type": kind, **properties}))

    files = {
        name: crate.add_file(
            dest_path=name,
            properties={
                "name": _name(name),
                "encodingFormat": _FORMATS.get(PurePosixPath(name).suffix, "application/octet-stream"),
                "contentSize": str(sizes[name]),
                "sha256": sums[name],
            },
        )
        for name in sorted(sums)
    }
    authors = [add(f"#author-{n}", "Organization", name=each["name"]) for n, each in enumerate(citation["authors"], 1)]
    papers = [
        add(each["url"], "ScholarlyArticle", name=each["title"], datePublished=str(each["year"]))
        for each in citation["references"]
    ]
    licence = add(f"https://spdx.org/licenses/{citation['license']}", "CreativeWork", name=citation["license"])
    workflow = add(
        "#affectome",
        "SoftwareApplication",
        name=citation["title"],
        version=manifest["affectome"],
        identifier=manifest["git_commit"] or manifest["affectome"],
        author=authors,
        license=licence,
        citation=papers,
    )
    source = source_of(manifest)
    model = add(
        source["url"] or "#model",
        "CreativeWork",
        name=f"Language model {manifest['model']['model']}: {source['name']}",
        version=manifest["model"]["revision"],
    )
    read = [
        add(f"#input/{quote(each['file'])}", "CreativeWork", name=each["file"], sha256=each["sha256"])
        for each in inputs
    ]
    run = manifest["settings"]["run"]
    action = crate.add_action(
        workflow,
        identifier="#run",
        object=[model, *read],
        result=[files[name] for name in sorted(results)],
        properties={"name": f"Run {run['name']}", "endTime": manifest["made"]},
    )
    root = crate.root_dataset
    root["name"] = f"Emotion vectors of {manifest['model']['model']}: {run['title']}"
    root["description"] = "Emotion vectors of a language model with analyses, figures, steering trials and provenance."
    root["datePublished"] = manifest["made"]
    root["license"] = files["LICENCES.md"]
    root["mentions"] = action
    root["citation"] = papers
    content = crate.metadata.generate()
    content["@graph"].sort(key=lambda entity: entity["@id"])
    return (json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


def _name(member: str) -> str:
    form = next(form for pattern, form in _NAMES if fnmatch(member, pattern))
    return form.format(stem=PurePosixPath(member).stem)
