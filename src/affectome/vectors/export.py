"""The vectors of a run in the formats other tools load.

- `vectors.safetensors`: a tensor `layer_{L}/{form}` (emotions, width) for each layer and form (raw, denoised, unit);
  emotions, residual norms, fingerprints, counts and reliabilities by layer, and the model's name and fingerprint
  (`affectome.identity.model_fingerprint`) in its metadata.
- `vectors.npz`: the same arrays, with `emotions`, `layers` and `residual_norm`.
- one llama.cpp control vector per emotion: each direction is the unit vector times the layer's mean residual norm, so
  that `--control-vector-scaled FILE:0.05 --control-vector-layer-range L L` steers block L with strength 0.05. Without a
  range llama.cpp steers every block of the file at once. It adds `direction.{L}` to the output of block L and cannot
  steer block 0, which is therefore left out.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from affectome.files import replacing
from affectome.identity import model_fingerprint
from affectome.vectors.store import Vectors, read_all

FORMS = ("raw", "denoised", "unit")


def export_vectors(
    paths: list[str | Path], safetensors: str | Path, npz: str | Path, gguf: str | Path, model: Mapping[str, Any]
) -> None:
    """Write the vector files `paths` of one run as safetensors and NPZ files and a folder of GGUF control vectors.

    `model` is the manifest of the model that the vectors are of.
    """
    layers = read_all(paths)
    emotions = next(iter(layers.values())).emotions
    arrays = {f"layer_{layer}/{form}": getattr(vectors, form) for layer, vectors in layers.items() for form in FORMS}
    norms = {layer: vectors.residual_norm for layer, vectors in layers.items()}
    metadata = {
        "format": "affectome.vectors",
        "emotions": json.dumps(emotions, ensure_ascii=False),
        "residual_norm": json.dumps(norms),
        "fingerprints": json.dumps({layer: vectors.fingerprint for layer, vectors in layers.items()}),
        "counts": json.dumps({layer: vectors.counts.tolist() for layer, vectors in layers.items()}),
        "reliability": json.dumps({layer: _known(vectors.reliability) for layer, vectors in layers.items()}),
        "model": model["model"],
        "model_fingerprint": model_fingerprint(model),
    }
    with replacing(safetensors) as temporary:
        temporary.write_bytes(in_order(save(arrays, metadata)))
    with replacing(npz) as temporary, open(temporary, "wb") as handle:
        np.savez(
            handle,
            emotions=np.array(emotions),
            layers=np.array(list(layers)),
            residual_norm=np.array(list(norms.values())),
            **arrays,
        )
    Path(gguf).mkdir(parents=True, exist_ok=True)
    for index, emotion in enumerate(emotions):
        write_control_vector(Path(gguf) / f"{file_name(emotion)}.gguf", layers, index, emotion, model["model_type"])


def _known(values: np.ndarray) -> list[float | None]:
    return [float(value) if np.isfinite(value) else None for value in values]


def file_name(emotion: str) -> str:
    """`emotion` as a file name without spaces or signs that a shell or llama.cpp would read."""
    return re.sub(r"[^\w-]+", "_", emotion)


def in_order(safetensors: bytes) -> bytes:
    """The same file with its header's keys sorted; the library writes metadata in an order that differs by run."""
    size = int.from_bytes(safetensors[:8], "little")
    header = json.dumps(json.loads(safetensors[8 : 8 + size]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + safetensors[8 + size :]


def write_control_vector(path: Path, layers: dict[int, Vectors], emotion: int, name: str, model_type: str) -> None:
    """Write the direction of emotion number `emotion` at layers from 1 up as the llama.cpp control vector `name`."""
    from gguf import GGUFWriter

    steered = {layer: vectors for layer, vectors in layers.items() if layer > 0}
    writer = GGUFWriter(path, "controlvector")
    writer.add_name(name)
    writer.add_string("controlvector.model_hint", model_type)
    writer.add_uint32("controlvector.layer_count", len(steered))
    for layer, vectors in steered.items():
        writer.add_tensor(f"direction.{layer}", (vectors.unit[emotion] * vectors.residual_norm).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
