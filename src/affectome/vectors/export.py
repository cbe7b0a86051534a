"""The vectors of a run in the formats other tools load.

- `vectors.safetensors`: a tensor `layer_{L}/{form}` (emotions, width) for each layer and form (raw, denoised, unit), the
  emotions, residual norms and fingerprints in its metadata.
- `vectors.npz`: the same arrays, with `emotions`, `layers` and `residual_norm`.
- one llama.cpp control vector per emotion, scaled so that `--control-vector-scaled FILE 0.05` is a steering strength of
  0.05 here: each direction is the unit vector times the layer's mean residual norm. llama.cpp adds `direction.{L}` to the
  output of block L and cannot steer block 0, which is therefore left out.
"""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from affectome.files import replacing
from affectome.vectors.store import Vectors, read_all

FORMS = ("raw", "denoised", "unit")


def export_vectors(
    paths: list[str | Path], safetensors: str | Path, npz: str | Path, gguf: str | Path, model_type: str
) -> None:
    """Write the vector files `paths` of one run as safetensors and NPZ files and a folder of GGUF control vectors."""
    layers = read_all(paths)
    emotions = next(iter(layers.values())).emotions
    arrays = {f"layer_{layer}/{form}": getattr(vectors, form) for layer, vectors in layers.items() for form in FORMS}
    norms = {layer: vectors.residual_norm for layer, vectors in layers.items()}
    metadata = {
        "format": "affectome.vectors",
        "emotions": json.dumps(emotions, ensure_ascii=False),
        "residual_norm": json.dumps(norms),
        "fingerprints": json.dumps({layer: vectors.fingerprint for layer, vectors in layers.items()}),
    }
    with replacing(safetensors) as temporary:
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, temporary, metadata)
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
        write_control_vector(Path(gguf) / f"{emotion.replace(' ', '_')}.gguf", layers, index, model_type)


def write_control_vector(path: Path, layers: dict[int, Vectors], emotion: int, model_type: str) -> None:
    """Write the direction of emotion number `emotion` at every layer from 1 up as a llama.cpp control vector."""
    from gguf import GGUFWriter

    steered = {layer: vectors for layer, vectors in layers.items() if layer > 0}
    writer = GGUFWriter(path, "controlvector")
    writer.add_string("controlvector.model_hint", model_type)
    writer.add_uint32("controlvector.layer_count", len(steered))
    for layer, vectors in steered.items():
        writer.add_tensor(f"direction.{layer}", (vectors.unit[emotion] * vectors.residual_norm).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
