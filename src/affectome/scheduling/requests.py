"""What jobs ask a scheduler for: what they need, with room to be wrong, and more with every attempt."""

import math
from collections.abc import Callable
from typing import Any

from affectome.config import Config
from affectome.scheduling.devices import WHOLE
from affectome.scheduling.needs import Needs

# Estimates are good to a factor of two, and a file system may be slow.
_MEMORY_MARGIN = 1.5
_TIME_MARGIN = 3.0
_TIME_SPARE_S = 600.0

# Snakemake runs once more inside every cluster job, and counts against its memory.
_SNAKEMAKE_MB = 300

# Rules whose jobs ask for the GPUs of their model's entry.
GPU_RULES = frozenset(
    {
        "collect_activations",
        "steering_trial",
        "generate_stories",
        "generate_dialogues",
        "readouts",
        "external_projections",
        "coloured_passages",
    }
)


def requests(config: Config, rule: str) -> dict[str, Callable[..., int]]:
    """Snakemake resources of `rule`, functions of wildcards and attempt: `mem_mb`, `runtime` (minutes), and of rules
    that run a model `gpu` (whole devices) and `gpu_percent` (what a job takes of this machine's pool).

    A job that failed is given twice, then three times as much, whatever it failed of.
    """
    needs = Needs(config)

    def mem_mb(wildcards: Any, attempt: int) -> int:
        return attempt * math.ceil(_MEMORY_MARGIN * needs(rule, wildcards).memory + _SNAKEMAKE_MB)

    def runtime(wildcards: Any, attempt: int) -> int:
        return attempt * math.ceil((_TIME_MARGIN * needs(rule, wildcards).seconds + _TIME_SPARE_S) / 60)

    def gpu(wildcards: Any) -> int:
        return model_of(config, wildcards).gpus

    def gpu_percent(wildcards: Any) -> int:
        model = model_of(config, wildcards)
        return WHOLE * model.gpus // model.jobs_per_gpu

    asked: dict[str, Callable[..., int]] = {"mem_mb": mem_mb, "runtime": runtime}
    return asked | {"gpu": gpu, "gpu_percent": gpu_percent} if rule in GPU_RULES else asked


def model_of(config: Config, wildcards: Any) -> Any:
    """The entry of the model that a job with `wildcards` runs."""
    if hasattr(wildcards, "model"):
        return config.models[wildcards.model]
    if hasattr(wildcards, "run"):
        return config.models[config.run_definitions[wildcards.run].model]
    return config.models[config.corpora[wildcards.corpus].model]
