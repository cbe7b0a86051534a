"""What a server can steer along: the directions of a run, or of a file of vectors, beside the model they are of.

Vectors are read from safetensors alone, which cannot hold code. A direction's id is its place in the catalogue. Its
family is `emotion`, `refusal` (the run's risk and refusal directions, where it has them) or `random` (isotropic, drawn
from a fixed seed): what a vector does says little until it is seen beside what any vector does.
"""

import difflib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from affectome.analyses.geometry import orient, principal_components
from affectome.errors import UserError
from affectome.files import read_json, read_table
from affectome.identity import model_fingerprint
from affectome.layers import auto_layer
from affectome.randomness import generator
from affectome.serve.plan import Refused
from affectome.vectors.contrasts import unit

log = logging.getLogger(__name__)

RANDOM_DIRECTIONS = 4

# Where no trial of costs has measured how far a vector can be pushed: what most models of the literature bear.
UNMEASURED = (-0.1, 0.1)


@dataclass(frozen=True)
class Direction:
    """A direction; `safe` is its range of strengths, `measured` by a trial of costs or not, for one layer at a time."""

    name: str
    family: str
    safe: tuple[float, float] = UNMEASURED
    measured: bool = False
    reliability: float | None = None


@dataclass(frozen=True, eq=False)
class Catalogue:
    """All that can be steered along, for a model of `blocks` blocks and width `width` in `model_folder`.

    `norms` are mean residual norms by layer; its layers are those that have vectors. By layer, `units` (directions,
    width) float32 are of length 1, and `stored` (directions,) are the lengths of the vectors as their file has them.
    `map` has an emotion's place on the first two principal components at layer `headline`, which explain the shares
    `explained` of the variance between emotions.
    """

    title: str
    model: str
    model_folder: Path
    blocks: int
    width: int
    headline: int
    norms: dict[int, float]
    directions: tuple[Direction, ...]
    units: dict[int, np.ndarray]
    stored: dict[int, np.ndarray]
    map: dict[str, tuple[float, float]] = field(default_factory=dict)
    explained: tuple[float, float] = (0.0, 0.0)

    @property
    def families(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(direction.family for direction in self.directions))

    def names(self, family: str) -> list[str]:
        return [direction.name for direction in self.directions if direction.family == family]

    def find(self, emotion: str, family: str = "emotion") -> int:
        """The id of a direction; Refused, with names that are nearly the same, where there is none."""
        for number, direction in enumerate(self.directions):
            if (direction.name, direction.family) == (emotion, family):
                return number
        if family not in self.families:
            raise Refused(400, f"there is no family {family!r}; allowed: {', '.join(self.families)}", "steering")
        names = self.names(family)
        near = difflib.get_close_matches(emotion.lower(), names, n=5, cutoff=0.5) or names[:5]
        raise Refused(
            400,
            f"there is no {family} {emotion[:60]!r}; near it: {', '.join(near)}; GET /v1/emotions lists {len(names)}",
            "steering",
            "unknown_emotion",
        )

    def as_json(self) -> dict[str, Any]:
        """The body of `GET /v1/emotions`."""
        return {
            "object": "list",
            "run": self.title,
            "model": self.model,
            "headline_layer": self.headline,
            "layers": list(self.norms),
            "residual_norm": {str(layer): norm for layer, norm in self.norms.items()},
            "families": {family: self.names(family) for family in self.families},
            "explained_variance": list(self.explained),
            "data": [self._entry(number) for number in range(len(self.directions))],
        }

    def _entry(self, number: int) -> dict[str, Any]:
        direction = self.directions[number]
        return {
            "id": number,
            "name": direction.name,
            "family": direction.family,
            "safe_range": {"low": direction.safe[0], "high": direction.safe[1], "measured": direction.measured},
            "reliability": direction.reliability,
            "stored_length": float(self.stored[self.headline][number]),
            "map": self.map.get(direction.name) if direction.family == "emotion" else None,
        }

    def write_directions(self, path: str | Path) -> None:
        """Write what an engine needs: `layer_{L}` (directions, width) float32, and the norms in the metadata."""
        arrays = {f"layer_{layer}": array for layer, array in self.units.items()}
        save_file(arrays, path, {"residual_norm": json.dumps(self.norms)})


def open_run(run: str, results: str | Path = "results", models: str | Path = "resources/models") -> Catalogue:
    """The catalogue of a run of the workflow; UserError, with what to call first, where its vectors are not made."""
    folder = Path(results) / run
    vectors = folder / "vectors/vectors.safetensors"
    if not vectors.exists():
        made = sorted(path.parents[1].name for path in Path(results).glob("*/vectors/vectors.safetensors"))
        others = f"; there are {', '.join(made)}" if made else ""
        raise UserError(
            f"{vectors} is not there{others}; make it with: snakemake --config 'runs=[{run}]' (or `make demo`)"
        )
    summary = folder / "summary.json"
    headline = int(read_json(summary)["layer"]["auto"]) if summary.exists() else None
    catalogue = open_file(vectors, None, title=run, models=models, headline=headline, safe=_safe_ranges(folder))
    return _with_refusal(_with_geometry(catalogue, folder / "analyses"), folder / "analyses/refusal.safetensors")


def open_file(
    vectors: str | Path,
    model: str | Path | None,
    title: str | None = None,
    models: str | Path = "resources/models",
    headline: int | None = None,
    safe: dict[str, tuple[float, float]] | None = None,
) -> Catalogue:
    """The catalogue of a safetensors file as the workflow exports it, for the model in the folder `model`.

    Without `model` it is the one of `models` that the file names. `headline` is the layer at two thirds of depth, or
    the one nearest to it that has vectors, where nothing else is said; `safe` are measured ranges by emotion. Raises
    UserError where the file is no such file, or the model not the one that the vectors came from.
    """
    arrays, said = _read(vectors)
    emotions = json.loads(said["emotions"])
    norms = {int(layer): float(norm) for layer, norm in sorted(_norms(vectors, said).items(), key=lambda x: int(x[0]))}
    if not norms:
        raise UserError(f"{vectors}: has no layers")
    folder = _model_folder(vectors, said, model, models)
    blocks, width = _check_model(vectors, said, folder, norms, arrays)
    headline = headline if headline is not None else min(norms, key=lambda layer: abs(layer - auto_layer(blocks)))
    if headline not in norms:
        raise UserError(f"{vectors}: has no vectors of the headline layer {headline}, only of {_listed(list(norms))}")
    reliability = json.loads(said.get("reliability", "{}")).get(str(headline), [None] * len(emotions))
    safe = safe or {}
    random = [Direction(f"random:{number}", "random") for number in range(RANDOM_DIRECTIONS)]
    directions = [
        Direction(emotion, "emotion", safe.get(emotion, UNMEASURED), emotion in safe, known)
        for emotion, known in zip(emotions, reliability, strict=True)
    ]
    drawn = unit(np.array([generator(0, "random", n).normal(size=width) for n in range(RANDOM_DIRECTIONS)]))
    units, stored = {}, {}
    for layer in norms:
        found = _usable(vectors, layer, emotions, width, arrays)
        units[layer] = np.concatenate([found["unit"], drawn]).astype(np.float32)
        lengths = np.linalg.norm(found["denoised"], axis=1)
        stored[layer] = np.concatenate([lengths, np.ones(RANDOM_DIRECTIONS)])
    places, explained = principal_plane(arrays[f"layer_{headline}/denoised"])
    return Catalogue(
        title=title or Path(vectors).stem,
        model=folder.name,
        model_folder=folder,
        blocks=blocks,
        width=width,
        headline=headline,
        norms=norms,
        directions=(*directions, *random),
        units=units,
        stored=stored,
        map=dict(zip(emotions, places, strict=True)),
        explained=explained,
    )


def principal_plane(vectors: np.ndarray) -> tuple[list[tuple[float, float]], tuple[float, float]]:
    """Places of `vectors` (emotions, width) on their first two principal components, and the variance these explain.

    Components are oriented as `affectome.analyses.geometry` does without ratings.
    """
    scores, explained = principal_components(vectors)
    scores = orient(scores[:, :2], np.zeros(0, int), pd.DataFrame())
    absent = 2 - scores.shape[1]
    places = np.pad(scores, ((0, 0), (0, absent)))
    first, second = (*explained[:2], *[0.0] * absent)
    return [(float(x), float(y)) for x, y in places], (float(first), float(second))


def _with_geometry(catalogue: Catalogue, analyses: Path) -> Catalogue:
    """`catalogue` with its map as the run's report has it, whose components are oriented by human ratings."""
    if not (analyses / "geometry.parquet").exists() or not (analyses / "geometry.json").exists():
        return catalogue
    table = read_table(analyses / "geometry.parquet")
    here = table[table["layer"] == catalogue.headline]
    explained = read_json(analyses / "geometry.json")["layers"].get(str(catalogue.headline))
    if here.empty or not explained:
        return catalogue
    places = {str(row.emotion): (float(row.PC1), float(row.PC2)) for row in here.itertuples()}
    first, second = explained["explained_variance"][:2]
    return replace(catalogue, map=places, explained=(float(first), float(second)))


def _with_refusal(catalogue: Catalogue, file: Path) -> Catalogue:
    """`catalogue` with the run's refusal directions, where it has them at all its layers."""
    if not file.exists():
        return catalogue
    arrays, said = _read(file)
    names = json.loads(said["emotions"])
    if any(f"layer_{layer}/unit" not in arrays for layer in catalogue.norms):
        return catalogue
    units, stored = {}, {}
    for layer in catalogue.norms:
        found = _usable(file, layer, names, catalogue.width, arrays)
        units[layer] = np.concatenate([catalogue.units[layer], found["unit"].astype(np.float32)])
        stored[layer] = np.concatenate([catalogue.stored[layer], np.linalg.norm(found["denoised"], axis=1)])
    added = tuple(Direction(name, "refusal") for name in names)
    return replace(catalogue, directions=(*catalogue.directions, *added), units=units, stored=stored)


def _safe_ranges(folder: Path) -> dict[str, tuple[float, float]]:
    """Measured ranges by emotion; where several trials measured one, the narrowest."""
    found: dict[str, tuple[float, float]] = {}
    for path in sorted(folder.glob("steering/*/safe_ranges.json")):
        for emotion, measured in read_json(path)["vectors"].items():
            low, high = found.get(emotion, (-np.inf, np.inf))
            found[emotion] = max(low, float(measured["low"])), min(high, float(measured["high"]))
    return found


def _read(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Arrays and metadata of an export in safetensors; UserError for anything else."""
    try:
        with safe_open(path, "numpy") as file:
            said = file.metadata() or {}
            if said.get("format") != "affectome.vectors":
                raise UserError(
                    f"{path}: is no export of affectome; convert it first: affectome convert {path} vectors.safetensors"
                )
            return {name: file.get_tensor(name) for name in file.keys()}, said  # noqa: SIM118 - it is no mapping
    except (OSError, SafetensorError, TypeError) as error:
        raise UserError(
            f"{path}: vectors are read from safetensors alone, and this cannot be read as such ({error}); convert it "
            f"with: affectome convert"
        ) from error


def _norms(path: str | Path, said: dict[str, str]) -> dict[str, Any]:
    try:
        norms = json.loads(said["residual_norm"])
        usable = all(isinstance(norm, int | float) and np.isfinite(norm) and norm > 0 for norm in norms.values())
    except (KeyError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: lacks its residual norms ({error!r}), the unit of steering strengths") from error
    if not usable:
        raise UserError(f"{path}: has layers without a residual norm, the unit of steering strengths")
    return norms


def _model_folder(path: str | Path, said: dict[str, str], model: str | Path | None, models: str | Path) -> Path:
    if model is not None:
        return Path(model)
    if "model" not in said:
        raise UserError(
            f"{path}: does not say of which model it is, as exports of earlier versions do not; name the folder of its "
            f"weights with --model, or make the export again"
        )
    folder = Path(models) / said["model"]
    if not (folder / "config.json").exists():
        raise UserError(
            f"the weights of {said['model']} are not in {folder}; fetch them with: snakemake {folder}/manifest.json"
        )
    return folder


def _check_model(
    path: str | Path, said: dict[str, str], folder: Path, norms: dict[int, float], arrays: dict[str, np.ndarray]
) -> tuple[int, int]:
    """Blocks and width of the model in `folder`; UserError unless the vectors are of it."""
    from affectome.models.anatomy import text_config
    from affectome.models.load import read_config

    config = text_config(read_config(folder))
    blocks, width = int(config.num_hidden_layers), int(config.hidden_size)
    first = next(iter(norms))
    if f"layer_{first}/unit" in arrays and arrays[f"layer_{first}/unit"].shape[-1] != width:
        raise UserError(
            f"{path}: vectors of width {arrays[f'layer_{first}/unit'].shape[-1]} are not of the model in {folder}, "
            f"whose width is {width}"
        )
    if max(norms) >= blocks:
        raise UserError(f"{path}: has vectors of block {max(norms)}; the model in {folder} has {blocks} blocks")
    manifest = folder / "manifest.json"
    if "model_fingerprint" not in said or not manifest.exists():
        log.warning("whether %s is of the model in %s cannot be known beyond its size", path, folder)
    elif model_fingerprint(read_json(manifest)) != said["model_fingerprint"]:
        raise UserError(
            f"{path}: was made from other weights than those in {folder} (fingerprints differ); serve the model it was "
            f"made from, or make the vectors again"
        )
    return blocks, width


def _usable(
    path: str | Path, layer: int, names: Sequence[str], width: int, arrays: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """The arrays of one layer by form; UserError where one is missing, of another shape, or no direction."""
    found = {}
    for form in ("unit", "denoised"):
        array = arrays.get(f"layer_{layer}/{form}")
        if array is None or array.shape != (len(names), width):
            raise UserError(f"{path}: has no array layer_{layer}/{form} of shape ({len(names)}, {width})")
        if not np.isfinite(array).all():
            raise UserError(f"{path}: layer_{layer}/{form} holds NaN or infinity")
        found[form] = array.astype(np.float64)
    lengths = np.linalg.norm(found["unit"], axis=1)
    if not (np.abs(lengths - 1) < 1e-3).all():
        bad = names[int(np.abs(lengths - 1).argmax())]
        raise UserError(f"{path}: the vector of {bad} at layer {layer} is not of length 1")
    return found


def _listed(layers: Sequence[int]) -> str:
    return f"{layers[0]} to {layers[-1]}" if len(layers) > 1 else str(layers[0])
