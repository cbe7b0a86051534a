"""Attention as matrix products is attention: as exact as bfloat16 allows, and torch's own where it does not apply."""

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from affectome.activations import attention, engine
from affectome.activations.attention import attend, fast_attention
from affectome.models.load import load_model
from tests.helpers import STORIES, collect, collect_spec, read_shard, tiny_model, write_corpora
from tests.unit.test_architectures import PLACES


def drawn(
    batch: int, heads: int, shared: int, tokens: int, size: int, dtype: torch.dtype = torch.bfloat16
) -> tuple[torch.Tensor, ...]:
    """Queries, keys and values as projections give them: (batch, tokens, heads, size), transposed."""
    torch.manual_seed(0)
    counts = (heads, heads // shared, heads // shared)
    return tuple(torch.randn(batch, tokens, count, size).to(dtype).transpose(1, 2) for count in counts)


def layer(shared: int, **settings: Any) -> Any:
    return SimpleNamespace(num_key_value_groups=shared, is_causal=True, **settings)


@pytest.mark.parametrize("scaling", [None, 0.05])
@pytest.mark.parametrize(
    ("batch", "heads", "shared", "tokens", "size"),
    [(3, 4, 1, 17, 8), (2, 6, 3, 33, 16), (1, 9, 3, 512, 64), (5, 2, 2, 2, 8), (2, 8, 8, 100, 128)],
)
def test_attention_is_that_of_exact_arithmetic(
    batch: int, heads: int, shared: int, tokens: int, size: int, scaling: float | None
) -> None:
    query, key, value = drawn(batch, heads, shared, tokens, size)
    found, weights = attend(layer(shared), query, key, value, None, scaling=scaling)
    exact, _ = sdpa_attention_forward(
        layer(shared), query.double(), key.double(), value.double(), None, scaling=scaling
    )
    usual, _ = sdpa_attention_forward(layer(shared), query, key, value, None, scaling=scaling)
    assert weights is None
    assert found.shape == exact.shape == (batch, tokens, heads, size)
    assert found.is_contiguous()
    # torch's kernel keeps scores in float32; rounding them costs less than as much again.
    assert (found - exact).abs().mean() < 2.2 * (usual - exact).abs().mean()
    assert (found - exact).abs().max() < 0.05


@pytest.mark.parametrize(
    ("shape", "settings", "options"),
    [
        ((2, 4, 2, 9, 8, torch.float32), {}, {}),
        ((2, 4, 2, 513, 8), {}, {}),
        ((2, 4, 2, 1, 8), {}, {}),
        ((2, 4, 2, 9, 8), {}, {"is_causal": False}),
        ((2, 4, 2, 9, 8), {"is_causal": False}, {}),
        ((2, 4, 2, 9, 8), {}, {"attention_mask": torch.ones(2, 1, 9, 9, dtype=torch.bool).tril(-1).logical_not()}),
        ((2, 4, 1, 9, 8), {}, {"position_bias": torch.zeros(1, 4, 9, 9, dtype=torch.bfloat16)}),
    ],
)
def test_everything_else_is_left_to_torch(shape: tuple, settings: dict, options: dict) -> None:
    query, key, value = drawn(*shape)
    module = layer(shape[2])
    vars(module).update(settings)
    options = {"attention_mask": None, "scaling": 0.2} | options
    found, _ = attend(module, query, key, value, **options)
    usual, _ = sdpa_attention_forward(module, query, key, value, **options)
    assert torch.equal(found, usual)


@pytest.mark.parametrize("architecture", PLACES)
def test_vectors_of_every_architecture_stay_what_they_were(
    architecture: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In bfloat16: as far from those in float32 as with torch's kernel."""
    folder = tiny_model(tmp_path / "model", architecture, blocks=4)
    corpora = write_corpora(tmp_path, STORIES)

    def read(name: str, dtype: str) -> np.ndarray:
        return read_shard(collect(folder, *corpora, tmp_path / f"{name}.h5", collect_spec(range(4), dtype=dtype)))[1]

    exact, fast = read("exact", "float32"), read("fast", "bfloat16")
    monkeypatch.setattr(engine, "fast_attention", lambda _model: nullcontext())
    usual = read("usual", "bfloat16")

    def error(found: np.ndarray) -> float:
        return float(np.median(np.linalg.norm(found - exact, axis=-1) / np.linalg.norm(exact, axis=-1)))

    assert error(fast) < 1.5 * error(usual) + 1e-4


@pytest.mark.parametrize(
    ("architecture", "dtype", "usual", "within"),
    [
        ("llama", "bfloat16", "sdpa", "affectome"),
        ("gemma3", "bfloat16", "sdpa", "affectome"),
        ("llama", "bfloat16", "eager", "eager"),
        ("gpt_oss", "bfloat16", "eager", "eager"),
        ("llama", "float32", "sdpa", "sdpa"),
    ],
)
def test_a_model_attends_as_before_afterwards(
    architecture: str, dtype: str, usual: str, within: str, tmp_path: Path
) -> None:
    model, _ = load_model(tiny_model(tmp_path / "model", architecture, blocks=2), dtype)
    model.set_attn_implementation(usual)
    text = attention.text_config(model.config)

    def fail() -> None:
        with fast_attention(model):
            assert (model.config._attn_implementation, text._attn_implementation) == (within, within)
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        fail()
    assert (model.config._attn_implementation, text._attn_implementation) == (usual, usual)


def test_a_multimodal_model_whose_text_part_attends_otherwise_is_left_alone(tmp_path: Path) -> None:
    model, _ = load_model(tiny_model(tmp_path / "model", "gemma3", blocks=2), "bfloat16")
    text = attention.text_config(model.config)
    text._attn_implementation_internal = "eager"
    with fast_attention(model):
        assert (model.config._attn_implementation, text._attn_implementation) == ("sdpa", "eager")


def test_it_is_what_collecting_uses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    baddbmm = torch.baddbmm

    def counted(*arguments: Any, **options: Any) -> torch.Tensor:
        calls.append(1)
        return baddbmm(*arguments, **options)

    monkeypatch.setattr(torch, "baddbmm", counted)
    folder = tiny_model(tmp_path / "model", blocks=3)
    corpora = write_corpora(tmp_path, STORIES)
    # Five texts, one to a batch, and two blocks until the last one that is wanted.
    for dtype, passes in (("bfloat16", 10), ("float32", 0)):
        calls.clear()
        collect(folder, *corpora, tmp_path / f"{dtype}.h5", collect_spec([0, 1], dtype=dtype, token_budget=1))
        assert len(calls) == passes
