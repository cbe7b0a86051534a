"""Vectors made elsewhere are read in every common layout, or refused in words, and asked what can be asked of them."""

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch

from affectome.analyses.geometry import geometry
from affectome.errors import UserError
from affectome.figures import FIGURES
from affectome.vectors.adopt import adopt, main, read_file
from affectome.vectors.export import export_vectors
from affectome.vectors.store import read_all, read_vectors
from tests.planted import strict_json, vector_file

EMOTIONS = ["alert", "angry", "bored", "calm/quiet", "sad.blue", "happy", "afraid 2", "tired"]
RATED = ["alert", "angry", "bored", "sad", "happy", "tired", "relaxed", "terrified", "joyful"]
LAYERS, WIDTH = 3, 10


@pytest.fixture
def vectors() -> np.ndarray:
    """Vectors (layers, emotions, width)."""
    return np.random.default_rng(0).normal(size=(LAYERS, len(EMOTIONS), WIDTH))


def layouts(vectors: np.ndarray) -> dict[str, dict[str, np.ndarray]]:
    pairs = [(layer, e) for layer in range(LAYERS) for e in range(len(EMOTIONS))]
    # Two digits for layers, and not in order.
    return {
        "stacked": {emotion: vectors[:, e] for e, emotion in enumerate(EMOTIONS)},
        "layer first": {f"layer_{layer}/{EMOTIONS[e]}": vectors[layer, e] for layer, e in pairs[::-1]},
        "layer first, points": {f"layer_{layer}.{EMOTIONS[e]}": vectors[layer, e] for layer, e in pairs},
        "layer last": {f"{EMOTIONS[e]}/{layer}": vectors[layer, e] for layer, e in pairs},
        "layer last, named": {f"{EMOTIONS[e]}.layer_{layer}": vectors[layer, e] for layer, e in pairs},
    }


@pytest.mark.parametrize("layout", ["stacked", "layer first", "layer first, points", "layer last", "layer last, named"])
@pytest.mark.parametrize("form", ["npz", "safetensors"])
def test_layouts_are_recognised(tmp_path: Path, vectors: np.ndarray, layout: str, form: str) -> None:
    arrays = layouts(vectors)[layout]
    file = tmp_path / f"v.{form}"
    if form == "npz":
        np.savez(file, **arrays)
    else:
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, file)
    found = read_file(file)
    assert list(found.layers) == [0, 1, 2]
    assert found.recognised.endswith("8 emotions at 3 layers, width 10")
    for layer, here in found.layers.items():
        order = [here.emotions.index(emotion) for emotion in EMOTIONS]
        np.testing.assert_allclose(here.raw[order], vectors[layer])
        np.testing.assert_array_equal(here.raw, here.denoised)
        np.testing.assert_allclose(np.linalg.norm(here.unit, axis=1), 1)
        assert here.counts.tolist() == [0] * 8
        assert np.isnan(here.reliability).all()
        assert np.isnan(here.residual_norm)
        assert here.emotions == found.layers[0].emotions


def test_vectors_of_one_layer_need_its_number(tmp_path: Path, vectors: np.ndarray) -> None:
    file = tmp_path / "v.npz"
    np.savez(file, **dict(zip(["a", "b", "c"], vectors[0, :3].astype(np.float16), strict=True)))
    with pytest.raises(UserError, match=r"named: --layer N"):
        read_file(file)
    assert list(read_file(file, 17).layers) == [17]


def test_bfloat16_is_read(tmp_path: Path, vectors: np.ndarray) -> None:
    tensors = {name: torch.from_numpy(vectors[:, e]).bfloat16() for e, name in enumerate(EMOTIONS)}
    save_torch(tensors, tmp_path / "v.safetensors")
    here = read_file(tmp_path / "v.safetensors").layers[1]
    assert here.emotions == tuple(sorted(EMOTIONS)) or set(here.emotions) == set(EMOTIONS)
    row = here.raw[here.emotions.index("happy")]
    np.testing.assert_array_equal(row, tensors["happy"][1].double().numpy())


@pytest.fixture(scope="module")
def export(tmp_path_factory) -> SimpleNamespace:
    """A run's vectors and what it exports of them."""
    folder = tmp_path_factory.mktemp("export")
    rng = np.random.default_rng(1)
    files = [
        vector_file(folder / f"layer_{layer}.h5", layer, RATED, rng.normal(size=(len(RATED), 16)), 5.0 + layer)
        for layer in (2, 10)
    ]
    model = {"model": "tiny", "model_type": "llama", "sha256": {}}
    export_vectors(files, folder / "v.safetensors", folder / "v.npz", folder / "gguf", model)
    return SimpleNamespace(folder=folder, files=files)


@pytest.mark.parametrize("form", ["npz", "safetensors"])
def test_exports_come_back(export: SimpleNamespace, form: str) -> None:
    found = read_file(export.folder / f"v.{form}")
    assert found.recognised == "an export of affectome: 9 emotions at 2 layers, width 16"
    for layer, wanted in read_all(export.files).items():
        here = found.layers[layer]
        assert here.emotions == wanted.emotions
        assert here.residual_norm == wanted.residual_norm
        for name in ("raw", "denoised", "unit"):
            np.testing.assert_array_equal(getattr(here, name), getattr(wanted, name))


def few_draws(patch: pytest.MonkeyPatch) -> None:
    """What is drawn by chance, drawn few times, and pictures of few pixels."""
    patch.setattr("affectome.vectors.adopt.Statistics", lambda: SimpleNamespace(bootstrap=20, permutations=19, seed=0))
    patch.setattr("affectome.vectors.adopt.Figures", lambda: SimpleNamespace(labels=20, dpi=50))
    # UMAP compiles itself for a minute.
    patch.setattr("affectome.analyses.emotion_maps.find_spec", lambda _name: None)


@pytest.fixture(scope="module")
def adopted(export: SimpleNamespace, tmp_path_factory) -> SimpleNamespace:
    lines: list[str] = []
    patch = pytest.MonkeyPatch()
    few_draws(patch)
    given = {"title": "Ours", "say": lines.append}
    folder = adopt(export.folder / "v.safetensors", tmp_path_factory.mktemp("adopted") / "a", **given)
    patch.undo()
    return SimpleNamespace(folder=folder, lines=lines)


def test_an_adopted_export_has_the_geometry_of_its_run(
    export: SimpleNamespace, adopted: SimpleNamespace, tmp_path: Path
) -> None:
    norm = {"file": "resources/norms/russell_mehrabian_1977.csv"}
    geometry(export.files, norm, "russell_mehrabian_1977", 5, tmp_path / "g.parquet", tmp_path / "g.json")
    assert (adopted.folder / "analyses/geometry.json").read_bytes() == (tmp_path / "g.json").read_bytes()
    assert (adopted.folder / "analyses/geometry.parquet").read_bytes() == (tmp_path / "g.parquet").read_bytes()


def test_everything_that_needs_no_activations_is_asked(adopted: SimpleNamespace) -> None:
    made = {path.name for path in (adopted.folder / "analyses").iterdir()}
    assert {f"{name}.json" for name in ("geometry", "norm_correlations", "similarity", "clusters")} <= made
    assert {f"{name}.json" for name in ("layer_similarity", "relations", "emotion_maps")} <= made
    assert "layer_profile.parquet" in made
    figures = {path.name for path in (adopted.folder / "figures").iterdir()}
    for name in (*FIGURES, "layer_similarity", "relations", "emotion_maps"):
        assert {f"{name}.svg", f"{name}.png", f"{name}.txt"} <= figures
    found = strict_json(adopted.folder / "adopted.json")
    assert (found["title"], found["layer"], found["layers"], found["n_emotions"]) == ("Ours", 10, [2, 10], 9)
    assert found["residual_norm"] == 15.0
    assert (
        strict_json(adopted.folder / "analyses/norm_correlations.json")["layers"]["10"]["russell_mehrabian_1977"]["n"]
        > 4
    )
    assert adopted.lines[0].endswith("an export of affectome: 9 emotions at 2 layers, width 16")
    assert not any("residual norm" in line for line in adopted.lines)
    assert read_vectors(adopted.folder / "vectors/layer_2.h5").emotions == tuple(RATED)


def test_the_command_reads_foreign_vectors(tmp_path: Path, monkeypatch, capsys) -> None:
    rng = np.random.default_rng(2)
    file = tmp_path / "theirs.npz"
    np.savez(file, **{word: rng.normal(size=12) for word in RATED})
    few_draws(monkeypatch)
    folder = tmp_path / "out"
    assert (
        main([str(file), "--layer", "4", "--output", str(folder), "--norm", "resources/norms/glasgow_norms_2019.csv"])
        == 0
    )
    said = capsys.readouterr().out
    assert "names as {emotion}, an array (width,) each: 9 emotions at 1 layer, width 12" in said
    assert "The residual norm is not known" in said
    found = json.loads((folder / "adopted.json").read_text())
    assert (found["title"], found["layer"], found["residual_norm"]) == ("theirs", 4, None)
    assert np.isnan(read_vectors(folder / "vectors/layer_4.h5").residual_norm)
    assert (folder / "figures/layer_profile.png").exists()
    for bad, words in (([str(tmp_path / "no.npz")], "does not exist"), ([str(file)], "--layer N")):
        assert main([*bad, "--output", str(tmp_path / "never")]) == 1
        assert words in capsys.readouterr().err
    assert main([str(folder / "adopted.json"), "--output", str(tmp_path / "never")]) == 1
    assert not (tmp_path / "never").exists()


def test_nothing_is_written_where_settings_do_not_fit(export: SimpleNamespace, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no vectors of layer 3; it has 2, 10"):
        adopt(export.folder / "v.npz", tmp_path / "a", layer=3)
    other = tmp_path / "norm.csv"
    other.write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="is no norm that is recognised"):
        adopt(export.folder / "v.npz", tmp_path / "a", norm=other)
    assert not (tmp_path / "a").exists()


# ---------------------------------------------------------------- hostile files


def plain(**changed: Any) -> dict[str, Any]:
    rng = np.random.default_rng(3)
    return {name: rng.normal(size=(2, 5)) for name in ("a", "b", "c", "d")} | changed


HOSTILE: dict[str, tuple[Callable[[], dict[str, Any]], str]] = {
    "nothing": (dict, "holds no arrays"),
    "NaN": (lambda: plain(b=np.array([[1.0] * 5, [1, 2, np.nan, 4, 5]])), "vector of b at layer 1 holds NaN"),
    "infinity": (lambda: plain(c=np.full((2, 5), np.inf)), "vector of c at layer 0 holds NaN or infinity"),
    "zero": (lambda: plain(d=np.vstack([np.ones(5), np.zeros(5)])), "vector of d at layer 1 is zero"),
    "another width": (lambda: plain(d=np.ones((2, 6))), r"d has the shape \(2, 6\), but a \(2, 5\)"),
    "another number of layers": (lambda: plain(d=np.ones((3, 5))), r"all vectors should have one shape \(n, n\)"),
    "one dimension too few": (lambda: plain(d=np.ones(5)), r"d has the shape \(5,\)"),
    "a cube": (lambda: {name: np.ones((2, 3, 4)) for name in "abc"}, r"a has the shape \(2, 3, 4\)"),
    "single numbers": (lambda: {name: np.float64(1) for name in "abc"}, r"a has the shape \(\)"),
    "nothing long": (lambda: {name: np.ones((2, 0)) for name in "abc"}, r"a has the shape \(2, 0\)"),
    "words": (lambda: plain(d=np.array([["x"] * 5] * 2)), "d holds no numbers but <U1"),
    "complex": (lambda: plain(d=np.ones((2, 5), complex)), "d holds no numbers but complex128"),
    "one emotion": (lambda: {"a": np.ones((2, 5))}, "vectors of a alone; at least 3"),
    "two emotions": (lambda: {"a": np.ones((2, 5)), "b": np.ones((2, 5))}, "vectors of a, b alone; at least 3"),
    "two numbers": (lambda: {f"layer_1/{n}/2": np.ones(5) for n in "abc"}, "can be read as layer_.* and as .*rename"),
    "mixed": (lambda: {"a/1": np.ones(5), "b": np.ones(5), "c": np.ones(5)}, r"more than one way \('a/1', 'b'\)"),
    "mixed ways": (
        lambda: {"a/1": np.ones(5), "layer_1/b": np.ones(5), "c/1": np.ones(5)},
        r"more than one way \('a/1', 'c/1'\)|more than one way \('a/1', 'layer_1/b'\)",
    ),
    "a gap": (lambda: {f"{n}/{layer}": np.ones(5) for n in "abc" for layer in (1, 2) if (n, layer) != ("b", 2)},
              "no vector of b at every layer"),
    "twice": (lambda: {"a/1": np.ones(5), "a.1": np.ones(5), "b/1": np.ones(5), "c/1": np.ones(5)},
              "two vectors of a at layer 1"),
    "twice, padded": (lambda: {"a/1": np.ones(5), "a/01": np.ones(5), "b/1": np.ones(5)}, "two vectors of a"),
    "layers of arrays": (lambda: {f"layer_{n}/x": np.ones((3, 5)) for n in (1, 2)}, r"layer_1/x has the shape"),
    "export without names": (
        lambda: {f"layer_1/{form}": np.ones((3, 5)) for form in ("raw", "denoised", "unit")}, "has the shape"),
    "export without a form": (
        lambda: {f"layer_1/{form}": np.ones((3, 5)) for form in ("raw", "unit")}
        | {"emotions": np.array(["a", "b", "c"]), "layers": np.array([1]), "residual_norm": np.array([2.0])},
        "lacks a part of it",
    ),
    "export of other names": (
        lambda: {f"layer_1/{form}": np.ones((3, 5)) for form in ("raw", "denoised", "unit")}
        | {"emotions": np.array(["a", "b"]), "layers": np.array([1]), "residual_norm": np.array([2.0])},
        r"should have one shape \(2, n\)",
    ),
    "export with a name twice": (
        lambda: {f"layer_1/{form}": np.ones((3, 5)) for form in ("raw", "denoised", "unit")}
        | {"emotions": np.array(["a", "b", "a"]), "layers": np.array([1]), "residual_norm": np.array([2.0])},
        "names an emotion more than once",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_what_cannot_be_used_is_refused_in_words(tmp_path: Path, case: str) -> None:
    make, words = HOSTILE[case]
    file = tmp_path / "v.npz"
    np.savez(file, **make())
    with pytest.raises(UserError, match=words) as told:
        adopt(file, tmp_path / "out", layer=0)
    assert len(str(told.value).splitlines()) == 1
    assert not (tmp_path / "out").exists()


class Harm:
    """What a pickle could do."""

    def __reduce__(self) -> tuple:
        return (Path.touch, (Path("harmed"),))


def test_objects_are_never_unpickled(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("pickled.npz", a=np.array([Harm()], dtype=object), allow_pickle=True)
    with zipfile.ZipFile("raw.npz", "w") as archive:
        inside = io.BytesIO()
        np.lib.format.write_array_header_1_0(inside, {"descr": "|O", "fortran_order": False, "shape": (1,)})
        archive.writestr("a.npy", inside.getvalue() + pickle.dumps(Harm()))
    Path("bare.npz").write_bytes(pickle.dumps(Harm()))
    for name in ("pickled.npz", "raw.npz"):
        with pytest.raises(UserError, match="holds Python objects, which could run code"):
            read_file(name)
    with pytest.raises(UserError, match="cannot be read as an NPZ or safetensors file"):
        read_file("bare.npz")
    assert not Path("harmed").exists()


@pytest.mark.parametrize(
    "content", [b"", b"PK", b"PK\x03\x04" + b"\x00" * 40, b"\xff" * 64, b"{}", b"\x08" + b"\x00" * 7 + b"{}      "]
)
def test_files_that_are_not_whole_are_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "v.npz"
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"cannot be read as an NPZ|holds no arrays"):
        read_file(file)
    with pytest.raises(UserError, match="does not exist"):
        read_file(tmp_path)
