"""Make the vector file of one layer from its activations."""

import logging
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from affectome.activations.moments import Moments, halves
from affectome.activations.store import each_block, open_layer, read_columns
from affectome.errors import UserError
from affectome.identity import fingerprint
from affectome.vectors.contrasts import Sums, contrast, group_sums, split_half_reliability, unit
from affectome.vectors.denoising import NeutralTexts, project_out
from affectome.vectors.store import Vectors, write_vectors

log = logging.getLogger(__name__)


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
        emotion, is_neutral, n_text = read_columns(file, "emotion", "neutral", "n_text")
        if "activations" in file:
            labels = halves(emotion, is_neutral, emotions)
            sums, neutral = _from_rows(file["activations"], labels, 2 * len(emotions), is_neutral)
        else:
            sums, neutral = _from_moments(Moments.read(file["moments"]), file["neutral_activations"], emotions)
        of_halves = sums.counts.reshape(-1, 2)
        counts = of_halves.sum(axis=1)
        absent = [emotion for emotion, count in zip(emotions, counts, strict=True) if count == 0]
        if absent:
            raise UserError(
                f"no text was read for {', '.join(absent)}; see screening.json for what was dropped and why"
            )
        if not is_neutral.any() and (denoising is not None or reference == "neutral"):
            raise UserError(
                "no neutral text was read; add some to the corpus, or turn denoising off and compare with mean_of_means"
            )
        basis_of = fingerprint([str(file.attrs["fingerprint"]), emotions, reference, denoising, code])
        norm = residual_norm(file["token_norm"][...], n_text, is_neutral)
        layer = int(file.attrs["layer"])

    centre = neutral.mean if neutral.count else None
    parts = sums.totals.reshape(len(emotions), 2, -1)
    raw = contrast(parts.sum(axis=1) / counts[:, None], reference, centre)
    basis = neutral.basis(**denoising) if denoising is not None else np.zeros((0, raw.shape[1]))
    denoised = project_out(raw, basis)
    # Halves are compared over the emotions with a text in both: an emotion with one text would shift the reference of
    # one half only, and with it every other emotion's vector.
    both = of_halves.min(axis=1) > 0
    reliability = np.full(len(emotions), np.nan)
    if both.any():
        means = parts[both] / of_halves[both, :, None]
        pair = (project_out(contrast(means[:, half], reference, centre), basis) for half in (0, 1))
        reliability[both] = split_half_reliability(*pair)
    write_vectors(
        output,
        Vectors(layer, tuple(emotions), raw, denoised, unit(denoised), basis, counts, reliability, norm, basis_of),
        reference=reference,
        denoising=str(denoising or "off"),
    )
    log.info("layer %d: %d vectors, %d neutral components, residual norm %.1f", layer, len(raw), len(basis), norm)


def residual_norm(token_norm: np.ndarray, n_text: np.ndarray, neutral: np.ndarray) -> float:
    """Mean L2 norm of a token's residual over the emotion texts, from each text's mean over its `n_text` tokens."""
    weights = np.where(neutral, 0, n_text)
    return float(np.average(token_norm.astype(np.float64), weights=weights))


def _from_rows(
    activations: h5py.Dataset, labels: np.ndarray, groups: int, is_neutral: np.ndarray
) -> tuple[Sums, NeutralTexts]:
    """Sums of the `groups` by which `labels` tell texts apart, and the neutral texts, in one pass."""
    width = activations.shape[1]
    sums, neutral = Sums.zeros(groups, width), NeutralTexts(width)

    def part(rows: slice, values: np.ndarray) -> tuple[list, np.ndarray]:
        return group_sums(values, labels[rows]), values[is_neutral[rows]]

    for found, others in each_block(activations, part):
        sums.add(found)
        neutral.add(others)
    return sums, neutral


def _from_moments(moments: Moments, others: h5py.Dataset, emotions: list[str]) -> tuple[Sums, NeutralTexts]:
    """The same of a layer of which moments and, as `others`, neutral texts alone are kept."""
    width = others.shape[1]
    sums, neutral = Sums.zeros(2 * len(emotions), width), NeutralTexts(width)
    number = {name: index for index, name in enumerate(moments.names)}
    for index, emotion in enumerate(emotions):
        if emotion in number:
            counts, means = moments.counts[number[emotion]], moments.mean[number[emotion]]
            sums.add([(2 * index + half, counts[half] * means[half], int(counts[half])) for half in (0, 1)])
    for rows in each_block(others, lambda _rows, values: values.copy()):
        neutral.add(rows)
    return sums, neutral
