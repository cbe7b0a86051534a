"""Draw all figures of a run from the tables of its analyses."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from affectome.analyses.norms import read_norm
from affectome.figures import tree
from affectome.figures.circumplex import circumplex
from affectome.figures.interactive import page, pc_scatter_by_layer
from affectome.figures.layers import layer_profile, spectrum
from affectome.figures.scatter import pc_scatter
from affectome.figures.style import house_style, save
from affectome.files import read_json, replacing


def draw_figures(
    scores: str | Path,
    geometry: str | Path,
    correlations: str | Path,
    profile: str | Path,
    similarity: str | Path,
    clusters: str | Path,
    labels_table: str | Path,
    folder: str | Path,
    layer: int,
    norm: dict[str, Any],
    norm_name: str,
    labels: int,
    dpi: int,
) -> None:
    """Write every figure of `affectome.figures.FIGURES` as SVG and PNG, and `pc_scatter.html`, into `folder`.

    The first seven are the run's files `geometry.parquet`, `geometry.json`, `norm_correlations.json`,
    `layer_profile.parquet`, `similarity.parquet`, `clusters.json` and `clusters.parquet`. `layer` is the headline
    layer, `norm` says how to read the norm of name `norm_name` (see `read_norm`), `labels` how many words a scatter
    plot names, and `dpi` is the resolution of the PNGs. Raises UserError where the norm cannot be read.
    """
    by_layer = pd.read_parquet(scores)
    here = by_layer[by_layer["layer"] == layer]
    explained = {int(number): found["explained_variance"] for number, found in read_json(geometry)["layers"].items()}
    ratings = read_norm(norm["file"], norm)
    related = read_json(correlations)
    counts = {name: found["n"] for name, found in related["layers"][str(layer)].items()}
    pairs = pd.read_parquet(similarity, filters=[("layer", "==", layer)])
    groups = pd.read_parquet(labels_table)
    cut = groups[groups["layer"] == layer]
    linkage = np.array(read_json(clusters)["layers"][str(layer)]["linkage"])
    hierarchy = tree.Tree(linkage, tuple(cut["emotion"]), cut["hierarchical"].to_numpy())

    with house_style():
        drawn = {
            "pc_scatter": pc_scatter(here, explained[layer], ratings, layer, norm_name, labels),
            "circumplex": circumplex(
                here, ratings, related["layers"][str(layer)][norm_name], related["min_words"], layer, norm_name
            ),
            "spectrum": spectrum(explained, layer),
            "layer_profile": layer_profile(pd.read_parquet(profile), counts, related["min_words"], layer),
            "similarity": tree.similarity(pairs, hierarchy, layer),
            "dendrogram": tree.dendrogram(hierarchy, layer),
        }
        for name, figure in drawn.items():
            save(figure, folder, name, dpi)
    interactive = pc_scatter_by_layer(by_layer, explained, groups, ratings, layer, norm_name)
    with replacing(Path(folder) / "pc_scatter.html") as temporary:
        temporary.write_text(page(interactive), encoding="utf-8")
