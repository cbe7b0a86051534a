"""Where a model keeps its decoder blocks, found by structure rather than by name.

Layer numbers follow `affectome.layers`.
"""

from typing import Any

import torch
from torch import nn

from affectome.errors import UserError


def text_config(config: Any) -> Any:
    """The part of a Transformers config that describes the text decoder (multimodal wrappers nest it)."""
    return config.get_text_config(decoder=True)


def decoder_blocks(model: nn.Module) -> nn.ModuleList:
    """The list of decoder blocks of a Transformers causal language model.

    It is the one list of modules below the text decoder whose length is the config's number of layers; vision and
    audio towers are not below it. Raises UserError for encoder-decoder models and where no such list exists.
    """
    config = text_config(model.config)
    if model.config.is_encoder_decoder:
        raise UserError(f"{config.model_type}: encoder-decoder models have no single residual stream; use a decoder")
    decoder = model.get_decoder()
    found = [
        module
        for module in decoder.modules()
        if isinstance(module, nn.ModuleList) and len(module) == config.num_hidden_layers and _is_stack(module)
    ]
    if not found:
        raise UserError(f"{config.model_type}: no list of {config.num_hidden_layers} decoder blocks was found in the model")
    return found[0]


def _is_stack(modules: nn.ModuleList) -> bool:
    # Blocks hold attention and feed-forward parts; lists of per-layer norms or projections of the same length do not.
    return all(len(list(module.children())) > 1 for module in modules)


@torch.inference_mode()
def check_causal(model: nn.Module, blocks: nn.ModuleList) -> None:
    """Raise UserError unless a later token leaves earlier residuals alone.

    The collector pads on the right without a mask, which is exact only under causal attention; asking the model itself
    is safer than a list of architectures.
    """
    size = text_config(model.config).vocab_size
    first = torch.arange(8, device=model.device)[None] % size
    second = first.clone()
    second[0, -1] = size - 1
    seen: list[torch.Tensor] = []
    hook = blocks[-1].register_forward_hook(lambda _module, _inputs, output: seen.append(residual(output)[0, :-1].float()))
    try:
        for tokens in (first, second):
            model(input_ids=tokens, use_cache=False)
    finally:
        hook.remove()
    if not torch.allclose(seen[0], seen[1], rtol=1e-3, atol=1e-3 * float(seen[0].abs().max())):
        raise UserError(
            f"{text_config(model.config).model_type}: a later token changes earlier residuals, so this is no causal "
            f"language model; use a decoder"
        )


def residual(output: Any) -> torch.Tensor:
    """The residual stream (batch, tokens, width) in what a decoder block returned: a tensor, or a tuple led by one."""
    return output if isinstance(output, torch.Tensor) else output[0]
