"""Means inside the hooks: as computed by hand, deaf to padding of any value, in float32, with nothing run in vain."""

import gc
import threading
import weakref
from collections import Counter
from collections.abc import Callable

import pytest
import torch

from affectome.activations import pooling
from affectome.activations.pooling import Spans, Stopped, mean_norm, pool, pooling_hooks
from affectome.activations.tokens import TokenText, pad_right
from affectome.models.anatomy import decoder_blocks
from tests.helpers import random_model, tiny_config

NAN, INF = float("nan"), float("inf")


CPU = torch.device("cpu")


def pool_by_matmul(hidden: torch.Tensor, spans: Spans) -> torch.Tensor:
    """As on a GPU."""
    return pooling._sum_by_matmul(hidden, spans.mask) / spans.counts[:, None]


@pytest.mark.parametrize("way", [pool, pool_by_matmul])
@pytest.mark.parametrize("junk", [999.0, INF, -INF, NAN])
@pytest.mark.parametrize("side", ["left", "right"])
def test_means_by_hand_whatever_the_padding(junk: float, side: str, way: Callable) -> None:
    # Two texts of 3 and 1 tokens, of which the first pools its last two.
    hidden = torch.tensor([[[3.0, 4.0], [1.0, 0.0], [5.0, 12.0]], [[8.0, 6.0], [junk, junk], [junk, -junk]]])
    pooled, texts = [(1, 3), (0, 1)], [(0, 3), (0, 1)]
    if side == "left":
        hidden = hidden.flip(1)
        pooled, texts = ([(3 - end, 3 - first) for first, end in spans] for spans in (pooled, texts))
    assert way(hidden, Spans(pooled, 3, CPU)).tolist() == [[3.0, 6.0], [8.0, 6.0]]
    assert mean_norm(hidden, Spans(texts, 3, CPU)).tolist() == pytest.approx([(5 + 1 + 13) / 3, 10.0])


@pytest.mark.parametrize("way", [pool, pool_by_matmul])
def test_junk_inside_the_span_is_seen(way: Callable) -> None:
    hidden = torch.ones(1, 3, 2)
    hidden[0, 1, 0] = NAN
    whole = Spans([(0, 3)], 3, CPU)
    assert torch.isnan(way(hidden, whole)).tolist() == [[True, False]]
    assert torch.isnan(mean_norm(hidden, whole)).all()


@pytest.mark.parametrize("way", [pool, pool_by_matmul])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sums_are_float32(dtype: torch.dtype, way: Callable) -> None:
    """In bfloat16 a sum of ones stops at 256, in float16 at 2048; squares of 300 overflow float16."""
    hidden = torch.full((1, 5000, 2), 1.0, dtype=dtype)
    hidden[0, ::2] = 300.0
    whole = Spans([(0, 5000)], 5000, CPU)
    pooled, norm = way(hidden, whole), mean_norm(hidden, whole)
    assert pooled.dtype == norm.dtype == torch.float32
    assert pooled.tolist() == [[150.5, 150.5]]
    assert norm.item() == pytest.approx(150.5 * 2**0.5)


def test_spans_as_a_mask() -> None:
    spans = Spans([(1, 3), (0, 1), (4, 4)], 4, CPU)
    assert spans.mask.int().tolist() == [[0, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    assert spans.counts.tolist() == [2, 1, 0]
    assert spans.to(CPU) is spans


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return random_model(tiny_config("llama", blocks=4, width=16))


def run(model: torch.nn.Module, layers: list[int], lengths: tuple[int, ...] = (9, 4)) -> dict[int, torch.Tensor]:
    texts = [TokenText(tuple(range(3, 3 + length)), 0, length) for length in lengths]
    ids = torch.from_numpy(pad_right(texts))
    pooled, whole = (
        Spans(spans, ids.shape[1], CPU)
        for spans in ([(2, length) for length in lengths], [text.spans for text in texts])
    )
    with torch.inference_mode(), pooling_hooks(decoder_blocks(model), layers) as hooks:
        vectors, norms = hooks.run(model, ids, pooled, whole)
    assert vectors.shape == (len(layers), len(lengths), 16)
    assert norms.shape == (len(layers), len(lengths))
    return dict(zip(layers, vectors, strict=True))


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
        hooks.run(model, ids, Spans([(0, 6)], 6, CPU), Spans([(0, 6)], 6, CPU))
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
        hooks.run(model, torch.arange(3, 9)[None], Spans([(0, 6)], 6, CPU), Spans([(0, 6)], 6, CPU))
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


def test_a_pass_ends_at_the_next_block_once_it_is_to_stop(model: torch.nn.Module) -> None:
    calls: list[int] = []
    stop = threading.Event()
    blocks = decoder_blocks(model)
    whole = Spans([(0, 6)], 6, CPU)

    def count(_module: object, _inputs: object, _output: object) -> None:
        calls.append(1)
        if len(calls) == 2:
            stop.set()

    handles = [block.register_forward_hook(count) for block in blocks]
    with torch.inference_mode(), pooling_hooks(blocks, [3], stop) as hooks, pytest.raises(Stopped):
        hooks.run(model, torch.arange(3, 9)[None], whole, whole)
    for handle in handles:
        handle.remove()
    assert len(calls) == 2
