"""How a run was made, in enough detail to make it again: settings, fingerprints, versions, hardware, seeds."""

import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from affectome import __version__
from affectome.activations.store import open_layer
from affectome.files import read_json, write_json

_PACKAGES = ("torch", "transformers", "numpy", "scipy", "scikit-learn", "h5py", "pandas", "snakemake", "bitsandbytes")


def write_manifest(
    summary: str | Path, activations: str | Path, model: str | Path, output: str | Path, settings: dict[str, Any]
) -> None:
    """Write the manifest of the run that `summary` summarises; `settings` is all that config says of it."""
    with open_layer(activations) as file:
        collected = {name: file.attrs[name] for name in ("device", "dtype", "tokens", "seconds", "cut")}
    content = {
        "affectome": __version__,
        "git_commit": git_commit(Path(__file__).parent),
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "settings": settings,
        "seeds": {"statistics": settings["run"]["statistics"]["seed"], "corpus": settings["corpus"].get("seed")},
        "fingerprints": read_json(summary)["fingerprints"],
        "model": read_json(model),
        "collected": collected,
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}},
        "hardware": {"machine": platform.machine(), "processor": processor(), "gpus": gpus()},
    }
    write_json(output, content)


def git_commit(folder: Path) -> str | None:
    """The commit checked out in `folder`, with `+changes` where files differ from it; None outside git."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--dirty=+changes", "--exclude=*"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        return None
    return described.stdout.strip() or None


def processor() -> str:
    """The CPU's name."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def gpus() -> list[str]:
    """Names of the GPUs that torch sees."""
    import torch

    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
