"""Transformers with `output_hidden_states=True`, in batches in the corpus' order, padded on the right."""

from typing import Any

import numpy as np
import torch
from worker import Job, Text, device, load_plain, serve


def load(job: Job) -> tuple[Any, Any]:
    model = load_plain(job)
    last = model.config.num_hidden_layers - 1
    seen: dict[int, torch.Tensor] = {}

    def hook(_module: Any, _inputs: Any, output: Any) -> None:
        seen[last] = output[0] if isinstance(output, tuple) else output

    # Of the last block Transformers gives what the final norm made of its output.
    if last in job.layers:
        model.model.layers[last].register_forward_hook(hook)

    def collect(texts: list[Text]) -> np.ndarray:
        means = []
        for start in range(0, len(texts), job.batch):
            batch = texts[start : start + job.batch]
            longest = max(len(text.ids) for text in batch)
            ids = torch.tensor([text.ids + [0] * (longest - len(text.ids)) for text in batch], device=device())
            mask = torch.tensor([[1] * len(text.ids) + [0] * (longest - len(text.ids)) for text in batch])
            states = model(input_ids=ids, attention_mask=mask.to(device()), output_hidden_states=True).hidden_states
            wanted = [seen[last] if layer == last else states[layer + 1] for layer in job.layers]
            for row, text in enumerate(batch):
                spans = [hidden[row, text.first : text.end].float().mean(dim=0) for hidden in wanted]
                means.append(torch.stack(spans).cpu())
        return torch.stack(means).numpy()

    return model, collect


if __name__ == "__main__":
    serve(load)
