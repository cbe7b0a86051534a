"""A collecting job: the same vectors for any batch size, shard count, padding and order, and words for what goes wrong.

What the vectors are is known from a plain loop over single texts (`tests.helpers.plain_loop`).
"""

from collections import Counter
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from affectome.activations import collect as collecting
from affectome.activations.attention import fast_attention
from affectome.activations.store import Texts, open_layer, write_layer
from affectome.errors import UserError
from affectome.models import load
from affectome.models.load import load_model, load_weights, resolve_dtype
from tests.helpers import (
    EOS,
    FIRST_BYTE,
    NEUTRAL,
    STORIES,
    TEXTS,
    collect,
    collect_spec,
    difference,
    plain_loop,
    read_shard,
    tiny_model,
    tiny_tokenizer,
    write_corpora,
    write_manifest,
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def wanted(model: Path) -> np.ndarray:
    return plain_loop(model, TEXTS)[0]


def edit_weights(model: Path, **changes: Any) -> None:
    """Apply functions to tensors of a saved model, by the end of their names with `_` for `.`."""
    tensors = load_file(model / "model.safetensors")
    for name, tensor in tensors.items():
        for end, change in changes.items():
            if name.replace(".", "_").endswith(end):
                change(tensor)
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})


# ---------------------------------------------------------------- batches, shards, order


@pytest.mark.parametrize("token_budget", [1, 60, 100, 10_000])
def test_any_batch_size_gives_the_same(model: Path, wanted: np.ndarray, token_budget: int, tmp_path: Path) -> None:
    """A budget of 1 is less than any text: each is read alone."""
    spec = collect_spec(range(3), token_budget=token_budget)
    _, pooled, _ = read_shard(collect(model, *write_corpora(tmp_path, STORIES, NEUTRAL), tmp_path / "0.h5", spec))
    assert difference(pooled, wanted) < 1e-5


@pytest.mark.parametrize("shards", [1, 2, 3, 7, 11])
def test_any_number_of_shards_gives_the_same(model: Path, wanted: np.ndarray, shards: int, tmp_path: Path) -> None:
    """Eleven shards of seven texts: some are empty."""
    corpora = write_corpora(tmp_path, STORIES, NEUTRAL)
    spec = collect_spec(range(3), shards=shards)
    parts = [collect(model, *corpora, tmp_path / f"shards/{shard}.h5", spec, shard) for shard in range(shards)]
    for layer in range(3):
        write_layer(tmp_path / f"layer_{layer}.h5", parts, layer)
        with open_layer(tmp_path / f"layer_{layer}.h5") as file:
            assert difference(file["activations"][...], wanted[layer]) < 1e-5
            texts = Texts.read(file)
    assert texts.emotion.tolist() == [emotion for emotion, _ in STORIES] + ["", ""]
    assert texts.neutral.tolist() == [False] * 5 + [True] * 2
    assert texts.n_tokens.tolist() == [1 + len(text) for text in TEXTS]


def test_shards_in_order_make_up_the_corpus(tmp_path: Path) -> None:
    texts = collecting.corpus_texts(*write_corpora(tmp_path, STORIES, NEUTRAL))
    assert texts["text"].tolist() == TEXTS
    for shards in range(1, 12):
        parts = [collecting.shard_of(texts, shard, shards, 1024)["text"].tolist() for shard in range(shards)]
        assert [text for part in parts for text in part] == TEXTS


def test_shards_hold_about_as_many_tokens_each() -> None:
    """Long texts come first, as where one writer wrote more than the other; as many texts each would be unfair."""
    lengths = np.random.default_rng(0).permutation(np.r_[np.full(200, 900), np.full(800, 100)])
    lengths = np.sort(lengths)[::-1]
    texts = pd.DataFrame({"text": ["x" * length for length in lengths]})
    for shards in (2, 3, 7, 32):
        parts = [collecting.shard_of(texts, shard, shards, 1024)["text"] for shard in range(shards)]
        sizes = np.array([part.str.len().sum() for part in parts])
        assert abs(sizes - sizes.mean()).max() <= 901 + 0.01 * sizes.mean()
        assert sum(map(len, parts)) == 1000
    # Texts that are cut count as they are read: 200 × 4 × 25 and 800 × 100 bytes.
    first, second = (collecting.shard_of(texts, shard, 2, 25) for shard in (0, 1))
    assert len(first) == len(second) == 500


def test_a_corpus_without_neutral_texts(model: Path, wanted: np.ndarray, tmp_path: Path) -> None:
    texts, pooled, _ = read_shard(
        collect(model, *write_corpora(tmp_path, STORIES), tmp_path / "0.h5", collect_spec(range(3)))
    )
    assert difference(pooled, wanted[:, :5]) < 1e-5
    assert not texts.neutral.any()


def test_a_corpus_without_texts(model: Path, tmp_path: Path) -> None:
    texts, pooled, norms = read_shard(
        collect(model, *write_corpora(tmp_path, []), tmp_path / "0.h5", collect_spec([0, 2]))
    )
    assert (len(texts.id), pooled.shape, norms.shape) == (0, (2, 0, 16), (2, 0))


def test_only_the_layers_asked_for(model: Path, wanted: np.ndarray, tmp_path: Path) -> None:
    shard = collect(model, *write_corpora(tmp_path, STORIES, NEUTRAL), tmp_path / "0.h5", collect_spec([0, 2]))
    with h5py.File(shard) as file:
        assert list(file["activations"]) == list(file["token_norm"]) == ["layer_0", "layer_2"]
        assert difference(file["activations/layer_2"][...], wanted[2]) < 1e-5


# ---------------------------------------------------------------- padding


@pytest.mark.parametrize("value", [999.0, float("inf"), float("nan")])
def test_the_padding_token_never_counts(value: float, tmp_path: Path) -> None:
    """Short texts are batched with long ones while the padding token's embedding is beyond all measure."""
    model = tiny_model(tmp_path / "model")
    edit_weights(model, embed_tokens_weight=lambda tensor: tensor[0].fill_(value))
    spec = collect_spec(range(3), token_budget=10_000)
    _, pooled, norms = read_shard(collect(model, *write_corpora(tmp_path, STORIES, NEUTRAL), tmp_path / "0.h5", spec))
    wanted, wanted_norms = plain_loop(model, TEXTS)
    assert difference(pooled, wanted) < 1e-5
    assert norms == pytest.approx(wanted_norms, rel=1e-5)


@pytest.mark.parametrize("pad_id", [-1, 2])
def test_a_padding_id_that_is_no_token_or_a_real_one(pad_id: int, tmp_path: Path) -> None:
    """Llama 1 says -1. SmolLM2's padding is its end-of-text token, which texts may really hold, here at 999."""
    model = tiny_model(tmp_path / "model", tokenizer=tiny_tokenizer(bos=True, eos=True, pad=EOS), pad_token_id=0)
    config = (model / "config.json").read_text(encoding="utf-8")
    (model / "config.json").write_text(config.replace('"pad_token_id": 0', f'"pad_token_id": {pad_id}'))
    edit_weights(model, embed_tokens_weight=lambda tensor: tensor[2].fill_(999.0))
    texts = [f"One day{EOS} and one more.{EOS}", "This text is longer than the others by some way.", f"Short{EOS}"]
    stories = [("calm", text) for text in texts]
    spec = collect_spec(range(3), token_budget=10_000, pooling={"from": 2})
    found, pooled, _ = read_shard(collect(model, *write_corpora(tmp_path, stories), tmp_path / "0.h5", spec))
    own = [len(text.replace(EOS, "!")) for text in texts]
    assert found.n_tokens.tolist() == [1 + n for n in own]
    reference = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, pad_token_id=0).eval()
    tokenizer = tiny_tokenizer(bos=True, eos=False, pad=EOS)
    for index, text in enumerate(texts):
        with torch.no_grad():
            hidden = reference(**tokenizer(text, return_tensors="pt"), output_hidden_states=True).hidden_states
        for layer in (0, 1):
            assert difference(pooled[layer, [index]], hidden[layer + 1][:, 3:].mean(dim=1).numpy()) < 1e-5


# ---------------------------------------------------------------- short and long texts


def test_short_texts_are_dropped_counted_and_listed(model: Path, tmp_path: Path) -> None:
    """Of 68, 9, 89, 44, 13, 25 and 30 tokens: from token 10 on, at least 15 of them."""
    spec = collect_spec(range(3), pooling={"from": 10}, min_tokens=15)
    texts, pooled, _ = read_shard(collect(model, *write_corpora(tmp_path, STORIES, NEUTRAL), tmp_path / "0.h5", spec))
    lengths = [len(text) for text in TEXTS]
    kept = [index for index, length in enumerate(lengths) if length - 10 >= 15]
    assert kept == [0, 2, 3, 5, 6]
    assert texts.n_pooled.tolist() == [lengths[index] - 10 for index in kept]
    assert difference(pooled, plain_loop(model, [TEXTS[index] for index in kept], first=10)[0]) < 1e-5
    ids = collecting.corpus_texts(*write_corpora(tmp_path, STORIES, NEUTRAL))["id"]
    assert texts.dropped.tolist() == [ids[1], ids[4]]
    assert texts.dropped_tokens.tolist() == [1 + 9, 1 + 13]
    assert texts.id.tolist() == [ids[index] for index in kept]


def test_long_texts_are_cut_and_counted(model: Path, tmp_path: Path) -> None:
    spec = collect_spec(range(3), max_tokens=30)
    shard = collect(model, *write_corpora(tmp_path, STORIES, NEUTRAL), tmp_path / "0.h5", spec)
    texts, pooled, _ = read_shard(shard)
    with h5py.File(shard) as file:
        assert file.attrs["cut"] == 3
        assert file.attrs["tokens"] == sum(texts.n_tokens) == sum(1 + min(30, len(text)) for text in TEXTS)
    assert difference(pooled, plain_loop(model, [text[:30] for text in TEXTS])[0]) < 1e-5


def test_all_texts_may_be_too_short(model: Path, tmp_path: Path) -> None:
    spec = collect_spec(range(3), pooling={"from": 500})
    texts, pooled, _ = read_shard(collect(model, *write_corpora(tmp_path, STORIES), tmp_path / "0.h5", spec))
    assert (len(texts.id), len(texts.dropped), pooled.shape) == (0, 5, (3, 0, 16))


# ---------------------------------------------------------------- precision


def test_a_bfloat16_model_is_pooled_and_stored_in_float32(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "model", blocks=2)
    spec = collect_spec([0], dtype="bfloat16", token_budget=1)
    shard = collect(model, *write_corpora(tmp_path, STORIES), tmp_path / "0.h5", spec)
    _, pooled, norms = read_shard(shard)
    assert pooled.dtype == norms.dtype == np.float32
    with h5py.File(shard) as file:
        assert file.attrs["dtype"] == "bfloat16"
    loaded, tokenizer = load_model(model, "bfloat16")
    for index, (_, text) in enumerate(STORIES):
        with torch.inference_mode(), fast_attention(loaded):
            hidden = loaded(**tokenizer(text, return_tensors="pt"), output_hidden_states=True).hidden_states[1].double()
        assert difference(pooled[0, [index]], hidden[:, 6:].mean(dim=1).numpy()) < 1e-6
        assert norms[0, index] == pytest.approx(float(hidden[0, 1:].norm(dim=-1).mean()), rel=1e-6)


def test_values_that_are_not_finite_stop_the_job_with_block_and_text(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "model")
    corpora = write_corpora(tmp_path, STORIES, NEUTRAL)
    # Of all texts only that with a semicolon overflows, in block 0 already.
    semicolon = FIRST_BYTE + ord(";") - ord("!")
    edit_weights(model, embed_tokens_weight=lambda tensor: tensor[semicolon].fill_(float("inf")))
    (bad,) = (i for i, text in enumerate(TEXTS) if ";" in text)
    name = collecting.corpus_texts(*corpora)["id"][bad]
    for _ in range(2):  # the second time the first job's rows and lock are there
        with pytest.raises(UserError, match=f"block 0 .* not finite for text {name}"):
            collect(model, *corpora, tmp_path / "0.h5", collect_spec(range(3)))
    assert not (tmp_path / "0.h5").exists()


def test_the_block_that_overflows_is_named(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "model")
    edit_weights(model, layers_2_mlp_down_proj_weight=lambda tensor: tensor.fill_(float("nan")))
    with pytest.raises(UserError, match="block 2 gives values that are not finite"):
        collect(model, *write_corpora(tmp_path, STORIES), tmp_path / "0.h5", collect_spec(range(3)))


def test_norms_that_are_not_finite_stop_the_job_too(tmp_path: Path) -> None:
    """A token before the pooled ones whose norm, and no component, overflows: the pooled means are finite."""
    model = tiny_model(tmp_path / "model")
    edit_weights(model, embed_tokens_weight=lambda tensor: tensor[FIRST_BYTE + ord("S") - ord("!")].fill_(1e25))
    with pytest.raises(UserError, match="block 0 gives values that are not finite"):
        collect(model, *write_corpora(tmp_path, [("sad", "She left.")]), tmp_path / "0.h5", collect_spec(range(3)))


def test_a_block_that_gives_every_text_the_same_stops_the_job(tmp_path: Path) -> None:
    """Its output is a constant, but for the sign of one component, so no vector is all of one value."""
    model = tiny_model(tmp_path / "model")
    loaded = load_weights(model, "float32")
    constant = torch.ones(16)
    constant[3] = -1

    def dead(*_: Any) -> Any:
        loaded.model.layers[1].register_forward_hook(
            lambda _module, _inputs, output: constant.expand_as(output).clone()
        )
        return loaded

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(collecting, "load_weights", dead)
        with pytest.raises(UserError, match=r"block 1 gives text .* and 4 others the same vector"):
            collect(model, *write_corpora(tmp_path, STORIES), tmp_path / "0.h5", collect_spec([0, 1, 2]))


def test_a_dead_block_is_found_long_before_the_end(model: Path, tmp_path: Path) -> None:
    checked: list[int] = []
    check = collecting._Seen.check

    def counted(self: Any, texts: list[int], pooled: np.ndarray, norms: np.ndarray) -> None:
        checked.extend(texts)
        pooled[1] = np.arange(16)
        check(self, texts, pooled, norms)

    stories = [("sad", "x" * length) for length in range(10, 90)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(collecting._Seen, "check", counted)
        with pytest.raises(UserError, match="block 1 gives text"):
            collect(model, *write_corpora(tmp_path, stories), tmp_path / "0.h5", collect_spec([0, 1], token_budget=1))
    assert len(checked) == 17


def test_a_block_that_gives_one_value_throughout_stops_the_job(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "model")
    zero = {"embed_tokens_weight": torch.Tensor.zero_} | dict.fromkeys(
        ("o_proj_weight", "down_proj_weight"), torch.Tensor.zero_
    )
    edit_weights(model, **zero)
    stories = write_corpora(tmp_path, STORIES)
    with pytest.raises(UserError, match=r"block 0 gives text [0-9a-f]{16} the same value in every component"):
        collect(model, *stories, tmp_path / "0.h5", collect_spec(range(3)))


def test_the_same_text_twice_is_no_dead_block(model: Path, tmp_path: Path) -> None:
    stories = [("sad", "The same words."), ("calm", "The same words.")]
    texts, pooled, _ = read_shard(
        collect(model, *write_corpora(tmp_path, stories), tmp_path / "0.h5", collect_spec([0, 1]))
    )
    assert len(texts.id) == 2
    assert np.array_equal(pooled[:, 0], pooled[:, 1])


def test_the_first_text_again_at_the_end_is_no_dead_block(model: Path, tmp_path: Path) -> None:
    stories = [("sad", "The same words."), ("calm", "No such letter."), ("sad", "The same words.")]
    spec = collect_spec([0, 1], token_budget=1)
    texts, _, _ = read_shard(collect(model, *write_corpora(tmp_path, stories), tmp_path / "0.h5", spec))
    assert len(texts.id) == 3


def test_the_store_says_how_fast_it_was_made(model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Texts of 1 + 68, 9, 89, 44 and 13 tokens in batches of 180: 90 + 69 of 2 × 90, and 45 + 14 + 10 of 3 × 45."""
    spec = collect_spec(range(3), token_budget=180)
    with caplog.at_level("INFO"):
        shard = collect(model, *write_corpora(tmp_path, STORIES), tmp_path / "0.h5", spec)
    with h5py.File(shard) as file:
        found = dict(file["performance"].attrs)
    assert found["padding_efficiency"] == pytest.approx((90 + 69 + 45 + 14 + 10) / (2 * 90 + 3 * 45))
    assert found["tokens_per_second"] > 0
    assert (found["token_budget"], found["compiled"]) == (180, False)
    assert "5 texts, 228 tokens; " in caplog.text
    assert "72.4% of them real" in caplog.text


# ---------------------------------------------------------------- which layers are stored


def test_the_layers_that_are_not_stored_keep_their_moments(model: Path, tmp_path: Path) -> None:
    corpora = write_corpora(tmp_path, STORIES, NEUTRAL)
    _, whole, whole_norms = read_shard(collect(model, *corpora, tmp_path / "whole.h5", collect_spec(range(3))))
    shard = collect(model, *corpora, tmp_path / "0.h5", collect_spec(range(3), stored=[1]))
    with h5py.File(shard) as file:
        assert list(file["activations"]) == ["layer_1"]
        assert list(file["token_norm"]) == list(file["moments"]) == ["layer_0", "layer_1", "layer_2"]
        assert np.array_equal(file["activations/layer_1"], whole[1])
        for layer in (0, 2):
            assert np.array_equal(file[f"neutral_activations/layer_{layer}"], whole[layer, 5:])
        for layer in range(3):
            moments = file[f"moments/layer_{layer}"]
            assert moments["emotion"].asstr()[...].tolist() == ["calm", "sad", "afraid"]
            assert moments["counts"][...].tolist() == [[1, 1], [1, 1], [1, 0]]
            np.testing.assert_allclose(moments["mean"][0], whole[layer, [0, 4]], rtol=1e-6)
            np.testing.assert_allclose(moments["mean"][1], whole[layer, [1, 3]], rtol=1e-6)
            assert np.array_equal(file[f"token_norm/layer_{layer}"], whole_norms[layer])


def test_what_is_stored_is_told_apart(model: Path, tmp_path: Path) -> None:
    """Shards that store different layers do not make up one corpus."""
    corpora = write_corpora(tmp_path, STORIES, NEUTRAL)
    for shard, stored in ((0, [1]), (1, [1, 2])):
        collect(
            model, *corpora, tmp_path / f"shards/{shard}.h5", collect_spec(range(3), shards=2, stored=stored), shard
        )
    with pytest.raises(UserError, match="different settings"):
        write_layer(tmp_path / "layer_1.h5", [tmp_path / f"shards/{shard}.h5" for shard in (0, 1)], 1)


def test_float16_on_a_cpu_is_refused(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "best_device", lambda: torch.device("cpu"))
    with pytest.raises(UserError, match="float16 needs a GPU; use auto, bfloat16 or float32"):
        collect(model, *write_corpora(tmp_path, STORIES), tmp_path / "0.h5", collect_spec([0], dtype="float16"))


@pytest.mark.parametrize(("native", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_auto_is_bfloat16_only_where_native(
    native: bool, dtype: torch.dtype, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "native_bfloat16", lambda _device: native)
    assert resolve_dtype("auto", torch.device("cpu")) == dtype
    assert load_model(model, "auto")[0].dtype == dtype


@pytest.mark.parametrize(
    ("capability", "avx512_bf16", "amx", "native"),
    [
        ("AVX512", True, False, True),
        ("AVX512", False, True, True),
        ("AVX512", False, False, False),
        ("AVX2", True, True, False),
        ("DEFAULT", False, False, False),
    ],
)
def test_what_a_cpu_needs_for_native_bfloat16(
    capability: str, avx512_bf16: bool, amx: bool, native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512_bf16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert load.native_bfloat16(torch.device("cpu")) == native


@pytest.mark.parametrize(("quantization", "near"), [("8bit", 0.03), ("4bit", 0.4)])
def test_quantised_models_are_read(quantization: str, near: float, tmp_path: Path) -> None:
    """Their vectors are off by rounding, and nearer to those of the same text in full precision than to any other's."""
    pytest.importorskip("bitsandbytes")
    model = tiny_model(tmp_path / "model", width=64)
    spec = collect_spec(range(3), quantization=quantization)
    _, pooled, _ = read_shard(collect(model, *write_corpora(tmp_path, STORIES, NEUTRAL), tmp_path / "0.h5", spec))
    wanted = plain_loop(model, TEXTS)[0]
    apart = np.linalg.norm(pooled[:, :, None] - wanted[:, None], axis=-1) / np.linalg.norm(wanted, axis=-1)[:, None]
    assert (apart.argmin(axis=2) == np.arange(len(TEXTS))).all()
    assert 1e-4 < np.median(np.diagonal(apart, axis1=1, axis2=2)) < near


def test_eight_bits_do_not_mix_texts(tmp_path: Path) -> None:
    """With inputs beyond 6, which bitsandbytes by default singles out by the largest values in the whole batch."""
    pytest.importorskip("bitsandbytes")
    model = tiny_model(tmp_path / "model", width=64)
    edit_weights(model, layernorm_weight=lambda tensor: tensor.mul_(5))
    corpora = write_corpora(tmp_path, STORIES, NEUTRAL)
    alone, together = (
        read_shard(
            collect(
                model,
                *corpora,
                tmp_path / f"{budget}.h5",
                collect_spec(range(3), quantization="8bit", token_budget=budget),
            )
        )[1]
        for budget in (1, 10_000)
    )
    assert difference(together, alone) < 1e-3


# ---------------------------------------------------------------- what is run


def test_nothing_is_run_that_is_not_wanted(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Besides the probes of one text of 16 tokens, no pass reaches a block after the last wanted one, or the head."""
    calls: Counter = Counter()

    def counted(*arguments: Any) -> Any:
        loaded = load_weights(*arguments)
        parts = {f"block {i}": block for i, block in enumerate(loaded.model.layers)} | {"head": loaded.lm_head}
        for name, part in parts.items():
            part.register_forward_pre_hook(
                lambda _module, inputs, name=name: calls.update([name] * (inputs[0].shape[:2] != (1, 16)))
            )
        return loaded

    monkeypatch.setattr(collecting, "load_weights", counted)
    # 89 + 1 tokens fit alone, as do 68 + 1; 44 + 1 with 30 + 1; 25 + 1 with 13 + 1 and 9 + 1.
    spec = collect_spec([0, 1], token_budget=100)
    collect(model, *write_corpora(tmp_path, STORIES, NEUTRAL), tmp_path / "0.h5", spec)
    assert calls == {"block 0": 4, "block 1": 4}


# ---------------------------------------------------------------- words for mistakes


def test_texts_beyond_the_table_of_positions(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "model", "gpt2", max_position_embeddings=40)
    corpora = write_corpora(tmp_path, STORIES)
    with pytest.raises(
        UserError, match="90 tokens is longer than the model's 40 positions; lower the reading's max_tokens"
    ):
        collect(model, *corpora, tmp_path / "0.h5", collect_spec([0]))
    collect(model, *corpora, tmp_path / "0.h5", collect_spec([0], max_tokens=39))


def test_a_tokenizer_of_another_model(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "model", vocab_size=60)
    with pytest.raises(UserError, match="do not belong together"):
        collect(model, *write_corpora(tmp_path, STORIES), tmp_path / "0.h5", collect_spec([0]))


def truncate(model: Path) -> None:
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])


def lose_a_block(model: Path) -> None:
    tensors = load_file(model / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if "layers.2." not in name}
    save_file(kept, model / "model.safetensors", metadata={"format": "pt"})


def lose_the_tokenizer(model: Path) -> None:
    for file in model.glob("tokenizer*"):
        file.unlink()


def change_the_width(model: Path) -> None:
    config = (model / "config.json").read_text(encoding="utf-8")
    (model / "config.json").write_text(config.replace('"hidden_size": 16', '"hidden_size": 32'))


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (truncate, "cannot load it"),
        (lose_a_block, "the weights lack 9 tensors of the model, model.layers.2"),
        (lose_the_tokenizer, "cannot load it"),
        (change_the_width, "cannot load it"),
        (lambda model: (model / "config.json").write_text("{"), "cannot read its config.json"),
        (lambda model: (model / "model.safetensors").unlink(), "cannot load it"),
    ],
)
def test_a_broken_folder_is_refused_in_one_line(harm: Any, words: str, tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "model")
    load_model(model, "float32")
    harm(model)
    with pytest.raises(UserError, match=words) as refusal:
        load_model(model, "float32")
    assert str(refusal.value).startswith(str(model))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("name", "harm"),
    [
        ("model.safetensors", truncate),
        ("model.safetensors", lambda model: (model / "model.safetensors").unlink()),
        ("config.json", lambda model: (model / "config.json").write_bytes(b"\xff\x00")),
        ("tokenizer.json", lambda model: (model / "tokenizer.json").write_text("{")),
    ],
)
def test_files_that_changed_since_they_were_fetched_are_named(name: str, harm: Any, tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "model")
    write_manifest(model)
    harm(model)
    with pytest.raises(UserError, match="not what was fetched: ") as refusal:
        load_model(model, "float32")
    named = str(refusal.value).rpartition("not what was fetched: ")[2]
    assert named.startswith(f"{model / name}; put right where it comes from, or delete {model} and")


# ---------------------------------------------------------------- where weights go

GIB = 2**30


@pytest.mark.parametrize(
    ("needed", "free", "place"),
    [
        (16, [80], {"": 0}),
        (16, [10, 80], {"": 1}),
        (16, [80, 80], {"": 0}),
        # 0.85 × 80 GiB hold 68, and two of them 136.
        (100, [80, 80], "auto"),
        (69, [80, 20], "auto"),
    ],
)
def test_a_model_goes_onto_one_gpu_where_it_fits(needed: float, free: list[float], place: Any) -> None:
    assert load.placement(needed * GIB, [int(part * GIB) for part in free]) == place


def test_a_model_that_no_gpus_hold_is_refused() -> None:
    with pytest.raises(UserError, match="needs about 140 GiB and the GPUs have 160 GiB free; use more GPUs"):
        load.placement(140 * GIB, [80 * GIB, 80 * GIB])


@pytest.mark.parametrize(
    ("quantization", "precision", "share"),
    [("none", torch.float32, 1), ("none", torch.bfloat16, 0.5), ("8bit", torch.bfloat16, 0.3), ("4bit", None, 0.175)],
)
def test_the_size_of_weights_in_memory(model: Path, quantization: str, precision: Any, share: float) -> None:
    """The tiny model is stored in float32."""
    stored = (model / "model.safetensors").stat().st_size
    found = load.weight_bytes(model, torch.float32, precision or torch.float16, quantization)
    assert found == pytest.approx(share * stored)
