"""What the YAML files that users write have in common: strict models, and one plain line for each mistake in them."""

import difflib
import json
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Discriminator, model_validator
from pydantic_core import PydanticCustomError

# libyaml's where PyYAML was built with it, as it is five times as fast and Snakemake reads all sets at every start.
SafeLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Strict(BaseModel):
    """No unknown keys, no silent conversion of types."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _keys(cls, data: Any) -> Any:
        """Say what is allowed where a key is unknown, and what is meant where one is missing."""
        if not isinstance(data, dict):
            return data
        fields = {field.alias or name: field for name, field in cls.model_fields.items()}
        for key in data:
            if key not in fields:
                close = difflib.get_close_matches(str(key), fields, n=1)
                hint = f"did you mean {close[0]!r}? " if close else ""
                raise PydanticCustomError("keys", f"unknown key {key!r}; {hint}allowed: {', '.join(fields)}")
        for key, field in fields.items():
            if field.is_required() and key not in data:
                meaning = f" ({field.description.rstrip('.')})" if field.description else ""
                raise PydanticCustomError("keys", f"key {key!r} is missing; add it{meaning}")
        return data


def alternatives(*keys: str, message: str = "") -> Discriminator:
    """Choose between alternatives by the key that is present; their tags are the keys in angle brackets."""

    def which(value: Any) -> str | None:
        present = (
            value
            if isinstance(value, dict)
            else {f.alias or n for n, f in getattr(type(value), "model_fields", {}).items()}
        )
        return next((f"<{key}>" for key in keys if key in present), None)

    message = message or "needs one of the keys " + ", ".join(keys)
    return Discriminator(which, custom_error_type="alternative", custom_error_message=message)


def explain(error: Any, whole: str = "configuration") -> str:
    """One line for one pydantic error: key (`whole` where it is about no single one), short values, what is allowed."""
    keys = [str(part) for part in error["loc"] if not str(part).startswith("<") and part != "[key]"]
    value = json.dumps(error["input"], default=str)
    message = error["msg"].removeprefix("Value error, ").replace("Input should", "should")
    if error["type"] == "string_pattern_mismatch":
        message = f"is not of the form {error['ctx']['pattern']}"
    own_words = error["type"] in ("keys", "value_error") or len(value) > 60
    place = ".".join(keys) or whole
    return f"{place and place + ': '}{'' if own_words else value + ' '}{message}"


def repeated_keys(file: Path) -> list[str]:
    """A line for every key that stands twice in one mapping of a YAML file."""
    mistakes: list[str] = []

    class Loader(SafeLoader):
        pass

    def mapping(loader: Loader, node: yaml.MappingNode) -> dict:
        seen = set()
        for key_node, _ in node.value:
            if key_node.value in seen:
                line = key_node.start_mark.line + 1
                mistakes.append(
                    f"{key_node.value}: stands twice in {file.name} (again in line {line}); rename or remove one"
                )
            seen.add(key_node.value)
        return loader.construct_mapping(node, deep=True)

    Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, mapping)
    if file.suffix in (".yaml", ".yml") and file.exists():
        yaml.load(file.read_text(encoding="utf-8"), Loader)  # noqa: S506 - Loader is a SafeLoader
    return mistakes
