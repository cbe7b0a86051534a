"""What an interrupted job has already got, kept in a file that survives the process.

One JSON line per entry, flushed as it is added: a killed job loses at most the entry it was writing. Entries count only
while the job's `origin`, the fingerprint of everything that decides them, stays the same.
"""

import json
import logging
from pathlib import Path
from typing import Any

from affectome.files import replacing

log = logging.getLogger(__name__)


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON objects in `path`, one per line; lines that a kill cut short or a disk has damaged are left out."""
    found = []
    for line in path.read_bytes().splitlines():
        try:
            found.append(json.loads(line.decode()))
        except ValueError:
            continue
    return [entry for entry in found if isinstance(entry, dict)]


class Journal:
    """Values by name that earlier, interrupted jobs have added to `path`; a context that closes the file."""

    def __init__(self, path: Path, origin: str) -> None:
        self._path = path
        self.entries = self._read(origin)
        path.parent.mkdir(parents=True, exist_ok=True)
        # Written anew, because a killed job may have left half a line to which the next one would be joined.
        with replacing(path) as temporary:
            lines = [{"origin": origin}, *({"id": name, "value": value} for name, value in self.entries.items())]
            temporary.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 - closed by __exit__

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, name: str, value: Any) -> None:
        """Keep JSON-like `value` under `name`."""
        self._file.write(json.dumps({"id": name, "value": value}) + "\n")
        self._file.flush()
        self.entries[name] = value

    def remove(self) -> None:
        """Forget everything: the declared output now holds it."""
        self._path.unlink()

    def _read(self, origin: str) -> dict[str, Any]:
        if not self._path.exists():
            return {}
        first, *lines = read_json_lines(self._path) or [{}]
        if first.get("origin") != origin:
            log.info("what an interrupted job left was made from other settings; starting afresh")
            return {}
        return {line["id"]: line["value"] for line in lines if line.keys() == {"id", "value"}}
