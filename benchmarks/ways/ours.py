"""affectome's own collector, as the workflow runs it."""

from typing import Any

import numpy as np
from worker import Job, Text, serve

from affectome.activations.engine import Engine
from affectome.activations.tokens import TokenText, plan_batches
from affectome.models.load import load_weights


def averages(engine: Engine, texts: list[Text]) -> np.ndarray:
    """Averages (texts, layers, width) of `texts`."""
    tokens = [TokenText(tuple(text.ids), 0, len(text.ids)) for text in texts]
    batches = plan_batches([len(text.ids) for text in texts], engine.budget("auto"))
    spans = [(text.first, text.end) for text in texts]
    cores = engine.cores_per_pass(len(batches))
    means = np.empty((len(texts), len(engine.layers), engine.model.config.hidden_size), np.float32)
    with engine.reading(tokens, spans, list(enumerate(batches)), cores) as results:
        for result in results:
            means[result.texts] = result.pooled.transpose(1, 0, 2)
    return means


def load(job: Job) -> tuple[Any, Any, dict[str, Any]]:
    model = load_weights(job.model, job.dtype)
    engine = Engine(model, job.layers, job.threads)
    # Before compiling, which hides the operations.
    facts = {"flops_per_token": engine.flops_per_token(), "ceiling": engine.ceiling()}
    if job.compiled:
        engine.compile()
    return model, lambda texts: averages(engine, texts), facts


if __name__ == "__main__":
    serve(load, "affectome")
