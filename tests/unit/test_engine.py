"""The engine reads every batch once, on as many cores as it is given, and gets over what memory and compilers refuse.

What it reads is compared with the same texts read one by one. GPU paths that need no GPU (budgets, splitting batches,
compiling and doing without) run here on the CPU; the rest is marked `gpu`.
"""

import threading
import time
from typing import Any

import numpy as np
import pytest
import torch

from affectome.activations import engine as engines
from affectome.activations.engine import Engine, Result, fitting_budget
from affectome.activations.pooling import PoolingHooks
from affectome.activations.tokens import TokenText, plan_batches
from affectome.errors import UserError
from tests.helpers import random_model, tiny_config

LAYERS = [0, 2]
GIB = 2**30


@pytest.fixture
def model() -> torch.nn.Module:
    return random_model(tiny_config("llama", blocks=3, width=16))


def texts(count: int = 12, longest: int = 20) -> list[TokenText]:
    rng = np.random.default_rng(0)
    lengths = rng.integers(3, longest + 1, size=count)
    return [TokenText(tuple(rng.integers(3, 250, size=length).tolist()), 0, int(length)) for length in lengths]


def read(engine: Engine, tokens: list[TokenText], budget: int, cores: int = 1) -> np.ndarray:
    """Means over all tokens but the first (layers, texts, width)."""
    batches = list(enumerate(plan_batches([len(text.ids) for text in tokens], budget)))
    pooled = np.full((len(engine.layers), len(tokens), 16), np.nan, np.float32)
    with engine.reading(tokens, [text.spans for text in tokens], batches, cores) as results:
        found: list[Result] = list(results)
    assert sorted(result.batch for result in found) == [number for number, _ in batches]
    for result in found:
        pooled[:, result.texts] = result.pooled
    return pooled


def one_by_one(model: torch.nn.Module, tokens: list[TokenText]) -> np.ndarray:
    pooled = []
    for text in tokens:
        with torch.no_grad():
            states = model(input_ids=torch.tensor([text.ids]), output_hidden_states=True).hidden_states
        # Layer 2 is the last, whose output Transformers shows after the final norm only; compared are the others.
        pooled.append(states[1][0, 1:].mean(dim=0))
    return torch.stack(pooled).numpy()


@pytest.mark.parametrize("cores", [1, 2])
@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_any_number_of_cores_reads_the_same(model: torch.nn.Module, threads: int, cores: int) -> None:
    """To the last bit where as many share a pass, so that a job continued with fewer batches ends in the same bytes."""
    tokens = texts()
    pooled = read(Engine(model, LAYERS, threads), tokens, 40, cores)
    np.testing.assert_allclose(pooled[0], one_by_one(model, tokens), atol=1e-5)
    assert np.array_equal(pooled, read(Engine(model, LAYERS, cores), tokens, 40, cores))
    torch.set_num_threads(1)


def test_batches_are_read_side_by_side(model: torch.nn.Module) -> None:
    """Two passes meet at the first block: each waits there for the other."""
    meet = threading.Barrier(2, timeout=60)
    seen: set[int] = set()

    def wait(_module: object, inputs: tuple) -> None:
        if inputs[0].shape[1] != 16 and threading.get_ident() not in seen:
            seen.add(threading.get_ident())
            meet.wait()

    model.model.layers[0].register_forward_pre_hook(wait)
    read(Engine(model, LAYERS, 2), texts(longest=15), 20)
    torch.set_num_threads(1)
    assert len(seen) == 2


@pytest.mark.parametrize(
    ("threads", "batches", "cores"), [(8, 1000, 1), (8, 6, 2), (8, 1, 8), (8, 0, 8), (1, 50, 1), (5, 4, 2), (2, 4, 1)]
)
def test_cores_share_a_pass_only_where_they_would_idle(
    model: torch.nn.Module, threads: int, batches: int, cores: int
) -> None:
    assert Engine(model, LAYERS, threads).cores_per_pass(batches) == cores


def test_what_goes_wrong_in_a_pass_is_raised_where_results_are_taken(model: torch.nn.Module) -> None:
    def fail(_module: object, inputs: tuple) -> None:
        if inputs[0].shape[1] == 9:
            raise ValueError("nine")

    model.model.layers[1].register_forward_pre_hook(fail)
    tokens = [TokenText((5,) * length, 0, length) for length in range(3, 14)]
    before = threading.active_count()
    with pytest.raises(ValueError, match="nine"):
        read(Engine(model, LAYERS, 2), tokens, 1)
    assert threading.active_count() == before
    torch.set_num_threads(1)


def test_leaving_early_ends_passes_at_their_next_block(model: torch.nn.Module) -> None:
    """As when SIGTERM comes while passes take long: two stand still in their first block until after the leaving."""
    engine = Engine(model, LAYERS, 2)
    inside, go_on = threading.Semaphore(0), threading.Event()
    begun: list[int] = []
    further: list[int] = []

    def hold(*_: object) -> None:
        begun.append(1)
        if len(begun) > 2:
            inside.release()
            assert go_on.wait(60)

    model.model.layers[0].register_forward_hook(hold)
    model.model.layers[1].register_forward_hook(lambda *_: further.append(1) if go_on.is_set() else None)
    tokens = texts(longest=15)
    batches = [(number, [number]) for number in range(len(tokens))]
    with engine.reading(tokens, [text.spans for text in tokens], batches) as results:
        next(iter(results))
        assert all(inside.acquire(timeout=60) for _ in range(2))
        threading.Timer(1, go_on.set).start()
    torch.set_num_threads(1)
    assert go_on.is_set()
    assert not further
    assert not any(block._forward_pre_hooks for block in model.model.layers)


def test_results_wait_to_be_taken(model: torch.nn.Module) -> None:
    """A slow disk must not fill the memory with results."""
    passes: list[int] = []
    run = PoolingHooks.run

    def counted(self: PoolingHooks, *arguments: Any) -> Any:
        passes.append(1)
        return run(self, *arguments)

    tokens = texts(40)
    engine = Engine(model, LAYERS, 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PoolingHooks, "run", counted)
        with engine.reading(tokens, [t.spans for t in tokens], [(n, [n]) for n in range(40)]) as results:
            next(iter(results))
            time.sleep(1)
            assert len(passes) <= 2 + engines._WAITING + 1
    torch.set_num_threads(1)


# ---------------------------------------------------------------- memory


@pytest.mark.parametrize("limit", [20, 25, 60, 1000])
def test_batches_that_do_not_fit_are_read_in_parts(
    model: torch.nn.Module, limit: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The memory holds `limit` tokens; the longest text has 20."""
    sizes: list[int] = []
    run = PoolingHooks.run

    def small(self: PoolingHooks, loaded: Any, ids: torch.Tensor, *spans: Any) -> Any:
        sizes.append(ids.numel())
        if ids.numel() > limit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return run(self, loaded, ids, *spans)

    tokens = texts()
    engine = Engine(model, LAYERS, 1)
    wanted = read(engine, tokens, 1)
    monkeypatch.setattr(PoolingHooks, "run", small)
    np.testing.assert_allclose(read(engine, tokens, 100), wanted, atol=1e-5)
    failed = [size for size in sizes if size > limit]
    # What did not fit once is not tried again.
    assert failed == sorted(set(failed), reverse=True)
    assert len([record for record in caplog.records if "read in parts" in record.message]) == len(failed)


def test_a_single_text_that_does_not_fit_is_named(model: torch.nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    engine = Engine(model, LAYERS, 1)
    monkeypatch.setattr(PoolingHooks, "run", never)
    with pytest.raises(UserError, match="a single text of 9 tokens does not fit into the GPU's memory; lower"):
        read(engine, [TokenText((5,) * 9, 0, 9)], 100)


@pytest.mark.parametrize(
    ("free", "per_token", "budget"),
    [
        (100 * GIB, 1e6, 32_768),  # 75,161 tokens would fit; more than 32,768 gain nothing
        (20 * GIB, 1e6, 8192),  # 15,032
        (20 * GIB, 0.9e6, 16_384),  # 16,702
        (1 * GIB, 1e6, 2048),  # 751: the smallest, which splits where it does not fit
    ],
)
def test_the_budget_that_fits(free: int, per_token: float, budget: int) -> None:
    assert fitting_budget(free, per_token) == budget


def test_budgets_on_a_cpu(model: torch.nn.Module) -> None:
    engine = Engine(model, LAYERS, 1)
    assert engine.budget("auto") == engines.CPU_BUDGET
    assert engine.budget(77) == 77


# ---------------------------------------------------------------- compiling


def test_operations_are_those_of_the_matrices(model: torch.nn.Module) -> None:
    """Per token and block 2 × the numbers in its matrices, and attention over the probe's 16 tokens; no head."""
    blocks = list(model.model.layers)
    for layers, count in ((LAYERS, 3), ([0], 1)):
        matrices = sum(p.numel() for block in blocks[:count] for p in block.parameters() if p.dim() == 2)
        attention = count * 2 * 2 * 16 * 16
        found = Engine(model, layers, 1).flops_per_token()
        assert 2 * matrices <= found <= 2 * matrices + attention


def test_compiling_pays_for_long_jobs_on_a_gpu(model: torch.nn.Module) -> None:
    engine = Engine(model, LAYERS, 1)
    # 16 GFLOP per token at 0.6 of 800 TFLOP/s are 30,000 tokens/s: 300 s are 9 million tokens.
    assert not engine.compiling_pays(8_900_000, 16e9, 800e12)
    assert engine.compiling_pays(9_100_000, 16e9, 800e12)
    assert not engine.compiling_pays(10**12, 16e9, None)


def test_compiled_blocks_give_the_same(model: torch.nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    compile_ = torch.compile
    calls: list[int] = []

    def backend(graph: Any, _inputs: Any) -> Any:
        def called(*arguments: Any) -> Any:
            calls.append(1)
            return graph(*arguments)

        return called

    tokens = texts()
    engine = Engine(model, LAYERS, 1)
    wanted = read(engine, tokens, 60)
    # The compiler's work proper takes half a minute on a CPU; that the blocks go through it is what matters here.
    monkeypatch.setattr(torch, "compile", lambda function, **_: compile_(function, backend=backend, dynamic=True))
    engine.compile()
    np.testing.assert_allclose(read(engine, tokens, 60), wanted, atol=1e-5)
    assert engine.compiled
    assert len(calls) >= 3
    torch._dynamo.reset()


def test_where_compiling_fails_the_job_goes_on_without(
    model: torch.nn.Module, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(_function: Any, **_: Any) -> Any:
        def call(*_arguments: Any, **_options: Any) -> None:
            raise RuntimeError("cannot find\n a compiler")

        return call

    tokens = texts()
    own = model.model.layers[1].forward = model.model.layers[1].forward  # as accelerate does
    engine = Engine(model, LAYERS, 1)
    wanted = read(engine, tokens, 60)
    monkeypatch.setattr(torch, "compile", refuse)
    engine.compile()
    assert np.array_equal(read(engine, tokens, 60), wanted)
    assert not engine.compiled
    assert [vars(block).get("forward") for block in model.model.layers] == [None, own, None]
    (record,) = [record for record in caplog.records if "compiled" in record.message]
    assert "cannot find a compiler); going on without" in record.message


# ---------------------------------------------------------------- on a GPU


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gpu_reads_as_the_cpu_does(dtype: torch.dtype) -> None:
    model = random_model(tiny_config("llama", blocks=3, width=16)).to(dtype)
    tokens = texts(60, 200)
    wanted = read(Engine(model, LAYERS, 1), tokens, 300)
    engine = Engine(model.to("cuda"), LAYERS, 1)
    assert engine.ceiling() > 1e12
    assert engine.budget("auto") >= 2048
    tolerance = 1e-4 if dtype == torch.float32 else 3e-2
    np.testing.assert_allclose(read(engine, tokens, 1000), wanted, atol=tolerance)
    engine.compile()
    np.testing.assert_allclose(read(engine, tokens, 1000), wanted, atol=tolerance)
    assert engine.compiled
