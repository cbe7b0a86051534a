"""The collector's numbers are those of a plain loop over single texts, whatever the architecture and the tokenizer.

Every model is random, tiny and saved to a folder; the collector batches, pads and pools, the loop does none of it.
Models that have no single causal residual stream are refused in words.
"""

from inspect import signature
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from affectome.errors import UserError
from affectome.models.anatomy import check_causal, decoder_blocks
from affectome.models.load import load_model
from tests.helpers import (
    BOS,
    CHAT_TEMPLATE,
    EOS,
    NEUTRAL,
    PAD,
    STORIES,
    TEXTS,
    collect,
    collect_spec,
    difference,
    plain_loop,
    random_model,
    read_shard,
    tiny_config,
    tiny_model,
    tiny_tokenizer,
    write_corpora,
)

BLOCKS = 4

# Where Transformers keeps the blocks of each architecture.
PLACES = {
    "llama": "model.layers",
    "mistral": "model.layers",
    "qwen2": "model.layers",
    "qwen2_moe": "model.layers",
    "qwen3": "model.layers",
    "qwen3_moe": "model.layers",
    "qwen3_next": "model.layers",
    "mixtral": "model.layers",
    "gpt_oss": "model.layers",
    "gemma": "model.layers",
    "gemma2": "model.layers",
    "gemma3_text": "model.layers",
    "gemma3": "model.language_model.layers",
    "gemma4_text": "model.layers",
    "gemma4": "model.language_model.layers",
    "phi": "model.layers",
    "phi3": "model.layers",
    "gpt2": "transformer.h",
    "gpt_neox": "gpt_neox.layers",
    "opt": "model.decoder.layers",
    "apertus": "model.layers",
    "olmo": "model.layers",
    "olmo2": "model.layers",
    "modernbert-decoder": "model.layers",
}


@pytest.mark.parametrize("architecture", PLACES)
def test_vectors_equal_the_plain_loop(architecture: str, tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "model", architecture, blocks=BLOCKS)
    shard = collect(model, *write_corpora(tmp_path, STORIES, NEUTRAL), tmp_path / "0.h5", collect_spec(range(BLOCKS)))
    texts, pooled, norms = read_shard(shard)
    wanted, wanted_norms = plain_loop(model, TEXTS, PLACES[architecture])
    # The test means something only if context, depth and text make a difference.
    assert min(difference(wanted[:-1], wanted[1:]), difference(wanted[:, :-1], wanted[:, 1:])) > 0.1
    assert difference(pooled, wanted) < 1e-4
    assert abs(norms / wanted_norms - 1).max() < 1e-4
    assert texts.n_tokens.tolist() == [1 + len(text) for text in TEXTS]
    assert texts.n_pooled.tolist() == [len(text) - 5 for text in TEXTS]


def chat_loop(folder: Path, texts: list[str], blocks: str, role: str) -> np.ndarray:
    """`plain_loop` over turns of a chat, as Transformers makes them: means over the texts' tokens from number 5 on."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    last: list = []
    model.get_submodule(blocks)[-1].register_forward_hook(lambda _module, _inputs, output: last.append(output))
    opening = [{"role": "user", "content": "Go on."}] if role == "assistant" else []
    # <s> and "[user]", or <s>, "[user]Go on.", </s> and "[assistant]"; a token is a letter.
    before = 1 + (len("[user]Go on.") + 1 + len("[assistant]") if opening else len("[user]"))
    pooled = []
    for text in texts:
        messages = [*opening, {"role": role, "content": text}]
        settings = {"add_generation_prompt": role == "user", "return_tensors": "pt", "return_dict": True}
        ids = tokenizer.apply_chat_template(messages, **settings)["input_ids"]
        with torch.no_grad():
            states = model(input_ids=ids, output_hidden_states=True).hidden_states[1:-1]
        final = last.pop()
        hidden = torch.cat([*states, final if isinstance(final, torch.Tensor) else final[0]])
        pooled.append(hidden[:, before + 5 : before + len(text)].mean(dim=1))
    return torch.stack(pooled, dim=1).numpy()


@pytest.mark.parametrize(("role", "padding_side"), [("user", "left"), ("assistant", "right")])
@pytest.mark.parametrize("architecture", PLACES)
def test_vectors_in_a_chat_equal_the_plain_loop(
    architecture: str, role: str, padding_side: str, tmp_path: Path
) -> None:
    tokenizer = tiny_tokenizer(padding_side=padding_side, chat=CHAT_TEMPLATE)
    model = tiny_model(tmp_path / "model", architecture, blocks=BLOCKS, tokenizer=tokenizer)
    prompt = "Go on." if role == "assistant" else None
    spec = collect_spec(range(BLOCKS), framing=role, prompt=prompt)
    texts, pooled, norms = read_shard(collect(model, *write_corpora(tmp_path, STORIES), tmp_path / "0.h5", spec))
    told = [text for _, text in STORIES]
    assert difference(pooled, chat_loop(model, told, PLACES[architecture], role)) < 1e-4
    assert texts.n_pooled.tolist() == [len(text) - 5 for text in told]
    assert texts.n_text.tolist() == [len(text) for text in told]
    assert np.isfinite(norms).all()


@pytest.mark.parametrize("architecture", ["gemma3", "gemma4"])
def test_token_types_of_text_change_nothing(architecture: str, tmp_path: Path) -> None:
    """Processors of multimodal models mark each token as text or image; what is text alone is read causally."""
    model = tiny_model(tmp_path / "model", architecture, blocks=BLOCKS)
    shard = collect(model, *write_corpora(tmp_path, STORIES), tmp_path / "0.h5", collect_spec(range(BLOCKS)))
    _, pooled, _ = read_shard(shard)
    loaded, tokenizer = load_model(model, "float32")
    for index, (_, text) in enumerate(STORIES):
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        types = {name: torch.zeros_like(ids) for name in ("token_type_ids", "mm_token_type_ids")}
        known = {name: types[name] for name in types if name in signature(loaded.forward).parameters}
        assert known
        with torch.inference_mode():
            states = loaded(input_ids=ids, **known, output_hidden_states=True).hidden_states[1:-1]
        wanted = torch.cat([state[:, 6:].mean(dim=1) for state in states])
        assert difference(pooled[:-1, index], wanted.numpy()) < 1e-4


@pytest.mark.parametrize("architecture", PLACES)
def test_blocks_are_found_where_the_architecture_keeps_them(architecture: str) -> None:
    model = random_model(tiny_config(architecture, BLOCKS, 16))
    blocks = decoder_blocks(model)
    assert blocks is model.get_submodule(PLACES[architecture])
    check_causal(model, blocks)


@pytest.mark.parametrize("padding_side", ["left", "right"])
@pytest.mark.parametrize(
    ("before", "template"),
    [(0, "$A"), (1, f"{BOS} $A"), (0, f"$A {EOS}"), (1, f"{BOS} $A {EOS}"), (2, f"{PAD} {BOS} $A {EOS} {EOS}")],
)
@pytest.mark.parametrize("pooling", [{"from": 0}, {"from": 5}, {"mean": True}, {"last": True}])
def test_vectors_do_not_depend_on_what_the_tokenizer_adds(
    before: int, template: str, padding_side: str, pooling: dict, tmp_path: Path
) -> None:
    tokenizer = tiny_tokenizer(template=template, padding_side=padding_side)
    model = tiny_model(tmp_path / "model", blocks=2, tokenizer=tokenizer)
    spec = collect_spec(range(2), pooling=pooling)
    texts, pooled, norms = read_shard(collect(model, *write_corpora(tmp_path, STORIES), tmp_path / "0.h5", spec))
    for index, (_, text) in enumerate(STORIES):
        first = len(text) - 1 if "last" in pooling else pooling.get("from", 0)
        wanted, wanted_norms = plain_loop(model, [text], first=first, before=before)
        assert difference(pooled[:, [index]], wanted) < 1e-4
        assert norms[:, [index]] == pytest.approx(wanted_norms, rel=1e-4)
        assert texts.n_tokens[index] == before + len(text)


@pytest.mark.parametrize(
    ("architecture", "words"),
    [
        ("bert", "later tokens change earlier residuals"),
        ("roberta", "later tokens change earlier residuals"),
        ("t5", "encoder-decoder"),
        ("bart", "encoder-decoder"),
        ("gemma3n_text", r"residual stream \[batch, tokens, 16\], but \[4, 1, 16, 16\]"),
    ],
)
def test_other_models_are_refused_in_one_line(architecture: str, words: str, tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "model", architecture, blocks=BLOCKS)
    with pytest.raises(UserError, match=words) as refusal:
        collect(model, *write_corpora(tmp_path, STORIES), tmp_path / "0.h5", collect_spec([0]))
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "0.h5").exists()


@pytest.mark.parametrize("scale", [0.0, 1.0])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_encoder_is_told_from_a_decoder_however_weak_its_attention(scale: float, dtype: str, tmp_path: Path) -> None:
    """Freshly initialised, an encoder's tokens hardly look at each other; a fixed tolerance lets it pass."""
    for architecture, causal in (("bert", False), ("roberta", False), ("llama", True), ("mixtral", True)):
        config = tiny_config(architecture, BLOCKS, 16)
        model = random_model(config) if scale else AutoModelForCausalLM.from_config(config).eval()
        model.save_pretrained(tmp_path / architecture)
        tiny_tokenizer().save_pretrained(tmp_path / architecture)
        loaded, _ = load_model(tmp_path / architecture, dtype)
        if causal:
            check_causal(loaded, decoder_blocks(loaded))
        else:
            with pytest.raises(UserError, match="no causal"):
                check_causal(loaded, decoder_blocks(loaded))


ROPES = {
    "longrope": {
        "rope_parameters": {
            "rope_type": "longrope",
            "rope_theta": 10000.0,
            "short_factor": [1.0] * 4,
            "long_factor": [4.0] * 4,
        },
        "original_max_position_embeddings": 60,
        "max_position_embeddings": 2048,
    },
    "dynamic": {
        "rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0},
        "max_position_embeddings": 60,
    },
}


@pytest.mark.parametrize(("architecture", "kind"), [("phi3", "longrope"), ("llama", "dynamic")])
def test_positions_that_are_rescaled_by_the_batch_are_refused(architecture: str, kind: str, tmp_path: Path) -> None:
    """A text longer than the first training would change the numbers of the short texts beside it."""
    model = tiny_model(tmp_path / "model", architecture, blocks=2, **ROPES[kind])
    corpora = write_corpora(tmp_path, STORIES)
    with pytest.raises(UserError, match="text of 90 tokens is longer than 60, up to which"):
        collect(model, *corpora, tmp_path / "0.h5", collect_spec([0, 1]))
    shard = collect(model, *corpora, tmp_path / "0.h5", collect_spec([0, 1], max_tokens=59, token_budget=10_000))
    wanted, _ = plain_loop(model, [text[:59] for _, text in STORIES])
    assert difference(read_shard(shard)[1], wanted) < 1e-4
