"""Files that are either whole or absent, in the forms that pass between jobs: JSON, Parquet and lists of words."""

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from affectome.errors import DamagedFileError

if TYPE_CHECKING:
    import pandas as pd


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary name beside `path`, renamed to it when the block ends well and removed otherwise.

    Temporary files of the same path left by killed processes are removed with the renaming. Should such a process be
    alive after all, it then fails to rename what is no longer there, and the file made here stands.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
        for left in path.parent.glob(f".{path.name}.*.tmp"):
            left.unlink(missing_ok=True)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: str | Path, content: Any) -> None:
    """Write `content` as JSON; numbers that are not finite become null, which every reader understands."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(_finite(content), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: str | Path) -> Any:
    """Read what `write_json` wrote; raises DamagedFileError where the file is not whole."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise damaged(path, "JSON", error) from error


def write_table(path: str | Path, rows: "pd.DataFrame") -> None:
    """Write `rows` as Parquet."""
    with replacing(path) as temporary:
        rows.to_parquet(temporary, index=False)


def read_table(path: str | Path, **options: Any) -> "pd.DataFrame":
    """Read what `write_table` wrote, with `options` of `pandas.read_parquet`.

    Raises DamagedFileError where the file is not whole.
    """
    import pandas as pd

    try:
        # A folder would be read as a table in parts.
        with open(path, "rb"):
            return pd.read_parquet(path, **options)
    except (OSError, ValueError) as error:
        raise damaged(path, "Parquet", error) from error


def damaged(path: str | Path, form: str, error: Exception) -> DamagedFileError:
    """What to say of a file that jobs pass on and that is not a whole file of `form`."""
    reason = " ".join(str(error).split())[:200]
    return DamagedFileError(f"{path}: not a whole {form} file ({reason}); delete it and run snakemake again")


def read_lines(path: str | Path) -> list[str]:
    """The lines of a text file without the space around them, empty ones left out."""
    return [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]


def _finite(content: Any) -> Any:
    if isinstance(content, dict):
        return {str(key): _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    if hasattr(content, "tolist"):
        return _finite(content.tolist())
    return None if isinstance(content, float) and not math.isfinite(content) else content
