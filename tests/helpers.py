"""Tiny models, tokenizers and corpora that tests make in a second, with everything about them known.

The tokenizer's tokens are bytes, so that a text has as many tokens as it has ASCII letters. Weights are drawn wide
enough for every token to matter to those after it: a model initialised as for training hardly looks at its context.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from affectome.activations.collect import collect_shard
from affectome.activations.store import Texts
from affectome.corpus.tables import as_corpus, empty_corpus, write_corpus
from affectome.hdf5 import ACTIVATIONS, reading
from affectome.identity import file_sha256

# Of many lengths, most of them longer than the attention window of 8 that some of the models have.
STORIES = [
    ("calm", "The lake lay still in the morning and nobody spoke for a long while."),
    ("sad", "She left."),
    ("afraid", "Something moved under the stairs, and then it moved again, closer, and the lamp went out."),
    ("sad", "Rain all week; he kept the letters in a box."),
    ("calm", "A cup of tea."),
]
NEUTRAL = ["The train leaves at nine.", "Boil two eggs for six minutes."]
TEXTS = [text for _, text in STORIES] + NEUTRAL

# Threads of a model this small wait for each other most of the time.
torch.set_num_threads(1)

PAD, BOS, EOS = "<pad>", "<s>", "</s>"
FIRST_BYTE = 3
VOCABULARY = FIRST_BYTE + 256

_WINDOW = {"sliding_window": 8}
_EXPERTS = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
_TOWER = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_attention_heads": 2,
    "num_hidden_layers": 4,
    "image_size": 28,
    "patch_size": 14,
}
_GEMMA = {"head_dim": 8, "query_pre_attn_scalar": 8, **_WINDOW}
_MIXED = ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]
_GEMMA4 = {
    "hidden_size_per_layer_input": 4,
    "vocab_size_per_layer_input": VOCABULARY,
    "num_kv_shared_layers": 2,
    "head_dim": 8,
    "global_head_dim": 8,
    **_WINDOW,
}

# What each architecture needs beside its size; a nested mapping is a config within the config.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": _WINDOW,
    "qwen2": {},
    "qwen2_moe": {"shared_expert_intermediate_size": 16, **_EXPERTS},
    "qwen3": {"head_dim": 8},
    "qwen3_moe": {"head_dim": 8, **_EXPERTS},
    "qwen3_next": {
        "head_dim": 8,
        "layer_types": ["linear_attention", "full_attention"] * 2,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 2,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
        "shared_expert_intermediate_size": 16,
        **_EXPERTS,
    },
    "mixtral": _EXPERTS,
    "gpt_oss": {"head_dim": 8, "layer_types": _MIXED, **_WINDOW, **_EXPERTS},
    "gemma": {"head_dim": 8},
    "gemma2": _GEMMA,
    "gemma3_text": {"layer_types": _MIXED, **_GEMMA},
    "gemma3": {"text_config": {"layer_types": _MIXED, **_GEMMA}, "vision_config": _TOWER, "mm_tokens_per_image": 4},
    "gemma3n_text": {
        "layer_types": _MIXED,
        "hidden_size_per_layer_input": 4,
        "vocab_size_per_layer_input": VOCABULARY,
        "num_kv_shared_layers": 2,
        "head_dim": 8,
        "laurel_rank": 4,
    },
    "gemma4_text": {"layer_types": _MIXED, **_GEMMA4},
    "gemma4": {"text_config": {"layer_types": _MIXED, **_GEMMA4}, "vision_config": _TOWER, "audio_config": None},
    "phi": {},
    "phi3": {},
    "gpt2": {},
    "gpt_neox": {},
    "opt": {"ffn_dim": 32, "word_embed_proj_dim": 12},
    "apertus": {},
    "olmo": {},
    "olmo2": {},
    "modernbert-decoder": {"local_attention": 16},
    "bert": {},
    "roberta": {},
    "t5": {"d_kv": 8, "d_ff": 32, "is_encoder_decoder": True},
    "bart": {},
}


# As Gemma's, in short: no turn of the system, and none of the assistant before one of the user; texts are stripped.
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if (message.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "[{{ message.role }}]{{ message.content | trim }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


def tiny_tokenizer(
    bos: bool = True, eos: bool = False, padding_side: str = "right", pad: str = PAD, template: str = "", chat: str = ""
) -> PreTrainedTokenizerFast:
    """A tokenizer of bytes, which adds `<s>` before a text and `</s>` after it where asked.

    Ids: 0 `<pad>`, 1 `<s>`, 2 `</s>`, then the bytes, those that are printed first: `!` is 3, `"` is 4. `template` may
    say otherwise what is put around a text; `chat` is its chat template, where it has one.
    """
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {PAD: 0, BOS: 1, EOS: 2} | {letter: FIRST_BYTE + i for i, letter in enumerate(letters)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    template = template or " ".join([BOS] * bos + ["$A"] + [EOS] * eos)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[(token, vocabulary[token]) for token in (PAD, BOS, EOS)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS, pad_token=pad, padding_side=padding_side
    )
    fast.chat_template = chat or None
    return fast


def tiny_config(architecture: str, blocks: int, width: int, **settings: Any) -> Any:
    """The config of a tiny model of `architecture`; `settings` go to the part that describes the text decoder."""
    needs = dict(ARCHITECTURES[architecture])
    size = {
        "hidden_size": width,
        "num_hidden_layers": blocks,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "intermediate_size": 2 * width,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 2048,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    kind = CONFIG_MAPPING[architecture]
    if "text_config" not in needs:
        return kind(**_fit(kind, size | _cut(needs, blocks) | settings))
    text = CONFIG_MAPPING[f"{architecture}_text"]
    needs["text_config"] = _fit(text, size | _cut(needs["text_config"], blocks) | settings)
    return kind(**needs)


def _cut(needs: dict[str, Any], blocks: int) -> dict[str, Any]:
    return needs | ({"layer_types": needs["layer_types"][:blocks]} if "layer_types" in needs else {})


def _fit(kind: Any, settings: dict[str, Any]) -> dict[str, Any]:
    """Settings under the names that a config class has for them, without those it has not."""
    names = getattr(kind, "attribute_map", {})
    settings = {names.get(name, name): value for name, value in settings.items()}
    known = kind().to_dict()
    return {name: value for name, value in settings.items() if name in known}


def tiny_model(
    folder: Path,
    architecture: str = "llama",
    blocks: int = 3,
    width: int = 16,
    tokenizer: PreTrainedTokenizerFast | None = None,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    **settings: Any,
) -> Path:
    """Save a random model of `architecture`, with `tokenizer`, as `from_pretrained` reads it; returns `folder`."""
    model = random_model(tiny_config(architecture, blocks, width, **settings), seed)
    model.to(dtype).save_pretrained(folder)
    (tokenizer or tiny_tokenizer()).save_pretrained(folder)
    return folder


def random_model(config: Any, seed: int = 0) -> PreTrainedModel:
    """A model of `config` whose blocks change the residual stream about as much as they find in it."""
    torch.manual_seed(seed)
    auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    model = auto.from_config(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            # Norms, biases and other vectors keep their mean; matrices map a vector to one of about its length.
            parameter += 0.1 * noise if parameter.dim() < 2 else noise * parameter.shape[-1] ** -0.5 - parameter
    return model


def write_manifest(folder: Path) -> Path:
    """The manifest of the model in `folder`, as far as collecting reads it."""
    sums = {file.name: file_sha256(file) for file in sorted(folder.iterdir()) if file.name != "manifest.json"}
    path = folder / "manifest.json"
    path.write_text(json.dumps({"model": folder.name, "sha256": sums}), encoding="utf-8")
    return path


def write_corpora(folder: Path, stories: Sequence[tuple[str, str]], neutral: Sequence[str] = ()) -> tuple[Path, Path]:
    """The corpus tables of `stories`, as (emotion, text), and of `neutral` texts."""
    paths = folder / "stories.parquet", folder / "neutral.parquet"
    for path, texts in zip(paths, (stories, [("", text) for text in neutral]), strict=True):
        rows = [(emotion, "topic", text) for emotion, text in texts]
        frame = pd.DataFrame(rows, columns=["emotion", "topic", "text"])
        write_corpus(as_corpus(frame, "test") if texts else empty_corpus(), path)
    return paths


def collect_spec(layers: Sequence[int], **settings: Any) -> dict[str, Any]:
    """Settings of a collecting job, as `Workflow.activation_spec` gives them."""
    return {
        "layers": list(layers),
        "stored": list(layers),
        "dtype": "float32",
        "quantization": "none",
        "token_budget": 256,
        "trust_remote_code": False,
        "framing": "bare",
        "prompt": None,
        "pooling": {"from": 5},
        "min_tokens": 1,
        "max_tokens": 1024,
        "shards": 1,
    } | settings


def plain_loop(
    folder: Path, texts: Sequence[str], blocks: str = "model.layers", first: int = 5, before: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """What the collector is to find, the slow way: one text at a time, all hidden states, no padding, no batches.

    Returns the means over the texts' tokens from number `first` on (layers, texts, width) and the mean norms (layers,
    texts) in a model whose blocks are at `blocks` and whose tokenizer puts `before` tokens before a text. The last
    block is read with a hook, as Transformers gives it after the final norm only.
    """
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    last: list[Any] = []
    model.get_submodule(blocks)[-1].register_forward_hook(lambda _module, _inputs, output: last.append(output))
    pooled, norms = [], []
    for text in texts:
        with torch.no_grad():
            states = model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True).hidden_states[1:-1]
        final = last.pop()
        hidden = torch.cat([*states, final if isinstance(final, torch.Tensor) else final[0]])
        end = before + len(text.encode())
        pooled.append(hidden[:, max(1, before + first) : end].mean(dim=1))
        norms.append(hidden[:, max(1, before) : end].norm(dim=-1).mean(dim=1))
    return torch.stack(pooled, dim=1).numpy(), torch.stack(norms, dim=1).numpy()


def collect(
    model: Path, stories: Path, neutral: Path, output: Path, spec: dict[str, Any], shard: int = 0, code: str = "code"
) -> Path:
    """Run a collecting job as the workflow does; returns the shard."""
    collect_shard(stories, neutral, write_manifest(model), output, shard, spec, code, threads=1)
    return output


def read_shard(path: Path) -> tuple[Texts, np.ndarray, np.ndarray]:
    """Texts, pooled residuals (layers, texts, width) and norms (layers, texts) of a shard."""
    with reading(path, ACTIVATIONS) as file:
        layers = file.attrs["layers"]
        pooled = np.stack([file[f"activations/layer_{layer}"][...] for layer in layers])
        norms = np.stack([file[f"token_norm/layer_{layer}"][...] for layer in layers])
        return Texts.read(file), pooled, norms


def difference(found: np.ndarray, wanted: np.ndarray) -> float:
    """The largest relative difference between vectors (…, width)."""
    assert found.shape == wanted.shape
    return float((np.linalg.norm(found - wanted, axis=-1) / np.linalg.norm(wanted, axis=-1)).max())
