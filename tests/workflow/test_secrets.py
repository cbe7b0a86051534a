"""No key reaches a file: not results, logs, Snakemake's own records, the report or what a failed job says."""

import base64
import io
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import h5py
import pandas as pd
import pytest

from tests.project import snakemake
from tests.unit.test_writing import FakeGemini
from tests.workflow.tiny import WRITTEN

pytestmark = pytest.mark.workflow


def forms(key: str) -> set[bytes]:
    """A key as it is, URL-encoded, and as it looks within base64 (standard and URL-safe) wherever it begins there."""
    found = {key.encode(), quote(key, safe="").encode()}
    for before in range(3):
        # The characters that the key shares with what stands around it are left out.
        inside = base64.b64encode(b"\0" * before + key.encode())[-(-before * 8 // 6) : -4]
        found |= {inside, inside.translate(bytes.maketrans(b"+/", b"-_"))}
    return found


def contents(name: str, data: bytes) -> Iterator[tuple[str, bytes]]:
    """`data` and what is packed inside: HDF5 attributes and datasets, columns of tables, members of archives."""
    yield name, data
    if zipfile.is_zipfile(io.BytesIO(data)):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for member in archive.namelist():
                yield from contents(f"{name}:{member}", archive.read(member))
    elif data.startswith(b"PAR1"):
        table = pd.read_parquet(io.BytesIO(data))
        yield f"{name}:table", table.to_csv().encode()
    elif data.startswith(b"\x89HDF"):
        with h5py.File(io.BytesIO(data)) as file:
            items = [file]
            file.visititems(lambda _, item: items.append(item))
            for item in items:
                for attribute, value in item.attrs.items():
                    yield f"{name}:{item.name}@{attribute}", _text(value)
                # Layer files are views of shards, which are looked into themselves.
                if isinstance(item, h5py.Dataset) and not item.is_virtual:
                    yield f"{name}:{item.name}", _text(item[...])


def _text(value: object) -> bytes:
    entries = value.ravel().tolist() if hasattr(value, "ravel") else [value]
    return b"\n".join(each if isinstance(each, bytes) else str(each).encode() for each in entries)


def leaks(folder: Path, keys: dict[str, str]) -> list[str]:
    """Where below `folder` a key stands, as `file: name of the key`."""
    wanted = {name: forms(key) for name, key in keys.items()}
    return [
        f"{where}: {name}"
        for file in sorted(folder.rglob("*"))
        if file.is_file()
        for where, data in contents(str(file.relative_to(folder)), file.read_bytes())
        for name, written in wanted.items()
        if any(form in data for form in written)
    ]


KEY = "AIza/planted+key?of=39&characters~long"


def _hdf5(attribute: str, entry: str) -> bytes:
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        group = file.create_group("texts")
        group.attrs["origin"] = attribute
        group.create_dataset("ids", data=[entry] * 9, dtype=h5py.string_dtype(), chunks=(9,), compression="gzip")
    return buffer.getvalue()


def _zip(data: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("log.txt", data)
    return buffer.getvalue()


def _parquet(text: str) -> bytes:
    return pd.DataFrame({"text": [text] * 9}).to_parquet(compression="gzip")


PLANTED = {
    "plain": f"Authorization: {KEY}".encode(),
    "in a URL": f"https://localhost/?key={quote(KEY, safe='')}&alt=json".encode(),
    "base64": base64.b64encode(f"{KEY}".encode()),
    "base64 after one": base64.b64encode(f"x{KEY} and more".encode()),
    "base64 after two": base64.b64encode(f"xy{KEY}".encode()),
    "URL-safe base64": base64.urlsafe_b64encode(f"xyz?>{KEY}~~".encode()),
    "HDF5 attribute": _hdf5(KEY, "no"),
    "HDF5 dataset": _hdf5("no", KEY),
    "table": _parquet(KEY),
    "archive in archive": _zip(_zip(KEY.encode())),
}


@pytest.mark.parametrize("place", PLANTED)
def test_a_planted_key_is_found(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_bytes(PLANTED[place])
    (tmp_path / "clean").write_bytes(_hdf5("no", "no"))
    found = leaks(tmp_path, {"PLANTED_KEY": KEY})
    assert found
    assert all(where.startswith("file") for where in found)


def test_a_whole_run_writes_no_key_anywhere(built: Path, keys: dict[str, str], gemini: FakeGemini) -> None:
    assert gemini.answered.total() == 8, "the written corpus was not asked for with the key"
    assert (built / "report.zip").exists()
    assert list((built / ".snakemake/metadata").iterdir())
    assert leaks(built, keys) == []


def test_a_job_that_fails_over_its_key_does_not_say_it(
    built: Path, tmp_path: Path, keys: dict[str, str], environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service quotes the key it refuses; what the job, its log and Snakemake make of that does not."""
    project = tmp_path / "project"
    shutil.copytree(built, project, symlinks=True)
    wrong = {"GEMINI_API_KEY": KEY}
    for name, value in (environment | wrong).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("GOOGLE_API_KEY", raising=False)
    target = f"results/corpora/{WRITTEN}/written/stories_0.parquet"
    # With the replies that are kept, there would be nothing to ask for.
    shutil.rmtree(project / f"results/corpora/{WRITTEN}/.replies")
    done = snakemake(project, target, "--forcerun", "write_stories", "--configfile", "overlay.yaml")
    said = done.stdout + done.stderr
    assert done.returncode != 0
    assert "does not accept the key in GEMINI_API_KEY" in said
    assert "[key]" in said
    (project / "said.txt").write_text(said, encoding="utf-8")
    assert leaks(project, keys | wrong) == []
