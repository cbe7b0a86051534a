"""Emotions on planes: metric scaling and UMAP, coloured by cluster."""

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from affectome.figures.labels import place_labels
from affectome.figures.style import GROUPS, canvas, note
from affectome.figures.wording import interval, number, p_equation

_TITLES = {"mds": "Metric scaling (MDS)", "umap": "UMAP"}
_NAMES = {"mds": "MDS", "umap": "UMAP", "pca": "the first two principal components"}
# Words that fit beside one another on a map of this size.
_LABELLED = 80


def draw_emotion_maps(found: dict[str, Any], table: pd.DataFrame, layer: int) -> Figure:
    """Both maps one above the other, in the colours of the k-means clusters."""
    beneath = (
        f"Colours: k-means clusters. Nearness means likeness; axes have no names. "
        f"Kept: share of the {found['neighbours']} nearest that are nearest on the map."
    )
    figure = canvas(10, 13.4, f"{found['n']} emotion vectors on maps, layer {layer}", beneath)
    for row, method in enumerate(_TITLES):
        ax = figure.add_axes((0.02, 0.487 - 0.482 * row, 0.96, 0.447), title=_title(found, method))
        ax.set(xticks=[], yticks=[])
        rows = table[table["method"] == method]
        if rows.empty:
            note(ax, _why_not(found, method))
        else:
            _map(ax, rows)
    return figure


def _title(found: dict[str, Any], method: str) -> str:
    entry = found["maps"].get(method, {})
    if "kept" not in entry:
        return _TITLES[method]
    stress = f", stress {number(entry['stress']['value'])}" if "stress" in entry else ""
    return (
        f"{_TITLES[method]}: trustworthiness {number(entry['trustworthiness']['value'])}, kept "
        f"{number(entry['kept']['value'])}{stress}"
    )


def _why_not(found: dict[str, Any], method: str) -> str:
    entry = found["maps"].get(method)
    return entry["skipped"].replace("; ", ";\n") if entry else f"needs {found['min_emotions']} emotions"


def _map(ax: Axes, rows: pd.DataFrame) -> None:
    points, groups = rows[["x", "y"]].to_numpy(), rows["cluster"].to_numpy()
    colours = [GROUPS[group % len(GROUPS)] for group in groups]
    ax.scatter(*points.T, s=26, c=colours, edgecolors="white", linewidths=0.4, zorder=2)
    ax.margins(0.05)
    ax.set_aspect("equal", adjustable="datalim")
    ax.spines[:].set_visible(False)
    words = rows["emotion"].tolist()
    # Spread over the map: in turn from every cluster.
    order = rows.reset_index(drop=True).groupby("cluster").cumcount().sort_values(kind="stable").index[:_LABELLED]
    place_labels(ax, points[order], [words[index] for index in order], points, radius=3, size=8)
    written = {text.get_text(): text for text in ax.texts}
    for word, colour in zip(words, colours, strict=True):
        if word in written:
            written[word].set_color(colour)


def numbers_emotion_maps(found: dict[str, Any], _table: pd.DataFrame, layer: int) -> str:
    """Quality of every map beside chance."""
    parts = []
    for method, entry in found["maps"].items():
        if "skipped" in entry:
            parts.append(f"{_NAMES[method]} left out ({entry['skipped']})")
            continue
        trust, kept = entry["trustworthiness"], entry["kept"]
        text = (
            f"{_NAMES[method]}: trustworthiness {number(trust['value'])} (95 % interval {interval(trust['ci'])}, "
            "chance "
            f"{number(trust['chance'])}), {number(100 * kept['value'], 0)} % of the {found['neighbours']} nearest kept "
            f"(95 % interval {_percent(kept['ci'])} %, chance {number(100 * kept['chance'], 0)} %, "
            f"{p_equation(kept['p'])})"
        )
        if "stress" in entry:
            stress = entry["stress"]
            text += (
                f", stress-1 {number(stress['value'])} (chance {number(stress['chance'])}, {p_equation(stress['p'])}, "
                f"{stress['draws']} draws)"
            )
        parts.append(text)
    if not parts:
        return f"Here, no maps: {found['n']} emotions, and maps take {found['min_emotions']}."
    return f"Here, {found['n']} emotions at layer {layer}: {'; '.join(parts)}."


def _percent(bounds: list[float]) -> str:
    return f"{number(100 * bounds[0], 0)} to {number(100 * bounds[1], 0)}"


def said(found: dict[str, Any], layer: int) -> str:
    """How much of the arrangement a plane keeps."""
    if not found["maps"]:
        return f"There are too few emotions for a map ({found['n']}; {found['min_emotions']} are needed)."
    kept = {method: entry["kept"] for method, entry in found["maps"].items() if "kept" in entry}
    best = max(("mds", "umap"), key=lambda method: kept[method]["value"] if method in kept else -1)
    entry, plane = kept[best], kept["pca"]
    word = "keeps" if entry["p"] < 0.05 else "does not keep more than chance of"
    share = f"{number(100 * entry['value'], 0)} %"
    missing = " UMAP was left out: umap-learn is not installed." if "umap" not in kept else ""
    return (
        f"A plane {word} the neighbourhoods of the {found['n']} emotions of layer {layer} in part: {_NAMES[best]} "
        "keeps "
        f"{share} of each emotion's {found['neighbours']} nearest (95 % interval {_percent(entry['ci'])} %, chance "
        f"{number(100 * entry['chance'], 0)} %), {_NAMES['pca']} {number(100 * plane['value'], 0)} %; distances on a "
        "map are "
        f"no measurements (stress-1 of MDS {number(found['maps']['mds']['stress']['value'])}).{missing}"
    )
