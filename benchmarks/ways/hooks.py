"""Transformers with forward hooks that copy each wanted block to the CPU, text by text: the usual script."""

from typing import Any

import numpy as np
import torch
from worker import Job, Text, load_plain, serve, tensor


def load(job: Job) -> tuple[Any, Any]:
    model = load_plain(job)
    seen: dict[int, torch.Tensor] = {}

    def reader(layer: int) -> Any:
        def hook(_module: Any, _inputs: Any, output: Any) -> None:
            hidden = output[0] if isinstance(output, tuple) else output
            seen[layer] = hidden.detach().to("cpu", torch.float32)

        return hook

    for layer in job.layers:
        model.model.layers[layer].register_forward_hook(reader(layer))

    def collect(texts: list[Text]) -> np.ndarray:
        means = []
        for text in texts:
            model(input_ids=tensor(text.ids))
            means.append(torch.stack([seen[layer][0, text.first : text.end].mean(dim=0) for layer in job.layers]))
        return torch.stack(means).numpy()

    return model, collect


if __name__ == "__main__":
    serve(load)
