"""What an interrupted job left is believed line by line, whatever has become of the rest of the file."""

import random
from pathlib import Path

import pytest

from affectome.journal import Journal

ENTRIES = {f"entry {number}": [number / 3, "ä\u2028" * number + "letters"] for number in range(8)}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with Journal(tmp_path / "j.jsonl", "origin") as journal:
        for name, value in ENTRIES.items():
            journal.add(name, value)
    return tmp_path / "j.jsonl"


def reread(path: Path) -> dict:
    with Journal(path, "origin") as journal:
        return journal.entries


def test_entries_are_there_again(path: Path) -> None:
    assert reread(path) == ENTRIES


@pytest.mark.parametrize("damage", ["random", "zeros", "not UTF-8"])
@pytest.mark.parametrize("seed", range(10))
def test_damaged_lines_are_left_out_and_all_others_kept(path: Path, damage: str, seed: int) -> None:
    rng = random.Random(seed)
    lines = path.read_bytes().splitlines(keepends=True)
    number = rng.randrange(1, len(lines))
    start = rng.randrange(len(lines[number]) - 1)
    length = min(16, len(lines[number]) - 1 - start)
    bad = {"random": rng.randbytes(length), "zeros": bytes(length), "not UTF-8": b"\xff" * length}[damage]
    lines[number] = lines[number][:start] + bad + lines[number][start + length :]
    path.write_bytes(b"".join(lines))
    kept = {name: value for index, (name, value) in enumerate(ENTRIES.items(), 1) if index != number}
    assert reread(path) == kept


def test_text_that_is_no_longer_text_is_not_believed(path: Path) -> None:
    """Within a string of JSON, bytes that are not UTF-8 could pass for unknown letters."""
    data = path.read_bytes()
    path.write_bytes(data[:-11] + b"\xff" * 6 + data[-5:])
    assert reread(path) == {name: value for name, value in ENTRIES.items() if name != "entry 7"}


@pytest.mark.parametrize("line", [b"null", b"3", b"[]", b'"id"', b"{}", b'{"id": "half"}', b'{"other": 1}'])
def test_lines_of_another_form_are_left_out(path: Path, line: bytes) -> None:
    path.write_bytes(path.read_bytes() + line + b"\n")
    assert reread(path) == ENTRIES


@pytest.mark.parametrize("first", [b"", b"null\n", b"[]\n", b"\x00\xff\n", b'{"origin": "another"}\n'])
def test_without_its_first_line_nothing_is_believed(path: Path, first: bytes) -> None:
    path.write_bytes(first + path.read_bytes().split(b"\n", 1)[1])
    assert reread(path) == {}


def test_an_empty_file_is_no_progress(path: Path) -> None:
    path.write_bytes(b"")
    assert reread(path) == {}
