"""Every reply that was paid for, kept beside the corpus for as long as the corpus is.

A reply is found again by what it was asked: model, sampling, prompt and seed. A job that was killed, that stopped
because money ran out, or that runs again because the corpus has grown, asks only for what nobody has answered yet.
Each job appends to a file of its own and reads all of them.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from affectome.corpus.writers import Reply, Request, request_key


class Replies:
    """Replies by key in the `*.jsonl` of `folder`; those of this job go to `{name}.jsonl`, flushed one by one.

    `writer` holds what decides a reply besides prompt and seed. A context that closes the file.
    """

    def __init__(self, folder: Path, name: str, writer: dict[str, Any]) -> None:
        self._writer = writer
        self._own = folder / f"{name}.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        self._mend()
        # Where they stand and not what they say: a corpus can have hundreds of thousands.
        self._found = {
            reply["key"]: (file, start)
            for file in sorted(folder.glob("*.jsonl"))
            for start, _end, reply in read_replies(file)
        }
        self._file = open(self._own, "ab")  # noqa: SIM115 - closed by __exit__

    def __enter__(self) -> "Replies":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def find(self, request: Request) -> Reply | None:
        """The reply to `request`, if there is one."""
        place = self._found.get(request_key(request, self._writer))
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
            "key": request_key(request, self._writer),
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
        with open(self._own, "a+b") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read() != b"\n":
                    file.write(b"\n")


def read_replies(path: Path, start: int = 0) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """The replies in a file from byte `start` on, each with the bytes at which its line starts and ends.

    What a kill or a damaged disk has cut, and what is being written, is left out.
    """
    wanted = {"key", "texts", "problem", "read", "written"}
    with open(path, "rb") as file:
        file.seek(start)
        for line in file:
            end = start + len(line)
            try:
                reply = json.loads(line) if line.endswith(b"\n") else None
            except ValueError:
                reply = None
            if isinstance(reply, dict) and wanted <= reply.keys():
                yield start, end, reply
            start = end
