"""vLLM, with our plugin in it, steers as the instrument of the trials does: token by token, request by request.

The second method is Transformers with `affectome.steering.instrument.Steering`, one request at a time.
"""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from transformers import AutoModelForCausalLM

from affectome.serve.plan import Change, Readout, encode
from affectome.serve.transformers_backend import interventions
from affectome.steering.instrument import Steering, blocks_of
from tests.helpers import tiny_model
from tests.vllm.test_vllm import WHY_NOT

pytestmark = [pytest.mark.vllm, pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)]

BLOCKS, WIDTH, DIRECTIONS = 4, 64, 6
NORM = 8.0

# Blocks that return a tensor, that return two to be summed, that come from Transformers, and that have experts.
ARCHITECTURES = ["llama", "gpt2", "gpt_neox", "qwen3_moe", "gemma3_text"]

rng = np.random.default_rng(0)


def change(direction, layers, length=0.0, mode="add", positions="generated"):
    return Change(direction, tuple((layer, length) for layer in layers), mode, positions)


# Of every kind, together in one batch; some end earlier than others, so that rows move.
PLANS = [
    (),
    (change(0, [1], 3.0),),
    (change(1, [0, 1, 3], -2.0, positions="all"),),
    (change(2, [2], mode="ablate", positions="all"),),
    (change(3, [1, 2], 4.0, "clamp"),),
    (change(0, [0], 3.0, positions="prompt"), change(1, [0, 2], 2.0, "clamp", "all"), change(4, [0], 1.0)),
    (change(4, [BLOCKS - 1], 5.0),),
    (change(5, [0], -4.0, positions="prompt"),),
    (),
]
TOKENS = [8, 3, 12, 8, 5, 9, 8, 12, 2]
PROMPTS = [[1, *map(int, rng.integers(10, 250, size))] for size in (20, 7, 40, 3, 15, 9, 30, 12, 5)]


def request(prompt, plan, tokens, readout=None, **more):
    text = encode(plan, readout) if plan or readout else None
    return {"prompt": prompt, "plan": text, "tokens": tokens, **more}


MIXED = [request(*each) for each in zip(PROMPTS, PLANS, TOKENS, strict=True)]

# Long enough for several blocks of the cache, of 32 tokens each.
LONG = [1, *map(int, rng.integers(10, 250, 99))]
MORE = [*map(int, rng.integers(10, 250, 9))]
ALL, PROMPT, GENERATED = ((change(1, [1], 4.0, positions=positions),) for positions in ("all", "prompt", "generated"))
OTHER = (change(2, [1], 4.0, positions="all"),)
# Each a round of its own, so that it finds what those before it left in the cache; whether it may share some of that.
CACHED = [
    (request(LONG, (), 30), False),
    (request(LONG, ALL, 30), False),
    (request(LONG, PROMPT, 30), True),
    (request(LONG, OTHER, 4), False),
    (request(LONG, (), 4), True),
    (request(LONG, GENERATED, 30), True),
    (request(MORE, GENERATED, 4, after=[5, 0]), True),
    (request(MORE, (), 4, after=[5, 0]), True),
    (request(MORE, PROMPT, 4, after=[2, 0]), True),
    (request(MORE, ALL, 4, after=[1, 0]), True),
    (request(MORE, (), 4, after=[0, 0]), True),
]
READOUTS = [Readout(2, (0, 3, 5), "plain"), Readout(1, (1,), "steered"), Readout(BLOCKS - 1, (4, 2), "last")]


def write_directions(path, layers, width):
    units = rng.normal(size=(len(layers), DIRECTIONS, width)).astype(np.float32)
    units /= np.linalg.norm(units, axis=-1, keepdims=True)
    units = {layer: units[number] for number, layer in enumerate(layers)}
    arrays = {f"layer_{layer}": array for layer, array in units.items()}
    save_file(arrays, path, {"residual_norm": json.dumps(dict.fromkeys(layers, NORM))})
    return units


def ask(folder, engines):
    """What vLLM, with the directions of `folder`, makes of a job; see `engine.py`."""
    job, output = folder / "job.json", folder / "found.json"
    job.write_text(json.dumps(engines))
    python = Path(os.environ.get("AFFECTOME_VLLM", ".vllm/bin/vllm")).absolute().parent / "python"
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    environment |= {
        "AFFECTOME_DIRECTIONS": str(folder / "directions.safetensors"),
        "VLLM_PLUGINS": "affectome",
        "VLLM_USE_V2_MODEL_RUNNER": "0",
        # One process is faster to start, and can be looked into.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        # Threads of models this small wait for each other.
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        "VLLM_HOST_IP": "127.0.0.1",
    }
    command = [python, Path(__file__).with_name("engine.py"), job, output]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    (folder / "log").write_text(done.stdout + done.stderr)
    return json.loads(output.read_text())


def options(model, **more):
    return {
        "model": str(model),
        "dtype": "float32",
        "enforce_eager": True,
        "max_model_len": 256,
        "max_num_seqs": 16,
        "block_size": 32,
        "kv_cache_memory_bytes": 64 << 20,
        "skip_tokenizer_init": True,
    } | more


def expected(model, units, prompt, plan, tokens):
    """The likeliest continuation of a prompt and its log probabilities, as the instrument has them."""
    ids = torch.tensor([prompt])
    with Steering(model, [interventions(plan, units)]):
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=tokens,
            do_sample=False,
            eos_token_id=None,
            output_logits=True,
            return_dict_in_generate=True,
        )
    written = out.sequences[0, len(prompt) :].tolist()
    logprobs = [float(step[0].log_softmax(-1)[token]) for step, token in zip(out.logits, written, strict=True)]
    return written, logprobs


def check(model, units, prompt, plan, reply, tolerance=1e-4):
    written, logprobs = expected(model, units, prompt, plan, len(reply["tokens"]))
    assert reply["tokens"] == written
    np.testing.assert_allclose(reply["logprobs"], logprobs, atol=tolerance)


def load(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def plans_of(requests):
    from affectome.serve.plan import decode

    return [decode(each["plan"])[0] if each["plan"] else () for each in requests]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """What vLLM said of every engine below, by name, with the directions and the folder of the models."""
    folder = tmp_path_factory.mktemp("steering")
    units = write_directions(folder / "directions.safetensors", range(BLOCKS), WIDTH)
    for architecture in [*ARCHITECTURES, "gemma3n_text"]:
        tiny_model(folder / architecture, architecture, BLOCKS, WIDTH, head_dim=32, query_pre_attn_scalar=32)
    llama = folder / "llama"
    chunks = [*MIXED, request(LONG, ALL, 5), request(LONG[::-1], PROMPT, 5), request(LONG[1:], GENERATED, 5)]
    small = {"kv_cache_memory_bytes": 12 * 32 << 10, "max_num_seqs": 8, "max_model_len": 192}
    read = [
        request(PROMPTS[0], (), 20, READOUTS[0]),
        request(PROMPTS[1], PLANS[2], 20, READOUTS[1]),
        request(PROMPTS[2], PLANS[6], 20, READOUTS[2]),
    ]
    many = [request(prompt, plan, 60) for prompt, plan in zip(PROMPTS, PLANS, strict=True)]
    jobs = {name: {"options": options(folder / name), "rounds": [MIXED]} for name in ARCHITECTURES}
    cached = [[each] for each, _ in CACHED]
    jobs |= {
        "gemma3n_text": {"options": options(folder / "gemma3n_text"), "rounds": []},
        "nobody": {"options": options(llama), "rounds": [[request(LONG, (), 8)] * 2, [{**MIXED[0], "plan": "{}"}]]},
        "readouts": {"options": options(llama), "rounds": [read, [request(LONG, ALL, 6, n=2)]]},
        "cached": {"options": options(llama), "rounds": cached},
        "no salt": {"options": options(llama), "rounds": cached, "mutation": "no salt"},
        "chunked": {
            "options": options(llama, enable_chunked_prefill=True, max_num_batched_tokens=24),
            "rounds": [chunks],
        },
        "preempted": {
            "options": options(llama, **small),
            "rounds": [many],
        },
        "ahead": {"options": options(llama, **small), "rounds": [many, MIXED], "ahead": True},
        "compiled": {"options": options(llama, enforce_eager=False), "rounds": []},
    }
    found = ask(folder, list(jobs.values()))
    results = dict(zip(jobs, found["engines"], strict=True))
    return {"folder": folder, "units": units, "jobs": jobs, "sent": found["readouts"], **results}


def check_rounds(tiny, name):
    model = load(tiny["jobs"][name]["options"]["model"])
    assert "error" not in tiny[name], tiny[name]["error"]
    for asked, done in zip(tiny["jobs"][name]["rounds"], tiny[name]["rounds"], strict=True):
        for prompt, plan, reply in zip(done["prompts"], plans_of(asked), done["replies"], strict=True):
            check(model, tiny["units"], prompt, plan, reply)
        assert done["left"] == 0


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_requests_of_one_batch_are_steered_each_by_its_plan(tiny, architecture):
    check_rounds(tiny, architecture)
    assert tiny[architecture]["rounds"][0]["hooked"] > 0


def test_a_model_with_another_kind_of_blocks_is_refused_at_the_start(tiny):
    assert "residual stream" in tiny["gemma3n_text"]["error"]


def test_a_compiled_engine_is_refused_at_the_start(tiny):
    assert "--enforce-eager" in tiny["compiled"]["error"]


def test_nothing_is_hooked_when_nobody_steers(tiny):
    assert tiny["nobody"]["rounds"][0]["hooked"] == 0


def test_a_plan_that_is_none_is_refused(tiny):
    assert "affectome" in tiny["nobody"]["rounds"][1]["refused"]


def test_prompts_in_parts_are_steered_alike(tiny):
    check_rounds(tiny, "chunked")


@pytest.mark.parametrize(("name", "scheduler"), [("preempted", "Scheduler"), ("ahead", "AsyncScheduler")])
def test_preempted_requests_are_steered_alike(tiny, name, scheduler):
    check_rounds(tiny, name)
    assert tiny[name]["preemptions"] > 0
    assert tiny[name]["scheduler"] == scheduler


def test_cached_blocks_are_shared_where_they_are_the_same_and_nowhere_else(tiny):
    check_rounds(tiny, "cached")
    for (_, shared), done in zip(CACHED, tiny["cached"]["rounds"], strict=True):
        assert (done["replies"][0]["cached"] > 0) == shared
    # A reply of the turn before, too, where what was done to it is what is done to the prompt now, and nowhere else.
    # The second of these finds the prompt of the first.
    cached = [done["replies"][0]["cached"] for done in tiny["cached"]["rounds"]]
    assert cached[6:] == [96, 128, 96, 128, 128]


def test_without_salts_the_cache_would_mix_them(tiny):
    """The test above notices what it is there for."""
    with pytest.raises(AssertionError):
        check_rounds(tiny, "no salt")


def test_several_replies_to_a_prompt_are_steered_alike(tiny):
    one, other = tiny["readouts"]["rounds"][1]["replies"]
    check(load(tiny["folder"] / "llama"), tiny["units"], LONG, ALL, one)
    assert one["tokens"] == other["tokens"]


def test_readouts_are_projections_before_steering(tiny):
    model = load(tiny["folder"] / "llama")
    done, asked = tiny["readouts"]["rounds"][0], tiny["jobs"]["readouts"]["rounds"][0]
    for prompt, plan, reply, readout in zip(done["prompts"], plans_of(asked), done["replies"], READOUTS, strict=True):
        values = {}
        for item in tiny["sent"]:
            if item["id"] == readout.id:
                values |= dict(enumerate(item["values"], item["first"]))
        # The last one is read only where the engine went ahead before it knew that the reply was over.
        assert set(range(19)) <= set(values) <= set(range(20))
        wanted = projections(model, tiny["units"], prompt, plan, reply["tokens"], readout)
        np.testing.assert_allclose([values[number] for number in range(19)], wanted[:19], atol=1e-4)


def projections(model, units, prompt, plan, tokens, readout):
    """Of the residuals of `tokens` as the block of `readout` gives them, in one pass over all of the text."""
    seen = []
    # A hook that is there before the instrument's own sees what the block returned.
    block = blocks_of(model)[readout.layer]
    handle = block.register_forward_hook(
        lambda _module, _inputs, output: seen.append(output if isinstance(output, torch.Tensor) else output[0])
    )
    try:
        with torch.inference_mode(), Steering(model, [interventions(plan, units)], [len(prompt)]):
            model(torch.tensor([prompt + tokens]))
    finally:
        handle.remove()
    return seen[-1][0, len(prompt) :].numpy() @ units[readout.layer][list(readout.directions)].T / NORM


def test_a_real_model_is_steered_alike(weights, tmp_path):
    layers = [10, 20, 29]
    units = write_directions(tmp_path / "directions.safetensors", layers, 576)
    prompts = [[1, 4093, 6330, 253, 1894, 563], [504, 3575, 282, 4649, 314], [28, 338, 253, 9067]]
    plans = [(), (change(0, [20], 40.0),), (change(1, [10], mode="ablate", positions="all"), change(2, [29], 60.0))]
    asked = [request(prompt, plan, 12) for prompt, plan in zip(prompts, plans, strict=True)]
    found = ask(tmp_path, [{"options": options(weights), "rounds": [asked]}])["engines"][0]
    model = load(weights)
    for prompt, plan, reply in zip(prompts, plans, found["rounds"][0]["replies"], strict=True):
        check(model, units, prompt, plan, reply, tolerance=1e-3)
