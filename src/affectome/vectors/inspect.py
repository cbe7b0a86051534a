"""What a file or folder of steering vectors is, and whether it can be relied on, told without the model.

Read are all formats of `affectome.vectors.exchange`. Of a run or a bundle the held-out tests of its analyses are told
as well. What is said of a vector's quality is said by those who made it; what is checked here is whether vectors are
there, finite, not zero and not the same, and whether a model in a folder can be the one that they are of.
"""

import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from affectome.errors import UserError
from affectome.identity import model_fingerprint
from affectome.terminal import printable
from affectome.vectors.contrasts import unit
from affectome.vectors.exchange import Loaded, load_vectors

# Cosine from which two vectors are one: what rounding to float16 leaves of it.
_SAME = 1 - 1e-6
# Pairs, weakest emotions, and names in a problem that are listed.
_PAIRS, _WEAKEST, _LISTED = 5, 3, 5
# Of analyses, their largest file that is read.
_MAX_JSON = 64 << 20


@dataclass(frozen=True)
class Inspection:
    """What looking at `file` found: `lines` that say what it is, `problems`, a line each, and the numbers of both."""

    file: str
    lines: list[str]
    problems: list[str]
    facts: dict[str, Any]

    @property
    def ok(self) -> bool:
        return not self.problems

    def as_dict(self) -> dict[str, Any]:
        return {"ok": self.ok, "file": self.file, "problems": self.problems, **self.facts}


def inspect(path: str | Path, model: str | Path | None = None) -> Inspection:
    """Look at the steering vectors at `path`, and at whether the model in the folder `model` can be theirs.

    No problem is raised: what cannot be read is a problem too.
    """
    path = Path(path)
    try:
        loaded = load_vectors(path, strict=False)
        blocks, of_model, wrong = _model(loaded, model)
    except UserError as error:
        return Inspection(str(path), [], [printable(str(error))], {})
    problems = [*wrong, *_bad_values(loaded), *_duplicates(loaded)]
    layer = loaded.headline(blocks)
    facts: dict[str, Any] = {
        "format": loaded.format,
        "model": loaded.model or loaded.model_type or None,
        "emotions": list(loaded.emotions),
        "layers": loaded.layers,
        "width": loaded.width,
        "chosen_layers": list(loaded.chosen),
        "headline_layer": layer,
        "residual_norm": loaded.norms,
        "lengths": {number: _spread(np.linalg.norm(rows, axis=1)) for number, rows in loaded.vectors.items()},
        "counts": _spread(np.array(loaded.counts[layer])) if loaded.counts else None,
        "reliability": _reliability(loaded, layer),
        "nearest": _nearest(loaded, layer),
        "compatible": of_model,
        "notes": list(loaded.notes),
    }
    tested, damaged = _held_out(path, layer)
    facts["held_out"] = tested
    lines, problems = map(printable, _lines(facts)), map(printable, [*problems, *damaged])
    return Inspection(str(path), list(lines), list(problems), facts)


# ---------------------------------------------------------------- checks


def _bad_values(loaded: Loaded) -> Iterator[str]:
    for what, bad in (
        ("holds NaN or infinity", lambda rows: ~np.isfinite(rows).all(axis=1)),
        ("is zero and has no direction", lambda rows: ~rows.any(axis=1)),
    ):
        layers: dict[str, list[int]] = {}
        for layer, rows in loaded.vectors.items():
            for row in np.flatnonzero(bad(rows)):
                layers.setdefault(loaded.emotions[row], []).append(layer)
        for emotion, found in list(layers.items())[:_LISTED]:
            yield f"the vector of {emotion} at {_counted(found)} {what}"
        if len(layers) > _LISTED:
            yield f"and so of {len(layers) - _LISTED} more emotions"


def _duplicates(loaded: Loaded) -> Iterator[str]:
    """Emotions that share a direction at a layer, and layers that share all their vectors."""
    pairs: dict[tuple[int, int], list[int]] = {}
    for layer, rows in loaded.vectors.items():
        for first, second in np.argwhere(np.triu(_cosines(rows) > _SAME, 1)):
            pairs.setdefault((int(first), int(second)), []).append(layer)
    for (first, second), layers in list(pairs.items())[:_LISTED]:
        names = f"{loaded.emotions[first]} and {loaded.emotions[second]}"
        yield f"{names} have the same direction at {_counted(layers)}"
    if len(pairs) > _LISTED:
        yield f"and so do {len(pairs) - _LISTED} more pairs"
    seen: dict[bytes, int] = {}
    for layer, rows in loaded.vectors.items():
        other = seen.setdefault(rows.tobytes(), layer)
        if other != layer:
            yield f"layers {other} and {layer} have the same vectors"


def _cosines(rows: np.ndarray) -> np.ndarray:
    """Cosines (emotions, emotions) between `rows`, NaN beside a row that is zero or not finite."""
    with np.errstate(all="ignore"):
        directions = unit(rows.astype(np.float64))
        directions[~directions.any(axis=1) | ~np.isfinite(directions).all(axis=1)] = np.nan
        return directions @ directions.T


def _model(loaded: Loaded, folder: str | Path | None) -> tuple[int | None, dict[str, Any] | None, list[str]]:
    """Blocks of the model in `folder`, what is known of it, and why it cannot be that of the vectors."""
    if folder is None:
        return None, None, []
    folder = Path(folder)
    manifest = _read_json(folder / "manifest.json") if (folder / "manifest.json").is_file() else {}
    blocks, width = manifest.get("blocks"), manifest.get("width")
    if type(blocks) is not int or type(width) is not int:
        from affectome.models.anatomy import text_config
        from affectome.models.load import read_config

        if not (folder / "config.json").is_file():
            raise UserError(f"{folder}: is no folder of a model; it needs config.json, as Transformers saves it")
        config = text_config(read_config(folder))
        blocks, width = int(config.num_hidden_layers), int(config.hidden_size)
    found = model_fingerprint(manifest) if isinstance(manifest.get("sha256"), dict) else None
    same = loaded.model_fingerprint == found if loaded.model_fingerprint and found else None
    problems = []
    if loaded.width != width:
        problems.append(f"vectors of width {loaded.width} are not of the model in {folder}, whose width is {width}")
    if loaded.layers[-1] >= blocks:
        problems.append(
            f"there are vectors of layer {loaded.layers[-1]}; the {blocks} blocks of the model in {folder} are "
            f"numbered 0 to {blocks - 1}"
        )
    if loaded.blocks is not None and loaded.blocks != blocks:
        problems.append(f"the vectors are of a model with {loaded.blocks} blocks, and the one in {folder} has {blocks}")
    if same is False:
        problems.append(f"the vectors were made from other weights than those in {folder} (fingerprints differ)")
    about = {"folder": str(folder), "blocks": blocks, "width": width, "same_weights": same, "ok": not problems}
    return blocks, about, problems


# ---------------------------------------------------------------- numbers


def _spread(values: np.ndarray) -> dict[str, float | None]:
    """Smallest, median and largest of the finite `values`; None where there are none."""
    known = values[np.isfinite(values)].astype(np.float64)
    if not known.size:
        return {"min": None, "median": None, "max": None}
    return {"min": float(known.min()), "median": float(np.median(known)), "max": float(known.max())}


def _reliability(loaded: Loaded, layer: int) -> dict[str, Any] | None:
    if not loaded.reliability:
        return None
    here = dict(zip(loaded.emotions, loaded.reliability[layer], strict=True))
    known = {emotion: value for emotion, value in here.items() if value is not None}
    weakest = sorted(known, key=lambda emotion: known[emotion])[:_WEAKEST]
    return {
        **_spread(np.array(list(known.values()), dtype=float)),
        "n": len(known),
        "weakest": {emotion: float(known[emotion]) for emotion in weakest},
    }


def _nearest(loaded: Loaded, layer: int) -> list[dict[str, Any]]:
    """The pairs of emotions at `layer` with the highest cosines."""
    cosines = np.triu(np.nan_to_num(_cosines(loaded.vectors[layer]), nan=-2.0), 1)
    first, second = np.triu_indices(len(loaded.emotions), 1)
    order = np.argsort(-cosines[first, second], kind="stable")[:_PAIRS]
    pairs = [(first[number], second[number]) for number in order]
    return [
        {"emotions": [loaded.emotions[a], loaded.emotions[b]], "cosine": float(cosines[a, b])}
        for a, b in pairs
        if cosines[a, b] > -2
    ]


def _held_out(path: Path, layer: int) -> tuple[dict[str, Any], list[str]]:
    """What tests on held-out texts found, as the maker of the vectors reports it, and which reports are damaged."""
    found: dict[str, Any] = {}
    problems = []
    for name, take in (
        ("analyses/story_holdout.json", _of_holdout),
        ("analyses/probes.json", lambda content: _of_probes(content, layer)),
        ("metadata.json", _of_sweep),
    ):
        try:
            content = _part(path, name)
            found |= take(content) if content is not None else {}
        except (UserError, KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            reason = " ".join(str(error).split())[:200]
            problems.append(f"{name}: does not say what it should ({type(error).__name__}: {reason})")
    return found, problems


def _of_holdout(content: dict[str, Any]) -> dict[str, Any]:
    top1 = {reader: _number(content[reader]["top1"]["value"]) for reader in ("vectors", "words")}
    chance = _number(content["chance"]["top1"])
    return {"top1": {**top1, "chance": chance, "layer": int(content["layer"]), "held_out": str(content["held_out"])}}


def _of_probes(content: dict[str, Any], layer: int) -> dict[str, Any]:
    """AUCs of the probes at `layer`, or at the layer that is nearest to it."""
    nearest = min(content["layers"], key=lambda number: abs(int(number) - layer))
    test = content["layers"][nearest]["test"]
    names = [name for name in ("mean_difference", "logistic", "words") if name in test]
    return {"auc": {**{name: _number(test[name]["auc"]) for name in names}, "layer": int(nearest)}}


def _of_sweep(content: dict[str, Any]) -> dict[str, Any]:
    """Validation AUCs of emotion-steering, whose best layers were chosen by them."""
    if "auc_matrix" not in content or "chosen_layers" not in content:
        return {}
    rows = np.array(content["auc_matrix"], dtype=float)[
        [content["search_layers"].index(n) for n in content["chosen_layers"]]
    ]
    return {"validation_auc": {"mean": _number(rows.mean()), "layers": list(map(int, content["chosen_layers"]))}}


def _number(value: Any) -> float:
    if not np.isfinite(value):
        raise ValueError(f"{value} is no finite number")
    return float(value)


def _part(path: Path, name: str) -> dict[str, Any] | None:
    """A JSON file of the run, bundle or folder of vectors that `path` is, or is part of; None where there is none."""
    if path.is_file() and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if name not in archive.namelist():
                return None
            if archive.getinfo(name).file_size > _MAX_JSON:
                raise ValueError(f"is larger than {_MAX_JSON >> 20} MiB")
            content = json.loads(archive.read(name))
    else:
        # A run's folder, its folder of vectors, or a file in that; tests of a run say nothing of its other directions.
        vectors = path if path.is_dir() else path.parent
        file = (vectors.parent if vectors.name == "vectors" and name != "metadata.json" else path) / name
        if not file.is_file():
            return None
        content = _read_json(file)
    if not isinstance(content, dict):
        raise ValueError("is no mapping")
    return content


def _read_json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MAX_JSON:
            raise ValueError(f"is larger than {_MAX_JSON >> 20} MiB")
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({' '.join(str(error).split())[:200]})") from error
    return content if isinstance(content, dict) else {}


# ---------------------------------------------------------------- words


def _lines(facts: dict[str, Any]) -> list[str]:
    emotions, layers, layer = facts["emotions"], facts["layers"], facts["headline_layer"]
    named = ", ".join(emotions[:6]) + (", …" if len(emotions) > 6 else "")
    numbers = f"{len(layers)}, {layers[0]} to {layers[-1]}" if len(layers) > 1 else str(layers[0])
    chosen = f"; chosen {', '.join(map(str, facts['chosen_layers']))}" if facts["chosen_layers"] else ""
    norms = facts["residual_norm"]
    rows = [
        ("format", facts["format"]),
        ("model", facts["model"] or "not named"),
        ("emotions", f"{len(emotions)}: {named}"),
        ("layers", f"{numbers}, width {facts['width']}{chosen}"),
        ("residual", f"mean norm {_range(_spread(np.array(list(norms.values()))))} over layers" if norms else _UNKNOWN),
        ("lengths", f"of vectors at layer {layer}: {_range(facts['lengths'][layer])}"),
    ]
    if facts["counts"]:
        rows.append(("texts", f"behind a vector at layer {layer}: {_range(facts['counts'])}"))
    found = facts["reliability"]
    if found and found["n"]:
        weakest = ", ".join(f"{emotion} {value:.2f}" for emotion, value in found["weakest"].items())
        rows.append(("halves", f"split-half reliability at layer {layer}: {_range(found)}; weakest {weakest}"))
    rows.extend(_tested(facts["held_out"]))
    if facts["nearest"]:
        pairs = "; ".join(f"{' – '.join(pair['emotions'])} {pair['cosine']:.2f}" for pair in facts["nearest"])
        rows.append(("nearest", f"cosines at layer {layer}: {pairs}"))
    model = facts["compatible"]
    if model and model["ok"]:
        weights = {True: "its weights are theirs", None: "whether its weights are theirs is not known"}
        size = f"{model['blocks']} blocks, width {model['width']}"
        rows.append(("fits", f"{model['folder']} ({size}); {weights[model['same_weights']]}"))
    rows.extend(("note", note) for note in facts["notes"])
    return [f"{name:<9} {text}" for name, text in rows]


_UNKNOWN = "norms are not known, so that strengths cannot be stated"


def _tested(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    if "top1" in found:
        top1 = found["top1"]
        yield (
            "held out",
            f"{top1['held_out']}, layer {top1['layer']}: the emotion of {top1['vectors']:.0%} of texts is named (by a "
            f"bag of words {top1['words']:.0%}, by chance {top1['chance']:.1%})",
        )
    if "auc" in found:
        named = {"mean_difference": "difference of means", "logistic": "logistic probe", "words": "bag of words"}
        values = ", ".join(f"{named[name]} {value:.3f}" for name, value in found["auc"].items() if name in named)
        yield "held out", f"AUC at layer {found['auc']['layer']}: {values}"
    if "validation_auc" in found:
        mean = found["validation_auc"]["mean"]
        yield "validated", f"mean AUC {mean:.3f} at the chosen layers; too high, since they were chosen by it"


def _range(spread: dict[str, Any]) -> str:
    if spread["min"] is None:
        return "unknown"
    return f"{spread['min']:.3g} to {spread['max']:.3g}, median {spread['median']:.3g}"


def _counted(layers: list[int]) -> str:
    return f"layer {layers[0]}" if len(layers) == 1 else f"{len(layers)} layers (see {layers[0]})"
