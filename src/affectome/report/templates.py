"""The pages' templates, rendered so that nothing in them is taken for markup and no name is forgotten."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

FOLDER = Path(__file__).resolve().parents[3] / "resources" / "report"


def environment() -> Environment:
    """Templates of `resources/report`, with everything that is put into them escaped."""
    return Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
