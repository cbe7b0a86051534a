"""How fast models are read and written on the hardware we know, without loading them.

A token that is read costs 2 operations per parameter of the blocks (12 × blocks × width²; the output head runs on few
tokens), one that is written also those of the head (`VOCABULARY` × width). Each step of writing besides reads all
weights once and spends `per_block` on every block. `CPU` is fitted to two trials with SmolLM2-135M in bfloat16 on 2
cores; `GPU` takes 40 % of 800 TFLOP/s and the memory of an H200, on which an 8B Llama shape read 34,900 tokens/s and
wrote 4,700 tokens/s in batches of 256: 1.5 ms per block and step beyond reading the weights. Expect a factor of two.
"""

from dataclasses import dataclass

from affectome.config import Model

# Characters per token, and tokens of an output head.
CHARACTERS = 4
VOCABULARY = 128_000

_BYTES = {"4bit": 0.5, "8bit": 1.0}


@dataclass(frozen=True)
class Device:
    """Operations per second of reading and of writing, bytes per second of memory, seconds per block and step."""

    name: str
    reading: float
    writing: float
    memory: float
    per_block: float


CPU = Device("2 CPU cores", 500e9, 300e9, 30e9, 0.0)
GPU = Device("one H200 GPU", 320e12, 320e12, 3.3e12, 1.5e-3)


def device_of(model: Model) -> Device:
    """Where a job with `model` runs."""
    return GPU if model.gpus else CPU


def block_parameters(model: Model) -> int:
    """Parameters of the decoder blocks."""
    return 12 * model.blocks * model.width**2


def head_parameters(model: Model) -> int:
    """Parameters of the output head."""
    return VOCABULARY * model.width


def weight_bytes(model: Model) -> float:
    """Bytes of the weights once loaded, embeddings and output head counted once."""
    each = _BYTES.get(model.quantization, 4.0 if model.dtype == "float32" else 2.0)
    return (block_parameters(model) + head_parameters(model)) * each


def seconds_of(model: Model, read: float, written: float, steps: int = 0) -> float:
    """Seconds in which `model` reads `read` tokens and writes `written` ones in `steps` steps, without loading it."""
    device = device_of(model)
    blocks, head = block_parameters(model), head_parameters(model)
    seconds = 2 * blocks * read / device.reading + 2 * (blocks + head) * written / device.writing
    seconds += steps * (weight_bytes(model) / device.memory + device.per_block * model.blocks)
    return seconds * (1 if model.quantization == "none" else 2)
