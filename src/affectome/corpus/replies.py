"""Every reply that was paid for, kept beside the corpus for as long as the corpus is.

A reply is found again by what it was asked: model, sampling, prompt and seed. A job that was killed, that stopped
because money ran out, or that runs again because the corpus has grown, asks only for what nobody has answered yet.
Each job appends to a file of its own and reads all of them.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from affectome.corpus.writers import Reply, Request
from affectome.identity import fingerprint


class Replies:
    """Replies by key in the `*.jsonl` of `folder`; those of this job go to `{name}.jsonl`, flushed one by one.

    `writer` holds what decides a reply besides prompt and seed. A context that closes the file.
    """

    def __init__(self, folder: Path, name: str, writer: dict[str, Any]) -> None:
        self._folder, self._writer = folder, writer
        self._own = folder / f"{name}.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        self._mend()
        # Where they stand and not what they say: a corpus can have hundreds of thousands.
        self._found = {key: place for file in sorted(folder.glob("*.jsonl")) for key, place in _places(file)}
        self._file = open(self._own, "ab")  # noqa: SIM115 - closed by __exit__

    def __enter__(self) -> "Replies":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def key(self, request: Request) -> str:
        """What identifies the reply to `request`."""
        return fingerprint([self._writer, request.prompt, request.seed, request.texts, request.max_tokens])

    def find(self, request: Request) -> Reply | None:
        """The reply to `request`, if there is one."""
        place = self._found.get(self.key(request))
        if place is None:
            return None
        file, start = place
        with open(file, "rb") as handle:
            handle.seek(start)
            line = json.loads(handle.readline())
        return Reply(request.id, tuple(line["texts"]), line["problem"], True, line["read"], line["written"])

    def add(self, request: Request, reply: Reply) -> None:
        """Keep the answer to `request`; it is on its way to the disk when this returns."""
        line = {
            "key": self.key(request),
            "texts": list(reply.texts),
            "problem": reply.problem,
            "read": reply.read,
            "written": reply.written,
        }
        start = self._file.tell()
        self._file.write(json.dumps(line).encode() + b"\n")
        self._file.flush()
        self._found[line["key"]] = self._own, start

    def _mend(self) -> None:
        """End a line that a kill cut short: the next one would be joined to it."""
        if self._own.exists() and not self._own.read_bytes().endswith(b"\n"):
            with open(self._own, "ab") as file:
                file.write(b"\n")


def _places(path: Path) -> Iterator[tuple[str, tuple[Path, int]]]:
    """The key of every reply in a file, and where it stands; what a kill or a damaged disk has cut is left out."""
    wanted = {"key", "texts", "problem", "read", "written"}
    start = 0
    with open(path, "rb") as file:
        for line in file:
            try:
                entry = json.loads(line)
            except ValueError:
                entry = None
            if isinstance(entry, dict) and wanted <= entry.keys():
                yield entry["key"], (path, start)
            start += len(line)
