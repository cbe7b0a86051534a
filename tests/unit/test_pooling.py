"""Means inside the hooks: as computed by hand, deaf to padding of any value, in float32, with nothing run in vain."""

import gc
import weakref
from collections import Counter

import pytest
import torch

from affectome.activations.pooling import mean_norm, pool, pooling_hooks
from affectome.activations.tokens import TokenText, pad_right, span_mask
from affectome.models.anatomy import decoder_blocks
from tests.helpers import random_model, tiny_config

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("junk", [999.0, INF, -INF, NAN])
@pytest.mark.parametrize("side", ["left", "right"])
def test_means_by_hand_whatever_the_padding(junk: float, side: str) -> None:
    # Two texts of 3 and 1 tokens, of which the first pools its last two.
    rows = [[[3.0, 4.0], [1.0, 0.0], [5.0, 12.0]], [[8.0, 6.0], [junk, junk], [junk, -junk]]]
    pooled_mask, text_mask = torch.tensor([[0.0, 1, 1], [1, 0, 0]]), torch.tensor([[1.0, 1, 1], [1, 0, 0]])
    hidden = torch.tensor(rows)
    if side == "left":
        hidden, pooled_mask, text_mask = hidden.flip(1), pooled_mask.flip(1), text_mask.flip(1)
    assert pool(hidden, pooled_mask).tolist() == [[3.0, 6.0], [8.0, 6.0]]
    assert mean_norm(hidden, text_mask).tolist() == pytest.approx([(5 + 1 + 13) / 3, 10.0])


def test_junk_inside_the_mask_is_seen() -> None:
    hidden = torch.ones(1, 3, 2)
    hidden[0, 1, 0] = NAN
    assert torch.isnan(pool(hidden, torch.ones(1, 3))).tolist() == [[True, False]]
    assert torch.isnan(mean_norm(hidden, torch.ones(1, 3))).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sums_are_float32(dtype: torch.dtype) -> None:
    """In bfloat16 a sum of ones stops at 256, in float16 at 2048; squares of 300 overflow float16."""
    hidden = torch.full((1, 5000, 2), 1.0, dtype=dtype)
    hidden[0, ::2] = 300.0
    mask = torch.ones(1, 5000)
    pooled, norm = pool(hidden, mask), mean_norm(hidden, mask)
    assert pooled.dtype == norm.dtype == torch.float32
    assert pooled.tolist() == [[150.5, 150.5]]
    assert norm.item() == pytest.approx(150.5 * 2**0.5)


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return random_model(tiny_config("llama", blocks=4, width=16))


def run(model: torch.nn.Module, layers: list[int], lengths: tuple[int, ...] = (9, 4)) -> dict[int, torch.Tensor]:
    texts = [TokenText(tuple(range(3, 3 + length)), 0, length) for length in lengths]
    ids = pad_right(texts)
    pooled, whole = [(2, length) for length in lengths], [text.spans for text in texts]
    with torch.inference_mode(), pooling_hooks(decoder_blocks(model), layers) as hooks:
        hooks.run(model, ids, span_mask(pooled, ids.shape[1]), span_mask(whole, ids.shape[1]))
        assert list(hooks.pooled) == list(hooks.norms) == layers
        assert {tuple(value.shape) for value in hooks.pooled.values()} == {(len(lengths), 16)}
        assert {tuple(value.shape) for value in hooks.norms.values()} == {(len(lengths),)}
        return dict(hooks.pooled)


def test_hooks_see_block_outputs_before_the_final_norm(model: torch.nn.Module) -> None:
    found = run(model, [0, 1, 2, 3], (9,))
    with torch.inference_mode():
        hidden = model(input_ids=torch.arange(3, 12)[None], output_hidden_states=True).hidden_states
    for layer in (0, 1, 2):
        assert torch.allclose(found[layer][0], hidden[layer + 1][0, 2:].mean(dim=0), rtol=1e-5, atol=1e-6)
    assert not torch.allclose(found[3][0], hidden[4][0, 2:].mean(dim=0), rtol=0.1)


def test_means_of_a_bfloat16_model_are_float32() -> None:
    """Pooling in bfloat16 would leave each mean 3 digits; here it has those of the mean of what the block gave."""
    model = random_model(tiny_config("llama", blocks=2, width=16)).to(torch.bfloat16)
    found = run(model, [0], (60,))[0][0]
    with torch.inference_mode():
        hidden = model(input_ids=torch.arange(3, 63)[None], output_hidden_states=True).hidden_states[1][0, 2:]
    assert found.dtype == torch.float32
    assert torch.allclose(found.double(), hidden.double().mean(dim=0), rtol=1e-5, atol=1e-6)


def test_the_pass_ends_at_the_last_wanted_block(model: torch.nn.Module) -> None:
    calls: Counter = Counter()
    parts = {f"block {i}": block for i, block in enumerate(model.model.layers)} | {
        "norm": model.model.norm,
        "head": model.lm_head,
    }
    handles = [
        part.register_forward_pre_hook(lambda _module, _inputs, name=name: calls.update([name]))
        for name, part in parts.items()
    ]
    blocks = decoder_blocks(model)
    calls.clear()
    ids = torch.arange(3, 9)[None]
    with torch.inference_mode(), pooling_hooks(blocks, [2, 0]) as hooks:
        hooks.run(model, ids, torch.ones(1, 6), torch.ones(1, 6))
    for handle in handles:
        handle.remove()
    assert calls == {"block 0": 1, "block 1": 1, "block 2": 1}


def test_no_hidden_state_outlives_the_pass(model: torch.nn.Module) -> None:
    seen: list[weakref.ref] = []
    handles = [
        block.register_forward_hook(lambda _module, _inputs, output: seen.append(weakref.ref(output)))
        for block in model.model.layers
    ]
    blocks = decoder_blocks(model)
    seen.clear()
    with torch.inference_mode(), pooling_hooks(blocks, [0, 1, 2, 3]) as hooks:
        hooks.run(model, torch.arange(3, 9)[None], torch.ones(1, 6), torch.ones(1, 6))
        gc.collect()
        assert len(seen) == 4
        assert [reference() for reference in seen] == [None] * 4
    for handle in handles:
        handle.remove()


def test_hooks_are_gone_after_an_error(model: torch.nn.Module) -> None:
    blocks = decoder_blocks(model)
    hooks = [len(block._forward_hooks) for block in blocks]
    with pytest.raises(ValueError, match="stop"), pooling_hooks(blocks, [1]):
        raise ValueError("stop")
    assert [len(block._forward_hooks) for block in blocks] == hooks
    assert model(input_ids=torch.arange(3, 9)[None]).logits.shape == (1, 6, model.config.vocab_size)
