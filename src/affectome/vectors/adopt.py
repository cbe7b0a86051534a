"""Take in emotion vectors that were made elsewhere, and ask of them what needs no activations.

`python -m affectome.vectors.adopt FILE [--output DIR] [--norm FILE] [--layer N] [--title TEXT]` reads an NPZ or
safetensors file, writes the vector files of a run and the analyses and figures that rest on vectors alone. These
layouts are recognised, with `/` or `.` between the parts of a name:

- an export of affectome (`affectome.vectors.export`), of which raw, denoised and unit vectors and norms are taken over;
- `layer_{L}/{emotion}`, `{emotion}/{L}` or `{emotion}/layer_{L}`: an array (width,) each;
- `{emotion}`: an array (layers, width), layers counted from 0, or (width,), of the layer that `--layer` names.

Vectors from elsewhere are taken as they are, as raw and denoised ones alike. Nothing is known then of the texts behind
them: counts are 0, reliabilities and the residual norm NaN. Steering states its strength in units of that norm, so such
vectors can be analysed but not steered with.
"""

import argparse
import json
import math
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from affectome.analyses.clusters import clusters
from affectome.analyses.emotion_maps import emotion_maps
from affectome.analyses.geometry import geometry
from affectome.analyses.layer_profile import layer_profile
from affectome.analyses.layer_similarity import layer_similarity
from affectome.analyses.norm_correlations import norm_correlations
from affectome.analyses.norm_formats import complete
from affectome.analyses.relations import relations
from affectome.analyses.similarity import similarity
from affectome.config import Clusters, Figures, Run, Statistics
from affectome.errors import UserError
from affectome.figures.draw import draw_figures
from affectome.figures.draw_answers import draw_answer
from affectome.files import write_json
from affectome.identity import file_sha256, fingerprint
from affectome.vectors.contrasts import unit
from affectome.vectors.export import FORMS
from affectome.vectors.store import Vectors, write_vectors

_NORM = "resources/norms/russell_mehrabian_1977.csv"

# Maps of distances dealt at random, as in a run.
_STRESS_DRAWS = 99

# Fewer have no plane of components.
_MIN_EMOTIONS = 3

_OWN = re.compile(rf"layer_(\d+)/({'|'.join(FORMS)})")
# How a name says its emotion and layer.
_LAYOUTS = {
    "layer_{L}/{emotion}": re.compile(r"layer_(?P<layer>\d+)[/.](?P<emotion>.+)", re.DOTALL),
    "{emotion}/{L}": re.compile(r"(?P<emotion>.+)[/.](?:layer_)?(?P<layer>\d+)", re.DOTALL),
}
# Of a file that is not understood, names that are listed.
_LISTED = 3


@dataclass(frozen=True)
class Adopted:
    """Vectors of a file by layer, ascending, and in a sentence what it was recognised as."""

    layers: dict[int, Vectors]
    recognised: str


def adopt(
    file: str | Path,
    output: str | Path | None = None,
    norm: str | Path = _NORM,
    layer: int | None = None,
    title: str | None = None,
    say: Callable[[str], None] = lambda _line: None,
) -> Path:
    """Write vectors, analyses and figures of `file` into `output`, by default `results/adopted/{stem}`; returns it.

    `norm` is a file of human ratings in a format that is recognised, `layer` the layer of vectors that come without one
    and otherwise the headline layer, by default the one at two thirds of those there are. `say` is given a line for
    what is worth knowing. Raises UserError for files that cannot be used, before anything is written.
    """
    ratings = {"file": str(norm), "word": None, "valence": None, "arousal": None, "dominance": None}
    complete(norm, ratings)
    found = read_file(file, layer)
    layers = list(found.layers)
    headline = layers[2 * len(layers) // 3] if layer is None else layer
    if headline not in found.layers:
        raise UserError(f"{file}: has no vectors of layer {headline}; it has {', '.join(map(str, layers))}")
    folder = Path(output) if output else Path("results/adopted") / Path(file).stem
    say(f"{file}: {found.recognised}")
    here = found.layers[headline]
    if not math.isfinite(here.residual_norm):
        say("The residual norm is not known: strengths of steering cannot be stated, so these vectors cannot steer.")
    for part in ("vectors", "analyses", "figures"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    paths = []
    for number, vectors in found.layers.items():
        paths.append(folder / "vectors" / f"layer_{number}.h5")
        write_vectors(paths[-1], vectors, adopted_from=Path(file).name)
    write_json(
        folder / "adopted.json",
        {
            "title": title or Path(file).stem,
            "file": str(file),
            "sha256": file_sha256(file),
            "recognised": found.recognised,
            "layer": headline,
            "layers": layers,
            "n_emotions": len(here.emotions),
            "width": here.unit.shape[1],
            "residual_norm": here.residual_norm,
            "norm": str(norm),
        },
    )
    say(f"Analyses and figures go to {folder}; the headline layer is {headline}.")
    _ask(paths, folder, headline, ratings)
    return folder


def _ask(paths: list[Path], folder: Path, headline: int, norm: dict[str, Any]) -> None:
    """The questions that need vectors alone, with the settings that a run has by default, and their figures."""
    run = {name: field.default for name, field in Run.model_fields.items()}
    statistics, groups = Statistics(), Clusters()
    drawn = {"permutations": statistics.permutations, "seed": statistics.seed}

    def at(name: str) -> Path:
        return folder / "analyses" / name

    def both(question: str) -> dict[str, Path]:
        return {"table": at(f"{question}.parquet"), "output": at(f"{question}.json")}

    name = Path(norm["file"]).stem
    geometry(paths, norm, name, run["components"], **both("geometry"))
    norm_correlations(
        paths,
        at("geometry.parquet"),
        {name: norm},
        bootstrap=statistics.bootstrap,
        **drawn,
        output=at("norm_correlations.json"),
    )
    similarity(paths, run["pairs"], **both("similarity"))
    clusters(paths, groups.k, groups.k_max, statistics.seed, **both("clusters"))
    layer_profile(paths, at("geometry.json"), at("norm_correlations.json"), at("layer_profile.parquet"))
    layer_similarity(paths, **drawn, **both("layer_similarity"))
    relations(paths, run["relations"], bootstrap=statistics.bootstrap, **drawn, **both("relations"))
    emotion_maps(
        folder / "vectors" / f"layer_{headline}.h5",
        at("clusters.parquet"),
        bootstrap=statistics.bootstrap,
        stress_draws=_STRESS_DRAWS,
        **drawn,
        **both("emotion_maps"),
    )
    files = ("geometry.parquet", "geometry.json", "norm_correlations.json", "layer_profile.parquet")
    files += ("similarity.parquet", "clusters.json", "clusters.parquet")
    figures = Figures()
    draw_figures(*map(at, files), folder / "figures", headline, norm, name, figures.labels, figures.dpi)
    for question in ("layer_similarity", "relations", "emotion_maps"):
        made = both(question)
        draw_answer(made["output"], made["table"], folder / "figures", headline, figures.dpi, question)


# ---------------------------------------------------------------- reading


def read_file(file: str | Path, layer: int | None = None) -> Adopted:
    """The vectors in `file`; `layer` is that of vectors which come without one.

    Raises UserError for a file that is not whole or not safe to read, and for one whose vectors cannot be told, or
    cannot be used, saying which.
    """
    arrays, said = _arrays(Path(file))
    numbers = {name: array for name, array in arrays.items() if name not in ("emotions", "layers", "residual_norm")}
    if not numbers:
        raise UserError(f"{file}: holds no arrays; give a file of vectors by name")
    if all(map(_OWN.fullmatch, numbers)) and ("emotions" in arrays or "emotions" in said):
        return _own(file, arrays, said)
    return _foreign(file, arrays, layer)


def _arrays(file: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays of a file and, of a safetensors file, what is said about them. Nothing in it is executed."""
    if not file.is_file():
        raise UserError(f"{file}: does not exist; give an NPZ or safetensors file")
    with open(file, "rb") as handle:
        zipped = handle.read(2) == b"PK"
    try:
        if zipped:
            with np.load(file, allow_pickle=False) as archive:
                return {name: archive[name] for name in archive.files}, {}
        from safetensors import safe_open

        with safe_open(file, framework="pt") as archive:
            # NumPy knows no bfloat16.
            tensors = {name: archive.get_tensor(name) for name in archive.keys()}  # noqa: SIM118 - no mapping
            arrays = {name: (tensor.double() if tensor.is_floating_point() else tensor).numpy()
                      for name, tensor in tensors.items()}  # fmt: skip
            return arrays, dict(archive.metadata() or {})
    # Both libraries raise what they like over a file that is not theirs, or not whole.
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        if "allow_pickle" in reason:
            reason = "it holds Python objects, which could run code when they are read; save plain arrays of numbers"
        raise UserError(f"{file}: cannot be read as an NPZ or safetensors file ({reason})") from error


def _own(file: str | Path, arrays: dict[str, np.ndarray], said: dict[str, str]) -> Adopted:
    """An export of affectome."""
    try:
        emotions = tuple(
            map(str, arrays["emotions"].tolist() if "emotions" in arrays else json.loads(said["emotions"]))
        )
        if "layers" in arrays:
            norms = dict(zip(arrays["layers"].tolist(), arrays["residual_norm"].tolist(), strict=True))
        else:
            norms = {int(layer): float(norm) for layer, norm in json.loads(said["residual_norm"]).items()}
        layers = {}
        for layer in sorted(norms):
            forms = {form: arrays[f"layer_{layer}/{form}"] for form in FORMS}
            _check(file, {f"layer_{layer}/{form}": array for form, array in forms.items()}, (len(emotions), None))
            for array in forms.values():
                _usable(file, layer, emotions, array)
            layers[layer] = _vectors(file, layer, emotions, forms, norms[layer])
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{file}: looks like an export of affectome but lacks a part of it ({error!r})") from error
    width = next(iter(layers.values())).unit.shape[1]
    return Adopted(layers, f"an export of affectome: {_counted(len(emotions), len(layers), width)}")


def _foreign(file: str | Path, arrays: dict[str, np.ndarray], layer: int | None) -> Adopted:
    names = list(arrays)
    fitting = [layout for layout, pattern in _LAYOUTS.items() if all(map(pattern.fullmatch, names))]
    if len(fitting) > 1:
        raise UserError(
            f"{file}: names such as {names[0]!r} can be read as {' and as '.join(fitting)}; rename the arrays so that "
            f"each holds one number, its layer"
        )
    some = [name for name in names if any(pattern.fullmatch(name) for pattern in _LAYOUTS.values())]
    by_layer: dict[int, dict[str, np.ndarray]] = {}
    if fitting:
        layout = f"names as {fitting[0]}"
        _check(file, arrays, (None,))
        for name, array in arrays.items():
            parts = _LAYOUTS[fitting[0]].fullmatch(name)
            at = by_layer.setdefault(int(parts["layer"]), {})
            if parts["emotion"] in at:
                raise UserError(f"{file}: has two vectors of {parts['emotion']} at layer {parts['layer']}; keep one")
            at[parts["emotion"]] = array
    elif some:
        other = next(name for name in names if name not in some) if len(some) < len(names) else some[-1]
        raise UserError(
            f"{file}: names its arrays in more than one way ({some[0]!r}, {other!r}); name all as one of "
            f"{', '.join(_LAYOUTS)}"
        )
    elif all(array.ndim == 1 for array in arrays.values()):
        layout = "names as {emotion}, an array (width,) each"
        if layer is None:
            raise UserError(f"{file}: {layout}, so its layer has to be named: --layer N")
        _check(file, arrays, (None,))
        by_layer[layer] = arrays
    else:
        layout = "names as {emotion}, an array (layers, width) each"
        _check(file, arrays, (None, None))
        for number in range(len(next(iter(arrays.values())))):
            by_layer[number] = {name: array[number] for name, array in arrays.items()}
    emotions = tuple(next(iter(by_layer.values())))
    for number, vectors in by_layer.items():
        if set(vectors) != set(emotions):
            lacking = sorted(set(emotions) ^ set(vectors))[0]
            raise UserError(f"{file}: has no vector of {lacking} at every layer (see layer {number}); add or remove it")
    layers = {}
    for number in sorted(by_layer):
        stacked = np.stack([by_layer[number][emotion] for emotion in emotions]).astype(np.float64)
        _usable(file, number, emotions, stacked)
        forms = {"raw": stacked, "denoised": stacked, "unit": unit(stacked)}
        layers[number] = _vectors(file, number, emotions, forms, float("nan"))
    width = next(iter(layers.values())).unit.shape[1]
    return Adopted(layers, f"{layout}: {_counted(len(emotions), len(layers), width)}")


def _check(file: str | Path, arrays: dict[str, np.ndarray], shape: tuple[int | None, ...]) -> None:
    """Raise UserError unless all `arrays` are numbers of one shape, that of `shape` where it is not None."""
    first = next(iter(arrays))
    for name, array in arrays.items():
        if array.dtype.kind not in "fiu":
            raise UserError(f"{file}: {name} holds no numbers but {array.dtype}; leave only vectors in the file")
        wanted = tuple(length if length is not None else "n" for length in shape)
        fits = array.ndim == len(shape) and all(
            length is None or length == found for length, found in zip(shape, array.shape, strict=True)
        )
        if not fits or array.shape != arrays[first].shape or 0 in array.shape:
            raise UserError(
                f"{file}: {name} has the shape {array.shape}, but {first} {arrays[first].shape}; all vectors should "
                f"have one shape {wanted}".replace("'", "")
            )


def _usable(file: str | Path, layer: int, emotions: tuple[str, ...], array: np.ndarray) -> None:
    """Raise UserError where a vector of `array` (emotions, width) has no direction, or there are too few."""
    if len(emotions) < _MIN_EMOTIONS:
        raise UserError(f"{file}: holds vectors of {', '.join(emotions)} alone; at least {_MIN_EMOTIONS} are needed")
    if len(set(emotions)) < len(emotions):
        raise UserError(f"{file}: names an emotion more than once; keep one vector of each")
    for emotion, row in zip(emotions, array, strict=True):
        if not np.isfinite(row).all():
            raise UserError(f"{file}: the vector of {emotion} at layer {layer} holds NaN or infinity; leave it out")
        if not row.any():
            raise UserError(f"{file}: the vector of {emotion} at layer {layer} is zero; leave it out")


def _vectors(
    file: str | Path, layer: int, emotions: tuple[str, ...], forms: dict[str, np.ndarray], residual_norm: float
) -> Vectors:
    """The vectors of one layer, of which nothing else is known."""
    width = forms["unit"].shape[1]
    return Vectors(
        layer=layer,
        emotions=emotions,
        **forms,
        neutral_basis=np.zeros((0, width)),
        counts=np.zeros(len(emotions)),
        reliability=np.full(len(emotions), np.nan),
        residual_norm=residual_norm,
        fingerprint=fingerprint(["adopted", file_sha256(file), layer]),
    )


def _counted(emotions: int, layers: int, width: int) -> str:
    return f"{emotions} emotions at {layers} layer{'s' if layers > 1 else ''}, width {width}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line `arguments`, those of this process by default; returns the exit status."""
    about, _, layouts = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="python -m affectome.vectors.adopt",
        description=about,
        epilog=layouts,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", metavar="FILE", help="an NPZ or safetensors file of vectors by name")
    parser.add_argument("--output", metavar="DIR", help="where results go; by default results/adopted/ and its name")
    parser.add_argument("--norm", metavar="FILE", default=_NORM, help="human ratings; by default %(default)s")
    parser.add_argument("--layer", metavar="N", type=int, help="the vectors' layer, or the headline layer of several")
    parser.add_argument("--title", metavar="TEXT", help="what adopted.json calls the vectors")
    options = parser.parse_args(arguments)
    try:
        adopt(**vars(options), say=lambda line: print(line, flush=True))  # noqa: T201 - it is a command
    except UserError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
