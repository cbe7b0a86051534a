"""Reading and writing the files that pass from analyses to figures and the summary."""

import json
import math
from pathlib import Path
from typing import Any

import pandas as pd

from affectome.files import replacing


def write_json(path: str | Path, content: Any) -> None:
    """Write `content` as JSON; numbers that are not finite become null, which every reader understands."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(_finite(content), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: str | Path) -> Any:
    """Read what `write_json` wrote."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def write_table(path: str | Path, rows: pd.DataFrame) -> None:
    """Write `rows` as Parquet, whole or not at all."""
    with replacing(path) as temporary:
        rows.to_parquet(temporary, index=False)


def _finite(content: Any) -> Any:
    if isinstance(content, dict):
        return {str(key): _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    if hasattr(content, "tolist"):
        return _finite(content.tolist())
    return None if isinstance(content, float) and not math.isfinite(content) else content
