"""Load a fetched model for inference on the device and in the precision that suit it."""

import logging
from pathlib import Path
from typing import Any

import torch
from torch import nn

from affectome.errors import UserError
from affectome.files import read_json
from affectome.identity import file_sha256
from affectome.models.anatomy import check_config

log = logging.getLogger(__name__)

# What weights may fill of a GPU, which needs room for activations too.
_WEIGHTS_SHARE = 0.85

# Embeddings and norms stay as they are, so quantised models take more than their bits.
_BYTES_QUANTISED = {"4bit": 0.7, "8bit": 1.2}


def best_device() -> torch.device:
    """The GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def native_bfloat16(device: torch.device) -> bool:
    """Whether matrix products in bfloat16 run in hardware, not by emulation that is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    capabilities = torch.backends.cpu.get_cpu_capability()
    if "AVX512" in capabilities:
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return False


def resolve_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """The precision a config entry means on `device`; `auto` is bfloat16 where native, else float32.

    Raises UserError for float16 on a CPU, where it is a hundred times slower than float32.
    """
    if dtype == "auto":
        return torch.bfloat16 if native_bfloat16(device) else torch.float32
    if dtype == "float16" and device.type == "cpu":
        raise UserError("dtype float16 needs a GPU; use auto, bfloat16 or float32 on this machine")
    return getattr(torch, dtype)


def read_config(folder: str | Path, trust_remote_code: bool = False) -> Any:
    """The Transformers config of the model in `folder`; raises UserError where it cannot be read or is no decoder's."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except Exception as error:
        raise _cannot(folder, "read its config.json", error) from error
    check_config(config)
    return config


def load_model(
    folder: str | Path, dtype: str, quantization: str = "none", trust_remote_code: bool = False
) -> tuple[nn.Module, Any]:
    """The model in `folder` in evaluation mode, and its tokenizer: see `load_weights` and `load_tokenizer`."""
    tokenizer = load_tokenizer(folder, trust_remote_code)
    return load_weights(folder, dtype, quantization, trust_remote_code), tokenizer


def load_tokenizer(folder: str | Path, trust_remote_code: bool = False) -> Any:
    """The tokenizer of the model in `folder`; raises UserError where it cannot be loaded."""
    from transformers import AutoTokenizer

    read_config(folder, trust_remote_code)
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except Exception as error:
        raise _cannot(folder, "load its tokenizer", error) from error


def load_weights(
    folder: str | Path, dtype: str, quantization: str = "none", trust_remote_code: bool = False
) -> nn.Module:
    """The model in `folder` in evaluation mode, on one device, or spread by accelerate where it does not fit into one.

    Raises UserError where a package is missing, the folder cannot be loaded, its weights lack some of the model, or all
    GPUs there are do not hold it.
    """
    from transformers import AutoModelForCausalLM

    device = best_device()
    config = read_config(folder, trust_remote_code)
    precision = resolve_dtype(dtype, device)
    place: Any = {"": device}
    if device.type == "cuda":
        free = [torch.cuda.mem_get_info(index)[0] for index in range(torch.cuda.device_count())]
        place = placement(weight_bytes(Path(folder), config.dtype or precision, precision, quantization), free)
    settings: dict[str, Any] = {"dtype": precision, "trust_remote_code": trust_remote_code, "device_map": place}
    if quantization != "none":
        settings["quantization_config"] = _bitsandbytes(quantization, precision)
    # What can go wrong here is as varied as the models; whatever it is, its reader needs the message, not the trace.
    try:
        model, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, **settings)
    except Exception as error:
        raise _cannot(folder, "load it", error) from error
    missing = sorted(report["missing_keys"])
    if missing:
        # Transformers would go on with random numbers in their place.
        raise UserError(
            f"{folder}: the weights lack {len(missing)} tensors of the model, {missing[0]} first; fetch it again"
        )
    where = "several GPUs" if place == "auto" else place[""]
    log.info("loaded %s: %s on %s, quantisation %s", folder, precision, where, quantization)
    return model.eval()


def weight_bytes(folder: Path, stored: torch.dtype, precision: torch.dtype, quantization: str) -> float:
    """Bytes that the weights in `folder` will take in `precision`, or quantised, once loaded."""
    numbers = sum(file.stat().st_size for kind in ("*.safetensors", "*.bin") for file in folder.glob(kind))
    return numbers / stored.itemsize * _BYTES_QUANTISED.get(quantization, precision.itemsize)


def placement(needed: float, free: list[int]) -> dict[str, int] | str:
    """Where a model of `needed` bytes goes, by the `free` bytes of each GPU: onto one of them, or "auto" over all.

    One GPU reads faster than several that wait for each other. Raises UserError where all together are too small.
    """
    if needed > _WEIGHTS_SHARE * sum(free):
        raise UserError(
            f"the model needs about {needed / 2**30:.0f} GiB and the GPUs have {sum(free) / 2**30:.0f} GiB free; use "
            f"more GPUs (models.*.gpus) or quantization 8bit or 4bit"
        )
    best = max(range(len(free)), key=free.__getitem__)
    return {"": best} if needed <= _WEIGHTS_SHARE * free[best] else "auto"


def _cannot(folder: str | Path, what: str, error: Exception) -> UserError:
    """What failed, the start of the library's message on one line, and the files that are no longer as fetched.

    Transformers' message may list a hundred classes.
    """
    reason = " ".join(str(error).split())
    message = f"{folder}: Transformers cannot {what} ({type(error).__name__}: {reason[:400]}"
    message += " …)" if len(reason) > 400 else ")"
    changed = _changed(Path(folder))
    if changed:
        message += (
            f"; not what was fetched: {', '.join(changed)}; put right where it comes from, or delete {folder} and run "
            f"snakemake again"
        )
    return UserError(message)


def _changed(folder: Path) -> list[str]:
    """Files of a fetched model that have gone or have another checksum than when they were fetched."""
    manifest = folder / "manifest.json"
    sums = read_json(manifest)["sha256"] if manifest.exists() else {}
    files = {folder / name: wanted for name, wanted in sums.items()}
    return [str(file) for file, wanted in files.items() if not file.is_file() or file_sha256(file) != wanted]


def _bitsandbytes(quantization: str, compute: torch.dtype) -> Any:
    from transformers import BitsAndBytesConfig

    try:
        import bitsandbytes  # noqa: F401 - only to say early that it is missing
    except ImportError as error:
        raise UserError("quantisation needs bitsandbytes: pip install 'affectome[quantize]'") from error
    if quantization == "8bit":
        # No outlier decomposition: columns would be singled out by the largest value in the whole batch, so that a
        # token's residual depended on later tokens and on the texts beside it.
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=0.0)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=compute)
