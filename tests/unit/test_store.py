"""Stored activations: a layer is its shards in order, wherever the folder lies, and nothing missing or foreign is read.

`tests/fixtures` holds a small file of each version of each format. They were made by `make_fixtures` below, as it was
at the time, and are never made again: later versions must read them or refuse them by name.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from affectome.activations.moments import Moments
from affectome.activations.store import Texts, open_layer, write_layer, write_shard
from affectome.errors import UserError
from affectome.hdf5 import ACTIVATIONS, LAYER, VECTORS, VERSIONS, reading, writing
from affectome.vectors.store import Vectors, read_vectors, write_vectors
from tests.project import ROOT

FIXTURES = ROOT / "tests/fixtures"
LAYERS = [0, 3]
WIDTH = 4


def texts(first: int, count: int, dropped: int = 0) -> Texts:
    """Texts number `first` and following of a corpus; every third is neutral."""
    numbers = range(first, first + count)
    return Texts(
        id=np.array([f"id{n}" for n in numbers], dtype=object),
        emotion=np.array(["" if n % 3 == 2 else ("naïve", "sad")[n % 2] for n in numbers], dtype=object),
        topic=np.array([f"topic {n}" for n in numbers], dtype=object),
        neutral=np.array([n % 3 == 2 for n in numbers], dtype=bool),
        n_tokens=np.array([60 + n for n in numbers], dtype=np.int32),
        n_text=np.array([59 + n for n in numbers], dtype=np.int32),
        n_pooled=np.array([10 + n for n in numbers], dtype=np.int32),
        dropped=np.array([f"short{n}" for n in range(dropped)], dtype=object),
        dropped_tokens=np.arange(1, dropped + 1, dtype=np.int32),
    )


def values(first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Residuals (layers, texts, width), 100 × layer + 10 × text + component, and norms, 1000 × layer + text."""
    text = np.arange(first, first + count)
    residuals = [100 * layer + 10 * text[:, None] + np.arange(WIDTH) for layer in LAYERS]
    return np.array(residuals, np.float32), np.array([1000 * layer + text for layer in LAYERS], np.float32)


def shard(
    path: Path,
    first: int,
    count: int,
    dropped: int = 0,
    basis: str = "same",
    key: str = "",
    stored: list[int] | None = None,
) -> Path:
    facts = {"model": "tiny", "dtype": "float32", "device": "cpu", "tokens": 100 + first, "seconds": 0.5, "cut": 1}
    part = texts(first, count, dropped)
    performance = {"tokens_per_second": 1.5}
    write_shard(
        path, key or f"key{first}", part, LAYERS, *values(first, count), stored, performance, basis=basis, **facts
    )
    return path


def make_fixtures(folder: Path) -> None:
    """The archived files: a shard of three texts, layers over it with and without their activations, and vectors."""
    part = shard(folder / "activations_v2.h5", 0, 3, dropped=1, stored=[3])
    write_layer(folder / "layer_v2.h5", [part], layer=3)
    write_layer(folder / "layer_moments_v2.h5", [part], layer=0)
    write_vectors(
        folder / "vectors_v1.h5",
        Vectors(
            layer=3,
            emotions=("naïve", "sad"),
            raw=np.array([[1.0, 2, 2, 0], [0, 0, 3, 4]]),
            denoised=np.array([[0.0, 2, 2, 0], [0, 0, 3, 4]]),
            unit=np.array([[0.0, 0.5**0.5, 0.5**0.5, 0], [0, 0, 0.6, 0.8]]),
            neutral_basis=np.array([[1.0, 0, 0, 0]]),
            counts=np.array([7, 9]),
            reliability=np.array([0.5, 0.75]),
            residual_norm=12.5,
            fingerprint="vectors",
        ),
        reference="emotions",
        denoising="{'variance': 0.5}",
    )


def assert_same(found: Texts, wanted: Texts) -> None:
    for name in Texts.__dataclass_fields__:
        assert getattr(found, name).tolist() == getattr(wanted, name).tolist(), name


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A layer over three shards, the second of which is empty."""
    folder = tmp_path / "reading"
    shards = [
        shard(folder / "shards/0.h5", 0, 4),
        shard(folder / "shards/1.h5", 4, 0, dropped=2),
        shard(folder / "shards/2.h5", 4, 2, dropped=1),
    ]
    write_layer(folder / "layer_3.h5", shards, 3)
    return folder


# ---------------------------------------------------------------- shards and layers


def test_a_shard_holds_what_was_written(tmp_path: Path) -> None:
    with reading(shard(tmp_path / "0.h5", 2, 3, dropped=1), ACTIVATIONS) as file:
        assert_same(Texts.read(file), texts(2, 3, dropped=1))
        for index, layer in enumerate(LAYERS):
            assert file[f"activations/layer_{layer}"].dtype == np.float32
            assert np.array_equal(file[f"activations/layer_{layer}"], values(2, 3)[0][index])
            assert np.array_equal(file[f"token_norm/layer_{layer}"], values(2, 3)[1][index])
        assert file.attrs["layers"].tolist() == LAYERS
        assert (file.attrs["width"], file.attrs["basis"], file.attrs["fingerprint"]) == (WIDTH, "same", "key2")
        assert "residual stream" in file.attrs["units"]


@pytest.mark.parametrize("move", [False, True])
def test_a_layer_is_its_shards_in_order(folder: Path, move: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shards are found beside the layer, wherever both have been moved and from wherever they are read."""
    if move:
        folder = folder.rename(folder.with_name("elsewhere"))
        monkeypatch.chdir("/")
    with open_layer(folder / "layer_3.h5") as file:
        assert file["activations"].is_virtual
        assert np.array_equal(file["activations"], values(0, 6)[0][1])
        assert np.array_equal(file["token_norm"], values(0, 6)[1][1])
        found, wanted = Texts.read(file), texts(0, 6)
        for name in ("id", "emotion", "topic", "neutral", "n_tokens", "n_pooled"):
            assert getattr(found, name).tolist() == getattr(wanted, name).tolist()
        assert found.dropped.tolist() == ["short0", "short1", "short0"]
        assert found.dropped_tokens.tolist() == [1, 2, 1]
        assert (file.attrs["layer"], file.attrs["width"], file.attrs["model"]) == (3, WIDTH, "tiny")
        assert (file.attrs["tokens"], file.attrs["seconds"], file.attrs["cut"]) == (308, 1.5, 3)
    assert (folder / "layer_3.h5").stat().st_size < 30_000


def test_a_layer_of_no_texts(tmp_path: Path) -> None:
    write_layer(tmp_path / "layer_0.h5", [shard(tmp_path / "shards/0.h5", 0, 0, dropped=2)], 0)
    with open_layer(tmp_path / "layer_0.h5") as file:
        assert file["activations"].shape == (0, WIDTH)
        assert file["token_norm"].shape == (0,)
        assert Texts.read(file).dropped.tolist() == ["short0", "short1"]


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("number", [0, 1, 2])
@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (Path.unlink, "no such file"),
        (truncate, "not a whole HDF5 file"),
        (lambda path: path.write_bytes(b""), "not a whole HDF5 file"),
        (lambda path: shard(path, 0, 4, key="another corpus"), "computed anew"),
        (lambda path: shutil.copy(FIXTURES / "vectors_v1.h5", path), "holds affectome.vectors"),
    ],
)
def test_a_layer_names_the_shard_that_is_not_as_it_was(folder: Path, number: int, harm, words: str) -> None:
    broken = folder / f"shards/{number}.h5"
    harm(broken)
    with pytest.raises(UserError, match=words) as refusal, open_layer(folder / "layer_3.h5"):
        pass
    assert str(broken) in str(refusal.value)
    # A shard alone would not be made again for what reads the layer.
    deleted = f"with it delete {folder / 'layer_3.h5'}, which"
    assert (deleted in str(refusal.value)) == (words == "not a whole HDF5 file")


def test_shards_computed_alike_again_are_accepted(folder: Path) -> None:
    shard(folder / "shards/0.h5", 0, 4)
    with open_layer(folder / "layer_3.h5") as file:
        assert np.array_equal(file["activations"], values(0, 6)[0][1])


def test_layers_are_not_made_of_what_does_not_fit(folder: Path) -> None:
    shards = [folder / f"shards/{number}.h5" for number in range(3)]
    with pytest.raises(UserError, match=r"0\.h5: holds no layer 1; it has 0, 3"):
        write_layer(folder / "layer_1.h5", shards, 1)
    shard(shards[2], 4, 2, basis="other")
    with pytest.raises(UserError, match="different settings"):
        write_layer(folder / "layer_0.h5", shards, 0)
    truncate(shards[1])
    with pytest.raises(UserError, match=r"1\.h5: not a whole HDF5 file"):
        write_layer(folder / "layer_0.h5", shards, 0)
    assert sorted(path.name for path in folder.iterdir()) == ["layer_3.h5", "shards"]


# ---------------------------------------------------------------- formats


@pytest.mark.parametrize("kind", [ACTIVATIONS, LAYER, VECTORS])
def test_other_formats_and_versions_are_refused_by_name(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    with writing(path, kind, "key"):
        pass
    others = {ACTIVATIONS, LAYER, VECTORS} - {kind}
    for other in others:
        with pytest.raises(UserError, match=f"holds {kind}, where {other} is wanted"), reading(path, other):
            pass
    future = VERSIONS[kind][0] + 1
    with h5py.File(path, "a") as file:
        file.attrs["format_version"] = future
    with pytest.raises(UserError, match=f"{kind} version {future} is unknown here .* update affectome"):  # noqa: SIM117
        with reading(path, kind):
            pass


def test_files_of_others_are_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "foreign.h5", "w") as file:
        file["x"] = 1
    (tmp_path / "text.h5").write_text("no HDF5")
    for name, words in (("foreign", "no affectome data"), ("text", "not a whole HDF5 file"), ("none", "no such file")):
        with pytest.raises(UserError, match=words), reading(tmp_path / f"{name}.h5", ACTIVATIONS):
            pass


@pytest.mark.parametrize("version", [1, 2])
def test_archived_activations_are_read(version: int) -> None:
    with reading(FIXTURES / f"activations_v{version}.h5", ACTIVATIONS) as file:
        assert_same(Texts.read(file), texts(0, 3, dropped=1))
        assert file["activations/layer_3"][...].tolist() == [
            [300, 301, 302, 303],
            [310, 311, 312, 313],
            [320, 321, 322, 323],
        ]
        assert file["token_norm/layer_3"][...].tolist() == [3000, 3001, 3002]
        if version == 1:
            assert file["activations/layer_0"][1, 2] == 12
        else:
            assert file["neutral_activations/layer_0"][...].tolist() == [[20, 21, 22, 23]]


def test_archived_moments_are_read() -> None:
    with open_layer(FIXTURES / "layer_moments_v2.h5") as file:
        assert_same(Texts.read(file), texts(0, 3, dropped=1))
        assert file["neutral_activations"][...].tolist() == [[20, 21, 22, 23]]
        found = Moments.read(file["moments"])
    assert (found.names, found.counts.tolist()) == (["naïve", "sad"], [[1, 0], [1, 0]])
    assert found.mean[:, 0].tolist() == [[0, 1, 2, 3], [10, 11, 12, 13]]
    assert not found.m2.any()


@pytest.mark.parametrize("version", [1, 2])
def test_an_archived_layer_is_read(version: int) -> None:
    with open_layer(FIXTURES / f"layer_v{version}.h5") as file:
        assert_same(Texts.read(file), texts(0, 3, dropped=1))
        assert file["activations"][...].tolist() == values(0, 3)[0][1].tolist()
        assert file["token_norm"][...].tolist() == [3000, 3001, 3002]
        assert file.attrs["layer"] == 3


def test_archived_vectors_are_read() -> None:
    vectors = read_vectors(FIXTURES / "vectors_v1.h5")
    assert (vectors.layer, vectors.emotions, vectors.residual_norm) == (3, ("naïve", "sad"), 12.5)
    assert vectors.raw.tolist() == [[1, 2, 2, 0], [0, 0, 3, 4]]
    assert vectors.denoised.tolist() == [[0, 2, 2, 0], [0, 0, 3, 4]]
    assert vectors.unit.tolist() == pytest.approx(np.array([[0, 0.5**0.5, 0.5**0.5, 0], [0, 0, 0.6, 0.8]]), rel=1e-6)
    assert vectors.neutral_basis.tolist() == [[1, 0, 0, 0]]
    assert vectors.counts.tolist() == [7, 9]
    assert vectors.reliability.tolist() == [0.5, 0.75]
    assert vectors.fingerprint == "vectors"


def shape_of(path: Path) -> dict[str, object]:
    """Names, types and attributes of everything in a file."""
    with h5py.File(path) as file:
        found: dict[str, object] = {f"@{name}": np.asarray(value).dtype.kind for name, value in file.attrs.items()}
        file.visititems(lambda name, item: found.update({name: str(getattr(item, "dtype", "group"))}))
        return found | {"version": int(file.attrs["format_version"])}


@pytest.mark.parametrize("name", ["activations_v2", "layer_v2", "layer_moments_v2", "vectors_v1"])
def test_a_format_changes_only_with_its_version(name: str, tmp_path: Path) -> None:
    """Whoever changes what is written raises the version, and archives a file of the new one beside the old."""
    make_fixtures(tmp_path)
    written, archived = shape_of(tmp_path / f"{name}.h5"), shape_of(FIXTURES / f"{name}.h5")
    assert written == archived or written["version"] > archived["version"]


# ---------------------------------------------------------------- large stores

STORE = """
import resource, sys
from pathlib import Path
import numpy as np
from affectome.activations import store
from affectome.activations.resume import PartialRows
from affectome.activations.store import Texts, each_block, open_layer, write_layer, write_shard

folder, layers, texts, width = Path(sys.argv[1]), 4, 10_000, 2048
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
names = np.array([f"id{n}" for n in range(texts)], dtype=object)
flags, ones = np.zeros(texts, dtype=bool), np.ones(texts, dtype=np.int32)
none = np.array([], dtype=object)
about = Texts(names, np.array(["sad"] * texts, dtype=object), names, flags, ones, ones, ones, none, ones[:0])
before = peak()
with PartialRows(folder / "partial", "key", layers, texts, width) as partial:
    partial.set_plan({})
    for first in range(0, texts, 100):
        rows = list(range(first, first + 100))
        values = np.full((layers, 100, width), 1 + first, np.float32)
        partial.write(first, rows, values, np.ones((layers, 100)), 0.1)
    partial.flush()
    facts = {"basis": "b", "model": "m", "dtype": "float32", "device": "cpu", "tokens": 1, "seconds": 1.0, "cut": 0}
    write_shard(folder / "0.h5", "key", about, list(range(layers)), partial.pooled, partial.norms, **facts)
write_layer(folder / "layer_1.h5", [folder / "0.h5"], 1)
with open_layer(folder / "layer_1.h5") as file:
    total = sum(each_block(file["activations"], lambda rows, values: float(values.sum(dtype=np.float64))))
assert total == width * 100 * sum(1 + first for first in range(0, texts, 100)), total
print((folder / "0.h5").stat().st_size, peak() - before)
"""


def test_a_store_is_written_and_read_in_little_memory(tmp_path: Path) -> None:
    """328 MB of activations in a process that grows by a fraction of them: by some blocks of 4,096 rows, 34 MB each."""
    done = subprocess.run(
        [sys.executable, "-c", STORE, str(tmp_path)], capture_output=True, text=True, check=True, cwd=ROOT
    )
    size, grown = map(int, done.stdout.split())
    assert size > 4 * 4 * 10_000 * 2048
    assert grown < 160e6
