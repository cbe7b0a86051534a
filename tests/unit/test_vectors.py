"""Vectors are what the method says they are: planted directions come back, hand-computed cases agree to the last digit.

Directions are planted in synthetic activations, which go through real shard and layer files. A second method (NumPy's
own correlation, scikit-learn's PCA) confirms reliability and the neutral basis.
"""

import logging
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.decomposition import PCA

from affectome.activations import store
from affectome.activations.moments import Moments
from affectome.activations.store import Texts, open_layer
from affectome.errors import UserError
from affectome.vectors.compute import emotion_vectors, residual_norm
from affectome.vectors.contrasts import Sums, contrast, group_sums, split_half_reliability, unit
from affectome.vectors.denoising import NeutralTexts, project_out
from affectome.vectors.store import ARRAYS, Vectors, read_all, read_vectors
from tests.planted import centred_orthonormal, layer_files, orthonormal

WIDTH = 48
EMOTIONS = [f"emotion {number}" for number in range(12)]
# Standard deviations of neutral text along three directions: 64, 36 and 16 of 116 parts of its variance.
NUISANCE = np.array([8.0, 6.0, 4.0])


def vectors_of(file: Path, emotions: list[str], reference: str = "mean_of_means", **denoising: Any) -> Vectors:
    """The vectors of a layer file, by way of their own file beside it."""
    output = file.with_name(f"vectors_{file.name}")
    emotion_vectors(file, output, emotions, reference, denoising or None, "code")
    return read_vectors(output)


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A layer with a direction per emotion, unequal numbers of stories, and nuisance that neutral text shows."""
    rng = np.random.default_rng(1)
    directions = orthonormal(rng, len(EMOTIONS) + 3, WIDTH)
    signal, nuisance = 5 * directions[:-3], directions[-3:]
    labels = np.repeat(np.arange(len(EMOTIONS)), rng.integers(4, 12, size=len(EMOTIONS)))
    middle = rng.normal(size=WIDTH) * 10
    stories = middle + signal[labels] + rng.normal(size=(len(labels), 3)) * NUISANCE @ nuisance
    stories += 0.1 * rng.normal(size=stories.shape)
    scores = centred_orthonormal(rng, 40, 3) * NUISANCE
    neutral = middle + 3 + scores @ nuisance
    order = rng.permutation(len(labels) + 40)
    emotions = np.array([EMOTIONS[label] for label in labels] + [""] * 40, dtype=object)[order]
    activations = np.concatenate([stories, neutral])[order]
    file = layer_files(tmp_path_factory.mktemp("planted"), list(emotions), activations[None], shards=3)[0]
    truth = signal - signal.mean(axis=0)
    return {"file": file, "truth": truth, "nuisance": nuisance, "counts": np.bincount(labels)}


def test_planted_directions_come_back(planted: dict[str, Any]) -> None:
    found = vectors_of(planted["file"], EMOTIONS, components=3)
    truth, nuisance = planted["truth"], planted["nuisance"]
    cosines = (found.unit * unit(truth)).sum(axis=1)
    assert cosines.min() > 0.995
    # Without denoising the nuisance of a handful of stories hides them.
    assert (unit(found.raw) * unit(truth)).sum(axis=1).min() < 0.95
    assert np.abs(found.denoised @ nuisance.T).max() < 1e-4
    np.testing.assert_allclose(found.denoised, found.raw - found.raw @ nuisance.T @ nuisance, atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(found.unit, axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(found.counts, planted["counts"])
    assert found.emotions == tuple(EMOTIONS)
    assert found.reliability.min() > 0.99


@pytest.mark.parametrize(
    ("denoising", "count"),
    [
        ({"variance": 0.5}, 1),
        ({"variance": 64 / 116 - 1e-4}, 1),
        ({"variance": 64 / 116 + 1e-4}, 2),
        ({"variance": 0.85}, 2),
        ({"variance": 0.87}, 3),
        ({"components": 1}, 1),
        ({"components": 2}, 2),
        ({"components": 3}, 3),
    ],
)
def test_denoising_takes_out_the_planted_directions_it_is_asked_for(
    planted: dict[str, Any], denoising: dict[str, Any], count: int
) -> None:
    found = vectors_of(planted["file"], EMOTIONS, **denoising)
    nuisance = planted["nuisance"]
    assert found.neutral_basis.shape == (count, WIDTH)
    np.testing.assert_allclose(np.abs(found.neutral_basis @ nuisance.T), np.eye(3)[:count], atol=1e-5)
    left = np.abs(found.denoised @ nuisance.T).max(axis=0)
    assert (left[:count] < 1e-4).all()
    assert (left[count:] > 0.5).all()


def test_components_that_neutral_texts_do_not_have_are_not_invented(planted: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="at least 4 components and the 40 neutral texts have 3"):
        vectors_of(planted["file"], EMOTIONS, components=4)


def neutral_texts(rows: np.ndarray, at_once: int = 1_000_000) -> NeutralTexts:
    texts = NeutralTexts(rows.shape[1])
    for start in range(0, len(rows), at_once):
        texts.add(rows[start : start + at_once])
    return texts


def test_a_share_reached_exactly_needs_no_further_component() -> None:
    scores = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]]) * np.sqrt([3, 1])
    assert len(neutral_texts(scores).basis(variance=0.75)) == 1
    assert len(neutral_texts(scores).basis(variance=0.7501)) == 2


@pytest.mark.parametrize("shape", [(30, 12), (12, 30)])
def test_the_neutral_basis_is_that_of_scikit_learn(shape: tuple[int, int]) -> None:
    neutral = np.random.default_rng(2).normal(size=shape) * np.linspace(3, 0.5, shape[1]) + 7
    found = neutral_texts(neutral).basis(variance=0.5)
    expected = PCA(n_components=0.5, svd_solver="full").fit(neutral).components_
    assert found.shape == expected.shape
    assert len(found) > 1
    np.testing.assert_allclose(found.T @ found, expected.T @ expected, atol=1e-10)
    assert (np.take_along_axis(found, np.abs(found).argmax(axis=1)[:, None], axis=1) > 0).all()
    np.testing.assert_allclose(neutral_texts(neutral).basis(components=len(expected)), found)


@pytest.mark.parametrize("at_once", [1, 5, 13, 200])
def test_neutral_texts_come_in_pieces_of_any_size(at_once: int) -> None:
    """More texts than they are wide, far from the origin: a plain sum of squares would keep 4 of 16 digits."""
    neutral = (np.random.default_rng(3).normal(size=(60, 8)) * np.linspace(3, 1, 8) + 1e4).astype(np.float32)
    pieces = neutral_texts(neutral, at_once)
    exact = neutral.astype(np.float64)
    np.testing.assert_allclose(pieces.mean, exact.mean(axis=0), rtol=1e-14)
    expected = np.linalg.svd(exact - exact.mean(axis=0))[2][:3]
    found = pieces.basis(components=3)
    np.testing.assert_allclose(np.abs((found * expected).sum(axis=1)), 1, atol=1e-10)


@pytest.mark.parametrize("neutral", [np.ones((1, 4)), np.ones((5, 4)) * 0.1, np.zeros((3, 4))])
def test_neutral_texts_that_are_all_alike_cannot_denoise(neutral: np.ndarray) -> None:
    for denoising in ({"variance": 0.5}, {"components": 1}):
        with pytest.raises(UserError, match="add some or turn it off"):
            neutral_texts(neutral.astype(np.float32)).basis(**denoising)


# Emotion means (1, 0), (4, 3) and (−2, 6) behind 2, 1 and 3 stories.
STORIES = {
    "afraid": [(0.0, -1.0), (2.0, 1.0)],
    "calm": [(4.0, 3.0)],
    "sad": [(-2.0, 5.0), (-2.0, 6.0), (-2.0, 7.0)],
}
NEUTRAL = [(10.0, 0.0), (20.0, 0.0)]
BY_HAND = {
    # Mean of the means (1, 3). The mean over stories would be (0, 3.5).
    "mean_of_means": [(0.0, -3.0), (3.0, 0.0), (-3.0, 3.0)],
    # Means of the other two: (1, 4.5), (−0.5, 3) and (2.5, 1.5).
    "rest": [(0.0, -4.5), (4.5, 0.0), (-4.5, 4.5)],
    # Mean of the neutral texts (15, 0).
    "neutral": [(-14.0, 0.0), (-11.0, 3.0), (-17.0, 6.0)],
}


def by_hand(folder: Path, neutral: bool = True) -> Path:
    """A layer file with the stories above."""
    texts = [(emotion, story) for emotion, stories in STORIES.items() for story in stories]
    texts += [("unlisted", (99.0, 99.0))] + [("", story) for story in NEUTRAL if neutral]
    activations = np.array([[story for _, story in texts]])
    return layer_files(folder, [emotion for emotion, _ in texts], activations)[0]


@pytest.mark.parametrize("reference", BY_HAND)
def test_contrasts_by_hand(tmp_path: Path, reference: str) -> None:
    found = vectors_of(by_hand(tmp_path), list(STORIES), reference)
    np.testing.assert_array_equal(found.raw, BY_HAND[reference])
    np.testing.assert_array_equal(found.denoised, BY_HAND[reference])
    np.testing.assert_array_equal(found.counts, [2, 1, 3])
    assert found.neutral_basis.shape == (0, 2)


@pytest.mark.parametrize(("emotions", "number"), [(["sad", "afraid"], 2), (["calm", "sad", "afraid"], 3)])
def test_emotions_stand_in_the_order_asked_for_and_others_do_not_count(
    tmp_path: Path, emotions: list[str], number: int
) -> None:
    found = vectors_of(by_hand(tmp_path), emotions)
    means = np.array([np.mean(STORIES[emotion], axis=0) for emotion in emotions])
    assert found.emotions == tuple(emotions)
    np.testing.assert_allclose(found.raw, means - means.sum(axis=0) / number, atol=1e-6)


def test_denoising_by_hand(tmp_path: Path) -> None:
    found = vectors_of(by_hand(tmp_path), list(STORIES), variance=0.5)
    # The two neutral texts differ along (1, 0).
    np.testing.assert_allclose(found.neutral_basis, [(1, 0)], atol=1e-7)
    np.testing.assert_allclose(found.denoised, [(0, -3), (0, 0), (0, 3)], atol=1e-6)
    np.testing.assert_allclose(found.unit, [(0, -1), (0, 0), (0, 1)], atol=1e-6)


def test_without_neutral_texts_only_what_needs_none_is_made(tmp_path: Path) -> None:
    file = by_hand(tmp_path, neutral=False)
    np.testing.assert_array_equal(vectors_of(file, list(STORIES)).raw, BY_HAND["mean_of_means"])
    for reference, denoising in (("neutral", {}), ("rest", {"variance": 0.5})):
        with pytest.raises(UserError, match="no neutral text was read"):
            vectors_of(file, list(STORIES), reference, **denoising)


def test_an_emotion_without_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no text was read for happy, glad; see screening"):
        vectors_of(by_hand(tmp_path), ["sad", "happy", "glad"])


def test_the_residual_norm_by_hand(tmp_path: Path) -> None:
    # 4 tokens of norm 10 and 2 of norm 20 after each first one; the neutral text does not count: 80 / 6.
    # Every story alike would give 15, first tokens counted 13.75, the neutral text included 947.
    kinds, tokens, norms = [False, True, False], [5, 101, 3], [10.0, 999.0, 20.0]
    own = np.array(tokens) - 1
    assert residual_norm(np.array(norms, dtype=np.float32), own, np.array(kinds)) == pytest.approx(80 / 6)
    activations = np.random.default_rng(0).normal(size=(1, 3, 4))
    file = layer_files(tmp_path, ["sad", "", "glad"], activations, norms, tokens)[0]
    assert vectors_of(file, ["sad", "glad"]).residual_norm == pytest.approx(80 / 6)


def test_reliability_by_hand() -> None:
    first = np.array([[1.0, 2, 3, 4], [1, 2, 3, 4], [1, 2, 3, 4], [0, 0, 0, 0]])
    second = np.array([[2.0, 4, 6, 8], [1, 3, 2, 4], [2, 1, 4, -3], [1, 2, 3, 4]])
    # r = 1, .8 and −.5 (numpy.corrcoef): 1, 1.6 / 1.8, and −1 / 1.5 where 2r / (1 + r) would be −2.
    r = [np.corrcoef(a, b)[0, 1] for a, b in zip(first[:3], second[:3], strict=True)]
    assert r == pytest.approx([1, 0.8, R_NEGATIVE])
    expected = [1, 1.6 / 1.8, 2 * R_NEGATIVE / (1 - R_NEGATIVE), np.nan]
    np.testing.assert_allclose(split_half_reliability(first, second), expected)


R_NEGATIVE = np.corrcoef([1, 2, 3, 4], [2, 1, 4, -3])[0, 1]


def test_halves_are_every_other_story_of_an_emotion(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    stories = {"a": rng.normal(size=(5, 6)), "b": rng.normal(size=(2, 6)), "c": rng.normal(size=(4, 6))}
    # Interleaved, so that a story's place in the corpus and its place within its emotion differ.
    order = sorted(
        ((emotion, number) for emotion, of in stories.items() for number in range(len(of))), key=lambda i: i[1]
    )
    activations = np.array([[stories[emotion][number] for emotion, number in order]])
    file = layer_files(tmp_path, [emotion for emotion, _ in order], activations)[0]
    halves = []
    for start in (0, 1):
        means = np.array([of[start::2].mean(axis=0) for of in stories.values()])
        halves.append(means - means.mean(axis=0))
    r = np.array([np.corrcoef(a, b)[0, 1] for a, b in zip(*halves, strict=True)])
    expected = 2 * r / (1 + np.abs(r))
    np.testing.assert_allclose(vectors_of(file, list(stories)).reliability, expected, atol=1e-5)


@pytest.mark.parametrize("reference", BY_HAND)
@pytest.mark.parametrize("size", [1.0, 1000.0])
def test_an_emotion_with_one_story_has_no_reliability_and_leaves_others_theirs(
    tmp_path: Path, reference: str, size: float
) -> None:
    rng = np.random.default_rng(4)
    emotions = ["a", "b", "c"] * 4 + ["single"] + [""] * 5
    activations = rng.normal(size=(1, len(emotions), 8)) + 3
    activations[0, 12] *= size
    file = layer_files(tmp_path, emotions, activations)[0]
    found = vectors_of(file, ["a", "single", "b", "c"], reference).reliability
    assert np.isnan(found).tolist() == [False, True, False, False]
    # The vectors of both halves are compared as if the single story were not there.
    np.testing.assert_array_equal(found[[0, 2, 3]], vectors_of(file, ["a", "b", "c"], reference).reliability)


@pytest.mark.parametrize("reference", BY_HAND)
def test_one_story_each_is_no_reliability_at_all_and_no_warning(
    tmp_path: Path, reference: str, recwarn: pytest.WarningsRecorder
) -> None:
    file = layer_files(tmp_path, ["a", "b", "", ""], np.random.default_rng(5).normal(size=(1, 4, 6)))[0]
    assert np.isnan(vectors_of(file, ["a", "b"], reference).reliability).all()
    file = layer_files(tmp_path / "x", ["a", "b", "a", ""], np.random.default_rng(5).normal(size=(1, 4, 6)))[0]
    # Of two emotions, one with one story, the other is compared with nothing unless with neutral texts.
    assert np.isnan(vectors_of(file, ["a", "b"], reference).reliability).tolist() == [reference != "neutral", True]
    assert [str(warning.message) for warning in recwarn if "affectome" in warning.filename] == []


def test_two_emotions_are_opposite(tmp_path: Path) -> None:
    file = layer_files(tmp_path, ["a", "b"] * 3, np.random.default_rng(6).normal(size=(1, 6, 6)))[0]
    for reference in ("mean_of_means", "rest"):
        found = vectors_of(file, ["a", "b"], reference)
        np.testing.assert_allclose(found.unit[0], -found.unit[1], atol=1e-6)


def test_how_the_file_is_read_changes_nothing(
    planted: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole = vectors_of(planted["file"], EMOTIONS, variance=0.5)
    monkeypatch.setattr(store, "_BYTES", 7 * 4 * WIDTH)
    pieces = vectors_of(planted["file"], EMOTIONS, variance=0.5)
    with open_layer(planted["file"]) as file:
        read = Texts.read(file)
        activations = file["activations"][...]
    one_shard = layer_files(tmp_path, list(read.emotion), activations[None], shards=1)[0]
    for other in (pieces, vectors_of(one_shard, EMOTIONS, variance=0.5)):
        for name in ARRAYS:
            np.testing.assert_allclose(getattr(other, name), getattr(whole, name), atol=1e-6)


@pytest.mark.parametrize("shards", [1, 2, 5])
@pytest.mark.parametrize("reference", ["mean_of_means", "neutral"])
def test_moments_give_the_vectors_that_rows_give(
    planted: dict[str, Any], shards: int, reference: str, tmp_path: Path
) -> None:
    """Emotions lie across shards with odd counts, so halves change places from one to the next."""
    with open_layer(planted["file"]) as file:
        read = Texts.read(file)
        activations = file["activations"][...]
    both = np.stack([activations, activations])
    rows, sums = layer_files(tmp_path, list(read.emotion), both, shards=shards, stored=[0])
    with open_layer(sums) as file:
        assert "activations" not in file
        np.testing.assert_array_equal(file["neutral_activations"][...], activations[read.neutral])
        with pytest.raises(UserError, match=r"moments of layer 1 only; .* stored layers"):
            store.rows_of(file)
    with open_layer(rows) as file:
        assert np.array_equal(store.rows_of(file), activations)
    wanted, found = (vectors_of(file, EMOTIONS, reference, variance=0.5) for file in (rows, sums))
    for name in ARRAYS:
        np.testing.assert_allclose(getattr(found, name), getattr(wanted, name), atol=1e-6)


@pytest.mark.parametrize("shards", [1, 3])
def test_moments_are_those_of_numpy(shards: int, tmp_path: Path) -> None:
    """Also of layers whose rows are stored; the numbers are large and their differences small."""
    activations = np.random.default_rng(5).normal(size=(2, 11, 4)) + 1e3
    emotions = ["a", "b", "a", "", "a", "c", "b", "a", "a", "b", "a"]
    for path in layer_files(tmp_path, emotions, activations, shards=shards, stored=[0]):
        with open_layer(path) as file:
            found = Moments.read(file["moments"])
        assert found.names == ["a", "b", "c"]
        assert found.counts.tolist() == [[3, 3], [2, 1], [1, 0]]
        values = activations[int(path.stem[-1])].astype(np.float32).astype(np.float64)
        for index, name in enumerate("abc"):
            mine = values[[emotion == name for emotion in emotions]]
            for half in (0, 1):
                part = mine[half::2]
                if len(part):
                    np.testing.assert_allclose(found.mean[index, half], part.mean(axis=0), rtol=1e-14)
                    np.testing.assert_allclose(found.m2[index, half], part.var(axis=0) * len(part), atol=1e-8)


def test_two_runs_give_the_same_file_and_every_setting_its_own_fingerprint(planted: dict[str, Any]) -> None:
    first = vectors_of(planted["file"], EMOTIONS, variance=0.5)
    output = planted["file"].with_name(f"vectors_{planted['file'].name}")
    written = output.read_bytes()
    assert vectors_of(planted["file"], EMOTIONS, variance=0.5).fingerprint == first.fingerprint
    assert output.read_bytes() == written
    with h5py.File(output) as file:
        assert dict(file.attrs)["reference"] == "mean_of_means"
        assert dict(file.attrs)["denoising"] == "{'variance': 0.5}"
        assert {name: file[name].dtype.kind for name in ARRAYS} == dict.fromkeys(ARRAYS, "f") | {"counts": "i"}
    others = [
        vectors_of(planted["file"], EMOTIONS[1:], variance=0.5),
        vectors_of(planted["file"], EMOTIONS, "rest", variance=0.5),
        vectors_of(planted["file"], EMOTIONS, variance=0.51),
        vectors_of(planted["file"], EMOTIONS),
    ]
    assert len({first.fingerprint, *(other.fingerprint for other in others)}) == 5


def test_the_log_says_what_was_made(planted: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        vectors_of(planted["file"], EMOTIONS, components=2)
    assert "layer 0: 12 vectors, 2 neutral components, residual norm 1.0" in caplog.text


def test_files_are_read_in_the_order_of_layers(tmp_path: Path) -> None:
    activations = np.random.default_rng(7).normal(size=(3, 6, 5))
    files = layer_files(tmp_path, ["a", "b"] * 3, activations)
    outputs = []
    for file in files:
        vectors_of(file, ["a", "b"])
        outputs.append(file.with_name(f"vectors_{file.name}"))
    for order in (outputs, outputs[::-1]):
        found = read_all(order)
        assert list(found) == [0, 1, 2]
        for layer, vectors in found.items():
            means = [activations[layer, start::2].mean(axis=0) for start in (0, 1)]
            np.testing.assert_allclose(vectors.raw[0], (means[0] - means[1]) / 2, atol=1e-6)


def test_sums_leave_unlabelled_rows_out() -> None:
    rows = np.arange(8, dtype=np.float32).reshape(4, 2)
    sums = Sums.zeros(3, 2)
    sums.add(group_sums(rows, np.array([2, -1, 0, 2])))
    np.testing.assert_array_equal(sums.totals, [[4, 5], [0, 0], [6, 8]])
    np.testing.assert_array_equal(sums.counts, [1, 0, 2])


def test_sums_of_many_float32_rows_lose_no_digits() -> None:
    rows = np.full((200_000, 1), 1 / 3, dtype=np.float32)
    ((group, total, count),) = group_sums(rows, np.zeros(len(rows), dtype=int))
    assert (group, total[0], count) == (0, 200_000 * float(np.float32(1 / 3)), 200_000)


def test_a_reference_that_does_not_exist_is_refused() -> None:
    for reference, neutral in (("median", np.zeros(2)), ("neutral", None)):
        with pytest.raises(ValueError, match="mean_of_means, rest, neutral"):
            contrast(np.ones((2, 2)), reference, neutral)


SEEDS = st.integers(0, 2**32 - 1)


@given(SEEDS, st.integers(2, 9), st.integers(1, 9))
def test_contrasts_sum_to_zero_and_ignore_a_common_shift(seed: int, emotions: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    means, shift = rng.normal(size=(emotions, width)), rng.normal(size=width)
    for reference in ("mean_of_means", "rest"):
        found = contrast(means, reference)
        np.testing.assert_allclose(found.sum(axis=0), 0, atol=1e-12)
        np.testing.assert_allclose(contrast(means + shift, reference), found, atol=1e-12)
    np.testing.assert_allclose(contrast(means, "rest"), contrast(means) * emotions / (emotions - 1), atol=1e-12)


@given(SEEDS, st.integers(0, 6), st.integers(1, 9))
def test_projecting_out_leaves_what_is_orthogonal_and_is_done_once(seed: int, directions: int, rows: int) -> None:
    rng = np.random.default_rng(seed)
    basis, vectors = orthonormal(rng, directions, 8), rng.normal(size=(rows, 8))
    left = project_out(vectors, basis)
    np.testing.assert_allclose(left @ basis.T, 0, atol=1e-12)
    np.testing.assert_allclose(project_out(left, basis), left, atol=1e-12)
    np.testing.assert_allclose(left + vectors @ basis.T @ basis, vectors, atol=1e-12)
    orthogonal = vectors - vectors @ np.linalg.pinv(basis) @ basis if directions else vectors
    np.testing.assert_allclose(left, orthogonal, atol=1e-10)


@given(SEEDS)
def test_unit_vectors_keep_their_direction_and_zero_stays_zero(seed: int) -> None:
    vectors = np.random.default_rng(seed).normal(size=(4, 5)) * 100
    vectors[2] = 0
    found = unit(vectors)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), [1, 1, 0, 1])
    np.testing.assert_allclose(found * np.linalg.norm(vectors, axis=1, keepdims=True), vectors)
