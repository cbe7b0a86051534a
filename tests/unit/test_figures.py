"""Figures: what they show follows the tables, nothing collides, small runs draw too, and the bytes are reproducible."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex, to_rgb
from scipy.cluster.hierarchy import fcluster

from affectome.analyses.clusters import clusters
from affectome.analyses.geometry import geometry
from affectome.analyses.layer_profile import layer_profile as write_profile
from affectome.analyses.norm_correlations import norm_correlations
from affectome.analyses.norms import read_norm
from affectome.analyses.similarity import similarity as write_similarity
from affectome.figures import FIGURES, tree
from affectome.figures.captions import description, of_spectrum, read_caption
from affectome.figures.circumplex import circumplex, procrustes
from affectome.figures.draw import draw_figures
from affectome.figures.interactive import (
    effects_by_strength,
    pc_scatter_by_layer,
    profile_by_layer,
    similarity_map,
    write_interactive,
)
from affectome.figures.labels import worth_labelling
from affectome.figures.layers import layer_profile, spectrum
from affectome.figures.scatter import pc_scatter
from affectome.figures.style import GROUPS, house_style, rating_scale
from affectome.figures.wording import interval, number, p_equation, p_value
from affectome.vectors.store import Vectors, write_vectors

ROOT = Path(__file__).resolve().parents[2]
EMOTIONS = (ROOT / "resources/emotions/171.txt").read_text(encoding="utf-8").split("\n")[:171]
RUSSELL = {
    "file": str(ROOT / "resources/norms/russell_mehrabian_1977.csv"),
    "word": "emotion",
    "valence": "P_mean",
    "arousal": "A_mean",
    "dominance": "D_mean",
}
SIX = ["happy", "angry", "bored", "relaxed", "<script>alert(1)</script>", "$x$ & co"]


def make_tables(folder: Path, emotions: list[str], layers: int, norm: dict, seed: int = 0) -> SimpleNamespace:
    """The tables of a run whose vectors hold the norm's valence and arousal in two directions, noise in the others."""
    rng = np.random.default_rng(seed)
    ratings = read_norm(norm["file"], norm).reindex(emotions)[["valence", "arousal"]]
    paths = []
    for layer in range(layers):
        noise = rng.normal(size=(len(emotions), 24)) / 8
        planted = ratings.fillna(pd.DataFrame(rng.uniform(-0.7, 0.7, ratings.shape), ratings.index, ratings.columns))
        noise[:, :2] += planted.to_numpy()
        denoised = noise - noise.mean(axis=0)
        unit = denoised / np.linalg.norm(denoised, axis=1, keepdims=True)
        reliability = rng.uniform(0.4, 0.9, len(emotions))
        counts = np.full(len(emotions), 6)
        vectors = Vectors(
            layer, tuple(emotions), denoised, denoised, unit, np.zeros((0, 24)), counts, reliability, 10.0, "0" * 16
        )
        paths.append(folder / f"layer_{layer}.h5")
        write_vectors(paths[-1], vectors)
    files = {
        name: folder / name
        for name in (
            "geometry.parquet", "geometry.json", "norm_correlations.json", "layer_profile.parquet",
            "similarity.parquet", "clusters.json", "clusters.parquet",
        )
    }  # fmt: skip
    scores, explained, related, profile, cosines, linkage, labels = files.values()
    geometry(paths, norm, "ratings", 5, scores, explained)
    norm_correlations(paths, scores, {"ratings": norm}, 40, 19, 0, related)
    write_profile(paths, explained, related, profile)
    write_similarity(paths, 3, cosines, folder / "similarity.json")
    clusters(paths, 10, 4, 0, labels, linkage)
    return SimpleNamespace(inputs=list(files.values()), norm=norm, layers=layers)


def draw(tables: SimpleNamespace, folder: Path) -> Path:
    folder.mkdir()
    last = tables.layers - 1
    draw_figures(*tables.inputs, folder, layer=last, norm=tables.norm, norm_name="ratings", labels=60, dpi=60)
    return folder


def small_norm(file: Path, words: list[str]) -> dict:
    rows = "".join(f"{word},{0.5 - index},{index % 2}\n" for index, word in enumerate(words))
    file.write_text("word,v,a\n" + (rows or "elsewhere,0.1,0.2\n"), encoding="utf-8")
    return {"file": str(file), "word": "word", "valence": "v", "arousal": "a", "dominance": None}


@pytest.fixture(autouse=True)
def _house_style():
    with house_style():
        yield


@pytest.fixture(scope="module")
def full(tmp_path_factory) -> SimpleNamespace:
    """Tables of the real size: 171 emotions, of which Russell and Mehrabian rate 45, at two layers."""
    return make_tables(tmp_path_factory.mktemp("full"), EMOTIONS, 2, RUSSELL)


@pytest.fixture(scope="module")
def drawn(full, tmp_path_factory) -> Path:
    return draw(full, tmp_path_factory.mktemp("drawn") / "figures")


@pytest.fixture(scope="module")
def scores(full) -> pd.DataFrame:
    table = pd.read_parquet(full.inputs[0])
    return table[table["layer"] == 1]


@pytest.fixture(scope="module")
def hierarchy(full) -> tree.Tree:
    labels = pd.read_parquet(full.inputs[6]).query("layer == 1")
    linkage = np.array(json.loads(full.inputs[5].read_text())["layers"]["1"]["linkage"])
    return tree.Tree(linkage, tuple(labels["emotion"]), labels["hierarchical"].to_numpy())


@pytest.fixture(scope="module")
def related(full) -> dict:
    return json.loads(full.inputs[2].read_text())["layers"]["1"]["ratings"]


def boxes(figure, words: list[str]) -> list:
    """Bounding boxes (pixels) of the texts that are one of `words`, after drawing."""
    figure.canvas.draw()
    return [text.get_window_extent().extents for ax in figure.axes for text in ax.texts if text.get_text() in words]


def overlaps(found: list) -> int:
    found = np.array(found)
    # Half a pixel: neighbours that touch do not collide.
    apart = (found[:, None, :2] >= found[None, :, 2:] - 0.5).any(axis=2)
    collide = ~(apart | apart.T)
    return int(np.triu(collide, k=1).sum())


def everything_said(figure) -> str:
    own = [text.get_text() for text in figure.texts]
    for ax in figure.axes:
        own += [text.get_text() for text in ax.texts]
        own += [ax.get_title(loc="left"), ax.get_xlabel(), ax.get_ylabel()]
    return "\n".join(own)


# ---------------------------------------------------------------- wording


def test_numbers_read_as_people_write_them():
    assert number(-0.614) == "−0.61"
    assert number(-0.001) == "0.00"
    assert number(None) == number(float("nan")) == "–"
    assert p_value(0.0391) == "0.039"
    assert p_value(0.0001) == "<\u00a00.001"
    assert p_equation(1 / 1001) == "p\u00a0=\u00a00.001"
    assert p_equation(0.0001) == "p\u00a0<\u00a00.001"
    assert interval([-0.1, 0.5]) == "−0.10 to 0.50"
    assert interval([None, 0.5]) == interval(None) == "–"


# ---------------------------------------------------------------- PC1 and PC2


def test_colours_follow_valence(scores):
    ratings = read_norm(RUSSELL["file"], RUSSELL)
    figure = pc_scatter(scores, [0.4, 0.2, 0.1], ratings, 1, "ratings", 10)
    figure.canvas.draw()
    grey, coloured = figure.axes[0].collections
    assert len(grey.get_offsets()) == 171 - 45
    words = [word for word in scores["emotion"] if word in ratings.index]
    valence = ratings.loc[words, "valence"].to_numpy()
    assert coloured.get_array().tolist() == valence.tolist()
    pleasant, unpleasant = coloured.get_facecolors()[[valence.argmax(), valence.argmin()]]
    assert pleasant[2] > pleasant[0]
    assert unpleasant[0] > unpleasant[2]
    assert figure.axes[0].get_xlabel() == "PC1 (40.0 % of variance)"
    assert "human valence (ratings)" in everything_said(figure)


def test_rating_scale_is_centred():
    signed = rating_scale(pd.Series([-0.2, 0.8]))
    assert (signed.vmin, signed.vmax) == (-0.8, 0.8)
    positive = rating_scale(pd.Series([2.0, 8.0]))
    assert (positive.vmin, positive.vmax) == (2.0, 8.0)
    assert rating_scale(pd.Series([], dtype=float)).vmin < rating_scale(pd.Series([], dtype=float)).vmax


def test_labels_are_there_and_do_not_collide(scores):
    ratings = read_norm(RUSSELL["file"], RUSSELL)
    figure = pc_scatter(scores, [0.4, 0.2], ratings, 1, "ratings", 60)
    labels = [text.get_text() for text in figure.axes[0].texts]
    assert len(labels) == 60
    assert set(ratings.index) <= set(labels)
    found = boxes(figure, labels)
    assert overlaps(found) == 0
    frame = figure.axes[0].get_window_extent().extents
    assert all((box[:2] >= frame[:2]).all() and (box[2:] <= frame[2:]).all() for box in np.array(found))


def test_rated_words_are_labelled_first_then_the_outermost():
    words, rated, distances = ["a", "b", "c", "d"], [False, True, False, False], np.array([3.0, 1.0, 5.0, 3.0])
    assert worth_labelling(words, rated, distances, 3) == [1, 2, 0]
    assert worth_labelling(words, rated, distances, 0) == []


def test_crowded_words_are_left_out_rather_than_laid_on_each_other():
    rng = np.random.default_rng(0)
    words = [f"rather long emotion {index}" for index in range(250)]
    crowd = pd.DataFrame({"emotion": words, "PC1": rng.normal(size=250), "PC2": rng.normal(size=250)})
    figure = pc_scatter(crowd, [0.4, 0.2], read_norm(RUSSELL["file"], RUSSELL), 1, "ratings", 250)
    found = boxes(figure, words)
    assert 50 < len(found) < 250
    assert overlaps(found) == 0


# ---------------------------------------------------------------- circumplex


def test_procrustes_recovers_a_planted_rotation_and_reflection():
    rng = np.random.default_rng(1)
    points = rng.normal(size=(12, 2))
    for reflection in (1, -1):
        turn = np.array([[np.cos(1.1), -np.sin(1.1)], [np.sin(1.1), np.cos(1.1)]]) @ np.diag([1, reflection])
        targets = 0.3 * points @ turn + [0.2, -0.7]
        moved, explained = procrustes(points, targets)
        np.testing.assert_allclose(moved, targets, atol=1e-12)
        assert explained == pytest.approx(1)


def test_procrustes_does_not_stretch_and_explains_what_it_says():
    rng = np.random.default_rng(2)
    points, targets = rng.normal(size=(9, 2)), rng.normal(size=(9, 2))
    moved, explained = procrustes(points, targets)
    before = np.linalg.norm(points[:, None] - points[None], axis=2)
    after = np.linalg.norm(moved[:, None] - moved[None], axis=2)
    ratios = after[before > 0] / before[before > 0]
    np.testing.assert_allclose(ratios, ratios[0])
    residual = ((targets - moved) ** 2).sum() / ((targets - targets.mean(axis=0)) ** 2).sum()
    assert explained == pytest.approx(1 - residual)


def test_procrustes_of_one_place_explains_nothing():
    moved, explained = procrustes(np.ones((4, 2)), np.arange(8.0).reshape(4, 2))
    assert explained == 0
    np.testing.assert_allclose(moved, [[3, 4]] * 4)


def test_circumplex_joins_people_and_model(scores, related):
    ratings = read_norm(RUSSELL["file"], RUSSELL)
    figure = circumplex(scores, ratings, related, 5, 1, "ratings")
    ax = figure.axes[0]
    people, lines, model = ax.collections
    assert len(people.get_offsets()) == len(model.get_offsets()) == len(lines.get_segments()) == 45
    for number_, segment in enumerate(lines.get_segments()):
        np.testing.assert_allclose(segment, [people.get_offsets()[number_], model.get_offsets()[number_]])
    said = everything_said(figure)
    for dimension in ("valence", "arousal"):
        assert f"{dimension} R = {related[dimension]['plane']['r']:.2f}" in said
    assert "orthogonal Procrustes" in said.replace("\n", " ")
    assert overlaps(boxes(figure, EMOTIONS)) == 0


def test_circumplex_says_what_is_missing(scores):
    ratings = read_norm(RUSSELL["file"], RUSSELL)
    few = scores[scores["emotion"].isin(["happy", "angry", "afraid"])]
    said = everything_said(circumplex(few, ratings, {"n": 2}, 5, 1, "ratings"))
    assert "Fewer than 5 rated words" in said
    assert "Fewer than 3 rated words" in said
    empty = {"r": None, "p": None}
    said = everything_said(circumplex(scores, ratings, {"n": 45, "valence": {"plane": empty}}, 5, 1, "ratings"))
    assert "valence R = –" in said


# ---------------------------------------------------------------- layers


def test_layer_profile_shows_every_norm_and_marks_the_layer():
    rows = [
        {"layer": layer, "measure": measure, "norm": "rich", "dimension": dimension, "value": value, "low": value - 0.1,
         "high": value + 0.1, "p": 0.5 if layer == 0 else 0.01}
        for layer in (0, 3, 7)
        for dimension, value in (("valence", 0.6), ("arousal", 0.4), ("dominance", 0.2))
        for measure in ("ridge", "plane", "best")
    ]  # fmt: skip
    rows += [
        {"layer": layer, "measure": measure, "value": value}
        for layer in (0, 3, 7)
        for measure, value in (("reliability", np.nan), ("neutral_components", 4.0), ("explained_variance_1", 0.3),
                               ("explained_variance_2", 0.1))
    ]  # fmt: skip
    columns = ["layer", "measure", "norm", "dimension", "value", "low", "high", "p"]
    figure = layer_profile(pd.DataFrame(rows, columns=columns), {"rich": 40, "poor": 3}, 5, 3)
    rich, poor = figure.axes[:2]
    assert rich.get_title(loc="left") == "rich: 40 rated words"
    assert "fewer than 5 rated words" in [text.get_text() for text in poor.texts]
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["valence, held-out r", "valence, plane R", "arousal, held-out r", "arousal, plane R"]
    hollow = [
        [to_hex(face) == "#ffffff" for face in found.get_facecolors()]
        for found in rich.collections
        if len(found.get_offsets()) == 3
    ]
    assert hollow == [[True, False, False]] * 4
    for ax in figure.axes:
        assert any(list(line.get_xdata()) == [3, 3] for line in ax.lines)
        assert ax.get_xlabel() == "layer"


def test_spectrum_adds_up():
    shares = {0: [0.5, 0.3, 0.2], 4: [0.4, 0.35, 0.15, 0.1]}
    figure = spectrum(shares, 4)
    bars, strip, total = figure.axes[0], figure.axes[2], figure.axes[1]
    assert [bar.get_height() for bar in bars.patches] == pytest.approx([40, 35, 15, 10])
    assert total.lines[0].get_ydata()[-1] == pytest.approx(100)
    # Layers with fewer components than others are compared on those that all have.
    assert strip.collections[0].get_array().shape == (3, 2)
    assert [label.get_text() for label in strip.get_xticklabels()] == ["0", "4"]


# ---------------------------------------------------------------- similarity and tree


def test_cosines_stand_where_their_names_are(full, hierarchy):
    pairs = pd.read_parquet(full.inputs[4]).query("layer == 1")
    figure = tree.similarity(pairs, hierarchy, 1)
    cells = figure.axes[0].collections[0].get_array()
    order = [hierarchy.words[leaf] for leaf in hierarchy.leaves]
    one = pairs.iloc[1234]
    row, column = order.index(one["a"]), order.index(one["b"])
    assert cells[row, column] == cells[column, row] == pytest.approx(one["cosine"])
    assert np.ma.getmaskarray(cells).diagonal().all()
    low, high = figure.axes[0].collections[0].get_clim()
    assert low == -high
    assert figure.axes[0].collections[0].get_rasterized()


@pytest.mark.parametrize("kind", ["similarity", "dendrogram"])
def test_all_names_are_legible(kind, full, hierarchy):
    pairs = pd.read_parquet(full.inputs[4]).query("layer == 1")
    figure = tree.similarity(pairs, hierarchy, 1) if kind == "similarity" else tree.dendrogram(hierarchy, 1)
    names = [text for text in figure.axes[0].texts if text.get_text() in EMOTIONS]
    assert len(names) == (2 * 171 if kind == "similarity" else 171)
    assert all(text.get_fontsize() >= 6.5 for text in names)
    found = boxes(figure, EMOTIONS)
    assert overlaps(found) == 0
    width, height = figure.canvas.get_width_height()
    assert np.min(found) >= 0
    assert np.max(np.array(found)[:, 2]) <= width
    assert np.max(np.array(found)[:, 3]) <= height


def test_the_cut_separates_the_groups(hierarchy):
    found = fcluster(hierarchy.linkage, hierarchy.cut, "distance")
    pairs = {(mine, theirs) for mine, theirs in zip(hierarchy.groups, found, strict=True)}
    assert len(pairs) == len(set(found)) == len(set(hierarchy.groups)) == 10
    assert hierarchy.node_groups[-1] is None


def test_leaves_have_the_colour_of_their_group(hierarchy):
    figure = tree.dendrogram(hierarchy, 1)
    colours = {text.get_text(): to_hex(text.get_color()) for text in figure.axes[0].texts}
    by_group = {}
    for word, group in zip(hierarchy.words, hierarchy.groups, strict=True):
        by_group.setdefault(group, set()).add(colours[word])
    assert all(len(some) == 1 for some in by_group.values())
    assert len({min(some) for some in by_group.values()}) == 10


def test_group_colours_are_dark_enough_to_read():
    for colour in GROUPS:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
        luminance = np.dot(linear, [0.2126, 0.7152, 0.0722])
        assert 1.05 / (luminance + 0.05) >= 4.5, colour


# ---------------------------------------------------------------- files


def test_every_figure_is_written_and_text_stays_text(drawn):
    names = sorted(path.name for path in drawn.iterdir())
    assert names == sorted(f"{name}.{form}" for name in FIGURES for form in ("svg", "png", "txt"))
    for name in ("pc_scatter", "circumplex", "similarity", "dendrogram"):
        text = (drawn / f"{name}.svg").read_text(encoding="utf-8")
        assert re.search(r"<text[^>]*>happy</text>", text)
        assert "<dc:date>" not in text


def test_the_same_tables_give_the_same_bytes(full, drawn, tmp_path):
    matplotlib.rcParams["font.size"] = 31
    again = draw(full, tmp_path / "again")
    for path in drawn.iterdir():
        assert path.read_bytes() == (again / path.name).read_bytes(), path.name


@pytest.mark.parametrize("rated", range(5))
def test_small_runs_draw_too(rated, tmp_path):
    norm = small_norm(tmp_path / "norm.csv", SIX[:rated])
    folder = draw(make_tables(tmp_path, SIX, 1, norm), tmp_path / "figures")
    text = (folder / "layer_profile.svg").read_text(encoding="utf-8")
    assert "fewer than 5 rated words" in text
    assert re.search(r"<text[^>]*>\$x\$ &amp; co</text>", (folder / "pc_scatter.svg").read_text(encoding="utf-8"))
    assert all((folder / f"{name}.png").stat().st_size > 1000 for name in FIGURES)


def test_three_emotions_draw(tmp_path):
    draw(make_tables(tmp_path, SIX[:3], 2, small_norm(tmp_path / "norm.csv", SIX[:2])), tmp_path / "figures")


# ---------------------------------------------------------------- interactive


def explore(tables: SimpleNamespace, output: Path, title: str = "A run", name: str = "ratings") -> str:
    layer = tables.layers - 1
    write_interactive(*tables.inputs, [], [], output, title=title, layer=layer, norm=tables.norm, norm_name=name)
    return output.read_text(encoding="utf-8")


def test_interactive_page_works_without_a_network(full, tmp_path):
    text = explore(full, tmp_path / "interactive.html")
    assert text.count("* plotly.js v") == 1
    assert not re.search(r"<(script|link|img|iframe)[^>]*(src|href)=", re.sub(r"(?s)>.*?</script>", ">", text))
    settings = text[text.index("Plotly.newPlot(") :]
    assert settings.count("Plotly.newPlot(") == 3
    assert not re.search(r"https?://", settings)
    assert settings.count('"showSendToCloud": false') == 3


def test_interactive_page_has_every_layer_and_no_markup_from_names(tmp_path):
    norm = small_norm(tmp_path / "norm.csv", SIX[:3])
    tables = make_tables(tmp_path, SIX, 3, norm)
    scores = pd.read_parquet(tables.inputs[0])
    explained = {
        int(layer): found["explained_variance"]
        for layer, found in json.loads(tables.inputs[1].read_text())["layers"].items()
    }
    labels = pd.read_parquet(tables.inputs[6])
    figure = pc_scatter_by_layer(scores, explained, labels, read_norm(norm["file"], norm), 1, "<b>norm")
    (slider,) = figure.layout.sliders
    assert [step.label for step in slider.steps] == ["0", "1", "2"]
    assert slider.active == 1
    unrated, rated = figure.data
    assert rated.text == tuple(SIX[:3])
    assert unrated.text[1] == "&lt;script&gt;alert(1)&lt;/script&gt;"
    assert rated.customdata[0][0] == "0.50"
    text = explore(tables, tmp_path / "interactive.html", "<i>run", "<b>norm")
    assert "<script>alert" not in text
    assert "<b>norm" not in text
    assert "<i>run" not in text


def test_interactive_cosines_name_their_pairs(full, hierarchy):
    pairs = pd.read_parquet(full.inputs[4]).query("layer == 1")
    (heat,) = similarity_map(pairs, hierarchy).data
    table = pd.DataFrame(heat.z, heat.y, heat.x)
    for _, row in pairs.iloc[::997].iterrows():
        assert table.loc[row["a"], row["b"]] == table.loc[row["b"], row["a"]] == pytest.approx(row["cosine"], abs=5e-4)
    assert all(table.loc[word, word] is None or np.isnan(table.loc[word, word]) for word in EMOTIONS[:5])
    assert heat.zmin == -heat.zmax


def test_interactive_profile_says_r_interval_and_n(full):
    profile = pd.read_parquet(full.inputs[3])
    figure = profile_by_layer(profile, {"ratings": 45, "other": 3}, 1)
    lines = [trace for trace in figure.data if trace.mode == "lines+markers"]
    assert [line.name for line in lines] == ["valence, ratings (n = 45)", "arousal, ratings (n = 45)"]
    row = profile.query("measure == 'ridge' and dimension == 'valence' and layer == 1").iloc[0]
    assert lines[0].y[1] == pytest.approx(row["value"], abs=5e-5)
    assert lines[0].text[1].startswith(f"95 % interval {interval([row['low'], row['high']])}, p")


def test_interactive_effects_are_each_vectors_own():
    rows = [
        ("emotion", "a", "x:a", 0.1, 1.5, 1.0, 2.0), ("emotion", "a", "x:b", 0.1, 9.0, 8.0, 9.5),
        ("emotion", "b", "x:b", 0.1, -0.5, -1.0, 0.25), ("random", "r0", "x:a", 0.1, -0.75, -1.0, 1.0),
        ("random", "r1", "x:b", 0.1, 0.25, -1.0, 1.0), ("topic", "t", "x:a", 0.1, 5.0, 4.0, 6.0),
    ]  # fmt: skip
    effects = pd.DataFrame(rows, columns=["family", "direction", "outcome", "strength", "effect", "low", "high"])
    vectors = {name: {"outcome": f"x:{name}", "verdict": "inconclusive"} for name in ("a", "b")}
    band, a, b = effects_by_strength(effects.assign(n_prompts=7), {"vectors": vectors, "unit": "nats"}).data
    assert (min(band.y), max(band.y)) == (-0.75, 0.25)
    assert (a.y, b.y) == ((1.5,), (-0.5,))
    assert (a.error_y.arrayminus, b.error_y.array) == ((0.5,), (0.75,))
    assert a.text == ("95 % interval 1.00 to 2.00, 7 prompts",)


# ---------------------------------------------------------------- captions


def test_captions_stand_beside_the_figures_and_say_this_runs_numbers(drawn, full):
    said = {name: read_caption(drawn, name) for name in FIGURES}
    assert {path.stem for path in drawn.glob("*.txt")} == set(FIGURES)
    assert all(lines[0] == description(name) and len(lines) == 2 for name, lines in said.items())
    related = json.loads(full.inputs[2].read_text())["layers"]["1"]["ratings"]
    plane = related["valence"]["plane"]
    assert (
        f"45 words rated by ratings, layer 1: valence R = {number(plane['r'])} ({p_equation(plane['p'])})"
        in said["circumplex"][1]
    )
    ridge = related["arousal"]["ridge"]
    assert f"arousal r = {number(ridge['r'])}, 95 % interval {interval(ridge['ci'])}" in said["layer_profile"][1]
    assert "171 emotions at layer 1, 45 of them rated" in said["pc_scatter"][1]
    pairs = pd.read_parquet(full.inputs[4]).query("layer == 1")
    top = pairs.loc[pairs["cosine"].idxmax()]
    assert "14,535 pairs, from " in said["similarity"][1]
    assert f"to {top['a']} and {top['b']} ({number(top['cosine'])})" in said["similarity"][1]
    assert "171 emotions in 10 groups" in said["dendrogram"][1]


def test_half_of_the_variance_is_counted_in_components():
    assert "the first five 85.0 %, and 2 of 6 are needed for half" in of_spectrum(
        {3: [0.3, 0.25, 0.1, 0.1, 0.1, 0.15]}, 3
    )
    assert "and 1 of 2 are needed" in of_spectrum({3: [0.5, 0.5]}, 3)
