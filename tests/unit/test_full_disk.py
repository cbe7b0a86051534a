"""A full disk ends a job with one line, and no file appears that looks whole and is not."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from affectome.hdf5 import VECTORS, reading, writing

# A script as Snakemake runs it, whose one line is `act`.
JOB = """
import sys, types
from pathlib import Path
import numpy as np
import pandas as pd
from affectome.jobs import job

given = types.SimpleNamespace(rule="a_rule", log=sys.argv[2:], output=["out/a.json", "out/b.h5"], resources={})
with job(given):
    exec(sys.argv[1])
"""

# HDF5 in a process that may write no file longer than `limit` until `lifted`.
LIMITED = """
import resource, sys
import numpy as np
from affectome.hdf5 import VECTORS, writing

path, size, lifted = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "lifted"
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
try:
    with writing(path, VECTORS, "key") as file:
        for number in range(10):
            file.create_dataset(f"x{number}", data=np.full(size, 1.0))
            file.create_group(f"group {number}").attrs["note"] = "x" * 400
        if lifted:
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
except OSError as error:
    print(type(error).__name__, error.errno)
"""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", *arguments], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "act",
    [
        "with open('/dev/full', 'w') as file: file.write('x' * 9000)",
        "pd.DataFrame({'a': np.arange(9000.0)}).to_parquet('/dev/full')",
        "with open('/dev/full', 'wb') as file: np.arange(9000.0).tofile(file)",
        "raise RuntimeError('file write failed: file descriptor = 3, errno = 28, error message')",
        "raise OSError(122, 'Disk quota exceeded')",
    ],
)
@pytest.mark.parametrize("log", [[], ["/dev/full"]], ids=["", "nor for its log"])
def test_a_job_says_in_one_line_that_there_is_no_room(act: str, log: list[str]) -> None:
    done = run(JOB, act, *log)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.endswith(
        "ERROR a_rule: no space left on the disk to make out/a.json, out/b.h5; make room and run again"
    )


@pytest.mark.parametrize("act", ["open('/nowhere')", "raise RuntimeError('errno = 5, error message')"])
def test_other_errors_keep_their_traceback(act: str) -> None:
    done = run(JOB, act)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "no space left" not in done.stderr


@pytest.mark.parametrize("size", [10, 400, 4000], ids=["attributes", "small arrays", "large arrays"])
@pytest.mark.parametrize("until", ["end", "lifted"])
def test_hdf5_raises_what_kept_it_from_writing(size: int, until: str, tmp_path: Path) -> None:
    """Also where there is room again by the end, and HDF5 by itself would close a file with holes."""
    done = run(LIMITED, str(tmp_path / "a.h5"), str(size), until)
    if size > 10 or until == "end":
        assert (done.returncode, done.stdout, done.stderr) == (0, "OSError 27\n", "")
        assert list(tmp_path.iterdir()) == []
    else:
        # Nothing was written before there was room.
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_hdf5_files_are_as_written(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(300, 500))
    with writing(tmp_path / "a.h5", VECTORS, "key", note="ä") as file:
        rows = file.create_dataset("rows", shape=values.shape, dtype=np.float32)
        for start in range(0, 300, 70):
            rows[start : start + 70] = values[start : start + 70]
        assert (file["rows"][100:200] == values[100:200].astype(np.float32)).all()
    with reading(tmp_path / "a.h5", VECTORS) as file:
        assert (file["rows"][...] == values.astype(np.float32)).all()
        assert file.attrs["note"] == "ä"
