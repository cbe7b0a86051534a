"""Check a bundle without unpacking it: is it whole, safe to unpack, and do its parts agree with each other?

Nothing in a bundle is executed or unpickled, and nothing is written. The checksums in a bundle show damage and slips;
whoever means to deceive writes them anew. To know that a bundle is the one that somebody vouches for, compare the
SHA-256 of the archive itself, which is reported too.
"""

import io
import json
import struct
import zipfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import yaml
from safetensors import SafetensorError
from safetensors.numpy import load

from affectome.bundle.archive import (
    ABOUT,
    CHECKSUMS,
    CRATE,
    FORMAT,
    FORMAT_VERSION,
    mistakes_of_names,
    read_checksums,
    sha256_of_member,
)
from affectome.identity import file_sha256
from affectome.report.headline import findings
from affectome.vectors.export import file_name

SUMMARY, MANIFEST, CONFIG = "summary.json", "manifest.json", "config.yaml"
SAFETENSORS, NPZ, GGUF = "vectors/vectors.safetensors", "vectors/vectors.npz", "vectors/gguf/"
REQUIRED = (ABOUT, CHECKSUMS, CRATE, SUMMARY, MANIFEST, CONFIG, SAFETENSORS, NPZ, "README.md")
_FORMS = ("raw", "denoised", "unit")
_OF_MODEL = ("blocks", "width", "revision")
_IN_MANIFEST = ("affectome", "git_commit", "made", "settings", "seeds", "fingerprints", "model", "versions", "hardware")
# Vectors are float32.
_LENGTH_TOLERANCE = 1e-4
_GGUF_ALIGNMENT = 32

# How a whole file of a kind begins and ends, space at its end left out; as many bytes are looked at as this.
_TAIL = 64
_ENDS = {
    ".parquet": (b"PAR1", b"PAR1"),
    ".png": (b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"),
    ".svg": (b"", b"</svg>"),
    ".html": (b"", b"</html>"),
    ".gguf": (b"GGUF", b""),
}

# What reading an archive, and a file in it, that is not what its name says can raise.
_NO_ARCHIVE = (zipfile.BadZipFile, EOFError, ValueError, RuntimeError, struct.error)
_UNREADABLE = (
    *_NO_ARCHIVE,
    KeyError,
    TypeError,
    AttributeError,
    IndexError,
    OSError,
    MemoryError,
    SafetensorError,
    yaml.YAMLError,
)


@dataclass(frozen=True)
class Checked:
    """What checking a bundle found: a line per problem, and what the bundle is where it can be told."""

    file: str
    problems: list[str]
    sha256: str | None = None
    bundle: dict[str, Any] | None = None

    @property
    def ok(self) -> bool:
        return not self.problems

    def as_dict(self) -> dict[str, Any]:
        return {"ok": self.ok, **asdict(self)}


def verify(path: str | Path) -> Checked:
    """Check the bundle at `path`; every problem is a line that names the file concerned and no problem is raised.

    What the parts of a bundle say is looked at only where all of them are the files that were packed.
    """
    path = Path(path)
    try:
        total = file_sha256(path)
        with zipfile.ZipFile(path) as archive:
            problems = list(mistakes_of_names(archive)) or list(_damage(archive))
            if problems:
                return Checked(str(path), problems, total)
            return _understand(archive, str(path), total)
    except _NO_ARCHIVE:
        return Checked(str(path), [f"{path.name}: is no ZIP archive, or one that was cut short"])
    except OSError as error:
        return Checked(str(path), [f"{path.name}: cannot be read ({error.strerror or error})"])


def _understand(archive: zipfile.ZipFile, path: str, total: str) -> Checked:
    """Check what the parts of an undamaged bundle say."""
    parts = _Parts(archive)
    problems = list(_disagreements(parts))
    if problems:
        return Checked(path, problems, total)
    try:
        return Checked(path, [], total, _describe(parts))
    except _UNREADABLE as error:
        return Checked(path, [f"{SUMMARY}, {MANIFEST}: do not say what this bundle is ({_named(error)})"], total)


# ---------------------------------------------------------------- bytes


def _damage(archive: zipfile.ZipFile) -> Iterator[str]:
    """Members that are not, or not as, the checksums say; and members that every bundle has."""
    names = set(archive.namelist())
    if CHECKSUMS not in names:
        yield f"{CHECKSUMS}: is missing, so this is no bundle of affectome"
        return
    try:
        sums = read_checksums(archive)
    except (*_NO_ARCHIVE, OSError) as error:
        yield f"{CHECKSUMS}: is damaged ({error})"
        return
    for name in sorted(set(sums) | names - {CHECKSUMS} | set(REQUIRED) - {CHECKSUMS}):
        if name not in names:
            yield f"{name}: is missing"
        elif name not in sums:
            yield f"{name}: was not packed with this bundle"
        else:
            try:
                found = sha256_of_member(archive, name)
            except (*_NO_ARCHIVE, OSError):
                found = None
            if found != sums[name]:
                yield f"{name}: is damaged or was changed (its SHA-256 is another)"


# ---------------------------------------------------------------- meaning


class _Parts:
    """The parts of a bundle that checks read, each read once."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self.archive = archive

    def json(self, name: str) -> Any:
        return json.loads(self.archive.read(name))

    @cached_property
    def summary(self) -> dict[str, Any]:
        return self.json(SUMMARY)

    @cached_property
    def manifest(self) -> dict[str, Any]:
        return self.json(MANIFEST)

    @cached_property
    def safetensors(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """The arrays by name, and the metadata: emotions, and residual norms and fingerprints by layer."""
        data = self.archive.read(SAFETENSORS)
        size = int.from_bytes(data[:8], "little")
        metadata = json.loads(data[8 : 8 + size])["__metadata__"]
        return load(data), {key: json.loads(metadata[key]) for key in ("emotions", "residual_norm", "fingerprints")}


def _disagreements(parts: _Parts) -> Iterator[str]:
    """What the parts of a bundle say against each other."""
    try:
        about = parts.json(ABOUT)
        made_as = about["format"], about["format_version"]
    except _UNREADABLE:
        yield f"{ABOUT}: does not say what this archive is"
        return
    if made_as != (FORMAT, FORMAT_VERSION):
        yield (
            f"{ABOUT}: the format is {made_as[0]} {made_as[1]}, and this affectome reads {FORMAT} {FORMAT_VERSION}; "
            f"verify it with the release that made it"
        )
        return
    checks = {
        SUMMARY: _check_summary,
        MANIFEST: _check_manifest,
        CONFIG: _check_config,
        SAFETENSORS: _check_safetensors,
        NPZ: _check_npz,
        GGUF: _check_gguf,
        CRATE: _check_crate,
    }
    for name, check in checks.items():
        try:
            yield from (f"{name}: {problem}" for problem in check(parts))
        except _UNREADABLE as error:
            yield f"{name}: cannot be read ({_named(error)})"
    yield from _cut_short(parts.archive)


def _named(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _check_summary(parts: _Parts) -> Iterator[str]:
    if parts.summary["run"] != parts.json(ABOUT)["run"]:
        yield f"is of the run {parts.summary['run']}, and {ABOUT} of {parts.json(ABOUT)['run']}"
    if str(parts.summary["layer"]["auto"]) not in parts.summary["layers"]:
        yield "has no numbers of its headline layer"


def _check_manifest(parts: _Parts) -> Iterator[str]:
    summary, manifest = parts.summary, parts.manifest
    missing = [key for key in _IN_MANIFEST if key not in manifest]
    if missing:
        yield f"says nothing of {', '.join(missing)}"
        return
    told = {"run": summary["run"], **{f"model's {key}": summary["model"][key] for key in _OF_MODEL}}
    own = {"run": manifest["settings"]["run"]["name"]}
    own |= {f"model's {key}": manifest["model"][key] for key in _OF_MODEL}
    for key, value in told.items():
        if own[key] != value:
            yield f"the {key} is {own[key]}, and {value} in {SUMMARY}"
    if manifest["fingerprints"] != summary["fingerprints"]:
        yield f"its fingerprints are not those in {SUMMARY}"


def _check_config(parts: _Parts) -> Iterator[str]:
    import yaml

    config, settings = yaml.safe_load(parts.archive.read(CONFIG)), parts.manifest["settings"]
    run = parts.summary["run"]
    if config["runs"] != [run]:
        yield f"builds {config['runs']}, and this is the run {run}"
        return
    definition = {key: value for key, value in config["run_definitions"][run].items() if key != "figures"}
    made = {"run": {"name": run, **definition}}
    for kind, entries in (("model", "models"), ("corpus", "corpora"), ("reading", "readings")):
        made[kind] = {"name": definition[kind], **config[entries][definition[kind]]}
    # Those of a run before this one may stand beside them.
    made |= {kind: {name: config[kind].get(name) for name in settings[kind]} for kind in ("norms", "trials")}
    for key, value in made.items():
        if value != settings[key]:
            yield f"the settings of its {key} are not those in {MANIFEST}"


def _check_safetensors(parts: _Parts) -> Iterator[str]:
    arrays, metadata = parts.safetensors
    summary, layers = parts.summary, parts.summary["layers"]
    expected = {f"layer_{layer}/{form}" for layer in layers for form in _FORMS}
    if set(arrays) != expected:
        differing = ", ".join(sorted(set(arrays) ^ expected)[:5])
        yield f"its arrays are not the layers of {SUMMARY} in the forms {', '.join(_FORMS)} (see {differing})"
        return
    emotions = metadata["emotions"]
    if len(emotions) != summary["corpus"]["emotions"]:
        yield f"holds {len(emotions)} emotions, and {SUMMARY} {summary['corpus']['emotions']}"
    if metadata["residual_norm"] != {layer: found["residual_norm"] for layer, found in layers.items()}:
        yield f"its residual norms are not those in {SUMMARY}"
    if metadata["fingerprints"] != summary["fingerprints"]["vectors"]:
        yield f"its fingerprints are not those in {SUMMARY}"
    shape = (len(emotions), summary["model"]["width"])
    for name, array in arrays.items():
        if array.dtype != np.float32 or array.shape != shape:
            yield f"{name} is {array.dtype} of shape {array.shape}, and should be float32 of shape {shape}"
        elif not np.isfinite(array).all():
            yield f"{name} holds values that are not finite"
        elif name.endswith("/unit"):
            yield from _wrong_lengths(name, array, arrays[name.replace("/unit", "/denoised")])


def _wrong_lengths(name: str, unit: np.ndarray, denoised: np.ndarray) -> Iterator[str]:
    # A vector of zeros has no direction and stays one.
    expected = denoised.any(axis=1).astype(np.float32)
    found = np.linalg.norm(unit, axis=1)
    if not np.allclose(found, expected, rtol=0, atol=_LENGTH_TOLERANCE):
        worst = int(np.abs(found - expected).argmax())
        yield f"{name}: row {worst} has length {found[worst]:.6g}, and should have {expected[worst]:g}"


def _check_npz(parts: _Parts) -> Iterator[str]:
    arrays, metadata = parts.safetensors
    data = io.BytesIO(parts.archive.read(NPZ))
    with zipfile.ZipFile(data) as inner:
        unsafe = list(mistakes_of_names(inner))
    if unsafe:
        yield from unsafe
        return
    expected = {
        "emotions": np.array(metadata["emotions"]),
        "layers": np.array([int(layer) for layer in metadata["residual_norm"]]),
        "residual_norm": np.array(list(metadata["residual_norm"].values())),
        **arrays,
    }
    with np.load(data, allow_pickle=False) as found:
        differing = set(found.files) ^ set(expected)
        differing |= {name for name in set(expected) - differing if not np.array_equal(found[name], expected[name])}
    if differing:
        yield f"differs from {SAFETENSORS} in {', '.join(sorted(differing)[:5])}"


def _check_gguf(parts: _Parts) -> Iterator[str]:
    arrays, metadata = parts.safetensors
    files = {name for name in parts.archive.namelist() if name.startswith(GGUF)}
    wanted = {f"{GGUF}{file_name(emotion)}.gguf": row for row, emotion in enumerate(metadata["emotions"])}
    if files != set(wanted):
        yield f"its files are not one for each emotion (see {', '.join(sorted(files ^ set(wanted))[:5])})"
    norms = {int(layer): norm for layer, norm in metadata["residual_norm"].items() if int(layer) > 0}
    for name in sorted(files & set(wanted)):
        # The directions are the end of the file, by layer, each filled up to a multiple of the format's alignment.
        rows = ((arrays[f"layer_{layer}/unit"][wanted[name]] * norm).astype("<f4") for layer, norm in norms.items())
        directions = b"".join(row.tobytes() + bytes(-row.nbytes % _GGUF_ALIGNMENT) for row in rows)
        if not parts.archive.read(name).endswith(directions):
            yield f"the directions in {name.removeprefix(GGUF)} are not those in {SAFETENSORS}"


def _check_crate(parts: _Parts) -> Iterator[str]:
    told = read_checksums(parts.archive)
    graph = parts.json(CRATE)["@graph"]
    files = {unquote(entity["@id"]): entity.get("sha256") for entity in graph if entity["@type"] == "File"}
    wanted = {name: total for name, total in told.items() if name != CRATE}
    differing = {name for name in files.keys() | wanted.keys() if files.get(name) != wanted.get(name)}
    if differing:
        yield f"does not describe these files as they are: {', '.join(sorted(differing)[:5])}"


def _cut_short(archive: zipfile.ZipFile) -> Iterator[str]:
    """Files that were packed though they were not whole."""
    for name in archive.namelist():
        suffix = Path(name).suffix
        if not (_is_json(archive.read(name)) if suffix == ".json" else _has_its_ends(archive, name, suffix)):
            yield f"{name}: is not a whole {suffix} file"


def _is_json(data: bytes) -> bool:
    try:
        json.loads(data)
    except (ValueError, RecursionError):
        return False
    return True


def _has_its_ends(archive: zipfile.ZipFile, name: str, suffix: str) -> bool:
    begin, end = _ENDS.get(suffix, (b"", b""))
    with archive.open(name) as handle:
        if handle.read(len(begin)) != begin:
            return False
        handle.seek(-min(_TAIL, archive.getinfo(name).file_size), io.SEEK_END)
        return handle.read().rstrip().endswith(end)


def _describe(parts: _Parts) -> dict[str, Any]:
    """What a bundle without problems is, for the reader of a report."""
    summary, manifest = parts.summary, parts.manifest
    model, corpus, members = summary["model"], summary["corpus"], parts.archive.infolist()
    return {
        "run": str(summary["run"]),
        "title": str(manifest["settings"]["run"]["title"]),
        "model": {
            **{key: str(model[key]) for key in ("name", "revision")},
            **{key: int(model[key]) for key in ("blocks", "width")},
        },
        "corpus": {"name": str(corpus["name"]), **{key: int(corpus[key]) for key in ("stories", "neutral")}},
        "layers": sorted(map(int, summary["layers"])),
        "headline_layer": int(summary["layer"]["auto"]),
        "emotions": list(map(str, parts.safetensors[1]["emotions"])),
        "findings": findings(summary),
        "affectome": str(manifest["affectome"]),
        "git_commit": manifest["git_commit"],
        "made": str(manifest["made"]),
        "files": len(members),
        "bytes": sum(item.file_size for item in members),
    }
