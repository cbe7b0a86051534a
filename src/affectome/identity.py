"""What makes two results the same: fingerprints of content and digests of code.

A result depends on its inputs, on the settings its rule reads and on the code that makes it. Snakemake watches the
first two; the third is a rule parameter, `code_digest(rule)`, so that a change of behaviour reruns what it touches
and a changed comment or docstring reruns nothing.
"""

import ast
import hashlib
import json
import sys
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from affectome.errors import DamagedFileError
from affectome.files import read_json, write_json

_PACKAGE = Path(__file__).resolve().parent
_ROOT = _PACKAGE.parent.parent

# Every Snakemake asks for the digests of all rules when it starts, twice in every cluster job, and reading two hundred
# syntax trees takes it longer than all else of the workflow: what is in a file is kept by its content.
_KEPT = Path(".snakemake/affectome-code.json")

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
    known = len(_kept())
    script = _ROOT / "scripts" / f"{rule}.py"
    modules = _closure(_imports(script))
    digest = fingerprint({"script": _tree(script), **{name: _tree(_module_file(name)) for name in modules}})
    if len(_kept()) > known and _KEPT.parent.exists():
        # Where nothing can be written, and beside others who write it, it is found out again the next time.
        with suppress(OSError):
            write_json(_KEPT, _kept())
    return digest


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


def _tree(path: Path) -> str:
    return _source(path)[0]


@cache
def _imports(path: Path) -> frozenset[str]:
    return frozenset(name for name in _source(path)[1] if _module_file(name).exists())


@cache
def _source(path: Path) -> tuple[str, list[str]]:
    """The digest of a file's syntax tree, and the names by which it may import modules of affectome."""
    content = path.read_bytes()
    key = hashlib.sha256(_reader() + content).hexdigest()
    if key not in _kept():
        _kept()[key] = _parse(content)
    digest, names = _kept()[key]
    return digest, names


@cache
def _kept() -> dict[str, tuple[str, list[str]]]:
    """What `_parse` found in files of known content, here or in an earlier process."""
    try:
        return read_json(_KEPT)
    except DamagedFileError:
        return {}


@cache
def _reader() -> bytes:
    """What `_parse` depends on besides a file's content: itself, and Python's form of syntax trees."""
    return Path(__file__).read_bytes() + sys.version.encode()


def _parse(content: bytes) -> tuple[str, list[str]]:
    tree = ast.parse(content)
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                node.body = node.body[1:]
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    digest = hashlib.sha256(ast.dump(tree).encode()).hexdigest()
    return digest, sorted(name for name in names if name.split(".")[0] == "affectome")


def _module_file(name: str) -> Path:
    path = _PACKAGE.joinpath(*name.split(".")[1:])
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
