"""nnsight: a trace per text that saves the average of each wanted block, stopped after the last one."""

from typing import Any

import numpy as np
import torch
from nnsight import TransformersModel
from worker import Job, Text, device, serve, tensor


def load(job: Job) -> tuple[Any, Any]:
    model = TransformersModel(
        job.model, task="text-generation", dispatch=True, dtype=job.torch_dtype, device=str(device())
    )
    blocks = model.model.layers
    stops = job.layers[-1] < len(blocks) - 1

    def collect(texts: list[Text]) -> np.ndarray:
        means = []
        for text in texts:
            with model.trace(tensor(text.ids)) as tracer:
                spans = [blocks[layer].output[0, text.first : text.end].float().mean(dim=0) for layer in job.layers]
                found = torch.stack(spans).cpu().save()
                if stops:
                    tracer.stop()
            means.append(found)
        return torch.stack(means).numpy()

    return model, collect


if __name__ == "__main__":
    serve(load, "nnsight")
