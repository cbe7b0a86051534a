"""What tests of the server share: tiny models with something to steer along, and the server in front of them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from affectome.identity import model_fingerprint
from affectome.serve.catalogue import Catalogue, open_file
from tests.helpers import CHAT_TEMPLATE, tiny_model, tiny_tokenizer, write_manifest

EMOTIONS = ("calm", "afraid", "proud", "sad")


def write_vectors(path: Path, width: int, layers: int, model: Path | None = None, **said: str) -> Path:
    """An export of random vectors of four emotions at every one of `layers`, with norms 10, 11, …"""
    rng = np.random.default_rng(0)
    arrays = {}
    for layer in range(layers):
        raw = rng.normal(size=(len(EMOTIONS), width)).astype(np.float32)
        arrays |= {f"layer_{layer}/raw": raw, f"layer_{layer}/denoised": raw}
        arrays[f"layer_{layer}/unit"] = raw / np.linalg.norm(raw, axis=1, keepdims=True)
    metadata = {
        "format": "affectome.vectors",
        "emotions": json.dumps(EMOTIONS),
        "residual_norm": json.dumps({layer: 10.0 + layer for layer in range(layers)}),
        "reliability": json.dumps({layer: [0.9, 0.8, 0.7, None] for layer in range(layers)}),
    }
    if model is not None:
        manifest = json.loads((model / "manifest.json").read_text())
        metadata |= {"model": model.name, "model_fingerprint": model_fingerprint(manifest)}
    save_file(arrays, path, metadata | said)
    return path


def tiny_catalogue(
    folder: Path,
    architecture: str = "llama",
    blocks: int = 3,
    width: int = 16,
    chat: str = CHAT_TEMPLATE,
    **settings: Any,
) -> Catalogue:
    """A random model in `folder` and directions of its width: four emotions, and random ones beside them.

    `calm` may be steered from −0.2 to 0.3, as if measured; the others have the range of what was not measured.
    """
    model = folder / "tiny"
    tiny_model(model, architecture, blocks, width, tokenizer=tiny_tokenizer(chat=chat), **settings)
    write_manifest(model)
    vectors = write_vectors(folder / "vectors.safetensors", width, blocks, model)
    return open_file(vectors, model, title="tiny run", safe={"calm": (-0.2, 0.3)})
