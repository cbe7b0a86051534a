"""What makes two results the same: fingerprints of content and digests of code.

A result depends on its inputs, on the settings its rule reads and on the code that makes it. Snakemake watches the
first two; the third is a rule parameter, `code_digest(rule)`, so that a change of behaviour reruns what it touches
and a changed comment or docstring reruns nothing.
"""

import ast
import hashlib
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

_PACKAGE = Path(__file__).resolve().parent
_ROOT = _PACKAGE.parent.parent

# Modules that only report or guard: editing them cannot change a number, so they are left out of every digest.
_NO_EFFECT = frozenset({"affectome", "affectome.errors", "affectome.identity", "affectome.jobs", "affectome.progress"})


def fingerprint(content: Any, length: int = 16) -> str:
    """Hex digest of JSON-like `content` (mappings in any order, sequences in order, paths as text)."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def file_sha256(path: str | Path) -> str:
    """SHA-256 of a file's bytes, read in blocks."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def model_fingerprint(manifest: Mapping[str, Any]) -> str:
    """What tells one fetched model from another: the digest of its files' checksums in its `manifest`."""
    return fingerprint(manifest["sha256"])


def code_digest(rule: str) -> str:
    """Digest of `scripts/{rule}.py` and of every `affectome` module it imports, directly or not.

    Comments, docstrings and formatting do not count: what is hashed is the syntax tree without docstrings. Raises
    FileNotFoundError where the rule has no script.
    """
    script = _ROOT / "scripts" / f"{rule}.py"
    modules = _closure(_imports(script))
    return fingerprint({"script": _tree(script), **{name: _tree(_module_file(name)) for name in modules}})


def code_modules(rule: str) -> tuple[str, ...]:
    """Names of the modules whose code `code_digest(rule)` covers."""
    return tuple(sorted(_closure(_imports(_ROOT / "scripts" / f"{rule}.py"))))


def _closure(names: frozenset[str]) -> frozenset[str]:
    seen: set[str] = set()
    todo = set(names)
    while todo:
        name = todo.pop()
        if name not in seen and name not in _NO_EFFECT:
            seen.add(name)
            todo |= _imports(_module_file(name))
    return frozenset(seen)


@cache
def _parse(path: Path) -> ast.Module:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                node.body = node.body[1:]
    return tree


@cache
def _tree(path: Path) -> str:
    return hashlib.sha256(ast.dump(_parse(path)).encode()).hexdigest()


@cache
def _imports(path: Path) -> frozenset[str]:
    found: set[str] = set()
    for node in ast.walk(_parse(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(name for name in found if name.split(".")[0] == "affectome" and _module_file(name).exists())


def _module_file(name: str) -> Path:
    path = _PACKAGE.joinpath(*name.split(".")[1:])
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
