"""What a language model is asked: Jinja templates, filled in with the items of a plan."""

import re
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

from affectome.corpus.planning import Item
from affectome.errors import UserError
from affectome.identity import fingerprint


class Prompt:
    """A template that sees the fields of one `planning.Item`, or as `items` those of several.

    Raises UserError where the file is no template, or uses what there is not.
    """

    def __init__(self, file: str | Path) -> None:
        import jinja2

        self._file = file
        self.text = Path(file).read_text(encoding="utf-8")
        # Prompts are plain text, so nothing in them is to be escaped.
        environment = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False, trim_blocks=True)  # noqa: S701
        try:
            self._template = environment.from_string(self.text)
        except jinja2.TemplateError as error:
            raise self._mistake(error) from error

    @property
    def origin(self) -> dict[str, str | None]:
        """Which prompt this is: its file, the version that a comment in it states, and a digest of its text."""
        version = re.search(r"\{#-?\s*version:\s*([\w.-]*\w)", self.text)
        return {
            "file": str(self._file),
            "version": version[1] if version else None,
            "digest": fingerprint(self.text),
        }

    def of(self, items: Sequence[Item]) -> str:
        """The prompt for one reply that holds the texts of `items`, which share an emotion."""
        import jinja2

        try:
            return self._template.render(asdict(items[0]), items=[asdict(item) for item in items]).strip()
        except jinja2.TemplateError as error:
            raise self._mistake(error) from error

    def _mistake(self, error: Exception) -> UserError:
        names = ", ".join(field.name for field in fields(Item))
        return UserError(f"{self._file}: {error}; a prompt is a Jinja template that can use {names}, and items")
