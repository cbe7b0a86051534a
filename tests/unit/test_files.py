"""A file appears whole or not at all, whatever happens while it is written; one that is not whole is named."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from affectome.errors import UserError
from affectome.files import read_json, read_table, replacing, write_json, write_table


def test_a_file_appears_when_the_block_ends(tmp_path: Path) -> None:
    with replacing(tmp_path / "a.txt") as temporary:
        temporary.write_text("whole")
        assert not (tmp_path / "a.txt").exists()
    assert (tmp_path / "a.txt").read_text() == "whole"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("old")

    def fail() -> None:
        with replacing(tmp_path / "a.txt") as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert (tmp_path / "a.txt").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_leftovers_of_killed_writers_go_and_other_files_stay(tmp_path: Path) -> None:
    (tmp_path / ".a.txt.99999.tmp").write_text("left by a killed process")
    (tmp_path / ".b.txt.99999.tmp").write_text("of another file")
    with replacing(tmp_path / "a.txt") as temporary:
        temporary.write_text("whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".b.txt.99999.tmp", "a.txt"]


def as_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("name", ["a.json", "a.parquet"])
@pytest.mark.parametrize(
    "harm",
    [
        lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
        lambda path: path.write_bytes(path.read_bytes()[:-3]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(bytes(path.stat().st_size)),
        lambda path: path.write_bytes(b"\xff\xfe\x80" * 50),
        lambda path: path.write_bytes(b"PAR1" + b"\x07" * 90 + b"PAR1"),
        as_directory,
        Path.unlink,
    ],
    ids=["half", "without its end", "empty", "zeros", "not UTF-8", "garbage", "directory", "missing"],
)
def test_a_damaged_file_is_named_in_one_line(name: str, harm: Callable[[Path], object], tmp_path: Path) -> None:
    path = tmp_path / name
    write, read = (write_json, read_json) if name == "a.json" else (write_table, read_table)
    content = pd.DataFrame({"a": [1.5, 2.5], "b": ["x", "y"]})
    write(path, content.to_dict("list") if name == "a.json" else content)
    found = read(path)
    assert found == content.to_dict("list") if name == "a.json" else found.equals(content)
    harm(path)
    with pytest.raises(UserError, match=r"not a whole (JSON|Parquet) file .*delete it") as refusal:
        read(path)
    assert str(refusal.value).startswith(f"{path}: ")
    assert "\n" not in str(refusal.value)
