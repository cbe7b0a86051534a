"""Steering does what a plan says, to the rows and tokens it names and no others, however the model is run.

The second method is a plain loop: one text, no padding, no cache, a hook of one line that changes chosen tokens.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from affectome.errors import UserError
from affectome.models.load import load_model
from affectome.randomness import generator
from affectome.steering.instrument import Intervention, NeverSteeredError, Steering, ablate, add, add_alpha, clamp
from affectome.steering.strength import strength_of_alpha
from tests.helpers import random_model, tiny_config, tiny_model
from tests.unit.test_architectures import PLACES

BLOCKS, WIDTH, NEW = 4, 16, 4
PROMPTS = [[1, 70, 80, 90, 100, 110, 120], [1, 200, 150], [1, 33, 44, 55, 66], [1, 9, 8, 7]]
LONGEST = max(map(len, PROMPTS))
NORMS = dict.fromkeys(range(BLOCKS), 5.0)


def unit(name: str, width: int = WIDTH) -> np.ndarray:
    vector = generator(0, name).normal(size=width)
    return vector / np.linalg.norm(vector)


def at(name: str, *layers: int) -> dict[int, np.ndarray]:
    return {layer: unit(f"{name}{layer}") for layer in layers}


# A row of each kind; the last one is left alone.
PLANS: list[list[Intervention]] = [
    [add(0.4, at("a", 1), NORMS), add(-0.3, at("b", 1, 2), NORMS, (2, 4))],
    [clamp(0.5, at("c", 2), NORMS, "generated")],
    [ablate(at("d", 0, 3), "prompt")],
    [],
]


def left_padded(prompts: Sequence[Sequence[int]], filler: int = 0) -> dict[str, torch.Tensor]:
    longest = max(map(len, prompts))
    ids = [[filler] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}


def changed(hidden: torch.Tensor, item: Intervention, layer: int, prompt: int) -> torch.Tensor:
    """What `item` makes of the residuals (tokens, width) of one row at `layer`, by the definitions alone."""
    spans = {"all": (0, len(hidden)), "prompt": (0, prompt), "generated": (prompt, len(hidden))}
    first, end = item.positions if isinstance(item.positions, tuple) else spans[item.positions]
    vector = torch.tensor(item.directions[layer], dtype=torch.float32)
    out = hidden.clone()
    for token in range(first, min(end, len(hidden))):
        along = float(out[token] @ vector)
        add_this = {"add": item.lengths[layer], "clamp": item.lengths[layer] - along, "ablate": -along}[item.mode]
        out[token] += add_this * vector
    return out


def plain_logits(model: Any, place: str, plan: list[Intervention], ids: list[int], prompt: int) -> torch.Tensor:
    """Logits (tokens, vocabulary) of one sequence, steered the plain way."""

    def hook(layer: int) -> Callable:
        def change(_module: Any, _inputs: Any, output: Any) -> Any:
            hidden = (output if isinstance(output, torch.Tensor) else output[0])[0]
            for item in plan:
                if layer in item.directions:
                    hidden = changed(hidden, item, layer, prompt)
            return hidden[None] if isinstance(output, torch.Tensor) else (hidden[None], *output[1:])

        return change

    handles = [block.register_forward_hook(hook(n)) for n, block in enumerate(model.get_submodule(place))]
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
    for handle in handles:
        handle.remove()
    return logits


def generate(model: Any, batch: dict[str, torch.Tensor], **settings: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Greedy tokens (rows, NEW) and the logits (rows, NEW, vocabulary) they were chosen by."""
    settings = {"do_sample": False, "max_new_tokens": NEW, "min_new_tokens": NEW, "pad_token_id": 0} | settings
    with torch.no_grad():
        out = model.generate(**batch, **settings, output_logits=True, return_dict_in_generate=True)
    return out.sequences[:, batch["input_ids"].shape[1] :], torch.stack(out.logits, dim=1)


@pytest.mark.parametrize("architecture", PLACES)
def test_a_mixed_batch_equals_single_runs_by_the_plain_way(architecture: str) -> None:
    model = random_model(tiny_config(architecture, BLOCKS, WIDTH))
    with Steering(model, PLANS) as steering:
        tokens, logits = generate(model, left_padded(PROMPTS))
    assert steering.counts == [2 * 0 + LONGEST + NEW - 1 + 2 * 2, NEW - 1, 2 * len(PROMPTS[2]), 0]
    for row, (prompt, plan) in enumerate(zip(PROMPTS, PLANS, strict=True)):
        ids = prompt + tokens[row].tolist()
        wanted = plain_logits(model, PLACES[architecture], plan, ids, len(prompt))[len(prompt) - 1 : -1]
        assert (logits[row] - wanted).abs().max() < 1e-3 * wanted.abs().max()
        unsteered = plain_logits(model, PLACES[architecture], [], ids, len(prompt))[len(prompt) - 1 : -1]
        assert ((unsteered - wanted).abs().max() > 1e-2 * wanted.abs().max()) == bool(plan)


@pytest.fixture
def llama() -> Any:
    return random_model(tiny_config("llama", BLOCKS, WIDTH))


@pytest.mark.parametrize("settings", [{"use_cache": False}, {"cache_implementation": "static"}], ids=str)
@pytest.mark.parametrize("architecture", ["llama", "gemma3_text"])
def test_the_kind_of_cache_makes_no_difference(architecture: str, settings: dict[str, Any]) -> None:
    model = random_model(tiny_config(architecture, BLOCKS, WIDTH))
    with Steering(model, PLANS):
        tokens, logits = generate(model, left_padded(PROMPTS))
    with Steering(model, PLANS):
        other_tokens, other_logits = generate(model, left_padded(PROMPTS), **settings)
    assert torch.equal(tokens, other_tokens)
    assert (logits - other_logits).abs().max() < 1e-4


@pytest.mark.parametrize("compiled_first", [True, False])
def test_a_compiled_model_is_steered_and_afterwards_not(llama: Any, compiled_first: bool) -> None:
    batch = left_padded(PROMPTS)
    plans = [[add(0.4, at("a", 1), NORMS)]] * len(PROMPTS)
    with torch.no_grad():
        before = llama(**batch).logits
        with Steering(llama, plans):
            wanted = llama(**batch).logits
        llama.forward = torch.compile(llama.forward, backend="aot_eager")
        if compiled_first:
            llama(**batch)
        with Steering(llama, plans) as steering:
            found = llama(**batch).logits
        after = llama(**batch).logits
    assert steering.counts == [len(prompt) for prompt in PROMPTS]
    real = batch["attention_mask"].bool()
    assert (found - wanted)[real].abs().max() < 1e-4
    assert (after - before)[real].abs().max() < 1e-4
    assert (wanted - before)[real].abs().max() > 1e-2


def test_beams_and_several_samples_follow_the_plan_of_their_prompt(llama: Any) -> None:
    for settings in ({"num_beams": 3}, {"num_beams": 3, "num_return_sequences": 2}):
        with Steering(llama, PLANS):
            mixed = llama.generate(**left_padded(PROMPTS), max_new_tokens=NEW, pad_token_id=0, **settings)
        each = settings.get("num_return_sequences", 1)
        for row, (prompt, plan) in enumerate(zip(PROMPTS, PLANS, strict=True)):
            with Steering(llama, [plan]):
                alone = llama.generate(**left_padded([prompt]), max_new_tokens=NEW, pad_token_id=0, **settings)
            rows = mixed[row * each : (row + 1) * each, LONGEST:]
            assert torch.equal(rows, alone[:, len(prompt) :])
    with Steering(llama, PLANS) as steering:
        settings = {"do_sample": True, "num_return_sequences": 3, "max_new_tokens": NEW, "min_new_tokens": NEW}
        llama.generate(**left_padded(PROMPTS), pad_token_id=0, **settings)
    assert steering.counts[1] == 3 * (NEW - 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_strength_0_is_bit_identical(llama: Any, dtype: torch.dtype) -> None:
    llama.to(dtype)
    batch = left_padded(PROMPTS)
    _, wanted = generate(llama, batch)
    with Steering(llama, [[add(0.0, at("a", 0, 1, 2, 3), NORMS)]] * len(PROMPTS)) as steering:
        _, found = generate(llama, batch)
    assert min(steering.counts) > 0
    assert torch.equal(found, wanted)


def test_an_unsteered_row_is_bit_identical_beside_steered_ones(llama: Any) -> None:
    _, wanted = generate(llama, left_padded(PROMPTS))
    with Steering(llama, PLANS):
        _, found = generate(llama, left_padded(PROMPTS))
    assert torch.equal(found[3], wanted[3])


def test_the_residual_of_a_block_by_hand(llama: Any) -> None:
    """Right padding, no mask, the lengths of the prompts given."""
    seen: list[torch.Tensor] = []
    vector = unit("v")
    plans = [
        [add(0.5, {2: vector}, {2: 8.0}, "prompt")],
        [ablate({2: vector})],
        [clamp(-0.25, {2: vector}, {2: 8.0}, (1, 2))],
        [add_alpha(3.0, {2: 2 * vector}, "generated")],
    ]
    ids = torch.tensor([prompt + [5] * (LONGEST - len(prompt)) for prompt in PROMPTS])
    with torch.no_grad():
        for context in (None, Steering(llama, plans, prompts=[3, 3, 5, 4])):
            if context:
                context.__enter__()
            handle = llama.model.layers[2].register_forward_hook(lambda _m, _i, output: seen.append(output))
            llama(input_ids=ids, use_cache=False)
            handle.remove()
            if context:
                context.__exit__(None, None, None)
    before, after = seen
    u = torch.tensor(vector, dtype=torch.float32)
    assert torch.allclose(after[0, :3], before[0, :3] + 4.0 * u, atol=1e-5)
    assert torch.equal(after[0, 3:], before[0, 3:])
    assert torch.allclose(after[1] @ u, torch.zeros(LONGEST), atol=1e-5)
    other = before[1] - (before[1] @ u)[:, None] * u
    assert torch.allclose(after[1], other, atol=1e-5)
    assert after[2, 1] @ u == pytest.approx(-2.0, abs=1e-5)
    assert torch.equal(after[2, [0, 2, 3, 4, 5, 6]], before[2, [0, 2, 3, 4, 5, 6]])
    assert torch.equal(after[3, :4], before[3, :4])
    assert torch.allclose(after[3, 4:], before[3, 4:] + 6.0 * u, atol=1e-5)


def test_alpha_is_a_multiple_of_the_stored_vector() -> None:
    assert strength_of_alpha(2.0, np.array([3.0, 4.0]), residual_norm=50.0) == pytest.approx(0.2)


def test_hooks_are_gone_however_the_context_ends(llama: Any) -> None:
    def hooks() -> int:
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in llama.modules())

    plans = [[add(0.4, at("a", 1), NORMS)]]
    with pytest.raises(ZeroDivisionError), Steering(llama, plans):
        hooks() / (hooks() - 2)
    assert hooks() == 0
    with pytest.raises(NeverSteeredError), Steering(llama, plans):
        pass
    assert hooks() == 0
    with pytest.raises(UserError), Steering(llama, [[add(0.4, at("a", 1) | {9: unit("a")}, NORMS | {9: 5.0})]]):
        pass
    assert hooks() == 0


@pytest.mark.parametrize(
    ("plans", "words"),
    [
        ([[add(0.4, {1: unit("a", 8)}, NORMS)]], "width 8 cannot steer a model of width 16"),
        ([[add(0.4, {BLOCKS: unit("a")}, {BLOCKS: 5.0})]], "numbered 0 to 3"),
        ([[add(0.4, {1: 2 * unit("a")}, NORMS)]], "not of length 1"),
        ([[add(0.4, {1: unit("a") * np.nan}, NORMS)]], "not of length 1"),
        ([[add(0.4, at("a", 1), NORMS, (5, 8))]], "does not lie in a prompt of 7 tokens"),
        ([], "no rows"),
        ([[], []], "1 rows cannot be steered by 2 plans"),
    ],
)
def test_an_impossible_plan_is_refused_in_words(llama: Any, plans: list[list[Intervention]], words: str) -> None:
    steered = [[*plan, add(0.1, at("a", 1), NORMS)] for plan in plans]
    with pytest.raises(UserError, match=words), torch.no_grad(), Steering(llama, steered):
        llama(**left_padded(PROMPTS[:1]))


@pytest.mark.parametrize("quantization", ["4bit", "8bit"])
def test_a_quantised_model_is_steered(quantization: str, tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "model", "llama", blocks=BLOCKS, width=64)
    model, _ = load_model(folder, "float32", quantization)
    item = add(0.5, {1: unit("q", 64)}, NORMS)
    with Steering(model, [[item], []]):
        tokens, logits = generate(model, left_padded(PROMPTS[:2]))
    ids = PROMPTS[0] + tokens[0].tolist()
    wanted = plain_logits(model, "model.layers", [item], ids, len(PROMPTS[0]))[len(PROMPTS[0]) - 1 : -1]
    unsteered = plain_logits(model, "model.layers", [], ids, len(PROMPTS[0]))[len(PROMPTS[0]) - 1 : -1]
    # Quantised products depend a little on what else is in the batch.
    assert (logits[0] - wanted).abs().max() < 0.2 * (unsteered - wanted).abs().max()


@pytest.mark.gpu
def test_a_model_spread_over_devices_is_steered(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "model", "llama", blocks=BLOCKS)
    spread = {"model.embed_tokens": 0, "model.norm": "cpu", "model.rotary_emb": 0, "lm_head": "cpu"}
    spread |= {f"model.layers.{block}": 0 if block < 2 else "cpu" for block in range(BLOCKS)}
    single = AutoModelForCausalLM.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, device_map=spread)
    with Steering(single, PLANS):
        _, wanted = generate(single, left_padded(PROMPTS))
    with Steering(model, PLANS):
        _, found = generate(model, {name: tensor.to("cuda") for name, tensor in left_padded(PROMPTS).items()})
    assert (found.cpu() - wanted).abs().max() < 1e-3
