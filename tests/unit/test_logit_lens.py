"""The lens says what the model would say, ranks are counted right, and words dealt at random are called random.

What goes through the lens is compared with the model itself, whole, whose last block is made to put out the vectors:
for every architecture that the collector reads.
"""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from affectome.analyses import logit_lens as module
from affectome.analyses.logit_lens import (
    agreement,
    at_residual_length,
    load_lens,
    logit_lens,
    own_tokens,
    p_of_words,
    ranks,
    spread,
    token_texts,
    visible,
)
from affectome.errors import UserError
from affectome.figures.answers.logit_lens import draw_logit_lens, numbers_logit_lens, said
from affectome.figures.style import house_style
from affectome.models.anatomy import decoder_blocks
from affectome.vectors.store import read_vectors
from tests.helpers import ARCHITECTURES, tiny_model, tiny_tokenizer
from tests.planted import strict_json, vector_file

# Encoders, and a model with several residual streams, have no lens.
READ = [name for name in ARCHITECTURES if name not in ("bert", "roberta", "t5", "bart", "gemma3n_text")]
SETTINGS = {"gemma2": {"final_logit_softcapping": 0.5}, "llama": {"tie_word_embeddings": True}}


def own_logits(folder: Path, vectors: np.ndarray) -> np.ndarray:
    """Logits (n, vocabulary) of the whole model in `folder` whose last block puts out `vectors` (n, width)."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    given = torch.from_numpy(vectors.astype(np.float32))[None]
    decoder_blocks(model)[-1].register_forward_hook(
        lambda _module, _inputs, output: given if isinstance(output, torch.Tensor) else (given, *output[1:])
    )
    with torch.no_grad():
        return model(input_ids=torch.arange(3, 3 + len(vectors))[None], use_cache=False).logits[0].numpy()


@pytest.mark.parametrize("architecture", READ)
def test_the_lens_is_the_end_of_the_model(tmp_path: Path, architecture: str) -> None:
    folder = tiny_model(tmp_path, architecture, blocks=4, **SETTINGS.get(architecture, {}))
    vectors = 3 * np.random.default_rng(0).normal(size=(6, 16))
    found = load_lens(folder).logits(vectors)
    np.testing.assert_allclose(found, own_logits(folder, vectors), rtol=2e-4, atol=2e-5)


def test_models_cover_what_heads_do(tmp_path: Path) -> None:
    tied = load_lens(tiny_model(tmp_path / "tied", "llama", tie_word_embeddings=True))
    untied = load_lens(tiny_model(tmp_path / "untied", "llama", tie_word_embeddings=False))
    assert tied.names == untied.names == ("model.norm", "lm_head")
    assert untied.softcap is None
    capped = load_lens(tiny_model(tmp_path / "capped", "gemma2", final_logit_softcapping=0.5))
    assert capped.softcap == 0.5
    vectors = 40 * np.random.default_rng(1).normal(size=(3, 16))
    logits = capped.logits(vectors)
    assert np.abs(logits).max() <= 0.5
    bare = module.Lens(capped.steps, capped.head, None, 1.0, capped.names).logits(vectors)
    assert np.abs(bare).max() > 0.5
    # A cap changes no rank as long as float32 tells values apart.
    mild = module.Lens(capped.steps, capped.head, 30.0, 1.0, capped.names).logits(vectors)
    tokens = [np.array([token]) for token in range(0, 259, 5)]
    np.testing.assert_array_equal(ranks(bare, tokens), ranks(mild, tokens))
    biased = load_lens(tiny_model(tmp_path / "biased", "phi"))
    assert biased.head.bias.abs().max() > 0
    # Rows are made float32 in parts.
    part, module._ROWS = module._ROWS, 100
    try:
        np.testing.assert_array_equal(biased.logits(vectors).shape, (3, 259))
        in_parts = biased.logits(vectors)
    finally:
        module._ROWS = part
    np.testing.assert_allclose(in_parts, biased.logits(vectors), rtol=1e-6)


def test_one_block_is_enough_and_half_precision_is_read_exactly(tmp_path: Path, monkeypatch) -> None:
    loaded = []
    load = module._load
    monkeypatch.setattr(module, "_load", lambda *given: loaded.append(load(*given)) or loaded[-1])
    folder = tiny_model(tmp_path, "qwen3", blocks=4, dtype=torch.bfloat16)
    vectors = np.random.default_rng(0).normal(size=(5, 16))
    found = load_lens(folder).logits(vectors)
    assert len(loaded) == 1
    assert loaded[0].config.num_hidden_layers == 1
    np.testing.assert_allclose(found, own_logits(folder, vectors), rtol=1e-5, atol=1e-6)


def test_a_model_that_cannot_be_cut_is_loaded_whole(tmp_path: Path, monkeypatch) -> None:
    load = module._load

    def refuse_one(folder, config, trust):
        if config.num_hidden_layers == 1:
            raise RuntimeError("size mismatch")
        return load(folder, config, trust)

    monkeypatch.setattr(module, "_load", refuse_one)
    folder = tiny_model(tmp_path, blocks=3)
    vectors = np.random.default_rng(0).normal(size=(5, 16))
    np.testing.assert_allclose(load_lens(folder).logits(vectors), own_logits(folder, vectors), rtol=1e-4, atol=1e-6)


def test_a_head_that_modules_do_not_tell_is_refused(tmp_path: Path, monkeypatch) -> None:
    folder = tiny_model(tmp_path)
    load = module._load

    def twisted(*given):
        model = load(*given)
        forward = model.lm_head.forward
        # The head is called as a module, and something outside of modules happens before it.
        model.model.register_forward_hook(
            lambda _module, _inputs, output: output.__class__(last_hidden_state=output.last_hidden_state.roll(1, -1))
        )
        model.lm_head.forward = forward
        return model

    monkeypatch.setattr(module, "_load", twisted)
    with pytest.raises(UserError, match=r"llama: what it does between .*model.norm, lm_head"):
        load_lens(folder)
    with pytest.raises(UserError, match="cannot"):
        load_lens(tmp_path / "nowhere")


# ---------------------------------------------------------------- tokens


def word_tokenizer(words: list[str]) -> PreTrainedTokenizerFast:
    """A tokenizer whose tokens are the bytes and some `words`, of which a leading space may be part."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    byte = {" ": "Ġ"}
    merged, merges = list(letters), []
    for word in words:
        signs = [byte.get(sign, sign) for sign in word]
        for end in range(2, len(signs) + 1):
            left, right = "".join(signs[: end - 1]), signs[end - 1]
            if left + right not in merged:
                merged.append(left + right)
                merges.append((left, right))
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(merged)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def test_words_and_their_forms_are_found_among_the_tokens() -> None:
    tokenizer = word_tokenizer([" happy", "happy", "Happy", " happily", " happiness", " unhappy", " angry", " anger"])
    ids = np.arange(len(tokenizer))
    texts = token_texts(tokenizer, ids)
    assert {" happy", "Happy", " anger", " "} <= set(texts)
    own = own_tokens(tokenizer, ("happy", "angry", "zen", "at ease", "self-conscious"), ids, texts)
    assert list(own) == ["happy", "angry", "zen"]

    def spelt(positions: np.ndarray) -> set[str]:
        return {texts[position] for position in positions}

    assert spelt(own["happy"].word) == {" happy", "happy", "Happy"}
    assert spelt(own["happy"].forms) == {" happy", "happy", "Happy", " happily", " happiness", " happi"}
    assert spelt(own["angry"].forms) == {" angry", " anger"}
    # No token spells zen: it is known by the first after the space.
    assert own["happy"].whole
    assert not own["zen"].whole
    assert spelt(own["zen"].word) == {"z"}


def test_signs_that_cannot_be_seen_are_shown_and_bytes_named() -> None:
    assert visible(" a\n\tb") == "␣a⏎⇥b"
    tokenizer = tiny_tokenizer()
    ids = np.arange(len(tokenizer))
    texts = token_texts(tokenizer, ids)
    assert texts[tokenizer.convert_tokens_to_ids("Ġ")] == " "
    assert texts[tokenizer.convert_tokens_to_ids("b")] == "b"
    # Half a character is no text.
    assert texts[tokenizer.convert_tokens_to_ids("Ã")] == "Ã"
    assert not any("\ufffd" in text for text in texts)


# ---------------------------------------------------------------- ranks


def test_ranks_by_hand() -> None:
    logits = np.array([[0.1, 0.9, 0.5, 0.5], [4.0, 3.0, 2.0, 1.0]])
    sets = [np.array([0]), np.array([2, 0]), np.array([3]), np.array([1, 3])]
    assert ranks(logits, sets).tolist() == [[4, 2, 2, 1], [1, 1, 4, 2]]


def test_ranks_agree_with_scipy() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(4, 50)).round(1)
    sets = [rng.choice(50, size=size, replace=False) for size in (1, 3, 2)]
    wanted = scipy.stats.rankdata(-logits, method="min", axis=1)
    np.testing.assert_array_equal(ranks(logits, sets), np.column_stack([wanted[:, s].min(axis=1) for s in sets]))


def test_p_of_a_word_by_hand() -> None:
    # The second word is frequent: high under every vector, and no higher under its own.
    rank = np.array([[1, 2, 50], [100, 2, 50], [100, 2, 50]])
    assert p_of_words(rank).tolist() == [1 / 3, 2 / 3, 2 / 3]


def test_frequent_words_are_no_finding_and_p_values_are_uniform() -> None:
    values, overall, counts = [], [], []
    for seed in range(150):
        rng = np.random.default_rng([3, seed])
        frequent = 3 * rng.normal(size=200)
        logits = rng.normal(size=(20, 200)) + frequent
        rank = ranks(logits, [np.array([token]) for token in rng.choice(200, 20, replace=False)])
        values.append(p_of_words(rank))
        found = agreement(rank, 2, 99, rng)
        overall.append(found["p"] - rng.uniform(0, 0.01))
        counts.append(found["within"][10]["count"] - found["within"][10]["chance"])
    values = np.concatenate(values) - np.random.default_rng(0).uniform(0, 1 / 20, 150 * 20)
    assert scipy.stats.kstest(values, "uniform").pvalue > 0.01
    assert scipy.stats.kstest(overall, "uniform").pvalue > 0.01
    assert abs(np.mean(counts)) < 0.15


def test_agreement_by_hand() -> None:
    rank = np.full((6, 6), 5000)
    np.fill_diagonal(rank, [1, 1, 10, 100, 1000, 10000])
    found = agreement(rank, 500, 199, np.random.default_rng(0))
    assert found["n"] == 6
    assert [row["count"] for row in found["within"].values()] == [2, 3, 4, 5, 6]
    assert found["geometric_mean_rank"] == pytest.approx(scipy.stats.gmean([1, 1, 10, 100, 1000, 10000]))
    assert found["median_rank"] == 55
    assert found["ci"][0] < found["geometric_mean_rank"] < found["ci"][1]
    assert found["p"] == 1 / 200
    assert found["within"][1]["chance"] == pytest.approx(2 / 6, abs=0.1)
    # Wilson (1927), by its formula.
    z, share, n = scipy.stats.norm.ppf(0.975), 2 / 6, 6
    middle, half = share + z**2 / (2 * n), z * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    assert found["within"][1]["ci"] == pytest.approx(
        [(middle - half) / (1 + z**2 / n), (middle + half) / (1 + z**2 / n)]
    )


def test_layers_are_spread() -> None:
    assert spread(list(range(30)), 4, 20) == [0, 10, 19, 20, 29]
    assert spread([3, 7], 8, 7) == [3, 7]
    assert spread([5], 3, 5) == [5]


# ---------------------------------------------------------------- the question

WORDS = ["happy", "sad", "angry", "calm", "bored", "proud", "tired", "upset", "at ease"]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> SimpleNamespace:
    """A tiny model, and at layer 1 vectors that its norm and unembedding turn into the emotions' own words."""
    folder = tmp_path_factory.mktemp("lens")
    tokenizer = word_tokenizer([f" {word}" for word in WORDS[:-1]])
    model = tiny_model(
        folder / "model", "llama", 2, 64, tokenizer, vocab_size=len(tokenizer), tie_word_embeddings=False
    )
    (folder / "model" / "manifest.json").write_text("{}")
    loaded = AutoModelForCausalLM.from_pretrained(model)
    weight = loaded.lm_head.weight.detach().numpy()
    norm = loaded.model.norm.weight.detach().numpy()
    tokens = [tokenizer.encode(f" {word}")[0] for word in WORDS]
    rng = np.random.default_rng(0)
    # The norm multiplies by its weight: dividing by it pulls a row of the unembedding back.
    planted = weight[tokens] / norm
    planted[-1] = rng.normal(size=64)
    noise = rng.normal(size=planted.shape)
    files = [
        vector_file(folder / "layer_0.h5", 0, WORDS, noise, 3.0),
        vector_file(folder / "layer_1.h5", 1, WORDS, planted, 3.0),
    ]
    return SimpleNamespace(folder=folder, model=model, files=files, tokens=tokens, tokenizer=tokenizer)


def ask(run: SimpleNamespace, folder: Path, files: list[Path], layer: int, layers: int = 4, seed: int = 0) -> tuple:
    logit_lens(
        files,
        run.model / "manifest.json",
        layer,
        layers,
        5,
        False,
        200,
        199,
        seed,
        folder / "t.parquet",
        folder / "l.json",
    )
    return strict_json(folder / "l.json"), pd.read_parquet(folder / "t.parquet")


def test_planted_words_come_first(run: SimpleNamespace, tmp_path: Path) -> None:
    found, table = ask(run, tmp_path, run.files, 1)
    assert found["layer"] == 1
    assert found["n"] == {"emotions": 9, "tested": 8, "whole": 8, "vocabulary": len(run.tokenizer)}
    assert list(found["layers"]) == ["0", "1"]
    here = found["layers"]["1"]["word"]
    assert here["within"]["1"]["count"] == here["n"] == 8
    assert here["geometric_mean_rank"] == 1
    assert here["p"] == 1 / 200
    assert here["within"]["1"]["p"] == 1 / 200
    rows = table[table["layer"] == 1].set_index("emotion")
    for word, token in list(zip(WORDS, run.tokens, strict=True))[:-1]:
        assert rows.loc[word, "promoted"][0] == visible(run.tokenizer.decode([token])) == f"␣{word}"
        assert rows.loc[word, "rank_word"] == rows.loc[word, "rank_forms"] == 1
        assert rows.loc[word, "p_word"] == 1 / 8
        assert list(rows.loc[word, "own"]) == [f"␣{word}"]
    assert rows.loc["at ease", ["rank_word", "p_word", "q_word"]].isna().all()
    assert len(rows.loc["happy", "demoted"]) == len(rows.loc["happy", "promoted_logits"]) == 5
    assert table["n_vocabulary"].unique().tolist() == [len(run.tokenizer)]
    assert (table["q_word"].dropna() >= table["p_word"].dropna()).all()
    # At the layer of noise nothing is found.
    assert found["layers"]["0"]["word"]["p"] > 0.05


def test_tables_say_what_the_model_says(run: SimpleNamespace, tmp_path: Path) -> None:
    _, table = ask(run, tmp_path, run.files, 1)
    wanted = own_logits(run.model, at_residual_length(read_vectors(run.files[0])))
    rows = table[table["layer"] == 0].set_index("emotion")
    np.testing.assert_allclose(rows.loc["sad", "promoted_logits"], np.sort(wanted[1])[::-1][:5], rtol=1e-4)
    np.testing.assert_allclose(rows.loc["sad", "demoted_logits"], np.sort(wanted[1])[:5], rtol=1e-4)
    own = wanted[1, run.tokens[1]]
    assert rows.loc["sad", "rank_word"] == 1 + (wanted[1] > own + 1e-6).sum()


def test_the_rest_of_the_layers_and_repetition_change_nothing(run: SimpleNamespace, tmp_path: Path) -> None:
    both, _ = ask(run, tmp_path, run.files, 1)
    alone, table = ask(run, tmp_path, run.files[1:], 1, layers=1)
    for kind in ("word", "forms", "whole"):
        same = {key: value for key, value in both["layers"]["1"][kind].items() if key != "q_below_05"}
        assert same == {key: value for key, value in alone["layers"]["1"][kind].items() if key != "q_below_05"}
    written = (tmp_path / "l.json").read_bytes()
    ask(run, tmp_path, run.files[1:], 1, layers=1)
    assert (tmp_path / "l.json").read_bytes() == written
    assert len(table) == 9


def test_an_unknown_residual_norm_is_no_obstacle(run: SimpleNamespace, tmp_path: Path) -> None:
    vectors = read_vectors(run.files[1]).denoised
    file = vector_file(tmp_path / "layer_1.h5", 1, WORDS, vectors, float("nan"))
    found, _ = ask(run, tmp_path, [file], 1)
    assert found["layers"]["1"]["word"]["geometric_mean_rank"] == 1
    np.testing.assert_allclose(np.linalg.norm(at_residual_length(read_vectors(file)), axis=1), 8, rtol=1e-5)


def test_emotions_without_words_are_refused_in_words(run: SimpleNamespace, tmp_path: Path) -> None:
    file = vector_file(tmp_path / "layer_0.h5", 0, ["at ease", "on edge", "worn out"], np.eye(3, 64))
    with pytest.raises(UserError, match="single words"):
        ask(run, tmp_path, [file], 0)


# ---------------------------------------------------------------- figures


def every_text(figure) -> str:
    return "\n".join(text.get_text() for ax in figure.axes for text in ax.texts) + "\n".join(
        text.get_text() for text in figure.texts
    )


def test_the_figure_shows_what_was_found(run: SimpleNamespace, tmp_path: Path) -> None:
    found, table = ask(run, tmp_path, run.files, 1)
    with house_style():
        figure = draw_logit_lens(found, table, 1)
        figure.canvas.draw()
    reached, layers, listed = figure.axes
    assert reached.lines[0].get_ydata().tolist() == [100] * 5
    assert layers.lines[0].get_ydata()[1] == 1
    assert "␣happy" in every_text(figure)
    assert listed.texts[0].get_text().startswith("Tokens of 8 emotions")
    line = numbers_logit_lens(found, table, 1)
    assert line.startswith("Here, at layer 1: 8 of 9 emotions are single words")
    assert "first for 8" in line
    assert "promote their own words: at layer 1" in said(found, 1)
    assert "do not promote their own words more" in said(found, 0)
    assert "At layer 1, the last that was read" in said(found, 0)


def test_the_figure_of_one_layer_and_odd_signs(run: SimpleNamespace, tmp_path: Path) -> None:
    found, table = ask(run, tmp_path, run.files[:1], 0)
    table["promoted"] = [["爱", "$x$", "<b>", "a" * 200]] * len(table)
    with house_style():
        figure = draw_logit_lens(found, table, 0)
        figure.canvas.draw()
    assert "▯" in every_text(figure)
    assert "$x$" in every_text(figure)
    assert json.loads((tmp_path / "l.json").read_text())["layer"] == 0
