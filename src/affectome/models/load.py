"""Load a fetched model for inference on the device and in the precision that suit it."""

import logging
from pathlib import Path
from typing import Any

import torch
from torch import nn

from affectome.errors import UserError
from affectome.models.anatomy import check_config

log = logging.getLogger(__name__)


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
        raise _cannot(f"{folder}: Transformers cannot read its config.json", error) from error
    check_config(config)
    return config


def load_model(
    folder: str | Path, dtype: str, quantization: str = "none", trust_remote_code: bool = False
) -> tuple[nn.Module, Any]:
    """The model in `folder` in evaluation mode, and its tokenizer.

    Quantised models are spread by accelerate over the GPUs there are; others are put on one device. Raises UserError
    where a package is missing, the folder cannot be loaded or its weights lack some of the model.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    device = best_device()
    settings: dict[str, Any] = {"dtype": resolve_dtype(dtype, device), "trust_remote_code": trust_remote_code}
    if quantization != "none":
        settings |= {"quantization_config": _bitsandbytes(quantization, settings["dtype"]), "device_map": "auto"}
    read_config(folder, trust_remote_code)
    # What can go wrong here is as varied as the models; whatever it is, its reader needs the message, not the trace.
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
        model, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, **settings)
        if quantization == "none":
            model = model.to(device)
    except Exception as error:
        raise _cannot(f"{folder}: Transformers cannot load it", error) from error
    missing = sorted(report["missing_keys"])
    if missing:
        # Transformers would go on with random numbers in their place.
        raise UserError(
            f"{folder}: the weights lack {len(missing)} tensors of the model, {missing[0]} first; fetch it again"
        )
    log.info("loaded %s: %s on %s, quantisation %s", folder, settings["dtype"], device, quantization)
    return model.eval(), tokenizer


def _cannot(what: str, error: Exception) -> UserError:
    """`what`, and the start of the library's message on one line; Transformers' may list a hundred classes."""
    reason = " ".join(str(error).split())
    return UserError(f"{what} ({type(error).__name__}: {reason[:400]}{' …' if len(reason) > 400 else ''})")


def _bitsandbytes(quantization: str, compute: torch.dtype) -> Any:
    from transformers import BitsAndBytesConfig

    try:
        import bitsandbytes  # noqa: F401 - only to say early that it is missing
    except ImportError as error:
        raise UserError("quantisation needs bitsandbytes: pip install 'affectome[quantize]'") from error
    if quantization == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=compute)
