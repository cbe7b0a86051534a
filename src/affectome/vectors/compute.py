"""Make the vector file of one layer from its activations."""

import logging
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from affectome.activations.store import Texts, open_layer
from affectome.errors import UserError
from affectome.identity import fingerprint
from affectome.vectors.contrasts import Sums, contrast, split_half_reliability, sum_by_emotion, unit
from affectome.vectors.denoising import neutral_basis, project_out
from affectome.vectors.store import Vectors, write_vectors

log = logging.getLogger(__name__)

# Rows read at a time: 4,096 × 5,376 float32 are 88 MB.
_ROWS = 4096


def emotion_vectors(
    layer_file: str | Path,
    output: str | Path,
    emotions: list[str],
    reference: str,
    denoising: dict[str, Any] | None,
    code: str,
) -> None:
    """Write the vectors of `emotions` at one layer to `output`; see `Vectors` for what they are.

    `denoising` is None, `{"variance": share}` or `{"components": count}`. Raises UserError naming an emotion of which
    no text was read.
    """
    with open_layer(layer_file) as file:
        texts = Texts.read(file)
        number = {emotion: index for index, emotion in enumerate(emotions)}
        labels = np.array([-1 if n else number.get(e, -1) for e, n in zip(texts.emotion, texts.neutral, strict=True)])
        sums = _sums_of_halves(file["activations"], labels, len(emotions))
        whole = sums[0] + sums[1]
        counts = whole.counts
        absent = [emotion for emotion, count in zip(emotions, counts, strict=True) if count == 0]
        if absent:
            raise UserError(
                f"no text was read for {', '.join(absent)}; see screening.json for what was dropped and why"
            )
        if not texts.neutral.any() and (denoising is not None or reference == "neutral"):
            raise UserError(
                "no neutral text was read; add some to the corpus, or turn denoising off and compare with mean_of_means"
            )
        neutral = file["activations"][np.flatnonzero(texts.neutral)] if texts.neutral.any() else None
        basis_of = fingerprint([str(file.attrs["fingerprint"]), emotions, reference, denoising, code])
        norm = residual_norm(file["token_norm"][...], texts)
        layer = int(file.attrs["layer"])

    centre = neutral.mean(axis=0, dtype=np.float64) if neutral is not None else None
    raw = contrast(whole.totals / counts[:, None], reference, centre)
    basis = neutral_basis(neutral, **denoising) if denoising is not None else np.zeros((0, raw.shape[1]))
    denoised = project_out(raw, basis)
    # Halves are compared over the emotions with a text in both: an emotion with one text would shift the reference of
    # one half only, and with it every other emotion's vector.
    both = np.minimum(*(half.counts for half in sums)) > 0
    reliability = np.full(len(emotions), np.nan)
    if both.any():
        of_halves = (contrast(half.totals[both] / half.counts[both, None], reference, centre) for half in sums)
        reliability[both] = split_half_reliability(*(project_out(vectors, basis) for vectors in of_halves))
    write_vectors(
        output,
        Vectors(layer, tuple(emotions), raw, denoised, unit(denoised), basis, counts, reliability, norm, basis_of),
        reference=reference,
        denoising=str(denoising or "off"),
    )
    log.info("layer %d: %d vectors, %d neutral components, residual norm %.1f", layer, len(raw), len(basis), norm)


def residual_norm(token_norm: np.ndarray, texts: Texts) -> float:
    """Mean L2 norm of a token's residual over the corpus's emotion texts, each sequence's first token left out."""
    weights = np.where(texts.neutral, 0, texts.n_tokens - 1)
    return float(np.average(token_norm.astype(np.float64), weights=weights))


def _sums_of_halves(activations: h5py.Dataset, labels: np.ndarray, emotions: int) -> list[Sums]:
    """Sums over the 1st, 3rd, 5th … text of each emotion and over its 2nd, 4th, …, in one pass over the file."""
    odd = np.zeros(len(labels), dtype=bool)
    for emotion in range(emotions):
        odd[np.flatnonzero(labels == emotion)[1::2]] = True
    halves = [sum_by_emotion(np.zeros((0, activations.shape[1])), labels[:0], emotions) for _ in range(2)]
    for start in range(0, len(labels), _ROWS):
        rows = slice(start, start + _ROWS)
        block = activations[rows]
        for index, mine in enumerate((~odd[rows], odd[rows])):
            halves[index] += sum_by_emotion(block, np.where(mine, labels[rows], -1), emotions)
    return halves
