"""Which texts say nearly the same as an earlier one, in a corpus too large to compare all pairs.

Texts are compared by the Jaccard similarity of their shingles, which are their sets of runs of three words. MinHash
(Broder 1997) with bands (locality-sensitive hashing; Indyk & Motwani 1998) finds the pairs that are worth comparing;
the similarity that decides is the exact one, so chance can let a pair slip but never make one.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from affectome.randomness import generator

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_SHINGLE = 3

# Hash functions, and the share of pairs just at the threshold that may slip.
_HASHES = 128
_MAY_SLIP = 1e-3

# Texts hashed at once; the shingles of so many stories take some 5 MB.
_BLOCK = 4096


def near_duplicates(texts: Sequence[str], threshold: float) -> list[int]:
    """For every text the number of the earliest text kept before it that it nearly repeats, or -1 where it is kept.

    A text nearly repeats another where their shingles have a Jaccard similarity of at least `threshold`, in (0, 1];
    case and punctuation do not count, and texts without a word are kept. Of the pairs just at the threshold at most one
    in a thousand is not found, of more similar ones fewer. Below 0.3 large corpora take long.
    """
    words = _numbered(texts)
    buckets = _shared_buckets(words, threshold)
    inhabitants: dict[int, list[int]] = defaultdict(list)

    # Texts that resemble each other are compared again and again.
    @lru_cache(maxsize=1 << 14)
    def shingles(number: int) -> frozenset[int]:
        return frozenset(_shingles(words[number]).tolist())

    repeated = [-1] * len(texts)
    for number in np.flatnonzero((buckets >= 0).any(axis=1)).tolist():
        shared = [bucket for bucket in buckets[number].tolist() if bucket >= 0]
        for earlier in sorted(set().union(*(inhabitants[bucket] for bucket in shared))):
            common = len(shingles(number) & shingles(earlier))
            if common >= threshold * (len(shingles(number)) + len(shingles(earlier)) - common):
                repeated[number] = earlier
                break
        else:
            for bucket in shared:
                inhabitants[bucket].append(number)
    return repeated


def _numbered(texts: Sequence[str]) -> list[np.ndarray]:
    """The words of every text as numbers from 1, the same for the same word."""
    numbers: dict[str, int] = {}
    return [
        np.array([numbers.setdefault(word.lower(), len(numbers) + 1) for word in _WORD.findall(text)], dtype=np.uint32)
        for text in texts
    ]


def _shingles(words: np.ndarray) -> np.ndarray:
    """A number for every run of three words, or for the whole of a shorter text.

    They are told apart for certain as long as there are no more than two million distinct words.
    """
    if not len(words):
        return np.zeros(0, dtype=np.uint64)
    runs = np.lib.stride_tricks.sliding_window_view(words.astype(np.uint64), min(_SHINGLE, len(words)))
    packed = np.zeros(len(runs), dtype=np.uint64)
    for column in runs.T:
        packed = (packed << np.uint64(21)) ^ column
    return packed


def _shared_buckets(words: list[np.ndarray], threshold: float) -> np.ndarray:
    """Texts × bands: the bucket that a text shares with another one, -1 where it is alone in its own."""
    rows = _rows_per_band(threshold)
    bands = _HASHES // rows
    filled = np.array([number for number, text in enumerate(words) if len(text)], dtype=np.int64)
    keys = np.zeros((len(filled), bands), dtype=np.uint64)
    for start in range(0, len(filled), _BLOCK):
        block = [_shingles(words[number]) for number in filled[start : start + _BLOCK]]
        minima = _minima(block)[:, : bands * rows].reshape(len(block), bands, rows)
        for row in range(rows):
            keys[start : start + _BLOCK] = _mixed(keys[start : start + _BLOCK] ^ minima[:, :, row])
    buckets = np.full((len(words), bands), -1, dtype=np.int32)
    used = 0
    for band in range(bands):
        _, bucket, inhabitants = np.unique(keys[:, band], return_inverse=True, return_counts=True)
        buckets[filled, band] = np.where(inhabitants[bucket] > 1, used + bucket, -1)
        used += len(inhabitants)
    return buckets


def _rows_per_band(threshold: float) -> int:
    """The most hash values per band with which hardly a pair at `threshold` slips: the more, the fewer comparisons."""
    return next((rows for rows in range(_HASHES, 1, -1) if (1 - threshold**rows) ** (_HASHES // rows) <= _MAY_SLIP), 1)


def _minima(texts: list[np.ndarray]) -> np.ndarray:
    """Texts × hash functions: the least hash value of each text's shingles."""
    random = generator(0, "minhash")
    offsets, factors = (random.integers(0, 1 << 64, _HASHES, dtype=np.uint64) for _ in range(2))
    starts = np.cumsum([0, *map(len, texts[:-1])])
    shingles = _mixed(np.concatenate(texts))
    minima = np.empty((len(texts), _HASHES), dtype=np.uint64)
    for number, (offset, factor) in enumerate(zip(offsets, factors, strict=True)):
        # An odd factor permutes the numbers of 64 bits.
        hashed = (shingles ^ offset) * (factor | np.uint64(1))
        minima[:, number] = np.minimum.reduceat(hashed, starts)
    return minima


def _mixed(numbers: np.ndarray) -> np.ndarray:
    """A permutation of the numbers of 64 bits without visible order (the end of SplitMix64; Steele et al. 2014)."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))
