"""Exported vectors come back as they are in the vector files, in the forms that other tools load.

What llama.cpp's loader demands of a control vector (`common_control_vector_load_one`): tensors `direction.{L}` with L
at least 1, float32, of one dimension and one length; `direction.0` is an error. Its own generator also writes the
architecture `controlvector`, `controlvector.model_hint` and `controlvector.layer_count`.
"""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader
from safetensors import safe_open

from affectome.identity import model_fingerprint
from affectome.vectors.export import FORMS, export_vectors, file_name
from affectome.vectors.store import Vectors, read_vectors
from tests.planted import vector_file

EMOTIONS = ["afraid", "at ease", "grief-stricken"]
LAYERS = (0, 3, 11)
WIDTH = 33
MODEL = {"model": "tiny", "model_type": "llama", "sha256": {"model.safetensors": "0a"}}


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    rng = np.random.default_rng(0)
    return [
        vector_file(tmp_path / f"layer_{layer}.h5", layer, EMOTIONS, 3 * rng.normal(size=(3, WIDTH)), 100.5 + layer)
        for layer in LAYERS
    ]


@pytest.fixture
def originals(files: list[Path]) -> dict[int, Vectors]:
    return {layer: read_vectors(file) for layer, file in zip(LAYERS, files, strict=True)}


def export(files: list[Path], folder: Path) -> tuple[Path, Path, Path]:
    folder.mkdir(exist_ok=True)
    paths = folder / "vectors.safetensors", folder / "vectors.npz", folder / "gguf"
    export_vectors(list(files), *paths, MODEL)
    return paths


def test_safetensors_hold_every_layer_and_form(
    files: list[Path], originals: dict[int, Vectors], tmp_path: Path
) -> None:
    path, _, _ = export(files, tmp_path / "out")
    with safe_open(path, "numpy") as file:
        assert set(file.keys()) == {f"layer_{layer}/{form}" for layer in LAYERS for form in FORMS}
        for layer, vectors in originals.items():
            for form in FORMS:
                tensor = file.get_tensor(f"layer_{layer}/{form}")
                assert tensor.dtype == np.float32
                np.testing.assert_array_equal(tensor, getattr(vectors, form))
        metadata = file.metadata()
    assert metadata["format"] == "affectome.vectors"
    assert json.loads(metadata["emotions"]) == EMOTIONS
    assert json.loads(metadata["residual_norm"]) == {"0": 100.5, "3": 103.5, "11": 111.5}
    assert json.loads(metadata["fingerprints"]) == {"0": "key0", "3": "key3", "11": "key11"}
    assert json.loads(metadata["counts"]) == {str(layer): of.counts.tolist() for layer, of in originals.items()}
    assert json.loads(metadata["reliability"])["3"] == pytest.approx(originals[3].reliability.tolist(), nan_ok=True)
    assert metadata["model"] == "tiny"
    assert metadata["model_fingerprint"] == model_fingerprint(MODEL)


def test_npz_holds_the_same(files: list[Path], originals: dict[int, Vectors], tmp_path: Path) -> None:
    _, path, _ = export(files, tmp_path / "out")
    with np.load(path, allow_pickle=False) as file:
        assert file["emotions"].tolist() == EMOTIONS
        assert file["layers"].tolist() == list(LAYERS)
        assert file["residual_norm"].tolist() == [100.5, 103.5, 111.5]
        for layer, vectors in originals.items():
            for form in FORMS:
                np.testing.assert_array_equal(file[f"layer_{layer}/{form}"], getattr(vectors, form))


def test_control_vectors_are_what_llama_cpp_loads(
    files: list[Path], originals: dict[int, Vectors], tmp_path: Path
) -> None:
    folder = export(files, tmp_path / "out")[2]
    assert sorted(path.name for path in folder.iterdir()) == ["afraid.gguf", "at_ease.gguf", "grief-stricken.gguf"]
    for index, emotion in enumerate(EMOTIONS):
        reader = GGUFReader(folder / f"{file_name(emotion)}.gguf")
        assert reader.get_field("general.architecture").contents() == "controlvector"
        assert reader.get_field("general.name").contents() == emotion
        assert reader.get_field("controlvector.model_hint").contents() == "llama"
        assert reader.get_field("controlvector.layer_count").contents() == 2
        assert [tensor.name for tensor in reader.tensors] == ["direction.3", "direction.11"]
        for tensor, layer in zip(reader.tensors, (3, 11), strict=True):
            assert tensor.tensor_type == GGMLQuantizationType.F32
            assert tensor.shape.tolist() == [WIDTH]
            np.testing.assert_allclose(tensor.data, originals[layer].unit[index] * (100.5 + layer), rtol=1e-6)
            # Scaled by 0.05 it is as long as a steering strength of 0.05.
            assert np.linalg.norm(0.05 * tensor.data) == pytest.approx(0.05 * (100.5 + layer), rel=1e-5)


def test_neither_repetition_nor_the_order_of_files_changes_a_byte(files: list[Path], tmp_path: Path) -> None:
    def written(folder: Path) -> dict[str, bytes]:
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    for number, order in enumerate((files, files, files[::-1], files, files)):
        export(order, tmp_path / f"out{number}")
    first = written(tmp_path / "out0")
    assert len(first) == 5
    for number in range(1, 5):
        assert written(tmp_path / f"out{number}") == first


def test_file_names_are_safe() -> None:
    assert [file_name(emotion) for emotion in EMOTIONS] == ["afraid", "at_ease", "grief-stricken"]
    # A colon would end the name in `--control-vector-scaled NAME:SCALE`.
    for emotion in ("love/hate", "../up", "a:b", 'so "sad"', "naïve", "it's", "a,b"):
        assert re.fullmatch(r"[\w-]+", file_name(emotion))


def test_shipped_emotions_have_different_file_names() -> None:
    emotions = (Path(__file__).parents[2] / "resources/emotions/171.txt").read_text(encoding="utf-8").split("\n")[:-1]
    assert len({file_name(emotion) for emotion in emotions}) == len(emotions) == 171
