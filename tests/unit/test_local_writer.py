"""The writer that runs a model in this process: a text is the same however it is batched, and drawn as it should be."""

import random
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from affectome.corpus.writers import Reply, Request, local
from affectome.corpus.writers.decoding import Batch
from affectome.corpus.writers.local import Local
from affectome.corpus.writers.sampling import Manner, _mixed, choose, gumbel
from affectome.errors import UserError
from tests.helpers import FIRST_BYTE, VOCABULARY, tiny_model, tiny_tokenizer
from tests.project import MODEL, fetch_weights

# Tokens that end a text here, so many that texts are of all lengths.
ENDS = [2, *range(FIRST_BYTE + 100, VOCABULARY, 12)]
TOP_K = 40
REQUESTS = [
    Request(f"text {n}", "Why? " * (1 + 7 * n % 5) + str(n), seed=1000 * n, max_tokens=12 + 5 * (n % 4))
    for n in range(12)
]

# Attention of every token to all before it, to a window of 8, by absolute positions, and a recurrent state.
KINDS = ["llama", "qwen3", "gpt_neox", "gemma3_text", "gpt2", "qwen3_next"]


def model_of(
    folder: Path, architecture: str = "llama", chat: str = "", ends: Sequence[int] = ENDS, **settings: Any
) -> Path:
    mixed = architecture in ("gemma3_text", "qwen3_next")
    tiny_model(folder, architecture, blocks=4 if mixed else 2, tokenizer=tiny_tokenizer(chat=chat), **settings)
    GenerationConfig(eos_token_id=list(ends), do_sample=True, top_k=TOP_K).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_of(tmp_path_factory.mktemp("models") / "llama")


def writer(folder: Path, rows: int | None = 4, temperature: float = 1.0) -> Local:
    return Local("tiny", temperature, str(folder), "auto", "none", False, rows)


def write(folder: Path, requests: Sequence[Request] = REQUESTS, **settings: Any) -> dict[str, Reply]:
    replies: dict[str, Reply] = {}

    def keep(reply: Reply) -> Iterable[Request]:
        assert reply.id not in replies
        replies[reply.id] = reply
        return []

    writer(folder, **settings).write(requests, keep)
    return replies


def plain_bits(seed: int, step: int, token: int) -> int:
    """The noise's 64 bits, in Python's unbounded numbers."""
    golden, all_bits = 0x9E3779B97F4A7C15, 2**64 - 1

    def mix(state: int) -> int:
        state &= all_bits
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & all_bits
        state = (state ^ state >> 27) * 0x94D049BB133111EB & all_bits
        return state ^ state >> 31

    return mix(mix(mix(seed + golden) + step * golden) + (token + 1) * golden)


def plain_texts(folder: Path, requests: Sequence[Request] = REQUESTS, temperature: float = 1.0) -> dict[str, list[int]]:
    """Tokens of every reply, the slow way: one text at a time, read anew for every token, drawn in NumPy."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    found = {}
    for request in requests:
        ids = tokenizer(request.prompt)["input_ids"]
        written: list[int] = []
        while len(written) < request.max_tokens and not (written and written[-1] in ENDS):
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([ids + written])).logits[0, -1].double().numpy()
            candidates = np.argsort(-logits)[:TOP_K]
            uniform = [((plain_bits(request.seed, len(written), int(t)) >> 11) + 0.5) / 2**53 for t in candidates]
            scores = logits[candidates] + temperature * -np.log(-np.log(uniform))
            written.append(int(candidates[scores.argmax()]))
        found[request.id] = written
    return found


def as_reply(request: Request, written: list[int]) -> Reply:
    """What is to come of a prompt of ASCII letters after `<s>`, if `written` follows it."""
    counts = {"read": 1 + len(request.prompt), "written": len(written)}
    if written[-1] not in ENDS:
        return Reply(request.id, problem="finish reason length", **counts)
    text = tiny_tokenizer().decode(written[:-1], skip_special_tokens=True)
    return Reply(request.id, (text,) if text.strip() else (), "" if text.strip() else "empty text", **counts)


def wanted(folder: Path, requests: Sequence[Request] = REQUESTS, **settings: Any) -> dict[str, Reply]:
    texts = plain_texts(folder, requests, **settings)
    return {request.id: as_reply(request, texts[request.id]) for request in requests}


@pytest.mark.parametrize("architecture", KINDS)
def test_a_text_is_the_same_in_any_batch_order_and_resumed_job(tmp_path: Path, architecture: str) -> None:
    folder = model_of(tmp_path / "model", architecture)
    expected = wanted(folder)
    assert 3 <= sum(bool(reply.texts) for reply in expected.values()) < len(REQUESTS)
    shuffled = random.Random(0).sample(REQUESTS, len(REQUESTS))
    assert write(folder, rows=1) == expected
    assert write(folder, shuffled, rows=3) == expected
    assert write(folder, rows=16) == expected
    rest = REQUESTS[::2]
    assert write(folder, rest, rows=3) == {request.id: expected[request.id] for request in rest}


@pytest.mark.parametrize("architecture", ["llama", "gemma3_text"])
def test_a_cache_of_fixed_shape_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, architecture: str
) -> None:
    """What is compiled on a GPU, here without compiling.

    More columns are asked for on the way; and they are used up where long prompts stay in the batch, finished, beside
    long texts after short ones.
    """
    folder = model_of(tmp_path / "model", architecture)
    # The shorter the prompt, the later it is read and the longer its text may be.
    requests = [replace(request, max_tokens=40 - 3 * len(request.prompt) // 2) for request in REQUESTS]
    expected = wanted(folder, requests)
    shapes = set()
    fixed = Batch._step_fixed

    def watched(self: Batch, ids: torch.Tensor) -> torch.Tensor:
        shapes.add((self._fixed.rows, self._fixed.columns))
        return fixed(self, ids)

    monkeypatch.setattr(Batch, "_step_fixed", watched)
    monkeypatch.setattr("affectome.corpus.writers.decoding.fixed_shapes_pay", lambda _: True)
    monkeypatch.setattr("affectome.corpus.writers.decoding._SPARE", 1)
    assert write(folder, requests, rows=5) == expected
    assert {rows for rows, _ in shapes} == {5}
    assert len(shapes) > 1
    used_up = []
    is_full = Batch.is_full.fget
    monkeypatch.setattr(Batch, "is_full", property(lambda self: used_up.append(is_full(self)) or used_up[-1]))
    monkeypatch.setattr(local, "_CHANGE_SHARE", 1.0)
    assert write(folder, requests, rows=12) == expected
    assert any(used_up)


def test_a_model_that_does_not_compile_writes_all_the_same(
    llama: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made = Batch.__init__

    def with_compiler(self: Batch, model: Any, *settings: Any) -> None:
        made(self, model, *settings)

        def fails(**inputs: Any) -> None:
            model(**inputs)
            raise RuntimeError("no compiler")

        self._call = fails

    monkeypatch.setattr("affectome.corpus.writers.decoding.fixed_shapes_pay", lambda _: True)
    monkeypatch.setattr(Batch, "__init__", with_compiler)
    assert write(llama) == wanted(llama)
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == [
        "cannot compile the model, which is slower without (RuntimeError)"
    ]


def test_rows_that_cannot_join_others_wait(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Caches of a kind that is not known here are only ever made smaller."""
    monkeypatch.setattr("affectome.corpus.writers.decoding.JOIN", {})
    assert write(llama, rows=3) == wanted(llama)


def test_what_rounding_could_change_is_settled_alone(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits that are off by as much as is tolerated choose the same tokens; without looking again they would not."""
    step = Batch.step
    noise = torch.Generator().manual_seed(0)

    def rough(self: Batch, tokens: Sequence[int]) -> torch.Tensor:
        logits = step(self, tokens)
        return logits + 0.49 * local._TOLERANCE * (2 * torch.rand(logits.shape, generator=noise) - 1)

    monkeypatch.setattr(Batch, "step", rough)
    monkeypatch.setattr(local, "_TOLERANCE", 0.5)
    expected = wanted(llama)
    assert write(llama) == expected
    monkeypatch.setattr(Batch, "alone", lambda self, _ids: torch.zeros(VOCABULARY, device=self._mask.device))
    assert write(llama) != expected


def test_temperature_zero_is_what_transformers_finds_likeliest(llama: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(llama).eval()
    tokenizer = AutoTokenizer.from_pretrained(llama)
    found = write(llama, temperature=0.0)
    for request in REQUESTS:
        prompt = tokenizer(request.prompt, return_tensors="pt")
        settings = {"do_sample": False, "max_new_tokens": request.max_tokens, "eos_token_id": ENDS, "pad_token_id": 0}
        written = model.generate(**prompt, **settings)[0, prompt["input_ids"].shape[1] :].tolist()
        assert found[request.id] == as_reply(request, written)


def test_a_temperature_is_kept_to(llama: Path) -> None:
    assert write(llama, temperature=0.3) == wanted(llama, temperature=0.3)


def test_replies_are_kept_as_they_finish_and_followed_up(tmp_path: Path) -> None:
    """A rewrite is written beside the texts that are still under way, as it would be alone."""
    folder = model_of(tmp_path / "model", ends=[2])
    requests = [Request("long", "Why?", 1, max_tokens=150), Request("short", "Why?", 2, max_tokens=1)]
    again = Request("again", "And why is that?", 3, max_tokens=2)
    kept: list[Reply] = []

    def keep(reply: Reply) -> Iterable[Request]:
        kept.append(reply)
        return [again] if reply.id == "short" else []

    writer(folder, rows=2).write(requests, keep)
    assert [reply.id for reply in kept] == ["short", "again", "long"]
    assert kept[1:2] == list(write(folder, [again]).values())
    kept.clear()
    # Before what has been waiting longer, too.
    writer(folder, rows=1).write(requests[::-1], keep)
    assert [reply.id for reply in kept] == ["short", "again", "long"]
    with pytest.raises(ZeroDivisionError):
        writer(folder, rows=2).write(requests, lambda _: [1 / 0])


def test_batches_are_kept_full_and_end_small(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    step = Batch.step
    monkeypatch.setattr(Batch, "step", lambda self, tokens: sizes.append(len(tokens)) or step(self, tokens))
    replies = write(llama, rows=4)
    written = sum(reply.written for reply in replies.values())
    # The first token of a text comes of reading its prompt.
    assert written - len(replies) <= sum(sizes) < 1.2 * written
    assert sizes[: len(sizes) // 2] == [4] * (len(sizes) // 2)
    assert sizes[-1] <= 2


def test_a_reply_that_is_cut_and_a_prompt_that_is_too_long_are_problems(tmp_path: Path) -> None:
    folder = model_of(tmp_path / "model", ends=[2], max_position_embeddings=40)
    requests = [Request("cut", "Why?", 0, max_tokens=3), Request("long", "y" * 39, 0), Request("full", "y" * 38, 0)]
    found = write(folder, requests)
    assert found["cut"] == Reply("cut", problem="finish reason length", read=5, written=3)
    assert found["long"] == Reply("long", problem="prompt of 40 tokens, and the model reads 40", read=40)
    assert found["full"] == Reply("full", problem="finish reason length", read=39, written=1)


def test_a_chat_model_is_asked_as_it_was_trained_and_told_not_to_think(tmp_path: Path) -> None:
    chat = (
        "{{ bos_token }}{{ messages[0].role }}: {{ messages[0].content }}{% if not enable_thinking %}!{% endif %}"
        "{{ strftime_now('%Y') }}{% if add_generation_prompt %}>{% endif %}"
    )
    bare = model_of(tmp_path / "bare")
    templated = model_of(tmp_path / "templated", chat=chat)
    spelled_out = Request("text", "user: Why?!2026>", 4, max_tokens=30)
    (expected,) = write(bare, [spelled_out]).values()
    assert write(templated, [Request("text", "Why?", 4, max_tokens=30)]) == {"text": expected}


def test_models_that_cannot_write_are_refused(tmp_path: Path) -> None:
    refusing = model_of(tmp_path / "refusing", chat="{{ raise_exception('a system prompt is needed') }}")
    with pytest.raises(UserError, match=r"refuses a prompt .a system prompt is needed.; use another model"):
        write(refusing)
    tokenizer = tiny_tokenizer()
    tokenizer.eos_token = None
    endless = tiny_model(tmp_path / "endless", blocks=1, tokenizer=tokenizer, eos_token_id=None)
    with pytest.raises(UserError, match="local:tiny has no token that ends a text; choose another model"):
        write(endless)


def test_thoughts_are_no_part_of_a_reply(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = "<think>A gate, then.</think>\n\nShe closed the gate."
    tokens = [*tiny_tokenizer(bos=False)(said)["input_ids"], 2]

    def told(self: Batch, given: Sequence[int]) -> torch.Tensor:
        self.told = getattr(self, "told", 0) + 1
        return torch.nn.functional.one_hot(torch.tensor([tokens[self.told]] * len(given)), VOCABULARY) * 100.0

    first = torch.nn.functional.one_hot(torch.tensor(tokens[:1]), VOCABULARY) * 100.0
    monkeypatch.setattr(Batch, "change", lambda *_: first)
    monkeypatch.setattr(Batch, "step", told)
    folder = model_of(tmp_path / "model", ends=[2])
    assert write(folder, [Request("text", "Why?", 0)])["text"].text == "\n\nShe closed the gate."


def test_an_exhausted_purse_ends_the_writing_after_what_is_under_way(llama: Path) -> None:
    class Purse:
        allowed = 5

        def allow(self, under_way: int) -> bool:
            assert under_way < 4
            self.allowed -= 1
            return self.allowed >= 0

        def exhausted(self) -> Exception:
            return UserError("no more")

    kept: list[str] = []
    with pytest.raises(UserError, match="no more"):
        writer(llama).write(REQUESTS, lambda reply: kept.append(reply.id) or [], Purse())
    assert len(kept) == 5


def test_memory_bounds_the_texts_under_way(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts that are longer than what a row is reckoned to hold leave room for fewer rows, never for none."""
    longest = max(1 + len(request.prompt) + request.max_tokens for request in REQUESTS)
    expected = wanted(llama)
    for of_row, most in ((longest, 4), (longest // 2, 3), (1, 1)):
        sizes: list[int] = []
        step = Batch.step
        with monkeypatch.context() as patch:
            patch.setattr(local, "_ROW_TOKENS", of_row)
            patch.setattr(Batch, "step", lambda self, tokens: sizes.append(len(tokens)) or step(self, tokens))  # noqa: B023
            assert write(llama, rows=4) == expected
        assert max(sizes) <= most
        assert (max(sizes) == most) or of_row == longest // 2


def test_rows_follow_from_model_and_device(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32)
    assert local._rows_for(model) == local._MOST_ROWS["cpu"]
    # 2 blocks, keys and values of 1 head of width 8, 4 bytes each: 128 bytes per token.
    pages = {"SC_PAGE_SIZE": 1, "SC_PHYS_PAGES": model.get_memory_footprint() + 2 * 128 * local._ROW_TOKENS * 5 + 1}
    monkeypatch.setattr(local.os, "sysconf", pages.__getitem__)
    assert local._rows_for(model) == 5


def test_noise_is_that_of_splitmix64() -> None:
    # The first number of the published generator when it starts at 0.
    assert int(_mixed(torch.tensor([0x9E3779B97F4A7C15 - 2**64]))) % 2**64 == 0xE220A8397B1DCDAF
    seeds, steps, tokens = (
        torch.tensor([0, 2**31 - 1, 77]),
        torch.tensor([0, 1, 500]),
        torch.tensor([[0, 9], [1, 49151], [5, 6]]),
    )
    found = torch.exp(-torch.exp(-gumbel(seeds, steps, tokens)))
    for row, (seed, step) in enumerate(zip(seeds.tolist(), steps.tolist(), strict=True)):
        for column, token in enumerate(tokens[row].tolist()):
            assert float(found[row, column]) == pytest.approx(plain_bits(seed, step, token) / 2**64, abs=1e-12)


def test_noise_is_uniform_and_its_arguments_are_independent() -> None:
    seeds, steps, tokens = torch.meshgrid(torch.arange(48), torch.arange(48), torch.arange(48), indexing="ij")
    noise = gumbel(seeds.flatten(), steps.flatten(), tokens.reshape(-1, 1)).reshape(48, 48, 48)
    uniform = torch.exp(-torch.exp(-noise)).numpy()
    assert stats.kstest(uniform.ravel(), "uniform").pvalue > 0.01
    for axis in range(3):
        one, next_one = np.take(uniform, range(47), axis), np.take(uniform, range(1, 48), axis)
        assert abs(np.corrcoef(one.ravel(), next_one.ravel())[0, 1]) < 4 / one.size**0.5
        # The means along an axis scatter as those of 2304 independent numbers do.
        means = uniform.mean(axis=tuple({0, 1, 2} - {axis}))
        assert stats.kstest((means - 0.5) * (12 * 48 * 48) ** 0.5, "norm").pvalue > 0.01
    # Seeds and steps are not interchangeable, nor their sums.
    assert len(np.unique(uniform)) == uniform.size


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
def test_tokens_come_as_often_as_the_temperature_says(temperature: float) -> None:
    draws, kinds = 20_000, 12
    logits = torch.linspace(2, -1, kinds)[torch.randperm(kinds, generator=torch.Generator().manual_seed(0))]
    seeds = torch.arange(draws) * 7919 % 2**31
    tokens, _ = choose(logits.expand(draws, -1), seeds, torch.full((draws,), 3), Manner(temperature, kinds), 1e-3)
    counts = np.bincount(tokens.numpy(), minlength=kinds)

    def pvalue(assumed: float) -> float:
        return float(stats.chisquare(counts, draws * torch.softmax(logits.double() / assumed, dim=0).numpy()).pvalue)

    assert pvalue(temperature) > 0.01
    assert pvalue(1.15 * temperature) < 1e-6


def test_only_candidates_are_drawn_and_those_in_proportion() -> None:
    shares = torch.tensor([0.4, 0.25, 0.15, 0.1, 0.06, 0.04], dtype=torch.float64)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    logits = torch.empty(6).scatter_(0, order, shares.log().float())
    seeds, steps = torch.arange(20_000), torch.zeros(20_000, dtype=torch.long)
    # Of four candidates (0.9 in all) 0.8 are asked for: two have 0.722, three 0.889.
    for manner, among in ((Manner(1.0, 4), 4), (Manner(1.0, 4, 0.8), 3), (Manner(1.0, 6, 0.3), 1), (Manner(0.0, 6), 1)):
        tokens, _ = choose(logits.expand(20_000, -1), seeds, steps, manner, 1e-3)
        counts = np.bincount(tokens.numpy(), minlength=6)[order.numpy()]
        assert counts[among:].sum() == 0
        expected = (shares[:among] / shares[:among].sum()).numpy() * 20_000
        assert among == 1 or stats.chisquare(counts[:among], expected).pvalue > 0.01


@pytest.mark.parametrize("manner", [Manner(1.0, 10), Manner(0.7, 10, 0.8), Manner(2.0, 60, 0.9), Manner(0.0, 10)])
def test_rounding_changes_only_what_is_marked(manner: Manner) -> None:
    rows, tolerance = 2000, 0.01
    random_ = torch.Generator().manual_seed(1)
    logits = torch.randn((rows, 60), generator=random_)
    # A coarse grid, so that ties at the boundaries of top-k and top-p are common.
    logits = (logits * 8).round() / 8 + 0.004 * torch.rand(logits.shape, generator=random_)
    seeds, steps = torch.arange(rows), torch.arange(rows) % 7
    tokens, unsure = choose(logits, seeds, steps, manner, tolerance)
    moved = torch.zeros(rows, dtype=torch.bool)
    for _ in range(20):
        off = 0.49 * tolerance * (2 * torch.rand(logits.shape, generator=random_) - 1)
        moved |= choose(logits + off, seeds, steps, manner, tolerance)[0] != tokens
    assert moved.any()
    assert not (moved & ~unsure).any()
    assert unsure.float().mean() < 0.5


@pytest.mark.model
def test_smollm2_writes_the_same_stories_alone_and_together(tmp_path: Path) -> None:
    fetch_weights(tmp_path)
    asked = ["Write about a lost key.", "Describe a calm lake at noon, in one sentence.", "A story about rain, please."]
    requests = [Request(f"{n}", asked[n % 3], n, max_tokens=16 + n) for n in range(6)]
    together = write(tmp_path / MODEL, requests, rows=6)
    assert write(tmp_path / MODEL, requests, rows=1) == together
    assert len({reply.written for reply in together.values()}) > 1
