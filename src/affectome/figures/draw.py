"""Draw all figures of a run from the tables of its analyses."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from affectome.analyses.norms import read_norm
from affectome.figures import FIGURES, captions, tree
from affectome.figures.circumplex import circumplex
from affectome.figures.layers import layer_profile, spectrum
from affectome.figures.scatter import pc_scatter
from affectome.figures.style import house_style, save
from affectome.files import read_json, read_table
from affectome.layers import headline_layer


def draw_figures(
    scores: str | Path,
    geometry: str | Path,
    correlations: str | Path,
    profile: str | Path,
    similarity: str | Path,
    clusters: str | Path,
    labels_table: str | Path,
    folder: str | Path,
    layer: int | str,
    norm: dict[str, Any],
    norm_name: str,
    labels: int,
    dpi: int,
    figure: str | None = None,
) -> None:
    """Write every figure of `affectome.figures.FIGURES` as SVG and PNG into `folder`, each with its caption (TXT).

    The first seven are the run's files `geometry.parquet`, `geometry.json`, `norm_correlations.json`,
    `layer_profile.parquet`, `similarity.parquet`, `clusters.json` and `clusters.parquet`. `layer` is the headline
    layer or the sweep that chose it, `norm` says how to read the norm of name `norm_name` (see `read_norm`), `labels`
    how many words a scatter plot names, `dpi` is the resolution of the PNGs, and `figure` names the only one to draw.
    Raises UserError where the norm cannot be read.
    """
    layer = headline_layer(layer)
    by_layer = read_table(scores)
    here = by_layer[by_layer["layer"] == layer]
    explained = {int(number): found["explained_variance"] for number, found in read_json(geometry)["layers"].items()}
    ratings = read_norm(norm["file"], norm)
    related = read_json(correlations)
    agreement, least = related["layers"][str(layer)], related["min_words"]
    counts = {name: found["n"] for name, found in agreement.items()}
    measures = read_table(profile)
    at_layer = measures[(measures["layer"] == layer) & (measures["measure"] == "reliability")]
    reliability = float(at_layer["value"].iloc[0])
    pairs = read_table(similarity, filters=[("layer", "==", layer)])
    groups = read_table(labels_table)
    cut = groups[groups["layer"] == layer]
    linkage = np.array(read_json(clusters)["layers"][str(layer)]["linkage"])
    hierarchy = tree.Tree(linkage, tuple(cut["emotion"]), cut["hierarchical"].to_numpy())

    drawn: dict[str, tuple[Callable[[], Figure], Callable[[], str]]] = {
        "pc_scatter": (
            lambda: pc_scatter(here, explained[layer], ratings, layer, norm_name, labels),
            lambda: captions.of_pc_scatter(here, explained[layer], ratings, layer, norm_name),
        ),
        "circumplex": (
            lambda: circumplex(here, ratings, agreement[norm_name], least, layer, norm_name),
            lambda: captions.of_circumplex(agreement[norm_name], least, layer, norm_name),
        ),
        "spectrum": (
            lambda: spectrum(explained, layer),
            lambda: captions.of_spectrum(explained, layer),
        ),
        "layer_profile": (
            lambda: layer_profile(measures, counts, least, layer),
            lambda: captions.of_layer_profile(measures, counts, least, layer),
        ),
        "similarity": (
            lambda: tree.similarity(pairs, hierarchy, layer),
            lambda: captions.of_similarity(pairs, reliability, layer),
        ),
        "dendrogram": (
            lambda: tree.dendrogram(hierarchy, layer),
            lambda: captions.of_dendrogram(cut["hierarchical"].to_numpy(), reliability, layer),
        ),
    }
    with house_style():
        for name in FIGURES if figure is None else [figure]:
            draw, numbers = drawn[name]
            save(draw(), folder, name, dpi)
            captions.write_caption(folder, name, numbers())
