"""vLLM steers: a general plugin of vLLM's, which every one of its processes loads.

Without `AFFECTOME_DIRECTIONS` it does nothing. With it, a request whose `SamplingParams.extra_args["affectome"]` holds
a plan (`affectome.serve.plan`) has the residual stream of its own tokens changed (`affectome.serve.runner`), while
others in the same batch are left alone. Here is what surrounds that: an engine that could not be steered is refused at
its start, a request that cannot be followed is refused where it comes in, and blocks of the prefix cache are shared
only among requests for which they hold the same.

Nothing but the standard library is imported with this module: it runs among vLLM's packages, not ours.
"""

import hashlib
import json
import os
import struct
import uuid
from collections.abc import Callable
from functools import cache, wraps
from pathlib import Path
from typing import Any

from affectome.serve.plan import Plan, Readout, decode

# Path of the directions (`Catalogue.write_directions`), and of a Unix datagram socket that readouts are sent to.
DIRECTIONS = "AFFECTOME_DIRECTIONS"
READOUTS = "AFFECTOME_READOUTS"
# Of `extra_args`.
KEY = "affectome"

_ROLE = "_affectome_role"
_registered = False


def register() -> None:
    """What vLLM calls, once or more, in each of its processes."""
    global _registered
    if _registered or not os.environ.get(DIRECTIONS):
        return
    from vllm.engine.arg_utils import EngineArgs
    from vllm.v1.core import block_pool, kv_cache_utils
    from vllm.v1.engine.input_processor import InputProcessor
    from vllm.v1.request import Request
    from vllm.v1.worker.worker_base import WorkerWrapperBase

    wrap(EngineArgs, "create_engine_config", _checked_config)
    wrap(InputProcessor, "_validate_params", _validated)
    wrap(Request, "from_engine_core_request", _salted, static=True)
    for module in (kv_cache_utils, block_pool):
        wrap(module, "generate_block_hash_extra_keys", _keyed)
    wrap(WorkerWrapperBase, "init_device", _attached)
    _registered = True


def wrap(owner: Any, name: str, around: Callable[..., Any], static: bool = False) -> None:
    """Have `around(original, *arguments)` called in place of `owner.name`; RuntimeError where vLLM has none."""
    original = getattr(owner, name, None)
    if original is None:
        raise RuntimeError(f"this vLLM has no {name}; affectome steers vLLM 0.32")

    @wraps(original)
    def called(*arguments: Any, **keywords: Any) -> Any:
        return around(original, *arguments, **keywords)

    setattr(owner, name, staticmethod(called) if static else called)


@cache
def contents(path: str) -> tuple[dict[int, tuple[int, int]], dict[int, float]]:
    """Of the directions at `path`, by layer: how many there are and how wide, and the mean residual norm."""
    with Path(path).open("rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(size))
    norms = json.loads(header.pop("__metadata__")["residual_norm"])
    shapes = {int(name.removeprefix("layer_")): tuple(tensor["shape"]) for name, tensor in header.items()}
    return shapes, {int(layer): float(norm) for layer, norm in norms.items()}


def asked(params: Any) -> str | None:
    """The plan, as text, in vLLM's parameters of a request."""
    return (getattr(params, "extra_args", None) or {}).get(KEY)


def read(text: Any, shapes: dict[int, tuple[int, int]]) -> tuple[Plan, Readout | None]:
    """The plan in `text` where directions of `shapes` can follow it; ValueError otherwise."""
    if not isinstance(text, str):
        raise ValueError(f"a plan is a string, not {type(text).__name__}")
    plan, readout = decode(text)
    named = [(layer, change.direction) for change in plan for layer, _ in change.lengths]
    if readout:
        named += [(readout.layer, direction) for direction in readout.directions]
    for layer, direction in named:
        if layer not in shapes:
            raise ValueError(f"layer {layer} has no directions; there are some for {sorted(shapes)}")
        if direction >= shapes[layer][0]:
            raise ValueError(f"there is no direction {direction}; the last one is {shapes[layer][0] - 1}")
    return plan, readout


# ------------------------------------------------------------ the engine, as it starts


def _checked_config(original: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
    config = original(*arguments, **keywords)
    check(config)
    return config


def check(config: Any) -> None:
    """Raise ValueError, saying what to change, for a VllmConfig whose engine would not steer, or not rightly."""
    model, parallel = config.model_config, config.parallel_config
    refused = [
        (not model.enforce_eager, "compiled models cannot be steered; pass --enforce-eager"),
        (
            config.use_v2_model_runner,
            "vLLM's second model runner cannot be steered yet; set VLLM_USE_V2_MODEL_RUNNER=0 in its environment",
        ),
        (config.speculative_config, "readouts would hold drafts that were rejected; leave out --speculative-config"),
        (parallel.use_ubatching, "batches in halves are not steered; leave out --enable-dbo"),
        (
            getattr(parallel, "prefill_context_parallel_size", 1) > 1,
            "prompts divided among GPUs are not steered; leave out --prefill-context-parallel-size",
        ),
        (
            config.cache_config.kv_sharing_fast_prefill,
            "some blocks would not see every token; leave out --kv-sharing-fast-prefill",
        ),
        (model.is_encoder_decoder, "an encoder-decoder model has no single residual stream; use a decoder"),
    ]
    for wrong, why in refused:
        if wrong:
            raise ValueError(f"affectome: {why}")
    shapes, norms = contents(os.environ[DIRECTIONS])
    blocks, width = model.hf_text_config.num_hidden_layers, model.get_hidden_size()
    for layer, (_, found) in shapes.items():
        if layer >= blocks or found != width or layer not in norms:
            raise ValueError(
                f"affectome: {os.environ[DIRECTIONS]} has directions of width {found} for layer {layer}, but the model "
                f"is {width} wide and has {blocks} blocks; they were made from another model"
            )


def _attached(original: Callable[..., Any], wrapper: Any) -> None:
    original(wrapper)
    from affectome.serve.runner import Steerer

    Steerer(wrapper.worker.model_runner, os.environ[DIRECTIONS], os.environ.get(READOUTS, ""))


# ------------------------------------------------------------ a request, as it comes in


def _validated(original: Callable[..., Any], processor: Any, params: Any, *arguments: Any, **keywords: Any) -> Any:
    from vllm.exceptions import VLLMValidationError

    text = asked(params)
    if text is not None:
        try:
            _, readout = read(text, contents(os.environ[DIRECTIONS])[0])
        except ValueError as error:
            raise VLLMValidationError(f"affectome: {error}", parameter="vllm_xargs") from error
        if readout and not os.environ.get(READOUTS):
            raise VLLMValidationError(f"affectome: readouts need {READOUTS}, a socket to go to", parameter="vllm_xargs")
        if readout and params.n > 1:
            raise VLLMValidationError("affectome: a readout is of one reply; leave out n", parameter="n")
    return original(processor, params, *arguments, **keywords)


# ------------------------------------------------------------ the prefix cache


def _salted(original: Callable[..., Any], request: Any, block_hasher: Any) -> Any:
    """The engine's Request, which shares no cached block with one that would have filled it otherwise."""
    salt, role = salts(asked(request.sampling_params), request.cache_salt)
    request.cache_salt = salt
    made = original(request, block_hasher)
    # The blocks hashed so far hold tokens of the prompt only.
    setattr(made, _ROLE, role)
    return made


def salts(text: str | None, given: str | None) -> tuple[str | None, str | None]:
    """What sets the cached blocks of a request with this plan apart: all of them, and those with generated tokens.

    `given` is the client's own salt. What a block holds depends on what was done to its tokens, so requests share the
    blocks of a prompt where the same is done to prompts. A generated token becomes one of the prompt in the next turn
    of a chat: where the two are treated differently, blocks with generated tokens are nobody else's.
    """
    if text is None:
        return given, None
    try:
        plan, _ = decode(text)
    except ValueError:
        # It will not be followed; it came past the frontend.
        return given, None
    done = [
        [(change.direction, change.mode, change.lengths) for change in plan if change.positions in ("all", role)]
        for role in ("prompt", "generated")
    ]
    role = None if done[0] == done[1] else uuid.uuid4().hex
    if not done[0]:
        return given, role
    return hashlib.sha256(json.dumps([given, done[0]]).encode()).hexdigest(), role


def _keyed(original: Callable[..., Any], request: Any, start: int, end: int, *arguments: Any) -> Any:
    keys, following = original(request, start, end, *arguments)
    role = getattr(request, _ROLE, None)
    if role and end > request.num_prompt_tokens:
        keys = (*(keys or ()), (KEY, role))
    return keys, following
