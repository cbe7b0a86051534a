"""All emotions on PC1 and PC2, layer by layer, to be explored with the mouse."""

import html

import pandas as pd
import plotly.graph_objects as go
import plotly.io

from affectome.figures.scatter import axis_label
from affectome.figures.style import FAINT, INK, RATINGS, UNRATED, rating_scale
from affectome.figures.wording import number

_ELEMENT = "pc_scatter"
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ height: 100vh; margin: 0; display: flex; flex-direction: column; background: #fff; color: #1a1a1a;
  font-family: "Open Sans", Verdana, Arial, sans-serif; }}
header {{ margin: 0.8rem 1rem 0; }}
h1 {{ margin: 0 0 0.3rem; font-size: 1.15rem; }}
p {{ margin: 0; font-size: 0.9rem; color: #595959; }}
main {{ flex: 1; min-height: 460px; }}
</style>
</head>
<body>
<header>
<h1>{title}</h1>
<p>Point at or touch an emotion to read its numbers; move the slider to see another layer.</p>
</header>
<main>
{figure}
</main>
</body>
</html>
"""


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


def page(figure: go.Figure) -> str:
    """A whole HTML page with `figure` and all it needs to work without a network."""
    drawing = plotly.io.to_html(
        figure,
        include_plotlyjs=True,
        include_mathjax=False,
        full_html=False,
        div_id=_ELEMENT,
        # Plotly's share button would upload the data to its maker.
        config={"displaylogo": False, "responsive": True, "showSendToCloud": False, "plotlyServerURL": ""},
    )
    title = f"{sum(len(trace.x) for trace in figure.data)} emotion vectors on their first two principal components"
    return _PAGE.format(title=title, figure=drawing)
