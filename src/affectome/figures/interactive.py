"""Figures to be explored with the mouse: emotions by layer, cosines, agreement over the layers, effects by strength.

They stand on one page, so that what draws them (plotly.js, 5 MB) is there once, and the page works wherever it is, in a
report's zip or mailed alone.
"""

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import plotly.io

from affectome.analyses.norms import read_norm
from affectome.figures import FIGURES, VERDICT_MARKS, captions
from affectome.figures.scatter import axis_label
from affectome.figures.style import AROUSAL, COSINES, FAINT, GROUPS, INK, MUTED, RATINGS, UNRATED, VALENCE, rating_scale
from affectome.figures.tree import Tree, cosine_matrix
from affectome.figures.wording import interval, number, p_equation
from affectome.files import read_json, read_table, replacing
from affectome.layers import headline_layer
from affectome.report.templates import environment
from affectome.steering.conditions import NULL_FAMILIES

# Plotly's share button would upload the data to its maker.
_SETTINGS = {"displaylogo": False, "responsive": True, "showSendToCloud": False, "plotlyServerURL": ""}
_DASHES = ("solid", "dash", "dot", "dashdot")
_LEGEND = {"orientation": "h", "y": -0.2, "yanchor": "top"}
# Of more emotions, a heatmap names those that are pointed at.
_NAMED = 40


def pc_scatter_by_layer(
    scores: pd.DataFrame,
    explained: dict[int, list[float]],
    labels: pd.DataFrame,
    ratings: pd.DataFrame,
    layer: int,
    norm_name: str,
) -> go.Figure:
    """`pc_scatter` with a slider over all layers, opened at `layer`; pointing at an emotion tells its numbers.

    `scores` is `geometry.parquet` and `labels` `clusters.parquet`, whose `hierarchical` column is shown; `explained`
    holds the shares of variance by layer, `ratings` the norm's ratings by word.
    """
    words = scores.loc[scores["layer"] == layer, "emotion"]
    rated = words.isin(ratings.index)
    scale = rating_scale(ratings["valence"])
    # The later ones lie on top. Without rated words there is no scale of colours to show.
    markers = {"not rated": {"color": UNRATED, "size": 8, "line": {"width": 0.5, "color": "white"}}}
    names = {"not rated": words[~rated].tolist()}
    if rated.any():
        names["rated"] = words[rated].tolist()
        markers["rated"] = {
            "color": ratings.loc[names["rated"], "valence"].tolist(),
            "colorscale": RATINGS,
            "cmin": float(scale.vmin),
            "cmax": float(scale.vmax),
            "colorbar": {
                "title": {"text": f"human valence ({_text(norm_name)}), grey: not rated", "side": "top"},
                "orientation": "h",
                "thickness": 12,
                "y": 1.02,
                "yanchor": "bottom",
            },
            "size": 11,
            "line": {"width": 1, "color": INK},
        }
    human = {word: [number(ratings[name].get(word)) for name in ("valence", "arousal")] for word in words}
    layers = sorted(explained)
    steps = []
    for each in layers:
        here = scores[scores["layer"] == each].set_index("emotion")[["PC1", "PC2"]].round(4)
        group = labels[labels["layer"] == each].set_index("emotion")["hierarchical"]
        data = {
            "x": [here.loc[some, "PC1"].tolist() for some in names.values()],
            "y": [here.loc[some, "PC2"].tolist() for some in names.values()],
            "customdata": [[[*human[word], int(group[word])] for word in some] for some in names.values()],
        }
        layout = {
            "xaxis.title.text": axis_label(1, explained[each]),
            "yaxis.title.text": axis_label(2, explained[each]),
        }
        steps.append({"method": "update", "label": str(each), "args": [data, layout]})
    data, layout = steps[layers.index(layer)]["args"]

    figure = go.Figure(layout={"template": "simple_white"})
    for index, (name, some) in enumerate(names.items()):
        figure.add_scatter(
            **{key: values[index] for key, values in data.items()},
            text=[_text(word) for word in some],
            mode="markers",
            name=name,
            marker=markers[name],
            hovertemplate="<b>%{text}</b><br>valence %{customdata[0]}<br>arousal %{customdata[1]}"
            "<br>group %{customdata[2]}<extra></extra>",
        )
    axis = {"zeroline": True, "zerolinecolor": FAINT}
    figure.update_layout(
        xaxis={"title": {"text": layout["xaxis.title.text"]}, **axis},
        # Both axes have the residual stream's unit, so they share a scale.
        yaxis={"title": {"text": layout["yaxis.title.text"]}, "scaleanchor": "x", "scaleratio": 1, **axis},
        sliders=[
            {"active": layers.index(layer), "currentvalue": {"prefix": "layer "}, "steps": steps, "pad": {"t": 50}}
        ],
        showlegend=False,
        margin={"l": 60, "r": 20, "t": 30, "b": 20},
        hovermode="closest",
    )
    return figure


def _text(name: str) -> str:
    """`name` as text for Plotly, which reads some HTML tags."""
    return html.escape(name, quote=False)


def similarity_map(pairs: pd.DataFrame, tree: Tree) -> go.Figure:
    """The cosine of every two emotions, named on pointing, in the order of `tree`; `pairs` as for `tree.similarity`."""
    leaves = tree.leaves
    words = [_text(tree.words[leaf]) for leaf in leaves]
    cosines = cosine_matrix(pairs, tree.words)[np.ix_(leaves, leaves)]
    np.fill_diagonal(cosines, np.nan)
    limit = float(np.nanmax(np.abs(cosines)))
    figure = go.Figure(layout={"template": "simple_white"})
    figure.add_heatmap(
        x=words,
        y=words,
        z=[[None if np.isnan(value) else round(float(value), 3) for value in row] for row in cosines],
        colorscale=COSINES,
        zmin=-limit,
        zmax=limit,
        colorbar={"title": {"text": "cosine", "side": "top"}, "orientation": "h", "thickness": 12, "y": 1.02,
                  "yanchor": "bottom"},
        hovertemplate="<b>%{y}</b> and <b>%{x}</b><br>cosine %{z}<extra></extra>",
    )  # fmt: skip
    figure.update_layout(
        xaxis={"showticklabels": len(words) <= _NAMED, "ticks": "", "constrain": "domain"},
        yaxis={"showticklabels": len(words) <= _NAMED, "ticks": "", "scaleanchor": "x", "autorange": "reversed"},
        margin={"l": 60, "r": 20, "t": 30, "b": 40},
    )
    return figure


def profile_by_layer(profile: pd.DataFrame, counts: dict[str, int], layer: int) -> go.Figure:
    """Held-out r of valence and arousal by layer for every norm, with intervals; arguments as for `layer_profile`."""
    figure = go.Figure(layout={"template": "simple_white"})
    rows = profile[profile["measure"] == "ridge"].sort_values("layer")
    for index, (norm, n) in enumerate(counts.items()):
        for dimension, colour in (("valence", VALENCE), ("arousal", AROUSAL)):
            here = rows[(rows["norm"] == norm) & (rows["dimension"] == dimension)]
            if here.empty:
                continue
            name = _text(f"{dimension}, {norm} (n = {n})")
            layers = here["layer"].tolist()
            figure.add_scatter(
                x=layers + layers[::-1],
                y=_rounded([*here["low"], *here["high"].iloc[::-1]]),
                fill="toself",
                fillcolor=colour,
                opacity=0.15,
                mode="none",
                legendgroup=name,
                showlegend=False,
                hoverinfo="skip",
            )
            figure.add_scatter(
                x=layers,
                y=_rounded(here["value"]),
                mode="lines+markers",
                line={"color": colour, "dash": _DASHES[index % len(_DASHES)]},
                marker={"size": 6},
                name=name,
                legendgroup=name,
                text=[
                    f"95 % interval {interval([low, high])}, {p_equation(p)}"
                    for low, high, p in zip(here["low"], here["high"], here["p"], strict=True)
                ],
                hovertemplate=f"<b>{name}</b><br>layer %{{x}}: r = %{{y:.2f}}<br>%{{text}}<extra></extra>",
            )
    figure.add_vline(x=layer, line={"color": MUTED, "dash": "dot", "width": 1})
    figure.update_layout(
        xaxis={"title": {"text": "layer"}},
        yaxis={"title": {"text": "held-out r"}},
        legend=_LEGEND,
        margin={"l": 60, "r": 20, "t": 30, "b": 50},
        hovermode="closest",
    )
    return figure


def effects_by_strength(effects: pd.DataFrame, verdict: dict[str, Any]) -> go.Figure:
    """The effect of every vector on its own outcome by strength, over the range of what control directions do.

    `effects` is effects.parquet, `verdict` verdict.json.
    """
    figure = go.Figure(layout={"template": "simple_white"})
    outcomes = {vector: entry["outcome"] for vector, entry in verdict["vectors"].items()}
    null = effects[effects["family"].isin(NULL_FAMILIES) & effects["outcome"].isin(outcomes.values())]
    span = null.groupby("strength")["effect"].agg(["min", "max"]).dropna()
    if len(span):
        strengths = [0.0, *span.index]
        figure.add_scatter(
            x=strengths + strengths[::-1],
            y=_rounded([0.0, *span["min"], *span["max"].iloc[::-1], 0.0]),
            fill="toself",
            fillcolor=FAINT,
            opacity=0.5,
            mode="none",
            name="control directions, range",
            hoverinfo="skip",
        )
    for index, (vector, entry) in enumerate(verdict["vectors"].items()):
        own = effects[
            (effects["family"] == "emotion")
            & (effects["direction"] == vector)
            & (effects["outcome"] == outcomes[vector])
            & np.isfinite(effects["effect"])
        ].sort_values("strength")
        name = _text(f"{VERDICT_MARKS[entry['verdict']]} {vector}")
        figure.add_scatter(
            x=own["strength"].tolist(),
            y=_rounded(own["effect"]),
            error_y={
                "type": "data",
                "symmetric": False,
                "array": _rounded(own["high"] - own["effect"]),
                "arrayminus": _rounded(own["effect"] - own["low"]),
                "thickness": 1,
            },
            mode="lines+markers",
            line={"color": GROUPS[index % len(GROUPS)]},
            name=name,
            text=[
                f"95 % interval {interval([low, high])}, {n} prompts"
                for low, high, n in zip(own["low"], own["high"], own["n_prompts"], strict=True)
            ],
            hovertemplate=f"<b>{name}</b>: {_text(entry['verdict'])}<br>strength %{{x}}: %{{y:.3f}}<br>%{{text}}"
            "<extra></extra>",
        )
    figure.update_layout(
        xaxis={"title": {"text": "strength"}, "zeroline": True, "zerolinecolor": FAINT},
        yaxis={"title": {"text": f"change ({_text(verdict['unit'])})"}, "zeroline": True, "zerolinecolor": FAINT},
        legend=_LEGEND,
        margin={"l": 60, "r": 20, "t": 30, "b": 50},
        hovermode="closest",
    )
    return figure


def _rounded(values: Sequence[float]) -> list[float | None]:
    return [round(float(value), 4) if np.isfinite(value) else None for value in values]


def write_interactive(
    scores: str | Path,
    geometry: str | Path,
    correlations: str | Path,
    profile: str | Path,
    similarity: str | Path,
    clusters: str | Path,
    labels_table: str | Path,
    verdicts: Sequence[str | Path],
    effects: Sequence[str | Path],
    output: str | Path,
    title: str,
    layer: int | str,
    norm: dict[str, Any],
    norm_name: str,
) -> None:
    """Write the page of all interactive figures of a run to `output`.

    The files, `layer`, `norm` and `norm_name` are those of `draw_figures`; `verdicts` and `effects` are verdict.json
    and effects.parquet of the trials that have them. Raises UserError where the norm cannot be read.
    """
    layer = headline_layer(layer)
    by_layer = read_table(scores)
    explained = {int(number): found["explained_variance"] for number, found in read_json(geometry)["layers"].items()}
    ratings = read_norm(norm["file"], norm)
    related = read_json(correlations)
    counts = {name: found["n"] for name, found in related["layers"][str(layer)].items()}
    measures = read_table(profile)
    pairs = read_table(similarity, filters=[("layer", "==", layer)])
    groups = read_table(labels_table)
    cut = groups[groups["layer"] == layer]
    linkage = np.array(read_json(clusters)["layers"][str(layer)]["linkage"])
    tree = Tree(linkage, tuple(cut["emotion"]), cut["hierarchical"].to_numpy())
    here = by_layer[by_layer["layer"] == layer]
    drawn = [
        (
            FIGURES["pc_scatter"].title,
            "Point at or touch an emotion to read its numbers; move the slider to see another layer.",
            captions.of_pc_scatter(here, explained[layer], ratings, layer, norm_name),
            pc_scatter_by_layer(by_layer, explained, groups, ratings, layer, norm_name),
        ),
        (
            FIGURES["similarity"].title,
            "Point at a cell to read which two emotions it compares; draw a rectangle to enlarge it, double-click to "
            "return.",
            f"{len(pairs):,} pairs of {len(cut)} emotions at layer {layer}.",
            similarity_map(pairs, tree),
        ),
        (
            FIGURES["layer_profile"].title,
            "Point at a mark to read r, its interval and p; touch a name to hide its line. Dotted upright: the "
            "headline layer.",
            captions.of_layer_profile(measures, counts, related["min_words"], layer),
            profile_by_layer(measures, counts, layer),
        ),
    ]
    for verdict, table in zip(map(read_json, verdicts), map(read_table, effects), strict=True):
        drawn.append(
            (
                f"Effect by strength of steering: {verdict['trial']}",
                "Point at a mark to read the effect, its interval and prompts; touch a name to hide its line. Grey: "
                "the range of random and shuffled directions. Effects are over all prompts; those that verdicts rest "
                "on are in words.",
                captions.of_dose_response(table, verdict),
                effects_by_strength(table, verdict),
            )
        )
    sections = [
        {
            "title": heading,
            "hint": hint,
            "numbers": numbers,
            "figure": plotly.io.to_html(
                figure,
                include_plotlyjs=index == 0,
                include_mathjax=False,
                full_html=False,
                div_id=f"figure-{index}",
                config=_SETTINGS,
            ),
        }
        for index, (heading, hint, numbers, figure) in enumerate(drawn)
    ]
    text = environment().get_template("interactive.html.j2").render(title=title, sections=sections)
    with replacing(output) as temporary:
        temporary.write_text(text, encoding="utf-8")
