"""Counts, means and squared deviations per emotion, for layers of which no text's own activation is kept.

An emotion's texts are split in two, its 1st, 3rd, 5th … and its 2nd, 4th, … apart, as split-half reliability needs
them. Sums of parts of a corpus are joined by the formula of Chan, Golub & LeVeque (1983), which loses no digits where
means are large and differences small.
"""

from dataclasses import dataclass

import h5py
import numpy as np

from affectome.hdf5 import TEXT, read_column


def halves(emotion: np.ndarray, neutral: np.ndarray, names: list[str]) -> np.ndarray:
    """For each text, in corpus order, 2 × the number of its emotion in `names`, + 1 in the second half; −1 without."""
    number = {name: 2 * index for index, name in enumerate(names)}
    labels = np.array([number.get(name, -1) for name in emotion], dtype=np.int64)
    labels[neutral] = -1
    for label in range(0, 2 * len(names), 2):
        labels[np.flatnonzero(labels == label)[1::2]] += 1
    return labels


@dataclass
class Moments:
    """Of emotions `names`, in two halves: `counts` (emotions, 2), `mean` and `m2` (emotions, 2, width), float64."""

    names: list[str]
    counts: np.ndarray
    mean: np.ndarray
    m2: np.ndarray

    @classmethod
    def zeros(cls, names: list[str], width: int) -> "Moments":
        """Of no texts yet."""
        shape = (len(names), 2, width)
        return cls(names, np.zeros(shape[:2], dtype=np.int64), np.zeros(shape), np.zeros(shape))

    def add(self, rows: np.ndarray, labels: np.ndarray) -> None:
        """Take in `rows` (texts, width) with their `labels` (texts,) as `halves` gives them for these names."""
        for group in np.unique(labels[labels >= 0]):
            values = rows[labels == group].astype(np.float64)
            mean = values.mean(axis=0)
            self._join(*divmod(int(group), 2), len(values), mean, ((values - mean) ** 2).sum(axis=0))

    def _join(self, emotion: int, half: int, count: int, mean: np.ndarray, m2: np.ndarray) -> None:
        if not count:
            return
        before = self.counts[emotion, half]
        apart = mean - self.mean[emotion, half]
        self.counts[emotion, half] += count
        share = count / (before + count)
        self.mean[emotion, half] += apart * share
        self.m2[emotion, half] += m2 + apart**2 * before * share

    @classmethod
    def join(cls, parts: list["Moments"]) -> "Moments":
        """Of a corpus, from those of its parts in order; halves are those of the whole."""
        names = list(dict.fromkeys(name for part in parts for name in part.names))
        whole = cls.zeros(names, parts[0].mean.shape[-1])
        for part in parts:
            shifts = [int(whole.counts[names.index(name)].sum()) % 2 for name in part.names]
            for index, (name, shift) in enumerate(zip(part.names, shifts, strict=True)):
                for half in (0, 1):
                    taken = (part.counts[index, half], part.mean[index, half], part.m2[index, half])
                    whole._join(names.index(name), half ^ shift, *taken)
        return whole

    def write(self, group: h5py.Group) -> None:
        group.create_dataset("emotion", data=self.names, dtype=TEXT)
        for name in ("counts", "mean", "m2"):
            group.create_dataset(name, data=getattr(self, name))

    @classmethod
    def read(cls, group: h5py.Group) -> "Moments":
        return cls(list(read_column(group["emotion"])), *(group[name][...] for name in ("counts", "mean", "m2")))
