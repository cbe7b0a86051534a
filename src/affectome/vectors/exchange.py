"""Steering vectors in the files of other tools: read, written, and converted from one form to another.

| format | what it is | layer numbers |
|---|---|---|
| `safetensors` | a file as `affectome.vectors.export` writes it; also inside a run's `bundle.zip` | ours |
| `gguf` | llama.cpp's and repeng's control vectors, a file for each emotion | `direction.{L}` is ours |
| `steering-vectors` | `SteeringVector`s of that library saved with `torch.save`, in one file or several | ours |
| `emotion-steering` | a folder of `{emotion}_chosen.npy`, `{emotion}_full_sweep.npy` and `metadata.json` | ours |
| `run` | a run's folder of this workflow; read only | ours |
| `arrays` | NPZ and safetensors files in the layouts of `affectome.vectors.adopt`; read only | as named there |

Layer numbers follow `affectome.layers`, and so do those of the others, as their code says: llama.cpp adds direction L
to the output of block L (`llama_adapter_cvec::apply_to`) and cannot steer block 0; repeng 0.4.0 trains on
`hidden_states[L + 1]` and adds to the output of `layers[L]`; steering-vectors 0.12.2 hooks the output of block number
`{num}`; emotion-steering 0.1.0 reads and adds at the output of `layers[L]`. No number is changed, then. Only repeng's
direction of the last block is made from what the final norm puts out, and added before that norm.

Which format a file has is told by its content. Nothing in it is executed: pickles are read by PyTorch's reader of plain
tensors alone, NumPy files without objects, and no size is believed that the file does not cover. GGUF is read here,
because `GGUFReader` of gguf 0.19 loops for as long as the length that an array claims, whatever the file holds.
"""

import json
import math
import os
import re
import shutil
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from affectome import __version__
from affectome.bundle.archive import mistakes_of_names, sha256
from affectome.errors import UserError
from affectome.files import replacing, write_json
from affectome.identity import fingerprint, model_fingerprint
from affectome.layers import auto_layer
from affectome.vectors.contrasts import unit
from affectome.vectors.export import FORMS, file_name, in_order

# What can be written.
FORMATS = ("safetensors", "gguf", "steering-vectors", "emotion-steering")

# Beyond what any model or list of emotions has; what claims more is damaged or hostile.
_MAX_LAYER, _MAX_WIDTH, _MAX_EMOTIONS, _MAX_NAME = 1023, 1 << 17, 2000, 100
_MAX_BYTES, _MAX_JSON, _MAX_HEADER = 8 << 30, 16 << 20, 100 << 20
_UNIT_TOLERANCE = 1e-4

_IN_BUNDLE = "vectors/vectors.safetensors"
_DIRECTION = re.compile(r"direction\.(\d{1,9})")
_ARRAY = re.compile(rf"layer_(\d{{1,9}})/({'|'.join(FORMS)})")
_ZIP = b"PK\x03\x04"
_PICKLE = "is a bare pickle, which can run code and is not opened; save it again with torch.save"
_STEERING_VECTOR = "steering_vectors.steering_vector.SteeringVector"
_CHOSEN, _SWEEP = "_chosen.npy", "_full_sweep.npy"


@dataclass(frozen=True, eq=False)
class Loaded:
    """Vectors as a file has them.

    `vectors` are, by layer, ascending, (emotions, width) float32 of whatever length; `raw` the contrasts that they were
    denoised from, where these are other ones. `norms` are mean residual norms by layer, None where the file has none.
    `chosen` are the layers that the file's own tool steers, where it says so. `counts` and `reliability` (None where
    unknown) are lists by layer, in the order of `emotions`. `notes` are lines on what reading changed or left out.
    """

    format: str
    emotions: tuple[str, ...]
    vectors: dict[int, np.ndarray]
    norms: dict[int, float] | None = None
    raw: dict[int, np.ndarray] | None = None
    model: str = ""
    model_type: str = ""
    model_fingerprint: str = ""
    blocks: int | None = None
    chosen: tuple[int, ...] = ()
    counts: dict[int, list[int]] | None = None
    reliability: dict[int, list[float | None]] | None = None
    notes: tuple[str, ...] = ()

    @property
    def layers(self) -> list[int]:
        return list(self.vectors)

    @property
    def width(self) -> int:
        return next(iter(self.vectors.values())).shape[1]

    def headline(self, blocks: int | None = None) -> int:
        """The layer to look at first: the middle of `chosen`, or the one nearest to two thirds of depth."""
        if self.chosen:
            return self.chosen[len(self.chosen) // 2]
        deep = auto_layer(blocks or self.blocks or self.layers[-1] + 1)
        return min(self.layers, key=lambda layer: abs(layer - deep))

    def summary(self) -> str:
        count, layers = len(self.emotions), self.layers
        numbers = f"{len(layers)} layers, {layers[0]} to {layers[-1]}" if len(layers) > 1 else f"layer {layers[0]}"
        return f"{self.format}, {count} emotion{'s' if count > 1 else ''}, {numbers}, width {self.width}"


def load_vectors(path: str | Path, strict: bool = True) -> Loaded:
    """The steering vectors at `path`, a file or folder in any of the formats of this module.

    With `strict`, vectors without a direction (NaN, infinity, or zeros alone) are refused: nobody can steer along them.
    Raises UserError, one line, for whatever is not whole, not safe, or does not hang together.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: does not exist; name a file or folder of steering vectors")
    loaded = _load_folder(path) if path.is_dir() else _load_file(path)
    _check_names(path, loaded.emotions)
    if strict:
        for layer, vectors in loaded.vectors.items():
            for emotion, row in zip(loaded.emotions, vectors, strict=True):
                if not np.isfinite(row).all():
                    raise UserError(f"{path}: the vector of {emotion} at layer {layer} holds NaN or infinity")
                if not row.any():
                    raise UserError(f"{path}: the vector of {emotion} at layer {layer} is zero and has no direction")
    return loaded


def save_vectors(loaded: Loaded, path: str | Path, format: str) -> list[str]:  # noqa: A002 - the word for it
    """Write `loaded` to `path` in `format`; returns a line for whatever the format has no place for or changes.

    `path` becomes a file for `safetensors` and a folder for every other format, and must not exist yet. Raises
    UserError where it does, or where the vectors cannot be said in that format.
    """
    path = Path(path)
    if format not in FORMATS:
        raise UserError(f"there is no format {format!r}; allowed: {', '.join(FORMATS)}")
    if path.exists() and not (path.is_dir() and format != "safetensors" and not any(path.iterdir())):
        raise UserError(f"{path}: exists already; name another target, or delete it first")
    path.parent.mkdir(parents=True, exist_ok=True)
    return {
        "safetensors": _save_safetensors,
        "gguf": _save_gguf,
        "steering-vectors": _save_steering_vectors,
        "emotion-steering": _save_emotion_steering,
    }[format](loaded, path)


def convert(source: str | Path, target: str | Path, format: str, say: Callable[[str], None]) -> None:  # noqa: A002
    """Read the steering vectors at `source`, whatever tool they are of, and write them to `target` in `format`.

    `source` is a file or folder: an export, run or bundle of affectome; control vectors of llama.cpp or repeng (GGUF),
    one or a folder of them; `SteeringVector`s of the library steering-vectors, saved with `torch.save`; or a bundle of
    emotion-steering. A file of one emotion without a name of its own is called after the file. `target` becomes

    - `safetensors`: a file that `affectome serve`, `affectome test` and `affectome.vectors.adopt` read;
    - `gguf`: a folder with a control vector for each emotion. Where residual norms are known a direction is as long as
      its layer's norm, so that `--control-vector-scaled FILE:0.05 --control-vector-layer-range L L` steers with
      strength 0.05; otherwise it is as long as it was;
    - `steering-vectors`: a folder with `{emotion}.pt` each; `SteeringVector(**torch.load("joy.pt"))` reads one;
    - `emotion-steering`: a folder that `emotion-steering serve --vectors` reads. It steers all chosen layers at once:
      those of the source where it names some, and otherwise the one at two thirds of depth.

    Layer numbers are the same in all of them. `say` is given a line for what was read, for whatever is lost or changed
    on the way, and for what was written.
    """
    loaded = load_vectors(source)
    say(f"{source}: {loaded.summary()}")
    changed = save_vectors(loaded, target, format)
    for line in (*loaded.notes, *changed):
        say(f"  {line}")
    say(f"{target}: written as {format}")


# ---------------------------------------------------------------- recognising


def _load_file(path: Path) -> Loaded:
    data = _bytes(path)
    # First, as such a file begins with a length that may look like any other beginning.
    said = _safetensors_metadata(data)
    if said is not None:
        return _own(path, data, said) if said.get("format") == "affectome.vectors" else _adopted(path)
    if data[:4] == b"GGUF":
        return _of_directions(path, "gguf", [_control_vector(path, data)])
    if data[:4] == _ZIP:
        return _load_zip(path)
    if data[:6] == b"\x93NUMPY":
        raise UserError(f"{path}: is an array without names; save arrays by emotion with numpy.savez")
    if _is_pickle(data):
        raise UserError(f"{path}: {_PICKLE}")
    raise UserError(
        f"{path}: is no file of vectors that is known here (safetensors, GGUF control vector, NPZ, torch.save of "
        f"steering-vectors, bundle.zip)"
    )


def _is_pickle(data: bytes) -> bool:
    return data[:1] == b"\x80" and data[1:2] in b"\x02\x03\x04\x05"


def _load_zip(path: Path) -> Loaded:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if _IN_BUNDLE in names:
                problem = next(mistakes_of_names(archive), None)
                if problem:
                    raise UserError(f"{path}: is no bundle that is safe to read ({problem})")
                data = archive.read(_IN_BUNDLE)
                return _own(path, data, _safetensors_metadata(data) or {})
            size = sum(item.file_size for item in archive.infolist())
    except (zipfile.BadZipFile, EOFError, ValueError, RuntimeError, struct.error, OSError) as error:
        raise UserError(f"{path}: is a ZIP archive that was cut short or damaged ({_reason(error)})") from error
    if any(name.endswith("/data.pkl") for name in names):
        _check_torch_zip(path)
        return _load_torch([path])
    if size > _MAX_BYTES:
        raise UserError(f"{path}: would unpack to more than {_MAX_BYTES >> 30} GiB")
    return _adopted(path)


def _load_folder(path: Path) -> Loaded:
    for folder in (path, path / "vectors"):
        if any(folder.glob("layer_*.h5")):
            return _load_run(folder, path)
    if (path / "metadata.json").exists():
        return _load_emotion_steering(path)
    for file in (path / _IN_BUNDLE, path / Path(_IN_BUNDLE).name):
        if file.is_file():
            return _load_file(file)
    kinds: dict[str, list[Path]] = {"gguf": [], "steering-vectors": []}
    for file in sorted(item for item in path.iterdir() if item.is_file()):
        with open(file, "rb") as handle:
            begins = handle.read(4)
        if begins == b"GGUF":
            kinds["gguf"].append(file)
        elif begins == _ZIP or _is_pickle(begins):
            kinds["steering-vectors"].append(file)
    found = [kind for kind, files in kinds.items() if files]
    if len(found) != 1:
        what = "holds files of more than one format" if found else "holds no vectors that are known here"
        raise UserError(
            f"{path}: {what}; name a folder of GGUF control vectors, of torch.save files of steering-vectors, of "
            f"emotion-steering (with metadata.json), or a run's folder"
        )
    files = kinds[found[0]]
    if len(files) > _MAX_EMOTIONS or sum(file.stat().st_size for file in files) > _MAX_BYTES:
        raise UserError(f"{path}: holds more than {_MAX_EMOTIONS} emotions or {_MAX_BYTES >> 30} GiB")
    if found[0] == "gguf":
        return _of_directions(path, "gguf", [_control_vector(file, _bytes(file)) for file in files])
    for file in files:
        _check_torch_zip(file)
    return _load_torch(files, path)


def _bytes(path: Path) -> bytes:
    if path.stat().st_size > _MAX_BYTES:
        raise UserError(f"{path}: is larger than {_MAX_BYTES >> 30} GiB, more than vectors of any model are")
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error


def _reason(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def _check_names(path: Path, emotions: tuple[str, ...]) -> None:
    if not emotions:
        raise UserError(f"{path}: holds no emotions")
    if len(emotions) > _MAX_EMOTIONS:
        raise UserError(f"{path}: names {len(emotions)} emotions; at most {_MAX_EMOTIONS} are read")
    for emotion in emotions:
        if not emotion.strip() or len(emotion) > _MAX_NAME or not emotion.isprintable():
            raise UserError(f"{path}: {emotion[:_MAX_NAME]!r} is no name of an emotion; use 1 to {_MAX_NAME} letters")
    if len(set(emotions)) < len(emotions):
        twice = next(emotion for emotion in emotions if emotions.count(emotion) > 1)
        raise UserError(f"{path}: has more than one vector of {twice}; keep one")


def _as_float32(path: Path, name: str, array: np.ndarray) -> tuple[np.ndarray, str]:
    """`array` as float32, and a note where that is not what it was; UserError for what holds no real numbers."""
    if array.dtype.kind != "f":
        raise UserError(f"{path}: {name} holds {array.dtype}, not floating-point numbers")
    if array.dtype.itemsize <= 4:
        return np.array(array, dtype=np.float32, order="C"), ""
    with np.errstate(over="ignore"):
        return array.astype(np.float32), f"{array.dtype} numbers are rounded to float32"


# ---------------------------------------------------------------- one emotion by layer: GGUF, steering-vectors


@dataclass(frozen=True)
class _Directions:
    """Vectors (width,) of one emotion by layer, from `file`."""

    emotion: str
    by_layer: dict[int, np.ndarray]
    file: Path
    model_type: str = ""


def _of_directions(path: Path, form: str, found: list[_Directions], notes: tuple[str, ...] = ()) -> Loaded:
    """Vectors of several emotions, which must have the same layers and one width."""
    first = found[0]
    if not first.by_layer:
        raise UserError(f"{first.file}: holds no directions")
    layers = sorted(first.by_layer)
    if layers[0] < 0:
        raise UserError(
            f"{first.file}: has the layer {layers[0]}, counted from the end of a model that the file does not name; "
            f"count layers from 0"
        )
    if layers[-1] > _MAX_LAYER:
        raise UserError(f"{first.file}: has the layer {layers[-1]}; no model has more than {_MAX_LAYER} blocks")
    width = first.by_layer[layers[0]].shape[0]
    for item in found:
        if set(item.by_layer) != set(layers):
            lacking = sorted(set(item.by_layer) ^ set(layers))[0]
            raise UserError(
                f"{path}: {item.emotion} and {first.emotion} have different layers (see layer {lacking}); keep the "
                f"layers that all emotions have"
            )
        for layer, vector in item.by_layer.items():
            if vector.shape != (width,) or not 0 < width <= _MAX_WIDTH:
                raise UserError(
                    f"{item.file}: the vector of {item.emotion} at layer {layer} has {vector.shape[0]} numbers, and "
                    f"that of {first.emotion} at layer {layers[0]} {width}; all should have the width of the model"
                )
    types = {item.model_type for item in found if item.model_type}
    if len(types) > 1:
        raise UserError(f"{path}: vectors of different models are mixed ({', '.join(sorted(types))})")
    return Loaded(
        format=form,
        emotions=tuple(item.emotion for item in found),
        vectors={layer: np.stack([item.by_layer[layer] for item in found]) for layer in layers},
        model_type=next(iter(types), ""),
        notes=notes,
    )


class _Cursor:
    """Reads numbers and strings of a GGUF file; ValueError where the file ends before what it claims to hold."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, size: int) -> bytes:
        if size > len(self.data) - self.at:
            raise ValueError("it ends in the middle of what it claims to hold")
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self, form: str) -> int:
        return struct.unpack(f"<{form}", self.take(struct.calcsize(f"<{form}")))[0]

    def text(self) -> str:
        return self.take(self.number("Q")).decode()


# Codes of struct by GGUF's number of a type; 8 is a string and 9 an array.
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _LIST, _F32 = 8, 9, 0


def _value(cursor: _Cursor) -> Any:
    """A value of the metadata; None for a list, which no control vector needs."""
    kind = cursor.number("I")
    if kind == _STRING:
        return cursor.text()
    if kind in _SCALARS:
        return cursor.number(_SCALARS[kind])
    if kind != _LIST:
        raise ValueError(f"it has a value of the unknown type {kind}")
    inner, length = cursor.number("I"), cursor.number("Q")
    if inner in _SCALARS:
        cursor.take(length * struct.calcsize(f"<{_SCALARS[inner]}"))
    elif inner == _STRING:
        # Every string takes room in the file, so that it ends before a length does that is too large.
        for _ in range(length):
            cursor.text()
    else:
        raise ValueError("it has lists in a list")
    return None


def _control_vector(path: Path, data: bytes) -> _Directions:
    """Read a control vector in GGUF (versions 2 and 3, little-endian)."""
    cursor = _Cursor(data)
    cursor.take(4)
    try:
        version = cursor.number("I")
        if version not in (2, 3):
            raise ValueError(f"its version is {version}; 2 and 3 are read")
        tensors, keys = cursor.number("Q"), cursor.number("Q")
        said = {}
        for _ in range(keys):
            key = cursor.text()
            said[key] = _value(cursor)
        places = {}
        for _ in range(tensors):
            name = cursor.text()
            shape = [cursor.number("Q") for _ in range(cursor.number("I"))]
            if name in places:
                raise ValueError(f"it has {name} twice")
            places[name] = shape, cursor.number("I"), cursor.number("Q")
        alignment = said.get("general.alignment", 32)
        if not isinstance(alignment, int) or not 0 < alignment <= 1 << 20:
            raise ValueError(f"its alignment is {alignment!r}")
        start = -(-cursor.at // alignment) * alignment
        by_layer = {}
        for name, (shape, kind, offset) in places.items():
            match = _DIRECTION.fullmatch(name)
            if match is None or len(shape) != 1 or kind != _F32 or int(match[1]) in by_layer:
                raise ValueError(
                    f"{name[:60]!r} is no float32 vector direction.LAYER, and a control vector holds nothing else"
                )
            cursor.at = start + offset
            vector = np.frombuffer(cursor.take(4 * shape[0]), dtype="<f4")
            by_layer[int(match[1])] = vector.astype(np.float32)
    except (ValueError, struct.error) as error:
        raise UserError(f"{path}: cannot be read as a GGUF control vector ({_reason(error)})") from error
    kind, name, hint = (said.get(key) for key in ("general.architecture", "general.name", "controlvector.model_hint"))
    if kind != "controlvector":
        raise UserError(f"{path}: is a GGUF file of {str(kind)[:60]!r}, not a control vector")
    return _Directions(
        name if isinstance(name, str) and name else path.stem, by_layer, path, hint if isinstance(hint, str) else ""
    )


def _save_gguf(loaded: Loaded, path: Path) -> list[str]:
    from gguf import GGUFWriter

    steered = [layer for layer in loaded.layers if layer > 0]
    if not steered:
        raise UserError("llama.cpp cannot steer block 0, and there are vectors of that block alone")
    directions = {layer: loaded.vectors[layer] for layer in steered}
    if loaded.norms:
        directions = {layer: unit(rows) * loaded.norms[layer] for layer, rows in directions.items()}
    names = _file_names(loaded.emotions)
    with _new_folder(path) as folder:
        for row, emotion in enumerate(loaded.emotions):
            writer = GGUFWriter(folder / f"{names[emotion]}.gguf", "controlvector")
            # repeng's and llama.cpp's readers look for no name, and skip it.
            writer.add_name(emotion)
            writer.add_string("controlvector.model_hint", loaded.model_type or loaded.model or "unknown")
            writer.add_uint32("controlvector.layer_count", len(steered))
            for layer, rows in directions.items():
                writer.add_tensor(f"direction.{layer}", np.ascontiguousarray(rows[row], dtype=np.float32))
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
            writer.close()
    lines = ["layer 0 is left out: llama.cpp cannot steer it"] if 0 in loaded.vectors else []
    if loaded.norms:
        lines.append("directions are as long as the mean residual norm (scale 0.05 is strength 0.05), not as they were")
    return [*lines, *_lost(loaded, norms=True, chosen=True, counts=True, name=True)]


def _load_torch(files: list[Path], folder: Path | None = None) -> Loaded:
    found, notes = [], {}
    for file in files:
        for emotion, layers in _steering_vectors(file).items():
            by_layer = {}
            for layer, tensor in layers.items():
                by_layer[layer], note = _of_tensor(file, emotion, layer, tensor)
                notes |= {note: None} if note else {}
            found.append(_Directions(emotion, by_layer, file))
    return _of_directions(folder or files[0], "steering-vectors", found, tuple(notes))


class _SteeringVector:
    """Stands in for the library's class while a file is read: whatever the file says of it becomes its attributes."""


def _steering_vectors(file: Path) -> dict[str, dict[int, Any]]:
    """Tensors by emotion and layer; read are tensors, numbers, text and the one class of steering-vectors alone."""
    import torch

    try:
        with torch.serialization.safe_globals([(_SteeringVector, _STEERING_VECTOR)]):
            content = torch.load(file, map_location="cpu", weights_only=True)
    # PyTorch raises what it likes over a file that is not its own, or holds more.
    except Exception as error:
        raise UserError(
            f"{file}: is no torch.save file of steering vectors that is safe to read, or is not whole "
            f"({type(error).__name__}); save SteeringVectors, or dictionaries of tensors by layer, and nothing else"
        ) from error
    one = _by_layer(file, content)
    if one is not None:
        return {file.stem: one}
    if isinstance(content, Mapping) and content and all(isinstance(name, str) for name in content):
        several = {name: _by_layer(file, item) for name, item in content.items()}
        if None not in several.values():
            return several
    raise UserError(
        f"{file}: holds no steering vectors; save a SteeringVector, a dictionary of tensors by layer, or a dictionary "
        f"of either by emotion"
    )


def _by_layer(file: Path, content: Any) -> dict[int, Any] | None:
    """Tensors by layer of a SteeringVector, of its fields or of its `layer_activations`; None for anything else."""
    fields = vars(content) if isinstance(content, _SteeringVector) else content
    if not isinstance(fields, Mapping):
        return None
    if "layer_activations" in fields:
        kind = fields.get("layer_type", "decoder_block")
        if kind != "decoder_block":
            raise UserError(
                f"{file}: holds vectors of {str(kind)[:60]!r}, which are added inside a block; only vectors of the "
                f"residual stream (decoder_block) can be used"
            )
        fields = fields["layer_activations"]
    if not isinstance(fields, Mapping) or not fields or any(type(layer) is not int for layer in fields):
        return None
    return dict(fields)


def _of_tensor(file: Path, emotion: str, layer: int, tensor: Any) -> tuple[np.ndarray, str]:
    import torch

    where = f"the vector of {emotion[:_MAX_NAME]!r} at layer {layer}"
    plain = isinstance(tensor, torch.Tensor) and tensor.layout == torch.strided and tensor.device.type == "cpu"
    if not plain or tensor.is_quantized or not tensor.is_floating_point():
        raise UserError(f"{file}: {where} is no plain tensor of floating-point numbers")
    # A tensor of any shape may be laid over a single stored number: its shape is looked at before it is copied.
    if tensor.ndim == 0 or tensor.numel() != tensor.shape[-1] or not 0 < tensor.numel() <= _MAX_WIDTH:
        raise UserError(f"{file}: {where} has the shape {tuple(tensor.shape)}; a vector (width,) is wanted")
    flat = tensor.detach().reshape(-1)
    return _as_float32(file, where, (flat if flat.dtype == torch.float64 else flat.float()).numpy())


def _check_torch_zip(file: Path) -> None:
    """Raise UserError unless `file` is an archive as torch.save writes it, whose members are stored as they are."""
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, EOFError, ValueError, RuntimeError, struct.error, OSError) as error:
        with open(file, "rb") as handle:
            what = _PICKLE if _is_pickle(handle.read(4)) else f"is not whole ({_reason(error)})"
        raise UserError(f"{file}: {what}") from error
    compressed = any(item.compress_type != zipfile.ZIP_STORED for item in members)
    if compressed or sum(item.file_size for item in members) > file.stat().st_size:
        raise UserError(
            f"{file}: holds compressed members, as torch.save does not write; save it again with torch.save"
        )


def _save_steering_vectors(loaded: Loaded, path: Path) -> list[str]:
    import torch

    names = _file_names(loaded.emotions)
    with _new_folder(path) as folder:
        for row, emotion in enumerate(loaded.emotions):
            layers = {layer: torch.from_numpy(rows[row].copy()) for layer, rows in loaded.vectors.items()}
            # The fields of a SteeringVector rather than the object: torch.load reads them without running code.
            torch.save({"layer_activations": layers, "layer_type": "decoder_block"}, folder / f"{names[emotion]}.pt")
    renamed = [emotion for emotion, name in names.items() if emotion != name]
    lines = [f"emotions are called after their files: {renamed[0]!r} is {names[renamed[0]]!r}"] if renamed else []
    return [*lines, *_lost(loaded, norms=True, chosen=True, counts=True, name=True, kind=True)]


# ---------------------------------------------------------------- emotion-steering


def _load_emotion_steering(path: Path) -> Loaded:
    said = _json(path / "metadata.json")
    try:
        emotions = _texts(said["emotions"])
        chosen = _numbers(said["chosen_layers"])
        search = _numbers(said["search_layers"]) if said.get("search_layers") else []
        hidden, blocks = said.get("hidden"), said.get("num_layers")
        last = max([*chosen, *search])
        if blocks is not None and last >= int(blocks):
            raise ValueError(f"it names layer {last} of a model with {blocks} layers")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}/metadata.json: is not as emotion-steering writes it ({_reason(error)})") from error
    _check_names(path, emotions)
    for emotion in emotions:
        if set(emotion) & set("/\\") or emotion.startswith("."):
            raise UserError(f"{path}/metadata.json: {emotion!r} cannot be part of a file's name")
    width = int(hidden) if isinstance(hidden, int) else None
    notes: dict[str, None] = {}
    at_chosen = {}
    for emotion in emotions:
        at_chosen[emotion] = _npy(path / f"{emotion}{_CHOSEN}", len(chosen), width, notes)
        width = at_chosen[emotion].shape[1]
    by_layer = {layer: np.stack([at_chosen[emotion][row] for emotion in emotions]) for row, layer in enumerate(chosen)}
    swept = [emotion for emotion in emotions if (path / f"{emotion}{_SWEEP}").exists()]
    if swept and search and len(swept) == len(emotions):
        sweeps = {emotion: _npy(path / f"{emotion}{_SWEEP}", len(search), width, notes) for emotion in emotions}
        for row, layer in enumerate(search):
            rows = np.stack([sweeps[emotion][row] for emotion in emotions])
            if layer in by_layer and not np.array_equal(rows, by_layer[layer], equal_nan=True):
                notes[f"chosen and swept vectors differ at layer {layer}; the chosen ones are taken"] = None
            by_layer.setdefault(layer, rows)
    elif swept:
        notes["the full sweep is left out: not every emotion, or no layer numbers, are there"] = None
    vectors = {layer: by_layer[layer] for layer in sorted(by_layer)}
    ours = said.get("affectome")
    return Loaded(
        format="emotion-steering",
        emotions=emotions,
        vectors=vectors,
        model=str(said.get("model", ""))[:200],
        blocks=None if blocks is None else int(blocks),
        chosen=tuple(sorted(chosen)),
        notes=tuple(notes),
        **_about(path, ours if isinstance(ours, dict) else {}, emotions, vectors),
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MAX_JSON:
            raise ValueError(f"it is larger than {_MAX_JSON >> 20} MiB")
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("it is no mapping")
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({_reason(error)})") from error
    return content


def _texts(items: Any) -> tuple[str, ...]:
    if not isinstance(items, list) or not items or not all(isinstance(item, str) for item in items):
        raise ValueError("emotions are not a list of names")
    return tuple(items)


def _numbers(items: Any) -> list[int]:
    fits = isinstance(items, list) and all(type(item) is int and 0 <= item <= _MAX_LAYER for item in items)
    if not fits or not items or len(set(items)) < len(items):
        raise ValueError(f"layers are not different numbers from 0 to {_MAX_LAYER}")
    return items


def _npy(path: Path, layers: int, width: int | None, notes: dict[str, None]) -> np.ndarray:
    """The array (layers, width) float32 in an NPY file."""
    if not path.is_file():
        raise UserError(f"{path}: is missing, though metadata.json names its emotion")
    try:
        # Mapped, an array must be as large as the file; read, memory would be taken for what its header claims.
        with np.errstate(over="raise"):
            array = np.lib.format.open_memmap(path, mode="r")
    # NumPy raises what it likes over a header that is not its own.
    except Exception as error:
        raise UserError(f"{path}: cannot be read as an array of numbers ({_reason(error)})") from error
    if array.ndim != 2 or array.shape[0] != layers or array.shape[1] != (width or array.shape[1]):
        raise UserError(
            f"{path}: has the shape {array.shape}; ({layers}, {width or 'width'}) is wanted, a row for each layer that "
            f"metadata.json names"
        )
    if not 0 < array.shape[1] <= _MAX_WIDTH:
        raise UserError(f"{path}: has vectors of {array.shape[1]} numbers; at most {_MAX_WIDTH} are read")
    found, note = _as_float32(path, "the array", array)
    notes |= {note: None} if note else {}
    return found


def _save_emotion_steering(loaded: Loaded, path: Path) -> list[str]:
    unfit = [emotion for emotion in loaded.emotions if set(emotion) & set("/\\") or emotion.startswith(".")]
    called = {emotion: file_name(emotion) if emotion in unfit else emotion for emotion in loaded.emotions}
    if len(set(called.values())) < len(called):
        raise UserError(f"emotions such as {unfit[0]!r} cannot be told apart in files' names; rename them first")
    chosen = list(loaded.chosen) or [loaded.headline()]
    metadata = {
        "model": loaded.model or loaded.model_type or "unknown",
        "emotions": list(called.values()),
        **({"num_layers": loaded.blocks} if loaded.blocks else {}),
        "hidden": loaded.width,
        "search_layers": loaded.layers,
        "chosen_layers": chosen,
        "convention_inject": "post_block_residual_stream",
        "normalization": "none",
        "extractor_version": f"affectome {__version__}",
        "affectome": {
            name: content
            for name, content in (
                ("residual_norm", loaded.norms),
                ("counts", loaded.counts),
                ("reliability", loaded.reliability),
                ("model_type", loaded.model_type),
                ("model_fingerprint", loaded.model_fingerprint),
            )
            if content
        },
    }
    with _new_folder(path) as folder:
        for row, emotion in enumerate(loaded.emotions):
            stem = called[emotion]
            np.save(folder / f"{stem}{_CHOSEN}", np.stack([loaded.vectors[layer][row] for layer in chosen]))
            np.save(folder / f"{stem}{_SWEEP}", np.stack([rows[row] for rows in loaded.vectors.values()]))
        write_json(folder / "metadata.json", metadata)
    lines = [f"{unfit[0]!r} is called {called[unfit[0]]!r}: emotions are parts of files' names"] if unfit else []
    if not loaded.chosen:
        lines.append(f"layer {chosen[0]} is the chosen one, which emotion-steering steers; all layers are in the sweep")
    return [*lines, "the validation AUCs that emotion-steering prints are not known", *_lost(loaded)]


# ---------------------------------------------------------------- exports, runs and arrays of affectome


def _safetensors_metadata(data: bytes) -> dict[str, str] | None:
    """What a safetensors file says about itself; None where `data` is no such file."""
    size = int.from_bytes(data[:8], "little")
    if size > min(len(data) - 8, _MAX_HEADER) or data[8:9] != b"{":
        return None
    try:
        header = json.loads(data[8 : 8 + size])
    except (ValueError, RecursionError):
        return None
    said = header.get("__metadata__") or {}
    return said if isinstance(said, dict) else {}


def _own(path: Path, data: bytes, said: dict[str, str]) -> Loaded:
    """An export of affectome, from the bytes of its file."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        arrays = load(data)
        emotions = _texts(json.loads(said["emotions"]))
        about = {key: json.loads(said[key]) for key in ("residual_norm", "counts", "reliability") if key in said} | {
            key: said[key] for key in ("model", "model_fingerprint", "model_type") if key in said
        }
    except (SafetensorError, KeyError, ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{path}: is no whole export of affectome ({_reason(error)})") from error
    _check_names(path, emotions)
    found: dict[str, dict[int, np.ndarray]] = {form: {} for form in FORMS}
    notes: dict[str, None] = {}
    for name, array in arrays.items():
        match = _ARRAY.fullmatch(name)
        if match is None or int(match[1]) > _MAX_LAYER:
            raise UserError(f"{path}: holds {name[:60]!r}; an export has arrays layer_L/raw, /denoised and /unit alone")
        if array.ndim != 2 or array.shape[0] != len(emotions) or not 0 < array.shape[1] <= _MAX_WIDTH:
            raise UserError(
                f"{path}: {name} has the shape {array.shape}; ({len(emotions)}, width) is wanted, a row for each "
                f"emotion"
            )
        found[match[2]][int(match[1])], note = _as_float32(path, name, array)
        notes |= {note: None} if note else {}
    layers = sorted(found["denoised"])
    if not layers or any(set(found[form]) != set(layers) for form in FORMS):
        raise UserError(f"{path}: lacks an array; every layer needs {', '.join(FORMS)}")
    widths = {array.shape[1] for form in FORMS for array in found[form].values()}
    if len(widths) > 1:
        raise UserError(f"{path}: has vectors of different widths ({', '.join(map(str, sorted(widths)))})")
    for layer in layers:
        with np.errstate(all="ignore"):
            off = np.abs(found["unit"][layer] - unit(found["denoised"][layer].astype(np.float64))).max(axis=1)
        # Comparisons with NaN are false: such vectors are a matter for whoever reads the values.
        wrong = [emotion for emotion, distance in zip(emotions, off, strict=True) if distance > _UNIT_TOLERANCE]
        if wrong:
            raise UserError(
                f"{path}: layer_{layer}/unit is not layer_{layer}/denoised at length 1 (see {wrong[0]}); make it again"
            )
    vectors = {layer: found["denoised"][layer] for layer in layers}
    raw = {layer: found["raw"][layer] for layer in layers}
    return Loaded(
        format="safetensors",
        emotions=emotions,
        vectors=vectors,
        raw=_other(raw, vectors),
        model=str(about.get("model", ""))[:200],
        notes=tuple(notes),
        **_about(path, about, emotions, vectors),
    )


def _about(
    path: Path, said: dict[str, Any], emotions: tuple[str, ...], vectors: dict[int, np.ndarray]
) -> dict[str, Any]:
    """What a file says by layer beside its vectors; all of it is optional, and wrong nowhere."""

    def by_layer(key: str) -> dict[int, Any] | None:
        content = said.get(key)
        if content is None:
            return None
        if not isinstance(content, dict) or set(content) != {str(layer) for layer in vectors}:
            raise UserError(f"{path}: its {key} is not of the layers that it has vectors of")
        return {int(layer): content[str(layer)] for layer in vectors}

    def is_number(value: Any) -> bool:
        return type(value) in (int, float) and math.isfinite(value)

    norms = by_layer("residual_norm")
    if norms is not None and all(norm is None for norm in norms.values()):
        norms = None
    if norms is not None and not all(is_number(norm) and norm > 0 for norm in norms.values()):
        raise UserError(f"{path}: its residual_norm holds what is no positive number")
    lists = {"counts": by_layer("counts"), "reliability": by_layer("reliability")}
    for key, content in lists.items():
        fits = content is None or all(
            isinstance(values, list)
            and len(values) == len(emotions)
            and all(is_number(value) or (value is None and key == "reliability") for value in values)
            for values in content.values()
        )
        if not fits:
            raise UserError(f"{path}: its {key} are not a number for each emotion at every layer")
    texts = {key: str(said.get(key, ""))[:200] for key in ("model_type", "model_fingerprint")}
    return {"norms": norms, **lists, **texts}


def _save_safetensors(loaded: Loaded, path: Path) -> list[str]:
    from safetensors.numpy import save

    arrays, digests = {}, {}
    for layer, rows in loaded.vectors.items():
        arrays[f"layer_{layer}/raw"] = np.ascontiguousarray(loaded.raw[layer] if loaded.raw else rows)
        arrays[f"layer_{layer}/denoised"] = np.ascontiguousarray(rows)
        arrays[f"layer_{layer}/unit"] = unit(rows.astype(np.float64)).astype(np.float32)
        digests[layer] = fingerprint(["converted", layer, loaded.emotions, sha256(rows.tobytes())])
    metadata = {
        "format": "affectome.vectors",
        "emotions": json.dumps(loaded.emotions, ensure_ascii=False),
        "residual_norm": json.dumps({layer: (loaded.norms or {}).get(layer) for layer in loaded.layers}),
        "fingerprints": json.dumps(digests),
        **({"counts": json.dumps(loaded.counts)} if loaded.counts else {}),
        **({"reliability": json.dumps(loaded.reliability)} if loaded.reliability else {}),
        **{key: getattr(loaded, key) for key in ("model", "model_type", "model_fingerprint") if getattr(loaded, key)},
    }
    with replacing(path) as temporary:
        temporary.write_bytes(in_order(save(arrays, metadata)))
    lines = []
    if not loaded.norms:
        lines.append(
            "residual norms are not known (null): strengths, which are fractions of them, cannot be stated, and "
            "`affectome serve` needs them"
        )
    if loaded.chosen:
        lines.append(f"that layers {', '.join(map(str, loaded.chosen))} were chosen is lost")
    return lines


def _load_run(folder: Path, path: Path) -> Loaded:
    """The vector files of a run; the model is the one that its manifest or, without one, its export names."""
    from affectome.vectors.store import read_all

    files = sorted(folder.glob("layer_*.h5"))
    if len(files) > _MAX_LAYER + 1 or sum(file.stat().st_size for file in files) > _MAX_BYTES:
        raise UserError(f"{folder}: holds more than {_MAX_LAYER + 1} layers or {_MAX_BYTES >> 30} GiB")
    try:
        found = read_all(files)
    except (KeyError, ValueError, TypeError, OSError, RuntimeError, AttributeError) as error:
        raise UserError(f"{folder}: its vector files cannot be read ({_reason(error)})") from error
    first = next(iter(found.values()))
    shape = (len(first.emotions), first.unit.shape[-1])
    for layer, item in found.items():
        if item.emotions != first.emotions or any(getattr(item, form).shape != shape for form in FORMS):
            raise UserError(f"{folder}: layers {first.layer} and {layer} are not of the same emotions and width")
    vectors = {layer: item.denoised for layer, item in found.items()}
    norms = {layer: item.residual_norm for layer, item in found.items()}
    known = all(math.isfinite(norm) and norm > 0 for norm in norms.values())
    return Loaded(
        format="run",
        emotions=first.emotions,
        vectors=vectors,
        raw=_other({layer: item.raw for layer, item in found.items()}, vectors),
        norms=norms if known else None,
        counts={layer: item.counts.tolist() for layer, item in found.items()},
        reliability={
            layer: [float(value) if np.isfinite(value) else None for value in item.reliability]
            for layer, item in found.items()
        },
        **_model_of_run(folder, path),
    )


def _other(raw: dict[int, np.ndarray], vectors: dict[int, np.ndarray]) -> dict[int, np.ndarray] | None:
    """`raw` vectors, where they are other ones than `vectors`."""
    same = all(np.array_equal(raw[layer], rows, equal_nan=True) for layer, rows in vectors.items())
    return None if same else raw


def _model_of_run(folder: Path, path: Path) -> dict[str, Any]:
    for manifest in (path / "manifest.json", path.parent / "manifest.json"):
        if manifest.is_file():
            model = _json(manifest).get("model")
            if isinstance(model, dict) and isinstance(model.get("sha256"), dict):
                return {
                    "model": str(model.get("model", "")),
                    "model_type": str(model.get("model_type", "")),
                    "model_fingerprint": model_fingerprint(model),
                    "blocks": model["blocks"] if type(model.get("blocks")) is int else None,
                }
    export = folder / "vectors.safetensors"
    if not export.is_file():
        return {}
    with open(export, "rb") as handle:
        size = min(int.from_bytes(handle.read(8), "little"), _MAX_JSON)
        handle.seek(0)
        said = _safetensors_metadata(handle.read(size + 8)) or {}
    return {key: said[key] for key in ("model", "model_fingerprint") if isinstance(said.get(key), str)}


def _adopted(path: Path) -> Loaded:
    """Arrays of a file in one of the layouts that `affectome.vectors.adopt` recognises."""
    from affectome.vectors.adopt import read_file

    found = read_file(path).layers
    first = next(iter(found.values()))
    if max(found) > _MAX_LAYER or not 0 < first.unit.shape[1] <= _MAX_WIDTH:
        raise UserError(f"{path}: has a layer beyond {_MAX_LAYER} or vectors of more than {_MAX_WIDTH} numbers")
    notes: dict[str, None] = {}
    vectors = {}
    for layer, item in found.items():
        # Read as float64 whatever they were: only numbers that float32 cannot hold are worth a note.
        vectors[layer], note = _as_float32(path, f"layer {layer}", item.denoised)
        notes |= {note: None} if note and not np.array_equal(vectors[layer], item.denoised) else {}
    norms = {layer: item.residual_norm for layer, item in found.items()}
    known = all(math.isfinite(norm) and norm > 0 for norm in norms.values())
    return Loaded("arrays", first.emotions, vectors, norms if known else None, notes=tuple(notes))


# ---------------------------------------------------------------- writing


def _file_names(emotions: tuple[str, ...]) -> dict[str, str]:
    names = {emotion: file_name(emotion) for emotion in emotions}
    for emotion, name in names.items():
        other = next((one for one in names if names[one].lower() == name.lower() and one != emotion), None)
        if other is not None:
            raise UserError(f"{emotion!r} and {other!r} would both be the file {name!r}; rename one of them first")
    return names


@contextmanager
def _new_folder(path: Path) -> Iterator[Path]:
    """A folder that appears at `path` when the block ends well, and not at all otherwise."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.mkdir()
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _lost(
    loaded: Loaded,
    norms: bool = False,
    chosen: bool = False,
    counts: bool = False,
    name: bool = False,
    kind: bool = False,
) -> list[str]:
    """What is known and lost where a format has no place for it; raw vectors have one in safetensors alone."""
    lost = [
        "raw vectors" if loaded.raw else "",
        "residual norms, the unit of strengths" if norms and loaded.norms else "",
        "which layers were chosen" if chosen and loaded.chosen else "",
        "counts of texts and reliabilities" if counts and (loaded.counts or loaded.reliability) else "",
        "the model's name" if name and loaded.model else "",
        "the model's type" if kind and loaded.model_type else "",
    ]
    named = [item for item in lost if item]
    return [f"the format has no place for {'; '.join(named)}"] if named else []
