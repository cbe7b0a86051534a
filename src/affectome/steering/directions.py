"""Directions of a trial (`affectome.directions`): the emotion vectors it steers along and the controls beside them.

`layer_{L}` (directions, width) float32 are unit vectors outside the neutral basis of layer L; its attribute
`residual_norm` is the unit of strength there. `names` and `emotions` say whose they are and how many lead the list. The
attribute `model` names the model that the activations came from, which is the only one they may steer.

Controls (see `affectome.steering.conditions`), treated like an emotion's vector from the mean on: `shuffled:i` is the
mean of as many texts as an emotion has, drawn over all emotions, less the mean of the emotion means; `topic:t` the mean
of the texts about t less the mean of the topics' means; `random:i` is isotropic, and the same draw at every layer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from affectome.activations.store import Texts, each_block, open_layer, rows_of
from affectome.errors import UserError
from affectome.hdf5 import DIRECTIONS, TEXT, read_column, reading, writing
from affectome.identity import fingerprint
from affectome.layers import headline_layer, of_layer
from affectome.randomness import generator
from affectome.vectors.contrasts import Sums, group_sums, unit
from affectome.vectors.denoising import project_out
from affectome.vectors.store import Vectors, read_all


@dataclass(frozen=True)
class Directions:
    """What a directions file holds; `units` (directions, width) and `norms` by layer."""

    names: tuple[str, ...]
    emotions: tuple[str, ...]
    units: dict[int, np.ndarray]
    norms: dict[int, float]
    model: str
    fingerprint: str

    @property
    def controls(self) -> tuple[str, ...]:
        return self.names[len(self.emotions) :]

    def vectors(self, name: str) -> dict[int, np.ndarray]:
        """The unit vectors (width,) of direction `name` by layer."""
        row = self.names.index(name)
        return {layer: units[row] for layer, units in self.units.items()}


def make_directions(
    vectors: Sequence[str | Path],
    layers: Sequence[str | Path],
    output: str | Path,
    emotions: Sequence[str],
    controls: dict[str, int],
    seed: int,
    code: str,
    layer: str | None = None,
) -> None:
    """Write the directions of a trial from the vector files and layer activations of its layers, in the same order.

    `controls` says how many there are to be of `random`, `shuffled` and `topic`; a corpus with fewer topics than that
    gives fewer. Where `layer` names the result of a layer sweep, only the layer that it chose is taken. Raises
    UserError for an emotion without a vector, and for a vector of length 0.
    """
    if layer is not None:
        best = headline_layer(layer)
        vectors, layers = [of_layer(vectors, best)], [of_layer(layers, best)]
    by_layer = read_all(vectors)
    names: tuple[str, ...] = ()
    arrays, norms, models = {}, {}, set()
    for path, (layer, found) in zip(layers, by_layer.items(), strict=True):
        absent = [emotion for emotion in emotions if emotion not in found.emotions]
        if absent:
            raise UserError(f"there is no vector of {', '.join(absent)}; the run has {', '.join(found.emotions)}")
        wanted = found.unit[[found.emotions.index(emotion) for emotion in emotions]]
        with open_layer(path) as file:
            models.add(str(file.attrs["model"]))
            names, made = _controls(file, found, controls, seed)
        arrays[layer] = np.concatenate([wanted, made]).astype(np.float32)
        norms[layer] = found.residual_norm
        _check(arrays[layer], (*emotions, *names), layer)
    key = fingerprint([{n: v.fingerprint for n, v in by_layer.items()}, list(emotions), controls, seed, code])
    (model,) = models
    with writing(output, DIRECTIONS, key, model=model, emotions=len(emotions), units="unit vectors") as file:
        file.create_dataset("names", data=[*emotions, *names], dtype=TEXT)
        for layer, array in arrays.items():
            file.create_dataset(f"layer_{layer}", data=array).attrs["residual_norm"] = norms[layer]


def read_directions(path: str | Path) -> Directions:
    """Read what `make_directions` wrote."""
    with reading(path, DIRECTIONS) as file:
        names = tuple(read_column(file["names"]))
        datasets = {int(name.removeprefix("layer_")): file[name] for name in file if name.startswith("layer_")}
        return Directions(
            names=names,
            emotions=names[: int(file.attrs["emotions"])],
            units={layer: datasets[layer][...] for layer in sorted(datasets)},
            norms={layer: float(datasets[layer].attrs["residual_norm"]) for layer in sorted(datasets)},
            model=str(file.attrs["model"]),
            fingerprint=str(file.attrs["fingerprint"]),
        )


def _controls(
    file: h5py.File, found: Vectors, controls: dict[str, int], seed: int
) -> tuple[tuple[str, ...], np.ndarray]:
    """Names and unit vectors (controls, width) of the controls at one layer."""
    texts = Texts.read(file)
    topics = sorted({str(topic) for topic in texts.topic[~texts.neutral] if topic})
    labels = {
        "emotion": _numbered(np.where(texts.neutral, "", texts.emotion), found.emotions),
        "topic": _numbered(np.where(texts.neutral, "", texts.topic), topics),
        "shuffled": _drawn(~texts.neutral, controls["shuffled"], int(np.median(found.counts)), seed),
    }
    counts = {"emotion": len(found.emotions), "topic": len(topics), "shuffled": controls["shuffled"]}
    means = _means(rows_of(file), labels, counts)
    width = found.raw.shape[1]
    # A single topic's mean is the mean of the topics' means.
    chosen = sorted(generator(seed, "topics").permutation(len(topics))[: controls["topic"]]) if len(topics) > 1 else []
    made = {f"random:{n}": generator(seed, "random", n).normal(size=width) for n in range(controls["random"])}
    made |= {f"shuffled:{n}": mean - means["emotion"].mean(axis=0) for n, mean in enumerate(means["shuffled"])}
    made |= {f"topic:{topics[n]}": means["topic"][n] - means["topic"].mean(axis=0) for n in chosen}
    vectors = np.array(list(made.values())).reshape(len(made), width)
    return tuple(made), unit(project_out(vectors, found.neutral_basis))


def _numbered(values: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """The number of every value in `names`, −1 for one that is not there."""
    number = {name: index for index, name in enumerate(names)}
    return np.array([number.get(value, -1) for value in values])


def _drawn(stories: np.ndarray, groups: int, size: int, seed: int) -> np.ndarray:
    """Labels (texts,): the number of the group, of `size` texts each and none in two, that a story is drawn for."""
    labels = np.full(len(stories), -1)
    order = generator(seed, "shuffled").permutation(np.flatnonzero(stories))
    for group in range(groups):
        labels[order[group * size : (group + 1) * size]] = group
    if groups and size * groups > len(order):
        raise UserError(
            f"{groups} controls of {size} texts each cannot be drawn from {len(order)} stories; lower controls.shuffled"
        )
    return labels


def _means(activations: h5py.Dataset, labels: dict[str, np.ndarray], counts: dict[str, int]) -> dict[str, np.ndarray]:
    """Means (groups, width) of the activations by each of `labels` (texts,), in one pass over the file."""
    width = activations.shape[1]
    sums = {name: Sums.zeros(n, width) for name, n in counts.items()}

    def part(rows: slice, values: np.ndarray) -> dict[str, list]:
        return {name: group_sums(values, labels[name][rows]) for name in counts}

    for found in each_block(activations, part):
        for name, groups in found.items():
            sums[name].add(groups)
    return {name: total.totals / total.counts[:, None] for name, total in sums.items()}


def _check(units: np.ndarray, names: Sequence[str], layer: int) -> None:
    bad = [
        name for name, length in zip(names, np.linalg.norm(units, axis=1), strict=True) if not abs(length - 1) < 1e-3
    ]
    if bad:
        raise UserError(f"layer {layer}: the vector of {bad[0]} has no direction, so nothing can be steered along it")
