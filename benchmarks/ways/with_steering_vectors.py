"""steering-vectors: its `record_activations` on the wanted blocks, text by text."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from steering_vectors import record_activations
from transformers import AutoConfig, AutoModelForCausalLM
from worker import Job, Text, device, serve, tensor


def _config(folder: str) -> Any:
    """The model's config, read right by the Transformers before 5 that the library is tied to.

    It does not know `rope_parameters`, where Transformers 5 writes how positions turn, and would silently take its
    defaults instead.
    """
    config = AutoConfig.from_pretrained(folder)
    rope = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8")).get("rope_parameters")
    if rope:
        config.rope_theta = rope["rope_theta"]
        config.rope_scaling = None if rope["rope_type"] == "default" else rope
    return config


def load(job: Job) -> tuple[Any, Any]:
    model = AutoModelForCausalLM.from_pretrained(job.model, config=_config(job.model), dtype=job.torch_dtype)
    model = model.to(device()).eval()

    def collect(texts: list[Text]) -> np.ndarray:
        means = []
        with record_activations(model, layer_nums=job.layers) as recorded:
            for text in texts:
                model(input_ids=tensor(text.ids))
                spans = [recorded[layer].pop()[0, text.first : text.end].float().mean(dim=0) for layer in job.layers]
                means.append(torch.stack(spans).cpu())
        return torch.stack(means).numpy()

    return model, collect


if __name__ == "__main__":
    serve(load, "steering-vectors")
