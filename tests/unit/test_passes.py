"""Writing, scoring and reading in mixed batches give what a plain loop over single rows gives."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from affectome.journal import Journal
from affectome.randomness import generator
from affectome.steering import passes
from affectome.steering.passes import Row
from tests.helpers import EOS, random_model, tiny_config, tiny_tokenizer
from tests.unit.test_architectures import PLACES
from tests.unit.test_instrument import BLOCKS, PLANS, PROMPTS, WIDTH, plain_logits

ROWS = [Row(tuple(prompt), tuple(plan)) for prompt, plan in zip(PROMPTS, PLANS, strict=True)]
WAYS = [(7,), (8, 9), (8, 9, 10), (8, 11), (12, 9)]


@pytest.fixture
def llama() -> Any:
    return random_model(tiny_config("llama", BLOCKS, WIDTH))


def plain_logprob(model: Any, place: str, row: Row, way: tuple[int, ...]) -> float:
    """Of a continuation, from a single pass over all of it."""
    logits = plain_logits(model, place, list(row.plan), [*row.ids, *way], len(row.ids))
    logprobs = torch.log_softmax(logits, dim=-1)
    return sum(float(logprobs[len(row.ids) - 1 + step, token]) for step, token in enumerate(way))


@pytest.mark.parametrize("architecture", PLACES)
def test_continuations_have_the_probability_of_single_passes(architecture: str) -> None:
    model = random_model(tiny_config(architecture, BLOCKS, WIDTH))
    rows = [*ROWS, Row(tuple(PROMPTS[1]), tuple(PLANS[0][:1]))]
    ways = [WAYS, WAYS[:2], WAYS[:1], WAYS[2:], WAYS]
    # Positions after the prompt are steered in rows that have some.
    ways[1] = WAYS[1:]
    found = passes.continuation_logprobs(model, rows, ways)
    for row, of_row, values in zip(rows, ways, found, strict=True):
        wanted = [plain_logprob(model, PLACES[architecture], row, way) for way in of_row]
        assert values == pytest.approx(wanted, abs=2e-3)


def test_the_head_is_precise_in_bfloat16(llama: Any) -> None:
    """What rounds to multiples of 1/16 in bfloat16 logits is told apart."""
    with torch.no_grad():
        # Large logits that differ little, from hidden states that bfloat16 holds exactly.
        llama.model.norm.weight.fill_(1.0)
        llama.lm_head.weight.fill_(1.0)
        llama.lm_head.weight[8] = 1.0078125
    llama.to(torch.bfloat16)
    hidden: list[torch.Tensor] = []
    llama.model.norm.register_forward_hook(lambda _m, _i, output: hidden.append(output))
    ((seven, eight),) = passes.continuation_logprobs(llama, [Row((1, 70, 80))], [[(7,), (8,)]])
    total = float(hidden[0][0, -1].float().sum())
    assert eight - seven == pytest.approx(0.0078125 * total, rel=1e-3)
    assert llama.lm_head._forward_hooks == {}
    assert llama.lm_head._forward_pre_hooks == {}


def test_the_likeliest_next_token(llama: Any) -> None:
    rows = [row for row in ROWS if all(item.positions != "generated" for item in row.plan)]
    wanted = [
        int(plain_logits(llama, "model.layers", list(row.plan), list(row.ids), len(row.ids))[-1].argmax())
        for row in rows
    ]
    assert passes.top_tokens(llama, rows) == wanted


def test_reading_gives_likelihood_and_residual_of_a_single_pass(llama: Any) -> None:
    starts = [4, 1, 0, 2]
    rows = [Row(row.ids, tuple(item for item in row.plan if item.positions != "generated")) for row in ROWS]
    found = passes.read(llama, rows, starts, layer=2)
    for row, start, reading in zip(rows, starts, found, strict=True):
        first = max(start, 1)
        logits = plain_logits(llama, "model.layers", list(row.plan), list(row.ids), len(row.ids))
        logprobs = torch.log_softmax(logits, dim=-1)
        wanted = -np.mean([float(logprobs[n - 1, row.ids[n]]) for n in range(first, len(row.ids))])
        assert reading.nll == pytest.approx(wanted, abs=1e-4)
        plain = random_model(tiny_config("llama", BLOCKS, WIDTH))
        seen: list[torch.Tensor] = []
        plain.model.layers[3].register_forward_pre_hook(lambda _m, inputs, seen=seen: seen.append(inputs[0][0]))
        plain_logits(plain, "model.layers", list(row.plan), list(row.ids), len(row.ids))
        assert np.allclose(reading.pooled, seen[0][first:].mean(dim=0).numpy(), atol=1e-4)


def test_a_row_without_tokens_to_read_has_no_likelihood(llama: Any) -> None:
    (reading,) = passes.read(llama, [Row((1, 5, 6))], [3])
    assert math.isnan(reading.nll)
    assert reading.pooled is None


def test_tokens_are_drawn_with_their_probabilities() -> None:
    scores = torch.tensor([[0.0, 1.0, 2.0, float("-inf")]]).repeat(20_000, 1)
    uniforms = torch.tensor(generator(0, "u").random((20_000, 1)), dtype=torch.float32)
    chosen = passes._Drawn(uniforms, 0.5)(torch.zeros(0), scores).argmax(dim=-1)
    wanted = torch.softmax(scores[0] / 0.5, dim=-1).numpy()
    found = np.bincount(chosen.numpy(), minlength=4) / 20_000
    assert found == pytest.approx(wanted, abs=4 * math.sqrt(0.25 / 20_000))
    assert found[3] == 0


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_what_is_written_does_not_depend_on_the_batch(llama: Any, temperature: float) -> None:
    tokenizer = tiny_tokenizer()
    uniforms = np.stack([generator(0, n).random(8) for n in range(len(ROWS))])
    together = passes.write(llama, tokenizer, ROWS, uniforms, temperature)
    for number, text in enumerate(together):
        (alone,) = passes.write(llama, tokenizer, [ROWS[number]], uniforms[[number]], temperature)
        assert alone == text
    other = passes.write(llama, tokenizer, ROWS, 1 - uniforms, temperature)
    assert (other == together) == (temperature == 0)


def test_a_text_ends_with_the_models_end_token(llama: Any) -> None:
    tokenizer = tiny_tokenizer()
    with torch.no_grad():
        # A model that always says z, and ends when its uniform number is high enough.
        llama.lm_head.weight.zero_()
        llama.lm_head.bias = nn.Parameter(torch.full((llama.config.vocab_size,), -100.0))
        llama.lm_head.bias[tokenizer.convert_tokens_to_ids("z")] = 1.0
        llama.lm_head.bias[tokenizer.convert_tokens_to_ids(EOS)] = 1.0
    # The end token has the lower number, so it is drawn with uniforms below one half.
    uniforms = np.array([[0.9, 0.9, 0.1, 0.9], [0.9, 0.9, 0.9, 0.9], [0.1, 0.9, 0.9, 0.9]])
    found = passes.write(llama, tokenizer, [ROWS[0], ROWS[3], ROWS[3]], uniforms, 1.0)
    assert [text.text for text in found] == ["zz", "zzzz", ""]
    assert [text.finished for text in found] == [True, False, True]
    assert [len(text.ids) for text in found] == [2, 4, 0]


def test_batches_keep_within_the_budget_and_results_keep_their_order(tmp_path: Path) -> None:
    lengths = [3, 9, 4, 4, 12, 1]
    seen: list[list[int]] = []

    def work(batch: list[int]) -> list[int]:
        seen.append(batch)
        return [10 * n for n in batch]

    with Journal(tmp_path / "j.jsonl", "origin") as journal:
        assert passes.in_batches("tens", lengths, 12, work, journal) == [0, 10, 20, 30, 40, 50]
    assert all(max(lengths[n] for n in batch) * len(batch) <= 12 for batch in seen)


def test_an_interrupted_job_does_only_what_is_left(tmp_path: Path) -> None:
    done: list[list[int]] = []

    def work(batch: list[int], fail_at: int | None = None) -> list[list[float]]:
        if len(done) == fail_at:
            raise KeyboardInterrupt
        done.append(batch)
        return [[n / 3, math.nan] for n in batch]

    lengths = [5] * 7
    with pytest.raises(KeyboardInterrupt), Journal(tmp_path / "j.jsonl", "origin") as journal:
        passes.in_batches("thirds", lengths, 10, lambda batch: work(batch, 2), journal)
    with Journal(tmp_path / "j.jsonl", "origin") as journal:
        found = passes.in_batches("thirds", lengths, 10, work, journal)
    assert sorted(n for batch in done for n in batch) == list(range(7))
    assert [value for value, _ in found] == [n / 3 for n in range(7)]
    assert all(math.isnan(other) for _, other in found)
    with Journal(tmp_path / "j.jsonl", "another") as journal:
        assert journal.entries == {}
