"""Bundles as ZIP archives whose bytes depend on their contents alone, and which are safe to read.

Members are stored without compression, in the order of their names, with one date and one set of permissions: the same
contents make the same archive with every release of every library. A bundle cannot unpack to more than its own size.
`checksums.sha256` lists every other member in the form that `sha256sum -c` reads.
"""

import hashlib
import re
import shutil
import stat
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from affectome.identity import file_sha256

FORMAT, FORMAT_VERSION = "affectome.bundle", 1
ABOUT, CHECKSUMS, CRATE = "bundle.json", "checksums.sha256", "ro-crate-metadata.json"

_DATE = (1980, 1, 1, 0, 0, 0)
_PERMISSIONS = stat.S_IFREG | 0o644
_BLOCK = 1 << 20
# Of the flags of a member only this one is known here: its name is UTF-8.
_UTF8_NAME = 0x800
_LINE = re.compile(r"([0-9a-f]{64})  (.+)")


def write_archive(path: str | Path, members: Mapping[str, Path | bytes]) -> None:
    """Write `members`, the contents by name or the files that hold them, and their checksums to `path`."""
    sums = {name: sha256(content) for name, content in members.items()}
    lines = "".join(f"{sums[name]}  {name}\n" for name in sorted(sums))
    whole = {**members, CHECKSUMS: lines.encode()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(whole):
            content = whole[name]
            item = zipfile.ZipInfo(name, _DATE)
            item.create_system = 3  # Unix, whose permissions these are
            item.external_attr = _PERMISSIONS << 16
            if isinstance(content, bytes):
                archive.writestr(item, content)
                continue
            item.file_size = content.stat().st_size
            with open(content, "rb") as source, archive.open(item, "w") as target:
                shutil.copyfileobj(source, target, _BLOCK)


def mistakes_of_names(archive: zipfile.ZipFile) -> Iterator[str]:
    """A line for every member of a ZIP archive that is not to be unpacked, or not as a bundle holds it.

    Refused are names that lead out of the folder an archive is unpacked to or that differ by system, links and folders,
    repeated names, and sizes that the archive's own size does not cover.
    """
    seen: set[str] = set()
    room = archive.start_dir
    for item in archive.infolist():
        name, kind = item.orig_filename, stat.S_IFMT(item.external_attr >> 16)
        if not _safe(name):
            yield f"{name}: unsafe name"
        elif name in seen:
            yield f"{name}: stands twice in the archive"
        elif kind not in (0, stat.S_IFREG):
            yield f"{name}: is no plain file but a link, a folder or a device"
        elif item.compress_type != zipfile.ZIP_STORED or item.flag_bits & ~_UTF8_NAME:
            yield f"{name}: is compressed or encrypted, which members of a bundle are not"
        elif item.file_size != item.compress_size or item.compress_size > room:
            yield f"{name}: says that it holds more than the archive does"
        else:
            room -= item.compress_size
        seen.add(name)


def _safe(name: str) -> bool:
    parts = name.split("/")
    return name.isprintable() and not set(name) & set("\\:") and not set(parts) & {"", ".", ".."}


def read_checksums(archive: zipfile.ZipFile) -> dict[str, str]:
    """The SHA-256 sums that an archive lists, by member; raises ValueError where the list is not of this form."""
    sums: dict[str, str] = {}
    for line in archive.read(CHECKSUMS).decode().splitlines():
        match = _LINE.fullmatch(line)
        if match is None or match[2] in sums:
            raise ValueError(f"cannot read the line {line[:100]!r}")
        sums[match[2]] = match[1]
    return sums


def sha256_of_member(archive: zipfile.ZipFile, name: str) -> str:
    """SHA-256 of a member; raises zipfile.BadZipFile where its bytes are not those that were packed."""
    digest = hashlib.sha256()
    with archive.open(name) as handle:
        while block := handle.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def sha256(content: Path | bytes) -> str:
    """SHA-256 of bytes, or of the file that holds them."""
    return hashlib.sha256(content).hexdigest() if isinstance(content, bytes) else file_sha256(content)
