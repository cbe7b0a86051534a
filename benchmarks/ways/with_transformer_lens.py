"""TransformerLens: `run_with_cache` per text, keeping `resid_post` of the wanted blocks, stopped after the last one.

Booted without its compatibility mode, the bridge keeps the weights as they are, so that its numbers are Transformers'.
"""

from typing import Any

import numpy as np
import torch
from transformer_lens.model_bridge import TransformerBridge
from worker import Job, Text, device, serve, tensor


def load(job: Job) -> tuple[Any, Any]:
    model = TransformerBridge.boot_transformers(job.model, device=device(), dtype=job.torch_dtype)
    names = [f"blocks.{layer}.hook_resid_post" for layer in job.layers]
    after = job.layers[-1] + 1
    stop = after if after < model.cfg.n_layers else None

    def collect(texts: list[Text]) -> np.ndarray:
        means = []
        for text in texts:
            _, cache = model.run_with_cache(tensor(text.ids), names_filter=names, stop_at_layer=stop, return_type=None)
            spans = [cache[name][0, text.first : text.end].float().mean(dim=0) for name in names]
            means.append(torch.stack(spans).cpu())
        return torch.stack(means).numpy()

    return model, collect


if __name__ == "__main__":
    serve(load, "transformer-lens")
