"""A batch that rows join and leave at any step writes for each of them what it would write for that row alone.

The second methods are Transformers' own `generate`, under `Steering` where rows are steered, and plain passes.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import DynamicCache, GenerationConfig

from affectome.models.anatomy import residual
from affectome.randomness import generator
from affectome.serve import batching
from affectome.serve.batching import Batch, Reading, Row
from affectome.steering.instrument import Intervention, NeverSteeredError, Steering, ablate, add, blocks_of, clamp
from tests.helpers import random_model, tiny_config

BLOCKS, WIDTH, NEW = 4, 16, 12
NORMS = dict.fromkeys(range(BLOCKS), 5.0)

# Caches of columns, of windows shorter than the prompts, of states without columns, shared ones, experts.
FAMILIES = ["llama", "gpt2", "gpt_neox", "gemma3_text", "qwen3_next", "gpt_oss", "gemma4_text", "opt", "qwen3_moe"]


def unit(name: str) -> np.ndarray:
    vector = generator(0, name).normal(size=WIDTH)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def at(name: str, *layers: int) -> dict[int, np.ndarray]:
    return {layer: unit(f"{name}{layer}") for layer in layers}


# Every mode and kind of positions, several layers, several interventions, and none.
PLANS: list[tuple[Intervention, ...]] = [
    (),
    (add(0.4, at("a", 1), NORMS, "generated"), add(-0.3, at("b", 1, 2), NORMS, "all")),
    (clamp(0.5, at("c", 2), NORMS, "generated"),),
    (ablate(at("d", 0, 3), "prompt"), add(0.2, at("e", 3), NORMS, "generated")),
    (add(0.5, at("f", 0), NORMS, (1, 3)), ablate(at("g", 1), "all"), clamp(-0.4, at("h", 1), NORMS, "all")),
]


def prompts(count: int, seed: int = 0) -> list[tuple[int, ...]]:
    """Token sequences of 3 to 20 tokens, of which many are longer than a window of 8."""
    rng = generator(seed, "prompts")
    return [(1, *rng.integers(3, 250, size=int(rng.integers(2, 20))).tolist()) for _ in range(count)]


def model_of(family: str) -> nn.Module:
    return random_model(tiny_config(family, BLOCKS, WIDTH))


def alone(model: nn.Module, row: Row, new: int = NEW) -> list[int]:
    """The row's greedy continuation by Transformers' `generate`."""
    model.generation_config.eos_token_id = None
    settings = GenerationConfig(max_new_tokens=new, do_sample=False, eos_token_id=None, pad_token_id=0)
    with Steering(model, [row.plan]):
        ids = torch.tensor([row.prompt])
        out = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=settings)
    return out[0, len(row.prompt) :].tolist()


def run(batch: Batch, rows: Sequence[Row], joins: Sequence[int], lengths: Sequence[int]) -> None:
    """Write `lengths` tokens in every row, greedily; row n joins before step `joins[n]`, or once the batch is open."""
    waiting, step = list(range(len(rows))), 0
    while waiting or batch.rows:
        newcomers = [n for n in waiting if joins[n] <= step] if batch.open else []
        if newcomers:
            take([rows[n] for n in newcomers], batch.join([rows[n] for n in newcomers]))
            waiting = [n for n in waiting if n not in newcomers]
            over(batch, rows, lengths)
        if batch.rows:
            take(batch.rows, batch.step())
            over(batch, rows, lengths)
        step += 1


def take(rows: Sequence[Row], logits: torch.Tensor) -> None:
    for row, token in zip(rows, logits.argmax(dim=-1).tolist(), strict=True):
        row.written.append(token)


def over(batch: Batch, rows: Sequence[Row], lengths: Sequence[int]) -> None:
    batch.leave([row for row, length in zip(rows, lengths, strict=True) if len(row.written) == length])


def hooks_on(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_are_written_as_alone_whoever_joins_or_leaves(family: str) -> None:
    model = model_of(family)
    texts = prompts(10)
    plans = [PLANS[n % len(PLANS)] for n in range(10)]
    wanted = [alone(model, Row(text, plan)) for text, plan in zip(texts, plans, strict=True)]
    for seed in range(3):
        rng = generator(seed, "schedule")
        joins, lengths = rng.integers(0, 12, size=10).tolist(), rng.integers(1, NEW + 1, size=10).tolist()
        rows = [Row(text, plan) for text, plan in zip(texts, plans, strict=True)]
        batch = Batch(model)
        run(batch, rows, joins, lengths)
        assert [row.written for row in rows] == [want[:n] for want, n in zip(wanted, lengths, strict=True)]
        assert batch.open
        for row in rows:
            row.check()
    assert hooks_on(model) == 0


def test_a_newcomer_may_join_before_every_step() -> None:
    model = model_of("gemma3_text")
    texts = prompts(2, seed=1)
    wanted = [alone(model, Row(text, PLANS[1])) for text in texts]
    for step in range(NEW):
        rows = [Row(text, PLANS[1]) for text in texts]
        run(Batch(model), rows, [0, step], [NEW, NEW])
        assert [row.written for row in rows] == wanted


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "qwen3_next"])
def test_caches_that_do_not_merge_take_newcomers_when_empty(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "_MERGEABLE", ())
    model = model_of(family)
    texts = prompts(6)
    rows = [Row(text, PLANS[n % len(PLANS)]) for n, text in enumerate(texts)]
    batch = Batch(model)
    run(batch, rows, [0, 0, 0, 1, 2, 3], [3, NEW, 5, 4, NEW, 1])
    for row in rows:
        assert row.written == alone(model, row)[: len(row.written)]
        row.check()


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "gemma3_text", "qwen3_next"])
def test_logits_under_steering_are_those_of_steering(family: str) -> None:
    """Every plan in one batch, forced along the same tokens, beside one pass of each row alone without a cache."""
    model = model_of(family)
    texts = prompts(len(PLANS), seed=2)
    rows = [Row(text, plan) for text, plan in zip(texts, PLANS, strict=True)]
    forced = prompts(len(PLANS), seed=3)
    batch, found = Batch(model), []
    found.append(batch.join(rows))
    for n in range(3):
        for row, tokens in zip(rows, forced, strict=True):
            row.written.append(tokens[n])
        found.append(batch.step())
    for row in rows:
        row.written.append(0)
    batch.leave(rows)
    for number, row in enumerate(rows):
        row.check()
        with Steering(model, [row.plan], [len(row.prompt)]) as steering, torch.inference_mode():
            ids = torch.tensor([[*row.prompt, *row.written[:-1]]])
            logits = model(ids, use_cache=False).logits[0, len(row.prompt) - 1 :]
        np.testing.assert_allclose(torch.stack([of[number] for of in found]), logits, rtol=1e-4, atol=1e-4)
        assert sum(row.steered.values()) == steering.counts[0]


def test_steering_is_rounded_once_in_bfloat16() -> None:
    model = model_of("llama").to(torch.bfloat16)
    tiny = tuple(Intervention({1: unit("a1")}, {1: 0.004}, "add", "all") for _ in range(64))
    seen: list[torch.Tensor] = []
    handle = blocks_of(model)[2].register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0].clone()))
    row = Row(prompts(1)[0], tiny)
    batch = Batch(model)
    batch.join([row])
    batch.clear()
    with Steering(model, [tiny]), torch.inference_mode():
        model(torch.tensor([row.prompt]))
    with torch.inference_mode():
        model(torch.tensor([row.prompt]))
    handle.remove()
    first, by_steering, plain = seen[0], seen[-2], seen[-1]
    assert torch.equal(first, by_steering)
    assert not torch.equal(first, plain)


def test_no_hooks_where_nobody_is_steered_or_read() -> None:
    model = model_of("llama")
    batch, (first, second) = Batch(model), (Row(text) for text in prompts(2))
    take([first], batch.join([first]))
    take([first], batch.step())
    assert hooks_on(model) == 0
    steered = Row(second.prompt, PLANS[2])
    take([steered], batch.join([steered]))
    take(batch.rows, batch.step())
    assert hooks_on(model) == 1
    batch.leave([steered])
    take(batch.rows, batch.step())
    assert hooks_on(model) == 0


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3_text"])
def test_readouts_are_those_of_a_plain_pass_before_steering(family: str) -> None:
    model = model_of(family)
    units = np.stack([unit("r"), unit("s")])
    texts = prompts(4, seed=4)
    readings = [Reading(1, units, 7.0), None, Reading(1, units[1:], 3.0), Reading(2, units, 7.0)]
    plans = [PLANS[1], PLANS[1], (), PLANS[4]]
    rows = [Row(text, plan, reading) for text, plan, reading in zip(texts, plans, readings, strict=True)]
    run(Batch(model), rows, [0, 1, 2, 3], [6, 9, 8, 7])
    for row in rows:
        if row.reading is None:
            assert not row.values
            continue
        seen: list[torch.Tensor] = []
        # Put on before those that steer, so that it sees what the block itself puts out.
        handle = blocks_of(model)[row.reading.layer].register_forward_hook(
            lambda _module, _inputs, output, seen=seen: seen.append(residual(output)[0])
        )
        with Steering(model, [row.plan], [len(row.prompt)]), torch.inference_mode():
            model(torch.tensor([[*row.prompt, *row.written[:-1]]]), use_cache=False)
        handle.remove()
        wanted = seen[0][len(row.prompt) :].numpy() @ row.reading.units.T / row.reading.norm
        np.testing.assert_allclose(row.values, wanted, rtol=1e-4, atol=1e-4)


def test_padding_goes_when_the_row_that_needed_it_has_left() -> None:
    for family in ("llama", "gemma3_text"):
        long, short = Row((1, *range(3, 60))), Row((1, 5, 6))
        batch = Batch(model_of(family))
        take([long, short], batch.join([long, short]))
        take(batch.rows, batch.step())
        batch.leave([long])
        assert batch._cache.get_seq_length() == 4
        assert all(layer.keys.shape[-2] <= 4 for layer in batch._cache.layers)


def test_a_reply_that_was_not_steered_as_planned_is_told() -> None:
    row = Row(prompts(1)[0], PLANS[1])
    model = model_of("llama")
    run(Batch(model), [row], [0], [5])
    row.check()
    row.steered[0, 1] -= 1
    with pytest.raises(NeverSteeredError, match="3 of 4 positions"):
        row.check()
    unsteered = Row(row.prompt, PLANS[2], written=[5, 6])
    with pytest.raises(NeverSteeredError, match="0 of 1 positions"):
        unsteered.check()
    # The one token of a reply that is never read has no position to steer.
    Row(row.prompt, PLANS[2], written=[5]).check()


def test_a_failing_pass_leaves_the_others_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("llama")
    texts = prompts(2, seed=5)
    wanted = [alone(model, Row(text, PLANS[1])) for text in texts]
    first, second = (Row(text, PLANS[1]) for text in texts)
    batch = Batch(model)
    take([first], batch.join([first]))
    take([first], batch.step())

    def fail(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("no memory")

    broken = blocks_of(model)[3].register_forward_hook(fail)
    with pytest.raises(torch.OutOfMemoryError):
        batch.join([second])
    broken.remove()
    with monkeypatch.context() as patch:
        patch.setattr(batching, "_merged", fail)
        with pytest.raises(torch.OutOfMemoryError):
            batch.join([second])
    assert batch.rows == [first]
    assert not second.steered
    take([second], batch.join([second]))
    while len(first.written) < NEW:
        take(batch.rows, batch.step())
    batch.leave([first, second])
    for row, want in zip((first, second), wanted, strict=True):
        assert row.written == want[: len(row.written)]
        row.check()


def test_caches_that_are_known_merge() -> None:
    assert batching.merges(DynamicCache())
    assert not batching.merges(object())
