"""The store and the vectors at the paper's scale: `python -m benchmarks.store`.

One layer of 205,200 stories and 1,000 neutral texts, 5,376 numbers each (4.4 GB), is written as the shards of a real
store, joined, and made into emotion vectors. The numbers are made up, and so the answer is known: every emotion's
direction was planted. Beside it stand plain h5py calls on a plain file of the same size, in turns, once on files that
the page cache holds and once from disk. Memory is the peak of a process that does nothing else.

`--folder` needs 9 GB, and what is written there is removed again.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from affectome.activations.store import Texts, write_layer, write_shard
from affectome.files import write_json
from affectome.vectors.compute import emotion_vectors
from affectome.vectors.contrasts import unit
from affectome.vectors.store import read_vectors
from benchmarks.measure import hardware, median_interval

EMOTIONS, NEUTRAL, SHARDS = 171, 1000, 32
# Rows that the plain scripts move at a time.
ROWS = 4096
DENOISING = {"variance": 0.5}


class Planted:
    """Rows [first, end) of a layer, made up as they are asked for: noise around the direction of each emotion."""

    def __init__(self, labels: np.ndarray, directions: np.ndarray, noise: np.ndarray) -> None:
        self._labels, self._directions, self._noise = labels, directions, noise
        self.shape = (len(labels), directions.shape[1])

    def __getitem__(self, rows: slice) -> np.ndarray:
        labels = self._labels[rows]
        # The same noise over and over, rolled: drawing a billion numbers would take longer than all that is measured.
        values = np.roll(self._noise[: len(labels)], rows.start, axis=1)
        values[labels >= 0] += self._directions[labels[labels >= 0]]
        # Neutral texts vary along few directions, as real ones do.
        values[labels < 0] /= 1 + np.arange(values.shape[1], dtype=np.float32)
        return values


def texts(labels: np.ndarray, first: int) -> Texts:
    count = len(labels)
    ids = np.array([f"{first + number:016x}" for number in range(count)], dtype=object)
    emotion = np.array(["" if label < 0 else f"emotion {label}" for label in labels], dtype=object)
    topic, tokens, none = np.array(["topic"] * count, dtype=object), np.full(count, 168, np.int32), ids[:0]
    return Texts(ids, emotion, topic, labels < 0, tokens, tokens - 1, tokens - 51, none, tokens[:0])


def write(folder: Path, labels: np.ndarray, directions: np.ndarray, noise: np.ndarray) -> tuple[Path, float]:
    """The layer file over shards written to `folder`, and the seconds that writing the shards took."""
    facts = {"basis": "b", "model": "m", "dtype": "float32", "device": "cpu", "tokens": 1, "seconds": 1.0, "cut": 0}
    paths, seconds = [], 0.0
    for number, rows in enumerate(np.array_split(np.arange(len(labels)), SHARDS)):
        paths.append(folder / "shards" / f"{number}.h5")
        mine = labels[rows]
        started = time.perf_counter()
        write_shard(
            paths[-1],
            f"key{number}",
            texts(mine, rows[0]),
            [0],
            [Planted(mine, directions, noise)],
            [np.ones(len(rows), np.float32)],
            **facts,
        )
        seconds += time.perf_counter() - started
    write_layer(folder / "layer_0.h5", paths, 0)
    return folder / "layer_0.h5", seconds


def write_plainly(path: Path, labels: np.ndarray, directions: np.ndarray, noise: np.ndarray) -> float:
    rows = Planted(labels, directions, noise)
    started = time.perf_counter()
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset("x", rows.shape, np.float32)
        for start in range(0, len(labels), ROWS):
            part = slice(start, min(start + ROWS, len(labels)))
            dataset[part] = rows[part]
    return time.perf_counter() - started


def read_plainly(path: Path, name: str, direct: bool) -> float:
    """Seconds of reading all rows in order, `ROWS` at a time, into new memory or, `direct`, into the same."""
    with h5py.File(path) as file:
        dataset = file[name]
        values = np.empty((ROWS, dataset.shape[1]), np.float32)
        started = time.perf_counter()
        for start in range(0, len(dataset), ROWS):
            rows = slice(start, min(start + ROWS, len(dataset)))
            if direct:
                dataset.read_direct(values[: rows.stop - rows.start], np.s_[rows])
            else:
                values = dataset[rows]
        return time.perf_counter() - started


def make_vectors(layer: Path, output: Path, denoising: dict[str, Any] | None) -> tuple[float, float]:
    """Seconds and peak memory (GiB) of `emotion_vectors` in a process of its own, the start of Python left out."""
    arguments = [str(layer), str(output), json.dumps(denoising)]
    done = subprocess.run([sys.executable, "-m", __spec__.name, "--child", *arguments], capture_output=True, check=True)
    seconds, memory = map(float, done.stdout.split())
    return seconds, memory


def child(layer: str, output: str, denoising: str) -> None:
    emotions = [f"emotion {number}" for number in range(EMOTIONS)]
    started = time.perf_counter()
    emotion_vectors(layer, output, emotions, "mean_of_means", json.loads(denoising), "code")
    seconds = time.perf_counter() - started
    sys.stdout.write(f"{seconds} {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}\n")


def in_memory(folder: Path, directions: np.ndarray, noise: np.ndarray) -> float:
    """Largest difference between vectors of a small layer and those of plain NumPy, relative to their length."""
    labels = np.r_[np.repeat(np.arange(EMOTIONS), 12), np.full(200, -1)]
    layer, _ = write(folder, labels, directions, noise)
    make_vectors(layer, folder / "vectors.h5", DENOISING)
    rows = np.concatenate(
        [Planted(part, directions, noise)[slice(0, len(part))] for part in np.array_split(labels, SHARDS)]
    ).astype(np.float64)
    means = np.stack([rows[labels == emotion].mean(axis=0) for emotion in range(EMOTIONS)])
    raw = means - means.mean(axis=0)
    centred = rows[labels < 0] - rows[labels < 0].mean(axis=0)
    _, singular, components = np.linalg.svd(centred, full_matrices=False)
    share = np.cumsum(singular**2) / np.sum(singular**2)
    basis = components[: int(np.searchsorted(share, DENOISING["variance"])) + 1]
    wanted = raw - (raw @ basis.T) @ basis
    found = read_vectors(folder / "vectors.h5").denoised
    return float((np.linalg.norm(found - wanted, axis=1) / np.linalg.norm(wanted, axis=1)).max())


def measure(folder: Path, stories: int, width: int, repeats: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(EMOTIONS, width)).astype(np.float32)
    noise = rng.normal(size=(ROWS, width)).astype(np.float32)
    labels = np.r_[np.arange(stories) * EMOTIONS // stories, np.full(NEUTRAL, -1)]
    size = len(labels) * width * 4
    (folder / "small").mkdir()
    apart = in_memory(folder / "small", directions, noise)
    plain = folder / "plain.h5"
    layer, written = write(folder / "store", labels, directions, noise)
    work: dict[str, Callable[[], float]] = {
        "plain h5py, new arrays": lambda: read_plainly(plain, "x", direct=False),
        "plain h5py, one array": lambda: read_plainly(plain, "x", direct=True),
        "our virtual layer, one array": lambda: read_plainly(layer, "activations", direct=True),
    }
    memory: list[float] = []

    def vectors(denoising: dict[str, Any] | None) -> float:
        seconds, peak = make_vectors(layer, folder / "vectors.h5", denoising)
        memory.append(peak)
        return seconds

    def from_disk(read: Callable[[], float]) -> float:
        for file in (plain, layer, *layer.parent.glob("shards/*.h5")):
            handle = os.open(file, os.O_RDONLY)
            os.fsync(handle)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(handle)
        return read()

    work["emotion_vectors"] = lambda: vectors(None)
    work["emotion_vectors with denoising"] = lambda: vectors(DENOISING)
    for name in ("plain h5py, one array", "emotion_vectors with denoising"):
        work[f"{name}, from disk"] = lambda read=work[name]: from_disk(read)
    plainly = write_plainly(plain, labels, directions, noise)
    taken: dict[str, list[float]] = {name: [] for name in work}
    for turn in range(repeats + 1):
        for name in work if turn % 2 else reversed(work):
            seconds = work[name]()
            if turn:
                taken[name].append(seconds)
    make_vectors(layer, folder / "vectors.h5", None)
    planted = directions.astype(np.float64) - directions.mean(axis=0, dtype=np.float64)
    cosines = (read_vectors(folder / "vectors.h5").unit * unit(planted)).sum(axis=1)
    raw = {name: "plain h5py, one array, from disk" if "disk" in name else "plain h5py, new arrays" for name in taken}
    return {
        "hardware": hardware(),
        "date": date.today().isoformat(),
        "texts": len(labels),
        "width": width,
        "gigabytes": size / 1e9,
        "write_gb_per_second": {"our shards": size / 1e9 / written, "plain h5py": size / 1e9 / plainly},
        "read_gb_per_second": {name: [size / 1e9 / s for s in seconds] for name, seconds in taken.items()},
        "raw": raw,
        "to_raw": {
            name: [plain / s for plain, s in zip(taken[raw[name]], seconds, strict=True)]
            for name, seconds in taken.items()
        },
        "peak_memory_gib": max(memory),
        "smallest_cosine_with_planted": float(cosines.min()),
        "largest_difference_from_numpy": apart,
    }


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        child(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("results"), help="where the files go meanwhile")
    parser.add_argument(
        "--output", type=Path, default=Path("results/benchmarks/store.json"), help="JSON file for the figures"
    )
    parser.add_argument("--stories", type=int, default=205_200)
    parser.add_argument("--width", type=int, default=5376)
    parser.add_argument("--repeats", type=int, default=5, help="alternations, after one that warms up")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=arguments.folder, prefix=".store.") as folder:
        found = measure(Path(folder), arguments.stories, arguments.width, arguments.repeats)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    write_json(arguments.output, found)
    lines = [
        f"{found['texts']} × {found['width']} float32, {found['gigabytes']:.1f} GB; {found['hardware']}, "
        f"{found['date']}",
        "",
        "| read | GB/s | 95 % interval | to plain h5py | 95 % interval |",
        "|---|---|---|---|---|",
    ]
    for name, rates in found["read_gb_per_second"].items():
        rate, low, high = median_interval(rates)
        share, worst, best = median_interval(found["to_raw"][name])
        lines.append(f"| {name} | {rate:.2f} | {low:.2f} to {high:.2f} | {share:.2f} | {worst:.2f} to {best:.2f} |")
    wrote = ", ".join(f"{name} {rate:.2f} GB/s" for name, rate in found["write_gb_per_second"].items())
    lines += [
        "",
        f"Written: {wrote}. Peak memory of emotion_vectors: {found['peak_memory_gib']:.2f} GiB.",
        f"Smallest cosine with the planted directions {found['smallest_cosine_with_planted']:.6f}; largest relative "
        f"difference from NumPy on a small layer {found['largest_difference_from_numpy']:.1e}.",
    ]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
