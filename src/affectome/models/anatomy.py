"""Where a model keeps its decoder blocks, found by structure and by watching a pass rather than by name.

Layer numbers follow `affectome.layers`.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from affectome.errors import UserError

# Tokens of a probe; its second half starts at half of it.
_PROBE = 16


def text_config(config: Any) -> Any:
    """The part of a Transformers config that describes the text decoder (multimodal wrappers nest it)."""
    return config.get_text_config(decoder=True)


def check_config(config: Any) -> None:
    """Raise UserError where a config alone says that the model is no decoder."""
    if getattr(config, "is_encoder_decoder", False):
        raise UserError(
            f"{config.model_type} is an encoder-decoder model, which has no single residual stream; "
            f"use a decoder-only language model"
        )


@torch.inference_mode()
def decoder_blocks(model: nn.Module) -> nn.ModuleList:
    """The list of decoder blocks of a Transformers causal language model.

    It is the outermost list of as many modules as the config has layers, of which a pass over text alone calls each
    once, in order, and gets a residual stream (batch, tokens, width) from each. So neither vision towers nor lists of
    experts or norms are taken for it. Raises UserError where there is none.
    """
    config = text_config(model.config)
    check_config(model.config)
    stacks = [
        module
        for module in model.modules()
        if isinstance(module, nn.ModuleList) and len(module) == config.num_hidden_layers and _is_stack(module)
    ]
    seen: list[list[tuple[int, tuple[int, ...]]]] = [[] for _ in stacks]

    def reader(stack: int, layer: int) -> Callable:
        return lambda _module, _inputs, output: seen[stack].append(
            (layer, tuple(getattr(residual(output), "shape", ())))
        )

    _watch(
        model, [(block, reader(s, b)) for s, stack in enumerate(stacks) for b, block in enumerate(stack)], probe(model)
    )
    wanted = [(layer, (1, _PROBE, config.hidden_size)) for layer in range(config.num_hidden_layers)]
    for stack, calls in zip(stacks, seen, strict=True):
        if calls == wanted:
            return stack
    shapes = ", ".join(sorted({str(list(shape)) for calls in seen for _, shape in calls})) or "nothing"
    raise UserError(
        f"{config.model_type}: its {config.num_hidden_layers} decoder blocks do not each run once and give a residual "
        f"stream [batch, tokens, {config.hidden_size}], but {shapes}; use a model of another kind"
    )


def _is_stack(modules: nn.ModuleList) -> bool:
    # Blocks hold attention and feed-forward parts; lists of per-layer norms or projections of the same length do not.
    return all(len(list(module.children())) > 1 for module in modules)


@torch.inference_mode()
def check_causal(model: nn.Module, blocks: nn.ModuleList) -> None:
    """Raise UserError unless later tokens leave earlier residuals alone.

    The collector pads on the right without a mask, which is exact only under causal attention; asking the model itself
    is safer than a list of architectures. Measured is how far the second half of a text moves the first, against how
    far the first moves the second: about as far in an encoder, by rounding only in a decoder, whatever the precision.
    """
    half = _PROBE // 2
    base, other = probe(model), probe(model).roll(half, dims=1)
    later, earlier = base.clone(), base.clone()
    later[:, half:], earlier[:, :half] = other[:, half:], other[:, :half]
    seen: list[torch.Tensor] = []
    _watch(
        model,
        [(blocks[-1], lambda _module, _inputs, output: seen.append(residual(output)[0].float()))],
        base,
        later,
        earlier,
    )
    # The first token is left out: it outweighs all others, and whatever reaches it reaches its neighbours too.
    backward, forward = _change(seen[0], seen[1])[1:half].mean(), _change(seen[0], seen[2])[half:].mean()
    if backward > 0.1 * forward:
        raise UserError(
            f"{text_config(model.config).model_type}: later tokens change earlier residuals, so this is no causal "
            f"language model; use a decoder-only language model"
        )


def check_length(config: Any, longest: int) -> None:
    """Raise UserError where a text of `longest` tokens would change how the model reads the texts batched with it.

    Rotary positions of the kinds `dynamic` and `longrope` are rescaled for a whole batch once its longest text is
    longer than those of the model's first training.
    """
    config = text_config(config)
    ropes = getattr(config, "rope_parameters", None) or {}
    for rope in (ropes, *(part for part in ropes.values() if isinstance(part, dict))):
        kind = rope.get("rope_type")
        if kind not in ("dynamic", "longrope"):
            continue
        limit = rope["original_max_position_embeddings"] if kind == "longrope" else config.max_position_embeddings
        if longest > limit:
            raise UserError(
                f"a text of {longest} tokens is longer than {limit}, up to which {config.model_type} reads a text in "
                f"a batch as it reads it alone; lower the reading's max_tokens"
            )


def _change(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    return torch.linalg.vector_norm(after - before, dim=-1) / torch.linalg.vector_norm(before, dim=-1)


def probe(model: nn.Module) -> torch.Tensor:
    """Tokens (1, 16) from all over the vocabulary, those of the second half unlike those of the first.

    None is the padding token, from which some encoders count positions.
    """
    config = text_config(model.config)
    tokens = (2 * torch.arange(_PROBE, device=model.device) + 1) * config.vocab_size // (2 * _PROBE)
    return torch.where(tokens == config.pad_token_id, tokens + 1, tokens)[None] % config.vocab_size


def _watch(model: nn.Module, readers: Iterable[tuple[nn.Module, Callable]], *probes: torch.Tensor) -> None:
    """Pass `probes` through the model with a forward hook on each of some modules."""
    handles = [module.register_forward_hook(reader) for module, reader in readers]
    try:
        for tokens in probes:
            model(input_ids=tokens, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()


def residual(output: Any) -> torch.Tensor:
    """The residual stream (batch, tokens, width) in what a decoder block returned: a tensor, or a tuple led by one."""
    return output if isinstance(output, torch.Tensor) else output[0]
