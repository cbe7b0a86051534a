"""Steering vectors come and go in the files of other tools with layers, names and numbers as they were, or are refused.

The libraries themselves are asked where they are installed; neither can be required beside ours, since repeng 0.4.0
wants NumPy 1 and steering-vectors 0.12.2 Transformers 4:
`pip install --no-deps repeng==0.4.0 steering-vectors==0.12.2`.
"""

import io
import json
import pickle
import struct
import sys
import tracemalloc
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFReader, GGUFWriter
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from affectome.bundle.archive import write_archive
from affectome.errors import UserError
from affectome.serve.catalogue import open_file
from affectome.vectors.exchange import FORMATS, Loaded, convert, load_vectors, save_vectors
from affectome.vectors.export import export_vectors
from affectome.vectors.store import Vectors, write_vectors
from tests.helpers import random_model, tiny_config
from tests.planted import vector_file

EMOTIONS = ("afraid", "at ease", "grief-stricken")
LAYERS = (1, 3, 11)
WIDTH = 8
MODEL = {"model": "tiny", "model_type": "llama", "blocks": 12, "sha256": {"config.json": "0" * 64}}


def planted(layers: tuple[int, ...] = LAYERS, seed: int = 0, **known: Any) -> Loaded:
    rng = np.random.default_rng(seed)
    vectors = {layer: (3 * rng.normal(size=(len(EMOTIONS), WIDTH))).astype(np.float32) for layer in layers}
    return Loaded("safetensors", EMOTIONS, vectors, **known)


def informed() -> Loaded:
    raw = planted(seed=1).vectors
    return planted(
        norms={layer: 100.5 + layer for layer in LAYERS},
        raw=raw,
        counts={layer: [2, 3, 4] for layer in LAYERS},
        reliability={layer: [0.5, None, 1.0] for layer in LAYERS},
        model="tiny",
        model_type="llama",
        model_fingerprint="abc",
        blocks=12,
        chosen=(3, 11),
    )


def same(found: Loaded, wanted: Loaded, layers: tuple[int, ...] | None = None) -> None:
    assert tuple(found.layers) == (layers or tuple(wanted.layers))
    for layer in found.layers:
        assert found.vectors[layer].dtype == np.float32
        np.testing.assert_array_equal(found.vectors[layer], wanted.vectors[layer])


def refused(path: Path, words: str) -> None:
    with pytest.raises(UserError, match=words) as told:
        load_vectors(path)
    assert len(str(told.value).splitlines()) == 1
    assert str(told.value).isprintable()


# ---------------------------------------------------------------- round trips


@pytest.mark.parametrize("form", FORMATS)
def test_vectors_of_unknown_norm_come_back_bit_by_bit(tmp_path: Path, form: str) -> None:
    wanted = planted()
    save_vectors(wanted, tmp_path / "out", form)
    found = load_vectors(tmp_path / "out")
    assert found.format == form
    named = ("afraid", "at_ease", "grief-stricken") if form == "steering-vectors" else EMOTIONS
    assert found.emotions == named
    assert found.norms is None
    assert found.notes == ()
    same(found, wanted)


@pytest.mark.parametrize("way", [("safetensors",), ("emotion-steering", "safetensors"), ("gguf", "safetensors", "gguf"),
                                 ("steering-vectors", "emotion-steering", "gguf")])  # fmt: skip
def test_a_way_through_several_formats_ends_where_it_began(tmp_path: Path, way: tuple[str, ...]) -> None:
    loaded = wanted = planted()
    for step, form in enumerate(way):
        save_vectors(loaded, tmp_path / str(step), form)
        loaded = load_vectors(tmp_path / str(step))
    same(loaded, wanted)


@settings(max_examples=25, deadline=None)
@given(
    rows=arrays(
        np.float32, (2, 3, 5), elements=st.floats(-(2**60), 2**60, width=32, allow_subnormal=False), fill=st.nothing()
    ),
    layers=st.lists(st.integers(1, 1023), min_size=2, max_size=2, unique=True),
    form=st.sampled_from(FORMATS),
)
def test_any_vectors_come_back(tmp_path_factory, rows: np.ndarray, layers: list[int], form: str) -> None:
    rows = rows + np.where(np.abs(rows).max(axis=2, keepdims=True) < 1e-15, np.float32(1), np.float32(0))
    wanted = Loaded("run", ("a", "b", "c"), dict(zip(sorted(layers), rows, strict=True)))
    path = tmp_path_factory.mktemp("any") / "out"
    save_vectors(wanted, path, form)
    same(load_vectors(path), wanted)


def test_what_is_known_is_kept_where_there_is_room(tmp_path: Path) -> None:
    wanted = informed()
    lost = {form: " ".join(save_vectors(wanted, tmp_path / form, form)) for form in FORMATS}
    found = {form: load_vectors(tmp_path / form) for form in FORMATS}
    for form in ("safetensors", "emotion-steering"):
        here = found[form]
        assert (here.norms, here.counts, here.reliability) == (wanted.norms, wanted.counts, wanted.reliability)
        assert (here.model, here.model_type, here.model_fingerprint) == ("tiny", "llama", "abc")
        same(here, wanted)
    for layer in LAYERS:
        np.testing.assert_array_equal(found["safetensors"].raw[layer], wanted.raw[layer])
    assert (found["emotion-steering"].chosen, found["emotion-steering"].blocks) == ((3, 11), 12)
    assert found["gguf"].model_type == "llama"
    same(found["steering-vectors"], wanted)
    assert "that layers 3, 11 were chosen is lost" in lost["safetensors"]
    assert (
        "no place for raw vectors; residual norms, the unit of strengths; which layers were chosen; counts"
        in (lost["gguf"])
    )
    assert "no place for raw vectors" in lost["emotion-steering"]
    assert "AUCs that emotion-steering prints are not known" in lost["emotion-steering"]
    assert "'at ease' is 'at_ease'" in lost["steering-vectors"]
    assert "the model's type" in lost["steering-vectors"]


def test_control_vectors_are_as_long_as_the_norm_where_it_is_known(tmp_path: Path) -> None:
    """And so the directions are those of the run's own export."""
    files = [
        vector_file(tmp_path / f"layer_{layer}.h5", layer, list(EMOTIONS), planted((0, *LAYERS)).vectors[layer], 7.5)
        for layer in (0, *LAYERS)
    ]
    out = tmp_path / "export"
    out.mkdir()
    export_vectors(files, out / "v.safetensors", out / "v.npz", out / "gguf", MODEL)
    lines = save_vectors(load_vectors(out / "v.safetensors"), tmp_path / "gguf", "gguf")
    assert lines[0] == "layer 0 is left out: llama.cpp cannot steer it"
    assert "scale 0.05 is strength 0.05" in lines[1]
    found, exported = load_vectors(tmp_path / "gguf"), load_vectors(out / "gguf")
    assert found.layers == exported.layers == list(LAYERS)
    assert found.emotions == EMOTIONS
    assert exported.emotions in (EMOTIONS, ("afraid", "at_ease", "grief-stricken"))
    for layer in LAYERS:
        np.testing.assert_allclose(found.vectors[layer], exported.vectors[layer], rtol=1e-6)
        np.testing.assert_allclose(np.linalg.norm(found.vectors[layer], axis=1), 7.5, rtol=1e-6)


def test_our_reader_of_gguf_agrees_with_the_library(tmp_path: Path) -> None:
    save_vectors(informed(), tmp_path / "out", "gguf")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "afraid.gguf", "at_ease.gguf", "grief-stricken.gguf"]  # fmt: skip
    here = load_vectors(tmp_path / "out/at_ease.gguf")
    assert here.emotions == ("at ease",)
    reader = GGUFReader(tmp_path / "out/at_ease.gguf")
    assert reader.get_field("controlvector.model_hint").contents() == here.model_type == "llama"
    assert reader.get_field("controlvector.layer_count").contents() == 3
    assert {tensor.name for tensor in reader.tensors} == {f"direction.{layer}" for layer in here.layers}
    for tensor in reader.tensors:
        np.testing.assert_array_equal(tensor.data, here.vectors[int(tensor.name[10:])][0])


def test_emotion_steering_s_files_are_as_it_reads_them(tmp_path: Path) -> None:
    """What its `load_bundle` (0.1.0, `vectors.py`) takes: arrays (layers, hidden) by emotion, and these keys."""
    wanted = planted(model="Qwen/Qwen3-8B", blocks=12)
    save_vectors(wanted, tmp_path / "out", "emotion-steering")
    said = json.loads((tmp_path / "out/metadata.json").read_text())
    assert (said["model"], said["hidden"], said["num_layers"]) == ("Qwen/Qwen3-8B", WIDTH, 12)
    assert (said["emotions"], said["search_layers"], said["chosen_layers"]) == (list(EMOTIONS), [1, 3, 11], [11])
    for row, emotion in enumerate(said["emotions"]):
        chosen = np.load(tmp_path / f"out/{emotion}_chosen.npy", allow_pickle=False)
        sweep = np.load(tmp_path / f"out/{emotion}_full_sweep.npy", allow_pickle=False)
        np.testing.assert_array_equal(chosen, wanted.vectors[11][None, row])
        np.testing.assert_array_equal(sweep, np.stack([wanted.vectors[layer][row] for layer in LAYERS]))


def their_bundle(folder: Path, **changed: Any) -> Path:
    """A bundle like emotion-steering's example: chosen layers alone, and metadata as it writes them."""
    folder.mkdir()
    rng = np.random.default_rng(2)
    for emotion in ("anger", "joy"):
        np.save(folder / f"{emotion}_chosen.npy", rng.normal(size=(3, WIDTH)).astype(np.float32))
    said = {"model": "Qwen/Qwen3-8B", "emotions": ["anger", "joy"], "num_layers": 36, "hidden": WIDTH}
    said |= {"search_layers": list(range(16, 28)), "chosen_layers": [20, 21, 22], "normalization": "none"}
    (folder / "metadata.json").write_text(json.dumps({**said, **changed}))
    return folder


def test_emotion_steering_s_own_bundles_are_read(tmp_path: Path) -> None:
    folder = their_bundle(tmp_path / "b")
    found = load_vectors(folder)
    assert (found.format, found.emotions, found.layers) == ("emotion-steering", ("anger", "joy"), [20, 21, 22])
    assert (found.model, found.blocks, found.chosen, found.headline()) == ("Qwen/Qwen3-8B", 36, (20, 21, 22), 21)
    np.testing.assert_array_equal(found.vectors[21][1], np.load(folder / "joy_chosen.npy")[1])
    rng = np.random.default_rng(3)
    for emotion in ("anger", "joy"):
        np.save(folder / f"{emotion}_full_sweep.npy", rng.normal(size=(12, WIDTH)))
    found = load_vectors(folder)
    assert found.layers == list(range(16, 28))
    np.testing.assert_array_equal(found.vectors[21][1], np.load(folder / "joy_chosen.npy")[1])
    assert "float64 numbers are rounded to float32" in found.notes
    assert "chosen and swept vectors differ at layer 20; the chosen ones are taken" in found.notes
    (folder / "joy_full_sweep.npy").unlink()
    found = load_vectors(folder)
    assert found.layers == [20, 21, 22]
    assert found.notes[0].startswith("the full sweep is left out")


def test_runs_and_bundles_are_read(tmp_path: Path) -> None:
    run = tmp_path / "run"
    rng = np.random.default_rng(4)
    files = []
    for layer in (0, 2):
        rows = rng.normal(size=(3, WIDTH)).astype(np.float32)
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        basis, half = np.zeros((0, WIDTH)), np.array([0.5, np.nan, 0.25])
        files.append(run / f"vectors/layer_{layer}.h5")
        write_vectors(
            files[-1],
            Vectors(
                layer, EMOTIONS, 2 * rows, rows, rows / lengths, basis, np.array([1, 2, 3]), half, 5.0 + layer, "k"
            ),
        )
    (run / "manifest.json").write_text(json.dumps({"model": MODEL}))
    export = run / "vectors/vectors.safetensors"
    export_vectors(files, export, run / "vectors/v.npz", run / "gguf", MODEL)
    write_archive(tmp_path / "bundle.zip", {"vectors/vectors.safetensors": export, "bundle.json": b"{}"})
    for path in (run, run / "vectors", export, tmp_path / "bundle.zip", run / "vectors/v.npz"):
        found = load_vectors(path)
        assert found.layers == [0, 2]
        assert found.norms == {0: 5.0, 2: 7.0}
        if path.suffix != ".npz":
            np.testing.assert_array_equal(found.raw[2], 2 * found.vectors[2])
            assert found.model == "tiny"
            assert len(found.model_fingerprint) == 16
            assert found.counts == {0: [1, 2, 3], 2: [1, 2, 3]}
            assert found.reliability[2] == [0.5, None, 0.25]
    assert load_vectors(run).summary() == "run, 3 emotions, 2 layers, 0 to 2, width 8"
    save_vectors(load_vectors(run), tmp_path / "again.safetensors", "safetensors")
    again, first = load_file(tmp_path / "again.safetensors"), load_file(export)
    assert set(again) == set(first)
    for name, array in first.items():
        np.testing.assert_allclose(again[name], array, rtol=1e-6)


def test_the_server_reads_what_is_saved(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    tiny_config("llama", 12, WIDTH).save_pretrained(folder)
    save_vectors(planted(norms=dict.fromkeys(LAYERS, 5.0)), tmp_path / "v.safetensors", "safetensors")
    catalogue = open_file(tmp_path / "v.safetensors", folder)
    assert catalogue.norms == dict.fromkeys(LAYERS, 5.0)
    assert catalogue.names("emotion") == list(EMOTIONS)
    np.testing.assert_allclose(catalogue.stored[3][:3], np.linalg.norm(planted().vectors[3], axis=1), rtol=1e-6)
    lines = save_vectors(planted(), tmp_path / "unknown.safetensors", "safetensors")
    assert "residual norms are not known (null)" in lines[0]
    with safe_open(tmp_path / "unknown.safetensors", "numpy") as file:
        assert json.loads(file.metadata()["residual_norm"]) == dict.fromkeys(map(str, LAYERS))
    with pytest.raises(UserError, match="without a residual norm"):
        open_file(tmp_path / "unknown.safetensors", folder)


def test_arrays_of_other_layouts_are_read(tmp_path: Path) -> None:
    rows = planted().vectors[3]
    save_file({f"layer_3/{emotion}": row.copy() for emotion, row in zip(EMOTIONS, rows, strict=True)},
              tmp_path / "v.safetensors")  # fmt: skip
    found = load_vectors(tmp_path / "v.safetensors")
    assert (found.format, found.layers, found.norms, found.notes) == ("arrays", [3], None, ())
    order = [found.emotions.index(emotion) for emotion in EMOTIONS]
    np.testing.assert_array_equal(found.vectors[3][order], rows)
    np.savez(tmp_path / "v.npz", **dict.fromkeys(EMOTIONS, rows))
    assert load_vectors(tmp_path / "v.npz").layers == [0, 1, 2]


@pytest.mark.parametrize("length", [0x80 + 0x200, 0x4B50])
def test_the_length_of_a_header_is_not_taken_for_a_format(tmp_path: Path, length: int) -> None:
    """Files that begin with the signs of a pickle or a ZIP archive because their header is that long."""
    save_vectors(planted(), tmp_path / "v.safetensors", "safetensors")
    data = (tmp_path / "v.safetensors").read_bytes()
    size = int.from_bytes(data[:8], "little")
    header, arrays = data[8 : 8 + size].rstrip(b" "), data[8 + size :]
    if len(header) > length:
        said = json.loads(header)
        said["__metadata__"].pop("fingerprints")
        keep = {"layer_1/raw", "layer_1/denoised", "layer_1/unit", "__metadata__"}
        said["__metadata__"]["residual_norm"] = '{"1": null}'
        names = sorted(keep - {"__metadata__"})
        parts = [arrays[slice(*said[name]["data_offsets"])] for name in names]
        at = 0
        for name, part in zip(names, parts, strict=True):
            said[name]["data_offsets"] = [at, at + len(part)]
            at += len(part)
        header, arrays = json.dumps({k: v for k, v in said.items() if k in keep}).encode(), b"".join(parts)
    assert len(header) <= length
    (tmp_path / "v.bin").write_bytes(length.to_bytes(8, "little") + header.ljust(length) + arrays)
    np.testing.assert_array_equal(load_vectors(tmp_path / "v.bin").vectors[1], planted().vectors[1])


def test_the_command_says_what_was_read_lost_and_written(tmp_path: Path) -> None:
    save_vectors(informed(), tmp_path / "v.safetensors", "safetensors")
    lines: list[str] = []
    convert(tmp_path / "v.safetensors", tmp_path / "deep/out", "gguf", lines.append)
    assert lines[0] == f"{tmp_path}/v.safetensors: safetensors, 3 emotions, 3 layers, 1 to 11, width 8"
    assert lines[-1] == f"{tmp_path}/deep/out: written as gguf"
    assert any("no place for raw vectors" in line for line in lines)
    with pytest.raises(UserError, match="exists already"):
        convert(tmp_path / "v.safetensors", tmp_path / "deep/out", "gguf", lines.append)
    with pytest.raises(UserError, match="no format 'onnx'; allowed: safetensors, gguf"):
        convert(tmp_path / "v.safetensors", tmp_path / "other", "onnx", lines.append)
    with pytest.raises(UserError, match="does not exist"):
        convert(tmp_path / "none", tmp_path / "other", "gguf", lines.append)
    assert {path.name for path in tmp_path.iterdir()} == {"v.safetensors", "deep"}


def test_what_a_format_cannot_say_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    names = Loaded("run", ("love/hate", "love hate"), {1: np.eye(2, dtype=np.float32)})
    for form in ("gguf", "steering-vectors"):
        with pytest.raises(UserError, match="would both be the file 'love_hate'"):
            save_vectors(names, tmp_path / "out", form)
    lines = save_vectors(names, tmp_path / "es", "emotion-steering")
    assert lines[0] == "'love/hate' is called 'love_hate': emotions are parts of files' names"
    assert load_vectors(tmp_path / "es").emotions == ("love_hate", "love hate")
    with pytest.raises(UserError, match="cannot steer block 0"):
        save_vectors(Loaded("run", ("a",), {0: np.ones((1, 2), np.float32)}), tmp_path / "out", "gguf")
    assert {path.name for path in tmp_path.iterdir()} == {"es"}


# ---------------------------------------------------------------- the libraries themselves


@pytest.fixture
def repeng(monkeypatch: pytest.MonkeyPatch) -> Any:
    # An annotation of repeng 0.4.0 names what NumPy 2 has taken away.
    monkeypatch.setattr(np, "float_", np.float64, raising=False)
    return pytest.importorskip("repeng")


@pytest.fixture(scope="module")
def model() -> Any:
    return random_model(tiny_config("llama", 4, WIDTH))


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model(torch.arange(6)[None]).logits


def steered(model: Any, vectors: dict[int, np.ndarray], scale: float) -> torch.Tensor:
    """What the model says where `vectors` (width,) are added at the output of block L."""

    def adding(vector: np.ndarray) -> Callable:
        added = scale * torch.from_numpy(vector)
        return lambda _module, _inputs, output: (
            (output[0] + added, *output[1:]) if isinstance(output, tuple) else output + added
        )

    handles = [model.model.layers[layer].register_forward_hook(adding(vector)) for layer, vector in vectors.items()]
    try:
        return logits(model)
    finally:
        for handle in handles:
            handle.remove()


def test_repeng_s_files_and_layers_are_ours(tmp_path: Path, repeng: Any, model: Any) -> None:
    rows = planted((1, 3)).vectors
    theirs = repeng.ControlVector("llama", {layer: array[0] for layer, array in rows.items()})
    theirs.export_gguf(tmp_path / "fear.gguf")
    found = load_vectors(tmp_path / "fear.gguf")
    assert (found.emotions, found.model_type) == (("fear",), "llama")
    ours = {layer: array[0] for layer, array in found.vectors.items()}
    assert repeng.ControlVector("llama", ours) == theirs
    save_vectors(found, tmp_path / "out", "gguf")
    back = repeng.ControlVector.import_gguf(tmp_path / "out/fear.gguf")
    assert back == theirs
    wanted = steered(model, ours, 0.5)
    controlled = repeng.ControlModel(model, [1, 3])
    controlled.set_control(back, 0.5)
    with torch.inference_mode():
        their_logits = controlled(torch.arange(6)[None]).logits
    controlled.unwrap()
    torch.testing.assert_close(their_logits, wanted)
    assert not torch.allclose(wanted, logits(model))


def test_repeng_counts_layers_as_we_do(repeng: Any, model: Any) -> None:
    """What it reads as layer L is the output of block L, the last but for the final norm."""
    seen = {}
    handles = [
        block.register_forward_hook(lambda _m, _i, output, layer=layer: seen.update({layer: output}))
        for layer, block in enumerate(model.model.layers)
    ]

    class Tokens(dict):
        def to(self, _device: Any) -> "Tokens":
            return self

    def tokenizer(_texts: list[str], **_options: Any) -> Tokens:
        return Tokens(input_ids=torch.arange(6)[None], attention_mask=torch.ones(1, 6, dtype=torch.long))

    hidden = repeng.extract.batched_get_hiddens(model, tokenizer, ["a"], [0, 1, 2, 3], 1)
    for handle in handles:
        handle.remove()
    for layer in (0, 1, 2):
        output = seen[layer][0] if isinstance(seen[layer], tuple) else seen[layer]
        np.testing.assert_array_equal(hidden[layer][0], output[0, -1].numpy())
    with torch.inference_mode():
        last = seen[3][0] if isinstance(seen[3], tuple) else seen[3]
        np.testing.assert_array_equal(hidden[3][0], model.model.norm(last)[0, -1].numpy())


def test_steering_vectors_files_and_layers_are_ours(tmp_path: Path, model: Any) -> None:
    library = pytest.importorskip("steering_vectors")
    rows = planted((0, 2)).vectors
    vectors = {
        emotion: library.SteeringVector({layer: torch.from_numpy(array[row]) for layer, array in rows.items()})
        for row, emotion in enumerate(EMOTIONS)
    }
    torch.save(vectors, tmp_path / "all.pt")
    (tmp_path / "each").mkdir()
    for emotion, vector in vectors.items():
        torch.save(vector, tmp_path / f"each/{emotion}.pt")
    for path in (tmp_path / "all.pt", tmp_path / "each"):
        found = load_vectors(path)
        assert found.emotions == EMOTIONS
        same(found, planted((0, 2)))
    save_vectors(found, tmp_path / "out", "steering-vectors")
    back = library.SteeringVector(**torch.load(tmp_path / "out/at_ease.pt"))
    with back.apply(model, multiplier=0.5):
        theirs = logits(model)
    torch.testing.assert_close(theirs, steered(model, {layer: array[1] for layer, array in rows.items()}, 0.5))
    torch.save(library.SteeringVector(vectors["afraid"].layer_activations, "mlp"), tmp_path / "mlp.pt")
    refused(tmp_path / "mlp.pt", "vectors of 'mlp', which are added inside a block")


def test_their_objects_are_read_without_their_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of SteeringVectors, saved while a class of that name could be imported."""
    name = "steering_vectors.steering_vector"
    kind = type("SteeringVector", (), {"__module__": name})
    module = ModuleType(name)
    module.SteeringVector = kind
    vector = kind()
    vector.layer_activations, vector.layer_type = {2: torch.arange(1.0, 5.0)}, "decoder_block"
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "steering_vectors", ModuleType("steering_vectors"))
        patch.setitem(sys.modules, name, module)
        torch.save(vector, tmp_path / "joy.pt")
    found = load_vectors(tmp_path / "joy.pt")
    assert (found.emotions, found.layers) == (("joy",), [2])
    assert found.vectors[2].tolist() == [[1.0, 2.0, 3.0, 4.0]]


def test_steering_vectors_are_read_without_their_library(tmp_path: Path) -> None:
    layers = {2: torch.arange(4.0), 5: torch.ones(1, 1, 4).bfloat16()}
    torch.save({"joy": {"layer_activations": layers}, "calm": layers}, tmp_path / "v.pt")
    found = load_vectors(tmp_path / "v.pt")
    assert (found.emotions, found.layers) == (("joy", "calm"), [2, 5])
    np.testing.assert_array_equal(found.vectors[5], np.ones((2, 4)))
    torch.save(layers, tmp_path / "plain.pt")
    assert load_vectors(tmp_path / "plain.pt").emotions == ("plain",)
    torch.save({3: torch.ones(2, dtype=torch.float64)}, tmp_path / "wide.pt")
    assert load_vectors(tmp_path / "wide.pt").notes == ("float64 numbers are rounded to float32",)


# ---------------------------------------------------------------- hostile files


def gguf_bytes(
    keys: bytes = b"", n_keys: int = 1, tensors: bytes = b"", n_tensors: int = 0, data: bytes = b"", version: int = 3
) -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", version, n_tensors, n_keys)
    body = head + text("general.architecture") + struct.pack("<I", 8) + text("controlvector") + keys + tensors
    return body + bytes(-len(body) % 32) + data


def text(word: str) -> bytes:
    return struct.pack("<Q", len(word)) + word.encode()


def tensor(name: str, *shape: int, kind: int = 0, offset: int = 0) -> bytes:
    dimensions = struct.pack(f"<{len(shape)}Q", *shape)
    return text(name) + struct.pack("<I", len(shape)) + dimensions + struct.pack("<IQ", kind, offset)


ONE = tensor("direction.1", 2)
NUMBERS = struct.pack("<2f", 1.0, 2.0)
HUGE = 1 << 62
ENDS = "ends in the middle of what it claims to hold"
NOT_ONE = "is no float32 vector direction.LAYER"

BAD_GGUF: dict[str, tuple[bytes, str]] = {
    "cut": (gguf_bytes()[:30], ENDS),
    "magic alone": (b"GGUF", ENDS),
    "version": (gguf_bytes(version=1), "version is 1; 2 and 3"),
    "other endianness": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "version is 50331648"),
    "no keys": (b"GGUF" + struct.pack("<IQQ", 3, 0, 0), "GGUF file of 'None', not a control vector"),
    "many keys": (gguf_bytes(n_keys=HUGE), ENDS),
    "many tensors": (gguf_bytes(n_tensors=HUGE), ENDS),
    "long text": (gguf_bytes(struct.pack("<Q", HUGE), 2), ENDS),
    "long list": (gguf_bytes(text("k") + struct.pack("<IIQ", 9, 0, HUGE), 2), ENDS),
    "long list of text": (gguf_bytes(text("k") + struct.pack("<IIQ", 9, 8, HUGE), 2), ENDS),
    "list of lists": (gguf_bytes(text("k") + struct.pack("<IIQ", 9, 9, HUGE), 2), "lists in a list"),
    "unknown type": (gguf_bytes(text("k") + struct.pack("<I", 77), 2), "unknown type 77"),
    "not text": (gguf_bytes(struct.pack("<Q", 1) + b"\xff" + struct.pack("<IB", 0, 0), 2), "UnicodeDecodeError"),
    "alignment": (gguf_bytes(text("general.alignment") + struct.pack("<II", 4, 0), 2), "alignment is 0"),
    "no directions": (gguf_bytes(), "holds no directions"),
    "long tensor": (gguf_bytes(tensors=tensor("direction.1", HUGE), n_tensors=1, data=NUMBERS), ENDS),
    "far offset": (gguf_bytes(tensors=tensor("direction.1", 2, offset=HUGE), n_tensors=1, data=NUMBERS), ENDS),
    "many dimensions": (
        gguf_bytes(tensors=text("direction.1") + struct.pack("<I", 1 << 31), n_tensors=1, data=NUMBERS), ENDS),
    "matrix": (gguf_bytes(tensors=tensor("direction.1", 1, 2), n_tensors=1, data=NUMBERS), NOT_ONE),
    "half": (gguf_bytes(tensors=tensor("direction.1", 2, kind=1), n_tensors=1, data=NUMBERS), NOT_ONE),
    "negative layer": (gguf_bytes(tensors=tensor("direction.-1", 2), n_tensors=1, data=NUMBERS), NOT_ONE),
    "other tensor": (gguf_bytes(tensors=tensor("token_embd.weight", 2), n_tensors=1, data=NUMBERS), NOT_ONE),
    "twice": (gguf_bytes(tensors=2 * ONE, n_tensors=2, data=NUMBERS), "has direction.1 twice"),
    "twice, padded": (gguf_bytes(tensors=ONE + tensor("direction.01", 2), n_tensors=2, data=NUMBERS), NOT_ONE),
    "far layer": (gguf_bytes(tensors=tensor("direction.99999", 2), n_tensors=1, data=NUMBERS), "has the layer 99999"),
    "empty": (gguf_bytes(tensors=tensor("direction.1", 0), n_tensors=1), "has 0 numbers"),
    "widths": (
        gguf_bytes(tensors=ONE + tensor("direction.2", 1), n_tensors=2, data=NUMBERS), "layer 2 has 1 numbers"),
    "NaN": (gguf_bytes(tensors=ONE, n_tensors=1, data=struct.pack("<2f", 1, float("nan"))), "holds NaN or infinity"),
    "infinity": (gguf_bytes(tensors=ONE, n_tensors=1, data=struct.pack("<2f", 1, float("inf"))), "NaN or infinity"),
    "zero": (gguf_bytes(tensors=ONE, n_tensors=1, data=bytes(8)), "is zero and has no direction"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_GGUF)
def test_hostile_control_vectors_are_refused(tmp_path: Path, case: str) -> None:
    content, words = BAD_GGUF[case]
    (tmp_path / "v.gguf").write_bytes(content)
    refused(tmp_path / "v.gguf", words)


def test_a_control_vector_made_by_hand_is_read(tmp_path: Path) -> None:
    keys = text("k") + struct.pack("<IIQ", 9, 8, 2) + text("a") + text("b") + text("general.alignment")
    data = gguf_bytes(keys + struct.pack("<II", 4, 32), 3, ONE, 1, NUMBERS, version=2)
    (tmp_path / "joy.gguf").write_bytes(data)
    assert load_vectors(tmp_path / "joy.gguf").vectors[1].tolist() == [[1.0, 2.0]]


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_no_damage_to_a_control_vector_ends_in_a_traceback(tmp_path_factory, data: st.DataObject) -> None:
    content = bytearray(gguf_bytes(text("k") + struct.pack("<IIQ", 9, 8, 1) + text("a"), 2, ONE, 1, NUMBERS))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / "v.gguf"
    path.write_bytes(bytes(content[: data.draw(st.integers(0, len(content)))]))
    with suppress(UserError):
        load_vectors(path)


def test_a_model_in_gguf_is_no_control_vector(tmp_path: Path) -> None:
    writer = GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_tensor("direction.1", np.ones(3, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    refused(tmp_path / "m.gguf", "GGUF file of 'llama', not a control vector")


class Harm:
    """What a pickle could do."""

    def __reduce__(self) -> tuple:
        return (Path.touch, (Path("harmed"),))


def test_nothing_is_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bare.pt").write_bytes(pickle.dumps({"joy": Harm()}))
    torch.save({"joy": Harm()}, "zipped.pt")
    torch.save({"joy": Harm()}, "old.pt", _use_new_zipfile_serialization=False)
    torch.save({1: torch.ones(2)}, "old, harmless.pt", _use_new_zipfile_serialization=False)
    for name in ("bare.pt", "old.pt", "old, harmless.pt"):
        refused(Path(name), "is a bare pickle, which can run code and is not opened")
        Path("folder").mkdir(exist_ok=True)
        Path("folder/v.pt").write_bytes(Path(name).read_bytes())
        refused(Path("folder"), "is a bare pickle")
    refused(Path("zipped.pt"), "no torch.save file of steering vectors that is safe to read")
    np.save("v.npy", np.array([Harm()], dtype=object), allow_pickle=True)
    refused(Path("v.npy"), "array without names")
    folder = their_bundle(tmp_path / "es")
    (folder / "joy_chosen.npy").write_bytes(Path("v.npy").read_bytes())
    refused(folder, "joy_chosen.npy: cannot be read as an array of numbers")
    (folder / "joy_chosen.npy").write_bytes(pickle.dumps(Harm()))
    refused(folder, "joy_chosen.npy: cannot be read as an array of numbers")
    np.savez("v.npz", joy=np.array([Harm()], dtype=object), allow_pickle=True)
    refused(Path("v.npz"), "holds Python objects, which could run code")
    assert not Path("harmed").exists()


def torch_zip(path: Path, body: bytes) -> None:
    """A file as torch.save writes it, of a pickle made by hand."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("v/data.pkl", b"\x80\x02" + body)
        archive.writestr("v/byteorder", "little")
        archive.writestr("v/version", "3\n")


def test_objects_with_the_name_of_their_class_do_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even a file that calls the one known class, or sets what it likes on it, gets no code to run."""
    monkeypatch.chdir(tmp_path)
    for body in (
        b"csteering_vectors.steering_vector\nSteeringVector\n(K\x01tR.",
        b"csteering_vectors.steering_vector\nSteeringVector\n)\x81}X\x11\x00\x00\x00layer_activationsX\x01\x00"
        b"\x00\x00asb.",
        b"cposix\nsystem\n(X\x0c\x00\x00\x00touch harmedtR.",
    ):
        torch_zip(Path("v.pt"), body)
        refused(Path("v.pt"), "no torch.save file|holds no steering vectors")
    assert not Path("harmed").exists()


BAD_TORCH: dict[str, tuple[Callable[[], Any], str]] = {
    "nothing": (dict, "holds no steering vectors"),
    "a tensor": (lambda: torch.ones(3), "holds no steering vectors"),
    "a number": (lambda: {"joy": 1}, "holds no steering vectors"),
    "no layers": (lambda: {"joy": {}}, "holds no steering vectors"),
    "layers as text": (lambda: {"joy": {"1": torch.ones(2)}}, "holds no steering vectors"),
    "true": (lambda: {True: torch.ones(2)}, "holds no steering vectors"),
    "mixed": (lambda: {"joy": {1: torch.ones(2)}, 2: torch.ones(2)}, "holds no steering vectors"),
    "from the end": (lambda: {-1: torch.ones(2)}, "layer -1, counted from the end of a model"),
    "far layer": (lambda: {10**30: torch.ones(2)}, "no model has more than 1023 blocks"),
    "a scalar": (lambda: {1: torch.tensor(1.0)}, r"has the shape \(\)"),
    "a matrix": (lambda: {1: torch.ones(2, 3)}, r"has the shape \(2, 3\)"),
    "empty": (lambda: {1: torch.ones(0)}, r"has the shape \(0,\)"),
    "one number laid out": (lambda: {1: torch.ones(1).expand(10**12)}, r"has the shape \(1000000000000,\)"),
    "integers": (lambda: {1: torch.ones(2, dtype=torch.int64)}, "no plain tensor of floating-point"),
    "complex": (lambda: {1: torch.ones(2, dtype=torch.complex64)}, "no plain tensor of floating-point"),
    "sparse": (lambda: {1: torch.ones(2).to_sparse()}, "no plain tensor of floating-point"),
    "meta": (lambda: {1: torch.ones(2, device="meta")}, "no plain tensor of floating-point"),
    "text": (lambda: {1: "ones"}, "no plain tensor of floating-point"),
    "NaN": (lambda: {1: torch.tensor([1.0, float("nan")])}, "NaN or infinity"),
    "too large": (lambda: {1: torch.tensor([1e300, 1.0], dtype=torch.float64)}, "NaN or infinity"),
    "zero": (lambda: {1: torch.zeros(2)}, "is zero and has no direction"),
    "missing layer": (
        lambda: {"a": {1: torch.ones(2), 2: torch.ones(2)}, "b": {1: torch.ones(2)}},
        r"b and a have different layers \(see layer 2\)",
    ),
    "widths": (lambda: {"a": {1: torch.ones(2)}, "b": {1: torch.ones(3)}}, "that of a at layer 1 2; all should have"),
    "no name": (lambda: {"": {1: torch.ones(2)}}, "'' is no name of an emotion"),
    "signs": (lambda: {"\x1b[2J": {1: torch.ones(2)}}, "is no name of an emotion"),
    "long name": (lambda: {"a" * 101: {1: torch.ones(2)}}, "is no name of an emotion"),
}


@pytest.mark.parametrize("case", BAD_TORCH)
def test_hostile_steering_vectors_are_refused(tmp_path: Path, case: str) -> None:
    make, words = BAD_TORCH[case]
    torch.save(make(), tmp_path / "v.pt")
    refused(tmp_path / "v.pt", words)


def test_compressed_and_damaged_torch_files_are_refused(tmp_path: Path) -> None:
    torch.save({1: torch.zeros(100)}, tmp_path / "v.pt")
    whole = (tmp_path / "v.pt").read_bytes()
    with zipfile.ZipFile(io.BytesIO(whole)) as archive, zipfile.ZipFile(
        tmp_path / "packed.pt", "w", zipfile.ZIP_DEFLATED
    ) as packed:  # fmt: skip
        for name in archive.namelist():
            packed.writestr(name, archive.read(name))
    refused(tmp_path / "packed.pt", "holds compressed members")
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    refused(tmp_path / "cut.pt", "cut short or damaged")
    (tmp_path / "f").mkdir()
    (tmp_path / "f/cut.pt").write_bytes(whole[: len(whole) // 2])
    refused(tmp_path / "f", "is not whole")


def npy(header: dict[str, Any]) -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, header)
    return out.getvalue() + bytes(64)


BAD_NPY: dict[str, tuple[Callable[[], bytes | np.ndarray], str]] = {
    "claims more": (
        lambda: npy({"descr": "<f4", "fortran_order": False, "shape": (3, 1 << 40)}), "cannot be read as an array"),
    "claims far more": (
        lambda: npy({"descr": "<f4", "fortran_order": False, "shape": 2 * (1 << 40,)}), "cannot be read as an array"),
    "objects": (lambda: npy({"descr": "|O", "fortran_order": False, "shape": (3, 8)}), "cannot be read as an array"),
    "empty": (lambda: b"", "cannot be read as an array"),
    "a zip": (lambda: b"PK\x03\x04" + bytes(40), "cannot be read as an array"),
    "integers": (lambda: np.ones((3, WIDTH), int), "holds int64, not floating-point"),
    "words": (lambda: np.full((3, WIDTH), "x"), "holds <U1, not floating-point"),
    "layers": (lambda: np.ones((2, WIDTH)), r"has the shape \(2, 8\); \(3, 8\) is wanted"),
    "width": (lambda: np.ones((3, WIDTH + 1)), r"has the shape \(3, 9\); \(3, 8\) is wanted"),
    "one dimension": (lambda: np.ones(3 * WIDTH), r"has the shape \(24,\)"),
    "NaN": (lambda: np.full((3, WIDTH), np.nan), "the vector of joy at layer 20 holds NaN"),
    "zero": (lambda: np.zeros((3, WIDTH)), "the vector of joy at layer 20 is zero"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_NPY)
def test_hostile_arrays_of_emotion_steering_are_refused(tmp_path: Path, case: str) -> None:
    make, words = BAD_NPY[case]
    folder = their_bundle(tmp_path / "b")
    made = make()
    if isinstance(made, bytes):
        (folder / "joy_chosen.npy").write_bytes(made)
    else:
        np.save(folder / "joy_chosen.npy", made)
    refused(folder, words)


BAD_METADATA: dict[str, tuple[dict[str, Any], str]] = {
    "no emotions": ({"emotions": []}, "emotions are not a list of names"),
    "a text": ({"emotions": "anger"}, "emotions are not a list of names"),
    "twice": ({"emotions": ["joy", "joy"]}, "more than one vector of joy"),
    "leads out": ({"emotions": ["../b/joy"]}, "cannot be part of a file's name"),
    "hidden name": ({"emotions": [".joy"]}, "cannot be part of a file's name"),
    "not there": ({"emotions": ["anger", "shame"]}, "shame_chosen.npy: is missing"),
    "no layers": ({"chosen_layers": []}, "layers are not different numbers"),
    "a layer twice": ({"chosen_layers": [20, 20, 21]}, "layers are not different numbers"),
    "negative": ({"chosen_layers": [-1, 20, 21]}, "layers are not different numbers from 0 to 1023"),
    "true": ({"chosen_layers": [True, 20, 21]}, "layers are not different numbers"),
    "too deep": ({"num_layers": 22, "search_layers": []}, "names layer 22 of a model with 22 layers"),
    "fewer layers": ({"chosen_layers": [20, 21]}, r"has the shape \(3, 8\); \(2, 8\) is wanted"),
    "width": ({"hidden": 9}, r"has the shape \(3, 8\); \(3, 9\) is wanted"),
    "norms": ({"affectome": {"residual_norm": {"20": 1, "21": -1, "22": 2}}}, "no positive number"),
    "norms of others": ({"affectome": {"residual_norm": {"1": 1}}}, "not of the layers"),
    "counts": ({"affectome": {"counts": {"20": [1], "21": [1], "22": [1]}}}, "counts are not a number for each"),
}


@pytest.mark.parametrize("case", BAD_METADATA)
def test_hostile_metadata_of_emotion_steering_are_refused(tmp_path: Path, case: str) -> None:
    changed, words = BAD_METADATA[case]
    refused(their_bundle(tmp_path / "b", **changed), words)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b"[" * 100_000, b'{"emotions": ["joy"]}'])
def test_metadata_that_are_none_are_refused(tmp_path: Path, content: bytes) -> None:
    folder = their_bundle(tmp_path / "b")
    (folder / "metadata.json").write_bytes(content)
    refused(folder, "metadata.json: (cannot be read as JSON|is not as emotion-steering writes it)")


def export_file(path: Path, **changed: Any) -> Path:
    """An export of one layer, with arrays and metadata as `changed` says; None leaves one out."""
    rows = planted().vectors[3]
    content = {f"layer_3/{form}": rows.copy() for form in ("raw", "denoised")}
    content["layer_3/unit"] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    said = {"format": "affectome.vectors", "emotions": json.dumps(EMOTIONS), "residual_norm": '{"3": 5.0}'}
    for name, item in changed.items():
        key = name.replace("__", "/")
        into = content if isinstance(item, np.ndarray) or key in content else said
        into[key] = item
        if item is None:
            del into[key]
    save_file(content, path, said)
    return path


BAD_EXPORT: dict[str, tuple[dict[str, Any], str]] = {
    "no emotions": ({"emotions": None}, "is no whole export"),
    "emotions": ({"emotions": '{"a": 1}'}, "emotions are not a list"),
    "no JSON": ({"residual_norm": "NaN,"}, "is no whole export"),
    "NaN": ({"residual_norm": '{"3": NaN}'}, "no positive number"),
    "zero": ({"residual_norm": '{"3": 0}'}, "no positive number"),
    "true": ({"residual_norm": '{"3": true}'}, "no positive number"),
    "other layers": ({"residual_norm": '{"3": 1, "4": 1}'}, "residual_norm is not of the layers"),
    "a list": ({"residual_norm": "[1]"}, "residual_norm is not of the layers"),
    "reliability": ({"reliability": '{"3": [1, null]}'}, "reliability are not a number for each emotion"),
    "counts": ({"counts": '{"3": [1, null, 2]}'}, "counts are not a number for each emotion"),
    "no raw": ({"layer_3__raw": None}, "lacks an array"),
    "another array": ({"layer_3__odd": np.ones(3, np.float32)}, "holds 'layer_3/odd'"),
    "far layer": ({"layer_99999__raw": np.ones((3, WIDTH), np.float32)}, "holds 'layer_99999/raw'"),
    "emotions' number": ({"emotions": '["a", "b"]'}, r"has the shape \(3, 8\); \(2, width\) is wanted"),
    "widths": ({"layer_3__raw": np.ones((3, 9), np.float32)}, "vectors of different widths"),
    "integers": ({"layer_3__raw": np.ones((3, WIDTH), np.int32)}, "holds int32, not floating-point"),
    "unit": ({"layer_3__unit": np.ones((3, WIDTH), np.float32)}, "layer_3/unit is not layer_3/denoised at length 1"),
    "infinity": ({"layer_3__denoised": np.full((3, WIDTH), np.inf, np.float32)}, "NaN or infinity"),
}


@pytest.mark.parametrize("case", BAD_EXPORT)
def test_hostile_exports_are_refused(tmp_path: Path, case: str) -> None:
    changed, words = BAD_EXPORT[case]
    assert load_vectors(export_file(tmp_path / "good")).norms == {3: 5.0}
    refused(export_file(tmp_path / "v.safetensors", **changed), words)


def test_optional_parts_of_an_export_may_be_missing(tmp_path: Path) -> None:
    found = load_vectors(export_file(tmp_path / "v", residual_norm=None))
    assert (found.norms, found.counts, found.reliability, found.model, found.raw) == (None, None, None, "", None)
    said = {"model": "m", "model_fingerprint": "f", "counts": '{"3": [1, 2, 3]}', "reliability": '{"3": [1, null, 0]}'}
    found = load_vectors(export_file(tmp_path / "w", **said))
    assert (found.model, found.model_fingerprint, found.counts) == ("m", "f", {3: [1, 2, 3]})
    assert found.reliability == {3: [1, None, 0]}


@pytest.mark.parametrize(
    "content", [b"", b"x", b"\xff" * 64, b"PK\x03\x04" + bytes(40), HUGE.to_bytes(8, "little") + b"{", b"{}" * 40]
)
def test_files_of_nothing_known_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "v").write_bytes(content)
    refused(tmp_path / "v", "is no file of vectors|cut short or damaged")
    refused(tmp_path, "holds no vectors that are known here|is not whole")


def test_folders_of_more_than_one_kind_are_refused(tmp_path: Path) -> None:
    save_vectors(planted(), tmp_path / "g", "gguf")
    (tmp_path / "g/README.txt").write_text("of no concern")
    assert load_vectors(tmp_path / "g").emotions == EMOTIONS
    torch.save({1: torch.ones(2)}, tmp_path / "g/v.pt")
    refused(tmp_path / "g", "holds files of more than one format")
    (tmp_path / "g/v.pt").unlink()
    (tmp_path / "g/again.gguf").write_bytes((tmp_path / "g/afraid.gguf").read_bytes())
    refused(tmp_path / "g", "more than one vector of afraid")
    GGUFWriter(tmp_path / "g/again.gguf", "x").close()


def test_damaged_runs_and_bundles_are_refused(tmp_path: Path) -> None:
    run = tmp_path / "run"
    vector_file(run / "vectors/layer_1.h5", 1, list(EMOTIONS), planted().vectors[3])
    vector_file(run / "vectors/layer_2.h5", 2, [*EMOTIONS[:2], "x"], planted().vectors[3])
    refused(run, "layers 1 and 2 are not of the same emotions and width")
    (run / "vectors/layer_2.h5").write_bytes(b"no HDF5")
    refused(run, "not a whole HDF5 file")
    with zipfile.ZipFile(tmp_path / "bundle.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("vectors/vectors.safetensors", bytes(1 << 20))
    refused(tmp_path / "bundle.zip", "no bundle that is safe to read")
    write_archive(tmp_path / "b.zip", {"vectors/vectors.safetensors": b"\0" * 20})
    refused(tmp_path / "b.zip", "is no whole export")


def test_a_claim_takes_no_memory(tmp_path: Path) -> None:
    torch.save({1: torch.ones(1).expand(10**12)}, tmp_path / "v.pt")
    (tmp_path / "v.gguf").write_bytes(BAD_GGUF["long tensor"][0])
    folder = their_bundle(tmp_path / "b")
    (folder / "joy_chosen.npy").write_bytes(npy({"descr": "<f4", "fortran_order": False, "shape": (3, 1 << 30)}))
    tracemalloc.start()
    for path in (tmp_path / "v.pt", tmp_path / "v.gguf", folder):
        with pytest.raises(UserError):
            load_vectors(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6
