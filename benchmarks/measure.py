"""What all benchmarks share: how a list of measurements is summed up, and what they were measured on."""

import platform
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch


def median_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Median, and its 95 % bootstrap interval."""
    draws = np.median(np.random.default_rng(0).choice(values, size=(10_000, len(values))), axis=1)
    return float(np.median(values)), *(float(limit) for limit in np.quantile(draws, [0.025, 0.975]))


def hardware() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    cpu = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in cpu.read_text().splitlines() if line.startswith("model name")]
    return f"{torch.get_num_threads()} cores of {names[0] if names else platform.processor()}"
