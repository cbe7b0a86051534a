"""Which words the emotion vectors promote: each vector through the model's final norm and unembedding.

The logit lens (nostalgebraist 2020, "interpreting GPT: the logit lens") reads a residual as if no block came after it.
Here it reads directions: an emotion's unit vector, at the length of the layer's mean residual (the square root of the
width where that is unknown), goes through what the model does after its last block: the final norm, projections where
there are some, the unembedding with its bias, and the soft cap. No mean residual is added. With RMSNorm the length does
not matter to ranks; with LayerNorm it hardly does, but biases add the same to every emotion's logits. What comes out is
in logits; a soft cap bends them and changes no rank. All this is found by watching the model, and checked against the
logits that it gives itself.

An emotion's *word* is every token that spells it whole, with or without a space before it, capitalised or not, or,
where there is none, the first token of the word after a space; its *forms* are these and all tokens that would give it
away in a story (`affectome.corpus.screening.leaks`: inflections and close derivations). Emotions of several words (at
ease, self-conscious) have none and are not tested. A rank counts from 1 over all tokens that the tokenizer has, and is
the best of a word's tokens.

Frequent words have good ranks under any vector. Two things keep that apart from what the vector says:

- the geometric mean rank, and how many words are among the first, are compared with permutations that assign words to
  vectors at random, one-sided; intervals of the mean rank resample emotions;
- per emotion, ranks are logarithms from which the mean of the word over all vectors is taken, and p is the share of
  words that stand at least as high under this vector, its own counted in; q are Benjamini-Hochberg's, over all emotions
  and layers that are tested.
"""

import copy
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.stats import binomtest
from torch import nn

from affectome.analyses.statistics import benjamini_hochberg, bootstrap_means, interval, p_value
from affectome.corpus.screening.leaks import leaks
from affectome.errors import UserError
from affectome.files import write_json, write_table
from affectome.models.anatomy import decoder_blocks, probe, residual, text_config
from affectome.models.load import load_tokenizer, read_config
from affectome.randomness import generator
from affectome.vectors.store import Vectors, read_all

log = logging.getLogger(__name__)

# Ranks up to which own words are counted.
WITHIN = (1, 10, 100, 1000, 10000)

# Rows of the unembedding made float32 at a time.
_ROWS = 16384

# How far the logits found may be from the model's own, which are computed in its precision.
_TOLERANCE = 0.05

# Shorter tokens are parts of many words.
_LETTERS = 3


# ---------------------------------------------------------------- what a model does after its last block


@dataclass(frozen=True)
class Lens:
    """What a model does to a residual after its last block: `steps`, the unembedding, the soft cap and a `factor`."""

    steps: tuple[nn.Module, ...]
    head: nn.Module
    softcap: float | None
    factor: float
    names: tuple[str, ...]

    @torch.inference_mode()
    def logits(self, residuals: np.ndarray) -> np.ndarray:
        """Logits (n, vocabulary) of `residuals` (n, width), computed in float32."""
        hidden = torch.from_numpy(np.ascontiguousarray(residuals, dtype=np.float32))[None]
        for step in self.steps:
            hidden = step(hidden)
        weight, bias = self.head.weight, getattr(self.head, "bias", None)
        found = torch.empty(len(residuals), len(weight))
        for start in range(0, len(weight), _ROWS):
            rows = slice(start, start + _ROWS)
            part = hidden[0] @ weight[rows].float().T
            found[:, rows] = part if bias is None else part + bias[rows].float()
        if self.softcap:
            found = self.softcap * torch.tanh(found / self.softcap)
        return (self.factor * found).numpy()


def load_lens(folder: str | Path, trust_remote_code: bool = False) -> Lens:
    """The lens of the model in `folder`, on the CPU; of its blocks at most one is loaded where that is possible.

    Raises UserError where the model cannot be loaded, or does something else after its last block than pass modules
    one after the other.
    """
    config = read_config(folder, trust_remote_code)
    try:
        return _watch(_load(folder, _cut(config), trust_remote_code))
    # Some models cannot be cut: tensors that serve all blocks have other shapes then.
    except Exception as error:
        log.info("%s cannot be loaded with one block alone (%s); loading all of it", folder, type(error).__name__)
    try:
        model = _load(folder, config, trust_remote_code)
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{folder}: Transformers cannot load it ({type(error).__name__}: {reason})") from error
    return _watch(model)


def _cut(config: Any) -> Any:
    """`config` with a single block."""
    config = copy.deepcopy(config)
    text = text_config(config)
    text.num_hidden_layers = 1
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[:1]
    return config


def _load(folder: str | Path, config: Any, trust_remote_code: bool) -> nn.Module:
    import transformers

    # Float16 is slow on a CPU; bfloat16 takes half the memory of float32, and is used for a check alone.
    stored = torch.bfloat16 if text_config(config).dtype == torch.bfloat16 else torch.float32
    settings = {"config": config, "dtype": stored, "trust_remote_code": trust_remote_code}
    said = transformers.logging.get_verbosity()
    # It would list the tensors of every block that is left out.
    transformers.logging.set_verbosity_error()
    try:
        model, report = transformers.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, **settings)
    finally:
        transformers.logging.set_verbosity(said)
    if report["missing_keys"]:
        raise UserError(f"{folder}: the weights lack {sorted(report['missing_keys'])[0]}; fetch the model again")
    return model.eval()


@torch.inference_mode()
def _watch(model: nn.Module) -> Lens:
    """The modules that a pass goes through between the last block and the logits, checked against these."""
    last = decoder_blocks(model)[-1]
    inside = set(last.modules())
    called: list[tuple[str, nn.Module]] = []
    residuals: list[torch.Tensor] = []

    def note_residual(_module: nn.Module, _inputs: Any, output: Any) -> None:
        residuals.append(residual(output).float())
        called.clear()

    handles = [last.register_forward_hook(note_residual)]
    for name, module in model.named_modules():
        if not list(module.children()) and module not in inside:
            handles.append(
                module.register_forward_hook(lambda module, _inputs, _output, name=name: called.append((name, module)))
            )
    try:
        wanted = model(input_ids=probe(model), use_cache=False).logits[0].float().numpy()
    finally:
        for handle in handles:
            handle.remove()
    config = text_config(model.config)
    refused = UserError(
        f"{config.model_type}: what it does between its last block and its logits cannot be told from its modules "
        f"({', '.join(name for name, _ in called) or 'none'}); leave logit_lens out of the run's analyses"
    )
    if not called or getattr(called[-1][1], "weight", torch.empty(0)).dim() != 2:
        raise refused
    *steps, (_, head) = called
    copies = tuple(copy.deepcopy(step).float() for _, step in steps)
    softcap = getattr(config, "final_logit_softcapping", None)
    plain = Lens(copies, head, softcap, 1.0, tuple(name for name, _ in called))
    found = plain.logits(residuals[0][0].numpy())
    if found.shape != wanted.shape:
        raise refused
    # Some models multiply their logits by a constant.
    factor = float((found * wanted).sum() / (found * found).sum())
    if factor <= 0 or np.linalg.norm(factor * found - wanted) > _TOLERANCE * np.linalg.norm(wanted):
        raise refused
    return Lens(copies, head, softcap, 1.0 if abs(factor - 1) < _TOLERANCE else factor, plain.names)


# ---------------------------------------------------------------- tokens and words


def token_texts(tokenizer: Any, ids: np.ndarray) -> list[str]:
    """What each token of `ids` writes in the middle of a text, spaces included; its name where that is no character."""
    before = tokenizer.encode("a", add_special_tokens=False)
    plain = {"clean_up_tokenization_spaces": False}
    start = tokenizer.decode(before, **plain)
    found = tokenizer.batch_decode([[*before, int(token)] for token in ids], **plain)
    names = tokenizer.convert_ids_to_tokens([int(token) for token in ids])
    return [
        name if "\ufffd" in text or not text.startswith(start) else text[len(start) :]
        for text, name in zip(found, names, strict=True)
    ]


def visible(text: str) -> str:
    """`text` with spaces, line breaks and tabs shown as signs."""
    return text.replace(" ", "␣").replace("\n", "⏎").replace("\t", "⇥").replace("\r", "␍")


@dataclass(frozen=True)
class OwnTokens:
    """Positions in the vocabulary of an emotion's `word` and of its `forms`, and whether a token spells it `whole`."""

    word: np.ndarray
    forms: np.ndarray
    whole: bool


def own_tokens(tokenizer: Any, emotions: tuple[str, ...], ids: np.ndarray, texts: list[str]) -> dict[str, OwnTokens]:
    """The tokens of every one of `emotions` that is a single word, as positions in `ids` with their `texts`."""
    spelt: dict[str, list[int]] = {}
    for position, text in enumerate(texts):
        spelt.setdefault(text.strip(), []).append(position)
    parts: dict[str, set[str]] = {}
    for text in {text.lower() for text in spelt if len(text) >= _LETTERS and text.isalpha()}:
        for part in _parts(text):
            parts.setdefault(part, set()).add(text)
    cases: dict[str, list[int]] = {}
    for text, positions in spelt.items():
        cases.setdefault(text.lower(), []).extend(positions)
    place = {int(token): position for position, token in enumerate(ids)}
    found = {}
    for emotion in emotions:
        if not emotion.isalpha():
            continue
        whole = sorted({position for text in (emotion, emotion.capitalize()) for position in spelt.get(text, [])})
        word = whole or _first_token(tokenizer, emotion, place, texts)
        if word:
            alike = sorted(set().union(*(parts.get(part, set()) for part in _parts(emotion))))
            forms = {position for form in alike if leaks(emotion, form) for position in cases[form]}
            found[emotion] = OwnTokens(np.array(word), np.array(sorted(forms.union(word))), bool(whole))
    return found


def _first_token(tokenizer: Any, word: str, place: dict[int, int], texts: list[str]) -> list[int]:
    before = tokenizer.encode("a", add_special_tokens=False)
    rest = tokenizer.encode(f"a {word}", add_special_tokens=False)[len(before) :]
    # Some tokenizers write the space as a token of its own.
    return [place[token] for token in rest if token in place and texts[place[token]].strip()][:1]


def _parts(word: str) -> set[str]:
    """The first two letters of `word` and every three of it; a form of a word shares some with it (pride, proud)."""
    return {"^" + word[:2], *(word[start : start + 3] for start in range(len(word) - 2))}


# ---------------------------------------------------------------- ranks


def ranks(logits: np.ndarray, sets: list[np.ndarray]) -> np.ndarray:
    """Best rank (n, len(sets)) of the tokens of each of `sets` (positions) in `logits` (n, vocabulary), from 1.

    A token's rank is 1 and how many have a higher logit.
    """
    every = np.concatenate(sets)
    starts = np.cumsum([0, *map(len, sets[:-1])])
    found = np.empty((len(logits), len(sets)), dtype=np.int64)
    for number, row in enumerate(logits):
        above = len(row) - np.searchsorted(np.sort(row), row[every], side="right")
        found[number] = np.minimum.reduceat(above, starts) + 1
    return found


def p_of_words(rank: np.ndarray) -> np.ndarray:
    """The p (n,) of each emotion's own word among the words under its vector, from `rank` (n vectors, n words).

    Ranks are compared as logarithms from which each word's mean over the vectors is taken.
    """
    logarithms = np.log(rank)
    relative = logarithms - logarithms.mean(axis=0)
    # 1e-12: rounding must not tear ties apart.
    return np.mean(relative <= np.diag(relative)[:, None] + 1e-12, axis=1)


def agreement(rank: np.ndarray, bootstrap: int, permutations: int, rng: np.random.Generator) -> dict[str, Any]:
    """How high own words stand in `rank` (n vectors, n words), against words assigned to vectors at random.

    `within` holds, for each rank of `WITHIN`, the `count` of own words up to it, their `share` with its Wilson
    interval, and the mean of the `count` under permutation (`chance`) with its central 95 % and p.
    """
    n = len(rank)
    own = np.diag(rank)
    shuffled = rng.permuted(np.tile(np.arange(n), (permutations, 1)), axis=1)
    logarithms = np.log(rank)
    null = logarithms[np.arange(n), shuffled].mean(axis=1)
    drawn = bootstrap_means(np.log(own)[:, None], np.arange(n), bootstrap, rng)
    within = {}
    for most in WITHIN:
        counts = (rank <= most)[np.arange(n), shuffled].sum(axis=1)
        count = int((own <= most).sum())
        # Resampling would say that a count of none is certain.
        share = binomtest(count, n).proportion_ci(method="wilson")
        within[most] = {
            "count": count,
            "share": count / n,
            "ci": [share.low, share.high],
            "chance": counts.mean(),
            "chance_interval": interval(counts),
            "p": p_value(count, counts),
        }
    return {
        "n": n,
        "geometric_mean_rank": np.exp(np.log(own).mean()),
        "ci": [float(np.exp(bound)) for bound in interval(drawn)],
        "median_rank": np.median(own),
        "chance": np.exp(null.mean()),
        "chance_interval": [float(np.exp(bound)) for bound in interval(null)],
        "p": p_value(-np.log(own).mean(), -null),
        "within": within,
    }


# ---------------------------------------------------------------- the question


def spread(layers: list[int], count: int, headline: int) -> list[int]:
    """`count` of `layers` from the first to the last, evenly spaced, and `headline`; ascending."""
    chosen = np.linspace(0, len(layers) - 1, min(count, len(layers))).round().astype(int)
    return sorted({headline, *(layers[index] for index in chosen)})


def logit_lens(
    paths: list[str | Path],
    model: str | Path,
    layer: int,
    layers: int,
    tokens: int,
    trust_remote_code: bool,
    bootstrap: int,
    permutations: int,
    seed: int,
    table: str | Path,
    output: str | Path,
) -> None:
    """Read the vector files `paths` of one run through the end of its model, of which `model` is the manifest.

    `layer` is the headline layer; beside it, `layers` evenly spaced ones are read. Writes to
    `table` a row for each layer and emotion: `rank_word, p_word, q_word` and the same of `forms` (empty for emotions
    without a token), `whole`, `own` (the word's tokens), `n_vocabulary`, and as lists the `tokens` first and last ones,
    `promoted` and `demoted`, with their logits. Writes to `output` the agreement by layer, of `word`, `forms`, and of
    `whole`, the words that one token spells. Raises UserError where the model cannot be read so.
    """
    folder = Path(model).parent
    every = read_all(paths)
    lens = load_lens(folder, trust_remote_code)
    tokenizer = load_tokenizer(folder, trust_remote_code)
    size = len(lens.head.weight)
    ids = np.array(sorted(token for token in set(tokenizer.get_vocab().values()) if token < size))
    texts = token_texts(tokenizer, ids)
    emotions = every[layer].emotions
    own = own_tokens(tokenizer, emotions, ids, texts)
    if len(own) < 2:
        raise UserError("logit_lens: fewer than two of the emotions are single words; leave it out of the analyses")
    signs = [visible(text) for text in texts]
    tested = [emotion for emotion in emotions if emotion in own]
    whole = np.array([own[emotion].whole for emotion in tested])
    places = [emotions.index(emotion) for emotion in tested]
    sets = [own[emotion].word for emotion in tested] + [own[emotion].forms for emotion in tested]
    found: dict[int, Any] = {}
    frames = []
    for number in spread(list(every), layers, layer):
        logits = lens.logits(at_residual_length(every[number]))[:, ids]
        frame = _extremes(logits, emotions, signs, min(tokens, len(ids))).assign(layer=number)
        word, forms = np.hsplit(ranks(logits[places], sets), 2)
        found[number] = {}
        for kind, rank in (("word", word), ("forms", forms), ("whole", word[np.ix_(whole, whole)])):
            if len(rank) > 1:
                rng = generator(seed, "logit_lens", number, kind)
                found[number][kind] = agreement(rank, bootstrap, permutations, rng)
        for kind, rank in (("word", word), ("forms", forms)):
            frame.loc[places, f"rank_{kind}"] = np.diag(rank)
            frame.loc[places, f"p_{kind}"] = p_of_words(rank)
        frames.append(frame)
    rows = pd.concat(frames, ignore_index=True)
    rows["whole"] = [emotion in own and own[emotion].whole for emotion in rows["emotion"]]
    rows["own"] = [
        [signs[position] for position in own[emotion].word] if emotion in own else [] for emotion in rows["emotion"]
    ]
    rows["n_vocabulary"] = len(ids)
    for kind in ("word", "forms"):
        rows[f"rank_{kind}"] = rows[f"rank_{kind}"].astype("Int64")
        rows[f"q_{kind}"] = benjamini_hochberg(rows[f"p_{kind}"].to_numpy())
        for number, at_layer in found.items():
            at_layer[kind]["q_below_05"] = int((rows.loc[rows["layer"] == number, f"q_{kind}"] < 0.05).sum())
    measured = [f"{what}_{kind}" for kind in ("word", "forms") for what in ("rank", "p", "q")]
    lists = ["promoted", "promoted_logits", "demoted", "demoted_logits"]
    write_table(table, rows[["layer", "emotion", *measured, "whole", "own", "n_vocabulary", *lists]])
    n = {"emotions": len(emotions), "tested": len(own), "whole": int(whole.sum()), "vocabulary": len(ids)}
    made = {"modules": lens.names, "softcap": lens.softcap, "factor": lens.factor}
    drawn = {"bootstrap": bootstrap, "permutations": permutations}
    write_json(output, {"layer": layer, "n": n, "lens": made, **drawn, "layers": found})


def at_residual_length(vectors: Vectors) -> np.ndarray:
    """The unit vectors (emotions, width) at the length of a residual, as the lens reads them."""
    known = np.isfinite(vectors.residual_norm) and vectors.residual_norm > 0
    return vectors.unit * np.float32(vectors.residual_norm if known else np.sqrt(vectors.unit.shape[1]))


def _extremes(logits: np.ndarray, emotions: tuple[str, ...], signs: list[str], tokens: int) -> pd.DataFrame:
    columns: dict[str, list] = {"emotion": list(emotions)}
    for name, largest in (("promoted", True), ("demoted", False)):
        values, chosen = torch.from_numpy(logits).topk(tokens, dim=1, largest=largest)
        columns[name] = [[signs[position] for position in row] for row in chosen.tolist()]
        columns[f"{name}_logits"] = values.double().tolist()
    return pd.DataFrame(columns)
